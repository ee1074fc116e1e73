//! BFD: the other side falls silent, and the routes are gone within the detection time, long before the hold time.

use std::time::Duration;

use anyhow::Result;
use ferrovia::testing::lab::wait;

use crate::describe::{Distance, Kind, Originated};
use crate::pair::{Pair, Two, far};

scenarios! {
    one_hop ["BFD, single-hop"] Bird1 Bird2 Frr Gobgp4;
    several_hops ["BFD, multihop"] Bird1 Bird2 Frr;
    with_graceful_restart ["BFD with graceful restart"] Bird1 Bird2 Frr Gobgp4;
}

const THEIRS: &str = "198.51.100.0/24";
/// 3 x 100 ms, and what a busy machine may add, also to asking.
const DETECTED: Duration = Duration::from_secs(3);

fn pair(kind: Kind) -> Pair {
    Pair::new(kind).both(|session| session.bfd = true).they_announce([Originated::new(THEIRS)])
}

/// Frozen, they are found out in time; thawed, they come back. While all is well nothing happens.
fn found_out(two: &mut Two) -> Result<()> {
    two.us.one(THEIRS)?;
    // BFD comes up after the session, and only then does it count.
    std::thread::sleep(Duration::from_millis(2500));
    let epoch = two.us.state(0)?.epoch;
    wait::throughout("the session is up", Duration::from_secs(1), || Ok(two.us.state(0)?.epoch == epoch))?;
    two.them.freeze()?;
    two.us.down(0, DETECTED)
}

fn one_hop(kind: Kind) -> Result<()> {
    let mut two = pair(kind).up()?;
    found_out(&mut two)?;
    two.us.learns_within(THEIRS, Duration::from_millis(300), <[_]>::is_empty)?;
    two.them.thaw()?;
    two.us.one(THEIRS).map(drop)
}

fn several_hops(kind: Kind) -> Result<()> {
    let mut two = far(pair(kind).both(|session| session.distance = Distance::Multihop(4)))?;
    found_out(&mut two)?;
    two.us.learns_within(THEIRS, Duration::from_millis(300), <[_]>::is_empty).map(drop)
}

/// A restart closes the connection first. This one stays, so forwarding is gone, and the routes with it.
fn with_graceful_restart(kind: Kind) -> Result<()> {
    let mut two = pair(kind).both(|session| session.graceful = Some(4)).up()?;
    found_out(&mut two)?;
    two.us.learns_within(THEIRS, Duration::from_millis(300), <[_]>::is_empty).map(drop)
}
