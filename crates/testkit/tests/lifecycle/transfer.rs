//! Unsynced work out of one store and into another: nothing lost, nothing twice (G2, G3).

use super::{all_sent, ended, id, modelled, of_type, rejected, task};
use crate::bench::{Bench, DRAINED, applied, note, theirs};
use crate::depend::projects_and_notes;
use landfall_core::adapter::{Applied, EffectClass, Outcome};
use landfall_core::change::Change;
use landfall_core::config::{Config, Limits};
use landfall_core::event::Event;
use landfall_core::export::{ExportedTask, each_task};
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::id::TaskId;
use landfall_core::machine::{Directions, RestoreError};
use landfall_core::model::{TypeModel, WhenDead};
use landfall_core::store::{Store, StoreError};
use landfall_core::task::{Orphaned, StateKind, TaskState, Verdict};
use landfall_core::time::Timestamp;
use std::time::Duration;

fn export(bench: &mut Bench) -> Vec<String> {
    let tx = bench.store.begin().unwrap();
    let mut lines = Vec::new();
    each_task(&*tx, |task| {
        lines.push(task.map_err(|row| StoreError::Damaged(row.what))?.to_json());
        Ok::<_, StoreError>(())
    })
    .unwrap();
    lines
}

fn import(bench: &mut Bench, lines: &[String]) -> u32 {
    bench.step(|step, tx| {
        let mut taken = 0;
        for line in lines {
            taken += u32::from(step.restore(tx, ExportedTask::from_json(line).unwrap()).unwrap());
        }
        taken
    })
}

