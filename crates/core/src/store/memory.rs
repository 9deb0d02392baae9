//! A store in memory: for tests, for the simulator, and for apps that want no file.
//!
//! It keeps what was committed for as long as the value lives, and nothing longer. A transaction writes in place and
//! notes how to undo each step: beginning costs nothing, dropping a transaction walks the notes backwards. It decides
//! nothing and knows no file. Tests: `tests/memory_store.rs` of `landfall-testkit`, which runs the public store suite.

use super::{
    ConflictPage, ConflictQuery, Counts, DamagedRow, EntityPage, Lease, Page, PullState, QUARANTINE_MAX,
    Quarantined, Replica, Savepoint, Store, StoreError, StoreRead, StoreTx,
};
use crate::conflict::ConflictRecord;
use crate::entity::StoredEntity;
use crate::id::{ConflictId, EntityKey, TaskId};
use crate::task::{JournalEntry, StateKind, Task};
use crate::time::Timestamp;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;
use core::ops::Bound::{Excluded, Included, Unbounded};

/// Keeps the queue in memory. A clone is a copy that goes its own way.
///
/// ```
/// use landfall_core::store::{Store, memory::MemoryStore};
/// let mut store = MemoryStore::default();
/// let mut tx = store.begin().unwrap();
/// assert_eq!(tx.next_seq().unwrap(), 1);
/// tx.commit().unwrap();
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore {
    state: State,
}

impl MemoryStore {
    /// Spoils the row of a task as a failing disk would, so that tests can see what a damaged row does. Returns
    /// whether there is such a task.
    pub fn damage(&mut self, id: TaskId) -> bool {
        let Some(row) = self.state.ids.get(&id).and_then(|seq| self.state.tasks.get_mut(seq)) else {
            return false;
        };
        row.damaged = true;
        true
    }

    /// Likewise the row of what is known of a record.
    pub fn damage_entity(&mut self, key: &EntityKey) -> bool {
        let Some(row) = self.state.entities.get_mut(key) else { return false };
        row.damaged = true;
        true
    }

