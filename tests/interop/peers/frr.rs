//! FRR: `zebra`, `bgpd`, `bfdd` and `vtysh`.

use std::fmt::Write;
use std::net::IpAddr;

use anyhow::{Result, anyhow, bail};
use ferrovia::net::Family;
use serde_json::Value;

use super::program;
use crate::describe::{Distance, Kind, Originated, Route, Router, Session, State};
use crate::lab::{Running, SOON};

pub(crate) fn launch(running: &mut Running) -> Result<()> {
    // A second path for a prefix comes out of the kernel's table: `network` makes one only.
    for route in further(&running.router) {
        let next_hop = route.next_hop.ok_or_else(|| anyhow!("FRR has one path of its own for {}", route.prefix))?;
        running.ns.ip(&format!("route replace {} via {next_hop}\n", route.prefix))?;
    }
    running.write("zebra.conf", "log stdout\n")?;
    running.write("bfdd.conf", "log stdout\nbfd\n profile fast\n  receive-interval 100\n  transmit-interval 100\n")?;
    running.write("bgpd.conf", &configuration(&running.router))?;
    for name in ["zserv.api", "zebra.vty", "bgpd.vty", "bfdd.vty"] {
        drop(std::fs::remove_file(running.directory.join(name)));
    }
    let bfd = running.router.sessions.iter().any(|session| session.bfd);
    start(running, "zebra", &[])?;
    if bfd {
        let socket = running.path("bfdd.sock");
        start(running, "bfdd", &["--bfdctl", &socket])?;
    }
    let port = running.router.port.to_string();
    start(running, "bgpd", &["-p", &port])
}

fn start(running: &mut Running, name: &str, more: &[&str]) -> Result<()> {
    let conf = running.path(&format!("{name}.conf"));
    let pid = running.path(&format!("{name}.pid"));
    let (socket, directory) = (running.path("zserv.api"), running.directory.display().to_string());
    let mut arguments = vec!["-f", &conf, "-i", &pid, "-z", &socket, "--vty_socket", &directory, "-P", "0"];
    arguments.extend(more);
    running.spawn(&program(Kind::Frr, name)?, &arguments)?;
    let socket = running.directory.join(format!("{name}.vty"));
    running.until(&format!("{name} answers"), SOON, |_| socket.exists().then_some(()).ok_or_else(|| anyhow!("not yet")))
}

