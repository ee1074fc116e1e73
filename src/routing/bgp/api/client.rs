//! The other side of the API: asks any server of gobgp's services, of either major.
//!
//! Asks by 3.x first. A server that does not know it is asked by 4.x from then on. Answers are the messages as they
//! came, so that nothing in them is lost before somebody looks.

use std::path::PathBuf;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};

use super::adapt::Version;

/// Where a speaker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Host, port, and how to speak TLS where it is spoken.
    Tcp(String, u16, Option<Tls>),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// How to speak TLS. Contents are PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Who may sign the server's certificate; `None` for whom this host trusts.
    pub authority: Option<Vec<u8>>,
    /// Our certificate and its key, where the server wants to know.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Tcp(host, port, _) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Tcp(host, port, _) => write!(f, "{host}:{port}"),
            Place::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Nobody there.
    #[error(
        "cannot reach a BGP speaker at {place}: {cause}; is it running there, with its router (--run-router) and with \
         --gobgp-admin-port? -u, -p and --tls say where and how to ask"
    )]
    Unreachable {
        /// Where.
        place: String,
        /// What went wrong.
        cause: String,
    },
    /// The server said no.
    #[error("{place}: {text}")]
    Refused {
        /// Who.
        place: String,
        /// Its words.
        text: String,
    },
}

/// How long to wait for a connection.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest answer of one message: a peer with its capabilities, a prefix with its paths.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    grpc: Grpc<Channel>,
    place: String,
    /// Known once the server answered.
    version: Option<Version>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`Trouble::Unreachable`].
    pub async fn connect(place: &Place) -> Result<Client, Trouble> {
        let unreachable =
            |error: &dyn std::error::Error| Trouble::Unreachable { place: place.to_string(), cause: innermost(error) };
        let channel = channel(place);
        let channel = tokio::time::timeout(PATIENCE, channel).await.map_err(|_| Trouble::Unreachable {
            place: place.to_string(),
            cause: format!("no answer within {} s", PATIENCE.as_secs()),
        })?;
        let channel = channel.map_err(|error| unreachable(&error))?;
        let grpc = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
        Ok(Client { grpc, place: place.to_string(), version: None })
    }

    /// Which major the server speaks; 3.x before it was asked anything.
    pub fn version(&self) -> Version {
        self.version.unwrap_or(Version::V3)
    }

    /// Asks what has one answer.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn ask<Q: Message>(&mut self, method: &str, question: impl Fn(Version) -> Q) -> Result<Vec<u8>, Trouble> {
        let mut answers = self.stream(method, question).await?;
        let answer = answers.next().await?;
        Ok(answer.unwrap_or_default())
    }

    /// Asks what has many answers, and takes them all.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn all<Q: Message>(
        &mut self,
        method: &str,
        question: impl Fn(Version) -> Q,
    ) -> Result<Vec<Vec<u8>>, Trouble> {
        let mut answers = self.stream(method, question).await?;
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await? {
            all.push(answer);
        }
        Ok(all)
    }

    /// Asks what has many answers.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn stream<Q: Message>(
        &mut self,
        method: &str,
        question: impl Fn(Version) -> Q,
    ) -> Result<Answers, Trouble> {
        if let Some(version) = self.version {
            return self.call(version, method, &question(version)).await.map_err(|status| self.refused(&status));
        }
        let first = match self.call(Version::V3, method, &question(Version::V3)).await {
            Err(status) if status.code() == Code::Unimplemented => status,
            other => {
                self.version = Some(Version::V3);
                return other.map_err(|status| self.refused(&status));
            }
        };
        match self.call(Version::V4, method, &question(Version::V4)).await {
            // Neither knows it; the first one's words say why.
            Err(status) if status.code() == Code::Unimplemented => Err(self.refused(&first)),
            other => {
                self.version = Some(Version::V4);
                other.map_err(|status| self.refused(&status))
            }
        }
    }

    /// One call. A server may refuse at once or in place of the first answer, so that one is waited for unless it may
    /// be long in coming.
    async fn call(&mut self, version: Version, method: &str, question: &impl Message) -> Result<Answers, Status> {
        let service = match version {
            Version::V3 => "apipb.GobgpApi",
            Version::V4 => "api.GoBgpService",
        };
        let path = PathAndQuery::try_from(format!("/{service}/{method}"));
        let path = path.map_err(|error| Status::internal(error.to_string()))?;
        self.grpc.ready().await.map_err(|error| Status::unavailable(innermost(&error)))?;
        let request = Request::new(question.encode_to_vec());
        let stream = self.grpc.server_streaming(request, path, Octets).await?.into_inner();
        Ok(Answers { stream, place: self.place.clone() })
    }

    fn refused(&self, status: &Status) -> Trouble {
        refused(&self.place, status)
    }
}

fn refused(place: &str, status: &Status) -> Trouble {
    let place = place.to_owned();
    let text = status.message();
    match status.code() {
        Code::Unavailable | Code::Cancelled if text.is_empty() || std::error::Error::source(status).is_some() => {
            Trouble::Unreachable { place, cause: innermost(status) }
        }
        Code::Unimplemented if text.is_empty() || text.starts_with("unknown ") => {
            Trouble::Refused { place, text: "this speaker does not support the command".to_owned() }
        }
        _ if text.is_empty() => Trouble::Refused { place, text: status.code().to_string() },
        _ => Trouble::Refused { place, text: text.to_owned() },
    }
}

/// The answers to one question.
#[derive(Debug)]
pub struct Answers {
    stream: Streaming<Vec<u8>>,
    place: String,
}

impl Answers {
    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Trouble> {
        self.stream.message().await.map_err(|status| refused(&self.place, &status))
    }
}

async fn channel(place: &Place) -> Result<Channel, tonic::transport::Error> {
    match place {
        Place::Unix(path) => {
            let path = path.clone();
            let connect = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            Endpoint::from_static("http://localhost").connect_with_connector(connect).await
        }
        Place::Tcp(_, _, tls) => {
            let scheme = if tls.is_some() { "https" } else { "http" };
            let mut endpoint = Endpoint::from_shared(format!("{scheme}://{place}"))?.connect_timeout(PATIENCE);
            if let Some(tls) = tls {
                endpoint = endpoint.tls_config(tls_config(tls))?;
            }
            endpoint.connect().await
        }
    }
}

fn tls_config(tls: &Tls) -> ClientTlsConfig {
    let config = match &tls.authority {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match &tls.identity {
        Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
        None => config,
    }
}

/// The cause that says most: the last of the chain.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Messages that stay octets.
#[derive(Clone, Copy, Debug)]
struct Octets;

impl Codec for Octets {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Octets;
    type Decoder = Octets;

    fn encoder(&mut self) -> Octets {
        Octets
    }

    fn decoder(&mut self) -> Octets {
        Octets
    }
}

impl Encoder for Octets {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Octets {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; from.remaining()];
        from.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}
