//! Lanes are independent, and what a dead letter holds up is the app's to say (G4, G5).

use super::{all_sent, answer_each, ended, id, ids, modelled, of_type, rejected, task};
use crate::bench::{Bench, applied, theirs};
use crate::control::why;
use landfall_core::adapter::{EffectClass, Outcome};
use landfall_core::change::Change;
use landfall_core::config::{Config, ConflictConfig};
use landfall_core::explain::{Live, Wait, explain};
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::id::TaskId;
use landfall_core::machine::{Receipt, Scope};
use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::model::{Model, TypeModel, WhenDead};
use landfall_core::store::Store;
use landfall_core::task::{StateKind, TaskState, Verdict};
use landfall_core::time::Timestamp;
use std::time::Duration;

#[test]
fn five_hundred_lanes_and_one_poison_task_stops_only_its_own() {
    let mut bench = Bench::new();
    let mut poison = None;
    for lane in 0..500 {
        for step in 0..3 {
            let change =
                Change::create("note", format!("{lane}-{step}")).set("n", step).lane(format!("l{lane}"));
            let receipt = bench.enqueue(change).unwrap();
            if lane == 77 && step == 0 {
                poison = receipt.task;
            }
        }
    }
    bench.sync();
    while let Some(batch) = bench.sent.pop() {
        answer_each(&mut bench, &batch, |id| if id == "77-0" { rejected("bad") } else { applied("1") });
    }
    assert_eq!(bench.counts().total(), 3, "all that is left is the lane of the poison task");
    assert_eq!(bench.counts().dead, 1);
    let requests = bench.reports[0].requests;
    assert!(requests <= 8, "1,500 tasks in three rows went in {requests} requests");
    let dead = task(&mut bench, poison.unwrap()).unwrap();
    assert!(dead.frozen.unwrap().payload.contains("77-0"));
    let note = dead.history.last().unwrap();
    assert_eq!((note.kind, note.code.as_deref()), (FailureKind::Rejected, Some("bad")));
}

/// A dead letter in front, two more tasks behind it in a named lane, of other records.
fn lane_with_a_dead_letter(policy: WhenDead) -> (Bench, Vec<Receipt>) {
    let lanes = [("l".to_owned(), policy)].into();
    let mut bench = modelled(Model { lanes, ..Model::default() });
    let change = |id: &str| Change::create("note", id).set("n", 1).lane("l");
    let receipts: Vec<_> = ["a", "b", "c"].iter().map(|id| bench.enqueue(change(id)).unwrap()).collect();
    bench.sync();
    let batch = bench.last_sent();
    assert_eq!(ids(&batch), ["a"]);
    bench.outcome(&batch, &rejected("bad"));
    (bench, receipts)
}

#[test]
fn a_lane_that_blocks_waits_behind_its_dead_letter_and_says_so() {
    let (mut bench, receipts) = lane_with_a_dead_letter(WhenDead::Block);
    assert_eq!(all_sent(&bench), ["a"]);
    let tx = bench.store.begin().unwrap();
    let why = explain(&*tx, id(&receipts[2]), Timestamp(0), &Live::default()).unwrap().unwrap();
    let Wait::Lane { lane, blocker } = &why.waits_for[0] else { panic!("{why:?}") };
    assert_eq!((lane.as_str(), blocker.task, blocker.state), ("l", id(&receipts[0]), StateKind::Dead));
    drop(tx);
    bench.step(|step, tx| step.discard(tx, id(&receipts[0])).unwrap());
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["b"]);
}

#[test]
fn a_lane_that_skips_goes_past_its_dead_letter() {
    for policy in [WhenDead::Skip, WhenDead::SkipIfIndependent] {
        let (mut bench, receipts) = lane_with_a_dead_letter(policy);
        let batch = bench.last_sent();
        assert_eq!(ids(&batch), ["b"], "{policy:?}");
        bench.apply(&batch, "1");
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
        assert_eq!(bench.counts().total(), 1);
        assert_eq!(bench.counts().dead, 1);
        assert_eq!(ended(&mut bench, id(&receipts[2])).unwrap().verdict, Verdict::Applied);
    }
}

