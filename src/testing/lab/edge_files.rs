//! The edge router's configuration files, as operators of the four reference labs wrote them, for BIRD 1.6 and 2.
//!
//! - E1: one controller neighbour on a port of its own, with ADD-PATH (Porter).
//! - E2: three masters, of which some may not speak (the load-balancer controller).
//! - E3: one session for each node; in BIRD 2 also a range that nodes come and go in.
//! - E4: a plain iBGP client of a route reflector (the RouterOS of the Calico lab).
//!
//! Only addresses, AS numbers and the port are parameters: nothing is added to make a test easier.

use std::fmt::Write;
use std::net::IpAddr;

use super::bird::Version;

/// One session of the edge.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// The name of the `protocol bgp` block.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// Its AS.
    pub asn: u32,
}

/// The edge itself.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Which BIRD reads the file.
    pub version: Version,
    /// Its address and router id.
    pub address: IpAddr,
    /// Its AS.
    pub asn: u32,
}

impl Neighbour {
    /// A neighbour.
    pub fn new(name: &str, address: IpAddr, port: u16, asn: u32) -> Neighbour {
        Neighbour { name: name.to_owned(), address, port, asn }
    }
}

impl Edge {
    /// Router id, device and kernel protocols; `merge paths` makes one multipath route of equal paths.
    fn head(&self, merge_paths: bool) -> String {
        let mut text = format!("router id {};\nprotocol device {{ scan time 10; }}\n", self.address);
        let merge = if merge_paths { " merge paths on;" } else { "" };
        text.push_str(&match self.version {
            Version::One => format!("protocol kernel {{ scan time 60; import none; export all;{merge} }}\n"),
            Version::Two => {
                format!("protocol kernel {{ scan time 60; ipv4 {{ import none; export all; }};{merge} }}\n")
            }
        });
        text
    }

    /// E1.
    pub fn e1(&self, master: &Neighbour) -> String {
        self.e1_with(master, true)
    }

    /// E1, with or without `add paths on`.
    pub fn e1_with(&self, master: &Neighbour, add_paths: bool) -> String {
        let (us, asn) = (self.address, self.asn);
        let Neighbour { name, address, port, asn: peer } = master;
        let add_paths = if add_paths { " add paths on;" } else { "" };
        let block = match self.version {
            Version::One => format!(
                "protocol bgp {name} {{\n  description \"{us}\";\n  local as {asn};\n  \
                 neighbor {address} port {port} as {peer};\n  source address {us};\n  import all;\n  export all;\n  \
                 enable route refresh off;\n {add_paths}\n}}\n"
            ),
            Version::Two => format!(
                "protocol bgp {name} {{\n  description \"{us}\";\n  local {us} as {asn};\n  \
                 neighbor {address} port {port} as {peer};\n  enable route refresh off;\n  \
                 ipv4 {{ import all; export all;{add_paths} }};\n}}\n"
            ),
        };
        self.head(true) + &block
    }

    /// E2.
    pub fn e2(&self, masters: &[Neighbour]) -> String {
        let (us, asn) = (self.address, self.asn);
        let mut text = self.head(true);
        if self.version == Version::Two {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(
                text,
                "template bgp master {{ local {us} as {asn}; ipv4 {{ import all; export all; add paths on; }}; }}"
            );
        }
        for Neighbour { name, address, port, asn: peer } in masters {
            let _ = match self.version {
                Version::One => writeln!(
                    text,
                    "protocol bgp {name} {{ local as {asn}; neighbor {address} port {port} as {peer}; \
                     source address {us}; import all; export all; add paths on; }}"
                ),
                Version::Two => {
                    writeln!(text, "protocol bgp {name} from master {{ neighbor {address} port {port} as {peer}; }}")
                }
            };
        }
        text
    }

    /// E3 with a block for each node.
    pub fn e3(&self, nodes: &[Neighbour]) -> String {
        let (us, asn) = (self.address, self.asn);
        let mut text = self.head(true);
        if self.version == Version::Two {
            let _ = writeln!(text, "template bgp node {{ local {us} as {asn}; ipv4 {{ import all; export all; }}; }}");
        }
        for Neighbour { name, address, port, asn: peer } in nodes {
            let _ = match self.version {
                Version::One => writeln!(
                    text,
                    "protocol bgp {name} {{ local as {asn}; neighbor {address} port {port} as {peer}; \
                     source address {us}; import all; export all; }}"
                ),
                Version::Two => {
                    writeln!(text, "protocol bgp {name} from node {{ neighbor {address} port {port} as {peer}; }}")
                }
            };
        }
        text
    }

    /// E3 with a range of neighbours, which only BIRD 2 knows.
    pub fn e3_range(&self, range: &str, asn: u32) -> String {
        let (us, own) = (self.address, self.asn);
        let mut text = self.head(true);
        let _ = writeln!(
            text,
            "protocol bgp nodes {{ local {us} as {own}; neighbor range {range} as {asn}; dynamic name \"node\"; \
             ipv4 {{ import all; export all; }}; }}"
        );
        text
    }

    /// E4: an iBGP session to a route reflector, whose next hops are on our own wire.
    pub fn e4(&self, reflector: &Neighbour, add_paths: bool) -> String {
        let (us, asn) = (self.address, self.asn);
        let Neighbour { name, address, port, .. } = reflector;
        let port = if *port == 179 { String::new() } else { format!(" port {port}") };
        let rx = if add_paths { " add paths rx;" } else { "" };
        let mut text = self.head(true);
        let _ = match self.version {
            Version::One => writeln!(
                text,
                "protocol bgp {name} {{ local as {asn}; \
                 neighbor {address}{port} as {asn}; source address {us}; direct; import all; export none;{rx} }}"
            ),
            Version::Two => writeln!(
                text,
                "protocol bgp {name} {{ local {us} as {asn}; neighbor {address}{port} as {asn}; direct; \
                 ipv4 {{ import all; export none;{rx} }}; }}"
            ),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_the_same_in_their_own_words() {
        let edge = |version| Edge { version, address: IpAddr::from([192, 168, 1, 4]), asn: 65001 };
        let master = Neighbour::new("mymaster", IpAddr::from([192, 168, 1, 5]), 17900, 65000);
        let one = edge(Version::One).e1(&master);
        assert!(one.contains("source address 192.168.1.4;\n  import all;"), "{one}");
        let two = edge(Version::Two).e1(&master);
        assert!(two.contains("local 192.168.1.4 as 65001;"), "{two}");
        for text in [one, two] {
            assert!(text.contains("neighbor 192.168.1.5 port 17900 as 65000;"), "{text}");
            assert!(text.contains("add paths on;") && text.contains("merge paths on;"), "{text}");
        }
    }
}
