//! Lanes are independent, and what a dead letter holds up is the app's to say (G4, G5).

use super::{all_sent, answer_each, ended, id, ids, modelled, of_type, rejected, task};
use crate::bench::{Bench, applied};
use landfall_core::change::Change;
use landfall_core::explain::{Live, Wait, explain};
use landfall_core::failure::FailureKind;
use landfall_core::machine::{Receipt, Scope};
use landfall_core::model::{Model, TypeModel, WhenDead};
use landfall_core::store::Store;
use landfall_core::task::{StateKind, TaskState, Verdict};
use landfall_core::time::Timestamp;

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
