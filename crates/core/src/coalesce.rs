//! What becomes of a queued change that was never attempted when the next change of the same record comes.
//!
//! The whole table of DESIGN.md section 4, as one function. Whether the queued task may still be changed is decided by
//! [`crate::task::Task::may_coalesce`]. Tests: at the end of the file, one row each.

use crate::change::{Intent, Operation};
use crate::entity::Body;

/// The two changes as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Coalesced {
    /// One task with this intent stays.
    Merged(Intent),
    /// A create and its delete: neither is left.
    Annihilated,
    /// The two stay two tasks: an action is never coalesced.
    Apart,
}

/// Two changes that cannot follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// A create of a record that exists.
    #[error("the record already exists; use update, upsert or replace")]
    AlreadyExists,
    /// An update of a record that was deleted.
    #[error("the record was deleted; use create, upsert or replace to make it again")]
    EntityDeleted,
}

/// Folds `new` into `queued`.
///
/// # Errors
/// [`Contradiction`] where the table has no sensible result.
pub fn coalesce(queued: &Intent, new: &Intent) -> Result<Coalesced, Contradiction> {
    use Operation::{Action, Create, Delete, Replace, Update, Upsert};
    let whole = |operation| Intent { operation, ..new.clone() };
    let merged = |operation| merge(queued, new, operation);
    Ok(Coalesced::Merged(match (queued.operation, new.operation) {
        (Action, _) | (_, Action) => return Ok(Coalesced::Apart),
        (Create | Update | Upsert | Replace, Create) => return Err(Contradiction::AlreadyExists),
        (Create, Delete) => return Ok(Coalesced::Annihilated),
        (Create, Update | Upsert) => merged(Create),
        (Create, Replace) => whole(Create),
        (Update, Update) => merged(Update),
        (Update, Upsert) | (Upsert, Update | Upsert) => merged(Upsert),
        (Replace, Update | Upsert) => merged(Replace),
        (Update | Upsert | Replace, Replace) => whole(Replace),
        (Update | Upsert | Replace | Delete, Delete) => whole(Delete),
        (Delete, Update) => return Err(Contradiction::EntityDeleted),
        (Delete, Create | Upsert | Replace) => Intent { unset: Default::default(), ..whole(Replace) },
    }))
}

/// The last write of each field wins; a set and an unset of one field cancel each other in order.
fn merge(queued: &Intent, new: &Intent, operation: Operation) -> Intent {
    let mut merged = Intent { operation, ..queued.clone() };
    for name in &new.unset {
        merged.unset(name.clone());
    }
    for (name, value) in &new.fields.0 {
        merged.set(name.clone(), value.clone());
    }
    if matches!(operation, Operation::Create | Operation::Replace) {
        // The whole record is given, so a field that is not there is absent without being unset.
        merged.unset.clear();
    }
    merged
}

/// Whether `operation` makes sense for a record that the app sees as `local`; `Ok(false)` when it would change nothing.
///
/// # Errors
/// [`Contradiction`]: the same two as in the table, also after the earlier change was sent.
pub fn admit(local: Option<&Body>, operation: Operation) -> Result<bool, Contradiction> {
    match (local, operation) {
        (Some(Body::Live(_)), Operation::Create) => Err(Contradiction::AlreadyExists),
        (Some(Body::Deleted), Operation::Update) => Err(Contradiction::EntityDeleted),
        (Some(Body::Deleted), Operation::Delete) => Ok(false),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Fields;
    use alloc::vec::Vec;

    /// Queued sets a=1, b=1; new sets b=2, c=2 (a delete carries nothing).
    fn intent(operation: Operation, fields: &[(&str, i32)]) -> Intent {
        let fields: Fields = match operation {
            Operation::Delete => Fields::new(),
            _ => fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        };
        Intent { fields, ..Intent::new(operation) }
    }

    #[test]
    fn every_row_of_the_coalescing_table() {
        use Contradiction::{AlreadyExists, EntityDeleted};
        use Operation::{Create, Delete, Replace, Update, Upsert};
        let both: &[_] = &[("a", 1), ("b", 2), ("c", 2)];
        let new: &[_] = &[("b", 2), ("c", 2)];
        let merged = |operation, fields| Ok(Coalesced::Merged(intent(operation, fields)));
        let table: Vec<(Operation, [Result<Coalesced, Contradiction>; 6])> = alloc::vec![
            // queued     create              update                 upsert                 replace               delete               action
            (
                Create,
                [
                    Err(AlreadyExists),
                    merged(Create, both),
                    merged(Create, both),
                    merged(Create, new),
                    Ok(Coalesced::Annihilated),
                    Ok(Coalesced::Apart)
                ]
            ),
            (
                Update,
                [
                    Err(AlreadyExists),
                    merged(Update, both),
                    merged(Upsert, both),
                    merged(Replace, new),
                    merged(Delete, &[]),
                    Ok(Coalesced::Apart)
                ]
            ),
            (
                Upsert,
                [
                    Err(AlreadyExists),
                    merged(Upsert, both),
                    merged(Upsert, both),
                    merged(Replace, new),
                    merged(Delete, &[]),
                    Ok(Coalesced::Apart)
                ]
            ),
            (
                Replace,
                [
                    Err(AlreadyExists),
                    merged(Replace, both),
                    merged(Replace, both),
                    merged(Replace, new),
                    merged(Delete, &[]),
                    Ok(Coalesced::Apart)
                ]
            ),
            (
                Delete,
                [
                    merged(Replace, new),
                    Err(EntityDeleted),
                    merged(Replace, new),
                    merged(Replace, new),
                    merged(Delete, &[]),
                    Ok(Coalesced::Apart)
                ]
            ),
            (Operation::Action, [const { Ok(Coalesced::Apart) }; 6]),
        ];
        for (queued, row) in table {
            for (operation, expected) in Operation::ALL.into_iter().zip(row) {
                let result = coalesce(&intent(queued, &[("a", 1), ("b", 1)]), &intent(operation, new));
                assert_eq!(result, expected, "{queued} then {operation}");
            }
        }
    }

    #[test]
    fn set_and_unset_cancel_each_other_in_order() {
        let mut queued = intent(Operation::Update, &[("a", 1)]);
        queued.unset("b");
        let mut new = intent(Operation::Update, &[("b", 2)]);
        new.unset("a");
        let Ok(Coalesced::Merged(merged)) = coalesce(&queued, &new) else { panic!("must merge") };
        assert_eq!(merged.fields, Fields::from([("b", 2)]));
        assert!(merged.unset.iter().eq(["a"]));
        let Ok(Coalesced::Merged(created)) =
            coalesce(&intent(Operation::Create, &[("a", 1), ("b", 1)]), &new)
        else {
            panic!("must merge")
        };
        assert_eq!(created.fields, Fields::from([("b", 2)]));
        assert!(created.unset.is_empty(), "a create says all that the record has");
    }

    #[test]
    fn contradictions_are_also_seen_after_the_earlier_change_left() {
        let live = Body::Live(Fields::new());
        assert_eq!(admit(Some(&live), Operation::Create), Err(Contradiction::AlreadyExists));
        assert_eq!(admit(Some(&Body::Deleted), Operation::Update), Err(Contradiction::EntityDeleted));
        assert_eq!(admit(Some(&Body::Deleted), Operation::Delete), Ok(false));
        assert_eq!(admit(Some(&Body::Deleted), Operation::Create), Ok(true));
        assert_eq!(admit(None, Operation::Update), Ok(true));
    }
}
