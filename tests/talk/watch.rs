//! The watches against a scripted API server.

use std::time::Duration;

use ferrovia::k8s::{ApiConfig, Config, Error, Handle, Kind, Needs, Source, start};
use ferrovia::model::{NodeName, Notice, Severity, Snapshot, Subject};
use serde_json::{Value, json};
use tokio::sync::watch::{Sender, channel};
use tokio::time::timeout;

use crate::server::{Feed, Server, api_servers, service};
use crate::{DEADLINE, eventually, services, timings, until};

fn config(server: &Server) -> Config {
    let access = ApiConfig { master: Some(server.url()), ..ApiConfig::default() };
    let config = Config::new(Source::Api(access), NodeName::new("n1"), Needs::default());
    Config { sync_timeout: DEADLINE, timings: timings(), ..config }
}

async fn opened(config: Config) -> (Handle, Sender<bool>) {
    let (stop, stopped) = channel(false);
    (start(config, stopped).await.unwrap(), stop)
}

fn gone(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "Expired", "message": "too old"})
}

fn holds(expected: &[&str]) -> impl Fn(&Snapshot) -> bool {
    let expected: Vec<String> = expected.iter().map(|text| (*text).to_owned()).collect();
    move |snapshot| services(snapshot) == expected
}

#[tokio::test]
async fn a_streamed_list_and_what_follows_it_become_snapshots() {
    let server = Server::start().await;
    let feed = server.script("services").stream();
    feed.added(&service("a", "10.0.0.1", "1")).added(&service("b", "10.0.0.2", "2"));
    let (mut door, _stop) = opened(config(&server)).await;
    assert_eq!(door.snapshots.borrow().snapshot.generation.0, 0, "nothing is published before the list has ended");
    feed.listed("3");
    let first = until(&mut door, "both services", holds(&["a=10.0.0.1", "b=10.0.0.2"])).await;
    assert_eq!(first.snapshot.generation.0, 1);
    assert!(door.status.in_sync() && door.status.connected());
    feed.event("MODIFIED", &service("a", "10.0.0.9", "4")).event("DELETED", &service("b", "10.0.0.2", "5"));
    feed.added(&service("c", "10.0.0.3", "6"));
    let last = until(&mut door, "all changes", holds(&["a=10.0.0.9", "c=10.0.0.3"])).await;
    assert!(last.oldest_event >= first.oldest_event);
    let asked = server.queries("services");
    assert!(asked.len() == 1 && asked[0].contains("sendInitialEvents=true"), "{asked:?}");
    assert!(server.queries("nodes")[0].contains("metadata.name%3Dn1"), "{:?}", server.queries("nodes"));
    assert!(server.queries("endpointslices")[0].contains("service.kubernetes.io%2Fheadless"));
    assert!(server.queries("pods").is_empty(), "pods were not needed");
    assert_eq!(door.status.objects(Kind::Service), 2);
}

#[tokio::test]
async fn a_server_without_streamed_lists_is_read_in_pages() {
    for (code, reason) in [(400, "BadRequest"), (422, "Invalid")] {
        let server = Server::start().await;
        let script = server.script("services");
        script.refuse(
            code,
            reason,
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        );
        script.page(&[service("a", "10.0.0.1", "1")], "7", Some("more"));
        script.page(&[service("b", "10.0.0.2", "2")], "7", None);
        let feed = script.stream();
        let (mut door, _stop) = opened(config(&server)).await;
        until(&mut door, "both pages", holds(&["a=10.0.0.1", "b=10.0.0.2"])).await;
        feed.event("DELETED", &service("a", "10.0.0.1", "8"));
        until(&mut door, "the deletion", holds(&["b=10.0.0.2"])).await;
        let asked = server.queries("services");
        assert!(asked[1].contains("limit=500") && !asked[1].contains("continue"), "{asked:?}");
        assert!(asked[2].contains("continue=more"), "{asked:?}");
        assert!(asked[3].contains("watch=true") && asked[3].contains("resourceVersion=7"), "{asked:?}");
        assert!(!asked[3].contains("sendInitialEvents"), "{asked:?}");
        assert_eq!(door.status.watches()[0].errors(), 0, "an old server is no error");
    }
}

#[tokio::test]
async fn a_server_that_never_ends_its_stream_is_read_in_pages() {
    let server = Server::start().await;
    let script = server.script("services");
    let endless = script.stream();
    endless.added(&service("half", "10.0.0.1", "1"));
    script.page(&[service("a", "10.0.0.1", "1")], "7", None);
    let _feed = script.stream();
    let mut config = config(&server);
    config.timings.list_idle = Duration::from_millis(300);
    let (mut door, _stop) = opened(config).await;
    until(&mut door, "the page", holds(&["a=10.0.0.1"])).await;
}

