//! Queue control: cancel also in flight, pause and resume, retry now, and every answer of `explain`.

use super::{all_sent, ended, id, ids, rejected, task};
use crate::bench::{Bench, DRAINED, applied, reply, theirs};
use landfall_core::adapter::{EffectClass, Outcome};
use landfall_core::change::{Change, Intent, Operation};
use landfall_core::config::{Config, Limits, PushConfig};
use landfall_core::device::DeviceState;
use landfall_core::event::Event;
use landfall_core::explain::{Live, Wait, explain};
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::id::TaskId;
use landfall_core::inspect::{Fate, fate};
use landfall_core::machine::{Cancelled, Directions, Scope, SessionEnd, TaskError};
use landfall_core::store::Store;
use landfall_core::task::{StateKind, Verdict};
use landfall_core::time::Timestamp;
use landfall_core::value::{Fields, Value};
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
    bench.session(SessionEnd::OnePass, Directions::Both);
    bench.run();
    assert_eq!(all_sent(&bench), ["n"], "also in one pass, which waits for nothing");
    bench.sync();
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

pub(crate) fn why(bench: &mut Bench, task: TaskId, live: &Live) -> Vec<Wait> {
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
    let cancelled = bench.enqueue(Change::update("note", "a").set("n", 2)).unwrap();
    bench.step(|step, tx| step.cancel(tx, id(&cancelled)).unwrap());
    let of = fate(&*bench.store.begin().unwrap(), id(&cancelled)).unwrap();
    assert_eq!(of, Fate::GivenUp { verdict: Verdict::Cancelled });
    assert!(!of.may_change());
}

#[test]
fn what_was_paused_during_a_backoff_goes_when_it_is_resumed_also_if_the_clock_went_back_a_year() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("photo", "p").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Retry { after: Some(Duration::from_secs(60)), reason: "busy".into() });
    bench.step(|step, tx| step.pause(tx, &Scope::Type("photo".into())).unwrap());
    bench.wait(Duration::from_secs(3_600));
    bench.sync();
    assert!(bench.tasks()[0].standing.held);
    bench.wall_ms -= 365 * 24 * 3_600_000;
    bench.step(|step, _| step.wake());
    bench.step(|step, tx| step.resume(tx, &Scope::Type("photo".into())).unwrap());
    bench.sync();
    assert_eq!(all_sent(&bench), ["p", "p"]);
}

#[test]
fn ending_the_backoff_of_one_of_a_group_does_not_hurry_the_others() {
    let mut bench = Bench::new();
    let moment = Timestamp(bench.wall_ms + 3_600_000);
    let first = bench.step(|step, tx| {
        let first = step.enqueue(tx, Change::create("note", "a").set("n", 1).group("g")).unwrap();
        step.enqueue(tx, Change::create("note", "b").set("n", 1).group("g").not_before(moment)).unwrap();
        first
    });
    bench.step(|step, tx| step.retry_now(tx, id(&first)).unwrap());
    bench.sync();
    assert!(bench.sent.is_empty(), "the app does not want the other one sent yet");
    assert!(bench.machine.next_wakeup().is_none_or(|due| due.0 > bench.mono_ms), "nobody looks until then");
    bench.wait(Duration::from_secs(3_600));
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["a", "b"]);
}

