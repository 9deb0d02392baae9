//! A remote state of a record comes in: it becomes the base, and what is queued is laid over it (G6).
//!
//! While the fate of a task of the record is open, the state is staged: merging earlier would make the client conflict
//! with itself, because the remote state may already hold the task's effect. Tests: the simulator, `tests/{machine,pull}.rs`.

use super::Step;
use crate::entity::{Base, RemoteEntity, StoredEntity};
use crate::event::Origin;
use crate::id::EntityKey;
use crate::store::{StoreError, StoreTx};
use crate::task::{Task, TaskState};

impl Step {
    /// Takes in what the backend has of one record now, wherever it was heard of.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn remote_changed(&mut self, tx: &mut dyn StoreTx, remote: RemoteEntity) -> Result<(), StoreError> {
        self.take_in(tx, remote, None)
    }

    /// Likewise, from a reading of the feed that marks it like this.
    pub(super) fn take_in(
        &mut self,
        tx: &mut dyn StoreTx,
        remote: RemoteEntity,
        mark: Option<u64>,
    ) -> Result<(), StoreError> {
        let remote = self.incoming(tx, remote)?;
        let known = self.known_entity(tx, &remote.key)?;
        let is_new = known.is_none();
        let mut entity = known.unwrap_or_else(|| StoredEntity::unknown(remote.key.clone()));
        let news = is_news(&entity, &remote);
        if !news && mark.is_some() && entity.staged.take().is_some() {
            // Pages come in the feed's order: what was staged before is older than what is known already.
            tx.put_entity(&entity)?;
        }
        if !news && mark.is_none_or(|mark| entity.reading == mark) {
            return Ok(());
        }
        match mark {
            Some(mark) => entity.reading = mark,
            // Heard of elsewhere: a page that is under way may be older.
            None => self.base_moves(tx, &mut entity)?,
        }
        if completes_base(&entity, &remote) {
            entity.base = Some(Base { body: remote.body, version: remote.version, complete: true });
            self.lay_over(tx, &mut entity, Origin::Backend)?;
        } else if news {
            let first = if is_new { None } else { self.readable(tx.next_of_entity(&remote.key, 0))? };
            match first {
                Some(_) if self.is_fate_open(tx, &remote.key)? => entity.staged = Some(remote),
                Some(_) => self.rebase_queue(tx, &mut entity, remote)?,
                None => {
                    let view = remote.body.clone();
                    entity.base = Some(Base { body: remote.body, version: remote.version, complete: true });
                    entity.staged = None;
                    self.show_with_twin(tx, &mut entity, view, Origin::Backend)?;
                }
            }
        }
        tx.put_entity(&entity)
    }

    /// The first task of the record is no longer of open fate: a state that was staged for its sake is taken in.
    pub(super) fn take_staged(&mut self, tx: &mut dyn StoreTx, key: &EntityKey) -> Result<(), StoreError> {
        let mut entity = self.entity(tx, key)?;
        let Some(staged) = entity.staged.take() else { return Ok(()) };
        if self.is_fate_open(tx, key)? {
            return Ok(());
        }
        self.rebase_queue(tx, &mut entity, staged)?;
        tx.put_entity(&entity)
    }

    /// Whether the backend's state of a record may hold the effect of a task whose fate is open: of the first one, or of
    /// one that has passed dead letters.
    pub(super) fn is_fate_open(&mut self, tx: &dyn StoreTx, key: &EntityKey) -> Result<bool, StoreError> {
        let mut after = 0;
        while let Some(task) = self.readable(tx.next_of_entity(key, after))? {
            let is_dead = matches!(task.state, TaskState::Dead { .. });
            if fate_is_open(&task) && (after == 0 || !is_dead) {
                return Ok(true);
            }
            after = task.seq;
        }
        Ok(false)
    }
}

/// Whether the state is another than the one already taken in: what we sent comes back to us, and pages come twice.
fn is_news(entity: &StoredEntity, remote: &RemoteEntity) -> bool {
    let known = entity.base.as_ref().filter(|base| base.complete && base.version.is_some());
    known.is_none_or(|base| base.version != remote.version)
}

/// Whether the state is the very one that the base is of, of which only some fields were known: nothing has moved.
fn completes_base(entity: &StoredEntity, remote: &RemoteEntity) -> bool {
    let part = entity.base.as_ref().filter(|base| !base.complete && base.version.is_some());
    part.is_some_and(|base| base.version == remote.version)
}

/// Whether the backend may hold the effect of what the task sent. Of a dead letter only if nobody knows whether it took
/// effect: what was refused had none, and is laid over whatever comes in.
pub(super) fn fate_is_open(task: &Task) -> bool {
    let Some(frozen) = &task.frozen else { return false };
    match task.state {
        TaskState::Conflict => false,
        TaskState::Dead { .. } => frozen.open_sends > 0 || !super::is_without_effect(task),
        TaskState::Pending { .. } | TaskState::InFlight { .. } | TaskState::Unknown { .. } => true,
    }
}
