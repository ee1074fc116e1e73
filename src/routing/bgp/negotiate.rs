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
        long_lived: long_lived.into_iter().filter(|(family, _)| families.contains(family)).collect(),
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
    long_lived: Vec<(Family, u32)>,
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
