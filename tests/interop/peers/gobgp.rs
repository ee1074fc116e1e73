//! GoBGP 3 and 4: configuration, `gobgp`. Our speaker is asked with the same client.

use std::fmt::Write;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow, bail};
use ferrovia::net::Family;
use serde_json::Value;

use super::program;
use crate::describe::{Distance, Kind, Originated, Route, Router, Session, State};
use crate::lab::{Running, SOON};

pub(crate) fn launch(running: &mut Running) -> Result<()> {
    let conf = running.write("gobgpd.conf", &configuration(&running.router))?;
    let conf = conf.display().to_string();
    let mut arguments = vec!["-t", "toml", "-f", &conf];
    if running.router.restarted {
        arguments.push("-r");
    }
    running.spawn(&program(running.kind, "gobgpd")?, &arguments)?;
    running.until("gobgpd answers", SOON, |running| gobgp(running, &["global"]))?;
    for route in running.router.routes.clone() {
        announce(running, &route)?;
    }
    Ok(())
}

/// Runs the client; of Debian's version for our own speaker.
pub(crate) fn gobgp(running: &Running, words: &[&str]) -> Result<String> {
    let kind = if running.kind == Kind::Ours { Kind::Gobgp3 } else { running.kind };
    let client = program(kind, "gobgp")?;
    running.tool(&[&[client.as_str()], words].concat())
}

fn configuration(router: &Router) -> String {
    let mut text =
        format!("[global.config]\nas = {}\nrouter-id = \"{}\"\nport = {}\n", router.asn, router.id, router.port);
    for (n, session) in router.sessions.iter().enumerate() {
        text += &neighbor(n, session);
    }
    text
}

fn neighbor(n: usize, session: &Session) -> String {
    let mut text = String::new();
    let group = session.range.is_some();
    let table = if group { "peer-groups" } else { "neighbors" };
    let _ = writeln!(text, "[[{table}]]\n[{table}.config]\npeer-as = {}", session.remote_asn);
    if group {
        let _ = writeln!(text, "peer-group-name = \"group{n}\"");
    } else {
        let _ = writeln!(text, "neighbor-address = \"{}\"", session.remote);
    }
    let _ = writeln!(text, "local-as = {}", session.local_asn);
    if let Some(password) = &session.password {
        let _ = writeln!(text, "auth-password = \"{password}\"");
    }
    let _ = writeln!(text, "[{table}.transport.config]\npassive-mode = {}", session.passive || group);
    let _ = writeln!(text, "remote-port = {}\nlocal-address = \"{}\"", session.port, session.local);
    let _ = writeln!(
        text,
        "[{table}.timers.config]\nhold-time = {}\nkeepalive-interval = {}\nconnect-retry = 1\nidle-hold-time-after-reset = 1",
        session.hold,
        session.hold / 3
    );
    match session.distance {
        Distance::Link => {}
        Distance::Multihop(hops) => {
            let _ = writeln!(text, "[{table}.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = {hops}");
        }
        Distance::Security => {
            let _ = writeln!(text, "[{table}.ttl-security.config]\nenabled = true\nttl-min = 255");
        }
    }
    if let Some(seconds) = session.graceful {
        let long = session.long_lived.is_some();
        let _ = writeln!(
            text,
            "[{table}.graceful-restart.config]\nenabled = true\nrestart-time = {seconds}\nlong-lived-enabled = {long}\n\
             deferral-time = 3\nnotification-enabled = false"
        );
    }
    if session.bfd {
        let _ = writeln!(
            text,
            "[{table}.bfd.config]\nenabled = true\ndesired-minimum-tx-interval = 100000\n\
             required-minimum-receive = 100000\ndetection-multiplier = 3"
        );
    }
    if session.client {
        let _ = writeln!(text, "[{table}.route-reflector.config]\nroute-reflector-client = true");
    }
    for family in &session.families {
        let _ = writeln!(
            text,
            "[[{table}.afi-safis]]\n[{table}.afi-safis.config]\nafi-safi-name = \"{family}-unicast\"\n\
             [{table}.afi-safis.mp-graceful-restart.config]\nenabled = {}",
            session.graceful.is_some()
        );
        if let Some(seconds) = session.long_lived {
            let _ = writeln!(
                text,
                "[{table}.afi-safis.long-lived-graceful-restart.config]\nenabled = true\nrestart-time = {seconds}"
            );
        }
        let send = if session.add_path_send { 8 } else { 0 };
        let _ = writeln!(
            text,
            "[{table}.afi-safis.add-paths.config]\nreceive = {}\nsend-max = {send}",
            session.add_path_receive
        );
    }
    if let Some(range) = session.range {
        let _ = writeln!(
            text,
            "[[dynamic-neighbors]]\n[dynamic-neighbors.config]\nprefix = \"{range}\"\npeer-group = \"group{n}\""
        );
    }
    text
}

