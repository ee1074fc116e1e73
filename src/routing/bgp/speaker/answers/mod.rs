//! Answers to [`Question`]s from the speaker's own state, and news for whoever watches.
//!
//! A long answer is gathered in one go as small values that share their attributes with the RIB; sorting, and making
//! octets of them, is work of whoever reads it, on another thread. So a question for 100,000 routes keeps the speaker
//! for some milliseconds, however slow the reader is.

mod injected;
mod news;
mod peers;
mod policies;
mod routes;

#[cfg(test)]
mod tests;

use super::state::State;
use crate::routing::bgp::api::handle::{Answer, Question};
use crate::routing::bgp::api::query::{Command, Done, Global, PeerChoice, Refusal};
use crate::routing::bgp::types::PeerId;
use crate::routing::bgp::wire;

use super::state::{ADMINISTRATIVE_RESET, ADMINISTRATIVE_SHUTDOWN};
pub(super) use news::{news, received};

/// What outlives a question: watchers, and routes that came in through the API.
#[derive(Debug, Default)]
pub(super) struct Answers {
    injected: injected::Injected,
    watchers: news::Watchers,
}

/// Answers a question.
pub(super) fn answer(state: &mut State, question: Question) {
    match question {
        Question::Global(answer) => give(answer, Ok(global(state))),
        Question::Peers(name, advertised, answer) => {
            give(answer, Ok(peers::details(state, name.as_deref(), advertised).into()));
        }
        Question::Paths(query, answer) => give(answer, routes::paths(state, &query)),
        Question::Table(table, family, answer) => give(answer, routes::info(state, &table, family)),
        Question::Assignment(peer, direction, answer) => {
            give(answer, policies::assignment(state, peer.as_deref(), direction));
        }
        Question::Policies(answer) => give(answer, Ok(policies::all(state.hub.policies()))),
        Question::Sets(kind, answer) => give(answer, Ok(policies::sets(state.hub.policies(), kind))),
        Question::Command(command, answer) => {
            let done = follow(state, command);
            give(answer, done);
        }
        Question::Watch(watch, answer) => {
            let watcher = news::watch(state, watch);
            give(answer, watcher);
        }
    }
}

fn give<T>(answer: Answer<T>, with: Result<T, Refusal>) {
    // Whoever asked may have gone.
    let _ = answer.send(with);
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

/// The peer of this address.
fn peer_named(state: &State, name: &str) -> Result<PeerId, Refusal> {
    let found = name.parse().ok().and_then(|address| state.peer_of(address));
    found.ok_or_else(|| Refusal::NotFound(format!("there is no peer {name}; `neighbor` lists those there are")))
}

fn follow(state: &mut State, command: Command) -> Result<Done, Refusal> {
    let text = |text: &str| if text.is_empty() { "by request of the operator".to_owned() } else { text.to_owned() };
    match command {
        Command::AddPath(nlri, given) => return injected::add(state, nlri, given).map(Done::Added),
        Command::DeletePath(nlri) => injected::delete(state, nlri)?,
        Command::DeleteById(id) => injected::delete_by_id(state, id)?,
        Command::DeleteAll(family) => injected::delete_all(state, family),
        Command::Reset(peer, words) => {
            for peer in chosen(state, &peer)? {
                tracing::info!(peer = %address(state, peer), text = words, "session is reset by hand");
                state.reset(peer, wire::cease(ADMINISTRATIVE_RESET, &words));
            }
        }
        Command::SoftReset(peer, import, export) => {
            chosen(state, &peer)?.into_iter().for_each(|peer| state.soft_reset(peer, import, export));
        }
        Command::Enable(peer) => {
            for peer in chosen(state, &peer)? {
                if let Some(entry) = state.peers.get(&peer)
                    && entry.config.shutdown.is_some()
                {
                    return Err(Refusal::Invalid(format!(
                        "peer {} is shut down by the daemon's configuration; change it there",
                        entry.address
                    )));
                }
                tracing::info!(peer = %address(state, peer), "session is enabled by hand");
                state.enable(peer);
                state.repeat_step(peer);
            }
        }
        Command::Disable(peer, words) => {
            for peer in chosen(state, &peer)? {
                tracing::warn!(peer = %address(state, peer), text = text(&words), "session is disabled by hand");
                let is_up = state.peers.get(&peer).is_some_and(|entry| entry.up.is_some());
                state.disable(peer, &words);
                // Else its end is news.
                if !is_up {
                    state.repeat_step(peer);
                }
            }
        }
        Command::Shutdown(peer, words) => {
            for peer in chosen(state, &peer)? {
                tracing::info!(peer = %address(state, peer), text = words, "session is shut down by hand");
                state.reset(peer, wire::cease(ADMINISTRATIVE_SHUTDOWN, &words));
            }
        }
    }
    Ok(Done::Yes)
}

fn address(state: &State, peer: PeerId) -> String {
    state.peers.get(&peer).map(|entry| entry.address.to_string()).unwrap_or_default()
}

fn chosen(state: &State, choice: &PeerChoice) -> Result<Vec<PeerId>, Refusal> {
    match choice {
        PeerChoice::All => Ok(state.peers.keys().copied().collect()),
        PeerChoice::One(name) => Ok(vec![peer_named(state, name)?]),
    }
}
