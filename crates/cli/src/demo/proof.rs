//! The proof: reads the server's database with plain SQL and compares it with what the script says must be there.
//!
//! It uses no engine, no adapter and no code of the server, and it believes nobody's report of success. What it
//! counts, and how each count could come out above zero, is shown by `proof/tests.rs`, which spoils a good
//! database in every way there is.

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
mod tests;
