//! An API server with one cluster that never changes: lists in pages, or as a stream where the client asks for one and
//! the server is new enough.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use super::objects::{N_PODS, as_served, node, pod, service, slice};
use super::scenarios::N_SERVICES;

/// Which lists the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lists {
    /// Streams (`sendInitialEvents`), as servers have them from Kubernetes 1.34 on.
    Streamed,
    /// Pages only.
    Paged,
}

/// The server; gone when dropped.
#[derive(Debug)]
pub(crate) struct ApiServer {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

impl ApiServer {
    /// Starts one on the loopback of the calling thread's namespace.
    ///
    /// # Errors
    /// Where there is no port or thread to be had.
    pub(crate) fn start(lists: Lists) -> Result<ApiServer> {
        let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).context("bind a port")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().context("start a thread")?;
        let routes = Router::new().fallback(answer).with_state(Arc::new(lists));
        runtime.spawn(async move { axum::serve(TcpListener::from_std(listener)?, routes).await });
        Ok(ApiServer { address, _runtime: runtime })
    }
}

/// How many objects a resource has.
fn count(resource: &str) -> usize {
    match resource {
        "pods" => N_PODS,
        "services" | "endpointslices" => N_SERVICES,
        "nodes" => 1,
        _ => 0,
    }
}

/// Object `index` of a resource.
fn object(resource: &str, index: usize) -> Value {
    let object = match resource {
        "pods" => pod(index),
        "services" => service(index),
        "endpointslices" => slice(index),
        _ => node(),
    };
    as_served(object, index)
}

/// A number in a query.
fn number(query: &str, name: &str) -> Option<usize> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).and_then(|text| text.parse().ok())
}

async fn answer(State(lists): State<Arc<Lists>>, request: Request) -> Response {
    let resource = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    if !query.contains("watch=true") {
        return page(&resource, &query);
    }
    if !query.contains("sendInitialEvents=true") {
        return lines(futures::stream::empty::<String>());
    }
    if *lists == Lists::Paged {
        let message = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid",
            "message": message,
        });
        return Response::builder().status(422).body(Body::from(status.to_string())).unwrap_or_default();
    }
    let end = json!({"type": "BOOKMARK", "object": {"kind": "X", "apiVersion": "v1", "metadata": {
        "resourceVersion": "99999", "annotations": {"k8s.io/initial-events-end": "true"}}}});
    let n_objects = count(&resource);
    let events =
        (0..n_objects).map(move |index| json!({"type": "ADDED", "object": object(&resource, index)}).to_string());
    lines(futures::stream::iter(events.chain(std::iter::once(end.to_string()))))
}

/// These lines, then silence.
fn lines(lines: impl futures::Stream<Item = String> + Send + 'static) -> Response {
    let lines = lines.map(|line| Ok::<_, std::io::Error>(line + "\n"));
    Response::new(Body::from_stream(lines.chain(futures::stream::pending())))
}

/// One page of a list.
fn page(resource: &str, query: &str) -> Response {
    let n_objects = count(resource);
    let first = number(query, "continue").unwrap_or(0);
    let end = number(query, "limit").map_or(n_objects, |limit| n_objects.min(first + limit));
    let items: Vec<Value> = (first..end).map(|index| object(resource, index)).collect();
    let next = if end < n_objects { end.to_string() } else { String::new() };
    let metadata = json!({"resourceVersion": "99999", "continue": next});
    let list = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items});
    Response::new(Body::from(list.to_string()))
}
