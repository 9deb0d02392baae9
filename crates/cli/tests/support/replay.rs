//! A peer on a raw loopback socket that knows the truth (the reference server's own rules over records in memory) and
//! says it, or sends a damaged form of it: another body, another framing, cut anywhere.
#![allow(dead_code, reason = "each test file uses another part")]

use flate2::{Compression, write::GzEncoder};
use landfall_core::id::Entropy;
use landfall_core::time::Now;
use landfall_engine::{Clock, SystemClock};
use landfall_protocol::{Pong, PushRequest, RawValue, code, ping_proof};
use landfall_server::state::{self, MemoryRecords};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The real clock, which can be put forward so that no backoff has to be waited for.
#[derive(Debug)]
pub(crate) struct Forward {
    real: SystemClock,
    by: Arc<AtomicI64>,
}

impl Clock for Forward {
    fn now(&self) -> Now {
        let (mut now, by) = (self.real.now(), self.by.load(Ordering::Relaxed));
        now.wall.0 += by;
        now.mono.0 += by.unsigned_abs();
        now
    }

    fn entropy(&mut self) -> Entropy {
        self.real.entropy()
    }
}

impl Forward {
    pub(crate) fn new(by: &Arc<AtomicI64>) -> Self {
        Self { real: SystemClock::default(), by: Arc::clone(by) }
    }
}

/// How an answer says where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `Content-Length`, right for what is sent: nothing but the content shows a cut.
    Length,
    /// A `Content-Length` above what comes before the connection is closed.
    LengthTooLong,
    /// A `Content-Length` below what comes; the connection stays open and holds the rest.
    LengthTooShort,
    /// Chunks with an end mark.
    Chunked,
    /// Chunks, and then the connection is closed.
    ChunkedNoEnd,
    /// Nothing but the end of the connection.
    Close,
    /// Compressed, with the right length of what is sent.
    Gzip,
    /// Compressed, and the connection is closed before the length is reached.
    GzipTooLong,
    /// Cut anywhere from the first byte of the head on.
    Head,
}

impl Framing {
    pub(crate) const ALL: [Self; 9] = [
        Self::Length,
        Self::LengthTooLong,
        Self::LengthTooShort,
        Self::Chunked,
        Self::ChunkedNoEnd,
        Self::Close,
        Self::Gzip,
        Self::GzipTooLong,
        Self::Head,
    ];

    /// Whether a body that is not cut arrives whole, and is known to be.
    pub(crate) fn can_be_whole(self) -> bool {
        matches!(self, Self::Length | Self::Chunked | Self::Gzip)
    }

    /// The bytes on the wire, and whether the connection stays open after them.
    fn wire(self, status: u16, media: &str, body: &[u8], cut: Option<u64>) -> (Vec<u8>, bool) {
        let packed;
        let whole = match self {
            Self::Gzip | Self::GzipTooLong => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(body).unwrap();
                packed = encoder.finish().unwrap();
                &packed[..]
            }
            _ => body,
        };
        let sent = &whole[..at(cut, whole.len())];
        let head = format!("HTTP/1.1 {status} Said\r\nContent-Type: {media}\r\n");
        let chunks = || {
            let mut out = Vec::new();
            for chunk in sent.chunks(97) {
                out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            out
        };
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        let length =
            |head: &str, length: usize| format!("{head}Content-Length: {length}\r\n\r\n").into_bytes();
        let zipped = format!("{head}Content-Encoding: gzip\r\n");
        match self {
            Self::Length => ([length(&head, sent.len()), sent.to_vec()].concat(), true),
            Self::LengthTooLong => ([length(&head, whole.len() + 7), sent.to_vec()].concat(), false),
            Self::LengthTooShort => {
                let said = if cut.is_some() { sent.len() } else { whole.len() * 3 / 5 };
                ([length(&head, said), whole.to_vec()].concat(), true)
            }
            Self::Chunked => ([chunked, chunks(), b"0\r\n\r\n".to_vec()].concat(), true),
            Self::ChunkedNoEnd => ([chunked, chunks()].concat(), false),
            Self::Close => ([format!("{head}\r\n").into_bytes(), sent.to_vec()].concat(), false),
            Self::Gzip => ([length(&zipped, sent.len()), sent.to_vec()].concat(), true),
            Self::GzipTooLong => ([length(&zipped, whole.len() + 1), sent.to_vec()].concat(), false),
            Self::Head => {
                let all = [length(&head, body.len()), body.to_vec()].concat();
                let end = at(cut.or(Some(1)), all.len());
                (all[..end].to_vec(), false)
            }
        }
    }
}

