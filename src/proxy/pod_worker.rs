//! Keeps the pods of direct server return configured, beside the room and never in its way (async, own thread).
//!
//! The room says which pods should be how, the newest word wins, and nobody waits for an answer: a container runtime
//! may take its time, while IPVS is programmed. One task for each pod asks the runtime for the pod's process, enters
//! its network, makes it right, and looks again now and then; what fails is tried again, more and more slowly, and
//! reported. A pod that is no longer wanted is released: its tunnel goes, if the pod is still there. (What an earlier
//! run of the daemon configured in a pod that is not wanted any more stays until the pod ends: nothing leads there.)

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::model::{Notice, PodKey, Severity, Subject};
use crate::reconcile::backoff::Backoff;

use super::cri::{self, Client};
use super::dsr::PodSetup;
use super::pods::{self, PodNetwork};

/// Calls to the runtime at a time: a node full of pods must not be a burst to it.
const MAX_CALLS: usize = 8;
/// A container that restarts is gone for a moment. So many failures of that kind go unreported.
const QUIET_FAILURES: u32 = 2;
/// How often a pod that is no longer wanted is tried to be released.
const RELEASE_TRIES: u32 = 3;

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Before the first retry; doubles from there.
    pub first_retry: Duration,
    /// Between retries at most.
    pub longest_retry: Duration,
    /// Between looks at a pod that was right.
    pub recheck: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            first_retry: Duration::from_secs(1),
            longest_retry: Duration::from_secs(60),
            recheck: Duration::from_secs(300),
        }
    }
}

/// How a wanted pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// It is as this says.
    Configured(PodSetup),
    /// It is not, and why.
    Failed {
        /// What it should be.
        setup: PodSetup,
        /// Why it is not.
        reason: String,
    },
}

/// The states of all pods that were tried so far and are still wanted.
pub type PodStates = BTreeMap<PodKey, PodState>;

/// Starts the worker's thread, which ends when `desired` has no sender any more; pods stay as they are then.
///
/// `desired` holds all pods that should be configured, the newest word counts. A pod that cannot be configured becomes
/// a notice for each of its Services when that begins, and when the reason changes. `socket` is the runtime's. Returns
/// the states, for whoever wants to show them.
///
/// # Errors
/// Where the thread or its runtime cannot be started.
pub fn spawn(
    socket: &Path,
    network: impl PodNetwork,
    timing: Timing,
    desired: watch::Receiver<Vec<PodSetup>>,
    notices: mpsc::UnboundedSender<Notice>,
) -> io::Result<watch::Receiver<PodStates>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = {
        let _inside = runtime.enter();
        Client::new(socket).map_err(io::Error::other)?
    };
    let (reports, states) = watch::channel(PodStates::new());
    let door = Arc::new(Door { client, network, calls: Semaphore::new(MAX_CALLS), timing, reports, notices });
    std::thread::Builder::new()
        .name("dsr-pods".to_owned())
        .spawn(move || runtime.block_on(supervise(desired, door)))?;
    Ok(states)
}

fn notices_of(pod: &PodKey, state: &PodState) -> Vec<Notice> {
    let PodState::Failed { setup, reason } = state else { return Vec::new() };
    let notice = |service: &_| Notice {
        subject: Subject::Service(Clone::clone(service)),
        severity: Severity::Warning,
        reason: "DsrUnavailable",
        message: format!("pod {pod} cannot take packets of direct server return: {reason}"),
    };
    setup.services.iter().map(notice).collect()
}

/// What every pod's task shares.
struct Door<N> {
    client: Client,
    network: N,
    calls: Semaphore,
    timing: Timing,
    reports: watch::Sender<PodStates>,
    notices: mpsc::UnboundedSender<Notice>,
}

/// Why a pod is not as it should be.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Runtime(#[from] cri::Error),
    #[error(transparent)]
    Pod(#[from] pods::Error),
}

impl Failure {
    /// The pod's container is not there.
    fn is_gone(&self) -> bool {
        matches!(self, Failure::Runtime(error) if error.is_gone())
    }
}

impl<N: PodNetwork> Door<N> {
    async fn configure(&self, setup: &PodSetup) -> Result<usize, Failure> {
        let pid = {
            // The semaphore is never closed; without a permit the call would still be right.
            let _permit = self.calls.acquire().await;
            self.client.process_of(&setup.container_id).await?
        };
        Ok(self.network.configure(pid, setup)?)
    }

    fn report(&self, pod: &PodKey, state: PodState) {
        let news = self.reports.send_if_modified(|states| {
            let differs = states.get(pod) != Some(&state);
            if differs {
                states.insert(pod.clone(), state.clone());
            }
            differs
        });
        if news {
            for notice in notices_of(pod, &state) {
                // Nobody listens any more only while the daemon ends.
                let _ = self.notices.send(notice);
            }
        }
    }

