//! BIRD 1.6 and 2: configuration files, `birdc`.

use std::fmt::Write;
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use ferrovia::net::Family;

use super::program;
use crate::describe::{Distance, Kind, Originated, Route, Router, Session, State};
use crate::lab::{Running, SOON};

pub(crate) fn launch(running: &mut Running) -> Result<()> {
    let conf = running.write("bird.conf", &configuration(running.kind, &running.router))?;
    launch_file(running, &conf.display().to_string())
}

/// Starts it with a file as an operator wrote it.
pub(crate) fn launch_file(running: &mut Running, conf: &str) -> Result<()> {
    let control = running.path("bird.ctl");
    drop(std::fs::remove_file(&control));
    let name = if is_bird6(running.kind, &running.router) { "bird6" } else { "bird" };
    let mut arguments = vec!["-f", "-c", conf, "-s", &control];
    if running.router.restarted {
        arguments.push("-R");
    }
    running.spawn(&program(running.kind, name)?, &arguments)?;
    running.until("BIRD answers", SOON, |running| birdc(running, "show status")).map(drop)
}

/// BIRD 1.6 has a program of its own for IPv6.
fn is_bird6(kind: Kind, router: &Router) -> bool {
    kind == Kind::Bird1 && router.sessions.first().is_some_and(|session| session.remote.is_ipv6())
}

