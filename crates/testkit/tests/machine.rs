//! Promises of the machine that one line of events shows better than a thousand random lives.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use bench::{Bench, applied, capabilities, open, reply, theirs};
use landfall_core::adapter::{Applied, Capabilities, EffectClass, Outcome, PushBatch, PushReply, Rejection};
use landfall_core::change::Change;
use landfall_core::config::{AutoConfig, Config, ConflictConfig, JournalConfig, PushConfig, RetryConfig};
use landfall_core::device::DeviceState;
use landfall_core::entity::{Base, Body, RemoteEntity};
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{EntityKey, Entropy, Version};
use landfall_core::machine::{Cancelled, Effect, Enqueued, Leadership, Machine, SessionEnd};
use landfall_core::store::{ConflictQuery, Store};
use landfall_core::task::{TaskState, Verdict};
use landfall_core::time::{Mono, Now, Timestamp};
use landfall_core::value::Fields;
use std::time::Duration;

fn live(fields: Fields) -> Option<Body> {
    Some(Body::Live(fields))
}

fn remote(id: &str, body: Body, version: &str) -> RemoteEntity {
    RemoteEntity::new(EntityKey::new("note", id), body, Some(version.into()))
}

#[test]
fn an_edit_during_upload_is_sent_next_with_its_own_key_and_only_its_fields() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1).set("b", 1)).unwrap();
    bench.sync();
    let create = bench.last_sent();
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    assert_eq!(bench.sent.len(), 1, "the second waits for the first one's verdict");
    bench.apply(&create, "7");
    let update = bench.last_sent();
    assert_ne!(update.tasks[0].key, create.tasks[0].key);
    assert!(update.tasks[0].payload.contains(r#""fields":{"a":2}"#), "{}", update.tasks[0].payload);
    assert!(update.tasks[0].payload.contains(r#""base_version":"7""#));
}

#[test]
fn x_to_y_and_back_to_x_is_clean_again() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", "x")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(bench.enqueue(Change::update("note", "1").set("a", "x")).unwrap().outcome, Enqueued::NoChange);
    bench.enqueue(Change::update("note", "1").set("a", "y")).unwrap();
    assert_eq!(bench.enqueue(Change::update("note", "1").set("a", "x")).unwrap().outcome, Enqueued::NoChange);
    assert_eq!(bench.counts().total(), 0);
}

#[test]
fn what_was_sent_is_sent_again_byte_for_byte() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    for _ in 0..5 {
        let batch = bench.last_sent();
        bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
        bench.pass(Duration::from_secs(3600));
        bench.step(|step, _| step.wake());
    }
    assert_eq!(bench.sent.len(), 6);
    let first = &bench.sent[0].tasks[0];
    assert!(
        bench
            .sent
            .iter()
            .all(|batch| batch.tasks[0].payload == first.payload && batch.tasks[0].key == first.key)
    );
    assert_eq!(bench.sent[5].tasks[0].attempt, 5);
}

#[test]
fn a_task_melts_only_when_not_one_byte_of_it_ever_left() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    assert!(bench.tasks()[0].may_coalesce());
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    assert!(matches!(bench.tasks()[0].state, TaskState::Unknown { .. }));
    bench.pass(Duration::from_secs(3600));
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    let task = bench.tasks().remove(0);
    assert!(!task.may_coalesce(), "the send before may have arrived");
    assert!(matches!(task.state, TaskState::Unknown { .. }));

    // A refusal in words proves that this copy did nothing; a late copy of the same bytes may still arrive.
    for refused in [FailureKind::RateLimited, FailureKind::Unauthenticated] {
        let mut bench = Bench::new();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.sync();
        let first = bench.last_sent();
        bench.fail(&first, refused, Delivery::Answered);
        bench.pass(Duration::from_secs(3600));
        bench.step(|step, _| step.credentials_changed());
        bench.sync();
        let second = bench.last_sent();
        bench.fail(&second, FailureKind::Unreachable, Delivery::NotSent);
        assert!(!bench.tasks()[0].may_coalesce(), "{refused:?}");
        bench.sync();
        assert_eq!(bench.last_sent().tasks[0].payload, first.tasks[0].payload, "{refused:?}");
    }
}

/// The failure table: what happens to a task and to the gate for every kind and delivery (ARCHITECTURE.md).
#[test]
fn every_kind_of_failure_is_handled_as_the_table_says() {
    use Delivery::{Answered, NotSent, Unknown};
    use FailureKind as Kind;
    let table = [
        // kind, delivery, state of the task, attempt counted, may still coalesce, gate closed
        (Kind::Unreachable, NotSent, "pending", 0, true, true),
        (Kind::Intercepted, Unknown, "unknown", 0, false, true),
        (Kind::Intercepted, NotSent, "pending", 0, true, true),
        (Kind::Transient, Unknown, "unknown", 1, false, true),
        (Kind::Transient, Answered, "unknown", 1, false, true),
        (Kind::Transient, NotSent, "pending", 1, true, true),
        (Kind::RateLimited, Answered, "pending", 0, false, true),
        (Kind::RateLimited, Unknown, "unknown", 0, false, true),
        (Kind::Unauthenticated, Answered, "pending", 0, false, true),
        (Kind::Unauthenticated, NotSent, "pending", 0, true, true),
        (Kind::Forbidden, Answered, "dead", 1, false, false),
        (Kind::Rejected, Answered, "dead", 1, false, false),
        (Kind::TooLarge, Answered, "dead", 0, false, false),
        (Kind::Protocol, Unknown, "unknown", 1, false, true),
        (Kind::ServerChanged, Answered, "pending", 0, false, true),
        (Kind::ClientUnknown, Answered, "pending", 0, false, true),
        (Kind::ClientSuperseded, Answered, "pending", 0, false, true),
        (Kind::Unsupported, Answered, "pending", 0, false, true),
        (Kind::Cancelled, NotSent, "pending", 0, true, false),
        (Kind::Cancelled, Unknown, "unknown", 0, false, false),
    ];
    for (kind, delivery, state, attempts, coalesces, gate) in table {
        let mut bench = Bench::new();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        // Nothing more is sent, so that what the failure left can be seen.
        bench.step(|step, tx| {
            step.pushed(tx, batch.call, &Err(Failure::new(kind, delivery, "as told"))).unwrap();
            step.stop_session();
        });
        let task = bench.tasks().remove(0);
        let seen =
            (task.state.kind().as_str(), task.attempts, task.may_coalesce(), bench.machine.gate().is_some());
        assert_eq!(seen, (state, attempts, coalesces, gate), "{kind:?} {delivery:?}");
        assert!(task.last_failure().is_some_and(|note| note.message == "as told"));
    }
}

