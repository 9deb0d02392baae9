//! Two to eight processes write to one store at once, beside an agent that sends and others that read: none of them ever
//! hears that the file is locked (P1), each change that was acknowledged arrives once, and each writer's edits of one record
//! stay in their order.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

#[macro_use]
mod support;

use landfall_testkit::campaign::{self, Figures};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::agents::{Agent, until, until_empty};
use support::{Ran, Scratch, Server, Stored, line, run};

/// Runs of each writer; every fourth stores a file.
const RUNS: usize = 20;
/// Changes of a file: enough for the writers' transactions to overlap.
const RECORDS: usize = 40;
/// Longer than anybody may have to wait: the store's own patience is 5 s, and then it would be an error.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn up_to_eight_writers_at_once_never_hear_that_the_file_is_locked() {
    let begun = Instant::now();
    let mut figures = Figures::new();
    for writers in [2, 4, 8] {
        let (more, longest) = write_at_once(writers);
        println!("{writers} writers: {more:?}; the longest run took {longest:?}");
        campaign::add(&mut figures, &more);
    }
    campaign::note("writers at once", begun.elapsed(), &figures);
}

fn write_at_once(writers: usize) -> (Figures, Duration) {
    let scratch = Scratch::new("many-writers");
    let server = Server::start(scratch.path("server.db"));
    let db = scratch.text("q.db");
    let is_over = AtomicBool::new(false);
    // Nobody has made the file yet: all of them may be the first.
    let (mut expected, mut longest, mut reads) = (BTreeMap::new(), Duration::ZERO, 0);
    let mut agent = None;
    thread::scope(|scope| {
        let (scratch, db, is_over) = (&scratch, &db, &is_over);
        // However this ends, the reader ends too.
        let _over = Over(is_over);
        let working: Vec<_> =
            (0..writers).map(|writer| scope.spawn(move || write(scratch, db, writer))).collect();
        until(DRAINED_WITHIN, || std::path::Path::new(db).exists(), || "nobody makes the file".into());
        let reader = scope.spawn(move || read_until(db, is_over));
        let mut sends = Agent::start(db, &server.endpoint(), &["--look", "50ms", "--debounce", "20ms"]);
        for worker in working {
            let (stored, took) = worker.join().unwrap();
            expected.extend(stored);
            longest = longest.max(took);
        }
        is_over.store(true, Ordering::SeqCst);
        reads = reader.join().unwrap();
        assert!(sends.child.try_wait().unwrap().is_none(), "the agent ended: {:?}", sends.said());
        agent = Some(sends);
    });
    until_empty(&db, DRAINED_WITHIN);
    assert!(agent.unwrap().terminate().success());
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    let found: BTreeMap<String, Value> = stored
        .records
        .into_iter()
        .map(|((_, id), fields)| (id, serde_json::from_str(&fields).unwrap()))
        .collect();
    assert_eq!(found, expected, "what was acknowledged, and nothing else");
    let figures = Figures::from([
        ("writers", writers as u64),
        ("runs", (writers * RUNS) as u64),
        ("reads", reads),
        ("changes", expected.len() as u64),
    ]);
    (figures, longest)
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One writer: what it was told is stored, and how long its longest run took.
fn write(scratch: &Scratch, db: &str, writer: usize) -> (BTreeMap<String, Value>, Duration) {
    let (mut stored, mut longest) = (BTreeMap::new(), Duration::ZERO);
    let own = format!("own-{writer}");
    for number in 0..RUNS {
        let begun = Instant::now();
        let ran = if number % 4 == 3 {
            let ids: Vec<String> = (0..RECORDS).map(|record| format!("{writer}-{number}-{record}")).collect();
            let lines: Vec<String> =
                ids.iter().map(|id| line("note", id, "create", &json!({"a": 1}))).collect();
            stored.extend(ids.into_iter().map(|id| (id, json!({"a": 1}))));
            let file = scratch.file(&format!("{writer}-{number}.jsonl"), lines.join("\n"));
            run!["enqueue", "--db", db, "--file", &file]
        } else {
            let operation = if number == 0 { "create" } else { "update" };
            let fields = json!({"last": number, format!("edit-{number}"): 1});
            let known = stored.entry(own.clone()).or_insert_with(|| json!({}));
            known["last"] = json!(number);
            known[format!("edit-{number}")] = json!(1);
            run(["enqueue", "--db", db, "note", &own, operation, &fields.to_string()])
        };
        well(ran);
        longest = longest.max(begun.elapsed());
    }
    (stored, longest)
}

/// Reads in every way until it is over; how often.
fn read_until(db: &str, is_over: &AtomicBool) -> u64 {
    let mut reads = 0;
    while !is_over.load(Ordering::SeqCst) {
        for command in [["status", "--db"], ["queue", "--db"], ["dead", "list"]] {
            let mut args = command.to_vec();
            if command[0] == "dead" {
                args.push("--db");
            }
            args.push(db);
            well(run(args));
            reads += 1;
        }
    }
    reads
}

#[track_caller]
fn well(ran: Ran) {
    let complains = ["error", "warning", "busy", "locked"].iter().any(|word| ran.err.contains(word));
    assert!(ran.code == Some(0) && !complains, "{ran:?}");
}
