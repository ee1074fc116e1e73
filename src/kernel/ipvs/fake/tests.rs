//! The fake passes the contract, and does what only a fake can.

use super::*;
use crate::kernel::ipvs::Scheduler;
use crate::net::Protocol;
use crate::testing::contract::ipvs as contract;

#[test]
fn passes_the_contract() {
    for (_, check) in contract::all::<FakeIpvs>() {
        check(&mut FakeIpvs::new());
    }
    contract::finds_old_connections_in_the_trash(&mut FakeIpvs::new(), |fake, key, real| {
        fake.set_connections(key, real, Connections { inactive: 1, ..Connections::default() });
    });
}

fn key() -> VirtualServerKey {
    VirtualServerKey::Address { address: "10.96.0.1".parse().unwrap(), protocol: Protocol::Tcp, port: 80 }
}

fn spec() -> VirtualServerSpec {
    VirtualServerSpec {
        scheduler: Scheduler::new("rr"),
        scheduler_flags: 0,
        persistence: None,
        persistence_prefix: 32,
        one_packet: false,
    }
}

fn real(last: u8) -> RealServer {
    RealServer {
        key: RealServerKey { address: IpAddr::from([10, 0, 0, last]), port: 8080 },
        forwarding: Forwarding::Masquerade,
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
    }
}

#[test]
fn planned_failures_hit_the_ops_they_name_once() {
    let mut fake = FakeIpvs::new();
    fake.fail_next(|op| matches!(op, Op::AddRealServer(_, real) if real.weight == 1), Refusal::ENOMEM);
    fake.fail_nth(3, Refusal::EPERM);
    let ops = [
        Op::AddVirtualServer(key(), spec()),
        Op::AddRealServer(key(), RealServer { weight: 2, ..real(1) }),
        Op::AddRealServer(key(), real(2)),
        Op::AddRealServer(key(), real(2)),
        Op::AddRealServer(key(), real(3)),
    ];
    let kinds: Vec<_> = fake.apply(&ops).into_iter().map(|result| result.err().map(|error| error.kind)).collect();
    assert_eq!(kinds, [None, None, Some(Disposition::Retry), None, Some(Disposition::Fatal)]);
    assert_eq!(fake.table()[&key()].real_servers.len(), 2);
    assert_eq!((fake.log.len(), fake.sends), (5, 1));
    fake.fail_next_dump(Refusal::EINTR);
    assert_eq!(fake.dump().unwrap_err().kind, Disposition::Retry);
    assert_eq!(fake.dump().unwrap().len(), 1);
    assert_eq!(fake.dumps, 1);
}

#[test]
fn a_lost_answer_is_stale_although_it_was_done() {
    let mut fake = FakeIpvs::new();
    fake.lose_answer_of_next(|_| true);
    let result = fake.apply(&[Op::AddVirtualServer(key(), spec())]);
    assert_eq!(result[0].as_ref().unwrap_err().kind, Disposition::Stale);
    assert!(fake.table().contains_key(&key()));
}

#[test]
fn deleting_keeps_connections_in_the_trash_or_cuts_them() {
    let connections = Connections { active: 2, inactive: 1, persistent: 0 };
    for cuts in [false, true] {
        let mut fake = FakeIpvs { delete_cuts_connections: cuts, ..FakeIpvs::new() };
        let ops = [Op::AddVirtualServer(key(), spec()), Op::AddRealServer(key(), real(1))];
        assert!(fake.apply(&ops).iter().all(Result::is_ok));
        fake.set_connections(&key(), &real(1).key, connections);
        assert_eq!(fake.connections(&key()).unwrap(), [(real(1).key, connections)]);
        let again = [Op::DeleteRealServer(key(), real(1).key), Op::AddRealServer(key(), real(1))];
        assert!(fake.apply(&again).iter().all(Result::is_ok));
        let want = if cuts { Connections::default() } else { connections };
        assert_eq!(fake.connections(&key()).unwrap(), [(real(1).key, want)]);
        assert_eq!(fake.connections_cut, if cuts { 3 } else { 0 });
    }
}

#[test]
fn a_missing_scheduler_module_is_named() {
    let mut fake = FakeIpvs::new();
    fake.without_scheduler("mh");
    let spec = VirtualServerSpec { scheduler: Scheduler::new("mh"), ..spec() };
    let error = fake.apply(&[Op::AddVirtualServer(key(), spec)]).remove(0).unwrap_err();
    assert_eq!(error.kind, Disposition::Fatal);
    assert_eq!(error.message, "scheduler mh is not available: load kernel module ip_vs_mh");
}
