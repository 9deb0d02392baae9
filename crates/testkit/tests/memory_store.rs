//! The memory store keeps every promise of the store suite, and the suite notices stores that do not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_core::conflict::{ConflictRecord, DecidedBy, Settled};
use landfall_core::entity::{Body, RemoteEntity, StoredEntity};
use landfall_core::id::{ConflictId, EntityKey, TaskId};
use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{
    ConflictPage, ConflictQuery, Controls, Counts, DamagedRow, EntityPage, JournalPage, Lease, Page,
    PullState, Quarantined, Replica, Savepoint, Store, StoreError, StoreRead, StoreTx,
};
use landfall_core::task::{JournalEntry, Standing, StateKind, Task, Terms};
use landfall_core::time::Timestamp;
use landfall_testkit::conformance::store::{
    CASES, SEEDS, StoreUnderTest, broken_promises, compare_with_the_model,
};
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
    ReadingIsLost,
    ChangedAtIsLost,
    RecordsComeInNoOrder,
    RecordsOfEveryType,
    RecordsIncludeTheOneBefore,
    PageEndsAtTheLastWholeRecord,
    DamagedRecordsAreNotNamed,
    ConflictsBeforeIsIgnored,
    ConflictsOfEveryRecord,
    SettledConflictsLookOpen,
    DamagedConflictsAreNotNamed,
    ConflictIsKeptOnce,
    ConflictMovesToTheEnd,
    ConflictMayMoveToAnotherRecord,
    PruneTakesOpenConflicts,
    PruneOfConflictsTakesTheBoundary,
    PullStateIsWrittenOnce,
    PullStateForgetsTheCursor,
    QuarantinedOldestFirst,
    QuarantinedForgetsTooMuch,
    RankIsPriorityAlone,
    PassedOverStaysInLine,
    PassedOverStaysInLane,
    GroupIsIgnored,
    ParentIsIgnored,
    EverybodyIsHeld,
    LapsesAtOnce,
    NextLapseIsLate,
    JournalOldestFirst,
    JournalBeforeIsIgnored,
    KeyIsRememberedAnew,
    PruneForgetsFreshKeys,
    KeysOutliveTheirTasks,
    ServerIdIsFoundOneWay,
    ServerIdMayBeShared,
    ControlsAreWrittenOnce,
    ForgettingKeepsThePullState,
    ForgettingTakesTooMuch,
    RemovedRecordsStay,
    TermsAreLost,
    StandingIsLost,
    ActionIsLost,
    HistoryIsCut,
    BecameIsLost,
    IdentitiesShareAQueue,
    OpeningAgainForgetsTheIdentity,
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
    Fault::ReadingIsLost,
    Fault::ChangedAtIsLost,
    Fault::RecordsComeInNoOrder,
    Fault::RecordsOfEveryType,
    Fault::RecordsIncludeTheOneBefore,
    Fault::PageEndsAtTheLastWholeRecord,
    Fault::DamagedRecordsAreNotNamed,
    Fault::ConflictsBeforeIsIgnored,
    Fault::ConflictsOfEveryRecord,
    Fault::SettledConflictsLookOpen,
    Fault::DamagedConflictsAreNotNamed,
    Fault::ConflictIsKeptOnce,
    Fault::ConflictMovesToTheEnd,
    Fault::ConflictMayMoveToAnotherRecord,
    Fault::PruneTakesOpenConflicts,
    Fault::PruneOfConflictsTakesTheBoundary,
    Fault::PullStateIsWrittenOnce,
    Fault::PullStateForgetsTheCursor,
    Fault::QuarantinedOldestFirst,
    Fault::QuarantinedForgetsTooMuch,
    Fault::RankIsPriorityAlone,
    Fault::PassedOverStaysInLine,
    Fault::PassedOverStaysInLane,
    Fault::GroupIsIgnored,
    Fault::ParentIsIgnored,
    Fault::EverybodyIsHeld,
    Fault::LapsesAtOnce,
    Fault::NextLapseIsLate,
    Fault::JournalOldestFirst,
    Fault::JournalBeforeIsIgnored,
    Fault::KeyIsRememberedAnew,
    Fault::PruneForgetsFreshKeys,
    Fault::KeysOutliveTheirTasks,
    Fault::ServerIdIsFoundOneWay,
    Fault::ServerIdMayBeShared,
    Fault::ControlsAreWrittenOnce,
    Fault::ForgettingKeepsThePullState,
    Fault::ForgettingTakesTooMuch,
    Fault::RemovedRecordsStay,
    Fault::TermsAreLost,
    Fault::StandingIsLost,
    Fault::ActionIsLost,
    Fault::HistoryIsCut,
    Fault::BecameIsLost,
    Fault::IdentitiesShareAQueue,
    Fault::OpeningAgainForgetsTheIdentity,
];

