//! Taking a node out of traffic without losing a request (pure).
//!
//! Stages: announcements are tagged GRACEFUL_SHUTDOWN (RFC 8326), so that routers which know it move to other paths
//! while this one still works; after a wait the VIPs are withdrawn; after another wait, in which running packets
//! arrive, the node is drained. Pod prefixes stay, because pods that are still here must be reached, unless the
//! operator asks for all. A VIP that nobody else announces stays announced whatever the stage: a drain never takes the
//! last path away. It goes as soon as somebody else announces it.
//!
//! A node is drained for as long as one of its signals says so ([`wanted`]), and serves again at once when none does.
//! A daemon that starts while its node is to be drained does not announce VIPs first to withdraw them a moment later.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::{Node, NodeName, Notice, Severity, Subject};

/// The annotation of a node that is to be drained.
pub const ANNOTATION: &str = "ferrovia.dev/drain";
/// GRACEFUL_SHUTDOWN (RFC 8326): 65535:0.
pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
/// The taint of the cluster autoscaler on a node it is about to remove.
pub const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// What is withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// VIPs; pods stay reachable.
    Services,
    /// VIPs, and pod prefixes after them.
    All,
}

/// Something that says a node is to be drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// [`ANNOTATION`].
    Annotation,
    /// The kubelet says that the host is shutting down.
    Shutdown,
    /// One of the taints of [`Settings::taints`].
    Taint,
    /// `kubectl cordon`.
    Cordon,
    /// `ferrovia drain` on the node itself.
    Command,
    /// The host waits for us before it shuts down (`--shutdown-inhibit`).
    Host,
}

impl Signal {
    /// By its name in the flag.
    pub fn parse(text: &str) -> Option<Signal> {
        Some(match text {
            "annotation" => Signal::Annotation,
            "shutdown" => Signal::Shutdown,
            "taint" => Signal::Taint,
            "cordon" => Signal::Cordon,
            _ => return None,
        })
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Annotation => "the annotation ferrovia.dev/drain",
            Signal::Shutdown | Signal::Host => "the host is shutting down",
            Signal::Taint => "a taint",
            Signal::Cordon => "the node is cordoned",
            Signal::Command => "ferrovia drain",
        })
    }
}

/// When a node is drained, and how long its stages take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What counts (`--drain-signals`); the command always does.
    pub signals: BTreeSet<Signal>,
    /// Keys of taints that count.
    pub taints: BTreeSet<String>,
    /// How long announcements are tagged before VIPs are withdrawn (`--drain-tag-time`).
    pub tag: Duration,
    /// How long after that the node counts as drained (`--drain-settle-time`).
    pub settle: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            signals: BTreeSet::from([Signal::Annotation, Signal::Shutdown, Signal::Taint]),
            taints: BTreeSet::from([AUTOSCALER_TAINT.to_owned()]),
            tag: Duration::from_secs(5),
            settle: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// The same with stages that take no longer than this together, each its part of it.
    pub fn within(&self, budget: Duration) -> Settings {
        let whole = self.tag.saturating_add(self.settle);
        if whole <= budget {
            return self.clone();
        }
        let tag = self.tag.mul_f64(budget.as_secs_f64() / whole.as_secs_f64());
        Settings { tag, settle: budget.saturating_sub(tag), ..self.clone() }
    }
}

/// What is asked for on the node itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `ferrovia drain`.
    pub command: bool,
    /// The host shuts down, and waits for so long at most.
    pub shutdown: Option<Duration>,
}

impl Asked {
    /// The drain that is asked for.
    pub fn wanted(self) -> Option<Wanted> {
        let signal = if self.shutdown.is_some() { Signal::Host } else { Signal::Command };
        (self.command || self.shutdown.is_some()).then_some(Wanted { signal, scope: Scope::Services })
    }
}

/// Why a node is to be drained, and how far. Every node can tell it of every other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What says so.
    pub signal: Signal,
    /// What is withdrawn.
    pub scope: Scope,
}

/// Whether the object of a node asks for it to be drained.
pub fn wanted(node: &Node, settings: &Settings) -> Option<Wanted> {
    let annotation = node.annotations.get(ANNOTATION).and_then(|text| scope(text).ok().flatten());
    let holds = |signal: &Signal| match signal {
        Signal::Annotation => annotation.is_some(),
        Signal::Shutdown => node.shutting_down,
        Signal::Taint => node.taints.iter().any(|taint| settings.taints.contains(&**taint)),
        Signal::Cordon => node.unschedulable,
        Signal::Command | Signal::Host => false,
    };
    let signal = settings.signals.iter().copied().find(holds)?;
    Some(Wanted { signal, scope: annotation.unwrap_or(Scope::Services) })
}

