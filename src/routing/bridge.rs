//! The bridge pods are connected to (pure).
//!
//! `kube-bridge` is made where it is missing and set up, also without `--enable-cni`. It gets no address from us: the
//! bridge plugin gives it the gateway address of the first pod (`isDefaultGateway`). A bridge that is there is taken
//! over with its ports and addresses; a link of that name which is no bridge is left alone and told. With `--auto-mtu`
//! its MTU, and that of pods, is the uplink's less what the outer headers of the overlay take: a pod's packet fits into
//! a tunnel without being cut. While pods that run have a larger one, so has the bridge: what is on its way to them must
//! not depend on somebody listening to "fragmentation needed".

use super::config::{Config, OverlayScope};
use super::egress::BRIDGE_LINK;
use super::overlay::overhead;
use crate::kernel::rtnl::{Link, Op};
use crate::model::Node;
use crate::net::Family;

/// Kernel settings that let connection tracking, IPVS and NetworkPolicy see what pods of one node say to each other.
pub const BRIDGE_SYSCTLS: [(&str, Family); 2] =
    [("net/bridge/bridge-nf-call-iptables", Family::V4), ("net/bridge/bridge-nf-call-ip6tables", Family::V6)];
/// The module that has them.
pub const BRIDGE_MODULE: &str = "br_netfilter";
/// Packets this long every link must carry: IPv6's least MTU (RFC 8200), bytes.
const LEAST_MTU: u32 = 1280;

/// The MTU pods get: that of the uplink less the headers of the overlay in the families the node has addresses of.
pub fn pod_mtu(node: &Node, config: &Config, uplink: u32) -> u32 {
    let families = Family::ALL.into_iter().filter(|family| node.best_ip(*family).is_some());
    let outer = match config.overlay {
        OverlayScope::Off => 0,
        OverlayScope::OtherSubnets | OverlayScope::All => {
            families.map(|family| overhead(family, config.encapsulation)).max().unwrap_or(0)
        }
    };
    // On a link too short for that, tunnels fragment; pods keep what IPv6 needs.
    uplink.saturating_sub(outer).max(LEAST_MTU.min(uplink))
}

/// Why the bridge is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("link {BRIDGE_LINK} is of kind {kind:?}, not a bridge: remove or rename it")]
pub struct NotABridge {
    /// What it is.
    pub kind: String,
}

/// What makes the bridge as it should be; empty where it is. A bridge just made is set up by the next call, which
/// knows its number.
///
/// # Errors
/// The name belongs to another kind of link.
pub fn plan(links: &[Link], mtu: Option<u32>) -> Result<Vec<Op>, NotABridge> {
    let Some(bridge) = links.iter().find(|link| link.name == BRIDGE_LINK) else {
        return Ok(vec![Op::AddBridge { name: BRIDGE_LINK.to_owned(), mtu }]);
    };
    if bridge.kind != "bridge" {
        return Err(NotABridge { kind: bridge.kind.clone() });
    }
    let mut ops = Vec::new();
    let ports = links.iter().filter(|link| link.master == Some(bridge.index)).map(|link| link.mtu).max();
    let mtu = mtu.map(|mtu| mtu.max(ports.unwrap_or(0)));
    if let Some(mtu) = mtu.filter(|mtu| *mtu != bridge.mtu) {
        ops.push(Op::SetMtu { link: bridge.index, mtu });
    }
    if !bridge.up {
        ops.push(Op::SetUp { link: bridge.index, up: true });
    }
    Ok(ops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::rtnl::Rtnl;
    use crate::kernel::rtnl::fake::FakeRtnl;
    use crate::routing::config::Encapsulation;
    use crate::testing::builders::ip;

    fn link(kind: &str, mtu: u32, up: bool) -> Link {
        let name = BRIDGE_LINK.to_owned();
        let kind = kind.to_owned();
        let (index, carrier, no_arp, loopback, master, tunnel) = (7, up, false, false, None, None);
        Link { index, name, kind, up, carrier, no_arp, loopback, mtu, master, tunnel }
    }

    #[test]
    fn a_bridge_is_made_set_up_and_then_left_alone() {
        let mut kernel = FakeRtnl::default();
        for n_ops in [1, 1, 0] {
            let ops = plan(&kernel.links().unwrap(), Some(1480)).unwrap();
            assert_eq!(ops.len(), n_ops, "{ops:?}");
            for result in kernel.apply(&ops) {
                result.unwrap();
            }
        }
        let links = kernel.links().unwrap();
        let bridge = links.iter().find(|link| link.name == BRIDGE_LINK).unwrap();
        assert_eq!((bridge.kind.as_str(), bridge.mtu, bridge.up), ("bridge", 1480, true));
    }

    #[test]
    fn a_bridge_that_is_there_is_taken_over() {
        assert_eq!(plan(&[link("bridge", 1500, true)], None).unwrap(), []);
        assert_eq!(plan(&[link("bridge", 1500, true)], Some(1480)).unwrap(), [Op::SetMtu { link: 7, mtu: 1480 }]);
        let mut port = link("veth", 1500, true);
        (port.index, port.name, port.master) = (9, "veth1".to_owned(), Some(7));
        assert_eq!(plan(&[link("bridge", 1500, true), port.clone()], Some(1480)).unwrap(), [], "a pod has 1500");
        port.mtu = 1480;
        let shrunk = plan(&[link("bridge", 1500, true), port], Some(1480)).unwrap();
        assert_eq!(shrunk, [Op::SetMtu { link: 7, mtu: 1480 }]);
        let error = plan(&[link("veth", 1500, true)], None).unwrap_err().to_string();
        assert!(error.contains("kube-bridge") && error.contains("veth"), "{error}");
    }

    #[test]
    fn pods_leave_room_for_the_overlay() {
        let v4 = Node { internal_ips: vec![ip("192.0.2.1")], ..Node::default() };
        let dual = Node { internal_ips: vec![ip("192.0.2.1"), ip("2001:db8::1")], ..Node::default() };
        let fou = Encapsulation::Fou { port: 5555 };
        let with = |overlay, encapsulation| Config { overlay, encapsulation, ..Config::default() };
        for (node, config, uplink, expected) in [
            (&v4, with(OverlayScope::Off, fou), 1500, 1500),
            (&v4, with(OverlayScope::OtherSubnets, Encapsulation::Ipip), 1500, 1480),
            (&v4, with(OverlayScope::All, fou), 1500, 1468),
            (&dual, with(OverlayScope::All, Encapsulation::Ipip), 9000, 8952),
            (&dual, with(OverlayScope::All, fou), 1300, 1280),
            (&v4, with(OverlayScope::All, fou), 1200, 1200),
        ] {
            assert_eq!(pod_mtu(node, &config, uplink), expected, "{config:?} {uplink}");
        }
    }
}
