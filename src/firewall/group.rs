//! Pods that are under exactly the same policies share a chain, and those under the same cluster policies a chain for
//! each tier (pure).
//!
//! ```text
//! egress4[source] ─▶ send-… ─▶ admin-from-…: the rules of all its cluster policies in order; Pass returns
//!                       ├────▶ from-…, one chain a NetworkPolicy ─▶ log ─▶ reject
//!                       └────▶ where there is none: baseline-from-… ─▶ accept
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Config;
use super::book::Book;
use super::compile::{comment, digest, matches_of, policy_chain};
use super::members::SetKey;
use super::refused::Refused;
use super::resolve::{Direction, sets_of};
use super::tiers::{Rank, Saying, Under};
use crate::kernel::filter::{Chain, Match, Name, Rule, Ruleset, Statement};
use crate::model::{Action, ClusterPolicyName, PodKey, PolicyKey, Tier};

/// Everything that pods of one chain are under in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    policies: BTreeSet<PolicyKey>,
    tiers: Under,
}

/// The chain of one tier, for pods under exactly these policies. They are all in one chain, so that leaving it leaves
/// the tier: that is what Pass means, and no mark is needed for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TierChain {
    direction: Direction,
    tier: Tier,
    ranks: BTreeSet<Rank>,
}

impl Group {
    /// What a pod of this node is under.
    pub(super) fn of(book: &Book, pod: &PodKey, direction: Direction) -> Group {
        let found = book.pods().get(pod).map(|found| match direction {
            Direction::Ingress => &found.ingress,
            Direction::Egress => &found.egress,
        });
        let policies = found.cloned().unwrap_or_default();
        let mut tiers = book.tiers().under(pod, direction).cloned().unwrap_or_default();
        if !policies.is_empty() {
            // Its NetworkPolicies decide, and what comes behind them is never asked.
            tiers.baseline.clear();
        }
        Group { policies, tiers }
    }

    /// What pods with one address are under; `None` where nothing is. For a moment a pod that ends and its successor have
    /// the same address: then the successor counts, and of several one that something is said about.
    pub(super) fn of_address(book: &Book, pods: &[PodKey], direction: Direction) -> Option<Group> {
        let leaving = |key: &&PodKey| book.pods().get(*key).is_none_or(|pod| pod.leaving);
        let successor = pods.iter().any(|key| !leaving(&key));
        let counting = pods.iter().filter(|key| !successor || !leaving(key));
        counting.map(|key| Group::of(book, key, direction)).find(|group| !group.is_open())
    }

    /// Whether nobody says anything about these pods.
    pub(super) fn is_open(&self) -> bool {
        self.policies.is_empty() && self.tiers.is_empty()
    }

    /// The name of the chain of exactly these pods.
    pub(super) fn name(&self, direction: Direction) -> Name {
        let prefix = match direction {
            Direction::Ingress => "receive",
            Direction::Egress => "send",
        };
        let policies = self.policies.iter().flat_map(|key| [key.namespace.as_ref(), key.name.as_ref()]);
        let admin = self.tiers.admin.iter().flat_map(|rank| ["admin", rank.name.0.as_ref()]);
        let baseline = self.tiers.baseline.iter().flat_map(|rank| ["baseline", rank.name.0.as_ref()]);
        // Something empty, which no namespace is called, keeps cluster policies apart from what stands before them.
        let parts: Vec<&str> = policies.chain([""]).chain(admin).chain(baseline).collect();
        Arc::from(format!("{prefix}-{}", digest(parts)))
    }

