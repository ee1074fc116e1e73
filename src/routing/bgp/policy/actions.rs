//! What a statement changes in a route.

use std::net::IpAddr;

use crate::net::Asn;
use crate::routing::bgp::types::{AsPath, Attributes};

/// What becomes of the next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHopAction {
    /// Our address towards the peer, of the route's family.
    Own,
    /// The one the route came with.
    Unchanged,
    /// The peer's address.
    Peer,
    /// This one.
    Address(IpAddr),
}

/// What to put in front of the AS_PATH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepend {
    /// The AS; `None` repeats the one in front.
    pub asn: Option<Asn>,
    /// How many times.
    pub times: u8,
}

/// What becomes of communities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// These are added.
    Add(Vec<T>),
    /// These are taken away.
    Remove(Vec<T>),
    /// These and no others are there.
    Replace(Vec<T>),
}

impl<T: Ord + Copy> Change<T> {
    fn apply(&self, values: &mut Box<[T]>) {
        let mut list: Vec<T> = match self {
            Change::Add(more) => values.iter().chain(more).copied().collect(),
            Change::Remove(these) => values.iter().copied().filter(|value| !these.contains(value)).collect(),
            Change::Replace(these) => these.clone(),
        };
        list.sort_unstable();
        list.dedup();
        *values = list.into();
    }
}

/// What becomes of MULTI_EXIT_DISC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Med {
    /// This value.
    Set(u32),
    /// That much more; no MED counts as 0.
    Add(u32),
    /// That much less, 0 at least.
    Sub(u32),
}

/// All a statement changes. Nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Next hop of IPv4 routes.
    pub next_hop_v4: Option<NextHopAction>,
    /// Next hop of IPv6 routes.
    pub next_hop_v6: Option<NextHopAction>,
    /// AS_PATH.
    pub prepend: Option<Prepend>,
    /// COMMUNITIES.
    pub communities: Vec<Change<u32>>,
    /// EXTENDED COMMUNITIES.
    pub extended_communities: Vec<Change<[u8; 8]>>,
    /// LARGE_COMMUNITY.
    pub large_communities: Vec<Change<[u32; 3]>>,
    /// MULTI_EXIT_DISC.
    pub med: Option<Med>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
}

impl Actions {
    /// The next hop of both families becomes our address.
    pub fn next_hop_own() -> Actions {
        Actions { next_hop_v4: Some(NextHopAction::Own), next_hop_v6: Some(NextHopAction::Own), ..Actions::default() }
    }

    /// Changes all but the next hop.
    pub(super) fn apply(&self, attributes: &mut Attributes) {
        if let Some(Prepend { asn, times }) = self.prepend
            && let Some(asn) = asn.or(attributes.as_path.first())
        {
            attributes.as_path = AsPath::prepend(&attributes.as_path, asn, usize::from(times));
        }
        for change in &self.communities {
            change.apply(&mut attributes.communities);
        }
        for change in &self.extended_communities {
            change.apply(&mut attributes.extended_communities);
        }
        for change in &self.large_communities {
            change.apply(&mut attributes.large_communities);
        }
        let med = attributes.med.unwrap_or(0);
        match self.med {
            Some(Med::Set(value)) => attributes.med = Some(value),
            Some(Med::Add(more)) => attributes.med = Some(med.saturating_add(more)),
            Some(Med::Sub(less)) => attributes.med = Some(med.saturating_sub(less)),
            None => {}
        }
        attributes.local_pref = self.local_pref.or(attributes.local_pref);
    }

    /// Whether only the next hop may change.
    pub(super) fn is_empty(&self) -> bool {
        let nothing = Actions { next_hop_v4: self.next_hop_v4, next_hop_v6: self.next_hop_v6, ..Actions::default() };
        *self == nothing
    }
}
