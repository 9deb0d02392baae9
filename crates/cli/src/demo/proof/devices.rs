//! What a device shows its app, by the documented view, against what the server has.
//!
//! Tests: `proof/tests/together.rs`.

use super::{Findings, ProofError, Records, parse};
use crate::demo::script::{Fields, Name};
use rusqlite::Connection;

/// Compares all records of one device, and looks whether it still holds tasks.
pub(super) fn compare(
    findings: &mut Findings,
    device: &Connection,
    number: usize,
    server: &Records,
) -> Result<(), ProofError> {
    let shown = shown(device)?;
    let mut differing = 0;
    let mut differs = |findings: &mut Findings, name: &Name, how: &str| {
        differing += 1;
        findings.example(|| format!("device {number}, {} {}: {how}", name.0, name.1));
    };
    for (name, there) in server {
        match (there, shown.get(name).and_then(Option::as_ref)) {
            (None, None) => {}
            (None, Some(_)) => differs(findings, name, "is shown, and deleted on the server"),
            (Some(_), None) => differs(findings, name, "is not shown"),
            (Some(there), Some(shown)) if there == shown => {}
            (Some(there), Some(shown)) => differs(findings, name, &difference(there, shown)),
        }
    }
    for (name, fields) in &shown {
        if fields.is_some() && !server.contains_key(name) {
            differs(findings, name, "is shown, and unknown to the server");
        }
    }
    findings.faults.disagreements += differing;
    findings.looked.agreeing += u64::from(differing == 0);
    let left: i64 =
        device.prepare("SELECT count(*) FROM landfall_v_queue")?.query_one([], |row| row.get(0))?;
    if left > 0 {
        findings.faults.left += u64::try_from(left).unwrap_or(0);
        findings.example(|| format!("device {number}: {left} tasks are in its database"));
    }
    Ok(())
}

fn shown(device: &Connection) -> Result<Records, ProofError> {
    let mut statement =
        device.prepare("SELECT entity_type, entity_id, deleted, fields FROM landfall_v_records")?;
    let mut rows = statement.query([])?;
    let mut records = Records::new();
    while let Some(row) = rows.next()? {
        let name: Name = (row.get(0)?, row.get(1)?);
        let (deleted, text): (bool, Option<String>) = (row.get(2)?, row.get(3)?);
        let fields = text.filter(|_| !deleted).map(|text| parse(&name, &text)).transpose()?;
        records.insert(name, fields);
    }
    Ok(records)
}

/// The first field in which two records differ.
fn difference(there: &Fields, shown: &Fields) -> String {
    let differing = there.keys().chain(shown.keys()).find(|field| there.get(*field) != shown.get(*field));
    let field = differing.map(String::as_str).unwrap_or_default();
    format!("{field} is shown as {:?}, and is {:?} on the server", shown.get(field), there.get(field))
}
