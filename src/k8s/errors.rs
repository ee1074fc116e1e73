//! What went wrong, in words an operator can use (pure).

use std::path::PathBuf;

use kube::runtime::watcher;

use super::api::ApiError;
use super::cluster::Kind;
use super::folder::FolderError;

/// Why the front door could not open, or closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No way to the API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The folder of manifests cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Not everything was listed in time.
    #[error("{}", not_in_sync(.missing, .after))]
    NotInSync {
        /// The kinds that are missing, each with the error it suffers from.
        missing: Vec<(Kind, Option<String>)>,
        /// How long was waited.
        after: std::time::Duration,
    },
    /// One of our own tasks ended.
    #[error("the task {task} ended unexpectedly: {reason}; this is a bug in the daemon")]
    TaskEnded {
        /// Which task.
        task: &'static str,
        /// How it ended.
        reason: String,
    },
    /// The state file cannot be written. Never fatal: logged.
    #[error("cannot write {}: {source}", path.display())]
    StateFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn not_in_sync(missing: &[(Kind, Option<String>)], after: &std::time::Duration) -> String {
    let kinds: Vec<String> = missing
        .iter()
        .map(|(kind, error)| format!("{kind} ({})", error.as_deref().unwrap_or("the list has not ended yet")))
        .collect();
    format!(
        "not in sync after {after:?}: {}; look at the API server and the role of the service account, \
         or raise --cache-sync-timeout",
        kinds.join(", ")
    )
}

/// An error of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// All that is known, in one line.
    pub(super) message: String,
    /// The HTTP status, where the server gave one.
    pub(super) code: Option<u16>,
    /// Whether another connection, or other credentials, may help.
    pub(super) needs_connection: bool,
}

impl Trouble {
    /// A server that cannot be reached.
    pub(super) fn connection(message: String) -> Trouble {
        Trouble { message, code: None, needs_connection: true }
    }

    /// Whether this is how servers without streaming lists answer the request for one: they do not know the
    /// parameter (400, 422), or cannot serve the form (405, 406, 415).
    pub(super) fn refuses_streaming(&self) -> bool {
        matches!(self.code, Some(400 | 405 | 406 | 415 | 422))
    }

    /// What to do about it.
    pub(super) fn advice(&self, kind: Kind) -> String {
        match self.code {
            Some(401) => "the server does not accept our credentials: check the token or the kubeconfig".to_owned(),
            Some(403) => format!("let the service account get, list and watch {kind}s in its ClusterRole"),
            Some(404) => format!("the server does not know {kind}s: Kubernetes 1.21 or newer is needed"),
            Some(410) => "none, the list is read again".to_owned(),
            Some(429 | 500..) => "none, it is tried again".to_owned(),
            _ => "check that the API server can be reached from this node".to_owned(),
        }
    }
}

/// An error of `kube`'s watcher.
pub(super) fn of_watch(error: &watcher::Error) -> Trouble {
    match error {
        watcher::Error::InitialListFailed(source) => of_request("list", source),
        watcher::Error::WatchStartFailed(source) => of_request("watch", source),
        watcher::Error::WatchFailed(source) => of_request("read of the watch", source),
        watcher::Error::WatchError(status) => of_status("watch", status),
        watcher::Error::NoResourceVersion => Trouble {
            message: "the server sent an object without resource version".to_owned(),
            code: None,
            needs_connection: false,
        },
    }
}

/// An error of one request.
pub(super) fn of_request(what: &str, error: &kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) => of_status(what, status),
        other => Trouble {
            message: format!("{what}: {}", chain(other)),
            code: None,
            needs_connection: !matches!(other, kube::Error::SerdeError(_)),
        },
    }
}

fn of_status(what: &str, status: &kube::core::Status) -> Trouble {
    let reason = if status.reason.is_empty() { String::new() } else { format!(" {}", status.reason) };
    Trouble {
        message: format!("{what}: {}{reason}: {}", status.code, status.message),
        code: Some(status.code),
        needs_connection: status.code == 401,
    }
}

/// An error and what caused it, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
