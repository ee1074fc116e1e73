//! Messages of the generic netlink family `fou` (pure): `include/uapi/linux/fou.h`.

use super::{Op, Port};
use crate::kernel::netlink::{Attributes, Batch, flag, generic};
use crate::net::Family;

/// `FOU_GENL_NAME`.
pub(super) const FAMILY_NAME: &str = "fou";
/// `FOU_GENL_VERSION`.
const VERSION: u8 = 1;

mod command {
    pub(super) const ADD: u8 = 1;
    pub(super) const DELETE: u8 = 2;
    pub(super) const GET: u8 = 3;
}

mod attribute {
    pub(super) const PORT: u16 = 1;
    pub(super) const FAMILY: u16 = 2;
    pub(super) const TYPE: u16 = 4;
}

/// FOU_ENCAP_GUE.
const GUE: u8 = 2;

/// Appends the message of one op; `number` is that of the generic netlink family.
pub(super) fn encode(op: &Op, number: u16, batch: &mut Batch) {
    let (command, add) = match op {
        Op::AddPort(_) => (command::ADD, true),
        Op::DeletePort(_) => (command::DELETE, false),
    };
    let port = op.port();
    let mut message = batch.message(number, 0);
    let mut attributes = message.generic(command, VERSION).attributes();
    attributes.be16(attribute::PORT, port.number);
    attributes.u8(attribute::FAMILY, family_number(port.family));
    if add {
        attributes.u8(attribute::TYPE, GUE);
    }
}

/// Asks for all ports.
pub(super) fn request_ports(batch: &mut Batch, number: u16) {
    batch.message(number, flag::DUMP).generic(command::GET, VERSION);
}

/// A port, where it takes GUE.
pub fn decode_port(payload: &[u8]) -> Option<Port> {
    let find = |kind| Attributes::after(payload, generic::HEADER).find(kind);
    let family = find(attribute::FAMILY)?.u8()?;
    let family = Family::ALL.into_iter().find(|known| family_number(*known) == family)?;
    let number = find(attribute::PORT)?.be16()?;
    (find(attribute::TYPE)?.u8()? == GUE).then_some(Port { family, number })
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::netlink::Messages;

    fn payload(op: Op) -> Vec<u8> {
        let mut batch = Batch::new();
        encode(&op, 33, &mut batch);
        Messages::new(batch.bytes()).next().unwrap().payload.to_vec()
    }

    proptest! {
        #[test]
        fn ports_decode_as_encoded(number in any::<u16>()) {
            for family in Family::ALL {
                let port = Port { family, number };
                prop_assert_eq!(decode_port(&payload(Op::AddPort(port))), Some(port));
            }
        }

        #[test]
        fn the_decoder_takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode_port(&bytes);
        }
    }

    #[test]
    fn the_port_is_big_endian() {
        let port = Port { family: Family::V4, number: 5555 };
        let bytes = payload(Op::DeletePort(port));
        assert_eq!(bytes, [2, 1, 0, 0, 6, 0, 1, 0, 0x15, 0xb3, 0, 0, 5, 0, 2, 0, 2, 0, 0, 0]);
        assert_eq!(decode_port(&bytes), None, "a port that does not say what it takes is none of ours");
    }
}
