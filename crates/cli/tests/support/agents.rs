//! `landfall agent` processes, what they say, and patience with a bound.

use super::{counts, landfall, run, signal, wait};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// An agent that ends with the test.
pub(crate) struct Agent {
    pub(crate) child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Agent {
    /// Starts one with `--json` and waits until it says that it runs.
    pub(crate) fn start(db: &str, endpoint: &str, more: &[&str]) -> Self {
        let agent = Self::spawn(db, endpoint, more);
        agent.hears("started", Duration::from_secs(20));
        agent
    }

    /// Starts one and waits for nothing.
    pub(crate) fn spawn(db: &str, endpoint: &str, more: &[&str]) -> Self {
        let mut command = landfall();
        command.args(["agent", "--json", "--db", db, "--endpoint", endpoint]).args(more);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (said, out) = (Arc::clone(&lines), BufReader::new(child.stdout.take().unwrap()));
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                said.lock().unwrap().push(value);
            }
        });
        Self { child, lines }
    }

    /// All that it said so far.
    pub(crate) fn said(&self) -> Vec<Value> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for the first line of this kind.
    #[track_caller]
    pub(crate) fn hears(&self, event: &str, within: Duration) -> Value {
        let found = || self.said().into_iter().find(|line| line["event"] == event);
        until(within, || found().is_some(), || format!("{event}: {:?}", self.said()));
        found().unwrap()
    }

    /// Asks it to end, and says how it did.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        signal("TERM", self.child.id());
        wait(&mut self.child, Duration::from_secs(15)).expect("the agent ends at SIGTERM")
    }

    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until something is so, and says how long that took.
#[track_caller]
pub(crate) fn until(within: Duration, is_so: impl Fn() -> bool, what: impl Fn() -> String) -> Duration {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < within, "not within {within:?}: {}", what());
        thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}

/// Waits until the queue is empty.
#[track_caller]
pub(crate) fn until_empty(db: &str, within: Duration) -> Duration {
    until(within, || counts(db) == [0; 5], || format!("{:?}", counts(db)))
}

/// One `landfall enqueue` process; the task's id.
#[track_caller]
pub(crate) fn enqueue(db: &str, id: &str, fields: &str) -> String {
    let ran = run(["enqueue", "--json", "--db", db, "note", id, "create", fields]).ends(0);
    ran.json()["task"].as_str().unwrap().to_owned()
}

/// The reasons that `landfall explain` gives.
#[track_caller]
pub(crate) fn reasons(db: &str, task: &str) -> Vec<String> {
    let shown = run(["explain", "--json", "--db", db, task]).ends(0).json();
    let waits = shown["waits_for"].as_array().unwrap();
    waits.iter().map(|wait| wait["reason"].as_str().unwrap().to_owned()).collect()
}
