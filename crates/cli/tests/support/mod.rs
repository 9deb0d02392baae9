//! What the end-to-end tests share: the real binary, a real server process, and the server's database read directly.
//!
//! No test shares a file or a port with another; everything a test starts ends with it.
#![allow(dead_code, reason = "each test file uses another part")]

pub(crate) mod agents;
pub(crate) mod devices;
pub(crate) mod portal;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The binary under test.
pub(crate) const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall");

/// A folder that goes when it is dropped, unless the test failed.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Not below the home folder: some tests run the binary as another user.
        let path = std::env::temp_dir().join(format!("landfall-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file and gives back its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.text(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.0.display());
        } else {
            drop(fs::remove_dir_all(&self.0));
        }
    }
}

/// The binary, deaf to the settings of whoever runs the tests.
pub(crate) fn landfall() -> Command {
    command(LANDFALL)
}

pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in [
        "LANDFALL_DB",
        "LANDFALL_AS",
        "LANDFALL_MODEL",
        "LANDFALL_SERVER_DB",
        "LANDFALL_ENDPOINT",
        "LANDFALL_LOG",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "NO_COLOR",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// The one JSON object on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "one line of JSON expected: {self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// A local error that says this.
    #[track_caller]
    pub(crate) fn fails(self, fragment: &str) -> Self {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(self.err.contains("error:"), "{self:?}");
        assert!(self.err.contains(fragment), "wanted {fragment:?} in {self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        self
    }
}

pub(crate) fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Ran {
    landfall().args(args).output().unwrap().into()
}

/// `run!["status", "--db", &db]` with anything that is a string.
#[macro_export]
macro_rules! run {
    ($($arg:expr),* $(,)?) => { $crate::support::run([$(::std::ffi::OsStr::new($arg)),*]) };
}

/// The counts of `landfall status`.
#[track_caller]
pub(crate) fn status(db: &str) -> Value {
    run(["status", "--json", "--db", db]).ends(0).json()
}

/// Pending, in flight, unknown, conflict, dead.
#[track_caller]
pub(crate) fn counts(db: &str) -> [u64; 5] {
    let status = status(db);
    ["pending", "in_flight", "unknown", "conflict", "dead"].map(|name| status[name].as_u64().unwrap())
}

/// A `landfall serve` process.
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
    pub(crate) db: PathBuf,
}

impl Server {
    pub(crate) fn start(db: PathBuf) -> Self {
        Self::start_with(db, &[])
    }

    pub(crate) fn start_with(db: PathBuf, more: &[&str]) -> Self {
        let mut command = landfall();
        command.args(["serve", "--json", "--listen", "127.0.0.1:0", "--db"]).arg(&db).args(more);
        Self::of(command, db)
    }

    /// `kill -9`, and another one on the same database at the same address.
    pub(crate) fn kill_and_start_again(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        let mut command = landfall();
        command.args(["serve", "--json", "--listen", &self.addr.to_string(), "--db"]).arg(&self.db);
        *self = Self::of(command, self.db.clone());
    }

    /// Likewise, of a command that is ready.
    pub(crate) fn of(mut command: Command, db: PathBuf) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let listening: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let addr = listening["address"].as_str().unwrap().parse().unwrap();
        Self { child, addr, db }
    }

    pub(crate) fn endpoint(&self) -> String {
        endpoint(self.addr)
    }

    /// Stops it as a person would, so that the database is whole and closed.
    pub(crate) fn stop(mut self) -> PathBuf {
        signal("INT", self.child.id());
        let status = wait(&mut self.child, Duration::from_secs(15)).expect("the server stops at Ctrl-C");
        assert!(status.success(), "{status}");
        self.db.clone()
    }

    /// One GET; status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn endpoint(addr: SocketAddr) -> String {
    format!("http://{addr}/sync")
}

/// Whether permissions do not bind this process.
pub(crate) fn is_root() -> bool {
    let uid = Command::new("id").arg("-u").output().unwrap();
    String::from_utf8_lossy(&uid.stdout).trim() == "0"
}

/// Sends a signal by name. The workspace has no unsafe code, so the system's own command does it.
pub(crate) fn signal(name: &str, pid: u32) {
    drop(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status());
}

/// Waits for a process, but not for ever.
pub(crate) fn wait(child: &mut Child, at_most: Duration) -> Option<std::process::ExitStatus> {
    let until = Instant::now() + at_most;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a server stored, read without any of our code.
pub(crate) struct Stored {
    /// Live records: (type, id) → fields as the exact text.
    pub(crate) records: BTreeMap<(String, String), String>,
    /// Tasks that took effect.
    pub(crate) effects: u64,
    /// Different tasks among them.
    pub(crate) tasks: u64,
    /// Tasks that were refused or met a conflict.
    pub(crate) others: u64,
    /// How often any record changed.
    pub(crate) version: u64,
}

impl Stored {
    pub(crate) fn read(db: &Path) -> Self {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags(db, flags).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        let number = |sql: &str| -> u64 {
            let mut statement = connection.prepare(sql).unwrap();
            let mut rows = statement.query([]).unwrap();
            rows.next().unwrap().map_or(0, |row| row.get::<_, i64>(0).unwrap() as u64)
        };
        let mut statement = connection
            .prepare("SELECT entity_type, entity_id, fields FROM records WHERE fields IS NOT NULL")
            .unwrap();
        let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?))).unwrap();
        Self {
            records: rows.map(Result::unwrap).collect(),
            effects: number("SELECT count(*) FROM seen WHERE status = 0"),
            tasks: number("SELECT count(DISTINCT task_id) FROM seen WHERE status = 0"),
            others: number("SELECT count(*) FROM seen WHERE status <> 0"),
            version: number("SELECT coalesce(max(version), 0) FROM tenants"),
        }
    }

    /// The ids of the live records of one tenant, by type.
    pub(crate) fn of_tenant(db: &Path, tenant: &str) -> Vec<(String, String)> {
        let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        let mut statement = connection
            .prepare(
                "SELECT entity_type, entity_id FROM records JOIN tenants ON tenants.id = records.tenant
                 WHERE tenants.name = ?1 AND fields IS NOT NULL ORDER BY entity_type, entity_id",
            )
            .unwrap();
        let rows = statement.query_map([tenant], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// Every task took effect once, and no record changed beside that.
    #[track_caller]
    pub(crate) fn has_one_effect_per_task(&self) {
        assert_eq!(self.effects, self.tasks, "a task took effect under two keys");
        assert_eq!(self.version, self.effects, "a record changed more often than tasks took effect");
        assert_eq!(self.others, 0, "a task was refused");
    }

    /// Whether this task took effect.
    pub(crate) fn task_took_effect(db: &Path, task: &str) -> bool {
        let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let mut statement =
            connection.prepare("SELECT 1 FROM seen WHERE status = 0 AND task_id = ?1").unwrap();
        statement.exists([task]).unwrap()
    }
}

/// Repeatable numbers; the seed is printed by whoever fails.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// The seed of a run: `LANDFALL_SEED`, or a fixed one so that a red build can be repeated.
pub(crate) fn seed() -> u64 {
    std::env::var("LANDFALL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_123)
}

/// A change as a line of `--file`.
pub(crate) fn line(entity_type: &str, entity_id: &str, operation: &str, fields: &Value) -> String {
    serde_json::json!({
        "entity_type": entity_type, "entity_id": entity_id, "operation": operation, "fields": fields
    })
    .to_string()
}
