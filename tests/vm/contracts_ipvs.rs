//! The kernel clients against the running kernel and the operators' own tools: IPVS, conntrack, modules, transport.
//!
//! Each test has a network namespace of its own.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests compare with the operators' tools, and show what a bulk load costs"
)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ferrovia::kernel::Disposition;
use ferrovia::kernel::conntrack::{ConntrackClient, Flow};
use ferrovia::kernel::ipvs::codec::{decode_virtual_server, encode_op};
use ferrovia::kernel::ipvs::fake::FakeIpvs;
use ferrovia::kernel::ipvs::text::{Listed, Saved};
use ferrovia::kernel::ipvs::{
    Forwarding, Ipvs, IpvsClient, Op, RealServer, RealServerKey, Scheduler, Timeouts, VirtualServerKey,
    VirtualServerSpec,
};
use ferrovia::kernel::modules::Modules;
use ferrovia::kernel::netlink::{
    Attributes, Batch, EventSocket, Fault, Heard, Protocol as Netlink, Refusal, Socket, flag, generic,
};
use ferrovia::kernel::netns::run_in_new;
use ferrovia::net::Protocol;
use ferrovia::testing::contract::{conntrack as conntrack_contract, ipvs as ipvs_contract};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Runs `test` on a thread in a fresh network namespace, which ends with it.
fn in_own_network<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let with_loopback = || {
        loopback_up();
        test()
    };
    run_in_new(with_loopback).expect("a network namespace of its own")
}

