//! What the app does with tasks that are in the queue: cancel, take up again, edit, discard, pause, resume.
//!
//! Every way out of the queue goes through the journal. Tests: `tests/lifecycle` of `landfall-testkit`.

use super::depend::makes;
use super::{Step, is_verdict, is_without_effect};
use crate::change::{Change, Intent, InvalidChange};
use crate::event::{Event, Origin};
use crate::failure::FailureKind;
use crate::id::{EntityKey, TaskId};
use crate::store::{Controls, StoreError, StoreTx};
use crate::task::{Standing, StateKind, Task, TaskState, Verdict};
use alloc::string::String;
use alloc::vec::Vec;

/// What became of the wish to cancel a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cancelled {
    /// It has left the queue, and nothing of it has taken effect.
    Done,
    /// It was sent, and nobody knows yet whether it took effect: the verdict decides. If it turns out not to have, it is
    /// cancelled.
    Requested,
}

/// What is paused or resumed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Everything.
    All,
    /// Records of one type.
    Type(String),
    /// One named lane.
    Lane(String),
}

/// Why a task cannot be treated like this. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// There is no such task, neither in the queue nor in the journal.
    #[error("there is no task {0} in the queue or in the journal")]
    NotFound(TaskId),
    /// It has left the queue.
    #[error("the task {task} has left the queue: {}", .verdict.as_str())]
    Ended {
        /// The task.
        task: TaskId,
        /// How it ended.
        verdict: Verdict,
    },
    /// It is in a state in which this cannot be done.
    #[error("the task is {}; {hint}", .state.as_str())]
    WrongState {
        /// Where it stands.
        state: StateKind,
        /// What can be done instead.
        hint: &'static str,
    },
    /// Later changes of the record build on it.
    #[error("later changes of the record build on it: cancel or discard {next} first")]
    HasFollowers {
        /// The first of them.
        next: TaskId,
    },
    /// The new content cannot be taken.
    #[error(transparent)]
    Invalid(#[from] InvalidChange),
    /// The new content is of another kind than the old.
    #[error("an edit keeps the operation: this task is a {0}")]
    OtherOperation(&'static str),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Step {
    /// Cancels a task. One that was never sent, or is proven not to have taken effect, leaves the queue at once; of
    /// another it is only a wish. On an error the caller rolls back.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn cancel(&mut self, tx: &mut dyn StoreTx, id: TaskId) -> Result<Cancelled, TaskError> {
        let task = find(tx, id)?;
        let wrong = |hint| Err(TaskError::WrongState { state: task.state.kind(), hint });
        match task.state {
            TaskState::Conflict => return wrong("settle the conflict: it can end with the backend's side"),
            TaskState::Dead { .. } => return wrong("discard the dead letter"),
            TaskState::InFlight { .. } | TaskState::Unknown { .. } | TaskState::Pending { .. } => {}
        }
        let members = self.with_group(tx, task.clone())?;
        // What was refused in words only for now did nothing yet, but a late copy of it may still arrive.
        if members.iter().any(is_without_effect) {
            for member in members.iter().filter(|member| makes(member)) {
                if let Some(next) = self.follower(tx, member)? {
                    return Err(TaskError::HasFollowers { next });
                }
            }
            self.give_up_together(tx, &task, Verdict::Cancelled)?;
            return Ok(Cancelled::Done);
        }
        for member in members {
            let standing = Standing { cancelling: true, ..member.standing };
            tx.put_task(&Task { standing, ..member })?;
        }
        self.emit(Event::CancelRequested { task: id });
        Ok(Cancelled::Requested)
    }

    /// The first later change of the record that makes no sense without `task`.
    fn follower(&mut self, tx: &dyn StoreTx, task: &Task) -> Result<Option<TaskId>, StoreError> {
        Ok(self.readable(tx.next_of_entity(&task.entity, task.seq))?.map(|next| next.id))
    }

    /// The task and the others of its group: what is done to one of a group is done to all of it.
    pub(super) fn with_group(&mut self, tx: &dyn StoreTx, task: Task) -> Result<Vec<Task>, StoreError> {
        match &task.terms.group {
            None => Ok(alloc::vec![task]),
            Some(group) => Ok(tx.tasks_of_group(group)?.tasks),
        }
    }

    /// Takes a dead letter up again and gives back the task that goes on: a new one with a new key if the backend has
    /// refused this very task, else the same with the same key and bytes. The dead of its group with it.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn requeue(&mut self, tx: &mut dyn StoreTx, id: TaskId) -> Result<TaskId, TaskError> {
        let task = dead(tx, id)?;
        let mut goes_on = id;
        for member in self.with_group(tx, task)? {
            if matches!(member.state, TaskState::Dead { .. }) {
                let (old, intent) = (member.id, member.intent.clone());
                let next = self.take_up(tx, member, intent)?;
                if old == id {
                    goes_on = next;
                }
            }
        }
        Ok(goes_on)
    }

    /// Takes a dead letter up again with other content, as a new task with a new key; a task that was never sent is
    /// changed in its place. The operation, and with an action its name, stay. Gives back the task that goes on.
    ///
    /// # Errors
    /// [`TaskError`]; a task that may have taken effect cannot be edited.
    pub fn edit(&mut self, tx: &mut dyn StoreTx, id: TaskId, intent: Intent) -> Result<TaskId, TaskError> {
        let task = find(tx, id)?;
        if intent.operation != task.intent.operation || intent.action != task.intent.action {
            return Err(TaskError::OtherOperation(task.intent.operation.as_str()));
        }
        let change = Change { intent, ..Change::of(task.intent.operation, task.entity.clone()) };
        change.check(&self.config.limits)?;
        let wrong = |hint| Err(TaskError::WrongState { state: task.state.kind(), hint });
        match task.state {
            // What was turned away for another reason than its content may still take effect as a late copy.
            TaskState::Dead { .. } if is_without_effect(&task) || is_unacceptable(&task) => {
                let next = self.take_up(tx, task.clone(), change.intent)?;
                self.look_anew(tx, &task.entity)?;
                Ok(next)
            }
            TaskState::Dead { .. } => {
                wrong("a copy of it may still take effect: take it up again as it is first")
            }
            TaskState::Pending { .. } if task.frozen.is_none() => {
                tx.put_task(&Task { intent: change.intent, ..task.clone() })?;
                self.look_anew(tx, &task.entity)?;
                Ok(id)
            }
            _ => wrong("what was sent is never changed: enqueue another change of the record"),
        }
    }

    /// A dead letter goes on with `intent`.
    fn take_up(
        &mut self,
        tx: &mut dyn StoreTx,
        mut task: Task,
        intent: Intent,
    ) -> Result<TaskId, StoreError> {
        self.stand_before_others(tx, &task)?;
        let refused = task.history.last().is_some_and(is_verdict);
        if task.frozen.is_some() && (refused || intent != task.intent) {
            // Its key stands for a refusal, which the backend would only repeat, or for another content.
            let mut entity = self.entity(tx, &task.entity)?;
            let next = self.renew(tx, &mut entity, &task, intent, Verdict::Requeued)?;
            tx.put_entity(&entity)?;
            return Ok(next);
        }
        let wall = self.now.wall;
        let next = match &task.frozen {
            Some(frozen) if frozen.open_sends > 0 => TaskState::Unknown { retry_at: wall },
            _ => TaskState::Pending { retry_at: None },
        };
        task.become_state(next);
        task.intent = intent;
        task.standing.passed_over = false;
        task.attempts = 0;
        tx.put_task(&task)?;
        self.make_claimable(tx, &task)?;
        self.emit(Event::Requeued { task: task.id, next: task.id });
        Ok(task.id)
    }

    /// Makes anew what the app sees of a record.
    pub(super) fn look_anew(&mut self, tx: &mut dyn StoreTx, key: &EntityKey) -> Result<(), StoreError> {
        let key = self.local_key(tx, key.clone())?;
        let Some(mut entity) = self.known_entity(tx, &key)? else { return Ok(()) };
        self.lay_over(tx, &mut entity, Origin::App)?;
        tx.put_entity(&entity)
    }

    /// Gives a dead letter up, and all of its group with it: it leaves the queue through the journal, and what the app
    /// sees of the record is without it.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn discard(&mut self, tx: &mut dyn StoreTx, id: TaskId) -> Result<(), TaskError> {
        let task = dead(tx, id)?;
        Ok(self.give_up_together(tx, &task, Verdict::Discarded)?)
    }

    /// Ends the backoff of a task: it is tried as soon as it may be sent at all.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn retry_now(&mut self, tx: &mut dyn StoreTx, id: TaskId) -> Result<(), TaskError> {
        let mut task = find(tx, id)?;
        let hint = match task.state {
            TaskState::Pending { .. } => {
                task.state = TaskState::Pending { retry_at: None };
                task.not_before = None;
                ""
            }
            TaskState::Unknown { .. } => {
                task.state = TaskState::Unknown { retry_at: self.now.wall };
                ""
            }
            TaskState::InFlight { .. } => "it is under way",
            TaskState::Conflict => "settle the conflict",
            TaskState::Dead { .. } => "take the dead letter up again",
        };
        if !hint.is_empty() {
            return Err(TaskError::WrongState { state: task.state.kind(), hint });
        }
        if task.claim_at.is_some() {
            task.claim_at = task.due();
        }
        tx.put_task(&task)?;
        if task.terms.group.is_some() && task.claim_at.take().is_some() {
            // The others may have had to wait for this one alone.
            self.make_claimable(tx, &task)?;
        }
        Ok(())
    }

    /// Gives up to `limit` tasks up, whatever their state: the app forgets this queue. Each leaves through the journal,
    /// with its payload. Gives back how many went; the caller repeats until none is left.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn abandon(&mut self, tx: &mut dyn StoreTx, limit: usize) -> Result<usize, StoreError> {
        let mut after = 0;
        loop {
            let page = tx.tasks_after(after, limit)?;
            for row in &page.damaged {
                tx.quarantine(row)?;
                after = after.max(row.seq);
            }
            for task in &page.tasks {
                self.end(tx, task, Verdict::Discarded, None, None)?;
            }
            // Damaged rows stay, and must not hide what is behind them.
            if !page.tasks.is_empty() || page.damaged.is_empty() {
                return Ok(page.tasks.len());
            }
        }
    }

    /// Nothing in `scope` is sent until it is resumed, also after a restart. What is under way is not called back.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn pause(&mut self, tx: &mut dyn StoreTx, scope: &Scope) -> Result<(), StoreError> {
        let mut controls = self.controls(tx)?.clone();
        let changed = match scope {
            Scope::All => !core::mem::replace(&mut controls.all, true),
            Scope::Type(name) => controls.types.insert(name.clone()),
            Scope::Lane(name) => controls.lanes.insert(name.clone()),
        };
        if changed { self.control(tx, controls) } else { Ok(()) }
    }

    /// What was paused goes on.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn resume(&mut self, tx: &mut dyn StoreTx, scope: &Scope) -> Result<(), StoreError> {
        let mut controls = self.controls(tx)?.clone();
        let changed = match scope {
            Scope::All => core::mem::replace(&mut controls.all, false),
            Scope::Type(name) => controls.types.remove(name),
            Scope::Lane(name) => controls.lanes.remove(name),
        };
        if !changed {
            return Ok(());
        }
        self.control(tx, controls)?;
        self.let_held_go(tx)
    }

    fn control(&mut self, tx: &mut dyn StoreTx, controls: Controls) -> Result<(), StoreError> {
        tx.put_controls(&controls)?;
        self.emit(Event::ControlsChanged(controls.clone()));
        self.controls = Some(controls);
        Ok(())
    }
}

/// Whether the backend has refused the request for its content, and so refuses every copy of it.
fn is_unacceptable(task: &Task) -> bool {
    let never_unanswered = task.frozen.as_ref().is_none_or(|frozen| frozen.open_sends == 0);
    let why = task.history.last().map(|note| note.kind);
    never_unanswered && matches!(why, Some(FailureKind::Rejected | FailureKind::TooLarge))
}

fn find(tx: &dyn StoreTx, id: TaskId) -> Result<Task, TaskError> {
    if let Some(task) = tx.task(id)? {
        return Ok(task);
    }
    match tx.journal(id)? {
        Some(entry) => Err(TaskError::Ended { task: id, verdict: entry.verdict }),
        None => Err(TaskError::NotFound(id)),
    }
}

fn dead(tx: &dyn StoreTx, id: TaskId) -> Result<Task, TaskError> {
    let task = find(tx, id)?;
    match task.state {
        TaskState::Dead { .. } => Ok(task),
        _ => Err(TaskError::WrongState { state: task.state.kind(), hint: "it is no dead letter" }),
    }
}
