//! OPEN and its capabilities (RFC 5492; extended parameters RFC 9072).

use std::net::Ipv4Addr;

use rustbgpd_wire::{
    AddPathFamily, AddPathMode, Capability as Codec, ExtendedNextHopFamily, GracefulRestartFamily, LlgrFamily,
    OpenMessage,
};

use super::{codec_family, family, refusal};
use crate::net::{Asn, Family};
use crate::routing::bgp::types::{Notification, OpenSettings, PeerRestart};

/// What an OPEN says in place of an AS number that needs four octets (RFC 6793).
const AS_TRANS: u16 = 23456;

/// The most a restart time can say (12 bits).
const MAX_RESTART_TIME: u16 = 0x0fff;

/// The most a long-lived stale time can say (24 bits).
const MAX_LONG_LIVED: u32 = 0x00ff_ffff;

/// An OPEN.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// The sender's AS, from the capability where it has one.
    pub asn: Asn,
    /// The hold time it proposes, in seconds.
    pub hold_time: u16,
    /// Its identifier.
    pub router_id: Ipv4Addr,
    message: OpenMessage,
}

/// A capability, for negotiation and for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// A family (RFC 4760).
    Multiprotocol(Family),
    /// RFC 2918.
    RouteRefresh,
    /// IPv6 next hops for IPv4 (RFC 8950).
    ExtendedNextHop,
    /// RFC 8654.
    ExtendedMessage,
    /// RFC 4724.
    GracefulRestart(PeerRestart),
    /// RFC 6793.
    FourOctetAs(Asn),
    /// RFC 7911: for each family whether the sender would receive and send path identifiers.
    AddPath(Vec<(Family, bool, bool)>),
    /// RFC 7313.
    EnhancedRefresh,
    /// RFC 9494: for each family whether forwarding went on, and the long-lived stale time in seconds.
    LongLived(Vec<(Family, bool, u32)>),
    /// Another one: code and value.
    Unknown(u8, Vec<u8>),
}

impl Open {
    /// The OPEN these settings make.
    pub fn from_settings(settings: &OpenSettings) -> Open {
        let message = OpenMessage {
            version: 4,
            my_as: u16::try_from(settings.asn.0).unwrap_or(AS_TRANS),
            hold_time: settings.hold_time,
            bgp_identifier: settings.router_id,
            capabilities: capabilities(settings),
        };
        Open { asn: settings.asn, hold_time: settings.hold_time, router_id: settings.router_id, message }
    }

    /// Every capability, in the order of the message.
    pub fn capabilities(&self) -> Vec<Capability> {
        let mut bytes = Vec::new();
        let read = |capability: &Codec| {
            bytes.clear();
            capability.encode(&mut bytes).ok()?;
            match bytes.as_slice() {
                &[code, _, ref value @ ..] => Some(Capability::read(code, value)),
                _ => None,
            }
        };
        self.message.capabilities.iter().filter_map(read).collect()
    }

    /// The message in the codec's words, for negotiation.
    pub(in super::super) fn message(&self) -> &OpenMessage {
        &self.message
    }

    pub(super) fn decode(body: &[u8]) -> Result<Open, Notification> {
        let mut rest = body;
        let message = OpenMessage::decode(&mut rest, body.len()).map_err(|error| refusal(&error))?;
        Ok(Open {
            asn: Asn(message.four_byte_as()),
            hold_time: message.hold_time,
            router_id: message.bgp_identifier,
            message,
        })
    }
}

impl Capability {
    /// Reads a value leniently: entries of families that are not carried here do not hide the others.
    fn read(code: u8, value: &[u8]) -> Capability {
        let known = match code {
            1 => exactly(value)
                .and_then(|[high, low, _, safi]| family(u16::from_be_bytes([high, low]), safi))
                .map(Capability::Multiprotocol),
            2 if value.is_empty() => Some(Capability::RouteRefresh),
            5 => extended_next_hop(value).then_some(Capability::ExtendedNextHop),
            6 if value.is_empty() => Some(Capability::ExtendedMessage),
            64 => restart(value).map(Capability::GracefulRestart),
            65 => exactly(value).map(|octets| Capability::FourOctetAs(Asn(u32::from_be_bytes(octets)))),
            69 => add_path(value).map(Capability::AddPath),
            70 if value.is_empty() => Some(Capability::EnhancedRefresh),
            71 => long_lived(value).map(Capability::LongLived),
            _ => None,
        };
        known.unwrap_or_else(|| Capability::Unknown(code, value.to_vec()))
    }
}

fn exactly<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

/// The entries of a capability that lists entries of one size; `None` when it does not divide.
fn entries<const N: usize>(value: &[u8]) -> Option<&[[u8; N]]> {
    let (entries, rest) = value.as_chunks();
    rest.is_empty().then_some(entries)
}

