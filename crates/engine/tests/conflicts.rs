//! Conflicts as an app meets them: its resolver, its decisions, and records that change under its eyes. The rules
//! themselves are tested in `crates/testkit/tests/conflicts.rs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::adapter::{BoxFuture, Outcome, PullPage, PushBatch, PushReply};
use landfall_core::change::Change;
use landfall_core::config::{Config, ConflictConfig};
use landfall_core::conflict::{Choice, ConflictRecord, DecidedBy, Resolution, ResolveError};
use landfall_core::dirty::DirtyTracker;
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::event::Event;
use landfall_core::failure::Failure;
use landfall_core::id::{ConflictId, EntityKey, Entropy};
use landfall_core::inspect::EntityStatus;
use landfall_core::machine::Machine;
use landfall_core::merge::rule::{Answer, DeletePolicy, InvalidRule, Rules, Strategy};
use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{ConflictQuery, Store};
use landfall_core::time::{Mono, Now, Timestamp};
use landfall_core::value::{Fields, Value};
use landfall_engine::{ConflictResolver, Engine, EngineBuilder, Error, EventStream, Notice};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Broken, BrokenStore, Scripted};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn note(id: &str) -> EntityKey {
    EntityKey::new("note", id)
}

fn fields(json: &str) -> Fields {
    Fields::parse(json).unwrap()
}

fn theirs(id: &str, json: &str, version: &str) -> RemoteEntity {
    RemoteEntity::new(note(id), Body::Live(fields(json)), Some(version.into()))
}

fn asking() -> Config {
    let conflicts = ConflictConfig { rules: Rules::new(Strategy::Ask), ..ConflictConfig::default() };
    Config { conflicts, ..Config::default() }
}

