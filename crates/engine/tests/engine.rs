//! The engine as an app uses it: a real thread, a real clock, a memory store, and adapters that do as they are told.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::adapter::{Applied, Outcome, PushReply};
use landfall_core::change::Change;
use landfall_core::event::{Event, Origin};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::EntityKey;
use landfall_core::machine::{Enqueued, SessionEnd};
use landfall_core::store::StoreError;
use landfall_core::store::memory::MemoryStore;
use landfall_core::value::Fields;
use landfall_engine::{Engine, Error, Notice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};
use support::{Broken, BrokenStore, Scripted};

fn note(id: usize) -> Change {
    Change::create("note", format!("n{id}")).set("title", format!("title {id}"))
}

const DRAINED: SessionEnd = SessionEnd::Drained { within: Duration::from_secs(20) };

#[test]
fn what_is_enqueued_is_synced_and_then_clean() {
    let adapter = Scripted::honest();
    let engine = Engine::builder(MemoryStore::default(), adapter.clone()).build_blocking().unwrap();
    let receipt = engine.enqueue_blocking(note(1)).unwrap();
    assert_eq!(receipt.outcome, Enqueued::New);
    let key = EntityKey::new("note", "n1");
    assert!(engine.get(&key).unwrap().unwrap().base.is_none());

    let report = engine.sync_blocking().unwrap();
    assert_eq!((report.applied, report.requests), (1, 1));
    assert!(report.is_complete());
    let entity = engine.get(&key).unwrap().unwrap();
    assert_eq!(entity.base.unwrap().body.fields(), Some(&Fields::from([("title", "title 1")])));
    let task = receipt.task.unwrap();
    assert_eq!(engine.task(task).unwrap(), None);
    assert!(engine.journal(task).unwrap().is_some());
    assert_eq!(adapter.sent().len(), 1);
}

#[test]
fn enqueue_works_while_the_backend_is_unreachable_and_offline_time_burns_no_attempt() {
    let adapter = Scripted::answering(|_, _| {
        Err(Failure::new(FailureKind::Unreachable, Delivery::NotSent, "connection refused"))
    });
    let engine = Engine::builder(MemoryStore::default(), adapter).build_blocking().unwrap();
    engine.enqueue_blocking(note(1)).unwrap();
    for _ in 0..3 {
        let report = engine.sync_blocking().unwrap();
        assert!(!report.is_complete());
        assert!(report.waiting_for.unwrap().contains("unreachable"));
    }
    let status = engine.status().unwrap();
    assert_eq!((status.counts.pending, status.counts.total()), (1, 1));
    assert_eq!(status.gate.unwrap().0, FailureKind::Unreachable);
    let task = engine.tasks(0, 10).unwrap().tasks.remove(0);
    assert_eq!(task.attempts, 0);
    assert!(task.may_coalesce(), "not one byte left, so it may still be changed");
    engine.enqueue_blocking(Change::delete("note", "n1")).unwrap();
    assert_eq!(engine.status().unwrap().counts.total(), 0, "create and delete vanish together");
}

#[test]
fn a_second_caller_of_sync_joins_the_running_session() {
    let barrier = Arc::new(Barrier::new(2));
    let gate = Arc::clone(&barrier);
    let adapter = Scripted::answering(move |_, batch| {
        gate.wait();
        gate.wait();
        support::apply(batch)
    });
    let engine = Engine::builder(MemoryStore::default(), adapter.clone()).build_blocking().unwrap();
    engine.enqueue_blocking(note(1)).unwrap();
    let first = thread::spawn({
        let engine = engine.clone();
        move || engine.sync_blocking().unwrap()
    });
    barrier.wait();
    let second = thread::spawn({
        let engine = engine.clone();
        move || engine.sync_blocking().unwrap()
    });
    // The second call is on its way to the engine before the backend answers.
    while Arc::strong_count(&barrier) < 2 {
        thread::yield_now();
    }
    thread::sleep(Duration::from_millis(50));
    barrier.wait();
    let (first, second) = (first.join().unwrap(), second.join().unwrap());
    assert_eq!(first, second);
    assert_eq!(adapter.sent().len(), 1);
}

