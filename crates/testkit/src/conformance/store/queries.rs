//! Promises about questions: what is found, in which order, and never more than was asked for.

use super::samples::{conflict, conflict_id, ended, entity, note, open_conflict, quarantined, task};
use super::{StoreUnderTest, commit, look};
use landfall_core::conflict::ConflictRecord;
use landfall_core::entity::StoredEntity;
use landfall_core::id::{EntityKey, Fence};
use landfall_core::store::{ConflictPage, ConflictQuery, Counts, EntityPage, Page, Store, StoreRead};
use landfall_core::task::{StateKind, Task, TaskState};
use landfall_core::time::Timestamp;

const NONE: [u64; 0] = [];

fn put(store: &mut dyn Store, tasks: &[Task]) {
    commit(store, |tx| tasks.iter().for_each(|task| tx.put_task(task).unwrap()));
}

fn positions(page: &Page) -> Vec<u64> {
    assert_eq!(page.damaged, []);
    page.tasks.iter().map(|task| task.seq).collect()
}

fn claimable(rows: &dyn StoreRead, now: i64, limit: usize) -> Vec<u64> {
    positions(&rows.claimable(Timestamp(now), limit).unwrap())
}

pub(super) fn a_new_position_is_greater_than_all(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let mut next = || -> u64 {
        commit(store.as_mut(), |tx| {
            let seq = tx.next_seq().unwrap();
            assert!(tx.next_seq().unwrap() > seq, "given out once");
            let highest = tx.tasks_after(0, 99).unwrap().tasks.last().map_or(0, |task| task.seq);
            assert!(seq > highest);
            let last = tx.next_seq().unwrap();
            tx.put_task(&task(last, &note("1"))).unwrap();
            assert!(tx.next_seq().unwrap() > last);
            last
        })
    };
    let first = next();
    assert!(first >= 1);
    assert!(next() > first);
    put(store.as_mut(), &[task(1_000, &note("far"))]);
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        let point = tx.savepoint().unwrap();
        assert!(tx.next_seq().unwrap() > 1_000);
        tx.put_task(&task(2_000, &note("farther"))).unwrap();
        assert!(tx.next_seq().unwrap() > 2_000);
        tx.rollback_to(point).unwrap();
        assert!(tx.next_seq().unwrap() > 1_000);
    });
}

pub(super) fn counts_are_true_after_every_step(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let states = [
        TaskState::Pending { retry_at: None },
        TaskState::InFlight { fence: Fence(1) },
        TaskState::Unknown { retry_at: Timestamp(1) },
        TaskState::Conflict,
        TaskState::Dead { why: landfall_core::failure::FailureKind::Rejected },
    ];
    let mut expected = Counts::default();
    for (step, state) in states.into_iter().cycle().take(15).enumerate() {
        // Three rounds: a new task in each state; then all change; then all but some are settled.
        let seq = step as u64 % 5 + 1;
        let moved = states[(step + step / 5) % 5];
        commit(store.as_mut(), |tx| {
            let key = note(&seq.to_string());
            if step < 10 {
                let old = tx.last_of_entity(&key).unwrap().map(|task| task.state.kind());
                old.into_iter().for_each(|old| *expected.of_mut(old) -= 1);
                *expected.of_mut(moved.kind()) += 1;
                tx.put_task(&Task { state: moved, ..task(seq, &key) }).unwrap();
            } else if state != TaskState::Conflict {
                let old = tx.last_of_entity(&key).unwrap().expect("it is queued");
                *expected.of_mut(old.state.kind()) -= 1;
                tx.settle_task(&old, &ended(&old, 1)).unwrap();
            }
            assert_eq!(tx.counts().unwrap(), expected, "step {step}, before the commit");
        });
        assert_eq!(look(store.as_mut(), |tx| tx.counts().unwrap()), expected, "step {step}");
    }
    let mut store = harness.reopen(store);
    assert_eq!(look(store.as_mut(), |tx| tx.counts().unwrap()), expected);
    assert_eq!(expected.total(), 1);
}

