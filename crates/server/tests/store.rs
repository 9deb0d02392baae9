//! The SQLite store: what survives, what is refused at opening, and what happens when many come at once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::{Arc, Barrier};

use landfall_protocol::{ErrorDetail, Fields, Status, Task};
use landfall_server::{Limits, Policy, Refusal, SqliteOptions, SqliteStore, StoreError, Submission};
use rusqlite::Connection;
use serde_json::{Value, json};
use support::{Folder, first_push, task};

fn open(folder: &Folder) -> SqliteStore {
    SqliteStore::open(folder.database(), SqliteOptions::default()).unwrap()
}

fn read(body: &Value) -> Submission {
    Submission::from_json(body.to_string().as_bytes(), &Limits::default()).unwrap()
}

fn statuses(store: &SqliteStore, body: &Value) -> Vec<Status> {
    let answer = store.push_blocking("default", read(body)).unwrap();
    answer.results.into_iter().map(|result| result.status).collect()
}

fn count(folder: &Folder, sql: &str) -> i64 {
    Connection::open(folder.database()).unwrap().query_one(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn answers_given_survive_the_end_of_the_process() {
    let folder = Folder::new();
    let body = first_push(&[
        task("k1", "create", json!({"fields": {"a": 1}})),
        task("k2", "update", json!({"fields": {"b": 1}})),
        task("k3", "update", json!({"entity_id": "x"})),
        task("k4", "update", json!({"base_version": "9"})),
    ]);
    let store = open(&folder);
    let first = store.push_blocking("default", read(&body)).unwrap();
    drop(store);
    let store = open(&folder);
    let again = store.push_blocking("default", read(&body)).unwrap();
    assert_eq!(again.server_id, first.server_id, "the database keeps its name");
    assert_eq!(again.results[0].status, Status::Duplicate);
    assert_eq!(again.results[1].fields, first.results[1].fields);
    assert_eq!(again.results[2..], first.results[2..]);
}

#[test]
fn a_copy_of_the_files_taken_while_running_has_every_answer_given() {
    // What kill -9 leaves behind: the files as they are, the writer never told to stop.
    let folder = Folder::new();
    let store = open(&folder);
    for n in 0..20 {
        let made =
            task(&format!("k{n}"), "create", json!({"entity_id": format!("n{n}"), "fields": {"n": n}}));
        assert_eq!(statuses(&store, &first_push(&[made])), [Status::Applied]);
        let copy = Folder::new();
        for file in ["server.db", "server.db-wal"] {
            std::fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
        }
        let reopened = open(&copy);
        let last =
            task(&format!("k{n}"), "create", json!({"entity_id": format!("n{n}"), "fields": {"n": n}}));
        assert_eq!(statuses(&reopened, &first_push(&[last])), [Status::Duplicate]);
        drop(reopened);
        assert_eq!(count(&copy, "SELECT count(*) FROM records"), n + 1);
        assert_eq!(count(&copy, "SELECT count(*) FROM seen"), n + 1);
    }
}

#[test]
fn sixteen_threads_with_the_same_keys_make_one_effect_each() {
    let folder = Folder::new();
    let store = open(&folder);
    let gate = Arc::new(Barrier::new(16));
    let threads: Vec<_> = (0..16)
        .map(|thread| {
            let (store, gate) = (store.clone(), Arc::clone(&gate));
            std::thread::spawn(move || {
                gate.wait();
                let mut applied = 0;
                for n in 0..40 {
                    let made = task(&format!("k{n}"), "upsert", json!({"fields": {"n": n}}));
                    let body = json!({"protocol": 1, "client_id": format!("c{thread}"), "client_epoch": 1, "tasks": [made]});
                    match statuses(&store, &body)[0] {
                        Status::Applied => applied += 1,
                        Status::Duplicate => {}
                        ref other => panic!("{other:?}"),
                    }
                }
                applied
            })
        })
        .collect();
    let applied: i32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    drop(store);
    assert_eq!(applied, 40);
    assert_eq!(count(&folder, "SELECT version FROM tenants"), 40, "forty effects, forty versions");
    assert_eq!(count(&folder, "SELECT count(*) FROM seen"), 40);
}

#[derive(Debug)]
struct Trap;

impl Policy for Trap {
    fn check(&self, _: &str, task: &Task, _: Option<&Fields>) -> Result<(), ErrorDetail> {
        assert!(!task.fields.contains("trap"), "on purpose");
        Ok(())
    }
}

#[test]
fn a_request_that_fails_leaves_nothing_and_harms_no_other() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database(), SqliteOptions { policy: Arc::new(Trap) }).unwrap();
    let bad = first_push(&[
        task("k1", "create", json!({"fields": {"a": 1}})),
        task("k2", "update", json!({"fields": {"trap": 1}})),
    ]);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let refusal = store.push_blocking("default", read(&bad)).unwrap_err();
    std::panic::set_hook(hook);
    assert!(matches!(refusal, Refusal::Store(_)));
    assert_eq!(refusal.into_problem().status, 503);
    assert_eq!(statuses(&store, &first_push(&[task("k1", "create", json!({}))])), [Status::Applied]);
}

