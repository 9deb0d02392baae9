//! The probe over real sockets, against everything that a portal, a proxy or a broken line answers in the backend's
//! place.
//!
//! Most go to a host that is not this machine, as a hijacked name would: see [`Hijacked`].

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use landfall_adapters::SyncEndpoint;
use landfall_adapters::http::auth::BearerToken;
use landfall_adapters::http::{HttpRequest, HttpResponse, HttpTransport, TransportError, UreqTransport};
use landfall_core::adapter::{Adapter, BoxFuture, CallContext, Permit, Probe};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::ClientId;
use landfall_protocol::{Pong, Problem, ping_proof};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::{Seen, Server, answer, block_on};
use uuid::Uuid;

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
const HTML: &str = "text/html; charset=utf-8";

/// Sends what is meant for `backend.example` to this address.
#[derive(Debug)]
struct Hijacked(SocketAddr, UreqTransport);

impl HttpTransport for Hijacked {
    fn send(&self, mut request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        request.url = request.url.replace("backend.example", &self.0.to_string());
        self.1.send(request)
    }
}

/// The adapter of an app whose backend's address leads somewhere else.
fn hijacked(to: SocketAddr) -> SyncEndpoint {
    SyncEndpoint::builder("http://backend.example/api/sync")
        .allow_insecure_http()
        .headers(BearerToken::new("canary-1"))
        .transport(Hijacked(to, UreqTransport::builder().without_proxy().build()))
        .build()
        .unwrap()
}

fn context(timeout: Duration) -> CallContext {
    CallContext {
        client_id: ClientId(Uuid::from_u128(7)),
        client_epoch: 1,
        server_id: Some("srv".into()),
        timeout,
        identity: None,
        permit: Permit::default(),
    }
}

/// One probe, with a nonce of its own.
fn probe(adapter: &SyncEndpoint) -> Result<(), Failure> {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let mut nonce = [0xc4; 16];
    nonce[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::SeqCst).to_le_bytes());
    block_on(adapter.probe(&context(Duration::from_secs(10)), &Probe { nonce }))
}

fn kind(adapter: &SyncEndpoint) -> Option<FailureKind> {
    probe(adapter).err().map(|failure| failure.kind)
}

fn nonce_of(seen: &Seen) -> String {
    let query = seen.line.strip_prefix("GET /api/sync/ping?nonce=").unwrap();
    query.strip_suffix(" HTTP/1.1").unwrap().to_owned()
}

/// What a backend answers.
fn pong(seen: &Seen) -> String {
    let pong = Pong { protocol: 1, proof: ping_proof(&nonce_of(seen)), server_id: Some("srv".into()) };
    serde_json::to_string(&pong).unwrap()
}

