//! Routes of a message: a length in bits and as many octets as it takes, behind a path identifier where that was agreed
//! on (RFC 4271 4.3, 4760 5, 7911 3).

use std::net::IpAddr;

use crate::net::Prefix;
use crate::routing::bgp::types::Nlri;

/// All routes of a field whose family has addresses of `SIZE` octets; `None` for a broken field.
pub(super) fn routes<const SIZE: usize>(field: &[u8], ids: bool) -> Option<Vec<Nlri>> {
    // What a route most often takes: its length and a /24 or a /64, behind an identifier.
    let usual = if SIZE == 4 { 4 } else { 9 };
    let mut routes = Vec::with_capacity(field.len().div_ceil(if ids { 4 + usual } else { usual }));
    let mut rest = field;
    while !rest.is_empty() {
        let (route, later) = route::<SIZE>(rest, ids)?;
        routes.push(route);
        rest = later;
    }
    Some(routes)
}

fn route<const SIZE: usize>(field: &[u8], ids: bool) -> Option<(Nlri, &[u8])> {
    let (path_id, rest) = if ids {
        let (id, rest) = field.split_first_chunk()?;
        (u32::from_be_bytes(*id), rest)
    } else {
        (0, field)
    };
    let (&length, rest) = rest.split_first()?;
    let later = rest.get(usize::from(length.div_ceil(8))..)?;
    let address = if SIZE == 4 {
        // Bits beyond the length say nothing, be they of this route or the next.
        let beyond = u32::MAX.checked_shr(length.into()).unwrap_or(0);
        IpAddr::V4((u32::from_be_bytes(head(rest)) & !beyond).into())
    } else {
        let beyond = u128::MAX.checked_shr(length.into()).unwrap_or(0);
        IpAddr::V6((u128::from_be_bytes(head(rest)) & !beyond).into())
    };
    Some((Nlri { prefix: Prefix::new(address, length).ok()?, path_id }, later))
}

/// The first octets in one piece, which a processor reads as a word; zeros follow where the message ends.
fn head<const SIZE: usize>(octets: &[u8]) -> [u8; SIZE] {
    octets.first_chunk().copied().unwrap_or_else(|| {
        let mut all = [0; SIZE];
        all.iter_mut().zip(octets).for_each(|(place, octet)| *place = *octet);
        all
    })
}
