//! The life of a task from the shell: cancel, pause, explain, wait, repetitions, expiry, dependencies, groups, actions,
//! and what is not shown to anybody.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

#[macro_use]
mod support;

use landfall_testkit::proxy::{Ending, Fault, FaultPlan, FaultProxy};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Ran, Scratch, Server, Stored, counts, endpoint, landfall};

struct Shell {
    scratch: Scratch,
    server: Server,
    db: String,
}

impl Shell {
    fn new(name: &str, serve: &[&str]) -> Self {
        let scratch = Scratch::new(name);
        let server = Server::start_with(scratch.path("server.db"), serve);
        let db = scratch.text("q.db");
        Self { scratch, server, db }
    }

    fn run(&self, args: &[&str]) -> Ran {
        support::run(args.iter().copied().chain(["--db", self.db.as_str()]))
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--json"]].concat()).ends(0).json()
    }

    /// Enqueues and gives back the task.
    #[track_caller]
    fn enqueue(&self, args: &[&str]) -> String {
        let stored = self.json(&[&["enqueue"], args].concat());
        stored["task"].as_str().unwrap().to_owned()
    }

    fn sync(&self, more: &[&str]) -> Ran {
        let endpoint = self.server.endpoint();
        self.run(&[&["sync", "--json", "--endpoint", &endpoint], more].concat())
    }

    /// The reasons of `explain` by name, and what it says to people.
    #[track_caller]
    fn explain(&self, task: &str) -> (Vec<String>, String) {
        let explained = self.json(&["explain", task]);
        let reasons = explained["waits_for"].as_array().unwrap();
        let names = reasons.iter().map(|wait| wait["reason"].as_str().unwrap().to_owned()).collect();
        (names, self.run(&["explain", task]).ends(0).out)
    }
}

