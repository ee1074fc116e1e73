//! `gen-docs`: the generated pages of the user documents.

use crate::cli::docs::{self, Page};
use crate::telemetry::registry;

/// The text of a page.
pub fn page(page: Page) -> String {
    match page {
        Page::Flags => docs::flags_page(),
        Page::Config => docs::config_page(),
        Page::Metrics => registry::metrics_page(),
        Page::Annotations => annotations_page(),
    }
}
