//! Restarts: theirs and ours, graceful and long-lived, and what is swept away afterwards.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use ferrovia::testing::lab::wait;

use crate::describe::{Kind, Originated};
use crate::lab::Running;
use crate::pair::{Pair, Two};

scenarios! {
    they_restart ["graceful restart, theirs"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    we_restart ["graceful restart, ours"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    they_never_return ["graceful restart, time over"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    they_are_away_long ["long-lived graceful restart, theirs"] Bird2 Frr Gobgp3 Gobgp4;
    we_are_away_long ["long-lived graceful restart, ours"] Bird2 Frr Gobgp3 Gobgp4;
}

const KEPT: &str = "192.0.2.0/24";
const GONE: &str = "192.0.3.0/24";

fn graceful(kind: Kind, seconds: u16) -> Pair {
    Pair::new(kind).both(|session| session.graceful = Some(seconds))
}

fn routes() -> [Originated; 2] {
    [Originated::new(KEPT), Originated::new(GONE)]
}

/// `watcher` has both routes, `restarting` dies and comes back with one: the watcher has that one all the while, and
/// the other one no longer once it heard everything.
fn survives(watcher: &Running, restarting: &mut Running) -> Result<()> {
    watcher.one(KEPT)?;
    watcher.one(GONE)?;
    restarting.kill()?;
    let has =
        |prefix: &str| watcher.learns_within(prefix, Duration::from_millis(1), |routes| routes.len() == 1).is_ok();
    wait::throughout("routes of the restarting side stay", Duration::from_secs(2), || Ok(has(KEPT) && has(GONE)))?;
    restarting.router.restarted = true;
    restarting.router.routes.retain(|route| route.prefix.to_string() == KEPT);
    restarting.restart()?;
    let start = Instant::now();
    loop {
        ensure!(has(KEPT), "the route was lost {:?} after the restart", start.elapsed());
        if !has(GONE) {
            break;
        }
        if start.elapsed() > Duration::from_secs(30) {
            bail!("the route that was not announced again is still there");
        }
    }
    wait::throughout("the route stays", Duration::from_secs(1), || Ok(has(KEPT)))
}

fn they_restart(kind: Kind) -> Result<()> {
    let mut two = graceful(kind, 40).they_announce(routes()).up()?;
    let Two { us, them, .. } = &mut two;
    survives(us, them)?;
    two.up()
}

fn we_restart(kind: Kind) -> Result<()> {
    let mut two = graceful(kind, 40).we_announce(routes()).up()?;
    let Two { us, them, .. } = &mut two;
    survives(them, us)?;
    two.up()
}

fn they_never_return(kind: Kind) -> Result<()> {
    let mut two = graceful(kind, 4).they_announce(routes()).up()?;
    two.us.one(KEPT)?;
    two.us.one(GONE)?;
    two.them.kill()?;
    let start = Instant::now();
    two.us.none(KEPT)?;
    let took = start.elapsed();
    ensure!(took > Duration::from_millis(3000) && took < Duration::from_secs(8), "gone after {took:?} of 4 s");
    Ok(())
}

/// After the graceful time the route is still there, marked LLGR_STALE; after the long-lived time it is gone.
fn fades(watcher: &Running, dying: &mut Running) -> Result<()> {
    watcher.one(KEPT)?;
    dying.kill()?;
    let marked = |route: &crate::describe::Route| route.communities.iter().any(|community| community == "65535:6");
    watcher.learns(KEPT, |routes| routes.len() == 1 && routes.iter().all(|route| marked(route) || route.stale))?;
    let start = Instant::now();
    watcher.none(KEPT)?;
    ensure!(start.elapsed() > Duration::from_secs(2), "gone after {:?}", start.elapsed());
    Ok(())
}

fn long_lived(kind: Kind) -> Pair {
    graceful(kind, 2).both(|session| session.long_lived = Some(5))
}

fn they_are_away_long(kind: Kind) -> Result<()> {
    let mut two = long_lived(kind).they_announce([Originated::new(KEPT)]).up()?;
    let Two { us, them, .. } = &mut two;
    fades(us, them)
}

fn we_are_away_long(kind: Kind) -> Result<()> {
    let mut two = long_lived(kind).we_announce([Originated::new(KEPT)]).up()?;
    let Two { us, them, .. } = &mut two;
    fades(them, us)
}
