//! What every [`Rtnl`] must do. Each function takes an empty namespace (or a new fake) and panics where the promise is
//! broken.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    reason = "a broken promise must stop the test; the kernel does not know paused clocks"
)]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::kernel::error::Disposition;
use crate::kernel::netlink::Refusal;
use crate::kernel::rtnl::{
    Address, Gue, Link, LinkName, NextHop, Op, Route, RouteFilter, RouteKind, Rtnl, Rule, Tunnel, protocol, table,
};
use crate::net::{Family, Prefix};

/// How long the kernel may take for what it does in the background. Generous: an emulated guest is slow.
const SOON: Duration = Duration::from_secs(20);
/// A table nobody else uses.
const TABLE: u32 = 1077;

/// A promise and its name, about the link with the index it is given.
pub type PromiseOnLink<N> = (&'static str, fn(&mut N, u32));

/// A promise and its name.
pub type Promise<N> = (&'static str, fn(&mut N));

/// Every promise about addresses, routes and rules, by name. Beside the namespace they take the index of a link in it
/// which is up and has no addresses but link-local ones.
pub fn promises<N: Rtnl>() -> Vec<PromiseOnLink<N>> {
    vec![
        ("an_address_brings_its_local_route", an_address_brings_its_local_route),
        ("an_ipv6_address_is_usable_at_once", an_ipv6_address_is_usable_at_once),
        ("local_routes_say_their_source", local_routes_say_their_source),
        ("a_source_must_be_ours", a_source_must_be_ours),
        ("routes_of_every_kind_read_back", routes_of_every_kind_read_back),
        ("dead_ends_of_both_families_read_back", dead_ends_of_both_families_read_back),
        ("routes_have_several_next_hops", routes_have_several_next_hops),
        ("ipv4_goes_by_an_ipv6_gateway", ipv4_goes_by_an_ipv6_gateway),
        ("a_link_has_the_mtu_it_was_given", a_link_has_the_mtu_it_was_given),
        ("filters_find_what_they_name", filters_find_what_they_name),
        ("a_gateway_must_be_on_a_link", a_gateway_must_be_on_a_link),
        ("rules_come_and_go", rules_come_and_go),
        ("a_failed_op_leaves_the_others_done", a_failed_op_leaves_the_others_done),
        ("many_routes_come_and_go", many_routes_come_and_go),
        ("a_link_that_goes_down_drops_routes", a_link_that_goes_down_drops_routes),
        ("an_address_takes_routes_from_it_along", an_address_takes_routes_from_it_along),
        ("a_missing_link_is_a_stale_picture", a_missing_link_is_a_stale_picture),
    ]
}

/// Every promise about links, by name. They need a kernel with dummy links and IP tunnels.
pub fn link_promises<N: Rtnl>() -> Vec<Promise<N>> {
    vec![
        ("dummies_come_and_go", dummies_come_and_go),
        ("bridges_come_and_go", bridges_come_and_go),
        ("tunnels_come_and_go", tunnels_come_and_go),
        ("tunnels_say_what_they_were_made_with", tunnels_say_what_they_were_made_with),
        ("a_link_takes_everything_on_it_along", a_link_takes_everything_on_it_along),
    ]
}

fn done(rtnl: &mut impl Rtnl, op: Op) {
    if let Some(Err(error)) = rtnl.apply(&[op]).pop() {
        panic!("{error}");
    }
}

fn refused(rtnl: &mut impl Rtnl, op: Op) -> (Option<i32>, Disposition) {
    let text = op.to_string();
    let error = rtnl.apply(&[op]).pop().expect("one answer per op").expect_err("it must be refused");
    assert_eq!(error.op, text, "the error names the op");
    (error.errno, error.kind)
}

fn address(link: u32, prefix: &str, scope: u8) -> Address {
    Address { link, prefix: prefix.parse().expect("a prefix"), scope }
}

fn local(link: u32, destination: &str, source: Option<&str>) -> Route {
    let destination: Prefix = destination.parse().expect("a prefix");
    Route {
        table: table::LOCAL,
        destination,
        kind: RouteKind::Local,
        protocol: protocol::OURS,
        scope: if destination.addr().is_ipv4() { 254 } else { 0 },
        link: Some(link),
        gateway: None,
        next_hops: Vec::new(),
        source: source.map(ip),
        metric: 0,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Routes to this destination in every table.
fn routes_to(rtnl: &mut impl Rtnl, destination: &str) -> Vec<Route> {
    let destination: Prefix = destination.parse().expect("a prefix");
    let mut found = rtnl.routes(RouteFilter::default()).expect("routes can be read");
    found.retain(|route| route.destination == destination);
    found
}

/// Waits until these are the routes to a destination: Linux adds the local route of an IPv6 address in its own time.
fn until_routes_to(rtnl: &mut impl Rtnl, destination: &str, expected: &[Route]) {
    let deadline = Instant::now() + SOON;
    loop {
        let found = routes_to(rtnl, destination);
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} and not {expected:?}");
        std::thread::yield_now();
    }
}

fn an_address_brings_its_local_route(rtnl: &mut impl Rtnl, link: u32) {
    let vip = address(link, "10.96.0.1/32", 253);
    done(rtnl, Op::AddAddress(vip));
    assert!(rtnl.addresses(Some(link)).expect("addresses").contains(&vip));
    assert!(rtnl.addresses(None).expect("addresses").contains(&vip));
    assert!(!rtnl.addresses(Some(1)).expect("addresses").contains(&vip));
    let made = Route { protocol: protocol::KERNEL, ..local(link, "10.96.0.1/32", Some("10.96.0.1")) };
    assert_eq!(routes_to(rtnl, "10.96.0.1/32"), [made]);
    assert_eq!(refused(rtnl, Op::AddAddress(vip)), (Some(Refusal::EEXIST), Disposition::AlreadySo));
    done(rtnl, Op::DeleteAddress(vip));
    assert!(!rtnl.addresses(None).expect("addresses").contains(&vip));
    assert!(routes_to(rtnl, "10.96.0.1/32").is_empty());
    assert_eq!(refused(rtnl, Op::DeleteAddress(vip)), (Some(Refusal::EADDRNOTAVAIL), Disposition::AlreadySo));
    // A block brings the way to it, too.
    done(rtnl, Op::AddAddress(address(link, "192.0.2.1/24", 0)));
    let [way] = routes_to(rtnl, "192.0.2.0/24").try_into().expect("one connected route");
    assert_eq!((way.kind, way.protocol, way.scope), (RouteKind::Unicast, protocol::KERNEL, 253));
    assert_eq!((way.link, way.source), (Some(link), Some(ip("192.0.2.1"))));
}

fn an_ipv6_address_is_usable_at_once(rtnl: &mut impl Rtnl, link: u32) {
    let vip = address(link, "fd00:96::1/128", 0);
    done(rtnl, Op::AddAddress(vip));
    assert!(rtnl.addresses(Some(link)).expect("addresses").contains(&vip));
    // Its local route and nothing else.
    let made = Route { protocol: protocol::KERNEL, ..local(link, "fd00:96::1/128", None) };
    until_routes_to(rtnl, "fd00:96::1/128", &[made]);
    assert_eq!(refused(rtnl, Op::AddAddress(vip)), (Some(Refusal::EEXIST), Disposition::AlreadySo));
    // Usable at once: routes may prefer it as their source.
    let route = local(link, "fd00:96::2/128", Some("fd00:96::1"));
    done(rtnl, Op::ReplaceRoute(route.clone()));
    assert_eq!(routes_to(rtnl, "fd00:96::2/128"), [route]);
    done(rtnl, Op::DeleteAddress(vip));
    assert!(routes_to(rtnl, "fd00:96::1/128").is_empty());
    assert_eq!(refused(rtnl, Op::DeleteAddress(vip)), (Some(Refusal::EADDRNOTAVAIL), Disposition::AlreadySo));
    let left = routes_to(rtnl, "fd00:96::2/128");
    assert_eq!(left, [local(link, "fd00:96::2/128", None)], "IPv6 keeps the route without its source");
}

fn local_routes_say_their_source(rtnl: &mut impl Rtnl, link: u32) {
    for (node, other, vip) in
        [("192.0.2.1/32", "192.0.2.2/32", "10.96.0.1/32"), ("fd00::1/128", "fd00::2/128", "fd00:96::1/128")]
    {
        done(rtnl, Op::AddAddress(address(link, node, 0)));
        done(rtnl, Op::AddAddress(address(link, other, 0)));
        let bare = |prefix: &str| prefix.split('/').next().map(ip);
        let route = Route { source: bare(node), ..local(link, vip, None) };
        done(rtnl, Op::ReplaceRoute(route.clone()));
        done(rtnl, Op::ReplaceRoute(route.clone()));
        assert_eq!(routes_to(rtnl, vip), std::slice::from_ref(&route), "replacing does not multiply");
        let moved = Route { source: bare(other), ..route.clone() };
        done(rtnl, Op::ReplaceRoute(moved.clone()));
        assert_eq!(routes_to(rtnl, vip), std::slice::from_ref(&moved));
        done(rtnl, Op::DeleteRoute(moved.clone()));
        assert!(routes_to(rtnl, vip).is_empty());
        assert_eq!(refused(rtnl, Op::DeleteRoute(moved)), (Some(Refusal::ESRCH), Disposition::AlreadySo));
    }
}

fn a_source_must_be_ours(rtnl: &mut impl Rtnl, link: u32) {
    let stranger = local(link, "10.96.0.1/32", Some("203.0.113.9"));
    assert_eq!(refused(rtnl, Op::ReplaceRoute(stranger)), (Some(Refusal::EINVAL), Disposition::Fatal));
    assert!(routes_to(rtnl, "10.96.0.1/32").is_empty());
}

fn routes_of_every_kind_read_back(rtnl: &mut impl Rtnl, link: u32) {
    for (destination, host, gateway) in
        [("198.51.100.0/24", "192.0.2.1/24", "192.0.2.2"), ("0.0.0.0/0", "192.0.3.1/24", "192.0.3.2")]
    {
        done(rtnl, Op::AddAddress(address(link, host, 0)));
        let route = Route {
            table: TABLE,
            destination: destination.parse().expect("a prefix"),
            kind: RouteKind::Unicast,
            protocol: protocol::OURS,
            scope: 0,
            link: Some(link),
            gateway: Some(ip(gateway)),
            next_hops: Vec::new(),
            source: host.split('/').next().map(ip),
            metric: 0,
        };
        let variants = [
            route.clone(),
            Route { metric: 7, gateway: None, scope: 253, ..route.clone() },
            Route { metric: 8, kind: RouteKind::Blackhole, gateway: None, link: None, source: None, ..route.clone() },
            Route { metric: 9, kind: RouteKind::Unreachable, gateway: None, link: None, source: None, ..route.clone() },
            Route { table: 77, protocol: protocol::STATIC, ..route.clone() },
        ];
        for variant in &variants {
            done(rtnl, Op::ReplaceRoute(variant.clone()));
        }
        let mut found = routes_to(rtnl, destination);
        found.sort();
        let mut expected = variants.to_vec();
        expected.sort();
        assert_eq!(found, expected);
        for variant in variants {
            done(rtnl, Op::DeleteRoute(variant));
        }
        assert!(routes_to(rtnl, destination).is_empty());
    }
    // IPv6 has one metric more in mind than it is told.
    let route = Route { table: TABLE, ..local(link, "2001:db8::/64", None) };
    let route = Route { kind: RouteKind::Unicast, ..route };
    done(rtnl, Op::ReplaceRoute(route.clone()));
    done(rtnl, Op::ReplaceRoute(Route { metric: 5, ..route.clone() }));
    let mut found = routes_to(rtnl, "2001:db8::/64");
    found.sort();
    assert_eq!(found, [route.clone(), Route { metric: 5, ..route.clone() }]);
    done(rtnl, Op::DeleteRoute(Route { metric: 5, ..route.clone() }));
    assert_eq!(routes_to(rtnl, "2001:db8::/64"), std::slice::from_ref(&route));
    done(rtnl, Op::DeleteRoute(route));
    assert!(routes_to(rtnl, "2001:db8::/64").is_empty());
}

fn dead_ends_of_both_families_read_back(rtnl: &mut impl Rtnl, _link: u32) {
    for destination in ["198.51.100.0/24", "2001:db8::/64", "0.0.0.0/0", "::/0"] {
        for kind in [RouteKind::Blackhole, RouteKind::Unreachable, RouteKind::Prohibit, RouteKind::Throw] {
            let route = unicast(destination, Vec::new());
            let route = Route { table: TABLE, kind, ..route };
            done(rtnl, Op::ReplaceRoute(route.clone()));
            let found = || RouteFilter { table: Some(TABLE), ..RouteFilter::default() };
            assert_eq!(rtnl.routes(found()).expect("routes"), std::slice::from_ref(&route));
            done(rtnl, Op::DeleteRoute(route));
            assert!(rtnl.routes(found()).expect("routes").is_empty());
        }
    }
}

/// A route of ours in the main table.
fn unicast(destination: &str, hops: Vec<NextHop>) -> Route {
    let mut route = Route { table: table::MAIN, kind: RouteKind::Unicast, scope: 0, ..local(0, destination, None) };
    route.set_hops(hops);
    route
}

fn routes_have_several_next_hops(rtnl: &mut impl Rtnl, link: u32) {
    for (destination, host, gateways) in [
        ("198.51.100.0/24", "192.0.2.1/24", ["192.0.2.7", "192.0.2.8", "192.0.2.9"]),
        ("2001:db8::/64", "fd00::1/128", ["fe80::7", "fe80::8", "fe80::9"]),
    ] {
        done(rtnl, Op::AddAddress(address(link, host, 0)));
        let hop = |gateway: &&str| NextHop { link: Some(link), ..NextHop::via(ip(gateway)) };
        let three = unicast(destination, gateways.iter().map(hop).collect());
        assert_eq!(three.next_hops.len(), 3);
        done(rtnl, Op::ReplaceRoute(three.clone()));
        done(rtnl, Op::ReplaceRoute(three.clone()));
        assert_eq!(routes_to(rtnl, destination), [three], "replacing does not multiply");
        let uneven = [NextHop { weight: 3, ..hop(&gateways[2]) }, hop(&gateways[0])];
        let two = unicast(destination, uneven.to_vec());
        done(rtnl, Op::ReplaceRoute(two.clone()));
        assert_eq!(routes_to(rtnl, destination), std::slice::from_ref(&two));
        let on_link = RouteFilter { link: Some(link), protocol: Some(protocol::OURS), table: None };
        assert_eq!(rtnl.routes(on_link).expect("routes"), std::slice::from_ref(&two), "found by any of its links");
        let one = unicast(destination, vec![hop(&gateways[1])]);
        done(rtnl, Op::ReplaceRoute(one.clone()));
        assert_eq!(routes_to(rtnl, destination), [one], "several become one");
        done(rtnl, Op::ReplaceRoute(two.clone()));
        assert_eq!(routes_to(rtnl, destination), std::slice::from_ref(&two), "one becomes several");
        done(rtnl, Op::DeleteRoute(two.clone()));
        assert!(routes_to(rtnl, destination).is_empty());
        assert_eq!(refused(rtnl, Op::DeleteRoute(two)), (Some(Refusal::ESRCH), Disposition::AlreadySo));
    }
}

fn ipv4_goes_by_an_ipv6_gateway(rtnl: &mut impl Rtnl, link: u32) {
    done(rtnl, Op::AddAddress(address(link, "192.0.2.1/24", 0)));
    let six = |gateway: &str| NextHop { link: Some(link), ..NextHop::via(ip(gateway)) };
    let four = NextHop { link: Some(link), ..NextHop::via(ip("192.0.2.7")) };
    for hops in [vec![six("fe80::7")], vec![six("fe80::7"), six("fe80::8")], vec![four, six("fe80::8")]] {
        let route = unicast("198.51.100.0/24", hops);
        done(rtnl, Op::ReplaceRoute(route.clone()));
        assert_eq!(routes_to(rtnl, "198.51.100.0/24"), std::slice::from_ref(&route));
        done(rtnl, Op::DeleteRoute(route));
        assert!(routes_to(rtnl, "198.51.100.0/24").is_empty());
    }
}

fn a_link_has_the_mtu_it_was_given(rtnl: &mut impl Rtnl, link: u32) {
    done(rtnl, Op::SetMtu { link, mtu: 1400 });
    assert!(rtnl.links().expect("links").iter().any(|found| found.index == link && found.mtu == 1400));
    assert_eq!(refused(rtnl, Op::SetMtu { link, mtu: 10 }), (Some(Refusal::EINVAL), Disposition::Fatal));
    assert_eq!(refused(rtnl, Op::SetMtu { link: 9999, mtu: 1400 }), (Some(Refusal::ENODEV), Disposition::Stale));
}

fn filters_find_what_they_name(rtnl: &mut impl Rtnl, link: u32) {
    let route = Route { table: TABLE, kind: RouteKind::Unicast, scope: 253, ..local(link, "198.51.100.0/24", None) };
    let of_admin = Route { protocol: protocol::STATIC, destination: prefix("198.51.101.0/24"), ..route.clone() };
    let six = Route { scope: 0, destination: prefix("2001:db8::/64"), ..route.clone() };
    let nowhere = Route {
        kind: RouteKind::Blackhole,
        link: None,
        scope: 0,
        destination: prefix("198.51.102.0/24"),
        ..route.clone()
    };
    for made in [&route, &of_admin, &six, &nowhere] {
        done(rtnl, Op::ReplaceRoute(made.clone()));
    }
    let mut find = |filter| {
        let mut found = rtnl.routes(filter).expect("routes can be read");
        // Where IPv6 is on, links have routes of their own in the other tables.
        found.retain(|route| route.table == TABLE);
        found.sort();
        found
    };
    let of_table = RouteFilter { table: Some(TABLE), ..RouteFilter::default() };
    let sorted = |mut routes: Vec<Route>| {
        routes.sort();
        routes
    };
    assert_eq!(find(of_table), sorted(vec![route.clone(), of_admin.clone(), six.clone(), nowhere.clone()]));
    assert_eq!(find(RouteFilter::default()), find(of_table));
    let ours = RouteFilter { protocol: Some(protocol::OURS), ..of_table };
    assert_eq!(find(ours), sorted(vec![route.clone(), six.clone(), nowhere]));
    assert_eq!(find(RouteFilter { link: Some(link), ..ours }), sorted(vec![route, six]));
    assert!(find(RouteFilter { table: Some(TABLE + 1), ..RouteFilter::default() }).is_empty());
    assert!(find(RouteFilter { link: Some(9999), ..RouteFilter::default() }).is_empty());
    assert_eq!(find(RouteFilter { protocol: Some(protocol::STATIC), ..RouteFilter::default() }), [of_admin]);
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn a_gateway_must_be_on_a_link(rtnl: &mut impl Rtnl, link: u32) {
    done(rtnl, Op::AddAddress(address(link, "192.0.2.1/24", 0)));
    let route = |gateway: &str| Route {
        table: table::MAIN,
        kind: RouteKind::Unicast,
        scope: 0,
        link: None,
        gateway: Some(ip(gateway)),
        ..local(link, "198.51.100.0/24", None)
    };
    let (errno, kind) = refused(rtnl, Op::ReplaceRoute(route("203.0.113.1")));
    assert_eq!((errno, kind), (Some(101), Disposition::Stale));
    done(rtnl, Op::ReplaceRoute(route("192.0.2.7")));
    let found = routes_to(rtnl, "198.51.100.0/24");
    assert_eq!(found, [Route { link: Some(link), ..route("192.0.2.7") }], "the kernel finds the link");
}

fn rules_come_and_go(rtnl: &mut impl Rtnl, _link: u32) {
    let before = rtnl.rules().expect("rules");
    assert!(before.iter().any(|rule| rule.table == table::LOCAL && rule.priority == 0));
    let rule =
        |family, mark, from: Option<&str>| Rule { mark, from: from.map(prefix), ..Rule::to_table(family, 100, TABLE) };
    let rules = [
        rule(Family::V4, Some(0x4000), None),
        rule(Family::V4, None, Some("10.0.0.0/8")),
        rule(Family::V6, Some(0x4000), Some("fd00::/64")),
        rule(Family::V6, None, None),
        Rule { mark_mask: 0x7f00_0000, priority: 102, ..rule(Family::V4, Some(0x0500_0000), None) },
        Rule { mark_mask: 0xff, priority: 102, ..rule(Family::V6, Some(0), None) },
        Rule { iif: LinkName::new("no-such-link"), priority: 101, ..rule(Family::V4, Some(0x4000), None) },
        Rule { iif: LinkName::new("lo"), priority: 101, ..rule(Family::V6, None, Some("fd00::/64")) },
    ];
    for rule in rules {
        done(rtnl, Op::AddRule(rule));
        assert_eq!(refused(rtnl, Op::AddRule(rule)), (Some(Refusal::EEXIST), Disposition::AlreadySo));
    }
    let mut added = rtnl.rules().expect("rules");
    added.retain(|rule| !before.contains(rule));
    added.sort();
    let mut expected = rules;
    expected.sort();
    assert_eq!(added, expected);
    assert!(added.iter().all(|rule| rule.protocol == protocol::OURS), "rules say who made them");
    for rule in rules {
        // Who made it is a remark, not asked for when a rule goes.
        let rule = Rule { protocol: protocol::STATIC, ..rule };
        done(rtnl, Op::DeleteRule(rule));
        assert_eq!(refused(rtnl, Op::DeleteRule(rule)), (Some(Refusal::ENOENT), Disposition::AlreadySo));
    }
    assert_eq!(rtnl.rules().expect("rules"), before);
}

fn a_failed_op_leaves_the_others_done(rtnl: &mut impl Rtnl, link: u32) {
    let ops = [
        Op::AddAddress(address(link, "10.0.0.1/32", 0)),
        Op::ReplaceRoute(local(link, "10.96.0.1/32", Some("203.0.113.9"))),
        Op::AddAddress(address(link, "10.0.0.1/32", 0)),
        Op::AddAddress(address(link, "10.0.0.2/32", 0)),
    ];
    let kinds: Vec<_> = rtnl.apply(&ops).into_iter().map(|result| result.map_err(|error| error.kind)).collect();
    assert_eq!(kinds, [Ok(()), Err(Disposition::Fatal), Err(Disposition::AlreadySo), Ok(())]);
    assert_eq!(routes_to(rtnl, "10.0.0.2/32").len(), 1);
    assert!(rtnl.apply(&[]).is_empty());
}

fn many_routes_come_and_go(rtnl: &mut impl Rtnl, link: u32) {
    const N_ROUTES: u32 = 1000;
    done(rtnl, Op::AddAddress(address(link, "192.0.2.1/32", 0)));
    let vip = |number: u32| crate::net::host_prefix(std::net::Ipv4Addr::from(0x0a60_0000 + number).into());
    let route = |number| Route { destination: vip(number), ..local(link, "0.0.0.0/0", Some("192.0.2.1")) };
    let ops: Vec<Op> = (0..N_ROUTES).map(|number| Op::ReplaceRoute(route(number))).collect();
    assert!(rtnl.apply(&ops).iter().all(Result::is_ok));
    let ours = RouteFilter { table: Some(table::LOCAL), protocol: Some(protocol::OURS), link: Some(link) };
    let mut found = rtnl.routes(ours).expect("routes");
    found.sort();
    assert_eq!(found, (0..N_ROUTES).map(route).collect::<Vec<_>>());
    let ops: Vec<Op> = (0..N_ROUTES).map(|number| Op::DeleteRoute(route(number))).collect();
    assert!(rtnl.apply(&ops).iter().all(Result::is_ok));
    assert!(rtnl.routes(ours).expect("routes").is_empty());
}

fn a_link_that_goes_down_drops_routes(rtnl: &mut impl Rtnl, link: u32) {
    done(rtnl, Op::AddAddress(address(link, "192.0.2.1/24", 0)));
    done(rtnl, Op::AddAddress(address(link, "fd00::1/128", 0)));
    let ours = local(link, "10.96.0.1/32", Some("192.0.2.1"));
    let six = local(link, "fd00:96::1/128", None);
    done(rtnl, Op::ReplaceRoute(ours.clone()));
    done(rtnl, Op::ReplaceRoute(six));
    done(rtnl, Op::SetUp { link, up: false });
    assert!(rtnl.links().expect("links").iter().any(|found| found.index == link && !found.up));
    assert!(routes_to(rtnl, "192.0.2.0/24").is_empty());
    assert_eq!(routes_to(rtnl, "192.0.2.1/32").len(), 1, "IPv4 still answers for the host's own addresses");
    assert_eq!(routes_to(rtnl, "10.96.0.1/32"), [ours]);
    assert!(routes_to(rtnl, "fd00:96::1/128").is_empty());
    assert!(rtnl.addresses(Some(link)).expect("addresses").iter().all(|address| address.prefix.addr().is_ipv4()));
    let unicast = Route { table: TABLE, kind: RouteKind::Unicast, scope: 253, ..local(link, "198.51.100.0/24", None) };
    assert_eq!(refused(rtnl, Op::ReplaceRoute(unicast)), (Some(100), Disposition::Stale));
    done(rtnl, Op::SetUp { link, up: true });
    assert_eq!(routes_to(rtnl, "192.0.2.0/24").len(), 1);
    assert!(routes_to(rtnl, "fd00:96::1/128").is_empty());
}

fn an_address_takes_routes_from_it_along(rtnl: &mut impl Rtnl, link: u32) {
    let node = address(link, "192.0.2.1/32", 0);
    done(rtnl, Op::AddAddress(node));
    done(rtnl, Op::ReplaceRoute(local(link, "10.96.0.1/32", Some("192.0.2.1"))));
    done(rtnl, Op::DeleteAddress(node));
    assert!(routes_to(rtnl, "10.96.0.1/32").is_empty(), "IPv4 drops routes with a source that is gone");
}

fn a_missing_link_is_a_stale_picture(rtnl: &mut impl Rtnl, _link: u32) {
    const NOWHERE: u32 = 9999;
    let vip = address(NOWHERE, "10.96.0.1/32", 0);
    assert_eq!(refused(rtnl, Op::AddAddress(vip)), (Some(Refusal::ENODEV), Disposition::Stale));
    assert_eq!(refused(rtnl, Op::DeleteAddress(vip)), (Some(Refusal::ENODEV), Disposition::AlreadySo));
    let route = local(NOWHERE, "10.96.0.1/32", None);
    assert_eq!(refused(rtnl, Op::ReplaceRoute(route)), (Some(Refusal::ENODEV), Disposition::Stale));
    assert_eq!(refused(rtnl, Op::SetUp { link: NOWHERE, up: true }), (Some(Refusal::ENODEV), Disposition::Stale));
    assert_eq!(refused(rtnl, Op::DeleteLink { link: NOWHERE }), (Some(Refusal::ENODEV), Disposition::AlreadySo));
}

/// The link of this name.
pub fn link_named(rtnl: &mut impl Rtnl, name: &str) -> Option<Link> {
    rtnl.links().expect("links can be read").into_iter().find(|link| link.name == name)
}

fn dummies_come_and_go(rtnl: &mut impl Rtnl) {
    let add = Op::AddDummy { name: "kube-dummy-if".into() };
    done(rtnl, add.clone());
    let dummy = link_named(rtnl, "kube-dummy-if").expect("the dummy");
    assert_eq!((dummy.kind.as_str(), dummy.up, dummy.no_arp, dummy.loopback), ("dummy", false, true, false));
    assert_eq!((dummy.mtu, dummy.master), (1500, None));
    assert_eq!(refused(rtnl, add), (Some(Refusal::EEXIST), Disposition::AlreadySo));
    done(rtnl, Op::SetUp { link: dummy.index, up: true });
    assert!(link_named(rtnl, "kube-dummy-if").is_some_and(|link| link.up));
    done(rtnl, Op::DeleteLink { link: dummy.index });
    assert_eq!(link_named(rtnl, "kube-dummy-if"), None);
    assert_eq!(refused(rtnl, Op::DeleteLink { link: dummy.index }), (Some(Refusal::ENODEV), Disposition::AlreadySo));
    let loopback = link_named(rtnl, "lo").expect("the loopback link");
    assert!(loopback.loopback && loopback.index == 1);
    let long = Op::AddDummy { name: "a-name-of-17-byte".into() };
    assert_eq!(refused(rtnl, long).1, Disposition::Fatal);
}

fn bridges_come_and_go(rtnl: &mut impl Rtnl) {
    for (name, mtu) in [("kube-bridge", Some(1480)), ("kube-bridge2", None)] {
        let add = Op::AddBridge { name: name.into(), mtu };
        done(rtnl, add.clone());
        let bridge = link_named(rtnl, name).expect("the bridge");
        assert_eq!((bridge.kind.as_str(), bridge.up, bridge.tunnel), ("bridge", false, None));
        assert_eq!(bridge.mtu, mtu.unwrap_or(1500));
        assert_eq!(refused(rtnl, add), (Some(Refusal::EEXIST), Disposition::AlreadySo));
        done(rtnl, Op::SetMtu { link: bridge.index, mtu: 1400 });
        assert!(link_named(rtnl, name).is_some_and(|bridge| bridge.mtu == 1400));
        done(rtnl, Op::DeleteLink { link: bridge.index });
        assert_eq!(link_named(rtnl, name), None);
    }
}

fn tunnels_say_what_they_were_made_with(rtnl: &mut impl Rtnl) {
    let gue = Some(Gue { port: 5555 });
    let ends = [("10.0.0.5", "10.0.0.6"), ("fd00::5", "fd00::6")];
    for (local, remote) in ends {
        let plain = Tunnel::plain(ip(local), Some(ip(remote)));
        for tunnel in [plain, Tunnel { ttl: 64, ..plain }, Tunnel { ttl: 225, gue, ..plain }] {
            done(rtnl, Op::AddTunnel { name: "tun-a".into(), tunnel });
            let link = link_named(rtnl, "tun-a").expect("the tunnel");
            assert_eq!(link.tunnel, Some(tunnel));
            let twin = Op::AddTunnel { name: "tun-b".into(), tunnel };
            assert_eq!(refused(rtnl, twin), (Some(Refusal::EEXIST), Disposition::AlreadySo), "one for each pair");
            done(rtnl, Op::DeleteLink { link: link.index });
        }
    }
}

fn tunnels_come_and_go(rtnl: &mut impl Rtnl) {
    let tunnels = [
        ("kube-tunnel-if", "ipip", "10.0.0.5", None),
        ("tun-a", "ipip", "10.0.0.5", Some("10.0.0.6")),
        ("kube-tunnel-v6", "ip6tnl", "fd00::5", None),
        ("tun-b", "ip6tnl", "fd00::5", Some("fd00::6")),
    ];
    for (name, kind, local, remote) in tunnels {
        let add = Op::AddTunnel { name: name.into(), tunnel: Tunnel::plain(ip(local), remote.map(ip)) };
        done(rtnl, add.clone());
        let tunnel = link_named(rtnl, name).expect("the tunnel");
        assert_eq!((tunnel.kind.as_str(), tunnel.up, tunnel.no_arp), (kind, false, true));
        assert_eq!(refused(rtnl, add), (Some(Refusal::EEXIST), Disposition::AlreadySo));
        done(rtnl, Op::SetUp { link: tunnel.index, up: true });
    }
    for (name, ..) in tunnels {
        let tunnel = link_named(rtnl, name).expect("the tunnel");
        assert!(tunnel.up);
        done(rtnl, Op::DeleteLink { link: tunnel.index });
        assert_eq!(link_named(rtnl, name), None);
    }
}

fn a_link_takes_everything_on_it_along(rtnl: &mut impl Rtnl) {
    done(rtnl, Op::AddDummy { name: "kube-dummy-if".into() });
    let link = link_named(rtnl, "kube-dummy-if").expect("the dummy").index;
    done(rtnl, Op::SetUp { link, up: true });
    done(rtnl, Op::AddAddress(address(link, "10.96.0.1/32", 253)));
    done(rtnl, Op::AddAddress(address(link, "fd00:96::1/128", 0)));
    done(rtnl, Op::ReplaceRoute(local(link, "10.96.0.2/32", Some("10.96.0.1"))));
    let on_link = RouteFilter { link: Some(link), ..RouteFilter::default() };
    assert!(rtnl.routes(on_link).expect("routes").len() >= 2);
    let of_kernel = Route { protocol: protocol::KERNEL, ..local(link, "fd00:96::1/128", None) };
    until_routes_to(rtnl, "fd00:96::1/128", &[of_kernel]);
    done(rtnl, Op::DeleteLink { link });
    assert!(rtnl.routes(on_link).expect("routes").is_empty());
    assert!(rtnl.addresses(Some(link)).expect("addresses").is_empty());
    assert!(routes_to(rtnl, "10.96.0.1/32").is_empty() && routes_to(rtnl, "fd00:96::1/128").is_empty());
}
