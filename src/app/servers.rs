//! The HTTP servers: ports taken before anything else, served until the daemon ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use anyhow::Context;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::debug::{self, Sources};
use crate::admin::probes::{self, Judge, MetricsText};
use crate::admin::{self, profile};
use crate::config::{BindHost, Config, Listen};
use crate::telemetry::registry::CONTENT_TYPE;

/// A task of the daemon: its name and how it ended.
pub(super) type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// Ports that were taken, not served yet.
#[derive(Debug)]
pub(super) struct Servers {
    health: Option<TcpListener>,
    metrics: Option<TcpListener>,
    profile: Option<TcpListener>,
    admin: Option<UnixListener>,
}

impl Servers {
    /// Take every port.
    ///
    /// # Errors
    /// The first that cannot be had, with the flag that names it.
    pub(super) async fn bind(config: &Config) -> anyhow::Result<Servers> {
        let profile_address = config.pprof.then_some(profile::ADDRESS);
        Ok(Servers {
            health: listen("health-addr and --health-port", config.health.as_ref()).await?,
            metrics: listen("metrics-addr and --metrics-port", config.metrics.as_ref()).await?,
            profile: match profile_address {
                Some(address) => Some(admin::bind("enable-pprof", &[address]).await?),
                None => None,
            },
            admin: config.admin_socket.as_deref().map(admin::bind_socket).transpose()?,
        })
    }

    /// Answer, each in a task of its own, until `stop` turns true.
    pub(super) fn spawn(
        self,
        tasks: &mut Tasks,
        stop: &watch::Receiver<bool>,
        metrics_path: &str,
        judge: Judge,
        metrics: MetricsText,
        sources: Sources,
    ) {
        let until_stop = || {
            let mut stop = stop.clone();
            async move {
                // An error means that the daemon is gone altogether.
                let _ = stop.wait_for(|stop| *stop).await;
            }
        };
        if let Some(listener) = self.health {
            let server = admin::serve(listener, probes::health_routes(judge), until_stop());
            tasks.spawn(async move {
                server.await;
                ("health server", Ok(()))
            });
        }
        if let Some(listener) = self.metrics {
            let routes = probes::metrics_routes(metrics_path, CONTENT_TYPE, metrics);
            let server = admin::serve(listener, routes, until_stop());
            tasks.spawn(async move {
                server.await;
                ("metrics server", Ok(()))
            });
        }
        if let Some(listener) = self.profile {
            let server = admin::serve(listener, profile::routes(), until_stop());
            tasks.spawn(async move {
                server.await;
                ("profile server", Ok(()))
            });
        }
        if let Some(listener) = self.admin {
            let server = admin::serve(listener, debug::routes(sources), until_stop());
            tasks.spawn(async move {
                server.await;
                ("admin socket", Ok(()))
            });
        }
    }
}

async fn listen(flags: &'static str, wanted: Option<&Listen>) -> anyhow::Result<Option<TcpListener>> {
    let Some(wanted) = wanted else { return Ok(None) };
    let addresses = addresses(wanted).with_context(|| format!("--{flags}: cannot resolve {}", wanted.host))?;
    Ok(Some(admin::bind(flags, &addresses).await?))
}

/// Where to listen, most wanted first: one IPv6 socket takes IPv4 as well, unless the kernel has no IPv6.
fn addresses(wanted: &Listen) -> std::io::Result<Vec<SocketAddr>> {
    let port = wanted.port;
    Ok(match &wanted.host {
        BindHost::Any => {
            let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
            any.map(|address| SocketAddr::new(address, port)).to_vec()
        }
        BindHost::Address(address) => vec![SocketAddr::new(*address, port)],
        BindHost::Name(name) => (name.as_str(), port).to_socket_addrs()?.collect(),
    })
}
