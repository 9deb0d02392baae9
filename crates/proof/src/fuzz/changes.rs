//! The merge under its laws, and changes that are checked and folded together.

use super::structured::{Choices, NAMES};
use landfall_core::change::{Change, Intent, Operation};
use landfall_core::coalesce::{Coalesced, admit, coalesce as fold};
use landfall_core::config::Limits;
use landfall_core::entity::Body;
use landfall_core::id::EntityKey;
use landfall_core::merge::rule::{FieldPath, FieldRule, Rules, Strategy};
use landfall_core::merge::{self, BaseFields, Merged, Side, Step};
use landfall_core::patch;
use landfall_core::value::{Fields, Value};
use std::collections::BTreeSet;

const RULES: [&str; 13] = [
    "",
    "lww",
    "server",
    "client",
    "max",
    "min",
    "counter",
    "grow_set",
    "or_set",
    "text",
    "immutable",
    "ask",
    "keyed_list(id)",
];

pub(super) fn merge(input: &[u8]) {
    let choices = &mut Choices(input);
    let strategy =
        choices.pick(&["field_merge", "last_write_wins", "server_wins", "client_wins", "ask", "fork"]);
    let newer = choices.pick(&[None, Some(Side::Local), Some(Side::Remote)]);
    let mut rules = Rules::new(Strategy::parse(strategy).expect("a known word"));
    if choices.byte() & 1 == 1 {
        rules.declare("t.amount+currency=lww").expect("a group");
    }
    let (mut counts, mut keyed) = (false, false);
    for name in &NAMES[..4] {
        let word = choices.pick(&RULES);
        if let Ok(rule) = FieldRule::parse(word) {
            counts |= rule == FieldRule::Counter;
            keyed |= word.starts_with("keyed");
            rules.entity("t").field(&FieldPath::new(*name), rule).expect("declared once");
        }
    }
    let base = choices.fields(3, false);
    let local = choices.edited(&base);
    let remote = choices.edited(&base);
    let whole = BaseFields::Whole(&base);
    let merged = |base: BaseFields<'_>, local: &Fields, remote: &Fields| {
        merge::fields(base, local, remote, rules.of("t"), newer)
    };
    let nothing = |merged: &Merged, expected: &Fields, law: &str| {
        assert!(
            merged.fields == *expected && merged.conflicts.is_empty(),
            "{law}: {merged:?}, not {expected:?}"
        );
    };
    nothing(&merged(whole, &base, &remote), &remote, "who changed nothing yields to the other");
    nothing(&merged(whole, &local, &base), &local, "what only one side changed stands");
    if !counts {
        nothing(&merged(whole, &local, &local), &local, "equal sides stay");
        nothing(&merged(BaseFields::Nothing, &local, &local), &local, "equal sides stay, whatever the base");
    }
    let bases = [whole, BaseFields::Nothing, BaseFields::Partial { fields: &base, unset: &BTreeSet::new() }];
    for (at, base_fields) in bases.into_iter().enumerate() {
        let result = merged(base_fields, &local, &remote);
        assert_eq!(result, merged(base_fields, &local, &remote), "the same twice");
        nothing(&merged(BaseFields::Whole(&remote), &result.fields, &remote), &result.fields, "merged again");
        let names = local.0.keys().chain(remote.0.keys()).chain(result.fields.0.keys());
        let differing: BTreeSet<String> =
            names.filter(|name| result.fields.value(name) != remote.value(name)).cloned().collect();
        assert_eq!(result.still_dirty, differing, "what is still to be sent");
        let backend = Body::Live(remote.clone());
        let after = result.pending().map_or(backend.clone(), |intent| patch::apply(&intent, Some(&backend)));
        assert_eq!(after, Body::Live(result.fields.clone()), "what is sent makes the backend equal");
        result.fields.check().expect("a merge makes no number that cannot be sent");
        if at == 0 && !keyed {
            let mut path = Vec::new();
            accounted(&result, &mut path, Some(&base), [&local, &remote], &result.fields);
        }
    }
    for side in [Side::Local, Side::Remote] {
        let kept = if side == Side::Local { &local } else { &remote };
        assert_eq!(
            merge::whole(side, whole, &local, &remote).fields,
            *kept,
            "a whole side is taken as it is"
        );
    }
}

