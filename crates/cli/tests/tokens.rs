//! Credentials that end in the middle: one refresh for all that wait, no attempt is counted, and the drain goes on.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

#[macro_use]
mod support;

use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use support::{Scratch, Server, Stored, counts, endpoint, landfall, line};

const OLD: &str = "0ld-token-0123456789";
const NEW: &str = "n3w-token-0123456789";

/// A door before the server that takes the old token only so many times.
struct Door {
    addr: SocketAddr,
    refused: Arc<AtomicU64>,
}

impl Door {
    fn open(server: SocketAddr, uses: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (used, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&refused);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (used, refused) = (Arc::clone(&used), Arc::clone(&counted));
                thread::spawn(move || {
                    let mut client = client.unwrap();
                    let Some(request) = read_request(&mut client) else { return };
                    let is_old = String::from_utf8_lossy(&request).contains(OLD);
                    if is_old && used.fetch_add(1, Ordering::SeqCst) >= uses {
                        refused.fetch_add(1, Ordering::SeqCst);
                        let body = r#"{"type":"about:blank","title":"token expired","status":401}"#;
                        drop(write!(
                            client,
                            "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                            body.len()
                        ));
                        return;
                    }
                    let mut upstream = TcpStream::connect(server).unwrap();
                    upstream.write_all(&request).unwrap();
                    let mut answer = Vec::new();
                    upstream.read_to_end(&mut answer).unwrap();
                    drop(client.write_all(&answer));
                });
            }
        });
        Self { addr, refused }
    }
}

/// One request, asking the server to close the connection behind its answer.
fn read_request(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
    }
    let head = String::from_utf8(request).ok()?;
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    let kept: Vec<&str> = head
        .trim_end()
        .lines()
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
        .collect();
    let mut request = format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n")).into_bytes();
    let begin = request.len();
    request.resize(begin + length, 0);
    client.read_exact(&mut request[begin..]).ok()?;
    Some(request)
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_thousand_is_fetched_again_once() {
    let scratch = Scratch::new("tokens");
    let tokens = scratch.file("tokens.txt", format!("{OLD} anna\n{NEW} anna\n"));
    let server = Server::start_with(scratch.path("server.db"), &["--token-file", &tokens]);
    let db = scratch.text("q.db");
    let lines: Vec<String> =
        (0..1000).map(|n| line("note", &format!("n{n}"), "create", &json!({ "n": n }))).collect();
    let file = scratch.file("changes.jsonl", lines.join("\n"));
    run!["enqueue", "--db", &db, "--file", &file].ends(0);

    // Without a way to a fresh token the drain stops and asks for a person; nothing was held against any task.
    let door = Door::open(server.addr, 4);
    let at = endpoint(door.addr);
    let sync = |more: &[&str]| -> support::Ran {
        let mut command = landfall();
        command.args(["sync", "--json", "--db", &db, "--endpoint", &at, "--batch", "50", "--push-only"]);
        command.args(more).env("TOKEN", OLD).output().unwrap().into()
    };
    let report = sync(&["--token-env", "TOKEN"]).ends(3).json();
    assert_eq!(report["gate"]["kind"], "unauthenticated", "{report}");
    assert_eq!(report["applied"], 200, "{report}");
    assert_eq!(counts(&db), [800, 0, 0, 0, 0], "refused before it was looked at: no fate is open");
    let queue = run!["queue", "--json", "--db", &db, "--limit", "0"].ends(0).json();
    let tasks = queue["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 800);
    assert!(tasks.iter().all(|task| task["attempts"] == 0), "an attempt was counted");

    // The command prints the old token first, which is good for three more requests, then the new one.
    let door = Door::open(server.addr, 3);
    let at = endpoint(door.addr);
    let (ran, seen) = (scratch.text("ran"), scratch.text("seen"));
    let script = scratch.file(
        "token.sh",
        format!(
            "echo x >> '{ran}'\nif [ -e '{seen}' ]; then echo {NEW}; else touch '{seen}'; echo {OLD}; fi\n"
        ),
    );
    let command = format!("sh '{script}'");
    let mut sync = landfall();
    sync.args(["sync", "--json", "--db", &db, "--endpoint", &at, "--batch", "50", "--push-only"]);
    let report =
        support::Ran::from(sync.args(["--token-command", &command]).output().unwrap()).ends(0).json();
    assert_eq!(report["applied"], 800, "{report}");
    assert_eq!(
        std::fs::read_to_string(&ran).unwrap().lines().count(),
        2,
        "fetched at the start, and once again"
    );
    assert!(door.refused.load(Ordering::SeqCst) >= 1, "the token did end in the middle");
    assert_eq!(counts(&db), [0; 5]);
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), 1000);
}

#[test]
fn a_token_command_that_gives_no_token_is_said_and_nothing_is_sent() {
    let scratch = Scratch::new("no-token");
    let db = scratch.text("q.db");
    run!["enqueue", "--db", &db, "note", "1", "create", "{}"].ends(0);
    for (command, fragment) in [
        ("exit 3", "the token command ended with exit status: 3"),
        ("true", "the token command printed nothing"),
        ("echo two words", "the token command printed more than a token"),
    ] {
        let ran =
            run!["sync", "--db", &db, "--endpoint", "http://127.0.0.1:9/sync", "--token-command", command];
        ran.fails(fragment);
    }
    // A token that stays the same is not tried again and again.
    let tokens = scratch.file("tokens.txt", format!("{NEW} anna\n"));
    let server = Server::start_with(scratch.path("server.db"), &["--token-file", &tokens]);
    let ran = scratch.text("ran");
    let command = format!("echo x >> '{ran}'; echo {OLD}");
    let sync =
        run!["sync", "--db", &db, "--endpoint", &server.endpoint(), "--token-command", &command].ends(3);
    assert!(!format!("{sync:?}").contains(OLD), "a token was shown: {sync:?}");
    assert_eq!(std::fs::read_to_string(&ran).unwrap().lines().count(), 2);
    assert_eq!(counts(&db), [1, 0, 0, 0, 0]);
}
