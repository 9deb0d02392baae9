//! A task never overtakes what it depends on (G4), and is never silently lost with it (G2).

use super::{all_sent, answer_each, ended, id, ids, modelled, rejected, task};
use crate::bench::{Bench, applied, body, theirs};
use landfall_core::adapter::EffectClass;
use landfall_core::change::{Change, InvalidChange};
use landfall_core::config::{Config, Limits};
use landfall_core::conflict::Resolution;
use landfall_core::entity::RemoteEntity;
use landfall_core::explain::{Live, Wait, explain};
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::id::EntityKey;
use landfall_core::machine::{Cancelled, Directions, EnqueueError, Enqueued, Scope, SessionEnd};
use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::model::{Model, TypeModel};
use landfall_core::store::Store;
use landfall_core::task::{Orphaned, StateKind, TaskState, Verdict};
use landfall_core::time::Timestamp;
use std::time::Duration;

/// Notes refer to projects, projects to a cover note.
pub(crate) fn projects_and_notes() -> Model {
    let refers = |field: &str, to: &str| TypeModel {
        references: [(field.to_owned(), to.to_owned())].into(),
        ..TypeModel::default()
    };
    let types = [
        ("note".to_owned(), refers("project_id", "project")),
        ("project".to_owned(), refers("cover_id", "note")),
        ("comment".to_owned(), refers("note_id", "note")),
    ];
    Model { types: types.into(), ..Model::default() }
}

#[test]
fn children_of_an_unconfirmed_create_wait_for_it_by_themselves() {
    let mut bench = modelled(projects_and_notes());
    bench.enqueue(Change::create("project", "p").set("name", "x")).unwrap();
    let note = bench.enqueue(Change::create("note", "n").set("project_id", "p")).unwrap();
    bench.enqueue(Change::create("comment", "c").set("note_id", "n")).unwrap();
    bench.sync();
    assert_eq!(all_sent(&bench), ["p"]);
    {
        let tx = bench.store.begin().unwrap();
        let why = explain(&*tx, id(&note), Timestamp(0), &Live::default()).unwrap().unwrap();
        let Wait::Dependency(blocker) = &why.waits_for[0] else { panic!("{why:?}") };
        assert_eq!(blocker.entity.entity_id, "p");
    }
    for expected in ["p", "n", "c"] {
        let batch = bench.last_sent();
        assert_eq!(ids(&batch), [expected]);
        bench.apply(&batch, "1");
    }
    assert_eq!(bench.counts().total(), 0);
    // The project is confirmed now: nothing has to wait for it any more.
    let later = bench.enqueue(Change::create("note", "m").set("project_id", "p")).unwrap();
    assert!(task(&mut bench, id(&later)).unwrap().terms.waits_for.is_empty());
}

#[test]
fn two_records_that_refer_to_each_other_do_not_wait_for_each_other() {
    let mut bench = modelled(projects_and_notes());
    bench.enqueue(Change::create("note", "n").set("text", "x")).unwrap();
    bench.enqueue(Change::create("project", "p").set("cover_id", "n")).unwrap();
    // This edit would make the note's create wait for the project's, which waits for the note's.
    bench.enqueue(Change::update("note", "n").set("project_id", "p")).unwrap();
    bench.sync();
    let mut order = Vec::new();
    while let Some(batch) = bench.sent.pop() {
        order.extend(batch.tasks.iter().map(|task| format!("{} {}", task.operation, task.entity.entity_id)));
        bench.apply(&batch, "1");
    }
    assert_eq!(order, ["create n", "create p", "update n"]);
    assert_eq!(bench.counts().total(), 0);
}

#[test]
fn a_declared_dependency_on_a_record_waits_for_all_that_is_queued_for_it() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.sync();
    let first = bench.last_sent();
    bench.enqueue(Change::update("note", "a").set("n", 2)).unwrap();
    bench.enqueue(Change::create("note", "b").set("n", 1).depends_on("note", "a")).unwrap();
    bench.apply(&first, "1");
    let second = bench.last_sent();
    assert_eq!(ids(&second), ["a"]);
    bench.apply(&second, "2");
    assert_eq!(ids(&bench.last_sent()), ["b"]);
}

