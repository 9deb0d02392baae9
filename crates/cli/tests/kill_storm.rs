//! A storm of `kill -9` over processes that share one store: two that enqueue files, one `sync` and one agent at a
//! time, each killed at a moment of its own, opening included; in half of the lives the server too, in the middle of
//! requests. Every life has a fresh store and a fresh server.
//!
//! The oracle is outside the engine: exit codes say what was acknowledged, plain SQL what is there. After each round
//! the store has all that was acknowledged, and of a file that was cut off all or nothing; what a process that was not
//! killed says is never an error. After the storm everything drains, and then the server's database has each change
//! once, and of the records that every file edits the last state, each edit, and their order.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

#[macro_use]
mod support;

use landfall_testkit::campaign::{Campaign, Figures};
use landfall_testkit::proxy::{Fault, FaultPlan, FaultProxy};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::{Dice, Scratch, Server, Stored, counts, endpoint, landfall, line};

/// Kills of processes that still ran and use the store, in one life. Few, so that many seeds are lived.
const KILLS: u64 = 20;
/// Lives of every run: 1,000 kills.
const LIVES: u64 = 50;
/// New records in one file.
const RECORDS: u64 = 8;

#[test]
fn a_storm_of_kills_loses_nothing_doubles_nothing_and_leaves_nothing_stuck() {
    let campaign = Campaign::new("kills", LIVES);
    let figures = campaign.run(live);
    println!("{figures:?}");
    let figure = |name| figures.get(name).copied().unwrap_or(0);
    // In a few lives chance may leave one of them out.
    if figure("seeds") < 20 {
        return;
    }
    for name in ["killed enqueuing", "killed syncing", "killed agents", "killed servers"] {
        assert!(figure(name) >= figure("seeds"), "{name}: hardly any; {figures:?}");
    }
    // Kills hit processes at work: enqueuers on both sides of their commit, and who sends between freezing and verdict.
    for name in ["files cut off", "files killed after their commit", "died with tasks in flight"] {
        assert!(figure(name) * 10 >= figure("seeds"), "{name}: hardly any; {figures:?}");
    }
    assert!(figure("effects in the storm") >= figure("kills"), "too little was done meanwhile: {figures:?}");
}

/// What runs, how to count its death, and how long it lives at most: as many times as a small enqueue takes by itself.
/// So kills fall everywhere within, however loaded the machine is.
const KINDS: [(&str, u32); 5] = [
    ("killed enqueuing", 3),
    ("killed enqueuing", 3),
    ("killed syncing", 4),
    ("killed agents", 5),
    ("killed servers", 4),
];
const SYNC: usize = 2;
const AGENT: usize = 3;
const SERVER: usize = 4;

fn live(seed: u64) -> Result<Figures, String> {
    let mut storm = Storm::new(seed);
    while storm.figures.get("kills").copied().unwrap_or(0) < KILLS {
        storm.round().map_err(|what| format!("round {}: {what}", storm.round))?;
    }
    storm.calm()
}

struct Storm {
    scratch: Scratch,
    server: Server,
    proxy: FaultProxy,
    db: String,
    dice: Dice,
    /// How long a small enqueue takes.
    takes: Duration,
    /// Whether the server is killed too.
    no_mercy: bool,
    round: u64,
    /// What the server must have in the end, and the app sees at any time.
    expected: BTreeMap<String, Value>,
    /// Tasks of the shared records, by record and place in the queue.
    order: BTreeMap<(String, i64), String>,
    figures: Figures,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let scratch = Scratch::new("kill-storm");
        let (server, db) = (Server::start(scratch.path("server.db")), scratch.text("q.db"));
        // Answers take a while, so that kills fall between a call and its answer.
        let plan = FaultPlan::weighted(1, [(2, Fault::DelayReply { ms: 20 })]);
        let proxy = FaultProxy::start(server.addr, plan, seed).unwrap();
        let mut expected = BTreeMap::new();
        let mut takes = Duration::MAX;
        for which in 0..2 {
            let begun = Instant::now();
            run!["enqueue", "--db", &db, "item", &shared(which), "create", r#"{"last":0}"#].ends(0);
            takes = takes.min(begun.elapsed());
            expected.insert(shared(which), json!({"last": 0}));
        }
        let (dice, figures, order) = (Dice::new(seed), Figures::new(), BTreeMap::new());
        let no_mercy = seed % 2 == 1;
        Self { scratch, server, proxy, db, dice, takes, no_mercy, round: 0, expected, order, figures }
    }

