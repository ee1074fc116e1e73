//! Encoding and decoding against each other, without a kernel.

use proptest::prelude::*;

use super::codec::{self, Dialect};
use super::{Element, Kind, Op, Shape};
use crate::kernel::netlink::{Attributes, Batch, Messages};
use crate::net::Family;

fn encoded(op: &Op) -> Vec<Vec<u8>> {
    let mut batch = Batch::new();
    codec::encode(&mut batch, Dialect { protocol: 7 }, op, 3);
    Messages::new(batch.bytes()).map(|message| message.payload.to_vec()).collect()
}

#[test]
fn many_elements_travel_in_few_messages_and_are_numbered() {
    let elements: Vec<Element> =
        (0..1_200_u32).map(|n| Element::Address(std::net::Ipv4Addr::from(n + 1).into())).collect();
    let messages = encoded(&Op::Add("s".into(), elements));
    assert_eq!(messages.len(), 3);
    let inside = |payload: &[u8]| {
        let list = Attributes::after(payload, 4).find(8).expect("a list of elements");
        list.nested().map(|item| item.nested().find(9).and_then(|line| line.u32())).collect::<Vec<_>>()
    };
    let lines = inside(&messages[2]);
    assert_eq!((lines.len(), lines[0], lines[199]), (200, Some(1), Some(200)));
}

#[test]
fn what_is_written_as_elements_is_read_as_the_same_elements() {
    let shape = |kind, family| Shape { kind, family, most: 10 };
    for (kind, element) in [
        (Kind::Address, Element::Address("10.0.0.1".parse().unwrap())),
        (Kind::Address, Element::Address("fd00::1".parse().unwrap())),
        (Kind::Block, Element::Block("10.0.0.0/8".parse().unwrap())),
        (Kind::Socket, Element::Socket("fd00::1".parse().unwrap(), 132, 80)),
        (Kind::Pair, Element::Pair("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())),
        (Kind::Port, Element::Port(8080)),
    ] {
        // A listed set has the same form of elements as an addition, behind a header like that of a new set.
        let create = Op::Create { name: "s".into(), shape: shape(kind, Some(Family::V4)), expected: 1 };
        let parts = [create, Op::Add("s".into(), vec![element])].map(|op| encoded(&op).concat());
        let found = codec::assemble(parts.iter().map(|payload| codec::decode_part(payload))).expect("a set");
        assert_eq!(found.elements.into_iter().collect::<Vec<_>>(), [element]);
        assert_eq!(found.shape.map(|shape| shape.kind), Some(kind));
    }
}

#[test]
fn changes_print_as_commands() {
    let shape = Shape { kind: Kind::Socket, family: Some(Family::V6), most: 64 };
    let create = Op::Create { name: "s".into(), shape, expected: 1 };
    assert_eq!(create.to_string(), "create s hash:ip,port family inet6 maxelem 64");
    let element = |n: u8| Element::Socket("fd00::1".parse().unwrap(), n, 53);
    let add = Op::Add("s".into(), vec![element(17), element(6), element(132), element(33)]);
    assert_eq!(add.to_string(), "add s fd00::1,udp:53; add s fd00::1,tcp:53; add s fd00::1,sctp:53; and 1 more");
    assert_eq!(Op::Swap("a".into(), "b".into()).to_string(), "swap a b");
}

proptest! {
    #[test]
    fn any_bytes_may_come(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = (codec::decode_protocol(&bytes), codec::decode_type(&bytes), codec::decode_name(&bytes));
        let _ = codec::assemble([codec::decode_part(&bytes), codec::decode_part(&bytes)]);
    }
}
