//! The default transport against servers that misbehave. What counts most: an exchange is "not sent" only when the
//! server cannot have seen a byte of it, and a body counts only when its end was seen.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use flate2::Compression;
use flate2::write::GzEncoder;
use landfall_adapters::http::{
    Framing, HttpRequest, HttpResponse, HttpTransport, Method, TransportError, TransportErrorKind as Kind,
    UreqTransport,
};
use landfall_core::failure::Delivery;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::{Server, answer, block_on};

const SECOND: Duration = Duration::from_secs(1);

fn transport() -> UreqTransport {
    UreqTransport::builder().without_proxy().build()
}

fn get(url: impl Into<String>) -> HttpRequest {
    HttpRequest::new(Method::Get, url, 10 * SECOND)
}

fn post(url: impl Into<String>, body: &[u8]) -> HttpRequest {
    HttpRequest::new(Method::Post, url, 10 * SECOND).body("application/json", body.to_vec())
}

fn send(request: HttpRequest) -> Result<HttpResponse, TransportError> {
    block_on(transport().send(request))
}

fn failed(request: HttpRequest) -> (Kind, Delivery) {
    let error = send(request).expect_err("the exchange must fail");
    (error.kind, error.delivery)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_withdrawn_permit_calls_nobody_and_one_that_comes_later_does_not_matter() {
    let server = Server::start(|_, connection| {
        connection.request();
        connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let request = post(server.url("/"), b"{}");
    request.permit.withdraw();
    assert_eq!(failed(request), (Kind::Withdrawn, Delivery::NotSent));
    assert_eq!(server.connections(), 0);
    // Withdrawn once it is on its way: the answer counts.
    let request = post("", b"{}");
    let permit = request.permit.clone();
    let server = Server::start(move |_, connection| {
        connection.request();
        permit.withdraw();
        connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    assert_eq!(send(HttpRequest { url: server.url("/"), ..request }).unwrap().status, 200);
}

#[test]
fn a_request_arrives_as_it_was_made() {
    let server = Server::once(
        "HTTP/1.1 207 Multi\r\nX-Two: a\r\nx-two: b\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok",
    );
    let request = post(server.url("/a%2Fb/%252f/..%3B/%F0%9F%98%80?c=%26&d=%23"), b"{\"n\":1}")
        .header("authorization", "Bearer t")
        .header("X-Twice", "1")
        .header("X-Twice", "2");
    let response = send(request).unwrap();
    assert_eq!((response.status, response.body.as_slice()), (207, b"ok".as_slice()));
    assert_eq!(response.headers_named("X-TWO").collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(response.framing, Framing::Delimited);
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "POST /a%2Fb/%252f/..%3B/%F0%9F%98%80?c=%26&d=%23 HTTP/1.1");
    assert_eq!(seen.body, b"{\"n\":1}");
    assert_eq!(seen.header("authorization"), Some("Bearer t"));
    assert_eq!(seen.header("accept-encoding"), Some("gzip"));
    assert!(seen.header("user-agent").unwrap().starts_with("landfall/"));
    assert_eq!(seen.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-twice")).count(), 2);
}

#[test]
fn every_status_is_an_answer() {
    for status in [200, 204, 304, 400, 401, 404, 409, 413, 429, 500, 503, 511] {
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        let server = Server::once(head);
        assert_eq!(send(post(server.url("/"), b"{}")).unwrap().status, status);
    }
}

#[test]
fn what_could_not_connect_was_not_sent() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(failed(post(format!("http://{gone}/"), b"{}")), (Kind::Unreachable, Delivery::NotSent));
    for host in ["no-such-host.invalid", "192.0.2.1"] {
        let mut request = post(format!("http://{host}/"), b"{}");
        request.timeout = SECOND / 2;
        let (kind, delivery) = failed(request);
        assert_eq!(delivery, Delivery::NotSent, "{host}");
        assert!(matches!(kind, Kind::Unreachable | Kind::Timeout), "{host}: {kind:?}");
    }
}

#[test]
fn what_cannot_be_requested_was_not_sent() {
    let server = Server::once(answer("200 OK", "text/plain", ""));
    for request in [
        get("not a url"),
        get("/relative"),
        get("http://"),
        get(server.url("/a b")),
        get(server.url("/")).header("x", "a\r\nY: b"),
        get(server.url("/")).header("x\r\ny", "a"),
    ] {
        assert_eq!(failed(request), (Kind::InvalidRequest, Delivery::NotSent));
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn once_written_it_may_have_been_seen() {
    let closing_at_once = Server::start(|_, _| {});
    let closing_after_the_request = Server::start(|_, connection| drop(connection.request()));
    // Closing with unread input makes the system send a reset.
    let resetting = Server::start(|_, connection| {
        let _ = connection.stream.read(&mut [0; 10]);
    });
    for server in [&closing_at_once, &closing_after_the_request, &resetting] {
        let (kind, delivery) = failed(post(server.url("/"), &[b'x'; 100_000]));
        assert_eq!((kind, delivery), (Kind::Reset, Delivery::Unknown));
        assert_eq!(server.connections(), 1, "a broken exchange is not repeated");
    }
    for garbage in
        ["SSH-2.0-OpenSSH_9.6\r\n\r\n", "HTTP/9.9 200 OK\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "\0\0\0\r\n\r\n"]
    {
        let (kind, delivery) = failed(post(Server::once(garbage).url("/"), b"{}"));
        assert!(matches!(kind, Kind::Malformed | Kind::Reset), "{garbage:?}: {kind:?}");
        assert_eq!(delivery, Delivery::Unknown, "{garbage:?}");
    }
}

#[test]
fn an_answer_cut_at_any_byte_is_an_error() {
    let length = answer("200 OK", "application/json", "{\"protocol\":1}");
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"pro\r\n9;x=y\r\ntocol\":1}\r\n0\r\n\r\n".to_vec();
    let body = gzip(b"{\"protocol\":1}");
    let mut packed =
        format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    packed.extend(&body);
    // Once the last chunk's size has come, the body is whole.
    for (whole, enough) in [(&length, length.len()), (&chunked, chunked.len() - 2), (&packed, packed.len())] {
        let served = whole.clone();
        let server = Server::start(move |number, connection| {
            connection.request();
            connection.write(&served[..number.min(served.len())]);
        });
        let transport = transport();
        for cut in 0..=whole.len() {
            let result = transport.send_blocking(&post(server.url("/"), b"{}"));
            match result {
                Ok(response) => {
                    assert!(cut >= enough, "cut at {cut} of {} passed", whole.len());
                    assert_eq!(
                        (response.body.as_slice(), response.framing),
                        (b"{\"protocol\":1}".as_slice(), Framing::Delimited)
                    );
                }
                Err(error) => {
                    assert!(cut < whole.len(), "{error}");
                    assert_eq!(error.delivery, Delivery::Unknown, "cut at {cut}");
                }
            }
        }
        assert_eq!(server.seen().len(), whole.len() + 1, "one request per exchange");
    }
}

#[test]
fn a_body_that_ends_with_the_connection_is_marked() {
    let plain = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}".to_vec();
    let old = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}".to_vec();
    let mut packed = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n".to_vec();
    packed.extend(gzip(b"{}"));
    for bytes in [plain, old, packed] {
        let response = send(get(Server::once(bytes).url("/"))).unwrap();
        assert_eq!((response.body.as_slice(), response.framing), (b"{}".as_slice(), Framing::UntilClose));
    }
}

#[test]
fn compressed_answers_are_inflated_and_keep_their_framing() {
    let body = gzip(b"hello");
    let mut length =
        format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len())
            .into_bytes();
    length.extend(&body);
    let mut chunked = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        body.len()
    )
    .into_bytes();
    chunked.extend(&body);
    chunked.extend(b"\r\n0\r\n\r\n");
    for bytes in [length, chunked] {
        let response = send(get(Server::once(bytes).url("/"))).unwrap();
        assert_eq!((response.body.as_slice(), response.framing), (b"hello".as_slice(), Framing::Delimited));
    }
    let broken = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello";
    let (kind, delivery) = failed(get(Server::once(broken).url("/")));
    assert!(matches!(kind, Kind::Malformed | Kind::Reset), "{kind:?}");
    assert_eq!(delivery, Delivery::Unknown);
}

#[test]
fn an_endless_answer_is_cut_at_the_limit() {
    const LIMIT: u64 = 1 << 20;
    let heads = [
        ("Content-Length: 10000000000", false),
        ("Transfer-Encoding: chunked", true),
        ("Connection: close", false),
    ];
    for (header, chunked) in heads {
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        let server = Server::start(move |_, connection| {
            connection.request();
            connection.write(format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n").as_bytes());
            let mut block = vec![b'x'; 65_536];
            if chunked {
                block.splice(0..0, *b"10000\r\n");
                block.extend(b"\r\n");
            }
            while connection.write(&block) {
                count.fetch_add(block.len() as u64, Ordering::SeqCst);
            }
        });
        let started = Instant::now();
        let mut request = get(server.url("/"));
        request.max_response_bytes = LIMIT;
        assert_eq!(failed(request), (Kind::BodyTooLarge, Delivery::Unknown), "{header}");
        assert!(started.elapsed() < 5 * SECOND);
        assert!(written.load(Ordering::SeqCst) < LIMIT + (16 << 20), "the connection was left open");
    }
    assert_flat_memory();
}

#[test]
fn a_gzip_bomb_is_cut_at_the_limit() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..256 {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20, "smaller than the limit while packed");
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", bomb.len())
            .into_bytes();
    bytes.extend(&bomb);
    let mut request = get(Server::once(bytes).url("/"));
    request.max_response_bytes = 1 << 20;
    assert_eq!(failed(request), (Kind::BodyTooLarge, Delivery::Unknown));
    assert_flat_memory();
}

/// The whole test process never held much more than its own buffers.
fn assert_flat_memory() {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 200 << 10, "{kilobytes} kB");
}

#[test]
fn a_body_of_exactly_the_limit_is_read() {
    for (length, fits) in [(0, true), (9, true), (10, true), (11, false)] {
        for head in [format!("Content-Length: {length}"), "Connection: close".into()] {
            let server = Server::once(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{}", "x".repeat(length)));
            let mut request = get(server.url("/"));
            request.max_response_bytes = 10;
            let result = send(request);
            assert_eq!(result.is_ok(), fits, "{length} {head}");
        }
    }
}

#[test]
fn dripping_and_silent_servers_end_with_the_time() {
    let drip = Server::start(|_, connection| {
        connection.request();
        connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while connection.write(b"x") {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let drip_head = Server::start(|_, connection| {
        connection.request();
        while connection.write(b"H") {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let silent = Server::start(|_, connection| {
        connection.request();
        let _ = connection.stream.read(&mut [0]);
    });
    let deaf = Server::start(|_, connection| {
        let _ = connection.stream.peek(&mut [0]);
        thread::sleep(3 * SECOND);
    });
    for server in [&drip, &drip_head, &silent, &deaf] {
        let mut request = post(server.url("/"), &vec![b'x'; 20 << 20]);
        request.timeout = SECOND / 2;
        if !std::ptr::eq(server, &deaf) {
            request.body.truncate(10);
        }
        let started = Instant::now();
        let (kind, delivery) = failed(request);
        assert!(matches!(kind, Kind::Timeout | Kind::Malformed), "{kind:?}");
        assert_eq!(delivery, Delivery::Unknown);
        assert!(started.elapsed() < 3 * SECOND);
    }
    let impatient = UreqTransport::builder().without_proxy().idle_timeout(SECOND / 4).build();
    let started = Instant::now();
    let error = impatient.send_blocking(&get(silent.url("/"))).unwrap_err();
    assert_eq!((error.kind, error.delivery), (Kind::Timeout, Delivery::Unknown));
    assert!(started.elapsed() < 3 * SECOND);
}

#[test]
fn redirects_are_answers_and_nothing_reaches_their_target() {
    let target = Server::once(answer("200 OK", "text/plain", "stolen"));
    for status in [300, 301, 302, 303, 307, 308] {
        let to = target.url("/steal");
        let server =
            Server::once(format!("HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 2\r\n\r\nno"));
        for request in [get(server.url("/")), post(server.url("/"), b"{\"secret\":1}")] {
            let response = send(request.header("authorization", "Bearer secret")).unwrap();
            assert_eq!((response.status, response.header("location")), (status, Some(to.as_str())));
        }
    }
    assert_eq!(target.connections(), 0);
}

#[test]
fn connections_are_used_again() {
    let server = Server::start(|_, connection| {
        while connection.request().is_some() {
            connection.write(&answer("200 OK", "text/plain", "ok"));
        }
    });
    let transport = transport();
    for _ in 0..5 {
        block_on(transport.send(post(server.url("/"), b"{}"))).unwrap();
    }
    assert_eq!((server.connections(), server.seen().len()), (1, 5));
}

#[test]
fn a_pooled_connection_that_closed_is_replaced() {
    let (closed, wait) = std::sync::mpsc::channel();
    let server = Server::start(move |_, connection| {
        connection.request();
        connection.write(&answer("200 OK", "text/plain", "ok"));
        connection.stream.shutdown(std::net::Shutdown::Both).unwrap();
        closed.send(()).unwrap();
    });
    let transport = transport();
    for n in 1..=3 {
        transport.send_blocking(&post(server.url("/"), b"{}")).unwrap();
        wait.recv().unwrap();
        assert_eq!((server.connections(), server.seen().len()), (n, n));
    }
}

#[test]
fn a_pooled_connection_that_breaks_under_a_request_is_unknown_and_not_repeated() {
    let server = Server::start(|_, connection| {
        connection.request();
        connection.write(&answer("200 OK", "text/plain", "ok"));
        connection.request();
    });
    let transport = transport();
    transport.send_blocking(&post(server.url("/"), b"1")).unwrap();
    let error = transport.send_blocking(&post(server.url("/"), b"2")).unwrap_err();
    assert_eq!((error.kind, error.delivery), (Kind::Reset, Delivery::Unknown));
    assert_eq!((server.connections(), server.seen().len()), (1, 2));
    // What a thread learned of one exchange must not colour the next.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for host in ["no-such-host.invalid".into(), gone.to_string()] {
        let mut request = post(format!("http://{host}/"), b"3");
        request.timeout = SECOND;
        assert_eq!(transport.send_blocking(&request).unwrap_err().delivery, Delivery::NotSent, "{host}");
    }
}

#[test]
fn a_dropped_exchange_holds_nobody() {
    let server = Server::start(|_, connection| {
        connection.request();
        thread::sleep(SECOND / 4);
        connection.write(&answer("200 OK", "text/plain", "ok"));
    });
    let transport = transport();
    let started = Instant::now();
    drop(transport.send(post(server.url("/"), b"{}")));
    assert!(started.elapsed() < SECOND / 4);
    let both = (transport.send(post(server.url("/"), b"{}")), transport.send(post(server.url("/"), b"{}")));
    assert!(block_on(both.0).is_ok() && block_on(both.1).is_ok());
    assert!(started.elapsed() < 2 * SECOND, "exchanges run at the same time");
}

#[test]
fn a_proxy_that_does_not_connect_sees_no_request() {
    for refusal in
        ["HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "HTTP/1.1 502 Bad Gateway\r\n\r\n", ""]
    {
        let proxy = Server::once(refusal);
        let through = UreqTransport::builder().proxy(&proxy.url("")).unwrap().build();
        let error = through.send_blocking(&post("http://backend.example/sync", b"{}")).unwrap_err();
        assert_eq!((error.kind, error.delivery), (Kind::Unreachable, Delivery::NotSent), "{refusal}");
        assert!(proxy.seen()[0].line.starts_with("CONNECT backend.example:80 "));
    }
    assert!(UreqTransport::builder().proxy("no proxy").is_err());
}

#[test]
fn an_endless_head_is_refused() {
    let server = Server::start(|_, connection| {
        connection.request();
        connection.write(b"HTTP/1.1 200 OK\r\n");
        while connection.write(b"X-More: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n") {}
    });
    let started = Instant::now();
    assert_eq!(failed(post(server.url("/"), b"{}")), (Kind::Malformed, Delivery::Unknown));
    assert!(started.elapsed() < 5 * SECOND);
}

mod tls {
    use super::*;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    const CERTIFICATE: &[u8] = include_bytes!("fixtures/localhost.pem");
    const KEY: &[u8] = include_bytes!("fixtures/localhost.key.pem");

    fn config() -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()],
                PrivateKeyDer::from_pem_slice(KEY).unwrap(),
            )
            .unwrap();
        Arc::new(config)
    }

    /// Shakes hands, reads one request, writes these bytes and cuts the connection without a word of TLS.
    fn server(bytes: &'static [u8]) -> Server {
        let config = config();
        Server::start(move |_, connection| {
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(tls, connection.stream.try_clone().unwrap());
            if support::read_request(&mut stream).is_some() {
                let _ = stream.write_all(bytes);
                let _ = stream.flush();
            }
        })
    }

    fn url(server: &Server) -> String {
        format!("https://localhost:{}/", server.address.port())
    }

    fn trusting() -> UreqTransport {
        UreqTransport::builder().without_proxy().trust_only_pem(CERTIFICATE).unwrap().build()
    }

    #[test]
    fn a_trusted_backend_is_spoken_to() {
        let server = server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let response = trusting().send_blocking(&post(url(&server), b"{}")).unwrap();
        assert_eq!((response.body.as_slice(), response.framing), (b"ok".as_slice(), Framing::Delimited));
    }

    #[test]
    fn an_untrusted_backend_sees_no_byte_of_the_request() {
        let server = server(b"");
        assert_eq!(failed(post(url(&server), b"{}")), (Kind::Tls, Delivery::NotSent));
        let by_another_name = format!("https://127.0.0.2:{}/", server.address.port());
        if let Err(error) = trusting().send_blocking(&post(by_another_name, b"{}")) {
            assert_eq!(error.delivery, Delivery::NotSent);
        }
        assert!(UreqTransport::builder().trust_only_pem(b"rubbish").is_err());
    }

    #[test]
    fn a_handshake_that_breaks_is_not_sent() {
        let garbage = Server::start(|_, connection| {
            let _ = connection.stream.read(&mut [0; 1000]);
            connection.write(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        });
        let closing = Server::start(|_, connection| drop(connection.stream.read(&mut [0; 1000])));
        let silent = Server::start(|_, _| thread::sleep(2 * SECOND));
        for server in [&garbage, &closing, &silent] {
            let mut request = post(url(server), b"{}");
            request.timeout = SECOND / 2;
            let (kind, delivery) = failed(request);
            assert_eq!(delivery, Delivery::NotSent, "{kind:?}");
            assert!(matches!(kind, Kind::Tls | Kind::Unreachable | Kind::Timeout), "{kind:?}");
        }
    }

    #[test]
    fn a_permit_withdrawn_during_the_handshake_stops_the_request() {
        let request = post("", b"{}");
        let permit = request.permit.clone();
        let hands = config();
        let (told, heard) = std::sync::mpsc::channel();
        let server = Server::start(move |_, connection| {
            let mut tls = ServerConnection::new(Arc::clone(&hands)).unwrap();
            // The client has spoken and waits for our half of the handshake.
            connection.stream.peek(&mut [0]).unwrap();
            permit.withdraw();
            while tls.is_handshaking() {
                tls.complete_io(&mut connection.stream).unwrap();
            }
            let mut stream = StreamOwned::new(tls, connection.stream.try_clone().unwrap());
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            told.send(bytes).unwrap();
        });
        let transport = trusting();
        let request = HttpRequest { url: url(&server), ..request };
        let error = transport.send_blocking(&request).unwrap_err();
        assert_eq!((error.kind, error.delivery), (Kind::Withdrawn, Delivery::NotSent));
        assert!(heard.recv().unwrap().is_empty(), "the server saw no byte of it");
        // The thread that ran it is not stopped for good.
        let other = Server::once("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(transport.send_blocking(&get(other.url("/"))).unwrap().status, 200);
    }

    #[test]
    fn a_cut_after_the_handshake_is_unknown() {
        for bytes in [b"".as_slice(), b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok"] {
            let error = trusting().send_blocking(&post(url(&server(bytes)), b"{}")).unwrap_err();
            assert_eq!((error.kind, error.delivery), (Kind::Reset, Delivery::Unknown));
        }
        // Without a length not even TLS's own end mark came.
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}";
        match trusting().send_blocking(&post(url(&server(bytes)), b"{}")) {
            Ok(response) => assert_eq!(response.framing, Framing::UntilClose),
            Err(error) => assert_eq!(error.delivery, Delivery::Unknown),
        }
    }
}
