//! The sync endpoint adapter over real sockets: what goes out, what becomes of answers, and that credentials show
//! up nowhere but in the request.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use landfall_adapters::SyncEndpoint;
use landfall_adapters::http::auth::{AccountTokens, BearerToken, Credentials, HeadersError, HeadersProvider};
use landfall_adapters::http::{HttpRequest, HttpResponse, HttpTransport, TransportError, UreqTransport};
use landfall_adapters::sync_endpoint::{EndpointError, SyncEndpointBuilder, encode_push};
use landfall_core::adapter::{
    Adapter, BoxFuture, CallContext, EffectClass, Outcome, Permit, PullRequest, PushBatch, PushReply,
    PushTask,
};
use landfall_core::change::Operation;
use landfall_core::entity::Body;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{CallId, ClientId, EntityKey, IdempotencyKey, TaskId};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
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
        identity: None,
        permit: Permit::default(),
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
        group: None,
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
    assert!(capabilities.atomic_groups && capabilities.actions && capabilities.orders_writes);
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
fn what_the_backend_answered_is_kept_without_the_credentials_it_echoes() {
    let token = "canary/7+x";
    let long = "z".repeat(5000);
    // Status line, content type, body, what must be kept of it.
    let cases = [
        (
            "400 Bad Request",
            PROBLEM,
            r#"{"code":"malformed","detail":"bad","trace":"8f3","sent":"Bearer canary\/7+x"}"#.to_owned(),
            r#""trace":"8f3""#,
        ),
        (
            "403 Forbidden",
            PROBLEM,
            r#"{"code":"no","you":"canary\u002f7\u002bx"}"#.to_owned(),
            r#"{"code":"no""#,
        ),
        (
            "500 Oops",
            "text/html",
            "<h1>Trace\n\x1b[31m Bearer canary&#x2F;7&#43;x</h1>".to_owned(),
            r"<h1>Trace \u{1b}[31m",
        ),
        ("200 OK", "text/html", format!("<html>hotel canary%2F7%2bx {long}"), "<html>hotel "),
        ("503 Later", "text/plain", format!("{}canary/7+x", "y".repeat(1990)), "yyyy"),
        ("422 No", "application/json", r#"{"errors":[{"input":"canary/7+x"}]}"#.to_owned(), r#"{"errors""#),
    ];
    for (status, media, body, kept) in cases {
        // Said, or the next request may go into the connection that is just being closed.
        let media = format!("{media}\r\nConnection: close");
        let server = Server::once(answer(status, &media, &body));
        let adapter = adapter(&server).headers(BearerToken::new(token)).build().unwrap();
        for failure in [
            push(&adapter).unwrap_err(),
            block_on(adapter.pull(&context(), &PullRequest { cursor: None, limit: 1 })).unwrap_err(),
            block_on(adapter.fetch(&context(), &EntityKey::new("note", "n"))).unwrap_err(),
        ] {
            let answer = failure.answer.as_deref().unwrap_or_else(|| panic!("{status}: {failure:?}"));
            assert!(
                answer.starts_with('{') || answer.starts_with('<') || answer.starts_with('y'),
                "{answer}"
            );
            assert!(answer.contains(kept) && answer.chars().count() <= 2000, "{status}: {answer}");
            let shown = format!("{failure:?} {failure}");
            assert!(!shown.contains("cana") && !shown.contains('\x1b'), "{status}: {shown}");
            assert_eq!(answer.ends_with("[cut]"), body.len() > 2000, "{status}: {answer}");
        }
    }
    // A page of records that cannot be read is no word of the backend's about anything.
    let server = Server::once(answer("200 OK", JSON, r#"{"changes":[{"secret":1}"#));
    let failure = push(&adapter(&server).build().unwrap()).unwrap_err();
    assert_eq!((failure.kind, failure.answer), (FailureKind::Protocol, None));
}

#[test]
fn a_refusals_answer_keeps_what_the_protocol_does_not_know() {
    let error = format!(
        r#"{{"code":"invalid_field","message":"{}canary-0123456789","field":"title","sent":"canary-0123456789"}}"#,
        "m".repeat(495)
    );
    let body =
        format!(r#"{{"protocol":1,"results":[{{"key":"{}","status":"rejected","error":{error}}}]}}"#, key(1));
    let server = Server::once(answer("200 OK", JSON, &body));
    let adapter = adapter(&server).headers(BearerToken::new("canary-0123456789")).build().unwrap();
    let reply = push(&adapter).unwrap();
    let Outcome::Rejected(rejection) = &reply.results[0].1 else { panic!("{reply:?}") };
    assert_eq!(rejection.code, "invalid_field");
    let answer = rejection.answer.as_deref().unwrap();
    assert!(answer.contains(r#""field":"title","sent":"[redacted]"}"#), "{answer}");
    assert!(!format!("{reply:?}").contains("can"), "not even half of it where a text is cut: {reply:?}");
}

/// Gives the token of whoever is signed in when it is asked, and can do something in that moment.
struct SignedIn<F>(F);

impl<F: Fn() -> Credentials + Send + Sync + 'static> HeadersProvider for SignedIn<F> {
    fn headers(&self) -> Result<Vec<(String, String)>, HeadersError> {
        Ok((self.0)().headers)
    }

    fn credentials(&self, _: Option<&str>) -> Result<Credentials, HeadersError> {
        Ok((self.0)())
    }
}

fn token_of(identity: &str) -> Credentials {
    Credentials::new(vec![("authorization".into(), format!("Bearer token-of-{identity}"))]).of(identity)
}

fn of(identity: Option<&str>, permit: &Permit) -> CallContext {
    CallContext { identity: identity.map(Into::into), permit: permit.clone(), ..context() }
}

/// Pushes, pulls and fetches.
fn every_call(adapter: &SyncEndpoint, context: &CallContext) -> [Option<Failure>; 3] {
    let request = PullRequest { cursor: None, limit: 1 };
    [
        block_on(adapter.push(context, &batch())).err(),
        block_on(adapter.pull(context, &request)).err(),
        block_on(adapter.fetch(context, &EntityKey::new("note", "n"))).err(),
    ]
}

#[test]
fn an_account_that_changes_between_the_decision_and_the_sending_sends_nothing() {
    let server = Server::once(answer("401 Unauthorized", PROBLEM, r#"{"code":"unauthorized"}"#));
    let now = Arc::new(Mutex::new("anna"));
    let asked = Arc::clone(&now);
    let provider = SignedIn(move || token_of(*asked.lock().unwrap()));
    let adapter = adapter(&server).headers(provider).build().unwrap();
    let annas = of(Some("anna"), &Permit::default());
    // The engine has decided to send anna's queue; before the adapter asks, bert signs in.
    *now.lock().unwrap() = "bert";
    for context in [annas.clone(), of(None, &Permit::default())] {
        for failure in every_call(&adapter, &context) {
            let failure = failure.unwrap();
            assert_eq!((failure.kind, failure.delivery), (FailureKind::Unauthenticated, Delivery::NotSent));
            assert!(!format!("{failure:?}").contains("token-of"), "{failure:?}");
        }
    }
    assert_eq!(server.connections(), 0, "not even a connection is made");
    *now.lock().unwrap() = "anna";
    for failure in every_call(&adapter, &annas) {
        assert_eq!(failure.unwrap().delivery, Delivery::Answered);
    }
    for seen in server.seen() {
        assert_eq!(seen.header("authorization"), Some("Bearer token-of-anna"));
    }
}

#[test]
fn a_permit_withdrawn_while_the_provider_was_asked_sends_nothing() {
    let server = Server::once(answer("200 OK", JSON, &applied()));
    let permit = Permit::default();
    let theirs = permit.clone();
    // The queue changes hands in the very moment: the credentials are already the next account's, and not tagged.
    let provider = move || {
        theirs.withdraw();
        Ok(vec![("authorization".to_string(), "Bearer token-of-bert".to_string())])
    };
    let adapter = adapter(&server).headers(provider).build().unwrap();
    for failure in every_call(&adapter, &of(Some("anna"), &permit)) {
        let failure = failure.unwrap();
        assert_eq!((failure.kind, failure.delivery), (FailureKind::Cancelled, Delivery::NotSent));
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn a_transport_that_knows_nothing_of_permits_is_not_called_without_one() {
    #[derive(Debug)]
    struct Never;
    impl HttpTransport for Never {
        fn send(&self, _: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
            panic!("the request was handed to the transport")
        }
    }
    let permit = Permit::default();
    permit.withdraw();
    let adapter = SyncEndpoint::builder("https://api.example.com/sync").transport(Never).build().unwrap();
    for failure in every_call(&adapter, &of(None, &permit)) {
        let failure = failure.unwrap();
        assert_eq!((failure.kind, failure.delivery), (FailureKind::Cancelled, Delivery::NotSent));
    }
}

/// An app's transport: withdraws the permit when the request is in its hands.
#[derive(Debug)]
struct Late(UreqTransport, Permit);

impl HttpTransport for Late {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        self.1.withdraw();
        self.0.send(request)
    }
}

#[test]
fn a_permit_withdrawn_in_the_transport_still_stops_the_request() {
    let server = Server::once(answer("200 OK", JSON, &applied()));
    for context in [None, Some("anna")] {
        let permit = Permit::default();
        let late = Late(UreqTransport::builder().without_proxy().build(), permit.clone());
        let adapter = adapter(&server).transport(late).build().unwrap();
        let failure = block_on(adapter.push(&of(context, &permit), &batch())).unwrap_err();
        assert_eq!((failure.kind, failure.delivery), (FailureKind::Cancelled, Delivery::NotSent));
    }
    assert!(server.seen().is_empty());
}

#[test]
fn accounts_share_an_adapter_and_never_a_token() {
    let server = Server::once(answer("401 Unauthorized", PROBLEM, r#"{"code":"unauthorized"}"#));
    let accounts = AccountTokens::new();
    let adapter = adapter(&server).headers(accounts.clone()).build().unwrap();
    accounts.set("anna", "token-of-anna");
    accounts.set("bert", "token-of-bert");
    for (identity, kind) in [
        (Some("anna"), Delivery::Answered),
        (Some("bert"), Delivery::Answered),
        (Some("carl"), Delivery::NotSent),
        (None, Delivery::NotSent),
    ] {
        let failure = block_on(adapter.push(&of(identity, &Permit::default()), &batch())).unwrap_err();
        assert_eq!((failure.kind, failure.delivery), (FailureKind::Unauthenticated, kind), "{identity:?}");
    }
    let sent: Vec<_> =
        server.seen().iter().map(|seen| seen.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(sent, ["Bearer token-of-anna", "Bearer token-of-bert"]);
}

#[test]
fn a_401_is_one_answer_to_one_request_and_refreshes_nothing_by_itself() {
    struct Counting(Arc<AtomicUsize>);
    impl HeadersProvider for Counting {
        fn headers(&self) -> Result<Vec<(String, String)>, HeadersError> {
            Ok(vec![("authorization".into(), "Bearer stale-token".into())])
        }
        fn refresh(&self) -> bool {
            self.0.fetch_add(1, Ordering::SeqCst);
            true
        }
    }
    for (media, body) in [(PROBLEM, r#"{"code":"unauthorized"}"#), ("text/html", "<html>Log in")] {
        let server = Server::once(answer("401 Unauthorized", media, body));
        let refreshed = Arc::new(AtomicUsize::new(0));
        let adapter = adapter(&server).headers(Counting(Arc::clone(&refreshed))).build().unwrap();
        for failure in every_call(&adapter, &context()) {
            let failure = failure.unwrap();
            assert_eq!((failure.kind, failure.delivery), (FailureKind::Unauthenticated, Delivery::Answered));
            assert_eq!(failure.answer.as_deref(), Some(body));
        }
        assert_eq!(
            (server.seen().len(), refreshed.load(Ordering::SeqCst)),
            (3, 0),
            "no second try of its own"
        );
        assert!(block_on(adapter.refresh_credentials()));
        assert_eq!(refreshed.load(Ordering::SeqCst), 1);
    }
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
