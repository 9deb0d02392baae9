//! What the devices have on record of conflicts, against what the authors wrote.
//!
//! A conflict is written down by the device that met it: whoever sent later has both values, his own and the one that was
//! there. So the value that did not become the server's is on the record of its author or of the one who came after him.
//! Tests: `proof/tests/together.rs`.

use super::{Findings, ProofError, Records, parse};
use crate::demo::outcome::{Outcome, Unit, Wanted};
use crate::demo::rules::{COUNTER, SET};
use crate::demo::script::Name;
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// All conflicts on record, by the record they are about.
pub(super) type OnRecord = BTreeMap<Name, Vec<(usize, Conflict)>>;

/// The parts of a conflict's record that the proof reads.
#[derive(Debug, Deserialize)]
pub(super) struct Conflict {
    why: Value,
    #[serde(default)]
    fields: Vec<Clash>,
}

#[derive(Debug, Deserialize)]
struct Clash {
    path: Value,
    #[serde(default)]
    local: Option<Value>,
    #[serde(default)]
    remote: Option<Value>,
}

impl Clash {
    /// The name of the field; the demo has no fields inside of fields.
    fn field(&self) -> &str {
        self.path.pointer("/0/field").and_then(Value::as_str).unwrap_or_default()
    }

    fn holds(&self, field: &str, value: &Value) -> bool {
        self.field() == field && (self.local.as_ref() == Some(value) || self.remote.as_ref() == Some(value))
    }
}

impl Conflict {
    fn is_about_deletion(&self) -> bool {
        ["edited_here_deleted_there", "deleted_here_edited_there"].iter().any(|why| self.why == *why)
    }
}

/// Reads what one device has on record.
pub(super) fn read(
    findings: &mut Findings,
    device: &Connection,
    number: usize,
    on_record: &mut OnRecord,
) -> Result<(), ProofError> {
    let mut statement =
        device.prepare("SELECT entity_type, entity_id, open, record FROM landfall_conflicts")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name: Name = (row.get(0)?, row.get(1)?);
        findings.looked.conflicts += 1;
        if row.get::<_, bool>(2)? {
            findings.faults.undecided += 1;
            findings.example(|| format!("device {number}, {} {}: waits for a decision", name.0, name.1));
        }
        let conflict: Conflict = parse(&name, &row.get::<_, String>(3)?)?;
        on_record.entry(name).or_default().push((number, conflict));
    }
    Ok(())
}

/// Looks for every value that lost, and for conflicts that nobody made.
pub(super) fn compare(findings: &mut Findings, on_record: &OnRecord, server: &Records, outcome: &Outcome) {
    for (name, wanted) in outcome {
        let Some(wanted) = wanted else { continue };
        let recorded = on_record.get(name).map(Vec::as_slice).unwrap_or_default();
        for unit in wanted.units.iter().filter(|unit| unit.is_contested()) {
            look_for_losers(findings, name, unit, recorded, server);
        }
        if wanted.deleted_by.is_some() && wanted.is_shared() {
            findings.looked.deleted_edited += 1;
            if !recorded.iter().any(|(_, conflict)| conflict.is_about_deletion()) {
                findings.faults.unrecorded += 1;
                findings.example(|| {
                    format!("{} {}: deleted and edited, and nobody has it on record", name.0, name.1)
                });
            }
        }
    }
    for (name, recorded) in on_record {
        let wanted = outcome.get(name).and_then(Option::as_ref);
        for (device, conflict) in recorded {
            if let Some(why) = needless(wanted, *device, conflict) {
                findings.faults.needless += 1;
                findings.example(|| format!("device {device}, {} {}: {why}", name.0, name.1));
            }
        }
    }
}

fn look_for_losers(
    findings: &mut Findings,
    name: &Name,
    unit: &Unit,
    recorded: &[(usize, Conflict)],
    server: &Records,
) {
    let there = server.get(name).and_then(Option::as_ref);
    for (author, said) in &unit.said {
        for (field, value) in unit.fields.iter().zip(said) {
            if there.and_then(|fields| fields.get(field)) == Some(value) {
                continue;
            }
            let held = |(device, conflict): &(usize, Conflict)| {
                unit.said.contains_key(device)
                    && conflict.fields.iter().any(|clash| clash.holds(field, value))
            };
            if recorded.iter().any(held) {
                findings.looked.on_record += 1;
            } else {
                findings.faults.unrecorded += 1;
                findings.example(|| {
                    format!(
                        "{} {}, {field}: {value} of device {author} lost and is nowhere on record",
                        name.0, name.1
                    )
                });
            }
        }
    }
}

/// Why there should be no such conflict.
fn needless(wanted: Option<&Wanted>, device: usize, conflict: &Conflict) -> Option<String> {
    let Some(wanted) = wanted.filter(|wanted| wanted.authors.contains(&device)) else {
        return Some("a conflict of a device that did not amend it with others".into());
    };
    if conflict.is_about_deletion() {
        let both = wanted.deleted_by.is_some() && wanted.is_shared();
        return (!both).then(|| "a conflict about a deletion that nobody made".into());
    }
    let several = |field: &str| wanted.writers.get(field).is_some_and(|who| who.len() > 1);
    let alone = conflict.fields.iter().find(|clash| !several(clash.field()));
    if let Some(clash) = alone {
        return Some(format!("a conflict about {}, which one author changed", clash.field()));
    }
    let summed = |clash: &Clash| [COUNTER, SET].contains(&clash.field());
    let foreign = conflict.fields.iter().filter(|clash| !summed(clash)).find(|clash| {
        let said = |value: &Option<Value>| {
            wanted.units.iter().any(|unit| {
                let at = unit.fields.iter().position(|field| field == clash.field());
                let same = |said: &Vec<Value>| at.and_then(|at| said.get(at)) == value.as_ref();
                unit.said.values().any(same)
            })
        };
        !said(&clash.local) || !said(&clash.remote)
    });
    let empty = conflict.fields.is_empty().then(|| format!("a conflict about nothing: {}", conflict.why));
    foreign
        .map(|clash| format!("a conflict about {} with a value that nobody wrote", clash.field()))
        .or(empty)
}
