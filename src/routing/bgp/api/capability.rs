//! The capabilities of a peer (RFC 5492) inside its state: they have no binary form, so they are written and read field
//! by field (pure).

use prost::Message;

use super::adapt::{Version, family_message};
use super::message::{Any, Empty, Family};
use super::query::Capability;
use super::typed::{Number, read, wrap};

/// `FamilyTuple`s of several capabilities; which field is which depends on the capability.
#[derive(Clone, PartialEq, Message)]
struct FamilyTuple {
    #[prost(message, optional, tag = "1")]
    family: Option<Family>,
    #[prost(uint32, tag = "2")]
    flags: u32,
    #[prost(uint32, tag = "3")]
    time: u32,
}

/// `ExtendedNexthopCapabilityTuple`.
#[derive(Clone, PartialEq, Message)]
struct NextHopTuple {
    #[prost(message, optional, tag = "1")]
    nlri: Option<Family>,
    #[prost(message, optional, tag = "2")]
    next_hop: Option<Family>,
}

/// `ExtendedNexthopCapability`.
#[derive(Clone, PartialEq, Message)]
struct NextHopTuples {
    #[prost(message, repeated, tag = "1")]
    tuples: Vec<NextHopTuple>,
}

/// `AddPathCapability`, `LongLivedGracefulRestartCapability`.
#[derive(Clone, PartialEq, Message)]
struct FamilyTuples {
    #[prost(message, repeated, tag = "1")]
    tuples: Vec<FamilyTuple>,
}

/// `MultiProtocolCapability`.
#[derive(Clone, PartialEq, Message)]
struct OneFamily {
    #[prost(message, optional, tag = "1")]
    family: Option<Family>,
}

/// `GracefulRestartCapability`.
#[derive(Clone, PartialEq, Message)]
struct Restart {
    #[prost(uint32, tag = "1")]
    flags: u32,
    #[prost(uint32, tag = "2")]
    time: u32,
    #[prost(message, repeated, tag = "3")]
    tuples: Vec<FamilyTuple>,
}

/// `UnknownCapability`.
#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// A capability as a peer's state carries it.
pub fn write(version: Version, capability: &Capability) -> Vec<u8> {
    let tuple = |family, flags: u32, time: u32| FamilyTuple { family: Some(family_message(family)), flags, time };
    let unknown =
        |code: u8, value: Vec<u8>| wrap(version, "UnknownCapability", 1, &Unknown { code: u32::from(code), value });
    match capability {
        Capability::Multiprotocol(family) => {
            wrap(version, "MultiProtocolCapability", 2, &OneFamily { family: Some(family_message(*family)) })
        }
        Capability::RouteRefresh => wrap(version, "RouteRefreshCapability", 3, &Empty {}),
        Capability::ExtendedNextHop => {
            let nlri = Some(Family { afi: 1, safi: 1 });
            let next_hop = Some(Family { afi: 2, safi: 1 });
            let tuples = vec![NextHopTuple { nlri, next_hop }];
            wrap(version, "ExtendedNexthopCapability", 5, &NextHopTuples { tuples })
        }
        Capability::ExtendedMessage => match version {
            Version::V3 => unknown(6, Vec::new()),
            Version::V4 => wrap(version, "ExtendedMessageCapability", 14, &Empty {}),
        },
        Capability::GracefulRestart(restart) => {
            let flags = u32::from(restart.restarting) * 8 + u32::from(restart.notification) * 4;
            let tuples = restart.families.iter().map(|(family, kept)| tuple(*family, u32::from(*kept) * 0x80, 0));
            let restart = Restart { flags, time: u32::from(restart.restart_time), tuples: tuples.collect() };
            wrap(version, "GracefulRestartCapability", 6, &restart)
        }
        Capability::FourOctetAs(asn) => wrap(version, "FourOctetASNCapability", 7, &Number { value: asn.0 }),
        Capability::AddPath(families) => {
            let tuples = families
                .iter()
                .map(|(family, receive, send)| tuple(*family, u32::from(*receive) + 2 * u32::from(*send), 0))
                .collect();
            wrap(version, "AddPathCapability", 8, &FamilyTuples { tuples })
        }
        Capability::EnhancedRefresh => wrap(version, "EnhancedRouteRefreshCapability", 9, &Empty {}),
        Capability::LongLived(families) => {
            let tuples = families.iter().map(|(family, time)| tuple(*family, 0, *time)).collect();
            wrap(version, "LongLivedGracefulRestartCapability", 10, &FamilyTuples { tuples })
        }
        Capability::Unknown(code, value) => write_unknown(version, *code, value),
    }
}

