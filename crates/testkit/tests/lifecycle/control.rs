//! Queue control: cancel also in flight, pause and resume, retry now, and every answer of `explain`.

use super::{all_sent, ended, id, ids, rejected, task};
use crate::bench::{Bench, DRAINED, applied, theirs};
use landfall_core::adapter::{EffectClass, Outcome};
use landfall_core::change::Change;
use landfall_core::config::{Config, PushConfig};
use landfall_core::explain::{Live, Wait, explain};
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::id::TaskId;
use landfall_core::inspect::{Fate, fate};
use landfall_core::machine::{Cancelled, Directions, Scope, TaskError};
use landfall_core::store::Store;
use landfall_core::task::{StateKind, Verdict};
use landfall_core::time::Timestamp;
use std::time::Duration;

#[test]
fn a_task_that_was_never_sent_is_cancelled_at_once() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    let receipt = bench.enqueue(Change::update("note", "a").set("n", 2).lane("l")).unwrap();
    let next = bench.enqueue(Change::create("note", "b").set("n", 1).lane("l")).unwrap();
    assert_eq!(bench.step(|step, tx| step.cancel(tx, id(&receipt)).unwrap()), Cancelled::Done);
    assert_eq!(ended(&mut bench, id(&receipt)).unwrap().verdict, Verdict::Cancelled);
    assert_eq!(bench.view("a"), r#"{"n":1}"#);
    assert!(task(&mut bench, id(&next)).unwrap().claim_at.is_some(), "its lane goes on");
}

