//! What goes wrong: others that die, fall silent or lose their cable, garbage, ports that are taken, tables that are cut
//! off in the middle. Afterwards everything is as it should be, no route is left over, and nobody else's session moved.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::wait;

use crate::describe::{Kind, Originated};
use crate::lab::{Lab, Running, SOON};
use crate::pair::{OUR_AS, THEIR_AS, address, router, session, us};
use crate::peers::bird;
use crate::raw::{self, Raw, attribute, update};

scenarios! {
    killed ["fault: killed, and back"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    frozen ["fault: frozen, and back"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
    unplugged ["fault: link down, and up"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
}

const THEIRS: &str = "198.51.100.0/24";
const OTHERS: &str = "203.0.113.0/24";
const OTHER_AS: u32 = 64603;

/// We in the middle of one that will suffer and a BIRD 2 that must not notice more than it has to.
struct Three {
    us: Running,
    them: Running,
    other: Running,
    lab: Lab,
    calm: (String, String),
}

impl Three {
    fn start(kind: Kind, hold: u16) -> Result<Three> {
        let lab = Lab::new(&["us", "them", "other"])?;
        let mut ours = router(OUR_AS, 1);
        let mut theirs = router(THEIR_AS, 2);
        let mut others = router(OTHER_AS, 3);
        for (n, asn, router, prefix) in [(2, THEIR_AS, &mut theirs, THEIRS), (3, OTHER_AS, &mut others, OTHERS)] {
            ours.sessions.push(session(Family::V4, (1, OUR_AS), (n, asn)));
            router.sessions.push(session(Family::V4, (n, asn), (1, OUR_AS)));
            router.routes.push(Originated::new(prefix));
        }
        theirs.sessions[0].hold = hold;
        let them = lab.start("them", kind, theirs)?;
        let other = lab.start("other", Kind::Bird2, others)?;
        let us = lab.start("us", us(), ours)?;
        let mut three = Three { us, them, other, lab, calm: Default::default() };
        three.us.up(0)?;
        three.us.up(1)?;
        three.other.up(0)?;
        three.whole()?;
        three.calm = (three.us.state(1)?.epoch, three.other.state(0)?.epoch);
        Ok(three)
    }

    /// Everybody has everything.
    fn whole(&self) -> Result<()> {
        self.us.one(THEIRS)?;
        self.us.one(OTHERS)?;
        self.other.one(THEIRS)?;
        self.them.one(OTHERS).map(drop)
    }

    /// What the one told is gone everywhere.
    fn gone(&self) -> Result<()> {
        self.us.none(THEIRS)?;
        self.other.none(THEIRS)
    }

    fn calm(&self) -> Result<()> {
        let now = (self.us.state(1)?.epoch, self.other.state(0)?.epoch);
        ensure!(now == self.calm, "the other session flapped: {:?}, then {now:?}", self.calm);
        ensure!(self.us.state(1)?.up, "the other session is down");
        self.us.one(OTHERS).map(drop)
    }
}

fn killed(kind: Kind) -> Result<()> {
    let mut three = Three::start(kind, 90)?;
    three.them.kill()?;
    three.gone()?;
    three.calm()?;
    three.them.restart()?;
    three.us.up(0)?;
    three.whole()?;
    three.calm()
}

fn frozen(kind: Kind) -> Result<()> {
    let three = Three::start(kind, 3)?;
    three.them.freeze()?;
    three.us.down(0, Duration::from_secs(8))?;
    three.gone()?;
    three.calm()?;
    three.them.thaw()?;
    three.whole()?;
    three.calm()
}

fn unplugged(kind: Kind) -> Result<()> {
    let three = Three::start(kind, 3)?;
    three.lab.cable("them", false)?;
    three.us.down(0, Duration::from_secs(8))?;
    three.gone()?;
    three.calm()?;
    three.lab.cable("them", true)?;
    three.whole()?;
    three.calm()
}

/// Runs a test that has no column in the table.
fn alone(kinds: &[Kind], test: impl FnOnce() -> Result<()>) {
    if crate::skipped(kinds) {
        return;
    }
    if let Err(error) = test() {
        ferrovia::testing::lab::report(&crate::lab::take_logs());
        panic!("{error:#}");
    }
    crate::lab::forget_logs();
}

/// What RFC 7606 says must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The routes of the UPDATE are withdrawn.
    Withdraw,
    /// The attribute is ignored.
    Discard,
    /// NOTIFICATION with this code and subcode; `None` for any of UPDATE errors.
    Reset(Option<u8>),
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x5a];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 10, 77, 0, 2];
/// 198.51.100.0/24.
const NLRI: &[u8] = &[24, 198, 51, 100];

/// The three mandatory attributes, those with the code `without` left out, and these.
fn with(without: u8, more: &[Vec<u8>]) -> Vec<u8> {
    let mandatory = [(1, ORIGIN), (2, AS_PATH), (3, NEXT_HOP)];
    let mut all = Vec::new();
    for (code, bytes) in mandatory {
        if code != without {
            all.extend_from_slice(bytes);
        }
    }
    all.extend(more.iter().flatten());
    all
}

/// One malformed UPDATE for each attribute and each way to be malformed.
fn malformed() -> Vec<(&'static str, Vec<u8>, Then)> {
    use Then::{Discard, Reset, Withdraw};
    let one = |flags, code, value: &[u8]| update(&[], &with(code, &[attribute(flags, code, value)]), NLRI);
    let v6 = [0, 2, 1, 16, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let mut cut = with(0, &[]);
    cut.extend([0xc0, 8, 200, 0, 0]);
    vec![
        ("ORIGIN, unknown value", one(0x40, 1, &[7]), Withdraw),
        ("ORIGIN, two octets", one(0x40, 1, &[0, 0]), Withdraw),
        ("ORIGIN, optional", one(0xc0, 1, &[0]), Withdraw),
        ("ORIGIN missing", update(&[], &with(1, &[]), NLRI), Withdraw),
        ("AS_PATH, unknown segment", one(0x40, 2, &[9, 1, 0, 0, 0xfc, 0x5a]), Withdraw),
        ("AS_PATH, segment longer than it", one(0x40, 2, &[2, 3, 0, 0, 0xfc, 0x5a]), Withdraw),
        ("AS_PATH, empty segment", one(0x40, 2, &[2, 0]), Withdraw),
        ("AS_PATH missing", update(&[], &with(2, &[]), NLRI), Withdraw),
        ("NEXT_HOP, three octets", one(0x40, 3, &[10, 77, 0]), Withdraw),
        ("NEXT_HOP missing", update(&[], &with(3, &[]), NLRI), Withdraw),
        ("MED, three octets", one(0x80, 4, &[0, 0, 1]), Withdraw),
        ("MED, well-known", one(0x40, 4, &[0, 0, 0, 1]), Withdraw),
        ("LOCAL_PREF from outside", one(0x40, 5, &[0, 0, 1]), Discard),
        ("ATOMIC_AGGREGATE, one octet", one(0x40, 6, &[1]), Discard),
        ("AGGREGATOR, six octets", one(0xc0, 7, &[0, 1, 10, 0, 0, 1]), Discard),
        ("COMMUNITIES, five octets", one(0xc0, 8, &[0, 1, 0, 1, 0]), Withdraw),
        ("COMMUNITIES, none", one(0xc0, 8, &[]), Withdraw),
        ("ORIGINATOR_ID from outside", one(0x80, 9, &[10, 0, 0]), Discard),
        ("CLUSTER_LIST from outside", one(0x80, 10, &[10, 0, 0]), Discard),
        ("EXTENDED COMMUNITIES, seven octets", one(0xc0, 16, &[0, 2, 0, 1, 0, 0, 0]), Withdraw),
        ("LARGE_COMMUNITY, eleven octets", one(0xc0, 32, &[0; 11]), Withdraw),
        ("an attribute longer than all", update(&[], &cut, NLRI), Withdraw),
        ("ORIGIN twice", update(&[], &with(0, &[ORIGIN.to_vec()]), NLRI), Discard),
        ("an unknown well-known attribute", one(0x40, 99, &[1]), Withdraw),
        ("an unknown optional attribute", one(0xc0, 99, &[1]), Discard),
        ("a prefix of 33 bits", update(&[], &with(0, &[]), &[33, 198, 51, 100, 0, 0]), Reset(None)),
        ("a prefix cut off", update(&[], &with(0, &[]), &[24, 198, 51]), Reset(None)),
        ("a withdrawn prefix cut off", update(&[24, 198], &[], &[]), Reset(None)),
        ("MP_REACH_NLRI, cut off", update(&[], &with(3, &[attribute(0x80, 14, &v6[..9])]), &[]), Reset(None)),
        (
            "MP_REACH_NLRI twice",
            update(&[], &with(3, &[attribute(0x80, 14, &v6), attribute(0x80, 14, &v6)]), &[]),
            Reset(None),
        ),
        ("MP_UNREACH_NLRI, two octets", update(&[], &attribute(0x80, 15, &[0, 2]), &[]), Reset(None)),
        ("attributes longer than the message", raw::message(2, &[0, 0, 0, 200, 0x40, 1, 1, 0]), Reset(Some(1))),
    ]
}

/// Every attribute, malformed, from a peer beside one that must not notice.
#[test]
fn malformed_updates_do_what_rfc_7606_says() {
    alone(&[us(), Kind::Bird2], || {
        let mut three = None;
        let (listener, mut raw) = beside_a_calm_one(&mut three)?;
        let three = three.as_mut().expect("started");
        let good = update(&[], &with(0, &[]), NLRI);
        let mut wrong = Vec::new();
        for (name, bytes, then) in malformed() {
            raw.send(&good)?;
            three.0.one(THEIRS)?;
            let epoch = three.0.state(0)?.epoch;
            raw.send(&bytes)?;
            // A mark behind it: once this is there, the one before it was dealt with.
            let mark = update(&[], &with(0, &[]), &[32, 192, 0, 2, 1]);
            let seen = match then {
                Then::Reset(_) => Ok(Vec::new()),
                _ => raw
                    .send(&mark)
                    .and_then(|()| three.0.learns_within("192.0.2.1/32", Duration::from_secs(5), |r| r.len() == 1)),
            };
            let there = !three.0.learns_within(THEIRS, Duration::from_millis(1), |_| true)?.is_empty();
            let got = match (then, &seen) {
                (Then::Reset(subcode), _) => match raw.notification() {
                    Ok((3, sub)) if subcode.is_none_or(|wanted| wanted == sub) => Ok(()),
                    other => Err(format!("NOTIFICATION {other:?}")),
                },
                (_, Err(error)) => Err(format!("the session did not stay: {error:#}")),
                (Then::Withdraw, _) if there => Err("the route is still there".into()),
                (Then::Discard, _) if !there => Err("the route is gone".into()),
                _ if three.0.state(0)?.epoch != epoch => Err("the session flapped".into()),
                _ => Ok(()),
            };
            if let Err(error) = got {
                wrong.push(format!("{name}: {then:?} was due, but {error}"));
            }
            if matches!(then, Then::Reset(_)) || seen.is_err() {
                drop(raw);
                three.0.none(THEIRS)?;
                raw = Raw::accept(&listener, 64602, "10.77.0.2".parse()?)?;
            } else {
                raw.send(&update(&[32, 192, 0, 2, 1], &[], &[]))?;
                three.0.none("192.0.2.1/32")?;
            }
        }
        ensure!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
        let calm = (three.0.state(1)?.epoch, three.1.state(0)?.epoch);
        ensure!(calm == three.2, "the other session flapped");
        three.0.one(OTHERS).map(drop)
    });
}

type Calm = (Running, Running, (String, String), Lab);

/// Us with a scripted peer as session 0 and a BIRD 2 as session 1.
fn beside_a_calm_one(place: &mut Option<Calm>) -> Result<(TcpListener, Raw)> {
    let lab = Lab::new(&["us", "them", "other"])?;
    let mut ours = router(OUR_AS, 1);
    let mut others = router(OTHER_AS, 3);
    ours.sessions.push(session(Family::V4, (1, OUR_AS), (2, THEIR_AS)));
    ours.sessions[0].families = vec![Family::V4, Family::V6];
    ours.sessions.push(session(Family::V4, (1, OUR_AS), (3, OTHER_AS)));
    others.sessions.push(session(Family::V4, (3, OTHER_AS), (1, OUR_AS)));
    others.routes.push(Originated::new(OTHERS));
    let listener = raw::listen(&lab.ns("them")?, address(Family::V4, 2), 179)?;
    let mut other = lab.start("other", Kind::Bird2, others)?;
    let mut us = lab.start("us", us(), ours)?;
    let raw = Raw::accept(&listener, 64602, "10.77.0.2".parse()?)?;
    us.up(0)?;
    us.up(1)?;
    other.up(0)?;
    us.one(OTHERS)?;
    let calm = (us.state(1)?.epoch, other.state(0)?.epoch);
    *place = Some((us, other, calm, lab));
    Ok((listener, raw))
}

/// How many routes BIRD has from us.
fn count(bird: &Running) -> Result<usize> {
    let text = bird::birdc(bird, "show route count protocol peer0")?;
    let number = text.lines().find_map(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| anyhow::anyhow!("no count in {text}"))
}

/// UPDATEs for routes `from..to` of 20.0.0.0/24 and on.
fn table(from: u32, to: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let numbers: Vec<u32> = (from..to).collect();
    for some in numbers.chunks(800) {
        let nlri: Vec<u8> = some
            .iter()
            .flat_map(|n| {
                let [_, a, b, c] = n.to_be_bytes();
                [24, 20 + a, b, c]
            })
            .collect();
        bytes.extend(update(&[], &with(0, &[]), &nlri));
    }
    bytes
}

/// The table is cut off in the middle, comes again whole, and the receiving side is reset while it gets it.
#[test]
fn a_session_reset_in_the_middle_of_a_large_table() {
    const ALL: u32 = 100_000;
    const LONG: Duration = Duration::from_secs(60);
    alone(&[us(), Kind::Bird2], || {
        let mut three = None;
        let (listener, mut raw) = beside_a_calm_one(&mut three)?;
        let (ours, other, _, _lab) = three.as_mut().expect("started");
        let has = |wanted: u32| {
            wait::until(&format!("{wanted} routes at the sink"), LONG, || {
                let count = count(other)?;
                if count == wanted as usize { Ok(()) } else { bail!("{count}") }
            })
        };
        raw.drain()?;
        let bytes = table(0, ALL);
        // Not even a whole message.
        raw.send(&bytes[..bytes.len() / 2 + 7])?;
        drop(raw);
        has(0)?;
        let mut raw = Raw::accept(&listener, 64602, "10.77.0.2".parse()?)?;
        raw.drain()?;
        let half = bytes.len() / 2 + 7;
        raw.send(&bytes[..half])?;
        bird::birdc(other, "restart peer0")?;
        raw.send(&bytes[half..])?;
        has(ALL)?;
        bird::birdc(other, "restart peer0")?;
        has(ALL)?;
        // Nothing is left over when it goes.
        drop(raw);
        has(0)?;
        ours.alive()
    });
}

/// Somebody else has our port: the start is refused with a sentence that names it, and works once it is free. One that
/// runs already goes on, and takes the port when it can.
#[test]
fn a_port_that_is_taken() {
    alone(&[us(), Kind::Bird2], || {
        let lab = Lab::new(&["us", "them", "other"])?;
        let mut ours = router(OUR_AS, 1);
        let (mut theirs, mut others) = (router(THEIR_AS, 2), router(OTHER_AS, 3));
        ours.sessions.push(session(Family::V4, (1, OUR_AS), (2, THEIR_AS)));
        ours.sessions.push(session(Family::V4, (1, OUR_AS), (3, OTHER_AS)));
        ours.sessions[1].passive = true;
        theirs.sessions.push(session(Family::V4, (2, THEIR_AS), (1, OUR_AS)));
        theirs.sessions[0].passive = true;
        theirs.routes.push(Originated::new(THEIRS));
        others.sessions.push(session(Family::V4, (3, OTHER_AS), (1, OUR_AS)));
        others.sessions[0].port = 1790;
        let _them = lab.start("them", Kind::Bird2, theirs)?;
        let mut other = lab.start("other", Kind::Bird2, others)?;
        let squatter = raw::listen(&lab.ns("us")?, address(Family::V4, 1), 179)?;
        let refused = lab.start("us", us(), ours.clone()).err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(refused.contains("exit status: 1") && refused.contains("10.77.0.1:179"), "it said: {refused}");
        drop(squatter);
        let mut us = lab.start("us", us(), ours)?;
        us.up(0)?;
        us.one(THEIRS)?;
        let epoch = us.state(0)?.epoch;
        // Another port is wanted while it runs, and it is taken.
        let squatter = raw::listen(&lab.ns("us")?, address(Family::V4, 1), 1790)?;
        us.router.port = 1790;
        crate::peers::ours::reload(&us)?;
        wait::until_true("it says so", SOON, || Ok(us.logs().contains("10.77.0.1:1790")))?;
        ensure!(!us.state(1)?.up);
        drop(squatter);
        us.up(1)?;
        other.up(0)?;
        other.one(THEIRS)?;
        ensure!(us.state(0)?.epoch == epoch, "the other session flapped");
        Ok(())
    });
}

/// Two connections at once, for certain: the one begun by the side with the higher identifier stays (RFC 4271 6.8).
#[test]
fn a_collision_is_decided_by_the_identifiers() {
    alone(&[us()], || {
        for (id, ours_stays) in [("10.77.0.0", true), ("10.99.0.0", false)] {
            let lab = Lab::new(&["us", "them"])?;
            let mut ours = router(OUR_AS, 1);
            ours.sessions.push(session(Family::V4, (1, OUR_AS), (2, THEIR_AS)));
            let them = lab.ns("them")?;
            let listener = raw::listen(&them, address(Family::V4, 2), 179)?;
            let mut us = lab.start("us", us(), ours)?;
            let (theirs, _) = listener.accept()?;
            let own = raw::connect(&them, std::net::SocketAddr::new(address(Family::V4, 1), 179))?;
            let id = id.parse()?;
            // Both in OpenSent, then both get an OPEN.
            let (mut first, mut second) = (Raw::bare(theirs)?, Raw::bare(own)?);
            first.send(&raw::open(64602, id))?;
            second.send(&raw::open(64602, id))?;
            let (stays, ends) = if ours_stays { (&mut first, &mut second) } else { (&mut second, &mut first) };
            ensure!(ends.notification()? == (6, 7), "not Cease, collision");
            stays.send(&raw::message(4, &[]))?;
            us.up(0)?;
        }
        Ok(())
    });
}
