//! iptables by its own programs, where a node has them: the one place that starts processes.
//!
//! Native netlink cannot reach the legacy tables, and the nftables flavour must be changed in its own words. A node
//! without the programs has nothing to run and is told so by `save` returning nothing.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::PREFIX;
use crate::kernel::{Disposition, Error};
use crate::net::Family;

/// The flavours a node may have, each with its own rules.
pub const FLAVOURS: [&str; 4] = ["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"];

/// There where the kernel speaks IPv6 (`net/ipv6/addrconf.c`; not with `ipv6.disable=1`).
const IPV6_OF_KERNEL: &str = "/proc/net/if_inet6";

/// How the place of an error ends where a script was refused as a whole.
pub(super) const AT_COMMIT: &str = ", at: COMMIT";
/// How long a program waits for another one that holds the lock of the tables, seconds: it may hang, and all rooms wait.
const WAIT: &str = "--wait=10";

/// Whose rules: the two are in force beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Rules in tables of nftables.
    Nft,
    /// Rules in the tables of old.
    Legacy,
}

impl Flavour {
    /// Both, the usual one first.
    pub const ALL: [Flavour; 2] = [Flavour::Nft, Flavour::Legacy];

    /// The program's name without `-save` and `-restore`.
    pub fn program(self, family: Family) -> &'static str {
        match (self, family) {
            (Flavour::Nft, Family::V4) => "iptables-nft",
            (Flavour::Nft, Family::V6) => "ip6tables-nft",
            (Flavour::Legacy, Family::V4) => "iptables-legacy",
            (Flavour::Legacy, Family::V6) => "ip6tables-legacy",
        }
    }
}

/// The iptables of one network namespace.
pub trait Programs: Send {
    /// Whether rules of a family are to be written: false where the kernel does not know the family, so that it has no
    /// packets.
    ///
    /// # Errors
    /// There are packets of the family, but its program is missing, or the kernel has no tables for it.
    fn usable(&mut self, family: Family) -> Result<bool, Error>;
    /// All tables, as `iptables-save` prints them.
    fn save(&mut self, family: Family) -> Result<String, Error>;
    /// Input for `iptables-restore --noflush`: all of a table, or nothing of it.
    fn restore(&mut self, family: Family, script: &str) -> Result<(), Error>;
}

/// The programs of the node, of one flavour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemPrograms {
    /// Whose rules they write.
    pub flavour: Flavour,
}

impl SystemPrograms {
    /// The flavour whose rules the kubelet and others of the node write; `None` where a node has no iptables programs.
    pub fn find() -> Option<Choice> {
        let saved = |flavour: Flavour| Some((flavour, save(flavour.program(Family::V4))?));
        choose(Flavour::ALL.into_iter().filter_map(saved))
    }
}

/// The programs rules are written with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Them.
    pub programs: SystemPrograms,
    /// Why those.
    pub why: String,
    /// The other flavour, where an earlier run left rules in it.
    pub former: Option<SystemPrograms>,
}

impl Programs for SystemPrograms {
    fn usable(&mut self, family: Family) -> Result<bool, Error> {
        if family == Family::V6 && !Path::new(IPV6_OF_KERNEL).exists() {
            return Ok(false);
        }
        // Nothing is changed: the program opens the table, for which the kernel loads what it has.
        feed(self.flavour.program(family), &["--noflush", WAIT, "--test"], "*filter\nCOMMIT\n").map(|()| true)
    }

    fn save(&mut self, family: Family) -> Result<String, Error> {
        let program = self.flavour.program(family);
        save(program).ok_or_else(|| Error {
            op: format!("{program}-save"),
            errno: None,
            message: "the program is missing or fails: install iptables, or use --firewall-backend=nftables".to_owned(),
            kind: Disposition::Fatal,
        })
    }

    fn restore(&mut self, family: Family, script: &str) -> Result<(), Error> {
        restore(self.flavour.program(family), script)
    }
}

/// Chains that kube-router made, which go when its rules are taken over: what is chosen by them would be another flavour
/// after that.
const PASSING: [&str; 3] = [":KUBE-ROUTER-", ":KUBE-POD-FW-", ":KUBE-NWPLCY-"];

/// The flavour that holds the chains of Kubernetes, from what each saves; else the one that holds kube-router's or ours;
/// the first one where none does.
fn choose(saved: impl Iterator<Item = (Flavour, String)>) -> Option<Choice> {
    let is_passing = |line: &&str| PASSING.iter().any(|prefix| line.starts_with(prefix));
    let lasting = |text: &str| text.lines().filter(|line| line.starts_with(":KUBE-") && !is_passing(line)).count();
    let is_ours = |line: &str| line.strip_prefix(':').is_some_and(|chain| chain.starts_with(PREFIX));
    let passing = |text: &str| text.lines().filter(|line| is_passing(line) || is_ours(line)).count();
    let found: Vec<(Flavour, String)> = saved.collect();
    let weighed = found.iter().map(|(flavour, text)| (*flavour, (lasting(text), passing(text))));
    let (flavour, (chains, _)) = weighed.reduce(|one, other| if other.1 > one.1 { other } else { one })?;
    let former = found.iter().find(|(other, text)| *other != flavour && text.lines().any(is_ours));
    let former = former.map(|(flavour, _)| SystemPrograms { flavour: *flavour });
    let program = flavour.program(Family::V4);
    let why = if chains > 0 {
        format!("{program} holds {chains} KUBE chains of this node")
    } else {
        format!("{program} is here, and no flavour holds KUBE chains that stay")
    };
    Some(Choice { programs: SystemPrograms { flavour }, why, former })
}

