//! Promises about what is remembered by name: keys of the app's, ids of the backend's, what is paused, how tasks ended.

use super::samples::{client, conflict, ended, entity, note, open_conflict, pull_state, quarantined, task};
use super::{StoreUnderTest, commit, look};
use landfall_core::id::{EntityKey, TaskId};
use landfall_core::store::{
    ConflictQuery, Controls, EntityPage, JournalPage, StoreError, StoreRead, StoreTx,
};
use landfall_core::task::{JournalEntry, Task};
use landfall_core::time::Timestamp;

fn refused(outcome: Result<(), StoreError>) {
    assert!(matches!(outcome, Err(StoreError::Misuse(_))), "{outcome:?}");
}

fn some_id(number: u64) -> TaskId {
    TaskId::derive(client(), &note("named"), number)
}

pub(super) fn a_key_of_the_apps_leads_to_one_task(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let keys = ["a", "A", "", "a\u{0}", "é", "e\u{301}"];
    commit(store.as_mut(), |tx| {
        for (key, number) in keys.into_iter().zip(1..) {
            tx.put_deduplicated(key, some_id(number), Timestamp(5)).unwrap();
            refused(tx.put_deduplicated(key, some_id(99), Timestamp(6)));
        }
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        for (key, number) in keys.into_iter().zip(1..) {
            assert_eq!(tx.deduplicated(key).unwrap(), Some(some_id(number)), "{key:?}");
        }
        assert_eq!(tx.deduplicated("b").unwrap(), None);
        let point = tx.savepoint().unwrap();
        tx.put_deduplicated("b", some_id(7), Timestamp(5)).unwrap();
        tx.rollback_to(point).unwrap();
        assert_eq!(tx.deduplicated("b").unwrap(), None);
    });
}

pub(super) fn a_key_is_forgotten_when_it_is_older_and_its_task_is_gone(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let (queued, done) = (task(1, &note("1")), task(2, &note("2")));
    commit(store.as_mut(), |tx| {
        tx.put_task(&queued).unwrap();
        tx.put_task(&done).unwrap();
        tx.settle_task(&done, &ended(&done, 1)).unwrap();
        tx.put_deduplicated("queued", queued.id, Timestamp(1)).unwrap();
        tx.put_deduplicated("done", done.id, Timestamp(1)).unwrap();
        for (key, at) in [("a", 40), ("b", 10), ("c", 30), ("d", 20)] {
            tx.put_deduplicated(key, some_id(7), Timestamp(at)).unwrap();
        }
    });
    let known = |rows: &dyn StoreRead| {
        ["a", "b", "c", "d", "queued", "done"].map(|key| rows.deduplicated(key).unwrap().is_some())
    };
    commit(store.as_mut(), |tx| {
        assert_eq!(tx.prune_deduplicated(Timestamp(10), 9).unwrap(), 0, "at the boundary is not older");
        assert_eq!(tx.prune_deduplicated(Timestamp(40), 0).unwrap(), 0);
        let point = tx.savepoint().unwrap();
        assert_eq!(tx.prune_deduplicated(Timestamp(40), 2).unwrap(), 2);
        assert_eq!(known(tx), [true, false, true, false, true, true], "the oldest first");
        assert_eq!(tx.prune_deduplicated(Timestamp(40), 2).unwrap(), 1);
        assert_eq!(tx.prune_deduplicated(Timestamp(40), 2).unwrap(), 0);
        assert_eq!(known(tx), [true, false, false, false, true, true]);
        tx.rollback_to(point).unwrap();
        assert_eq!(known(tx), [true; 6]);
        assert_eq!(tx.prune_deduplicated(Timestamp(i64::MAX), 9).unwrap(), 4);
        assert_eq!(tx.prune_journal(Timestamp(i64::MAX), 9).unwrap(), 1);
        assert_eq!(
            tx.prune_deduplicated(Timestamp(i64::MAX), 9).unwrap(),
            1,
            "its task has left the journal"
        );
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        assert_eq!(known(tx), [false, false, false, false, true, false]);
        // One that was forgotten may be used anew.
        tx.put_deduplicated("a", some_id(8), Timestamp(1)).unwrap();
        assert_eq!(tx.deduplicated("a").unwrap(), Some(some_id(8)));
    });
}

