//! Problem documents (RFC 9457): why a whole request was refused, before any of its tasks was looked at.

use alloc::format;
use alloc::string::String;

use serde::{Deserialize, Serialize};

/// Content type of requests and of successful answers.
pub const CONTENT_TYPE_JSON: &str = "application/json";
/// Content type of [`Problem`].
pub const CONTENT_TYPE_PROBLEM: &str = "application/problem+json";

/// A problem document with the extension member `code`.
///
/// Programs look at `code` (one of [`code`]), then at the HTTP status; `title` and `detail` are for people.
///
/// ```
/// use landfall_protocol::{Problem, code};
/// let problem = Problem::new(409, code::SERVER_CHANGED, "another database behind this address");
/// assert_eq!(problem.kind, "urn:landfall:problem:server_changed");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:landfall:problem:` and the code; the member `type`.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: String,
    /// The code in words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status, repeated.
    #[serde(default)]
    pub status: u16,
    /// What happened this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Stable name of the reason; empty when another program (a proxy) wrote the document.
    #[serde(default)]
    pub code: String,
    /// Not before so many milliseconds; the header `Retry-After` says the same in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Problem {
    /// A problem whose type and title follow from its code.
    pub fn new(status: u16, code: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:landfall:problem:{code}"),
            title: code.replace('_', " "),
            status,
            detail: Some(detail.into()),
            code: code.into(),
            retry_after_ms: None,
        }
    }

    /// The same, to be repeated no earlier than this.
    pub fn retry_after_ms(mut self, wait_ms: u64) -> Self {
        self.retry_after_ms = Some(wait_ms);
        self
    }
}

impl core::fmt::Display for Problem {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let code = if self.code.is_empty() { &self.title } else { &self.code };
        write!(f, "{} {code}", self.status)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

impl core::error::Error for Problem {}

fn about_blank() -> String {
    "about:blank".into()
}

/// Values of [`Problem::code`], with the status each one comes with.
pub mod code {
    /// 409: another database answers at this address. Stop, reconcile, keep pending work.
    pub const SERVER_CHANGED: &str = "server_changed";
    /// 409: the server has no memory of this client, so it cannot tell repeats from new tasks. Stop, reconcile.
    pub const CLIENT_UNKNOWN: &str = "client_unknown";
    /// 409: a newer epoch of this client was seen; this store is an old copy.
    pub const CLIENT_SUPERSEDED: &str = "client_superseded";
    /// 410: the feed cannot be continued from this cursor. Read it from the beginning, keep pending work.
    pub const CURSOR_EXPIRED: &str = "cursor_expired";
    /// 401: no valid bearer token.
    pub const UNAUTHORIZED: &str = "unauthorized";
    /// 413: body or batch over the limit. Send less at once.
    pub const TOO_LARGE: &str = "too_large";
    /// 400: the request as a whole cannot be read.
    pub const MALFORMED: &str = "malformed";
    /// 400: a protocol version this server does not speak.
    pub const UNSUPPORTED_PROTOCOL: &str = "unsupported_protocol";
    /// 415: a content type or encoding this server does not read.
    pub const UNSUPPORTED_MEDIA: &str = "unsupported_media";
    /// 429: too many requests; wait for `Retry-After`.
    pub const RATE_LIMITED: &str = "rate_limited";
    /// 404: no such record or address.
    pub const NOT_FOUND: &str = "not_found";
    /// 405: the address exists, the method does not.
    pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    /// 408: the body did not arrive in time.
    pub const TIMEOUT: &str = "timeout";
    /// 503: the server cannot answer now. Whether tasks took effect is unknown; repeat with the same keys.
    pub const UNAVAILABLE: &str = "unavailable";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_problem_document_is_readable() {
        let problem: Problem = serde_json::from_str(r#"{"title":"Bad Gateway","balance":3}"#).unwrap();
        assert_eq!((problem.kind.as_str(), problem.code.as_str()), ("about:blank", ""));
    }
}
