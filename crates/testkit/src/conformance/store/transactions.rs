//! Promises about transactions: all or nothing, durable, isolated, with points to return to.

use super::samples::{
    client, conflict, conflict_id, ended, entity, full_task, lease, note, open_conflict, pull_state,
    quarantined, replica, task,
};
use super::{StoreUnderTest, commit, look};
use landfall_core::conflict::ConflictRecord;
use landfall_core::entity::StoredEntity;
use landfall_core::id::TaskId;
use landfall_core::store::{
    ConflictPage, ConflictQuery, Counts, EntityPage, Page, QUARANTINE_MAX, Savepoint, Store, StoreError,
    StoreRead, StoreTx,
};
use landfall_core::task::StateKind;
use landfall_core::time::Timestamp;

pub(super) fn an_empty_store_knows_nothing(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    look(store.as_mut(), |tx| {
        assert_eq!(tx.replica().unwrap(), None);
        assert_eq!(tx.lease().unwrap(), None);
        assert_eq!(tx.counts().unwrap(), Counts::default());
        assert_eq!(tx.task(TaskId::derive(client(), &note("1"), 1)).unwrap(), None);
        assert_eq!(tx.tasks_after(0, 10).unwrap(), Page::default());
        assert_eq!(tx.last_of_entity(&note("1")).unwrap(), None);
        assert_eq!(tx.next_of_entity(&note("1"), 0).unwrap(), None);
        assert_eq!(tx.next_of_lane("lane", 0).unwrap(), None);
        assert_eq!(tx.claimable(Timestamp(i64::MAX), 10).unwrap(), Page::default());
        assert_eq!(tx.next_claim(Timestamp(i64::MIN)).unwrap(), None);
        for state in StateKind::ALL {
            assert_eq!(tx.tasks_in_state(state, 0, 10).unwrap(), Page::default());
        }
        assert_eq!(tx.oldest().unwrap(), None);
        assert_eq!(tx.entity(&note("1")).unwrap(), None);
        assert_eq!(tx.journal(TaskId::derive(client(), &note("1"), 1)).unwrap(), None);
        assert_eq!(tx.entities_after(None, None, 10).unwrap(), EntityPage::default());
        assert_eq!(tx.conflict(conflict_id(&full_task(1), 1)).unwrap(), None);
        assert_eq!(tx.conflicts(&ConflictQuery::default(), 10).unwrap(), ConflictPage::default());
        assert_eq!(tx.pull_state().unwrap(), None);
        assert_eq!(tx.quarantined(10).unwrap(), []);
        assert_eq!(tx.prune_journal(Timestamp(i64::MAX), 10).unwrap(), 0);
        assert_eq!(tx.prune_conflicts(Timestamp(i64::MAX), 10).unwrap(), 0);
    });
}

/// Writes one row of each kind.
fn fill(tx: &mut dyn StoreTx) {
    tx.put_replica(&replica(1)).unwrap();
    tx.put_lease(&lease(1)).unwrap();
    tx.put_task(&full_task(1)).unwrap();
    tx.put_task(&task(2, &note("2"))).unwrap();
    tx.put_task(&task(3, &note("3"))).unwrap();
    tx.settle_task(&task(3, &note("3")), &ended(&task(3, &note("3")), 50)).unwrap();
    tx.put_entity(&entity(&note("2"))).unwrap();
    tx.put_conflict(&conflict(&full_task(1), 60)).unwrap();
    tx.put_conflict(&open_conflict(&full_task(1), 61)).unwrap();
    tx.put_pull_state(&pull_state(1)).unwrap();
    tx.put_quarantined(&quarantined(1)).unwrap();
}

fn conflicts(rows: &dyn StoreRead) -> Vec<ConflictRecord> {
    let page = rows.conflicts(&ConflictQuery::default(), 99).unwrap();
    assert_eq!(page.damaged, [""; 0]);
    page.conflicts
}

fn entities(rows: &dyn StoreRead) -> Vec<StoredEntity> {
    let page = rows.entities_after(None, None, 99).unwrap();
    assert_eq!(page.damaged, [""; 0]);
    page.entities
}

