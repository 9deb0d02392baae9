//! `landfall task ID`: everything about one task, in the queue or in the journal.
//!
//! Also holds what `landfall queue` shows of a task: both say the same. Tests: `tests/cli_basics.rs`.

use crate::duration::words;
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use crate::store::DbArgs;
use crate::table::visible;
use landfall_core::change::Operation;
use landfall_core::id::{EntityKey, TaskId};
use landfall_core::store::{StoreError, StoreRead};
use landfall_core::task::{FailureNote, JournalEntry, StateKind, Task, TaskState, Verdict};
use landfall_core::time::Timestamp;
use landfall_core::value::Fields;
use landfall_engine::{Clock, SystemClock};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeSet;

const EXAMPLES: &str = "  landfall task --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall task --db q.db --json 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10 | jq .frozen.payload";

/// Show one task: what it carries, its attempts, and what it waits for.
///
/// A task that has left the queue is shown from the journal, which remembers it for 30 days.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The task's id, as `landfall enqueue` and `landfall queue` show it.
    #[arg(value_name = "TASK", value_parser = id)]
    task: TaskId,
}

/// Reads a task id.
pub(crate) fn id(text: &str) -> Result<TaskId, String> {
    TaskId::parse(text).map_err(|_| "a task id looks like 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10".into())
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let engine = args.db.engine()?;
    let id = args.task;
    let now = SystemClock::default().now().wall;
    let found = args.db.named(engine.read(move |store| {
        let Some(task) = store.task(id)? else { return Ok(None) };
        let waits_for = waits_for(store, &task, now)?;
        Ok(Some((task, waits_for)))
    }))?;
    if let Some((task, waits_for)) = found {
        if output.is_json() {
            output.json(&Detail::new(&task, waits_for))?;
        } else {
            show(&task, &waits_for, now, output)?;
        }
        return Ok(Exit::Done);
    }
    match args.db.named(engine.journal(id))? {
        Some(entry) if output.is_json() => output.json(&Ended::new(&entry)?)?,
        Some(entry) => show_ended(&entry, now, output)?,
        None => {
            return Err(Problem::new(format!("there is no task {id} in {}", args.db.db.display()))
                .hint("`landfall queue` lists the tasks; ended ones are remembered for 30 days"));
        }
    }
    Ok(Exit::Done)
}

/// What is listed of a task.
#[derive(Serialize)]
pub(crate) struct Summary<'a> {
    task: TaskId,
    state: StateKind,
    operation: Operation,
    #[serde(flatten)]
    entity: &'a EntityKey,
    priority: i32,
    attempts: u32,
    enqueued_at_ms: i64,
    waits_for: String,
    last_failure: Option<&'a FailureNote>,
}

impl<'a> Summary<'a> {
    pub(crate) fn new(task: &'a Task, waits_for: String) -> Self {
        Self {
            task: task.id,
            state: task.state.kind(),
            operation: task.intent.operation,
            entity: &task.entity,
            priority: task.priority,
            attempts: task.attempts,
            enqueued_at_ms: task.enqueued_at.0,
            waits_for,
            last_failure: task.last_failure.as_ref(),
        }
    }
}

#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    generation: u64,
    schema: u32,
    lane: Option<&'a str>,
    not_before_ms: Option<i64>,
    changed_at: String,
    conflict_rounds: u32,
    fields: &'a Fields,
    unset: &'a BTreeSet<String>,
    frozen: Option<FrozenDetail>,
}

#[derive(Serialize)]
struct FrozenDetail {
    key: String,
    fingerprint: String,
    base_version: Option<String>,
    open_sends: u32,
    /// The exact bytes, as text.
    payload: String,
}

impl<'a> Detail<'a> {
    fn new(task: &'a Task, waits_for: String) -> Self {
        let frozen = task.frozen.as_ref().map(|frozen| FrozenDetail {
            key: frozen.key.to_string(),
            fingerprint: frozen.fingerprint.0.iter().map(|byte| format!("{byte:02x}")).collect(),
            base_version: frozen.base_version.as_ref().map(|version| version.0.clone()),
            open_sends: frozen.open_sends,
            payload: frozen.payload.to_string(),
        });
        Self {
            summary: Summary::new(task, waits_for),
            generation: task.generation,
            schema: task.schema,
            lane: task.lane.as_deref(),
            not_before_ms: task.not_before.map(|moment| moment.0),
            changed_at: task.changed_at.to_string(),
            conflict_rounds: task.conflict_rounds,
            fields: &task.intent.fields,
            unset: &task.intent.unset,
            frozen,
        }
    }
}

