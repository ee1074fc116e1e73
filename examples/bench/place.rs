//! Where measurements take place: a network namespace that nobody used before.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use ferrovia::testing::lab::{Namespace, report};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Runs `measure` in a namespace of its own that looks like a node.
///
/// # Errors
/// Where the namespace cannot be made, or `measure` says so.
pub(crate) fn fresh<T: Send>(measure: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let name = format!("bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let names = [name];
    let namespaces = Namespace::create(&names)?;
    let namespace = namespaces.first().context("no namespace")?;
    namespace.ip("link set lo up\nlink add eth0 type dummy\nlink set eth0 up\naddr add 192.168.10.11/24 dev eth0\n\
         route add default via 192.168.10.1\n")?;
    // The kernel's rate estimators work beside the measurement and disturb it; and in 6.12 their first calibration can
    // run off the end of its table when a thousand real servers appear meanwhile (oops in ip_vs_estimation_kthread).
    namespace.set_sysctls(&[("net/ipv4/vs/run_estimation", "0")])?;
    let result = namespace.run(measure);
    drop(namespaces);
    if let Err(error) = Namespace::delete(&names) {
        report(&format!("bench: {error:#}"));
    }
    result
}

/// Processor time the calling thread has had.
///
/// # Errors
/// Where the kernel does not tell.
pub(crate) fn cpu_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").context("read the thread's processor time")?;
    let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Ok(Duration::from_nanos(nanos.context("no processor time in schedstat")?))
}