#[tokio::test]
async fn streams_that_keep_breaking_off_are_given_up_and_never_half_believed() {
    let server = Server::start().await;
    let script = server.script("services");
    let feeds: Vec<Feed> = (0..4).map(|_| script.stream()).collect();
    script.page(&[service("a", "10.0.0.1", "1")], "7", None);
    let _feed = script.stream();
    for feed in &feeds {
        feed.added(&service("half", "10.0.0.1", "1"));
    }
    let (mut door, _stop) = opened(config(&server)).await;
    let watch = std::sync::Arc::clone(&door.status.watches()[0]);
    for (number, feed) in (1..=3).zip(feeds) {
        eventually("half of the list has come", || watch.events() == number).await;
        feed.break_off();
    }
    let first = until(&mut door, "anything", |_| true).await;
    assert_eq!(services(&first.snapshot), ["a=10.0.0.1"]);
    assert!(door.status.watches()[0].restarts() >= 3);
}

#[tokio::test]
async fn a_list_that_breaks_off_after_one_page_is_read_from_the_start() {
    let server = Server::start().await;
    let script = server.script("services");
    script.refuse(400, "BadRequest", "no");
    script.page(&[service("half", "10.0.0.1", "1")], "7", Some("more"));
    script.break_off();
    script.page(&[service("a", "10.0.0.1", "1")], "8", Some("more"));
    script.page(&[service("b", "10.0.0.2", "1")], "8", None);
    let _feed = script.stream();
    let (mut door, _stop) = opened(config(&server)).await;
    let first = until(&mut door, "anything", |_| true).await;
    assert_eq!(services(&first.snapshot), ["a=10.0.0.1", "b=10.0.0.2"]);
    let asked = server.queries("services");
    assert!(!asked[3].contains("continue"), "{asked:?}");
}

#[tokio::test]
async fn a_version_that_is_gone_means_a_new_list_whose_deletions_count() {
    for told_by_event in [true, false] {
        let server = Server::start().await;
        let script = server.script("services");
        let feed = script.stream();
        feed.added(&service("a", "10.0.0.1", "1")).added(&service("b", "10.0.0.2", "2")).listed("3");
        let (mut door, _stop) = opened(config(&server)).await;
        let before = until(&mut door, "both services", holds(&["a=10.0.0.1", "b=10.0.0.2"])).await;
        if told_by_event {
            feed.event("ERROR", &gone(410));
        } else {
            drop(feed);
            script.refuse(410, "Expired", "too old resource version");
        }
        let again = script.stream();
        again.added(&service("b", "10.0.0.2", "2")).added(&service("c", "10.0.0.3", "9"));
        let quiet = timeout(Duration::from_millis(50), door.snapshots.changed()).await;
        assert!(quiet.is_err() || door.snapshots.borrow().snapshot.generation == before.snapshot.generation);
        again.listed("10");
        let after = until(&mut door, "the new list", holds(&["b=10.0.0.2", "c=10.0.0.3"])).await;
        let changes = after.snapshot.changes_since(&before.snapshot);
        let changed: Vec<String> = changes.services.iter().map(ToString::to_string).collect();
        assert_eq!(changed, ["ns/a", "ns/c"], "what is equal is kept");
        assert!(door.status.watches()[0].restarts() >= 1);
    }
}

#[tokio::test]
async fn a_watch_that_ends_is_resumed_where_it_was() {
    let server = Server::start().await;
    let script = server.script("services");
    let feed = script.stream();
    feed.added(&service("a", "10.0.0.1", "1")).listed("3").bookmark("40");
    let (mut door, _stop) = opened(config(&server)).await;
    until(&mut door, "the service", holds(&["a=10.0.0.1"])).await;
    let next = script.stream();
    drop(feed);
    next.added(&service("b", "10.0.0.2", "41"));
    until(&mut door, "the next event", holds(&["a=10.0.0.1", "b=10.0.0.2"])).await;
    let asked = server.queries("services");
    assert!(asked[1].contains("resourceVersion=40") && !asked[1].contains("sendInitialEvents"), "{asked:?}");
    let last = script.stream();
    next.break_off();
    last.event("DELETED", &service("a", "10.0.0.1", "42"));
    until(&mut door, "the event after the break", holds(&["b=10.0.0.2"])).await;
    assert_eq!(door.status.watches()[0].restarts(), 0, "nothing was listed again");
}

