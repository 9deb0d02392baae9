//! The queue within an app's own database: both or neither, whatever ends the app's transaction.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::adapter::{Capabilities, EffectClass};
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::id::Entropy;
use landfall_core::machine::{EnqueueError, Enqueued, Machine, TakenIn};
use landfall_core::store::{Store as _, StoreError};
use landfall_core::time::{Mono, Now, Timestamp};
use landfall_sqlite::outbox::{Outbox, sql};
use landfall_sqlite::{OnCorrupt, SqliteStore};
use rusqlite::{Connection, TransactionBehavior, named_params};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use support::{Folder, number};

/// An app's database with a table of its own.
fn app(path: &Path) -> Connection {
    let app = Connection::open(path).unwrap();
    app.busy_timeout(Duration::from_secs(20)).unwrap();
    app.query_one("PRAGMA journal_mode = WAL", (), |_| Ok(())).unwrap();
    app.execute_batch(
        "PRAGMA synchronous = FULL; CREATE TABLE IF NOT EXISTS notes (id TEXT PRIMARY KEY, title TEXT)",
    )
    .unwrap();
    app
}

fn add(tx: &rusqlite::Transaction<'_>, id: &str) {
    tx.execute("INSERT INTO notes VALUES (?, 'a title')", [id]).unwrap();
}

fn create(id: &str) -> Change {
    Change::create("note", id).set("title", "a title")
}

fn begin(app: &mut Connection) -> rusqlite::Transaction<'_> {
    app.transaction_with_behavior(TransactionBehavior::Immediate).unwrap()
}

fn notes(app: &Connection) -> BTreeSet<String> {
    let mut statement = app.prepare("SELECT id FROM notes").unwrap();
    statement.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// The records that have a task, as an engine sees it.
fn queued(path: &Path) -> BTreeSet<String> {
    let mut store = SqliteStore::options().colocated().open(path).unwrap();
    let tx = store.begin().unwrap();
    let page = tx.tasks_after(0, usize::MAX).unwrap();
    assert_eq!(page.damaged, []);
    assert_eq!(tx.counts().unwrap().total(), page.tasks.len() as u64);
    page.tasks.into_iter().map(|task| task.entity.entity_id).collect()
}

#[test]
fn the_apps_write_and_the_change_are_both_there_or_neither() {
    let folder = Folder::new();
    let path = folder.file("app.db");
    let mut app = app(&path);
    let outbox = Outbox::install(&app).unwrap();
    let tx = begin(&mut app);
    add(&tx, "kept");
    let receipt = outbox.enqueue_in(&tx, create("kept")).unwrap();
    assert_eq!(receipt.outcome, Enqueued::New);
    tx.commit().unwrap();
    let tx = begin(&mut app);
    add(&tx, "dropped");
    outbox.enqueue_in(&tx, create("dropped")).unwrap();
    tx.rollback().unwrap();
    // A change that is refused takes nothing else with it.
    let tx = begin(&mut app);
    add(&tx, "kept too");
    outbox.enqueue_in(&tx, create("kept too")).unwrap();
    assert!(matches!(outbox.enqueue_in(&tx, create("kept")), Err(EnqueueError::Contradiction(_))));
    assert!(matches!(outbox.enqueue_in(&tx, create("")), Err(EnqueueError::Invalid(_))));
    tx.commit().unwrap();
    // Nothing of what was undone is remembered: the same change gets the same name.
    let tx = begin(&mut app);
    add(&tx, "dropped");
    let first = outbox.enqueue_in(&tx, create("dropped")).unwrap();
    tx.rollback().unwrap();
    let tx = begin(&mut app);
    assert_eq!(outbox.enqueue_in(&tx, create("dropped")).unwrap(), first);
    tx.rollback().unwrap();
    let expected = BTreeSet::from(["kept".to_owned(), "kept too".to_owned()]);
    assert_eq!((notes(&app), queued(&path)), (expected.clone(), expected));
}

/// Adds notes for ever, each with its change in one transaction.
fn write_for_ever(path: &Path) {
    let mut app = app(path);
    let outbox = Outbox::install(&app).unwrap();
    let start = number(&app, "SELECT count(*) FROM notes");
    for note in start.. {
        let id = format!("n{note}");
        let tx = begin(&mut app);
        // Both orders, so that a kill falls between them either way.
        if note % 2 == 0 {
            add(&tx, &id);
        }
        let change = create(&id).set("long", "x".repeat((note % 40) as usize * 300));
        outbox.enqueue_in(&tx, change).unwrap();
        if note % 2 == 1 {
            add(&tx, &id);
        }
        if note % 7 == 3 {
            tx.rollback().unwrap();
            let tx = begin(&mut app);
            add(&tx, &id);
            outbox.enqueue_in(&tx, create(&id)).unwrap();
            tx.commit().unwrap();
        } else {
            tx.commit().unwrap();
        }
        let mut out = std::io::stdout();
        writeln!(out, "stored {note}").and_then(|()| out.flush()).unwrap();
    }
}

#[test]
fn both_or_neither_after_kill_9() {
    if let Some(path) = support::as_child() {
        return write_for_ever(Path::new(&path));
    }
    const KILLS: u64 = 110;
    let folder = Folder::new();
    let path = folder.file("app.db");
    drop(app(&path));
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        let program = std::env::current_exe().unwrap();
        let mut child = support::child(&program, "both_or_neither_after_kill_9", path.to_str().unwrap());
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let said =
            |line: String| line.split_once("stored ").and_then(|(_, note)| note.trim().parse::<i64>().ok());
        let last = lines.by_ref().filter_map(said).nth((kill % 5) as usize);
        // Somewhere within the next transaction.
        std::thread::sleep(Duration::from_micros(kill * 97 % 1_500));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = lines.filter_map(said).last().or(last).map_or(acknowledged, |note| note + 1);
        if kill % 10 == 9 {
            let raw = Connection::open(&path).unwrap();
            let notes = notes(&raw);
            drop(raw);
            assert_eq!(queued(&path), notes);
            assert!(notes.len() as i64 >= acknowledged, "{} of {acknowledged}", notes.len());
        }
    }
    assert!(acknowledged >= KILLS as i64);
}

