//! How the sessions stand, for whoever must know without asking the speaker each time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::bgp::api::handle::Handle;
use super::bgp::api::query::{Event, PeerDetail, SessionState, Watch};
use super::bgp::speaker::{Change, Learned, Speaker};
use super::reconciler::Voice;

/// How soon the speaker is asked again after it did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// All peers with the state of their sessions.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    /// By address.
    pub peers: Arc<BTreeMap<IpAddr, PeerDetail>>,
}

impl Sessions {
    /// Addresses of peers whose session is up.
    pub fn established(&self) -> BTreeSet<IpAddr> {
        let up = self.peers.values().filter(|peer| peer.row.state == SessionState::Established);
        up.map(|peer| peer.row.address).collect()
    }
}

/// Keeps `sessions` up to date, until the speaker or everybody who looks is gone.
pub async fn follow(questions: Handle, sessions: watch::Sender<Sessions>) {
    loop {
        let news = questions.watch(Watch { peers: true, ..Watch::default() }).await;
        let Ok(mut news) = news else {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => continue,
                () = sessions.closed() => return,
            }
        };
        loop {
            let event = tokio::select! {
                event = news.recv() => event,
                () = sessions.closed() => return,
            };
            let Some(event) = event else { break };
            // A removed peer is not news by itself: all are read again with each change.
            let between = |state| !matches!(state, SessionState::Established | SessionState::Idle);
            match event {
                Event::PeerInitial(_) | Event::Routes(_) => continue,
                // Steps on the way to a session change nothing here.
                Event::PeerState(peer) if between(peer.row.state) => continue,
                _ => {}
            }
            while news.try_recv().is_ok() {}
            let Ok(rows) = questions.peers(None, false).await else { break };
            let peers = rows.map(|peer| (peer.row.address, peer)).collect();
            sessions.send_replace(Sessions { peers: Arc::new(peers) });
        }
    }
}

/// The room's line to the running speaker.
#[derive(Debug)]
pub struct Line {
    speaker: Speaker,
    learned: watch::Receiver<Learned>,
    sessions: watch::Receiver<Sessions>,
}

impl Line {
    /// To this speaker, whose sessions [`follow`] watches.
    pub fn new(speaker: &Speaker, sessions: watch::Receiver<Sessions>) -> Line {
        Line { speaker: speaker.clone(), learned: speaker.learned(), sessions }
    }
}

impl Voice for Line {
    fn change(&mut self, changes: Vec<Change>) {
        // In order is enough: nobody waits for the last peer.
        drop(self.speaker.change(changes));
    }

    fn learned(&mut self) -> Learned {
        self.learned.borrow_and_update().clone()
    }

    fn up(&mut self) -> BTreeSet<IpAddr> {
        self.sessions.borrow_and_update().established()
    }

    fn sessions(&mut self) -> Sessions {
        self.sessions.borrow_and_update().clone()
    }
}

/// A line to nobody: for a room that only says what it would do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mute;

impl Voice for Mute {
    fn change(&mut self, changes: Vec<Change>) {
        drop(changes);
    }

    fn learned(&mut self) -> Learned {
        Learned::default()
    }

    fn up(&mut self) -> BTreeSet<IpAddr> {
        BTreeSet::new()
    }

    fn sessions(&mut self) -> Sessions {
        Sessions::default()
    }
}
