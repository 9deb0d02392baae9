//! The memory store keeps every promise of the store suite, and the suite notices stores that do not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_core::entity::StoredEntity;
use landfall_core::id::{EntityKey, TaskId};
use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{
    ConflictRecord, Counts, DamagedRow, Lease, Page, Replica, Savepoint, Store, StoreError, StoreRead,
    StoreTx,
};
use landfall_core::task::{JournalEntry, StateKind, Task};
use landfall_core::time::Timestamp;
use landfall_testkit::conformance::store::{StoreUnderTest, broken_promises, run_all};
use std::sync::{Arc, Mutex};

/// What a store does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    CommitKeepsNothing,
    RollbackToDoesNothing,
    ReleaseRollsBack,
    CountsAreStale,
    SettleForgetsTheJournal,
    SettleKeepsTheTask,
    ClaimIgnoresPriority,
    ClaimIgnoresTime,
    ClaimIgnoresTheLimit,
    NextClaimIsNow,
    PagesStartAtAfter,
    LastOfEntityIsFirst,
    LaneIsIgnored,
    StateIsIgnored,
    PositionIsGivenTwice,
    NewIdsOnly,
    PruneTakesTheBoundary,
    OldestIsLeast,
    ConflictsOldestFirst,
    StagedIsLost,
    DamageIsHidden,
    QuarantineDoesNothing,
    ReplicaIsWrittenOnce,
}

const FAULTS: &[Fault] = &[
    Fault::CommitKeepsNothing,
    Fault::RollbackToDoesNothing,
    Fault::ReleaseRollsBack,
    Fault::CountsAreStale,
    Fault::SettleForgetsTheJournal,
    Fault::SettleKeepsTheTask,
    Fault::ClaimIgnoresPriority,
    Fault::ClaimIgnoresTime,
    Fault::ClaimIgnoresTheLimit,
    Fault::NextClaimIsNow,
    Fault::PagesStartAtAfter,
    Fault::LastOfEntityIsFirst,
    Fault::LaneIsIgnored,
    Fault::StateIsIgnored,
    Fault::PositionIsGivenTwice,
    Fault::NewIdsOnly,
    Fault::PruneTakesTheBoundary,
    Fault::OldestIsLeast,
    Fault::ConflictsOldestFirst,
    Fault::StagedIsLost,
    Fault::DamageIsHidden,
    Fault::QuarantineDoesNothing,
    Fault::ReplicaIsWrittenOnce,
];

/// Makes memory stores with a fault, whose rows can be spoiled from outside.
struct Memory {
    fault: Fault,
    to_damage: Arc<Mutex<Vec<TaskId>>>,
}

impl Memory {
    fn with(fault: Fault) -> Self {
        Self { fault, to_damage: Arc::default() }
    }
}

impl StoreUnderTest for Memory {
    fn create(&self) -> Box<dyn Store> {
        self.to_damage.lock().unwrap().clear();
        let (inner, to_damage) = (MemoryStore::default(), Arc::clone(&self.to_damage));
        Box::new(Faulty { inner, to_damage, fault: self.fault })
    }

    fn reopen(&self, mut store: Box<dyn Store>) -> Box<dyn Store> {
        store.reopen().unwrap();
        store
    }

    fn damage(&self, store: Box<dyn Store>, task: TaskId) -> Option<Box<dyn Store>> {
        self.to_damage.lock().unwrap().push(task);
        Some(store)
    }
}

#[derive(Debug)]
struct Faulty {
    inner: MemoryStore,
    to_damage: Arc<Mutex<Vec<TaskId>>>,
    fault: Fault,
}

impl Store for Faulty {
    fn begin(&mut self) -> Result<Box<dyn StoreTx + '_>, StoreError> {
        for task in self.to_damage.lock().unwrap().drain(..) {
            if self.fault != Fault::DamageIsHidden {
                assert!(self.inner.damage(task));
            }
        }
        let inner = self.inner.begin()?;
        let before = inner.counts()?;
        Ok(Box::new(FaultyTx { inner, fault: self.fault, before }))
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        self.inner.reopen()
    }
}

