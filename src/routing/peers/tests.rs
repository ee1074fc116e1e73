use super::*;
use crate::model::{NodeName, Snapshot};
use crate::routing::config::FlagPeer;
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

#[test]
fn a_peer_may_ask_for_next_hops_as_they_are() {
    let yaml = "
- {remoteip: 192.0.2.1, remoteasn: 65001, nexthopunchanged: true}
- {remoteip: 192.0.2.2, remoteasn: 65001}
- {remoteip: 192.0.2.3, remoteasn: 65001, nexthopunchanged: 'yes'}
";
    let desired = build_peers(&alone(&[(key::PEERS, yaml)]), &Config::default());
    let unchanged: Vec<bool> = desired.peers.iter().map(|peer| peer.next_hop_unchanged).collect();
    assert_eq!(unchanged, [true, false]);
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