    fn count(&mut self, name: &'static str) {
        *self.figures.entry(name).or_default() += 1;
    }

    /// A moment within so many enqueues.
    fn moment(&mut self, most: u32) -> Duration {
        let within = (self.takes * most).as_micros() as u64;
        Duration::from_micros(self.dice.below(within))
    }

    /// Starts one of each, and kills each at its moment.
    fn round(&mut self) -> Result<(), String> {
        self.round += 1;
        let mut living: Vec<(usize, Duration, Option<Child>)> = Vec::new();
        for (which, (_, most)) in KINDS.iter().enumerate() {
            if which == SERVER && (!self.no_mercy || self.dice.below(2) == 0) {
                continue;
            }
            let after = self.moment(*most);
            living.push((which, after, (which != SERVER).then(|| self.start(which))));
        }
        living.sort_by_key(|(_, after, _)| *after);
        let begun = Instant::now();
        let mut ends = Vec::new();
        for (which, after, child) in living {
            thread::sleep(after.saturating_sub(begun.elapsed()));
            let Some(mut child) = child else {
                self.server.kill_and_start_again();
                self.count(KINDS[which].0);
                continue;
            };
            drop(child.kill());
            let status = child.wait().unwrap();
            if status.signal() == Some(9) {
                self.count("kills");
                self.count(KINDS[which].0);
            } else {
                let is_well = match which {
                    AGENT => false,
                    SYNC => matches!(status.code(), Some(0 | 2)),
                    _ => status.success(),
                };
                if !is_well {
                    let said = fs::read_to_string(self.errors_of(which)).unwrap();
                    return Err(format!("{} that was not killed: {status}: {said}", KINDS[which].0));
                }
            }
            if which < SYNC {
                ends.push((which, status.success()));
            }
        }
        self.look(&ends)
    }

    fn start(&mut self, which: usize) -> Child {
        let (db, endpoint) = (self.db.clone(), endpoint(self.proxy.addr()));
        let mut command = landfall();
        match which {
            AGENT => {
                command.args(["agent", "--json", "--db", &db, "--endpoint", &endpoint]);
                command.args(["--look", "50ms", "--debounce", "20ms", "--retry-cap", "50ms", "--batch", "3"]);
            }
            SYNC => {
                command.args(["sync", "--db", &db, "--endpoint", &endpoint, "--deadline", "5s"]);
                command.args(["--retry-cap", "50ms", "--batch", "3"]);
            }
            _ => {
                let name = format!("{which}-{}.jsonl", self.round);
                let file = self.scratch.file(&name, file(which, self.round));
                command.args(["enqueue", "--db", &db, "--file", &file]);
            }
        }
        let errors = File::create(self.errors_of(which)).unwrap();
        command.stdout(Stdio::null()).stderr(errors).spawn().unwrap()
    }

    fn errors_of(&self, which: usize) -> std::path::PathBuf {
        self.scratch.path(&format!("{which}.err"))
    }

    /// All are dead: the store, read with plain SQL.
    fn look(&mut self, ends: &[(usize, bool)]) -> Result<(), String> {
        let there = Queue::read(&self.db);
        for &(which, acknowledged) in ends {
            let found =
                (0..RECORDS).filter(|n| there.records.contains_key(&id(which, self.round, *n))).count();
            if found as u64 == RECORDS {
                self.expected.extend(records(which, self.round));
                let edited = &mut self.expected.get_mut(&shared(which)).unwrap();
                edited["last"] = json!(self.round);
                edited[format!("round-{}", self.round)] = json!(1);
                if !acknowledged {
                    self.count("files killed after their commit");
                }
            } else if found > 0 {
                return Err(format!("half a file of {which}: {found} of {RECORDS}"));
            } else if acknowledged {
                return Err(format!("acknowledged to {which} and lost"));
            } else {
                self.count("files cut off");
            }
        }
        compare(&there.records, &self.expected).map_err(|what| format!("what the app sees: {what}"))?;
        self.order.extend(there.shared);
        if there.in_flight > 0 {
            self.count("died with tasks in flight");
        }
        Ok(())
    }

