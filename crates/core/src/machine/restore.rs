//! Taking in unsynced work that another store has given out.
//!
//! Tests: `tests/lifecycle` of `landfall-testkit`.

use super::Step;
use crate::change::{Change, InvalidChange};
use crate::event::{Event, Origin};
use crate::export::{BadExport, ExportedTask};
use crate::failure::FailureKind;
use crate::id::{EntityKey, TaskId};
use crate::store::{StoreError, StoreTx};
use crate::task::TaskState;
use alloc::string::String;
use alloc::vec::Vec;

/// Why exported work cannot be taken in. Nothing of it was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The line makes no sense.
    #[error(transparent)]
    Bad(#[from] BadExport),
    /// It is another account's: it must not be sent with this one's credentials (G16).
    #[error("the task {task} is of the identity {theirs:?}; open that queue to take it in")]
    OtherIdentity {
        /// The task.
        task: TaskId,
        /// Whose it is.
        theirs: String,
    },
    /// The name of its account is lost.
    #[error(
        "the task {0} is of an account whose name is lost; put the name into `identity` and take out `lost_identity`"
    )]
    LostIdentity(TaskId),
    /// What it asks for cannot be taken.
    #[error(transparent)]
    Invalid(#[from] InvalidChange),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Step {
    /// Stores a task that another store has given out, behind everything that is queued. `false` when this store has or
    /// had it already: taking the same export in twice is taking it in once.
    ///
    /// # Errors
    /// [`RestoreError`]; on one the caller rolls back.
    pub fn restore(&mut self, tx: &mut dyn StoreTx, exported: ExportedTask) -> Result<bool, RestoreError> {
        if exported.lost_identity.is_some() {
            return Err(RestoreError::LostIdentity(exported.task_id));
        }
        if let Some(theirs) = &exported.identity {
            if self.identity.as_deref() != Some(theirs) {
                return Err(RestoreError::OtherIdentity { task: exported.task_id, theirs: theirs.clone() });
            }
        }
        if tx.task(exported.task_id)?.is_some() || tx.journal(exported.task_id)?.is_some() {
            return Ok(false);
        }
        let base = exported.base.clone();
        let own = exported.server_id.clone().map(|server_id| (exported.entity(), server_id));
        let others = exported.names.clone().into_iter();
        let others = others.map(|name| (EntityKey::new(name.entity_type, name.entity_id), name.server_id));
        for (key, server_id) in others.chain(own) {
            let mut entity = self.entity(tx, &key)?;
            if let Some(remote) = self.learn_id(tx, &mut entity, &server_id)? {
                tx.put_entity(&entity)?;
                self.remote_changed(tx, remote)?;
            }
            self.move_changes(tx)?;
        }
        let mut task = exported.into_task(tx.next_seq()?, self.now.wall)?;
        let change =
            Change { intent: task.intent.clone(), ..Change::of(task.intent.operation, task.entity.clone()) };
        change.check(&self.config.limits)?;
        // Only what came with it or is here can still end.
        let (mut parents, mut dead): (Vec<TaskId>, Vec<TaskId>) = (Vec::new(), Vec::new());
        for parent in &task.terms.waits_for {
            if let Some(known) = tx.task(*parent)? {
                parents.push(*parent);
                if matches!(known.state, TaskState::Dead { .. }) && known.entity != task.entity {
                    dead.push(*parent);
                }
            }
        }
        task.terms.waits_for = parents.into_iter().collect();
        if matches!(task.state, TaskState::Unknown { .. }) && self.is_never_repeated(&task) {
            let message = "it was under way when it was exported, and must not be sent twice";
            task.history.push(self.note(FailureKind::FateUnknown, None, message));
            task.state = TaskState::Dead { why: FailureKind::FateUnknown };
        }
        let mut entity = self.entity(tx, &task.entity)?;
        let known = entity.base.is_some() || tx.next_of_entity(&task.entity, 0)?.is_some();
        if !known {
            entity.base = base;
        }
        if matches!(task.state, TaskState::Pending { .. }) {
            // A letter before it may have died on its way here.
            self.builds_on_the_dead(tx, &mut task, known)?;
        }
        entity.generation = entity.generation.max(task.generation);
        self.lapses_at(task.lapses_at());
        if matches!(task.state, TaskState::Dead { .. }) {
            task.standing.passed_over = self.when_dead(&task) != crate::model::WhenDead::Block;
        }
        tx.put_task(&task)?;
        self.make_claimable(tx, &task)?;
        self.lay_over(tx, &mut entity, Origin::App)?;
        tx.put_entity(&entity)?;
        self.emit(Event::Enqueued { task: task.id, entity: task.entity });
        self.meet_dead_parents(tx, task.id, &dead)?;
        Ok(true)
    }
}
