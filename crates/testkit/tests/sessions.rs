//! Runs of `sync`: what they wait for and what not, who joins them, and when they are over.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use bench::{Bench, DRAINED};
use landfall_core::adapter::Outcome;
use landfall_core::change::Change;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::machine::{Directions, RunBudget, SessionEnd};
use landfall_core::time::Mono;
use std::time::Duration;

// ---- what is waited for ----------------------------------------------------------------------------------------------

#[test]
fn a_run_that_waits_goes_on_when_the_wait_is_over() {
    let second = Some(Duration::from_secs(1));
    for everything in [true, false] {
        let mut bench = Bench::new();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        if everything {
            let asked = Failure::new(FailureKind::RateLimited, Delivery::Answered, "429");
            bench.answer(&batch, Err(asked.retry_after(second)));
        } else {
            bench.outcome(&batch, &Outcome::Retry { after: second, reason: "busy".into() });
        }
        while bench.sent.len() == 1 {
            let due = bench.machine.next_wakeup().expect("the run goes on");
            bench.wait(Duration::from_millis(due.0 - bench.mono_ms));
        }
        assert!((1_000..3_000).contains(&bench.mono_ms), "{everything}: {} ms", bench.mono_ms);
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
        bench.wait(Duration::from_secs(1));
        assert!(!bench.machine.is_syncing(), "{first} joined by {second}");
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
    let seconds = Duration::from_secs;
    let runs: [(&str, fn(&mut landfall_core::machine::Step), Option<u64>); 4] = [
        ("none", |_| {}, None),
        ("one pass", |step| step.start_session(SessionEnd::OnePass), Some(0)),
        (
            "ten seconds",
            |step| step.start_session(SessionEnd::Drained { within: Duration::from_secs(10) }),
            Some(10_000),
        ),
        (
            "a minute, but at most five seconds",
            |step| {
                step.start_session(SessionEnd::Drained { within: Duration::from_secs(60) });
                let budget = RunBudget { time: Some(Duration::from_secs(5)), ..RunBudget::default() };
                step.start_session_within(budget, Directions::Both);
            },
            Some(5_000),
        ),
    ];
    for (name, start, end_ms) in runs {
        let mut bench = Bench::new();
        bench.pass(seconds(100));
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.step(|step, _| start(step));
        for after_ms in [0, 1, 4_999, 5_000, 9_999, 10_000, 60_000] {
            let is_overdue = bench.machine.session_is_overdue(Mono(bench.mono_ms + after_ms));
            assert_eq!(is_overdue, end_ms.is_some_and(|end| end <= after_ms), "{name}, after {after_ms} ms");
        }
    }
}
