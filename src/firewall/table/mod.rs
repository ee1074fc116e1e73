//! The table as it should be in force, kept up to date piece by piece (pure).
//!
//! [`Table::update`] compiles again what a change touched and says what differs: [`Step`] holds the pieces of the table
//! before and after, and nothing else. So a step costs what changed, and its transaction holds only that. The elements
//! of sets are not remembered here: the book has them.

mod declared;
mod draft;
mod twins;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Config;
use super::book::{Book, Touched};
use super::compile::{Framing, declared_size, frame, itself_set, member_set, pods_map, policy_part};
use super::group::{Group, TierChain};
use super::members::SetKey;
use super::refused::{Refused, names_rule, names_set, of_tier};
use super::resolve::Direction;
use crate::kernel::filter::{Chain, Elements, Field, Inside, Name, Ruleset, Set, Value};
use crate::model::{PodKey, PolicyKey, Snapshot};
use crate::net::Family;
use declared::Declared;
use draft::Draft;
pub use draft::Step;

/// What the pods of one address are under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdicts {
    ingress: Value,
    egress: Value,
}

impl Verdicts {
    pub(super) fn of(&self, direction: Direction) -> &Value {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// What has rules of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    /// A NetworkPolicy.
    Policy(PolicyKey),
    /// The chain of one tier of cluster policies.
    Tier(Name),
}

/// What one piece has in the table.
#[derive(Clone, Debug, Default)]
struct Written {
    chains: BTreeSet<Name>,
    blocks: BTreeSet<Name>,
    sets: BTreeSet<SetKey>,
}

/// The table, but for elements of sets.
#[derive(Clone, Debug, Default)]
pub struct Table {
    config: Config,
    /// What the frame was made from.
    framed: Option<Framing>,
    /// Sets and maps of the frame; the node's pod prefixes are in them, pods are not.
    pub(super) frame: Ruleset,
    pub(super) chains: BTreeMap<Name, Chain>,
    /// Sets of blocks, each with the number of pieces that use it.
    pub(super) blocks: BTreeMap<Name, (Set, usize)>,
    pieces: BTreeMap<Piece, Written>,
    /// How many of those are policies.
    n_policies: usize,
    pub(super) sets: Declared,
    users: BTreeMap<SetKey, BTreeSet<Piece>>,
    /// Addresses to which packets are tunnelled, and which version of the book's they are.
    direct: twins::Direct,
    direct_version: u64,
    pods: BTreeMap<PodKey, Vec<IpAddr>>,
    by_address: BTreeMap<IpAddr, BTreeSet<PodKey>>,
    pub(super) addresses: BTreeMap<IpAddr, Verdicts>,
    /// Chains that maps lead to, each with the number of entries that do, and the chains of tiers it leads to.
    groups: BTreeMap<Name, (usize, Vec<TierChain>)>,
    /// Chains of tiers, each with the number of groups that lead to it.
    tiers: BTreeMap<Name, (TierChain, usize)>,
    /// Policies whose rules are left out because the kernel refused them.
    withheld: BTreeSet<Refused>,
}

impl Table {
    /// A table without anything in it.
    pub fn new(config: &Config) -> Table {
        Table { config: config.clone(), ..Table::default() }
    }

    /// The table of a book, from scratch.
    pub fn build(book: &Book, snapshot: &Snapshot, config: &Config) -> Table {
        let mut table = Table::new(config);
        table.fill(book, snapshot);
        table
    }

    fn fill(&mut self, book: &Book, snapshot: &Snapshot) {
        let mut touched = Touched {
            policies: book.active().map(|(key, _)| key.clone()).collect(),
            pods: book.pods().keys().cloned().collect(),
            ..Touched::default()
        };
        touched.sets.new = book.members().sets().cloned().collect();
        // From nothing to everything: the difference is of no interest.
        let _ = self.catch_up(book, &touched, snapshot);
    }

    /// The same table without the logging of denied packets. For [`Table::whole`]; no step tells of it.
    pub fn drop_log(&mut self, book: &Book, snapshot: &Snapshot) {
        let config = Config { log_group: None, ..self.config.clone() };
        *self = Table { withheld: std::mem::take(&mut self.withheld), ..Table::new(&config) };
        self.fill(book, snapshot);
        self.keep_used_sets(book);
    }

