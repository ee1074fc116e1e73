//! `--enable-pprof`: CPU profiles in pprof's own form, and what every thread is doing. On 127.0.0.1:6060 only, because
//! it has no password and tells much.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pprof::protos::Message as _;

/// Where it listens.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6060);

/// Samples per second. Not a divisor of common timer rates, so that periodic work is not always missed or always hit.
const FREQUENCY: i32 = 99;

/// The profile server's routes.
pub fn routes() -> Router {
    Router::new()
        .route("/debug/pprof/", get(|| async { INDEX }))
        .route("/debug/pprof/profile", get(|RawQuery(query)| profile(query)))
        .route("/debug/tasks", get(|| async { tokio::task::spawn_blocking(threads).await.unwrap_or_default() }))
}

const INDEX: &str = "\
/debug/pprof/profile?seconds=30   CPU profile, for: go tool pprof -http=: URL
/debug/tasks                      threads of this process with their state and processor time
";

/// Sample this process for `seconds` (1 to 300, 30 where not given).
async fn profile(query: Option<String>) -> Response {
    let seconds = match seconds(query.as_deref().unwrap_or("")) {
        Ok(seconds) => seconds,
        Err(reason) => return (StatusCode::BAD_REQUEST, reason).into_response(),
    };
    match sample(Duration::from_secs(seconds)).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn sample(length: Duration) -> Result<Vec<u8>, String> {
    let guard = pprof::ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()
        .map_err(|error| error.to_string())?;
    tokio::time::sleep(length).await;
    // Resolving names reads debug information: seconds of work.
    let encode = move || -> Result<Vec<u8>, String> {
        let report = guard.report().build().map_err(|error| error.to_string())?;
        report.pprof().map(|profile| profile.encode_to_vec()).map_err(|error| error.to_string())
    };
    tokio::task::spawn_blocking(encode).await.map_err(|error| error.to_string())?
}

fn seconds(query: &str) -> Result<u64, String> {
    let given = query.split('&').find_map(|pair| pair.strip_prefix("seconds="));
    match given.map(str::parse::<u64>) {
        None => Ok(30),
        Some(Ok(seconds @ 1..=300)) => Ok(seconds),
        Some(_) => Err("seconds must be a whole number from 1 to 300\n".to_owned()),
    }
}

/// One line for each thread: number, name, state letter, ticks of processor time (proc(5), `task/*/stat`).
fn threads() -> String {
    let mut lines: Vec<(u32, String)> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, fields)) = text.rsplit_once(')') else { continue };
        let (number, name) = head.split_once(" (").unwrap_or((head, ""));
        let mut fields = fields.split_whitespace();
        let state = fields.next().unwrap_or("?");
        let ticks: u64 = fields.skip(10).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        lines.push((number.parse().unwrap_or(0), format!("{number:>8} {name:<16} {state} {ticks}\n")));
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_profile_is_bounded() {
        assert_eq!(seconds(""), Ok(30));
        assert_eq!(seconds("debug=1&seconds=5"), Ok(5));
        for bad in ["seconds=0", "seconds=301", "seconds=x", "seconds="] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_thread_of_this_process_is_listed() {
        let text = threads();
        let own = std::process::id();
        assert!(text.lines().any(|line| line.split_whitespace().next() == Some(&own.to_string())), "{text}");
    }

    #[tokio::test]
    async fn a_profile_is_a_protobuf_with_sample_types() {
        let bytes = sample(Duration::from_millis(50)).await.unwrap();
        let profile = pprof::protos::Profile::decode(bytes.as_slice()).unwrap();
        assert!(!profile.sample_type.is_empty());
    }
}
