//! Transactions: begun IMMEDIATE for the writer, deferred for readers, ended once and looked at.
//!
//! Beside the rows it keeps the counters, which are read at most once and written at most once per transaction.
//! SQLite ends a transaction by itself after some errors; every later statement would then be a transaction of its own,
//! so nothing more is done with it. A failed commit, or any I/O error, makes the handle unusable until it is reopened.
//! Tests: the store suite, `tests/faults.rs`.

use crate::error::failed;
use crate::identities::{self, Owner};
use crate::meta::{self, Counters};
use crate::outbox::inbox;
use crate::tasks::{self, Before};
use crate::{conflicts, entities, forget, journal, keys, quarantined, server_ids};
use landfall_core::conflict::ConflictRecord;
use landfall_core::entity::StoredEntity;
use landfall_core::id::{ConflictId, EntityKey, TaskId};
use landfall_core::store::{
    ConflictPage, ConflictQuery, Controls, Counts, DamagedRow, EntityPage, Incoming, JournalPage, Lease,
    Page, PullState, Quarantined, Replica, Savepoint, StoreError, StoreRead, StoreTx,
};
use landfall_core::task::{JournalEntry, StateKind, Task};
use landfall_core::time::Timestamp;
use rusqlite::Connection;
use std::cell::Cell;
use std::fmt;

/// Whether a handle may still be used. Once it failed it stays so; only opening again makes a new one.
#[derive(Debug, Default)]
pub(crate) struct Health(Cell<bool>);

impl Health {
    pub(crate) fn has_failed(&self) -> bool {
        self.0.get()
    }

    pub(crate) fn fail(&self) {
        self.0.set(true);
    }
}

/// The counters as this transaction sees them.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    counters: Counters,
    changed: bool,
    /// A damaged row was moved, whose old state cannot be believed: count again before the next look.
    uncertain: bool,
}

/// One transaction on one connection; rolled back when dropped.
pub(crate) struct Transaction<'c> {
    connection: &'c Connection,
    health: &'c Health,
    /// Whose rows it is about.
    owner: Owner,
    /// Whether SQLite still has the transaction.
    open: Cell<bool>,
    tally: Cell<Option<Tally>>,
    /// No position in the table is above this one.
    top: Cell<Option<u64>>,
    /// Open savepoints, and the counters at each.
    points: Vec<(u64, Option<Tally>)>,
    last_point: u64,
    rows_read: Cell<usize>,
    /// Whether it is a part of an app's transaction, which is the app's to end.
    borrowed: bool,
    /// Whether apps leave changes in this database.
    inbox: bool,
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("open", &self.open).finish_non_exhaustive()
    }
}

impl<'c> Transaction<'c> {
    /// Takes the write lock, waiting as long as the connection's busy timeout says.
    pub(crate) fn immediate(
        connection: &'c Connection,
        health: &'c Health,
        owner: Owner,
    ) -> Result<Self, StoreError> {
        Self::begin(connection, health, owner, "BEGIN IMMEDIATE")
    }

    /// For reading: one consistent state from the first read on.
    pub(crate) fn deferred(
        connection: &'c Connection,
        health: &'c Health,
        owner: Owner,
    ) -> Result<Self, StoreError> {
        Self::begin(connection, health, owner, "BEGIN DEFERRED")
    }

    fn begin(
        connection: &'c Connection,
        health: &'c Health,
        owner: Owner,
        sql: &str,
    ) -> Result<Self, StoreError> {
        if health.has_failed() {
            return Err(StoreError::Closed);
        }
        let transaction = Self {
            connection,
            health,
            owner,
            open: Cell::new(true),
            tally: Cell::new(None),
            top: Cell::new(None),
            points: Vec::new(),
            last_point: 0,
            rows_read: Cell::new(0),
            borrowed: false,
            inbox: false,
        };
        transaction.look(|connection| execute(connection, sql))?;
        Ok(transaction)
    }

