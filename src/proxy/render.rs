//! What this node would hold for a snapshot, in the operators' own languages, without a kernel (pure).
//!
//! The same functions as in the daemon. What only the kernel knows is assumed: the node has the addresses of its Node
//! object and no others, an MTU of 1500, and nothing of ours yet.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::{Serialize, Serializer};

use super::book::Book;
use super::desired::build_service;
use super::direct::Direct;
use super::nat::Frame;
use super::vips::{self, Bindings};
use super::{Config, DUMMY_LINK, NodeView, TABLE};
use crate::kernel::filter::Ruleset;
use crate::kernel::ipvs::Table;
use crate::kernel::ipvs::text::Saved;
use crate::kernel::nft::text;
use crate::kernel::rtnl::Op;
use crate::model::{NodeName, Notice, ServiceKey, Snapshot};

/// Bytes: what most links have.
const MTU: u32 = 1500;
/// The index every kernel gives the loopback link.
const LOOPBACK: u32 = 1;
/// An index for the dummy link; in the text its name stands instead.
const DUMMY: u32 = 2;

/// Everything the room would have in force on one node, as values.
#[derive(Debug)]
pub struct Picture {
    /// Virtual servers, those of direct return included.
    pub table: Table,
    /// The packet filter table.
    pub ruleset: Ruleset,
    /// Links, addresses, routes and routing rules, as what makes them.
    pub links: Vec<Op>,
    /// Health-check node ports: port to Service and number of ready endpoints on this node.
    pub health_checks: BTreeMap<u16, (ServiceKey, usize)>,
    /// What owners of objects should know.
    pub notices: Vec<Notice>,
}

impl Picture {
    /// What the node of the snapshot should have, as far as its Node object tells.
    pub fn build(snapshot: &Snapshot, config: &Config) -> Picture {
        Picture::seen_from(&NodeView::new(snapshot, &[], MTU), snapshot, config)
    }

    /// What a node should have whose own addresses are known.
    pub fn seen_from(view: &NodeView, snapshot: &Snapshot, config: &Config) -> Picture {
        let mut book = Book::default();
        for key in snapshot.services.keys() {
            book.set(key, build_service(key, snapshot, config, view));
        }
        let direct = Direct::build(snapshot, &book);
        let frame = Frame::new(config, view, &book, direct.needs.clone());
        let by_address = book.virtual_servers().map(|(key, server)| (*key, (**server).clone()));
        let by_mark = direct.virtual_servers.iter().map(|(key, server)| (*key, (**server).clone()));
        let mut notices = book.notices();
        notices.extend(direct.notices.iter().cloned());
        notices.sort();
        notices.dedup();
        Picture {
            table: by_address.chain(by_mark).collect(),
            ruleset: frame.ruleset(book.elements()),
            links: links(config, view, &book, &direct),
            health_checks: book.health_checks(),
            notices,
        }
    }
}

/// The dummy link, the VIPs on it, and what leads marked packets to the host itself.
fn links(config: &Config, view: &NodeView, book: &Book, direct: &Direct) -> Vec<Op> {
    let mut ops = vec![Op::AddDummy { name: DUMMY_LINK.to_owned() }, Op::SetUp { link: DUMMY, up: true }];
    let as_addresses = vips::as_addresses(config.vip_binding, book.n_bound());
    let nothing = Bindings::default();
    ops.extend(book.bound().flat_map(|vip| vips::bind(*vip, as_addresses, DUMMY, view, &nothing)));
    let rules = direct.needs.rules();
    if !rules.is_empty() {
        ops.extend(direct.needs.routes(LOOPBACK).into_iter().map(Op::ReplaceRoute));
        ops.extend(rules.into_iter().map(Op::AddRule));
    }
    ops
}

/// What a node would hold, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rendered {
    /// The node.
    pub node: NodeName,
    /// Virtual servers as `ipvsadm -Sn` prints them.
    #[serde(serialize_with = "lines")]
    pub ipvs: String,
    /// The packet filter table as `nft list table` prints it.
    #[serde(serialize_with = "lines")]
    pub nft: String,
    /// `ip` commands that make links, addresses, routes and rules.
    #[serde(serialize_with = "lines")]
    pub ip: String,
    /// Health-check node ports.
    pub health_checks: Vec<HealthCheck>,
    /// What owners of objects should know.
    pub notices: Vec<Notice>,
}

