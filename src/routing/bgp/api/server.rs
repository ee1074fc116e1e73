//! The gRPC server: `apipb.GobgpApi` (gobgp 3.x) and `api.GoBgpService` (4.x) on one port.
//!
//! Serve it on TCP: the 3.x command line sends an authority over Unix sockets that HTTP/2 servers refuse.

use std::convert::Infallible;
use std::future::Future;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use prost::Message;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use super::adapt::{self, Version};
use super::handle::Handle;
use super::message as m;
use super::policy_message as p;
use super::query::{Command, Direction, Done, Refusal, Rows, SetKind};

/// The longest request that is read.
const MAX_REQUEST: usize = 1024 * 1024;

/// What the sentence of an unknown method names.
const SUPPORTED: &str = "GetBgp, ListPeer, ResetPeer, EnablePeer, DisablePeer, ShutdownPeer, ListPath, GetTable, \
     AddPath, DeletePath, ListPolicyAssignment, ListPolicy, ListStatement, ListDefinedSet and WatchEvent";

/// Methods that would change what the daemon's configuration says.
const OWNED: [&str; 17] = [
    "StartBgp",
    "StopBgp",
    "AddPeer",
    "DeletePeer",
    "UpdatePeer",
    "AddPolicy",
    "DeletePolicy",
    "SetPolicies",
    "AddPolicyAssignment",
    "DeletePolicyAssignment",
    "SetPolicyAssignment",
    "AddStatement",
    "DeleteStatement",
    "AddDefinedSet",
    "DeleteDefinedSet",
    "AddPathStream",
    "AddPeerGroup",
];

/// What a server that is reached from other hosts needs: both sides show certificates. Contents are PEM.
#[derive(Clone)]
pub struct Tls {
    /// Our certificate.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// Who may sign the certificates of clients.
    pub client_authority: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls { <redacted> }")
    }
}

/// Answers both services on `listener` until `stop` is done, in plain text: for a loopback address, or where something
/// else keeps strangers away.
///
/// # Errors
/// Where the listener fails for good.
pub async fn serve(listener: TcpListener, handle: Handle, stop: impl Future<Output = ()>) -> Result<(), Refusal> {
    serve_with(listener, handle, None, stop).await
}

/// The same; with `tls` only clients that its authority vouches for get in. `app` hands over what
/// `--gobgp-admin-tls-cert`, `-key` and `-client-ca` name:
///
/// ```ignore
/// let tls = Tls { certificate: fs::read(cert)?, key: fs::read(key)?, client_authority: fs::read(client_ca)? };
/// server::serve_with(listener, speaker.questions().clone(), Some(tls), until_stop).await
/// ```
///
/// # Errors
/// Where the certificates cannot be used, or the listener fails for good.
pub async fn serve_with(
    listener: TcpListener,
    handle: Handle,
    tls: Option<Tls>,
    stop: impl Future<Output = ()>,
) -> Result<(), Refusal> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let gone = |error: tonic::transport::Error| Refusal::Invalid(format!("the gobgp API stopped: {}", chain(&error)));
    let mut server = tonic::transport::Server::builder();
    if let Some(tls) = tls {
        let config = ServerTlsConfig::new()
            .identity(Identity::from_pem(tls.certificate, tls.key))
            .client_ca_root(Certificate::from_pem(tls.client_authority));
        server = server.tls_config(config).map_err(|error| {
            let cause = chain(&error);
            Refusal::Invalid(format!("the certificates of --gobgp-admin-tls-* cannot be used: {cause}"))
        })?;
    }
    server
        .add_service(V3(Front { handle: handle.clone(), version: Version::V3 }))
        .add_service(V4(Front { handle, version: Version::V4 }))
        .serve_with_incoming_shutdown(incoming, stop)
        .await
        .map_err(gone)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// The service of 3.x.
#[derive(Clone)]
struct V3(Front);

/// The service of 4.x.
#[derive(Clone)]
struct V4(Front);

impl NamedService for V3 {
    const NAME: &'static str = "apipb.GobgpApi";
}

impl NamedService for V4 {
    const NAME: &'static str = "api.GoBgpService";
}

impl Service<http::Request<Body>> for V3 {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let front = self.0.clone();
        Box::pin(async move { Ok(front.answer(request).await) })
    }
}

impl Service<http::Request<Body>> for V4 {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let front = self.0.clone();
        Box::pin(async move { Ok(front.answer(request).await) })
    }
}