    fn forget(&self, pod: &PodKey) {
        self.reports.send_if_modified(|states| states.remove(pod).is_some());
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.timing.first_retry, self.timing.longest_retry)
    }
}

/// Keeps one task for each pod that is wanted or not yet released, until the worker is dropped.
async fn supervise<N: PodNetwork>(mut desired: watch::Receiver<Vec<PodSetup>>, door: Arc<Door<N>>) {
    let mut tasks = JoinSet::new();
    let mut pods: BTreeMap<PodKey, watch::Sender<Option<PodSetup>>> = BTreeMap::new();
    let mut introduced = false;
    loop {
        let wanted: BTreeMap<PodKey, PodSetup> =
            desired.borrow_and_update().iter().map(|setup| (setup.pod.clone(), setup.clone())).collect();
        if !introduced && !wanted.is_empty() {
            introduced = true;
            tasks.spawn(introduce(door.clone()));
        }
        // A released pod's task has ended. All tasks run on this thread: none ends between here and the sends below.
        pods.retain(|_, pod| !pod.is_closed());
        for (_, pod) in pods.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
            tell(pod, None);
        }
        for (key, setup) in wanted {
            match pods.get(&key) {
                Some(pod) => tell(pod, Some(setup)),
                None => {
                    let (pod, wanted) = watch::channel(Some(setup));
                    tasks.spawn(keep(key.clone(), wanted, door.clone()));
                    pods.insert(key, pod);
                }
            }
        }
        while tasks.try_join_next().is_some() {}
        if desired.changed().await.is_err() {
            return;
        }
    }
}

fn tell(pod: &watch::Sender<Option<PodSetup>>, setup: Option<PodSetup>) {
    pod.send_if_modified(|current| {
        let differs = *current != setup;
        *current = setup;
        differs
    });
}

/// Says once which runtime this is, or that there is none.
async fn introduce<N: PodNetwork>(door: Arc<Door<N>>) {
    match door.client.version().await {
        Ok(version) => tracing::info!(runtime = %version.name, version = %version.version, "container runtime found"),
        Err(error) => tracing::warn!(reason = %error, "container runtime not available"),
    }
}

/// Keeps one pod as it should be, and releases it in the end.
async fn keep<N: PodNetwork>(pod: PodKey, mut desired: watch::Receiver<Option<PodSetup>>, door: Arc<Door<N>>) {
    let mut backoff = door.backoff();
    let mut failures = 0;
    let mut touched = None;
    loop {
        let wanted = desired.borrow_and_update().clone();
        let wait = match wanted {
            None => {
                door.forget(&pod);
                if release(&pod, &mut touched, failures, &door).await {
                    if desired.has_changed().unwrap_or(false) {
                        continue;
                    }
                    return;
                }
                failures += 1;
                backoff.failed()
            }
            Some(setup) => {
                let result = door.configure(&setup).await;
                touched = Some(setup.clone());
                match result {
                    Ok(writes) => {
                        tracing::debug!(%pod, n_ops = writes, "pod configured for direct server return");
                        backoff.succeeded();
                        failures = 0;
                        door.report(&pod, PodState::Configured(setup));
                        door.timing.recheck
                    }
                    Err(failure) => {
                        failures += 1;
                        if !failure.is_gone() || failures > QUIET_FAILURES {
                            let reason = cri::chain(&failure);
                            door.report(&pod, PodState::Failed { setup, reason });
                        }
                        backoff.failed()
                    }
                }
            }
        };
        tokio::select! {
            changed = desired.changed() => {
                if changed.is_err() {
                    return;
                }
                backoff.succeeded();
                failures = 0;
            }
            () = sleep(wait) => {}
        }
    }
}

