//! The checks, one function per rule. Each makes its own records and stands alone.

use super::room::{Room, cut, equal, expect, fresh, parsed, refused, version};
use super::{Check, Level, Seen};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::thread;

type Look = Result<Seen, String>;

macro_rules! checks {
    ($($look:ident, $level:ident, $written:literal, $rule:literal, $mend:literal;)*) => {
        /// All checks, in the order they run.
        pub const CHECKS: &[Check] = &[$(Check {
            name: stringify!($look), level: Level::$level, written: $written, rule: $rule, mend: $mend, look: $look,
        }),*];
    };
}

checks! {
    ping, Should, "The ping", "The ping proves who answers.", "Answer GET /ping?nonce=… with the SHA-256 of nonce and the word `landfall`, without asking for a token.";
    lost_reply, Must, "The ten rules, 1 and 2", "A request sent again after its answer was lost has one effect.", "Look the key up before anything else, in the transaction of the effect.";
    key_reused, Must, "The ten rules, 2", "A key with another content is rejected and has no effect.", "Store a fingerprint of the content with the key and compare it.";
    refusals_remembered, Must, "The ten rules, 3", "Conflicts and rejections stay what they were under their key.", "Store the keys of `conflict` and `rejected` verdicts too.";
    same_key_at_once, Must, "Keys and fingerprints", "One key from many connections at once has one effect.", "Let a unique index on (tenant, key) decide; the loser waits or answers `retry`.";
    base_version, Must, "The ten rules, 4", "A task on an outdated base conflicts, shows the record as it is, and has no effect.", "Compare base_version in the transaction of the write.";
    create_on_live, Must, "What a task does", "A create of a record that is there conflicts.", "Do not make an upsert of it.";
    only_named, Must, "The ten rules, 5", "An update changes what it names and nothing else.", "Merge fields and unset into the record; do not replace the row.";
    replace_whole, Must, "What a task does", "A replace leaves exactly its fields.", "Take the record's old fields away.";
    order, Must, "The ten rules, 6", "A batch takes effect in the order of its tasks.", "Work through `tasks` from first to last.";
    poison, Must, "What a task does", "A bad task in a good request is rejected and the others go on.", "Judge each task alone; 400 is for requests that cannot be read.";
    tombstone, Must, "What a task does", "A deleted record leaves a tombstone that updates conflict with.", "Keep a row with the version and no fields.";
    not_found, Must, "What a task does", "An update of what never existed is rejected with not_found, and nothing is made.", "Only upsert, create and replace make records.";
    versions_move, Must, "What a task does", "Each applied change gives its record a new version.", "Take the next number for each change.";
    feed_whole, Must, "Versions and the change feed", "Page after page, the feed gives every record once and says when it ends.", "Order by version, begin behind the cursor, say has_more only if there is more.";
    feed_again, Must, "Versions and the change feed", "A cursor can be read again, and a later change or a delete comes behind it.", "Cursors are positions, not sessions; tombstones are in the feed.";
    cursor_expired, Must, "Versions and the change feed", "A cursor that cannot be continued is answered 410 cursor_expired.", "Never begin elsewhere in silence.";
    exact_values, Must, "The ten rules, 8", "Values come back exactly as they came.", "Keep the JSON text; no doubles, no normalisation.";
    groups, Must, "What a task does", "Tasks of a group take effect together or not at all.", "Undo the members before the one that failed; answer them retry, group_aborted.";
    server_identity, Must, "Who speaks to whom", "Another server_id is refused with server_changed; a client that knows us and is unknown with client_unknown; nothing remains.", "Judge server_id before the tasks.";
    epochs, Must, "Who speaks to whom", "A lower epoch than was seen is refused with client_superseded, and nothing remains.", "Remember the highest epoch per client.";
    other_protocol, Must, "Who speaks to whom", "Another protocol version is refused with unsupported_protocol.", "Look at `protocol` first.";
    unknown_members, Must, "What a task does", "Members that are not known are ignored.", "Do not deny unknown fields.";
    unreadable, Must, "Errors", "A body that is not JSON is refused with a problem document.", "Answer 400, application/problem+json, code malformed.";
    too_large, Must, "Errors", "A large batch is answered in full or refused as a whole with a problem, and then nothing of it remains.", "Answer 413 too_large before any task has an effect.";
    credentials, Must, "Security", "Without a token nobody reads or writes.", "Answer 401 unauthorized on all routes but the ping.";
}

