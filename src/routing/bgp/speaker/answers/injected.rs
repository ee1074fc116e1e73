//! Routes that programs and operators add through the API.
//!
//! They start here as the daemon's own do, but as paths of a source of their own: what the daemon announces comes and
//! goes without touching them, and while it announces the same prefix they step back. They last until they are taken
//! back or the speaker ends, through every change of the configuration.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};

use crate::net::{Family, Prefix};
use crate::routing::bgp::api::query::{GivenAttributes, Refusal};
use crate::routing::bgp::speaker::state::State;
use crate::routing::bgp::types::{Attributes, NextHop, Nlri, family_of};
use crate::routing::bgp::wire;

/// Routes there may be, so that a program gone wrong does not eat the node's memory.
const MOST: usize = 100_000;

/// The routes, each with what it may be taken back by.
#[derive(Debug, Default)]
pub(super) struct Injected(BTreeMap<Nlri, [u8; 16]>);

impl Injected {
    /// What a route may be taken back by, where it was added so.
    pub(super) fn id(&self, nlri: Nlri) -> Option<[u8; 16]> {
        self.0.get(&nlri).copied()
    }
}

/// Adds a route or changes one that was added before.
pub(super) fn add(state: &mut State, nlri: Nlri, given: GivenAttributes) -> Result<[u8; 16], Refusal> {
    let attributes = attributes(&nlri.prefix, given)?;
    let n_routes = state.answers.injected.0.len();
    if n_routes >= MOST && !state.answers.injected.0.contains_key(&nlri) {
        return Err(Refusal::Invalid(format!(
            "{n_routes} routes were added so already, which is the most there may be"
        )));
    }
    tracing::info!(prefix = %nlri.prefix, next_hop = %attributes.next_hop.address, "route added through the API");
    let now = state.clock.now();
    state.hub.inject(nlri, attributes, now);
    let id = *state.answers.injected.0.entry(nlri).or_insert_with(unique);
    Ok(id)
}

/// Takes back a route that was added so.
pub(super) fn delete(state: &mut State, nlri: Nlri) -> Result<(), Refusal> {
    if state.answers.injected.0.remove(&nlri).is_none() {
        let prefix = nlri.prefix;
        let own = state.hub.rib().paths(&prefix).iter().any(|path| path.peer.is_own());
        return Err(Refusal::NotFound(if own {
            format!(
                "{prefix} is announced by the daemon itself, which also withdraws it; only routes added here can be deleted here"
            )
        } else {
            format!("no route to {prefix} was added here")
        }));
    }
    tracing::info!(prefix = %nlri.prefix, "route deleted through the API");
    state.hub.take_back(&[nlri]);
    Ok(())
}

/// The same, by what adding it gave.
pub(super) fn delete_by_id(state: &mut State, id: [u8; 16]) -> Result<(), Refusal> {
    let found = state.answers.injected.0.iter().find(|(_, known)| **known == id).map(|(nlri, _)| *nlri);
    delete(state, found.ok_or_else(|| Refusal::NotFound("no route of this UUID was added here".to_owned()))?)
}

/// Takes back all, of one family or of both.
pub(super) fn delete_all(state: &mut State, family: Option<Family>) {
    let is_meant = |nlri: &Nlri| family.is_none_or(|family| family_of(&nlri.prefix) == family);
    let injected = &mut state.answers.injected.0;
    let gone: Vec<Nlri> = injected.keys().filter(|nlri| is_meant(nlri)).copied().collect();
    injected.retain(|nlri, _| !is_meant(nlri));
    tracing::info!(routes = gone.len(), "all routes deleted through the API");
    state.hub.take_back(&gone);
}

fn attributes(prefix: &Prefix, given: GivenAttributes) -> Result<Attributes, Refusal> {
    let mut attributes = match given {
        GivenAttributes::Typed(attributes) => *attributes,
        GivenAttributes::Raw(raw) => wire::attributes_from_raw(&raw).map_err(Refusal::Invalid)?.0,
    };
    if matches!(prefix, Prefix::V6(_)) && attributes.next_hop.address.is_unspecified() {
        attributes.next_hop = NextHop::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
    if matches!(prefix, Prefix::V6(_)) && attributes.next_hop.address.is_ipv4() {
        return Err(Refusal::Invalid(format!(
            "{prefix} cannot have the IPv4 next hop {}",
            attributes.next_hop.address
        )));
    }
    Ok(attributes)
}

/// 16 octets nobody else has; no secret.
fn unique() -> [u8; 16] {
    let half = || RandomState::new().build_hasher().finish().to_be_bytes();
    let mut id = [0; 16];
    id.iter_mut().zip(half().into_iter().chain(half())).for_each(|(to, from)| *to = from);
    id
}
