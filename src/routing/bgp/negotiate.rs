//! What two OPENs agree on (RFC 4271 6.2, 5492, 6286, 7607). Checks come from the state machine crate; this is the
//! only place that names it.

use rustbgpd_fsm::PeerConfig;
use rustbgpd_fsm::negotiation::validate_open;

use super::types::{Negotiated, Notification, OpenSettings, PeerKind, PeerRestart};
use super::wire::{self, Capability};
use crate::net::Family;

/// What our OPEN offers.
pub fn open_settings_capabilities(settings: &OpenSettings) -> Vec<Capability> {
    wire::Open::from_settings(settings).capabilities()
}

/// The session two OPENs make, or why there is none.
pub fn negotiate(ours: &OpenSettings, theirs: &wire::Open) -> Result<Negotiated, Notification> {
    let mut config = PeerConfig::new(ours.asn.0, ours.peer_asn.map_or(0, |asn| asn.0), ours.router_id);
    config.hold_time = ours.hold_time;
    config.families = ours.families.iter().copied().map(wire::codec_family).collect();
    config.disable_ipv4_unicast = !ours.families.contains(&Family::V4);
    let checked = validate_open(theirs.message(), &config).map_err(|refusal| wire::from_codec(&refusal))?;

    let offered = Offered::new(&theirs.capabilities());
    let agreed = |family: &Family| checked.negotiated_families.contains(&wire::codec_family(*family));
    let families: Vec<Family> = Family::ALL.into_iter().filter(agreed).collect();
    let both = |ours: &[Family], theirs: &[Family]| {
        families.iter().copied().filter(|family| ours.contains(family) && theirs.contains(family)).collect()
    };
    let graceful_restart = ours.graceful_restart.zip(offered.graceful_restart).map(|(own, peer)| PeerRestart {
        notification: own.notification && peer.notification,
        families: peer.families.into_iter().filter(|(family, _)| families.contains(family)).collect(),
        ..peer
    });
    let long_lived = if ours.long_lived > 0 && graceful_restart.is_some() { offered.long_lived } else { Vec::new() };
    Ok(Negotiated {
        peer_asn: theirs.asn,
        peer_id: theirs.router_id,
        kind: if theirs.asn == ours.asn { PeerKind::Internal } else { PeerKind::External },
        hold_time: checked.hold_time,
        four_octet_as: checked.four_octet_as,
        add_path_receive: both(&ours.add_path_receive, &offered.add_path_send),
        add_path_send: both(&ours.add_path_send, &offered.add_path_receive),
        extended_next_hop: ours.extended_next_hop && offered.extended_next_hop && families.contains(&Family::V4),
        max_message: if ours.extended_messages && offered.extended_message { wire::MAX_EXTENDED } else { wire::MAX },
        route_refresh: offered.route_refresh,
        enhanced_refresh: offered.route_refresh && offered.enhanced_refresh,
        graceful_restart,
        long_lived: long_lived.into_iter().filter(|(family, ..)| families.contains(family)).collect(),
        families,
    })
}

/// The peer's capabilities, gathered.
#[derive(Default)]
struct Offered {
    extended_next_hop: bool,
    extended_message: bool,
    route_refresh: bool,
    enhanced_refresh: bool,
    graceful_restart: Option<PeerRestart>,
    long_lived: Vec<(Family, bool, u32)>,
    add_path_receive: Vec<Family>,
    add_path_send: Vec<Family>,
}

impl Offered {
    fn new(capabilities: &[Capability]) -> Offered {
        let mut offered = Offered::default();
        for capability in capabilities {
            match capability {
                Capability::ExtendedNextHop => offered.extended_next_hop = true,
                Capability::ExtendedMessage => offered.extended_message = true,
                Capability::RouteRefresh => offered.route_refresh = true,
                Capability::EnhancedRefresh => offered.enhanced_refresh = true,
                // RFC 4724 3: of several the last counts.
                Capability::GracefulRestart(restart) => offered.graceful_restart = Some(restart.clone()),
                Capability::LongLived(families) => offered.long_lived.clone_from(families),
                Capability::AddPath(families) => offered.add_path(families),
                Capability::Multiprotocol(_) | Capability::FourOctetAs(_) | Capability::Unknown(..) => {}
            }
        }
        offered
    }

