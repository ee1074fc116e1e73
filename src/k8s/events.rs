//! Tells the owners of objects: Kubernetes events where there is an API server, log lines always, and the last
//! notices for the debug page.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::errors;
use super::snapshotter::Published;
use super::watch::Shared;
use crate::model::{NodeName, Notice, Severity, Snapshot, Subject};

/// How long an equal notice is not repeated.
const REPEAT: Duration = Duration::from_secs(600);
/// Events written in one [`WINDOW`] at most: an error that hits ten thousand Services must not flood the API server.
const MOST_EVENTS: u32 = 30;
/// The time [`MOST_EVENTS`] counts for.
const WINDOW: Duration = Duration::from_secs(60);
/// Notices the debug page shows.
const SHOWN: usize = 200;
/// Remembered notices above which old ones are looked for.
const SWEEP_AT: usize = 4096;
/// The longest note the API takes, in bytes.
const LONGEST_NOTE: usize = 1024;

/// The last notices, newest last.
#[derive(Debug, Default)]
pub struct RecentNotices(Mutex<VecDeque<Noted>>);

/// A notice and when it came.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Noted {
    /// When.
    pub at: jiff::Timestamp,
    /// What.
    pub notice: Notice,
}

impl RecentNotices {
    /// The last notices, oldest first.
    pub fn all(&self) -> Vec<Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn add(&self, notice: Notice) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= SHOWN {
            kept.pop_front();
        }
        kept.push_back(Noted { at: jiff::Timestamp::now(), notice });
    }
}

/// What decides whether a notice is told: not twice within [`REPEAT`], not too many events in one [`WINDOW`].
#[derive(Debug)]
struct Limits {
    told: BTreeMap<Notice, Instant>,
    window: Instant,
    in_window: u32,
}

impl Limits {
    fn new(now: Instant) -> Limits {
        Limits { told: BTreeMap::new(), window: now, in_window: 0 }
    }

    /// Whether this notice is news.
    fn is_news(&mut self, notice: &Notice, now: Instant) -> bool {
        if self.told.get(notice).is_some_and(|told| now.duration_since(*told) < REPEAT) {
            return false;
        }
        if self.told.len() >= SWEEP_AT {
            self.told.retain(|_, told| now.duration_since(*told) < REPEAT);
        }
        self.told.insert(notice.clone(), now);
        true
    }

    /// Whether one more event may be written.
    fn may_write(&mut self, now: Instant) -> bool {
        if now.duration_since(self.window) >= WINDOW {
            (self.window, self.in_window) = (now, 0);
        }
        self.in_window += 1;
        self.in_window <= MOST_EVENTS
    }
}

/// Takes notices until nobody sends any more. `api`: where events go, if anywhere.
pub(super) async fn run(
    mut notices: mpsc::Receiver<Notice>,
    api: Option<Arc<Shared>>,
    snapshots: watch::Receiver<Published>,
    recent: Arc<RecentNotices>,
) {
    let mut api = api;
    let mut limits = Limits::new(Instant::now());
    while let Some(notice) = notices.recv().await {
        let now = Instant::now();
        if !limits.is_news(&notice, now) {
            continue;
        }
        let Notice { subject, severity, reason, message } = &notice;
        match severity {
            Severity::Warning => warn!(%subject, reason, detail = message, "notice"),
            Severity::Normal => info!(%subject, reason, detail = message, "notice"),
        }
        if let Some(shared) = api.as_ref().filter(|_| limits.may_write(now)) {
            let snapshot = Arc::clone(&snapshots.borrow().snapshot);
            if !write(shared, &notice, &snapshot).await {
                api = None;
            }
        }
        recent.add(notice);
    }
}

/// Writes one event: false when we may not write any.
async fn write(shared: &Shared, notice: &Notice, snapshot: &Snapshot) -> bool {
    let (client, _) = shared.server.client().await;
    let event = event(notice, snapshot, &shared.own_node);
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    match Api::<Event>::namespaced(client, &namespace).create(&PostParams::default(), &event).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 403 => {
            warn!(
                reason = status.message,
                advice = "add to the ClusterRole: apiGroups [events.k8s.io], resources [events], verbs [create]",
                "events may not be written, notices are only logged"
            );
            false
        }
        Err(error) => {
            debug!(reason = errors::of_request("event", &error).message, "event could not be written");
            true
        }
    }
}