#[test]
fn an_edit_of_what_was_never_sent_is_seen_at_once_and_sent_in_its_place() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let intent = Intent { fields: Fields::from([("n", 2)]), ..Intent::new(Operation::Create) };
    let goes_on = bench.step(|step, tx| step.edit(tx, id(&receipt), intent).unwrap());
    assert_eq!(goes_on, id(&receipt));
    assert_eq!(bench.view("a"), r#"{"n":2}"#);
    bench.sync();
    assert!(bench.last_payload().contains(r#""fields":{"n":2}"#));
    assert_eq!(bench.tasks().len(), 1);
}

#[test]
fn a_queue_that_is_given_up_ends_through_the_journal_a_few_at_a_time() {
    let mut bench = Bench::new();
    let receipts: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|name| bench.enqueue(Change::create("note", *name).set("n", 1)).unwrap())
        .collect();
    // Damaged rows stay for whoever can read them, and hide nothing that is behind them.
    for receipt in &receipts[..2] {
        assert!(bench.store.damage(id(receipt)));
    }
    let went: Vec<_> = (0..3).map(|_| bench.step(|step, tx| step.abandon(tx, 2).unwrap())).collect();
    assert_eq!(went, [2, 1, 0]);
    for receipt in &receipts[2..] {
        let entry = ended(&mut bench, id(receipt)).unwrap();
        assert_eq!(entry.verdict, Verdict::Discarded);
        assert!(entry.payload.contains(r#""fields":{"n":1}"#));
    }
    assert_eq!((bench.counts().total(), bench.counts().dead), (2, 2));
}

#[test]
fn the_app_may_have_sent_at_once_what_it_has_put_off_or_what_is_of_unknown_fate() {
    let mut bench = Bench::new();
    let moment = Timestamp(bench.wall_ms + 3_600_000);
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1).not_before(moment)).unwrap();
    bench.step(|step, tx| step.retry_now(tx, id(&receipt)).unwrap());
    bench.sync();
    assert_eq!(all_sent(&bench), ["a"]);
    // The backoff has become long by now.
    let mut tries = 1;
    while bench.sent.len() == tries && tries < 12 {
        let batch = bench.last_sent();
        bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
        bench.wait(Duration::from_secs(3_600));
        bench.sync();
        tries += 1;
    }
    let batch = bench.last_sent();
    bench.answer(&batch, Ok(reply(&batch, &Outcome::Unknown { reason: "lost".into() })));
    assert_eq!(task(&mut bench, id(&receipt)).unwrap().state.kind(), StateKind::Unknown);
    let sent = bench.sent.len();
    bench.step(|step, tx| step.retry_now(tx, id(&receipt)).unwrap());
    bench.sync();
    assert_eq!(bench.sent.len(), sent + 1);
}

#[test]
fn a_group_goes_also_where_the_clock_stands_before_1970() {
    let mut bench = Bench::new();
    bench.wall_ms = -1_000_000;
    bench.step(|step, tx| {
        step.enqueue(tx, Change::create("note", "a").set("n", 1).group("g")).unwrap();
        step.enqueue(tx, Change::create("note", "b").set("n", 1).group("g")).unwrap();
    });
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["a", "b"]);
}

