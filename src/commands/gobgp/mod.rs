//! `ferrovia neighbor …` and its like: gobgp's command line. Asks a speaker over the network and prints what it says as
//! `gobgp` 3.10 does.

mod peers;
mod policies;
mod route;
mod routes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;

use crate::cli::gobgp::{Ask, Gobgp, Options};
use crate::net::Family;
use crate::routing::bgp::api::client::{Client, Place, Tls};
use crate::routing::bgp::api::message as m;
use crate::routing::bgp::api::schema;
use crate::telemetry::print;

/// Does what was asked. What went wrong is said in a sentence: on standard error, with `-j` on standard output.
///
/// # Errors
/// Where the answer cannot be written, or without `-j` where there is none.
pub fn gobgp(request: &Gobgp) -> anyhow::Result<ExitCode> {
    if let Ask::Help(text) = &request.ask {
        print(text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(follow(request)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if request.options.json => {
            print(&format!("{{\"error\":{}}}\n", schema::quote(&format!("{error:#}"))))?;
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error),
    }
}

async fn follow(request: &Gobgp) -> anyhow::Result<()> {
    // Read before anybody is bothered.
    let route = match &request.ask {
        Ask::Add(words) | Ask::Delete(words) => {
            Some(route::parse(request.options.family.unwrap_or(Family::V4), words).map_err(anyhow::Error::msg)?)
        }
        _ => None,
    };
    let place = place(&request.options)?;
    let mut session = Session { client: Client::connect(&place).await?, options: &request.options };
    match &request.ask {
        Ask::Help(_) => Ok(()),
        Ask::Neighbors => session.neighbors().await,
        Ask::Neighbor(name) => session.neighbor(name).await,
        Ask::PeerRoutes(name, table, lookup) => session.peer_routes(name, *table, lookup.as_ref()).await,
        Ask::PeerSummary(name, table) => session.peer_summary(name, *table).await,
        Ask::Reset(name, soft) => session.reset(name, *soft).await,
        Ask::Switch(name, switch) => session.switch(name, *switch).await,
        Ask::Assigned(peer, way) => session.assigned(peer.as_deref(), *way).await,
        Ask::Global => session.global().await,
        Ask::Routes(lookup) => session.global_routes(lookup.as_ref()).await,
        Ask::Summary => session.summary(0, "", request.options.family.unwrap_or(Family::V4)).await,
        Ask::Add(_) => session.change("AddPath", route).await,
        Ask::Delete(_) => session.change("DeletePath", route).await,
        Ask::DeleteAll => session.change("DeletePath", None).await,
        Ask::Policies(name) => session.policies(name.as_deref()).await,
        Ask::Statements(name) => session.statements(name.as_deref()).await,
        Ask::Sets(kind, heading, name) => session.sets(*kind, heading, name.as_deref()).await,
        Ask::MonitorRoutes => session.monitor_routes(0, None).await,
        Ask::MonitorAdjIn(peer) => session.monitor_routes(1, peer.as_deref()).await,
        Ask::MonitorPeers(peer) => session.monitor_peers(peer.as_deref()).await,
    }
}

/// A conversation with one speaker.
struct Session<'a> {
    client: Client,
    options: &'a Options,
}

fn place(options: &Options) -> anyhow::Result<Place> {
    if let Some(path) = &options.socket {
        return Ok(Place::Unix(PathBuf::from(path)));
    }
    let tls = options.tls.then(|| tls(options)).transpose()?;
    Ok(Place::Tcp(options.host.clone(), options.port, tls))
}

fn tls(options: &Options) -> anyhow::Result<Tls> {
    let read = |flag: &str, path: &str| std::fs::read(path).with_context(|| format!("--{flag}={path} cannot be read"));
    let authority = (!options.ca_file.is_empty()).then(|| read("tls-ca-file", &options.ca_file)).transpose()?;
    let identity = match (options.cert_file.as_str(), options.key_file.as_str()) {
        ("", "") => None,
        ("", _) => anyhow::bail!("--tls-client-key-file needs --tls-client-cert-file beside it"),
        (_, "") => anyhow::bail!("--tls-client-cert-file needs --tls-client-key-file beside it"),
        (cert, key) => Some((read("tls-client-cert-file", cert)?, read("tls-client-key-file", key)?)),
    };
    Ok(Tls { authority, identity })
}

/// The time since 1970.
#[allow(clippy::disallowed_methods, reason = "ages are shown against the clock on the wall")]
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The wall clock in front of a line of `monitor`.
fn clock() -> String {
    let seconds = i64::try_from(now().as_secs()).unwrap_or_default();
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

fn family_message(family: Family) -> m::Family {
    crate::routing::bgp::api::adapt::family_message(family)
}

/// Reads an answer.
fn read<T: prost::Message + Default>(bytes: &[u8]) -> anyhow::Result<T> {
    T::decode(bytes).context("the speaker's answer cannot be read")
}

fn json_list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]\n", items.collect::<Vec<_>>().join(","))
}
