//! Laying changes over records, and finding out what of a change is still different.
//!
//! A field is dirty where local differs from base: computed here, never flagged. Tests: at the end of the file.

use crate::change::{Intent, Operation};
use crate::entity::{Base, Body};
use crate::value::Fields;

/// The record after `intent`; `before` is `None` when nothing is known of it.
///
/// An update of a deleted record leaves it deleted: whether the edit or the deletion wins is a conflict's business.
pub fn apply(intent: &Intent, before: Option<&Body>) -> Body {
    let start = match (intent.operation, before) {
        // What a command does is the backend's to know.
        (Operation::Action, Some(before)) => return before.clone(),
        (Operation::Action, None) => return Body::Live(Fields::new()),
        (Operation::Delete, _) | (Operation::Update, Some(Body::Deleted)) => return Body::Deleted,
        (Operation::Create | Operation::Replace, _) => Fields::new(),
        (Operation::Update | Operation::Upsert, Some(Body::Live(fields))) => fields.clone(),
        (Operation::Update | Operation::Upsert, _) => Fields::new(),
    };
    let mut fields = start;
    for name in &intent.unset {
        fields.0.remove(name);
    }
    for (name, value) in &intent.fields.0 {
        fields.0.insert(name.clone(), value.clone());
    }
    Body::Live(fields)
}

/// What of `intent` would change `base`: only its dirty fields (G6). `None` when nothing would.
///
/// Of a field that an incomplete base does not hold nothing is known, so it stays.
pub fn dirty_part(intent: &Intent, base: Option<&Base>) -> Option<Intent> {
    let Some(base) = base else { return Some(intent.clone()) };
    match (intent.operation, &base.body) {
        (Operation::Delete, Body::Deleted) => None,
        (Operation::Replace, Body::Live(fields)) if base.complete && *fields == intent.fields => None,
        (Operation::Update | Operation::Upsert, Body::Live(known)) => {
            let mut dirty = intent.clone();
            dirty.fields.0.retain(|name, value| known.value(name) != Some(value));
            dirty.unset.retain(|name| !base.complete || known.value(name).is_some());
            let must_exist_first = intent.operation == Operation::Upsert && !base.complete;
            (must_exist_first || !dirty.touches_nothing()).then_some(dirty)
        }
        _ => Some(intent.clone()),
    }
}

/// The base after the backend confirmed `intent`.
pub fn confirmed(intent: &Intent, base: Option<&Base>, version: Option<crate::id::Version>) -> Base {
    let body = apply(intent, base.map(|base| &base.body));
    let complete = match intent.operation {
        Operation::Create | Operation::Replace | Operation::Delete => true,
        Operation::Update | Operation::Upsert | Operation::Action => base.is_some_and(|base| base.complete),
    };
    Base { body, version, complete }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::value::Value;

    fn base(fields: Fields, complete: bool) -> Base {
        Base { body: Body::Live(fields), version: None, complete }
    }

    #[test]
    fn an_update_touches_only_its_fields() {
        let before = Body::Live(Fields::from([("a", 1), ("b", 2), ("c", 3)]));
        let intent = Change::update("note", "1").set("a", 9).unset("b").intent;
        assert_eq!(apply(&intent, Some(&before)), Body::Live(Fields::from([("a", 9), ("c", 3)])));
    }

    #[test]
    fn a_clean_field_is_not_sent() {
        let known = base(Fields::from([("a", 1), ("b", 2)]), true);
        let intent = Change::update("note", "1").set("a", 1).set("b", 3).unset("gone").intent;
        let dirty = dirty_part(&intent, Some(&known)).unwrap();
        assert_eq!(dirty.fields, Fields::from([("b", 3)]));
        assert!(dirty.unset.is_empty());
        let back = Change::update("note", "1").set("a", 1).intent;
        assert_eq!(dirty_part(&back, Some(&known)), None);
    }

    #[test]
    fn null_is_not_absent() {
        let known = base(Fields::new(), true);
        let intent = Change::update("note", "1").set("a", Value::Null).intent;
        assert_eq!(dirty_part(&intent, Some(&known)), Some(intent.clone()));
    }

    #[test]
    fn of_an_incomplete_base_nothing_is_guessed() {
        let known = base(Fields::from([("a", 1)]), false);
        let intent = Change::update("note", "1").set("a", 1).unset("b").intent;
        let dirty = dirty_part(&intent, Some(&known)).unwrap();
        assert!(dirty.fields.is_empty());
        assert!(dirty.unset.iter().eq(["b"]));
        let upsert = Change::upsert("note", "1").set("a", 1).intent;
        assert!(dirty_part(&upsert, Some(&known)).is_some());
    }

    #[test]
    fn what_is_confirmed_is_known_to_be_whole_only_if_it_was_sent_whole() {
        let update = Change::update("note", "1").set("a", 1).intent;
        assert!(!confirmed(&update, None, None).complete);
        assert!(confirmed(&Change::create("note", "1").set("a", 1).intent, None, None).complete);
        assert!(confirmed(&update, Some(&base(Fields::new(), true)), None).complete);
    }

    #[test]
    fn what_the_backend_has_already_is_not_sent() {
        let whole = base(Fields::from([("a", 1)]), true);
        let part = base(Fields::from([("a", 1)]), false);
        let gone = Base { body: Body::Deleted, version: None, complete: true };
        let delete = Change::delete("note", "1").intent;
        assert_eq!(dirty_part(&delete, Some(&gone)), None);
        assert_eq!(dirty_part(&delete, Some(&whole)), Some(delete.clone()));
        let replace = Change::replace("note", "1").set("a", 1).intent;
        assert_eq!(dirty_part(&replace, Some(&whole)), None);
        assert_eq!(dirty_part(&replace, Some(&part)), Some(replace.clone()), "it may have more fields");
        let upsert = Change::upsert("note", "1").set("a", 1).intent;
        assert_eq!(dirty_part(&upsert, Some(&whole)), None);
        let update = Change::update("note", "1").set("a", 1).intent;
        assert_eq!(dirty_part(&update, Some(&part)), None);
    }
}
