//! Dead letters that later changes have passed: what is seen of them, and who goes first when one is taken up again.

use super::{answer_each, ended, id, ids, rejected, task};
use crate::bench::{Bench, DRAINED, applied, theirs};
use landfall_core::adapter::{Applied, EffectClass, Outcome};
use landfall_core::change::Change;
use landfall_core::config::{Config, ConflictConfig};
use landfall_core::conflict::Resolution;
use landfall_core::entity::RemoteEntity;
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::machine::{Directions, Scope};
use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::model::{Model, WhenDead};
use landfall_core::task::{TaskState, Verdict};
use std::time::Duration;

/// Dead letters hold up nobody. The backend has the notes 1 and 2 at version 1.
fn passing(strategy: Strategy) -> Bench {
    let model = Model { when_dead: WhenDead::Skip, ..Model::default() };
    let conflicts = ConflictConfig { rules: Rules::new(strategy), ..ConflictConfig::default() };
    let mut bench = Bench::with(Config { model, conflicts, ..Config::default() }, EffectClass::OneEffect);
    for id in ["1", "2"] {
        bench.hear(theirs(id, r#"{"a":1,"b":1}"#, "1"));
    }
    bench
}

/// Sends what can be sent now, and the backend refuses it.
fn refused(bench: &mut Bench) {
    bench.session(DRAINED, Directions::PushOnly);
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
}

#[test]
fn what_has_passed_a_dead_letter_comes_to_lie_under_it() {
    let mut bench = passing(Strategy::FieldMerge);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    refused(&mut bench);
    bench.enqueue(Change::update("note", "1").set("a", 3).set("b", 3)).unwrap();
    assert_eq!(bench.view("1"), r#"{"a":3,"b":3}"#);
    bench.session(DRAINED, Directions::PushOnly);
    let batch = bench.last_sent();
    bench.apply(&batch, "2");
    assert_eq!(bench.view("1"), r#"{"a":2,"b":3}"#, "what the letter would make of it if it went now");
}

/// A letter of unknown fate has taken effect, and so has what has passed it. The backend knows the letter again.
fn confirmed_late(
    mut bench: Bench,
    letter: Change,
    later: Change,
    heard: &[RemoteEntity],
    applied: Applied,
) -> Bench {
    let receipt = bench.enqueue(letter.at_most_once()).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.enqueue(later).unwrap();
    bench.wait(Duration::from_secs(3600));
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "3");
    bench.step(|step, tx| step.requeue(tx, id(&receipt)).unwrap());
    bench.sync();
    let again = bench.last_sent();
    assert_eq!(again.tasks[0].task_id, id(&receipt));
    heard.iter().for_each(|remote| bench.hear(remote.clone()));
    bench.outcome(&again, &Outcome::Duplicate(applied));
    assert_eq!(ended(&mut bench, id(&receipt)).unwrap().verdict, Verdict::Duplicate);
    assert_eq!(bench.counts().total(), 0);
    bench
}

#[test]
fn a_late_confirmation_of_a_letter_that_was_passed_brings_nothing_back() {
    let newer = theirs("1", r#"{"a":3,"b":7}"#, "4");
    for (heard, version, view) in
        [(&[][..], "3", r#"{"a":3,"b":1}"#), (&[newer.clone()][..], "4", r#"{"a":3,"b":7}"#)]
    {
        let letter = Change::update("note", "1").set("a", 2);
        let later = Change::update("note", "1").set("a", 3);
        let applied = Applied { version: Some("2".into()), ..Applied::default() };
        let mut bench = confirmed_late(passing(Strategy::FieldMerge), letter, later, heard, applied);
        assert_eq!(bench.view("1"), view);
        assert_eq!(bench.entity("1").unwrap().base.unwrap().version, Some(version.into()));
    }
}

#[test]
fn a_late_confirmation_that_names_the_record_brings_what_was_heard_under_that_name() {
    let letter = Change::upsert("note", "new").set("a", 2);
    let later = Change::update("note", "new").set("b", 3);
    let heard = [theirs("srv", r#"{"a":2,"b":3,"c":7}"#, "4")];
    let applied = Applied { version: Some("2".into()), entity_id: Some("srv".into()), ..Applied::default() };
    let mut bench = confirmed_late(passing(Strategy::FieldMerge), letter, later, &heard, applied);
    assert_eq!((bench.view("new"), bench.view("srv")), (r#"{"a":2,"b":3,"c":7}"#.into(), "nothing".into()));
}

#[test]
fn a_letter_sent_again_names_its_record_as_its_bytes_do() {
    let mut bench = passing(Strategy::FieldMerge);
    let letter = bench.enqueue(Change::upsert("note", "new").set("a", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Forbidden, Delivery::Answered);
    bench.enqueue(Change::upsert("note", "new").set("b", 3)).unwrap();
    bench.sync();
    let passing = bench.last_sent();
    let named = Applied { version: Some("1".into()), entity_id: Some("srv".into()), fields: None };
    bench.outcome(&passing, &Outcome::Applied(named));
    bench.step(|step, tx| step.requeue(tx, id(&letter)).unwrap());
    bench.sync();
    let again = bench.last_sent();
    assert_eq!(again.tasks[0].payload, batch.tasks[0].payload);
    assert_eq!(ids(&again), ["new"], "whatever an adapter makes of it must be the same");
    bench.enqueue(Change::update("note", "new").set("c", 4)).unwrap();
    bench.apply(&again, "2");
    assert_eq!(ids(&bench.last_sent()), ["srv"]);
}

#[test]
fn a_letter_of_unknown_fate_is_still_seen_when_what_has_passed_it_meets_another_state() {
    let mut bench = passing(Strategy::FieldMerge);
    bench.enqueue(Change::update("note", "1").set("a", 2).at_most_once()).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.enqueue(Change::update("note", "1").set("b", 2)).unwrap();
    bench.wait(Duration::from_secs(3600));
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: Some(theirs("1", r#"{"a":1,"b":9,"c":9}"#, "2")) });
    assert_eq!(bench.view("1"), r#"{"a":2,"b":2,"c":9}"#);
    assert!(bench.last_payload().contains(r#""base_version":"2","fields":{"b":2}"#));
}

#[test]
fn a_letter_taken_up_again_goes_as_soon_as_what_has_passed_it_is_sent_back() {
    for (strategy, waits) in [(Strategy::FieldMerge, 0), (Strategy::Ask, 1)] {
        let mut bench = passing(strategy);
        let letter = bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
        refused(&mut bench);
        bench.enqueue(Change::update("note", "1").set("b", 2)).unwrap();
        bench.sync();
        let passing = bench.last_sent();
        let again = bench.step(|step, tx| step.requeue(tx, id(&letter)).unwrap());
        assert_eq!(bench.last_sent().call, passing.call, "it waits for what has passed it");
        let remote = Some(theirs("1", r#"{"a":1,"b":9}"#, "2"));
        bench.outcome(&passing, &Outcome::Conflict { remote });
        assert_eq!(bench.counts().conflict, waits);
        let batch = bench.last_sent();
        assert_eq!((batch.tasks.len(), batch.tasks[0].task_id), (1, again));
        assert!(batch.tasks[0].payload.contains(r#""base_version":"2","fields":{"a":2}"#));
        bench.apply(&batch, "3");
        assert_eq!(bench.view("1"), r#"{"a":2,"b":2}"#);
        assert_eq!(bench.sent.len(), if waits == 0 { 4 } else { 3 });
    }
}

#[test]
fn a_letter_taken_up_again_goes_before_a_group_that_has_passed_it_and_begins_anew() {
    let mut bench = passing(Strategy::FieldMerge);
    let letter = bench.enqueue(Change::update("note", "2").set("a", 2)).unwrap();
    refused(&mut bench);
    bench.step(|step, tx| {
        for id in ["2", "1"] {
            step.enqueue(tx, Change::update("note", id).set("b", 2).group("g")).unwrap();
        }
    });
    bench.sync();
    let group = bench.last_sent();
    assert_eq!(ids(&group), ["2", "1"]);
    bench.step(|step, tx| step.requeue(tx, id(&letter)).unwrap());
    assert_eq!(bench.last_sent().call, group.call);
    answer_each(&mut bench, &group, |id| match id {
        "1" => Outcome::Conflict { remote: Some(theirs("1", r#"{"a":7,"b":1}"#, "2")) },
        _ => Outcome::Retry { after: None, reason: "group_aborted".into() },
    });
    let batch = bench.last_sent();
    assert_eq!(ids(&batch), ["2"]);
    assert!(batch.tasks[0].payload.contains(r#""fields":{"a":2}"#));
    bench.apply(&batch, "2");
    bench.wait(Duration::from_secs(3600));
    let group = bench.last_sent();
    assert_eq!(ids(&group), ["2", "1"]);
    bench.outcome(&group, &applied("3"));
    assert_eq!(bench.counts().total(), 0);
}

#[test]
fn a_letter_that_becomes_a_conflict_holds_up_what_could_have_passed_it() {
    for lane in [None, Some("l")] {
        let mut bench = passing(Strategy::Ask);
        // The lane goes through two records, else the line is that of the record.
        let later = if lane.is_some() { "2" } else { "1" };
        let change = |id: &str| Change::update("note", id).set(if id == later { "b" } else { "a" }, 2);
        let on = |change: Change| match lane {
            Some(lane) => change.lane(lane),
            None => change,
        };
        let letter = bench.enqueue(on(Change::update("note", "1").set("a", 2))).unwrap();
        refused(&mut bench);
        bench.step(|step, tx| step.pause(tx, &Scope::All).unwrap());
        let behind = bench.enqueue(on(change(later))).unwrap();
        assert!(task(&mut bench, id(&behind)).unwrap().claim_at.is_some(), "it could go past the letter");
        bench.hear(theirs("1", r#"{"a":9,"b":1}"#, "2"));
        assert_eq!(task(&mut bench, id(&letter)).unwrap().state, TaskState::Conflict);
        bench.step(|step, tx| step.resume(tx, &Scope::All).unwrap());
        bench.sync();
        assert_eq!(bench.sent.len(), 1, "{lane:?}");
        let conflict = bench.inbox().remove(0);
        bench.resolve(&conflict, &Resolution::KeepLocal).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        assert!(batch.tasks[0].payload.contains(r#""fields":{"a":2}"#), "{lane:?}");
        bench.apply(&batch, "3");
        assert_eq!(bench.last_sent().tasks[0].task_id, id(&behind), "{lane:?}");
    }
}

/// One of the group has met a conflict and begins anew, another one waits for a second try. Then a letter on the record of
/// that one is taken up again.
#[test]
fn a_group_waits_for_a_letter_of_one_of_its_records_without_asking_again_and_again() {
    let mut bench = passing(Strategy::FieldMerge);
    let letter = bench.enqueue(Change::update("note", "2").set("a", 2)).unwrap();
    refused(&mut bench);
    bench.step(|step, tx| {
        for id in ["1", "2"] {
            step.enqueue(tx, Change::update("note", id).set("b", 2).group("g")).unwrap();
        }
    });
    bench.sync();
    let group = bench.last_sent();
    answer_each(&mut bench, &group, |id| match id {
        "1" => Outcome::Conflict { remote: Some(theirs("1", r#"{"a":7,"b":1}"#, "2")) },
        _ => Outcome::Retry { after: None, reason: "group_aborted".into() },
    });
    bench.step(|step, tx| step.requeue(tx, id(&letter)).unwrap());
    bench.pass(Duration::from_secs(3600));
    bench.sync();
    let batch = bench.last_sent();
    assert!(batch.tasks.len() == 1 && batch.tasks[0].payload.contains(r#""fields":{"a":2}"#), "{batch:?}");
    assert!(bench.machine.next_wakeup().is_none_or(|due| due.0 > bench.mono_ms), "it waits for an answer");
    bench.apply(&batch, "2");
    let group = bench.last_sent();
    assert_eq!(ids(&group), ["1", "2"]);
    bench.outcome(&group, &applied("3"));
    assert_eq!(bench.counts().total(), 0);
}
