//! The way into a pod's network namespace, for direct server return.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::kernel::rtnl::RtnlClient;
use crate::kernel::sysctl::ProcSys;
use crate::proxy::dsr::PodSetup;
use crate::proxy::pod_worker::PodNetwork;
use crate::proxy::pods::{self, Error};

/// Enters the namespaces of this host's processes.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostProcesses;

impl PodNetwork for HostProcesses {
    fn configure(&self, pid: u32, setup: &PodSetup) -> Result<usize, Error> {
        // A thread of its own, which ends with the visit: no other work can ever run in the wrong namespace.
        std::thread::scope(|scope| {
            let visit = std::thread::Builder::new()
                .name("pod-network".to_owned())
                .spawn_scoped(scope, || visit(pid, setup))
                .map_err(|source| Error::Namespace { pid, source })?;
            visit.join().unwrap_or_else(|_| {
                Err(Error::Namespace { pid, source: io::Error::other("the thread inside ended midway") })
            })
        })
    }
}

fn visit(pid: u32, setup: &PodSetup) -> Result<usize, Error> {
    let refused = |source| Error::Namespace { pid, source };
    let namespace = File::open(format!("/proc/{pid}/ns/net")).map_err(refused)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| refused(errno.into()))?;
    let unreachable = |source| Error::Kernel { pod: setup.pod.to_string(), source };
    let mut rtnl = RtnlClient::open().map_err(unreachable)?;
    pods::settle(&mut rtnl, &mut ProcSys::default(), setup, pid)
}