    /// Likewise the row of a conflict.
    pub fn damage_conflict(&mut self, id: ConflictId) -> bool {
        let place = self.state.conflict_ids.get(&id);
        let Some(row) = place.and_then(|place| self.state.conflicts.get_mut(place)) else { return false };
        row.damaged = true;
        true
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("counts", &self.state.counts()).finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    fn begin(&mut self) -> Result<Box<dyn StoreTx + '_>, StoreError> {
        Ok(Box::new(MemoryTx { state: &mut self.state, undo: Vec::new(), points: Vec::new(), last_point: 0 }))
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A task and where it stands in the indexes. A damaged row keeps its task, but never hands it out.
#[derive(Clone)]
struct Row {
    task: Task,
    damaged: bool,
    /// Where the row counts; differs from the task's own state once a damaged row is quarantined.
    state: StateKind,
    /// Likewise.
    claim_at: Option<Timestamp>,
}

impl Row {
    fn read(&self) -> Result<Task, StoreError> {
        if self.damaged { Err(StoreError::Damaged(self.damage().what)) } else { Ok(self.task.clone()) }
    }

    fn damage(&self) -> DamagedRow {
        DamagedRow { seq: self.task.seq, what: format!("the task at position {}", self.task.seq) }
    }
}

/// What is known of a record, unless the row is damaged.
#[derive(Clone)]
struct EntityRow {
    entity: StoredEntity,
    damaged: bool,
}

/// A conflict, unless the row is damaged.
#[derive(Clone)]
struct ConflictRow {
    record: ConflictRecord,
    damaged: bool,
}

impl ConflictRow {
    fn damage(&self) -> String {
        format!("the conflict {}", self.record.id)
    }
}

/// Everything, with the indexes that make each question cheap.
#[derive(Clone, Default)]
struct State {
    replica: Option<Replica>,
    lease: Option<Lease>,
    last_seq: u64,
    tasks: BTreeMap<u64, Row>,
    ids: BTreeMap<TaskId, u64>,
    of_entity: BTreeMap<EntityKey, BTreeSet<u64>>,
    of_lane: BTreeMap<String, BTreeSet<u64>>,
    in_state: BTreeMap<StateKind, BTreeSet<u64>>,
    ready: BTreeSet<(Reverse<i32>, u64)>,
    waiting: BTreeSet<(Timestamp, u64)>,
    entities: BTreeMap<EntityKey, EntityRow>,
    journal: BTreeMap<TaskId, JournalEntry>,
    journal_by_time: BTreeSet<(Timestamp, TaskId)>,
    /// In the order in which they were kept.
    conflicts: BTreeMap<u64, ConflictRow>,
    conflict_ids: BTreeMap<ConflictId, u64>,
    conflicts_of: BTreeMap<EntityKey, BTreeSet<u64>>,
    pull: Option<PullState>,
    quarantined: Vec<Quarantined>,
}

impl State {
    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (state, rows) in &self.in_state {
            *counts.of_mut(*state) = rows.len() as u64;
        }
        counts
    }

    /// Reads the rows at `positions`, damaged ones apart.
    fn page(&self, positions: impl Iterator<Item = u64>) -> Page {
        let mut page = Page::default();
        for row in positions.filter_map(|seq| self.tasks.get(&seq)) {
            if row.damaged { page.damaged.push(row.damage()) } else { page.tasks.push(row.task.clone()) }
        }
        page
    }

    fn read_at(&self, seq: Option<u64>) -> Result<Option<Task>, StoreError> {
        seq.and_then(|seq| self.tasks.get(&seq)).map(Row::read).transpose()
    }

    fn insert(&mut self, row: Row) {
        let (seq, task) = (row.task.seq, &row.task);
        self.ids.insert(task.id, seq);
        add(&mut self.of_entity, &task.entity, seq);
        if let Some(lane) = &task.lane {
            add(&mut self.of_lane, lane, seq);
        }
        add(&mut self.in_state, &row.state, seq);
        match row.claim_at {
            Some(at) if at <= Timestamp::ALWAYS => self.ready.insert((Reverse(task.priority), seq)),
            Some(at) => self.waiting.insert((at, seq)),
            None => false,
        };
        self.tasks.insert(seq, row);
    }

    fn remove(&mut self, seq: u64) -> Option<Row> {
        let row = self.tasks.remove(&seq)?;
        self.ids.remove(&row.task.id);
        take(&mut self.of_entity, &row.task.entity, seq);
        if let Some(lane) = &row.task.lane {
            take(&mut self.of_lane, lane, seq);
        }
        take(&mut self.in_state, &row.state, seq);
        match row.claim_at {
            Some(at) if at <= Timestamp::ALWAYS => self.ready.remove(&(Reverse(row.task.priority), seq)),
            Some(at) => self.waiting.remove(&(at, seq)),
            None => false,
        };
        Some(row)
    }

    fn set_journal(&mut self, id: TaskId, entry: Option<JournalEntry>) -> Option<JournalEntry> {
        let at = entry.as_ref().map(|entry| entry.at);
        let old = match entry {
            Some(entry) => self.journal.insert(id, entry),
            None => self.journal.remove(&id),
        };
        if let Some(old) = &old {
            self.journal_by_time.remove(&(old.at, id));
        }
        self.journal_by_time.extend(at.map(|at| (at, id)));
        old
    }

    /// Writes the conflict at `place` or takes it away. It must be of the record that the one before it was of.
    fn set_conflict(&mut self, place: u64, row: Option<ConflictRow>) -> Option<ConflictRow> {
        if let Some(ConflictRow { record, .. }) = &row {
            self.conflict_ids.insert(record.id, place);
            add(&mut self.conflicts_of, &record.entity, place);
        }
        let gone = row.is_none();
        let old = match row {
            Some(row) => self.conflicts.insert(place, row),
            None => self.conflicts.remove(&place),
        };
        if let Some(ConflictRow { record, .. }) = old.as_ref().filter(|_| gone) {
            self.conflict_ids.remove(&record.id);
            take(&mut self.conflicts_of, &record.entity, place);
        }
        old
    }
}

fn add<K: Ord + Clone>(index: &mut BTreeMap<K, BTreeSet<u64>>, key: &K, seq: u64) {
    match index.get_mut(key) {
        Some(rows) => {
            rows.insert(seq);
        }
        None => {
            index.insert(key.clone(), BTreeSet::from([seq]));
        }
    }
}

fn take<K: Ord>(index: &mut BTreeMap<K, BTreeSet<u64>>, key: &K, seq: u64) {
    if let Some(rows) = index.get_mut(key) {
        rows.remove(&seq);
        if rows.is_empty() {
            index.remove(key);
        }
    }
}

fn least_after(rows: Option<&BTreeSet<u64>>, after: u64) -> Option<u64> {
    rows?.range((Excluded(after), Unbounded)).next().copied()
}

/// How to take one step back.
enum Undo {
    Replica(Option<Replica>),
    Lease(Option<Lease>),
    LastSeq(u64),
    TaskAdded(u64),
    TaskRemoved(Box<Row>),
    Entity(EntityKey, Option<EntityRow>),
    Journal(TaskId, Option<JournalEntry>),
    Conflict(u64, Option<Box<ConflictRow>>),
    Pull(Option<PullState>),
    Quarantined(Vec<Quarantined>),
}

struct MemoryTx<'s> {
    state: &'s mut State,
    undo: Vec<Undo>,
    /// Open savepoints: their names and how long the notes were.
    points: Vec<(u64, usize)>,
    last_point: u64,
}

