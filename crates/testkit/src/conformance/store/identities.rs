//! Promises about the queues of several identities in one store: each has its own, and knows nothing of the others.

use super::names::controls;
use super::samples::{
    client, conflict, ended, entity, full_terms, lease, note, open_conflict, pull_state, quarantined,
    replica, task,
};
use super::{StoreUnderTest, commit, look};
use landfall_core::conflict::ConflictRecord;
use landfall_core::entity::StoredEntity;
use landfall_core::id::TaskId;
use landfall_core::store::{
    ConflictQuery, Counts, DamagedRow, JournalPage, Lease, Page, PullState, Quarantined, Replica, Store,
    StoreError, StoreRead, StoreTx,
};
use landfall_core::task::{JournalEntry, Standing, StateKind, Task, TaskState, Terms};
use landfall_core::time::Timestamp;

/// Whether this store keeps more than one queue.
fn keeps_many(store: &mut dyn Store) -> bool {
    let many = match store.switch_identity(Some("probe")) {
        Ok(()) => true,
        Err(StoreError::Misuse(_)) => false,
        Err(other) => panic!("{other}"),
    };
    store.switch_identity(None).unwrap();
    many
}

/// The very same rows for each identity, told apart by a number alone.
struct Rows {
    /// Waits ready; waits for its time, in a group, in a lane and for others; is held; will lapse.
    tasks: [Task; 4],
    done: Task,
    number: u64,
}

/// Positions are the store's to give.
fn rows(first: u64, number: u64) -> Rows {
    let of = |at: u64| Task {
        lane: Some("lane".into()),
        attempts: u32::try_from(number).unwrap(),
        // The same ids for everybody.
        id: TaskId::derive(client(), &note("1"), at),
        ..task(first + at, &note("1"))
    };
    let held = Standing { held: true, ..Standing::default() };
    let expires_at = Some(Timestamp(100 + number as i64));
    Rows {
        tasks: [
            Task { enqueued_at: Timestamp(number as i64), ..of(0) },
            Task {
                claim_at: Some(Timestamp(50 + number as i64)),
                terms: Terms { expires_at: None, ..full_terms() },
                ..of(1)
            },
            Task { standing: held, claim_at: None, state: TaskState::Conflict, ..of(2) },
            Task { claim_at: None, terms: Terms { expires_at, ..Terms::default() }, ..of(3) },
        ],
        done: of(4),
        number,
    }
}

fn fill(tx: &mut dyn StoreTx, number: u64) -> Rows {
    let first = tx.next_seq().unwrap();
    for _ in 0..4 {
        tx.next_seq().unwrap();
    }
    let rows = rows(first, number);
    let at = number as i64;
    for task in rows.tasks.iter().chain([&rows.done]) {
        tx.put_task(task).unwrap();
    }
    tx.settle_task(&rows.done, &entry(&rows)).unwrap();
    tx.put_entity(&record(number)).unwrap();
    tx.put_conflict(&open(number)).unwrap();
    tx.put_conflict(&conflict(&task(1, &note("1")), 2)).unwrap();
    tx.put_replica(&replica(number)).unwrap();
    tx.put_lease(&lease(number)).unwrap();
    tx.put_pull_state(&pull_state(u32::try_from(number).unwrap())).unwrap();
    tx.put_quarantined(&quarantined(at)).unwrap();
    tx.put_controls(&controls(number as u8)).unwrap();
    tx.put_deduplicated("key", TaskId::derive(client(), &note("key"), number), Timestamp(at)).unwrap();
    tx.put_server_id(&note(&format!("of {number}")), "17").unwrap();
    tx.put_server_id(&note("1"), &format!("id of {number}")).unwrap();
    rows
}

fn entry(rows: &Rows) -> JournalEntry {
    JournalEntry { became: Some(rows.tasks[0].id), ..ended(&rows.done, rows.number as i64) }
}

fn record(number: u64) -> StoredEntity {
    StoredEntity { generation: number, ..entity(&note("1")) }
}

fn open(number: u64) -> ConflictRecord {
    ConflictRecord { rule: number.to_string(), ..open_conflict(&task(1, &note("1")), 1) }
}

