//! What the debug page may ask a room, and how the answer comes back.

use std::net::IpAddr;

use tokio::sync::oneshot;

use crate::model::ServiceKey;

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
}

impl View {
    /// What a question may look like.
    pub const QUESTIONS: &str = "desired, observed, plan, findings, explain/service/NAMESPACE/NAME, explain/route/ADDRESS[/LENGTH] or explain/peer/ADDRESS";

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
            _ => None,
        }
    }
}

/// A question to a room, answered between two passes.
#[derive(Debug)]
pub struct Query {
    /// What to show.
    pub what: View,
    /// Where the text goes, in the operators' own language. Whoever asked may have gone.
    pub reply: oneshot::Sender<String>,
}
