//! The way to the API server.
//!
//! Inside a cluster the API server is found by the cluster address of the Service `default/kubernetes`. But it is
//! this daemon that makes cluster addresses work: after a reboot nobody has programmed that one yet. So the addresses
//! behind it are remembered in a file, and tried when the cluster address does not answer. The certificate is still
//! checked against the cluster address, which it names.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, ServiceBuilder, service_fn};
use tracing::{debug, info, warn};

use super::delay::Delay;
use super::errors;
use super::snapshotter::Published;
use super::state_file;
use super::throttle::Throttle;
use crate::model::{ServiceKey, Snapshot};
use crate::net::Protocol;

/// How we present ourselves.
const AGENT: &str = concat!("ferrovia/", env!("CARGO_PKG_VERSION"));
/// How long one way to the API server may take to answer before the next one is tried.
const PROBE: Duration = Duration::from_secs(3);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a server may take from a request to the head of its answer.
const ANSWER: Duration = Duration::from_secs(60);
/// When a silent connection is probed (TCP keep-alive), how often, how many times: a server whose machine died is
/// noticed within half a minute, where it would otherwise take until the watch's own time limit.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);

/// Requests that may go at once (the pages of a large cluster's lists), and the pause between later ones.
const REQUESTS: (u32, Duration) = (300, Duration::from_millis(20));

/// How to find the API server.
#[derive(Clone, Debug, Default)]
pub struct ApiConfig {
    /// `--kubeconfig`: a file with server and credentials. Without it, those of the service account inside a cluster.
    pub kubeconfig: Option<PathBuf>,
    /// `--master`: the server's URL, overriding that of the file or of the cluster.
    pub master: Option<String>,
    /// Where the addresses behind `default/kubernetes` are remembered. `None`: nowhere.
    pub endpoints_file: Option<PathBuf>,
}

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig cannot be used.
    #[error("--kubeconfig {}: {message}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The URL cannot be used.
    #[error("--master {value:?}: {message}; write it like https://192.0.2.1:6443")]
    Master {
        /// What was given.
        value: String,
        /// What is wrong with it.
        message: String,
    },
    /// Inside a cluster, but the service account cannot be read.
    #[error("cannot read the service account: {message}; is automountServiceAccountToken off for this pod?")]
    ServiceAccount {
        /// What is wrong.
        message: String,
    },
    /// Nothing says where the API server is.
    #[error(
        "no API server is known: this is not a pod (KUBERNETES_SERVICE_HOST is not set); \
         give --kubeconfig, --master, or --manifests"
    )]
    Unknown,
    /// A client cannot be made of the configuration.
    #[error("the configuration for {server} cannot be used: {message}")]
    Client {
        /// The server.
        server: String,
        /// What is wrong.
        message: String,
    },
    /// No way leads to an API server that answers.
    #[error("{}", unreachable(.tried))]
    Unreachable {
        /// Each URL that was tried, with what came of it.
        tried: Vec<(String, String)>,
    },
}

fn unreachable(tried: &[(String, String)]) -> String {
    let tried: Vec<String> = tried.iter().map(|(url, error)| format!("{url} ({error})")).collect();
    format!(
        "no API server answers; tried {}; if the cluster address is not programmed on this node yet, \
         give the address of a control plane node: --master=https://ADDRESS:6443",
        tried.join(", ")
    )
}

/// The way to the API server in use, and how to find another.
#[derive(Debug)]
pub(super) struct ApiServer {
    config: ApiConfig,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    client: ClientHolder,
    url: String,
    /// Counts connections: who asks for another one says which one failed.
    epoch: u64,
}

/// A client; it has no readable form of its own.
struct ClientHolder(Client);

