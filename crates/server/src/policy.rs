//! Ready-made policies: what `landfall serve` switches on by a flag, and apps may take as they are.
//!
//! Each does one thing; [`Policies`] puts several together. Like every [`Policy`] they depend on nothing but their
//! arguments, so a request that is judged twice is judged alike. Tests: below, `tests/rules.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use landfall_protocol::{ErrorDetail, Fields, Operation, Task, task_code};

use crate::state::{ActionError, ActionRoom, Policy, digest};

/// Most characters of what was sent that a refusal repeats.
const REPEATED_CHARS: usize = 200;

/// Code of a refusal over one field.
const INVALID_FIELD: &str = "invalid_field";

/// Several policies as one: every [`check`](Policy::check) must pass, the first id and the first known action count.
#[derive(Debug, Clone, Default)]
pub struct Policies(Vec<Arc<dyn Policy>>);

impl Policies {
    /// None yet, which is as good as [`crate::NoPolicy`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one; it is asked after those before it.
    #[must_use]
    pub fn with(mut self, policy: impl Policy + 'static) -> Self {
        self.0.push(Arc::new(policy));
        self
    }
}

impl Policy for Policies {
    fn check(&self, tenant: &str, task: &Task, current: Option<&Fields>) -> Result<(), ErrorDetail> {
        self.0.iter().try_for_each(|policy| policy.check(tenant, task, current))
    }

    fn assign_id(&self, tenant: &str, task: &Task) -> Option<String> {
        self.0.iter().find_map(|policy| policy.assign_id(tenant, task))
    }

    fn action(&self, tenant: &str, task: &Task, room: &mut ActionRoom<'_, '_>) -> Result<(), ActionError> {
        for policy in &self.0 {
            match policy.action(tenant, task, room) {
                Err(ActionError::Rejected(error)) if error.code == task_code::UNKNOWN_ACTION => room.clear(),
                known => return known,
            }
        }
        crate::NoPolicy.action(tenant, task, room)
    }
}

/// Gives new records of some types an id of the server's own, whatever id the client had for them.
///
/// The id looks like a UUID and follows from tenant, type and idempotency key, so it needs no randomness and a key
/// can only ever mean one record.
///
/// ```
/// use landfall_server::policy::AssignIds;
/// use landfall_server::state::{MemoryRecords, push_with};
/// let mut records = MemoryRecords::new("db-1");
/// let request: landfall_protocol::PushRequest = serde_json::from_str(
///     r#"{"protocol":1,"client_id":"c","client_epoch":1,"tasks":[
///         {"key":"k","task_id":"t","entity_type":"order","entity_id":"local-1","operation":"create"}]}"#,
/// ).unwrap();
/// let answer = push_with(&mut records, &AssignIds::new(["order"]), &request.into()).unwrap();
/// let id = answer.results[0].entity_id.as_deref().unwrap();
/// assert!(records.stored("order", id).is_some() && records.stored("order", "local-1").is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignIds(BTreeSet<String>);

impl AssignIds {
    /// For records of these types; `*` stands for all.
    pub fn new(types: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(types.into_iter().map(Into::into).collect())
    }
}

impl Policy for AssignIds {
    fn assign_id(&self, tenant: &str, task: &Task) -> Option<String> {
        if !self.0.contains("*") && !self.0.contains(&task.entity_type) {
            return None;
        }
        let print = digest("landfall-assigned-id-1", &[tenant, &task.entity_type, &task.key]);
        let bytes = print.0.first_chunk::<16>()?;
        Some(uuid::Builder::from_custom_bytes(*bytes).into_uuid().to_string())
    }
}

/// The action `increment`: its arguments are whole numbers by field name, and are added to the record's fields.
///
/// A field that the record does not have counts from 0. Refused with nothing changed: no such record (`not_found`), an
/// argument or a field that is not a whole number, a sum beyond 64 bits (`invalid_field`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Increment;

impl Policy for Increment {
    fn action(&self, tenant: &str, task: &Task, room: &mut ActionRoom<'_, '_>) -> Result<(), ActionError> {
        if task.action.as_deref() != Some("increment") {
            return crate::NoPolicy.action(tenant, task, room);
        }
        let Some(mut fields) = room.record(&task.entity_type, &task.entity_id)? else {
            return Err(ErrorDetail::new(task_code::NOT_FOUND, "there is no record to increment").into());
        };
        for (name, by) in task.fields.iter() {
            let by = whole(by.get()).ok_or_else(|| {
                invalid(format!("{name} is to grow by {}, not a whole number", shown(by.get())))
            })?;
            let now = fields.text(name).unwrap_or("0");
            let now = whole(now).ok_or_else(|| {
                invalid(format!("{name} is {}, not a whole number, and cannot grow", shown(now)))
            })?;
            let sum =
                now.checked_add(by).ok_or_else(|| invalid(format!("{name} would grow beyond 64 bits")))?;
            fields.set(name, &sum.to_string()).map_err(|_| invalid(format!("{name} cannot be set")))?;
        }
        room.put(&task.entity_type, &task.entity_id, fields);
        Ok(())
    }
}