pub(crate) fn vtysh(running: &Running, commands: &[&str]) -> Result<String> {
    let mut line = vec![program(Kind::Frr, "vtysh")?, "--vty_socket".into(), running.directory.display().to_string()];
    for command in commands {
        line.extend(["-c".to_owned(), (*command).to_owned()]);
    }
    running.tool(&line.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Routes after the first of the same prefix.
fn further(router: &Router) -> Vec<&Originated> {
    let routes = router.routes.iter().enumerate();
    let again = routes.filter(|(n, route)| router.routes.iter().take(*n).any(|other| other.prefix == route.prefix));
    again.map(|(_, route)| route).collect()
}

fn configuration(router: &Router) -> String {
    let mut text = String::from("log stdout\ndebug bgp neighbor-events\n");
    let mut maps = String::new();
    let _ = writeln!(text, "router bgp {}\n bgp router-id {}", router.asn, router.id);
    text += " no bgp ebgp-requires-policy\n no bgp network import-check\n no bgp default ipv4-unicast\n";
    if let Some(seconds) = router.sessions.iter().find_map(|session| session.graceful) {
        let _ = writeln!(text, " bgp graceful-restart\n bgp graceful-restart restart-time {seconds}");
        text += " bgp graceful-restart preserve-fw-state\n bgp graceful-restart select-defer-time 5\n";
    }
    if let Some(seconds) = router.sessions.iter().find_map(|session| session.long_lived) {
        let _ = writeln!(text, " bgp long-lived-graceful-restart stale-time {seconds}");
    }
    for (n, session) in router.sessions.iter().enumerate() {
        text += &neighbor(router, n, session);
    }
    for family in Family::ALL {
        let _ = writeln!(text, " address-family {family} unicast");
        for (n, session) in router.sessions.iter().enumerate().filter(|(_, s)| s.families.contains(&family)) {
            let name = name(n, session);
            let _ = writeln!(text, "  neighbor {name} activate");
            if session.add_path_send {
                let _ = writeln!(text, "  neighbor {name} addpath-tx-all-paths");
            }
            if session.client {
                let _ = writeln!(text, "  neighbor {name} route-reflector-client");
            }
            if session.next_hop_self {
                let _ = writeln!(text, "  neighbor {name} next-hop-self");
            }
        }
        let more = further(router);
        for route in router.routes.iter().filter(|r| r.family() == family && !more.iter().any(|m| std::ptr::eq(*m, *r)))
        {
            let _ = writeln!(text, "  {}", network(route));
            maps += &route_map(route);
        }
        if more.iter().any(|route| route.family() == family) {
            text += "  redistribute kernel\n";
        }
        text += " exit-address-family\n";
    }
    text + "exit\n" + &maps
}

fn name(n: usize, session: &Session) -> String {
    if session.range.is_some() { format!("group{n}") } else { session.remote.to_string() }
}

fn neighbor(router: &Router, n: usize, session: &Session) -> String {
    let name = name(n, session);
    let mut text = String::new();
    if let Some(range) = session.range {
        let _ = writeln!(text, " neighbor {name} peer-group");
        let _ = writeln!(text, " neighbor {name} remote-as {}", session.remote_asn);
        let _ = writeln!(text, " bgp listen range {range} peer-group {name}");
    } else {
        let _ = writeln!(text, " neighbor {name} remote-as {}", session.remote_asn);
    }
    let mut line = |words: String| {
        let _ = writeln!(text, " neighbor {name} {words}");
    };
    if session.local_asn != router.asn {
        line(format!("local-as {} no-prepend replace-as", session.local_asn));
    }
    if session.port != 179 {
        line(format!("port {}", session.port));
    }
    if session.passive {
        line("passive".into());
    }
    line(format!("timers {} {}", session.hold / 3, session.hold));
    line("timers connect 1".into());
    line("advertisement-interval 0".into());
    if let Some(password) = &session.password {
        line(format!("password {password}"));
    }
    match session.distance {
        Distance::Link => {}
        Distance::Multihop(hops) => {
            if session.local_asn != session.remote_asn {
                line(format!("ebgp-multihop {hops}"));
            }
            line(format!("update-source {}", session.local));
        }
        Distance::Security => line("ttl-security hops 1".into()),
    }
    if session.extended_next_hop {
        line("capability extended-nexthop".into());
    }
    if session.bfd {
        line("bfd".into());
        line("bfd profile fast".into());
    }
    text
}

/// The name of a route's map.
fn map_name(route: &Originated) -> String {
    format!("M{}", route.prefix).replace(['/', '.', ':'], "_")
}

fn network(route: &Originated) -> String {
    match route.is_plain() {
        true => format!("network {}", route.prefix),
        false => format!("network {} route-map {}", route.prefix, map_name(route)),
    }
}

fn route_map(route: &Originated) -> String {
    if route.is_plain() {
        return String::new();
    }
    let mut text = format!("route-map {} permit 10\n", map_name(route));
    let mut set = |words: String| {
        let _ = writeln!(text, " set {words}");
    };
    match (route.next_hop, route.family()) {
        (None, _) => {}
        (Some(next_hop), Family::V4) => set(format!("ip next-hop {next_hop}")),
        (Some(next_hop), Family::V6) => set(format!("ipv6 next-hop global {next_hop}")),
    }
    if let Some(med) = route.med {
        set(format!("metric {med}"));
    }
    if let Some(preference) = route.local_pref {
        set(format!("local-preference {preference}"));
    }
    let join = |all: Vec<String>| all.join(" ");
    if !route.large.is_empty() {
        set(format!("large-community {}", join(route.large.iter().map(|(a, b, c)| format!("{a}:{b}:{c}")).collect())));
    }
    if !route.targets.is_empty() {
        set(format!("extcommunity rt {}", join(route.targets.iter().map(|(a, b)| format!("{a}:{b}")).collect())));
    }
    if !route.prepend.is_empty() {
        set(format!("as-path prepend {}", join(route.prepend.iter().map(u32::to_string).collect())));
    }
    // A line of the configuration holds so many communities only.
    let mut some = route.communities.chunks(200).enumerate();
    if let Some((_, first)) = some.next() {
        let _ = writeln!(text, " set community {}", communities(first));
    }
    for (n, more) in some {
        let number = 10 * (n + 1);
        let _ = writeln!(text, " on-match next\nroute-map {} permit {number}", map_name(route));
        let _ = writeln!(text, " set community {} additive", communities(more));
    }
    text + "exit\n"
}

fn communities(some: &[(u16, u16)]) -> String {
    some.iter().map(|(high, low)| format!("{high}:{low}")).collect::<Vec<_>>().join(" ")
}

pub(crate) fn announce(running: &Running, route: &Originated) -> Result<()> {
    change(running, route, "")
}

pub(crate) fn withdraw(running: &Running, route: &Originated) -> Result<()> {
    let all = &running.router.routes;
    if all.iter().any(|other| other.prefix == route.prefix) {
        bail!("FRR cannot withdraw one of several paths here");
    }
    change(running, route, "no ")
}

fn change(running: &Running, route: &Originated, no: &str) -> Result<()> {
    let map = if no.is_empty() { route_map(route) } else { String::new() };
    let router = format!("router bgp {}", running.router.asn);
    let family = format!("address-family {} unicast", route.family());
    let network =
        format!("{no}network {}{}", route.prefix, if no.is_empty() { network_map(route) } else { String::new() });
    let mut lines = vec!["configure terminal"];
    lines.extend(map.lines());
    lines.extend([router.as_str(), &family, &network]);
    vtysh(running, &lines).map(drop)
}

fn network_map(route: &Originated) -> String {
    if route.is_plain() { String::new() } else { format!(" route-map {}", map_name(route)) }
}

pub(crate) fn state(running: &Running, session: usize) -> Result<State> {
    let remote = running.router.sessions.get(session).ok_or_else(|| anyhow!("no session {session}"))?.remote;
    let text = vtysh(running, &[&format!("show bgp neighbors {remote} json")])?;
    let value: Value = serde_json::from_str(&text)?;
    let neighbor = &value[remote.to_string()];
    Ok(State {
        up: neighbor["bgpState"] == "Established",
        hold: neighbor["bgpTimerHoldTimeMsecs"].as_u64().map(|milliseconds| milliseconds / 1000),
        epoch: format!("{} {}", neighbor["connectionsEstablished"], neighbor["connectionsDropped"]),
        text,
    })
}

pub(crate) fn routes(running: &Running, family: Family) -> Result<Vec<Route>> {
    let table: Value = serde_json::from_str(&vtysh(running, &[&format!("show bgp {family} unicast json")])?)?;
    let mut all = Vec::new();
    for prefix in table["routes"].as_object().into_iter().flatten().map(|(prefix, _)| prefix) {
        let text = vtysh(running, &[&format!("show bgp {family} unicast {prefix} json")])?;
        let value: Value = serde_json::from_str(&text)?;
        let paths = value["paths"].as_array().into_iter().flatten();
        all.extend(paths.filter_map(|path| read_path(prefix, path)));
    }
    Ok(all)
}

/// A path of `show bgp … PREFIX json`; `None` for own routes.
fn read_path(prefix: &str, path: &Value) -> Option<Route> {
    let from: IpAddr = path["peer"]["peerId"].as_str()?.parse().ok()?;
    if from.is_unspecified() {
        return None;
    }
    let words = |value: &Value| -> Vec<String> {
        let text = value["string"].as_str().unwrap_or_default();
        let mut all: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        all.sort();
        all
    };
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let segments = path["aspath"]["segments"].as_array().into_iter().flatten();
    let numbers = segments.flat_map(|segment| segment["list"].as_array().into_iter().flatten());
    let hops = path["nexthops"].as_array().into_iter().flatten();
    Some(Route {
        prefix: prefix.to_owned(),
        next_hop: hops.filter_map(|hop| hop["ip"].as_str()?.parse().ok()).next(),
        as_path: numbers.filter_map(number).collect(),
        med: number(&path["metric"]),
        local_pref: number(&path["locPrf"]),
        communities: words(&path["community"]).into_iter().map(|word| known(&word)).collect(),
        large: words(&path["largeCommunity"]),
        targets: words(&path["extendedCommunity"]).iter().map(|word| word.to_lowercase()).collect(),
        originator: path["originatorId"].as_str().and_then(|text| text.parse().ok()),
        clusters: path["clusterList"]["list"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|id| id.as_str()?.parse().ok())
            .collect(),
        best: path["bestpath"]["overall"] == true,
        stale: path["stale"] == true || path["llgrStale"] == true,
        from: Some(from),
    })
}

/// FRR prints well-known communities by name.
fn known(word: &str) -> String {
    match word {
        "graceful-shutdown" => "65535:0".into(),
        "llgr-stale" => "65535:6".into(),
        "no-export" => "65535:65281".into(),
        other => other.into(),
    }
}