pub(super) fn pages_come_in_order_of_position(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    put(store.as_mut(), &[30, 10, 20, 50, 40].map(|seq| task(seq, &note("1"))));
    look(store.as_mut(), |tx| {
        let page = |after, limit| positions(&tx.tasks_after(after, limit).unwrap());
        assert_eq!(page(0, 99), [10, 20, 30, 40, 50]);
        assert_eq!(page(0, 2), [10, 20]);
        assert_eq!(page(20, 2), [30, 40]);
        assert_eq!(page(21, usize::MAX), [30, 40, 50]);
        assert_eq!(page(50, 2), NONE);
        assert_eq!(page(u64::MAX, 2), NONE);
    });
}

pub(super) fn tasks_of_a_state_come_in_order_of_position(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let dead = TaskState::Dead { why: landfall_core::failure::FailureKind::Rejected };
    let states = [TaskState::Conflict, TaskState::Pending { retry_at: None }, dead];
    let tasks: Vec<Task> =
        (1..=12).rev().map(|seq| Task { state: states[seq as usize % 3], ..task(seq, &note("1")) }).collect();
    put(store.as_mut(), &tasks);
    look(store.as_mut(), |tx| {
        let page = |state, after, limit| positions(&tx.tasks_in_state(state, after, limit).unwrap());
        assert_eq!(page(StateKind::Conflict, 0, 99), [3, 6, 9, 12]);
        assert_eq!(page(StateKind::Pending, 0, 99), [1, 4, 7, 10]);
        assert_eq!(page(StateKind::Pending, 4, 2), [7, 10]);
        assert_eq!(page(StateKind::Dead, 2, 2), [5, 8]);
        assert_eq!(page(StateKind::Dead, 11, 2), NONE);
        assert_eq!(page(StateKind::InFlight, 0, 99), NONE);
        assert_eq!(page(StateKind::Unknown, 0, 99), NONE);
    });
}

pub(super) fn tasks_of_an_entity_are_found_by_position(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let tasks = [(5, "a"), (1, "a"), (3, "b"), (9, "a"), (7, "b")].map(|(seq, id)| task(seq, &note(id)));
    put(store.as_mut(), &tasks);
    look(store.as_mut(), |tx| {
        let next = |id, after| tx.next_of_entity(&note(id), after).unwrap().map(|task| task.seq);
        assert_eq!([next("a", 0), next("a", 1), next("a", 5)], [Some(1), Some(5), Some(9)]);
        assert_eq!([next("a", 9), next("a", u64::MAX), next("c", 0)], [None; 3]);
        assert_eq!([next("b", 0), next("b", 3)], [Some(3), Some(7)]);
        let last = |id| tx.last_of_entity(&note(id)).unwrap().map(|task| task.seq);
        assert_eq!([last("a"), last("b"), last("c")], [Some(9), Some(7), None]);
    });
}

pub(super) fn names_are_never_joined(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let keys =
        [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("a", "b\u{0}c"), ("a\u{0}b", "c"), ("A", "bc")]
            .map(|(entity_type, entity_id)| EntityKey::new(entity_type, entity_id));
    let tasks: Vec<Task> = (1..).zip(&keys).map(|(seq, key)| task(seq, key)).collect();
    put(store.as_mut(), &tasks);
    commit(store.as_mut(), |tx| {
        for key in &keys {
            tx.put_entity(&StoredEntity::unknown(key.clone())).unwrap();
            let record = ConflictRecord { remote: None, ..conflict(&task(1, key), 1) };
            tx.put_conflict(&ConflictRecord { entity: key.clone(), ..record }).unwrap();
        }
    });
    look(store.as_mut(), |tx| {
        for task in &tasks {
            assert_eq!(tx.next_of_entity(&task.entity, 0).unwrap().as_ref(), Some(task));
            assert_eq!(tx.last_of_entity(&task.entity).unwrap().as_ref(), Some(task));
            assert_eq!(tx.entity(&task.entity).unwrap().map(|entity| entity.key), Some(task.entity.clone()));
            let which = ConflictQuery { entity: Some(task.entity.clone()), ..ConflictQuery::default() };
            let of_entity = tx.conflicts(&which, 99).unwrap().conflicts;
            assert!(of_entity.iter().map(|record| &record.entity).eq([&task.entity]));
            let of_type = tx.entities_after(Some(&task.entity.entity_type), None, 99).unwrap().entities;
            let same_type = keys.iter().filter(|key| key.entity_type == task.entity.entity_type);
            assert_eq!(of_type.len(), same_type.count());
        }
    });
}

