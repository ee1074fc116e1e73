//! The control packet (RFC 5880 4.1), 24 bytes, and the checks on reception that need no session (6.8.6).

use std::fmt;

use thiserror::Error;

/// Length of a packet without authentication.
pub const LENGTH: usize = 24;

const VERSION: u8 = 1;

const POLL: u8 = 1 << 5;
const FINAL: u8 = 1 << 4;
const INDEPENDENT: u8 = 1 << 3;
const AUTHENTICATION: u8 = 1 << 2;
const DEMAND: u8 = 1 << 1;
const MULTIPOINT: u8 = 1;

/// State of a session, on the wire and off it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Held down on purpose; says nothing about the path.
    AdminDown,
    /// Nothing heard.
    Down,
    /// The neighbour is heard, but is not known to hear us.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    fn number(self) -> u8 {
        match self {
            State::AdminDown => 0,
            State::Down => 1,
            State::Init => 2,
            State::Up => 3,
        }
    }

    /// Of the two low bits.
    fn of(bits: u8) -> State {
        match bits & 3 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::AdminDown => "admin-down",
            State::Down => "down",
            State::Init => "init",
            State::Up => "up",
        })
    }
}

/// Why a session last left Up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Diagnostic {
    /// 0
    #[default]
    None,
    /// 1: no packet in the detection time.
    DetectionTimeExpired,
    /// 2
    EchoFailed,
    /// 3: the neighbour said it is down.
    NeighborSignaledDown,
    /// 4
    ForwardingPlaneReset,
    /// 5
    PathDown,
    /// 6
    ConcatenatedPathDown,
    /// 7: on purpose.
    AdministrativelyDown,
    /// 8
    ReverseConcatenatedPathDown,
    /// Reserved, 9 to 31.
    Other(u8),
}

impl Diagnostic {
    /// The number on the wire, at most 31.
    pub fn number(self) -> u8 {
        match self {
            Diagnostic::None => 0,
            Diagnostic::DetectionTimeExpired => 1,
            Diagnostic::EchoFailed => 2,
            Diagnostic::NeighborSignaledDown => 3,
            Diagnostic::ForwardingPlaneReset => 4,
            Diagnostic::PathDown => 5,
            Diagnostic::ConcatenatedPathDown => 6,
            Diagnostic::AdministrativelyDown => 7,
            Diagnostic::ReverseConcatenatedPathDown => 8,
            Diagnostic::Other(number) => number & 31,
        }
    }

    /// Of the five low bits.
    pub fn of(bits: u8) -> Diagnostic {
        match bits & 31 {
            0 => Diagnostic::None,
            1 => Diagnostic::DetectionTimeExpired,
            2 => Diagnostic::EchoFailed,
            3 => Diagnostic::NeighborSignaledDown,
            4 => Diagnostic::ForwardingPlaneReset,
            5 => Diagnostic::PathDown,
            6 => Diagnostic::ConcatenatedPathDown,
            7 => Diagnostic::AdministrativelyDown,
            8 => Diagnostic::ReverseConcatenatedPathDown,
            number => Diagnostic::Other(number),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Diagnostic::None => "no diagnostic",
            Diagnostic::DetectionTimeExpired => "control detection time expired",
            Diagnostic::EchoFailed => "echo function failed",
            Diagnostic::NeighborSignaledDown => "neighbor signaled session down",
            Diagnostic::ForwardingPlaneReset => "forwarding plane reset",
            Diagnostic::PathDown => "path down",
            Diagnostic::ConcatenatedPathDown => "concatenated path down",
            Diagnostic::AdministrativelyDown => "administratively down",
            Diagnostic::ReverseConcatenatedPathDown => "reverse concatenated path down",
            Diagnostic::Other(number) => return write!(f, "diagnostic {number}"),
        })
    }
}

/// A control packet. Intervals are microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session last left Up.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// Asks for an answer with `last` set (P).
    pub poll: bool,
    /// Answers a poll (F, "final").
    pub last: bool,
    /// The sender's BFD goes on while its control plane restarts (C).
    pub independent: bool,
    /// The sender wants demand mode (D).
    pub demand: bool,
    /// Packets in a row that may be missing; never 0.
    pub multiplier: u8,
    /// The sender's name for the session; never 0.
    pub my_discriminator: u32,
    /// The receiver's name for the session; 0 where not yet known.
    pub your_discriminator: u32,
    /// The sender would like to send this often.
    pub desired_min_tx: u32,
    /// The sender takes packets this often; 0: wants none.
    pub required_min_rx: u32,
    /// The same for echo packets; 0: takes none.
    pub required_min_echo_rx: u32,
}

/// Why a packet was discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Fewer bytes than a packet has.
    #[error("{0} bytes are too few")]
    Short(usize),
    /// Another version of the protocol.
    #[error("version {0}")]
    Version(u8),
    /// The length field is below the least or beyond the datagram.
    #[error("length field {0}")]
    Length(u8),
    /// Authentication, which is not in use here.
    #[error("authentication is not in use")]
    Authentication,
    /// Detection multiplier 0.
    #[error("detection multiplier is 0")]
    Multiplier,
    /// The multipoint bit.
    #[error("multipoint bit is set")]
    Multipoint,
    /// No discriminator of the sender.
    #[error("sender has no discriminator")]
    MyDiscriminator,
    /// The sender does not name our session, though its state says it knows it.
    #[error("state {0} without our discriminator")]
    YourDiscriminator(State),
}

