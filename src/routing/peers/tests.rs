use super::*;
use crate::model::{NodeName, Snapshot};
use crate::routing::config::{FlagPeer, GracefulRestart};
use crate::testing::builders::{cluster, ip, prefix};
use std::sync::Arc;

type Annotations<'a> = &'a [(&'a str, &'a str)];

fn annotate(node: &mut Node, annotations: Annotations<'_>) {
    for (key, value) in annotations {
        node.annotations.insert(Arc::from(*key), Arc::from(*value));
    }
}

fn alone(annotations: Annotations<'_>) -> Snapshot {
    cluster("n1").node(|node| annotate(node, annotations)).build()
}

fn with_others(own: Annotations<'_>, others: &[(&str, Annotations<'_>)]) -> Snapshot {
    let mut snapshot = alone(own);
    for (n, (addresses, annotations)) in others.iter().enumerate() {
        let internal_ips = addresses.split(',').map(ip).collect();
        let mut node = Node { internal_ips, ..Node::default() };
        annotate(&mut node, annotations);
        snapshot.nodes.insert(NodeName::new(format!("n{}", n + 2)), Arc::new(node));
    }
    snapshot
}

fn addresses(desired: &DesiredPeers) -> Vec<String> {
    desired.peers.iter().map(|peer| peer.address.to_string()).collect()
}

#[test]
fn all_nodes_of_a_full_mesh_are_peers_of_the_cluster_as() {
    let snapshot = with_others(&[], &[("192.168.10.12,fd10::12", &[]), ("fd10::13", &[]), ("192.168.10.14", &[])]);
    let desired = build_peers(&snapshot, &Config::default());
    assert_eq!(addresses(&desired), ["192.168.10.12", "192.168.10.14", "fd10::13"]);
    assert!(desired.peers.iter().all(|peer| peer.asn == Some(Asn(64512)) && peer.node));
    let families: Vec<usize> = desired.peers.iter().map(|peer| peer.families.len()).collect();
    assert_eq!(families, [2, 1, 1], "only families both have an address of");
    assert_eq!(desired.peers[2].local_address, ip("fd10::11"));
    assert_eq!(desired.peers[0].hold_time, Duration::from_secs(90));
    assert!(desired.notices.is_empty());
    let off = Config { ibgp: false, ..Config::default() };
    assert!(build_peers(&snapshot, &off).peers.is_empty());
}