pub(super) fn tasks_of_a_lane_are_found_by_position(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let tasks = [(4, Some("x")), (2, Some("x")), (1, None), (3, Some("y")), (5, Some(""))]
        .map(|(seq, lane)| Task { lane: lane.map(str::to_owned), ..task(seq, &note(&seq.to_string())) });
    put(store.as_mut(), &tasks);
    look(store.as_mut(), |tx| {
        let next = |lane, after| tx.next_of_lane(lane, after).unwrap().map(|task| task.seq);
        assert_eq!([next("x", 0), next("x", 2), next("x", 4)], [Some(2), Some(4), None]);
        assert_eq!([next("y", 0), next("", 0), next("z", 0), next("X", 0)], [Some(3), Some(5), None, None]);
    });
}

pub(super) fn lower_ranks_are_claimed_first_then_older(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let rows = [(1, 0), (2, 5), (3, -5), (4, 5), (5, i32::MIN), (6, i32::MAX), (7, 0)];
    put(store.as_mut(), &rows.map(|(seq, priority)| Task { priority, ..task(seq, &note("1")) }));
    look(store.as_mut(), |tx| {
        assert_eq!(claimable(tx, 1, 99), [6, 2, 4, 1, 7, 3, 5]);
        assert_eq!(claimable(tx, 1, 3), [6, 2, 4]);
    });
    let due = Task { priority: 5, claim_at: Some(Timestamp(10)), ..task(3, &note("1")) };
    put(store.as_mut(), &[due]);
    look(store.as_mut(), |tx| {
        assert_eq!(claimable(tx, 10, 99), [6, 2, 3, 4, 1, 7, 5], "one that waited takes its place");
        assert_eq!(claimable(tx, 10, 3), [6, 2, 3]);
    });
}

pub(super) fn a_task_is_claimed_when_its_moment_has_come(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let moments = [Some(0), Some(100), None, Some(-7), Some(101), Some(i64::MAX)];
    let tasks: Vec<Task> = (1..)
        .zip(moments)
        .map(|(seq, at)| Task { claim_at: at.map(Timestamp), ..task(seq, &note("1")) })
        .collect();
    put(store.as_mut(), &tasks);
    look(store.as_mut(), |tx| {
        assert_eq!(claimable(tx, 99, 99), [1, 4]);
        assert_eq!(claimable(tx, 100, 99), [1, 2, 4]);
        assert_eq!(claimable(tx, 101, 99), [1, 2, 4, 5]);
        assert_eq!(claimable(tx, i64::MAX, 99), [1, 2, 4, 5, 6]);
        assert_eq!(claimable(tx, i64::MIN, 99), [1, 4], "whatever the clock says");
    });
}

pub(super) fn waiting_tasks_do_not_keep_ready_ones_back(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let tasks: Vec<Task> = (1..=400)
        .map(|seq| {
            // The first half waits: some are due, some are not. Many more than the limit of each kind.
            let claim_at = if seq > 200 { 0 } else { seq as i64 };
            Task { claim_at: Some(Timestamp(claim_at)), ..task(seq, &note(&seq.to_string())) }
        })
        .collect();
    put(store.as_mut(), &tasks);
    look(store.as_mut(), |tx| {
        let claimed = claimable(tx, 100, 10);
        assert_eq!(claimed.len(), 10);
        assert!(claimed.iter().all(|seq| *seq <= 100 || *seq > 200), "only what is due: {claimed:?}");
        assert!(claimed.is_sorted());
        assert_eq!(claimable(tx, 5, 10), [1, 2, 3, 4, 5, 201, 202, 203, 204, 205]);
        assert_eq!(claimable(tx, 0, 3), [201, 202, 203]);
        assert_eq!(claimable(tx, i64::MAX, usize::MAX).len(), 400);
    });
}