/// Nothing that a side wrote is lost without a record of it, however deep in objects.
fn accounted(
    merged: &Merged,
    path: &mut Vec<Step>,
    base: Option<&Fields>,
    sides: [&Fields; 2],
    result: &Fields,
) {
    let names: BTreeSet<&String> =
        sides.iter().flat_map(|side| side.0.keys()).chain(result.0.keys()).collect();
    for name in names {
        path.push(Step::Field(name.clone()));
        let was = base.and_then(|base| base.value(name));
        let [local, remote] = sides.map(|side| side.value(name));
        let became = result.value(name);
        let recorded = merged.conflicts.iter().any(|one| {
            one.group.as_ref().is_some_and(|_| path.len() == 1)
                || one.path.0.len() <= path.len() && path.starts_with(&one.path.0)
        });
        if let (Some(Value::Object(local)), Some(Value::Object(remote)), Some(Value::Object(became)), false) =
            (local, remote, became, recorded)
        {
            let inner = match was {
                Some(Value::Object(was)) => Some(was),
                _ => None,
            };
            if inner.is_some() || was.is_none() {
                accounted(merged, path, inner, [local, remote], became);
            }
        } else {
            for side in [local, remote] {
                let changed = side != was;
                assert!(!changed || recorded || became == side, "{path:?}: {side:?} is lost: {merged:?}");
            }
            assert!(
                recorded || became == local || became == remote,
                "{path:?}: {became:?} was written by nobody"
            );
        }
        path.pop();
    }
}

fn intent(choices: &mut Choices<'_>) -> Intent {
    let mut intent = Intent::new(choices.pick(&Operation::ALL));
    for (name, value) in choices.fields(3, true).0 {
        intent.set(name, value);
    }
    for _ in 0..choices.below(3) {
        let name = choices.name();
        intent.unset(name);
    }
    if choices.below(4) == 0 || intent.operation == Operation::Action {
        intent.action = Some(choices.text());
    }
    intent
}

pub(super) fn coalesce(input: &[u8]) {
    let choices = &mut Choices(input);
    let limits = Limits { name_bytes: 12, value_depth: 2, change_bytes: 200, ..Limits::default() };
    let before = match choices.below(4) {
        0 => None,
        1 => Some(Body::Deleted),
        _ => Some(Body::Live(choices.fields(2, false))),
    };
    let mut known = before.clone();
    let mut valid = Vec::new();
    for _ in 0..2 {
        let intent = intent(choices);
        let change =
            Change { entity: EntityKey::new("note", choices.text()), intent, options: Default::default() };
        if change.check(&limits).is_err() {
            return;
        }
        let intent = change.intent;
        // What passes the check can be sent, unchanged, and is as large and as deep as is allowed.
        let again = Fields::parse(&intent.fields.to_json()).expect("what passes can be sent");
        assert!(again.is_written_like(&intent.fields), "{intent:?} became {again:?}");
        assert!(!change.entity.entity_id.is_empty() && change.entity.entity_id.len() <= 12);
        assert!(intent.fields.0.values().all(|value| !value.is_deeper_than(limits.value_depth)));
        assert!(intent.fields.0.keys().all(|name| !intent.unset.contains(name)), "set and unset");
        if admit(known.as_ref(), intent.operation) != Ok(true) {
            return;
        }
        known = Some(patch::apply(&intent, known.as_ref()));
        valid.push(intent);
    }
    let [queued, new] = &valid[..] else { return };
    match fold(queued, new) {
        Ok(Coalesced::Apart) => {
            assert!([queued, new].iter().any(|intent| intent.operation == Operation::Action));
        }
        Ok(Coalesced::Annihilated) => {
            assert_eq!((queued.operation, new.operation), (Operation::Create, Operation::Delete));
            assert_eq!(known, Some(Body::Deleted));
        }
        Ok(Coalesced::Merged(one)) => {
            assert_eq!(Some(patch::apply(&one, before.as_ref())), known, "{queued:?}\n{new:?}\n{one:?}");
            let change =
                Change { entity: EntityKey::new("note", "1"), intent: one, options: Default::default() };
            let large = Limits { change_bytes: 400, ..limits };
            change.check(&large).unwrap_or_else(|error| panic!("two changes are one that is none: {error}"));
        }
        Err(why) => panic!("both were admitted, and {why}: {queued:?} {new:?}"),
    }
}
