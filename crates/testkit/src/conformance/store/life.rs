//! Promises about what a task waits for and how it stands: rank, line, group, parents, held, and the end of its time.

use super::samples::{client, ended, full_terms, note, task};
use super::{StoreUnderTest, commit, look};
use landfall_core::id::TaskId;
use landfall_core::store::{Page, Store, StoreRead};
use landfall_core::task::{Frozen, PRIORITY_STEP, Standing, Task, TaskState, Terms};
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

pub(super) fn a_step_of_priority_is_worth_so_many_places_and_no_more(harness: &dyn StoreUnderTest) {
    let step = u64::try_from(PRIORITY_STEP).unwrap();
    let mut store = harness.create();
    // Of equal rank are 2 and step + 2; the earlier one goes first. A low one is overtaken by a bounded number.
    let rows = [
        (1, -1),
        (2, 0),
        (step, 0),
        (step + 1, 0),
        (step + 2, 1),
        (step + 3, 0),
        (2 * step, 1),
        (2 * step + 4, 0),
    ];
    put(store.as_mut(), &rows.map(|(seq, priority)| Task { priority, ..task(seq, &note("1")) }));
    let ranked = [2, step + 2, step, 2 * step, 1, step + 1, step + 3, 2 * step + 4];
    look(store.as_mut(), |tx| {
        assert_eq!(claimable(tx, 1, 99), ranked);
        assert_eq!(claimable(tx, 1, 5), ranked[..5]);
    });
    // One that had to wait first takes the place of its rank.
    put(store.as_mut(), &[Task { priority: -1, claim_at: Some(Timestamp(10)), ..task(1, &note("1")) }]);
    look(store.as_mut(), |tx| assert_eq!(claimable(tx, 10, 99), ranked));
}

pub(super) fn a_task_of_low_priority_does_not_starve(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    put(store.as_mut(), &[Task { priority: -3, ..task(1, &note("low")) }]);
    let mut overtaken = 0;
    for round in 0.. {
        let first = commit(store.as_mut(), |tx| {
            // As many new ones as are sent: the queue never runs dry.
            for _ in 0..100 {
                let seq = tx.next_seq().unwrap();
                tx.put_task(&task(seq, &note("high"))).unwrap();
            }
            let page = tx.claimable(Timestamp(1), 100).unwrap().tasks;
            if page.iter().any(|task| task.seq == 1) {
                return true;
            }
            for task in page {
                tx.settle_task(&task, &ended(&task, 1)).unwrap();
                overtaken += 1;
            }
            false
        });
        if first {
            break;
        }
        assert!(round < 50, "starved by {overtaken}");
    }
    assert!(overtaken <= 3 * PRIORITY_STEP);
}

pub(super) fn what_is_passed_over_is_not_in_line(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let over = Standing { passed_over: true, ..Standing::default() };
    let tasks: Vec<Task> = [(1, over), (2, Standing::default()), (3, over), (4, Standing::default())]
        .into_iter()
        .map(|(seq, standing)| Task { standing, lane: Some("x".into()), ..task(seq, &note("1")) })
        .collect();
    put(store.as_mut(), &tasks);
    let lines = |rows: &dyn StoreRead, after| {
        let seq = |task: Option<Task>| task.map(|task| task.seq);
        (
            seq(rows.next_in_line(&note("1"), after).unwrap()),
            seq(rows.next_of_lane("x", after).unwrap()),
            seq(rows.next_of_entity(&note("1"), after).unwrap()),
        )
    };
    look(store.as_mut(), |tx| {
        assert_eq!(lines(tx, 0), (Some(2), Some(2), Some(1)));
        assert_eq!(lines(tx, 2), (Some(4), Some(4), Some(3)));
        assert_eq!(lines(tx, 4), (None, None, None));
        assert_eq!(tx.last_of_entity(&note("1")).unwrap().map(|task| task.seq), Some(4));
        assert_eq!(tx.next_in_line(&note("2"), 0).unwrap(), None);
    });
    // It may come and go.
    put(
        store.as_mut(),
        &[
            Task { standing: Standing::default(), ..tasks[0].clone() },
            Task { standing: over, ..tasks[1].clone() },
        ],
    );
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        assert_eq!(lines(tx, 0), (Some(1), Some(1), Some(1)));
        assert_eq!(lines(tx, 1), (Some(4), Some(4), Some(2)));
    });
}

