//! How long to measure.

use std::time::Duration;

use criterion::Criterion;

/// Few samples of large things.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
}
