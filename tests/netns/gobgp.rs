//! gobgp's command line and ours, gobgpd and the speaker: each client asks each server the same of the same routes, and
//! the answers are equal but for times and counters.
//!
//! Needs Debian's `gobgpd` package; a client and server of the current major in `$FERROVIA_TOOLS/gobgp4` (where `cargo
//! xtask setup` puts them) are tried as well. What is missing is said; in CI (`CI=true`) that is a failure.

#![allow(clippy::disallowed_methods, reason = "daemons and tools are processes, and the test waits on a thread")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::ensure;
use ferrovia::kernel::netns::run_in_new;
use ferrovia::net::Asn;
use ferrovia::routing::bgp::api::server;
use ferrovia::routing::bgp::policy::PolicySet;
use ferrovia::routing::bgp::rib::Settings;
use ferrovia::routing::bgp::speaker::{self, Change, Goodbye, Options, PeerConfig, Speaker};
use ferrovia::routing::bgp::tcp::Distance;
use ferrovia::testing::builders::bgp_peer;
use ferrovia::testing::lab::{report, wait};

/// Where the speaker under test answers; its peer answers one port higher.
const SUBJECT: u16 = 50051;
const PEER: u16 = 50052;

/// Debian's programs, and where the current major's are where they are there.
struct Tools {
    gobgp: PathBuf,
    gobgpd: PathBuf,
    current: Option<PathBuf>,
}

/// The programs; `None` where the test has to be left out, which was said then.
fn tools() -> Option<Tools> {
    if !crate::in_own_namespace() {
        return None;
    }
    let find = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    };
    let skipped = |why: &str| {
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        report(&format!("{test}: skipped: {why}"));
        assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI nothing may be skipped: {why}");
    };
    let (Some(gobgp), Some(gobgpd)) = (find("gobgp"), find("gobgpd")) else {
        skipped("no gobgp and gobgpd (Debian's package gobgpd); cargo xtask setup installs them");
        return None;
    };
    let folder = match std::env::var_os("FERROVIA_TOOLS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/ferrovia/tools"),
    };
    let current = Some(folder.join("gobgp4")).filter(|folder| folder.join("gobgp").is_file());
    if current.is_none() {
        skipped("the part with gobgp 4: it is not in $FERROVIA_TOOLS/gobgp4; cargo xtask setup puts it there");
    }
    Some(Tools { gobgp, gobgpd, current })
}

