//! The tables of `gobgp`, column by column (pure).
//!
//! Enum words are those of 3.x. `now` is the time since 1970.

use std::fmt::Write as _;
use std::time::Duration;

use super::query::{
    AdminState, Assignment, Capability, Destination, Direction, Event, Global, MessageCounts, PathRow, PeerDetail,
    PeerRow, SessionState, TableInfo, Verdict,
};
use crate::net::{Family, Prefix};
use crate::routing::bgp::types::{Attributes, Origin, PeerRestart};

/// Writes to text. Cannot fail.
macro_rules! put {
    ($out:expr, $($args:tt)*) => {
        let _ = write!($out, $($args)*);
    };
}

/// How long ago something was: `HH:MM:SS`, with days in front from one day on.
pub fn ago(now: Duration, since: Duration) -> String {
    let seconds = now.as_secs().saturating_sub(since.as_secs());
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if days == 0 { clock } else { format!("{days}d {clock}") }
}

fn up_down(peer: &PeerRow, now: Duration) -> String {
    let Some(up) = peer.up_since else { return "never".to_owned() };
    let since = if peer.state == SessionState::Established { up } else { peer.down_since.unwrap_or(now) };
    ago(now, since)
}

fn state_word(peer: &PeerRow) -> &'static str {
    match (peer.admin, peer.state) {
        (AdminState::Down, _) => "Idle(Admin)",
        (AdminState::PrefixLimit, _) => "Idle(PfxCt)",
        (AdminState::Up, SessionState::Idle) => "Idle",
        (AdminState::Up, SessionState::Connect) => "Connect",
        (AdminState::Up, SessionState::Active) => "Active",
        (AdminState::Up, SessionState::OpenSent) => "Sent",
        (AdminState::Up, SessionState::OpenConfirm) => "Confirm",
        (AdminState::Up, SessionState::Established) => "Establ",
    }
}

fn session_name(state: SessionState) -> &'static str {
    match state {
        SessionState::Idle => "IDLE",
        SessionState::Connect => "CONNECT",
        SessionState::Active => "ACTIVE",
        SessionState::OpenSent => "OPENSENT",
        SessionState::OpenConfirm => "OPENCONFIRM",
        SessionState::Established => "ESTABLISHED",
    }
}

/// `gobgp neighbor`: all peers, IPv4 first, in order of their addresses.
pub fn neighbors(peers: &[PeerRow], family: Option<Family>, now: Duration) -> String {
    let mut peers: Vec<&PeerRow> = peers.iter().collect();
    peers.sort_by_key(|peer| peer.address);
    let name = |peer: &PeerRow| peer.interface.clone().unwrap_or_else(|| peer.address.to_string());
    let asn = |peer: &PeerRow| peer.asn.map_or_else(|| "*".to_owned(), |asn| asn.to_string());
    let width =
        |least: usize, of: &dyn Fn(&PeerRow) -> String| peers.iter().map(|peer| of(peer).len()).fold(least, usize::max);
    let names = width(0, &name);
    let asns = width(2, &asn);
    let times = width(7, &|peer| up_down(peer, now));
    let mut out = String::new();
    put!(out, "{:<names$} {:>asns$} {:>times$} ", "Peer", "AS", "Up/Down");
    put!(out, "{:<11} |{:>9} {:>9}\n", "State", "#Received", "Accepted");
    for peer in &peers {
        let (received, accepted, _) = peer.counts(family);
        put!(out, "{:<names$} {:>asns$} {:>times$} ", name(peer), asn(peer), up_down(peer, now));
        put!(out, "{:<11} |{received:>9} {accepted:>9}\n", state_word(peer));
    }
    out
}

/// `gobgp neighbor X`.
pub fn neighbor(peer: &PeerDetail, now: Duration) -> String {
    let mut out = String::new();
    let row = &peer.row;
    let client = if peer.reflector_client { ", route-reflector-client" } else { "" };
    let asn = row.asn.map_or_else(|| "*".to_owned(), |asn| asn.to_string());
    let router_id = peer.router_id.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
    let local = peer.local_address.map(|address| address.to_string()).unwrap_or_default();
    put!(out, "BGP neighbor is {}, remote AS {asn}{client}\n", row.address);
    put!(out, "  BGP version 4, remote router ID {router_id}\n");
    put!(out, "  BGP state = {}", session_name(row.state));
    if let Some(since) = row.up_since {
        put!(out, ", up for {}", ago(now, since));
    }
    put!(out, "\n  BGP OutQ = {}, Flops = {}\n", peer.out_queue, peer.flops);
    put!(out, "  Local address is {local}, local ASN: {}\n", peer.local_asn);
    let times = (peer.negotiated_hold_time, peer.negotiated_keepalive);
    put!(out, "  Hold time is {}, keepalive interval is {} seconds\n", times.0, times.1);
    let times = (peer.hold_time, peer.keepalive);
    put!(out, "  Configured hold time is {}, keepalive interval is {} seconds\n", times.0, times.1);
    out.push_str("  \n  Neighbor capabilities:\n");
    capabilities(&peer.local_capabilities, &peer.remote_capabilities, &mut out);
    statistics(peer, &mut out);
    out
}

