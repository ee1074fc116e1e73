//! Strings that many values share: namespaces, node names, zones, port names.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// How many strings are kept before those nobody uses any more are looked for.
const FIRST_SWEEP: usize = 1024;

/// Gives out one `Arc<str>` for equal strings. What nobody holds any more is dropped in time.
///
/// Sharing changes no value: two equal strings compare equal whether shared or not.
#[derive(Debug, Default)]
pub struct Names(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    names: BTreeSet<Arc<str>>,
    sweep_at: usize,
}

impl Names {
    /// The shared form of `name`.
    pub fn get(&self, name: &str) -> Arc<str> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.names.get(name) {
            return Arc::clone(known);
        }
        if kept.names.len() >= kept.sweep_at.max(FIRST_SWEEP) {
            kept.names.retain(|known| Arc::strong_count(known) > 1);
            kept.sweep_at = kept.names.len().saturating_mul(2);
        }
        let shared: Arc<str> = Arc::from(name);
        kept.names.insert(Arc::clone(&shared));
        shared
    }

    /// How many strings are kept.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).names.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_share_and_unused_ones_go() {
        let names = Names::default();
        let first = names.get("kube-system");
        assert!(Arc::ptr_eq(&first, &names.get("kube-system")));
        for number in 0..10 * FIRST_SWEEP {
            names.get(&format!("pod-{number}"));
        }
        assert!(names.len() <= 2 * FIRST_SWEEP, "{} strings kept", names.len());
        assert!(Arc::ptr_eq(&first, &names.get("kube-system")));
    }
}
