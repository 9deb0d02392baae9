//! Runs of `sync`: what they wait for and what not, who joins them, and when they are over.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use bench::{Bench, DRAINED, applied, capabilities, open, theirs, with_feed};
use landfall_core::adapter::{Applied, Capabilities, EffectClass, Outcome, PushReply, Rejection};
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::machine::{Directions, RunBudget, SessionEnd};
use landfall_core::time::{Mono, Timestamp};
use std::time::Duration;

// ---- what is waited for ----------------------------------------------------------------------------------------------

#[test]
fn a_run_that_waits_goes_on_when_the_wait_is_over() {
    let second = Some(Duration::from_secs(1));
    for what in ["everything", "a task", "reading", "all reading"] {
        let mut bench = Bench::reading();
        let busy = |kind| Failure::new(kind, Delivery::Answered, "busy").retry_after(second);
        if what.ends_with("reading") {
            bench.session(DRAINED, Directions::PullOnly);
            let kind = if what == "reading" { FailureKind::Transient } else { FailureKind::RateLimited };
            bench.answer_page(Err(busy(kind)));
        } else {
            bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
            bench.session(DRAINED, Directions::PushOnly);
            let batch = bench.last_sent();
            if what == "everything" {
                bench.answer(&batch, Err(busy(FailureKind::RateLimited)));
            } else {
                bench.outcome(&batch, &Outcome::Retry { after: second, reason: "busy".into() });
            }
        }
        while bench.sent.len() + bench.pages.len() == 1 {
            let due = bench.machine.next_wakeup().expect("the run goes on");
            bench.wait(Duration::from_millis(due.0 - bench.mono_ms));
        }
        assert!((1_000..3_000).contains(&bench.mono_ms), "{what}: {} ms", bench.mono_ms);
    }
}

/// A fresh wish to sync may know better than a backoff.
#[test]
fn a_new_run_reads_at_once_though_the_last_reading_failed() {
    let mut bench = Bench::reading();
    for round in 1..4 {
        bench.session(SessionEnd::OnePass, Directions::Both);
        assert_eq!(bench.pages.len(), round);
        bench.fail_page(FailureKind::Transient);
        assert!(!bench.machine.is_syncing(), "one pass waits for nothing");
    }
}

/// What cannot be read in this run is not waited for, whatever else is.
#[test]
fn a_run_that_only_reads_ends_when_the_backend_cannot_be_read() {
    let mut bench = Bench::reading();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.session(SessionEnd::OnePass, Directions::PushOnly);
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    assert!(bench.machine.gate().is_some());
    bench.session(DRAINED, Directions::PullOnly);
    bench.fail_page(FailureKind::Unsupported);
    assert!(!bench.machine.is_syncing());
    assert!(bench.reports.last().unwrap().pull_waiting_for.as_ref().unwrap().contains("as told"));
}

/// One pass waits for nothing: what the gate holds up is for the next run.
#[test]
fn one_pass_ends_when_the_backend_asks_to_be_left_alone() {
    let mut bench = Bench::reading();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.session(SessionEnd::OnePass, Directions::Both);
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::RateLimited, Delivery::Answered);
    assert!(bench.machine.is_syncing(), "a page is under way");
    bench.page(Vec::new(), "1", true);
    assert!(!bench.machine.is_syncing());
    assert_eq!((bench.sent.len(), bench.pages.len()), (1, 1));
}

/// Somebody who asks may know that the network is back; a backend that asked for calm, or is in trouble, is left alone.
#[test]
fn a_new_run_tries_at_once_what_waits_for_the_network_and_nothing_else() {
    for (kind, tries) in [
        (FailureKind::Unreachable, true),
        (FailureKind::Intercepted, true),
        (FailureKind::Transient, false),
        (FailureKind::Protocol, false),
        (FailureKind::RateLimited, false),
    ] {
        let mut bench = Bench::new();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.session(SessionEnd::OnePass, Directions::Both);
        let batch = bench.last_sent();
        bench.fail(&batch, kind, Delivery::NotSent);
        bench.session(SessionEnd::OnePass, Directions::Both);
        assert_eq!(bench.sent.len() > 1, tries, "{kind:?}");
    }
}

