//! Records made offline refer to each other by local ids; the server gives ids of its own. Killed at random moments in
//! between, in the end every reference at the server is the id of a record that is there.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

#[macro_use]
mod support;

use landfall_testkit::proxy::{Cut, Ending, Fault, FaultPlan, FaultProxy};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;
use support::{Dice, Scratch, Server, Stored, counts, endpoint, landfall, line, seed};

const PROJECTS: usize = 8;
const NOTES: usize = 3;
const COMMENTS: usize = 2;
/// Kills that must hit a sync that was still running.
const KILLS: u32 = 25;

const MODEL: &str = r#"{"types":{
    "note":{"references":{"project_id":"project"}},
    "comment":{"references":{"note_id":"note","project_id":"project"}}}}"#;

fn create(kind: &str, id: &str, fields: &Value) -> String {
    line(kind, id, "create", fields)
}

fn changes() -> Vec<String> {
    let mut lines = Vec::new();
    for p in 0..PROJECTS {
        lines.push(create("project", &format!("p{p}"), &json!({"name": format!("project {p}")})));
        for n in 0..NOTES {
            let note = format!("p{p}n{n}");
            lines.push(create("note", &note, &json!({"project_id": format!("p{p}"), "name": note})));
            for c in 0..COMMENTS {
                let fields =
                    json!({"note_id": note, "project_id": format!("p{p}"), "name": format!("{note}c{c}")});
                lines.push(create("comment", &format!("{note}c{c}"), &fields));
            }
        }
    }
    lines
}

#[test]
fn every_reference_at_the_server_is_the_id_of_a_record_that_is_there() {
    let seed = seed();
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    let scratch = Scratch::new("server-ids");
    let server = Server::start_with(scratch.path("server.db"), &["--assign-ids", "*"]);
    let plan = FaultPlan::weighted(
        4,
        [
            (2, Fault::Delay { ms: 15 }),
            (2, Fault::DropReplyAfterApply { end: Ending::Reset }),
            (1, Fault::CutReply { at: Cut::Seeded, end: Ending::Close }),
            (1, Fault::Status500 { applied: true }),
            (1, Fault::MissingResults),
        ],
    );
    let proxy = FaultProxy::start(server.addr, plan, seed).unwrap();
    let (db, model) = (scratch.text("q.db"), scratch.file("model.json", MODEL));
    let at = endpoint(proxy.addr());
    let syncing = |deadline: &str| {
        let mut command = landfall();
        command.args(["sync", "--json", "--db", &db, "--model", &model, "--endpoint", &at, "--batch", "7"]);
        command.args(["--deadline", deadline, "--retry-cap", "40ms", "--timeout", "5s"]);
        command
    };
    let lines = changes();
    let mut left = lines.as_slice();
    let mut kills = 0;
    let mut rounds = 0;
    while kills < KILLS && rounds < 300 {
        rounds += 1;
        // Some are made meanwhile, by local ids also of records that are confirmed by now, and some are edited.
        let take = left.len().min(4);
        let (now, later) = left.split_at(take);
        left = later;
        let mut now: Vec<String> = now.to_vec();
        if left.is_empty() {
            let p = dice.below(PROJECTS as u64);
            let n = dice.below(NOTES as u64);
            let other = dice.below(PROJECTS as u64);
            now.push(line(
                "note",
                &format!("p{p}n{n}"),
                "update",
                &json!({"project_id": format!("p{other}"), "round": rounds}),
            ));
        }
        let file = scratch.file("more.jsonl", now.join("\n"));
        run!["enqueue", "--db", &db, "--model", &model, "--file", &file].ends(0);
        let mut child = syncing("20s").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(dice.below(160)));
        child.kill().unwrap();
        kills += u32::from(child.wait().unwrap().signal() == Some(9));
    }
    println!("{kills} kills in {rounds} rounds; faults: {:?}", proxy.stats());
    assert!(kills >= KILLS, "the kills must have hit something");
    assert!(left.is_empty(), "everything must have been made while syncs were killed");

    proxy.set_plan(FaultPlan::healthy());
    let report = support::Ran::from(syncing("60s").output().unwrap()).ends(0).json();
    assert_eq!(report["complete"], true, "{report}");
    assert_eq!(counts(&db), [0; 5]);

    let stored = Stored::read(&server.db);
    stored.has_one_effect_per_task();
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for ((kind, id), fields) in &stored.records {
        assert_eq!(id.len(), 36, "{kind} {id} has no id of the server's");
        ids.entry(kind).or_default().insert(id);
        let fields: Value = serde_json::from_str(fields).unwrap();
        assert!(
            names.insert((kind.clone(), fields["name"].to_string())),
            "{kind} {} is there twice",
            fields["name"]
        );
    }
    let expected =
        [("project", PROJECTS), ("note", PROJECTS * NOTES), ("comment", PROJECTS * NOTES * COMMENTS)];
    for (kind, count) in expected {
        assert_eq!(ids[kind].len(), count, "{kind}");
    }
    for ((kind, id), fields) in &stored.records {
        let fields: Value = serde_json::from_str(fields).unwrap();
        for (field, target) in [("project_id", "project"), ("note_id", "note")] {
            if let Some(reference) = fields.get(field) {
                let reference = reference.as_str().unwrap();
                assert!(
                    ids[target].contains(reference),
                    "{kind} {id}: {field} is {reference:?}, which is no {target}"
                );
            } else {
                assert!(kind == "project" || field == "note_id", "{kind} {id} has no {field}");
            }
        }
    }
    // The app goes on by its own ids, and sees its own ids.
    let seen = run!["get", "--json", "--db", &db, "--model", &model, "comment", "p0n0c0"].ends(0).json();
    assert_eq!(seen["fields"]["note_id"], "p0n0", "{seen}");
    // A comment belongs to the note that it was made for.
    let note_of = |name: &str| {
        let found = stored.records.iter().find(|((kind, _), fields)| {
            kind == "note" && serde_json::from_str::<Value>(fields).unwrap()["name"] == name
        });
        found.unwrap().0.1.clone()
    };
    for ((kind, _), fields) in &stored.records {
        if kind == "comment" {
            let fields: Value = serde_json::from_str(fields).unwrap();
            let name = fields["name"].as_str().unwrap();
            assert_eq!(fields["note_id"], note_of(name.split_once('c').unwrap().0), "{name}");
        }
    }
}
