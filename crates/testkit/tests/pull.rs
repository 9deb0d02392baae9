//! Reading the change feed: pages, cursors, and how reading and sending leave each other alone. One line of events each.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use bench::{Bench, DRAINED, applied, body, gone, note, open, theirs, with_feed};
use landfall_core::adapter::{Applied, Capabilities, Outcome, PullPage};
use landfall_core::change::Change;
use landfall_core::config::{Config, ConflictConfig, PullConfig, PushConfig};
use landfall_core::conflict::Why;
use landfall_core::entity::RemoteEntity;
use landfall_core::event::{Event, Origin};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{Entropy, Version};
use landfall_core::machine::{Directions, SessionEnd};
use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::store::Store;
use landfall_core::time::{Mono, Now, Timestamp};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn reading_of(pull: PullConfig) -> Bench {
    Bench::of(Config { pull, ..Config::default() }, with_feed())
}

/// Begins a session whose first page finds the cursor expired.
fn begin_anew(bench: &mut Bench) {
    bench.sync();
    bench.fail_page(FailureKind::CursorExpired);
}

fn count(bench: &Bench, test: impl Fn(&Event) -> bool) -> usize {
    bench.events.iter().filter(|event| test(event)).count()
}

fn page_of(changes: Vec<RemoteEntity>, cursor: &str) -> Result<PullPage, Failure> {
    Ok(PullPage { changes: changes.into_iter().map(Ok).collect(), cursor: cursor.into(), has_more: true })
}

