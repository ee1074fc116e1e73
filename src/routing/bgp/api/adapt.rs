//! Between the plain values and gobgp's messages, in both majors (pure).

use std::net::IpAddr;
use std::time::Duration;

use super::message as m;
use super::policy_message as p;
use super::query::{
    Action, Assignment, Command, Condition, DefinedSet, Destination, Event, FamilyCounts, GivenAttributes, Global,
    Lookup, MessageCounts, PathQuery, PathRow, PeerChoice, PeerDetail, Policy, Refusal, SetKind, Statement, Table,
    Verdict, Watch,
};
use super::{bfd, capability, raw, typed};
use crate::net::{Family, Prefix};
use crate::routing::bgp::types::{Nlri, PeerKind};

/// Which major of gobgp is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `apipb.GobgpApi`.
    V3,
    /// `api.GoBgpService`.
    V4,
}

impl Version {
    /// What most enums are shifted by: in 4.x their 0 says nothing.
    pub fn shift(self) -> i32 {
        match self {
            Version::V3 => 0,
            Version::V4 => 1,
        }
    }

    /// An enum as 3.x counts it.
    fn plain(self, value: i32) -> i32 {
        (value - self.shift()).max(0)
    }
}

/// A family as a message.
pub fn family_message(family: Family) -> m::Family {
    let afi = if family == Family::V4 { 1 } else { 2 };
    m::Family { afi, safi: 1 }
}

/// The family a message names; none named is IPv4.
///
/// # Errors
/// Where it is not unicast of IPv4 or IPv6.
pub fn family(message: Option<&m::Family>) -> Result<Family, Refusal> {
    match message.map(|family| (family.afi, family.safi)) {
        None | Some((0 | 1, 0 | 1)) => Ok(Family::V4),
        Some((2, 0 | 1)) => Ok(Family::V6),
        Some((afi, safi)) => {
            Err(Refusal::Unsupported(format!("address family {afi}/{safi} is not supported; use ipv4 or ipv6 unicast")))
        }
    }
}

fn time(since: Duration) -> m::Timestamp {
    let nanos = i32::try_from(since.subsec_nanos()).unwrap_or_default();
    m::Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos }
}

