//! What the speaker is told, as text (pure): for `render`, `explain` and golden cases.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::bgp::speaker::{Config as SpeakerConfig, PeerConfig};
use super::bgp::tcp::Distance;
use super::bgp::types::Attributes;
use crate::net::Prefix;

/// The speaker and its peers.
pub fn peers(config: &SpeakerConfig) -> String {
    let mut text = format!("as {} router-id {} cluster-id {}\n", config.asn, config.router_id, config.cluster_id);
    for listen in &config.listen {
        let _ = writeln!(text, "listen {listen}");
    }
    for (address, config) in &config.peers {
        text.push_str(&peer(address, config));
    }
    text
}

/// One peer.
pub fn peer(address: &IpAddr, peer: &PeerConfig) -> String {
    let asn = peer.asn.map_or_else(|| "any".to_owned(), |asn| asn.to_string());
    let mut text = format!("peer {address} as {asn} port {}", peer.port);
    if !peer.description.is_empty() {
        let _ = write!(text, " ({})", peer.description);
    }
    text.push('\n');
    if let Some(local) = peer.local_address {
        let _ = writeln!(text, "  local {local} as {}", peer.local_asn);
    }
    let families: Vec<String> = peer.families.iter().map(ToString::to_string).collect();
    let _ = write!(text, "  families {} hold {}s", families.join(","), peer.hold_time);
    match peer.distance {
        Distance::Link => text.push_str(" on the link"),
        Distance::Multihop(hops) => {
            let _ = write!(text, " ttl {hops}");
        }
        Distance::Security(hops) => {
            let _ = write!(text, " gtsm {hops}");
        }
    }
    text.push('\n');
    let mut more = Vec::new();
    if !peer.password.0.is_empty() {
        more.push("md5".to_owned());
    }
    if peer.passive {
        more.push("passive".to_owned());
    }
    if peer.client {
        more.push("reflector client".to_owned());
    }
    if peer.extended_next_hop {
        more.push("ipv6 next hops for ipv4".to_owned());
    }
    if let Some(restart) = peer.graceful_restart {
        more.push(format!("graceful restart {}s", restart.restart_time));
    }
    if let Some(bfd) = peer.bfd {
        let port = bfd.port.map_or_else(|| "default".to_owned(), |port| port.to_string());
        let timers = bfd.timers;
        more.push(format!(
            "bfd port {port} tx {}ms rx {}ms x{}",
            timers.desired_min_tx.as_millis(),
            timers.required_min_rx.as_millis(),
            timers.multiplier
        ));
    }
    if !more.is_empty() {
        let _ = writeln!(text, "  {}", more.join(", "));
    }
    text
}

/// Own routes.
pub fn originated(routes: &BTreeMap<Prefix, Vec<Attributes>>) -> String {
    let mut text = String::new();
    for (prefix, paths) in routes {
        for path in paths {
            let _ = writeln!(text, "originate {prefix} next-hop {}", path.next_hop.address);
        }
    }
    text
}
