//! The page with the agent's numbers: `GET /metrics`, on a loopback listener of its own, and nothing else.
//!
//! It reads a head of bounded size for a bounded time, answers, and closes; the rest of HTTP is not for it. A page that
//! cannot be shown never holds up the sending. What the numbers mean: `docs/metrics.md`. Tests: below, `tests/agent.rs`.

use crate::problem::Problem;
use landfall_engine::{Engine, MetricsSnapshot};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that a request's head may have. 8 KiB: what common servers take.
const HEAD_MAX: usize = 8 << 10;
/// How long a reader may take, for its request and for the answer each. 2 s: it is on this machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// Readers at once; more are turned away. 8: a scraper, and a person with a few windows.
const READERS_MAX: usize = 8;
/// How long to wait after a listener that failed (no more file handles, usually).
const CALM: Duration = Duration::from_millis(200);

/// A listener that shows the numbers as long as the process lives.
#[derive(Debug)]
pub(super) struct Page {
    address: SocketAddr,
}

/// Reads `--metrics`: an address that only this machine reaches.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(_) => Err(
            "everybody who reaches the address sees the numbers: give a loopback one, such as 127.0.0.1:9464"
                .into(),
        ),
        Err(_) => Err("write an address and a port, such as 127.0.0.1:9464".into()),
    }
}

impl Page {
    /// Listens from now on, on a thread of its own.
    pub(super) fn open(address: SocketAddr, engine: Engine) -> Result<Self, Problem> {
        let cannot = |error: std::io::Error| {
            Problem::new(format!("cannot show numbers at {address}: {error}"))
                .hint("choose another port with --metrics; port 0 takes a free one")
        };
        let listener = TcpListener::bind(address).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        thread::Builder::new()
            .name("landfall metrics".into())
            .spawn(move || serve(&listener, &engine))
            .map_err(cannot)?;
        Ok(Self { address })
    }

    /// Where it is.
    pub(super) fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }
}

/// Until the process ends.
fn serve(listener: &TcpListener, engine: &Engine) {
    let readers = Arc::new(());
    loop {
        match listener.accept() {
            // One of the holders is this loop.
            Ok(_) if Arc::strong_count(&readers) > READERS_MAX => {}
            Ok((stream, _)) => {
                let (reader, engine) = (Arc::clone(&readers), engine.clone());
                // Without a thread nobody is answered, and the connection closes.
                drop(thread::Builder::new().spawn(move || {
                    drop(answer(stream, &engine));
                    drop(reader);
                }));
            }
            Err(_) => thread::sleep(CALM),
        }
    }
}

fn answer(mut stream: TcpStream, engine: &Engine) -> std::io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = read_head(&mut stream)?;
    let reply = match judge(&head) {
        Wish::Metrics => match engine.metrics() {
            Ok(snapshot) => {
                reply("200 OK", MetricsSnapshot::PROMETHEUS_CONTENT_TYPE, "", &snapshot.to_prometheus())
            }
            Err(_) => plain("503 Service Unavailable", "", "the queue cannot be read\n"),
        },
        Wish::Elsewhere => plain("404 Not Found", "", "only /metrics is here\n"),
        Wish::Otherwise => plain("405 Method Not Allowed", "Allow: GET\r\n", "only GET is known here\n"),
        Wish::TooLong => plain("431 Request Header Fields Too Large", "", "the request is too long\n"),
        Wish::Unreadable => plain("400 Bad Request", "", "this is no HTTP request\n"),
    };
    stream.write_all(reply.as_bytes())
}

/// Reads up to the empty line, the most that is taken, the end, or the end of patience.
fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let (mut head, mut piece) = (Vec::new(), [0; 1024]);
    while head.len() <= HEAD_MAX && !is_whole(&head) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => break,
            count => head.extend_from_slice(&piece[..count]),
        }
    }
    Ok(head)
}

fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|four| four == b"\r\n\r\n")
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Metrics,
    Elsewhere,
    Otherwise,
    TooLong,
    Unreadable,
}

fn judge(head: &[u8]) -> Wish {
    if !is_whole(head) {
        return if head.len() > HEAD_MAX { Wish::TooLong } else { Wish::Unreadable };
    }
    let line = head.split(|byte| *byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    let words: Vec<&str> = line.unwrap_or_default().split(' ').collect();
    let [method, target, version] = words[..] else { return Wish::Unreadable };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return Wish::Unreadable;
    }
    let path = target.split('?').next().unwrap_or_default();
    match (path, method) {
        ("/metrics", "GET") => Wish::Metrics,
        ("/metrics", _) => Wish::Otherwise,
        _ => Wish::Elsewhere,
    }
}

fn plain(status: &str, headers: &str, body: &str) -> String {
    reply(status, "text/plain; charset=utf-8", headers, body)
}

fn reply(status: &str, content: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_page_is_shown() {
        for (head, wish) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Wish::Metrics),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", Wish::Metrics),
            ("POST /metrics HTTP/1.1\r\n\r\n", Wish::Otherwise),
            ("GET / HTTP/1.1\r\n\r\n", Wish::Elsewhere),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", Wish::Elsewhere),
            ("GET /metrics\r\n\r\n", Wish::Unreadable),
            ("GET metrics HTTP/1.1\r\n\r\n", Wish::Unreadable),
            ("\u{16}\u{3}\u{1}\r\n\r\n", Wish::Unreadable),
            ("GET /metrics HTTP/1.1\r\n", Wish::Unreadable),
            ("", Wish::Unreadable),
        ] {
            assert_eq!(judge(head.as_bytes()), wish, "{head:?}");
        }
        assert_eq!(judge(&vec![b'x'; HEAD_MAX + 1]), Wish::TooLong);
    }

    #[test]
    fn only_this_machine_is_shown_the_numbers() {
        assert!(address("127.0.0.1:9464").is_ok());
        assert!(address("[::1]:0").is_ok());
        for text in ["0.0.0.0:9464", "192.0.2.1:80", "9464", "localhost:9464", ""] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
