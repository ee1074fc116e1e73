//! Encoder, decoder and text form against each other, without a kernel.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::codec::encode;
use super::decode::{self, Shape};
use super::guard::{Check, Context, objection};
use super::text::{ChangeIn, render};
use super::uapi::{FAMILY_BRIDGE, FAMILY_INET, SUBSYSTEM, message};
use crate::kernel::filter::plan::{Change, ObservedChain, Transaction, plan};
use crate::kernel::filter::{
    Chain, Elements, Field, Match, Name, Rule, Ruleset, Selector, Set, Statement, TableFamily,
};
use crate::kernel::netlink::Messages;
use crate::net::{Family, Protocol};
use crate::testing::contract::nft::{TABLE, everything, random_ruleset};

/// What the decoders make of an encoded transaction that creates a table, as if it were a dump.
fn decoded(ruleset: &Ruleset) -> (Ruleset, BTreeMap<Name, ObservedChain>) {
    let encoded = encode(&plan(&Name::from(TABLE), ruleset, None)).unwrap();
    let mut headers = Vec::new();
    let mut raw: BTreeMap<String, Vec<decode::RawElement>> = BTreeMap::new();
    let mut chains: BTreeMap<Name, ObservedChain> = BTreeMap::new();
    for found in Messages::new(encoded.batch.bytes()).filter(|found| found.kind >> 8 == SUBSYSTEM) {
        match found.kind & 0xff {
            message::NEW_TABLE => {
                assert_eq!(decode::table(found.payload), Some((Name::from(TABLE), 0)));
                assert_eq!(found.payload.first(), Some(&FAMILY_INET));
            }
            message::NEW_CHAIN => {
                let (name, base) = decode::chain(found.payload, TABLE).unwrap();
                chains.insert(name, ObservedChain { base: base.unwrap(), rules: Vec::new() });
            }
            message::NEW_RULE => {
                let (chain, digest) = decode::rule(found.payload, TABLE).unwrap();
                chains.get_mut(&chain).unwrap().rules.push(digest);
            }
            message::NEW_SET => headers.push(decode::set(found.payload, TABLE).unwrap()),
            message::NEW_ELEMENTS => {
                let name = crate::kernel::netlink::Attributes::after(found.payload, 4).find(2).unwrap();
                let elements = decode::raw_elements(found.payload);
                raw.entry(name.text().unwrap().to_owned()).or_default().extend(elements);
            }
            other => panic!("message type {other} while creating"),
        }
    }
    let mut read = Ruleset::default();
    for header in headers {
        let elements = raw.remove(&*header.name).unwrap_or_default();
        match header.shape {
            Shape::Keys(key) => {
                let elements = Elements::Keys(decode::keys(&key, &elements).unwrap());
                read.sets.insert(header.name, Set { key, elements, size: header.size });
            }
            Shape::Prefixes(field) => {
                let elements = decode::prefixes(field, &elements).unwrap();
                read.sets.insert(header.name, Set { key: vec![field], elements, size: header.size });
            }
            Shape::Map(key, value) => {
                let elements = decode::entries(&key, value, &elements).unwrap();
                let map = crate::kernel::filter::Map { key, elements, value, size: header.size };
                read.maps.insert(header.name, map);
            }
            Shape::Anonymous => {}
            Shape::Unknown => panic!("{} is of no known shape", header.name),
        }
    }
    (read, chains)
}

#[test]
fn decodes_what_it_encodes() {
    for ruleset in (0..40).map(random_ruleset).chain([everything()]) {
        let (read, chains) = decoded(&ruleset);
        assert_eq!(read.sets, ruleset.sets);
        assert_eq!(read.maps, ruleset.maps);
        let observed = |chain: &Chain| ObservedChain {
            base: chain.base,
            rules: chain.rules.iter().map(|rule| Some(rule.digest())).collect(),
        };
        let expected: BTreeMap<_, _> =
            ruleset.chains.iter().map(|(name, chain)| (name.clone(), observed(chain))).collect();
        assert_eq!(chains, expected);
    }
}

#[test]
fn every_message_belongs_to_a_change() {
    let transaction = plan(&Name::from(TABLE), &everything(), None);
    let encoded = encode(&transaction).unwrap();
    assert_eq!(encoded.changes.len(), encoded.batch.len() - 1, "all but the end of the batch");
    assert!(encoded.changes.is_sorted() && encoded.changes.first() == Some(&0));
    assert_eq!(encoded.changes.last(), Some(&(transaction.changes.len() - 1)));
}

