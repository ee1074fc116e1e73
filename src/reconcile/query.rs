//! What the debug page may ask a room, and how the answer comes back.

use std::net::IpAddr;

use tokio::sync::oneshot;

use crate::model::{PodKey, ServiceKey};
use crate::net::Protocol;

/// Which of a room's pictures to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// What should be.
    Desired,
    /// What the kernel had when it was last read, with what was written since.
    Observed,
    /// The difference: what the next pass would do.
    Plan,
    /// Everything about one Service: where it is served, from which endpoints, what stands in the way.
    Service(ServiceKey),
    /// Where packets to an address (or prefix) go, who announced it, and whether this node announces it and to whom.
    Route(IpAddr, Option<u8>),
    /// What stands in the way of traffic on this node, one line for each finding.
    Findings,
    /// A peer of this name: what it is configured with, and what it is told.
    Peer(IpAddr),
    /// A pod: the policies it is under, and what becomes of some flows.
    Pod(Box<PodQuestion>),
}

/// A question about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodQuestion {
    /// The pod.
    pub pod: PodKey,
    /// May it be reached from there?
    pub from: Option<Peer>,
    /// May it reach that?
    pub to: Option<Peer>,
    /// On which port; `None` where that is left open.
    pub port: Option<(Protocol, u16)>,
    /// Answer in JSON.
    pub json: bool,
}

/// The other side of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A pod.
    Pod(PodKey),
    /// An address.
    Address(IpAddr),
    /// Somebody who is no part of the cluster.
    Outside,
}

impl View {
    /// What a question may look like.
    pub const QUESTIONS: &str = "desired, observed, plan, findings, explain/service/NAMESPACE/NAME, explain/route/ADDRESS[/LENGTH], \
         explain/peer/ADDRESS or explain/pod/NAMESPACE/NAME[/from/PEER][/to/PEER][/port/PORT/PROTOCOL][/json], where a peer \
         is NAMESPACE/NAME, an address or outside";

    /// The view of this name, as the debug page's address has it: one of [`View::QUESTIONS`].
    pub fn parse(name: &str) -> Option<View> {
        match name {
            "desired" => return Some(View::Desired),
            "observed" => return Some(View::Observed),
            "plan" => return Some(View::Plan),
            "findings" => return Some(View::Findings),
            _ => {}
        }
        let (kind, rest) = name.strip_prefix("explain/")?.split_once('/')?;
        match kind {
            "service" => {
                let (namespace, name) = rest.split_once('/')?;
                let is_whole = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
                is_whole.then(|| View::Service(ServiceKey::new(namespace, name)))
            }
            "route" => match rest.split_once('/') {
                None => Some(View::Route(rest.parse().ok()?, None)),
                Some((address, length)) => Some(View::Route(address.parse().ok()?, Some(length.parse().ok()?))),
            },
            "peer" => Some(View::Peer(rest.parse().ok()?)),
            "pod" => PodQuestion::parse(rest).map(|question| View::Pod(Box::new(question))),
            _ => None,
        }
    }
}

impl PodQuestion {
    /// Reads `NAMESPACE/NAME[/from/PEER][/to/PEER][/port/PORT/PROTOCOL][/json]`.
    pub fn parse(text: &str) -> Option<PodQuestion> {
        let mut words = text.split('/');
        let pod = pod_key(words.next()?, words.next()?)?;
        let mut question = PodQuestion { pod, from: None, to: None, port: None, json: false };
        while let Some(word) = words.next() {
            match word {
                "from" => question.from = Some(Peer::parse(&mut words)?),
                "to" => question.to = Some(Peer::parse(&mut words)?),
                "port" => question.port = Some(parse_port(words.next()?, words.next()?)?),
                "json" => question.json = true,
                _ => return None,
            }
        }
        Some(question)
    }
}

impl Peer {
    fn parse<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Peer> {
        match words.next()? {
            "outside" => Some(Peer::Outside),
            word => match word.parse() {
                Ok(address) => Some(Peer::Address(address)),
                Err(_) => pod_key(word, words.next()?).map(Peer::Pod),
            },
        }
    }
}

fn pod_key(namespace: &str, name: &str) -> Option<PodKey> {
    (!namespace.is_empty() && !name.is_empty()).then(|| PodKey::new(namespace, name))
}

/// A port and its protocol, as `80` and `tcp`.
fn parse_port(port: &str, protocol: &str) -> Option<(Protocol, u16)> {
    let protocol = Protocol::ALL.into_iter().find(|known| known.to_string().eq_ignore_ascii_case(protocol))?;
    Some((protocol, port.parse().ok().filter(|port| *port > 0)?))
}

/// A question to a room, answered between two passes.
#[derive(Debug)]
pub struct Query {
    /// What to show.
    pub what: View,
    /// Where the text goes, in the operators' own language. Whoever asked may have gone.
    pub reply: oneshot::Sender<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_about_a_pod_reads_from_its_path() {
        let Some(View::Pod(question)) = View::parse("explain/pod/shop/web/from/10.1.0.1/to/a/outside/port/80/TCP/json")
        else {
            panic!("a question")
        };
        assert_eq!(question.pod, PodKey::new("shop", "web"));
        assert_eq!(question.from, Some(Peer::Address(IpAddr::from([10, 1, 0, 1]))));
        assert_eq!(question.to, Some(Peer::Pod(PodKey::new("a", "outside"))));
        assert_eq!((question.port, question.json), (Some((Protocol::Tcp, 80)), true));
        let plain = PodQuestion::parse("shop/web/from/outside").unwrap();
        assert_eq!((plain.from, plain.to, plain.port), (Some(Peer::Outside), None, None));
        for odd in
            ["shop", "shop/", "shop/web/from", "shop/web/port/0/tcp", "shop/web/port/80/http", "shop/web/now", "/web"]
        {
            assert_eq!(PodQuestion::parse(odd), None, "{odd}");
        }
    }
}
