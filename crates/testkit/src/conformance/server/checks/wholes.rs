//! Requests that are judged as a whole: who asks, of whom, in which protocol, how much; and the ping.

use super::super::room::{Room, cut, encoded, equal, fresh, parsed, refused};
use super::super::{Answer, Seen, Who};
use super::{Look, held};
use serde_json::{Value, json};

pub(super) fn ping(room: &Room<'_>) -> Look {
    let nonce = fresh();
    let answer = room.ask("GET", &format!("/ping?nonce={nonce}"), None, Who::Nobody)?;
    if answer.status == 404 {
        return Ok(Seen::Skipped("there is no ping here (404); clients do without".into()));
    }
    if answer.status != 200 {
        return Err(format!("was answered {} without a token: {}", answer.status, cut(&answer.body)));
    }
    equal(&parsed(&answer)?["proof"], &json!(landfall_protocol::ping_proof(&nonce)), "the proof")?;
    held("the proof is right")
}

fn hello(
    room: &Room<'_>,
    client: &str,
    epoch: u64,
    server: Option<&str>,
    task: &Value,
) -> Result<Answer, String> {
    let mut body = json!({"protocol": 1, "client_id": client, "client_epoch": epoch, "tasks": [task]});
    if let Some(server) = server {
        body["server_id"] = json!(server);
    }
    room.post(&body.to_string())
}

/// A push that must not be refused as a whole.
fn taken(answer: &Answer, what: &str) -> Result<(), String> {
    if answer.status == 200 {
        Ok(())
    } else {
        Err(format!("{what} was answered {}: {}", answer.status, cut(&answer.body)))
    }
}

pub(super) fn server_identity(room: &Room<'_>) -> Look {
    let (client, id) = (fresh(), room.id());
    let upsert = room.task(&id, "upsert", json!({"fields": {"a": 1}}));
    let (first, _) = room.make(json!({"a": 0}))?;
    let answer = hello(room, &client, 1, None, &room.task(&first, "update", json!({"fields": {"a": 1}})))?;
    taken(&answer, "first contact")?;
    let server = parsed(&answer)?["server_id"].as_str().ok_or("the answer has no `server_id`")?.to_owned();
    refused(&hello(room, &client, 1, Some(&fresh()), &upsert)?, 409, "server_changed")?;
    refused(&hello(room, &fresh(), 1, Some(&server), &upsert)?, 409, "client_unknown")?;
    refused(&room.fetch(&id)?, 404, "not_found")?;
    held("both refused; nothing remained")
}

pub(super) fn epochs(room: &Room<'_>) -> Look {
    let (client, id) = (fresh(), room.id());
    let (first, _) = room.make(json!({"a": 0}))?;
    let more = |a: u64| room.task(&first, "update", json!({"fields": {"a": a}}));
    taken(&hello(room, &client, 5, None, &more(1))?, "the first request of a client, epoch 5")?;
    refused(
        &hello(room, &client, 4, None, &room.task(&id, "upsert", json!({"fields": {"a": 1}})))?,
        409,
        "client_superseded",
    )?;
    refused(&room.fetch(&id)?, 404, "not_found")?;
    taken(&hello(room, &client, 6, None, &more(2))?, "epoch 6 after 5")?;
    held("epoch 4 after 5 was refused, 6 went on")
}

pub(super) fn other_protocol(room: &Room<'_>) -> Look {
    let body = json!({"protocol": 999, "client_id": fresh(), "client_epoch": 1, "tasks": []});
    refused(&room.post(&body.to_string())?, 400, "unsupported_protocol")?;
    held("400 unsupported_protocol")
}

pub(super) fn unreadable(room: &Room<'_>) -> Look {
    let answer = room.post("{\"protocol\": 1, \"tas")?;
    refused(&answer, 400, "malformed")?;
    if !answer.content_type.starts_with("application/problem+json") {
        return Err(format!("the content type is {:?}", answer.content_type));
    }
    held("400 malformed")
}

pub(super) fn too_large(room: &Room<'_>) -> Look {
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
    // A client splits the batch at 413 whoever says it, and at a 400 of the server's own.
    if answer.status != 413 {
        refused(&answer, 400, "malformed").map_err(|_| {
            format!(
                "{TASKS} tasks must be answered, or refused with 413 `too_large`; was {}: {}",
                answer.status,
                cut(&answer.body)
            )
        })?;
    }
    equal(&room.record(&id)?["fields"]["a"], &json!(0), "the record after the refusal")?;
    held(format!("{TASKS} tasks were refused as a whole with {}", answer.status))
}

pub(super) fn credentials(room: &Room<'_>) -> Look {
    if !room.way.has_credentials() {
        return Ok(Seen::Skipped("no credentials were given".into()));
    }
    let id = room.id();
    let body = room.request(&[room.task(&id, "create", json!({"fields": {"a": 1}}))]);
    let entity = format!("/entities/{}/{id}", encoded(room.entity_type));
    for who in [Who::Nobody, Who::Stranger] {
        let with = if who == Who::Nobody { "without a token" } else { "with a token that was made up" };
        for (method, path, body) in
            [("POST", "", Some(body.clone())), ("GET", "/changes?limit=1", None), ("GET", &entity, None)]
        {
            refused(&room.ask(method, path, body, who)?, 401, "unauthorized")
                .map_err(|why| format!("{method} {with} {why}"))?;
        }
    }
    refused(&room.fetch(&id)?, 404, "not_found")?;
    held("401 for push, feed and record")
}
