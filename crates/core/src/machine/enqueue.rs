//! Taking a change: checks, coalescing, a new task, the local view. One transaction, or nothing.
//!
//! Fails only for local reasons; trouble with the backend never reaches the app here. Tests:
//! `tests/machine.rs` and the simulator of `landfall-testkit`.

use super::Step;
use crate::change::{Change, InvalidChange};
use crate::coalesce::{Coalesced, Contradiction, admit, coalesce};
use crate::entity::StoredEntity;
use crate::event::{Event, Origin};
use crate::id::TaskId;
use crate::patch;
use crate::store::{StoreError, StoreTx};
use crate::task::{Task, TaskState, Verdict};

/// What became of a change that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The task that carries it; `None` when there was nothing to carry.
    pub task: Option<TaskId>,
    /// How.
    pub outcome: Enqueued,
}

/// How a change was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enqueued {
    /// As a new task.
    New,
    /// Folded into a task that was never attempted.
    Coalesced,
    /// Together with the create it undoes: neither will be sent.
    Annihilated,
    /// The record already is as the change wants it.
    NoChange,
    /// It is the repetition of a change that had been stored after all.
    Repeated,
}

/// Why a change was not taken. Nothing of it was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// It cannot be taken as it stands.
    #[error(transparent)]
    Invalid(#[from] InvalidChange),
    /// It contradicts what is queued or known of the record.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Step {
    /// Stores one change. On an error the caller rolls back to a savepoint taken before.
    ///
    /// # Errors
    /// [`EnqueueError`].
    pub fn enqueue(&mut self, tx: &mut dyn StoreTx, change: Change) -> Result<Receipt, EnqueueError> {
        change.check(&self.config.limits)?;
        if let Some(receipt) = self.already_stored(tx, &change)? {
            return Ok(receipt);
        }
        let mut entity = self.entity(tx, &change.entity)?;
        let tail = tx.last_of_entity(&change.entity)?;
        if let (Some(base), None) = (&change.options.base, &tail) {
            entity.local = Some(base.body.clone());
            entity.base = Some(base.clone());
        }
        if !admit(entity.local.as_ref(), change.intent.operation)? {
            return Ok(Receipt { task: None, outcome: Enqueued::NoChange });
        }
        match tail {
            Some(task)
                if task.may_coalesce() && task.lane == change.options.lane && same_schema(&task, &change) =>
            {
                self.fold(tx, entity, task, change)
            }
            tail => Ok(self.append(tx, entity, tail.is_some(), change)?),
        }
    }

    /// A repeated change whose first try turns out to be stored.
    fn already_stored(&mut self, tx: &dyn StoreTx, change: &Change) -> Result<Option<Receipt>, StoreError> {
        let Some(id) = change.options.repeat_of else { return Ok(None) };
        let repeated = Ok(Some(Receipt { task: Some(id), outcome: Enqueued::Repeated }));
        if let Some(task) = tx.task(id)? {
            // The task may be there without this change: then it is taken as a new one.
            let intent = &change.intent;
            let holds =
                intent.fields.0.iter().all(|(name, value)| task.intent.fields.value(name) == Some(value))
                    && intent.unset.iter().all(|name| task.intent.fields.value(name).is_none());
            return if holds { repeated } else { Ok(None) };
        }
        if tx.journal(id)?.is_some() { repeated } else { Ok(None) }
    }

    /// Folds the change into the never-attempted `task`.
    fn fold(
        &mut self,
        tx: &mut dyn StoreTx,
        mut entity: StoredEntity,
        mut task: Task,
        change: Change,
    ) -> Result<Receipt, EnqueueError> {
        match coalesce(&task.intent, &change.intent)? {
            Coalesced::Annihilated => {
                self.settle(tx, &task, Verdict::Annihilated, None)?;
                self.lay_over(tx, &mut entity, Origin::App)?;
                tx.put_entity(&entity)?;
                Ok(Receipt { task: Some(task.id), outcome: Enqueued::Annihilated })
            }
            Coalesced::Merged(intent) => {
                let view = patch::apply(&change.intent, entity.local.as_ref());
                self.show(&mut entity, view, Origin::App);
                tx.put_entity(&entity)?;
                task.intent = intent;
                // Before the first attempt, with nothing under way before it, the base says what is still dirty.
                let alone = task.claim_at.is_some() && entity.staged.is_none();
                if alone && patch::dirty_part(&task.intent, entity.base.as_ref()).is_none() {
                    self.settle(tx, &task, Verdict::NoChange, None)?;
                    return Ok(Receipt { task: Some(task.id), outcome: Enqueued::NoChange });
                }
                task.priority = task.priority.max(change.options.priority);
                task.not_before = change.options.not_before.or(task.not_before);
                if task.claim_at.is_some() {
                    task.claim_at = task.due();
                }
                task.changed_at = self.stamp(tx)?;
                tx.put_task(&task)?;
                self.emit(Event::Coalesced { task: task.id });
                Ok(Receipt { task: Some(task.id), outcome: Enqueued::Coalesced })
            }
        }
    }

    /// Makes a new task for the change.
    pub(super) fn append(
        &mut self,
        tx: &mut dyn StoreTx,
        mut entity: StoredEntity,
        waits_for_entity: bool,
        change: Change,
    ) -> Result<Receipt, StoreError> {
        let clean = !waits_for_entity && patch::dirty_part(&change.intent, entity.base.as_ref()).is_none();
        if clean && entity.staged.is_none() {
            return Ok(Receipt { task: None, outcome: Enqueued::NoChange });
        }
        entity.generation += 1;
        let view = patch::apply(&change.intent, entity.local.as_ref());
        self.show(&mut entity, view, Origin::App);
        let waits_for_lane = match &change.options.lane {
            Some(lane) => tx.next_of_lane(lane, 0)?.is_some(),
            None => false,
        };
        let changed_at = self.stamp(tx)?;
        let client_id = self.replica(tx)?.client_id;
        let mut task = Task {
            id: TaskId::derive(client_id, &entity.key, entity.generation),
            seq: tx.next_seq()?,
            entity: change.entity,
            generation: entity.generation,
            intent: change.intent,
            schema: change.options.schema.unwrap_or(1),
            lane: change.options.lane,
            priority: change.options.priority,
            not_before: change.options.not_before,
            changed_at,
            enqueued_at: self.now.wall,
            state: TaskState::Pending { retry_at: None },
            frozen: None,
            claim_at: None,
            attempts: 0,
            conflict_rounds: 0,
            last_failure: None,
        };
        if !waits_for_entity && !waits_for_lane {
            task.claim_at = task.due();
        }
        tx.put_entity(&entity)?;
        tx.put_task(&task)?;
        self.emit(Event::Enqueued { task: task.id, entity: task.entity });
        Ok(Receipt { task: Some(task.id), outcome: Enqueued::New })
    }
}

fn same_schema(task: &Task, change: &Change) -> bool {
    task.schema == change.options.schema.unwrap_or(1)
}
