//! The server's numbers over a real socket: true, well-formed, apart from the endpoint, and without a trace of anybody.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod exposition;
mod support;

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use exposition::Exposition;
use landfall_server::{Auth, RateLimit, Server, ServerHandle, ServerOptions};
use serde_json::json;
use support::{Folder, call, first_push, post_as, task};

const ANNA: &str = "token-canary-of-anna-01";

/// Runs `test` with the endpoint's address and that of the numbers.
fn with_numbers(options: ServerOptions, test: impl FnOnce(SocketAddr, SocketAddr)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = Folder::new();
    let options = ServerOptions { metrics: Some(([127, 0, 0, 1], 0).into()), ..options };
    let server: ServerHandle = runtime.block_on(async {
        Server::bind(([127, 0, 0, 1], 0).into(), folder.database(), options).await.unwrap().spawn()
    });
    let url = server.metrics_url().unwrap();
    let numbers = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap().parse().unwrap();
    test(server.local_addr(), numbers);
    runtime.block_on(server.stop());
}

fn one_tenant() -> ServerOptions {
    let auth = Auth::from_text(&format!("{ANNA} tenant-canary\n")).unwrap();
    ServerOptions { auth, ..ServerOptions::default() }
}

fn text(numbers: SocketAddr) -> String {
    let answer = call(numbers, "GET", "/metrics", &[], b"");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    answer.body
}