/// Takes the tunnel out of a pod that may have been configured. False when it should be tried again.
async fn release<N: PodNetwork>(pod: &PodKey, touched: &mut Option<PodSetup>, failures: u32, door: &Door<N>) -> bool {
    let Some(mut setup) = touched.clone() else { return true };
    setup.vips.clear();
    match door.configure(&setup).await {
        Err(failure) if !failure.is_gone() && failures + 1 < RELEASE_TRIES => return false,
        Err(failure) => {
            tracing::debug!(%pod, reason = cri::chain(&failure), "pod not released from direct server return")
        }
        Ok(writes) => tracing::debug!(%pod, n_ops = writes, "pod released from direct server return"),
    }
    *touched = None;
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;
    use std::sync::Mutex;

    use super::*;
    use crate::model::ServiceKey;
    use crate::proxy::fake_runtime::{FakeContainer, FakeRuntime};

    const DEADLINE: Duration = Duration::from_secs(20);
    const TIMING: Timing = Timing {
        first_retry: Duration::from_millis(2),
        longest_retry: Duration::from_millis(20),
        recheck: Duration::from_secs(3600),
    };

    /// What each process's network was last made to be, and which processes cannot be entered.
    #[derive(Clone, Default)]
    struct Networks(Arc<Mutex<Known>>);

    #[derive(Default)]
    struct Known {
        vips: BTreeMap<u32, BTreeSet<IpAddr>>,
        shut: BTreeSet<u32>,
    }

    impl Networks {
        fn of(&self, pid: u32) -> Option<BTreeSet<IpAddr>> {
            self.0.lock().unwrap().vips.get(&pid).cloned()
        }

        fn shut(&self, pid: u32, shut: bool) {
            let closed = &mut self.0.lock().unwrap().shut;
            if shut {
                closed.insert(pid)
            } else {
                closed.remove(&pid)
            };
        }
    }

    impl PodNetwork for Networks {
        fn configure(&self, pid: u32, setup: &PodSetup) -> Result<usize, pods::Error> {
            let mut networks = self.0.lock().unwrap();
            if networks.shut.contains(&pid) {
                return Err(pods::Error::NotThePod { pid, pod: setup.pod.to_string() });
            }
            let before = networks.vips.insert(pid, setup.vips.clone());
            Ok(usize::from(before.as_ref() != Some(&setup.vips)))
        }
    }

    struct Stage {
        _folder: tempfile::TempDir,
        socket: std::path::PathBuf,
        networks: Networks,
        desired: watch::Sender<Vec<PodSetup>>,
        states: watch::Receiver<PodStates>,
        notices: mpsc::UnboundedReceiver<Notice>,
    }

    fn stage(timing: Timing) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("cri.sock");
        let networks = Networks::default();
        let (desired, wanted) = watch::channel(Vec::new());
        let (tell, notices) = mpsc::unbounded_channel();
        let states = spawn(&socket, networks.clone(), timing, wanted, tell).unwrap();
        Stage { _folder: folder, socket, networks, desired, states, notices }
    }

    impl Stage {
        fn set<const N: usize>(&self, setups: [&PodSetup; N]) {
            self.desired.send_replace(setups.map(PodSetup::clone).to_vec());
        }

        async fn wait_for(&self, wanted: impl FnMut(&PodStates) -> bool) {
            let mut states = self.states.clone();
            let found = tokio::time::timeout(DEADLINE, states.wait_for(wanted)).await.map(|found| found.is_ok());
            assert_eq!(found, Ok(true), "last states: {:?}", self.states.borrow());
        }

        /// The notices so far.
        fn told(&mut self) -> Vec<Notice> {
            std::iter::from_fn(|| self.notices.try_recv().ok()).collect()
        }
    }

    fn key(pod: &str) -> PodKey {
        PodKey::new("default", pod)
    }

    fn setup(pod: &str, container: &str, vips: &[&str]) -> PodSetup {
        PodSetup {
            pod: key(pod),
            container_id: Arc::from(format!("containerd://{container}")),
            addresses: vec!["10.1.0.2".parse().unwrap()],
            vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
            services: BTreeSet::from([ServiceKey::new("default", "web")]),
        }
    }

    fn configured(setup: &PodSetup) -> impl FnMut(&PodStates) -> bool {
        move |states| states.get(&setup.pod) == Some(&PodState::Configured(setup.clone()))
    }

    fn failed(pod: &str, words: &str) -> impl FnMut(&PodStates) -> bool {
        move |states| matches!(states.get(&key(pod)), Some(PodState::Failed { reason, .. }) if reason.contains(words))
    }

    async fn poll(mut done: impl FnMut() -> bool) {
        let end = tokio::time::Instant::now() + DEADLINE;
        while !done() {
            assert!(tokio::time::Instant::now() < end, "did not come to pass");
            sleep(Duration::from_millis(2)).await;
        }
    }

    #[tokio::test]
    async fn configures_follows_and_releases_pods() {
        let mut stage = stage(TIMING);
        let runtime = FakeRuntime::start(&stage.socket).unwrap();
        runtime.set("a", FakeContainer::Running(11));
        runtime.set("b", FakeContainer::Running(12));
        let (a, b) = (setup("a", "a", &["10.255.0.1"]), setup("b", "b", &["10.255.0.1"]));
        stage.set([&a, &b]);
        stage.wait_for(configured(&a)).await;
        stage.wait_for(configured(&b)).await;
        assert_eq!(stage.networks.of(11), Some(a.vips.clone()));

        let more = setup("a", "a", &["10.255.0.1", "10.255.0.2"]);
        stage.set([&more, &b]);
        stage.wait_for(configured(&more)).await;
        assert_eq!(stage.networks.of(11), Some(more.vips.clone()));
        assert_eq!(stage.networks.of(12), Some(b.vips.clone()));

        stage.set([&b]);
        stage.wait_for(|states| !states.contains_key(&key("a"))).await;
        poll(|| stage.networks.of(11) == Some(BTreeSet::new())).await;
        assert_eq!(stage.networks.of(12), Some(b.vips.clone()));

        stage.set([&a, &b]);
        stage.wait_for(configured(&a)).await;
        poll(|| stage.networks.of(11) == Some(a.vips.clone())).await;
        assert_eq!(stage.told(), vec![]);
    }

    #[tokio::test]
    async fn an_absent_runtime_is_reported_to_each_service_and_found_later() {
        let mut stage = stage(TIMING);
        let mut pod = setup("a", "a", &["10.255.0.1"]);
        pod.services.insert(ServiceKey::new("default", "api"));
        stage.set([&pod]);
        stage.wait_for(failed("a", "--runtime-endpoint")).await;
        let mut notices = Vec::new();
        for _ in 0..2 {
            notices.push(tokio::time::timeout(DEADLINE, stage.notices.recv()).await.unwrap().unwrap());
        }
        let subjects: Vec<String> = notices.iter().map(|notice| notice.subject.to_string()).collect();
        assert_eq!(subjects, ["service default/api", "service default/web"]);
        assert!(notices.iter().all(|notice| notice.reason == "DsrUnavailable" && notice.message.contains("default/a")));
        let runtime = FakeRuntime::start(&stage.socket).unwrap();
        runtime.set("a", FakeContainer::Running(11));
        stage.wait_for(configured(&pod)).await;
        assert_eq!(stage.told(), vec![]);
    }

    #[tokio::test]
    async fn a_pod_that_cannot_be_entered_holds_up_nobody() {
        let stage = stage(TIMING);
        let runtime = FakeRuntime::start(&stage.socket).unwrap();
        runtime.set("a", FakeContainer::Running(11));
        runtime.set("b", FakeContainer::Silent);
        runtime.set("c", FakeContainer::Running(13));
        stage.networks.shut(11, true);
        let setups = ["a", "b", "c"].map(|pod| setup(pod, pod, &["10.255.0.1"]));
        stage.set(setups.each_ref());
        stage.wait_for(failed("a", "hostPID")).await;
        stage.wait_for(configured(&setups[2])).await;
        stage.networks.shut(11, false);
        stage.wait_for(configured(&setups[0])).await;
        assert!(!stage.states.borrow().contains_key(&key("b")));
    }

    #[tokio::test]
    async fn a_container_that_restarts_is_found_under_its_new_id() {
        let stage = stage(TIMING);
        let runtime = FakeRuntime::start(&stage.socket).unwrap();
        runtime.set("old", FakeContainer::Exited);
        runtime.set("new", FakeContainer::Running(22));
        stage.set([&setup("a", "old", &["10.255.0.1"])]);
        stage.wait_for(failed("a", "exited")).await;
        // A short absence is not worth a word: the first report came after several tries.
        assert!(runtime.calls().len() > QUIET_FAILURES as usize, "{:?}", runtime.calls());
        let new = setup("a", "new", &["10.255.0.1"]);
        stage.set([&new]);
        stage.wait_for(configured(&new)).await;
    }

    #[tokio::test]
    async fn looks_again_at_pods_that_were_right() {
        let stage = stage(Timing { recheck: Duration::from_millis(5), ..TIMING });
        let runtime = FakeRuntime::start(&stage.socket).unwrap();
        runtime.set("a", FakeContainer::Running(11));
        let pod = setup("a", "a", &["10.255.0.1"]);
        stage.set([&pod]);
        stage.wait_for(configured(&pod)).await;
        stage.networks.0.lock().unwrap().vips.clear();
        poll(|| stage.networks.of(11) == Some(pod.vips.clone())).await;
    }

    #[tokio::test]
    async fn a_pod_that_ended_is_let_go_without_a_word() {
        let stage = stage(TIMING);
        let runtime = FakeRuntime::start(&stage.socket).unwrap();
        runtime.set("a", FakeContainer::Running(11));
        let pod = setup("a", "a", &["10.255.0.1"]);
        stage.set([&pod]);
        stage.wait_for(configured(&pod)).await;
        let before = runtime.calls().len();
        runtime.remove("a");
        stage.set([]);
        poll(|| runtime.calls().len() == before + 1).await;
        assert!(stage.states.borrow().is_empty());
        assert_eq!(stage.networks.of(11), Some(pod.vips.clone()), "nothing was written to a process of that number");
        // A pod of the same name is a new one.
        runtime.set("z", FakeContainer::Running(33));
        let next = setup("a", "z", &["10.255.0.9"]);
        stage.set([&next]);
        stage.wait_for(configured(&next)).await;
    }
}
