//! The grammar of `gobgp`: `ferrovia neighbor …`, and everything when the program is called `gobgp`.
//!
//! Flags may stand anywhere, words may be shortened as long as they stay clear (`neigh`, `adj-i`), as gobgp has it.
//! Routes to add or delete are only cut into words here: what they mean is BGP's business.

use super::Refusal;
use crate::net::Family;

/// What to ask of a speaker, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gobgp {
    /// Where it is and how the answer shall look.
    pub options: Options,
    /// What to ask.
    pub ask: Ask,
}

/// The flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `-u`, `--host`.
    pub host: String,
    /// `-p`, `--port`.
    pub port: u16,
    /// `--target unix://PATH`: a socket instead.
    pub socket: Option<String>,
    /// `-j`, `--json`.
    pub json: bool,
    /// `-q`, `--quiet`: names only.
    pub quiet: bool,
    /// `-a`, `--address-family`.
    pub family: Option<Family>,
    /// `--tls`, or any of the files below.
    pub tls: bool,
    /// `--tls-ca-file`: who may sign the server's certificate; empty for whom the system trusts.
    pub ca_file: String,
    /// `--tls-client-cert-file`.
    pub cert_file: String,
    /// `--tls-client-key-file`.
    pub key_file: String,
    /// `--reason`: what to tell a peer (RFC 9003).
    pub reason: String,
    /// `--current`: begin with what there is.
    pub current: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            host: "127.0.0.1".to_owned(),
            port: 50051,
            socket: None,
            json: false,
            quiet: false,
            family: None,
            tls: false,
            ca_file: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            reason: String::new(),
            current: false,
        }
    }
}

/// Which routes of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerTable {
    /// What it sent.
    AdjIn,
    /// What it is sent.
    AdjOut,
    /// Its view, as client of a route server.
    Local,
    /// What it sent and policy took.
    Accepted,
    /// What it sent and policy refused.
    Rejected,
}

/// A prefix or an address, and which routes beside it: 0 none, 1 those inside, 2 those around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The prefix.
    pub prefix: String,
    /// As in gobgp's API.
    pub kind: i32,
}

/// Which way a soft reset goes, or policy works. The numbers are those of gobgp's API for a soft reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the peer.
    In = 0,
    /// To it.
    Out = 1,
    /// Both.
    Both = 2,
}

/// What to do with a peer's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Let it come up.
    Enable,
    /// Keep it down.
    Disable,
    /// The old name of that.
    Shutdown,
}

/// What to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Nothing: print this.
    Help(String),
    /// All peers.
    Neighbors,
    /// One peer.
    Neighbor(String),
    /// Routes of a peer.
    PeerRoutes(String, PeerTable, Option<Lookup>),
    /// How many.
    PeerSummary(String, PeerTable),
    /// Reset a session; softly this way.
    Reset(String, Option<Way>),
    /// Let a session come up or keep it down.
    Switch(String, Switch),
    /// Policies of a peer or, without one, global ones.
    Assigned(Option<String>, Way),
    /// The speaker.
    Global,
    /// All routes.
    Routes(Option<Lookup>),
    /// How many.
    Summary,
    /// Originate the route these words say.
    Add(Vec<String>),
    /// Take it back.
    Delete(Vec<String>),
    /// Take back all of a family.
    DeleteAll,
    /// Policies, or the one so named.
    Policies(Option<String>),
    /// Statements, likewise.
    Statements(Option<String>),
    /// Named sets of a kind (as in gobgp's API) under a heading, likewise.
    Sets(i32, &'static str, Option<String>),
    /// Follow the best routes.
    MonitorRoutes,
    /// Follow what peers send, or this one.
    MonitorAdjIn(Option<String>),
    /// Follow the sessions, or this one.
    MonitorPeers(Option<String>),
}