#[test]
fn each_run_may_ask_once_for_fresh_credentials() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    for run in 1..=3 {
        bench.session(SessionEnd::OnePass, Directions::Both);
        for _ in 0..2 {
            let batch = bench.last_sent();
            bench.fail(&batch, FailureKind::Unauthenticated, Delivery::Answered);
            assert_eq!(bench.refreshes, run, "once and not again");
            bench.step(|step, _| step.credentials_refreshed(true));
        }
        bench.step(|step, _| step.credentials_changed());
        bench.step(|step, _| step.stop_session());
        assert_eq!(bench.refreshes, run);
    }
}

/// When all calls that may be made are under way, or nothing is to be sent, what could be sent next wakes nobody.
#[test]
fn a_run_that_waits_for_answers_sleeps_meanwhile() {
    let one_each = Capabilities { batch_tasks: 1, ..with_feed() };
    for directions in [Directions::Both, Directions::PullOnly] {
        let mut bench = Bench::of(Config::default(), one_each.clone());
        for n in 0..5 {
            bench.enqueue(Change::create("note", n.to_string()).set("a", 1)).unwrap();
        }
        bench.session(DRAINED, directions);
        let due = bench.machine.next_wakeup().expect("the lease is kept");
        assert!(due.0 > bench.mono_ms + 1_000, "{directions:?}: it wakes in {} ms", due.0 - bench.mono_ms);
    }
}

/// It waits for the other one's work, and looks whether that is done.
#[test]
fn a_run_goes_on_soon_after_another_process_is_done() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    let here = bench.machine.clone();
    bench.machine = open(&mut bench.store, Config::default(), capabilities(EffectClass::OneEffect), 9);
    bench.me = "another";
    bench.session(DRAINED, Directions::Both);
    let another = std::mem::replace(&mut bench.machine, here);
    bench.me = "me";
    bench.session(DRAINED, Directions::Both);
    assert_eq!((bench.sent.len(), bench.machine.is_syncing()), (1, true), "the other one sends");
    bench.pass(Duration::from_secs(1));
    let here = std::mem::replace(&mut bench.machine, another);
    bench.step(|step, _| step.stop_session());
    bench.machine = here;
    let done = bench.mono_ms;
    while bench.sent.len() == 1 {
        let due = bench.machine.next_wakeup().expect("it looks after the other one");
        bench.wait(Duration::from_millis(due.0.saturating_sub(bench.mono_ms).max(1)));
    }
    assert!(bench.mono_ms <= done + 1_000, "{} ms later", bench.mono_ms - done);
}

// ---- who joins a run -------------------------------------------------------------------------------------------------

#[test]
fn a_run_that_is_joined_lasts_as_long_as_the_later_of_its_ends() {
    let within = |seconds| SessionEnd::Drained { within: Duration::from_secs(seconds) };
    for (first, second) in [(10, 60), (60, 10)] {
        let mut bench = Bench::new();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.session(within(first), Directions::Both);
        bench.session(within(second), Directions::Both);
        bench.wait(Duration::from_secs(59));
        assert!(bench.machine.is_syncing(), "{first} joined by {second}");
        let due = bench.machine.next_wakeup().expect("its end wakes it");
        assert!(due.0 <= 60_000);
        bench.wait(Duration::from_secs(1));
        assert!(!bench.machine.is_syncing(), "{first} joined by {second}");
        let starts = bench.events.iter().filter(|event| **event == Event::SessionStarted).count();
        assert_eq!((starts, bench.reports.len()), (1, 1), "it is one run, told once");
    }
}

#[test]
fn a_run_that_is_joined_does_what_either_wants_and_no_more() {
    use Directions::{Both, PullOnly, PushOnly};
    for (first, second, sends, reads) in [
        (PushOnly, PushOnly, true, false),
        (PullOnly, PullOnly, false, true),
        (PushOnly, PullOnly, true, true),
        (PullOnly, PushOnly, true, true),
        (Both, PushOnly, true, true),
        (PullOnly, Both, true, true),
    ] {
        let mut bench = Bench::reading();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.session(DRAINED, first);
        bench.session(DRAINED, second);
        let seen = (!bench.sent.is_empty(), !bench.pages.is_empty());
        assert_eq!(seen, (sends, reads), "{first:?} joined by {second:?}");
    }
}

// ---- its end ---------------------------------------------------------------------------------------------------------

