//! A scripted API server: each resource answers from a queue that the test fills.
//!
//! A resource nobody wrote a script for is an empty, well-behaved one. A scripted resource whose queue is empty keeps
//! silent until the test says more.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};

/// What one request is answered with.
enum Reply {
    Whole(u16, Value),
    Stream(mpsc::UnboundedReceiver<Piece>),
    /// The connection closes after the head.
    BreakOff,
}

enum Piece {
    Line(Value),
    BreakOff,
}

#[derive(Default)]
struct Shared {
    scripts: Mutex<BTreeMap<String, VecDeque<Reply>>>,
    requests: Mutex<Vec<(String, String, Value)>>,
    more: watch::Sender<u64>,
}

/// The server. Lives on a runtime of its own, so that stopping it cuts every connection.
pub(crate) struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

/// The script of one resource: `services`, `endpointslices`, `nodes`, `pods`, `events`.
pub(crate) struct Script {
    shared: Arc<Shared>,
    resource: &'static str,
}

/// A watch response under way. Dropping it ends the response properly.
pub(crate) struct Feed(mpsc::UnboundedSender<Piece>);

impl Server {
    pub(crate) async fn start() -> Server {
        let mut server =
            Server { shared: Arc::default(), address: SocketAddr::from(([127, 0, 0, 1], 0)), runtime: None };
        server.start_again().await;
        server
    }

    /// Listens, at the same address as before.
    pub(crate) async fn start_again(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (ready, listening) = oneshot::channel();
        let (shared, address) = (Arc::clone(&self.shared), self.address);
        runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.unwrap();
            ready.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, Router::new().fallback(answer).with_state(shared)).await.unwrap();
        });
        self.address = listening.await.unwrap();
        self.runtime = Some(runtime);
    }

    /// Cuts every connection and refuses new ones.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes a resource into the hands of the test.
    pub(crate) fn script(&self, resource: &'static str) -> Script {
        self.shared.scripts.lock().unwrap().entry(resource.to_owned()).or_default();
        Script { shared: Arc::clone(&self.shared), resource }
    }

    /// The queries of all requests for a resource so far.
    pub(crate) fn queries(&self, resource: &str) -> Vec<String> {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|(of, ..)| of == resource).map(|(_, query, _)| query.clone()).collect()
    }

    /// The bodies of all requests for a resource so far.
    pub(crate) fn bodies(&self, resource: &str) -> Vec<Value> {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|(of, ..)| of == resource).map(|(.., body)| body.clone()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Script {
    fn say(&self, reply: Reply) {
        self.shared.scripts.lock().unwrap().get_mut(self.resource).unwrap().push_back(reply);
        self.shared.more.send_modify(|said| *said += 1);
    }

    /// The next request fails with this status.
    pub(crate) fn refuse(&self, code: u16, reason: &str, message: &str) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message});
        self.say(Reply::Whole(code, status));
    }

    /// The next request gets this.
    pub(crate) fn whole(&self, code: u16, value: &Value) {
        self.say(Reply::Whole(code, value.clone()));
    }

    /// The next request gets a page of a list.
    pub(crate) fn page(&self, items: &[Value], version: &str, next: Option<&str>) {
        let metadata = json!({"resourceVersion": version, "continue": next.unwrap_or_default()});
        self.say(Reply::Whole(200, json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})));
    }

    /// The next request gets a stream that the test feeds.
    pub(crate) fn stream(&self) -> Feed {
        let (feed, pieces) = mpsc::unbounded_channel();
        self.say(Reply::Stream(pieces));
        Feed(feed)
    }

    /// The next request's answer breaks off.
    pub(crate) fn break_off(&self) {
        self.say(Reply::BreakOff);
    }
}

impl Feed {
    pub(crate) fn event(&self, kind: &str, object: &Value) -> &Feed {
        self.0.send(Piece::Line(json!({"type": kind, "object": object}))).unwrap();
        self
    }

    pub(crate) fn added(&self, object: &Value) -> &Feed {
        self.event("ADDED", object)
    }

    /// The bookmark that ends a streamed initial list.
    pub(crate) fn listed(&self, version: &str) -> &Feed {
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        let metadata = json!({"resourceVersion": version, "annotations": annotations});
        self.event("BOOKMARK", &json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata}))
    }

    pub(crate) fn bookmark(&self, version: &str) -> &Feed {
        let metadata = json!({"resourceVersion": version});
        self.event("BOOKMARK", &json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata}))
    }

    /// Ends the response in the middle of a chunk.
    pub(crate) fn break_off(self) {
        self.0.send(Piece::BreakOff).unwrap();
    }
}

/// Answers one request from its script.
async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let resource = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    shared.requests.lock().unwrap().push((resource.clone(), query.clone(), body));
    let mut more = shared.more.subscribe();
    loop {
        let next = shared.scripts.lock().unwrap().get_mut(&resource).map(VecDeque::pop_front);
        match next {
            None => return well_behaved(&query),
            Some(Some(reply)) => return respond(reply),
            Some(None) => more.changed().await.unwrap(),
        }
    }
}

fn respond(reply: Reply) -> Response {
    let pieces = match reply {
        Reply::Whole(code, value) => {
            return Response::builder()
                .status(code)
                .header("content-type", "application/json")
                .body(Body::from(value.to_string()))
                .unwrap();
        }
        Reply::BreakOff => {
            let (feed, pieces) = mpsc::unbounded_channel();
            feed.send(Piece::BreakOff).ok();
            pieces
        }
        Reply::Stream(pieces) => pieces,
    };
    let lines = futures::stream::unfold(pieces, |mut pieces| async move {
        let line = match pieces.recv().await? {
            Piece::Line(line) => Ok(format!("{line}\n")),
            Piece::BreakOff => Err(std::io::Error::other("broken off by the script")),
        };
        Some((line, pieces))
    });
    Response::builder().header("content-type", "application/json").body(Body::from_stream(lines)).unwrap()
}

/// An empty resource that never changes.
fn well_behaved(query: &str) -> Response {
    if !query.contains("watch=true") {
        let empty = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []});
        return Response::builder().body(Body::from(empty.to_string())).unwrap();
    }
    let end = json!({"type": "BOOKMARK", "object": {"kind": "X", "apiVersion": "v1", "metadata": {
        "resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}});
    let first = query.contains("sendInitialEvents=true").then(|| Ok::<_, std::io::Error>(format!("{end}\n")));
    let lines = futures::stream::iter(first).chain(futures::stream::pending());
    Response::builder().body(Body::from_stream(lines)).unwrap()
}

/// A Service with one cluster address.
pub(crate) fn service(name: &str, address: &str, version: &str) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"namespace": "ns", "name": name, "resourceVersion": version},
        "spec": {"clusterIP": address, "ports": [{"port": 80}]}
    })
}

/// An endpoint slice of `default/kubernetes`.
pub(crate) fn api_servers(addresses: &[&str], version: &str) -> Value {
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"namespace": "default", "name": "kubernetes", "resourceVersion": version,
                     "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4", "ports": [{"name": "https", "port": 6443}],
        "endpoints": addresses.iter().map(|address| json!({"addresses": [address]})).collect::<Vec<_>>()
    })
}
