//! Reads the log group of denied packets and says of each which pod it was and which policy denied it.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Config;
use super::book::Book;
use super::denied::{Denial, Lines, trace};
use crate::kernel::netlink::Heard;
use crate::kernel::nflog::Reader;
use crate::model::{Published, Snapshot};

/// Follows a group until its socket fails. Each denied packet is one line, as far as [`Lines`] allows, and is given to
/// `count`. The policies are looked up in a book of its own, which is brought up to date when a packet comes.
///
/// # Errors
/// Where the socket fails.
pub async fn follow(
    mut reader: Reader,
    snapshots: watch::Receiver<Option<Published>>,
    config: Config,
    mut count: impl FnMut(&Denial),
) -> io::Result<()> {
    let (mut lines, begun) = (Lines::default(), Instant::now());
    let mut seen: Option<(Book, Arc<Snapshot>)> = None;
    loop {
        let (packets, heard) = reader.next().await?;
        if heard == Heard::Lost {
            warn!("denied packets came faster than they could be read: some are neither told nor counted");
        }
        let newest = snapshots.borrow().as_ref().map(|published| Arc::clone(&published.snapshot));
        let Some(newest) = newest else { continue };
        let (book, snapshot) = match seen.take() {
            Some((mut book, older)) => {
                book.apply(&newest.changes_since(&older), &newest, &config);
                (book, newest)
            }
            None => (Book::build(&newest, &config), newest),
        };
        for denial in packets.iter().filter_map(|packet| trace(&book, &snapshot, packet)) {
            count(&denial);
            if let Some(kept_back) = lines.next(begun.elapsed()) {
                let Denial { pod, direction, peer, port, policy, .. } = &denial;
                info!(namespace = %pod.namespace, pod = %pod.name, %direction, peer, port, policy, kept_back, "denied");
            }
        }
        seen = Some((book, snapshot));
    }
}