/// Everything that [`fill`] wrote is there, or nothing of it.
fn assert_filled(tx: &dyn StoreRead, filled: bool) {
    let there = |row| filled.then_some(row);
    assert_eq!(tx.replica().unwrap(), filled.then(|| replica(1)));
    assert_eq!(tx.lease().unwrap(), filled.then(|| lease(1)));
    assert_eq!(tx.task(full_task(1).id).unwrap(), there(full_task(1)));
    assert_eq!(tx.last_of_entity(&note("2")).unwrap(), there(task(2, &note("2"))));
    assert_eq!(tx.next_of_lane("lane '\"\u{0}é", 0).unwrap(), there(full_task(1)));
    assert_eq!(tx.last_of_entity(&note("3")).unwrap(), None);
    let settled = task(3, &note("3"));
    assert_eq!(tx.journal(settled.id).unwrap(), filled.then(|| ended(&settled, 50)));
    assert_eq!(tx.entity(&note("2")).unwrap(), filled.then(|| entity(&note("2"))));
    assert_eq!(entities(tx), Vec::from_iter(filled.then(|| entity(&note("2")))));
    let both = || vec![open_conflict(&full_task(1), 61), conflict(&full_task(1), 60)];
    assert_eq!(conflicts(tx), if filled { both() } else { vec![] });
    let of_entity = ConflictQuery { entity: Some(note("full")), open_only: true, before: None };
    assert_eq!(tx.conflicts(&of_entity, 9).unwrap().conflicts.len(), usize::from(filled));
    assert_eq!(
        tx.conflict(conflict_id(&full_task(1), 60)).unwrap(),
        filled.then(|| conflict(&full_task(1), 60))
    );
    assert_eq!(tx.pull_state().unwrap(), filled.then(|| pull_state(1)));
    assert_eq!(tx.quarantined(9).unwrap(), Vec::from_iter(filled.then(|| quarantined(1))));
    let ready = tx.claimable(Timestamp(1), 9).unwrap().tasks;
    assert_eq!(ready, Vec::from_iter(there(task(2, &note("2")))));
    assert_eq!(tx.next_claim(Timestamp(1)).unwrap(), filled.then_some(Timestamp(i64::MAX)));
    assert_eq!(tx.oldest().unwrap(), filled.then_some(full_task(1).enqueued_at));
    let counts = Counts { pending: 1, unknown: 1, ..Counts::default() };
    assert_eq!(tx.counts().unwrap(), if filled { counts } else { Counts::default() });
}

pub(super) fn a_dropped_transaction_leaves_nothing(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    look(store.as_mut(), fill);
    look(store.as_mut(), |tx| assert_filled(tx, false));
    commit(store.as_mut(), fill);
    look(store.as_mut(), |tx| {
        tx.put_task(&task(1_000, &note("2"))).unwrap();
        tx.put_entity(&entity(&note("1"))).unwrap();
        tx.settle_task(&full_task(1), &ended(&full_task(1), 70)).unwrap();
        assert_eq!(tx.prune_journal(Timestamp(51), 9).unwrap(), 1);
        tx.put_replica(&replica(2)).unwrap();
        change_what_is_kept(tx);
    });
    look(store.as_mut(), |tx| assert_filled(tx, true));
}

/// Settles, adds and prunes conflicts; moves on in the change feed; forgets every earlier note; changes a record.
fn change_what_is_kept(tx: &mut dyn StoreTx) {
    tx.put_conflict(&conflict(&full_task(1), 61)).unwrap();
    tx.put_conflict(&open_conflict(&full_task(1), 60)).unwrap();
    tx.put_conflict(&conflict(&task(2, &note("2")), 62)).unwrap();
    assert_eq!(tx.prune_conflicts(Timestamp(100), 9).unwrap(), 2);
    assert_eq!(conflicts(tx), [open_conflict(&full_task(1), 60)]);
    tx.put_pull_state(&pull_state(2)).unwrap();
    (0..QUARANTINE_MAX as i64).for_each(|at| tx.put_quarantined(&quarantined(100 + at)).unwrap());
    assert!(!tx.quarantined(usize::MAX).unwrap().contains(&quarantined(1)));
    tx.put_entity(&StoredEntity::unknown(note("2"))).unwrap();
    tx.put_entity(&entity(&note("0"))).unwrap();
}

pub(super) fn a_transaction_sees_its_own_writes(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    look(store.as_mut(), |tx| {
        fill(tx);
        assert_filled(tx, true);
    });
}