/// A function as the service of one method.
struct Call<F>(F);

impl<F, Q, A, W> Service<Request<Q>> for Call<F>
where
    F: FnMut(Q) -> W,
    W: Future<Output = Result<A, Refusal>> + Send + 'static,
{
    type Response = Response<A>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<A>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let work = (self.0)(request.into_inner());
        Box::pin(async move { work.await.map(Response::new).map_err(status) })
    }
}

/// An answer in many messages.
type Many<A> = BoxStream<'static, Result<A, Status>>;

fn many<T: Send + 'static, A: Send + 'static>(
    rows: impl Iterator<Item = T> + Send + 'static,
    make: impl FnMut(T) -> A + Send + 'static,
) -> Many<A> {
    stream::iter(rows.map(make).map(Ok)).boxed()
}

/// A refusal as gRPC says it.
fn status(refusal: Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::NotFound(_) => Status::not_found(text),
        Refusal::Invalid(_) => Status::invalid_argument(text),
        Refusal::Unsupported(_) => Status::unimplemented(text),
        Refusal::Gone => Status::unavailable(text),
    }
}

async fn unary<Q, A, F, W>(request: http::Request<Body>, work: F) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: FnMut(Q) -> W,
    W: Future<Output = Result<A, Refusal>> + Send + 'static,
{
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default()).max_decoding_message_size(MAX_REQUEST);
    grpc.unary(Call(work), request).await
}

async fn streaming<Q, A, F, W>(request: http::Request<Body>, work: F) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: FnMut(Q) -> W,
    W: Future<Output = Result<Many<A>, Refusal>> + Send + 'static,
{
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default()).max_decoding_message_size(MAX_REQUEST);
    grpc.server_streaming(Call(work), request).await
}

/// One service.
#[derive(Clone)]
struct Front {
    handle: Handle,
    version: Version,
}

