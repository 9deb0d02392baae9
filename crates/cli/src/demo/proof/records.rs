//! What the server has, record by record and field by field, against what must have come of the scripts.
//!
//! Tests: `proof/tests.rs` and `proof/tests/together.rs`.

use super::{Findings, ProofError, Records, parse};
use crate::demo::outcome::{Outcome, Unit, Wanted};
use crate::demo::rules::{COUNTER, SET};
use crate::demo::script::{Fields, Name};
use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeSet;

/// Every record of every tenant; `None` for a tombstone.
pub(super) fn of_server(server: &Connection) -> Result<Records, ProofError> {
    let mut statement = server.prepare("SELECT entity_type, entity_id, fields FROM records")?;
    let mut rows = statement.query([])?;
    let mut records = Records::new();
    while let Some(row) = rows.next()? {
        let name: Name = (row.get(0)?, row.get(1)?);
        let text: Option<String> = row.get(2)?;
        let fields = text.map(|text| parse(&name, &text)).transpose()?;
        records.insert(name, fields);
    }
    Ok(records)
}

/// Compares them all.
pub(super) fn compare(findings: &mut Findings, found: &Records, outcome: &Outcome) {
    for (name, wanted) in outcome {
        let there = found.get(name).and_then(Option::as_ref);
        match (wanted, there) {
            (None, None) => {}
            (None, Some(_)) => {
                findings.faults.extra += 1;
                findings.example(|| format!("{} {}: was withdrawn and is there", name.0, name.1));
            }
            (Some(wanted), None) => {
                findings.looked.records += 1;
                findings.looked.shared += u64::from(wanted.is_shared());
                findings.faults.lost += 1;
                findings.example(|| format!("{} {}: is missing", name.0, name.1));
            }
            (Some(wanted), Some(there)) => {
                findings.looked.records += 1;
                findings.looked.shared += u64::from(wanted.is_shared());
                findings.looked.merged += wanted.merged() as u64;
                compare_settled(findings, name, wanted, there);
                compare_counts(findings, name, wanted, there);
                for unit in &wanted.units {
                    compare_unit(findings, name, unit, there);
                }
            }
        }
    }
    for (name, fields) in found {
        if fields.is_some() && !outcome.contains_key(name) {
            findings.faults.extra += 1;
            findings.example(|| format!("{} {}: nobody recorded it", name.0, name.1));
        }
    }
}

/// Fields of which the value is certain, and fields that should not be there.
fn compare_settled(findings: &mut Findings, name: &Name, wanted: &Wanted, there: &Fields) {
    for (field, value) in &wanted.settled {
        findings.looked.fields += 1;
        match there.get(field) {
            Some(found) if found == value => {}
            Some(found) => {
                findings.faults.wrong_fields += 1;
                findings.example(|| format!("{} {}, {field}: {found} instead of {value}", name.0, name.1));
            }
            None => missing(findings, name, field),
        }
    }
    let known = |field: &&String| {
        wanted.settled.contains_key(*field)
            || wanted.units.iter().any(|unit| unit.fields.contains(field))
            || (wanted.count.is_some() && *field == COUNTER)
            || (wanted.tags.is_some() && *field == SET)
    };
    for field in there.keys().filter(|field| !known(field)) {
        findings.faults.wrong_fields += 1;
        findings.example(|| format!("{} {}, {field}: should not be there", name.0, name.1));
    }
}

fn missing(findings: &mut Findings, name: &Name, field: &str) {
    findings.faults.lost += 1;
    findings.example(|| format!("{} {}, {field}: is missing", name.0, name.1));
}

/// The counter must add up exactly, the set hold all that was added and nothing else.
fn compare_counts(findings: &mut Findings, name: &Name, wanted: &Wanted, there: &Fields) {
    if let Some(count) = wanted.count {
        findings.looked.counters += 1;
        match there.get(COUNTER) {
            Some(found) if found.as_i64() == Some(count) => {}
            found => {
                findings.faults.wrong_counts += 1;
                findings
                    .example(|| format!("{} {}, {COUNTER}: {found:?} instead of {count}", name.0, name.1));
            }
        }
    }
    if let Some(tags) = &wanted.tags {
        findings.looked.sets += 1;
        let found = there.get(SET).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let distinct: BTreeSet<String> = found.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if distinct != *tags || found.len() != tags.len() {
            findings.faults.wrong_sets += 1;
            findings.example(|| format!("{} {}, {SET}: {found:?} instead of {tags:?}", name.0, name.1));
        }
    }
}

/// The values must be those of one author.
fn compare_unit(findings: &mut Findings, name: &Name, unit: &Unit, there: &Fields) {
    findings.looked.fields += unit.fields.len() as u64;
    findings.looked.groups += u64::from(unit.is_group());
    findings.looked.contested += u64::from(unit.is_contested());
    let found: Vec<Option<&Value>> = unit.fields.iter().map(|field| there.get(field)).collect();
    let is_of = |said: &Vec<Value>| said.iter().map(Some).eq(found.iter().copied());
    if unit.said.values().any(is_of) {
        return;
    }
    let gone: Vec<&String> = unit.fields.iter().filter(|field| !there.contains_key(*field)).collect();
    if !gone.is_empty() {
        gone.into_iter().for_each(|field| missing(findings, name, field));
        return;
    }
    let somebodys =
        |(at, value): (usize, &Option<&Value>)| unit.said.values().any(|said| said.get(at) == *value);
    let of_somebody = found.iter().enumerate().all(somebodys);
    let whose = &unit.said;
    if of_somebody && unit.is_group() {
        findings.faults.torn += 1;
        findings
            .example(|| format!("{} {}, {:?}: {found:?} is torn, of {whose:?}", name.0, name.1, unit.fields));
    } else {
        findings.faults.wrong_fields += 1;
        findings
            .example(|| format!("{} {}, {:?}: {found:?} is none of {whose:?}", name.0, name.1, unit.fields));
    }
}
