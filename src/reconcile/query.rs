//! Questions an operator may ask a running room.

use tokio::sync::oneshot;

/// One question.
#[derive(Debug)]
pub struct Query {
    /// What is asked: `desired`, `observed`, `plan`, or `explain service NS/NAME`.
    pub what: String,
    /// Where the answer goes: text for people, or `None` when the room does not know the question.
    pub reply: oneshot::Sender<Option<String>>,
}
