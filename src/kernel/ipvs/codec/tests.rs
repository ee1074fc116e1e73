//! Round trips and arbitrary bytes.

use proptest::prelude::*;

use super::*;
use crate::kernel::netlink::Messages;
use crate::testing::contract::ipvs::arbitrary;

fn payload(batch: &Batch) -> Vec<u8> {
    Messages::new(batch.bytes()).next().unwrap().payload.to_vec()
}

proptest! {
    /// A request holds what an answer holds, so encoding must come back.
    #[test]
    fn virtual_servers_come_back_as_encoded(key in arbitrary::key(), spec in arbitrary::spec()) {
        let family = key.family();
        let spec = VirtualServerSpec { persistence_prefix: spec.persistence_prefix.min(family.host_length()), ..spec };
        for op in [Op::AddVirtualServer(key, spec.clone()), Op::SetVirtualServer(key, spec.clone())] {
            let mut batch = Batch::new();
            encode_op(&mut batch, 30, &op);
            let record = decode_virtual_server(&payload(&batch)).unwrap();
            prop_assert_eq!(&record.key, &key);
            prop_assert_eq!(&record.spec, &spec);
        }
    }

    #[test]
    fn real_servers_come_back_as_encoded(key in arbitrary::key(), real in arbitrary::real_server()) {
        for op in [Op::AddRealServer(key, real), Op::SetRealServer(key, real)] {
            let mut batch = Batch::new();
            encode_op(&mut batch, 30, &op);
            let (read, connections) = decode_real_server(key.family(), &payload(&batch)).unwrap();
            prop_assert_eq!(read, real);
            prop_assert_eq!(connections, Connections::default());
        }
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_virtual_server(&bytes);
        let _ = decode_real_server(Family::V4, &bytes);
        let _ = decode_real_server(Family::V6, &bytes);
    }

    /// Nearly right bytes reach deeper than random ones.
    #[test]
    fn damaged_answers_decode_without_panic(
        key in arbitrary::key(),
        spec in arbitrary::spec(),
        real in arbitrary::real_server(),
        at in 0_usize..200,
        to: u8,
        cut in 0_usize..200,
    ) {
        let mut batch = Batch::new();
        encode_op(&mut batch, 30, &Op::AddVirtualServer(key, spec));
        encode_op(&mut batch, 30, &Op::AddRealServer(key, real));
        for message in Messages::new(batch.bytes()) {
            let mut bytes = message.payload.to_vec();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            bytes.truncate(bytes.len().max(cut) - cut.min(bytes.len()) / 2);
            let _ = decode_virtual_server(&bytes);
            let _ = decode_real_server(Family::V4, &bytes);
        }
    }
}

#[test]
fn bytes_are_those_the_kernel_expects() {
    let mut batch = Batch::new();
    let key = VirtualServerKey::Address { address: "10.96.0.1".parse().unwrap(), protocol: Protocol::Tcp, port: 443 };
    let spec = VirtualServerSpec {
        scheduler: Scheduler::new("mh"),
        scheduler_flags: 0b11,
        persistence: Some(60),
        persistence_prefix: 24,
        one_packet: false,
    };
    encode_op(&mut batch, 30, &Op::AddVirtualServer(key, spec));
    let flags = (0x1_u32 | 0x8 | 0x10).to_ne_bytes();
    let mut want = vec![command::NEW_SERVICE, 1, 0, 0];
    want.extend([88, 0, 1, 0x80]);
    want.extend([6, 0, 1, 0, 2, 0, 0, 0]);
    want.extend([6, 0, 2, 0, 6, 0, 0, 0]);
    want.extend([20, 0, 3, 0, 10, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    want.extend([6, 0, 4, 0, 1, 187, 0, 0]);
    want.extend([7, 0, 6, 0, b'm', b'h', 0, 0]);
    want.extend([12, 0, 7, 0, flags[0], flags[1], flags[2], flags[3], 255, 255, 255, 255]);
    want.extend([8, 0, 8, 0, 60, 0, 0, 0]);
    want.extend([8, 0, 9, 0, 255, 255, 255, 0]);
    let length = u16::try_from(want.len() - 4).unwrap().to_ne_bytes();
    want[4..6].copy_from_slice(&length);
    if cfg!(target_endian = "little") {
        assert_eq!(payload(&batch), want);
    }
}

#[test]
fn foreign_virtual_servers_are_left_out_and_the_hashed_flag_is_not_seen() {
    let key = VirtualServerKey::Address { address: "10.96.0.1".parse().unwrap(), protocol: Protocol::Tcp, port: 443 };
    let answer = |protocol: u16, flags: u32| {
        let mut batch = Batch::new();
        let mut message = batch.message(30, 0);
        message.generic(command::NEW_SERVICE, 1);
        message.attributes().nest(top::SERVICE, |service| {
            service.u16(service::FAMILY, AF_INET);
            service.u16(service::PROTOCOL, protocol);
            service.bytes(service::ADDRESS, &address_bytes("10.96.0.1".parse().unwrap()));
            service.be16(service::PORT, 443);
            service.text(service::SCHEDULER, "rr");
            service.u64(service::FLAGS, joined(flags, u32::MAX));
            service.u32(service::TIMEOUT, 0);
            service.bytes(service::NETMASK, &[255; 4]);
            service.text(11, "sip");
            service.u32(999, 1);
        });
        drop(message);
        decode_virtual_server(&payload(&batch))
    };
    assert_eq!(answer(50, 0), None, "ESP is not a protocol of ours");
    let plain = answer(6, 0x2).unwrap();
    assert_eq!(plain.key, key);
    assert_eq!((plain.spec.persistence, plain.spec.scheduler_flags, plain.spec.one_packet), (None, 0, false));
    let all = answer(6, u32::MAX).unwrap();
    assert_eq!((all.spec.persistence, all.spec.scheduler_flags, all.spec.one_packet), (Some(0), 7, true));
}