#[test]
fn a_backend_that_refuses_everything_is_never_asked_more_than_the_allowed_calls_at_once() {
    let mut bench = Bench::new();
    for id in 0..200 {
        bench.enqueue(Change::create("note", format!("{id}")).set("a", 1)).unwrap();
    }
    bench.sync();
    let most = Config::default().push.calls_max;
    let mut answered = 0;
    while answered < bench.sent.len() {
        assert!(bench.sent.len() - answered <= most, "{} calls at once", bench.sent.len() - answered);
        let batch = bench.sent[answered].clone();
        answered += 1;
        bench.fail(&batch, FailureKind::Rejected, Delivery::Answered);
    }
    assert_eq!(bench.counts().dead, 200);
    assert!(answered < 420, "{answered} calls");
}

/// Sends `tasks` notes in batches of at most 8, one call at a time.
fn in_batches_of_eight(tasks: usize) -> Bench {
    let push = PushConfig { batch_tasks: 8, calls_max: 1, ..PushConfig::default() };
    let mut bench = Bench::with(Config { push, ..Config::default() }, EffectClass::OneEffect);
    for id in 0..tasks {
        bench.enqueue(Change::create("note", format!("{id}")).set("a", 1)).unwrap();
    }
    bench.sync();
    bench
}

#[test]
fn after_a_failure_the_batches_are_smaller_and_grow_again_when_all_is_well() {
    let mut bench = in_batches_of_eight(24);
    for _ in 0..2 {
        let batch = bench.last_sent();
        bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
        bench.wait(Duration::from_secs(3600));
    }
    for _ in 0..4 {
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
    }
    let sizes: Vec<_> = bench.sent.iter().map(|batch| batch.tasks.len()).collect();
    assert_eq!(sizes, [8, 4, 2, 4, 8, 8, 2]);
}

#[test]
fn a_backend_that_has_taken_no_large_request_is_sent_small_ones_until_it_takes_one() {
    let mut bench = in_batches_of_eight(20);
    for _ in 0..15 {
        let batch = bench.last_sent();
        bench.fail(&batch, FailureKind::TooLarge, Delivery::Answered);
    }
    for _ in 0..3 {
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
    }
    let sizes: Vec<_> = bench.sent.iter().map(|batch| batch.tasks.len()).collect();
    assert_eq!(sizes, [8, 4, 2, 1, 1, 2, 1, 1, 4, 2, 1, 1, 2, 1, 1, 1, 2, 4, 5]);
}

#[test]
fn what_cannot_be_sent_after_all_leaves_the_others_in_one_request() {
    let mut bench = Bench::new();
    let due = Timestamp(bench.wall_ms + 1_000);
    for id in ["1", "2", "3", "4"] {
        bench.enqueue(Change::create("note", id).set("a", 1).not_before(due)).unwrap();
    }
    assert!(bench.store.damage_entity(&EntityKey::new("note", "2")));
    bench.pass(Duration::from_secs(1));
    bench.sync();
    assert_eq!(bench.counts().dead, 1);
    let ids: Vec<_> = bench.sent[0].tasks.iter().map(|task| task.entity.entity_id.as_str()).collect();
    assert_eq!(ids, ["1", "3", "4"]);
}

#[test]
fn no_request_is_larger_than_the_backend_takes_in_tasks_or_in_bytes() {
    let few = Capabilities { batch_tasks: 4, ..capabilities(EffectClass::OneEffect) };
    let small = Capabilities { batch_bytes: 1_000, ..capabilities(EffectClass::OneEffect) };
    for (most, sizes) in [(few, &[1, 4, 4][..]), (small, &[1, 4, 2, 2])] {
        let push = PushConfig { calls_max: 1, ..PushConfig::default() };
        let mut bench = Bench::of(Config { push, ..Config::default() }, most.clone());
        let text = "x".repeat(200);
        for id in 1..=9 {
            let change = Change::create("note", format!("{id}")).set("a", text.as_str());
            let in_group = (2..=5).contains(&id);
            bench.enqueue(if in_group { change.group("g") } else { change }).unwrap();
        }
        bench.sync();
        while bench.counts().total() > 0 {
            let batch = bench.last_sent();
            bench.apply(&batch, "1");
        }
        for batch in &bench.sent {
            let bytes: usize = batch.tasks.iter().map(|task| task.payload.len()).sum();
            let is_a_group = batch.tasks.iter().all(|task| task.group.is_some());
            assert!(batch.tasks.len() <= most.batch_tasks);
            assert!(bytes <= most.batch_bytes || is_a_group, "{bytes} bytes");
        }
        assert_eq!(bench.sent.iter().map(|batch| batch.tasks.len()).collect::<Vec<_>>(), sizes);
    }
}

