//! Direct server return inside a pod: the tunnel packets come out of, with the VIPs on it (a thin door).
//!
//! For each family with VIPs a tunnel device that ends at the pod's own address, up, each VIP on it as a host address,
//! and no reverse-path filter in the way: the client's packets come off the tunnel, but the way back is the pod's
//! ordinary link. What is already right is not written again; VIPs that are no longer wanted leave the device, and a
//! device without VIPs goes. Anything else in the pod is the pod's own.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use crate::kernel::rtnl::{Address, Link, Op, Rtnl, RtnlClient, Tunnel};
use crate::kernel::sysctl::{ProcSys, Sysctl};
use crate::kernel::{self, Disposition, netns};
use crate::net::{Family, host_prefix};

use super::dsr::PodSetup;

/// How often the pod is read again before giving up: link, then what is on it, then the proof, and one to spare.
const ROUNDS: usize = 4;
/// `RT_SCOPE_LINK`: the VIP is no source for traffic the pod starts.
const SCOPE_LINK: u8 = 253;

/// The name of the tunnel device, kube-router's.
pub fn tunnel_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "kube-tunnel-if",
        Family::V6 => "kube-tunnel-v6",
    }
}

/// The kind of the tunnel device (`IFLA_INFO_KIND`).
fn tunnel_kind(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipip",
        Family::V6 => "ip6tnl",
    }
}

/// Why a pod could not be configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its network namespace cannot be entered.
    #[error(
        "the network of process {pid} cannot be entered; the daemon needs the host's process numbers (hostPID: true) \
         and CAP_SYS_ADMIN"
    )]
    Namespace {
        /// The container's process.
        pid: u32,
        /// Why.
        #[source]
        source: netns::Error,
    },
    /// The process is somewhere else.
    #[error(
        "process {pid} is not in the network of pod {pod}: none of its addresses is there; does the daemon see the \
         host's process numbers (hostPID: true)?"
    )]
    NotThePod {
        /// The container's process.
        pid: u32,
        /// The pod.
        pod: String,
    },
    /// A device of another kind has the tunnel's name.
    #[error("device {name} in pod {pod} is a {kind:?}, not a tunnel of ours; the pod must not make one of that name")]
    ForeignDevice {
        /// The name.
        name: &'static str,
        /// The pod.
        pod: String,
        /// What it is.
        kind: String,
    },
    /// The kernel refused a change.
    #[error("the network of pod {pod} cannot be read or changed")]
    Kernel {
        /// The pod.
        pod: String,
        /// What the kernel said.
        #[source]
        source: kernel::Error,
    },
    /// A setting cannot be read or written.
    #[error(
        "in pod {pod}: setting {key} cannot be read or changed; the daemon needs a writable /proc/sys (privileged)"
    )]
    Setting {
        /// The pod.
        pod: String,
        /// Path below `/proc/sys`.
        key: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Every change was accepted, and yet something was still missing.
    #[error("pod {pod} does not keep its tunnel devices as they are written; something else changes them")]
    Unsettled {
        /// The pod.
        pod: String,
    },
}

/// The way into a pod's network.
pub trait PodNetwork: Send + Sync + 'static {
    /// Makes the network of process `pid` as `setup` says. Returns how many changes were written.
    ///
    /// # Errors
    /// Where the network cannot be entered, is not that pod's, or does not become as it should be.
    fn configure(&self, pid: u32, setup: &PodSetup) -> Result<usize, Error>;
}

/// The networks of this node's real pods.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelPods;

impl PodNetwork for KernelPods {
    fn configure(&self, pid: u32, setup: &PodSetup) -> Result<usize, Error> {
        let inside = || {
            let mut rtnl = RtnlClient::open().map_err(|source| Error::Kernel { pod: setup.pod.to_string(), source })?;
            settle(&mut rtnl, &mut ProcSys::default(), setup, pid)
        };
        netns::run_in(Path::new(&format!("/proc/{pid}/ns/net")), inside)
            .map_err(|source| Error::Namespace { pid, source })?
    }
}

