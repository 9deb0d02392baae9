//! A task: one durable, queued change, and the states it passes through.
//!
//! ```text
//!              freeze                    applied, duplicate
//!   pending ──────────▶ in flight ───────────────────────────▶ journal
//!      ▲                 │ │ │ │
//!      │ not one byte    │ │ │ └ conflict that waits ─────────▶ conflict
//!      └─── left ────────┘ │ └── refused for good ────────────▶ dead
//!                          ▼
//!                       unknown ── same key, same bytes ──────▶ in flight
//! ```
//!
//! A pending task without frozen bytes was never attempted, or was proven not executed: only such a task may coalesce.
//! Tests: at the end of the file.

use crate::change::Intent;
use crate::failure::FailureKind;
use crate::id::{EntityKey, Fence, Fingerprint, Generation, IdempotencyKey, TaskId, Version};
use crate::time::{Hlc, Timestamp};
use alloc::string::String;
use alloc::sync::Arc;
use serde::{Deserialize, Serialize};

/// One durable, queued change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// Deterministic id, see [`TaskId::derive`].
    pub id: TaskId,
    /// Position in the queue: earlier is smaller. Internal to one store; never leaves the process.
    pub seq: u64,
    /// The record.
    pub entity: EntityKey,
    /// Which change of the record this is.
    pub generation: Generation,
    /// What is to be done.
    pub intent: Intent,
    /// Version of the app's payload format.
    pub schema: u32,
    /// The named lane, if the app gave one.
    pub lane: Option<String>,
    /// Higher goes first.
    pub priority: i32,
    /// The app's wish not to send it before this moment.
    pub not_before: Option<Timestamp>,
    /// When the app made the newest part of it.
    pub changed_at: Hlc,
    /// When the app made the oldest part of it.
    pub enqueued_at: Timestamp,
    /// Where it stands.
    pub state: TaskState,
    /// The bytes of its first attempt; `None` while it may still coalesce.
    pub frozen: Option<Frozen>,
    /// From when it may be claimed for sending; `None` while it waits for an earlier task or for a verdict.
    pub claim_at: Option<Timestamp>,
    /// Attempts that count against a limit.
    pub attempts: u32,
    /// How often a conflict sent it back.
    pub conflict_rounds: u32,
    /// What the last failed attempt met.
    pub last_failure: Option<FailureNote>,
}

/// Where a task stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskState {
    /// Waits to be sent; after a failed attempt, not before `retry_at`.
    Pending {
        /// The end of a backoff.
        retry_at: Option<Timestamp>,
    },
    /// Being sent by the lease holder with this fencing number.
    InFlight {
        /// Whose attempt it is.
        fence: Fence,
    },
    /// Sent, fate unknown; will be sent again with the same key and bytes, not before `retry_at`.
    Unknown {
        /// The end of a backoff.
        retry_at: Timestamp,
    },
    /// Waits in the conflict inbox.
    Conflict,
    /// Refused for good, or given up after too many attempts. Blocks its lane until somebody decides.
    Dead {
        /// Why.
        why: FailureKind,
    },
}

/// The name of a state without its data: what is stored, counted and shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// See [`TaskState::Pending`].
    Pending,
    /// See [`TaskState::InFlight`].
    InFlight,
    /// See [`TaskState::Unknown`].
    Unknown,
    /// See [`TaskState::Conflict`].
    Conflict,
    /// See [`TaskState::Dead`].
    Dead,
}

impl StateKind {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Pending, Self::InFlight, Self::Unknown, Self::Conflict, Self::Dead];

    /// The word stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InFlight => "in_flight",
            Self::Unknown => "unknown",
            Self::Conflict => "conflict",
            Self::Dead => "dead",
        }
    }

    /// The whole transition table: whether a stored task in this state may be stored in state `next`.
    pub const fn may_become(self, next: Self) -> bool {
        use StateKind::{Conflict, Dead, InFlight, Pending, Unknown};
        match (self, next) {
            // A waiting task is claimed, put off, coalesced, or put back by the app.
            (Pending, Pending | InFlight | Dead) => true,
            // A remote state came in over a change that was not sent yet, and a person must decide.
            (Pending, Conflict) => true,
            // A sent task comes back with a verdict, without one, or proven not executed; or changes hands.
            (InFlight, _) => true,
            // A task of unknown fate is only ever sent again, put off, or settled by a late verdict.
            (Unknown, InFlight | Unknown | Conflict | Dead) => true,
            (Unknown, Pending) => false,
            // A person or the app decides.
            (Conflict | Dead, Pending) => true,
            (Conflict, Conflict) | (Dead, Dead) => true,
            (Pending, Unknown) => false,
            (Conflict, InFlight | Unknown | Dead) | (Dead, InFlight | Unknown | Conflict) => false,
        }
    }
}