/// The scope the annotation asks for; an error for a word that means nothing.
fn scope(text: &str) -> Result<Option<Scope>, ()> {
    match text.trim() {
        "true" | "services" | "" => Ok(Some(Scope::Services)),
        "all" => Ok(Some(Scope::All)),
        "false" => Ok(None),
        _ => Err(()),
    }
}

/// What the node's owner should know about its annotation.
pub fn notice(name: &NodeName, node: &Node) -> Option<Notice> {
    let text = node.annotations.get(ANNOTATION).filter(|text| scope(text).is_err())?;
    let message = format!("{ANNOTATION}: {text:?}: the node is not drained: use true, all or false");
    let (subject, severity) = (Subject::Node(name.clone()), Severity::Warning);
    Some(Notice { subject, severity, reason: "UnknownDrain", message })
}

/// How far a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Takes part in traffic.
    #[default]
    Serving,
    /// Its announcements are tagged since then.
    Tagged(Duration),
    /// Its VIPs are withdrawn since then.
    Withdrawn(Duration),
    /// Nothing new comes here any more.
    Drained,
}

/// One node's way out of traffic and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    stage: Stage,
    stepped: bool,
    /// The last step kept a VIP that nobody else announces.
    kept: bool,
}

/// How far a node is, for whoever looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One line.
    pub text: String,
    /// Nothing new comes here any more.
    pub drained: bool,
    /// The host goes: when the daemon ends now, it does not come back soon.
    pub leaving: bool,
}

/// What to announce now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Tag every announcement GRACEFUL_SHUTDOWN.
    pub tag: bool,
    /// VIPs not to be announced although this node serves them.
    pub withhold: BTreeSet<IpAddr>,
    /// VIPs that would be withheld, but nobody else announces them.
    pub kept: BTreeSet<IpAddr>,
    /// Pod prefixes are withheld, too.
    pub withhold_pods: bool,
    /// Decide again after this long, even if nothing happens.
    pub again_in: Option<Duration>,
}