#[test]
fn sixty_four_callers_share_commits() {
    let store = BrokenStore::new(MemoryStore::default()).slow_commits(Duration::from_millis(3));
    let commits = store.commits();
    let engine = Engine::local(store).build_blocking().unwrap();
    let before = commits.load(Ordering::SeqCst);
    let callers: Vec<_> = (0..64)
        .map(|caller| {
            let engine = engine.clone();
            thread::spawn(move || {
                for n in 0..20 {
                    engine.enqueue_blocking(note(caller * 100 + n)).unwrap();
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    let used = commits.load(Ordering::SeqCst) - before;
    assert_eq!(engine.status().unwrap().counts.pending, 1280);
    assert!(used <= 128, "{used} commits for 1280 changes of 64 callers");
}

#[test]
fn many_changes_are_stored_together_or_not_at_all() {
    let engine = Engine::local(MemoryStore::default()).build_blocking().unwrap();
    let refused = engine.enqueue_many_blocking(vec![note(1), note(2), note(1)]);
    assert!(matches!(refused, Err(Error::Enqueue(_))), "{refused:?}");
    assert_eq!(engine.status().unwrap().counts.total(), 0);

    let stream = (0..1000).map(|n| if n == 999 { Err("line 1000 is bad") } else { Ok(note(n)) });
    let refused = engine.import_blocking(stream);
    assert_eq!(refused.unwrap_err().to_string(), "line 1000 is bad");
    assert_eq!(engine.status().unwrap().counts.total(), 0);

    let imported = engine.import_blocking((0..1000).map(|n| Ok::<_, Error>(note(n)))).unwrap();
    assert_eq!((imported.changes, imported.tasks), (1000, 1000));
    assert_eq!(engine.status().unwrap().counts.pending, 1000);
}

#[test]
fn one_records_damage_is_one_callers_trouble() {
    let mut memory = MemoryStore::default();
    let damaged = support::enqueue_into(&mut memory, note(7));
    assert!(memory.damage(damaged));
    let store = BrokenStore::new(memory).slow_commits(Duration::from_millis(5));
    let engine = Engine::builder(store, Scripted::honest()).build_blocking().unwrap();
    let callers: Vec<_> = (0..16)
        .map(|id| {
            let engine = engine.clone();
            thread::spawn(move || {
                (id, engine.enqueue_blocking(Change::upsert("note", format!("n{id}")).set("a", 1)))
            })
        })
        .collect();
    for caller in callers {
        let (id, answer) = caller.join().unwrap();
        match answer {
            Ok(_) => assert_ne!(id, 7),
            Err(Error::Enqueue(error)) => panic!("{error}"),
            Err(error) => assert!(id == 7 && error.to_string().contains("damaged"), "{id}: {error}"),
        }
    }
    let report = engine.sync_until_blocking(DRAINED).unwrap();
    assert_eq!((report.applied, report.left.dead), (15, 1));
}

#[test]
fn what_was_refused_is_not_told_as_stored() {
    let engine = Engine::local(MemoryStore::default()).build_blocking().unwrap();
    let mut events = engine.events();
    engine.enqueue_many_blocking(vec![note(1), note(2), note(1)]).unwrap_err();
    engine.import_blocking([Ok(note(3)), Err("bad")]).unwrap_err();
    let imported = engine.import_blocking([Ok::<_, Error>(note(3))]).unwrap();
    engine.close();
    let heard: Vec<_> = std::iter::from_fn(|| events.next_within(Duration::from_secs(1))).collect();
    assert_eq!(
        heard,
        [Notice::Event(Event::Imported {
            changes: imported.changes,
            tasks: imported.tasks,
            coalesced: imported.coalesced,
            annihilated: imported.annihilated,
        })]
    );
}

#[test]
fn an_adapter_that_panics_is_an_answer_like_any_other() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let adapter = Scripted::answering(move |_, batch| {
        assert!(count.fetch_add(1, Ordering::SeqCst) > 0, "a bug in somebody's adapter");
        support::apply(batch)
    });
    let engine = Engine::builder(MemoryStore::default(), adapter.clone()).build_blocking().unwrap();
    engine.enqueue_blocking(note(1)).unwrap();
    let report = engine.sync_until_blocking(DRAINED).unwrap();
    assert!(report.is_complete(), "{report:?}");
    let sent = adapter.sent();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].tasks[0].payload, sent[1].tasks[0].payload, "the same key and bytes again");
}

#[test]
fn credentials_are_refreshed_once_and_no_attempt_is_burned() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let adapter = Scripted::answering(move |_, batch| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(Failure::new(FailureKind::Unauthenticated, Delivery::Answered, "token expired"));
        }
        support::apply(batch)
    })
    .refreshing(true);
    let engine = Engine::builder(MemoryStore::default(), adapter.clone()).build_blocking().unwrap();
    engine.enqueue_many_blocking((0..10).map(note).collect()).unwrap();
    let report = engine.sync_blocking().unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(adapter.refreshes(), 1);

    let adapter = Scripted::answering(|_, _| {
        Err(Failure::new(FailureKind::Unauthenticated, Delivery::Answered, "signed out"))
    })
    .refreshing(true);
    let engine = Engine::builder(MemoryStore::default(), adapter.clone()).build_blocking().unwrap();
    engine.enqueue_blocking(note(1)).unwrap();
    let report = engine.sync_until_blocking(DRAINED).unwrap();
    assert_eq!(adapter.refreshes(), 1, "asked once, not in a circle");
    assert_eq!(report.left.pending, 1);
    assert_eq!(engine.tasks(0, 1).unwrap().tasks[0].attempts, 0);
}