/// A process that ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The server under test connects and its peer waits. Two gobgpds that both connect may refuse each other's connection
/// again and again.
fn gobgpd(program: &Path, folder: &Path, name: &str, port: u16, own: (&str, u32, &str), other: (&str, u32)) -> Daemon {
    let (address, asn, router_id) = own;
    let (peer, peer_asn) = other;
    let passive = port == PEER;
    let config = format!(
        r#"
[global.config]
  as = {asn}
  router-id = "{router_id}"
  port = 1790
  local-address-list = ["{address}"]
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{peer}"
    peer-as = {peer_asn}
  [neighbors.transport.config]
    local-address = "{address}"
    remote-port = 1790
    passive-mode = {passive}
  [neighbors.timers.config]
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [neighbors.ebgp-multihop.config]
    enabled = true
    multihop-ttl = 10
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
"#
    );
    let file = folder.join(format!("{name}.toml"));
    std::fs::write(&file, config).unwrap();
    let log = std::fs::File::create(folder.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(program);
    command.arg("-f").arg(file).args(["--api-hosts", &format!("127.0.0.1:{port}"), "--pprof-disable"]);
    Daemon(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

/// The addresses of both sides. Not 127.0.0.0/8: gobgpd takes no routes with such a next hop.
fn addresses() {
    for line in ["link set lo up", "address add 192.0.2.1/32 dev lo", "address add 192.0.2.2/32 dev lo"] {
        assert!(Command::new("ip").args(line.split_whitespace()).status().unwrap().success(), "ip {line}");
    }
}

/// A client: the real one, or ours under its name.
#[derive(Clone, Copy)]
enum Client<'a> {
    Real(&'a Path),
    Ours,
}

impl Client<'_> {
    fn command(self) -> Command {
        match self {
            Client::Real(path) => Command::new(path),
            Client::Ours => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_ferrovia"));
                command.arg0("gobgp");
                command
            }
        }
    }

    fn run(self, line: &str) -> Output {
        self.command().args(line.split_whitespace()).output().unwrap()
    }

    /// What it printed; it must have succeeded.
    fn text(self, line: &str) -> String {
        let output = self.run(line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gobgp {line}: {text}{errors}");
        text
    }
}

/// How long daemons may take to do something; gobgpd tries to connect every five to ten seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Until the subject's session is up; `folder` has the daemons' logs.
fn wait_for_session(client: Client<'_>, folder: &Path) {
    wait::until("the session is up", PATIENCE, || {
        let output = client.run(&format!("-p {SUBJECT} neighbor"));
        ensure!(String::from_utf8_lossy(&output.stdout).contains("Establ"), "{output:?}");
        Ok(())
    })
    .unwrap_or_else(|error| panic!("{error:#}{}", logs(folder)));
}

/// What the daemons have logged, for a message.
fn logs(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|file| file.extension().is_some_and(|extension| extension == "log"));
    logs.map(|file| format!("\n{}:\n{}", file.display(), std::fs::read_to_string(&file).unwrap())).collect()
}

/// The speaker, where gobgpd would be.
struct Ours {
    speaker: Speaker,
    runtime: tokio::runtime::Runtime,
}

impl Ours {
    fn start() -> Ours {
        Ours::start_with(None)
    }

    fn start_with(tls: Option<server::Tls>) -> Ours {
        let config = speaker::Config {
            asn: Asn(64512),
            router_id: Ipv4Addr::new(10, 0, 0, 1),
            cluster_id: Ipv4Addr::new(10, 0, 0, 1),
            listen: vec!["192.0.2.1:1790".parse().unwrap()],
            decision: Settings::default(),
            policies: PolicySet::default(),
            peers: BTreeMap::from([("192.0.2.2".parse().unwrap(), peer())]),
            dynamic: BTreeMap::new(),
        };
        let options = Options::default();
        let (speaker, _) = speaker::spawn(config, options).unwrap();
        drop(speaker.change(vec![Change::Announce(Vec::new())]));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], SUBJECT));
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        let questions = speaker.questions().clone();
        runtime.spawn(server::serve_with(listener, questions, tls, std::future::pending()));
        Ours { speaker, runtime }
    }

    fn stop(self) {
        self.runtime.block_on(self.speaker.stop(Goodbye::Leave(String::new()), Duration::from_secs(2)));
    }
}

fn peer() -> PeerConfig {
    PeerConfig {
        asn: Some(Asn(65001)),
        distance: Distance::Multihop(10),
        next_hop_v6: Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]).into()),
        ..bgp_peer(Asn(64512), IpAddr::from([192, 0, 2, 1]), 1790)
    }
}

/// Routes of the peer and of the subject, by the real client.
fn add_routes(real: Client<'_>) {
    for line in [
        "10.1.0.0/24 med 5 community 100:200,no-peer origin igp",
        "10.2.0.0/24 large-community 1:2:3 rt 65000:1 aggregator 65001:10.0.0.9",
        "10.2.1.0/24 aspath 65009,65010",
        "10.3.0.0/16",
        "2001:db8:1::/48 nexthop 2001:db8::2 -a ipv6",
    ] {
        real.text(&format!("-p {PEER} global rib add {line}"));
    }
    for line in ["10.244.1.0/24 origin igp", "10.3.0.0/16 nexthop 192.0.2.1 med 7", "2001:db8:244::/64 -a ipv6"] {
        real.text(&format!("-p {SUBJECT} global rib add {line}"));
    }
    wait::until_true("the routes have arrived", PATIENCE, || {
        let here = real.text(&format!("-p {SUBJECT} neighbor 192.0.2.2 adj-in"));
        let there = real.text(&format!("-p {PEER} neighbor 192.0.2.1 adj-in -a ipv6"));
        Ok(here.lines().count() == 5 && there.contains("2001:db8:244::/64"))
    })
    .unwrap();
}