#[test]
fn long_comments_are_cut_and_digests_never() {
    let comment = Name::from("ü".repeat(90));
    let rule = Rule { matches: Vec::new(), statements: vec![Statement::Counter], comment };
    let chain = Chain { base: None, rules: vec![rule.clone()] };
    let ruleset = Ruleset { chains: BTreeMap::from([(Name::from("chain"), chain)]), ..Ruleset::default() };
    let (_, chains) = decoded(&ruleset);
    assert_eq!(chains.get("chain").map(|chain| chain.rules.clone()), Some(vec![Some(rule.digest())]));
    let longest = super::codec::rule_comment(&rule);
    assert!(longest.len() <= 127, "{longest}");
}

#[test]
fn packet_fields_are_guarded() {
    let guards = |matches: &[Match]| -> Vec<Check> {
        let mut context = Context::default();
        matches.iter().flat_map(|matched| context.before_match(matched)).map(|guard| guard.check).collect()
    };
    let in_set =
        |selectors: &[Selector]| Match::InSet { selectors: selectors.to_vec(), set: Name::from("set"), negated: true };
    let port = in_set(&[Selector::DestinationPort]);
    assert_eq!(guards(&[in_set(&[Selector::Source4])]), [Check::Family(Family::V4)]);
    assert_eq!(guards(&[in_set(&[Selector::Destination6, Selector::Source6])]), [Check::Family(Family::V6)]);
    assert_eq!(guards(&[in_set(&[Selector::Source4]), in_set(&[Selector::Destination4])]).len(), 1, "once is enough");
    assert_eq!(guards(&[Match::Family(Family::V4), in_set(&[Selector::Source4])]), []);
    assert_eq!(guards(std::slice::from_ref(&port)), [Check::Ported]);
    assert_eq!(guards(&[Match::Protocol(Protocol::Udp), port.clone()]), []);
    assert_eq!(guards(&[in_set(&[Selector::Protocol, Selector::DestinationPort])]), []);
    let icmp = Match::IcmpTypes { family: Family::V6, types: vec![1] };
    assert_eq!(guards(std::slice::from_ref(&icmp)), [Check::Family(Family::V6), Check::Protocol(58)]);
    assert_eq!(guards(&[icmp, port]), [Check::Family(Family::V6), Check::Protocol(58), Check::Ported]);
    assert_eq!(guards(&[Match::TcpFlags { mask: 2, value: 2 }]), [Check::Protocol(6)]);
    let mut context = Context::default();
    let snat = Statement::Snat { to: "fd00::1".parse().unwrap(), random: false };
    assert!(context.before_statement(&snat).iter().all(|guard| !guard.implied), "the text must say it");
}

#[test]
fn rules_that_would_do_something_else_are_objected_to() {
    let rule = |matches, statements| Rule { matches, statements, comment: Name::from("why") };
    let log = Statement::Log { group: 1, per_minute: 1 };
    assert!(objection(TableFamily::Inet, &rule(vec![], vec![Statement::Counter, log.clone()])).is_none());
    assert!(objection(TableFamily::Inet, &rule(vec![], vec![log, Statement::Drop])).is_some());
    assert!(objection(TableFamily::Inet, &rule(vec![Match::CtState(vec![])], vec![])).is_some());
    let quoted = Rule { comment: Name::from("a \"quoted\" word"), ..rule(vec![], vec![]) };
    let transaction =
        Transaction { table: Some(Name::from(TABLE)), changes: vec![Change::AddRule(Name::from("chain"), quoted)] };
    let error = encode(&transaction).unwrap_err();
    assert!(error.to_string().starts_with("add rule inet ferrovia-contract chain comment"), "{error}");
}

#[test]
fn tables_read_as_nft_lists_them() {
    let mut ruleset = everything();
    ruleset.sets.retain(|name, _| &**name == "keys4" || &**name == "blocks6");
    ruleset.maps.retain(|name, _| &**name == "verdicts");
    ruleset.chains.retain(|name, _| &**name == "nat");
    let digests: Vec<u64> = ruleset.chains.values().flat_map(|chain| chain.rules.iter().map(Rule::digest)).collect();
    let expected = "table inet t {
\tset blocks6 {
\t\ttype ipv6_addr
\t\tflags interval
\t\telements = { 2001:db8::1,
\t\t\t     fd00::/8 }
\t}

\tset keys4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t\tsize 64
\t\telements = { 10.0.0.1 . tcp . 80,
\t\t\t     10.0.0.2 . tcp . 443 }
\t}

\tmap verdicts {
\t\ttype ipv4_addr : verdict
\t\tsize 64
\t\telements = { 10.0.0.1 : jump sub,
\t\t\t     10.0.0.2 : accept,
\t\t\t     10.0.0.3 : drop }
\t}

