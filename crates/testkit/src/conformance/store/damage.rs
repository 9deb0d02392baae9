//! Promises about rows that the disk has spoiled: never handed out, named, and put aside without touching the rest.

use super::samples::{note, task};
use super::{StoreUnderTest, commit, look};
use landfall_core::store::{Counts, DamagedRow, Page, Store, StoreError, StoreRead};
use landfall_core::task::{StateKind, Task, TaskState};
use landfall_core::time::Timestamp;

/// A store with five tasks, of which the second is spoiled.
fn spoiled(harness: &dyn StoreUnderTest) -> Option<Box<dyn Store>> {
    let mut store = harness.create();
    commit(store.as_mut(), |tx| (1..=5).for_each(|seq| tx.put_task(&sample(seq)).unwrap()));
    harness.damage(store, sample(2).id)
}

/// All in one lane; the third waits for its time.
fn sample(seq: u64) -> Task {
    Task {
        lane: Some("lane".into()),
        enqueued_at: Timestamp(seq as i64 * 100),
        claim_at: Some(Timestamp(if seq == 3 { 50 } else { 0 })),
        ..task(seq, &note(&(seq / 4).to_string()))
    }
}

fn positions(page: &Page) -> (Vec<u64>, Vec<u64>) {
    let whole = page.tasks.iter().map(|task| task.seq).collect();
    (whole, page.damaged.iter().map(|row| row.seq).collect())
}

pub(super) fn a_damaged_row_is_never_handed_out(harness: &dyn StoreUnderTest) {
    let Some(mut store) = spoiled(harness) else { return };
    look(store.as_mut(), |tx| {
        let damaged = |answer: Result<Option<Task>, StoreError>| {
            assert!(matches!(answer, Err(StoreError::Damaged(_))), "{answer:?}");
        };
        damaged(tx.task(sample(2).id));
        damaged(tx.next_of_entity(&note("0"), 1));
        damaged(tx.next_of_lane("lane", 1));
        assert_eq!(positions(&tx.tasks_after(0, 9).unwrap()), (vec![1, 3, 4, 5], vec![2]));
        assert_eq!(positions(&tx.claimable(Timestamp(50), 9).unwrap()), (vec![1, 3, 4, 5], vec![2]));
        assert_eq!(
            positions(&tx.tasks_in_state(StateKind::Pending, 0, 9).unwrap()),
            (vec![1, 3, 4, 5], vec![2])
        );
    });
}

pub(super) fn a_damaged_row_does_not_hide_its_neighbours(harness: &dyn StoreUnderTest) {
    let Some(mut store) = spoiled(harness) else { return };
    let whole = |rows: &dyn StoreRead| {
        for seq in [1, 3, 4, 5] {
            assert_eq!(rows.task(sample(seq).id).unwrap(), Some(sample(seq)));
        }
        assert_eq!(rows.last_of_entity(&note("0")).unwrap(), Some(sample(3)));
        assert_eq!(rows.next_of_lane("lane", 2).unwrap(), Some(sample(3)));
        assert_eq!(rows.next_claim(Timestamp(0)).unwrap(), Some(Timestamp(50)));
        assert_eq!(rows.counts().unwrap().total(), 5);
    };
    look(store.as_mut(), |tx| {
        whole(tx);
        assert_eq!(tx.oldest().unwrap(), Some(Timestamp(100)));
    });
    commit(store.as_mut(), |tx| {
        whole(tx);
        tx.settle_task(&sample(1), &super::samples::ended(&sample(1), 1)).unwrap();
        assert_eq!(tx.oldest().unwrap(), Some(Timestamp(300)), "a damaged row is passed over");
    });
}

pub(super) fn a_quarantined_row_counts_as_dead_and_is_never_claimed(harness: &dyn StoreUnderTest) {
    let Some(mut store) = spoiled(harness) else { return };
    let before = look(store.as_mut(), |tx| tx.counts().unwrap());
    assert_eq!(before, Counts { pending: 5, ..Counts::default() });
    let rows = look(store.as_mut(), |tx| tx.claimable(Timestamp(50), 9).unwrap().damaged);
    // Dropped and undone quarantines leave no trace.
    look(store.as_mut(), |tx| tx.quarantine(&rows[0]).unwrap());
    let after = Counts { pending: 4, dead: 1, ..Counts::default() };
    commit(store.as_mut(), |tx| {
        let point = tx.savepoint().unwrap();
        tx.quarantine(&rows[0]).unwrap();
        assert_eq!(tx.counts().unwrap(), after);
        tx.rollback_to(point).unwrap();
        assert_eq!(tx.counts().unwrap(), before);
        tx.quarantine(&rows[0]).unwrap();
        tx.quarantine(&rows[0]).unwrap();
        assert_eq!(tx.counts().unwrap(), after);
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        assert_eq!(tx.counts().unwrap(), after);
        assert_eq!(positions(&tx.claimable(Timestamp(i64::MAX), 9).unwrap()), (vec![1, 3, 4, 5], vec![]));
        assert_eq!(
            positions(&tx.tasks_in_state(StateKind::Pending, 0, 9).unwrap()),
            (vec![1, 3, 4, 5], vec![])
        );
        assert_eq!(positions(&tx.tasks_in_state(StateKind::Dead, 0, 9).unwrap()), (vec![], vec![2]));
        assert_eq!(positions(&tx.tasks_after(0, 9).unwrap()), (vec![1, 3, 4, 5], vec![2]));
        let kept = tx.next_of_lane("lane", 1);
        assert!(
            matches!(kept, Err(StoreError::Damaged(_))),
            "it stays in its place and blocks its lane: {kept:?}"
        );
    });
}

pub(super) fn only_a_damaged_row_is_quarantined(harness: &dyn StoreUnderTest) {
    let Some(mut store) = spoiled(harness) else { return };
    commit(store.as_mut(), |tx| {
        for seq in [1, 77] {
            let refused = tx.quarantine(&DamagedRow { seq, what: String::new() });
            assert!(matches!(refused, Err(StoreError::Misuse(_))), "row {seq}: {refused:?}");
        }
        assert_eq!(tx.counts().unwrap(), Counts { pending: 5, ..Counts::default() });
        assert_eq!(tx.task(sample(1).id).unwrap(), Some(sample(1)));
    });
}

pub(super) fn a_damaged_row_that_is_put_again_is_whole(harness: &dyn StoreUnderTest) {
    let Some(mut store) = spoiled(harness) else { return };
    let rows = look(store.as_mut(), |tx| tx.tasks_after(0, 9).unwrap().damaged);
    commit(store.as_mut(), |tx| tx.quarantine(&rows[0]).unwrap());
    let healed = Task { state: TaskState::Conflict, claim_at: None, ..sample(2) };
    commit(store.as_mut(), |tx| tx.put_task(&healed).unwrap());
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        assert_eq!(tx.task(healed.id).unwrap(), Some(healed));
        assert_eq!(tx.tasks_after(0, 9).unwrap().damaged, []);
        assert_eq!(tx.counts().unwrap(), Counts { pending: 4, conflict: 1, ..Counts::default() });
    });
}