/// Every question of the trait; what it would say if anything of another identity were looked at.
#[allow(clippy::too_many_lines, reason = "one question after the other")]
fn assert_own(tx: &dyn StoreRead, rows: &Rows) {
    let (number, at) = (rows.number, rows.number as i64);
    let [ready, waiting, held, lapsing] = &rows.tasks;
    let page = |tasks: &[&Task]| Page { tasks: tasks.iter().copied().cloned().collect(), damaged: vec![] };
    let all = page(&[ready, waiting, held, lapsing]);
    let first = ready.seq;
    assert_eq!(tx.replica().unwrap(), Some(replica(number)));
    assert_eq!(tx.lease().unwrap(), Some(lease(number)));
    assert_eq!(tx.counts().unwrap(), Counts { pending: 3, conflict: 1, ..Counts::default() });
    rows.tasks.iter().for_each(|task| assert_eq!(tx.task(task.id).unwrap().as_ref(), Some(task)));
    assert_eq!(tx.task(rows.done.id).unwrap(), None);
    assert_eq!(tx.tasks_after(0, 99).unwrap(), all);
    assert_eq!(tx.tasks_after(first, 99).unwrap().tasks, all.tasks[1..]);
    assert_eq!(tx.last_of_entity(&note("1")).unwrap().as_ref(), Some(lapsing));
    for (after, next) in [(0, Some(ready)), (first, Some(waiting)), (lapsing.seq, None)] {
        assert_eq!(tx.next_of_entity(&note("1"), after).unwrap().as_ref(), next);
        assert_eq!(tx.next_in_line(&note("1"), after).unwrap().as_ref(), next);
        assert_eq!(tx.next_of_lane("lane", after).unwrap().as_ref(), next);
    }
    let terms = full_terms();
    assert_eq!(tx.tasks_of_group(terms.group.as_deref().unwrap()).unwrap(), page(&[waiting]));
    for parent in terms.waits_for {
        assert_eq!(tx.waiting_for(parent, 0, 99).unwrap(), page(&[waiting]));
    }
    assert_eq!(tx.held_after(0, 99).unwrap(), page(&[held]));
    assert_eq!(tx.next_lapse().unwrap(), Some(Timestamp(100 + at)));
    assert_eq!(tx.lapsed(Timestamp(i64::MAX), 99).unwrap(), page(&[lapsing]));
    assert_eq!(tx.claimable(Timestamp(i64::MAX), 99).unwrap(), page(&[ready, waiting]));
    assert_eq!(tx.claimable(Timestamp(1), 1).unwrap(), page(&[ready]));
    assert_eq!(tx.next_claim(Timestamp(0)).unwrap(), Some(Timestamp(50 + at)));
    assert_eq!(tx.waiting_after(Timestamp(0), 99).unwrap(), page(&[waiting]));
    for (state, found) in [
        (StateKind::Pending, vec![ready, waiting, lapsing]),
        (StateKind::Conflict, vec![held]),
        (StateKind::Dead, vec![]),
    ] {
        assert_eq!(tx.tasks_in_state(state, 0, 99).unwrap(), page(&found));
    }
    assert_eq!(tx.oldest().unwrap(), Some(Timestamp(at)));
    assert_eq!(tx.entity(&note("1")).unwrap(), Some(record(number)));
    for kind in [None, Some("note")] {
        assert_eq!(tx.entities_after(kind, None, 99).unwrap().entities, [record(number)]);
        assert_eq!(tx.entities_after(kind, Some(&note("0")), 99).unwrap().entities, [record(number)]);
        assert_eq!(tx.entities_after(kind, Some(&note("1")), 99).unwrap().entities, []);
    }
    assert_eq!(tx.journal(rows.done.id).unwrap(), Some(entry(rows)));
    let page = tx.journal_entries(None, 99).unwrap();
    assert_eq!(page, JournalPage { entries: vec![entry(rows)], damaged: vec![] });
    assert_eq!(tx.journal_entries(Some(rows.done.id), 99).unwrap(), JournalPage::default());
    assert_eq!(tx.conflict(open(number).id).unwrap(), Some(open(number)));
    let settled = conflict(&task(1, &note("1")), 2);
    for entity in [None, Some(note("1"))] {
        let which = ConflictQuery { entity, ..ConflictQuery::default() };
        assert_eq!(tx.conflicts(&which, 99).unwrap().conflicts, [settled.clone(), open(number)]);
        let behind = ConflictQuery { before: Some(settled.id), ..which.clone() };
        assert_eq!(tx.conflicts(&behind, 99).unwrap().conflicts, [open(number)]);
        let which = ConflictQuery { open_only: true, ..which };
        assert_eq!(tx.conflicts(&which, 99).unwrap().conflicts, [open(number)]);
    }
    assert_eq!(tx.pull_state().unwrap(), Some(pull_state(u32::try_from(number).unwrap())));
    assert_eq!(tx.quarantined(99).unwrap(), [quarantined(at)]);
    assert_eq!(tx.controls().unwrap(), Some(controls(number as u8)));
    assert_eq!(tx.deduplicated("key").unwrap(), Some(TaskId::derive(client(), &note("key"), number)));
    assert!(tx.knows_server_ids().unwrap());
    assert_eq!(tx.server_id(&note("1")).unwrap(), Some(format!("id of {number}")));
    assert_eq!(tx.local_id(&note("17")).unwrap(), Some(format!("of {number}")));
}

