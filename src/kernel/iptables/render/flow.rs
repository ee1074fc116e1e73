//! Chains of the model as chains of iptables (pure).
//!
//! In the model an accept ends one base chain and leaves the next ones open; ACCEPT of iptables ends the table for
//! everybody. RETURN goes back one level only. So a chain that may accept is never jumped to: packets *go* to it (`-g`),
//! and with it goes where they are to go on if it says nothing. On such a way RETURN leads from any depth back to the
//! hook: it is the accept, and no mark is needed. A chain that does not accept is jumped to as usual.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::conditions::{Condition, of_match};
use super::lookups::Lookups;
use super::{Line, Unspeakable, chain_name, why};
use crate::kernel::filter::{FieldType, Key, Map, Match, Name, Rule, Ruleset, Selector, Statement, Value};
use crate::net::Family;

/// Where packets go on when a chain has said nothing: another chain, or back to the hook.
type Onward = Option<Arc<str>>;

/// One thing a rule does.
#[derive(Clone, Debug)]
enum Act {
    /// A target of iptables; `Condition` is what it asks for beside.
    Target(Condition, String),
    /// The end of the base chain.
    Accept,
    /// Back to the calling chain of the model.
    Return,
    /// Another chain of the model.
    Call(Name),
}

/// A rule in pieces: one of the conditions, then all acts.
#[derive(Clone, Debug)]
struct Clause {
    conditions: Vec<Condition>,
    acts: Vec<Act>,
}

/// Renders the chains below one base chain, for one family.
#[derive(Debug)]
pub(super) struct Flow<'a> {
    table: &'a Name,
    ruleset: &'a Ruleset,
    family: Family,
    accept_is_final: bool,
    /// The chains made so far.
    pub(super) chains: BTreeMap<Arc<str>, Vec<Line>>,
    /// The sets they look things up in.
    pub(super) lookups: Lookups,
    /// The chains of the model they are made from.
    pub(super) of_chains: BTreeMap<Arc<str>, BTreeSet<Name>>,
    made: BTreeMap<(Name, Onward), Arc<str>>,
    /// The chain of the model that is being said, inside those that lead to it.
    saying: Vec<Name>,
    /// The chains of the model whose rules stand in a chain, itself included.
    parts: BTreeMap<Name, BTreeSet<Name>>,
    accepting: BTreeMap<Name, bool>,
}