fn held(text: impl Into<String>) -> Look {
    Ok(Seen::Held(text.into()))
}

fn ping(room: &Room<'_>) -> Look {
    let nonce = fresh();
    let answer = room.ask("GET", &format!("/ping?nonce={nonce}"), None, false)?;
    if answer.status == 404 {
        return Ok(Seen::Skipped("there is no ping here (404); clients do without".into()));
    }
    if answer.status != 200 {
        return Err(format!("was answered {} without a token: {}", answer.status, cut(&answer.body)));
    }
    equal(&parsed(&answer)?["proof"], &json!(landfall_protocol::ping_proof(&nonce)), "the proof")?;
    held("the proof is right")
}

fn lost_reply(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 0}))?;
    let tasks = [room.task(&id, "update", json!({"fields": {"a": 1}}))];
    let body = room.request(&tasks);
    // The answer is lost: it is thrown away before anybody looks at it.
    drop(room.post(&body));
    let after = room.record(&id)?;
    equal(&after["fields"]["a"], &json!(1), "the field after the request whose answer was lost")?;
    expect(
        &room.send_one(&room.task(&id, "update", json!({"fields": {"a": 2}})))?,
        "applied",
        "another's update",
    )?;
    let between = room.record(&id)?;
    let again = room.verdicts(&body, &tasks)?.remove(0);
    let end = room.record(&id)?;
    equal(&end["fields"]["a"], &json!(2), "the field after the repeat (a newer change was there)")?;
    equal(&end["version"], &between["version"], "the version after the repeat")?;
    expect(&again, "duplicate", "the repeat")?;
    equal(&again["version"], &after["version"], "the version that the repeat is told")?;
    held("the repeat was `duplicate`; a newer change stayed")
}

fn key_reused(room: &Room<'_>) -> Look {
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

fn refusals_remembered(room: &Room<'_>) -> Look {
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

fn same_key_at_once(room: &Room<'_>) -> Look {
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
        *counts.entry(result?[0]["status"].to_string()).or_default() += 1;
    }
    let of = |status: &str| counts.get(&format!("\"{status}\"")).copied().unwrap_or(0);
    if of("applied") != 1 || of("applied") + of("duplicate") + of("retry") != SENDERS {
        return Err(format!("one must be `applied`, the rest `duplicate` or `retry`; {counts:?}"));
    }
    held(format!("{counts:?}"))
}

fn base_version(room: &Room<'_>) -> Look {
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
        equal(&result["fields"], &json!({"a": 1}), "the fields that the conflict shows")?;
    }
    equal(&room.record(&id)?["fields"], &json!({"a": 1}), "the record afterwards")?;
    held("update, upsert, replace and delete conflict and show the record")
}

fn create_on_live(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 0}))?;
    let result = room.send_one(&room.task(&id, "create", json!({"fields": {"a": 1}})))?;
    expect(&result, "conflict", "a create of a record that is there")?;
    held("`conflict`")
}

fn only_named(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 1, "b": 2, "c": 3}))?;
    let update = room.task(&id, "update", json!({"fields": {"a": 9}, "unset": ["c"]}));
    expect(&room.send_one(&update)?, "applied", "an update")?;
    equal(&room.record(&id)?["fields"], &json!({"a": 9, "b": 2}), "the record after an update")?;
    expect(&room.send_one(&room.task(&id, "upsert", json!({"fields": {"b": 4}})))?, "applied", "an upsert")?;
    equal(&room.record(&id)?["fields"], &json!({"a": 9, "b": 4}), "the record after an upsert")?;
    held("fields that were not named stayed")
}

fn replace_whole(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 1, "b": 2}))?;
    expect(&room.send_one(&room.task(&id, "replace", json!({"fields": {"b": 3}})))?, "applied", "a replace")?;
    equal(&room.record(&id)?["fields"], &json!({"b": 3}), "the record after a replace")?;
    held("the old fields are gone")
}

fn order(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 0}))?;
    let tasks: Vec<_> = (1..=5).map(|a| room.task(&id, "update", json!({"fields": {"a": a}}))).collect();
    for result in room.send(&tasks)? {
        expect(&result, "applied", "an update in a batch")?;
    }
    equal(&room.record(&id)?["fields"]["a"], &json!(5), "the field after 1, 2, 3, 4, 5 in one batch")?;
    held("the last of five stands")
}