    /// The pods of this node that have an address: a moment long there may be two.
    pub fn pods_at(&self, address: IpAddr) -> impl Iterator<Item = &PodKey> {
        self.by_address.get(&address).into_iter().flatten()
    }

    /// Whether denied packets are logged.
    pub fn logs(&self) -> bool {
        self.config.log_group.is_some()
    }

    /// Brings the table up to date with a book of which `touched` may be other than before.
    #[must_use = "the step says what to write"]
    pub fn update(&mut self, book: &Book, touched: &Touched, snapshot: &Snapshot) -> Step {
        self.step(book, touched, snapshot, Draft::default())
    }

    /// As [`Table::update`], for whoever writes the whole table anyway: only the addresses for which something may have
    /// become stricter.
    pub fn catch_up(&mut self, book: &Book, touched: &Touched, snapshot: &Snapshot) -> BTreeSet<IpAddr> {
        self.step(book, touched, snapshot, Draft::quiet()).stricter
    }

    fn step(&mut self, book: &Book, touched: &Touched, snapshot: &Snapshot, mut draft: Draft) -> Step {
        let mut pieces: BTreeSet<Piece> = touched.policies.iter().cloned().map(Piece::Policy).collect();
        for (name, (chain, _)) in self.tiers.iter().filter(|_| !touched.cluster_policies.is_empty()) {
            if chain.ranks().iter().any(|rank| touched.cluster_policies.contains(&rank.name)) {
                pieces.insert(Piece::Tier(name.clone()));
            }
        }
        self.update_sets(book, touched, &mut pieces, &mut draft);
        for piece in &pieces {
            self.update_piece(book, piece, &mut draft);
        }
        self.update_pods(book, &touched.pods, &mut draft);
        self.update_direct(book, &mut draft);
        let node = snapshot.own_node();
        let framing = Framing {
            pod_cidrs: node.map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
            guard: self.guards(book),
            tunnelled: self.tunnelled(),
            beside: self.config.inside == Inside::Beside,
            node: node.filter(|_| !self.direct.is_empty()).map(|node| node.addresses().collect()).unwrap_or_default(),
        };
        self.update_frame(framing, &mut draft);
        draft.finish(self, book)
    }

    /// Whether an address that no pod is known for may be one that a policy isolates.
    fn guards(&self, book: &Book) -> bool {
        book.has_policies() || self.config.default_deny
    }

    /// Whether a policy may isolate somebody, so that what leads around policies passes nothing from pod to pod.
    pub fn may_isolate(&self) -> bool {
        self.framed.as_ref().is_some_and(|framing| framing.guard)
    }

    /// Everything, elements included.
    pub fn whole(&self, book: &Book) -> Ruleset {
        let mut ruleset = self.frame.clone();
        ruleset.chains = self.chains.clone();
        ruleset.sets.extend(self.blocks.iter().map(|(name, (set, _))| (name.clone(), set.clone())));
        for (key, size) in &self.sets.sizes {
            ruleset.sets.extend(Family::ALL.map(|family| member_set(key, family, *size, book.members().elements(key))));
        }
        for (address, verdicts) in &self.addresses {
            let family = Family::of(*address);
            for direction in DIRECTIONS {
                if let Some(map) = ruleset.maps.get_mut(&pods_map(direction, family)) {
                    map.elements.insert(vec![Field::from(*address)], verdicts.of(direction).clone());
                }
            }
            if let Some(Elements::Keys(keys)) = ruleset.sets.get_mut(&itself_set(family)).map(|set| &mut set.elements) {
                keys.insert(vec![Field::from(*address), Field::from(*address)]);
            }
        }
        self.add_direct(&mut ruleset);
        ruleset
    }

    /// How many chains there are.
    pub fn n_chains(&self) -> usize {
        self.chains.len()
    }

    /// How many sets there are.
    pub fn n_sets(&self) -> usize {
        self.frame.sets.len() + self.blocks.len() + self.sets.sizes.len() * Family::ALL.len()
    }

