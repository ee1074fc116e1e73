//! A container runtime for tests: a real gRPC server on a unix socket that knows the containers it is told of.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use futures::stream;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::cri::{
    ContainerState, ContainerStatus, ContainerStatusRequest, ContainerStatusResponse, VersionRequest, VersionResponse,
};

/// What the runtime says about one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FakeContainer {
    /// It runs as this process.
    Running(u32),
    /// It has ended.
    Exited,
    /// It runs, and the verbose answer is this text, or missing.
    Info(Option<String>),
    /// Asking for it is refused with this message.
    Refused(String),
    /// Asking for it is never answered.
    Silent,
}

/// A running server. Dropping it closes the socket and removes its file.
#[derive(Debug)]
pub struct FakeRuntime {
    containers: Containers,
    calls: Arc<Mutex<Vec<String>>>,
    socket: std::path::PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

type Containers = Arc<Mutex<BTreeMap<String, FakeContainer>>>;

impl FakeRuntime {
    /// Serves on `socket` from a thread of its own. The socket is open when this returns.
    pub fn start(socket: &Path) -> io::Result<FakeRuntime> {
        let containers = Containers::default();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let listener = std::os::unix::net::UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        let (known, log) = (containers.clone(), calls.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener)?;
                tokio::select! {
                    served = serve(listener, known, log) => served,
                    _ = stopped => Ok(()),
                }
            })
        });
        Ok(FakeRuntime { containers, calls, socket: socket.to_owned(), stop: Some(stop), thread: Some(thread) })
    }

    /// From now on the runtime knows this container, by its id without a scheme.
    pub fn set(&self, id: &str, container: FakeContainer) {
        lock(&self.containers).insert(id.to_owned(), container);
    }

    /// From now on it does not know it.
    pub fn remove(&self, id: &str) {
        lock(&self.containers).remove(id);
    }

    /// The ids asked for so far, in order.
    pub fn calls(&self) -> Vec<String> {
        lock(&self.calls).clone()
    }
}

impl Drop for FakeRuntime {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What went wrong in the server has failed the test by now.
            let _ended = thread.join();
        }
        let _removed = std::fs::remove_file(&self.socket);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: UnixListener, containers: Containers, calls: Arc<Mutex<Vec<String>>>) -> io::Result<()> {
    let connections = stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let service = service_fn(move |request: http::Request<Body>| {
        let (containers, calls) = (containers.clone(), calls.clone());
        async move { Ok::<_, Infallible>(route(request, containers, calls).await) }
    });
    Server::builder().serve_with_incoming(service, connections).await.map_err(io::Error::other)
}

async fn route(
    request: http::Request<Body>,
    containers: Containers,
    calls: Arc<Mutex<Vec<String>>>,
) -> http::Response<Body> {
    match request.uri().path() {
        "/runtime.v1.RuntimeService/Version" => {
            let mut grpc = Grpc::new(ProstCodec::<VersionResponse, VersionRequest>::default());
            grpc.unary(service_fn(|_: Request<VersionRequest>| async { version() }), request).await
        }
        "/runtime.v1.RuntimeService/ContainerStatus" => {
            let mut grpc = Grpc::new(ProstCodec::<ContainerStatusResponse, ContainerStatusRequest>::default());
            let answer = service_fn(|request: Request<ContainerStatusRequest>| {
                describe(request.into_inner(), containers.clone(), calls.clone())
            });
            grpc.unary(answer, request).await
        }
        other => Status::unimplemented(format!("unknown method {other}")).into_http(),
    }
}

fn version() -> Result<Response<VersionResponse>, Status> {
    Ok(Response::new(VersionResponse { runtime_name: "fake".to_owned(), runtime_version: "1.0".to_owned() }))
}

fn describe(
    request: ContainerStatusRequest,
    containers: Containers,
    calls: Arc<Mutex<Vec<String>>>,
) -> impl Future<Output = Result<Response<ContainerStatusResponse>, Status>> {
    let id = request.container_id;
    lock(&calls).push(id.clone());
    let known = lock(&containers).get(&id).cloned();
    async move {
        let (state, info) = match known {
            None => return Err(Status::not_found(format!("an error occurred when try to find container {id:?}"))),
            Some(FakeContainer::Refused(reason)) => return Err(Status::internal(reason)),
            Some(FakeContainer::Silent) => std::future::pending().await,
            Some(FakeContainer::Exited) => (ContainerState::Exited, None),
            Some(FakeContainer::Info(text)) => (ContainerState::Running, text),
            Some(FakeContainer::Running(pid)) => {
                (ContainerState::Running, Some(format!(r#"{{"sandboxID":"s","pid":{pid},"config":{{"a":[1]}}}}"#)))
            }
        };
        // Only a verbose answer says more than the state.
        let info = info.filter(|_| request.verbose).map(|text| HashMap::from([("info".to_owned(), text)]));
        Ok(Response::new(ContainerStatusResponse {
            status: Some(ContainerStatus { id, state: state.into() }),
            info: info.unwrap_or_default(),
        }))
    }
}