fn with_terms(seq: u64, terms: Terms) -> Task {
    Task { terms, ..task(seq, &note(&seq.to_string())) }
}

pub(super) fn tasks_of_a_group_are_found_by_position(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let groups = [(5, Some("a")), (1, Some("a")), (2, None), (3, Some("b")), (4, Some("")), (6, Some("A"))];
    let tasks = groups
        .map(|(seq, group)| with_terms(seq, Terms { group: group.map(str::to_owned), ..Terms::default() }));
    put(store.as_mut(), &tasks);
    look(store.as_mut(), |tx| {
        let group = |name| positions(&tx.tasks_of_group(name).unwrap());
        assert_eq!([group("a"), group("b"), group(""), group("A")], [vec![1, 5], vec![3], vec![4], vec![6]]);
        assert_eq!(group("none"), NONE);
        assert_eq!(tx.tasks_of_group("a").unwrap().tasks, [tasks[1].clone(), tasks[0].clone()]);
    });
    commit(store.as_mut(), |tx| tx.settle_task(&tasks[1], &ended(&tasks[1], 1)).unwrap());
    look(store.as_mut(), |tx| assert_eq!(positions(&tx.tasks_of_group("a").unwrap()), [5]));
}

fn parent(number: u64) -> TaskId {
    TaskId::derive(client(), &note("parent"), number)
}

fn waits_for(seq: u64, parents: &[u64]) -> Task {
    let waits_for = parents.iter().copied().map(parent).collect();
    with_terms(seq, Terms { waits_for, ..Terms::default() })
}

pub(super) fn those_that_wait_for_a_task_are_found_by_position(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    put(
        store.as_mut(),
        &[
            waits_for(7, &[1]),
            waits_for(3, &[1, 2]),
            waits_for(5, &[2]),
            waits_for(4, &[]),
            waits_for(9, &[1]),
        ],
    );
    let waiting = |rows: &dyn StoreRead, number, after, limit| {
        positions(&rows.waiting_for(parent(number), after, limit).unwrap())
    };
    look(store.as_mut(), |tx| {
        assert_eq!(waiting(tx, 1, 0, 99), [3, 7, 9]);
        assert_eq!(waiting(tx, 1, 0, 2), [3, 7]);
        assert_eq!(waiting(tx, 1, 3, 2), [7, 9]);
        assert_eq!(waiting(tx, 1, 9, 2), NONE);
        assert_eq!(waiting(tx, 1, 0, 0), NONE);
        assert_eq!(waiting(tx, 2, 0, 99), [3, 5]);
        assert_eq!(waiting(tx, 3, 0, 99), NONE);
        assert_eq!(tx.waiting_for(parent(2), 3, 9).unwrap().tasks, [waits_for(5, &[2])]);
    });
    // One stops to wait, one begins, one waits for another, one ends.
    commit(store.as_mut(), |tx| {
        [waits_for(7, &[]), waits_for(4, &[1]), waits_for(5, &[3]), waits_for(3, &[2])]
            .iter()
            .for_each(|task| tx.put_task(task).unwrap());
        let gone = waits_for(9, &[1]);
        tx.settle_task(&gone, &ended(&gone, 1)).unwrap();
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        assert_eq!(
            [waiting(tx, 1, 0, 9), waiting(tx, 2, 0, 9), waiting(tx, 3, 0, 9)],
            [vec![4], vec![3], vec![5]]
        );
    });
    // Its place in the queue and its state may change; whom it waits for stays.
    commit(store.as_mut(), |tx| {
        tx.settle_task(&waits_for(4, &[1]), &ended(&waits_for(4, &[1]), 1)).unwrap();
        let moved = Task { seq: 20, state: TaskState::Conflict, ..waits_for(3, &[2]) };
        tx.put_task(&moved).unwrap();
        assert_eq!(waiting(tx, 2, 0, 9), [20]);
        assert_eq!(waiting(tx, 1, 0, 9), NONE);
        let point = tx.savepoint().unwrap();
        tx.put_task(&waits_for(30, &[1])).unwrap();
        tx.put_task(&Task { terms: Terms::default(), ..moved.clone() }).unwrap();
        tx.rollback_to(point).unwrap();
        assert_eq!([waiting(tx, 1, 0, 9), waiting(tx, 2, 0, 9)], [vec![], vec![20]]);
    });
}

