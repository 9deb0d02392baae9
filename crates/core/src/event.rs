//! What happens, told as it happens: typed, without field values and without credentials.
//!
//! Events leave only after the commit that made them true. Tests: the simulator checks them against the store.

use crate::adapter::Outcome;
use crate::device::Constraint;
use crate::explain::Wait;
use crate::failure::FailureKind;
use crate::id::{CallId, ConflictId, EntityKey, TaskId, Version};
use crate::store::{Controls, Counts};
use crate::task::Verdict;
use alloc::string::String;
use alloc::vec::Vec;
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
        /// New tasks they made.
        tasks: u64,
        /// Changes folded into tasks that were never attempted.
        coalesced: u64,
        /// Creates undone by their deletes.
        annihilated: u64,
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
    /// A batch was answered, or its call has failed. Not told of a call that was given up, or of an answer that came a
    /// second time.
    SendFinished {
        /// The call.
        call: CallId,
        /// How many tasks it carried.
        tasks: usize,
        /// What the backend said of them, or why nothing is known of any.
        outcomes: Result<Outcomes, FailureKind>,
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
        /// How long ago the app made the oldest part of it, by the wall clock; never negative.
        age: Duration,
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
    /// What the app sees of a record has changed.
    Changed {
        /// The record.
        entity: EntityKey,
        /// Who changed it.
        origin: Origin,
    },
    /// A task met another version of its record and goes on as a new task.
    Rebased {
        /// The task.
        task: TaskId,
        /// Its record.
        entity: EntityKey,
        /// The task that goes on in its place.
        next: TaskId,
    },
    /// Both sides changed the same; what it was about is in the conflict record. Of one that waits it is told again when
    /// the backend's side moves.
    Conflicted {
        /// The conflict.
        conflict: ConflictId,
        /// The task that met it.
        task: TaskId,
        /// Its record.
        entity: EntityKey,
        /// Whether it waits for a decision; otherwise the rules have settled it.
        waits: bool,
        /// The strategy or policy in force, in its own word.
        rule: String,
        /// Whether it was told before: it waits, and the backend's side has moved.
        again: bool,
    },
    /// A conflict that waited is settled.
    Resolved {
        /// The conflict.
        conflict: ConflictId,
        /// Its record.
        entity: EntityKey,
        /// The task that sends the outcome, if there is anything to send.
        sent_as: Option<TaskId>,
    },
    /// The two sides of a conflict became two records.
    Forked {
        /// The record, which is now as the backend has it.
        from: EntityKey,
        /// The record that the local side became.
        to: EntityKey,
    },
    /// A page of the change feed was taken in.
    Pulled {
        /// How many changes it held.
        changes: u64,
        /// Whether another page follows.
        more: bool,
    },
    /// A remote record could not be taken in and is passed over.
    Quarantined {
        /// Which and why, without values of fields.
        reason: String,
    },
    /// Reading from the backend pauses.
    PullPaused {
        /// Why.
        why: FailureKind,
        /// For people.
        message: String,
        /// How long, if that is known.
        wait: Option<Duration>,
    },
    /// The change feed cannot be continued and is read from its beginning; pending work is kept.
    Reconciling,
    /// A task became a dead letter.
    Died {
        /// The task.
        task: TaskId,
        /// Its record.
        entity: EntityKey,
        /// Why.
        why: FailureKind,
    },
    /// A dead letter was taken up again.
    Requeued {
        /// The task.
        task: TaskId,
        /// The task that goes on in its place; the same when its key and bytes stay.
        next: TaskId,
    },
    /// The app has asked to cancel a task of which nobody knows yet whether it took effect.
    CancelRequested {
        /// The task.
        task: TaskId,
    },
    /// The backend gave a record another id than the app did.
    IdLearned {
        /// The record, by the app's id.
        entity: EntityKey,
        /// The backend's id.
        server_id: String,
    },
    /// What waits for a person has become more or less.
    NeedsAttention {
        /// Dead letters.
        dead: u64,
        /// Conflicts that wait for a decision.
        conflicts: u64,
    },
    /// The queue of another identity is open now.
    IdentitySwitched {
        /// Whose; `None` is the one for apps without accounts.
        identity: Option<String>,
    },
    /// What is paused has changed.
    ControlsChanged(Controls),
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
    /// How far the running session is: told after each step that ended tasks.
    Progress {
        /// Tasks that it has ended.
        done: u64,
        /// These, and those that are still to be sent.
        total: u64,
        /// Payload bytes that it has sent.
        bytes: u64,
    },
    /// Whether the device meets the conditions for running by itself has changed.
    ConditionsChanged {
        /// What it does not meet, if anything.
        unmet: Option<Constraint>,
    },
    /// Work that could be sent does not move.
    Stalled {
        /// The oldest of it.
        task: TaskId,
        /// How long nothing has ended.
        quiet_for: Duration,
        /// What the task waits for.
        waits_for: Vec<Wait>,
    },
    /// The wall clock has jumped, or the device has slept.
    ClockJumped {
        /// By how many milliseconds it went ahead of the monotonic clock.
        by_ms: i64,
    },
    /// A run of `sync` began.
    SessionStarted,
    /// A run of `sync` ended.
    SessionFinished(Report),
    /// Another holder drains the queue.
    LeaseLost,
}

