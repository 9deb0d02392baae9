//! How the store scales: each figure at 1,000 queued tasks and at many, and against plain SQL of the same rows.
//!
//! `cargo bench -p landfall-sqlite` fills a queue of a million in the folder for temporary files (about 700 MB);
//! `-- 100000` takes fewer. Absolute times belong to the machine; the ratios are what to look at. PERFORMANCE.md of the
//! project names the goals: P1, P3, P4, P5, P8.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a measuring program")]

use landfall_core::entity::{Base, Body, StoredEntity};
use landfall_core::id::{EntityKey, Fence, Fingerprint, IdempotencyKey};
use landfall_core::store::{Store, StoreTx};
use landfall_core::task::{Frozen, Task, TaskState};
use landfall_core::time::Timestamp;
use landfall_core::value::Fields;
use landfall_sqlite::{Durability, SqliteStore};
use landfall_testkit::conformance::store::samples::{ended, replica, task};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const BATCH: usize = 500;
const BULK: u64 = 100_000;

fn main() {
    // `cargo bench` passes `--bench`.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    match (args.next().as_deref(), args.next()) {
        (Some("drain"), Some(path)) => drain(Path::new(&path)),
        (rows, _) => measure(rows.map_or(1_000_000, |rows| rows.parse().unwrap())),
    }
}