/// Every question, asked of a queue with nothing in it.
fn assert_nothing(tx: &dyn StoreRead) {
    let nothing: (Option<Replica>, Option<Lease>, Option<PullState>, Vec<Quarantined>) = Default::default();
    let terms = full_terms();
    let found =
        (tx.replica().unwrap(), tx.lease().unwrap(), tx.pull_state().unwrap(), tx.quarantined(9).unwrap());
    assert_eq!(found, nothing);
    assert_eq!(tx.counts().unwrap(), Counts::default());
    assert_eq!(tx.task(rows(1, 1).tasks[0].id).unwrap(), None);
    let pages = [
        tx.tasks_after(0, 9),
        tx.claimable(Timestamp(i64::MAX), 9),
        tx.waiting_after(Timestamp(i64::MIN), 9),
        tx.tasks_in_state(StateKind::Pending, 0, 9),
        tx.tasks_in_state(StateKind::Conflict, 0, 9),
        tx.tasks_of_group(terms.group.as_deref().unwrap()),
        tx.waiting_for(*terms.waits_for.first().unwrap(), 0, 9),
        tx.held_after(0, 9),
        tx.lapsed(Timestamp(i64::MAX), 9),
    ];
    pages.into_iter().for_each(|page| assert_eq!(page.unwrap(), Page::default()));
    let ones = [
        tx.last_of_entity(&note("1")),
        tx.next_of_entity(&note("1"), 0),
        tx.next_in_line(&note("1"), 0),
        tx.next_of_lane("lane", 0),
    ];
    ones.into_iter().for_each(|task| assert_eq!(task.unwrap(), None));
    let moments = [tx.next_claim(Timestamp(0)), tx.next_lapse(), tx.oldest()];
    moments.into_iter().for_each(|moment| assert_eq!(moment.unwrap(), None));
    assert_eq!(tx.entity(&note("1")).unwrap(), None);
    assert_eq!(tx.entities_after(None, None, 9).unwrap().entities, []);
    assert_eq!(tx.journal(rows(1, 1).done.id).unwrap(), None);
    assert_eq!(tx.journal_entries(None, 9).unwrap(), JournalPage::default());
    assert_eq!(tx.conflict(open(1).id).unwrap(), None);
    assert_eq!(tx.conflicts(&ConflictQuery::default(), 9).unwrap().conflicts, []);
    assert_eq!((tx.controls().unwrap(), tx.deduplicated("key").unwrap()), (None, None));
    assert_eq!((tx.server_id(&note("1")).unwrap(), tx.local_id(&note("17")).unwrap()), (None, None));
    assert!(!tx.knows_server_ids().unwrap());
}

const NAMES: [Option<&str>; 4] = [None, Some("alice"), Some("Alice"), Some("é\u{0}")];

/// The same rows for each of [`NAMES`].
fn filled(store: &mut dyn Store) -> Vec<Rows> {
    let fill_as = |(name, number): (Option<&str>, u64)| {
        store.switch_identity(name).unwrap();
        look(store, |tx| assert_nothing(tx));
        commit(store, |tx| fill(tx, number))
    };
    NAMES.into_iter().zip(1..).map(fill_as).collect()
}

fn each_has_its_own(store: &mut dyn Store, rows: &[Rows]) {
    for (name, rows) in NAMES.iter().zip(rows) {
        store.switch_identity(*name).unwrap();
        assert_eq!(store.identity(), *name);
        look(store, |tx| assert_own(tx, rows));
        if let Some(mut reader) = store.reader().unwrap() {
            // Whose queue a reader reads was settled when it was made.
            store.switch_identity(Some("nobody")).unwrap();
            let mut read = |tx: &dyn StoreRead| {
                assert_own(tx, rows);
                Ok(())
            };
            reader.read(&mut read).unwrap();
        }
    }
    store.switch_identity(Some("nobody")).unwrap();
    look(store, |tx| assert_nothing(tx));
}

pub(super) fn every_question_is_about_the_open_queue(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    if !keeps_many(store.as_mut()) {
        return;
    }
    let rows = filled(store.as_mut());
    each_has_its_own(store.as_mut(), &rows);
    let mut store = harness.reopen(store);
    each_has_its_own(store.as_mut(), &rows);
}

