//! Promises of the machine that one line of events shows better than a thousand random lives.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use bench::{Bench, applied, capabilities, open, reply};
use landfall_core::adapter::{Applied, Capabilities, EffectClass, Outcome, PushBatch, PushReply, Rejection};
use landfall_core::change::Change;
use landfall_core::config::{AutoConfig, Config, PushConfig, RetryConfig};
use landfall_core::device::DeviceState;
use landfall_core::entity::{Base, Body, RemoteEntity};
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{EntityKey, Entropy, Version};
use landfall_core::machine::{Effect, Enqueued, Leadership, SessionEnd};
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
    bench.enqueue(Change::create("note", "2").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let successor = bench.enqueue(Change::update("note", "2").set("a", 2)).unwrap().task.unwrap();
    assert!(bench.store.damage(successor));
    bench.step(|step, tx| step.remote_changed(tx, remote("2", Body::Deleted, "9")).unwrap());
    bench.apply(&batch, "8");
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

/// A backend that said once that it cannot be read, such as one that was being set up, is asked again now and then.
#[test]
fn reading_that_was_given_up_for_one_run_is_tried_in_the_next() {
    for why in [FailureKind::Unsupported, FailureKind::Forbidden] {
        let mut bench = Bench::reading();
        bench.step(|step, _| step.run_by_itself(AutoConfig::default()));
        bench.fail_page(why);
        assert!(!bench.machine.is_syncing());
        let due = bench.machine.next_wakeup().expect("it goes on by itself");
        bench.wait(Duration::from_millis(due.0 - bench.mono_ms));
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
}
