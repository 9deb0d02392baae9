//! The fault proxy, seen from both of its ends: what a client gets, byte by byte, and what a server was sent.
//!
//! The server is a few lines in this file and speaks just enough HTTP. Waits are on the wire or on an
//! event, with a limit that fails the test; the few sleeps give something time to happen that must not happen,
//! or to be under way.

#![allow(clippy::unwrap_used, reason = "a test file; clippy.toml's exception does not reach its helpers")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use landfall_testkit::proxy::{
    Cut, Duplicate, Ending, Fault, FaultEvent, FaultPlan, FaultProxy, Late, Limits, Reached, Which,
};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(20);

// ---- The server -------------------------------------------------------------------------------------------

/// What the server has read: whole requests, and how many broke off.
#[derive(Default)]
struct Seen {
    requests: Vec<(String, Vec<u8>)>,
    broken: Vec<Vec<u8>>,
    connections: usize,
}

struct Server {
    addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (books, stopping) = (Arc::clone(&seen), Arc::clone(&stop));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let (books, stream) = (Arc::clone(&books), stream.unwrap());
                books.lock().unwrap().connections += 1;
                thread::spawn(move || serve(&stream, &books));
            }
        });
        Self { addr, seen, stop }
    }

    fn bodies(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.requests.iter().map(|(_, body)| String::from_utf8_lossy(body).into_owned()).collect()
    }

    fn wait(&self, what: impl Fn(&Seen) -> bool) {
        let start = Instant::now();
        while !what(&self.seen.lock().unwrap()) {
            assert!(start.elapsed() < LONG, "the server waits in vain");
            thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
    }
}

fn serve(stream: &TcpStream, books: &Mutex<Seen>) {
    stream.set_nodelay(true).unwrap();
    let mut pending = Vec::new();
    loop {
        let Some((head, body)) = read_message(stream, &mut pending) else {
            if !pending.is_empty() {
                books.lock().unwrap().broken.push(pending);
            }
            return;
        };
        let number = {
            let mut seen = books.lock().unwrap();
            seen.requests.push((head.clone(), body.clone()));
            seen.requests.len()
        };
        let results: Vec<Value> = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|body| body["tasks"].as_array().cloned())
            .unwrap_or_default()
            .iter()
            .map(|task| json!({"key": task["key"], "status": "applied"}))
            .collect();
        let json = json!({"protocol": 1, "number": number, "results": results}).to_string();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let length = json.len();
        let reply = match path {
            "/until-end" => format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{json}"),
            "/chunked" => {
                let (a, b) = json.split_at(length / 2);
                let (x, y) = (a.len(), b.len());
                format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{x:x}\r\n{a}\r\n{y:X};e=1\r\n{b}\r\n0\r\nT: x\r\n\r\n"
                )
            }
            "/interim" => format!(
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{json}"
            ),
            "/refuse" => "HTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
            "/silent" => return,
            "/garbage" => "SSH-2.0-nothing\r\n\r\n".to_owned(),
            _ if head.starts_with("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n".to_owned(),
            _ => format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
            ),
        };
        if (&*stream).write_all(reply.as_bytes()).is_err() || path == "/until-end" {
            return;
        }
    }
}

// ---- HTTP, just enough ------------------------------------------------------------------------------------