pub(super) fn the_next_claim_is_the_least_still_to_come(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let moments = [Some(300), None, Some(100), Some(0), Some(200), Some(-5)];
    let tasks: Vec<Task> = (1..)
        .zip(moments)
        .map(|(seq, at)| Task { claim_at: at.map(Timestamp), ..task(seq, &note("1")) })
        .collect();
    put(store.as_mut(), &tasks);
    look(store.as_mut(), |tx| {
        let next = |now| tx.next_claim(Timestamp(now)).unwrap().map(|at| at.0);
        assert_eq!([next(0), next(99), next(i64::MIN)], [Some(100); 3]);
        assert_eq!([next(100), next(200), next(300), next(i64::MAX)], [Some(200), Some(300), None, None]);
    });
}

pub(super) fn waiting_tasks_are_found_by_their_moment(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let moments = [Some(300), None, Some(100), Some(0), Some(200), Some(-5), Some(100)];
    let tasks: Vec<Task> = (1..)
        .zip(moments)
        .map(|(seq, at)| Task { claim_at: at.map(Timestamp), ..task(seq, &note("1")) })
        .collect();
    put(store.as_mut(), &tasks);
    look(store.as_mut(), |tx| {
        let waiting = |moment, limit| -> Vec<u64> {
            let page = tx.waiting_after(Timestamp(moment), limit).unwrap();
            page.tasks.iter().map(|task| task.seq).collect()
        };
        assert_eq!(waiting(i64::MIN, 10), [3, 7, 5, 1], "never one that is ready at once");
        assert_eq!(waiting(0, 2), [3, 7]);
        assert_eq!(waiting(100, 10), [5, 1]);
        assert_eq!(waiting(300, 10), [0; 0]);
    });
}

pub(super) fn the_oldest_is_the_one_in_front(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let tasks = [(3, 5), (2, 900), (4, 1)]
        .map(|(seq, at)| Task { enqueued_at: Timestamp(at), ..task(seq, &note("1")) });
    put(store.as_mut(), &tasks);
    assert_eq!(
        look(store.as_mut(), |tx| tx.oldest().unwrap()),
        Some(Timestamp(900)),
        "by position, not by clock"
    );
    commit(store.as_mut(), |tx| tx.settle_task(&tasks[1], &ended(&tasks[1], 1)).unwrap());
    assert_eq!(look(store.as_mut(), |tx| tx.oldest().unwrap()), Some(Timestamp(5)));
}

/// Keys in no order, of types and with ids that are easily confused. The two texts "é" are written differently.
fn odd_keys() -> Vec<EntityKey> {
    let keys = [
        ("note", "b"),
        ("a", "10"),
        ("note", ""),
        ("Note", "a"),
        ("note", "a"),
        ("a", "9"),
        ("note", "a\u{0}"),
        ("notes", ""),
        ("a", "é"),
        ("note\u{0}", "z"),
        ("a", "e\u{301}"),
        ("", "z"),
        ("note", "A"),
        ("é", "\u{10ffff}"),
        ("a", "Z"),
        ("é", "\u{ffff}"),
    ];
    keys.into_iter().map(|(kind, id)| EntityKey::new(kind, id)).collect()
}

fn put_records(store: &mut dyn Store, keys: &[EntityKey]) {
    commit(store, |tx| keys.iter().for_each(|key| tx.put_entity(&entity(key)).unwrap()));
}

/// Reads page by page and checks each: never more than asked for, in order, and where the next one begins.
fn all_pages(rows: &dyn StoreRead, entity_type: Option<&str>, limit: usize) -> Vec<EntityKey> {
    let (mut keys, mut after) = (Vec::new(), None);
    for _ in 0..=odd_keys().len() {
        let page = rows.entities_after(entity_type, after.as_ref(), limit).unwrap();
        assert!(page.entities.len() <= limit && page.damaged.is_empty());
        assert_eq!(page.last.as_ref(), page.entities.last().map(|entity| &entity.key));
        assert!(page.entities.iter().all(|found| *found == entity(&found.key)));
        keys.extend(page.entities.iter().map(|entity| entity.key.clone()));
        after = page.last;
        if after.is_none() {
            return keys;
        }
    }
    panic!("the pages never end");
}