fn statistics(peer: &PeerDetail, out: &mut String) {
    type Field = fn(&MessageCounts) -> u64;
    let lines: [(&str, Field); 7] = [
        ("Opens:", |counts| counts.open),
        ("Notifications:", |counts| counts.notification),
        ("Updates:", |counts| counts.update),
        ("Keepalives:", |counts| counts.keepalive),
        ("Route Refresh:", |counts| counts.refresh),
        ("Discarded:", |counts| counts.discarded),
        ("Total:", MessageCounts::total),
    ];
    out.push_str("  Message statistics:\n                         Sent       Rcvd\n");
    for (name, field) in lines {
        put!(out, "    {name:<14} {:>10} {:>10}\n", field(&peer.sent), field(&peer.received));
    }
    let (received, accepted, advertised) = peer.row.counts(None);
    out.push_str("  Route statistics:\n");
    for (name, count) in [("Advertised:", advertised), ("Received:", received), ("Accepted:", accepted)] {
        put!(out, "    {name:<14} {count:>10}\n");
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4-unicast",
        Family::V6 => "ipv6-unicast",
    }
}

fn capability_name(capability: &Capability) -> String {
    match capability {
        Capability::Multiprotocol(_) => "multiprotocol".to_owned(),
        Capability::RouteRefresh => "route-refresh".to_owned(),
        Capability::ExtendedNextHop => "extended-nexthop".to_owned(),
        Capability::GracefulRestart(_) => "graceful-restart".to_owned(),
        Capability::FourOctetAs(_) => "4-octet-as".to_owned(),
        Capability::AddPath(_) => "add-path".to_owned(),
        Capability::EnhancedRefresh => "enhanced-route-refresh".to_owned(),
        Capability::LongLived(_) => "long-lived-graceful-restart".to_owned(),
        Capability::ExtendedMessage | Capability::Unknown(..) => format!("UnknownCapability({})", capability.code()),
    }
}

fn same(a: &Capability, b: &Capability) -> bool {
    match (a, b) {
        (Capability::Multiprotocol(a), Capability::Multiprotocol(b)) => a == b,
        _ => a.code() == b.code(),
    }
}

fn capabilities(local: &[Capability], remote: &[Capability], out: &mut String) {
    let mut all: Vec<&Capability> = local.iter().collect();
    all.extend(remote.iter().filter(|theirs| !local.iter().any(|ours| same(ours, theirs))));
    all.sort_by_key(|capability| capability.code());
    let mut multiprotocol = false;
    for capability in all {
        let ours = local.iter().find(|one| same(one, capability));
        let theirs = remote.iter().find(|one| same(one, capability));
        let support = match (ours, theirs) {
            (Some(_), Some(_)) => "advertised and received",
            (Some(_), None) => "advertised",
            _ => "received",
        };
        let name = capability_name(capability);
        if let Capability::Multiprotocol(family) = capability {
            if !multiprotocol {
                put!(out, "    {name}:\n");
                multiprotocol = true;
            }
            put!(out, "        {}:\t{support}\n", family_name(*family));
            continue;
        }
        put!(out, "    {name}:\t{support}\n");
        for (side, one) in [("Local", ours), ("Remote", theirs)] {
            if let Some(one) = one {
                out.push_str(&capability_detail(side, one));
            }
        }
    }
}