/// Where something of this length is cut: before its last byte at the latest.
fn at(cut: Option<u64>, length: usize) -> usize {
    cut.map_or(length, |cut| usize::try_from(cut % (length as u64).max(1)).unwrap())
}

/// What a client may make of a body that came whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// Nothing at all: no task ends, no record comes in, no cursor moves.
    Nothing,
    /// The tasks it names, and no more.
    Some,
    /// Everything.
    All,
}

/// One kind of body: status, media type, bytes from the truth and the request, and what it is worth.
pub(crate) struct Forgery {
    pub(crate) name: &'static str,
    pub(crate) worth: Worth,
    pub(crate) status: u16,
    pub(crate) media: &'static str,
    pub(crate) make: fn(&Said<'_>) -> Vec<u8>,
}

/// What a body is made from.
pub(crate) struct Said<'a> {
    /// What the server would say now.
    pub(crate) truth: &'a [u8],
    /// What it said to the request before.
    pub(crate) before: &'a [u8],
    pub(crate) request: &'a [u8],
}

impl Said<'_> {
    fn value(&self) -> Value {
        serde_json::from_slice(self.truth).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8(self.truth.to_vec()).unwrap()
    }

    /// The truth with every member of one of its lists changed.
    fn each(&self, list: &str, change: impl Fn(&mut Value)) -> Vec<u8> {
        let mut value = self.value();
        value[list].as_array_mut().unwrap().iter_mut().for_each(change);
        value.to_string().into_bytes()
    }

    fn with(&self, name: &str, to: Value) -> Vec<u8> {
        let mut value = self.value();
        value[name] = to;
        value.to_string().into_bytes()
    }

    fn without(&self, name: &str) -> Vec<u8> {
        let mut value = self.value();
        value.as_object_mut().unwrap().remove(name);
        value.to_string().into_bytes()
    }
}

const JSON: &str = "application/json";
const PAGE: &[u8] = b"<!doctype html><html><body>{\"protocol\":1,\"results\":[]} Please log in</body></html>";

const fn forged(name: &'static str, worth: Worth, make: fn(&Said<'_>) -> Vec<u8>) -> Forgery {
    Forgery { name, worth, status: 200, media: JSON, make }
}

const fn sent_as(name: &'static str, status: u16, media: &'static str) -> Forgery {
    Forgery { name, worth: Worth::Nothing, status, media, make: |said| said.truth.to_vec() }
}

fn problem(said: u16, code: &str) -> Vec<u8> {
    json!({"type": format!("urn:landfall:problem:{code}"), "title": "no", "status": said, "code": code, "detail": "d"})
        .to_string()
        .into_bytes()
}

fn pretty(said: &Said<'_>) -> Vec<u8> {
    serde_json::to_string_pretty(&said.value()).unwrap().replace('\n', "\r\n").into_bytes()
}

