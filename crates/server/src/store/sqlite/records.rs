//! [`Records`] of one tenant over a SQLite transaction: the SQL, and nothing but the SQL.
//!
//! The tenant is part of every key and every statement. Statements are prepared once per connection.
//! Tests: `tests/rules.rs` runs the rules over it, `tests/http.rs` the isolation of tenants.

use landfall_protocol::{Fields, Record, Status, TaskResult};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::StoreError;
use crate::state::{Fingerprint, Identity, Records, RecordsError, Seen, Stored, Writes};

/// One tenant's records. The connection is inside a transaction, which somebody else ends.
#[derive(Debug)]
pub struct SqliteRecords<'c> {
    connection: &'c Connection,
    identity: Identity,
    /// `None` until the tenant writes for the first time.
    tenant: Option<i64>,
}

impl<'c> SqliteRecords<'c> {
    pub(super) fn new(connection: &'c Connection, tenant: &str) -> Result<Self, StoreError> {
        let mut name = connection.prepare_cached("SELECT value FROM meta WHERE name = 'server_id'")?;
        let server_id = name.query_one([], |row| row.get(0))?;
        let mut row = connection.prepare_cached("SELECT id FROM tenants WHERE name = ?1")?;
        let id = row.query_one([tenant], |row| row.get(0)).optional()?;
        Ok(Self { connection, identity: Identity { server_id, tenant: tenant.to_owned() }, tenant: id })
    }

    /// At most one row of a statement that only reads; `?1` is the tenant.
    fn one<T>(
        &self,
        sql: &str,
        keys: &[&str],
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let Some(tenant) = self.tenant else { return Ok(None) };
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.raw_bind_parameter(1, tenant)?;
        for (at, key) in keys.iter().enumerate() {
            statement.raw_bind_parameter(at + 2, *key)?;
        }
        let mut rows = statement.raw_query();
        rows.next()?.map(read).transpose()
    }

    fn write_all(&mut self, writes: &Writes) -> Result<(), StoreError> {
        let tenant = match self.tenant {
            Some(tenant) => tenant,
            None => {
                let mut new =
                    self.connection.prepare_cached("INSERT INTO tenants(name, version) VALUES (?1, 0)")?;
                new.insert([&self.identity.tenant])?
            }
        };
        self.tenant = Some(tenant);
        if let Some((client, epoch)) = &writes.client {
            let mut put = self.connection.prepare_cached(
                "INSERT INTO clients(tenant, client_id, epoch) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET epoch = excluded.epoch",
            )?;
            put.execute(params![tenant, client, number(*epoch)?])?;
        }
        if let Some(version) = writes.version {
            let mut set = self.connection.prepare_cached("UPDATE tenants SET version = ?2 WHERE id = ?1")?;
            set.execute(params![tenant, number(version)?])?;
        }
        let mut put = self.connection.prepare_cached(
            "INSERT INTO records(tenant, entity_type, entity_id, version, fields) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET version = excluded.version, fields = excluded.fields",
        )?;
        for (entity_type, entity_id, stored) in &writes.records {
            let fields = stored.fields.as_ref().map(Fields::to_json);
            put.execute(params![tenant, entity_type, entity_id, number(stored.version)?, fields])?;
        }
        let mut remember = self.connection.prepare_cached(
            "INSERT INTO seen(tenant, key, client, task_id, fingerprint, status, version, more)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        // All keys of one request are of one client.
        let mut client: Option<(&str, i64)> = None;
        for (key, seen) in &writes.seen {
            let id = match client {
                Some((name, id)) if name == seen.client_id => id,
                _ => self.client(&seen.client_id)?,
            };
            client = Some((&seen.client_id, id));
            let (status, version, more) = flat(&seen.result)?;
            remember.execute(params![
                tenant,
                key,
                id,
                seen.task_id,
                seen.fingerprint.0,
                status,
                version,
                more
            ])?;
        }
        Ok(())
    }

    fn client(&self, client_id: &str) -> Result<i64, StoreError> {
        let sql = "SELECT id FROM clients WHERE tenant = ?1 AND client_id = ?2";
        self.one(sql, &[client_id], |row| Ok(row.get(0)?))?.ok_or(StoreError::Damaged("client"))
    }
}

impl Records for SqliteRecords<'_> {
    fn identity(&self) -> Result<Identity, RecordsError> {
        Ok(self.identity.clone())
    }

    fn client_epoch(&self, client_id: &str) -> Result<Option<u64>, RecordsError> {
        let sql = "SELECT epoch FROM clients WHERE tenant = ?1 AND client_id = ?2";
        Ok(self.one(sql, &[client_id], |row| version(row, 0))?)
    }

