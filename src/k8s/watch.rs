//! One task for each kind: list, watch, convert, hand on; back off and start over when that fails.
//!
//! Listing and watching is `kube::runtime::watcher`'s work: bookmarks, paging, resuming at a resource version, and a
//! new list when that version is gone. What is decided here: streaming lists where the server has them, how long to
//! wait for what, when to ask for another connection, and what to tell the operator.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::Api;
use kube::runtime::watcher::{self, Event as KubeEvent};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::Timings;
use super::api::ApiServer;
use super::cluster::Update;
use super::convert::{
    Context, Converted, Names, cluster_policy, endpoint_slice, namespace, network_policy, node, pod, service,
};
use super::delay::Delay;
use super::errors::{self, Trouble};
use super::status::WatchStatus;
use super::store::{Event, Key};
use crate::model::{
    ClusterNetworkPolicy, ClusterPolicyName, EndpointSlice, Namespace, NamespaceName, NetworkPolicy, Node, NodeName,
    Pod, PodKey, PolicyKey, Service, ServiceKey, SliceKey,
};

/// Bytes of one page of a list that we are ready to hold before its objects are reduced, roughly.
const PAGE_BYTES: u32 = 512 * 1024;
/// Objects of one page at most: what the API server's other clients ask for.
const PAGE_OBJECTS: u32 = 500;
/// Initial lists that may break off one after the other before streaming lists are taken for broken.
const BROKEN_STREAMS: u32 = 3;
/// Failures in a row before another way to the API server is looked for.
const FAILURES_BEFORE_RENEWAL: u32 = 3;

/// What arrived at one moment: no snapshot shows a part of it.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are single events, which a box would cost an allocation each"
)]
pub(super) enum News {
    /// The event of a watch.
    One(Update),
    /// The whole content of a folder. Its kinds speak of each other: endpoints without their pods would be drained
    /// with the wrong grace, a pod without its policies would be open.
    Folder(Vec<Update>),
}

/// News and when it arrived.
pub(super) type Stamped = (News, Instant);

/// A kind of API object that is watched.
pub(super) trait Watched:
    kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    type Key: Key<Id: Send> + Send;
    type Value: Send;
    /// What such an object takes on the wire, roughly, in bytes. Pods with their containers are by far the largest.
    const TYPICAL_BYTES: u32;
    /// Whether there are clusters that do not know the kind: then there is nothing of it, until they do.
    const OPTIONAL: bool = false;

    fn convert(&self, context: Context<'_>) -> Converted<<Self::Key as Key>::Id, Self::Key, Self::Value>;
    fn update(event: Event<Self::Key, Self::Value>) -> Update;
}

/// Ties an API type to its conversion and its place in an update.
macro_rules! watched {
    ($($api:ty => $convert:ident, $key:ty, $value:ty, $update:ident, $bytes:literal $(, $optional:literal)?;)*) => {$(
        impl Watched for $api {
            type Key = $key;
            type Value = $value;
            const TYPICAL_BYTES: u32 = $bytes;
            $(const OPTIONAL: bool = $optional;)?

            fn convert(&self, context: Context<'_>) -> Converted<<$key as Key>::Id, $key, $value> {
                $convert::convert(self, context)
            }

            fn update(event: Event<$key, $value>) -> Update {
                Update::$update(event)
            }
        }
    )*};
}

watched! {
    core::Service => service, ServiceKey, Service, Service, 1024;
    discovery::EndpointSlice => endpoint_slice, SliceKey, EndpointSlice, EndpointSlice, 4096;
    core::Node => node, NodeName, Node, Node, 10_240;
    core::Pod => pod, PodKey, Pod, Pod, 10_240;
    core::Namespace => namespace, NamespaceName, Namespace, Namespace, 1024;
    networking::NetworkPolicy => network_policy, PolicyKey, NetworkPolicy, NetworkPolicy, 2048;
    cluster_policy::ClusterNetworkPolicy =>
        cluster_policy, ClusterPolicyName, ClusterNetworkPolicy, ClusterNetworkPolicy, 4096, true;
}

/// What all watches share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) server: ApiServer,
    pub(super) own_node: NodeName,
    pub(super) names: Arc<Names>,
    pub(super) timings: Timings,
    /// Whether pods keep what policies look at.
    pub(super) policies: bool,
    /// Whether the server is still believed to offer streaming lists.
    pub(super) streaming: AtomicBool,
}

/// Which objects of a kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    pub(super) fields: Option<String>,
    pub(super) labels: Option<String>,
}

/// Why a stream of events is not followed any further.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Ask again from the start.
    StartOver,
    /// There is another connection: ask from the start by that one.
    Renewed,
    /// Nobody listens any more.
    Closed,
}

