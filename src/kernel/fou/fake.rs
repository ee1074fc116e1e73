//! FoU ports in memory. Held to the real ones by `testing::contract::fou`.

use std::collections::BTreeSet;

use super::client::refusal;
use super::{Fou, Op, Port};
use crate::kernel::error::Error;
use crate::kernel::netlink::{Fault, Refusal};

const EADDRINUSE: i32 = 98;

/// The ports there are, and what tests want to know or provoke.
#[derive(Clone, Debug, Default)]
pub struct FakeFou {
    /// Ports that take tunnels.
    pub ports: BTreeSet<Port>,
    /// UDP ports on which some program listens.
    pub taken: BTreeSet<Port>,
    /// Every op that took effect, oldest first.
    pub applied: Vec<Op>,
    /// The next op fails with this error number, and changes nothing.
    pub fail_next: Option<i32>,
}

impl FakeFou {
    fn apply_one(&mut self, op: &Op) -> Result<(), i32> {
        if let Some(errno) = self.fail_next.take() {
            return Err(errno);
        }
        match op {
            Op::AddPort(port) if self.taken.contains(port) || !self.ports.insert(*port) => Err(EADDRINUSE),
            Op::DeletePort(port) if !self.ports.remove(port) => Err(Refusal::EINVAL),
            _ => {
                self.applied.push(*op);
                Ok(())
            }
        }
    }
}

impl Fou for FakeFou {
    fn ports(&mut self) -> Result<Vec<Port>, Error> {
        Ok(self.ports.iter().copied().collect())
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        ops.iter()
            .map(|op| {
                self.apply_one(op).map_err(|errno| {
                    let fault = Fault::Refused(Refusal { errno, message: None, offset: None });
                    refusal(op, fault, || Some(self.ports.contains(&op.port())))
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Disposition;
    use crate::net::Family;
    use crate::testing::contract::fou as contract;

    #[test]
    fn passes_the_contract() {
        contract::ports_come_and_go(&mut FakeFou::default());
    }

    #[test]
    fn a_port_of_another_program_is_a_fault_and_not_ours() {
        let port = Port { family: Family::V4, number: 5555 };
        let mut fake = FakeFou { taken: BTreeSet::from([port]), ..FakeFou::default() };
        let error = fake.apply(&[Op::AddPort(port)]).pop().unwrap().unwrap_err();
        assert_eq!(error.kind, Disposition::Fatal);
        assert_eq!(error.message, "another program listens on UDP port 5555");
    }

    #[test]
    fn fails_once_where_planned() {
        let port = Op::AddPort(Port { family: Family::V6, number: 5555 });
        let mut fake = FakeFou { fail_next: Some(Refusal::ENOENT), ..FakeFou::default() };
        let results = fake.apply(&[port, port]);
        assert!(results[0].as_ref().unwrap_err().message.contains("fou6"));
        assert_eq!(results[1], Ok(()));
        assert_eq!(fake.applied, [port]);
    }
}
