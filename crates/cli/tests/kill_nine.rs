//! `kill -9` during `enqueue --file` and during `sync`, 200 times, with real processes, a real server and a network
//! with faults: every acknowledged enqueue arrives once, and of one that was cut off all or nothing.
//!
//! In the end the server's database is read with plain SQL. `LANDFALL_SEED=…` repeats a run's delays.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

#[macro_use]
mod support;

use landfall_testkit::proxy::{Ending, Fault, FaultPlan, FaultProxy};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{Dice, Scratch, Server, Stored, counts, endpoint, landfall, line, seed};

/// Kills that must hit a process that was still running.
const KILLS: u64 = 200;
/// Devices working side by side.
const DEVICES: u64 = 2;
/// New records in one file.
const RECORDS: u64 = 150;

#[test]
fn killed_at_any_moment_everything_acknowledged_arrives_once() {
    let seed = seed();
    println!("seed {seed}");
    let scratch = Scratch::new("kill-nine");
    let server = Server::start(scratch.path("server.db"));
    let proxy = FaultProxy::start(server.addr, faults(), seed).unwrap();
    let kills = Kills::default();
    let target = endpoint(proxy.addr());
    let mut expected = BTreeMap::new();
    std::thread::scope(|scope| {
        let devices: Vec<_> = (0..DEVICES)
            .map(|number| {
                let (scratch, kills, target) = (&scratch, &kills, &target);
                scope.spawn(move || {
                    let mut device = Device::new(number, scratch, target.clone(), seed);
                    while kills.total() < KILLS {
                        device.record(kills);
                        device.sync(kills);
                    }
                    device
                })
            })
            .collect();
        for device in devices {
            expected.extend(device.join().unwrap().finish(&proxy));
        }
    });
    let (enqueue, sync) = (kills.enqueue.load(Ordering::SeqCst), kills.sync.load(Ordering::SeqCst));
    println!("killed during enqueue {enqueue} times, during sync {sync} times; {} records", expected.len());
    println!("faults: {:?}", proxy.stats());
    assert!(enqueue >= KILLS / 5 && sync >= KILLS / 5, "both kinds of kill must have happened");
    assert!(expected.len() as u64 > RECORDS, "some files must have been acknowledged");

    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    let found: BTreeMap<String, Value> = stored
        .records
        .into_iter()
        .map(|((_, id), fields)| (id, serde_json::from_str(&fields).unwrap()))
        .collect();
    for (id, fields) in &expected {
        assert_eq!(found.get(id), Some(fields), "{id} was acknowledged");
    }
    for id in found.keys() {
        assert!(expected.contains_key(id), "{id} was never stored, or only half of its file was");
    }
}

/// Two of three requests meet something; nothing that takes long.
fn faults() -> FaultPlan {
    FaultPlan::weighted(
        6,
        [
            (3, Fault::DropReplyAfterApply { end: Ending::Reset }),
            (2, Fault::CutReply { at: landfall_testkit::proxy::Cut::Seeded, end: Ending::Close }),
            (2, Fault::Delay { ms: 30 }),
            (1, Fault::Status500 { applied: true }),
            (1, Fault::Status500 { applied: false }),
            (1, Fault::CaptivePortal),
            (1, Fault::MissingResults),
            (1, Fault::ResetOnAccept),
        ],
    )
}

#[derive(Default)]
struct Kills {
    enqueue: AtomicU64,
    sync: AtomicU64,
}

impl Kills {
    fn total(&self) -> u64 {
        self.enqueue.load(Ordering::SeqCst) + self.sync.load(Ordering::SeqCst)
    }
}

/// One queue file and what must become of it.
struct Device<'a> {
    number: u64,
    scratch: &'a Scratch,
    db: String,
    endpoint: String,
    dice: Dice,
    /// Files written so far.
    files: u64,
    /// How long a whole enqueue and a whole sync take here, so that kills fall everywhere within.
    enqueue_ms: u64,
    sync_ms: u64,
    /// What the server must have in the end.
    expected: BTreeMap<String, Value>,
}

impl<'a> Device<'a> {
    fn new(number: u64, scratch: &'a Scratch, endpoint: String, seed: u64) -> Self {
        let db = scratch.text(&format!("device-{number}.db"));
        let dice = Dice::new(seed ^ (number << 32));
        let expected = BTreeMap::new();
        Self { number, scratch, db, endpoint, dice, files: 0, enqueue_ms: 150, sync_ms: 250, expected }
    }

