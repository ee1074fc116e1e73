//! Which scheduler a virtual server gets, and whether clients stick (pure).

use crate::kernel::ipvs::{Scheduler as KernelScheduler, VirtualServerSpec};
use crate::model::{Scheduler, Service};
use crate::net::Family;

/// The virtual server settings a Service asks for.
///
/// - Without an annotation the scheduler is `rr`, or `wrr` when weights are given, because `rr` ignores weights.
/// - Scheduler flags mean something to `mh` and `sh` only; others get none.
/// - Client-IP affinity becomes IPVS persistence with the Service's timeout.
pub fn spec_for(service: &Service, family: Family) -> VirtualServerSpec {
    let scheduler = service.settings.scheduler.unwrap_or(if service.settings.weights.is_empty() {
        Scheduler::Rr
    } else {
        Scheduler::Wrr
    });
    let takes_flags = matches!(scheduler, Scheduler::Mh | Scheduler::Sh);
    VirtualServerSpec {
        scheduler: KernelScheduler::new(kernel_name(scheduler)),
        scheduler_flags: if takes_flags { service.settings.scheduler_flags } else { 0 },
        persistence: service.affinity.map(|affinity| affinity.timeout),
        persistence_prefix: family.host_length(),
        one_packet: false,
    }
}

/// The kernel's name of a scheduler, as in `ip_vs_<name>`.
pub fn kernel_name(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::Rr => "rr",
        Scheduler::Wrr => "wrr",
        Scheduler::Lc => "lc",
        Scheduler::Wlc => "wlc",
        Scheduler::Sed => "sed",
        Scheduler::Nq => "nq",
        Scheduler::Sh => "sh",
        Scheduler::Dh => "dh",
        Scheduler::Mh => "mh",
        Scheduler::Lblc => "lblc",
        Scheduler::Lblcr => "lblcr",
        Scheduler::Fo => "fo",
        Scheduler::Ovf => "ovf",
    }
}