/// Asked everywhere; answers are equal on every server.
const TABLES: &[&str] = &[
    "neighbor",
    "neighbor -a ipv6",
    "neighbor -q",
    "global",
    "global -j",
    "global rib",
    "global rib -j",
    "global rib -a ipv6",
    "global rib -a ipv6 -j",
    "global rib 10.1.0.0/24",
    "global rib 10.2.1.7",
    "global rib 10.2.0.0/15 longer-prefixes",
    "global rib 10.3.1.0/24 shorter-prefixes",
    "global rib 10.99.0.0/24",
    "global rib summary",
    "global rib summary -a ipv6",
    "global rib summary -j",
    "neighbor 192.0.2.2 adj-in",
    "neighbor 192.0.2.2 adj-in -j",
    "neighbor 192.0.2.2 adj-in -a ipv6",
    "neighbor 192.0.2.2 adj-in 10.2.0.0/24",
    "neighbor 192.0.2.2 adj-out",
    "neighbor 192.0.2.2 adj-out -j",
    "neighbor 192.0.2.2 adj-in summary",
    "neighbor 192.0.2.2 adj-in summary -j",
    "neighbor 192.0.2.2 adj-out summary",
    "global policy",
    "global policy -j",
    "policy prefix",
    "policy",
    "policy -j",
];

/// Asked everywhere; each server answers both clients alike, but one server not as the other does: what is counted,
/// offered and configured is not the same.
const OF_ONE_SERVER: &[&str] = &[
    "neighbor 192.0.2.2",
    "neighbor -j",
    "neighbor 192.0.2.2 -j",
    "neighbor 192.0.2.2 accepted",
    "neighbor 192.0.2.2 adj-out -a ipv6",
];

/// An answer without what may differ from one moment to the next: times, ages, and counters of messages.
fn masked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_clock = |text: &str| {
            let mask: String = text.chars().take(8).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            mask == "00:00:00"
        };
        if is_clock(rest) {
            out.push_str("TT:TT:TT");
            rest = rest.get(8..).unwrap_or_default();
            continue;
        }
        out.push(c);
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    let counted = ["    Keepalives:", "    Updates:", "    Total:"];
    let lines = out.lines().map(|line| match counted.iter().find(|start| line.starts_with(**start)) {
        Some(start) => format!("{start} N"),
        None => line.to_owned(),
    });
    let mut text: String = lines.collect::<Vec<_>>().join("\n");
    for key in ["\"age\":", "\"seconds\":", "\"nanos\":", "\"keepalive\":", "\"update\":", "\"total\":"] {
        text = numbers_zeroed(&text, key);
    }
    // The real client shows an empty AS_PATH so when it comes in binary form, as the speaker sends it.
    let text = text.replace("\"as_paths\":null", "\"as_paths\":[]");
    // How many spaces part the fields of a printed message differs from build to build of gobgp.
    sorted_capabilities(&text.replace("  safi:", " safi:"))
}

fn numbers_zeroed(text: &str, key: &str) -> String {
    let mut parts = text.split(key);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(key);
        out.push('0');
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}

/// gobgpd tells a peer's capabilities in another order each time.
fn sorted_capabilities(text: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<serde_json::Value>(text) else { return text.to_owned() };
    let peers = match &mut value {
        serde_json::Value::Array(peers) => peers.iter_mut().collect::<Vec<_>>(),
        one => vec![one],
    };
    let mut found = false;
    for state in peers.into_iter().filter_map(|peer| peer.get_mut("state")) {
        for key in ["remote_cap", "local_cap"] {
            if let Some(list) = state.get_mut(key).and_then(serde_json::Value::as_array_mut) {
                found = true;
                list.sort_by_key(ToString::to_string);
            }
        }
    }
    if found { value.to_string() } else { text.to_owned() }
}