    /// Enqueues a file, killed at a random moment, and finds out what became of it.
    fn record(&mut self, kills: &Kills) {
        self.files += 1;
        let (file, states) = self.write_file();
        let begun = Instant::now();
        let mut child = landfall()
            .args(["enqueue", "--db", &self.db, "--file", &file])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let acknowledged = match self.kill_after(self.enqueue_ms, &mut child) {
            Ended::Killed => {
                kills.enqueue.fetch_add(1, Ordering::SeqCst);
                false
            }
            Ended::Code(code) => {
                assert_eq!(code, 0, "an enqueue that is not killed succeeds");
                self.enqueue_ms = near(self.enqueue_ms, begun);
                true
            }
        };
        // The first and the last line of the file: both there or neither. All in between is seen on the server.
        let (first, last) = (self.id(0), self.id(RECORDS - 1));
        let there = [first, last].map(|id| run!["get", "--db", &self.db, "item", &id].code == Some(0));
        assert_eq!(there[0], there[1], "half of {file} is there");
        assert!(there[0] || !acknowledged, "{file} was acknowledged and is not there");
        if there[0] {
            self.expected.extend(states);
        }
    }

    /// New records, an edit of some of them, and edits of records that may be on their way at this moment.
    fn write_file(&mut self) -> (String, Vec<(String, Value)>) {
        let mut lines = Vec::new();
        let mut states: BTreeMap<String, Value> = BTreeMap::new();
        for record in 0..RECORDS {
            let fields =
                json!({"file": self.files, "record": record, "text": "rain at the gate, no wind", "seen": 0});
            lines.push(line("item", &self.id(record), "create", &fields));
            states.insert(self.id(record), fields);
        }
        let known: Vec<String> = self.expected.keys().chain(states.keys()).cloned().collect();
        for _ in 0..RECORDS / 3 {
            let id = &known[self.dice.below(known.len() as u64) as usize];
            let seen = json!(self.dice.next());
            let mut fields = states.get(id).or_else(|| self.expected.get(id)).unwrap().clone();
            fields["seen"] = seen.clone();
            states.insert(id.clone(), fields);
            // The last line of the file stays the create of the last record.
            lines.push(line("item", id, "update", &json!({"seen": seen})));
        }
        let name = format!("changes-{}-{}.jsonl", self.number, self.files);
        (self.scratch.file(&name, lines.join("\n")), states.into_iter().collect())
    }

    fn id(&self, record: u64) -> String {
        format!("{}-{}-{record}", self.number, self.files)
    }

    /// One sync, killed at a random moment.
    fn sync(&mut self, kills: &Kills) {
        if !std::path::Path::new(&self.db).exists() {
            return;
        }
        let begun = Instant::now();
        let mut child = self.syncing("20s").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        match self.kill_after(self.sync_ms, &mut child) {
            Ended::Killed => {
                kills.sync.fetch_add(1, Ordering::SeqCst);
            }
            Ended::Code(code) => {
                assert!(code == 0 || code == 2, "a sync that is not killed ends with {code}");
                self.sync_ms = near(self.sync_ms, begun);
            }
        }
    }

    fn syncing(&self, deadline: &str) -> std::process::Command {
        let mut command = landfall();
        command.args(["sync", "--db", &self.db, "--endpoint", &self.endpoint, "--deadline", deadline]);
        command.args(["--retry-cap", "50ms", "--batch", "60", "--timeout", "5s"]);
        command
    }

    fn kill_after(&mut self, most_ms: u64, child: &mut Child) -> Ended {
        std::thread::sleep(Duration::from_micros(self.dice.below(most_ms * 1000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        match (status.signal(), status.code()) {
            (Some(9), _) => Ended::Killed,
            (_, Some(code)) => Ended::Code(code),
            other => panic!("{other:?}"),
        }
    }

    /// The network is well again: everything arrives.
    fn finish(self, proxy: &FaultProxy) -> BTreeMap<String, Value> {
        proxy.set_plan(FaultPlan::healthy());
        let report = support::Ran::from(self.syncing("60s").arg("--json").output().unwrap()).ends(0).json();
        assert_eq!(report["complete"], true, "{report}");
        assert_eq!(counts(&self.db), [0; 5]);
        self.expected
    }
}

enum Ended {
    Killed,
    Code(i32),
}

/// Follows the time that a whole run takes, a little beyond it.
fn near(known_ms: u64, begun: Instant) -> u64 {
    let now_ms = begun.elapsed().as_millis() as u64;
    (known_ms + now_ms + now_ms / 4).div_ceil(2).clamp(20, 2_000)
}
