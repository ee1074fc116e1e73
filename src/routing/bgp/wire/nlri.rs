//! Routes of a message: a length in bits and as many octets as it takes, behind a path identifier where that was agreed
//! on (RFC 4271 4.3, 4760 5, 7911 3).

use std::net::IpAddr;

use crate::net::Prefix;
use crate::routing::bgp::types::Nlri;

/// All routes of a field whose family has addresses of `SIZE` octets; `None` for a broken field.
pub(super) fn routes<const SIZE: usize>(field: &[u8], ids: bool) -> Option<Vec<Nlri>>
where
    IpAddr: From<[u8; SIZE]>,
{
    // What a route most often takes: its length and a /24 or a /64, behind an identifier.
    let usual = if SIZE == 4 { 4 } else { 9 };
    let mut routes = Vec::with_capacity(field.len().div_ceil(if ids { 4 + usual } else { usual }));
    let mut rest = field;
    while !rest.is_empty() {
        let (route, later) = route(rest, ids)?;
        routes.push(route);
        rest = later;
    }
    Some(routes)
}

fn route<const SIZE: usize>(field: &[u8], ids: bool) -> Option<(Nlri, &[u8])>
where
    IpAddr: From<[u8; SIZE]>,
{
    let (path_id, rest) = if ids {
        let (id, rest) = field.split_first_chunk()?;
        (u32::from_be_bytes(*id), rest)
    } else {
        (0, field)
    };
    let (&length, rest) = rest.split_first()?;
    let (octets, rest) = rest.split_at_checked(usize::from(length.div_ceil(8)))?;
    let mut address = [0; SIZE];
    let place = address.get_mut(..octets.len())?;
    place.copy_from_slice(octets);
    // Bits beyond the length say nothing.
    if let (Some(last), 1..) = (place.last_mut(), length % 8) {
        *last &= !(0xff >> (length % 8));
    }
    Some((Nlri { prefix: Prefix::new(IpAddr::from(address), length).ok()?, path_id }, rest))
}
