//! BFD control packets, and what a session makes of them. What is understood is written the same.
#![no_main]

use std::time::Duration;

use ferrovia::routing::bgp::bfd::packet::{LENGTH, Packet};
use ferrovia::routing::bgp::bfd::session::{Session, Timers};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, &[u8])| {
    let (random, bytes) = input;
    let mut session = Session::new(1, Timers::default(), true);
    let mut now = Duration::ZERO;
    for datagram in bytes.chunks(LENGTH) {
        let Ok(packet) = Packet::decode(datagram) else { continue };
        assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
        let answer = session.receive(&packet, now, random);
        assert!(answer.send.is_none_or(|sent| Packet::decode(&sent.encode()) == Ok(sent)));
        now = session.deadline().unwrap_or(now).max(now);
        session.tick(now, random);
        assert!(session.deadline().is_none_or(|deadline| deadline > now));
    }
});