    /// A part of the transaction that `connection` is in. It ends with [`keep`](Self::keep), or is undone by the caller.
    pub(crate) fn within(connection: &'c Connection, health: &'c Health, owner: Owner) -> Self {
        Self {
            connection,
            health,
            owner,
            open: Cell::new(true),
            tally: Cell::new(None),
            top: Cell::new(None),
            points: Vec::new(),
            last_point: 0,
            rows_read: Cell::new(0),
            borrowed: true,
            inbox: false,
        }
    }

    /// The same, in a database in which apps leave changes.
    pub(crate) fn with_inbox(mut self, inbox: bool) -> Self {
        self.inbox = inbox;
        self
    }

    /// Writes what is kept beside the rows, and leaves the rest to the app's transaction.
    pub(crate) fn keep(self) -> Result<(), StoreError> {
        self.write_tally()
    }

    fn write_tally(&self) -> Result<(), StoreError> {
        if self.tally.get().is_some_and(|tally| tally.changed || tally.uncertain) {
            let tally = self.tally()?;
            self.look(|connection| tally.counters.write(connection, self.owner))?;
        }
        Ok(())
    }

    /// Runs `work`, and notes what its error means for the transaction and the handle.
    fn look<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if !self.open.get() {
            return Err(StoreError::Closed);
        }
        let outcome = work(self.connection);
        if let Err(error) = &outcome {
            if self.connection.is_autocommit() {
                self.open.set(false);
            }
            if matches!(error, StoreError::Io(_)) {
                self.health.fail();
            }
        }
        outcome
    }

    /// The number of an identity, which gets one if it has none yet.
    pub(crate) fn owner_of(&self, name: &str) -> Result<Owner, StoreError> {
        self.look(|connection| identities::find_or_add(connection, name))
    }

    /// Every identity with a name.
    pub(crate) fn identities(&self) -> Result<Vec<(String, Owner)>, StoreError> {
        self.look(identities::all)
    }

    /// How many rows were handed out in pages.
    pub(crate) fn rows_read(&self) -> usize {
        self.rows_read.get()
    }

    fn page(&self, work: impl FnOnce(&Connection) -> Result<Page, StoreError>) -> Result<Page, StoreError> {
        let page = self.look(work)?;
        self.have_read(page.tasks.len() + page.damaged.len());
        Ok(page)
    }

    fn have_read(&self, rows: usize) {
        self.rows_read.set(self.rows_read.get() + rows);
    }

    fn tally(&self) -> Result<Tally, StoreError> {
        let mut tally = match self.tally.get() {
            Some(tally) if !tally.uncertain => return Ok(tally),
            Some(tally) => tally,
            None => Tally {
                counters: self.look(|connection| Counters::read(connection, self.owner))?,
                ..Tally::default()
            },
        };
        if tally.uncertain {
            tally.counters.counts = self.look(|connection| meta::count(connection, self.owner))?;
            tally.uncertain = false;
        }
        if self.top.get().is_none() {
            self.top.set(Some(tally.counters.last_seq));
        }
        self.tally.set(Some(tally));
        Ok(tally)
    }

    /// Counts a row that was in one state and is now in another.
    fn moved(&self, before: &Before, after: Option<StateKind>) -> Result<(), StoreError> {
        let mut tally = match self.tally.get() {
            Some(tally) => tally,
            None => self.tally()?,
        };
        let counts = &mut tally.counters.counts;
        match before {
            Before::New => {}
            Before::Was(state) => match counts.of_mut(*state).checked_sub(1) {
                Some(fewer) => *counts.of_mut(*state) = fewer,
                None => tally.uncertain = true,
            },
            Before::Unreadable => tally.uncertain = true,
        }
        if let Some(state) = after {
            *counts.of_mut(state) += 1;
        }
        tally.changed = true;
        self.tally.set(Some(tally));
        Ok(())
    }

    fn used(&self, seq: u64) -> Result<(), StoreError> {
        let mut tally = self.tally()?;
        if seq > tally.counters.last_seq {
            tally.counters.last_seq = seq;
            tally.changed = true;
            self.tally.set(Some(tally));
        }
        Ok(())
    }

    fn find(&self, point: Savepoint) -> Result<usize, StoreError> {
        let found = self.points.iter().position(|(name, _)| *name == point.0);
        found.ok_or_else(|| StoreError::Misuse("there is no such savepoint in this transaction".to_string()))
    }

    /// Ends the transaction, keeping nothing.
    fn roll_back(&self) {
        if self.open.replace(false) && !self.borrowed && !self.connection.is_autocommit() {
            let undone = execute(self.connection, "ROLLBACK");
            if undone.is_err() || !self.connection.is_autocommit() {
                self.health.fail();
            }
        }
    }

    /// Writes the counters and commits. After an error the handle cannot be used until it is reopened.
    pub(crate) fn finish(self) -> Result<(), StoreError> {
        if self.borrowed {
            return Err(StoreError::Misuse("an app's transaction is ended by the app".to_string()));
        }
        self.write_tally()?;
        let outcome = self.look(|connection| execute(connection, "COMMIT"));
        if outcome.is_ok() {
            self.open.set(false);
        } else {
            self.health.fail();
        }
        outcome
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        self.roll_back();
    }
}