#[test]
fn an_app_and_an_engine_write_at_the_same_time() {
    let folder = Folder::new();
    let path = folder.file("app.db");
    let mut app = app(&path);
    let outbox = Outbox::install(&app).unwrap();
    let engine = {
        let path = path.clone();
        std::thread::spawn(move || {
            let mut store =
                SqliteStore::options().colocated().busy_timeout(Duration::from_secs(20)).open(&path).unwrap();
            let mut seen = 0;
            while seen < 100 {
                let mut tx = store.begin().unwrap();
                let seq = tx.next_seq().unwrap();
                let mut task = landfall_testkit::conformance::store::samples::task(
                    seq,
                    &landfall_testkit::conformance::store::samples::note(&format!("engine {seq}")),
                );
                task.claim_at = Some(Timestamp::ALWAYS);
                tx.put_task(&task).unwrap();
                tx.commit().unwrap();
                store.idle().unwrap();
                seen += 1;
            }
        })
    };
    for note in 0..100 {
        let tx = begin(&mut app);
        add(&tx, &format!("n{note}"));
        outbox.enqueue_in(&tx, create(&format!("n{note}"))).unwrap();
        tx.commit().unwrap();
    }
    engine.join().unwrap();
    assert_eq!(queued(&path).len(), 200);
}

