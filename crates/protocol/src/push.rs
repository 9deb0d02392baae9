//! The push: tasks in, one result per task out, matched by key.
//!
//! Shapes only. What a server must do with a task is written in `docs/writing-a-backend.md`; what a client does
//! with a result is the engine's. Tests: below and `tests/golden.rs`.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{Fields, PROTOCOL_VERSION};

/// The body of `POST {endpoint}`: some tasks of one client, applied in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRequest {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Random id of the client's store, made when the store was made.
    pub client_id: String,
    /// Goes up when the store is restored or copied; a lower one than the server has seen is refused
    /// ([`crate::code::CLIENT_SUPERSEDED`]).
    pub client_epoch: u64,
    /// The name the server last gave itself; absent at first contact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
    /// The tasks, in the order they take effect.
    pub tasks: Vec<Task>,
}

/// One change on its way to the backend. Under one `key` these members never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Idempotency key: 1 to 255 printable ASCII characters, random, made once at the first attempt.
    pub key: String,
    /// The client's deterministic id of the task, for logs and support; no rule hangs on it.
    pub task_id: String,
    /// First half of the record's identity.
    pub entity_type: String,
    /// Second half of the record's identity.
    pub entity_id: String,
    /// What is to be done with the record.
    pub operation: Operation,
    /// Name of the command; only with [`Operation::Action`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The version the client's edit was based on; the task takes effect only if it still is the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_version: Option<String>,
    /// The fields to set (for `action`: its arguments).
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    pub fields: Fields,
    /// The fields to remove; none of them is in `fields`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
    /// When the user made the change, as a hybrid logical time. The server stores nothing by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<String>,
    /// The app's schema version of `fields`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<u32>,
    /// Tasks of one request with the same group take effect together or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// What a task does with its record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Operation {
    /// Make a record that is not there.
    Create,
    /// Set and remove some fields of a record that is there.
    Update,
    /// The same, making the record if it is missing.
    Upsert,
    /// The record becomes exactly these fields.
    Replace,
    /// Remove the record; finding nothing to remove is success.
    Delete,
    /// A named command of the app, see [`Task::action`].
    Action,
    /// A name this version does not know; a server rejects such a task and goes on with the others.
    Other(String),
}

impl Operation {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Upsert => "upsert",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Action => "action",
            Self::Other(name) => name,
        }
    }
}

impl From<String> for Operation {
    fn from(name: String) -> Self {
        match name.as_str() {
            "create" => Self::Create,
            "update" => Self::Update,
            "upsert" => Self::Upsert,
            "replace" => Self::Replace,
            "delete" => Self::Delete,
            "action" => Self::Action,
            _ => Self::Other(name),
        }
    }
}

impl From<Operation> for String {
    fn from(operation: Operation) -> Self {
        operation.as_str().into()
    }
}

/// The answer 200 to a push. A task without a result has an unknown fate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushResponse {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// The server's name, minted with its database; the client repeats it from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
    /// One per task, in any order.
    pub results: Vec<TaskResult>,
}

impl PushResponse {
    /// An answer with this version of the protocol.
    pub fn new(server_id: Option<String>, results: Vec<TaskResult>) -> Self {
        Self { protocol: PROTOCOL_VERSION, server_id, results }
    }
}

/// The verdict on one task.
///
/// | status | members that matter |
/// |---|---|
/// | `applied`, `duplicate` | `version` (of the record after the effect), `fields` if the client cannot know them, `entity_id` if the server chose another |
/// | `conflict` | `version` and `fields` of the record as it is now, or `deleted: true` |
/// | `rejected` | `error` |
/// | `retry` | `error`, `retry_after_ms` |
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The key of the task this is the verdict on.
    pub key: String,
    /// The verdict.
    pub status: Status,
    /// Version of the record, opaque to the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The whole record's fields at `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Fields>,
    /// With `conflict`: the record is not there (any more).
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub deleted: bool,
    /// The id the server gave a created record, if not the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity_id: Option<String>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
    /// With `retry`: not before so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl TaskResult {
    /// A verdict with nothing but its status.
    pub fn new(key: impl Into<String>, status: Status) -> Self {
        Self {
            key: key.into(),
            status,
            version: None,
            fields: None,
            deleted: false,
            entity_id: None,
            error: None,
            retry_after_ms: None,
        }
    }
}