#[test]
fn an_edit_is_checked_like_any_change_and_never_touches_what_was_sent() {
    let limits = Limits { change_bytes: 100, ..Limits::default() };
    let mut bench = Bench::with(Config { limits, ..Config::default() }, EffectClass::OneEffect);
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let intent =
        |value: Value| Intent { fields: Fields::from([("n", value)]), ..Intent::new(Operation::Create) };
    let large = intent(Value::Text("x".repeat(200)));
    let refused = bench.step(|step, tx| step.edit(tx, id(&receipt), large));
    assert!(matches!(refused, Err(TaskError::Invalid(_))), "{refused:?}");
    bench.sync();
    let batch = bench.last_sent();
    // It waits to be sent again as it is: a late copy may arrive.
    bench.outcome(&batch, &Outcome::Retry { after: None, reason: "busy".into() });
    let refused = bench.step(|step, tx| step.edit(tx, id(&receipt), intent(2.into())));
    assert!(matches!(refused, Err(TaskError::WrongState { state: StateKind::Pending, .. })), "{refused:?}");
    bench.wait(Duration::from_secs(3_600));
    bench.sync();
    let batch = bench.last_sent();
    assert!(batch.tasks[0].payload.contains(r#""fields":{"n":1}"#));
    // Turned away as a whole it may still arrive: first as it is, says the refusal.
    bench.fail(&batch, FailureKind::Forbidden, Delivery::Answered);
    let refused = bench.step(|step, tx| step.edit(tx, id(&receipt), intent(2.into())));
    let Err(TaskError::WrongState { state: StateKind::Dead, hint }) = refused else { panic!("{refused:?}") };
    assert!(hint.contains("take it up again"), "{hint}");
}

#[test]
fn the_app_is_told_what_is_paused_and_what_it_wished_to_cancel() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    assert_eq!(bench.step(|step, tx| step.cancel(tx, id(&receipt)).unwrap()), Cancelled::Requested);
    assert!(bench.events.contains(&Event::CancelRequested { task: id(&receipt) }));
    bench.step(|step, tx| step.pause(tx, &Scope::Lane("l".into())).unwrap());
    let tells =
        |event: &Event| matches!(event, Event::ControlsChanged(controls) if controls.lanes.contains("l"));
    assert!(bench.events.iter().any(tells));
}

/// Only the backend's own refusal of the task proves that it has no effect, and will have none by a late copy.
#[test]
fn what_was_to_be_cancelled_and_may_have_taken_effect_ends_as_a_dead_letter() {
    for kind in [FailureKind::Rejected, FailureKind::Forbidden, FailureKind::TooLarge] {
        for has_a_code in [false, true] {
            let mut bench = Bench::new();
            let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
            bench.sync();
            let batch = bench.last_sent();
            bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
            bench.step(|step, tx| step.cancel(tx, id(&receipt)).unwrap());
            bench.wait(Duration::from_secs(60));
            let batch = bench.last_sent();
            assert_eq!(bench.sent.len(), 2, "its fate is asked for");
            let is_proof = has_a_code && kind == FailureKind::Rejected;
            if is_proof {
                bench.outcome(&batch, &rejected("bad"));
            } else {
                bench.fail(&batch, kind, Delivery::Answered);
            }
            let ended = ended(&mut bench, id(&receipt)).map(|entry| entry.verdict);
            assert_eq!(ended, is_proof.then_some(Verdict::Cancelled), "{kind:?}");
            assert_eq!(bench.counts().dead, u64::from(!is_proof), "{kind:?}");
        }
    }
}

/// What came from the backend while a change of the record was under way waits for that one's verdict.
#[test]
fn a_change_that_is_cancelled_does_not_decide_for_one_that_is_under_way() {
    let mut bench = Bench::new();
    bench.hear(theirs("1", r#"{"a":0}"#, "1"));
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let second = bench.enqueue(Change::update("note", "1").set("b", 2)).unwrap();
    bench.hear(theirs("1", r#"{"a":0,"c":5}"#, "3"));
    bench.step(|step, tx| step.cancel(tx, id(&second)).unwrap());
    assert_eq!(bench.view("1"), r#"{"a":1}"#);
    bench.apply(&batch, "2");
    assert_eq!(bench.view("1"), r#"{"a":0,"c":5}"#, "it came after the effect, so it is newer");
}

#[test]
fn what_is_due_this_very_moment_waits_for_nothing_but_a_run() {
    let mut bench = Bench::new();
    let until = Timestamp(bench.wall_ms + 60_000);
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1).not_before(until)).unwrap();
    assert_eq!(why(&mut bench, id(&receipt), &Live::default()), [Wait::NotBefore { until }]);
    bench.pass(Duration::from_millis(60_000));
    assert_eq!(why(&mut bench, id(&receipt), &Live::default()), [Wait::Sync]);
    // Likewise what was under way a moment ago.
    bench.sync();
    bench.step(|step, _| step.stop_session());
    assert_eq!(task(&mut bench, id(&receipt)).unwrap().due(), Some(Timestamp(bench.wall_ms)));
    assert_eq!(why(&mut bench, id(&receipt), &Live::default()), [Wait::Sync]);
}

#[test]
fn one_task_in_the_way_is_named_once_however_many_orders_it_is_part_of() {
    let mut bench = Bench::new();
    let first = bench.enqueue(Change::create("note", "a").set("n", 1).lane("l")).unwrap();
    bench.sync();
    let behind = bench.enqueue(Change::update("note", "a").set("n", 2).lane("l")).unwrap();
    let waits = why(&mut bench, id(&behind), &Live::default());
    assert!(matches!(&waits[..], [Wait::EarlierChange(blocker)] if blocker.task == id(&first)), "{waits:?}");
}

/// One of a group that is to go at once takes the others with it: they only ever go together.
#[test]
fn a_group_goes_at_once_when_the_one_that_it_waits_for_is_to_go_now() {
    let mut bench = Bench::new();
    let until = Timestamp(bench.wall_ms + 60_000);
    let first = bench.enqueue(Change::create("note", "a").set("n", 1).group("g")).unwrap();
    let late = bench.enqueue(Change::create("note", "b").set("n", 1).group("g").not_before(until)).unwrap();
    bench.sync();
    assert!(bench.sent.is_empty());
    bench.step(|step, tx| step.retry_now(tx, id(&late)).unwrap());
    assert_eq!(ids(&bench.last_sent()), ["a", "b"]);
    let batch = bench.last_sent();
    let after = Some(Duration::from_secs(60));
    bench.outcome(&batch, &Outcome::Retry { after, reason: "busy".into() });
    for receipt in [&first, &late] {
        assert_eq!(bench.sent.len(), 1, "the other one has to wait still");
        bench.step(|step, tx| step.retry_now(tx, id(receipt)).unwrap());
    }
    assert_eq!((bench.sent.len(), ids(&bench.last_sent())), (2, vec!["a", "b"]));
}

#[test]
fn a_lease_is_named_until_it_is_over_and_not_when_it_was_given_back() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::NotSent);
    let lease = bench.store.begin().unwrap().lease().unwrap().unwrap();
    let mut at = |until: Timestamp, before: i64| {
        bench.wall_ms = until.0 - before;
        why(&mut bench, id(&receipt), &Live::default())
    };
    let until = lease.expires_at;
    assert_eq!(at(until, 1), [Wait::Lease { holder: "me".into(), until }]);
    assert_eq!(at(until, 0), [Wait::Sync]);
    assert_eq!(at(until, -1), [Wait::Sync]);
    bench.wall_ms = until.0 - 1_000;
    bench.step(|step, _| step.stop_session());
    bench.wall_ms -= 1_000;
    assert_eq!(why(&mut bench, id(&receipt), &Live::default()), [Wait::Sync], "nobody has it");
}

#[test]
fn each_of_a_group_names_the_others_that_are_not_ready_and_its_own_backoff() {
    let mut bench = Bench::new();
    let until = Timestamp(bench.wall_ms + 60_000);
    let [a, b] = [None, Some(until)].map(|moment| {
        let change = Change::create("note", if moment.is_some() { "b" } else { "a" }).set("n", 1).group("g");
        let change = moment.map_or(change.clone(), |moment| change.not_before(moment));
        id(&bench.enqueue(change).unwrap())
    });
    let waits = why(&mut bench, a, &Live::default());
    assert!(matches!(&waits[..], [Wait::Group { blocker, .. }] if blocker.task == b), "{waits:?}");
    assert_eq!(why(&mut bench, b, &Live::default()), [Wait::NotBefore { until }]);
    bench.pass(Duration::from_secs(60));
    for task in [a, b] {
        assert_eq!(why(&mut bench, task, &Live::default()), [Wait::Sync], "its moment has come");
    }
    for trouble in ["put off", "fate unknown"] {
        bench.sync();
        let batch = bench.last_sent();
        match trouble {
            "put off" => bench.outcome(
                &batch,
                &Outcome::Retry { after: Some(Duration::from_secs(60)), reason: "busy".into() },
            ),
            _ => bench.outcome(&batch, &Outcome::Unknown { reason: "?".into() }),
        }
        bench.step(|step, _| step.stop_session());
        for (task, other) in [(a, b), (b, a)] {
            let until = super::task(&mut bench, task).unwrap().due().unwrap();
            let waits = why(&mut bench, task, &Live::default());
            assert!(
                matches!(&waits[..], [Wait::Group { blocker, .. }, Wait::Backoff { until: at }]
                    if blocker.task == other && *at == until),
                "{trouble}: {waits:?}"
            );
        }
        bench.pass(Duration::from_secs(3_600));
    }
}

#[test]
fn an_unmetered_network_is_waited_for_only_by_what_asks_for_it() {
    let mut bench = Bench::new();
    let plain = id(&bench.enqueue(Change::create("note", "plain").set("n", 1)).unwrap());
    let large = id(&bench.enqueue(Change::create("note", "large").set("n", 1).unmetered_only()).unwrap());
    let metered = Live { metered: true, ..Live::default() };
    assert_eq!(why(&mut bench, plain, &metered), [Wait::Sync]);
    assert_eq!(why(&mut bench, large, &metered), [Wait::UnmeteredNetwork]);
    assert_eq!(why(&mut bench, large, &Live::default()), [Wait::Sync]);
    // Another process has found the network metered.
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::metered(true)).unwrap());
    bench.sync();
    assert_eq!(why(&mut bench, large, &Live::default()), [Wait::UnmeteredNetwork]);
    // What holds it up may be something else.
    bench.step(|step, tx| step.pause(tx, &Scope::Type("note".into())).unwrap());
    assert_eq!(why(&mut bench, large, &Live::default()), [Wait::TypePaused]);
}

#[test]
fn what_is_over_at_this_moment_is_no_reason_any_more() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let offline = |at: i64| Live { offline_until: Some(Timestamp(at)), ..Live::default() };
    let later = offline(bench.wall_ms + 1);
    assert!(matches!(why(&mut bench, id(&receipt), &later)[..], [Wait::Offline { .. }]));
    let now = offline(bench.wall_ms);
    assert_eq!(why(&mut bench, id(&receipt), &now), [Wait::Sync]);
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::RateLimited, Delivery::NotSent);
    bench.step(|step, _| step.stop_session());
    let until = bench.store.begin().unwrap().replica().unwrap().unwrap().calm.unwrap().until;
    bench.wall_ms = until.0 - 1;
    assert!(matches!(why(&mut bench, id(&receipt), &Live::default())[..], [Wait::Gate { .. }]));
    bench.wall_ms = until.0;
    assert_eq!(why(&mut bench, id(&receipt), &Live::default()), [Wait::Sync]);
}