impl<'a> Flow<'a> {
    pub(super) fn new(table: &'a Name, ruleset: &'a Ruleset, family: Family, accept_is_final: bool) -> Flow<'a> {
        Flow {
            table,
            ruleset,
            family,
            accept_is_final,
            chains: BTreeMap::new(),
            lookups: Lookups::default(),
            of_chains: BTreeMap::new(),
            made: BTreeMap::new(),
            saying: Vec::new(),
            parts: BTreeMap::new(),
            accepting: BTreeMap::new(),
        }
    }

    /// The content of a base chain.
    pub(super) fn base(&mut self, name: &Name) -> Result<Vec<Line>, Unspeakable> {
        self.sequence(name, None)
    }

    /// The rules of a chain of the model, from the last to the first: each may need to know what follows it.
    fn sequence(&mut self, name: &Name, onward: Onward) -> Result<Vec<Line>, Unspeakable> {
        let rules = self.flattened(name);
        self.parts
            .entry(name.clone())
            .or_insert_with(|| rules.iter().map(|(of, _)| of).chain([name]).cloned().collect());
        self.saying.push(name.clone());
        // In reverse order.
        let mut after: Vec<Line> = onward.iter().map(|chain| go_on(chain)).collect();
        for (of, rule) in rules.into_iter().rev() {
            let unspeakable = |reason| Unspeakable { chain: of.clone(), comment: rule.comment.clone(), reason };
            let clauses = self.clauses(rule).map_err(unspeakable)?;
            let follows = if clauses.iter().any(|clause| self.needs_rest(clause)) {
                let rest = self.rest(&after);
                after = rest.iter().map(|chain| go_on(chain)).collect();
                rest
            } else {
                None
            };
            for clause in clauses.into_iter().rev() {
                let (beside, target) = self.target(&clause.acts, rule, &onward, &follows)?;
                for condition in clause.conditions.iter().rev().filter_map(|condition| condition.and(&beside)) {
                    after.push(Line { text: format!("{}{target}", condition.words()), why: why(rule) });
                }
            }
        }
        after.reverse();
        self.saying.pop();
        Ok(after)
    }

    /// The rules of a chain, those of plain chains that every packet is sent to in their place, each with its chain of the
    /// model. Else each of them would be one goto deeper than the one before it, and the kernel bounds the depth
    /// (`NFT_JUMP_STACK_SIZE` is 16): a pod under ten policies has as many such chains.
    fn flattened(&mut self, name: &Name) -> Vec<(Name, &'a Rule)> {
        let ruleset = self.ruleset;
        let rules = |name: &Name| ruleset.chains.get(name).map(|chain| chain.rules.as_slice()).unwrap_or_default();
        let mut flat = Vec::new();
        for rule in rules(name) {
            match rule.statements.as_slice() {
                [Statement::Jump(target)]
                    if rule.matches.is_empty() && self.accepts(target) && is_plain(rules(target)) =>
                {
                    flat.extend(rules(target).iter().map(|rule| (target.clone(), rule)));
                }
                _ => flat.push((name.clone(), rule)),
            }
        }
        flat
    }

    /// The chain with these lines, given in reverse order; none where there are none.
    fn rest(&mut self, after: &[Line]) -> Onward {
        match after {
            [] => None,
            [only] => match only.text.strip_prefix("-g ") {
                Some(chain) => Some(Arc::from(chain)),
                None => Some(self.chain(vec![only.clone()])),
            },
            _ => Some(self.chain(after.iter().rev().cloned().collect())),
        }
    }

    fn chain(&mut self, lines: Vec<Line>) -> Arc<str> {
        let name = chain_name(self.table, &lines);
        let parts = self.saying.last().and_then(|saying| self.parts.get(saying));
        self.of_chains.entry(Arc::clone(&name)).or_default().extend(parts.into_iter().flatten().cloned());
        self.chains.insert(Arc::clone(&name), lines);
        name
    }

    /// The chain that a chain of the model became, for packets that go on there.
    fn called(&mut self, name: &Name, onward: Onward) -> Result<Arc<str>, Unspeakable> {
        let onward = if self.ends(name) { None } else { onward };
        let key = (name.clone(), onward.clone());
        if let Some(made) = self.made.get(&key) {
            return Ok(Arc::clone(made));
        }
        let lines = self.sequence(name, onward)?;
        self.saying.push(key.0.clone());
        let made = self.chain(lines);
        self.saying.pop();
        self.made.insert(key, Arc::clone(&made));
        Ok(made)
    }

    /// The target for some acts, and what it asks for beside the rule's own conditions. `onward` is for a return,
    /// `follows` for packets about which nothing was said.
    fn target(
        &mut self,
        acts: &[Act],
        rule: &Rule,
        onward: &Onward,
        follows: &Onward,
    ) -> Result<(Condition, String), Unspeakable> {
        let text = match acts {
            [] => String::new(),
            [Act::Target(beside, target)] => return Ok((beside.clone(), target.clone())),
            [Act::Accept] => "-j RETURN".to_owned(),
            [Act::Return] => onward.as_ref().map_or("-j RETURN".to_owned(), |chain| format!("-g {chain}")),
            [Act::Call(name)] if self.accepts(name) => format!("-g {}", self.called(name, follows.clone())?),
            [Act::Call(name)] => format!("-j {}", self.called(name, None)?),
            // Only the last act can be one that leaves.
            [.., last] => {
                let go = self.leaves(last);
                let mut lines = Vec::new();
                for act in acts {
                    let (beside, target) = self.target(std::slice::from_ref(act), rule, onward, follows)?;
                    lines.push(Line { text: format!("{}{target}", beside.words()), why: why(rule) });
                }
                let body = self.chain(lines);
                if go { format!("-g {body}") } else { format!("-j {body}") }
            }
        };
        Ok((Condition::default(), text))
    }

    /// Whether packets must know where to go on after these acts.
    fn needs_rest(&mut self, clause: &Clause) -> bool {
        match clause.acts.as_slice() {
            [] | [Act::Target(..) | Act::Accept | Act::Return] => false,
            [Act::Call(name)] => self.accepts(name) && !self.ends(name),
            // Gone to as a whole, and not ended by its last act.
            [.., Act::Accept | Act::Return] => false,
            acts => acts.iter().any(|act| self.leaves(act)),
        }
    }

    /// Whether packets leave for good with this act, so that it can only be gone to.
    fn leaves(&mut self, act: &Act) -> bool {
        match act {
            Act::Target(..) => false,
            Act::Accept | Act::Return => true,
            Act::Call(name) => self.accepts(name),
        }
    }

    /// Whether a chain of the model, or one it leads to, may accept.
    fn accepts(&mut self, name: &Name) -> bool {
        if self.accept_is_final {
            return false;
        }
        if let Some(known) = self.accepting.get(name) {
            return *known;
        }
        // A loop would be refused by nftables; here it must only end.
        self.accepting.insert(name.clone(), false);
        let ruleset = self.ruleset;
        let rules = ruleset.chains.get(name).map(|chain| chain.rules.as_slice()).unwrap_or_default();
        let found = rules.iter().flat_map(|rule| &rule.statements).any(|statement| match statement {
            Statement::Accept => true,
            Statement::Jump(target) => self.accepts(target),
            Statement::VerdictMap { map, .. } => {
                let values = ruleset.maps.get(map).into_iter().flat_map(|map| map.elements.values());
                values.into_iter().any(|value| match value {
                    Value::Accept => true,
                    Value::Jump(target) => self.accepts(target),
                    Value::Drop | Value::Mark(_) => false,
                })
            }
            _ => false,
        });
        self.accepting.insert(name.clone(), found);
        found
    }

    /// Whether a chain always ends what comes to it: its last rule takes every packet, and no rule returns.
    fn ends(&self, name: &Name) -> bool {
        let rules = self.ruleset.chains.get(name).map(|chain| chain.rules.as_slice()).unwrap_or_default();
        let returns = rules.iter().flat_map(|rule| &rule.statements).any(|it| matches!(it, Statement::Return));
        let last = rules.last().filter(|rule| rule.matches.is_empty()).and_then(|rule| rule.statements.last());
        !returns && matches!(last, Some(Statement::Accept | Statement::Drop | Statement::Reject))
    }

    /// A rule in pieces; none where no packet of this family fulfils its matches.
    fn clauses(&mut self, rule: &Rule) -> Result<Vec<Clause>, &'static str> {
        let mut conditions = vec![Condition::default()];
        for matched in &rule.matches {
            let more = match matched {
                Match::InSet { selectors, set, negated } => self.in_set(selectors, set, *negated)?,
                Match::InnerIsOpaque(_) | Match::InnerProtocol(..) | Match::InnerDestinationPorts { .. } => {
                    return Err("iptables and ipset cannot look into a tunnelled packet");
                }
                Match::InputBridge(_) | Match::EtherType(_) => {
                    return Err("iptables does not see frames of bridges");
                }
                other => of_match(other, self.family),
            };
            conditions = conditions.iter().flat_map(|one| more.iter().filter_map(|more| one.and(more))).collect();
        }
        if conditions.is_empty() {
            return Ok(Vec::new());
        }
        let mut acts = Vec::new();
        for (index, statement) in rule.statements.iter().enumerate() {
            let (selectors, map, marks) = match statement {
                Statement::VerdictMap { selectors, map } => (selectors, map, false),
                Statement::SetMarkFromMap { selectors, map } => (selectors, map, true),
                statement => {
                    if self.act(statement).ends(&mut acts) {
                        break;
                    }
                    continue;
                }
            };
            if !acts.is_empty() {
                return Err("a map must come before everything else that its rule does");
            }
            let rest = if marks { rule.statements.get(index + 1..).unwrap_or_default() } else { &[] };
            return self.mapped(&conditions, selectors, map, rest);
        }
        Ok(if acts.is_empty() { Vec::new() } else { vec![Clause { conditions, acts }] })
    }

    fn in_set(&mut self, selectors: &[Selector], name: &Name, negated: bool) -> Result<Vec<Condition>, &'static str> {
        if !self.reads(selectors) {
            return Ok(Vec::new());
        }
        let set = self.ruleset.sets.get(name).ok_or("there is no such set")?;
        self.lookups.in_set(self.table, name, set, selectors, negated)
    }

    /// One clause for each value of a map.
    fn mapped(
        &mut self,
        conditions: &[Condition],
        selectors: &[Selector],
        name: &Name,
        rest: &[Statement],
    ) -> Result<Vec<Clause>, &'static str> {
        if !self.reads(selectors) {
            return Ok(Vec::new());
        }
        let ruleset = self.ruleset;
        let map: &Map = ruleset.maps.get(name).ok_or("there is no such map")?;
        let mut by_value: BTreeMap<&Value, BTreeSet<Key>> = BTreeMap::new();
        for (key, value) in &map.elements {
            by_value.entry(value).or_default().insert(key.clone());
        }
        let mut clauses = Vec::new();
        for (value, keys) in by_value {
            let types: &[FieldType] = &map.key;
            let found = self.lookups.in_map(self.table, (name, value), (types, map.size), selectors, keys);
            let both = |one: &Condition| found.iter().filter_map(|other| one.and(other)).collect::<Vec<_>>();
            let mut acts = vec![match value {
                Value::Mark(mark) => set_mark(u32::MAX, *mark),
                Value::Jump(chain) => Act::Call(chain.clone()),
                Value::Accept => self.accept(),
                Value::Drop => target("-j DROP"),
            }];
            for statement in rest {
                if self.act(statement).ends(&mut acts) {
                    break;
                }
                if matches!(statement, Statement::VerdictMap { .. } | Statement::SetMarkFromMap { .. }) {
                    return Err("a rule looks into one map at most");
                }
            }
            clauses.push(Clause { conditions: conditions.iter().flat_map(both).collect(), acts });
        }
        Ok(clauses)
    }

    /// Whether packets of this family have these fields.
    fn reads(&self, selectors: &[Selector]) -> bool {
        selectors.iter().all(|selector| match selector {
            Selector::Source4 | Selector::Destination4 | Selector::OriginalDestination4 => self.family == Family::V4,
            Selector::Source6 | Selector::Destination6 | Selector::OriginalDestination6 => self.family == Family::V6,
            _ => true,
        })
    }

    fn accept(&self) -> Act {
        if self.accept_is_final { target("-j ACCEPT") } else { Act::Accept }
    }

    fn act(&self, statement: &Statement) -> Said {
        let random = |random: bool| if random { " --random-fully" } else { "" };
        match statement {
            // Rules of iptables count by themselves; the maps are the caller's.
            Statement::Counter | Statement::VerdictMap { .. } | Statement::SetMarkFromMap { .. } => Said::Nothing,
            Statement::SetMark(mark) => Said::Act(set_mark(u32::MAX, *mark)),
            Statement::SetMarkBits { mask, value } => Said::Act(set_mark(*mask, *value)),
            Statement::SetCtMarkBits { mask, value } => {
                Said::Act(target(&format!("-j CONNMARK --set-xmark {value:#x}/{mask:#x}")))
            }
            Statement::Snat { to, random: fully } if Family::of(*to) == self.family => {
                Said::Last(target(&format!("-j SNAT --to-source {to}{}", random(*fully))))
            }
            // iptables knows whom the client asked, but cannot use it as an address: the node's own does as well for a
            // pod that asks itself.
            Statement::SnatToOriginalDestination { family } if *family == self.family => {
                Said::Last(target("-j MASQUERADE"))
            }
            Statement::Snat { .. } | Statement::SnatToOriginalDestination { .. } => Said::NotHere,
            Statement::Masquerade { random: fully } => Said::Last(target(&format!("-j MASQUERADE{}", random(*fully)))),
            Statement::ClampSegment(size) => {
                Said::Act(Act::Target(Condition::syn(), format!("-j TCPMSS --set-mss {size}")))
            }
            Statement::Log { group, per_minute } => {
                let limit = format!("-m limit --limit {per_minute}/min --limit-burst {per_minute}");
                Said::Act(Act::Target(Condition::plain(limit), format!("-j NFLOG --nflog-group {group}")))
            }
            Statement::Reject => Said::Last(target(match self.family {
                Family::V4 => "-j REJECT --reject-with icmp-port-unreachable",
                Family::V6 => "-j REJECT --reject-with icmp6-port-unreachable",
            })),
            Statement::Drop => Said::Last(target("-j DROP")),
            Statement::Accept => Said::Last(self.accept()),
            Statement::Return => Said::Last(Act::Return),
            Statement::Jump(chain) => Said::Last(Act::Call(chain.clone())),
        }
    }
}

