//! BFD towards a peer as the API tells it: the value, gobgp 4's message, and the line our own `neighbor X` prints.

use std::time::Duration;

use prost::Message;

use crate::routing::bgp::bfd::packet::{Diagnostic, State};

/// How BFD towards a peer stands (RFC 5880 6.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdStatus {
    /// Ours.
    pub state: State,
    /// The neighbour's, as last heard.
    pub remote_state: State,
    /// Why ours last left Up.
    pub diagnostic: Diagnostic,
    /// Why the neighbour's did, as last heard.
    pub remote_diagnostic: Diagnostic,
    /// Our discriminator.
    pub discriminator: u32,
    /// The neighbour's; 0 while it is not heard.
    pub remote_discriminator: u32,
    /// The least time between packets that the neighbour is able to receive.
    pub remote_min_rx: Duration,
    /// Since when it is in this state, since 1970.
    pub since: Duration,
    /// How often it left Up.
    pub failures: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
}

/// The same as gobgp 4 sends it; field 23 of a peer's state, which gobgp 3 does not know and passes over.
#[derive(Clone, PartialEq, Message)]
pub struct BfdPeerState {
    /// 1 up, 2 down, 3 held down on purpose, 4 the neighbour is heard.
    #[prost(int32, tag = "1")]
    pub session_state: i32,
    /// The same of the neighbour.
    #[prost(int32, tag = "2")]
    pub remote_session_state: i32,
    /// When it last went down, in seconds since 1970; 0 where it did not, or is up again.
    #[prost(uint64, tag = "3")]
    pub last_failure_time: u64,
    /// How often it left Up.
    #[prost(uint64, tag = "4")]
    pub failure_transitions: u64,
    /// Ours.
    #[prost(uint32, tag = "5")]
    pub local_discriminator: u32,
    /// The neighbour's.
    #[prost(uint32, tag = "6")]
    pub remote_discriminator: u32,
    /// As on the wire.
    #[prost(int32, tag = "7")]
    pub local_diagnostic_code: i32,
    /// The neighbour's.
    #[prost(int32, tag = "8")]
    pub remote_diagnostic_code: i32,
    /// Microseconds.
    #[prost(uint32, tag = "9")]
    pub remote_minimum_receive_interval: u32,
    /// Counters.
    #[prost(message, optional, tag = "10")]
    pub bfd_async: Option<BfdAsyncCounters>,
}

/// Packets of asynchronous mode.
#[derive(Clone, PartialEq, Message)]
pub struct BfdAsyncCounters {
    /// Sent.
    #[prost(uint64, tag = "3")]
    pub transmitted_packets: u64,
    /// Received.
    #[prost(uint64, tag = "4")]
    pub received_packets: u64,
}

/// The message for it.
pub fn message(status: &BfdStatus) -> BfdPeerState {
    let down_again = status.failures > 0 && status.state != State::Up;
    BfdPeerState {
        session_state: number(status.state),
        remote_session_state: number(status.remote_state),
        last_failure_time: if down_again { status.since.as_secs() } else { 0 },
        failure_transitions: status.failures,
        local_discriminator: status.discriminator,
        remote_discriminator: status.remote_discriminator,
        local_diagnostic_code: status.diagnostic.number().into(),
        remote_diagnostic_code: status.remote_diagnostic.number().into(),
        remote_minimum_receive_interval: u32::try_from(status.remote_min_rx.as_micros()).unwrap_or(u32::MAX),
        bfd_async: Some(BfdAsyncCounters { transmitted_packets: status.sent, received_packets: status.received }),
    }
}

fn number(state: State) -> i32 {
    match state {
        State::Up => 1,
        State::Down => 2,
        State::AdminDown => 3,
        State::Init => 4,
    }
}

fn name(number: i32) -> &'static str {
    match number {
        1 => "UP",
        2 => "DOWN",
        3 => "ADMIN DOWN",
        4 => "INIT",
        _ => "UNKNOWN",
    }
}

/// What `neighbor X` says of it. The real gobgp prints nothing about BFD, so this is a line more and none changed.
pub fn line(state: &BfdPeerState) -> String {
    let diagnostic = u8::try_from(state.local_diagnostic_code).map_or(Diagnostic::None, Diagnostic::of);
    let counters = state.bfd_async.clone().unwrap_or_default();
    format!(
        "  BFD state = {}, neighbor's {}, failures = {} ({diagnostic}), packets {} sent, {} received\n",
        name(state.session_state),
        name(state.remote_session_state),
        state.failure_transitions,
        counters.transmitted_packets,
        counters.received_packets
    )
}
