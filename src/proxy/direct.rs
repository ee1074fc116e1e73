//! Direct server return of all Services together (pure): marks, virtual servers by mark, and the pods that answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::book::Book;
use super::dsr::{DsrKey, DsrNeeds, pod_setups};
use crate::kernel::ipvs::{VirtualServer, VirtualServerKey};
use crate::model::{Notice, ServiceKey, Snapshot};

/// What the Services with direct return ask of this node together.
#[derive(Debug, Default)]
pub struct Direct {
    /// Marks and pods.
    pub needs: DsrNeeds,
    /// The virtual servers that marked packets meet.
    pub virtual_servers: BTreeMap<VirtualServerKey, Arc<VirtualServer>>,
    /// One of them hashes (`mh`): its packets may start in the middle of a connection.
    pub sloppy: bool,
    /// What owners of Services should know.
    pub notices: Vec<Notice>,
}

impl Direct {
    /// From what the book asks for, and the pods of the snapshot.
    pub fn build(snapshot: &Snapshot, book: &Book) -> Direct {
        let direct = book.direct();
        let keys: BTreeSet<DsrKey> = direct.values().map(|(_, server)| server.key()).collect();
        let mut vips: BTreeMap<&ServiceKey, BTreeSet<IpAddr>> = BTreeMap::new();
        for (service, server) in direct.values() {
            vips.entry(*service).or_default().insert(server.tuple.0);
        }
        let mut setups = Vec::new();
        let mut notices = Vec::new();
        for (service, vips) in vips {
            let (pods, told) = pod_setups(snapshot, service, &vips);
            setups.extend(pods);
            notices.extend(told);
        }
        let needs = DsrNeeds::gather(&keys, setups);
        let virtual_servers = direct
            .values()
            .filter_map(|(_, server)| {
                let key = needs.virtual_server(&server.key())?;
                let value = VirtualServer { spec: server.spec.clone(), real_servers: server.real_servers.clone() };
                Some((key, Arc::new(value)))
            })
            .collect();
        let sloppy = direct.values().any(|(_, server)| &*server.spec.scheduler.0 == "mh");
        Direct { needs, virtual_servers, sloppy, notices }
    }
}
