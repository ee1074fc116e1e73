//! `explain …`: what is to be explained.

use std::net::IpAddr;

use clap::{Arg, ArgMatches, Command};

use super::{Refusal, Request, ask, question, socket, usage};

/// What is to be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explained {
    /// `NAMESPACE/NAME`.
    Service(String),
    /// An address, or a prefix.
    Route(String),
    /// A peer's address.
    Peer(String),
    /// `NAMESPACE/NAME[/from/PEER][/to/PEER][/port/PORT/PROTOCOL][/json]`.
    Pod(String),
}

const ABOUT: &str = "Print where a running daemon serves one Service and who hears of it, where packets to an address go, what a peer \
     is told, or which policies a pod is under and what they let through; and what stands in the way";

pub(super) fn command() -> Command {
    let what = "service NAMESPACE/NAME | route ADDRESS | peer ADDRESS | pod NAMESPACE/NAME";
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    question("explain", ABOUT)
        .arg(Arg::new("what").num_args(0..).value_name(what))
        .arg(option("from", "PEER", "Of a pod: may it be reached from NAMESPACE/POD, an address, or outside"))
        .arg(option("to", "PEER", "Of a pod: may it reach NAMESPACE/POD, an address, or outside"))
        .arg(option("port", "PORT/PROTOCOL", "On this destination port, such as 80/tcp"))
        .arg(option("output", "text|json", "Of a pod: print the answer in this form [default: text]").short('o'))
}

pub(super) fn read(command: &mut Command, matches: &ArgMatches) -> Result<Request, Refusal> {
    if let Some(help) = ask(command, matches, "explain")? {
        return Ok(help);
    }
    let words: Vec<&str> = matches.get_many::<String>("what").into_iter().flatten().map(String::as_str).collect();
    let what = match words.as_slice() {
        ["service" | "svc", service] if is_pair(service) => Explained::Service((*service).to_owned()),
        ["route", prefix] if is_prefix(prefix) => Explained::Route((*prefix).to_owned()),
        ["peer", address] if address.parse::<IpAddr>().is_ok() => Explained::Peer((*address).to_owned()),
        ["pod" | "po", pod] if is_pair(pod) => {
            return Ok(Request::Explain {
                admin_socket: socket(matches),
                what: Explained::Pod(pod_question(pod, matches)?),
            });
        }
        _ => {
            return Err(usage(
                "explain takes: service NAMESPACE/NAME, route ADDRESS[/LENGTH], peer ADDRESS or pod NAMESPACE/NAME",
            ));
        }
    };
    for name in ["from", "to", "port", "output"] {
        if matches.contains_id(name) {
            return Err(usage(&format!("--{name} goes with explain pod only")));
        }
    }
    Ok(Request::Explain { admin_socket: socket(matches), what })
}

fn pod_question(pod: &str, matches: &ArgMatches) -> Result<String, Refusal> {
    let mut path = pod.to_owned();
    let given = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    for name in ["from", "to"] {
        let Some(peer) = given(name) else { continue };
        if peer != "outside" && peer.parse::<IpAddr>().is_err() && !is_pair(peer) {
            return Err(usage(&format!(
                "invalid value {peer:?} for --{name}: write NAMESPACE/POD, an address, or outside"
            )));
        }
        path.push_str(&format!("/{name}/{peer}"));
    }
    if let Some(port) = given("port") {
        if given("from").is_none() && given("to").is_none() {
            return Err(usage("--port goes with --from or --to"));
        }
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let is_number = number.parse::<u16>().is_ok_and(|number| number > 0);
        if !is_number || !["tcp", "udp", "sctp"].contains(&protocol) {
            return Err(usage(&format!("invalid value {port:?} for --port: write it like 80/tcp, 53/udp or 9/sctp")));
        }
        path.push_str(&format!("/port/{number}/{protocol}"));
    }
    match given("output") {
        None | Some("text") => {}
        Some("json") => path.push_str("/json"),
        Some(other) => return Err(usage(&format!("invalid value {other:?} for --output: expected text or json"))),
    }
    Ok(path)
}

/// `A/B`.
fn is_pair(text: &str) -> bool {
    text.split_once('/').is_some_and(|(first, second)| !first.is_empty() && !second.is_empty() && !second.contains('/'))
}

fn is_prefix(text: &str) -> bool {
    let (address, length) = text.split_once('/').unwrap_or((text, "0"));
    address.parse::<IpAddr>().is_ok() && length.parse::<u8>().is_ok()
}
