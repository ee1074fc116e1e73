//! `global rib`, `neighbor X adj-in` and its like, `monitor global rib`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::route::Route;
use super::{Session, clock, family_message, now, print, read};
use crate::cli::gobgp::{Lookup, PeerTable};
use crate::net::{Family, Prefix};
use crate::routing::bgp::api::adapt::Version;
use crate::routing::bgp::api::shown::{self, Shown};
use crate::routing::bgp::api::text::{self, View};
use crate::routing::bgp::api::{message as m, schema};

/// Numbers of tables in 3.x.
const GLOBAL: i32 = 0;
const LOCAL: i32 = 1;
const ADJ_IN: i32 = 2;
const ADJ_OUT: i32 = 3;

fn number(table: PeerTable) -> i32 {
    match table {
        PeerTable::Local => LOCAL,
        PeerTable::AdjIn | PeerTable::Accepted | PeerTable::Rejected => ADJ_IN,
        PeerTable::AdjOut => ADJ_OUT,
    }
}

impl Session<'_> {
    /// `global rib`.
    pub(super) async fn global_routes(&mut self, lookup: Option<&Lookup>) -> anyhow::Result<()> {
        let family = self.options.family.unwrap_or(Family::V4);
        let found = self.routes(GLOBAL, "", family, lookup, false).await?;
        self.show_routes(found, View::Global)
    }

    /// `neighbor X adj-in` and its like.
    pub(super) async fn peer_routes(
        &mut self,
        name: &str,
        table: PeerTable,
        lookup: Option<&Lookup>,
    ) -> anyhow::Result<()> {
        const ESTABLISHED: i32 = 6;
        let address = self.address(name).await?;
        let family = self.options.family.unwrap_or_else(|| family_of(&address));
        let filtered = matches!(table, PeerTable::Accepted | PeerTable::Rejected);
        let mut found = self.routes(number(table), &address, family, lookup, filtered).await?;
        if found.is_empty() {
            let peers = self.peers(&address, false).await?;
            let peer: m::Peer = read(peers.first().map_or(&[], Vec::as_slice))?;
            let up = peer.state.is_some_and(|state| state.session_state == ESTABLISHED);
            anyhow::ensure!(up, "neighbor {address}'s BGP session is not established");
        }
        for destination in &mut found {
            destination.paths.retain(|path| match table {
                PeerTable::Accepted => !path.filtered,
                PeerTable::Rejected => path.filtered,
                _ => true,
            });
        }
        let view = match table {
            PeerTable::Local => View::Global,
            PeerTable::AdjOut => View::AdjOut,
            _ => View::AdjIn,
        };
        self.show_routes(found, view)
    }

    /// `neighbor X adj-in summary` and its like.
    pub(super) async fn peer_summary(&mut self, name: &str, table: PeerTable) -> anyhow::Result<()> {
        let address = self.address(name).await?;
        let family = self.options.family.unwrap_or_else(|| family_of(&address));
        self.summary(number(table), &address, family).await
    }

    /// The size of a table.
    pub(super) async fn summary(&mut self, table: i32, name: &str, family: Family) -> anyhow::Result<()> {
        let family = family_message(family);
        let question = |version: Version| m::GetTableRequest {
            table_type: table + version.shift(),
            family: Some(family),
            name: name.to_owned(),
        };
        let answer = self.client.ask("GetTable", question).await?;
        if self.options.json {
            return Ok(print(&format!("{}\n", schema::json(schema::TABLE, &answer)))?);
        }
        Ok(print(&text::summary(family, &read(&answer)?))?)
    }

    async fn routes(
        &mut self,
        table: i32,
        name: &str,
        family: Family,
        lookup: Option<&Lookup>,
        filtered: bool,
    ) -> anyhow::Result<Vec<m::Destination>> {
        let question = |version: Version| m::ListPathRequest {
            table_type: table + version.shift(),
            name: name.to_owned(),
            family: Some(family_message(family)),
            prefixes: lookup
                .iter()
                .map(|lookup| m::LookupPrefix { prefix: lookup.prefix.clone(), kind: lookup.kind + version.shift() })
                .collect(),
            sort_type: 1,
            enable_filtered: filtered,
            enable_only_binary: true,
        };
        let mut answers = self.client.stream("ListPath", question).await?;
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await? {
            found.extend(read::<m::ListPathResponse>(&answer)?.destination);
        }
        if self.client.version() == Version::V4 {
            let paths = found.iter_mut().flat_map(|one| &mut one.paths);
            paths.filter_map(|path| path.validation.as_mut()).for_each(|one| one.state = (one.state - 1).max(0));
        }
        Ok(found)
    }

    fn show_routes(&self, mut found: Vec<m::Destination>, view: View) -> anyhow::Result<()> {
        let version = self.client.version();
        if self.options.json {
            let list = found.iter().map(|one| Ok((one.prefix.clone(), paths_json(version, &one.paths)?)));
            let by_prefix = list.collect::<anyhow::Result<BTreeMap<String, String>>>()?;
            let items: Vec<String> =
                by_prefix.iter().map(|(prefix, paths)| format!("{}:{paths}", schema::quote(prefix))).collect();
            return Ok(print(&format!("{{{}}}\n", items.join(",")))?);
        }
        if found.is_empty() {
            return Ok(print("Network not in table\n")?);
        }
        found.sort_by_cached_key(|one| one.prefix.parse::<Prefix>().ok());
        let paths = found.iter().flat_map(|one| &one.paths);
        let rows: Vec<(&m::Path, Shown)> =
            paths.map(|path| Ok((path, columns(version, path)?))).collect::<anyhow::Result<_>>()?;
        Ok(print(&text::routes(&rows, view, now()))?)
    }

    /// `global rib add` and `del`; without a route `del all`.
    pub(super) async fn change(&mut self, method: &str, route: Option<Route>) -> anyhow::Result<()> {
        if method == "AddPath" {
            let path = route.map(|route| route.into_path(now()));
            let question = |version: Version| m::AddPathRequest { table_type: version.shift(), path: path.clone() };
            self.client.ask(method, question).await?;
            return Ok(());
        }
        let family = Some(family_message(self.options.family.unwrap_or(Family::V4)));
        let path = route.map(|route| route.into_path(now()));
        let question = |version: Version| m::DeletePathRequest {
            table_type: version.shift(),
            family: family.filter(|_| path.is_none()),
            path: path.clone(),
            uuid: Vec::new(),
        };
        self.client.ask(method, question).await?;
        Ok(())
    }

    /// `monitor global rib`, `monitor adj-in`.
    pub(super) async fn monitor_routes(&mut self, kind: i32, peer: Option<&str>) -> anyhow::Result<()> {
        let peer_address = peer.unwrap_or_default();
        anyhow::ensure!(
            peer_address.is_empty() || peer_address.parse::<IpAddr>().is_ok(),
            "invalid ip address: {peer_address}"
        );
        let question = |version: Version| m::WatchEventRequest {
            peer: None,
            table: Some(m::WatchTable {
                filters: vec![m::WatchFilter {
                    kind: kind + version.shift(),
                    init: self.options.current,
                    peer_address: peer_address.to_owned(),
                }],
            }),
        };
        let mut news = self.client.stream("WatchEvent", question).await?;
        let version = self.client.version();
        while let Some(event) = news.next().await? {
            let Some(table) = read::<m::WatchEventResponse>(&event)?.table else { continue };
            let wanted = |path: &m::Path| {
                let family = self.options.family.map(family_message);
                family.is_none() || path.family == family
            };
            let paths: Vec<m::Path> = table.paths.into_iter().filter(wanted).collect();
            if self.options.json {
                print(&format!("{}\n", paths_json(version, &paths)?))?;
                continue;
            }
            let clock = clock();
            let lines =
                paths.iter().map(|path| Ok(format!("{clock} {}", text::monitor_route(path, &columns(version, path)?))));
            print(&lines.collect::<anyhow::Result<String>>()?)?;
        }
        Ok(())
    }
}

fn family_of(address: &str) -> Family {
    if address.contains(':') { Family::V6 } else { Family::V4 }
}

fn columns(version: Version, path: &m::Path) -> anyhow::Result<Shown> {
    shown::columns(version, path).map_err(|text| anyhow::anyhow!("a route of the answer cannot be read: {text}"))
}

fn paths_json(version: Version, paths: &[m::Path]) -> anyhow::Result<String> {
    let list = paths.iter().map(|path| shown::json(version, path));
    let list = list.collect::<Result<Vec<_>, _>>();
    let list = list.map_err(|text| anyhow::anyhow!("a route of the answer cannot be read: {text}"))?;
    Ok(format!("[{}]", list.join(",")))
}
