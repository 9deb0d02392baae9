//! What can go wrong for the caller of the engine: local reasons only.

use landfall_core::conflict::ResolveError;
use landfall_core::id::TaskId;
use landfall_core::machine::{EnqueueError, RestoreError, TaskError};
use landfall_core::store::StoreError;

/// Why a call to the engine failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A change was not taken; nothing of it was stored.
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    /// A conflict cannot be settled like this; nothing was changed.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A task cannot be treated like this; nothing was changed.
    #[error(transparent)]
    Task(TaskError),
    /// Exported work cannot be taken in; nothing of it was stored.
    #[error(transparent)]
    Restore(RestoreError),
    /// Something is left to send, and nobody was logged out.
    #[error("{left} changes are not synced{}; log out with another policy, or try again", waits(.waiting_for))]
    LogoutRefused {
        /// How many tasks.
        left: u64,
        /// What they wait for, for people.
        waiting_for: Option<String>,
    },
    /// The store could not be read or written; nothing was half-stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk failed in the middle of a commit and could not be asked afterwards. Repeat the change with
    /// `Change::repeat_of` and this id: whatever the truth was, there will be one task.
    #[error(
        "the disk failed during the commit; whether the change was stored is unknown{}: {reason}",
        named(.task)
    )]
    OutcomeUnknown {
        /// The task that carries the change, if it was to become one.
        task: Option<TaskId>,
        /// What the disk said.
        reason: StoreError,
    },
    /// An item of the input could not be used; nothing of the input was stored.
    #[error("{0}")]
    Input(Box<dyn std::error::Error + Send + Sync>),
    /// The engine was closed, or its thread ended.
    #[error("the engine is closed")]
    Closed,
}

fn named(task: &Option<TaskId>) -> String {
    task.as_ref().map(|task| format!(" (task {task})")).unwrap_or_default()
}

fn waits(waiting_for: &Option<String>) -> String {
    waiting_for.as_ref().map(|what| format!(" (waiting for {what})")).unwrap_or_default()
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Store(error) => Self::Store(error),
            other => Self::Task(other),
        }
    }
}

impl From<RestoreError> for Error {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Store(error) => Self::Store(error),
            other => Self::Restore(other),
        }
    }
}