fn show(task: &Task, waits_for: &str, now: Timestamp, output: &Output) -> Result<(), Problem> {
    let put = |name: &str, value: &str| output.line(format_args!("{name:<12} {}", visible(value)));
    put("task", &task.id.to_string())?;
    put("record", &record(&task.entity))?;
    put("operation", task.intent.operation.as_str())?;
    put("state", task.state.kind().as_str())?;
    put("waits for", waits_for)?;
    put("stored", &ago(task.enqueued_at, now))?;
    put("priority", &task.priority.to_string())?;
    if let Some(lane) = &task.lane {
        put("lane", lane)?;
    }
    put("attempts", &task.attempts.to_string())?;
    if let Some(failure) = &task.last_failure {
        put("last failure", &failure_text(failure))?;
        put("", &ago(failure.at, now))?;
    }
    put("fields", &task.intent.fields.to_json())?;
    if !task.intent.unset.is_empty() {
        put("unset", &task.intent.unset.iter().cloned().collect::<Vec<_>>().join(", "))?;
    }
    let Some(frozen) = &task.frozen else { return Ok(()) };
    put("key", &frozen.key.to_string())?;
    put("fingerprint", &frozen.fingerprint.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>())?;
    if let Some(version) = &frozen.base_version {
        put("base version", &version.0)?;
    }
    put("open sends", &frozen.open_sends.to_string())?;
    put("payload", &frozen.payload)
}

/// How a task ended.
#[derive(Serialize)]
struct Ended<'a> {
    task: TaskId,
    state: &'static str,
    verdict: Verdict,
    #[serde(flatten)]
    entity: &'a EntityKey,
    generation: u64,
    version: Option<&'a str>,
    at_ms: i64,
    payload: &'a RawValue,
}

impl<'a> Ended<'a> {
    fn new(entry: &'a JournalEntry) -> Result<Self, Problem> {
        Ok(Self {
            task: entry.task_id,
            state: "done",
            verdict: entry.verdict,
            entity: &entry.entity,
            generation: entry.generation,
            version: entry.version.as_ref().map(|version| version.0.as_str()),
            at_ms: entry.at.0,
            payload: serde_json::from_str(&entry.payload)
                .map_err(|error| Problem::new(format!("the journal holds no JSON: {error}")))?,
        })
    }
}

fn show_ended(entry: &JournalEntry, now: Timestamp, output: &Output) -> Result<(), Problem> {
    let put = |name: &str, value: &str| output.line(format_args!("{name:<12} {}", visible(value)));
    put("task", &entry.task_id.to_string())?;
    put("record", &record(&entry.entity))?;
    put("ended", &format!("{}, {}", entry.verdict.as_str().replace('_', " "), ago(entry.at, now)))?;
    if let Some(version) = &entry.version {
        put("version", &version.0)?;
    }
    put("payload", &entry.payload)
}

pub(crate) fn record(entity: &EntityKey) -> String {
    format!("{} {}", entity.entity_type, entity.entity_id)
}

pub(crate) fn failure_text(failure: &FailureNote) -> String {
    let code = failure.code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
    format!("{}{code}: {}", failure.kind.as_str(), failure.message)
}

pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", words(u64::try_from(then.until(now).as_millis()).unwrap_or(u64::MAX)))
}

/// What a task waits for, in a few words.
pub(crate) fn waits_for(store: &dyn StoreRead, task: &Task, now: Timestamp) -> Result<String, StoreError> {
    match task.state {
        TaskState::InFlight { .. } => return Ok("an answer".into()),
        TaskState::Conflict | TaskState::Dead { .. } => return Ok("a decision".into()),
        TaskState::Pending { .. } | TaskState::Unknown { .. } => {}
    }
    if let Some(due) = task.claim_at {
        let wait = u64::try_from(now.until(due).as_millis()).unwrap_or(u64::MAX);
        return Ok(if due <= Timestamp::ALWAYS || wait == 0 {
            "the next sync".into()
        } else {
            format!("{} to pass", words(wait))
        });
    }
    let mut before = store.next_of_entity(&task.entity, 0)?.filter(|first| first.id != task.id);
    if let (None, Some(lane)) = (&before, &task.lane) {
        before = store.next_of_lane(lane, 0)?.filter(|first| first.id != task.id);
    }
    Ok(before.map_or_else(|| "an earlier task".into(), |first| format!("task {}", first.id)))
}