fn capability_detail(side: &str, capability: &Capability) -> String {
    let mut out = String::new();
    match capability {
        Capability::GracefulRestart(restart) => restart_detail(side, restart, &mut out),
        Capability::ExtendedNextHop => {
            let colon = format!("{side}:");
            put!(out, "        {colon:<7} nlri: ipv4-unicast, nexthop: ipv6\n");
        }
        Capability::LongLived(families) if !families.is_empty() => {
            put!(out, "        {side}:\n");
            for (family, time) in families {
                put!(out, "\t    {}, restart time {time} sec\n", family_name(*family));
            }
        }
        Capability::AddPath(families) => {
            put!(out, "      {side}:\n");
            for (family, receive, send) in families {
                let mode = match (receive, send) {
                    (true, true) => "receive/send",
                    (true, false) => "receive",
                    (false, true) => "send",
                    (false, false) => "none",
                };
                put!(out, "         {}:\t{mode}\n", family_name(*family));
            }
        }
        _ => {}
    }
    out
}

fn restart_detail(side: &str, restart: &PeerRestart, out: &mut String) {
    let mut words = Vec::new();
    if !restart.families.is_empty() {
        words.push(format!("restart time {} sec", restart.restart_time));
    }
    if restart.restarting {
        words.push("restart flag set".to_owned());
    }
    if restart.notification {
        words.push("notification flag set".to_owned());
    }
    if words.is_empty() {
        return;
    }
    put!(out, "        {side}: {}\n", words.join(", "));
    for (family, kept) in &restart.families {
        let kept = if *kept { ", forward flag set" } else { "" };
        put!(out, "\t    {}{kept}\n", family_name(*family));
    }
}

/// `gobgp global`.
pub fn global(global: &Global) -> String {
    let port = global.listen_port.map_or(-1, i32::from);
    let addresses: Vec<String> = global.listen_addresses.iter().map(ToString::to_string).collect();
    let mut out = format!("AS:        {}\nRouter-ID: {}\n", global.asn, global.router_id);
    put!(out, "Listening Port: {port}, Addresses: {}\n", addresses.join(", "));
    if global.multipath {
        out.push_str("Multipath: enabled\n");
    }
    out
}

/// Which table is shown: each has columns of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Best and other paths.
    Global,
    /// With the path identifier as received.
    AdjIn,
    /// With the path identifier as sent, without age.
    AdjOut,
}

/// A table of routes.
pub fn routes(destinations: &[Destination], view: View, now: Duration) -> String {
    let rows: Vec<(&Prefix, &PathRow)> =
        destinations.iter().flat_map(|one| one.paths.iter().map(move |path| (&one.prefix, path))).collect();
    if rows.is_empty() {
        return "Network not in table\n".to_owned();
    }
    let width = |of: &dyn Fn(&(&Prefix, &PathRow)) -> usize| rows.iter().map(of).fold(20, usize::max);
    let networks = width(&|(prefix, _)| prefix.to_string().len());
    let hops = width(&|(_, path)| next_hop(path).len());
    let paths = width(&|(_, path)| path.attributes.as_path.to_string().len());
    let id = |text: &str| if view == View::Global { String::new() } else { format!("{text:<3} ") };
    let age = |text: &str| if view == View::AdjOut { String::new() } else { format!("{text:<10} ") };
    let mut out = String::new();
    put!(out, "   {}{:<networks$} {:<hops$} {:<paths$} ", id("ID"), "Network", "Next Hop", "AS_PATH");
    put!(out, "{}Attrs\n", age("Age"));
    for (prefix, path) in rows {
        let number = if view == View::AdjIn { path.received_id } else { path.local_id };
        let as_path = path.attributes.as_path.to_string();
        put!(out, "{:<3}{}", symbols(path, view), id(&number.to_string()));
        put!(out, "{:<networks$} {:<hops$} {as_path:<paths$} ", prefix.to_string(), next_hop(path));
        put!(out, "{}{}\n", age(&ago(now, path.since)), attributes(&path.attributes));
    }
    out
}

fn symbols(path: &PathRow, view: View) -> String {
    let stale = if path.stale { "S" } else { "" };
    let best = match (view, path.best && !path.next_hop_invalid) {
        (View::Global, true) => "*>",
        (View::Global, false) => "* ",
        _ => "",
    };
    format!("{stale}{best}")
}

fn next_hop(path: &PathRow) -> String {
    path.attributes.next_hop.address.to_string()
}

