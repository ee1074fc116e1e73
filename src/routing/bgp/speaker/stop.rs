//! The end: what peers are told depends on whether we come back.

use tokio::time::{Instant, timeout_at};

use super::control::{Goodbye, Stop};
use super::state::{ADMINISTRATIVE_RESET, ADMINISTRATIVE_SHUTDOWN};
use super::task::{Inbox, Task};
use crate::routing::bgp::session::Command;
use crate::routing::bgp::types::PeerId;
use crate::routing::bgp::wire;

impl Task {
    /// Ends all sessions, at the latest after the time given.
    pub(super) async fn stop(mut self, stop: Stop, mut inbox: Inbox) {
        let now = Instant::now();
        let end = now + stop.within;
        self.listeners.close();
        self.stop_bfd();
        if let Goodbye::Leave(_) = stop.how {
            self.state.hub.withdraw_everything();
            self.flush(&mut inbox, now + stop.within / 2).await;
        }
        let peers: Vec<PeerId> = self.state.peers.keys().copied().collect();
        for peer in peers {
            let Some(entry) = self.state.peers.remove(&peer) else { continue };
            let keeps = entry.up.as_ref().is_some_and(|up| up.negotiated.graceful_restart.is_some());
            entry.tell(Command::Stop(match &stop.how {
                Goodbye::Restart if keeps => None,
                Goodbye::Restart => Some(wire::cease(ADMINISTRATIVE_RESET, "restart")),
                Goodbye::Leave(text) => Some(wire::cease(ADMINISTRATIVE_SHUTDOWN, text)),
            }));
            self.ending.insert(peer);
        }
        while !self.ending.is_empty() {
            match timeout_at(end, inbox.reports.recv()).await {
                Ok(Some(report)) => self.report(report),
                Ok(None) | Err(_) => break,
            }
        }
        if !self.ending.is_empty() {
            tracing::warn!(peers = self.ending.len(), "some peers did not hear in time that their sessions end");
        }
        // Whoever asked may have gone.
        let _ = stop.done.send(());
    }

    /// Lets peers take what waits for them, until all have or time is up.
    async fn flush(&mut self, inbox: &mut Inbox, end: Instant) {
        loop {
            self.finish_round();
            let waits = self.state.peers.values().any(|peer| peer.in_flight > 0);
            if !waits && self.state.hub.busy().is_empty() {
                return;
            }
            match timeout_at(end, inbox.reports.recv()).await {
                Ok(Some(report)) => self.report(report),
                Ok(None) | Err(_) => return,
            }
        }
    }
}