pub(super) fn what_was_committed_is_there_after_reopening(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    commit(store.as_mut(), fill);
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| assert_filled(tx, true));
    store.reopen().expect("a healthy store opens again");
    look(store.as_mut(), |tx| assert_filled(tx, true));
}

pub(super) fn what_was_not_committed_is_gone_after_reopening(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    look(store.as_mut(), fill);
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| assert_filled(tx, false));
}

pub(super) fn rolling_back_to_a_point_keeps_what_came_before(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    commit(store.as_mut(), |tx| {
        tx.put_task(&task(1, &note("before"))).unwrap();
        let point = tx.savepoint().unwrap();
        tx.settle_task(&task(1, &note("before")), &ended(&task(1, &note("before")), 1)).unwrap();
        tx.put_task(&task(2, &note("after"))).unwrap();
        tx.put_entity(&entity(&note("after"))).unwrap();
        tx.put_conflict(&conflict(&task(2, &note("after")), 1)).unwrap();
        tx.put_replica(&replica(2)).unwrap();
        tx.put_lease(&lease(2)).unwrap();
        tx.put_pull_state(&pull_state(2)).unwrap();
        tx.put_quarantined(&quarantined(2)).unwrap();
        tx.rollback_to(point).unwrap();
        assert_only_before(tx);
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), assert_only_before);
}

