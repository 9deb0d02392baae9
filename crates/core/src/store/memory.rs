//! A store in memory: for tests, for the simulator, and for apps that want no file.
//!
//! It keeps what was committed for as long as the value lives, and nothing longer. A transaction writes in place and
//! notes how to undo each step: beginning costs nothing, dropping a transaction walks the notes backwards. It decides
//! nothing and knows no file. Tests: `tests/memory_store.rs` of `landfall-testkit`, which runs the public store suite.

use super::{
    ConflictPage, ConflictQuery, Controls, Counts, DamagedRow, EntityPage, JournalPage, Lease, Page,
    PullState, QUARANTINE_MAX, Quarantined, Replica, Savepoint, Store, StoreError, StoreRead, StoreTx,
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
    /// The queue that is open, and whose it is.
    state: State,
    identity: Option<String>,
    /// The queues of the others.
    others: BTreeMap<Option<String>, State>,
}

/// The longest name of an identity in bytes: the same in every store of ours.
const IDENTITY_MAX: usize = 1_024;

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

    fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    fn switch_identity(&mut self, identity: Option<&str>) -> Result<(), StoreError> {
        if identity.is_some_and(|name| name.is_empty() || name.len() > IDENTITY_MAX) {
            let text = format!("the name of an identity has 1 to {IDENTITY_MAX} bytes");
            return Err(StoreError::Misuse(text));
        }
        let next = identity.map(String::from);
        if next != self.identity {
            let state = self.others.remove(&next).unwrap_or_default();
            let state = core::mem::replace(&mut self.state, state);
            let identity = core::mem::replace(&mut self.identity, next);
            self.others.insert(identity, state);
        }
        Ok(())
    }

    fn identities(&mut self) -> Result<Vec<(Option<String>, Counts)>, StoreError> {
        let others = self.others.iter().map(|(name, state)| (name.clone(), state.counts()));
        let mut all: Vec<_> = others.chain([(self.identity.clone(), self.state.counts())]).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
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
    /// Likewise.
    lapses_at: Option<Timestamp>,
    /// Likewise.
    held: bool,
}

impl Row {
    fn new(task: &Task) -> Self {
        Self {
            task: task.clone(),
            damaged: false,
            state: task.state.kind(),
            claim_at: task.claim_at,
            lapses_at: task.lapses_at(),
            held: task.standing.held,
        }
    }

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

/// How a task ended, and its place in the order in which entries were written.
#[derive(Clone)]
struct JournalRow {
    entry: JournalEntry,
    place: u64,
}

/// Everything of one identity, with the indexes that make each question cheap.
#[derive(Clone, Default)]
struct State {
    replica: Option<Replica>,
    lease: Option<Lease>,
    last_seq: u64,
    tasks: BTreeMap<u64, Row>,
    ids: BTreeMap<TaskId, u64>,
    of_entity: BTreeMap<EntityKey, BTreeSet<u64>>,
    /// Those that are not passed over.
    of_lane: BTreeMap<String, BTreeSet<u64>>,
    of_group: BTreeMap<String, BTreeSet<u64>>,
    waiting_for: BTreeMap<TaskId, BTreeSet<u64>>,
    held: BTreeSet<u64>,
    in_state: BTreeMap<StateKind, BTreeSet<u64>>,
    ready: BTreeSet<(i64, u64)>,
    waiting: BTreeSet<(Timestamp, u64)>,
    lapsing: BTreeSet<(Timestamp, u64)>,
    entities: BTreeMap<EntityKey, EntityRow>,
    journal: BTreeMap<TaskId, JournalRow>,
    journal_by_time: BTreeSet<(Timestamp, u64, TaskId)>,
    journal_places: u64,
    keys: BTreeMap<String, (TaskId, Timestamp)>,
    server_ids: BTreeMap<EntityKey, String>,
    /// By what the backend calls them.
    local_ids: BTreeMap<EntityKey, String>,
    controls: Option<Controls>,
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
        if let Some(lane) = task.lane.as_ref().filter(|_| !task.standing.passed_over) {
            add(&mut self.of_lane, lane, seq);
        }
        if let Some(group) = &task.terms.group {
            add(&mut self.of_group, group, seq);
        }
        for parent in &task.terms.waits_for {
            add(&mut self.waiting_for, parent, seq);
        }
        if row.held {
            self.held.insert(seq);
        }
        self.lapsing.extend(row.lapses_at.map(|at| (at, seq)));
        add(&mut self.in_state, &row.state, seq);
        match row.claim_at {
            Some(at) if at <= Timestamp::ALWAYS => self.ready.insert((task.rank(), seq)),
            Some(at) => self.waiting.insert((at, seq)),
            None => false,
        };
        self.tasks.insert(seq, row);
    }

