//! The file: TOML in, the speaker's configuration and own routes out.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ferrovia::net::{Asn, Family, Prefix};
use ferrovia::routing::bgp::bfd::session::Timers;
use ferrovia::routing::bgp::policy::{
    Assignment, Conditions, Policy, PolicySet, PrefixRange, SetMatch, Statement, Verdict,
};
use ferrovia::routing::bgp::rib::Settings;
use ferrovia::routing::bgp::speaker::{Bfd, Config, Password, PeerConfig};
use ferrovia::routing::bgp::tcp::Distance;
use ferrovia::routing::bgp::types::{AsPath, Attributes, NextHop, Origin, OwnRestart, community};
use serde::Deserialize;

/// All of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    asn: u32,
    router_id: Ipv4Addr,
    cluster_id: Option<Ipv4Addr>,
    #[serde(default)]
    listen: Vec<SocketAddr>,
    pub(crate) api: Option<SocketAddr>,
    #[serde(default)]
    pub(crate) restarted: bool,
    #[serde(default = "deferral")]
    pub(crate) deferral: u64,
    #[serde(default = "stop_within")]
    pub(crate) stop_within: u64,
    #[serde(default)]
    multipath: bool,
    #[serde(default)]
    relax_as_path: bool,
    #[serde(default)]
    always_compare_med: bool,
    #[serde(default)]
    prefer_older: bool,
    #[serde(default)]
    reject_import: Vec<Prefix>,
    #[serde(default)]
    reject_export: Vec<Prefix>,
    #[serde(default)]
    peer: Vec<Peer>,
    #[serde(default)]
    route: Vec<Route>,
    #[serde(default)]
    table: Vec<Table>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    address: Option<IpAddr>,
    prefix: Option<Prefix>,
    asn: Option<u32>,
    local_asn: Option<u32>,
    #[serde(default = "port")]
    port: u16,
    local_address: Option<IpAddr>,
    #[serde(default)]
    scope: u32,
    #[serde(default)]
    password: String,
    ttl: Option<u8>,
    gtsm: Option<u8>,
    #[serde(default)]
    passive: bool,
    shutdown: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default = "both")]
    families: Vec<Word>,
    #[serde(default = "hold_time")]
    hold_time: u16,
    #[serde(default)]
    add_path_receive: Vec<Word>,
    #[serde(default)]
    add_path_send: Vec<Word>,
    #[serde(default)]
    extended_next_hop: bool,
    restart_time: Option<u16>,
    #[serde(default = "yes")]
    notification_restart: bool,
    #[serde(default)]
    long_lived: u32,
    #[serde(default)]
    client: bool,
    #[serde(default)]
    next_hop_self: bool,
    #[serde(default)]
    next_hop_unchanged: bool,
    next_hop_v4: Option<Ipv4Addr>,
    next_hop_v6: Option<IpAddr>,
    #[serde(default)]
    shared: Vec<Prefix>,
    max_prefixes: Option<u32>,
    bfd: Option<BfdTimers>,
}

/// A family.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Ipv4,
    Ipv6,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BfdTimers {
    #[serde(default = "interval")]
    interval_ms: u64,
    #[serde(default = "multiplier")]
    multiplier: u8,
    port: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Route {
    prefix: Prefix,
    #[serde(default)]
    next_hops: Vec<IpAddr>,
    #[serde(default)]
    origin: Start,
    #[serde(default)]
    as_path: Vec<u32>,
    med: Option<u32>,
    local_pref: Option<u32>,
    #[serde(default)]
    communities: Vec<String>,
    #[serde(default)]
    extended_communities: Vec<String>,
    #[serde(default)]
    large_communities: Vec<String>,
}

/// An ORIGIN.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Start {
    #[default]
    Igp,
    Egp,
    Incomplete,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    first: Prefix,
    count: u32,
    #[serde(default = "one")]
    attribute_sets: u32,
    next_hop: Option<IpAddr>,
    #[serde(default)]
    as_path: Vec<u32>,
}

fn deferral() -> u64 {
    360
}

fn stop_within() -> u64 {
    5
}

fn port() -> u16 {
    179
}

fn both() -> Vec<Word> {
    vec![Word::Ipv4, Word::Ipv6]
}

fn hold_time() -> u16 {
    90
}

fn yes() -> bool {
    true
}

fn interval() -> u64 {
    1000
}

fn multiplier() -> u8 {
    3
}

fn one() -> u32 {
    1
}

