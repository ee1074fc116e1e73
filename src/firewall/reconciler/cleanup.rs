//! Taking away everything the room has put into the kernel, and nothing else (`--cleanup-config`).

use super::Room;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::reconcile::Outcome;

impl<N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<N, R, C, S> {
    /// Removes our table. Kernel settings stay as they are: what they were before is not known.
    pub fn clean_up(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        if let Err(error) = self.remove_table(&mut outcome) {
            outcome.fail(format!("table {}", self.name), error);
        }
        outcome
    }
}
