//! Attributes one by one as bytes, which is how the gobgp API carries them: 4-octet AS numbers, and MP_REACH_NLRI with
//! the route inside wherever the next hop is an IPv6 address.

use std::net::IpAddr;

use rustbgpd_wire::attribute::{decode_path_attributes_revised, encode_path_attributes};

use super::encode::{MP_REACH, attribute_of_routes, put_prefix, reach_head, to_codec};
use super::update::{Gathered, gather};
use crate::net::Prefix;
use crate::routing::bgp::types::{Attributes, NextHop, Nlri, family_of};

/// Every attribute with its header. One that cannot be encoded is left out.
pub fn attributes_raw(attributes: &Attributes, nlri: &Nlri) -> Vec<Vec<u8>> {
    let family = family_of(&nlri.prefix);
    let head = reach_head(family, &attributes.next_hop);
    let mut all = Vec::new();
    for attribute in to_codec(attributes, head.is_none()) {
        let mut bytes = Vec::new();
        if encode_path_attributes(&[attribute], &mut bytes, true, false).is_ok() && !bytes.is_empty() {
            all.push(bytes);
        }
    }
    if let Some(head) = head {
        let mut bytes = Vec::new();
        attribute_of_routes(MP_REACH, &head, &nlri_raw(&nlri.prefix), &mut bytes);
        all.push(bytes);
    }
    all
}

/// Reads attributes back, with the routes of MP_REACH_NLRI. Missing ones get their defaults: origin incomplete, an
/// empty path, and the next hop 0.0.0.0, which stands for this router.
pub fn attributes_from_raw(raw: &[Vec<u8>]) -> Result<(Attributes, Vec<Nlri>), String> {
    let decoded = decode_path_attributes_revised(&raw.concat(), true, true, &[]).map_err(|error| error.to_string())?;
    if let Some(malformed) = decoded.malformed.first() {
        return Err(format!("attribute {}: {}", malformed.type_code, malformed.error));
    }
    let Gathered { mut attributes, next_hop, reach, .. } = gather(decoded.attributes, true);
    let (hop, nlri) = match reach {
        Some((Some(_), hop, nlri)) => (Some(hop), nlri),
        Some((None, ..)) => return Err("routes of a family that is not carried".to_string()),
        None => (next_hop, Vec::new()),
    };
    attributes.next_hop = hop.unwrap_or(NextHop::from(IpAddr::from([0, 0, 0, 0])));
    Ok((attributes, nlri))
}

/// A prefix as the NLRI field has it, without a path identifier.
pub fn nlri_raw(prefix: &Prefix) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(17);
    put_prefix(prefix, &mut bytes);
    bytes
}