/// Answers every request by a function of it.
fn answering(reply: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> Server {
    Server::start(move |_, connection| {
        while let Some(seen) = connection.request() {
            if !connection.write(&reply(&seen)) {
                return;
            }
        }
    })
}

#[test]
fn the_backend_is_reached_and_gets_no_credentials() {
    let server = answering(|seen| answer("200 OK", JSON, &pong(seen)));
    let adapter = hijacked(server.address);
    assert!(adapter.capabilities().probe);
    assert_eq!(kind(&adapter), None);
    assert_eq!(kind(&adapter), None);
    let seen = server.seen();
    assert_ne!(nonce_of(&seen[0]), nonce_of(&seen[1]));
    assert_eq!((seen[0].header("authorization"), seen[0].header("cookie")), (None, None));
    assert!(!format!("{seen:?}").contains("canary"), "who answers is not known yet");
    assert!(seen[0].body.is_empty());
    let quiet = SyncEndpoint::builder("https://backend.example/sync").without_probe().build().unwrap();
    assert!(!quiet.capabilities().probe);
}

#[test]
fn nothing_that_a_captive_portal_answers_passes() {
    let target = Server::once(answer("200 OK", JSON, "{}"));
    let redirect = |status: &str| {
        let to = target.url("/login?then=backend.example");
        format!("HTTP/1.1 {status}\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    };
    let refresh =
        r#"<html><head><meta http-equiv="refresh" content="0; url=http://portal.example/"></head></html>"#;
    let later = "HTTP/1.1 503 Busy\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n";
    let foreign = r#"{"type":"about:blank","title":"Not Found","status":404}"#;
    for bytes in [
        answer("200 OK", HTML, "<!doctype html><title>Welcome to our hotel</title>"),
        answer("200 OK", HTML, refresh),
        answer("200 OK", "", refresh),
        answer("200 OK", JSON, refresh),
        answer("200 OK", JSON, r#"{"status":"login required","url":"http://portal.example/"}"#),
        answer("200 OK", JSON, r#"{"protocol":1,"proof":""}"#),
        answer("200 OK", "text/plain", "Microsoft NCSI"),
        answer("204 No Content", "", ""),
        redirect("301 Moved Permanently"),
        redirect("302 Found"),
        redirect("303 See Other"),
        redirect("307 Temporary Redirect"),
        redirect("308 Permanent Redirect"),
        answer("511 Network Authentication Required", HTML, refresh),
        answer("511 Network Authentication Required", JSON, "{}"),
        answer("407 Proxy Authentication Required", HTML, "<html>"),
        answer("401 Unauthorized", HTML, "<html>"),
        answer("403 Forbidden", HTML, "<html>"),
        answer("403 Forbidden", JSON, "{}"),
        answer("404 Not Found", HTML, "<html>"),
        answer("404 Not Found", PROBLEM, foreign),
        answer("429 Too Many Requests", "text/plain", "slow down"),
        answer("502 Bad Gateway", HTML, "<html>"),
        later.into(),
        b"220 mail.example ESMTP\r\n".to_vec(),
        b"<html>no head at all</html>\r\n\r\n".to_vec(),
    ] {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let failure = probe(&hijacked(Server::once(bytes).address)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Intercepted, "{shown}: {failure}");
        assert_eq!(failure.retry_after, None, "a portal does not say how long we wait: {shown}");
    }
    assert_eq!(target.connections(), 0, "no redirect is followed");
}

#[test]
fn a_page_that_echoes_the_address_does_not_pass() {
    type Reply = fn(&Seen) -> String;
    let replies: [Reply; 7] = [
        |seen| nonce_of(seen),
        |seen| format!(r#""{}""#, nonce_of(seen)),
        |seen| format!(r#"{{"nonce":"{}"}}"#, nonce_of(seen)),
        |seen| format!(r#"{{"protocol":1,"nonce":"{}"}}"#, nonce_of(seen)),
        |seen| format!(r#"{{"protocol":1,"proof":"{0}","nonce":"{0}"}}"#, nonce_of(seen)),
        |seen| format!(r#"{{"protocol":1,"proof":"{0}{0}"}}"#, nonce_of(seen)),
        |seen| {
            serde_json::json!({"protocol": 1, "proof": seen.line, "seen": format!("{seen:?}")}).to_string()
        },
    ];
    for reply in replies {
        let server = answering(move |seen| answer("200 OK", JSON, &reply(seen)));
        assert_eq!(kind(&hijacked(server.address)), Some(FailureKind::Intercepted));
        assert_eq!(server.seen().len(), 1);
    }
}

#[test]
fn an_answer_that_a_proxy_kept_does_not_pass() {
    let kept = Mutex::new(None);
    let proxy = answering(move |seen| {
        let mut kept = kept.lock().unwrap();
        answer("200 OK", JSON, kept.get_or_insert_with(|| pong(seen)))
    });
    let adapter = hijacked(proxy.address);
    assert_eq!(kind(&adapter), None, "the first one came from the backend");
    assert_eq!(kind(&adapter), Some(FailureKind::Intercepted));
    assert_eq!(kind(&adapter), Some(FailureKind::Intercepted));
}

#[test]
fn an_answer_that_breaks_off_is_nobody() {
    let whole = Arc::new(AtomicUsize::new(0));
    let cut = Arc::new(AtomicUsize::new(0));
    let (size, at) = (Arc::clone(&whole), Arc::clone(&cut));
    let server = Server::start(move |_, connection| {
        if let Some(seen) = connection.request() {
            let bytes = answer("200 OK", JSON, &pong(&seen));
            size.store(bytes.len(), Ordering::SeqCst);
            connection.write(&bytes[..at.load(Ordering::SeqCst).min(bytes.len())]);
        }
    });
    let adapter = hijacked(server.address);
    cut.store(usize::MAX, Ordering::SeqCst);
    assert_eq!(kind(&adapter), None);
    for length in 0..whole.load(Ordering::SeqCst) {
        cut.store(length, Ordering::SeqCst);
        let failure = probe(&adapter).unwrap_err();
        assert_eq!(
            (failure.kind, failure.delivery),
            (FailureKind::Unreachable, Delivery::Unknown),
            "{length}"
        );
    }
}

#[test]
fn an_answer_without_end_is_left_soon() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let flood = Server::start(move |_, connection| {
        connection.request();
        connection
            .write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"protocol\":1,\"x\":\"");
        while connection.write(&[b'x'; 4096]) {
            count.fetch_add(4096, Ordering::SeqCst);
        }
    });
    assert_eq!(kind(&hijacked(flood.address)), Some(FailureKind::Intercepted));
    assert!(written.load(Ordering::SeqCst) < 16 << 20, "what fits between two sockets, and no more");

    let drip = Server::start(|_, connection| {
        connection.request();
        connection.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n");
        while connection.write(b" ") {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let began = Instant::now();
    let context = context(Duration::from_millis(300));
    let failure = block_on(hijacked(drip.address).probe(&context, &Probe { nonce: [1; 16] })).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn nobody_there_is_unreachable_and_a_false_certificate_is_not() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failure = probe(&hijacked(gone)).unwrap_err();
    assert_eq!((failure.kind, failure.delivery), (FailureKind::Unreachable, Delivery::NotSent));

    // A portal on the port of https that does not even try.
    let portal = Server::start(|_, connection| {
        connection.write(&answer("200 OK", HTML, "<html>Welcome"));
    });
    let secure = SyncEndpoint::builder("https://backend.example/sync")
        .transport(Hijacked(portal.address, UreqTransport::builder().without_proxy().build()))
        .build()
        .unwrap();
    assert_eq!(kind(&secure), Some(FailureKind::Intercepted));
}

#[test]
fn a_backend_that_does_not_know_pings_is_reached_and_its_refusals_are_its_own() {
    use FailureKind as Kind;
    let problem = |status: &str, code: &str| {
        let number = status.split(' ').next().unwrap().parse().unwrap();
        answer(status, PROBLEM, &serde_json::to_string(&Problem::new(number, code, "d")).unwrap())
    };
    for (bytes, expected) in [
        (problem("404 Not Found", "not_found"), None),
        (problem("405 Method Not Allowed", "method_not_allowed"), None),
        (problem("401 Unauthorized", "unauthorized"), Some(Kind::Unauthenticated)),
        (problem("403 Forbidden", "forbidden"), Some(Kind::Forbidden)),
        (problem("429 Too Many Requests", "rate_limited"), Some(Kind::RateLimited)),
        (problem("503 Service Unavailable", "unavailable"), Some(Kind::Transient)),
    ] {
        assert_eq!(kind(&hijacked(Server::once(bytes).address)), expected);
    }
    // On this machine nobody can stand in between: a plain 404 is a backend without pings.
    let other = Server::once(answer("404 Not Found", HTML, "<html>Cannot GET /sync/ping"));
    let local = SyncEndpoint::builder(other.url("/sync"))
        .transport(UreqTransport::builder().without_proxy().build())
        .build()
        .unwrap();
    assert_eq!(kind(&local), Some(Kind::Unsupported));
}

#[test]
fn a_withdrawn_permit_stops_a_probe() {
    let server = answering(|seen| answer("200 OK", JSON, &pong(seen)));
    let context = context(Duration::from_secs(5));
    context.permit.withdraw();
    let failure = block_on(hijacked(server.address).probe(&context, &Probe { nonce: [1; 16] })).unwrap_err();
    assert_eq!((failure.kind, failure.delivery), (FailureKind::Cancelled, Delivery::NotSent));
    assert_eq!(server.connections(), 0);
}

/// The golden pings, which the reference server is held to in `crates/server/tests/golden.rs`.
#[test]
fn the_golden_pings_are_asked_so_and_believed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/golden/19_ping.json");
    let story: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut believed = 0;
    for exchange in story["exchanges"].as_array().unwrap() {
        let asked = exchange["request"]["path"].as_str().unwrap();
        if exchange["response"]["status"] != 200 {
            continue;
        }
        let hex = asked.strip_prefix("/sync/ping?nonce=").unwrap();
        let nonce = u128::from_str_radix(hex, 16).unwrap().to_be_bytes();
        let server = Server::once(answer("200 OK", JSON, &exchange["response"]["body"].to_string()));
        let adapter = hijacked(server.address);
        let context = context(Duration::from_secs(10));
        assert!(block_on(adapter.probe(&context, &Probe { nonce })).is_ok());
        assert_eq!(server.seen()[0].line, format!("GET /api{asked} HTTP/1.1"));
        believed += 1;
    }
    assert_eq!(believed, 3);
}
