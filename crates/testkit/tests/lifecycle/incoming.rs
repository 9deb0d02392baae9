//! What something else than the engine has left in the store is taken over whole or not at all (G1, G2).
//!
//! The store here is the one in memory with a shelf for such changes; `tests/outbox.rs` of `landfall-sqlite` has the real
//! one.

use crate::bench::{Bench, note};
use landfall_core::change::Change;
use landfall_core::conflict::ConflictRecord;
use landfall_core::entity::StoredEntity;
use landfall_core::event::Event;
use landfall_core::id::{ConflictId, EntityKey, TaskId};
use landfall_core::machine::TakenIn;
use landfall_core::store::{
    ConflictPage, ConflictQuery, Controls, Counts, DamagedRow, EntityPage, Incoming, JournalPage, Lease,
    Page, PullState, Quarantined, Replica, Savepoint, StoreError, StoreRead, StoreTx,
};
use landfall_core::task::{JournalEntry, StateKind, Task};
use landfall_core::time::Timestamp;

/// What was left, what was refused and why, and how many points of return are open.
#[derive(Default)]
struct Shelf {
    left: Vec<Incoming>,
    refused: Vec<(u64, String)>,
    points: i32,
    /// Writing a task of the record `bad` fails like this.
    fails: Option<StoreError>,
}

impl Shelf {
    fn of(changes: Vec<Result<Change, String>>) -> Self {
        let left = (1..).zip(changes).map(|(place, change)| Incoming { place, change }).collect();
        Self { left, ..Self::default() }
    }

    fn take(&mut self, bench: &mut Bench, limit: usize) -> Result<TakenIn, StoreError> {
        bench.step(|step, tx| step.take_incoming(&mut WithShelf { inner: tx, shelf: self }, limit))
    }
}

struct WithShelf<'a> {
    inner: &'a mut dyn StoreTx,
    shelf: &'a mut Shelf,
}

/// Hands these through to the store.
macro_rules! reads {
    ($($name:ident($($of:ident: $kind:ty),*) -> $out:ty;)*) => {
        $(fn $name(&self, $($of: $kind),*) -> Result<$out, StoreError> {
            self.inner.$name($($of),*)
        })*
    };
}

/// Likewise.
macro_rules! writes {
    ($($name:ident($($of:ident: $kind:ty),*) -> $out:ty;)*) => {
        $(fn $name(&mut self, $($of: $kind),*) -> Result<$out, StoreError> {
            self.inner.$name($($of),*)
        })*
    };
}

impl StoreRead for WithShelf<'_> {
    reads! {
        replica() -> Option<Replica>;
        lease() -> Option<Lease>;
        counts() -> Counts;
        task(id: TaskId) -> Option<Task>;
        tasks_after(after: u64, limit: usize) -> Page;
        last_of_entity(entity: &EntityKey) -> Option<Task>;
        next_of_entity(entity: &EntityKey, after: u64) -> Option<Task>;
        next_in_line(entity: &EntityKey, after: u64) -> Option<Task>;
        next_of_lane(lane: &str, after: u64) -> Option<Task>;
        tasks_of_group(group: &str) -> Page;
        waiting_for(parent: TaskId, after: u64, limit: usize) -> Page;
        held_after(after: u64, limit: usize) -> Page;
        lapsed(now: Timestamp, limit: usize) -> Page;
        next_lapse() -> Option<Timestamp>;
        claimable(now: Timestamp, limit: usize) -> Page;
        next_claim(now: Timestamp) -> Option<Timestamp>;
        waiting_after(moment: Timestamp, limit: usize) -> Page;
        tasks_in_state(state: StateKind, after: u64, limit: usize) -> Page;
        oldest() -> Option<Timestamp>;
        entity(key: &EntityKey) -> Option<StoredEntity>;
        entities_after(of: Option<&str>, after: Option<&EntityKey>, limit: usize) -> EntityPage;
        journal(id: TaskId) -> Option<JournalEntry>;
        journal_entries(before: Option<TaskId>, limit: usize) -> JournalPage;
        deduplicated(key: &str) -> Option<TaskId>;
        server_id(key: &EntityKey) -> Option<String>;
        local_id(key: &EntityKey) -> Option<String>;
        knows_server_ids() -> bool;
        controls() -> Option<Controls>;
        conflict(id: ConflictId) -> Option<ConflictRecord>;
        conflicts(which: &ConflictQuery, limit: usize) -> ConflictPage;
        pull_state() -> Option<PullState>;
        quarantined(limit: usize) -> Vec<Quarantined>;
    }
}

