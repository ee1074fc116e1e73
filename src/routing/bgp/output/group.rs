//! One update group: peers that are told the same, but for what they told us themselves.

use super::export::{may_send, rewrite};
use super::groups::Offer;
use super::share::{Luggage, Share, Wanted};
use super::table::{Table, key};
use super::words::{WordId, Words};
use super::{Mark, Own, Session, Target, V4, V6};
use crate::net::{Family, Prefix};
use crate::routing::bgp::hash::FastMap;
use crate::routing::bgp::policy::{Class, PeerPolicy};
use crate::routing::bgp::rib::Change;
use crate::routing::bgp::shared::Shared;
use crate::routing::bgp::types::{Nlri, PeerId, family_of};
use crate::routing::bgp::wire::{self, Shape};

/// What all groups share, and room to work in.
#[derive(Debug)]
pub(super) struct Shop {
    pub(super) own: Own,
    pub(super) words: Words,
    pub(super) room: Vec<u8>,
}

/// An update group.
#[derive(Debug)]
pub(super) struct Group {
    /// What members have in common; what they have not is blank.
    pub(super) key: Target,
    pub(super) policy: PeerPolicy,
    /// In order of their peers.
    pub(super) members: Vec<Member>,
    v4: Table<V4>,
    v6: Table<V6>,
    /// The highest path identifier told of a prefix, where it is not 1. Only with ADD-PATH.
    highest: FastMap<Prefix, u32>,
    memo: Vec<Known>,
}

/// Who hears of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// Every member.
    All,
    /// This one, and the rest where the group's word was another until now.
    One(PeerId),
    /// This one, which came to a group whose words are all up to date.
    New(PeerId),
}

/// One peer of a group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) target: Target,
    /// It came with nothing to a group that was told everything before, and was not told everything yet.
    pub(super) is_new: bool,
    v4: Share,
    v6: Share,
}

/// What became of attributes a moment ago.
#[derive(Debug)]
struct Known {
    attributes: Shared,
    from: PeerId,
    family: Family,
    class: Class,
    /// Held.
    word: Option<WordId>,
}

/// How many results to remember at once: as many as there may be sources whose routes come in turn.
const KNOWN: usize = 8;

