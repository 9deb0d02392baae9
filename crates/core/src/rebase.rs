//! One change, laid anew over another state of its record: what it means there, and what of it must still be sent.
//!
//! Pure. The three states are those of `merge.rs`: what the change was made on, what it makes of that, and what the
//! record is now. A queue of changes is rebased one after another, each made on what the one before left
//! (`machine/resolve.rs`). Tests: at the end of the file, and `tests/conflicts.rs` of `landfall-testkit`.

use crate::change::{Intent, Operation};
use crate::conflict::Why;
use crate::entity::{Base, Body};
use crate::merge::record::{DeleteFate, EditFate};
use crate::merge::rule::{Answer, RulesOf, Strategy};
use crate::merge::{self, BaseFields, BaseValue, Dispute, FieldConflict, Path, RecordDecision, Side};
use crate::patch;
use crate::value::{Fields, Value};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A change laid over another state.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Rebased {
    /// What the change makes of what it was made on: what the next change was made on.
    pub(crate) local: Base,
    /// What the record becomes; values that a person must decide are the local ones.
    pub(crate) result: Body,
    /// What must be sent so that the backend has that result; `None` when it has.
    pub(crate) intent: Option<Intent>,
    /// What both sides changed, if they did.
    pub(crate) clash: Option<Clash>,
}

/// Both sides changed the same.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Clash {
    pub(crate) why: Why,
    /// The strategy or policy in force.
    pub(crate) rule: String,
    pub(crate) fields: Vec<FieldConflict>,
    pub(crate) end: End,
}

/// What the rules say of a clash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// They have decided.
    Decided,
    /// A person must.
    Ask,
    /// Both sides are kept, as two records.
    Fork,
}

/// Lays `intent`, made on `made_on`, over a record that is `remote` now.
pub(crate) fn rebase(
    made_on: Option<&Base>,
    intent: &Intent,
    remote: &Body,
    rules: RulesOf<'_>,
    newer: Option<Side>,
) -> Rebased {
    let whole = matches!(intent.operation, Operation::Create | Operation::Replace | Operation::Delete);
    let local = Base {
        body: patch::apply(intent, made_on.map(|base| &base.body)),
        version: None,
        complete: whole || made_on.is_some_and(|base| base.complete),
    };
    let decided = |result: Body, clash: Option<Clash>| {
        let intent = pending(intent, &result, remote, local.complete);
        Rebased { local: local.clone(), result, intent, clash }
    };
    let clash = |why, end| {
        let rule = rules.word_for_deletes();
        Some(Clash { why, rule, fields: Vec::new(), end })
    };
    match merge::record(made_on, &local.body, remote, rules, newer) {
        RecordDecision::TakeRemote => decided(remote.clone(), None),
        // The backend still has what the change was made on, so it goes on as it is.
        RecordDecision::KeepLocal => {
            Rebased { result: local.body.clone(), intent: Some(intent.clone()), local, clash: None }
        }
        RecordDecision::MergeFields => {
            let (result, clash) = merge_fields(made_on, intent, &local.body, remote, rules, newer);
            decided(result, clash)
        }
        RecordDecision::EditedHereDeletedThere(fate) => {
            let why = Why::EditedHereDeletedThere;
            let (result, end) = match fate {
                EditFate::Delete => (Body::Deleted, End::Decided),
                EditFate::Recreate => (local.body.clone(), End::Decided),
                EditFate::Fork => (local.body.clone(), End::Fork),
                EditFate::Ask => (local.body.clone(), End::Ask),
                EditFate::Custom(name) => ask_resolver(&name, made_on, &local.body, remote, rules, newer),
            };
            decided(result, clash(why, end))
        }
        RecordDecision::DeletedHereEditedThere(fate) => {
            let why = Why::DeletedHereEditedThere;
            let (result, end) = match fate {
                DeleteFate::Delete => (Body::Deleted, End::Decided),
                DeleteFate::Restore => (remote.clone(), End::Decided),
                DeleteFate::Ask => (Body::Deleted, End::Ask),
                DeleteFate::Custom(name) => ask_resolver(&name, made_on, &local.body, remote, rules, newer),
            };
            decided(result, clash(why, end))
        }
    }
}