pub(super) fn records_come_in_order_of_type_then_id_byte_by_byte(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let mut keys = odd_keys();
    put_records(store.as_mut(), &keys);
    keys.sort_by(|a, b| {
        let bytes =
            |key: &EntityKey| (key.entity_type.clone().into_bytes(), key.entity_id.clone().into_bytes());
        bytes(a).cmp(&bytes(b))
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        for limit in [1, 2, 5, 99, usize::MAX] {
            assert_eq!(all_pages(tx, None, limit), keys, "pages of {limit}");
        }
    });
}

pub(super) fn records_of_a_type_are_found_apart(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    put_records(store.as_mut(), &odd_keys());
    look(store.as_mut(), |tx| {
        for kind in ["", "a", "note", "Note", "note\u{0}", "notes", "é", "e\u{301}", "not", "z"] {
            let mut expected: Vec<EntityKey> =
                odd_keys().into_iter().filter(|key| key.entity_type == kind).collect();
            expected.sort();
            for limit in [1, 3, 99] {
                assert_eq!(all_pages(tx, Some(kind), limit), expected, "{kind:?} in pages of {limit}");
            }
        }
    });
}

pub(super) fn a_page_of_records_may_begin_anywhere(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let keys = [("b", "2"), ("b", "4"), ("c", "1"), ("b", "")].map(|(kind, id)| EntityKey::new(kind, id));
    put_records(store.as_mut(), &keys);
    look(store.as_mut(), |tx| {
        let ids = |kind, after: (&str, &str)| -> Vec<String> {
            let after = EntityKey::new(after.0, after.1);
            let page = tx.entities_after(kind, Some(&after), 99).unwrap();
            page.entities.into_iter().map(|entity| entity.key.entity_id).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(ids(Some("b"), ("b", "")), ["2", "4"], "behind the empty name");
        assert_eq!(ids(Some("b"), ("b", "3")), ["4"], "behind one that is not there");
        assert_eq!(ids(Some("b"), ("b", "4")), none);
        assert_eq!(ids(Some("b"), ("a", "9")), ["", "2", "4"], "behind a type before it");
        assert_eq!(ids(Some("b"), ("c", "")), none, "behind a type after it");
        assert_eq!(ids(None, ("a", "z")), ["", "2", "4", "1"]);
        assert_eq!(ids(None, ("b", "2")), ["4", "1"]);
        assert_eq!(ids(None, ("b", "z")), ["1"]);
        assert_eq!(ids(None, ("c", "1")), none);
        let page = tx.entities_after(Some("b"), Some(&EntityKey::new("c", "")), 9).unwrap();
        assert_eq!(page, EntityPage::default());
    });
}

/// Which conflicts are asked for: of a record, and whether only open ones.
fn which(id: Option<&str>, open_only: bool) -> ConflictQuery {
    ConflictQuery { entity: id.map(note), open_only, before: None }
}

fn moments(rows: &dyn StoreRead, which: &ConflictQuery, limit: usize) -> Vec<i64> {
    let page = rows.conflicts(which, limit).unwrap();
    assert_eq!(page.damaged, [""; 0]);
    page.conflicts.iter().map(|record| record.at.0).collect()
}

/// Conflicts of two records, open where the number is odd; kept in this order.
fn keep_some(store: &mut dyn Store) -> Vec<ConflictRecord> {
    let kept = [("a", 5), ("b", 900), ("a", 3), ("a", 4), ("b", 1), ("a", 2), ("b", 7)];
    let records: Vec<ConflictRecord> = kept
        .into_iter()
        .map(|(id, at)| {
            let task = task(1, &note(id));
            if at % 2 == 1 { open_conflict(&task, at) } else { conflict(&task, at) }
        })
        .collect();
    for record in &records {
        commit(store, |tx| tx.put_conflict(record).unwrap());
    }
    records
}

pub(super) fn conflicts_come_newest_first(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    keep_some(store.as_mut());
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        let all = [7, 2, 1, 4, 3, 900, 5];
        assert_eq!(moments(tx, &which(None, false), 99), all, "the last kept first, whatever the clock said");
        assert_eq!(moments(tx, &which(None, false), 2), [7, 2]);
        assert_eq!(moments(tx, &which(Some("a"), false), 99), [2, 4, 3, 5]);
        assert_eq!(moments(tx, &which(Some("b"), false), 1), [7]);
        assert_eq!(moments(tx, &which(Some("c"), false), usize::MAX), [0; 0]);
    });
}

