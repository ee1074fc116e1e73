//! How long to wait before asking a server again: doubling, bounded, and never the same on two nodes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

/// Doubling delays with jitter: each is somewhere in the upper half of its step, so that a thousand nodes that lost
/// the same server do not come back in one instant.
#[derive(Debug)]
pub(super) struct Delay {
    first: Duration,
    most: Duration,
    failures: u32,
    random: RandomState,
}

impl Delay {
    pub(super) fn new(first: Duration, most: Duration) -> Delay {
        Delay { first, most, failures: 0, random: RandomState::new() }
    }

    /// The delay after one more failure.
    pub(super) fn failed(&mut self) -> Duration {
        let step = self.first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        let mut hasher = self.random.build_hasher();
        hasher.write_u32(self.failures);
        // 53 bits of hash as a fraction of one.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
        let fraction = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
        step.mul_f64(0.5 + fraction / 2.0)
    }

    /// Failures since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The last try worked.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_within_bounds_and_start_over() {
        let mut delay = Delay::new(Duration::from_millis(200), Duration::from_secs(30));
        for failure in 0..50 {
            let step = Duration::from_millis(200).saturating_mul(1 << failure.min(20)).min(Duration::from_secs(30));
            let waited = delay.failed();
            assert!(waited >= step / 2 && waited <= step, "after failure {failure}: {waited:?}");
        }
        delay.succeeded();
        assert!(delay.failed() <= Duration::from_millis(200));
    }
}