#[test]
fn a_task_gets_as_many_attempts_as_the_app_allows() {
    for (kind, retry) in [
        (FailureKind::Transient, RetryConfig { transient_max: Some(3), ..RetryConfig::default() }),
        (FailureKind::Protocol, RetryConfig { unreadable_max: 3, ..RetryConfig::default() }),
    ] {
        let mut bench = Bench::with(Config { retry, ..Config::default() }, EffectClass::OneEffect);
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.sync();
        for attempt in 1..=3 {
            assert_eq!((bench.sent.len(), bench.counts().dead), (attempt, 0), "{kind:?}");
            let batch = bench.last_sent();
            bench.fail(&batch, kind, Delivery::Unknown);
            bench.wait(Duration::from_secs(3600));
        }
        assert_eq!((bench.sent.len(), bench.counts().dead), (3, 1), "{kind:?}");
    }
}

#[test]
fn a_damaged_record_is_told_and_blocks_nobody() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    assert!(bench.store.damage_entity(&EntityKey::new("note", "1")));
    bench.apply(&batch, "1");
    assert!(bench.events.iter().any(|event| matches!(event, Event::Damaged { .. })));
    assert_eq!(bench.counts().total(), 0);
    let first = bench.sent[0].tasks[0].task_id;
    let next = bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    assert_ne!(next.task, Some(first), "no id is given twice");

    // A damaged successor keeps its record's view short, and nothing else.
    bench.events.clear();
    bench.enqueue(Change::create("note", "2").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let successor = bench.enqueue(Change::update("note", "2").set("a", 2)).unwrap().task.unwrap();
    assert!(bench.store.damage(successor));
    bench.step(|step, tx| step.remote_changed(tx, remote("2", Body::Deleted, "9")).unwrap());
    bench.apply(&batch, "8");
    assert!(bench.events.iter().any(|event| matches!(event, Event::Damaged { .. })));
    assert_eq!(bench.counts().pending, 1, "the damaged one waits, to be quarantined when somebody looks");
}

#[test]
fn a_wish_of_the_backend_to_wait_is_not_cut_short_by_the_network_coming_back() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let asked = Failure::new(FailureKind::RateLimited, Delivery::Answered, "429");
    bench.answer(&batch, Err(asked.retry_after(Some(Duration::from_secs(60)))));
    bench.pass(Duration::from_secs(1));
    bench.step(|step, _| step.connectivity_regained());
    assert_eq!(bench.sent.len(), 1);
    bench.pass(Duration::from_secs(120));
    bench.step(|step, _| step.wake());
    assert_eq!(bench.sent.len(), 2);
}

#[test]
fn create_and_delete_vanish_only_if_the_create_was_never_attempted() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    assert_eq!(bench.enqueue(Change::delete("note", "1")).unwrap().outcome, Enqueued::Annihilated);
    assert_eq!(bench.counts().total(), 0);
    assert_eq!(bench.local("note", "1"), None);

    bench.enqueue(Change::create("note", "2").set("a", 1)).unwrap();
    bench.sync();
    let create = bench.last_sent();
    assert_eq!(bench.enqueue(Change::delete("note", "2")).unwrap().outcome, Enqueued::New);
    bench.apply(&create, "1");
    assert_eq!(bench.last_sent().tasks[0].operation.as_str(), "delete");
}

#[test]
fn a_named_lane_runs_in_order_and_other_lanes_do_not_wait() {
    let mut bench = Bench::new();
    for id in ["1", "2", "3"] {
        bench.enqueue(Change::create("step", id).set("a", 1).lane("setup")).unwrap();
    }
    bench.enqueue(Change::create("note", "free").set("a", 1)).unwrap();
    bench.sync();
    let ids =
        |batch: &PushBatch| batch.tasks.iter().map(|task| task.entity.entity_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&bench.sent[0]), ["1", "free"]);
    let first = bench.sent[0].clone();
    bench.apply(&first, "1");
    assert_eq!(ids(&bench.last_sent()), ["2"]);
    let second = bench.last_sent();
    bench.outcome(
        &second,
        &Outcome::Rejected(Rejection { code: "no".into(), message: "never".into(), answer: None }),
    );
    assert_eq!(bench.counts().dead, 1);
    assert_eq!(bench.counts().pending, 1, "what is behind a dead letter waits for a decision");
}

#[test]
fn higher_priority_goes_first_and_not_before_is_kept() {
    let config = Config {
        push: landfall_core::config::PushConfig { batch_tasks: 1, calls_max: 1, ..Default::default() },
        ..Config::default()
    };
    let mut bench = Bench::with(config, EffectClass::OneEffect);
    let later = Timestamp(bench.wall_ms + 60_000);
    bench.enqueue(Change::create("note", "later").set("a", 1).not_before(later)).unwrap();
    bench.enqueue(Change::create("note", "low").set("a", 1)).unwrap();
    bench.enqueue(Change::create("note", "high").set("a", 1).priority(5)).unwrap();
    bench.sync();
    for expected in ["high", "low"] {
        let batch = bench.last_sent();
        assert_eq!(batch.tasks[0].entity.entity_id, expected);
        bench.apply(&batch, "1");
    }
    assert_eq!(bench.sent.len(), 2);
    bench.pass(Duration::from_secs(61));
    bench.step(|step, _| step.wake());
    assert_eq!(bench.last_sent().tasks[0].entity.entity_id, "later");
}

