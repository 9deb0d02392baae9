//! The default transport: the `ureq` client, each exchange on a thread of its own.
//!
//! Here ureq's errors become ours, limits are kept and redirects are switched off. `ureq` never repeats a request
//! (it looks whether a pooled connection is still open before it writes); whether anything was written is not asked
//! of its errors but watched on the wire, see [`wire`]. Tests: `tests/transport.rs`, against sockets that misbehave.

mod wire;

use super::{Framing, HttpRequest, HttpResponse, HttpTransport, TransportError, TransportErrorKind};
use ::ureq::unversioned::resolver::DefaultResolver;
use ::ureq::unversioned::transport::DefaultConnector;
use ::ureq::{Agent, Body, Error, http, tls};
use landfall_core::adapter::BoxFuture;
use landfall_core::failure::Delivery;
use std::fmt;
use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How long name resolution, connecting and the TLS handshake may take together, when the whole exchange may take
/// longer: 10 s. A phone that has a network at all connects well within it, and the rest of the time is worth more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection is kept for the next exchange. 30 s: shorter than the patience of common servers (nginx
/// 75 s, many load balancers 60 s), so that hardly any request meets a connection that is just being closed.
const IDLE_AGE: Duration = Duration::from_secs(30);
/// Connections kept per host: as many as an engine has calls under way, and one for pulling.
const IDLE_CONNECTIONS: usize = 3;
/// First allocation for a body; more only as bytes really come.
const BODY_CAPACITY: usize = 16 << 10;

/// Sends requests with `ureq`: HTTP/1.1, rustls with ring and the roots of Mozilla, gzip, connection reuse.
///
/// Cloning shares the connections. A dropped future leaves its thread to finish alone within the request's timeout;
/// its answer is thrown away.
#[derive(Clone)]
pub struct UreqTransport {
    agent: Agent,
}

impl fmt::Debug for UreqTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UreqTransport(..)")
    }
}

impl UreqTransport {
    /// With default settings.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// With settings of your own.
    pub fn builder() -> UreqTransportBuilder {
        UreqTransportBuilder::default()
    }

    /// The same as [`HttpTransport::send`] on the calling thread.
    ///
    /// # Errors
    /// [`TransportError`] when there is no whole answer.
    pub fn send_blocking(&self, request: &HttpRequest) -> Result<HttpResponse, TransportError> {
        wire::begin(request.permit.clone());
        self.exchange(request).map_err(|error| match error {
            _ if wire::was_withdrawn() => TransportError::new(
                TransportErrorKind::Withdrawn,
                Delivery::NotSent,
                "the permit to send was withdrawn before anything was sent",
            ),
            Trouble::Ureq(error) => sort(error),
            Trouble::Ours(kind, message) => TransportError::new(kind, wire::delivery(), message),
        })
    }

    fn exchange(&self, request: &HttpRequest) -> Result<HttpResponse, Trouble> {
        // Here, so that nobody is called in vain; what counts is the look before the first byte, on the wire.
        if wire::may_not_leave() {
            return Err(Trouble::Ours(TransportErrorKind::Withdrawn, "the permit to send was withdrawn"));
        }
        let mut builder = http::Request::builder().method(request.method.as_str()).uri(&request.url);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let invalid =
            |_| Trouble::Ours(TransportErrorKind::InvalidRequest, "the URL or a header is not valid");
        let response = if request.body.is_empty() && request.method == super::Method::Get {
            self.run(builder.body(()).map_err(invalid)?, request.timeout)?
        } else {
            self.run(builder.body(request.body.as_slice()).map_err(invalid)?, request.timeout)?
        };
        let (parts, body) = response.into_parts();
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| {
                (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect();
        let declared = body.content_length();
        let body = read_body(body, declared, request.max_response_bytes)?;
        let framing = wire::framing().unwrap_or(Framing::UntilClose);
        Ok(HttpResponse { status: parts.status.as_u16(), headers, body, framing })
    }

    fn run(
        &self,
        request: http::Request<impl ::ureq::AsSendBody>,
        timeout: Duration,
    ) -> Result<http::Response<Body>, Error> {
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(Some(timeout))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
            .build();
        self.agent.run(request)
    }
}

impl Default for UreqTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpTransport for UreqTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let slot = Arc::new(Slot::default());
        let promise = Promise(Arc::clone(&slot));
        let transport = self.clone();
        let thread = std::thread::Builder::new().name("landfall-http".into());
        let started = thread.spawn(move || {
            let promise = promise;
            promise.0.put(transport.send_blocking(&request));
        });
        if let Err(error) = started {
            let message = "no thread for an HTTP exchange could be started";
            slot.put(Err(TransportError {
                source: Some(error),
                ..TransportError::new(TransportErrorKind::Local, Delivery::NotSent, message)
            }));
        }
        Box::pin(Exchange(slot))
    }
}