/// The commands the daemon's own name shares with `gobgp`, and what they are for.
pub const ABOUT: [(&str, &str); 4] = [
    ("neighbor", "BGP peers of a running daemon, their routes and sessions, as gobgp shows them"),
    ("global", "The BGP speaker of a running daemon and its routes, as gobgp shows them"),
    ("policy", "BGP policies of a running daemon, as gobgp shows them"),
    ("monitor", "Follow BGP routes and sessions of a running daemon, as gobgp does"),
];

/// Whether this command line is gobgp's: by the program's name, or by its first word.
pub fn is_meant(arguments: &[String]) -> bool {
    let name = arguments.first().map(|path| path.rsplit('/').next().unwrap_or_default());
    let rest = arguments.get(1..).unwrap_or_default();
    name == Some("gobgp")
        || split(rest)
            .is_ok_and(|(_, words, _)| words.first().is_some_and(|word| ABOUT.iter().any(|(name, _)| name == word)))
}

/// Reads such a command line, the program's name first.
///
/// # Errors
/// A [`Refusal`] that says what is expected.
pub fn parse(arguments: &[String]) -> Result<Gobgp, Refusal> {
    let (options, words, help) = split(arguments.get(1..).unwrap_or_default()).map_err(|text| refuse(&text))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if help == Some(Wanted::Version) {
        return Ok(Gobgp { options, ask: Ask::Help(super::version_text()) });
    }
    let command = words.first().map(|word| pick(word, &TOP)).transpose().map_err(|text| refuse(&text))?;
    if help.is_some() || command.is_none() {
        return Ok(Gobgp { options, ask: Ask::Help(help_text(command).to_owned()) });
    }
    let rest = words.get(1..).unwrap_or_default();
    let ask = match command {
        Some("neighbor") => neighbor(rest),
        Some("global") => global(rest),
        Some("policy") => policy(rest),
        Some("monitor") => monitor(rest),
        other => Err(format!(
            "{} is not supported: the speaker follows the daemon's configuration, and has no VRFs, RPKI, BMP or MRT",
            other.unwrap_or_default()
        )),
    };
    Ok(Gobgp { options, ask: ask.map_err(|text| refuse(&text))? })
}

fn refuse(text: &str) -> Refusal {
    Refusal { text: format!("error: {text}\n\nFor more information, try '--help'.\n"), code: 1 }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Help,
    Version,
}

/// Flags and words, and whether help is wanted instead.
fn split(arguments: &[String]) -> Result<(Options, Vec<String>, Option<Wanted>), String> {
    let mut options = Options::default();
    let mut words = Vec::new();
    let mut wanted = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            words.extend(rest.cloned());
            break;
        }
        let (mut flags, mut value) = match argument.strip_prefix("--") {
            Some(long) => {
                let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                (vec![long_name(name)?], value.map(str::to_owned))
            }
            None => match argument.strip_prefix('-').filter(|short| !short.is_empty()) {
                Some(short) => short_names(short)?,
                None => {
                    words.push(argument.clone());
                    continue;
                }
            },
        };
        let last = flags.pop();
        for flag in flags {
            switch(flag, None, &mut options, &mut wanted)?;
        }
        if let Some(flag) = last {
            if takes_value(flag) && value.is_none() {
                value = Some(rest.next().cloned().ok_or_else(|| format!("{argument} needs a value"))?);
            }
            switch(flag, value.as_deref(), &mut options, &mut wanted)?;
        }
    }
    Ok((options, words, wanted))
}

/// Every flag: long name, short name, whether it takes a value.
const FLAGS: [(&str, char, bool); 15] = [
    ("host", 'u', true),
    ("port", 'p', true),
    ("target", ' ', true),
    ("json", 'j', false),
    ("debug", 'd', false),
    ("quiet", 'q', false),
    ("address-family", 'a', true),
    ("tls", ' ', false),
    ("tls-ca-file", ' ', true),
    ("tls-client-cert-file", ' ', true),
    ("tls-client-key-file", ' ', true),
    ("reason", ' ', true),
    ("current", ' ', false),
    ("help", 'h', false),
    ("version", ' ', false),
];

fn takes_value(flag: &str) -> bool {
    FLAGS.iter().any(|(long, _, value)| *long == flag && *value)
}

