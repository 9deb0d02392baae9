//! A remote state comes in: it becomes the base, and pending edits are laid over it again (G6).
//!
//! While the fate of a task of the record is open, the state is staged: merging earlier would make the client conflict
//! with itself, because the remote state may already hold the task's effect. Tests: the simulator.

use super::Step;
use crate::entity::{Base, RemoteEntity};
use crate::store::{StoreError, StoreTx};

impl Step {
    /// Takes in what the backend has of one record.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn remote_changed(&mut self, tx: &mut dyn StoreTx, remote: RemoteEntity) -> Result<(), StoreError> {
        let mut entity = self.entity(tx, &remote.key)?;
        let first = tx.next_of_entity(&remote.key, 0)?;
        if first.is_some_and(|task| task.frozen.is_some()) {
            entity.staged = Some(remote);
        } else {
            entity.base = Some(Base { body: remote.body, version: remote.version, complete: true });
            self.lay_over(tx, &mut entity)?;
        }
        tx.put_entity(&entity)
    }
}