type Answer = Result<HttpResponse, TransportError>;

/// Where a thread leaves its answer for a future.
#[derive(Default)]
struct Slot(Mutex<(Option<Answer>, Option<Waker>)>);

impl Slot {
    /// Leaves the answer, unless there is one already.
    fn put(&self, answer: Answer) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.get_or_insert(answer);
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Makes sure that a thread that panics leaves an answer, too.
struct Promise(Arc<Slot>);

impl Drop for Promise {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let message = "the HTTP client panicked";
            self.0.put(Err(TransportError::new(TransportErrorKind::Local, Delivery::Unknown, message)));
        }
    }
}

struct Exchange(Arc<Slot>);

impl Future for Exchange {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = state.0.take() {
            return Poll::Ready(answer);
        }
        state.1 = Some(context.waker().clone());
        Poll::Pending
    }
}

enum Trouble {
    Ureq(Error),
    Ours(TransportErrorKind, &'static str),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Ureq(error)
    }
}

/// Reads a body to its end or to the limit, holding no more than the limit.
fn read_body(body: Body, declared: Option<u64>, most: u64) -> Result<Vec<u8>, Trouble> {
    let too_large = Trouble::Ours(TransportErrorKind::BodyTooLarge, "the answer is larger than the limit");
    if declared.is_some_and(|length| length > most) {
        return Err(too_large);
    }
    let mut bytes = Vec::with_capacity(BODY_CAPACITY.min(usize::try_from(most).unwrap_or(BODY_CAPACITY)));
    // One byte more than allowed tells a body of exactly the limit from a longer one.
    let mut reader = body.into_with_config().limit(u64::MAX).reader().take(most.saturating_add(1));
    reader.read_to_end(&mut bytes).map_err(Error::from)?;
    if bytes.len() as u64 > most { Err(too_large) } else { Ok(bytes) }
}

/// Gives ureq's error a kind of ours. Texts of ours only: an URL may hold a record's name, a proxy's may hold more.
fn sort(error: Error) -> TransportError {
    use TransportErrorKind as Kind;
    let (kind, message) = match &error {
        Error::HostNotFound => (Kind::Unreachable, "the host name was not found"),
        Error::ConnectionFailed => (Kind::Unreachable, "no connection could be made"),
        Error::ConnectProxyFailed(_) => (Kind::Unreachable, "the proxy did not connect to the host"),
        Error::Timeout(_) => (Kind::Timeout, "the time for the exchange was up"),
        Error::Tls(_) | Error::Pem(_) | Error::Rustls(_) | Error::TlsRequired => {
            (Kind::Tls, "no secure connection could be made")
        }
        Error::Io(cause) => sort_io(cause),
        Error::Protocol(_) | Error::LargeResponseHeader(..) => {
            (Kind::Malformed, "the answer is not readable as HTTP")
        }
        Error::Decompress(_, cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            (Kind::Reset, "the compressed answer ends too early")
        }
        Error::Decompress(..) => (Kind::Malformed, "the answer's compression is broken"),
        Error::BadUri(_) | Error::Http(_) | Error::InvalidProxyUrl | Error::RequireHttpsOnly(_) => {
            (Kind::InvalidRequest, "the URL, a header or the proxy setting is not valid")
        }
        Error::BodyExceedsLimit(_) => (Kind::BodyTooLarge, "the answer is larger than the limit"),
        _ => (Kind::Reset, "the exchange broke"),
    };
    let source = match error {
        Error::Io(cause) => Some(cause),
        _ => None,
    };
    let delivery = wire::delivery();
    // Before anything was written, a broken connection is one that could not be made.
    let kind = if kind == Kind::Reset && delivery == Delivery::NotSent { Kind::Unreachable } else { kind };
    TransportError { kind, delivery, message: message.into(), source }
}

