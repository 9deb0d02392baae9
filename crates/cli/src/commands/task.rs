//! `landfall task ID`: everything about one task, in the queue or in the journal.
//!
//! Also holds what `landfall queue` shows of a task: both say the same. Tests: `tests/cli_basics.rs`.

use crate::duration::words;
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::moment;
use crate::output::Output;
use crate::problem::Problem;
use crate::reasons;
use crate::shown;
use crate::store::DbArgs;
use crate::table::visible;
use landfall_core::change::Operation;
use landfall_core::explain::{Explanation, Live, Wait, explain};
use landfall_core::id::{EntityKey, TaskId};
use landfall_core::model::Model;
use landfall_core::store::{StoreError, StoreRead};
use landfall_core::task::{FailureNote, JournalEntry, StateKind, Task, Terms, Verdict};
use landfall_core::time::Timestamp;
use landfall_core::value::Fields;
use landfall_engine::{Clock, Engine, SystemClock};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeSet;

const EXAMPLES: &str = "  landfall task --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall task --db q.db --json 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10 | jq .frozen.payload";

/// Show one task: what it carries, its attempts, and what it waits for.
///
/// A task that has left the queue is shown from the journal, which remembers it for 30 days. With sensitive fields in
/// the --model the payload is shown without their values, and otherwise as the exact bytes.
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
    let (engine, model) = args.db.queue()?;
    let id = args.task;
    let now = SystemClock::default().now().wall;
    if let Some((task, explanation)) = find(&args.db, &engine, &model, id)? {
        if output.is_json() {
            output.json(&Detail::new(&task, &explanation, now))?;
        } else {
            show(&task, &explanation, now, output)?;
        }
        return Ok(Exit::Done);
    }
    show_ended(&ended(&args.db, &engine, &model, id)?, now, output)?;
    Ok(Exit::Done)
}

/// A task of the queue as it may be shown, and what it waits for.
pub(crate) fn find(
    db: &DbArgs,
    engine: &Engine,
    model: &Model,
    id: TaskId,
) -> Result<Option<(Task, Explanation)>, Problem> {
    let now = SystemClock::default().now().wall;
    let found = db.named(engine.read(move |store| {
        let Some(task) = store.task(id)? else { return Ok(None) };
        let explanation = explained(store, &task, now)?;
        Ok(Some((task, explanation)))
    }))?;
    Ok(found.map(|(task, explanation)| (shown::task(model, task), explanation)))
}

/// How a task ended, as it may be shown.
pub(crate) fn ended(
    db: &DbArgs,
    engine: &Engine,
    model: &Model,
    id: TaskId,
) -> Result<JournalEntry, Problem> {
    let entry = db.named(engine.journal(id))?;
    let entry = entry.ok_or_else(|| {
        Problem::new(format!("there is no task {id} in {}", db.db.display()))
            .hint("`landfall queue` lists the tasks; ended ones are remembered for 30 days")
    })?;
    Ok(shown::ended(model, entry))
}

/// What a task waits for, as far as the store knows: this process sends nothing.
pub(crate) fn explained(
    store: &dyn StoreRead,
    task: &Task,
    now: Timestamp,
) -> Result<Explanation, StoreError> {
    let explanation = explain(store, task.id, now, &Live::default())?;
    explanation.ok_or_else(|| StoreError::Misuse("a task that was just read is not there".into()))
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
    lane: Option<&'a str>,
    group: Option<&'a str>,
    tags: &'a BTreeSet<String>,
    /// For people; the reasons themselves stand in `waits`.
    waits_for: String,
    waits: &'a [Wait],
    last_failure: Option<&'a FailureNote>,
}