/// What a load balancer learns at one health-check node port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// The port on the node.
    pub port: u16,
    /// Whose it is.
    pub service: String,
    /// Ready endpoints on this node.
    pub ready: usize,
}

/// What the node of the snapshot would hold.
pub fn render(snapshot: &Snapshot, config: &Config) -> Rendered {
    let picture = Picture::build(snapshot, config);
    let health_check = |(port, (service, ready)): (u16, (ServiceKey, usize))| HealthCheck {
        port,
        service: service.to_string(),
        ready,
    };
    Rendered {
        node: snapshot.node_name.clone(),
        ipvs: Saved(&picture.table).to_string(),
        nft: text::render(TABLE, &picture.ruleset),
        ip: picture.links.iter().map(|op| by_name(op) + "\n").collect(),
        health_checks: picture.health_checks.into_iter().map(health_check).collect(),
        notices: picture.notices,
    }
}

/// The command with the names of the links in place of their indices.
fn by_name(op: &Op) -> String {
    let (dummy, loopback) = (format!("if{DUMMY}"), format!("if{LOOPBACK}"));
    let words: Vec<String> = op
        .to_string()
        .split(' ')
        .map(|word| match word {
            _ if word == dummy => DUMMY_LINK.to_owned(),
            _ if word == loopback => "lo".to_owned(),
            _ => word.to_owned(),
        })
        .collect();
    words.join(" ")
}

/// A text as a list of its lines.
fn lines<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(text.lines())
}

/// Sections that `ip -batch` (without `ip`), `ipvsadm -R` and `nft -f` read; everything else is a comment.
impl Display for Rendered {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "# node {}", self.node)?;
        for Notice { subject, reason, message, .. } in &self.notices {
            writeln!(f, "# {subject} ({reason}): {message}")?;
        }
        writeln!(f, "\n# links, addresses, routes and rules\n{}", self.ip)?;
        writeln!(f, "# ipvsadm -Sn\n{}", self.ipvs)?;
        write!(f, "# nft list table inet {TABLE}\n{}", self.nft)?;
        if !self.health_checks.is_empty() {
            writeln!(f, "\n# health check node ports: port, service, ready endpoints here")?;
        }
        for HealthCheck { port, service, ready } in &self.health_checks {
            writeln!(f, "# {port} {service} {ready}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::builders::{cluster, service};

    fn web() -> Snapshot {
        cluster("n1")
            .service(service("shop/web", "10.96.0.10").and_ip("fd00:96::10").port(80))
            .ready("shop/web", &["10.244.1.5"], 8080)
            .build()
    }

    #[test]
    fn links_go_by_their_names() {
        let rendered = render(&web(), &Config::default());
        let lines: Vec<&str> = rendered.ip.lines().collect();
        assert_eq!(
            lines,
            [
                "ip link add kube-dummy-if type dummy",
                "ip link set dev kube-dummy-if up",
                "ip address add 10.96.0.10/32 dev kube-dummy-if scope link",
                "ip route replace local 10.96.0.10/32 dev kube-dummy-if table local proto kernel scope host src 192.168.10.11",
                "ip address add fd00:96::10/128 dev kube-dummy-if scope link nodad noprefixroute",
                "ip -6 route replace local fd00:96::10/128 dev kube-dummy-if table local proto kernel src fd10::11 metric 1024",
            ]
        );
    }

    #[test]
    fn both_forms_say_the_same() {
        let rendered = render(&web(), &Config::default());
        let json = serde_json::to_value(&rendered).unwrap();
        for (name, text) in [("ipvs", &rendered.ipvs), ("nft", &rendered.nft), ("ip", &rendered.ip)] {
            let lines: Vec<&str> = json[name].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
            assert_eq!(lines, text.lines().collect::<Vec<_>>());
            assert!(rendered.to_string().contains(text.as_str()), "{name}");
        }
        assert_eq!(rendered.to_string(), render(&web(), &Config::default()).to_string());
    }
}