fn long_name(name: &str) -> Result<&'static str, String> {
    let found = FLAGS.iter().find(|(long, ..)| *long == name);
    found.map(|(long, ..)| *long).ok_or_else(|| format!("unknown flag --{name}"))
}

/// The flags of `-jq` or `-u10.0.0.1`, and the value the last one came with.
fn short_names(text: &str) -> Result<(Vec<&'static str>, Option<String>), String> {
    let mut names = Vec::new();
    for (at, letter) in text.char_indices() {
        let found = FLAGS.iter().find(|(_, short, _)| *short == letter && letter != ' ');
        let (long, _, value) = found.ok_or_else(|| format!("unknown flag -{letter}"))?;
        names.push(*long);
        let after = text.get(at + letter.len_utf8()..).unwrap_or_default();
        if *value && !after.is_empty() {
            return Ok((names, Some(after.strip_prefix('=').unwrap_or(after).to_owned())));
        }
        if let Some(after) = after.strip_prefix('=') {
            return Ok((names, Some(after.to_owned())));
        }
    }
    Ok((names, None))
}

fn switch(flag: &str, value: Option<&str>, options: &mut Options, wanted: &mut Option<Wanted>) -> Result<(), String> {
    let text = || value.unwrap_or_default().to_owned();
    let on = || match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("invalid value {other:?} for --{flag}: expected true or false")),
    };
    match flag {
        "host" => options.host = text(),
        "port" => {
            let number = text().parse().ok().filter(|port| *port != 0);
            options.port =
                number.ok_or_else(|| format!("invalid value {:?} for --port: expected 1 to 65535", text()))?;
        }
        "target" => {
            let path = text().strip_prefix("unix:").map(|path| path.strip_prefix("//").unwrap_or(path).to_owned());
            options.socket = Some(path.ok_or("--target takes unix:// and a path; -u and -p name a host and a port")?);
        }
        "json" => options.json = on()?,
        "quiet" => options.quiet = on()?,
        "address-family" => {
            options.family = Some(match text().as_str() {
                "ipv4" | "v4" | "4" => Family::V4,
                "ipv6" | "v6" | "6" => Family::V6,
                other => return Err(format!("unsupported address family: {other}; use ipv4 or ipv6")),
            });
        }
        "tls" => options.tls = on()?,
        "tls-ca-file" => (options.ca_file, options.tls) = (text(), true),
        "tls-client-cert-file" => (options.cert_file, options.tls) = (text(), true),
        "tls-client-key-file" => (options.key_file, options.tls) = (text(), true),
        "reason" => {
            let reason = text();
            if reason.len() > 128 {
                return Err(format!("--reason has {} bytes; a peer takes at most 128 (RFC 9003)", reason.len()));
            }
            options.reason = reason;
        }
        "current" => options.current = on()?,
        "help" => *wanted = Some(Wanted::Help),
        "version" => *wanted = Some(Wanted::Version),
        _ => {}
    }
    Ok(())
}

/// All of gobgp's commands; the first four are supported.
const TOP: [&str; 9] = ["neighbor", "global", "policy", "monitor", "bmp", "log-level", "mrt", "rpki", "vrf"];