/// Answers to a push. The first two are the truth.
#[rustfmt::skip]
pub(crate) const PUSHES: &[Forgery] = &[
    forged("the truth", Worth::All, |said| said.truth.to_vec()),
    forged("the truth in lines", Worth::All, pretty),
    forged("a page as JSON", Worth::Nothing, |_| PAGE.to_vec()),
    Forgery { name: "a page", worth: Worth::Nothing, status: 200, media: "text/html", make: |_| PAGE.to_vec() },
    forged("nothing", Worth::Nothing, |_| Vec::new()),
    forged("null", Worth::Nothing, |_| b"null".to_vec()),
    forged("an empty object", Worth::Nothing, |_| b"{}".to_vec()),
    forged("no results", Worth::Nothing, |said| said.with("results", json!([]))),
    forged("results left out", Worth::Nothing, |said| said.without("results")),
    forged("results null", Worth::Nothing, |said| said.with("results", Value::Null)),
    forged("results by key", Worth::Nothing, |said| said.with("results", json!({"a": {"status": "applied"}}))),
    forged("two answers in a row", Worth::Nothing, |said| [said.truth, said.truth].concat()),
    forged("every result twice", Worth::All, |said| {
        let results = said.value()["results"].as_array().unwrap().clone();
        said.with("results", Value::Array([results.clone(), results].concat()))
    }),
    forged("results in another order", Worth::All, |said| {
        let mut results = said.value()["results"].as_array().unwrap().clone();
        results.reverse();
        said.with("results", Value::Array(results))
    }),
    forged("the last result left out", Worth::Some, |said| {
        let mut results = said.value()["results"].as_array().unwrap().clone();
        results.pop();
        said.with("results", Value::Array(results))
    }),
    forged("results that contradict each other", Worth::Nothing, |said| {
        let results = said.value()["results"].as_array().unwrap().clone();
        let others = results.iter().map(|one| json!({"key": one["key"], "status": "retry"}));
        said.with("results", Value::Array(others.chain(results.iter().cloned()).collect()))
    }),
    forged("results for the request before", Worth::Nothing, |said| said.before.to_vec()),
    forged("keys off by one digit", Worth::Nothing, |said| said.each("results", |one| {
        let key = one["key"].as_str().unwrap();
        let last = if key.ends_with('0') { '1' } else { '0' };
        one["key"] = json!(format!("{}{last}", &key[..key.len() - 1]));
    })),
    forged("cut keys", Worth::Nothing, |said| said.each("results", |one| {
        one["key"] = json!(one["key"].as_str().unwrap()[..8]);
    })),
    forged("numbers as keys", Worth::Nothing, |said| said.each("results", |one| one["key"] = json!(7))),
    forged("results without keys", Worth::Nothing, |said| said.each("results", |one| {
        one.as_object_mut().unwrap().remove("key");
    })),
    forged("keys exchanged for task ids", Worth::Nothing, |said| {
        let request: Value = serde_json::from_slice(said.request).unwrap();
        let results = request["tasks"].as_array().unwrap().iter();
        said.with("results", results.map(|task| json!({"key": task["task_id"], "status": "applied"})).collect())
    }),
    forged("the request itself", Worth::Nothing, |said| said.request.to_vec()),
    forged("statuses in capitals", Worth::Nothing, |said| said.each("results", |one| one["status"] = json!("APPLIED"))),
    forged("no statuses", Worth::Nothing, |said| said.each("results", |one| one["status"] = Value::Null)),
    forged("statuses as lists", Worth::Nothing, |said| said.each("results", |one| one["status"] = json!(["applied"]))),
    forged("send it again", Worth::Nothing, |said| said.each("results", |one| {
        *one = json!({"key": one["key"], "status": "retry", "retry_after_ms": u64::MAX});
    })),
    forged("empty versions", Worth::Nothing, |said| said.each("results", |one| one["version"] = json!(""))),
    forged("a version of 5,000 bytes", Worth::Nothing, |said| said.each("results", |one| one["version"] = json!("9".repeat(5000)))),
    forged("numbers as versions", Worth::Nothing, |said| said.each("results", |one| one["version"] = json!(u64::MAX))),
    forged("a huge number as protocol", Worth::Nothing, |said| said.text().replacen("\"protocol\":1", "\"protocol\":1e400", 1).into_bytes()),
    forged("twenty digits as protocol", Worth::Nothing, |said| said.text().replacen("\"protocol\":1", "\"protocol\":10000000000000000001", 1).into_bytes()),
    forged("another protocol", Worth::Nothing, |said| said.with("protocol", json!(2))),
    forged("no protocol", Worth::Nothing, |said| said.without("protocol")),
    forged("a server without a name", Worth::Nothing, |said| said.with("server_id", json!(""))),
    forged("deep nesting", Worth::Nothing, |said| said.text().replacen("\"results\":[", &format!("\"results\":[{}", "[".repeat(100_000)), 1).into_bytes()),
    // A member that nobody knows is nobody's business, however deep it is.
    forged("deep nesting in a result", Worth::All, |said| {
        let deep = format!("{{\"deep\":{}{},\"key\"", "[".repeat(20_000), "]".repeat(20_000));
        said.text().replace("{\"key\"", &deep).into_bytes()
    }),
    forged("results twice", Worth::Nothing, |said| said.text().replacen("\"results\":", "\"results\":[],\"results\":", 1).into_bytes()),
    forged("statuses twice", Worth::Nothing, |said| said.text().replace("\"status\":", "\"status\":\"rejected\",\"status\":").into_bytes()),
    forged("keys twice", Worth::Nothing, |said| said.text().replace("\"key\":", "\"key\":\"k\",\"key\":").into_bytes()),
    forged("a byte order mark", Worth::Nothing, |said| [b"\xef\xbb\xbf", said.truth].concat()),
    forged("a NUL behind it", Worth::Nothing, |said| [said.truth, b"\0"].concat()),
    forged("a NUL before it", Worth::Nothing, |said| [b"\0", said.truth].concat()),
    forged("a NUL inside", Worth::Nothing, |said| said.text().replacen("\"key\":\"", "\"key\":\"\0", 9).into_bytes()),
    forged("bytes that are no UTF-8", Worth::Nothing, |said| {
        let at = said.truth.len() - 1;
        [&said.truth[..at], b",\"note\":\"\xff\xfe\"}"].concat()
    }),
    forged("half a character", Worth::Nothing, |said| {
        let at = said.truth.len() - 1;
        [&said.truth[..at], b",\"note\":\"\xc3\"}"].concat()
    }),
    forged("UTF-16", Worth::Nothing, |said| said.text().encode_utf16().flat_map(u16::to_le_bytes).collect()),
    forged("in a list", Worth::Nothing, |said| [b"[", said.truth, b"]"].concat()),
    forged("as a string", Worth::Nothing, |said| Value::String(said.text()).to_string().into_bytes()),
    forged("single quotes", Worth::Nothing, |said| said.text().replace('"', "'").into_bytes()),
    forged("a comment behind it", Worth::Nothing, |said| [said.truth, b"<!-- cached -->"].concat()),
    sent_as("the truth as text", 200, "text/plain"),
    sent_as("the truth as a problem", 200, "application/problem+json"),
    sent_as("the truth with 201", 201, JSON),
    sent_as("the truth with 203", 203, JSON),
    sent_as("the truth with 206", 206, JSON),
    sent_as("the truth with 302", 302, JSON),
    sent_as("the truth with 500", 500, JSON),
    sent_as("the truth with 503", 503, JSON),
    sent_as("the truth with 599", 599, JSON),
    Forgery { name: "a problem 500", worth: Worth::Nothing, status: 500, media: "application/problem+json", make: |_| problem(500, code::UNAVAILABLE) },
    Forgery { name: "a problem with 200", worth: Worth::Nothing, status: 200, media: "application/problem+json", make: |_| problem(400, code::MALFORMED) },
    Forgery { name: "a gateway's 400", worth: Worth::Nothing, status: 400, media: "text/html", make: |_| PAGE.to_vec() },
    Forgery { name: "a gateway's 404", worth: Worth::Nothing, status: 404, media: "text/html", make: |_| PAGE.to_vec() },
];