/// A row that is to be spoiled.
#[derive(Debug)]
enum Target {
    Task(TaskId),
    Entity(EntityKey),
    Conflict(ConflictId),
}

/// Makes memory stores with a fault, whose rows can be spoiled from outside.
struct Memory {
    fault: Fault,
    to_damage: Arc<Mutex<Vec<Target>>>,
}

impl Memory {
    fn with(fault: Fault) -> Self {
        Self { fault, to_damage: Arc::default() }
    }

    fn spoil(&self, store: Box<dyn Store>, row: Target) -> Option<Box<dyn Store>> {
        self.to_damage.lock().unwrap().push(row);
        Some(store)
    }
}

impl StoreUnderTest for Memory {
    fn create(&self) -> Box<dyn Store> {
        self.to_damage.lock().unwrap().clear();
        let (inner, to_damage) = (MemoryStore::default(), Arc::clone(&self.to_damage));
        Box::new(Faulty { inner, to_damage, fault: self.fault, identity: None })
    }

    fn reopen(&self, mut store: Box<dyn Store>) -> Box<dyn Store> {
        store.reopen().unwrap();
        store
    }

    fn damage(&self, store: Box<dyn Store>, task: TaskId) -> Option<Box<dyn Store>> {
        self.spoil(store, Target::Task(task))
    }

    fn damage_entity(&self, store: Box<dyn Store>, key: &EntityKey) -> Option<Box<dyn Store>> {
        self.spoil(store, Target::Entity(key.clone()))
    }

    fn damage_conflict(&self, store: Box<dyn Store>, id: ConflictId) -> Option<Box<dyn Store>> {
        self.spoil(store, Target::Conflict(id))
    }
}

#[derive(Debug)]
struct Faulty {
    inner: MemoryStore,
    to_damage: Arc<Mutex<Vec<Target>>>,
    fault: Fault,
    identity: Option<String>,
}

