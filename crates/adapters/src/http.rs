//! One HTTP exchange, without retries, redirects or opinions.
//!
//! [`HttpTransport`] is what every HTTP adapter stands on; apps may bring their own (OkHttp, URLSession, reqwest).
//! What an answer means is decided in [`classify`], who is asking in [`auth`]. This module does not know what is in
//! a body. Tests: below, and `tests/transport.rs` for the default transport.

pub mod auth;
pub mod classify;
mod retry_after;
pub(crate) mod shown;
pub mod trace;
#[cfg(feature = "ureq")]
mod ureq;
pub mod url;

#[cfg(feature = "ureq")]
pub use self::ureq::{UreqTransport, UreqTransportBuilder};
pub use retry_after::{RETRY_AFTER_MAX, parse_retry_after};

use landfall_core::adapter::{BoxFuture, Permit};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::time::Timestamp;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The largest answer that is read when nobody says otherwise: 32 MiB, some ten thousand records of a feed, and
/// still below what a phone gives an app.
pub const RESPONSE_BYTES_MAX: u64 = 32 << 20;

/// Makes one HTTP exchange.
///
/// An implementation must
/// - send the request at most once, except where it can prove that not one byte of it left;
/// - not begin to write the request once its [`permit`](HttpRequest::permit) is withdrawn: look as late as you can;
/// - never follow a redirect (a body or credentials must not reach another host): 3xx is an answer like any other;
/// - report [`Delivery::NotSent`] only if name resolution, connecting or the TLS handshake failed, before the
///   request was written: work that is reported as not sent may be sent again under another key;
/// - fail when the body ends before its declared length or before the last chunk, and say [`Framing::UntilClose`]
///   when nothing declared where it ends;
/// - stop reading at `max_response_bytes` of the decoded body, without holding more than that in memory;
/// - end within `timeout`.
///
/// Dropping the future abandons the exchange.
pub trait HttpTransport: fmt::Debug + Send + Sync + 'static {
    /// Sends `request` and reads the whole answer.
    ///
    /// # Errors
    /// [`TransportError`] when there is no whole answer. A status of 400 and above is an answer.
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>>;
}

/// The methods that adapters use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Reads.
    Get,
    /// Sends a batch, or creates.
    Post,
    /// Puts a whole record in place.
    Put,
    /// Changes some fields.
    Patch,
    /// Removes.
    Delete,
}

impl Method {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// One request. Its `Debug` form shows neither header values nor the body.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// What to do.
    pub method: Method,
    /// Where: absolute, already percent-encoded; must be sent as it is, without normalising its path.
    pub url: String,
    /// Names and values, in order. `Host`, lengths and framing are the transport's business.
    pub headers: Vec<(String, String)>,
    /// The body; empty for none.
    pub body: Vec<u8>,
    /// How long the whole exchange may take.
    pub timeout: Duration,
    /// How many bytes of decoded body are read before giving up.
    pub max_response_bytes: u64,
    /// Whether it may still leave.
    pub permit: Permit,
}

impl HttpRequest {
    /// A request without headers and body.
    pub fn new(method: Method, url: impl Into<String>, timeout: Duration) -> Self {
        Self {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout,
            max_response_bytes: RESPONSE_BYTES_MAX,
            permit: Permit::default(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body and its content type.
    #[must_use]
    pub fn body(self, content_type: &str, body: Vec<u8>) -> Self {
        let mut request = self.header("content-type", content_type);
        request.body = body;
        request
    }
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method.as_str())
            .field("url", &self.url)
            .field("headers", &Names(&self.headers))
            .field("body_bytes", &self.body.len())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Where the end of a body is known from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// A declared length, chunks with an end mark, or a frame of HTTP/2 and later: a cut is noticed.
    Delimited,
    /// The connection was closed, which is also what a cut looks like.
    UntilClose,
}

/// One answer. Its `Debug` form shows neither header values nor the body.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// Names and values as they came; a name may be there several times.
    pub headers: Vec<(String, String)>,
    /// The whole body, content encoding undone.
    pub body: Vec<u8>,
    /// Whether a cut body would have been noticed.
    pub framing: Framing,
}

impl HttpResponse {
    /// An answer with a delimited body of one content type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("content-type".into(), content_type.into())],
            body: body.into(),
            framing: Framing::Delimited,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The first value of a header; names are compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Every value of a header, in order.
    pub fn headers_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The content type without parameters, in lower case; empty when there is none.
    pub fn media_type(&self) -> String {
        let value = self.header("content-type").unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The `Date` header: the backend's clock when it answered.
    pub fn date(&self) -> Option<Timestamp> {
        let date = httpdate::parse_http_date(self.header("date")?.trim()).ok()?;
        timestamp(date)
    }
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(Timestamp)
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse")
            .field("status", &self.status)
            .field("headers", &Names(&self.headers))
            .field("body_bytes", &self.body.len())
            .field("framing", &self.framing)
            .finish()
    }
}

/// Header names only: any value may be a credential.
struct Names<'a>(&'a [(String, String)]);

