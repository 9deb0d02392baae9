//! Conflicts: the backend has another version than the task was based on.
//!
//! For now one rule, last write wins in the order in which writes reach the backend: the task is laid over the remote
//! state anew, carrying only what is still dirty, as a new task with a new key. What the rule set aside is kept in
//! the conflict record (G7). Tests: `tests/machine.rs` and the simulator of `landfall-testkit`.

use super::Step;
use crate::change::{Intent, Operation};
use crate::entity::{Base, Body, RemoteEntity, StoredEntity};
use crate::event::Event;
use crate::failure::FailureKind;
use crate::id::TaskId;
use crate::patch;
use crate::store::{ConflictRecord, StoreError, StoreTx};
use crate::task::{Task, TaskState, Verdict};
use alloc::string::ToString;

impl Step {
    pub(super) fn conflicted(
        &mut self,
        tx: &mut dyn StoreTx,
        mut task: Task,
        remote: Option<&RemoteEntity>,
    ) -> Result<(), StoreError> {
        let mut entity = self.entity(tx, &task.entity)?;
        self.count(|report| report.conflicts += 1);
        let quarrel = task.conflict_rounds >= self.config.push.conflict_rounds_max;
        let rule = match remote {
            None => "the backend did not say what it has; waits for a decision",
            Some(_) if quarrel => "too many rounds; waits for a decision",
            Some(_) => "last_write_wins",
        };
        tx.put_conflict(&ConflictRecord {
            task_id: task.id,
            entity: task.entity.clone(),
            at: self.now.wall,
            base: entity.base.as_ref().and_then(|base| base.body.fields()).map(crate::value::Fields::to_json),
            local: task.frozen.as_ref().map(|frozen| frozen.payload.to_string()).unwrap_or_default(),
            remote: remote.cloned(),
            rule: rule.into(),
        })?;
        let (Some(remote), false) = (remote, quarrel) else {
            let note = self.note(FailureKind::Rejected, Some("conflict".into()), rule);
            task.become_state(TaskState::Conflict);
            task.claim_at = None;
            task.last_failure = Some(note);
            tx.put_task(&task)?;
            self.emit(Event::Conflicted { task: task.id, entity: task.entity, rebased_to: None });
            return Ok(());
        };
        let seen_by_app = entity.local.take();
        let known_whole = entity.base.as_ref().is_none_or(|base| base.complete);
        entity.base =
            Some(Base { body: remote.body.clone(), version: remote.version.clone(), complete: true });
        // The remote state in the conflict is at least as new as anything staged while the verdict was open.
        entity.staged = None;
        let intent = over_remote(&task.intent, &remote.body, seen_by_app.as_ref().filter(|_| known_whole));
        let dirty = intent.and_then(|intent| patch::dirty_part(&intent, entity.base.as_ref()));
        let rebased_to = match dirty {
            Some(intent) => Some(self.rebase(tx, &mut entity, &task, intent)?),
            None => {
                self.settle(tx, &task, Verdict::ResolvedToRemote, remote.version.clone())?;
                None
            }
        };
        self.lay_over(tx, &mut entity)?;
        tx.put_entity(&entity)?;
        self.emit(Event::Conflicted { task: task.id, entity: task.entity, rebased_to });
        Ok(())
    }

    /// Puts a new task with a new generation, and at its first attempt a new key, into the old one's place.
    fn rebase(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &mut StoredEntity,
        task: &Task,
        intent: Intent,
    ) -> Result<TaskId, StoreError> {
        entity.generation += 1;
        let client_id = self.replica(tx)?.client_id;
        let mut next = Task {
            id: TaskId::derive(client_id, &entity.key, entity.generation),
            generation: entity.generation,
            intent,
            state: TaskState::Pending { retry_at: None },
            frozen: None,
            claim_at: None,
            attempts: 0,
            conflict_rounds: task.conflict_rounds + 1,
            ..task.clone()
        };
        next.claim_at = next.due();
        let entry_payload = task.frozen.as_ref().map(|frozen| frozen.payload.clone()).unwrap_or_default();
        tx.settle_task(
            task,
            &crate::task::JournalEntry {
                task_id: task.id,
                entity: task.entity.clone(),
                generation: task.generation,
                verdict: Verdict::Rebased,
                version: None,
                at: self.now.wall,
                payload: entry_payload,
            },
        )?;
        tx.put_task(&next)?;
        self.emit(Event::Settled {
            task: task.id,
            entity: task.entity.clone(),
            verdict: Verdict::Rebased,
            version: None,
        });
        Ok(next.id)
    }
}

/// What the change means now that the backend has `remote`. `None` when both sides came to the same end.
///
/// An edit of a record that was deleted meanwhile makes it again, whole if the app's view of it is known: losing work
/// is worse than an extra record.
fn over_remote(intent: &Intent, remote: &Body, whole: Option<&Body>) -> Option<Intent> {
    let mut intent = intent.clone();
    match (intent.operation, remote) {
        (Operation::Create, Body::Live(_)) => intent.operation = Operation::Update,
        (Operation::Create, Body::Deleted) => intent.operation = Operation::Replace,
        (Operation::Update, Body::Deleted) => match whole {
            Some(Body::Live(fields)) => {
                intent = Intent {
                    operation: Operation::Replace,
                    fields: fields.clone(),
                    unset: Default::default(),
                };
            }
            _ => intent.operation = Operation::Upsert,
        },
        (Operation::Delete, Body::Deleted) => return None,
        (Operation::Update | Operation::Upsert | Operation::Replace | Operation::Delete, _) => {}
    }
    Some(intent)
}
