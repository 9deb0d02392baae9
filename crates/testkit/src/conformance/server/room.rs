//! What the checks share: a server, random names, short ways to ask, and a list of what was made.

use super::{Answer, Ask, Cut, Way, Who};
use serde_json::{Value, json};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How often a single task is sent again that was answered `retry`.
const RETRIES: usize = 20;
/// The wait between, when the server names none or a longer one.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// The server under test and what was made there.
pub(super) struct Room<'a> {
    pub(super) way: &'a dyn Way,
    pub(super) entity_type: &'a str,
    stop: &'a (dyn Fn() -> bool + Sync),
    /// What was made is deleted also after a stop.
    cleaning: AtomicBool,
    made: Mutex<Vec<String>>,
}

/// 128 random bits as 32 hexadecimal digits.
pub(super) fn fresh() -> String {
    let draw = || RandomState::new().hash_one(0_u8);
    format!("{:016x}{:016x}", draw(), draw())
}

impl<'a> Room<'a> {
    pub(super) fn new(way: &'a dyn Way, entity_type: &'a str, stop: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { way, entity_type, stop, cleaning: AtomicBool::new(false), made: Mutex::default() }
    }

    /// A new id, deleted at the end.
    pub(super) fn id(&self) -> String {
        self.owned(format!("conformance-{}", fresh()))
    }

    /// An id that is deleted at the end.
    fn owned(&self, id: String) -> String {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !made.contains(&id) {
            made.push(id.clone());
        }
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
        self.ask("POST", "", Some(body.to_owned()), Who::Us)
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, String> {
        self.ask("GET", path, None, Who::Us)
    }

    pub(super) fn ask(
        &self,
        method: &'static str,
        path: &str,
        body: Option<String>,
        who: Who,
    ) -> Result<Answer, String> {
        self.go_on()?;
        let ask = Ask { method, path: path.to_owned(), body, who };
        self.way.ask(&ask).map_err(|why| format!("no whole answer to {}: {why}", named(&ask)))
    }

    /// Sends a push and cuts the connection; `false` when the way cannot.
    pub(super) fn cut(&self, body: &str, when: Cut) -> Result<bool, String> {
        self.go_on()?;
        let ask = Ask { method: "POST", path: String::new(), body: Some(body.to_owned()), who: Who::Us };
        self.way.cut(&ask, when).map_err(|why| format!("{}: {why}", named(&ask)))
    }

    fn go_on(&self) -> Result<(), String> {
        if (self.stop)() && !self.cleaning.load(Ordering::Relaxed) {
            return Err("stopped".into());
        }
        Ok(())
    }

    /// The verdicts on a request's tasks, in the order of `tasks`.
    pub(super) fn verdicts(&self, body: &str, tasks: &[Value]) -> Result<Vec<Value>, String> {
        let answer = self.post(body)?;
        if answer.status != 200 {
            return Err(format!("a push was answered {}: {}", answer.status, cut(&answer.body)));
        }
        let answer = parsed(&answer)?;
        let results = answer["results"].as_array().ok_or("the answer to a push has no `results`")?;
        for other in results.iter().filter_map(|result| result["entity_id"].as_str()) {
            self.owned(other.to_owned());
        }
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

    /// Sends one task, as a new client, and again while it is answered `retry`.
    pub(super) fn send_one(&self, task: &Value) -> Result<Value, String> {
        self.settled(&self.request(std::slice::from_ref(task)), task)
    }

    /// Likewise a request that is written already, byte for byte.
    pub(super) fn settled(&self, body: &str, task: &Value) -> Result<Value, String> {
        for _ in 0..RETRIES {
            let result = self.verdicts(body, std::slice::from_ref(task))?.remove(0);
            if result["status"] != "retry" {
                return Ok(result);
            }
            let wait = result["retry_after_ms"].as_u64().map_or(RETRY_WAIT, Duration::from_millis);
            thread::sleep(wait.min(RETRY_WAIT));
        }
        Err(format!("a task alone was answered `retry` {RETRIES} times"))
    }

    /// A new record with these fields; its id and version.
    pub(super) fn make(&self, fields: Value) -> Result<(String, String), String> {
        let id = self.id();
        let result = self.send_one(&self.task(&id, "create", json!({"fields": fields})))?;
        expect(&result, "applied", "a create of a new record")?;
        Ok((stored_as(&result, &id), version(&result)?))
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

    /// The ids of what may be there still.
    pub(super) fn left(&self) -> Vec<String> {
        std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Deletes what was made: how many are gone, and which may be there still.
    pub(super) fn clean(&self) -> (usize, Vec<String>) {
        self.cleaning.store(true, Ordering::Relaxed);
        let (mut cleaned, mut left) = (0, Vec::new());
        let mut is_lost = false;
        for id in self.left() {
            if is_lost {
                left.push(id);
                continue;
            }
            let there = match self.fetch(&id) {
                Ok(answer) if answer.status == 404 => continue,
                Ok(answer) => !parsed(&answer).is_ok_and(|record| record["deleted"] == true),
                // Waiting for each of a hundred answers that do not come would take an hour.
                Err(_) => {
                    is_lost = true;
                    true
                }
            };
            let gone = || self.send_one(&self.task(&id, "delete", json!({})));
            if !there || (!is_lost && gone().is_ok_and(|result| result["status"] == "applied")) {
                cleaned += 1;
            } else {
                left.push(id);
            }
        }
        (cleaned, left)
    }
}

fn named(ask: &Ask) -> String {
    if ask.path.is_empty() {
        format!("the {} of a push", ask.method)
    } else {
        format!("{} {}", ask.method, ask.path)
    }
}

/// The id under which a record was stored: the server may give its own.
pub(super) fn stored_as(result: &Value, id: &str) -> String {
    result["entity_id"].as_str().unwrap_or(id).to_owned()
}

/// Of what the suite stores, exactly this must be in `fields`; a server may add fields of its own.
pub(super) fn fields(record: &Value, wanted: Value, what: &str) -> Result<(), String> {
    for name in ["a", "b", "c"] {
        if record["fields"].get(name) != wanted.get(name) {
            return Err(format!("{what} must have the fields {wanted}, was {}", cut(&record.to_string())));
        }
    }
    Ok(())
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
