//! What goes out: bodies and addresses.
//!
//! A task's payload was frozen before its first attempt and goes out byte for byte (G8); this module only puts the
//! envelope around it. Pure; knows no transport. Tests: below.

use crate::http::url::{Endpoint, percent_encode};
use landfall_core::adapter::{CallContext, PullRequest, PushBatch};
use landfall_core::id::EntityKey;
use landfall_protocol::PROTOCOL_VERSION;

/// The body of a push: the envelope, and in it every payload as it is, in the batch's order.
///
/// ```
/// use landfall_adapters::sync_endpoint::encode_push;
/// # use landfall_core::adapter::{CallContext, Permit, PushBatch};
/// # use landfall_core::id::{CallId, ClientId};
/// # let context = CallContext {
/// #     client_id: ClientId::parse("00000000-0000-0000-0000-000000000007").unwrap(),
/// #     client_epoch: 1, server_id: None, timeout: std::time::Duration::from_secs(1),
/// #     identity: None, permit: Permit::default(),
/// # };
/// # let batch = PushBatch { call: CallId(1), tasks: vec![] };
/// assert!(encode_push(&context, &batch).starts_with(br#"{"protocol":1,"client_id":"0000"#));
/// ```
pub fn encode_push(context: &CallContext, batch: &PushBatch) -> Vec<u8> {
    let payloads: usize = batch.tasks.iter().map(|task| task.payload.len() + 1).sum();
    let mut body = String::with_capacity(256 + payloads);
    body.push_str(&format!(
        r#"{{"protocol":{PROTOCOL_VERSION},"client_id":"{}","client_epoch":{}"#,
        context.client_id, context.client_epoch
    ));
    if let Some(server) = &context.server_id {
        body.push_str(r#","server_id":"#);
        body.push_str(&serde_json::Value::from(server.0.as_str()).to_string());
    }
    body.push_str(r#","tasks":["#);
    for (index, task) in batch.tasks.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        body.push_str(&task.payload);
    }
    body.push_str("]}");
    body.into_bytes()
}

/// The address of one page of the change feed.
pub fn pull_url(endpoint: &Endpoint, request: &PullRequest) -> String {
    let base = endpoint.join(&["changes"]).unwrap_or_default();
    let limit = request.limit.max(1);
    match &request.cursor {
        Some(cursor) => format!("{base}?cursor={}&limit={limit}", percent_encode(&cursor.0)),
        None => format!("{base}?limit={limit}"),
    }
}

/// The address of one record; `None` when its type or id cannot stand in an address, see [`Endpoint::join`].
pub fn entity_url(endpoint: &Endpoint, entity: &EntityKey) -> Option<String> {
    endpoint.join(&["entities", &entity.entity_type, &entity.entity_id])
}

/// Compresses a body; `None` when that fails, which for memory it does not.
#[cfg(feature = "gzip")]
pub(super) fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::adapter::{Permit, PushTask};
    use landfall_core::change::Operation;
    use landfall_core::id::{CallId, ClientId, Cursor, IdempotencyKey, TaskId};
    use landfall_protocol::PushRequest;
    use std::time::Duration;
    use uuid::Uuid;

    fn context(server: Option<&str>) -> CallContext {
        CallContext {
            client_id: ClientId(Uuid::from_u128(7)),
            client_epoch: 3,
            server_id: server.map(Into::into),
            timeout: Duration::from_secs(30),
            identity: None,
            permit: Permit::default(),
        }
    }

    fn batch(payloads: &[&str]) -> PushBatch {
        let task = |(index, payload): (usize, &&str)| PushTask {
            task_id: TaskId(Uuid::from_u128(index as u128)),
            key: IdempotencyKey([u8::try_from(index).unwrap(); 16]),
            entity: EntityKey::new("note", index.to_string()),
            operation: Operation::Update,
            group: None,
            payload: (*payload).into(),
            attempt: 0,
        };
        PushBatch { call: CallId(1), tasks: payloads.iter().enumerate().map(task).collect() }
    }

    #[test]
    fn a_push_is_written_as_in_the_protocol() {
        // Spaces, an integer beyond 64 bits and the order of members must survive: these bytes are frozen.
        let first = r#"{"key":"k1","task_id":"t1","entity_type":"note","entity_id":"n","operation":"update", "fields":{"b":1.0,"a":100000000000000000001}}"#;
        let second =
            r#"{"key":"k2","task_id":"t2","entity_type":"note","entity_id":"m","operation":"delete"}"#;
        let body = String::from_utf8(encode_push(&context(Some("s\"1")), &batch(&[first, second]))).unwrap();
        assert_eq!(
            body,
            format!(
                r#"{{"protocol":1,"client_id":"00000000-0000-0000-0000-000000000007","client_epoch":3,"server_id":"s\"1","tasks":[{first},{second}]}}"#
            )
        );
        let read: PushRequest = serde_json::from_str(&body).unwrap();
        assert_eq!((read.tasks.len(), read.server_id.as_deref()), (2, Some("s\"1")));
    }

    #[test]
    fn first_contact_names_no_server() {
        let body = String::from_utf8(encode_push(&context(None), &batch(&[]))).unwrap();
        assert_eq!(
            body,
            r#"{"protocol":1,"client_id":"00000000-0000-0000-0000-000000000007","client_epoch":3,"tasks":[]}"#
        );
    }

    #[test]
    fn the_same_batch_is_always_the_same_bytes() {
        let batch = batch(&["{}", "{\"key\":\"k\"}"]);
        assert_eq!(encode_push(&context(None), &batch), encode_push(&context(None), &batch));
    }

    #[test]
    fn addresses_of_pages_and_records() {
        let endpoint = Endpoint::parse("https://a.example/v1/sync/", false).unwrap();
        let page = |cursor: Option<&str>, limit| {
            pull_url(&endpoint, &PullRequest { cursor: cursor.map(Cursor::from), limit })
        };
        assert_eq!(page(None, 100), "https://a.example/v1/sync/changes?limit=100");
        assert_eq!(page(None, 0), "https://a.example/v1/sync/changes?limit=1");
        assert_eq!(
            page(Some("7&limit=9#é"), 5),
            "https://a.example/v1/sync/changes?cursor=7%26limit%3D9%23%C3%A9&limit=5"
        );
        let record = |kind: &str, id: &str| entity_url(&endpoint, &EntityKey::new(kind, id));
        assert_eq!(record("a/b", "../x").as_deref(), Some("https://a.example/v1/sync/entities/a%2Fb/..%2Fx"));
        assert_eq!(record("note", ".."), None);
        assert_eq!(record(".", "x"), None);
    }
}
