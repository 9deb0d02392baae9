//! Spoils good databases in every way there is, and sees each one counted: a proof that cannot fail is worthless.
//!
//! Here: the server's database and the books, of reports with one author. `together.rs`: reports with several authors,
//! what devices show and what they have on record.

mod together;

use super::*;
use crate::demo::outcome::Wanted;
use landfall_server::{Limits, SqliteOptions, SqliteStore, Submission};
use serde_json::json;
use std::path::PathBuf;

/// What is done to a good database, and the counts that must then be
/// (lost, duplicated, wrong fields, extra, refused, key reused, left).
type Tampering = (&'static str, &'static str, [u64; 7]);

struct Case {
    path: PathBuf,
    devices: Vec<PathBuf>,
    outcome: Outcome,
    audits: Vec<Audit>,
}

impl Case {
    fn examine(&self) -> Findings {
        let evidence = Evidence { server: &self.path, devices: &self.devices, audits: &self.audits };
        examine(&evidence, &self.outcome).unwrap()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        for path in self.devices.iter().chain([&self.path]) {
            for end in ["", "-wal", "-shm"] {
                drop(std::fs::remove_file(format!("{}{end}", path.display())));
            }
        }
    }
}

fn fields(value: Value) -> Fields {
    value.as_object().unwrap().clone()
}

fn name(id: &str) -> Name {
    ("strike".into(), id.into())
}

fn file(test: &str) -> PathBuf {
    std::env::temp_dir().join(format!("landfall-proof-{}-{test}.db", std::process::id()))
}

/// A database as the real server makes it: three reports, one of them withdrawn, one amended; a replayed request.
fn good(test: &str) -> Case {
    let path = file(test);
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    let task = |key: &str, id: &str, operation: &str, fields: Value| {
        json!({"key": key, "task_id": format!("task-{key}"), "entity_type": "strike", "entity_id": id,
               "operation": operation, "fields": fields})
    };
    let requests = [
        vec![
            task("k1", "a", "create", json!({"species": "gull", "cost": 7})),
            task("k2", "b", "create", json!({"species": "hawk", "cost": null})),
            task("k3", "c", "create", json!({"species": "owl"})),
        ],
        vec![task("k4", "b", "update", json!({"cost": 12})), task("k5", "c", "delete", json!({}))],
    ];
    for tasks in requests.iter().chain(&requests) {
        let body = json!({"protocol": 1, "client_id": "device", "client_epoch": 1, "tasks": tasks});
        let submission = Submission::from_json(body.to_string().as_bytes(), &Limits::default()).unwrap();
        store.push_blocking("default", submission).unwrap();
    }
    drop(store);
    let settled = |value| Some(Wanted::settled(fields(value)));
    let outcome = BTreeMap::from([
        (name("a"), settled(json!({"species": "gull", "cost": 7}))),
        (name("b"), settled(json!({"species": "hawk", "cost": 12}))),
        (name("c"), None),
    ]);
    let audit = Audit { device: 1, client: "device".into(), recorded: 5, confirmed: 5, ..Audit::default() };
    Case { path, devices: Vec::new(), outcome, audits: vec![audit] }
}

fn counts(case: &Case) -> [u64; 7] {
    let found = case.examine();
    let faults = &found.faults;
    let counts = [
        faults.lost,
        faults.duplicated,
        faults.wrong_fields,
        faults.extra,
        faults.refused,
        faults.key_reused,
        faults.left,
    ];
    assert_eq!(found.is_clean(), counts == [0; 7]);
    assert!(found.examples.is_empty() || counts != [0; 7]);
    counts
}

#[test]
fn a_good_database_is_found_good() {
    let case = good("good");
    let looked = Looked { records: 2, fields: 4, ..Looked::default() };
    assert_eq!(case.examine(), Findings { looked, ..Findings::default() });
}