impl fmt::Debug for MemoryTx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTx").field("steps", &self.undo.len()).finish_non_exhaustive()
    }
}

impl Drop for MemoryTx<'_> {
    fn drop(&mut self) {
        self.undo_to(0);
    }
}

impl MemoryTx<'_> {
    fn undo_to(&mut self, length: usize) {
        while self.undo.len() > length {
            let Some(step) = self.undo.pop() else { return };
            match step {
                Undo::Replica(old) => self.state.replica = old,
                Undo::Lease(old) => self.state.lease = old,
                Undo::LastSeq(old) => self.state.last_seq = old,
                Undo::TaskAdded(seq) => drop(self.state.remove(seq)),
                Undo::TaskRemoved(row) => self.state.insert(*row),
                Undo::Entity(key, Some(old)) => drop(self.state.entities.insert(key, old)),
                Undo::Entity(key, None) => drop(self.state.entities.remove(&key)),
                Undo::Journal(id, old) => drop(self.state.set_journal(id, old)),
                Undo::Conflict(place, old) => drop(self.state.set_conflict(place, old.map(|old| *old))),
                Undo::Pull(old) => self.state.pull = old,
                Undo::Quarantined(old) => self.state.quarantined = old,
            }
        }
    }

    fn insert(&mut self, row: Row) {
        self.undo.push(Undo::TaskAdded(row.task.seq));
        self.state.insert(row);
    }

    fn remove(&mut self, seq: u64) {
        if let Some(row) = self.state.remove(seq) {
            self.undo.push(Undo::TaskRemoved(Box::new(row)));
        }
    }

    fn see_seq(&mut self, seq: u64) {
        if seq > self.state.last_seq {
            self.undo.push(Undo::LastSeq(self.state.last_seq));
            self.state.last_seq = seq;
        }
    }

    fn set_journal(&mut self, id: TaskId, entry: Option<JournalEntry>) {
        let old = self.state.set_journal(id, entry);
        self.undo.push(Undo::Journal(id, old));
    }

    /// Where `point` is among the open savepoints.
    fn find(&self, point: Savepoint) -> Result<usize, StoreError> {
        let found = self.points.iter().position(|(name, _)| *name == point.0);
        found.ok_or_else(|| StoreError::Misuse("there is no such savepoint in this transaction".to_string()))
    }
}

