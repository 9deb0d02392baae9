//! What the change feed gives, and in which order.

use super::super::room::{Room, cut, encoded, equal, expect, fresh, parsed, refused, version};
use super::{Look, held};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::thread;

/// The records of our type behind a cursor (or from the beginning), page by page, and where the feed ends.
fn read(room: &Room<'_>, mut cursor: String, limit: u32) -> Result<(Vec<Value>, String), String> {
    /// More than this is a feed that does not end, or far too much for a test.
    const PAGES: usize = 10_000;
    let mut found = Vec::new();
    for _ in 0..PAGES {
        let (changes, next, has_more) = page(room, &cursor, limit)?;
        found.extend(changes);
        if !has_more {
            return Ok((found, next));
        }
        if next == cursor {
            return Err("a page says has_more and its cursor leads to the same page again".into());
        }
        cursor = next;
    }
    Err(format!("the feed did not end after {PAGES} pages"))
}

/// One page: the records of our type, the next cursor, `has_more`.
fn page(room: &Room<'_>, cursor: &str, limit: u32) -> Result<(Vec<Value>, String, bool), String> {
    let cursor = if cursor.is_empty() { String::new() } else { format!("cursor={}&", encoded(cursor)) };
    let answer = room.get(&format!("/changes?{cursor}limit={limit}"))?;
    if answer.status != 200 {
        return Err(format!("the feed answered {}: {}", answer.status, cut(&answer.body)));
    }
    let page = parsed(&answer)?;
    let changes = page["changes"].as_array().ok_or("a page has no `changes`")?;
    let ours = changes.iter().filter(|record| record["entity_type"] == room.entity_type);
    let next = page["cursor"].as_str().ok_or("a page has no `cursor`")?;
    let has_more = page["has_more"].as_bool().ok_or("a page has no `has_more`")?;
    Ok((ours.cloned().collect(), next.to_owned(), has_more))
}

fn of<'v>(found: &'v [Value], id: &str) -> Vec<&'v Value> {
    found.iter().filter(|record| record["entity_id"] == id).collect()
}

pub(super) fn feed_whole(room: &Room<'_>) -> Look {
    let (_, cursor) = read(room, String::new(), 1000)?;
    let made = (0..7).map(|a| room.make(json!({"a": a}))).collect::<Result<Vec<_>, _>>()?;
    let (found, _) = read(room, cursor, 2)?;
    for (id, _) in &made {
        let times = of(&found, id).len();
        if times != 1 {
            return Err(format!("7 records were made; one came {times} times in pages of 2"));
        }
    }
    held("7 records in pages of 2, each once")
}

pub(super) fn feed_at_once(room: &Room<'_>) -> Look {
    const WRITERS: usize = 4;
    const RECORDS: usize = 6;
    let (_, mut cursor) = read(room, String::new(), 1000)?;
    let mut mirror = BTreeMap::new();
    let mut into_mirror = |records: Vec<Value>| {
        mirror.extend(records.into_iter().map(|mut record| {
            let version = record["version"].take();
            (record["entity_id"].as_str().unwrap_or_default().to_owned(), version)
        }));
    };
    // Each writer makes records and changes each once; what it was told last.
    let write = || -> Result<Vec<(String, String)>, String> {
        let made = (0..RECORDS).map(|a| room.make(json!({"a": a}))).collect::<Result<Vec<_>, _>>()?;
        let change = |(id, _): (String, String)| {
            let result = room.send_one(&room.task(&id, "update", json!({"fields": {"b": 1}})))?;
            expect(&result, "applied", "an update")?;
            Ok((id, version(&result)?))
        };
        made.into_iter().map(change).collect()
    };
    let written = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            let (records, next, _) = page(room, &cursor, 5)?;
            into_mirror(records);
            cursor = next;
        }
        let mut written = Vec::new();
        for writer in writers {
            written.extend(writer.join().map_err(|_| "a writer panicked")??);
        }
        Ok::<_, String>(written)
    })?;
    let (records, _) = read(room, cursor, 1000)?;
    into_mirror(records);
    for (id, version) in &written {
        let seen = mirror.get(id).unwrap_or(&Value::Null);
        if seen != version {
            return Err(format!(
                "a reader who went on while {WRITERS} others wrote must have a record at version {version:?} in the end, has {seen}"
            ));
        }
    }
    held(format!("{} records of {WRITERS} writers, each at its last version", written.len()))
}

pub(super) fn feed_again(room: &Room<'_>) -> Look {
    let (_, begin) = read(room, String::new(), 1000)?;
    let (changed, _) = room.make(json!({"a": 0}))?;
    let (deleted, _) = room.make(json!({"a": 0}))?;
    let (first, middle) = read(room, begin.clone(), 1000)?;
    let (again, _) = read(room, begin, 1000)?;
    for id in [&changed, &deleted] {
        if of(&first, id).is_empty() || of(&first, id) != of(&again, id) {
            return Err("a cursor that was read before gave something else".into());
        }
    }
    room.send_one(&room.task(&changed, "update", json!({"fields": {"a": 1}})))?;
    room.send_one(&room.task(&deleted, "delete", json!({})))?;
    let (later, _) = read(room, middle, 1000)?;
    match of(&later, &changed)[..] {
        [record] => equal(&record["fields"], &json!({"a": 1}), "the changed record in the feed")?,
        _ => return Err("a record that changed again did not come behind the cursor".into()),
    }
    match of(&later, &deleted)[..] {
        [record] => equal(&record["deleted"], &json!(true), "`deleted` in the feed")?,
        _ => return Err("a deleted record did not come behind the cursor".into()),
    }
    held("the same again; then the change and the tombstone")
}

pub(super) fn cursor_expired(room: &Room<'_>) -> Look {
    refused(&room.get(&format!("/changes?cursor={}&limit=2", fresh()))?, 410, "cursor_expired")?;
    held("410 cursor_expired")
}