#[tokio::test]
async fn duplicates_strays_and_bookmarks_publish_nothing() {
    let server = Server::start().await;
    let feed = server.script("services").stream();
    feed.added(&service("a", "10.0.0.1", "1")).listed("3");
    let (mut door, _stop) = opened(config(&server)).await;
    let first = until(&mut door, "the service", holds(&["a=10.0.0.1"])).await;
    feed.bookmark("4").bookmark("5");
    feed.event("MODIFIED", &service("a", "10.0.0.1", "6")).added(&service("a", "10.0.0.1", "1"));
    feed.event("DELETED", &service("never-seen", "10.0.0.7", "7"))
        .event("DELETED", &service("never-seen", "10.0.0.7", "7"));
    feed.event("MODIFIED", &service("first-seen-modified", "10.0.0.8", "8"));
    let next = until(&mut door, "the modified one", holds(&["a=10.0.0.1", "first-seen-modified=10.0.0.8"])).await;
    assert_eq!(next.snapshot.generation.0, first.snapshot.generation.0 + 1);
}

#[tokio::test]
async fn a_burst_becomes_few_snapshots() {
    let server = Server::start().await;
    let feed = server.script("services").stream();
    feed.listed("1");
    let mut config = config(&server);
    config.timings.quiet = Duration::from_millis(200);
    config.timings.most = Duration::from_secs(5);
    let (mut door, _stop) = opened(config).await;
    until(&mut door, "an empty cluster", holds(&[])).await;
    for number in 0..500 {
        feed.added(&service(&format!("s{number}"), "10.0.0.1", "2"));
    }
    let last = until(&mut door, "all of them", |snapshot| snapshot.services.len() == 500).await;
    assert!(last.snapshot.generation.0 <= 20, "{} snapshots for one burst", last.snapshot.generation);
}

#[tokio::test]
async fn an_expired_token_is_waited_out() {
    let server = Server::start().await;
    let script = server.script("services");
    for _ in 0..5 {
        script.refuse(401, "Unauthorized", "Unauthorized");
    }
    let (mut door, _stop) = opened(config(&server)).await;
    let watch = std::sync::Arc::clone(&door.status.watches()[0]);
    eventually("the trouble shows", || watch.errors() >= 2).await;
    assert!(!watch.connected());
    assert_eq!(watch.last_error().as_deref(), Some("watch: 401 Unauthorized: Unauthorized"));
    let feed = script.stream();
    feed.added(&service("a", "10.0.0.1", "1")).listed("3");
    until(&mut door, "the service", holds(&["a=10.0.0.1"])).await;
    assert!(watch.connected() && watch.last_error().is_none());
    assert_eq!(watch.errors(), 5);
}

#[tokio::test]
async fn a_server_that_was_away_comes_back_with_deletions() {
    let mut server = Server::start().await;
    let script = server.script("services");
    let feed = script.stream();
    feed.added(&service("a", "10.0.0.1", "1")).added(&service("b", "10.0.0.2", "2")).listed("3");
    let (mut door, _stop) = opened(config(&server)).await;
    let before = until(&mut door, "both services", holds(&["a=10.0.0.1", "b=10.0.0.2"])).await;
    server.stop();
    let status = std::sync::Arc::clone(&door.status);
    eventually("the loss shows", || !status.connected()).await;
    eventually("it is tried again", || status.watches().iter().all(|watch| watch.errors() >= 3)).await;
    assert!(status.in_sync(), "what is known stays in force");
    assert_eq!(door.snapshots.borrow().snapshot.generation, before.snapshot.generation);
    // Some requests resume the watch and are told that it is too late; the list that follows lacks one service.
    for _ in 0..2 {
        script.refuse(410, "Expired", "too old resource version");
    }
    let again = script.stream();
    again.added(&service("b", "10.0.0.2", "2")).listed("30");
    server.start_again().await;
    until(&mut door, "what is left", holds(&["b=10.0.0.2"])).await;
    eventually("all is well again", || status.connected()).await;
    assert!(status.watches().iter().all(|watch| watch.last_error().is_none()));
}

