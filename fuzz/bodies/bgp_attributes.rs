//! Attributes of an UPDATE one by one: flags, code and value. Whatever they are, the route beside them is announced,
//! withdrawn, or the session ends.

use super::shape;
use ferrovia::net::Prefix;
use ferrovia::routing::bgp::wire::{self, Message};

pub(crate) fn run(bytes: &[u8]) {
    let &[bits, complete, ref rest @ ..] = bytes else { return };
    let (complete, mut rest) = (complete & 1 != 0, rest);
    let mut attributes = Vec::new();
    while let &[flags, code, high, low, ref later @ ..] = rest {
        // The length of a value: what is left where that is less.
        let length = usize::from(u16::from_be_bytes([high & 0x0f, low])).min(later.len());
        let (value, later) = later.split_at(length);
        attributes.push((flags, code, value.to_vec()));
        rest = later;
    }
    let session = shape::session(bits);
    let path: &[u8] = if session.four_octet_as { &[2, 1, 0, 0, 0xfc, 1] } else { &[2, 1, 0xfc, 1] };
    let least = [(0x40, 1, vec![0]), (0x40, 2, path.to_vec()), (0x40, 3, vec![192, 0, 2, 1])];
    let mut field = Vec::new();
    for (flags, code, value) in least.iter().filter(|_| complete).chain(&attributes) {
        match u8::try_from(value.len()) {
            Ok(length) if flags & 0x10 == 0 => field.extend([*flags, *code, length]),
            _ => {
                let Ok(length) = u16::try_from(value.len()) else { return };
                field.extend([flags | 0x10, *code]);
                field.extend(length.to_be_bytes());
            }
        }
        field.extend(value);
    }
    let Ok(length) = u16::try_from(field.len()) else { return };
    let ids = !session.add_path_receive.is_empty();
    let route: &[u8] = if ids { &[0, 0, 0, 1, 16, 10, 1] } else { &[16, 10, 1] };
    let body = [&[0, 0], length.to_be_bytes().as_slice(), &field, route].concat();
    if body.len() + wire::HEADER > wire::MAX_EXTENDED {
        return;
    }
    match wire::decode(&shape::message(2, &body), Some(&session)) {
        Ok(Message::Update(update)) => {
            let prefix: Prefix = "10.1.0.0/16".parse().unwrap();
            let announced = update.reach.iter().flat_map(|reach| &reach.nlri).filter(|nlri| nlri.prefix == prefix);
            let withdrawn = update.withdrawn.iter().filter(|nlri| nlri.prefix == prefix);
            assert!(announced.count() + withdrawn.count() >= 1, "a route was lost: {update:?}");
            for reach in &update.reach {
                assert!(reach.attributes.communities.is_sorted());
                assert!(!reach.attributes.next_hop.address.is_unspecified());
            }
        }
        Ok(other) => panic!("an UPDATE was read as {other:?}"),
        Err(notification) => assert_eq!(notification.code, 3, "{notification:?}"),
    }
}
