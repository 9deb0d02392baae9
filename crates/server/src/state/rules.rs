//! What one task does to one record: a table, `decide`, and the checks before it.
//!
//! Knows neither keys nor groups nor storage. Tests: `tests/rules.rs` runs the whole table.

use landfall_protocol::{ErrorDetail, Fields, Operation, Task, task_code};

use super::Stored;
use super::fingerprint::compact;
use crate::limits::{ID_BYTES, KEY_CHARS};

/// What is to happen.
#[derive(Debug)]
pub(super) enum Decision {
    /// The record becomes these fields. `tell` if the client cannot know all of them by itself.
    Put { fields: Fields, tell: bool },
    /// The record becomes a tombstone.
    Remove,
    /// All is as wanted already.
    Keep,
    /// Ask the policy.
    Act,
    /// The record is not in the state the task relies on.
    Conflict,
    /// Never.
    Reject(ErrorDetail),
}

/// The table: operation × record × base version.
///
/// | | live, base absent or current | live, base outdated | tombstone | never existed |
/// |---|---|---|---|---|
/// | create | conflict | conflict | put (base absent or current) | put |
/// | update | patch | conflict | conflict | rejected `not_found` |
/// | upsert, replace | patch / put | conflict | put (base absent or current) | put (only without base) |
/// | delete | remove | conflict | keep | remove (leaves a tombstone) |
/// | action | act | conflict | act (base absent or current) | act (only without base) |
pub(super) fn decide(task: &Task, current: Option<&Stored>) -> Decision {
    let base = task.base_version.as_deref();
    let at_base = base.is_none_or(|base| current.is_some_and(|stored| stored.version.to_string() == base));
    let live = current.and_then(|stored| stored.fields.as_ref());
    let put = |fields: &Fields, tell| Decision::Put { fields: compact(fields), tell };
    match (&task.operation, current, live) {
        (Operation::Create, _, Some(_)) => Decision::Conflict,
        (Operation::Create, None, None) => put(&task.fields, false),
        (Operation::Create, Some(_), None) if at_base => put(&task.fields, false),

        (Operation::Update, None, _) => {
            Decision::Reject(ErrorDetail::new(task_code::NOT_FOUND, "there is no record to update"))
        }
        (Operation::Update | Operation::Upsert, _, Some(fields)) if at_base => {
            Decision::Put { fields: patched(fields.clone(), task), tell: base.is_none() }
        }
        (Operation::Replace, _, Some(_)) if at_base => put(&task.fields, false),
        (Operation::Upsert | Operation::Replace, _, None) if at_base => put(&task.fields, false),

        (Operation::Delete, None, _) => Decision::Remove,
        (Operation::Delete, Some(_), None) => Decision::Keep,
        (Operation::Delete, _, Some(_)) if at_base => Decision::Remove,

        (Operation::Action, ..) if at_base => Decision::Act,

        (Operation::Other(name), ..) => Decision::Reject(ErrorDetail::new(
            task_code::MALFORMED,
            format!("operation {:?} is not known", shortened(name)),
        )),
        (
            Operation::Create
            | Operation::Update
            | Operation::Upsert
            | Operation::Replace
            | Operation::Delete
            | Operation::Action,
            ..,
        ) => Decision::Conflict,
    }
}

/// Only the fields the task names change.
fn patched(mut fields: Fields, task: &Task) -> Fields {
    for (name, value) in compact(&task.fields) {
        fields.insert(name, value);
    }
    for name in &task.unset {
        fields.remove(name);
    }
    fields
}

/// Is the task readable as a whole? Its key is looked at by [`key_is_usable`].
pub(super) fn check(task: &Task) -> Result<(), ErrorDetail> {
    let malformed = |message: &str| Err(ErrorDetail::new(task_code::MALFORMED, message));
    for (text, name) in [(&task.entity_type, "entity_type"), (&task.entity_id, "entity_id")] {
        if text.is_empty() || text.len() > ID_BYTES {
            return malformed(&format!("{name} must have 1 to {ID_BYTES} bytes"));
        }
    }
    if task.task_id.len() > ID_BYTES {
        return malformed(&format!("task_id must have at most {ID_BYTES} bytes"));
    }
    if task.unset.iter().any(|name| task.fields.contains(name)) {
        return malformed("a field is set and unset at once");
    }
    Ok(())
}

/// 1 to 255 printable ASCII characters; anything else cannot be stored and is only refused.
pub(super) fn key_is_usable(key: &str) -> bool {
    !key.is_empty() && key.len() <= KEY_CHARS && key.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
