//! The table of what is tunnelled to pods, where everything else is judged by iptables, which cannot look inside.
//!
//! The rules of iptables let nothing be tunnelled to such a pod that this table has not marked. So it is written before them,
//! and taken away after them: in between, as whenever somebody else takes it away, nothing passes that it should ask about.

use super::Room;
use crate::firewall::BESIDE;
use crate::kernel::Error;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::filter::plan::{Observed, Transaction, plan, remove};
use crate::kernel::filter::{Inside, Name, Ruleset};
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::reconcile::Outcome;

/// The table, and what is known of it.
#[derive(Debug)]
pub(super) struct Beside {
    name: Name,
    /// As the kernel has it, while the room's rules are in force.
    known: Option<Ruleset>,
}

impl Default for Beside {
    fn default() -> Beside {
        Beside { name: Name::from(BESIDE), known: None }
    }
}

impl<N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<N, R, C, S> {
    /// What the table should be; `None` where there should be none.
    pub(super) fn desired_beside(&self) -> Option<Ruleset> {
        self.table.beside(&self.book)
    }

    /// Before the rules of the room itself change: writes what it should be, compared with what was written last.
    pub(super) fn change_beside(&mut self, desired: Option<&Ruleset>, outcome: &mut Outcome) -> Result<(), Error> {
        let Some(desired) = desired.filter(|desired| self.beside.known.as_ref() != Some(*desired)) else {
            return Ok(());
        };
        let observed = self.beside.known.as_ref().map(Observed::from);
        self.commit(plan(&self.beside.name, desired, observed.as_ref()), outcome)?;
        self.beside.known = Some(desired.clone());
        Ok(())
    }

    /// The same, compared with what the kernel has.
    pub(super) fn compare_beside(
        &mut self,
        desired: Option<&Ruleset>,
        foreign: bool,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        self.beside.known = None;
        let Some(desired) = desired else { return Ok(()) };
        let transaction = self.kernel.nft.plan(&self.beside.name, desired)?;
        if foreign {
            outcome.drift += transaction.changes.len();
        }
        self.commit(transaction, outcome)?;
        self.beside.known = Some(desired.clone());
        Ok(())
    }

    /// After the rules of the room itself have changed: takes it away where there should be none. `known`: only where it is
    /// known to be there.
    pub(super) fn drop_beside(
        &mut self,
        desired: Option<&Ruleset>,
        known: bool,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        if desired.is_some() || (known && self.beside.known.is_none()) {
            return Ok(());
        }
        // Also where an earlier run wrote it that used iptables.
        outcome.ops += self.kernel.nft.remove(&self.beside.name)?;
        self.beside.known = None;
        Ok(())
    }

    /// What the kernel has; `None` where it is not there.
    pub(super) fn observe_beside(&mut self) -> Result<Option<Observed>, Error> {
        self.kernel.nft.dump(&self.beside.name)
    }

    /// What a reading of the kernel would write.
    pub(super) fn difference_beside(&mut self) -> Result<Transaction, Error> {
        match self.desired_beside() {
            Some(desired) => self.kernel.nft.plan(&self.beside.name, &desired),
            None => {
                let observed = self.observe_beside()?;
                Ok(remove(&self.beside.name, observed.as_ref()))
            }
        }
    }

    /// Its name, where it is asked about tunnelled packets.
    pub(super) fn name_beside(&self) -> Option<Name> {
        (self.config.inside == Inside::Beside).then(|| self.beside.name.clone())
    }
}