fn poison(room: &Room<'_>) -> Look {
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

fn tombstone(room: &Room<'_>) -> Look {
    let (id, _) = room.make(json!({"a": 0}))?;
    expect(&room.send_one(&room.task(&id, "delete", json!({})))?, "applied", "a delete")?;
    equal(&room.record(&id)?["deleted"], &json!(true), "`deleted` at the entity route")?;
    let late = room.send_one(&room.task(&id, "update", json!({"fields": {"a": 1}})))?;
    expect(&late, "conflict", "an update of a deleted record")?;
    equal(&late["deleted"], &json!(true), "`deleted` in the conflict")?;
    version(&late)?;
    expect(&room.send_one(&room.task(&id, "delete", json!({})))?, "applied", "a second delete")?;
    held("an update after the delete conflicts")
}

fn not_found(room: &Room<'_>) -> Look {
    let id = room.id();
    let result = room.send_one(&room.task(&id, "update", json!({"fields": {"a": 1}})))?;
    expect(&result, "rejected", "an update of what never existed")?;
    equal(&result["error"]["code"], &json!("not_found"), "the code")?;
    refused(&room.fetch(&id)?, 404, "not_found")?;
    held("`rejected`, not_found; nothing was made")
}

fn versions_move(room: &Room<'_>) -> Look {
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

/// The records of the feed behind a cursor, page by page, and where it ends.
fn read(room: &Room<'_>, mut cursor: String, limit: u32) -> Result<(Vec<Value>, String), String> {
    /// More than this is a feed that does not end, or far too much for a test.
    const PAGES: usize = 10_000;
    let mut found = Vec::new();
    for _ in 0..PAGES {
        let path = format!("/changes?cursor={}&limit={limit}", super::room::encoded(&cursor));
        let answer = room.get(&path)?;
        if answer.status != 200 {
            return Err(format!("the feed answered {}: {}", answer.status, cut(&answer.body)));
        }
        let page = parsed(&answer)?;
        let changes = page["changes"].as_array().ok_or("a page has no `changes`")?;
        found.extend(changes.iter().cloned());
        cursor = page["cursor"].as_str().ok_or("a page has no `cursor`")?.to_owned();
        match page["has_more"].as_bool() {
            Some(true) => {}
            Some(false) => return Ok((found, cursor)),
            None => return Err("a page has no `has_more`".into()),
        }
    }
    Err(format!("the feed did not end after {PAGES} pages"))
}

fn of<'v>(found: &'v [Value], id: &str) -> Vec<&'v Value> {
    found.iter().filter(|record| record["entity_id"] == id).collect()
}

