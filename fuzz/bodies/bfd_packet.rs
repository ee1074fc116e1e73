//! BFD control packets, and what a session makes of them. What is understood is written the same.

use std::time::Duration;

use ferrovia::routing::bgp::bfd::packet::{LENGTH, Packet};
use ferrovia::routing::bgp::bfd::session::{Session, Timers};

pub(crate) fn run(bytes: &[u8]) {
    let Some((random, bytes)) = bytes.split_first_chunk() else { return };
    let random = u32::from_be_bytes(*random);
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
}
