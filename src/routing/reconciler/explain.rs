//! Answers for operators: why a VIP is announced or not and to whom, where packets go and who said so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Room, Voice, next_hops};
use crate::kernel::fou::Fou;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::{Op, Route, Rtnl, Rule};
use crate::kernel::sysctl::Sysctl;
use crate::model::ServiceKey;
use crate::net::{Family, Prefix, host_prefix};
use crate::reconcile::query::View;
use crate::routing::bgp::policy::{Direction, PeerPolicy, PeerView, RouteType};
use crate::routing::bgp::speaker::Config as SpeakerConfig;
use crate::routing::bgp::types::{Attributes, NextHop};
use crate::routing::plan::{self, RouteKey};
use crate::routing::render;
use crate::routing::speakers::Style;

impl<N: Nft, R: Rtnl, F: Fou, S: Sysctl, V: Voice> Room<N, R, F, S, V> {
    /// Answer a question.
    pub(super) fn explain(&mut self, what: &View) -> String {
        let tracker = self.routes.tracker();
        match what {
            View::Desired => {
                let peers = self.told.config().map(render::peers).unwrap_or_default();
                let routes = listing(&self.rules, tracker.all_desired());
                format!("# bgp\n{peers}{}# ip\n{routes}", render::originated(self.told.routes()))
            }
            View::Observed => {
                let ours: BTreeSet<Rule> =
                    self.rules_observed.iter().filter(|rule| plan::is_our_rule(rule)).copied().collect();
                listing(&ours, tracker.all_observed())
            }
            View::Plan => self.explain_plan(),
            View::Service(key) => self.explain_service(key),
            View::Route(address, length) => self.explain_route(*address, *length),
            View::Peer(address) => self.explain_peer(*address),
            View::Findings => self.explain_findings(),
            View::Pod(_) => "the router knows no policies: ask firewall\n".to_owned(),
        }
    }

    fn explain_plan(&self) -> String {
        let links = plan::links(self.tunnels.values(), &self.links, &self.inner);
        let links = links.make.into_iter().chain(links.set).map(|(_, op)| op);
        let rules = plan::rules(&self.rules, &self.rules_observed);
        let routes = self.routes.plan().into_iter().map(|(_, op)| op);
        let mut text = String::new();
        for op in links.chain(rules).chain(routes) {
            let _ = writeln!(text, "{op}");
        }
        let n_inherited = self.routes.n_inherited();
        if n_inherited > 0 {
            let _ = writeln!(text, "# {n_inherited} routes of a former run stay until peers have told all they have");
        }
        if text.is_empty() { "nothing to do\n".to_owned() } else { text }
    }

    fn explain_service(&self, key: &ServiceKey) -> String {
        let mut text = format!("service {key}\n");
        let Some(routes) = self.desired.service(key) else {
            return text
                + "  asks for no announcement: it is unknown or without addresses, or neither a flag nor an annotation \
                   says that its addresses are to be announced\n";
        };
        for (vip, wanted) in &routes.vips {
            let state = if wanted.announce || self.config.advertise_style == Style::Speakers {
                self.state_of_vip(*vip)
            } else {
                "not announced here: no ready endpoint that this node may send packets to".to_owned()
            };
            let _ = writeln!(text, "  {vip}: {state}");
            if self.told.vips().contains(vip) {
                self.tell_whom(host_prefix(*vip), &mut text);
            }
        }
        for notice in &routes.notices {
            let _ = writeln!(text, "  {}: {}", notice.reason, notice.message);
        }
        text
    }

    fn state_of_vip(&self, vip: IpAddr) -> String {
        let keys = self.desired.vips().get(&vip);
        let names = keys.into_iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if let Some(hops) = self.told.routes().get(&host_prefix(vip)) {
            let hops: Vec<String> = hops.iter().map(|path| path.next_hop.address.to_string()).collect();
            format!("announced for {names} with next hop {}", hops.join(", "))
        } else if self.around.decision.withhold.contains(&vip) {
            format!("withheld for {names}: this node is being drained")
        } else if self.config.advertise_style == Style::Speakers {
            "not announced here: another node is the speaker, or no node has a ready endpoint".to_owned()
        } else if keys.is_some() {
            format!("not announced yet: the service proxy does not have it in force for {names}")
        } else {
            "not announced: no Service with a ready endpoint asks for it here".to_owned()
        }
    }

    fn explain_route(&self, address: IpAddr, length: Option<u8>) -> String {
        let family = Family::of(address);
        let Ok(asked) = Prefix::new(address, length.unwrap_or(family.host_length())) else {
            return format!("{address}: a prefix of {family} has at most {} bits\n", family.host_length());
        };
        let asked = asked.trunc();
        let mut text = format!("{asked}\n");
        if self.desired.listed().any(|vip| host_prefix(vip) == asked) || self.desired.vips().contains_key(&address) {
            let _ = writeln!(text, "  VIP: {}", self.state_of_vip(address));
        }
        if self.told.routes().contains_key(&asked) {
            text.push_str("  originated by this node\n");
            self.tell_whom(asked, &mut text);
        }
        // Longest first, as the kernel looks.
        let mut around: Vec<&Prefix> = self.learned.routes.keys().filter(|prefix| prefix.contains(&asked)).collect();
        around.sort_by_key(|prefix| std::cmp::Reverse(prefix.prefix_len()));
        for prefix in around {
            self.explain_learned(prefix, &mut text);
        }
        if text.lines().count() == 1 {
            text.push_str("  neither learned nor originated here\n");
        }
        text
    }

