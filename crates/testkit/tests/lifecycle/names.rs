//! Ids from the server: learnt with the acknowledgement, applied to ids and references from then on, in both directions.

use super::depend::projects_and_notes;
use super::{ended, id, ids, modelled, task};
use crate::bench::{Bench, applied, body};
use landfall_core::adapter::{Applied, EffectClass, Outcome, PushBatch};
use landfall_core::change::{Change, Operation};
use landfall_core::coalesce::Contradiction;
use landfall_core::config::Config;
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::id::EntityKey;
use landfall_core::machine::{Enqueued, Scope};
use landfall_core::model::{TypeModel, WhenDead};
use landfall_core::store::Store;
use landfall_core::task::{Orphaned, StateKind, Verdict};

fn named(server_id: &str, version: &str) -> Outcome {
    let entity_id = Some(server_id.to_owned());
    Outcome::Applied(Applied { version: Some(version.into()), entity_id, ..Applied::default() })
}

/// Answers like a server that names every record `srv-…`.
fn answer(bench: &mut Bench, batch: &PushBatch) {
    super::answer_each(bench, batch, |id| {
        if id.starts_with("srv-") { applied("2") } else { named(&format!("srv-{id}"), "1") }
    });
}

fn remote(kind: &str, id: &str, json: &str, version: &str) -> RemoteEntity {
    RemoteEntity::new(EntityKey::new(kind, id), body(json), Some(version.into()))
}

