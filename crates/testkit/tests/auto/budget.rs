//! A run within a budget: it stops in time, keeps to its bytes and tasks, and says what was used up.

use super::*;
use landfall_core::config::PushConfig;
use landfall_core::event::Exhausted;
use landfall_core::machine::{Directions, RunBudget, SessionEnd};
use landfall_core::time::Timestamp;

fn within(bench: &mut Bench, budget: RunBudget) {
    bench.step(|step, _| step.start_session_within(budget, Directions::Both));
}

fn notes(bench: &mut Bench, count: usize) {
    for n in 0..count {
        bench.enqueue(note(&n.to_string())).unwrap();
    }
}

/// Applies every batch until the run ends; each answer takes `takes`.
fn serve(bench: &mut Bench, takes: Duration) {
    let mut answered = 0;
    while bench.machine.is_syncing() {
        if answered < bench.sent.len() {
            bench.pass(takes);
            let batch = bench.sent[answered].clone();
            answered += 1;
            bench.apply(&batch, "1");
        } else {
            until_due(bench, MINUTE).expect("the run ends");
        }
    }
}

#[test]
fn tasks_are_counted() {
    let mut bench = Bench::new();
    notes(&mut bench, 20);
    within(&mut bench, RunBudget { tasks: Some(7), ..RunBudget::default() });
    serve(&mut bench, SECOND);
    let report = bench.reports.last().unwrap();
    assert_eq!((report.applied, report.exhausted), (7, Some(Exhausted::Tasks)));
    assert_eq!(report.left.pending, 13);
    assert!(report.waiting_for.as_ref().unwrap().contains("budget of tasks"), "{report:?}");
}

#[test]
fn bytes_are_counted_and_what_is_too_large_is_passed_over_for_what_is_not() {
    let mut bench = Bench::new();
    bench.enqueue(note("large").set("blob", "x".repeat(5_000)).priority(9)).unwrap();
    notes(&mut bench, 3);
    within(&mut bench, RunBudget { bytes: Some(2_000), ..RunBudget::default() });
    serve(&mut bench, SECOND);
    let report = bench.reports.last().unwrap();
    assert_eq!((report.applied, report.exhausted), (3, Some(Exhausted::Bytes)));
    assert!(report.bytes <= 2_000);
    assert_eq!(report.left.pending, 1);
    let task = &bench.tasks()[0];
    assert!(task.frozen.is_none() && task.attempts == 0, "what was passed over is as it was");
}

#[test]
fn no_call_begins_that_would_not_come_back_in_time() {
    let mut bench =
        Bench::of(Config::default(), Capabilities { batch_tasks: 1, ..capabilities(EffectClass::OneEffect) });
    notes(&mut bench, 50);
    let began = bench.mono_ms;
    within(&mut bench, RunBudget { time: Some(10 * SECOND), ..RunBudget::default() });
    serve(&mut bench, Duration::from_millis(600));
    assert!(bench.mono_ms - began <= 10_000, "{}", bench.mono_ms - began);
    let report = bench.reports.last().unwrap();
    assert_eq!(report.exhausted, Some(Exhausted::Time));
    assert!(report.applied >= 10, "{report:?}");
    assert_eq!(report.left.unknown + report.left.in_flight, 0, "nothing was left under way");
}

#[test]
fn a_run_waits_for_nothing_that_would_come_too_late_at_the_pace_of_its_answers() {
    let one_by_one = PushConfig { batch_tasks: 1, calls_max: 1, ..PushConfig::default() };
    for (answers, waits) in [(&[2][..], true), (&[10], false), (&[12, 2], false), (&[4, 2, 2, 2], true)] {
        let mut bench = Bench::of(
            Config { push: one_by_one.clone(), ..Config::default() },
            capabilities(EffectClass::OneEffect),
        );
        notes(&mut bench, answers.len());
        let late = Timestamp(bench.wall_ms + 31_000);
        bench.enqueue(note("late").not_before(late)).unwrap();
        within(&mut bench, RunBudget { time: Some(40 * SECOND), ..RunBudget::default() });
        for seconds in answers {
            let batch = bench.last_sent();
            bench.pass(*seconds * SECOND);
            bench.apply(&batch, "1");
        }
        assert_eq!(bench.counts().pending, 1);
        assert_eq!(bench.machine.is_syncing(), waits, "{answers:?}");
    }
}

#[test]
fn what_is_under_way_at_the_end_is_handed_back_and_goes_again_under_its_key() {
    let mut bench = Bench::new();
    notes(&mut bench, 1);
    within(&mut bench, RunBudget { time: Some(2 * SECOND), ..RunBudget::default() });
    bench.wait(2 * SECOND);
    assert!(!bench.machine.is_syncing() && !bench.machine.leads());
    let report = bench.reports.last().unwrap();
    assert_eq!((report.left.unknown, report.exhausted), (1, Some(Exhausted::Time)));
    bench.sync();
    assert_eq!(bench.sent[0].tasks[0].key, bench.sent[1].tasks[0].key);
}

#[test]
fn a_window_in_which_nothing_can_be_done_is_given_back_at_once() {
    let mut bench = Bench::new();
    notes(&mut bench, 1);
    bench.sync();
    ask_for_calm(&mut bench, MINUTE);
    bench.step(|step, _| step.stop_session());
    let began = bench.mono_ms;
    within(&mut bench, RunBudget { time: Some(20 * SECOND), ..RunBudget::default() });
    assert!(!bench.machine.is_syncing(), "the wait is longer than the window");
    assert_eq!(bench.mono_ms, began);
    assert!(bench.reports.last().unwrap().waiting_for.is_some());
}

