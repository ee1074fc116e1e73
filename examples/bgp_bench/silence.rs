//! When a BFD peer's packets really left, so that whoever lost it is blamed only where it had sent in time.

use std::fmt;
use std::time::{Duration, Instant};

/// A time without a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gap {
    /// How long it was for sure: from the end of one sending to the beginning of the next.
    pub(crate) lasted: Duration,
    /// Its end, since watching began.
    pub(crate) until: Duration,
}

/// The peer was lost once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss {
    /// When the peer read of it, since watching began.
    at: Duration,
    /// The longest gap that ended within the detection time before, or goes on.
    gap: Duration,
    /// That gap was as long as the detection time: who lost the peer was right.
    pub(crate) was_silent: bool,
}

/// The diary.
#[derive(Debug)]
pub(crate) struct Silence {
    detection: Duration,
    begun: Instant,
    /// When the last packet had left.
    last: Instant,
    /// Gaps that ended within the detection time.
    recent: Vec<Gap>,
    longest: Gap,
    losses: Vec<Loss>,
}

impl Silence {
    /// A peer that has said nothing yet. It is lost after `detection` without a packet.
    pub(crate) fn new(detection: Duration) -> Silence {
        let now = Instant::now();
        Silence { detection, begun: now, last: now, recent: Vec::new(), longest: Gap::default(), losses: Vec::new() }
    }

    /// Watching begins: what was before is forgotten.
    pub(crate) fn begin(&mut self) {
        *self = Silence { last: self.last, begun: Instant::now(), ..Silence::new(self.detection) };
    }

    /// Watching ends: the longest gap, and how often the peer was lost.
    pub(crate) fn end(&mut self) -> (Gap, Vec<Loss>) {
        (self.longest, std::mem::take(&mut self.losses))
    }

    /// A packet left between the two.
    pub(crate) fn ended(&mut self, before: Instant, after: Instant) {
        let gap = Gap { lasted: before - self.last, until: before.saturating_duration_since(self.begun) };
        self.last = after;
        let since = gap.until.saturating_sub(self.detection);
        self.recent.retain(|gap| gap.until >= since);
        self.recent.push(gap);
        if gap.lasted > self.longest.lasted {
            self.longest = gap;
        }
    }

    /// The peer reads that it was lost.
    pub(crate) fn lost(&mut self, now: Instant) {
        let at = now.saturating_duration_since(self.begun);
        let since = at.saturating_sub(self.detection);
        let recent = self.recent.iter().filter(|gap| gap.until >= since).map(|gap| gap.lasted);
        let gap = recent.fold(now - self.last, Duration::max);
        self.losses.push(Loss { at, gap, was_silent: gap >= self.detection });
    }

    /// When the last packet had left.
    pub(crate) fn last(&self) -> Instant {
        self.last
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { at, gap, was_silent } = self;
        let verdict = if *was_silent { "it had been silent for" } else { "false, it had been silent for no more than" };
        write!(f, "the peer was lost at {:.1} s; {verdict} {} ms", at.as_secs_f64(), gap.as_millis())
    }
}
