//! Promises about rows that the disk has spoiled: never handed out, named, and put aside without touching the rest.

use super::samples::{conflict, ended, entity, note, open_conflict, task};
use super::{StoreUnderTest, commit, look};
use landfall_core::conflict::ConflictRecord;
use landfall_core::id::EntityKey;
use landfall_core::store::{ConflictQuery, Counts, DamagedRow, Page, Store, StoreError, StoreRead};
use landfall_core::task::{Standing, StateKind, Task, TaskState, Terms};
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
        tx.settle_task(&sample(1), &ended(&sample(1), 1)).unwrap();
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

pub(super) fn a_quarantined_row_does_not_lapse_and_is_not_held(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let of = |seq| {
        let terms = Terms { expires_at: Some(Timestamp(seq as i64)), ..Terms::default() };
        let standing = Standing { held: true, ..Standing::default() };
        Task { terms, standing, claim_at: None, ..task(seq, &note("1")) }
    };
    commit(store.as_mut(), |tx| (1..=2).for_each(|seq| tx.put_task(&of(seq)).unwrap()));
    let Some(mut store) = harness.damage(store, of(1).id) else { return };
    commit(store.as_mut(), |tx| {
        let (held, lapsed) = (tx.held_after(0, 9).unwrap(), tx.lapsed(Timestamp(9), 9).unwrap());
        assert_eq!((positions(&held), positions(&lapsed)), ((vec![2], vec![1]), (vec![2], vec![1])));
        tx.quarantine(&lapsed.damaged[0]).unwrap();
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        let (held, lapsed) = (tx.held_after(0, 9).unwrap(), tx.lapsed(Timestamp(9), 9).unwrap());
        assert_eq!((positions(&held), positions(&lapsed)), ((vec![2], vec![]), (vec![2], vec![])));
        assert_eq!(tx.next_lapse().unwrap(), Some(Timestamp(2)), "nobody is woken for it again and again");
        assert_eq!(positions(&tx.tasks_after(0, 9).unwrap()), (vec![2], vec![1]));
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

/// A store with records of two types, of which the second one and the last one are spoiled.
fn spoiled_records(harness: &dyn StoreUnderTest) -> Option<(Box<dyn Store>, Vec<EntityKey>)> {
    let keys: Vec<EntityKey> =
        [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")].map(|(kind, id)| EntityKey::new(kind, id)).into();
    let mut store = harness.create();
    commit(store.as_mut(), |tx| keys.iter().for_each(|key| tx.put_entity(&entity(key)).unwrap()));
    let store = harness.damage_entity(store, &keys[1])?;
    let store = harness.damage_entity(store, &keys[3])?;
    Some((store, keys))
}

pub(super) fn a_damaged_record_is_named_apart_and_passed(harness: &dyn StoreUnderTest) {
    let Some((mut store, keys)) = spoiled_records(harness) else { return };
    look(store.as_mut(), |tx| {
        for (key, whole) in keys.iter().zip([true, false, true, false]) {
            match tx.entity(key) {
                Ok(found) => assert!(whole && found == Some(entity(key)), "{key}"),
                Err(error) => assert!(!whole && matches!(error, StoreError::Damaged(_)), "{key}: {error:?}"),
            }
        }
        let all = tx.entities_after(None, None, 9).unwrap();
        assert_eq!(all.entities, [&keys[0], &keys[2]].map(entity));
        assert_eq!((all.damaged.len(), all.last.as_ref()), (2, keys.last()), "the last row is a damaged one");
        assert!(all.damaged[0].contains("a 2") && all.damaged[1].contains("b 2"), "{:?}", all.damaged);
        let of_type = tx.entities_after(Some("b"), Some(&keys[1]), 9).unwrap();
        assert_eq!((of_type.entities, of_type.damaged.len()), (vec![entity(&keys[2])], 1));
        // One by one: a page that holds nothing whole still leads to the next.
        let (mut seen, mut after) = (Vec::new(), None);
        for _ in 0..=keys.len() {
            let page = tx.entities_after(None, after.as_ref(), 1).unwrap();
            seen.push((page.entities.len(), page.damaged.len()));
            let Some(last) = page.last else { break };
            after = Some(last);
        }
        assert_eq!(seen, [(1, 0), (0, 1), (1, 0), (0, 1), (0, 0)]);
        assert_eq!(after.as_ref(), keys.last());
    });
    commit(store.as_mut(), |tx| tx.put_entity(&entity(&keys[1])).unwrap());
    look(store.as_mut(), |tx| {
        assert_eq!(tx.entity(&keys[1]).unwrap(), Some(entity(&keys[1])), "written again it is whole");
        assert_eq!(tx.entities_after(Some("a"), None, 9).unwrap().damaged, [""; 0]);
    });
}

/// A store with five conflicts, settled but for the fourth, of which the second and the fourth are spoiled.
fn spoiled_conflicts(harness: &dyn StoreUnderTest) -> Option<(Box<dyn Store>, Vec<ConflictRecord>)> {
    let of = task(1, &note("1"));
    let records: Vec<ConflictRecord> =
        (1..=5).map(|at| if at == 4 { open_conflict(&of, at) } else { conflict(&of, at) }).collect();
    let mut store = harness.create();
    commit(store.as_mut(), |tx| records.iter().for_each(|record| tx.put_conflict(record).unwrap()));
    let store = harness.damage_conflict(store, records[1].id)?;
    let store = harness.damage_conflict(store, records[3].id)?;
    Some((store, records))
}

pub(super) fn a_damaged_conflict_is_named_apart_and_passed(harness: &dyn StoreUnderTest) {
    let Some((mut store, records)) = spoiled_conflicts(harness) else { return };
    let whole = [4, 2, 0].map(|at: usize| records[at].clone());
    look(store.as_mut(), |tx| {
        for record in &records {
            match tx.conflict(record.id) {
                Ok(found) => assert!(whole.contains(record) && found.as_ref() == Some(record)),
                Err(error) => assert!(!whole.contains(record) && matches!(error, StoreError::Damaged(_))),
            }
        }
        let all = ConflictQuery::default();
        let of_entity = ConflictQuery { entity: Some(note("1")), ..all.clone() };
        for which in [&all, &of_entity] {
            let page = tx.conflicts(which, 9).unwrap();
            assert_eq!(page.conflicts, whole);
            let named = [3, 1].map(|at: usize| records[at].id.to_string());
            assert!(
                page.damaged.len() == 2
                    && page.damaged.iter().zip(named).all(|(said, id)| said.contains(&id))
            );
            // One by one: each whole one is found once, and each damaged one is named once.
            let (mut found, mut named, mut before) = (Vec::new(), 0, None);
            for _ in 0..=records.len() {
                let page = tx.conflicts(&ConflictQuery { before, ..which.clone() }, 1).unwrap();
                named += page.damaged.len();
                let Some(last) = page.conflicts.last() else { break };
                before = Some(last.id);
                found.extend(page.conflicts);
            }
            assert_eq!((found.as_slice(), named), (&whole[..], 2));
        }
        let behind_damaged = ConflictQuery { before: Some(records[3].id), ..all.clone() };
        assert_eq!(tx.conflicts(&behind_damaged, 9).unwrap().conflicts, whole[1..]);
        let open = tx.conflicts(&ConflictQuery { open_only: true, ..all }, 9).unwrap();
        assert_eq!((open.conflicts, open.damaged.len()), (vec![], 1), "it may be one that waits");
    });
}

pub(super) fn a_damaged_conflict_is_never_pruned_and_whole_when_put_again(harness: &dyn StoreUnderTest) {
    let Some((mut store, records)) = spoiled_conflicts(harness) else { return };
    commit(store.as_mut(), |tx| {
        assert_eq!(tx.prune_conflicts(Timestamp(i64::MAX), 2).unwrap(), 2, "none stands in another's way");
        assert_eq!(tx.prune_conflicts(Timestamp(i64::MAX), 2).unwrap(), 1);
        assert_eq!(tx.prune_conflicts(Timestamp(i64::MAX), 2).unwrap(), 0);
        assert_eq!(tx.conflicts(&ConflictQuery::default(), 9).unwrap().damaged.len(), 2);
        tx.put_conflict(&records[0]).unwrap();
        tx.put_conflict(&records[3]).unwrap();
    });
    let mut store = harness.reopen(store);
    commit(store.as_mut(), |tx| {
        let page = tx.conflicts(&ConflictQuery::default(), 9).unwrap();
        assert_eq!(page.conflicts, [records[0].clone(), records[3].clone()], "in its old place");
        assert_eq!(page.damaged.len(), 1);
        tx.put_conflict(&records[1]).unwrap();
        assert_eq!(tx.prune_conflicts(Timestamp(i64::MAX), 9).unwrap(), 2);
        assert_eq!(tx.conflicts(&ConflictQuery::default(), 9).unwrap().conflicts, [records[3].clone()]);
    });
}
