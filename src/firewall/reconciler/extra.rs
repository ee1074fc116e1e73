//! A table of nftables beside the room's own one, on either backend; and how any table of the room is written.

use crate::kernel::Error;
use crate::kernel::filter::plan::{Observed, Transaction, plan, remove};
use crate::kernel::filter::{Name, Ruleset};
use crate::kernel::nft::Nft;
use crate::reconcile::Outcome;

/// The table, and what is known of it.
#[derive(Debug)]
pub(super) struct Extra {
    name: Name,
    /// As the kernel has it, while the room's rules are in force.
    known: Option<Ruleset>,
}

impl Extra {
    /// A table of which nothing is known yet.
    pub(super) fn new(name: &str) -> Extra {
        Extra { name: Name::from(name), known: None }
    }

    /// Its name.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Writes what it should be, compared with what was written last.
    pub(super) fn change(
        &mut self,
        nft: &mut impl Nft,
        desired: Option<&Ruleset>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let Some(desired) = desired.filter(|desired| self.known.as_ref() != Some(*desired)) else {
            return Ok(());
        };
        let observed = self.known.as_ref().map(Observed::from);
        commit(nft, &plan(&self.name, desired, observed.as_ref()), outcome)?;
        self.known = Some(desired.clone());
        Ok(())
    }

    /// The same, compared with what the kernel has. `foreign`: what differs is somebody else's doing.
    pub(super) fn compare(
        &mut self,
        nft: &mut impl Nft,
        desired: Option<&Ruleset>,
        foreign: bool,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        self.known = None;
        let Some(desired) = desired else { return Ok(()) };
        compare(nft, &self.name, desired, foreign, outcome)?;
        self.known = Some(desired.clone());
        Ok(())
    }

    /// Takes it away where there should be none. `known`: only where it is known to be there.
    pub(super) fn drop_unwanted(
        &mut self,
        nft: &mut impl Nft,
        desired: Option<&Ruleset>,
        known: bool,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        if desired.is_some() || (known && self.known.is_none()) {
            return Ok(());
        }
        // Also where an earlier run wrote it, with another backend or under policies.
        outcome.ops += nft.remove(&self.name)?;
        self.known = None;
        Ok(())
    }

    /// What the kernel has; `None` where it is not there.
    pub(super) fn observe(&self, nft: &mut impl Nft) -> Result<Option<Observed>, Error> {
        nft.dump(&self.name)
    }

    /// What a reading of the kernel would write.
    pub(super) fn difference(&self, nft: &mut impl Nft, desired: Option<&Ruleset>) -> Result<Transaction, Error> {
        match desired {
            Some(desired) => nft.plan(&self.name, desired),
            None => Ok(remove(&self.name, self.observe(nft)?.as_ref())),
        }
    }
}

/// Writes what a table should be, compared with what the kernel has. `foreign`: what differs is somebody else's doing.
pub(super) fn compare(
    nft: &mut impl Nft,
    table: &Name,
    desired: &Ruleset,
    foreign: bool,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let transaction = nft.plan(table, desired)?;
    if foreign {
        outcome.drift += transaction.changes.len();
    }
    commit(nft, &transaction, outcome)
}

/// Writes changes, and counts them.
pub(super) fn commit(nft: &mut impl Nft, transaction: &Transaction, outcome: &mut Outcome) -> Result<(), Error> {
    if transaction.is_empty() {
        return Ok(());
    }
    nft.commit(transaction)?;
    outcome.ops += transaction.changes.len();
    Ok(())
}