#[test]
fn a_run_that_did_everything_has_used_nothing_up() {
    let mut bench = Bench::new();
    notes(&mut bench, 5);
    let budget = RunBudget { time: Some(10 * SECOND), bytes: Some(1 << 20), tasks: Some(5) };
    within(&mut bench, budget);
    serve(&mut bench, SECOND);
    let report = bench.reports.last().unwrap();
    assert!(report.is_complete());
    assert_eq!(report.exhausted, None);
}

#[test]
fn a_run_that_may_send_no_more_tasks_still_reads() {
    let mut bench = Bench::of(Config::default(), with_feed());
    notes(&mut bench, 20);
    within(&mut bench, RunBudget { tasks: Some(5), ..RunBudget::default() });
    assert_eq!((bench.sent.len(), bench.pages.len()), (1, 1));
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.page(Vec::new(), "1", true);
    assert_eq!((bench.sent.len(), bench.pages.len()), (1, 2), "a backlog must not hold up reading (G5)");
    bench.page(Vec::new(), "2", false);
    bench.run();
    let report = bench.reports.last().unwrap();
    assert_eq!((report.exhausted, report.applied), (Some(Exhausted::Tasks), 5));
    assert_eq!(report.pull_waiting_for, None);
}

#[test]
fn reading_counts_as_well() {
    let mut bench = Bench::of(Config::default(), with_feed());
    within(&mut bench, RunBudget { bytes: Some(100), ..RunBudget::default() });
    let text = "x".repeat(200);
    let remote = landfall_core::entity::RemoteEntity::new(
        landfall_core::id::EntityKey::new("note", "a"),
        landfall_core::entity::Body::Live(
            [("text".to_owned(), landfall_core::value::Value::from(text.as_str()))].into_iter().collect(),
        ),
        Some("1".into()),
    );
    bench.page(vec![remote], "1", true);
    assert_eq!(bench.pages.len(), 1, "no second page is asked for");
    let report = bench.reports.last().unwrap();
    assert_eq!(report.exhausted, Some(Exhausted::Bytes));
    assert!(report.pull_waiting_for.is_some());
}

#[test]
fn what_fits_to_the_last_byte_is_sent() {
    let mut bench = Bench::new();
    notes(&mut bench, 1);
    bench.sync();
    let size = bench.last_payload().len() as u64;
    for (bytes, sent) in [(size - 1, 0), (size, 1)] {
        let mut bench = Bench::new();
        notes(&mut bench, 1);
        within(&mut bench, RunBudget { bytes: Some(bytes), ..RunBudget::default() });
        assert_eq!(bench.sent.len(), sent, "{bytes} of {size} bytes");
    }
}

/// Near its end no call begins; until it has come, or the answer to what is under way, there is nothing to do.
#[test]
fn a_run_that_only_waits_for_an_answer_sleeps_until_its_time_is_over() {
    let mut bench = Bench::new();
    notes(&mut bench, 1);
    bench.session(SessionEnd::Drained { within: 60 * MINUTE }, Directions::Both);
    within(&mut bench, RunBudget { time: Some(8 * SECOND), ..RunBudget::default() });
    let mut wakeups = 0;
    while bench.machine.is_syncing() && wakeups < 20 {
        let due = bench.machine.next_wakeup().expect("its time is over some time");
        assert!(due.0 > bench.mono_ms, "it wakes again and again at {} ms", bench.mono_ms);
        bench.wait(Duration::from_millis(due.0 - bench.mono_ms));
        wakeups += 1;
    }
    assert_eq!((bench.mono_ms, bench.counts().unknown), (8_000, 1), "{wakeups} wakeups");
}

/// An adapter that keeps to what it is given has come back when the run is over.
#[test]
fn a_call_may_take_as_long_as_is_left_of_the_run() {
    let mut bench = Bench::of(Config::default(), with_feed());
    let timeouts = |bench: &Bench| bench.contexts.iter().map(|context| context.timeout).collect::<Vec<_>>();
    notes(&mut bench, 1);
    bench.session(SessionEnd::OnePass, Directions::Both);
    let (push, pull) = (Config::default().push.call_timeout, Config::default().pull.call_timeout);
    assert_eq!(timeouts(&bench), [push, pull], "without a bound it is what the settings say");
    bench.step(|step, _| step.stop_session());
    bench.contexts.clear();
    within(&mut bench, RunBudget { time: Some(10 * SECOND), ..RunBudget::default() });
    bench.pass(4 * SECOND);
    bench.page(Vec::new(), "1", true);
    assert_eq!(timeouts(&bench), [10 * SECOND, 10 * SECOND, 6 * SECOND]);
}

/// Most of a window can be used however slow the calls are: only a quarter of it is kept for what is under way.
#[test]
fn a_slow_backend_is_asked_in_a_short_window_too() {
    let mut bench = Bench::new();
    notes(&mut bench, 1);
    for _ in 0..5 {
        bench.sync();
        bench.pass(20 * SECOND);
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
        bench.enqueue(note(&bench.mono_ms.to_string())).unwrap();
    }
    bench.step(|step, _| step.stop_session());
    let sent = bench.sent.len();
    within(&mut bench, RunBudget { time: Some(10 * SECOND), ..RunBudget::default() });
    assert_eq!(bench.sent.len(), sent + 1);
}