/// Watches one kind until nobody listens any more.
pub(super) async fn run<T: Watched>(
    shared: Arc<Shared>,
    selection: Selection,
    updates: mpsc::Sender<Stamped>,
    status: Arc<WatchStatus>,
) {
    let mut watch = Watch::<T> {
        shared: &shared,
        updates,
        status: &status,
        delay: Delay::new(shared.timings.first_delay, shared.timings.most_delay),
        epoch: 0,
        listing: true,
        begun: false,
        broken_streams: 0,
        known_absent: false,
        kind: std::marker::PhantomData,
    };
    loop {
        let (client, epoch) = shared.server.client().await;
        watch.epoch = epoch;
        if T::OPTIONAL && !watch.is_served(&client).await {
            if watch.updates.is_closed() {
                return;
            }
            continue;
        }
        let mut config = watcher::Config {
            field_selector: selection.fields.clone(),
            label_selector: selection.labels.clone(),
            ..watcher::Config::default().page_size((PAGE_BYTES / T::TYPICAL_BYTES).min(PAGE_OBJECTS))
        };
        if shared.streaming.load(Ordering::Relaxed) {
            config = config.streaming_lists();
        }
        let streaming = config.initial_list_strategy == watcher::InitialListStrategy::StreamingList;
        watch.listing = true;
        let events = pin!(watcher::watcher(Api::<T>::all(client), config));
        match watch.follow(events, streaming).await {
            End::StartOver | End::Renewed => {}
            End::Closed => return,
        }
    }
}

struct Watch<'a, T: Watched> {
    shared: &'a Shared,
    updates: mpsc::Sender<Stamped>,
    status: &'a WatchStatus,
    delay: Delay,
    /// The connection in use.
    epoch: u64,
    /// Whether an initial list is due or on its way.
    listing: bool,
    /// Whether a first initial list has begun.
    begun: bool,
    /// Initial lists that began and never ended, in a row.
    broken_streams: u32,
    /// It was told that the server does not know the kind.
    known_absent: bool,
    kind: std::marker::PhantomData<fn() -> T>,
}

