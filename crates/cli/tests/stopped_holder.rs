//! A process that holds the lease is stopped (SIGSTOP) for longer than the lease's term, with an answer waiting for it or
//! a request of its own on the way; another one takes over and finishes; then the first goes on (SIGCONT). Every change
//! has one effect all the same (R7, E10: single flight is an optimisation).
//!
//! The test program runs itself again as those two processes, because no option of the command line makes the term short.
//! Stores and the server's database are read with plain SQL.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

#[macro_use]
mod support;

use landfall_adapters::sync_endpoint::SyncEndpoint;
use landfall_core::config::Config;
use landfall_core::machine::SessionEnd;
use landfall_engine::Engine;
use landfall_sqlite::SqliteStore;
use landfall_testkit::campaign::{Campaign, Figures};
use landfall_testkit::proxy::{Fault, FaultPlan, FaultProxy};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::agents::until;
use support::{Dice, Ran, Scratch, Server, Stored, command, endpoint, line, signal};

/// Tells a run of this program that it is one of the two, and on which store with which server.
const ROLE: &str = "LANDFALL_TEST_HOLDER";
const TERM: Duration = Duration::from_secs(1);
const LIVES: u64 = 12;
const RECORDS: u64 = 10;

#[test]
fn stopped_for_longer_than_its_term_a_holder_comes_back_and_every_change_has_one_effect() {
    if let Ok(role) = std::env::var(ROLE) {
        return hold(&role);
    }
    let campaign = Campaign::new("stops", LIVES);
    let single = campaign.is_single();
    let figures = campaign.run(|seed| Ok(live(seed)));
    println!("{figures:?}");
    let figure = |name| figures.get(name).copied().unwrap_or(0);
    if !single {
        assert!(
            figure("taken over") * 4 >= figure("seeds") * 3,
            "most stops must be taken over: {figures:?}"
        );
        assert!(
            figure("stopped in flight") * 2 >= figure("seeds"),
            "too few had anything under way: {figures:?}"
        );
    }
}

/// One of the two processes: a session with a short term.
fn hold(role: &str) {
    let (db, endpoint) = role.split_once('|').unwrap();
    let mut config = Config::default();
    config.lease.term = TERM;
    config.push.batch_tasks = 4;
    config.retry.cap = Duration::from_millis(100);
    let engine =
        Engine::builder(SqliteStore::open(db).unwrap(), SyncEndpoint::builder(endpoint).build().unwrap())
            .config(config)
            .build_blocking()
            .unwrap();
    let within = Duration::from_secs(20);
    let report = engine.sync_until_blocking(SessionEnd::Drained { within }).unwrap();
    println!("report {}", json!({"complete": report.is_complete(), "dead": report.dead}));
}