pub(crate) fn birdc(running: &Running, words: &str) -> Result<String> {
    // Both control programs speak to both daemons' sockets of their version.
    let mut line = vec![program(running.kind, "birdc")?, "-s".into(), running.path("bird.ctl")];
    line.extend(words.split(' ').map(str::to_owned));
    running.tool(&line.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(crate) fn reload(running: &Running) -> Result<()> {
    running.write("bird.conf", &configuration(running.kind, &running.router))?;
    birdc(running, "configure").map(drop)
}

pub(crate) fn configuration(kind: Kind, router: &Router) -> String {
    let two = kind == Kind::Bird2;
    let v6 = is_bird6(kind, router);
    let mut text = format!("log stderr all;\nrouter id {};\ndebug protocols {{ states, events }};\n", router.id);
    if !two && router.port != 179 {
        let _ = writeln!(text, "listen bgp port {};", router.port);
    }
    text += "protocol device { }\n";
    text += if two { "protocol direct { ipv4; ipv6; }\n" } else { "protocol direct { }\n" };
    if router.sessions.iter().any(|session| session.bfd) {
        text += "protocol bfd { interface \"*\" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; \
                 multihop { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }\n";
    }
    let routes: Vec<_> = router.routes.iter().filter(|route| two || (route.family() == Family::V6) == v6).collect();
    for (n, route) in routes.iter().enumerate() {
        let channel = if two { format!("{}; ", channel(route.family())) } else { String::new() };
        let _ = writeln!(text, "protocol static own{n} {{ {channel}route {} blackhole; }}", route.prefix);
    }
    text += "filter wanted {\n  if proto ~ \"own*\" then {\n";
    for (n, route) in routes.iter().enumerate() {
        let _ = writeln!(text, "    if proto = \"own{n}\" then {{ {}}}", attributes(route));
    }
    text += "    accept;\n  }\n  if source = RTS_BGP then accept;\n  reject;\n}\n";
    for (n, session) in router.sessions.iter().enumerate() {
        text += &protocol(two, router, n, session);
    }
    text
}

fn attributes(route: &Originated) -> String {
    let mut text = String::new();
    if let Some(next_hop) = route.next_hop {
        let _ = write!(text, "bgp_next_hop = {next_hop}; ");
    }
    if let Some(med) = route.med {
        let _ = write!(text, "bgp_med = {med}; ");
    }
    if let Some(preference) = route.local_pref {
        let _ = write!(text, "bgp_local_pref = {preference}; ");
    }
    for (high, low) in &route.communities {
        let _ = write!(text, "bgp_community.add(({high},{low})); ");
    }
    for (a, b, c) in &route.large {
        let _ = write!(text, "bgp_large_community.add(({a},{b},{c})); ");
    }
    for (asn, value) in &route.targets {
        let _ = write!(text, "bgp_ext_community.add((rt,{asn},{value})); ");
    }
    for asn in route.prepend.iter().rev() {
        let _ = write!(text, "bgp_path.prepend({asn}); ");
    }
    text
}

fn channel(family: Family) -> &'static str {
    if family == Family::V4 { "ipv4" } else { "ipv6" }
}

fn protocol(two: bool, router: &Router, n: usize, session: &Session) -> String {
    let mut text = format!("protocol bgp peer{n} {{\n");
    let mut line = |words: String| {
        let _ = writeln!(text, "  {words};");
    };
    if two {
        line(format!("local {} port {} as {}", session.local, router.port, session.local_asn));
        match session.range {
            Some(range) => {
                line(format!("neighbor range {range} as {}", session.remote_asn));
                line(format!("dynamic name \"peer{n}_\""));
            }
            None => line(format!("neighbor {} port {} as {}", session.remote, session.port, session.remote_asn)),
        }
    } else {
        line(format!("local as {}", session.local_asn));
        line(format!("source address {}", session.local));
        line(format!("neighbor {} port {} as {}", session.remote, session.port, session.remote_asn));
    }
    line(format!("hold time {}", session.hold));
    line("connect delay time 1; connect retry time 1; error wait time 1, 2".into());
    match session.distance {
        Distance::Link => line("direct".into()),
        Distance::Multihop(hops) => line(format!("multihop {hops}")),
        Distance::Security => line("direct; ttl security on".into()),
    }
    if session.passive {
        line(if two { "passive on".into() } else { "passive".into() });
    }
    if let Some(password) = &session.password {
        line(format!("password \"{password}\""));
    }
    match session.graceful {
        Some(seconds) => line(format!("graceful restart on; graceful restart time {seconds}")),
        None => line("graceful restart off".into()),
    }
    match session.long_lived {
        Some(seconds) => line(format!("long lived graceful restart on; long lived stale time {seconds}")),
        None => line("long lived graceful restart off".into()),
    }
    if session.extended_messages {
        line("enable extended messages on".into());
    }
    if session.client {
        line("rr client".into());
    }
    if session.bfd {
        line("bfd on".into());
    }
    let paths = match (session.add_path_receive, session.add_path_send) {
        (true, true) => "add paths on; ",
        (true, false) => "add paths rx; ",
        (false, true) => "add paths tx; ",
        (false, false) => "",
    };
    let next_hop = if session.next_hop_self { "next hop self; " } else { "" };
    let body = format!("import all; export filter wanted; {paths}{next_hop}");
    if !two {
        line(format!("{}{}", body.trim_end().trim_end_matches(';'), ""));
        return text + "}\n";
    }
    for family in &session.families {
        let mut body = body.clone();
        if *family == Family::V4 && session.extended_next_hop {
            body += "extended next hop on; ";
        }
        if *family == Family::V6
            && let Some(next_hop) = session.next_hop_v6
        {
            let _ = write!(body, "next hop address {next_hop}; ");
        }
        line(format!("{} {{ {body}}}", channel(*family)));
    }
    text + "}\n"
}

pub(crate) fn state(running: &Running, session: usize) -> Result<State> {
    let dynamic = running.router.sessions.get(session).is_some_and(|session| session.range.is_some());
    let name = if dynamic { format!("\"peer{session}_*\"") } else { format!("peer{session}") };
    let mut state = read_state(&birdc(running, &format!("show protocols all {name}"))?);
    // The time it prints is worked out anew each time, and may differ by a millisecond: its log counts instead.
    let log = std::fs::read_to_string(running.path("bird.log")).unwrap_or_default();
    let ours = |line: &&str| line.contains(&format!(" peer{session}")) && line.contains("BGP session established");
    state.epoch = log.lines().filter(ours).count().to_string();
    Ok(state)
}

pub(crate) fn read_state(text: &str) -> State {
    let first = text.lines().find(|line| line.split_whitespace().nth(1) == Some("BGP"));
    let words: Vec<&str> = first.unwrap_or_default().split_whitespace().collect();
    let up = words.contains(&"Established");
    let hold = text.lines().find_map(|line| line.trim().strip_prefix("Hold timer:"));
    let hold = hold.and_then(|value| value.trim().split('/').nth(1)?.parse().ok());
    State { up, hold, epoch: String::new(), text: text.to_owned() }
}

pub(crate) fn routes(running: &Running, family: Family) -> Result<Vec<Route>> {
    let text = birdc(running, "show route all")?;
    let mut all = read_routes(&text).with_context(|| format!("read:\n{text}"))?;
    all.retain(|route| route.prefix.contains(':') == (family == Family::V6));
    Ok(all)
}

/// The learned routes of `show route all`, as both versions print it.
pub(crate) fn read_routes(text: &str) -> Result<Vec<Route>> {
    let mut all: Vec<Route> = Vec::new();
    let mut prefix = String::new();
    let mut learned = false;
    for line in text.lines() {
        if let Some(attribute) = line.strip_prefix('\t') {
            if learned && let (Some(route), Some((name, value))) = (all.last_mut(), attribute.split_once(':')) {
                read_attribute(route, name.trim(), value.trim())?;
            }
            continue;
        }
        let Some((before, rest)) = line.split_once('[') else { continue };
        let Some((inside, after)) = rest.split_once(']') else { continue };
        if !before.starts_with(' ') {
            prefix = before.split_whitespace().next().unwrap_or_default().to_owned();
        }
        learned = inside.starts_with("peer") || inside.starts_with("mymaster") || inside.starts_with("node");
        if learned {
            let preference = after.split('(').nth(1).unwrap_or_default().split(')').next().unwrap_or_default();
            all.push(Route {
                prefix: prefix.clone(),
                best: after.trim_start().starts_with('*'),
                stale: preference.contains('s'),
                from: inside.split(" from ").nth(1).and_then(|address| address.parse().ok()),
                ..Route::default()
            });
        }
    }
    Ok(all)
}

fn read_attribute(route: &mut Route, name: &str, value: &str) -> Result<()> {
    // `(1,2) (3,4)` and `(rt, 1, 2) (rt, 3, 4)` alike.
    let tuples = || {
        let mut all: Vec<String> = value
            .split('(')
            .filter_map(|piece| piece.split(')').next())
            .map(|piece| piece.split(',').map(str::trim).collect::<Vec<_>>().join(":"))
            .filter(|piece| !piece.is_empty())
            .collect();
        all.sort();
        all
    };
    let addresses = || value.split_whitespace().filter_map(|word| word.parse::<IpAddr>().ok());
    match name {
        "BGP.as_path" => {
            let numbers = value.split_whitespace().map(str::parse);
            route.as_path = numbers.collect::<Result<_, _>>().map_err(|_| anyhow!("AS path {value}"))?;
        }
        "BGP.next_hop" => route.next_hop = addresses().next(),
        "BGP.med" => route.med = value.parse().ok(),
        "BGP.local_pref" => route.local_pref = value.parse().ok(),
        "BGP.community" => route.communities = tuples(),
        "BGP.large_community" => route.large = tuples(),
        "BGP.ext_community" => route.targets = tuples(),
        "BGP.originator_id" => route.originator = addresses().next(),
        "BGP.cluster_list" => route.clusters = addresses().collect(),
        _ => {}
    }
    Ok(())
}

#[test]
fn reads_what_bird_prints() {
    let text = "Table master4:\n\
        192.0.2.0/24         blackhole [own0 17:39:30.518] * (200)\n\tType: static univ\n\
        100.64.0.0/24        unicast [peer1 17:39:35.068] * (100) [AS65005?]\n\tvia 10.77.0.5 on eth0\n\t\
        BGP.as_path: 65005 65090\n\tBGP.next_hop: 10.77.0.5\n\tBGP.med: 11\n\tBGP.ext_community: (rt, 65002, 7)\n\
        \x20                    unicast [peer0 17:39:34.983 from 10.77.0.9] (100) [AS65090?]\n\tvia 10.77.0.5 on eth0\n\t\
        BGP.community: (65005,2) (65005,1)\n";
    let all = read_routes(text).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!((all[0].as_path.as_slice(), all[0].med, all[0].best), ([65005, 65090].as_slice(), Some(11), true));
    assert_eq!(all[0].targets, ["rt:65002:7"]);
    assert_eq!((all[1].prefix.as_str(), all[1].best), ("100.64.0.0/24", false));
    assert_eq!(all[1].communities, ["65005:1", "65005:2"]);
    assert_eq!(all[1].from, Some("10.77.0.9".parse().unwrap()));
}
