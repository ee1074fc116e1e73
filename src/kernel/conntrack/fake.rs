//! A connection tracking table in memory. Held to the real one by `testing::contract::conntrack`.

use std::collections::BTreeSet;

use super::{Conntrack, Flow};
use crate::kernel::netlink::{Fault, Refusal};
use crate::kernel::{Disposition, Error};
use crate::net::Family;

/// The flows there are, and what tests want to know or provoke.
#[derive(Debug, Default)]
pub struct FakeConntrack {
    /// The table.
    pub flows: BTreeSet<Flow>,
    /// Flows whose deletion was asked for, in order, gone ones too.
    pub deleted: Vec<Flow>,
    /// How often the table was read.
    pub lists: usize,
    /// The next call fails with this.
    pub fail_next: Option<Disposition>,
}

impl FakeConntrack {
    /// A table that holds these flows.
    pub fn with_flows(flows: impl IntoIterator<Item = Flow>) -> FakeConntrack {
        FakeConntrack { flows: flows.into_iter().collect(), ..FakeConntrack::default() }
    }

    fn planned_failure(&mut self, op: &str) -> Result<(), Error> {
        match self.fail_next.take() {
            None => Ok(()),
            Some(kind) => {
                let refusal = Refusal { errno: Refusal::ENOMEM, message: None, offset: None };
                Err(Fault::Refused(refusal).into_error(op.to_owned(), kind))
            }
        }
    }
}

impl Conntrack for FakeConntrack {
    fn list(&mut self, family: Option<Family>, keep: &mut dyn FnMut(&Flow) -> bool) -> Result<Vec<Flow>, Error> {
        self.planned_failure("conntrack -L")?;
        self.lists += 1;
        let of_kind = |flow: &&Flow| family.is_none_or(|family| Family::of(flow.source) == family);
        Ok(self.flows.iter().filter(of_kind).filter(|flow| keep(flow)).copied().collect())
    }

    fn delete(&mut self, flows: &[Flow]) -> Result<(), Error> {
        self.planned_failure("conntrack -D")?;
        for flow in flows {
            self.deleted.push(*flow);
            self.flows.retain(|other| !other.is_same(flow));
        }
        Ok(())
    }

    fn mark(&mut self, flows: &[Flow], mask: u32, value: u32) -> Result<(), Error> {
        self.planned_failure("conntrack -U")?;
        for flow in flows {
            let found = self.flows.extract_if(.., |other| other.is_same(flow)).collect::<Vec<_>>();
            self.flows.extend(found.into_iter().map(|it| Flow { mark: it.mark & !mask | value & mask, ..it }));
        }
        Ok(())
    }

    fn hold(&mut self, flows: &[Flow]) -> Result<(), Error> {
        self.planned_failure("conntrack -U --state ESTABLISHED")?;
        for flow in flows {
            let found = self.flows.extract_if(.., |other| other.is_same(flow)).collect::<Vec<_>>();
            self.flows.extend(found.into_iter().map(|it| Flow { half_closed: false, ..it }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::contract::conntrack as contract;

    #[test]
    fn passes_the_contract() {
        contract::lists_and_deletes(&mut FakeConntrack::with_flows(contract::showcase()));
        contract::deletes_many(&mut FakeConntrack::with_flows(contract::many()));
    }

    #[test]
    fn fails_once_where_planned() {
        let flows = contract::showcase();
        let mut fake = FakeConntrack::with_flows(flows.clone());
        fake.fail_next = Some(Disposition::Retry);
        assert_eq!(fake.delete(&flows).unwrap_err().kind, Disposition::Retry);
        assert_eq!(fake.flows.len(), flows.len());
        fake.delete(&flows).unwrap();
        assert!(fake.flows.is_empty());
        assert_eq!(fake.deleted, flows);
    }
}
