//! `landfall conformance` against the real server, with and without tokens, and through a door that makes it break a rule.
//!
//! That each check notices a broken server is tested in `crates/testkit/tests/broken_servers.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

#[macro_use]
mod support;

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use support::{Ran, Scratch, Server, Stored, endpoint, landfall, signal, wait};

const TOKEN: &str = "c0nf0rmance-token-0123456789";

/// The names of the checks that ended so.
fn named<'v>(report: &'v Value, result: &str) -> Vec<&'v str> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks.filter(|check| check["result"] == result).map(|check| check["name"].as_str().unwrap()).collect()
}

/// Nothing of what the checks made is there, and something was made.
#[track_caller]
fn is_clean(server: Server) {
    let stored = Stored::read(&server.stop());
    assert!(stored.effects > 20, "{}", stored.effects);
    assert!(stored.records.is_empty(), "{:?}", stored.records.keys());
}

fn with_token(args: &[&str], token: &str) -> Ran {
    landfall().args(args).env("TOKEN", token).output().unwrap().into()
}

#[test]
fn the_reference_server_keeps_every_rule() {
    let scratch = Scratch::new("conformance");
    let server = Server::start(scratch.path("server.db"));
    let report = run!["conformance", "--json", &server.endpoint()].ends(0).json();
    assert_eq!(report["ended"], "whole", "{report}");
    assert_eq!(named(&report, "skip"), ["credentials"], "{report}");
    assert_eq!(named(&report, "ok").len(), report["checks"].as_array().unwrap().len() - 1, "{report}");
    assert_eq!((&report["broken_must"], &report["left"]), (&Value::from(0), &Value::from(Vec::<u8>::new())));
    is_clean(server);
}

#[test]
fn with_a_token_it_is_checked_that_nobody_comes_in_without() {
    let scratch = Scratch::new("conformance");
    let tokens = scratch.file("tokens.txt", format!("{TOKEN} anna\n"));
    let server = Server::start_with(scratch.path("server.db"), &["--token-file", &tokens]);
    let at = server.endpoint();
    let ran = with_token(&["conformance", &at, "--token-env", "TOKEN"], TOKEN).ends(0);
    assert!(!ran.out.contains("BROKEN") && !ran.out.contains("skip"), "{ran:?}");
    assert!(ran.out.contains("ok     credentials          401"), "{ran:?}");
    assert!(!ran.out.contains(TOKEN), "{ran:?}");
    for ran in [
        run!["conformance", &at],
        with_token(&["conformance", &at, "--token-env", "TOKEN"], "wr0ng-token-0123456789"),
    ] {
        let ran = ran.ends(2);
        assert!(ran.err.contains("401") && ran.err.contains("credentials?"), "{ran:?}");
    }
    is_clean(server);
}

#[test]
fn a_server_with_ids_of_its_own_keeps_every_rule() {
    let scratch = Scratch::new("conformance");
    let more = ["--assign-ids", "*", "--actions"];
    let server = Server::start_with(scratch.path("server.db"), &more);
    let report = run!["conformance", "--json", &server.endpoint(), "--entity-type", "a b/c"].ends(0).json();
    assert_eq!(report["broken_must"], 0, "{report}");
    is_clean(server);
}

#[test]
fn the_list_says_what_would_be_checked_and_only_names_some() {
    let list = run!["conformance", "--list"].ends(0);
    assert!(list.out.lines().count() > 25, "{list:?}");
    assert!(list.out.lines().any(|line| line.starts_with("MUST   lost_reply ")), "{list:?}");
    let json = run!["conformance", "--list", "--json", "--only", "ping,feed_whole"].ends(0).json();
    let names: Vec<&Value> = json["checks"].as_array().unwrap().iter().map(|check| &check["name"]).collect();
    assert_eq!(names, ["ping", "feed_whole"]);
    for check in json["checks"].as_array().unwrap() {
        for member in ["level", "rule", "written", "mend"] {
            assert!(check[member].as_str().is_some_and(|text| text.len() > 3), "{member}: {check}");
        }
    }
    let scratch = Scratch::new("conformance");
    let server = Server::start(scratch.path("server.db"));
    let at = server.endpoint();
    let report = run!["conformance", "--json", &at, "--only", "ping,feed_whole"].ends(0).json();
    assert_eq!(named(&report, "ok"), ["ping", "feed_whole"]);
    run!["conformance", &at, "--only", "pong"].fails("there is no check \"pong\"");
}