/// Whether rules lead nowhere else and never back: they mean the same in any chain that may accept.
fn is_plain(rules: &[Rule]) -> bool {
    let stays = |statement: &Statement| {
        !matches!(statement, Statement::Jump(_) | Statement::Return | Statement::VerdictMap { .. })
    };
    rules.iter().flat_map(|rule| &rule.statements).all(stays)
}

/// What a statement becomes.
enum Said {
    /// Nothing.
    Nothing,
    /// Something, and the rule goes on.
    Act(Act),
    /// The end of the rule.
    Last(Act),
    /// The rule ends here for packets of this family.
    NotHere,
}

impl Said {
    /// Adds what is to be done to `acts`; whether nothing after it in the same rule counts.
    fn ends(self, acts: &mut Vec<Act>) -> bool {
        match self {
            Said::Nothing => false,
            Said::Act(act) => {
                acts.push(act);
                false
            }
            Said::Last(act) => {
                acts.push(act);
                true
            }
            Said::NotHere => true,
        }
    }
}

fn target(text: &str) -> Act {
    Act::Target(Condition::default(), text.to_owned())
}

fn set_mark(mask: u32, value: u32) -> Act {
    target(&format!("-j MARK --set-xmark {value:#x}/{mask:#x}"))
}

fn go_on(chain: &str) -> Line {
    Line { text: format!("-g {chain}"), why: String::new() }
}
