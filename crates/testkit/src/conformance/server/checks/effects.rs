//! What tasks do to records, and what they are answered.

use super::super::room::{Room, cut, equal, expect, fields, fresh, refused, stored_as, version};
use super::{Look, held};
use landfall_protocol::Record;
use serde_json::json;

pub(super) fn base_version(room: &Room<'_>) -> Look {
    let (id, old) = room.make(json!({"a": 0}))?;
    let now = room.send_one(&room.task(&id, "update", json!({"base_version": old, "fields": {"a": 1}})))?;
    expect(&now, "applied", "an update on the current base")?;
    for operation in ["update", "upsert", "replace", "delete"] {
        let more = if operation == "delete" {
            json!({"base_version": old})
        } else {
            json!({"base_version": old, "fields": {"a": 5}})
        };
        let result = room.send_one(&room.task(&id, operation, more))?;
        expect(&result, "conflict", &format!("{operation} on an outdated base"))?;
        equal(&result["version"], &now["version"], "the version that the conflict shows")?;
        fields(&result, json!({"a": 1}), "a conflict")?;
    }
    fields(&room.record(&id)?, json!({"a": 1}), "the record afterwards")?;
    held("update, upsert, replace and delete conflict and show the record")
}

pub(super) fn create_on_live(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 0}))?;
    let result = room.send_one(&room.task(&id, "create", json!({"fields": {"a": 1}})))?;
    expect(&result, "conflict", "a create of a record that is there")?;
    fields(&room.record(&id)?, json!({"a": 0}), "the record afterwards")?;
    held("`conflict`; the record stayed")
}

pub(super) fn only_named(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 1, "b": 2, "c": 3}))?;
    let update = room.task(&id, "update", json!({"fields": {"a": 9}, "unset": ["c"]}));
    expect(&room.send_one(&update)?, "applied", "an update")?;
    fields(&room.record(&id)?, json!({"a": 9, "b": 2}), "the record after an update")?;
    expect(&room.send_one(&room.task(&id, "upsert", json!({"fields": {"b": 4}})))?, "applied", "an upsert")?;
    fields(&room.record(&id)?, json!({"a": 9, "b": 4}), "the record after an upsert")?;
    held("fields that were not named stayed")
}

pub(super) fn replace_whole(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 1, "b": 2}))?;
    expect(&room.send_one(&room.task(&id, "replace", json!({"fields": {"b": 3}})))?, "applied", "a replace")?;
    fields(&room.record(&id)?, json!({"b": 3}), "the record after a replace")?;
    held("the old fields are gone")
}

pub(super) fn order(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 0}))?;
    let tasks: Vec<_> = (1..=5).map(|a| room.task(&id, "update", json!({"fields": {"a": a}}))).collect();
    for result in room.send(&tasks)? {
        expect(&result, "applied", "an update in a batch")?;
    }
    equal(&room.record(&id)?["fields"]["a"], &json!(5), "the field after 1, 2, 3, 4, 5 in one batch")?;
    held("the last of five stands")
}

pub(super) fn poison(room: &Room<'_>) -> Look {
    let (first, second) = (room.id(), room.id());
    let tasks = [
        room.task(&first, "create", json!({"fields": {"a": 1}})),
        room.task(&room.id(), "no_such_operation", json!({"fields": {"a": 1}})),
        room.task(&room.id(), "update", json!({"fields": "no object"})),
        room.task(&room.id(), "upsert", json!({"fields": {"a": 1}, "unset": ["a"]})),
        room.task(&second, "create", json!({"fields": {"a": 2}})),
    ];
    for (at, result) in room.send(&tasks)?.iter().enumerate() {
        let wanted = if at == 0 || at == 4 { "applied" } else { "rejected" };
        expect(result, wanted, &format!("task {} of 5 (the second to fourth are bad)", at + 1))?;
    }
    held("three bad tasks rejected, two good ones applied")
}

pub(super) fn tombstone(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 0}))?;
    expect(&room.send_one(&room.task(&id, "delete", json!({})))?, "applied", "a delete")?;
    equal(&room.record(&id)?["deleted"], &json!(true), "`deleted` at the entity route")?;
    let late = room.send_one(&room.task(&id, "update", json!({"fields": {"a": 1}})))?;
    expect(&late, "conflict", "an update of a deleted record")?;
    equal(&late["deleted"], &json!(true), "`deleted` in the conflict")?;
    version(&late)?;
    expect(&room.send_one(&room.task(&id, "delete", json!({})))?, "applied", "a second delete")?;
    let back = room.task(&id, "create", json!({"fields": {"b": 2}}));
    expect(&room.send_one(&back)?, "applied", "a create of a deleted record")?;
    fields(&room.record(&id)?, json!({"b": 2}), "the record that was made again")?;
    held("an update after the delete conflicts, a create brings the record back")
}

