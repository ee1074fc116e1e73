//! Announce only what forwards: newest ∩ applied (pure).
//!
//! A VIP is announced once the service proxy has in force a Service that contributes it: its pass of the snapshot
//! that brought the contribution has ended, and neither the Service nor the VIP failed in it. What is no longer
//! desired is withdrawn at once, without waiting for the proxy. A VIP that is announced stays when a later pass
//! fails: a failed change leaves in the kernel what an earlier pass put there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Generation, ServiceKey};
use crate::reconcile::Applied;

/// One Service's share in a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    /// Since this snapshot, and not yet in force.
    Waiting(Generation),
    /// The proxy forwards it.
    InForce,
}

/// Which VIPs may be announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertiser {
    shares: BTreeMap<IpAddr, BTreeMap<ServiceKey, Share>>,
    announced: BTreeSet<IpAddr>,
    /// VIPs whose shares changed, or of which one waits: all others stay as they are.
    open: BTreeSet<IpAddr>,
}

/// What to tell the speaker. Withdrawals first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// VIPs to withdraw.
    pub withdraw: Vec<IpAddr>,
    /// VIPs to announce.
    pub announce: Vec<IpAddr>,
}

impl Advertiser {
    /// The Services that contribute a VIP as of a snapshot; none when nobody asks for it any longer.
    pub fn set(&mut self, vip: IpAddr, contributors: Option<&BTreeSet<ServiceKey>>, generation: Generation) {
        self.open.insert(vip);
        let Some(contributors) = contributors.filter(|contributors| !contributors.is_empty()) else {
            self.shares.remove(&vip);
            return;
        };
        let shares = self.shares.entry(vip).or_default();
        shares.retain(|key, _| contributors.contains(key));
        for key in contributors {
            if !shares.contains_key(key) {
                shares.insert(key.clone(), Share::Waiting(generation));
            }
        }
    }

    /// What changes with what the proxy has in force; `None` where no service proxy of ours runs and there is nothing
    /// to wait for. Costs what is open, not what there is.
    pub fn settle(&mut self, applied: Option<&Applied>) -> Difference {
        if self.open.is_empty() {
            return Difference::default();
        }
        let failed = applied.map(Failed::new);
        let mut difference = Difference::default();
        for vip in std::mem::take(&mut self.open) {
            let mut may = false;
            for (key, share) in self.shares.get_mut(&vip).into_iter().flatten() {
                if let Share::Waiting(since) = *share {
                    let forwards = match (applied, &failed) {
                        (Some(applied), Some(failed)) => applied.generation >= since && !failed.concerns(vip, key),
                        _ => true,
                    };
                    if forwards {
                        *share = Share::InForce;
                    } else {
                        self.open.insert(vip);
                    }
                }
                may |= *share == Share::InForce;
            }
            match (may, self.announced.contains(&vip)) {
                (true, false) => {
                    self.announced.insert(vip);
                    difference.announce.push(vip);
                }
                (false, true) => {
                    self.announced.remove(&vip);
                    difference.withdraw.push(vip);
                }
                _ => {}
            }
        }
        difference
    }

    /// The VIPs announced now.
    pub fn announced(&self) -> &BTreeSet<IpAddr> {
        &self.announced
    }

    /// The VIPs that wait for the proxy.
    pub fn waiting(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.open.iter().filter(|vip| self.shares.contains_key(*vip) && !self.announced.contains(*vip)).copied()
    }
}

/// What the proxy's report says is not in force.
struct Failed {
    everything: bool,
    vips: BTreeSet<String>,
    services: BTreeSet<String>,
}

impl Failed {
    /// Failed keys are `vip ADDRESS` and `NAMESPACE/NAME: SERVER`.
    fn new(applied: &Applied) -> Failed {
        let keys = || applied.failed.keys();
        Failed {
            everything: !applied.broken.is_empty(),
            vips: keys().filter_map(|key| key.strip_prefix("vip ")).map(str::to_owned).collect(),
            services: keys().filter_map(|key| key.split_once(": ")).map(|(service, _)| service.to_owned()).collect(),
        }
    }

