//! An app is upgraded while a thousand changes wait: what was sent before goes out again as it was, to the byte; what
//! was not is brought to the new format first.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

#[macro_use]
mod support;

use landfall_testkit::proxy::{Cut, Ending, Fault, FaultPlan, FaultProxy};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use support::{Scratch, Server, Stored, counts, endpoint, line};

const TASKS: usize = 1000;

#[test]
fn what_was_sent_goes_out_as_it_was_and_the_rest_in_the_new_format() {
    let scratch = Scratch::new("upgrade");
    let server = Server::start(scratch.path("server.db"));
    let db = scratch.text("q.db");
    let old = scratch.file("old.json", r#"{"types":{"note":{"schema":1}}}"#);
    let lines: Vec<String> = (0..TASKS)
        .map(|n| line("note", &format!("n{n:04}"), "create", &json!({"body": format!("b{n}"), "legacy": n})))
        .collect();
    let file = scratch.file("changes.jsonl", lines.join("\n"));
    run!["enqueue", "--db", &db, "--model", &old, "--file", &file].ends(0);

    // The first batch is confirmed, of the next ones the answer is lost on its way or nothing arrives at all.
    let plan = FaultPlan::by(|request| match request.turn {
        1 => None,
        turn if turn % 3 == 0 => Some(Fault::ResetOnAccept),
        turn if turn % 3 == 1 => Some(Fault::CutReply { at: Cut::InBody, end: Ending::Reset }),
        _ => Some(Fault::DropReplyAfterApply { end: Ending::Reset }),
    });
    let proxy = FaultProxy::start(server.addr, plan, 3).unwrap();
    let at = endpoint(proxy.addr());
    while counts(&db)[2] < 100 {
        let args =
            ["sync", "--db", &db, "--model", &old, "--endpoint", &at, "--batch", "50", "--deadline", "0"];
        support::run(args.into_iter().chain(["--push-only"])).ends(2);
    }
    let queue = run!["queue", "--json", "--db", &db, "--limit", "0"].ends(0).json();
    let attempted: BTreeMap<String, Value> = queue["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|task| task["state"] == "unknown")
        .map(|task| {
            let shown = run!["task", "--json", "--db", &db, task["task"].as_str().unwrap()].ends(0).json();
            (task["entity_id"].as_str().unwrap().to_owned(), shown["frozen"].clone())
        })
        .collect();
    let [pending, _, unknown, ..] = counts(&db);
    assert!(unknown >= 100 && pending >= 500, "some were sent, most were not: {:?}", counts(&db));
    assert_eq!(attempted.len() as u64, unknown);
    let applied_before: Vec<String> = Stored::read(&server.db)
        .records
        .into_keys()
        .map(|(_, id)| id)
        .filter(|id| !attempted.contains_key(id))
        .collect();

    let new = scratch.file(
        "new.json",
        r#"{"types":{"note":{"schema":2,"upcasts":{"1":{"rename":{"body":"text"},"remove":["legacy"],"add":{"pinned":false}}}}}}"#,
    );
    // What was sent stays frozen, whatever the model says now.
    let (id, frozen) = attempted.iter().next().unwrap();
    let queued = run!["queue", "--json", "--db", &db, "--type", "note", "--id", id].ends(0).json();
    let task = queued["tasks"][0]["task"].as_str().unwrap();
    let still = run!["task", "--json", "--db", &db, "--model", &new, task].ends(0).json();
    assert_eq!(&still["frozen"], frozen);
    let report =
        run!["sync", "--json", "--db", &db, "--model", &new, "--endpoint", &server.endpoint(), "--push-only"]
            .ends(0);
    assert_eq!(report.json()["complete"], true);

    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), TASKS);
    let (mut as_it_was, mut upcast) = (0, 0);
    for ((_, id), fields) in &stored.records {
        let n: usize = id[1..].parse().unwrap();
        let fields: Value = serde_json::from_str(fields).unwrap();
        if attempted.contains_key(id) || applied_before.contains(id) {
            assert_eq!(
                fields,
                json!({"body": format!("b{n}"), "legacy": n}),
                "{id} was sent before the upgrade"
            );
            as_it_was += 1;
        } else {
            assert_eq!(fields, json!({"text": format!("b{n}"), "pinned": false}), "{id} was not");
            upcast += 1;
        }
    }
    assert!(as_it_was >= 150 && upcast >= 500, "{as_it_was} {upcast}");
}

#[test]
fn a_change_of_a_newer_app_is_kept_and_shown_and_not_sent() {
    let scratch = Scratch::new("downgrade");
    let server = Server::start(scratch.path("server.db"));
    let db = scratch.text("q.db");
    let closed = scratch.file("closed.json", r#"{"types":{"note":{"schema":1}},"closed":true}"#);
    run!["enqueue", "--db", &db, "note", "1", "create", r#"{"a":1}"#, "--schema", "3"].ends(0);
    run!["enqueue", "--db", &db, "sketch", "1", "create", r#"{"a":1}"#].ends(0);
    run!["enqueue", "--db", &db, "note", "2", "create", r#"{"a":1}"#, "--schema", "1"].ends(0);
    let report =
        run!["sync", "--json", "--db", &db, "--model", &closed, "--endpoint", &server.endpoint()].ends(3);
    assert_eq!(report.json()["applied"], 1);
    let letters = run!["dead", "list", "--json", "--db", &db].ends(0).json();
    let messages: Vec<&str> = letters["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["last_failure"]["message"].as_str().unwrap())
        .collect();
    assert_eq!(messages.len(), 2, "{letters}");
    assert!(messages[0].contains("it was made by a newer one"), "{letters}");
    assert!(messages[1].contains("\"sketch\" are not known to this program"), "{letters}");
    // The program that knows them sends them.
    run!["dead", "retry", "--db", &db, "--all"].ends(0);
    let new = scratch.file("new.json", r#"{"types":{"note":{"schema":3},"sketch":{}},"closed":true}"#);
    let report =
        run!["sync", "--json", "--db", &db, "--model", &new, "--endpoint", &server.endpoint()].ends(0);
    assert_eq!(report.json()["applied"], 2);
}