#[test]
fn a_backend_that_may_act_twice_gets_no_second_try() {
    let mut bench = Bench::with(Config::default(), EffectClass::AtMostOnce);
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    assert!(matches!(bench.tasks()[0].state, TaskState::Dead { why: FailureKind::FateUnknown }));
}

#[test]
fn a_run_that_has_nothing_left_to_send_does_not_wait_for_the_backend_to_recover() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1).at_most_once()).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    assert!(bench.machine.gate().is_some());
    assert_eq!((bench.reports.len(), bench.reports[0].left.dead), (1, 1));
}

#[test]
fn another_database_behind_the_same_address_stops_everything_and_keeps_everything() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let named = |name: &str, batch: &PushBatch| {
        let outcome = Outcome::Applied(Applied::default());
        let results = batch.tasks.iter().map(|task| (task.key, outcome.clone())).collect();
        Ok(PushReply { results, server_id: Some(name.into()), ..PushReply::default() })
    };
    bench.answer(&batch, named("first", &batch));
    bench.enqueue(Change::create("note", "2").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.answer(&batch, named("second", &batch));
    assert_eq!(bench.counts().total(), 1, "an answer of a stranger acknowledges nothing");
    assert_eq!(bench.machine.gate().unwrap().0, FailureKind::ServerChanged);
    bench.pass(Duration::from_secs(3600));
    bench.sync();
    assert_eq!(bench.sent.len(), 2);
}

#[test]
fn a_stale_holder_is_fenced_and_its_late_acknowledgement_is_reconciled() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.enqueue(Change::create("note", "2").set("a", 1)).unwrap();
    bench.enqueue(Change::create("note", "3").set("a", 1)).unwrap();
    bench.sync();
    let old_batch = bench.last_sent();
    // Another process takes over: a machine of its own on the same store.
    let mut other = open(&mut bench.store, Config::default(), capabilities(EffectClass::OneEffect), 9);
    let mut lead = |mono_ms: u64, gone: bool| {
        let now = Now { wall: Timestamp(bench.wall_ms), mono: Mono(mono_ms) };
        let mut step = other.step(now, Entropy([77; 32]));
        let mut tx = bench.store.begin().unwrap();
        step.start_session(SessionEnd::OnePass);
        let answer = step.lead(&mut *tx, "other", &|_| gone).unwrap();
        step.finish(&mut *tx).unwrap();
        tx.commit().unwrap();
        let effects = other.apply(step);
        let sent = effects.into_iter().find_map(|effect| match effect {
            Effect::Push { batch, .. } => Some(batch),
            _ => None,
        });
        (answer, sent)
    };
    assert_eq!(lead(0, false), (Leadership::Elsewhere { holder: "me".into() }, None));
    assert_eq!(lead(9_000, false), (Leadership::Elsewhere { holder: "me".into() }, None));
    let (answer, sent) = lead(10_001, false);
    assert_eq!(answer, Leadership::Held, "silent for a term of our own clock");
    let sent = sent.expect("what the dead holder had under way is sent again");
    assert_eq!(sent.tasks[0].payload, old_batch.tasks[0].payload, "same key, same bytes");

    // The old holder's answer comes late: a proven effect counts, a refusal or a conflict does not.
    let applied = (old_batch.tasks[0].key, Outcome::Applied(Applied::default()));
    let refused = (
        old_batch.tasks[1].key,
        Outcome::Rejected(Rejection { code: "x".into(), message: "y".into(), answer: None }),
    );
    let theirs = remote("3", Body::Live(Fields::from([("a", 9)])), "2");
    let met = (old_batch.tasks[2].key, Outcome::Conflict { remote: Some(theirs) });
    bench.answer(&old_batch, Ok(PushReply { results: vec![applied, refused, met], ..PushReply::default() }));
    assert!(bench.events.contains(&Event::LeaseLost));
    let left = bench.tasks();
    assert_eq!(left.iter().map(|task| task.entity.entity_id.as_str()).collect::<Vec<_>>(), ["2", "3"]);
    let belongs_to_the_new_holder = left.iter().all(|task| matches!(task.state, TaskState::InFlight { .. }));
    assert!(belongs_to_the_new_holder, "{left:?}");
}