fn merge_fields(
    made_on: Option<&Base>,
    intent: &Intent,
    local: &Body,
    remote: &Body,
    rules: RulesOf<'_>,
    newer: Option<Side>,
) -> (Body, Option<Clash>) {
    let (Body::Live(ours), Body::Live(theirs)) = (local, remote) else { return (local.clone(), None) };
    let merged = merge::fields(base_fields(made_on, intent), ours, theirs, rules, newer);
    let open = merged.asks().next().is_some();
    let end = match (open || merged.refused.is_some(), rules.strategy()) {
        (false, _) => End::Decided,
        (true, Strategy::Fork) => End::Fork,
        (true, _) => End::Ask,
    };
    let why = merged.refused.map_or(Why::Fields, Why::Refused);
    let clashes = !merged.conflicts.is_empty() || end != End::Decided;
    let clash =
        clashes.then(|| Clash { why, rule: rules.strategy().to_string(), fields: merged.conflicts, end });
    (Body::Live(merged.fields), clash)
}

/// What is known of the fields that a change was made on.
pub(crate) fn base_fields<'a>(made_on: Option<&'a Base>, intent: &'a Intent) -> BaseFields<'a> {
    static NONE: Fields = Fields::new();
    match made_on {
        Some(base) => match &base.body {
            Body::Deleted => BaseFields::Whole(&NONE),
            Body::Live(fields) if base.complete => BaseFields::Whole(fields),
            Body::Live(fields) => BaseFields::Partial { fields, unset: &intent.unset },
        },
        None => match intent.operation {
            // Whoever makes a record says that there was none.
            Operation::Create => BaseFields::Whole(&NONE),
            Operation::Replace | Operation::Delete => BaseFields::Nothing,
            Operation::Update | Operation::Upsert | Operation::Action => {
                BaseFields::Partial { fields: &NONE, unset: &intent.unset }
            }
        },
    }
}

/// Puts a whole record before the app's resolver. What it says that makes no sense for a record is left to a person.
fn ask_resolver(
    name: &str,
    made_on: Option<&Base>,
    local: &Body,
    remote: &Body,
    rules: RulesOf<'_>,
    newer: Option<Side>,
) -> (Body, End) {
    let object = |body: &Body| body.fields().cloned().map(Value::Object);
    let base = made_on.filter(|base| base.complete).map(|base| object(&base.body));
    let (ours, theirs) = (object(local), object(remote));
    let dispute = Dispute {
        path: &Path::default(),
        base: match &base {
            None => BaseValue::Unknown,
            Some(None) => BaseValue::Absent,
            Some(Some(value)) => BaseValue::Present(value),
        },
        local: ours.as_ref(),
        remote: theirs.as_ref(),
        newer,
    };
    match rules.resolve(name, &dispute) {
        Some(Answer::Local) => (local.clone(), End::Decided),
        Some(Answer::Remote) => (remote.clone(), End::Decided),
        Some(Answer::Remove) => (Body::Deleted, End::Decided),
        Some(Answer::Value(Value::Object(fields))) if fields.check().is_ok() => {
            (Body::Live(fields), End::Decided)
        }
        Some(Answer::Value(_) | Answer::Ask) | None => (local.clone(), End::Ask),
    }
}

