//! The messages of gobgp's WatchEvent, on which `gobgp monitor` lives.

use prost::Message;

use super::message::{Empty, Path, Peer};

/// Asks for news.
#[derive(Clone, PartialEq, Message)]
pub struct WatchEventRequest {
    /// Of peers.
    #[prost(message, optional, tag = "1")]
    pub peer: Option<Empty>,
    /// Of routes.
    #[prost(message, optional, tag = "2")]
    pub table: Option<WatchTable>,
}

/// Which routes.
#[derive(Clone, PartialEq, Message)]
pub struct WatchTable {
    /// Any of these.
    #[prost(message, repeated, tag = "1")]
    pub filters: Vec<WatchFilter>,
}

/// Which routes.
#[derive(Clone, PartialEq, Message)]
pub struct WatchFilter {
    /// Best, adj-in, after policy, End-of-RIB.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Begin with what is there.
    #[prost(bool, tag = "2")]
    pub init: bool,
    /// Only from this peer.
    #[prost(string, tag = "3")]
    pub peer_address: String,
}

/// News.
#[derive(Clone, PartialEq, Message)]
pub struct WatchEventResponse {
    /// Of a peer.
    #[prost(message, optional, tag = "2")]
    pub peer: Option<PeerEvent>,
    /// Of routes.
    #[prost(message, optional, tag = "3")]
    pub table: Option<TableEvent>,
}

/// News of a peer.
#[derive(Clone, PartialEq, Message)]
pub struct PeerEvent {
    /// 1 for what is there, 2 at its end, 3 for a change.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// The peer.
    #[prost(message, optional, tag = "2")]
    pub peer: Option<Peer>,
}

/// News of routes.
#[derive(Clone, PartialEq, Message)]
pub struct TableEvent {
    /// Them.
    #[prost(message, repeated, tag = "2")]
    pub paths: Vec<Path>,
}
