//! FoU ports on the real kernel: the contract, and agreement with the `ip` program.

#![allow(clippy::disallowed_methods, reason = "compares with what the operators' own program says")]

use std::process::Command;

use ferrovia::kernel::fou::{Fou, FouClient, Op, Port};
use ferrovia::kernel::netns::run_in_new;
use ferrovia::net::Family;
use ferrovia::testing::contract::fou::ports_come_and_go;

#[test]
fn keeps_every_promise() {
    guest!();
    run_in_new(|| ports_come_and_go(&mut FouClient::open().expect("a socket"))).expect("a namespace");
}

#[test]
fn reads_what_ip_made() {
    guest!();
    run_in_new(|| {
        let mut client = FouClient::open().expect("a socket");
        for (family, number) in [(Family::V4, 5555), (Family::V6, 5556)] {
            let port = Port { family, number };
            let text = Op::AddPort(port).to_string();
            let status = Command::new("ip").args(text.split_whitespace().skip(1)).status().expect("ip runs");
            assert!(status.success(), "{text}");
            assert_eq!(client.ports().expect("ports"), [port]);
            assert_eq!(client.apply(&[Op::DeletePort(port)]), [Ok(())]);
        }
    })
    .expect("a namespace");
}