    fn remove(&mut self, seq: u64) -> Option<Row> {
        let row = self.tasks.remove(&seq)?;
        let task = &row.task;
        self.ids.remove(&task.id);
        take(&mut self.of_entity, &task.entity, seq);
        if let Some(lane) = &task.lane {
            take(&mut self.of_lane, lane, seq);
        }
        if let Some(group) = &task.terms.group {
            take(&mut self.of_group, group, seq);
        }
        for parent in &task.terms.waits_for {
            take(&mut self.waiting_for, parent, seq);
        }
        self.held.remove(&seq);
        if let Some(at) = row.lapses_at {
            self.lapsing.remove(&(at, seq));
        }
        take(&mut self.in_state, &row.state, seq);
        match row.claim_at {
            Some(at) if at <= Timestamp::ALWAYS => self.ready.remove(&(task.rank(), seq)),
            Some(at) => self.waiting.remove(&(at, seq)),
            None => false,
        };
        Some(row)
    }

    fn set_journal(&mut self, id: TaskId, row: Option<JournalRow>) -> Option<JournalRow> {
        let name = |row: &JournalRow| (row.entry.at, row.place, id);
        let new = row.as_ref().map(name);
        let old = match row {
            Some(row) => self.journal.insert(id, row),
            None => self.journal.remove(&id),
        };
        if let Some(old) = &old {
            self.journal_by_time.remove(&name(old));
        }
        self.journal_by_time.extend(new);
        old
    }

    /// Remembers a key of the app's or forgets it.
    fn set_key(&mut self, key: &str, of: Option<(TaskId, Timestamp)>) -> Option<(TaskId, Timestamp)> {
        match of {
            Some(of) => self.keys.insert(key.to_string(), of),
            None => self.keys.remove(key),
        }
    }

    /// Remembers the backend's id of a record or forgets it. One that is known must be forgotten before it changes.
    fn set_server_id(&mut self, key: &EntityKey, server_id: Option<String>) -> Option<String> {
        let foreign = |id: &str| EntityKey::new(key.entity_type.as_str(), id);
        let new = server_id.as_deref().map(|id| (foreign(id), key.entity_id.clone()));
        let old = match server_id {
            Some(id) => self.server_ids.insert(key.clone(), id),
            None => self.server_ids.remove(key),
        };
        if let Some(old) = &old {
            self.local_ids.remove(&foreign(old));
        }
        self.local_ids.extend(new);
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
    Journal(TaskId, Option<JournalRow>),
    Key(String, Option<(TaskId, Timestamp)>),
    ServerId(EntityKey, Option<String>),
    Controls(Option<Controls>),
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
                Undo::Key(key, old) => drop(self.state.set_key(&key, old)),
                Undo::ServerId(key, old) => drop(self.state.set_server_id(&key, old)),
                Undo::Controls(old) => self.state.controls = old,
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
        self.state.journal_places += 1;
        let place = self.state.journal_places;
        let old = self.state.set_journal(id, entry.map(|entry| JournalRow { entry, place }));
        self.undo.push(Undo::Journal(id, old));
    }

    fn set_key(&mut self, key: &str, of: Option<(TaskId, Timestamp)>) {
        let old = self.state.set_key(key, of);
        self.undo.push(Undo::Key(key.to_string(), old));
    }