/// A capability that means nothing to the speaker. Those that gobgp's command line knows go out as what they are: it
/// takes the type for granted by the code, and would end in a panic.
fn write_unknown(version: Version, code: u8, value: &[u8]) -> Vec<u8> {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let first = |octets: &[u8]| -> (String, usize) {
        let length = octets.first().map_or(0, |length| usize::from(*length));
        (text(octets.get(1..).unwrap_or_default().get(..length).unwrap_or_default()), 1 + length)
    };
    match (code, value) {
        (1, value) => {
            let family = match value {
                [high, low, _, safi] => {
                    Family { afi: i32::from(u16::from_be_bytes([*high, *low])), safi: i32::from(*safi) }
                }
                _ => Family::default(),
            };
            wrap(version, "MultiProtocolCapability", 2, &OneFamily { family: Some(family) })
        }
        (5, _) => wrap(version, "ExtendedNexthopCapability", 5, &NextHopTuples::default()),
        (64, _) => wrap(version, "GracefulRestartCapability", 6, &Restart::default()),
        (69, _) => wrap(version, "AddPathCapability", 8, &FamilyTuples::default()),
        (71, _) => wrap(version, "LongLivedGracefulRestartCapability", 10, &FamilyTuples::default()),
        (73, value) => {
            let (host, used) = first(value);
            let (domain, _) = first(value.get(used..).unwrap_or_default());
            wrap(version, "FqdnCapability", 12, &Fqdn { host, domain })
        }
        (75, value) if version == Version::V4 => {
            wrap(version, "SoftwareVersionCapability", 13, &Software { text: first(value).0 })
        }
        _ => wrap(version, "UnknownCapability", 1, &Unknown { code: u32::from(code), value: value.to_vec() }),
    }
}

/// `SoftwareVersionCapability`.
#[derive(Clone, PartialEq, Message)]
struct Software {
    #[prost(string, tag = "1")]
    text: String,
}

/// `FqdnCapability`.
#[derive(Clone, PartialEq, Message)]
struct Fqdn {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// A capability as a server of 3.x tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Its registered code.
    pub code: u8,
    /// What it says.
    pub detail: Detail,
}

/// What a capability says, as far as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    /// Nothing.
    Plain,
    /// A family.
    Multiprotocol(Family),
    /// Flags, seconds, and flags for each family.
    Restart(u32, u32, Vec<(Family, u32)>),
    /// Flags and seconds for each family.
    LongLived(Vec<(Family, u32, u32)>),
    /// Routes, and the AFI of their next hop.
    NextHop(Vec<(Family, i32)>),
    /// What is done in each family: 1 receive, 2 send, 3 both.
    AddPath(Vec<(Family, u32)>),
    /// Name and domain.
    Fqdn(String, String),
}

/// Reads a capability in the form of 3.x; `None` where it is not one.
pub fn told(bytes: &[u8]) -> Option<Told> {
    let any = Any::decode(bytes).ok()?;
    let name = any.type_url.rsplit(['/', '.']).next().unwrap_or_default();
    let value = any.value.as_slice();
    let tuples = || read::<FamilyTuples>(value).map(|all| all.tuples).unwrap_or_default().into_iter();
    let family = |tuple: &FamilyTuple| tuple.family.unwrap_or_default();
    let (code, detail) = match name {
        "MultiProtocolCapability" => {
            (1, Detail::Multiprotocol(read::<OneFamily>(value).ok()?.family.unwrap_or_default()))
        }
        "RouteRefreshCapability" => (2, Detail::Plain),
        "CarryingLabelInfoCapability" => (4, Detail::Plain),
        "ExtendedNexthopCapability" => {
            let tuples = read::<NextHopTuples>(value).ok()?.tuples.into_iter();
            let of = |tuple: NextHopTuple| (tuple.nlri.unwrap_or_default(), tuple.next_hop.unwrap_or_default().afi);
            (5, Detail::NextHop(tuples.map(of).collect()))
        }
        "ExtendedMessageCapability" => (6, Detail::Plain),
        "GracefulRestartCapability" => {
            let all: Restart = read(value).ok()?;
            let tuples = all.tuples.iter().map(|tuple| (family(tuple), tuple.flags)).collect();
            (64, Detail::Restart(all.flags, all.time, tuples))
        }
        "FourOctetASNCapability" => (65, Detail::Plain),
        "AddPathCapability" => (69, Detail::AddPath(tuples().map(|tuple| (family(&tuple), tuple.flags)).collect())),
        "EnhancedRouteRefreshCapability" => (70, Detail::Plain),
        "LongLivedGracefulRestartCapability" => {
            (71, Detail::LongLived(tuples().map(|tuple| (family(&tuple), tuple.flags, tuple.time)).collect()))
        }
        "FqdnCapability" => {
            let fqdn: Fqdn = read(value).ok()?;
            (73, Detail::Fqdn(fqdn.host, fqdn.domain))
        }
        "SoftwareVersionCapability" => (75, Detail::Plain),
        "RouteRefreshCiscoCapability" => (128, Detail::Plain),
        "UnknownCapability" => (u8::try_from(read::<Unknown>(value).ok()?.code).ok()?, Detail::Plain),
        _ => return None,
    };
    Some(Told { code, detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gobgp_takes_for_granted_by_its_code_has_that_type() {
        let of = |code: u8, value: &[u8]| {
            told(&write(Version::V3, &Capability::Unknown(code, value.to_vec()))).map(|told| (told.code, told.detail))
        };
        let family = Family { afi: 25, safi: 70 };
        assert_eq!(of(1, &[0, 25, 0, 70]), Some((1, Detail::Multiprotocol(family))));
        let fqdn = Detail::Fqdn("vm".to_owned(), "lab".to_owned());
        assert_eq!(of(73, &[2, b'v', b'm', 3, b'l', b'a', b'b']), Some((73, fqdn)));
        assert_eq!(of(73, &[9, b'v']), Some((73, Detail::Fqdn(String::new(), String::new()))));
        assert_eq!(of(64, &[1]), Some((64, Detail::Restart(0, 0, Vec::new()))));
        assert_eq!(of(99, &[1]), Some((99, Detail::Plain)));
    }
}
