//! The networks this node is on, and which of them it has lost with their link (pure).
//!
//! A next hop in a lost network is reached by nothing else: the kernel keeps the route of a link without a carrier, and
//! whatever leads there by way of a router was never on the link.

use std::collections::{BTreeMap, BTreeSet};

use crate::kernel::rtnl::{Address, Link};
use crate::net::Prefix;

/// What was seen of links.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks {
    /// Of each link since it last worked: IPv6 addresses go with a link that is shut.
    of_links: BTreeMap<u32, BTreeSet<Prefix>>,
}

impl Networks {
    /// Takes links and addresses as they are now; the networks of links that do not work, as far as no other link has them.
    pub(super) fn see(&mut self, links: &[Link], addresses: &[Address]) -> BTreeSet<Prefix> {
        let links: BTreeMap<u32, &Link> = links
            .iter()
            .filter(|link| !link.loopback && link.tunnel.is_none())
            .map(|link| (link.index, link))
            .collect();
        let works = |link: &Link| link.up && link.carrier;
        self.of_links.retain(|index, _| links.get(index).is_some_and(|link| !works(link)));
        for address in addresses.iter().filter(|address| links.contains_key(&address.link) && is_network(address)) {
            self.of_links.entry(address.link).or_default().insert(address.prefix.trunc());
        }
        let (mut there, mut lost) = (BTreeSet::new(), BTreeSet::new());
        for (index, networks) in &self.of_links {
            let working = links.get(index).is_some_and(|link| works(link));
            if working { &mut there } else { &mut lost }.extend(networks.iter().copied());
        }
        lost.retain(|network: &Prefix| !there.iter().any(|other: &Prefix| other.contains(network)));
        lost
    }
}

/// Whether neighbours may have addresses beside it that no other link has as well.
fn is_network(address: &Address) -> bool {
    let prefix = address.prefix;
    let link_local = matches!(prefix.addr(), std::net::IpAddr::V6(address) if address.is_unicast_link_local());
    prefix.prefix_len() < prefix.max_prefix_len() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::rtnl::Rtnl as _;
    use crate::kernel::rtnl::fake::FakeRtnl;
    use crate::testing::builders::prefix;

    fn on(link: u32, text: &str) -> Address {
        Address { link, prefix: prefix(text), scope: 0 }
    }

    fn texts(lost: &BTreeSet<Prefix>) -> Vec<String> {
        lost.iter().map(ToString::to_string).collect()
    }

    /// Two links with a network each, and addresses that are on no network of their own.
    fn node() -> (Vec<Link>, Vec<Address>) {
        let mut kernel = FakeRtnl::new();
        let (one, two) = (kernel.put_link("eth0", ""), kernel.put_link("eth1", ""));
        let addresses = vec![
            on(one, "192.168.10.11/24"),
            on(one, "2001:db8:10::11/64"),
            on(one, "fe80::1/64"),
            on(one, "198.51.100.1/32"),
            on(two, "192.168.20.11/24"),
        ];
        (kernel.links().unwrap(), addresses)
    }

    fn carrier(links: &mut [Link], name: &str, carrier: bool) {
        links.iter_mut().filter(|link| link.name == name).for_each(|link| link.carrier = carrier);
    }

    #[test]
    fn the_networks_of_a_link_without_a_carrier_are_lost_until_it_is_back() {
        let (mut links, addresses) = node();
        let mut networks = Networks::default();
        assert!(networks.see(&links, &addresses).is_empty());
        carrier(&mut links, "eth0", false);
        assert_eq!(texts(&networks.see(&links, &addresses)), ["192.168.10.0/24", "2001:db8:10::/64"]);
        carrier(&mut links, "eth0", true);
        assert!(networks.see(&links, &addresses).is_empty());
    }

    #[test]
    fn what_a_shut_link_forgets_is_lost_with_it_and_not_with_one_that_is_gone() {
        let (mut links, addresses) = node();
        let mut networks = Networks::default();
        networks.see(&links, &addresses);
        for link in links.iter_mut().filter(|link| link.name == "eth0") {
            (link.up, link.carrier) = (false, false);
        }
        let left: Vec<Address> = addresses.iter().filter(|it| it.prefix.addr().is_ipv4()).copied().collect();
        assert_eq!(texts(&networks.see(&links, &left)), ["192.168.10.0/24", "2001:db8:10::/64"]);
        links.retain(|link| link.name != "eth0");
        let left: Vec<Address> = left.into_iter().filter(|it| it.prefix == prefix("192.168.20.11/24")).collect();
        assert!(networks.see(&links, &left).is_empty(), "a route may lead there now");
    }

    #[test]
    fn a_network_that_another_link_has_too_is_not_lost() {
        let (mut links, mut addresses) = node();
        let second = links.iter().find(|link| link.name == "eth1").unwrap().index;
        addresses.push(on(second, "192.168.10.12/24"));
        carrier(&mut links, "eth0", false);
        assert_eq!(texts(&Networks::default().see(&links, &addresses)), ["2001:db8:10::/64"]);
    }

    #[test]
    fn an_address_that_is_taken_off_a_working_link_is_no_loss() {
        let (links, addresses) = node();
        let mut networks = Networks::default();
        networks.see(&links, &addresses);
        assert!(networks.see(&links, &addresses[4..]).is_empty());
    }
}
