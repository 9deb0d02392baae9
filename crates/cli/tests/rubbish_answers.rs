//! Rubbish as server answers: nothing is acknowledged wrongly, nothing is lost, memory stays bounded, and when the
//! server is well again everything arrives once.
//!
//! Whether an acknowledgement was right is judged by the server's database, read with plain SQL.

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
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Ran, Scratch, Server, Stored, counts, endpoint, landfall, line, seed};

/// Tasks in each case.
const TASKS: usize = 6;
/// What a sync may take at most, whatever it is answered. The largest answer that is read is 32 MiB.
const MEMORY_KB: u64 = 160_000;

/// Enqueues some tasks and gives back their ids.
fn enqueue(db: &str, case: usize) -> Vec<String> {
    (0..TASKS)
        .map(|task| {
            let id = format!("{case}-{task}");
            let ran = run!["enqueue", "--json", "--db", db, "note", &id, "create", r#"{"n":1}"#].ends(0);
            ran.json()["task"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn sync(db: &str, endpoint: &str, more: &[&str]) -> Ran {
    let mut command = landfall();
    command.args(["sync", "--json", "--db", db, "--endpoint", endpoint, "--retry-cap", "200ms"]).args(more);
    command.output().unwrap().into()
}

/// Every task that left the queue as applied really took effect, and every other is still in the queue.
#[track_caller]
fn nothing_is_acknowledged_wrongly(db: &str, tasks: &[String], server: &Path, what: &str) -> usize {
    let mut done = 0;
    for task in tasks {
        let shown = run!["task", "--json", "--db", db, task].ends(0).json();
        if shown["state"] == "done" {
            assert!(Stored::task_took_effect(server, task), "{what}: {shown}");
            done += 1;
        }
    }
    let left: u64 = counts(db).iter().sum();
    assert_eq!(left as usize + done, tasks.len(), "{what}: a task is neither queued nor done");
    done
}

#[test]
fn whatever_the_network_answers_nothing_is_acknowledged_wrongly() {
    let scratch = Scratch::new("rubbish-answers");
    let server = Server::start(scratch.path("server.db"));
    let proxy = FaultProxy::start(server.addr, FaultPlan::healthy(), seed()).unwrap();
    let target = endpoint(proxy.addr());
    let (applied, not) = (true, false);
    // Whether the server applied at least once, and whether nothing at all may be acknowledged.
    let cases = [
        (Fault::CaptivePortal, true),
        (Fault::Redirect302, true),
        (Fault::Empty200 { applied }, true),
        (Fault::Empty200 { applied: not }, true),
        (Fault::TruncatedJson, true),
        (Fault::WrongJson, true),
        (Fault::WrongJson, true),
        (Fault::WrongJson, true),
        (Fault::WrongJson, true),
        (Fault::ForeignResults, true),
        (Fault::MissingResults, false),
        (Fault::GarbageBytes, true),
        (Fault::StallMidReply { ms: 4_000 }, true),
        (Fault::CutReply { at: Cut::InBody, end: Ending::Close }, true),
        (Fault::CutReply { at: Cut::Seeded, end: Ending::Reset }, true),
        (Fault::DropReplyAfterApply { end: Ending::Close }, true),
        (Fault::Status500 { applied }, true),
        (Fault::ReorderedResults, false),
    ];
    for (case, (fault, nothing)) in cases.into_iter().enumerate() {
        let what = format!("case {case}: {fault:?}");
        let db = scratch.text(&format!("{case}.db"));
        let tasks = enqueue(&db, case);
        proxy.set_plan(FaultPlan::always(fault));
        let ran = sync(&db, &target, &["--deadline", "700ms", "--timeout", "500ms"]);
        assert!(matches!(ran.code, Some(0 | 2)), "{what}: {ran:?}");
        let report = ran.json();
        let done = nothing_is_acknowledged_wrongly(&db, &tasks, &server.db, &what);
        assert_eq!(
            report["applied"].as_u64().unwrap() + report["duplicates"].as_u64().unwrap(),
            done as u64,
            "{what}"
        );
        if nothing {
            assert_eq!((done, ran.code), (0, Some(2)), "{what}: {report}");
        }
        proxy.set_plan(FaultPlan::healthy());
        let report = sync(&db, &target, &["--deadline", "20s"]).ends(0).json();
        assert_eq!(report["complete"], true, "{what}: {report}");
    }
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), cases.len() * TASKS);
}

/// How much memory a process has taken at most so far.
fn peak_kb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[test]
fn ten_gigabytes_of_answer_take_no_memory() {
    let scratch = Scratch::new("huge-answer");
    let server = Server::start(scratch.path("server.db"));
    for (case, declared) in [None, Some(10_000_000_000)].into_iter().enumerate() {
        let plan = FaultPlan::always(Fault::HugeBody { declared });
        let proxy = FaultProxy::start(server.addr, plan, seed()).unwrap();
        let db = scratch.text(&format!("{case}.db"));
        let tasks = enqueue(&db, case);
        let mut child = landfall()
            .args(["sync", "--json", "--deadline", "0", "--db", &db, "--endpoint", &endpoint(proxy.addr())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut peak = 0;
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            peak = peak.max(peak_kb(child.id()).unwrap_or(0));
            assert!(begun.elapsed() < Duration::from_secs(60), "it reads for ever");
            std::thread::sleep(Duration::from_millis(5));
        }
        let ran = Ran::from(child.wait_with_output().unwrap()).ends(2);
        println!("declared {declared:?}: at most {peak} kB; {}", ran.out);
        assert!(peak > 1_000 && peak < MEMORY_KB, "{peak} kB");
        assert_eq!(nothing_is_acknowledged_wrongly(&db, &tasks, &server.db, "huge"), 0);
        proxy.set_plan(FaultPlan::healthy());
        sync(&db, &endpoint(proxy.addr()), &["--deadline", "20s"]).ends(0);
    }
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), 2 * TASKS);
}

/// A server that says 200 and JSON to everything and makes its answer from the request; it applies nothing.
fn liar(answer: impl Fn(&Value) -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            drop(lie(stream, &answer));
        }
    });
    addr
}

