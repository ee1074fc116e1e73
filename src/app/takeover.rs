//! Taking kube-router's rules out of iptables and nftables, for each room once its own are in force.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;

use crate::kernel::Error;
use crate::kernel::ipset::{Ipset, IpsetClient, Op};
use crate::kernel::iptables::{FLAVOURS, restore, save};
use crate::kernel::nft::NftClient;
use crate::net::Family;
use crate::reconcile::Applied;
use crate::{firewall, proxy, routing};

/// What one of kube-router's controllers leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leftovers {
    what: &'static str,
    /// Our tables that stand in for them.
    tables: &'static [&'static str],
    /// What happens where it cannot be removed.
    otherwise: &'static str,
    removal: fn(&str) -> Option<String>,
    is_set: fn(&str) -> bool,
    /// Its own tables of nftables.
    nft: &'static [(Family, &'static str)],
}

/// Of its service proxy.
pub(super) const SERVICES: Leftovers = Leftovers {
    what: "service rules",
    tables: &[proxy::TABLE],
    otherwise: "they may refuse new virtual servers; remove chains KUBE-ROUTER-SERVICES and KUBE-ROUTER-HAIRPIN and the \
                jumps to them by hand",
    removal: proxy::takeover::removal,
    is_set: |_| false,
    nft: &[],
};
/// Of its router.
pub(super) const ROUTES: Leftovers = Leftovers {
    what: "pod egress rules",
    tables: &[routing::egress::TABLE, routing::egress::FORWARD_TABLE],
    otherwise: "they masquerade traffic to pods of nodes that come later; remove the MASQUERADE rule with \
                kube-router-pod-subnets from POSTROUTING by hand",
    removal: routing::takeover::removal,
    is_set: routing::takeover::is_set,
    nft: &[],
};
/// Of its firewall.
pub(super) const POLICIES: Leftovers = Leftovers {
    what: "network policy chains",
    tables: &[firewall::TABLE],
    otherwise: "they go on denying what was denied last; remove chains KUBE-ROUTER-INPUT, -FORWARD and -OUTPUT and the \
                jumps to them, or tables kube-router-filter-ipv4 and -ipv6 of nftables, by hand",
    removal: firewall::takeover::removal,
    is_set: firewall::takeover::is_set,
    nft: &firewall::takeover::TABLES,
};

/// The pause before another try, which doubles up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How often sets are asked to go once the rules are gone. A rule of iptables-nft lets go of its set a moment later; one
/// that is held much longer is held by somebody else.
const MOST_TRIES_OF_SETS: u32 = 8;

/// What is still there after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nothing,
    Sets,
    Rules,
}

/// The programs of all flavours, by the flavour's name, and nftables.
trait Filters {
    fn save(&mut self, flavour: &str) -> Option<String>;
    fn restore(&mut self, flavour: &str, script: &str) -> Result<(), Error>;
    /// Takes a table of nftables away; whether there was one.
    fn remove_table(&mut self, family: Family, name: &str) -> Result<bool, Error>;
}

/// Those of the node.
struct OfNode;

impl Filters for OfNode {
    fn save(&mut self, flavour: &str) -> Option<String> {
        save(flavour)
    }

    fn restore(&mut self, flavour: &str, script: &str) -> Result<(), Error> {
        restore(flavour, script)
    }

    fn remove_table(&mut self, family: Family, name: &str) -> Result<bool, Error> {
        NftClient::open()?.remove_table_of(family, name)
    }
}