fn execute(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.prepare_cached(sql).map_err(failed)?.execute(()).map_err(failed)?;
    Ok(())
}

impl StoreRead for Transaction<'_> {
    fn replica(&self) -> Result<Option<Replica>, StoreError> {
        self.look(|connection| meta::fact(connection, &self.owner.fact(meta::REPLICA)))
    }

    fn lease(&self) -> Result<Option<Lease>, StoreError> {
        self.look(|connection| meta::fact(connection, &self.owner.fact(meta::LEASE)))
    }

    fn counts(&self) -> Result<Counts, StoreError> {
        self.tally().map(|tally| tally.counters.counts)
    }

    fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.look(|connection| tasks::by_id(connection, self.owner, id))
    }

    fn tasks_after(&self, after: u64, limit: usize) -> Result<Page, StoreError> {
        self.page(|connection| tasks::after(connection, self.owner, after, limit))
    }

    fn last_of_entity(&self, entity: &EntityKey) -> Result<Option<Task>, StoreError> {
        self.look(|connection| tasks::last_of_entity(connection, self.owner, entity))
    }

    fn next_of_entity(&self, entity: &EntityKey, after: u64) -> Result<Option<Task>, StoreError> {
        self.look(|connection| tasks::next_of_entity(connection, self.owner, entity, after))
    }

    fn next_in_line(&self, entity: &EntityKey, after: u64) -> Result<Option<Task>, StoreError> {
        self.look(|connection| tasks::next_in_line(connection, self.owner, entity, after))
    }

    fn tasks_of_group(&self, group: &str) -> Result<Page, StoreError> {
        self.page(|connection| tasks::of_group(connection, self.owner, group))
    }

    fn waiting_for(&self, parent: TaskId, after: u64, limit: usize) -> Result<Page, StoreError> {
        self.page(|connection| tasks::waiting_for(connection, self.owner, parent, after, limit))
    }

    fn held_after(&self, after: u64, limit: usize) -> Result<Page, StoreError> {
        self.page(|connection| tasks::held_after(connection, self.owner, after, limit))
    }

    fn lapsed(&self, now: Timestamp, limit: usize) -> Result<Page, StoreError> {
        self.page(|connection| tasks::lapsed(connection, self.owner, now, limit))
    }

    fn next_lapse(&self) -> Result<Option<Timestamp>, StoreError> {
        self.look(|connection| tasks::next_lapse(connection, self.owner))
    }

    fn next_of_lane(&self, lane: &str, after: u64) -> Result<Option<Task>, StoreError> {
        self.look(|connection| tasks::next_of_lane(connection, self.owner, lane, after))
    }

    fn claimable(&self, now: Timestamp, limit: usize) -> Result<Page, StoreError> {
        self.page(|connection| tasks::claimable(connection, self.owner, now, limit))
    }

    fn next_claim(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.look(|connection| tasks::next_claim(connection, self.owner, now))
    }

    fn waiting_after(&self, moment: Timestamp, limit: usize) -> Result<Page, StoreError> {
        self.page(|connection| tasks::waiting_after(connection, self.owner, moment, limit))
    }

    fn tasks_in_state(&self, state: StateKind, after: u64, limit: usize) -> Result<Page, StoreError> {
        self.page(|connection| tasks::in_state(connection, self.owner, state, after, limit))
    }

    fn oldest(&self) -> Result<Option<Timestamp>, StoreError> {
        self.look(|connection| tasks::oldest(connection, self.owner))
    }

    fn entity(&self, key: &EntityKey) -> Result<Option<StoredEntity>, StoreError> {
        self.look(|connection| entities::read(connection, self.owner, key))
    }

    fn entities_after(
        &self,
        entity_type: Option<&str>,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<EntityPage, StoreError> {
        let page =
            self.look(|connection| entities::after(connection, self.owner, entity_type, after, limit))?;
        self.have_read(page.entities.len() + page.damaged.len());
        Ok(page)
    }

    fn journal(&self, id: TaskId) -> Result<Option<JournalEntry>, StoreError> {
        self.look(|connection| journal::entry(connection, self.owner, id))
    }

    fn journal_entries(&self, before: Option<TaskId>, limit: usize) -> Result<JournalPage, StoreError> {
        let page = self.look(|connection| journal::newest(connection, self.owner, before, limit))?;
        self.have_read(page.entries.len() + page.damaged.len());
        Ok(page)
    }

    fn deduplicated(&self, key: &str) -> Result<Option<TaskId>, StoreError> {
        self.look(|connection| keys::task_of(connection, self.owner, key))
    }

    fn server_id(&self, key: &EntityKey) -> Result<Option<String>, StoreError> {
        self.look(|connection| server_ids::of_record(connection, self.owner, key))
    }

    fn local_id(&self, key: &EntityKey) -> Result<Option<String>, StoreError> {
        self.look(|connection| server_ids::of_server(connection, self.owner, key))
    }

    fn knows_server_ids(&self) -> Result<bool, StoreError> {
        self.look(|connection| server_ids::any(connection, self.owner))
    }

    fn controls(&self) -> Result<Option<Controls>, StoreError> {
        self.look(|connection| meta::fact(connection, &self.owner.fact(meta::CONTROLS)))
    }

    fn conflict(&self, id: ConflictId) -> Result<Option<ConflictRecord>, StoreError> {
        self.look(|connection| conflicts::by_id(connection, self.owner, id))
    }

    fn conflicts(&self, which: &ConflictQuery, limit: usize) -> Result<ConflictPage, StoreError> {
        let page = self.look(|connection| conflicts::page(connection, self.owner, which, limit))?;
        self.have_read(page.conflicts.len() + page.damaged.len());
        Ok(page)
    }

    fn pull_state(&self) -> Result<Option<PullState>, StoreError> {
        self.look(|connection| meta::fact(connection, &self.owner.fact(meta::PULL)))
    }

    fn quarantined(&self, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
        self.look(|connection| quarantined::newest(connection, self.owner, limit))
    }
}

