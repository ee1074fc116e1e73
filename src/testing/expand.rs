//! One list of cluster states, many ways to get through it.
//!
//! Whatever the way, what a room brings into force depends on where it ends. A list written with one order in mind
//! finds the faults of that order; the others come for free.

use std::collections::BTreeSet;

use crate::model::{Generation, ServiceKey, SliceKey, Snapshot};

/// A list of cluster states in the order in which a room sees them.
#[derive(Clone, Debug)]
pub struct Run {
    /// How it was made from the original list.
    pub name: String,
    /// The states, with rising generations.
    pub states: Vec<Snapshot>,
}

impl Run {
    fn new(name: impl Into<String>, states: impl IntoIterator<Item = Snapshot>) -> Run {
        let number = |(index, mut state): (usize, Snapshot)| {
            state.generation = Generation(u64::try_from(index).unwrap_or(0) + 1);
            state
        };
        Run { name: name.into(), states: states.into_iter().enumerate().map(number).collect() }
    }
}

/// All ways through a list.
pub fn expand(states: &[Snapshot]) -> Vec<Run> {
    let mut runs = vec![
        Run::new("as it is", states.iter().cloned()),
        Run::new("reversed", states.iter().rev().cloned()),
        Run::new("with nothing in between", states.iter().flat_map(|state| [state.clone(), emptied(state)])),
        Run::new("there and back", states.iter().chain(states.iter().rev()).cloned()),
        Run::new("endpoints before Services", transitions(states, slices_first)),
        Run::new("Services before endpoints", transitions(states, services_first)),
        Run::new("one Service at a time", transitions(states, |from, to| piecemeal(from, to, 1))),
        Run::new("one Service at a time, shuffled", transitions(states, |from, to| piecemeal(from, to, 7))),
    ];
    if let (Some(first), Some(last)) = (states.first(), states.last()) {
        runs.push(Run::new("squashed", [first.clone(), last.clone()]));
    }
    let alone = |(index, state): (usize, &Snapshot)| Run::new(format!("state {index} alone"), [state.clone()]);
    runs.extend(states.iter().enumerate().map(alone));
    runs
}

/// The same node without anything on it.
pub fn emptied(state: &Snapshot) -> Snapshot {
    let mut empty = Snapshot::empty(state.node_name.clone());
    empty.nodes = state.nodes.clone();
    empty.generation = Generation(state.generation.0 + 1);
    empty
}

/// Every state, with what lies between it and the one before.
fn transitions(states: &[Snapshot], between: impl Fn(&Snapshot, &Snapshot) -> Vec<Snapshot>) -> Vec<Snapshot> {
    let Some(first) = states.first() else { return Vec::new() };
    let mut all = between(&emptied(first), first);
    all.push(first.clone());
    for pair in states.windows(2) {
        if let [from, to] = pair {
            all.extend(between(from, to));
            all.push(to.clone());
        }
    }
    all
}

fn slices_first(from: &Snapshot, to: &Snapshot) -> Vec<Snapshot> {
    vec![Snapshot { services: from.services.clone(), ..to.clone() }]
}

fn services_first(from: &Snapshot, to: &Snapshot) -> Vec<Snapshot> {
    vec![Snapshot { slices: from.slices.clone(), ..to.clone() }]
}

/// Each Service that differs takes its new form by itself; `stride` decides in which order.
fn piecemeal(from: &Snapshot, to: &Snapshot, stride: usize) -> Vec<Snapshot> {
    let mut left: Vec<ServiceKey> = to.changes_since(from).services.into_iter().collect();
    let mut step = Snapshot { services: from.services.clone(), slices: from.slices.clone(), ..to.clone() };
    let mut steps = Vec::new();
    let mut place = 0;
    while !left.is_empty() {
        place = (place + stride) % left.len();
        let key = left.remove(place);
        let slices: BTreeSet<SliceKey> =
            [from, to].into_iter().flat_map(|state| state.slices_of(&key)).map(|(slice, _)| slice.clone()).collect();
        match to.services.get(&key) {
            Some(service) => step.services.insert(key, service.clone()),
            None => step.services.remove(&key),
        };
        for slice in slices {
            match to.slices.get(&slice) {
                Some(value) => step.slices.insert(slice, value.clone()),
                None => step.slices.remove(&slice),
            };
        }
        steps.push(step.clone());
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::builders::{cluster, service};

    #[test]
    fn every_way_ends_where_it_should_and_goes_one_step_at_a_time() {
        let one = |ip: &str, endpoint: &str| {
            cluster("n1")
                .service(service("shop/a", ip).port(80))
                .service(service("shop/b", "10.96.0.2").port(80))
                .ready("shop/a", &[endpoint], 8080)
                .build()
        };
        let states = [one("10.96.0.1", "10.244.1.1"), one("10.96.0.3", "10.244.1.2")];
        for run in expand(&states) {
            let last = run.states.last().unwrap();
            let ends = match run.name.as_str() {
                "reversed" | "there and back" | "state 0 alone" => states[0].clone(),
                "with nothing in between" => emptied(&states[1]),
                _ => states[1].clone(),
            };
            assert_eq!(last.changes_since(&ends), crate::model::Changes::default(), "{}", run.name);
            let rises = run.states.windows(2).all(|pair| pair[0].generation < pair[1].generation);
            assert!(rises, "{}", run.name);
            if run.name.starts_with("one Service") {
                let most = run.states.windows(2).map(|pair| pair[1].changes_since(&pair[0]).services.len()).max();
                assert_eq!(most, Some(1), "{}", run.name);
            }
        }
    }
}
