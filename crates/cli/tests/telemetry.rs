//! Log lines when they are asked for, and (feature `otel`) spans that arrive at a collector: the real binary, and a small
//! collector that keeps what it is sent.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on should stop and say why"
)]

mod support;

use std::process::Command;
use support::{Ran, Scratch, Server, landfall};

const TOKEN: &str = "token-canary-0123456789";

/// A device with one change, and a server that wants a token.
fn ready(name: &str) -> (Scratch, Server, String) {
    let scratch = Scratch::new(name);
    let tokens = scratch.file("tokens.txt", format!("{TOKEN} anna\n"));
    let server = Server::start_with(scratch.path("server.db"), &["--token-file", &tokens]);
    let db = scratch.text("queue.db");
    run!["enqueue", "note", "n1", "create", r#"{"title":"value-canary"}"#, "--db", &db].ends(0);
    (scratch, server, db)
}

fn sync(db: &str, server: &Server) -> Command {
    let mut command = landfall();
    command.args(["sync", "--db", db, "--endpoint", &server.endpoint(), "--token-env", "TOKEN"]);
    command.env("TOKEN", TOKEN);
    command
}

#[test]
fn log_lines_come_when_they_are_asked_for_and_hold_nothing_secret() {
    let (_scratch, server, db) = ready("log");
    let ran = Ran::from(sync(&db, &server).env("LANDFALL_LOG", "trace").output().unwrap()).ends(0);
    for wanted in ["landfall_sync", "landfall_push", "landfall_http", "status=200", "SessionFinished"] {
        assert!(ran.err.contains(wanted), "{wanted} in {}", ran.err);
    }
    assert!(!ran.err.contains("canary") && !ran.err.contains('\u{1b}'), "{}", ran.err);
    let quiet = Ran::from(sync(&db, &server).output().unwrap()).ends(0);
    assert!(!quiet.err.contains("landfall_sync"), "{}", quiet.err);
}

#[test]
fn a_word_that_is_no_level_is_told_and_stops_nothing() {
    let (_scratch, server, db) = ready("log-word");
    let ran = Ran::from(sync(&db, &server).env("LANDFALL_LOG", "landfall=loud").output().unwrap()).ends(0);
    assert!(ran.err.contains("LANDFALL_LOG=landfall=loud is not understood"), "{}", ran.err);
}

#[cfg(feature = "otel")]
mod otel {
    use super::*;
    use serde_json::Value;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    /// Takes requests one after another and keeps heads and bodies.
    struct Collector {
        addr: SocketAddr,
        taken: Arc<Mutex<Vec<(String, Value)>>>,
    }

    impl Collector {
        fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let taken: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
            let collector = Self { addr: listener.local_addr().unwrap(), taken: Arc::clone(&taken) };
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut bytes = Vec::new();
                    let (head, body) = loop {
                        let mut some = [0; 4096];
                        let read = stream.read(&mut some).unwrap();
                        assert!(read > 0, "the request broke off");
                        bytes.extend_from_slice(&some[..read]);
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                        let lower = head.to_ascii_lowercase();
                        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
                        if body.len() >= length.unwrap().parse().unwrap() {
                            break (lower, body.to_owned());
                        }
                    };
                    taken.lock().unwrap().push((head, serde_json::from_str(&body).unwrap()));
                    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            });
            collector
        }

        fn endpoint(&self) -> String {
            format!("http://{}", self.addr)
        }

        /// Every span with its resource's name, and all heads and bodies as one text.
        fn spans(&self) -> (Vec<(String, Value)>, String) {
            let taken = self.taken.lock().unwrap();
            let mut spans = Vec::new();
            for (head, body) in &*taken {
                assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
                assert!(head.contains("content-type: application/json"), "{head}");
                for resource in body["resourceSpans"].as_array().unwrap() {
                    let name = attribute(&resource["resource"], "service.name").unwrap();
                    let name = name["stringValue"].as_str().unwrap().to_owned();
                    for scope in resource["scopeSpans"].as_array().unwrap() {
                        let own = scope["spans"].as_array().unwrap();
                        spans.extend(own.iter().map(|span| (name.clone(), span.clone())));
                    }
                }
            }
            (spans, format!("{taken:?}"))
        }
    }

    fn attribute<'a>(of: &'a Value, key: &str) -> Option<&'a Value> {
        let attributes = of["attributes"].as_array().unwrap();
        attributes.iter().find(|one| one["key"] == key).map(|one| &one["value"])
    }

    fn named<'a>(spans: &'a [(String, Value)], name: &str) -> &'a Value {
        let found = spans.iter().find(|(_, span)| span["name"] == name);
        &found.unwrap_or_else(|| panic!("no {name} in {spans:#?}")).1
    }

    #[test]
    fn spans_of_a_sync_arrive_at_a_collector_before_the_command_ends() {
        let (_scratch, server, db) = ready("otel");
        let collector = Collector::start();
        let mut command = sync(&db, &server);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
        command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b");
        Ran::from(command.output().unwrap()).ends(0);

        let (spans, all) = collector.spans();
        assert!(all.contains("x-key: a b"), "{all}");
        assert!(!all.contains("canary"), "{all}");
        let run = named(&spans, "landfall_sync");
        let push = named(&spans, "landfall_push");
        let http =
            spans.iter().map(|(_, span)| span).find(|span| span["parentSpanId"] == push["spanId"]).unwrap();
        assert_eq!(http["name"], "landfall_http");
        assert_eq!((&push["parentSpanId"], &http["traceId"]), (&run["spanId"], &run["traceId"]));
        assert_eq!((&run["parentSpanId"], &http["kind"]), (&Value::from(""), &Value::from(3)));
        assert_eq!(attribute(run, "applied").unwrap()["intValue"], "1");
        assert_eq!(attribute(push, "tasks").unwrap()["intValue"], "1");
        assert_eq!(attribute(http, "method").unwrap()["stringValue"], "POST");
        assert_eq!(attribute(http, "status").unwrap()["intValue"], "200");
        for (service, span) in &spans {
            assert_eq!(service, "landfall");
            let (trace, own) = (span["traceId"].as_str().unwrap(), span["spanId"].as_str().unwrap());
            assert_eq!((trace.len(), own.len()), (32, 16), "{span}");
            let time = |name: &str| span[name].as_str().unwrap().parse::<u128>().unwrap();
            assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"), "{span}");
        }
    }

    #[test]
    fn spans_of_a_server_arrive_while_it_runs() {
        let scratch = Scratch::new("otel-serve");
        let collector = Collector::start();
        let mut command = landfall();
        command.args(["serve", "--json", "--listen", "127.0.0.1:0", "--db", &scratch.text("server.db")]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint() + "/");
        command.env("OTEL_SERVICE_NAME", "the-backend");
        let server = Server::of(command, scratch.path("server.db"));
        assert_eq!(server.get("/sync/entities/note/id-canary").0, 404);
        let until = Instant::now() + Duration::from_secs(20);
        while collector.spans().0.is_empty() {
            assert!(Instant::now() < until, "no span came");
            std::thread::sleep(Duration::from_millis(20));
        }
        let (spans, all) = collector.spans();
        let request = named(&spans, "landfall_request");
        assert_eq!((&spans[0].0[..], &request["kind"]), ("the-backend", &Value::from(2)));
        assert_eq!(attribute(request, "route").unwrap()["stringValue"], "entity");
        assert_eq!(attribute(request, "status").unwrap()["intValue"], "404");
        assert!(!all.contains("canary"), "{all}");
    }

    #[test]
    fn a_collector_that_is_away_or_never_answers_stops_nothing() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (name, collector) in [("gone", gone), ("silent", silent.local_addr().unwrap())] {
            let (_scratch, server, db) = ready(&format!("otel-{name}"));
            let began = Instant::now();
            let mut command = sync(&db, &server);
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"));
            Ran::from(command.output().unwrap()).ends(0);
            assert!(began.elapsed() < Duration::from_secs(20), "{name}: {:?}", began.elapsed());
        }
    }
}
