//! Clusters from YAML text, through the same conversion a live cluster takes.

use crate::k8s::{Report, load_text};
use crate::model::{NodeName, Snapshot};

/// The snapshot a daemon on `node` makes of a YAML text. What the text says must all be usable.
///
/// # Panics
///
/// When anything in the text cannot be read: a test cluster with a typing error proves nothing.
#[expect(clippy::panic, reason = "a test cluster that cannot be read is a broken test")]
pub fn snapshot_from_yaml(text: &str, node: &str) -> Snapshot {
    let (snapshot, reports) = snapshot_and_reports(text, node);
    if !reports.is_empty() {
        let reports: Vec<String> = reports.iter().map(ToString::to_string).collect();
        panic!("the test cluster cannot be read:\n{}", reports.join("\n"));
    }
    snapshot
}

/// The snapshot a daemon on `node` makes of a YAML text, and what it could not use.
pub fn snapshot_and_reports(text: &str, node: &str) -> (Snapshot, Vec<Report>) {
    load_text(text, &NodeName::new(node))
}
