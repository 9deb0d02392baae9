//! Atomic groups: sent together or not at all, through refusals, conflicts, restarts and bisection.

use super::{answer_each, ended, id, ids, rejected, task};
use crate::bench::{Bench, applied, capabilities, theirs};
use landfall_core::adapter::{Capabilities, EffectClass, Outcome};
use landfall_core::change::Change;
use landfall_core::config::{Config, PushConfig};
use landfall_core::explain::{Live, Wait, explain};
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::id::TaskId;
use landfall_core::machine::{Cancelled, EnqueueError};
use landfall_core::store::Store;
use landfall_core::task::{TaskState, Verdict};
use landfall_core::time::Timestamp;
use std::time::Duration;

fn grouped(bench: &mut Bench, ids: &[&str]) -> Vec<TaskId> {
    bench.step(|step, tx| {
        let change = |id: &&str| Change::create("note", *id).set("n", 1).group("g");
        ids.iter().map(|id| step.enqueue(tx, change(id)).unwrap().task.unwrap()).collect()
    })
}

fn aborted() -> Outcome {
    Outcome::Retry { after: None, reason: "group_aborted".into() }
}

#[test]
fn a_group_waits_until_all_of_it_can_go_and_goes_in_one_request() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "b").set("n", 0)).unwrap();
    bench.sync();
    let before = bench.last_sent();
    let members: Vec<TaskId> = bench.step(|step, tx| {
        let change = |id: &&str| Change::upsert("note", *id).set("n", 1).group("g");
        ["a", "b", "c"].iter().map(|id| step.enqueue(tx, change(id)).unwrap().task.unwrap()).collect()
    });
    assert_eq!(bench.sent.len(), 1, "one of them has to wait, so all do");
    {
        let tx = bench.store.begin().unwrap();
        let why = explain(&*tx, members[0], Timestamp(i64::MAX), &Live::default()).unwrap().unwrap();
        assert!(why.waits_for.iter().any(|wait| matches!(wait, Wait::Group { .. })), "{why:?}");
    }
    bench.apply(&before, "1");
    let batch = bench.last_sent();
    assert_eq!(ids(&batch), ["a", "b", "c"]);
    assert!(batch.tasks.iter().all(|task| task.payload.contains(r#""group":"g""#)));
}

#[test]
fn a_small_batch_does_not_tear_a_group() {
    let push = PushConfig { batch_tasks: 4, calls_max: 1, ..PushConfig::default() };
    let mut bench = Bench::with(Config { push, ..Config::default() }, EffectClass::OneEffect);
    for single in ["1", "2"] {
        bench.enqueue(Change::create("note", single).set("n", 1)).unwrap();
    }
    grouped(&mut bench, &["a", "b", "c"]);
    bench.enqueue(Change::create("note", "3").set("n", 1)).unwrap();
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["1", "2"]);
    // After trouble the batches are small; a group goes whole all the same.
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    for _ in 0..20 {
        bench.pass(Duration::from_secs(3600));
        bench.sync();
        let Some(batch) = bench.sent.pop() else { break };
        let group = ids(&batch).iter().filter(|id| ["a", "b", "c"].contains(id)).count();
        assert!(group == 0 || group == 3, "{batch:?}");
        bench.outcome(&batch, &applied("1"));
    }
    assert_eq!(bench.counts().total(), 0);
}

#[test]
fn one_refused_member_stops_the_group_and_retrying_it_sends_all_again() {
    let mut bench = Bench::new();
    let members = grouped(&mut bench, &["a", "b", "c"]);
    bench.sync();
    let batch = bench.last_sent();
    answer_each(&mut bench, &batch, |id| if id == "b" { rejected("bad") } else { aborted() });
    bench.pass(Duration::from_secs(3600));
    bench.sync();
    assert_eq!(bench.sent.len(), 1, "without the refused one nothing goes");
    let again = bench.step(|step, tx| step.requeue(tx, members[1]).unwrap());
    bench.sync();
    let batch = bench.last_sent();
    assert_eq!(ids(&batch), ["a", "b", "c"]);
    bench.outcome(&batch, &applied("1"));
    assert_eq!(ended(&mut bench, again).unwrap().verdict, Verdict::Applied);
    assert_eq!(bench.counts().total(), 0);
}

#[test]
fn giving_up_one_of_a_group_gives_up_all_of_it() {
    let mut bench = Bench::new();
    let members = grouped(&mut bench, &["a", "b"]);
    bench.sync();
    let batch = bench.last_sent();
    answer_each(&mut bench, &batch, |id| if id == "b" { rejected("bad") } else { aborted() });
    bench.step(|step, tx| step.discard(tx, members[1]).unwrap());
    assert_eq!(ended(&mut bench, members[1]).unwrap().verdict, Verdict::Discarded);
    // The other one left once: a late copy of it may still arrive, so its end is only wished for.
    let other = task(&mut bench, members[0]);
    assert!(other.is_none_or(|task| task.standing.cancelling));

    let mut bench = Bench::new();
    let members = grouped(&mut bench, &["a", "b"]);
    assert_eq!(bench.step(|step, tx| step.cancel(tx, members[0]).unwrap()), Cancelled::Done);
    assert_eq!(bench.counts().total(), 0);
}

#[test]
fn a_conflict_of_one_member_is_merged_and_the_group_goes_again() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "b").set("n", 0).set("m", 0)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.step(|step, tx| {
        step.enqueue(tx, Change::create("note", "a").set("n", 1).group("g")).unwrap();
        step.enqueue(tx, Change::update("note", "b").set("n", 1).group("g")).unwrap();
    });
    bench.sync();
    let batch = bench.last_sent();
    answer_each(&mut bench, &batch, |id| match id {
        "b" => Outcome::Conflict { remote: Some(theirs("b", r#"{"n":0,"m":7}"#, "2")) },
        _ => aborted(),
    });
    bench.pass(Duration::from_secs(3600));
    bench.sync();
    let batch = bench.last_sent();
    assert_eq!(ids(&batch), ["a", "b"]);
    assert!(batch.tasks[1].payload.contains(r#""base_version":"2""#));
    assert!(batch.tasks.iter().all(|task| task.payload.contains(r#""group":"g""#)));
}

#[test]
fn a_group_of_unknown_fate_is_sent_again_as_it_was() {
    let mut bench = Bench::new();
    grouped(&mut bench, &["a", "b", "c"]);
    bench.sync();
    let first = bench.last_sent();
    bench.crash();
    bench.pass(Duration::from_secs(3600));
    bench.sync();
    let again = bench.last_sent();
    let bytes = |batch: &landfall_core::adapter::PushBatch| {
        batch.tasks.iter().map(|task| task.payload.clone()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(&first), bytes(&again));
}

#[test]
fn a_refused_request_is_cut_between_groups_and_a_group_alone_dies_together() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("n", 1)).unwrap();
    grouped(&mut bench, &["a", "b", "c"]);
    bench.enqueue(Change::create("note", "2").set("n", 1)).unwrap();
    bench.sync();
    let mut refused = 0;
    while let Some(batch) = bench.sent.pop() {
        let group = ids(&batch).iter().filter(|id| ["a", "b", "c"].contains(id)).count();
        assert!(group == 0 || group == 3, "{batch:?}");
        if group == 3 {
            refused += 1;
            bench.fail(&batch, FailureKind::TooLarge, Delivery::Answered);
        } else {
            bench.outcome(&batch, &applied("1"));
        }
    }
    assert!(refused >= 2);
    assert_eq!(bench.counts().dead, 3);
    assert_eq!(bench.counts().total(), 3);
    let dead = bench.tasks();
    assert!(dead.iter().all(|task| matches!(task.state, TaskState::Dead { why: FailureKind::TooLarge })));
}

#[test]
fn a_group_that_cannot_be_sent_as_one_is_refused_at_the_door() {
    let none = Capabilities { atomic_groups: false, ..capabilities(EffectClass::OneEffect) };
    let mut bench = Bench::of(Config::default(), none);
    let change = Change::create("note", "a").set("n", 1).group("g");
    assert_eq!(bench.enqueue(change.clone()), Err(EnqueueError::GroupsUnsupported));

    let push = PushConfig { batch_tasks: 2, ..PushConfig::default() };
    let mut bench = Bench::with(Config { push, ..Config::default() }, EffectClass::OneEffect);
    grouped(&mut bench, &["a", "b"]);
    let third = Change::create("note", "c").set("n", 1).group("g");
    assert_eq!(bench.enqueue(third), Err(EnqueueError::GroupTooLarge { group: "g".into(), limit: 2 }));
    bench.sync();
    assert_eq!(bench.enqueue(change_of("d")), Err(EnqueueError::GroupClosed("g".into())));
    let _ = id;
}

fn change_of(id: &str) -> Change {
    Change::create("note", id).set("n", 1).group("g")
}

/// The first of a group has its moment before the others come; one of those ends unsent, because it turns out to change
/// nothing. The rest used to wait for each other for ever (seed 1518 of the second world).
#[test]
fn the_rest_of_a_group_goes_on_when_one_of_it_turns_out_to_change_nothing() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "n").set("text", "x")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.step(|step, _| step.stop_session());
    bench.enqueue(Change::update("note", "n").set("text", "y").priority(-2)).unwrap();
    bench.step(|step, tx| {
        step.enqueue(tx, Change::create("note", "a").set("n", 1).group("g")).unwrap();
        step.enqueue(tx, Change::update("note", "n").set("text", "y").group("g")).unwrap();
        step.enqueue(tx, Change::create("note", "b").set("n", 1).group("g")).unwrap();
    });
    bench.hear(theirs("n", r#"{"text":"x","other":1}"#, "2"));
    assert_eq!(bench.tasks().len(), 3, "one of the group has ended");
    bench.sync();
    for round in 0..5 {
        let sent = bench.sent.clone();
        sent.iter().skip(1 + round).take(1).for_each(|batch| bench.apply(batch, "9"));
    }
    assert_eq!(bench.counts().total(), 0, "{:?}", bench.tasks());
}

#[test]
fn a_group_that_was_under_way_when_the_process_died_goes_again_whole() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.enqueue(Change::create("note", name).set("n", 1).group("g")).unwrap();
    }
    bench.sync();
    let before = bench.last_sent();
    bench.crash();
    bench.sync();
    assert_eq!((bench.sent.len(), bench.counts().in_flight), (2, 3));
    let keys = |batch: &landfall_core::adapter::PushBatch| {
        batch.tasks.iter().map(|task| task.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&bench.last_sent()), keys(&before), "under the same keys");
}