    fn set_server_id(&mut self, key: &EntityKey, server_id: Option<String>) {
        let old = self.state.set_server_id(key, server_id);
        self.undo.push(Undo::ServerId(key.clone(), old));
    }

    fn forget_entity(&mut self, key: &EntityKey) {
        if let Some(old) = self.state.entities.remove(key) {
            self.undo.push(Undo::Entity(key.clone(), Some(old)));
        }
    }

    fn forget_conflict(&mut self, place: u64) {
        let gone = self.state.set_conflict(place, None);
        self.undo.push(Undo::Conflict(place, gone.map(Box::new)));
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

    fn next_in_line(&self, entity: &EntityKey, after: u64) -> Result<Option<Task>, StoreError> {
        let rows = self.state.of_entity.get(entity).map(|rows| rows.range((Excluded(after), Unbounded)));
        let in_line = |seq: &u64| self.state.tasks.get(seq).is_some_and(|row| !row.task.standing.passed_over);
        self.state.read_at(rows.into_iter().flatten().copied().find(in_line))
    }

    fn next_of_lane(&self, lane: &str, after: u64) -> Result<Option<Task>, StoreError> {
        self.state.read_at(least_after(self.state.of_lane.get(lane), after))
    }

    fn tasks_of_group(&self, group: &str) -> Result<Page, StoreError> {
        Ok(self.state.page(self.state.of_group.get(group).into_iter().flatten().copied()))
    }

    fn waiting_for(&self, parent: TaskId, after: u64, limit: usize) -> Result<Page, StoreError> {
        let rows = self.state.waiting_for.get(&parent).map(|rows| rows.range((Excluded(after), Unbounded)));
        Ok(self.state.page(rows.into_iter().flatten().copied().take(limit)))
    }

    fn held_after(&self, after: u64, limit: usize) -> Result<Page, StoreError> {
        let rows = self.state.held.range((Excluded(after), Unbounded));
        Ok(self.state.page(rows.copied().take(limit)))
    }

    fn lapsed(&self, now: Timestamp, limit: usize) -> Result<Page, StoreError> {
        let rows = self.state.lapsing.range(..=(now, u64::MAX));
        Ok(self.state.page(rows.map(|(_, seq)| *seq).take(limit)))
    }

    fn next_lapse(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.state.lapsing.first().map(|(at, _)| *at))
    }

    fn claimable(&self, now: Timestamp, limit: usize) -> Result<Page, StoreError> {
        let ready = self.state.ready.iter().map(|(_, seq)| *seq).take(limit);
        let due = self.state.waiting.range(..=(now, u64::MAX)).map(|(_, seq)| *seq).take(limit);
        let mut page = self.state.page(ready.chain(due));
        page.tasks.sort_by_key(|task| (task.rank(), task.seq));
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
        Ok(self.state.journal.get(&id).map(|row| row.entry.clone()))
    }

    fn journal_entries(&self, before: Option<TaskId>, limit: usize) -> Result<JournalPage, StoreError> {
        let end = match before {
            None => Unbounded,
            Some(id) => match self.state.journal.get(&id) {
                Some(row) => Excluded((row.entry.at, row.place, id)),
                None => return Ok(JournalPage::default()),
            },
        };
        let ids = self.state.journal_by_time.range((Unbounded, end)).rev().map(|(_, _, id)| id);
        let rows = ids.filter_map(|id| self.state.journal.get(id));
        let entries = rows.map(|row| row.entry.clone()).take(limit).collect();
        Ok(JournalPage { entries, damaged: Vec::new() })
    }

    fn deduplicated(&self, key: &str) -> Result<Option<TaskId>, StoreError> {
        Ok(self.state.keys.get(key).map(|(task, _)| *task))
    }

    fn server_id(&self, key: &EntityKey) -> Result<Option<String>, StoreError> {
        Ok(self.state.server_ids.get(key).cloned())
    }

    fn local_id(&self, key: &EntityKey) -> Result<Option<String>, StoreError> {
        Ok(self.state.local_ids.get(key).cloned())
    }

