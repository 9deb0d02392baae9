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

use crate::change::{Intent, Operation};
use crate::failure::FailureKind;
use crate::id::{EntityKey, Fence, Fingerprint, Generation, IdempotencyKey, TaskId, Version};
use crate::time::{Hlc, Timestamp};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
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
    /// What failed attempts met.
    pub history: History,
    /// How the app wants it sent.
    pub terms: Terms,
    /// Where it stands beside its state.
    pub standing: Standing,
}

/// How the app wants a task sent, beyond lane, priority and time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// After this moment it is not sent for the first time any more: it ends as [`Verdict::Expired`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The app's own words for finding it again.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// Not to be sent over a metered network.
    #[serde(skip_serializing_if = "is_false")]
    pub unmetered_only: bool,
    /// Rather not at all than twice: if its fate becomes unknown it is put before a person instead of sent again.
    #[serde(skip_serializing_if = "is_false")]
    pub at_most_once: bool,
    /// Tasks of one group are sent together or not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Earlier tasks that must have ended before this one may be sent. All of them are before it in the queue, so no
    /// circle can arise.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub waits_for: BTreeSet<TaskId>,
    /// What becomes of it when one of those is dead or given up.
    #[serde(skip_serializing_if = "Orphaned::is_default")]
    pub orphaned: Orphaned,
}

/// What becomes of a task when one that it waits for is dead or given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orphaned {
    /// It waits while the other is dead, and becomes a dead letter when the other is given up.
    #[default]
    Wait,
    /// It becomes a dead letter as soon as the other is dead.
    Fail,
    /// It goes on as if it had never waited.
    Detach,
}

impl Orphaned {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Wait, Self::Fail, Self::Detach];

    /// The word stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Fail => "fail",
            Self::Detach => "detach",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::Wait
    }
}

/// Where a task stands beside its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// A dead letter that later tasks of its lane do not wait for.
    pub passed_over: bool,
    /// Nothing is before it and its time has come, but it was set aside when it was claimed: its type or lane is paused,
    /// or the network is metered. It has no `claim_at`.
    pub held: bool,
    /// The app has asked to cancel it while nobody knew whether it had taken effect: the verdict decides.
    pub cancelling: bool,
}

/// What the failed attempts of a task met: the first one and the last ones.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(Vec<FailureNote>);

impl History {
    /// Most notes kept of one task: the first, which shows how it began, and the last 15.
    pub const MAX: usize = 16;

    /// Notes in the order in which they were made.
    pub fn notes(&self) -> &[FailureNote] {
        &self.0
    }

    /// The newest note.
    pub fn last(&self) -> Option<&FailureNote> {
        self.0.last()
    }

    /// Adds a note in the place of the last one, if that tells the same.
    pub fn renew(&mut self, note: FailureNote) {
        if self.0.last().is_some_and(|last| last.kind == note.kind) {
            self.0.pop();
        }
        self.push(note);
    }

    /// Adds a note; of too many the second oldest goes.
    pub fn push(&mut self, note: FailureNote) {
        if self.0.len() >= Self::MAX {
            self.0.remove(1);
        }
        self.0.push(note);
    }
}