/// Configures the namespace that `rtnl` and `sysctl` act in, which must be the pod's. `pid` is for messages only.
/// Returns how many changes were written; none when all was right.
///
/// # Errors
/// Where it is not the pod's network, or does not become as it should be.
pub fn settle(rtnl: &mut dyn Rtnl, sysctl: &mut dyn Sysctl, setup: &PodSetup, pid: u32) -> Result<usize, Error> {
    let refused = |source| Error::Kernel { pod: setup.pod.to_string(), source };
    let mut writes = 0;
    for _ in 0..ROUNDS {
        let links = rtnl.links().map_err(refused)?;
        let addresses = rtnl.addresses(None).map_err(refused)?;
        if !addresses.iter().any(|address| setup.addresses.contains(&address.prefix.addr())) {
            return Err(Error::NotThePod { pid, pod: setup.pod.to_string() });
        }
        // First the filters, then the addresses: packets for a VIP are not to be dropped on their way in.
        for key in filters(setup, &links, &addresses) {
            writes += clear(sysctl, setup, key)?;
        }
        let ops = plan(setup, &links, &addresses)?;
        if ops.is_empty() {
            return Ok(writes);
        }
        for result in rtnl.apply(&ops) {
            match result {
                Ok(()) => writes += 1,
                Err(error) if matches!(error.disposition(), Disposition::AlreadySo | Disposition::Stale) => {}
                Err(error) => return Err(refused(error)),
            }
        }
    }
    Err(Error::Unsettled { pod: setup.pod.to_string() })
}

/// What makes the links and addresses of a pod right, as far as can be said before it is read again (pure): a missing
/// device is made first, and its addresses follow once its index is known.
///
/// # Errors
/// Where a device of another kind has the tunnel's name.
pub fn plan(setup: &PodSetup, links: &[Link], addresses: &[Address]) -> Result<Vec<Op>, Error> {
    let mut ops = Vec::new();
    for family in Family::ALL {
        let name = tunnel_name(family);
        let link = links.iter().find(|link| link.name == name);
        if let Some(link) = link
            && link.kind != tunnel_kind(family)
        {
            return Err(Error::ForeignDevice { name, pod: setup.pod.to_string(), kind: link.kind.clone() });
        }
        let vips = vips_of(setup, family);
        match (own_address(setup, family), link) {
            (Some(local), None) if !vips.is_empty() => {
                ops.push(Op::AddTunnel { name: name.to_owned(), tunnel: Tunnel::plain(local, None) });
            }
            (Some(_), Some(link)) if !vips.is_empty() => plan_device(link, &vips, addresses, &mut ops),
            (_, Some(link)) => ops.push(Op::DeleteLink { link: link.index }),
            (_, None) => {}
        }
    }
    Ok(ops)
}

fn plan_device(link: &Link, vips: &BTreeSet<IpAddr>, addresses: &[Address], ops: &mut Vec<Op>) {
    if !link.up {
        ops.push(Op::SetUp { link: link.index, up: true });
    }
    let present: Vec<&Address> = addresses.iter().filter(|address| address.link == link.index).collect();
    let missing = vips.iter().filter(|vip| !present.iter().any(|address| address.prefix == host_prefix(**vip)));
    ops.extend(
        missing.map(|vip| Op::AddAddress(Address { link: link.index, prefix: host_prefix(*vip), scope: SCOPE_LINK })),
    );
    let stale = present.into_iter().filter(|address| {
        let ip = address.prefix.addr();
        let wanted = vips.contains(&ip) && address.prefix == host_prefix(ip);
        !wanted && !link_local(ip)
    });
    ops.extend(stale.map(|address| Op::DeleteAddress(*address)));
}

/// The kernel gives IPv6 devices such an address by itself (RFC 4291, section 2.5.6).
fn link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn own_address(setup: &PodSetup, family: Family) -> Option<IpAddr> {
    setup.addresses.iter().copied().find(|address| Family::of(*address) == family)
}

fn vips_of(setup: &PodSetup, family: Family) -> BTreeSet<IpAddr> {
    setup.vips.iter().copied().filter(|vip| Family::of(*vip) == family).collect()
}

/// The reverse-path filters an IPv4 packet meets: the stricter one of `all` and its device counts, so all of them are
/// cleared. IPv6 has none.
fn filters(setup: &PodSetup, links: &[Link], addresses: &[Address]) -> BTreeSet<String> {
    if vips_of(setup, Family::V4).is_empty() || own_address(setup, Family::V4).is_none() {
        return BTreeSet::new();
    }
    let uplink = |link: &&Link| {
        addresses.iter().any(|address| address.link == link.index && setup.addresses.contains(&address.prefix.addr()))
    };
    let devices = links
        .iter()
        .filter(|link| link.name == tunnel_name(Family::V4) || uplink(link))
        .map(|link| link.name.as_str())
        .chain(["all"]);
    devices.map(|device| format!("net/ipv4/conf/{device}/rp_filter")).collect()
}