/// Reads one message; `None` if the connection ends first, with what came in `pending`.
fn read_message(mut stream: &TcpStream, pending: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let mut buf = [0; 65536];
    loop {
        if let Some(at) = find(pending, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&pending[..at + 4]).into_owned();
            let lower = head.to_ascii_lowercase();
            let rest = &pending[at + 4..];
            let size = if lower.contains("transfer-encoding: chunked") {
                // The last chunk, then trailers, then an empty line.
                let last = if rest.starts_with(b"0\r\n") {
                    Some(1)
                } else {
                    find(rest, b"\r\n0\r\n").map(|at| at + 3)
                };
                last.and_then(|at| find(&rest[at..], b"\r\n\r\n").map(|end| at + end + 4))
            } else {
                let value = lower.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
                Some(value.map_or(0, |value| value.parse().unwrap())).filter(|size| rest.len() >= *size)
            };
            if let Some(size) = size {
                let body = rest[..size].to_vec();
                pending.drain(..at + 4 + size);
                return Some((head, body));
            }
        }
        match stream.read(&mut buf) {
            Ok(0) | Err(_) => return None,
            Ok(n) => pending.extend_from_slice(&buf[..n]),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn post(path: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

const THREE: &str = r#"{"tasks":[{"key":"a"},{"key":"b"},{"key":"c"}]}"#;

fn send(mut stream: &TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
}

/// Sends a request and reads a whole reply, leaving the connection open.
fn ask(stream: &TcpStream, bytes: &[u8]) -> (String, Vec<u8>) {
    send(stream, bytes);
    read_message(stream, &mut Vec::new()).expect("a whole reply")
}

/// Reads until the connection ends: everything that came, and how it ended.
fn drain(mut stream: &TcpStream) -> (Vec<u8>, Ending) {
    let (mut all, mut buf) = (Vec::new(), [0; 65536]);
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return (all, Ending::Close),
            Ok(n) => all.extend_from_slice(&buf[..n]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return (all, Ending::Reset),
            Err(error) => panic!("neither end nor reset: {error}"),
        }
    }
}

fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn keys(body: &[u8]) -> Vec<String> {
    json(body)["results"].as_array().unwrap().iter().map(|r| r["key"].as_str().unwrap().to_owned()).collect()
}

type Events = Arc<Mutex<Vec<FaultEvent>>>;

fn start(server: &Server, plan: impl Into<FaultPlan>) -> (FaultProxy, Events) {
    let proxy = FaultProxy::start(server.addr, plan.into(), 7).unwrap();
    let events = record(&proxy);
    (proxy, events)
}

fn record(proxy: &FaultProxy) -> Events {
    let events = Events::default();
    let books = Arc::clone(&events);
    proxy.on_event(move |event| books.lock().unwrap().push(event.clone()));
    events
}

fn only(events: &Events) -> FaultEvent {
    let events = events.lock().unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    events[0].clone()
}

/// Runs something that must not hang.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(work()));
    told.recv_timeout(limit).expect("it hangs")
}

// ---- Passing ----------------------------------------------------------------------------------------------

#[test]
fn without_faults_the_bytes_pass_as_they_are() {
    let server = Server::start();
    let (proxy, events) = start(&server, FaultPlan::healthy());
    let client = connect(proxy.addr());
    let (head, body) = ask(&client, &post("/sync?x=1", THREE));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"), "{head}");
    assert_eq!(keys(&body), ["a", "b", "c"]);
    assert_eq!(server.bodies(), [THREE]);
    assert_eq!(
        server.seen.lock().unwrap().requests[0].0,
        "POST /sync?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 47\r\n\r\n"
    );
    let event = only(&events);
    assert_eq!((event.number, event.name(), event.effective, event.copies), (1, "pass", true, 1));
    assert_eq!((event.reached, event.reached.applied()), (Reached::Answered { status: 200 }, Some(true)));
    assert_eq!(event.to_string(), "#1 POST /sync?x=1: pass, upstream said 200");

    let stats = proxy.stats();
    assert_eq!((stats.requests, stats.forwarded, stats.faults_total(), stats.connections), (1, 1, 0, 1));
    assert_eq!(stats.bytes_from_upstream, (head.len() + body.len()) as u64);
    let start = Instant::now();
    while proxy.stats().bytes_to_clients != stats.bytes_from_upstream {
        assert!(start.elapsed() < LONG, "{:?}", proxy.stats());
        thread::yield_now();
    }
    assert_eq!(stats.bytes_to_upstream, post("/sync?x=1", THREE).len() as u64);
}

#[test]
fn every_framing_passes_and_keeps_the_connection_where_it_can() {
    let server = Server::start();
    let (proxy, _) = start(&server, FaultPlan::healthy());
    let client = connect(proxy.addr());
    let chunked =
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    ask(&client, chunked);
    assert!(ask(&client, &post("/chunked", THREE)).1.ends_with(b"0\r\nT: x\r\n\r\n"));
    assert!(ask(&client, &post("/interim", THREE)).0.starts_with("HTTP/1.1 200"));
    assert!(ask(&client, &post("/refuse", THREE)).0.starts_with("HTTP/1.1 422"));
    ask(&client, b"GET /changes?cursor=1 HTTP/1.1\r\n\r\n");
    send(&client, b"HEAD / HTTP/1.1\r\n\r\n");
    let mut head = [0; 39];
    (&client).read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n");
    // One byte at a time.
    for byte in post("/", "slow") {
        send(&client, &[byte]);
    }
    read_message(&client, &mut Vec::new()).unwrap();
    // Two at once.
    send(&client, &[post("/", "one"), post("/", "two")].concat());
    let mut pending = Vec::new();
    read_message(&client, &mut pending).unwrap();
    read_message(&client, &mut pending).unwrap();
    assert_eq!((proxy.stats().connections, server.seen.lock().unwrap().connections), (1, 1));
    // Delimited by its end.
    send(&client, &post("/until-end", THREE));
    let (bytes, ending) = drain(&client);
    assert!(bytes.ends_with(b"}") && ending == Ending::Close);
    let client = connect(proxy.addr());
    send(&client, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(drain(&client).1, Ending::Close);
    assert_eq!(server.bodies()[0], "5;x\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
}

#[test]
fn megabytes_pass() {
    let server = Server::start();
    let (proxy, _) = start(&server, FaultPlan::healthy());
    let big = "x".repeat(12_345_678);
    let client = connect(proxy.addr());
    ask(&client, &post("/", &big));
    ask(&client, &post("/", "after"));
    assert!(server.bodies() == [big, "after".to_owned()]);
}

#[test]
fn a_client_that_expects_100_continue_gets_it() {
    let server = Server::start();
    let (proxy, _) = start(&server, Fault::ReorderedResults);
    let client = connect(proxy.addr());
    let head = format!("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n", THREE.len());
    let (interim, _) = ask(&client, head.as_bytes());
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    let (_, body) = ask(&client, THREE.as_bytes());
    assert_eq!(keys(&body), ["c", "b", "a"]);
    assert_eq!(server.bodies(), [THREE]);
    assert!(!server.seen.lock().unwrap().requests[0].0.contains("Expect"));
}

#[test]
fn a_thousand_requests_on_one_connection_are_fast() {
    let server = Server::start();
    let (proxy, _) = start(&server, FaultPlan::healthy());
    let client = connect(proxy.addr());
    let start = Instant::now();
    for _ in 0..1_000 {
        ask(&client, &post("/", THREE));
    }
    let spent = start.elapsed();
    assert!(spent < Duration::from_secs(2), "{spent:?}");
    assert_eq!((proxy.stats().forwarded, server.seen.lock().unwrap().connections), (1_000, 1));
}

// ---- Lost and broken requests and replies -----------------------------------------------------------------

#[test]
fn reset_on_accept_forwards_nothing() {
    let server = Server::start();
    let (proxy, events) = start(&server, Fault::ResetOnAccept);
    for request in [post("/", THREE), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let client = connect(proxy.addr());
        send(&client, &request);
        assert_eq!(drain(&client), (Vec::new(), Ending::Reset));
    }
    assert!(server.bodies().is_empty());
    assert_eq!(events.lock().unwrap()[1].reached.applied(), Some(false));
    assert_eq!(proxy.stats().count("reset_on_accept"), 2);
}

#[test]
fn drop_reply_applies_and_says_nothing() {
    for end in [Ending::Close, Ending::Reset] {
        let server = Server::start();
        let (proxy, events) = start(&server, Fault::DropReplyAfterApply { end });
        let client = connect(proxy.addr());
        send(&client, &post("/", THREE));
        assert_eq!(drain(&client), (Vec::new(), end));
        assert_eq!(server.bodies(), [THREE]);
        assert_eq!(only(&events).reached.applied(), Some(true));
    }
}

#[test]
fn an_orderly_close_is_not_followed_by_a_reset() {
    let server = Server::start();
    for fault in [
        Fault::DropReplyAfterApply { end: Ending::Close },
        Fault::CutReply { at: Cut::Seeded, end: Ending::Close },
        Fault::StallMidReply { ms: 1 },
        Fault::GarbageBytes,
    ] {
        let (proxy, _) = start(&server, fault);
        for request in [post("/", THREE), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
            let client = connect(proxy.addr());
            send(&client, &request);
            assert_eq!(drain(&client).1, Ending::Close);
            // A reset behind the end would be the socket's pending error. It has to be given time to come.
            thread::sleep(Duration::from_millis(30));
            assert!(client.take_error().unwrap().is_none(), "{fault:?}");
        }
    }
}

#[test]
fn cut_reply_sends_a_prefix_that_the_seed_chooses() {
    let server = Server::start();
    let whole = {
        let (proxy, _) = start(&server, FaultPlan::healthy());
        let (head, body) = ask(&connect(proxy.addr()), b"GET /refuse HTTP/1.1\r\n\r\n");
        [head.into_bytes(), body].concat()
    };
    let body_at = find(&whole, b"\r\n\r\n").unwrap() + 4;
    for end in [Ending::Close, Ending::Reset] {
        for (at, least, most) in [
            (Cut::At(0), 0, 0),
            (Cut::At(10), 10, 10),
            (Cut::At(1_000_000), whole.len() - 1, whole.len() - 1),
            (Cut::Seeded, 1, whole.len() - 1),
            (Cut::InBody, body_at, whole.len() - 1),
        ] {
            let run = |seed| {
                let plan = FaultPlan::always(Fault::CutReply { at, end });
                let proxy = FaultProxy::start(server.addr, plan, seed).unwrap();
                let lengths = (0..8).map(|_| {
                    let client = connect(proxy.addr());
                    send(&client, b"GET /refuse HTTP/1.1\r\n\r\n");
                    let (bytes, ending) = drain(&client);
                    assert!(whole.starts_with(&bytes) && (least..=most).contains(&bytes.len()), "{at:?}");
                    assert_eq!(ending, end);
                    bytes.len()
                });
                lengths.collect::<Vec<_>>()
            };
            assert_eq!(run(1), run(1), "{at:?}");
            assert!(at != Cut::Seeded || run(1) != run(2));
        }
    }
}

#[test]
fn cut_request_shows_the_server_a_beginning() {
    for (at, end) in
        [(Cut::Seeded, Ending::Close), (Cut::InBody, Ending::Reset), (Cut::At(20), Ending::Close)]
    {
        let server = Server::start();
        let (proxy, events) = start(&server, Fault::CutRequest { at, end });
        let client = connect(proxy.addr());
        send(&client, &post("/", THREE));
        assert_eq!(drain(&client), (Vec::new(), end));
        server.wait(|seen| !seen.broken.is_empty());
        let broken = server.seen.lock().unwrap().broken[0].clone();
        assert!(post("/", THREE).starts_with(&broken) && broken.len() < post("/", THREE).len());
        assert!(server.bodies().is_empty());
        assert_eq!(only(&events).reached, Reached::Part);
        assert_eq!(proxy.stats().forwarded, 0);
    }
}

#[test]
fn a_stalled_reply_stops_in_the_body_until_its_time_is_over() {
    let server = Server::start();
    let (proxy, _) = start(&server, Fault::StallMidReply { ms: 300 });
    let client = connect(proxy.addr());
    let start = Instant::now();
    send(&client, &post("/", THREE));
    let (bytes, ending) = drain(&client);
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(ending, Ending::Close);
    let body_at = find(&bytes, b"\r\n\r\n").unwrap() + 4;
    assert!(serde_json::from_slice::<Value>(&bytes[body_at..]).is_err());
    assert_eq!(server.bodies(), [THREE]);
}

#[test]
fn delays_wait_before_or_after_the_server() {
    let server = Server::start();
    for (fault, reached_at_once) in [(Fault::Delay { ms: 300 }, false), (Fault::DelayReply { ms: 300 }, true)]
    {
        let before = server.bodies().len();
        let (proxy, events) = start(&server, fault);
        let client = connect(proxy.addr());
        let start = Instant::now();
        send(&client, &post("/", THREE));
        if reached_at_once {
            server.wait(|seen| seen.requests.len() > before);
            assert!(start.elapsed() < Duration::from_millis(250), "slow machine, or the wrong side waits");
        }
        read_message(&client, &mut Vec::new()).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(300));
        assert!(only(&events).effective);
    }
}

// ---- False replies ----------------------------------------------------------------------------------------

#[test]
fn made_up_replies_are_what_they_are_named() {
    let table: [(Fault, &str, &str, usize); 11] = [
        (Fault::Status500 { applied: false }, "HTTP/1.1 500 ", "problem+json", 0),
        (Fault::Status500 { applied: true }, "HTTP/1.1 500 ", "problem+json", 1),
        (Fault::Status503WithRetryAfter { seconds: 7 }, "HTTP/1.1 503 ", "\r\nRetry-After: 7\r\n", 0),
        (Fault::Status503WithRetryAfterDate { seconds: 7 }, "HTTP/1.1 503 ", " GMT\r\nContent-Length", 0),
        (Fault::Status429 { retry_after_s: Some(3) }, "HTTP/1.1 429 ", "\r\nRetry-After: 3\r\n", 0),
        (Fault::Status429 { retry_after_s: None }, "HTTP/1.1 429 ", "problem+json", 0),
        (Fault::CaptivePortal, "HTTP/1.1 200 OK", "text/html", 0),
        (Fault::Redirect302, "HTTP/1.1 302 Found", "\r\nLocation: http://portal.invalid/", 0),
        (Fault::Empty200 { applied: false }, "HTTP/1.1 200 OK", "json\r\nContent-Length: 0\r\n", 0),
        (Fault::Empty200 { applied: true }, "HTTP/1.1 200 OK", "json\r\nContent-Length: 0\r\n", 1),
        (Fault::WrongJson, "HTTP/1.1 200 OK", "application/json", 0),
    ];
    for (fault, status, part, applied) in table {
        let server = Server::start();
        let (proxy, events) = start(&server, fault);
        let client = connect(proxy.addr());
        for _ in 0..2 {
            let (head, _) = ask(&client, &post("/", THREE));
            assert!(head.starts_with(status) && head.contains(part), "{fault:?}: {head}");
            assert!(head.contains("\r\nDate: "));
        }
        assert_eq!(server.bodies().len(), applied * 2, "{fault:?}");
        for event in events.lock().unwrap().iter() {
            assert_eq!((event.reached.applied(), event.effective), (Some(applied > 0), true), "{fault:?}");
        }
        assert_eq!(proxy.stats().count(fault.name()), 2);
        send(&client, b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n");
        let (bytes, _) = drain(&client);
        assert!(bytes.ends_with(b"\r\n\r\n"), "{fault:?} answers HEAD with a body");
    }
}

#[test]
fn edited_replies_come_from_the_server_whatever_its_framing() {
    let server = Server::start();
    for path in ["/", "/chunked", "/until-end"] {
        let reply = |fault: Fault| {
            let (proxy, events) = start(&server, fault);
            let (head, body) = ask(&connect(proxy.addr()), &post(path, THREE));
            let event = only(&events);
            assert!(event.effective && event.reached.applied() == Some(true), "{event:?}");
            assert_eq!(head.to_ascii_lowercase().matches("content-length").count(), 1);
            assert!(!head.contains("chunked"));
            body
        };
        assert_eq!(keys(&reply(Fault::ReorderedResults)), ["c", "b", "a"]);
        assert!(keys(&reply(Fault::MissingResults)).len() < 3);
        let foreign = keys(&reply(Fault::ForeignResults));
        assert!(foreign.len() == 3 && foreign.iter().all(|key| key.starts_with("foreign-")));
        let short = reply(Fault::TruncatedJson);
        assert!(!short.is_empty() && serde_json::from_slice::<Value>(&short).is_err());
    }
}

#[test]
fn an_edit_that_finds_nothing_to_edit_lets_pass_and_says_so() {
    let server = Server::start();
    for (fault, path) in [
        (Fault::MissingResults, "/refuse"),
        (Fault::TruncatedJson, "/refuse"),
        (Fault::ForeignResults, "/no-tasks"),
    ] {
        let (proxy, events) = start(&server, fault);
        let (_, body) = ask(&connect(proxy.addr()), &post(path, "{}"));
        json(&body);
        assert!(!only(&events).effective);
    }
}

#[test]
fn a_reply_to_be_edited_is_asked_for_uncompressed() {
    let server = Server::start();
    let (proxy, _) = start(&server, FaultPlan::script([Some(Fault::MissingResults)]));
    let client = connect(proxy.addr());
    let request = b"GET / HTTP/1.1\r\nAccept-Encoding: gzip, zstd\r\nX: y\r\n\r\n";
    ask(&client, request);
    ask(&client, request);
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.requests[0].0, "GET / HTTP/1.1\r\nX: y\r\n\r\n");
    assert_eq!(seen.requests[1].0.as_bytes(), request);
}

#[test]
fn a_huge_body_streams_until_the_client_hangs_up() {
    for declared in [None, Some(10_000_000_000)] {
        let server = Server::start();
        let (proxy, _) = start(&server, Fault::HugeBody { declared });
        let mut client = connect(proxy.addr());
        send(&client, &post("/", THREE));
        let mut first = vec![0; 8 << 20];
        client.read_exact(&mut first).unwrap();
        let text = String::from_utf8_lossy(&first[..400]);
        assert!(text.contains("application/json"), "{text}");
        assert!(text.contains("{\"protocol\":1,\"results\":[") && text.contains("\"key\":\"more\""));
        assert_eq!(text.contains("Content-Length: 10000000000"), declared.is_some());
        drop(client);
        assert!(proxy.stats().bytes_to_clients < 64 << 20);
        assert!(server.bodies().is_empty());
        within(Duration::from_secs(3), move || drop(proxy));
    }
}

#[test]
fn a_declared_huge_body_ends_where_it_says() {
    let server = Server::start();
    let (proxy, _) = start(&server, Fault::HugeBody { declared: Some(200_000) });
    let client = connect(proxy.addr());
    send(&client, &post("/", THREE));
    let (bytes, ending) = drain(&client);
    assert_eq!(bytes.len() - find(&bytes, b"\r\n\r\n").unwrap() - 4, 200_000);
    assert_eq!(ending, Ending::Close);
}

#[test]
fn garbage_is_not_http() {
    let server = Server::start();
    let (proxy, _) = start(&server, Fault::GarbageBytes);
    let client = connect(proxy.addr());
    send(&client, &post("/", THREE));
    let (bytes, ending) = drain(&client);
    assert!(bytes.len() > 64 && !bytes.starts_with(b"HTTP") && ending == Ending::Close);
}

// ---- Duplicates -------------------------------------------------------------------------------------------

#[test]
fn a_duplicate_reaches_the_server_twice() {
    for how in [Duplicate::Sequential, Duplicate::Concurrent] {
        for answer in [Which::First, Which::Second] {
            let server = Server::start();
            let (proxy, events) = start(&server, Fault::DuplicateRequest { how, answer });
            let (_, body) = ask(&connect(proxy.addr()), &post("/", THREE));
            assert_eq!(server.bodies(), [THREE, THREE]);
            let event = only(&events);
            assert_eq!((event.copies, event.effective), (2, true));
            let connections = server.seen.lock().unwrap().connections;
            match how {
                Duplicate::Sequential => {
                    assert_eq!(json(&body)["number"], if answer == Which::First { 1 } else { 2 });
                    assert_eq!(connections, 1);
                }
                Duplicate::Concurrent => assert_eq!(connections, 2),
            }
        }
    }
}

#[test]
fn a_late_duplicate_comes_after_further_requests() {
    let server = Server::start();
    let late = Fault::LateDuplicate { after: Late::Requests(2) };
    let (proxy, events) = start(&server, FaultPlan::script([Some(late)]));
    let client = connect(proxy.addr());
    ask(&client, &post("/", "first"));
    ask(&client, &post("/", "second"));
    assert_eq!((server.bodies().len(), proxy.stats().late_waiting), (2, 1));
    ask(&client, &post("/", "third"));
    server.wait(|seen| seen.requests.len() == 4);
    assert_eq!(server.bodies().iter().filter(|body| *body == "first").count(), 2);
    assert!(proxy.flush_late(LONG));
    let events = events.lock().unwrap();
    let copy = events.iter().find(|event| event.late_copy).unwrap();
    assert_eq!((copy.number, copy.copies, copy.reached.applied()), (1, 1, Some(true)));
    assert_eq!((proxy.stats().late_sent, proxy.stats().late_waiting, proxy.stats().forwarded), (1, 0, 4));
}

#[test]
fn a_late_duplicate_comes_after_a_time_or_when_flushed() {
    let server = Server::start();
    let (proxy, _) = start(&server, Fault::LateDuplicate { after: Late::Millis(100) });
    let start_at = Instant::now();
    ask(&connect(proxy.addr()), &post("/", THREE));
    server.wait(|seen| seen.requests.len() == 2);
    assert!(start_at.elapsed() >= Duration::from_millis(100));

    proxy.set_plan(FaultPlan::always(Fault::LateDuplicate { after: Late::Millis(u64::MAX) }));
    for _ in 0..5 {
        ask(&connect(proxy.addr()), &post("/", THREE));
    }
    assert_eq!(proxy.stats().late_waiting, 5);
    assert!(proxy.flush_late(LONG));
    assert_eq!(server.bodies().len(), 12);
}

#[test]
fn late_copies_are_bounded() {
    let server = Server::start();
    let mut limits = Limits::default();
    limits.late_copies_max = 2;
    let plan = FaultPlan::always(Fault::LateDuplicate { after: Late::Requests(1_000) });
    let proxy = FaultProxy::start_with(server.addr, plan, 1, limits).unwrap();
    let events = record(&proxy);
    for _ in 0..3 {
        ask(&connect(proxy.addr()), &post("/", THREE));
    }
    let effective: Vec<_> = events.lock().unwrap().iter().map(|event| event.effective).collect();
    assert_eq!(effective, [true, true, false]);
}

// ---- Plans ------------------------------------------------------------------------------------------------

#[test]
fn the_same_seed_makes_the_same_run_and_another_seed_another() {
    let server = Server::start();
    let run = |seed| {
        let proxy = FaultProxy::start(server.addr, FaultPlan::rough(), seed).unwrap();
        let events = record(&proxy);
        let mut bytes = Vec::new();
        for _ in 0..150 {
            let client = connect(proxy.addr());
            send(&client, b"POST /refuse HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}");
            let (got, ending) = drain(&client);
            // The date differs from run to run.
            let text = String::from_utf8_lossy(&got).into_owned();
            let kept: Vec<_> =
                text.lines().filter(|line| !line.starts_with("Date:")).map(str::to_owned).collect();
            bytes.push((kept, ending));
        }
        let events = events.lock().unwrap();
        let events: Vec<_> = events.iter().filter(|event| !event.late_copy).cloned().collect();
        (events, bytes)
    };
    let first = run(5);
    assert_eq!(first, run(5));
    assert_ne!(first.0, run(6).0);
    let names: std::collections::BTreeSet<_> = first.0.iter().map(FaultEvent::name).collect();
    assert!(names.len() > 12, "{names:?}");
}

#[test]
fn a_script_is_followed_and_a_scope_is_kept() {
    let server = Server::start();
    let plan =
        FaultPlan::script([Some(Fault::CaptivePortal), None, Some(Fault::Status500 { applied: false })])
            .only(|request| request.method == "POST");
    let (proxy, events) = start(&server, plan);
    let client = connect(proxy.addr());
    for _ in 0..4 {
        ask(&client, &post("/", THREE));
        ask(&client, b"GET / HTTP/1.1\r\n\r\n");
    }
    let names: Vec<_> = events.lock().unwrap().iter().map(FaultEvent::name).collect();
    assert_eq!(names, ["captive_portal", "pass", "pass", "pass", "status_500", "pass", "pass", "pass"]);
    // A new plan starts at its first line.
    proxy.set_plan(FaultPlan::script([Some(Fault::WrongJson)]));
    ask(&client, &post("/", THREE));
    ask(&client, &post("/", THREE));
    assert_eq!((proxy.stats().count("wrong_json"), proxy.stats().requests), (1, 10));
    proxy.set_plan(FaultPlan::by(|request| (request.path == "/bad").then_some(Fault::CaptivePortal)));
    assert!(ask(&client, &post("/good", THREE)).0.contains("json"));
    assert!(ask(&client, &post("/bad", THREE)).0.contains("html"));
}

// ---- The network and the server come and go ---------------------------------------------------------------

#[test]
fn offline_refuses_and_cuts_and_comes_back_on_the_same_port() {
    let server = Server::start();
    let (proxy, _) = start(&server, FaultPlan::healthy());
    let client = connect(proxy.addr());
    ask(&client, &post("/", THREE));
    for _ in 0..20 {
        let idle = connect(proxy.addr());
        ask(&idle, &post("/", THREE));
        proxy.set_offline(true).unwrap();
        proxy.set_offline(true).unwrap();
        drain(&idle);
        let refused = TcpStream::connect(proxy.addr()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        proxy.set_offline(false).unwrap();
        ask(&connect(proxy.addr()), &post("/", THREE));
    }
    drain(&client);
}

#[test]
fn going_offline_cuts_what_is_waited_for_but_not_what_is_under_way() {
    let server = Server::start();
    let (proxy, events) = start(&server, Fault::Delay { ms: 100 });
    let client = connect(proxy.addr());
    send(&client, &post("/", THREE));
    let start = Instant::now();
    while proxy.stats().requests == 0 {
        assert!(start.elapsed() < LONG);
        thread::yield_now();
    }
    proxy.set_offline(true).unwrap();
    assert!(drain(&client).0.is_empty());
    server.wait(|seen| seen.requests.len() == 1);
    let start = Instant::now();
    while events.lock().unwrap().is_empty() {
        assert!(start.elapsed() < LONG);
        thread::yield_now();
    }
    assert_eq!(only(&events).reached.applied(), Some(true));
}

#[test]
fn a_server_that_moved_or_is_gone() {
    let (old, new) = (Server::start(), Server::start());
    let (proxy, events) = start(&old, FaultPlan::healthy());
    let client = connect(proxy.addr());
    ask(&client, &post("/", "one"));
    proxy.set_upstream(new.addr);
    ask(&client, &post("/", "two"));
    assert_eq!((old.bodies(), new.bodies()), (vec!["one".to_owned()], vec!["two".to_owned()]));

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    proxy.set_upstream(nobody);
    send(&client, &post("/", "three"));
    assert_eq!(drain(&client), (Vec::new(), Ending::Reset));
    let event = events.lock().unwrap().pop().unwrap();
    assert_eq!((event.reached, event.effective), (Reached::Nothing, false));
    proxy.set_upstream(new.addr);
    for path in ["/silent", "/garbage"] {
        let client = connect(proxy.addr());
        send(&client, &post(path, "four"));
        assert_eq!(drain(&client), (Vec::new(), Ending::Reset));
        let event = events.lock().unwrap().pop().unwrap();
        assert_eq!((event.reached, event.reached.applied()), (Reached::Whole, None));
    }
    // None of them was sent again behind the client's back.
    assert_eq!(new.bodies(), ["two", "four", "four"]);
    assert_eq!(proxy.stats().upstream_failures, 3);
}

#[test]
fn a_server_that_closed_an_idle_connection_costs_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = FaultProxy::start(listener.local_addr().unwrap(), FaultPlan::healthy(), 1).unwrap();
    let server = thread::spawn(move || {
        for _ in 0..3 {
            // Says that the connection stays, and closes it.
            let (mut stream, _) = listener.accept().unwrap();
            read_message(&stream, &mut Vec::new()).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    let client = connect(proxy.addr());
    for _ in 0..3 {
        ask(&client, &post("/", THREE));
        // The close has to arrive before the next request does, or it is a lost reply like any other.
        thread::sleep(Duration::from_millis(30));
    }
    server.join().unwrap();
}

// ---- Odd peers, and the end -------------------------------------------------------------------------------

#[test]
fn odd_clients_are_turned_away_and_hurt_nobody() {
    let server = Server::start();
    let mut limits = Limits::default();
    limits.message_bytes_max = 100_000;
    limits.head_bytes_max = 2_000;
    let proxy = FaultProxy::start_with(server.addr, FaultPlan::healthy(), 1, limits).unwrap();
    let huge_head = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 5_000]].concat();
    let huge_chunks =
        [b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n".to_vec(), vec![b'x'; 200_000]];
    let odd: Vec<(Vec<u8>, &str)> = vec![
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n".to_vec(), "HTTP/1.1 400"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_vec(), "HTTP/1.1 400"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(), "HTTP/1.1 400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n".to_vec(), "HTTP/1.1 413"),
        (huge_head, "HTTP/1.1 413"),
    ];
    for (bytes, expected) in &odd {
        let client = connect(proxy.addr());
        send(&client, bytes);
        let (got, _) = drain(&client);
        assert!(got.starts_with(expected.as_bytes()), "{expected}: {}", String::from_utf8_lossy(&got));
    }
    let client = connect(proxy.addr());
    let _ = (&client).write_all(&huge_chunks.concat());
    drain(&client);
    // Those that leave: before, in the head, in the body, before the reply.
    drop(connect(proxy.addr()));
    for part in [&b"POST / HT"[..], b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nhal", &post("/", "gone")] {
        let client = connect(proxy.addr());
        send(&client, part);
        drop(client);
    }
    ask(&connect(proxy.addr()), &post("/", "fine"));
    assert_eq!(proxy.stats().bad_requests, odd.len() as u64 + 1);
    within(Duration::from_secs(3), move || drop(proxy));
}

#[test]
fn too_many_connections_are_closed_as_they_come() {
    let server = Server::start();
    let mut limits = Limits::default();
    limits.connections_max = 3;
    let proxy = FaultProxy::start_with(server.addr, FaultPlan::healthy(), 1, limits).unwrap();
    let clients: Vec<_> = (0..3).map(|_| connect(proxy.addr())).collect();
    for client in &clients {
        ask(client, &post("/", THREE));
    }
    assert!(drain(&connect(proxy.addr())).0.is_empty());
    assert_eq!((proxy.stats().connections, proxy.stats().connections_refused), (3, 1));
}

#[test]
fn many_clients_at_once() {
    let server = Server::start();
    let (proxy, _) = start(&server, FaultPlan::healthy());
    let addr = proxy.addr();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(move || {
                let client = connect(addr);
                for _ in 0..50 {
                    ask(&client, &post("/", THREE));
                }
            });
        }
    });
    assert_eq!((proxy.stats().requests, proxy.stats().forwarded), (800, 800));
}

#[test]
fn dropping_does_not_hang_whatever_goes_on() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    for (fault, request) in [
        (None, Vec::new()),
        (None, b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nhal".to_vec()),
        // The upstream never answers.
        (None, post("/", THREE)),
        (Some(Fault::Delay { ms: 1_000_000 }), post("/", THREE)),
        (Some(Fault::HugeBody { declared: None }), post("/", THREE)),
        (Some(Fault::LateDuplicate { after: Late::Millis(0) }), post("/", THREE)),
        (
            Some(Fault::DuplicateRequest { how: Duplicate::Concurrent, answer: Which::First }),
            post("/", THREE),
        ),
    ] {
        let plan = fault.map_or(FaultPlan::healthy(), FaultPlan::always);
        let proxy = FaultProxy::start(deaf.local_addr().unwrap(), plan, 1).unwrap();
        let client = connect(proxy.addr());
        send(&client, &request);
        thread::sleep(Duration::from_millis(50));
        within(Duration::from_secs(3), move || drop(proxy));
        let _ = drain(&client);
    }
    let server = Server::start();
    let (proxy, _) = start(&server, Fault::StallMidReply { ms: 1_000_000 });
    let client = connect(proxy.addr());
    send(&client, &post("/", THREE));
    let mut first = [0; 20];
    (&client).read_exact(&mut first).unwrap();
    within(Duration::from_secs(3), move || drop(proxy));
    let (proxy, _) = start(&server, FaultPlan::healthy());
    proxy.set_offline(true).unwrap();
    within(Duration::from_secs(3), move || proxy.stop());
}

#[cfg(target_os = "linux")]
#[test]
fn no_socket_outlives_the_proxy() {
    // Other tests run beside this one in the same process, so the proxy's sockets are told by their port.
    let server = Server::start();
    let addr = {
        let (proxy, _) = start(&server, FaultPlan::rough());
        for _ in 0..100 {
            let client = connect(proxy.addr());
            send(&client, &post("/", THREE));
            let _ = (&client).read(&mut [0; 10]);
        }
        proxy.addr()
    };
    let refused = TcpStream::connect(addr).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    // 0A: listening. 01: established. The local port is the one in hexadecimal.
    let port = format!(":{:04X} ", addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let left = table.lines().filter(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, _, state) = (words.next().unwrap_or(""), words.next(), words.next());
        format!("{local} ").ends_with(&port) && matches!(state, Some("0A" | "01"))
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn an_observer_that_panics_costs_one_connection() {
    let server = Server::start();
    let (proxy, _) = start(&server, FaultPlan::healthy());
    proxy.on_event(|event| assert_ne!(event.number, 1, "a test's own panic, expected in its output"));
    let client = connect(proxy.addr());
    send(&client, &post("/", THREE));
    assert!(drain(&client).0.is_empty());
    ask(&connect(proxy.addr()), &post("/", THREE));
    within(Duration::from_secs(3), move || drop(proxy));
}