fn lie(stream: TcpStream, answer: &dyn Fn(&Value) -> String) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if header.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let answer = answer(&request);
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    )
}

/// One answer with one result per task, made by `result` from the task's key.
fn results(request: &Value, result: impl Fn(&Value) -> Value) -> Value {
    let tasks = request["tasks"].as_array().cloned().unwrap_or_default();
    json!({"protocol": 1, "results": tasks.iter().map(|task| result(&task["key"])).collect::<Vec<_>>()})
}

#[test]
fn answers_that_are_nearly_right_acknowledge_nothing() {
    let scratch = Scratch::new("nearly-right");
    type Answer = Box<dyn Fn(&Value) -> String + Send>;
    fn each(result: impl Fn(&Value) -> Value + Send + 'static) -> Answer {
        Box::new(move |request| results(request, &result).to_string())
    }
    let cases: Vec<(&str, Answer)> = vec![
        ("a status in capitals", each(|key| json!({"key": key, "status": "APPLIED", "version": "1"}))),
        ("no status", each(|key| json!({"key": key, "version": "1"}))),
        ("status null", each(|key| json!({"key": key, "status": null, "version": "1"}))),
        ("status a number", each(|key| json!({"key": key, "status": 200, "version": "1"}))),
        ("a list of statuses", each(|key| json!({"key": key, "status": ["applied"], "version": "1"}))),
        (
            "keys in capitals",
            each(
                |key| json!({"key": key.as_str().unwrap().to_uppercase(), "status": "applied", "version": "1"}),
            ),
        ),
        (
            "cut keys",
            each(|key| json!({"key": &key.as_str().unwrap()[..8], "status": "applied", "version": "1"})),
        ),
        ("no key", each(|_| json!({"status": "applied", "version": "1"}))),
        ("a number as key", each(|_| json!({"key": 7, "status": "applied", "version": "1"}))),
        ("results of results", each(|key| json!([{"key": key, "status": "applied", "version": "1"}]))),
        (
            "a map of results",
            Box::new(|request| {
                let key = &request["tasks"][0]["key"];
                json!({"protocol": 1, "results": {key.as_str().unwrap(): {"status": "applied"}}}).to_string()
            }),
        ),
        (
            "another protocol",
            Box::new(|request| {
                let mut answer =
                    results(request, |key| json!({"key": key, "status": "applied", "version": "1"}));
                answer["protocol"] = json!(2);
                answer.to_string()
            }),
        ),
        (
            "no protocol",
            Box::new(|request| {
                let mut answer =
                    results(request, |key| json!({"key": key, "status": "applied", "version": "1"}));
                answer.as_object_mut().unwrap().remove("protocol");
                answer.to_string()
            }),
        ),
        ("an echo of the request", Box::new(Value::to_string)),
        (
            "two answers in a row",
            Box::new(|request| {
                let answer = results(request, |key| json!({"key": key, "status": "applied", "version": "1"}));
                format!("{answer}{answer}")
            }),
        ),
        (
            "contradicting results for one key",
            Box::new(|request| {
                let mut answer =
                    results(request, |key| json!({"key": key, "status": "applied", "version": "1"}));
                let again = results(
                    request,
                    |key| json!({"key": key, "status": "rejected", "error": {"code": "x", "message": "y"}}),
                );
                let results = answer["results"].as_array_mut().unwrap();
                results.extend(again["results"].as_array().unwrap().iter().cloned());
                answer.to_string()
            }),
        ),
        ("deep nesting", Box::new(|_| format!("{{\"protocol\":1,\"results\":{}", "[".repeat(200_000)))),
        ("not UTF-8 in a string", Box::new(|_| "{\"protocol\":1,\"results\":[]}\u{0}\u{0}".into())),
        ("NaN", Box::new(|_| "NaN".into())),
        ("null", Box::new(|_| "null".into())),
        ("an empty object", Box::new(|_| "{}".into())),
    ];
    let server = Server::start(scratch.path("server.db"));
    let total = cases.len();
    for (case, (what, answer)) in cases.into_iter().enumerate() {
        let db = scratch.text(&format!("{case}.db"));
        enqueue(&db, case);
        let ran = sync(&db, &endpoint(liar(answer)), &["--deadline", "0", "--timeout", "2s"]);
        // A person may be asked to look (3), but nothing is done and nothing is given up.
        assert!(matches!(ran.code, Some(2 | 3)), "{what}: {ran:?}");
        let [pending, in_flight, unknown, conflict, dead] = counts(&db);
        assert_eq!((pending + in_flight + unknown, conflict, dead), (TASKS as u64, 0, 0), "{what}: {ran:?}");
        let report = sync(&db, &server.endpoint(), &["--deadline", "20s"]).ends(0).json();
        assert_eq!(report["complete"], true, "{what}: {report}");
    }
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), total * TASKS);
}

