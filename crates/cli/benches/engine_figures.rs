//! The whole path, against the plainest thing that does the same on the same disk in the same run.
//!
//! `cargo bench -p landfall-cli` prints ratios; absolute times belong to the machine. What is compared, and the goals
//! (docs/benchmarks.md): P1 one caller's durable enqueue against a loop of one-row commits; P2 64 callers against one;
//! P3 100,000 changes at once against raw inserts of the same rows; P6 draining 10,000 tasks to the reference server
//! against the same batches, pre-built, posted by the same HTTP client. The store by itself: `landfall-sqlite`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program")]

use landfall_adapters::http::{HttpRequest, Method};
use landfall_adapters::{SyncEndpoint, UreqTransport};
use landfall_core::change::Change;
use landfall_core::machine::SessionEnd;
use landfall_engine::Engine;
use landfall_sqlite::SqliteStore;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn main() {
    let folder = std::env::temp_dir().join(format!("landfall-figures-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    one_caller(&folder);
    many_callers(&folder);
    bulk(&folder);
    drain(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
}

fn note(number: usize) -> Change {
    Change::create("note", format!("note-{number:07}"))
        .set("title", format!("Note number {number}"))
        .set("text", "Lorem ipsum dolor sit amet, consectetur adipiscing elit. ".repeat(4))
        .set("done", false)
}

fn local(path: PathBuf) -> Engine {
    Engine::local(SqliteStore::open(path).unwrap()).build_blocking().unwrap()
}

fn store(engine: &Engine, number: usize) {
    engine.enqueue_blocking(note(number)).unwrap();
}

fn timed(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

/// A file with our schema and one stored change to copy from, used as a plain program would.
struct Raw {
    connection: Connection,
    inserts: [String; 2],
}

impl Raw {
    fn open(path: PathBuf) -> Self {
        let engine = local(path.clone());
        engine.enqueue_blocking(note(0)).unwrap();
        drop(engine);
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = EXTRA;").unwrap();
        let inserts = ["landfall_tasks", "landfall_entities"].map(|table| copying(&connection, table));
        Self { connection, inserts }
    }

    /// Inserts the two rows of a change under another name.
    fn insert(&self, number: usize) {
        for sql in &self.inserts {
            self.connection.prepare_cached(sql).unwrap().execute([format!("raw-{number:07}")]).unwrap();
        }
    }

    fn run(&self, sql: &str) {
        self.connection.execute_batch(sql).unwrap();
    }
}

fn copying(connection: &Connection, table: &str) -> String {
    let mut statement =
        connection.prepare(&format!("SELECT name FROM pragma_table_info('{table}')")).unwrap();
    let names: Vec<String> = statement.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let values: Vec<&str> = names
        .iter()
        .map(|name| match name.as_str() {
            "seq" | "id" => "NULL",
            "task_id" => "randomblob(16)",
            "entity_id" => "?1",
            other => other,
        })
        .collect();
    format!(
        "INSERT INTO {table} ({}) SELECT {} FROM {table} WHERE rowid = 1",
        names.join(", "),
        values.join(", ")
    )
}

/// P1: blocks of both in turn, so that a disk that changes its mind hits both.
fn one_caller(folder: &Path) {
    const BLOCK: usize = 100;
    let (engine, raw) = (local(folder.join("p1.db")), Raw::open(folder.join("p1-raw.db")));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..10 {
        ours.push(timed(|| {
            (0..BLOCK).for_each(|n| store(&engine, round * BLOCK + n));
        }));
        theirs.push(timed(|| {
            for n in 0..BLOCK {
                raw.run("BEGIN IMMEDIATE");
                raw.insert(round * BLOCK + n);
                raw.run("COMMIT");
            }
        }));
    }
    let (ours, theirs) = (BLOCK as f64 / median(ours), BLOCK as f64 / median(theirs));
    say("P1 durable enqueue, one caller", ours, "plain loop of one-row commits", theirs, 0.9);
}

/// P2.
fn many_callers(folder: &Path) {
    const EACH: usize = 100;
    let engine = local(folder.join("p2.db"));
    let one = EACH as f64 / timed(|| (0..EACH).for_each(|n| store(&engine, n)));
    let many = timed(|| {
        std::thread::scope(|scope| {
            for caller in 1..=64 {
                let engine = &engine;
                scope.spawn(move || {
                    for n in 0..EACH {
                        engine.enqueue_blocking(note(caller * 1_000 + n)).unwrap();
                    }
                });
            }
        });
    });
    say("P2 durable enqueue, 64 callers", 64.0 * EACH as f64 / many, "one caller", one, 40.0);
}

/// P3.
fn bulk(folder: &Path) {
    const ROWS: usize = 100_000;
    let engine = local(folder.join("p3.db"));
    let changes: Vec<Change> = (0..ROWS).map(note).collect();
    let ours = ROWS as f64 / timed(|| drop(engine.enqueue_many_blocking(changes).unwrap()));
    let raw = Raw::open(folder.join("p3-raw.db"));
    let theirs = ROWS as f64
        / timed(|| {
            raw.run("BEGIN IMMEDIATE");
            (0..ROWS).for_each(|n| raw.insert(n));
            raw.run("COMMIT");
        });
    say("P3 100,000 changes at once", ours, "raw inserts of the same rows", theirs, 0.6);
}

/// P6: durable at both ends. The plain side has no store: its batches lie ready in memory.
fn drain(folder: &Path) {
    const TASKS: usize = 10_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let serve = |name: &str| {
        let path = folder.join(name);
        runtime.block_on(async {
            let listen = "127.0.0.1:0".parse().unwrap();
            landfall_server::Server::bind(listen, path, Default::default()).await.unwrap().spawn()
        })
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let server = serve(&format!("p6-{round}.db"));
        let store = SqliteStore::open(folder.join(format!("p6-queue-{round}.db"))).unwrap();
        let engine =
            Engine::builder(store, SyncEndpoint::new(server.endpoint()).unwrap()).build_blocking().unwrap();
        engine.enqueue_many_blocking((0..TASKS).map(note).collect()).unwrap();
        ours.push(timed(|| {
            let end = SessionEnd::Drained { within: Duration::from_secs(600) };
            assert!(engine.sync_until_blocking(end).unwrap().is_complete());
        }));
        runtime.block_on(server.stop());

        let server = serve(&format!("p6-raw-{round}.db"));
        let bodies: Vec<Vec<u8>> = (0..TASKS / 500).map(|batch| body(batch * 500)).collect();
        let client = UreqTransport::new();
        theirs.push(timed(|| {
            for body in bodies {
                let request = HttpRequest::new(Method::Post, server.endpoint(), Duration::from_secs(60))
                    .body("application/json", body);
                assert_eq!(client.send_blocking(&request).unwrap().status, 200);
            }
        }));
        runtime.block_on(server.stop());
    }
    let (ours, theirs) = (TASKS as f64 / median(ours), TASKS as f64 / median(theirs));
    say("P6 drain of 10,000 tasks", ours, "the same batches posted plainly", theirs, 0.8);
}

/// A request of 500 tasks as the client would write it.
fn body(first: usize) -> Vec<u8> {
    let tasks: Vec<String> = (first..first + 500)
        .map(|number| {
            let change = note(number);
            format!(
                r#"{{"key":"{number:032x}","task_id":"{number:032x}","entity_type":"note","entity_id":"raw-{number}","operation":"create","fields":{},"changed_at":"1700000000000-00000","schema":1}}"#,
                change.intent.fields.to_json()
            )
        })
        .collect();
    format!(r#"{{"protocol":1,"client_id":"raw","client_epoch":1,"tasks":[{}]}}"#, tasks.join(","))
        .into_bytes()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn say(what: &str, ours: f64, against: &str, theirs: f64, goal: f64) {
    let ratio = ours / theirs;
    println!("{what}: {ours:.0}/s against {theirs:.0}/s ({against}): ratio {ratio:.2}, goal {goal}");
}
