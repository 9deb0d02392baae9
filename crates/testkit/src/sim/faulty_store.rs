//! A transaction that fails on purpose, or lies about a task's state to plant a known bug.
//!
//! It stands between the machine and a real store. Lying is how two broken rules are planted without a switch in the
//! product: the machine decides by what the store says. Tests: `tests/simulator.rs`.

use landfall_core::conflict::ConflictRecord;
use landfall_core::entity::StoredEntity;
use landfall_core::id::{ConflictId, EntityKey, TaskId};
use landfall_core::store::{
    ConflictPage, ConflictQuery, Controls, Counts, DamagedRow, EntityPage, JournalPage, Lease, Page,
    PullState, Quarantined, Replica, Savepoint, StoreError, StoreRead, StoreTx,
};
use landfall_core::task::{JournalEntry, StateKind, Task, TaskState};
use landfall_core::time::Timestamp;
use std::cell::Cell;

/// What a transaction does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wrong {
    /// The call with this number fails, and all later ones.
    pub(super) fail_at: Option<u32>,
    /// Sent tasks look as if they had never been attempted.
    pub(super) hide_frozen: bool,
    /// What is written down of a conflict is thrown away.
    pub(super) forget_conflicts: bool,
    /// One more thing that is not as it says.
    pub(super) lie: Option<Lie>,
}

/// What a store may keep from the machine, or the machine from the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lie {
    /// Tasks wait for nothing.
    NoDependencies,
    /// A group has one member less.
    SmallerGroups,
    /// No byte of any task has left.
    NothingLeft,
    /// The backend's names are forgotten.
    NoServerIds,
    /// Nothing is paused.
    NothingPaused,
    /// No task minds being sent twice.
    NoAtMostOnce,
}

pub(super) struct FaultyTx<'a> {
    inner: Box<dyn StoreTx + 'a>,
    wrong: Wrong,
    calls: Cell<u32>,
}

impl<'a> FaultyTx<'a> {
    pub(super) fn new(inner: Box<dyn StoreTx + 'a>, wrong: Wrong) -> Self {
        Self { inner, wrong, calls: Cell::new(0) }
    }

    fn tick(&self) -> Result<(), StoreError> {
        self.calls.set(self.calls.get() + 1);
        match self.wrong.fail_at {
            Some(at) if self.calls.get() >= at => Err(StoreError::Io("simulated".into())),
            _ => Ok(()),
        }
    }

    fn lie(&self, task: Option<Task>) -> Option<Task> {
        let mut task = task?;
        if self.wrong.hide_frozen
            && matches!(task.state, TaskState::InFlight { .. } | TaskState::Unknown { .. })
        {
            task.frozen = None;
            task.state = TaskState::Pending { retry_at: None };
        }
        Some(task)
    }

    /// A task as if no byte of it had left.
    fn lie_of_sends(&self, mut task: Task) -> Task {
        let lies = self.wrong.lie == Some(Lie::NothingLeft);
        if lies
            && matches!(
                task.state,
                TaskState::Pending { .. } | TaskState::InFlight { .. } | TaskState::Unknown { .. }
            )
        {
            task.state = TaskState::Pending { retry_at: None };
            if let Some(frozen) = &mut task.frozen {
                frozen.sends = 0;
            }
        }
        task
    }
}

