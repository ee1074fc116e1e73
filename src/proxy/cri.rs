//! The container runtime: which process a container is (a door, async).
//!
//! The runtime speaks gRPC over a unix socket (CRI v1, `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`); of that only
//! the few fields needed here are written out below. Kubernetes knows containers as `scheme://id`; the runtime answers
//! for an id with a process number, in the JSON of its verbose answer, and `/proc/PID/ns/net` is then the pod's network
//! namespace. Works with containerd, CRI-O, and Docker behind cri-dockerd; needs the host's process numbers (hostPID).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use serde::Deserialize;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// How long one call may take, connecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer that is read: verbose ones carry the whole container configuration.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Why the runtime could not say which process a container is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path of the socket cannot be used.
    #[error("container runtime endpoint {} is not valid UTF-8; set --runtime-endpoint to another path", socket.display())]
    BadPath {
        /// The socket.
        socket: PathBuf,
    },
    /// Nobody answers at the socket.
    #[error(
        "container runtime at {} does not answer: {reason}; mount the socket into this container, and set \
         --runtime-endpoint to its place, for example unix:///run/containerd/containerd.sock", socket.display()
    )]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the connection said.
        reason: String,
    },
    /// The runtime does not speak CRI v1.
    #[error(
        "container runtime at {} does not speak CRI v1: {reason}; containerd needs its cri plugin enabled, Docker \
         needs cri-dockerd", socket.display()
    )]
    NoCri {
        /// The socket.
        socket: PathBuf,
        /// What it said.
        reason: String,
    },
    /// The runtime has no such container.
    #[error("container {container} is unknown to the runtime at {}: it has ended, or another runtime has it", socket.display())]
    Unknown {
        /// The socket.
        socket: PathBuf,
        /// The container, as Kubernetes writes it.
        container: String,
    },
    /// The container exists, without a process.
    #[error("container {container} does not run ({state})")]
    NotRunning {
        /// The container, as Kubernetes writes it.
        container: String,
        /// The state the runtime gave.
        state: &'static str,
    },
    /// The answer lacks the process number.
    #[error("runtime at {} does not say which process container {container} is: {reason}", socket.display())]
    NoProcess {
        /// The socket.
        socket: PathBuf,
        /// The container, as Kubernetes writes it.
        container: String,
        /// What was wrong with the answer.
        reason: String,
    },
    /// The runtime refused, for a reason of its own.
    #[error("runtime at {} refused to describe container {container}: {reason}", socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// The container, as Kubernetes writes it.
        container: String,
        /// What it said.
        reason: String,
    },
}

impl Error {
    /// True when the container is not there any more, or not yet.
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::Unknown { .. } | Error::NotRunning { .. })
    }
}

/// What a runtime calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// `containerd`, `cri-o` …
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A client of one runtime. Connects when first used, and again when the connection broke. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    channel: Channel,
}

impl Client {
    /// A client of the runtime at `socket`. Must be called inside a tokio runtime; nothing is sent yet.
    ///
    /// # Errors
    /// Where the path is not UTF-8.
    pub fn new(socket: &Path) -> Result<Client, Error> {
        let bad_path = || Error::BadPath { socket: socket.to_owned() };
        let path = socket.to_str().ok_or_else(bad_path)?;
        let endpoint = Endpoint::from_shared(format!("unix://{path}")).map_err(|_| bad_path())?;
        let channel = endpoint.connect_timeout(CALL_TIMEOUT).timeout(CALL_TIMEOUT).connect_lazy();
        Ok(Client { socket: socket.to_owned(), channel })
    }

    /// What the runtime is, for the log.
    ///
    /// # Errors
    /// Where the runtime does not answer, or does not speak CRI v1.
    pub async fn version(&self) -> Result<RuntimeVersion, Error> {
        let request = VersionRequest { version: "v1".to_owned() };
        let answer: VersionResponse = self
            .call("/runtime.v1.RuntimeService/Version", request)
            .await
            .map_err(|status| self.failure(&status, "any"))?;
        Ok(RuntimeVersion { name: answer.runtime_name, version: answer.runtime_version })
    }

