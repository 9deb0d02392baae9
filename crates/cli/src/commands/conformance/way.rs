//! The suite's way to a server over HTTP, with connections that break when the suite wants it.
//!
//! Whole exchanges go through the transport that clients use. To cut, a plain socket is taken, for a client library reads
//! what comes; over https, where that is no way, the answer's head is read and the connection dropped before its body.
//! It knows nothing of the rules. Tests: `tests/conformance.rs`.

use crate::stop::Stop;
use landfall_adapters::http::url::Endpoint;
use landfall_adapters::http::{HttpRequest, Method, TransportErrorKind, UreqTransport, parse_retry_after};
use landfall_testkit::conformance::server::{Answer, Ask, Cut, Way, Who};
use std::io::{self, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::thread;
use std::time::{Duration, Instant};

/// How often a request is sent again that was refused with 429.
const RATE_REPEATS: usize = 10;
/// Longest wait for a server that says "later": whoever sits before the terminal would like to know.
const RATE_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often a wait looks whether it should stop.
const LOOK: Duration = Duration::from_millis(50);

/// Over HTTP, one request at a time per thread.
pub(super) struct Http {
    transport: UreqTransport,
    endpoint: Endpoint,
    credentials: Vec<(String, String)>,
    timeout: Duration,
    stop: Stop,
}

impl Http {
    pub(super) fn new(
        endpoint: Endpoint,
        credentials: Vec<(String, String)>,
        timeout: Duration,
        stop: Stop,
    ) -> Self {
        Self { transport: UreqTransport::new(), endpoint, credentials, timeout, stop }
    }

    fn url(&self, path: &str) -> String {
        let url = self.endpoint.url();
        if path.is_empty() { url } else { format!("{}{path}", url.trim_end_matches('/')) }
    }

    fn headers(&self, who: Who) -> Vec<(String, String)> {
        match who {
            Who::Us => self.credentials.clone(),
            Who::Nobody => Vec::new(),
            Who::Stranger => {
                let others = self.credentials.iter().filter(|(name, _)| !is_authorization(name));
                let stranger =
                    ("authorization".to_owned(), "Bearer of-a-landfall-check-0123456789".to_owned());
                others.cloned().chain([stranger]).collect()
            }
        }
    }

    fn request(&self, ask: &Ask) -> HttpRequest {
        let method = if ask.method == "POST" { Method::Post } else { Method::Get };
        let mut request = HttpRequest::new(method, self.url(&ask.path), self.timeout)
            .header("accept", "application/json, application/problem+json");
        request.headers.extend(self.headers(ask.who));
        match &ask.body {
            Some(body) => request.body("application/json", body.clone().into_bytes()),
            None => request,
        }
    }

    /// Waits as a server wished, unless that is too long or somebody asked to stop.
    fn waited(&self, wish: Option<Duration>) -> bool {
        let wish = wish.unwrap_or(Duration::from_secs(1));
        if wish > RATE_WAIT_MAX {
            return false;
        }
        let until = Instant::now() + wish;
        while Instant::now() < until {
            if self.stop.is_asked() {
                return false;
            }
            thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
        true
    }

    /// The whole request on a socket of its own, and then nothing more. `Ok(false)`: no plain socket leads there.
    fn cut_plain(&self, ask: &Ask, when: Cut) -> Result<bool, String> {
        let request = self.request(ask);
        let Some(rest) = request.url.strip_prefix("http://") else { return Ok(false) };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut head = format!("{} /{path} HTTP/1.1\r\nhost: {authority}\r\n", ask.method);
        for (name, value) in &request.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", request.body.len());
        let mut socket = self.connected(authority).map_err(|error| format!("cannot connect: {error}"))?;
        let sent = socket.write_all(&[head.as_bytes(), &request.body].concat());
        sent.map_err(|error| format!("cannot send: {error}"))?;
        if when == Cut::WhenAnswered {
            // Looks without taking: what is unread when the socket is closed makes it a reset, not an end.
            match socket.peek(&mut [0]) {
                Ok(0) => return Err("the server closed the connection without an answer".into()),
                Ok(_) => {}
                Err(error) => return Err(format!("no answer came: {error}")),
            }
        }
        Ok(true)
    }

    fn connected(&self, authority: &str) -> io::Result<TcpStream> {
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.timeout) {
                Ok(socket) => {
                    socket.set_read_timeout(Some(self.timeout))?;
                    socket.set_write_timeout(Some(self.timeout))?;
                    return Ok(socket);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Way for Http {
    fn ask(&self, ask: &Ask) -> Result<Answer, String> {
        let request = self.request(ask);
        let mut repeats = 0;
        let answer = loop {
            let answer = self.transport.send_blocking(&request).map_err(|error| error.to_string())?;
            repeats += 1;
            // Refused before it was looked at, so that another try is the first.
            if answer.status != 429 || repeats > RATE_REPEATS || !self.waited(parse_retry_after(&answer)) {
                break answer;
            }
        };
        Ok(Answer {
            status: answer.status,
            content_type: answer.header("content-type").unwrap_or_default().to_owned(),
            body: String::from_utf8_lossy(&answer.body).into_owned(),
        })
    }

    fn cut(&self, ask: &Ask, when: Cut) -> Result<bool, String> {
        if self.cut_plain(ask, when)? {
            return Ok(true);
        }
        if when == Cut::AtOnce {
            return Ok(false);
        }
        let mut request = self.request(ask);
        request.max_response_bytes = 0;
        match self.transport.send_blocking(&request) {
            Err(error) if error.kind == TransportErrorKind::BodyTooLarge => Ok(true),
            Err(error) => Err(error.to_string()),
            Ok(answer) => Err(format!("was answered {} with an empty body", answer.status)),
        }
    }

    /// A header that only names an app or a tenant is none.
    fn has_credentials(&self) -> bool {
        self.credentials.iter().any(|(name, _)| is_authorization(name))
    }
}

fn is_authorization(name: &str) -> bool {
    name.eq_ignore_ascii_case("authorization")
}
