//! nftables on the real kernel: the contract, and agreement with the `nft` program.
//!
//! Also part of the tier that runs on the kernel at hand; each test has a network namespace of its own.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "compares with what the operators' own programs say, and says which promise is tried"
)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use ferrovia::kernel::filter::plan::{plan, remove};
use ferrovia::kernel::filter::{Name, TableFamily};
use ferrovia::kernel::netns::run_in_new;
use ferrovia::kernel::nft::{Nft, NftClient, text};
use ferrovia::testing::contract::nft::{TABLE, converge, everything, promises, random_ruleset, with_tunnels};

/// Runs `nft` with this script; its output, or a panic with its complaint.
pub(crate) fn nft(script: &str) -> String {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the nft program is installed");
    child.stdin.take().expect("piped").write_all(script.as_bytes()).expect("nft reads its script");
    let output = child.wait_with_output().expect("nft ends");
    assert!(output.status.success(), "{}\nin\n{script}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("nft prints text")
}

/// A table as `nft` lists it, counters and its name left out.
pub(crate) fn listing(table: &str) -> String {
    let family = TableFamily::of(table);
    nft(&format!("list table {family} {table}\n"))
        .replacen(&format!("table {family} {table} "), "table ", 1)
        .replace("packets 0 bytes 0 ", "")
        .replace("packets 0 bytes 0", "")
}

/// The expressions of every rule as the kernel has them, rule by rule: listings leave out what `nft` takes for granted.
pub(crate) fn programs(table: &str) -> Vec<String> {
    let family = TableFamily::of(table).to_string();
    let output = Command::new("nft").args(["--debug=netlink", "list", "table", &family, table]).output();
    let output = String::from_utf8(output.expect("the nft program is installed").stdout).expect("nft prints text");
    let (mut programs, mut inside) = (Vec::new(), false);
    for line in output.lines() {
        let header = line.strip_prefix(&format!("{family} {table} "));
        if header.is_some_and(|header| !header.starts_with('@')) {
            // Family, table, chain, handle, position: the chain alone is worth comparing.
            programs.push(line.split(' ').nth(2).unwrap_or_default().to_owned());
            inside = true;
        } else if inside && line.starts_with("  [") {
            // Anonymous sets are numbered; everything else counts.
            let words = line.split(' ').map(|word| if word.starts_with("__set") { "__set" } else { word });
            programs.last_mut().expect("a rule").push_str(&words.collect::<Vec<_>>().join(" "));
        } else {
            inside = false;
        }
    }
    programs
}

#[test]
fn keeps_every_promise() {
    guest!();
    for (name, promise) in promises::<NftClient>() {
        eprintln!("{name}");
        run_in_new(|| promise(&mut NftClient::open().expect("a socket"))).expect("a namespace");
    }
}

#[test]
fn nft_lists_what_the_text_form_loads() {
    guest!();
    run_in_new(|| {
        let mut client = NftClient::open().expect("a socket");
        let random = (100..130).map(random_ruleset);
        for ruleset in std::iter::once(everything()).chain(random) {
            // From nothing, because listings are in the order things were made.
            let observed = client.dump(&Name::from(TABLE)).expect("a dump");
            client.commit(&remove(&Name::from(TABLE), observed.as_ref())).expect("removed");
            converge(&mut client, &ruleset);
            nft(&text::render("by-text", &ruleset));
            assert_eq!(listing(TABLE), listing("by-text"), "of\n{}", text::render("by-text", &ruleset));
            let rules: usize = ruleset.chains.values().map(|chain| chain.rules.len()).sum();
            assert_eq!(programs(TABLE).len(), rules);
            assert_eq!(programs(TABLE), programs("by-text"));
            // And what text loads is known by its digests.
            let observed = client.dump(&Name::from("by-text")).expect("a dump");
            let left = plan(&Name::from("by-text"), &ruleset, observed.as_ref());
            assert!(left.is_empty(), "{left}");
            nft("delete table inet by-text\n");
        }
    })
    .expect("a namespace");
}

#[test]
fn nft_lists_what_looks_into_tunnels() {
    guest!();
    run_in_new(|| {
        converge(&mut NftClient::open().expect("a socket"), &with_tunnels());
        let listing = listing(TABLE);
        for part in
            ["@th,96,32 @blocks4", "@th,64,128 @blocks6", "@th,72,8 ", "@th,48,8 ", "@th,176,16 ", "@th,336,16 "]
        {
            assert!(listing.contains(part), "{part} is missing in\n{listing}");
        }
    })
    .expect("a namespace");
}

#[test]
fn transactions_print_as_nft_commands() {
    guest!();
    run_in_new(|| {
        let mut client = NftClient::open().expect("a socket");
        let by_text = Name::from("by-text");
        let mut script = String::new();
        for ruleset in (200..220).map(random_ruleset).chain([everything()]) {
            converge(&mut client, &ruleset);
            let observed = client.dump(&by_text).expect("a dump");
            write!(script, "{}", plan(&by_text, &ruleset, observed.as_ref())).expect("a string takes all");
            nft(&script);
            script.clear();
            let observed = client.dump(&by_text).expect("a dump");
            let left = plan(&by_text, &ruleset, observed.as_ref());
            assert!(left.is_empty(), "{left}");
        }
        assert_eq!(listing(TABLE), listing("by-text"));
    })
    .expect("a namespace");
}

#[test]
fn what_others_put_into_our_table_goes() {
    guest!();
    run_in_new(|| {
        let mut client = NftClient::open().expect("a socket");
        let desired = everything();
        converge(&mut client, &desired);
        let clean = listing(TABLE);
        for intrusion in [
            "add rule inet TABLE sub accept",
            "insert rule inet TABLE sub drop comment \"mine\"",
            "add chain inet TABLE theirs; add rule inet TABLE theirs jump sub; add rule inet TABLE forward jump theirs",
            "add set inet TABLE theirs { type ether_addr; }; add rule inet TABLE sub ether saddr @theirs drop",
            "add set inet TABLE ranges { type ipv4_addr; flags interval; elements = { 10.0.0.1-10.0.0.6 }; }",
            "add element inet TABLE blocks4 { 11.0.0.1-11.0.0.6 }",
            "delete element inet TABLE keys4 { 10.0.0.1 . tcp . 80 }",
            "add element inet TABLE verdicts { 10.0.0.9 : goto sub }",
            "add element inet TABLE ports { 1-2 }",
            "add map inet TABLE theirs { type ipv4_addr : inet_service; }",
            "add chain inet TABLE forward { policy drop; }",
            "add chain inet TABLE theirs { type filter hook ingress device lo priority 0; }",
            "add counter inet TABLE theirs; add rule inet TABLE sub counter name theirs",
            "flush chain inet TABLE sub",
            "delete table inet TABLE",
            "add table inet TABLE { flags dormant; }",
        ] {
            let script = intrusion.replace("TABLE", TABLE).replace("; add", "\nadd") + "\n";
            // Not every version of nft takes every one of them.
            let accepted = Command::new("nft").arg(&script).output().expect("the nft program is installed");
            if !accepted.status.success() {
                eprintln!("not taken by nft: {script}{}", String::from_utf8_lossy(&accepted.stderr));
                continue;
            }
            converge(&mut client, &desired);
            let now = listing(TABLE);
            assert_eq!(now, clean, "after {intrusion}");
        }
    })
    .expect("a namespace");
}
