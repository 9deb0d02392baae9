//! What spans and events tell of a whole life, at level trace, in engine, adapter and server: numbers, kinds, addresses,
//! and nothing secret (G17).
//!
//! The subscriber is of the whole process, so all of it is one test; it takes down every span and event of every crate.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall::adapters::SyncEndpoint;
use landfall::adapters::http::auth::BearerToken;
use landfall::core::machine::SessionEnd;
use landfall::core::model::TypeModel;
use landfall::sqlite::SqliteStore;
use landfall::{Change, Engine, Model};
use landfall_server::{Auth, Policy, Server, ServerOptions};
use std::fmt::{self, Write as _};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const TOKEN: &str = "token-canary-0123456789";
const PIN: &str = "pin-canary-4711";
const TITLE: &str = "title-canary";

/// Takes down everything as one line each: spans with their numbers and parents, events, fields recorded later.
#[derive(Clone, Default)]
struct Capture {
    lines: Arc<Mutex<Vec<String>>>,
    spans: Arc<AtomicU64>,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Capture {
    fn put(&self, line: Line) {
        self.lines.lock().unwrap().push(line.0);
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Everything that was said of spans with this name, one text for each.
    fn spans(&self, name: &str) -> Vec<String> {
        let lines = self.lines();
        let opened = |line: &&String| line.starts_with("span ") && line.split(' ').nth(2) == Some(name);
        let of = |span: &String| {
            let number = span.split(' ').nth(1).unwrap();
            let later = format!("more {number} ");
            lines.iter().filter(|line| *line == span || line.starts_with(&later)).cloned().collect::<String>()
        };
        lines.iter().filter(opened).map(of).collect()
    }
}

impl Subscriber for Capture {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.spans.fetch_add(1, Ordering::SeqCst) + 1;
        let meta = span.metadata();
        let parent = span.parent().map_or(0, Id::into_u64);
        let mut line =
            Line(format!("span {id} {} in={parent} {} {}", meta.name(), meta.level(), meta.target()));
        span.record(&mut line);
        self.put(line);
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut line = Line(format!("more {} ", span.into_u64()));
        values.record(&mut line);
        self.put(line);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("event {} {}", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        self.put(line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Refuses every pin, and repeats it.
#[derive(Debug)]
struct NoPins;

impl Policy for NoPins {
    fn check(
        &self,
        _tenant: &str,
        task: &landfall_protocol::Task,
        _current: Option<&landfall_protocol::Fields>,
    ) -> Result<(), landfall_protocol::ErrorDetail> {
        match task.fields.contains("pin") && task.entity_id != "fine" {
            true => Err(landfall_protocol::ErrorDetail::new(
                PIN,
                format!("{PIN} is no good: {}", task.fields.to_json()),
            )),
            false => Ok(()),
        }
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("landfall-traces-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn engine(folder: &Folder, name: &str, endpoint: &str) -> Engine {
    let store = SqliteStore::open(folder.0.join(name)).unwrap();
    let backend = SyncEndpoint::builder(endpoint).headers(BearerToken::new(TOKEN)).build().unwrap();
    let of_note = TypeModel { sensitive: ["pin".to_owned()].into(), ..TypeModel::default() };
    let model = Model { types: [("note".to_owned(), of_note)].into(), ..Model::default() };
    Engine::builder(store, backend).model(model).build_blocking().unwrap()
}

fn note(id: &str) -> Change {
    Change::create("note", id).set("title", TITLE).set("pin", PIN)
}

/// A backend that answers everything with a problem that repeats the whole request, headers and body.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/sync", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut request = Vec::new();
            let _ = stream.read_to_end(&mut request);
            // The body is a JSON text of JSON texts; the words in question pass through as they are.
            let words: String = String::from_utf8_lossy(&request)
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == ' ')
                .collect();
            assert!(words.contains(PIN) || !words.contains("POST"), "{words}");
            let body = format!(
                r#"{{"type":"urn:x","title":"t","status":503,"code":"unavailable","detail":"{PIN} {TITLE} {words}"}}"#
            );
            let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nConnection: close";
            let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    endpoint
}

#[test]
fn spans_tell_what_was_done_and_nothing_secret_is_in_any_trace() {
    let capture = Capture::default();
    tracing::subscriber::set_global_default(capture.clone()).unwrap();
    let folder = Folder::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let auth = Auth::from_text(&format!("{TOKEN} tenant-canary\n")).unwrap();
    let options = ServerOptions { auth, policy: Arc::new(NoPins), ..ServerOptions::default() };
    let server = runtime.block_on(async {
        let addr = ([127, 0, 0, 1], 0).into();
        Server::bind(addr, folder.0.join("server.db"), options).await.unwrap().spawn()
    });

    // One task is taken, one is refused for good, and everything is read back, in pages and by name.
    let device = engine(&folder, "device.db", server.endpoint());
    device.enqueue_many_blocking(vec![note("fine"), note("refused")]).unwrap();
    device.import_blocking([Ok::<_, String>(note("imported"))]).unwrap();
    let report = device.sync_blocking().unwrap();
    assert_eq!((report.applied, report.dead), (1, 2), "{report:?}");
    // Twice: from the beginning, and from a cursor.
    assert!(report.pulled + device.sync_blocking().unwrap().pulled > 0);
    device.sync_blocking().unwrap();
    device.close();
    // A stranger, and a backend that repeats in its refusal what it was sent.
    let stranger =
        SyncEndpoint::builder(server.endpoint()).headers(BearerToken::new("token-canary-of-a-stranger"));
    let store = SqliteStore::open(folder.0.join("stranger.db")).unwrap();
    let stranger = Engine::builder(store, stranger.build().unwrap()).build_blocking().unwrap();
    stranger.enqueue_blocking(note("fine")).unwrap();
    assert_eq!(stranger.sync_blocking().unwrap().applied, 0);
    stranger.close();
    let repeated = engine(&folder, "echo.db", &echo());
    repeated.enqueue_blocking(note("echoed")).unwrap();
    let report = repeated.sync_until_blocking(SessionEnd::OnePass).unwrap();
    assert_eq!(report.applied, 0, "{report:?}");
    repeated.close();
    runtime.block_on(server.stop());

    for line in capture.lines() {
        for secret in [PIN, TITLE, TOKEN, "canary", "earer"] {
            assert!(!line.contains(secret), "{secret} in {line}");
        }
        assert!(!line.contains("cursor="), "{line}");
    }
    the_right_things_are_told(&capture);
}

fn the_right_things_are_told(capture: &Capture) {
    let runs = capture.spans("landfall_sync");
    assert_eq!(runs.len(), 5, "{runs:#?}");
    assert!(
        runs[0].contains("applied=1") && runs[0].contains("dead=2") && runs[0].contains("left=2"),
        "{runs:#?}"
    );
    let number = |span: &String| span.split(' ').nth(1).unwrap().to_owned();

    let pushes = capture.spans("landfall_push");
    let inside = |span: &String, outer: &String| span.contains(&format!(" in={} ", number(outer)));
    assert!(pushes.iter().all(|push| runs.iter().any(|run| inside(push, run))), "{pushes:#?}");
    assert!(pushes[0].contains("tasks=3") && pushes[0].contains("bytes="), "{pushes:#?}");
    assert!(pushes.iter().all(|push| push.contains("duration_ms=")), "{pushes:#?}");
    assert!(pushes.iter().any(|push| push.contains("failure=\"unauthenticated\"")), "{pushes:#?}");
    assert!(!capture.spans("landfall_pull").is_empty());
    assert!(!capture.spans("landfall_commit").is_empty() && !capture.spans("landfall_turn").is_empty());

    let sent = capture.spans("landfall_http");
    let post = sent.iter().find(|span| span.contains("method=\"POST\"")).unwrap();
    assert!(post.contains("path=\"/sync\"") && post.contains("host=\"127.0.0.1:"), "{post}");
    assert!(post.contains("status=200") && post.contains("duration_ms="), "{post}");
    assert!(sent.iter().any(|span| span.contains("path=\"/sync/changes\"")), "{sent:#?}");
    assert!(sent.iter().any(|span| span.contains("status=503")), "{sent:#?}");

    let taken = capture.spans("landfall_request");
    let first = taken.iter().find(|span| span.contains("route=\"push\"")).unwrap();
    assert!(first.contains("method=\"POST\"") && first.contains("status=200"), "{first}");
    assert!(taken.iter().any(|span| span.contains("status=401") && span.contains("code=\"unauthorized\"")));
}
