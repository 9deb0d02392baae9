//! Dead letters: kept whole, with their history and the server's answer, until somebody decides (G2, G17).

use super::{ended, id, modelled, of_type, rejected, task};
use crate::bench::{Bench, applied, theirs};
use landfall_core::adapter::{EffectClass, Outcome, Rejection};
use landfall_core::change::{Change, Intent, Operation};
use landfall_core::config::{Config, RetryConfig};
use landfall_core::conflict::Resolution;
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::machine::TaskError;
use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::model::{REDACTED, TypeModel};
use landfall_core::task::{History, StateKind, TaskState, Verdict};
use landfall_core::value::Fields;
use std::time::Duration;

#[test]
fn a_dead_letter_has_its_payload_its_history_and_the_servers_answer() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("text", "mine")).unwrap();
    bench.sync();
    for _ in 0..3 {
        let batch = bench.last_sent();
        bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
        bench.wait(Duration::from_secs(3_600));
    }
    let batch = bench.last_sent();
    let answer = Some(r#"{"code":"too_long","field":"text"}"#.to_owned());
    bench.outcome(
        &batch,
        &Outcome::Rejected(Rejection { code: "too_long".into(), message: "no".into(), answer }),
    );
    let dead = task(&mut bench, id(&receipt)).unwrap();
    let kinds: Vec<_> = dead.history.notes().iter().map(|note| note.kind).collect();
    assert_eq!(
        kinds,
        [FailureKind::Transient, FailureKind::Transient, FailureKind::Transient, FailureKind::Rejected]
    );
    assert_eq!(dead.history.last().unwrap().answer.as_deref(), Some(r#"{"code":"too_long","field":"text"}"#));
    assert!(dead.frozen.unwrap().payload.contains("mine"));
    assert!(dead.history.notes().windows(2).all(|pair| pair[0].at <= pair[1].at));
}

#[test]
fn the_history_keeps_the_first_and_the_last_attempts() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    for n in 0..40 {
        let batch = bench.last_sent();
        let failure = Failure::new(FailureKind::Transient, Delivery::Unknown, n.to_string());
        bench.answer(&batch, Err(failure));
        bench.wait(Duration::from_secs(3_600));
    }
    let history = task(&mut bench, id(&receipt)).unwrap().history;
    let notes: Vec<_> = history.notes().iter().map(|note| note.message.as_str()).collect();
    assert_eq!(notes.len(), History::MAX);
    assert_eq!((notes[0], notes[1], *notes.last().unwrap()), ("0", "25", "39"));
}

#[test]
fn a_week_offline_is_one_note() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    for _ in 0..100 {
        bench.sync();
        let batch = bench.last_sent();
        bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
        bench.pass(Duration::from_secs(6_000));
    }
    let waits = task(&mut bench, id(&receipt)).unwrap();
    assert_eq!(waits.history.notes().len(), 1);
    assert_eq!(waits.attempts, 0);
}

#[test]
fn what_the_app_marks_as_sensitive_is_not_in_what_is_kept_of_an_answer() {
    let sensitive =
        TypeModel { sensitive: ["pin".to_owned(), "secret".to_owned()].into(), ..TypeModel::default() };
    let mut bench = modelled(of_type("card", sensitive));
    let change = Change::create("card", "a").set("pin", "77").set("secret", "line\none").set("name", "Ann");
    let receipt = bench.enqueue(change).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(
        &batch,
        &Outcome::Rejected(Rejection {
            code: "bad".into(),
            message: "pin 77 of Ann (card 1770) is wrong".into(),
            answer: Some(
                r#"{"value":"line\none","seen":"line
one","pin":77}"#
                    .into(),
            ),
        }),
    );
    let dead = task(&mut bench, id(&receipt)).unwrap();
    let note = dead.history.last().unwrap();
    assert_eq!(note.message, format!("pin {REDACTED} of Ann (card 1770) is wrong"));
    let answer = note.answer.as_ref().unwrap();
    assert!(!answer.contains("one") && !answer.contains("77"), "{answer}");
}

#[test]
fn a_refused_task_is_taken_up_again_under_a_new_key() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let refused = bench.last_sent();
    bench.outcome(&refused, &rejected("bad"));
    let next = bench.step(|step, tx| step.requeue(tx, id(&receipt)).unwrap());
    assert_ne!(next, id(&receipt));
    let entry = ended(&mut bench, id(&receipt)).unwrap();
    assert_eq!((entry.verdict, entry.became), (Verdict::Requeued, Some(next)));
    assert!(
        task(&mut bench, next).unwrap().history.last().is_some(),
        "what it met before is still to be seen"
    );
    bench.sync();
    let again = bench.last_sent();
    assert_ne!(again.tasks[0].key, refused.tasks[0].key, "the backend has an answer for the old key");
    bench.outcome(&again, &applied("1"));
    assert_eq!(bench.counts().total(), 0);
}

