//! What `ferrovia status` shows: values that travel as JSON over the admin socket.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A daemon's state at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// The node it runs on.
    pub node: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The features that run.
    pub features: Vec<String>,
    /// The newest snapshot of the cluster, 0 before the first.
    pub generation: u64,
    /// Each room.
    pub rooms: Vec<RoomStatus>,
    /// BGP peers, where the router runs.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
    /// Each watch.
    pub watches: Vec<WatchStatus>,
    /// What owners of objects should know.
    pub notices: Vec<String>,
    /// How far the node is out of traffic; `None` where no router runs.
    #[serde(default)]
    pub drain: Option<String>,
    /// How the CNI gate stands; `None` where none is asked for.
    #[serde(default)]
    pub cni_gate: Option<String>,
    /// Why it is unhealthy; empty when it is healthy.
    pub unhealthy: Vec<String>,
    /// Why the node is not ready; empty when it is.
    pub unready: Vec<String>,
}

/// A room's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomStatus {
    /// Its name.
    pub name: String,
    /// The newest snapshot in force.
    pub generation: u64,
    /// Passes so far.
    pub passes: u64,
    /// Differences found that somebody else made.
    pub drift: u64,
    /// Milliseconds from the arrival of the oldest event in the last new snapshot to the kernel's last answer.
    pub lag_ms: Option<u64>,
    /// Keys not in force, with the reason.
    pub failed: BTreeMap<String, String>,
}

/// A BGP peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its address.
    pub address: String,
    /// Its AS, where known.
    pub asn: Option<u32>,
    /// State of the session.
    pub state: String,
    /// Routes received from it, used, and sent to it.
    pub routes: (u64, u64, u64),
}

/// A watch's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// What it watches.
    pub kind: String,
    /// True once it saw all of it.
    pub in_sync: bool,
    /// How often it had to start over.
    pub restarts: u64,
}

/// How many keys and notices fit on one screen.
const LINES: usize = 10;

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes) = (self.uptime_seconds / 3600, self.uptime_seconds % 3600 / 60);
        writeln!(f, "ferrovia {} on {}, up {hours}h{minutes:02}m", self.version, self.node)?;
        writeln!(f, "features   {}", self.features.join(", "))?;
        verdict(f, "healthy", &self.unhealthy)?;
        verdict(f, "ready", &self.unready)?;
        writeln!(f, "snapshot   generation {}", self.generation)?;
        for room in &self.rooms {
            let lag = room.lag_ms.map_or_else(|| "unknown".to_owned(), |lag| format!("{lag} ms"));
            let (applied, behind) = (room.generation, self.generation.saturating_sub(room.generation));
            let behind = if behind == 0 { String::new() } else { format!(" ({behind} behind)") };
            writeln!(
                f,
                "{:<10} applied generation {applied}{behind}, {} passes, lag {lag}, drift {}, failed keys {}",
                room.name,
                room.passes,
                room.drift,
                room.failed.len()
            )?;
            short_list(f, room.failed.iter().map(|(key, reason)| format!("{key}: {reason}")))?;
        }
        let up = self.peers.iter().filter(|peer| peer.state == "established").count();
        if !self.peers.is_empty() {
            writeln!(f, "peers      {up} of {} established", self.peers.len())?;
        }
        short_list(
            f,
            self.peers.iter().map(|peer| {
                let asn = peer.asn.map_or_else(|| "unknown".to_owned(), |asn| asn.to_string());
                let (received, used, sent) = peer.routes;
                let (address, state) = (&peer.address, &peer.state);
                format!("{address} as {asn} {state}, {received} received, {used} used, {sent} sent")
            }),
        )?;
        for watch in &self.watches {
            let state = if watch.in_sync { "in sync" } else { "not in sync" };
            writeln!(f, "watch      {}: {state}, {} restarts", watch.kind, watch.restarts)?;
        }
        if let Some(drain) = &self.drain {
            writeln!(f, "traffic    {drain}")?;
        }
        if let Some(gate) = &self.cni_gate {
            writeln!(f, "cni gate   {gate}")?;
        }
        writeln!(f, "notices    {}", self.notices.len())?;
        short_list(f, self.notices.iter().cloned())
    }
}

fn verdict(f: &mut fmt::Formatter<'_>, word: &str, against: &[String]) -> fmt::Result {
    writeln!(f, "{word:<10} {}", if against.is_empty() { "yes" } else { "no" })?;
    short_list(f, against.iter().cloned())
}

/// The first lines of a list, and how many are left out.
fn short_list(f: &mut fmt::Formatter<'_>, lines: impl ExactSizeIterator<Item = String>) -> fmt::Result {
    let left_out = lines.len().saturating_sub(LINES);
    for line in lines.take(LINES) {
        writeln!(f, "  - {line}")?;
    }
    if left_out > 0 {
        writeln!(f, "  … and {left_out} more")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_screen_says_what_matters_and_cuts_long_lists() {
        let failed = (0..12).map(|n| (format!("ns/svc-{n:02}:http"), "EINVAL".to_owned())).collect();
        let status = Status {
            version: "0.1.0".into(),
            node: "node-1".into(),
            uptime_seconds: 3723,
            features: vec!["proxy".into()],
            generation: 9,
            rooms: vec![RoomStatus {
                name: "proxy".into(),
                generation: 7,
                passes: 40,
                failed,
                ..RoomStatus::default()
            }],
            watches: vec![WatchStatus { kind: "Service".into(), in_sync: true, restarts: 2 }],
            unhealthy: vec!["proxy: no pass ended for 400s".into()],
            ..Status::default()
        };
        let text = status.to_string();
        assert!(text.starts_with("ferrovia 0.1.0 on node-1, up 1h02m\n"), "{text}");
        assert!(text.contains("healthy    no\n  - proxy: no pass ended for 400s\n"), "{text}");
        assert!(text.contains("ready      yes\n"), "{text}");
        assert!(
            text.contains("applied generation 7 (2 behind), 40 passes, lag unknown, drift 0, failed keys 12\n"),
            "{text}"
        );
        assert!(text.contains("  … and 2 more\n") && !text.contains("svc-10"), "{text}");
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