    /// The policies that have rules in the table.
    pub fn n_policies(&self) -> usize {
        self.n_policies
    }

    /// The policy that a text names by a rule, chain or set, and whose rules are not left out.
    pub fn named_in(&self, text: &str, book: &Book) -> Option<Refused> {
        let by_name = |written: &Written| written.chains.iter().chain(&written.blocks).any(|it| text.contains(&**it));
        let by_rule = |written: &Written| {
            let rules = written.chains.iter().filter_map(|name| self.chains.get(name)).flat_map(|chain| &chain.rules);
            rules.into_iter().any(|rule| names_rule(text, &rule.comment))
        };
        let refused = |(piece, written): (&Piece, &Written)| match piece {
            Piece::Policy(key) => {
                let sets = || written.sets.iter().any(|set| names_set(text, set));
                (by_name(written) || by_rule(written) || sets()).then(|| Refused::Policy(key.clone()))
            }
            Piece::Tier(name) => {
                let (chain, _) = self.tiers.get(name)?;
                let parts = chain.parts(book, &self.config);
                let left = parts.filter(|(name, _)| !self.withheld.contains(&Refused::Cluster((*name).clone())));
                of_tier(text, name, left, book).map(Refused::Cluster)
            }
        };
        self.pieces.iter().filter_map(refused).find(|refused| !self.withheld.contains(refused))
    }

    /// Leaves the rules of a policy out: it still isolates its pods and allows nothing. For [`Table::whole`]; no step
    /// tells of it.
    pub fn withhold(&mut self, refused: &Refused, book: &Book) {
        self.withheld.insert(refused.clone());
        self.rewrite(refused, book);
    }

    /// Takes the rules of all policies in again, likewise.
    pub fn release_all(&mut self, book: &Book) {
        for refused in std::mem::take(&mut self.withheld) {
            self.rewrite(&refused, book);
        }
    }

    /// The policies whose rules are left out.
    pub fn withheld(&self) -> &BTreeSet<Refused> {
        &self.withheld
    }

    fn rewrite(&mut self, refused: &Refused, book: &Book) {
        let pieces: Vec<Piece> = match refused {
            Refused::Policy(key) => vec![Piece::Policy(key.clone())],
            Refused::Cluster(name) => {
                let has = |chain: &TierChain| chain.ranks().iter().any(|rank| rank.name == *name);
                let tiers = self.tiers.iter().filter(|(_, (chain, _))| has(chain));
                tiers.map(|(name, _)| Piece::Tier(name.clone())).collect()
            }
        };
        for piece in pieces {
            self.update_piece(book, &piece, &mut Draft::default());
        }
        self.keep_used_sets(book);
    }

    /// Only sets that something looks into, whatever the book has beside.
    fn keep_used_sets(&mut self, book: &Book) {
        let used: BTreeSet<SetKey> = self.users.keys().cloned().collect();
        let unused: Vec<SetKey> = self.sets.sizes.keys().filter(|set| !used.contains(*set)).cloned().collect();
        for set in &unused {
            self.sets.remove(set);
        }
        for set in used.iter().filter(|set| !self.sets.sizes.contains_key(*set)).collect::<Vec<_>>() {
            self.sets.insert(set, declared_size(book.members().n_elements(set)));
        }
    }

    /// Sets of pods. A set that needs another size is another set, and whoever uses it is written anew.
    fn update_sets(&mut self, book: &Book, touched: &Touched, pieces: &mut BTreeSet<Piece>, draft: &mut Draft) {
        let members = book.members();
        for key in &touched.sets.gone {
            if let Some(size) = self.sets.remove(key) {
                draft.remove_set(key, size);
            }
        }
        for key in &touched.sets.new {
            let size = declared_size(members.n_elements(key));
            self.sets.insert(key, size);
            draft.add_set(key, size, book);
        }
        for (key, delta) in &touched.sets.deltas {
            let size = declared_size(members.n_elements(key));
            let Some(older) = self.sets.insert(key, size) else { continue };
            if older == size {
                draft.change_set(key, size, delta);
            } else {
                draft.remove_set(key, older);
                draft.add_set(key, size, book);
                pieces.extend(self.users.get(key).into_iter().flatten().cloned());
            }
            if !delta.removed.is_empty() {
                draft.tightened.extend(self.users.get(key).into_iter().flatten().cloned());
            }
        }
    }

