//! Golden cases: a folder with plain Kubernetes YAML, the flags that matter, and what the node n1 makes of it.
//!
//! `cluster.yaml` is the cluster, `flags.txt` holds flags one a line, `want/` what should be. Where the transition
//! matters, `02.yaml` and so on are the clusters that follow, and `02.plan.txt` beside them in `want/` what the room
//! writes on the way there. `FERROVIA_BLESS=1` writes `want/` anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrovia::app::translate::{proxy_config, routing_config};
use ferrovia::cli::{self, Environment, Request};
use ferrovia::config::{self, Purpose};
use ferrovia::k8s::{Report, load_text};
use ferrovia::kernel::rtnl::{Op, Route, RouteKind, Rtnl, protocol, table};
use ferrovia::model::{NodeName, Snapshot};
use ferrovia::net::Family;
use ferrovia::proxy::render::{Picture, Rendered, render};
use ferrovia::proxy::{Config, DUMMY_LINK, NodeView, TABLE};
use ferrovia::reconcile::{Read, Subsystem};
use ferrovia::routing;
use ferrovia::routing::peers::build_peers;
use ferrovia::testing::builders::own_links;
use ferrovia::testing::golden::Golden;
use ferrovia::testing::node::{FakeNode, Written, pass};
use ferrovia::testing::router::RouterNode;

/// Fewer than this means that the folder was not found or lost cases.
const AT_LEAST: usize = 25;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("cluster.yaml").exists())
        .collect();
    cases.sort();
    assert!(cases.len() >= AT_LEAST, "{} golden cases", cases.len());
    cases
}

/// The flags of a case as the daemon would read them.
fn configuration(case: &Path) -> Config {
    proxy_config(&flags(case))
}

fn flags(case: &Path) -> config::Config {
    let text = fs::read_to_string(case.join("flags.txt")).unwrap_or_default();
    let command = ["ferrovia", "render", "--manifests=.", "--node=n1"];
    let arguments = command.into_iter().chain(text.lines());
    match cli::parse(arguments, &Environment::default()) {
        Ok(Request::Render(request)) => config::Config::new(&request.flags, Purpose::Render).unwrap(),
        other => panic!("{}: {other:?}", case.display()),
    }
}

fn cluster(file: &Path) -> (Snapshot, Vec<Report>) {
    load_text(&fs::read_to_string(file).unwrap(), &NodeName::new("n1"))
}

/// Everything people are told: what could not be read, what was left out, what load balancers learn.
fn told(rendered: &Rendered, reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        writeln!(text, "not used: {report}").unwrap();
    }
    for notice in &rendered.notices {
        writeln!(text, "{:?}: {} ({}): {}", notice.severity, notice.subject, notice.reason, notice.message).unwrap();
    }
    for check in &rendered.health_checks {
        writeln!(text, "health check: port {} of {}, ready here: {}", check.port, check.service, check.ready).unwrap();
    }
    text
}

fn plan_text(written: &Written) -> String {
    let mut text = String::new();
    for (title, lines) in [("ipvsadm", &written.ipvs), ("ip", &written.rtnl), ("nft", &written.nft)] {
        if !lines.is_empty() {
            writeln!(text, "# {title}").unwrap();
        }
        for line in lines {
            // The uplink is the second link of a fake node, the dummy link the third.
            writeln!(text, "{}", line.trim_end().replace(" if3", &format!(" {DUMMY_LINK}"))).unwrap();
        }
    }
    text
}

#[test]
fn every_case_renders_what_it_should() {
    let mut differences = Vec::new();
    for case in cases() {
        let config = configuration(&case);
        let (snapshot, reports) = cluster(&case.join("cluster.yaml"));
        let rendered = render(&snapshot, &config);
        let mut golden = Golden::new(&case.join("want"));
        golden.compare("ipvs.txt", &rendered.ipvs);
        golden.compare("nat.nft", &rendered.nft);
        golden.compare("ip.txt", &rendered.ip);
        golden.compare("notices.txt", &told(&rendered, &reports));
        if is_for_the_router(&case) {
            let routing = routing::render::render(&snapshot, &routing_config(&flags(&case)));
            golden.compare("bgp.txt", &routing.bgp);
            golden.compare("routes.txt", &routing.ip);
            golden.compare("routing.nft", &routing.nft);
            let told = routing.notices.iter().map(|notice| {
                format!("{:?}: {} ({}): {}\n", notice.severity, notice.subject, notice.reason, notice.message)
            });
            golden.compare("routing-notices.txt", &told.collect::<String>());
        }
        for (name, text) in transitions(&case, &config) {
            golden.compare(&name, &text);
        }
        differences.extend(golden.finish());
    }
    assert!(differences.is_empty(), "FERROVIA_BLESS=1 accepts this:\n{}", differences.join("\n"));
}

/// Cases named so also say what the router would hold and tell.
fn is_for_the_router(case: &Path) -> bool {
    case.file_name().is_some_and(|name| name.to_string_lossy().starts_with("router-"))
}