#[test]
fn an_edit_of_a_record_that_the_backend_deleted_stays_visible_and_wins_as_a_whole() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1).set("b", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    let edited = live(Fields::from([("a", 2), ("b", 1)]));
    bench.step(|step, tx| step.remote_changed(tx, remote("1", Body::Deleted, "2")).unwrap());
    assert_eq!(bench.local("note", "1"), edited);
    bench.sync();
    let batch = bench.last_sent();
    let conflict = Outcome::Conflict { remote: Some(remote("1", Body::Deleted, "2")) };
    bench.outcome(&batch, &conflict);
    assert_eq!(bench.local("note", "1"), edited, "losing work is worse than an extra record");
    let again = bench.last_sent();
    assert_eq!(again.tasks[0].operation.as_str(), "replace");
    assert!(again.tasks[0].payload.contains(r#""fields":{"a":2,"b":1}"#));
    assert_ne!(again.tasks[0].key, batch.tasks[0].key);
}

#[test]
fn a_conflict_keeps_what_it_sets_aside_and_sends_only_what_is_still_dirty() {
    let mut bench = Bench::new();
    let base = Base {
        body: Body::Live(Fields::from([("a", 1), ("b", 1)])),
        version: Some("1".into()),
        complete: true,
    };
    bench.enqueue(Change::update("note", "1").set("a", 2).set("b", 2).base(base)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let theirs = Body::Live(Fields::from([("a", 2), ("b", 9), ("c", 9)]));
    bench.outcome(&batch, &Outcome::Conflict { remote: Some(remote("1", theirs, "5")) });
    let again = bench.last_sent();
    assert!(
        again.tasks[0].payload.contains(r#""base_version":"5","fields":{"b":2}"#),
        "{}",
        again.tasks[0].payload
    );
    assert_eq!(bench.local("note", "1"), live(Fields::from([("a", 2), ("b", 2), ("c", 9)])));
    let kept = bench.store.begin().unwrap().conflicts(&ConflictQuery::default(), 10).unwrap().conflicts;
    assert_eq!(kept.len(), 1);
    let base = kept[0].base.as_ref().and_then(|base| base.body.fields()).unwrap();
    assert_eq!(base.to_json(), r#"{"a":1,"b":1}"#);
    assert_eq!(kept[0].fields.len(), 1, "only what both sides changed, each in its own way");
    assert_eq!(kept[0].fields[0].remote, Some(9.into()));
    assert!(!kept[0].is_open());
    let entry = bench.store.begin().unwrap().journal(batch.tasks[0].task_id).unwrap().unwrap();
    assert_eq!(entry.verdict, Verdict::Rebased);
}

#[test]
fn a_conflict_without_a_remote_state_waits_in_the_inbox() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: None });
    assert_eq!(bench.counts().conflict, 1);
    let (call, _) = bench.fetches.pop().expect("the record is asked for");
    let failure = Failure::new(FailureKind::Unsupported, Delivery::NotSent, "cannot be asked");
    bench.step(|step, tx| step.fetched(tx, call, &Err(failure)).unwrap());
    assert!(bench.reports.last().unwrap().needs_attention());
}

#[test]
fn a_remote_change_is_staged_while_a_fate_is_open() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let theirs = Body::Live(Fields::from([("a", 1), ("b", 5)]));
    bench.step(|step, tx| step.remote_changed(tx, remote("1", theirs.clone(), "9")).unwrap());
    assert_eq!(bench.local("note", "1"), live(Fields::from([("a", 1)])));
    bench.apply(&batch, "8");
    assert_eq!(bench.local("note", "1"), Some(theirs), "it came after the effect, so it is newer");
    let entity = bench.store.begin().unwrap().entity(&EntityKey::new("note", "1")).unwrap().unwrap();
    assert_eq!(entity.base.unwrap().version, Some(Version("9".into())));
    assert!(entity.staged.is_none());
}

#[test]
fn a_damaged_row_is_set_apart_and_the_others_go_on() {
    let mut bench = Bench::new();
    let damaged = bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap().task.unwrap();
    bench.enqueue(Change::create("note", "2").set("a", 1)).unwrap();
    assert!(bench.store.damage(damaged));
    bench.sync();
    assert_eq!(bench.last_sent().tasks.len(), 1);
    assert_eq!(bench.last_sent().tasks[0].entity.entity_id, "2");
    assert!(bench.events.iter().any(|event| matches!(event, Event::Damaged { .. })));
    assert_eq!(bench.counts().dead, 1);
}

#[test]
fn a_clock_that_goes_back_a_year_stalls_no_retry() {
    let mut bench = Bench::new();
    bench.wall_ms += 365 * 24 * 3_600_000;
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.wall_ms -= 365 * 24 * 3_600_000;
    bench.pass(Duration::from_secs(60));
    bench.step(|step, _| step.wake());
    assert_eq!(bench.sent.len(), 2, "the retry is due now, not in a year");
}

#[test]
fn handing_back_leaves_nothing_in_flight() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    bench.step(|step, _| step.stop_session());
    assert_eq!((bench.counts().in_flight, bench.counts().unknown), (0, 1));
    assert_eq!(bench.cancelled, [bench.sent[0].call]);
    let lease = bench.store.begin().unwrap().lease().unwrap().unwrap();
    assert!(lease.holder.is_empty());
}

/// Also what waited for its turn after a call that was too large.
#[test]
fn what_was_handed_back_is_nobodys_and_is_planned_anew_by_the_next_run() {
    let push = landfall_core::config::PushConfig { calls_max: 1, ..Default::default() };
    let mut bench = Bench::with(Config { push, ..Config::default() }, EffectClass::OneEffect);
    for id in ["1", "2"] {
        bench.enqueue(Change::create("note", id).set("a", 1)).unwrap();
    }
    bench.sync();
    bench.step(|step, _| step.stop_session());
    bench.sync();
    assert_eq!(bench.sent.len(), 2, "what was under way stands in nobody's way");
    let batch = bench.last_sent();
    bench.step(|step, tx| {
        let failure = Failure::new(FailureKind::TooLarge, Delivery::Answered, "413");
        step.pushed(tx, batch.call, &Err(failure)).unwrap();
        step.stop_session();
    });
    assert_eq!((bench.sent.len(), bench.counts().in_flight), (2, 0), "nothing is under way");
    bench.sync();
    assert_eq!(
        (bench.sent.len(), bench.counts().in_flight),
        (3, 1),
        "one by one, written down before it goes"
    );
}

