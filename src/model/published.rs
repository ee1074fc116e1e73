//! A snapshot on its way to the rooms.

use std::sync::Arc;
use std::time::Duration;

use super::Snapshot;

/// A snapshot with the arrival time of the oldest event in it, so that whoever brings it into force can say how long
/// that took.
#[derive(Clone, Debug)]
pub struct Published {
    /// The cluster.
    pub snapshot: Arc<Snapshot>,
    /// When the oldest event of this snapshot arrived, as time since the daemon started.
    pub oldest_event: Duration,
}
