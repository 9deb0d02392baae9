//! `landfall agent` with the real binary and the real server: what other processes enqueue arrives by itself, an outage
//! passes by itself, it ends cleanly, and its page of numbers is what Prometheus reads.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

#[macro_use]
mod support;

use landfall_testkit::proxy::{Fault, FaultPlan, FaultProxy};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use support::agents::{Agent, enqueue, reasons, until, until_empty};
use support::{Scratch, Server, Stored, counts, endpoint, seed};

const SOON: Duration = Duration::from_secs(6);

#[test]
fn what_others_enqueue_arrives_by_itself_also_after_an_outage() {
    let scratch = Scratch::new("agent");
    let server = Server::start(scratch.path("server.db"));
    // Only to keep the port while the server is away; then connections are refused.
    let gate = FaultProxy::start(server.addr, FaultPlan::healthy(), seed()).unwrap();
    let db = scratch.text("q.db");
    let mut agent = Agent::start(&db, &endpoint(gate.addr()), &["--create", "--metrics", "127.0.0.1:0"]);
    for number in 0..10 {
        enqueue(&db, &format!("before-{number}"), r#"{"n":1}"#);
    }
    until_empty(&db, SOON);

    gate.set_offline(true).unwrap();
    let file = server.stop();
    let tasks: Vec<_> =
        (0..5).map(|number| enqueue(&db, &format!("during-{number}"), r#"{"n":2}"#)).collect();
    let told = agent.hears("gate_closed", SOON);
    assert_eq!(told["why"], "unreachable", "{told}");
    assert!(told["wait_ms"].as_u64().is_some(), "the next try is named: {told}");
    // The outage lasts: it is tried again and again.
    let started = agent.hears("started", SOON);
    let address = page_of(&started);
    let closings = r#"landfall_gate_closings_total{kind="unreachable"}"#;
    let page = || ask(&address, "GET /metrics HTTP/1.1\r\n\r\n");
    until(SOON * 3, || number(&page(), closings).is_some_and(|tries| tries >= 4.0), page);
    assert_eq!(counts(&db), [5, 0, 0, 0, 0]);
    let closed = agent.said().iter().filter(|line| line["event"] == "gate_closed").count();
    assert_eq!(closed, 1, "told once: {:?}", agent.said());
    let server = Server::start(file);
    gate.set_upstream(server.addr);
    gate.set_offline(false).unwrap();
    until_empty(&db, Duration::from_secs(20));
    agent.hears("gate_opened", SOON);

    for task in tasks {
        let ended = run!["task", "--json", "--db", &db, &task].ends(0).json();
        assert_eq!(ended["verdict"], "applied", "{ended}");
    }
    assert!(agent.terminate().success());
    agent.hears("stopped", SOON);
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), 15);
}

#[test]
fn told_to_stop_in_the_middle_of_a_call_it_hands_back_and_loses_nothing() {
    let scratch = Scratch::new("agent-stop");
    let server = Server::start(scratch.path("server.db"));
    let slow = FaultProxy::start(server.addr, FaultPlan::healthy(), seed()).unwrap();
    let db = scratch.text("q.db");
    let mut agent = Agent::start(&db, &endpoint(slow.addr()), &["--create", "--push-only"]);
    slow.set_plan(FaultPlan::always(Fault::DelayReply { ms: 20_000 }));
    let task = enqueue(&db, "n1", r#"{"n":1}"#);
    until(SOON, || counts(&db)[1] == 1, || format!("{:?}", counts(&db)));
    assert!(agent.terminate().success());
    // Of unknown fate, and nobody's: the next run may take it at once.
    assert_eq!(counts(&db), [0, 0, 1, 0, 0]);
    assert_eq!(reasons(&db, &task), ["sync"], "no lease is left behind");
    let report = run!["sync", "--json", "--db", &db, "--endpoint", &server.endpoint()].ends(0).json();
    assert_eq!(report["duplicates"], 1, "{report}");
    Stored::read(&server.stop()).has_one_effect_per_task();
}

#[test]
fn dead_letters_are_told_and_do_not_end_it() {
    let scratch = Scratch::new("agent-dead");
    let server = Server::start_with(scratch.path("server.db"), &["--require", "note.title"]);
    let db = scratch.text("q.db");
    let mut agent = Agent::start(&db, &server.endpoint(), &["--create"]);
    let task = enqueue(&db, "bad", r#"{"n":1}"#);
    let told = agent.hears("dead_letter", SOON);
    assert_eq!((&told["task"], &told["why"]), (&task.into(), &"rejected".into()), "{told}");
    enqueue(&db, "good", r#"{"title":"x"}"#);
    until(SOON, || counts(&db) == [0, 0, 0, 0, 1], || format!("{:?}", counts(&db)));
    // Nothing of what a user wrote is in the log.
    assert!(agent.said().iter().all(|line| !line.to_string().contains("title")));
    assert!(agent.terminate().success());
}

#[test]
fn refused_credentials_are_asked_for_again_until_they_are_good() {
    let scratch = Scratch::new("agent-token");
    let tokens = scratch.file("tokens.txt", "0123456789abcdef-good anna\n");
    let server = Server::start_with(scratch.path("server.db"), &["--token-file", &tokens]);
    let (db, token) = (scratch.text("q.db"), scratch.file("token", "0123456789abcdef-old\n"));
    let asked = scratch.file("asked", "");
    let command = format!("cat '{token}'; echo >> '{asked}'");
    let more = ["--create", "--retry-cap", "1s", "--token-command", &command];
    let mut agent = Agent::start(&db, &server.endpoint(), &more);
    enqueue(&db, "n1", r#"{"n":1}"#);
    let told = agent.hears("gate_closed", SOON);
    assert_eq!((&told["why"], &told["wait_ms"]), (&"unauthenticated".into(), &Value::Null), "{told}");
    assert_eq!(counts(&db), [1, 0, 0, 0, 0]);
    // At the beginning, and once when the token was refused; only then the good one is there.
    let times = || std::fs::read_to_string(&asked).unwrap().lines().count();
    until(SOON, || times() >= 2, || times().to_string());
    scratch.file("token", "0123456789abcdef-good\n");
    until_empty(&db, SOON);
    assert!(agent.terminate().success());
    Stored::read(&server.stop()).has_one_effect_per_task();
}

#[test]
fn the_page_of_numbers_counts_and_is_nothing_else() {
    let scratch = Scratch::new("agent-page");
    let server = Server::start(scratch.path("server.db"));
    let db = scratch.text("q.db");
    let agent = Agent::start(&db, &server.endpoint(), &["--create", "--metrics", "127.0.0.1:0"]);
    let started = agent.hears("started", SOON);
    let address = &page_of(&started);
    for number in 0..3 {
        enqueue(&db, &number.to_string(), r#"{"n":1}"#);
    }
    until_empty(&db, SOON);
    // Counted a moment after the commit that the queue shows.
    let page = || ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let counted = || number(&page(), r#"landfall_tasks_settled_total{verdict="applied"}"#) == Some(3.0);
    until(SOON, counted, page);
    let page = page();
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    is_well_formed(body);
    assert_eq!(number(&page, r#"landfall_queue_tasks{state="pending"}"#), Some(0.0), "{page}");

    let rude = "GET /metrics HTTP/1.1\r\nX: ".to_owned() + &"x".repeat(20_000);
    for (request, status) in [
        ("POST /metrics HTTP/1.1\r\n\r\n", "405 "),
        ("GET / HTTP/1.1\r\n\r\n", "404 "),
        ("GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n", "404 "),
        ("hello\r\n\r\n", "400 "),
    ] {
        let answer = ask(address, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
    }
    drop(try_to_ask(address, &rude));
    // Some who say nothing hold up nobody else.
    let silent: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(ask(address, "GET /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 "));
    drop(silent);
}

#[test]
fn wrong_arguments_are_refused_before_anything_begins() {
    let scratch = Scratch::new("agent-arguments");
    let db = scratch.text("none.db");
    let base = ["agent", "--db", &db, "--endpoint", "http://127.0.0.1:9/sync"];
    for (more, fragment) in [
        (&[][..], "there is no queue"),
        (&["--metrics", "0.0.0.0:9464"], "loopback"),
        (&["--metrics", "9464"], "an address and a port"),
        (&["--interval", "5ms"], "at least 1s"),
        (&["--look", "0"], "at least 10ms"),
        (&["--debounce", "soon"], "such as 30s"),
    ] {
        support::run(base.iter().chain(more)).fails(fragment);
    }
    assert!(!scratch.path("none.db").exists());
}

#[test]
fn the_units_in_the_documents_use_flags_that_are_there() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/systemd");
    let scratch = Scratch::new("agent-units");
    let mut commands = 0;
    for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        for command in text.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
            commands += 1;
            let args = command.split(' ').skip(1).filter(|arg| *arg != "--create");
            let mut landfall = support::landfall();
            landfall.env("API_TOKEN", "0123456789abcdef").env("LANDFALL_DB", scratch.path("none.db"));
            landfall.env("LANDFALL_ENDPOINT", "http://127.0.0.1:9/sync");
            // As far as it gets without --create: the arguments are understood, and there is no queue.
            support::Ran::from(landfall.args(args).output().unwrap()).fails("there is no queue");
        }
    }
    assert_eq!(commands, 2);
}

/// Where the numbers are, from the first line.
fn page_of(started: &Value) -> String {
    let url = started["metrics"].as_str().unwrap();
    url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap().to_owned()
}

#[track_caller]
fn ask(address: &str, request: &str) -> String {
    try_to_ask(address, request).unwrap()
}

fn try_to_ask(address: &str, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(request.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The value of a series.
fn number(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// Comments that name a type before its series, and series with a number.
#[track_caller]
fn is_well_formed(body: &str) {
    let mut known = Vec::new();
    assert!(body.ends_with('\n'));
    for line in body.lines() {
        if let Some(named) = line.strip_prefix("# TYPE ") {
            let (name, kind) = named.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(!known.contains(&name), "told twice: {line}");
            known.push(name);
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
            let name = series.split('{').next().unwrap();
            let of = |suffix| name.strip_suffix(suffix).is_some_and(|name| known.contains(&name));
            assert!(known.contains(&name) || ["_bucket", "_sum", "_count"].into_iter().any(of), "{line}");
        }
    }
    assert!(known.len() > 10, "{body}");
}
