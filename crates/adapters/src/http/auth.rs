//! Who is asking: credentials are fetched at the moment of sending and kept nowhere (G17).
//!
//! This module knows neither tokens nor how they are renewed; it refuses headers that would break a request. Error
//! texts are fixed words, so that no credential can slip into one. Tests: below.

use landfall_core::failure::{Delivery, Failure, FailureKind};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Stands where a credential was.
pub(crate) const REDACTED: &str = "[redacted]";

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

    /// The headers of the next request of this account's queue, and whose they are; `None` for an app without accounts.
    /// What is not said to be somebody's goes with every queue.
    ///
    /// Override it where more than one account can be signed in: an app that changes the account between the engine's
    /// decision to send and this call then sends nothing, rather than one account's changes as another's (G16).
    ///
    /// # Errors
    /// As [`headers`](Self::headers).
    fn credentials(&self, identity: Option<&str>) -> Result<Credentials, HeadersError> {
        let _ = identity;
        self.headers().map(Credentials::new)
    }

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

/// Headers, and whose they are. The `Debug` form does not show the headers.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The account they belong to; `None` when that is not known, or when there are no accounts.
    pub identity: Option<String>,
}

impl Credentials {
    /// Headers of nobody in particular.
    pub fn new(headers: Vec<(String, String)>) -> Self {
        Self { headers, identity: None }
    }

    /// Says whose they are.
    #[must_use]
    pub fn of(mut self, identity: impl Into<String>) -> Self {
        self.identity = Some(identity.into());
        self
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
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

/// A bearer token for each signed-in account; the queue's account decides which one goes out. Clones share the tokens.
///
/// ```
/// use landfall_adapters::http::auth::{AccountTokens, HeadersProvider};
/// let accounts = AccountTokens::new();
/// accounts.set("anna", "t0k3n");
/// assert_eq!(accounts.credentials(Some("anna")).unwrap().headers[0].1, "Bearer t0k3n");
/// assert!(accounts.credentials(Some("bert")).is_err());
/// ```
#[derive(Clone, Default)]
pub struct AccountTokens(Arc<RwLock<HashMap<String, String>>>);

impl AccountTokens {
    /// Nobody is signed in.
    pub fn new() -> Self {
        Self::default()
    }

    /// The account is signed in with this token from now on.
    pub fn set(&self, identity: impl Into<String>, token: impl Into<String>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(identity.into(), token.into());
    }

    /// The account is signed out.
    pub fn forget(&self, identity: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(identity);
    }
}

impl fmt::Debug for AccountTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountTokens(..)")
    }
}

impl HeadersProvider for AccountTokens {
    fn headers(&self) -> Result<Vec<(String, String)>, HeadersError> {
        Err(HeadersError::new("the queue has no account, so there is no token for it"))
    }

    fn credentials(&self, identity: Option<&str>) -> Result<Credentials, HeadersError> {
        let Some(identity) = identity else { return self.headers().map(Credentials::new) };
        let tokens = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.get(identity).ok_or(HeadersError::new("this account is not signed in"))?;
        Ok(Credentials::new(vec![("authorization".into(), format!("Bearer {token}"))]).of(identity))
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

/// Asks `provider` for the headers of this account's queue and checks what it gives.
///
/// # Errors
/// As [`checked_headers`], and for credentials that are somebody else's.
pub fn checked_credentials(
    provider: &dyn HeadersProvider,
    identity: Option<&str>,
) -> Result<Vec<(String, String)>, HeadersError> {
    let credentials = provider.credentials(identity)?;
    if credentials.identity.is_some() && credentials.identity.as_deref() != identity {
        return Err(HeadersError::new("the credentials at hand are another account's than the queue"));
    }
    checked(credentials.headers)
}

/// Asks `provider` and checks what it gives.
///
/// # Errors
/// [`HeadersError`] of the provider, or for a name that is not a token, a reserved name, or a value with a line
/// break or another control character: such a value could smuggle in a second header or request.
pub fn checked_headers(provider: &dyn HeadersProvider) -> Result<Vec<(String, String)>, HeadersError> {
    checked(provider.headers()?)
}

fn checked(headers: Vec<(String, String)>) -> Result<Vec<(String, String)>, HeadersError> {
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
    fn no_debug_form_shows_a_credential() {
        let accounts = AccountTokens::new();
        accounts.set("anna", "canary");
        let credentials = accounts.credentials(Some("anna")).unwrap();
        for text in [format!("{:?}", BearerToken::new("canary")), format!("{accounts:?} {credentials:?}")] {
            assert!(!text.contains("canary"), "{text}");
        }
    }

    #[test]
    fn credentials_go_out_for_their_own_account_only() {
        let tagged = |identity: Option<&str>| {
            let credentials = Credentials::new(vec![("authorization".into(), "Bearer t".into())]);
            match identity {
                Some(identity) => credentials.of(identity),
                None => credentials,
            }
        };
        // Whose they are, whose queue it is, whether they may go.
        let rows = [
            (None, None, true),
            (None, Some("anna"), true),
            (Some("anna"), Some("anna"), true),
            (Some("bert"), Some("anna"), false),
            (Some("anna"), None, false),
            (Some(""), None, false),
            (Some("Anna"), Some("anna"), false),
        ];
        for (theirs, asked, may) in rows {
            let provider = Fixed(tagged(theirs));
            let checked = checked_credentials(&provider, asked);
            assert_eq!(checked.is_ok(), may, "{theirs:?} for {asked:?}");
            if let Err(error) = checked {
                let failure = Failure::from(error);
                assert_eq!(
                    (failure.kind, failure.delivery),
                    (FailureKind::Unauthenticated, Delivery::NotSent)
                );
            }
        }
    }

    struct Fixed(Credentials);

    impl HeadersProvider for Fixed {
        fn headers(&self) -> Result<Vec<(String, String)>, HeadersError> {
            Ok(self.0.headers.clone())
        }

        fn credentials(&self, _: Option<&str>) -> Result<Credentials, HeadersError> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn accounts_have_the_token_that_was_set_last_and_no_other() {
        let accounts = AccountTokens::new();
        let shared = accounts.clone();
        let of =
            |identity: Option<&str>| checked_credentials(&accounts, identity).map(|mut it| it.remove(0).1);
        assert!(of(Some("anna")).is_err());
        shared.set("anna", "1");
        shared.set("bert", "2");
        shared.set("anna", "3");
        assert_eq!(of(Some("anna")).as_deref(), Ok("Bearer 3"));
        assert_eq!(of(Some("bert")).as_deref(), Ok("Bearer 2"));
        shared.forget("anna");
        assert!(of(Some("anna")).is_err() && of(None).is_err() && accounts.headers().is_err());
    }
}