impl Packet {
    /// The bytes to send.
    pub fn encode(&self) -> [u8; LENGTH] {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION << 5 | self.diagnostic.number();
        bytes[1] = self.state.number() << 6
            | flag(self.poll, POLL)
            | flag(self.last, FINAL)
            | flag(self.independent, INDEPENDENT)
            | flag(self.demand, DEMAND);
        bytes[2] = self.multiplier;
        bytes[3] = LENGTH as u8;
        bytes[4..8].copy_from_slice(&self.my_discriminator.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.your_discriminator.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.desired_min_tx.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.required_min_rx.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.required_min_echo_rx.to_be_bytes());
        bytes
    }

    /// Reads a datagram, refusing what RFC 5880 6.8.6 says to discard.
    pub fn decode(datagram: &[u8]) -> Result<Packet, Refused> {
        let Some(bytes) = datagram.first_chunk::<LENGTH>() else { return Err(Refused::Short(datagram.len())) };
        let [first, flags, multiplier, length, ..] = *bytes;
        if first >> 5 != VERSION {
            return Err(Refused::Version(first >> 5));
        }
        if usize::from(length) < LENGTH || usize::from(length) > datagram.len() {
            return Err(Refused::Length(length));
        }
        if multiplier == 0 {
            return Err(Refused::Multiplier);
        }
        if flags & MULTIPOINT != 0 {
            return Err(Refused::Multipoint);
        }
        if flags & AUTHENTICATION != 0 {
            return Err(Refused::Authentication);
        }
        let packet = Packet {
            diagnostic: Diagnostic::of(first),
            state: State::of(flags >> 6),
            poll: flags & POLL != 0,
            last: flags & FINAL != 0,
            independent: flags & INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            multiplier,
            my_discriminator: word(bytes, 4),
            your_discriminator: word(bytes, 8),
            desired_min_tx: word(bytes, 12),
            required_min_rx: word(bytes, 16),
            required_min_echo_rx: word(bytes, 20),
        };
        if packet.my_discriminator == 0 {
            return Err(Refused::MyDiscriminator);
        }
        if packet.your_discriminator == 0 && !matches!(packet.state, State::Down | State::AdminDown) {
            return Err(Refused::YourDiscriminator(packet.state));
        }
        Ok(packet)
    }
}

/// The big-endian word at `at`; 0 beyond the end.
fn word(bytes: &[u8; LENGTH], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: [u8; LENGTH] =
        [0x23, 0xd8, 3, 24, 0, 0, 0, 7, 0, 0, 0, 9, 0, 4, 0x93, 0xe0, 0, 1, 0x86, 0xa0, 0, 0, 0, 0];

    fn with(at: usize, value: u8) -> Vec<u8> {
        let mut bytes = EXAMPLE.to_vec();
        bytes[at] = value;
        bytes
    }

    #[test]
    fn reads_the_fields_where_the_rfc_puts_them() {
        let packet = Packet::decode(&EXAMPLE).unwrap();
        let expected = Packet {
            diagnostic: Diagnostic::NeighborSignaledDown,
            state: State::Up,
            poll: false,
            last: true,
            independent: true,
            demand: false,
            multiplier: 3,
            my_discriminator: 7,
            your_discriminator: 9,
            desired_min_tx: 300_000,
            required_min_rx: 100_000,
            required_min_echo_rx: 0,
        };
        assert_eq!(packet, expected);
        assert_eq!(packet.encode(), EXAMPLE);
    }

    #[test]
    fn refuses_what_the_rfc_says_to_discard() {
        let refused = |bytes: &[u8]| Packet::decode(bytes).unwrap_err();
        assert_eq!(refused(&EXAMPLE[..23]), Refused::Short(23));
        assert_eq!(refused(&[]), Refused::Short(0));
        assert_eq!(refused(&with(0, 0x03)), Refused::Version(0));
        assert_eq!(refused(&with(0, 0x43)), Refused::Version(2));
        assert_eq!(refused(&with(3, 23)), Refused::Length(23));
        assert_eq!(refused(&with(3, 25)), Refused::Length(25), "longer than the datagram");
        assert_eq!(refused(&with(2, 0)), Refused::Multiplier);
        assert_eq!(refused(&with(1, 0xd9)), Refused::Multipoint);
        assert_eq!(refused(&with(1, 0xdc)), Refused::Authentication);
        assert_eq!(refused(&with(7, 0)), Refused::MyDiscriminator);
        assert_eq!(refused(&with(11, 0)), Refused::YourDiscriminator(State::Up));
    }

    #[test]
    fn takes_a_first_packet_only_in_a_down_state() {
        for (flags, taken) in [(0x00, true), (0x40, true), (0x80, false), (0xc0, false)] {
            let mut bytes = with(1, flags);
            bytes[11] = 0;
            assert_eq!(Packet::decode(&bytes).is_ok(), taken, "{flags:#x}");
        }
    }

    #[test]
    fn takes_a_datagram_longer_than_the_packet() {
        let mut bytes = EXAMPLE.to_vec();
        bytes.extend([0; 8]);
        assert!(Packet::decode(&bytes).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            }
        }

        #[test]
        fn whatever_is_written_is_read_the_same(
            mut bytes in proptest::array::uniform24(any::<u8>()),
            diagnostic in 0..32u8,
        ) {
            bytes[0] = 0x20 | diagnostic;
            bytes[1] &= !(AUTHENTICATION | MULTIPOINT);
            (bytes[2], bytes[3]) = (bytes[2].max(1), 24);
            (bytes[7], bytes[11]) = (bytes[7].max(1), bytes[11].max(1));
            prop_assert_eq!(Packet::decode(&bytes).map(|packet| packet.encode()), Ok(bytes));
        }
    }
}