/// What is rendered for the router is what its room writes and says, once other nodes have told their pods.
#[test]
fn every_router_case_is_what_the_room_does() {
    for case in cases().iter().filter(|case| is_for_the_router(case)) {
        let config = routing_config(&flags(case));
        let (snapshot, _) = cluster(&case.join("cluster.yaml"));
        let rendered = routing::render::render(&snapshot, &config);
        let router = RouterNode::on(FakeNode::new());
        // The subnet of the node's IPv6 address, which a kernel adds by itself.
        router.node.rtnl.open().put_route(Route {
            table: table::MAIN,
            destination: "fd10::/64".parse().unwrap(),
            kind: RouteKind::Unicast,
            protocol: protocol::KERNEL,
            scope: 0,
            link: Some(2),
            gateway: None,
            next_hops: Vec::new(),
            source: None,
            metric: 256,
        });
        for (name, node) in snapshot.nodes.iter().filter(|(name, _)| **name != snapshot.node_name) {
            for pods in &node.pod_cidrs {
                let hop = node.best_ip(Family::of(pods.addr())).unwrap_or_else(|| panic!("{name} has no address"));
                router.speaker.learn(&pods.to_string(), &[&hop.to_string()]);
            }
        }
        // Peers answer as they are assumed to.
        for neighbour in routing::render::neighbours(&build_peers(&snapshot, &config), &own_links()) {
            router.node.rtnl.open().put_neighbour(neighbour);
        }
        let outcome = router.room(&config, false).sync(&snapshot, Read::Kernel, Duration::ZERO);
        assert!(outcome.failed.is_empty(), "{}: {:?}", case.display(), outcome.failed);
        let links = router.node.rtnl.open().links().unwrap();
        let by_name = |op: &Op| {
            let text = op.to_string();
            let name =
                |word: &str| links.iter().find(|link| word == format!("if{}", link.index)).map(|l| l.name.clone());
            text.split(' ').map(|word| name(word).unwrap_or_else(|| word.to_owned())).collect::<Vec<_>>().join(" ")
        };
        // The bridge is the pods' affair: what is drawn is how packets leave the node.
        let boring =
            |line: &String| ["127.0.0.1", "dev lo", " mtu ", "dev kube-bridge"].iter().any(|word| line.contains(word));
        let written: BTreeSet<String> =
            router.node.rtnl.open().applied().iter().map(by_name).filter(|l| !boring(l)).collect();
        let wanted: BTreeSet<String> = rendered.ip.lines().map(str::to_owned).filter(|line| !boring(line)).collect();
        assert_eq!(written, wanted, "{}", case.display());
        let heard = router.speaker.open();
        let told = routing::render::peers(heard.config.as_ref().unwrap()) + &routing::render::originated(&heard.routes);
        assert_eq!(told, rendered.bgp, "{}", case.display());
    }
}

/// What the room writes from each step to the next.
fn transitions(case: &Path, config: &Config) -> Vec<(String, String)> {
    let steps = (2..100).map(|number| format!("{number:02}"));
    let steps: Vec<String> = steps.take_while(|name| case.join(format!("{name}.yaml")).exists()).collect();
    let node = FakeNode::new();
    let mut room = node.room(config);
    let (mut last, _) = cluster(&case.join("cluster.yaml"));
    let outcome = pass(&mut room, &last, Read::Kernel, 0);
    assert!(outcome.failed.is_empty(), "{}: {:?}", case.display(), outcome.failed);
    let mut plans = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let before = node.written();
        let (mut snapshot, _) = cluster(&case.join(format!("{step}.yaml")));
        snapshot.generation.0 = last.generation.0 + 1;
        // A minute apart: whatever drains without connections has gone by the next step.
        let outcome = pass(&mut room, &snapshot, Read::Remembered, 60 * (index as u64 + 1));
        assert!(outcome.failed.is_empty(), "{}: {:?}", case.display(), outcome.failed);
        plans.push((format!("{step}.plan.txt"), plan_text(&node.written().since(&before))));
        last = snapshot;
    }
    plans
}

/// What is rendered is what a room over an empty kernel brings into force.
#[test]
fn every_case_is_what_the_room_writes() {
    for case in cases() {
        let config = configuration(&case);
        let (snapshot, _) = cluster(&case.join("cluster.yaml"));
        let node = FakeNode::new();
        let mut room = node.room(&config);
        let outcome = pass(&mut room, &snapshot, Read::Kernel, 0);
        assert!(outcome.failed.is_empty(), "{}: {:?}", case.display(), outcome.failed);
        // A host knows more addresses of its own than its Node object says.
        let own = ["127.0.0.1", "192.168.10.11", "::1", "fd10::11"].map(|address| address.parse().unwrap());
        let picture = Picture::seen_from(&NodeView::new(&snapshot, &own, 1500), &snapshot, &config);
        let state = node.state();
        assert_eq!(state.servers, picture.table, "{}", case.display());
        assert_eq!(state.tables.get(TABLE), Some(&picture.ruleset), "{}", case.display());
        let mut addresses = Vec::new();
        let mut rules = Vec::new();
        for op in &picture.links {
            match op {
                Op::AddAddress(address) => addresses.push(address.prefix.addr()),
                Op::AddRule(rule) => rules.push(*rule),
                _ => {}
            }
        }
        assert_eq!(node.vips().0, addresses, "{}", case.display());
        assert_eq!(state.rules.iter().filter(|rule| rules.contains(rule)).count(), rules.len(), "{}", case.display());
        let again = pass(&mut room, &snapshot, Read::Kernel, 1);
        assert_eq!((again.ops, again.drift), (0, 0), "{}", case.display());
    }
}
