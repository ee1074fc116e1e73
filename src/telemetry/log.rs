//! The log: one event for each line on standard error, as text for people or JSON for machines.
//!
//! ERROR: somebody must act. WARN: degraded, we retry. INFO: state changed. DEBUG: one line for each pass that did
//! something. TRACE: each operation.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// How to log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// JSON, not text.
    pub json: bool,
    /// `-v`: less than 0 tells only what is wrong, 0 and 1 tell state changes (1 those of libraries, too), 2 adds a line for each pass, 3 each operation.
    pub verbosity: i32,
    /// `RUST_LOG`, which overrides the verbosity (`warn,ferrovia::proxy=trace`).
    pub filter: Option<String>,
}

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `RUST_LOG` cannot be read.
    #[error("RUST_LOG={value:?} is not a log filter such as info or warn,ferrovia=debug: {reason}")]
    BadFilter {
        /// Its value.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// Somebody else set up a log in this process before.
    #[error("the log was set up twice: {0}")]
    Twice(String),
}

/// Send all log lines of this process to standard error.
///
/// # Errors
/// A filter that cannot be read, or a second call.
pub fn init(options: &LogOptions) -> Result<(), LogError> {
    let subscriber = subscriber(options, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|error| LogError::Twice(error.to_string()))
}

/// The subscriber that writes to `writer`.
///
/// # Errors
/// A filter that cannot be read.
pub fn subscriber<W>(options: &LogOptions, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter = filter(options)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    // Told to standard error otherwise, which panics where that is what cannot be written.
    let builder = builder.log_internal_errors(false);
    Ok(if options.json {
        Box::new(builder.json().flatten_event(true).with_current_span(false).finish())
    } else {
        Box::new(builder.event_format(Line).finish())
    })
}

fn filter(options: &LogOptions) -> Result<EnvFilter, LogError> {
    if let Some(value) = options.filter.as_deref().filter(|value| !value.trim().is_empty()) {
        return EnvFilter::builder()
            .parse(value)
            .map_err(|error| LogError::BadFilter { value: value.to_owned(), reason: error.to_string() });
    }
    let directives = match options.verbosity {
        // Libraries warn of every reconnection; our own line for it says more.
        i32::MIN..=-1 => "warn,kube_runtime=error,kube_client=error",
        0 => "warn,kube_runtime=error,kube_client=error,ferrovia=info",
        1 => "info",
        2 => "info,ferrovia=debug",
        3.. => "info,ferrovia=trace",
    };
    EnvFilter::builder()
        .parse(directives)
        .map_err(|error| LogError::BadFilter { value: directives.to_owned(), reason: error.to_string() })
}

/// `2026-01-31T12:00:00.000000Z INFO  proxy: message key=value`, then the fields of the spans around it.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        SystemTime.format_time(&mut writer)?;
        let metadata = event.metadata();
        write!(writer, " {:<5} {}: ", level_word(*metadata.level()), part(metadata.target()))?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
                write!(writer, " {fields}")?;
            }
        }
        writeln!(writer)
    }
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

/// The part of the program a module belongs to: `proxy` for `ferrovia::proxy::reconciler`, the crate for others.
fn part(target: &str) -> &str {
    match target.strip_prefix("ferrovia::") {
        Some(inner) => inner.split("::").next().unwrap_or(inner),
        None => target.split("::").next().unwrap_or(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sink;

    fn logged(options: &LogOptions, body: impl FnOnce()) -> String {
        sink::logged(|sink| subscriber(options, move || sink.clone()).unwrap(), body)
    }

    #[test]
    fn a_text_line_has_time_level_part_message_and_fields() {
        let text = logged(&LogOptions::default(), || {
            let span = tracing::info_span!(target: "ferrovia::reconcile", "reconcile", room = "proxy");
            span.in_scope(|| tracing::info!(target: "ferrovia::proxy::reconciler", n_ops = 3, "pass ended"));
        });
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{text}");
        assert_eq!(rest, "INFO  proxy: pass ended n_ops=3 room=\"proxy\"\n");
    }

    #[test]
    fn json_lines_parse_and_hold_the_fields() {
        let options = LogOptions { json: true, ..LogOptions::default() };
        let text = logged(&options, || tracing::warn!(target: "ferrovia::k8s", kind = "Service", "watch restarted"));
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "watch restarted");
        assert_eq!(line["kind"], "Service");
        assert_eq!(line["level"], "WARN");
    }

    #[test]
    fn verbosity_decides_what_is_told_and_rust_log_wins() {
        let emit = || {
            tracing::debug!(target: "ferrovia::proxy", "debug line");
            tracing::trace!(target: "ferrovia::proxy", "trace line");
            tracing::info!(target: "kube_client", "library line");
        };
        let lines = |verbosity, filter: Option<&str>| {
            logged(&LogOptions { json: false, verbosity, filter: filter.map(str::to_owned) }, emit).lines().count()
        };
        assert_eq!([lines(0, None), lines(1, None), lines(2, None), lines(3, None), lines(9, None)], [0, 1, 2, 3, 3]);
        assert_eq!(lines(9, Some("ferrovia=debug")), 1);
        let bad = LogOptions { filter: Some("ferrovia=loud".into()), ..LogOptions::default() };
        assert!(filter(&bad).is_err());
    }
}