#[test]
fn every_section_that_is_named_is_there() {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/writing-a-backend.md");
    let rules = std::fs::read_to_string(rules).unwrap();
    let list = run!["conformance", "--list", "--json"].ends(0).json();
    for check in list["checks"].as_array().unwrap() {
        let written = check["written"].as_str().unwrap();
        let section = written.split('"').nth(1).unwrap();
        let (heading, numbers) = section.split_once(", ").unwrap_or((section, ""));
        assert!(rules.contains(&format!("\n## {heading}\n")), "{written}");
        for number in numbers.split(" and ").filter(|number| !number.is_empty()) {
            assert!(rules.contains(&format!("\n{number}. **")), "{written}");
        }
    }
}

#[test]
fn what_is_no_sync_endpoint_is_told_apart_from_one_that_breaks_rules() {
    let scratch = Scratch::new("conformance");
    let server = Server::start(scratch.path("server.db"));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = run!["conformance", &endpoint(nobody)].ends(2);
    assert!(ran.err.contains("error:") && ran.err.contains("hint:") && ran.out.is_empty(), "{ran:?}");
    let ran = run!["conformance", &format!("http://{}/nothing", server.addr)].ends(2);
    assert!(ran.err.contains("404") && ran.err.contains("sync endpoint"), "{ran:?}");
    let ran = run!["conformance", "--json", &format!("http://{}/nothing", server.addr)].ends(2);
    assert!(ran.out.is_empty(), "{ran:?}");
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert!(error["error"].as_str().unwrap().contains("404"), "{error}");
    run!["conformance", "http://192.0.2.1/sync"].fails("plain http is only for this machine");
    run!["conformance", "nonsense"].fails("must begin with https://");
    run!["conformance"].ends(1);
    run!["conformance", &server.endpoint(), "--entity-type", ""].fails("the type of records is empty");
    // What had no effect here is not offered here.
    run!["conformance", &server.endpoint(), "--batch", "5"].ends(1);
    assert!(Stored::of_tenant(&server.stop(), "default").is_empty());
}

