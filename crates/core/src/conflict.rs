//! Conflicts as data: what is written down when two sides clash, how a person or the app settles one, and what counts
//! as one.
//!
//! Nothing here decides what becomes of a record: `merge.rs` does, and `machine/resolve.rs` carries it out. A record
//! of a conflict holds everything that a rule could have set aside (G7). Tests: at the end of the file, and
//! `tests/conflicts.rs` of `landfall-testkit`.

use crate::adapter::Outcome;
use crate::change::Intent;
use crate::entity::{Base, Body, RemoteEntity};
use crate::id::{ConflictId, EntityKey, TaskId};
use crate::merge::FieldConflict;
use crate::store::StoreError;
use crate::task::Task;
use crate::time::Timestamp;
use crate::value::Value;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// What a conflict was about and how it ended: kept, so that nothing a rule sets aside is ever lost (G7).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConflictRecord {
    /// Its name.
    pub id: ConflictId,
    /// The task that met it.
    pub task_id: TaskId,
    /// The record.
    pub entity: EntityKey,
    /// When.
    pub at: Timestamp,
    /// How it came to light.
    pub found: Found,
    /// What clashed.
    pub why: Why,
    /// What the change was made on; `None` when nothing was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// The record as the change leaves it.
    pub local: Body,
    /// The change itself, as it was or would have been sent: one JSON object.
    pub change: String,
    /// What the backend has; `None` while it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteEntity>,
    /// The strategy or policy in force, in its own word.
    pub rule: String,
    /// Every value that both sides changed, each in its own way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldConflict>,
    /// The record as the rules would have it, undecided values as the app has them; `None` while the backend's state
    /// is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Body>,
    /// How it ended; `None`: it waits in the inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Settled>,
}

/// How a conflict came to light.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// The backend refused what was sent.
    Push,
    /// A remote state came in over a change that was not sent yet.
    Pull,
}

/// What clashed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Both sides changed the same values.
    Fields,
    /// Edited here, deleted there.
    EditedHereDeletedThere,
    /// Deleted here, edited there.
    DeletedHereEditedThere,
    /// The validator refuses what the rules made of both sides; its reason.
    Refused(String),
    /// The backend refused the change and did not say what it has.
    RemoteUnknown,
    /// It came back more often than the bound allows.
    TooManyRounds,
}

/// How a conflict ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settled {
    /// Who decided.
    pub by: DecidedBy,
    /// When.
    pub at: Timestamp,
    /// What the record became for the app.
    pub result: Body,
    /// The task that sends what is still different from the backend; `None` when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_as: Option<TaskId>,
    /// The record that the local side became, if the two were kept apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_to: Option<EntityKey>,
}

/// Who decided a conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// The rules, at once.
    Rule,
    /// A person or the app, through [`Step::resolve`](crate::machine::Step::resolve).
    App,
}

impl ConflictRecord {
    /// Whether it waits for a decision.
    pub const fn is_open(&self) -> bool {
        self.settled.is_none()
    }
}

/// What a person or the app decides about a conflict that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// Every contested value becomes the local one. What only the backend changed stays the backend's (G6).
    KeepLocal,
    /// Every contested value becomes the remote one. What only the app changed is still sent.
    KeepRemote,
    /// The record becomes the local one as a whole, clean fields included: the one way in which fields that the app
    /// did not touch are overwritten.
    ReplaceWithLocal,
    /// The record becomes the remote one as a whole: the change is given up, and stays in the conflict record.
    ReplaceWithRemote,
    /// A choice for some fields; all others as proposed. Named by their path: `damage`, `address.street`; a backslash
    /// takes the next character as it is.
    Fields(BTreeMap<String, Choice>),
    /// The record becomes this.
    Edit(Body),
    /// The remote record stays, and the local one becomes a record of its own.
    Fork,
}

/// What becomes of one field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The local value, or its absence.
    Local,
    /// The remote value, or its absence.
    Remote,
    /// This value.
    Value(Value),
    /// The field goes.
    Remove,
}

/// What a resolution does, or would do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// The conflict.
    pub conflict: ConflictId,
    /// The record.
    pub entity: EntityKey,
    /// What the record becomes.
    pub result: Body,
    /// What is sent so that the backend has the same; `None` when it has.
    pub sends: Option<Intent>,
    /// The task that carries it; `None` when nothing is sent, and in a preview.
    pub task: Option<TaskId>,
    /// The record that the local side becomes, if the two are kept apart.
    pub forks_to: Option<EntityKey>,
}

