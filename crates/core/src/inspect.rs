//! Where a record stands: pure questions to a store, for whoever shows them to a person.
//!
//! Tests: `tests/conflicts.rs` of `landfall-testkit`.

use crate::entity::{Body, StoredEntity};
use crate::id::{EntityKey, TaskId, Version};
use crate::store::{Page, StoreError, StoreRead};
use crate::task::{StateKind, Task, Verdict};
use crate::value::Fields;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// How far a record is synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityStatus {
    /// Nothing is known of it.
    Unknown,
    /// Everything the app changed is confirmed.
    Synced,
    /// A change waits to be sent.
    Pending,
    /// A change is on its way.
    InFlight,
    /// A change was sent, and nobody knows yet whether it took effect.
    FateUnknown,
    /// A change waits for a decision between two sides.
    Conflict,
    /// A change was refused for good and waits for a decision.
    Dead,
}

/// A record as the app calls it, whichever of its two names `key` is.
///
/// # Errors
/// When the store cannot be read.
pub fn local_key(store: &dyn StoreRead, key: &EntityKey) -> Result<EntityKey, StoreError> {
    let entity_id = store.local_id(key)?.unwrap_or_else(|| key.entity_id.clone());
    Ok(EntityKey { entity_id, ..key.clone() })
}

/// How far a record is synced: what its first queued change waits for decides.
///
/// # Errors
/// When the store cannot be read.
pub fn entity_status(store: &dyn StoreRead, key: &EntityKey) -> Result<EntityStatus, StoreError> {
    Ok(match store.next_of_entity(key, 0)? {
        Some(task) => match task.state.kind() {
            StateKind::Pending => EntityStatus::Pending,
            StateKind::InFlight => EntityStatus::InFlight,
            StateKind::Unknown => EntityStatus::FateUnknown,
            StateKind::Conflict => EntityStatus::Conflict,
            StateKind::Dead => EntityStatus::Dead,
        },
        None if store.entity(key)?.is_some_and(|entity| entity.base.is_some()) => EntityStatus::Synced,
        None => EntityStatus::Unknown,
    })
}

/// What has become of a task, or where it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// The backend has its effect, or has what it wanted.
    Done {
        /// How it ended.
        verdict: Verdict,
        /// The record's version after it.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<Version>,
    },
    /// It has ended without effect.
    GivenUp {
        /// How.
        verdict: Verdict,
    },
    /// It is still in the queue.
    Queued {
        /// The task that carries it now: a conflict or a retry may have put another one in its place.
        task: TaskId,
        /// Its state.
        state: StateKind,
    },
    /// Neither the queue nor the journal knows it: it never was, or the journal has forgotten it.
    Unknown,
}

impl Fate {
    /// Whether waiting longer can change it without a person.
    pub const fn may_change(&self) -> bool {
        matches!(
            self,
            Self::Queued { state: StateKind::Pending | StateKind::InFlight | StateKind::Unknown, .. }
        )
    }
}

/// What has become of a task, also after it went on as another one.
///
/// # Errors
/// When the store cannot be read.
pub fn fate(store: &dyn StoreRead, mut id: TaskId) -> Result<Fate, StoreError> {
    loop {
        if let Some(task) = store.task(id)? {
            return Ok(Fate::Queued { task: id, state: task.state.kind() });
        }
        let Some(entry) = store.journal(id)? else { return Ok(Fate::Unknown) };
        match entry.became {
            Some(next) => id = next,
            None if entry.verdict.is_done() => {
                return Ok(Fate::Done { verdict: entry.verdict, version: entry.version });
            }
            None => return Ok(Fate::GivenUp { verdict: entry.verdict }),
        }
    }
}

/// Which tasks are asked for; every condition that is given must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskFilter {
    /// In this state.
    pub state: Option<StateKind>,
    /// Of this record type.
    pub entity_type: Option<String>,
    /// Of the record with this id.
    pub entity_id: Option<String>,
    /// In this named lane.
    pub lane: Option<String>,
    /// With this tag.
    pub tag: Option<String>,
    /// Of this group.
    pub group: Option<String>,
}

impl TaskFilter {
    /// Whether a task is asked for.
    pub fn fits(&self, task: &Task) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        self.state.is_none_or(|state| task.state.kind() == state)
            && is(&self.entity_type, Some(&task.entity.entity_type))
            && is(&self.entity_id, Some(&task.entity.entity_id))
            && is(&self.lane, task.lane.as_deref())
            && is(&self.group, task.terms.group.as_deref())
            && self.tag.as_ref().is_none_or(|tag| task.terms.tags.contains(tag))
    }
}

/// A page of the tasks that are asked for, and where the next page begins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FoundTasks {
    /// The tasks, in order, and damaged rows met on the way.
    pub page: Page,
    /// Behind which position the next page begins; `None` when this was the last.
    pub next: Option<u64>,
}

/// Up to `limit` tasks that are asked for, with a position greater than `after`, in order of position.
///
/// # Errors
/// When the store cannot be read.
pub fn find_tasks(
    store: &dyn StoreRead,
    filter: &TaskFilter,
    mut after: u64,
    limit: usize,
) -> Result<FoundTasks, StoreError> {
    /// Rows read at a time: bounds memory, not work.
    const ROWS: usize = 500;
    let mut found = FoundTasks::default();
    if limit == 0 {
        return Ok(found);
    }
    loop {
        let rows = match (&filter.state, &filter.entity_type, &filter.entity_id) {
            (_, Some(entity_type), Some(entity_id)) => {
                let key = EntityKey::new(entity_type.clone(), entity_id.clone());
                let task = store.next_of_entity(&key, after)?;
                Page { tasks: task.into_iter().collect(), damaged: Vec::new() }
            }
            (Some(state), _, _) => store.tasks_in_state(*state, after, ROWS)?,
            _ => store.tasks_after(after, ROWS)?,
        };
        if rows.tasks.is_empty() && rows.damaged.is_empty() {
            return Ok(found);
        }
        found.page.damaged.extend(rows.damaged.iter().cloned());
        let read_to =
            rows.tasks.iter().map(|task| task.seq).chain(rows.damaged.iter().map(|row| row.seq)).max();
        for task in rows.tasks {
            let seq = task.seq;
            if filter.fits(&task) {
                found.page.tasks.push(task);
                if found.page.tasks.len() == limit {
                    found.next = Some(seq);
                    found.page.damaged.retain(|row| row.seq <= seq);
                    return Ok(found);
                }
            }
        }
        after = read_to.unwrap_or(after);
    }
}

/// The fields in which what the app sees differs from what the backend confirmed; of a record that is gone on one
/// side, every field of the other. Computed, never flagged.
pub fn dirty_fields(entity: &StoredEntity) -> BTreeSet<&str> {
    let base = entity.base.as_ref().and_then(|base| base.body.fields());
    let local = entity.local.as_ref().and_then(Body::fields);
    let differs = |fields: Option<&Fields>, name: &str, other: Option<&Fields>| {
        fields.and_then(|fields| fields.value(name)) != other.and_then(|other| other.value(name))
    };
    let names = base.into_iter().chain(local).flat_map(|fields| fields.0.keys());
    names.map(alloc::string::String::as_str).filter(|name| differs(local, name, base)).collect()
}