/// The notice as `kubectl describe` shows it.
fn event(notice: &Notice, snapshot: &Snapshot, own_node: &NodeName) -> Event {
    let (api_version, kind, namespace, name, uid) = match &notice.subject {
        Subject::Service(key) => {
            let uid = snapshot.services.get(key).map(|service| Arc::clone(&service.uid));
            ("v1", "Service", Some(key.namespace.to_string()), key.name.to_string(), uid)
        }
        Subject::Node(name) => {
            let uid = snapshot.nodes.get(name).map(|node| Arc::clone(&node.uid));
            ("v1", "Node", None, name.to_string(), uid)
        }
        Subject::Namespace(name) => ("v1", "Namespace", None, name.to_string(), None),
        Subject::Policy(key) => {
            ("networking.k8s.io/v1", "NetworkPolicy", Some(key.namespace.to_string()), key.name.to_string(), None)
        }
        Subject::ClusterPolicy(name) => {
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", None, name.to_string(), None)
        }
    };
    let mut note = notice.message.clone();
    note.truncate(note.floor_char_boundary(LONGEST_NOTE));
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}.")),
            // Events about things without a namespace live in `default`, by convention.
            namespace: Some(namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        action: Some("Reconcile".to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(note),
        reason: Some(notice.reason.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace,
            name: Some(name),
            uid: uid.filter(|uid| !uid.is_empty()).map(|uid| uid.to_string()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("ferrovia".to_owned()),
        reporting_instance: Some(own_node.to_string()),
        type_: Some(
            match notice.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            }
            .to_owned(),
        ),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Node, ServiceKey};

    fn notice(service: &str) -> Notice {
        Notice {
            subject: Subject::Service(ServiceKey::new("ns", service)),
            severity: Severity::Warning,
            reason: "UnknownScheduler",
            message: "spec: \"x\": y".to_owned(),
        }
    }

    #[test]
    fn equal_notices_are_news_once_in_ten_minutes() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        assert!(limits.is_news(&notice("a"), start));
        assert!(limits.is_news(&notice("b"), start));
        assert!(!limits.is_news(&notice("a"), start + REPEAT - Duration::from_secs(1)));
        assert!(limits.is_news(&notice("a"), start + REPEAT));
        for number in 0..3 * SWEEP_AT {
            limits.is_news(&notice(&number.to_string()), start + 2 * REPEAT * u32::try_from(number).unwrap());
        }
        assert!(limits.told.len() <= SWEEP_AT);
    }

    #[test]
    fn events_are_bounded_in_number() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        let written = (0..1000).filter(|_| limits.may_write(start)).count();
        assert_eq!(written, MOST_EVENTS as usize);
        assert!(limits.may_write(start + WINDOW));
    }

    #[test]
    fn events_point_to_the_object() {
        let own_node = NodeName::new("n1");
        let mut snapshot = Snapshot::empty(own_node.clone());
        snapshot.nodes.insert(own_node.clone(), Arc::new(Node { uid: "u-1".into(), ..Node::default() }));
        let about_node = Notice { subject: Subject::Node(own_node.clone()), message: "é".repeat(600), ..notice("a") };
        let event = super::event(&about_node, &snapshot, &own_node);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.note.unwrap().len(), LONGEST_NOTE);
        let regarding = event.regarding.unwrap();
        assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Node"), Some("u-1")));
        let event = super::event(&notice("web"), &snapshot, &own_node);
        let regarding = event.regarding.unwrap();
        assert_eq!((regarding.namespace.as_deref(), regarding.name.as_deref()), (Some("ns"), Some("web")));
        assert_eq!(event.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(regarding.uid, None);
    }

    #[test]
    fn only_the_last_notices_are_kept() {
        let recent = RecentNotices::default();
        for number in 0..SHOWN + 5 {
            recent.add(notice(&number.to_string()));
        }
        let all = recent.all();
        assert_eq!(all.len(), SHOWN);
        assert_eq!(all[0].notice, notice("5"));
    }
}