impl StoreTx for Transaction<'_> {
    fn put_replica(&mut self, replica: &Replica) -> Result<(), StoreError> {
        self.look(|connection| meta::put_fact(connection, &self.owner.fact(meta::REPLICA), replica))
    }

    fn put_lease(&mut self, lease: &Lease) -> Result<(), StoreError> {
        self.look(|connection| meta::put_fact(connection, &self.owner.fact(meta::LEASE), lease))
    }

    fn next_seq(&mut self) -> Result<u64, StoreError> {
        let next = self.tally()?.counters.last_seq + 1;
        self.used(next)?;
        Ok(next)
    }

    fn put_task(&mut self, task: &Task) -> Result<(), StoreError> {
        self.tally()?;
        let above_all = self.top.get().is_some_and(|top| task.seq > top);
        let before = self.look(|connection| tasks::put(connection, self.owner, task, above_all))?;
        self.top.set(self.top.get().max(Some(task.seq)));
        self.moved(&before, Some(task.state.kind()))?;
        self.used(task.seq)
    }

    fn settle_task(&mut self, task: &Task, entry: &JournalEntry) -> Result<(), StoreError> {
        if entry.task_id != task.id {
            return Err(StoreError::Misuse("a task is settled with the entry of another".to_string()));
        }
        let Some(before) = self.look(|connection| tasks::remove(connection, self.owner, task))? else {
            return Err(StoreError::Misuse("a task is settled that is not in the queue".to_string()));
        };
        self.moved(&before, None)?;
        self.look(|connection| journal::put_entry(connection, self.owner, entry))
    }

    fn quarantine(&mut self, row: &DamagedRow) -> Result<(), StoreError> {
        let mut tally = self.tally()?;
        self.look(|connection| tasks::quarantine(connection, self.owner, row.seq))?;
        (tally.changed, tally.uncertain) = (true, true);
        self.tally.set(Some(tally));
        Ok(())
    }

    fn put_entity(&mut self, entity: &StoredEntity) -> Result<(), StoreError> {
        self.look(|connection| entities::put(connection, self.owner, entity))
    }

    fn remove_entity(&mut self, key: &EntityKey) -> Result<(), StoreError> {
        self.look(|connection| entities::remove(connection, self.owner, key))
    }

    fn forget_records(&mut self, limit: usize) -> Result<usize, StoreError> {
        self.look(|connection| forget::records(connection, self.owner, limit))
    }

    fn put_server_id(&mut self, key: &EntityKey, server_id: &str) -> Result<(), StoreError> {
        self.look(|connection| server_ids::put(connection, self.owner, key, server_id))
    }

    fn put_deduplicated(&mut self, key: &str, task: TaskId, at: Timestamp) -> Result<(), StoreError> {
        self.look(|connection| keys::put(connection, self.owner, key, task, at))
    }

    fn put_controls(&mut self, controls: &Controls) -> Result<(), StoreError> {
        self.look(|connection| meta::put_fact(connection, &self.owner.fact(meta::CONTROLS), controls))
    }

    fn put_conflict(&mut self, conflict: &ConflictRecord) -> Result<(), StoreError> {
        self.look(|connection| conflicts::put(connection, self.owner, conflict))
    }

    fn put_pull_state(&mut self, state: &PullState) -> Result<(), StoreError> {
        self.look(|connection| meta::put_fact(connection, &self.owner.fact(meta::PULL), state))
    }

    fn put_quarantined(&mut self, record: &Quarantined) -> Result<(), StoreError> {
        self.look(|connection| quarantined::put(connection, self.owner, record))
    }

    fn prune_conflicts(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.look(|connection| conflicts::prune(connection, self.owner, before, limit))
    }

    fn prune_deduplicated(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.look(|connection| keys::prune(connection, self.owner, before, limit))
    }

    fn prune_journal(&mut self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.look(|connection| journal::prune(connection, self.owner, before, limit))
    }

    fn incoming(&mut self, limit: usize) -> Result<Vec<Incoming>, StoreError> {
        if self.inbox {
            self.look(|connection| inbox::waiting(connection, self.owner, limit))
        } else {
            Ok(Vec::new())
        }
    }

    fn remove_incoming(&mut self, place: u64) -> Result<(), StoreError> {
        self.look(|connection| inbox::remove(connection, place))
    }

    fn refuse_incoming(&mut self, place: u64, why: &str) -> Result<(), StoreError> {
        self.look(|connection| inbox::refuse(connection, place, why))
    }

    fn savepoint(&mut self) -> Result<Savepoint, StoreError> {
        let name = self.last_point + 1;
        self.look(|connection| execute(connection, &format!("SAVEPOINT landfall_{name}")))?;
        self.last_point = name;
        self.points.push((name, self.tally.get()));
        Ok(Savepoint(name))
    }

    fn rollback_to(&mut self, point: Savepoint) -> Result<(), StoreError> {
        let index = self.find(point)?;
        self.look(|connection| execute(connection, &format!("ROLLBACK TO landfall_{}", point.0)))?;
        self.points.truncate(index + 1);
        self.tally.set(self.points[index].1);
        Ok(())
    }

    fn release(&mut self, point: Savepoint) -> Result<(), StoreError> {
        let index = self.find(point)?;
        self.look(|connection| execute(connection, &format!("RELEASE landfall_{}", point.0)))?;
        self.points.truncate(index);
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        (*self).finish()
    }
}