impl File {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<File, Box<dyn Error>> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    /// What the speaker is configured with.
    pub(crate) fn config(&self) -> Result<Config, Box<dyn Error>> {
        let mut config = Config {
            asn: Asn(self.asn),
            router_id: self.router_id,
            cluster_id: self.cluster_id.unwrap_or(self.router_id),
            listen: self.listen.clone(),
            decision: Settings {
                multipath: self.multipath,
                relax_as_path: self.relax_as_path,
                always_compare_med: self.always_compare_med,
                prefer_older: self.prefer_older,
            },
            policies: self.policies(),
            peers: BTreeMap::new(),
            dynamic: BTreeMap::new(),
        };
        for peer in &self.peer {
            let settings = self.peer(peer)?;
            match (peer.address, peer.prefix) {
                (Some(address), None) => {
                    config.peers.insert(address, settings);
                }
                (None, Some(prefix)) => {
                    config.dynamic.insert(prefix.trunc(), settings);
                }
                _ => return Err("[[peer]]: give `address`, or `prefix` for dynamic peers".into()),
            }
        }
        Ok(config)
    }

    fn peer(&self, peer: &Peer) -> Result<PeerConfig, Box<dyn Error>> {
        let local_asn = peer.local_asn.unwrap_or(self.asn);
        let internal = peer.asn == Some(local_asn);
        let distance = match (peer.gtsm, peer.ttl) {
            (Some(hops), _) => Distance::Security(hops),
            (None, Some(1)) => Distance::Link,
            (None, None) if !internal => Distance::Link,
            (None, hops) => Distance::Multihop(hops.unwrap_or(u8::MAX)),
        };
        let families = |words: &[Word]| -> Vec<Family> {
            let mut families: Vec<Family> = words.iter().map(|word| word.family()).collect();
            families.sort_unstable();
            families.dedup();
            families
        };
        let restart =
            |restart_time| OwnRestart { restart_time, restarting: false, notification: peer.notification_restart };
        Ok(PeerConfig {
            description: peer.description.clone(),
            asn: peer.asn.map(Asn),
            local_asn: Asn(local_asn),
            port: peer.port,
            local_address: peer.local_address,
            scope: peer.scope,
            password: Password(peer.password.clone().into_bytes()),
            distance,
            passive: peer.passive,
            shutdown: peer.shutdown.clone(),
            families: families(&peer.families),
            hold_time: peer.hold_time,
            add_path_receive: families(&peer.add_path_receive),
            add_path_send: families(&peer.add_path_send),
            extended_next_hop: peer.extended_next_hop,
            graceful_restart: peer.restart_time.map(restart),
            long_lived: peer.long_lived,
            client: peer.client,
            next_hop_self: peer.next_hop_self,
            next_hop_unchanged: peer.next_hop_unchanged,
            next_hop_v4: peer.next_hop_v4,
            next_hop_v6: peer.next_hop_v6.map(NextHop::from),
            shared: peer.shared.clone(),
            bfd: peer.bfd.as_ref().map(|bfd| Bfd {
                port: bfd.port,
                timers: Timers {
                    desired_min_tx: Duration::from_millis(bfd.interval_ms),
                    required_min_rx: Duration::from_millis(bfd.interval_ms),
                    multiplier: bfd.multiplier,
                },
            }),
            max_prefixes: peer.max_prefixes,
        })
    }

    /// Everything passes but what the file refuses.
    fn policies(&self) -> PolicySet {
        let mut policies = PolicySet::default();
        for (name, prefixes) in [("reject_import", &self.reject_import), ("reject_export", &self.reject_export)] {
            let ranges = prefixes.iter().copied().map(PrefixRange::or_longer).collect();
            policies.sets.prefix.insert(name.to_owned(), ranges);
            let refuse = Statement {
                name: name.to_owned(),
                conditions: Conditions { prefix_set: Some(SetMatch::any(name)), ..Conditions::default() },
                verdict: Some(Verdict::Reject),
                ..Statement::default()
            };
            policies.policies.push(Policy { name: name.to_owned(), statements: vec![refuse] });
        }
        let assign = |name: &str| Assignment { policies: vec![name.to_owned()], default: Verdict::Accept };
        policies.import = assign("reject_import");
        policies.export = assign("reject_export");
        policies
    }

    /// What starts here.
    pub(crate) fn routes(&self) -> Result<BTreeMap<Prefix, Vec<Attributes>>, Box<dyn Error>> {
        let mut routes = BTreeMap::new();
        for table in &self.table {
            table.routes(&mut routes)?;
        }
        for route in &self.route {
            routes.insert(route.prefix.trunc(), route.paths()?);
        }
        Ok(routes)
    }
}

impl Word {
    fn family(self) -> Family {
        match self {
            Word::Ipv4 => Family::V4,
            Word::Ipv6 => Family::V6,
        }
    }
}