#[test]
fn without_a_full_mesh_only_nodes_of_the_same_as_are_peers() {
    let others: &[(&str, Annotations<'_>)] = &[
        ("192.168.10.12", &[(key::ASN, "0xFC00")]),
        ("192.168.10.13", &[(key::ASN, "64513")]),
        ("192.168.10.14", &[]),
    ];
    let config = Config { full_mesh: false, ..Config::default() };
    let desired = build_peers(&with_others(&[(key::ASN, "64512")], others), &config);
    assert_eq!(addresses(&desired), ["192.168.10.12"]);
    for own in ["", "x", "64511", "23456"] {
        let desired = build_peers(&with_others(&[(key::ASN, own)], others), &config);
        assert_eq!((desired.asn, desired.peers.len(), desired.notices.len()), (None, 0, 1), "{own:?}");
    }
}

#[test]
fn reflection_pairs_are_seen_alike_from_both_ends() {
    let server: Annotations<'_> = &[(key::REFLECTOR_SERVER, "42")];
    let client: Annotations<'_> = &[(key::REFLECTOR_CLIENT, "0.0.0.42")];
    let others = [("192.168.10.12", server), ("192.168.10.13", client), ("192.168.10.14", &[] as Annotations<'_>)];
    for (own, expected, clients) in [
        (server, vec!["192.168.10.12", "192.168.10.13", "192.168.10.14"], vec![false, true, false]),
        (client, vec!["192.168.10.12"], vec![false]),
        (&[] as Annotations<'_>, vec!["192.168.10.12", "192.168.10.14"], vec![false, false]),
    ] {
        let desired = build_peers(&with_others(own, &others), &Config::default());
        assert_eq!(addresses(&desired), expected, "{own:?}");
        assert_eq!(desired.peers.iter().map(|peer| peer.reflector_client).collect::<Vec<_>>(), clients, "{own:?}");
    }
    let id = Ipv4Addr::new(0, 0, 0, 42);
    assert_eq!(build_peers(&alone(server), &Config::default()).reflector, Some(Reflector::Server(id)));
    assert_eq!(build_peers(&alone(client), &Config::default()).reflector, Some(Reflector::Client(id)));
}

#[test]
fn yaml_peers_read_and_a_bad_one_leaves_the_others() {
    let yaml = r"
- remoteip: 192.0.2.1
  remoteasn: 65001
  port: 1790
  localip: 192.168.10.99
  password: c2VjcmV0
  bfd: {enabled: true, detection_multiplier: 5, required_min_rx_interval: 300}
- remoteip: 192.0.2.999
  remoteasn: 65001
- remoteip: 192.0.2.2
  remoteasn: 64512
- remoteip: 192.0.2.3
  remoteasn: 65001
  password: '%%hush%%'
- remoteip: 2001:db8::1
  remoteasn: '65002'
- remoteip: 192.0.2.4
  remoteasn: 65001
  localip: fd10::11
- remoteip: 192.168.10.11
  remoteasn: 65001
- remoteip: 192.0.2.1
  remoteasn: 65009
";
    let desired = build_peers(&alone(&[(key::PEERS, yaml)]), &Config { multihop_ttl: 3, ..Config::default() });
    assert_eq!(addresses(&desired), ["192.0.2.1", "192.0.2.2", "2001:db8::1"], "{:?}", desired.notices);
    let first = &desired.peers[0];
    assert_eq!((first.asn, first.port, first.local_address), (Some(Asn(65001)), 1790, ip("192.168.10.99")));
    assert_eq!(first.password, Some(Password::new(*b"secret")));
    let bfd = first.bfd.unwrap();
    assert_eq!((bfd.detection_multiplier, bfd.required_min_rx), (5, Duration::from_millis(300)));
    assert_eq!((first.multihop, desired.peers[1].multihop), (Some(3), None), "internal peers need no multihop");
    assert_eq!(desired.peers[1].kind, PeerKind::Internal);
    assert_eq!(desired.peers[2].local_address, ip("fd10::11"));
    let text: Vec<&str> = desired.notices.iter().map(|notice| notice.message.as_str()).collect();
    assert_eq!(text.len(), 5, "{text:#?}");
    assert!(text[0].starts_with("node n1: metadata.annotations[kube-router.io/peers[1].remoteip]: \"192.0.2.999\": "));
    assert!(!format!("{desired:?}").contains("hush") && !format!("{desired:?}").contains("secret"));
}

/// What stands in an entry for 192.0.2.1 beside address and AS, read where graceful restart is on or not.
fn one(keys: &str, restarts: bool) -> Result<DesiredPeer, String> {
    let yaml = format!("- {{remoteip: 192.0.2.1, remoteasn: 65001, {keys}}}");
    let graceful_restart = restarts
        .then_some(GracefulRestart { restart_time: Duration::from_secs(90), deferral_time: Duration::from_secs(360) });
    let config = Config { graceful_restart, multihop_ttl: 4, ..Config::default() };
    let mut desired = build_peers(&alone(&[(key::PEERS, &yaml)]), &config);
    match desired.notices.first() {
        Some(notice) => {
            assert!(desired.peers.is_empty(), "{:?}", desired.peers);
            Err(notice.message.clone())
        }
        None => Ok(desired.peers.remove(0)),
    }
}

#[test]
fn a_peer_may_say_how_its_session_is() {
    let plain = one("", false).unwrap();
    assert_eq!((&plain.options, plain.multihop), (&PeerOptions::default(), Some(4)));
    let peer = one("passive: true, multihop: 7, holdtime: 30, maxprefixes: 1000, addpath: receive", false).unwrap();
    assert_eq!((peer.multihop, peer.hold_time), (Some(7), Duration::from_secs(30)));
    assert!(peer.options.passive);
    assert_eq!(peer.options.max_prefixes, Some(1000));
    assert_eq!(peer.options.add_path, Some(AddPath { receive: true, send: false }));
    let peer = one("ttlsecurity: 1, longlivedstaletime: 3600, addpath: 'off', nexthopself: true", true).unwrap();
    assert_eq!((peer.options.security, peer.options.long_lived), (Some(1), Some(Duration::from_secs(3600))));
    assert_eq!(peer.options.add_path, Some(AddPath { receive: false, send: false }));
    assert_eq!(peer.options.next_hops, NextHops::Own { v4: None, v6: None });
    let own = |keys| one(keys, false).unwrap().options.next_hops;
    let (v4, v6) = (Ipv4Addr::new(192, 0, 2, 9), "2001:db8::9".parse().ok());
    assert_eq!(own("nexthop: 192.0.2.9"), NextHops::Own { v4: Some(v4), v6: None });
    assert_eq!(own("nexthop: [192.0.2.9, '2001:db8::9']"), NextHops::Own { v4: Some(v4), v6 });
}

#[test]
fn what_a_peer_cannot_mean_leaves_it_out_and_says_why() {
    for (keys, field, cure) in [
        ("passive: 1", "passive", "use true or false"),
        ("multihop: 1", "multihop", "use hops, 2 to 255"),
        ("ttlsecurity: 0", "ttlsecurity", "use hops, 1 to 254"),
        ("ttlsecurity: 2, multihop: 2", "multihop", "use either multihop or ttlsecurity"),
        ("holdtime: 2", "holdtime", "use seconds, 3 to 65535"),
        ("holdtime: 30s", "holdtime", "use seconds, 3 to 65535"),
        ("maxprefixes: 0", "maxprefixes", "1 or more"),
        ("addpath: yes", "addpath", "use off, receive, send or both"),
        ("longlivedstaletime: 60", "longlivedstaletime", "--bgp-graceful-restart"),
        ("nexthop: 0.0.0.0", "nexthop", "use an address"),
        ("nexthop: []", "nexthop", "use an address"),
        ("nexthop: [192.0.2.1, 192.0.2.2]", "nexthop", "one for each family"),
        ("nexthop: 192.0.2.1, nexthopself: true", "nexthop", "use one of"),
        ("nexthopunchanged: true, nexthopself: true", "nexthopself", "use one of"),
        ("remoterange: 192.0.2.0/24", "remoterange", "use either remoteip or remoterange"),
    ] {
        let message = one(keys, false).expect_err(keys);
        assert!(message.contains(&format!("peers[0].{field}]")) && message.contains(cure), "{keys}: {message}");
    }
    let message = one("longlivedstaletime: 16777216", true).expect_err("more than 24 bits");
    assert!(message.contains("use seconds, 1 to 16777215"), "{message}");
}

#[test]
fn a_range_lets_peers_in_that_nobody_names() {
    let yaml = "
- {remoterange: 192.0.2.77/24, remoteasn: 65001, password: c2VjcmV0}
- {remoterange: 192.0.2.0/24, remoteasn: 65002}
- {remoterange: '2001:db8::/64', remoteasn: 65001}
- {remoterange: 192.0.2, remoteasn: 65001}
- {remoteip: 192.0.2.1, remoteasn: 65003}
";
    let desired = build_peers(&alone(&[(key::PEERS, yaml)]), &Config::default());
    assert_eq!(addresses(&desired), ["192.0.2.1"]);
    let ranges: Vec<String> = desired.ranges.keys().map(ToString::to_string).collect();
    assert_eq!(ranges, ["192.0.2.0/24", "2001:db8::/64"]);
    let first = &desired.ranges[&prefix("192.0.2.0/24")];
    assert_eq!((first.asn, first.local_address, first.node), (Some(Asn(65001)), ip("192.168.10.11"), false));
    assert!(first.password.is_some(), "the first one counts");
    let text: Vec<&str> = desired.notices.iter().map(|notice| notice.message.as_str()).collect();
    assert_eq!(text.len(), 2, "{text:#?}");
    assert!(text[0].contains("peers[3].remoterange") && text[0].contains("use a prefix"), "{text:#?}");
    assert!(text[1].contains("peers[1]") && text[1].contains("only once"), "{text:#?}");
}

#[test]
fn a_peer_may_ask_for_next_hops_as_they_are() {
    let yaml = "
- {remoteip: 192.0.2.1, remoteasn: 65001, nexthopunchanged: true}
- {remoteip: 192.0.2.2, remoteasn: 65001}
- {remoteip: 192.0.2.3, remoteasn: 65001, nexthopunchanged: 'yes'}
";
    let desired = build_peers(&alone(&[(key::PEERS, yaml)]), &Config::default());
    let next_hops: Vec<NextHops> = desired.peers.iter().map(|peer| peer.options.next_hops).collect();
    assert_eq!(next_hops, [NextHops::Unchanged, NextHops::AsFlags]);
    let message = &desired.notices[0].message;
    assert!(message.contains("peers[2].nexthopunchanged") && message.contains("use true or false"), "{message}");
}

#[test]
fn flags_win_over_the_yaml_and_that_over_the_lists() {
    let lists = [
        (key::PEER_IPS, "192.0.2.1, 192.0.2.2,192.0.2.x"),
        (key::PEER_ASNS, "65001,65002,65003"),
        (key::PEER_PASSWORDS, ",c2VjcmV0,"),
        (key::PEER_LOCAL_IPS, "192.168.10.99,,"),
    ];
    let desired = build_peers(&alone(&lists), &Config::default());
    assert_eq!(addresses(&desired), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(desired.notices.len(), 1);
    assert_eq!(desired.peers[0].local_address, ip("192.168.10.99"));
    assert!(desired.peers[0].password.is_none() && desired.peers[1].password.is_some());

    let mut all = lists.to_vec();
    all.push((key::PEERS, "[{remoteip: 192.0.2.7, remoteasn: 65007}]"));
    let told = |desired: &DesiredPeers| desired.notices.iter().map(|it| it.message.clone()).collect::<Vec<_>>();
    let desired = build_peers(&alone(&all), &Config::default());
    assert_eq!(addresses(&desired), ["192.0.2.7"]);
    let unused = told(&desired);
    assert!(unused.len() == 1 && unused[0].contains("peer.ips]: \"…\": not used: kube-router.io/peers"), "{unused:?}");
    let flag = FlagPeer { address: ip("192.0.2.8"), asn: Asn(65008), port: 179, password: None };
    let config = Config { peers: vec![flag], ..Config::default() };
    let desired = build_peers(&alone(&all), &config);
    assert_eq!(addresses(&desired), ["192.0.2.8"]);
    let unused = told(&desired);
    assert!(unused.len() == 2 && unused.iter().all(|it| it.contains("not used: --peer-router-ips")), "{unused:?}");
    assert!(build_peers(&alone(&[]), &config).notices.is_empty());
}

#[test]
fn lists_that_do_not_match_in_length_are_not_guessed_at() {
    for extra in [(key::PEER_PORTS, "179"), (key::PEER_PASSWORDS, "c2VjcmV0"), (key::PEER_LOCAL_IPS, "192.0.2.9")] {
        let lists = [(key::PEER_IPS, "192.0.2.1,192.0.2.2"), (key::PEER_ASNS, "65001,65002"), extra];
        let desired = build_peers(&alone(&lists), &Config::default());
        assert_eq!((desired.peers.len(), desired.notices.len()), (0, 1), "{extra:?}");
        assert!(!desired.notices[0].message.contains("c2VjcmV0"));
    }
    let desired = build_peers(&alone(&[(key::PEER_IPS, "192.0.2.1")]), &Config::default());
    assert_eq!((desired.peers.len(), desired.notices.len()), (0, 1));
}

#[test]
fn other_settings_read_entry_by_entry() {
    let desired = build_peers(
        &alone(&[
            (key::COMMUNITIES, "no-export, 65000:100,7,bogus,70000:1"),
            (key::IMPORT_REJECT, "10.0.0.0/16, fd00::/8 ,nonsense"),
            (key::LOCAL_ADDRESSES, "192.168.10.11,[fd10::11],host"),
            (key::PREPEND_AS, "65001"),
            (key::PREPEND_TIMES, "3"),
        ]),
        &Config::default(),
    );
    assert_eq!(desired.communities, [7, 65000 << 16 | 100, 0xffff_ff01]);
    assert_eq!(desired.import_reject, [prefix("10.0.0.0/16"), prefix("fd00::/8")]);
    assert_eq!(desired.listen, [ip("192.168.10.11"), ip("fd10::11")]);
    assert_eq!(desired.prepend, Some(Prepend { asn: Asn(65001), times: 3 }));
    assert_eq!(desired.notices.len(), 4, "{:#?}", desired.notices);
    for half in [(key::PREPEND_AS, "65001"), (key::PREPEND_TIMES, "3")] {
        let desired = build_peers(&alone(&[half]), &Config::default());
        assert_eq!((desired.prepend, desired.notices.len()), (None, 1), "{half:?}");
    }
}