pub(super) fn open_conflicts_are_found_apart(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let records = keep_some(store.as_mut());
    look(store.as_mut(), |tx| {
        assert_eq!(moments(tx, &which(None, true), 99), [7, 1, 3, 5]);
        assert_eq!(moments(tx, &which(None, true), 3), [7, 1, 3]);
        assert_eq!(moments(tx, &which(Some("a"), true), 99), [3, 5]);
        assert_eq!(moments(tx, &which(Some("b"), true), 1), [7]);
        assert_eq!(moments(tx, &which(Some("c"), true), 99), [0; 0]);
    });
    let settled = conflict(&task(1, &note("a")), 3);
    assert_eq!(settled.id, records[2].id);
    commit(store.as_mut(), |tx| tx.put_conflict(&settled).unwrap());
    look(store.as_mut(), |tx| {
        assert_eq!(moments(tx, &which(None, true), 99), [7, 1, 5]);
        assert_eq!(moments(tx, &which(Some("a"), true), 99), [5]);
        assert_eq!(moments(tx, &which(Some("a"), false), 99), [2, 4, 3, 5]);
    });
}

pub(super) fn conflicts_are_read_page_by_page(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let records = keep_some(store.as_mut());
    look(store.as_mut(), |tx| {
        for entity in [None, Some("a"), Some("b"), Some("c")] {
            for open_only in [false, true] {
                let all = moments(tx, &which(entity, open_only), 99);
                for limit in [1, 2, 3, 99] {
                    let (mut read, mut before) = (Vec::new(), None);
                    // A page too many would show in what was read.
                    for _ in 0..=records.len() {
                        let which = ConflictQuery { before, ..which(entity, open_only) };
                        let page = tx.conflicts(&which, limit).unwrap().conflicts;
                        let Some(last) = page.last() else { break };
                        before = Some(last.id);
                        assert!(page.len() <= limit);
                        read.extend(page.iter().map(|record| record.at.0));
                    }
                    assert_eq!(read, all, "{entity:?}, open only: {open_only}, in pages of {limit}");
                }
            }
        }
        // Behind one that the question itself would not find: its place is what counts.
        let behind = |at: usize, which| ConflictQuery { before: Some(records[at].id), ..which };
        assert_eq!(moments(tx, &behind(4, which(Some("a"), false)), 99), [4, 3, 5]);
        assert_eq!(moments(tx, &behind(3, which(None, true)), 99), [3, 5]);
        assert_eq!(moments(tx, &behind(0, which(None, false)), 99), [0; 0]);
        let unknown =
            ConflictQuery { before: Some(conflict_id(&task(9, &note("9")), 9)), ..which(None, false) };
        assert_eq!(tx.conflicts(&unknown, 99).unwrap(), ConflictPage::default());
    });
}

pub(super) fn a_limit_of_nothing_gives_nothing(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    put(store.as_mut(), &[task(1, &note("1"))]);
    commit(store.as_mut(), |tx| {
        tx.put_conflict(&conflict(&task(1, &note("1")), 1)).unwrap();
        tx.put_entity(&entity(&note("1"))).unwrap();
        tx.put_quarantined(&quarantined(1)).unwrap();
    });
    look(store.as_mut(), |tx| {
        assert_eq!(tx.tasks_after(0, 0).unwrap(), Page::default());
        assert_eq!(tx.claimable(Timestamp(1), 0).unwrap(), Page::default());
        assert_eq!(tx.tasks_in_state(StateKind::Pending, 0, 0).unwrap(), Page::default());
        let all = ConflictQuery::default();
        assert_eq!(tx.conflicts(&all, 0).unwrap(), ConflictPage::default());
        let of_entity = ConflictQuery { entity: Some(note("1")), ..all };
        assert_eq!(tx.conflicts(&of_entity, 0).unwrap(), ConflictPage::default());
        assert_eq!(tx.entities_after(None, None, 0).unwrap(), EntityPage::default());
        assert_eq!(tx.entities_after(Some("note"), None, 0).unwrap(), EntityPage::default());
        assert_eq!(tx.quarantined(0).unwrap(), []);
    });
}