struct FaultyTx<'s> {
    inner: Box<dyn StoreTx + 's>,
    fault: Fault,
    before: Counts,
}

impl FaultyTx<'_> {
    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }
}

impl StoreRead for FaultyTx<'_> {
    fn replica(&self) -> Result<Option<Replica>, StoreError> {
        self.inner.replica()
    }
    fn lease(&self) -> Result<Option<Lease>, StoreError> {
        self.inner.lease()
    }
    fn counts(&self) -> Result<Counts, StoreError> {
        if self.has(Fault::CountsAreStale) { Ok(self.before) } else { self.inner.counts() }
    }
    fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.inner.task(id)
    }
    fn tasks_after(&self, after: u64, limit: usize) -> Result<Page, StoreError> {
        let early = u64::from(self.has(Fault::PagesStartAtAfter));
        self.inner.tasks_after(after.saturating_sub(early), limit)
    }
    fn last_of_entity(&self, entity: &EntityKey) -> Result<Option<Task>, StoreError> {
        if self.has(Fault::LastOfEntityIsFirst) {
            return self.inner.next_of_entity(entity, 0);
        }
        self.inner.last_of_entity(entity)
    }
    fn next_of_entity(&self, entity: &EntityKey, after: u64) -> Result<Option<Task>, StoreError> {
        self.inner.next_of_entity(entity, after)
    }
    fn next_of_lane(&self, lane: &str, after: u64) -> Result<Option<Task>, StoreError> {
        if self.has(Fault::LaneIsIgnored) {
            return Ok(self.inner.tasks_after(after, 1)?.tasks.pop());
        }
        self.inner.next_of_lane(lane, after)
    }
    fn claimable(&self, now: Timestamp, limit: usize) -> Result<Page, StoreError> {
        let now = if self.has(Fault::ClaimIgnoresTime) { Timestamp(i64::MAX) } else { now };
        let more = usize::from(self.has(Fault::ClaimIgnoresTheLimit));
        let mut page = self.inner.claimable(now, limit.saturating_add(more))?;
        if self.has(Fault::ClaimIgnoresPriority) {
            page.tasks.sort_by_key(|task| task.seq);
        }
        Ok(page)
    }
    fn next_claim(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let early = i64::from(self.has(Fault::NextClaimIsNow));
        self.inner.next_claim(Timestamp(now.0.saturating_sub(early)))
    }
    fn waiting_after(&self, moment: Timestamp, limit: usize) -> Result<Page, StoreError> {
        let early = i64::from(self.has(Fault::NextClaimIsNow));
        self.inner.waiting_after(Timestamp(moment.0.saturating_sub(early)), limit)
    }
    fn tasks_in_state(&self, state: StateKind, after: u64, limit: usize) -> Result<Page, StoreError> {
        if self.has(Fault::StateIsIgnored) {
            return self.inner.tasks_after(after, limit);
        }
        self.inner.tasks_in_state(state, after, limit)
    }
    fn oldest(&self) -> Result<Option<Timestamp>, StoreError> {
        if self.has(Fault::OldestIsLeast) {
            let tasks = self.inner.tasks_after(0, usize::MAX)?.tasks;
            return Ok(tasks.iter().map(|task| task.enqueued_at).min());
        }
        self.inner.oldest()
    }
    fn entity(&self, key: &EntityKey) -> Result<Option<StoredEntity>, StoreError> {
        self.inner.entity(key)
    }
    fn journal(&self, id: TaskId) -> Result<Option<JournalEntry>, StoreError> {
        self.inner.journal(id)
    }
    fn conflicts(&self, entity: Option<&EntityKey>, limit: usize) -> Result<Vec<ConflictRecord>, StoreError> {
        let mut records = self.inner.conflicts(entity, limit)?;
        if self.has(Fault::ConflictsOldestFirst) {
            records.reverse();
        }
        Ok(records)
    }
}

