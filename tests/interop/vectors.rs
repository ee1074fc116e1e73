//! Messages on the wire, read by our codec here and kept for the host tier: `FERROVIA_VECTORS=1` writes
//! `tests/vectors/`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use ferrovia::net::Family;
use ferrovia::testing::lab::wait;

use crate::describe::{Kind, Originated};
use crate::lab::SOON;
use crate::pair::{Pair, us};
use crate::wire::{OPEN, REFRESH, Sent, UPDATE};

#[path = "../vectors/check.rs"]
mod check;

scenarios! {
    recorded ["recorded messages"] Bird1 Bird2 Frr Gobgp3 Gobgp4;
}

fn full(prefix: &str, asn: u16, communities: [(u16, u16); 2]) -> Originated {
    let mut route = Originated::new(prefix);
    route.communities = communities.to_vec();
    route.large = vec![(64601, 1, 2), (4_200_000_000, 4_294_967_295, 0)];
    route.targets = vec![(64601, 7)];
    route.prepend = vec![asn.into(); 2];
    route.med = Some(77);
    route
}

fn recorded(kind: Kind) -> Result<()> {
    let v6 = kind != Kind::Bird1;
    let mut pair = Pair::new(kind)
        .we_announce([full("192.0.2.0/24", 64601, [(64601, 1), (64601, 65535)])])
        .they_announce([full(check::RICH, 64602, [(64602, 3), (64602, 4)]), Originated::new(check::PASSING)]);
    if v6 {
        pair = pair.both(|session| session.families = vec![Family::V4, Family::V6]);
        let via = if kind.is_gobgp() { Originated::via(check::V6, "fd77::2") } else { Originated::new(check::V6) };
        pair = pair.they_announce([via]);
    }
    let mut two = pair.up()?;
    two.us.one(check::RICH)?;
    two.us.one(check::PASSING)?;
    two.them.one("192.0.2.0/24")?;
    if v6 {
        two.us.one(check::V6)?;
    }
    two.them.withdraw(check::PASSING, None)?;
    two.us.none(check::PASSING)?;
    let wanted = |sent: &&Sent| [OPEN, UPDATE, REFRESH].contains(&sent.kind());
    let of = |address: &str| -> Result<Vec<Vec<u8>>> {
        let address: std::net::IpAddr = address.parse()?;
        let all = two.wire.messages()?;
        Ok(all.iter().filter(|sent| sent.from == address).filter(wanted).map(|sent| sent.bytes.clone()).collect())
    };
    // The recording may be a moment behind.
    let theirs = wait::until("their messages as meant", SOON, || {
        let theirs = of("10.77.0.2")?;
        check::check(&theirs).map(|()| theirs)
    })?;
    let ours = of("10.77.0.1")?;
    ensure!(!ours.is_empty());
    if std::env::var_os("FERROVIA_VECTORS").is_some() {
        let name = match kind {
            Kind::Bird1 => "bird-1.6",
            Kind::Bird2 => "bird-2",
            Kind::Frr => "frr",
            Kind::Gobgp3 => "gobgp-3",
            _ => "gobgp-4",
        };
        write(name, &format!("{kind}, to us"), &theirs)?;
        if kind == Kind::Bird2 && us() == Kind::Ours {
            write("ferrovia", "us, to BIRD 2", &ours)?;
        }
    }
    Ok(())
}

fn write(name: &str, what: &str, messages: &[Vec<u8>]) -> Result<()> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/{name}.hex"));
    let lines: Vec<String> = messages.iter().map(|message| check::hex(message)).collect();
    fs::write(path, format!("# {what}\n{}\n", lines.join("\n"))).map_err(Into::into)
}