pub(super) fn the_backends_ids_are_found_both_ways(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    look(store.as_mut(), |tx| assert!(!tx.knows_server_ids().unwrap()));
    let other = EntityKey::new("task", "a");
    commit(store.as_mut(), |tx| {
        tx.put_server_id(&note("a"), "17").unwrap();
        tx.put_server_id(&note("b"), "é\u{0}").unwrap();
        // The backend may count each type by itself, and may use a name that the app has for another record.
        tx.put_server_id(&other, "17").unwrap();
        tx.put_server_id(&note("c"), "b").unwrap();
        tx.put_server_id(&note("a"), "17").unwrap();
        refused(tx.put_server_id(&note("a"), "18"));
        refused(tx.put_server_id(&note("d"), "17"));
        refused(tx.put_server_id(&note("b"), "17"));
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        let both = |key: &EntityKey| (tx.server_id(key).unwrap(), tx.local_id(key).unwrap());
        let some = |id: &str| Some(id.to_owned());
        assert!(tx.knows_server_ids().unwrap());
        assert_eq!(both(&note("a")), (some("17"), None));
        assert_eq!(both(&note("b")), (some("é\u{0}"), some("c")));
        assert_eq!(both(&note("17")), (None, some("a")));
        assert_eq!(both(&note("é\u{0}")), (None, some("b")));
        assert_eq!(both(&EntityKey::new("task", "17")), (None, some("a")));
        assert_eq!(both(&other), (some("17"), None));
        assert_eq!([both(&note("18")), both(&note("d"))], [(None, None), (None, None)]);
        let point = tx.savepoint().unwrap();
        tx.put_server_id(&note("e"), "18").unwrap();
        tx.rollback_to(point).unwrap();
        assert_eq!((tx.server_id(&note("e")).unwrap(), tx.local_id(&note("18")).unwrap()), (None, None));
        tx.put_server_id(&note("f"), "18").unwrap();
    });
}

pub(super) fn controls(number: u8) -> Controls {
    Controls {
        all: number % 2 == 1,
        types: ["note".to_owned(), number.to_string()].into(),
        lanes: ["é\u{0}".to_owned(), String::new()].into(),
    }
}

pub(super) fn what_is_paused_reads_back_the_newest(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    look(store.as_mut(), |tx| assert_eq!(tx.controls().unwrap(), None));
    for number in 1..=2 {
        commit(store.as_mut(), |tx| tx.put_controls(&controls(number)).unwrap());
        store = harness.reopen(store);
        look(store.as_mut(), |tx| assert_eq!(tx.controls().unwrap(), Some(controls(number))));
    }
    look(store.as_mut(), |tx| {
        let point = tx.savepoint().unwrap();
        tx.put_controls(&Controls::default()).unwrap();
        tx.rollback_to(point).unwrap();
        assert_eq!(tx.controls().unwrap(), Some(controls(2)));
    });
}

pub(super) fn ended_tasks_come_last_first_and_page_by_page(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let tasks: Vec<Task> = (1..=7).map(|seq| task(seq, &note("1"))).collect();
    // By their moment; of the same moment the one that was entered last comes first.
    let moments = [40, 10, 30, 20, 30, 30, 10];
    for (task, at) in tasks.iter().zip(moments) {
        commit(store.as_mut(), |tx| {
            tx.put_task(task).unwrap();
            tx.settle_task(task, &ended(task, at)).unwrap();
        });
    }
    let mut store = harness.reopen(store);
    let order: Vec<JournalEntry> =
        [0, 5, 4, 2, 3, 6, 1].map(|at: usize| ended(&tasks[at], moments[at])).into();
    look(store.as_mut(), |tx| {
        for limit in [1, 2, 3, 99, usize::MAX] {
            let (mut read, mut before) = (Vec::new(), None);
            // A page too many would show in what was read.
            for _ in 0..=tasks.len() {
                let page = tx.journal_entries(before, limit).unwrap();
                assert!(page.entries.len() <= limit && page.damaged.is_empty());
                let Some(last) = page.entries.last() else { break };
                before = Some(last.task_id);
                read.extend(page.entries);
            }
            assert_eq!(read, order, "in pages of {limit}");
        }
        assert_eq!(tx.journal_entries(None, 0).unwrap(), JournalPage::default());
        assert_eq!(tx.journal_entries(Some(some_id(1)), 9).unwrap(), JournalPage::default(), "not known");
    });
}

/// Two records, three conflicts, two ids and two notes.
fn fill(tx: &mut dyn StoreTx) {
    let of = task(1, &note("1"));
    tx.put_entity(&entity(&note("1"))).unwrap();
    tx.put_entity(&entity(&note("2"))).unwrap();
    tx.put_conflict(&open_conflict(&of, 1)).unwrap();
    tx.put_conflict(&conflict(&of, 2)).unwrap();
    tx.put_conflict(&conflict(&of, 3)).unwrap();
    tx.put_server_id(&note("1"), "17").unwrap();
    tx.put_server_id(&note("2"), "18").unwrap();
    tx.put_quarantined(&quarantined(1)).unwrap();
    tx.put_quarantined(&quarantined(2)).unwrap();
    tx.put_pull_state(&pull_state(1)).unwrap();
}

