//! What one peer holds and what it still has to hear.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::net::Family;
use crate::routing::bgp::types::{Attributes, Nlri, family_of};

/// Turns routes into messages of one session.
pub trait Encoder {
    /// UPDATEs that announce these routes. `false` where the attributes do not fit into any message: the peer is not
    /// told, and loses the routes if it had them. Nothing may be written then.
    fn reach(&mut self, attributes: &Attributes, family: Family, nlri: &[Nlri], out: &mut Vec<u8>) -> bool;
    /// UPDATEs that withdraw these routes.
    fn withdraw(&mut self, family: Family, nlri: &[Nlri], out: &mut Vec<u8>);
    /// A mark after routes.
    fn mark(&mut self, mark: Mark, out: &mut Vec<u8>);
}

/// What says that a set of routes is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// End-of-RIB: the first dump of a family (RFC 4724).
    EndOfRib(Family),
    /// The end of a route refresh (RFC 7313).
    EndOfRefresh(Family),
}

/// Counters of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Routes the peer holds.
    pub advertised: usize,
    /// Routes it still has to hear of.
    pub pending: usize,
}

/// A peer's Adj-RIB-Out: what it was told, and the newest word about each route that it was not told yet.
#[derive(Debug, Default)]
pub struct Queue {
    advertised: BTreeMap<Nlri, Arc<Attributes>>,
    /// `None` is a withdrawal.
    pending: BTreeMap<Nlri, Option<Arc<Attributes>>>,
    /// Work in order, made from `pending` and checked against it when its turn comes.
    work: VecDeque<Work>,
    /// Routes whose word changed while they waited in `work`.
    late: Vec<Nlri>,
    owed_marks: Vec<Mark>,
    /// Routes to be told even where the peer was told the same.
    repeated: BTreeSet<Nlri>,
}

#[derive(Debug)]
enum Work {
    Withdraw(Family, VecDeque<Nlri>),
    Reach(Family, Arc<Attributes>, VecDeque<Nlri>),
    Mark(Mark),
}

/// Routes handed to the encoder at once: more than a message holds, few enough not to overrun the limit by far.
const CHUNK: usize = 2048;

impl Queue {
    /// The peer shall hold this route. Nothing happens where it already does. Routes go into one message when their
    /// attributes are one value, not only equal ones.
    pub fn announce(&mut self, nlri: Nlri, attributes: Arc<Attributes>) {
        let told = self.advertised.get(&nlri).is_some_and(|told| same(told, &attributes));
        if told && !self.repeated.contains(&nlri) {
            self.pending.remove(&nlri);
        } else {
            self.pending.insert(nlri, Some(attributes));
        }
    }

    /// The peer shall not hold this route. Nothing happens where it was not told of it.
    pub fn withdraw(&mut self, nlri: Nlri) {
        if self.advertised.contains_key(&nlri) {
            self.pending.insert(nlri, None);
        } else {
            self.pending.remove(&nlri);
        }
    }

    /// A mark follows all that is pending now.
    pub fn mark(&mut self, mark: Mark) {
        if !self.owed_marks.contains(&mark) {
            self.owed_marks.push(mark);
        }
    }

    /// Tell everything of a family once more (ROUTE-REFRESH, RFC 2918).
    pub fn repeat(&mut self, family: Family) {
        for (nlri, attributes) in self.advertised.iter().filter(|(nlri, _)| family_of(&nlri.prefix) == family) {
            self.pending.entry(*nlri).or_insert_with(|| Some(Arc::clone(attributes)));
            self.repeated.insert(*nlri);
        }
    }

