//! How to ask the speaker: a channel into its task, and an answer for each question.
//!
//! The speaker answers from its own state in one go and never waits for whoever asked: long answers are [`Rows`] that do
//! their work while they are read, news come through a bounded channel which the speaker closes on a reader too slow.

use tokio::sync::{mpsc, oneshot};

use super::query::{
    Assignment, Command, DefinedSet, Destination, Direction, Done, Event, Global, PathQuery, PeerDetail, Policy,
    Refusal, Rows, SetKind, Table, TableInfo, Watch,
};
use crate::net::Family;

/// Where an answer goes.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// A question to the speaker.
pub enum Question {
    /// Who are you?
    Global(Answer<Global>),
    /// Peers: the one so named or all; whether to count what each is sent.
    Peers(Option<String>, bool, Answer<Rows<PeerDetail>>),
    /// Routes.
    Paths(PathQuery, Answer<Rows<Destination>>),
    /// The size of a table.
    Table(Table, Family, Answer<TableInfo>),
    /// What is assigned, to the peer so named or globally.
    Assignment(Option<String>, Direction, Answer<Assignment>),
    /// All policies.
    Policies(Answer<Vec<Policy>>),
    /// Named sets of one kind.
    Sets(SetKind, Answer<Vec<DefinedSet>>),
    /// Do something.
    Command(Command, Answer<Done>),
    /// News from now on.
    Watch(Watch, Answer<mpsc::Receiver<Event>>),
}

/// A way to the speaker. Clones lead to the same one.
#[derive(Clone, Debug)]
pub struct Handle {
    questions: mpsc::Sender<Question>,
}

impl Handle {
    /// A handle, and where the speaker finds what was asked through it.
    pub fn new() -> (Handle, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(64);
        (Handle { questions }, asked)
    }

    /// The speaker itself.
    ///
    /// # Errors
    /// When the speaker does not run.
    pub async fn global(&self) -> Result<Global, Refusal> {
        self.ask(Question::Global).await
    }

    /// Peers, in order of their addresses: the one so named (none where there is none) or all.
    ///
    /// # Errors
    /// When the speaker does not run.
    pub async fn peers(&self, name: Option<String>, advertised: bool) -> Result<Rows<PeerDetail>, Refusal> {
        self.ask(|answer| Question::Peers(name, advertised, answer)).await
    }

    /// Routes, in order of their prefixes.
    ///
    /// # Errors
    /// Where there is no such table.
    pub async fn paths(&self, query: PathQuery) -> Result<Rows<Destination>, Refusal> {
        self.ask(|answer| Question::Paths(query, answer)).await
    }

    /// The size of a table.
    ///
    /// # Errors
    /// Where there is no such table.
    pub async fn table(&self, table: Table, family: Family) -> Result<TableInfo, Refusal> {
        self.ask(|answer| Question::Table(table, family, answer)).await
    }

    /// The policies assigned to a peer, or globally.
    ///
    /// # Errors
    /// Where there is no such peer.
    pub async fn assignment(&self, peer: Option<String>, direction: Direction) -> Result<Assignment, Refusal> {
        self.ask(|answer| Question::Assignment(peer, direction, answer)).await
    }

    /// All policies.
    ///
    /// # Errors
    /// When the speaker does not run.
    pub async fn policies(&self) -> Result<Vec<Policy>, Refusal> {
        self.ask(Question::Policies).await
    }

    /// All named sets of a kind.
    ///
    /// # Errors
    /// When the speaker does not run.
    pub async fn sets(&self, kind: SetKind) -> Result<Vec<DefinedSet>, Refusal> {
        self.ask(|answer| Question::Sets(kind, answer)).await
    }

    /// Does something.
    ///
    /// # Errors
    /// Where it cannot be done, with the reason.
    pub async fn command(&self, command: Command) -> Result<Done, Refusal> {
        self.ask(|answer| Question::Command(command, answer)).await
    }

    /// News from now on. The channel ends when the speaker does, or when it was not read for long.
    ///
    /// # Errors
    /// Where there is nothing to watch so.
    pub async fn watch(&self, watch: Watch) -> Result<mpsc::Receiver<Event>, Refusal> {
        self.ask(|answer| Question::Watch(watch, answer)).await
    }

    async fn ask<T>(&self, question: impl FnOnce(Answer<T>) -> Question) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(question(answer)).await.map_err(|_| Refusal::Gone)?;
        answered.await.unwrap_or(Err(Refusal::Gone))
    }
}