/// What the backend said of the tasks of one call, each counted once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Outcomes {
    /// Took effect now.
    pub applied: u64,
    /// Had taken effect before.
    pub duplicates: u64,
    /// Met another version of their record.
    pub conflicts: u64,
    /// Refused for good.
    pub rejected: u64,
    /// Not now.
    pub postponed: u64,
    /// Nothing believable was said; they are sent again under the same keys.
    pub unanswered: u64,
}

impl Outcomes {
    /// Counts what was said of one task; `None` when the answer does not name it.
    pub const fn count(&mut self, outcome: Option<&Outcome>) {
        *match outcome {
            Some(Outcome::Applied(_)) => &mut self.applied,
            Some(Outcome::Duplicate(_)) => &mut self.duplicates,
            Some(Outcome::Conflict { .. }) => &mut self.conflicts,
            Some(Outcome::Rejected(_)) => &mut self.rejected,
            Some(Outcome::Retry { .. }) => &mut self.postponed,
            Some(Outcome::Unknown { .. }) | None => &mut self.unanswered,
        } += 1;
    }

    /// All of them.
    pub const fn total(&self) -> u64 {
        self.applied + self.duplicates + self.conflicts + self.rejected + self.postponed + self.unanswered
    }
}

/// What a stream of changes has made so far, instead of one event for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stream {
    pub(crate) tasks: u64,
    pub(crate) coalesced: u64,
    pub(crate) annihilated: u64,
}

impl Stream {
    pub(crate) const fn count(&mut self, event: &Event) {
        match event {
            Event::Enqueued { .. } => self.tasks += 1,
            Event::Coalesced { .. } => self.coalesced += 1,
            Event::Settled { verdict: Verdict::Annihilated, .. } => self.annihilated += 1,
            _ => {}
        }
    }
}

/// Who changed what the app sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The app, by a change or by settling a conflict.
    App,
    /// The backend, by what it sent or answered.
    Backend,
}

/// What one run of `sync` did and what it left.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// Tasks that took effect now.
    pub applied: u64,
    /// Tasks that had taken effect before and were confirmed now.
    pub duplicates: u64,
    /// Conflicts met, those that wait for a decision among them.
    pub conflicts: u64,
    /// Tasks that became dead letters.
    pub dead: u64,
    /// Tasks that turned out to change nothing.
    pub unchanged: u64,
    /// Tasks that ended unsent because their time was over.
    pub expired: u64,
    /// Tasks that were cancelled before they took effect.
    pub cancelled: u64,
    /// Attempts of tasks that ended without a verdict and will be repeated.
    pub retries: u64,
    /// Calls made.
    pub requests: u64,
    /// Payload bytes sent.
    pub bytes: u64,
    /// Changes of the backend that came in, our own that came back among them.
    pub pulled: u64,
    /// Pages of the change feed that were asked for.
    pub pages: u64,
    /// Remote records that could not be taken in.
    pub quarantined: u64,
    /// What is in the queue now.
    pub left: Counts,
    /// What the run had used up of its budget, if that ended it.
    pub exhausted: Option<Exhausted>,
    /// Why the run ended before the queue was empty, if it did.
    pub waiting_for: Option<String>,
    /// Why the run ended before everything was read from the backend, if it did.
    pub pull_waiting_for: Option<String>,
}

/// What a run has used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exhausted {
    /// Its time: another call would probably not have come back.
    Time,
    /// Its bytes: nothing that was next fitted into the rest.
    Bytes,
    /// Its tasks.
    Tasks,
}

impl Exhausted {
    pub(crate) const fn what_for(self) -> &'static str {
        match self {
            Self::Time => "the next run: the budget of time is used up",
            Self::Bytes => "the next run: the budget of bytes is used up",
            Self::Tasks => "the next run: the budget of tasks is used up",
        }
    }
}

impl Report {
    /// Whether nothing is left to send or to read, and nothing needs a person.
    pub const fn is_complete(&self) -> bool {
        self.left.total() == 0 && self.pull_waiting_for.is_none()
    }

    /// Whether something waits for a person or the app.
    pub const fn needs_attention(&self) -> bool {
        self.left.dead > 0 || self.left.conflict > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_whether_all_is_done_and_whether_somebody_is_needed() {
        let rows = [
            // dead, conflicts, pending, not read, is complete, needs attention
            (0, 0, 0, false, true, false),
            (1, 0, 0, false, false, true),
            (0, 1, 0, false, false, true),
            (0, 0, 1, false, false, false),
            (0, 0, 0, true, false, false),
        ];
        for (dead, conflict, pending, unread, complete, attention) in rows {
            let left = Counts { dead, conflict, pending, ..Counts::default() };
            let pull_waiting_for = unread.then(|| "the next run".into());
            let report = Report { left, pull_waiting_for, ..Report::default() };
            assert_eq!((report.is_complete(), report.needs_attention()), (complete, attention), "{report:?}");
        }
    }
}
