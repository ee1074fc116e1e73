//! SIGTERM and SIGINT end the daemon in order; SIGHUP does not end it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals of this process, from the moment this was made: before that they have their default effect.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Start to listen.
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Resolves with the name of the signal that ends the daemon.
    pub(super) async fn ended(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => tracing::info!("hangup ignored: configuration is read at start only"),
            }
        }
    }
}
