//! What one peer holds of its group's routes in one family, and what it still has to hear.
//!
//! Routes go by their numbers in the group's [`Table`]. Unless a route waits in the queue, the peer holds the table's
//! word about it, or nothing where there is none or the peer is barred from it. A route waits once, however often its
//! word changes, and the peer is told the newest word when its turn comes.

use std::collections::BTreeMap;

use super::bits::Bits;
use super::table::Table;
use super::words::{WordId, Words};
use super::{Mark, Session};
use crate::net::Family;
use crate::routing::bgp::wire;

/// A peer's part in one family.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// It holds some word about these.
    told: Bits,
    /// These are in `queue` or `work`.
    queued: Bits,
    /// It is not told the word about these: they came from it, or it would not take them.
    barred: Bits,
    n_told: usize,
    /// Queued routes that the peer will hear something about. Others were taken back before it heard of them.
    pending: usize,
    queue: Vec<u32>,
    /// The former queue in the order in which the peer hears of it, the next last.
    work: Vec<u32>,
    /// Go before everything else.
    opening: Vec<Mark>,
    /// Follow all that is queued now.
    marks: Vec<Mark>,
    /// Follow the work.
    closing: Vec<Mark>,
    /// Words for this peer alone.
    own: BTreeMap<u32, WordId>,
}

/// What a peer is to be told of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing.
    Barred,
    /// What all are told.
    Common,
    /// Something else; the word is held for it.
    Own(WordId),
}

/// Routes in one call of the encoder: more than a message holds, few enough not to overrun the limit by far.
const CHUNK: usize = 2048;

impl Share {
    /// The word about a route is the table's now; `before` is what it was. Says it to the peer where that is needed.
    pub(super) fn hear<const SIZE: usize>(
        &mut self,
        number: u32,
        before: Option<WordId>,
        wanted: Wanted,
        table: &mut Table<SIZE>,
        words: &mut Words,
    ) {
        let word = table.word(number);
        let own = match wanted {
            Wanted::Own(word) => Some(word),
            Wanted::Barred | Wanted::Common => None,
        };
        let own_before = if own.is_some() || !self.own.is_empty() { self.replace_own(number, own) } else { None };
        let changed = before != word || own_before != own;
        own_before.into_iter().for_each(|word| words.release(word));
        let (told, queued) = (self.told.contains(number), self.queued.contains(number));
        let was_real = queued && (told || before.is_some() && !self.barred.contains(number));
        let wants = word.is_some() && wanted != Wanted::Barred;
        self.barred.set(number, word.is_some() && !wants);
        let news = if wants { changed || !told } else { told };
        if news && !queued {
            self.enqueue(number, told, table);
        }
        let is_real = (queued || news) && (told || wants);
        self.pending = self.pending + usize::from(is_real) - usize::from(was_real);
        self.forget_idle(table);
    }

    /// The table had words about these routes and has none any more: what [`Share::hear`] comes to then. Says so to the
    /// peer where it was told any, or would have been.
    pub(super) fn lose<const SIZE: usize>(
        &mut self,
        numbers: impl Iterator<Item = u32>,
        table: &mut Table<SIZE>,
        words: &mut Words,
    ) {
        for number in numbers {
            let own = if self.own.is_empty() { None } else { self.own.remove(&number) };
            own.into_iter().for_each(|word| words.release(word));
            let (told, queued) = (self.told.contains(number), self.queued.contains(number));
            let was_real = queued && (told || !self.barred.contains(number));
            self.barred.remove(number);
            if told && !queued {
                self.enqueue(number, true, table);
            }
            self.pending = self.pending + usize::from(told) - usize::from(was_real);
        }
        self.forget_idle(table);
    }

    /// Tell everything once more (ROUTE-REFRESH, RFC 2918), between marks where the peer knows them (RFC 7313). While
    /// the first dump is not complete its own End-of-RIB is the mark; while a refresh is under way, its end waits for
    /// this one too.
    pub(super) fn repeat<const SIZE: usize>(&mut self, table: &mut Table<SIZE>, marked: Option<Family>) {
        let is_first = |mark: &Mark| matches!(mark, Mark::EndOfRib(_));
        let is_end = |mark: &Mark| matches!(mark, Mark::EndOfRefresh(_));
        if let Some(family) = marked.filter(|_| !self.closing.iter().chain(&self.marks).any(is_first)) {
            if !self.closing.iter().chain(&self.marks).any(is_end) {
                self.mark(Mark::BeginOfRefresh(family));
            }
            self.closing.retain(|mark| !is_end(mark));
            self.mark(Mark::EndOfRefresh(family));
        }
        let again: Vec<u32> = self.told.iter().filter(|number| !self.queued.contains(*number)).collect();
        self.pending += again.len();
        again.into_iter().for_each(|number| self.enqueue(number, true, table));
    }

