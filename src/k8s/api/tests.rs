//! Finding the API server, with plain sockets on loopback as servers.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::model::{Conditions, Endpoint, EndpointPort, EndpointSlice, NodeName, SliceKey};

fn plain(address: SocketAddr) -> Config {
    Config::new(format!("http://{address}").parse().unwrap())
}

/// A server that answers every request the same, and hands out the heads of the requests.
async fn answering(answer: &'static str) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            heads.send(String::from_utf8_lossy(&head[..length]).into_owned()).ok();
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    (address, seen)
}

#[tokio::test]
async fn a_silent_server_is_passed_by_and_a_forbidding_one_is_there() {
    // Takes connections in its backlog, never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forbidding = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    let (address, mut seen) = answering(forbidding).await;
    let ways = [plain(silent.local_addr().unwrap()), plain(address)];
    first_that_answers(&ways, Duration::from_secs(2)).await.unwrap();
    let head = seen.recv().await.unwrap();
    assert!(head.contains(concat!("user-agent: ferrovia/", env!("CARGO_PKG_VERSION"))), "{head}");
}

#[tokio::test]
async fn when_nobody_answers_the_error_says_what_was_tried_and_what_to_do() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [silent.local_addr().unwrap(), closed.local_addr().unwrap()];
    drop(closed);
    let ways = addresses.map(plain);
    let Err(error) = first_that_answers(&ways, Duration::from_secs(2)).await else { panic!("nobody answered") };
    let text = error.to_string();
    assert!(text.contains(&format!("http://{}/ (no answer within 2s)", addresses[0])), "{text}");
    assert!(text.contains(&format!("http://{}/ (", addresses[1])) && text.contains("refused"), "{text}");
    assert!(text.contains("--master=https://ADDRESS:6443"), "{text}");
}

#[test]
fn remembered_servers_are_checked_against_the_cluster_address() {
    for (cluster, name) in [("https://10.96.0.1", "10.96.0.1"), ("https://[fd00::1]:443", "fd00::1")] {
        let remembered = ["192.0.2.1:6443".parse().unwrap(), "[2001:db8::1]:6443".parse().unwrap()];
        let ways = with_remembered(Config::new(cluster.parse().unwrap()), &remembered);
        let urls: Vec<String> = ways.iter().map(|way| way.cluster_url.to_string()).collect();
        assert_eq!(urls[1..], ["https://192.0.2.1:6443/", "https://[2001:db8::1]:6443/"]);
        assert_eq!(ways[0].tls_server_name, None);
        assert!(ways[1..].iter().all(|way| way.tls_server_name.as_deref() == Some(name)));
        for way in &ways {
            // Building the TLS side refuses names it cannot check.
            tokio::runtime::Runtime::new().unwrap().block_on(async { client(way).unwrap() });
        }
    }
}

#[test]
fn a_master_that_is_no_url_is_refused_with_its_value() {
    for value in ["10.0.0.1:6443", "ftp://10.0.0.1", "https://", "not a url"] {
        let error = parse_master(value).unwrap_err().to_string();
        assert!(error.contains(value) && error.contains("https://192.0.2.1:6443"), "{error}");
    }
    assert!(parse_master("https://[2001:db8::1]:6443").is_ok());
}

#[tokio::test]
async fn a_kubeconfig_gives_server_and_credentials_and_master_overrides_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n\
                clusters: [{name: k, cluster: {server: 'http://192.0.2.1:8080'}}]\nusers: [{name: u, user: {token: secret}}]\n";
    std::fs::write(&path, text).unwrap();
    let config = ApiConfig { kubeconfig: Some(path.clone()), ..ApiConfig::default() };
    let found = ways(&config).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].cluster_url.to_string(), "http://192.0.2.1:8080/");
    assert!(found[0].auth_info.token.is_some());
    let config = ApiConfig { master: Some("http://192.0.2.9:1".to_owned()), ..config };
    let found = ways(&config).await.unwrap();
    assert_eq!(found[0].cluster_url.to_string(), "http://192.0.2.9:1/");
    assert!(found[0].auth_info.token.is_some());
    std::fs::write(&path, "nonsense: [").unwrap();
    let error = ways(&config).await.unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
}

#[test]
fn only_ready_addresses_of_the_api_server_are_remembered() {
    let mut snapshot = Snapshot::empty(NodeName::new("n1"));
    let endpoint = |address: &str, ready: bool| Endpoint {
        address: address.parse().unwrap(),
        conditions: Conditions { ready, serving: ready, terminating: false },
        node: None,
        zone: None,
        pod: None,
        zone_hints: Box::default(),
        node_hints: Box::default(),
    };
    let slice = |addresses: &[(&str, bool)]| EndpointSlice {
        ports: [EndpointPort { name: "https".into(), protocol: Protocol::Tcp, port: 6443 }].into(),
        endpoints: addresses.iter().map(|(address, ready)| endpoint(address, *ready)).collect(),
    };
    let key = |service: &str, name: &str| SliceKey { service: ServiceKey::new("default", service), name: name.into() };
    snapshot
        .slices
        .insert(key("kubernetes", "kubernetes"), Arc::new(slice(&[("10.0.0.2", true), ("10.0.0.3", false)])));
    snapshot.slices.insert(key("kubernetes", "v6"), Arc::new(slice(&[("fd00::1", true)])));
    snapshot.slices.insert(key("kubernetes-other", "x"), Arc::new(slice(&[("10.0.0.9", true)])));
    let found: Vec<String> = server_addresses(&snapshot).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["10.0.0.2:6443", "[fd00::1]:6443"]);
}
