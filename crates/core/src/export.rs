//! Unsynced work outside of a store: one JSON object per task, enough to take it in again anywhere.
//!
//! What was sent keeps its key and its bytes, so that taking it in again can never make a second effect of it (G3, G8).
//! Tests: `tests/lifecycle` of `landfall-testkit`, and the command line's.

use crate::change::{Intent, Operation};
use crate::entity::Base;
use crate::failure::FailureKind;
use crate::id::{EntityKey, Fingerprint, Generation, IdempotencyKey, TaskId, Version};
use crate::model::Model;
use crate::store::{DamagedRow, StoreError, StoreRead};
use crate::task::{Frozen, History, Standing, StateKind, Task, TaskState, Terms};
use crate::time::{Hlc, Timestamp};
use crate::value::{Fields, Value};
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A task as it stands in an export: one line of JSON.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExportedTask {
    /// The version of this form: 1.
    pub landfall_task: u32,
    /// Whose it is; nothing for the queue without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whose it is, when the name is lost: equal numbers are one account's. Put the name into `identity` and take this out
    /// to have it taken in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_identity: Option<i64>,
    /// Why a rescue did not put it into the queue again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_queued: Option<String>,
    /// The task.
    pub task_id: TaskId,
    /// The record's type.
    pub entity_type: String,
    /// The record's id, as the app calls it.
    pub entity_id: String,
    /// Which change of the record it is.
    pub generation: Generation,
    /// What is to be done.
    pub operation: Operation,
    /// The name of the command, of an action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Fields to set.
    #[serde(default)]
    pub fields: Fields,
    /// Fields to remove.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unset: BTreeSet<String>,
    /// Version of the app's payload format.
    pub schema: u32,
    /// The named lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
    /// Not to be sent before; milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Everything else that the app asked for.
    #[serde(default)]
    pub terms: Terms,
    /// When the app made the newest part of it.
    pub changed_at: Hlc,
    /// When the app made the oldest part of it; milliseconds since 1970.
    pub enqueued_at: Timestamp,
    /// Where it stood.
    pub state: StateKind,
    /// Why it is dead, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<FailureKind>,
    /// What was sent, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Sent>,
    /// Attempts that counted against a limit.
    #[serde(default)]
    pub attempts: u32,
    /// What failed attempts met.
    #[serde(default)]
    pub history: History,
    /// The last state of the record that the backend had confirmed; only with the record's first task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// The backend's id of the record, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
    /// The backend's ids of the records that it refers to, where it gave them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<Named>,
}

/// A record that has two names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// The record's type.
    pub entity_type: String,
    /// The app's id.
    pub entity_id: String,
    /// The backend's id.
    pub server_id: String,
}

/// Bytes that were fixed before they left.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sent {
    /// The key under which they are sent: 32 hexadecimal digits.
    pub key: String,
    /// The exact bytes.
    pub payload: String,
    /// The version of the record that they are based on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_version: Option<Version>,
    /// How often they may have left.
    pub sends: u32,
    /// How many of those sends got no believable answer.
    pub open_sends: u32,
}

/// Why a line of an export cannot be taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadExport {
    /// Another form than this program reads.
    #[error("the export has the form {0}; this program reads 1")]
    Form(u32),
    /// It is not JSON of the expected shape.
    #[error("not an exported task: {0}")]
    Json(String),
    /// A dead task does not say why.
    #[error("a dead task without a reason")]
    NoReason,
    /// The key under which something was sent cannot be read.
    #[error("the idempotency key {0:?} is not 32 hexadecimal digits")]
    Key(String),
}

/// Hands every task of the queue to `visit`, in order, until one is refused. Damaged rows are named apart: nothing of
/// them can be believed.
///
/// # Errors
/// When the store cannot be read, or what `visit` returned.
pub fn each_task<E: From<StoreError>>(
    store: &dyn StoreRead,
    visit: impl FnMut(Result<ExportedTask, DamagedRow>) -> Result<(), E>,
) -> Result<(), E> {
    each_task_of(store, &Model::default(), visit)
}

/// Likewise for an app that declares references: the names of what a task refers to go with it. Without them a reference
/// to a record that has its name from the backend would mean nothing elsewhere.
///
/// # Errors
/// As [`each_task`].
pub fn each_task_of<E: From<StoreError>>(
    store: &dyn StoreRead,
    model: &Model,
    mut visit: impl FnMut(Result<ExportedTask, DamagedRow>) -> Result<(), E>,
) -> Result<(), E> {
    /// Rows read at a time: bounds memory, not work.
    const PAGE: usize = 500;
    let mut after = 0;
    loop {
        let page = store.tasks_after(after, PAGE)?;
        let last = page.tasks.iter().map(|task| task.seq).chain(page.damaged.iter().map(|row| row.seq)).max();
        for row in page.damaged {
            visit(Err(row))?;
        }
        for task in page.tasks {
            let first = store.next_of_entity(&task.entity, 0)?.is_some_and(|first| first.id == task.id);
            // Of a damaged record nothing is known; its tasks go all the same.
            let entity = if first { store.entity(&task.entity).unwrap_or_default() } else { None };
            let server_id = if first { store.server_id(&task.entity)? } else { None };
            let mut exported = ExportedTask::new(&task, entity.and_then(|entity| entity.base), server_id);
            exported.names = names_in(store, model, &exported)?;
            visit(Ok(exported))?;
        }
        match last {
            Some(seq) => after = seq,
            None => return Ok(()),
        }
    }
}

