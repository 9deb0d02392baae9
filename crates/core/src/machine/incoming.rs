//! Taking over changes that something else than the engine has left in the store: an app's own transactions.
//!
//! A row that cannot be taken is set apart with the reason, so that it neither is lost nor holds up the others. Tests:
//! `tests/lifecycle` of `landfall-testkit`, `tests/outbox.rs` of `landfall-sqlite`.

use super::{EnqueueError, Step};
use crate::store::{StoreError, StoreTx};
use alloc::string::ToString;

/// What became of changes that were left in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TakenIn {
    /// How many were taken.
    pub taken: usize,
    /// How many were refused and set apart.
    pub refused: usize,
    /// Whether there may be more.
    pub more: bool,
}

impl Step {
    /// Takes up to `limit` changes that were left in the store, in their order. Each leaves its place in the same
    /// transaction in which it is queued.
    ///
    /// # Errors
    /// When the store cannot be read or written; drop the step and the transaction then.
    pub fn take_incoming(&mut self, tx: &mut dyn StoreTx, limit: usize) -> Result<TakenIn, StoreError> {
        let incoming = tx.incoming(limit)?;
        let mut done = TakenIn { more: incoming.len() == limit, ..TakenIn::default() };
        for row in incoming {
            let why = match row.change {
                Err(why) => why,
                Ok(change) => {
                    let (point, mark) = (tx.savepoint()?, self.mark());
                    match self.enqueue(tx, change) {
                        Ok(_) => {
                            tx.release(point)?;
                            tx.remove_incoming(row.place)?;
                            done.taken += 1;
                            continue;
                        }
                        // A record or task that is damaged concerns this change alone.
                        Err(EnqueueError::Store(error)) if !matches!(error, StoreError::Damaged(_)) => {
                            return Err(error);
                        }
                        Err(refused) => {
                            tx.rollback_to(point)?;
                            tx.release(point)?;
                            self.forget_since(mark);
                            refused.to_string()
                        }
                    }
                }
            };
            tx.refuse_incoming(row.place, &why)?;
            done.refused += 1;
        }
        Ok(done)
    }
}
