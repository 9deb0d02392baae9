//! What must hold after every step, and after healing. Every check looks at something outside the machine: the
//! server's log of effects, the bytes that left, what the user was told, what the server ever held.

use super::device::Device;
use super::world::body_of;
use landfall_core::adapter::{PushBatch, PushTask};
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::event::Event;
use landfall_core::id::{EntityKey, IdempotencyKey, TaskId};
use landfall_core::store::{ConflictQuery, StoreRead};
use landfall_core::task::{TaskState, Verdict};
use landfall_core::time::Hlc;
use landfall_core::value::{Fields, Value};
use landfall_server::state::{MemoryRecords, Records};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Checks {
    /// Every key that ever left, and the bytes under it.
    sent: BTreeMap<IdempotencyKey, Arc<str>>,
    /// What the server held at each version of each record.
    history: BTreeMap<(EntityKey, String), Body>,
    /// Effects per task, as far as counted.
    effects: BTreeMap<String, u32>,
    counted: usize,
    /// The newest generation of each record that had an effect, per client.
    order: BTreeMap<(String, EntityKey), usize>,
    /// Which task a rebased task stands for: the first one of the chain.
    origin: BTreeMap<TaskId, TaskId>,
    /// In which order tasks were made, by their first ancestor.
    made: BTreeMap<String, usize>,
    /// How tasks ended.
    verdicts: BTreeMap<TaskId, Verdict>,
    /// When the change was made that led to each version of each record.
    stamps: BTreeMap<(EntityKey, String), Hlc>,
    /// Up to which version of the server the history goes.
    noted: u64,
}

impl Checks {
    /// A batch leaves a device: every task of it is durably frozen under its key, and no key has two payloads (G8).
    pub(super) fn leaving(
        &mut self,
        device: &Device,
        tx: &dyn StoreRead,
        batch: &PushBatch,
    ) -> Result<(), String> {
        for task in &batch.tasks {
            let row = tx.task(task.task_id).map_err(|error| error.to_string())?;
            let durable = row.as_ref().and_then(|row| row.frozen.as_ref()).map(|frozen| frozen.key);
            if durable != Some(task.key) {
                return Err(format!(
                    "G8: {} leaves under {} but {durable:?} is durable",
                    task.task_id, task.key
                ));
            }
            if !row.is_some_and(|row| matches!(row.state, TaskState::InFlight { .. })) {
                return Err(format!("G8: {} leaves but is not durably in flight", task.task_id));
            }
            let known = self.sent.entry(task.key).or_insert_with(|| Arc::clone(&task.payload));
            if *known != task.payload {
                return Err(format!("G8: key {} with two payloads: {known} and {}", task.key, task.payload));
            }
            // Who makes a record anew says all that is known of it.
            let anew = task.operation.as_str() == "replace" || self.lies_on_a_tombstone(task);
            // Counts, sets and forks are made of what both sides wrote.
            let mixed = task.entity.entity_type == "counted" || is_fork(&task.entity);
            for (name, value) in fields_of(&task.payload).into_iter().filter(|_| !anew && !mixed) {
                let write = (task.entity.clone(), name, value);
                if !device.belief.written.contains(&write) {
                    return Err(format!("G6: {} sends {write:?}, which its user never wrote", task.task_id));
                }
            }
        }
        Ok(())
    }

    fn lies_on_a_tombstone(&self, task: &PushTask) -> bool {
        let payload = Fields::parse(&task.payload).unwrap_or_default();
        let Some(Value::Text(version)) = payload.value("base_version") else { return false };
        self.history.get(&(task.entity.clone(), version.clone())) == Some(&Body::Deleted)
    }

    pub(super) fn heard(&mut self, device: usize, event: &Event) -> Result<(), String> {
        match event {
            Event::Enqueued { task, .. } => {
                let order = self.made.len();
                self.made.entry(task.to_string()).or_insert(order);
            }
            Event::Settled { task, verdict, .. } => {
                let earlier = self.verdicts.insert(*task, *verdict);
                if earlier.is_some() {
                    return Err(format!("G2: {task} ended twice: {earlier:?} and {verdict:?}"));
                }
            }
            Event::Rebased { task, next, .. } => {
                let first = self.origin.get(task).copied().unwrap_or(*task);
                self.origin.insert(*next, first);
            }
            Event::Conflicted { task, entity, .. } if entity.entity_type == "own" => {
                return Err(format!("device {device} is in conflict with itself about {entity} ({task})"));
            }
            Event::Died { task, why, .. } => return Err(format!("{task} died of {why:?}")),
            _ => {}
        }
        Ok(())
    }

