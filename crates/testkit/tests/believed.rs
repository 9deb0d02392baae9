//! Which pages of the feed are believed: one that a verdict may have overtaken is asked for again, in the end in silence.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use bench::{Bench, theirs, with_feed};
use landfall_core::adapter::{Capabilities, Outcome};
use landfall_core::change::Change;
use landfall_core::config::{Config, PushConfig};
use landfall_core::failure::FailureKind;
use std::time::Duration;

#[test]
fn a_page_that_a_verdict_overtook_is_asked_for_again_and_the_third_time_in_silence() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":0}"#, "1")]);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.sync();
    for doubt in 1..=2 {
        let (asked, batch) = (bench.pages.len(), bench.last_sent());
        bench.apply(&batch, &format!("{}", doubt + 1));
        // Written before that verdict, for all anybody knows.
        bench.page(vec![theirs("1", r#"{"a":0}"#, "1")], "stale", false);
        assert_eq!(bench.view("1"), format!(r#"{{"a":{doubt}}}"#));
        assert_eq!(bench.position().unwrap().cursor, Some("c1".into()), "the page was not taken");
        assert_eq!(bench.pages.len(), asked + 1, "it is asked for again, doubt {doubt}");
        bench.enqueue(Change::update("note", "1").set("a", doubt + 1)).unwrap();
    }
    assert_eq!(bench.sent.len(), 2, "nothing is sent while the third one is under way");
    bench.page(vec![theirs("1", r#"{"a":2}"#, "3")], "c2", true);
    assert_eq!(bench.position().unwrap().cursor, Some("c2".into()));
    // It ends the doubts: what comes next is read while others are sent.
    assert!(bench.last_payload().contains(r#""base_version":"3","fields":{"a":3}"#));
}

#[test]
fn a_page_read_in_silence_that_fails_lets_sending_go_on() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":0}"#, "1")]);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.sync();
    for doubt in 1..=2 {
        let batch = bench.last_sent();
        bench.apply(&batch, &format!("{}", doubt + 1));
        bench.page(vec![theirs("1", r#"{"a":0}"#, "1")], "stale", false);
        bench.enqueue(Change::update("note", "1").set("a", doubt + 1)).unwrap();
    }
    assert_eq!(bench.sent.len(), 2);
    bench.fail_page(FailureKind::Transient);
    assert_eq!(bench.sent.len(), 3, "a failing pull never blocks push");
    // Nor does the next try: the doubt is over.
    let batch = bench.last_sent();
    bench.wait(Duration::from_secs(3600));
    bench.apply(&batch, "9");
    bench.enqueue(Change::update("note", "1").set("a", 9)).unwrap();
    assert_eq!(bench.sent.len(), 4);
}

#[test]
fn a_run_that_begins_anew_does_not_keep_the_silence_of_the_one_before() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":0}"#, "1")]);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.sync();
    for doubt in 1..=2 {
        let batch = bench.last_sent();
        bench.apply(&batch, &format!("{}", doubt + 1));
        bench.page(vec![theirs("1", r#"{"a":0}"#, "1")], "stale", false);
        bench.enqueue(Change::update("note", "1").set("a", doubt + 1)).unwrap();
    }
    assert_eq!(bench.sent.len(), 2);
    let asked = bench.pages.len();
    bench.step(|step, _| step.stop_session());
    bench.sync();
    assert_eq!((bench.sent.len(), bench.pages.len()), (3, asked + 1));
}

#[test]
fn a_page_that_was_asked_for_after_a_verdict_is_believed_whatever_the_run_before_has_left() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":0}"#, "1")]);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "2");
    bench.step(|step, _| step.stop_session());
    bench.sync();
    bench.page(vec![theirs("1", r#"{"a":7}"#, "3")], "c2", false);
    assert_eq!(bench.view("1"), r#"{"a":7}"#);
}

#[test]
fn a_page_that_was_overtaken_by_what_a_conflict_told_is_not_believed() {
    for is_read_alone in [false, true] {
        let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":0,"b":0}"#, "1")]);
        bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
        bench.sync();
        let newer = theirs("1", r#"{"a":0,"b":3}"#, "3");
        let batch = bench.last_sent();
        if is_read_alone {
            // The page goes out behind the refusal, so that nothing but the single reading overtakes it.
            bench.outcome(&batch, &Outcome::Conflict { remote: None });
            bench.page(Vec::new(), "c2", true);
            bench.fetched(Ok(Some(newer)));
        } else {
            bench.outcome(&batch, &Outcome::Conflict { remote: Some(newer) });
        }
        let asked = bench.pages.len();
        bench.page(vec![theirs("1", r#"{"a":0,"b":2}"#, "2")], "c3", true);
        assert_eq!(bench.view("1"), r#"{"a":1,"b":3}"#, "read alone: {is_read_alone}");
        assert_eq!(bench.pages.len(), asked + 1);
        assert_ne!(bench.position().unwrap().cursor, Some("c3".into()));
    }
}

/// Which records a verdict has moved is remembered up to a bound. From there on every record may be one of them.
#[test]
fn after_more_verdicts_than_can_be_remembered_no_page_under_way_is_believed() {
    let push = PushConfig { batch_tasks: 20_000, batch_bytes: usize::MAX, ..PushConfig::default() };
    let most = Capabilities { batch_tasks: 20_000, batch_bytes: usize::MAX, ..with_feed() };
    for (changes, believed) in [(10_000, true), (10_001, false)] {
        let mut bench = Bench::of(Config { push: push.clone(), ..Config::default() }, most.clone());
        bench.sync();
        bench.page(vec![theirs("1", r#"{"a":1}"#, "1")], "c1", false);
        for id in 0..changes {
            bench.enqueue(Change::create("note", format!("ours{id}")).set("a", 1)).unwrap();
        }
        bench.sync();
        let batch = bench.last_sent();
        assert_eq!(batch.tasks.len(), changes);
        bench.apply(&batch, "1");
        bench.page(vec![theirs("1", r#"{"a":2}"#, "2")], "c2", true);
        assert_eq!(bench.view("1") == r#"{"a":2}"#, believed, "{changes}");
        bench.page(vec![theirs("1", r#"{"a":2}"#, "2")], "c3", false);
        assert_eq!(bench.view("1"), r#"{"a":2}"#, "asked for again it is");
    }
}

#[test]
fn waiting_for_silence_does_not_spin() {
    let mut bench = Bench::reading();
    bench.sync();
    let stale = || vec![theirs("1", r#"{"a":0}"#, "1")];
    bench.page(stale(), "c1", false);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let first = bench.last_sent();
    // Another call stays under way, so that there is no silence yet.
    bench.enqueue(Change::create("note", "3").set("a", 1)).unwrap();
    bench.apply(&first, "2");
    bench.page(stale(), "s", false);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    let third = bench.last_sent();
    bench.apply(&third, "3");
    bench.page(stale(), "s", false);
    assert!(bench.machine.next_wakeup().unwrap().0 > bench.mono_ms, "it waits for an answer, not for time");
}
