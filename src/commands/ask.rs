//! One question to a running daemon over its admin socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

/// Longer than the daemon itself waits for a room.
const PATIENCE: Duration = Duration::from_secs(30);

/// The body of `GET path`.
pub(super) fn get(socket: &Path, path: &str) -> anyhow::Result<String> {
    send(socket, "GET", path)
}

/// The body of the answer to one request. HTTP/1.0, so that it is not chunked and ends where the connection ends.
pub(super) fn send(socket: &Path, method: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        let socket = socket.display();
        format!("cannot reach a running daemon at {socket}; is it running, and with this --admin-socket?")
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("the daemon stopped answering midway")?;
    body(&String::from_utf8(answer).context("the daemon answered something that is no text")?)
}

/// The body of an answer whose status is 200.
fn body(answer: &str) -> anyhow::Result<String> {
    let (head, body) = answer.split_once("\r\n\r\n").context("the daemon's answer has no header")?;
    let status = head.split(' ').nth(1).unwrap_or("");
    if status != "200" {
        bail!("the daemon answers {status}: {}", body.trim_end());
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_body_or_the_reason_there_is_none() {
        assert_eq!(body("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap(), "ok");
        let error = body("HTTP/1.0 404 Not Found\r\n\r\nno room\n").unwrap_err().to_string();
        assert_eq!(error, "the daemon answers 404: no room");
        assert!(body("nonsense").is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_admin_socket_answers_a_question() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let listener = crate::admin::bind_socket(&path).unwrap();
        let routes = axum::Router::new().route("/status", axum::routing::get(|| async { "x".repeat(100_000) }));
        let server = tokio::spawn(crate::admin::serve(listener, routes, std::future::pending()));
        let answer = tokio::task::spawn_blocking(move || get(&path, "/status")).await.unwrap().unwrap();
        assert_eq!(answer.len(), 100_000);
        server.abort();
        let missing = get(Path::new("/nonexistent/admin.sock"), "/status").unwrap_err().to_string();
        assert!(missing.starts_with("cannot reach a running daemon at /nonexistent/admin.sock"), "{missing}");
    }
}