/// An answer without what differs between servers and means nothing: the order of attributes, and whether a route
/// without AS_PATH has an empty one.
fn settled(text: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<serde_json::Value>(text) else { return text.to_owned() };
    let paths = value.as_object_mut().into_iter().flat_map(|all| all.values_mut());
    let paths = paths.filter_map(serde_json::Value::as_array_mut).flatten();
    for attributes in paths.filter_map(|path| path.get_mut("attrs")?.as_array_mut()) {
        attributes.retain(|one| one["as_paths"].as_array().is_none_or(|segments| !segments.is_empty()));
        attributes.sort_by_key(|one| one["type"].as_u64());
    }
    value.to_string()
}

fn ask(client: Client<'_>, line: &str) -> String {
    masked(&client.text(&format!("-p {SUBJECT} {line}")))
}

/// Every answer of a server to both clients, which are equal.
fn answers(real: Client<'_>) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let mut wrong = String::new();
    for line in TABLES.iter().chain(OF_ONE_SERVER) {
        let (theirs, ours) = (ask(real, line), ask(Client::Ours, line));
        if theirs != ours {
            wrong.push_str(&format!("gobgp {line}\n--- the real client\n{theirs}\n--- ours\n{ours}\n"));
        }
        all.push((*line, theirs));
    }
    assert!(wrong.is_empty(), "{wrong}");
    all
}

/// What both clients tell while a route comes and goes and a session ends.
fn news(real: Client<'_>) -> Vec<(&'static str, Vec<String>)> {
    const LINES: [&str; 3] = ["monitor global rib", "monitor adj-in", "monitor neighbor 192.0.2.2"];
    let start = |client: Client<'_>, line: &str| {
        let mut command = client.command();
        command.args(format!("-p {SUBJECT} {line}").split_whitespace());
        Daemon(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    };
    let mut watching: Vec<_> = LINES.iter().map(|line| (*line, start(real, line), start(Client::Ours, line))).collect();
    // Until each has asked: a watcher shows nothing before there is news.
    std::thread::sleep(Duration::from_millis(1500));
    real.text(&format!("-p {PEER} global rib add 10.7.0.0/24 med 1 community 1:2"));
    std::thread::sleep(Duration::from_millis(500));
    real.text(&format!("-p {PEER} global rib del 10.7.0.0/24"));
    std::thread::sleep(Duration::from_millis(500));
    Client::Ours.text(&format!("-p {SUBJECT} neighbor 192.0.2.2 disable --reason maintenance"));
    std::thread::sleep(Duration::from_millis(1000));
    let mut told = Vec::new();
    for (line, theirs, ours) in &mut watching {
        let theirs = heard(theirs);
        assert_eq!(theirs, heard(ours), "gobgp {line}");
        told.push((*line, theirs));
    }
    told
}

/// All a process said until now, without the clock, which may differ by a second; it ends.
fn heard(daemon: &mut Daemon) -> Vec<String> {
    daemon.0.kill().unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut daemon.0.stdout.take().unwrap(), &mut text).unwrap();
    text.lines().map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest).to_owned()).collect()
}

