//! The queue inside an app's own database, from the shell: tables, one INSERT, and a sync that takes it over.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

#[macro_use]
mod support;

use rusqlite::{Connection, named_params};
use serde_json::{Value, json};
use support::{Scratch, Server, Stored};

fn app(path: &str) -> Connection {
    let app = Connection::open(path).unwrap();
    app.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA user_version = 7; CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT)",
    )
    .unwrap();
    app
}

fn leave(app: &Connection, insert: &str, id: &str, operation: &str) {
    app.execute(
        insert,
        named_params! {
            ":entity_type": "note", ":entity_id": id, ":operation": operation, ":action": None::<String>,
            ":fields": r#"{"title":"x"}"#, ":unset": None::<String>, ":options": None::<String>,
            ":identity": None::<String>, ":enqueued_at": None::<i64>,
        },
    )
    .unwrap();
}

#[test]
fn what_an_app_commits_with_plain_sql_is_synced_and_what_it_rolls_back_is_not() {
    let scratch = Scratch::new("outbox");
    let server = Server::start(scratch.path("server.db"));
    let db = scratch.text("app.db");
    let mut app = app(&db);
    run!["outbox", "install", "--db", &db].ends(0);
    run!["outbox", "install", "--db", &db].ends(0);
    let sql = run!["outbox", "sql", "--json"].ends(0).json();
    let insert = sql["insert"].as_str().unwrap();
    for (id, commit) in [("a", true), ("b", false), ("c", true)] {
        let tx = app.transaction().unwrap();
        tx.execute("INSERT INTO notes VALUES (?1, 'x')", [id]).unwrap();
        leave(&tx, insert, id, "create");
        if commit { tx.commit().unwrap() } else { tx.rollback().unwrap() }
    }
    leave(&app, insert, "d", "creaet");
    run!["sync", "--db", &db, "--colocated", "--endpoint", &server.endpoint()].ends(0);
    let stored: Vec<String> = Stored::read(&server.stop()).records.into_keys().map(|(_, id)| id).collect();
    assert_eq!(stored, ["a", "c"]);
    let refused = run!["outbox", "refused", "--json", "--db", &db].ends(0).json();
    assert_eq!(refused["refused"].as_array().unwrap().len(), 1);
    assert_eq!(refused["refused"][0]["entity_id"], "d");
    assert!(refused["refused"][0]["reason"].as_str().unwrap().contains("creaet"), "{refused}");
    let version: Value = app.query_one("PRAGMA user_version", (), |row| row.get::<_, i64>(0)).unwrap().into();
    assert_eq!(version, json!(7), "the app's own mark is left alone");
    // Not told that the file is an app's, nothing is done to it.
    let wrong = run!["status", "--db", &db].ends(1);
    assert!(wrong.err.contains("--colocated") || wrong.err.contains("not a Landfall store"), "{wrong:?}");
}