impl Route {
    fn paths(&self) -> Result<Vec<Attributes>, Box<dyn Error>> {
        let origin = match self.origin {
            Start::Igp => Origin::Igp,
            Start::Egp => Origin::Egp,
            Start::Incomplete => Origin::Incomplete,
        };
        let as_path: AsPath = self.as_path.iter().copied().map(Asn).collect();
        let mut attributes = Attributes::new(origin, as_path, NextHop::from(ours(&self.prefix)));
        (attributes.med, attributes.local_pref) = (self.med, self.local_pref);
        let mut communities = self.communities.iter().map(|text| small(text)).collect::<Result<Vec<u32>, _>>()?;
        communities.sort_unstable();
        communities.dedup();
        attributes.communities = communities.into();
        let extended = self.extended_communities.iter().map(|text| route_target(text));
        let mut extended = extended.collect::<Result<Vec<_>, _>>()?;
        extended.sort_unstable();
        extended.dedup();
        attributes.extended_communities = extended.into();
        let mut large = self.large_communities.iter().map(|text| numbers(text)).collect::<Result<Vec<_>, _>>()?;
        large.sort_unstable();
        large.dedup();
        attributes.large_communities = large.into();
        if self.next_hops.is_empty() {
            return Ok(vec![attributes]);
        }
        let path = |next_hop: &IpAddr| Attributes { next_hop: NextHop::from(*next_hop), ..attributes.clone() };
        Ok(self.next_hops.iter().map(path).collect())
    }
}

impl Table {
    fn routes(&self, routes: &mut BTreeMap<Prefix, Vec<Attributes>>) -> Result<(), Box<dyn Error>> {
        let length = self.first.prefix_len();
        let step = u32::from(self.first.max_prefix_len() - length);
        let next_hop = NextHop::from(self.next_hop.unwrap_or(ours(&self.first)));
        for n in 0..self.count {
            let as_path: AsPath = self.as_path.iter().copied().map(Asn).collect();
            let mut attributes = Attributes::new(Origin::Igp, as_path, next_hop);
            if self.attribute_sets > 1 {
                attributes.med = Some(n % self.attribute_sets);
            }
            let address = match self.first.network() {
                IpAddr::V4(first) => u32::try_from(u64::from(n) << step)
                    .ok()
                    .and_then(|offset| first.to_bits().checked_add(offset))
                    .map(|bits| IpAddr::V4(bits.into())),
                IpAddr::V6(first) => u128::from(n)
                    .checked_shl(step)
                    .and_then(|offset| first.to_bits().checked_add(offset))
                    .map(|bits| IpAddr::V6(bits.into())),
            };
            let address = address.ok_or_else(|| format!("[[table]]: {} routes from {} on", self.count, self.first))?;
            routes.insert(Prefix::new(address, length)?, vec![attributes]);
        }
        Ok(())
    }
}

/// The next hop that stands for our own.
fn ours(prefix: &Prefix) -> IpAddr {
    match prefix.addr() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

/// A community: two numbers or a well-known name.
fn small(text: &str) -> Result<u32, String> {
    match text {
        "no-export" => return Ok(community::NO_EXPORT),
        "no-advertise" => return Ok(community::NO_ADVERTISE),
        "graceful-shutdown" => return Ok(community::GRACEFUL_SHUTDOWN),
        "blackhole" => return Ok(community::BLACKHOLE),
        "no-llgr" => return Ok(community::NO_LLGR),
        _ => {}
    }
    let parts = text.split_once(':').and_then(|(high, low)| Some((high.parse().ok()?, low.parse().ok()?)));
    let (high, low): (u16, u16) = parts.ok_or_else(|| format!("communities: {text:?} is not like \"64512:1\""))?;
    Ok(u32::from(high) << 16 | u32::from(low))
}

/// A route target of a two-octet AS (RFC 4360 3.1, 4).
fn route_target(text: &str) -> Result<[u8; 8], String> {
    let parts = text.strip_prefix("rt:").and_then(|rest| rest.split_once(':'));
    let numbers = parts.and_then(|(asn, value)| Some((asn.parse::<u16>().ok()?, value.parse::<u32>().ok()?)));
    let (asn, value) = numbers.ok_or_else(|| format!("extended_communities: {text:?} is not like \"rt:64512:1\""))?;
    let ([a, b], [c, d, e, f]) = (asn.to_be_bytes(), value.to_be_bytes());
    Ok([0, 2, a, b, c, d, e, f])
}

/// A large community: three numbers.
fn numbers(text: &str) -> Result<[u32; 3], String> {
    let numbers: Option<Vec<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
    let numbers: Option<[u32; 3]> = numbers.and_then(|numbers| numbers.try_into().ok());
    numbers.ok_or_else(|| format!("large_communities: {text:?} is not like \"64512:1:2\""))
}