/// Refuses records of a type that lack a field: a `create` or `replace` without it, and whatever sets it to `null` or
/// `""` or removes it. Code `invalid_field`; the message repeats what was sent, as many servers' messages do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequireFields(Vec<(String, String)>);

impl RequireFields {
    /// Nothing is required yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records of this type must have this field.
    #[must_use]
    pub fn with(mut self, entity_type: impl Into<String>, field: impl Into<String>) -> Self {
        self.0.push((entity_type.into(), field.into()));
        self
    }
}

impl Policy for RequireFields {
    fn check(&self, _tenant: &str, task: &Task, current: Option<&Fields>) -> Result<(), ErrorDetail> {
        for (_, field) in self.0.iter().filter(|(entity_type, _)| *entity_type == task.entity_type) {
            let from_nothing = match task.operation {
                Operation::Create | Operation::Replace => true,
                Operation::Upsert => current.is_none(),
                Operation::Update => false,
                Operation::Delete | Operation::Action | Operation::Other(_) => continue,
            };
            let given = task.fields.text(field);
            let what = match given {
                Some(value @ ("null" | "\"\"")) => format!("must not be {value}"),
                Some(_) => continue,
                None if task.unset.contains(field) => "must not be removed".to_owned(),
                None if from_nothing => "is missing".to_owned(),
                None => continue,
            };
            let sent = shown(&task.fields.to_json());
            return Err(invalid(format!("{}.{field} {what}; got {sent}", task.entity_type)));
        }
        Ok(())
    }
}

fn invalid(message: String) -> ErrorDetail {
    ErrorDetail::new(INVALID_FIELD, message)
}

/// A JSON whole number within 64 bits, sign included.
fn whole(json: &str) -> Option<i64> {
    json.parse().ok()
}

fn shown(json: &str) -> String {
    json.chars().take(REPEATED_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(json: &str) -> Task {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_assigned_id_of_version_1_never_changes() {
        // A repeat after an upgrade is answered from memory; a group that is judged anew is not.
        let create = |kind: &str, key: &str| {
            task(&format!(
                r#"{{"key":"{key}","task_id":"t","entity_type":"{kind}","entity_id":"n","operation":"create"}}"#
            ))
        };
        let ids = AssignIds::new(["order"]);
        let id = ids.assign_id("default", &create("order", "k")).unwrap();
        assert_eq!(id, "1f071ca1-3957-8259-aec0-5f1fcb5f295b");
        assert_eq!(ids.assign_id("default", &create("note", "k")), None);
        let others = [
            ids.assign_id("other", &create("order", "k")),
            ids.assign_id("default", &create("order", "l")),
            AssignIds::new(["*"]).assign_id("default", &create("note", "k")),
        ];
        assert!(others.iter().all(|other| other.as_ref().is_some_and(|other| *other != id)), "{others:?}");
    }

    #[test]
    fn a_required_field_is_there_after_every_write() {
        let require = RequireFields::new().with("note", "title");
        let some = Fields::new().with("title", "\"x\"").unwrap();
        let rows: &[(&str, &str, Option<&Fields>, bool)] = &[
            ("create", r#""fields":{"title":"a"}"#, None, true),
            ("create", r#""fields":{"body":"a"}"#, None, false),
            ("create", r#""fields":{"title":null}"#, None, false),
            ("create", r#""fields":{"title":""}"#, None, false),
            ("create", r#""fields":{"title":0}"#, None, true),
            ("replace", r#""fields":{"body":"a"}"#, Some(&some), false),
            ("upsert", r#""fields":{"body":"a"}"#, None, false),
            ("upsert", r#""fields":{"body":"a"}"#, Some(&some), true),
            ("update", r#""fields":{"body":"a"}"#, Some(&some), true),
            ("update", r#""fields":{"title":""}"#, Some(&some), false),
            ("update", r#""fields":{"title":null}"#, Some(&some), false),
            ("update", r#""unset":["title"]"#, Some(&some), false),
            ("delete", r#""fields":{}"#, Some(&some), true),
        ];
        for (operation, members, current, passes) in rows {
            let json = format!(
                r#"{{"key":"k","task_id":"t","entity_type":"note","entity_id":"n","operation":"{operation}",{members}}}"#
            );
            let verdict = require.check("default", &task(&json), *current);
            assert_eq!(verdict.is_ok(), *passes, "{json}: {verdict:?}");
            let other = json.replace("\"note\"", "\"page\"");
            assert!(require.check("default", &task(&other), *current).is_ok(), "{other}");
            if let Err(error) = verdict {
                assert_eq!(error.code, "invalid_field");
                assert!(error.message.starts_with("note.title "), "{error:?}");
                assert!(!members.contains("body") || error.message.contains(r#"{"body":"a"}"#), "{error:?}");
            }
        }
    }
}
