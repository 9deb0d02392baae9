//! What comes back: verdicts on tasks, pages of the feed, single records.
//!
//! Nothing is believed that is not wholly there (G13): a status, a content type, a declared end, a whole JSON object,
//! and for each task a result that names its key. What cannot be read costs only itself. Pure; never panics, whatever
//! comes. Tests: `decode/tests.rs`, where valid answers are cut at every byte and flipped at random.

#[cfg(test)]
mod tests;

use crate::http::HttpResponse;
use crate::http::classify::{Table, problem};
use crate::http::shown::Secrets;
use landfall_core::adapter::{
    Applied, Outcome, PullPage, PullRequest, PushBatch, PushReply, PushTask, Rejection,
};
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{Cursor, EntityKey, IdempotencyKey, ServerId, Version};
use landfall_core::value::Fields;
use landfall_protocol::{ErrorDetail, PROTOCOL_VERSION, RawValue, Status, code};
use serde::Deserialize;
use std::collections::HashMap;
use std::time::Duration;

/// Longest reason that is kept of a refusal.
const REASON_CHARS_MAX: usize = 500;
/// Longest code of a refusal; codes are words for programs.
const CODE_CHARS_MAX: usize = 100;
/// Longest version, cursor, id or server name that is believed. They are stored with every record and travel in
/// addresses; a longer one is a mistake.
const NAME_BYTES_MAX: usize = 4096;
/// The longest wait of a single task that is passed on; the core believes less.
const RETRY_MAX: Duration = crate::http::RETRY_AFTER_MAX;

/// Reads the answer to a push with the default table.
///
/// # Errors
/// [`Failure`] when no task has a verdict of its own. A body that is not wholly readable is
/// [`FailureKind::Protocol`] with [`Delivery::Unknown`].
pub fn decode_push(batch: &PushBatch, response: &HttpResponse) -> Result<PushReply, Failure> {
    read_push(&Table::sync_endpoint(), batch, response).map(|read| read.reply)
}

/// Reads one page of the change feed with the default table.
///
/// # Errors
/// [`Failure`] when there is no whole page. A record that cannot be read is a reason within the page.
pub fn decode_pull(request: &PullRequest, response: &HttpResponse) -> Result<PullPage, Failure> {
    read_pull(&Table::sync_endpoint(), request, response)
}

/// Reads one record with the default table; `None` when the backend says that it has none.
///
/// # Errors
/// [`Failure`] when there is no readable record, or another than was asked for.
pub fn decode_fetch(entity: &EntityKey, response: &HttpResponse) -> Result<Option<RemoteEntity>, Failure> {
    read_fetch(&Table::sync_endpoint(), entity, response)
}

/// A push's answer, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushRead {
    /// Verdicts on tasks of the batch, each task at most once.
    pub reply: PushReply,
    /// Results that name no task of the batch; ignored.
    pub unasked: u64,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    protocol: u32,
    #[serde(default)]
    server_id: Option<String>,
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Keyed {
    key: String,
}

#[derive(Deserialize)]
struct Verdict<'a> {
    status: Status,
    #[serde(default)]
    version: Option<String>,
    #[serde(default, borrow)]
    fields: Option<&'a RawValue>,
    #[serde(default)]
    deleted: Option<bool>,
    #[serde(default)]
    entity_id: Option<String>,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
    #[serde(default, borrow)]
    retry_after_ms: Option<&'a RawValue>,
}

/// [`decode_push`] with a table of your own.
///
/// # Errors
/// As [`decode_push`].
pub fn read_push(table: &Table, batch: &PushBatch, response: &HttpResponse) -> Result<PushRead, Failure> {
    read_push_sent(table, batch, response, &Secrets::default())
}