    /// No more kills: what the dead left behind is taken over by the next one, and all arrives.
    fn calm(mut self) -> Result<Figures, String> {
        let in_the_storm = Stored::read(&self.server.db).effects;
        let endpoint = self.server.endpoint();
        let sync = ["sync", "--db", &self.db, "--endpoint", &endpoint, "--deadline", "60s"];
        let ran = support::run(sync.into_iter().chain(["--retry-cap", "50ms"]));
        if ran.code != Some(0) || counts(&self.db) != [0; 5] {
            return Err(format!("stuck: {:?}, {ran:?}", counts(&self.db)));
        }
        let db = self.server.stop();
        let stored = Stored::read(&db);
        stored.has_one_effect_per_task();
        let found = stored.records.into_iter().map(|((_, id), fields)| (id, read(&fields))).collect();
        compare(&found, &self.expected).map_err(|what| format!("what the server has: {what}"))?;
        let versions = versions(&db);
        let mut last = ("", 0);
        for ((record, place), task) in &self.order {
            let Some(&version) = versions.get(task) else {
                return Err(format!("task {task} of {record} was queued and has no effect"));
            };
            if last.0 == record && version <= last.1 {
                return Err(format!("{record}: the task at {place} took effect before an older one"));
            }
            last = (record, version);
        }
        let shared = self.order.len() as u64;
        self.figures.extend([
            ("effects", stored.effects),
            ("effects in the storm", in_the_storm),
            ("tasks in order", shared),
        ]);
        Ok(self.figures)
    }
}

/// The queue's file, read without any of our code.
struct Queue {
    /// What the app sees.
    records: BTreeMap<String, Value>,
    /// Tasks of the shared records by record and place.
    shared: Vec<((String, i64), String)>,
    in_flight: u64,
}

impl Queue {
    fn read(db: &str) -> Self {
        let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        let mut statement =
            connection.prepare("SELECT entity_id, fields FROM landfall_v_records WHERE NOT deleted").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, read(&row.get::<_, String>(1)?)))).unwrap();
        let records = rows.map(Result::unwrap).collect();
        let sql = "SELECT t.entity_id, t.seq, q.task_id FROM landfall_tasks t JOIN landfall_v_queue q
                   ON q.task_id = lower(substr(hex(t.task_id), 1, 8) || '-' || substr(hex(t.task_id), 9, 4) || '-'
                   || substr(hex(t.task_id), 13, 4) || '-' || substr(hex(t.task_id), 17, 4) || '-'
                   || substr(hex(t.task_id), 21)) WHERE t.entity_id LIKE 'shared-%'";
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?))).unwrap();
        let shared = rows.map(Result::unwrap).collect();
        let sql = "SELECT count(*) FROM landfall_v_queue WHERE state = 'in_flight'";
        let in_flight: i64 = connection.query_one(sql, [], |row| row.get(0)).unwrap();
        Self { records, shared, in_flight: in_flight as u64 }
    }
}

/// Which version each task's effect made, at the server.
fn versions(db: &Path) -> BTreeMap<String, i64> {
    let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut statement = connection.prepare("SELECT task_id, version FROM seen WHERE status = 0").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn compare(found: &BTreeMap<String, Value>, expected: &BTreeMap<String, Value>) -> Result<(), String> {
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(id, fields)| found.get(*id) != Some(fields))
        .map(|(id, fields)| format!("{id}: {fields} is {:?}", found.get(id)))
        .collect();
    let extra: Vec<_> = found.keys().filter(|id| !expected.contains_key(*id)).collect();
    if wrong.is_empty() && extra.is_empty() {
        return Ok(());
    }
    Err(format!("lost or overwritten: {wrong:?}; never stored: {extra:?}"))
}

fn read(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

fn id(which: usize, round: u64, record: u64) -> String {
    format!("{which}-{round}-{record}")
}

fn shared(which: usize) -> String {
    format!("shared-{which}")
}

fn records(which: usize, round: u64) -> impl Iterator<Item = (String, Value)> {
    (0..RECORDS).map(move |n| (id(which, round, n), json!({"round": round})))
}

/// New records with two edits of the enqueuer's shared record in between: an order that is broken shows in its end.
fn file(which: usize, round: u64) -> String {
    let mut lines: Vec<String> =
        records(which, round).map(|(id, fields)| line("item", &id, "create", &fields)).collect();
    let edit = |fields: Value| line("item", &shared(which), "update", &fields);
    lines.insert(1, edit(json!({"last": round, format!("round-{round}"): 0})));
    lines.insert(3, edit(json!({format!("round-{round}"): 1})));
    lines.join("\n")
}
