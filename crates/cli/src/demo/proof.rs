//! The proof: reads the server's database with plain SQL and compares it with what the script says must be there.
//!
//! It uses no engine, no adapter and no code of the server, and it believes nobody's report of success. What it
//! counts, and how each count could come out above zero, is shown by the tests at the end of the file, which spoil
//! a good database in every way they can.

use super::script::{Fields, Name};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What one device says of its own queue after draining it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Audit {
    /// Its client id.
    pub(super) client: String,
    /// Changes of reports it has recorded.
    pub(super) recorded: u64,
    /// Changes of reports that were folded into others before they were sent.
    pub(super) coalesced: u64,
    /// Tasks whose effect the server confirmed.
    pub(super) confirmed: u64,
    /// Conflicts met. One device writes each record, so there is nobody to be in conflict with.
    pub(super) conflicts: u64,
    /// Tasks still in the queue, dead letters among them.
    pub(super) left: u64,
    /// The refusals behind dead letters, by code.
    pub(super) refusals: BTreeMap<String, u64>,
}

/// What the comparison found. Every number but the first two must be zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Live records that were looked for.
    pub(super) records: u64,
    /// Fields that were compared.
    pub(super) fields: u64,
    /// Records and fields that should be there and are not, and effects that a device was told of and the server
    /// does not have.
    pub(super) lost: u64,
    /// Effects beyond the first of a task, and effects that belong to no task.
    pub(super) duplicated: u64,
    /// Fields with another value than they should have, or that should not be there.
    pub(super) wrong_fields: u64,
    /// Records that should not be there: withdrawn and back again, or never recorded.
    pub(super) extra: u64,
    /// Tasks the server refused.
    pub(super) refused: u64,
    /// Keys that were sent with two contents.
    pub(super) key_reused: u64,
    /// Tasks that devices still hold.
    pub(super) left: u64,
    /// A few of the findings, in words.
    pub(super) examples: Vec<String>,
}

impl Findings {
    /// Whether everything is as it should be.
    pub(super) fn is_clean(&self) -> bool {
        let Self { records: _, fields: _, examples: _, .. } = self;
        [self.lost, self.duplicated, self.wrong_fields, self.extra, self.refused, self.key_reused, self.left]
            .iter()
            .all(|count| *count == 0)
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        /// Enough to begin a search with.
        const EXAMPLES: usize = 12;
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }
}

/// Compares the server's database with what is expected, and the devices' books with the server's.
///
/// # Errors
/// When the database cannot be read or does not look as the server makes it.
pub(super) fn examine(
    database: &Path,
    expected: &BTreeMap<Name, Option<Fields>>,
    audits: &[Audit],
) -> Result<Findings, ProofError> {
    let server = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut findings = Findings::default();
    compare_records(&mut findings, &records(&server)?, expected);
    count_effects(&mut findings, &server, audits)?;
    for audit in audits {
        findings.left += audit.left;
        findings.key_reused += audit.refusals.get("key_reused").copied().unwrap_or(0);
        if audit.left > 0 {
            findings.example(|| {
                format!("client {}: {} tasks left, refusals {:?}", audit.client, audit.left, audit.refusals)
            });
        }
    }
    Ok(findings)
}

/// Why there is no proof, neither for nor against.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProofError {
    /// SQLite said so.
    #[error("cannot read the server's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A record's fields are not JSON.
    #[error("the server's record {0} {1} is not a JSON object: {2}")]
    NotJson(String, String, serde_json::Error),
}

/// Every record of every tenant; `None` for a tombstone.
fn records(server: &Connection) -> Result<BTreeMap<Name, Option<Fields>>, ProofError> {
    let mut statement = server.prepare("SELECT entity_type, entity_id, fields FROM records")?;
    let mut rows = statement.query([])?;
    let mut records = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let name: Name = (row.get(0)?, row.get(1)?);
        let fields = match row.get::<_, Option<String>>(2)? {
            None => None,
            Some(text) => Some(
                serde_json::from_str(&text)
                    .map_err(|error| ProofError::NotJson(name.0.clone(), name.1.clone(), error))?,
            ),
        };
        records.insert(name, fields);
    }
    Ok(records)
}

fn compare_records(
    findings: &mut Findings,
    found: &BTreeMap<Name, Option<Fields>>,
    expected: &BTreeMap<Name, Option<Fields>>,
) {
    for (name, wanted) in expected {
        let there = found.get(name).and_then(Option::as_ref);
        match (wanted, there) {
            (None, None) => {}
            (None, Some(_)) => {
                findings.extra += 1;
                findings.example(|| format!("{} {}: was withdrawn and is there", name.0, name.1));
            }
            (Some(_), None) => {
                findings.records += 1;
                findings.lost += 1;
                findings.example(|| format!("{} {}: is missing", name.0, name.1));
            }
            (Some(wanted), Some(there)) => {
                findings.records += 1;
                compare_fields(findings, name, wanted, there);
            }
        }
    }
    for (name, fields) in found {
        if fields.is_some() && !expected.contains_key(name) {
            findings.extra += 1;
            findings.example(|| format!("{} {}: nobody recorded it", name.0, name.1));
        }
    }
}

fn compare_fields(findings: &mut Findings, name: &Name, wanted: &Fields, there: &Fields) {
    for (field, value) in wanted {
        findings.fields += 1;
        match there.get(field) {
            Some(found) if found == value => {}
            Some(found) => {
                findings.wrong_fields += 1;
                findings.example(|| format!("{} {}, {field}: {found} instead of {value}", name.0, name.1));
            }
            None => {
                findings.lost += 1;
                findings.example(|| format!("{} {}, {field}: is missing", name.0, name.1));
            }
        }
    }
    for field in there.keys().filter(|field| !wanted.contains_key(*field)) {
        findings.wrong_fields += 1;
        findings.example(|| format!("{} {}, {field}: should not be there", name.0, name.1));
    }
}