fn measure(rows: u64) {
    let folder = std::env::temp_dir().join(format!("landfall-queue-scale-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (small, large) = (folder.join("small.db"), folder.join("large.db"));
    fill(&small, 1_000);
    let seconds = timed(|| fill(&large, rows)).as_secs_f64();
    let megabytes = std::fs::metadata(&large).unwrap().len() >> 20;
    println!("filled {rows} in transactions of 5,000: {:.0} tasks/s, {megabytes} MB", rows as f64 / seconds);

    println!("\n{:44} {:>12} {:>12} {:>7}", "median", "at 1,000", format!("at {rows}"), "ratio");
    for (name, durability, times, work) in [
        ("enqueue, durable", Durability::Full, 200, enqueue as fn(&mut SqliteStore, u64)),
        ("enqueue, without waiting for the disk", Durability::MayLoseLastWrites, 2_000, enqueue),
        ("look at the next 500 claimable", Durability::Full, 200, |store, _| drop(claim(store))),
        ("look at the next one claimable", Durability::Full, 500, |store, _| {
            assert_eq!(store.begin().unwrap().claimable(Timestamp(1), 1).unwrap().tasks.len(), 1);
        }),
        ("counts, next_claim, oldest", Durability::Full, 500, status),
        ("freeze 500 and put them back, 2 commits", Durability::Full, 20, freeze_and_thaw),
        ("freeze 500, settle them, enqueue 500 anew", Durability::Full, 20, turn_over),
    ] {
        let [at_small, at_large] = [&small, &large].map(|path| {
            let mut store = SqliteStore::options().durability(durability).open(path).unwrap();
            let median = median(times, |round| work(&mut store, round));
            store.idle().unwrap();
            median
        });
        println!("{name:44} {at_small:>12.1?} {at_large:>12.1?} {:>7.2}", ratio(at_large, at_small));
    }

    println!("\n{:44} {:>12} {:>12} {:>7}", "against plain SQL of the same rows", "plain", "ours", "ratio");
    against_plain_sql(&folder);

    println!();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["drain", large.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::remove_dir_all(&folder).unwrap();
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(times: usize, mut work: impl FnMut(u64)) -> Duration {
    let mut all: Vec<Duration> = (0..times).map(|round| timed(|| work(round as u64))).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

/// About 300 bytes of fields.
fn sample(number: u64, seq: u64) -> Task {
    let key = EntityKey::new("note", format!("note-{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let mut task = task(seq, &key);
    task.intent.fields = fields(number);
    task
}

fn fields(number: u64) -> Fields {
    Fields::from([
        ("title", format!("Note number {number}")),
        ("text", "Lorem ipsum dolor sit amet, consectetur adipiscing elit. ".repeat(4)),
        ("state", "open".to_owned()),
        ("colour", "#ffcc00".to_owned()),
    ])
}

fn record(task: &Task) -> StoredEntity {
    let local = Some(Body::Live(task.intent.fields.clone()));
    StoredEntity { generation: 1, local, ..StoredEntity::unknown(task.entity.clone()) }
}

/// What the engine does for one new change of a new record.
fn put_new(tx: &mut dyn StoreTx, number: u64) {
    let seq = tx.next_seq().unwrap();
    let task = sample(number, seq);
    assert!(tx.entity(&task.entity).unwrap().is_none() && tx.last_of_entity(&task.entity).unwrap().is_none());
    tx.put_entity(&record(&task)).unwrap();
    tx.put_task(&task).unwrap();
}

fn fill(path: &Path, rows: u64) {
    let mut store = SqliteStore::options().durability(Durability::MayLoseLastWrites).open(path).unwrap();
    for first in (0..rows).step_by(5_000) {
        let mut tx = store.begin().unwrap();
        tx.put_replica(&replica(1)).unwrap();
        (first..rows.min(first + 5_000)).for_each(|number| put_new(tx.as_mut(), number));
        tx.commit().unwrap();
        store.idle().unwrap();
    }
}

fn enqueue(store: &mut SqliteStore, _: u64) {
    let mut tx = store.begin().unwrap();
    let number = tx.next_seq().unwrap() + 1_000_000_000;
    put_new(tx.as_mut(), number);
    tx.put_replica(&replica(number)).unwrap();
    tx.commit().unwrap();
}

fn claim(store: &mut SqliteStore) -> Vec<Task> {
    let tasks = store.begin().unwrap().claimable(Timestamp(1), BATCH).unwrap().tasks;
    assert_eq!(tasks.len(), BATCH);
    tasks
}

fn status(store: &mut SqliteStore, _: u64) {
    let tx = store.begin().unwrap();
    assert!(tx.counts().unwrap().pending > 0 && tx.oldest().unwrap().is_some());
    assert_eq!(tx.next_claim(Timestamp(1)).unwrap(), None);
}

fn frozen(task: &Task, round: u64) -> Task {
    let payload: std::sync::Arc<str> = task.intent.fields.to_json().into();
    let mut key = [0; 16];
    key[..8].copy_from_slice(&task.seq.to_be_bytes());
    key[8..].copy_from_slice(&round.to_be_bytes());
    let fingerprint = Fingerprint::of(payload.as_bytes());
    Task {
        state: TaskState::InFlight { fence: Fence(1) },
        claim_at: None,
        frozen: Some(Frozen {
            key: IdempotencyKey(key),
            payload,
            fingerprint,
            base_version: None,
            sends: 1,
            open_sends: 1,
        }),
        ..task.clone()
    }
}

fn put_all(store: &mut SqliteStore, tasks: &[Task]) {
    let mut tx = store.begin().unwrap();
    tasks.iter().for_each(|task| tx.put_task(task).unwrap());
    tx.commit().unwrap();
}

fn freeze_and_thaw(store: &mut SqliteStore, round: u64) {
    let tasks = claim(store);
    let sent: Vec<Task> = tasks.iter().map(|task| frozen(task, round)).collect();
    put_all(store, &sent);
    put_all(store, &tasks);
}

/// Claims a batch, freezes it, and settles it with its records.
fn send_batch(store: &mut SqliteStore, round: u64) {
    let sent: Vec<Task> = claim(store).iter().map(|task| frozen(task, round)).collect();
    put_all(store, &sent);
    let mut tx = store.begin().unwrap();
    for task in &sent {
        let entity = tx.entity(&task.entity).unwrap().unwrap();
        let body = entity.local.clone().unwrap();
        let base = Some(Base { body, version: Some("1".into()), complete: true });
        tx.put_entity(&StoredEntity { base, ..entity }).unwrap();
        tx.settle_task(task, &ended(task, 1)).unwrap();
    }
    tx.commit().unwrap();
}

fn turn_over(store: &mut SqliteStore, round: u64) {
    send_batch(store, round);
    let mut tx = store.begin().unwrap();
    let first = tx.next_seq().unwrap() + 2_000_000_000;
    (0..BATCH as u64).for_each(|at| put_new(tx.as_mut(), first + at));
    tx.commit().unwrap();
}

/// The rows of one table as plain SQL writes them: read once from a store that holds them.
fn plain_rows(path: &Path, table: &str) -> (String, Vec<Vec<rusqlite::types::Value>>) {
    let raw = Connection::open(path).unwrap();
    let mut statement = raw.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let columns = statement.column_count();
    let insert = format!("INSERT INTO {table} VALUES ({})", vec!["?"; columns].join(", "));
    let read = |row: &rusqlite::Row<'_>| (0..columns).map(|column| row.get(column)).collect();
    let rows = statement.query_map((), read).unwrap().map(Result::unwrap).collect();
    (insert, rows)
}

fn against_plain_sql(folder: &Path) {
    let print = |name: &str, plain: Duration, ours: Duration| {
        println!("{name:44} {plain:>12.1?} {ours:>12.1?} {:>7.2}", ratio(plain, ours));
    };
    let path = |name: &str| -> PathBuf { folder.join(name) };
    // P3 and P8: many rows in one transaction.
    let mut ours = SqliteStore::open(path("ours.db")).unwrap();
    let numbers: Vec<Task> = (0..BULK).map(|number| sample(number, number + 1)).collect();
    let many = timed(|| {
        let mut tx = ours.begin().unwrap();
        for task in &numbers {
            tx.put_entity(&record(task)).unwrap();
            tx.put_task(task).unwrap();
        }
        tx.commit().unwrap();
    });
    ours.idle().unwrap();
    let tables = ["landfall_entities", "landfall_tasks"].map(|table| plain_rows(&path("ours.db"), table));
    let plain = plain_store(&path("plain.db"));
    let plain_many = timed(|| {
        plain.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut statements = tables.each_ref().map(|(insert, _)| plain.prepare(insert).unwrap());
        for at in 0..BULK as usize {
            for (statement, (_, rows)) in statements.iter_mut().zip(&tables) {
                statement.execute(rusqlite::params_from_iter(&rows[at])).unwrap();
            }
        }
        plain.execute_batch("COMMIT").unwrap();
    });
    print("enqueue 100,000 in one transaction (P3)", plain_many, many);
    // What `idle` did to ours: an emptied log has to grow again.
    plain.query_one("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();

    let pull = |task: &Task| {
        let body = Body::Live(task.intent.fields.clone());
        let base = Some(Base { body, version: Some("2".into()), complete: true });
        StoredEntity { base, ..record(task) }
    };
    let entities: Vec<StoredEntity> = numbers.iter().map(pull).collect();
    let pulled = timed(|| {
        let mut tx = ours.begin().unwrap();
        entities.iter().for_each(|entity| tx.put_entity(entity).unwrap());
        tx.commit().unwrap();
    });
    ours.idle().unwrap();
    let (_, rows) = plain_rows(&path("ours.db"), "landfall_entities");
    let plain_pulled = timed(|| {
        plain.execute_batch("BEGIN IMMEDIATE").unwrap();
        let columns = "(entity_type, entity_id, format, generation, base, base_complete, base_version, local, staged, \
            staged_version, base_fields, local_fields, staged_fields, sum, reading, staged_ms, staged_count, owner)";
        let set = "ON CONFLICT (owner, entity_type, entity_id) DO UPDATE SET format = ?3, generation = ?4, base = ?5, \
            base_complete = ?6, base_version = ?7, local = ?8, staged = ?9, staged_version = ?10, base_fields = ?11, \
            local_fields = ?12, staged_fields = ?13, sum = ?14, reading = ?15, staged_ms = ?16, staged_count = ?17";
        let values: Vec<String> = (1..=18).map(|n| format!("?{n}")).collect();
        let sql = format!("INSERT INTO landfall_entities {columns} VALUES ({}) {set}", values.join(", "));
        let mut upsert = plain.prepare(&sql).unwrap();
        for row in &rows {
            upsert.execute(rusqlite::params_from_iter(&row[1..])).unwrap();
        }
        plain.execute_batch("COMMIT").unwrap();
    });
    print("upsert 100,000 records in one transaction (P8)", plain_pulled, pulled);

    // P1: one by one, in turns, because the disk changes its mood.
    let (mut ones, mut plain_ones) = (Duration::ZERO, Duration::ZERO);
    let mut inserts = tables.each_ref().map(|(insert, _)| plain.prepare(insert).unwrap());
    for round in 0..400 {
        if round % 50 == 0 {
            // Neither is to run into its own checkpoint while the other does not.
            ours.idle().unwrap();
            plain.query_one("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(())).unwrap();
        }
        ones += timed(|| enqueue(&mut ours, round));
        plain_ones += timed(|| {
            plain.execute_batch("BEGIN IMMEDIATE").unwrap();
            for (insert, (_, rows)) in inserts.iter_mut().zip(&tables) {
                let mut row = rows[round as usize].clone();
                renew(&mut row, round);
                insert.execute(rusqlite::params_from_iter(row)).unwrap();
            }
            plain.execute_batch("COMMIT").unwrap();
        });
    }
    print("400 durable enqueues, one by one (P1)", plain_ones, ones);
}

/// A raw connection to a new store, with the settings of a store.
fn plain_store(path: &Path) -> Connection {
    drop(SqliteStore::open(path).unwrap());
    let plain = Connection::open(path).unwrap();
    plain
        .execute_batch(
            "PRAGMA synchronous = EXTRA; PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -8192",
        )
        .unwrap();
    plain
}

/// Makes a copied row unique.
fn renew(row: &mut [rusqlite::types::Value], round: u64) {
    use rusqlite::types::Value;
    for value in row {
        match value {
            Value::Integer(n) if *n >= 1 && *n <= BULK as i64 => *n += BULK as i64 + 1,
            Value::Blob(bytes) if bytes.len() == 16 => bytes[..8].copy_from_slice(&round.to_be_bytes()),
            Value::Text(text) if text.starts_with("note-") => text.push('x'),
            _ => {}
        }
    }
}

/// In a process of its own: opens the queue, claims the first task, and works through 200 batches.
fn drain(path: &Path) {
    let before = resident_kib();
    let start = Instant::now();
    let mut store = SqliteStore::open(path).unwrap();
    let opened = start.elapsed();
    assert_eq!(store.begin().unwrap().claimable(Timestamp(1), 1).unwrap().tasks.len(), 1);
    println!("opened in {opened:.1?}, first task after {:.1?} (P5)", start.elapsed());
    let queued = store.begin().unwrap().counts().unwrap().total();
    println!("resident: {before} KiB at start, {} KiB after opening {queued} tasks", resident_kib());
    let start = Instant::now();
    for round in 0..200 {
        send_batch(&mut store, round);
        store.idle().unwrap();
        if round % 50 == 49 {
            println!("  {} KiB after {} settled tasks", resident_kib(), (round + 1) * BATCH as u64);
        }
    }
    println!(
        "drained at {:.0} tasks/s, two durable commits a batch",
        100_000.0 / start.elapsed().as_secs_f64()
    );
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