impl StoreRead for FaultyTx<'_> {
    fn replica(&self) -> Result<Option<Replica>, StoreError> {
        self.tick()?;
        self.inner.replica()
    }
    fn lease(&self) -> Result<Option<Lease>, StoreError> {
        self.tick()?;
        self.inner.lease()
    }
    fn counts(&self) -> Result<Counts, StoreError> {
        self.tick()?;
        self.inner.counts()
    }
    fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.tick()?;
        Ok(self.inner.task(id)?.map(|task| self.lie_of_sends(task)))
    }
    fn tasks_after(&self, after: u64, limit: usize) -> Result<Page, StoreError> {
        self.tick()?;
        self.inner.tasks_after(after, limit)
    }
    fn last_of_entity(&self, entity: &EntityKey) -> Result<Option<Task>, StoreError> {
        self.tick()?;
        Ok(self.lie(self.inner.last_of_entity(entity)?))
    }
    fn next_of_entity(&self, entity: &EntityKey, after: u64) -> Result<Option<Task>, StoreError> {
        self.tick()?;
        Ok(self.lie(self.inner.next_of_entity(entity, after)?))
    }
    fn next_in_line(&self, entity: &EntityKey, after: u64) -> Result<Option<Task>, StoreError> {
        self.tick()?;
        Ok(self.lie(self.inner.next_in_line(entity, after)?))
    }
    fn tasks_of_group(&self, group: &str) -> Result<Page, StoreError> {
        self.tick()?;
        let mut page = self.inner.tasks_of_group(group)?;
        if self.wrong.lie == Some(Lie::SmallerGroups) && page.tasks.len() > 1 {
            page.tasks.pop();
        }
        Ok(page)
    }
    fn waiting_for(&self, parent: TaskId, after: u64, limit: usize) -> Result<Page, StoreError> {
        self.tick()?;
        self.inner.waiting_for(parent, after, limit)
    }
    fn held_after(&self, after: u64, limit: usize) -> Result<Page, StoreError> {
        self.tick()?;
        self.inner.held_after(after, limit)
    }
    fn lapsed(&self, now: Timestamp, limit: usize) -> Result<Page, StoreError> {
        self.tick()?;
        self.inner.lapsed(now, limit)
    }
    fn next_lapse(&self) -> Result<Option<Timestamp>, StoreError> {
        self.tick()?;
        self.inner.next_lapse()
    }
    fn next_of_lane(&self, lane: &str, after: u64) -> Result<Option<Task>, StoreError> {
        self.tick()?;
        self.inner.next_of_lane(lane, after)
    }
    fn claimable(&self, now: Timestamp, limit: usize) -> Result<Page, StoreError> {
        self.tick()?;
        self.inner.claimable(now, limit)
    }
    fn next_claim(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.tick()?;
        self.inner.next_claim(now)
    }
    fn waiting_after(&self, moment: Timestamp, limit: usize) -> Result<Page, StoreError> {
        self.tick()?;
        self.inner.waiting_after(moment, limit)
    }
    fn tasks_in_state(&self, state: StateKind, after: u64, limit: usize) -> Result<Page, StoreError> {
        self.tick()?;
        self.inner.tasks_in_state(state, after, limit)
    }
    fn oldest(&self) -> Result<Option<Timestamp>, StoreError> {
        self.tick()?;
        self.inner.oldest()
    }
    fn entity(&self, key: &EntityKey) -> Result<Option<StoredEntity>, StoreError> {
        self.tick()?;
        self.inner.entity(key)
    }
    fn journal(&self, id: TaskId) -> Result<Option<JournalEntry>, StoreError> {
        self.tick()?;
        self.inner.journal(id)
    }
    fn journal_entries(&self, before: Option<TaskId>, limit: usize) -> Result<JournalPage, StoreError> {
        self.tick()?;
        self.inner.journal_entries(before, limit)
    }
    fn deduplicated(&self, key: &str) -> Result<Option<TaskId>, StoreError> {
        self.tick()?;
        self.inner.deduplicated(key)
    }
    fn server_id(&self, key: &EntityKey) -> Result<Option<String>, StoreError> {
        self.tick()?;
        self.inner.server_id(key)
    }
    fn local_id(&self, key: &EntityKey) -> Result<Option<String>, StoreError> {
        self.tick()?;
        self.inner.local_id(key)
    }
    fn knows_server_ids(&self) -> Result<bool, StoreError> {
        self.tick()?;
        self.inner.knows_server_ids()
    }
    fn controls(&self) -> Result<Option<Controls>, StoreError> {
        self.tick()?;
        Ok(self.inner.controls()?.filter(|_| self.wrong.lie != Some(Lie::NothingPaused)))
    }
    fn entities_after(
        &self,
        entity_type: Option<&str>,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<EntityPage, StoreError> {
        self.tick()?;
        self.inner.entities_after(entity_type, after, limit)
    }
    fn conflict(&self, id: ConflictId) -> Result<Option<ConflictRecord>, StoreError> {
        self.tick()?;
        self.inner.conflict(id)
    }
    fn conflicts(&self, which: &ConflictQuery, limit: usize) -> Result<ConflictPage, StoreError> {
        self.tick()?;
        self.inner.conflicts(which, limit)
    }
    fn pull_state(&self) -> Result<Option<PullState>, StoreError> {
        self.tick()?;
        self.inner.pull_state()
    }
    fn quarantined(&self, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        self.tick()?;
        self.inner.quarantined(limit)
    }
}