/// Without any address there is no local routing table, and IPVS then takes every IPv4 address for a broadcast one and
/// refuses it as a real server.
fn loopback_up() {
    const IFF_UP: u32 = 1;
    let mut batch = Batch::new();
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&1_u32.to_ne_bytes());
    header[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
    header[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    batch.message(16, 0).header(&header);
    assert!(Socket::open(Netlink::Route).unwrap().apply(&mut batch)[0].is_ok());
}

/// What a tool prints, called with these words and this standard input. It runs in the thread's namespace.
fn tool(line: &str, input: &str) -> String {
    let mut words = line.split_whitespace();
    let mut child = Command::new(words.next().expect("a program"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("input taken");
    let output = child.wait_with_output().expect("output");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn ipvs_client_passes_the_contract() {
    guest!();
    for (name, check) in ipvs_contract::all::<IpvsClient>() {
        println!("{name}");
        in_own_network(|| check(&mut IpvsClient::open().unwrap()));
    }
}

#[test]
fn ipvs_client_counts_connections_and_finds_old_ones() {
    guest!();
    in_own_network(|| {
        let mut ipvs = IpvsClient::open().unwrap();
        ipvs_contract::finds_old_connections_in_the_trash(&mut ipvs, |_, key, _| {
            let VirtualServerKey::Address { address, port, .. } = *key else { panic!("a mark has no address") };
            let client = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            assert_eq!(client.send_to(b"12345678", (address, port)).unwrap(), 8);
        });
        // The kernel adds up its counters every two seconds.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let stats = ipvs.stats().unwrap()[0].1;
            if (stats.connections, stats.packets_in, stats.bytes_in) == (1, 1, 36) {
                break;
            }
            assert!(Instant::now() < deadline, "one connection, one packet, 36 bytes, not {stats:?}");
        }
    });
}

#[test]
fn text_forms_are_those_of_ipvsadm() {
    guest!();
    in_own_network(|| {
        let mut ipvs = IpvsClient::open().unwrap();
        assert_eq!(tool("ipvsadm -Ln", ""), Listed::new(&ipvs.dump().unwrap()).to_string());
        let mut ops = ipvs_contract::ops_for(&ipvs_contract::showcase());
        let key = ops.iter().find_map(|op| if let Op::AddVirtualServer(key, _) = op { Some(*key) } else { None });
        let local = RealServerKey { address: "10.7.7.7".parse().unwrap(), port: 1 };
        ops.push(Op::AddRealServer(key.unwrap(), real_server(local, Forwarding::Local)));
        assert!(ipvs.apply(&ops).iter().all(Result::is_ok));
        let table = ipvs.dump().unwrap();
        assert_eq!(tool("ipvsadm -Sn", ""), Saved(&table).to_string());
        assert_eq!(tool("ipvsadm -Ln", ""), Listed::new(&table).to_string());
    });
}

/// The lines of ops are for people and for `ipvsadm -R`: what it makes of them is what the client makes.
#[test]
fn ipvsadm_restores_what_ops_print() {
    guest!();
    in_own_network(|| {
        let mut ipvs = IpvsClient::open().unwrap();
        let table = ipvs_contract::showcase();
        let lines: String = ipvs_contract::ops_for(&table).iter().map(|op| format!("{op}\n")).collect();
        tool("ipvsadm -R", &lines);
        assert_eq!(ipvs.dump().unwrap(), table);
        for op in table.keys().map(|key| Op::DeleteVirtualServer(*key)) {
            tool("ipvsadm -R", &format!("{op}\n"));
        }
        assert!(ipvs.dump().unwrap().is_empty());
    });
}

#[test]
fn fake_and_kernel_answer_random_ops_alike() {
    guest!();
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let sequence = proptest::collection::vec(ipvs_contract::arbitrary::op(), 100);
    for _ in 0..60 {
        let ops = sequence.new_tree(&mut runner).unwrap().current();
        in_own_network(|| {
            let mut kernel = IpvsClient::open().unwrap();
            ipvs_contract::behave_alike(&mut kernel, &mut FakeIpvs::new(), &ops);
        });
    }
}

#[test]
fn foreign_virtual_servers_do_not_fail_the_dump() {
    guest!();
    in_own_network(|| {
        let mut socket = Socket::open(Netlink::Generic).unwrap();
        let number = generic::Family::new("IPVS").number(&mut socket).unwrap();
        let mut batch = Batch::new();
        let mut message = batch.message(number, 0);
        message.generic(1, 1).attributes().nest(1, |service| {
            service.u16(1, 2);
            service.u16(2, 50); // ESP: not a protocol of ours
            service.bytes(3, &[10, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            service.be16(4, 0);
            service.text(6, "rr");
            service.bytes(7, &[0, 0, 0, 0, 255, 255, 255, 255]);
            service.u32(8, 0);
            service.bytes(9, &[255; 4]);
        });
        drop(message);
        assert!(socket.apply(&mut batch).iter().all(Result::is_ok), "the kernel takes it");
        assert_eq!(tool("ipvsadm -Ln", "").lines().count(), 4);
        let mut ipvs = IpvsClient::open().unwrap();
        let ours = ipvs_contract::showcase();
        assert!(ipvs.apply(&ipvs_contract::ops_for(&ours)).iter().all(Result::is_ok));
        assert_eq!(ipvs.dump().unwrap(), ours);
    });
}

#[test]
fn timeouts_are_what_ipvsadm_shows() {
    guest!();
    in_own_network(|| {
        let mut ipvs = IpvsClient::open().unwrap();
        ipvs.set_timeouts(Timeouts { tcp: 901, tcp_fin: 0, udp: 302 }).unwrap();
        assert_eq!(tool("ipvsadm -L --timeout", "").trim(), "Timeout (tcp tcpfin udp): 901 120 302");
    });
}

/// A family gets another number when its module is loaded anew. Safe because the tests of the guest run one by one.
#[test]
fn client_survives_a_reload_of_the_module() {
    guest!();
    in_own_network(|| {
        let mut ipvs = IpvsClient::open().unwrap();
        assert!(ipvs.dump().unwrap().is_empty());
        let loaded = std::fs::read_to_string("/proc/modules").unwrap();
        let users = loaded.lines().filter_map(|line| line.split(' ').next()).filter(|name| name.starts_with("ip_vs_"));
        tool(&format!("rmmod {} ip_vs", users.collect::<Vec<_>>().join(" ")), "");
        let table = ipvs_contract::showcase();
        assert!(ipvs.apply(&ipvs_contract::ops_for(&table)).iter().all(Result::is_ok));
        assert_eq!(ipvs.dump().unwrap(), table);
    });
}

/// Adds flows with the operators' tool, so that the codec is not checked against itself.
fn insert_flows(flows: &[Flow]) {
    for flow in flows {
        let Flow { transport, source, source_port, destination, destination_port, .. } = flow;
        let Flow { reply_source, reply_source_port, zone, .. } = flow;
        let Some(protocol) = transport.protocol() else {
            // The tool refuses to say the answer of an echo: it is the request turned round.
            assert_eq!(reply_source, destination, "an echo that is not translated");
            tool(
                &format!(
                    "conntrack -I -p icmp -s {source} -d {destination} --icmp-type 8 --icmp-code 0 --icmp-id {source_port} -t 600"
                ),
                "",
            );
            continue;
        };
        let state = if protocol == Protocol::Tcp { "--state ESTABLISHED" } else { "" };
        let zone = if *zone == 0 { String::new() } else { format!("-w {zone}") };
        tool(
            &format!(
                "conntrack -I -p {protocol} -s {source} -d {destination} --sport {source_port} \
                 --dport {destination_port} -r {reply_source} -q {source} --reply-port-src {reply_source_port} \
                 --reply-port-dst {source_port} -t 600 {state} {zone}"
            ),
            "",
        );
    }
}

#[test]
fn conntrack_client_passes_the_contract() {
    guest!();
    in_own_network(|| {
        insert_flows(&conntrack_contract::showcase());
        conntrack_contract::lists_and_deletes(&mut ConntrackClient::open().unwrap());
        assert_eq!(tool("conntrack -L -o id", "").lines().count(), 2, "what the client does not see stays too");
    });
    in_own_network(|| {
        insert_flows(&conntrack_contract::many());
        conntrack_contract::deletes_many(&mut ConntrackClient::open().unwrap());
    });
}

#[test]
fn modules_are_found_and_loaded_with_what_they_need() {
    guest!();
    let modules = Modules::of_this_kernel();
    assert!(modules.is_present("ip_vs"));
    assert!(!modules.is_present("ip_vs_nosuch"));
    assert!(modules.load("ip_vs_nosuch").is_err());
    assert!(!modules.is_present("ip_vs_ftp"));
    modules.load("ip_vs_ftp").unwrap_or_else(|error| panic!("{error}"));
    assert!(modules.is_present("ip_vs_ftp") && modules.is_present("nf_nat"));
    modules.load("ip_vs_ftp").unwrap();
}

/// `NFT_MSG_NEWTABLE` and `NFT_MSG_NEWCHAIN` in the inet family, between BATCH_BEGIN and BATCH_END.
fn nft_transaction(batch: &mut Batch, chains: impl Iterator<Item = (String, String)>) {
    const INET: u8 = 1;
    batch.clear();
    batch.message(16, 0).netfilter(0, 10);
    batch.message(10 << 8, flag::CREATE).netfilter(INET, 0).attributes().text(1, "contract");
    for (table, chain) in chains {
        let mut message = batch.message((10 << 8) | 3, flag::CREATE);
        let mut attributes = message.netfilter(INET, 0).attributes();
        attributes.text(1, &table);
        attributes.text(3, &chain);
    }
    batch.message(17, 0).netfilter(0, 10);
}

#[test]
fn transactions_are_all_or_nothing_and_name_the_first_failure() {
    guest!();
    in_own_network(|| {
        let mut socket = Socket::open(Netlink::Netfilter).unwrap();
        let mut batch = Batch::new();
        let table_of = |index: usize| if index == 5 || index == 9 { "missing" } else { "contract" };
        nft_transaction(&mut batch, (0..20).map(|index| (table_of(index).into(), format!("chain{index}"))));
        let failure = socket.transact(&mut batch).expect_err("a chain in a table that does not exist");
        assert_eq!(failure.index, 7, "{failure}");
        assert_eq!(failure.fault.errno(), Some(Refusal::ENOENT), "{failure}");
        assert_eq!(tool("nft list tables", ""), "");
        // Above the default send buffer of 208 KiB.
        nft_transaction(&mut batch, (0..5_000).map(|index| ("contract".into(), format!("chain{index}"))));
        assert!(batch.bytes().len() > 230_000, "{}", batch.bytes().len());
        socket.transact(&mut batch).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(tool("nft list table inet contract", "").matches("chain chain").count(), 5_000);
        assert_eq!(socket.sends(), 2);
    });
}

/// As many refusals as a send can cause: none may be lost, none may hit another op.
#[test]
fn results_of_a_batch_are_exact_with_200_failures_in_each_send() {
    guest!();
    in_own_network(|| {
        let mut ipvs = IpvsClient::open().unwrap();
        let ops: Vec<Op> = (0..1_000).map(|port| Op::SetVirtualServer(key(port), spec())).collect();
        let results = ipvs.apply(&ops);
        assert!(results.iter().all(|result| {
            result.as_ref().is_err_and(|error| error.kind == Disposition::Stale && error.errno == Some(Refusal::ESRCH))
        }));
        assert_eq!(ipvs.sends(), 6, "five chunks and one look-up of the family");
    });
}

fn key(number: u32) -> VirtualServerKey {
    let [_, _, high, low] = number.to_be_bytes();
    VirtualServerKey::Address { address: [10, 96, high, low].into(), protocol: Protocol::Tcp, port: 80 }
}

fn spec() -> VirtualServerSpec {
    VirtualServerSpec {
        scheduler: Scheduler::new("rr"),
        scheduler_flags: 0,
        persistence: None,
        persistence_prefix: 32,
        one_packet: false,
    }
}

fn real_server(key: RealServerKey, forwarding: Forwarding) -> RealServer {
    RealServer { key, forwarding, weight: 1, upper_threshold: 0, lower_threshold: 0 }
}

/// 2,000 virtual servers with 5 real servers each.
fn bulk() -> Vec<Op> {
    let mut ops = Vec::new();
    for number in 0..2_000 {
        ops.push(Op::AddVirtualServer(key(number), spec()));
        for last in 1..=5_u8 {
            let [_, _, high, low] = number.to_be_bytes();
            let real = RealServerKey { address: [10, 128 + last, high, low].into(), port: 8080 };
            ops.push(Op::AddRealServer(key(number), real_server(real, Forwarding::Masquerade)));
        }
    }
    ops
}

/// Prints what a bulk load costs through the client and with messages encoded before; the bar is on messages, which
/// do not depend on the machine.
#[test]
fn bulk_load_takes_one_send_for_200_ops() {
    guest!();
    let ops = bulk();
    for round in 1..=3 {
        let raw = in_own_network(|| {
            let mut socket = Socket::open(Netlink::Generic).unwrap();
            let number = generic::Family::new("IPVS").number(&mut socket).unwrap();
            let mut batches: Vec<Batch> = Vec::new();
            for some in ops.chunks(2_000) {
                let mut batch = Batch::new();
                some.iter().for_each(|op| encode_op(&mut batch, number, op));
                batches.push(batch);
            }
            let start = Instant::now();
            let n_good: usize =
                batches.iter_mut().map(|batch| socket.apply(batch).into_iter().filter(Result::is_ok).count()).sum();
            assert_eq!(n_good, ops.len());
            start.elapsed()
        });
        let (client, dump, sends) = in_own_network(|| {
            let mut ipvs = IpvsClient::open().unwrap();
            let start = Instant::now();
            assert!(ipvs.apply(&ops).iter().all(Result::is_ok));
            let (client, sends) = (start.elapsed(), ipvs.sends());
            let start = Instant::now();
            assert_eq!(ipvs.dump().unwrap().len(), 2_000);
            (client, start.elapsed(), sends)
        });
        assert_eq!(sends, 61, "12,000 ops, 200 a send, and one look-up of the family");
        println!("round {round}: 2,000 x (1 + 5): raw {raw:?}, client {client:?}, dump {dump:?}, {sends} sends");
    }
}

/// The kernel says nothing of an interrupted dump of IPVS, but for rtnetlink it does.
#[test]
fn interrupted_dumps_are_started_again() {
    guest!();
    in_own_network(|| {
        let mut socket = Socket::open(Netlink::Route).unwrap();
        let mut writer = Socket::open(Netlink::Route).unwrap();
        assert!(writer.apply(&mut dummies("d", 300)).iter().all(Result::is_ok));
        let mut request = Batch::new();
        request.message(18, flag::DUMP).header(&[0; 16]);
        let (mut n_changes, mut n_seen) = (0, 0);
        let found = socket.query(&mut request, |_, _| {
            n_seen += 1;
            if n_changes < 3 && n_seen % 100 == 0 {
                n_changes += 1;
                assert!(writer.apply(&mut dummies(&format!("e{n_changes}-"), 1))[0].is_ok());
            }
            Some(())
        });
        match found {
            Ok(found) => {
                // lo, tunl0 and ip6tnl0 may be there too.
                assert!(found.len() >= 304, "a whole dump after the last change, not {}", found.len());
                assert!(n_seen > found.len(), "started again: {n_seen} messages for {} links", found.len());
            }
            Err(fault) => assert!(matches!(fault, Fault::Interrupted { .. }), "{fault}"),
        }
    });
}

#[test]
fn events_wake_a_task_and_tell_when_some_were_lost() {
    guest!();
    in_own_network(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let links = 1;
            let mut events = EventSocket::open(Netlink::Route, &[links]).unwrap().into_async().unwrap();
            let mut writer = Socket::open(Netlink::Route).unwrap();
            let mut seen = Vec::new();
            assert!(writer.apply(&mut dummies("a", 1))[0].is_ok());
            while !seen.contains(&"a0".to_owned()) {
                let deadline = Duration::from_secs(30);
                let mut ready = tokio::time::timeout(deadline, events.readable_mut()).await.expect("woken").unwrap();
                let read =
                    ready.try_io(|events| events.get_mut().read(&mut |_, _, payload| seen.extend(name_of(payload))));
                assert!(!matches!(read, Ok(Ok(Heard::Lost) | Err(_))), "{read:?}");
            }
            rustix::net::sockopt::set_socket_recv_buffer_size(events.get_ref(), 1).unwrap();
            assert!(writer.apply(&mut dummies("b", 100)).iter().all(Result::is_ok));
            assert_eq!(events.get_mut().read(&mut |_, _, _| {}).unwrap(), Heard::Lost);
        });
    });
}

/// `RTM_NEWLINK` for this many dummy links.
fn dummies(prefix: &str, n_links: u32) -> Batch {
    let mut batch = Batch::new();
    for index in 0..n_links {
        let mut message = batch.message(16, flag::CREATE | flag::EXCL);
        let mut attributes = message.header(&[0; 16]).attributes();
        attributes.text(3, &format!("{prefix}{index}"));
        attributes.nest(18, |info| info.text(1, "dummy"));
    }
    batch
}

/// The name in a link message.
fn name_of(payload: &[u8]) -> Option<String> {
    Attributes::after(payload, 16).find(3)?.text().map(str::to_owned)
}

/// The counters a scrape needs come with one dump.
#[test]
fn dump_answers_carry_counters() {
    guest!();
    in_own_network(|| {
        let mut ipvs = IpvsClient::open().unwrap();
        assert!(ipvs.apply(&ipvs_contract::ops_for(&ipvs_contract::showcase())).iter().all(Result::is_ok));
        let before = ipvs.sends();
        assert_eq!(ipvs.stats().unwrap().len(), ipvs_contract::showcase().len());
        assert_eq!(ipvs.sends() - before, 1);
        assert!(decode_virtual_server(&[]).is_none());
    });
}
