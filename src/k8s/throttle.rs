//! A bound on requests to the API server.
//!
//! The watches wait after errors. But a proxy on the way that ends every watch at once, properly, is no error, and
//! would be asked again in the same moment, for ever.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Lets `burst` requests through at once, then one for each `interval`.
#[derive(Debug)]
pub(super) struct Throttle {
    burst: u32,
    interval: Duration,
    /// When the next request would go if every one kept its interval.
    next: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(burst: u32, interval: Duration) -> Throttle {
        Throttle { burst, interval, next: Mutex::new(Instant::now()) }
    }

    /// Waits for this request's turn.
    pub(super) async fn turn(&self) {
        sleep_until(self.book(Instant::now())).await;
    }

    /// The turn of a request that comes now.
    fn book(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let allowance = self.interval * self.burst;
        // A pause earns no more than the burst.
        let slot = (*next).max(now);
        *next = slot + self.interval;
        slot.checked_sub(allowance).map_or(now, |turn| turn.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_the_rate_holds() {
        let throttle = Throttle::new(10, Duration::from_millis(50));
        let start = Instant::now();
        for _ in 0..=10 {
            throttle.turn().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            throttle.turn().await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(3600)).await;
        let later = Instant::now();
        for _ in 0..31 {
            throttle.turn().await;
        }
        assert_eq!(later.elapsed(), Duration::from_secs(1));
    }
}
