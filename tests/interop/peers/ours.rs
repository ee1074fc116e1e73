//! Our speaker: the example `speaker`, configured by a file and asked by the client of GoBGP.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use ferrovia::net::Prefix;
use rustix::process::Signal;

use super::gobgp::gobgp;
use crate::describe::{Distance, Originated, Router, Session};
use crate::lab::{Running, SOON};

/// The program: `FERROVIA_SPEAKER`, else the example beside the running program.
pub(crate) fn speaker() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FERROVIA_SPEAKER") {
        return Ok(PathBuf::from(path));
    }
    let program = std::env::current_exe()?;
    let candidate = program.ancestors().nth(2).map(|directory| directory.join("examples/speaker"));
    candidate.filter(|path| path.is_file()).ok_or_else(|| anyhow!("no speaker: cargo build --example speaker"))
}

pub(crate) fn launch(running: &mut Running) -> Result<()> {
    let conf = running.write("speaker.conf", &configuration(&running.router))?;
    running.spawn(&speaker()?.display().to_string(), &[&conf.display().to_string()])?;
    running.until("the speaker answers", SOON, |running| gobgp(running, &["global"])).map(drop)
}

pub(crate) fn reload(running: &Running) -> Result<()> {
    running.write("speaker.conf", &configuration(&running.router))?;
    running.signal(Signal::HUP)
}

fn configuration(router: &Router) -> String {
    let mut text = format!("asn = {}\nrouter_id = \"{}\"\napi = \"127.0.0.1:50051\"\n", router.asn, router.id);
    let listen: BTreeSet<SocketAddr> = router.sessions.iter().map(|s| SocketAddr::new(s.local, router.port)).collect();
    let listen: Vec<String> = listen.iter().map(|address| format!("\"{address}\"")).collect();
    let _ = writeln!(text, "listen = [{}]\nstop_within = 5\ndeferral = 8", listen.join(", "));
    if router.restarted {
        text += "restarted = true\n";
    }
    for session in &router.sessions {
        text += &peer(session);
    }
    let mut done: Vec<Prefix> = Vec::new();
    for route in &router.routes {
        if !done.contains(&route.prefix) {
            done.push(route.prefix);
            text += &originated(router, route);
        }
    }
    text
}

fn peer(session: &Session) -> String {
    let mut text = String::from("[[peer]]\n");
    let _ = match session.range {
        Some(range) => writeln!(text, "prefix = \"{range}\""),
        None => writeln!(text, "address = \"{}\"", session.remote),
    };
    let families: Vec<String> = session.families.iter().map(|family| format!("\"{family}\"")).collect();
    let families = families.join(", ");
    let mut set = |name: &str, value: String| {
        let _ = writeln!(text, "{name} = {value}");
    };
    set("asn", session.remote_asn.to_string());
    set("local_asn", session.local_asn.to_string());
    set("local_address", format!("\"{}\"", session.local));
    set("port", session.port.to_string());
    set("passive", session.passive.to_string());
    set("families", format!("[{families}]"));
    set("hold_time", session.hold.to_string());
    if session.add_path_receive {
        set("add_path_receive", format!("[{families}]"));
    }
    if session.add_path_send {
        set("add_path_send", format!("[{families}]"));
    }
    set("extended_next_hop", session.extended_next_hop.to_string());
    if let Some(seconds) = session.graceful {
        set("restart_time", seconds.to_string());
        set("notification_restart", "false".into());
    }
    if let Some(seconds) = session.long_lived {
        set("long_lived", seconds.to_string());
    }
    if let Some(password) = &session.password {
        set("password", format!("\"{password}\""));
    }
    match session.distance {
        // An internal peer is as near as an external one, as on the other side.
        Distance::Link => set("ttl", "1".into()),
        Distance::Multihop(hops) => set("ttl", hops.to_string()),
        Distance::Security => set("gtsm", "1".into()),
    }
    set("client", session.client.to_string());
    set("next_hop_self", session.next_hop_self.to_string());
    if let Some(next_hop) = session.next_hop_v6 {
        set("next_hop_v6", format!("\"{next_hop}\""));
    }
    set("shared", "[\"10.77.0.0/24\", \"fd77::/64\"]".into());
    if session.bfd {
        set("bfd", "{ interval_ms = 100, multiplier = 3 }".into());
    }
    if let Some(words) = &session.shutdown {
        set("shutdown", format!("\"{words}\""));
    }
    text
}

/// One prefix with all its next hops; they have their other attributes in common.
fn originated(router: &Router, route: &Originated) -> String {
    let mut text = format!("[[route]]\nprefix = \"{}\"\n", route.prefix);
    let all = router.routes.iter().filter(|other| other.prefix == route.prefix);
    let hops: Vec<String> = all.filter_map(|other| other.next_hop).map(|hop| format!("\"{hop}\"")).collect();
    let quoted = |all: Vec<String>| all.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", ");
    let mut set = |name: &str, value: String| {
        let _ = writeln!(text, "{name} = {value}");
    };
    if !hops.is_empty() {
        set("next_hops", format!("[{}]", hops.join(", ")));
    }
    if let Some(med) = route.med {
        set("med", med.to_string());
    }
    if let Some(preference) = route.local_pref {
        set("local_pref", preference.to_string());
    }
    if !route.prepend.is_empty() {
        set("as_path", format!("{:?}", route.prepend));
    }
    if !route.communities.is_empty() {
        let words = route.communities.iter().map(|(a, b)| format!("{a}:{b}")).collect();
        set("communities", format!("[{}]", quoted(words)));
    }
    if !route.large.is_empty() {
        let words = route.large.iter().map(|(a, b, c)| format!("{a}:{b}:{c}")).collect();
        set("large_communities", format!("[{}]", quoted(words)));
    }
    if !route.targets.is_empty() {
        let words = route.targets.iter().map(|(a, b)| format!("rt:{a}:{b}")).collect();
        set("extended_communities", format!("[{}]", quoted(words)));
    }
    text
}
