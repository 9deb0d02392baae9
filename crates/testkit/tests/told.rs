//! What events tell to those who count: ages, outcomes of attempts, rules of conflicts, what a stream has made.
//!
//! The engine's metrics are made of nothing else (`crates/engine/src/metrics.rs`).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use bench::{Bench, applied, theirs};
use landfall_core::adapter::{Outcome, PushReply, Rejection};
use landfall_core::change::Change;
use landfall_core::event::{Event, Outcomes};
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::task::Verdict;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn create(id: &str) -> Change {
    Change::create("note", id).set("a", 1)
}

/// Verdicts and ages in seconds, in the order in which they were told.
fn ages(bench: &Bench) -> Vec<(Verdict, u64)> {
    let settled = |event: &Event| match event {
        Event::Settled { verdict, age, .. } => Some((*verdict, age.as_secs())),
        _ => None,
    };
    bench.events.iter().filter_map(settled).collect()
}

/// What was told of answered calls: how many tasks, and what became of them.
fn answers(bench: &Bench) -> Vec<(usize, Result<Outcomes, FailureKind>)> {
    let finished = |event: &Event| match event {
        Event::SendFinished { tasks, outcomes, .. } => Some((*tasks, *outcomes)),
        _ => None,
    };
    bench.events.iter().filter_map(finished).collect()
}

#[test]
fn the_age_of_an_ended_task_is_counted_from_its_oldest_part() {
    let mut bench = Bench::new();
    bench.enqueue(create("1")).unwrap();
    bench.pass(HOUR);
    bench.enqueue(Change::update("note", "1").set("b", 2)).unwrap();
    bench.pass(HOUR);
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(ages(&bench), [(Verdict::Applied, 7200)]);
}

