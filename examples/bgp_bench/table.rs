//! Figures by row and device, the bars they are held to, and the table they end in.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::device::Kind;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// MiB.
    Memory,
    /// KiB.
    Kib,
    /// Parts of a hundred of one core.
    Percent,
    /// A quotient.
    Times,
    /// How many.
    Count,
}

/// What our figure may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bar {
    /// At most this.
    AtMost(f64),
    /// At most so many times the figure of that device.
    Of(Kind, f64),
    /// At most so many times the least figure of any other device.
    Best(f64),
    /// Every single figure from the first to the second.
    Between(f64, f64),
}

/// One line: a figure for each device, once for each turn.
#[derive(Clone, Debug)]
struct Line {
    what: String,
    unit: Unit,
    bars: Vec<Bar>,
    figures: BTreeMap<Kind, Vec<f64>>,
}

/// All lines, in the order in which they were first heard of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    lines: Vec<Line>,
    remarks: Vec<String>,
}

impl Table {
    /// One more figure.
    pub(crate) fn add(&mut self, what: &str, unit: Unit, bars: &[Bar], kind: Kind, figure: f64) {
        if !self.lines.iter().any(|line| line.what == what) {
            let figures = BTreeMap::new();
            self.lines.push(Line { what: what.to_owned(), unit, bars: bars.to_vec(), figures });
        }
        if let Some(line) = self.lines.iter_mut().find(|line| line.what == what) {
            line.figures.entry(kind).or_default().push(figure);
        }
    }

    /// Something to say below the table.
    pub(crate) fn remark(&mut self, text: String) {
        if !self.remarks.contains(&text) {
            self.remarks.push(text);
        }
    }

    /// Whether every bar held, as far as there are figures; nothing measured is nothing held.
    pub(crate) fn passed(&self) -> bool {
        !self.lines.is_empty() && self.lines.iter().all(|line| line.verdicts().iter().all(|(_, holds)| *holds))
    }

    /// The table as Markdown: medians with lowest and highest, then the bars.
    pub(crate) fn markdown(&self) -> String {
        let kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|kind| self.lines.iter().any(|line| line.figures.contains_key(kind)))
            .collect();
        let mut text = String::from("| what |");
        for kind in &kinds {
            push(&mut text, format_args!(" {} |", kind.name()));
        }
        text.push_str(" ours / best other | bar | verdict |\n| --- |");
        for _ in &kinds {
            text.push_str(" ---: |");
        }
        text.push_str(" ---: | --- | --- |\n");
        for line in &self.lines {
            push(&mut text, format_args!("| {} |", line.what));
            for kind in &kinds {
                push(&mut text, format_args!(" {} |", line.show(*kind)));
            }
            let ratio = line.ratio_to_best().map(|ratio| format!("{ratio:.2} ×")).unwrap_or_default();
            let verdicts = line.verdicts();
            let verdict = match verdicts.iter().all(|(_, holds)| *holds) {
                _ if verdicts.is_empty() => "",
                true => "pass",
                false => "**FAIL**",
            };
            let bars: Vec<String> = line.bars.iter().map(|bar| bar.show(line.unit)).collect();
            push(&mut text, format_args!(" {ratio} | {} | {verdict} |\n", bars.join(", ")));
        }
        for remark in &self.remarks {
            push(&mut text, format_args!("\n- {remark}"));
        }
        text
    }
}

impl Line {
    fn median(&self, kind: Kind) -> Option<f64> {
        let figures = self.figures.get(&kind)?;
        sorted(figures).get((figures.len() - 1) / 2).copied()
    }

    fn best_other(&self) -> Option<f64> {
        let others = self.figures.keys().filter(|kind| **kind != Kind::Ferrovia);
        others.filter_map(|kind| self.median(*kind)).min_by(f64::total_cmp)
    }

    fn ratio_to_best(&self) -> Option<f64> {
        Some(self.median(Kind::Ferrovia)? / self.best_other()?)
    }

    /// Each bar that can be judged, and whether it holds.
    fn verdicts(&self) -> Vec<(Bar, bool)> {
        let Some(ours) = self.median(Kind::Ferrovia) else { return Vec::new() };
        let all = self.figures.get(&Kind::Ferrovia);
        let holds = |bar: &Bar| match bar {
            Bar::AtMost(limit) => Some(ours <= *limit),
            Bar::Of(kind, factor) => self.median(*kind).map(|theirs| ours <= theirs * factor),
            Bar::Best(factor) => self.best_other().map(|theirs| ours <= theirs * factor),
            Bar::Between(low, high) => all.map(|all| all.iter().all(|figure| (*low..=*high).contains(figure))),
        };
        self.bars.iter().filter_map(|bar| Some((*bar, holds(bar)?))).collect()
    }

    fn show(&self, kind: Kind) -> String {
        let (Some(median), Some(figures)) = (self.median(kind), self.figures.get(&kind)) else { return String::new() };
        let sorted = sorted(figures);
        match (sorted.first(), sorted.last()) {
            (Some(low), Some(high)) if sorted.len() > 1 => {
                format!("{} ({}–{})", self.unit.show(median), digits(*low), digits(*high))
            }
            _ => self.unit.show(median),
        }
    }
}

impl Bar {
    fn show(self, unit: Unit) -> String {
        match self {
            Bar::AtMost(limit) => format!("≤ {}", unit.show(limit)),
            Bar::Of(kind, factor) => format!("≤ {} × {}", digits(factor), kind.name()),
            Bar::Between(low, high) => format!("{} to {}", digits(low), unit.show(high)),
            Bar::Best(factor) => format!("≤ {} × best", digits(factor)),
        }
    }
}

impl Unit {
    fn show(self, figure: f64) -> String {
        let name = match self {
            Unit::Millis => "ms",
            Unit::Micros => "us",
            Unit::Memory => "MiB",
            Unit::Kib => "KiB",
            Unit::Percent => "%",
            Unit::Times => "×",
            Unit::Count => "",
        };
        format!("{} {name}", digits(figure))
    }
}

/// Three digits that count, as far as there are so many before the point.
fn digits(figure: f64) -> String {
    match figure.abs() {
        v if v < 0.995 => format!("{figure:.2}"),
        v if v < 9.95 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

/// In ascending order.
pub(crate) fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// The figure below which `percent` of them lie (nearest rank).
pub(crate) fn percentile(figures: &[f64], percent: usize) -> f64 {
    let rank = (figures.len() * percent).div_ceil(100).clamp(1, figures.len().max(1));
    sorted(figures).get(rank - 1).copied().unwrap_or(f64::NAN)
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(what);
}
