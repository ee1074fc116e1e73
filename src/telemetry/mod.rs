//! What happened: log lines and metrics. Both are values that `app` makes and hands out; nothing here is global but
//! the log subscriber itself.

pub mod log;
pub mod process;
pub mod registry;
pub mod services;

use std::io::{self, Write};

/// Write to standard output; a reader that went away (`| head`) is no error.
///
/// # Errors
/// Anything else that keeps the text from being written.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
