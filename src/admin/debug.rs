//! The admin socket: what this daemon sees, wants and has, as text or JSON. For root on this node only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{mpsc, oneshot};

use super::status::Status;
use crate::reconcile::query::{Query, View};

/// Writes something as JSON; may take a while.
pub type JsonText = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Begins or ends a drain, and tells how far it is.
pub type Drain = Arc<dyn Fn(Option<bool>) -> String + Send + Sync>;

/// Where the answers come from.
#[derive(Clone)]
pub struct Sources {
    /// The newest snapshot.
    pub snapshot: JsonText,
    /// What owners of objects should know.
    pub notices: JsonText,
    /// The daemon's state.
    pub status: Arc<dyn Fn() -> Status + Send + Sync>,
    /// Begins a drain (true), ends it (false), or only tells how far it is; there where a router runs.
    pub drain: Option<Drain>,
    /// Each room's ear.
    pub rooms: Arc<BTreeMap<&'static str, mpsc::Sender<Query>>>,
}

/// How long a room may take to answer: it does so between two passes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The admin socket's routes.
pub fn routes(sources: Sources) -> Router {
    let Sources { snapshot, notices, status, drain, rooms } = sources;
    let (begin, end) = (drain.clone(), drain.clone());
    Router::new()
        .route("/snapshot", get(move || json(Arc::clone(&snapshot))))
        .route("/notices", get(move || json(Arc::clone(&notices))))
        .route(
            "/status",
            get(move || {
                let status = Arc::clone(&status);
                json(Arc::new(move || serde_json::to_string_pretty(&status()).map_err(|error| error.to_string())))
            }),
        )
        .route(
            "/drain",
            get(async move || drained(drain, None))
                .post(async move || drained(begin, Some(true)))
                .delete(async move || drained(end, Some(false))),
        )
        .route(
            "/debug/{room}/{*question}",
            get(move |Path((room, question)): Path<(String, String)>| ask(rooms, room, question)),
        )
}

async fn json(text: JsonText) -> Response {
    match tokio::task::spawn_blocking(move || text()).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Ok(Err(reason)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{reason}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn drained(drain: Option<Drain>, wanted: Option<bool>) -> Response {
    match drain {
        Some(drain) => (drain(wanted) + "\n").into_response(),
        None => (StatusCode::NOT_FOUND, "this daemon runs no router, so it has nothing to drain\n").into_response(),
    }
}

/// Ask a room one of [`View::QUESTIONS`].
async fn ask(rooms: Arc<BTreeMap<&'static str, mpsc::Sender<Query>>>, room: String, question: String) -> Response {
    let Some(ear) = rooms.get(room.as_str()) else {
        let known: Vec<&str> = rooms.keys().copied().collect();
        return (StatusCode::NOT_FOUND, format!("no room {room:?}; there is {}\n", known.join(", "))).into_response();
    };
    let Some(what) = View::parse(&question) else {
        let known = View::QUESTIONS;
        return (StatusCode::NOT_FOUND, format!("no question {question:?}; ask for {known}\n")).into_response();
    };
    let (reply, answer) = oneshot::channel();
    let exchange = async {
        ear.send(Query { what, reply }).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Some(text)) => text.into_response(),
        Ok(None) => (StatusCode::SERVICE_UNAVAILABLE, format!("{room} does not answer\n")).into_response(),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, format!("{room} is busy with a pass\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    fn sources(rooms: BTreeMap<&'static str, mpsc::Sender<Query>>) -> Sources {
        Sources {
            snapshot: Arc::new(|| Ok("{}".into())),
            notices: Arc::new(|| Err("no notices".into())),
            status: Arc::new(|| Status { node: "node-1".into(), ..Status::default() }),
            drain: None,
            rooms: Arc::new(rooms),
        }
    }

    async fn get_path(routes: &Router, path: &str) -> (u16, String) {
        let response = routes.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_room_is_asked_for_the_view_that_was_named() {
        let (ear, mut questions) = mpsc::channel::<Query>(1);
        let routes = routes(sources(BTreeMap::from([("proxy", ear)])));
        let room = tokio::spawn(async move {
            while let Some(query) = questions.recv().await {
                query.reply.send(format!("{:?}", query.what)).unwrap();
            }
        });
        assert_eq!(get_path(&routes, "/debug/proxy/plan").await, (200, "Plan".into()));
        let explain = get_path(&routes, "/debug/proxy/explain/service/default/web").await;
        assert!(explain.0 == 200 && explain.1.contains("\"web\""), "{explain:?}");
        assert_eq!(get_path(&routes, "/debug/proxy/explain/service/default").await.0, 404);
        assert_eq!(get_path(&routes, "/debug/proxy/wish").await.0, 404);
        let (code, text) = get_path(&routes, "/debug/attic/plan").await;
        assert_eq!((code, text.as_str()), (404, "no room \"attic\"; there is proxy\n"));
        room.abort();
    }

    #[tokio::test]
    async fn a_room_that_is_gone_or_busy_is_told_apart() {
        let (ear, questions) = mpsc::channel::<Query>(1);
        drop(questions);
        let gone = routes(sources(BTreeMap::from([("proxy", ear)])));
        assert_eq!(get_path(&gone, "/debug/proxy/plan").await.0, 503);
        tokio::time::pause();
        let (ear, _questions) = mpsc::channel::<Query>(1);
        let busy = routes(sources(BTreeMap::from([("proxy", ear)])));
        assert_eq!(get_path(&busy, "/debug/proxy/plan").await.0, 504);
    }

    #[tokio::test]
    async fn json_pages_answer_and_report_failures() {
        let routes = routes(sources(BTreeMap::new()));
        assert_eq!(get_path(&routes, "/snapshot").await, (200, "{}".into()));
        assert_eq!(get_path(&routes, "/notices").await, (500, "no notices\n".into()));
        let status: Status = serde_json::from_str(&get_path(&routes, "/status").await.1).unwrap();
        assert_eq!(status.node, "node-1");
        assert_eq!(get_path(&routes, "/drain").await.0, 404);
    }

    #[tokio::test]
    async fn a_drain_is_begun_ended_and_looked_at() {
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let drain: Drain = Arc::new(move |wanted| {
            noted.lock().unwrap().push(wanted);
            "serving".to_owned()
        });
        let routes = routes(Sources { drain: Some(drain), ..sources(BTreeMap::new()) });
        for method in ["POST", "GET", "DELETE"] {
            let request = Request::builder().method(method).uri("/drain").body(Body::empty()).unwrap();
            assert_eq!(routes.clone().oneshot(request).await.unwrap().status(), StatusCode::OK);
        }
        assert_eq!(*asked.lock().unwrap(), [Some(true), None, Some(false)]);
    }
}
