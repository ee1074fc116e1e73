//! What the debug page may ask a room, and how the answer comes back.

use tokio::sync::oneshot;

use crate::model::ServiceKey;

/// Which of a room's pictures to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// What should be.
    Desired,
    /// What the kernel had when it was last read, with what was written since.
    Observed,
    /// The difference: what the next pass would do.
    Plan,
    /// Everything about one Service: where it is served, from which endpoints, what stands in the way.
    Service(ServiceKey),
}

impl View {
    /// What a question may look like.
    pub const QUESTIONS: &str = "desired, observed, plan or explain/service/NAMESPACE/NAME";

    /// The view of this name, as the debug page's address has it: one of [`View::QUESTIONS`].
    pub fn parse(name: &str) -> Option<View> {
        match name {
            "desired" => Some(View::Desired),
            "observed" => Some(View::Observed),
            "plan" => Some(View::Plan),
            _ => {
                let (namespace, name) = name.strip_prefix("explain/service/")?.split_once('/')?;
                let is_whole = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
                is_whole.then(|| View::Service(ServiceKey::new(namespace, name)))
            }
        }
    }
}

/// A question to a room, answered between two passes.
#[derive(Debug)]
pub struct Query {
    /// What to show.
    pub what: View,
    /// Where the text goes, in the operators' own language. Whoever asked may have gone.
    pub reply: oneshot::Sender<String>,
}
