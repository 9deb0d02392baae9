//! The contract with storage: synchronous, transactional, one writer.
//!
//! A store keeps rows and keeps them apart; it decides nothing. Every implementation must pass the public store suite
//! of `landfall-testkit`, which is the definition of this trait. Dropping a transaction rolls it back.

use crate::change::Change;
use crate::conflict::ConflictRecord;
use crate::entity::StoredEntity;
use crate::id::{ClientId, ConflictId, Cursor, EntityKey, Fence, ServerId, TaskId};
use crate::task::{JournalEntry, StateKind, Task};
use crate::time::{Hlc, Timestamp};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

pub mod memory;

/// A place where the queue is kept.
pub trait Store: fmt::Debug + Send {
    /// Begins a transaction that may write. There is at most one at a time; it sees its own writes.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when another process holds the store for too long; others when it cannot be used.
    fn begin(&mut self) -> Result<Box<dyn StoreTx + '_>, StoreError>;

    /// A second way in for readers beside the writer, if the store has one. It reads the queue that is open now, also
    /// after another was opened.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn reader(&self) -> Result<Option<Box<dyn StoreReader>>, StoreError> {
        Ok(None)
    }

    /// After a failed commit or an I/O error: gives up everything held and opens again what is durable. Nothing is
    /// known of the failed commit until this returned.
    ///
    /// # Errors
    /// When the store cannot be opened again.
    fn reopen(&mut self) -> Result<(), StoreError>;

    /// Whose queue is open; `None` is the one for apps without accounts.
    fn identity(&self) -> Option<&str> {
        None
    }

    /// Opens the queue of another identity, and makes it if there is none. The queues of one store know nothing of each
    /// other: every question and every write is about the open one, with its own replica, counts, records, journal and
    /// place in the change feed (G16). A name has 1 to 1,024 bytes. After an error the queue that was open is still open;
    /// [`reopen`](Store::reopen) opens it again.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] when this store keeps only one queue, or the name is empty or too long.
    fn switch_identity(&mut self, identity: Option<&str>) -> Result<(), StoreError> {
        match identity {
            None => Ok(()),
            Some(_) => Err(StoreError::Misuse("this store keeps the queue of one identity only".into())),
        }
    }

    /// Every identity that has a queue here, and how much waits in it. The one without a name comes first.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn identities(&mut self) -> Result<Vec<(Option<String>, Counts)>, StoreError> {
        let counts = self.begin()?.counts()?;
        Ok(alloc::vec![(None, counts)])
    }

    /// Whether somebody else may have written since this was asked last: another process, or the app's own transaction.
    /// Cheap, and takes no lock. A store that cannot tell says yes.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn changed_elsewhere(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Work that can wait until nothing else is to do, such as moving a write-ahead log into the main file.
    ///
    /// # Errors
    /// When the work failed; the store stays usable.
    fn idle(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Reads beside the writer; each closure sees one consistent state.
pub trait StoreReader: fmt::Debug + Send {
    /// Runs `read` on one consistent state.
    ///
    /// # Errors
    /// What `read` returned, or why the state cannot be read.
    fn read(
        &mut self,
        read: &mut dyn FnMut(&dyn StoreRead) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;
}

/// What can be asked of a store. Every row that is returned passed its checksum.
pub trait StoreRead {
    /// Facts about the replica; `None` before [`StoreTx::put_replica`] was first committed.
    fn replica(&self) -> Result<Option<Replica>, StoreError>;
    /// Who drains the queue.
    fn lease(&self) -> Result<Option<Lease>, StoreError>;
    /// How many tasks are in each state. Must not count rows.
    fn counts(&self) -> Result<Counts, StoreError>;
    /// One task by id. [`StoreError::Damaged`] if its row fails its checksum.
    fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError>;
    /// Up to `limit` tasks with a position greater than `after`, in order of position. Damaged rows are named apart.
    fn tasks_after(&self, after: u64, limit: usize) -> Result<Page, StoreError>;
    /// The task of `entity` with the greatest position.
    fn last_of_entity(&self, entity: &EntityKey) -> Result<Option<Task>, StoreError>;
    /// The task of `entity` with the least position greater than `after` (0: the first).
    fn next_of_entity(&self, entity: &EntityKey, after: u64) -> Result<Option<Task>, StoreError>;
    /// Likewise of those that are not passed over ([`Standing`](crate::task::Standing)).
    fn next_in_line(&self, entity: &EntityKey, after: u64) -> Result<Option<Task>, StoreError>;
    /// The task in the named lane with the least position greater than `after` (0: the first) that is not passed over.
    fn next_of_lane(&self, lane: &str, after: u64) -> Result<Option<Task>, StoreError>;
    /// The tasks of a group, in order of position.
    fn tasks_of_group(&self, group: &str) -> Result<Page, StoreError>;
    /// Up to `limit` tasks that wait for `parent`, with a position greater than `after`, in order of position.
    fn waiting_for(&self, parent: TaskId, after: u64, limit: usize) -> Result<Page, StoreError>;
    /// Up to `limit` tasks that are held, with a position greater than `after`, in order of position.
    fn held_after(&self, after: u64, limit: usize) -> Result<Page, StoreError>;
    /// Up to `limit` tasks that end unsent at `now` or before ([`Task::lapses_at`]), the earliest first.
    fn lapsed(&self, now: Timestamp, limit: usize) -> Result<Page, StoreError>;
    /// The least [`Task::lapses_at`] of all tasks.
    fn next_lapse(&self) -> Result<Option<Timestamp>, StoreError>;
    /// Up to `limit` tasks whose `claim_at` is not after `now`, by [`Task::rank`], the least first, and of the same rank
    /// by position. A `claim_at`
    /// of [`Timestamp::ALWAYS`] or less is due whatever the clock says, a clock before 1970 included. Tasks that
    /// became due by waiting may be few or many, so a store may look at no more than `limit` of them and `limit` of
    /// the others. Its cost must not grow with the queue.
    fn claimable(&self, now: Timestamp, limit: usize) -> Result<Page, StoreError>;
    /// The least `claim_at` after `now` among those after [`Timestamp::ALWAYS`].
    fn next_claim(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError>;
    /// Up to `limit` tasks whose `claim_at` is after `moment`, the least first. Never a task that is ready at once.
    fn waiting_after(&self, moment: Timestamp, limit: usize) -> Result<Page, StoreError>;
    /// Up to `limit` tasks in `state` with a position greater than `after`, in order of position.
    fn tasks_in_state(&self, state: StateKind, after: u64, limit: usize) -> Result<Page, StoreError>;
    /// When the oldest task still in the queue was enqueued (the one with the least position). Damaged rows are
    /// passed over.
    fn oldest(&self) -> Result<Option<Timestamp>, StoreError>;
    /// What is known of a record.
    fn entity(&self, key: &EntityKey) -> Result<Option<StoredEntity>, StoreError>;
    /// Up to `limit` records behind `after`, in order of type, then id, both byte by byte; only of `entity_type` when
    /// one is given. Damaged rows are named apart.
    fn entities_after(
        &self,
        entity_type: Option<&str>,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<EntityPage, StoreError>;
    /// How a task ended.
    fn journal(&self, id: TaskId) -> Result<Option<JournalEntry>, StoreError>;
    /// Up to `limit` ended tasks, the last first: by moment, and of the same moment by the order in which they were
    /// settled. With `before` only those behind it, and nothing when it is not known. Damaged rows met on the way are
    /// named apart and do not count, so that the next page always begins behind the last entry of this one.
    fn journal_entries(&self, before: Option<TaskId>, limit: usize) -> Result<JournalPage, StoreError>;
    /// The task of the first change with this key of the app's, if it is remembered.
    fn deduplicated(&self, key: &str) -> Result<Option<TaskId>, StoreError>;
    /// The backend's id of a record, if it gave one of its own.
    fn server_id(&self, key: &EntityKey) -> Result<Option<String>, StoreError>;
    /// The app's id of a record that the backend names like `key`, if the app gave it another.
    fn local_id(&self, key: &EntityKey) -> Result<Option<String>, StoreError>;
    /// Whether the backend ever gave a record an id of its own.
    fn knows_server_ids(&self) -> Result<bool, StoreError>;
    /// What is paused; `None` before [`StoreTx::put_controls`] was first committed.
    fn controls(&self) -> Result<Option<Controls>, StoreError>;
    /// One conflict by its name. [`StoreError::Damaged`] if its row fails its checksum.
    fn conflict(&self, id: ConflictId) -> Result<Option<ConflictRecord>, StoreError>;
    /// Up to `limit` conflicts, the last kept first. Damaged rows met on the way are named apart and do not count, so
    /// that the next page always begins behind the last conflict of this one. Nothing when `before` is not known.
    fn conflicts(&self, which: &ConflictQuery, limit: usize) -> Result<ConflictPage, StoreError>;
    /// How far the change feed was read; `None` before [`StoreTx::put_pull_state`] was first committed.
    fn pull_state(&self) -> Result<Option<PullState>, StoreError>;
    /// Up to `limit` remote records that could not be taken in, the last first. Damaged rows are passed over: a note
    /// of what went wrong guards nothing.
    fn quarantined(&self, limit: usize) -> Result<Vec<Quarantined>, StoreError>;
}

/// A transaction. Nothing of it is visible elsewhere before [`commit`](StoreTx::commit) returned `Ok`.
pub trait StoreTx: StoreRead {
    /// Writes the facts about the replica.
    fn put_replica(&mut self, replica: &Replica) -> Result<(), StoreError>;
    /// Writes who drains the queue.
    fn put_lease(&mut self, lease: &Lease) -> Result<(), StoreError>;
    /// The position for a new task: at least 1, greater than that of every task in the queue and than every position
    /// given out before in this transaction. The queue of an identity need not begin near 1, and has positions of its own.
    fn next_seq(&mut self) -> Result<u64, StoreError>;
    /// Writes a task, new or known by its id, and keeps [`StoreRead::counts`] true. [`StoreError::Misuse`] when its
    /// position is that of another task or of another queue.
    fn put_task(&mut self, task: &Task) -> Result<(), StoreError>;
    /// Removes a task and writes its end into the journal: the only way out of the queue. [`StoreError::Misuse`] when
    /// the task is not there or the entry names another.
    fn settle_task(&mut self, task: &Task, entry: &JournalEntry) -> Result<(), StoreError>;
    /// Takes a damaged row out of the running: it is kept as it is, counted as dead, never claimed, held nor lapsed,
    /// and still reported as damaged. Done twice it is the same; [`StoreError::Misuse`] when the row is not damaged.
    fn quarantine(&mut self, row: &DamagedRow) -> Result<(), StoreError>;
    /// Writes what is known of a record.
    fn put_entity(&mut self, entity: &StoredEntity) -> Result<(), StoreError>;
    /// Forgets what is known of a record; nothing when nothing was.
    fn remove_entity(&mut self, key: &EntityKey) -> Result<(), StoreError>;
    /// Forgets up to `limit` records, conflicts, ids of the backend and notes of what could not be taken in, together and
    /// damaged ones too; returns how many went. When none is left, how far the feed was read is forgotten as well. Tasks,
    /// journal, keys and what is paused stay.
    fn forget_records(&mut self, limit: usize) -> Result<usize, StoreError>;
    /// Remembers the backend's id of a record; the same one again is the same. [`StoreError::Misuse`] when it is already
    /// that of another record, or the record has another.
    fn put_server_id(&mut self, key: &EntityKey, server_id: &str) -> Result<(), StoreError>;
    /// Remembers which task a key of the app's led to. [`StoreError::Misuse`] when it is already remembered.
    fn put_deduplicated(&mut self, key: &str, task: TaskId, at: Timestamp) -> Result<(), StoreError>;
    /// Writes what is paused.
    fn put_controls(&mut self, controls: &Controls) -> Result<(), StoreError>;
    /// Keeps a conflict, new or known by its name; a known one stays in its place in the order. [`StoreError::Misuse`]
    /// when it was of another record before, or its remote state is.
    fn put_conflict(&mut self, conflict: &ConflictRecord) -> Result<(), StoreError>;
    /// Writes how far the change feed was read.
    fn put_pull_state(&mut self, state: &PullState) -> Result<(), StoreError>;
    /// Notes a remote record that could not be taken in; of more than [`QUARANTINE_MAX`] the oldest are forgotten.
    fn put_quarantined(&mut self, record: &Quarantined) -> Result<(), StoreError>;
    /// Removes up to `limit` settled conflicts older than `before`; returns how many went. One that waits stays, and so
    /// does a damaged one, of which nobody knows.
    fn prune_conflicts(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;
    /// Forgets up to `limit` keys of the app's that are older than `before` and whose task is neither in the queue nor in
    /// the journal, the oldest first; returns how many went. A damaged one stays.
    fn prune_deduplicated(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;
    /// Removes up to `limit` journal entries older than `before`; returns how many went.
    fn prune_journal(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;
    /// Up to `limit` changes that something else than the engine has left in this store, the oldest first, without those
    /// that were refused. Most stores have none.
    fn incoming(&mut self, limit: usize) -> Result<Vec<Incoming>, StoreError> {
        let _ = limit;
        Ok(Vec::new())
    }
    /// Such a change was taken.
    fn remove_incoming(&mut self, place: u64) -> Result<(), StoreError> {
        Err(StoreError::Misuse(alloc::format!("there is no change left at place {place}")))
    }
    /// Such a change cannot be taken: it is kept, with the reason, and not handed out again.
    fn refuse_incoming(&mut self, place: u64, why: &str) -> Result<(), StoreError> {
        Err(StoreError::Misuse(alloc::format!("there is no change left at place {place} to refuse: {why}")))
    }
    /// Marks a point to which [`rollback_to`](StoreTx::rollback_to) can return. Points nest.
    fn savepoint(&mut self) -> Result<Savepoint, StoreError>;
    /// Undoes everything since `point`, and forgets the points made since; earlier work of the transaction stays, and
    /// one can return to `point` again. [`StoreError::Misuse`] when the point is gone.
    fn rollback_to(&mut self, point: Savepoint) -> Result<(), StoreError>;
    /// Gives up the ability to return to `point` and to those made since; the work stays part of the transaction.
    /// [`StoreError::Misuse`] when the point is gone.
    fn release(&mut self, point: Savepoint) -> Result<(), StoreError>;
    /// Makes everything durable, then visible.
    ///
    /// # Errors
    /// After an error nobody knows whether the transaction is durable: call [`Store::reopen`] and look.
    fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// A change that something else than the engine has left in the store.
#[derive(Clone, PartialEq, Debug)]
pub struct Incoming {
    /// Where it lies.
    pub place: u64,
    /// The change, or why what lies there is none.
    pub change: Result<Change, String>,
}

/// A point within a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Savepoint(pub u64);

/// Facts about this replica: one row, written at open and when the backend names itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Replica {
    /// Who we are.
    pub client_id: ClientId,
    /// Changes when the store is restored, copied or recreated.
    pub client_epoch: u64,
    /// How often the store was opened: the durable barrier of each open writes it.
    pub opens: u64,
    /// The backend's own name as last seen.
    pub server_id: Option<ServerId>,
    /// The newest hybrid logical time given out.
    pub clock: Hlc,
    /// How far the backend's clock is ahead of ours, in milliseconds, as last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_offset_ms: Option<i64>,
    /// Until when the backend asked for calm, and how often in a row: it holds for every process and after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calm: Option<Calm>,
    /// When our clock was last found to be or to have been wrong, by the backend's clock as far as known. What was stamped
    /// before may be older or newer than it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubted_at: Option<Timestamp>,
}

/// The backend asked for calm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Calm {
    /// Until when nothing is to be sent.
    pub until: Timestamp,
    /// How many calls in a row were answered so.
    pub failures: u32,
    /// How long that was when it was asked, in milliseconds: a clock that jumped since makes nobody wait longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// How far the change feed was read: one row.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PullState {
    /// Where the last page ended; `None` before the first.
    pub cursor: Option<Cursor>,
    /// Counts readings of the feed from its beginning. Each record carries a mark of when it was last heard of, so that
    /// after a reading anew it is known which records the backend no longer has.
    pub reading: u32,
    /// Counts the pages asked for in a reading that ends with a look for missing records.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub asks: u32,
    /// Whether this reading has to end with a look for records that did not come.
    pub sweep: bool,
    /// Whether another reading has to follow, because this one may have missed what a late verdict told of.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub again: bool,
    /// How far that look has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swept_to: Option<EntityKey>,
    /// The types of which the feed ever brought a record. It is not asked about others: an adapter may read only some.
    #[serde(default)]
    pub types: BTreeSet<String>,
}

impl PullState {
    /// The mark of a record that this reading brought.
    pub fn brought(&self) -> u64 {
        self.mark(u32::MAX)
    }

    /// The mark of a record that was heard of in another way, by a verdict say, since the last page was asked for.
    pub fn heard_of(&self) -> u64 {
        self.mark(self.asks.min(u32::MAX - 1))
    }

    /// Whether a record with this mark should have come and did not. One that was heard of before the last page was
    /// asked for would have come with that page or before; of one that was heard of later nothing can be said.
    pub fn misses(&self, mark: u64) -> bool {
        mark < self.heard_of()
    }

    /// The mark of a record that is made now. While it is read from the beginning, nobody can say later whether the reading
    /// came by the record before the backend had it; what is made after the end comes behind the cursor.
    pub fn made(&self) -> u64 {
        let goes_on = self.sweep || self.cursor.is_none();
        if goes_on { self.mark(0) } else { self.brought() }
    }

    fn mark(&self, ask: u32) -> u64 {
        u64::from(self.reading) << 32 | u64::from(ask)
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What is paused: nothing of it is sent until it is resumed. One row.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Controls {
    /// Everything.
    pub all: bool,
    /// Records of these types.
    pub types: BTreeSet<String>,
    /// These named lanes.
    pub lanes: BTreeSet<String>,
}

/// A page of ended tasks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct JournalPage {
    /// Rows that passed their checksum.
    pub entries: Vec<JournalEntry>,
    /// What can be said of rows that did not.
    pub damaged: Vec<String>,
}

/// A remote record that could not be taken in. The backend still has it; the next change of it comes by itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quarantined {
    /// When it came.
    pub at: Timestamp,
    /// Which record it is, as far as that could be read, and why it could not be taken; never a value of a field.
    pub reason: String,
}

/// How many [`Quarantined`] records are remembered: enough to see what is wrong with a backend, few enough to store.
pub const QUARANTINE_MAX: usize = 1000;

/// Who may send: one row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// The holder in its own words; empty when nobody holds it.
    pub holder: String,
    /// Grows with each new holder.
    pub fence: Fence,
    /// Until when the holder counts on it.
    pub expires_at: Timestamp,
}

/// How many tasks are in each state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Waiting to be sent.
    pub pending: u64,
    /// Being sent.
    pub in_flight: u64,
    /// Sent, fate unknown.
    pub unknown: u64,
    /// In the conflict inbox.
    pub conflict: u64,
    /// Dead letters, damaged rows among them.
    pub dead: u64,
}

impl Counts {
    /// All tasks in the queue.
    pub const fn total(&self) -> u64 {
        self.pending + self.in_flight + self.unknown + self.conflict + self.dead
    }

    /// The count of one state, to be changed.
    pub fn of_mut(&mut self, state: StateKind) -> &mut u64 {
        match state {
            StateKind::Pending => &mut self.pending,
            StateKind::InFlight => &mut self.in_flight,
            StateKind::Unknown => &mut self.unknown,
            StateKind::Conflict => &mut self.conflict,
            StateKind::Dead => &mut self.dead,
        }
    }
}

/// A page of tasks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// Rows that passed their checksum.
    pub tasks: Vec<Task>,
    /// Rows that did not.
    pub damaged: Vec<DamagedRow>,
}

/// A row that fails its checksum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedRow {
    /// Its position.
    pub seq: u64,
    /// What can be said of it.
    pub what: String,
}

/// A page of records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EntityPage {
    /// Rows that passed their checksum.
    pub entities: Vec<StoredEntity>,
    /// What can be said of rows that did not.
    pub damaged: Vec<String>,
    /// The last row that was looked at, damaged or not: the next page begins behind it. `None` when there was none.
    pub last: Option<EntityKey>,
}

/// Which conflicts are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConflictQuery {
    /// Only of this record.
    pub entity: Option<EntityKey>,
    /// Only those that wait for a decision.
    pub open_only: bool,
    /// Only those kept before this one, for the next page.
    pub before: Option<ConflictId>,
}