#[test]
fn every_way_to_spoil_the_database_is_counted() {
    let table: &[Tampering] = &[
        ("a lost record", "DELETE FROM records WHERE entity_id = 'a'", [1, 0, 0, 0, 0, 0, 0]),
        (
            "a record deleted that should live",
            "UPDATE records SET fields = NULL WHERE entity_id = 'a'",
            [1, 0, 0, 0, 0, 0, 0],
        ),
        (
            "a lost field",
            "UPDATE records SET fields = '{\"species\":\"gull\"}' WHERE entity_id = 'a'",
            [1, 0, 0, 0, 0, 0, 0],
        ),
        (
            "a wrong field",
            "UPDATE records SET fields = '{\"species\":\"gull\",\"cost\":8}' WHERE entity_id = 'a'",
            [0, 0, 1, 0, 0, 0, 0],
        ),
        (
            "a number that became text",
            "UPDATE records SET fields = '{\"species\":\"gull\",\"cost\":\"7\"}' WHERE entity_id = 'a'",
            [0, 0, 1, 0, 0, 0, 0],
        ),
        (
            "a field that should be gone",
            "UPDATE records SET fields = '{\"species\":\"gull\",\"cost\":7,\"x\":1}' WHERE entity_id = 'a'",
            [0, 0, 1, 0, 0, 0, 0],
        ),
        (
            "an amendment lost",
            "UPDATE records SET fields = '{\"species\":\"hawk\",\"cost\":null}' WHERE entity_id = 'b'",
            [0, 0, 1, 0, 0, 0, 0],
        ),
        (
            "a record nobody made",
            "INSERT INTO records VALUES (1, 'strike', 'z', 99, '{}')",
            [0, 0, 0, 1, 0, 0, 0],
        ),
        (
            "a record of another type",
            "INSERT INTO records VALUES (1, 'other', 'a', 99, '{}')",
            [0, 0, 0, 1, 0, 0, 0],
        ),
        (
            "a withdrawn record that is back",
            "UPDATE records SET fields = '{}' WHERE entity_id = 'c'",
            [0, 0, 0, 1, 0, 0, 0],
        ),
        (
            "a task executed again under another key",
            "INSERT INTO seen SELECT tenant, 'k9', client, task_id, fingerprint, status, 6, more FROM seen
             WHERE key = 'k4'; UPDATE tenants SET version = 6",
            [0, 1, 0, 0, 0, 0, 0],
        ),
        ("a task executed again under its key", "UPDATE tenants SET version = 6", [0, 1, 0, 0, 0, 0, 0]),
        (
            "an effect of a task the device never made",
            "INSERT INTO seen SELECT tenant, 'k9', client, 'task-k9', fingerprint, status, 6, more FROM seen
             WHERE key = 'k4'; UPDATE tenants SET version = 6",
            [0, 1, 0, 0, 0, 0, 0],
        ),
        (
            "an effect of a client nobody knows",
            "INSERT INTO clients VALUES (9, 1, 'ghost', 1);
             INSERT INTO seen SELECT tenant, 'k9', 9, 'task-k9', fingerprint, status, 6, more FROM seen
             WHERE key = 'k4'; UPDATE tenants SET version = 6",
            [0, 1, 0, 0, 0, 0, 0],
        ),
        (
            "a confirmed effect whose key is gone, with its version",
            "DELETE FROM seen WHERE key = 'k5'; UPDATE tenants SET version = 4",
            [1, 0, 0, 0, 0, 0, 0],
        ),
        (
            "a refused task",
            "INSERT INTO seen SELECT tenant, 'k9', client, 'task-k9', fingerprint, 2, NULL, more FROM seen
             WHERE key = 'k4'",
            [0, 0, 0, 0, 1, 0, 0],
        ),
    ];
    for (at, (what, sql, wanted)) in table.iter().enumerate() {
        let case = good(&format!("tampered-{at}"));
        Connection::open(&case.path).unwrap().execute_batch(sql).unwrap();
        assert_eq!(counts(&case), *wanted, "{what}");
    }
}

#[test]
fn a_devices_own_troubles_are_counted() {
    let mut case = good("device");
    case.audits[0].left = 2;
    case.audits[0].refusals = BTreeMap::from([("key_reused".into(), 1), ("rejected".into(), 1)]);
    assert_eq!(counts(&case), [0, 0, 0, 0, 0, 1, 2]);
    let mut case = good("device-more");
    case.audits[0].confirmed = 6;
    assert_eq!(counts(&case), [1, 0, 0, 0, 0, 0, 0]);
    case.audits.clear();
    assert_eq!(counts(&case), [0, 5, 0, 0, 0, 0, 0]);
}

#[test]
fn a_file_that_is_no_server_database_proves_nothing() {
    let path = file("none");
    let evidence = Evidence { server: &path, devices: &[], audits: &[] };
    assert!(examine(&evidence, &Outcome::new()).is_err());
}
