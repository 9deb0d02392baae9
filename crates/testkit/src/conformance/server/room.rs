//! What the checks share: a server, random names, short ways to ask, and a list of what was made.

use super::{Answer, Ask, Way};
use serde_json::{Value, json};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};

/// The server under test and what was made there.
pub struct Room<'a> {
    pub(super) way: &'a dyn Way,
    pub(super) entity_type: &'a str,
    made: Mutex<Vec<String>>,
}

/// 128 random bits as 32 hexadecimal digits.
pub(super) fn fresh() -> String {
    let draw = || RandomState::new().hash_one(0_u8);
    format!("{:016x}{:016x}", draw(), draw())
}

impl<'a> Room<'a> {
    pub(super) fn new(way: &'a dyn Way, entity_type: &'a str) -> Self {
        Self { way, entity_type, made: Mutex::default() }
    }

    /// A new id, deleted at the end.
    pub(super) fn id(&self) -> String {
        self.owned(format!("conformance-{}", fresh()))
    }

    /// An id that is deleted at the end.
    pub(super) fn owned(&self, id: String) -> String {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(id.clone());
        id
    }

    /// A task with a new key.
    pub(super) fn task(&self, id: &str, operation: &str, more: Value) -> Value {
        let key = fresh();
        let mut task = json!({"key": key, "task_id": key, "entity_type": self.entity_type, "entity_id": id, "operation": operation});
        if let (Some(task), Value::Object(more)) = (task.as_object_mut(), more) {
            task.extend(more);
        }
        task
    }

    /// A request of a client that was never seen before.
    pub(super) fn request(&self, tasks: &[Value]) -> String {
        json!({"protocol": 1, "client_id": fresh(), "client_epoch": 1, "tasks": tasks}).to_string()
    }

    pub(super) fn post(&self, body: &str) -> Result<Answer, String> {
        self.ask("POST", "", Some(body.to_owned()), true)
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, String> {
        self.ask("GET", path, None, true)
    }

    pub(super) fn ask(
        &self,
        method: &'static str,
        path: &str,
        body: Option<String>,
        with_credentials: bool,
    ) -> Result<Answer, String> {
        let ask = Ask { method, path: path.to_owned(), body, with_credentials };
        self.way.ask(&ask).map_err(|why| format!("no whole answer to {method} {path:?}: {why}"))
    }

    /// The verdicts on a request's tasks, in the order of `keys`.
    pub(super) fn verdicts(&self, body: &str, tasks: &[Value]) -> Result<Vec<Value>, String> {
        let answer = self.post(body)?;
        if answer.status != 200 {
            return Err(format!("a push was answered {}: {}", answer.status, cut(&answer.body)));
        }
        let answer = parsed(&answer)?;
        let results = answer["results"].as_array().ok_or("the answer to a push has no `results`")?;
        tasks
            .iter()
            .map(|task| {
                let mut of_key = results.iter().filter(|result| result["key"] == task["key"]);
                match (of_key.next(), of_key.next()) {
                    (Some(result), None) => Ok(result.clone()),
                    (None, _) => Err(format!("there is no result for key {}", task["key"])),
                    _ => Err(format!("there are two results for key {}", task["key"])),
                }
            })
            .collect()
    }

    /// Sends tasks together, as a new client.
    pub(super) fn send(&self, tasks: &[Value]) -> Result<Vec<Value>, String> {
        self.verdicts(&self.request(tasks), tasks)
    }

    /// Sends one task, as a new client.
    pub(super) fn send_one(&self, task: &Value) -> Result<Value, String> {
        Ok(self.send(std::slice::from_ref(task))?.remove(0))
    }

    /// A new record with these fields; its id and version.
    pub(super) fn make(&self, fields: Value) -> Result<(String, String), String> {
        let id = self.id();
        let result = self.send_one(&self.task(&id, "create", json!({"fields": fields})))?;
        expect(&result, "applied", "a create of a new record")?;
        let id = match result["entity_id"].as_str() {
            Some(other) => self.owned(other.to_owned()),
            None => id,
        };
        Ok((id, version(&result)?))
    }

    /// The entity route's answer.
    pub(super) fn fetch(&self, id: &str) -> Result<Answer, String> {
        self.get(&format!("/entities/{}/{}", encoded(self.entity_type), encoded(id)))
    }

    /// A record that must be there, as a tombstone at least.
    pub(super) fn record(&self, id: &str) -> Result<Value, String> {
        let answer = self.fetch(id)?;
        if answer.status != 200 {
            return Err(format!("the entity route answered {}: {}", answer.status, cut(&answer.body)));
        }
        parsed(&answer)
    }

    /// Deletes what was made: how many are gone, and which are not.
    pub(super) fn clean(&self) -> (usize, Vec<String>) {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut cleaned, mut left) = (0, Vec::new());
        for id in made {
            match self.fetch(&id) {
                Ok(answer) if answer.status == 404 => continue,
                Ok(answer) if parsed(&answer).is_ok_and(|record| record["deleted"] == true) => {
                    cleaned += 1;
                    continue;
                }
                _ => {}
            }
            let gone = self.send_one(&self.task(&id, "delete", json!({})));
            if gone.is_ok_and(|result| result["status"] == "applied") {
                cleaned += 1;
            } else {
                left.push(id);
            }
        }
        (cleaned, left)
    }
}

pub(super) fn parsed(answer: &Answer) -> Result<Value, String> {
    serde_json::from_str(&answer.body).map_err(|error| format!("not JSON ({error}): {}", cut(&answer.body)))
}

pub(super) fn expect(result: &Value, status: &str, what: &str) -> Result<(), String> {
    if result["status"] == status { Ok(()) } else { Err(format!("{what} must be `{status}`, was {result}")) }
}

pub(super) fn equal(seen: &Value, wanted: &Value, what: &str) -> Result<(), String> {
    if seen == wanted { Ok(()) } else { Err(format!("{what} must be {wanted}, was {seen}")) }
}

pub(super) fn version(result: &Value) -> Result<String, String> {
    result["version"].as_str().map(str::to_owned).ok_or_else(|| format!("there is no `version` in {result}"))
}

/// A request that must be refused as a whole.
pub(super) fn refused(answer: &Answer, status: u16, code: &str) -> Result<(), String> {
    if answer.status != status {
        return Err(format!(
            "must be answered {status} `{code}`, was {}: {}",
            answer.status,
            cut(&answer.body)
        ));
    }
    equal(&parsed(answer)?["code"], &json!(code), "the problem's code")
}

pub(super) fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

pub(super) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
