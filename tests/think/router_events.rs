//! What the router reads again for what others change in the kernel, over fakes: routes only where one of ours may have
//! gone, and never for what peers tell.

use ferrovia::kernel::rtnl::monitor::Event;
use ferrovia::kernel::rtnl::{Address, Op, Route, RouteFilter, RouteKind, Rtnl, protocol, table};
use ferrovia::model::{Generation, Snapshot};
use ferrovia::reconcile::{Read, Subsystem};
use ferrovia::routing::config::Config;
use ferrovia::testing::builders::{cluster, ip, prefix, with_nodes};
use ferrovia::testing::node::FakeNode;
use ferrovia::testing::router::{FakeRouterRoom, RouterNode, pass};

const GATEWAY: &str = "192.168.10.1";
/// The node's link, as [`FakeNode`] numbers it.
const UPLINK: u32 = 2;
/// A link of a pod: no address of the node is on it.
const VETH: u32 = 4000;

/// A router that has learned so many routes, and has them in its kernel.
struct Scene {
    router: RouterNode,
    room: FakeRouterRoom,
    snapshot: Snapshot,
    seconds: u64,
}

impl Scene {
    fn with_routes(n: u32) -> Scene {
        let router = RouterNode::on(FakeNode::new());
        let room = router.room(&Config::default(), false);
        let mut snapshot = with_nodes(cluster("n1").build());
        snapshot.generation = Generation(1);
        let mut scene = Scene { router, room, snapshot, seconds: 0 };
        (0..n).for_each(|number| scene.learn(number));
        scene.router.speaker.settle();
        scene.pass(Read::Kernel);
        assert!(n == 0 || (scene.leads(0) && scene.leads(n - 1)));
        scene
    }

    fn learn(&mut self, number: u32) {
        self.router.speaker.learn(&destination(number), &[GATEWAY]);
    }

    /// One pass that goes well; how many changes it wrote.
    fn pass(&mut self, read: Read) -> usize {
        self.seconds += 1;
        let outcome = pass(&mut self.room, &self.snapshot, read, self.seconds);
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        outcome.ops
    }

    /// How much the room reads for an event, which it then does.
    fn hears(&mut self, event: Event) -> Option<Read> {
        let read = self.room.heed(&vec![event])?;
        self.pass(read);
        Some(read)
    }

    /// How often a table with learned routes was read.
    fn dumps(&self) -> usize {
        let rtnl = self.router.node.rtnl.open();
        rtnl.route_dumps().iter().filter(|filter| filter.table.is_none_or(|table| table == table::MAIN)).count()
    }

    /// Whether our route to a learned prefix is in the kernel.
    fn leads(&self, number: u32) -> bool {
        self.has(&ours(number))
    }

    /// Whether a route is in the kernel; to look is no reading of the room's.
    fn has(&self, route: &Route) -> bool {
        let mut apart = self.router.node.rtnl.open().clone();
        apart.routes(RouteFilter::default()).unwrap().contains(route)
    }
}

fn destination(number: u32) -> String {
    format!("20.{}.{}.0/24", number / 256, number % 256)
}

fn ours(number: u32) -> Route {
    Route {
        table: table::MAIN,
        destination: prefix(&destination(number)),
        kind: RouteKind::Unicast,
        protocol: protocol::OURS,
        scope: 0,
        link: Some(UPLINK),
        gateway: Some(ip(GATEWAY)),
        next_hops: Vec::new(),
        source: None,
        metric: 0,
    }
}

fn event(route: &Route) -> Event {
    let Route { table, destination, metric, protocol, .. } = *route;
    Event::Route { table, destination, metric, protocol }
}

