//! What the simulator's second world has found, each by the shortest way that leads to it.

use super::{answer_each, ended, id, ids, modelled, of_type, rejected, task};
use crate::bench::{Bench, applied, theirs};
use crate::depend::projects_and_notes;
use landfall_core::adapter::{Applied, EffectClass, Outcome};
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::device::DeviceState;
use landfall_core::export::{ExportedTask, each_task_of};
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::machine::{Cancelled, EnqueueError, Scope};
use landfall_core::model::{Model, TypeModel, Upcast, UpcastRules, WhenDead};
use landfall_core::store::{Store, StoreError};
use landfall_core::task::{TaskState, Verdict};
use std::time::Duration;

fn export(bench: &mut Bench, model: &Model) -> Vec<String> {
    let tx = bench.store.begin().unwrap();
    let mut lines = Vec::new();
    each_task_of(&*tx, model, |task| {
        lines.push(task.map_err(|row| StoreError::Damaged(row.what))?.to_json());
        Ok::<_, StoreError>(())
    })
    .unwrap();
    lines
}

fn import(bench: &mut Bench, lines: &[String]) {
    bench.step(|step, tx| {
        for line in lines {
            step.restore(tx, ExportedTask::from_json(line).unwrap()).unwrap();
        }
    });
}

fn aborted() -> Outcome {
    Outcome::Retry { after: None, reason: "group_aborted".into() }
}

#[test]
fn what_was_held_for_the_network_goes_after_a_restart_on_a_free_one() {
    let mut bench = Bench::new();
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::metered(true)).unwrap());
    let receipt = bench.enqueue(Change::create("note", "a").set("n", 1).unmetered_only()).unwrap();
    bench.sync();
    assert!(task(&mut bench, id(&receipt)).unwrap().standing.held);
    bench.crash();
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["a"]);
}

