//! Answers of a backend, or of whatever answers in its place.
//!
//! An input is `STATUS [close] MEDIA-TYPE`, further headers one a line, an empty line, the body; without such a head
//! the whole is the body of a 200 in JSON.

use super::{items, members, objects};
use landfall_adapters::http::classify::Table;
use landfall_adapters::http::url::Endpoint;
use landfall_adapters::http::{Framing, HttpResponse, RETRY_AFTER_MAX, parse_retry_after};
use landfall_adapters::sync_endpoint::decode::{read_fetch, read_pull, read_push};
use landfall_adapters::sync_endpoint::decode_ping;
use landfall_core::adapter::{Applied, Outcome, Probe, PullRequest, PushBatch, PushTask};
use landfall_core::change::Operation;
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::failure::{Delivery, Failure};
use landfall_core::id::{CallId, ClientId, Cursor, EntityKey, IdempotencyKey, TaskId, Version};
use landfall_core::value::Fields;
use landfall_protocol::{ping_nonce, ping_proof};
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

const NAME_BYTES: usize = 4096;
const JSON: &str = "application/json";

fn response(input: &[u8]) -> HttpResponse {
    let head = input.windows(2).position(|two| two == b"\n\n");
    let split = head.and_then(|at| Some((std::str::from_utf8(&input[..at]).ok()?, &input[at + 2..])));
    let Some((head, body)) = split else { return HttpResponse::new(200, JSON, input) };
    let mut lines = head.split('\n');
    let mut first = lines.next().unwrap_or_default();
    let mut status = 200;
    if let Some((word, rest)) = first.split_once(' ') {
        if let Ok(number) = word.parse::<u16>() {
            (status, first) = (number, rest);
        }
    }
    let until_close = first.strip_prefix("close ");
    let mut response = HttpResponse::new(status, until_close.unwrap_or(first), body);
    if until_close.is_some() {
        response.framing = Framing::UntilClose;
    }
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        response = response.with_header(name, value);
    }
    response
}

/// The same answer without the last byte that is not white space: it may never be believed.
fn cut(response: &HttpResponse) -> HttpResponse {
    let mut response = response.clone();
    let end = response.body.iter().rposition(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
    response.body.truncate(end);
    response
}

fn check_failure(failure: &Failure) {
    assert!(failure.delivery != Delivery::NotSent, "something answered, so it was sent: {failure}");
    assert!(failure.retry_after.is_none_or(|wait| wait <= RETRY_AFTER_MAX), "{failure:?}");
    assert!(failure.message.chars().count() <= 2_000, "{} characters of message", failure.message.len());
    assert!(
        failure.answer.as_ref().is_none_or(|answer| answer.chars().count() <= 2_000),
        "an endless answer"
    );
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES).contains(&text.len())
}

fn check_record(record: &RemoteEntity) {
    assert!(is_name(&record.key.entity_type) && is_name(&record.key.entity_id), "{record:?}");
    check_version(record.version.as_ref());
    if let Body::Live(fields) = &record.body {
        check_fields(fields);
    }
}

fn check_version(version: Option<&Version>) {
    assert!(version.is_none_or(|version| is_name(&version.0)), "{version:?}");
}

fn check_fields(fields: &Fields) {
    let again = Fields::parse(&fields.to_json());
    assert!(
        again.is_ok_and(|again| again.is_written_like(fields)),
        "what came cannot be sent on: {fields:?}"
    );
}

fn key(number: u8) -> IdempotencyKey {
    let mut key = [0; 16];
    key[15] = number;
    IdempotencyKey(key)
}

fn batch() -> PushBatch {
    let client = ClientId::parse("11111111-2222-4333-8444-555555555555").expect("a constant");
    let task = |number: u8| {
        let entity = EntityKey::new("note", format!("n{number}"));
        PushTask {
            task_id: TaskId::derive(client, &entity, 1),
            key: key(number),
            entity,
            operation: Operation::Update,
            group: None,
            payload: "{}".into(),
            attempt: 1,
        }
    };
    PushBatch { call: CallId(1), tasks: (1..=4).map(task).collect() }
}