    /// Whether [`Queue::take`] would write nothing.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.owed_marks.is_empty() && !self.work.iter().any(Work::is_mark)
    }

    /// What the peer was told, in order.
    pub fn advertised(&self) -> impl Iterator<Item = (&Nlri, &Arc<Attributes>)> {
        self.advertised.iter()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats { advertised: self.advertised.len(), pending: self.pending.len() }
    }

    /// Writes messages until `limit` bytes are there or nothing is left. What was written counts as told.
    pub fn take(&mut self, limit: usize, encoder: &mut impl Encoder, out: &mut Vec<u8>) {
        while out.len() < limit {
            if self.work.is_empty() {
                self.make_work();
            }
            match self.work.pop_front() {
                None => break,
                Some(Work::Withdraw(family, nlri)) => self.take_withdrawals(family, nlri, encoder, out),
                Some(Work::Reach(family, attributes, nlri)) => {
                    self.take_routes(family, attributes, nlri, encoder, out);
                }
                Some(Work::Mark(mark)) => self.take_mark(mark, encoder, out),
            }
        }
    }

    fn make_work(&mut self) {
        self.late.clear();
        self.work = work_of(self.pending.iter().map(|(nlri, word)| (*nlri, word.as_ref())));
        self.work.extend(self.owed_marks.drain(..).map(Work::Mark));
    }

    fn take_withdrawals(
        &mut self,
        family: Family,
        mut nlri: VecDeque<Nlri>,
        encoder: &mut impl Encoder,
        out: &mut Vec<u8>,
    ) {
        let mut chunk = Vec::new();
        for nlri in nlri.drain(..nlri.len().min(CHUNK)) {
            match self.pending.get(&nlri) {
                Some(None) => chunk.push(nlri),
                Some(Some(_)) => self.late.push(nlri),
                None => {}
            }
        }
        for nlri in &chunk {
            self.settle(nlri);
            self.advertised.remove(nlri);
        }
        if !chunk.is_empty() {
            encoder.withdraw(family, &chunk, out);
        }
        if !nlri.is_empty() {
            self.work.push_front(Work::Withdraw(family, nlri));
        }
    }

    fn take_routes(
        &mut self,
        family: Family,
        attributes: Arc<Attributes>,
        mut nlri: VecDeque<Nlri>,
        encoder: &mut impl Encoder,
        out: &mut Vec<u8>,
    ) {
        let mut chunk = Vec::new();
        for nlri in nlri.drain(..nlri.len().min(CHUNK)) {
            match self.pending.get(&nlri) {
                Some(Some(newest)) if same(newest, &attributes) => chunk.push(nlri),
                Some(_) => self.late.push(nlri),
                None => {}
            }
        }
        if !chunk.is_empty() && !encoder.reach(&attributes, family, &chunk, out) {
            // It cannot be told the new: it must not go on with the old.
            let mut held = Vec::new();
            for nlri in &chunk {
                self.settle(nlri);
                held.extend(self.advertised.remove(nlri).map(|_| *nlri));
            }
            if !held.is_empty() {
                encoder.withdraw(family, &held, out);
            }
            chunk.clear();
        }
        for nlri in chunk {
            self.settle(&nlri);
            self.advertised.insert(nlri, Arc::clone(&attributes));
        }
        if !nlri.is_empty() {
            self.work.push_front(Work::Reach(family, attributes, nlri));
        }
    }

    /// The newest word about a route has been written.
    fn settle(&mut self, nlri: &Nlri) {
        self.pending.remove(nlri);
        self.repeated.remove(nlri);
    }

    /// The mark waits for routes that were pending before it, whatever became of them meanwhile.
    fn take_mark(&mut self, mark: Mark, encoder: &mut impl Encoder, out: &mut Vec<u8>) {
        let late = std::mem::take(&mut self.late);
        let mut work = work_of(late.iter().filter_map(|nlri| Some((*nlri, self.pending.get(nlri)?.as_ref()))));
        if work.is_empty() {
            encoder.mark(mark, out);
            return;
        }
        work.push_back(Work::Mark(mark));
        work.append(&mut self.work);
        self.work = work;
    }
}

impl Work {
    fn is_mark(&self) -> bool {
        matches!(self, Work::Mark(_))
    }
}

/// Withdrawals first, then a batch for each set of attributes, in order of their first routes.
fn work_of<'a>(words: impl Iterator<Item = (Nlri, Option<&'a Arc<Attributes>>)>) -> VecDeque<Work> {
    let mut withdrawn: BTreeMap<Family, VecDeque<Nlri>> = BTreeMap::new();
    let mut batches: Vec<(Family, &Arc<Attributes>, VecDeque<Nlri>)> = Vec::new();
    // Only looked up in, so that the addresses' order shows nowhere.
    let mut places: BTreeMap<(Family, *const Attributes), usize> = BTreeMap::new();
    for (nlri, word) in words {
        let family = family_of(&nlri.prefix);
        let Some(attributes) = word else {
            withdrawn.entry(family).or_default().push_back(nlri);
            continue;
        };
        let place = *places.entry((family, Arc::as_ptr(attributes))).or_insert(batches.len());
        match batches.get_mut(place) {
            Some((_, _, list)) => list.push_back(nlri),
            None => batches.push((family, attributes, VecDeque::from([nlri]))),
        }
    }
    let withdrawn = withdrawn.into_iter().map(|(family, nlri)| Work::Withdraw(family, nlri));
    let batches = batches.into_iter().map(|(family, attributes, nlri)| Work::Reach(family, attributes.clone(), nlri));
    withdrawn.chain(batches).collect()
}

fn same(a: &Arc<Attributes>, b: &Arc<Attributes>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}
