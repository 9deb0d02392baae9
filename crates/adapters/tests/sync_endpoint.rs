//! The sync endpoint adapter over real sockets: what goes out, what becomes of answers, and that credentials show
//! up nowhere but in the request.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use landfall_adapters::SyncEndpoint;
use landfall_adapters::http::auth::{BearerToken, HeadersError};
use landfall_adapters::http::{HttpRequest, HttpResponse, HttpTransport, TransportError, UreqTransport};
use landfall_adapters::sync_endpoint::{EndpointError, SyncEndpointBuilder, encode_push};
use landfall_core::adapter::{
    Adapter, BoxFuture, CallContext, EffectClass, Outcome, PullRequest, PushBatch, PushReply, PushTask,
};
use landfall_core::change::Operation;
use landfall_core::entity::Body;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{CallId, ClientId, EntityKey, IdempotencyKey, TaskId};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{Server, answer, block_on};
use uuid::Uuid;

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

fn context() -> CallContext {
    CallContext {
        client_id: ClientId(Uuid::from_u128(7)),
        client_epoch: 1,
        server_id: Some("srv".into()),
        timeout: Duration::from_secs(10),
    }
}

fn key(n: u8) -> IdempotencyKey {
    IdempotencyKey([n; 16])
}

fn batch() -> PushBatch {
    let task = |n: u8| PushTask {
        task_id: TaskId(Uuid::from_u128(u128::from(n))),
        key: key(n),
        entity: EntityKey::new("note", format!("n{n}")),
        operation: Operation::Update,
        payload: format!(r#"{{"key":"{}", "task_id":"t","fields":{{"a":1.0}}}}"#, key(n)).into(),
        attempt: 0,
    };
    PushBatch { call: CallId(1), tasks: vec![task(1), task(2)] }
}

fn applied() -> String {
    let results: Vec<String> =
        [2, 1, 9].map(|n| format!(r#"{{"key":"{}","status":"applied","version":"{n}"}}"#, key(n))).into();
    format!(r#"{{"protocol":1,"server_id":"srv","results":[{}]}}"#, results.join(","))
}

fn adapter(server: &Server) -> SyncEndpointBuilder {
    SyncEndpoint::builder(server.url("/api/sync/"))
        .transport(UreqTransport::builder().without_proxy().build())
}

fn push(adapter: &SyncEndpoint) -> Result<PushReply, Failure> {
    block_on(adapter.push(&context(), &batch()))
}

#[test]
fn a_push_goes_out_frozen_and_comes_back_by_key() {
    let server = Server::once(answer("200 OK", JSON, &applied()));
    let adapter = adapter(&server).headers(BearerToken::new("canary-1")).build().unwrap();
    let reply = push(&adapter).unwrap();
    let verdicts: Vec<_> =
        reply.results.iter().map(|(key, outcome)| (*key, matches!(outcome, Outcome::Applied(_)))).collect();
    assert_eq!(verdicts, [(key(2), true), (key(1), true)]);
    assert_eq!((reply.server_id, adapter.unasked_results()), (Some("srv".into()), 1));
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "POST /api/sync HTTP/1.1");
    assert_eq!(seen.body, encode_push(&context(), &batch()));
    assert_eq!(seen.header("content-type"), Some(JSON));
    assert_eq!(seen.header("authorization"), Some("Bearer canary-1"));
    let capabilities = adapter.capabilities();
    assert_eq!((capabilities.batch_tasks, capabilities.batch_bytes), (500, 1 << 20));
    assert_eq!((capabilities.effect, capabilities.pull), (EffectClass::OneEffect, true));
}

#[test]
fn pages_and_records_are_read() {
    let server = Server::start(|_, connection| {
        while let Some(seen) = connection.request() {
            let record = r#"{"entity_type":"note","entity_id":"a/b?c","version":"7","fields":{"x":1}}"#;
            let body = match seen.line.as_str() {
                "GET /api/sync/changes?cursor=5%2F%26&limit=10 HTTP/1.1" => {
                    format!(r#"{{"changes":[{record}],"cursor":"7","has_more":false}}"#)
                }
                "GET /api/sync/entities/note/a%2Fb%3Fc HTTP/1.1" => record.into(),
                other => panic!("asked for {other}"),
            };
            connection.write(&answer("200 OK", JSON, &body));
        }
    });
    let adapter = adapter(&server).build().unwrap();
    let request = PullRequest { cursor: Some("5/&".into()), limit: 10 };
    let page = block_on(adapter.pull(&context(), &request)).unwrap();
    assert_eq!((page.changes.len(), page.cursor.0.as_str(), page.has_more), (1, "7", false));
    let entity = EntityKey::new("note", "a/b?c");
    let found = block_on(adapter.fetch(&context(), &entity)).unwrap().unwrap();
    assert!(found.key == entity && matches!(found.body, Body::Live(_)));
    assert_eq!(server.connections(), 1);
    for id in ["..", ".", ""] {
        let failure = block_on(adapter.fetch(&context(), &EntityKey::new("note", id))).unwrap_err();
        assert_eq!((failure.kind, failure.delivery), (FailureKind::Rejected, Delivery::NotSent), "{id}");
    }
    assert_eq!(server.seen().len(), 2, "what cannot be asked is not asked");
}

#[test]
fn answers_and_their_failures() {
    use FailureKind as Kind;
    let problem = |code: &str| format!(r#"{{"type":"urn:landfall:problem:{code}","code":"{code}"}}"#);
    let cases: Vec<(Vec<u8>, FailureKind, Delivery)> = vec![
        (answer("200 OK", "text/html", "<html>Welcome to our hotel"), Kind::Intercepted, Delivery::Unknown),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\nContent-Length: 0\r\n\r\n".to_vec(),
            Kind::Intercepted,
            Delivery::Unknown,
        ),
        (answer("200 OK", JSON, "null"), Kind::Protocol, Delivery::Unknown),
        (answer("200 OK", JSON, ""), Kind::Protocol, Delivery::Unknown),
        (answer("204 No Content", JSON, ""), Kind::Protocol, Delivery::Unknown),
        (
            format!("HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\n\r\n{}", applied()).into(),
            Kind::Protocol,
            Delivery::Unknown,
        ),
        (
            format!("HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nContent-Length: 9999\r\n\r\n{}", applied())
                .into(),
            Kind::Transient,
            Delivery::Unknown,
        ),
        (
            answer("401 Unauthorized", PROBLEM, &problem("unauthorized")),
            Kind::Unauthenticated,
            Delivery::Answered,
        ),
        (
            answer("409 Conflict", PROBLEM, &problem("client_unknown")),
            Kind::ClientUnknown,
            Delivery::Answered,
        ),
        (answer("413 Too Large", "text/html", "<html>nginx"), Kind::TooLarge, Delivery::Answered),
        (answer("502 Bad Gateway", "text/html", "<html>nginx"), Kind::Transient, Delivery::Unknown),
        (Vec::new(), Kind::Transient, Delivery::Unknown),
    ];
    for (bytes, kind, delivery) in cases {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let failure = push(&adapter(&Server::once(bytes)).build().unwrap()).unwrap_err();
        assert_eq!((failure.kind, failure.delivery), (kind, delivery), "{shown}: {failure}");
    }
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = SyncEndpoint::builder(format!("http://{gone}/sync"))
        .transport(UreqTransport::builder().without_proxy().build());
    let failure = push(&refused.build().unwrap()).unwrap_err();
    assert_eq!((failure.kind, failure.delivery), (Kind::Unreachable, Delivery::NotSent));
}

#[test]
fn credentials_are_asked_for_each_time_and_shown_nowhere() {
    let echo = r#"{"code":"malformed","title":"x","detail":"bad token canary-0, sent as Bearer canary-0"}"#;
    let server = Server::start(move |_, connection| {
        while connection.request().is_some() {
            connection.write(&answer("400 Bad Request", PROBLEM, echo));
        }
    });
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let provider = move || {
        let n = count.fetch_add(1, Ordering::SeqCst);
        if n == 2 {
            return Err(HeadersError::new("signed out"));
        }
        Ok(vec![("Authorization".to_string(), format!("Bearer canary-{n}"))])
    };
    let adapter = adapter(&server).headers(provider).build().unwrap();
    let first = push(&adapter).unwrap_err();
    assert_eq!(first.kind, FailureKind::Rejected);
    let second = push(&adapter).unwrap_err();
    assert_eq!(second.kind, FailureKind::Rejected);
    assert!(second.message.contains("canary-0"), "only what was sent now is known to be a secret");
    let signed_out = push(&adapter).unwrap_err();
    assert_eq!((signed_out.kind, signed_out.delivery), (FailureKind::Unauthenticated, Delivery::NotSent));
    for text in [format!("{first:?} {first} {adapter:?}"), format!("{signed_out:?}")] {
        assert!(!text.contains("canary"), "{text}");
    }
    let sent: Vec<_> =
        server.seen().iter().map(|seen| seen.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(sent, ["Bearer canary-0", "Bearer canary-1"]);
}

#[test]
fn a_verdict_with_an_echoed_credential_does_not_keep_it() {
    let result = |n, status: &str| {
        let key = key(n);
        format!(
            r#"{{"key":"{key}","status":"{status}","error":{{"code":"x","message":"no canary-7 here"}}}}"#
        )
    };
    let body = format!(r#"{{"protocol":1,"results":[{},{}]}}"#, result(1, "rejected"), result(2, "retry"));
    let server = Server::once(answer("200 OK", JSON, &body));
    let adapter = adapter(&server).headers(BearerToken::new("canary-7")).build().unwrap();
    let reply = push(&adapter).unwrap();
    assert!(reply.results.len() == 2 && !format!("{reply:?}").contains("canary"), "{reply:?}");
}

#[test]
fn headers_that_would_break_a_request_stop_it() {
    let server = Server::once(answer("200 OK", JSON, &applied()));
    for (name, value) in
        [("authorization", "canary\r\nX-Admin: 1"), ("content-length", "0"), ("host", "canary.example")]
    {
        let provider = move || Ok(vec![(name.to_string(), value.to_string())]);
        let failure = push(&adapter(&server).headers(provider).build().unwrap()).unwrap_err();
        assert_eq!(
            (failure.kind, failure.delivery),
            (FailureKind::Unauthenticated, Delivery::NotSent),
            "{name}"
        );
        assert!(!format!("{failure:?}").contains("canary"), "{failure:?}");
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn addresses_are_checked_when_the_adapter_is_made() {
    assert_eq!(SyncEndpoint::new("http://api.example.com/sync").unwrap_err(), EndpointError::Insecure);
    assert!(SyncEndpoint::builder("http://api.example.com/sync").allow_insecure_http().build().is_ok());
    assert!(SyncEndpoint::new("https://api.example.com/sync").is_ok());
    let builder = SyncEndpoint::builder("https://me:canary@api.example.com/sync");
    assert!(!format!("{builder:?}").contains("canary"));
    let error = builder.build().unwrap_err();
    assert!(error == EndpointError::Credentials && !error.to_string().contains("canary"));
}

/// An app's own transport.
#[derive(Debug)]
struct Canned(HttpResponse);

impl HttpTransport for Canned {
    fn send(&self, _: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let response = self.0.clone();
        Box::pin(async move { Ok(response) })
    }
}

#[test]
fn a_transport_of_the_apps_own_will_do() {
    let adapter = SyncEndpoint::builder("https://api.example.com/sync")
        .transport(Canned(HttpResponse::new(200, JSON, applied())))
        .build()
        .unwrap();
    assert_eq!(push(&adapter).unwrap().results.len(), 2);
}

#[cfg(feature = "gzip")]
#[test]
fn large_pushes_are_compressed_when_asked_for() {
    use std::io::Read;
    let server = Server::start(|_, connection| {
        while connection.request().is_some() {
            connection.write(&answer("200 OK", JSON, &applied()));
        }
    });
    push(&adapter(&server).compress_above(10).build().unwrap()).unwrap();
    push(&adapter(&server).compress_above(1 << 20).build().unwrap()).unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].header("content-encoding"), Some("gzip"));
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(seen[0].body.as_slice()).read_to_end(&mut body).unwrap();
    assert_eq!(body, encode_push(&context(), &batch()));
    assert_eq!((seen[1].header("content-encoding"), &seen[1].body), (None, &body));
}