#[test]
fn what_peers_tell_reads_no_routes_however_many_there_are() {
    let mut scene = Scene::with_routes(10_000);
    let before = scene.dumps();
    for number in 10_000..10_100 {
        scene.learn(number);
        assert_eq!(scene.pass(Read::Remembered), 1);
        assert!(scene.leads(number));
    }
    for number in 0..100 {
        scene.router.speaker.forget(&destination(number));
        assert_eq!(scene.pass(Read::Remembered), 1);
        assert!(!scene.leads(number));
    }
    // What comes and goes on a node with pods, and what the kernel adds by itself.
    for event in [
        Event::Link { link: VETH, lost: false },
        Event::Link { link: VETH, lost: true },
        Event::Address { link: UPLINK, lost: false },
        Event::Address { link: VETH, lost: true },
        Event::Rule,
    ] {
        assert_eq!(scene.hears(event.clone()), Some(Read::Links), "{event:?}");
    }
    let pod = Route { destination: prefix("10.244.1.9/32"), protocol: 3, ..ours(0) };
    let local = Route { table: table::LOCAL, protocol: protocol::KERNEL, ..pod.clone() };
    let elsewhere = Route { table: 1000, ..pod.clone() };
    for route in [pod, local, elsewhere] {
        assert_eq!(scene.hears(event(&route)), None, "{route}");
    }
    assert_eq!(scene.dumps(), before);
}

#[test]
fn a_route_of_ours_that_somebody_removed_comes_back() {
    let mut scene = Scene::with_routes(3);
    let before = scene.dumps();
    assert_eq!(scene.router.node.rtnl.open().apply(&[Op::DeleteRoute(ours(1))]), [Ok(())]);
    assert!(!scene.leads(1));
    assert_eq!(scene.hears(event(&ours(1))), Some(Read::Routes));
    assert!(scene.leads(1));
    assert_eq!(scene.dumps(), before + 1);
}

#[test]
fn what_may_have_taken_routes_along_reads_them() {
    let lost_link = Event::Link { link: UPLINK, lost: true };
    let lost_address = Event::Address { link: UPLINK, lost: true };
    let tunnels = Event::Route { table: 77, destination: prefix("192.168.30.13/32"), metric: 0, protocol: 3 };
    let replaced = event(&Route { protocol: protocol::STATIC, ..ours(1) });
    for event in [Event::Overflow, lost_link, lost_address, tunnels, replaced] {
        let mut scene = Scene::with_routes(3);
        // The kernel says nothing of a route that goes with its link.
        assert_eq!(scene.router.node.rtnl.open().apply(&[Op::DeleteRoute(ours(1))]), [Ok(())]);
        assert_eq!(scene.hears(event.clone()), Some(Read::Routes), "{event:?}");
        assert!(scene.leads(1), "{event:?}");
    }
}

#[test]
fn a_tunnel_that_goes_takes_routes_along() {
    let mut scene = Scene::with_routes(0);
    scene.router.speaker.learn("10.244.3.0/24", &["192.168.30.13"]);
    scene.pass(Read::Remembered);
    let links = scene.router.node.rtnl.open().links().unwrap();
    let tunnel = links.iter().find(|link| link.kind == "ipip").unwrap().index;
    let before = scene.router.routes();
    assert_eq!(scene.router.node.rtnl.open().apply(&[Op::DeleteLink { link: tunnel }]), [Ok(())]);
    assert_ne!(scene.router.routes(), before);
    assert_eq!(scene.hears(Event::Link { link: tunnel, lost: true }), Some(Read::Routes));
    assert_eq!(scene.router.routes().len(), before.len());
}