#[test]
fn a_letter_taken_up_again_waits_for_whoever_has_passed_it() {
    let (mut bench, receipts) = lane_with_a_dead_letter(WhenDead::Skip);
    let passing = bench.last_sent();
    let again = bench.step(|step, tx| step.requeue(tx, id(&receipts[0])).unwrap());
    bench.run();
    assert_eq!(bench.sent.len(), 2, "two tasks of one lane are never under way together");
    bench.apply(&passing, "1");
    assert_eq!(ids(&bench.last_sent()), ["a"], "it was enqueued before the third");
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(ended(&mut bench, again).unwrap().verdict, Verdict::Applied);
    assert_eq!(ended(&mut bench, id(&receipts[0])).unwrap().became, Some(again));
    assert_eq!(ids(&bench.last_sent()), ["c"]);
}

#[test]
fn a_letter_taken_up_again_goes_before_what_could_have_been_claimed() {
    let lanes = [("l".to_owned(), WhenDead::Skip)].into();
    let mut bench = modelled(Model { lanes, ..Model::default() });
    let dead = bench.enqueue(Change::create("note", "a").set("n", 1).lane("l")).unwrap();
    bench.enqueue(Change::create("note", "b").set("n", 1).lane("l")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.step(|step, tx| step.pause(tx, &Scope::All).unwrap());
    bench.outcome(&batch, &rejected("bad"));
    assert!(bench.tasks()[1].claim_at.is_some(), "the second could go, but all is paused");
    bench.step(|step, tx| step.requeue(tx, id(&dead)).unwrap());
    bench.step(|step, tx| step.resume(tx, &Scope::All).unwrap());
    bench.sync();
    assert_eq!(all_sent(&bench), ["a", "a"]);
}

#[test]
fn an_independent_edit_of_the_same_record_goes_on_and_one_that_builds_on_the_letter_waits() {
    let skip = TypeModel { when_dead: Some(WhenDead::SkipIfIndependent), ..TypeModel::default() };
    let mut bench = modelled(of_type("note", skip));
    bench.enqueue(Change::create("note", "1").set("a", 1).set("b", 1).set("c", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    let dead = bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let other = bench.enqueue(Change::update("note", "1").set("b", 2)).unwrap();
    bench.outcome(&batch, &rejected("bad"));
    assert!(bench.last_payload().contains(r#""fields":{"b":2}"#), "{}", bench.last_payload());
    let batch = bench.last_sent();
    bench.apply(&batch, "2");
    assert_eq!(ended(&mut bench, id(&other)).unwrap().verdict, Verdict::Applied);

    let same = bench.enqueue(Change::update("note", "1").set("a", 3).lane("own")).unwrap();
    let third = bench.enqueue(Change::update("note", "1").set("c", 3)).unwrap();
    bench.run();
    assert!(task(&mut bench, id(&same)).unwrap().claim_at.is_none(), "it changes what the letter changes");
    assert!(task(&mut bench, id(&third)).unwrap().claim_at.is_none(), "order within a record stays");
    assert_eq!(bench.view("1"), r#"{"a":3,"b":2,"c":3}"#);
    bench.step(|step, tx| step.discard(tx, id(&dead)).unwrap());
    bench.sync();
    assert!(bench.last_payload().contains(r#""fields":{"a":3}"#), "{}", bench.last_payload());
}

#[test]
fn after_a_refused_create_an_edit_is_not_independent() {
    let skip = TypeModel { when_dead: Some(WhenDead::SkipIfIndependent), ..TypeModel::default() };
    let mut bench = modelled(of_type("note", skip));
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.enqueue(Change::update("note", "1").set("b", 2)).unwrap();
    bench.outcome(&batch, &rejected("bad"));
    bench.run();
    assert_eq!(bench.sent.len(), 1);
    assert_eq!(bench.counts().pending, 1);
}

#[test]
fn what_comes_in_is_shown_although_a_letter_waits_for_a_decision() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1).set("b", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    let dead = bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.hear(crate::bench::theirs("1", r#"{"a":1,"b":5}"#, "2"));
    bench.outcome(&batch, &rejected("bad"));
    assert_eq!(bench.view("1"), r#"{"a":2,"b":5}"#);
    bench.hear(crate::bench::theirs("1", r#"{"a":1,"b":6}"#, "3"));
    assert_eq!(bench.view("1"), r#"{"a":2,"b":6}"#);
    bench.step(|step, tx| step.requeue(tx, id(&dead)).unwrap());
    bench.sync();
    assert!(bench.last_payload().contains(r#""base_version":"3""#));
    assert!(bench.last_payload().contains(r#""fields":{"a":2}"#));
}

#[test]
fn a_letter_whose_field_the_backend_has_changed_does_not_overwrite_it_unseen() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    let dead = bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    bench.hear(crate::bench::theirs("1", r#"{"a":9}"#, "2"));
    let conflict = bench.conflict();
    assert_eq!(conflict.task_id, id(&dead));
    assert_eq!(conflict.fields.len(), 1, "what the rule set aside is on record");
    assert!(!conflict.is_open(), "a rule has decided: nobody is asked");
    assert!(matches!(task(&mut bench, id(&dead)).unwrap().state, TaskState::Dead { .. }));
}

#[test]
fn two_letters_taken_up_again_wait_both_for_what_has_passed_them() {
    let skip = TypeModel { when_dead: Some(WhenDead::Skip), ..TypeModel::default() };
    let mut bench = modelled(of_type("note", skip));
    bench.enqueue(Change::create("note", "1").set("a", 1).set("b", 1).set("c", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    let mut letters = Vec::new();
    for field in ["a", "b", "c"] {
        letters.push(bench.enqueue(Change::update("note", "1").set(field, 2)).unwrap());
        bench.sync();
        let batch = bench.last_sent();
        if field != "c" {
            bench.outcome(&batch, &rejected("bad"));
        }
    }
    let passing = bench.last_sent();
    for letter in &letters[..2] {
        bench.step(|step, tx| step.requeue(tx, id(letter)).unwrap());
        bench.sync();
    }
    assert_eq!(bench.sent.len(), 4, "two changes of one record are never under way together");
    bench.apply(&passing, "2");
    for (field, version) in [("a", "3"), ("b", "4")] {
        assert!(bench.last_payload().contains(&format!(r#""fields":{{"{field}":2}}"#)), "in their old order");
        let batch = bench.last_sent();
        bench.apply(&batch, version);
    }
    assert_eq!(bench.counts().total(), 0);
}

#[test]
fn a_letter_taken_up_again_does_not_wait_for_the_decision_about_one_behind_it() {
    let lanes = [("l".to_owned(), WhenDead::Skip)].into();
    let conflicts = ConflictConfig { rules: Rules::new(Strategy::Ask), ..ConflictConfig::default() };
    let config = Config { model: Model { lanes, ..Model::default() }, conflicts, ..Config::default() };
    let mut bench = Bench::with(config, EffectClass::OneEffect);
    bench.hear(theirs("b", r#"{"n":0}"#, "1"));
    let letter = bench.enqueue(Change::create("note", "a").set("n", 1).lane("l")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    bench.step(|step, tx| {
        step.enqueue(tx, Change::update("note", "b").set("n", 1).lane("l").group("g")).unwrap();
        step.enqueue(tx, Change::create("note", "c").set("n", 1).group("g")).unwrap();
    });
    bench.sync();
    let batch = bench.last_sent();
    answer_each(&mut bench, &batch, |id| match id {
        "b" => Outcome::Conflict { remote: Some(theirs("b", r#"{"n":9}"#, "2")) },
        _ => Outcome::Retry { after: None, reason: "group_aborted".into() },
    });
    assert_eq!(bench.inbox().len(), 1);
    bench.step(|step, tx| step.requeue(tx, id(&letter)).unwrap());
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["a"]);
}

/// A letter is taken up again after a later change of its record or its lane has left: that is sent again first.
#[test]
fn who_has_passed_a_letter_is_sent_again_before_it() {
    let at_work = |one_record: bool, large: bool| {
        let skip = TypeModel { when_dead: Some(WhenDead::Skip), ..TypeModel::default() };
        let lanes = [("l".to_owned(), WhenDead::Skip)].into();
        let mut bench = modelled(Model { lanes, ..of_type("note", skip) });
        bench.hear(theirs("1", r#"{"a":1,"b":1}"#, "1"));
        bench.hear(theirs("2", r#"{"a":1,"b":1}"#, "1"));
        let change = |id: &str, field: &str| match one_record {
            true => Change::update("note", "1").set(field, 2),
            false => Change::update("note", id).set(field, 2).lane("l"),
        };
        let letter = bench.enqueue(change("1", "a")).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        match large {
            true => bench.fail(&batch, FailureKind::TooLarge, Delivery::Answered),
            false => bench.outcome(&batch, &rejected("bad")),
        }
        let passing = bench.enqueue(change("2", "b")).unwrap();
        bench.sync();
        assert_eq!(bench.last_sent().tasks[0].task_id, id(&passing));
        (bench, id(&letter), id(&passing))
    };
    let busy = Outcome::Retry { after: Some(Duration::from_secs(60)), reason: "busy".into() };
    for (one_record, large, before) in
        [false, true].into_iter().flat_map(|one| [(one, false, false), (one, true, false), (one, true, true)])
    {
        let (mut bench, letter, passing) = at_work(one_record, large);
        let batch = bench.last_sent();
        if before {
            bench.outcome(&batch, &busy);
        }
        let again = bench.step(|step, tx| step.requeue(tx, letter).unwrap());
        bench.sync();
        assert_eq!(bench.sent.len(), 2, "{one_record} {large} {before}");
        assert_eq!(task(&mut bench, again).unwrap().state.kind(), StateKind::Pending);
        if !before {
            bench.outcome(&batch, &busy);
        }
        for next in [passing, again] {
            bench.wait(Duration::from_secs(3_600));
            bench.sync();
            let batch = bench.last_sent();
            assert_eq!(batch.tasks.len(), 1);
            assert_eq!(batch.tasks[0].task_id, next, "{one_record} {large} {before}");
            bench.apply(&batch, "2");
        }
        assert_eq!(bench.counts().total(), 0);
    }
}

/// One of a group was refused, so nothing of the group has taken effect: a letter that the group has passed does not wait
/// for it any more.
#[test]
fn a_letter_goes_before_a_group_that_begins_anew() {
    for one_record in [false, true] {
        let lanes = [("l".to_owned(), WhenDead::Skip)].into();
        let skip = TypeModel { when_dead: Some(WhenDead::Skip), ..TypeModel::default() };
        let mut bench = modelled(Model { lanes, ..of_type("note", skip) });
        for name in ["a", "b", "x"] {
            bench.hear(theirs(name, r#"{"m":0,"n":0}"#, "1"));
        }
        let change = |id: &str, field: &str| match one_record {
            true => Change::update("note", "a").set(field, 1),
            false => Change::update("note", id).set(field, 1).lane("l"),
        };
        let letter = bench.enqueue(change("x", "m")).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.outcome(&batch, &rejected("bad"));
        let (first, refused) = bench.step(|step, tx| {
            let first = step.enqueue(tx, change("a", "n").group("g")).unwrap();
            let second = Change::update("note", "b").set("n", 1).group("g");
            (first, step.enqueue(tx, second).unwrap())
        });
        bench.sync();
        let batch = bench.last_sent();
        assert_eq!(ids(&batch), ["a", "b"]);
        answer_each(&mut bench, &batch, |id| match id {
            "b" => rejected("bad"),
            _ => Outcome::Retry { after: None, reason: "group_aborted".into() },
        });
        bench.step(|step, tx| step.pause(tx, &Scope::All).unwrap());
        let again = bench.step(|step, tx| step.requeue(tx, id(&letter)).unwrap());
        bench.step(|step, tx| step.requeue(tx, id(&refused)).unwrap());
        bench.step(|step, tx| step.resume(tx, &Scope::All).unwrap());
        bench.pass(Duration::from_secs(3_600));
        bench.sync();
        let letter = bench.last_sent();
        assert_eq!((letter.tasks.len(), letter.tasks[0].task_id), (1, again), "{one_record}");
        // The other one turns out to change nothing: what is left of the group is as it was sent, and yet waits its turn.
        bench.hear(theirs("b", r#"{"m":0,"n":1}"#, "2"));
        assert_eq!(bench.tasks().len(), 2);
        bench.pass(Duration::from_secs(3_600));
        bench.sync();
        assert_eq!(bench.last_sent(), letter, "two of one line are never under way together");
        bench.apply(&letter, "2");
        bench.sync();
        assert_eq!(bench.last_sent().tasks[0].task_id, id(&first), "{one_record}");
    }
}

/// What was passed comes to lie on top again when what has passed it is confirmed: it may still be taken up again.
#[test]
fn a_confirmed_change_comes_to_lie_under_the_dead_letter_that_it_has_passed() {
    let mut bench = modelled(Model { when_dead: WhenDead::Skip, ..Model::default() });
    bench.hear(theirs("a", r#"{"n":0}"#, "1"));
    bench.enqueue(Change::update("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    bench.enqueue(Change::update("note", "a").set("n", 2)).unwrap();
    assert_eq!(bench.view("a"), r#"{"n":2}"#);
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "2");
    assert_eq!(bench.view("a"), r#"{"n":1}"#);
}

/// A dead letter that was passed is taken up again while the later one is under way.
#[test]
fn what_was_passed_waits_for_what_has_passed_it_and_never_the_other_way_round() {
    let mut bench = modelled(Model { when_dead: WhenDead::Skip, ..Model::default() });
    for (first, later) in [("a", "a"), ("b", "c")] {
        let dead = bench.enqueue(Change::update("note", first).set("n", 1).lane("l")).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.outcome(&batch, &rejected("bad"));
        let passes = bench.enqueue(Change::update("note", later).set("n", 2).lane("l")).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        assert_eq!(batch.tasks[0].task_id, id(&passes));
        bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
        let again = bench.step(|step, tx| step.requeue(tx, id(&dead)).unwrap());
        let names = |waits: Vec<Wait>, of: TaskId| {
            let is_it = |wait: &Wait| {
                matches!(wait,
                Wait::EarlierChange(blocker) | Wait::Lane { blocker, .. } if blocker.task == of)
            };
            waits.iter().filter(|wait| is_it(wait)).count()
        };
        let waits = why(&mut bench, again, &Live::default());
        assert_eq!(names(waits.clone(), id(&passes)), 1, "{first} {later}: {waits:?}");
        let waits = why(&mut bench, id(&passes), &Live::default());
        assert_eq!(names(waits.clone(), again), 0, "{first} {later}: {waits:?}");
        bench.pass(Duration::from_secs(3_600));
        bench.sync();
        // Whether it hears of that, or dies and another process takes over.
        for _ in 0..2 {
            assert_eq!(bench.last_sent().tasks[0].task_id, id(&passes), "{first} {later}");
            bench.crash();
            bench.sync();
        }
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
        let batch = bench.last_sent();
        assert_eq!(batch.tasks[0].task_id, again, "{first} {later}");
        bench.apply(&batch, "2");
    }
}

#[test]
fn a_letter_that_replaces_its_record_does_not_overwrite_what_came_in_meanwhile() {
    let mut bench = Bench::new();
    bench.hear(crate::bench::theirs("1", r#"{"a":1,"b":1}"#, "1"));
    let dead = bench.enqueue(Change::replace("note", "1").set("a", 2).set("b", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    bench.hear(crate::bench::theirs("1", r#"{"a":1,"b":9}"#, "2"));
    assert_eq!(bench.view("1"), r#"{"a":2,"b":9}"#);
    assert!(task(&mut bench, id(&dead)).unwrap().frozen.is_some(), "what was refused stays to be seen");
    bench.step(|step, tx| step.requeue(tx, id(&dead)).unwrap());
    bench.sync();
    assert!(
        bench.last_payload().contains(r#""base_version":"2","fields":{"a":2}"#),
        "{}",
        bench.last_payload()
    );
}