fn words(running: &Running, route: &Originated) -> Vec<String> {
    let mut words = vec!["-a".to_owned(), route.family().to_string(), route.prefix.to_string()];
    let before = running.router.routes.iter().take_while(|other| !same(other, route));
    let number = before.filter(|other| other.prefix == route.prefix).count();
    let mut pair = |name: &str, value: String| words.extend([name.to_owned(), value]);
    if number > 0 {
        pair("identifier", number.to_string());
    }
    if let Some(next_hop) = route.next_hop {
        pair("nexthop", next_hop.to_string());
    }
    pair("origin", "igp".into());
    if let Some(med) = route.med {
        pair("med", med.to_string());
    }
    if let Some(preference) = route.local_pref {
        pair("local-pref", preference.to_string());
    }
    if !route.communities.is_empty() {
        pair("community", route.communities.iter().map(|(a, b)| format!("{a}:{b}")).collect::<Vec<_>>().join(","));
    }
    if !route.large.is_empty() {
        pair(
            "large-community",
            route.large.iter().map(|(a, b, c)| format!("{a}:{b}:{c}")).collect::<Vec<_>>().join(","),
        );
    }
    if !route.targets.is_empty() {
        pair("rt", route.targets.iter().map(|(a, b)| format!("{a}:{b}")).collect::<Vec<_>>().join(","));
    }
    if !route.prepend.is_empty() {
        pair("aspath", route.prepend.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
    }
    words
}

fn same(a: &Originated, b: &Originated) -> bool {
    a.prefix == b.prefix && a.next_hop == b.next_hop
}

pub(crate) fn announce(running: &Running, route: &Originated) -> Result<()> {
    let words = words(running, route);
    let line: Vec<&str> = ["global", "rib", "add"].into_iter().chain(words.iter().map(String::as_str)).collect();
    gobgp(running, &line).map(drop)
}

/// Called when the route is no longer in the list: its place tells the identifier of the rest, not of itself.
pub(crate) fn withdraw(running: &Running, route: &Originated) -> Result<()> {
    if running.router.routes.iter().any(|other| other.prefix == route.prefix) {
        bail!("GoBGP cannot withdraw one of several paths here");
    }
    let prefix = route.prefix.to_string();
    gobgp(running, &["global", "rib", "del", "-a", &route.family().to_string(), &prefix]).map(drop)
}

pub(crate) fn state(running: &Running, session: usize) -> Result<State> {
    let remote = running.router.sessions.get(session).ok_or_else(|| anyhow!("no session {session}"))?.remote;
    let text = gobgp(running, &["-j", "neighbor", &remote.to_string()])?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("of {}: {text}", running.name))?;
    Ok(State {
        up: value["state"]["session_state"] == 6,
        hold: value["timers"]["state"]["negotiated_hold_time"].as_u64(),
        epoch: value["timers"]["state"]["uptime"]["seconds"].to_string(),
        text,
    })
}

pub(crate) fn routes(running: &Running, family: Family) -> Result<Vec<Route>> {
    let text = gobgp(running, &["-j", "global", "rib", "-a", &family.to_string()])?;
    if text.contains("not in table") || text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let table: Value = serde_json::from_str(&text).with_context(|| format!("of {}: {text}", running.name))?;
    let mut all = Vec::new();
    for (prefix, paths) in table.as_object().into_iter().flatten() {
        all.extend(paths.as_array().into_iter().flatten().filter_map(|path| read_path(prefix, path)));
    }
    Ok(all)
}

/// A path of `gobgp -j global rib`; `None` for own routes.
fn read_path(prefix: &str, path: &Value) -> Option<Route> {
    // The one name is of 3, the other of 4.
    let from = path["neighbor-ip"].as_str().or(path["peer-address"].as_str())?.parse().ok()?;
    let mut route =
        Route { prefix: prefix.to_owned(), from: Some(from), best: path["best"] == true, ..Route::default() };
    route.stale = path["stale"] == true;
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    for attribute in path["attrs"].as_array().into_iter().flatten() {
        let list = |name: &str| attribute[name].as_array().cloned().unwrap_or_default();
        match attribute["type"].as_u64() {
            Some(2) => {
                let segments = list("as_paths");
                let numbers = segments.iter().flat_map(|segment| segment["asns"].as_array().into_iter().flatten());
                route.as_path = numbers.filter_map(number).collect();
            }
            Some(3 | 14) => route.next_hop = attribute["nexthop"].as_str().and_then(|text| text.parse().ok()),
            Some(4) => route.med = number(&attribute["metric"]),
            Some(5) => route.local_pref = number(&attribute["value"]),
            Some(8) => {
                let all = list("communities");
                let numbers = all.iter().filter_map(number);
                route.communities = numbers.map(|value| format!("{}:{}", value >> 16, value & 0xffff)).collect();
                route.communities.sort();
            }
            Some(9) => route.originator = attribute["value"].as_str().and_then(|text| text.parse().ok()),
            Some(10) => {
                let all = list("value");
                route.clusters = all.iter().filter_map(|id| id.as_str()?.parse().ok()).collect();
            }
            Some(16) => {
                let all = list("value");
                let targets = all.iter().filter(|value| value["subtype"] == 2);
                route.targets = targets.filter_map(|value| Some(format!("rt:{}", value["value"].as_str()?))).collect();
                route.targets.sort();
            }
            Some(32) => {
                let all = list("value");
                let texts = all.iter().map(|v| format!("{}:{}:{}", v["ASN"], v["LocalData1"], v["LocalData2"]));
                route.large = texts.collect();
                route.large.sort();
            }
            _ => {}
        }
    }
    Some(route)
}

/// Keeps the type of an identifier in one place.
pub(crate) fn id(text: &str) -> Ipv4Addr {
    text.parse().expect("an identifier")
}