pub(super) fn push(input: &[u8]) {
    let (batch, response) = (batch(), response(input));
    let table = Table::sync_endpoint();
    let read = match read_push(&table, &batch, &response) {
        Ok(read) => read,
        Err(failure) => return check_failure(&failure),
    };
    assert!((200..300).contains(&response.status), "status {} was believed", response.status);
    assert!(read_push(&table, &batch, &cut(&response)).is_err(), "a cut answer was believed");
    // A second reader, of another kind: what it sees is all that may have been acknowledged.
    let seen: Vec<Json> = items(&response.body, "results").iter().map(|item| result(item)).collect();
    assert_eq!(
        read.unasked as usize + seen.iter().filter(|one| asked(&batch, one).is_some()).count(),
        seen.len()
    );
    let results = read.reply.results;
    for (at, (key, outcome)) in results.iter().enumerate() {
        assert!(results[..at].iter().all(|(other, _)| other != key), "two verdicts on one task");
        let mut named = seen.iter().filter(|one| asked(&batch, one) == Some(*key));
        let word = match outcome {
            Outcome::Applied(applied) => said("applied", applied),
            Outcome::Duplicate(applied) => said("duplicate", applied),
            Outcome::Conflict { remote } => {
                remote.iter().for_each(check_record);
                Some("conflict")
            }
            Outcome::Rejected(rejection) => {
                assert!(rejection.code.chars().count() <= 101 && rejection.message.chars().count() <= 501);
                Some("rejected")
            }
            Outcome::Retry { after, reason } => {
                assert!(after.is_none_or(|after| after <= RETRY_AFTER_MAX));
                assert!(reason.chars().count() <= 501);
                Some("retry")
            }
            Outcome::Unknown { .. } => None,
        };
        let justified = match word {
            Some(word) => named.all(|one| one["status"] == word),
            None => named.next().is_some(),
        };
        assert!(justified, "{outcome:?} was not said");
    }
    let named = batch.tasks.iter().filter(|task| seen.iter().any(|one| asked(&batch, one) == Some(task.key)));
    assert_eq!(named.count(), results.len(), "a verdict that came is missing");
}

fn said(word: &'static str, applied: &Applied) -> Option<&'static str> {
    check_version(applied.version.as_ref());
    applied.fields.iter().for_each(check_fields);
    assert!(applied.entity_id.as_ref().is_none_or(|id| is_name(id)), "{applied:?}");
    Some(word)
}

/// A result as the second reader sees it: one that names its task twice names none.
fn result(item: &RawValue) -> Json {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default, rename = "key")]
        _key: Json,
    }
    let mut result = members(item.get());
    if result.is_object() && serde_json::from_str::<Named>(item.get()).is_err() {
        result["key"] = Json::Null;
    }
    result
}

/// The task that a result names.
fn asked(batch: &PushBatch, result: &Json) -> Option<IdempotencyKey> {
    let text = result["key"].as_str()?;
    batch.tasks.iter().map(|task| task.key).find(|key| key.to_string().eq_ignore_ascii_case(text))
}

pub(super) fn pull(input: &[u8]) {
    let response = response(input);
    let request = PullRequest { cursor: Some(Cursor("c1".into())), limit: 100 };
    let table = Table::sync_endpoint();
    let page = match read_pull(&table, &request, &response) {
        Ok(page) => page,
        Err(failure) => return check_failure(&failure),
    };
    assert!((200..300).contains(&response.status), "status {} was believed", response.status);
    assert!(read_pull(&table, &request, &cut(&response)).is_err(), "a cut page was believed");
    assert!(is_name(&page.cursor.0));
    assert!(!page.has_more || Some(&page.cursor) != request.cursor.as_ref(), "a feed that stands still");
    let seen_changes = objects(&response.body, "changes");
    let seen = members(&String::from_utf8_lossy(&response.body));
    assert_eq!(page.changes.len(), seen_changes.len(), "a record without a word");
    assert_eq!(
        (seen["cursor"].as_str(), seen["has_more"].as_bool()),
        (Some(&*page.cursor.0), Some(page.has_more))
    );
    for (change, seen) in page.changes.iter().zip(&seen_changes) {
        match change {
            Ok(record) => {
                check_record(record);
                assert_eq!(seen["entity_id"].as_str(), Some(&*record.key.entity_id));
                assert_eq!(seen["deleted"].as_bool().unwrap_or(false), record.body == Body::Deleted);
            }
            Err(reason) => assert!(!reason.is_empty() && reason.len() <= 3 * NAME_BYTES, "{}", reason.len()),
        }
    }
}