impl Store for Faulty {
    fn begin(&mut self) -> Result<Box<dyn StoreTx + '_>, StoreError> {
        for row in self.to_damage.lock().unwrap().drain(..) {
            if self.fault != Fault::DamageIsHidden {
                let spoiled = match row {
                    Target::Task(id) => self.inner.damage(id),
                    Target::Entity(key) => self.inner.damage_entity(&key),
                    Target::Conflict(id) => self.inner.damage_conflict(id),
                };
                assert!(spoiled);
            }
        }
        let inner = self.inner.begin()?;
        let before = inner.counts()?;
        Ok(Box::new(FaultyTx { inner, fault: self.fault, before }))
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        if self.fault == Fault::OpeningAgainForgetsTheIdentity {
            self.inner.switch_identity(None)?;
        }
        self.inner.reopen()
    }

    fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    fn switch_identity(&mut self, identity: Option<&str>) -> Result<(), StoreError> {
        if self.fault != Fault::IdentitiesShareAQueue {
            self.inner.switch_identity(identity)?;
        }
        self.identity = identity.map(str::to_owned);
        Ok(())
    }

    fn identities(&mut self) -> Result<Vec<(Option<String>, Counts)>, StoreError> {
        self.inner.identities()
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
    fn next_in_line(&self, entity: &EntityKey, after: u64) -> Result<Option<Task>, StoreError> {
        if self.has(Fault::PassedOverStaysInLine) {
            return self.inner.next_of_entity(entity, after);
        }
        self.inner.next_in_line(entity, after)
    }
    fn tasks_of_group(&self, group: &str) -> Result<Page, StoreError> {
        if self.has(Fault::GroupIsIgnored) {
            return self.inner.tasks_after(0, usize::MAX);
        }
        self.inner.tasks_of_group(group)
    }
    fn waiting_for(&self, parent: TaskId, after: u64, limit: usize) -> Result<Page, StoreError> {
        if self.has(Fault::ParentIsIgnored) {
            let mut page = self.inner.tasks_after(after, usize::MAX)?;
            page.tasks.retain(|task| !task.terms.waits_for.is_empty());
            page.tasks.truncate(limit);
            return Ok(page);
        }
        self.inner.waiting_for(parent, after, limit)
    }
    fn held_after(&self, after: u64, limit: usize) -> Result<Page, StoreError> {
        if self.has(Fault::EverybodyIsHeld) {
            return self.inner.tasks_after(after, limit);
        }
        self.inner.held_after(after, limit)
    }
    fn lapsed(&self, now: Timestamp, limit: usize) -> Result<Page, StoreError> {
        let now = if self.has(Fault::LapsesAtOnce) { Timestamp(i64::MAX) } else { now };
        self.inner.lapsed(now, limit)
    }
    fn next_lapse(&self) -> Result<Option<Timestamp>, StoreError> {
        if self.has(Fault::NextLapseIsLate) {
            let lapsing = self.inner.lapsed(Timestamp(i64::MAX), usize::MAX)?.tasks;
            return Ok(lapsing.iter().filter_map(Task::lapses_at).max());
        }
        self.inner.next_lapse()
    }
    fn next_of_lane(&self, lane: &str, after: u64) -> Result<Option<Task>, StoreError> {
        if self.has(Fault::PassedOverStaysInLane) {
            let mut tasks = self.inner.tasks_after(after, usize::MAX)?.tasks.into_iter();
            return Ok(tasks.find(|task| task.lane.as_deref() == Some(lane)));
        }
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
        if self.has(Fault::RankIsPriorityAlone) {
            page.tasks.sort_by_key(|task| (std::cmp::Reverse(task.priority), task.seq));
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
    fn journal_entries(&self, before: Option<TaskId>, limit: usize) -> Result<JournalPage, StoreError> {
        let before = before.filter(|_| !self.has(Fault::JournalBeforeIsIgnored));
        let mut page = self.inner.journal_entries(before, limit)?;
        if self.has(Fault::JournalOldestFirst) {
            page.entries.reverse();
        }
        Ok(page)
    }
    fn deduplicated(&self, key: &str) -> Result<Option<TaskId>, StoreError> {
        self.inner.deduplicated(key)
    }
    fn server_id(&self, key: &EntityKey) -> Result<Option<String>, StoreError> {
        self.inner.server_id(key)
    }
    fn local_id(&self, key: &EntityKey) -> Result<Option<String>, StoreError> {
        if self.has(Fault::ServerIdIsFoundOneWay) { Ok(None) } else { self.inner.local_id(key) }
    }
    fn knows_server_ids(&self) -> Result<bool, StoreError> {
        self.inner.knows_server_ids()
    }
    fn controls(&self) -> Result<Option<Controls>, StoreError> {
        self.inner.controls()
    }
    fn entities_after(
        &self,
        entity_type: Option<&str>,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<EntityPage, StoreError> {
        let entity_type = entity_type.filter(|_| !self.has(Fault::RecordsOfEveryType));
        let mut page = self.inner.entities_after(entity_type, after, limit)?;
        match self.fault {
            Fault::RecordsComeInNoOrder => page.entities.sort_by_key(|entity| entity.key.entity_id.clone()),
            Fault::RecordsIncludeTheOneBefore => {
                let before = after.map(|key| self.inner.entity(key)).transpose()?.flatten();
                page.entities.splice(0..0, before);
            }
            Fault::PageEndsAtTheLastWholeRecord => {
                page.last = page.entities.last().map(|entity| entity.key.clone());
            }
            Fault::DamagedRecordsAreNotNamed => page.damaged.clear(),
            _ => {}
        }
        Ok(page)
    }
    fn conflict(&self, id: ConflictId) -> Result<Option<ConflictRecord>, StoreError> {
        self.inner.conflict(id)
    }
    fn conflicts(&self, which: &ConflictQuery, limit: usize) -> Result<ConflictPage, StoreError> {
        let mut which = which.clone();
        match self.fault {
            Fault::ConflictsBeforeIsIgnored => which.before = None,
            Fault::ConflictsOfEveryRecord => which.entity = None,
            Fault::SettledConflictsLookOpen => which.open_only = false,
            _ => {}
        }
        let mut page = self.inner.conflicts(&which, limit)?;
        match self.fault {
            Fault::ConflictsOldestFirst => page.conflicts.reverse(),
            Fault::DamagedConflictsAreNotNamed => page.damaged.clear(),
            _ => {}
        }
        Ok(page)
    }
    fn pull_state(&self) -> Result<Option<PullState>, StoreError> {
        let state = self.inner.pull_state()?;
        let forgets = self.has(Fault::PullStateForgetsTheCursor);
        Ok(state.map(|state| PullState { cursor: state.cursor.filter(|_| !forgets), ..state }))
    }
    fn quarantined(&self, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        let mut records = self.inner.quarantined(limit)?;
        match self.fault {
            Fault::QuarantinedOldestFirst => records.reverse(),
            Fault::QuarantinedForgetsTooMuch => records.truncate(100),
            _ => {}
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
        let mut task = task.clone();
        match self.fault {
            Fault::TermsAreLost => task.terms = Terms::default(),
            Fault::StandingIsLost => task.standing = Standing::default(),
            Fault::ActionIsLost => task.intent.action = None,
            Fault::HistoryIsCut => task.history = task.history.last().cloned().into_iter().collect(),
            _ => {}
        }
        self.inner.put_task(&task)
    }
    fn settle_task(&mut self, task: &Task, entry: &JournalEntry) -> Result<(), StoreError> {
        let known = self.inner.task(task.id)?;
        let became = entry.became.filter(|_| !self.has(Fault::BecameIsLost));
        self.inner.settle_task(task, &JournalEntry { became, ..entry.clone() })?;
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
        let mut entity = entity.clone();
        match self.fault {
            Fault::StagedIsLost => entity.staged = None,
            Fault::ReadingIsLost => entity.reading = 0,
            Fault::ChangedAtIsLost => {
                let lost = |staged| RemoteEntity { changed_at: None, ..staged };
                entity.staged = entity.staged.map(lost);
            }
            _ => {}
        }
        self.inner.put_entity(&entity)
    }
    fn remove_entity(&mut self, key: &EntityKey) -> Result<(), StoreError> {
        if self.has(Fault::RemovedRecordsStay) { Ok(()) } else { self.inner.remove_entity(key) }
    }
    fn forget_records(&mut self, limit: usize) -> Result<usize, StoreError> {
        let pull = self.inner.pull_state()?.filter(|_| self.has(Fault::ForgettingKeepsThePullState));
        let more = usize::from(self.has(Fault::ForgettingTakesTooMuch));
        let gone = self.inner.forget_records(limit.saturating_add(more))?;
        pull.map_or(Ok(()), |pull| self.inner.put_pull_state(&pull))?;
        Ok(gone)
    }
    fn put_server_id(&mut self, key: &EntityKey, server_id: &str) -> Result<(), StoreError> {
        match self.inner.put_server_id(key, server_id) {
            Err(StoreError::Misuse(_)) if self.has(Fault::ServerIdMayBeShared) => Ok(()),
            outcome => outcome,
        }
    }
    fn put_deduplicated(&mut self, key: &str, task: TaskId, at: Timestamp) -> Result<(), StoreError> {
        match self.inner.put_deduplicated(key, task, at) {
            Err(StoreError::Misuse(_)) if self.has(Fault::KeyIsRememberedAnew) => Ok(()),
            outcome => outcome,
        }
    }
    fn put_controls(&mut self, controls: &Controls) -> Result<(), StoreError> {
        if self.has(Fault::ControlsAreWrittenOnce) && self.inner.controls()?.is_some() {
            return Ok(());
        }
        self.inner.put_controls(controls)
    }
    fn put_conflict(&mut self, conflict: &ConflictRecord) -> Result<(), StoreError> {
        match (self.fault, self.inner.conflict(conflict.id)) {
            (Fault::ConflictIsKeptOnce, Ok(Some(_))) => return Ok(()),
            (Fault::ConflictMovesToTheEnd, Ok(Some(known))) if known.entity == conflict.entity => {
                // Out of the way, then in again.
                self.inner.put_conflict(&ConflictRecord { at: Timestamp(i64::MIN), ..settled(&known) })?;
                self.inner.prune_conflicts(Timestamp(i64::MIN + 1), usize::MAX)?;
            }
            _ => {}
        }
        match self.inner.put_conflict(conflict) {
            Err(StoreError::Misuse(_)) if self.has(Fault::ConflictMayMoveToAnotherRecord) => Ok(()),
            outcome => outcome,
        }
    }
    fn put_pull_state(&mut self, state: &PullState) -> Result<(), StoreError> {
        if self.has(Fault::PullStateIsWrittenOnce) && self.inner.pull_state()?.is_some() {
            return Ok(());
        }
        self.inner.put_pull_state(state)
    }
    fn put_quarantined(&mut self, record: &Quarantined) -> Result<(), StoreError> {
        self.inner.put_quarantined(record)
    }
    fn prune_conflicts(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        if self.has(Fault::PruneTakesOpenConflicts) {
            let open = ConflictQuery { open_only: true, ..ConflictQuery::default() };
            for record in self.inner.conflicts(&open, usize::MAX)?.conflicts {
                self.inner.put_conflict(&settled(&record))?;
            }
        }
        let late = i64::from(self.has(Fault::PruneOfConflictsTakesTheBoundary));
        self.inner.prune_conflicts(Timestamp(before.0.saturating_add(late)), limit)
    }
    fn prune_deduplicated(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        if self.has(Fault::KeysOutliveTheirTasks) {
            return Ok(0);
        }
        let late = i64::from(self.has(Fault::PruneForgetsFreshKeys));
        self.inner.prune_deduplicated(Timestamp(before.0.saturating_add(late)), limit)
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

fn settled(record: &ConflictRecord) -> ConflictRecord {
    let (by, result) = (DecidedBy::Rule, Body::Deleted);
    let end = Settled { by, at: record.at, result, sent_as: None, forked_to: None };
    ConflictRecord { settled: Some(end), ..record.clone() }
}

#[test]
fn the_memory_store_keeps_every_promise() {
    for case in CASES {
        println!("{}", case.name);
        (case.run)(&Memory::with(Fault::None));
    }
}

#[test]
fn random_work_on_the_memory_store_agrees_with_the_model() {
    for seed in SEEDS {
        println!("seed {seed}");
        compare_with_the_model(&Memory::with(Fault::None), seed);
    }
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

#[test]
fn what_was_rolled_back_leaves_no_trace_in_the_positions() {
    let mut store = MemoryStore::default();
    let next = |store: &mut MemoryStore| store.begin().unwrap().next_seq().unwrap();
    let first = next(&mut store);
    assert_eq!(next(&mut store), first, "the transaction was dropped");
    let mut tx = store.begin().unwrap();
    let point = tx.savepoint().unwrap();
    assert_eq!(tx.next_seq().unwrap(), first);
    tx.rollback_to(point).unwrap();
    assert_eq!(tx.next_seq().unwrap(), first);
    tx.commit().unwrap();
    assert!(next(&mut store) > first);
}

/// A store of the shortest kind: what need not be written is not.
#[derive(Debug)]
struct Shortest(MemoryStore);

impl Store for Shortest {
    fn begin(&mut self) -> Result<Box<dyn StoreTx + '_>, StoreError> {
        self.0.begin()
    }
    fn reopen(&mut self) -> Result<(), StoreError> {
        self.0.reopen()
    }
}

#[test]
fn a_store_that_says_nothing_of_identities_keeps_one_queue_and_says_so() {
    let mut store = Shortest(MemoryStore::default());
    assert_eq!(store.identity(), None);
    store.switch_identity(None).unwrap();
    assert!(matches!(store.switch_identity(Some("ann")), Err(StoreError::Misuse(_))));
    assert_eq!(store.identity(), None);
    let mut tx = store.begin().unwrap();
    let seq = tx.next_seq().unwrap();
    tx.put_task(&landfall_testkit::conformance::store::samples::task(seq, &EntityKey::new("note", "1")))
        .unwrap();
    tx.commit().unwrap();
    let queues = store.identities().unwrap();
    assert_eq!(
        queues.iter().map(|(name, counts)| (name.as_deref(), counts.total())).collect::<Vec<_>>(),
        [(None, 1)]
    );
    assert!(store.changed_elsewhere().unwrap(), "it cannot tell, so somebody looks");
    // Nor does anybody else leave changes in it.
    let mut tx = store.begin().unwrap();
    assert!(tx.incoming(10).unwrap().is_empty());
    assert!(matches!(tx.remove_incoming(1), Err(StoreError::Misuse(_))));
    assert!(matches!(tx.refuse_incoming(1, "why"), Err(StoreError::Misuse(_))));
}

#[test]
fn the_memory_store_says_whose_queue_is_open_and_how_much_is_in_it_but_not_what() {
    let mut store = MemoryStore::default();
    assert_eq!(store.identity(), None);
    store.switch_identity(Some("ann")).unwrap();
    assert_eq!(store.identity(), Some("ann"));
    let mut tx = store.begin().unwrap();
    let seq = tx.next_seq().unwrap();
    tx.put_task(&landfall_testkit::conformance::store::samples::task(seq, &EntityKey::new("note", "hidden")))
        .unwrap();
    tx.commit().unwrap();
    let shown = format!("{store:?}");
    assert!(shown.contains("pending: 1") && !shown.contains("hidden"), "{shown}");
}