/// Pages of the feed. The first two are the truth.
#[rustfmt::skip]
pub(crate) const PULLS: &[Forgery] = &[
    forged("the truth", Worth::All, |said| said.truth.to_vec()),
    forged("the truth in lines", Worth::All, pretty),
    forged("a page as JSON", Worth::Nothing, |_| PAGE.to_vec()),
    Forgery { name: "a page", worth: Worth::Nothing, status: 200, media: "text/html", make: |_| PAGE.to_vec() },
    forged("nothing", Worth::Nothing, |_| Vec::new()),
    forged("null", Worth::Nothing, |_| b"null".to_vec()),
    forged("an empty object", Worth::Nothing, |_| b"{}".to_vec()),
    forged("no end mark", Worth::Nothing, |said| said.without("has_more")),
    forged("an end mark of null", Worth::Nothing, |said| said.with("has_more", Value::Null)),
    forged("no cursor", Worth::Nothing, |said| said.without("cursor")),
    forged("an empty cursor", Worth::Nothing, |said| said.with("cursor", json!(""))),
    forged("a cursor of 5,000 bytes", Worth::Nothing, |said| said.with("cursor", json!("c".repeat(5000)))),
    forged("a number as cursor", Worth::Nothing, |said| said.with("cursor", json!(7))),
    forged("no changes", Worth::Nothing, |said| said.without("changes")),
    forged("changes null", Worth::Nothing, |said| said.with("changes", Value::Null)),
    forged("two pages in a row", Worth::Nothing, |said| [said.truth, said.truth].concat()),
    forged("changes twice", Worth::Nothing, |said| said.text().replacen("\"changes\":", "\"changes\":[],\"changes\":", 1).into_bytes()),
    forged("cursors twice", Worth::Nothing, |said| said.text().replacen("\"cursor\":", "\"cursor\":\"x\",\"cursor\":", 1).into_bytes()),
    forged("deep nesting", Worth::Nothing, |said| said.text().replacen("\"changes\":[", &format!("\"changes\":[{}", "[".repeat(100_000)), 1).into_bytes()),
    forged("a byte order mark", Worth::Nothing, |said| [b"\xef\xbb\xbf", said.truth].concat()),
    forged("a NUL behind it", Worth::Nothing, |said| [said.truth, b"\0"].concat()),
    forged("bytes that are no UTF-8", Worth::Nothing, |said| {
        let at = said.truth.len() - 1;
        [&said.truth[..at], b",\"note\":\"\xff\"}"].concat()
    }),
    sent_as("the truth as text", 200, "text/plain"),
    sent_as("the truth with 206", 206, JSON),
    sent_as("the truth with 500", 500, JSON),
    sent_as("the truth with 302", 302, JSON),
];