    fn knows_server_ids(&self) -> Result<bool, StoreError> {
        Ok(!self.state.server_ids.is_empty())
    }

    fn controls(&self) -> Result<Option<Controls>, StoreError> {
        Ok(self.state.controls.clone())
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
        self.insert(Row::new(task));
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
        let Some(old) = self.state.tasks.get(&row.seq).filter(|row| row.damaged).cloned() else {
            return Err(StoreError::Misuse(format!("the row at position {} is not damaged", row.seq)));
        };
        self.remove(row.seq);
        self.insert(Row { state: StateKind::Dead, claim_at: None, lapses_at: None, held: false, ..old });
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

    fn remove_entity(&mut self, key: &EntityKey) -> Result<(), StoreError> {
        self.forget_entity(key);
        Ok(())
    }

    fn forget_records(&mut self, limit: usize) -> Result<usize, StoreError> {
        let mut left = limit;
        let entities: Vec<EntityKey> = self.state.entities.keys().take(left).cloned().collect();
        entities.iter().for_each(|key| self.forget_entity(key));
        left -= entities.len();
        let conflicts: Vec<u64> = self.state.conflicts.keys().take(left).copied().collect();
        conflicts.iter().for_each(|place| self.forget_conflict(*place));
        left -= conflicts.len();
        let ids: Vec<EntityKey> = self.state.server_ids.keys().take(left).cloned().collect();
        ids.iter().for_each(|key| self.set_server_id(key, None));
        left -= ids.len();
        let notes = self.state.quarantined.len().min(left);
        if notes > 0 {
            self.undo.push(Undo::Quarantined(self.state.quarantined.clone()));
            self.state.quarantined.drain(..notes);
        }
        left -= notes;
        let all_went = self.state.entities.is_empty()
            && self.state.conflicts.is_empty()
            && self.state.server_ids.is_empty()
            && self.state.quarantined.is_empty();
        if all_went && self.state.pull.is_some() {
            let old = self.state.pull.take();
            self.undo.push(Undo::Pull(old));
        }
        Ok(limit - left)
    }

    fn put_server_id(&mut self, key: &EntityKey, server_id: &str) -> Result<(), StoreError> {
        let of = self.state.local_ids.get(&EntityKey::new(key.entity_type.as_str(), server_id));
        if of.is_some_and(|of| *of != key.entity_id) {
            return Err(StoreError::Misuse("the backend's id is that of another record".to_string()));
        }
        match self.state.server_ids.get(key) {
            Some(known) if known == server_id => Ok(()),
            Some(_) => Err(StoreError::Misuse("the record has another id of the backend".to_string())),
            None => {
                self.set_server_id(key, Some(server_id.to_string()));
                Ok(())
            }
        }
    }

    fn put_deduplicated(&mut self, key: &str, task: TaskId, at: Timestamp) -> Result<(), StoreError> {
        if self.state.keys.contains_key(key) {
            return Err(StoreError::Misuse("the key is remembered already".to_string()));
        }
        self.set_key(key, Some((task, at)));
        Ok(())
    }

    fn put_controls(&mut self, controls: &Controls) -> Result<(), StoreError> {
        let old = self.state.controls.replace(controls.clone());
        self.undo.push(Undo::Controls(old));
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
        old.iter().for_each(|place| self.forget_conflict(*place));
        Ok(old.len())
    }

    fn prune_deduplicated(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let known = |task| self.state.ids.contains_key(task) || self.state.journal.contains_key(task);
        let old = self.state.keys.iter().filter(|(_, (task, at))| *at < before && !known(task));
        let mut old: Vec<(Timestamp, String)> = old.map(|(key, (_, at))| (*at, key.clone())).collect();
        old.sort();
        old.truncate(limit);
        old.iter().for_each(|(_, key)| self.set_key(key, None));
        Ok(old.len())
    }

    fn prune_journal(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let old = self.state.journal_by_time.iter().take_while(|(at, ..)| *at < before).take(limit);
        let old: Vec<TaskId> = old.map(|(_, _, id)| *id).collect();
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
