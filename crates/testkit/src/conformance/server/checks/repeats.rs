//! Requests that come again: after a lost answer, with other content, all at once.

use super::super::room::{Room, equal, expect};
use super::super::{Cut, Seen};
use super::{Look, held};
use serde_json::json;
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

pub(super) fn lost_reply(room: &Room<'_>) -> Look {
    one_effect(room, Cut::WhenAnswered)
}

pub(super) fn cut_off(room: &Room<'_>) -> Look {
    one_effect(room, Cut::AtOnce)
}

/// Cuts the connection of a push, repeats it byte for byte, lets another client change the record, and repeats it again.
fn one_effect(room: &Room<'_>, when: Cut) -> Look {
    /// So long a server may go on with what it was sent before the connection broke.
    const LATE: Duration = Duration::from_millis(250);
    let (id, _) = room.make(json!({"a": 0}))?;
    let task = room.task(&id, "update", json!({"fields": {"a": 1}}));
    let body = room.request(std::slice::from_ref(&task));
    if !room.cut(&body, when)? {
        return Ok(Seen::Skipped("this way cannot cut a connection there".into()));
    }
    let before = room.record(&id)?;
    let first = room.settled(&body, &task)?;
    let status = first["status"].as_str().unwrap_or_default().to_owned();
    let after = room.record(&id)?;
    equal(&after["fields"]["a"], &json!(1), "the field after the repeat")?;
    if before["fields"]["a"] == 1 {
        expect(&first, "duplicate", "the repeat of a task that took effect before its answer was lost")?;
        equal(&after["version"], &before["version"], "the record's version after the repeat")?;
    } else if status != "duplicate" {
        // Broken off before it had an effect, or answered `retry`.
        expect(&first, "applied", "the repeat of a task that had no effect yet")?;
    }
    equal(&first["version"], &after["version"], "the version that the repeat is told")?;
    let other = room.task(&id, "update", json!({"fields": {"a": 2}}));
    expect(&room.send_one(&other)?, "applied", "another's update")?;
    let between = room.record(&id)?;
    if when == Cut::AtOnce {
        thread::sleep(LATE);
    }
    let again = room.settled(&body, &task)?;
    let end = room.record(&id)?;
    equal(&end["fields"]["a"], &json!(2), "the field after the second repeat (a newer change was there)")?;
    equal(&end["version"], &between["version"], "the record's version after the second repeat")?;
    expect(&again, "duplicate", "the second repeat")?;
    equal(&again["version"], &first["version"], "the version that the second repeat is told")?;
    held(format!("the repeat was `{status}`, the next `duplicate`; a newer change stayed"))
}

pub(super) fn key_reused(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 0}))?;
    let mut task = room.task(&id, "update", json!({"fields": {"a": 1}}));
    expect(&room.send_one(&task)?, "applied", "an update")?;
    task["fields"] = json!({"a": 9});
    let result = room.send_one(&task)?;
    equal(&room.record(&id)?["fields"]["a"], &json!(1), "the field")?;
    expect(&result, "rejected", "the same key with another content")?;
    equal(&result["error"]["code"], &json!("key_reused"), "the code")?;
    held("`rejected`, key_reused")
}

pub(super) fn refusals_remembered(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 0}))?;
    let create = room.task(&id, "create", json!({"fields": {"a": 7}}));
    expect(&room.send_one(&create)?, "conflict", "a create of a record that is there")?;
    expect(&room.send_one(&room.task(&id, "delete", json!({})))?, "applied", "a delete")?;
    expect(&room.send_one(&create)?, "conflict", "the repeat of a conflict, when the way is free")?;
    let missing = room.id();
    let update = room.task(&missing, "update", json!({"fields": {"a": 7}}));
    expect(&room.send_one(&update)?, "rejected", "an update of what never existed")?;
    expect(
        &room.send_one(&room.task(&missing, "create", json!({"fields": {"a": 1}})))?,
        "applied",
        "a create",
    )?;
    expect(&room.send_one(&update)?, "rejected", "the repeat of a rejection, when the record is there")?;
    held("a conflict stayed a conflict, a rejection a rejection")
}

pub(super) fn same_key_at_once(room: &Room<'_>) -> Look {
    const SENDERS: usize = 8;
    let (id, base) = room.make(json!({"a": 0}))?;
    let tasks = [room.task(&id, "update", json!({"base_version": base, "fields": {"a": 1}}))];
    let body = room.request(&tasks);
    let results: Vec<_> = thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(|| room.verdicts(&body, &tasks))).collect();
        senders.into_iter().map(|sender| sender.join().unwrap_or_else(|_| Err("panicked".into()))).collect()
    });
    let mut counts = BTreeMap::<String, usize>::new();
    for result in results {
        let status = result?.remove(0)["status"].as_str().unwrap_or("nothing").to_owned();
        *counts.entry(status).or_default() += 1;
    }
    let of = |status: &str| counts.get(status).copied().unwrap_or(0);
    let told: Vec<String> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let told = told.join(", ");
    if of("applied") != 1 || of("applied") + of("duplicate") + of("retry") != SENDERS {
        return Err(format!("one must be `applied`, the rest `duplicate` or `retry`; was: {told}"));
    }
    held(told)
}