/// The server gives every effect the next version and notes it beside the key of the task, so the versions given out
/// and the keys of applied tasks must match one to one; no task may have two keys; and every device must have been
/// told of exactly the effects that there are.
fn count_effects(findings: &mut Findings, server: &Connection, audits: &[Audit]) -> Result<(), ProofError> {
    let number = |sql: &str| -> Result<u64, ProofError> {
        let mut statement = server.prepare(sql)?;
        let count: i64 = statement.query_one([], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    };
    let again = number(
        "SELECT coalesce(sum(times - 1), 0) FROM
         (SELECT count(*) AS times FROM seen WHERE status = 0 GROUP BY tenant, client, task_id)",
    )?;
    let given_out = number("SELECT coalesce(sum(version), 0) FROM tenants")?;
    let noted = number(
        "SELECT count(*) FROM (SELECT DISTINCT tenant, version FROM seen WHERE status = 0 AND version IS NOT NULL)",
    )?;
    let unowned = given_out.saturating_sub(noted);
    if again > 0 {
        findings.example(|| format!("{again} effects of tasks that had one already"));
    }
    if unowned > 0 {
        findings.example(|| format!("{unowned} effects that belong to no key"));
    }
    findings.duplicated += again + unowned;
    // A version that was never given out is the mark of an effect that is not there.
    findings.lost += noted.saturating_sub(given_out);
    findings.refused = number("SELECT count(*) FROM seen WHERE status = 2")?;

    let mut per_client: BTreeMap<String, u64> = BTreeMap::new();
    let mut statement = server.prepare(
        "SELECT c.client_id, count(s.key) FROM clients c
         LEFT JOIN seen s ON s.tenant = c.tenant AND s.client = c.id AND s.status = 0
         GROUP BY c.tenant, c.id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        *per_client.entry(row.get(0)?).or_default() += u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
    }
    for audit in audits {
        let effects = per_client.remove(&audit.client).unwrap_or(0);
        findings.duplicated += effects.saturating_sub(audit.confirmed).saturating_sub(again);
        findings.lost += audit.confirmed.saturating_sub(effects);
        if effects != audit.confirmed {
            findings.example(|| {
                format!("client {}: {} tasks confirmed, {effects} effects", audit.client, audit.confirmed)
            });
        }
    }
    for (client, effects) in per_client {
        if effects > 0 {
            findings.duplicated += effects;
            findings.example(|| format!("client {client}: {effects} effects of a client nobody knows"));
        }
    }
    Ok(())
}

/// The findings as JSON members.
pub(super) fn to_json(findings: &Findings) -> serde_json::Map<String, Value> {
    [
        ("lost", findings.lost),
        ("duplicated", findings.duplicated),
        ("wrong_fields", findings.wrong_fields),
        ("extra_records", findings.extra),
        ("refused", findings.refused),
        ("key_reused", findings.key_reused),
        ("left_in_queues", findings.left),
        ("records_compared", findings.records),
        ("fields_compared", findings.fields),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), count.into()))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_server::{Limits, SqliteOptions, SqliteStore, Submission};
    use serde_json::json;
    use std::path::PathBuf;

    /// What is done to a good database, and the counts that must then be
    /// (lost, duplicated, wrong fields, extra, refused, key reused, left).
    type Tampering = (&'static str, &'static str, [u64; 7]);

    struct Case {
        path: PathBuf,
        expected: BTreeMap<Name, Option<Fields>>,
        audits: Vec<Audit>,
    }

    impl Drop for Case {
        fn drop(&mut self) {
            for end in ["", "-wal", "-shm"] {
                drop(std::fs::remove_file(format!("{}{end}", self.path.display())));
            }
        }
    }

    fn fields(value: Value) -> Fields {
        value.as_object().unwrap().clone()
    }

    fn name(id: &str) -> Name {
        ("strike".into(), id.into())
    }

    /// A database as the real server makes it: three reports, one of them withdrawn, one amended; a replayed request.
    fn good(test: &str) -> Case {
        let path = std::env::temp_dir().join(format!("landfall-proof-{}-{test}.db", std::process::id()));
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
        let expected = BTreeMap::from([
            (name("a"), Some(fields(json!({"species": "gull", "cost": 7})))),
            (name("b"), Some(fields(json!({"species": "hawk", "cost": 12})))),
            (name("c"), None),
        ]);
        let audit = Audit { client: "device".into(), recorded: 5, confirmed: 5, ..Audit::default() };
        Case { path, expected, audits: vec![audit] }
    }

    fn counts(case: &Case) -> [u64; 7] {
        let found = examine(&case.path, &case.expected, &case.audits).unwrap();
        let counts = [
            found.lost,
            found.duplicated,
            found.wrong_fields,
            found.extra,
            found.refused,
            found.key_reused,
            found.left,
        ];
        assert_eq!(found.is_clean(), counts == [0; 7]);
        assert_eq!(found.examples.is_empty() || counts != [0; 7], true);
        counts
    }

    #[test]
    fn a_good_database_is_found_good() {
        let case = good("good");
        let found = examine(&case.path, &case.expected, &case.audits).unwrap();
        assert_eq!(found, Findings { records: 2, fields: 4, ..Findings::default() });
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
        let path = std::env::temp_dir().join(format!("landfall-proof-{}-none.db", std::process::id()));
        assert!(examine(&path, &BTreeMap::new(), &[]).is_err());
    }
}