#[test]
fn nothing_of_the_apps_is_touched() {
    let folder = Folder::new();
    for mode in ["wal", "delete", "truncate"] {
        let path = folder.file(&format!("{mode}.db"));
        let app = Connection::open(&path).unwrap();
        app.query_one(&format!("PRAGMA journal_mode = {mode}"), (), |_| Ok(())).unwrap();
        app.execute_batch(
            "PRAGMA application_id = 77; PRAGMA user_version = 5; PRAGMA synchronous = FULL; CREATE TABLE notes (id)",
        )
        .unwrap();
        Outbox::install(&app).unwrap();
        let store = SqliteStore::options().colocated().open(&path).unwrap();
        drop(store);
        assert_eq!(number(&app, "PRAGMA application_id"), 77);
        assert_eq!(number(&app, "PRAGMA user_version"), 5);
        assert_eq!(number(&app, "PRAGMA synchronous"), 2);
        let found: String = app.query_one("PRAGMA journal_mode", (), |row| row.get(0)).unwrap();
        assert_eq!(found, mode);
        let sql = "SELECT count(*) FROM sqlite_schema \
                   WHERE name <> 'notes' AND name NOT LIKE 'landfall\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
        assert_eq!(number(&app, sql), 0);
        drop(app);
        // Without the option it is the database of somebody else, and it is never moved away.
        assert!(matches!(SqliteStore::open(&path), Err(StoreError::Foreign(_))));
        assert!(matches!(SqliteStore::rescue(&path), Err(StoreError::Foreign(_))));
        let opened = SqliteStore::options().on_corrupt(OnCorrupt::Rescue).open(&path);
        assert!(matches!(opened, Err(StoreError::Foreign(_))));
    }
    let nowhere = SqliteStore::options().colocated().open(folder.file("nowhere.db"));
    assert!(matches!(nowhere, Err(StoreError::Io(_))), "the app makes its database, nobody else");
}

#[test]
fn what_cannot_be_relied_on_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let mut app = app(&folder.file("app.db"));
    let outbox = Outbox::install(&app).unwrap();
    app.execute_batch("PRAGMA synchronous = NORMAL").unwrap();
    let refused = Outbox::install(&app).unwrap_err();
    assert!(refused.to_string().contains("PRAGMA synchronous = FULL"), "{refused}");
    let tx = begin(&mut app);
    assert!(outbox.enqueue_in(&tx, create("1")).is_err());
    drop(tx);
    app.execute_batch("PRAGMA synchronous = FULL; UPDATE landfall_schema SET version = 99").unwrap();
    assert!(matches!(Outbox::install(&app), Err(StoreError::TooNew { found: 99, .. })));
    let opened = SqliteStore::options().colocated().open(folder.file("app.db"));
    assert!(matches!(opened, Err(StoreError::TooNew { found: 99, .. })));
    let other = Connection::open(folder.file("other.db")).unwrap();
    other.query_one("PRAGMA journal_mode = MEMORY", (), |_| Ok(())).unwrap();
    let refused = Outbox::install(&other).unwrap_err();
    assert!(refused.to_string().contains("journal_mode = WAL"), "{refused}");
}

fn machine(store: &mut SqliteStore) -> Machine {
    let capabilities = Capabilities {
        batch_tasks: 10,
        batch_bytes: 100_000,
        effect: EffectClass::OneEffect,
        pull: false,
        orders_writes: true,
        atomic_groups: true,
        actions: true,
        probe: false,
    };
    let mut tx = store.begin().unwrap();
    let machine = Machine::open(Config::default(), capabilities, &Entropy([7; 32]), tx.as_mut()).unwrap();
    tx.commit().unwrap();
    machine
}

fn take(store: &mut SqliteStore, machine: &mut Machine, limit: usize) -> TakenIn {
    let now = Now { wall: Timestamp(1_000), mono: Mono(1) };
    let mut step = machine.step(now, Entropy([8; 32]));
    let mut tx = store.begin().unwrap();
    let taken = step.take_incoming(tx.as_mut(), limit).unwrap();
    step.finish(tx.as_mut()).unwrap();
    tx.commit().unwrap();
    machine.apply(step);
    taken
}