/// What the backend calls the records that a task and the base of its record refer to.
fn names_in(store: &dyn StoreRead, model: &Model, task: &ExportedTask) -> Result<Vec<Named>, StoreError> {
    let mut names = Vec::new();
    let base = task.base.as_ref().and_then(|base| base.body.fields());
    for (field, of_type) in model.references(&task.entity_type).into_iter().flatten() {
        for fields in base.into_iter().chain([&task.fields]) {
            let Some(Value::Text(id)) = fields.value(field) else { continue };
            let key = EntityKey::new(of_type.clone(), id.clone());
            if let Some(server_id) = store.server_id(&key)? {
                let named = Named { entity_type: key.entity_type, entity_id: key.entity_id, server_id };
                if !names.contains(&named) {
                    names.push(named);
                }
            }
        }
    }
    Ok(names)
}

/// The form that is written.
const FORM: u32 = 1;

impl ExportedTask {
    /// A task as it leaves a store, with what is known of its record.
    pub fn new(task: &Task, base: Option<Base>, server_id: Option<String>) -> Self {
        Self {
            landfall_task: FORM,
            identity: None,
            lost_identity: None,
            not_queued: None,
            task_id: task.id,
            entity_type: task.entity.entity_type.clone(),
            entity_id: task.entity.entity_id.clone(),
            generation: task.generation,
            operation: task.intent.operation,
            action: task.intent.action.clone(),
            fields: task.intent.fields.clone(),
            unset: task.intent.unset.clone(),
            schema: task.schema,
            lane: task.lane.clone(),
            priority: task.priority,
            not_before: task.not_before,
            terms: task.terms.clone(),
            changed_at: task.changed_at,
            enqueued_at: task.enqueued_at,
            state: task.state.kind(),
            why: match task.state {
                TaskState::Dead { why } => Some(why),
                _ => None,
            },
            sent: task.frozen.as_ref().map(|frozen| Sent {
                key: frozen.key.to_string(),
                payload: frozen.payload.as_ref().into(),
                base_version: frozen.base_version.clone(),
                sends: frozen.sends,
                open_sends: frozen.open_sends,
            }),
            attempts: task.attempts,
            history: task.history.clone(),
            base,
            server_id,
            names: Vec::new(),
        }
    }

    /// Writes it as one line of JSON, without the line's end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("names and checked values are always JSON")
    }

    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn from_json(line: &str) -> Result<Self, BadExport> {
        let task: Self = serde_json::from_str(line).map_err(|error| BadExport::Json(error.to_string()))?;
        if task.landfall_task == FORM { Ok(task) } else { Err(BadExport::Form(task.landfall_task)) }
    }

    /// The record.
    pub fn entity(&self) -> EntityKey {
        EntityKey::new(self.entity_type.clone(), self.entity_id.clone())
    }

    /// The task, to stand at position `seq`. What was under way is of unknown fate; what waited for a decision is a
    /// dead letter, because the conflict did not travel with it.
    ///
    /// # Errors
    /// [`BadExport`].
    pub fn into_task(self, seq: u64, now: Timestamp) -> Result<Task, BadExport> {
        if self.landfall_task != FORM {
            return Err(BadExport::Form(self.landfall_task));
        }
        let entity = self.entity();
        let under_way = matches!(self.state, StateKind::InFlight | StateKind::Unknown);
        let frozen = match self.sent {
            None => None,
            Some(sent) => Some(Frozen {
                key: IdempotencyKey::parse(&sent.key).map_err(|_| BadExport::Key(sent.key.clone()))?,
                fingerprint: Fingerprint::of(sent.payload.as_bytes()),
                payload: sent.payload.as_str().into(),
                base_version: sent.base_version,
                sends: sent.sends.max(u32::from(under_way)),
                open_sends: sent.open_sends.max(u32::from(under_way)),
            }),
        };
        let state = match self.state {
            StateKind::Pending => TaskState::Pending { retry_at: None },
            StateKind::InFlight | StateKind::Unknown if frozen.is_some() => {
                TaskState::Unknown { retry_at: now }
            }
            StateKind::InFlight | StateKind::Unknown => TaskState::Pending { retry_at: None },
            StateKind::Conflict => TaskState::Dead { why: FailureKind::Rejected },
            StateKind::Dead => TaskState::Dead { why: self.why.ok_or(BadExport::NoReason)? },
        };
        Ok(Task {
            id: self.task_id,
            seq,
            entity,
            generation: self.generation,
            intent: Intent {
                action: self.action,
                fields: self.fields,
                unset: self.unset,
                ..Intent::new(self.operation)
            },
            schema: self.schema,
            lane: self.lane,
            priority: self.priority,
            not_before: self.not_before,
            changed_at: self.changed_at,
            enqueued_at: self.enqueued_at,
            state,
            frozen,
            claim_at: None,
            attempts: self.attempts,
            conflict_rounds: 0,
            history: self.history,
            terms: self.terms,
            standing: Standing::default(),
        })
    }
}