/// A backend that said once that it cannot be read, such as one that was being set up, is asked again now and then.
#[test]
fn reading_that_was_given_up_for_one_run_is_tried_in_the_next() {
    for why in [FailureKind::Unsupported, FailureKind::Forbidden] {
        let mut bench = Bench::reading();
        bench.step(|step, _| step.run_by_itself(AutoConfig::default()));
        bench.fail_page(why);
        assert!(!bench.machine.is_syncing());
        let due = bench.machine.next_wakeup().expect("it goes on by itself");
        let wait = Duration::from_millis(due.0 - bench.mono_ms);
        assert!(Some(wait) >= AutoConfig::default().interval, "{why:?}: {wait:?} is no now and then");
        bench.wait(wait);
        assert_eq!(bench.pages.len(), 2, "{why:?}");
    }
}

/// Devices that were held back by having no network hear of it in the same moment: none of them goes in that moment.
#[test]
fn what_waited_for_a_network_goes_at_a_moment_of_the_devices_own_when_it_is_back() {
    let online = |bench: &mut Bench, online| {
        bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(online)).unwrap());
    };
    let mut bench = Bench::new();
    bench.step(|step, _| step.run_by_itself(AutoConfig::default()));
    bench.wait(Duration::from_secs(1));
    online(&mut bench, false);
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.wait(Duration::from_secs(1));
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    bench.wait(Duration::from_secs(10));
    assert_eq!(bench.sent.len(), 1, "the device says that there is no network");
    online(&mut bench, true);
    assert_eq!(bench.sent.len(), 1, "it went in the very moment of the news");
    let spread = AutoConfig::default().spread;
    let due = bench.machine.next_wakeup().expect("it goes by itself");
    assert!(due.0 <= bench.mono_ms + u64::try_from(spread.as_millis()).unwrap());
    bench.wait(spread);
    assert_eq!(bench.sent.len(), 2);
}

#[test]
fn a_run_tells_what_it_did_in_its_report_and_the_same_as_an_event() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let first = bench.last_sent();
    bench.fail(&first, FailureKind::Transient, Delivery::Unknown);
    bench.pass(Duration::from_secs(3600));
    bench.step(|step, _| step.wake());
    let again = bench.last_sent();
    bench.apply(&again, "1");
    let report = bench.reports.last().unwrap().clone();
    assert_eq!((report.applied, report.retries), (1, 1), "{report:?}");
    let told: Vec<_> =
        bench.events.iter().filter(|event| matches!(event, Event::SessionFinished(_))).collect();
    assert_eq!(told.len(), bench.reports.len());
    assert_eq!(format!("{:?}", told.last().unwrap()), format!("{:?}", Event::SessionFinished(report)));
}

#[test]
fn what_melted_together_is_as_late_as_the_last_of_it() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    let before = bench.tasks()[0].changed_at;
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap().outcome, Enqueued::Coalesced);
    let after = bench.tasks()[0].changed_at;
    assert_eq!(after.wall_ms - before.wall_ms, 5_000);
}

/// By the newest time it is seen later whether a commit in doubt landed: an old one would always be there.
#[test]
fn every_change_that_is_taken_gives_out_a_time_and_nothing_else_does() {
    let mut bench = Bench::new();
    let time_of = |bench: &mut Bench, change: Change| {
        bench.pass(Duration::from_millis(10));
        bench.step(|step, tx| {
            step.enqueue(tx, change).unwrap();
            step.newest_time()
        })
    };
    let made = time_of(&mut bench, Change::create("note", "1").set("a", 1));
    let folded = time_of(&mut bench, Change::update("note", "1").set("a", 2));
    let annihilated = time_of(&mut bench, Change::delete("note", "1"));
    assert!(made.is_some() && made < folded && folded < annihilated, "{made:?} {folded:?} {annihilated:?}");
    assert!(bench.tasks().is_empty());
    // The row of the replica changes for another reason: the backend tells its time.
    let made = time_of(&mut bench, Change::create("note", "2").set("a", 1));
    bench.sync();
    let batch = bench.last_sent();
    let told =
        PushReply { server_time: Some(Timestamp(bench.wall_ms + 3_600_000)), ..reply(&batch, &applied("1")) };
    let heard = bench.step(|step, tx| {
        step.pushed(tx, batch.call, &Ok(told)).unwrap();
        step.newest_time()
    });
    assert_eq!((heard, made.is_some()), (None, true));
    let edited = time_of(&mut bench, Change::update("note", "2").set("a", 2));
    let taken_back = time_of(&mut bench, Change::update("note", "2").set("a", 1));
    assert!(edited.is_some() && edited < taken_back, "{edited:?} {taken_back:?}");
    assert!(bench.tasks().is_empty());
}

#[test]
fn a_later_change_has_a_later_time_in_one_millisecond_after_a_restart_and_when_the_clock_went_back() {
    let mut bench = Bench::new();
    let mut last = None;
    for round in 0..6 {
        match round {
            2 => bench.crash(),
            4 => bench.wall_ms -= 5_000,
            _ => {}
        }
        bench.enqueue(Change::create("note", round.to_string()).set("a", 1)).unwrap();
        let at = bench.tasks().last().map(|task| task.changed_at);
        assert!(at > last, "{round}: {at:?} after {last:?}");
        last = at;
    }
}

