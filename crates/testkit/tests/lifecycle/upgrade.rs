//! Queued payloads of an older format: what was sent stays as it was, the rest is made new; what nobody knows is kept (G15).

use super::{answer_each, id, ids, of_type, task};
use crate::bench::{Bench, applied};
use landfall_core::adapter::EffectClass;
use landfall_core::change::{Change, Intent};
use landfall_core::config::{Config, PushConfig};
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::machine::Enqueued;
use landfall_core::model::{Model, TypeModel, Upcast, UpcastRules};
use landfall_core::task::TaskState;
use landfall_core::value::{Fields, Value};
use std::time::Duration;

/// Format 2 calls `text` `body`, has no `old`, and wants a `kind`; format 3 counts the words, by code.
fn newest() -> Model {
    let rules = UpcastRules {
        rename: [("text".to_owned(), "body".to_owned())].into(),
        remove: ["old".to_owned()].into(),
        add: Fields::from([("kind", "plain")]),
    };
    let words = |intent: &mut Intent| match intent.fields.value("body") {
        Some(Value::Text(body)) if body.is_empty() => Err("an empty body has no words".to_owned()),
        Some(Value::Text(body)) => {
            let words = i64::try_from(body.split(' ').count()).unwrap_or(0);
            intent.set("words", words);
            Ok(())
        }
        _ => Ok(()),
    };
    let upcasts = [(1, Upcast::Rules(rules)), (2, Upcast::code(words))].into();
    of_type("note", TypeModel { schema: 3, upcasts, ..TypeModel::default() })
}

/// The app is upgraded: another program opens the same store.
fn upgraded(bench: &mut Bench, model: Model) -> Bench {
    let config = Config { model, ..bench_config() };
    let mut newer = Bench::with(config, EffectClass::OneEffect);
    std::mem::swap(&mut newer.store, &mut bench.store);
    newer.wall_ms = bench.wall_ms;
    newer.mono_ms = bench.mono_ms;
    newer.crash();
    newer
}

fn bench_config() -> Config {
    Config { push: PushConfig { batch_tasks: 100, ..PushConfig::default() }, ..Config::default() }
}

#[test]
fn of_a_thousand_old_payloads_those_that_were_sent_go_out_as_they_were_and_the_rest_is_made_new() {
    let mut old = Bench::with(bench_config(), EffectClass::OneEffect);
    for n in 0..1_000 {
        let change = Change::create("note", n.to_string()).set("text", "two words").set("old", n);
        old.enqueue(change).unwrap();
    }
    old.sync();
    let sent: Vec<_> = old.sent.iter().flat_map(|batch| batch.tasks.clone()).collect();
    assert_eq!(sent.len(), 200);
    for batch in old.sent.clone() {
        old.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    }
    let mut newer = upgraded(&mut old, newest());
    newer.pass(Duration::from_secs(3_600));
    newer.sync();
    let (mut as_they_were, mut made_new) = (0, 0);
    while let Some(batch) = newer.sent.pop() {
        for task in &batch.tasks {
            match sent.iter().find(|old| old.task_id == task.task_id) {
                Some(old) => {
                    assert_eq!((&task.payload, task.key), (&old.payload, old.key));
                    as_they_were += 1;
                }
                None => {
                    assert!(
                        task.payload.contains(r#""fields":{"body":"two words","kind":"plain","words":2}"#)
                    );
                    assert!(task.payload.contains(r#""schema":3"#), "{}", task.payload);
                    made_new += 1;
                }
            }
        }
        answer_each(&mut newer, &batch, |_| applied("1"));
        newer.pass(Duration::from_secs(60));
        newer.sync();
    }
    assert_eq!((as_they_were, made_new), (200, 800));
    assert_eq!(newer.counts().total(), 0);
}

#[test]
fn a_new_edit_is_folded_into_an_old_payload_that_was_made_new_first() {
    let mut old = Bench::new();
    let receipt = old.enqueue(Change::create("note", "a").set("text", "x y").set("old", 1)).unwrap();
    let mut newer = upgraded(&mut old, newest());
    newer.enqueue(Change::update("note", "a").set("kind", "rich")).unwrap();
    let folded = task(&mut newer, id(&receipt)).unwrap();
    assert_eq!(folded.schema, 3);
    let made_new = r#"{"body":"x y","kind":"rich","words":2}"#;
    assert_eq!(folded.intent.fields.to_json(), made_new);
    assert_eq!(newer.view("a"), made_new, "the app sees what will be sent");
}

#[test]
fn what_this_program_does_not_know_is_kept_and_goes_out_when_it_does() {
    let mut old = Bench::new();
    let stranger = old.enqueue(Change::create("sketch", "s").set("n", 1)).unwrap();
    let future = old.enqueue(Change::create("note", "f").set("n", 1).schema(9)).unwrap();
    let empty = old.enqueue(Change::create("note", "e").set("text", "")).unwrap();
    let gap = old.enqueue(Change::create("note", "g").set("n", 1).schema(0)).unwrap();
    let fine = old.enqueue(Change::create("note", "ok").set("text", "x")).unwrap();
    let closed = Model { closed: true, ..newest() };
    let mut newer = upgraded(&mut old, closed);
    newer.sync();
    assert_eq!(ids(&newer.last_sent()), ["ok"]);
    for receipt in [&stranger, &future, &empty, &gap] {
        let kept = task(&mut newer, id(receipt)).unwrap();
        assert!(matches!(kept.state, TaskState::Dead { why: FailureKind::UnknownKind }), "{kept:?}");
        assert!(!kept.history.last().unwrap().message.is_empty());
    }
    let batch = newer.last_sent();
    newer.apply(&batch, "1");
    let _ = fine;
    // A newer program that knows the type takes it up again.
    let mut knows = upgraded(&mut newer, newest());
    knows.step(|step, tx| step.requeue(tx, id(&stranger)).unwrap());
    knows.sync();
    assert_eq!(ids(&knows.last_sent()), ["s"]);
}

#[test]
fn a_change_without_a_format_has_the_newest_of_its_type() {
    let mut bench = super::modelled(newest());
    let receipt = bench.enqueue(Change::create("note", "a").set("body", "x")).unwrap();
    assert_eq!(task(&mut bench, id(&receipt)).unwrap().schema, 3);
    bench.sync();
    assert!(!bench.last_payload().contains("words"), "what is new already is not made new again");
}

#[test]
fn an_edit_in_an_older_format_is_folded_into_what_is_of_that_format() {
    let mut bench = super::modelled(newest());
    let first = bench.enqueue(Change::create("note", "a").set("text", "x y").schema(1)).unwrap();
    let second = bench.enqueue(Change::update("note", "a").set("text", "x y z").schema(1)).unwrap();
    assert_eq!((second.task, second.outcome), (first.task, Enqueued::Coalesced));
    bench.sync();
    assert!(bench.last_payload().contains(r#""fields":{"body":"x y z","kind":"plain","words":3}"#));
}
