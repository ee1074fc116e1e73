//! Requests of the gobgp API, of both majors, and raw attributes inside. A route that is taken can be listed.

use std::net::{IpAddr, Ipv4Addr};

use ferrovia::net::Family;
use ferrovia::routing::bgp::api::adapt::{self, Version};
use ferrovia::routing::bgp::api::message as m;
use ferrovia::routing::bgp::api::query::{Command, GivenAttributes};
use ferrovia::routing::bgp::api::typed;
use ferrovia::routing::bgp::types::{Attributes, Nlri};
use ferrovia::routing::bgp::wire;
use prost::Message;

pub(crate) fn run(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let version = if kind & 1 == 0 { Version::V3 } else { Version::V4 };
    match kind >> 1 {
        0 => {
            if let Ok(request) = m::AddPathRequest::decode(bytes)
                && let Ok(Command::AddPath(nlri, given)) = adapt::add_path(version, &request)
            {
                let attributes = match given {
                    GivenAttributes::Typed(attributes) => Some(*attributes),
                    GivenAttributes::Raw(raw) => wire::attributes_from_raw(&raw).ok().map(|(attributes, _)| attributes),
                };
                attributes.iter().for_each(|attributes| listed(attributes, &nlri));
            }
        }
        1 => drop(m::DeletePathRequest::decode(bytes).map(|request| adapt::delete_path(version, &request))),
        2 => drop(m::ListPathRequest::decode(bytes).map(|request| adapt::path_query(version, &request))),
        3 => drop(m::PeerActionRequest::decode(bytes).map(|request| adapt::reset(version, request))),
        4 => drop(m::WatchEventRequest::decode(bytes).map(|request| adapt::watch(version, &request))),
        5 => {
            let nlri = Nlri::new(Family::ALL.map(|family| unspecified(family).into())[usize::from(kind & 1)]);
            if let Ok((attributes, routes)) = wire::attributes_from_raw(&[bytes.to_vec()]) {
                listed(&attributes, routes.first().unwrap_or(&nlri));
            }
        }
        6 => drop(typed::prefix_from_raw(bytes, kind & 1 != 0)),
        _ => drop(typed::prefix(version, bytes)),
    }
}

/// Attributes that were taken can be listed as raw ones, and those can be read.
fn listed(attributes: &Attributes, nlri: &Nlri) {
    let raw = wire::attributes_raw(attributes, nlri);
    assert!(wire::attributes_from_raw(&raw).is_ok());
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