/// A store in which each of these notes waits in the inbox.
fn inbox(ids: &[&str]) -> MemoryStore {
    use landfall_core::adapter::Adapter;
    let mut store = MemoryStore::default();
    let mut tx = store.begin().unwrap();
    let capabilities = Scripted::honest().capabilities();
    let machine = Machine::open(asking(), capabilities, &Entropy([1; 32]), &mut *tx).unwrap();
    let mut step = machine.step(Now { wall: Timestamp(1), mono: Mono(1) }, Entropy([2; 32]));
    for id in ids {
        step.remote_changed(&mut *tx, theirs(id, r#"{"a":"base","b":1}"#, "1")).unwrap();
        step.enqueue(&mut *tx, Change::update("note", *id).set("a", "ours")).unwrap();
        step.remote_changed(&mut *tx, theirs(id, r#"{"a":"theirs","b":2}"#, "2")).unwrap();
    }
    step.finish(&mut *tx).unwrap();
    tx.commit().unwrap();
    store
}

fn builder(store: impl Store + 'static, adapter: Scripted) -> EngineBuilder {
    Engine::builder(store, adapter).config(asking())
}

fn waiting(engine: &Engine) -> Vec<ConflictRecord> {
    let open = ConflictQuery { open_only: true, ..ConflictQuery::default() };
    engine.conflicts(open, 100).unwrap().conflicts
}

fn until(events: &mut EventStream, test: impl Fn(&Event) -> bool) {
    loop {
        match events.next_within(PATIENCE).expect("it happens in time") {
            Notice::Event(event) if test(&event) => return,
            _ => {}
        }
    }
}

type Decide = dyn Fn(&ConflictRecord) -> Option<Resolution> + Send + Sync;

/// A resolver that tells whom it was asked about and decides as it is told.
struct Told {
    asked: Mutex<Sender<(String, Option<String>)>>,
    decide: Arc<Decide>,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

impl ConflictResolver for Told {
    fn resolve<'a>(&'a self, conflict: &'a ConflictRecord) -> BoxFuture<'a, Option<Resolution>> {
        Box::pin(async move {
            let version = conflict.remote.as_ref().and_then(|remote| remote.version.clone());
            let about = (conflict.entity.entity_id.clone(), version.map(|version| version.0));
            self.asked.lock().unwrap().send(about).unwrap();
            (self.decide)(conflict)
        })
    }
}

type Asked = Receiver<(String, Option<String>)>;

fn told(decide: impl Fn(&ConflictRecord) -> Option<Resolution> + Send + Sync + 'static) -> (Told, Asked) {
    let (asked, questions) = channel();
    (Told { asked: Mutex::new(asked), decide: Arc::new(decide) }, questions)
}

fn question(asked: &Asked) -> (String, Option<String>) {
    asked.recv_timeout(PATIENCE).expect("it is asked")
}

fn about(id: &str, version: &str) -> (String, Option<String>) {
    (id.to_owned(), Some(version.to_owned()))
}

/// Answers the first call with a conflict and applies everything after it.
fn refusing_once(remote: RemoteEntity) -> Scripted {
    Scripted::answering(move |number, batch| match number {
        0 => conflict_of(batch, &remote),
        _ => support::apply(batch),
    })
}

fn conflict_of(batch: &PushBatch, remote: &RemoteEntity) -> Result<PushReply, Failure> {
    let outcome = Outcome::Conflict { remote: Some(remote.clone()) };
    let results = batch.tasks.iter().map(|task| (task.key, outcome.clone())).collect();
    Ok(PushReply { results, ..PushReply::default() })
}

#[test]
fn a_resolver_is_asked_and_the_next_sync_sends_what_it_decided() {
    let adapter = refusing_once(theirs("1", r#"{"a":"theirs","b":2}"#, "2"));
    let (resolver, asked) = told(|_| {
        let choice = Choice::Value("both".into());
        Some(Resolution::Fields(BTreeMap::from([("a".to_owned(), choice)])))
    });
    let engine = builder(MemoryStore::default(), adapter.clone())
        .conflict_resolver(resolver)
        .build_blocking()
        .unwrap();
    let mut events = engine.events();
    let form = DirtyTracker::new(fields(r#"{"a":"base","b":1}"#));
    let mut edited = form;
    edited.set("a", "ours");
    let change = edited.payload().base_version("1").change(note("1")).unwrap();
    engine.enqueue_blocking(change).unwrap();
    engine.sync_blocking().unwrap();
    assert_eq!(question(&asked), about("1", "2"));
    until(&mut events, |event| matches!(event, Event::Resolved { .. }));
    let settled =
        engine.conflicts(ConflictQuery::default(), 10).unwrap().conflicts.remove(0).settled.unwrap();
    assert_eq!(settled.by, DecidedBy::App);
    let report = engine.sync_blocking().unwrap();
    assert!(report.is_complete(), "{report:?}");
    let payload = adapter.sent().last().unwrap().tasks[0].payload.to_string();
    assert!(payload.contains(r#""base_version":"2","fields":{"a":"both"}"#), "{payload}");
}

#[test]
fn after_a_restart_a_resolver_is_asked_about_everything_that_still_waits() {
    let store = inbox(&["1", "2"]);
    for _ in 0..2 {
        let (resolver, asked) = told(|_| None);
        let engine =
            builder(store.clone(), Scripted::honest()).conflict_resolver(resolver).build_blocking().unwrap();
        let mut questions = [question(&asked), question(&asked)];
        questions.sort();
        assert_eq!(questions, [about("1", "2"), about("2", "2")]);
        assert_eq!(waiting(&engine).len(), 2, "it declined");
        engine.close();
    }
}

#[test]
fn what_a_resolver_declined_is_left_to_a_person_until_the_backends_side_moves() {
    // The feed begins with what is known already.
    let page = Arc::new(Mutex::new(vec![theirs("1", r#"{"a":"theirs","b":2}"#, "2")]));
    let feed = Arc::clone(&page);
    let adapter = Scripted::honest().feeding(move |request| {
        let number: u32 = request.cursor.as_ref().map_or(0, |cursor| cursor.0.parse().unwrap());
        let changes = feed.lock().unwrap().drain(..).map(Ok).collect();
        Ok(PullPage { changes, cursor: format!("{}", number + 1).as_str().into(), has_more: false })
    });
    let (resolver, asked) = told(|_| None);
    let engine = builder(inbox(&["1"]), adapter).conflict_resolver(resolver).build_blocking().unwrap();
    assert_eq!(question(&asked), about("1", "2"));

    // Another conflict comes up: only that one is asked about.
    let clash = |id: &str, version: &str| theirs(id, r#"{"a":"theirs again"}"#, version);
    let clashes = |id: &str, moved: Vec<RemoteEntity>| {
        page.lock().unwrap().push(theirs(id, r#"{"a":"base"}"#, "1"));
        engine.sync_blocking().unwrap();
        engine.enqueue_blocking(Change::update("note", id).set("a", "ours")).unwrap();
        page.lock().unwrap().extend(moved);
        engine
            .sync_with_blocking(
                landfall_core::machine::SessionEnd::OnePass,
                landfall_core::machine::Directions::PullOnly,
            )
            .unwrap();
    };
    clashes("2", vec![clash("2", "2")]);
    assert_eq!(question(&asked), about("2", "2"));
    // A third, and with it the first one's other side has moved: both are asked about, the second is not.
    clashes("3", vec![clash("1", "3"), clash("3", "2")]);
    let mut questions = [question(&asked), question(&asked)];
    questions.sort();
    assert_eq!(questions, [about("1", "3"), about("3", "2")]);
    assert_eq!(waiting(&engine).len(), 3);
    engine.close();
    assert!(asked.try_recv().is_err(), "nothing was asked twice");
}

#[test]
fn a_resolver_that_panics_harms_nothing() {
    let (resolver, asked) = told(|conflict| match conflict.entity.entity_id.as_str() {
        "1" => panic!("on purpose"),
        _ => Some(Resolution::KeepRemote),
    });
    let engine =
        builder(inbox(&["2", "1"]), Scripted::honest()).conflict_resolver(resolver).build_blocking().unwrap();
    let mut events = engine.events();
    assert_eq!(question(&asked), about("1", "2"), "the last one first");
    assert_eq!(question(&asked), about("2", "2"), "it goes on with the next");
    while waiting(&engine).len() > 1 {
        until(&mut events, |event| matches!(event, Event::Resolved { .. }));
    }
    let left = waiting(&engine).remove(0);
    assert_eq!(left.entity, note("1"));
    engine.resolve_blocking(left.id, Resolution::KeepLocal).unwrap();
    assert!(engine.sync_blocking().unwrap().is_complete());
}

#[test]
fn a_decision_that_cannot_be_carried_out_leaves_the_conflict_to_a_person() {
    let (resolver, asked) =
        told(|_| Some(Resolution::Fields(BTreeMap::from([("no such field".to_owned(), Choice::Local)]))));
    let engine =
        builder(inbox(&["1"]), Scripted::honest()).conflict_resolver(resolver).build_blocking().unwrap();
    question(&asked);
    let conflict = waiting(&engine).remove(0);
    engine.resolve_blocking(conflict.id, Resolution::KeepLocal).unwrap();
    assert!(waiting(&engine).is_empty());
}

#[test]
fn a_preview_says_what_would_be_and_changes_nothing() {
    let engine = builder(inbox(&["1"]), Scripted::honest()).build_blocking().unwrap();
    let mut events = engine.events();
    let conflict = waiting(&engine).remove(0);
    let look = |engine: &Engine| {
        (
            engine.get(&note("1")).unwrap(),
            engine.tasks(0, 10).unwrap(),
            waiting(engine),
            engine.status().unwrap(),
        )
    };
    let before = look(&engine);
    let told = engine.preview_blocking(conflict.id, Resolution::KeepLocal).unwrap();
    assert_eq!(told.result, Body::Live(fields(r#"{"a":"ours","b":2}"#)));
    assert_eq!((told.sends.unwrap().fields.to_json().as_str(), told.task), (r#"{"a":"ours"}"#, None));
    let forked = engine.preview_blocking(conflict.id, Resolution::Fork).unwrap();
    assert!(forked.forks_to.is_some());
    let refused = engine
        .preview_blocking(conflict.id, Resolution::Fields(BTreeMap::from([("x".into(), Choice::Local)])));
    assert!(matches!(refused, Err(Error::Resolve(ResolveError::UnknownField(_)))));
    assert_eq!(look(&engine), before);
    assert_eq!(events.try_next(), None);
    let nobody = ConflictId::parse("00000000-0000-4000-8000-000000000007").unwrap();
    let error = engine.preview_blocking(nobody, Resolution::KeepLocal).unwrap_err();
    assert!(matches!(error, Error::Resolve(ResolveError::NotFound(id)) if id == nobody));
}

#[test]
fn a_watched_record_is_seen_now_and_after_each_change_of_it() {
    let adapter = Scripted::honest();
    let engine = builder(inbox(&["1"]), adapter).build_blocking().unwrap();
    let mut watch = engine.watch_entity(note("1"));
    let mut seen = || watch.next_within(PATIENCE).unwrap().unwrap().local.unwrap();
    assert_eq!(seen(), Body::Live(fields(r#"{"a":"ours","b":2}"#)));
    engine.enqueue_blocking(Change::create("note", "other").set("a", 1)).unwrap();
    engine.enqueue_blocking(Change::update("note", "1").set("c", 3)).unwrap();
    assert_eq!(seen(), Body::Live(fields(r#"{"a":"ours","b":2,"c":3}"#)));
    let conflict = waiting(&engine).remove(0);
    engine.resolve_blocking(conflict.id, Resolution::ReplaceWithRemote).unwrap();
    assert_eq!(seen(), Body::Live(fields(r#"{"a":"theirs","b":2,"c":3}"#)));
    assert!(watch.next_within(Duration::from_millis(20)).unwrap().is_none(), "nothing else has changed");

    let mut unknown = engine.watch_entity(note("unknown"));
    assert_eq!(unknown.next_within(PATIENCE).unwrap().unwrap().local, None);
    engine.close();
}

#[test]
fn a_watcher_that_lags_still_sees_the_last_state() {
    let engine = builder(MemoryStore::default(), Scripted::honest()).build_blocking().unwrap();
    let mut watch = engine.watch_entity(note("1"));
    watch.next_within(PATIENCE).unwrap().unwrap();
    engine.enqueue_blocking(Change::create("note", "1").set("a", 1)).unwrap();
    // Far more events than a listener keeps, so that the one about this record is lost.
    let others = (0..5000).map(|id| Change::create("note", format!("n{id}")).set("a", 1)).collect();
    engine.enqueue_many_blocking(others).unwrap();
    let state = watch.next_within(PATIENCE).unwrap().unwrap();
    assert_eq!(state.local, Some(Body::Live(fields(r#"{"a":1}"#))));
    // A stream of changes is told of as a whole.
    let changes = vec![Ok::<_, std::io::Error>(Change::update("note", "1").set("a", 2))];
    engine.import_blocking(changes).unwrap();
    let mut last = state.local;
    while last != Some(Body::Live(fields(r#"{"a":2}"#))) {
        last = watch.next_within(PATIENCE).unwrap().expect("it is told").local;
    }
}

#[test]
fn records_are_listed_page_by_page_as_the_app_sees_them() {
    let engine = builder(inbox(&["2"]), Scripted::honest()).build_blocking().unwrap();
    for id in ["1", "3", "4"] {
        engine.enqueue_blocking(Change::create("note", id).set("a", id)).unwrap();
    }
    engine.enqueue_blocking(Change::create("other", "1").set("a", 1)).unwrap();
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = engine.list("note", after.as_deref(), 2).unwrap();
        let Some(last) = page.last else { break };
        assert!(page.entities.len() <= 2);
        found.extend(page.entities.into_iter().map(|entity| entity.key.entity_id));
        after = Some(last.entity_id);
    }
    assert_eq!(found, ["1", "2", "3", "4"]);
}

#[test]
fn a_record_says_how_far_it_is_synced() {
    let engine = builder(inbox(&["1"]), Scripted::honest()).build_blocking().unwrap();
    let status = |id: &str| engine.status_of(&note(id)).unwrap();
    assert_eq!((status("1"), status("2")), (EntityStatus::Conflict, EntityStatus::Unknown));
    engine.enqueue_blocking(Change::create("note", "2").set("a", 1)).unwrap();
    assert_eq!(status("2"), EntityStatus::Pending);
    let report = engine.sync_blocking().unwrap();
    assert!(report.needs_attention());
    assert_eq!((status("1"), status("2")), (EntityStatus::Conflict, EntityStatus::Synced));
}

#[test]
fn a_resolution_whose_commit_fails_is_looked_up_and_answered_truly() {
    for landed in [false, true] {
        let store = BrokenStore::new(inbox(&["1"]));
        let control = store.control();
        let engine = builder(store, Scripted::honest()).build_blocking().unwrap();
        let conflict = waiting(&engine).remove(0);
        control.next_commit_of_a_conflict(Broken::Fails { landed });
        let first = engine.resolve_blocking(conflict.id, Resolution::KeepRemote);
        assert_eq!(first.is_ok(), landed, "{first:?}");
        assert!(landed || matches!(first, Err(Error::Store(_))), "{first:?}");
        let again = engine.resolve_blocking(conflict.id, Resolution::KeepRemote);
        match landed {
            false => drop(again.unwrap()),
            true => assert!(matches!(again, Err(Error::Resolve(ResolveError::Settled)))),
        }
        assert!(waiting(&engine).is_empty());
        assert_eq!(
            engine.get(&note("1")).unwrap().unwrap().local,
            Some(Body::Live(fields(r#"{"a":"theirs","b":2}"#)))
        );
    }
}

#[test]
fn an_app_with_its_own_records_sends_what_its_form_changed_and_nothing_else() {
    let adapter = refusing_once(theirs("1", r#"{"title":"Milk","pinned":true,"due":"today"}"#, "8"));
    let engine = Engine::builder(MemoryStore::default(), adapter.clone()).build_blocking().unwrap();
    let mut form = DirtyTracker::new(fields(r#"{"title":"Milk","pinned":false,"due":null}"#));
    form.set("title", "Bread");
    form.set("pinned", true);
    form.set("pinned", false);
    let change = form.payload().base_version("7").always("by", "me").change(note("1")).unwrap();
    form.mark_clean();
    assert!(form.payload().change(note("1")).is_none(), "handed over");
    engine.enqueue_blocking(change).unwrap();
    assert!(engine.sync_blocking().unwrap().is_complete());
    let sent: Vec<String> = adapter.sent().iter().map(|batch| batch.tasks[0].payload.to_string()).collect();
    assert!(sent[0].contains(r#""base_version":"7","fields":{"by":"me","title":"Bread"}"#), "{}", sent[0]);
    assert!(sent[1].contains(r#""base_version":"8","fields":{"by":"me","title":"Bread"}"#), "{}", sent[1]);
    let local = engine.get(&note("1")).unwrap().unwrap().local.unwrap();
    assert_eq!(local, Body::Live(fields(r#"{"by":"me","due":"today","pinned":true,"title":"Bread"}"#)));
    let conflicts = engine.conflicts(ConflictQuery::default(), 10).unwrap().conflicts;
    assert!(conflicts.is_empty(), "the two sides changed different fields");
}

// ---- the examples of docs/conflicts.md ------------------------------------------------------------------------------

// guide: rules
fn rules() -> Result<Rules, InvalidRule> {
    let mut rules = Rules::new(Strategy::FieldMerge);
    rules.declare("report.notes=text")?;
    rules.declare("report.amount+currency=server")?;
    rules.declare("report.title=custom(longer)")?;
    rules.resolver("longer", |dispute| match (dispute.local, dispute.remote) {
        (Some(Value::Text(ours)), Some(Value::Text(theirs))) if ours.len() > theirs.len() => Answer::Local,
        (Some(_), None) => Answer::Ask,
        _ => Answer::Remote,
    });
    rules.entity("report").deletes = Some(DeletePolicy::Ask);
    Ok(rules)
}
// guide: end

// guide: resolver
#[derive(Debug)]
struct Reviewed;

impl ConflictResolver for Reviewed {
    fn resolve<'a>(&'a self, conflict: &'a ConflictRecord) -> BoxFuture<'a, Option<Resolution>> {
        Box::pin(async move {
            let theirs = conflict.remote.as_ref()?.body.fields()?;
            let reviewed = theirs.value("reviewed") == Some(&Value::Bool(true));
            reviewed.then_some(Resolution::KeepRemote) // `None`: a person decides
        })
    }
}
// guide: end

#[test]
fn the_examples_of_the_guide_are_these() {
    let (code, guide) = (include_str!("conflicts.rs"), include_str!("../../../docs/conflicts.md"));
    for name in ["rules", "resolver"] {
        let begin = format!("// guide: {name}\n");
        let (_, rest) = code.split_once(&begin).unwrap();
        let (example, _) = rest.split_once("// guide: end").unwrap();
        assert!(guide.contains(example), "docs/conflicts.md has another example of {name}");
    }
}

#[test]
fn the_examples_of_the_guide_do_what_it_says() {
    let reviewed = r#"{"a":"theirs","b":2,"reviewed":true}"#;
    let adapter = refusing_once(theirs("1", reviewed, "2"));
    let engine =
        builder(MemoryStore::default(), adapter).conflict_resolver(Reviewed).build_blocking().unwrap();
    let mut events = engine.events();
    let mut form = DirtyTracker::new(fields(r#"{"a":"base","b":1}"#));
    form.set("a", "ours");
    engine.enqueue_blocking(form.payload().change(note("1")).unwrap()).unwrap();
    engine.sync_blocking().unwrap();
    until(&mut events, |event| matches!(event, Event::Resolved { .. }));
    assert_eq!(engine.get(&note("1")).unwrap().unwrap().local, Some(Body::Live(fields(reviewed))));

    let remote = RemoteEntity::new(
        EntityKey::new("report", "1"),
        Body::Live(fields(r#"{"title":"Dent","amount":9,"currency":"USD","notes":"One.\n\nTwo, by them."}"#)),
        Some("2".into()),
    );
    let adapter = refusing_once(remote);
    let engine =
        Engine::builder(MemoryStore::default(), adapter).rules(rules().unwrap()).build_blocking().unwrap();
    let mut form =
        DirtyTracker::new(fields(r#"{"title":"?","amount":1,"currency":"EUR","notes":"One.\n\nTwo."}"#));
    form.set("title", "A dent in the door");
    form.set("amount", 2);
    form.set("notes", "One, by us.\n\nTwo.");
    engine.enqueue_blocking(form.payload().change(EntityKey::new("report", "1")).unwrap()).unwrap();
    assert!(engine.sync_blocking().unwrap().is_complete());
    let merged = r#"{"title":"A dent in the door","amount":9,"currency":"USD","notes":"One, by us.\n\nTwo, by them."}"#;
    let local = engine.get(&EntityKey::new("report", "1")).unwrap().unwrap().local;
    assert_eq!(local, Some(Body::Live(fields(merged))));
}