/// What must be sent so that a record that is `remote` becomes `result`; `None` when it is that already.
///
/// `was` is what the change was before: an upsert stays one, for a record that may be gone again by then. A record
/// that is made anew over a deletion is sent whole, as far as it is known whole.
pub(crate) fn pending(was: &Intent, result: &Body, remote: &Body, known_whole: bool) -> Option<Intent> {
    match (result, remote) {
        (Body::Deleted, Body::Deleted) => None,
        (Body::Deleted, Body::Live(_)) => Some(Intent::new(Operation::Delete)),
        (Body::Live(fields), Body::Deleted) => {
            let operation = if known_whole { Operation::Replace } else { Operation::Upsert };
            Some(Intent { fields: fields.clone(), ..Intent::new(operation) })
        }
        (Body::Live(wanted), Body::Live(there)) => {
            let operation = match was.operation {
                Operation::Upsert => Operation::Upsert,
                _ => Operation::Update,
            };
            let mut intent = Intent::new(operation);
            for (name, value) in &wanted.0 {
                if there.value(name) != Some(value) {
                    intent.set(name.clone(), value.clone());
                }
            }
            for name in there.0.keys().filter(|name| wanted.value(name).is_none()) {
                intent.unset(name.clone());
            }
            (!intent.touches_nothing()).then_some(intent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::merge::rule::Rules;

    fn live(json: &str) -> Body {
        Body::Live(Fields::parse(json).unwrap())
    }

    fn base(body: Body, complete: bool) -> Option<Base> {
        Some(Base { body, version: None, complete })
    }

    fn intent(operation: Operation, json: &str) -> Intent {
        Change::of(operation, crate::id::EntityKey::new("t", "1")).fields(Fields::parse(json).unwrap()).intent
    }

    /// One line a rule: what the change was made on, the change, what the backend has; what it becomes, what is sent.
    #[test]
    fn a_change_means_on_another_state_what_it_meant_on_its_own() {
        use Operation::{Create, Delete, Replace, Update, Upsert};
        let rules = Rules::new(Strategy::FieldMerge);
        let gone = Body::Deleted;
        let whole = |json| base(live(json), true);
        let send = |operation, json| Some(intent(operation, json));
        let rows = [
            // Nothing has moved: it goes on as it is.
            (
                whole(r#"{"a":1}"#),
                intent(Update, r#"{"a":2}"#),
                live(r#"{"a":1}"#),
                live(r#"{"a":2}"#),
                send(Update, r#"{"a":2}"#),
                false,
            ),
            (
                whole(r#"{"a":1}"#),
                intent(Replace, r#"{"b":2}"#),
                live(r#"{"a":1}"#),
                live(r#"{"b":2}"#),
                send(Replace, r#"{"b":2}"#),
                false,
            ),
            // Another field has moved: only ours is sent.
            (
                whole(r#"{"a":1,"b":1}"#),
                intent(Update, r#"{"a":2}"#),
                live(r#"{"a":1,"b":9}"#),
                live(r#"{"a":2,"b":9}"#),
                send(Update, r#"{"a":2}"#),
                false,
            ),
            (
                whole(r#"{"a":1,"b":1}"#),
                intent(Replace, r#"{"a":2,"b":1}"#),
                live(r#"{"a":1,"b":9}"#),
                live(r#"{"a":2,"b":9}"#),
                send(Update, r#"{"a":2}"#),
                false,
            ),
            // Both came to the same: nothing is left.
            (
                whole(r#"{"a":1}"#),
                intent(Update, r#"{"a":2}"#),
                live(r#"{"a":2,"c":3}"#),
                live(r#"{"a":2,"c":3}"#),
                None,
                false,
            ),
            // The same field: a clash, and the backend orders writes, so ours is the later one.
            (
                whole(r#"{"a":1}"#),
                intent(Update, r#"{"a":2}"#),
                live(r#"{"a":3}"#),
                live(r#"{"a":2}"#),
                send(Update, r#"{"a":2}"#),
                true,
            ),
            // A record that both made: what only one of them gave is no clash.
            (
                None,
                intent(Create, r#"{"a":2,"b":1}"#),
                live(r#"{"b":1,"c":3}"#),
                live(r#"{"a":2,"b":1,"c":3}"#),
                send(Update, r#"{"a":2}"#),
                false,
            ),
            // What may have to make the record still may.
            (
                whole(r#"{"a":1,"b":1}"#),
                intent(Upsert, r#"{"a":2}"#),
                live(r#"{"a":1,"b":9}"#),
                live(r#"{"a":2,"b":9}"#),
                send(Upsert, r#"{"a":2}"#),
                false,
            ),
            // A record never read: what we did not touch is the backend's, and no clash.
            (
                None,
                intent(Upsert, r#"{"a":2}"#),
                live(r#"{"a":2,"z":1}"#),
                live(r#"{"a":2,"z":1}"#),
                None,
                false,
            ),
            // Deleted there: losing work is worse than an extra record. Whole, if it is known whole.
            (
                whole(r#"{"a":1,"b":1}"#),
                intent(Update, r#"{"a":2}"#),
                gone.clone(),
                live(r#"{"a":2,"b":1}"#),
                send(Replace, r#"{"a":2,"b":1}"#),
                true,
            ),
            (
                None,
                intent(Update, r#"{"a":2}"#),
                gone.clone(),
                live(r#"{"a":2}"#),
                send(Upsert, r#"{"a":2}"#),
                true,
            ),
            // Deleted here.
            (
                whole(r#"{"a":1}"#),
                intent(Delete, "{}"),
                live(r#"{"a":1}"#),
                gone.clone(),
                send(Delete, "{}"),
                false,
            ),
            (whole(r#"{"a":1}"#), intent(Delete, "{}"), live(r#"{"a":3}"#), live(r#"{"a":3}"#), None, true),
            (whole(r#"{"a":1}"#), intent(Delete, "{}"), gone.clone(), gone.clone(), None, false),
        ];
        for (at, (made_on, change, remote, result, sends, clashes)) in rows.into_iter().enumerate() {
            let rebased = rebase(made_on.as_ref(), &change, &remote, rules.of("t"), Some(Side::Local));
            assert_eq!(rebased.result, result, "row {at}");
            assert_eq!(rebased.intent, sends, "row {at}");
            assert_eq!(rebased.clash.is_some(), clashes, "row {at}");
        }
    }

    #[test]
    fn a_resolver_decides_about_whole_records_and_nonsense_is_left_to_a_person() {
        let mut rules = Rules::new(Strategy::Custom("mine".into()));
        let edit = intent(Operation::Update, r#"{"a":2}"#);
        let made_on = base(live(r#"{"a":1,"b":1}"#), true);
        let rows = [
            (Answer::Local, live(r#"{"a":2,"b":1}"#), End::Decided),
            (Answer::Remote, Body::Deleted, End::Decided),
            (Answer::Remove, Body::Deleted, End::Decided),
            (Answer::Value(Value::Object(Fields::from([("a", 7)]))), live(r#"{"a":7}"#), End::Decided),
            (Answer::Value(Value::Bool(true)), live(r#"{"a":2,"b":1}"#), End::Ask),
            (
                Answer::Value(Value::Object(Fields::from([("a", f64::NAN)]))),
                live(r#"{"a":2,"b":1}"#),
                End::Ask,
            ),
            (Answer::Ask, live(r#"{"a":2,"b":1}"#), End::Ask),
        ];
        for (answer, result, end) in rows {
            rules.resolver("mine", move |_| answer.clone());
            let rebased = rebase(made_on.as_ref(), &edit, &Body::Deleted, rules.of("t"), None);
            assert_eq!((rebased.result, rebased.clash.map(|clash| clash.end)), (result, Some(end)));
        }
    }

    #[test]
    fn a_field_that_was_never_read_can_be_removed_all_the_same() {
        let rules = Rules::new(Strategy::FieldMerge);
        let mut change = intent(Operation::Update, "{}");
        change.unset("b");
        for made_on in [base(live(r#"{"a":1}"#), false), None] {
            let there = live(r#"{"a":1,"b":9}"#);
            let rebased = rebase(made_on.as_ref(), &change, &there, rules.of("t"), Some(Side::Local));
            assert_eq!(rebased.result, live(r#"{"a":1}"#), "{made_on:?}");
            assert_eq!(rebased.intent, Some(change.clone()));
        }
    }
}
