//! The tables of `gobgp` 3.10, column by column, from a server's messages (pure).
//!
//! The messages are in the form of 3.x ([`super::schema::as_v3`]). `now` is the time since 1970.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::bfd;
use super::capability::{self, Detail, Told};
use super::message as m;
use super::shown::Shown;

pub use super::policy_text::{assignment, defined_sets, policies, statements};

/// Writes to text. Cannot fail.
macro_rules! put {
    ($out:expr, $($args:tt)*) => {
        let _ = write!($out, $($args)*);
    };
}
pub(super) use put;

/// How long ago something was: `HH:MM:SS`, with days in front from one day on.
pub fn ago(now: Duration, since: i64) -> String {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let seconds = now.abs_diff(since);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if days == 0 { clock } else { format!("{days}d {clock}") }
}

const ESTABLISHED: i32 = 6;

/// The parts of a peer, there or not.
struct Parts {
    conf: m::PeerConf,
    state: m::PeerState,
    timers: m::Timers,
}

fn parts(peer: &m::Peer) -> Parts {
    Parts {
        conf: peer.conf.clone().unwrap_or_default(),
        state: peer.state.clone().unwrap_or_default(),
        timers: peer.timers.clone().unwrap_or_default(),
    }
}

impl Parts {
    fn asn(&self) -> String {
        if self.state.peer_asn == 0 { "*".to_owned() } else { self.state.peer_asn.to_string() }
    }

    fn name(&self) -> &str {
        if self.conf.neighbor_interface.is_empty() {
            &self.state.neighbor_address
        } else {
            &self.conf.neighbor_interface
        }
    }

    fn up_down(&self, now: Duration) -> String {
        let state = self.timers.state.clone().unwrap_or_default();
        let Some(up) = state.uptime else { return "never".to_owned() };
        let down = state.downtime.map_or(0, |time| time.seconds);
        ago(now, if self.state.session_state == ESTABLISHED { up.seconds } else { down })
    }

    fn state_word(&self) -> &'static str {
        match (self.state.admin_state, self.state.session_state) {
            (1, _) => "Idle(Admin)",
            (2, _) => "Idle(PfxCt)",
            (_, 1) => "Idle",
            (_, 2) => "Connect",
            (_, 3) => "Active",
            (_, 4) => "Sent",
            (_, 5) => "Confirm",
            (_, ESTABLISHED) => "Establ",
            _ => "Unknown",
        }
    }
}

fn session_name(state: i32) -> &'static str {
    match state {
        1 => "IDLE",
        2 => "CONNECT",
        3 => "ACTIVE",
        4 => "OPENSENT",
        5 => "OPENCONFIRM",
        ESTABLISHED => "ESTABLISHED",
        _ => "UNKNOWN",
    }
}

/// Routes received, accepted and sent, of one family or of all.
fn counts(peer: &m::Peer, family: Option<m::Family>) -> (u64, u64, u64) {
    let states = peer.afi_safis.iter().filter_map(|one| one.state.as_ref());
    let wanted = states.filter(|state| family.is_none() || state.family == family);
    wanted.fold((0, 0, 0), |sum, state| (sum.0 + state.received, sum.1 + state.accepted, sum.2 + state.advertised))
}

