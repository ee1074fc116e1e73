//! A writer that keeps what a log wrote.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::Subscriber;

/// Everything that was written. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    /// It as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `body` logs to the subscriber that `subscriber` makes.
pub fn logged<S: Subscriber + Send + Sync + 'static>(
    subscriber: impl FnOnce(Sink) -> S,
    body: impl FnOnce(),
) -> String {
    let sink = Sink::default();
    tracing::subscriber::with_default(subscriber(sink.clone()), body);
    sink.text()
}