#[test]
fn an_edit_of_a_dead_letter_goes_out_with_its_own_key_and_the_app_sees_it() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", -1)).unwrap();
    bench.sync();
    let refused = bench.last_sent();
    bench.outcome(&refused, &rejected("negative"));
    let intent = Intent { fields: Fields::from([("n", 1)]), ..Intent::new(Operation::Create) };
    let wrong = Intent::new(Operation::Delete);
    bench.step(|step, tx| {
        assert_eq!(step.edit(tx, id(&receipt), wrong), Err(TaskError::OtherOperation("create")));
        step.edit(tx, id(&receipt), intent).unwrap();
    });
    assert_eq!(bench.view("a"), r#"{"n":1}"#);
    bench.sync();
    assert!(bench.last_payload().contains(r#""fields":{"n":1}"#));
    assert_ne!(bench.last_sent().tasks[0].key, refused.tasks[0].key);
}

#[test]
fn what_was_sent_is_never_edited() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    let intent = Intent { fields: Fields::from([("n", 2)]), ..Intent::new(Operation::Create) };
    let refused = bench.step(|step, tx| step.edit(tx, id(&receipt), intent));
    assert!(matches!(refused, Err(TaskError::WrongState { state: StateKind::Unknown, .. })), "{refused:?}");
}

#[test]
fn a_letter_given_up_leaves_through_the_journal_and_the_app_sees_its_record_without_it() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    let receipt = bench.enqueue(Change::update("note", "a").set("n", -1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("negative"));
    assert_eq!(bench.view("a"), r#"{"n":-1}"#);
    bench.step(|step, tx| step.discard(tx, id(&receipt)).unwrap());
    assert_eq!(bench.view("a"), r#"{"n":1}"#);
    let entry = ended(&mut bench, id(&receipt)).unwrap();
    assert_eq!(entry.verdict, Verdict::Discarded);
    assert!(entry.payload.contains("-1"));
    let again = bench.step(|step, tx| step.discard(tx, id(&receipt)));
    assert_eq!(again, Err(TaskError::Ended { task: id(&receipt), verdict: Verdict::Discarded }));
}

#[test]
fn edits_behind_a_create_that_is_given_up_are_kept_for_a_decision() {
    let mut bench = Bench::new();
    let create = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let edit = bench.enqueue(Change::update("note", "a").set("m", 2)).unwrap();
    bench.outcome(&batch, &rejected("bad"));
    bench.step(|step, tx| step.discard(tx, id(&create)).unwrap());
    bench.sync();
    assert_eq!(bench.sent.len(), 1, "there is no record that could be updated");
    assert!(matches!(
        task(&mut bench, id(&edit)).unwrap().state,
        TaskState::Dead { why: FailureKind::Orphaned }
    ));
}

#[test]
fn one_signal_says_that_somebody_is_needed() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    bench.step(|step, tx| step.requeue(tx, id(&receipt)).unwrap());
    let told: Vec<_> = bench
        .events
        .iter()
        .filter_map(|event| match event {
            Event::NeedsAttention { dead, conflicts } => Some((*dead, *conflicts)),
            _ => None,
        })
        .collect();
    assert_eq!(told, [(1, 0), (0, 0)]);
    // An app that starts while something waits is told too.
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    bench.events.clear();
    bench.crash();
    bench.step(|step, _| step.wake());
    assert!(bench.events.contains(&Event::NeedsAttention { dead: 1, conflicts: 0 }));
}

#[test]
fn a_letter_that_a_person_must_settle_against_a_newer_state_goes_to_the_inbox_with_its_history() {
    let mut bench = Bench::ruled(Rules::new(Strategy::Ask));
    bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    let receipt = bench.enqueue(Change::update("note", "a").set("n", 2)).unwrap();
    bench.sync();
    let refused = bench.last_sent();
    bench.outcome(&refused, &rejected("bad"));
    bench.hear(theirs("a", r#"{"n":9}"#, "2"));
    let waits = task(&mut bench, id(&receipt)).unwrap();
    assert_eq!(waits.state, TaskState::Conflict);
    assert!(waits.history.notes().iter().any(|note| note.code.as_deref() == Some("bad")));
    let conflict = bench.inbox().remove(0);
    bench.resolve(&conflict, &Resolution::KeepLocal).unwrap();
    bench.sync();
    let again = bench.last_sent();
    assert_ne!(again.tasks[0].key, refused.tasks[0].key);
    assert!(again.tasks[0].payload.contains(r#""base_version":"2","fields":{"n":2}"#));
}

#[test]
fn a_refusal_of_the_whole_request_leaves_no_verdict_under_the_key_so_a_retry_keeps_it() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let refused = bench.last_sent();
    bench.fail(&refused, FailureKind::Forbidden, Delivery::Answered);
    // A copy of the request may still arrive, and would be done now: only its own key can tell the two apart.
    let same = bench.step(|step, tx| step.requeue(tx, id(&receipt)).unwrap());
    assert_eq!(same, id(&receipt));
    bench.sync();
    let again = bench.last_sent();
    assert_eq!(
        (&again.tasks[0].payload, again.tasks[0].key),
        (&refused.tasks[0].payload, refused.tasks[0].key)
    );
    // Other content would be a second change beside it, if the copy is let in later.
    bench.fail(&again, FailureKind::Forbidden, Delivery::Answered);
    let intent = Intent { fields: Fields::from([("n", 2)]), ..Intent::new(Operation::Create) };
    let refused_edit = bench.step(|step, tx| step.edit(tx, id(&receipt), intent.clone()));
    assert!(matches!(refused_edit, Err(TaskError::WrongState { state: StateKind::Dead, .. })));
    // What is too large is so for ever: it can be made smaller, and goes under a key of its own.
    bench.step(|step, tx| step.requeue(tx, id(&receipt)).unwrap());
    bench.sync();
    let again = bench.last_sent();
    bench.fail(&again, FailureKind::TooLarge, Delivery::Answered);
    bench.step(|step, tx| step.edit(tx, id(&receipt), intent).unwrap());
    bench.sync();
    assert_ne!(bench.last_sent().tasks[0].key, refused.tasks[0].key);
}

#[test]
fn giving_up_a_change_of_unknown_fate_shows_what_the_backend_has() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    let receipt = bench.enqueue(Change::update("note", "a").set("n", 2).at_most_once()).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.hear(theirs("a", r#"{"n":2,"m":3}"#, "2"));
    assert_eq!(bench.view("a"), r#"{"n":2}"#, "it may hold the effect already, and waits");
    bench.step(|step, tx| step.discard(tx, id(&receipt)).unwrap());
    assert_eq!(bench.view("a"), r#"{"m":3,"n":2}"#);
    assert!(bench.entity("a").unwrap().staged.is_none());
}

/// A gateway's error page may repeat the request.
#[test]
fn what_the_app_marks_as_sensitive_is_in_no_reason_for_a_wait_either() {
    let sensitive = TypeModel { sensitive: ["secret".to_owned()].into(), ..TypeModel::default() };
    for kind in [FailureKind::Transient, FailureKind::RateLimited, FailureKind::Unauthenticated] {
        let mut bench = modelled(of_type("card", sensitive.clone()));
        bench.enqueue(Change::create("card", "a").set("secret", "hunter2")).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        let message = "upstream refused {\"secret\":\"hunter2\"}";
        bench.answer(&batch, Err(Failure::new(kind, Delivery::Answered, message)));
        let (_, told) = bench.machine.gate().unwrap();
        assert!(told.contains("upstream refused") && !told.contains("hunter2"), "{told}");
        let events = format!("{:?}", bench.events);
        assert!(!events.contains("hunter2"), "{events}");
        let history = format!("{:?}", bench.tasks()[0].history);
        assert!(!history.contains("hunter2"), "{history}");
    }
}

#[test]
fn a_secret_that_begins_like_that_of_another_record_does_not_let_the_rest_of_it_through() {
    let sensitive = TypeModel { sensitive: ["secret".to_owned()].into(), ..TypeModel::default() };
    let mut bench = modelled(of_type("card", sensitive));
    bench.enqueue(Change::create("card", "a").set("secret", "hunt")).unwrap();
    bench.enqueue(Change::create("card", "b").set("secret", "hunter2")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    assert_eq!(batch.tasks.len(), 2);
    let failure =
        Failure::new(FailureKind::Transient, Delivery::Answered, "upstream refused hunter2 and hunt");
    bench.answer(&batch, Err(failure));
    let (_, told) = bench.machine.gate().unwrap();
    assert!(told.contains("upstream refused") && !told.contains("hunt") && !told.contains("er2"), "{told}");
}

#[test]
fn a_letter_taken_up_under_its_own_key_is_of_unknown_fate_only_if_it_was_and_the_app_hears_of_it() {
    for (kind, delivery, stands) in [
        (FailureKind::Transient, Delivery::Unknown, StateKind::Unknown),
        (FailureKind::TooLarge, Delivery::Answered, StateKind::Pending),
    ] {
        let mut bench = Bench::new();
        let receipt = bench.enqueue(Change::create("note", "a").set("n", 1).at_most_once()).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.fail(&batch, kind, delivery);
        assert_eq!(bench.counts().dead, 1);
        let next = bench.step(|step, tx| step.requeue(tx, id(&receipt)).unwrap());
        assert_eq!(next, id(&receipt));
        assert_eq!(task(&mut bench, next).unwrap().state.kind(), stands, "{kind:?}");
        assert!(bench.events.contains(&Event::Requeued { task: next, next }));
    }
}

#[test]
fn an_orphan_goes_out_with_the_content_that_it_was_given() {
    let mut bench = Bench::new();
    let parent = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let child = bench.enqueue(Change::create("note", "b").set("n", 1).depends_on("note", "a")).unwrap();
    bench.step(|step, tx| step.cancel(tx, id(&parent)).unwrap());
    assert_eq!(task(&mut bench, id(&child)).unwrap().state.kind(), StateKind::Dead);
    let intent = Intent { fields: Fields::from([("n", 2)]), ..Intent::new(Operation::Create) };
    bench.step(|step, tx| step.edit(tx, id(&child), intent).unwrap());
    assert_eq!(bench.view("b"), r#"{"n":2}"#);
    bench.sync();
    assert!(bench.last_payload().contains(r#""fields":{"n":2}"#));
}

#[test]
fn a_letter_that_ran_out_of_attempts_has_all_of_them_again_when_it_is_taken_up() {
    let retry = RetryConfig { transient_max: Some(2), ..RetryConfig::default() };
    let mut bench = Bench::with(Config { retry, ..Config::default() }, EffectClass::OneEffect);
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    for round in 0..2 {
        for attempt in 0..2 {
            assert_eq!(bench.counts().dead, 0, "round {round}, attempt {attempt}");
            bench.pass(Duration::from_secs(3_600));
            bench.sync();
            let batch = bench.last_sent();
            bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
        }
        assert_eq!(bench.counts().dead, 1, "round {round}");
        bench.step(|step, tx| step.requeue(tx, id(&receipt)).unwrap());
    }
}

/// Not every backend knows a request again: a copy of it may have taken effect before another one was refused.
#[test]
fn what_was_refused_after_a_send_of_unknown_fate_may_be_in_what_comes_in_and_is_not_laid_over_it() {
    let mut bench = Bench::with(Config::default(), EffectClass::AtLeastOnce);
    bench.hear(theirs("a", r#"{"n":1}"#, "1"));
    let receipt = bench.enqueue(Change::update("note", "a").set("n", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.wait(Duration::from_secs(3600));
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    // Our own effect, and what somebody has made of it.
    bench.hear(theirs("a", r#"{"n":3}"#, "3"));
    assert!(bench.conflicts().is_empty(), "it would be a conflict with ourselves");
    bench.step(|step, tx| step.discard(tx, id(&receipt)).unwrap());
    assert_eq!(bench.view("a"), r#"{"n":3}"#);
    assert!(bench.conflicts().is_empty());
}

#[test]
fn a_letter_that_never_left_is_taken_up_again_as_what_is_left_of_it() {
    let retry = RetryConfig { transient_max: Some(1), ..RetryConfig::default() };
    let mut bench = Bench::with(Config { retry, ..Config::default() }, EffectClass::OneEffect);
    bench.hear(theirs("a", r#"{"n":1,"m":1}"#, "1"));
    let receipt = bench.enqueue(Change::update("note", "a").set("n", 2).set("m", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::NotSent);
    assert!(matches!(task(&mut bench, id(&receipt)).unwrap().state, TaskState::Dead { .. }));
    bench.hear(theirs("a", r#"{"n":1,"m":2}"#, "2"));
    bench.step(|step, tx| step.requeue(tx, id(&receipt)).unwrap());
    bench.wait(Duration::from_secs(3600));
    bench.sync();
    assert!(
        bench.last_payload().contains(r#""base_version":"2","fields":{"n":2}"#),
        "{}",
        bench.last_payload()
    );
}
