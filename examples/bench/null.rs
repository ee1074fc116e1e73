//! A kernel that is not there: every change works at once and costs nothing. What remains is what the daemon itself
//! does, and that can be measured on any machine. Messages are still encoded, because that is the daemon's work.

use ferrovia::kernel::Error;
use ferrovia::kernel::conntrack::{Conntrack, Flow};
use ferrovia::kernel::filter::Name;
use ferrovia::kernel::filter::plan::{Observed, Transaction};
use ferrovia::kernel::ipvs::codec::encode_op;
use ferrovia::kernel::ipvs::{
    Connections, Ipvs, Op, RealServerKey, Stats, Table, Timeouts, VirtualServer, VirtualServerKey,
};
use ferrovia::kernel::netlink::Batch;
use ferrovia::kernel::nft::Nft;
use ferrovia::kernel::rtnl::{self, Address, Link, Neighbour, Route, RouteFilter, Rtnl, Rule};
use ferrovia::kernel::sysctl::FakeSysctl;
use ferrovia::net::Family;
use ferrovia::proxy::reconciler::{Kernel, Outputs, Room};
use ferrovia::proxy::{Config, DUMMY_LINK};

/// Any number for the generic netlink family: nobody reads it.
const FAMILY: u16 = 30;

/// The room with nothing below it.
pub(crate) type NullRoom = Room<NullIpvs, Nothing, Nothing, Nothing, FakeSysctl>;

/// A room over no kernel.
pub(crate) fn room() -> NullRoom {
    let kernel = Kernel {
        ipvs: NullIpvs::default(),
        nft: Nothing,
        rtnl: Nothing,
        conntrack: Nothing,
        sysctl: FakeSysctl::default(),
    };
    Room::new(Config::default(), kernel, Outputs::default())
}

/// IPVS that encodes what it is told and forgets it.
#[derive(Debug, Default)]
pub(crate) struct NullIpvs {
    batch: Batch,
}

/// Everything else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nothing;

impl Ipvs for NullIpvs {
    fn dump(&mut self) -> Result<Table, Error> {
        Ok(Table::new())
    }

    fn read(&mut self, _: &VirtualServerKey) -> Result<Option<VirtualServer>, Error> {
        Ok(None)
    }

    fn connections(&mut self, _: &VirtualServerKey) -> Result<Vec<(RealServerKey, Connections)>, Error> {
        Ok(Vec::new())
    }

    fn stats(&mut self) -> Result<Vec<(VirtualServerKey, Stats)>, Error> {
        Ok(Vec::new())
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        self.batch.clear();
        ops.iter().for_each(|op| encode_op(&mut self.batch, FAMILY, op));
        std::hint::black_box(self.batch.bytes());
        ops.iter().map(|_| Ok(())).collect()
    }

    fn set_timeouts(&mut self, _: Timeouts) -> Result<(), Error> {
        Ok(())
    }
}

impl Nft for Nothing {
    fn dump(&mut self, _: &Name) -> Result<Option<Observed>, Error> {
        Ok(None)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let _ = std::hint::black_box::<&Transaction>(transaction);
        Ok(())
    }
}

impl Rtnl for Nothing {
    fn links(&mut self) -> Result<Vec<Link>, Error> {
        let link = |index, name: &str, kind: &str, loopback: bool| Link {
            index,
            name: name.to_owned(),
            kind: kind.to_owned(),
            up: true,
            carrier: true,
            no_arp: !loopback,
            loopback,
            mtu: 1500,
            master: None,
            tunnel: None,
        };
        Ok(vec![link(1, "lo", "", true), link(2, DUMMY_LINK, "dummy", false)])
    }

    fn addresses(&mut self, _: Option<u32>) -> Result<Vec<Address>, Error> {
        Ok(Vec::new())
    }

    fn routes(&mut self, _: RouteFilter) -> Result<Vec<Route>, Error> {
        Ok(Vec::new())
    }

    fn rules(&mut self) -> Result<Vec<Rule>, Error> {
        Ok(Vec::new())
    }

    fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        Ok(Vec::new())
    }

    fn apply(&mut self, ops: &[rtnl::Op]) -> Vec<Result<(), Error>> {
        ops.iter().map(|_| Ok(())).collect()
    }
}

impl Conntrack for Nothing {
    fn list(&mut self, _: Option<Family>, _: &mut dyn FnMut(&Flow) -> bool) -> Result<Vec<Flow>, Error> {
        Ok(Vec::new())
    }

    fn delete(&mut self, _: &[Flow]) -> Result<(), Error> {
        Ok(())
    }

    fn mark(&mut self, _: &[Flow], _: u32, _: u32) -> Result<(), Error> {
        Ok(())
    }

    fn hold(&mut self, _: &[Flow]) -> Result<(), Error> {
        Ok(())
    }
}
