//! Two accounts on one device, with a token and a tenant each: whatever becomes of the first one's work when its user
//! leaves, not one record of it reaches the second one's tenant.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers are outside #[test]")]

#[macro_use]
mod support;

use landfall_testkit::proxy::{FaultPlan, FaultProxy};
use serde_json::{Value, json};
use support::{Ran, Scratch, Server, Stored, endpoint, landfall};

const ALICE: &str = "alice-token-0123456789";
const BOB: &str = "bob-token-0123456789";

struct Device {
    scratch: Scratch,
    server: Server,
    db: String,
}

impl Device {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let tokens = scratch.file("tokens.txt", format!("{ALICE} team-a\n{BOB} team-b\n"));
        let server = Server::start_with(scratch.path("server.db"), &["--token-file", &tokens]);
        let db = scratch.text("q.db");
        Self { scratch, server, db }
    }

    /// A command as one of the two, with that one's token.
    fn run(&self, who: &str, args: &[&str]) -> Ran {
        let token = if who == "alice" { ALICE } else { BOB };
        let mut command = landfall();
        command.args(args).args(["--db", &self.db, "--as", who]).env("TOKEN", token);
        command.output().unwrap().into()
    }

    fn record(&self, who: &str, count: usize) {
        for n in 0..count {
            let fields = json!({"text": format!("private of {who} {n}")}).to_string();
            self.run(who, &["enqueue", "note", &format!("{who}-{n}"), "create", &fields]).ends(0);
        }
    }

    fn sync(&self, who: &str) -> Value {
        let endpoint = self.server.endpoint();
        self.run(who, &["sync", "--json", "--endpoint", &endpoint, "--token-env", "TOKEN"]).ends(0).json()
    }

    fn logout(&self, how: &[&str]) -> Ran {
        let args: Vec<&str> = ["logout", "--json"].iter().chain(how).copied().collect();
        self.run("alice", &args)
    }

    fn waiting(&self, who: &str) -> u64 {
        let accounts = run!["accounts", "--json", "--db", &self.db].ends(0).json();
        let of = |account: &&Value| account["identity"] == who;
        accounts["accounts"]
            .as_array()
            .unwrap()
            .iter()
            .find(of)
            .map_or(0, |found| found["total"].as_u64().unwrap())
    }

    /// How many records each tenant has; every one of them must be its own.
    fn tenants(&self) -> (usize, usize) {
        let of = |tenant: &str, who: &str| {
            let records = Stored::of_tenant(&self.server.db, tenant);
            assert!(records.iter().all(|(_, id)| id.starts_with(who)), "{tenant} has {records:?}");
            records.len()
        };
        (of("team-a", "alice"), of("team-b", "bob"))
    }
}

#[test]
fn with_drain_the_work_is_sent_first_or_nobody_is_logged_out() {
    let device = Device::new("drain");
    let proxy = FaultProxy::start(device.server.addr, FaultPlan::healthy(), 1).unwrap();
    let at = endpoint(proxy.addr());
    device.record("alice", 5);
    device.record("bob", 2);

    proxy.set_offline(true).unwrap();
    let drain = ["--drain", "--within", "300ms", "--endpoint", &at, "--token-env", "TOKEN"];
    let refused = device.logout(&drain).ends(2).json();
    assert_eq!((&refused["logged_out"], &refused["left"]), (&json!(false), &json!(5)), "{refused}");
    assert_eq!((device.waiting("alice"), device.waiting("bob")), (5, 2), "nothing was touched");
    assert_eq!(device.run("alice", &["get", "--json", "note", "alice-0"]).ends(0).json()["state"], "live");

    proxy.set_offline(false).unwrap();
    let drain = ["--drain", "--within", "20s", "--endpoint", &at, "--token-env", "TOKEN"];
    let done = device.logout(&drain).ends(0).json();
    assert_eq!((&done["logged_out"], &done["synced"]), (&json!(true), &json!(5)), "{done}");
    assert_eq!((device.waiting("alice"), device.waiting("bob")), (0, 2));
    device.run("alice", &["get", "note", "alice-0"]).fails("nothing is known of note alice-0");
    device.sync("bob");
    assert_eq!(device.tenants(), (5, 2));
}