/// Why a conflict cannot be resolved like this. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// No such conflict is known, or no longer.
    #[error("there is no conflict {0}")]
    NotFound(ConflictId),
    /// It was settled before.
    #[error("the conflict is settled already")]
    Settled,
    /// The backend did not say what it has, so nothing can be laid over it.
    #[error("the backend has not said what it has; pull first, then the conflict is looked at anew")]
    RemoteUnknown,
    /// The record has no such field on either side.
    #[error("{0:?} is no field of this record, on either side")]
    UnknownField(String),
    /// The path is not one that can be read.
    #[error("{0:?} cannot be read as the path of a field")]
    BadPath(String),
    /// A choice of fields needs a record that lives on both sides.
    #[error("the record is deleted on one side: keep one side whole, edit, or fork")]
    DeletedOnOneSide,
    /// The validator refuses the result.
    #[error("the record would not be valid: {0}")]
    Refused(String),
    /// There is nothing to keep apart: the local side is deleted.
    #[error("the local record is deleted; there is nothing to keep apart")]
    NothingToFork,
    /// The value cannot be stored.
    #[error("the value cannot be stored: {0}")]
    BadValue(String),
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Says whether the backend's word on a task is a conflict.
///
/// An adapter sorts answers by what its backend usually means; this looks once more, with the task at hand, for
/// backends that say "conflict" in their own way: a flag, an error code, a version that is not the expected one.
pub trait ConflictDetector: fmt::Debug + Send + Sync {
    /// The conflict that `outcome` tells of, if it tells of one.
    fn detect(&self, task: &Task, outcome: &Outcome) -> Option<Detected>;
}

/// A conflict, as far as the backend told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Detected {
    /// What the backend has; `None` when it did not say.
    pub remote: Option<RemoteEntity>,
}

/// The default: what the adapter calls a conflict, and refusals whose code says so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandardDetector {
    /// Codes of a refusal that mean that the record has moved on.
    pub codes: BTreeSet<String>,
}

impl Default for StandardDetector {
    /// The words that common backends use.
    fn default() -> Self {
        let words = ["conflict", "version_mismatch", "version_conflict", "precondition_failed", "stale"];
        Self { codes: words.into_iter().map(String::from).collect() }
    }
}

impl ConflictDetector for StandardDetector {
    fn detect(&self, _task: &Task, outcome: &Outcome) -> Option<Detected> {
        match outcome {
            Outcome::Conflict { remote } => Some(Detected { remote: remote.clone() }),
            Outcome::Rejected(refusal) if self.codes.contains(&refusal.code) => {
                Some(Detected { remote: None })
            }
            _ => None,
        }
    }
}

/// A shared detector. Two are equal when they are the same one.
#[derive(Clone, Debug)]
pub struct Detector(pub Arc<dyn ConflictDetector>);

impl Default for Detector {
    fn default() -> Self {
        Self(Arc::new(StandardDetector::default()))
    }
}

impl PartialEq for Detector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::{Applied, Rejection};
    use crate::change::Operation;
    use crate::id::ClientId;
    use crate::task::TaskState;
    use crate::time::Hlc;
    use uuid::Uuid;

    fn task() -> Task {
        let entity = EntityKey::new("note", "1");
        Task {
            id: TaskId::derive(ClientId(Uuid::from_u128(7)), &entity, 1),
            seq: 1,
            entity,
            generation: 1,
            intent: Intent::new(Operation::Update),
            schema: 1,
            lane: None,
            priority: 0,
            not_before: None,
            changed_at: Hlc::default(),
            enqueued_at: Timestamp(0),
            state: TaskState::Pending { retry_at: None },
            frozen: None,
            claim_at: None,
            attempts: 0,
            conflict_rounds: 0,
            history: Default::default(),
            terms: Default::default(),
            standing: Default::default(),
        }
    }

    #[test]
    fn a_refusal_whose_code_says_so_is_a_conflict_and_no_other() {
        let refused = |code: &str| {
            Outcome::Rejected(Rejection { code: code.into(), message: String::new(), answer: None })
        };
        let rows = [
            (Outcome::Conflict { remote: None }, true),
            (refused("version_mismatch"), true),
            (refused("precondition_failed"), true),
            (refused("validation"), false),
            (Outcome::Applied(Applied::default()), false),
            (Outcome::Unknown { reason: String::new() }, false),
        ];
        for (outcome, expected) in rows {
            let found = StandardDetector::default().detect(&task(), &outcome);
            assert_eq!(found.is_some(), expected, "{outcome:?}");
        }
    }

    #[test]
    fn settings_are_equal_only_with_the_same_detector() {
        let one = Detector::default();
        assert_eq!(one, one.clone());
        assert_ne!(one, Detector::default(), "nobody can say what another one does");
    }
}