/// [`read_push`] for the answer to a request that carried `secrets`: no text in it repeats them.
pub(super) fn read_push_sent(
    table: &Table,
    batch: &PushBatch,
    response: &HttpResponse,
    secrets: &Secrets,
) -> Result<PushRead, Failure> {
    table.judge_sent(response, secrets)?;
    let envelope: Envelope<'_> = parse_body(response)?;
    if envelope.protocol != PROTOCOL_VERSION {
        return Err(unreadable("the answer is of another protocol version"));
    }
    let server_id = match envelope.server_id {
        Some(name) if !is_name(&name) => return Err(unreadable("the server's name is empty or too long")),
        other => other.map(ServerId),
    };
    let tasks: HashMap<IdempotencyKey, &PushTask> = batch.tasks.iter().map(|task| (task.key, task)).collect();
    let mut unasked = 0;
    let mut results: Vec<(IdempotencyKey, Outcome)> = Vec::with_capacity(batch.tasks.len());
    let mut seen: HashMap<IdempotencyKey, usize> = HashMap::with_capacity(batch.tasks.len());
    for raw in envelope.results {
        let key =
            serde_json::from_str::<Keyed>(raw.get()).ok().and_then(|it| IdempotencyKey::parse(&it.key).ok());
        let Some((key, task)) = key.and_then(|key| Some((key, *tasks.get(&key)?))) else {
            unasked += 1;
            continue;
        };
        let outcome = outcome(task, raw, secrets);
        match seen.get(&key) {
            None => {
                seen.insert(key, results.len());
                results.push((key, outcome));
            }
            Some(&at) if results[at].1 != outcome => {
                results[at].1 = unknown("two results contradict each other");
            }
            Some(_) => {}
        }
    }
    Ok(PushRead { reply: PushReply { results, server_id, server_time: response.date() }, unasked })
}

/// One result. Anything but the expected shape leaves the task's fate open, with one exception: when a task took
/// effect and only the fields that came along cannot be read, the effect counts and the fields do not.
fn outcome(task: &PushTask, raw: &RawValue, secrets: &Secrets) -> Outcome {
    let Ok(verdict) = serde_json::from_str::<Verdict<'_>>(raw.get()) else {
        return unknown("a result of another shape");
    };
    let names = [&verdict.version, &verdict.entity_id];
    if names.into_iter().flatten().any(|name| !is_name(name)) {
        return unknown("a version or id that is empty or too long");
    }
    let Ok(error) = verdict.error.map(|raw| serde_json::from_str::<ErrorDetail>(raw.get())).transpose()
    else {
        return unknown("a result of another shape");
    };
    match verdict.status {
        Status::Applied => Outcome::Applied(applied(task, verdict)),
        Status::Duplicate => Outcome::Duplicate(applied(task, verdict)),
        Status::Conflict => Outcome::Conflict { remote: conflicting(task, verdict) },
        Status::Rejected => {
            // The whole member as it came: a server may say more in it than the protocol knows.
            let answer = verdict.error.and_then(|raw| secrets.answer(raw.get().as_bytes()));
            let error = error.unwrap_or_else(|| ErrorDetail::new("rejected", "no reason given"));
            Outcome::Rejected(Rejection {
                code: secrets.shown(&error.code, CODE_CHARS_MAX),
                message: secrets.shown(&error.message, REASON_CHARS_MAX),
                answer,
            })
        }
        Status::Retry => {
            let wait = verdict.retry_after_ms.and_then(|raw| raw.get().parse::<u64>().ok());
            let reason = error.map_or_else(
                || "the backend asks to send it again".to_owned(),
                |error| secrets.shown(&format!("{}: {}", error.code, error.message), REASON_CHARS_MAX),
            );
            Outcome::Retry { after: wait.map(|ms| Duration::from_millis(ms).min(RETRY_MAX)), reason }
        }
        Status::Other(_) => unknown("a verdict this version does not know"),
    }
}

fn applied(task: &PushTask, verdict: Verdict<'_>) -> Applied {
    Applied {
        version: verdict.version.map(Version),
        fields: verdict.fields.and_then(|raw| Fields::parse(raw.get()).ok()),
        entity_id: verdict.entity_id.filter(|id| *id != task.entity.entity_id),
    }
}

/// What the backend has now; `None` when it does not say, or nothing readable.
fn conflicting(task: &PushTask, verdict: Verdict<'_>) -> Option<RemoteEntity> {
    let body = if verdict.deleted == Some(true) {
        Body::Deleted
    } else {
        Body::Live(Fields::parse(verdict.fields?.get()).ok()?)
    };
    Some(RemoteEntity::new(task.entity.clone(), body, verdict.version.map(Version)))
}

fn unknown(reason: &str) -> Outcome {
    Outcome::Unknown { reason: reason.into() }
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    changes: Vec<&'a RawValue>,
    cursor: String,
    // The end mark of a page: never assumed.
    has_more: bool,
}