/// A page of conflicts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConflictPage {
    /// Rows that passed their checksum.
    pub conflicts: Vec<ConflictRecord>,
    /// What can be said of rows that did not.
    pub damaged: Vec<String>,
}

/// Why storage could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process holds it; the same step may be tried again.
    #[error("the store is busy: {0}")]
    Busy(String),
    /// No room. Nothing of the transaction was kept.
    #[error("the disk is full: {0}; free some space and try again, nothing was half-stored")]
    Full(String),
    /// It cannot be written to.
    #[error("the store is read-only: {0}; check the permissions of the file and its folder")]
    ReadOnly(String),
    /// Rows contradict each other or cannot be read. The file is left as it is.
    #[error("the store is corrupt: {0}; the file was left untouched")]
    Corrupt(String),
    /// One row fails its checksum.
    #[error("a stored row is damaged: {0}")]
    Damaged(String),
    /// Written by a newer version. The file is left as it is.
    #[error(
        "the store was written by a newer version (schema {found}, this build knows {known}); upgrade this program, the file was left untouched"
    )]
    TooNew {
        /// Schema of the file.
        found: u32,
        /// Newest schema this build knows.
        known: u32,
    },
    /// The file is not a Landfall store.
    #[error("not a Landfall store: {0}")]
    Foreign(String),
    /// The key does not open the file. A wrong key and a file of rubbish look the same, so nothing is done about it.
    #[error("wrong key, or not a Landfall store: {0}; the file was left untouched")]
    WrongKey(String),
    /// The disk failed; the store must be reopened.
    #[error("input or output failed: {0}")]
    Io(String),
    /// The caller broke the contract of the call; nothing of the call was done.
    #[error("the store was used wrongly: {0}")]
    Misuse(String),
    /// It was closed, or has failed and was not reopened.
    #[error("the store is closed")]
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_the_feed_was_read_comes_back_from_a_row_as_it_was() {
        let begun = PullState { reading: 2, asks: 3, sweep: true, again: true, ..PullState::default() };
        for state in [PullState::default(), PullState { cursor: Some("7".into()), ..begun.clone() }, begun] {
            let row = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<PullState>(&row).unwrap(), state, "{row}");
        }
        // Rows from before there was a look for missing records are read, and are written as they were.
        let old = r#"{"cursor":"7","reading":1,"sweep":false,"types":["note"]}"#;
        let state: PullState = serde_json::from_str(old).unwrap();
        assert_eq!(serde_json::to_string(&state).unwrap(), old);
    }

    /// By the marks of records it is known which of them a reading anew should have brought.
    #[test]
    fn what_was_heard_of_later_has_a_greater_mark() {
        let reading = |reading, asks| PullState { reading, asks, sweep: true, ..PullState::default() };
        let ended = |of| PullState { cursor: Some("7".into()), sweep: false, ..reading(of, 3) };
        let marks = [
            ended(1).made(),
            reading(2, 0).made(),
            reading(2, 1).heard_of(),
            reading(2, 2).heard_of(),
            reading(2, 2).brought(),
            reading(3, 0).made(),
        ];
        assert!(marks.is_sorted_by(|a, b| a < b), "{marks:?}");
        assert_eq!(ended(2).made(), ended(2).brought(), "it comes behind the cursor");
        let now = reading(2, 2);
        let missed = marks.map(|mark| now.misses(mark));
        assert_eq!(missed, [true, true, true, false, false, false]);
        assert!(!ended(2).misses(ended(2).made()));
    }
}