/// `gobgp neighbor`: all peers, IPv4 first, in order of their addresses.
pub fn neighbors(peers: &[m::Peer], family: Option<m::Family>, now: Duration) -> String {
    let mut peers: Vec<(&m::Peer, Parts)> = peers.iter().map(|peer| (peer, parts(peer))).collect();
    peers.sort_by_key(|(_, parts)| {
        let address = &parts.conf.neighbor_address;
        (address.contains(':'), address.parse::<IpAddr>().ok(), address.clone())
    });
    let width = |least: usize, of: &dyn Fn(&Parts) -> usize| peers.iter().map(|(_, p)| of(p)).fold(least, usize::max);
    let names = width(0, &|p| p.conf.neighbor_interface.len().max(p.state.neighbor_address.len()));
    let asns = width(2, &|p| p.asn().len());
    let times = width(7, &|p| p.up_down(now).len());
    let mut out = String::new();
    put!(out, "{:<names$} {:>asns$} {:>times$} ", "Peer", "AS", "Up/Down");
    put!(out, "{:<11} |{:>9} {:>9}\n", "State", "#Received", "Accepted");
    for (peer, parts) in &peers {
        let (received, accepted, _) = counts(peer, family);
        put!(out, "{:<names$} {:>asns$} {:>times$} ", parts.name(), parts.asn(), parts.up_down(now));
        put!(out, "{:<11} |{received:>9} {accepted:>9}\n", parts.state_word());
    }
    out
}

/// `gobgp neighbor X`.
pub fn neighbor(peer: &m::Peer, family: Option<m::Family>, now: Duration) -> String {
    let mut out = String::new();
    let p = parts(peer);
    let client = peer.route_reflector.as_ref().is_some_and(|reflector| reflector.route_reflector_client);
    let server_client = peer.route_server.as_ref().is_some_and(|server| server.route_server_client);
    let client = match (client, server_client) {
        (true, _) => ", route-reflector-client",
        (false, true) => ", route-server-client",
        (false, false) => "",
    };
    let router_id = if p.state.router_id.is_empty() { "unknown" } else { &p.state.router_id };
    put!(out, "BGP neighbor is {}, remote AS {}{client}\n", p.state.neighbor_address, p.asn());
    put!(out, "  BGP version 4, remote router ID {router_id}\n");
    put!(out, "  BGP state = {}", session_name(p.state.session_state));
    let timers = p.timers.state.clone().unwrap_or_default();
    if let Some(since) = &timers.uptime {
        put!(out, ", up for {}", ago(now, since.seconds));
    }
    let queued = p.state.queues.as_ref().map_or(0, |queues| queues.output);
    put!(out, "\n  BGP OutQ = {queued}, Flops = {}\n", p.state.flops);
    let (hold, keepalive) = (timers.negotiated_hold_time, timers.keepalive_interval);
    put!(out, "  Hold time is {hold}, keepalive interval is {keepalive} seconds\n");
    let config = p.timers.config.clone().unwrap_or_default();
    let (hold, keepalive) = (config.hold_time, config.keepalive_interval);
    put!(out, "  Configured hold time is {hold}, keepalive interval is {keepalive} seconds\n");
    if let Some(state) = &p.state.bfd {
        out.push_str(&bfd::line(state));
    }
    put!(out, "  {}\n  Neighbor capabilities:\n", as_options(&p.conf));
    let told = |list: &[Vec<u8>]| list.iter().filter_map(|one| capability::told(one)).collect::<Vec<_>>();
    capabilities(&told(&p.state.local_cap), &told(&p.state.remote_cap), &mut out);
    statistics(&p.state, counts(peer, family), &mut out);
    limits(peer, &mut out);
    out
}

fn as_options(conf: &m::PeerConf) -> String {
    let mut words = Vec::new();
    if conf.allow_own_asn > 0 {
        words.push(format!("Allow Own AS: {}", conf.allow_own_asn));
    }
    match conf.remove_private {
        1 => words.push("Remove private AS: all".to_owned()),
        2 => words.push("Remove private AS: replace".to_owned()),
        _ => {}
    }
    if conf.replace_peer_asn {
        words.push("Replace peer AS: enabled".to_owned());
    }
    words.join(", ")
}

