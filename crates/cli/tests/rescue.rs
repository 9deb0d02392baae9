//! A broken queue file: refused with a way out, rescued, and what was in it arrives once.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

#[macro_use]
mod support;

use serde_json::{Value, json};
use std::fs;
use support::{Scratch, Server, Stored, counts, line};

/// A queue of 300 changes, and its file.
fn queue(scratch: &Scratch) -> String {
    let db = scratch.text("q.db");
    let lines: Vec<String> = (0..300)
        .map(|n| line("note", &format!("n{n}"), "create", &json!({"n": n, "text": "x".repeat(200)})))
        .collect();
    let file = scratch.file("changes.jsonl", lines.join("\n"));
    run!["enqueue", "--db", &db, "--file", &file].ends(0);
    db
}

/// Overwrites the inner page of the table of tasks, or whatever lies there, with rubbish.
fn spoil(db: &str) {
    let mut bytes = fs::read(db).unwrap();
    assert!(bytes.len() > 40_000, "{}", bytes.len());
    bytes[..100].fill(0xa5);
    fs::write(db, bytes).unwrap();
}

#[test]
fn a_broken_file_is_refused_with_a_way_out_and_rescued_with_a_true_report() {
    let scratch = Scratch::new("rescue");
    let server = Server::start(scratch.path("server.db"));
    let db = queue(&scratch);
    spoil(&db);
    let refused = run!["status", "--db", &db].ends(1);
    assert!(refused.err.contains("landfall rescue"), "{refused:?}");

    let ran = run!["rescue", "--json", "--db", &db];
    let report = ran.json();
    let code = ran.code;
    let (tasks, missing) = (report["tasks"].as_u64().unwrap(), report["missing"].as_u64().unwrap());
    let only_in_file = report["not_queued"].as_u64().unwrap();
    assert_eq!(tasks + missing + only_in_file, 300, "{report}");
    assert_eq!(code == Some(0), missing == 0 && only_in_file == 0 && report["lost"] == json!([]), "{report}");
    assert!(fs::metadata(report["kept"].as_str().unwrap()).is_ok(), "the broken file is kept");
    let lines = fs::read_to_string(report["rescue_file"].as_str().unwrap()).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len() as u64, tasks + only_in_file);
    assert_eq!(counts(&db).iter().sum::<u64>(), tasks);

    // The rescue file is an export like any other: taken in where it came from it changes nothing but what was left out.
    let file = report["rescue_file"].as_str().unwrap().to_owned();
    let known = run!["import", "--json", "--db", &db, &file].ends(0).json();
    assert_eq!(known["known"].as_u64().unwrap(), tasks);
    run!["sync", "--db", &db, "--endpoint", &server.endpoint()].ends(0);
    let stored = Stored::read(&server.stop());
    assert_eq!(stored.records.len() as u64, tasks + only_in_file);
    stored.has_one_effect_per_task();
    assert!(counts(&db).iter().all(|count| *count == 0));
}

#[test]
fn a_rescue_says_in_words_what_became_of_everything() {
    let scratch = Scratch::new("rescue-words");
    let db = queue(&scratch);
    spoil(&db);
    let ran = run!["rescue", "--db", &db];
    for wanted in ["the broken file is kept at", "every unsynced change that was found is in", "salvaged:"] {
        assert!(ran.out.contains(wanted), "{ran:?}");
    }
    let nothing = run!["rescue", "--db", &scratch.text("none.db")].ends(1);
    assert!(nothing.err.contains("none.db"), "{nothing:?}");
}