    /// The process number of a container, in the host's numbering. `container` is `scheme://id`.
    ///
    /// # Errors
    /// Where the runtime does not answer, does not know the container, or it has no process.
    pub async fn process_of(&self, container: &str) -> Result<u32, Error> {
        let id = container.split_once("://").map_or(container, |(_, id)| id);
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let answer: ContainerStatusResponse = self
            .call("/runtime.v1.RuntimeService/ContainerStatus", request)
            .await
            .map_err(|status| self.failure(&status, container))?;
        self.read_process(&answer, container)
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let exchange = async {
            grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
            let path = PathAndQuery::from_static(method);
            grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await
        };
        match tokio::time::timeout(CALL_TIMEOUT, exchange).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))),
        }
    }

    fn read_process(&self, answer: &ContainerStatusResponse, container: &str) -> Result<u32, Error> {
        let state = answer.status.as_ref().map_or(ContainerState::Unknown, ContainerStatus::state);
        if state != ContainerState::Running {
            return Err(Error::NotRunning { container: container.to_owned(), state: state.word() });
        }
        let no_process =
            |reason: String| Error::NoProcess { socket: self.socket.clone(), container: container.to_owned(), reason };
        let text = answer.info.get("info").ok_or_else(|| {
            no_process("its verbose answer has no \"info\"; a cri-dockerd that old needs an update".to_owned())
        })?;
        process_in(text).map_err(no_process)
    }

    fn failure(&self, status: &Status, container: &str) -> Error {
        let socket = self.socket.clone();
        let reason = chain(status);
        match status.code() {
            Code::NotFound => Error::Unknown { socket, container: container.to_owned() },
            Code::Unimplemented => Error::NoCri { socket, reason },
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Error::Unreachable { socket, reason },
            _ => Error::Refused { socket, container: container.to_owned(), reason },
        }
    }
}

/// The process number in the JSON under `info` of a verbose answer (containerd, CRI-O and cri-dockerd write it).
///
/// # Errors
///
/// Why there is none, for people.
pub fn process_in(info: &str) -> Result<u32, String> {
    let info: Info = serde_json::from_str(info).map_err(|error| error.to_string())?;
    info.pid.filter(|pid| *pid > 0).ok_or_else(|| "its verbose answer has no \"pid\"".to_owned())
}

/// An error with its causes, innermost last. A status says what it says; transport errors hide theirs.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The part of the verbose answer's JSON that is of interest.
#[derive(Deserialize)]
struct Info {
    pid: Option<u32>,
}

/// `runtime.v1.VersionRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct VersionRequest {
    #[prost(string, tag = "1")]
    pub(super) version: String,
}

/// `runtime.v1.VersionResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct VersionResponse {
    #[prost(string, tag = "2")]
    pub(super) runtime_name: String,
    #[prost(string, tag = "3")]
    pub(super) runtime_version: String,
}

/// `runtime.v1.ContainerStatusRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerStatusRequest {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    #[prost(bool, tag = "2")]
    pub(super) verbose: bool,
}

/// `runtime.v1.ContainerStatusResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<ContainerStatus>,
    #[prost(map = "string, string", tag = "2")]
    pub(super) info: HashMap<String, String>,
}

/// `runtime.v1.ContainerStatus`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerStatus {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(enumeration = "ContainerState", tag = "3")]
    pub(super) state: i32,
}

/// `runtime.v1.ContainerState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ContainerState {
    Created = 0,
    Running = 1,
    Exited = 2,
    Unknown = 3,
}

impl ContainerState {
    fn word(self) -> &'static str {
        match self {
            ContainerState::Created => "created, not started",
            ContainerState::Running => "running",
            ContainerState::Exited => "exited",
            ContainerState::Unknown => "state unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fake_runtime::{FakeContainer, FakeRuntime};

    /// The bytes of `api.proto`'s messages, written down from its field numbers.
    #[test]
    fn messages_have_the_field_numbers_of_the_api() {
        let request = ContainerStatusRequest { container_id: "ab".to_owned(), verbose: true };
        assert_eq!(request.encode_to_vec(), b"\x0a\x02ab\x10\x01");
        assert_eq!(VersionRequest { version: "v1".to_owned() }.encode_to_vec(), b"\x0a\x02v1");
        let version = VersionResponse::decode(&b"\x0a\x05v0.1.\x12\x01c\x1a\x012\x22\x02v1"[..]).unwrap();
        assert_eq!((version.runtime_name.as_str(), version.runtime_version.as_str()), ("c", "2"));
        // status { id: "x", metadata: {}, state: CONTAINER_EXITED, created_at: 1 }, info: { "info": "{}" }
        let bytes = b"\x0a\x09\x0a\x01x\x12\x00\x18\x02\x20\x01\x12\x0a\x0a\x04info\x12\x02{}";
        let answer = ContainerStatusResponse::decode(&bytes[..]).unwrap();
        let status = answer.status.unwrap();
        assert_eq!((status.id.as_str(), status.state()), ("x", ContainerState::Exited));
        assert_eq!(answer.info, HashMap::from([("info".to_owned(), "{}".to_owned())]));
    }

    struct Stage {
        _folder: tempfile::TempDir,
        socket: PathBuf,
    }

    fn stage() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("cri.sock");
        Stage { _folder: folder, socket }
    }

