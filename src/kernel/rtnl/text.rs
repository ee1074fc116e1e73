//! Ops as `ip` commands (pure). Links go by index, which `ip` reads as `if5`.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use super::{Address, Op, Route, RouteKind, Rule, protocol, table};
use crate::net::Family;

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Op::AddDummy { name } => write!(f, "ip link add {name} type dummy"),
            Op::AddBridge { name, mtu: None } => write!(f, "ip link add {name} type bridge"),
            Op::AddBridge { name, mtu: Some(mtu) } => write!(f, "ip link add {name} mtu {mtu} type bridge"),
            Op::AddTunnel { name, tunnel } => write!(f, "ip link add {name} type {tunnel}"),
            Op::DeleteLink { link } => write!(f, "ip link delete dev if{link}"),
            Op::SetUp { link, up } => write!(f, "ip link set dev if{link} {}", if *up { "up" } else { "down" }),
            Op::SetMtu { link, mtu } => write!(f, "ip link set dev if{link} mtu {mtu}"),
            Op::AddAddress(address) => {
                write!(f, "ip address add {address}")?;
                // What the encoder asks for beside the address.
                f.write_str(if address.prefix.addr().is_ipv6() { " nodad noprefixroute" } else { "" })
            }
            Op::DeleteAddress(address) => {
                write!(f, "ip address delete {} dev if{}", address.prefix, address.link)
            }
            Op::ReplaceRoute(route) => write!(f, "ip {}route replace {route}", family_flag(route)),
            Op::DeleteRoute(route) => write!(f, "ip {}route delete {route}", family_flag(route)),
            Op::AddRule(rule) => write!(f, "ip {}rule add {rule}", rule_flag(rule)),
            Op::DeleteRule(rule) => write!(f, "ip {}rule delete {rule}", rule_flag(rule)),
        }
    }
}

/// As `ip address add` takes it.
impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev if{}{}", self.prefix, self.link, Scope(self.scope))
    }
}

/// As `ip route add` takes it and `ip route show` prints it, table and protocol always said.
impl Display for Route {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RouteKind::Unicast => "",
            RouteKind::Local => "local ",
            RouteKind::Blackhole => "blackhole ",
            RouteKind::Unreachable => "unreachable ",
            RouteKind::Prohibit => "prohibit ",
            RouteKind::Throw => "throw ",
        })?;
        match self.destination.prefix_len() {
            0 => f.write_str("default")?,
            _ => write!(f, "{}", self.destination)?,
        }
        let family = Family::of(self.destination.addr());
        write!(f, "{}", Way { family, gateway: self.gateway, link: self.link })?;
        match self.table {
            table::MAIN => f.write_str(" table main")?,
            table::LOCAL => f.write_str(" table local")?,
            number => write!(f, " table {number}")?,
        }
        match self.protocol {
            protocol::KERNEL => f.write_str(" proto kernel")?,
            protocol::STATIC => f.write_str(" proto static")?,
            number => write!(f, " proto {number}")?,
        }
        write!(f, "{}", Scope(self.scope))?;
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        for hop in &self.next_hops {
            let way = Way { family, gateway: hop.gateway, link: hop.link };
            write!(f, " nexthop{way} weight {}", hop.weight)?;
        }
        Ok(())
    }
}

/// ` via GATEWAY dev LINK` of a route of this family, as much as there is.
struct Way {
    family: Family,
    gateway: Option<IpAddr>,
    link: Option<u32>,
}

impl Display for Way {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(gateway) = self.gateway {
            let word = match Family::of(gateway) {
                family if family == self.family => "",
                Family::V4 => "inet ",
                Family::V6 => "inet6 ",
            };
            write!(f, " via {word}{gateway}")?;
        }
        match self.link {
            Some(link) => write!(f, " dev if{link}"),
            None => Ok(()),
        }
    }
}

/// As `ip rule add` takes it.
impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "priority {}", self.priority)?;
        match self.from {
            Some(from) => write!(f, " from {from}")?,
            None => f.write_str(" from all")?,
        }
        if let Some(mark) = self.mark {
            write!(f, " fwmark {mark:#x}")?;
            if self.mark_mask != u32::MAX {
                write!(f, "/{:#x}", self.mark_mask)?;
            }
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {}", iif.as_str())?;
        }
        write!(f, " table {}", self.table)?;
        match self.protocol {
            0 => Ok(()),
            protocol::KERNEL => f.write_str(" protocol kernel"),
            protocol::STATIC => f.write_str(" protocol static"),
            number => write!(f, " protocol {number}"),
        }
    }
}

fn family_flag(route: &Route) -> &'static str {
    if route.destination.addr().is_ipv6() { "-6 " } else { "" }
}

fn rule_flag(rule: &Rule) -> &'static str {
    match rule.family {
        Family::V4 => "",
        Family::V6 => "-6 ",
    }
}

/// ` scope …`, nothing for the widest one, which is the default.
struct Scope(u8);