pub(super) fn rolling_back_to_a_point_undoes_what_was_done_to_conflicts_and_feed(
    harness: &dyn StoreUnderTest,
) {
    let mut store = harness.create();
    commit(store.as_mut(), |tx| {
        fill(tx);
        let outer = tx.savepoint().unwrap();
        let inner = tx.savepoint().unwrap();
        change_what_is_kept(tx);
        tx.rollback_to(inner).unwrap();
        assert_filled(tx, true);
        change_what_is_kept(tx);
        tx.release(inner).unwrap();
        tx.rollback_to(outer).unwrap();
        assert_filled(tx, true);
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| assert_filled(tx, true));
    commit(store.as_mut(), change_what_is_kept);
    look(store.as_mut(), |tx| assert_eq!(conflicts(tx), [open_conflict(&full_task(1), 60)]));
}

fn assert_only_before(tx: &mut dyn StoreTx) {
    assert_eq!(tx.tasks_after(0, 9).unwrap().tasks, [task(1, &note("before"))]);
    assert_eq!(tx.counts().unwrap(), Counts { pending: 1, ..Counts::default() });
    assert_eq!(tx.journal(task(1, &note("before")).id).unwrap(), None);
    assert_eq!(tx.entity(&note("after")).unwrap(), None);
    assert_eq!(entities(tx), []);
    assert_eq!(conflicts(tx), []);
    assert_eq!((tx.pull_state().unwrap(), tx.quarantined(9).unwrap()), (None, vec![]));
    assert_eq!((tx.replica().unwrap(), tx.lease().unwrap()), (None, None));
}

const NONE: [u64; 0] = [];

fn positions(tx: &dyn StoreRead) -> Vec<u64> {
    tx.tasks_after(0, 99).unwrap().tasks.iter().map(|task| task.seq).collect()
}

pub(super) fn points_nest(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    commit(store.as_mut(), |tx| {
        let outer = tx.savepoint().unwrap();
        tx.put_task(&task(1, &note("1"))).unwrap();
        let inner = tx.savepoint().unwrap();
        tx.put_task(&task(2, &note("2"))).unwrap();
        tx.rollback_to(inner).unwrap();
        assert_eq!(positions(tx), [1]);
        tx.put_task(&task(3, &note("3"))).unwrap();
        assert_eq!(positions(tx), [1, 3]);
        tx.rollback_to(outer).unwrap();
        assert_eq!(positions(tx), NONE);
        tx.put_task(&task(4, &note("4"))).unwrap();
    });
    assert_eq!(look(store.as_mut(), |tx| positions(tx)), [4]);
}

pub(super) fn a_point_can_be_returned_to_twice(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    commit(store.as_mut(), |tx| {
        let point = tx.savepoint().unwrap();
        for seq in 1..=3 {
            tx.put_task(&task(seq, &note("1"))).unwrap();
            tx.rollback_to(point).unwrap();
            assert_eq!(positions(tx), NONE);
            assert_eq!(tx.counts().unwrap().total(), 0);
        }
    });
    assert_eq!(look(store.as_mut(), |tx| positions(tx)), NONE);
}

pub(super) fn released_work_stays_and_falls_with_the_outer_point(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let released = |tx: &mut dyn StoreTx| {
        let outer = tx.savepoint().unwrap();
        let inner = tx.savepoint().unwrap();
        tx.put_task(&task(1, &note("1"))).unwrap();
        tx.release(inner).unwrap();
        assert_eq!(positions(tx), [1]);
        outer
    };
    look(store.as_mut(), |tx| {
        let outer = released(tx);
        tx.rollback_to(outer).unwrap();
        assert_eq!(positions(tx), NONE);
    });
    commit(store.as_mut(), |tx| {
        let outer = released(tx);
        tx.release(outer).unwrap();
    });
    assert_eq!(look(store.as_mut(), |tx| positions(tx)), [1]);
}

pub(super) fn a_point_that_is_gone_is_refused(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    commit(store.as_mut(), |tx| {
        let gone = |result| assert!(matches!(result, Err(StoreError::Misuse(_))), "{result:?}");
        gone(tx.rollback_to(Savepoint(77)));
        let outer = tx.savepoint().unwrap();
        let inner = tx.savepoint().unwrap();
        tx.rollback_to(outer).unwrap();
        gone(tx.rollback_to(inner));
        gone(tx.release(inner));
        tx.release(outer).unwrap();
        gone(tx.rollback_to(outer));
        let fresh = tx.savepoint().unwrap();
        assert!(fresh != outer && fresh != inner, "a point's name is used once");
    });
}

pub(super) fn a_refused_call_leaves_the_transaction_usable(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    commit(store.as_mut(), |tx| {
        tx.put_task(&task(1, &note("1"))).unwrap();
        assert!(matches!(tx.put_task(&task(1, &note("2"))), Err(StoreError::Misuse(_))));
        let stranger = task(9, &note("9"));
        assert!(matches!(tx.settle_task(&stranger, &ended(&stranger, 1)), Err(StoreError::Misuse(_))));
        let (kept, elsewhere) = (open_conflict(&task(1, &note("1")), 5), note("2"));
        tx.put_conflict(&kept).unwrap();
        let moved = ConflictRecord { entity: elsewhere.clone(), remote: None, ..kept.clone() };
        assert!(matches!(tx.put_conflict(&moved), Err(StoreError::Misuse(_))));
        assert_eq!(conflicts(tx), [kept]);
        let of_other = ConflictQuery { entity: Some(elsewhere), ..ConflictQuery::default() };
        assert_eq!(tx.conflicts(&of_other, 9).unwrap(), ConflictPage::default());
        tx.put_task(&task(3, &note("3"))).unwrap();
        assert_eq!(tx.journal(stranger.id).unwrap(), None);
        assert_eq!(tx.counts().unwrap().pending, 2);
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        assert_eq!(positions(tx), [1, 3]);
        assert_eq!(tx.counts().unwrap().pending, 2);
    });
}

pub(super) fn a_reader_sees_whole_transactions_and_one_state(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let Some(mut reader) = store.reader().expect("a reader opens if there is one") else { return };
    let read_both = |rows: &dyn StoreRead| (positions(rows), rows.counts().unwrap().total());
    let mut seen = Vec::new();
    let mut tx = store.begin().unwrap();
    tx.put_task(&task(1, &note("1"))).unwrap();
    reader
        .read(&mut |rows| {
            seen.push(read_both(rows));
            Ok(())
        })
        .unwrap();
    tx.commit().unwrap();
    let store: &mut dyn Store = store.as_mut();
    let mut step = |rows: &dyn StoreRead| {
        seen.push(read_both(rows));
        commit(store, |tx| tx.put_task(&task(2, &note("2"))).unwrap());
        seen.push(read_both(rows));
        Ok(())
    };
    reader.read(&mut step).unwrap();
    let failed = reader.read(&mut |_| Err(StoreError::Misuse("passed on".into())));
    assert_eq!(failed, Err(StoreError::Misuse("passed on".into())));
    reader
        .read(&mut |rows| {
            seen.push(read_both(rows));
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, [(vec![], 0), (vec![1], 1), (vec![1], 1), (vec![1, 2], 2)]);
}