\tchain nat {
\t\ttype nat hook postrouting priority 90; policy accept;
\t\tmeta nfproto ipv4 snat ip to 10.0.0.1 fully-random comment \"rule 0: why it is there #DIGEST\"
\t\tmeta nfproto ipv6 snat ip6 to fd00::1 comment \"rule 1: why it is there #DIGEST\"
\t\tmeta nfproto ipv4 snat ip to ct original ip daddr comment \"rule 2: why it is there #DIGEST\"
\t\tmeta nfproto ipv6 snat ip6 to ct original ip6 daddr comment \"rule 3: why it is there #DIGEST\"
\t\tmasquerade fully-random comment \"rule 4: why it is there #DIGEST\"
\t\tmasquerade comment \"rule 5: why it is there #DIGEST\"
\t}
}
";
    let mut text = render("t", &ruleset);
    for digest in digests {
        text = text.replace(&format!("{digest:016x}"), "DIGEST");
    }
    assert_eq!(text, expected);
}

#[test]
fn long_changes_are_cut_in_errors_only() {
    let keys = (1..=5).map(|port| vec![Field::Port(port)]).collect();
    let change = Change::AddKeys(Name::from("ports"), keys);
    let change = ChangeIn { table: "t", change: &change };
    assert_eq!(change.to_string(), "add element inet t ports { 1, 2, 3, 4, 5 }");
    assert_eq!(change.brief(), "add element inet t ports { 1, 2, 3, … 2 more }");
}

proptest! {
    #[test]
    fn decoders_take_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<prop::sample::Index>()) {
        decode_all(&bytes);
        // And real messages with one byte changed.
        let encoded = encode(&plan(&Name::from(TABLE), &random_ruleset(u64::from(bytes.len() as u32)), None)).unwrap();
        let mut real = encoded.batch.bytes().to_vec();
        let at = flip.index(real.len());
        real[at] = real[at].wrapping_add(1 + bytes.first().copied().unwrap_or(0) % 250);
        for found in Messages::new(&real) {
            decode_all(found.payload);
        }
    }
}

fn decode_all(payload: &[u8]) {
    use crate::kernel::filter::{FieldType, ValueType};
    let _ = decode::table(payload);
    let _ = decode::chain(payload, TABLE);
    let _ = decode::rule(payload, TABLE);
    let _ = decode::object(payload, TABLE);
    let raw = decode::raw_elements(payload);
    let key = match decode::set(payload, TABLE).map(|header| header.shape) {
        Some(Shape::Keys(key) | Shape::Map(key, _)) => key,
        _ => vec![FieldType::Ipv4],
    };
    let _ = decode::keys(&key, &raw);
    let _ = decode::entries(&key, ValueType::Verdict, &raw);
    let _ = decode::entries(&key, ValueType::Mark, &raw);
    let _ = decode::prefixes(FieldType::Ipv4, &raw);
    let _ = decode::prefixes(FieldType::Ipv6, &raw);
}

#[test]
fn a_table_of_bridges_is_told_by_its_name() {
    let matches = vec![Match::InputBridge(Name::from("cni0")), Match::EtherType(0x8100)];
    let rule = |matches| Rule { matches, statements: vec![Statement::Drop], comment: Name::from("why") };
    let with = |table: &str, rule: &Rule| {
        let changes = vec![Change::AddTable, Change::AddRule(Name::from("forward"), rule.clone())];
        Transaction { table: Some(Name::from(table)), changes }
    };
    let of_frames = with("our-bridge", &rule(matches.clone()));
    let encoded = encode(&of_frames).unwrap();
    let families = Messages::new(encoded.batch.bytes()).filter(|found| found.kind >> 8 == SUBSYSTEM);
    assert!(families.into_iter().all(|found| found.payload.first() == Some(&FAMILY_BRIDGE)));
    let text = of_frames.to_string();
    assert!(text.starts_with("add table bridge our-bridge\nadd rule bridge our-bridge forward meta ibrname"), "{text}");
    assert!(text.contains("meta ibrname \"cni0\" ether type 0x8100 drop comment"), "{text}");
    // The link's header ends with the type; the name of the bridge is compared with all its zeros.
    let bytes = encoded.batch.bytes();
    let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(has(&[0x81, 0x00]) && has(b"cni0\0\0\0\0\0\0\0\0\0\0\0\0"));

    assert!(encode(&with("our-bridges", &rule(matches))).is_err(), "another table sees no frames");
    assert!(
        encode(&with("our-bridge", &rule(vec![Match::CtDirectionReply]))).is_err(),
        "a bridge tracks no connections"
    );
}