#[test]
fn what_an_app_leaves_with_plain_sql_is_taken_in_its_order_and_rubbish_is_set_apart() {
    let folder = Folder::new();
    let path = folder.file("app.db");
    let mut app = app(&path);
    app.execute_batch(sql().table).unwrap();
    let mut leave = |id: &str, operation: &str, fields: Option<&str>, options: Option<&str>, commit: bool| {
        let tx = begin(&mut app);
        tx.execute(
            sql().insert,
            named_params! {
                ":entity_type": "note", ":entity_id": id, ":operation": operation, ":action": None::<&str>,
                ":fields": fields, ":unset": None::<&str>, ":options": options, ":identity": None::<&str>,
                ":enqueued_at": 5,
            },
        )
        .unwrap();
        if commit { tx.commit().unwrap() } else { tx.rollback().unwrap() }
    };
    leave("1", "create", Some(r#"{"title":"a","n":9007199254740993}"#), None, true);
    leave("2", "create", Some(r#"{"title":"#), None, true);
    leave("3", "frobnicate", None, None, true);
    leave("4", "create", None, Some(r#"{"priority":3,"tags":["a"],"lane":"l"}"#), true);
    leave("5", "create", None, Some(r#"{"prioritty":3}"#), true);
    leave("6", "create", None, None, false);
    leave("1", "create", None, None, true);
    leave("1", "update", Some(r#"{"title":"b"}"#), None, true);
    leave("7", "delete", Some(r#"{"a":1}"#), None, true);
    let mut store = SqliteStore::options().colocated().open(&path).unwrap();
    let mut machine = machine(&mut store);
    assert_eq!(take(&mut store, &mut machine, 3), TakenIn { taken: 1, refused: 2, more: true });
    assert_eq!(take(&mut store, &mut machine, 99), TakenIn { taken: 2, refused: 3, more: false });
    assert_eq!(take(&mut store, &mut machine, 99), TakenIn::default());
    let tx = store.begin().unwrap();
    let tasks = tx.tasks_after(0, 99).unwrap().tasks;
    let ids: Vec<&str> = tasks.iter().map(|task| task.entity.entity_id.as_str()).collect();
    assert_eq!(ids, ["1", "4"]);
    assert_eq!(tasks[0].intent.fields.to_json(), r#"{"n":9007199254740993,"title":"b"}"#);
    assert_eq!((tasks[1].priority, tasks[1].lane.as_deref()), (3, Some("l")));
    drop(tx);
    let mut statement = app.prepare(sql().refused).unwrap();
    let refused: Vec<(String, String)> = statement
        .query_map((), |row| Ok((row.get(1 + 1)?, row.get(4)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let ids: Vec<&str> = refused.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["2", "3", "5", "1", "7"], "{refused:?}");
    assert!(refused.iter().all(|(_, why)| !why.is_empty()));
}

#[test]
fn each_identity_gets_its_own() {
    let folder = Folder::new();
    let path = folder.file("app.db");
    let mut app = app(&path);
    let (nameless, anna) =
        (Outbox::install(&app).unwrap(), Outbox::install_for(&app, Some("anna"), Config::default()).unwrap());
    let tx = begin(&mut app);
    nameless.enqueue_in(&tx, create("1")).unwrap();
    anna.enqueue_in(&tx, create("2")).unwrap();
    tx.commit().unwrap();
    let leave = |identity: Option<&str>, id: &str| {
        app.execute(
            "INSERT INTO landfall_inbox (entity_type, entity_id, operation, identity) VALUES ('note', ?, 'create', ?)",
            (id, identity),
        )
        .unwrap();
    };
    leave(None, "3");
    leave(Some("anna"), "4");
    for (identity, expected) in [(None, ["1", "3"]), (Some("anna"), ["2", "4"])] {
        let mut store = SqliteStore::options().colocated().open(&path).unwrap();
        store.switch_identity(identity).unwrap();
        let mut machine = machine(&mut store);
        assert_eq!(take(&mut store, &mut machine, 99).taken, 1);
        let tx = store.begin().unwrap();
        let tasks = tx.tasks_after(0, 99).unwrap().tasks;
        assert_eq!(tasks.iter().map(|task| task.entity.entity_id.as_str()).collect::<Vec<_>>(), expected);
    }
}