#[test]
fn a_page_and_its_cursor_are_stored_together_or_not_at_all() {
    let mut bench = Bench::reading();
    bench.sync();
    let (call, request) = bench.pages[0].clone();
    assert_eq!(request.cursor, None);
    let page = page_of(vec![theirs("1", r#"{"a":1}"#, "1")], "c1");
    bench.lost_step(|step, tx| step.pulled(tx, call, &page).unwrap());
    assert_eq!((bench.position(), bench.view("1")), (None, "nothing".into()));
    bench.answer_page(page);
    assert_eq!(bench.position().unwrap().cursor, Some("c1".into()));
    assert_eq!(bench.view("1"), r#"{"a":1}"#);
    assert!(bench.events.contains(&Event::Changed { entity: note("1"), origin: Origin::Backend }));
}

#[test]
fn reading_goes_on_where_it_was_when_the_process_died() {
    let mut bench = Bench::reading();
    bench.sync();
    bench.page(vec![theirs("1", r#"{"a":1}"#, "1")], "c1", true);
    assert_eq!(bench.pages.len(), 2);
    bench.crash();
    bench.sync();
    assert_eq!(bench.pages.last().unwrap().1.cursor, Some("c1".into()));
    bench.page(vec![theirs("2", r#"{"a":2}"#, "1")], "c2", false);
    assert_eq!((bench.view("1"), bench.view("2")), (r#"{"a":1}"#.into(), r#"{"a":2}"#.into()));
    let report = bench.reports.last().unwrap();
    assert_eq!((report.pages, report.pulled, &report.pull_waiting_for), (1, 1, &None));
    assert!(report.is_complete());
}

#[test]
fn a_late_answer_about_what_was_made_after_the_last_page_reads_nothing_anew() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":1}"#, "1")]);
    bench.enqueue(Change::create("note", "2").set("a", 2)).unwrap();
    bench.session(DRAINED, Directions::PushOnly);
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.wait(Duration::from_secs(3_600));
    let batch = bench.last_sent();
    let known = Applied { version: Some("2".into()), ..Applied::default() };
    bench.outcome(&batch, &Outcome::Duplicate(known));
    assert_eq!(bench.view("2"), r#"{"a":2}"#);
    assert_eq!(count(&bench, |event| matches!(event, Event::Reconciling)), 0);
}

#[test]
fn a_page_that_comes_twice_changes_nothing() {
    let notes = || vec![theirs("1", r#"{"a":1}"#, "1"), gone("2", "4")];
    let mut bench = Bench::having_read(notes());
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    let (before, told) = ((bench.entity("1"), bench.entity("2"), bench.tasks()), bench.events.len());
    bench.session(DRAINED, Directions::PullOnly);
    bench.page(notes(), "c1", false);
    assert_eq!((bench.entity("1"), bench.entity("2"), bench.tasks()), before);
    assert!(!bench.events[told..].iter().any(|event| matches!(event, Event::Changed { .. })));
    assert!(bench.conflicts().is_empty());
}

#[test]
fn our_own_effects_come_back_harmlessly() {
    let mut bench = Bench::reading();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "7");
    let told = bench.changes_told("1");
    // The page was under way meanwhile, and is known to be newer: it holds the effect.
    bench.page(vec![theirs("1", r#"{"a":1}"#, "7")], "c1", false);
    bench.run();
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    let after_edit = bench.changes_told("1");
    bench.session(DRAINED, Directions::PullOnly);
    bench.page(vec![theirs("1", r#"{"a":1}"#, "7")], "c2", false);
    assert_eq!((told, bench.changes_told("1")), (1, after_edit));
    assert_eq!(bench.view("1"), r#"{"a":2}"#);
    assert!(bench.conflicts().is_empty());
    assert_eq!(bench.reports.len(), 2);
}

#[test]
fn our_own_effect_that_comes_before_its_verdict_is_no_conflict() {
    let mut bench = Bench::reading();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    bench.page(vec![theirs("1", r#"{"a":1}"#, "7")], "c1", false);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    let batch = bench.last_sent();
    bench.apply(&batch, "7");
    assert_eq!(bench.view("1"), r#"{"a":2}"#);
    assert!(bench.conflicts().is_empty());
    assert!(bench.last_payload().contains(r#""base_version":"7","fields":{"a":2}"#));
}

#[test]
fn what_the_backend_deleted_is_deleted_here() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":1}"#, "1"), theirs("2", r#"{"a":1}"#, "1")]);
    bench.sync();
    bench.page(vec![gone("1", "2"), gone("never seen", "2")], "c2", false);
    assert_eq!((bench.view("1"), bench.view("2")), ("deleted".into(), r#"{"a":1}"#.into()));
    assert_eq!(bench.view("never seen"), "deleted");
}

#[test]
fn a_failing_pull_never_blocks_push() {
    use FailureKind as Kind;
    for kind in [
        Kind::Unreachable,
        Kind::Intercepted,
        Kind::Transient,
        Kind::Forbidden,
        Kind::Rejected,
        Kind::TooLarge,
        Kind::Protocol,
        Kind::Unsupported,
        Kind::Cancelled,
        Kind::CursorExpired,
    ] {
        let mut bench = Bench::reading();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.sync();
        bench.fail_page(kind);
        assert_eq!(bench.machine.gate(), None, "{kind:?}");
        bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
        assert_eq!(bench.sent.len(), 2, "{kind:?}");
    }
}

#[test]
fn readings_that_fail_wait_longer_from_time_to_time_and_begin_anew_after_a_good_one() {
    let waits = |bench: &Bench| -> Vec<Duration> {
        let told = |event: &Event| match event {
            Event::PullPaused { wait, .. } => *wait,
            _ => None,
        };
        bench.events.iter().filter_map(told).collect()
    };
    for good_between in [false, true] {
        let mut bench = Bench::reading();
        bench.sync();
        for n in 0..8 {
            bench.fail_page(FailureKind::Transient);
            bench.wait(Duration::from_secs(3600));
            if good_between {
                bench.page(Vec::new(), &format!("c{n}"), true);
            }
        }
        let longest = waits(&bench).into_iter().max().unwrap();
        assert_eq!(longest > Config::default().retry.base, !good_between, "{longest:?}");
    }
}

#[test]
fn a_fresh_wish_to_sync_reads_at_once_although_reading_was_put_off() {
    let mut bench = Bench::reading();
    bench.session(DRAINED, Directions::Both);
    bench.fail_page(FailureKind::Transient);
    bench.step(|step, _| step.stop_session());
    assert_eq!(bench.pages.len(), 1);
    bench.session(DRAINED, Directions::Both);
    assert_eq!(bench.pages.len(), 2);
}

#[test]
fn a_feed_whose_very_beginning_has_expired_is_not_asked_in_a_circle() {
    let mut bench = Bench::reading();
    bench.sync();
    bench.fail_page(FailureKind::CursorExpired);
    assert_eq!((bench.pages.len(), bench.reports.len()), (1, 0));
    assert_eq!(count(&bench, |event| *event == Event::Reconciling), 0, "there is nothing to go back to");
    bench.wait(Duration::from_secs(60));
    assert_eq!(bench.pages.len(), 2);
}

#[test]
fn a_page_that_finds_no_way_to_the_backend_lets_a_probe_look_for_it() {
    for kind in [FailureKind::Unreachable, FailureKind::Intercepted] {
        let mut bench = Bench::of(Config::default(), Capabilities { probe: true, ..with_feed() });
        bench.sync();
        bench.fail_page(kind);
        assert_eq!(bench.machine.gate().map(|(why, _)| why), Some(kind));
        assert_eq!((bench.pages.len(), bench.probes.len()), (1, 0), "not in a circle");
        bench.wait(Duration::from_secs(60));
        assert_eq!((bench.pages.len(), bench.probes.len()), (1, 1));
        let probe = bench.probes[0];
        bench.step(|step, tx| step.probed(tx, probe, &Ok(())).unwrap());
        assert_eq!(bench.pages.len(), 2, "{kind:?}");
    }
}

#[test]
fn a_failing_push_never_blocks_pull() {
    use FailureKind as Kind;
    for (kind, delivery) in [
        (Kind::Unreachable, Delivery::NotSent),
        (Kind::Transient, Delivery::Unknown),
        (Kind::Protocol, Delivery::Unknown),
    ] {
        let mut bench = Bench::reading();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.fail(&batch, kind, delivery);
        assert!(bench.machine.gate().is_some());
        bench.page(vec![theirs("2", r#"{"a":1}"#, "1")], "c1", true);
        assert_eq!(bench.pages.len(), 2, "{kind:?}: the next page is asked for while the gate is closed");
        bench.page(vec![theirs("3", r#"{"a":1}"#, "1")], "c2", false);
        assert_eq!(bench.view("3"), r#"{"a":1}"#, "{kind:?}");
    }
}

#[test]
fn a_backend_that_asks_for_calm_gets_it_from_both() {
    for by_pull in [true, false] {
        let mut bench = Bench::reading();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.sync();
        let calm = || {
            Failure::new(FailureKind::RateLimited, Delivery::Answered, "429")
                .retry_after(Some(Duration::from_secs(60)))
        };
        let batch = bench.last_sent();
        if by_pull {
            bench.answer_page(Err(calm()));
            bench.fail(&batch, FailureKind::Cancelled, Delivery::NotSent);
        } else {
            bench.answer(&batch, Err(calm()));
            bench.page(Vec::new(), "c1", true);
        }
        bench.pass(Duration::from_secs(30));
        bench.step(|step, _| step.connectivity_regained());
        assert_eq!((bench.sent.len(), bench.pages.len()), (1, 1), "by pull: {by_pull}");
        bench.wait(Duration::from_secs(60));
        assert_eq!((bench.sent.len(), bench.pages.len()), (2, 2), "by pull: {by_pull}");
    }
}

#[test]
fn credentials_are_asked_for_once_when_a_page_is_refused() {
    let mut bench = Bench::reading();
    bench.sync();
    bench.fail_page(FailureKind::Unauthenticated);
    assert_eq!((bench.refreshes, bench.pages.len()), (1, 1));
    bench.step(|step, _| step.credentials_refreshed(true));
    assert_eq!(bench.pages.len(), 2);
    bench.fail_page(FailureKind::Unauthenticated);
    assert_eq!((bench.refreshes, bench.pages.len()), (1, 2), "not in a circle");
    let report = bench.reports.last().unwrap();
    assert!(report.pull_waiting_for.as_ref().unwrap().starts_with("credentials"), "{report:?}");

    // Credentials that were good once may expire once more.
    let mut bench = Bench::reading();
    bench.sync();
    for refreshes in 1..=2 {
        bench.fail_page(FailureKind::Unauthenticated);
        assert_eq!(bench.refreshes, refreshes);
        bench.step(|step, _| step.credentials_refreshed(true));
        bench.page(Vec::new(), &format!("c{refreshes}"), true);
    }
}

#[test]
fn a_page_that_comes_ends_the_caution_after_refused_credentials() {
    let push = PushConfig { batch_tasks: 1, calls_max: 2, ..PushConfig::default() };
    for page_comes in [false, true] {
        let mut bench = Bench::of(Config { push: push.clone(), ..Config::default() }, with_feed());
        bench.sync();
        bench.fail_page(FailureKind::Unauthenticated);
        bench.step(|step, _| step.credentials_refreshed(true));
        if page_comes {
            bench.page(Vec::new(), "c1", true);
        }
        for id in ["1", "2"] {
            bench.enqueue(Change::create("note", id).set("a", 1)).unwrap();
        }
        assert_eq!(bench.sent.len(), if page_comes { 2 } else { 1 });
    }
}

#[test]
fn a_backend_without_a_feed_ends_reading_quietly() {
    let mut bench = Bench::reading();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    bench.fail_page(FailureKind::Unsupported);
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!((bench.pages.len(), bench.reports.len()), (1, 1), "the session is over, and asked once");
    assert_eq!(bench.machine.gate(), None);
}

#[test]
fn an_expired_cursor_reads_anew_and_what_does_not_come_is_deleted() {
    let seen = || vec![theirs("stays", r#"{"a":1}"#, "1"), theirs("went", r#"{"a":1}"#, "1")];
    let mut bench = Bench::having_read(seen());
    begin_anew(&mut bench);
    assert_eq!(count(&bench, |event| *event == Event::Reconciling), 1);
    assert_eq!(bench.pages.last().unwrap().1.cursor, None);
    assert_eq!(bench.view("went"), r#"{"a":1}"#, "not before the reading has ended");
    bench.page(vec![theirs("stays", r#"{"a":1}"#, "1")], "d1", false);
    bench.run();
    assert_eq!((bench.view("stays"), bench.view("went")), (r#"{"a":1}"#.into(), "deleted".into()));
    assert!(bench.reports.last().unwrap().is_complete());
}

#[test]
fn reading_anew_keeps_all_pending_work() {
    let mut bench = Bench::having_read(vec![theirs("edited", r#"{"a":1,"b":1}"#, "1")]);
    bench.enqueue(Change::update("note", "edited").set("a", 2)).unwrap();
    bench.enqueue(Change::create("note", "new").set("a", 1)).unwrap();
    bench.session(DRAINED, Directions::PullOnly);
    bench.fail_page(FailureKind::CursorExpired);
    bench.page(Vec::new(), "d1", false);
    bench.run();
    assert_eq!(bench.view("edited"), r#"{"a":2,"b":1}"#, "losing work is worse than an extra record");
    assert_eq!(bench.conflict().why, Why::EditedHereDeletedThere);
    assert_eq!(bench.view("new"), r#"{"a":1}"#, "a record that was never confirmed cannot be missing there");
    bench.sync();
    let sent: Vec<_> = bench.last_sent().tasks.iter().map(|task| task.payload.to_string()).collect();
    assert_eq!(sent.len(), 2);
    assert!(sent[0].contains(r#""operation":"replace","fields":{"a":2,"b":1}"#), "{}", sent[0]);
    assert!(sent[1].contains(r#""operation":"create""#));
}

#[test]
fn what_is_confirmed_during_a_reading_anew_is_kept() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":1}"#, "1")]);
    bench.enqueue(Change::create("note", "new").set("a", 1)).unwrap();
    begin_anew(&mut bench);
    // This page was written before the create was applied, and the reading has passed the place.
    bench.page(vec![theirs("1", r#"{"a":1}"#, "1")], "d1", true);
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.page(Vec::new(), "d2", false);
    bench.run();
    assert_eq!((bench.view("new"), bench.view("1")), (r#"{"a":1}"#.into(), r#"{"a":1}"#.into()));
    assert!(bench.conflicts().is_empty());
}

/// The state that was put aside for an open fate is as old as the reading that brought it.
#[test]
fn what_was_staged_and_is_gone_meanwhile_is_missed_too() {
    let mut bench = Bench::reading();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.page(vec![theirs("0", r#"{"a":0}"#, "1"), theirs("1", r#"{"a":2}"#, "3")], "c1", false);
    bench.step(|step, _| step.wake());
    begin_anew(&mut bench);
    bench.page(vec![theirs("0", r#"{"a":0}"#, "1")], "c2", false);
    bench.step(|step, _| step.wake());
    bench.pass(Duration::from_secs(60));
    bench.step(|step, _| step.wake());
    let again = bench.last_sent();
    bench.outcome(&again, &Outcome::Duplicate(Applied { version: Some("2".into()), ..Applied::default() }));
    assert_eq!(bench.view("1"), "deleted");
}

/// The backend wrote the page before the push reached it, and the answers arrive in the other order.
#[test]
fn what_is_confirmed_while_the_first_page_is_under_way_is_not_missed() {
    let mut bench = Bench::reading();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    assert_eq!(bench.pages[0].1.cursor, None);
    let batch = bench.last_sent();
    bench.apply(&batch, "2");
    bench.page(vec![theirs("0", r#"{"a":0}"#, "1")], "c1", false);
    bench.step(|step, _| step.wake());
    assert_eq!(bench.view("1"), r#"{"a":1}"#);
}

/// Some backends name a state by its content, so that a record can come back to a state that it had before.
#[test]
fn a_page_takes_back_what_was_put_aside_before_and_an_echo_from_elsewhere_does_not() {
    for (by_page, view) in [(true, r#"{"a":1,"b":2}"#), (false, r#"{"a":5}"#)] {
        let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":1}"#, "x")]);
        bench.enqueue(Change::update("note", "1").set("b", 2)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
        bench.page(vec![theirs("1", r#"{"a":5}"#, "y")], "c2", true);
        assert!(bench.entity("1").unwrap().staged.is_some(), "it waits for the verdict");
        let again = theirs("1", r#"{"a":1}"#, "x");
        if by_page {
            bench.page(vec![again], "c3", true);
        } else {
            bench.hear(again);
        }
        bench.wait(Duration::from_secs(60));
        let batch = bench.last_sent();
        bench.apply(&batch, "z");
        assert_eq!(bench.view("1"), view, "by page: {by_page}");
    }
}

/// The answer to a creation is late, and comes while the feed is read from its beginning: nobody can say whether the reading had
/// come by the record before it was there, so one more follows.
#[test]
fn a_late_verdict_during_a_reading_makes_it_be_read_once_more() {
    for is_there in [false, true] {
        let types = Some(BTreeSet::from(["note".to_owned()]));
        let mut bench = reading_of(PullConfig { types, ..PullConfig::default() });
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
        bench.wait(Duration::from_secs(60));
        let again = bench.last_sent();
        bench.outcome(
            &again,
            &Outcome::Duplicate(Applied { version: Some("1".into()), ..Applied::default() }),
        );
        assert_eq!((bench.view("1"), bench.pages.len()), (r#"{"a":1}"#.into(), 1));
        bench.page(Vec::new(), "c1", false);
        bench.run();
        assert_eq!(bench.view("1"), r#"{"a":1}"#, "not missed before the second reading has ended");
        assert_eq!((bench.pages.len(), &bench.pages[1].1.cursor), (2, &None));
        let found = if is_there { vec![theirs("1", r#"{"a":1}"#, "1")] } else { Vec::new() };
        bench.page(found, "c2", false);
        bench.run();
        let expected = if is_there { r#"{"a":1}"# } else { "deleted" };
        assert_eq!(
            (bench.view("1").as_str(), bench.pages.len()),
            (expected, 2),
            "it is read twice, not for ever"
        );
        assert!(bench.reports.last().unwrap().is_complete());
    }
}

/// Reading a feed from its beginning is dear: it is done only for what a reading may have missed.
#[test]
fn a_late_verdict_of_what_no_reading_can_have_missed_makes_none_anew() {
    let before = |entity_type: &str, reads_first: bool| {
        let mut bench = Bench::reading();
        let change = Change::create(entity_type, "1").set("a", 1);
        if !reads_first {
            bench.enqueue(change.clone()).unwrap();
        }
        bench.session(DRAINED, Directions::PullOnly);
        bench.page(vec![theirs("0", r#"{"a":0}"#, "1")], "c1", false);
        bench.run();
        if reads_first {
            bench.enqueue(change).unwrap();
        }
        bench
    };
    let late = Outcome::Duplicate(Applied { version: Some("1".into()), ..Applied::default() });
    let mut off = Bench::of(
        Config { pull: PullConfig { enabled: false, ..PullConfig::default() }, ..Config::default() },
        with_feed(),
    );
    std::mem::swap(&mut off.store, &mut before("note", false).store);
    off.crash();
    for (what, mut bench, verdict, anew) in [
        ("it was there before the reading, which did not bring it", before("note", false), &late, true),
        ("it is there only now", before("note", false), &applied("1"), false),
        ("it was made after the reading", before("note", true), &late, false),
        ("the feed brings no such records", before("draft", false), &late, false),
        ("nothing is read any more", off, &late, false),
    ] {
        bench.session(DRAINED, Directions::PushOnly);
        let batch = bench.last_sent();
        bench.outcome(&batch, verdict);
        assert_eq!(count(&bench, |event| *event == Event::Reconciling), usize::from(anew), "{what}");
        assert_eq!(bench.position().unwrap().cursor.is_none(), anew, "{what}");
    }
}

#[test]
fn a_record_of_a_type_that_the_feed_never_brought_is_not_missed() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":1}"#, "1")]);
    bench.enqueue(Change::create("draft", "1").set("a", 1)).unwrap();
    begin_anew(&mut bench);
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.page(Vec::new(), "d1", false);
    bench.run();
    bench.sync();
    bench.fail_page(FailureKind::CursorExpired);
    bench.page(Vec::new(), "e1", false);
    bench.run();
    assert_eq!(bench.local("draft", "1"), Some(body(r#"{"a":1}"#)));
    assert_eq!(bench.view("1"), "deleted");
}

#[test]
fn the_look_for_missing_records_goes_batch_by_batch_through_crashes_and_from_one_run_to_the_next() {
    for crashes in [true, false] {
        let ids: Vec<String> = (0..2500).map(|id| format!("{id:04}")).collect();
        let all = |version: &str| ids.iter().map(|id| theirs(id, r#"{"a":1}"#, version)).collect::<Vec<_>>();
        let mut bench = Bench::having_read(all("1"));
        begin_anew(&mut bench);
        bench.page(all("1").split_off(2400), "d1", false);
        let gone_so_far = |bench: &mut Bench| {
            let page = bench.store.begin().unwrap().entities_after(Some("note"), None, 10_000).unwrap();
            page.entities
                .iter()
                .filter(|entity| entity.local == Some(landfall_core::entity::Body::Deleted))
                .count()
        };
        let first = gone_so_far(&mut bench);
        assert!(first <= 1000, "one batch at most in a transaction: {first}");
        bench.step(|step, _| step.wake());
        let second = gone_so_far(&mut bench);
        assert!((1..=2000).contains(&second), "{second}");
        if crashes {
            bench.crash();
            bench.pass(Duration::from_secs(60));
        } else {
            bench.step(|step, _| step.stop_session());
        }
        bench.sync();
        bench.run();
        assert_eq!(gone_so_far(&mut bench), 2400);
        let position = bench.position().unwrap();
        assert_eq!(
            (position.sweep, &position.swept_to, &position.cursor),
            (false, &None, &Some("d1".into()))
        );
        assert_eq!(bench.view("2400"), r#"{"a":1}"#);
        // The run that ended the look reads what came after that reading, too.
        bench.page(vec![theirs("2400", r#"{"a":2}"#, "3")], "d2", false);
        assert_eq!(bench.view("2400"), r#"{"a":2}"#);
    }
}

#[test]
fn a_cursor_that_expires_again_and_again_is_not_asked_without_end() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":1}"#, "1")]);
    begin_anew(&mut bench);
    let mut waits = 0;
    for _ in 0..6 {
        bench.page(vec![theirs("1", r#"{"a":1}"#, "1")], "d1", true);
        let asked = bench.pages.len();
        bench.fail_page(FailureKind::CursorExpired);
        waits += usize::from(bench.pages.len() == asked);
        bench.wait(Duration::from_secs(3600));
    }
    assert_eq!(waits, 6, "from the second time on it backs off");
    let told = bench.events.iter().filter_map(|event| match event {
        Event::PullPaused { wait, .. } => *wait,
        _ => None,
    });
    let first = Config::default().retry.base;
    assert!(told.max().unwrap() > first, "longer from time to time, whatever pages came in between");
    assert_eq!(bench.view("1"), r#"{"a":1}"#);
}

#[test]
fn a_cursor_that_expires_now_and_then_is_read_anew_at_once_each_time() {
    let notes = || vec![theirs("1", r#"{"a":1}"#, "1")];
    let mut bench = Bench::having_read(notes());
    for _ in 0..3 {
        let asked = bench.pages.len();
        begin_anew(&mut bench);
        assert_eq!(bench.pages.len(), asked + 2, "the reading before has come to its end");
        bench.page(notes(), "d1", false);
        bench.run();
    }
    assert_eq!(count(&bench, |event| matches!(event, Event::PullPaused { .. })), 0);
}

#[test]
fn a_damaged_record_does_not_keep_others_from_being_missed_and_is_told() {
    let ids = ["1", "2", "3"];
    let mut bench = Bench::having_read(ids.map(|id| theirs(id, r#"{"a":1}"#, "1")).into());
    assert!(bench.store.damage_entity(&note("2")));
    begin_anew(&mut bench);
    bench.page(Vec::new(), "d1", false);
    bench.run();
    assert_eq!((bench.view("1"), bench.view("3")), ("deleted".into(), "deleted".into()));
    assert_eq!(count(&bench, |event| matches!(event, Event::Damaged { .. })), 1);
}

#[test]
fn a_record_that_cannot_be_taken_in_is_set_apart_and_the_rest_of_the_page_taken() {
    let mut bench = Bench::reading();
    bench.sync();
    let changes = vec![
        Ok(theirs("1", r#"{"a":1}"#, "1")),
        Err("note bad: a number is too large".into()),
        Ok(theirs("2", r#"{"a":1}"#, "1")),
    ];
    bench.answer_page(Ok(PullPage { changes, cursor: "c1".into(), has_more: false }));
    assert_eq!((bench.view("1"), bench.view("2")), (r#"{"a":1}"#.into(), r#"{"a":1}"#.into()));
    let reason = "note bad: a number is too large".to_owned();
    assert!(bench.events.contains(&Event::Quarantined { reason: reason.clone() }));
    assert_eq!(bench.store.begin().unwrap().quarantined(10).unwrap()[0].reason, reason);
    assert_eq!(bench.position().unwrap().cursor, Some("c1".into()));
    assert_eq!(bench.reports[0].quarantined, 1);
}

#[test]
fn only_the_types_asked_for_are_taken_in() {
    let types = Some(BTreeSet::from(["todo".to_owned()]));
    let mut bench = reading_of(PullConfig { types, ..PullConfig::default() });
    bench.sync();
    bench.page(vec![theirs("1", r#"{"a":1}"#, "1")], "c1", false);
    assert_eq!(bench.view("1"), "nothing");
    assert_eq!(bench.position().unwrap().cursor, Some("c1".into()));
}

#[test]
fn a_session_does_only_what_it_was_asked_for() {
    let mut bench = Bench::reading();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.session(DRAINED, Directions::PullOnly);
    assert_eq!((bench.sent.len(), bench.pages.len()), (0, 1));
    bench.page(Vec::new(), "c1", false);
    bench.run();
    assert_eq!((bench.reports.len(), bench.counts().pending), (1, 1));
    bench.session(DRAINED, Directions::PushOnly);
    assert_eq!((bench.sent.len(), bench.pages.len()), (1, 1));
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(bench.reports.len(), 2);
    assert_eq!(bench.reports[1].pull_waiting_for, None);

    // Whoever joins a session gets what it asked for too.
    bench.enqueue(Change::create("note", "2").set("a", 1)).unwrap();
    bench.session(DRAINED, Directions::PushOnly);
    bench.session(DRAINED, Directions::PullOnly);
    assert_eq!((bench.sent.len(), bench.pages.len()), (2, 2));
    let off = PullConfig { enabled: false, ..PullConfig::default() };
    let mut bench = reading_of(off);
    bench.sync();
    assert_eq!((bench.pages.len(), bench.reports.len()), (0, 1));
}

#[test]
fn one_pass_does_not_wait_for_a_backoff_of_reading_and_says_so() {
    let mut bench = Bench::reading();
    bench.session(SessionEnd::OnePass, Directions::Both);
    bench.fail_page(FailureKind::Transient);
    let report = bench.reports.last().expect("it has ended").clone();
    assert!(report.pull_waiting_for.as_ref().unwrap().starts_with("transient"), "{report:?}");
    assert!(!report.is_complete());

    let mut bench = Bench::reading();
    bench.sync();
    bench.fail_page(FailureKind::Transient);
    assert!(bench.reports.is_empty(), "a session that drains waits");
    assert!(bench.machine.next_wakeup().is_some());
    bench.wait(Duration::from_secs(3600));
    assert_eq!(bench.pages.len(), 2);
    bench.page(Vec::new(), "c1", false);
    assert!(bench.reports.last().unwrap().is_complete());
}

#[test]
fn a_page_that_comes_after_the_lease_was_lost_is_ignored() {
    let mut bench = Bench::reading();
    bench.sync();
    let mut other = open(&mut bench.store, Config::default(), with_feed(), 9);
    let now = Now { wall: Timestamp(bench.wall_ms), mono: Mono(0) };
    let mut step = other.step(now, Entropy([77; 32]));
    let mut tx = bench.store.begin().unwrap();
    step.start_session(DRAINED);
    step.lead(&mut *tx, "other", &|_| true).unwrap();
    step.finish(&mut *tx).unwrap();
    tx.commit().unwrap();
    other.apply(step);
    bench.page(vec![theirs("1", r#"{"a":1}"#, "1")], "c1", false);
    assert!(bench.events.contains(&Event::LeaseLost));
    assert_eq!((bench.position(), bench.view("1")), (None, "nothing".into()));
}

#[test]
fn a_change_of_the_feed_meets_an_edit_that_was_never_sent() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":1,"b":1}"#, "1")]);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.session(DRAINED, Directions::PullOnly);
    bench.page(vec![theirs("1", r#"{"a":9,"b":9}"#, "2")], "c2", false);
    assert_eq!(bench.view("1"), r#"{"a":2,"b":9}"#, "clean fields follow, dirty ones stay");
    assert_eq!(bench.conflict().fields[0].remote, Some(9.into()));
    bench.sync();
    assert!(bench.last_payload().contains(r#""base_version":"2","fields":{"a":2}"#));
}

#[test]
fn a_conflict_that_waits_for_the_backends_state_is_decided_by_the_next_page() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":1,"b":1}"#, "1")]);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: None });
    bench.fetched(Err(Failure::new(FailureKind::Unsupported, Delivery::NotSent, "cannot")));
    // The page was under way when the refusal came, so it may be older than that: it is asked for once more.
    for _ in 0..2 {
        bench.page(vec![theirs("1", r#"{"a":1,"b":9}"#, "2")], "c2", false);
    }
    assert_eq!(bench.view("1"), r#"{"a":2,"b":9}"#);
    assert!(bench.last_payload().contains(r#""base_version":"2","fields":{"a":2}"#));
}

#[test]
fn a_single_read_that_comes_after_a_page_has_told_more_is_ignored() {
    let rules = Rules::new(Strategy::Ask);
    let conflicts = ConflictConfig { rules, ..ConflictConfig::default() };
    let mut bench = Bench::of(Config { conflicts, ..Config::default() }, with_feed());
    bench.sync();
    bench.page(vec![theirs("1", r#"{"a":1}"#, "1")], "c1", false);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: None });
    for _ in 0..2 {
        bench.page(vec![theirs("1", r#"{"a":9}"#, "3")], "c2", false);
    }
    bench.fetched(Ok(Some(theirs("1", r#"{"a":8}"#, "2"))));
    let conflict = bench.conflict();
    assert_eq!((conflict.why, conflict.remote), (Why::Fields, Some(theirs("1", r#"{"a":9}"#, "3"))));
}

#[test]
fn credentials_are_asked_for_when_the_reading_of_a_single_record_is_refused() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":1}"#, "1")]);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.session(DRAINED, Directions::PushOnly);
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: None });
    bench.fetched(Err(Failure::new(FailureKind::Unauthenticated, Delivery::Answered, "401")));
    assert_eq!((bench.refreshes, bench.counts().conflict), (1, 1));
}

#[test]
fn a_conflict_whose_record_could_not_be_read_is_read_in_the_next_run_also_after_a_restart() {
    for restarts in [false, true] {
        let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":1,"b":1}"#, "1")]);
        bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
        bench.session(DRAINED, Directions::PushOnly);
        let batch = bench.last_sent();
        bench.outcome(&batch, &Outcome::Conflict { remote: None });
        bench.fetched(Err(Failure::new(FailureKind::Unreachable, Delivery::NotSent, "no route")));
        assert_eq!(bench.reports.len(), 2, "the run is over");
        if restarts {
            bench.crash();
        }
        bench.session(DRAINED, Directions::PushOnly);
        assert_eq!(bench.fetches.len(), 1, "restarts: {restarts}");
        bench.fetched(Ok(Some(theirs("1", r#"{"a":1,"b":9}"#, "2"))));
        assert!(bench.last_payload().contains(r#""base_version":"2","fields":{"a":2}"#));
    }
}

#[test]
fn records_of_conflicts_are_read_a_few_at_a_time_while_sending_is_allowed_and_only_by_a_run_that_sends() {
    let ids = ["1", "2", "3"];
    let mut bench = Bench::having_read(ids.map(|id| theirs(id, r#"{"a":1}"#, "1")).into());
    for id in ids {
        bench.enqueue(Change::update("note", id).set("a", 2)).unwrap();
    }
    bench.session(DRAINED, Directions::PushOnly);
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: None });
    let most = Config::default().push.calls_max;
    assert_eq!(bench.fetches.len(), most, "as many as calls may be under way");
    let calm = Failure::new(FailureKind::RateLimited, Delivery::Answered, "429");
    bench.fetched(Err(calm.retry_after(Some(Duration::from_secs(60)))));
    assert_eq!(bench.fetches.len(), most - 1, "the backend has asked for calm");
    bench.step(|step, _| step.stop_session());
    bench.fetches.clear();
    bench.sync();
    assert!(bench.fetches.is_empty(), "and gets it from a fresh wish too");
    bench.step(|step, _| step.stop_session());
    bench.pass(Duration::from_secs(3600));
    bench.session(DRAINED, Directions::PullOnly);
    assert!(bench.fetches.is_empty(), "a conflict is the business of sending");
    bench.page(Vec::new(), "c2", false);
    bench.session(DRAINED, Directions::PushOnly);
    assert_eq!(bench.fetches.len(), most);
    for told in 1..=ids.len() {
        let (_, key) = bench.fetches.last().cloned().unwrap();
        bench.fetched(Ok(Some(theirs(&key.entity_id, r#"{"a":1,"b":9}"#, "2"))));
        assert_eq!(bench.counts().conflict, (ids.len() - told) as u64);
    }
}

/// How long it takes to read so many changes in pages while 1,000 changes of the app cannot be sent.
fn read_while_blocked(changes: usize) -> Duration {
    const PAGE: usize = 1000;
    let push = PushConfig { batch_tasks: 500, ..PushConfig::default() };
    let mut bench = Bench::of(Config { push, ..Config::default() }, with_feed());
    for id in 0..1000 {
        bench.enqueue(Change::create("note", format!("ours{id}")).set("a", "ours")).unwrap();
    }
    bench.sync();
    for batch in bench.sent.clone() {
        bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    }
    let sent = bench.sent.len();
    let began = Instant::now();
    for page in 0..changes / PAGE {
        let range = page * PAGE..(page + 1) * PAGE;
        let notes = range.map(|id| theirs(&format!("{id:06}"), r#"{"a":"theirs"}"#, "1")).collect();
        bench.page(notes, &format!("{page}"), (page + 1) * PAGE < changes);
        assert_eq!(
            bench.view(&format!("{:06}", page * PAGE)),
            r#"{"a":"theirs"}"#,
            "reads are fresh at once"
        );
    }
    let took = began.elapsed();
    assert_eq!(bench.sent.len(), sent);
    assert_eq!(bench.counts().pending, 1000);
    for id in [0, 499, 999] {
        assert_eq!(bench.view(&format!("ours{id}")), r#"{"a":"ours"}"#);
    }
    assert_eq!(bench.position().unwrap().cursor, Some(format!("{}", changes / PAGE - 1).as_str().into()));
    took
}

#[test]
fn a_long_reading_is_fresh_page_by_page_while_sending_is_blocked() {
    let small = read_while_blocked(20_000);
    let large = read_while_blocked(100_000);
    // Five times as much; quadratic would be twenty-five times. A machine under load gets some room.
    assert!(large < small * 15 + Duration::from_millis(500), "{small:?} for 20,000, {large:?} for 100,000");
}

#[test]
fn versions_of_the_feed_are_opaque() {
    let mut bench = Bench::having_read(vec![theirs("1", r#"{"a":1}"#, "9")]);
    bench.sync();
    bench.page(vec![theirs("1", r#"{"a":2}"#, "10-older-looking")], "c2", false);
    assert_eq!(bench.entity("1").unwrap().base.unwrap().version, Some(Version("10-older-looking".into())));
    assert_eq!(bench.view("1"), r#"{"a":2}"#);
    bench.enqueue(Change::update("note", "1").set("a", 3)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &applied("0"));
    assert_eq!(bench.entity("1").unwrap().base.unwrap().version, Some(Version("0".into())));
}