/// The verdict's kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Status {
    /// The task took effect now.
    Applied,
    /// It took effect earlier under this key; the members are those of that time.
    Duplicate,
    /// It did not take effect: the record is not at `base_version`, or is there where it must not be.
    Conflict,
    /// It did not and will never take effect.
    Rejected,
    /// It did not take effect; the same key may be sent again.
    Retry,
    /// A name this version does not know: the task's fate is unknown.
    Other(String),
}

impl Status {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Rejected => "rejected",
            Self::Retry => "retry",
            Self::Other(name) => name,
        }
    }
}

impl From<String> for Status {
    fn from(name: String) -> Self {
        match name.as_str() {
            "applied" => Self::Applied,
            "duplicate" => Self::Duplicate,
            "conflict" => Self::Conflict,
            "rejected" => Self::Rejected,
            "retry" => Self::Retry,
            _ => Self::Other(name),
        }
    }
}

impl From<Status> for String {
    fn from(status: Status) -> Self {
        status.as_str().into()
    }
}

/// Why a task did not take effect: a code for programs, a message for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Stable name of the reason, see [`task_code`]; an app's server may add its own.
    pub code: String,
    /// For people; no rule hangs on it.
    #[serde(default)]
    pub message: String,
}

impl ErrorDetail {
    /// A code and its message.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// Codes of [`ErrorDetail`] that the protocol itself uses.
pub mod task_code {
    /// The task cannot be read, or its members contradict each other.
    pub const MALFORMED: &str = "malformed";
    /// An `update` of a record that never existed.
    pub const NOT_FOUND: &str = "not_found";
    /// The key was used before for a task with another content.
    pub const KEY_REUSED: &str = "key_reused";
    /// The server has no command of this name.
    pub const UNKNOWN_ACTION: &str = "unknown_action";
    /// The server gives new records an id of its own, and found none for this one.
    pub const NO_ID: &str = "no_id";
    /// Another task of the group was not applied (with status `retry`; nothing is stored under the key).
    pub const GROUP_ABORTED: &str = "group_aborted";
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    #[test]
    fn a_task_is_written_as_in_the_design() {
        let task = Task {
            key: "k".into(),
            task_id: "t".into(),
            entity_type: "note".into(),
            entity_id: "note-123".into(),
            operation: Operation::Update,
            action: None,
            base_version: Some("7".into()),
            fields: Fields::new().with("title", "\"a\"").unwrap(),
            unset: vec!["x".into()],
            changed_at: Some("h".into()),
            schema: Some(1),
            group: Some("g".into()),
        };
        let text = serde_json::to_string(&task).unwrap();
        assert_eq!(
            text,
            r#"{"key":"k","task_id":"t","entity_type":"note","entity_id":"note-123","operation":"update","base_version":"7","fields":{"title":"a"},"unset":["x"],"changed_at":"h","schema":1,"group":"g"}"#
        );
        assert_eq!(serde_json::from_str::<Task>(&text).unwrap(), task);
    }

    #[test]
    fn a_newer_server_is_read_as_far_as_known() {
        let text = r#"{"protocol":1,"node":"b7","results":[{"key":"k","status":"parked","until":3},{"key":"l","status":"applied","version":"8"}]}"#;
        let response: PushResponse = serde_json::from_str(text).unwrap();
        assert_eq!(response.results[0].status, Status::Other("parked".into()));
        assert_eq!(response.results[1].status, Status::Applied);
    }

    #[test]
    fn an_answer_of_another_shape_is_an_error() {
        for text in
            ["", "null", "{}", "[]", "<html>", r#"{"protocol":1}"#, r#"{"protocol":1,"results":null}"#]
        {
            assert!(serde_json::from_str::<PushResponse>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_on_the_wire_survive_both_ways() {
        for name in ["create", "update", "upsert", "replace", "delete", "action", "merge"] {
            assert_eq!(Operation::from(name.to_string()).as_str(), name);
        }
        for name in ["applied", "duplicate", "conflict", "rejected", "retry", "parked"] {
            assert_eq!(Status::from(name.to_string()).as_str(), name);
        }
    }
}