    /// A mark follows all that is pending now, or opens it.
    pub(super) fn mark(&mut self, mark: Mark) {
        let place = if matches!(mark, Mark::BeginOfRefresh(_)) { &mut self.opening } else { &mut self.marks };
        if !place.contains(&mark) {
            place.push(mark);
        }
    }

    /// Whether [`Share::take`] would write nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.pending == 0 && self.opening.is_empty() && self.marks.is_empty() && self.closing.is_empty()
    }

    /// How many routes the peer holds.
    pub(super) fn n_told(&self) -> usize {
        self.n_told
    }

    /// How many it has to hear of.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    #[cfg(test)]
    pub(super) fn n_queued(&self) -> usize {
        self.queue.len() + self.work.len()
    }

    /// Routes the peer holds, by number, with the newest word about each that it may hear.
    pub(super) fn told<const SIZE: usize>(&self, table: &Table<SIZE>) -> impl Iterator<Item = (u32, WordId)> {
        self.told.iter().filter_map(|number| Some((number, self.wanted(number, table)?)))
    }

    /// The peer goes, or to another group: nothing here is its any more. Returns what it held, and its word where it was
    /// the newest; and marks it still waits for.
    pub(super) fn leave<const SIZE: usize>(&mut self, table: &mut Table<SIZE>, words: &mut Words) -> Luggage {
        let held = |number| {
            let newest = if self.queued.contains(number) { None } else { self.wanted(number, table) };
            newest.into_iter().for_each(|word| words.again(word));
            (number, newest)
        };
        let held: Vec<(u32, Option<WordId>)> = self.told.iter().map(held).collect();
        let queued: Vec<u32> = self.queued.iter().filter(|number| !self.told.contains(*number)).collect();
        let marks = self.opening.drain(..).chain(self.closing.drain(..)).chain(self.marks.drain(..)).collect();
        let luggage = Luggage {
            held: held.iter().filter_map(|(number, word)| Some((table.nlri(*number)?, *word))).collect(),
            marks,
        };
        for number in held.into_iter().map(|(number, _)| number).chain(queued) {
            table.release(number);
            table.reap(number);
        }
        std::mem::take(&mut self.own).into_values().for_each(|word| words.release(word));
        *self = Share::default();
        luggage
    }

    /// Comes with what was held in another group. `agrees` where that is the table's word.
    pub(super) fn arrive<const SIZE: usize>(&mut self, number: u32, agrees: bool, table: &mut Table<SIZE>) {
        self.told.insert(number);
        self.n_told += 1;
        table.hold(number);
        if !agrees {
            self.enqueue(number, true, table);
            self.pending += 1;
        }
    }

    /// Writes messages until `limit` bytes are there or nothing is left. What was written counts as told.
    pub(super) fn take<const SIZE: usize>(
        &mut self,
        limit: usize,
        session: &Session,
        table: &mut Table<SIZE>,
        words: &Words,
        out: &mut Vec<u8>,
    ) {
        while out.len() < limit {
            if !self.opening.is_empty() {
                self.opening.drain(..).for_each(|mark| mark.encode(out));
            } else if !self.work.is_empty() {
                self.take_some(session, table, words, out);
            } else if !self.closing.is_empty() {
                self.closing.drain(..).for_each(|mark| mark.encode(out));
            } else if !self.queue.is_empty() || !self.marks.is_empty() {
                self.make_work(table);
            } else {
                // Room for the next change is no reason to keep that of a whole table.
                self.queue = Vec::new();
                self.work = Vec::new();
                if self.n_told == 0 {
                    self.told.clear();
                }
                self.queued.clear();
                return;
            }
        }
    }

    /// What is queued, withdrawals first, then what has words in common.
    fn make_work<const SIZE: usize>(&mut self, table: &Table<SIZE>) {
        let mut work = std::mem::take(&mut self.queue);
        // A table that goes, or one whose routes have everything in common, needs no order.
        let first = work.first().map(|number| self.wanted(*number, table));
        if work.iter().any(|number| Some(self.wanted(*number, table)) != first) {
            work.sort_by_key(|number| self.wanted(*number, table));
        }
        work.reverse();
        self.work = work;
        self.closing = std::mem::take(&mut self.marks);
    }

    /// The next routes that have one word, or those that have none.
    fn take_some<const SIZE: usize>(
        &mut self,
        session: &Session,
        table: &mut Table<SIZE>,
        words: &Words,
        out: &mut Vec<u8>,
    ) {
        let ids = session.add_path;
        let family = if SIZE == super::V4 { Family::V4 } else { Family::V6 };
        let Some(next) = self.work.last().map(|number| self.wanted(*number, table)) else { return };
        let Some(word) = next else {
            let routes = self.take_gone(ids, table);
            if !routes.is_empty() {
                wire::withdraw(family, &routes, ids, session.max_message, out);
            }
            return;
        };
        let mut numbers = Vec::new();
        let mut routes = Vec::new();
        while numbers.len() < CHUNK
            && let Some(number) = self.work.last().copied()
            && self.wanted(number, table) == Some(word)
        {
            self.work.pop();
            self.queued.remove(number);
            self.pending -= 1;
            table.put(number, ids, &mut routes);
            numbers.push(number);
        }
        if wire::encode_prepared(words.bytes(word), &routes, ids, session.max_message, out).is_ok() {
            for number in numbers {
                self.n_told += usize::from(!self.told.contains(number));
                self.told.insert(number);
            }
            return;
        }
        // The peer cannot be told the new: it must not go on with the old.
        let mut held = Vec::new();
        for number in numbers {
            if self.told.contains(number) {
                table.put(number, ids, &mut held);
                self.untell(number, table);
            } else {
                table.release(number);
            }
        }
        if !held.is_empty() {
            wire::withdraw(family, &held, ids, session.max_message, out);
        }
    }

    /// The next routes of which nothing is to be told any more, those that the peer holds as a message has them: it holds
    /// them no longer.
    fn take_gone<const SIZE: usize>(&mut self, ids: bool, table: &mut Table<SIZE>) -> Vec<u8> {
        let next =
            self.work.iter().rev().take(CHUNK).take_while(|number| self.wanted(**number, table).is_none()).count();
        let mut routes = Vec::with_capacity(next * SIZE);
        let mut n_told = 0;
        for number in self.work.drain(self.work.len() - next..).rev() {
            self.queued.remove(number);
            if self.told.remove(number) {
                n_told += 1;
                table.put(number, ids, &mut routes);
            }
            table.release(number);
            table.reap(number);
        }
        self.n_told -= n_told;
        self.pending -= n_told;
        routes
    }

    fn untell<const SIZE: usize>(&mut self, number: u32, table: &mut Table<SIZE>) {
        self.told.remove(number);
        self.n_told -= 1;
        table.release(number);
        table.reap(number);
    }

    fn enqueue<const SIZE: usize>(&mut self, number: u32, told: bool, table: &mut Table<SIZE>) {
        self.queue.push(number);
        self.queued.insert(number);
        if !told {
            table.hold(number);
        }
    }

    /// Drops queued routes about which there is nothing to say any more once they are many, so that a slow peer costs
    /// memory for routes that exist, not for those that existed.
    fn forget_idle<const SIZE: usize>(&mut self, table: &mut Table<SIZE>) {
        if self.queue.len() + self.work.len() <= 2 * self.pending + 1024 {
            return;
        }
        let Share { queue, work, told, queued, barred, .. } = self;
        for list in [queue, work] {
            list.retain(|number| {
                let real = told.contains(*number) || table.word(*number).is_some() && !barred.contains(*number);
                if !real {
                    queued.remove(*number);
                    table.release(*number);
                    table.reap(*number);
                }
                real
            });
        }
    }

    /// What the peer shall hold of a route.
    fn wanted<const SIZE: usize>(&self, number: u32, table: &Table<SIZE>) -> Option<WordId> {
        let common = table.word(number).filter(|_| !self.barred.contains(number));
        if self.own.is_empty() { common } else { common.map(|word| self.own.get(&number).copied().unwrap_or(word)) }
    }

    fn replace_own(&mut self, number: u32, own: Option<WordId>) -> Option<WordId> {
        match own {
            Some(word) => self.own.insert(number, word),
            None => self.own.remove(&number),
        }
    }
}

/// What a peer takes along when it leaves a group.
#[derive(Debug, Default)]
pub(super) struct Luggage {
    /// Routes it holds. The word is held for it; without one it is not known what it was told.
    pub(super) held: Vec<(crate::routing::bgp::types::Nlri, Option<WordId>)>,
    /// Marks it waits for.
    pub(super) marks: Vec<Mark>,
}
