//! Numbers and the table they end in.

use std::fmt::Write;
use std::time::Duration;

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

    /// `median (lowest – highest)`.
    pub(crate) fn spread(&self) -> String {
        format!("{} ({} – {})", show(self.median()), show(self.lowest()), show(self.percentile(100)))
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

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// The measurement.
    pub(crate) measured: String,
    /// What it is held against.
    pub(crate) against: String,
    /// The ratio or figure the bar is about.
    pub(crate) figure: String,
    /// The bar, in words; empty for a line that only informs.
    pub(crate) bar: String,
    /// Whether it held.
    pub(crate) passed: bool,
}

impl Row {
    /// A line whose ratio of two medians must stay under a bar.
    pub(crate) fn ratio(what: &str, measured: &Samples, against: (&str, &Samples), at_most: f64) -> Row {
        let ratio = measured.median().as_secs_f64() / against.1.median().as_secs_f64();
        Row {
            what: what.to_owned(),
            measured: measured.spread(),
            against: format!("{}: {}", against.0, against.1.spread()),
            figure: format!("{ratio:.2}"),
            bar: format!("≤ {at_most}"),
            passed: ratio <= at_most,
        }
    }

    /// A line about a count or an amount.
    pub(crate) fn figure(what: &str, measured: String, figure: String, bar: &str, passed: bool) -> Row {
        Row { what: what.to_owned(), measured, against: String::new(), figure, bar: bar.to_owned(), passed }
    }

    /// A line without a bar.
    pub(crate) fn note(what: &str, measured: String, against: String, figure: String) -> Row {
        Row { what: what.to_owned(), measured, against, figure, bar: String::new(), passed: true }
    }
}

/// The table as Markdown.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| scenario | measured: median (lowest – highest) | held against | figure | bar | verdict |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let verdict = match (row.bar.as_str(), row.passed) {
            ("", _) => "",
            (_, true) => "pass",
            (_, false) => "**FAIL**",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {verdict} |",
            row.what, row.measured, row.against, row.figure, row.bar
        );
    }
    text
}
