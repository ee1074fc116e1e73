//! Where rules are written: nftables, or iptables with ipset (`--firewall-backend`).

use std::collections::BTreeSet;

use anyhow::Context;

use crate::config::RuleBackend;
use crate::kernel::Error;
use crate::kernel::filter::plan::{Observed, Transaction, remove};
use crate::kernel::filter::{Backend, Name, Ruleset};
use crate::kernel::iptables::{SharedIptables, SystemPrograms};
use crate::kernel::nft::NftClient;

/// The real ones.
pub(super) type NodeTables = Tables<NftClient, SharedIptables>;

/// Which of the two rules go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Nftables,
    Iptables,
}

/// Rules go to one of the two; what an earlier run wrote to the other goes once ours are in force.
#[derive(Debug)]
pub(super) struct Tables<N, I> {
    nftables: Option<N>,
    iptables: Option<I>,
    writes: Writes,
    /// Tables that the other one is known not to hold.
    cleared: BTreeSet<Name>,
}

/// What a node has to write rules with.
#[derive(Clone, Debug)]
pub(super) struct Found {
    writes: Writes,
    iptables: Option<SharedIptables>,
}

/// Looks for the backend that was asked for, and tells which one it is and why.
///
/// # Errors
/// The node does not have it, and what to do.
pub(super) fn find(wish: RuleBackend) -> anyhow::Result<Found> {
    let nftables = || NftClient::open()?.dump(&Name::from("ferrovia-probe")).map(drop);
    let programs = SystemPrograms::find();
    let (writes, why) = match wish {
        RuleBackend::Nftables => (Writes::Nftables, "asked for".to_owned()),
        RuleBackend::Iptables => {
            let (_, why) = programs.as_ref().context(
                "--firewall-backend=iptables: there are no iptables-save and iptables-restore programs here: use the image \
                 with tools, or --firewall-backend=nftables",
            )?;
            (Writes::Iptables, why.clone())
        }
        RuleBackend::Auto => match (nftables(), programs.as_ref()) {
            (Ok(()), _) => (Writes::Nftables, "the kernel has nf_tables".to_owned()),
            (Err(error), Some((_, why))) => (Writes::Iptables, format!("{error}; {why}")),
            (Err(error), None) => return Err(error).context("neither nf_tables nor iptables programs are here"),
        },
    };
    tracing::info!(backend = ?writes, why, "where rules are written");
    let iptables = programs.map(|(programs, _)| SharedIptables::open(programs)).transpose()?;
    Ok(Found { writes, iptables })
}

impl Found {
    /// A door for one room.
    ///
    /// # Errors
    /// The kernel's refusal, where rules go to nftables.
    pub(super) fn open(&self) -> Result<NodeTables, Error> {
        let nftables = match self.writes {
            Writes::Nftables => Some(NftClient::open()?),
            Writes::Iptables => NftClient::open().ok(),
        };
        Ok(Tables { nftables, iptables: self.iptables.clone(), writes: self.writes, cleared: BTreeSet::new() })
    }
}

impl NodeTables {
    /// The number of the nftables socket, which the kernel names as the author of changes; 0 where there is none.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(super) fn port(&self) -> std::io::Result<u32> {
        self.nftables.as_ref().map_or(Ok(0), NftClient::port)
    }
}

impl<N: Backend, I: Backend> Tables<N, I> {
    fn writer(&mut self) -> Result<&mut dyn Backend, Error> {
        let found: Option<&mut dyn Backend> = match self.writes {
            Writes::Nftables => self.nftables.as_mut().map(|it| it as &mut dyn Backend),
            Writes::Iptables => self.iptables.as_mut().map(|it| it as &mut dyn Backend),
        };
        found.ok_or_else(|| Error {
            op: "write rules".to_owned(),
            errno: None,
            message: "the backend is not open".to_owned(),
            kind: crate::kernel::Disposition::Fatal,
        })
    }

    /// Removes a table of ours from the backend that is not used.
    fn clear_other(&mut self, table: &Name) -> Result<(), Error> {
        if self.cleared.contains(table) {
            return Ok(());
        }
        match self.writes {
            Writes::Nftables => {
                // Programs that do not run have written nothing of ours either.
                if let Some(iptables) = &mut self.iptables
                    && let Ok(Some(observed)) = iptables.dump(table)
                {
                    take_away(iptables, table, &observed)?;
                }
            }
            Writes::Iptables => {
                // A kernel without nf_tables refuses to tell, and holds none of its tables.
                if let Some(nftables) = &mut self.nftables
                    && let Ok(Some(observed)) = nftables.dump(table)
                {
                    take_away(nftables, table, &observed)?;
                }
            }
        }
        self.cleared.insert(table.clone());
        Ok(())
    }
}

fn take_away(backend: &mut impl Backend, table: &Name, observed: &Observed) -> Result<(), Error> {
    backend.commit(&remove(table, Some(observed)))
}

impl<N: Backend, I: Backend> Backend for Tables<N, I> {
    fn looks_inside(&self) -> bool {
        self.writes == Writes::Nftables
    }

    fn dump(&mut self, table: &Name) -> Result<Option<Observed>, Error> {
        self.writer()?.dump(table)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        self.writer()?.commit(transaction)?;
        transaction.table.as_ref().map_or(Ok(()), |table| self.clear_other(table))
    }

    fn plan(&mut self, table: &Name, desired: &Ruleset) -> Result<Transaction, Error> {
        let transaction = self.writer()?.plan(table, desired)?;
        if transaction.is_empty() {
            self.clear_other(table)?;
        }
        Ok(transaction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ipset::fake::FakeIpset;
    use crate::kernel::iptables::Iptables;
    use crate::kernel::iptables::fake::FakePrograms;
    use crate::kernel::nft::fake::FakeNft;
    use crate::testing::contract::iptables::{TABLE, converge, speakable};

    #[test]
    fn what_the_other_backend_holds_goes_once_ours_is_in_force() {
        let mut nftables = FakeNft::new();
        converge(&mut nftables, &speakable());
        let iptables = Iptables::new(FakeIpset::new(), FakePrograms::new());
        let cleared = BTreeSet::new();
        let mut tables =
            Tables { nftables: Some(nftables), iptables: Some(iptables), writes: Writes::Iptables, cleared };
        let table = Name::from(TABLE);
        let transaction = tables.plan(&table, &speakable()).expect("a plan");
        let held = |tables: &mut Tables<FakeNft, _>| tables.nftables.as_ref().is_some_and(|it| it.tables().count() > 0);
        assert!(held(&mut tables), "until then both hold");
        tables.commit(&transaction).expect("it is written");
        assert!(!held(&mut tables));

        let Tables { nftables, iptables, .. } = tables;
        let mut tables = Tables { nftables, iptables, writes: Writes::Nftables, cleared: BTreeSet::new() };
        converge(&mut tables, &speakable());
        let (ipset, programs) = tables.iptables.as_mut().expect("it is there").doors();
        assert!(ipset.sets().is_empty());
        assert!(
            !crate::kernel::iptables::Programs::save(programs, crate::net::Family::V4)
                .expect("text")
                .contains("FERROVIA")
        );
        assert!(held(&mut tables));
    }
}