#[test]
fn a_poison_task_ends_alone_and_everything_else_arrives() {
    let adapter = Scripted::answering(|_, batch| {
        if batch.tasks.iter().any(|task| task.entity.entity_id == "n7") {
            return Err(Failure::new(
                FailureKind::Rejected,
                Delivery::Answered,
                "400 the batch is not acceptable",
            ));
        }
        support::apply(batch)
    });
    let engine = Engine::builder(MemoryStore::default(), adapter).build_blocking().unwrap();
    engine.enqueue_many_blocking((0..100).map(note).collect()).unwrap();
    let report = engine.sync_until_blocking(DRAINED).unwrap();
    assert_eq!((report.applied, report.dead), (99, 1));
    let left = engine.tasks(0, 10).unwrap().tasks;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].entity.entity_id, "n7");
    assert!(left[0].last_failure().unwrap().message.contains("not acceptable"));
}

#[test]
fn stopping_a_session_loses_nothing() {
    let adapter = Scripted::answering(|call, batch| {
        if call == 0 {
            thread::sleep(Duration::from_millis(300));
        }
        support::apply(batch)
    });
    let engine = Engine::builder(MemoryStore::default(), adapter.clone()).build_blocking().unwrap();
    engine.enqueue_many_blocking((0..10).map(note).collect()).unwrap();
    let running = thread::spawn({
        let engine = engine.clone();
        move || engine.sync_until_blocking(DRAINED).unwrap()
    });
    while adapter.sent().is_empty() {
        thread::yield_now();
    }
    engine.stop_sync();
    let report = running.join().unwrap();
    assert_eq!(report.left.unknown, 10, "sent, fate unknown: {report:?}");
    let report = engine.sync_until_blocking(DRAINED).unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(adapter.effects(), 10, "one effect each");
}

#[test]
fn events_tell_the_life_of_a_change() {
    let engine = Engine::builder(MemoryStore::default(), Scripted::honest()).build_blocking().unwrap();
    let (status, mut events) = engine.watch().unwrap();
    assert_eq!(status.counts.total(), 0);
    let task = engine.enqueue_blocking(note(1)).unwrap().task.unwrap();
    engine.sync_blocking().unwrap();
    engine.close();
    let mut heard = Vec::new();
    while let Some(Notice::Event(event)) = events.next_within(Duration::from_secs(5)) {
        heard.push(event);
    }
    assert!(matches!(&heard[0], Event::Changed { origin: Origin::App, .. }));
    assert!(matches!(&heard[1], Event::Enqueued { task: heard, .. } if *heard == task));
    assert!(heard.iter().any(|event| matches!(event, Event::Settled { task: heard, .. } if *heard == task)));
    assert!(matches!(heard.last(), Some(Event::SessionFinished(report)) if report.is_complete()));
}

#[test]
fn after_closing_every_call_says_so() {
    let engine = Engine::local(MemoryStore::default()).build_blocking().unwrap();
    engine.close();
    assert!(matches!(engine.enqueue_blocking(note(1)), Err(Error::Closed)));
    assert!(matches!(engine.sync_blocking(), Err(Error::Closed)));
    assert!(matches!(engine.status(), Err(Error::Closed)));
}

#[test]
fn a_commit_that_fails_is_looked_up_and_answered_truly() {
    for (landed, expected) in [(true, 1), (false, 0)] {
        let store = BrokenStore::new(MemoryStore::default());
        let control = store.control();
        let engine = Engine::local(store).build_blocking().unwrap();
        control.next_commit(Broken::Fails { landed });
        let answer = engine.enqueue_blocking(note(1));
        assert_eq!(answer.is_ok(), landed, "{answer:?}");
        assert_eq!(engine.status().unwrap().counts.pending, expected);
        engine.enqueue_blocking(note(2)).unwrap();
    }
}

