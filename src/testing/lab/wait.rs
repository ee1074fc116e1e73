//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks `look` until it gives a value, at most for `limit`. The error says what was waited for and what `look` said
/// last.
///
/// # Errors
/// Where `limit` passes first.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => {
                return Err(error.context(format!("waited {limit:?} in vain: {what}")));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// The same for a plain yes or no.
///
/// # Errors
/// Where `limit` passes first, or `look` fails then.
pub fn until_true(what: &str, limit: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || if look()? { Ok(()) } else { Err(anyhow!("still not so")) })
}

/// Asks `look` all through `span` and fails as soon as it says no: for things that must *stay* so.
///
/// # Errors
/// When `look` says no or fails.
pub fn throughout(what: &str, span: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        if !look()? {
            bail!("did not stay so for {span:?}: {what} (gone after {:?})", start.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
