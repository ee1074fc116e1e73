//! Numbers and the table they end in.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Repeated measurements of one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one measurement.
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which `percent` of them lie (nearest rank); zero without any.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len().max(1));
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    /// The lowest: what the machine can do when nobody disturbs it.
    pub(crate) fn lowest(&self) -> Duration {
        self.percentile(0)
    }

    /// The middle.
    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// The highest.
    pub(crate) fn highest(&self) -> Duration {
        self.percentile(100)
    }

    /// `median (lowest – highest)`.
    pub(crate) fn spread(&self) -> String {
        format!("{} ({} – {})", show(self.median()), show(self.lowest()), show(self.highest()))
    }
}

/// A duration with three digits, in a fitting unit.
pub(crate) fn show(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    let (value, unit) = match micros {
        m if m < 1e3 => (m, "us"),
        m if m < 1e6 => (m / 1e3, "ms"),
        m => (m / 1e6, "s"),
    };
    let digits = match value {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// The quotients of measurements taken in turn, in ascending order: what disturbs the machine for a while disturbs
/// both sides of a quotient.
fn quotients(measured: &Samples, against: &Samples) -> Vec<f64> {
    let mut all: Vec<f64> =
        measured.0.iter().zip(&against.0).map(|(ours, theirs)| ours.as_secs_f64() / theirs.as_secs_f64()).collect();
    all.sort_unstable_by(f64::total_cmp);
    all
}

/// One line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// The bar, in words; empty for a line that only informs.
    pub(crate) bar: String,
    /// The measurement, and what it is held against.
    pub(crate) measured: String,
    /// Whether it held.
    pub(crate) passed: bool,
}

impl Row {
    /// A line about the quotient of two measurements taken in turn, whose median must not be above the bar; no bar,
    /// no verdict.
    pub(crate) fn ratio(what: &str, measured: &Samples, against: (&str, &Samples), at_most: Option<f64>) -> Row {
        let quotients = quotients(measured, against.1);
        let median = quotients.get((quotients.len().max(1) - 1) / 2).copied().unwrap_or(f64::NAN);
        let (lowest, highest) =
            (quotients.first().copied().unwrap_or(f64::NAN), quotients.last().copied().unwrap_or(f64::NAN));
        Row {
            what: what.to_owned(),
            bar: at_most.map(|bar| format!("≤ {bar} × {}", against.0)).unwrap_or_default(),
            measured: format!(
                "{median:.2} × ({lowest:.2} – {highest:.2}): {} against {}: {}",
                measured.spread(),
                against.0,
                against.1.spread()
            ),
            passed: at_most.is_none_or(|bar| median <= bar),
        }
    }

    /// A line about a count or an amount.
    pub(crate) fn figure(what: &str, measured: String, bar: &str, passed: bool) -> Row {
        Row { what: what.to_owned(), bar: bar.to_owned(), measured, passed }
    }

    /// A line without a bar.
    pub(crate) fn note(what: &str, measured: String) -> Row {
        Row { what: what.to_owned(), bar: String::new(), measured, passed: true }
    }
}

/// The table as Markdown.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text =
        String::from("| what | bar | measured: median (lowest – highest) | verdict |\n| --- | --- | --- | --- |\n");
    for row in rows {
        let verdict = match (row.bar.as_str(), row.passed) {
            ("", _) => "",
            (_, true) => "pass",
            (_, false) => "**FAIL**",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {} | {} | {} | {verdict} |", row.what, row.bar, row.measured);
    }
    text
}