fn statistics(state: &m::PeerState, routes: (u64, u64, u64), out: &mut String) {
    type Field = fn(&m::MessageCounts) -> u64;
    let lines: [(&str, Field); 7] = [
        ("Opens:", |counts| counts.open),
        ("Notifications:", |counts| counts.notification),
        ("Updates:", |counts| counts.update),
        ("Keepalives:", |counts| counts.keepalive),
        ("Route Refresh:", |counts| counts.refresh),
        ("Discarded:", |counts| counts.discarded),
        ("Total:", |counts| counts.total),
    ];
    let messages = state.messages.clone().unwrap_or_default();
    let (sent, received) = (messages.sent.unwrap_or_default(), messages.received.unwrap_or_default());
    out.push_str("  Message statistics:\n                         Sent       Rcvd\n");
    for (name, field) in lines {
        put!(out, "    {name:<14} {:>10} {:>10}\n", field(&sent), field(&received));
    }
    let (received, accepted, advertised) = routes;
    out.push_str("  Route statistics:\n");
    for (name, count) in [("Advertised:", advertised), ("Received:", received), ("Accepted:", accepted)] {
        put!(out, "    {name:<14} {count:>10}\n");
    }
}

fn limits(peer: &m::Peer, out: &mut String) {
    let set = peer.afi_safis.iter().filter_map(|one| one.prefix_limit.as_ref()).filter(|limit| limit.max_prefixes > 0);
    for (n, limit) in set.enumerate() {
        if n == 0 {
            out.push_str("  Prefix Limits:\n");
        }
        let family = family_name(limit.family.unwrap_or_default());
        put!(out, "    {family}:\tMaximum prefixes allowed {}", limit.max_prefixes);
        if limit.threshold > 0 {
            put!(out, ", Threshold for warning message {}%", limit.threshold);
        }
        out.push('\n');
    }
}

/// The name of a family.
pub fn family_name(family: m::Family) -> String {
    let name = match (family.afi, family.safi) {
        (1, 1) => "ipv4-unicast",
        (2, 1) => "ipv6-unicast",
        (1, 2) => "ipv4-multicast",
        (2, 2) => "ipv6-multicast",
        (1, 4) => "ipv4-labelled-unicast",
        (2, 4) => "ipv6-labelled-unicast",
        (1, 128) => "l3vpn-ipv4-unicast",
        (2, 128) => "l3vpn-ipv6-unicast",
        (1, 129) => "l3vpn-ipv4-multicast",
        (2, 129) => "l3vpn-ipv6-multicast",
        (25, 65) => "l2vpn-vpls",
        (25, 70) => "l2vpn-evpn",
        (1, 132) => "rtc",
        (1, 7) => "ipv4-encap",
        (2, 7) => "ipv6-encap",
        (1, 133) => "ipv4-flowspec",
        (1, 134) => "l3vpn-ipv4-flowspec",
        (2, 133) => "ipv6-flowspec",
        (2, 134) => "l3vpn-ipv6-flowspec",
        (25, 134) => "l2vpn-flowspec",
        (16397, 241) => "opaque",
        (16388, 71) => "ls",
        (1, 73) => "ipv4-srpolicy",
        (2, 73) => "ipv6-srpolicy",
        (1, 85) => "ipv4-mup",
        (2, 85) => "ipv6-mup",
        (afi, safi) => return format!("UnknownRouteFamily(AFI: {afi}, SAFI: {safi})"),
    };
    name.to_owned()
}

/// A family as a message of its own is printed.
pub(super) fn family_message(family: m::Family) -> String {
    let afi = match family.afi {
        1 => "AFI_IP".to_owned(),
        2 => "AFI_IP6".to_owned(),
        other => other.to_string(),
    };
    let safi = if family.safi == 1 { "SAFI_UNICAST".to_owned() } else { family.safi.to_string() };
    format!("afi:{afi}{FAMILY_GAP}safi:{safi}")
}

/// Between the fields of a printed message. Debian's 3.10 has one; other builds may have two.
const FAMILY_GAP: &str = " ";