/// One way to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) forgery: usize,
    pub(crate) framing: Framing,
    /// Where it is cut; `None` for whole.
    pub(crate) cut: Option<u64>,
    /// Whether the request takes effect, as far as it can.
    pub(crate) applied: bool,
}

impl Case {
    /// What an answer is worth when everything is seen.
    pub(crate) fn worth(&self, of: &[Forgery]) -> Worth {
        if self.cut.is_none() && self.framing.can_be_whole() {
            of[self.forgery].worth
        } else {
            Worth::Nothing
        }
    }

    pub(crate) fn describe(&self, of: &[Forgery]) -> String {
        let Self { framing, cut, applied, .. } = self;
        format!("{}, {framing:?}, cut {cut:?}, applied {applied}", of[self.forgery].name)
    }
}

/// What the peer does with requests of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) push: Option<Case>,
    pub(crate) pull: Option<Case>,
    pub(crate) fetch: Option<Case>,
    pub(crate) ping: Option<Case>,
    /// Whether each request is answered with the answer to the request before it, as on a connection that is out of step.
    pub(crate) behind: bool,
}

/// What the peer knows and saw.
pub(crate) struct Books {
    pub(crate) records: MemoryRecords,
    pub(crate) plan: Plan,
    /// Damaged answers sent.
    pub(crate) damaged: u64,
    pub(crate) pushes: u64,
    /// What a client did that it must not.
    pub(crate) broken: Vec<String>,
    /// Key to task, exactly as sent.
    bytes: HashMap<String, String>,
    /// Task to the key of its attempts so far.
    keys: HashMap<String, String>,
    before: Vec<u8>,
    late: Option<Vec<u8>>,
}

pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    books: Arc<Mutex<Books>>,
}

#[derive(serde::Deserialize)]
struct Tasks<'a> {
    #[serde(borrow)]
    tasks: Vec<&'a RawValue>,
}

#[derive(serde::Deserialize)]
struct Named {
    key: String,
    task_id: String,
}

impl Peer {
    pub(crate) fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let books = Arc::new(Mutex::new(Books {
            records: MemoryRecords::new(name),
            plan: Plan::default(),
            damaged: 0,
            pushes: 0,
            broken: Vec::new(),
            bytes: HashMap::new(),
            keys: HashMap::new(),
            before: br#"{"protocol":1,"results":[]}"#.to_vec(),
            late: None,
        }));
        let shared = Arc::downgrade(&books);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(books) = shared.upgrade() else { return };
                thread::spawn(move || serve(stream, &books));
            }
        });
        Self { addr, books }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}/sync", self.addr)
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn plan(&self, plan: Plan) {
        self.books().plan = plan;
    }

    /// Another client's change.
    pub(crate) fn other(&self, key: &str, entity: &str, operation: &str, number: u64) {
        let request = json!({"protocol": 1, "client_id": "other", "client_epoch": 1, "tasks": [
            {"key": key, "task_id": key, "entity_type": "note", "entity_id": entity, "operation": operation,
             "fields": {"n": number}}]});
        let request = serde_json::from_value(request).unwrap();
        let answer = state::push(&mut self.books().records, &request).unwrap();
        assert_eq!(answer.results[0].status.as_str(), "applied", "{answer:?}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The acceptor looks whether anybody still wants it.
        let addr = self.addr;
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(TcpStream::connect(addr));
        });
    }
}

fn serve(mut stream: TcpStream, books: &Mutex<Books>) {
    // Nobody waits longer for the next request than this.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = stream.set_nodelay(true);
    while let Some((line, body)) = request(&mut stream) {
        let (bytes, open) = {
            let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
            let (bytes, open) = books.answer(&line, &body);
            match books.plan.behind {
                true => (books.late.replace(bytes.clone()).unwrap_or(bytes), open),
                false => (bytes, open),
            }
        };
        if stream.write_all(&bytes).is_err() || !open {
            return;
        }
    }
}

fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => seen.extend_from_slice(&buffer[..count]),
        }
    };
    let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(0, |length| length.trim().parse().unwrap());
    let line = String::from_utf8_lossy(&seen[..end]).lines().next()?.to_owned();
    let mut body = seen.split_off(end);
    while body.len() < length {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => body.extend_from_slice(&buffer[..count]),
        }
    }
    Some((line, body))
}

impl Books {
    fn answer(&mut self, line: &str, body: &[u8]) -> (Vec<u8>, bool) {
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let query = |name: &str| {
            let (_, query) = path.split_once('?')?;
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
                .map(ToOwned::to_owned)
        };
        let plan = self.plan;
        let (truth, status, case, of) = if line.starts_with("POST ") {
            self.watch(body, plan.push.is_none() && !plan.behind);
            let mut request: PushRequest = serde_json::from_slice(body).unwrap();
            let mut copy;
            let records = match plan.push {
                Some(case) if !case.applied => {
                    // The client is known from now on, as its answer will have the server's name.
                    let tasks = std::mem::take(&mut request.tasks);
                    drop(state::push(&mut self.records, &request));
                    request.tasks = tasks;
                    copy = self.records.clone();
                    &mut copy
                }
                _ => &mut self.records,
            };
            self.pushes += 1;
            match state::push(records, &request) {
                Ok(answer) => (serde_json::to_vec(&answer).unwrap(), 200, plan.push, PUSHES),
                Err(refusal) => {
                    self.broken.push(format!("refused: {refusal:?}"));
                    return Framing::Length.wire(500, JSON, b"{}", None);
                }
            }
        } else if let Some(nonce) = query("nonce") {
            let pong = Pong { protocol: 1, proof: ping_proof(&nonce), server_id: None };
            (serde_json::to_vec(&pong).unwrap(), 200, plan.ping, PULLS)
        } else if let Some(entity) = path.strip_prefix("/sync/entities/") {
            let (kind, id) = entity.split_once('/').unwrap();
            match state::entity(&self.records, kind, id) {
                Ok(record) => (serde_json::to_vec(&record).unwrap(), 200, plan.fetch, PULLS),
                Err(_) => (problem(404, code::NOT_FOUND), 404, plan.fetch, PULLS),
            }
        } else {
            let limit = query("limit").and_then(|limit| limit.parse().ok()).unwrap_or(100);
            match state::changes(&self.records, query("cursor").as_deref(), limit, 1 << 20) {
                Ok(page) => (serde_json::to_vec(&page).unwrap(), 200, plan.pull, PULLS),
                Err(refusal) => {
                    self.broken.push(format!("refused: {refusal:?}"));
                    return Framing::Length.wire(500, JSON, b"{}", None);
                }
            }
        };
        let Some(case) = case else {
            self.before = truth.clone();
            let media = if status == 200 { JSON } else { "application/problem+json" };
            return Framing::Length.wire(status, media, &truth, None);
        };
        self.damaged += 1;
        let forgery = &of[case.forgery];
        let sent = (forgery.make)(&Said { truth: &truth, before: &self.before, request: body });
        // A cut must not turn a damaged body into the truth.
        let cut = match case.cut {
            Some(cut) if sent[..at(Some(cut), sent.len())] == truth => Some((truth.len() - 1) as u64),
            cut => cut,
        };
        let (status, media) = match case.forgery {
            0 if status != 200 => (status, "application/problem+json"),
            _ => (forgery.status, forgery.media),
        };
        case.framing.wire(status, media, &sent, cut)
    }

    /// The same key always stands before the same bytes, and a task keeps its key until it is honestly answered.
    fn watch(&mut self, body: &[u8], honest: bool) {
        let tasks: Tasks<'_> = serde_json::from_slice(body).unwrap();
        for raw in tasks.tasks {
            let named: Named = serde_json::from_str(raw.get()).unwrap();
            let known = self.bytes.entry(named.key.clone()).or_insert_with(|| raw.get().to_owned());
            if *known != raw.get() {
                self.broken.push(format!("key {} with other bytes: {known} and {raw}", named.key));
            }
            let key = self.keys.entry(named.task_id.clone()).or_insert_with(|| named.key.clone());
            if *key != named.key {
                self.broken.push(format!("task {} under {key} and under {}", named.task_id, named.key));
            }
            if honest {
                self.keys.remove(&named.task_id);
            }
        }
    }
}

/// Repeatable numbers.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}
