//! Effects: the server gave each one a version and a key, and every device was told of its own. All must match.
//!
//! Tests: `proof/tests.rs`.

use super::{Audit, Findings, ProofError};
use rusqlite::Connection;
use std::collections::BTreeMap;

/// The server gives every effect the next version and notes it beside the key of the task, so the versions given out
/// and the keys of applied tasks must match one to one; no task may have two keys; and every device must have been
/// told of exactly the effects that there are.
pub(super) fn count(
    findings: &mut Findings,
    server: &Connection,
    audits: &[Audit],
) -> Result<(), ProofError> {
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
    findings.faults.duplicated += again + unowned;
    // A version that was never given out is the mark of an effect that is not there.
    findings.faults.lost += noted.saturating_sub(given_out);
    findings.faults.refused = number("SELECT count(*) FROM seen WHERE status = 2")?;

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
        findings.faults.duplicated += effects.saturating_sub(audit.confirmed).saturating_sub(again);
        findings.faults.lost += audit.confirmed.saturating_sub(effects);
        if effects != audit.confirmed {
            findings.example(|| {
                format!("client {}: {} tasks confirmed, {effects} effects", audit.client, audit.confirmed)
            });
        }
    }
    for (client, effects) in per_client {
        if effects > 0 {
            findings.faults.duplicated += effects;
            findings.example(|| format!("client {client}: {effects} effects of a client nobody knows"));
        }
    }
    Ok(())
}