fn capability_name(code: u8) -> String {
    let name = match code {
        1 => "multiprotocol",
        2 => "route-refresh",
        4 => "carrying-label-info",
        5 => "extended-nexthop",
        64 => "graceful-restart",
        65 => "4-octet-as",
        69 => "add-path",
        70 => "enhanced-route-refresh",
        71 => "long-lived-graceful-restart",
        73 => "fqdn",
        128 => "cisco-route-refresh",
        _ => return format!("UnknownCapability({code})"),
    };
    name.to_owned()
}

fn same(a: &Told, b: &Told) -> bool {
    match (&a.detail, &b.detail) {
        (Detail::Multiprotocol(a), Detail::Multiprotocol(b)) => a == b,
        _ => a.code == b.code,
    }
}

fn capabilities(local: &[Told], remote: &[Told], out: &mut String) {
    let mut all: Vec<&Told> = local.iter().collect();
    for theirs in remote {
        if !all.iter().any(|known| same(known, theirs)) {
            all.push(theirs);
        }
    }
    all.sort_by_key(|capability| capability.code);
    let mut multiprotocol = false;
    for capability in all {
        let ours = local.iter().find(|one| same(one, capability));
        let theirs = remote.iter().find(|one| same(one, capability));
        let support = match (ours, theirs) {
            (Some(_), Some(_)) => "advertised and received",
            (Some(_), None) => "advertised",
            _ => "received",
        };
        let name = capability_name(capability.code);
        if let Detail::Multiprotocol(family) = capability.detail {
            if !multiprotocol {
                put!(out, "    {name}:\n");
                multiprotocol = true;
            }
            put!(out, "        {}:\t{support}\n", family_name(family));
            continue;
        }
        put!(out, "    {name}:\t{support}\n");
        for (side, one) in [("Local", ours), ("Remote", theirs)] {
            if let Some(one) = one {
                detail(side, &one.detail, out);
            }
        }
    }
}

fn detail(side: &str, detail: &Detail, out: &mut String) {
    match detail {
        Detail::Restart(flags, time, families) => restart_detail(side, *flags, *time, families, out),
        Detail::NextHop(families) if !families.is_empty() => {
            let line = |(routes, hop): &(m::Family, i32)| {
                let hop = match hop {
                    1 => "ipv4".to_owned(),
                    2 => "ipv6".to_owned(),
                    other => other.to_string(),
                };
                format!("nlri: {}, nexthop: {hop}", family_name(*routes))
            };
            let lines: Vec<String> = families.iter().map(line).collect();
            let colon = format!("{side}:");
            put!(out, "        {colon:<7} {}\n", lines.join("\n"));
        }
        Detail::LongLived(families) if !families.is_empty() => {
            put!(out, "        {side}:\n");
            for (family, flags, time) in families {
                let kept = if *flags == 0x80 { ", forward flag set" } else { "" };
                put!(out, "\t    {}, restart time {time} sec{kept}\n", family_name(*family));
            }
        }
        Detail::AddPath(families) => {
            put!(out, "      {side}:\n");
            for (family, mode) in families {
                let mode = match mode {
                    0 => "none".to_owned(),
                    1 => "receive".to_owned(),
                    2 => "send".to_owned(),
                    3 => "receive/send".to_owned(),
                    other => format!("unknown({other})"),
                };
                put!(out, "         {}:\t{mode}\n", family_name(*family));
            }
        }
        Detail::Fqdn(host, domain) => {
            put!(out, "      {side}:\n         name: {host}, domain: {domain}\n");
        }
        _ => {}
    }
}

fn restart_detail(side: &str, flags: u32, time: u32, families: &[(m::Family, u32)], out: &mut String) {
    let mut words = Vec::new();
    if !families.is_empty() {
        words.push(format!("restart time {time} sec"));
    }
    if flags & 8 != 0 {
        words.push("restart flag set".to_owned());
    }
    if flags & 4 != 0 {
        words.push("notification flag set".to_owned());
    }
    if words.is_empty() {
        return;
    }
    put!(out, "        {side}: {}\n", words.join(", "));
    for (family, flags) in families {
        let kept = if *flags == 0x80 { ", forward flag set" } else { "" };
        put!(out, "\t    {}{kept}\n", family_name(*family));
    }
}

