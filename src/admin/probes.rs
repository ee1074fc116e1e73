//! `/healthz` and `/readyz` for the kubelet, `/metrics` for Prometheus.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::health::Verdict;

/// Asks for the present verdict.
pub type Judge = Arc<dyn Fn() -> Verdict + Send + Sync>;

/// Reads all metrics as text; may block.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// The health server's routes.
pub fn health_routes(judge: Judge) -> Router {
    let ready = Arc::clone(&judge);
    Router::new().route("/healthz", get(move || async move { answer("Unhealthy", &judge().unhealthy, &[]) })).route(
        "/readyz",
        get(move || async move {
            let verdict = ready();
            answer("Not ready", &verdict.unready, &verdict.remarks)
        }),
    )
}

/// 200 `OK`, or 500 with what speaks against it, one reason a line; then what else is to be told.
fn answer(word: &str, against: &[String], remarks: &[String]) -> (StatusCode, String) {
    let (status, word) =
        if against.is_empty() { (StatusCode::OK, "OK") } else { (StatusCode::INTERNAL_SERVER_ERROR, word) };
    let lines: String = against.iter().chain(remarks).map(|line| format!("{line}\n")).collect();
    (status, format!("{word}\n{lines}"))
}

/// The metrics server's routes: `path` begins with a slash and holds no pattern.
pub fn metrics_routes(path: &str, content_type: &'static str, metrics: MetricsText) -> Router {
    Router::new().route(path, get(move || scrape(Arc::clone(&metrics), content_type)))
}

async fn scrape(metrics: MetricsText, content_type: &'static str) -> Response {
    // Counters of Services are read from the kernel, which may take a while: not on the runtime's own threads.
    match tokio::task::spawn_blocking(move || metrics()).await {
        Ok(text) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn ask(routes: Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = routes.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn healthy_answers_as_kube_router_does_and_unready_says_why() {
        let unready = Verdict { unready: vec!["proxy: first".into()], ..Verdict::default() };
        let judge: Judge = Arc::new(move || unready.clone());
        assert_eq!(ask(health_routes(Arc::clone(&judge)), "/healthz").await, (200, "OK\n".into()));
        assert_eq!(ask(health_routes(judge), "/readyz").await, (500, "Not ready\nproxy: first\n".into()));
        let judge: Judge = Arc::new(|| Verdict { remarks: vec!["proxy: 1 key".into()], ..Verdict::default() });
        assert_eq!(ask(health_routes(Arc::clone(&judge)), "/healthz").await, (200, "OK\n".into()));
        assert_eq!(ask(health_routes(judge), "/readyz").await, (200, "OK\nproxy: 1 key\n".into()));
    }

    #[tokio::test]
    async fn metrics_are_served_under_their_path_only() {
        let routes = metrics_routes("/stats", "text/plain", Arc::new(|| "a 1\n".to_owned()));
        assert_eq!(ask(routes.clone(), "/stats").await, (200, "a 1\n".into()));
        assert_eq!(ask(routes, "/metrics").await.0, 404);
    }
}
