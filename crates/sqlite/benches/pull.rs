//! What it costs to take in the backend's changes: 100,000 records in pages of 1,000, each page with its cursor in one
//! transaction, through the machine; beside the same rows upserted with plain SQL in as many transactions (P8).
//!
//! `cargo bench -p landfall-sqlite --bench pull`; `-- 10000` takes fewer. The ratios are what to look at: the goal is
//! at least 0.5. The second reading meets 1,000 edits that were never sent.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a measuring program")]

use landfall_core::adapter::{Capabilities, EffectClass, PullPage};
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::id::{CallId, EntityKey, Entropy};
use landfall_core::machine::{Directions, Effect, Machine, SessionEnd, Step};
use landfall_core::store::{Store, StoreTx};
use landfall_core::time::{Mono, Now, Timestamp};
use landfall_core::value::Fields;
use landfall_sqlite::SqliteStore;
use rusqlite::Connection;
use std::path::Path;
use std::time::{Duration, Instant};

const PAGE: usize = 1_000;
const EDITS: usize = 1_000;

fn main() {
    let rows = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(100_000);
    let folder = std::env::temp_dir().join(format!("landfall-pull-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut device = Device::open(&folder.join("ours.db"));
    let plain = plain(&folder.join("plain.db"));
    println!(
        "{:52} {:>10} {:>10} {:>7}",
        format!("{rows} changes in pages of {PAGE}"),
        "plain",
        "ours",
        "ratio"
    );
    for (reading, what) in
        ["records never heard of", "the same again, all changed", "and once more, 1,000 edited"]
            .into_iter()
            .enumerate()
    {
        if reading == 2 {
            device.edit();
        }
        let pages: Vec<PullPage> =
            (0..rows / PAGE).map(|page| self::page(page, reading, rows / PAGE)).collect();
        let theirs = timed(|| pages.iter().for_each(|page| upsert(&plain, page)));
        let ours = timed(|| pages.into_iter().for_each(|page| device.take(page)));
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        println!("{what:52} {theirs:>10.0?} {ours:>10.0?} {ratio:>7.2}");
    }
    let counts = device.store.begin().unwrap().counts().unwrap();
    assert_eq!(counts.pending as usize, EDITS.min(rows), "the edits are still there");
    drop(device);
    std::fs::remove_dir_all(&folder).unwrap();
}

fn page(number: usize, reading: usize, pages: usize) -> PullPage {
    let change = |at: usize| {
        let fields = format!(
            r#"{{"title":"Report {at} as read {reading}","species":"Gull","damage":"none","cost":{at},"remarks":"{}"}}"#,
            "seen on the runway at dusk ".repeat(6)
        );
        let body = Body::Live(Fields::parse(&fields).unwrap());
        let version = format!("{}", reading * 10_000_000 + at).as_str().into();
        Ok(RemoteEntity::new(key(at), body, Some(version)))
    };
    PullPage {
        changes: (number * PAGE..(number + 1) * PAGE).map(change).collect(),
        cursor: format!("{reading}.{number}").as_str().into(),
        has_more: number + 1 < pages,
    }
}

fn key(at: usize) -> EntityKey {
    EntityKey::new("report", format!("report-{at:07}"))
}

/// A store and the machine on it, driven by hand.
struct Device {
    store: SqliteStore,
    machine: Machine,
    clock: u64,
    asked: Option<CallId>,
}

impl Device {
    fn open(path: &Path) -> Self {
        let mut store = SqliteStore::open(path).unwrap();
        let capabilities = Capabilities {
            batch_tasks: 500,
            batch_bytes: 1 << 20,
            effect: EffectClass::OneEffect,
            pull: true,
            orders_writes: true,
            atomic_groups: false,
            actions: false,
            probe: false,
        };
        let mut tx = store.begin().unwrap();
        let machine = Machine::open(Config::default(), capabilities, &Entropy([7; 32]), &mut *tx).unwrap();
        tx.commit().unwrap();
        Self { store, machine, clock: 0, asked: None }
    }

    fn step(&mut self, work: impl FnOnce(&mut Step, &mut dyn StoreTx)) {
        self.clock += 1;
        let now = Now { wall: Timestamp(1_700_000_000_000), mono: Mono(self.clock) };
        let mut step = self.machine.step(now, Entropy([9; 32]));
        let mut tx = self.store.begin().unwrap();
        work(&mut step, &mut *tx);
        if step.needs_lease() {
            step.lead(&mut *tx, "bench", &|_| false).unwrap();
        }
        step.finish(&mut *tx).unwrap();
        tx.commit().unwrap();
        for effect in self.machine.apply(step) {
            if let Effect::Pull { call, .. } = effect {
                self.asked = Some(call);
            }
        }
    }

    /// Takes in a page, asking for it first if nobody has.
    fn take(&mut self, page: PullPage) {
        if self.asked.is_none() {
            let end = SessionEnd::Drained { within: Duration::from_secs(1_000_000) };
            self.step(|step, _| step.start_session_of(end, Directions::PullOnly));
        }
        let call = self.asked.take().unwrap();
        let answer = Ok(page);
        self.step(|step, tx| step.pulled(tx, call, &answer).unwrap());
    }

    fn edit(&mut self) {
        self.step(|step, tx| {
            for at in 0..EDITS {
                let entity = key(at * 7);
                let change = Change::update(entity.entity_type, entity.entity_id).set("damage", "dent");
                step.enqueue(tx, change).unwrap();
            }
        });
    }
}

/// A store made by the same code, its table of records filled by hand.
fn plain(path: &Path) -> Connection {
    drop(SqliteStore::open(path).unwrap());
    let plain = Connection::open(path).unwrap();
    plain.query_one("PRAGMA journal_mode = WAL", (), |_| Ok(())).unwrap();
    plain.execute_batch("PRAGMA synchronous = EXTRA").unwrap();
    plain
}

fn upsert(plain: &Connection, page: &PullPage) {
    plain.execute_batch("BEGIN IMMEDIATE").unwrap();
    let sql = "INSERT INTO landfall_entities (entity_type, entity_id, format, generation, base, base_complete, \
               base_version, local, staged, base_fields, sum) VALUES (?1, ?2, 2, 0, 1, 1, ?3, 3, 0, ?4, 7) \
               ON CONFLICT (owner, entity_type, entity_id) DO UPDATE SET base_version = ?3, base_fields = ?4, sum = 8";
    let mut statement = plain.prepare_cached(sql).unwrap();
    for remote in page.changes.iter().flatten() {
        let fields = remote.body.fields().unwrap().to_json();
        let version = remote.version.as_ref().map(|version| version.0.as_str());
        statement.execute((&remote.key.entity_type, &remote.key.entity_id, version, fields)).unwrap();
    }
    plain.execute_batch("COMMIT").unwrap();
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
