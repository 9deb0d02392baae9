//! An app's own database, its own transactions, and an engine that works off what they leave: the whole way.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall::core::adapter::{
    Applied, BoxFuture, CallContext, Capabilities, EffectClass, Outcome, PushBatch, PushReply,
};
use landfall::sqlite::SqliteStore;
use landfall::sqlite::outbox::{Outbox, sql};
use landfall::{Adapter, Change, Engine, EntityKey, Failure, Fate, SessionEnd};
use rusqlite::{Connection, named_params};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A backend that applies everything and remembers what.
#[derive(Clone, Debug, Default)]
struct Backend(Arc<Mutex<Vec<String>>>);

impl Backend {
    fn seen(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Adapter for Backend {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            batch_tasks: 100,
            batch_bytes: 1 << 20,
            effect: EffectClass::OneEffect,
            pull: false,
            orders_writes: true,
            atomic_groups: true,
            actions: true,
            probe: false,
        }
    }

    fn push<'a>(
        &'a self,
        _context: &'a CallContext,
        batch: &'a PushBatch,
    ) -> BoxFuture<'a, Result<PushReply, Failure>> {
        Box::pin(async move {
            self.0.lock().unwrap().extend(batch.tasks.iter().map(|task| task.entity.entity_id.clone()));
            let applied = Outcome::Applied(Applied { version: Some("1".into()), ..Applied::default() });
            let results = batch.tasks.iter().map(|task| (task.key, applied.clone())).collect();
            Ok(PushReply { results, ..PushReply::default() })
        })
    }
}

struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("landfall-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn app(&self) -> (PathBuf, Connection) {
        let path = self.0.join("app.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA user_version = 41;
             CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT)",
        )
        .unwrap();
        app.busy_timeout(Duration::from_secs(10)).unwrap();
        (path, app)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn write_note(outbox: &Outbox, app: &mut Connection, id: &str, commit: bool) {
    let tx = app.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    tx.execute("INSERT INTO notes VALUES (?1, 'x')", [id]).unwrap();
    outbox.enqueue_in(&tx, Change::create("note", id).set("title", "x")).unwrap();
    if commit { tx.commit().unwrap() } else { tx.rollback().unwrap() }
}

#[test]
fn what_the_app_committed_is_sent_and_what_it_rolled_back_never_was() {
    let files = Files::new("outbox");
    let (path, mut app) = files.app();
    let outbox = Outbox::install(&app).unwrap();
    let backend = Backend::default();
    let store = SqliteStore::options().colocated().open(&path).unwrap();
    let engine = Engine::builder(store, backend.clone()).build_blocking().unwrap();
    for n in 0..20 {
        write_note(&outbox, &mut app, &n.to_string(), n % 3 != 0);
    }
    let report = engine.sync_blocking().unwrap();
    let kept: Vec<String> = app
        .prepare("SELECT id FROM notes ORDER BY rowid")
        .unwrap()
        .query_map((), |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(backend.seen(), kept, "the app's table and the backend have the same, in the same order");
    assert_eq!((report.applied, report.left.total()), (13, 0));
    let version: i64 = app.query_one("PRAGMA user_version", (), |row| row.get(0)).unwrap();
    assert_eq!(version, 41, "the app's own marks are left alone");
    assert!(engine.get(&EntityKey::new("note", "1")).unwrap().is_some());
}

#[test]
fn a_running_session_is_told_of_what_the_app_left() {
    let files = Files::new("poke");
    let (path, mut app) = files.app();
    let outbox = Outbox::install(&app).unwrap();
    let backend = Backend::default();
    let store = SqliteStore::options().colocated().open(&path).unwrap();
    let engine = Engine::builder(store, backend.clone()).build_blocking().unwrap();
    // Something that only comes due later keeps the session going.
    let later = Change::create("note", "later").set("n", 1).not_before(far());
    engine.enqueue_blocking(later).unwrap();
    let session = {
        let engine = engine.clone();
        std::thread::spawn(move || {
            engine.sync_until_blocking(SessionEnd::Drained { within: Duration::from_secs(20) })
        })
    };
    write_note(&outbox, &mut app, "now", true);
    engine.poke();
    let started = std::time::Instant::now();
    while backend.seen().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(15), "nobody was told");
        std::thread::sleep(Duration::from_millis(10));
    }
    engine.stop_sync();
    assert_eq!(session.join().unwrap().unwrap().applied, 1);
}

fn far() -> landfall::core::time::Timestamp {
    landfall::core::time::Timestamp(i64::MAX)
}

#[test]
fn changes_left_with_plain_sql_are_taken_over_and_rubbish_is_set_apart() {
    let files = Files::new("inbox");
    let (path, app) = files.app();
    let backend = Backend::default();
    let store = SqliteStore::options().colocated().open(&path).unwrap();
    let engine = Engine::builder(store, backend.clone()).build_blocking().unwrap();
    app.execute_batch(sql().table).unwrap();
    let leave = |id: &str, operation: &str, fields: Option<&str>| {
        app.execute(
            sql().insert,
            named_params! {
                ":entity_type": "note", ":entity_id": id, ":operation": operation, ":action": None::<String>,
                ":fields": fields, ":unset": None::<String>, ":options": r#"{"tags":["sql"]}"#,
                ":identity": None::<String>, ":enqueued_at": None::<i64>,
            },
        )
        .unwrap();
    };
    leave("a", "create", Some(r#"{"title":"x"}"#));
    leave("bad", "creaet", Some("{}"));
    leave("worse", "create", Some("{"));
    for n in 0..1200 {
        leave(&format!("n{n}"), "create", Some(r#"{"n":1}"#));
    }
    leave("a", "update", Some(r#"{"title":"y"}"#));
    let report = engine.sync_until_blocking(SessionEnd::Drained { within: Duration::from_secs(60) }).unwrap();
    assert_eq!(report.applied, 1201);
    assert_eq!(backend.seen().len(), 1201, "the edit was folded into its create");
    let waiting: i64 = app
        .query_one("SELECT count(*) FROM landfall_inbox WHERE refused IS NULL", (), |row| row.get(0))
        .unwrap();
    assert_eq!(waiting, 0);
    let refused: Vec<String> = app
        .prepare(sql().refused)
        .unwrap()
        .query_map((), |row| row.get(2))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(refused, ["bad", "worse"]);
    let done = engine.journal_entries(None, 1).unwrap().entries.remove(0);
    assert!(matches!(engine.fate(done.task_id).unwrap(), Fate::Done { .. }));
}