#[test]
fn a_dependency_follows_its_task_through_conflicts_and_retries() {
    let mut bench = Bench::new();
    let parent = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let child = bench.enqueue(Change::create("note", "b").set("n", 1).depends_on_task(id(&parent))).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    let again = bench.step(|step, tx| step.requeue(tx, id(&parent)).unwrap());
    assert_eq!(task(&mut bench, id(&child)).unwrap().terms.waits_for, [again].into());
    bench.sync();
    let batch = bench.last_sent();
    assert_eq!(ids(&batch), ["a"]);
    // A new change may name the old task, which has gone on as another one.
    let other = bench.enqueue(Change::create("note", "c").depends_on_task(id(&parent))).unwrap();
    assert_eq!(task(&mut bench, id(&other)).unwrap().terms.waits_for, [again].into());
    bench.apply(&batch, "1");
    let mut sent: Vec<_> = all_sent(&bench).split_off(2);
    sent.sort();
    assert_eq!(sent, ["b", "c"]);
}

/// A parent that is refused, and its child with this policy.
fn family(orphaned: Orphaned) -> (Bench, landfall_core::id::TaskId, landfall_core::id::TaskId) {
    let mut bench = Bench::new();
    let parent = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let child = Change::create("note", "b").set("n", 1).depends_on("note", "a").orphaned(orphaned);
    let child = bench.enqueue(child).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    (bench, id(&parent), id(&child))
}

#[test]
fn a_child_waits_fails_or_goes_on_when_its_parent_is_dead() {
    let (mut bench, parent, child) = family(Orphaned::Wait);
    assert_eq!(all_sent(&bench), ["a"]);
    bench.step(|step, tx| step.discard(tx, parent).unwrap());
    let orphan = task(&mut bench, child).unwrap();
    assert!(matches!(orphan.state, TaskState::Dead { why: FailureKind::Orphaned }));
    assert!(
        orphan.history.last().unwrap().message.contains(&parent.to_string()),
        "it says whose child it was"
    );
    bench.step(|step, tx| step.requeue(tx, child).unwrap());
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["b"], "the app may send it all the same");

    let (mut bench, parent, child) = family(Orphaned::Fail);
    assert!(matches!(task(&mut bench, child).unwrap().state, TaskState::Dead { why: FailureKind::Orphaned }));
    bench.step(|step, tx| step.requeue(tx, parent).unwrap());
    assert_eq!(bench.counts().dead, 1, "the child is decided about by itself");

    let (bench, _, _) = family(Orphaned::Detach);
    assert_eq!(all_sent(&bench), ["a", "b"]);
}

