//! Reading on the command line: what others changed comes in, counters add up, listings stream, and a lost network
//! leaves everything readable.

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
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::devices::Device;
use support::{Ran, Scratch, Server, Stored, counts, endpoint, landfall, line, seed};

/// What listing may take, whatever it lists.
const MEMORY_KB: u64 = 60_000;

#[test]
fn counters_from_ten_devices_add_up_exactly() {
    let scratch = Scratch::new("counters");
    let server = Server::start(scratch.path("server.db"));
    let devices: Vec<Device> = (0..10).map(|n| Device::new(&scratch, &format!("{n}.db"), &server)).collect();
    let rules = ["--field", "t.n=counter"];
    devices[0].enqueue(&["t", "1", "create", r#"{"n":100}"#]);
    for device in &devices {
        device.sync(&rules);
    }
    let mut expected = 100;
    for round in 0_i64..3 {
        for (device, number) in devices.iter().zip(0_i64..) {
            // Each counts from what it sees, twice in a row, some of them down.
            for step in [number + 1, 7 * round - 5] {
                let seen = device.fields("t", "1")["n"].as_i64().unwrap();
                device.enqueue(&["t", "1", "update", &format!(r#"{{"n":{}}}"#, seen + step)]);
                expected += step;
            }
            if (number + round) % 3 == 0 {
                device.sync(&rules);
            }
        }
    }
    for device in devices.iter().chain(&devices) {
        device.sync(&rules);
    }
    for device in &devices {
        assert_eq!(device.fields("t", "1"), json!({"n": expected}));
        assert_eq!(device.get("t", "1")["status"], "synced");
    }
    let stored = Stored::read(&server.stop());
    assert_eq!(stored.records.values().next().unwrap(), &format!(r#"{{"n":{expected}}}"#));
}

#[test]
fn a_session_in_one_direction_leaves_the_other_alone() {
    let scratch = Scratch::new("directions");
    let server = Server::start(scratch.path("server.db"));
    let (anna, ben) = (Device::new(&scratch, "anna.db", &server), Device::new(&scratch, "ben.db", &server));
    anna.enqueue(&["note", "hers", "create", r#"{"a":1}"#]);
    anna.sync(&[]);
    ben.enqueue(&["note", "his", "create", r#"{"a":2}"#]);
    assert_eq!(support::status(&ben.db)["pull"], "never");
    let ran = ben.run(&["status"]).ends(0);
    assert!(ran.out.contains("the backend's changes were never read"), "{ran:?}");

    let proxy = FaultProxy::start(server.addr, FaultPlan::healthy(), seed()).unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&requests);
    proxy.on_event(move |event| heard.lock().unwrap().push(event.method.clone()));
    let watched = Device { endpoint: endpoint(proxy.addr()), ..ben.clone() };

    let ran = watched.run(&["sync", "--pull-only", "--endpoint", &watched.endpoint]).ends(0);
    assert!(ran.out.starts_with("1 change read") && ran.out.contains("left: 1 pending"), "{ran:?}");
    assert!(!ran.out.contains("synced") && ran.err.is_empty(), "{ran:?}");
    assert_eq!(requests.lock().unwrap().drain(..).collect::<Vec<_>>(), ["GET"]);
    assert_eq!(counts(&ben.db), [1, 0, 0, 0, 0]);
    assert_eq!(ben.fields("note", "hers"), json!({"a":1}));
    assert_eq!(Stored::read(&server.db).records.len(), 1);
    assert_eq!(support::status(&ben.db)["pull"], "read");

    anna.enqueue(&["note", "hers", "update", r#"{"a":3}"#]);
    anna.sync(&[]);
    let ran = watched.run(&["sync", "--push-only", "--endpoint", &watched.endpoint]).ends(0);
    assert!(
        ran.out.starts_with("1 task synced, 1 request") && ran.out.contains("everything is synced"),
        "{ran:?}"
    );
    assert_eq!(requests.lock().unwrap().drain(..).collect::<Vec<_>>(), ["POST"]);
    assert_eq!(ben.fields("note", "hers"), json!({"a":1}), "nothing was read");
    let ran = watched.run(&["sync", "--endpoint", &watched.endpoint]).ends(0);
    assert!(ran.out.starts_with("0 tasks synced, 2 changes read"), "{ran:?}");
    assert_eq!(ben.fields("note", "hers"), json!({"a":3}));
}

#[test]
fn a_new_device_begins_with_what_the_server_has() {
    let scratch = Scratch::new("new-device");
    let server = Server::start(scratch.path("server.db"));
    let anna = Device::new(&scratch, "anna.db", &server);
    anna.enqueue(&["note", "1", "create", r#"{"a":1}"#]);
    anna.sync(&[]);
    let new = scratch.text("new.db");
    let ran = run!["sync", "--db", &new, "--endpoint", &server.endpoint()].fails("there is no queue");
    assert!(ran.err.contains("landfall sync --create"), "{ran:?}");
    assert!(!scratch.path("new.db").exists());
    run!["sync", "--create", "--db", &new, "--endpoint", &server.endpoint()].ends(0);
    assert_eq!(run!["get", "note", "1", "--json", "--db", &new].ends(0).json()["status"], "synced");
}

#[test]
fn records_are_listed_in_pages_in_the_order_of_their_ids() {
    let scratch = Scratch::new("list");
    let server = Server::start(scratch.path("server.db"));
    let device = Device::new(&scratch, "a.db", &server);
    let lines: Vec<String> =
        (0..1203).map(|n| line("note", &format!("{n:04}"), "create", &json!({"n": n}))).collect();
    device.enqueue(&["--file", &scratch.file("notes", lines.join("\n"))]);
    device.enqueue(&["other", "x", "create", "{}"]);
    device.sync(&[]);
    device.enqueue(&["note", "0007", "update", r#"{"n":"seven"}"#]);
    device.enqueue(&["note", "0008", "delete"]);
    let ids = |ran: &Ran| -> Vec<String> {
        let rows = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.map(|row| row["entity_id"].as_str().unwrap().to_owned()).collect()
    };
    let all: Vec<String> = (0..1203).filter(|n| *n != 8).map(|n| format!("{n:04}")).collect();

    for args in [["--all", "--json"], ["--limit=0", "--json"]] {
        let ran = device.run(&["list", "note", args[0], args[1]]).ends(0);
        assert_eq!(ids(&ran), all);
        assert_eq!(ran.err, "");
    }
    let mut paged = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut args = vec!["list", "note", "--json", "--limit", "250"];
        args.extend(after.iter().flat_map(|after| ["--after", after.as_str()]));
        let ran = device.run(&args).ends(0);
        paged.extend(ids(&ran));
        match ran.err.as_str() {
            "" => break,
            note => {
                let note: Value = serde_json::from_str(note).unwrap();
                after = Some(note["next_after"].as_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(paged, all);

    // By default a hundred, and how to go on.
    let ran = device.run(&["list", "note"]).ends(0);
    assert_eq!(ran.out.lines().count(), 101, "{ran:?}");
    assert!(ran.err.contains("there are more: landfall list note --after 0100, or --all"), "{ran:?}");
    let exactly = device.run(&["list", "note", "--limit", "1202"]).ends(0);
    assert!(!exactly.err.contains("there are more"), "{exactly:?}");
    assert!(exactly.err.contains("1 deleted record not shown"), "{exactly:?}");

    let rows = |args: &[&str]| -> Vec<Value> {
        let all: Vec<&str> =
            ["list", "note", "--json", "--after", "0006"].iter().chain(args).copied().collect();
        device.run(&all).ends(0).out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert_eq!(
        rows(&["--limit", "2", "--deleted"])
            .iter()
            .map(|row| (row["state"].clone(), row["fields"].clone(), row["dirty"].clone()))
            .collect::<Vec<_>>(),
        [(json!("live"), json!({"n":"seven"}), json!(["n"])), (json!("deleted"), json!(null), json!(["n"]))]
    );
    assert_eq!(
        rows(&["--limit", "2", "--base"]).iter().map(|row| row["fields"].clone()).collect::<Vec<_>>(),
        [json!({"n":7}), json!({"n":8})]
    );
    assert!(rows(&["--limit", "1"])[0]["version"].is_string());
    assert_eq!(device.run(&["list", "nothing"]).ends(0).out, "no records of type nothing\n");
    assert_eq!(device.run(&["list", "nothing", "--json"]).ends(0).out, "");
    device.run(&["list", "note", "--all", "--limit", "5"]).fails("cannot be used with");
}

/// The most memory that a process has had so far, where the system tells.
fn peak_kb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[test]
fn listing_everything_takes_no_memory_and_a_reader_may_go_away() {
    let scratch = Scratch::new("list-memory");
    let db = scratch.text("a.db");
    let text = "x".repeat(8_000);
    let lines: Vec<String> =
        (0..20_000).map(|n| line("note", &format!("{n:05}"), "create", &json!({"text": text}))).collect();
    run!["enqueue", "--db", &db, "--file", &scratch.file("notes", lines.join("\n"))].ends(0);
    let list = |more: &[&str]| {
        let mut command = landfall();
        command.args(["list", "note", "--all", "--db", &db]).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut child = list(&["--json"]);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    for _ in 0..19_900 {
        text.clear();
        output.read_line(&mut text).unwrap();
    }
    // The rest does not fit into the pipe, so it is still there to be asked.
    if let Some(peak) = peak_kb(child.id()) {
        assert!(peak < MEMORY_KB, "{peak} kB to list 160 MB");
    }
    drop(output);
    let ran = Ran::from(child.wait_with_output().unwrap()).ends(0);
    assert_eq!(ran.err, "");
    let mut child = list(&[]);
    let mut start = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    assert_eq!(Ran::from(child.wait_with_output().unwrap()).ends(0).err, "");
}

#[test]
fn a_server_that_is_gone_leaves_everything_readable() {
    let scratch = Scratch::new("server-gone");
    let server = Server::start(scratch.path("server.db"));
    let device = Device::new(&scratch, "a.db", &server);
    device.enqueue(&["note", "1", "create", r#"{"a":1}"#]);
    device.sync(&[]);
    let wrong = format!("http://{}/wrong", server.addr);
    let ran = device.run(&["sync", "--deadline", "0", "--endpoint", &wrong]).ends(3);
    assert!(ran.err.contains("it often ends in /sync"), "{ran:?}");
    server.stop();
    // Nothing is queued: what is left is to read.
    let ran = device.run(&["sync", "--deadline", "0", "--endpoint", &device.endpoint]).ends(2);
    assert!(ran.out.contains("reading waits for unreachable: "), "{ran:?}");
    assert!(ran.err.contains("hint: is the server running"), "{ran:?}");
    assert!(!ran.out.contains("everything is synced"), "{ran:?}");
    let report = device.try_sync(&["--deadline", "0"]).ends(2).json();
    assert_eq!((&report["complete"], &report["waiting_for"]), (&json!(false), &json!(null)), "{report}");
    assert!(report["pull_waiting_for"].as_str().unwrap().starts_with("unreachable: "), "{report}");
    device.try_sync(&["--deadline", "0", "--pull-only"]).ends(2);
    // Nothing to send and not to read: all is done, whoever is gone.
    device.try_sync(&["--deadline", "0", "--push-only"]).ends(0);

    device.enqueue(&["note", "1", "update", r#"{"b":2}"#]);
    let begun = Instant::now();
    device.try_sync(&["--deadline", "1s", "--retry-cap", "200ms"]).ends(2);
    assert!((800..6_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert_eq!(device.fields("note", "1"), json!({"a":1,"b":2}));
    assert_eq!(device.get("note", "1")["status"], "pending");
    let ran = device.run(&["get", "note", "1"]).ends(0);
    assert!(ran.err.contains("not synced yet: b (waits for the next `landfall sync`)"), "{ran:?}");
    assert_eq!(device.run(&["list", "note", "--json"]).ends(0).json()["dirty"], json!(["b"]));
    assert_eq!(device.conflicts(&["--all"]), Vec::<Value>::new());
    device.run(&["status", "--exit-code"]).ends(2);
}

#[test]
fn a_change_that_was_taken_back_leaves_nothing_to_send() {
    let scratch = Scratch::new("taken-back");
    let server = Server::start(scratch.path("server.db"));
    let (anna, ben) = (Device::new(&scratch, "anna.db", &server), Device::new(&scratch, "ben.db", &server));
    anna.enqueue(&["note", "1", "create", r#"{"a":"X"}"#]);
    anna.sync(&[]);
    ben.sync(&[]);
    for device in [&anna, &ben] {
        device.enqueue(&["note", "1", "update", r#"{"a":"Y"}"#]);
        assert_eq!(counts(&device.db), [1, 0, 0, 0, 0]);
        device.enqueue(&["note", "1", "update", r#"{"a":"X"}"#]);
        assert_eq!(counts(&device.db), [0; 5]);
        assert_eq!(device.get("note", "1")["dirty"], json!([]));
        let report = device.sync(&[]);
        assert_eq!((&report["requests"], &report["applied"]), (&json!(0), &json!(0)), "{report}");
    }
    assert_eq!(Stored::read(&server.stop()).effects, 1);
}

#[test]
fn a_change_made_while_another_is_held_up_is_sent_once() {
    let scratch = Scratch::new("held-up");
    let server = Server::start(scratch.path("server.db"));
    let device = Device::new(&scratch, "a.db", &server);
    device.enqueue(&["note", "1", "create", r#"{"a":0,"b":0}"#]);
    device.sync(&[]);

    // While the answer is on its way.
    device.enqueue(&["note", "1", "update", r#"{"a":1}"#]);
    let held = FaultPlan::by(|request| (request.method == "POST").then_some(Fault::DelayReply { ms: 1_500 }));
    let proxy = FaultProxy::start(server.addr, held, seed()).unwrap();
    let slow = endpoint(proxy.addr());
    let child = landfall()
        .args(["sync", "--json", "--db", &device.db, "--endpoint", &slow])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while proxy.stats().requests == 0 || Stored::read(&server.db).effects < 2 {
        assert!(begun.elapsed() < Duration::from_secs(10), "nothing was sent");
        std::thread::sleep(Duration::from_millis(5));
    }
    device.enqueue(&["note", "1", "update", r#"{"a":2,"b":2}"#]);
    assert_eq!(device.fields("note", "1"), json!({"a":2,"b":2}));
    assert!(matches!(Ran::from(child.wait_with_output().unwrap()).code, Some(0 | 2)));
    device.sync(&[]);
    assert_eq!(Stored::read(&server.db).effects, 3);

    // Between two syncs, while nobody knows what became of the first.
    for (fault, takes_effect) in [
        (Fault::DropReplyAfterApply { end: Ending::Close }, true),
        (Fault::CutRequest { at: Cut::InBody, end: Ending::Close }, false),
    ] {
        let before = Stored::read(&server.db).effects;
        device.enqueue(&["note", "1", "update", &format!(r#"{{"a":{before}}}"#)]);
        proxy.set_plan(FaultPlan::always(fault));
        let rough = Device { endpoint: slow.clone(), ..device.clone() };
        rough.try_sync(&["--deadline", "0"]).ends(2);
        assert_eq!(counts(&device.db), [0, 0, 1, 0, 0]);
        assert_eq!(Stored::read(&server.db).effects, before + u64::from(takes_effect));
        device.enqueue(&["note", "1", "update", &format!(r#"{{"b":{before}}}"#)]);
        assert_eq!(device.get("note", "1")["status"], "fate_unknown");
        let report = device.sync(&[]);
        assert_eq!(report["conflicts"], 0, "our own effect is no conflict: {report}");
        assert_eq!(Stored::read(&server.db).effects, before + 2);
        assert_eq!(device.fields("note", "1"), json!({"a":before,"b":before}));
    }
    Stored::read(&server.stop()).has_one_effect_per_task();
}

#[test]
fn an_app_with_its_own_records_says_what_it_changed_them_from() {
    let scratch = Scratch::new("base");
    let server = Server::start(scratch.path("server.db"));
    let (anna, ben) = (Device::new(&scratch, "anna.db", &server), Device::new(&scratch, "ben.db", &server));
    anna.enqueue(&["note", "1", "create", r#"{"a":1,"b":1}"#]);
    anna.sync(&[]);
    // Ben's queue has never heard of the record; his app knows it from elsewhere.
    ben.enqueue(&["note", "1", "update", r#"{"a":2}"#, "--base", r#"{"a":1,"b":1}"#, "--base-version", "1"]);
    let known = ben.get("note", "1");
    assert_eq!((&known["fields"], &known["dirty"]), (&json!({"a":2,"b":1}), &json!(["a"])));
    assert_eq!((&known["version"], &known["base_complete"]), (&json!("1"), &json!(true)));
    anna.enqueue(&["note", "1", "update", r#"{"b":9}"#]);
    anna.sync(&[]);
    let report = ben.sync(&["--push-only"]);
    assert_eq!(report["conflicts"], 0, "what only one side changed is no conflict: {report}");
    anna.sync(&[]);
    assert_eq!(anna.fields("note", "1"), json!({"a":2,"b":9}));

    // The same from a file, where what did not change is not sent.
    let file = scratch.file(
        "changes.jsonl",
        r#"{"entity_type":"note","entity_id":"2","operation":"update","fields":{"a":1},"base":{"a":1},"base_version":"7"}"#,
    );
    let report = run!["enqueue", "--json", "--db", &ben.db, "--file", &file].ends(0).json();
    assert_eq!((&report["unchanged"], &report["tasks"]), (&json!(1), &json!(0)), "{report}");
    let db = scratch.text("none.db");
    for (args, fragment) in [
        (vec!["--base-version", "1"], "--base"),
        (vec!["--base", "[1]"], "the base is not usable"),
        (vec!["--base", "{"], "the base is not usable"),
    ] {
        let all = ["enqueue", "--db", &db, "note", "1", "update", r#"{"a":2}"#].into_iter().chain(args);
        support::run(all).fails(fragment);
        assert!(!scratch.path("none.db").exists());
    }
}

/// A server of our own making: it answers each GET with what `answer` says of its path.
fn feed(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let mut head = String::new();
            while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
            let (status, body) = answer(head.split(' ').nth(1).unwrap_or_default());
            let kind = if status == 200 { "json" } else { "problem+json" };
            let length = body.len();
            drop((&stream).write_all(
                format!("HTTP/1.1 {status} X\r\nContent-Type: application/{kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").as_bytes(),
            ));
        }
    });
    addr
}

#[test]
fn status_tells_of_records_that_could_not_be_taken_in_and_of_a_reading_anew() {
    let scratch = Scratch::new("quarantine");
    let expired = Arc::new(AtomicBool::new(false));
    let is_expired = Arc::clone(&expired);
    let addr = feed(move |path| {
        match (is_expired.load(Ordering::SeqCst), path.contains("cursor=c1")) {
        (true, true) => (
            410,
            r#"{"type":"urn:landfall:problem:cursor_expired","status":410,"code":"cursor_expired"}"#.into(),
        ),
        (true, false) => (500, "{}".into()),
        (false, true) => (200, r#"{"changes":[],"cursor":"c1","has_more":false}"#.into()),
        (false, false) => (
            200,
            r#"{"changes":[
                {"entity_type":"note","entity_id":"good","version":"1","fields":{"a":1}},
                {"entity_type":"note","entity_id":"bad","version":"2","fields":{"secret":18446744073709551616}}
            ],"cursor":"c1","has_more":false}"#
                .into(),
        ),
    }
    });
    let device = Device { db: scratch.text("a.db"), endpoint: endpoint(addr) };
    let ran = device.run(&["sync", "--create", "--endpoint", &device.endpoint]).ends(0);
    assert!(ran.out.contains("1 record of the server could not be taken in; `landfall status`"), "{ran:?}");
    assert_eq!(device.fields("note", "good"), json!({"a":1}));
    device.run(&["get", "note", "bad"]).fails("nothing is known");
    let status = support::status(&device.db);
    assert_eq!((&status["pull"], &status["quarantined"]["count"]), (&json!("read"), &json!(1)), "{status}");
    let reason = status["quarantined"]["newest"]["reason"].as_str().unwrap();
    assert!(reason.contains("bad") && !reason.contains("18446744073709551616"), "{reason}");
    let ran = device.run(&["status"]).ends(0);
    assert!(ran.out.contains("1 record of the backend could not be taken in"), "{ran:?}");

    expired.store(true, Ordering::SeqCst);
    let ran = device.run(&["sync", "--deadline", "0", "--endpoint", &device.endpoint]).ends(2);
    assert!(ran.out.contains("reading waits for "), "{ran:?}");
    assert_eq!(support::status(&device.db)["pull"], "anew");
    assert_eq!(device.fields("note", "good"), json!({"a":1}));
    expired.store(false, Ordering::SeqCst);
    device.sync(&[]);
    assert_eq!(support::status(&device.db)["pull"], "read");
}
