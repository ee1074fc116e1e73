//! The tables beside the room's own one: what is tunnelled to pods, and frames of bridges.
//!
//! The first is there where everything else is judged by iptables, which cannot look into tunnels. The rules of iptables let
//! nothing be tunnelled to such a pod that it has not marked. So it is written before them, and taken away after them: in
//! between, as whenever somebody else takes it away, nothing passes that it should ask about.
//!
//! The second is there with either backend while a policy may isolate somebody. A kernel that cannot have it keeps nothing
//! else from being in force.

use super::Room;
use super::extra::Extra;
use crate::firewall::{BESIDE, FRAMES, frames};
use crate::kernel::Error;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::filter::plan::{Observed, Transaction};
use crate::kernel::filter::{Inside, Name, Ruleset};
use crate::kernel::netlink::Refusal;
use crate::kernel::nft::Nft;
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::reconcile::Outcome;

/// Both tables.
#[derive(Debug)]
pub(super) struct Beside {
    tunnelled: Extra,
    frames: Extra,
    /// Why the kernel cannot have the second one.
    unframed: Option<String>,
}

impl Default for Beside {
    fn default() -> Beside {
        Beside { tunnelled: Extra::new(BESIDE), frames: Extra::new(FRAMES), unframed: None }
    }
}

/// What the tables should hold; `None` where one should not be there.
#[derive(Debug, Default)]
pub(super) struct DesiredBeside {
    tunnelled: Option<Ruleset>,
    frames: Option<&'static Ruleset>,
}

impl<N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<N, R, C, S> {
    /// What the tables should hold.
    pub(super) fn desired_beside(&self) -> DesiredBeside {
        DesiredBeside { tunnelled: self.desired_tunnelled(), frames: self.desired_frames() }
    }

    /// What the table of tunnelled packets should hold.
    pub(super) fn desired_tunnelled(&self) -> Option<Ruleset> {
        self.table.beside(&self.book)
    }

    fn desired_frames(&self) -> Option<&'static Ruleset> {
        (self.drops_tagged() && self.kernel.nft.inside() != Inside::Nowhere).then(frames::ruleset)
    }

    fn drops_tagged(&self) -> bool {
        self.config.drop_tagged && self.table.may_isolate()
    }

    /// Before the rules of the room itself change: writes what they should be, compared with what was written last.
    pub(super) fn change_beside(&mut self, desired: &DesiredBeside, outcome: &mut Outcome) -> Result<(), Error> {
        let nft = &mut self.kernel.nft;
        // Where the kernel has refused it, it is tried again when everything is compared.
        if self.beside.unframed.is_none() {
            self.beside.frames.change(nft, desired.frames, outcome)?;
        }
        self.beside.tunnelled.change(nft, desired.tunnelled.as_ref(), outcome)
    }

    /// The same, compared with what the kernel has.
    pub(super) fn compare_beside(
        &mut self,
        desired: &DesiredBeside,
        foreign: bool,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let nft = &mut self.kernel.nft;
        let frames = self.beside.frames.compare(nft, desired.frames, foreign, outcome);
        let tunnelled = self.beside.tunnelled.compare(nft, desired.tunnelled.as_ref(), foreign, outcome);
        let was_unframed = self.beside.unframed.take().is_some();
        match frames {
            Err(error) if is_unsupported(&error) => {
                if !was_unframed {
                    tracing::info!(reason = %error, "this kernel cannot drop frames with a VLAN tag between pods");
                }
                self.beside.unframed = Some(error.to_string());
            }
            other => other?,
        }
        tunnelled
    }

    /// After the rules of the room itself have changed: takes away those that should not be there. `known`: only where
    /// one is known to be there.
    pub(super) fn drop_beside(
        &mut self,
        desired: &DesiredBeside,
        known: bool,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let nft = &mut self.kernel.nft;
        self.beside.tunnelled.drop_unwanted(nft, desired.tunnelled.as_ref(), known, outcome)?;
        self.beside.frames.drop_unwanted(nft, desired.frames, known, outcome)
    }

    /// What the kernel has of tunnelled packets; `None` where the table is not there.
    pub(super) fn observe_tunnelled(&mut self) -> Result<Option<Observed>, Error> {
        self.beside.tunnelled.observe(&mut self.kernel.nft)
    }

    /// What the kernel has of the tables that should be there.
    pub(super) fn observe_beside(&mut self) -> Vec<(Name, Result<Option<Observed>, Error>)> {
        let nft = &mut self.kernel.nft;
        let tunnelled = (self.config.inside == Inside::Beside).then_some(&self.beside.tunnelled);
        let frames = self.config.drop_tagged.then_some(&self.beside.frames);
        tunnelled.into_iter().chain(frames).map(|table| (table.name().clone(), table.observe(nft))).collect()
    }

    /// The tables as they should be, by name.
    pub(super) fn wanted_beside(&self) -> Vec<(Name, Ruleset)> {
        let DesiredBeside { tunnelled, frames } = self.desired_beside();
        let named = |table: &Extra, ruleset: Option<Ruleset>| ruleset.map(|ruleset| (table.name().clone(), ruleset));
        named(&self.beside.tunnelled, tunnelled)
            .into_iter()
            .chain(named(&self.beside.frames, frames.cloned()))
            .collect()
    }

    /// What a reading of the kernel would write.
    pub(super) fn difference_beside(&mut self) -> Result<[Transaction; 2], Error> {
        let DesiredBeside { tunnelled, frames } = self.desired_beside();
        let nft = &mut self.kernel.nft;
        let tunnelled = self.beside.tunnelled.difference(nft, tunnelled.as_ref())?;
        // What the kernel refuses is told with its reason.
        let frames = match self.beside.unframed {
            Some(_) => Transaction::default(),
            None => self.beside.frames.difference(nft, frames)?,
        };
        Ok([tunnelled, frames])
    }

    /// Tells where frames with a tag lead around policies.
    pub(super) fn note_frames(&mut self) {
        self.frames_notice = None;
        if !self.drops_tagged() || !self.has_bridge() {
            return;
        }
        let reason = match &self.beside.unframed {
            Some(reason) => reason.clone(),
            None if self.kernel.nft.inside() == Inside::Nowhere => "this kernel has no nf_tables".to_owned(),
            None => return,
        };
        let message = format!(
            "policies do not see frames with a VLAN tag between pods on the same bridge, which pods with CAP_NET_RAW can \
             send: load the modules nf_tables and nft_meta_bridge, or take that capability from pods: {reason}"
        );
        self.frames_notice = self.warning("TaggedFramesUnfiltered", message);
    }
}

/// The kernel has no tables of family `bridge`, no chains there, or no word for a bridge.
fn is_unsupported(error: &Error) -> bool {
    matches!(error.errno, Some(Refusal::EOPNOTSUPP | Refusal::EAFNOSUPPORT | Refusal::ENOENT))
}