impl StoreTx for FaultyTx<'_> {
    fn put_replica(&mut self, replica: &Replica) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.put_replica(replica)
    }
    fn put_lease(&mut self, lease: &Lease) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.put_lease(lease)
    }
    fn next_seq(&mut self) -> Result<u64, StoreError> {
        self.tick()?;
        self.inner.next_seq()
    }
    fn put_task(&mut self, task: &Task) -> Result<(), StoreError> {
        self.tick()?;
        match self.wrong.lie {
            Some(Lie::NoDependencies) => {
                let mut task = task.clone();
                if !task.terms.waits_for.is_empty() {
                    task.terms.waits_for.clear();
                    task.claim_at = task.due();
                }
                self.inner.put_task(&task)
            }
            Some(Lie::NoAtMostOnce) => {
                let mut task = task.clone();
                task.terms.at_most_once = false;
                self.inner.put_task(&task)
            }
            _ => self.inner.put_task(task),
        }
    }
    fn settle_task(&mut self, task: &Task, entry: &JournalEntry) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.settle_task(task, entry)
    }
    fn quarantine(&mut self, row: &DamagedRow) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.quarantine(row)
    }
    fn put_entity(&mut self, entity: &StoredEntity) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.put_entity(entity)
    }
    fn remove_entity(&mut self, key: &EntityKey) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.remove_entity(key)
    }
    fn forget_records(&mut self, limit: usize) -> Result<usize, StoreError> {
        self.tick()?;
        self.inner.forget_records(limit)
    }
    fn put_server_id(&mut self, key: &EntityKey, server_id: &str) -> Result<(), StoreError> {
        self.tick()?;
        if self.wrong.lie == Some(Lie::NoServerIds) {
            return Ok(());
        }
        self.inner.put_server_id(key, server_id)
    }
    fn put_deduplicated(&mut self, key: &str, task: TaskId, at: Timestamp) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.put_deduplicated(key, task, at)
    }
    fn put_controls(&mut self, controls: &Controls) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.put_controls(controls)
    }
    fn put_conflict(&mut self, conflict: &ConflictRecord) -> Result<(), StoreError> {
        self.tick()?;
        if self.wrong.forget_conflicts && !conflict.is_open() {
            return Ok(());
        }
        self.inner.put_conflict(conflict)
    }
    fn put_pull_state(&mut self, state: &PullState) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.put_pull_state(state)
    }
    fn put_quarantined(&mut self, record: &Quarantined) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.put_quarantined(record)
    }
    fn prune_conflicts(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.tick()?;
        self.inner.prune_conflicts(before, limit)
    }
    fn prune_deduplicated(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.tick()?;
        self.inner.prune_deduplicated(before, limit)
    }
    fn prune_journal(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.tick()?;
        self.inner.prune_journal(before, limit)
    }
    fn savepoint(&mut self) -> Result<Savepoint, StoreError> {
        self.tick()?;
        self.inner.savepoint()
    }
    fn rollback_to(&mut self, point: Savepoint) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.rollback_to(point)
    }
    fn release(&mut self, point: Savepoint) -> Result<(), StoreError> {
        self.tick()?;
        self.inner.release(point)
    }
    /// Failing commits are the world's business: they may land or not.
    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.commit()
    }
}