    /// What a piece should have, and the sets of pods it looks into; nothing where nobody needs it.
    fn part(&self, book: &Book, piece: &Piece) -> Option<(Ruleset, BTreeSet<SetKey>)> {
        match piece {
            Piece::Policy(key) => {
                let resolved = book.policy(key)?;
                let mut part = policy_part(key, resolved, book.members());
                if self.withheld.contains(&Refused::Policy(key.clone())) {
                    part.sets.clear();
                    part.chains.values_mut().for_each(|chain| chain.rules.clear());
                    return Some((part, BTreeSet::new()));
                }
                Some((part, resolved.sets().into_iter().cloned().collect()))
            }
            Piece::Tier(name) => self.tiers.get(name).map(|(chain, _)| chain.part(book, &self.config, &self.withheld)),
        }
    }

    fn update_piece(&mut self, book: &Book, piece: &Piece, draft: &mut Draft) {
        let older = self.pieces.remove(piece).unwrap_or_default();
        let is_policy = matches!(piece, Piece::Policy(_));
        self.n_policies -= usize::from(is_policy && !older.chains.is_empty());
        let mut newer = Written::default();
        if let Some((part, sets)) = self.part(book, piece) {
            newer.sets = sets;
            for (name, set) in part.sets {
                draft.note_block(self, &name);
                self.blocks.entry(name.clone()).or_insert((set, 0)).1 += 1;
                newer.blocks.insert(name);
            }
            for (name, chain) in part.chains {
                let changes = self.chains.get(&name).is_some_and(|older| *older != chain);
                if changes {
                    draft.tightened.insert(piece.clone());
                }
                self.set_chain(&name, Some(chain), draft);
                newer.chains.insert(name);
            }
        }
        for name in older.chains.difference(&newer.chains) {
            self.set_chain(name, None, draft);
        }
        for name in &older.blocks {
            draft.note_block(self, name);
            let Some((_, users)) = self.blocks.get_mut(name) else { continue };
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.blocks.remove(name);
            }
        }
        for set in older.sets.difference(&newer.sets) {
            let left = self.users.get_mut(set).is_some_and(|users| {
                users.remove(piece);
                users.is_empty()
            });
            if left {
                self.users.remove(set);
            }
        }
        for set in &newer.sets {
            self.users.entry(set.clone()).or_default().insert(piece.clone());
        }
        if !newer.chains.is_empty() {
            self.n_policies += usize::from(is_policy);
            self.pieces.insert(piece.clone(), newer);
        }
    }

    fn update_pods(&mut self, book: &Book, pods: &BTreeSet<PodKey>, draft: &mut Draft) {
        let mut addresses = BTreeSet::new();
        for key in pods {
            for address in self.pods.remove(key).unwrap_or_default() {
                addresses.insert(address);
                if let Some(keys) = self.by_address.get_mut(&address) {
                    keys.remove(key);
                }
            }
            let Some(pod) = book.pods().get(key) else { continue };
            for address in &pod.addresses {
                addresses.insert(*address);
                self.by_address.entry(*address).or_default().insert(key.clone());
            }
            self.pods.insert(key.clone(), pod.addresses.clone());
        }
        for address in addresses {
            self.update_address(book, address, draft);
        }
    }