impl StoreTx for WithShelf<'_> {
    writes! {
        put_replica(replica: &Replica) -> ();
        put_lease(lease: &Lease) -> ();
        next_seq() -> u64;
        settle_task(task: &Task, entry: &JournalEntry) -> ();
        quarantine(row: &DamagedRow) -> ();
        put_entity(entity: &StoredEntity) -> ();
        remove_entity(key: &EntityKey) -> ();
        forget_records(limit: usize) -> usize;
        put_server_id(key: &EntityKey, server_id: &str) -> ();
        put_deduplicated(key: &str, task: TaskId, at: Timestamp) -> ();
        put_controls(controls: &Controls) -> ();
        put_conflict(conflict: &ConflictRecord) -> ();
        put_pull_state(state: &PullState) -> ();
        put_quarantined(record: &Quarantined) -> ();
        prune_conflicts(before: Timestamp, limit: usize) -> usize;
        prune_deduplicated(before: Timestamp, limit: usize) -> usize;
        prune_journal(before: Timestamp, limit: usize) -> usize;
        rollback_to(point: Savepoint) -> ();
    }

    fn put_task(&mut self, task: &Task) -> Result<(), StoreError> {
        match &self.shelf.fails {
            Some(error) if task.entity.entity_id == "bad" => Err(error.clone()),
            _ => self.inner.put_task(task),
        }
    }

    fn savepoint(&mut self) -> Result<Savepoint, StoreError> {
        self.shelf.points += 1;
        self.inner.savepoint()
    }

    fn release(&mut self, point: Savepoint) -> Result<(), StoreError> {
        self.shelf.points -= 1;
        self.inner.release(point)
    }

    fn incoming(&mut self, limit: usize) -> Result<Vec<Incoming>, StoreError> {
        let is_open = |row: &&Incoming| self.shelf.refused.iter().all(|(place, _)| *place != row.place);
        Ok(self.shelf.left.iter().filter(is_open).take(limit).cloned().collect())
    }

    fn remove_incoming(&mut self, place: u64) -> Result<(), StoreError> {
        self.shelf.left.retain(|row| row.place != place);
        Ok(())
    }

    fn refuse_incoming(&mut self, place: u64, why: &str) -> Result<(), StoreError> {
        self.shelf.refused.push((place, why.to_owned()));
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Err(StoreError::Misuse("the bench commits".into()))
    }
}

fn create(id: &str) -> Result<Change, String> {
    Ok(Change::create("note", id).set("n", 1))
}

#[test]
fn what_was_left_is_taken_in_its_order_and_what_cannot_be_is_set_apart_with_the_reason() {
    let mut bench = Bench::new();
    let edit = Ok(Change::update("note", "a").set("n", 2));
    let mut shelf =
        Shelf::of(vec![create("a"), edit, Err("not a change".into()), create("a"), create("b"), create("c")]);
    let taken = shelf.take(&mut bench, 3).unwrap();
    assert_eq!(taken, TakenIn { taken: 2, refused: 1, more: true });
    let taken = shelf.take(&mut bench, 4).unwrap();
    assert_eq!(taken, TakenIn { taken: 2, refused: 1, more: false });
    assert_eq!(shelf.take(&mut bench, 4).unwrap(), TakenIn::default());
    assert_eq!(bench.view("a"), r#"{"n":2}"#);
    let queued: Vec<_> = bench.tasks().into_iter().map(|task| task.entity.entity_id).collect();
    assert_eq!(queued, ["a", "b", "c"]);
    let kept: Vec<u64> = shelf.left.iter().map(|row| row.place).collect();
    assert_eq!(kept, [3, 4], "what was refused is still there");
    assert_eq!(shelf.refused[0], (3, "not a change".into()));
    assert!(shelf.refused[1].1.contains("already exists"), "{:?}", shelf.refused);
    assert_eq!(shelf.points, 0, "no point of return is left open");
}

#[test]
fn a_change_that_meets_damage_is_set_apart_without_a_trace_and_the_others_go_on() {
    let mut bench = Bench::new();
    let mut shelf = Shelf::of(vec![create("a"), create("bad"), create("c")]);
    shelf.fails = Some(StoreError::Damaged("the row".into()));
    let taken = shelf.take(&mut bench, 10).unwrap();
    assert_eq!(taken, TakenIn { taken: 2, refused: 1, more: false });
    assert_eq!((bench.view("a").as_str(), bench.view("bad").as_str()), (r#"{"n":1}"#, "nothing"));
    let tells_of = |event: &Event| matches!(event, Event::Changed { entity, .. } if *entity == note("bad"));
    assert!(!bench.events.iter().any(tells_of), "the app is not told of what is not there");
    assert_eq!(shelf.points, 0);
}

#[test]
fn a_store_that_fails_refuses_nothing() {
    let mut bench = Bench::new();
    let mut shelf = Shelf::of(vec![create("bad")]);
    shelf.fails = Some(StoreError::Io("the disk is gone".into()));
    let failed = bench.lost_step(|step, tx| {
        let mut tx = WithShelf { inner: tx, shelf: &mut shelf };
        step.take_incoming(&mut tx, 10)
    });
    assert_eq!(failed, Err(StoreError::Io("the disk is gone".into())));
    assert_eq!((shelf.left.len(), shelf.refused.len()), (1, 0));
}
