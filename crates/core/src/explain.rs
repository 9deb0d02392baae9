//! Why a task has not been sent: the exact thing it waits for, and when that can change.
//!
//! Pure questions to a store; what only a running engine knows is handed in. Tests: `tests/lifecycle` of
//! `landfall-testkit`.

use crate::change::Operation;
use crate::device::Constraint;
use crate::failure::FailureKind;
use crate::id::{ConflictId, EntityKey, TaskId};
use crate::machine::passed_by;
use crate::store::{ConflictQuery, Lease, StoreError, StoreRead};
use crate::task::{StateKind, Task, TaskState};
use crate::time::Timestamp;
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// What a running engine knows beside the store.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Whether a run of `sync` is under way.
    pub syncing: bool,
    /// What holds everything back.
    pub gate: Option<(FailureKind, String)>,
    /// When that ends by itself, if it does.
    pub gate_until: Option<Timestamp>,
    /// Whether the network is metered.
    pub metered: bool,
    /// Whether runs begin by themselves.
    pub is_automatic: bool,
    /// Whether the host has put the app to sleep.
    pub is_suspended: bool,
    /// What the device does not meet of the conditions for running by itself.
    pub unmet: Option<Constraint>,
    /// Until when nothing is tried because the device says that it has no network.
    pub offline_until: Option<Timestamp>,
    /// When the next run begins by itself, if that is known.
    pub next_run: Option<Timestamp>,
}

/// Where a task stands, and all it waits for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// The task.
    pub task: TaskId,
    /// Its record.
    pub entity: EntityKey,
    /// Its state.
    pub state: StateKind,
    /// Everything that it waits for, the nearest first; empty: nothing, it goes out with the next run of `sync`.
    pub waits_for: Vec<Wait>,
}

/// One thing that a task waits for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Wait {
    /// It is on its way.
    Answer,
    /// It was refused or given up, and somebody must decide: retry, edit or discard.
    DeadLetter {
        /// Why.
        why: FailureKind,
    },
    /// Both sides changed the record, and somebody must decide.
    Conflict {
        /// The conflict, if it can be read.
        conflict: Option<ConflictId>,
    },
    /// The end of a backoff, or of a debounce.
    Backoff {
        /// When.
        until: Timestamp,
    },
    /// The moment that the app asked for.
    NotBefore {
        /// When.
        until: Timestamp,
    },
    /// An earlier task of the same record, or one that has passed it while it was a dead letter and is under way.
    EarlierChange(Blocker),
    /// An earlier task of the same named lane.
    Lane {
        /// The lane.
        lane: String,
        /// The task.
        #[serde(flatten)]
        blocker: Blocker,
    },
    /// A task that it depends on.
    Dependency(Blocker),
    /// Another task of its group, which cannot be sent yet.
    Group {
        /// The group.
        group: String,
        /// The task.
        #[serde(flatten)]
        blocker: Blocker,
    },
    /// Everything is paused.
    Paused,
    /// Its record type is paused.
    TypePaused,
    /// Its lane is paused.
    LanePaused,
    /// An unmetered network.
    UnmeteredNetwork,
    /// Something holds back all tasks: no network, no credentials, a backend that asked for calm.
    Gate {
        /// What.
        why: FailureKind,
        /// For people.
        message: String,
        /// When it ends by itself, if it does.
        until: Option<Timestamp>,
    },
    /// The device says that it has no network.
    Offline {
        /// When it is tried all the same.
        until: Option<Timestamp>,
    },
    /// The device does not meet a condition for running by itself.
    Condition {
        /// Which.
        unmet: Constraint,
    },
    /// The host has put the app to sleep.
    Suspended,
    /// Another process is sending.
    Lease {
        /// The holder in its own words.
        holder: String,
        /// When it is taken over if it falls silent.
        until: Timestamp,
    },
    /// The next run, which begins by itself.
    NextRun {
        /// When.
        at: Timestamp,
    },
    /// A run of `sync`.
    Sync,
}

impl Wait {
    /// Every reason, by the word under which it is serialised.
    pub const REASONS: [&'static str; 20] = [
        "answer",
        "dead_letter",
        "conflict",
        "backoff",
        "not_before",
        "earlier_change",
        "lane",
        "dependency",
        "group",
        "paused",
        "type_paused",
        "lane_paused",
        "unmetered_network",
        "gate",
        "offline",
        "condition",
        "suspended",
        "lease",
        "next_run",
        "sync",
    ];