pub(super) fn every_write_is_about_the_open_queue(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    if !keeps_many(store.as_mut()) {
        return;
    }
    let rows = filled(store.as_mut());
    store.switch_identity(Some("alice")).unwrap();
    let (own, others) = (&rows[1], [&rows[0], &rows[2], &rows[3]]);
    commit(store.as_mut(), |tx| {
        for other in others.iter().flat_map(|rows| &rows.tasks) {
            let row = DamagedRow { seq: other.seq, what: String::new() };
            assert!(matches!(tx.quarantine(&row), Err(StoreError::Misuse(_))));
        }
        own.tasks.iter().for_each(|task| tx.settle_task(task, &ended(task, 1)).unwrap());
        assert_eq!(tx.prune_journal(Timestamp(i64::MAX), 99).unwrap(), 5);
        assert_eq!(tx.prune_conflicts(Timestamp(i64::MAX), 99).unwrap(), 1);
        assert_eq!(tx.prune_deduplicated(Timestamp(i64::MAX), 99).unwrap(), 1);
        tx.remove_entity(&note("1")).unwrap();
        assert_eq!(tx.forget_records(99).unwrap(), 4);
        assert_eq!(tx.forget_records(99).unwrap(), 0);
        assert_eq!((tx.replica().unwrap(), tx.controls().unwrap()), (Some(replica(2)), Some(controls(2))));
        assert_eq!((tx.tasks_after(0, 9).unwrap(), tx.counts().unwrap()), Default::default());
    });
    let mut store = harness.reopen(store);
    for at in [0, 2, 3] {
        store.switch_identity(NAMES[at]).unwrap();
        look(store.as_mut(), |tx| assert_own(tx, &rows[at]));
    }
}

pub(super) fn the_bound_on_notes_is_that_of_each_identity(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    if !keeps_many(store.as_mut()) {
        return;
    }
    commit(store.as_mut(), |tx| tx.put_quarantined(&quarantined(-1)).unwrap());
    store.switch_identity(Some("alice")).unwrap();
    let many = landfall_core::store::QUARANTINE_MAX as i64 + 5;
    commit(store.as_mut(), |tx| (0..many).for_each(|at| tx.put_quarantined(&quarantined(at)).unwrap()));
    look(store.as_mut(), |tx| {
        let kept = tx.quarantined(usize::MAX).unwrap();
        assert_eq!((kept.len() as i64, kept.last()), (many - 5, Some(&quarantined(5))));
    });
    store.switch_identity(None).unwrap();
    look(store.as_mut(), |tx| assert_eq!(tx.quarantined(9).unwrap(), [quarantined(-1)]));
}

pub(super) fn every_identity_is_listed_with_what_waits(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    assert_eq!(store.identity(), None);
    assert_eq!(store.identities().unwrap(), [(None, Counts::default())]);
    if !keeps_many(store.as_mut()) {
        return;
    }
    let mut store = harness.create();
    filled(store.as_mut());
    store.switch_identity(Some("nobody")).unwrap();
    let some = Counts { pending: 3, conflict: 1, ..Counts::default() };
    let names = [None, Some("Alice"), Some("alice"), Some("nobody"), Some("é\u{0}")];
    let expected: Vec<(Option<String>, Counts)> = names
        .into_iter()
        .map(|name| (name.map(str::to_owned), if name == Some("nobody") { Counts::default() } else { some }))
        .collect();
    assert_eq!(store.identities().unwrap(), expected);
    assert_eq!(store.identity(), Some("nobody"), "asking changes nothing");
    let mut store = harness.reopen(store);
    assert_eq!(store.identities().unwrap(), expected);
}

pub(super) fn the_name_of_an_identity_is_neither_empty_nor_endless(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    if !keeps_many(store.as_mut()) {
        return;
    }
    store.switch_identity(Some("alice")).unwrap();
    for name in ["", &"x".repeat(1_025)] {
        let refused = store.switch_identity(Some(name));
        assert!(matches!(refused, Err(StoreError::Misuse(_))), "{refused:?}");
        assert_eq!(store.identity(), Some("alice"), "the open queue stays open");
    }
    store.switch_identity(Some(&"x".repeat(1_024))).unwrap();
    commit(store.as_mut(), |tx| tx.put_lease(&lease(1)).unwrap());
    store.switch_identity(Some("alice")).unwrap();
    look(store.as_mut(), |tx| assert_eq!(tx.lease().unwrap(), None));
}

pub(super) fn opening_again_opens_the_same_queue(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    if !keeps_many(store.as_mut()) {
        return;
    }
    store.switch_identity(Some("alice")).unwrap();
    let rows = commit(store.as_mut(), |tx| fill(tx, 3));
    store.reopen().unwrap();
    assert_eq!(store.identity(), Some("alice"));
    look(store.as_mut(), |tx| assert_own(tx, &rows));
}
