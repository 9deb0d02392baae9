//! The proof: reads the databases of the server and of the devices with plain SQL and compares them with what must have
//! come of the scripts.
//!
//! It uses no engine, no adapter and no code of the server, and it believes nobody's report of success. What it
//! counts, and how each count could come out above zero, is shown by `proof/tests.rs`, which spoils good
//! databases in every way there is. `records.rs` compares what the server has, `effects.rs` how it came to be,
//! `devices.rs` what the devices show, `conflicts.rs` what they have on record.

mod conflicts;
mod devices;
mod effects;
mod records;

use super::outcome::Outcome;
use super::script::{Fields, Name};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What one device says of its own queue after draining it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Audit {
    /// Its number, from 1.
    pub(super) device: usize,
    /// Its client id.
    pub(super) client: String,
    /// Changes of reports it has recorded.
    pub(super) recorded: u64,
    /// Changes of reports that were folded into others before they were sent, or found to change nothing.
    pub(super) coalesced: u64,
    /// Tasks whose effect the server confirmed.
    pub(super) confirmed: u64,
    /// Tasks that met another version of their record and went on as others.
    pub(super) rebased: u64,
    /// Tasks still in the queue, dead letters among them.
    pub(super) left: u64,
    /// The refusals behind dead letters, by code.
    pub(super) refusals: BTreeMap<String, u64>,
}

/// What is examined.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence<'a> {
    /// The server's database.
    pub(super) server: &'a Path,
    /// The databases of the devices, in the order of their numbers.
    pub(super) devices: &'a [PathBuf],
    /// What the devices say.
    pub(super) audits: &'a [Audit],
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// Live records that were looked for.
    pub(super) records: u64,
    /// Fields that were compared.
    pub(super) fields: u64,
    /// Reports with several authors.
    pub(super) shared: u64,
    /// Fields of such reports that exactly one author changed.
    pub(super) merged: u64,
    /// Fields that several authors changed, each in his own way; a group counts as one.
    pub(super) contested: u64,
    /// Values that did not become the server's and are on record.
    pub(super) on_record: u64,
    /// Counters.
    pub(super) counters: u64,
    /// Sets.
    pub(super) sets: u64,
    /// Groups.
    pub(super) groups: u64,
    /// Reports that one deleted and another edited.
    pub(super) deleted_edited: u64,
    /// Conflicts on record.
    pub(super) conflicts: u64,
    /// Devices that show exactly what the server has.
    pub(super) agreeing: u64,
}

/// What is wrong. Every number must be zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
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
    /// Counters that do not add up.
    pub(super) wrong_counts: u64,
    /// Sets that lack an element or hold one that nobody added.
    pub(super) wrong_sets: u64,
    /// Groups with values of two authors.
    pub(super) torn: u64,
    /// Values that lost and are nowhere on record, and deletions against edits that are not.
    pub(super) unrecorded: u64,
    /// Conflicts that nobody made: about fields that one author changed, or met by a device that is no author.
    pub(super) needless: u64,
    /// Conflicts that still wait for a decision.
    pub(super) undecided: u64,
    /// Records that a device shows otherwise than the server has them.
    pub(super) disagreements: u64,
}

impl Faults {
    /// Every number with the name it has in JSON.
    pub(super) const fn named(&self) -> [(&'static str, u64); 14] {
        [
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("wrong_fields", self.wrong_fields),
            ("extra_records", self.extra),
            ("refused", self.refused),
            ("key_reused", self.key_reused),
            ("left_in_queues", self.left),
            ("wrong_counts", self.wrong_counts),
            ("wrong_sets", self.wrong_sets),
            ("torn_groups", self.torn),
            ("unrecorded", self.unrecorded),
            ("needless_conflicts", self.needless),
            ("undecided", self.undecided),
            ("disagreements", self.disagreements),
        ]
    }
}

/// What the comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// What was looked at.
    pub(super) looked: Looked,
    /// What is wrong.
    pub(super) faults: Faults,
    /// A few of the faults, in words.
    pub(super) examples: Vec<String>,
}

impl Findings {
    /// Whether everything is as it should be.
    pub(super) fn is_clean(&self) -> bool {
        self.faults == Faults::default()
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        /// Enough to begin a search with.
        const EXAMPLES: usize = 12;
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }
}

/// Compares the databases with what must have come of the scripts, and the devices' books with the server's.
///
/// # Errors
/// When a database cannot be read or does not look as it should.
pub(super) fn examine(evidence: &Evidence<'_>, outcome: &Outcome) -> Result<Findings, ProofError> {
    let server = open(evidence.server)?;
    let mut findings = Findings::default();
    let found = records::of_server(&server)?;
    records::compare(&mut findings, &found, outcome);
    effects::count(&mut findings, &server, evidence.audits)?;
    for audit in evidence.audits {
        findings.faults.left += audit.left;
        findings.faults.key_reused += audit.refusals.get("key_reused").copied().unwrap_or(0);
        if audit.left > 0 {
            findings.example(|| {
                format!("client {}: {} tasks left, refusals {:?}", audit.client, audit.left, audit.refusals)
            });
        }
    }
    let mut on_record = BTreeMap::new();
    for (number, path) in (1..).zip(evidence.devices) {
        let device = open(path)?;
        devices::compare(&mut findings, &device, number, &found)?;
        conflicts::read(&mut findings, &device, number, &mut on_record)?;
    }
    conflicts::compare(&mut findings, &on_record, &found, outcome);
    Ok(findings)
}

/// Why there is no proof, neither for nor against.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProofError {
    /// SQLite said so.
    #[error("cannot read a database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A record's fields, or what is on record of a conflict, are not JSON.
    #[error("the record {0} {1} is not a JSON object: {2}")]
    NotJson(String, String, serde_json::Error),
}

/// Records as somebody has them; `None` for one that was deleted.
type Records = BTreeMap<Name, Option<Fields>>;

fn open(path: &Path) -> Result<Connection, ProofError> {
    Ok(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?)
}

fn parse<T: serde::de::DeserializeOwned>(name: &Name, text: &str) -> Result<T, ProofError> {
    serde_json::from_str(text).map_err(|error| ProofError::NotJson(name.0.clone(), name.1.clone(), error))
}

/// The findings as JSON members.
pub(super) fn to_json(findings: &Findings) -> serde_json::Map<String, Value> {
    let looked = &findings.looked;
    [
        ("records_compared", looked.records),
        ("fields_compared", looked.fields),
        ("shared_reports", looked.shared),
        ("merged_fields", looked.merged),
        ("contested_fields", looked.contested),
        ("values_on_record", looked.on_record),
        ("counters", looked.counters),
        ("sets", looked.sets),
        ("groups", looked.groups),
        ("deleted_against_edited", looked.deleted_edited),
        ("conflicts", looked.conflicts),
        ("devices_that_agree", looked.agreeing),
    ]
    .into_iter()
    .chain(findings.faults.named())
    .map(|(name, count)| (name.to_owned(), count.into()))
    .collect()
}

#[cfg(test)]
mod tests;