    /// A remote state comes to a device; a backend that keeps times of change would tell this one.
    pub(super) fn stamp(&self, remote: &mut RemoteEntity) {
        let version = remote.version.clone().map(|version| version.0).unwrap_or_default();
        remote.changed_at = self.stamps.get(&(remote.key.clone(), version)).copied();
    }

    /// The server took a request: note what it holds now.
    pub(super) fn remember(&mut self, server: &MemoryRecords, request: &[u8]) {
        let request = serde_json::from_slice::<serde_json::Value>(request).unwrap_or_default();
        for task in request["tasks"].as_array().into_iter().flatten() {
            let text = |name: &str| task[name].as_str().unwrap_or_default();
            let key = EntityKey::new(text("entity_type"), text("entity_id"));
            let Some(stored) = server.stored(&key.entity_type, &key.entity_id) else { continue };
            if let Some(time) = Hlc::parse(text("changed_at")) {
                self.stamps.entry((key, stored.version.to_string())).or_insert(time);
            }
        }
        // What was noted once stays: only what is newer is new.
        let (changed, _) = server.changed_after(self.noted, usize::MAX, usize::MAX).unwrap_or_default();
        for record in changed {
            let at = (EntityKey::new(record.entity_type, record.entity_id), record.version);
            self.history.insert(at, body_of(record.fields.as_ref()));
        }
        self.noted = server.last_version();
    }

    /// Cheap checks after every step.
    pub(super) fn after_step(
        &mut self,
        number: usize,
        device: &Device,
        tx: &dyn StoreRead,
    ) -> Result<(), String> {
        let all = tx.entities_after(None, None, usize::MAX).map_err(|error| error.to_string())?;
        for entity in all.entities {
            let key = entity.key.clone();
            if key.entity_type == "counted" && is_torn(entity.local.as_ref()) {
                return Err(format!("device {number} shows a torn group: {:?}", entity.local));
            }
            if device.belief.own.contains_key(&key) && !device.belief.agrees(&key, entity.local.as_ref()) {
                let wanted = device.belief.own.get(&key);
                return Err(format!(
                    "device {number} shows {:?} for {key}, its user made it {wanted:?}",
                    entity.local
                ));
            }
            let Some(base) = entity.base else { continue };
            let Some(version) = base.version else { continue };
            let held = self.history.get(&(key.clone(), version.0.clone()));
            let real = match (held, &base.body) {
                (Some(Body::Live(held)), Body::Live(base_fields)) if !base.complete => {
                    base_fields.0.iter().all(|(name, value)| held.value(name) == Some(value))
                }
                (Some(held), body) => held == body,
                (None, _) => false,
            };
            if !real {
                return Err(format!(
                    "device {number}: base of {key} at version {version} is {:?}, but the server held {held:?}",
                    base.body
                ));
            }
        }
        Ok(())
    }

    pub(super) fn count_effects(&mut self, server: &MemoryRecords) -> Result<(), String> {
        for effect in &server.effects()[self.counted..] {
            let times = self.effects.entry(effect.task_id.clone()).or_default();
            *times += 1;
            if *times > 1 {
                return Err(format!("G3: {} took effect {times} times", effect.task_id));
            }
            let first = TaskId::parse(&effect.task_id)
                .ok()
                .and_then(|task| self.origin.get(&task))
                .map_or_else(|| effect.task_id.clone(), ToString::to_string);
            if let Some(made) = self.made.get(&first) {
                let entity = EntityKey::new(effect.entity_type.clone(), effect.entity_id.clone());
                let newest = self.order.entry((effect.client_id.clone(), entity.clone())).or_insert(*made);
                if *made < *newest {
                    return Err(format!(
                        "G4: {} took effect after a later change of {entity}",
                        effect.task_id
                    ));
                }
                *newest = *made;
            }
        }
        self.counted = server.effects().len();
        Ok(())
    }

