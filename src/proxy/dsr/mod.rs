//! Direct server return: what it takes on the node and in the pods (pure).
//!
//! A packet for a VIP is marked before routing, the mark sends it to the host itself (table 78), where a virtual
//! server for that mark forwards it inside IP-in-IP to a pod. The pod takes it off a tunnel device that carries the
//! VIP, and answers the client by itself, with the VIP as source. Consequences, each with its place below:
//!
//! - ports cannot change on the way ([`refusal`]);
//! - the VIP must *not* be an address of the node: the pod's answers would arrive with a source the node holds for its
//!   own, and be dropped as martians. [`DsrNeeds::vips`] says which addresses to keep off the dummy link;
//! - the client's segments must leave room for the outer header: the pod's SYN-ACK is clamped ([`segment_size`]);
//! - every local pod behind the VIP needs the tunnel ([`pod_setups`], written by `pods.rs`).
//!
//! Only external and load balancer addresses are served this way; cluster IPs and node ports are not. A port that is
//! refused should be served as if the annotation were absent: reachable, but with translation.

mod eligible;
mod marks;
mod table;

pub use eligible::{pod_setups, refusal};
pub use marks::assign_marks;
pub use table::segment_size;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::kernel::ipvs::{Forwarding, TunnelType, VirtualServerKey};
use crate::kernel::rtnl::{self, RouteKind};
use crate::model::{PodKey, ServiceKey};
use crate::net::{Family, Prefix, Protocol};

/// The routing table in which everything is local (kube-router's `kube-router-dsr`).
pub const TABLE: u32 = 78;
/// Where the rules that lead to [`TABLE`] stand: just before main (32766) and default.
pub const RULE_PRIORITY: u32 = 32764;
/// How packets get to a pod.
pub const FORWARDING: Forwarding = Forwarding::Tunnel(TunnelType::Ipip);

/// One port of a VIP that is served directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DsrKey {
    /// The VIP.
    pub vip: IpAddr,
    /// Layer-4 protocol.
    pub protocol: Protocol,
    /// The port, on the VIP and in the pod.
    pub port: u16,
}

impl DsrKey {
    /// The family of the VIP.
    pub fn family(&self) -> Family {
        Family::of(self.vip)
    }
}

/// A pod of this node that must take packets off a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSetup {
    /// Which pod.
    pub pod: PodKey,
    /// One of its containers, `scheme://id`: the way to its network namespace.
    pub container_id: Arc<str>,
    /// The pod's addresses: the tunnels end at the first of each family.
    pub addresses: Vec<IpAddr>,
    /// The VIPs it answers for.
    pub vips: BTreeSet<IpAddr>,
    /// Whose VIPs they are: who is told when it does not work.
    pub services: BTreeSet<ServiceKey>,
}

/// Everything direct server return needs on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DsrNeeds {
    /// The mark of each VIP and port.
    pub marks: BTreeMap<DsrKey, u32>,
    /// Local pods, each once.
    pub pods: BTreeMap<PodKey, PodSetup>,
}

impl DsrNeeds {
    /// Joins the keys and pods of all Services. Keys for which no mark is left are absent from `marks`
    /// (see [`assign_marks`]).
    pub fn gather(keys: &BTreeSet<DsrKey>, pods: impl IntoIterator<Item = PodSetup>) -> DsrNeeds {
        let mut needs = DsrNeeds { marks: assign_marks(keys), pods: BTreeMap::new() };
        for setup in pods {
            match needs.pods.get_mut(&setup.pod) {
                Some(known) => {
                    known.vips.extend(setup.vips);
                    known.services.extend(setup.services);
                }
                None => {
                    needs.pods.insert(setup.pod.clone(), setup);
                }
            }
        }
        needs
    }

    /// The VIPs that must not be addresses of this node.
    pub fn vips(&self) -> BTreeSet<IpAddr> {
        self.marks.keys().map(|key| key.vip).collect()
    }

    /// The virtual server that serves a key.
    pub fn virtual_server(&self, key: &DsrKey) -> Option<VirtualServerKey> {
        self.marks.get(key).map(|mark| VirtualServerKey::Mark { mark: *mark, family: key.family() })
    }

    /// The routing rules that send marked packets to [`TABLE`].
    pub fn rules(&self) -> BTreeSet<rtnl::Rule> {
        let rule = |(key, mark): (&DsrKey, &u32)| rtnl::Rule {
            family: key.family(),
            priority: RULE_PRIORITY,
            mark: Some(*mark),
            mark_mask: u32::MAX,
            from: None,
            iif: None,
            table: TABLE,
            protocol: 0,
        };
        self.marks.iter().map(rule).collect()
    }