fn feed_whole(room: &Room<'_>) -> Look {
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

fn feed_again(room: &Room<'_>) -> Look {
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

fn cursor_expired(room: &Room<'_>) -> Look {
    refused(&room.get(&format!("/changes?cursor={}&limit=2", fresh()))?, 410, "cursor_expired")?;
    held("410 cursor_expired")
}

fn exact_values(room: &Room<'_>) -> Look {
    const VALUES: [&str; 4] = ["100000000000000000001", "1.0", r#""e\u0301""#, "0.1000000000000000055"];
    for value in VALUES {
        let id = room.id();
        let task = room.task(&id, "create", json!({"fields": {"a": "VALUE"}}));
        let body = room.request(&[task]).replace(r#""VALUE""#, value);
        room.post(&body)?;
        let seen = room.fetch(&id)?.body;
        // A string may be written with or without escapes; a number has one form.
        let plain = value.replace(r"\u0301", "\u{301}");
        if !seen.contains(&format!("\"a\":{value}"))
            && !seen.contains(&format!("\"a\":{plain}"))
            && !seen.contains(&format!("\"a\": {value}"))
        {
            return Err(format!("{value} was sent; the record is {}", cut(&seen)));
        }
    }
    held("large and long numbers, 1.0 and a decomposed letter came back")
}

fn groups(room: &Room<'_>) -> Look {
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
    held("one failed, nothing of the group remained")
}

fn hello(
    room: &Room<'_>,
    client: &str,
    epoch: u64,
    server: Option<&str>,
    task: &Value,
) -> Result<super::Answer, String> {
    let mut body = json!({"protocol": 1, "client_id": client, "client_epoch": epoch, "tasks": [task]});
    if let Some(server) = server {
        body["server_id"] = json!(server);
    }
    room.post(&body.to_string())
}

fn server_identity(room: &Room<'_>) -> Look {
    let (client, id) = (fresh(), room.id());
    let upsert = room.task(&id, "upsert", json!({"fields": {"a": 1}}));
    let (first, _) = room.make(json!({"a": 0}))?;
    let answer = hello(room, &client, 1, None, &room.task(&first, "update", json!({"fields": {"a": 1}})))?;
    let server = parsed(&answer)?["server_id"].as_str().ok_or("the answer has no `server_id`")?.to_owned();
    refused(&hello(room, &client, 1, Some(&fresh()), &upsert)?, 409, "server_changed")?;
    refused(&hello(room, &fresh(), 1, Some(&server), &upsert)?, 409, "client_unknown")?;
    refused(&room.fetch(&id)?, 404, "not_found")?;
    held("both refused; nothing remained")
}

fn epochs(room: &Room<'_>) -> Look {
    let (client, id) = (fresh(), room.id());
    let (first, _) = room.make(json!({"a": 0}))?;
    hello(room, &client, 5, None, &room.task(&first, "update", json!({"fields": {"a": 1}})))?;
    refused(
        &hello(room, &client, 4, None, &room.task(&id, "upsert", json!({"fields": {"a": 1}})))?,
        409,
        "client_superseded",
    )?;
    refused(&room.fetch(&id)?, 404, "not_found")?;
    held("epoch 4 after 5 was refused")
}

fn other_protocol(room: &Room<'_>) -> Look {
    let body = json!({"protocol": 999, "client_id": fresh(), "client_epoch": 1, "tasks": []});
    refused(&room.post(&body.to_string())?, 400, "unsupported_protocol")?;
    held("400 unsupported_protocol")
}

fn unknown_members(room: &Room<'_>) -> Look {
    let task = room.task(&room.id(), "create", json!({"fields": {"a": 1}, "from_the_future": {"x": [1]}}));
    let mut body: Value =
        serde_json::from_str(&room.request(std::slice::from_ref(&task))).unwrap_or_default();
    body["also_new"] = json!(true);
    let result = room.verdicts(&body.to_string(), &[task])?.remove(0);
    expect(&result, "applied", "a task with a member that nobody knows")?;
    held("ignored, in the request and in the task")
}

fn unreadable(room: &Room<'_>) -> Look {
    let answer = room.post("{\"protocol\": 1, \"tas")?;
    refused(&answer, 400, "malformed")?;
    if !answer.content_type.starts_with("application/problem+json") {
        return Err(format!("the content type is {:?}", answer.content_type));
    }
    held("400 malformed")
}

fn too_large(room: &Room<'_>) -> Look {
    /// Ten times what the reference server takes.
    const TASKS: usize = 10_000;
    let (id, _) = room.make(json!({"a": 0}))?;
    let tasks: Vec<_> =
        (0..TASKS).map(|a| room.task(&id, "update", json!({"fields": {"a": a + 1}}))).collect();
    let answer = room.post(&room.request(&tasks))?;
    if answer.status == 200 {
        let answer = parsed(&answer)?;
        let count = answer["results"].as_array().map_or(0, Vec::len);
        equal(&json!(count), &json!(TASKS), "the number of results")?;
        return held(format!("{TASKS} tasks were answered"));
    }
    refused(&answer, 413, "too_large")?;
    equal(&room.record(&id)?["fields"]["a"], &json!(0), "the record after the refusal")?;
    held(format!("{TASKS} tasks were refused as a whole"))
}

fn credentials(room: &Room<'_>) -> Look {
    if !room.way.has_credentials() {
        return Ok(Seen::Skipped("no credentials were given".into()));
    }
    let id = room.id();
    let body = room.request(&[room.task(&id, "create", json!({"fields": {"a": 1}}))]);
    refused(&room.ask("POST", "", Some(body), false)?, 401, "unauthorized")?;
    refused(&room.ask("GET", "/changes?limit=1", None, false)?, 401, "unauthorized")?;
    refused(&room.fetch(&id)?, 404, "not_found")?;
    held("401 for push and feed")
}
