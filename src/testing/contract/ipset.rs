//! What every [`Ipset`] must do. Each function takes an empty namespace (or a new fake) and panics where the promise is
//! broken.

#![allow(clippy::expect_used, clippy::panic, reason = "a broken promise must stop the test")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::kernel::Error;
use crate::kernel::error::Disposition;
use crate::kernel::ipset::{Element, Found, Ipset, Kind, Op, Shape};
use crate::net::Family;

/// A promise and its name.
pub type Promise<I> = (&'static str, fn(&mut I));

/// Every promise; each wants a namespace of its own.
pub fn promises<I: Ipset>() -> Vec<Promise<I>> {
    vec![
        ("sets_of_every_kind_come_fill_and_go", sets_of_every_kind_come_fill_and_go),
        ("what_is_so_already_is_no_error", what_is_so_already_is_no_error),
        ("refusals_have_names", refusals_have_names),
        ("contents_are_exchanged", contents_are_exchanged),
        ("big_sets_come_and_go", big_sets_come_and_go),
    ]
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn block(text: &str) -> Element {
    Element::Block(text.parse().expect("a block"))
}

fn done(results: Vec<Result<(), Error>>) {
    for result in results {
        if let Err(error) = result {
            panic!("{error}");
        }
    }
}

fn create(name: &str, kind: Kind, family: Family, most: u32) -> Op {
    let shape = if kind == Kind::Port {
        Shape { kind, family: None, most: 0 }
    } else {
        Shape { kind, family: Some(family), most }
    };
    Op::Create { name: Arc::from(name), shape, expected: most as usize }
}

fn found(ipset: &mut impl Ipset, name: &str) -> Found {
    ipset.list(name).expect("a listing").unwrap_or_else(|| panic!("no set {name}"))
}

fn samples(kind: Kind, family: Family) -> Vec<Element> {
    let v4 = family == Family::V4;
    let (one, other) = if v4 { (ip("10.0.0.1"), ip("10.0.0.2")) } else { (ip("fd00::1"), ip("fd00::2")) };
    match kind {
        Kind::Address => vec![Element::Address(one), Element::Address(other)],
        Kind::Block if v4 => vec![block("0.0.0.0/1"), block("10.0.0.0/8"), block("10.1.0.0/16"), block("10.1.1.1/32")],
        Kind::Block => vec![block("8000::/1"), block("fd00::/8"), block("fd00::1/128")],
        Kind::Socket => [6, 17, 132].into_iter().map(|protocol| Element::Socket(one, protocol, 80)).collect(),
        Kind::Pair => vec![Element::Pair(one, one), Element::Pair(one, other)],
        Kind::Port => vec![Element::Port(0), Element::Port(80), Element::Port(65_535)],
    }
}

fn sets_of_every_kind_come_fill_and_go(ipset: &mut impl Ipset) {
    assert!(ipset.names().expect("names").is_empty(), "the namespace is new");
    for kind in Kind::ALL {
        for family in Family::ALL {
            if !ipset.supports(kind, family).expect("an answer") {
                continue;
            }
            let name: Arc<str> = Arc::from("contract");
            let elements = samples(kind, family);
            done(ipset.apply(&[create("contract", kind, family, 100), Op::Add(name.clone(), elements.clone())]));
            assert_eq!(ipset.names().expect("names").as_slice(), std::slice::from_ref(&name));
            let now = found(ipset, "contract");
            let Op::Create { shape, .. } = create("contract", kind, family, 100) else { unreachable!() };
            assert_eq!((now.shape, now.references), (Some(shape), 0));
            assert_eq!(now.elements, elements.iter().copied().collect::<BTreeSet<_>>(), "{kind:?} {family}");
            let (gone, stays) = elements.split_first().expect("samples");
            done(ipset.apply(&[Op::Delete(name.clone(), vec![*gone])]));
            assert_eq!(found(ipset, "contract").elements, stays.iter().copied().collect());
            done(ipset.apply(&[Op::Destroy(name)]));
            assert_eq!(ipset.list("contract").expect("a listing"), None);
        }
    }
}

fn what_is_so_already_is_no_error(ipset: &mut impl Ipset) {
    let name: Arc<str> = Arc::from("twice");
    let elements = samples(Kind::Address, Family::V4);
    done(ipset.apply(&[
        create("twice", Kind::Address, Family::V4, 10),
        Op::Add(name.clone(), elements.clone()),
        Op::Add(name.clone(), elements.clone()),
        Op::Delete(name.clone(), elements.clone()),
        Op::Delete(name.clone(), elements),
        Op::Add(name.clone(), Vec::new()),
    ]));
    assert!(found(ipset, "twice").elements.is_empty());
    let results =
        ipset.apply(&[create("twice", Kind::Address, Family::V4, 10), Op::Destroy(name.clone()), Op::Destroy(name)]);
    let kinds: Vec<Result<(), Disposition>> = results.into_iter().map(|result| result.map_err(|it| it.kind)).collect();
    assert_eq!(kinds, [Err(Disposition::Stale), Ok(()), Err(Disposition::AlreadySo)]);
}

fn refusals_have_names(ipset: &mut impl Ipset) {
    done(ipset.apply(&[create("small", Kind::Address, Family::V4, 2), create("six", Kind::Address, Family::V6, 2)]));
    let addresses = |range: std::ops::Range<u8>| range.map(|n| Element::Address(IpAddr::from([10, 0, 0, n]))).collect();
    let results = ipset.apply(&[
        Op::Add("small".into(), addresses(1..3)),
        Op::Add("small".into(), addresses(3..4)),
        Op::Add("six".into(), addresses(1..2)),
        Op::Add("none".into(), addresses(1..2)),
        Op::Swap("small".into(), "six".into()),
        Op::Swap("small".into(), "none".into()),
        create("a-name-of-more-than-thirty-one-bytes", Kind::Address, Family::V4, 2),
    ]);
    let told: Vec<Option<(String, Disposition)>> = results
        .into_iter()
        .map(|result| result.err().map(|error| (error.message.split(':').next().unwrap_or("").to_owned(), error.kind)))
        .collect();
    let said = |at: usize| told.get(at).cloned().flatten().unwrap_or_else(|| panic!("op {at} was not refused"));
    assert_eq!(told.first(), Some(&None));
    assert_eq!(said(1), ("IPSET_ERR_HASH_FULL".to_owned(), Disposition::Fatal));
    assert!(said(2).0.starts_with("IPSET_ERR_"), "{:?}", said(2));
    assert_eq!(said(3).1, Disposition::Stale);
    assert_eq!(said(4), ("IPSET_ERR_TYPE_MISMATCH".to_owned(), Disposition::Fatal));
    assert_eq!(said(5), ("IPSET_ERR_EXIST_SETNAME2".to_owned(), Disposition::Stale));
    assert_eq!(said(6).1, Disposition::Fatal);
    assert_eq!(found(ipset, "small").elements.len(), 2);
    // The kernel has no block of all addresses.
    done(ipset.apply(&[create("blocks", Kind::Block, Family::V4, 2)]));
    let results = ipset.apply(&[Op::Add("blocks".into(), vec![block("0.0.0.0/0")])]);
    assert!(results.iter().all(Result::is_err));
}

fn contents_are_exchanged(ipset: &mut impl Ipset) {
    let (one, other) = (samples(Kind::Address, Family::V4), vec![Element::Address(ip("10.9.9.9"))]);
    done(ipset.apply(&[
        create("one", Kind::Address, Family::V4, 64),
        create("other", Kind::Address, Family::V4, 128),
        Op::Add("one".into(), one.clone()),
        Op::Add("other".into(), other.clone()),
        Op::Swap("one".into(), "other".into()),
    ]));
    assert_eq!(found(ipset, "one").elements, other.into_iter().collect());
    assert_eq!(found(ipset, "other").elements, one.into_iter().collect());
}

fn big_sets_come_and_go(ipset: &mut impl Ipset) {
    const N_ELEMENTS: u32 = 20_000;
    let address = |n: u32| Element::Address(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)));
    let name: Arc<str> = Arc::from("big");
    let all: Vec<Element> = (1..=N_ELEMENTS).map(address).collect();
    done(ipset.apply(&[create("big", Kind::Address, Family::V4, N_ELEMENTS), Op::Add(name.clone(), all.clone())]));
    assert_eq!(found(ipset, "big").elements, all.iter().copied().collect());
    let half = all.iter().copied().step_by(2).collect::<Vec<_>>();
    done(ipset.apply(&[Op::Delete(name.clone(), half)]));
    assert_eq!(found(ipset, "big").elements.len(), all.len() / 2);
    done(ipset.apply(&[Op::Destroy(name)]));
}