#[test]
fn an_edit_after_a_lost_answer_is_sent_as_its_own_task() {
    let scratch = Scratch::new("edit-after-loss");
    let server = Server::start(scratch.path("server.db"));
    let plan = FaultPlan::always(Fault::DropReplyAfterApply { end: Ending::Reset });
    let proxy = FaultProxy::start(server.addr, plan, seed()).unwrap();
    let db = scratch.text("q.db");
    let changes = scratch.file("1.jsonl", line("note", "1", "create", &json!({"a": 1, "b": 1})));
    run!["enqueue", "--db", &db, "--file", &changes].ends(0);
    sync(&db, &endpoint(proxy.addr()), &["--deadline", "0"]).ends(2);
    assert_eq!(counts(&db), [0, 0, 1, 0, 0], "sent, fate unknown");
    let changes = scratch.file("2.jsonl", line("note", "1", "update", &json!({"a": 2})));
    run!["enqueue", "--db", &db, "--file", &changes].ends(0);
    assert_eq!(counts(&db), [1, 0, 1, 0, 0], "the edit waits for the verdict");
    proxy.set_plan(FaultPlan::healthy());
    let report = sync(&db, &endpoint(proxy.addr()), &["--deadline", "20s"]).ends(0).json();
    assert_eq!((&report["applied"], &report["duplicates"]), (&json!(1), &json!(1)), "{report}");
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records[&("note".into(), "1".into())], r#"{"a":2,"b":1}"#);
}
