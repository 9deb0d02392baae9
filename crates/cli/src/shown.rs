//! What may be shown of a task, an ended task, a record or a conflict: everything but the values of fields that the
//! model calls sensitive (G17).
//!
//! Whatever comes from a store passes through here on its way to a screen, a pipe or a hint; an export is the exception,
//! because it must be taken in again. Tests: below, and `tests/lifecycle.rs`.

use landfall_core::conflict::ConflictRecord;
use landfall_core::entity::Body;
use landfall_core::merge::{BaseValue, FieldConflict};
use landfall_core::model::{Model, REDACTED};
use landfall_core::task::{FailureNote, Frozen, JournalEntry, Task};
use landfall_core::value::{Fields, Value};

/// Whether a type has fields that are not shown.
fn has_secrets(model: &Model, entity_type: &str) -> bool {
    model.types.get(entity_type).is_some_and(|of| !of.sensitive.is_empty())
}

/// A task as it may be shown.
pub(crate) fn task(model: &Model, task: Task) -> Task {
    let kind = task.entity.entity_type.clone();
    if !has_secrets(model, &kind) {
        return task;
    }
    let mut task = task;
    let clean = |text: &str| model.clean(&kind, &task.intent.fields, text);
    let notes: Vec<FailureNote> = task
        .history
        .notes()
        .iter()
        .map(|note| FailureNote {
            message: clean(&note.message),
            answer: note.answer.as_deref().map(clean),
            ..note.clone()
        })
        .collect();
    task.history = notes.into_iter().collect();
    task.frozen =
        task.frozen.map(|frozen| Frozen { payload: payload(model, &kind, &frozen.payload).into(), ..frozen });
    task.intent.fields = fields(model, &kind, task.intent.fields);
    task
}

/// An ended task as it may be shown.
pub(crate) fn ended(model: &Model, entry: JournalEntry) -> JournalEntry {
    let payload = payload(model, &entry.entity.entity_type, &entry.payload).into();
    JournalEntry { payload, ..entry }
}

/// Fields as they may be shown.
pub(crate) fn fields(model: &Model, entity_type: &str, fields: Fields) -> Fields {
    model.shown(entity_type, &fields).into_owned()
}

/// A record as it may be shown.
pub(crate) fn body(model: &Model, entity_type: &str, body: Body) -> Body {
    match body {
        Body::Live(of) => Body::Live(fields(model, entity_type, of)),
        Body::Deleted => Body::Deleted,
    }
}

/// A payload as it may be shown: one JSON object with the member `fields`.
fn payload(model: &Model, entity_type: &str, text: &str) -> String {
    if !has_secrets(model, entity_type) {
        return text.to_owned();
    }
    let Ok(Value::Object(mut members)) = Value::parse(text) else { return REDACTED.into() };
    if let Some(Value::Object(of)) = members.0.remove("fields") {
        members.set("fields", Value::Object(fields(model, entity_type, of)));
    }
    members.to_json()
}

/// A conflict as it may be shown.
pub(crate) fn conflict(model: &Model, record: ConflictRecord) -> ConflictRecord {
    let kind = record.entity.entity_type.clone();
    if !has_secrets(model, &kind) {
        return record;
    }
    let mut record = record;
    let clean = |of: Body| body(model, &kind, of);
    record.change = payload(model, &kind, &record.change);
    if let Some(base) = &mut record.base {
        base.body = clean(base.body.clone());
    }
    record.local = clean(record.local);
    if let Some(remote) = &mut record.remote {
        remote.body = clean(remote.body.clone());
    }
    record.proposal = record.proposal.map(clean);
    if let Some(settled) = &mut record.settled {
        settled.result = clean(settled.result.clone());
    }
    let sensitive = |name: &str| model.types.get(&kind).is_some_and(|of| of.sensitive.contains(name));
    record.fields.iter_mut().filter(|field| field.path.field().is_none_or(sensitive)).for_each(hide);
    record
}

fn hide(field: &mut FieldConflict) {
    let hidden = || Value::Text(REDACTED.into());
    if matches!(field.base, BaseValue::Present(_)) {
        field.base = BaseValue::Present(hidden());
    }
    for value in [&mut field.local, &mut field.remote, &mut field.result] {
        if value.is_some() {
            *value = Some(hidden());
        }
    }
}

/// The field that carries the text which stands for a hidden value, if one does: nobody means to send that.
pub(crate) fn pasted(fields: &Fields) -> Option<&str> {
    let is_hidden = |value: &Value| matches!(value, Value::Text(text) if text == REDACTED);
    fields.0.iter().find(|(_, value)| is_hidden(value)).map(|(name, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        serde_json::from_str(r#"{"types":{"card":{"sensitive":["pin"]}}}"#).unwrap()
    }

    #[test]
    fn a_payload_is_shown_without_its_sensitive_fields() {
        let text = r#"{"key":"k","fields":{"pin":{"a":4711},"name":"x"},"n":1}"#;
        assert_eq!(
            payload(&model(), "card", text),
            r#"{"fields":{"name":"x","pin":"[redacted]"},"key":"k","n":1}"#
        );
        assert_eq!(payload(&model(), "note", text), text);
        assert_eq!(payload(&model(), "card", "{"), REDACTED);
    }

    #[test]
    fn the_text_for_a_hidden_value_is_not_taken_for_one() {
        let fields = Fields::from([("a", "[redacted]")]);
        assert_eq!(pasted(&fields), Some("a"));
        assert_eq!(pasted(&Fields::from([("a", "redacted")])), None);
    }
}