/// The numbers, as soon as they are as `wanted`; a request ends for its caller a moment before it is counted.
fn once(numbers: SocketAddr, wanted: impl Fn(&Exposition) -> bool) -> Exposition {
    let began = Instant::now();
    loop {
        let read = Exposition::parse(&text(numbers));
        if wanted(&read) {
            return read;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{read:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn counted(read: &Exposition) -> f64 {
    read.values("landfall_server_requests_total").iter().sum()
}

/// Eight requests of every kind, and an address with a name in it.
fn visit(addr: SocketAddr) {
    let named = |key: &str, id: &str, more| {
        let mut task = task(key, "create", more);
        task["entity_id"] = id.into();
        task
    };
    let value = json!({"fields": {"title": "value-canary"}});
    let twice = json!({"base_version": null, "fields": {"title": "other"}});
    let mut push = first_push(&[
        named("key-canary", "id-canary", value.clone()),
        named("key-canary-2", "id-canary", twice),
    ]);
    push["client_id"] = "client-canary".into();
    assert_eq!(post_as(addr, Some(ANNA), &push).status, 200);
    assert_eq!(post_as(addr, Some(ANNA), &push).status, 200);
    assert_eq!(post_as(addr, Some("token-canary-of-nobody"), &push).status, 401);
    let bearer = format!("Bearer {ANNA}");
    let headers = [("Authorization", bearer.as_str())];
    for (method, path, status) in [
        ("GET", "/sync/changes?cursor=cursor-canary", 410),
        ("GET", "/sync/entities/note/id-canary", 200),
        ("GET", "/health", 200),
        ("GET", "/sync/secret-canary", 404),
        ("CANARY", "/sync", 405),
    ] {
        let answer = call(addr, method, path, &headers, b"");
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
}

#[test]
fn requests_verdicts_bytes_and_times_are_counted() {
    with_numbers(one_tenant(), |addr, numbers| {
        visit(addr);
        let read = once(numbers, |read| counted(read) >= 8.0);
        assert_eq!(counted(&read), 8.0);
        let value = |name: &str, labels: &[(&str, &str)]| read.value(name, labels).unwrap_or(f64::NAN);
        let requests =
            |route, status| value("landfall_server_requests_total", &[("route", route), ("status", status)]);
        assert_eq!(
            (requests("push", "200"), requests("push", "401"), requests("push", "405")),
            (2.0, 1.0, 1.0)
        );
        assert_eq!((requests("entity", "200"), requests("health", "200")), (1.0, 1.0));
        assert_eq!(requests("other", "404"), 1.0);
        let tasks = |result| value("landfall_server_tasks_total", &[("result", result)]);
        assert_eq!(tasks("applied") + tasks("conflict") + tasks("rejected"), 3.0);
        assert_eq!((tasks("applied"), tasks("duplicate")), (1.0, 1.0));
        assert_eq!(value("landfall_server_refusals_total", &[("code", "unauthorized")]), 1.0);
        assert!(value("landfall_server_received_bytes_total", &[]) > 400.0);
        assert!(value("landfall_server_sent_bytes_total", &[]) > 400.0);
        assert_eq!(value("landfall_server_requests_in_flight", &[]), 0.0);
        read.has_sound_histogram("landfall_server_request_seconds");
        assert_eq!(value("landfall_server_request_seconds_count", &[("route", "push")]), 4.0);
    });
}

#[test]
fn changes_given_out_are_counted() {
    with_numbers(ServerOptions::default(), |addr, numbers| {
        let push = first_push(&[task("k", "create", json!({"fields": {"title": "x"}}))]);
        assert_eq!(post_as(addr, None, &push).status, 200);
        assert_eq!(call(addr, "GET", "/sync/changes", &[], b"").status, 200);
        let read = once(numbers, |read| counted(read) >= 2.0);
        assert_eq!(read.value("landfall_server_changes_total", &[]), Some(1.0));
    });
}

#[test]
fn no_number_tells_who_or_what() {
    with_numbers(one_tenant(), |addr, numbers| {
        visit(addr);
        once(numbers, |read| counted(read) >= 8.0);
        let text = text(numbers);
        for word in ["canary", "CANARY", "anna", "note", "default"] {
            assert!(!text.contains(word), "{word} in\n{text}");
        }
    });
}

#[test]
fn every_line_is_well_formed_also_before_the_first_request() {
    with_numbers(ServerOptions::default(), |_, numbers| {
        let read = Exposition::parse(&text(numbers));
        assert!(read.families().iter().all(|(name, _)| name.starts_with("landfall_server_")));
        assert_eq!(read.value("landfall_server_tasks_total", &[("result", "applied")]), Some(0.0));
    });
}

#[test]
fn the_endpoint_shows_no_numbers_and_the_numbers_are_no_endpoint() {
    with_numbers(ServerOptions::default(), |addr, numbers| {
        assert_eq!(call(addr, "GET", "/metrics", &[], b"").status, 404);
        assert_eq!(call(numbers, "GET", "/health", &[], b"").status, 404);
        assert_eq!(post_as(numbers, None, &first_push(&[])).status, 404);
    });
    // Unless asked for there are none at all.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = Folder::new();
    runtime.block_on(async {
        let addr = ([127, 0, 0, 1], 0).into();
        let server = Server::bind(addr, folder.database(), ServerOptions::default()).await.unwrap();
        assert_eq!(server.metrics_url(), None);
    });
}

#[test]
fn open_connections_and_a_caller_who_goes_away_are_seen() {
    with_numbers(ServerOptions::default(), |addr, numbers| {
        let mut slow = TcpStream::connect(addr).unwrap();
        let head =
            "POST /sync HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{";
        slow.write_all(head.as_bytes()).unwrap();
        let under_way = |read: &Exposition| {
            let value = |name| read.value(name, &[]).unwrap();
            (value("landfall_server_connections"), value("landfall_server_requests_in_flight"))
        };
        once(numbers, |read| under_way(read) == (1.0, 1.0));
        drop(slow);
        let read = once(numbers, |read| under_way(read) == (0.0, 0.0));
        assert_eq!(counted(&read), 1.0);
    });
}

#[test]
fn whoever_is_slowed_down_is_counted_as_refused() {
    let mut options = one_tenant();
    options.limits.rate = Some(RateLimit { per_second: 0.01, burst: 1.0 });
    with_numbers(options, |addr, numbers| {
        let bearer = format!("Bearer {ANNA}");
        for status in [200, 429, 429] {
            let answer = call(addr, "GET", "/sync/changes", &[("Authorization", bearer.as_str())], b"");
            assert_eq!(answer.status, status);
        }
        let read = once(numbers, |read| counted(read) >= 3.0);
        assert_eq!(read.value("landfall_server_refusals_total", &[("code", "rate_limited")]), Some(2.0));
    });
}

#[test]
fn the_page_in_the_docs_names_exactly_what_is_exported() {
    with_numbers(ServerOptions::default(), |_, numbers| {
        let exported = Exposition::parse(&text(numbers)).families();
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        assert_eq!(
            exposition::documented(&std::fs::read_to_string(page).unwrap(), "## The server"),
            exported
        );
    });
}