/// What a store does after a read or a write failed that was no commit.
#[test]
fn a_store_that_became_unusable_is_opened_again() {
    let store = BrokenStore::new(MemoryStore::default());
    let control = store.control();
    let engine = Engine::local(store).build_blocking().unwrap();
    engine.enqueue_blocking(note(1)).unwrap();
    control.close();
    assert!(engine.enqueue_blocking(note(2)).is_err());
    engine.enqueue_blocking(note(3)).unwrap();
    assert_eq!(engine.status().unwrap().counts.pending, 2);
}

#[test]
fn an_unknown_outcome_is_said_and_repeating_makes_one_task() {
    for landed in [true, false] {
        let store = BrokenStore::new(MemoryStore::default());
        let control = store.control();
        let engine = Engine::local(store).build_blocking().unwrap();
        control.next_commit(Broken::Fails { landed });
        control.next_reopen_fails();
        let Err(Error::OutcomeUnknown { task: Some(task), .. }) = engine.enqueue_blocking(note(1)) else {
            panic!("the outcome cannot be known")
        };
        let receipt = engine.enqueue_blocking(note(1).repeat_of(task)).unwrap();
        assert_eq!(receipt.task, Some(task));
        assert_eq!(engine.status().unwrap().counts.total(), 1, "landed: {landed}");
    }
}

#[test]
fn an_answer_that_the_store_cannot_take_is_taken_later() {
    let store = BrokenStore::new(MemoryStore::default());
    let control = store.control();
    let pause = control.clone();
    let adapter = Scripted::answering(move |_, batch| {
        pause.refuse_begins(2);
        support::apply(batch)
    });
    let engine = Engine::builder(store, adapter.clone()).build_blocking().unwrap();
    engine.enqueue_blocking(note(1)).unwrap();
    let report = engine.sync_until_blocking(DRAINED).unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(adapter.sent().len(), 1);
}

#[test]
fn nobody_waits_for_a_session_that_the_store_does_not_let_end() {
    for end in [SessionEnd::OnePass, SessionEnd::Drained { within: Duration::from_secs(1) }] {
        let store = BrokenStore::new(MemoryStore::default());
        let control = store.control();
        let refuse = control.clone();
        let adapter = Scripted::answering(move |call, batch| {
            if call == 0 {
                refuse.refuse_begins(usize::MAX);
            }
            support::apply(batch)
        });
        let engine = Engine::builder(store, adapter.clone()).build_blocking().unwrap();
        let task = engine.enqueue_blocking(note(1)).unwrap().task.unwrap();
        let begun = Instant::now();
        let refused = engine.sync_until_blocking(end);
        assert!(matches!(refused, Err(Error::Store(StoreError::Busy(_)))), "{end:?}: {refused:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{end:?}: {:?}", begun.elapsed());
        let waited = engine.wait_acked_blocking(task, Duration::from_millis(300));
        assert!(matches!(waited, Err(Error::Store(StoreError::Busy(_)))), "{end:?}: {waited:?}");

        // What was heard of the backend was kept, and is told once the store takes it again.
        control.refuse_begins(0);
        assert!(engine.sync_until_blocking(DRAINED).unwrap().is_complete());
        assert_eq!((adapter.sent().len(), adapter.effects()), (1, 1));
    }
}

#[test]
fn an_idle_engine_does_nothing() {
    let store = BrokenStore::new(MemoryStore::default());
    let begins = store.begins();
    let engine = Engine::local(store).build_blocking().unwrap();
    // Housekeeping after opening is done within a moment; from then on nothing may happen.
    let settled = Instant::now();
    while settled.elapsed() < Duration::from_millis(800) {
        thread::sleep(Duration::from_millis(20));
    }
    let before = begins.load(Ordering::SeqCst);
    thread::sleep(Duration::from_millis(700));
    assert_eq!(begins.load(Ordering::SeqCst), before);
    drop(engine);
}

#[test]
fn an_answer_with_fields_of_the_backend_reaches_the_app() {
    let adapter = Scripted::answering(|_, batch| {
        let applied = Applied {
            version: Some("9".into()),
            fields: Some(Fields::from([("slug", "title-1")])),
            entity_id: None,
        };
        let results = batch.tasks.iter().map(|task| (task.key, Outcome::Applied(applied.clone())));
        Ok(PushReply { results: results.collect(), ..PushReply::default() })
    });
    let engine = Engine::builder(MemoryStore::default(), adapter).build_blocking().unwrap();
    engine.enqueue_blocking(note(1)).unwrap();
    engine.sync_blocking().unwrap();
    let local = engine.get(&EntityKey::new("note", "n1")).unwrap().unwrap().local.unwrap();
    assert_eq!(local.fields(), Some(&Fields::from([("slug", "title-1"), ("title", "title 1")])));
}
