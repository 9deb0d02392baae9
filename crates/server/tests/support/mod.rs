//! Helpers of the tests: both storages behind one face, folders that vanish, and a small HTTP client.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use landfall_protocol::{ChangesPage, Problem, PushRequest, PushResponse, Record, TaskResult};
use landfall_server::state::{self, MemoryRecords, Policy};
use landfall_server::{Limits, Refusal, SqliteOptions, SqliteStore, Submission};
use serde_json::{Value, json};

/// A folder that is removed with its value.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("landfall-server-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("server.db")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The rules over one of the two storages.
pub(crate) enum Backend {
    Memory(Box<MemoryRecords>, std::sync::Arc<dyn Policy>),
    Sqlite(SqliteStore, tokio::runtime::Runtime, Folder),
}

impl Backend {
    pub(crate) fn both() -> [Self; 2] {
        Self::both_with(std::sync::Arc::new(landfall_server::NoPolicy))
    }

    pub(crate) fn both_with(policy: std::sync::Arc<dyn Policy>) -> [Self; 2] {
        let folder = Folder::new();
        let store = SqliteStore::open(folder.database(), SqliteOptions { policy: policy.clone() }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        [Self::Memory(Box::new(MemoryRecords::new("db")), policy), Self::Sqlite(store, runtime, folder)]
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Memory(..) => "memory",
            Self::Sqlite(..) => "sqlite",
        }
    }

    /// Pushes a body as it would arrive over HTTP.
    pub(crate) fn push_json(&mut self, body: &Value) -> Result<PushResponse, Problem> {
        let submission = Submission::from_json(body.to_string().as_bytes(), &Limits::default())?;
        match self {
            Self::Memory(records, policy) => state::push_with(records.as_mut(), policy.as_ref(), &submission),
            Self::Sqlite(store, ..) => store.push_blocking("default", submission),
        }
        .map_err(Refusal::into_problem)
    }

    pub(crate) fn push(&mut self, request: PushRequest) -> Result<PushResponse, Problem> {
        self.push_json(&serde_json::to_value(request).unwrap())
    }

    /// Pushes tasks of client `c` and gives the results in the order of the tasks.
    pub(crate) fn tasks(&mut self, tasks: &[Value]) -> Vec<TaskResult> {
        let body = json!({"protocol": 1, "client_id": "c", "client_epoch": 1, "tasks": tasks});
        self.push_json(&body).unwrap().results
    }

    pub(crate) fn one(&mut self, task: Value) -> TaskResult {
        self.tasks(&[task]).remove(0)
    }

    pub(crate) fn changes(&self, cursor: Option<&str>, limit: usize) -> Result<ChangesPage, Problem> {
        match self {
            Self::Memory(records, _) => state::changes(records.as_ref(), cursor, limit, 1 << 20),
            Self::Sqlite(store, runtime, _) => {
                runtime.block_on(store.changes("default", cursor.map(str::to_owned), limit, 1 << 20))
            }
        }
        .map_err(Refusal::into_problem)
    }

    pub(crate) fn entity(&self, entity_type: &str, entity_id: &str) -> Result<Record, Problem> {
        match self {
            Self::Memory(records, _) => state::entity(records.as_ref(), entity_type, entity_id),
            Self::Sqlite(store, runtime, _) => {
                runtime.block_on(store.entity("default", entity_type.to_owned(), entity_id.to_owned()))
            }
        }
        .map_err(Refusal::into_problem)
    }

    /// The fields of `note/n` as JSON text, `-` for a tombstone, `` for nothing.
    pub(crate) fn note(&self) -> String {
        match self.entity("note", "n") {
            Ok(record) => record.fields.map_or("-".to_owned(), |fields| fields.to_json()),
            Err(problem) if problem.status == 404 => String::new(),
            Err(problem) => panic!("{problem}"),
        }
    }
}

/// A task for `note/n`; `more` is laid over it.
pub(crate) fn task(key: &str, operation: &str, more: Value) -> Value {
    let mut task = json!({
        "key": key, "task_id": format!("task-{key}"), "entity_type": "note", "entity_id": "n", "operation": operation,
    });
    for (name, value) in more.as_object().unwrap() {
        task[name] = value.clone();
    }
    task
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Problem = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        problem
    }
}

/// One request on a connection of its own.
pub(crate) fn call(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses early may close before it has read everything.
    let _ = stream.write_all(body);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    read_answer(&String::from_utf8(text).unwrap())
}

fn read_answer(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Answer { status, headers, body: body.to_owned() }
}

pub(crate) fn post(addr: SocketAddr, body: &Value) -> Answer {
    post_as(addr, None, body)
}

pub(crate) fn post_as(addr: SocketAddr, token: Option<&str>, body: &Value) -> Answer {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(bearer.iter().map(|bearer| ("Authorization", bearer.as_str())));
    call(addr, "POST", "/sync", &headers, body.to_string().as_bytes())
}

/// A push of client `c` at first contact.
pub(crate) fn first_push(tasks: &[Value]) -> Value {
    json!({"protocol": 1, "client_id": "c", "client_epoch": 1, "tasks": tasks})
}
