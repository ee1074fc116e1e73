//! IP tunnels as links: IP in IP (RFC 2003), IPv6 in IPv6 (RFC 2473), and either one inside UDP (GUE), with their
//! attributes (`include/uapi/linux/if_tunnel.h`).

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use crate::kernel::netlink::{Attributes, Writer};

const LOCAL: u16 = 2;
const REMOTE: u16 = 3;
const TTL: u16 = 4;
const FLAGS: u16 = 8;
const PROTOCOL: u16 = 9;
const PATH_MTU_DISCOVERY: u16 = 10;
const ENCAPSULATION_TYPE: u16 = 15;
const ENCAPSULATION_FLAGS: u16 = 16;
const ENCAPSULATION_SOURCE_PORT: u16 = 17;
const ENCAPSULATION_PORT: u16 = 18;

/// IPPROTO_IPV6: the tunnel carries IPv6 (mode ip6ip6).
const CARRIES_IPV6: u8 = 41;
/// IP6_TNL_F_IGN_ENCAP_LIMIT: no destination option that forbids tunnels inside this one.
const NO_ENCAPSULATION_LIMIT: u32 = 0x1;
/// TUNNEL_ENCAP_GUE.
const GUE: u16 = 2;
/// TUNNEL_ENCAP_FLAG_CSUM6: UDP over IPv6 must have a checksum (RFC 8200).
const CHECKSUM_IPV6: u16 = 0x2;

/// An IP tunnel: what it was asked for and what it reads back as, so that the two can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The address of this end; its family decides the kind of link. The unspecified address stands for any.
    pub local: IpAddr,
    /// The address of the other end, or any.
    pub remote: Option<IpAddr>,
    /// Time to live of the outer packet; 0 takes it from the inner one, and leaves it to the inner one whether the
    /// outer packet may be fragmented.
    pub ttl: u8,
    /// Inside UDP.
    pub gue: Option<Gue>,
}

/// Generic UDP encapsulation of a tunnel; the source port is chosen by the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gue {
    /// The UDP port of the other end.
    pub port: u16,
}

impl Tunnel {
    /// Bare IP in IP without a time to live of its own.
    pub fn plain(local: IpAddr, remote: Option<IpAddr>) -> Tunnel {
        Tunnel { local, remote, ttl: 0, gue: None }
    }

    /// `IFLA_INFO_KIND`: `ipip`, or `ip6tnl` between IPv6 addresses.
    pub fn kind(&self) -> &'static str {
        if self.local.is_ipv4() { "ipip" } else { "ip6tnl" }
    }

    /// The kernel module for it: the tunnel's own, or the one for its encapsulation.
    pub(super) fn module(&self, encapsulation: bool) -> &'static str {
        match (encapsulation && self.gue.is_some(), self.local.is_ipv4()) {
            (false, true) => "ipip",
            (false, false) => "ip6_tunnel",
            (true, true) => "fou",
            (true, false) => "fou6",
        }
    }

    /// Writes the attributes inside IFLA_INFO_DATA.
    pub(super) fn encode(&self, data: &mut Writer<'_>) {
        data.ip(LOCAL, self.local);
        if let Some(remote) = self.remote {
            data.ip(REMOTE, remote);
        }
        data.u8(TTL, self.ttl);
        if self.local.is_ipv4() {
            // The kernel insists on it where the time to live is fixed.
            data.u8(PATH_MTU_DISCOVERY, u8::from(self.ttl != 0));
        } else {
            data.u8(PROTOCOL, CARRIES_IPV6);
            data.u32(FLAGS, NO_ENCAPSULATION_LIMIT);
        }
        if let Some(gue) = self.gue {
            data.u16(ENCAPSULATION_TYPE, GUE);
            data.u16(ENCAPSULATION_FLAGS, if self.local.is_ipv4() { 0 } else { CHECKSUM_IPV6 });
            data.be16(ENCAPSULATION_SOURCE_PORT, 0);
            data.be16(ENCAPSULATION_PORT, gue.port);
        }
    }

    /// Reads IFLA_INFO_DATA of an `ipip` or `ip6tnl`; `None` for other kinds of link. An encapsulation that the model
    /// has no word for reads as one with port 0, which nobody asks for.
    pub(super) fn decode(kind: &str, data: Attributes<'_>) -> Option<Tunnel> {
        if !matches!(kind, "ipip" | "ip6tnl") {
            return None;
        }
        let (mut encapsulation, mut port, mut local, mut remote, mut ttl) = (0, 0, None, None, 0);
        for attribute in data {
            match attribute.kind {
                LOCAL => local = attribute.ip(),
                REMOTE => remote = attribute.ip().filter(|address| !address.is_unspecified()),
                TTL => ttl = attribute.u8()?,
                ENCAPSULATION_TYPE => encapsulation = attribute.u16()?,
                ENCAPSULATION_PORT => port = attribute.be16()?,
                _ => {}
            }
        }
        let gue = (encapsulation != 0).then_some(Gue { port: if encapsulation == GUE { port } else { 0 } });
        Some(Tunnel { local: local?, remote, ttl, gue })
    }
}

/// As `ip link add NAME type` takes it.
impl Display for Tunnel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let six = self.local.is_ipv6();
        f.write_str(if six { "ip6tnl mode ip6ip6" } else { "ipip" })?;
        write!(f, " local {}", self.local)?;
        match self.remote {
            Some(remote) => write!(f, " remote {remote}")?,
            None => f.write_str(" remote any")?,
        }
        if self.ttl != 0 || six {
            write!(f, " ttl {}", self.ttl)?;
        }
        f.write_str(match (six, self.ttl) {
            (true, _) => " encaplimit none",
            (false, 0) => " nopmtudisc",
            (false, _) => "",
        })?;
        match self.gue {
            Some(gue) => {
                write!(f, " encap gue encap-sport auto encap-dport {}", gue.port)?;
                f.write_str(if six { " encap-csum6" } else { "" })
            }
            None => Ok(()),
        }
    }
}
