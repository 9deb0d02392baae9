//! Tasks whose time is over before they were sent: they end in the journal, with their payload, and are told.
//!
//! Tests: `tests/lifecycle` of `landfall-testkit`.

use super::Step;
use crate::store::{StoreError, StoreTx};
use crate::task::{Task, Verdict};
use crate::time::Timestamp;

/// Rows read at a time: bounds memory, not work.
const PAGE: usize = 100;

impl Step {
    /// A task that ends unsent at `at` is stored, if at all.
    pub(super) fn lapses_at(&mut self, at: Option<Timestamp>) {
        if let (Some(at), Some(known)) = (at, &mut self.state.next_lapse) {
            *known = Some(known.map_or(at, |known| known.min(at)));
        }
    }

    /// Ends every task whose time is over.
    pub(super) fn end_lapsed(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        let next = match self.state.next_lapse {
            Some(next) => next,
            None => tx.next_lapse()?,
        };
        self.state.next_lapse = Some(next);
        if next.is_none_or(|next| next > self.now.wall) {
            return Ok(());
        }
        loop {
            let page = tx.lapsed(self.now.wall, PAGE)?;
            for row in &page.damaged {
                tx.quarantine(row)?;
            }
            if page.tasks.is_empty() {
                break;
            }
            for task in page.tasks {
                // The end of another one may have been the end of this one too.
                if let Some(task) = self.readable(tx.task(task.id))? {
                    if self.has_lapsed(&task) {
                        self.give_up_together(tx, &task, Verdict::Expired)?;
                    }
                }
            }
        }
        self.state.next_lapse = Some(tx.next_lapse()?);
        Ok(())
    }

    pub(super) fn has_lapsed(&self, task: &Task) -> bool {
        task.lapses_at().is_some_and(|at| at <= self.now.wall)
    }
}
