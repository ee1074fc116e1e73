//! Watches a folder of manifests and reads it again whenever it changes.
//!
//! The kernel tells of changes (inotify); a slow look at names, sizes and times catches what it does not tell: folders
//! behind links, network file systems, a folder that was replaced.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::manifest::Report;
use super::{File, FolderError, Loaded, list, load};
use crate::k8s::Timings;
use crate::k8s::convert::{Context, Names};
use crate::k8s::errors::Error;
use crate::k8s::status::Status;
use crate::k8s::watch::{News, Stamped};
use crate::model::NodeName;

/// How often the quiet time may be prolonged by further changes.
const MOST_QUIET_TIMES: u32 = 10;

/// What the folder's task works with.
#[derive(Debug)]
pub(in crate::k8s) struct FolderWatch {
    pub(in crate::k8s) folder: PathBuf,
    pub(in crate::k8s) own_node: NodeName,
    pub(in crate::k8s) names: Arc<Names>,
    pub(in crate::k8s) timings: Timings,
    pub(in crate::k8s) status: Arc<Status>,
}

impl FolderWatch {
    /// Reads the folder, then again after each change, until nobody listens any more.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read the first time. Later that is logged, and the last content stays in force.
    pub(in crate::k8s) async fn run(self, updates: mpsc::Sender<Stamped>) -> Result<(), Error> {
        let changed = Arc::new(Notify::new());
        let mut watcher = watch(&self.folder, &changed);
        let (mut files, loaded) = self.read(None).await?;
        let Some(loaded) = loaded else { return Ok(()) };
        if !self.publish(loaded, Instant::now(), &updates).await {
            return Ok(());
        }
        loop {
            let told = tokio::select! {
                () = changed.notified() => true,
                () = tokio::time::sleep(self.timings.folder_poll) => false,
                () = updates.closed() => return Ok(()),
            };
            let arrived = Instant::now();
            if told {
                settle(&changed, self.timings.folder_quiet).await;
            }
            let known = (!told).then(|| files.clone());
            match self.read(known).await {
                Ok((_, None)) => {}
                Ok((found, Some(loaded))) => {
                    files = found;
                    if !told {
                        // Something is there that the kernel does not tell of, or no longer: watch anew.
                        drop(watcher.take());
                        watcher = watch(&self.folder, &changed);
                    }
                    if !self.publish(loaded, arrived, &updates).await {
                        return Ok(());
                    }
                }
                Err(error) => self.trouble(&error.to_string()),
            }
        }
    }

    /// Lists the folder and reads its files, unless the list is the `known` one. Away from the runtime's threads: a
    /// folder may be large, or slow.
    async fn read(&self, known: Option<Vec<File>>) -> Result<(Vec<File>, Option<Loaded>), Error> {
        let (folder, own_node, names) = (self.folder.clone(), self.own_node.clone(), Arc::clone(&self.names));
        let work = move || -> Result<(Vec<File>, Option<Loaded>), FolderError> {
            let files = list(&folder)?;
            if known.as_ref() == Some(&files) {
                return Ok((files, None));
            }
            let loaded = load(&files, Context { own_node: &own_node, names: &names, policies: true });
            Ok((files, Some(loaded)))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(read) => Ok(read?),
            Err(error) => Err(Error::TaskEnded { task: "folder", reason: error.to_string() }),
        }
    }

    /// Hands the content on as complete lists of all kinds: false when nobody listens any more.
    async fn publish(&self, mut loaded: Loaded, arrived: Instant, updates: &mpsc::Sender<Stamped>) -> bool {
        self.report(std::mem::take(&mut loaded.reports));
        if updates.send((News::Folder(loaded.into_updates()), arrived)).await.is_err() {
            return false;
        }
        for watch in self.status.watches() {
            watch.set_in_sync();
            watch.note_event();
            if let Some(reason) = watch.note_well() {
                info!(kind = %watch.kind, reason, "manifests can be read again");
            }
        }
        true
    }

    /// Logs what is newly wrong, and how much is not wrong any more.
    fn report(&self, reports: Vec<Report>) {
        let before = self.status.set_reports(reports.clone());
        for report in reports.iter().filter(|report| !before.contains(report)) {
            let Report { file, line, object, field, message } = report;
            warn!(file, line, object, field, message, "manifest cannot be used as it is");
        }
        let mended = before.iter().filter(|report| !reports.contains(report)).count();
        if mended > 0 {
            info!(mended, left = reports.len(), "manifests were corrected");
        }
    }

    fn trouble(&self, reason: &str) {
        let news: Vec<bool> = self.status.watches().iter().map(|watch| watch.note_error(reason)).collect();
        if news.contains(&true) {
            warn!(reason, "manifests cannot be read, the last known objects stay in force");
        }
    }
}

/// Tells `changed` whenever something below the folder changes. Without the kernel's help there is still the slow look.
fn watch(folder: &Path, changed: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let tell = Arc::clone(changed);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an access, too: telling of it would never end.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            tell.notify_one();
        }
    });
    let watcher = watcher.and_then(|mut watcher| watcher.watch(folder, RecursiveMode::Recursive).map(|()| watcher));
    match watcher {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(reason = %error, "folder cannot be watched, it is looked at from time to time; \
                   raise fs.inotify.max_user_watches or max_user_instances");
            None
        }
    }
}

/// Waits until no change came for a while, within bounds.
async fn settle(changed: &Notify, quiet: Duration) {
    for _ in 0..MOST_QUIET_TIMES {
        if timeout(quiet, changed.notified()).await.is_err() {
            return;
        }
    }
}