impl StoreRead for MemoryTx<'_> {
    fn replica(&self) -> Result<Option<Replica>, StoreError> {
        Ok(self.state.replica.clone())
    }

    fn lease(&self) -> Result<Option<Lease>, StoreError> {
        Ok(self.state.lease.clone())
    }

    fn counts(&self) -> Result<Counts, StoreError> {
        Ok(self.state.counts())
    }

    fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.state.read_at(self.state.ids.get(&id).copied())
    }

    fn tasks_after(&self, after: u64, limit: usize) -> Result<Page, StoreError> {
        let rows = self.state.tasks.range((Excluded(after), Unbounded));
        Ok(self.state.page(rows.take(limit).map(|(seq, _)| *seq)))
    }

    fn last_of_entity(&self, entity: &EntityKey) -> Result<Option<Task>, StoreError> {
        self.state.read_at(self.state.of_entity.get(entity).and_then(BTreeSet::last).copied())
    }

    fn next_of_entity(&self, entity: &EntityKey, after: u64) -> Result<Option<Task>, StoreError> {
        self.state.read_at(least_after(self.state.of_entity.get(entity), after))
    }

    fn next_of_lane(&self, lane: &str, after: u64) -> Result<Option<Task>, StoreError> {
        self.state.read_at(least_after(self.state.of_lane.get(lane), after))
    }

    fn claimable(&self, now: Timestamp, limit: usize) -> Result<Page, StoreError> {
        let ready = self.state.ready.iter().map(|(_, seq)| *seq).take(limit);
        let due = (now > Timestamp::ALWAYS)
            .then(|| self.state.waiting.range(..=(now, u64::MAX)).map(|(_, seq)| *seq).take(limit));
        let mut page = self.state.page(ready.chain(due.into_iter().flatten()));
        page.tasks.sort_by_key(|task| (Reverse(task.priority), task.seq));
        page.tasks.truncate(limit);
        Ok(page)
    }

    fn next_claim(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.state.waiting.range((Excluded((now, u64::MAX)), Unbounded)).next().map(|(at, _)| *at))
    }

    fn waiting_after(&self, moment: Timestamp, limit: usize) -> Result<Page, StoreError> {
        let waiting = self.state.waiting.range((Excluded((moment, u64::MAX)), Unbounded));
        Ok(self.state.page(waiting.map(|(_, seq)| *seq).take(limit)))
    }

    fn tasks_in_state(&self, state: StateKind, after: u64, limit: usize) -> Result<Page, StoreError> {
        let rows = self.state.in_state.get(&state).map(|rows| rows.range((Excluded(after), Unbounded)));
        Ok(self.state.page(rows.into_iter().flatten().copied().take(limit)))
    }

    fn oldest(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.state.tasks.values().find(|row| !row.damaged).map(|row| row.task.enqueued_at))
    }

    fn entity(&self, key: &EntityKey) -> Result<Option<StoredEntity>, StoreError> {
        match self.state.entities.get(key) {
            Some(row) if row.damaged => Err(StoreError::Damaged(format!("what is known of {key}"))),
            row => Ok(row.map(|row| row.entity.clone())),
        }
    }

    fn entities_after(
        &self,
        entity_type: Option<&str>,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<EntityPage, StoreError> {
        let first = entity_type.map(|kind| EntityKey::new(kind, ""));
        let from = match (after, &first) {
            (Some(after), Some(first)) if after < first => Included(first),
            (Some(after), _) => Excluded(after),
            (None, Some(first)) => Included(first),
            (None, None) => Unbounded,
        };
        let rows = self.state.entities.range((from, Unbounded));
        let wanted = |key: &EntityKey| entity_type.is_none_or(|kind| key.entity_type == kind);
        let mut page = EntityPage::default();
        for (key, row) in rows.take_while(|(key, _)| wanted(key)).take(limit) {
            if row.damaged {
                page.damaged.push(format!("what is known of {key}"));
            } else {
                page.entities.push(row.entity.clone());
            }
            page.last = Some(key.clone());
        }
        Ok(page)
    }

    fn journal(&self, id: TaskId) -> Result<Option<JournalEntry>, StoreError> {
        Ok(self.state.journal.get(&id).cloned())
    }

    fn conflict(&self, id: ConflictId) -> Result<Option<ConflictRecord>, StoreError> {
        let place = self.state.conflict_ids.get(&id);
        match place.and_then(|place| self.state.conflicts.get(place)) {
            Some(row) if row.damaged => Err(StoreError::Damaged(row.damage())),
            row => Ok(row.map(|row| row.record.clone())),
        }
    }

    fn conflicts(&self, which: &ConflictQuery, limit: usize) -> Result<ConflictPage, StoreError> {
        let end = match which.before {
            None => u64::MAX,
            Some(before) => match self.state.conflict_ids.get(&before) {
                Some(place) => *place,
                None => return Ok(ConflictPage::default()),
            },
        };
        let rows: Box<dyn Iterator<Item = &ConflictRow> + '_> = match &which.entity {
            None => Box::new(self.state.conflicts.range(..end).rev().map(|(_, row)| row)),
            Some(key) => {
                let places = self.state.conflicts_of.get(key).map(|places| places.range(..end).rev());
                Box::new(places.into_iter().flatten().filter_map(|place| self.state.conflicts.get(place)))
            }
        };
        let mut page = ConflictPage::default();
        for row in rows.filter(|row| !which.open_only || row.record.is_open()) {
            if page.conflicts.len() >= limit {
                break;
            }
            if row.damaged {
                page.damaged.push(row.damage());
            } else {
                page.conflicts.push(row.record.clone());
            }
        }
        Ok(page)
    }

    fn pull_state(&self) -> Result<Option<PullState>, StoreError> {
        Ok(self.state.pull.clone())
    }

    fn quarantined(&self, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        Ok(self.state.quarantined.iter().rev().take(limit).cloned().collect())
    }
}