#[test]
fn a_child_in_the_inbox_meets_the_end_of_its_parent_when_it_is_settled() {
    for (orphaned, goes_on) in [(Orphaned::Wait, false), (Orphaned::Fail, false), (Orphaned::Detach, true)] {
        let mut bench = Bench::ruled(Rules::new(Strategy::Ask));
        bench.hear(theirs("b", r#"{"n":0}"#, "1"));
        let parent = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
        let child = Change::update("note", "b").set("n", 1).depends_on("note", "a").orphaned(orphaned);
        let child = bench.enqueue(child).unwrap();
        bench.hear(theirs("b", r#"{"n":9}"#, "2"));
        assert_eq!(bench.step(|step, tx| step.cancel(tx, id(&parent)).unwrap()), Cancelled::Done);
        assert_eq!(task(&mut bench, id(&child)).unwrap().state, TaskState::Conflict);
        let conflict = bench.inbox().remove(0);
        bench.resolve(&conflict, &Resolution::KeepLocal).unwrap();
        let orphan = TaskState::Dead { why: FailureKind::Orphaned };
        assert_eq!(task(&mut bench, id(&child)).unwrap().state == orphan, !goes_on, "{orphaned:?}");
        bench.sync();
        assert_eq!(bench.sent.is_empty(), !goes_on, "{orphaned:?}");
    }
}

#[test]
fn the_children_of_a_record_that_never_comes_to_be_are_kept_and_shown() {
    let mut bench = modelled(projects_and_notes());
    bench.enqueue(Change::create("project", "p").set("name", "x")).unwrap();
    let note = bench.enqueue(Change::create("note", "n").set("project_id", "p")).unwrap();
    bench.enqueue(Change::delete("project", "p")).unwrap();
    assert!(matches!(
        task(&mut bench, id(&note)).unwrap().state,
        TaskState::Dead { why: FailureKind::Orphaned }
    ));
}

#[test]
fn a_dependency_on_what_was_given_up_or_never_was_is_refused_at_the_door() {
    let mut bench = Bench::new();
    let gone = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    assert_eq!(bench.step(|step, tx| step.cancel(tx, id(&gone)).unwrap()), Cancelled::Done);
    let child = Change::create("note", "b").set("n", 1).depends_on_task(id(&gone));
    let refused = bench.enqueue(child.clone());
    assert_eq!(
        refused,
        Err(EnqueueError::DependencyGivenUp { task: id(&gone), verdict: Verdict::Cancelled })
    );
    assert!(bench.enqueue(child.orphaned(Orphaned::Detach)).is_ok());
    let nobody = landfall_core::id::TaskId::parse("00000000-0000-0000-0000-000000000001").unwrap();
    let refused = bench.enqueue(Change::create("note", "c").set("n", 1).depends_on_task(nobody));
    assert_eq!(refused, Err(EnqueueError::UnknownDependency(nobody)));
}

#[test]
fn more_dependencies_than_allowed_are_refused() {
    let limits = Limits { dependencies: 2, ..Limits::default() };
    let mut bench = Bench::with(Config { limits, ..Config::default() }, EffectClass::OneEffect);
    let change = (0..3)
        .fold(Change::create("note", "x").set("n", 1), |change, n| change.depends_on("note", n.to_string()));
    assert_eq!(
        bench.enqueue(change),
        Err(InvalidChange::TooManyDependencies { dependencies: 3, limit: 2 }.into())
    );
    let just_so =
        Change::create("note", "m").set("n", 1).depends_on("project", "1").depends_on("project", "2");
    assert!(bench.enqueue(just_so).is_ok(), "as many as allowed are allowed");
}

#[test]
fn a_thousand_children_go_when_their_parent_is_done() {
    let mut bench = modelled(projects_and_notes());
    bench.enqueue(Change::create("project", "p").set("name", "x")).unwrap();
    for n in 0..1200 {
        bench.enqueue(Change::create("note", n.to_string()).set("project_id", "p")).unwrap();
    }
    bench.sync();
    while let Some(batch) = bench.sent.pop() {
        answer_each(&mut bench, &batch, |_| applied("1"));
    }
    assert_eq!(bench.counts().total(), 0);
    assert_eq!(bench.reports[0].requests, 4);
    let _ = ended;
}

#[test]
fn a_change_made_after_its_parent_died_waits_fails_or_goes_on_at_once() {
    let ends = [
        (Orphaned::Wait, StateKind::Pending),
        (Orphaned::Fail, StateKind::Dead),
        (Orphaned::Detach, StateKind::InFlight),
    ];
    for (orphaned, wanted) in ends {
        let (mut bench, parent, _) = family(Orphaned::Wait);
        let child = Change::create("note", "late").set("n", 1).depends_on_task(parent).orphaned(orphaned);
        let child = bench.enqueue(child).unwrap();
        bench.sync();
        assert_eq!(task(&mut bench, id(&child)).unwrap().state.kind(), wanted, "{orphaned:?}");

        // Likewise when only a later edit of it names the dead letter.
        let (mut bench, parent, _) = family(Orphaned::Wait);
        let moment = Timestamp(bench.wall_ms + 60_000);
        let child = Change::create("note", "late").set("n", 1).not_before(moment).orphaned(orphaned);
        let child = bench.enqueue(child).unwrap();
        let edit = Change::update("note", "late").set("n", 2).depends_on_task(parent).orphaned(orphaned);
        assert_eq!(bench.enqueue(edit).unwrap().outcome, Enqueued::Coalesced);
        bench.pass(Duration::from_secs(61));
        bench.sync();
        assert_eq!(task(&mut bench, id(&child)).unwrap().state.kind(), wanted, "{orphaned:?}, folded");
    }
}

#[test]
fn what_could_be_sent_waits_again_when_an_edit_gives_it_a_dependency() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    bench.enqueue(Change::create("note", "b").set("n", 1)).unwrap();
    let edit = Change::update("note", "b").set("n", 2).depends_on("note", "a");
    assert_eq!(bench.enqueue(edit).unwrap().outcome, Enqueued::Coalesced);
    bench.sync();
    assert_eq!(all_sent(&bench), ["a"]);
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(all_sent(&bench), ["a", "b"]);
}

#[test]
fn references_count_as_dependencies_and_as_many_as_allowed_are_allowed() {
    let limits = Limits { dependencies: 2, ..Limits::default() };
    let config = Config { limits, model: projects_and_notes(), ..Config::default() };
    let mut bench = Bench::with(config, EffectClass::OneEffect);
    for kind in ["project", "note", "comment"] {
        bench.enqueue(Change::create(kind, "p").set("n", 1)).unwrap();
    }
    let two =
        |id: &str| Change::create("note", id).set("n", 1).depends_on("note", "p").depends_on("comment", "p");
    let just_so = bench.enqueue(two("x")).unwrap();
    assert_eq!(task(&mut bench, id(&just_so)).unwrap().terms.waits_for.len(), 2);
    assert_eq!(
        bench.enqueue(two("y").set("project_id", "p")),
        Err(InvalidChange::TooManyDependencies { dependencies: 3, limit: 2 }.into())
    );
}

#[test]
fn a_change_that_makes_its_record_goes_on_when_the_create_before_it_is_given_up() {
    for change in [Change::upsert("note", "a").set("m", 2), Change::replace("note", "a").set("m", 2)] {
        let mut bench = Bench::new();
        let create = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        let behind = bench.enqueue(change).unwrap();
        bench.outcome(&batch, &rejected("bad"));
        bench.step(|step, tx| step.discard(tx, id(&create)).unwrap());
        bench.sync();
        assert_eq!(bench.last_sent().tasks[0].task_id, id(&behind));
    }
}

/// A change of one record waits for one of another, which waits for the first record's change before: that is given up,
/// and what the backend had meanwhile makes a conflict of the orphan.
#[test]
fn an_orphan_that_becomes_a_conflict_at_once_still_meets_its_parents_end_when_it_is_settled() {
    let mut bench = Bench::ruled(Rules::new(Strategy::Ask));
    bench.hear(theirs("a", r#"{"m":0,"n":0}"#, "1"));
    let first = bench.enqueue(Change::update("note", "a").set("m", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let between = Change::create("note", "b").set("n", 1).depends_on("note", "a").orphaned(Orphaned::Fail);
    let between = bench.enqueue(between).unwrap();
    let last = Change::update("note", "a").set("n", 1).depends_on("note", "b").orphaned(Orphaned::Fail);
    let last = bench.enqueue(last).unwrap();
    bench.hear(theirs("a", r#"{"m":0,"n":9}"#, "2"));
    assert_eq!(bench.step(|step, tx| step.cancel(tx, id(&first)).unwrap()), Cancelled::Requested);
    bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    assert_eq!(ended(&mut bench, id(&first)).unwrap().verdict, Verdict::Cancelled);
    let orphan = TaskState::Dead { why: FailureKind::Orphaned };
    assert_eq!(task(&mut bench, id(&between)).unwrap().state, orphan);
    assert_eq!(task(&mut bench, id(&last)).unwrap().state, TaskState::Conflict);
    let conflict = bench.inbox().remove(0);
    let settled = bench.resolve(&conflict, &Resolution::KeepLocal).unwrap();
    assert_eq!(task(&mut bench, settled.task.unwrap()).unwrap().state, orphan);
}

#[test]
fn a_child_in_the_inbox_goes_on_waiting_for_a_parent_that_is_well_when_it_is_settled() {
    let mut bench = Bench::ruled(Rules::new(Strategy::Ask));
    bench.hear(theirs("b", r#"{"n":0}"#, "1"));
    let moment = Timestamp(bench.wall_ms + 60_000);
    bench.enqueue(Change::create("note", "a").set("n", 1).not_before(moment)).unwrap();
    let child = Change::update("note", "b").set("n", 1).depends_on("note", "a").orphaned(Orphaned::Fail);
    bench.enqueue(child).unwrap();
    bench.hear(theirs("b", r#"{"n":9}"#, "2"));
    let conflict = bench.inbox().remove(0);
    bench.resolve(&conflict, &Resolution::KeepLocal).unwrap();
    assert_eq!(bench.counts().dead, 0);
    bench.sync();
    assert!(bench.sent.is_empty());
    bench.wait(Duration::from_secs(60));
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(all_sent(&bench), ["a", "b"]);
}

#[test]
fn a_change_that_names_its_own_record_or_task_does_not_wait_for_itself() {
    let mut bench = Bench::new();
    let first = bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let of_record = bench.enqueue(Change::update("note", "a").set("n", 2).depends_on("note", "a")).unwrap();
    assert_eq!((of_record.task, of_record.outcome), (first.task, Enqueued::Coalesced));
    bench.enqueue(Change::update("note", "a").set("m", 3).depends_on_task(id(&first))).unwrap();
    assert_eq!(bench.view("a"), r#"{"m":3,"n":2}"#);
    bench.sync();
    for version in ["1", "2"] {
        if let Some(batch) = bench.sent.pop() {
            bench.apply(&batch, version);
        }
    }
    assert_eq!(bench.counts().total(), 0);
}

#[test]
fn a_reference_to_a_record_that_is_there_waits_for_none_of_its_edits() {
    let mut bench = modelled(projects_and_notes());
    let project = EntityKey::new("project", "p");
    bench.hear(RemoteEntity::new(project, body(r#"{"n":1}"#), Some("1".into())));
    bench.enqueue(Change::update("project", "p").set("n", 2)).unwrap();
    bench.enqueue(Change::create("note", "n").set("project_id", "p")).unwrap();
    bench.sync();
    assert_eq!(all_sent(&bench), ["p", "n"]);
}

/// What waited for a parent is no longer held back by anything but the person who decides.
#[test]
fn a_child_that_was_paused_and_lost_its_parent_waits_for_a_decision_and_not_for_a_resume() {
    let mut bench = modelled(projects_and_notes());
    bench.step(|step, tx| step.pause(tx, &Scope::Type("note".into())).unwrap());
    bench.enqueue(Change::create("project", "p").set("name", "x")).unwrap();
    let note = bench.enqueue(Change::create("note", "n").set("text", "x").orphaned(Orphaned::Fail)).unwrap();
    bench.sync();
    assert!(task(&mut bench, id(&note)).unwrap().standing.held);
    bench.enqueue(Change::update("note", "n").set("project_id", "p").orphaned(Orphaned::Fail)).unwrap();
    let batch = bench.last_sent();
    assert_eq!(ids(&batch), ["p"]);
    bench.outcome(&batch, &rejected("bad"));
    assert_eq!(bench.counts().dead, 2);
    bench.step(|step, _| step.stop_session());
    bench.session(SessionEnd::OnePass, Directions::Both);
    let told = bench.reports.last().and_then(|report| report.waiting_for.clone()).unwrap_or_default();
    assert!(told.contains("a decision"), "{told}");
}

/// The backend's state has come while the parent was under way: its refusal makes a conflict of it, and its child waits on.
#[test]
fn a_child_of_a_refused_change_that_becomes_a_conflict_waits_for_the_decision() {
    let mut bench = Bench::ruled(Rules::new(Strategy::Ask));
    bench.hear(theirs("a", r#"{"n":0}"#, "1"));
    let parent = bench.enqueue(Change::update("note", "a").set("n", 1)).unwrap();
    let child = Change::create("note", "b").set("n", 1).depends_on_task(id(&parent)).orphaned(Orphaned::Fail);
    let child = bench.enqueue(child).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.hear(theirs("a", r#"{"n":9}"#, "2"));
    bench.outcome(&batch, &rejected("bad"));
    assert!(matches!(task(&mut bench, id(&parent)).unwrap().state, TaskState::Conflict));
    assert!(matches!(task(&mut bench, id(&child)).unwrap().state, TaskState::Pending { .. }));
}