impl StoreTx for FaultyTx<'_> {
    fn put_replica(&mut self, replica: &Replica) -> Result<(), StoreError> {
        if self.has(Fault::ReplicaIsWrittenOnce) && self.inner.replica()?.is_some() {
            return Ok(());
        }
        self.inner.put_replica(replica)
    }
    fn put_lease(&mut self, lease: &Lease) -> Result<(), StoreError> {
        self.inner.put_lease(lease)
    }
    fn next_seq(&mut self) -> Result<u64, StoreError> {
        if self.has(Fault::PositionIsGivenTwice) {
            return Ok(self.inner.tasks_after(0, usize::MAX)?.tasks.last().map_or(1, |task| task.seq + 1));
        }
        self.inner.next_seq()
    }
    fn put_task(&mut self, task: &Task) -> Result<(), StoreError> {
        if self.has(Fault::NewIdsOnly) && self.inner.task(task.id)?.is_some() {
            return Ok(());
        }
        self.inner.put_task(task)
    }
    fn settle_task(&mut self, task: &Task, entry: &JournalEntry) -> Result<(), StoreError> {
        let known = self.inner.task(task.id)?;
        self.inner.settle_task(task, entry)?;
        match (self.fault, known) {
            (Fault::SettleKeepsTheTask, Some(known)) => self.inner.put_task(&known),
            (Fault::SettleForgetsTheJournal, _) => self.inner.prune_journal(Timestamp(i64::MAX), 1).map(drop),
            _ => Ok(()),
        }
    }
    fn quarantine(&mut self, row: &DamagedRow) -> Result<(), StoreError> {
        if self.has(Fault::QuarantineDoesNothing) { Ok(()) } else { self.inner.quarantine(row) }
    }
    fn put_entity(&mut self, entity: &StoredEntity) -> Result<(), StoreError> {
        let staged = entity.staged.clone().filter(|_| !self.has(Fault::StagedIsLost));
        self.inner.put_entity(&StoredEntity { staged, ..entity.clone() })
    }
    fn put_conflict(&mut self, conflict: &ConflictRecord) -> Result<(), StoreError> {
        self.inner.put_conflict(conflict)
    }
    fn prune_journal(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let late = i64::from(self.has(Fault::PruneTakesTheBoundary));
        self.inner.prune_journal(Timestamp(before.0.saturating_add(late)), limit)
    }
    fn savepoint(&mut self) -> Result<Savepoint, StoreError> {
        self.inner.savepoint()
    }
    fn rollback_to(&mut self, point: Savepoint) -> Result<(), StoreError> {
        if self.has(Fault::RollbackToDoesNothing) { Ok(()) } else { self.inner.rollback_to(point) }
    }
    fn release(&mut self, point: Savepoint) -> Result<(), StoreError> {
        if self.has(Fault::ReleaseRollsBack) {
            self.inner.rollback_to(point)?;
        }
        self.inner.release(point)
    }
    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        if self.has(Fault::CommitKeepsNothing) { Ok(()) } else { self.inner.commit() }
    }
}

#[test]
fn the_memory_store_keeps_every_promise() {
    run_all(&Memory::with(Fault::None));
}

#[test]
fn the_suite_notices_every_fault() {
    // The cases fail by panicking; hundreds of messages would hide the one that matters.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found: Vec<(Fault, Vec<String>)> = FAULTS
        .iter()
        .map(|fault| {
            let broken = broken_promises(&Memory::with(*fault)).into_iter().map(|broken| broken.name);
            (*fault, broken.collect())
        })
        .collect();
    std::panic::set_hook(hook);
    for (fault, broken) in found {
        // A case by name, not only the random work, so that the name says what is wrong.
        let named = broken.iter().filter(|name| !name.starts_with("random")).count();
        println!("{fault:?}: {named} cases, {} random runs", broken.len() - named);
        assert!(named > 0, "no case of the suite noticed {fault:?}");
    }
}
