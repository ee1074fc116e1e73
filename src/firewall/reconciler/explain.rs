//! Answers for operators: the table as it should be, what the kernel has, what differs.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::Room;
use crate::firewall::explain::explain;
use crate::firewall::held::{held, held_tunnelled};
use crate::kernel::Error;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::filter::plan::{Observed, Transaction};
use crate::kernel::filter::{Elements, Name};
use crate::kernel::nft::{Nft, text};
use crate::kernel::rtnl::Rtnl;
use crate::kernel::sysctl::Sysctl;
use crate::reconcile::query::{PodQuestion, View};

impl<N: Nft, R: Rtnl, C: Conntrack, S: Sysctl> Room<N, R, C, S> {
    /// Answers a question.
    pub(super) fn explain(&mut self, what: &View) -> String {
        match what {
            View::Desired => {
                let mut text = text::render(&self.name, &self.table.whole(&self.book));
                for (name, beside) in self.wanted_beside() {
                    text.push_str(&text::render(&name, &beside));
                }
                text
            }
            View::Observed => {
                let observed = self.observe();
                let mut text = self.explain_observed(&self.name, observed);
                for (name, observed) in self.observe_beside() {
                    text.push_str(&self.explain_observed(&name, observed));
                }
                text
            }
            View::Plan => match self.difference() {
                Ok(all) if all.iter().all(Transaction::is_empty) => "nothing to do\n".to_owned(),
                Ok(all) => all.iter().map(Transaction::to_string).collect(),
                Err(error) => format!("# the table cannot be read: {error}\n"),
            },
            View::Findings => self.explain_findings(),
            View::Pod(question) => self.explain_pod(question),
            View::Service(_) | View::Route(..) | View::Peer(_) => {
                "the firewall knows policies and pods, not this: ask the room that does\n".to_owned()
            }
        }
    }

    /// The policies a pod is under and what they say, and whether the kernel holds it.
    fn explain_pod(&mut self, question: &PodQuestion) -> String {
        let Some(snapshot) = &self.last else { return "the cluster has not been read yet\n".to_owned() };
        let mut answer = explain(snapshot, &self.config, question);
        if self.book.pods().contains_key(&question.pod) {
            answer.kernel =
                self.held(&answer.addresses).unwrap_or_else(|error| vec![format!("the table cannot be read: {error}")]);
        } else if answer.unclear.is_none() {
            answer.kernel =
                vec![format!("its rules are on node {}: ask there whether its kernel holds them", answer.node)];
        }
        if !question.json {
            return answer.to_string();
        }
        serde_json::to_string_pretty(&answer).map_or_else(|error| error.to_string(), |text| text + "\n")
    }

    fn held(&mut self, addresses: &[IpAddr]) -> Result<Vec<String>, Error> {
        let (desired, observed) = (self.table.whole(&self.book), self.observe()?);
        let mut lines = held(addresses, &desired, observed.as_ref());
        let tunnelled: Vec<IpAddr> =
            addresses.iter().copied().filter(|address| self.table.judges_tunnelled(*address)).collect();
        if !tunnelled.is_empty() {
            lines.extend(match self.desired_tunnelled() {
                Some(beside) => held_tunnelled(&tunnelled, &beside, self.observe_tunnelled()?.as_ref()),
                None => held_tunnelled(&tunnelled, &desired, observed.as_ref()),
            });
        }
        Ok(lines)
    }

    /// Rules have no text when they are read back; what can be counted is.
    fn explain_observed(&self, name: &Name, observed: Result<Option<Observed>, Error>) -> String {
        let observed = match observed {
            Ok(Some(observed)) => observed,
            Ok(None) => return format!("no {}\n", self.kernel.nft.place(name)),
            Err(error) => return format!("# the table cannot be read: {error}\n"),
        };
        let mut text = format!("{}\n", self.kernel.nft.place(name));
        for (name, set) in &observed.sets {
            let n_elements = match &set.elements {
                Elements::Keys(keys) => keys.len(),
                Elements::Prefixes(prefixes) => prefixes.len(),
            };
            let _ = writeln!(text, "  set {name}: {n_elements} elements");
        }
        for (name, map) in &observed.maps {
            let _ = writeln!(text, "  map {name}: {} elements", map.elements.len());
        }
        for (name, chain) in &observed.chains {
            let foreign = chain.rules.iter().filter(|digest| digest.is_none()).count();
            let _ = write!(text, "  chain {name}: {} rules", chain.rules.len());
            text.push_str(&if foreign > 0 { format!(", {foreign} of them foreign\n") } else { "\n".to_owned() });
        }
        for what in &observed.unknown {
            let _ = writeln!(text, "  not ours: {what}");
        }
        text
    }

    fn explain_findings(&mut self) -> String {
        let mut text = String::new();
        let told = self
            .settings_notices
            .iter()
            .chain(&self.limits)
            .chain(&self.log_notice)
            .chain(&self.frames_notice)
            .chain(&self.notices)
            .chain(&self.unjudged);
        for notice in told {
            let _ = writeln!(text, "{}: {}: {}", notice.reason, notice.subject, notice.message);
        }
        for (refused, reason) in &self.withheld {
            let _ = writeln!(text, "PolicyRefused: {refused} allows nothing until the kernel takes it: {reason}");
        }
        match self.difference() {
            Ok(all) => {
                for name in all.iter().filter(|it| !it.is_empty()).filter_map(|it| it.table.as_ref()) {
                    let _ = writeln!(
                        text,
                        "TableDiffers: {} is not as it should be, because somebody else changed it or a write failed; it is \
                         repaired with the next pass",
                        self.kernel.nft.place(name)
                    );
                }
            }
            Err(error) => {
                let _ = writeln!(text, "TableUnreadable: {error}");
            }
        }
        text
    }
}