    fn concerns(&self, vip: IpAddr, key: &ServiceKey) -> bool {
        self.everything
            || (!self.vips.is_empty() && self.vips.contains(&vip.to_string()))
            || (!self.services.is_empty() && self.services.contains(&key.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::builders::{ip, key};

    const VIP: &str = "203.0.113.1";

    fn applied(generation: u64, failed: &[&str]) -> Applied {
        let failed = failed.iter().map(|key| ((*key).to_owned(), "EIO".to_owned())).collect();
        Applied { generation: Generation(generation), failed, ..Applied::default() }
    }

    fn set(advertiser: &mut Advertiser, names: &[&str], generation: u64) {
        let keys: BTreeSet<ServiceKey> = names.iter().map(|name| key(name)).collect();
        advertiser.set(ip(VIP), Some(&keys), Generation(generation));
    }

    fn settle(advertiser: &mut Advertiser, applied: &Applied) -> (usize, usize) {
        let difference = advertiser.settle(Some(applied));
        (difference.withdraw.len(), difference.announce.len())
    }

    #[test]
    fn announces_vip_only_after_proxy_applied_it() {
        let mut advertiser = Advertiser::default();
        set(&mut advertiser, &["web"], 5);
        assert_eq!(settle(&mut advertiser, &applied(4, &[])), (0, 0));
        assert_eq!(advertiser.waiting().count(), 1);
        assert_eq!(settle(&mut advertiser, &applied(5, &["default/web: tcp 203.0.113.1:80"])), (0, 0));
        assert_eq!(settle(&mut advertiser, &applied(5, &["vip 203.0.113.1"])), (0, 0));
        let broken = Applied { broken: BTreeSet::from(["ipvs".to_owned()]), ..applied(6, &["ipvs"]) };
        assert_eq!(settle(&mut advertiser, &broken), (0, 0));
        assert_eq!(
            settle(&mut advertiser, &applied(6, &["default/web-2: tcp 203.0.113.1:81", "vip 203.0.113.10"])),
            (0, 1)
        );
        assert_eq!(settle(&mut advertiser, &applied(7, &["default/web: tcp 203.0.113.1:80"])), (0, 0), "stays");
    }

    #[test]
    fn withdraws_at_once_and_waits_again_when_it_comes_back() {
        let mut advertiser = Advertiser::default();
        set(&mut advertiser, &["web"], 1);
        assert_eq!(settle(&mut advertiser, &applied(1, &[])), (0, 1));
        advertiser.set(ip(VIP), None, Generation(2));
        assert_eq!(settle(&mut advertiser, &applied(1, &[])), (1, 0), "the proxy still has it");
        set(&mut advertiser, &["web"], 3);
        assert_eq!(settle(&mut advertiser, &applied(2, &[])), (0, 0));
        assert_eq!(settle(&mut advertiser, &applied(3, &[])), (0, 1));
    }

    #[test]
    fn a_shared_vip_lasts_while_one_service_is_in_force() {
        let mut advertiser = Advertiser::default();
        set(&mut advertiser, &["web"], 1);
        assert_eq!(settle(&mut advertiser, &applied(1, &[])), (0, 1));
        set(&mut advertiser, &["web", "other"], 2);
        assert_eq!(settle(&mut advertiser, &applied(2, &[])), (0, 0));
        set(&mut advertiser, &["other"], 3);
        assert_eq!(settle(&mut advertiser, &applied(2, &[])), (0, 0), "other was in force already");
        set(&mut advertiser, &["third"], 4);
        assert_eq!(settle(&mut advertiser, &applied(3, &[])), (1, 0), "nothing forwards it yet");
        assert_eq!(settle(&mut advertiser, &applied(4, &[])), (0, 1));
    }

    #[test]
    fn without_a_proxy_nothing_waits() {
        let mut advertiser = Advertiser::default();
        set(&mut advertiser, &["web"], 9);
        assert_eq!(advertiser.settle(None).announce, [ip(VIP)]);
    }
}