#[derive(Deserialize)]
struct RawRecord<'a> {
    entity_type: String,
    entity_id: String,
    version: String,
    #[serde(default)]
    deleted: bool,
    #[serde(default, borrow)]
    fields: Option<&'a RawValue>,
}

/// [`decode_pull`] with a table of your own.
///
/// # Errors
/// As [`decode_pull`].
pub fn read_pull(table: &Table, request: &PullRequest, response: &HttpResponse) -> Result<PullPage, Failure> {
    read_pull_sent(table, request, response, &Secrets::default())
}

/// [`read_pull`] for the answer to a request that carried `secrets`.
pub(super) fn read_pull_sent(
    table: &Table,
    request: &PullRequest,
    response: &HttpResponse,
    secrets: &Secrets,
) -> Result<PullPage, Failure> {
    table.judge_sent(response, secrets)?;
    let page: Page<'_> = parse_body(response)?;
    if !is_name(&page.cursor) {
        return Err(unreadable("the page's cursor is empty or too long"));
    }
    let cursor = Cursor(page.cursor);
    if page.has_more && request.cursor.as_ref() == Some(&cursor) {
        return Err(unreadable("the feed says there is more but does not move on"));
    }
    Ok(PullPage { changes: page.changes.into_iter().map(record).collect(), cursor, has_more: page.has_more })
}

/// [`decode_fetch`] with a table of your own.
///
/// # Errors
/// As [`decode_fetch`].
pub fn read_fetch(
    table: &Table,
    entity: &EntityKey,
    response: &HttpResponse,
) -> Result<Option<RemoteEntity>, Failure> {
    read_fetch_sent(table, entity, response, &Secrets::default())
}

/// [`read_fetch`] for the answer to a request that carried `secrets`.
pub(super) fn read_fetch_sent(
    table: &Table,
    entity: &EntityKey,
    response: &HttpResponse,
    secrets: &Secrets,
) -> Result<Option<RemoteEntity>, Failure> {
    if response.status == 404 {
        let named = problem(response, &response.media_type());
        if named.is_some_and(|problem| problem.code == code::NOT_FOUND) {
            return Ok(None);
        }
    }
    table.judge_sent(response, secrets)?;
    let raw: &RawValue = parse_body(response)?;
    let found = record(raw).map_err(|reason| unreadable(&reason))?;
    if found.key == *entity { Ok(Some(found)) } else { Err(unreadable("the answer is another record")) }
}

/// One record, or why it cannot be read. The reason names the record and never one of its values.
fn record(raw: &RawValue) -> Result<RemoteEntity, String> {
    let Ok(record) = serde_json::from_str::<RawRecord<'_>>(raw.get()) else {
        return Err("a record of another shape".into());
    };
    if ![&record.entity_type, &record.entity_id, &record.version].into_iter().all(|name| is_name(name)) {
        return Err("a record whose type, id or version is empty or too long".into());
    }
    let key = EntityKey::new(record.entity_type, record.entity_id);
    let body = match (record.deleted, record.fields) {
        (true, _) => Body::Deleted,
        (false, None) => return Err(format!("{key}: neither fields nor deleted")),
        (false, Some(fields)) => match Fields::parse(fields.get()) {
            Ok(fields) => Body::Live(fields),
            Err(_) => {
                return Err(format!(
                    "{key}: fields that are no object, repeat a name, or hold a number beyond 64 bits"
                ));
            }
        },
    };
    Ok(RemoteEntity::new(key, body, Some(Version(record.version))))
}

/// Reads a whole body as one JSON text.
fn parse_body<'a, T: Deserialize<'a>>(response: &'a HttpResponse) -> Result<T, Failure> {
    let text = std::str::from_utf8(&response.body).map_err(|_| unreadable("the answer is not UTF-8"))?;
    // The error's own words may repeat what is in the body; its place does not.
    serde_json::from_str(text).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Eof => "ends too early",
            serde_json::error::Category::Syntax => "is not JSON",
            serde_json::error::Category::Data => "has another shape than the protocol",
            serde_json::error::Category::Io => "cannot be read",
        };
        unreadable(&format!("the answer {what} (line {}, column {})", error.line(), error.column()))
    })
}

fn unreadable(message: &str) -> Failure {
    Failure::new(FailureKind::Protocol, Delivery::Unknown, message)
}

/// Whether a text can be a version, cursor, id or server name.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES_MAX
}
