//! Answers to [`Question`]s from the speaker's own state, and news for whoever watches.

use std::collections::BTreeSet;

use super::state::State;
use crate::net::Prefix;
use crate::routing::bgp::api::handle::{Answer, Question};
use crate::routing::bgp::api::query::{Global, Refusal};
use crate::routing::bgp::types::PeerId;

/// What outlives a question: watchers, and routes that came in through the API.
#[derive(Debug, Default)]
pub(super) struct Answers {}

/// Answers a question.
pub(super) fn answer(state: &mut State, question: Question) {
    match question {
        Question::Global(answer) => give(answer, Ok(global(state))),
        Question::Peers(_, _, answer) => give(answer, Err(not_yet())),
        Question::Paths(_, answer) => give(answer, Err(not_yet())),
        Question::Table(_, _, answer) => give(answer, Err(not_yet())),
        Question::Assignment(_, _, answer) => give(answer, Err(not_yet())),
        Question::Policies(answer) => give(answer, Err(not_yet())),
        Question::Sets(_, answer) => give(answer, Err(not_yet())),
        Question::Command(_, answer) => give(answer, Err(not_yet())),
        Question::Watch(_, answer) => give(answer, Err(not_yet())),
    }
}

/// Best paths of these prefixes are others, and sessions of these peers came up or went down.
pub(super) fn news(_state: &mut State, _best: &BTreeSet<Prefix>, _peers: &BTreeSet<PeerId>) {}

fn give<T>(answer: Answer<T>, with: Result<T, Refusal>) {
    // Whoever asked may have gone.
    let _ = answer.send(with);
}

fn not_yet() -> Refusal {
    Refusal::Unsupported("the speaker does not answer this".to_owned())
}

fn global(state: &State) -> Global {
    let config = &state.config;
    Global {
        asn: config.asn,
        router_id: config.router_id,
        listen_port: config.listen.first().map(std::net::SocketAddr::port),
        listen_addresses: config.listen.iter().map(std::net::SocketAddr::ip).collect(),
        multipath: config.decision.multipath,
    }
}
