//! From the bytes of a push to a [`Submission`]: an unreadable task is set apart, so that it alone is refused.
//!
//! The request as a whole must be readable (else a problem 400), and so must every task's key (else nobody could
//! be told which task was refused). Unknown members are ignored: a newer client must not be turned away for
//! saying more. Judges nothing else. Tests: below, `tests/rules.rs`.

use landfall_protocol::{PROTOCOL_VERSION, Problem, PushRequest, RawValue, Task, code};
use serde::Deserialize;

use crate::limits::Limits;
use crate::state::{Fingerprint, fingerprint, fingerprint_of_text};
use crate::strict;

/// A push request whose tasks were read one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// As sent.
    pub protocol: u32,
    /// As sent.
    pub client_id: String,
    /// As sent.
    pub client_epoch: u64,
    /// As sent.
    pub server_id: Option<String>,
    /// The tasks in order.
    pub tasks: Vec<Incoming>,
}

/// A task that could be read, or one of which only the key could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Readable; with the fingerprint of its content, made before the writer is kept busy with it.
    Task(Box<Task>, Fingerprint),
    /// Not readable; refused under its key.
    Unreadable {
        /// The key.
        key: String,
        /// The group, if readable: it is aborted.
        group: Option<String>,
        /// The task's text, for its fingerprint.
        text: String,
        /// What is wrong.
        message: String,
    },
}

impl Incoming {
    /// The idempotency key.
    pub fn key(&self) -> &str {
        match self {
            Self::Task(task, _) => &task.key,
            Self::Unreadable { key, .. } => key,
        }
    }

    /// The group.
    pub fn group(&self) -> Option<&str> {
        match self {
            Self::Task(task, _) => task.group.as_deref(),
            Self::Unreadable { group, .. } => group.as_deref(),
        }
    }

    /// The fingerprint of the content, or of the text of an unreadable task.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Task(_, print) => *print,
            Self::Unreadable { text, .. } => fingerprint_of_text(text),
        }
    }

    /// The task id; empty if unreadable.
    pub fn task_id(&self) -> &str {
        match self {
            Self::Task(task, _) => &task.task_id,
            Self::Unreadable { .. } => "",
        }
    }
}

impl From<Task> for Incoming {
    fn from(task: Task) -> Self {
        let print = fingerprint(&task);
        Self::Task(Box::new(task), print)
    }
}

impl From<PushRequest> for Submission {
    fn from(request: PushRequest) -> Self {
        Self {
            protocol: request.protocol,
            client_id: request.client_id,
            client_epoch: request.client_epoch,
            server_id: request.server_id,
            tasks: request.tasks.into_iter().map(Incoming::from).collect(),
        }
    }
}

impl Submission {
    /// Reads the body of a push.
    pub fn from_json(body: &[u8], limits: &Limits) -> Result<Self, Problem> {
        let malformed = |detail: String| Problem::new(400, code::MALFORMED, detail);
        let text = std::str::from_utf8(body).map_err(|_| malformed("the body is not UTF-8".to_owned()))?;
        let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| {
            // A later protocol may look quite different: say so rather than complain of its shape.
            match serde_json::from_str::<Version>(text) {
                Ok(other) if other.protocol != u64::from(PROTOCOL_VERSION) => Problem::new(
                    400,
                    code::UNSUPPORTED_PROTOCOL,
                    format!("this server speaks protocol {PROTOCOL_VERSION}, not {}", other.protocol),
                ),
                _ => malformed(format!("not readable as a push: {error}")),
            }
        })?;
        if envelope.tasks.len() > limits.tasks {
            let detail = format!("{} tasks; at most {} in one push", envelope.tasks.len(), limits.tasks);
            return Err(Problem::new(413, code::TOO_LARGE, detail));
        }
        let tasks = envelope.tasks.into_iter().map(|task| read(task, limits)).collect::<Result<_, _>>()?;
        Ok(Self {
            protocol: envelope.protocol,
            client_id: envelope.client_id,
            client_epoch: envelope.client_epoch,
            server_id: envelope.server_id,
            tasks,
        })
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    protocol: u32,
    client_id: String,
    client_epoch: u64,
    #[serde(default)]
    server_id: Option<String>,
    #[serde(borrow)]
    tasks: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Version {
    protocol: u64,
}

#[derive(Deserialize)]
struct KeyOnly {
    key: String,
}

#[derive(Deserialize)]
struct GroupOnly {
    #[serde(default)]
    group: Option<String>,
}

fn read(task: &RawValue, limits: &Limits) -> Result<Incoming, Problem> {
    let text = task.get();
    let message = match strict::check(text, limits.json_depth) {
        Err(message) => message,
        Ok(()) => match serde_json::from_str::<Task>(text) {
            Ok(task) => return Ok(Incoming::from(task)),
            Err(error) => error.to_string(),
        },
    };
    let key = serde_json::from_str::<KeyOnly>(text)
        .map_err(|_| Problem::new(400, code::MALFORMED, format!("a task without a readable key: {message}")))?
        .key;
    let group = serde_json::from_str::<GroupOnly>(text).ok().and_then(|task| task.group);
    Ok(Incoming::Unreadable { key, group, text: text.to_owned(), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(tasks: &str) -> Result<Submission, Problem> {
        let body = format!(r#"{{"protocol":1,"client_id":"c","client_epoch":1,"new":0,"tasks":{tasks}}}"#);
        Submission::from_json(body.as_bytes(), &Limits::default())
    }

    #[test]
    fn one_unreadable_task_does_not_spoil_the_others() {
        let good =
            r#"{"key":"a","task_id":"t","entity_type":"n","entity_id":"1","operation":"create","later":[1]}"#;
        for bad in [
            r#"{"key":"b"}"#,
            r#"{"key":"b","task_id":"t","entity_type":"n","entity_id":"1","operation":7}"#,
            r#"{"key":"b","task_id":"t","entity_type":"n","entity_id":"1","operation":"create","fields":[1]}"#,
            r#"{"key":"b","task_id":"t","entity_type":"n","entity_id":"1","operation":"create","base_version":7}"#,
            r#"{"key":"b","task_id":"t","entity_type":"n","entity_id":"1","operation":"create","fields":{"a":{"x":1,"x":1}}}"#,
        ] {
            let submission = parse(&format!("[{bad},{good}]")).unwrap();
            assert!(matches!(&submission.tasks[0], Incoming::Unreadable { key, .. } if key == "b"), "{bad}");
            assert!(matches!(&submission.tasks[1], Incoming::Task(task, _) if task.key == "a"));
        }
    }

    #[test]
    fn a_request_that_cannot_be_answered_by_key_is_malformed() {
        for tasks in
            ["[1]", "[null]", "[{}]", r#"[{"key":7}]"#, r#"[{"key":"a","key":"b"}]"#, "{}", "null", "[", ""]
        {
            assert_eq!(parse(tasks).unwrap_err().code, code::MALFORMED, "{tasks}");
        }
        for body in [&b"\xff"[..], b"", b"[]", b"null", b"{}", br#"{"protocol":1,"protocol":1}"#] {
            assert_eq!(Submission::from_json(body, &Limits::default()).unwrap_err().status, 400);
        }
    }

    #[test]
    fn a_later_protocol_is_named_as_such() {
        let problem =
            Submission::from_json(br#"{"protocol":2,"changes":[]}"#, &Limits::default()).unwrap_err();
        assert_eq!(problem.code, code::UNSUPPORTED_PROTOCOL);
    }
}