impl Drain {
    /// Decides what to announce. `vips` are those this node would announce, `elsewhere` says whether another node goes
    /// on announcing one; `now` is the time since the daemon started.
    pub fn step(
        &mut self,
        wanted: Option<Wanted>,
        vips: &BTreeSet<IpAddr>,
        elsewhere: impl Fn(IpAddr) -> bool,
        settings: &Settings,
        now: Duration,
    ) -> Decision {
        let first = !std::mem::replace(&mut self.stepped, true);
        let Some(wanted) = wanted else {
            (self.stage, self.kept) = (Stage::Serving, false);
            return Decision::default();
        };
        self.stage = match self.stage {
            Stage::Serving if first => Stage::Withdrawn(now),
            Stage::Serving => Stage::Tagged(now),
            other => other,
        };
        if let Stage::Tagged(since) = self.stage
            && now.saturating_sub(since) >= settings.tag
        {
            self.stage = Stage::Withdrawn(now);
        }
        let mut decision = Decision { tag: true, ..Decision::default() };
        if let Stage::Tagged(since) = self.stage {
            decision.again_in = Some(left(since, settings.tag, now));
            return decision;
        }
        (decision.withhold, decision.kept) = vips.iter().partition(|vip| elsewhere(**vip));
        let keeps = !decision.kept.is_empty();
        // The wait begins when the last VIP has gone.
        if std::mem::replace(&mut self.kept, keeps) || keeps {
            self.stage = Stage::Withdrawn(now);
        }
        if let Stage::Withdrawn(since) = self.stage
            && !keeps
        {
            if now.saturating_sub(since) >= settings.settle {
                self.stage = Stage::Drained;
            } else {
                decision.again_in = Some(left(since, settings.settle, now));
            }
        }
        decision.withhold_pods = wanted.scope == Scope::All && self.stage == Stage::Drained;
        decision
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What to tell; `leaving` where the host goes.
    pub fn report(&self, wanted: Option<Wanted>, decision: &Decision, leaving: bool, now: Duration) -> Report {
        Report { text: self.describe(wanted, decision, now), drained: self.stage == Stage::Drained, leaving }
    }

    /// One line for the operator.
    pub fn describe(&self, wanted: Option<Wanted>, decision: &Decision, now: Duration) -> String {
        let since = |then: Duration| now.saturating_sub(then).as_secs();
        let why = wanted.map(|wanted| format!(" ({})", wanted.signal)).unwrap_or_default();
        let kept: Vec<String> = decision.kept.iter().map(IpAddr::to_string).collect();
        match self.stage {
            Stage::Serving => "serving".to_owned(),
            Stage::Tagged(then) => format!("draining{why}: announcements tagged for {} s", since(then)),
            Stage::Withdrawn(_) if !kept.is_empty() => {
                format!("draining{why}: still announced, because no other node does: {}", kept.join(", "))
            }
            Stage::Withdrawn(then) => format!("draining{why}: VIPs withdrawn for {} s", since(then)),
            Stage::Drained => format!("drained{why}"),
        }
    }
}

fn left(since: Duration, whole: Duration, now: Duration) -> Duration {
    whole.saturating_sub(now.saturating_sub(since))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::builders::ip;
    use proptest::prelude::*;

    const ASKED: Option<Wanted> = Some(Wanted { signal: Signal::Annotation, scope: Scope::Services });

    fn vips() -> BTreeSet<IpAddr> {
        ["203.0.113.1", "203.0.113.2"].map(ip).into_iter().collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A node that served for a while.
    fn serving() -> Drain {
        let mut drain = Drain::default();
        assert_eq!(drain.step(None, &vips(), |_| true, &Settings::default(), at(0)), Decision::default());
        drain
    }

    #[test]
    fn stages_follow_each_other_at_their_times() {
        let (mut drain, settings) = (serving(), Settings::default());
        let mut step = |now| drain.step(ASKED, &vips(), |_| true, &settings, at(now));
        let tagged = step(100);
        assert!(tagged.tag && tagged.withhold.is_empty());
        assert_eq!(tagged.again_in, Some(at(5)));
        assert_eq!(step(104).again_in, Some(at(1)));
        let withdrawn = step(105);
        assert_eq!((withdrawn.withhold.len(), withdrawn.again_in), (2, Some(at(10))));
        let drained = step(115);
        assert_eq!((drained.withhold.len(), drained.again_in), (2, None));
        assert_eq!(drain.stage(), Stage::Drained);
    }

    #[test]
    fn the_last_path_stays_until_there_is_another() {
        let (mut drain, settings) = (serving(), Settings::default());
        let only_here = |vip: IpAddr| vip != ip("203.0.113.2");
        let mut decision = Decision::default();
        for now in [100, 105, 200] {
            decision = drain.step(ASKED, &vips(), only_here, &settings, at(now));
        }
        assert_eq!(decision.kept, BTreeSet::from([ip("203.0.113.2")]));
        assert_eq!(decision.withhold, BTreeSet::from([ip("203.0.113.1")]));
        assert!(!drain.report(ASKED, &decision, false, at(200)).drained);
        assert!(drain.describe(ASKED, &decision, at(200)).ends_with("no other node does: 203.0.113.2"));
        let decision = drain.step(ASKED, &vips(), |_| true, &settings, at(300));
        assert_eq!((decision.withhold.len(), decision.again_in), (2, Some(at(10))), "the wait begins now");
        let _ = drain.step(ASKED, &vips(), |_| true, &settings, at(310));
        assert_eq!(drain.stage(), Stage::Drained);
        let decision = drain.step(ASKED, &vips(), only_here, &settings, at(320));
        assert_eq!(decision.kept.len(), 1, "the other node went: this one serves again");
        assert_ne!(drain.stage(), Stage::Drained);
    }

    #[test]
    fn pod_prefixes_go_last_and_only_when_asked() {
        let settings = Settings::default();
        for (scope, expected) in [(Scope::Services, false), (Scope::All, true)] {
            let mut drain = serving();
            let wanted = Some(Wanted { signal: Signal::Annotation, scope });
            for now in [100, 105] {
                assert!(!drain.step(wanted, &vips(), |_| true, &settings, at(now)).withhold_pods);
            }
            assert_eq!(drain.step(wanted, &vips(), |_| true, &settings, at(115)).withhold_pods, expected);
        }
    }

    #[test]
    fn a_node_serves_again_at_once() {
        let (mut drain, settings) = (serving(), Settings::default());
        for now in [100, 105, 115] {
            let _ = drain.step(ASKED, &vips(), |_| true, &settings, at(now));
        }
        assert_eq!(drain.step(None, &vips(), |_| true, &settings, at(120)), Decision::default());
        assert!(drain.step(ASKED, &vips(), |_| true, &settings, at(130)).withhold.is_empty(), "and begins anew");
    }

    #[test]
    fn a_daemon_that_starts_in_a_drain_does_not_announce_first() {
        let decision = Drain::default().step(ASKED, &vips(), |_| true, &Settings::default(), at(1));
        assert_eq!(decision.withhold, vips());
    }

    #[test]
    fn a_host_in_a_hurry_shortens_the_stages() {
        let settings = Settings::default();
        assert_eq!(settings.within(at(15)), settings);
        let short = settings.within(Duration::from_millis(4500));
        assert_eq!((short.tag, short.settle), (Duration::from_millis(1500), at(3)));
        let none = settings.within(Duration::ZERO);
        assert_eq!((none.tag, none.settle), (Duration::ZERO, Duration::ZERO));
        let mut drain = Drain::default();
        drain.step(None, &vips(), |_| true, &short, at(0));
        assert!(drain.step(ASKED, &vips(), |_| true, &short, at(1)).withhold.is_empty());
        assert_eq!(drain.step(ASKED, &vips(), |_| true, &short, Duration::from_millis(2500)).withhold, vips());
        drain.step(ASKED, &vips(), |_| true, &short, Duration::from_millis(5500));
        assert_eq!(drain.stage(), Stage::Drained);
    }

    #[test]
    fn the_node_itself_may_ask_for_a_drain() {
        let signal = |command, shutdown| Asked { command, shutdown }.wanted().map(|wanted| wanted.signal);
        assert_eq!(signal(false, None), None);
        assert_eq!(signal(true, None), Some(Signal::Command));
        assert_eq!(signal(false, Some(at(5))), Some(Signal::Host));
        assert_eq!(signal(true, Some(at(5))), Some(Signal::Host));
    }

    #[test]
    fn signals_count_as_configured() {
        let plain = Node::default();
        let annotated = |text: &str| Node {
            annotations: [(Arc::from(ANNOTATION), Arc::from(text))].into_iter().collect(),
            ..Node::default()
        };
        let tainted = |key: &str| Node { taints: BTreeSet::from([Arc::from(key)]), ..Node::default() };
        let cordoned = Node { unschedulable: true, ..Node::default() };
        let stopping = Node { shutting_down: true, ..Node::default() };
        let asked = |node: &Node| wanted(node, &Settings::default()).map(|wanted| (wanted.signal, wanted.scope));
        assert_eq!(asked(&plain), None);
        assert_eq!(asked(&annotated("true")), Some((Signal::Annotation, Scope::Services)));
        assert_eq!(asked(&annotated("all")), Some((Signal::Annotation, Scope::All)));
        assert_eq!(asked(&annotated("false")), None);
        assert_eq!(asked(&annotated("soon")), None);
        assert_eq!(notice(&NodeName::new("n1"), &annotated("soon")).map(|it| it.reason), Some("UnknownDrain"));
        assert_eq!(notice(&NodeName::new("n1"), &annotated("all")), None);
        assert_eq!(asked(&tainted(AUTOSCALER_TAINT)), Some((Signal::Taint, Scope::Services)));
        assert_eq!(asked(&tainted("other")), None);
        assert_eq!(asked(&stopping), Some((Signal::Shutdown, Scope::Services)));
        assert_eq!(asked(&cordoned), None, "people cordon for other reasons");
        let all = Settings { signals: BTreeSet::from([Signal::Cordon]), ..Settings::default() };
        assert_eq!(wanted(&cordoned, &all).map(|wanted| wanted.signal), Some(Signal::Cordon));
        assert_eq!(wanted(&annotated("true"), &all), None);
    }

    proptest! {
        #[test]
        fn no_vip_is_withheld_that_nobody_else_announces(
            steps in proptest::collection::vec((any::<bool>(), any::<[bool; 2]>(), 0..20u64), 1..30),
        ) {
            let (mut drain, mut now) = (Drain::default(), 0);
            for (asked, others, passed) in steps {
                now += passed;
                let elsewhere = |vip: IpAddr| if vip == ip("203.0.113.1") { others[0] } else { others[1] };
                let wanted = ASKED.filter(|_| asked);
                let decision = drain.step(wanted, &vips(), elsewhere, &Settings::default(), at(now));
                prop_assert!(decision.withhold.iter().all(|vip| elsewhere(*vip)));
                prop_assert!(asked || decision == Decision::default());
                prop_assert!(decision.withhold.is_disjoint(&decision.kept));
                prop_assert!(drain.stage() != Stage::Drained || decision.kept.is_empty());
            }
        }
    }
}