/// A queue with everything in it: sent and unsent, refused, waiting for each other, in a group.
fn full_queue() -> Bench {
    let mut bench = modelled(projects_and_notes());
    bench.enqueue(Change::create("note", "done").set("a", 1).set("b", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "3");
    bench.enqueue(Change::create("note", "sent").set("n", 1)).unwrap();
    bench.enqueue(Change::create("note", "bad").set("n", 1).tag("t").lane("l")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    super::answer_each(&mut bench, &batch, |id| match id {
        "bad" => rejected("bad"),
        _ => landfall_core::adapter::Outcome::Unknown { reason: "lost".into() },
    });
    bench.step(|step, tx| step.pause(tx, &landfall_core::machine::Scope::All).unwrap());
    bench.enqueue(Change::update("note", "done").set("a", 2)).unwrap();
    bench.enqueue(Change::create("project", "p").set("n", 1)).unwrap();
    bench.enqueue(Change::create("note", "child").set("project_id", "p")).unwrap();
    bench.enqueue(Change::create("note", "behind").set("n", 1).lane("l")).unwrap();
    bench.step(|step, tx| {
        step.enqueue(tx, Change::create("note", "g1").set("n", 1).group("g")).unwrap();
        step.enqueue(tx, Change::create("note", "g2").set("n", 1).group("g")).unwrap();
    });
    bench
}

#[test]
fn an_export_taken_in_elsewhere_is_the_same_work_under_the_same_keys() {
    let mut old = full_queue();
    let lines = export(&mut old);
    assert_eq!(lines.len(), 8);
    let sent = old.tasks().into_iter().find(|task| task.entity.entity_id == "sent").unwrap();
    let mut new = modelled(projects_and_notes());
    assert_eq!(import(&mut new, &lines), 8);
    assert_eq!(import(&mut new, &lines), 0, "twice is once");
    assert_eq!(new.counts().dead, 1);
    assert_eq!(new.counts().total(), 8);
    assert_eq!(new.view("done"), r#"{"a":2,"b":1}"#, "the base came along");
    new.pass(Duration::from_secs(3_600));
    new.sync();
    let first = new.sent.iter().flat_map(|batch| &batch.tasks).find(|task| task.task_id == sent.id).unwrap();
    assert_eq!(first.payload, sent.frozen.clone().unwrap().payload);
    assert_eq!(first.key, sent.frozen.unwrap().key);
    let update = new.sent.iter().flat_map(|batch| &batch.tasks).find(|task| task.entity.entity_id == "done");
    assert!(update.unwrap().payload.contains(r#""base_version":"3""#));
    assert!(!all_sent(&new).contains(&"child".to_owned()), "it still waits for its parent");
    assert!(!all_sent(&new).contains(&"behind".to_owned()), "its lane is still blocked");
    while let Some(batch) = new.sent.pop() {
        new.outcome(&batch, &applied("4"));
    }
    assert_eq!(new.counts().total(), 2, "the dead letter and what is behind it");
}

#[test]
fn taking_an_export_back_into_its_own_store_changes_nothing() {
    let mut bench = full_queue();
    let lines = export(&mut bench);
    let before = bench.tasks();
    assert_eq!(import(&mut bench, &lines), 0);
    assert_eq!(bench.tasks(), before);
    bench.step(|step, tx| step.resume(tx, &landfall_core::machine::Scope::All).unwrap());
    bench.pass(Duration::from_secs(3_600));
    bench.sync();
    while let Some(batch) = bench.sent.pop() {
        bench.outcome(&batch, &applied("9"));
    }
    assert_eq!(import(&mut bench, &lines), 0, "what has ended is not queued again");
}

#[test]
fn what_was_under_way_is_of_unknown_fate_elsewhere() {
    let mut old = Bench::new();
    let receipt = old.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    old.sync();
    let lines = export(&mut old);
    let mut new = Bench::new();
    import(&mut new, &lines);
    let taken = task(&mut new, id(&receipt)).unwrap();
    assert!(matches!(taken.state, TaskState::Unknown { .. }));
    assert_eq!(taken.frozen.as_ref().unwrap().open_sends, 1);
    new.sync();
    assert_eq!(new.last_payload(), old.last_payload());
    let batch = new.last_sent();
    new.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    assert!(matches!(task(&mut new, id(&receipt)).unwrap().state, TaskState::Unknown { .. }));
}

#[test]
fn rubbish_is_refused_with_its_reason() {
    for (line, wanted) in [
        ("", "not an exported task"),
        ("{}", "not an exported task"),
        (r#"{"landfall_task":1}"#, "missing field"),
        ("[1,2]", "not an exported task"),
    ] {
        let error = ExportedTask::from_json(line).unwrap_err().to_string();
        assert!(error.contains(wanted), "{line}: {error}");
    }
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let line = export(&mut bench).remove(0);
    let other_form = line.replace(r#""landfall_task":1"#, r#""landfall_task":2"#);
    assert!(ExportedTask::from_json(&other_form).unwrap_err().to_string().contains("form 2"));
    let dead = line.replace(r#""state":"pending""#, r#""state":"dead""#);
    let dead = ExportedTask::from_json(&dead).unwrap();
    assert_eq!(dead.state, StateKind::Dead);
    let mut other = Bench::new();
    let refused = other.step(|step, tx| step.restore(tx, dead));
    assert!(refused.is_err());
}

#[test]
fn work_of_another_account_is_not_taken_in() {
    let mut old = Bench::new();
    let receipt = old.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    let mut exported = ExportedTask::from_json(&export(&mut old)[0]).unwrap();
    exported.identity = Some("alice".into());
    let mut nameless = Bench::new();
    let refused = nameless.step(|step, tx| step.restore(tx, exported.clone()));
    assert_eq!(refused, Err(RestoreError::OtherIdentity { task: id(&receipt), theirs: "alice".into() }));
    let mut alice = Bench::new();
    alice.machine = alice.machine.clone().for_identity(Some("alice"));
    assert_eq!(alice.step(|step, tx| step.restore(tx, exported.clone())), Ok(true));
    // Of a name that is lost nobody knows whose it is.
    let lost = ExportedTask { identity: None, lost_identity: Some(3), ..exported };
    let refused = nameless.step(|step, tx| step.restore(tx, lost));
    assert_eq!(refused, Err(RestoreError::LostIdentity(id(&receipt))));
    assert_eq!(nameless.counts().total(), 0);
}

#[test]
fn work_that_comes_without_what_it_waited_for_goes_by_itself() {
    let mut old = modelled(projects_and_notes());
    old.enqueue(Change::create("project", "p").set("n", 1)).unwrap();
    old.enqueue(Change::create("note", "child").set("project_id", "p")).unwrap();
    let lines = export(&mut old);
    let mut new = modelled(projects_and_notes());
    assert_eq!(import(&mut new, &lines[1..]), 1);
    new.sync();
    assert_eq!(all_sent(&new), ["child"]);
}

#[test]
fn a_letter_that_dies_on_its_way_says_why_and_its_children_meet_that_there() {
    let mut old = Bench::new();
    let parent = old.enqueue(Change::create("note", "a").set("n", 1).at_most_once()).unwrap();
    old.sync();
    let child = |name: &str, orphaned| {
        Change::upsert("note", name).set("m", 1).depends_on_task(id(&parent)).orphaned(orphaned)
    };
    let children = [
        (old.enqueue(child("waits", Orphaned::Wait)).unwrap(), StateKind::Pending),
        (old.enqueue(child("fails", Orphaned::Fail)).unwrap(), StateKind::Dead),
        (old.enqueue(child("goes", Orphaned::Detach)).unwrap(), StateKind::InFlight),
        // A later change of the same record only keeps its place.
        (old.enqueue(child("a", Orphaned::Fail)).unwrap(), StateKind::Pending),
    ];
    let mut new = Bench::new();
    assert_eq!(import(&mut new, &export(&mut old)), 5);
    new.sync();
    let letter = task(&mut new, id(&parent)).unwrap();
    assert_eq!(letter.state, TaskState::Dead { why: FailureKind::FateUnknown });
    assert_eq!(letter.history.last().unwrap().kind, FailureKind::FateUnknown);
    for (receipt, stands) in &children {
        let child = task(&mut new, id(receipt)).unwrap();
        assert_eq!(child.state.kind(), *stands, "{}", child.entity);
    }
}

#[test]
fn the_changes_of_a_record_are_counted_on_from_those_that_were_taken_in() {
    let mut old = Bench::new();
    for n in 0..3 {
        old.enqueue(Change::upsert("note", "a").set("n", n)).unwrap();
        old.sync();
        let batch = old.last_sent();
        if n < 2 {
            old.apply(&batch, "1");
        }
    }
    let mut new = Bench::new();
    import(&mut new, &export(&mut old));
    new.enqueue(Change::update("note", "a").set("n", 9)).unwrap();
    let generations: Vec<_> = new.tasks().iter().map(|task| task.generation).collect();
    assert_eq!(generations, [3, 4]);
}

/// A store whose app has made a note that the backend calls `srv`, and has edited it since.
fn with_a_name() -> Vec<String> {
    let mut old = Bench::new();
    old.enqueue(Change::create("note", "n").set("a", 1).set("b", 1)).unwrap();
    old.sync();
    let batch = old.last_sent();
    let named = Applied { version: Some("1".into()), entity_id: Some("srv".into()), ..Applied::default() };
    old.outcome(&batch, &Outcome::Applied(named));
    old.enqueue(Change::update("note", "n").set("a", 2)).unwrap();
    export(&mut old)
}

#[test]
fn what_the_feed_has_brought_under_the_backends_name_is_one_with_the_work_that_is_taken_in() {
    let mut new = Bench::new();
    new.hear(theirs("srv", r#"{"a":1,"b":7}"#, "3"));
    assert_eq!(import(&mut new, &with_a_name()), 1);
    assert_eq!(new.view("n"), r#"{"a":2,"b":7}"#);
    assert_eq!(new.view("srv"), "nothing", "there is one record, not two");
}

#[test]
fn a_record_that_a_reading_anew_brought_under_its_other_name_is_not_taken_for_gone() {
    let mut new = Bench::reading();
    new.session(DRAINED, Directions::PullOnly);
    new.page(vec![theirs("n", r#"{"a":1,"b":7}"#, "3")], "c1", false);
    new.session(DRAINED, Directions::PullOnly);
    new.fail_page(FailureKind::CursorExpired);
    new.page(vec![theirs("srv", r#"{"a":1,"b":7}"#, "3")], "d1", true);
    import(&mut new, &with_a_name());
    new.page(Vec::new(), "d2", false);
    new.run();
    assert_eq!(new.view("n"), r#"{"a":2,"b":7}"#);
    assert!(new.conflicts().is_empty());
}

#[test]
fn what_is_taken_in_is_checked_like_any_change_and_told() {
    let mut old = Bench::new();
    let receipt = old.enqueue(Change::create("note", "a").set("text", "x".repeat(200))).unwrap();
    let line = ExportedTask::from_json(&export(&mut old)[0]).unwrap();
    let limits = Limits { change_bytes: 100, ..Limits::default() };
    let mut small = Bench::with(Config { limits, ..Config::default() }, EffectClass::OneEffect);
    let refused = small.lost_step(|step, tx| step.restore(tx, line.clone()));
    assert!(matches!(refused, Err(RestoreError::Invalid(_))), "{refused:?}");
    let mut new = Bench::new();
    assert_eq!(new.step(|step, tx| step.restore(tx, line)), Ok(true));
    assert!(new.events.contains(&Event::Enqueued { task: id(&receipt), entity: note("a") }));
}

#[test]
fn what_is_taken_in_expires_by_itself() {
    let mut old = Bench::new();
    let moment = Timestamp(old.wall_ms + 60_000);
    let receipt = old.enqueue(Change::create("note", "a").set("n", 1).expires_at(moment)).unwrap();
    let mut new = Bench::new();
    new.enqueue(Change::create("note", "other").set("n", 1)).unwrap();
    import(&mut new, &export(&mut old));
    assert!(new.machine.next_wakeup().is_some_and(|due| due.0 <= 60_000));
    new.wait(Duration::from_secs(60));
    assert_eq!(ended(&mut new, id(&receipt)).unwrap().verdict, Verdict::Expired);
}

#[test]
fn what_comes_behind_a_letter_that_dies_on_its_way_goes_on_only_if_it_does_not_build_on_it() {
    for (field, goes_on) in [("a", false), ("b", true)] {
        let skip = TypeModel { when_dead: Some(WhenDead::SkipIfIndependent), ..TypeModel::default() };
        let mut old = modelled(of_type("note", skip.clone()));
        old.hear(theirs("n", r#"{"a":1,"b":1}"#, "1"));
        let letter = old.enqueue(Change::update("note", "n").set("a", 2).at_most_once()).unwrap();
        old.sync();
        let behind = old.enqueue(Change::update("note", "n").set(field, 3)).unwrap();
        let mut new = modelled(of_type("note", skip));
        assert_eq!(import(&mut new, &export(&mut old)), 2);
        assert!(task(&mut new, id(&letter)).unwrap().standing.passed_over);
        new.sync();
        assert_eq!(new.sent.len(), usize::from(goes_on), "{field}");
        new.step(|step, tx| step.discard(tx, id(&letter)).unwrap());
        new.sync();
        assert_eq!(new.last_sent().tasks[0].task_id, id(&behind));
    }
}

/// An edit of the feed's copy waits; one change of the app's record was refused and is taken up again, another is under way.
/// Then it turns out that the two records are one.
#[test]
fn what_moves_before_others_waits_for_the_one_that_is_under_way() {
    let skip = TypeModel { when_dead: Some(WhenDead::Skip), ..TypeModel::default() };
    let mut new = modelled(of_type("note", skip));
    new.hear(theirs("n", r#"{"a":1,"b":1,"c":1}"#, "1"));
    new.hear(theirs("srv", r#"{"a":1,"b":1,"c":1}"#, "1"));
    let moment = Timestamp(new.wall_ms + 3_600_000);
    let moves = new.enqueue(Change::update("note", "srv").set("c", 2).not_before(moment)).unwrap();
    let letter = new.enqueue(Change::update("note", "n").set("a", 2)).unwrap();
    new.sync();
    let batch = new.last_sent();
    new.outcome(&batch, &rejected("bad"));
    new.enqueue(Change::update("note", "n").set("b", 2)).unwrap();
    new.sync();
    let under_way = new.last_sent();
    new.step(|step, tx| step.requeue(tx, id(&letter)).unwrap());
    // Two stores in these tests have one name, and so would the two tasks.
    let mut line = ExportedTask::from_json(&with_a_name()[0]).unwrap();
    line.task_id = TaskId::parse("00000000-0000-0000-0000-000000000001").unwrap();
    assert_eq!(import(&mut new, &[line.to_json()]), 1);
    let moved = ended(&mut new, id(&moves)).unwrap().became.unwrap();
    new.pass(Duration::from_secs(3_600));
    new.sync();
    assert_eq!(new.sent.len(), 2, "two changes of one record are never under way together");
    new.apply(&under_way, "2");
    new.sync();
    assert_eq!(new.last_sent().tasks[0].task_id, moved, "it was made first");
}

#[test]
fn a_damaged_task_is_named_in_an_export_and_the_others_are_in_it() {
    let mut bench = Bench::new();
    let tasks: Vec<_> = (0..3)
        .map(|n| id(&bench.enqueue(Change::create("note", n.to_string()).set("n", n)).unwrap()))
        .collect();
    assert!(bench.store.damage(tasks[1]));
    let (mut whole, mut damaged) = (Vec::new(), Vec::new());
    each_task(&*bench.store.begin().unwrap(), |task| {
        match task {
            Ok(task) => whole.push(task.task_id),
            Err(row) => damaged.push(row.seq),
        }
        Ok::<_, StoreError>(())
    })
    .unwrap();
    assert_eq!((whole, damaged.len()), (vec![tasks[0], tasks[2]], 1));
}

/// Written by hand, or by a program that lost it: without the bytes that left there is nothing to ask the backend by.
#[test]
fn what_was_under_way_without_its_bytes_is_work_that_waits() {
    let mut old = Bench::new();
    let receipt = old.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    old.sync();
    let exported = ExportedTask::from_json(&export(&mut old)[0]).unwrap();
    assert_eq!(exported.state, StateKind::InFlight);
    let mut new = Bench::new();
    let bare = ExportedTask { sent: None, ..exported };
    assert_eq!(new.step(|step, tx| step.restore(tx, bare)), Ok(true));
    let taken = task(&mut new, id(&receipt)).unwrap();
    assert!(matches!(taken.state, TaskState::Pending { .. }), "{taken:?}");
    new.sync();
    assert_eq!(all_sent(&new), ["a"]);
}

#[test]
fn a_record_keeps_its_name_from_the_backend_in_another_store() {
    let mut old = Bench::new();
    old.enqueue(Change::create("note", "a").set("n", 1)).unwrap();
    old.sync();
    let batch = old.last_sent();
    let named = landfall_core::adapter::Applied {
        version: Some("1".into()),
        entity_id: Some("srv".into()),
        ..Default::default()
    };
    old.outcome(&batch, &landfall_core::adapter::Outcome::Applied(named));
    old.enqueue(Change::update("note", "a").set("n", 2)).unwrap();
    let mut new = Bench::new();
    assert_eq!(import(&mut new, &export(&mut old)), 1);
    new.sync();
    assert_eq!(all_sent(&new), ["srv"]);
}