#[tokio::test]
async fn a_kind_that_never_comes_is_named_with_its_error() {
    let server = Server::start().await;
    let _silent = server.script("endpointslices");
    let refused = server.script("nodes");
    for _ in 0..10_000 {
        refused.refuse(403, "Forbidden", "nodes is forbidden");
    }
    let mut config = config(&server);
    config.sync_timeout = Duration::from_secs(3);
    let (door, _stop) = opened(config).await;
    let Err(error) = timeout(DEADLINE, door.task).await.unwrap().unwrap() else { panic!("in sync without answers") };
    let Error::NotInSync { missing, .. } = &error else { panic!("{error}") };
    let kinds: Vec<Kind> = missing.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Kind::EndpointSlice, Kind::Node]);
    let text = error.to_string();
    assert!(text.contains("endpointslice (the list has not ended yet)"), "{text}");
    assert!(text.contains("node (watch: 403 Forbidden: nodes is forbidden)"), "{text}");
    assert!(text.contains("--cache-sync-timeout"), "{text}");
    assert_eq!(door.snapshots.borrow().snapshot.generation.0, 0, "nothing is published of half a cluster");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let mut server = Server::start().await;
    server.stop();
    let mut config = config(&server);
    config.sync_timeout = Duration::from_millis(500);
    let (door, _stop) = opened(config).await;
    let error = timeout(DEADLINE, door.task).await.unwrap().unwrap().unwrap_err().to_string();
    assert!(error.contains("service (") && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn another_way_is_looked_for_when_the_server_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let point_to = |server: &Server| {
        let cluster = json!({"name": "k", "cluster": {"server": server.url()}});
        let context = json!({"name": "c", "context": {"cluster": "k", "user": "u"}});
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster],
                            "contexts": [context], "users": [{"name": "u", "user": {}}]});
        std::fs::write(&path, config.to_string()).unwrap();
    };
    let (mut lost, other) = (Server::start().await, Server::start().await);
    let feed = lost.script("services").stream();
    feed.added(&service("a", "10.0.0.1", "1")).listed("3");
    point_to(&lost);
    let access = ApiConfig { kubeconfig: Some(path.clone()), ..ApiConfig::default() };
    let config = Config { source: Source::Api(access), ..config(&lost) };
    let (mut door, _stop) = opened(config).await;
    let before = until(&mut door, "the service", holds(&["a=10.0.0.1"])).await;
    point_to(&other);
    let feed = other.script("services").stream();
    lost.stop();
    feed.added(&service("a", "10.0.0.1", "90")).added(&service("b", "10.0.0.2", "91")).listed("92");
    let after = until(&mut door, "what the other server says", holds(&["a=10.0.0.1", "b=10.0.0.2"])).await;
    assert_eq!(after.snapshot.changes_since(&before.snapshot).services.len(), 1);
}

#[tokio::test]
async fn the_door_closes_when_told() {
    let server = Server::start().await;
    let (mut door, stop) = opened(config(&server)).await;
    until(&mut door, "an empty cluster", holds(&[])).await;
    stop.send(true).unwrap();
    timeout(DEADLINE, door.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn pods_and_all_nodes_come_only_when_needed() {
    let server = Server::start().await;
    let pods = server.script("pods").stream();
    pods.added(&json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "ns", "name": "p", "resourceVersion": "1"},
        "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIP": "10.1.0.1"}
    }));
    pods.listed("2");
    let mut config = config(&server);
    config.needs = Needs { all_nodes: true, pods: true, policies: false };
    let (mut door, _stop) = opened(config).await;
    until(&mut door, "the pod", |snapshot| snapshot.pods.len() == 1).await;
    assert!(!server.queries("nodes")[0].contains("fieldSelector"));
}

fn cluster_policy(name: &str, spec: &Value, version: &str) -> Value {
    json!({
        "kind": "ClusterNetworkPolicy", "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "metadata": {"name": name, "resourceVersion": version}, "spec": spec
    })
}

#[tokio::test]
async fn a_kind_the_server_does_not_know_is_watched_from_when_it_does() {
    let server = Server::start().await;
    let discovery = server.script("v1alpha2");
    let served = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "policy.networking.k8s.io/v1alpha2",
        "resources": [{"name": "clusternetworkpolicies", "singularName": "", "namespaced": false,
                       "kind": "ClusterNetworkPolicy", "verbs": ["list", "watch"]}]
    });
    let policies = server.script("clusternetworkpolicies");
    discovery.refuse(404, "NotFound", "the server could not find the requested resource");
    let needs = Needs { policies: true, ..Needs::default() };
    let (mut door, _stop) = opened(Config { needs, ..config(&server) }).await;
    let first = until(&mut door, "anything", |_| true).await;
    assert!(first.snapshot.cluster_policies.is_empty() && door.status.in_sync());
    assert!(server.queries("clusternetworkpolicies").is_empty(), "what is not there is not asked for");
    // The definition appears.
    discovery.whole(200, &served);
    let feed = policies.stream();
    let good = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}});
    // A field of the wrong type costs only itself.
    let odd = json!({"tier": 7, "priority": "high", "subject": [], "ingress": "all"});
    feed.added(&cluster_policy("good", &good, "1")).added(&cluster_policy("odd", &odd, "2")).listed("3");
    let both = until(&mut door, "both policies", |snapshot| snapshot.cluster_policies.len() == 2).await;
    assert_eq!(both.snapshot.changes_since(&first.snapshot).cluster_policies.len(), 2);
    assert_eq!(door.status.n_rejected(Kind::ClusterNetworkPolicy), 1);
    // It is taken away, with everything of its kind.
    policies.refuse(404, "NotFound", "the server could not find the requested resource");
    policies.refuse(404, "NotFound", "the server could not find the requested resource");
    discovery.refuse(404, "NotFound", "the server could not find the requested resource");
    drop(feed);
    until(&mut door, "no policies", |snapshot| snapshot.cluster_policies.is_empty()).await;
    assert!(door.status.connected(), "that is no trouble");
}

