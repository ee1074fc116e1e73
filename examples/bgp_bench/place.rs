//! Where a device runs: a network namespace of its own, in which a /16 is ours to the last address.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use ferrovia::testing::lab::{Namespace, report};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Runs `measure` in a namespace that nobody used before: ports, listeners and dying connections of an earlier
/// measurement are not in it.
///
/// # Errors
/// Where the namespace cannot be made, or `measure` says so.
pub(crate) fn fresh<T: Send>(measure: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let name = format!("bgp-bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let names = [name];
    let namespaces = Namespace::create(&names).context("the meter needs root for its network namespaces")?;
    let namespace = namespaces.first().context("no namespace")?;
    // Neighbours are on a subnet of ours, as daemons want them, and yet every address of it is this host.
    let result = namespace
        .ip("link set lo up\nlink add peers type veth peer name end\nlink set end up\n\
             addr add 10.200.0.1/16 dev peers\nlink set peers up\n\
             route add local 10.200.0.0/16 dev lo table local\n")
        .and_then(|()| namespace.run(measure));
    drop(namespaces);
    if let Err(error) = Namespace::delete(&names) {
        report(&format!("bgp_bench: {error:#}"));
    }
    result
}