/// Sets a setting to 0. Returns 1 when that was a change.
fn clear(sysctl: &mut dyn Sysctl, setup: &PodSetup, key: String) -> Result<usize, Error> {
    let failed = |source| Error::Setting { pod: setup.pod.to_string(), key: key.clone(), source };
    match sysctl.read(&key).map_err(failed)? {
        Some(value) if value != "0" => sysctl.write(&key, "0").map(|()| 1).map_err(failed),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::kernel::rtnl::{Neighbour, Route, RouteFilter, Rule};
    use crate::kernel::sysctl::FakeSysctl;
    use crate::model::{PodKey, ServiceKey};

    /// A pod's network as a small kernel.
    struct Pod {
        links: Vec<Link>,
        addresses: Vec<Address>,
        sysctl: FakeSysctl,
        /// Every change asked for, as text.
        writes: Vec<String>,
        /// Take this change without doing it.
        forgets: Option<fn(&Op) -> bool>,
    }

    fn link(index: u32, name: &str, kind: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: kind.to_owned(),
            up: false,
            carrier: false,
            no_arp: false,
            loopback: name == "lo",
            mtu: 1500,
            master: None,
            tunnel: None,
        }
    }

    fn failure(errno: i32, kind: Disposition) -> kernel::Error {
        kernel::Error { op: "ip".to_owned(), errno: Some(errno), message: String::new(), kind }
    }

    impl Pod {
        fn new(addresses: &[&str]) -> Pod {
            let mut values = BTreeMap::new();
            // The tunnel's own setting appears with the tunnel; nobody asks for it before.
            for device in ["all", "default", "lo", "eth0", "kube-tunnel-if"] {
                values.insert(format!("net/ipv4/conf/{device}/rp_filter"), "1".to_owned());
            }
            let address = |text: &&str| Address { link: 2, prefix: text.parse().unwrap(), scope: 0 };
            Pod {
                links: vec![link(1, "lo", ""), link(2, "eth0", "veth")],
                addresses: addresses.iter().map(address).collect(),
                sysctl: FakeSysctl { values, ..FakeSysctl::default() },
                writes: Vec::new(),
                forgets: None,
            }
        }

        fn settle(&mut self, setup: &PodSetup) -> Result<usize, Error> {
            let mut sysctl = std::mem::take(&mut self.sysctl);
            let result = settle(self, &mut sysctl, setup, 1);
            self.sysctl = sysctl;
            result
        }

        fn on(&self, name: &str) -> Vec<String> {
            let index = self.links.iter().find(|link| link.name == name).map(|link| link.index);
            let mut on: Vec<String> = self
                .addresses
                .iter()
                .filter(|address| Some(address.link) == index)
                .map(|address| address.prefix.to_string())
                .collect();
            on.sort();
            on
        }

        fn rp_filter(&self, device: &str) -> Option<&str> {
            self.sysctl.values.get(&format!("net/ipv4/conf/{device}/rp_filter")).map(String::as_str)
        }

        fn change(&mut self, op: &Op) -> Result<(), kernel::Error> {
            self.writes.push(format!("{op:?}"));
            if self.forgets.is_some_and(|forgets| forgets(op)) {
                return Ok(());
            }
            match op {
                Op::AddTunnel { name, tunnel: Tunnel { local, remote: None, .. } } => {
                    if self.links.iter().any(|link| link.name == *name) {
                        return Err(failure(17, Disposition::AlreadySo));
                    }
                    let index = self.links.len() as u32 + 10;
                    let family = Family::of(*local);
                    self.links.push(link(index, name, tunnel_kind(family)));
                    if family == Family::V6 {
                        self.addresses.push(Address { link: index, prefix: "fe80::1/64".parse().unwrap(), scope: 253 });
                    }
                }
                Op::DeleteLink { link } => {
                    self.links.retain(|l| l.index != *link);
                    self.addresses.retain(|address| address.link != *link);
                }
                Op::SetUp { link, up } => {
                    self.links.iter_mut().filter(|l| l.index == *link).for_each(|l| l.up = *up);
                }
                Op::AddAddress(address) => {
                    if self.addresses.iter().any(|a| (a.link, a.prefix) == (address.link, address.prefix)) {
                        return Err(failure(17, Disposition::AlreadySo));
                    }
                    self.addresses.push(*address);
                }
                Op::DeleteAddress(address) => self.addresses.retain(|a| a != address),
                other => panic!("unexpected {other:?}"),
            }
            Ok(())
        }
    }

    impl Rtnl for Pod {
        fn links(&mut self) -> Result<Vec<Link>, kernel::Error> {
            Ok(self.links.clone())
        }

        fn addresses(&mut self, link: Option<u32>) -> Result<Vec<Address>, kernel::Error> {
            Ok(self.addresses.iter().copied().filter(|address| link.is_none_or(|l| l == address.link)).collect())
        }

        fn routes(&mut self, _: RouteFilter) -> Result<Vec<Route>, kernel::Error> {
            Ok(Vec::new())
        }

        fn rules(&mut self) -> Result<Vec<Rule>, kernel::Error> {
            Ok(Vec::new())
        }

        fn neighbours(&mut self) -> Result<Vec<Neighbour>, kernel::Error> {
            Ok(Vec::new())
        }

        fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), kernel::Error>> {
            ops.iter().map(|op| self.change(op)).collect()
        }
    }

    fn setup(addresses: &[&str], vips: &[&str]) -> PodSetup {
        PodSetup {
            pod: PodKey::new("default", "web-0"),
            container_id: Arc::from("containerd://1"),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            vips: vips.iter().map(|text| text.parse().unwrap()).collect(),
            services: BTreeSet::from([ServiceKey::new("default", "web")]),
        }
    }

    const DUAL: &[&str] = &["10.1.0.2", "2001:db8:1::2"];

    #[test]
    fn makes_tunnels_for_both_families_and_then_has_nothing_to_do() {
        let mut pod = Pod::new(&["10.1.0.2/24", "2001:db8:1::2/64"]);
        let setup = setup(DUAL, &["10.255.0.1", "10.255.0.2", "2001:db8::80"]);
        // Two devices, both up, three addresses, three filters.
        assert_eq!(pod.settle(&setup).unwrap(), 2 + 2 + 3 + 3);
        assert_eq!(pod.on("kube-tunnel-if"), ["10.255.0.1/32", "10.255.0.2/32"]);
        assert_eq!(pod.on("kube-tunnel-v6"), ["2001:db8::80/128", "fe80::1/64"]);
        assert!(pod.links.iter().filter(|link| link.name.starts_with("kube-tunnel")).all(|link| link.up));
        for (device, value) in [("all", "0"), ("eth0", "0"), ("kube-tunnel-if", "0"), ("lo", "1"), ("default", "1")] {
            assert_eq!(pod.rp_filter(device), Some(value), "{device}");
        }
        let local = |name: &str| pod.writes.iter().any(|op| op.starts_with("AddTunnel") && op.contains(name));
        assert!(local("local: 10.1.0.2") && local("local: 2001:db8:1::2"), "{:?}", pod.writes);
        pod.writes.clear();
        assert_eq!(pod.settle(&setup).unwrap(), 0);
        assert_eq!(pod.writes, Vec::<String>::new());
    }

    #[test]
    fn ipv6_alone_needs_no_ipv4_settings() {
        let mut pod = Pod::new(&["2001:db8:1::2/64"]);
        pod.sysctl = FakeSysctl::default();
        assert_eq!(pod.settle(&setup(&["2001:db8:1::2"], &["2001:db8::80"])).unwrap(), 3);
        assert_eq!(pod.on("kube-tunnel-v6"), ["2001:db8::80/128", "fe80::1/64"]);
        assert_eq!(pod.on("kube-tunnel-if"), Vec::<String>::new());
        // Nor are they touched where a dual-stack pod has only an IPv6 VIP.
        let mut pod = Pod::new(&["10.1.0.2/24", "2001:db8:1::2/64"]);
        pod.settle(&setup(DUAL, &["2001:db8::80"])).unwrap();
        assert_eq!(pod.rp_filter("all"), Some("1"));
        assert_eq!(pod.links.len(), 3);
    }

    #[test]
    fn a_family_the_pod_does_not_have_is_left_out() {
        let mut pod = Pod::new(&["10.1.0.2/24"]);
        pod.settle(&setup(&["10.1.0.2"], &["2001:db8::80", "10.255.0.1"])).unwrap();
        assert_eq!(
            pod.links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(),
            ["lo", "eth0", "kube-tunnel-if"]
        );
    }

    #[test]
    fn vips_come_and_go_and_take_the_device_with_them() {
        let mut pod = Pod::new(&["10.1.0.2/24", "2001:db8:1::2/64"]);
        pod.settle(&setup(DUAL, &["10.255.0.1", "2001:db8::80"])).unwrap();
        assert_eq!(pod.settle(&setup(DUAL, &["10.255.0.2", "2001:db8::80"])).unwrap(), 2);
        assert_eq!(pod.on("kube-tunnel-if"), ["10.255.0.2/32"]);
        assert_eq!(pod.settle(&setup(DUAL, &["10.255.0.2"])).unwrap(), 1);
        assert_eq!(pod.on("kube-tunnel-v6"), Vec::<String>::new());
        assert_eq!(pod.settle(&setup(DUAL, &[])).unwrap(), 1);
        assert_eq!(pod.links.len(), 2);
        assert_eq!(pod.on("eth0"), ["10.1.0.2/24", "2001:db8:1::2/64"]);
        assert_eq!(pod.settle(&setup(DUAL, &[])).unwrap(), 0);
    }

    #[test]
    fn repairs_what_another_daemon_left_half_done() {
        let mut pod = Pod::new(&["10.1.0.2/24"]);
        pod.links.push(link(9, "kube-tunnel-if", "ipip"));
        let address = |text: &str, scope| Address { link: 9, prefix: text.parse().unwrap(), scope };
        // Right but for the scope, wrong length, unknown.
        pod.addresses.extend([address("10.255.0.1/32", 0), address("10.255.0.2/24", 253), address("10.9.9.9/32", 253)]);
        let setup = setup(&["10.1.0.2"], &["10.255.0.1", "10.255.0.2"]);
        pod.settle(&setup).unwrap();
        assert_eq!(pod.on("kube-tunnel-if"), ["10.255.0.1/32", "10.255.0.2/32"]);
        assert!(pod.links.iter().any(|link| link.index == 9 && link.up));
        assert!(!pod.writes.iter().any(|op| op.contains("AddTunnel")), "{:?}", pod.writes);
    }

    #[test]
    fn never_writes_where_the_pod_is_not() {
        let mut pod = Pod::new(&["192.0.2.1/24"]);
        let error = pod.settle(&setup(&["10.1.0.2"], &["10.255.0.1"])).unwrap_err();
        assert!(matches!(error, Error::NotThePod { pid: 1, .. }), "{error}");
        assert!(error.to_string().contains("default/web-0") && error.to_string().contains("hostPID"), "{error}");
        assert_eq!((pod.writes.len(), pod.rp_filter("all")), (0, Some("1")));
    }

    #[test]
    fn a_device_of_the_pods_own_is_not_taken_over() {
        let mut pod = Pod::new(&["10.1.0.2/24"]);
        pod.links.push(link(9, "kube-tunnel-if", "dummy"));
        let error = pod.settle(&setup(&["10.1.0.2"], &["10.255.0.1"])).unwrap_err();
        assert!(matches!(error, Error::ForeignDevice { .. }) && error.to_string().contains("dummy"), "{error}");
        assert_eq!(pod.writes, Vec::<String>::new());
    }

    #[test]
    fn says_which_setting_cannot_be_written() {
        let mut pod = Pod::new(&["10.1.0.2/24"]);
        pod.sysctl.read_only.insert("net/ipv4/conf/all/rp_filter".to_owned());
        let error = pod.settle(&setup(&["10.1.0.2"], &["10.255.0.1"])).unwrap_err();
        assert!(error.to_string().contains("net/ipv4/conf/all/rp_filter"), "{error}");
        // Where it is right already, it need not be writable.
        pod.sysctl.values.insert("net/ipv4/conf/all/rp_filter".to_owned(), "0".to_owned());
        pod.settle(&setup(&["10.1.0.2"], &["10.255.0.1"])).unwrap();
    }

    #[test]
    fn gives_up_on_a_pod_that_keeps_nothing() {
        let mut pod = Pod::new(&["10.1.0.2/24"]);
        pod.forgets = Some(|op| matches!(op, Op::AddAddress(_)));
        let error = pod.settle(&setup(&["10.1.0.2"], &["10.255.0.1"])).unwrap_err();
        assert!(matches!(error, Error::Unsettled { .. }), "{error}");
    }
}
