//! The BGP speaker alone, without Kubernetes and without the kernel's routes: for interoperability tests, benchmarks,
//! and for trying it out.
//!
//! ```text
//! cargo run --features testing --example speaker -- FILE
//! ```
//!
//! `FILE` is TOML; everything but `asn` and `router_id` may be left out. Signals: HUP reads the file again and applies the
//! difference, TERM and INT withdraw everything and leave, USR1 closes as for a restart. `FERROVIA_LOG` sets what is
//! logged, as in the daemon.
//!
//! ```toml
//! asn = 64512
//! router_id = "192.0.2.1"
//! cluster_id = "192.0.2.1"         # as reflector; the router id
//! listen = ["127.0.0.1:1790"]      # nowhere
//! api = "127.0.0.1:50051"          # gobgp's API; not served
//! restarted = false                # start as after a restart (RFC 4724)
//! deferral = 360                   # seconds such a start waits at most
//! stop_within = 5                  # seconds a stop may take
//! multipath = false
//! relax_as_path = false
//! always_compare_med = false
//! prefer_older = false
//! reject_import = ["10.9.0.0/16"]  # refused from every peer, with all inside
//! reject_export = ["10.8.0.0/16"]  # told to nobody, with all inside
//!
//! [[peer]]
//! address = "127.0.0.2"            # or, for whoever connects from there, `prefix = "127.1.0.0/16"`
//! asn = 64513                      # any
//! local_asn = 64512                # asn
//! port = 179
//! local_address = "127.0.0.1"
//! scope = 0                        # interface index of a link-local address
//! password = ""
//! ttl = 1                          # hops it may be away; internal peers 255, and external ones 1
//! gtsm = 1                         # instead of ttl: checked on what arrives
//! passive = false
//! shutdown = "text"                # no session now
//! description = ""
//! families = ["ipv4", "ipv6"]
//! hold_time = 90
//! add_path_receive = ["ipv4"]      # none
//! add_path_send = ["ipv4"]         # none
//! extended_next_hop = false
//! restart_time = 120               # graceful restart; not offered
//! notification_restart = true      # RFC 8538
//! long_lived = 0                   # seconds, RFC 9494
//! client = false
//! next_hop_self = false
//! next_hop_unchanged = false       # external peers: the next hop a route came with
//! next_hop_v4 = "192.0.2.1"        # our end of the connection
//! next_hop_v6 = "2001:db8::1"
//! shared = ["192.0.2.0/24"]
//! max_prefixes = 1000              # any number
//! bfd = { interval_ms = 300, multiplier = 3, port = 3784 }
//!
//! [[route]]
//! prefix = "10.0.0.0/24"
//! next_hops = ["0.0.0.0"]          # ours; several are several paths
//! origin = "igp"                   # igp, egp or incomplete
//! as_path = [64999]
//! med = 10
//! local_pref = 100
//! communities = ["64512:1", "no-export"]
//! extended_communities = ["rt:64512:1"]
//! large_communities = ["64512:1:2"]
//!
//! [[table]]                        # many routes of one length, one after the other
//! first = "20.0.0.0/24"
//! count = 100000
//! attribute_sets = 1               # so many different ones, told apart by MED
//! next_hop = "0.0.0.0"
//! as_path = [64999]
//! ```
#![allow(clippy::print_stderr, reason = "a program of its own, which tells its user what is wrong")]

mod file;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ferrovia::net::Prefix;
use ferrovia::routing::bgp::api;
use ferrovia::routing::bgp::speaker::{Change, Goodbye, Options, Speaker, spawn};
use ferrovia::routing::bgp::types::Attributes;
use tikv_jemallocator::Jemalloc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use self::file::File;

/// The daemon's.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

type Routes = BTreeMap<Prefix, Vec<Attributes>>;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("FERROVIA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [path] = arguments.as_slice() else {
        eprintln!("usage: speaker FILE");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(path)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("speaker: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(path: &Path) -> Result<(), Box<dyn Error>> {
    let file = File::read(path)?;
    let options =
        Options { restarted: file.restarted, deferral: Duration::from_secs(file.deferral), ..Options::default() };
    let (speaker, thread) = spawn(file.config()?, options)?;
    let mut routes = file.routes()?;
    let all = routes.iter().map(|(prefix, paths)| (*prefix, paths.clone())).collect();
    speaker.change(vec![Change::Announce(all)]).await?;
    if let Some(address) = file.api {
        let listener = TcpListener::bind(address).await.map_err(|error| format!("api = \"{address}\": {error}"))?;
        let handle = speaker.questions().clone();
        tokio::spawn(async move {
            if let Err(error) = api::server::serve(listener, handle, std::future::pending()).await {
                tracing::error!(reason = %error, "the API ended");
            }
        });
    }
    let (mut hup, mut term) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    let (mut int, mut usr1) = (signal(SignalKind::interrupt())?, signal(SignalKind::user_defined1())?);
    let goodbye = loop {
        tokio::select! {
            _ = hup.recv() => match File::read(path).and_then(|file| reload(&speaker, &file, &routes)) {
                Ok(new) => routes = new,
                Err(error) => tracing::error!(reason = %error, "the file is not applied"),
            },
            _ = term.recv() => break Goodbye::Leave("stopped".to_owned()),
            _ = int.recv() => break Goodbye::Leave("interrupted".to_owned()),
            _ = usr1.recv() => break Goodbye::Restart,
        }
    };
    speaker.stop(goodbye, Duration::from_secs(file.stop_within)).await;
    thread.join().map_err(|_| "the speaker's thread panicked")?;
    Ok(())
}

/// Applies the difference between what is announced and what the file says now.
fn reload(speaker: &Speaker, file: &File, before: &Routes) -> Result<Routes, Box<dyn Error>> {
    let (config, after) = (file.config()?, file.routes()?);
    let changed = after.iter().filter(|(prefix, paths)| before.get(*prefix) != Some(*paths));
    let changed = changed.map(|(prefix, paths)| (*prefix, paths.clone())).collect();
    let gone = before.keys().filter(|prefix| !after.contains_key(*prefix)).copied().collect();
    // Nobody waits for it.
    drop(speaker.change(vec![Change::Configure(Box::new(config)), Change::Withdraw(gone), Change::Announce(changed)]));
    Ok(after)
}