    /// After healing: nothing is left, nothing was lost, and everybody agrees.
    pub(super) fn finally(
        &mut self,
        number: usize,
        device: &Device,
        tx: &dyn StoreRead,
        server: &MemoryRecords,
    ) -> Result<(), String> {
        self.count_effects(server)?;
        let left = tx.tasks_after(0, 10).map_err(|error| error.to_string())?;
        if !left.tasks.is_empty() {
            return Err(format!("device {number} never got rid of {:#?}", left.tasks));
        }
        for task in &device.belief.acknowledged {
            let entry = tx.journal(*task).map_err(|error| error.to_string())?;
            let Some(entry) = entry else {
                return Err(format!("G2: {task} vanished without a journal entry"));
            };
            let effects = self.effects.get(&task.to_string()).copied().unwrap_or(0);
            let applied = matches!(entry.verdict, Verdict::Applied | Verdict::Duplicate);
            if applied != (effects == 1) {
                return Err(format!("G2, G3: {task} ended as {:?} with {effects} effects", entry.verdict));
            }
        }
        for (kind, id, stored) in server.all_records() {
            let key = EntityKey::new(kind, id);
            let held = body_of(stored.fields.as_ref());
            let is_own = kind == "own" && id.starts_with(&format!("d{number}-"));
            if is_own && !device.belief.agrees(&key, Some(&held)) {
                let wanted = device.belief.own.get(&key);
                return Err(format!("the server ends with {held:?} for {key}, its user made it {wanted:?}"));
            }
            let shown = tx.entity(&key).map_err(|error| error.to_string())?.and_then(|entity| entity.local);
            // Of what was deleted before it began to read a device may never have heard.
            let agrees = shown.as_ref() == Some(&held) || (shown.is_none() && held == Body::Deleted);
            if !agrees {
                return Err(format!("device {number} shows {shown:?} for {key}, the server has {held:?}"));
            }
        }
        let all = tx.entities_after(None, None, usize::MAX).map_err(|error| error.to_string())?;
        for entity in all.entities {
            let lives = matches!(entity.local, Some(Body::Live(_)));
            if lives && server.stored(&entity.key.entity_type, &entity.key.entity_id).is_none() {
                return Err(format!("device {number} shows {}, which the server never had", entity.key));
            }
        }
        self.nothing_was_dropped(number, device, tx)?;
        for (key, record) in &device.belief.own {
            if record.is_some() && server.stored(&key.entity_type, &key.entity_id).is_none() {
                return Err(format!("G1: {key} never reached the server"));
            }
        }
        Ok(())
    }

    /// What a user last wrote into each field of a common record was the server's at some time, or is in a conflict
    /// record (G7).
    fn nothing_was_dropped(
        &self,
        number: usize,
        device: &Device,
        store: &dyn StoreRead,
    ) -> Result<(), String> {
        for ((key, name), value) in &device.belief.last {
            // Of any record: every value is written once, and a fork takes it elsewhere.
            let holds = |body: &Body| body.fields().is_some_and(|fields| fields.value(name) == Some(value));
            if self.history.values().any(holds) {
                continue;
            }
            let which = ConflictQuery { entity: Some(key.clone()), ..ConflictQuery::default() };
            let page = store.conflicts(&which, usize::MAX).map_err(|error| error.to_string())?;
            let kept = page.conflicts.iter().any(|record| {
                record.local.fields().is_some_and(|fields| fields.value(name) == Some(value))
                    || fields_of(&record.change).contains(&(name.clone(), format!("{value:?}")))
            });
            if !kept {
                return Err(format!(
                    "G7: device {number} wrote {name} = {value:?} into {key}, and it is nowhere"
                ));
            }
        }
        Ok(())
    }
}

/// Every count of every device is in the sum, and every item that anybody added is in the set.
pub(super) fn counts_add_up(devices: &[Device], server: &MemoryRecords) -> Result<(), String> {
    let stored = server.stored("counted", "c").ok_or("the counted record is gone")?;
    let held = body_of(stored.fields.as_ref());
    let Body::Live(fields) = &held else { return Err("the counted record is gone".into()) };
    let sum: i64 = devices.iter().map(|device| device.belief.counted).sum();
    if fields.value("n") != Some(&sum.into()) {
        return Err(format!("the counter ends at {:?}, all counts together are {sum}", fields.value("n")));
    }
    let Some(Value::List(items)) = fields.value("s") else { return Err("the set is gone".into()) };
    for added in devices.iter().flat_map(|device| &device.belief.added) {
        if !items.contains(&(*added).into()) {
            return Err(format!("{added} was put into the set and is not there: {items:?}"));
        }
    }
    if is_torn(Some(&held)) { Err(format!("a torn group at the server: {held:?}")) } else { Ok(()) }
}

fn is_torn(body: Option<&Body>) -> bool {
    body.and_then(Body::fields).is_some_and(|fields| fields.value("a") != fields.value("b"))
}

fn is_fork(key: &EntityKey) -> bool {
    key.entity_id.len() > 8
}

/// The fields of a frozen payload, with values as the user's bookkeeping writes them.
fn fields_of(payload: &str) -> Vec<(String, String)> {
    let Ok(task) = landfall_core::value::Fields::parse(payload) else { return Vec::new() };
    match task.value("fields") {
        Some(landfall_core::value::Value::Object(fields)) => {
            fields.0.iter().map(|(name, value)| (name.clone(), format!("{value:?}"))).collect()
        }
        _ => Vec::new(),
    }
}
