//! Taking a change: checks, coalescing, a new task, the local view. One transaction, or nothing.
//!
//! Fails only for local reasons; trouble with the backend never reaches the app here. Tests:
//! `tests/machine.rs`, `tests/lifecycle` and the simulator of `landfall-testkit`.

use super::Step;
use super::depend::Parents;
use crate::change::{Change, InvalidChange, Operation};
use crate::coalesce::{Coalesced, Contradiction, admit, coalesce};
use crate::entity::StoredEntity;
use crate::event::{Event, Origin};
use crate::id::TaskId;
use crate::patch;
use crate::store::{StoreError, StoreTx};
use crate::task::{History, Standing, Task, TaskState, Terms, Verdict};
use crate::time::Timestamp;
use alloc::string::String;
use core::time::Duration;

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
    /// It depends on a task that nobody has heard of.
    #[error("it depends on the task {0}, which is neither in the queue nor in the journal")]
    UnknownDependency(TaskId),
    /// It depends on a task that was given up.
    #[error(
        "it depends on the task {task}, which was given up ({}); leave the dependency out, or let the change detach",
        .verdict.as_str()
    )]
    DependencyGivenUp {
        /// The task it depends on.
        task: TaskId,
        /// How that ended.
        verdict: Verdict,
    },
    /// The adapter cannot send several changes as one.
    #[error(
        "this backend cannot apply several changes together; send them without a group, or as one record"
    )]
    GroupsUnsupported,
    /// The adapter cannot send commands.
    #[error("this backend knows no actions; send the change of the record instead")]
    ActionsUnsupported,
    /// Some of the group may have left already.
    #[error("the group {0:?} was already sent; hand in all changes of a group together")]
    GroupClosed(String),
    /// More changes than one call can carry.
    #[error("the group {group:?} has more than {limit} changes, which is what one request can carry")]
    GroupTooLarge {
        /// The group.
        group: String,
        /// The limit in force.
        limit: usize,
    },
    /// Two changes of a group can never go together.
    #[error(
        "changes of the group {0:?} would wait for each other: it takes one change of each record and one of each lane, and none that depends on another of them"
    )]
    GroupTangled(String),
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How much longer than asked for a record that is never left alone is held back at most.
const DEBOUNCE_MOST: u32 = 10;

impl Step {
    /// Stores one change. On an error the caller rolls back to a savepoint taken before.
    ///
    /// # Errors
    /// [`EnqueueError`].
    pub fn enqueue(&mut self, tx: &mut dyn StoreTx, change: Change) -> Result<Receipt, EnqueueError> {
        change.check(&self.config.limits)?;
        self.can_be_sent(tx, &change)?;
        if let Some(receipt) = self.already_stored(tx, &change)? {
            return Ok(receipt);
        }
        let key = change.options.dedup_key.clone();
        let receipt = self.take(tx, change)?;
        if let (Some(key), Some(task)) = (key, receipt.task) {
            tx.put_deduplicated(&key, task, self.now.wall)?;
        }
        Ok(receipt)
    }

    fn take(&mut self, tx: &mut dyn StoreTx, mut change: Change) -> Result<Receipt, EnqueueError> {
        self.by_local_ids(tx, &mut change)?;
        let mut entity = self.entity(tx, &change.entity)?;
        let tail = tx.last_of_entity(&change.entity)?;
        if let (Some(base), None) = (&change.options.base, &tail) {
            entity.local = Some(base.body.clone());
            entity.base = Some(base.clone());
        }
        if !admit(entity.local.as_ref(), change.intent.operation)? {
            return Ok(Receipt { task: None, outcome: Enqueued::NoChange });
        }
        let parents = self.parents_of(tx, &change)?;
        if let Some(group) = &change.options.group {
            let lane = &change.options.lane;
            let is_before = |member: &Task| {
                member.entity == change.entity
                    || (lane.is_some() && member.lane == *lane)
                    || parents.holds(member.id)
            };
            if tx.tasks_of_group(group)?.tasks.iter().any(is_before) {
                return Err(EnqueueError::GroupTangled(group.clone()));
            }
        }
        let has_others = tail.is_some() || self.twin(tx, &change.entity)?.is_some();
        match tail.and_then(|task| self.as_foldable(task, &change, &parents)) {
            Some((task, made_new)) => {
                if made_new {
                    // The app goes on from what it sees, and that is of the newest format too.
                    tx.put_task(&task)?;
                    self.lay_over(tx, &mut entity, Origin::App)?;
                }
                self.fold(tx, entity, task, change, parents)
            }
            None => Ok(self.append(tx, entity, has_others, change, parents)?),
        }
    }