impl std::fmt::Debug for ClientHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl ApiServer {
    /// Finds a server that answers, trying again until `patience` is over. Where only one server is known it is taken
    /// as it is: its troubles show in the watches.
    pub(super) async fn connect(config: ApiConfig, patience: Duration) -> Result<ApiServer, ApiError> {
        let give_up = Instant::now() + patience;
        let mut delay = Delay::new(Duration::from_millis(500), Duration::from_secs(5));
        loop {
            let error = match find(&config).await {
                Ok((client, url)) => {
                    info!(server = url, "api server");
                    let current = Current { client: ClientHolder(client), url, epoch: 0 };
                    return Ok(ApiServer { config, current: Mutex::new(current) });
                }
                Err(error @ ApiError::Unreachable { .. }) => error,
                Err(error) => return Err(error),
            };
            let wait = delay.failed();
            if Instant::now() + wait >= give_up {
                return Err(error);
            }
            if delay.failures() == 1 {
                warn!(reason = %error, "api server does not answer, trying on");
            }
            sleep(wait).await;
        }
    }

    /// The client in use.
    pub(super) async fn client(&self) -> (Client, u64) {
        let current = self.current.lock().await;
        (current.client.0.clone(), current.epoch)
    }

    /// A client by another way, where one answers that the one in use is not; with `credentials`, also a new one by
    /// the same way, credentials read again. Otherwise, or where somebody else asked first, the one in use.
    pub(super) async fn renewed(&self, failed: u64, credentials: bool) -> (Client, u64) {
        let mut current = self.current.lock().await;
        if current.epoch == failed {
            match find(&self.config).await {
                Ok((client, url)) if credentials || url != current.url => {
                    if url != current.url {
                        info!(server = url, before = current.url, "api server");
                    }
                    *current = Current { client: ClientHolder(client), url, epoch: failed + 1 };
                }
                Ok(_) => {}
                Err(error) => debug!(reason = %error, "no other way to the api server"),
            }
        }
        (current.client.0.clone(), current.epoch)
    }
}

/// The first way that answers.
async fn find(config: &ApiConfig) -> Result<(Client, String), ApiError> {
    let ways = ways(config).await?;
    if let [way] = ways.as_slice() {
        return Ok((client(way)?, way.cluster_url.to_string()));
    }
    first_that_answers(&ways, PROBE).await
}

/// Tries each in turn.
async fn first_that_answers(ways: &[Config], patience: Duration) -> Result<(Client, String), ApiError> {
    let mut tried = Vec::new();
    for way in ways {
        let url = way.cluster_url.to_string();
        let client = client(way)?;
        let error = match timeout(patience, client.apiserver_version()).await {
            // Whatever it says, it is there.
            Ok(Ok(_) | Err(kube::Error::Api(_))) => return Ok((client, url)),
            Ok(Err(error)) => errors::chain(&error),
            Err(_) => format!("no answer within {patience:?}"),
        };
        tried.push((url, error));
    }
    Err(ApiError::Unreachable { tried })
}

/// Every way to the API server, best first.
async fn ways(config: &ApiConfig) -> Result<Vec<Config>, ApiError> {
    let master = config.master.as_deref().filter(|master| !master.is_empty()).map(parse_master).transpose()?;
    let mut way = if let Some(path) = &config.kubeconfig {
        from_file(path).await?
    } else if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Config::incluster_env().map_err(|error| ApiError::ServiceAccount { message: errors::chain(&error) })?
    } else if let Some(master) = &master {
        Config::new(master.clone())
    } else {
        return Err(ApiError::Unknown);
    };
    if let Some(master) = master {
        way.cluster_url = master;
        return Ok(vec![way]);
    }
    if config.kubeconfig.is_some() {
        return Ok(vec![way]);
    }
    let remembered = config.endpoints_file.as_deref().map(state_file::read).unwrap_or_default();
    Ok(with_remembered(way, &remembered))
}

/// A cluster address, and behind it the addresses remembered for it under the same name.
fn with_remembered(way: Config, remembered: &[SocketAddr]) -> Vec<Config> {
    let name = way.cluster_url.host().map(|host| host.trim_matches(['[', ']']).to_owned());
    let mut ways = vec![way.clone()];
    for address in remembered {
        if let Ok(url) = format!("https://{address}").parse() {
            let mut way = way.clone();
            way.cluster_url = url;
            way.tls_server_name = way.tls_server_name.or_else(|| name.clone());
            ways.push(way);
        }
    }
    ways
}