#[test]
fn a_task_that_goes_on_after_a_conflict_keeps_its_age() {
    let mut bench = Bench::new();
    bench.hear(theirs("1", r#"{"a":0,"b":0}"#, "1"));
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.pass(HOUR);
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: Some(theirs("1", r#"{"a":0,"b":9}"#, "2")) });
    bench.pass(HOUR);
    let batch = bench.last_sent();
    bench.apply(&batch, "3");
    assert_eq!(ages(&bench), [(Verdict::Rebased, 3600), (Verdict::Applied, 7200)]);
}

#[test]
fn an_attempt_is_told_when_it_begins_and_so_is_the_next_one_and_what_was_read() {
    let mut bench = Bench::reading();
    let task = bench.enqueue(create("1")).unwrap().task.unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let bytes = batch.tasks[0].payload.len();
    assert!(bench.events.contains(&Event::SendStarted { call: batch.call, tasks: 1, bytes }));
    bench.outcome(&batch, &Outcome::Retry { after: Some(HOUR), reason: "busy".into() });
    let again = bench.events.iter().find_map(|event| match event {
        Event::RetryScheduled { task: of, kind, wait } if *of == task => Some((*kind, *wait >= HOUR)),
        _ => None,
    });
    assert_eq!(again, Some((FailureKind::RateLimited, true)));
    bench.page(vec![theirs("2", "{}", "1"), theirs("3", "{}", "1")], "c1", true);
    assert!(bench.events.contains(&Event::Pulled { changes: 2, more: true }));
}

#[test]
fn a_conflict_that_a_rule_decides_is_told_and_counted_also_that_of_a_dead_letter() {
    for is_dead in [false, true] {
        let mut bench = Bench::new();
        bench.hear(theirs("1", r#"{"a":0}"#, "1"));
        bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
        bench.sync();
        if is_dead {
            let batch = bench.last_sent();
            let refused = Rejection { code: "no".into(), message: "never".into(), answer: None };
            bench.outcome(&batch, &Outcome::Rejected(refused));
            bench.hear(theirs("1", r#"{"a":9}"#, "2"));
        } else {
            let batch = bench.last_sent();
            bench.outcome(&batch, &Outcome::Conflict { remote: Some(theirs("1", r#"{"a":9}"#, "2")) });
            let batch = bench.last_sent();
            bench.apply(&batch, "3");
            assert_eq!(bench.reports.last().unwrap().conflicts, 1);
        }
        let of_conflict = |event: &Event| match event {
            Event::Conflicted { waits, again, .. } => Some((*waits, *again)),
            Event::Resolved { .. } => panic!("nobody waited"),
            _ => None,
        };
        let told: Vec<_> = bench.events.iter().filter_map(of_conflict).collect();
        assert_eq!(told, [(false, false)], "dead: {is_dead}");
    }
}

#[test]
fn what_goes_on_under_another_id_is_told_with_both() {
    let mut bench = Bench::new();
    bench.hear(theirs("1", r#"{"a":0,"b":0}"#, "1"));
    let first = bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap().task.unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let remote = Some(theirs("1", r#"{"a":0,"b":9}"#, "2"));
    bench.outcome(&batch, &Outcome::Conflict { remote });
    let batch = bench.last_sent();
    let rebased = batch.tasks[0].task_id;
    let entity = batch.tasks[0].entity.clone();
    bench.outcome(
        &batch,
        &Outcome::Rejected(Rejection { code: "no".into(), message: "never".into(), answer: None }),
    );
    let taken_up = bench.step(|step, tx| step.requeue(tx, rebased).unwrap());
    let goes_on = |event: &&Event| matches!(event, Event::Rebased { .. } | Event::Requeued { .. });
    let told: Vec<_> = bench.events.iter().filter(goes_on).cloned().collect();
    let expected = [
        Event::Rebased { task: first, entity, next: rebased },
        Event::Requeued { task: rebased, next: taken_up },
    ];
    assert_eq!(told, expected);
}

#[test]
fn no_age_is_negative_when_the_clock_went_back() {
    let mut bench = Bench::new();
    bench.enqueue(create("1")).unwrap();
    bench.wall_ms -= 86_400_000;
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(ages(&bench), [(Verdict::Applied, 0)]);
}

#[test]
fn each_task_of_an_answered_call_is_counted_once_by_what_was_said_of_it() {
    let mut bench = Bench::new();
    for id in ["1", "2", "3", "4", "5", "6", "7"] {
        bench.enqueue(create(id)).unwrap();
    }
    bench.sync();
    let batch = bench.last_sent();
    let rejected = Outcome::Rejected(Rejection { code: "no".into(), message: "no".into(), answer: None });
    let outcomes = [
        applied("1"),
        Outcome::Duplicate(Default::default()),
        Outcome::Conflict { remote: Some(theirs("3", r#"{"a":5}"#, "2")) },
        rejected,
        Outcome::Retry { after: None, reason: "later".into() },
        Outcome::Unknown { reason: "?".into() },
    ];
    // The seventh is not named at all.
    let results = batch.tasks.iter().map(|task| task.key).zip(outcomes).collect();
    bench.answer(&batch, Ok(PushReply { results, ..PushReply::default() }));
    // A copy of an answer is no second attempt.
    bench.answer(&batch, Ok(PushReply::default()));
    let said = Outcomes { applied: 1, duplicates: 1, conflicts: 1, rejected: 1, postponed: 1, unanswered: 2 };
    assert_eq!(answers(&bench)[0], (7, Ok(said)));
    assert_eq!(said.total(), 7);
    let of_it = |event: &&Event| matches!(event, Event::SendFinished { call, .. } if *call == batch.call);
    assert_eq!(bench.events.iter().filter(of_it).count(), 1);
}

#[test]
fn a_call_that_failed_tells_why_and_a_disbelieved_answer_counts_for_nothing() {
    let mut bench = Bench::new();
    bench.enqueue(create("1")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let named = |name: &str| PushReply {
        server_id: Some(name.into()),
        ..bench::reply(&batch, &Outcome::Retry { after: None, reason: String::new() })
    };
    bench.answer(&batch, Ok(named("one")));
    bench.pass(HOUR);
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.pass(HOUR);
    bench.sync();
    let batch = bench.last_sent();
    let reply = PushReply { server_id: Some("another".into()), ..bench::reply(&batch, &applied("1")) };
    bench.answer(&batch, Ok(reply));
    let told: Vec<_> = answers(&bench).into_iter().map(|(_, outcomes)| outcomes.err()).collect();
    assert_eq!(told, [None, Some(FailureKind::Transient), Some(FailureKind::ServerChanged)]);
}

#[test]
fn a_conflict_tells_its_rule_and_whether_it_was_told_before() {
    let mut bench = Bench::ruled(Rules::new(Strategy::Ask));
    bench.hear(theirs("1", r#"{"a":0}"#, "1"));
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.hear(theirs("1", r#"{"a":9}"#, "2"));
    bench.hear(theirs("1", r#"{"a":10}"#, "3"));
    let told = |event: &Event| match event {
        Event::Conflicted { waits, rule, again, .. } => Some((*waits, rule.clone(), *again)),
        _ => None,
    };
    let told: Vec<_> = bench.events.iter().filter_map(told).collect();
    assert_eq!(told, [(true, "ask".to_owned(), false), (true, "ask".to_owned(), true)]);
}

#[test]
fn a_stream_tells_in_one_event_what_became_of_its_changes() {
    let mut bench = Bench::new();
    bench.step(|step, tx| {
        step.begin_stream();
        let changes =
            [create("1"), Change::update("note", "1").set("b", 1), create("2"), Change::delete("note", "2")];
        for change in changes {
            step.enqueue(tx, change).unwrap();
        }
        step.end_stream(4);
    });
    assert_eq!(bench.events, [Event::Imported { changes: 4, tasks: 2, coalesced: 1, annihilated: 1 }]);
}

#[test]
fn a_stream_of_which_nothing_was_taken_is_not_told_of() {
    let mut bench = Bench::new();
    bench.step(|step, _| {
        step.begin_stream();
        step.end_stream(0);
    });
    assert!(!bench.events.iter().any(|event| matches!(event, Event::Imported { .. })), "{:?}", bench.events);
}

#[test]
fn a_stream_hides_no_event_that_is_not_of_one_of_its_changes() {
    let mut bench = Bench::new();
    bench.enqueue(create("1")).unwrap();
    bench.store.damage_entity(&bench::note("1"));
    bench.events.clear();
    bench.step(|step, tx| {
        step.begin_stream();
        step.enqueue(tx, Change::upsert("note", "1").set("b", 1)).unwrap();
        step.end_stream(1);
    });
    assert!(bench.events.iter().any(|event| matches!(event, Event::Damaged { .. })), "{:?}", bench.events);
    assert!(bench.events.iter().any(|event| matches!(event, Event::Imported { .. })), "{:?}", bench.events);
}