    /// Refuses what this backend can never do.
    fn can_be_sent(&self, tx: &dyn StoreTx, change: &Change) -> Result<(), EnqueueError> {
        if change.intent.operation == Operation::Action && !self.capabilities.actions {
            return Err(EnqueueError::ActionsUnsupported);
        }
        let Some(group) = &change.options.group else { return Ok(()) };
        if !self.capabilities.atomic_groups {
            return Err(EnqueueError::GroupsUnsupported);
        }
        let members = tx.tasks_of_group(group)?.tasks;
        if members.iter().any(|member| member.frozen.is_some()) {
            return Err(EnqueueError::GroupClosed(group.clone()));
        }
        let limit = self.config.push.batch_tasks.min(self.capabilities.batch_tasks);
        if members.len() >= limit {
            return Err(EnqueueError::GroupTooLarge { group: group.clone(), limit });
        }
        Ok(())
    }

    /// A repeated change whose first try turns out to be stored.
    fn already_stored(&mut self, tx: &dyn StoreTx, change: &Change) -> Result<Option<Receipt>, StoreError> {
        let repeated = |id| Ok(Some(Receipt { task: Some(id), outcome: Enqueued::Repeated }));
        if let Some(key) = &change.options.dedup_key {
            if let Some(first) = tx.deduplicated(key)? {
                return repeated(first);
            }
        }
        let Some(id) = change.options.repeat_of else { return Ok(None) };
        if let Some(task) = tx.task(id)? {
            // The task may be there without this change: then it is taken as a new one.
            let intent = &change.intent;
            let holds =
                intent.fields.0.iter().all(|(name, value)| task.intent.fields.value(name) == Some(value))
                    && intent.unset.iter().all(|name| task.intent.fields.value(name).is_none());
            return if holds { repeated(id) } else { Ok(None) };
        }
        if tx.journal(id)?.is_some() { repeated(id) } else { Ok(None) }
    }

    /// The record's last task, if the change may become part of it, with a payload of the change's format, and whether it
    /// had to be made one.
    fn as_foldable(&self, mut task: Task, change: &Change, parents: &Parents) -> Option<(Task, bool)> {
        let options = &change.options;
        let like = task.may_coalesce()
            && change.intent.operation != Operation::Action
            && options.group.is_none()
            && task.lane == options.lane
            && task.terms.at_most_once == options.at_most_once
            && task.terms.orphaned == options.orphaned
            // A dependency only ever points to an earlier task, or two tasks could wait for each other.
            && parents.are_before(task.seq);
        let schema = self.schema_of(change);
        let is_older = task.schema < schema;
        if !like || (is_older && self.upcast(&mut task).is_err()) {
            return None;
        }
        (task.schema == schema).then_some((task, is_older))
    }

    fn schema_of(&self, change: &Change) -> u32 {
        change.options.schema.unwrap_or_else(|| self.config.model.schema(&change.entity.entity_type))
    }

    /// Folds the change into the never-attempted `task`.
    fn fold(
        &mut self,
        tx: &mut dyn StoreTx,
        mut entity: StoredEntity,
        mut task: Task,
        change: Change,
        parents: Parents,
    ) -> Result<Receipt, EnqueueError> {
        match coalesce(&task.intent, &change.intent)? {
            Coalesced::Apart => Ok(self.append(tx, entity, true, change, parents)?),
            Coalesced::Annihilated => {
                self.leave_trace(tx)?;
                self.settle(tx, &task, Verdict::Annihilated, None)?;
                self.lay_over(tx, &mut entity, Origin::App)?;
                tx.put_entity(&entity)?;
                Ok(Receipt { task: Some(task.id), outcome: Enqueued::Annihilated })
            }
            Coalesced::Merged(intent) => {
                let view = patch::apply(&change.intent, entity.local.as_ref());
                self.show(tx, &mut entity, view, Origin::App)?;
                tx.put_entity(&entity)?;
                task.intent = intent;
                // Before the first attempt, with nothing under way before it, the base says what is still dirty.
                let alone = task.claim_at.is_some() && entity.staged.is_none();
                let is_clean = alone && patch::dirty_part(&task.intent, entity.base.as_ref()).is_none();
                if is_clean && self.twin(tx, &task.entity)?.is_none() {
                    self.leave_trace(tx)?;
                    self.settle(tx, &task, Verdict::NoChange, None)?;
                    return Ok(Receipt { task: Some(task.id), outcome: Enqueued::NoChange });
                }
                let options = change.options;
                let dead_parents = parents.dead();
                task.priority = task.priority.max(options.priority);
                task.not_before = options.not_before.or(task.not_before);
                let terms = &mut task.terms;
                terms.expires_at = terms.expires_at.zip(options.expires_at).map(|(a, b)| a.max(b));
                terms.tags.extend(options.tags);
                terms.unmetered_only &= options.unmetered_only;
                terms.waits_for.extend(parents.into_ids());
                self.leave_alone(&mut task);
                task.claim_at = match task.claim_at {
                    Some(_) if task.terms.waits_for.is_empty() => task.due(),
                    _ => None,
                };
                task.changed_at = self.stamp(tx)?;
                task.standing.held &= self.must_be_held(tx, &task)?;
                tx.put_task(&task)?;
                self.make_claimable(tx, &task)?;
                self.emit(Event::Coalesced { task: task.id });
                let id = task.id;
                self.meet_dead_parents(tx, id, &dead_parents)?;
                Ok(Receipt { task: Some(id), outcome: Enqueued::Coalesced })
            }
        }
    }

