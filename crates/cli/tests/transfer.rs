//! Unsynced work leaves one store and goes on in another: one effect each, also for tasks of unknown fate.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

#[macro_use]
mod support;

use landfall_testkit::proxy::{Ending, Fault, FaultPlan, FaultProxy};
use serde_json::{Value, json};
use std::fs;
use std::process::Stdio;
use support::{Ran, Scratch, Server, Stored, counts, endpoint, landfall, line};

/// A queue with confirmed, unknown (half of them applied) and pending tasks; its export.
fn exported(scratch: &Scratch, server: &Server) -> (String, Vec<Value>) {
    let db = scratch.text("a.db");
    let lines: Vec<String> = (0..60)
        .map(|n| line("note", &format!("n{n}"), "create", &json!({"n": n, "text": "é\u{1f980}"})))
        .collect();
    let file = scratch.file("changes.jsonl", lines.join("\n"));
    run!["enqueue", "--db", &db, "--file", &file].ends(0);
    let plan = FaultPlan::script([
        None,
        Some(Fault::DropReplyAfterApply { end: Ending::Reset }),
        Some(Fault::ResetOnAccept),
        Some(Fault::ResetOnAccept),
        Some(Fault::ResetOnAccept),
        Some(Fault::ResetOnAccept),
        Some(Fault::ResetOnAccept),
    ]);
    let proxy = FaultProxy::start(server.addr, plan, 7).unwrap();
    let at = endpoint(proxy.addr());
    run!["sync", "--db", &db, "--endpoint", &at, "--batch", "10", "--deadline", "0", "--push-only"].ends(2);
    // One more for a record of unknown fate, behind it.
    let queue = run!["queue", "--json", "--db", &db, "--state", "unknown", "--limit", "0"].ends(0).json();
    let unknown = queue["tasks"].as_array().unwrap();
    assert!(unknown.len() >= 10, "{:?}", counts(&db));
    let id = unknown[0]["entity_id"].as_str().unwrap();
    run!["enqueue", "--db", &db, "note", id, "update", r#"{"edited":true}"#].ends(0);
    assert!(counts(&db)[0] > 0, "some were never sent: {:?}", counts(&db));

    let file = scratch.text("unsynced.jsonl");
    let out = run!["export", "--json", "--db", &db, &file].ends(0).json();
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(out["tasks"], text.lines().count());
    assert_eq!(text.lines().count() as u64, counts(&db).iter().sum::<u64>(), "the queue stays as it is");
    (file, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn exported_work_takes_effect_once_from_another_store_however_often_it_is_taken_in() {
    let scratch = Scratch::new("transfer");
    let server = Server::start(scratch.path("server.db"));
    let (file, tasks) = exported(&scratch, &server);
    let db = scratch.text("b.db");
    let first = run!["import", "--json", "--db", &db, &file].ends(0).json();
    assert_eq!((&first["tasks"], &first["known"]), (&json!(tasks.len()), &json!(0)), "{first}");
    let before = counts(&db);
    let again = run!["import", "--json", "--db", &db, &file].ends(0).json();
    assert_eq!((&again["tasks"], &again["known"]), (&json!(0), &json!(tasks.len())), "{again}");
    assert_eq!(counts(&db), before);

    // By a pipe it is the same lines.
    let pipe = run!["export", "--db", &db, "-"].ends(0).out;
    let ids = |lines: &[Value]| -> Vec<Value> { lines.iter().map(|task| task["task_id"].clone()).collect() };
    let piped: Vec<Value> = pipe.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(ids(&piped), ids(&tasks));
    let keys =
        |lines: &[Value]| -> Vec<Value> { lines.iter().map(|task| task["sent"]["key"].clone()).collect() };
    assert_eq!(keys(&piped), keys(&tasks), "what was sent keeps its key");

    let report = run!["sync", "--json", "--db", &db, "--endpoint", &server.endpoint()].ends(0).json();
    assert!(report["duplicates"].as_u64().unwrap() >= 10, "what had taken effect is known: {report}");
    // Taken in once more after everything is done: nothing happens a second time.
    let late = run!["import", "--json", "--db", &db, &file].ends(0).json();
    assert_eq!(late["tasks"], 0, "{late}");
    run!["sync", "--json", "--db", &db, "--endpoint", &server.endpoint()].ends(0);
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), 60);
    assert_eq!(stored.effects, 61, "sixty creates and one edit");
    assert_eq!(stored.records.values().filter(|fields| fields.contains("edited")).count(), 1);
}

#[test]
fn a_bad_line_is_named_and_nothing_is_stored() {
    let scratch = Scratch::new("bad-import");
    let server = Server::start(scratch.path("server.db"));
    let (file, tasks) = exported(&scratch, &server);
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let with = |bad: &str| {
        let mut lines = lines.clone();
        lines.insert(5, bad);
        scratch.file("bad.jsonl", lines.join("\n"))
    };
    let mut other_form = tasks[0].clone();
    other_form["landfall_task"] = json!(9);
    let mut no_key = tasks[0].clone();
    no_key["task_id"] = json!("0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10");
    no_key["sent"] = json!({"key": "zz", "payload": "{}", "sends": 1, "open_sends": 1});
    let mut invalid = tasks[0].clone();
    invalid["task_id"] = json!("0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d11");
    invalid["entity_id"] = json!("");
    for (bad, fragment) in [
        ("{".to_owned(), "line 6: not an exported task"),
        ("[]".to_owned(), "line 6: not an exported task"),
        (other_form.to_string(), "line 6: the export has the form 9"),
        (no_key.to_string(), "line 6: the idempotency key \"zz\""),
        (invalid.to_string(), "line 6: the entity id is empty"),
        (line("note", "1", "create", &json!({})), "line 6: not an exported task"),
    ] {
        let db = scratch.text("fresh.db");
        let ran = run!["import", "--db", &db, &with(&bad)];
        assert!(ran.err.contains("nothing was stored"), "{ran:?}");
        ran.fails(fragment);
        assert_eq!(counts(&db), [0; 5]);
    }
    // Blank lines and another end of line are no harm.
    let db = scratch.text("fresh.db");
    let loose = scratch.file("loose.jsonl", format!("\n{}\r\n\n", lines.join("\r\n\n")));
    assert_eq!(run!["import", "--json", "--db", &db, &loose].ends(0).json()["tasks"], tasks.len());
}

#[test]
fn a_file_is_never_written_over_and_half_a_file_never_left() {
    let scratch = Scratch::new("export-file");
    let db = scratch.text("q.db");
    run!["enqueue", "--db", &db, "note", "1", "create", "{}"].ends(0);
    let precious = scratch.file("precious.txt", "precious");
    run!["export", "--db", &db, &precious].fails("name a file that does not exist yet");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    run!["export", "--db", &db, &scratch.text("no/such/folder.jsonl")].fails("cannot write");
    // Nobody may read it but its owner: it holds what is shown nowhere.
    let file = scratch.text("new.jsonl");
    run!["export", "--db", &db, &file].ends(0);
    #[cfg(unix)]
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions()) & 0o777,
        0o600
    );
    // A disk without room leaves no file that looks like an export.
    if fs::metadata("/dev/full").is_ok() {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ran: Ran =
            landfall().args(["export", "--db", &db, "-"]).stdout(Stdio::from(full)).output().unwrap().into();
        ran.fails("cannot write standard output");
    }
    let empty = scratch.text("empty.db");
    run!["export", "--db", &empty, &scratch.text("x.jsonl")].fails("there is no queue");
    run!["import", "--db", &empty, &scratch.text("missing.jsonl")].fails("cannot read");
    assert!(!scratch.path("empty.db").exists(), "a mistyped file makes no queue");
}