/// When the store refuses the step that would end a run, nobody should wait for its end for ever.
#[test]
fn a_run_is_overdue_when_its_time_is_over_and_at_once_when_it_waits_for_nothing() {
    let drained = |seconds| SessionEnd::Drained { within: Duration::from_secs(seconds) };
    let five_seconds = RunBudget { time: Some(Duration::from_secs(5)), ..RunBudget::default() };
    for (name, end, budget, end_ms) in [
        ("none", None, None, None),
        ("one pass", Some(SessionEnd::OnePass), None, Some(0)),
        ("ten seconds", Some(drained(10)), None, Some(10_000)),
        ("a minute, but at most five seconds", Some(drained(60)), Some(five_seconds), Some(5_000)),
    ] {
        let mut bench = Bench::new();
        bench.pass(Duration::from_secs(100));
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.step(|step, _| {
            if let Some(end) = end {
                step.start_session(end);
            }
            if let Some(budget) = budget {
                step.start_session_within(budget, Directions::Both);
            }
        });
        for after_ms in [0, 1, 4_999, 5_000, 9_999, 10_000, 60_000] {
            let is_overdue = bench.machine.session_is_overdue(Mono(bench.mono_ms + after_ms));
            assert_eq!(is_overdue, end_ms.is_some_and(|end| end <= after_ms), "{name}, after {after_ms} ms");
        }
    }
}

#[test]
fn a_run_ends_at_its_end_and_not_when_the_lease_is_due() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.session(SessionEnd::Drained { within: Duration::from_secs(7) }, Directions::Both);
    while bench.machine.is_syncing() {
        let due = bench.machine.next_wakeup().expect("its time is over some time");
        bench.wait(Duration::from_millis(due.0 - bench.mono_ms));
    }
    assert_eq!(bench.mono_ms, 7_000);
}

// ---- its report ------------------------------------------------------------------------------------------------------

#[test]
fn a_report_counts_each_end_of_a_task_once() {
    let mut bench = Bench::new();
    let create = |id: &str| Change::create("note", id).set("a", 1);
    for id in ["applied", "duplicate", "unchanged", "dead"] {
        for n in 0..2 {
            bench.enqueue(create(&format!("{id} {n}"))).unwrap();
        }
    }
    let (soon, later) = (Timestamp(bench.wall_ms + 1_000), Timestamp(bench.wall_ms + 3_600_000));
    let mut unwanted = Vec::new();
    for n in 0..2 {
        bench.enqueue(create(&format!("expired {n}")).not_before(later).expires_at(soon)).unwrap();
        unwanted.extend(bench.enqueue(create(&format!("cancelled {n}")).not_before(later)).unwrap().task);
    }
    bench.sync();
    let batch = bench.last_sent();
    bench.step(|step, tx| {
        for task in unwanted {
            step.cancel(tx, task).unwrap();
        }
    });
    bench.wait(Duration::from_secs(1));
    let outcome = |id: &str| match id.split_once(' ').unwrap().0 {
        "applied" => applied("1"),
        "duplicate" => Outcome::Duplicate(Applied::default()),
        "unchanged" => Outcome::Conflict { remote: Some(theirs(id, r#"{"a":1}"#, "1")) },
        _ => Outcome::Rejected(Rejection { code: "no".into(), message: "never".into(), answer: None }),
    };
    let results = batch.tasks.iter().map(|task| (task.key, outcome(&task.entity.entity_id))).collect();
    bench.answer(&batch, Ok(PushReply { results, ..PushReply::default() }));
    let report = bench.reports.last().unwrap();
    let counted =
        [report.applied, report.duplicates, report.unchanged, report.dead, report.expired, report.cancelled];
    assert_eq!(counted, [2; 6], "{report:?}");
    let died = |event: &&Event| matches!(event, Event::Died { why: FailureKind::Rejected, .. });
    assert_eq!(bench.events.iter().filter(died).count(), 2);
}

#[test]
fn a_run_that_only_reads_says_what_the_queue_waits_for() {
    for (is_dead, waits_for) in [(false, "a run that sends"), (true, "a decision")] {
        let mut bench = Bench::reading();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        if is_dead {
            bench.session(SessionEnd::OnePass, Directions::PushOnly);
            let batch = bench.last_sent();
            bench.fail(&batch, FailureKind::Forbidden, Delivery::Answered);
        }
        bench.session(SessionEnd::OnePass, Directions::PullOnly);
        bench.page(Vec::new(), "1", false);
        bench.run();
        let told = bench.reports.last().and_then(|report| report.waiting_for.clone()).unwrap_or_default();
        assert!(told.contains(waits_for), "{told}");
    }
}
