//! Code inside another network namespace: on a thread of its own, which dies with it.
//!
//! A thread that has changed namespace must never serve anybody else, and a socket stays in the namespace it was
//! opened in; so the usual thing to do inside is to open one and hand it back.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Why code could not run in another network namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace's file cannot be opened: the pod may be gone.
    #[error("network namespace {path}: cannot be opened", path = path.display())]
    Open {
        /// `/run/netns/NAME` or `/proc/PID/ns/net`.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no network namespace, or entering it is not allowed.
    #[error("network namespace {path}: cannot be entered; it takes CAP_SYS_ADMIN", path = path.display())]
    Enter {
        /// `/run/netns/NAME` or `/proc/PID/ns/net`.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A new namespace was refused.
    #[error("a new network namespace cannot be made; it takes CAP_SYS_ADMIN")]
    New(#[source] std::io::Error),
    /// No thread could be started.
    #[error("no thread for work in a network namespace")]
    Thread(#[source] std::io::Error),
}

/// Runs `work` inside the network namespace at `path` (`/run/netns/NAME`, `/proc/PID/ns/net`) and waits for it. The
/// calling thread stays where it is. A panic in `work` goes on in the caller.
///
/// # Errors
/// Where the namespace cannot be opened or entered (setns(2)); `work` has not run then.
pub fn run_in<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let file = File::open(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
    on_own_thread(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|source| Error::Enter { path: path.to_owned(), source: source.into() })?;
        Ok(work())
    })
}

/// Runs `work` inside a new, empty network namespace and waits for it. The namespace ends with `work`, unless a
/// socket or process keeps it.
///
/// # Errors
/// Where the namespace cannot be made (unshare(2)); `work` has not run then.
#[cfg(any(test, feature = "testing"))]
pub fn run_in_new<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    on_own_thread(|| {
        #[expect(deprecated, reason = "its danger is CLONE_FILES alone, which is not asked for here")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).map_err(|source| Error::New(source.into()))?;
        Ok(work())
    })
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let worker =
            thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work).map_err(Error::Thread)?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace_of_this_thread() -> PathBuf {
        std::fs::read_link("/proc/thread-self/ns/net").unwrap()
    }

    #[test]
    fn the_caller_stays_where_it_is() {
        let before = namespace_of_this_thread();
        let same = run_in(Path::new("/proc/thread-self/ns/net"), namespace_of_this_thread);
        match same {
            Ok(inside) => assert_eq!(inside, before),
            // Without the capability there is nothing to see but the reason.
            Err(error) => assert!(matches!(error, Error::Enter { .. }), "{error}"),
        }
        if let Ok(inside) = run_in_new(namespace_of_this_thread) {
            assert_ne!(inside, before);
        }
        assert_eq!(namespace_of_this_thread(), before);
    }

    #[test]
    fn errors_name_the_namespace() {
        let missing = run_in(Path::new("/run/netns/none-such"), || ()).unwrap_err();
        assert_eq!(missing.to_string(), "network namespace /run/netns/none-such: cannot be opened");
        let no_namespace = run_in(Path::new("/dev/null"), || ()).unwrap_err();
        assert!(matches!(no_namespace, Error::Enter { .. }));
    }
}