    /// The word for it, as it is serialised.
    pub const fn reason(&self) -> &'static str {
        Self::REASONS[match self {
            Self::Answer => 0,
            Self::DeadLetter { .. } => 1,
            Self::Conflict { .. } => 2,
            Self::Backoff { .. } => 3,
            Self::NotBefore { .. } => 4,
            Self::EarlierChange(_) => 5,
            Self::Lane { .. } => 6,
            Self::Dependency(_) => 7,
            Self::Group { .. } => 8,
            Self::Paused => 9,
            Self::TypePaused => 10,
            Self::LanePaused => 11,
            Self::UnmeteredNetwork => 12,
            Self::Gate { .. } => 13,
            Self::Offline { .. } => 14,
            Self::Condition { .. } => 15,
            Self::Suspended => 16,
            Self::Lease { .. } => 17,
            Self::NextRun { .. } => 18,
            Self::Sync => 19,
        }]
    }

    /// Whether somebody has asked for this wait, or owes a decision: then it is nobody's fault that nothing moves.
    pub(crate) const fn is_wished(&self) -> bool {
        if let Self::EarlierChange(blocker)
        | Self::Dependency(blocker)
        | Self::Lane { blocker, .. }
        | Self::Group { blocker, .. } = self
        {
            return matches!(blocker.state, StateKind::Dead | StateKind::Conflict);
        }
        matches!(
            self,
            Self::DeadLetter { .. }
                | Self::Conflict { .. }
                | Self::NotBefore { .. }
                | Self::Paused
                | Self::TypePaused
                | Self::LanePaused
                | Self::UnmeteredNetwork
                | Self::Condition { .. }
                | Self::Suspended
        )
    }

    /// When it ends by itself, if that is known.
    pub const fn ends_at(&self) -> Option<Timestamp> {
        match self {
            Self::Backoff { until } | Self::NotBefore { until } | Self::Lease { until, .. } => Some(*until),
            Self::Gate { until, .. } | Self::Offline { until } => *until,
            Self::NextRun { at } => Some(*at),
            _ => None,
        }
    }
}

/// A task that is in the way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Blocker {
    /// The task.
    pub task: TaskId,
    /// Its record.
    pub entity: EntityKey,
    /// What it does.
    pub operation: Operation,
    /// Where it stands.
    pub state: StateKind,
}

impl From<&Task> for Blocker {
    fn from(task: &Task) -> Self {
        Self {
            task: task.id,
            entity: task.entity.clone(),
            operation: task.intent.operation,
            state: task.state.kind(),
        }
    }
}

/// Why a task has not been sent; `None` when it is not in the queue.
///
/// # Errors
/// When the store cannot be read, or the task's row is damaged.
pub fn explain(
    store: &dyn StoreRead,
    id: TaskId,
    now: Timestamp,
    live: &Live,
) -> Result<Option<Explanation>, StoreError> {
    let Some(task) = store.task(id)? else { return Ok(None) };
    let mut waits_for = Vec::new();
    match task.state {
        TaskState::InFlight { .. } => waits_for.push(Wait::Answer),
        TaskState::Dead { why } => waits_for.push(Wait::DeadLetter { why }),
        TaskState::Conflict => waits_for.push(Wait::Conflict { conflict: conflict_of(store, &task)? }),
        TaskState::Pending { .. } | TaskState::Unknown { .. } => {
            before_it(store, &task, now, &mut waits_for)?;
            of_its_own(store, &task, now, live, &mut waits_for)?;
            // The rest of its group may have waited for a moment that only one of them had to wait for.
            if let Some(until) = task.claim_at.filter(|at| waits_for.is_empty() && *at > now) {
                waits_for.push(Wait::Backoff { until });
            }
            if waits_for.is_empty() && !live.syncing {
                // A killed holder leaves its lease behind.
                let held = |lease: &Lease| !lease.holder.is_empty() && lease.expires_at > now;
                waits_for.push(match (store.lease()?.filter(held), live.next_run) {
                    (Some(lease), _) => Wait::Lease { holder: lease.holder, until: lease.expires_at },
                    (None, Some(at)) => Wait::NextRun { at },
                    (None, _) => Wait::Sync,
                });
            }
        }
    }
    Ok(Some(Explanation { task: id, entity: task.entity, state: task.state.kind(), waits_for }))
}

