//! The request to EC2, made with what the instance says about itself. The instance's role must allow
//! `ec2:ModifyInstanceAttribute`; EC2 is asked over TLS, checked by the certificates of the host.

use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::sign::{Credentials, Get};

/// Where an instance asks about itself.
const METADATA: &str = "http://169.254.169.254";
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often EC2 is asked before the daemon gives up until its next start.
const TRIES: u32 = 5;

/// Why the check is still on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The instance's own data cannot be read.
    #[error("instance metadata {path}: {reason}")]
    Metadata {
        /// What was asked for.
        path: String,
        /// What came of it.
        reason: String,
    },
    /// EC2 does not let this instance.
    #[error(
        "EC2 refuses to change instance {instance}: allow its role ec2:ModifyInstanceAttribute, or turn the check off \
         by hand and set --disable-source-dest-check=false"
    )]
    Forbidden {
        /// The instance.
        instance: String,
    },
    /// EC2 answers something else.
    #[error("EC2 does not change instance {instance}: {reason}")]
    Refused {
        /// The instance.
        instance: String,
        /// What it says.
        reason: String,
    },
}

/// Turns the check off for this machine, trying again where that may help. Returns the instance's name.
///
/// # Errors
/// Why it is still on.
pub async fn disable_source_dest_check() -> Result<String, Error> {
    let mut wait = Duration::from_secs(1);
    let mut last = None;
    for _ in 0..TRIES {
        match attempt().await {
            Ok(instance) => return Ok(instance),
            Err(error @ Error::Forbidden { .. }) => return Err(error),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    Err(last.unwrap_or_else(|| Error::Metadata { path: String::new(), reason: "never asked".to_owned() }))
}

async fn attempt() -> Result<String, Error> {
    let metadata = Metadata::open().await?;
    let instance = metadata.get("instance-id").await?;
    let region = metadata.get("placement/region").await?;
    let domain = metadata.get("services/domain").await?;
    let credentials = metadata.credentials().await?;
    let host = format!("ec2.{region}.{domain}");
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let get = Get {
        host: &host,
        query: &[
            ("Action", "ModifyInstanceAttribute"),
            ("InstanceId", &instance),
            ("SourceDestCheck.Value", "false"),
            ("Version", "2016-11-15"),
        ],
        headers: &[],
        region: &region,
        service: "ec2",
        time: &time,
    };
    let refused = |reason: String| Error::Refused { instance: instance.clone(), reason };
    let mut request = Request::builder().uri(format!("https://{host}/?{}", get.canonical_query()));
    for (name, value) in get.signed_headers(&credentials) {
        request = request.header(name, value);
    }
    let request = request.body(String::new()).map_err(|error| refused(error.to_string()))?;
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_native_roots()
        .map_err(|error| refused(format!("no certificates to check it by: {error}")))?
        .https_only()
        .enable_http1()
        .build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let (status, body) = answer(client.request(request)).await.map_err(refused)?;
    match status {
        StatusCode::OK => Ok(instance),
        _ if body.contains("<Code>UnauthorizedOperation</Code>") => Err(Error::Forbidden { instance }),
        status => Err(Error::Refused { instance, reason: format!("{status}: {}", code(&body)) }),
    }
}

/// The error code in an answer of EC2.
fn code(body: &str) -> &str {
    let after = body.split_once("<Code>").map_or("no code", |(_, rest)| rest);
    after.split_once("</Code>").map_or("no code", |(code, _)| code)
}

/// The instance's data about itself, read with a token (IMDSv2).
struct Metadata {
    client: Client<hyper_util::client::legacy::connect::HttpConnector, String>,
    token: String,
}

impl Metadata {
    async fn open() -> Result<Metadata, Error> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut metadata = Metadata { client, token: String::new() };
        let lifetime = ("x-aws-ec2-metadata-token-ttl-seconds", "300");
        metadata.token = metadata.ask(Method::PUT, "/latest/api/token", lifetime).await?;
        Ok(metadata)
    }

    async fn get(&self, what: &str) -> Result<String, Error> {
        let header = ("x-aws-ec2-metadata-token", self.token.as_str());
        self.ask(Method::GET, &format!("/latest/meta-data/{what}"), header).await
    }

    async fn ask(&self, method: Method, path: &str, (name, value): (&str, &str)) -> Result<String, Error> {
        let failed = |reason: String| Error::Metadata { path: path.to_owned(), reason };
        let request = Request::builder().method(method).uri(format!("{METADATA}{path}")).header(name, value);
        let request = request.body(String::new()).map_err(|error| failed(error.to_string()))?;
        let (status, body) = answer(self.client.request(request)).await.map_err(failed)?;
        if status == StatusCode::OK { Ok(body.trim().to_owned()) } else { Err(failed(status.to_string())) }
    }

    /// The keys of the instance's role.
    async fn credentials(&self) -> Result<Credentials, Error> {
        const ROLE: &str = "iam/security-credentials/";
        let role = self.get(ROLE).await?;
        let text = self.get(&format!("{ROLE}{}", role.lines().next().unwrap_or_default())).await?;
        let failed = |reason: &str| Error::Metadata { path: ROLE.to_owned(), reason: reason.to_owned() };
        let keys: serde_json::Value = serde_json::from_str(&text).map_err(|_| failed("no JSON"))?;
        let field = |name: &str| keys.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
        Ok(Credentials {
            access_key: field("AccessKeyId").ok_or_else(|| failed("no AccessKeyId"))?,
            secret_key: field("SecretAccessKey").ok_or_else(|| failed("no SecretAccessKey"))?,
            session_token: field("Token"),
        })
    }
}

async fn answer(request: hyper_util::client::legacy::ResponseFuture) -> Result<(StatusCode, String), String> {
    let whole = async {
        let response = request.await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 1 << 20).await;
        let body = body.map_err(|error| error.to_string())?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(PATIENCE, whole).await.map_err(|_| "no answer in time".to_owned())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_refusal_is_found() {
        assert_eq!(code("<Response><Errors><Error><Code>RequestExpired</Code>…"), "RequestExpired");
        assert_eq!(code("<html>"), "no code");
    }
}