impl StoreTx for MemoryTx<'_> {
    fn put_replica(&mut self, replica: &Replica) -> Result<(), StoreError> {
        let old = self.state.replica.replace(replica.clone());
        self.undo.push(Undo::Replica(old));
        Ok(())
    }

    fn put_lease(&mut self, lease: &Lease) -> Result<(), StoreError> {
        let old = self.state.lease.replace(lease.clone());
        self.undo.push(Undo::Lease(old));
        Ok(())
    }

    fn next_seq(&mut self) -> Result<u64, StoreError> {
        self.see_seq(self.state.last_seq + 1);
        Ok(self.state.last_seq)
    }

    fn put_task(&mut self, task: &Task) -> Result<(), StoreError> {
        if task.seq == 0 || i64::try_from(task.seq).is_err() {
            return Err(StoreError::Misuse(format!("{} is not a position in the queue", task.seq)));
        }
        if self.state.tasks.get(&task.seq).is_some_and(|row| row.task.id != task.id) {
            return Err(StoreError::Misuse(format!("position {} is taken by another task", task.seq)));
        }
        if let Some(known) = self.state.ids.get(&task.id).copied() {
            self.remove(known);
        }
        self.see_seq(task.seq);
        let (state, claim_at) = (task.state.kind(), task.claim_at);
        self.insert(Row { task: task.clone(), damaged: false, state, claim_at });
        Ok(())
    }

    fn settle_task(&mut self, task: &Task, entry: &JournalEntry) -> Result<(), StoreError> {
        if entry.task_id != task.id {
            return Err(StoreError::Misuse("a task is settled with the entry of another".to_string()));
        }
        let Some(known) = self.state.ids.get(&task.id).copied() else {
            return Err(StoreError::Misuse("a task is settled that is not in the queue".to_string()));
        };
        self.remove(known);
        self.set_journal(task.id, Some(entry.clone()));
        Ok(())
    }

    fn quarantine(&mut self, row: &DamagedRow) -> Result<(), StoreError> {
        let Some(mut old) = self.state.tasks.get(&row.seq).filter(|row| row.damaged).cloned() else {
            return Err(StoreError::Misuse(format!("the row at position {} is not damaged", row.seq)));
        };
        self.remove(row.seq);
        (old.state, old.claim_at) = (StateKind::Dead, None);
        self.insert(old);
        Ok(())
    }

    fn put_entity(&mut self, entity: &StoredEntity) -> Result<(), StoreError> {
        if entity.staged.as_ref().is_some_and(|staged| staged.key != entity.key) {
            return Err(StoreError::Misuse("the staged state is that of another record".to_string()));
        }
        let row = EntityRow { entity: entity.clone(), damaged: false };
        let old = self.state.entities.insert(entity.key.clone(), row);
        self.undo.push(Undo::Entity(entity.key.clone(), old));
        Ok(())
    }

    fn put_conflict(&mut self, conflict: &ConflictRecord) -> Result<(), StoreError> {
        if conflict.remote.as_ref().is_some_and(|remote| remote.key != conflict.entity) {
            return Err(StoreError::Misuse("the remote state is that of another record".to_string()));
        }
        let known = self.state.conflict_ids.get(&conflict.id).copied();
        let old = known.and_then(|place| self.state.conflicts.get(&place));
        if old.is_some_and(|old| old.record.entity != conflict.entity) {
            return Err(StoreError::Misuse("a conflict does not move to another record".to_string()));
        }
        let next = || self.state.conflicts.last_key_value().map_or(0, |(place, _)| place + 1);
        let place = known.unwrap_or_else(next);
        let row = ConflictRow { record: conflict.clone(), damaged: false };
        let old = self.state.set_conflict(place, Some(row));
        self.undo.push(Undo::Conflict(place, old.map(Box::new)));
        Ok(())
    }

    fn put_pull_state(&mut self, state: &PullState) -> Result<(), StoreError> {
        let old = self.state.pull.replace(state.clone());
        self.undo.push(Undo::Pull(old));
        Ok(())
    }

    fn put_quarantined(&mut self, record: &Quarantined) -> Result<(), StoreError> {
        self.undo.push(Undo::Quarantined(self.state.quarantined.clone()));
        self.state.quarantined.push(record.clone());
        let over = self.state.quarantined.len().saturating_sub(QUARANTINE_MAX);
        self.state.quarantined.drain(..over);
        Ok(())
    }

    fn prune_conflicts(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        // Of a damaged row nobody knows whether it is settled.
        let may_go = |row: &ConflictRow| !row.damaged && !row.record.is_open() && row.record.at < before;
        let old = self.state.conflicts.iter().filter(|(_, row)| may_go(row));
        let old: Vec<u64> = old.map(|(place, _)| *place).take(limit).collect();
        for place in &old {
            let gone = self.state.set_conflict(*place, None);
            self.undo.push(Undo::Conflict(*place, gone.map(Box::new)));
        }
        Ok(old.len())
    }

    fn prune_journal(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let old = self.state.journal_by_time.iter().take_while(|(at, _)| *at < before).take(limit);
        let old: Vec<TaskId> = old.map(|(_, id)| *id).collect();
        for id in &old {
            self.set_journal(*id, None);
        }
        Ok(old.len())
    }

    fn savepoint(&mut self) -> Result<Savepoint, StoreError> {
        self.last_point += 1;
        self.points.push((self.last_point, self.undo.len()));
        Ok(Savepoint(self.last_point))
    }

    fn rollback_to(&mut self, point: Savepoint) -> Result<(), StoreError> {
        let index = self.find(point)?;
        self.undo_to(self.points[index].1);
        self.points.truncate(index + 1);
        Ok(())
    }

    fn release(&mut self, point: Savepoint) -> Result<(), StoreError> {
        let index = self.find(point)?;
        self.points.truncate(index);
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        self.undo.clear();
        Ok(())
    }
}