fn parse_master(value: &str) -> Result<http::Uri, ApiError> {
    let refused = |message: &str| ApiError::Master { value: value.to_owned(), message: message.to_owned() };
    let url: http::Uri = value.parse().map_err(|_| refused("not a URL"))?;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(_)) => Ok(url),
        _ => Err(refused("scheme http or https and a host are needed")),
    }
}

async fn from_file(path: &Path) -> Result<Config, ApiError> {
    let refused = |error: kube::config::KubeconfigError| ApiError::Kubeconfig {
        path: path.to_owned(),
        message: errors::chain(&error),
    };
    let file = Kubeconfig::read_from(path).map_err(refused)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(refused)
}

/// A client with our name, our time limits and our keep-alive. Credentials are refreshed as `kube` does it: a token
/// file every minute, an exec plugin when its token ends.
fn client(config: &Config) -> Result<Client, ApiError> {
    let refused = |error: kube::Error| ApiError::Client {
        server: config.cluster_url.to_string(),
        message: errors::chain(&error),
    };
    let mut config = config.clone();
    config.headers.push((USER_AGENT, HeaderValue::from_static(AGENT)));
    if config.proxy_url.is_some() {
        return Client::try_from(config.clone()).map_err(refused);
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(KEEPALIVE.0));
    connector.set_keepalive_interval(Some(KEEPALIVE.1));
    connector.set_keepalive_retries(Some(KEEPALIVE.2));
    let connector = config.rustls_https_connector_with_connector(connector).map_err(refused)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let throttle = Arc::new(Throttle::new(REQUESTS.0, REQUESTS.1));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(refused)?)
        .layer(config.extra_headers_layer().map_err(refused)?)
        .map_err(BoxError::from)
        .service(service_fn(move |request: http::Request<Body>| {
            let (http, throttle) = (http.clone(), Arc::clone(&throttle));
            async move {
                throttle.turn().await;
                match timeout(ANSWER, http.request(request)).await {
                    Ok(answer) => answer.map_err(BoxError::from),
                    Err(_) => Err(BoxError::from(format!("no answer within {ANSWER:?}"))),
                }
            }
        }));
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// Keeps the state file up to date with the addresses behind `default/kubernetes`, until the snapshots end.
pub(super) async fn remember(path: PathBuf, mut snapshots: watch::Receiver<Published>) {
    let mut written = state_file::read(&path);
    let mut failed = None;
    while snapshots.changed().await.is_ok() {
        let addresses = server_addresses(&snapshots.borrow_and_update().snapshot);
        // An empty list would only take the last way back from us.
        if addresses.is_empty() || addresses == written {
            continue;
        }
        let (file, list) = (path.clone(), addresses.clone());
        match tokio::task::spawn_blocking(move || state_file::write(&file, &list)).await {
            Ok(Ok(())) => {
                written = addresses;
                failed = None;
            }
            Ok(Err(error)) => {
                let reason = error.to_string();
                if failed.as_ref() != Some(&reason) {
                    warn!(reason, "api server addresses cannot be remembered for the next start");
                }
                failed = Some(reason);
            }
            Err(_) => return,
        }
    }
}

/// The ready addresses behind `default/kubernetes`, sorted.
fn server_addresses(snapshot: &Snapshot) -> Vec<SocketAddr> {
    let service = ServiceKey::new("default", "kubernetes");
    let mut addresses: Vec<SocketAddr> = snapshot
        .slices_of(&service)
        .flat_map(|(_, slice)| {
            let port = slice.ports.iter().find(|port| port.protocol == Protocol::Tcp).map(|port| port.port);
            let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready);
            ready.filter_map(move |endpoint| Some(SocketAddr::new(endpoint.address, port?))).collect::<Vec<_>>()
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests;