fn text(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// The speaker.
pub fn global(global: &Global) -> m::Global {
    m::Global {
        asn: global.asn.0,
        router_id: global.router_id.to_string(),
        listen_port: global.listen_port.map_or(-1, i32::from),
        listen_addresses: global.listen_addresses.iter().map(ToString::to_string).collect(),
        use_multiple_paths: global.multipath,
    }
}

/// A peer, with every part that the command line reads without looking whether it is there.
pub fn peer(version: Version, peer: &PeerDetail) -> m::Peer {
    let timers = m::Timers {
        config: Some(m::TimersConfig {
            hold_time: u64::from(peer.hold_time),
            keepalive_interval: u64::from(peer.keepalive),
        }),
        state: Some(m::TimersState {
            keepalive_interval: u64::from(peer.negotiated_keepalive),
            negotiated_hold_time: u64::from(peer.negotiated_hold_time),
            uptime: peer.row.up_since.map(time),
            downtime: peer.row.down_since.map(time),
        }),
    };
    let transport = m::Transport {
        local_address: text(peer.local_address.as_ref()),
        local_port: 0,
        passive_mode: peer.passive,
        remote_port: u32::from(peer.remote_port),
    };
    m::Peer {
        conf: Some(peer_conf(version, peer)),
        route_reflector: Some(m::RouteReflector {
            route_reflector_client: peer.reflector_client,
            route_reflector_cluster_id: text(peer.cluster_id.as_ref()),
        }),
        state: Some(peer_state(version, peer)),
        timers: Some(timers),
        transport: Some(transport),
        route_server: Some(m::RouteServer { route_server_client: false }),
        afi_safis: peer.row.families.iter().map(afi_safi).collect(),
    }
}

fn kind(version: Version, kind: PeerKind) -> i32 {
    version.shift() + i32::from(kind == PeerKind::External)
}

fn peer_conf(version: Version, peer: &PeerDetail) -> m::PeerConf {
    m::PeerConf {
        description: peer.description.clone(),
        local_asn: peer.local_asn.0,
        neighbor_address: peer.row.address.to_string(),
        peer_asn: peer.row.asn.map_or(0, |asn| asn.0),
        kind: kind(version, peer.kind),
        remove_private: 0,
        allow_own_asn: 0,
        replace_peer_asn: false,
        neighbor_interface: peer.row.interface.clone().unwrap_or_default(),
        admin_down: peer.row.admin == super::query::AdminState::Down,
    }
}

fn peer_state(version: Version, peer: &PeerDetail) -> m::PeerState {
    let capabilities =
        |list: &[super::query::Capability]| list.iter().map(|one| capability::write(version, one)).collect();
    m::PeerState {
        description: peer.description.clone(),
        local_asn: peer.local_asn.0,
        messages: Some(m::Messages { received: Some(counts(&peer.received)), sent: Some(counts(&peer.sent)) }),
        neighbor_address: peer.row.address.to_string(),
        peer_asn: peer.row.asn.map_or(0, |asn| asn.0),
        kind: kind(version, peer.kind),
        queues: Some(m::Queues { input: 0, output: peer.out_queue }),
        session_state: peer.row.state as i32,
        admin_state: peer.row.admin as i32 + version.shift(),
        out_q: peer.out_queue,
        flops: peer.flops,
        remote_cap: capabilities(&peer.remote_capabilities),
        local_cap: capabilities(&peer.local_capabilities),
        router_id: text(peer.router_id.as_ref()),
        bfd: peer.bfd.as_ref().map(bfd::message),
    }
}

fn counts(counts: &MessageCounts) -> m::MessageCounts {
    m::MessageCounts {
        notification: counts.notification,
        update: counts.update,
        open: counts.open,
        keepalive: counts.keepalive,
        refresh: counts.refresh,
        discarded: counts.discarded,
        total: counts.total(),
    }
}

fn afi_safi(counts: &FamilyCounts) -> m::AfiSafi {
    let family = Some(family_message(counts.family));
    m::AfiSafi {
        config: Some(m::AfiSafiConfig { family, enabled: true }),
        state: Some(m::AfiSafiState {
            family,
            enabled: counts.negotiated,
            received: counts.received,
            accepted: counts.accepted,
            advertised: counts.advertised,
        }),
        prefix_limit: None,
    }
}

/// A prefix and its paths.
pub fn destination(destination: &Destination) -> m::Destination {
    let prefix = destination.prefix;
    m::Destination {
        prefix: prefix.to_string(),
        paths: destination.paths.iter().map(|row| path(&prefix, row)).collect(),
    }
}

/// A path. NLRI and attributes go in binary form, which both majors prefer.
pub fn path(prefix: &Prefix, row: &PathRow) -> m::Path {
    m::Path {
        age: Some(time(row.since)),
        best: row.best,
        is_withdraw: row.withdrawn,
        validation: None,
        family: Some(family_message(Family::of(prefix.addr()))),
        source_asn: row.source.map_or(0, |source| source.1.0),
        source_id: row.source.map_or_else(|| "<nil>".to_owned(), |source| source.2.to_string()),
        filtered: row.filtered,
        stale: row.stale,
        neighbor_ip: row.source.map_or_else(|| "<nil>".to_owned(), |source| source.0.to_string()),
        is_nexthop_invalid: row.next_hop_invalid,
        identifier: row.received_id,
        local_identifier: row.local_id,
        uuid: row.uuid.map(|id| id.to_vec()).unwrap_or_default(),
        nlri_binary: raw::prefix(prefix),
        pattrs_binary: raw::attributes(&row.attributes, prefix),
        ..m::Path::default()
    }
}

/// The table a request names.
///
/// # Errors
/// Where there is none of that kind.
pub fn table(version: Version, kind: i32, name: &str) -> Result<Table, Refusal> {
    match version.plain(kind) {
        0 => Ok(Table::Global),
        1 => Ok(Table::Local(name.to_owned())),
        2 => Ok(Table::AdjIn(name.to_owned())),
        3 => Ok(Table::AdjOut(name.to_owned())),
        _ => Err(Refusal::Unsupported("there are no VRFs; ask for global, adj-in or adj-out".to_owned())),
    }
}

/// What ListPath asks for. A bare address means its longest match.
///
/// # Errors
/// Where it cannot be asked for.
pub fn path_query(version: Version, request: &m::ListPathRequest) -> Result<PathQuery, Refusal> {
    let lookup = |wanted: &m::LookupPrefix| {
        let kind = match version.plain(wanted.kind) {
            1 => Lookup::Longer,
            2 => Lookup::Shorter,
            _ => Lookup::Exact,
        };
        if let Ok(prefix) = wanted.prefix.parse::<Prefix>() {
            return Ok((prefix.trunc(), kind));
        }
        let address: IpAddr = wanted
            .prefix
            .parse()
            .map_err(|_| Refusal::Invalid(format!("{:?} is neither an address nor a prefix", wanted.prefix)))?;
        Ok((Prefix::from(address), if kind == Lookup::Exact { Lookup::LongestMatch } else { kind }))
    };
    Ok(PathQuery {
        table: table(version, request.table_type, &request.name)?,
        family: family(request.family.as_ref())?,
        prefixes: request.prefixes.iter().map(lookup).collect::<Result<_, _>>()?,
        filtered: request.enable_filtered,
    })
}

fn prefix_of(version: Version, path: &m::Path) -> Result<Prefix, Refusal> {
    if path.nlri_binary.is_empty() {
        return typed::prefix(version, &path.nlri).map_err(Refusal::Invalid);
    }
    let v6 = family(path.family.as_ref())? == Family::V6;
    typed::prefix_from_raw(&path.nlri_binary, v6).map_err(Refusal::Invalid)
}

fn nlri_of(version: Version, path: &m::Path) -> Result<Nlri, Refusal> {
    Ok(Nlri { prefix: prefix_of(version, path)?, path_id: path.identifier })
}

fn only_global(version: Version, kind: i32) -> Result<(), Refusal> {
    match table(version, kind, "")? {
        Table::Global => Ok(()),
        _ => Err(Refusal::Unsupported("routes can only be added to and deleted from the global table".to_owned())),
    }
}

/// What AddPath asks to do.
///
/// # Errors
/// Where the route cannot be read.
pub fn add_path(version: Version, request: &m::AddPathRequest) -> Result<Command, Refusal> {
    only_global(version, request.table_type)?;
    let path = request.path.as_ref().ok_or_else(|| Refusal::Invalid("the request has no path".to_owned()))?;
    let nlri = nlri_of(version, path)?;
    let prefix = nlri.prefix;
    if path.is_withdraw {
        return Ok(Command::DeletePath(nlri));
    }
    let attributes = if path.pattrs_binary.is_empty() {
        let attributes = typed::attributes(version, &path.pattrs, &prefix).map_err(Refusal::Invalid)?;
        GivenAttributes::Typed(Box::new(attributes))
    } else {
        GivenAttributes::Raw(path.pattrs_binary.clone())
    };
    Ok(Command::AddPath(nlri, attributes))
}

/// What DeletePath asks to do.
///
/// # Errors
/// Where the route cannot be read.
pub fn delete_path(version: Version, request: &m::DeletePathRequest) -> Result<Command, Refusal> {
    only_global(version, request.table_type)?;
    if !request.uuid.is_empty() {
        let id = request.uuid.as_slice().try_into();
        return id.map(Command::DeleteById).map_err(|_| Refusal::Invalid("the UUID has not 16 octets".to_owned()));
    }
    match (&request.path, &request.family) {
        (Some(path), _) => Ok(Command::DeletePath(nlri_of(version, path)?)),
        (None, Some(message)) => Ok(Command::DeleteAll(Some(family(Some(message))?))),
        (None, None) => Ok(Command::DeleteAll(None)),
    }
}

/// Which peers a request means.
///
/// # Errors
/// Where it names none.
pub fn choice(address: &str) -> Result<PeerChoice, Refusal> {
    match address {
        "" => Err(Refusal::Invalid("the request names no peer; give an address, an interface or \"all\"".to_owned())),
        "all" => Ok(PeerChoice::All),
        one => Ok(PeerChoice::One(one.to_owned())),
    }
}

/// What ResetPeer asks to do.
///
/// # Errors
/// Where it names no peer.
pub fn reset(version: Version, request: m::PeerActionRequest) -> Result<Command, Refusal> {
    let peer = choice(&request.address)?;
    if !request.soft {
        return Ok(Command::Reset(peer, request.communication));
    }
    Ok(match version.plain(request.direction) {
        0 => Command::SoftReset(peer, true, false),
        1 => Command::SoftReset(peer, false, true),
        _ => Command::SoftReset(peer, true, true),
    })
}

/// What WatchEvent asks for.
pub fn watch(version: Version, request: &m::WatchEventRequest) -> Watch {
    let mut watch = Watch { peers: request.peer.is_some(), ..Watch::default() };
    for filter in request.table.iter().flat_map(|table| &table.filters) {
        match version.plain(filter.kind) {
            0 => watch.best = Some(filter.init),
            _ => watch.adj_in = Some(filter.init),
        }
        if !filter.peer_address.is_empty() {
            watch.peer = Some(filter.peer_address.clone());
        }
    }
    watch
}

/// News as a message.
pub fn event(version: Version, event: &Event) -> m::WatchEventResponse {
    let of_peer = |kind: i32, detail: Option<&PeerDetail>| m::WatchEventResponse {
        peer: Some(m::PeerEvent { kind, peer: detail.map(|detail| peer(version, detail)) }),
        table: None,
    };
    match event {
        Event::PeerInitial(detail) => of_peer(1, Some(detail)),
        Event::PeersComplete => of_peer(2, None),
        Event::PeerState(detail) => of_peer(3, Some(detail)),
        Event::Routes(rows) => m::WatchEventResponse {
            peer: None,
            table: Some(m::TableEvent { paths: rows.iter().map(|(prefix, row)| path(prefix, row)).collect() }),
        },
    }
}

/// An assignment.
pub fn assignment(version: Version, assignment: &Assignment) -> p::PolicyAssignment {
    p::PolicyAssignment {
        name: assignment.name.clone(),
        direction: assignment.direction as i32,
        policies: assignment.policies.iter().map(|one| policy(version, one)).collect(),
        default_action: assignment.default as i32,
    }
}

/// A policy.
pub fn policy(version: Version, policy: &Policy) -> p::Policy {
    p::Policy {
        name: policy.name.clone(),
        statements: policy.statements.iter().map(|one| statement(version, one)).collect(),
    }
}

/// A statement.
pub fn statement(version: Version, statement: &Statement) -> p::Statement {
    let mut conditions = p::Conditions { rpki_result: -1 + version.shift(), ..p::Conditions::default() };
    for condition in &statement.conditions {
        let set = |how: &super::query::Match, name: &String| {
            Some(p::MatchSet { kind: *how as i32 + version.shift(), name: name.clone() })
        };
        match condition {
            Condition::Prefix(how, name) => conditions.prefix_set = set(how, name),
            Condition::Neighbor(how, name) => conditions.neighbor_set = set(how, name),
            Condition::AsPath(how, name) => conditions.as_path_set = set(how, name),
            Condition::ExtendedCommunity(how, name) => conditions.ext_community_set = set(how, name),
            Condition::Community(how, name) => conditions.community_set = set(how, name),
            Condition::LargeCommunity(how, name) => conditions.large_community_set = set(how, name),
            Condition::AsPathLength(how, length) => {
                let kind = i32::from(*how) + version.shift();
                conditions.as_path_length = Some(p::AsPathLength { kind, length: *length });
            }
            Condition::RouteType(kind) => conditions.route_type = i32::from(*kind),
            Condition::Families(families) => {
                conditions.afi_safi_in = families.iter().map(|family| family_message(*family)).collect();
            }
        }
    }
    let verdict = statement.verdict.map_or(0, |verdict: Verdict| verdict as i32);
    let mut actions = p::Actions { route_action: verdict, ..p::Actions::default() };
    for action in &statement.actions {
        apply(version, action, &mut actions);
    }
    p::Statement { name: statement.name.clone(), conditions: Some(conditions), actions: Some(actions) }
}

fn apply(version: Version, action: &Action, actions: &mut p::Actions) {
    let communities = |kind: &u8, list: &Vec<String>| {
        Some(p::CommunityAction { kind: i32::from(*kind) + version.shift(), communities: list.clone() })
    };
    let med = |kind: i32, value: i64| Some(p::MedAction { kind: kind + version.shift(), value });
    match action {
        Action::Community(kind, list) => actions.community = communities(kind, list),
        Action::ExtendedCommunity(kind, list) => actions.ext_community = communities(kind, list),
        Action::LargeCommunity(kind, list) => actions.large_community = communities(kind, list),
        Action::MedAdd(by) => actions.med = med(0, *by),
        Action::MedSet(to) => actions.med = med(1, i64::from(*to)),
        Action::LocalPref(value) => actions.local_pref = Some(p::LocalPrefAction { value: *value }),
        Action::Prepend(asn, repeat) => {
            let asn_or_zero = asn.map_or(0, |asn| asn.0);
            let prepend = p::AsPrependAction { asn: asn_or_zero, repeat: *repeat, use_left_most: asn.is_none() };
            actions.as_prepend = Some(prepend);
        }
        Action::NextHop(address) => {
            actions.nexthop = Some(p::NextHopAction { address: address.to_string(), ..p::NextHopAction::default() });
        }
        Action::NextHopPeer => {
            let address = "peer-address".to_owned();
            actions.nexthop = Some(p::NextHopAction { address, ..p::NextHopAction::default() });
        }
        Action::NextHopSelf => actions.nexthop = Some(p::NextHopAction { own: true, ..p::NextHopAction::default() }),
        Action::NextHopUnchanged => {
            actions.nexthop = Some(p::NextHopAction { unchanged: true, ..p::NextHopAction::default() });
        }
    }
}

/// The kind of sets a request means.
///
/// # Errors
/// Where there is no such kind.
pub fn set_kind(version: Version, kind: i32) -> Result<SetKind, Refusal> {
    let kinds = [
        SetKind::Prefix,
        SetKind::Neighbor,
        SetKind::AsPath,
        SetKind::Community,
        SetKind::ExtendedCommunity,
        SetKind::LargeCommunity,
    ];
    let plain = version.plain(kind);
    let unknown = || Refusal::Unsupported(format!("there are no defined sets of type {kind}"));
    kinds.into_iter().find(|kind| *kind as i32 == plain).ok_or_else(unknown)
}

/// A named set.
pub fn defined_set(version: Version, set: &DefinedSet) -> p::DefinedSet {
    let range = |(prefix, from, to): &(Prefix, u8, u8)| p::PrefixRange {
        ip_prefix: prefix.to_string(),
        mask_length_min: u32::from(*from),
        mask_length_max: u32::from(*to),
    };
    p::DefinedSet {
        defined_type: set.kind as i32 + version.shift(),
        name: set.name.clone(),
        list: set.list.clone(),
        prefixes: set.prefixes.iter().map(range).collect(),
    }
}
