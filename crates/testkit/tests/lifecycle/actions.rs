//! Named commands: never coalesced, sent once or at most once as declared, and only to a backend that knows them.

use super::{ended, id, task};
use crate::bench::{Bench, applied, body, capabilities};
use landfall_core::adapter::{Applied, Capabilities, EffectClass, Outcome};
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::machine::EnqueueError;
use landfall_core::task::{TaskState, Verdict};
use landfall_core::value::Fields;

fn synced_note() -> Bench {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("stock", 5)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench
}

#[test]
fn two_commands_are_two_tasks_in_their_order() {
    let mut bench = synced_note();
    for by in [1, 1, 2] {
        bench.enqueue(Change::action("note", "1", "increment").set("stock", by)).unwrap();
    }
    bench.enqueue(Change::update("note", "1").set("name", "x")).unwrap();
    assert_eq!(bench.counts().pending, 4);
    assert_eq!(bench.view("1"), r#"{"name":"x","stock":5}"#, "what a command does is the backend's to know");
    bench.sync();
    let mut seen = Vec::new();
    for version in 2..6 {
        let batch = bench.last_sent();
        assert_eq!(batch.tasks.len(), 1);
        let payload = &batch.tasks[0].payload;
        seen.push(payload.contains(r#""operation":"action","action":"increment""#));
        let fields = Some(Fields::from([("stock", version + 5)]));
        bench.outcome(
            &batch,
            &Outcome::Applied(Applied {
                version: Some(version.to_string().as_str().into()),
                fields,
                ..Applied::default()
            }),
        );
    }
    assert_eq!(seen, [true, true, true, false]);
    assert_eq!(bench.counts().total(), 0);
    assert_eq!(bench.view("1"), r#"{"name":"x","stock":10}"#, "and what it tells is shown");
}

#[test]
fn a_command_carries_no_expected_version_and_its_unseen_effect_is_read_from_the_feed() {
    let mut bench = synced_note();
    bench.enqueue(Change::action("note", "1", "approve")).unwrap();
    bench.sync();
    assert!(!bench.last_payload().contains("base_version"));
    let batch = bench.last_sent();
    bench.outcome(&batch, &applied("2"));
    bench.hear(crate::bench::theirs("1", r#"{"approved":true,"stock":5}"#, "2"));
    assert_eq!(
        bench.view("1"),
        r#"{"approved":true,"stock":5}"#,
        "version 2 is news although it was told before"
    );
}

#[test]
fn a_command_about_a_record_that_is_not_known_makes_none() {
    let mut bench = Bench::new();
    bench.enqueue(Change::action("till", "today", "close")).unwrap();
    assert_eq!(bench.local("till", "today"), None);
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Applied(Applied::default()));
    assert_eq!(bench.counts().total(), 0);
    assert_eq!(bench.local("till", "today"), None);
}

#[test]
fn a_command_declared_at_most_once_is_never_sent_again_when_its_fate_is_unknown() {
    for crash in [false, true] {
        let mut bench = synced_note();
        let pay = bench.enqueue(Change::action("note", "1", "pay").at_most_once()).unwrap();
        let once = bench.enqueue(Change::action("note", "2", "pay")).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        assert_eq!(batch.tasks.len(), 2);
        if crash {
            bench.crash();
        } else {
            bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
        }
        bench.pass(std::time::Duration::from_secs(3600));
        bench.sync();
        let dead = task(&mut bench, id(&pay)).unwrap();
        assert!(matches!(dead.state, TaskState::Dead { why: FailureKind::FateUnknown }), "crash: {crash}");
        let again = bench.last_sent();
        assert_eq!(again.tasks.len(), 1, "the other one is sent again under its key");
        assert_eq!(again.tasks[0].task_id, id(&once));
        // Whoever decides to send it again sends the same bytes under the same key.
        let same = bench.step(|step, tx| step.requeue(tx, id(&pay)).unwrap());
        assert_eq!(same, id(&pay));
        bench.run();
        bench.apply(&again, "9");
        bench.sync();
        assert_eq!(bench.last_payload(), batch.tasks[0].payload.to_string());
    }
}

#[test]
fn what_never_left_is_not_of_unknown_fate() {
    let mut bench = synced_note();
    let pay = bench.enqueue(Change::action("note", "1", "pay").at_most_once()).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    assert!(matches!(task(&mut bench, id(&pay)).unwrap().state, TaskState::Pending { .. }));
}

#[test]
fn a_command_that_meets_another_state_is_refused_not_merged() {
    let mut bench = synced_note();
    let pay = bench.enqueue(Change::action("note", "1", "approve")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let remote = crate::bench::theirs("1", r#"{"stock":9}"#, "4");
    bench.outcome(&batch, &Outcome::Conflict { remote: Some(remote) });
    assert!(matches!(task(&mut bench, id(&pay)).unwrap().state, TaskState::Dead { .. }));
    assert!(bench.conflicts().is_empty());
}

#[test]
fn remote_changes_go_past_a_command_that_waits() {
    let mut bench = synced_note();
    bench.enqueue(Change::action("note", "1", "approve")).unwrap();
    bench.enqueue(Change::update("note", "1").set("name", "x")).unwrap();
    bench.hear(crate::bench::theirs("1", r#"{"stock":6}"#, "2"));
    assert_eq!(bench.view("1"), r#"{"name":"x","stock":6}"#);
    assert_eq!(bench.counts().pending, 2);
    assert_eq!(bench.local("note", "1"), Some(body(r#"{"name":"x","stock":6}"#)));
}

#[test]
fn a_backend_without_commands_refuses_them_at_the_door() {
    let none = Capabilities { actions: false, ..capabilities(EffectClass::OneEffect) };
    let mut bench = Bench::of(Config::default(), none);
    let refused = bench.enqueue(Change::action("note", "1", "approve"));
    assert_eq!(refused, Err(EnqueueError::ActionsUnsupported));
    assert_eq!(bench.counts().total(), 0);
    let _ = (ended, Verdict::Applied);
}

/// The app was pointed at another backend while something waited.
#[test]
fn what_another_backend_cannot_do_is_never_sent_to_it_and_waits_for_a_decision() {
    let simple =
        Capabilities { actions: false, atomic_groups: false, ..capabilities(EffectClass::OneEffect) };
    let mut old = Bench::new();
    old.enqueue(Change::action("note", "1", "approve")).unwrap();
    old.enqueue(Change::create("note", "2").set("n", 1).group("g")).unwrap();
    old.enqueue(Change::create("note", "3").set("n", 1)).unwrap();
    let mut new = Bench::of(Config::default(), simple);
    std::mem::swap(&mut new.store, &mut old.store);
    new.crash();
    new.sync();
    assert_eq!(super::all_sent(&new), ["3"]);
    let dead = new.tasks().into_iter().filter(|task| {
        matches!(task.state, TaskState::Dead { why: FailureKind::Unsupported }) && task.frozen.is_none()
    });
    assert_eq!(dead.count(), 2);
}
