//! Changes that wait while their record moves on, again and again: each is laid anew over what there is now, in its place.
//!
//! What a single meeting comes to is in `conflicts.rs`; here are the changes behind it, and what comes after it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use bench::{Bench, body, gone, note, theirs};
use landfall_core::adapter::{Applied, EffectClass, Outcome};
use landfall_core::change::Change;
use landfall_core::config::{Config, ConflictConfig};
use landfall_core::conflict::{Choice, Found, Resolution, Why};
use landfall_core::entity::RemoteEntity;
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::machine::Enqueued;
use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::task::Verdict;
use landfall_core::value::Fields;

/// The backend has note 1 like this at version 1, and this device knows it whole.
fn knowing(strategy: Strategy, json: &str) -> Bench {
    let mut bench = Bench::ruled(Rules::new(strategy));
    bench.hear(theirs("1", json, "1"));
    bench
}

/// The backend answers what was sent last with what it has instead.
fn sent_back(bench: &mut Bench, remote: RemoteEntity) {
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: Some(remote) });
}

#[test]
fn an_edit_behind_which_the_record_was_deleted_here_has_nothing_to_fork() {
    let mut bench = knowing(Strategy::Fork, r#"{"a":"base","b":1}"#);
    let edit = bench.enqueue(Change::update("note", "1").set("a", "ours")).unwrap();
    bench.sync();
    bench.enqueue(Change::delete("note", "1")).unwrap();
    sent_back(&mut bench, theirs("1", r#"{"a":"theirs","b":1}"#, "2"));
    assert_eq!(bench.verdict(edit), Some(Verdict::ResolvedToRemote));
    assert_eq!(bench.view("1"), r#"{"a":"theirs","b":1}"#, "the deletion has met an edit there");
    assert_eq!((bench.sent.len(), bench.counts().total()), (1, 0), "nothing of ours is left to send");
    let mut why: Vec<_> = bench.conflicts().into_iter().map(|conflict| conflict.why).collect();
    why.reverse();
    assert_eq!(why, [Why::Fields, Why::DeletedHereEditedThere], "both are on record");
    assert!(bench.inbox().is_empty());
}

#[test]
fn an_edit_that_made_a_deleted_record_anew_does_not_overwrite_it_when_it_lives_after_all() {
    let mut bench = knowing(Strategy::FieldMerge, r#"{"a":1,"b":1}"#);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.sync();
    sent_back(&mut bench, gone("1", "2"));
    assert!(
        bench.last_payload().contains(r#""operation":"replace","base_version":"2","fields":{"a":2,"b":1}"#)
    );
    sent_back(&mut bench, theirs("1", r#"{"a":1,"b":7,"c":7}"#, "3"));
    assert_eq!(bench.view("1"), r#"{"a":2,"b":7,"c":7}"#);
    let sent = bench.last_payload();
    assert!(sent.contains(r#""base_version":"3","fields":{"a":2}"#), "only what the user touched: {sent}");
    assert_eq!(bench.conflicts().len(), 1, "nobody else has touched that");
}

#[test]
fn a_backend_without_versions_overwrites_no_edit_unseen() {
    let mut bench = Bench::ruled(Rules::new(Strategy::Ask));
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Applied(Applied::default()));
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.hear(RemoteEntity::new(note("1"), body(r#"{"a":9,"b":1}"#), None));
    let conflict = bench.conflict();
    assert!(conflict.is_open());
    assert_eq!(
        (conflict.fields[0].local.clone(), conflict.fields[0].remote.clone()),
        (Some(2.into()), Some(9.into()))
    );
    assert_eq!(bench.view("1"), r#"{"a":2,"b":1}"#);
}

#[test]
fn what_the_feed_brings_is_no_further_round_of_a_quarrel() {
    let conflicts = ConflictConfig { rounds_max: 2, ..ConflictConfig::default() };
    let mut bench = Bench::with(Config { conflicts, ..Config::default() }, EffectClass::OneEffect);
    bench.hear(theirs("1", r#"{"a":0}"#, "1"));
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.sync();
    for round in 2..=3 {
        sent_back(&mut bench, theirs("1", &format!(r#"{{"a":{}}}"#, round * 10), &round.to_string()));
    }
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    bench.hear(theirs("1", r#"{"a":40}"#, "4"));
    assert!(bench.inbox().is_empty(), "the backend has not sent it back: the rules decide");
    assert_eq!(bench.conflicts()[0].found, Found::Pull);
    bench.sync();
    assert!(bench.last_payload().contains(r#""base_version":"4","fields":{"a":1}"#));
    sent_back(&mut bench, theirs("1", r#"{"a":50}"#, "5"));
    assert_eq!(bench.inbox()[0].why, Why::TooManyRounds, "now it has");
}

#[test]
fn a_conflict_that_stays_as_it_was_is_not_told_again() {
    let mut bench = knowing(Strategy::Ask, r#"{"a":0,"b":0}"#);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.hear(theirs("1", r#"{"a":9,"b":0}"#, "2"));
    let conflict = bench.conflict();
    let behind = bench.enqueue(Change::update("note", "1").set("b", 1)).unwrap();
    bench.step(|step, tx| step.cancel(tx, behind.task.unwrap()).unwrap());
    assert_eq!(bench.view("1"), r#"{"a":1,"b":0}"#);
    assert_eq!(bench.inbox(), [conflict]);
    let told = bench.events.iter().filter(|event| matches!(event, Event::Conflicted { .. }));
    assert_eq!(told.count(), 1);
    let met = bench.tasks()[0].history.last().and_then(|note| note.code.clone());
    assert_eq!(met.as_deref(), Some("conflict"), "its history says what it has met");
}

#[test]
fn a_conflict_behind_a_change_that_has_taken_effect_speaks_of_what_the_backend_has_then() {
    let mut bench = knowing(Strategy::Ask, r#"{"a":0,"b":0}"#);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.enqueue(Change::update("note", "1").set("b", 1).schema(2)).unwrap();
    bench.hear(theirs("1", r#"{"a":0,"b":9}"#, "2"));
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "3");
    assert_eq!(bench.conflict().remote, Some(theirs("1", r#"{"a":1,"b":9}"#, "3")));
}

#[test]
fn each_of_many_conflicts_of_one_record_stays_one_when_the_record_moves_on() {
    const CHANGES: u32 = 20;
    let all = |value: u8| {
        let fields: Vec<_> = (0..CHANGES).map(|n| format!(r#""f{n:02}":{value}"#)).collect();
        format!("{{{}}}", fields.join(","))
    };
    let mut bench = knowing(Strategy::Ask, &all(0));
    for n in 0..CHANGES {
        // Each of its own format of the payload, so that they stay apart.
        let change = Change::update("note", "1").set(format!("f{n:02}"), 1).schema(n + 1);
        bench.enqueue(change).unwrap();
    }
    bench.hear(theirs("1", &all(8), "2"));
    let names = |bench: &mut Bench| bench.inbox().into_iter().map(|conflict| conflict.id).collect::<Vec<_>>();
    let before = names(&mut bench);
    assert_eq!(before.len(), CHANGES as usize);
    bench.hear(theirs("1", &all(9), "3"));
    assert_eq!(names(&mut bench), before);
    assert!(bench.inbox().iter().all(|conflict| conflict.fields[0].remote == Some(9.into())));
    assert_eq!(bench.view("1"), all(1));
}

#[test]
fn a_fork_of_a_record_that_was_never_read_takes_along_what_is_behind_it_and_what_the_backend_has() {
    let mut bench = Bench::ruled(Rules::new(Strategy::Fork));
    bench.enqueue(Change::update("note", "1").set("a", "ours")).unwrap();
    bench.sync();
    for (n, field) in ["b", "c"].into_iter().enumerate() {
        // Two formats of the payload, so that they stay apart.
        bench.enqueue(Change::update("note", "1").set(field, "behind").schema(n as u32 + 1)).unwrap();
    }
    sent_back(&mut bench, theirs("1", r#"{"a":"theirs","c":"theirs","d":"theirs"}"#, "2"));
    assert_eq!(bench.view("1"), r#"{"a":"theirs","c":"theirs","d":"theirs"}"#);
    let apart = r#""operation":"create","fields":{"a":"ours","b":"behind","c":"behind","d":"theirs"}"#;
    assert!(bench.last_payload().contains(apart), "{}", bench.last_payload());
}

#[test]
fn a_fork_is_of_the_format_and_the_priority_of_what_it_was_made_of() {
    let mut bench = knowing(Strategy::Fork, r#"{"a":"base"}"#);
    bench.enqueue(Change::update("note", "1").set("a", "ours").schema(3).priority(7)).unwrap();
    bench.hear(theirs("1", r#"{"a":"theirs"}"#, "2"));
    let task = bench.tasks().remove(0);
    assert_eq!((task.schema, task.priority), (3, 7));
    assert_ne!(task.entity, note("1"));
}

#[test]
fn what_the_backend_tells_with_its_yes_is_seen_at_once_also_under_an_edit_that_waits() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.enqueue(Change::update("note", "1").set("b", 2)).unwrap();
    let fields = Some(Fields::from([("slug", "one")]));
    bench.outcome(&batch, &Outcome::Applied(Applied { version: Some("1".into()), fields, entity_id: None }));
    assert_eq!(bench.view("1"), r#"{"a":1,"b":2,"slug":"one"}"#);
}

#[test]
fn a_damaged_record_of_a_conflict_is_told_and_the_conflict_is_written_down_anew() {
    let mut bench = knowing(Strategy::Ask, r#"{"a":0}"#);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.hear(theirs("1", r#"{"a":8}"#, "2"));
    let damaged = bench.conflict().id;
    assert!(bench.store.damage_conflict(damaged));
    bench.hear(theirs("1", r#"{"a":9}"#, "3"));
    assert!(bench.events.iter().any(|event| matches!(event, Event::Damaged { .. })));
    let conflict = bench.conflict();
    assert!(conflict.id != damaged && conflict.is_open());
    bench.resolve(&conflict, &Resolution::KeepLocal).unwrap();
    bench.sync();
    assert!(bench.last_payload().contains(r#""base_version":"3","fields":{"a":1}"#));
}

#[test]
fn a_state_of_which_only_some_fields_were_known_is_completed_and_no_conflict() {
    for edited in [false, true] {
        let mut bench = Bench::ruled(Rules::new(Strategy::Ask));
        // An edit of a record that was never read.
        bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
        if edited {
            bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
        }
        bench.hear(theirs("1", r#"{"a":1,"b":5}"#, "1"));
        assert_eq!(bench.view("1"), if edited { r#"{"a":2,"b":5}"# } else { r#"{"a":1,"b":5}"# });
        assert!(bench.conflicts().is_empty());
        // From here on it is known whole.
        let back = bench.enqueue(Change::update("note", "1").set("b", 5)).unwrap();
        assert_eq!(back.outcome, if edited { Enqueued::Coalesced } else { Enqueued::NoChange });
    }
}

#[test]
fn what_an_edit_has_in_common_with_what_the_backend_has_by_then_is_not_sent() {
    let mut bench = knowing(Strategy::FieldMerge, r#"{"a":1,"b":1}"#);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.sync();
    bench.enqueue(Change::update("note", "1").set("a", 3).set("b", 2)).unwrap();
    let batch = bench.last_sent();
    // It has made something else of it, and says so.
    let fields = Some(Fields::from([("a", 3)]));
    bench.outcome(&batch, &Outcome::Applied(Applied { version: Some("2".into()), fields, entity_id: None }));
    assert!(
        bench.last_payload().contains(r#""base_version":"2","fields":{"b":2}"#),
        "{}",
        bench.last_payload()
    );
}

/// Whatever the damaged change was, what the backend has told since is newer than what was put aside for its sake.
#[test]
fn a_state_that_was_put_aside_for_a_change_that_is_damaged_by_then_does_not_come_back() {
    let mut bench = knowing(Strategy::FieldMerge, r#"{"a":1}"#);
    let damaged = bench.enqueue(Change::update("note", "1").set("b", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    let later = bench.enqueue(Change::update("note", "1").set("c", 1)).unwrap();
    bench.hear(theirs("1", r#"{"a":5}"#, "2"));
    assert!(bench.entity("1").unwrap().staged.is_some());
    assert!(bench.store.damage(damaged.task.unwrap()));
    bench.hear(theirs("1", r#"{"a":6}"#, "3"));
    assert_eq!(bench.view("1"), r#"{"a":6}"#);
    bench.step(|step, tx| step.cancel(tx, later.task.unwrap()).unwrap());
    assert_eq!(bench.view("1"), r#"{"a":6}"#);
}

#[test]
fn a_field_that_only_one_side_has_may_be_chosen_too() {
    for (choice, view) in
        [(Choice::Local, r#"{"a":"ours","mine":1}"#), (Choice::Remote, r#"{"a":"ours","hers":1,"mine":1}"#)]
    {
        let mut bench = knowing(Strategy::Ask, r#"{"a":"base"}"#);
        bench.enqueue(Change::update("note", "1").set("a", "ours").set("mine", 1)).unwrap();
        bench.hear(theirs("1", r#"{"a":"theirs","hers":1}"#, "2"));
        let conflict = bench.conflict();
        let chosen = [("hers".to_owned(), choice), ("mine".to_owned(), Choice::Local)].into();
        bench.resolve(&conflict, &Resolution::Fields(chosen)).unwrap();
        assert_eq!(bench.view("1"), view);
    }
}
