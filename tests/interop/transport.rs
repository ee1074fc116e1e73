//! What lies below a session: signatures, hop limits, distances, ports, peers known by prefix only.

use std::time::Duration;

use anyhow::{Result, ensure};
use ferrovia::testing::lab::wait;

use crate::describe::{Distance, Kind, Originated};
use crate::pair::{Pair, Two, far};

scenarios! {
    signed ["TCP-MD5"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    hop_limit ["GTSM"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    far_away ["multihop"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    their_port ["their port 17900"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    our_port ["our port 1790"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    our_range ["dynamic neighbours, ours"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    their_range ["dynamic neighbours, theirs"] Bird2 Frr Gobgp3 Gobgp4;
}

const PREFIX: &str = "192.0.2.0/24";
const THEIRS: &str = "198.51.100.0/24";

fn pair(kind: Kind) -> Pair {
    Pair::new(kind).we_announce([Originated::new(PREFIX)]).they_announce([Originated::new(THEIRS)])
}

fn exchanged(two: &Two) -> Result<()> {
    two.them.one(PREFIX)?;
    two.us.one(THEIRS).map(drop)
}

fn never_up(two: &Two, why: &str) -> Result<()> {
    wait::throughout(why, Duration::from_secs(4), || Ok(!two.us.state(0)?.up && !two.them.state(0)?.up))
}

fn signed(kind: Kind) -> Result<()> {
    let key = |word: &str| Some(word.to_owned());
    {
        // Either end may connect.
        let two = pair(kind).both(|session| session.password = key("sesame")).up()?;
        exchanged(&two)?;
    }
    {
        let two = pair(kind).both(|session| session.password = key("sesame"));
        let two = two.ours(|session| session.passive = true).theirs(|session| session.passive = false).up()?;
        exchanged(&two)?;
    }
    let two = pair(kind).theirs(|session| session.password = key("sesame"));
    let two = two.ours(|session| session.password = key("simsim")).theirs(|session| session.passive = false).start()?;
    never_up(&two, "no session with two different keys")
}

fn hop_limit(kind: Kind) -> Result<()> {
    {
        let two = pair(kind).both(|session| session.distance = Distance::Security).up()?;
        exchanged(&two)?;
    }
    // They send packets for one hop, and we ask for 255.
    let two = pair(kind).ours(|session| session.distance = Distance::Security).start()?;
    never_up(&two, "no session with packets that may have come from afar")
}

fn far_away(kind: Kind) -> Result<()> {
    exchanged(&far(pair(kind).both(|session| session.distance = Distance::Multihop(4)))?)
}

fn their_port(kind: Kind) -> Result<()> {
    let mut pair = pair(kind);
    pair.them.port = 17900;
    pair.us.sessions[0].port = 17900;
    exchanged(&pair.up()?)
}

fn our_port(kind: Kind) -> Result<()> {
    let mut pair = pair(kind).ours(|session| session.passive = true).theirs(|session| session.passive = false);
    pair.us.port = 1790;
    pair.them.sessions[0].port = 1790;
    let two = pair.up()?;
    exchanged(&two)?;
    let listening = two.us.tool(&["ss", "-Htln", "sport = :179"])?;
    ensure!(listening.trim().is_empty(), "something listens on 179 too: {listening}");
    Ok(())
}

fn our_range(kind: Kind) -> Result<()> {
    let range = Some("10.77.0.0/24".parse()?);
    let pair = pair(kind).ours(|session| (session.range, session.passive) = (range, true));
    let two = pair.theirs(|session| session.passive = false).up()?;
    exchanged(&two)
}

fn their_range(kind: Kind) -> Result<()> {
    let range = Some("10.77.0.0/24".parse()?);
    let two = pair(kind).theirs(|session| (session.range, session.passive) = (range, true)).up()?;
    exchanged(&two)
}