/// The command, its output and what of it has come so far: some checks are done, and some are not.
fn in_the_middle(server: &Server) -> (Child, BufReader<ChildStdout>, String) {
    let mut command = landfall();
    command.args(["conformance", &server.endpoint()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("base_version") {
        assert_ne!(out.read_line(&mut text).unwrap(), 0, "{text}");
    }
    (child, out, text)
}

#[test]
fn ctrl_c_ends_it_and_deletes_what_was_made() {
    let scratch = Scratch::new("conformance");
    let server = Server::start(scratch.path("server.db"));
    let (mut child, mut out, mut text) = in_the_middle(&server);
    signal("INT", child.id());
    out.read_to_string(&mut text).unwrap();
    let status = wait(&mut child, Duration::from_secs(15)).expect("it ends at Ctrl-C");
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(status.code(), Some(2), "{text}{err}");
    assert!(err.contains("stopped; ") && err.contains("not done"), "{text}{err}");
    assert!(!text.contains("BROKEN") && !text.contains("perhaps still there"), "{text}");
    let stored = Stored::read(&server.stop());
    assert!(stored.effects > 0 && stored.records.is_empty(), "{:?}", stored.records.keys());
}

#[test]
fn a_server_that_goes_away_is_said_to_be_gone_not_broken() {
    let scratch = Scratch::new("conformance");
    let server = Server::start(scratch.path("server.db"));
    let (mut child, mut out, mut text) = in_the_middle(&server);
    drop(server);
    out.read_to_string(&mut text).unwrap();
    let status = wait(&mut child, Duration::from_secs(30)).expect("it ends");
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(status.code(), Some(2), "{text}{err}");
    assert!(err.contains("went out of reach during `"), "{text}{err}");
    assert!(!text.contains("BROKEN") && text.contains("perhaps still there: "), "{text}{err}");
}

/// A door before the server: one request, one answer, one connection.
struct Door {
    addr: SocketAddr,
    /// Requests whose sender was gone before they were handed on; they are not.
    vanished: Arc<AtomicU64>,
    /// Answers whose reader was gone after the first byte.
    unread: Arc<AtomicU64>,
}

impl Door {
    fn open(server: SocketAddr, change: fn(&str) -> String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (vanished, unread) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let door = Self { addr, vanished: Arc::clone(&vanished), unread: Arc::clone(&unread) };
        thread::spawn(move || {
            for client in listener.incoming() {
                let (vanished, unread) = (Arc::clone(&vanished), Arc::clone(&unread));
                thread::spawn(move || {
                    let mut client = client.unwrap();
                    let Some(request) = read_request(&mut client) else { return };
                    if is_gone(&client, Duration::from_millis(20)) {
                        vanished.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    let mut upstream = TcpStream::connect(server).unwrap();
                    upstream.write_all(&request).unwrap();
                    let mut answer = String::new();
                    upstream.read_to_string(&mut answer).unwrap();
                    let answer = with_length(&change(&answer));
                    let (first, rest) = answer.as_bytes().split_at(1);
                    client.write_all(first).unwrap();
                    if is_gone(&client, Duration::from_millis(5)) {
                        unread.fetch_add(1, Ordering::SeqCst);
                    }
                    drop(client.write_all(rest));
                });
            }
        });
        door
    }

    fn endpoint(&self) -> String {
        endpoint(self.addr)
    }
}

/// Whether the other side has closed or broken the connection within this time.
fn is_gone(client: &TcpStream, within: Duration) -> bool {
    client.set_read_timeout(Some(within)).unwrap();
    let looked = client.peek(&mut [0]);
    client.set_read_timeout(None).unwrap();
    match looked {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// One request, asking the server to close the connection behind its answer.
fn read_request(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let header = |line: &str, name: &str| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned);
    let length = head.lines().find_map(|line| header(line, "content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let kept: Vec<&str> =
        head.trim_end().lines().filter(|line| header(line, "connection:").is_none()).collect();
    let head = format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n"));
    Some([head.into_bytes(), body].concat())
}

fn with_length(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let kept: Vec<&str> =
        head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length:")).collect();
    format!("{}\r\ncontent-length: {}\r\n\r\n{body}", kept.join("\r\n"), body.len())
}

#[test]
fn what_is_broken_is_named_with_what_was_seen_and_what_to_do() {
    let scratch = Scratch::new("conformance");
    let server = Server::start(scratch.path("server.db"));
    for (change, code, broken) in [
        (
            (|answer| answer.replace(r#""has_more":true"#, r#""has_more":false"#)) as fn(&str) -> String,
            1,
            "feed_whole",
        ),
        (|answer| answer.replace("application/problem+json", "text/plain"), 1, "unreadable"),
        (
            |answer| answer.replace(r#""status":"duplicate","version":"#, r#""status":"duplicate","vers":"#),
            1,
            "lost_reply",
        ),
        // A should-rule is named, and is no reason to fail.
        (|answer| answer.replace(r#""proof":""#, r#""proof":"0"#), 0, "ping"),
    ] {
        let door = Door::open(server.addr, change);
        let at = door.endpoint();
        let only = ["--only", "ping,lost_reply,key_reused,feed_whole,unreadable,cursor_expired"];
        let report = run!["conformance", "--json", &at, only[0], only[1]].ends(code).json();
        assert_eq!(named(&report, "broken"), [broken], "{report}");
        assert_eq!(report["broken_must"], code, "{report}");
        let ran = run!["conformance", &at, only[0], only[1]].ends(code);
        let word = if code == 1 { "BROKEN" } else { "weak  " };
        assert!(ran.out.lines().any(|line| line.starts_with(&format!("{word} {broken} "))), "{ran:?}");
        assert!(ran.out.contains("written in docs/writing-a-backend.md, section \""), "{ran:?}");
        assert!(ran.out.contains("hint: "), "{ran:?}");
    }
}

#[test]
fn connections_are_really_cut() {
    let scratch = Scratch::new("conformance");
    let server = Server::start(scratch.path("server.db"));
    let door = Door::open(server.addr, str::to_owned);
    let ran = run!["conformance", &door.endpoint(), "--only", "lost_reply"].ends(0);
    assert!(ran.out.contains("ok     lost_reply           the repeat was `duplicate`"), "{ran:?}");
    assert_eq!((door.vanished.load(Ordering::SeqCst), door.unread.load(Ordering::SeqCst)), (0, 1), "{ran:?}");
    // The door keeps what its sender did not wait for, so that the repeat is the first that the server sees.
    let door = Door::open(server.addr, str::to_owned);
    let ran = run!["conformance", &door.endpoint(), "--only", "cut_off"].ends(0);
    assert!(ran.out.contains("ok     cut_off              the repeat was `applied`"), "{ran:?}");
    assert_eq!((door.vanished.load(Ordering::SeqCst), door.unread.load(Ordering::SeqCst)), (1, 0), "{ran:?}");
}
