//! Annotations of nodes about BGP: `key=value`, one a line, keys by their number or as they are; a line without `=`
//! begins the next node.

use std::sync::Arc;

use ferrovia::model::{Node, NodeName, Snapshot};
use ferrovia::routing::config::Config;
use ferrovia::routing::peers::{build_peers, key};

const KEYS: [&str; 14] = [
    key::ASN,
    key::REFLECTOR_SERVER,
    key::REFLECTOR_CLIENT,
    key::PREPEND_AS,
    key::PREPEND_TIMES,
    key::COMMUNITIES,
    key::IMPORT_REJECT,
    key::LOCAL_ADDRESSES,
    key::PEERS,
    key::PEER_IPS,
    key::PEER_ASNS,
    key::PEER_PORTS,
    key::PEER_PASSWORDS,
    key::PEER_LOCAL_IPS,
];

pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut nodes = vec![node(0)];
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else {
            nodes.push(node(nodes.len()));
            continue;
        };
        let name = name.parse::<usize>().ok().and_then(|number| KEYS.get(number).copied()).unwrap_or(name);
        // YAML has several lines.
        let value = value.replace('|', "\n");
        if let Some(node) = nodes.last_mut() {
            node.annotations.insert(Arc::from(name), Arc::from(value));
        }
    }
    let mut snapshot = Snapshot::empty(NodeName::new("n0"));
    snapshot.nodes = (0..).zip(nodes).map(|(n, node)| (NodeName::new(format!("n{n}")), Arc::new(node))).collect();
    for full_mesh in [true, false] {
        let desired = build_peers(&snapshot, &Config { full_mesh, ..Config::default() });
        assert!(desired.notices.iter().all(|notice| !notice.message.is_empty()));
        let mut addresses: Vec<_> = desired.peers.iter().map(|peer| peer.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), desired.peers.len(), "a peer twice");
    }
}

fn node(n: usize) -> Node {
    let n = u8::try_from(n % 200).unwrap_or_default() + 1;
    Node { internal_ips: vec![[10, 0, 0, n].into()], ..Node::default() }
}
