//! rtnetlink on the real kernel: the contract, agreement with the `ip` program, and the monitor.
//!
//! Also part of the tier that runs on the kernel at hand; each test has a network namespace of its own.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "compares with what the operators' own programs say, and says which promise is tried"
)]

use std::process::Command;
use std::time::Duration;

use ferrovia::kernel::netns::run_in_new;
use ferrovia::kernel::rtnl::monitor::{Event, Monitor};
use ferrovia::kernel::rtnl::{Op, RouteFilter, Rtnl, RtnlClient, protocol, table};
use ferrovia::testing::contract::rtnl::{link_named, link_promises, promises};
use ferrovia::testing::lab::wait;

/// How long an event may take. Generous: an emulated guest is slow, and nothing waits longer than it must.
const SOON: Duration = Duration::from_secs(20);

/// Runs `ip` with these words; its output, or a panic with its complaint.
fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split_whitespace()).output().expect("the ip program is installed");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("ip prints text")
}

/// Runs `work` in a new namespace with a link that is up, and its index: one end of a pair, which every kernel has.
fn with_link(work: impl FnOnce(&mut RtnlClient, u32) + Send) {
    run_in_new(|| {
        ip("link add test0 type veth peer name test1");
        ip("link set test1 up");
        ip("link set test0 up");
        let mut client = RtnlClient::open().expect("a socket");
        let link = link_named(&mut client, "test0").expect("the link").index;
        work(&mut client, link);
    })
    .expect("a namespace");
}

#[test]
fn keeps_every_promise() {
    guest!();
    for (name, promise) in promises::<RtnlClient>() {
        eprintln!("{name}");
        with_link(promise);
    }
}

#[test]
fn keeps_every_promise_about_links() {
    guest!();
    let has_dummy = run_in_new(|| {
        let mut client = RtnlClient::open().expect("a socket");
        client.apply(&[Op::AddDummy { name: "probe".into() }]).iter().all(Result::is_ok)
    });
    if !has_dummy.expect("a namespace") {
        assert!(std::env::var_os("FERROVIA_VM").is_none(), "the guest has dummy links");
        eprintln!("skipped: this kernel has no dummy links");
        return;
    }
    for (name, promise) in link_promises::<RtnlClient>() {
        eprintln!("{name}");
        run_in_new(|| promise(&mut RtnlClient::open().expect("a socket"))).expect("a namespace");
    }
}

#[test]
fn ops_print_as_ip_commands() {
    guest!();
    with_link(|client, link| {
        ip("address add 192.0.2.1/24 dev test0");
        ip("-6 address add fd00::1/64 dev test0 nodad");
        let of_table = RouteFilter { table: Some(table::LOCAL), link: Some(link), ..RouteFilter::default() };
        // IPv6 adds its local route in its own time.
        let routes = wait::until("the routes of the addresses are there", SOON, || {
            let mut routes = client.routes(of_table)?;
            routes.extend(client.routes(RouteFilter { table: Some(table::MAIN), ..of_table })?);
            routes.retain(|route| !route.destination.to_string().starts_with("fe80"));
            anyhow::ensure!(routes.len() >= 4, "{routes:?}");
            Ok(routes)
        })
        .expect("four routes");
        // Every route is removed and added again by its text, and reads as before.
        for route in routes.iter().rev() {
            ip(Op::DeleteRoute(route.clone()).to_string().trim_start_matches("ip "));
        }
        for route in &routes {
            ip(Op::ReplaceRoute(route.clone()).to_string().trim_start_matches("ip "));
        }
        let mut again = client.routes(RouteFilter { link: Some(link), ..RouteFilter::default() }).expect("routes");
        again.retain(|route| routes.contains(route));
        assert_eq!(again.len(), routes.len());

        for words in [
            "rule add priority 100 from 10.0.0.0/8 fwmark 0x4000 table 77",
            "-6 rule add priority 9 table 78",
            "rule add priority 11 fwmark 0x5000000/0x7f000000 table 7805 protocol 17",
            "rule add priority 12 fwmark 0/0xff table 77",
            "rule add priority 10 from 10.0.0.0/8 iif test0 table 77 protocol 17",
        ] {
            let before = client.rules().expect("rules");
            ip(words);
            let added: Vec<_> =
                client.rules().expect("rules").into_iter().filter(|rule| !before.contains(rule)).collect();
            let [rule] = added.try_into().expect("one rule more");
            ip(Op::DeleteRule(rule).to_string().trim_start_matches("ip "));
            assert_eq!(client.rules().expect("rules"), before);
        }
        // What the model has no word for is not shown as something else.
        let before = client.rules().expect("rules");
        ip("rule add priority 101 oif lo table 77");
        ip("rule add priority 102 to 10.0.0.0/8 table 77");
        ip("rule add priority 103 not from 10.0.0.0/8 table 77");
        ip("rule add priority 104 blackhole");
        assert_eq!(client.rules().expect("rules"), before);
        ip("link set test0 down");
        ip(Op::SetUp { link, up: true }.to_string().trim_start_matches("ip "));
        assert!(link_named(client, "test0").is_some_and(|link| link.up));
    });
}

#[test]
fn the_monitor_hears_what_others_change() {
    guest!();
    with_link(|_client, link| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut monitor = Monitor::open().expect("a socket");
            let route = |table, destination: &str, protocol| Event::Route {
                table,
                destination: destination.parse().expect("a prefix"),
                metric: 0,
                protocol,
            };
            ip("address add 192.0.2.1/24 dev test0");
            let connected = route(table::MAIN, "192.0.2.0/24", protocol::KERNEL);
            let own = route(table::LOCAL, "192.0.2.1/32", protocol::KERNEL);
            expect(&mut monitor, &[Event::Address { link, lost: false }, own, connected]).await;
            // What `ip` adds has the protocol of boot scripts (RTPROT_BOOT).
            let added = |table| route(table, "198.51.100.0/24", 3);
            ip("route add 198.51.100.0/24 via 192.0.2.9 table 1077");
            expect(&mut monitor, &[added(1077)]).await;
            ip("rule add priority 100 table 77");
            expect(&mut monitor, &[Event::Rule]).await;
            ip("-6 rule add priority 100 table 77");
            expect(&mut monitor, &[Event::Rule]).await;
            ip("link set test0 down");
            expect(&mut monitor, &[Event::Link { link, lost: true }]).await;
            // With a link go its IPv4 routes, and the kernel says so of the link alone.
            ip("link set test0 up");
            ip("route add 198.51.100.0/24 via 192.0.2.9 table 1078");
            expect(&mut monitor, &[Event::Link { link, lost: false }, added(1078)]).await;
            ip("route delete 198.51.100.0/24 table 1078");
            expect(&mut monitor, &[added(1078)]).await;
            ip("link delete test0");
            expect(&mut monitor, &[Event::Link { link, lost: true }]).await;
        });
    });
}

/// Waits until all of these were heard.
async fn expect(monitor: &mut Monitor, events: &[Event]) {
    let mut missing = events.to_vec();
    while !missing.is_empty() {
        let heard = tokio::time::timeout(SOON, monitor.next()).await;
        let heard = heard.unwrap_or_else(|_| panic!("not heard: {missing:?}")).expect("the socket works");
        missing.retain(|event| !heard.contains(event));
    }
}