    fn seen(&self, key: &str) -> Result<Option<Seen>, RecordsError> {
        let sql = "SELECT c.client_id, s.task_id, s.fingerprint, s.status, s.version, s.more
                   FROM seen s LEFT JOIN clients c ON c.id = s.client WHERE s.tenant = ?1 AND s.key = ?2";
        let read = |row: &Row<'_>| {
            let print: [u8; 32] = row.get(2)?;
            Ok(Seen {
                client_id: row.get::<_, Option<String>>(0)?.ok_or(StoreError::Damaged("client"))?,
                task_id: row.get(1)?,
                fingerprint: Fingerprint(print),
                result: unflat(key, row.get(3)?, row.get(4)?, row.get::<_, Option<String>>(5)?)?,
            })
        };
        Ok(self.one(sql, &[key], read)?)
    }

    fn record(&self, entity_type: &str, entity_id: &str) -> Result<Option<Stored>, RecordsError> {
        let sql =
            "SELECT version, fields FROM records WHERE tenant = ?1 AND entity_type = ?2 AND entity_id = ?3";
        let read = |row: &Row<'_>| Ok(Stored { version: version(row, 0)?, fields: fields(row, 1)? });
        Ok(self.one(sql, &[entity_type, entity_id], read)?)
    }

    fn version(&self) -> Result<u64, RecordsError> {
        let sql = "SELECT version FROM tenants WHERE id = ?1";
        Ok(self.one(sql, &[], |row| version(row, 0))?.unwrap_or(0))
    }

    fn changed_after(
        &self,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<(Vec<Record>, bool), RecordsError> {
        let page = || -> Result<(Vec<Record>, bool), StoreError> {
            let mut statement = self.connection.prepare_cached(
                "SELECT entity_type, entity_id, version, fields FROM records
                 WHERE tenant = ?1 AND version > ?2 ORDER BY version",
            )?;
            let mut rows = statement.query(params![self.tenant, number(after)?])?;
            let (mut page, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                let size = row.get_ref(3)?.as_str_or_null().ok().flatten().map_or(0, str::len);
                if page.len() == limit || (!page.is_empty() && bytes + size > max_bytes) {
                    return Ok((page, true));
                }
                bytes += size;
                let stored = Stored { version: version(row, 2)?, fields: fields(row, 3)? };
                page.push(stored.into_record(row.get::<_, String>(0)?, row.get::<_, String>(1)?));
            }
            Ok((page, false))
        };
        Ok(page()?)
    }

    fn write(&mut self, writes: &Writes) -> Result<(), RecordsError> {
        Ok(self.write_all(writes)?)
    }
}

/// A result as three columns; the JSON only if status and version are not all.
fn flat(result: &TaskResult) -> Result<(i64, Option<i64>, Option<String>), StoreError> {
    let status = match result.status {
        Status::Applied => 0,
        Status::Conflict => 1,
        Status::Rejected => 2,
        Status::Duplicate | Status::Retry | Status::Other(_) => return Err(StoreError::Damaged("status")),
    };
    let bare =
        TaskResult { version: result.version.clone(), ..TaskResult::new(&result.key, result.status.clone()) };
    let more = if bare == *result {
        None
    } else {
        Some(serde_json::to_string(result).map_err(|_| StoreError::Damaged("result"))?)
    };
    let version =
        result.version.as_ref().map(|text| text.parse().map_err(|_| StoreError::Damaged("version")));
    Ok((status, version.transpose()?, more))
}

fn unflat(
    key: &str,
    status: i64,
    version: Option<i64>,
    more: Option<String>,
) -> Result<TaskResult, StoreError> {
    if let Some(json) = more {
        return serde_json::from_str(&json).map_err(|_| StoreError::Damaged("result"));
    }
    let status = match status {
        0 => Status::Applied,
        1 => Status::Conflict,
        2 => Status::Rejected,
        _ => return Err(StoreError::Damaged("status")),
    };
    Ok(TaskResult { version: version.map(|number| number.to_string()), ..TaskResult::new(key, status) })
}

fn version(row: &Row<'_>, column: usize) -> Result<u64, StoreError> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|_| StoreError::Damaged("version"))
}

fn number(version: u64) -> Result<i64, StoreError> {
    i64::try_from(version).map_err(|_| StoreError::Damaged("version"))
}

fn fields(row: &Row<'_>, column: usize) -> Result<Option<Fields>, StoreError> {
    let text = row.get_ref(column)?.as_str_or_null().map_err(|_| StoreError::Damaged("record"))?;
    text.map(Fields::from_json).transpose().map_err(|_| StoreError::Damaged("record"))
}
