//! From what a virtual server should be and what the kernel has to ordered ops (pure).
//!
//! Additions go referent first (virtual server, then real servers), removals the other way round. Nothing is deleted
//! and added again where it can be changed in place: deleted real servers stay on a list in the kernel that every
//! later addition walks, and connections die with them.

use std::collections::BTreeMap;

use crate::kernel::ipvs::{
    Op, RealServer, RealServerKey, Scheduler, VirtualServer, VirtualServerKey, VirtualServerSpec,
};

/// Real servers that a virtual server should lose, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Delete it now.
    Now,
    /// Let it keep its connections: weight 0.
    Drain,
}

/// The ops that take one virtual server from observed to desired.
///
/// `removal` says how a real server that is no longer wanted leaves; one that drains stays with weight 0 and keeps its
/// virtual server alive.
pub fn plan_virtual_server(
    key: VirtualServerKey,
    desired: Option<&VirtualServer>,
    observed: Option<&VirtualServer>,
    mut removal: impl FnMut(&RealServer) -> Removal,
) -> Vec<Op> {
    let mut ops = Vec::new();
    let nothing: &[RealServer] = &[];
    let have = observed.map_or(nothing, |observed| &observed.real_servers);
    let Some(desired) = desired else {
        return remove_virtual_server(key, observed, removal);
    };
    let fill_first = fills_before_scheduling(desired, have);
    let first_spec = if fill_first { with_scheduler(&desired.spec, "rr") } else { desired.spec.clone() };
    match observed {
        None => ops.push(Op::AddVirtualServer(key, first_spec)),
        Some(observed) if observed.spec != first_spec => ops.push(Op::SetVirtualServer(key, first_spec)),
        Some(_) => {}
    }
    let mut by_key: BTreeMap<RealServerKey, &RealServer> = have.iter().map(|real| (real.key, real)).collect();
    for real_server in &desired.real_servers {
        match by_key.remove(&real_server.key) {
            None => ops.push(Op::AddRealServer(key, *real_server)),
            Some(observed) if observed != real_server => ops.push(Op::SetRealServer(key, *real_server)),
            Some(_) => {}
        }
    }
    for real_server in by_key.into_values() {
        ops.extend(remove_real_server(key, real_server, &mut removal));
    }
    if fill_first {
        ops.push(Op::SetVirtualServer(key, desired.spec.clone()));
    }
    ops
}

/// What a virtual server is once the ops have worked.
pub fn after(observed: Option<&VirtualServer>, ops: &[Op]) -> Option<VirtualServer> {
    let mut spec = observed.map(|observed| observed.spec.clone());
    let mut real_servers: BTreeMap<RealServerKey, RealServer> =
        observed.iter().flat_map(|observed| observed.real_servers.iter()).map(|real| (real.key, *real)).collect();
    for op in ops {
        match op {
            Op::AddVirtualServer(_, new) | Op::SetVirtualServer(_, new) => spec = Some(new.clone()),
            Op::DeleteVirtualServer(_) => {
                spec = None;
                real_servers.clear();
            }
            Op::AddRealServer(_, real_server) | Op::SetRealServer(_, real_server) => {
                real_servers.insert(real_server.key, *real_server);
            }
            Op::DeleteRealServer(_, key) => {
                real_servers.remove(key);
            }
        }
    }
    spec.map(|spec| VirtualServer { spec, real_servers: real_servers.into_values().collect() })
}

/// The virtual server an op is about.
pub fn target(op: &Op) -> VirtualServerKey {
    match op {
        Op::AddVirtualServer(key, _)
        | Op::SetVirtualServer(key, _)
        | Op::DeleteVirtualServer(key)
        | Op::AddRealServer(key, _)
        | Op::SetRealServer(key, _)
        | Op::DeleteRealServer(key, _) => *key,
    }
}

/// `mh` builds its whole table anew for every real server it is given: on a first load the real servers are added
/// under `rr` and the scheduler comes last, so that the table is built once.
fn fills_before_scheduling(desired: &VirtualServer, have: &[RealServer]) -> bool {
    &*desired.spec.scheduler.0 == "mh" && have.is_empty() && desired.real_servers.len() > 1
}

fn with_scheduler(spec: &VirtualServerSpec, scheduler: &str) -> VirtualServerSpec {
    VirtualServerSpec { scheduler: Scheduler::new(scheduler), scheduler_flags: 0, ..spec.clone() }
}

fn remove_virtual_server(
    key: VirtualServerKey,
    observed: Option<&VirtualServer>,
    mut removal: impl FnMut(&RealServer) -> Removal,
) -> Vec<Op> {
    let Some(observed) = observed else { return Vec::new() };
    let mut ops = Vec::new();
    let mut stays = false;
    for real_server in &observed.real_servers {
        match removal(real_server) {
            Removal::Now => ops.push(Op::DeleteRealServer(key, real_server.key)),
            Removal::Drain => {
                stays = true;
                ops.extend(to_weight_zero(key, real_server));
            }
        }
    }
    if !stays {
        // Deleting the virtual server takes its real servers along, in one message.
        return vec![Op::DeleteVirtualServer(key)];
    }
    ops
}

fn remove_real_server(
    key: VirtualServerKey,
    real_server: &RealServer,
    removal: &mut impl FnMut(&RealServer) -> Removal,
) -> Option<Op> {
    match removal(real_server) {
        Removal::Now => Some(Op::DeleteRealServer(key, real_server.key)),
        Removal::Drain => to_weight_zero(key, real_server),
    }
}

fn to_weight_zero(key: VirtualServerKey, real_server: &RealServer) -> Option<Op> {
    (real_server.weight != 0).then_some(Op::SetRealServer(key, RealServer { weight: 0, ..*real_server }))
}