#[test]
fn a_request_that_cannot_be_stored_harms_none_that_share_its_transaction() {
    let folder = Folder::new();
    let store = open(&folder);
    let blocker = Connection::open(folder.database()).unwrap();
    blocker
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON seen WHEN new.key LIKE 'bad%' BEGIN SELECT RAISE(FAIL, 'full'); END",
        )
        .unwrap();
    let gate = Arc::new(Barrier::new(12));
    let threads: Vec<_> = (0..12)
        .map(|thread| {
            let (store, gate) = (store.clone(), Arc::clone(&gate));
            std::thread::spawn(move || {
                gate.wait();
                for n in 0..20 {
                    let kind = if thread % 4 == 0 { "bad" } else { "good" };
                    let id = format!("{kind}-{thread}-{n}");
                    let body = first_push(&[task(&id, "create", json!({"entity_id": id}))]);
                    let answer = store.push_blocking("default", read(&body));
                    assert_eq!(answer.is_ok(), kind == "good", "{id}");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    drop(store);
    assert_eq!(count(&folder, "SELECT count(*) FROM records"), 9 * 20);
    assert_eq!(count(&folder, "SELECT count(*) FROM records WHERE entity_id LIKE 'bad%'"), 0);
    assert_eq!(count(&folder, "SELECT version FROM tenants"), 9 * 20, "nothing was stored twice");
}

#[test]
fn a_database_that_cannot_be_written_answers_503_and_works_again_afterwards() {
    let folder = Folder::new();
    let store = open(&folder);
    statuses(&store, &first_push(&[task("k1", "create", json!({}))]));
    let blocker = Connection::open(folder.database()).unwrap();
    blocker
        .execute_batch("CREATE TRIGGER full BEFORE INSERT ON seen BEGIN SELECT RAISE(FAIL, 'full'); END")
        .unwrap();
    let next = first_push(&[task("k2", "update", json!({"fields": {"a": 1}}))]);
    let problem = store.push_blocking("default", read(&next)).unwrap_err().into_problem();
    assert_eq!((problem.status, problem.code.as_str()), (503, "unavailable"));
    assert!(!problem.detail.unwrap().contains("full"), "no internals are told");
    blocker.execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(statuses(&store, &next), [Status::Applied], "the effect was rolled back with its key");
    assert_eq!(count(&folder, "SELECT version FROM tenants"), 2);
}

#[test]
fn a_newer_or_foreign_file_is_refused_and_left_alone() {
    let folder = Folder::new();
    drop(open(&folder));
    let at = |sql: &str| Connection::open(folder.database()).unwrap().execute_batch(sql).unwrap();
    at("PRAGMA user_version = 99");
    let before = std::fs::read(folder.database()).unwrap();
    let error = SqliteStore::open(folder.database(), SqliteOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 99, known: 1 }), "{error}");
    assert_eq!(std::fs::read(folder.database()).unwrap(), before);
    at("PRAGMA user_version = 1; PRAGMA application_id = 7");
    let error = SqliteStore::open(folder.database(), SqliteOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign(7)), "{error}");

    let other = Folder::new();
    Connection::open(other.database()).unwrap().execute_batch("CREATE TABLE mine(x)").unwrap();
    let error = SqliteStore::open(other.database(), SqliteOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign(0)), "{error}");
    std::fs::write(other.database(), b"this is not a database at all, but a text of some length").unwrap();
    assert!(SqliteStore::open(other.database(), SqliteOptions::default()).is_err());
    assert!(std::fs::read(other.database()).unwrap().starts_with(b"this is not"));
}

#[test]
fn the_durable_settings_hold() {
    let folder = Folder::new();
    let store = open(&folder);
    statuses(&store, &first_push(&[task("k", "create", json!({}))]));
    let connection = Connection::open(folder.database()).unwrap();
    let mode: String = connection.query_one("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    assert_eq!(count(&folder, "PRAGMA application_id"), 0x4c66_5376);
}

#[tokio::test]
async fn a_new_name_makes_every_client_reconcile() {
    let folder = Folder::new();
    let store = open(&folder);
    let body = first_push(&[task("k", "create", json!({}))]);
    let old = store.push("default", read(&body)).await.unwrap().server_id.unwrap();
    let cursor = store.changes("default", None, 10, 1000).await.unwrap().cursor;
    let new = store.renew_server_id().await.unwrap();
    assert_ne!(old, new);
    let mut known = body.clone();
    known["server_id"] = json!(old);
    let problem = store.push("default", read(&known)).await.unwrap_err().into_problem();
    assert_eq!(problem.code, "server_changed");
    let problem = store.changes("default", Some(cursor), 10, 1000).await.unwrap_err().into_problem();
    assert_eq!(problem.code, "cursor_expired");
    let answer = store.push("default", read(&body)).await.unwrap();
    assert_eq!(
        answer.results[0].status,
        Status::Duplicate,
        "first contact again, and the keys are still known"
    );
}
