//! Who is asking: credentials are fetched at the moment of sending and kept nowhere (G17).
//!
//! This module knows neither tokens nor how they are renewed; it refuses headers that would break a request. Error
//! texts are fixed words, so that no credential can slip into one. Tests: below.

use landfall_core::failure::{Delivery, Failure, FailureKind};
use std::fmt;

/// Gives the headers that identify the user, asked once per request.
///
/// A closure will do:
///
/// ```
/// use landfall_adapters::http::auth::{HeadersError, HeadersProvider};
/// let token = || Some(String::from("t0k3n"));
/// let provider = move || match token() {
///     Some(token) => Ok(vec![("authorization".to_string(), format!("Bearer {token}"))]),
///     None => Err(HeadersError::new("signed out")),
/// };
/// assert_eq!(provider.headers().unwrap()[0].1, "Bearer t0k3n");
/// ```
///
/// Called on the thread that polls the adapter: hand out what is at hand, fetch in [`refresh`](Self::refresh).
pub trait HeadersProvider: Send + Sync + 'static {
    /// The headers of the next request.
    ///
    /// # Errors
    /// When there are no credentials now. Nothing is sent, and no attempt is counted.
    fn headers(&self) -> Result<Vec<(String, String)>, HeadersError>;

    /// Fetches fresh credentials after the backend refused the old ones, and tells whether it is worth trying again.
    /// Called by the engine for all waiting calls together, never by an adapter.
    fn refresh(&self) -> bool {
        false
    }
}

impl<F> HeadersProvider for F
where
    F: Fn() -> Result<Vec<(String, String)>, HeadersError> + Send + Sync + 'static,
{
    fn headers(&self) -> Result<Vec<(String, String)>, HeadersError> {
        self()
    }
}

/// No headers at all, for backends that know their callers otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeaders;

impl HeadersProvider for NoHeaders {
    fn headers(&self) -> Result<Vec<(String, String)>, HeadersError> {
        Ok(Vec::new())
    }
}

/// One bearer token that never changes. Its `Debug` form does not show it.
#[derive(Clone)]
pub struct BearerToken(String);

impl BearerToken {
    /// `Authorization: Bearer {token}`.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(..)")
    }
}

impl HeadersProvider for BearerToken {
    fn headers(&self) -> Result<Vec<(String, String)>, HeadersError> {
        Ok(vec![("authorization".into(), format!("Bearer {}", self.0))])
    }
}

/// There are no usable headers. The reason is a fixed text, so that it cannot carry a credential.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct HeadersError {
    reason: &'static str,
}

impl HeadersError {
    /// Says why, in words that may be logged and shown.
    pub const fn new(reason: &'static str) -> Self {
        Self { reason }
    }
}

impl From<HeadersError> for Failure {
    fn from(error: HeadersError) -> Self {
        Self::new(FailureKind::Unauthenticated, Delivery::NotSent, error.reason)
    }
}

/// Headers that decide where a message ends or what it is; they are not a provider's to set.
const RESERVED: [&str; 13] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Asks `provider` and checks what it gives.
///
/// # Errors
/// [`HeadersError`] of the provider, or for a name that is not a token, a reserved name, or a value with a line
/// break or another control character: such a value could smuggle in a second header or request.
pub fn checked_headers(provider: &dyn HeadersProvider) -> Result<Vec<(String, String)>, HeadersError> {
    let headers = provider.headers()?;
    for (name, value) in &headers {
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err(HeadersError::new("a header name from the headers provider is not a token"));
        }
        if RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            return Err(HeadersError::new(
                "the headers provider sets a header that belongs to the transport",
            ));
        }
        if !value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
            return Err(HeadersError::new(
                "a header value from the headers provider has a line break or a character beyond ASCII",
            ));
        }
    }
    Ok(headers)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Takes credentials out of a text that came from outside: a backend may echo what it was sent.
pub(crate) fn redact(text: &str, headers: &[(String, String)]) -> String {
    let mut clean = text.to_owned();
    for (_, value) in headers {
        // The whole value and its words: `Bearer x` is also echoed as `x`. Short words are no secrets.
        for secret in std::iter::once(value.as_str()).chain(value.split([' ', '=', ';', ','])) {
            if secret.len() >= 6 && secret != "Bearer" && clean.contains(secret) {
                clean = clean.replace(secret, "[redacted]");
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<Vec<(String, String)>, HeadersError> {
        let pair = (name.to_string(), value.to_string());
        checked_headers(&move || Ok(vec![pair.clone()]))
    }

    #[test]
    fn headers_that_would_break_a_request_are_refused_without_showing_them() {
        for (name, value) in [
            ("authorization", "Bearer canary\r\nx-admin: 1"),
            ("authorization", "canary\n"),
            ("authorization", "canary\0"),
            ("authorization", "canäry"),
            ("x canary", "1"),
            ("x-canary:", "1"),
            ("", "canary"),
            ("Content-Length", "0"),
            ("Transfer-Encoding", "chunked"),
            ("host", "canary.example"),
        ] {
            let error = one(name, value).unwrap_err();
            for text in [error.to_string(), format!("{error:?}"), Failure::from(error).to_string()] {
                assert!(!text.contains("can"), "{text}");
            }
        }
        assert!(one("authorization", "Bearer a.b-c_d~e+f/g=").is_ok());
        assert!(one("X-Api-Key", "").is_ok());
    }

    #[test]
    fn signed_out_is_not_sent_and_is_about_credentials() {
        let provider = || Err::<Vec<(String, String)>, _>(HeadersError::new("signed out"));
        let failure = Failure::from(checked_headers(&provider).unwrap_err());
        assert_eq!((failure.kind, failure.delivery), (FailureKind::Unauthenticated, Delivery::NotSent));
        assert!(!provider.refresh());
    }

    #[test]
    fn an_echoed_credential_is_taken_out() {
        let headers = BearerToken::new("canary-123").headers().unwrap();
        for echo in ["no user for canary-123", "bad header Bearer canary-123!"] {
            assert!(!redact(echo, &headers).contains("canary"), "{echo}");
        }
        assert_eq!(redact("Bearer tokens expire", &headers), "Bearer tokens expire");
        assert_eq!(format!("{:?}", BearerToken::new("canary")), "BearerToken(..)");
    }
}