    /// RFC 7911 4: a family listed twice counts as it was listed first.
    fn add_path(&mut self, families: &[(Family, bool, bool)]) {
        let mut seen = [self.add_path_receive.as_slice(), self.add_path_send.as_slice()].concat();
        for &(family, receive, send) in families {
            if seen.contains(&family) {
                continue;
            }
            seen.push(family);
            if receive {
                self.add_path_receive.push(family);
            }
            if send {
                self.add_path_send.push(family);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::net::Asn;
    use crate::routing::bgp::types::OwnRestart;

    /// Everything offered.
    fn full(asn: u32, id: u8) -> OpenSettings {
        OpenSettings {
            asn: Asn(asn),
            router_id: Ipv4Addr::new(10, 0, 0, id),
            hold_time: 90,
            peer_asn: None,
            families: vec![Family::V4, Family::V6],
            add_path_receive: vec![Family::V4, Family::V6],
            add_path_send: vec![Family::V4],
            extended_next_hop: true,
            extended_messages: true,
            graceful_restart: Some(OwnRestart { restart_time: 120, restarting: true, notification: true }),
            long_lived: 3600,
            forwarding_kept: true,
        }
    }

    /// Nothing but IPv4.
    fn bare(asn: u32, id: u8) -> OpenSettings {
        OpenSettings {
            families: vec![Family::V4],
            add_path_receive: Vec::new(),
            add_path_send: Vec::new(),
            extended_next_hop: false,
            extended_messages: false,
            graceful_restart: None,
            long_lived: 0,
            ..full(asn, id)
        }
    }

    fn agree(ours: &OpenSettings, theirs: &OpenSettings) -> Result<Negotiated, Notification> {
        negotiate(ours, &wire::Open::from_settings(theirs))
    }

    fn refused(ours: &OpenSettings, theirs: &OpenSettings) -> (u8, u8) {
        let refusal = agree(ours, theirs).expect_err("a session");
        (refusal.code, refusal.subcode)
    }

    #[test]
    fn what_both_offer_is_agreed_on() {
        let all = vec![Family::V4, Family::V6];
        let theirs = OpenSettings { hold_time: 30, ..full(65002, 2) };
        let session = agree(&full(4_200_000_000, 1), &theirs).unwrap();
        let peer = PeerRestart {
            restarting: true,
            notification: true,
            restart_time: 120,
            families: vec![(Family::V4, true), (Family::V6, true)],
        };
        let expected = Negotiated {
            peer_asn: Asn(65002),
            peer_id: Ipv4Addr::new(10, 0, 0, 2),
            kind: PeerKind::External,
            hold_time: 30,
            four_octet_as: true,
            families: all,
            add_path_receive: vec![Family::V4],
            add_path_send: vec![Family::V4],
            extended_next_hop: true,
            max_message: wire::MAX_EXTENDED,
            route_refresh: true,
            enhanced_refresh: true,
            graceful_restart: Some(peer),
            long_lived: vec![(Family::V4, true, 3600), (Family::V6, true, 3600)],
        };
        assert_eq!(session, expected);
    }

    #[test]
    fn what_one_side_lacks_is_not_agreed_on() {
        for (ours, theirs) in [(full(65001, 1), bare(65001, 2)), (bare(65001, 1), full(65001, 2))] {
            let session = agree(&ours, &theirs).unwrap();
            assert_eq!(session.kind, PeerKind::Internal);
            assert_eq!(session.families, [Family::V4]);
            assert!(session.add_path_receive.is_empty() && session.add_path_send.is_empty());
            assert!(!session.extended_next_hop && session.long_lived.is_empty());
            assert_eq!((session.max_message, session.graceful_restart), (wire::MAX, None));
        }
    }

    #[test]
    fn notification_restart_takes_both_sides() {
        let mut ours = full(65001, 1);
        ours.graceful_restart = Some(OwnRestart { restart_time: 1, restarting: false, notification: false });
        let session = agree(&ours, &full(65002, 2)).unwrap();
        assert!(session.graceful_restart.is_some_and(|peer| peer.restarting && !peer.notification));
    }

    #[test]
    fn opens_that_cannot_make_a_session_are_refused_as_the_rfc_says() {
        let ours = full(65001, 1);
        let theirs = full(65002, 2);
        let strict = OpenSettings { peer_asn: Some(Asn(65003)), ..ours.clone() };
        assert_eq!(refused(&strict, &theirs), (2, 2), "AS");
        assert_eq!(refused(&ours, &OpenSettings { asn: Asn(0), ..theirs.clone() }), (2, 2), "AS 0");
        assert_eq!(refused(&ours, &full(65001, 1)), (2, 3), "our own identifier inside the AS");
        assert!(agree(&ours, &full(65002, 1)).is_ok(), "RFC 6286: equal ones in two AS are fine");
        assert_eq!(refused(&ours, &full(65002, 2).with_id(Ipv4Addr::UNSPECIFIED)), (2, 3), "identifier");
        assert_eq!(refused(&ours, &OpenSettings { hold_time: 2, ..theirs.clone() }), (2, 6), "hold time");
        let v6 = OpenSettings { families: vec![Family::V6], ..ours };
        assert_eq!(refused(&v6, &OpenSettings { families: vec![Family::V4], ..theirs }), (2, 7), "families");
    }

    impl OpenSettings {
        fn with_id(self, router_id: Ipv4Addr) -> OpenSettings {
            OpenSettings { router_id, ..self }
        }
    }

    #[test]
    fn an_old_peer_without_capabilities_speaks_ipv4_with_two_octets() {
        let mut bytes = vec![0xff; 16];
        bytes.extend([0, 29, 1, 4, 0xfc, 0x01, 0, 0, 10, 0, 0, 2, 0]);
        let Ok(wire::Message::Open(open)) = wire::decode(&bytes, None) else { panic!("not an OPEN") };
        let session = negotiate(&full(65001, 1), &open).unwrap();
        assert_eq!((session.peer_asn, session.hold_time), (Asn(64513), 0));
        assert_eq!(session.families, [Family::V4]);
        assert!(!session.four_octet_as && !session.route_refresh);
    }

    #[test]
    fn our_capabilities_are_those_of_the_open() {
        let ours = full(65001, 1);
        assert_eq!(open_settings_capabilities(&ours), wire::Open::from_settings(&ours).capabilities());
        assert_eq!(open_settings_capabilities(&bare(65001, 1)).len(), 4);
    }
}