    fn explain_learned(&self, prefix: &Prefix, text: &mut String) {
        let Some(route) = self.learned.routes.get(prefix) else { return };
        for hop in &route.hops {
            let _ = writeln!(text, "  learned {prefix} via {} from {}", hop.next_hop.address, hop.peer);
        }
        if route.leaving {
            text.push_str(
                "    preference 0: its router is about to go (community 65535:0), and nobody else tells it\n",
            );
        }
        let key = RouteKey::learned(*prefix);
        let tracker = self.routes.tracker();
        let state = match (self.refused.get(prefix), tracker.desired(&key), tracker.observed(&key)) {
            (Some(refusal), ..) => format!("not used: it {refusal}"),
            (None, Some(desired), Some(observed)) if desired == observed => format!("in the kernel: {observed}"),
            (None, Some(desired), _) => format!("not in the kernel yet: {desired}"),
            (None, None, _) => "not in the kernel: its tunnel or link is not there".to_owned(),
        };
        let _ = writeln!(text, "    {state}");
    }

    /// Which peers hear of a route that starts here, and why others do not.
    fn tell_whom(&self, prefix: Prefix, text: &mut String) {
        let Some(config) = self.told.config() else {
            text.push_str("    nobody hears it: there is no speaker\n");
            return;
        };
        let Some(paths) = self.told.routes().get(&prefix) else { return };
        let policies = &self.policies(config, &prefix);
        let named = config.peers.iter().map(|(address, peer)| (address.to_string(), *address, peer));
        let ranges = config.dynamic.iter().map(|(range, peer)| (range.to_string(), range.addr(), peer));
        for (name, address, peer) in named.chain(ranges) {
            let view = PeerView { address, local_v4: None, local_v6: peer.local_address.map(NextHop::from) };
            let policy: PeerPolicy = policies.prepare(Direction::Export, &view);
            let passes = paths
                .iter()
                .any(|path: &Attributes| policy.evaluate(&prefix, RouteType::Local, path, path.next_hop).is_some());
            let family = Family::of(prefix.addr());
            let verdict = match (passes, peer.families.contains(&family)) {
                (_, false) => format!("does not hear it: the session has no {family}"),
                (false, true) => "does not hear it: export policy".to_owned(),
                (true, true) => "hears it".to_owned(),
            };
            let _ = writeln!(text, "    peer {name}: {verdict}");
        }
    }

    /// The policies with this one VIP in their set, if it is one that is announced.
    fn policies(&self, config: &SpeakerConfig, prefix: &Prefix) -> crate::routing::bgp::policy::PolicySet {
        let mut policies = config.policies.clone();
        let vip = prefix.addr();
        if self.told.vips().contains(&vip) && *prefix == host_prefix(vip) {
            let range = crate::routing::bgp::policy::PrefixRange::exact(*prefix);
            let set = crate::routing::bgp::policy::vip_set(Family::of(vip));
            policies.sets.prefix.entry(set).or_default().push(range);
        }
        policies
    }

    fn explain_peer(&mut self, address: IpAddr) -> String {
        let Some(config) = self.told.config() else {
            return "there is no speaker: the node has no AS number or no address yet\n".to_owned();
        };
        let ranges = config.dynamic.iter().filter(|(range, _)| range.contains(&address));
        let range = ranges.max_by_key(|(range, _)| range.prefix_len());
        let Some(peer) = config.peers.get(&address).or(range.map(|(_, peer)| peer)) else {
            let ranges = config.dynamic.keys().map(ToString::to_string);
            let known: Vec<String> = config.peers.keys().map(ToString::to_string).chain(ranges).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return format!("{address} is no peer of this node; its peers are: {known}\n");
        };
        let mut text = render::peer(&address, peer);
        let sessions = self.voice.sessions();
        if let Some(session) = sessions.peers.get(&address) {
            let (received, accepted, advertised) = session.row.counts(None);
            let _ = writeln!(
                text,
                "  state {:?}, received {received}, accepted {accepted}, advertised {advertised}",
                session.row.state
            );
        }
        if self.leaving.peers().any(|leaving| leaving.address == address) {
            text.push_str("  goes as soon as the sessions that replace it are up\n");
        }
        let [v4, v6] = self.last.as_ref().map(next_hops).unwrap_or_default();
        let own = [v4, v6].into_iter().flatten().map(|hop| hop.to_string()).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "  own next hops {own}");
        text
    }
}

/// Rules and routes as `ip` takes them.
fn listing(rules: &BTreeSet<Rule>, routes: &BTreeMap<RouteKey, Route>) -> String {
    let rules = rules.iter().map(|rule| Op::AddRule(*rule));
    let routes = routes.values().map(|route| Op::ReplaceRoute(route.clone()));
    let mut text = String::new();
    for op in rules.chain(routes) {
        let _ = writeln!(text, "{op}");
    }
    text
}
