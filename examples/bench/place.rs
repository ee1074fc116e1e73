//! Where measurements take place: a network namespace that nobody used before.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrovia::testing::lab::{Namespace, report};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Whether IPVS estimates rates; only where it is loaded.
const ESTIMATION: &str = "net/ipv4/vs/run_estimation";

/// What makes a namespace look like a node.
const NODE: &str = "link set lo up\nlink add eth0 type dummy\nlink set eth0 up\naddr add 192.168.10.11/24 dev eth0\n\
                    route add default via 192.168.10.1\n";

/// Runs `measure` in a namespace of its own that looks like a node.
///
/// # Errors
/// Where the namespace cannot be made, or `measure` says so.
pub(crate) fn fresh<T: Send>(measure: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    wired(NODE, measure)
}

/// Runs `measure` in a namespace of its own that has its loopback and nothing else.
///
/// # Errors
/// Where the namespace cannot be made, or `measure` says so.
pub(crate) fn bare<T: Send>(measure: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    wired("link set lo up\n", measure)
}

/// Runs `measure` in a namespace of its own, made by these lines of `ip`.
fn wired<T: Send>(lines: &str, measure: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let name = format!("bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let names = [name];
    let namespaces = Namespace::create(&names)?;
    let result = namespaces.first().context("no namespace").and_then(|namespace| {
        namespace.ip(lines)?;
        // The kernel's rate estimators work beside the measurement and disturb it; and in 6.12 their first calibration can
        // run off the end of its table when a thousand real servers appear meanwhile (oops in ip_vs_estimation_kthread).
        if namespace.sysctl(ESTIMATION).is_ok() {
            namespace.set_sysctls(&[(ESTIMATION, "0")])?;
        }
        settle()?;
        namespace.run(measure)
    });
    drop(namespaces);
    if let Err(error) = Namespace::delete(&names) {
        report(&format!("bench: {error:#}"));
    }
    result
}

/// How long the machine is looked at to tell whether it is quiet.
const WINDOW: Duration = Duration::from_millis(200);
/// Processor time that may be in use then, in parts of a hundred.
const QUIET: u64 = 15;
/// How long to wait for that; a kernel that counts connections of 60,000 servers every two seconds never is all quiet.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until nobody else uses the processor: the kernel takes a namespace apart long after it has been deleted.
///
/// # Errors
/// Where the kernel does not tell how busy it is.
pub(crate) fn settle() -> Result<()> {
    let start = Instant::now();
    let mut before = ticks()?;
    loop {
        std::thread::sleep(WINDOW);
        let now = ticks()?;
        let (idle, all) = (now.0 - before.0, (now.1 - before.1).max(1));
        if 100 - (idle * 100 / all).min(100) <= QUIET || start.elapsed() > PATIENCE {
            return Ok(());
        }
        before = now;
    }
}

/// Idle time and all time of all processors since boot, in the kernel's ticks.
fn ticks() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").context("read how busy the processors are")?;
    let line = text.lines().next().unwrap_or_default();
    let numbers: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let idle = numbers.get(3).context("no idle time in /proc/stat")?;
    Ok((*idle, numbers.iter().sum()))
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