/// The attributes without AS_PATH and next hop, in order of their codes.
pub fn attributes(attributes: &Attributes) -> String {
    let origin = match attributes.origin {
        Origin::Igp => "i",
        Origin::Egp => "e",
        Origin::Incomplete => "?",
    };
    let join = |list: Vec<String>| list.join(", ");
    let mut words = vec![format!("{{Origin: {origin}}}")];
    words.extend(attributes.med.map(|med| format!("{{Med: {med}}}")));
    words.extend(attributes.local_pref.map(|preference| format!("{{LocalPref: {preference}}}")));
    words.extend(attributes.atomic_aggregate.then(|| "AtomicAggregate".to_owned()));
    words.extend(
        attributes.aggregator.map(|(asn, address)| format!("{{Aggregate: {{AS: {asn}, Address: {address}}}}}")),
    );
    if !attributes.communities.is_empty() {
        let list = attributes.communities.iter().map(|one| community(*one)).collect();
        words.push(format!("{{Communities: {}}}", join(list)));
    }
    words.extend(attributes.originator_id.map(|id| format!("{{Originator: {id}}}")));
    if !attributes.cluster_list.is_empty() {
        let list: Vec<String> = attributes.cluster_list.iter().map(ToString::to_string).collect();
        words.push(format!("{{ClusterList: [{}]}}", list.join(" ")));
    }
    if !attributes.extended_communities.is_empty() {
        let list = attributes.extended_communities.iter().map(extended_community).collect();
        words.push(format!("{{Extcomms: [{}]}}", join(list)));
    }
    if !attributes.large_communities.is_empty() {
        let list = attributes.large_communities.iter().map(|[a, b, c]| format!("{a}:{b}:{c}")).collect();
        words.push(format!("{{LargeCommunity: [ {}]}}", join(list)));
    }
    format!("[{}]", words.join(" "))
}

fn community(value: u32) -> String {
    use crate::routing::bgp::types::community as known;
    match value {
        known::NO_EXPORT => "no-export".to_owned(),
        known::NO_ADVERTISE => "no-advertise".to_owned(),
        known::NO_EXPORT_SUBCONFED => "no-export-subconfed".to_owned(),
        known::LLGR_STALE => "llgr-stale".to_owned(),
        known::NO_LLGR => "no-llgr".to_owned(),
        known::GRACEFUL_SHUTDOWN => "planned-shut".to_owned(),
        known::BLACKHOLE => "blackhole".to_owned(),
        _ => format!("{}:{}", value >> 16, value & 0xffff),
    }
}

fn extended_community(value: &[u8; 8]) -> String {
    let [kind, _, a, b, c, d, e, f] = *value;
    match kind & 0x3f {
        0 => format!("{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f])),
        1 => format!("{a}.{b}.{c}.{d}:{}", u16::from_be_bytes([e, f])),
        2 => format!("{}.{}:{}", u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), u16::from_be_bytes([e, f])),
        _ => format!("{}", u64::from_be_bytes(*value)),
    }
}

/// `summary` of a table.
pub fn summary(family: Family, info: &TableInfo) -> String {
    let afi = if family == Family::V4 { "AFI_IP" } else { "AFI_IP6" };
    format!("Table afi:{afi} safi:SAFI_UNICAST\nDestination: {}, Path: {}\n", info.destinations, info.paths)
}

/// A line of `gobgp monitor`; `None` for news it does not print. The caller puts its clock in front.
pub fn monitor(event: &Event) -> Option<String> {
    match event {
        Event::Routes(rows) => {
            let line = |(prefix, path): &(Prefix, PathRow)| {
                let word = if path.withdrawn { "DELROUTE" } else { "ROUTE" };
                let shown = &path.attributes;
                let attrs = attributes(shown);
                format!("[{word}] {prefix} via {} aspath [{}] attrs {attrs}\n", next_hop(path), shown.as_path)
            };
            Some(rows.iter().map(line).collect())
        }
        Event::PeerState(peer) => {
            let admin = match peer.row.admin {
                AdminState::Up => "UP",
                AdminState::Down => "DOWN",
                AdminState::PrefixLimit => "PFX_CT",
            };
            let fsm = session_name(peer.row.state);
            Some(format!("[NEIGH] {} fsm: {fsm} admin: {admin}\n", peer.row.address))
        }
        Event::PeerInitial(_) | Event::PeersComplete => None,
    }
}

/// `gobgp global policy`, `gobgp neighbor X policy`: one direction.
pub fn assignment(assignment: &Assignment) -> String {
    let direction = match assignment.direction {
        Direction::Import => "Import",
        Direction::Export => "Export",
    };
    let default = match assignment.default {
        Verdict::Accept => "ACCEPT",
        Verdict::Reject => "REJECT",
    };
    let mut out = format!("{direction} policy:\n    Default: {default}\n");
    for policy in &assignment.policies {
        put!(out, "    Name {}:\n", policy.name);
        for statement in &policy.statements {
            put!(out, "        StatementName {}:\n", statement.name);
        }
    }
    out
}
