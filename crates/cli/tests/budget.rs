//! `landfall sync --budget`: one run within a window, with the real binary and the real server. What it used up and what
//! is left is said, runs go on where the last one ended, and what is no budget is refused.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

#[macro_use]
mod support;

use landfall_testkit::proxy::{Fault, FaultPlan, FaultProxy};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::{Ran, Scratch, Server, Stored, counts, endpoint, line, run, seed};

/// A queue of so many new records, with so many bytes of text each.
fn queue(scratch: &Scratch, tasks: usize, bytes: usize) -> String {
    let fields = json!({ "text": "x".repeat(bytes) });
    let lines: Vec<String> =
        (0..tasks).map(|task| line("note", &task.to_string(), "create", &fields)).collect();
    let (db, file) = (scratch.text("q.db"), scratch.file("changes.jsonl", lines.join("\n")));
    run!["enqueue", "--db", &db, "--file", &file].ends(0);
    db
}

fn sync(db: &str, endpoint: &str, budget: &str, more: &[&str]) -> Ran {
    let args = ["sync", "--db", db, "--endpoint", endpoint, "--budget", budget];
    run(args.iter().chain(more))
}

#[test]
fn a_run_sends_no_more_tasks_than_it_may_and_the_next_goes_on() {
    let scratch = Scratch::new("budget-tasks");
    let server = Server::start(scratch.path("server.db"));
    let db = queue(&scratch, 10, 10);
    let report = sync(&db, &server.endpoint(), "4tasks", &["--json"]).ends(2).json();
    assert_eq!((&report["applied"], &report["left"]["pending"]), (&json!(4), &json!(6)), "{report}");
    assert_eq!((&report["exhausted"], &report["complete"]), (&json!("tasks"), &json!(false)), "{report}");
    assert_eq!(report["budget"], json!({"time_ms": null, "bytes": null, "tasks": 4}));
    let said = sync(&db, &server.endpoint(), "4tasks", &[]).ends(2);
    assert!(said.out.contains("4 tasks synced"), "{said:?}");
    assert!(said.out.contains("budget used up: the tasks (4)\nleft: 2 pending"), "{said:?}");
    assert!(said.err.contains("goes on where this run ended"), "{said:?}");
    let report = sync(&db, &server.endpoint(), "1m,4tasks", &["--json"]).ends(0).json();
    assert_eq!((&report["applied"], &report["exhausted"]), (&json!(2), &Value::Null), "{report}");
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), 10);
}

#[test]
fn a_run_sends_no_more_bytes_than_it_may() {
    let scratch = Scratch::new("budget-bytes");
    let server = Server::start(scratch.path("server.db"));
    let db = queue(&scratch, 10, 2_000);
    let report = sync(&db, &server.endpoint(), "7KB", &["--json"]).ends(2).json();
    assert_eq!((&report["applied"], &report["exhausted"]), (&json!(3), &json!("bytes")), "{report}");
    assert!((6_000..=7_000).contains(&report["bytes"].as_u64().unwrap()), "{report}");
    let said = sync(&db, &server.endpoint(), "1KiB", &[]).ends(2);
    assert!(
        said.out.contains("budget used up: the bytes (1024 bytes); what is next does not fit"),
        "{said:?}"
    );
    assert_eq!(counts(&db), [7, 0, 0, 0, 0]);
}

#[test]
fn a_run_is_over_when_its_time_is_and_leaves_nothing_open() {
    let scratch = Scratch::new("budget-time");
    let server = Server::start(scratch.path("server.db"));
    let proxy = FaultProxy::start(server.addr, FaultPlan::always(Fault::Delay { ms: 200 }), seed()).unwrap();
    let db = queue(&scratch, 40, 10);
    let begun = Instant::now();
    let more = ["--json", "--batch", "1", "--push-only"];
    let report = sync(&db, &endpoint(proxy.addr()), "1500ms", &more).ends(2).json();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}: {report}");
    assert_eq!(report["exhausted"], "time", "{report}");
    assert!(report["seconds"].as_f64().unwrap() <= 1.6, "{report}");
    let applied = report["applied"].as_u64().unwrap();
    assert!((1..40).contains(&applied), "{report}");
    // No call began that did not come back: nothing is of unknown fate.
    assert_eq!(counts(&db), [40 - applied, 0, 0, 0, 0], "{report}");
    let said = sync(&db, &endpoint(proxy.addr()), "500ms", &more[1..]).ends(2);
    assert!(said.out.contains("budget used up: the time (500 ms)"), "{said:?}");
}

#[test]
fn what_is_no_budget_is_refused_before_anything_is_sent() {
    let scratch = Scratch::new("budget-junk");
    let db = queue(&scratch, 1, 10);
    let nobody = "http://127.0.0.1:9/sync";
    for (budget, fragment) in [
        ("soon", "such as 20s,2MB,500tasks"),
        ("", "such as 20s,2MB,500tasks"),
        ("20", "is no part of a budget"),
        ("20s,2parsecs", "2parsecs"),
        ("20s,30s", "said twice"),
        ("0tasks", "leaves nothing to do"),
        ("1.5MB", "is no part of a budget"),
        ("18446744073709551615GB", "too large"),
        ("9999999h", "at most a year"),
    ] {
        sync(&db, nobody, budget, &[]).fails(fragment);
    }
    sync(&db, nobody, "20s", &["--deadline", "30s"]).fails("cannot be used with");
    assert_eq!(counts(&db), [1, 0, 0, 0, 0]);
}