pub(super) fn not_found(room: &Room<'_>) -> Look {
    let id = room.id();
    let result = room.send_one(&room.task(&id, "update", json!({"fields": {"a": 1}})))?;
    expect(&result, "rejected", "an update of what never existed")?;
    equal(&result["error"]["code"], &json!("not_found"), "the code")?;
    refused(&room.fetch(&id)?, 404, "not_found")?;
    held("`rejected`, not_found; nothing was made")
}

pub(super) fn versions_move(room: &Room<'_>) -> Look {
    let (id, mut before) = room.make(json!({"a": 0}))?;
    for a in 1..4 {
        let after = version(&room.send_one(&room.task(&id, "update", json!({"fields": {"a": a}})))?)?;
        if after == before {
            return Err(format!("two changes have the same version {after:?}"));
        }
        before = after;
    }
    equal(&room.record(&id)?["version"], &json!(before), "the version at the entity route")?;
    held("four changes, four versions")
}

pub(super) fn exact_values(room: &Room<'_>) -> Look {
    const VALUES: [&str; 5] =
        ["100000000000000000001", "1.0", "0.1000000000000000055", "-0.0", r#""e\u0301 \u212b""#];
    for value in VALUES {
        let id = room.id();
        let task = room.task(&id, "create", json!({"fields": {"a": "VALUE"}}));
        let body = room.request(std::slice::from_ref(&task)).replace(r#""VALUE""#, value);
        let result = room.settled(&body, &task)?;
        expect(&result, "applied", &format!("a create with the value {value}"))?;
        let answer = room.fetch(&stored_as(&result, &id))?;
        let record: Record = serde_json::from_str(&answer.body)
            .map_err(|error| format!("not a record ({error}): {}", cut(&answer.body)))?;
        let seen = record.fields.as_ref().and_then(|fields| fields.text("a")).unwrap_or("nothing");
        // A number has one form; a string may be written with or without escapes.
        let text = |json: &str| serde_json::from_str::<String>(json).ok();
        if seen != value && (text(value).is_none() || text(seen) != text(value)) {
            return Err(format!("{value} was sent, {seen} came back"));
        }
    }
    held("large and long numbers, 1.0, -0.0 and letters that normalisation would change came back")
}

pub(super) fn same_name_twice(room: &Room<'_>) -> Look {
    let id = room.id();
    let task = room.task(&id, "create", json!({"fields": {"a": "VALUE"}}));
    let body = room.request(std::slice::from_ref(&task)).replace(r#""a":"VALUE""#, r#""a":1,"a":2"#);
    let answer = room.post(&body)?;
    if answer.status == 400 {
        refused(&answer, 400, "malformed")?;
    } else {
        expect(&room.verdicts(&body, &[task])?.remove(0), "rejected", r#"a create with {"a":1,"a":2}"#)?;
    }
    refused(&room.fetch(&id)?, 404, "not_found")?;
    held(if answer.status == 400 { "400 malformed" } else { "`rejected`" })
}

pub(super) fn groups(room: &Room<'_>) -> Look {
    let (id, missing) = (room.id(), room.id());
    let tasks = [
        room.task(&id, "create", json!({"group": "g", "fields": {"a": 1}})),
        room.task(&missing, "update", json!({"group": "g", "fields": {"a": 1}})),
    ];
    let results = room.send(&tasks)?;
    let there = room.fetch(&id)?;
    if there.status != 404 {
        return Err(format!("a member failed, yet another took effect: {}", cut(&there.body)));
    }
    expect(&results[0], "retry", "the good member of a failed group")?;
    expect(&results[1], "rejected", "the bad member of a group")?;
    let whole = [
        room.task(&room.id(), "create", json!({"group": "g", "fields": {"a": 1}})),
        room.task(&room.id(), "create", json!({"group": "g", "fields": {"a": 2}})),
    ];
    let body = room.request(&whole);
    for status in ["applied", "duplicate"] {
        for result in room.verdicts(&body, &whole)? {
            expect(&result, status, "a member of a good group that is sent twice")?;
        }
    }
    held("one failed, nothing of its group remained; a good group sent again was `duplicate`")
}

pub(super) fn unknown_members(room: &Room<'_>) -> Look {
    let task = room.task(&room.id(), "create", json!({"fields": {"a": 1}, "from_the_future": {"x": [1]}}));
    let body = json!({
        "protocol": 1, "client_id": fresh(), "client_epoch": 1, "also_new": true, "tasks": [task],
    });
    let result = room.settled(&body.to_string(), &task)?;
    expect(&result, "applied", "a task with a member that nobody knows")?;
    held("ignored, in the request and in the task")
}