impl<'a> Summary<'a> {
    pub(crate) fn new(task: &'a Task, explanation: &'a Explanation, now: Timestamp) -> Self {
        Self {
            task: task.id,
            state: task.state.kind(),
            operation: task.intent.operation,
            entity: &task.entity,
            priority: task.priority,
            attempts: task.attempts,
            enqueued_at_ms: task.enqueued_at.0,
            lane: task.lane.as_deref(),
            group: task.terms.group.as_deref(),
            tags: &task.terms.tags,
            waits_for: reasons::short(explanation, now),
            waits: &explanation.waits_for,
            last_failure: task.last_failure(),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Detail<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    generation: u64,
    schema: u32,
    not_before_ms: Option<i64>,
    terms: &'a Terms,
    action: Option<&'a str>,
    cancelling: bool,
    /// What failed attempts met, the first one and the last ones.
    history: &'a [FailureNote],
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
    sends: u32,
    open_sends: u32,
    /// The exact bytes, as text.
    payload: String,
}

impl<'a> Detail<'a> {
    pub(crate) fn new(task: &'a Task, explanation: &'a Explanation, now: Timestamp) -> Self {
        let frozen = task.frozen.as_ref().map(|frozen| FrozenDetail {
            key: frozen.key.to_string(),
            fingerprint: frozen.fingerprint.0.iter().map(|byte| format!("{byte:02x}")).collect(),
            base_version: frozen.base_version.as_ref().map(|version| version.0.clone()),
            sends: frozen.sends,
            open_sends: frozen.open_sends,
            payload: frozen.payload.to_string(),
        });
        Self {
            summary: Summary::new(task, explanation, now),
            generation: task.generation,
            schema: task.schema,
            not_before_ms: task.not_before.map(|moment| moment.0),
            terms: &task.terms,
            action: task.intent.action.as_deref(),
            cancelling: task.standing.cancelling,
            history: task.history.notes(),
            changed_at: task.changed_at.to_string(),
            conflict_rounds: task.conflict_rounds,
            fields: &task.intent.fields,
            unset: &task.intent.unset,
            frozen,
        }
    }
}

pub(crate) fn show(
    task: &Task,
    explanation: &Explanation,
    now: Timestamp,
    output: &Output,
) -> Result<(), Problem> {
    let put = |name: &str, value: &str| output.line(format_args!("{name:<12} {}", visible(value)));
    put("task", &task.id.to_string())?;
    put("record", &record(&task.entity))?;
    match &task.intent.action {
        Some(action) => put("operation", &format!("{} {action}", task.intent.operation))?,
        None => put("operation", task.intent.operation.as_str())?,
    }
    put("state", task.state.kind().as_str())?;
    if task.standing.cancelling {
        put("", "to be cancelled, unless it turns out to have taken effect")?;
    }
    put("waits for", &reasons::short(explanation, now))?;
    put("stored", &ago(task.enqueued_at, now))?;
    put("priority", &task.priority.to_string())?;
    if let Some(lane) = &task.lane {
        put("lane", lane)?;
    }
    show_terms(task, now, output)?;
    put("attempts", &task.attempts.to_string())?;
    for (number, failure) in (1..).zip(task.history.notes()) {
        let name = if number == 1 { "history" } else { "" };
        put(name, &format!("{} ({})", failure_text(failure), moment::both(failure.at, now)))?;
        if let Some(answer) = &failure.answer {
            put("", &format!("the backend's answer: {answer}"))?;
        }
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
    put("sent", &format!("{} times, {} of them without an answer", frozen.sends, frozen.open_sends))?;
    put("payload", &frozen.payload)
}

/// What the app asked for, as far as it asked for anything.
fn show_terms(task: &Task, now: Timestamp, output: &Output) -> Result<(), Problem> {
    let put = |name: &str, value: &str| output.line(format_args!("{name:<12} {}", visible(value)));
    let terms = &task.terms;
    if let Some(moment) = task.not_before {
        put("not before", &moment::both(moment, now))?;
    }
    if let Some(moment) = terms.expires_at {
        put("expires", &moment::both(moment, now))?;
    }
    if let Some(group) = &terms.group {
        put("group", group)?;
    }
    if !terms.tags.is_empty() {
        put("tags", &terms.tags.iter().cloned().collect::<Vec<_>>().join(", "))?;
    }
    for parent in &terms.waits_for {
        put("depends on", &format!("task {parent}"))?;
    }
    if !terms.waits_for.is_empty() {
        put("orphaned", terms.orphaned.as_str())?;
    }
    for (asked, what) in [
        (terms.unmetered_only, "only over an unmetered network"),
        (terms.at_most_once, "rather not at all than twice"),
    ] {
        if asked {
            put("sent", what)?;
        }
    }
    Ok(())
}

/// How a task ended.
#[derive(Serialize)]
pub(crate) struct Ended<'a> {
    task: TaskId,
    state: &'static str,
    verdict: Verdict,
    #[serde(flatten)]
    entity: &'a EntityKey,
    generation: u64,
    version: Option<&'a str>,
    at_ms: i64,
    /// The task that went on in its place.
    became: Option<TaskId>,
    payload: &'a RawValue,
}

impl<'a> Ended<'a> {
    pub(crate) fn new(entry: &'a JournalEntry) -> Result<Self, Problem> {
        Ok(Self {
            task: entry.task_id,
            state: "done",
            verdict: entry.verdict,
            entity: &entry.entity,
            generation: entry.generation,
            version: entry.version.as_ref().map(|version| version.0.as_str()),
            at_ms: entry.at.0,
            became: entry.became,
            payload: serde_json::from_str(&entry.payload)
                .map_err(|error| Problem::new(format!("the journal holds no JSON: {error}")))?,
        })
    }
}

pub(crate) fn show_ended(entry: &JournalEntry, now: Timestamp, output: &Output) -> Result<(), Problem> {
    if output.is_json() {
        return output.json(&Ended::new(entry)?);
    }
    let put = |name: &str, value: &str| output.line(format_args!("{name:<12} {}", visible(value)));
    put("task", &entry.task_id.to_string())?;
    put("record", &record(&entry.entity))?;
    put("ended", &format!("{}, {}", entry.verdict.as_str().replace('_', " "), ago(entry.at, now)))?;
    if let Some(version) = &entry.version {
        put("version", &version.0)?;
    }
    if let Some(next) = entry.became {
        put("became", &format!("task {next}"))?;
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