    /// The contents of [`TABLE`]: for each family in use, everything is delivered here. `loopback` is the index of `lo`.
    pub fn routes(&self, loopback: u32) -> Vec<rtnl::Route> {
        self.families().into_iter().map(|family| local_default(family, loopback)).collect()
    }

    fn families(&self) -> Vec<Family> {
        Family::ALL.into_iter().filter(|family| self.marks.keys().any(|key| key.family() == *family)).collect()
    }
}

/// True for a routing rule that is ours: our priority and our table (kube-router's are the same, and adopted).
pub fn owns_rule(rule: &rtnl::Rule) -> bool {
    rule.priority == RULE_PRIORITY && rule.table == TABLE && rule.mark.is_some()
}

/// `local default dev lo table 78`, in the form it is read back: IPv6 routes have no scope.
fn local_default(family: Family, loopback: u32) -> rtnl::Route {
    let (destination, scope) = match family {
        Family::V4 => (Prefix::V4(Ipv4Net::default()), 254),
        Family::V6 => (Prefix::V6(Ipv6Net::default()), 0),
    };
    rtnl::Route {
        table: TABLE,
        destination,
        kind: RouteKind::Local,
        protocol: rtnl::protocol::OURS,
        scope,
        link: Some(loopback),
        gateway: None,
        next_hops: Vec::new(),
        source: None,
        metric: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn key(vip: &str, protocol: Protocol, port: u16) -> DsrKey {
        DsrKey { vip: vip.parse().unwrap(), protocol, port }
    }

    pub(super) fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    pub(super) fn needs() -> DsrNeeds {
        let keys = BTreeSet::from([
            key("10.255.0.1", Protocol::Tcp, 80),
            key("10.255.0.1", Protocol::Udp, 53),
            key("2001:db8::80", Protocol::Udp, 53),
        ]);
        DsrNeeds::gather(&keys, [])
    }

    #[test]
    fn the_node_delivers_marked_packets_to_itself() {
        let needs = needs();
        let v6 = needs.marks[&key("2001:db8::80", Protocol::Udp, 53)];
        assert_eq!(needs.vips(), BTreeSet::from([ip("10.255.0.1"), ip("2001:db8::80")]));
        let rules = needs.rules();
        let seen: BTreeSet<(Family, Option<u32>)> = rules.iter().map(|rule| (rule.family, rule.mark)).collect();
        assert_eq!(seen, BTreeSet::from([(Family::V4, Some(9054)), (Family::V4, Some(1074)), (Family::V6, Some(v6))]));
        assert!(rules.iter().all(|rule| rule.priority == 32764 && rule.table == 78 && owns_rule(rule)));
        let routes = needs.routes(1);
        let texts: Vec<String> = routes.iter().map(|route| route.destination.to_string()).collect();
        assert_eq!(texts, ["0.0.0.0/0", "::/0"]);
        assert!(routes.iter().all(|route| route.kind == RouteKind::Local && route.table == 78));
        assert_eq!(
            needs.virtual_server(&key("10.255.0.1", Protocol::Tcp, 80)),
            Some(VirtualServerKey::Mark { mark: 9054, family: Family::V4 })
        );
        assert_eq!(needs.virtual_server(&key("10.255.0.9", Protocol::Tcp, 80)), None);
    }

    #[test]
    fn only_marked_rules_of_our_table_are_ours() {
        let ours = needs().rules().into_iter().next().unwrap();
        assert!(owns_rule(&ours));
        for foreign in [
            rtnl::Rule { table: 79, ..ours },
            rtnl::Rule { priority: 32763, ..ours },
            rtnl::Rule { mark: None, ..ours },
        ] {
            assert!(!owns_rule(&foreign), "{foreign:?}");
        }
    }

    #[test]
    fn nothing_to_serve_needs_nothing() {
        assert!(DsrNeeds::default().rules().is_empty() && DsrNeeds::default().routes(1).is_empty());
    }

    fn setup(pod: &str, vips: &[&str]) -> PodSetup {
        PodSetup {
            pod: PodKey::new("default", pod),
            container_id: Arc::from("containerd://1"),
            addresses: vec![ip("10.1.0.2")],
            vips: vips.iter().map(|vip| ip(vip)).collect(),
            services: vips.iter().map(|vip| ServiceKey::new("default", *vip)).collect(),
        }
    }

    #[test]
    fn a_pod_behind_two_services_answers_for_the_vips_of_both() {
        let pods = [setup("web-0", &["10.255.0.1"]), setup("web-1", &["10.255.0.1"]), setup("web-0", &["10.255.0.2"])];
        let needs = DsrNeeds::gather(&BTreeSet::new(), pods);
        assert_eq!(needs.pods.len(), 2);
        assert_eq!(needs.pods[&PodKey::new("default", "web-0")], setup("web-0", &["10.255.0.1", "10.255.0.2"]));
    }
}
