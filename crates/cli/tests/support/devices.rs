//! Devices that share a server: each is a `--db` file and the commands on it.

use crate::support::{Ran, Scratch, Server, run};
use serde_json::Value;

/// A device with a queue file of its own.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) db: String,
    pub(crate) endpoint: String,
}

impl Device {
    pub(crate) fn new(scratch: &Scratch, name: &str, server: &Server) -> Self {
        Self { db: scratch.text(name), endpoint: server.endpoint() }
    }

    /// Any command on this device's queue.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        run(args.iter().copied().chain(["--db", self.db.as_str()]))
    }

    #[track_caller]
    pub(crate) fn enqueue(&self, args: &[&str]) -> Ran {
        run(["enqueue"].into_iter().chain(args.iter().copied()).chain(["--db", self.db.as_str()])).ends(0)
    }

    /// A sync with JSON, however it ends.
    pub(crate) fn try_sync(&self, more: &[&str]) -> Ran {
        let args = ["sync", "--create", "--json", "--endpoint", self.endpoint.as_str()];
        run(args.into_iter().chain(more.iter().copied()).chain(["--db", self.db.as_str()]))
    }

    /// A sync that ends with everything done.
    #[track_caller]
    pub(crate) fn sync(&self, more: &[&str]) -> Value {
        self.try_sync(more).ends(0).json()
    }

    /// What the app sees of a record.
    #[track_caller]
    pub(crate) fn get(&self, kind: &str, id: &str) -> Value {
        self.run(&["get", kind, id, "--json"]).ends(0).json()
    }

    /// The fields that the app sees.
    #[track_caller]
    pub(crate) fn fields(&self, kind: &str, id: &str) -> Value {
        self.get(kind, id)["fields"].clone()
    }

    /// The conflicts that wait, or with `--all` every one.
    #[track_caller]
    pub(crate) fn conflicts(&self, more: &[&str]) -> Vec<Value> {
        let args: Vec<&str> = ["conflicts", "list", "--json"].iter().chain(more).copied().collect();
        self.run(&args).ends(0).json()["conflicts"].as_array().unwrap().clone()
    }

    /// The id of the one conflict that waits.
    #[track_caller]
    pub(crate) fn open_conflict(&self) -> String {
        let open = self.conflicts(&[]);
        assert_eq!(open.len(), 1, "{open:?}");
        open[0]["conflict"].as_str().unwrap().to_owned()
    }
}
