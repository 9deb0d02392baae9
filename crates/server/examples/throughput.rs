//! How fast is a push? Promise P11: at least 0.7 of a plain loop that makes the same inserts with group commit.
//!
//! `cargo run --release -p landfall-server --example throughput [seconds]`. Prints one line per measurement. The plain loop
//! knows no rules: it writes the same rows (record, key, counter) through the same prepared statements' equals, in transactions
//! of as many tasks as the server puts in one.
#![allow(clippy::print_stdout, reason = "a measurement that prints")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use landfall_protocol::{Fields, Operation, PROTOCOL_VERSION, PushRequest, Task};
use landfall_server::{SqliteOptions, SqliteStore, Submission};
use rusqlite::{Connection, params};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    let time = Duration::from_secs(seconds);
    let folder = std::env::temp_dir().join(format!("landfall-throughput-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    println!("callers  tasks/push  server tasks/s  plain tasks/s  ratio");
    for (callers, tasks) in [(1, 1), (16, 1), (1, 100), (16, 100)] {
        let pushes = server(&folder.join(format!("s{callers}-{tasks}.db")), callers, tasks, time)?;
        // The plain loop makes one commit for what the server can put into one: all callers' pushes.
        let plain = plain(&folder.join(format!("p{callers}-{tasks}.db")), (callers * tasks) as u64, time)?;
        println!("{callers:7}  {tasks:10}  {pushes:14.0}  {plain:13.0}  {:5.2}", pushes / plain);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn fields(n: u64) -> Outcome<Fields> {
    let title = format!("\"note number {n} {}\"", "x".repeat(120));
    Ok(Fields::new().with("title", &title)?.with("done", "false")?.with("n", &n.to_string())?)
}

fn server(path: &Path, callers: usize, tasks: usize, time: Duration) -> Outcome<f64> {
    let store = SqliteStore::open(path, SqliteOptions::default())?;
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let threads: Vec<_> = (0..callers)
        .map(|caller| {
            let (store, next) = (store.clone(), Arc::clone(&next));
            std::thread::spawn(move || -> Outcome<u64> {
                let mut done = 0;
                while begun.elapsed() < time {
                    let batch = (0..tasks).map(|_| task(next.fetch_add(1, Ordering::Relaxed)));
                    let request = PushRequest {
                        protocol: PROTOCOL_VERSION,
                        client_id: format!("client-{caller}"),
                        client_epoch: 1,
                        server_id: None,
                        tasks: batch.collect::<Outcome<_>>()?,
                    };
                    done += store.push_blocking("default", Submission::from(request))?.results.len() as u64;
                }
                Ok(done)
            })
        })
        .collect();
    let mut done = 0;
    for thread in threads {
        done += thread.join().map_err(|_| "a caller panicked")??;
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}

fn task(n: u64) -> Outcome<Task> {
    Ok(Task {
        key: format!("{:032x}", u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
        task_id: format!("{n:032x}"),
        entity_type: "note".to_owned(),
        entity_id: format!("note-{n}"),
        operation: Operation::Create,
        action: None,
        base_version: None,
        fields: fields(n)?,
        unset: Vec::new(),
        changed_at: None,
        schema: None,
        group: None,
    })
}

fn plain(path: &Path, per_commit: u64, time: Duration) -> Outcome<f64> {
    // The server's own schema, so that the rows are the same.
    drop(SqliteStore::open(path, SqliteOptions::default())?);
    let mut connection = Connection::open(path)?;
    connection.execute_batch("PRAGMA synchronous = EXTRA; PRAGMA cache_size = -32768; INSERT INTO tenants VALUES (1, 'default', 0);")?;
    let begun = Instant::now();
    let mut n = 0;
    while begun.elapsed() < time {
        let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut record = tx.prepare_cached("INSERT INTO records VALUES (1, 'note', ?1, ?2, ?3)")?;
            let mut seen = tx.prepare_cached("INSERT INTO seen VALUES (1, ?1, 1, ?2, ?3, 0, ?4, NULL)")?;
            let mut version = tx.prepare_cached("UPDATE tenants SET version = ?1 WHERE id = 1")?;
            for _ in 0..per_commit {
                let task = task(n)?;
                n += 1;
                record.execute(params![task.entity_id, n as i64, task.fields.to_json()])?;
                seen.execute(params![task.key, task.task_id, [7_u8; 32], n as i64])?;
            }
            version.execute([n as i64])?;
        }
        tx.commit()?;
    }
    Ok(n as f64 / begun.elapsed().as_secs_f64())
}