    /// A record of a debounced type is not sent before it was left alone for a while, if that ever happens.
    fn leave_alone(&self, task: &mut Task) {
        let wait = self.config.model.debounce(&task.entity.entity_type);
        if wait > Duration::ZERO && task.attempts == 0 && task.intent.operation != Operation::Action {
            let latest = task.enqueued_at.after(wait.saturating_mul(DEBOUNCE_MOST));
            let retry_at: Option<Timestamp> = Some(self.now.wall.after(wait).min(latest));
            task.state = TaskState::Pending { retry_at };
        }
    }

    /// Makes a new task for the change.
    pub(super) fn append(
        &mut self,
        tx: &mut dyn StoreTx,
        mut entity: StoredEntity,
        waits_for_entity: bool,
        change: Change,
        parents: Parents,
    ) -> Result<Receipt, StoreError> {
        let clean = !waits_for_entity && patch::dirty_part(&change.intent, entity.base.as_ref()).is_none();
        if clean && entity.staged.is_none() {
            return Ok(Receipt { task: None, outcome: Enqueued::NoChange });
        }
        entity.generation += 1;
        if entity.base.is_none() {
            entity.reading = entity.reading.max(self.mark_of_what_is_made(tx)?);
        }
        if change.intent.operation != Operation::Action {
            let view = patch::apply(&change.intent, entity.local.as_ref());
            self.show(tx, &mut entity, view, Origin::App)?;
        }
        let changed_at = self.stamp(tx)?;
        let client_id = self.replica(tx)?.client_id;
        let schema = self.schema_of(&change);
        let options = change.options;
        let dead_parents = parents.dead();
        let mut task = Task {
            id: TaskId::derive(client_id, &entity.key, entity.generation),
            seq: tx.next_seq()?,
            entity: change.entity,
            generation: entity.generation,
            intent: change.intent,
            schema,
            lane: options.lane,
            priority: options.priority,
            not_before: options.not_before,
            changed_at,
            enqueued_at: self.now.wall,
            state: TaskState::Pending { retry_at: None },
            frozen: None,
            claim_at: None,
            attempts: 0,
            conflict_rounds: 0,
            history: History::default(),
            terms: Terms {
                expires_at: options.expires_at,
                tags: options.tags,
                unmetered_only: options.unmetered_only,
                at_most_once: options.at_most_once,
                group: options.group,
                waits_for: parents.into_ids(),
                orphaned: options.orphaned,
            },
            standing: Standing::default(),
        };
        self.leave_alone(&mut task);
        self.lapses_at(task.lapses_at());
        tx.put_entity(&entity)?;
        let (id, key) = (task.id, task.entity.clone());
        self.builds_on_the_dead(tx, &mut task, waits_for_entity)?;
        let alone = !waits_for_entity && task.lane.is_none() && task.terms.group.is_none();
        if alone && task.terms.waits_for.is_empty() {
            task.claim_at = task.due();
            tx.put_task(&task)?;
        } else {
            tx.put_task(&task)?;
            self.make_claimable(tx, &task)?;
        }
        self.emit(Event::Enqueued { task: id, entity: key });
        self.meet_dead_parents(tx, id, &dead_parents)?;
        Ok(Receipt { task: Some(id), outcome: Enqueued::New })
    }
}