fn sort_io(cause: &io::Error) -> (TransportErrorKind, &'static str) {
    use TransportErrorKind as Kind;
    if cause.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return (Kind::Tls, "the TLS handshake or a TLS record failed");
    }
    match cause.kind() {
        io::ErrorKind::ConnectionRefused => (Kind::Unreachable, "the connection was refused"),
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::AddrNotAvailable => (Kind::Unreachable, "there is no route to the host"),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => (Kind::Timeout, "the connection timed out"),
        io::ErrorKind::UnexpectedEof => {
            (Kind::Reset, "the connection was closed before the answer was whole")
        }
        _ => (Kind::Reset, "the connection broke"),
    }
}

#[derive(Default)]
enum ProxyChoice {
    #[default]
    Environment,
    None,
    This(::ureq::Proxy),
}

impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address of a proxy may hold a password.
        f.write_str(match self {
            Self::Environment => "Environment",
            Self::None => "None",
            Self::This(_) => "This(..)",
        })
    }
}

/// Settings of [`UreqTransport`].
#[derive(Debug, Default)]
#[must_use]
pub struct UreqTransportBuilder {
    proxy: ProxyChoice,
    idle_timeout: Option<Duration>,
    user_agent: Option<String>,
    roots: Option<Vec<tls::Certificate<'static>>>,
}

impl UreqTransportBuilder {
    /// Ignores the proxy that the environment names (`HTTPS_PROXY` and its kin); by default it is used.
    pub fn without_proxy(mut self) -> Self {
        self.proxy = ProxyChoice::None;
        self
    }

    /// Goes through this proxy (`http://host:port`) instead of the one that the environment names. The proxy is asked
    /// to connect (`CONNECT`), so it sees nothing of an encrypted exchange.
    ///
    /// # Errors
    /// [`TransportErrorKind::InvalidRequest`] when the address is not a proxy's.
    pub fn proxy(mut self, url: &str) -> Result<Self, TransportError> {
        let invalid = |_| {
            let message = "the proxy's address is not valid";
            TransportError::new(TransportErrorKind::InvalidRequest, Delivery::NotSent, message)
        };
        self.proxy = ProxyChoice::This(::ureq::Proxy::new(url).map_err(invalid)?);
        Ok(self)
    }

    /// Gives up when no byte has come for so long, though the exchange's own time is not up. Off by default: a
    /// backend may think for a while, and the exchange as a whole always has an end.
    pub fn idle_timeout(mut self, most: Duration) -> Self {
        self.idle_timeout = Some(most);
        self
    }

    /// Names the program to the backend. Characters that a header cannot hold are left out.
    pub fn user_agent(mut self, name: &str) -> Self {
        self.user_agent = Some(name.chars().filter(|c| matches!(c, ' '..='~')).collect());
        self
    }

    /// Trusts exactly these certificates (PEM, one or more) instead of the public roots, for a backend with an
    /// authority of its own.
    ///
    /// # Errors
    /// [`TransportErrorKind::Tls`] when the text has no readable certificate.
    pub fn trust_only_pem(mut self, pem: &[u8]) -> Result<Self, TransportError> {
        let unreadable = || {
            TransportError::new(
                TransportErrorKind::Tls,
                Delivery::NotSent,
                "no readable certificate in the PEM",
            )
        };
        let mut roots = Vec::new();
        for item in tls::parse_pem(pem) {
            if let tls::PemItem::Certificate(certificate) = item.map_err(|_| unreadable())? {
                roots.push(certificate);
            }
        }
        if roots.is_empty() {
            return Err(unreadable());
        }
        self.roots = Some(roots);
        Ok(self)
    }

    /// The transport.
    pub fn build(self) -> UreqTransport {
        // The provider is named here and never taken from the process: with two of them in one program, asking for
        // the default is a panic.
        let mut tls = tls::TlsConfig::builder()
            .provider(tls::TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if let Some(roots) = &self.roots {
            tls = tls.root_certs(tls::RootCerts::new_with_certs(roots));
        }
        let user_agent =
            self.user_agent.unwrap_or_else(|| concat!("landfall/", env!("CARGO_PKG_VERSION")).into());
        let mut config = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(user_agent)
            .timeout_per_read(self.idle_timeout)
            .timeout_per_write(self.idle_timeout)
            .max_idle_connections(IDLE_CONNECTIONS * 2)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .max_idle_age(IDLE_AGE);
        match self.proxy {
            ProxyChoice::Environment => {}
            ProxyChoice::None => config = config.proxy(None),
            ProxyChoice::This(proxy) => config = config.proxy(Some(proxy)),
        }
        let connector = wire::Watched(DefaultConnector::default());
        UreqTransport { agent: Agent::with_parts(config.build(), connector, DefaultResolver::default()) }
    }
}