#[test]
fn a_task_of_unknown_fate_is_not_hidden_by_its_not_before_when_the_clock_goes_back() {
    let mut bench = Bench::new();
    let moment = landfall_core::time::Timestamp(bench.wall_ms - 1);
    bench.enqueue(Change::create("note", "a").set("n", 1).not_before(moment)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.wall_ms -= 365 * 24 * 3_600_000;
    bench.pass(Duration::from_secs(7_200));
    bench.sync();
    assert_eq!(bench.sent.len(), 2);
}

#[test]
fn what_must_not_be_sent_twice_is_not_sent_again_by_another_store() {
    let mut old = Bench::new();
    let receipt = old.enqueue(Change::create("note", "a").set("n", 1).at_most_once()).unwrap();
    old.sync();
    let lines = export(&mut old, &Model::default());
    let mut new = Bench::new();
    import(&mut new, &lines);
    let taken = task(&mut new, id(&receipt)).unwrap();
    assert!(matches!(taken.state, TaskState::Dead { why: FailureKind::FateUnknown }));
    new.sync();
    assert!(new.sent.is_empty());
}

#[test]
fn a_reference_keeps_its_name_from_the_backend_in_another_store() {
    let mut old = modelled(projects_and_notes());
    old.enqueue(Change::create("project", "p").set("n", 1)).unwrap();
    old.sync();
    let batch = old.last_sent();
    let named = Applied { version: Some("1".into()), entity_id: Some("srv".into()), ..Applied::default() };
    old.outcome(&batch, &Outcome::Applied(named));
    old.enqueue(Change::create("note", "n").set("project_id", "p")).unwrap();
    let lines = export(&mut old, &projects_and_notes());
    let mut new = modelled(projects_and_notes());
    import(&mut new, &lines);
    new.sync();
    assert!(new.last_payload().contains(r#""project_id":"srv""#), "{}", new.last_payload());
}

#[test]
fn changes_of_a_group_that_would_wait_for_each_other_are_refused() {
    let mut bench = modelled(projects_and_notes());
    bench.enqueue(Change::create("project", "p").set("n", 1).group("g").lane("l")).unwrap();
    for change in [
        Change::update("project", "p").set("n", 2).group("g"),
        Change::create("note", "a").set("project_id", "p").group("g"),
        Change::create("note", "b").set("n", 1).group("g").lane("l"),
    ] {
        let refused = bench.lost_step(|step, tx| step.enqueue(tx, change));
        assert!(matches!(refused, Err(EnqueueError::GroupTangled(_))), "{refused:?}");
    }
}

#[test]
fn a_group_waits_for_its_paused_member() {
    let mut bench = Bench::new();
    bench.step(|step, tx| step.pause(tx, &Scope::Type("paused".into())).unwrap());
    bench.enqueue(Change::create("note", "a").set("n", 1).group("g")).unwrap();
    bench.enqueue(Change::create("paused", "b").set("n", 1).group("g")).unwrap();
    bench.sync();
    assert!(bench.sent.is_empty());
    bench.step(|step, tx| step.resume(tx, &Scope::Type("paused".into())).unwrap());
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["a", "b"]);
}

#[test]
fn a_group_that_is_cancelled_in_flight_and_never_left_is_cancelled_whole() {
    let mut bench = Bench::new();
    let members = ["a", "b"]
        .map(|name| id(&bench.enqueue(Change::create("note", name).set("n", 1).group("g")).unwrap()));
    bench.sync();
    let cancelled = bench.step(|step, tx| step.cancel(tx, members[0]).unwrap());
    assert_eq!(cancelled, Cancelled::Requested);
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    for member in members {
        assert_eq!(ended(&mut bench, member).unwrap().verdict, Verdict::Cancelled);
    }
}

#[test]
fn a_group_is_cancelled_whole_when_its_rebased_member_never_left() {
    let mut bench = Bench::new();
    bench.hear(theirs("b", r#"{"n":0}"#, "1"));
    let b = bench.enqueue(Change::update("note", "b").set("n", 1).group("g")).unwrap();
    let a = bench.enqueue(Change::create("note", "a").set("n", 1).group("g")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    answer_each(&mut bench, &batch, |name| match name {
        "b" => Outcome::Conflict { remote: Some(theirs("b", r#"{"n":0,"m":7}"#, "2")) },
        _ => aborted(),
    });
    bench.pass(Duration::from_secs(3_600));
    bench.sync();
    // The one goes with a new key that has never left, the other with its old one, of which a copy did.
    let batch = bench.last_sent();
    assert_eq!(ids(&batch), ["b", "a"]);
    let rebased = ended(&mut bench, id(&b)).unwrap().became.unwrap();
    assert_eq!(bench.step(|step, tx| step.cancel(tx, rebased).unwrap()), Cancelled::Requested);
    bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    for member in [rebased, id(&a)] {
        assert_eq!(ended(&mut bench, member).map(|entry| entry.verdict), Some(Verdict::Cancelled));
    }
}

#[test]
fn what_is_left_of_a_group_is_never_sent_without_the_refused_one() {
    let mut bench = Bench::new();
    let members = ["a", "b"]
        .map(|name| id(&bench.enqueue(Change::create("note", name).set("n", 1).group("g")).unwrap()));
    bench.sync();
    let batch = bench.last_sent();
    answer_each(&mut bench, &batch, |name| if name == "b" { rejected("bad") } else { aborted() });
    bench.step(|step, tx| step.discard(tx, members[1]).unwrap());
    bench.pass(Duration::from_secs(3_600));
    bench.sync();
    assert_eq!(bench.sent.len(), 1);
    assert_eq!(ended(&mut bench, members[0]).unwrap().verdict, Verdict::Discarded);
}

#[test]
fn a_group_goes_on_when_its_conflict_is_answered_first() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "b").set("n", 0)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.enqueue(Change::update("note", "b").set("n", 1).group("g")).unwrap();
    bench.enqueue(Change::create("note", "a").set("n", 1).group("g")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    answer_each(&mut bench, &batch, |name| match name {
        "b" => Outcome::Conflict { remote: Some(theirs("b", r#"{"n":0,"m":7}"#, "2")) },
        _ => aborted(),
    });
    bench.pass(Duration::from_secs(3_600));
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["b", "a"]);
}

#[test]
fn a_payload_that_is_made_new_is_shown_as_it_is_sent() {
    let mut old = Bench::new();
    old.enqueue(Change::create("note", "a").set("text", "x")).unwrap();
    let rules =
        UpcastRules { rename: [("text".to_owned(), "body".to_owned())].into(), ..UpcastRules::default() };
    let upcasts = [(1, Upcast::Rules(rules))].into();
    let model = of_type("note", TypeModel { schema: 2, upcasts, ..TypeModel::default() });
    let mut newer = Bench::with(Config { model, ..Config::default() }, EffectClass::OneEffect);
    std::mem::swap(&mut newer.store, &mut old.store);
    newer.crash();
    newer.sync();
    assert_eq!(newer.view("a"), r#"{"body":"x"}"#);
    let batch = newer.last_sent();
    newer.apply(&batch, "1");
    assert_eq!(newer.view("a"), r#"{"body":"x"}"#);
}

#[test]
fn a_state_that_comes_in_waits_for_what_has_passed_a_dead_letter() {
    let mut bench = modelled(Model { when_dead: WhenDead::Skip, ..Model::default() });
    bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.enqueue(Change::update("note", "a").set("bad", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    let receipt = bench.enqueue(Change::update("note", "a").set("n", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    // It had taken effect, and somebody else wrote after it.
    bench.hear(theirs("a", r#"{"n":2,"m":5}"#, "3"));
    assert!(task(&mut bench, id(&receipt)).is_some(), "its fate is open");
    bench.pass(Duration::from_secs(3_600));
    bench.sync();
    let batch = bench.last_sent();
    assert_eq!(batch.tasks[0].task_id, id(&receipt));
    bench.outcome(&batch, &applied("2"));
    assert_eq!(ended(&mut bench, id(&receipt)).unwrap().verdict, Verdict::Applied);
}