#[tokio::test]
async fn what_an_owner_should_know_becomes_one_event() {
    let server = Server::start().await;
    let feed = server.script("services").stream();
    let events = server.script("events");
    let mut odd = service("odd", "10.0.0.1", "1");
    odd["metadata"]["uid"] = json!("u-7");
    odd["metadata"]["annotations"] = json!({"kube-router.io/service.scheduler": "best"});
    feed.added(&service("a", "10.0.0.2", "1")).added(&odd).listed("3");
    let (mut door, _stop) = opened(config(&server)).await;
    until(&mut door, "both, the odd one too", holds(&["a=10.0.0.2", "odd=10.0.0.1"])).await;
    assert_eq!(door.status.n_rejected(Kind::Service), 1);
    eventually("an event is written", || server.bodies("events").len() == 1).await;
    let written = &server.bodies("events")[0];
    assert_eq!(written["reason"], "UnknownScheduler");
    assert_eq!(written["regarding"]["name"], "odd");
    assert_eq!(written["type"], "Warning");
    assert!(written["note"].as_str().unwrap().contains("kube-router.io/service.scheduler"));
    // The server says no: it is not asked again, and nothing else suffers.
    events.refuse(403, "Forbidden", "events.events.k8s.io is forbidden");
    let notice = |message: &str| Notice {
        subject: Subject::Node(NodeName::new("n1")),
        severity: Severity::Normal,
        reason: "Tested",
        message: message.to_owned(),
    };
    for message in ["one", "one", "two"] {
        door.notices.send(notice(message)).await.unwrap();
    }
    let recent = std::sync::Arc::clone(&door.recent_notices);
    eventually("each is noted once", || recent.all().len() == 3).await;
    assert_eq!(server.bodies("events").len(), 1);
    // Mended: the rejection is no longer there.
    odd["metadata"]["annotations"] = json!({});
    feed.event("MODIFIED", &odd);
    let status = std::sync::Arc::clone(&door.status);
    eventually("the rejection ends", || status.n_rejected(Kind::Service) == 0).await;
}

#[tokio::test]
async fn the_api_servers_are_remembered_for_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("endpoints.json");
    let server = Server::start().await;
    let feed = server.script("endpointslices").stream();
    feed.added(&api_servers(&["10.9.0.2", "10.9.0.1"], "1")).listed("2");
    let mut config = config(&server);
    config.source = Source::Api(ApiConfig {
        master: Some(server.url()),
        endpoints_file: Some(file.clone()),
        ..ApiConfig::default()
    });
    let (_door, _stop) = opened(config).await;
    let content = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the file is written", || content() == r#"{"endpoints":["10.9.0.1:6443","10.9.0.2:6443"]}"#).await;
    feed.event("MODIFIED", &api_servers(&["10.9.0.3"], "3"));
    eventually("the file follows", || content() == r#"{"endpoints":["10.9.0.3:6443"]}"#).await;
}

#[tokio::test]
async fn a_fixed_snapshot_is_published_and_stays() {
    let snapshot = Snapshot::empty(NodeName::new("n1"));
    let config = Config::new(Source::Fixed(Box::new(snapshot)), NodeName::new("n1"), Needs::default());
    let (mut door, _stop) = opened(config).await;
    let published = until(&mut door, "anything", |_| true).await;
    assert_eq!(published.snapshot.generation.0, 1);
    assert!(!door.task.is_finished());
}

#[tokio::test]
async fn without_any_server_the_error_says_what_to_give() {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        eprintln!("skipped: this runs inside a pod, where a server is known");
        return;
    }
    let config = Config::new(Source::Api(ApiConfig::default()), NodeName::new("n1"), Needs::default());
    let (_stop, stopped) = channel(false);
    let error = start(config, stopped).await.unwrap_err().to_string();
    assert!(error.contains("--kubeconfig, --master, or --manifests"), "{error}");
}