/// What `<flavour>-save` prints, or `None` where the program is not installed or has no rules to show.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub fn save(flavour: &str) -> Option<String> {
    let output = Command::new(format!("{flavour}-save")).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Feeds `script` to `<flavour>-restore --noflush`: all of a table or nothing of it.
///
/// # Errors
/// When the program cannot be started or refuses the script; its own words are in the message.
pub fn restore(flavour: &str, script: &str) -> Result<(), Error> {
    feed(flavour, &["--noflush", WAIT], script)
}

#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
fn feed(flavour: &str, options: &[&str], script: &str) -> Result<(), Error> {
    let program = format!("{flavour}-restore");
    let failed = |message: String| {
        let at = blamed(&message, script).map(|line| format!(", at: {line}")).unwrap_or_default();
        Error { op: format!("{program} --noflush{at}"), errno: None, message, kind: Disposition::Retry }
    };
    let mut child = Command::new(&program)
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    note_started(child.id());
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes()).map_err(|error| failed(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The programs started last that write, by process number: the kernel names it as the author of changes.
static STARTED: Mutex<VecDeque<u32>> = Mutex::new(VecDeque::new());
/// As many as can have changes under way that nobody has heard of yet.
const MOST_STARTED: usize = 64;

fn note_started(process: u32) {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if started.len() >= MOST_STARTED {
        started.pop_front();
    }
    started.push_back(process);
}

/// Whether a process is a program that was started here a short while ago.
pub(super) fn is_started(process: u32) -> bool {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner).contains(&process)
}

/// The line of a script that a program complains about: both flavours name it by its number, in several ways
/// (`line 4: RULE_APPEND failed`, `Error occurred at line: 4`).
fn blamed<'a>(complaint: &str, script: &'a str) -> Option<&'a str> {
    let number = complaint.match_indices("line").find_map(|(at, word)| {
        let rest = complaint.get(at + word.len()..)?.trim_start_matches([':', ' ']);
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..end)?.parse::<usize>().ok()
    })?;
    script.lines().nth(number.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::{Flavour, blamed, choose};

    #[test]
    fn a_complaint_leads_to_its_line() {
        let script = "*filter\n:FERROVIA-A - [0:0]\n-A FERROVIA-A -j DROP\nCOMMIT\n";
        for complaint in [
            "iptables-nft-restore v1.8.9 (nf_tables): \nline 3: RULE_APPEND failed (No such file or directory): rule in chain X",
            "iptables-restore v1.8.9 (legacy): Couldn't load match `set'\nError occurred at line: 3\nTry `--help'",
            "iptables-restore: line 3 failed",
        ] {
            assert_eq!(blamed(complaint, script), Some("-A FERROVIA-A -j DROP"), "{complaint}");
        }
        for complaint in ["", "line", "line 0 failed", "line 99 failed", "Another app holds the xtables lock"] {
            assert_eq!(blamed(complaint, script), None, "{complaint}");
        }
    }

    #[test]
    fn the_flavour_with_the_node_s_chains_is_chosen() {
        let text = |chains: usize| ":KUBE-X - [0:0]\n".repeat(chains);
        let of = |nft: usize, legacy: usize| {
            let saved = [(Flavour::Nft, text(nft)), (Flavour::Legacy, text(legacy))];
            choose(saved.into_iter()).map(|choice| choice.programs.flavour)
        };
        assert_eq!(of(2, 0), Some(Flavour::Nft));
        assert_eq!(of(1, 9), Some(Flavour::Legacy));
        assert_eq!(of(0, 0), Some(Flavour::Nft));
        let only = choose([(Flavour::Legacy, String::new())].into_iter());
        assert_eq!(only.map(|choice| choice.programs.flavour), Some(Flavour::Legacy));
        assert_eq!(choose(std::iter::empty()), None);
    }

    #[test]
    fn what_kube_router_and_we_leave_decides_only_where_nothing_else_does() {
        let of = |nft: &str, legacy: &str| {
            let saved = [(Flavour::Nft, nft.to_owned()), (Flavour::Legacy, legacy.to_owned())];
            choose(saved.into_iter()).map(|choice| (choice.programs.flavour, choice.former.map(|it| it.flavour)))
        };
        let router = ":KUBE-ROUTER-INPUT - [0:0]\n:KUBE-NWPLCY-DEFAULT - [0:0]\n:KUBE-POD-FW-X - [0:0]\n";
        let (kubelet, ours) = (":KUBE-KUBELET-CANARY - [0:0]\n", ":FERROVIA-FORWARD - [0:0]\n");
        assert_eq!(of(kubelet, router), Some((Flavour::Nft, None)), "before and after kube-router's chains go");
        assert_eq!(of("", router), Some((Flavour::Legacy, None)));
        assert_eq!(of("", ours), Some((Flavour::Legacy, None)), "a restart stays where it was");
        assert_eq!(of(kubelet, ours), Some((Flavour::Nft, Some(Flavour::Legacy))), "what is left there is to go");
    }
}
