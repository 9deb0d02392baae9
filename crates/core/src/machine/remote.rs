//! A remote state comes in: it becomes the base, and pending edits are laid over it again (G6).
//!
//! While the fate of a task of the record is open, the state is staged: merging earlier would make the client conflict
//! with itself, because the remote state may already hold the task's effect. Tests: the simulator.

use super::{Step, local_view};
use crate::entity::{Base, RemoteEntity, StoredEntity};
use crate::store::{StoreError, StoreTx};

impl Step {
    /// Takes in what the backend has of one record.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn remote_changed(&mut self, tx: &mut dyn StoreTx, remote: RemoteEntity) -> Result<(), StoreError> {
        let mut entity = tx.entity(&remote.key)?.unwrap_or_else(|| StoredEntity::unknown(remote.key.clone()));
        let first = tx.next_of_entity(&remote.key, 0)?;
        if first.is_some_and(|task| task.frozen.is_some()) {
            entity.staged = Some(remote);
        } else {
            let gone = matches!(remote.body, crate::entity::Body::Deleted);
            entity.base = Some(Base { body: remote.body, version: remote.version, complete: true });
            let edited = tx.last_of_entity(&entity.key)?.is_some();
            // An edit of a record that is gone stays visible until the conflict that it will meet is resolved.
            if !(gone && edited) {
                entity.local = local_view(tx, &entity.key, entity.base.as_ref().map(|base| &base.body))?;
            }
        }
        tx.put_entity(&entity)
    }
}