impl TaskState {
    /// The state's name.
    pub const fn kind(self) -> StateKind {
        match self {
            Self::Pending { .. } => StateKind::Pending,
            Self::InFlight { .. } => StateKind::InFlight,
            Self::Unknown { .. } => StateKind::Unknown,
            Self::Conflict => StateKind::Conflict,
            Self::Dead { .. } => StateKind::Dead,
        }
    }
}

impl Task {
    /// Whether the next change of the record may be folded into this task.
    pub fn may_coalesce(&self) -> bool {
        self.frozen.is_none() && matches!(self.state, TaskState::Pending { .. })
    }

    /// Moves to another state.
    ///
    /// # Panics
    /// In builds with debug assertions, when the transition table forbids it.
    pub fn become_state(&mut self, next: TaskState) {
        debug_assert!(
            self.state.kind().may_become(next.kind()),
            "{}: {:?} may not become {next:?}",
            self.id,
            self.state
        );
        self.state = next;
    }

    /// When the task may be claimed if nothing is before it: `None` for a state that waits for a verdict or a person.
    pub fn due(&self) -> Option<Timestamp> {
        let retry_at = match self.state {
            TaskState::Pending { retry_at } => retry_at,
            TaskState::Unknown { retry_at } => Some(retry_at),
            TaskState::InFlight { .. } | TaskState::Conflict | TaskState::Dead { .. } => return None,
        };
        Some(self.not_before.max(retry_at).unwrap_or(Timestamp::ALWAYS))
    }
}

/// What was fixed before the first byte left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frozen {
    /// The random name of these bytes.
    pub key: IdempotencyKey,
    /// The exact bytes.
    pub payload: Arc<str>,
    /// SHA-256 of `payload`.
    pub fingerprint: Fingerprint,
    /// The version of the record that the payload is based on.
    pub base_version: Option<Version>,
    /// How often bytes of it may have left this machine. At 0 the task may still melt.
    pub sends: u32,
    /// How many of those sends got no believable answer. Above 0 the fate is open.
    pub open_sends: u32,
}

/// What a failed attempt met, for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FailureNote {
    /// What happened.
    pub kind: FailureKind,
    /// The backend's word for programs, when it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The reason, cut to a bounded length, without field values.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// How a task ended: the record that stays when it leaves the queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalEntry {
    /// Which task.
    pub task_id: TaskId,
    /// The record.
    pub entity: EntityKey,
    /// Which change of the record it was.
    pub generation: Generation,
    /// How it ended.
    pub verdict: Verdict,
    /// The record's version after it, when the backend told.
    pub version: Option<Version>,
    /// When.
    pub at: Timestamp,
    /// What it carried: the frozen bytes, or the intent if it was never attempted.
    pub payload: Arc<str>,
}

/// How a task ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The backend applied it.
    Applied,
    /// The backend had already applied it.
    Duplicate,
    /// A create and its delete, neither ever sent.
    Annihilated,
    /// It would have changed nothing.
    NoChange,
    /// After a conflict nothing of it was left to send.
    ResolvedToRemote,
    /// After a conflict it went on as a new task with a new key.
    Rebased,
    /// The app gave it up.
    Discarded,
    /// Its side of a conflict became a record of its own.
    Forked,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 8] = [
        Self::Applied,
        Self::Duplicate,
        Self::Annihilated,
        Self::NoChange,
        Self::ResolvedToRemote,
        Self::Rebased,
        Self::Discarded,
        Self::Forked,
    ];

    /// The word stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Annihilated => "annihilated",
            Self::NoChange => "no_change",
            Self::ResolvedToRemote => "resolved_to_remote",
            Self::Rebased => "rebased",
            Self::Discarded => "discarded",
            Self::Forked => "forked",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_task_never_becomes_pending_again() {
        assert!(!StateKind::Unknown.may_become(StateKind::Pending));
    }

    #[test]
    fn only_a_waiting_or_unknown_task_is_sent() {
        for from in StateKind::ALL {
            let sendable = matches!(from, StateKind::Pending | StateKind::Unknown | StateKind::InFlight);
            assert_eq!(from.may_become(StateKind::InFlight), sendable, "{from:?}");
        }
    }
}