/// Starts one of the two.
fn process(db: &str, endpoint: &str) -> Child {
    let mut command = command(std::env::current_exe().unwrap());
    let test = "stopped_for_longer_than_its_term_a_holder_comes_back_and_every_change_has_one_effect";
    command.args(["--exact", test, "--nocapture"]).env(ROLE, format!("{db}|{endpoint}"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn live(seed: u64) -> Figures {
    let scratch = Scratch::new("stopped-holder");
    let server = Server::start(scratch.path("server.db"));
    let mut dice = Dice::new(seed);
    let mut figures = Figures::new();
    // Either the answer waits at the first one's door, or the request arrives only after another has sent it too.
    let late = if seed % 2 == 0 { Fault::DelayReply { ms: 400 } } else { Fault::Delay { ms: 2_000 } };
    let proxy = FaultProxy::start(server.addr, FaultPlan::weighted(0, [(1, late)]), seed).unwrap();
    let db = scratch.text("q.db");
    let mut expected: BTreeMap<String, Value> = BTreeMap::new();
    enqueue(&scratch, &db, (0..RECORDS).map(|n| (n, "create", json!({"edit": 0}))), &mut expected).ends(0);

    let first = process(&db, &endpoint(proxy.addr()));
    until(Duration::from_secs(20), || in_flight(&db) > 0, || "nothing is sent".into());
    thread::sleep(Duration::from_millis(dice.below(300)));
    signal("STOP", first.id());
    until(Duration::from_secs(5), || state_of(first.id()) == Some('T'), || "it does not stop".into());
    *figures.entry("stopped in flight").or_default() += u64::from(in_flight(&db) > 0);

    // Edits of records whose fate is open, and new ones. A process that was stopped in the middle of a commit has the
    // file locked: that is said, and nothing else can be done about it.
    let more = (RECORDS / 2..RECORDS * 2)
        .map(|n| (n, if n < RECORDS { "update" } else { "create" }, json!({"edit": 1})));
    let ran = enqueue(&scratch, &db, more.clone(), &mut expected);
    if ran.code == Some(0) {
        let begun = Instant::now();
        let report = finished(process(&db, &server.endpoint()));
        assert_eq!(report["complete"], true, "the second one finishes: {report}");
        // While the first one had nothing to send, or had given the lease back, nobody has to wait.
        assert!(begun.elapsed() < TERM * 10, "{:?}", begun.elapsed());
        assert_eq!(state_of(first.id()), Some('T'), "the first one is still stopped");
        *figures.entry("taken over").or_default() += u64::from(begun.elapsed() >= TERM);
        Stored::read(&server.db).has_one_effect_per_task();
        let last = (0..RECORDS).map(|n| (n, "update", json!({"edit": 2})));
        enqueue(&scratch, &db, last, &mut expected).ends(0);
        signal("CONT", first.id());
    } else {
        ran.fails("busy");
        *figures.entry("stopped in a commit").or_default() += 1;
        signal("CONT", first.id());
        enqueue(&scratch, &db, more, &mut expected).ends(0);
    }
    let report = finished(first);
    assert_eq!(report["dead"], 0, "{report}");
    assert!(proxy.flush_late(Duration::from_secs(10)), "a request is still on its way");
    run!["sync", "--db", &db, "--endpoint", &server.endpoint(), "--deadline", "30s"].ends(0);
    let seen = query(&db, "SELECT entity_id, fields FROM landfall_v_records WHERE NOT deleted");
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    let found = stored.records.into_iter().map(|((_, id), fields)| (id, read(&fields))).collect();
    assert_eq!(expected, found, "what the server has");
    assert_eq!(expected, seen, "what the app sees");
    *figures.entry("effects").or_default() += stored.effects;
    figures
}

/// Waits for one of the two; what it reported.
fn finished(mut child: Child) -> Value {
    if support::wait(&mut child, Duration::from_secs(60)).is_none() {
        drop(child.kill());
        panic!("a process goes on for ever: {:?}", child.wait_with_output());
    }
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report =
        ran.out.lines().find_map(|line| line.split_once("report ")).unwrap_or_else(|| panic!("{ran:?}"));
    read(report.1)
}

/// A file of changes; if it is taken, `expected` follows.
fn enqueue(
    scratch: &Scratch,
    db: &str,
    changes: impl Iterator<Item = (u64, &'static str, Value)>,
    expected: &mut BTreeMap<String, Value>,
) -> Ran {
    let changes: Vec<_> = changes.collect();
    let lines: Vec<String> = changes
        .iter()
        .map(|(n, operation, fields)| line("note", &n.to_string(), operation, fields))
        .collect();
    let ran = run!["enqueue", "--db", db, "--file", &scratch.file("changes.jsonl", lines.join("\n"))];
    if ran.code == Some(0) {
        expected.extend(changes.into_iter().map(|(n, _, fields)| (n.to_string(), fields)));
    }
    ran
}

fn connection(db: &str) -> Connection {
    let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
}

fn in_flight(db: &str) -> i64 {
    let sql = "SELECT count(*) FROM landfall_v_queue WHERE state = 'in_flight'";
    connection(db).query_one(sql, [], |row| row.get(0)).unwrap()
}

fn query(db: &str, sql: &str) -> BTreeMap<String, Value> {
    let connection = connection(db);
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, read(&row.get::<_, String>(1)?)))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// The state of a process as the system shows it: `T` is stopped.
fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn read(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}