/// How many rows are left of what can be forgotten.
fn left(rows: &dyn StoreRead) -> usize {
    let ids = ["1", "2"].iter().filter(|id| rows.server_id(&note(id)).unwrap().is_some()).count();
    rows.entities_after(None, None, 99).unwrap().entities.len()
        + rows.conflicts(&ConflictQuery::default(), 99).unwrap().conflicts.len()
        + rows.quarantined(99).unwrap().len()
        + ids
}

pub(super) fn records_are_forgotten_and_tasks_are_not(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let (queued, done) = (task(1, &note("1")), task(2, &note("2")));
    commit(store.as_mut(), |tx| {
        fill(tx);
        tx.put_task(&queued).unwrap();
        tx.put_task(&done).unwrap();
        tx.settle_task(&done, &ended(&done, 1)).unwrap();
        tx.put_deduplicated("key", done.id, Timestamp(1)).unwrap();
        tx.put_controls(&controls(1)).unwrap();
        assert_eq!(left(tx), 9);
    });
    look(store.as_mut(), |tx| {
        let point = tx.savepoint().unwrap();
        assert_eq!(tx.forget_records(99).unwrap(), 9);
        assert_eq!((left(tx), tx.pull_state().unwrap()), (0, None));
        tx.rollback_to(point).unwrap();
        assert_eq!((left(tx), tx.pull_state().unwrap()), (9, Some(pull_state(1))));
        assert_eq!(tx.local_id(&note("17")).unwrap(), Some("1".to_owned()));
    });
    commit(store.as_mut(), |tx| {
        assert_eq!(tx.forget_records(0).unwrap(), 0);
        for rest in [5, 1] {
            assert_eq!(tx.forget_records(4).unwrap(), 4);
            assert_eq!((left(tx), tx.pull_state().unwrap()), (rest, Some(pull_state(1))));
        }
        assert_eq!(tx.forget_records(1).unwrap(), 1);
        assert_eq!(tx.pull_state().unwrap(), None, "the last one has gone");
        assert_eq!(tx.forget_records(4).unwrap(), 0);
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        assert_eq!((left(tx), tx.pull_state().unwrap(), tx.knows_server_ids().unwrap()), (0, None, false));
        assert_eq!(tx.tasks_after(0, 9).unwrap().tasks, [queued]);
        assert_eq!(tx.journal(done.id).unwrap(), Some(ended(&done, 1)));
        assert_eq!(tx.deduplicated("key").unwrap(), Some(done.id));
        assert_eq!(tx.controls().unwrap(), Some(controls(1)));
        fill(tx);
        assert_eq!(left(tx), 9);
    });
    // As long as one record is left the feed goes on where it was, whatever else there never was.
    let mut store = harness.create();
    commit(store.as_mut(), |tx| {
        ["1", "2"].iter().for_each(|id| tx.put_entity(&entity(&note(id))).unwrap());
        tx.put_pull_state(&pull_state(1)).unwrap();
        assert_eq!(tx.forget_records(1).unwrap(), 1);
        assert_eq!(tx.pull_state().unwrap(), Some(pull_state(1)));
        assert_eq!(tx.forget_records(9).unwrap(), 1);
        assert_eq!(tx.pull_state().unwrap(), None);
    });
}

pub(super) fn a_record_that_is_forgotten_is_not_known(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    commit(store.as_mut(), |tx| ["1", "2"].iter().for_each(|id| tx.put_entity(&entity(&note(id))).unwrap()));
    commit(store.as_mut(), |tx| {
        let point = tx.savepoint().unwrap();
        tx.remove_entity(&note("2")).unwrap();
        tx.rollback_to(point).unwrap();
        assert_eq!(tx.entity(&note("2")).unwrap(), Some(entity(&note("2"))));
        tx.remove_entity(&note("1")).unwrap();
        tx.remove_entity(&note("1")).unwrap();
        tx.remove_entity(&note("3")).unwrap();
        tx.remove_entity(&EntityKey::new("task", "2")).unwrap();
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        assert_eq!(tx.entity(&note("1")).unwrap(), None);
        let page = tx.entities_after(None, None, 9).unwrap();
        let last = Some(note("2"));
        assert_eq!(page, EntityPage { entities: vec![entity(&note("2"))], damaged: vec![], last });
        tx.put_entity(&entity(&note("1"))).unwrap();
        assert_eq!(tx.entity(&note("1")).unwrap(), Some(entity(&note("1"))));
    });
}