impl Member {
    pub(super) fn new(target: Target) -> Member {
        Member { target, is_new: false, v4: Share::default(), v6: Share::default() }
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        match mark.family() {
            Family::V4 => self.v4.mark(mark),
            Family::V6 => self.v6.mark(mark),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.v4.is_idle() && self.v6.is_idle()
    }

    pub(super) fn n_told(&self, family: Family) -> usize {
        match family {
            Family::V4 => self.v4.n_told(),
            Family::V6 => self.v6.n_told(),
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.v4.pending() + self.v6.pending()
    }

    #[cfg(test)]
    pub(super) fn n_queued(&self) -> usize {
        self.v4.n_queued() + self.v6.n_queued()
    }

    fn session(&self, family: Family) -> Session {
        Session { add_path: self.target.add_path.contains(&family), max_message: self.target.max_message }
    }
}

impl Group {
    pub(super) fn new(key: Target, policy: PeerPolicy) -> Group {
        Group {
            key,
            policy,
            members: Vec::new(),
            v4: Table::default(),
            v6: Table::default(),
            highest: FastMap::default(),
            memo: Vec::new(),
        }
    }

    /// Says what there is of a prefix now. `offers` are the paths that may be used, the best first where there is one.
    pub(super) fn tell(&mut self, prefix: Prefix, offers: &[Offer<'_>], best: bool, whom: Whom, shop: &mut Shop) {
        let family = family_of(&prefix);
        if !self.key.families.contains(&family) {
            return;
        }
        if !self.key.add_path.contains(&family) {
            if best {
                let offer = offers.first().filter(|offer| offer.leads);
                self.tell_route(&Nlri::new(prefix), offer, whom, shop);
            }
            return;
        }
        for offer in offers {
            self.tell_route(&Nlri { prefix, path_id: offer.path_id }, Some(offer), whom, shop);
        }
        // Our identifiers are small numbers; one that is gone is below the highest.
        let before = self.highest.get(&prefix).copied().unwrap_or(1);
        for path_id in (1..=before).filter(|id| !offers.iter().any(|offer| offer.path_id == *id)) {
            self.tell_route(&Nlri { prefix, path_id }, None, whom, shop);
        }
        match offers.iter().map(|offer| offer.path_id).max() {
            Some(highest) if highest > 1 => drop(self.highest.insert(prefix, highest)),
            _ => drop(self.highest.remove(&prefix)),
        }
    }

    /// None of these prefixes has a path any more.
    pub(super) fn tell_gone(&mut self, gone: impl Iterator<Item = Change> + Clone, shop: &mut Shop) {
        for family in Family::ALL {
            let gone = gone.clone().filter(|change| family_of(&change.prefix) == family);
            if self.key.add_path.contains(&family) {
                // Each path has a word of its own, and which there were is looked up by prefix.
                gone.for_each(|change| self.tell(change.prefix, &[], change.best, Whom::All, shop));
                continue;
            }
            let prefixes = gone.filter(|change| change.best).map(|change| change.prefix);
            match family {
                Family::V4 => gone_in(&mut self.v4, self.members.iter_mut().map(|of| &mut of.v4), prefixes, shop),
                Family::V6 => gone_in(&mut self.v6, self.members.iter_mut().map(|of| &mut of.v6), prefixes, shop),
            }
        }
    }

    fn tell_route(&mut self, nlri: &Nlri, offer: Option<&Offer<'_>>, whom: Whom, shop: &mut Shop) {
        let word = match whom {
            Whom::New(_) => self.word_now(nlri).inspect(|word| shop.words.again(*word)),
            Whom::All | Whom::One(_) => offer.and_then(|offer| self.word(nlri, offer, shop)),
        };
        let Group { key, policy, members, v4, v6, .. } = self;
        let saying = Saying { nlri, offer, word, whom, key, policy };
        match family_of(&nlri.prefix) {
            Family::V4 => {
                let members = members.iter_mut().map(|member| (&member.target, &mut member.v4));
                tell_in(v4, members, saying, shop);
            }
            Family::V6 => {
                let members = members.iter_mut().map(|member| (&member.target, &mut member.v6));
                tell_in(v6, members, saying, shop);
            }
        }
    }

    /// What the table says.
    fn word_now(&mut self, nlri: &Nlri) -> Option<WordId> {
        match family_of(&nlri.prefix) {
            Family::V4 => self.v4.find(&key(nlri)).and_then(|number| self.v4.word(number)),
            Family::V6 => self.v6.find(&key(nlri)).and_then(|number| self.v6.word(number)),
        }
    }

    /// What members are told of an offer, held for the caller.
    fn word(&mut self, nlri: &Nlri, offer: &Offer<'_>, shop: &mut Shop) -> Option<WordId> {
        let family = family_of(&nlri.prefix);
        // Attributes that nobody else has are not asked for again.
        let class = (offer.attributes.holders() > 2).then(|| self.policy.class(&nlri.prefix)).flatten();
        let Some(class) = class else { return written(nlri, offer, &self.key, &self.policy, shop) };
        let known = self.memo.iter().find(|known| {
            known.attributes.is(offer.attributes)
                && (known.from, known.family, known.class) == (offer.from.peer, family, class)
        });
        if let Some(known) = known {
            known.word.into_iter().for_each(|word| shop.words.again(word));
            return known.word;
        }
        let word = written(nlri, offer, &self.key, &self.policy, shop);
        word.into_iter().for_each(|word| shop.words.again(word));
        if self.memo.len() >= KNOWN {
            self.forget(shop);
        }
        let attributes = offer.attributes.clone();
        self.memo.push(Known { attributes, from: offer.from.peer, family, class, word });
        word
    }

    /// Forgets what became of attributes: who they came from may be another, or the policy.
    pub(super) fn forget(&mut self, shop: &mut Shop) {
        self.memo.drain(..).filter_map(|known| known.word).for_each(|word| shop.words.release(word));
    }

    /// Everybody has been told what there is to tell.
    pub(super) fn settle(&mut self, shop: &mut Shop) {
        self.forget(shop);
        self.members.iter_mut().for_each(|member| member.is_new = false);
    }

    pub(super) fn position(&self, peer: PeerId) -> Result<usize, usize> {
        self.members.binary_search_by_key(&peer, |member| member.target.peer)
    }

    /// A peer comes in, with what it holds from another group.
    pub(super) fn enter(&mut self, mut member: Member, luggage: [Luggage; 2], shop: &mut Shop) {
        for Luggage { held, marks } in luggage {
            for (nlri, word) in held {
                if nlri.path_id > 1 {
                    let highest = self.highest.entry(nlri.prefix).or_default();
                    *highest = nlri.path_id.max(*highest);
                }
                match family_of(&nlri.prefix) {
                    Family::V4 => bring(&nlri, word, &mut self.v4, &mut member.v4, shop),
                    Family::V6 => bring(&nlri, word, &mut self.v6, &mut member.v6, shop),
                }
            }
            marks.into_iter().for_each(|mark| member.mark(mark));
        }
        if let Err(at) = self.position(member.target.peer) {
            self.members.insert(at, member);
        }
    }

    /// A peer goes; what it held.
    pub(super) fn remove(&mut self, peer: PeerId, shop: &mut Shop) -> Option<(Target, [Luggage; 2])> {
        let mut member = self.members.remove(self.position(peer).ok()?);
        let v4 = member.v4.leave(&mut self.v4, &mut shop.words);
        let v6 = member.v6.leave(&mut self.v6, &mut shop.words);
        Some((member.target, [v4, v6]))
    }

    /// The last peer has gone.
    pub(super) fn dissolve(mut self, shop: &mut Shop) {
        self.forget(shop);
        self.v4.release_words(&mut shop.words);
        self.v6.release_words(&mut shop.words);
    }

    pub(super) fn repeat(&mut self, at: usize, family: Family, marked: bool) {
        let marks = marked.then_some(family);
        let Some(member) = self.members.get_mut(at) else { return };
        match family {
            Family::V4 => member.v4.repeat(&mut self.v4, marks),
            Family::V6 => member.v6.repeat(&mut self.v6, marks),
        }
    }

    pub(super) fn take(&mut self, at: usize, limit: usize, words: &Words, out: &mut Vec<u8>) {
        let Some(member) = self.members.get_mut(at) else { return };
        let (v4, v6) = (member.session(Family::V4), member.session(Family::V6));
        member.v4.take(limit, &v4, &mut self.v4, words, out);
        member.v6.take(limit, &v6, &mut self.v6, words, out);
    }

    /// What a member holds.
    pub(super) fn told(&self, at: usize, family: Family) -> Vec<(Nlri, WordId)> {
        let Some(member) = self.members.get(at) else { return Vec::new() };
        match family {
            Family::V4 => {
                let named = |(number, word)| Some((self.v4.nlri(number)?, word));
                member.v4.told(&self.v4).filter_map(named).collect()
            }
            Family::V6 => {
                let named = |(number, word)| Some((self.v6.nlri(number)?, word));
                member.v6.told(&self.v6).filter_map(named).collect()
            }
        }
    }

    pub(super) fn shape(&self) -> Shape {
        shape(&self.key)
    }
}

/// News about a route.
struct Saying<'a> {
    nlri: &'a Nlri,
    offer: Option<&'a Offer<'a>>,
    /// Held for the table.
    word: Option<WordId>,
    whom: Whom,
    key: &'a Target,
    policy: &'a PeerPolicy,
}

fn tell_in<'a, const SIZE: usize>(
    table: &mut Table<SIZE>,
    members: impl Iterator<Item = (&'a Target, &'a mut Share)>,
    saying: Saying<'_>,
    shop: &mut Shop,
) {
    let Saying { nlri, offer, word, whom, key: common, policy } = saying;
    let key = key(nlri);
    let number = match table.find(&key) {
        Some(number) => number,
        None if word.is_some() => table.add(key),
        None => return,
    };
    let before = table.set_word(number, word);
    for (target, share) in members {
        if before == word
            && let Whom::One(only) | Whom::New(only) = whom
            && only != target.peer
        {
            continue;
        }
        let wanted = match offer {
            Some(offer) if word.is_some() && may_send(offer.attributes, &offer.from, target) => {
                own_word(nlri, offer, target, common, policy, shop)
            }
            _ => Wanted::Barred,
        };
        share.hear(number, before, wanted, table, &mut shop.words);
    }
    before.into_iter().for_each(|word| shop.words.release(word));
    table.reap(number);
}

/// What one member is to be told where others are told something: the same, unless the next hop is its own address.
fn own_word(
    nlri: &Nlri,
    offer: &Offer<'_>,
    target: &Target,
    common: &Target,
    policy: &PeerPolicy,
    shop: &mut Shop,
) -> Wanted {
    if target.shared.is_empty() || offer.attributes.next_hop.address != target.address {
        return Wanted::Common;
    }
    let alone = Target { address: target.address, ..common.clone() };
    written(nlri, offer, &alone, policy, shop).map_or(Wanted::Barred, Wanted::Own)
}

/// What a target is told of an offer, as bytes, held for the caller.
fn written(nlri: &Nlri, offer: &Offer<'_>, to: &Target, policy: &PeerPolicy, shop: &mut Shop) -> Option<WordId> {
    let route = rewrite(nlri, offer.attributes, &offer.from, to, &shop.own, policy)?;
    shop.room.clear();
    wire::prepare(&route, family_of(&nlri.prefix), shape(to), &mut shop.room).ok()?;
    shop.words.hold(&shop.room)
}

fn shape(target: &Target) -> Shape {
    Shape { four_octet_as: target.four_octet_as, extended_next_hop: target.extended_next_hop }
}

/// A route a peer holds comes into its new group. The word is held for it.
fn bring<const SIZE: usize>(
    nlri: &Nlri,
    word: Option<WordId>,
    table: &mut Table<SIZE>,
    share: &mut Share,
    shop: &mut Shop,
) {
    let key = key(nlri);
    match table.find(&key) {
        Some(number) => {
            share.arrive(number, word.is_some() && table.word(number) == word, table);
            word.into_iter().for_each(|word| shop.words.release(word));
        }
        None => {
            let number = table.add(key);
            table.set_word(number, word);
            share.arrive(number, word.is_some(), table);
        }
    }
}

/// Withdraws routes from everybody: the table loses its words about all of them, then each share hears of all.
fn gone_in<'a, const SIZE: usize>(
    table: &mut Table<SIZE>,
    shares: impl Iterator<Item = &'a mut Share>,
    prefixes: impl Iterator<Item = Prefix>,
    shop: &mut Shop,
) {
    let mut take = |prefix| {
        let number = table.find(&key(&Nlri::new(prefix)))?;
        Some((number, table.set_word(number, None)?))
    };
    let gone: Vec<(u32, WordId)> = prefixes.filter_map(&mut take).collect();
    shares.for_each(|share| share.lose(gone.iter().map(|(number, _)| *number), table, &mut shop.words));
    for run in gone.chunk_by(|(_, one), (_, other)| one == other) {
        let times = u32::try_from(run.len()).unwrap_or(u32::MAX);
        run.first().into_iter().for_each(|(_, word)| shop.words.release_some(*word, times));
    }
    gone.into_iter().for_each(|(number, _)| table.reap(number));
}