impl FromIterator<FailureNote> for History {
    fn from_iter<I: IntoIterator<Item = FailureNote>>(notes: I) -> Self {
        let mut history = Self::default();
        notes.into_iter().for_each(|note| history.push(note));
        history
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(flag: &bool) -> bool {
    !*flag
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
            // What was refused meets another state of its record, and a person must decide.
            (Dead, Conflict) => true,
            // Taken up again although nobody knows whether it took effect: only ever with the same key and bytes.
            (Dead, Unknown) => true,
            (Conflict, Conflict) | (Dead, Dead) => true,
            (Pending, Unknown) => false,
            (Conflict, InFlight | Unknown | Dead) | (Dead, InFlight) => false,
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
        self.frozen.is_none()
            && matches!(self.state, TaskState::Pending { .. })
            && self.intent.operation != Operation::Action
            && self.terms.group.is_none()
    }

    /// What the last failed attempt met.
    pub fn last_failure(&self) -> Option<&FailureNote> {
        self.history.last()
    }

    /// Its place among the tasks that may be sent now: smaller goes first. A step of priority is worth
    /// [`PRIORITY_STEP`] places in the queue and no more, so that a task of low priority is overtaken by a bounded
    /// number of later ones and never starves. Age is counted in tasks, not in time: no clock can change the order (G12).
    pub fn rank(&self) -> i64 {
        let seq = i64::try_from(self.seq).unwrap_or(i64::MAX);
        seq.saturating_sub(i64::from(self.priority) * PRIORITY_STEP)
    }

    /// When it ends unsent: only while it waits and no byte of it may have left.
    pub fn lapses_at(&self) -> Option<Timestamp> {
        let unsent = self.frozen.as_ref().is_none_or(|frozen| frozen.sends == 0);
        let waits = matches!(self.state, TaskState::Pending { .. });
        self.terms.expires_at.filter(|_| unsent && waits)
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
        match self.state {
            TaskState::Pending { retry_at } => {
                Some(self.not_before.max(retry_at).unwrap_or(Timestamp::ALWAYS))
            }
            // It has left: the app's wish was granted, and a clock that went back since must not hide its fate.
            TaskState::Unknown { retry_at } => Some(retry_at),
            TaskState::InFlight { .. } | TaskState::Conflict | TaskState::Dead { .. } => None,
        }
    }
}

/// How many places in the queue one step of priority is worth.
pub const PRIORITY_STEP: i64 = 1_000;

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
    /// What the backend answered, cut to a bounded length, without credentials and without fields marked sensitive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
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
    /// The task that went on in its place, with a new key.
    pub became: Option<TaskId>,
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
    /// The app cancelled it before it took effect.
    Cancelled,
    /// Its time was over before it was sent.
    Expired,
    /// A dead letter that was taken up again: it went on as a new task with a new key.
    Requeued,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 11] = [
        Self::Applied,
        Self::Duplicate,
        Self::Annihilated,
        Self::NoChange,
        Self::ResolvedToRemote,
        Self::Rebased,
        Self::Discarded,
        Self::Forked,
        Self::Cancelled,
        Self::Expired,
        Self::Requeued,
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
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Requeued => "requeued",
        }
    }

    /// Whether the backend has the task's effect, or what it wanted was there already.
    pub const fn is_done(self) -> bool {
        matches!(
            self,
            Self::Applied | Self::Duplicate | Self::NoChange | Self::ResolvedToRemote | Self::Forked
        )
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

    #[test]
    fn every_word_that_is_stored_and_shown_is_one_of_its_own() {
        let words: Vec<&str> = Verdict::ALL.into_iter().map(Verdict::as_str).collect();
        assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), Verdict::ALL.len());
        let read = |word: &str| serde_json::from_str(&alloc::format!("\"{word}\"")).unwrap();
        let verdicts: Vec<Verdict> = words.into_iter().map(read).collect();
        assert_eq!(verdicts, Verdict::ALL, "the same word in a row, in JSON and on the screen");
        for orphaned in Orphaned::ALL {
            let word = alloc::format!("\"{}\"", orphaned.as_str());
            assert_eq!(serde_json::from_str::<Orphaned>(&word).unwrap(), orphaned, "{word}");
        }
    }

    #[test]
    fn terms_come_back_from_a_store_as_they_were() {
        for orphaned in Orphaned::ALL {
            let terms =
                Terms { orphaned, tags: ["tag".into()].into(), at_most_once: true, ..Terms::default() };
            let text = serde_json::to_string(&terms).unwrap();
            assert_eq!(serde_json::from_str::<Terms>(&text).unwrap(), terms, "{text}");
        }
        assert_eq!(serde_json::to_string(&Terms::default()).unwrap(), "{}", "most tasks have none");
    }

    #[test]
    fn of_many_failures_the_first_and_the_last_are_kept() {
        let note = |n: i64| FailureNote {
            kind: FailureKind::Transient,
            code: None,
            message: String::new(),
            answer: None,
            at: Timestamp(n),
        };
        let moments = |history: &History| history.notes().iter().map(|note| note.at.0).collect::<Vec<_>>();
        let mut history: History = (0..3).map(note).collect();
        assert_eq!(moments(&history), [0, 1, 2]);
        (3..40).for_each(|n| history.push(note(n)));
        assert_eq!(moments(&history)[0], 0);
        assert_eq!(moments(&history)[1..], (25..40).collect::<Vec<_>>());
        assert_eq!(moments(&history).len(), History::MAX);
        history.renew(note(99));
        assert_eq!((moments(&history).len(), history.last().unwrap().at.0), (History::MAX, 99));
        assert!(!moments(&history).contains(&39), "it told the same");
        history.renew(FailureNote { kind: FailureKind::Rejected, ..note(100) });
        assert_eq!(moments(&history)[History::MAX - 2..], [99, 100]);
    }
}