impl<T: Watched> Watch<'_, T> {
    /// Follows one stream until it must be replaced.
    async fn follow(
        &mut self,
        mut events: std::pin::Pin<&mut impl Stream<Item = watcher::Result<KubeEvent<T>>>>,
        streaming: bool,
    ) -> End {
        // A server that takes the request but never sends anything, or never ends its streamed list, is found by
        // waiting. After the initial list silence is normal, and the watch's own time limit guards it.
        let mut began = false;
        loop {
            let patience = if self.listing {
                self.shared.timings.list_idle
            } else if self.delay.failures() > 0 {
                self.shared.timings.settled
            } else {
                Duration::MAX
            };
            let item = match timeout(patience, events.next()).await {
                Ok(Some(item)) => item,
                Ok(None) => return End::StartOver,
                Err(_) if !self.listing => {
                    self.well();
                    continue;
                }
                Err(_) if streaming && began => {
                    self.give_up_streaming("the streamed list does not end");
                    return End::StartOver;
                }
                Err(_) => {
                    let message = format!("no answer to the list request within {patience:?}");
                    let trouble = Trouble::connection(message);
                    self.trouble(&trouble).await;
                    return self.renew_or_start_over(&trouble).await;
                }
            };
            match item {
                Ok(event) => {
                    if matches!(event, KubeEvent::Init) {
                        began = true;
                        if self.broken_streams >= BROKEN_STREAMS && streaming {
                            self.give_up_streaming("streamed lists keep breaking off");
                            return End::StartOver;
                        }
                    }
                    began &= !matches!(event, KubeEvent::InitDone);
                    if !self.take(event).await {
                        return End::Closed;
                    }
                }
                Err(error) => {
                    began = false;
                    let trouble = errors::of_watch(&error);
                    if streaming && self.listing && trouble.refuses_streaming() {
                        self.give_up_streaming(&trouble.message);
                        return End::StartOver;
                    }
                    if T::OPTIONAL && trouble.code == Some(404) {
                        // The kind was taken away. A server of two minds about it is not asked in haste.
                        sleep(self.delay.failed()).await;
                        return End::StartOver;
                    }
                    let version_gone =
                        trouble.code == Some(410) && matches!(error, watcher::Error::WatchStartFailed(_));
                    self.trouble(&trouble).await;
                    match self.renew_or_start_over(&trouble).await {
                        // The watcher resumes, or lists again, by itself. Only when a new watch answers that the
                        // resource version is gone it would ask for that version for ever.
                        End::StartOver if !version_gone => {}
                        end => return end,
                    }
                }
            }
        }
    }

    /// Whether the server knows the kind, which costs no right to ask. Where it does not, there is nothing of it, and
    /// this returns when it is time to ask again.
    async fn is_served(&mut self, client: &kube::Client) -> bool {
        let group_version = T::api_version(&());
        let known = match client.list_api_group_resources(&group_version).await {
            Ok(list) => list.resources.iter().any(|resource| resource.name == T::plural(&())),
            Err(kube::Error::Api(status)) if status.code == 404 => false,
            Err(error) => {
                let trouble = errors::of_request("discovery", &error);
                self.trouble(&trouble).await;
                self.renew_or_start_over(&trouble).await;
                return false;
            }
        };
        if known {
            self.known_absent = false;
            return true;
        }
        self.well();
        if !self.known_absent {
            info!(kind = %self.status.kind, "the api server does not know the kind, which is looked for from time to time");
            self.known_absent = true;
        }
        for event in [Event::Init, Event::InitDone] {
            if self.updates.send((News::One(T::update(event)), Instant::now())).await.is_err() {
                return false;
            }
        }
        self.status.set_in_sync();
        tokio::select! {
            () = sleep(self.shared.timings.unknown_kind) => {}
            () = self.updates.closed() => {}
        }
        false
    }

    /// Hands one event on: false when nobody listens any more.
    async fn take(&mut self, event: KubeEvent<T>) -> bool {
        let context =
            Context { own_node: &self.shared.own_node, names: &self.shared.names, policies: self.shared.policies };
        let event = match event {
            KubeEvent::Init => {
                if std::mem::replace(&mut self.begun, true) {
                    self.status.note_restart();
                }
                self.listing = true;
                self.broken_streams = self.broken_streams.saturating_add(1);
                // A server that answers the request may still fail to serve the list: not a success yet.
                return self.updates.send((News::One(T::update(Event::Init)), Instant::now())).await.is_ok();
            }
            KubeEvent::InitApply(object) => Event::InitApply(object.convert(context)),
            KubeEvent::InitDone => {
                self.listing = false;
                self.broken_streams = 0;
                Event::InitDone
            }
            KubeEvent::Apply(object) => Event::Apply(object.convert(context)),
            KubeEvent::Delete(object) => Event::Delete(object.convert(context).id),
        };
        let done = matches!(event, Event::InitDone);
        let arrived = Instant::now();
        self.status.note_event();
        // Half a list is no success: one that breaks off again and again must not be asked for in haste.
        if !matches!(event, Event::InitApply(_)) {
            self.well();
        }
        if self.updates.send((News::One(T::update(event)), arrived)).await.is_err() {
            return false;
        }
        if done && !self.status.in_sync() {
            self.status.set_in_sync();
            info!(kind = %self.status.kind, took_ms = elapsed_ms(self.status), "watch in sync");
        }
        true
    }

    fn well(&mut self) {
        self.delay.succeeded();
        if let Some(reason) = self.status.note_well() {
            info!(kind = %self.status.kind, reason, "watch works again");
        }
    }

    /// Tells of an error once, and waits.
    async fn trouble(&mut self, trouble: &Trouble) {
        let delay = self.delay.failed();
        let retry_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        if self.status.note_error(&trouble.message) {
            let (reason, advice) = (&trouble.message, trouble.advice(self.status.kind));
            warn!(kind = %self.status.kind, reason, advice, retry_ms, "watch failed, the last known objects stay in force");
        } else {
            debug!(kind = %self.status.kind, reason = trouble.message, retry_ms, "watch failed again");
        }
        tokio::select! {
            () = sleep(delay) => {}
            () = self.updates.closed() => {}
        }
    }

    /// Looks for another way to the server after some failures in a row. One that was merely away is resumed, not
    /// listed again: a thousand nodes that list at once would put it down again.
    async fn renew_or_start_over(&self, trouble: &Trouble) -> End {
        if self.updates.is_closed() {
            return End::Closed;
        }
        if trouble.needs_connection && self.delay.failures() >= FAILURES_BEFORE_RENEWAL {
            let (_, epoch) = self.shared.server.renewed(self.epoch, trouble.code == Some(401)).await;
            if epoch != self.epoch {
                return End::Renewed;
            }
        }
        End::StartOver
    }

    fn give_up_streaming(&mut self, reason: &str) {
        self.broken_streams = 0;
        if self.shared.streaming.swap(false, Ordering::Relaxed) {
            info!(reason, "api server does not stream lists, paged lists are used from now on");
        }
    }
}

fn elapsed_ms(status: &WatchStatus) -> u64 {
    u64::try_from(status.age().as_millis()).unwrap_or(u64::MAX)
}