impl Front {
    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        match method.as_str() {
            "GetBgp" => unary(request, |_: m::Empty| self.clone().get_bgp()).await,
            "ListPeer" => streaming(request, |asked| self.clone().list_peer(asked)).await,
            "ListPath" => streaming(request, |asked| self.clone().list_path(asked)).await,
            "GetTable" => unary(request, |asked| self.clone().get_table(asked)).await,
            "AddPath" => unary(request, |asked| self.clone().add_path(asked)).await,
            "ListPolicyAssignment" => streaming(request, |asked| self.clone().list_assignment(asked)).await,
            "ListPolicy" => streaming(request, |asked| self.clone().list_policy(asked)).await,
            "ListStatement" => streaming(request, |asked| self.clone().list_statement(asked)).await,
            "ListDefinedSet" => streaming(request, |asked| self.clone().list_defined_set(asked)).await,
            "WatchEvent" => streaming(request, |asked| self.clone().watch_event(asked)).await,
            _ => self.answer_command(&method, request).await,
        }
    }

    /// The methods that answer nothing.
    async fn answer_command(self, method: &str, request: http::Request<Body>) -> http::Response<Body> {
        let version = self.version;
        match method {
            "DeletePath" => unary(request, |q| self.clone().act(adapt::delete_path(version, &q))).await,
            "ResetPeer" => unary(request, |q| self.clone().act(adapt::reset(version, q))).await,
            "EnablePeer" => {
                let command = |q: m::PeerActionRequest| adapt::choice(&q.address).map(Command::Enable);
                unary(request, |q| self.clone().act(command(q))).await
            }
            "DisablePeer" => {
                let command = |q: m::PeerActionRequest| {
                    adapt::choice(&q.address).map(|peer| Command::Disable(peer, q.communication))
                };
                unary(request, |q| self.clone().act(command(q))).await
            }
            "ShutdownPeer" => {
                let command = |q: m::PeerActionRequest| {
                    adapt::choice(&q.address).map(|peer| Command::Shutdown(peer, q.communication))
                };
                unary(request, |q| self.clone().act(command(q))).await
            }
            _ => unsupported(method).into_http(),
        }
    }

    async fn get_bgp(self) -> Result<m::GetBgpResponse, Refusal> {
        let global = self.handle.global().await?;
        Ok(m::GetBgpResponse { global: Some(adapt::global(&global)) })
    }

    async fn list_peer(self, asked: m::ListPeerRequest) -> Result<Many<m::PeerResponse>, Refusal> {
        let name = Some(asked.address).filter(|name| !name.is_empty());
        let peers = self.handle.peers(name, asked.enable_advertised).await?;
        Ok(many(peers, move |peer| m::PeerResponse { peer: Some(adapt::peer(self.version, &peer)) }))
    }

    async fn list_path(self, asked: m::ListPathRequest) -> Result<Many<m::ListPathResponse>, Refusal> {
        let rows: Rows<_> = self.handle.paths(adapt::path_query(self.version, &asked)?).await?;
        Ok(many(rows, move |row| m::ListPathResponse { destination: Some(adapt::destination(&row)) }))
    }

    async fn get_table(self, asked: m::GetTableRequest) -> Result<m::GetTableResponse, Refusal> {
        let table = adapt::table(self.version, asked.table_type, &asked.name)?;
        let info = self.handle.table(table, adapt::family(asked.family.as_ref())?).await?;
        Ok(m::GetTableResponse {
            num_destination: info.destinations,
            num_path: info.paths,
            num_accepted: info.accepted,
        })
    }

    async fn add_path(self, asked: m::AddPathRequest) -> Result<m::AddPathResponse, Refusal> {
        let uuid = match self.handle.command(adapt::add_path(self.version, &asked)?).await? {
            Done::Added(id) => id.to_vec(),
            Done::Yes => Vec::new(),
        };
        Ok(m::AddPathResponse { uuid })
    }

    async fn act(self, command: Result<Command, Refusal>) -> Result<m::Empty, Refusal> {
        self.handle.command(command?).await.map(|_| m::Empty {})
    }

    async fn list_assignment(
        self,
        asked: p::ListPolicyAssignmentRequest,
    ) -> Result<Many<p::ListPolicyAssignmentResponse>, Refusal> {
        let peer = Some(asked.name).filter(|name| !name.is_empty() && name != "global");
        let directions = match asked.direction {
            1 => vec![Direction::Import],
            2 => vec![Direction::Export],
            _ => vec![Direction::Import, Direction::Export],
        };
        let mut answer = Vec::new();
        for direction in directions {
            let found = self.handle.assignment(peer.clone(), direction).await?;
            let assignment = Some(adapt::assignment(self.version, &found));
            answer.push(p::ListPolicyAssignmentResponse { assignment });
        }
        Ok(many(answer.into_iter(), |one| one))
    }

    async fn list_policy(self, asked: p::NameRequest) -> Result<Many<p::ListPolicyResponse>, Refusal> {
        let policies = self.handle.policies().await?.into_iter();
        let wanted = policies.filter(move |policy| asked.name.is_empty() || policy.name == asked.name);
        Ok(many(wanted, move |one| p::ListPolicyResponse { policy: Some(adapt::policy(self.version, &one)) }))
    }

    async fn list_statement(self, asked: p::NameRequest) -> Result<Many<p::ListStatementResponse>, Refusal> {
        let statements = self.handle.policies().await?.into_iter().flat_map(|policy| policy.statements);
        let wanted = statements.filter(move |one| asked.name.is_empty() || one.name == asked.name);
        Ok(many(wanted, move |one| p::ListStatementResponse { statement: Some(adapt::statement(self.version, &one)) }))
    }

    async fn list_defined_set(
        self,
        asked: p::ListDefinedSetRequest,
    ) -> Result<Many<p::ListDefinedSetResponse>, Refusal> {
        let kind: SetKind = adapt::set_kind(self.version, asked.defined_type)?;
        let sets = self.handle.sets(kind).await?.into_iter();
        let wanted = sets.filter(move |set| asked.name.is_empty() || set.name == asked.name);
        Ok(many(wanted, move |set| p::ListDefinedSetResponse {
            defined_set: Some(adapt::defined_set(self.version, &set)),
        }))
    }

    async fn watch_event(self, asked: m::WatchEventRequest) -> Result<Many<m::WatchEventResponse>, Refusal> {
        let news = self.handle.watch(adapt::watch(self.version, &asked)).await?;
        let version = self.version;
        let answer = stream::unfold(news, move |mut news| async move {
            let event = news.recv().await?;
            Some((Ok(adapt::event(version, &event)), news))
        });
        Ok(answer.boxed())
    }
}

/// What is said to a method that is not served.
fn unsupported(method: &str) -> Status {
    if OWNED.contains(&method) {
        return Status::unimplemented(format!(
            "{method} is not supported: this speaker, its peers and policies follow the daemon's configuration and \
             the cluster; change them there"
        ));
    }
    Status::unimplemented(format!("{method} is not supported; supported are {SUPPORTED}"))
}