impl fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// What went wrong with an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportErrorKind {
    /// No name, no route, connection refused.
    Unreachable,
    /// The time was up.
    Timeout,
    /// The connection broke, or the body ended too early.
    Reset,
    /// The body is larger than `max_response_bytes`.
    BodyTooLarge,
    /// No secure connection: the certificate, its name or the handshake.
    Tls,
    /// The request cannot be made: the URL or a header.
    InvalidRequest,
    /// The answer is not HTTP, or its encoding is broken.
    Malformed,
    /// This machine could not make the call, for example for want of threads.
    Local,
    /// The request's permit was withdrawn before it left.
    Withdrawn,
}

/// There is no whole answer.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TransportError {
    /// What went wrong.
    pub kind: TransportErrorKind,
    /// Whether the backend may have seen the request; never [`Delivery::Answered`].
    pub delivery: Delivery,
    /// For people: no header value and no part of a body.
    pub message: String,
    /// What was underneath.
    #[source]
    pub source: Option<std::io::Error>,
}

impl TransportError {
    /// An error without a cause.
    pub fn new(kind: TransportErrorKind, delivery: Delivery, message: impl Into<String>) -> Self {
        Self { kind, delivery, message: message.into(), source: None }
    }
}

/// Sorts an exchange without an answer:
///
/// | kind | not sent | may have been sent |
/// |---|---|---|
/// | unreachable, reset, timeout | `Unreachable` | `Transient` |
/// | TLS | `Intercepted`: nobody there can prove to be the backend, as behind a captive portal | `Transient` |
/// | body too large | – | `Protocol`: an answer nobody can read |
/// | malformed | `Intercepted` | `Transient`: a broken proxy must not make dead letters |
/// | invalid request | `Unsupported` | `Unsupported` |
/// | local | `Transient` | `Transient` |
/// | withdrawn | `Cancelled` | `Cancelled` |
impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        use TransportErrorKind as Kind;
        let sent = error.delivery != Delivery::NotSent;
        let kind = match error.kind {
            Kind::Unreachable | Kind::Reset | Kind::Timeout if !sent => FailureKind::Unreachable,
            Kind::Tls | Kind::Malformed if !sent => FailureKind::Intercepted,
            Kind::Unreachable | Kind::Reset | Kind::Timeout | Kind::Tls | Kind::Malformed | Kind::Local => {
                FailureKind::Transient
            }
            Kind::BodyTooLarge => FailureKind::Protocol,
            Kind::InvalidRequest => FailureKind::Unsupported,
            Kind::Withdrawn => FailureKind::Cancelled,
        };
        let failure = Self::new(kind, error.delivery, error.message);
        match error.source {
            Some(source) => failure.caused_by(source),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_forms_show_no_credential_and_no_body() {
        let request = HttpRequest::new(Method::Post, "https://a.example/sync", Duration::from_secs(1))
            .header("authorization", "Bearer canary")
            .body("application/json", b"canary".to_vec());
        let response = HttpResponse::new(200, "text/html", "canary").with_header("set-cookie", "canary");
        for text in [format!("{request:?}"), format!("{response:?}")] {
            assert!(!text.contains("canary"), "{text}");
        }
        assert!(format!("{request:?}").contains("authorization"));
    }

    #[test]
    fn media_types_and_headers_are_read_without_case_and_parameters() {
        let response = HttpResponse {
            status: 200,
            headers: vec![
                ("Content-Type".into(), " Application/JSON ; charset=utf-8".into()),
                ("DATE".into(), "Sun, 06 Nov 1994 08:49:37 GMT".into()),
            ],
            body: vec![],
            framing: Framing::Delimited,
        };
        assert_eq!(response.media_type(), "application/json");
        assert_eq!(response.date(), Some(Timestamp(784_111_777_000)));
        assert_eq!(HttpResponse::new(200, "", "").with_header("date", "yesterday").date(), None);
    }

    #[test]
    fn only_what_was_not_sent_is_a_failure_that_was_not_sent() {
        use TransportErrorKind as Kind;
        for kind in [Kind::Unreachable, Kind::Timeout, Kind::Reset, Kind::Tls, Kind::Malformed, Kind::Local] {
            for delivery in [Delivery::NotSent, Delivery::Unknown] {
                let failure = Failure::from(TransportError::new(kind, delivery, "x"));
                assert_eq!(failure.delivery, delivery);
                let gate = matches!(failure.kind, FailureKind::Unreachable | FailureKind::Intercepted);
                assert_eq!(gate, delivery == Delivery::NotSent && kind != Kind::Local, "{kind:?}");
            }
        }
    }
}
