//! Sessions, and routes with every attribute both ways.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::wait;

use crate::describe::{Kind, Originated, Route};
use crate::lab::Running;
use crate::pair::{Pair, Two, address, us};
use crate::peers::gobgp::gobgp;
use crate::peers::{bird, frr};
use crate::wire::{NOTIFICATION, OPEN, capabilities};

scenarios! {
    active ["active"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    passive ["passive"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    both_connect ["collision"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    hold_time ["hold time"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    four_octets ["4-octet AS"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    attributes [
        "communities", "large communities", "extended communities", "AS path prepended", "MED", "origin and next hop"
    ] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    internal ["local pref", "next hop self", "third-party next hop"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    v6_over_v4 ["IPv6 over an IPv4 session"] Bird2 Frr Gobgp3 Gobgp4;
    v6_over_v6 ["IPv6 over an IPv6 session"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    v4_over_v6 ["IPv4 with IPv6 next hops (RFC 8950)"] Bird2 Frr Gobgp3 Gobgp4;
    we_shut_down ["shutdown message, sent"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    they_shut_down ["shutdown message, received"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    draining ["graceful shutdown community"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    withdrawn ["withdrawal"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
}

const OURS: &str = "192.0.2.0/24";
const THEIRS: &str = "198.51.100.0/24";

fn plain(pair: Pair) -> Pair {
    pair.we_announce([Originated::new(OURS)]).they_announce([Originated::new(THEIRS)])
}

/// Both sides have the other's route.
fn exchanged(two: &Two) -> Result<(Route, Route)> {
    Ok((two.us.one(THEIRS)?, two.them.one(OURS)?))
}

fn active(kind: Kind) -> Result<()> {
    let mut two = plain(Pair::new(kind)).up()?;
    let (theirs, ours) = exchanged(&two)?;
    ensure!(theirs.as_path == [64602] && theirs.next_hop == Some(address(Family::V4, 2)), "{theirs:?}");
    ensure!(ours.as_path == [64601] && ours.next_hop == Some(address(Family::V4, 1)), "{ours:?}");
    two.us.alive()?;
    two.them.alive()
}

fn passive(kind: Kind) -> Result<()> {
    let pair = plain(Pair::new(kind));
    let two = pair.ours(|session| session.passive = true).theirs(|session| session.passive = false).up()?;
    exchanged(&two).map(drop)
}

/// Both connect whenever they can. Whatever way it comes up, one connection stays, and it stays up.
fn both_connect(kind: Kind) -> Result<()> {
    let mut two = plain(Pair::new(kind)).theirs(|session| session.passive = false).up()?;
    for _ in 0..3 {
        // Both notice at once, and both try again at once.
        two.lab.cable("us", false)?;
        two.us.kill()?;
        two.lab.cable("us", true)?;
        two.us.restart()?;
        two.up()?;
        exchanged(&two)?;
        let (us, them) = (two.us.state(0)?.epoch, two.them.state(0)?.epoch);
        wait::throughout("one session up", Duration::from_millis(1500), || {
            Ok(two.us.state(0)?.epoch == us && two.them.state(0)?.epoch == them)
        })?;
        let connections = two.us.tool(&["ss", "-Htn", "state", "established", "( sport = :179 or dport = :179 )"])?;
        ensure!(connections.lines().count() == 1, "connections: {connections}");
    }
    Ok(())
}

fn hold_time(kind: Kind) -> Result<()> {
    let two = plain(Pair::new(kind)).theirs(|session| session.hold = 9).up()?;
    let (us, them) = (two.us.state(0)?.hold, two.them.state(0)?.hold);
    ensure!(us == Some(9) && them == Some(9), "hold times {us:?}, {them:?}");
    // It expires on time when the other says nothing any more.
    two.them.freeze()?;
    let start = std::time::Instant::now();
    two.us.down(0, Duration::from_secs(14))?;
    ensure!(start.elapsed() > Duration::from_millis(5500), "down after {:?} only", start.elapsed());
    two.us.none(THEIRS)?;
    two.them.thaw()
}

fn four_octets(kind: Kind) -> Result<()> {
    let pair = plain(Pair::of(kind, Family::V4, 4_200_000_001, 4_200_000_002));
    let two = pair.up()?;
    let (theirs, ours) = exchanged(&two)?;
    ensure!(theirs.as_path == [4_200_000_002] && ours.as_path == [4_200_000_001], "{theirs:?} {ours:?}");
    let open = two.wire.seen("our OPEN", "10.77.0.1", OPEN, |_| true)?;
    ensure!(capabilities(&open).contains(&(65, 4_200_000_001u32.to_be_bytes().to_vec())), "{open:?}");
    Ok(())
}

fn attributes(kind: Kind) -> Result<()> {
    let mut ours = Originated::new(OURS);
    ours.communities = vec![(64601, 1), (64601, 65535)];
    ours.large = vec![(64601, 1, 2), (4_200_000_000, 4_294_967_295, 0)];
    ours.targets = vec![(64601, 7)];
    // Their own number: BIRD 1.6 prepends behind it what others prepend before.
    ours.prepend = vec![64601, 64601];
    ours.med = Some(77);
    let mut theirs = Originated { prefix: THEIRS.parse()?, ..ours.clone() };
    theirs.prepend = vec![64602, 64602];
    theirs.communities = vec![(64602, 3), (64602, 4)];
    let two = Pair::new(kind).we_announce([ours]).they_announce([theirs]).up()?;
    let (theirs, ours) = exchanged(&two)?;
    for (route, asn, communities) in
        [(&ours, 64601, ["64601:1", "64601:65535"]), (&theirs, 64602, ["64602:3", "64602:4"])]
    {
        ensure!(route.communities == communities, "{route:?}");
        ensure!(route.large == ["4200000000:4294967295:0", "64601:1:2"], "{route:?}");
        ensure!(route.targets == ["rt:64601:7"], "{route:?}");
        ensure!(route.as_path == [asn; 3], "{route:?}");
        ensure!(route.med == Some(77), "{route:?}");
    }
    ensure!(ours.next_hop == Some(address(Family::V4, 1)) && theirs.next_hop == Some(address(Family::V4, 2)));
    Ok(())
}

fn internal(kind: Kind) -> Result<()> {
    let mut ours = Originated::via(OURS, "10.77.0.11");
    ours.local_pref = Some(150);
    let mut theirs = Originated::via(THEIRS, "10.77.0.12");
    theirs.local_pref = Some(250);
    let mut two = Pair::internal(kind).we_announce([ours]).they_announce([theirs]).up()?;
    let (theirs, ours) = exchanged(&two)?;
    ensure!(theirs.local_pref == Some(250) && ours.local_pref == Some(150), "{theirs:?} {ours:?}");
    ensure!(theirs.next_hop == Some("10.77.0.12".parse()?), "{theirs:?}");
    ensure!(ours.next_hop == Some("10.77.0.11".parse()?), "{ours:?}");
    ensure!(theirs.as_path.is_empty() && ours.as_path.is_empty(), "{theirs:?} {ours:?}");
    // Next hop self is a change without a reset.
    if us() == Kind::Ours {
        let epoch = two.them.state(0)?.epoch;
        two.us.router.sessions[0].next_hop_self = true;
        crate::peers::ours::reload(&two.us)?;
        let us = address(Family::V4, 1);
        two.them.learns(OURS, |routes| routes.iter().all(|r| r.next_hop == Some(us)) && routes.len() == 1)?;
        ensure!(two.them.state(0)?.epoch == epoch, "the session was reset for it");
    }
    Ok(())
}

fn v6_over_v4(kind: Kind) -> Result<()> {
    let pair = plain(Pair::new(kind)).both(|session| session.families = vec![Family::V4, Family::V6]);
    let via = if kind.is_gobgp() {
        Originated::via("2001:db8:2::/48", "fd77::2")
    } else {
        Originated::new("2001:db8:2::/48")
    };
    let two = pair.we_announce([Originated::new("2001:db8:1::/48")]).they_announce([via]).up()?;
    exchanged(&two)?;
    let (theirs, ours) = (two.us.one("2001:db8:2::/48")?, two.them.one("2001:db8:1::/48")?);
    ensure!(theirs.next_hop == Some(address(Family::V6, 2)), "{theirs:?}");
    ensure!(ours.next_hop == Some(address(Family::V6, 1)), "{ours:?}");
    Ok(())
}

fn v6_over_v6(kind: Kind) -> Result<()> {
    let two = Pair::of(kind, Family::V6, 64601, 64602)
        .we_announce([Originated::new("2001:db8:1::/48")])
        .they_announce([Originated::new("2001:db8:2::/48")])
        .up()?;
    let (theirs, ours) = (two.us.one("2001:db8:2::/48")?, two.them.one("2001:db8:1::/48")?);
    ensure!(theirs.next_hop == Some(address(Family::V6, 2)), "{theirs:?}");
    ensure!(ours.next_hop == Some(address(Family::V6, 1)), "{ours:?}");
    Ok(())
}

fn v4_over_v6(kind: Kind) -> Result<()> {
    let pair = Pair::of(kind, Family::V6, 64601, 64602).both(|session| {
        session.families = vec![Family::V4, Family::V6];
        session.extended_next_hop = true;
    });
    let theirs = if kind.is_gobgp() { Originated::via(THEIRS, "fd77::2") } else { Originated::new(THEIRS) };
    let two = pair.we_announce([Originated::new(OURS)]).they_announce([theirs]).up()?;
    let (theirs, ours) = exchanged(&two)?;
    ensure!(theirs.next_hop == Some(address(Family::V6, 2)), "{theirs:?}");
    ensure!(ours.next_hop == Some(address(Family::V6, 1)), "{ours:?}");
    Ok(())
}

/// The text in a Cease, administrative shutdown (RFC 9003).
fn text(body: &[u8]) -> Option<&str> {
    let [6, 2, length, text @ ..] = body else { return None };
    std::str::from_utf8(text.get(..usize::from(*length))?).ok()
}

const TEXT: &str = "gone fishing, back at 5";

fn we_shut_down(kind: Kind) -> Result<()> {
    let mut two = plain(Pair::new(kind)).up()?;
    exchanged(&two)?;
    shut_down(&mut two.us)?;
    two.wire.seen("our text", "10.77.0.1", NOTIFICATION, |sent| text(sent.body()) == Some(TEXT))?;
    two.them.down(0, Duration::from_secs(10))?;
    two.them.none(OURS)?;
    let said = wait::until("their words", Duration::from_secs(10), || {
        let said = match kind {
            Kind::Frr => frr::vtysh(&two.them, &["show bgp neighbors 10.77.0.1 json"])?,
            _ if kind.is_gobgp() => std::fs::read_to_string(two.them.directory.join("gobgpd.log"))?,
            _ => two.them.state(0)?.text + &std::fs::read_to_string(two.them.directory.join("bird.log"))?,
        };
        if shows(kind, &said) { Ok(said) } else { bail!("{said}") }
    })?;
    ensure!(!said.is_empty());
    Ok(())
}

/// Whether they show our text, or at least that it was an administrative shutdown.
fn shows(kind: Kind, said: &str) -> bool {
    match kind {
        Kind::Frr => said.contains("Administrative Shutdown") || said.contains(TEXT),
        _ if kind.is_gobgp() => said.contains(TEXT) || said.to_lowercase().contains("administrative shutdown"),
        _ => said.contains(TEXT) || said.contains("Administrative shutdown"),
    }
}

fn shut_down(running: &mut Running) -> Result<()> {
    match running.kind {
        Kind::Ours => {
            running.router.sessions[0].shutdown = Some(TEXT.to_owned());
            crate::peers::ours::reload(running)
        }
        Kind::Bird1 | Kind::Bird2 => bird::birdc(running, &format!("disable peer0 \"{TEXT}\"")).map(drop),
        Kind::Frr => {
            let command = format!("neighbor 10.77.0.1 shutdown message {TEXT}");
            let router = format!("router bgp {}", running.router.asn);
            frr::vtysh(running, &["configure terminal", &router, &command]).map(drop)
        }
        Kind::Gobgp3 | Kind::Gobgp4 => {
            // `disable` of both majors says nothing to the other side; `shutdown` does, and comes back.
            gobgp(running, &["neighbor", "10.77.0.1", "shutdown", "--reason", TEXT])?;
            gobgp(running, &["neighbor", "10.77.0.1", "disable"]).map(drop)
        }
    }
}

fn they_shut_down(kind: Kind) -> Result<()> {
    let mut two = plain(Pair::new(kind)).up()?;
    exchanged(&two)?;
    shut_down(&mut two.them)?;
    two.wire.seen("their text", "10.77.0.2", NOTIFICATION, |sent| text(sent.body()) == Some(TEXT))?;
    two.us.down(0, Duration::from_secs(10))?;
    two.us.none(THEIRS)?;
    if us() == Kind::Ours {
        let log = two.us.logs();
        ensure!(log.contains(TEXT), "our log does not tell their words");
    }
    Ok(())
}

/// A router that is about to go says so on its routes (RFC 8326), while the session is up.
fn draining(kind: Kind) -> Result<()> {
    let marked = |prefix: &str| Originated { communities: vec![(65535, 0)], ..Originated::new(prefix) };
    let two = Pair::new(kind).we_announce([marked(OURS)]).they_announce([marked(THEIRS)]).up()?;
    let (theirs, ours) = exchanged(&two)?;
    ensure!(theirs.communities == ["65535:0"] && ours.communities == ["65535:0"], "{theirs:?} {ours:?}");
    Ok(())
}

fn withdrawn(kind: Kind) -> Result<()> {
    let mut two = plain(Pair::new(kind)).up()?;
    exchanged(&two)?;
    let epochs = (two.us.state(0)?.epoch, two.them.state(0)?.epoch);
    two.us.announce(Originated::new("192.0.2.128/25"))?;
    two.them.one("192.0.2.128/25")?;
    two.us.withdraw(OURS, None)?;
    two.them.none(OURS)?;
    two.them.announce(Originated::new("198.51.100.128/25"))?;
    two.us.one("198.51.100.128/25")?;
    two.them.withdraw(THEIRS, None)?;
    two.us.none(THEIRS)?;
    two.us.one("198.51.100.128/25")?;
    ensure!(epochs == (two.us.state(0)?.epoch, two.them.state(0)?.epoch), "a session flapped");
    Ok(())
}