pub(super) fn fetch(input: &[u8]) {
    let response = response(input);
    let asked = EntityKey::new("note", "n1");
    let table = Table::sync_endpoint();
    match read_fetch(&table, &asked, &response) {
        Ok(Some(record)) => {
            assert_eq!(record.key, asked);
            check_record(&record);
            assert!((200..300).contains(&response.status), "status {} was believed", response.status);
            assert!(read_fetch(&table, &asked, &cut(&response)).is_err(), "a cut record was believed");
        }
        Ok(None) => {
            assert_eq!(response.status, 404, "absent only if it is said");
            let seen = members(&String::from_utf8_lossy(&response.body));
            assert_eq!(seen["code"], "not_found");
        }
        Err(failure) => check_failure(&failure),
    }
}

pub(super) fn ping(input: &[u8]) {
    let response = response(input);
    let probe = Probe { nonce: [0x5a; 16] };
    let table = Table::sync_endpoint();
    for address in ["http://backend.example/sync", "https://backend.example/sync", "http://localhost:1/sync"]
    {
        let endpoint = Endpoint::parse(address, true).expect("a constant");
        match decode_ping(&table, &endpoint, &probe, &response) {
            Err(failure) => check_failure(&failure),
            Ok(()) => {
                let seen = members(&String::from_utf8_lossy(&response.body));
                let proof = ping_proof(&ping_nonce(&probe.nonce));
                let proven =
                    response.status == 200 && seen["proof"] == proof.as_str() && seen["protocol"] == 1;
                let own = seen["type"].as_str().is_some_and(|kind| kind.starts_with("urn:landfall:problem:"));
                assert!(proven || own && seen["status"] == response.status, "believed without a proof");
            }
        }
    }
}

/// `Retry-After`, `Date` and what the table makes of a status.
pub(super) fn head(input: &[u8]) {
    let response = response(input);
    let wait = parse_retry_after(&response);
    assert!(wait.is_none_or(|wait| wait <= RETRY_AFTER_MAX));
    let values: Vec<&str> = response.headers_named("retry-after").map(str::trim).collect();
    if let [value] = values[..] {
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            // Counted by hand, with a limit far above what is believed.
            let seconds =
                value.bytes().fold(0_u64, |all, digit| (all * 10 + u64::from(digit - b'0')).min(1 << 40));
            assert_eq!(wait.map(|wait| wait.as_secs()), Some(seconds.min(RETRY_AFTER_MAX.as_secs())));
        } else if response.header("date").is_none() {
            assert_eq!(wait, None, "a date was read against our own clock: {value:?}");
        }
    }
    if values.is_empty() {
        assert_eq!(wait, None);
    }
    let longer = parse_retry_after(&response.clone().with_header("Retry-After", "7"));
    assert!(
        longer >= wait && longer >= Some(std::time::Duration::from_secs(7)),
        "a further wait made it shorter"
    );
    if let Some(date) = response.date() {
        // HTTP's dates have four digits for the year.
        assert!((0..253_402_300_800_000).contains(&date.0) && date.0 % 1_000 == 0, "{date:?}");
    }
    assert!(
        !response.media_type().contains(';')
            && response.media_type() == response.media_type().to_ascii_lowercase()
    );
    match Table::sync_endpoint().judge(&response) {
        Ok(()) => assert!((200..300).contains(&response.status)),
        Err(failure) => check_failure(&failure),
    }
}