fn extended_next_hop(value: &[u8]) -> bool {
    entries(value).is_some_and(|entries| entries.contains(&[0, 1, 0, 1, 0, 2]))
}

fn restart(value: &[u8]) -> Option<PeerRestart> {
    let (head, rest) = value.split_first_chunk()?;
    let head = u16::from_be_bytes(*head);
    let families = entries(rest)?.iter().filter_map(|&[high, low, safi, flags]| {
        family(u16::from_be_bytes([high, low]), safi).map(|family| (family, flags & 0x80 != 0))
    });
    Some(PeerRestart {
        restarting: head & 0x8000 != 0,
        notification: head & 0x4000 != 0,
        restart_time: head & MAX_RESTART_TIME,
        families: families.collect(),
    })
}

fn add_path(value: &[u8]) -> Option<Vec<(Family, bool, bool)>> {
    let families = entries(value)?.iter().filter_map(|&[high, low, safi, mode]| {
        let family = family(u16::from_be_bytes([high, low]), safi)?;
        (1..=3).contains(&mode).then_some((family, mode & 1 != 0, mode & 2 != 0))
    });
    Some(families.collect())
}

fn long_lived(value: &[u8]) -> Option<Vec<(Family, bool, u32)>> {
    const FORWARDING_KEPT: u8 = 0x80;
    let families = entries(value)?.iter().filter_map(|&[high, low, safi, flags, a, b, c]| {
        let family = family(u16::from_be_bytes([high, low]), safi)?;
        Some((family, flags & FORWARDING_KEPT != 0, u32::from_be_bytes([0, a, b, c])))
    });
    Some(families.collect())
}

/// Appends our OPEN.
pub fn encode_open(settings: &OpenSettings, out: &mut Vec<u8>) {
    // Values are in range and each family is listed once, so that the message always fits.
    let _ = Open::from_settings(settings).message.encode(out);
}

/// The families the settings name, each once.
fn once(families: &[Family]) -> impl Iterator<Item = Family> + '_ {
    Family::ALL.into_iter().filter(|family| families.contains(family))
}

/// Our capabilities in the codec's words.
fn capabilities(settings: &OpenSettings) -> Vec<Codec> {
    let mut all = Vec::new();
    all.extend(once(&settings.families).map(codec_family).map(|(afi, safi)| Codec::MultiProtocol { afi, safi }));
    all.push(Codec::RouteRefresh);
    if settings.extended_next_hop {
        let (nlri_afi, nlri_safi) = codec_family(Family::V4);
        let (next_hop_afi, _) = codec_family(Family::V6);
        all.push(Codec::ExtendedNextHop(vec![ExtendedNextHopFamily { nlri_afi, nlri_safi, next_hop_afi }]));
    }
    if settings.extended_messages {
        all.push(Codec::ExtendedMessage);
    }
    all.extend(our_restart(settings));
    all.push(Codec::FourOctetAs { asn: settings.asn.0 });
    all.extend(our_add_path(settings));
    all.push(Codec::EnhancedRouteRefresh);
    // RFC 9494 4.1: without graceful restart it would be ignored.
    if settings.long_lived > 0 && settings.graceful_restart.is_some() {
        let stale_time = settings.long_lived.min(MAX_LONG_LIVED);
        let forwarding_preserved = settings.forwarding_kept;
        let families = once(&settings.families).map(codec_family);
        let families = families.map(|(afi, safi)| LlgrFamily { afi, safi, forwarding_preserved, stale_time });
        all.push(Codec::LongLivedGracefulRestart(families.collect()));
    }
    all
}

/// Graceful restart: R after a restart, F of every family where forwarding went on.
fn our_restart(settings: &OpenSettings) -> Option<Codec> {
    let own = settings.graceful_restart?;
    let families = once(&settings.families).map(codec_family);
    let families =
        families.map(|(afi, safi)| GracefulRestartFamily { afi, safi, forwarding_preserved: settings.forwarding_kept });
    Some(Codec::GracefulRestart {
        restart_state: own.restarting,
        notification: own.notification,
        restart_time: own.restart_time.min(MAX_RESTART_TIME),
        families: families.collect(),
    })
}

fn our_add_path(settings: &OpenSettings) -> Option<Codec> {
    let mode = |family| {
        let receive = settings.add_path_receive.contains(&family);
        let send = settings.add_path_send.contains(&family);
        let send_receive = match (receive, send) {
            (true, true) => AddPathMode::Both,
            (true, false) => AddPathMode::Receive,
            (false, true) => AddPathMode::Send,
            (false, false) => return None,
        };
        let (afi, safi) = codec_family(family);
        Some(AddPathFamily { afi, safi, send_receive })
    };
    let families: Vec<_> = once(&settings.families).filter_map(mode).collect();
    (!families.is_empty()).then_some(Codec::AddPath(families))
}
