//! `neighbor`: peers and their sessions, and `global` and `monitor neighbor`.

use super::{Session, clock, family_message, json_list, now, print, read};
use crate::cli::gobgp::{Switch, Way};
use crate::routing::bgp::api::adapt::Version;
use crate::routing::bgp::api::schema::{self, inner};
use crate::routing::bgp::api::{message as m, text};

impl Session<'_> {
    /// Peers in the form of 3.x: the one so named or all.
    pub(super) async fn peers(&mut self, name: &str, advertised: bool) -> anyhow::Result<Vec<Vec<u8>>> {
        let question = |_| m::ListPeerRequest { address: name.to_owned(), enable_advertised: advertised };
        let answers = self.client.all("ListPeer", question).await?;
        let version = self.client.version();
        let peers: Vec<_> = answers.iter().map(|one| schema::as_v3(version, schema::PEER, inner(1, one))).collect();
        anyhow::ensure!(name.is_empty() || !peers.is_empty(), "not found neighbor {name}");
        Ok(peers)
    }

    /// The address by which the speaker knows a peer, who may be named by interface.
    pub(super) async fn address(&mut self, name: &str) -> anyhow::Result<String> {
        let peers = self.peers(name, false).await?;
        let peer: m::Peer = read(peers.first().map_or(&[], Vec::as_slice))?;
        Ok(peer.state.map(|state| state.neighbor_address).unwrap_or_default())
    }

    /// `neighbor`.
    pub(super) async fn neighbors(&mut self) -> anyhow::Result<()> {
        let peers = self.peers("", false).await?;
        if self.options.json {
            return Ok(print(&json_list(peers.iter().map(|peer| schema::json(schema::PEER, peer))))?);
        }
        let peers = peers.iter().map(|peer| read(peer)).collect::<anyhow::Result<Vec<m::Peer>>>()?;
        if self.options.quiet {
            let names = peers.iter().filter_map(|peer| peer.state.as_ref());
            return Ok(print(&names.map(|state| format!("{}\n", state.neighbor_address)).collect::<String>())?);
        }
        Ok(print(&text::neighbors(&peers, self.options.family.map(family_message), now()))?)
    }

    /// `neighbor X`.
    pub(super) async fn neighbor(&mut self, name: &str) -> anyhow::Result<()> {
        let peers = self.peers(name, true).await?;
        let peer = peers.first().map_or(&[][..], Vec::as_slice);
        if self.options.json {
            return Ok(print(&format!("{}\n", schema::json(schema::PEER, peer)))?);
        }
        Ok(print(&text::neighbor(&read(peer)?, self.options.family.map(family_message), now()))?)
    }

    /// `neighbor X reset` and the soft ones.
    pub(super) async fn reset(&mut self, name: &str, soft: Option<Way>) -> anyhow::Result<()> {
        let address = if name == "all" { name.to_owned() } else { self.address(name).await? };
        let communication = if soft.is_none() { self.options.reason.clone() } else { String::new() };
        let direction = soft.unwrap_or(Way::Both) as i32;
        let question = |version: Version| m::PeerActionRequest {
            address: address.clone(),
            communication: communication.clone(),
            soft: soft.is_some(),
            direction: direction + version.shift(),
        };
        self.client.ask("ResetPeer", question).await?;
        Ok(())
    }

    /// `neighbor X enable`, `disable`, `shutdown`.
    pub(super) async fn switch(&mut self, name: &str, switch: Switch) -> anyhow::Result<()> {
        let all = name == "all" && switch == Switch::Shutdown;
        let address = if all { name.to_owned() } else { self.address(name).await? };
        let (method, communication) = match switch {
            Switch::Enable => ("EnablePeer", String::new()),
            Switch::Disable => ("DisablePeer", self.options.reason.clone()),
            Switch::Shutdown => ("ShutdownPeer", self.options.reason.clone()),
        };
        if switch == Switch::Shutdown {
            print("WARNING: command `shutdown` is deprecated. use `disable` instead\n")?;
        }
        let question = |_| m::PeerActionRequest {
            address: address.clone(),
            communication: communication.clone(),
            ..m::PeerActionRequest::default()
        };
        self.client.ask(method, question).await?;
        Ok(())
    }

    /// `global`.
    pub(super) async fn global(&mut self) -> anyhow::Result<()> {
        let answer = self.client.ask("GetBgp", |_| m::Empty {}).await?;
        let global = schema::as_v3(self.client.version(), schema::GLOBAL, inner(1, &answer));
        if self.options.json {
            return Ok(print(&format!("{}\n", schema::json(schema::GLOBAL, &global)))?);
        }
        Ok(print(&text::global(&read(&global)?))?)
    }

    /// `monitor neighbor [X]`.
    pub(super) async fn monitor_peers(&mut self, name: Option<&str>) -> anyhow::Result<()> {
        const STATE_CHANGED: i32 = 3;
        let question = |_| m::WatchEventRequest { peer: Some(m::Empty {}), table: None };
        let mut news = self.client.stream("WatchEvent", question).await?;
        let version = self.client.version();
        while let Some(event) = news.next().await? {
            let told = inner(2, &event);
            if told.is_empty() || read::<m::PeerEvent>(told)?.kind != STATE_CHANGED {
                continue;
            }
            let peer = schema::as_v3(version, schema::PEER, inner(2, told));
            let shown: m::Peer = read(&peer)?;
            let is_named = |name: &str| {
                let conf = shown.conf.as_ref();
                conf.is_some_and(|conf| conf.neighbor_address == name || conf.neighbor_interface == name)
            };
            if !name.is_none_or(is_named) {
                continue;
            }
            if self.options.json {
                print(&format!("{}\n", schema::json(schema::PEER, &peer)))?;
            } else {
                print(&format!("{} {}", clock(), text::monitor_peer(&shown)))?;
            }
        }
        Ok(())
    }
}
