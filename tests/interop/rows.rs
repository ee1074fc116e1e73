//! The rows of the table, what proves each, and what some of the others cannot do.

use crate::describe::Kind::{Bird1, Bird2, Frr, Gobgp3, Gobgp4};
use crate::matrix::Row;

/// A row that holds with everybody.
const fn row(name: &'static str, proof: &'static str) -> Row {
    Row { name, proof, not: &[] }
}

const ONE_FAMILY: &str = "BIRD 1.6 has one program and one session for each family";
const NO_LONG: &str = "does not know RFC 8654; what we do instead is the row below";
const LONG: &str = "knows RFC 8654, so nothing is too long";
const NO_ASKING: &str = "GoBGP keeps what it heard and never sends ROUTE-REFRESH";
const NO_LLGR: &str = "BIRD 1.6 only tells that it knows of RFC 9494";

pub(crate) const ROWS: &[Row] = &[
    row("active", "we connect, the other only listens; both have the other's route"),
    row("passive", "we only listen, the other connects"),
    row("collision", "both connect; exactly one connection stays, three times over"),
    row("hold time", "the shorter one counts on both sides, and expires when the other falls silent"),
    row("4-octet AS", "AS numbers above 4,200,000,000 on both sides"),
    row("origin and next hop", "our address, theirs"),
    row("communities", "both ways"),
    row("large communities", "both ways, the largest numbers"),
    row("extended communities", "route targets, both ways"),
    row("AS path prepended", "both ways"),
    row("MED", "both ways"),
    row("local pref", "internal session, both ways"),
    row("third-party next hop", "internal session, both ways: it is left as it is"),
    row("next hop self", "switched on without a reset"),
    row("graceful shutdown community", "a route marked by RFC 8326, both ways"),
    row("withdrawal", "one route of two goes, without a flap"),
    Row { not: &[(Bird1, ONE_FAMILY)], ..row("IPv6 over an IPv4 session", "both families, both ways") },
    row("IPv6 over an IPv6 session", "both ways"),
    Row {
        not: &[(Bird1, "BIRD 1.6 does not know RFC 8950")],
        ..row("IPv4 with IPv6 next hops (RFC 8950)", "IPv6 session, both ways")
    },
    row("ADD-PATH, sent", "two next hops for one prefix; one goes and comes back"),
    row("ADD-PATH, received", "two paths with one best"),
    row("route refresh, asked", "we ask, they send again"),
    Row {
        not: &[(Gobgp3, NO_ASKING), (Gobgp4, NO_ASKING)],
        ..row("route refresh, answered", "they ask, we send again")
    },
    Row {
        not: &[(Gobgp3, "GoBGP does not know RFC 7313"), (Gobgp4, "GoBGP does not know RFC 7313")],
        ..row("enhanced route refresh", "marks of beginning and end on the wire, both ways")
    },
    Row {
        not: &[(Bird1, NO_LONG), (Gobgp3, NO_LONG)],
        ..row("extended messages", "a route with 1,200 communities, both ways")
    },
    Row {
        not: &[(Bird2, LONG), (Frr, LONG), (Gobgp4, LONG)],
        ..row("a route too long for the peer", "it is withheld, the others arrive, the session stays")
    },
    row("graceful restart, theirs", "they are killed: we keep their routes, and drop what they do not announce again"),
    row("graceful restart, ours", "we are killed: they keep ours, and drop what we do not announce again"),
    row("graceful restart, time over", "they do not come back: their routes go after the restart time"),
    Row {
        not: &[(Bird1, NO_LLGR)],
        ..row("long-lived graceful restart, theirs", "their routes stay marked LLGR_STALE, and go in the end")
    },
    Row { not: &[(Bird1, NO_LLGR)], ..row("long-lived graceful restart, ours", "the same for ours, in their table") },
    row("shutdown message, sent", "our text on the wire; they tell that it was an administrative shutdown"),
    row("shutdown message, received", "their text in our log"),
    row("TCP-MD5", "either end connects; no session with another key"),
    row("GTSM", "no session with packets for one hop"),
    row("multihop", "a router in between"),
    row("their port 17900", "we connect to it"),
    row("our port 1790", "we listen there, and not on 179"),
    row("dynamic neighbours, ours", "they are known to us by prefix only"),
    Row {
        not: &[(Bird1, "BIRD 1.6 has no dynamic neighbours")],
        ..row("dynamic neighbours, theirs", "we are known to them by prefix only")
    },
    row("reflection, ours", "ORIGINATOR_ID and CLUSTER_LIST at the sink; next hop and local pref as they were"),
    row("reflection, theirs", "ORIGINATOR_ID and CLUSTER_LIST with us, and of ours with others"),
    Row {
        not: &[(Gobgp3, "GoBGP 3.10 has no BFD")],
        ..row("BFD, single-hop", "3 x 100 ms: frozen, they are down long before the hold time, and come back")
    },
    Row {
        not: &[(Gobgp3, "GoBGP 3.10 has no BFD"), (Gobgp4, "GoBGP 4 has BFD for one hop only")],
        ..row("BFD, multihop", "the same with a router in between")
    },
    Row {
        not: &[(Gobgp3, "GoBGP 3.10 has no BFD")],
        ..row("BFD with graceful restart", "the session is down in time, and the routes go with it")
    },
    row("fault: killed, and back", "routes go at once and come back; a third daemon's session does not flap"),
    row("fault: frozen, and back", "the same after the hold time"),
    row("fault: link down, and up", "the same"),
    row("recorded messages", "what they send is read as meant, and as `tests/vectors/` has it"),
];