fn conflict_of(store: &dyn StoreRead, task: &Task) -> Result<Option<ConflictId>, StoreError> {
    /// Conflicts of one record that wait are few.
    const MANY: usize = 64;
    let which =
        ConflictQuery { entity: Some(task.entity.clone()), open_only: true, ..ConflictQuery::default() };
    let page = store.conflicts(&which, MANY)?;
    Ok(page.conflicts.into_iter().find(|record| record.task_id == task.id).map(|record| record.id))
}

/// Other tasks that are in the way.
fn before_it(
    store: &dyn StoreRead,
    task: &Task,
    now: Timestamp,
    waits: &mut Vec<Wait>,
) -> Result<(), StoreError> {
    for parent in &task.terms.waits_for {
        if let Some(parent) = store.task(*parent)? {
            waits.push(Wait::Dependency(Blocker::from(&parent)));
        }
    }
    // Who is under way may have passed those before it: they wait for it, and not it for them.
    let waits_its_turn = task.claim_at.is_none();
    let first = store.next_in_line(&task.entity, 0)?;
    if let Some(first) = first.filter(|first| waits_its_turn && first.seq < task.seq) {
        waits.push(Wait::EarlierChange(Blocker::from(&first)));
    }
    if let Some(later) = passed_by(store, task)? {
        waits.push(Wait::EarlierChange(Blocker::from(&later)));
    }
    if let Some(lane) = &task.lane {
        let first = store.next_of_lane(lane, 0)?;
        if let Some(first) =
            first.filter(|first| waits_its_turn && first.seq < task.seq && first.entity != task.entity)
        {
            waits.push(Wait::Lane { lane: lane.clone(), blocker: Blocker::from(&first) });
        }
    }
    if let Some(group) = &task.terms.group {
        for member in store.tasks_of_group(group)?.tasks {
            let not_yet = member.claim_at.is_none() || member.due().is_some_and(|due| due > now);
            if member.id != task.id && not_yet && member.state.kind() != StateKind::InFlight {
                waits.push(Wait::Group { group: group.clone(), blocker: Blocker::from(&member) });
            }
        }
    }
    Ok(())
}

/// What the task itself waits for.
fn of_its_own(
    store: &dyn StoreRead,
    task: &Task,
    now: Timestamp,
    live: &Live,
    waits: &mut Vec<Wait>,
) -> Result<(), StoreError> {
    let unsent = matches!(task.state, TaskState::Pending { .. });
    if let Some(until) = task.not_before.filter(|until| unsent && *until > now) {
        waits.push(Wait::NotBefore { until });
    }
    let retry_at = match task.state {
        TaskState::Pending { retry_at } => retry_at,
        TaskState::Unknown { retry_at } => Some(retry_at),
        _ => None,
    };
    if let Some(until) = retry_at.filter(|until| *until > now) {
        waits.push(Wait::Backoff { until });
    }
    let controls = store.controls()?.unwrap_or_default();
    if controls.all {
        waits.push(Wait::Paused);
    }
    if controls.types.contains(&task.entity.entity_type) {
        waits.push(Wait::TypePaused);
    }
    if task.lane.as_ref().is_some_and(|lane| controls.lanes.contains(lane)) {
        waits.push(Wait::LanePaused);
    }
    if task.terms.unmetered_only && (live.metered || (task.standing.held && waits.is_empty())) {
        waits.push(Wait::UnmeteredNetwork);
    }
    if let Some((why, message)) = &live.gate {
        waits.push(Wait::Gate { why: *why, message: message.clone(), until: live.gate_until });
    } else if let Some(calm) =
        store.replica()?.and_then(|replica| replica.calm).filter(|calm| calm.until > now)
    {
        // Another process was asked for it.
        let message = "the backend has asked for calm".into();
        waits.push(Wait::Gate { why: FailureKind::RateLimited, message, until: Some(calm.until) });
    }
    if live.offline_until.is_some_and(|until| until > now) {
        waits.push(Wait::Offline { until: live.offline_until });
    }
    if live.is_automatic && live.is_suspended {
        waits.push(Wait::Suspended);
    }
    if let Some(unmet) = live.unmet {
        waits.push(Wait::Condition { unmet });
    }
    Ok(())
}