    #[tokio::test]
    async fn finds_the_process_of_a_container_under_every_scheme() {
        let stage = stage();
        let runtime = FakeRuntime::start(&stage.socket).unwrap();
        runtime.set("abc", FakeContainer::Running(4711));
        let client = Client::new(&stage.socket).unwrap();
        for id in ["containerd://abc", "cri-o://abc", "docker://abc", "abc"] {
            assert_eq!(client.process_of(id).await.unwrap(), 4711);
        }
        assert_eq!(runtime.calls(), ["abc"; 4]);
        let version = client.version().await.unwrap();
        assert_eq!(version, RuntimeVersion { name: "fake".to_owned(), version: "1.0".to_owned() });
    }

    #[tokio::test]
    async fn tells_apart_why_there_is_no_process() {
        let stage = stage();
        let runtime = FakeRuntime::start(&stage.socket).unwrap();
        let client = Client::new(&stage.socket).unwrap();
        let ask = async |container: Option<FakeContainer>| {
            match container {
                Some(container) => runtime.set("abc", container),
                None => runtime.remove("abc"),
            }
            client.process_of("containerd://abc").await.unwrap_err()
        };
        let gone = ask(None).await;
        assert!(matches!(gone, Error::Unknown { .. }) && gone.is_gone(), "{gone}");
        let ended = ask(Some(FakeContainer::Exited)).await;
        assert!(ended.is_gone() && ended.to_string().contains("exited"), "{ended}");
        let refused = ask(Some(FakeContainer::Refused("shim is stuck".to_owned()))).await;
        assert!(!refused.is_gone() && refused.to_string().contains("shim is stuck"), "{refused}");
        for info in [None, Some("no json"), Some("{}"), Some(r#"{"pid":0}"#), Some(r#"{"pid":"1"}"#)] {
            let error = ask(Some(FakeContainer::Info(info.map(str::to_owned)))).await;
            assert!(matches!(error, Error::NoProcess { .. }) && !error.is_gone(), "{info:?}: {error}");
        }
        for error in [gone, refused] {
            let text = error.to_string();
            assert!(text.contains("containerd://abc") && text.contains("cri.sock"), "{text}");
        }
    }

    #[tokio::test]
    async fn an_absent_runtime_is_named_and_found_once_it_is_there() {
        let stage = stage();
        let client = Client::new(&stage.socket).unwrap();
        let error = client.process_of("containerd://abc").await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Unreachable { .. }), "{text}");
        for word in ["cri.sock", "No such file", "--runtime-endpoint", "mount"] {
            assert!(text.contains(word), "{word} is missing in: {text}");
        }
        for pid in [1, 2] {
            let runtime = FakeRuntime::start(&stage.socket).unwrap();
            runtime.set("abc", FakeContainer::Running(pid));
            // The first call after a restart may still meet the broken connection.
            let mut answer = client.process_of("containerd://abc").await;
            if answer.is_err() {
                answer = client.process_of("containerd://abc").await;
            }
            assert_eq!(answer.unwrap(), pid);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_runtime_is_given_up_on() {
        let stage = stage();
        let _listening_without_a_word = std::os::unix::net::UnixListener::bind(&stage.socket).unwrap();
        let client = Client::new(&stage.socket).unwrap();
        let start = tokio::time::Instant::now();
        let error = client.process_of("containerd://abc").await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert_eq!(start.elapsed().as_secs(), CALL_TIMEOUT.as_secs());
    }

    #[tokio::test]
    async fn a_server_without_cri_is_named() {
        let stage = stage();
        let _runtime = FakeRuntime::start(&stage.socket).unwrap();
        let client = Client::new(&stage.socket).unwrap();
        let status = client.call::<_, VersionResponse>(
            "/runtime.v1alpha2.RuntimeService/Version",
            VersionRequest { version: String::new() },
        );
        let error = client.failure(&status.await.unwrap_err(), "abc");
        assert!(matches!(error, Error::NoCri { .. }) && error.to_string().contains("cri plugin"), "{error}");
    }
}