#[test]
fn with_keep_the_work_waits_for_the_same_user() {
    let device = Device::new("keep");
    device.record("alice", 4);
    let kept = device.logout(&["--keep"]).ends(0).json();
    assert_eq!((&kept["kept"], &kept["discarded"]), (&json!(4), &json!(0)), "{kept}");
    device.record("bob", 3);
    assert_eq!(device.sync("bob")["applied"], 3);
    assert_eq!(device.tenants(), (0, 3));
    assert!(device.run("bob", &["get", "note", "alice-0"]).code == Some(1), "bob sees nothing of alice");
    assert!(!device.run("bob", &["queue"]).ends(0).out.contains("alice"));
    assert_eq!(device.waiting("alice"), 4);
    assert_eq!(device.sync("alice")["applied"], 4);
    assert_eq!(device.tenants(), (4, 3));
}

#[test]
fn with_export_the_work_goes_to_a_file_and_comes_back_from_it() {
    let device = Device::new("export");
    device.record("alice", 6);
    let file = device.scratch.text("alice.jsonl");
    let out = device.logout(&["--export", &file]).ends(0).json();
    assert_eq!((&out["exported"], &out["logged_out"]), (&json!(6), &json!(true)), "{out}");
    assert_eq!(device.waiting("alice"), 0);
    device.record("bob", 1);
    device.sync("bob");
    assert_eq!(device.tenants(), (0, 1));

    // A file that is there already is not written over, and nothing is given up for it.
    device.record("alice", 1);
    device.run("alice", &["logout", "--export", &file]).fails("name a file that does not exist yet");
    assert_eq!(device.waiting("alice"), 1);
    device.logout(&["--discard", "--yes"]).ends(0);

    let elsewhere = device.scratch.text("other.db");
    run!["import", "--db", &elsewhere, "--as", "alice", &file].ends(0);
    let mut sync = landfall();
    sync.args([
        "sync",
        "--json",
        "--db",
        &elsewhere,
        "--as",
        "alice",
        "--endpoint",
        &device.server.endpoint(),
    ]);
    let report =
        Ran::from(sync.args(["--token-env", "TOKEN"]).env("TOKEN", ALICE).output().unwrap()).ends(0).json();
    assert_eq!(report["applied"], 6, "{report}");
    assert_eq!(device.tenants(), (6, 1));
}

#[test]
fn with_discard_the_work_is_given_up_only_when_that_is_said() {
    let device = Device::new("discard");
    device.record("alice", 3);
    device.run("alice", &["logout", "--discard"]).fails("Give up 3 unsynced tasks of \"alice\" for good?");
    assert_eq!(device.waiting("alice"), 3);
    let gone = device.logout(&["--discard", "--yes"]).ends(0).json();
    assert_eq!((&gone["discarded"], &gone["exported"]), (&json!(3), &json!(0)), "{gone}");
    device.record("bob", 2);
    device.sync("bob");
    device.sync("alice");
    assert_eq!(device.tenants(), (0, 2));
    let journal = device.run("alice", &["journal", "--json"]).ends(0).json();
    let entries = journal["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 3, "{journal}");
    assert!(entries.iter().all(|entry| entry["verdict"] == "discarded"), "{journal}");
    assert!(entries[0]["payload"]["fields"]["text"].as_str().unwrap().starts_with("private of alice"));
}

#[test]
fn a_mistyped_name_does_not_look_like_an_empty_queue() {
    let device = Device::new("mistyped");
    device.record("alice", 1);
    for args in [
        ["status"].as_slice(),
        &["queue"],
        &["list", "note"],
        &["sync", "--endpoint", "http://127.0.0.1:9/sync"],
        &["logout", "--discard", "--yes"],
    ] {
        device.run("alicia", args).fails("there is no queue of \"alicia\"");
    }
    run!["logout", "--db", &device.db, "--keep"].fails("whose work is it?");
    device.run("", &["enqueue", "note", "1", "create", "{}"]).fails("the name of an identity");
    let status = device.run("alice", &["status", "--json"]).ends(0).json();
    assert_eq!((&status["identity"], &status["pending"]), (&json!("alice"), &json!(1)), "{status}");
    let shown = run!["accounts", "--db", &device.db].ends(0).out;
    assert!(shown.contains("alice         1 ") && shown.contains("(no account)"), "{shown}");
}
