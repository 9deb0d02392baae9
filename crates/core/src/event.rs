//! What happens, told as it happens: typed, without field values and without credentials.
//!
//! Events leave only after the commit that made them true. Tests: the simulator checks them against the store.

use crate::failure::FailureKind;
use crate::id::{CallId, EntityKey, TaskId, Version};
use crate::store::Counts;
use crate::task::Verdict;
use alloc::string::String;
use core::time::Duration;
use serde::Serialize;

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A change became a new task.
    Enqueued {
        /// The task.
        task: TaskId,
        /// Its record.
        entity: EntityKey,
    },
    /// A change was folded into a task that was never attempted.
    Coalesced {
        /// The task.
        task: TaskId,
    },
    /// A stream of changes was taken; none of them is told of by itself.
    Imported {
        /// How many.
        changes: u64,
    },
    /// A batch is on its way.
    SendStarted {
        /// The call.
        call: CallId,
        /// How many tasks it carries.
        tasks: usize,
        /// How many payload bytes.
        bytes: usize,
    },
    /// A task left the queue.
    Settled {
        /// The task.
        task: TaskId,
        /// Its record.
        entity: EntityKey,
        /// How it ended.
        verdict: Verdict,
        /// The record's version after it.
        version: Option<Version>,
    },
    /// A task will be sent again.
    RetryScheduled {
        /// The task.
        task: TaskId,
        /// What the last attempt met.
        kind: FailureKind,
        /// How long until then.
        wait: Duration,
    },
    /// A task met a conflict; what it was about is in the conflict records.
    Conflicted {
        /// The task.
        task: TaskId,
        /// Its record.
        entity: EntityKey,
        /// The task that goes on in its place, if one does.
        rebased_to: Option<TaskId>,
    },
    /// A task became a dead letter.
    Died {
        /// The task.
        task: TaskId,
        /// Its record.
        entity: EntityKey,
        /// Why.
        why: FailureKind,
    },
    /// Sending pauses for all tasks.
    GateClosed {
        /// Why.
        why: FailureKind,
        /// For people.
        message: String,
        /// How long, if that is known.
        wait: Option<Duration>,
    },
    /// Sending goes on.
    GateOpened,
    /// A stored row fails its checksum and was set apart.
    Damaged {
        /// What can be said of it.
        what: String,
    },
    /// A run of `sync` began.
    SessionStarted,
    /// A run of `sync` ended.
    SessionFinished(Report),
    /// Another holder drains the queue.
    LeaseLost,
}

/// What one run of `sync` did and what it left.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// Tasks that took effect now.
    pub applied: u64,
    /// Tasks that had taken effect before and were confirmed now.
    pub duplicates: u64,
    /// Conflicts met and resolved by rule.
    pub conflicts: u64,
    /// Tasks that became dead letters.
    pub dead: u64,
    /// Tasks that turned out to change nothing.
    pub unchanged: u64,
    /// Attempts of tasks that ended without a verdict and will be repeated.
    pub retries: u64,
    /// Calls made.
    pub requests: u64,
    /// Payload bytes sent.
    pub bytes: u64,
    /// What is in the queue now.
    pub left: Counts,
    /// Why the run ended before the queue was empty, if it did.
    pub waiting_for: Option<String>,
}

impl Report {
    /// Whether nothing is left to send and nothing needs a person.
    pub const fn is_complete(&self) -> bool {
        self.left.total() == 0
    }

    /// Whether something waits for a person or the app.
    pub const fn needs_attention(&self) -> bool {
        self.left.dead > 0 || self.left.conflict > 0
    }
}
