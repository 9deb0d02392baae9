//! The command line as its users meet it: help, JSON, exit codes, pipes, Ctrl-C, two at once.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

#[macro_use]
mod support;

use landfall_testkit::proxy::{Fault, FaultPlan, FaultProxy};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{Ran, Scratch, Server, Stored, counts, endpoint, landfall, line, run, seed, signal, wait};

const COMMANDS: [&str; 23] = [
    "enqueue",
    "sync",
    "status",
    "queue",
    "task",
    "explain",
    "wait",
    "cancel",
    "retry-now",
    "pause",
    "resume",
    "dead",
    "journal",
    "get",
    "list",
    "conflicts",
    "export",
    "import",
    "accounts",
    "logout",
    "serve",
    "demo",
    "completions",
];

#[test]
fn every_command_has_help_with_an_example_and_exit_codes() {
    let all = run(["--help"]).ends(0).out;
    for command in COMMANDS {
        assert!(all.contains(command), "{all}");
        let help = run([command, "--help"]).ends(0).out;
        for part in ["Usage:", "Example", "Exit codes:", "--json"] {
            assert!(help.contains(part), "`{command} --help` has no {part:?}:\n{help}");
        }
    }
    for (group, commands) in [
        ("conflicts", ["list", "show", "resolve"].as_slice()),
        ("dead", &["list", "show", "retry", "edit", "discard", "export"]),
    ] {
        for command in commands {
            let help = run([group, command, "--help"]).ends(0).out;
            for part in ["Usage:", "Example", "Exit codes:", "--json"] {
                assert!(help.contains(part), "`{group} {command} --help` has no {part:?}:\n{help}");
            }
        }
    }
    assert!(run(["--version"]).ends(0).out.starts_with("landfall "));
}

#[test]
fn wrong_usage_ends_with_1() {
    for args in [
        vec![],
        vec!["frobnicate"],
        vec!["status"],
        vec!["status", "--db"],
        vec!["enqueue", "--db", "x"],
        vec!["enqueue", "--db", "x", "note"],
        vec!["enqueue", "--db", "x", "note", "1", "create", "{}", "--file", "y"],
        vec!["enqueue", "--db", "x", "--csv", "y"],
        vec!["enqueue", "--db", "x", "--csv", "y", "--type", "t"],
        vec!["enqueue", "--db", "x", "--csv", "y", "--type", "t", "--id-column", "a", "--id-from-row"],
        vec!["sync", "--db", "x"],
        vec!["sync", "--db", "x", "--endpoint", "y", "--deadline", "soon"],
        vec!["sync", "--db", "x", "--endpoint", "y", "--batch", "0"],
        vec!["sync", "--db", "x", "--endpoint", "y", "--header", "nocolon"],
        vec!["queue", "--db", "x", "--state", "sleeping"],
        vec!["task", "--db", "x", "not-an-id"],
        vec!["enqueue", "--db", "x", "n", "1", "create", "{}", "--orphaned", "cry"],
        vec!["enqueue", "--db", "x", "n", "1", "create", "{}", "--not-before", "soon"],
        vec!["enqueue", "--db", "x", "n", "1", "create", "{}", "--depends-on", "n"],
        vec![
            "enqueue",
            "--db",
            "x",
            "n",
            "1",
            "create",
            "{}",
            "--expires-in",
            "1m",
            "--expires-at",
            "2026-12-01T08:00:00Z",
        ],
        vec!["enqueue", "--db", "x", "n", "1", "action", "{}"],
        vec!["enqueue", "--db", "x", "n", "1", "create", "{}", "--action", "refund"],
        vec!["sync", "--db", "x", "--endpoint", "y", "--on-dead", "cry"],
        vec!["pause", "--db", "x", "--type", "a", "--lane", "b"],
        vec!["dead", "--db", "x"],
        vec!["dead", "retry", "--db", "x"],
        vec!["dead", "retry", "--db", "x", "--all", "0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10"],
        vec!["logout", "--db", "x", "--as", "a"],
        vec!["logout", "--db", "x", "--as", "a", "--keep", "--discard"],
        vec!["serve"],
        vec!["completions", "tcsh-3000"],
    ] {
        let ran = run(&args);
        assert_eq!(ran.code, Some(1), "{args:?}: {ran:?}");
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{args:?}: {ran:?}");
    }
}