pub(super) fn held_tasks_are_found_by_position(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let of = |seq: u64, held| {
        let standing = Standing { held, ..Standing::default() };
        Task { standing, claim_at: None, ..task(seq, &note(&seq.to_string())) }
    };
    put(store.as_mut(), &[of(4, true), of(1, true), of(2, false), of(3, true)]);
    let held = |rows: &dyn StoreRead, after, limit| positions(&rows.held_after(after, limit).unwrap());
    look(store.as_mut(), |tx| {
        assert_eq!([held(tx, 0, 99), held(tx, 0, 2), held(tx, 1, 1)], [vec![1, 3, 4], vec![1, 3], vec![3]]);
        assert_eq!([held(tx, 4, 9), held(tx, 0, 0)], [NONE, NONE]);
    });
    commit(store.as_mut(), |tx| {
        [of(1, false), of(2, true)].iter().for_each(|task| tx.put_task(task).unwrap());
        tx.settle_task(&of(4, true), &ended(&of(4, true), 1)).unwrap();
        assert_eq!(held(tx, 0, 99), [2, 3]);
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| assert_eq!(held(tx, 0, 99), [2, 3]));
}

pub(super) fn tasks_lapse_while_they_wait_unsent(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let expiring = |seq: u64, at: Option<i64>| {
        let terms = Terms { expires_at: at.map(Timestamp), ..full_terms() };
        Task {
            terms: Terms { group: None, waits_for: [].into(), ..terms },
            ..task(seq, &note(&seq.to_string()))
        }
    };
    let frozen = |sends| {
        let frozen = super::samples::full_task(1).frozen.expect("it is frozen");
        Some(Frozen { sends, open_sends: 0, ..frozen })
    };
    let tasks = [
        expiring(1, Some(30)),
        expiring(2, None),
        expiring(3, Some(-10)),
        expiring(4, Some(30)),
        Task { frozen: frozen(0), ..expiring(5, Some(20)) },
        Task { frozen: frozen(1), ..expiring(6, Some(1)) },
        Task { state: TaskState::Conflict, claim_at: None, ..expiring(7, Some(1)) },
        // That it must wait does not give it more time.
        Task { claim_at: None, ..expiring(8, Some(40)) },
    ];
    put(store.as_mut(), &tasks);
    let lapsed = |rows: &dyn StoreRead, now, limit| positions(&rows.lapsed(Timestamp(now), limit).unwrap());
    let next = |rows: &dyn StoreRead| rows.next_lapse().unwrap().map(|at| at.0);
    look(store.as_mut(), |tx| {
        assert_eq!(lapsed(tx, 40, 99), [3, 5, 1, 4, 8], "the earliest first");
        assert_eq!(lapsed(tx, 40, 2), [3, 5]);
        assert_eq!([lapsed(tx, 30, 99), lapsed(tx, 29, 99)], [vec![3, 5, 1, 4], vec![3, 5]]);
        assert_eq!([lapsed(tx, -11, 99), lapsed(tx, 40, 0)], [NONE, NONE]);
        assert_eq!(next(tx), Some(-10));
    });
    commit(store.as_mut(), |tx| {
        tx.settle_task(&tasks[2], &ended(&tasks[2], 1)).unwrap();
        // Once a byte may have left there is no going back; a verdict that it was not executed gives the time back.
        let sent = TaskState::InFlight { fence: landfall_core::id::Fence(1) };
        tx.put_task(&Task { state: sent, claim_at: None, frozen: frozen(1), ..tasks[4].clone() }).unwrap();
        assert_eq!((lapsed(tx, 40, 99), next(tx)), (vec![1, 4, 8], Some(30)));
        tx.put_task(&tasks[4]).unwrap();
        assert_eq!((lapsed(tx, 20, 99), next(tx)), (vec![5], Some(20)));
        for at in [0, 3, 4, 7] {
            tx.settle_task(&tasks[at], &ended(&tasks[at], 1)).unwrap();
        }
        assert_eq!((lapsed(tx, i64::MAX, 99), next(tx)), (vec![], None));
    });
}