#[test]
fn ids_and_references_are_the_servers_from_the_acknowledgement_on() {
    let mut bench = modelled(projects_and_notes());
    bench.enqueue(Change::create("project", "p").set("name", "x")).unwrap();
    bench.enqueue(Change::create("note", "n").set("project_id", "p").set("text", "t")).unwrap();
    bench.enqueue(Change::create("comment", "c").set("note_id", "n")).unwrap();
    bench.sync();
    // An edit while the create is under way is a successor: it is sent to the server's id.
    bench.enqueue(Change::update("project", "p").set("name", "y")).unwrap();
    let batch = bench.last_sent();
    answer(&mut bench, &batch);
    let batch = bench.last_sent();
    let mut seen: Vec<_> =
        batch.tasks.iter().map(|task| (task.entity.to_string(), task.payload.to_string())).collect();
    seen.sort();
    assert_eq!(seen[0].0, "note n");
    assert!(seen[0].1.contains(r#""project_id":"srv-p""#), "{}", seen[0].1);
    assert_eq!(seen[1].0, "project srv-p", "where adapters make addresses of it");
    assert!(seen[1].1.contains(r#""entity_id":"srv-p""#), "{}", seen[1].1);
    answer(&mut bench, &batch);
    let batch = bench.last_sent();
    assert!(batch.tasks[0].payload.contains(r#""note_id":"srv-n""#));
    answer(&mut bench, &batch);
    assert_eq!(bench.counts().total(), 0);
    // The app goes on with its own ids.
    assert_eq!(bench.local("note", "n"), Some(body(r#"{"project_id":"p","text":"t"}"#)));
    let tx = bench.store.begin().unwrap();
    assert_eq!(tx.server_id(&EntityKey::new("note", "n")).unwrap().as_deref(), Some("srv-n"));
    assert_eq!(tx.local_id(&EntityKey::new("note", "srv-n")).unwrap().as_deref(), Some("n"));
    drop(tx);
    assert!(
        bench
            .events
            .iter()
            .any(|event| matches!(event, Event::IdLearned { server_id, .. } if server_id == "srv-n"))
    );
}

#[test]
fn what_comes_in_under_the_servers_names_is_of_the_apps_records() {
    let mut bench = modelled(projects_and_notes());
    for (kind, id) in [("project", "p"), ("note", "n")] {
        bench.enqueue(Change::create(kind, id).set("a", 1)).unwrap();
    }
    bench.sync();
    let batch = bench.last_sent();
    answer(&mut bench, &batch);
    bench.hear(remote("note", "srv-n", r#"{"a":2,"project_id":"srv-p"}"#, "5"));
    assert_eq!(bench.local("note", "n"), Some(body(r#"{"a":2,"project_id":"p"}"#)));
    assert_eq!(bench.local("note", "srv-n"), None, "there is one record, not two");
    // The server's name is as good as the app's.
    bench.enqueue(Change::update("note", "srv-n").set("a", 3)).unwrap();
    assert_eq!(bench.local("note", "n"), Some(body(r#"{"a":3,"project_id":"p"}"#)));
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["srv-n"]);
    assert!(!bench.last_payload().contains("project_id"), "a reference that did not change is not sent");
}

#[test]
fn what_the_backend_tells_with_its_yes_names_records_as_the_app_does() {
    let mut bench = modelled(projects_and_notes());
    bench.enqueue(Change::create("project", "p").set("name", "x")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    answer(&mut bench, &batch);
    bench.enqueue(Change::create("note", "n").set("text", "t")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    let fields = Some([("project_id".to_owned(), "srv-p".into())].into_iter().collect());
    bench.outcome(&batch, &Outcome::Applied(Applied { version: Some("1".into()), fields, entity_id: None }));
    assert_eq!(bench.local("note", "n"), Some(body(r#"{"project_id":"p","text":"t"}"#)));
}

#[test]
fn a_conflict_names_the_record_as_the_app_does() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "n").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &named("srv-n", "1"));
    bench.enqueue(Change::update("note", "n").set("a", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: Some(remote("note", "srv-n", r#"{"a":7}"#, "4")) });
    assert_eq!(bench.conflict().entity, EntityKey::new("note", "n"));
    assert!(bench.last_payload().contains(r#""base_version":"4""#));
    assert!(bench.last_payload().contains(r#""entity_id":"srv-n""#));
}

/// The answer to a create is lost, the feed brings the record under the server's name, and the app edits that one.
#[test]
fn a_record_that_the_feed_brought_first_becomes_one_with_the_apps_own() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "n").set("a", 1).set("b", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    bench.hear(remote("note", "srv-n", r#"{"a":1,"b":1,"c":9}"#, "3"));
    let moved = bench.enqueue(Change::update("note", "srv-n").set("b", 2)).unwrap();
    assert_eq!(bench.local("note", "srv-n"), Some(body(r#"{"a":1,"b":2,"c":9}"#)));
    bench.pass(std::time::Duration::from_secs(3600));
    bench.sync();
    let again = bench.sent.iter().rev().find(|batch| ids(batch).contains(&"n")).cloned().unwrap();
    super::answer_each(&mut bench, &again, |id| match id {
        "n" => Outcome::Duplicate(Applied {
            version: Some("1".into()),
            entity_id: Some("srv-n".into()),
            ..Applied::default()
        }),
        _ => Outcome::Retry { after: None, reason: "later".into() },
    });
    if ended(&mut bench, id(&moved)).is_none() {
        // It was sent with the other one: it ends under the server's name.
        assert!(task(&mut bench, id(&moved)).unwrap().frozen.is_some());
    }
    bench.pass(std::time::Duration::from_secs(3600));
    bench.sync();
    while let Some(batch) = bench.sent.pop() {
        bench.answer(&batch, Ok(crate::bench::reply(&batch, &applied("4"))));
    }
    assert_eq!(bench.local("note", "n"), Some(body(r#"{"a":1,"b":2,"c":9}"#)));
    let tx = bench.store.begin().unwrap();
    assert_eq!(tx.entity(&EntityKey::new("note", "srv-n")).unwrap(), None, "one record");
}

#[test]
fn edits_of_the_feeds_copy_that_were_not_sent_go_on_as_edits_of_the_apps_record() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "n").set("a", 1).set("b", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.hear(remote("note", "srv-n", r#"{"a":1,"b":1}"#, "1"));
    let stuck =
        Change::update("note", "srv-n").set("b", 2).not_before(landfall_core::time::Timestamp(i64::MAX));
    let moved = bench.enqueue(stuck).unwrap();
    bench.outcome(&batch, &named("srv-n", "1"));
    let entry = ended(&mut bench, id(&moved)).unwrap();
    assert_eq!(entry.verdict, Verdict::Rebased);
    let next = task(&mut bench, entry.became.unwrap()).unwrap();
    assert_eq!(next.entity, EntityKey::new("note", "n"));
    assert_eq!(next.not_before, Some(landfall_core::time::Timestamp(i64::MAX)));
    assert_eq!(bench.view("n"), r#"{"a":1,"b":2}"#);
    assert_eq!(bench.tasks().len(), 1);
}

/// Project, notes and comments are made offline; the server names them late; the process dies between every two steps.
#[test]
fn a_crash_between_any_two_steps_loses_no_reference() {
    let steps: i32 = 40;
    for crash_at in 0..steps {
        let mut bench = modelled(projects_and_notes());
        bench.enqueue(Change::create("project", "p").set("name", "x")).unwrap();
        for n in 0..3 {
            bench.enqueue(Change::create("note", format!("n{n}")).set("project_id", "p")).unwrap();
            bench
                .enqueue(Change::create("comment", format!("c{n}")).set("note_id", format!("n{n}")))
                .unwrap();
        }
        let mut server = Server::default();
        for step in 0..steps {
            if step == crash_at {
                bench.sent.clear();
                bench.crash();
            }
            if step % 5 == 4 {
                bench.enqueue(Change::update("note", "n1").set("project_id", "p").set("step", step)).unwrap();
            }
            bench.pass(std::time::Duration::from_secs(1200));
            bench.sync();
            if let Some(batch) = bench.sent.pop() {
                // Every other answer gets lost although the server has acted.
                let reply = server.take(&batch);
                if step % 2 == 0 {
                    bench.answer(&batch, Ok(reply));
                } else {
                    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
                }
            }
        }
        for _ in 0..20 {
            bench.pass(std::time::Duration::from_secs(1200));
            bench.sync();
            while let Some(batch) = bench.sent.pop() {
                let reply = server.take(&batch);
                bench.answer(&batch, Ok(reply));
            }
        }
        assert_eq!(bench.counts().total(), 0, "crash at {crash_at}");
        server.check(crash_at);
    }
}

/// A server that names every new record, remembers keys, and refuses what refers to nothing.
#[derive(Default)]
struct Server {
    seen: std::collections::BTreeMap<String, Outcome>,
    records: std::collections::BTreeMap<String, landfall_core::value::Fields>,
    made: u32,
}

impl Server {
    fn take(&mut self, batch: &PushBatch) -> landfall_core::adapter::PushReply {
        let mut results = Vec::new();
        for task in &batch.tasks {
            let key = task.key.to_string();
            let outcome = match self.seen.get(&key) {
                Some(Outcome::Applied(applied)) => Outcome::Duplicate(applied.clone()),
                Some(other) => other.clone(),
                None => self.run(task),
            };
            self.seen.entry(key).or_insert_with(|| outcome.clone());
            results.push((task.key, outcome));
        }
        landfall_core::adapter::PushReply { results, ..Default::default() }
    }

    fn run(&mut self, task: &landfall_core::adapter::PushTask) -> Outcome {
        let payload: serde_json::Value = serde_json::from_str(&task.payload).unwrap();
        let fields = landfall_core::value::Fields::parse(&payload["fields"].to_string()).unwrap();
        let name = |id: &str| format!("{}/{id}", task.entity.entity_type);
        match task.operation {
            Operation::Create => {
                self.made += 1;
                let id = format!("srv{}", self.made);
                self.records.insert(name(&id), fields);
                named(&id, "1")
            }
            _ => match self.records.get_mut(&name(&task.entity.entity_id)) {
                Some(record) => {
                    record.0.extend(fields.0);
                    applied("2")
                }
                None => super::rejected("not_found"),
            },
        }
    }

    fn check(&self, crash_at: i32) {
        assert_eq!(
            self.records.len(),
            7,
            "each record was made once; crash at {crash_at}: {:?}",
            self.records.keys()
        );
        for (name, fields) in &self.records {
            for (field, kind) in [("project_id", "project"), ("note_id", "note")] {
                if let Some(landfall_core::value::Value::Text(id)) = fields.value(field) {
                    assert!(
                        self.records.contains_key(&format!("{kind}/{id}")),
                        "{name} refers to {kind} {id}, which there is not; crash at {crash_at}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_server_that_gives_one_id_to_two_records_mixes_nothing_up() {
    let mut bench = Bench::with(Config::default(), EffectClass::OneEffect);
    for id in ["a", "b"] {
        bench.enqueue(Change::create("note", id).set("who", id)).unwrap();
    }
    bench.sync();
    let batch = bench.last_sent();
    super::answer_each(&mut bench, &batch, |_| named("same", "1"));
    assert_eq!(bench.counts().total(), 0);
    assert_eq!(bench.local("note", "a"), Some(body(r#"{"who":"a"}"#)));
    assert_eq!(bench.local("note", "b"), Some(body(r#"{"who":"b"}"#)));
    let _ = Body::Deleted;
}

/// The feed brings a record under the server's name, an edit of that is under way, and then the answer to the create is
/// heard: the edit is seen under the app's name, whatever becomes of it.
#[test]
fn an_edit_that_left_under_the_servers_name_is_seen_under_the_apps() {
    let at_work = || {
        let mut bench = Bench::new();
        bench.enqueue(Change::create("note", "n").set("a", 1).set("b", 1)).unwrap();
        bench.sync();
        let create = bench.last_sent();
        bench.hear(remote("note", "srv-n", r#"{"a":1,"b":1}"#, "1"));
        let edit = bench.enqueue(Change::update("note", "srv-n").set("b", 2)).unwrap();
        bench.sync();
        let sent = bench.last_sent();
        assert_eq!(ids(&sent), ["srv-n"]);
        bench.outcome(&create, &named("srv-n", "1"));
        assert_eq!(bench.local("note", "srv-n"), None, "one record, one row");
        assert_eq!(bench.view("n"), r#"{"a":1,"b":2}"#);
        (bench, sent, id(&edit))
    };
    let (mut bench, sent, _) = at_work();
    bench.outcome(&sent, &applied("2"));
    assert_eq!(bench.view("n"), r#"{"a":1,"b":2}"#);

    // What leaves in the very step of the verdict is made on what the verdict tells.
    let (mut bench, sent, _) = at_work();
    bench.step(|step, tx| {
        step.enqueue(tx, Change::update("note", "n").set("b", 3)).unwrap();
        step.pushed(tx, sent.call, &Ok(crate::bench::reply(&sent, &applied("2")))).unwrap();
    });
    assert!(
        bench.last_payload().contains(r#""base_version":"2","fields":{"b":3}"#),
        "{}",
        bench.last_payload()
    );

    let (mut bench, sent, edit) = at_work();
    bench.outcome(&sent, &super::rejected("no"));
    assert_eq!(bench.view("n"), r#"{"a":1,"b":2}"#, "a dead letter is seen like any other");
    bench.hear(remote("note", "srv-n", r#"{"a":5,"b":1}"#, "3"));
    assert_eq!(bench.view("n"), r#"{"a":5,"b":2}"#);
    bench.step(|step, tx| step.discard(tx, edit).unwrap());
    assert_eq!(bench.view("n"), r#"{"a":5,"b":1}"#);

    // A later edit is the later one, also when it only takes back what is on its way, and it is sent.
    let (mut bench, _, _) = at_work();
    bench.enqueue(Change::update("note", "n").set("b", 1)).unwrap();
    bench.sync();
    assert!(bench.last_payload().contains(r#""entity_id":"srv-n""#), "{}", bench.last_payload());
    assert!(bench.last_payload().contains(r#""fields":{"b":1}"#), "{}", bench.last_payload());

    let (mut bench, sent, _) = at_work();
    let back = bench.enqueue(Change::update("note", "n").set("b", 1)).unwrap();
    assert!(back.task.is_some(), "the backend is about to have something else");
    assert_eq!(bench.view("n"), r#"{"a":1,"b":1}"#);
    bench.outcome(&sent, &super::rejected("no"));
    assert_eq!(bench.view("n"), r#"{"a":1,"b":1}"#);
}

#[test]
fn an_answer_without_a_name_or_with_the_apps_own_or_a_second_one_changes_no_name() {
    let names_learnt =
        |bench: &Bench| bench.events.iter().filter(|event| matches!(event, Event::IdLearned { .. })).count();
    for (first, second, called, learnt) in
        [("", "", "n", 0), ("n", "n", "n", 0), ("srv-n", "", "srv-n", 1), ("srv-n", "other", "srv-n", 1)]
    {
        let mut bench = Bench::new();
        for (edit, name) in [(0, first), (1, second)] {
            bench.enqueue(Change::upsert("note", "n").set("a", edit)).unwrap();
            bench.sync();
            let batch = bench.last_sent();
            bench.outcome(&batch, &named(name, &edit.to_string()));
        }
        bench.enqueue(Change::update("note", "n").set("a", 2)).unwrap();
        bench.sync();
        assert_eq!(ids(&bench.last_sent()), [called], "{first:?}, then {second:?}");
        assert_eq!(names_learnt(&bench), learnt, "{first:?}, then {second:?}");
    }
}

#[test]
fn a_change_may_call_every_record_by_the_servers_name() {
    let mut bench = modelled(projects_and_notes());
    bench.enqueue(Change::create("project", "p").set("a", 1)).unwrap();
    bench.enqueue(Change::create("note", "n").set("a", 1)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    answer(&mut bench, &batch);
    let again = bench.enqueue(Change::create("note", "srv-n").set("a", 1));
    assert_eq!(again, Err(Contradiction::AlreadyExists.into()));
    let same = bench.enqueue(Change::update("note", "srv-n").set("a", 1)).unwrap();
    assert_eq!(same.outcome, Enqueued::NoChange);
    bench.enqueue(Change::update("project", "p").set("a", 2)).unwrap();
    bench
        .enqueue(Change::update("note", "srv-n").set("project_id", "srv-p").depends_on("project", "srv-p"))
        .unwrap();
    let edit = bench.tasks().pop().unwrap();
    assert_eq!((edit.entity, edit.terms.waits_for.len()), (EntityKey::new("note", "n"), 1));
    assert_eq!(bench.local("note", "n"), Some(body(r#"{"a":1,"project_id":"p"}"#)), "the app's own words");
    bench.sync();
    assert_eq!(ids(&bench.last_sent()), ["srv-p"]);
    let batch = bench.last_sent();
    answer(&mut bench, &batch);
    assert!(bench.last_payload().contains(r#""base_version":"1","fields":{"project_id":"srv-p"}"#));
}

#[test]
fn a_name_that_comes_with_other_answers_is_used_at_once() {
    let mut bench = modelled(projects_and_notes());
    bench.enqueue(Change::create("note", "first").set("a", 1)).unwrap();
    bench.enqueue(Change::create("project", "p").set("a", 1)).unwrap();
    bench.enqueue(Change::create("note", "n").set("project_id", "p")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    assert_eq!(ids(&batch), ["first", "p"]);
    super::answer_each(&mut bench, &batch, |id| match id {
        "p" => named("srv-p", "1"),
        _ => Outcome::Applied(Applied {
            version: Some("1".into()),
            fields: Some([("seen".to_owned(), 1.into())].into_iter().collect()),
            ..Applied::default()
        }),
    });
    assert!(bench.last_payload().contains(r#""fields":{"project_id":"srv-p"}"#), "{}", bench.last_payload());
}

#[test]
fn the_app_is_told_that_the_feeds_copy_of_its_record_is_gone() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "n").set("a", 1).set("b", 1)).unwrap();
    bench.sync();
    let create = bench.last_sent();
    bench.hear(remote("note", "srv-n", r#"{"a":1,"b":1}"#, "1"));
    bench.enqueue(Change::update("note", "srv-n").set("b", 2)).unwrap();
    bench.sync();
    let told = bench.changes_told("srv-n");
    bench.outcome(&create, &named("srv-n", "1"));
    assert_eq!(bench.local("note", "srv-n"), None);
    assert_eq!(bench.changes_told("srv-n"), told + 1);
}

#[test]
fn a_later_change_of_one_record_under_its_other_name_keeps_its_place_behind_a_letter() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "n").set("a", 1).set("b", 1)).unwrap();
    bench.sync();
    let create = bench.last_sent();
    bench.hear(remote("note", "srv-n", r#"{"a":1,"b":1}"#, "1"));
    let first = bench.enqueue(Change::update("note", "srv-n").set("b", 2)).unwrap();
    bench.sync();
    let sent = bench.last_sent();
    bench.outcome(&create, &named("srv-n", "1"));
    let behind = Change::update("note", "n").set("a", 2).depends_on_task(id(&first)).orphaned(Orphaned::Fail);
    let behind = bench.enqueue(behind).unwrap();
    bench.outcome(&sent, &super::rejected("no"));
    assert_eq!(task(&mut bench, id(&behind)).unwrap().state.kind(), StateKind::Pending);
    bench.step(|step, tx| step.discard(tx, id(&first)).unwrap());
    bench.sync();
    assert_eq!(bench.last_sent().tasks[0].task_id, id(&behind));
}

/// The feed brings two records before the answers to their creates are heard, and the app edits the feed's copies.
#[test]
fn edits_that_move_to_the_apps_record_keep_their_place_and_their_children() {
    let mut bench = modelled(projects_and_notes());
    bench.enqueue(Change::create("project", "p").set("a", 1)).unwrap();
    bench.enqueue(Change::create("note", "n").set("a", 1).set("b", 1)).unwrap();
    bench.sync();
    let creates = bench.last_sent();
    bench.step(|step, tx| step.pause(tx, &Scope::All).unwrap());
    bench.hear(remote("note", "srv-n", r#"{"a":1,"b":1}"#, "1"));
    bench.hear(remote("project", "srv-p", r#"{"a":1}"#, "1"));
    let edit = Change::update("note", "srv-n").set("b", 2).set("project_id", "srv-p");
    let edit = bench.enqueue(edit).unwrap();
    let later = bench.enqueue(Change::update("note", "n").set("a", 3)).unwrap();
    let child = bench.enqueue(Change::create("note", "c").set("a", 1).depends_on_task(id(&edit))).unwrap();
    answer(&mut bench, &creates);

    let moved = ended(&mut bench, id(&edit)).unwrap().became.unwrap();
    let entity = EntityKey::new("note", "n");
    assert!(bench.events.contains(&Event::Rebased { task: id(&edit), entity: entity.clone(), next: moved }));
    let next = task(&mut bench, moved).unwrap();
    assert_eq!((next.entity, next.generation), (entity, 3), "the third change of the record");
    assert_eq!(bench.local("note", "n"), Some(body(r#"{"a":3,"b":2,"project_id":"p"}"#)));
    assert_eq!(task(&mut bench, id(&child)).unwrap().terms.waits_for, [moved].into());
    let another = bench.enqueue(Change::action("note", "n", "print")).unwrap();
    assert_eq!(task(&mut bench, id(&another)).unwrap().generation, 4);

    bench.step(|step, tx| step.resume(tx, &Scope::All).unwrap());
    bench.sync();
    let batch = bench.last_sent();
    assert_eq!(batch.tasks.len(), 1, "{batch:?}");
    assert_eq!(batch.tasks[0].task_id, moved, "it was made before the other one");
    answer(&mut bench, &batch);
    let mut then: Vec<_> = bench.last_sent().tasks.iter().map(|task| task.task_id).collect();
    then.sort();
    let mut wanted = vec![id(&later), id(&child)];
    wanted.sort();
    assert_eq!(then, wanted);
}

#[test]
fn an_edit_that_comes_back_unsent_under_the_servers_name_goes_on_under_the_apps_when_it_is_the_last() {
    let skip = TypeModel { when_dead: Some(WhenDead::Skip), ..TypeModel::default() };
    let mut bench = modelled(super::of_type("note", skip));
    bench.enqueue(Change::create("note", "n").set("a", 1).set("b", 1)).unwrap();
    bench.sync();
    let create = bench.last_sent();
    bench.hear(remote("note", "srv-n", r#"{"a":1,"b":1}"#, "1"));
    let letter = bench.enqueue(Change::update("note", "srv-n").set("a", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &super::rejected("no"));
    let edit = bench.enqueue(Change::update("note", "srv-n").set("b", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&create, &named("srv-n", "1"));
    bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    bench.step(|step, tx| step.discard(tx, id(&letter)).unwrap());
    let moved = ended(&mut bench, id(&edit)).unwrap().became.unwrap();
    assert_eq!(task(&mut bench, moved).unwrap().entity, EntityKey::new("note", "n"));
    assert_eq!(bench.view("n"), r#"{"a":1,"b":2}"#);
    assert_eq!(bench.store.begin().unwrap().entity(&EntityKey::new("note", "srv-n")).unwrap(), None);
}
