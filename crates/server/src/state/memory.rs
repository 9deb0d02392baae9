//! [`MemoryRecords`]: one tenant's records in ordered maps, for simulators and tests.
//!
//! Deterministic and `Clone` (a clone is a backup: restoring it is how a simulator makes a server go back in
//! time). It keeps a log of all effects, which a real storage has no need of. Tests: `tests/rules.rs`.

use std::collections::BTreeMap;

use landfall_protocol::Record;

use super::{Effect, Identity, Records, RecordsError, Seen, Stored, Writes};

/// The records of one tenant of one server, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryRecords {
    identity: Identity,
    clients: BTreeMap<String, u64>,
    seen: BTreeMap<String, Seen>,
    records: BTreeMap<(String, String), Stored>,
    by_version: BTreeMap<u64, (String, String)>,
    version: u64,
    effects: Vec<Effect>,
}

impl MemoryRecords {
    /// An empty database of this name, tenant `default`.
    pub fn new(server_id: impl Into<String>) -> Self {
        Self {
            identity: Identity { server_id: server_id.into(), tenant: "default".to_owned() },
            clients: BTreeMap::new(),
            seen: BTreeMap::new(),
            records: BTreeMap::new(),
            by_version: BTreeMap::new(),
            version: 0,
            effects: Vec::new(),
        }
    }

    /// The same records under another name: what an operator does after restoring a backup.
    pub fn rename(&mut self, server_id: impl Into<String>) {
        self.identity.server_id = server_id.into();
    }

    /// The database's name.
    pub fn server_id(&self) -> &str {
        &self.identity.server_id
    }

    /// Every execution of a task so far, oldest first.
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    /// Every key and what is stored under it.
    pub fn all_seen(&self) -> impl Iterator<Item = (&str, &Seen)> {
        self.seen.iter().map(|(key, seen)| (key.as_str(), seen))
    }

    /// Every record and tombstone: entity type, entity id, record.
    pub fn all_records(&self) -> impl Iterator<Item = (&str, &str, &Stored)> {
        self.records.iter().map(|((kind, id), stored)| (kind.as_str(), id.as_str(), stored))
    }

    /// One record or tombstone.
    pub fn stored(&self, entity_type: &str, entity_id: &str) -> Option<&Stored> {
        self.records.get(&(entity_type.to_owned(), entity_id.to_owned()))
    }

    /// Every client and the highest epoch seen of it.
    pub fn all_clients(&self) -> impl Iterator<Item = (&str, u64)> {
        self.clients.iter().map(|(id, epoch)| (id.as_str(), *epoch))
    }

    /// The last version given out; 0 before the first.
    pub fn last_version(&self) -> u64 {
        self.version
    }
}

impl Records for MemoryRecords {
    fn identity(&self) -> Result<Identity, RecordsError> {
        Ok(self.identity.clone())
    }

    fn client_epoch(&self, client_id: &str) -> Result<Option<u64>, RecordsError> {
        Ok(self.clients.get(client_id).copied())
    }

    fn seen(&self, key: &str) -> Result<Option<Seen>, RecordsError> {
        Ok(self.seen.get(key).cloned())
    }

    fn record(&self, entity_type: &str, entity_id: &str) -> Result<Option<Stored>, RecordsError> {
        Ok(self.stored(entity_type, entity_id).cloned())
    }

    fn version(&self) -> Result<u64, RecordsError> {
        Ok(self.version)
    }

    fn changed_after(
        &self,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<(Vec<Record>, bool), RecordsError> {
        let Some(from) = after.checked_add(1) else { return Ok((Vec::new(), false)) };
        let (mut page, mut bytes) = (Vec::new(), 0);
        for entity in self.by_version.range(from..).map(|(_, entity)| entity) {
            let Some(stored) = self.records.get(entity) else { continue };
            let size = stored.fields.as_ref().map_or(0, |fields| fields.to_json().len());
            if page.len() == limit || (!page.is_empty() && bytes + size > max_bytes) {
                return Ok((page, true));
            }
            bytes += size;
            page.push(stored.clone().into_record(&entity.0, &entity.1));
        }
        Ok((page, false))
    }

    fn keeps_effects(&self) -> bool {
        true
    }

    fn write(&mut self, writes: &Writes) -> Result<(), RecordsError> {
        if let Some((client, epoch)) = &writes.client {
            self.clients.insert(client.clone(), *epoch);
        }
        self.version = writes.version.unwrap_or(self.version);
        for (kind, id, stored) in &writes.records {
            let entity = (kind.clone(), id.clone());
            self.by_version.insert(stored.version, entity.clone());
            if let Some(old) = self.records.insert(entity, stored.clone()) {
                self.by_version.remove(&old.version);
            }
        }
        self.seen.extend(writes.seen.iter().cloned());
        self.effects.extend(writes.effects.iter().cloned());
        Ok(())
    }
}