#[test]
fn a_route_of_somebody_else_bars_ours_whichever_came_first() {
    let mut scene = Scene::with_routes(1);
    let theirs = Route { protocol: protocol::STATIC, gateway: Some(ip("192.168.10.99")), ..ours(7) };
    scene.router.node.rtnl.open().put_route(theirs.clone());
    let before = scene.dumps();
    assert_eq!(scene.hears(event(&theirs)), None, "nothing of ours is there");
    scene.learn(7);
    assert_eq!(scene.pass(Read::Remembered), 0);
    assert!(!scene.leads(7) && scene.has(&theirs));
    assert_eq!(scene.dumps(), before + 1, "looked at once, when it mattered");
    // When it goes, the way is free.
    assert_eq!(scene.router.node.rtnl.open().apply(&[Op::DeleteRoute(theirs.clone())]), [Ok(())]);
    assert_eq!(scene.hears(event(&theirs)), Some(Read::Routes));
    assert!(scene.leads(7));
    // One that came and went is no bar to what is learned afterwards.
    let brief = Route { destination: ours(8).destination, ..theirs };
    assert_eq!(scene.hears(event(&brief)), None);
    scene.learn(8);
    scene.pass(Read::Remembered);
    assert!(scene.leads(8));
}

#[test]
fn routes_follow_the_link_of_their_next_hop_and_only_those() {
    let mut scene = Scene::with_routes(3);
    let other = "198.51.100.1";
    scene.router.speaker.learn("30.0.0.0/24", &[other]);
    scene.pass(Read::Remembered);
    let there = Route { destination: prefix("30.0.0.0/24"), gateway: Some(ip(other)), ..ours(0) };
    assert!(!scene.has(&there), "no link leads there");
    // An address nobody's next hop is on, as the kernel adds one to each link.
    let mut rtnl = scene.router.node.rtnl.open();
    let address = |text| Op::AddAddress(Address { link: UPLINK, prefix: prefix(text), scope: 0 });
    assert_eq!(rtnl.apply(&[address("fe80::1/64")]), [Ok(())]);
    drop(rtnl);
    assert_eq!(scene.hears(Event::Address { link: UPLINK, lost: false }), Some(Read::Links));
    assert!(scene.leads(0) && !scene.has(&there));
    // One that its next hop is on.
    assert_eq!(scene.router.node.rtnl.open().apply(&[address("198.51.100.9/24")]), [Ok(())]);
    assert_eq!(scene.pass(Read::Links), 1);
    assert!(scene.leads(0) && scene.has(&there));
}

#[test]
fn of_two_bars_one_goes_and_one_comes_in_one_reading() {
    let mut scene = Scene::with_routes(0);
    let theirs = |number| Route { protocol: protocol::STATIC, gateway: Some(ip("192.168.10.99")), ..ours(number) };
    scene.router.node.rtnl.open().put_route(theirs(0));
    scene.pass(Read::Routes);
    scene.learn(0);
    scene.pass(Read::Remembered);
    assert!(!scene.leads(0));
    scene.learn(1);
    scene.pass(Read::Remembered);
    let mut rtnl = scene.router.node.rtnl.open();
    assert_eq!(rtnl.apply(&[Op::DeleteRoute(theirs(0)), Op::DeleteRoute(ours(1))]), [Ok(()), Ok(())]);
    rtnl.put_route(theirs(1));
    drop(rtnl);
    scene.pass(Read::Routes);
    assert!(scene.leads(0), "the way is free");
    assert!(!scene.leads(1) && scene.has(&theirs(1)), "and this one is taken");
}

#[test]
fn the_speaker_hears_of_networks_that_go_with_their_link_and_come_back() {
    let mut scene = Scene::with_routes(1);
    let lost =
        |scene: &Scene| -> Vec<String> { scene.router.speaker.open().lost.iter().map(ToString::to_string).collect() };
    assert_eq!(lost(&scene), [""; 0]);
    scene.router.node.rtnl.open().set_carrier(UPLINK, false);
    assert_eq!(scene.hears(Event::Link { link: UPLINK, lost: false }), Some(Read::Links));
    assert!(lost(&scene).contains(&"192.168.10.0/24".to_owned()), "{:?}", lost(&scene));
    scene.router.node.rtnl.open().set_carrier(UPLINK, true);
    assert_eq!(scene.hears(Event::Link { link: UPLINK, lost: false }), Some(Read::Links));
    assert_eq!(lost(&scene), [""; 0]);
}
