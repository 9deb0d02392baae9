//! `landfall serve --metrics`: an address of its own, said when the server begins; the format and the numbers themselves
//! are tested in `crates/server/tests/metrics.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on should stop and say why"
)]

mod support;

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use support::{Scratch, landfall};

/// Ends the server with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn numbers_are_shown_where_it_was_asked_for() {
    let scratch = Scratch::new("serve-metrics");
    let args = ["serve", "--json", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--db"];
    let mut command = landfall();
    command.args(args).arg(scratch.path("server.db")).stdout(Stdio::piped());
    let mut server = Ends(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap();
    let url = listening["metrics"].as_str().unwrap();
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    assert_ne!(address, listening["address"].as_str().unwrap());
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("\n# TYPE landfall_server_requests_total counter\n"), "{answer}");
}