/// `gobgp global`. The line about several paths has no end, as in gobgp.
pub fn global(global: &m::Global) -> String {
    let mut out = format!("AS:        {}\nRouter-ID: {}\n", global.asn, global.router_id);
    if !global.listen_addresses.is_empty() {
        let addresses = global.listen_addresses.join(", ");
        put!(out, "Listening Port: {}, Addresses: {addresses}\n", global.listen_port);
    }
    if global.use_multiple_paths {
        out.push_str("Multipath: enabled");
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

/// A table of routes, in the order given.
pub fn routes(rows: &[(&m::Path, Shown)], view: View, now: Duration) -> String {
    let width = |of: fn(&Shown) -> usize| rows.iter().map(|(_, shown)| of(shown)).fold(20, usize::max);
    let (networks, hops) = (width(|shown| shown.network.len()), width(|shown| shown.next_hop.len()));
    let paths = width(|shown| shown.as_path.len());
    let mut out = String::with_capacity(rows.len().saturating_mul(100));
    put!(out, "   ");
    if view != View::Global {
        put!(out, "{:<3} ", "ID");
    }
    put!(out, "{:<networks$} {:<hops$} {:<paths$} ", "Network", "Next Hop", "AS_PATH");
    if view != View::AdjOut {
        put!(out, "{:<10} ", "Age");
    }
    out.push_str("Attrs\n");
    for (path, shown) in rows {
        put!(out, "{:<3}", symbols(path, view));
        match view {
            View::Global => {}
            View::AdjIn => {
                put!(out, "{:<3} ", path.identifier);
            }
            View::AdjOut => {
                put!(out, "{:<3} ", path.local_identifier);
            }
        }
        put!(out, "{:<networks$} {:<hops$} {:<paths$} ", shown.network, shown.next_hop, shown.as_path);
        if view != View::AdjOut {
            put!(out, "{:<10} ", ago(now, path.age.as_ref().map_or(0, |age| age.seconds)));
        }
        put!(out, "{}\n", shown.attributes);
    }
    out
}

fn symbols(path: &m::Path, view: View) -> String {
    let stale = if path.stale { "S" } else { "" };
    let validity = match path.validation.as_ref().map_or(0, |validation| validation.state) {
        1 => "N",
        2 => "V",
        3 => "I",
        _ => "",
    };
    let best = match (view, path.best && !path.is_nexthop_invalid) {
        (View::Global, true) => "*>",
        (View::Global, false) => "* ",
        _ => "",
    };
    format!("{stale}{validity}{best}")
}

/// `summary` of a table.
pub fn summary(family: m::Family, info: &m::GetTableResponse) -> String {
    let family = family_message(family);
    format!("Table {family}\nDestination: {}, Path: {}\n", info.num_destination, info.num_path)
}

/// A line of `gobgp monitor` about a route. The caller puts its clock in front.
pub fn monitor_route(path: &m::Path, shown: &Shown) -> String {
    let word = if path.is_withdraw { "DELROUTE" } else { "ROUTE" };
    let Shown { network, next_hop, as_path, attributes } = shown;
    format!("[{word}] {network} via {next_hop} aspath [{as_path}] attrs {attributes}\n")
}

/// A line of `gobgp monitor` about a peer, likewise.
pub fn monitor_peer(peer: &m::Peer) -> String {
    let p = parts(peer);
    let mut name = p.conf.neighbor_address.clone();
    if !p.conf.neighbor_interface.is_empty() {
        put!(name, "({})", p.conf.neighbor_interface);
    }
    let admin = match p.state.admin_state {
        0 => "UP",
        1 => "DOWN",
        _ => "PFX_CT",
    };
    format!("[NEIGH] {name} fsm: {} admin: {admin}\n", session_name(p.state.session_state))
}
