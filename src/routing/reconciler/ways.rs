//! How each next hop of the learned routes is reached. When links or addresses change, only the routes through next hops
//! that are reached otherwise than before are judged again: there may be ten thousand routes, and their next hops are
//! few.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::kernel::rtnl::NextHop;
use crate::routing::boundary::Refusal;

/// The kernel's next hop for one that a peer named. `Ok(None)` while its link is not there, an error where none may lead
/// there.
pub(super) type Way = Result<Option<NextHop>, Refusal>;

/// The next hops of all learned routes.
#[derive(Debug, Default)]
pub(super) struct Ways(BTreeMap<IpAddr, Known>);

#[derive(Debug)]
struct Known {
    /// Routes that have it.
    routes: usize,
    way: Way,
}

impl Ways {
    /// A route through this next hop is learned.
    pub(super) fn add(&mut self, next_hop: IpAddr, way: impl FnOnce() -> Way) {
        self.0.entry(next_hop).or_insert_with(|| Known { routes: 0, way: way() }).routes += 1;
    }

    /// One is no longer.
    pub(super) fn remove(&mut self, next_hop: IpAddr) {
        if let Some(known) = self.0.get_mut(&next_hop) {
            known.routes -= 1;
            if known.routes == 0 {
                self.0.remove(&next_hop);
            }
        }
    }

    /// Links or addresses are others: the next hops that are reached otherwise than before.
    pub(super) fn renew(&mut self, mut way: impl FnMut(IpAddr) -> Way) -> BTreeSet<IpAddr> {
        let mut moved = BTreeSet::new();
        for (next_hop, known) in &mut self.0 {
            let now = way(*next_hop);
            if known.way != now {
                known.way = now;
                moved.insert(*next_hop);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::builders::ip;

    #[test]
    fn only_next_hops_that_moved_are_named_and_those_without_routes_forgotten() {
        let through = |link| Ok(Some(NextHop { link: Some(link), gateway: None, weight: 1 }));
        let (near, far) = (ip("192.168.10.1"), ip("192.168.30.13"));
        let mut ways = Ways::default();
        for next_hop in [near, near, far] {
            ways.add(next_hop, || through(2));
        }
        assert!(ways.renew(|_| through(2)).is_empty());
        let moved =
            ways.renew(|next_hop| if next_hop == far { Err(Refusal::UnreachableNextHop(far)) } else { through(2) });
        assert_eq!(moved, BTreeSet::from([far]));
        assert!(
            ways.renew(|next_hop| if next_hop == far { Err(Refusal::UnreachableNextHop(far)) } else { through(2) })
                .is_empty()
        );
        ways.remove(near);
        assert_eq!(ways.renew(|_| Ok(None)), BTreeSet::from([near, far]));
        ways.remove(near);
        ways.remove(far);
        assert!(ways.renew(|_| through(3)).is_empty());
    }
}