// ---- what is remembered ----------------------------------------------------------------------------------------------

/// Whoever tidies in small steps goes on until nothing old is left of any kind.
#[test]
fn tidying_says_that_there_may_be_more_until_all_that_is_old_is_gone() {
    let day = Duration::from_secs(24 * 3600);
    let config = |journal: u32, conflicts: u32| Config {
        journal: JournalConfig { horizon: day * journal, prune_batch: 2 },
        conflicts: ConflictConfig { horizon: day * conflicts, ..ConflictConfig::default() },
        ..Config::default()
    };
    let send = |bench: &mut Bench| {
        bench.sync();
        let batch = bench.last_sent();
        bench.apply(&batch, "9");
    };
    for what in ["journal", "keys", "conflicts"] {
        let config = if what == "conflicts" { config(100, 1) } else { config(1, 100) };
        let mut bench = Bench::with(config, EffectClass::OneEffect);
        for n in 1..=3 {
            let id = n.to_string();
            match what {
                "journal" => drop(bench.enqueue(Change::create("note", id).set("a", 1)).unwrap()),
                "keys" => {
                    let change = Change::upsert("note", "1").set("a", n);
                    bench.enqueue(change.dedup_key(format!("key {n}"))).unwrap();
                }
                _ => {
                    bench.hear(theirs(&id, r#"{"a":0}"#, "1"));
                    bench.enqueue(Change::update("note", id.as_str()).set("a", 1)).unwrap();
                    bench.hear(theirs(&id, r#"{"a":2}"#, "2"));
                }
            }
        }
        send(&mut bench);
        let task = bench.last_sent().tasks[0].task_id;
        let remembers = |bench: &mut Bench| bench.store.begin().unwrap().journal(task).unwrap().is_some();
        assert!(!bench.step(|step, tx| step.tidy(tx).unwrap()), "{what}");
        assert!(remembers(&mut bench), "{what}: it has only just ended");
        bench.pass(day * 2);
        let more: Vec<bool> = (0..3).map(|_| bench.step(|step, tx| step.tidy(tx).unwrap())).collect();
        assert_eq!(more, [true, false, false], "{what}");
        assert_eq!(bench.conflicts().len(), 0, "{what}");
        assert_eq!(remembers(&mut bench), what == "conflicts", "{what}");
    }
}

// ---- what is taken back ----------------------------------------------------------------------------------------------

/// Calls that were handed out and have not left yet stay, when the app goes to sleep or the queue changes hands; those
/// that come after a sleep may leave.
#[test]
fn a_call_that_has_not_left_is_recalled_and_the_next_one_may_leave() {
    for for_good in [false, true] {
        let mut bench = Bench::new();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.sync();
        assert!(!bench.contexts[0].permit.is_withdrawn());
        if for_good {
            bench.machine.withdraw_permits();
        } else {
            bench.machine.recall_calls();
        }
        bench.step(|step, _| step.stop_session());
        bench.sync();
        let withdrawn: Vec<bool> =
            bench.contexts.iter().map(|context| context.permit.is_withdrawn()).collect();
        assert_eq!(withdrawn, [true, for_good]);
    }
}

#[test]
fn what_was_rolled_back_within_a_step_is_not_told() {
    let mut bench = Bench::new();
    bench.step(|step, tx| {
        step.enqueue(tx, Change::create("note", "1").set("a", 1)).unwrap();
        let (mark, savepoint) = (step.mark(), tx.savepoint().unwrap());
        step.enqueue(tx, Change::create("note", "2").set("a", 1)).unwrap();
        tx.rollback_to(savepoint).unwrap();
        step.forget_since(mark);
    });
    let told = |id: &str| {
        let of_it =
            |event: &&Event| matches!(event, Event::Enqueued { entity, .. } if entity.entity_id == id);
        bench.events.iter().filter(of_it).count()
    };
    assert_eq!((told("1"), told("2")), (1, 0));
    assert_eq!(bench.counts().pending, 1);
}

#[test]
fn a_damaged_row_that_a_dead_process_had_under_way_is_set_apart_and_the_others_go_on() {
    let mut bench = Bench::new();
    let damaged = bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap().task.unwrap();
    bench.enqueue(Change::create("note", "2").set("a", 1)).unwrap();
    bench.sync();
    bench.crash();
    assert!(bench.store.damage(damaged));
    bench.sync();
    let batch = bench.last_sent();
    assert_eq!((batch.tasks.len(), batch.tasks[0].entity.entity_id.as_str()), (1, "2"));
    bench.apply(&batch, "1");
    assert_eq!((bench.counts().dead, bench.counts().total()), (1, 1), "nothing is under way for ever");
}

/// Whoever drives the machine may ask for the lease as often as it likes.
#[test]
fn who_holds_the_lease_and_asks_for_it_again_loses_nothing_that_is_under_way() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let lease = bench.store.begin().unwrap().lease().unwrap();
    let answer = bench.step(|step, tx| step.lead(tx, "me", &|_| true).unwrap());
    assert_eq!(answer, Leadership::Held);
    assert_eq!(bench.store.begin().unwrap().lease().unwrap(), lease);
    assert_eq!((bench.counts().in_flight, bench.sent.len()), (1, 1));
}

/// The app did not hear whether its change was taken, and hands it in once more.
#[test]
fn a_change_that_repeats_one_of_unknown_outcome_makes_no_second_task() {
    let mut bench = Bench::new();
    let first = bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    let repeat = |n: i32| Change::create("note", "1").set("a", n).repeat_of(first.task.unwrap());
    let again = bench.enqueue(repeat(1)).unwrap();
    assert_eq!((again.task, again.outcome), (first.task, Enqueued::Repeated));
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(bench.enqueue(repeat(1)).unwrap().outcome, Enqueued::Repeated, "also when it has ended");
    assert_eq!(bench.counts().total(), 0);
}

/// Two processes may call themselves the same; by the number of its lease each of them is one of its own.
#[test]
fn every_new_holder_of_the_lease_has_a_higher_number_also_one_of_the_same_name() {
    let mut bench = Bench::new();
    let fence = |bench: &mut Bench| bench.store.begin().unwrap().lease().unwrap().unwrap().fence;
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let (first, batch) = (fence(&mut bench), bench.last_sent());
    let stale = bench.machine.clone();
    bench.crash();
    bench.sync();
    assert!(fence(&mut bench) > first);
    // The first one was only stopped: what it hears is not its own any more.
    bench.machine = stale;
    bench.outcome(
        &batch,
        &Outcome::Rejected(Rejection { code: "no".into(), message: "no".into(), answer: None }),
    );
    assert!(bench.events.contains(&Event::LeaseLost));
    assert_eq!((bench.counts().in_flight, bench.counts().dead), (1, 0), "it belongs to the new holder");
}

/// Of what a process had under way when it died nobody knows how far it got, however the next try ends.
#[test]
fn what_a_dead_process_had_under_way_stays_of_unknown_fate_until_the_backend_speaks() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    bench.crash();
    bench.sync();
    let again = bench.last_sent();
    assert_eq!((bench.sent.len(), again.tasks[0].attempt), (2, 1), "it has left once already");
    bench.fail(&again, FailureKind::Unreachable, Delivery::NotSent);
    let task = bench.tasks().remove(0);
    assert!(matches!(task.state, TaskState::Unknown { .. }), "{task:?}");
    let cancelled = bench.step(|step, tx| step.cancel(tx, receipt.task.unwrap()).unwrap());
    assert_eq!(cancelled, Cancelled::Requested, "it may have taken effect");
}

/// Another machine on the same store, which looks again and again whether it may lead.
fn rival_leads(bench: &mut Bench, rival: &mut Machine, gone: bool) -> Leadership {
    let now = Now { wall: Timestamp(bench.wall_ms), mono: Mono(bench.mono_ms) };
    let mut step = rival.step(now, Entropy([77; 32]));
    let mut tx = bench.store.begin().unwrap();
    step.start_session(SessionEnd::OnePass);
    let answer = step.lead(&mut *tx, "rival", &|_| gone).unwrap();
    step.finish(&mut *tx).unwrap();
    tx.commit().unwrap();
    rival.apply(step);
    answer
}

/// It waits for a call that takes long, or for a backend that asked for calm: it lives, and says so in time.
#[test]
fn a_holder_that_lives_is_never_taken_over_however_little_it_does() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let mut rival = open(&mut bench.store, Config::default(), capabilities(EffectClass::OneEffect), 9);
    let end = bench.mono_ms + 60_000;
    while bench.mono_ms < end {
        bench.pass(Duration::from_millis(200));
        assert!(matches!(rival_leads(&mut bench, &mut rival, false), Leadership::Elsewhere { .. }));
        bench.run();
    }
    assert!(bench.machine.leads());
}

#[test]
fn who_has_lost_the_lease_reads_nothing_more() {
    let mut bench = Bench::reading();
    bench.sync();
    let (call, _) = bench.pages.last().cloned().expect("a page is asked for");
    let mut rival = open(&mut bench.store, Config::default(), bench::with_feed(), 9);
    assert_eq!(rival_leads(&mut bench, &mut rival, true), Leadership::Held);
    bench.wait(Config::default().lease.term);
    assert!(bench.events.contains(&Event::LeaseLost));
    assert!(bench.cancelled.contains(&call), "its answer would be worth nothing");
}

/// A call that was too large is cut in two, and the other half waits its turn; by then another process may have it.
#[test]
fn who_leads_again_sends_nothing_that_was_planned_before_it_lost_the_lease() {
    let push = landfall_core::config::PushConfig { calls_max: 1, ..Default::default() };
    let mut bench = Bench::with(Config { push, ..Config::default() }, EffectClass::OneEffect);
    for id in ["1", "2"] {
        bench.enqueue(Change::create("note", id).set("a", 1)).unwrap();
    }
    bench.sync();
    let whole = bench.last_sent();
    bench.fail(&whole, FailureKind::TooLarge, Delivery::Answered);
    let half = bench.last_sent();
    assert_eq!((whole.tasks.len(), half.tasks.len(), bench.sent.len()), (2, 1, 2));
    let mut rival = open(&mut bench.store, Config::default(), capabilities(EffectClass::OneEffect), 9);
    assert_eq!(rival_leads(&mut bench, &mut rival, true), Leadership::Held);
    bench.wait(Config::default().lease.term);
    assert!(bench.events.contains(&Event::LeaseLost));
    bench.apply(&half, "1");
    // The rival dies, and is taken over in its turn.
    for _ in 0..100 {
        bench.wait(Duration::from_millis(200));
    }
    assert_eq!(bench.sent.len(), 3);
    assert_eq!(bench.last_sent().tasks[0].entity.entity_id, "2");
    assert_eq!(
        (bench.counts().in_flight, bench.counts().unknown),
        (1, 0),
        "what is sent is written down first"
    );
}