#[test]
fn the_verdict_decides_about_a_task_that_is_cancelled_in_flight() {
    let in_flight = || {
        let mut bench = Bench::new();
        bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
        let receipt = bench.enqueue(Change::update("note", "a").set("n", 2)).unwrap();
        bench.sync();
        assert_eq!(bench.step(|step, tx| step.cancel(tx, id(&receipt)).unwrap()), Cancelled::Requested);
        let batch = bench.last_sent();
        (bench, batch, id(&receipt))
    };
    // It had taken effect: what is done is done.
    let (mut bench, batch, cancelled) = in_flight();
    bench.apply(&batch, "2");
    assert_eq!(ended(&mut bench, cancelled).unwrap().verdict, Verdict::Applied);
    assert_eq!(bench.view("a"), r#"{"n":2}"#);
    // It had not.
    for outcome in [rejected("bad"), Outcome::Conflict { remote: Some(theirs("a", r#"{"n":1,"m":5}"#, "2")) }]
    {
        let (mut bench, batch, cancelled) = in_flight();
        bench.outcome(&batch, &outcome);
        assert_eq!(ended(&mut bench, cancelled).unwrap().verdict, Verdict::Cancelled, "{outcome:?}");
        assert_eq!(bench.counts().total(), 0);
        assert!(bench.view("a").starts_with(r#"{"#) && bench.view("a").contains(r#""n":1"#));
        assert!(bench.conflicts().is_empty());
    }
    let (mut bench, batch, cancelled) = in_flight();
    bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    assert_eq!(ended(&mut bench, cancelled).unwrap().verdict, Verdict::Cancelled);
    // It was turned away, but a late copy of it may still arrive: nothing is said before there is a verdict.
    let (mut bench, batch, cancelled) = in_flight();
    bench.outcome(&batch, &Outcome::Retry { after: None, reason: "busy".into() });
    assert!(task(&mut bench, cancelled).unwrap().standing.cancelling);
    bench.wait(Duration::from_secs(3_600));
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    assert_eq!(ended(&mut bench, cancelled).unwrap().verdict, Verdict::Cancelled);
    // Nobody knows: it is sent again under its key until somebody does.
    let (mut bench, batch, cancelled) = in_flight();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.crash();
    bench.pass(Duration::from_secs(3_600));
    bench.sync();
    let again = bench.last_sent();
    assert_eq!(again.tasks[0].payload, batch.tasks[0].payload);
    bench.outcome(&again, &rejected("bad"));
    assert_eq!(ended(&mut bench, cancelled).unwrap().verdict, Verdict::Cancelled);
}

#[test]
fn a_create_that_others_build_on_is_not_cancelled_alone() {
    let mut bench = Bench::new();
    let create = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let edit = bench.enqueue(Change::update("note", "a").set("n", 2).lane("other")).unwrap();
    let refused = bench.step(|step, tx| step.cancel(tx, id(&create)));
    assert_eq!(refused, Err(TaskError::HasFollowers { next: id(&edit) }));
    bench.step(|step, tx| step.cancel(tx, id(&edit)).unwrap());
    bench.step(|step, tx| step.cancel(tx, id(&create)).unwrap());
    assert_eq!(bench.counts().total(), 0);
    assert_eq!(bench.view("a"), "nothing");
}

#[test]
fn what_is_not_there_or_decided_otherwise_is_said() {
    let mut bench = Bench::new();
    let nobody = TaskId::parse("00000000-0000-0000-0000-000000000001").unwrap();
    assert_eq!(bench.step(|step, tx| step.cancel(tx, nobody)), Err(TaskError::NotFound(nobody)));
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let refused = bench.step(|step, tx| step.requeue(tx, id(&receipt)));
    assert!(matches!(refused, Err(TaskError::WrongState { state: StateKind::Pending, .. })));
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    let refused = bench.step(|step, tx| step.cancel(tx, id(&receipt)));
    assert_eq!(refused, Err(TaskError::Ended { task: id(&receipt), verdict: Verdict::Applied }));
}

#[test]
fn what_is_paused_waits_and_the_rest_goes_on_also_after_a_restart() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("photo", "p").set("n", 1)).unwrap();
    bench.enqueue(Change::create("note", "l").set("n", 1).lane("slow")).unwrap();
    bench.enqueue(Change::create("note", "n").set("n", 1)).unwrap();
    bench.step(|step, tx| {
        step.pause(tx, &Scope::Type("photo".into())).unwrap();
        step.pause(tx, &Scope::Lane("slow".into())).unwrap();
    });
    bench.crash();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(all_sent(&bench), ["n"]);
    assert!(bench.reports[0].waiting_for.as_ref().unwrap().contains("resume"));
    bench.crash();
    bench.step(|step, tx| step.resume(tx, &Scope::Type("photo".into())).unwrap());
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["p"]);
    bench.step(|step, tx| step.resume(tx, &Scope::Lane("slow".into())).unwrap());
    bench.run();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    let mut sent = all_sent(&bench);
    sent.sort();
    assert_eq!(sent, ["l", "n", "p"]);
}

#[test]
fn while_everything_is_paused_nothing_is_sent_or_read() {
    let mut bench = Bench::reading();
    bench.enqueue(Change::create("note", "n").set("n", 1)).unwrap();
    bench.step(|step, tx| step.pause(tx, &Scope::All).unwrap());
    bench.session(DRAINED, Directions::Both);
    assert!(bench.sent.is_empty() && bench.pages.is_empty());
    assert_eq!(bench.reports.len(), 1);
    assert!(bench.reports[0].waiting_for.as_ref().unwrap().contains("paused"));
    bench.step(|step, tx| step.resume(tx, &Scope::All).unwrap());
    bench.session(DRAINED, Directions::Both);
    assert_eq!((bench.sent.len(), bench.pages.len()), (1, 1));
}

#[test]
fn pausing_in_the_middle_calls_nothing_back_and_hears_the_answer() {
    let mut bench = Bench::new();
    let first = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    bench.step(|step, tx| step.pause(tx, &Scope::All).unwrap());
    bench.enqueue(Change::create("note", "b").set("n", 1)).unwrap();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(ended(&mut bench, id(&first)).unwrap().verdict, Verdict::Applied);
    assert_eq!(bench.sent.len(), 1);
    assert_eq!(bench.counts().pending, 1);
}

#[test]
fn ten_thousand_paused_tasks_do_not_hide_one_that_may_go() {
    let mut bench = Bench::new();
    for n in 0..10_000 {
        bench.enqueue(Change::create("photo", n.to_string()).set("n", 1)).unwrap();
    }
    bench.enqueue(Change::create("note", "n").set("n", 1)).unwrap();
    bench.step(|step, tx| step.pause(tx, &Scope::Type("photo".into())).unwrap());
    bench.sync();
    bench.run();
    assert_eq!(all_sent(&bench), ["n"]);
    bench.step(|step, tx| step.resume(tx, &Scope::Type("photo".into())).unwrap());
    bench.run();
    while let Some(batch) = bench.sent.pop() {
        bench.outcome(&batch, &applied("1"));
        bench.run();
    }
    assert_eq!(bench.counts().total(), 0);
}

#[test]
fn one_that_may_go_is_found_behind_any_number_of_paused_ones_without_another_wish() {
    let push = PushConfig { batch_tasks: 2, ..PushConfig::default() };
    let mut bench = Bench::with(Config { push, ..Config::default() }, EffectClass::OneEffect);
    for n in 0..100 {
        bench.enqueue(Change::create("photo", n.to_string()).set("n", 1)).unwrap();
    }
    bench.enqueue(Change::create("note", "n").set("n", 1)).unwrap();
    bench.step(|step, tx| step.pause(tx, &Scope::Type("photo".into())).unwrap());
    bench.sync();
    bench.run();
    assert_eq!(all_sent(&bench), ["n"]);
}

#[test]
fn a_backoff_can_be_ended_by_the_app() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    for _ in 0..9 {
        let batch = bench.last_sent();
        bench
            .outcome(&batch, &Outcome::Retry { after: Some(Duration::from_secs(60)), reason: "busy".into() });
        let waits = why(&mut bench, id(&receipt), &Live::default());
        assert!(matches!(waits[0], Wait::Backoff { .. }), "{waits:?}");
        bench.step(|step, tx| step.retry_now(tx, id(&receipt)).unwrap());
        bench.run();
    }
    assert_eq!(bench.sent.len(), 10);
}

fn why(bench: &mut Bench, task: TaskId, live: &Live) -> Vec<Wait> {
    let now = Timestamp(bench.wall_ms);
    let tx = bench.store.begin().unwrap();
    explain(&*tx, task, now, live).unwrap().unwrap().waits_for
}

#[test]
fn explain_names_the_exact_gate() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    assert_eq!(why(&mut bench, id(&receipt), &Live::default()), [Wait::Sync]);
    let offline = Live { gate: Some((FailureKind::Unreachable, "no route".into())), ..Live::default() };
    assert_eq!(
        why(&mut bench, id(&receipt), &offline),
        [Wait::Gate { why: FailureKind::Unreachable, message: "no route".into(), until: None }]
    );
    let later = Timestamp(bench.wall_ms + 5_000);
    let put_off = bench.enqueue(Change::create("note", "b").set("n", 1).not_before(later)).unwrap();
    assert_eq!(why(&mut bench, id(&put_off), &Live::default()), [Wait::NotBefore { until: later }]);
    bench.sync();
    assert_eq!(why(&mut bench, id(&receipt), &Live::default()), [Wait::Answer]);
    let behind = bench.enqueue(Change::update("note", "a").set("n", 2)).unwrap();
    let waits = why(&mut bench, id(&behind), &Live::default());
    assert!(matches!(&waits[0], Wait::EarlierChange(blocker) if blocker.task == id(&receipt)), "{waits:?}");
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    let waits = why(&mut bench, id(&receipt), &Live::default());
    assert_eq!(waits, [Wait::DeadLetter { why: FailureKind::Rejected }]);
    bench.step(|step, tx| step.pause(tx, &Scope::Type("note".into())).unwrap());
    assert!(why(&mut bench, id(&put_off), &Live::default()).contains(&Wait::TypePaused));
}

#[test]
fn what_became_of_a_write_is_known_also_through_retries_and_restarts() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let of = |bench: &mut Bench| fate(&*bench.store.begin().unwrap(), id(&receipt)).unwrap();
    assert!(of(&mut bench).may_change());
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    assert!(!of(&mut bench).may_change(), "it needs somebody");
    bench.step(|step, tx| step.requeue(tx, id(&receipt)).unwrap());
    assert!(of(&mut bench).may_change());
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "4");
    bench.crash();
    assert_eq!(of(&mut bench), Fate::Done { verdict: Verdict::Applied, version: Some("4".into()) });
    let nobody = TaskId::parse("00000000-0000-0000-0000-000000000001").unwrap();
    assert_eq!(fate(&*bench.store.begin().unwrap(), nobody).unwrap(), Fate::Unknown);
}