/// The one name that is the word, or begins with it.
fn pick(word: &str, names: &[&'static str]) -> Result<&'static str, String> {
    if let Some(name) = names.iter().find(|name| **name == word) {
        return Ok(name);
    }
    let begin: Vec<&'static str> = names.iter().filter(|name| name.starts_with(word)).copied().collect();
    match begin.as_slice() {
        [one] => Ok(one),
        [] => Err(format!("unknown command {word:?}; expected {}", names.join(", "))),
        several => Err(format!("{word:?} may mean {}; write more of it", several.join(" or "))),
    }
}

const OWNED: &str = "is not supported: the speaker, its peers and policies follow the daemon's configuration and the \
     cluster; change them there";

const OF_PEER: [&str; 13] = [
    "adj-in",
    "adj-out",
    "local",
    "accepted",
    "rejected",
    "reset",
    "softreset",
    "softresetin",
    "softresetout",
    "enable",
    "disable",
    "shutdown",
    "policy",
];

fn neighbor(words: &[&str]) -> Result<Ask, String> {
    let (name, rest) = match words {
        [] => return Ok(Ask::Neighbors),
        [change @ ("add" | "del" | "update"), ..] => return Err(format!("neighbor {change} {OWNED}")),
        [name] => return Ok(Ask::Neighbor((*name).to_owned())),
        [name, rest @ ..] => ((*name).to_owned(), rest),
    };
    let (what, rest) = rest.split_first().map_or(("", rest), |(what, rest)| (*what, rest));
    let table = match pick(what, &OF_PEER)? {
        "adj-in" => PeerTable::AdjIn,
        "adj-out" => PeerTable::AdjOut,
        "local" => PeerTable::Local,
        "accepted" => PeerTable::Accepted,
        "rejected" => PeerTable::Rejected,
        "policy" => return assigned(Some(name), rest),
        done => {
            nothing_more(rest)?;
            return Ok(match done {
                "reset" => Ask::Reset(name, None),
                "softreset" => Ask::Reset(name, Some(Way::Both)),
                "softresetin" => Ask::Reset(name, Some(Way::In)),
                "softresetout" => Ask::Reset(name, Some(Way::Out)),
                "enable" => Ask::Switch(name, Switch::Enable),
                "disable" => Ask::Switch(name, Switch::Disable),
                _ => Ask::Switch(name, Switch::Shutdown),
            });
        }
    };
    match rest {
        ["summary"] if !matches!(table, PeerTable::Accepted | PeerTable::Rejected) => Ok(Ask::PeerSummary(name, table)),
        _ => Ok(Ask::PeerRoutes(name, table, lookup(rest)?)),
    }
}

fn nothing_more(rest: &[&str]) -> Result<(), String> {
    rest.first().map_or(Ok(()), |word| Err(format!("unexpected {word:?}")))
}

fn lookup(words: &[&str]) -> Result<Option<Lookup>, String> {
    let (prefix, kind) = match words {
        [] => return Ok(None),
        [prefix] => (*prefix, 0),
        [prefix, "longer-prefixes"] => (*prefix, 1),
        [prefix, "shorter-prefixes"] => (*prefix, 2),
        [_, other, ..] => return Err(format!("unexpected {other:?}; expected longer-prefixes or shorter-prefixes")),
    };
    let address = prefix.split_once('/').map_or(prefix, |(address, _)| address);
    let known = prefix.parse::<crate::net::Prefix>().is_ok()
        || address.parse::<std::net::IpAddr>().is_ok() && address == prefix;
    if !known {
        return Err(format!("invalid CIDR/IP: {prefix:?} is neither a prefix such as 10.0.0.0/8 nor an address"));
    }
    Ok(Some(Lookup { prefix: prefix.to_owned(), kind }))
}

fn assigned(peer: Option<String>, words: &[&str]) -> Result<Ask, String> {
    match words {
        [] => Ok(Ask::Assigned(peer, Way::Both)),
        [way] => match pick(way, &["import", "export"])? {
            "import" => Ok(Ask::Assigned(peer, Way::In)),
            _ => Ok(Ask::Assigned(peer, Way::Out)),
        },
        [_, change, ..] => Err(format!("policy {change} {OWNED}")),
    }
}

fn global(words: &[&str]) -> Result<Ask, String> {
    let Some((first, rest)) = words.split_first() else { return Ok(Ask::Global) };
    if matches!(*first, "as" | "router-id" | "del") {
        return Err(format!("global {first} {OWNED}"));
    }
    match pick(first, &["rib", "policy"])? {
        "policy" => assigned(None, rest),
        _ => match rest {
            ["summary"] => Ok(Ask::Summary),
            ["add", route @ ..] => Ok(Ask::Add(route.iter().map(|word| (*word).to_owned()).collect())),
            ["del", "all"] => Ok(Ask::DeleteAll),
            ["del", route @ ..] => Ok(Ask::Delete(route.iter().map(|word| (*word).to_owned()).collect())),
            _ => Ok(Ask::Routes(lookup(rest)?)),
        },
    }
}

/// Words of `policy`, the number of their kind in gobgp's API, and their heading.
const SETS: [(&str, i32, &str); 6] = [
    ("prefix", 0, "PREFIX"),
    ("neighbor", 1, "ADDRESS"),
    ("as-path", 3, "AS-PATH"),
    ("community", 4, "COMMUNITY"),
    ("ext-community", 5, "EXT-COMMUNITY"),
    ("large-community", 6, "LARGE-COMMUNITY"),
];

fn policy(words: &[&str]) -> Result<Ask, String> {
    let Some((first, rest)) = words.split_first() else { return Ok(Ask::Policies(None)) };
    if let Some(change) = words.iter().find(|word| matches!(**word, "add" | "del" | "set")) {
        return Err(format!("policy {change} {OWNED}"));
    }
    let name = || -> Result<Option<String>, String> {
        nothing_more(rest.get(1..).unwrap_or_default())?;
        Ok(rest.first().map(|name| (*name).to_owned()))
    };
    if let Some((_, kind, heading)) = SETS.iter().find(|(word, ..)| word == first) {
        return Ok(Ask::Sets(*kind, heading, name()?));
    }
    if *first == "statement" {
        return Ok(Ask::Statements(name()?));
    }
    nothing_more(rest)?;
    Ok(Ask::Policies(Some((*first).to_owned())))
}

fn monitor(words: &[&str]) -> Result<Ask, String> {
    let Some((first, rest)) = words.split_first() else {
        return Err("monitor what? Expected global rib, adj-in or neighbor".to_owned());
    };
    let peer = || -> Result<Option<String>, String> {
        nothing_more(rest.get(1..).unwrap_or_default())?;
        Ok(rest.first().map(|name| (*name).to_owned()))
    };
    match pick(first, &["global", "adj-in", "neighbor"])? {
        "adj-in" => Ok(Ask::MonitorAdjIn(peer()?)),
        "neighbor" => Ok(Ask::MonitorPeers(peer()?)),
        _ => match rest {
            [rib] if pick(rib, &["rib"]).is_ok() => Ok(Ask::MonitorRoutes),
            _ => Err("monitor global takes: rib".to_owned()),
        },
    }
}

fn help_text(command: Option<&str>) -> &'static str {
    match command {
        Some("neighbor") => include_str!("help/neighbor.txt"),
        Some("global") => include_str!("help/global.txt"),
        Some("policy") => include_str!("help/policy.txt"),
        Some("monitor") => include_str!("help/monitor.txt"),
        _ => include_str!("help/gobgp.txt"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn ask(line: &str) -> Ask {
        parse(&words(line)).unwrap().ask
    }

    fn fault(line: &str) -> String {
        parse(&words(line)).unwrap_err().text
    }

    #[test]
    fn flags_may_stand_anywhere() {
        let want = Options {
            host: "10.0.0.1".to_owned(),
            port: 50052,
            json: true,
            family: Some(Family::V6),
            ..Options::default()
        };
        for line in [
            "gobgp -u 10.0.0.1 -p 50052 -j global rib -a ipv6",
            "gobgp global --host=10.0.0.1 rib --port 50052 --json --address-family=v6",
            "ferrovia global rib -j -u10.0.0.1 -p=50052 -a6",
        ] {
            let line = parse(&words(line)).unwrap();
            assert_eq!((&line.options, &line.ask), (&want, &Ask::Routes(None)));
        }
        assert!(parse(&words("gobgp -jq neighbor")).unwrap().options.quiet);
    }

    #[test]
    fn the_name_or_the_first_word_says_whose_line_it_is() {
        assert!(is_meant(&words("/usr/local/bin/gobgp vrf")));
        assert!(is_meant(&words("ferrovia -u 10.0.0.1 neighbor")));
        assert!(!is_meant(&words("ferrovia status")));
        assert!(!is_meant(&words("ferrovia --run-router=false neighbor")));
        assert!(!is_meant(&words("ferrovia")));
    }

    #[test]
    fn every_question_is_understood() {
        let x = || "10.0.0.2".to_owned();
        let inside = Some(Lookup { prefix: "10.0.0.0/8".to_owned(), kind: 1 });
        let cases = [
            ("gobgp neigh", Ask::Neighbors),
            ("gobgp neighbor 10.0.0.2", Ask::Neighbor(x())),
            ("gobgp neighbor 10.0.0.2 adj-in", Ask::PeerRoutes(x(), PeerTable::AdjIn, None)),
            (
                "gobgp n 10.0.0.2 adj-o 10.0.0.0/8 longer-prefixes",
                Ask::PeerRoutes(x(), PeerTable::AdjOut, inside.clone()),
            ),
            ("gobgp neighbor 10.0.0.2 adj-in summary", Ask::PeerSummary(x(), PeerTable::AdjIn)),
            ("gobgp neighbor 10.0.0.2 softresetin", Ask::Reset(x(), Some(Way::In))),
            ("gobgp neighbor all reset", Ask::Reset("all".to_owned(), None)),
            ("gobgp neighbor 10.0.0.2 disable", Ask::Switch(x(), Switch::Disable)),
            ("gobgp neighbor 10.0.0.2 policy", Ask::Assigned(Some(x()), Way::Both)),
            ("gobgp global", Ask::Global),
            ("gobgp global rib summary", Ask::Summary),
            ("gobgp global rib 10.0.0.0/8 longer-prefixes", Ask::Routes(inside)),
            ("gobgp global rib del all", Ask::DeleteAll),
            ("gobgp global rib add 10.0.0.0/8 med 5", Ask::Add(words("10.0.0.0/8 med 5"))),
            ("gobgp global policy export", Ask::Assigned(None, Way::Out)),
            ("gobgp policy", Ask::Policies(None)),
            ("gobgp policy x", Ask::Policies(Some("x".to_owned()))),
            ("gobgp policy prefix pods", Ask::Sets(0, "PREFIX", Some("pods".to_owned()))),
            ("gobgp policy statement", Ask::Statements(None)),
            ("gobgp monitor global rib --current", Ask::MonitorRoutes),
            ("gobgp monitor neighbor 10.0.0.2", Ask::MonitorPeers(Some(x()))),
            ("gobgp monitor adj-in", Ask::MonitorAdjIn(None)),
        ];
        for (line, want) in cases {
            assert_eq!(ask(line), want, "{line}");
        }
    }

    #[test]
    fn a_line_that_makes_no_sense_is_refused_with_what_would() {
        assert!(fault("gobgp -a evpn global rib").contains("use ipv4 or ipv6"));
        assert!(fault("gobgp neighbor 10.0.0.2 soft").contains("may mean softreset or softresetin or softresetout"));
        assert!(fault("gobgp neighbor add 10.0.0.2 as 1").contains("change them there"));
        assert!(fault("gobgp global rib nonsense").contains("neither a prefix"));
        assert!(fault("gobgp global rib 10.0.0.0/8 longer").contains("longer-prefixes or shorter-prefixes"));
        assert!(fault("gobgp --nonsense").contains("unknown flag --nonsense"));
        assert!(fault("gobgp -p x neighbor").contains("expected 1 to 65535"));
        assert!(fault("gobgp vrf").contains("not supported"));
        assert!(fault("gobgp neighbor -u").contains("needs a value"));
    }

    #[test]
    fn help_teaches_each_command() {
        for command in ["", "neighbor", "global rib", "policy", "monitor"] {
            let Ask::Help(text) = ask(&format!("gobgp {command} --help")) else { panic!("no help for {command}") };
            assert!(text.contains("gobgp") && text.contains("Examples:"), "{text}");
        }
        assert!(matches!(ask("gobgp"), Ask::Help(_)));
    }
}
