//! One poison task among five hundred lanes: everything else finishes, the poison is kept whole, and once it is mended
//! it takes effect and lets go on what was behind it.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

#[macro_use]
mod support;

use serde_json::{Value, json};
use support::{Scratch, Server, Stored, counts};

const LANES: usize = 500;
const POISON: usize = 250;

/// Two changes to a lane; in one lane the first lacks what the server asks for.
fn changes() -> String {
    let mut lines = Vec::new();
    for lane in 0..LANES {
        let first = match lane {
            POISON => json!({"body": "rain at the gate", "seen": 3}),
            _ => json!({"title": format!("t{lane}"), "seen": 3}),
        };
        for (name, fields) in [("a", first), ("b", json!({"title": "second"}))] {
            let line = json!({
                "entity_type": "note", "entity_id": format!("{name}{lane}"), "operation": "create",
                "fields": fields, "lane": format!("lane/{lane}"), "tags": ["batch"],
            });
            lines.push(line.to_string());
        }
    }
    lines.join("\n")
}

#[test]
fn five_hundred_lanes_finish_beside_one_poison_task_which_is_mended_and_applied() {
    let scratch = Scratch::new("poison");
    let server = Server::start_with(scratch.path("server.db"), &["--require", "note.title"]);
    let db = scratch.text("q.db");
    let file = scratch.file("changes.jsonl", changes());
    run!["enqueue", "--db", &db, "--file", &file].ends(0);

    let report = run!["sync", "--json", "--db", &db, "--endpoint", &server.endpoint()].ends(3).json();
    assert_eq!((&report["applied"], &report["dead"]), (&json!(2 * LANES - 2), &json!(1)), "{report}");
    assert_eq!(counts(&db), [1, 0, 0, 0, 1], "what is behind the poison waits, nothing else");

    // Kept whole: what it carries, what it met, and the server's answer.
    let letters = run!["dead", "list", "--json", "--db", &db].ends(0).json();
    assert_eq!(letters["tasks"].as_array().unwrap().len(), 1, "{letters}");
    let poison = letters["tasks"][0]["task"].as_str().unwrap();
    let letter = run!["dead", "show", "--json", "--db", &db, poison].ends(0).json();
    assert_eq!(letter["fields"], json!({"body": "rain at the gate", "seen": 3}), "{letter}");
    assert_eq!((&letter["lane"], &letter["tags"]), (&json!(format!("lane/{POISON}")), &json!(["batch"])));
    let history = letter["history"].as_array().unwrap();
    assert_eq!((history.len(), &history[0]["code"]), (1, &json!("invalid_field")), "{letter}");
    assert!(history[0]["message"].as_str().unwrap().contains("note.title is missing"), "{letter}");
    assert!(history[0]["answer"].as_str().unwrap().contains("note.title is missing"), "{letter}");
    let frozen: Value = serde_json::from_str(letter["frozen"]["payload"].as_str().unwrap()).unwrap();
    assert_eq!((&frozen["fields"], &frozen["task_id"]), (&letter["fields"], &json!(poison)));
    let shown = run!["dead", "show", "--db", &db, poison].ends(0);
    for part in ["rain at the gate", "note.title is missing", "rejected (invalid_field)"] {
        assert!(shown.out.contains(part), "{part}: {shown:?}");
    }
    assert!(shown.err.contains(&format!("landfall dead retry {poison}")), "{shown:?}");

    // What is behind it says so, everywhere.
    let waiting = run!["queue", "--json", "--db", &db, "--state", "pending"].ends(0).json();
    let behind = &waiting["tasks"][0];
    assert_eq!(behind["waits_for"], format!("dead {poison}"), "{waiting}");
    assert_eq!(
        (&behind["waits"][0]["reason"], &behind["waits"][0]["task"]),
        (&json!("lane"), &json!(poison))
    );
    let again = run!["sync", "--db", &db, "--endpoint", &server.endpoint()].ends(3);
    let sentence = format!("waits for the create of note a{POISON}, which was refused");
    assert!(again.out.contains(&sentence), "{again:?}");
    assert!(again.err.contains("landfall explain") && again.err.contains("landfall dead list"), "{again:?}");
    let why = run!["explain", "--db", &db, behind["task"].as_str().unwrap()].ends(0).out;
    assert!(
        why.contains(&format!("It waits in the lane lane/{POISON} for the create of note a{POISON}")),
        "{why}"
    );

    // Sent again as it is, it is refused again; mended it takes effect, and the lane goes on.
    let retried = run!["dead", "retry", "--json", "--db", &db, poison].ends(0).json();
    let next = retried["tasks"][0]["next"].as_str().unwrap();
    assert_ne!(next, poison, "a refused key is not used again");
    run!["sync", "--json", "--db", &db, "--endpoint", &server.endpoint()].ends(3);
    let edited =
        run!["dead", "edit", "--json", "--db", &db, next, r#"{"title":"mended"}"#, "--unset", "seen"];
    let last = edited.ends(0).json()["next"].as_str().unwrap().to_owned();
    let report = run!["sync", "--json", "--db", &db, "--endpoint", &server.endpoint()].ends(0).json();
    assert_eq!((&report["applied"], &report["complete"]), (&json!(2), &json!(true)), "{report}");
    assert_eq!(run!["wait", "--db", &db, poison].ends(0).out.trim(), "the backend has it (applied)");
    let journal = run!["journal", "--json", "--db", &db, next].ends(0).json();
    assert_eq!((&journal["verdict"], &journal["became"]), (&json!("requeued"), &json!(last)), "{journal}");

    let stored = Stored::read(&server.stop());
    assert_eq!(stored.records.len(), 2 * LANES);
    let mended = &stored.records[&("note".to_owned(), format!("a{POISON}"))];
    assert_eq!(mended, r#"{"body":"rain at the gate","title":"mended"}"#);
    assert_eq!((stored.effects, stored.others), (2 * LANES as u64, 2), "applied once each, refused twice");
}

/// Tasks are chosen by what the app said of them; what nobody confirmed is not given up.
#[test]
fn letters_are_chosen_by_type_tag_and_lane() {
    let scratch = Scratch::new("letters");
    let server =
        Server::start_with(scratch.path("server.db"), &["--require", "note.title", "--require", "mail.to"]);
    let db = scratch.text("q.db");
    for (kind, id, more) in [
        ("note", "1", ["--tag", "x"]),
        ("note", "2", ["--lane", "l"]),
        ("mail", "1", ["--tag", "x"]),
        ("mail", "2", ["--tag", "y"]),
    ] {
        let args = ["enqueue", "--db", &db, kind, id, "create", r#"{"n":1}"#];
        support::run(args.into_iter().chain(more)).ends(0);
    }
    run!["sync", "--json", "--db", &db, "--endpoint", &server.endpoint()].ends(3);
    assert_eq!(counts(&db), [0, 0, 0, 0, 4]);
    let listed = |more: &[&str]| -> Vec<String> {
        let args = ["dead", "list", "--json", "--db", &db].into_iter().chain(more.iter().copied());
        let listed = support::run(args).ends(0).json();
        let name = |task: &Value| format!("{}/{}", task["entity_type"], task["entity_id"]).replace('"', "");
        listed["tasks"].as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(listed(&["--type", "note"]), ["note/1", "note/2"]);
    assert_eq!(listed(&["--tag", "x"]), ["note/1", "mail/1"]);
    assert_eq!(listed(&["--lane", "l"]), ["note/2"]);
    // Page by page, each behind the last of the one before.
    let first = run!["dead", "list", "--json", "--db", &db, "--limit", "3"].ends(0).json();
    let after = first["next_after"].as_str().unwrap();
    assert_eq!(listed(&["--after", after]), ["mail/2"]);

    let letters = scratch.text("letters.jsonl");
    run!["dead", "export", "--db", &db, &letters, "--type", "mail"].ends(0);
    let text = std::fs::read_to_string(&letters).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(text.lines().all(|line| line.contains("invalid_field")), "the history goes along: {text}");
    run!["dead", "export", "--db", &db, &letters].fails("exist");

    // Where nobody can be asked, only --yes gives something up.
    run!["dead", "discard", "--db", &db, "--all", "--tag", "x"].fails("Give up 2 dead letters for good?");
    assert_eq!(counts(&db), [0, 0, 0, 0, 4]);
    let given_up =
        run!["dead", "discard", "--json", "--db", &db, "--all", "--tag", "x", "--yes"].ends(0).json();
    assert_eq!(given_up["tasks"].as_array().unwrap().len(), 2, "{given_up}");
    let task = given_up["tasks"][0]["task"].as_str().unwrap();
    assert_eq!(run!["task", "--json", "--db", &db, task].ends(0).json()["verdict"], "discarded");
    run!["dead", "show", "--db", &db, task].fails("is no dead letter: it has ended (discarded)");
    let all = run!["dead", "retry", "--json", "--db", &db, "--all", "--type", "mail"].ends(0).json();
    assert_eq!(all["tasks"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!(counts(&db), [1, 0, 0, 0, 1]);
}

/// What is done to one of a group is done to all of it, and is no error for those that are named too.
#[test]
fn the_letters_of_a_group_are_taken_up_and_given_up_together() {
    let scratch = Scratch::new("letters-of-a-group");
    let server = Server::start_with(scratch.path("server.db"), &["--require", "note.title"]);
    let db = scratch.text("q.db");
    let line = |id: &str| {
        json!({"entity_type": "note", "entity_id": id, "operation": "create", "fields": {"n": 1}, "group": "g"})
            .to_string()
    };
    let lines: Vec<String> = ["1", "2", "3"].map(line).to_vec();
    let file = scratch.file("changes.jsonl", lines.join("\n"));
    run!["enqueue", "--db", &db, "--file", &file].ends(0);
    let refused = || {
        run!["sync", "--db", &db, "--endpoint", &server.endpoint(), "--deadline", "3s"].ends(3);
        let letters = run!["dead", "list", "--json", "--db", &db].ends(0).json();
        let tasks = letters["tasks"].as_array().unwrap();
        tasks.iter().map(|task| task["task"].as_str().unwrap().to_owned()).collect::<Vec<String>>()
    };
    let letters = refused();
    assert!(!letters.is_empty());
    let all = run!["dead", "retry", "--json", "--db", &db, "--all"].ends(0).json();
    assert_eq!(all["tasks"].as_array().unwrap().len(), letters.len(), "{all}");
    assert_eq!(counts(&db), [3, 0, 0, 0, 0]);
    // One that was taken up before is named once more: nothing is done.
    run!["dead", "retry", "--db", &db, &letters[0]].fails("has left the queue: requeued");
    refused();
    run!["dead", "discard", "--json", "--db", &db, "--all", "--yes"].ends(0);
    assert_eq!(counts(&db), [0; 5], "the whole group is given up");
}