/// Waits for the first pass that brought a room's tables into force, then removes what kube-router left. Until then its
/// rules are the ones in force; afterwards they would stand in the way. Whatever else fails in the room delays nothing.
pub(super) async fn run(mut applied: watch::Receiver<Applied>, leftovers: Leftovers) {
    if applied.wait_for(|applied| leftovers.may_go(applied)).await.is_err() {
        return;
    }
    let (mut pause, longest) = PAUSES;
    let mut tries_of_sets = 0;
    let mut told = BTreeSet::new();
    loop {
        // Starting programs blocks; a node without kube-router runs four of them, once.
        let attempt = tokio::task::spawn_blocking(move || {
            let left = IpsetClient::open().map(|mut ipset| remove(&leftovers, &mut OfNode, &mut ipset, &mut told));
            (left.unwrap_or(Left::Rules), told)
        });
        let Ok((left, so_far)) = attempt.await else { return };
        told = so_far;
        tries_of_sets += u32::from(left == Left::Sets);
        if left == Left::Nothing || tries_of_sets >= MOST_TRIES_OF_SETS {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

impl Leftovers {
    /// Whether the tables that stand in for them are in force.
    fn may_go(&self, applied: &Applied) -> bool {
        let failed = |table: &&str| applied.failed.contains_key(&format!("table {table}"));
        applied.passes > 0 && !self.tables.iter().any(failed)
    }
}

/// Removes what can be removed now. What fails is told once.
fn remove(
    leftovers: &Leftovers,
    filters: &mut impl Filters,
    ipset: &mut impl Ipset,
    told: &mut BTreeSet<String>,
) -> Left {
    let what = leftovers.what;
    let (mut n_programs, mut left) = (0, Left::Nothing);
    let mut note = |place: &str, answer: Result<(), Error>| match answer {
        Ok(()) => tracing::info!(place, what, "removed what kube-router left"),
        Err(error) => {
            left = Left::Rules;
            if told.insert(format!("{place}: {error}")) {
                let otherwise = leftovers.otherwise;
                tracing::warn!(place, what, reason = %error, "kube-router's rules stay for now: {otherwise}");
            }
        }
    };
    for (family, name) in leftovers.nft {
        match filters.remove_table(*family, name) {
            Ok(false) => {}
            answer => note(name, answer.map(drop)),
        }
    }
    for flavour in FLAVOURS {
        let Some(saved) = filters.save(flavour) else { continue };
        n_programs += 1;
        let Some(script) = (leftovers.removal)(&saved) else { continue };
        note(flavour, filters.restore(flavour, &script));
    }
    if n_programs == 0 {
        tracing::debug!(what, "no iptables programs here, so rules that kube-router may have left were not looked for");
        return left;
    }
    // A kernel without ipset holds none.
    let names = ipset.names().unwrap_or_default().into_iter().filter(|name| (leftovers.is_set)(name));
    let ops: Vec<Op> = names.map(Op::Destroy).collect();
    for (op, answer) in ops.iter().zip(ipset.apply(&ops)) {
        if let Err(error) = answer {
            left = left.max(Left::Sets);
            if told.insert(op.to_string()) {
                tracing::info!(what, "an ipset of kube-router is still held, and nothing is the worse for it: {error}");
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Disposition;
    use crate::kernel::ipset::fake::FakeIpset;
    use crate::kernel::ipset::{Kind, Shape};

    /// One flavour with kube-router's router in it, whose program fails a number of times.
    struct Node {
        saved: Option<String>,
        tables: BTreeSet<String>,
        failures: u32,
    }

    impl Node {
        fn may_fail(&mut self, op: &str) -> Result<(), Error> {
            if self.failures == 0 {
                return Ok(());
            }
            self.failures -= 1;
            let (op, message) = (op.to_owned(), "try again".to_owned());
            Err(Error { op, errno: None, message, kind: Disposition::Retry })
        }
    }

    impl Filters for Node {
        fn save(&mut self, flavour: &str) -> Option<String> {
            self.saved.clone().filter(|_| flavour == "iptables-nft")
        }

        fn restore(&mut self, _: &str, _: &str) -> Result<(), Error> {
            self.may_fail("iptables-nft-restore")?;
            self.saved = Some(String::new());
            Ok(())
        }

        fn remove_table(&mut self, family: Family, name: &str) -> Result<bool, Error> {
            self.may_fail("nft delete table")?;
            Ok(self.tables.remove(&format!("{family} {name}")))
        }
    }

    /// Also where there are no programs.
    #[test]
    fn tables_of_nftables_go_without_programs() {
        let ours = firewall::takeover::TABLES.map(|(family, name)| format!("{family} {name}"));
        let tables = ours.into_iter().chain(["inet other".to_owned()]).collect();
        let mut node = Node { saved: None, tables, failures: 1 };
        let mut told = BTreeSet::new();
        let mut attempt = |leftovers| remove(leftovers, &mut node, &mut FakeIpset::new(), &mut told);
        assert_eq!(attempt(&SERVICES), Left::Nothing);
        assert_eq!(attempt(&POLICIES), Left::Rules, "one table could not go");
        assert_eq!(attempt(&POLICIES), Left::Nothing);
        assert_eq!(node.tables, ["inet other".to_owned()].into());
    }

    #[test]
    fn what_cannot_go_now_goes_later() {
        let accept = "-A FORWARD -i kube-bridge -m comment --comment \"allow outbound traffic from pods\" -j ACCEPT";
        let saved = format!("*filter\n:FORWARD ACCEPT [0:0]\n{accept}\nCOMMIT\n");
        let mut node = Node { saved: Some(saved), tables: BTreeSet::new(), failures: 1 };
        let mut ipset = FakeIpset::new();
        let name: std::sync::Arc<str> = "kube-router-node-ips".into();
        let shape = Shape { kind: Kind::Address, family: Some(Family::V4), most: 64 };
        let made = ipset.apply(&[Op::Create { name: name.clone(), shape, expected: 0 }]);
        assert!(made.iter().all(Result::is_ok));
        ipset.refer(&[(name, 1)].into());
        let mut told = BTreeSet::new();
        let mut attempt = |node: &mut Node, ipset: &mut FakeIpset| remove(&ROUTES, node, ipset, &mut told);
        assert_eq!(attempt(&mut node, &mut ipset), Left::Rules);
        assert_eq!(attempt(&mut node, &mut ipset), Left::Sets, "the rules are gone, the set is held for a moment");
        ipset.refer(&[].into());
        assert_eq!(attempt(&mut node, &mut ipset), Left::Nothing);
        assert!(ipset.sets().is_empty());
    }

    #[test]
    fn rules_go_once_our_tables_are_in_force_whatever_else_fails() {
        let failing = |key: &str| Applied {
            passes: 1,
            failed: [(key.to_owned(), "EIO".to_owned())].into(),
            ..Applied::default()
        };
        assert!(!ROUTES.may_go(&Applied::default()), "no pass yet");
        assert!(ROUTES.may_go(&failing("link kube-bridge")));
        for (leftovers, table) in
            [(ROUTES, "ferrovia-pods"), (POLICIES, "ferrovia-firewall"), (SERVICES, "ferrovia-proxy")]
        {
            assert!(!leftovers.may_go(&failing(&format!("table {table}"))), "{table}");
        }
    }
}