#[test]
fn a_change_is_recorded_shown_synced_and_journalled() {
    let scratch = Scratch::new("story");
    let db = scratch.text("q.db");
    let server = Server::start(scratch.path("server.db"));

    let ran = run!["enqueue", "--db", &db, "note", "n1", "create", r#"{"title":"Hello","n":1}"#].ends(0);
    assert!(ran.out.starts_with("stored: create of note n1, task "), "{ran:?}");
    let stored =
        run!["enqueue", "--json", "--db", &db, "note", "n1", "update", r#"{"title":"Bye"}"#].ends(0).json();
    assert_eq!(
        (&stored["outcome"], &stored["operation"]),
        (&json!("coalesced"), &json!("update")),
        "{stored}"
    );
    let task = stored["task"].as_str().unwrap();

    let status = support::status(&db);
    assert_eq!(
        (&status["pending"], &status["dead"], &status["syncing"]),
        (&json!(1), &json!(0), &json!(false))
    );
    assert!(status["oldest_unsynced_ms"].as_u64().unwrap() < 60_000, "{status}");
    assert_eq!(status["client_id"].as_str().unwrap().len(), 36);
    assert_eq!(status["store"], *db);
    assert_eq!(run!["status", "--exit-code", "--db", &db].ends(2).code, Some(2));

    let queue = run!["queue", "--json", "--db", &db].ends(0).json();
    assert_eq!(queue["next_after"], json!(null));
    let listed = &queue["tasks"][0];
    assert_eq!((&listed["task"], &listed["state"]), (&json!(task), &json!("pending")), "{queue}");
    assert_eq!((&listed["entity_type"], &listed["entity_id"]), (&json!("note"), &json!("n1")));
    assert_eq!((&listed["attempts"], &listed["waits_for"]), (&json!(0), &json!("the next sync")));
    assert!(run!["queue", "--db", &db].ends(0).out.contains(task));

    let local = run!["get", "--json", "--db", &db, "note", "n1"].ends(0).json();
    assert_eq!((&local["fields"], &local["dirty"]), (&json!({"n":1,"title":"Bye"}), &json!(["n", "title"])));
    let base = run!["get", "--json", "--base", "--db", &db, "note", "n1"].ends(0).json();
    assert_eq!((&base["state"], &base["fields"]), (&json!("unknown"), &json!(null)));
    let shown = run!["task", "--json", "--db", &db, task].ends(0).json();
    assert_eq!((&shown["operation"], &shown["frozen"]), (&json!("create"), &json!(null)), "{shown}");

    let report = run!["sync", "--json", "--db", &db, "--endpoint", &server.endpoint()].ends(0).json();
    assert_eq!(
        (&report["complete"], &report["applied"], &report["left"]["pending"]),
        (&json!(true), &json!(1), &json!(0))
    );
    assert_eq!((&report["gate"], &report["stopped"]), (&json!(null), &json!(false)), "{report}");

    assert_eq!(
        run!["status", "--exit-code", "--db", &db].ends(0).out.lines().next(),
        Some("everything is synced")
    );
    assert_eq!(support::status(&db)["oldest_unsynced_ms"], json!(null));
    let base = run!["get", "--json", "--base", "--db", &db, "note", "n1"].ends(0).json();
    assert_eq!(
        (&base["fields"]["title"], &base["version"], &base["dirty"]),
        (&json!("Bye"), &json!("1"), &json!([]))
    );
    let shown = run!["task", "--json", "--db", &db, task].ends(0).json();
    assert_eq!((&shown["state"], &shown["verdict"]), (&json!("done"), &json!("applied")), "{shown}");
    assert_eq!(shown["payload"]["fields"], json!({"n":1,"title":"Bye"}));
    assert!(run!["task", "--db", &db, task].ends(0).out.contains("applied"));
    assert_eq!(run!["queue", "--db", &db].ends(0).out, "no tasks\n");

    run!["enqueue", "--db", &db, "note", "n1", "delete"].ends(0);
    assert_eq!(run!["get", "--db", &db, "note", "n1"].ends(0).out, "note n1 is deleted\n");
    run!["enqueue", "--db", &db, "note", "n1", "update", r#"{"a":1}"#].fails("was deleted");
    run!["sync", "--db", &db, "--endpoint", &server.endpoint()].ends(0);
    let again = run!["enqueue", "--json", "--db", &db, "note", "n1", "delete"].ends(0).json();
    assert_eq!((&again["outcome"], &again["task"]), (&json!("no_change"), &json!(null)));
    assert!(Stored::read(&server.stop()).records.is_empty());
}

#[test]
fn exit_codes_say_what_is_left() {
    let scratch = Scratch::new("exit-codes");
    let db = scratch.text("q.db");
    run!["enqueue", "--db", &db, "note", "1", "create", "{}"].ends(0);
    let sync = |more: &[&str]| -> Ran {
        landfall().args(["sync", "--db", &db, "--deadline", "0"]).args(more).output().unwrap().into()
    };

    // Nobody listens there.
    let ran = sync(&["--endpoint", "http://127.0.0.1:9/sync"]).ends(2);
    assert!(
        ran.out.contains("left: 1 pending") && ran.err.contains("hint: is the server running"),
        "{ran:?}"
    );
    assert_eq!(support::status(&db)["last_failure"]["kind"], "unreachable");

    // A wrong path, and no server of ours at all.
    let server = Server::start(scratch.path("server.db"));
    let ran = sync(&["--endpoint", &format!("http://{}/wrong", server.addr)]).ends(3);
    assert!(ran.err.contains("it often ends in /sync"), "{ran:?}");

    // Credentials.
    let tokens = scratch.file("tokens.txt", "0123456789abcdef anna\n");
    let guarded = Server::start_with(scratch.path("guarded.db"), &["--token-file", &tokens]);
    let ran = sync(&["--endpoint", &guarded.endpoint()]).ends(3);
    assert!(ran.err.contains("hint: give a valid token: --token-env"), "{ran:?}");
    assert_eq!(counts(&db)[0], 1, "no attempt is lost, the task is still pending");
    sync(&["--endpoint", &guarded.endpoint(), "--token-env", "NO_SUCH_VARIABLE"])
        .fails("NO_SUCH_VARIABLE is not set");
    let ran = Ran::from(
        landfall()
            .args(["sync", "--db", &db, "--endpoint", &guarded.endpoint(), "--token-env", "THE_TOKEN"])
            .env("THE_TOKEN", "0123456789abcdef")
            .output()
            .unwrap(),
    );
    assert!(!format!("{ran:?}").contains("0123456789abcdef"), "a token is never shown");
    assert!(ran.ends(0).out.contains("everything is synced"));

    // Another database behind the same address: the queue stops and says so.
    run!["enqueue", "--db", &db, "note", "2", "create", "{}"].ends(0);
    let ran = sync(&["--endpoint", &server.endpoint()]).ends(3);
    assert!(ran.err.contains("another database answers"), "{ran:?}");

    // A dead letter.
    let db = scratch.text("dead.db");
    run!["enqueue", "--db", &db, "note", "nobody", "update", r#"{"a":1}"#].ends(0);
    let ran =
        Ran::from(landfall().args(["sync", "--db", &db, "--endpoint", &server.endpoint()]).output().unwrap());
    let ran = ran.ends(3);
    assert!(ran.out.contains("1 dead") && ran.err.contains("landfall dead list"), "{ran:?}");
    run!["status", "--exit-code", "--db", &db].ends(3);
    let dead = run!["queue", "--json", "--state", "dead", "--db", &db].ends(0).json();
    assert_eq!(dead["tasks"].as_array().unwrap().len(), 1);
    assert!(dead["tasks"][0]["last_failure"]["message"].is_string(), "{dead}");
    assert_eq!(dead["tasks"][0]["waits_for"], "a decision");

    // Local refusals before anything is sent.
    for (endpoint, fragment) in [
        ("ftp://example.com/sync", "must begin with https://"),
        ("http://example.com/sync", "plain http"),
        ("https://anna:secret@example.com/sync", "credentials"),
        ("https://example.com/sync?x=1", "query"),
    ] {
        let ran = sync(&["--endpoint", endpoint]).fails(fragment);
        assert!(ran.err.contains("hint: ") && !ran.err.contains("secret"), "{ran:?}");
    }
    sync(&["--endpoint", "https://example.com/sync", "--header", "Host: x"])
        .fails("belongs to the transport");
}

#[test]
fn json_errors_are_one_object_on_standard_error() {
    let ran = run(["status", "--json", "--db", "/no/such/file.db"]).ends(1);
    assert_eq!(ran.out, "");
    let problem: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert!(problem["error"].is_string() && problem["hint"].is_string(), "{problem}");
}

/// A queue with many tasks.
fn many(scratch: &Scratch, tasks: u64) -> String {
    let db = scratch.text("many.db");
    let lines: Vec<String> =
        (0..tasks).map(|n| line("note", &format!("{n:05}"), "create", &json!({"n": n}))).collect();
    run!["enqueue", "--db", &db, "--file", &scratch.file("many.jsonl", lines.join("\n"))].ends(0);
    db
}

#[test]
fn the_queue_is_listed_in_pages() {
    let scratch = Scratch::new("pages");
    let db = many(&scratch, 1203);
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut args = vec!["queue", "--json", "--limit", "500", "--db", &db];
        if let Some(after) = &after {
            args.extend(["--after", after]);
        }
        let page = run(args).ends(0).json();
        seen.extend(
            page["tasks"]
                .as_array()
                .unwrap()
                .iter()
                .map(|task| task["entity_id"].as_str().unwrap().to_owned()),
        );
        match page["next_after"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(seen, (0..1203).map(|n| format!("{n:05}")).collect::<Vec<_>>());
    let all = run!["queue", "--json", "--limit", "0", "--db", &db].ends(0).json();
    assert_eq!(all["tasks"].as_array().unwrap().len(), 1203);
    let ran = run!["queue", "--limit", "3", "--db", &db].ends(0);
    assert_eq!(ran.out.lines().count(), 4);
    assert!(ran.err.contains("--after"), "{ran:?}");
    assert_eq!(
        run!["queue", "--limit", "1203", "--json", "--db", &db].ends(0).json()["next_after"],
        json!(null)
    );
    assert_eq!(run!["queue", "--state", "dead", "--json", "--db", &db].ends(0).json()["tasks"], json!([]));
    run!["queue", "--db", &db, "--after", "0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10"]
        .fails("is not in the queue");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let scratch = Scratch::new("head");
    let db = many(&scratch, 5000);
    for more in [vec![], vec!["--json"]] {
        let mut child = landfall()
            .args(["queue", "--limit", "0", "--db", &db])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut start = [0; 10];
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut start).unwrap();
        let ran = Ran::from(child.wait_with_output().unwrap()).ends(0);
        assert_eq!(ran.err, "");
    }
    let mut help =
        landfall().args(["sync", "--help"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(help.stdout.take());
    assert_eq!(Ran::from(help.wait_with_output().unwrap()).ends(0).err, "");
}

#[test]
fn a_full_standard_output_is_an_error() {
    let scratch = Scratch::new("dev-full");
    let db = many(&scratch, 5);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = Ran::from(landfall().args(["queue", "--db", &db]).stdout(full).output().unwrap());
    ran.fails("cannot write the result");
}

#[test]
fn the_bird_strikes_are_imported_and_synced() {
    let scratch = Scratch::new("csv");
    let db = scratch.text("q.db");
    let csv = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/birdstrikes.csv");
    let report = run!["enqueue", "--json", "--db", &db, "--csv", csv, "--type", "strike", "--id-from-row"]
        .ends(0)
        .json();
    assert_eq!(
        (&report["changes"], &report["tasks"], &report["skipped"]),
        (&json!(10_000), &json!(10_000), &json!(0))
    );
    let first = run!["get", "--json", "--db", &db, "strike", "row-000001"].ends(0).json();
    assert_eq!(first["fields"]["Wildlife Species"], "Turkey vulture");
    let server = Server::start(scratch.path("server.db"));
    let ran = run!["sync", "--db", &db, "--endpoint", &server.endpoint(), "--deadline", "2m"].ends(0);
    assert!(ran.out.contains("10000 tasks synced"), "{ran:?}");
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), 10_000);
    // A second import of the same file contradicts the first and stores nothing; upsert changes nothing.
    run!["enqueue", "--db", &db, "--csv", csv, "--type", "strike", "--id-from-row"].fails("line 2: ");
    let args = [
        "enqueue",
        "--json",
        "--db",
        &db,
        "--csv",
        csv,
        "--type",
        "strike",
        "--id-from-row",
        "--operation",
        "upsert",
    ];
    let report = run(args).ends(0).json();
    assert_eq!((&report["unchanged"], &report["tasks"]), (&json!(10_000), &json!(0)), "{report}");
}

#[test]
fn bad_csv_rows_are_named() {
    let scratch = Scratch::new("bad-csv");
    let csv = scratch.file("bad.csv", "id,name\n1,kea\n2\n,kaka\n1,tui\n3,moa\n");
    let args = |db: &str| {
        ["enqueue", "--db", db, "--csv", &csv, "--type", "bird", "--id-column", "id"].map(str::to_owned)
    };
    run(args(&scratch.text("a.db"))).fails("line 3: the row has 1 cells, the header has 2");
    assert_eq!(counts(&scratch.text("a.db")), [0; 5]);
    let db = scratch.text("b.db");
    let ran = landfall().args(args(&db)).args(["--skip-bad", "--json"]).output().unwrap();
    let report = Ran::from(ran).ends(0).json();
    assert_eq!((&report["changes"], &report["skipped"]), (&json!(2), &json!(3)), "{report}");
    let lines: Vec<u64> = report["skipped_lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [3, 4, 5]);
    let ran =
        Ran::from(landfall().args(args(&scratch.text("c.db"))).arg("--skip-bad").output().unwrap()).ends(0);
    assert!(ran.err.contains("skipped line 4: the id in column \"id\" is empty"), "{ran:?}");
    assert_eq!(ran.out, "stored 2 changes: 2 new tasks, 3 lines skipped\n");
}

#[test]
fn changes_come_from_standard_input_too() {
    let scratch = Scratch::new("stdin");
    let db = scratch.text("q.db");
    let mut child = landfall()
        .args(["enqueue", "--db", &db, "--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", line("note", "1", "create", &json!({}))).unwrap();
    input.flush().unwrap();
    // The stream is open: nothing is committed and nothing acknowledged yet.
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    writeln!(input, "{}", line("note", "2", "create", &json!({}))).unwrap();
    drop(input);
    let ran = Ran::from(child.wait_with_output().unwrap()).ends(0);
    assert_eq!(ran.out, "stored 2 changes: 2 new tasks\n");
    assert_eq!(counts(&db), [2, 0, 0, 0, 0]);
    run!["enqueue", "--db", &db, "--file", "/no/such/file"].fails("cannot read /no/such/file");
    run!["enqueue", "--db", &db, "--file", "/tmp"].fails("cannot read /tmp");
}

#[test]
fn ctrl_c_ends_a_sync_cleanly() {
    let scratch = Scratch::new("ctrl-c");
    let server = Server::start(scratch.path("server.db"));
    let proxy =
        FaultProxy::start(server.addr, FaultPlan::always(Fault::DelayReply { ms: 20_000 }), seed()).unwrap();
    for name in ["INT", "TERM"] {
        let db = scratch.text(&format!("{name}.db"));
        run!["enqueue", "--db", &db, "note", name, "create", "{}"].ends(0);
        let before = proxy.stats().requests;
        let mut child = landfall()
            .args(["sync", "--db", &db, "--endpoint", &endpoint(proxy.addr())])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while proxy.stats().requests == before {
            assert!(begun.elapsed() < Duration::from_secs(10), "no request came");
            std::thread::sleep(Duration::from_millis(5));
        }
        signal(name, child.id());
        assert!(wait(&mut child, Duration::from_secs(5)).is_some(), "SIG{name} must end it at once");
        let ran = Ran::from(child.wait_with_output().unwrap()).ends(2);
        assert!(
            ran.out.contains("stopped; nothing is lost") && ran.out.contains("1 of unknown fate"),
            "{ran:?}"
        );
        assert_eq!(counts(&db), [0, 0, 1, 0, 0]);
        let report = run!["sync", "--json", "--db", &db, "--endpoint", &server.endpoint()].ends(0).json();
        assert_eq!(report["complete"], true, "{report}");
    }
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), 2);
}

#[test]
fn a_server_that_comes_up_within_the_deadline_is_waited_for() {
    let scratch = Scratch::new("late-server");
    let db = scratch.text("q.db");
    run!["enqueue", "--db", &db, "note", "1", "create", "{}"].ends(0);
    let server = Server::start(scratch.path("server.db"));
    let proxy = FaultProxy::start(server.addr, FaultPlan::healthy(), seed()).unwrap();
    proxy.set_offline(true).unwrap();
    let child = landfall()
        .args(["sync", "--db", &db, "--endpoint", &endpoint(proxy.addr()), "--retry-cap", "300ms"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(900));
    proxy.set_offline(false).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap()).ends(0);
    assert!(ran.err.contains("unreachable: ") && ran.err.contains("next try in"), "{ran:?}");
    assert!(ran.out.contains("1 task synced"), "{ran:?}");

    run!["enqueue", "--db", &db, "note", "2", "create", "{}"].ends(0);
    proxy.set_offline(true).unwrap();
    let begun = Instant::now();
    let args = ["sync", "--db", &db, "--endpoint", &endpoint(proxy.addr()), "--deadline", "1s"];
    run(args).ends(2);
    assert!((800..5_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[test]
fn two_syncs_at_once_take_turns() {
    let scratch = Scratch::new("two-syncs");
    let db = many(&scratch, 400);
    let server = Server::start(scratch.path("server.db"));
    let proxy =
        FaultProxy::start(server.addr, FaultPlan::always(Fault::DelayReply { ms: 60 }), seed()).unwrap();
    let pushes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&pushes);
    proxy.on_event(move |event| {
        counted.fetch_add(u64::from(event.method == "POST"), Ordering::SeqCst);
    });
    let target = endpoint(proxy.addr());
    let both: Vec<_> = (0..2)
        .map(|_| {
            landfall()
                .args(["sync", "--json", "--batch", "20", "--db", &db, "--endpoint", &target])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let reports: Vec<_> =
        both.into_iter().map(|child| Ran::from(child.wait_with_output().unwrap()).ends(0).json()).collect();
    for report in &reports {
        assert_eq!(report["complete"], true, "{reports:?}");
    }
    let applied: u64 = reports.iter().map(|report| report["applied"].as_u64().unwrap()).sum();
    assert_eq!(applied, 400, "each task is sent by one of them: {reports:?}");
    assert_eq!(pushes.load(Ordering::SeqCst), 20, "nothing is sent twice");
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), 400);
}

#[test]
fn progress_is_lines_when_nobody_watches_and_nothing_with_json() {
    let scratch = Scratch::new("progress");
    let db = many(&scratch, 300);
    let server = Server::start(scratch.path("server.db"));
    let proxy =
        FaultProxy::start(server.addr, FaultPlan::always(Fault::DelayReply { ms: 250 }), seed()).unwrap();
    let ran = run!["sync", "--batch", "20", "--db", &db, "--endpoint", &endpoint(proxy.addr())].ends(0);
    assert!(ran.err.lines().any(|line| line.ends_with("/300 tasks")), "{ran:?}");
    assert!(!ran.err.contains('\u{1b}') && !ran.err.contains('\r'), "{ran:?}");
    run!["enqueue", "--db", &db, "note", "x", "create", "{}"].ends(0);
    assert_eq!(run!["sync", "--json", "--db", &db, "--endpoint", &server.endpoint()].ends(0).err, "");
}

#[test]
fn serve_says_where_it_listens_and_refuses_what_is_unsafe() {
    let scratch = Scratch::new("serve");
    let db = scratch.text("server.db");
    let mut child = landfall()
        .args(["serve", "--db", &db, "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("listening on http://127.0.0.1:") && said.contains("/sync"), "{said}");
    signal("TERM", child.id());
    assert!(wait(&mut child, Duration::from_secs(15)).unwrap().success());
    run!["serve", "--db", &db, "--listen", "0.0.0.0:0"].fails("without tokens");
    run!["serve", "--db", &db, "--listen", "203.0.113.1:1"].fails("without tokens");
    let short = scratch.file("tokens.txt", "short anna\n");
    let ran =
        run!["serve", "--db", &db, "--listen", "127.0.0.1:0", "--token-file", &short].fails("less than 16");
    assert!(ran.err.contains("tokens.txt") && ran.err.contains("hint: "), "{ran:?}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    run!["serve", "--db", &db, "--listen", &addr].fails("cannot listen on");
}

#[test]
fn the_database_and_the_endpoint_may_come_from_the_environment() {
    let scratch = Scratch::new("environment");
    let db = scratch.text("q.db");
    let server = Server::start(scratch.path("server.db"));
    let with = |args: &[&str]| -> Ran {
        let mut command = landfall();
        command.env("LANDFALL_DB", &db).env("LANDFALL_ENDPOINT", server.endpoint()).args(args);
        command.output().unwrap().into()
    };
    with(&["enqueue", "note", "1", "create", "{}"]).ends(0);
    with(&["sync"]).ends(0);
    assert_eq!(with(&["status", "--json"]).ends(0).json()["pending"], 0);
    for shell in ["bash", "zsh", "fish"] {
        let script = with(&["completions", shell]).ends(0).out;
        for word in
            ["conflicts", "resolve", "keep-mine", "pull-only", "last_write_wins", "edit_wins", "base-version"]
        {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
}