    fn update_address(&mut self, book: &Book, address: IpAddr, draft: &mut Draft) {
        let keys = self.by_address.get(&address).into_iter().flatten();
        let pods: Vec<PodKey> = keys.filter(|key| book.pods().contains_key(key)).cloned().collect();
        if pods.is_empty() {
            self.by_address.remove(&address);
        }
        let older = self.addresses.remove(&address);
        let newer = (!pods.is_empty()).then(|| {
            let verdict = |direction| match Group::of_address(book, &pods, direction) {
                Some(group) => Value::Jump(group.name(direction)),
                None => Value::Accept,
            };
            Verdicts { ingress: verdict(Direction::Ingress), egress: verdict(Direction::Egress) }
        });
        // What the pod was allowed to do is nothing that the next one with its address may go on with.
        if older.is_some() && newer.is_none() && self.guards(book) {
            draft.stricter.insert(address);
        }
        let family = Family::of(address);
        for direction in DIRECTIONS {
            let value = |verdicts: &Option<Verdicts>| verdicts.as_ref().map(|found| found.of(direction).clone());
            let (older, newer) = (value(&older), value(&newer));
            if older == newer {
                continue;
            }
            if let Some(Value::Jump(chain)) = &newer {
                draft.stricter.insert(address);
                self.join_group(chain, book, &pods, direction, draft);
            }
            if let Some(Value::Jump(chain)) = &older {
                self.leave_group(chain, book, draft);
            }
            let (key, entries) = (vec![Field::from(address)], draft.entries.entry(pods_map(direction, family)));
            let (gone, new) = entries.or_default();
            gone.extend(older.map(|value| (key.clone(), value)));
            new.extend(newer.map(|value| (key, value)));
        }
        if older.is_some() != newer.is_some() {
            let (gone, new) = draft.itself.entry(itself_set(family)).or_default();
            if newer.is_some() { new } else { gone }.insert(vec![Field::from(address), Field::from(address)]);
        }
        if let Some(newer) = newer {
            self.addresses.insert(address, newer);
        }
    }

    /// One entry more leads to a chain; with the first one it is made, and the chains of tiers that it needs.
    fn join_group(&mut self, chain: &Name, book: &Book, pods: &[PodKey], direction: Direction, draft: &mut Draft) {
        let (users, _) = self.groups.entry(chain.clone()).or_default();
        *users += 1;
        let Some(group) = Group::of_address(book, pods, direction).filter(|_| *users == 1) else { return };
        self.set_chain(chain, Some(group.chain(direction, &self.config)), draft);
        let tiers: Vec<TierChain> = group.tiers(direction).collect();
        for tier in &tiers {
            let name = tier.name();
            let (_, users) = self.tiers.entry(name.clone()).or_insert_with(|| (tier.clone(), 0));
            *users += 1;
            if *users == 1 {
                self.update_piece(book, &Piece::Tier(name), draft);
            }
        }
        if let Some((_, known)) = self.groups.get_mut(chain) {
            *known = tiers;
        }
    }

    /// One entry less leads to a chain; with the last one it goes.
    fn leave_group(&mut self, chain: &Name, book: &Book, draft: &mut Draft) {
        let Some((users, _)) = self.groups.get_mut(chain) else { return };
        *users = users.saturating_sub(1);
        if *users > 0 {
            return;
        }
        let (_, tiers) = self.groups.remove(chain).unwrap_or_default();
        self.set_chain(chain, None, draft);
        for name in tiers.iter().map(TierChain::name) {
            let Some((_, users)) = self.tiers.get_mut(&name) else { continue };
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.tiers.remove(&name);
                self.update_piece(book, &Piece::Tier(name), draft);
            }
        }
    }

    fn update_frame(&mut self, framing: Framing, draft: &mut Draft) {
        draft.had_frame = self.framed.is_some();
        if self.framed.as_ref() == Some(&framing) {
            return;
        }
        let mut newer = frame(&framing);
        for (name, chain) in std::mem::take(&mut newer.chains) {
            self.set_chain(&name, Some(chain), draft);
        }
        for (name, set) in &newer.sets {
            match self.frame.sets.get(name) {
                Some(older) if older == set => {}
                older => draft.note_frame(name, older, set),
            }
        }
        for (name, older) in self.frame.sets.iter().filter(|(name, _)| !newer.sets.contains_key(*name)) {
            draft.drop_frame(name, older);
        }
        self.framed = Some(framing);
        self.frame = newer;
    }

    /// A chain becomes another, or goes.
    fn set_chain(&mut self, name: &Name, chain: Option<Chain>, draft: &mut Draft) {
        let older = match chain {
            Some(chain) => self.chains.insert(name.clone(), chain),
            None => self.chains.remove(name),
        };
        draft.note_chain(name, older);
    }
}

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];
