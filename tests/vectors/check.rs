//! What the recorded messages must say. Shared by the host tier, which reads the files, and by the interop tier, which
//! records them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, bail, ensure};
use ferrovia::net::{Asn, Family, Prefix};
use ferrovia::routing::bgp::types::{AsPath, Attributes, Negotiated, NextHop, Nlri, Origin, PeerKind};
use ferrovia::routing::bgp::wire::{self, Capability, Message};
use ferrovia::testing::builders::bgp_session;

/// The route with every attribute, and the one that came and went.
pub(crate) const RICH: &str = "198.51.100.0/24";
pub(crate) const PASSING: &str = "198.51.101.0/24";
pub(crate) const V6: &str = "2001:db8:2::/48";

/// A session on which the peer 10.77.0.2, AS 64602, talks to us, AS 64601; `v6` where it speaks IPv6 too.
pub(crate) fn session(v6: bool) -> Negotiated {
    let mut session = bgp_session(Asn(64602), Ipv4Addr::new(10, 77, 0, 2), PeerKind::External);
    session.families.extend(v6.then_some(Family::V6));
    session
}

/// [`RICH`] as every implementation must send it from `asn` with this next hop.
pub(crate) fn rich(asn: u32, next_hop: IpAddr, communities: [u32; 2]) -> Attributes {
    let path = AsPath::from_iter([Asn(asn); 3]);
    let mut attributes = Attributes::new(Origin::Igp, path, NextHop::from(next_hop));
    attributes.med = Some(77);
    attributes.communities = Box::new(communities);
    attributes.extended_communities = Box::new([[0, 2, 0xfc, 0x59, 0, 0, 0, 7]]);
    attributes.large_communities = Box::new([[64601, 1, 2], [4_200_000_000, 4_294_967_295, 0]]);
    attributes
}

/// Reads messages of one peer in the order in which they came, and says what it holds in the end.
pub(crate) fn replay(messages: &[Vec<u8>], session: &Negotiated) -> Result<BTreeMap<Prefix, Attributes>> {
    let mut held = BTreeMap::new();
    let mut withdrawn = 0;
    for bytes in messages {
        let message = wire::decode(bytes, Some(session)).map_err(|refusal| anyhow::anyhow!("{refusal:?}"));
        let Message::Update(update) = message.with_context(|| format!("of {}", hex(bytes)))? else { continue };
        ensure!(update.faults.is_empty(), "{:?} in {}", update.faults, hex(bytes));
        for reach in update.reach {
            again(&reach.attributes, &reach.nlri, session)?;
            held.extend(reach.nlri.iter().map(|nlri| (nlri.prefix, reach.attributes.clone())));
        }
        for nlri in update.withdrawn {
            withdrawn += usize::from(held.remove(&nlri.prefix).is_some());
        }
    }
    ensure!(withdrawn > 0, "no route was withdrawn");
    Ok(held)
}

/// What we write of it is read as the same.
fn again(attributes: &Attributes, nlri: &[Nlri], session: &Negotiated) -> Result<()> {
    let Some(first) = nlri.first() else { return Ok(()) };
    let mut bytes = Vec::new();
    let family = Family::of(first.prefix.addr());
    if wire::encode_reach(attributes, family, nlri, session, &mut bytes).is_err() {
        bail!("{attributes:?} cannot be sent");
    }
    let Ok(Message::Update(update)) = wire::decode(&bytes, Some(session)) else {
        bail!("not an UPDATE: {}", hex(&bytes))
    };
    let [reach] = update.reach.as_slice() else { bail!("{update:?}") };
    ensure!(reach.attributes == *attributes && reach.nlri == nlri, "{reach:?} for {attributes:?}");
    Ok(())
}

/// Checks everything one peer sent.
pub(crate) fn check(messages: &[Vec<u8>]) -> Result<()> {
    let open = messages.first().context("no message")?;
    let Ok(Message::Open(open)) = wire::decode(open, None) else { bail!("the first message is no OPEN") };
    let has = |family: Family| open.capabilities().contains(&Capability::Multiprotocol(family));
    let v6 = has(Family::V6);
    ensure!(has(Family::V4), "{open:?}");
    ensure!(open.asn == Asn(64602) && open.router_id == Ipv4Addr::new(10, 77, 0, 2), "{open:?}");
    let held = replay(messages, &session(v6))?;
    let wanted = rich(64602, IpAddr::from([10, 77, 0, 2]), [0xfc5a_0003, 0xfc5a_0004]);
    ensure!(held.get(&RICH.parse()?) == Some(&wanted), "{held:#?}");
    ensure!(!held.contains_key(&PASSING.parse()?), "{held:#?}");
    let over = held.get(&V6.parse()?);
    ensure!(over.is_some() == v6, "{held:#?}");
    ensure!(over.is_none_or(|attributes| Some(attributes.next_hop.address) == "fd77::2".parse().ok()), "{over:?}");
    Ok(())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