    /// The chains of tiers it leads to.
    pub(super) fn tiers(&self, direction: Direction) -> impl Iterator<Item = TierChain> + '_ {
        let tiers = [(Tier::Admin, &self.tiers.admin), (Tier::Baseline, &self.tiers.baseline)];
        let used = tiers.into_iter().filter(|(_, ranks)| !ranks.is_empty());
        used.map(move |(tier, ranks)| TierChain { direction, tier, ranks: ranks.clone() })
    }

    /// Its chain.
    pub(super) fn chain(&self, direction: Direction, config: &Config) -> Chain {
        let plain = |statement: Statement, text: &str| Rule {
            matches: Vec::new(),
            statements: vec![statement],
            comment: comment(text),
        };
        let tier = |wanted: Tier| {
            let chain = self.tiers(direction).find(|chain| chain.tier == wanted);
            chain.map(|chain| plain(Statement::Jump(chain.name()), &format!("tier {wanted}")))
        };
        let mut rules: Vec<Rule> = tier(Tier::Admin).into_iter().collect();
        for key in &self.policies {
            rules.push(plain(Statement::Jump(policy_chain(direction, key)), &key.to_string()));
        }
        if self.policies.is_empty() {
            rules.extend(tier(Tier::Baseline));
            rules.push(plain(Statement::Accept, "no policy isolates it"));
        } else {
            rules.extend(denial(&[], config, "no policy allows it"));
        }
        Chain { base: None, rules }
    }
}

impl TierChain {
    /// Its name.
    pub(super) fn name(&self) -> Name {
        let tier = match self.tier {
            Tier::Admin => "admin",
            Tier::Baseline => "baseline",
        };
        let direction = match self.direction {
            Direction::Ingress => "to",
            Direction::Egress => "from",
        };
        Arc::from(format!("{tier}-{direction}-{}", digest(self.ranks.iter().map(|rank| rank.name.0.as_ref()))))
    }

    /// Its policies, in order.
    pub(super) fn ranks(&self) -> &BTreeSet<Rank> {
        &self.ranks
    }

    /// The chain with the sets of blocks it looks into, and the sets of pods it does. In the place of a policy in
    /// `withheld` everything is denied, for nobody knows what it would have said.
    pub(super) fn part(
        &self,
        book: &Book,
        config: &Config,
        withheld: &BTreeSet<Refused>,
    ) -> (Ruleset, BTreeSet<SetKey>) {
        let (mut rules, mut blocks, mut sets) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        for policy in self.ranks.iter().filter_map(|rank| book.tiers().policy(&rank.name)) {
            if withheld.contains(&Refused::Cluster(policy.rank.name.clone())) {
                rules.extend(denial(&[], config, &format!("withheld: {}", policy.rank.name)));
                break;
            }
            for saying in policy.of(self.direction) {
                sets.extend(sets_of([&saying.packets]).into_iter().cloned());
                let text = self.text(&policy.rank, saying);
                for matches in matches_of(self.direction, &saying.packets, book.members(), &mut blocks) {
                    match saying.action {
                        Action::Deny => rules.extend(denial(&matches, config, &text)),
                        Action::Accept => rules.push(plain_rule(matches, Statement::Accept, &text)),
                        Action::Pass => rules.push(plain_rule(matches, Statement::Return, &text)),
                    }
                }
            }
        }
        let chains = [(self.name(), Chain { base: None, rules })].into();
        (Ruleset { sets: blocks, chains, ..Ruleset::default() }, sets)
    }

    /// The same chain with the rules of each policy alone.
    pub(super) fn parts<'a>(
        &'a self,
        book: &'a Book,
        config: &'a Config,
    ) -> impl Iterator<Item = (&'a ClusterPolicyName, Ruleset)> {
        self.ranks.iter().map(move |rank| {
            let alone = TierChain { ranks: [rank.clone()].into(), ..self.clone() };
            (&rank.name, alone.part(book, config, &BTreeSet::new()).0)
        })
    }

    /// How one rule of a cluster policy is called: `guard ingress[0] Deny`.
    fn text(&self, rank: &Rank, saying: &Saying) -> String {
        format!("{} {}[{}] {}", rank.name, self.direction, saying.packets.rule, saying.action)
    }
}

fn plain_rule(matches: Vec<Match>, statement: Statement, text: &str) -> Rule {
    Rule { matches, statements: vec![statement], comment: comment(text) }
}

/// Logs and refuses what matches.
fn denial(matches: &[Match], config: &Config, text: &str) -> Vec<Rule> {
    let log = config.log_group.map(|group| Statement::Log { group, per_minute: super::LOG_PER_MINUTE });
    let rule = |statements| Rule { matches: matches.to_vec(), statements, comment: comment(text) };
    log.map(|log| rule(vec![log])).into_iter().chain([rule(vec![Statement::Counter, Statement::Reject])]).collect()
}
