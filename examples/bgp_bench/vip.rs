//! One address of a Service more, from the call that the daemon's router makes to the last of its peers.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ferrovia::net::Prefix;
use ferrovia::routing::bgp::speaker::{Change, Goodbye, Options, Speaker, spawn};
use ferrovia::routing::bgp::types::{AsPath, Attributes, NextHop, Origin};
use futures::future::try_join_all;

use super::crowd::{KNOWN, Member, N_FAN, fan, one_by_one};
use super::device::{Kind, Setup, ours};
use super::place;
use super::routes::prefix;
use super::speaker_file::File;
use super::table::{Bar, Table, Unit, percentile};

/// Our speaker only, on a thread of this process as it is one of the daemon's; the others have no such door.
pub(crate) fn measure(kind: Kind, table: &mut Table) -> Result<()> {
    if kind != Kind::Ferrovia {
        return Ok(());
    }
    let took = place::fresh(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(run())
    })?;
    let what = format!("one VIP more at 10,000, told to the last of {N_FAN} peers");
    table.add(&format!("{what}: p50"), Unit::Millis, &[], kind, percentile(&took, 50));
    table.add(&format!("{what}: p99"), Unit::Millis, &[Bar::AtMost(10.0)], kind, percentile(&took, 99));
    Ok(())
}

async fn run() -> Result<Vec<f64>> {
    let crowd = fan();
    let folder = tempfile::TempDir::new()?;
    let path = folder.path().join("conf");
    std::fs::write(&path, ours(&Setup { peers: crowd.clone(), ..Setup::default() }))?;
    let config = File::read(&path).and_then(|file| file.config()).map_err(|error| anyhow!("{error}"))?;
    let (speaker, thread) = spawn(config, Options::default()).context("start the speaker")?;
    let mut members = try_join_all(crowd.iter().map(|who| Member::establish(*who))).await?;
    announce(&speaker, 0..KNOWN)?;
    let took = one_by_one(&mut members, async |index| announce(&speaker, index..index + 1)).await?;
    drop(members);
    speaker.stop(Goodbye::Restart, Duration::from_secs(5)).await;
    thread.join().map_err(|_| anyhow!("the speaker's thread panicked"))?;
    Ok(took)
}

fn announce(speaker: &Speaker, indexes: std::ops::Range<u32>) -> Result<()> {
    let ourselves = NextHop::from(std::net::IpAddr::from([0, 0, 0, 0]));
    let attributes = Attributes::new(Origin::Igp, AsPath::empty(), ourselves);
    let routes = indexes.map(|index| Ok((prefix(index).parse::<Prefix>()?, vec![attributes.clone()])));
    // Whoever receives the routes tells when they are in force.
    drop(speaker.change(vec![Change::Announce(routes.collect::<Result<_>>()?)]));
    Ok(())
}
