//! What is done to a record while a conflict of it waits: made on what the app saw then, and counted once.
//!
//! Each of these failed once. Two devices and a real server.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

mod support;

use serde_json::json;
use support::devices::Device;
use support::{Scratch, Server, Stored};

/// Anna's change is on the server, Ben's waits for a decision about `damage`; he sees her `views` and `note`.
fn waiting(scratch: &Scratch, server: &Server) -> (Device, Device, String) {
    let (anna, ben) = (Device::new(scratch, "anna.db", server), Device::new(scratch, "ben.db", server));
    anna.enqueue(&["report", "r1", "create", r#"{"damage":"none","views":10,"note":"none"}"#]);
    anna.sync(&[]);
    ben.sync(&[]);
    anna.enqueue(&["report", "r1", "update", r#"{"damage":"dent","views":11,"note":"hers"}"#]);
    ben.enqueue(&["report", "r1", "update", r#"{"damage":"crack"}"#]);
    anna.sync(&[]);
    ben.try_sync(&["--field", "report.damage=ask"]).ends(3);
    assert_eq!(ben.fields("report", "r1"), json!({"damage":"crack","views":11,"note":"hers"}));
    let id = ben.open_conflict();
    (anna, ben, id)
}

fn on_server(server: &Server) -> serde_json::Value {
    serde_json::from_str(Stored::read(&server.db).records.values().next().unwrap()).unwrap()
}

/// He sees 11 (her count in it) and makes it 12: one more. The server must have 12, not 13.
#[test]
fn a_count_made_while_a_conflict_waits_counts_once() {
    let scratch = Scratch::new("bug-count");
    let server = Server::start(scratch.path("server.db"));
    let (_, ben, id) = waiting(&scratch, &server);
    ben.enqueue(&["report", "r1", "update", r#"{"views":12}"#]);
    let rules = ["--field", "report.views=counter"];
    let all: Vec<&str> = ["conflicts", "resolve", &id, "--keep-theirs"].into_iter().chain(rules).collect();
    ben.run(&all).ends(0);
    ben.sync(&rules);
    assert_eq!(on_server(&server)["views"], 12);
}

/// He read her note and replaced it on purpose, after the fact. That is no conflict, and no rule may undo it.
#[test]
fn an_edit_of_what_was_already_seen_is_no_conflict() {
    let scratch = Scratch::new("bug-seen");
    let server = Server::start(scratch.path("server.db"));
    let (_, ben, id) = waiting(&scratch, &server);
    ben.enqueue(&["report", "r1", "update", r#"{"note":"his, having read hers"}"#]);
    let rules = ["--conflict", "server_wins"];
    let all: Vec<&str> = ["conflicts", "resolve", &id, "--keep-theirs"].into_iter().chain(rules).collect();
    ben.run(&all).ends(0);
    assert_eq!(ben.fields("report", "r1")["note"], "his, having read hers", "right after the resolution");
    ben.sync(&rules);
    assert_eq!(on_server(&server)["note"], "his, having read hers");
    assert_eq!(ben.conflicts(&["--all"]).len(), 1, "one conflict, about the damage");
}

/// Also without a person: the state moves on while the conflict waits, and what is queued behind was made on it.
#[test]
fn an_edit_behind_a_conflict_survives_the_next_pull() {
    let scratch = Scratch::new("bug-pull");
    let server = Server::start(scratch.path("server.db"));
    let (anna, ben, id) = waiting(&scratch, &server);
    ben.enqueue(&["report", "r1", "update", r#"{"views":12}"#]);
    anna.enqueue(&["report", "r1", "update", r#"{"views":12}"#]);
    anna.sync(&[]);
    let rules = ["--field", "report.damage=ask", "--field", "report.views=counter"];
    ben.try_sync(&rules).ends(3);
    let all: Vec<&str> = ["conflicts", "resolve", &id, "--keep-theirs"].into_iter().chain(rules).collect();
    ben.run(&all).ends(0);
    ben.sync(&rules);
    assert_eq!(on_server(&server)["views"], 13, "10, hers, hers, and his");
}

/// `enqueue` refuses more than 4 MiB in one change; a resolution must not make a task that is larger.
#[test]
fn a_resolution_is_no_larger_than_a_change_may_be() {
    let scratch = Scratch::new("bug-large");
    let server = Server::start(scratch.path("server.db"));
    let (_, ben, id) = waiting(&scratch, &server);
    let record = scratch.file("large.json", format!(r#"{{"note":"{}"}}"#, "x".repeat(5 << 20)));
    ben.run(&["conflicts", "resolve", &id, "--edit", &format!("@{record}")]).fails("at most");
}

#[test]
fn a_session_that_only_reads_does_not_say_that_the_queue_waits_for_a_decision() {
    let scratch = Scratch::new("bug-words");
    let server = Server::start(scratch.path("server.db"));
    let ben = Device::new(&scratch, "ben.db", &server);
    ben.enqueue(&["report", "r1", "create", "{}"]);
    let report = ben.sync(&["--pull-only"]);
    let why = report["waiting_for"].as_str().unwrap_or_default();
    assert!(!why.contains("a decision"), "one task is pending, and nothing is to be decided: {why}");
}
