//! ipset on the real kernel: the contract, and agreement with the `ipset` program.
//!
//! Also part of the tier that runs on the kernel at hand; each test has a network namespace of its own.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "compares with what the operators' own program says, and says which promise is tried"
)]

use std::process::Command;

use ferrovia::kernel::ipset::{Element, Ipset, IpsetClient, Kind, Op, Shape};
use ferrovia::kernel::netns::run_in_new;
use ferrovia::net::Family;
use ferrovia::testing::contract::ipset::promises;

/// Runs `ipset` with these words; its output, or a panic with its complaint.
fn ipset(words: &str) -> String {
    let output = Command::new("ipset").args(words.split(' ')).output().expect("the ipset program is installed");
    assert!(output.status.success(), "ipset {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("ipset prints text")
}

#[test]
fn keeps_every_promise() {
    guest!();
    for (name, promise) in promises::<IpsetClient>() {
        eprintln!("{name}");
        run_in_new(|| promise(&mut IpsetClient::open().expect("a socket"))).expect("a namespace");
    }
}

#[test]
fn ipset_lists_what_was_written_and_its_sets_are_read() {
    guest!();
    run_in_new(|| {
        let mut client = IpsetClient::open().expect("a socket");
        let shape = Shape { kind: Kind::Socket, family: Some(Family::V4), most: 100 };
        let element = Element::Socket("10.0.0.1".parse().expect("an address"), 132, 80);
        let made = client
            .apply(&[Op::Create { name: "ours".into(), shape, expected: 10 }, Op::Add("ours".into(), vec![element])]);
        assert!(made.iter().all(Result::is_ok), "{made:?}");
        let saved = ipset("save ours");
        assert!(saved.contains("create ours hash:ip,port family inet hashsize 64 maxelem 100"), "{saved}");
        assert!(saved.contains("add ours 10.0.0.1,sctp:80"), "{saved}");

        ipset("create theirs hash:net family inet6");
        ipset("add theirs fd00::/8");
        let found = client.list("theirs").expect("a listing").expect("the set");
        let kind = Shape { kind: Kind::Block, family: Some(Family::V6), most: 65_536 };
        assert_eq!((found.shape, found.elements.len()), (Some(kind), 1));
        // What a member means otherwise than here is not taken for the same.
        ipset("add theirs fd00:1::/32 nomatch");
        assert_eq!(client.list("theirs").expect("a listing").expect("the set").shape, None);
        ipset("create timed hash:ip timeout 0");
        assert_eq!(client.list("timed").expect("a listing").expect("the set").shape, None);
        ipset("create lists list:set");
        assert_eq!(client.list("lists").expect("a listing").expect("the set").shape, None);
        assert_eq!(client.names().expect("names").len(), 4);
    })
    .expect("a namespace");
}