#[test]
fn both_clients_hear_the_same_of_both_servers() {
    let Some(tools) = tools() else { return };
    let real = Client::Real(&tools.gobgp);
    let folder = tempfile::tempdir().unwrap();
    let run = |with: &(dyn Fn() + Send + Sync)| {
        run_in_new(|| {
            addresses();
            let peer = ("192.0.2.2", 65001, "10.0.0.2");
            let _peer = gobgpd(&tools.gobgpd, folder.path(), "peer", PEER, peer, ("192.0.2.1", 64512));
            with();
        })
        .unwrap();
    };
    let (theirs, ours) = (std::sync::Mutex::new(Vec::new()), std::sync::Mutex::new(Vec::new()));
    run(&|| {
        let own = ("192.0.2.1", 64512, "10.0.0.1");
        let _subject = gobgpd(&tools.gobgpd, folder.path(), "subject", SUBJECT, own, ("192.0.2.2", 65001));
        wait_for_session(real, folder.path());
        add_routes(real);
        *theirs.lock().unwrap() = answers(real);
        news(real);
    });
    run(&|| {
        let subject = Ours::start();
        wait_for_session(Client::Ours, folder.path());
        add_routes(real);
        *ours.lock().unwrap() = answers(real);
        let told = news(real);
        let told =
            |line: &str| told.iter().find(|(known, _)| *known == line).map(|(_, lines)| lines.join("\n")).unwrap();
        let best = told("monitor global rib");
        assert!(best.contains("[ROUTE] 10.7.0.0/24 via 192.0.2.2 aspath [65001]"), "{best}");
        assert!(best.contains("[DELROUTE] 10.7.0.0/24 via 192.0.2.2 aspath [65001]"), "{best}");
        assert!(told("monitor adj-in").contains("[DELROUTE] 10.7.0.0/24"));
        assert!(told("monitor neighbor 192.0.2.2").ends_with("[NEIGH] 192.0.2.2 fsm: IDLE admin: DOWN"));
        assert!(ask(real, "neighbor").contains("Idle(Admin)"));
        subject.stop();
    });
    let (theirs, ours) = (theirs.into_inner().unwrap(), ours.into_inner().unwrap());
    let mut wrong = String::new();
    for ((line, theirs), (_, ours)) in theirs.iter().zip(&ours).filter(|((line, _), _)| TABLES.contains(line)) {
        if settled(theirs) != settled(ours) {
            wrong.push_str(&format!("gobgp {line}\n--- gobgpd\n{theirs}\n--- the speaker\n{ours}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_current_major_is_understood_both_ways() {
    let Some(tools) = tools() else { return };
    let Some(current) = &tools.current else { return };
    let (real, new) = (Client::Real(&tools.gobgp), current.join("gobgp"));
    let new = Client::Real(&new);
    let folder = tempfile::tempdir().unwrap();
    let lines = ["neighbor", "global rib", "global rib -a ipv6", "neighbor 192.0.2.2 adj-in", "global rib summary"];
    let expected = std::sync::Mutex::new(Vec::new());
    let in_namespace = |work: &(dyn Fn() + Send + Sync)| {
        run_in_new(|| {
            addresses();
            let peer = ("192.0.2.2", 65001, "10.0.0.2");
            let _peer = gobgpd(&tools.gobgpd, folder.path(), "peer4", PEER, peer, ("192.0.2.1", 64512));
            work();
        })
        .unwrap();
    };
    // The new client and the speaker.
    in_namespace(&|| {
        let subject = Ours::start();
        wait_for_session(Client::Ours, folder.path());
        add_routes(real);
        for line in lines {
            assert_eq!(ask(new, line), ask(Client::Ours, line), "gobgp4 {line}");
            expected.lock().unwrap().push(ask(Client::Ours, line));
        }
        for line in ["neighbor 192.0.2.2", "global", "policy", "global policy", "neighbor 192.0.2.2 adj-out"] {
            new.text(&format!("-p {SUBJECT} {line}"));
        }
        new.text(&format!("-p {SUBJECT} global rib add 10.8.0.0/24 med 3"));
        assert!(ask(Client::Ours, "global rib 10.8.0.0/24").contains("{Med: 3}"));
        new.text(&format!("-p {SUBJECT} global rib del 10.8.0.0/24"));
        assert!(ask(Client::Ours, "global rib 10.8.0.0/24").contains("Network not in table"));
        subject.stop();
    });
    // Our client and the new server.
    in_namespace(&|| {
        let own = ("192.0.2.1", 64512, "10.0.0.1");
        let program = current.join("gobgpd");
        let _subject = gobgpd(&program, folder.path(), "subject4", SUBJECT, own, ("192.0.2.2", 65001));
        wait_for_session(Client::Ours, folder.path());
        for line in ["10.244.1.0/24 origin igp", "10.3.0.0/16 nexthop 192.0.2.1 med 7", "2001:db8:244::/64 -a ipv6"] {
            Client::Ours.text(&format!("-p {SUBJECT} global rib add {line}"));
        }
        for line in [
            "10.1.0.0/24 med 5 community 100:200,no-peer origin igp",
            "10.2.0.0/24 large-community 1:2:3 rt 65000:1 aggregator 65001:10.0.0.9",
            "10.2.1.0/24 aspath 65009,65010",
            "10.3.0.0/16",
            "2001:db8:1::/48 nexthop 2001:db8::2 -a ipv6",
        ] {
            Client::Ours.text(&format!("-p {PEER} global rib add {line}"));
        }
        wait::until_true("the routes have arrived", PATIENCE, || {
            Ok(ask(Client::Ours, "neighbor 192.0.2.2 adj-in").lines().count() == 5)
        })
        .unwrap();
        for (line, expected) in lines.iter().zip(expected.lock().unwrap().iter()) {
            assert_eq!(&ask(Client::Ours, line), expected, "gobgp {line} to gobgpd 4");
        }
        for line in ["neighbor 192.0.2.2", "neighbor 192.0.2.2 -j", "policy", "global policy", "global -j"] {
            Client::Ours.text(&format!("-p {SUBJECT} {line}"));
        }
        assert!(ask(Client::Ours, "neighbor 192.0.2.2").contains("BGP state = ESTABLISHED"));
    });
}

/// A certificate with its key, signed by `by` or by itself.
fn certificate(folder: &Path, name: &str, by: Option<&str>) {
    let file = |name: &str, ending: &str| folder.join(format!("{name}.{ending}")).display().to_string();
    let mut line =
        vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let (key, pem, subject) = (file(name, "key"), file(name, "pem"), format!("/CN={name}"));
    line.extend(["-keyout", &key, "-out", &pem, "-subj", &subject]);
    let (ca, ca_key) = (file(by.unwrap_or_default(), "pem"), file(by.unwrap_or_default(), "key"));
    if by.is_some() {
        line.extend(["-CA", &ca, "-CAkey", &ca_key, "-addext", "subjectAltName=IP:127.0.0.1"]);
        line.extend(["-addext", "basicConstraints=critical,CA:FALSE"]);
    }
    let output = Command::new("openssl").args(&line).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn only_a_client_with_a_good_certificate_gets_in() {
    if !crate::in_own_namespace() {
        return;
    }
    if Command::new("openssl").arg("version").output().is_err() {
        report("only_a_client_with_a_good_certificate_gets_in: skipped: no openssl to make certificates with");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI nothing may be skipped");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, by) in
        [("ca", None), ("server", Some("ca")), ("me", Some("ca")), ("other", None), ("eve", Some("other"))]
    {
        certificate(folder, name, by);
    }
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let tls =
        server::Tls { certificate: read("server.pem"), key: read("server.key"), client_authority: read("ca.pem") };
    run_in_new(|| {
        addresses();
        let subject = Ours::start_with(Some(tls));
        let at = folder.display();
        let ca = format!("global --tls-ca-file {at}/ca.pem");
        let shows =
            |name: &str| format!("{ca} --tls-client-cert-file {at}/{name}.pem --tls-client-key-file {at}/{name}.key");
        assert!(Client::Ours.text(&shows("me")).starts_with("AS:        64512"));
        for line in [shows("eve"), ca.clone(), "global".to_owned(), "global --tls".to_owned()] {
            let output = Client::Ours.run(&line);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{line}: {said}");
            assert!(said.contains("127.0.0.1:50051"), "{line}: {said}");
        }
        subject.stop();
    })
    .unwrap();
}