impl Display for Scope {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            253 => f.write_str(" scope link"),
            254 => f.write_str(" scope host"),
            number => write!(f, " scope {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Gue, LinkName, NextHop, Tunnel};
    use super::*;

    #[test]
    fn ops_read_as_ip_commands() {
        let route = Route {
            table: table::LOCAL,
            destination: "10.96.0.1/32".parse().unwrap(),
            kind: RouteKind::Local,
            protocol: protocol::OURS,
            scope: 254,
            link: Some(5),
            gateway: None,
            next_hops: Vec::new(),
            source: Some("10.1.0.2".parse().unwrap()),
            metric: 0,
        };
        let default = Route {
            table: 77,
            destination: "0.0.0.0/0".parse().unwrap(),
            kind: RouteKind::Unicast,
            protocol: protocol::STATIC,
            scope: 0,
            link: Some(3),
            gateway: Some("fe80::1".parse().unwrap()),
            next_hops: Vec::new(),
            source: None,
            metric: 20,
        };
        let mut several = Route { gateway: None, link: None, ..default.clone() };
        several.set_hops(vec![
            NextHop { link: Some(4), gateway: Some("fe80::2".parse().unwrap()), weight: 2 },
            NextHop::via("192.0.2.1".parse().unwrap()),
        ]);
        let several_text = "ip route replace default table 77 proto static metric 20 \
            nexthop via 192.0.2.1 weight 1 nexthop via inet6 fe80::2 dev if4 weight 2";
        let address = |prefix: &str, scope| Address { link: 5, prefix: prefix.parse().unwrap(), scope };
        let rule = Rule {
            family: Family::V6,
            priority: 100,
            mark: Some(0x4000),
            mark_mask: u32::MAX,
            from: Some("fd00::/64".parse().unwrap()),
            iif: None,
            table: 77,
            protocol: 0,
        };
        let tunnel = |local: &str, remote: Option<&str>| Op::AddTunnel {
            name: "tunl-a".into(),
            tunnel: Tunnel::plain(local.parse().unwrap(), remote.map(|remote| remote.parse().unwrap())),
        };
        for (op, text) in [
            (Op::AddDummy { name: "kube-dummy-if".into() }, "ip link add kube-dummy-if type dummy"),
            (tunnel("10.0.0.1", None), "ip link add tunl-a type ipip local 10.0.0.1 remote any nopmtudisc"),
            (
                tunnel("fd00::1", Some("fd00::2")),
                "ip link add tunl-a type ip6tnl mode ip6ip6 local fd00::1 remote fd00::2 ttl 0 encaplimit none",
            ),
            (
                Op::AddTunnel {
                    name: "tun-a".into(),
                    tunnel: Tunnel {
                        ttl: 225,
                        gue: Some(Gue { port: 5555 }),
                        ..Tunnel::plain("10.0.0.1".parse().unwrap(), Some("10.0.0.2".parse().unwrap()))
                    },
                },
                "ip link add tun-a type ipip local 10.0.0.1 remote 10.0.0.2 ttl 225 encap gue encap-sport auto \
                 encap-dport 5555",
            ),
            (Op::AddBridge { name: "kube-bridge".into(), mtu: None }, "ip link add kube-bridge type bridge"),
            (
                Op::AddBridge { name: "kube-bridge".into(), mtu: Some(1480) },
                "ip link add kube-bridge mtu 1480 type bridge",
            ),
            (Op::SetMtu { link: 5, mtu: 1480 }, "ip link set dev if5 mtu 1480"),
            (Op::ReplaceRoute(several), several_text),
            (
                Op::AddRule(Rule { iif: LinkName::new("eth0"), protocol: protocol::OURS, ..rule }),
                "ip -6 rule add priority 100 from fd00::/64 fwmark 0x4000 iif eth0 table 77 protocol 17",
            ),
            (Op::DeleteLink { link: 5 }, "ip link delete dev if5"),
            (Op::SetUp { link: 5, up: false }, "ip link set dev if5 down"),
            (Op::AddAddress(address("10.96.0.1/32", 253)), "ip address add 10.96.0.1/32 dev if5 scope link"),
            (Op::AddAddress(address("fd00::1/128", 0)), "ip address add fd00::1/128 dev if5 nodad noprefixroute"),
            (Op::DeleteAddress(address("10.96.0.1/32", 253)), "ip address delete 10.96.0.1/32 dev if5"),
            (
                Op::ReplaceRoute(route),
                "ip route replace local 10.96.0.1/32 dev if5 table local proto 17 scope host src 10.1.0.2",
            ),
            (
                Op::DeleteRoute(default),
                "ip route delete default via inet6 fe80::1 dev if3 table 77 proto static metric 20",
            ),
            (Op::AddRule(rule), "ip -6 rule add priority 100 from fd00::/64 fwmark 0x4000 table 77"),
            (
                Op::DeleteRule(Rule { family: Family::V4, mark: None, from: None, ..rule }),
                "ip rule delete priority 100 from all table 77",
            ),
        ] {
            assert_eq!(op.to_string(), text);
        }
    }
}
