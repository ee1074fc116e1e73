//! A configured peer as the hub needs it, and as policy and output see it.

use std::net::{IpAddr, Ipv4Addr};

use crate::net::{Asn, Prefix};
use crate::routing::bgp::output::Target;
use crate::routing::bgp::policy::PeerView;
use crate::routing::bgp::types::{Negotiated, NextHop, PeerId};

/// What the hub needs to know of a configured peer beyond what its OPEN says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// The address the session is with.
    pub address: IpAddr,
    /// Our AS towards it.
    pub local_asn: Asn,
    /// Our next hop towards it, by family.
    pub local_v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub local_v6: Option<NextHop>,
    /// The subnets we share with it, where third-party next hops are fine.
    pub shared: Vec<Prefix>,
    /// A client of ours as route reflector (RFC 4456).
    pub client: bool,
    /// Always name ourselves as the next hop.
    pub next_hop_self: bool,
    /// Pass on the next hop a route came with.
    pub next_hop_unchanged: bool,
}

impl PeerSettings {
    /// A peer that asks for nothing: neither a client nor on a subnet of ours.
    pub fn new(address: IpAddr, local_asn: Asn, local: Ipv4Addr) -> PeerSettings {
        PeerSettings {
            address,
            local_asn,
            local_v4: Some(local),
            local_v6: None,
            shared: Vec::new(),
            client: false,
            next_hop_self: false,
            next_hop_unchanged: false,
        }
    }

    pub(super) fn view(&self) -> PeerView {
        PeerView { address: self.address, local_v4: self.local_v4.map(IpAddr::V4), local_v6: self.local_v6 }
    }

    pub(super) fn target(&self, peer: PeerId, negotiated: &Negotiated) -> Target {
        Target {
            peer,
            kind: negotiated.kind,
            asn: negotiated.peer_asn,
            local_asn: self.local_asn,
            router_id: negotiated.peer_id,
            client: self.client,
            address: self.address,
            local_v4: self.local_v4,
            local_v6: self.local_v6,
            shared: self.shared.clone(),
            families: negotiated.families.clone(),
            extended_next_hop: negotiated.extended_next_hop,
            next_hop_self: self.next_hop_self,
            next_hop_unchanged: self.next_hop_unchanged,
            takes_own_as: false,
            long_lived: negotiated.long_lived.iter().map(|(family, ..)| *family).collect(),
            four_octet_as: negotiated.four_octet_as,
            add_path: negotiated.add_path_send.clone(),
            max_message: negotiated.max_message,
        }
    }
}