#[test]
fn a_task_that_was_never_sent_is_cancelled_and_one_that_was_is_found_out_about() {
    let shell = Shell::new("cancel", &[]);
    let task = shell.enqueue(&["note", "1", "create", "{}"]);
    assert_eq!(shell.json(&["cancel", &task])["outcome"], "cancelled");
    assert_eq!(counts(&shell.db), [0; 5]);
    assert_eq!(shell.json(&["task", &task])["verdict"], "cancelled");
    shell.run(&["get", "note", "1"]).fails("nothing is known of note 1");
    shell.run(&["cancel", &task]).fails("has left the queue: cancelled");
    let wait = shell.run(&["wait", "--timeout", "0", &task]).ends(3);
    assert_eq!(wait.out.trim(), "it has ended without effect (cancelled)");
    shell.run(&["cancel", "0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10"]).fails("there is no task");
    shell.run(&["wait", "0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10"]).fails("there is no task");

    // The answer is lost: only the verdict says what became of it.
    let plan = FaultPlan::always(Fault::DropReplyAfterApply { end: Ending::Reset });
    let proxy = FaultProxy::start(shell.server.addr, plan, 1).unwrap();
    let task = shell.enqueue(&["note", "2", "create", r#"{"a":1}"#]);
    let at = endpoint(proxy.addr());
    shell.run(&["sync", "--endpoint", &at, "--deadline", "0", "--push-only"]).ends(2);
    assert_eq!(shell.json(&["cancel", &task])["outcome"], "requested");
    assert!(shell.explain(&task).1.contains("You asked to cancel it"), "{:?}", shell.explain(&task));
    shell.json(&["retry-now", &task]);
    let report = shell.sync(&[]).ends(0).json();
    assert_eq!((&report["duplicates"], &report["cancelled"]), (&json!(1), &json!(0)), "{report}");
    shell.run(&["wait", &task]).ends(0);
}

#[test]
fn what_is_paused_waits_until_it_is_resumed_and_status_says_so() {
    let shell = Shell::new("pause", &[]);
    let note = shell.enqueue(&["note", "1", "create", "{}"]);
    let photo = shell.enqueue(&["photo", "1", "create", "{}"]);
    let mail = shell.enqueue(&["mail", "1", "create", "{}", "--lane", "out"]);
    shell.run(&["pause", "--type", "photo"]).ends(0);
    let paused = shell.json(&["pause", "--lane", "out"]);
    assert_eq!(paused["paused"], json!({"all": false, "types": ["photo"], "lanes": ["out"]}));
    assert_eq!(support::status(&shell.db)["paused"], paused["paused"]);
    let status = shell.run(&["status"]).ends(0).out;
    assert!(
        status.contains("paused: records of the type photo") && status.contains("paused: the lane out"),
        "{status}"
    );
    assert_eq!(shell.sync(&["--deadline", "5s"]).ends(2).json()["applied"], 1);
    shell.run(&["wait", "--timeout", "0", &note]).ends(0);
    let (reasons, text) = shell.explain(&photo);
    assert_eq!(reasons, ["type_paused"]);
    assert!(text.contains("`landfall resume --type photo` lets them go on"), "{text}");
    assert_eq!(shell.explain(&mail).0, ["lane_paused"]);

    shell.run(&["pause"]).ends(0);
    shell.run(&["resume", "--type", "photo"]).ends(0);
    shell.run(&["resume", "--lane", "out"]).ends(0);
    assert_eq!(shell.sync(&["--deadline", "0"]).ends(2).json()["applied"], 0);
    assert_eq!(shell.explain(&photo).0, ["paused"]);
    assert_eq!(shell.run(&["resume"]).ends(0).out.trim(), "nothing is paused");
    assert_eq!(shell.sync(&[]).ends(0).json()["applied"], 2);
}

#[test]
fn explain_tells_every_reason_with_its_time() {
    let shell = Shell::new("explain", &[]);
    let first = shell.enqueue(&["note", "1", "create", "{}", "--not-before", "2h"]);
    let second = shell.enqueue(&[
        "note",
        "2",
        "create",
        "{}",
        "--depends-on-task",
        &first,
        "--not-before",
        "2100-01-01T00:00:00Z",
    ]);
    let (reasons, text) = shell.explain(&second);
    assert_eq!(reasons, ["dependency", "not_before"]);
    assert!(
        text.contains(&format!("It depends on the create of note 1, which waits itself (task {first}).")),
        "{text}"
    );
    assert!(text.contains("not to send it before 2100-01-01T00:00:00Z (in "), "{text}");
    let queue = shell.json(&["queue"]);
    assert_eq!(queue["tasks"][1]["waits_for"], format!("task {first} (+1)"), "{queue}");
    // An earlier change that cannot be joined any more: another lane makes a task of its own.
    let third = shell.enqueue(&["note", "1", "update", r#"{"a":1}"#, "--lane", "x"]);
    assert_eq!(shell.explain(&third).0, ["earlier_change"]);
    shell.json(&["retry-now", &first]);
    assert_eq!(shell.explain(&first).0, ["sync"]);
    assert!(shell.explain(&first).1.contains("the next `landfall sync` sends it"));
    assert_eq!(shell.sync(&["--deadline", "5s"]).ends(2).json()["applied"], 2);
    assert_eq!(shell.explain(&second).0, ["not_before"]);
    assert!(
        shell.run(&["explain", &first]).ends(0).out.contains("applied"),
        "an ended task says how it ended"
    );
    shell.run(&["retry-now", &first]).fails("has left the queue: applied");

    // Nobody listens: a backoff, with its end.
    let other = shell.enqueue(&["note", "9", "create", "{}"]);
    shell.run(&["sync", "--endpoint", "http://127.0.0.1:9/sync", "--deadline", "0"]).ends(2);
    let (_, text) = shell.explain(&other);
    assert!(text.contains("note 9"), "{text}");
}

#[test]
fn wait_ends_when_another_process_has_brought_the_change_to_the_backend() {
    let shell = Shell::new("wait", &["--require", "note.title"]);
    let good = shell.enqueue(&["note", "1", "create", r#"{"title":"a"}"#]);
    let bad = shell.enqueue(&["note", "2", "create", r#"{"body":"a"}"#]);
    let waits = |task: &str| {
        let mut command = landfall();
        command.args(["wait", "--json", "--timeout", "30s", "--db", &shell.db, task]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let still = shell.run(&["wait", "--timeout", "50ms", &good]).ends(2);
    assert!(still.out.contains("it is still in the queue (pending)"), "{still:?}");
    assert!(still.err.contains(&format!("landfall explain {good}")), "{still:?}");
    let begun = Instant::now();
    let (of_good, of_bad) = (waits(&good), waits(&bad));
    shell.sync(&[]).ends(3);
    let done = Ran::from(of_good.wait_with_output().unwrap()).ends(0).json();
    assert_eq!(
        (&done["done"], &done["fate"], &done["verdict"]),
        (&json!(true), &json!("done"), &json!("applied"))
    );
    let dead = Ran::from(of_bad.wait_with_output().unwrap()).ends(3).json();
    assert_eq!((&dead["done"], &dead["state"]), (&json!(false), &json!("dead")), "{dead}");
    assert!(begun.elapsed() < Duration::from_secs(20), "it hears of a verdict when there is one");
}

#[test]
fn a_repetition_with_the_same_key_is_the_first_change_also_after_it_was_applied() {
    let shell = Shell::new("dedup", &[]);
    let args =
        ["enqueue", "order", "7", "action", r#"{"n":1}"#, "--action", "increment", "--dedup-key", "tap-1"];
    let server = Shell::new("dedup-server", &["--actions"]);
    shell.enqueue(&["order", "7", "create", r#"{"n":0}"#]);
    let first = shell.json(&args);
    let again = shell.json(&args);
    assert_eq!((&first["outcome"], &again["outcome"]), (&json!("new"), &json!("repeated")), "{again}");
    assert_eq!(first["task"], again["task"]);
    let said = shell.run(&args).ends(0).out;
    assert!(said.starts_with("already stored (repeated)"), "{said}");
    let at = server.server.endpoint();
    shell.run(&["sync", "--endpoint", &at]).ends(0);
    assert_eq!(shell.json(&args)["outcome"], "repeated");
    shell.run(&["sync", "--endpoint", &at]).ends(0);
    let stored = Stored::read(&server.server.db);
    assert_eq!(stored.records.values().next().unwrap(), r#"{"n":1}"#, "incremented once");

    // The same in a file: a line that was stored before changes nothing.
    let line = json!({"entity_type": "order", "entity_id": "7", "operation": "action", "action": "increment",
        "fields": {"n": 5}, "dedup_key": "tap-2", "tags": ["t"]});
    let file = shell.scratch.file("c.jsonl", format!("{line}\n{line}\n"));
    let taken = shell.json(&["enqueue", "--file", &file]);
    assert_eq!((&taken["tasks"], &taken["unchanged"]), (&json!(1), &json!(1)), "{taken}");
    shell.run(&["sync", "--endpoint", &at]).ends(0);
    assert_eq!(Stored::read(&server.server.db).records.values().next().unwrap(), r#"{"n":6}"#);
}

#[test]
fn what_is_too_late_ends_unsent_and_is_told() {
    let shell = Shell::new("expiry", &[]);
    let late = shell.enqueue(&["note", "1", "create", "{}", "--expires-in", "400ms"]);
    let past = shell.enqueue(&["note", "2", "create", "{}", "--expires-at", "2020-01-01T00:00:00+02:00"]);
    let good = shell.enqueue(&["note", "3", "create", "{}", "--expires-in", "1h"]);
    assert!(shell.explain(&good).1.contains("If it was not sent before "));
    assert_eq!(shell.json(&["journal", &past])["verdict"], "expired", "its time was over when it was stored");
    std::thread::sleep(Duration::from_millis(500));
    let report = shell.sync(&[]).ends(0).json();
    assert_eq!((&report["expired"], &report["applied"]), (&json!(1), &json!(1)), "{report}");
    for task in [&late, &past] {
        assert_eq!(shell.json(&["journal", task])["verdict"], "expired");
        shell.run(&["wait", "--timeout", "0", task]).ends(3);
    }
    let text = shell.enqueue(&["note", "4", "create", "{}", "--expires-in", "200ms"]);
    std::thread::sleep(Duration::from_millis(250));
    let endpoint = shell.server.endpoint();
    let said = shell.run(&["sync", "--endpoint", &endpoint]).ends(0).out;
    assert!(said.contains("1 expired"), "{text}: {said}");
    assert_eq!(Stored::read(&shell.server.db).records.len(), 1);
}

#[test]
fn a_dependency_is_sent_after_what_it_waits_for_and_names_may_hold_any_character() {
    let shell = Shell::new("depends", &["--require", "project.name"]);
    let name = "a b/c --x 'é\u{1f980}";
    shell.enqueue(&["project", name, "create", r#"{"n":1}"#]);
    let child = shell.enqueue(&["note", "1", "create", "{}", "--depends-on", "project", name]);
    let fails =
        shell.enqueue(&["note", "2", "create", "{}", "--depends-on", "project", name, "--orphaned", "fail"]);
    let goes = shell.enqueue(&[
        "note",
        "3",
        "create",
        "{}",
        "--orphaned",
        "detach",
        "--depends-on",
        "project",
        name,
    ]);
    let dashes =
        shell.enqueue(&["note", "4", "create", "{}", "--depends-on", "--project", "-1", "--tag", "free"]);
    shell
        .run(&[
            "enqueue",
            "note",
            "5",
            "create",
            "{}",
            "--depends-on-task",
            "0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10",
        ])
        .fails("neither in the queue nor in the journal");
    assert_eq!(shell.explain(&child).0, ["dependency"]);
    assert_eq!(shell.sync(&[]).ends(3).json()["applied"], 2, "who detaches, and who waited for nothing");
    for (task, code) in [(&goes, 0), (&dashes, 0), (&fails, 3), (&child, 2)] {
        shell.run(&["wait", "--timeout", "0", task]).ends(code);
    }
    let letters = shell.json(&["dead", "list", "--type", "project"]);
    let poison = letters["tasks"][0]["task"].as_str().unwrap();
    shell.run(&["dead", "edit", poison, r#"{"name":"p"}"#]).ends(0);
    shell.run(&["dead", "retry", "--all"]).ends(0);
    shell.sync(&[]).ends(0);
    shell.run(&["wait", "--timeout", "0", &child]).ends(0);
    assert_eq!(Stored::read(&shell.server.db).records.len(), 5);
}

#[test]
fn a_group_of_a_file_takes_effect_whole_or_not_at_all() {
    let shell = Shell::new("group", &["--require", "entry.amount"]);
    let line = |id: &str, fields: Value, group: &str| {
        json!({"entity_type": "entry", "entity_id": id, "operation": "create", "fields": fields, "group": group})
        .to_string()
    };
    let lines = [
        line("a1", json!({"amount": 5}), "good"),
        line("a2", json!({"amount": -5}), "good"),
        line("b1", json!({"amount": 7}), "torn"),
        line("b2", json!({"note": "no amount"}), "torn"),
    ];
    let file = shell.scratch.file("c.jsonl", lines.join("\n"));
    shell.run(&["enqueue", "--file", &file]).ends(0);
    let of_group = shell.json(&["queue", "--group", "torn"]);
    assert_eq!(of_group["tasks"].as_array().unwrap().len(), 2, "{of_group}");
    shell.sync(&["--deadline", "3s"]).ends(3);
    let ids = |shell: &Shell| -> Vec<String> {
        Stored::read(&shell.server.db).records.into_keys().map(|(_, id)| id).collect()
    };
    assert_eq!(ids(&shell), ["a1", "a2"], "of the torn group nothing is there");
    let letters = shell.json(&["dead", "list"]);
    let bad = letters["tasks"].as_array().unwrap().iter().find(|task| task["entity_id"] == "b2").unwrap();
    shell.run(&["dead", "edit", bad["task"].as_str().unwrap(), r#"{"amount":-7}"#]).ends(0);
    shell.run(&["dead", "retry", "--all"]).ends(0);
    shell.sync(&[]).ends(0);
    assert_eq!(ids(&shell), ["a1", "a2", "b1", "b2"]);
}

#[test]
fn the_queue_is_filtered_and_read_page_by_page() {
    let shell = Shell::new("filters", &[]);
    for n in 0..7 {
        let (kind, tag) = (if n % 2 == 0 { "even" } else { "odd" }, format!("t{}", n % 3));
        shell.enqueue(&[kind, &n.to_string(), "create", "{}", "--tag", &tag, "--lane", "l"]);
    }
    let ids = |args: &[&str]| -> (Vec<String>, Value) {
        let page = shell.json(&[&["queue"], args].concat());
        let tasks = page["tasks"].as_array().unwrap();
        let ids = tasks.iter().map(|task| task["entity_id"].as_str().unwrap().to_owned()).collect();
        (ids, page["next_after"].clone())
    };
    assert_eq!(ids(&["--type", "even"]).0, ["0", "2", "4", "6"]);
    assert_eq!(ids(&["--tag", "t0"]).0, ["0", "3", "6"]);
    assert_eq!(ids(&["--tag", "t0", "--type", "odd"]).0, ["3"]);
    assert_eq!(ids(&["--lane", "m"]).0, [""; 0]);
    assert_eq!(ids(&["--type", "odd", "--id", "5", "--state", "pending"]).0, ["5"]);
    let (first, next) = ids(&["--type", "even", "--limit", "2"]);
    assert_eq!(first, ["0", "2"]);
    let (second, next) = ids(&["--type", "even", "--limit", "2", "--after", next.as_str().unwrap()]);
    assert_eq!((second, next), (vec!["4".to_owned(), "6".to_owned()], Value::Null));
    shell.run(&["queue", "--id", "5"]).ends(1);
}

#[test]
fn an_unmetered_task_waits_while_the_network_is_metered() {
    let shell = Shell::new("metered", &[]);
    let large = shell.enqueue(&["photo", "1", "create", "{}", "--unmetered-only"]);
    shell.enqueue(&["note", "1", "create", "{}"]);
    assert_eq!(shell.sync(&["--metered", "--deadline", "3s"]).ends(2).json()["applied"], 1);
    assert_eq!(shell.explain(&large).0, ["unmetered_network"]);
    assert_eq!(shell.sync(&[]).ends(0).json()["applied"], 1);
}

#[test]
fn at_most_once_waits_for_a_decision_when_its_fate_is_open() {
    let shell = Shell::new("once", &[]);
    let task = shell.enqueue(&["note", "1", "create", "{}", "--at-most-once"]);
    let plan = FaultPlan::script([Some(Fault::DropReplyAfterApply { end: Ending::Reset })]);
    let proxy = FaultProxy::start(shell.server.addr, plan, 1).unwrap();
    let at = endpoint(proxy.addr());
    shell.run(&["sync", "--endpoint", &at, "--deadline", "3s", "--push-only"]).ends(3);
    let letter = shell.json(&["dead", "show", &task]);
    assert_eq!(letter["last_failure"]["kind"], "fate_unknown", "{letter}");
    shell.run(&["dead", "edit", &task, r#"{"a":1}"#]).fails("a copy of it may still take effect");
    let next = shell.json(&["dead", "retry", &task]);
    assert_eq!(next["tasks"][0]["next"], *task, "the same key and bytes");
    assert_eq!(shell.sync(&[]).ends(0).json()["duplicates"], 1);
}

#[test]
fn what_is_behind_a_dead_letter_goes_on_if_that_is_asked_for() {
    for (on_dead, applied) in [("block", 0), ("skip_if_independent", 1), ("skip", 1)] {
        let shell = Shell::new("on-dead", &["--require", "note.title"]);
        shell.enqueue(&["note", "1", "create", "{}", "--lane", "l"]);
        shell.enqueue(&["note", "2", "create", r#"{"title":"a"}"#, "--lane", "l"]);
        let report = shell.sync(&["--on-dead", on_dead, "--deadline", "3s"]).ends(3).json();
        assert_eq!(report["applied"], applied, "{on_dead}: {report}");
    }
}

#[test]
fn a_sensitive_field_is_shown_nowhere_and_sent_as_it_is() {
    const SECRET: &str = "s3cr3t-pin-4711";
    let shell = Shell::new("sensitive", &["--require", "card.title"]);
    let model = shell.scratch.file("m.json", r#"{"types":{"card":{"sensitive":["pin"]}}}"#);
    let fields = json!({"pin": SECRET, "n": 1}).to_string();
    let task = shell.enqueue(&["card", "1", "create", &fields, "--model", &model]);
    let everywhere = |what: &str, commands: &[&[&str]]| {
        for command in commands {
            for json in [["--json"].as_slice(), &[]] {
                let ran = shell.run(&[command, json, &["--model", &model]].concat());
                assert!(
                    !format!("{ran:?}").contains(SECRET),
                    "{what}: `landfall {}` shows it: {ran:?}",
                    command.join(" ")
                );
            }
        }
    };
    let shows = |command: &[&str]| {
        let ran = shell.run(&[command, &["--model", &model]].concat()).ends(0);
        assert!(ran.out.contains("[redacted]"), "{command:?}: {ran:?}");
    };
    everywhere(
        "pending",
        &[&["queue"], &["task", &task], &["get", "card", "1"], &["list", "card"], &["explain", &task]],
    );
    shows(&["task", &task]);
    shows(&["get", "card", "1"]);
    shows(&["list", "card"]);
    // The server's answer repeats what was sent; it is kept and shown without the value.
    let endpoint = shell.server.endpoint();
    let ran = shell.run(&["sync", "--endpoint", &endpoint, "--model", &model]).ends(3);
    assert!(!format!("{ran:?}").contains(SECRET), "{ran:?}");
    everywhere(
        "dead",
        &[&["dead", "list"], &["dead", "show", &task], &["status"], &["queue"], &["task", &task]],
    );
    shows(&["dead", "show", &task]);
    let pasted = r#"{"pin":"[redacted]","title":"t"}"#;
    shell.run(&["dead", "edit", &task, pasted]).fails("stands for a value which is not shown");
    shell.run(&["dead", "edit", &task, r#"{"title":"t"}"#, "--model", &model]).ends(0);
    shell.sync(&["--model", &model]).ends(0);
    everywhere(
        "ended",
        &[&["task", &task], &["journal", &task], &["journal"], &["get", "card", "1", "--base"]],
    );
    shows(&["journal", &task]);
    let stored = Stored::read(&shell.server.db);
    assert!(stored.records.values().next().unwrap().contains(SECRET), "the backend has the value itself");

    // What was kept before anybody said that it is sensitive is not shown any more either.
    let early = r#"{"pin":"s3cr3t-early-1"}"#;
    let early = shell.enqueue(&["card", "9", "create", early]);
    shell.sync(&[]).ends(3);
    assert!(shell.run(&["dead", "show", &early]).ends(0).out.contains("got {\"pin\":\"s3cr3t-early-1\""));
    let ran = shell.run(&["dead", "show", &early, "--model", &model]).ends(0);
    assert!(!ran.out.contains("s3cr3t") && ran.out.contains("[redacted]"), "{ran:?}");
    shell.run(&["dead", "discard", &early, "--yes"]).ends(0);

    // Two devices clash about it.
    let other = shell.scratch.text("other.db");
    run!["sync", "--db", &other, "--create", "--endpoint", &endpoint].ends(0);
    run!["enqueue", "--db", &other, "card", "1", "update", r#"{"pin":"s3cr3t-of-other"}"#].ends(0);
    run!["sync", "--db", &other, "--endpoint", &endpoint].ends(0);
    shell
        .run(&["enqueue", "card", "1", "update", r#"{"pin":"s3cr3t-pin-4711-b"}"#, "--model", &model])
        .ends(0);
    shell.sync(&["--conflict", "ask", "--model", &model]).ends(3);
    let open = shell.json(&["conflicts", "list", "--model", &model]);
    assert!(!open.to_string().contains("s3cr3t"), "{open}");
    let conflict = open["conflicts"][0]["conflict"].as_str().unwrap().to_owned();
    for json in [["--json"].as_slice(), &[]] {
        for command in [
            ["conflicts", "show", &conflict].as_slice(),
            &["conflicts", "resolve", &conflict, "--keep-mine", "--dry-run"],
        ] {
            let ran = shell.run(&[command, json, &["--model", &model]].concat()).ends(0);
            assert!(!format!("{ran:?}").contains("s3cr3t") && ran.out.contains("[redacted]"), "{ran:?}");
        }
    }
    // A misspelt member must not leave a value in the open.
    let misspelt = shell.scratch.file("bad.json", r#"{"types":{"card":{"sensitve":["pin"]}}}"#);
    shell.run(&["list", "card", "--model", &misspelt]).fails("unknown field `sensitve`");
}
