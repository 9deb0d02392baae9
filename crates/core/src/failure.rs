//! What went wrong with a call, in two dimensions: what happened, and whether the backend may have acted on it.
//!
//! An adapter says what it saw; only `machine/push.rs` decides what follows. Tests: the table in `tests/machine.rs`
//! of `landfall-testkit`.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No route, no name, connection refused: the backend cannot be reached.
    Unreachable,
    /// Something in between answered (captive portal, proxy page, foreign redirect).
    Intercepted,
    /// A passing trouble: 5xx, reset, timeout.
    Transient,
    /// Asked to slow down: 429, or 503 with `Retry-After`.
    RateLimited,
    /// Credentials are missing or no longer good: 401.
    Unauthenticated,
    /// Refused for these credentials: 403.
    Forbidden,
    /// Refused for good: most other 4xx.
    Rejected,
    /// The request is larger than the backend takes: 413.
    TooLarge,
    /// The change feed cannot continue from our cursor.
    CursorExpired,
    /// The answer cannot be read as what the protocol promises.
    Protocol,
    /// Another database answers at this address.
    ServerChanged,
    /// The backend has lost its memory of this client.
    ClientUnknown,
    /// A newer copy of this client's store has spoken to the backend.
    ClientSuperseded,
    /// The adapter cannot do what was asked.
    Unsupported,
    /// A stored row fails its checksum and must not be sent.
    Damaged,
    /// Sent to a backend that may act twice, and its fate is unknown.
    FateUnknown,
    /// We stopped it ourselves: shutdown or deadline.
    Cancelled,
    /// A queued change of a type or payload format that this program does not know.
    UnknownKind,
    /// Something the task waits for is dead or was given up.
    Orphaned,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [Self; 19] = [
        Self::Unreachable,
        Self::Intercepted,
        Self::Transient,
        Self::RateLimited,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::Rejected,
        Self::TooLarge,
        Self::CursorExpired,
        Self::Protocol,
        Self::ServerChanged,
        Self::ClientUnknown,
        Self::ClientSuperseded,
        Self::Unsupported,
        Self::Damaged,
        Self::FateUnknown,
        Self::Cancelled,
        Self::UnknownKind,
        Self::Orphaned,
    ];

    /// The word shown and stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Intercepted => "intercepted",
            Self::Transient => "transient",
            Self::RateLimited => "rate_limited",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Rejected => "rejected",
            Self::TooLarge => "too_large",
            Self::CursorExpired => "cursor_expired",
            Self::Protocol => "protocol",
            Self::ServerChanged => "server_changed",
            Self::ClientUnknown => "client_unknown",
            Self::ClientSuperseded => "client_superseded",
            Self::Unsupported => "unsupported",
            Self::Damaged => "damaged",
            Self::FateUnknown => "fate_unknown",
            Self::Cancelled => "cancelled",
            Self::UnknownKind => "unknown_kind",
            Self::Orphaned => "orphaned",
        }
    }
}

/// How far the request got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Not one byte left this machine: proven not executed.
    NotSent,
    /// Bytes left and no believable answer came: the backend may or may not have acted.
    Unknown,
    /// The backend answered.
    Answered,
}

/// One failed call: no task of it has a verdict of its own.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub kind: FailureKind,
    /// How far the request got.
    pub delivery: Delivery,
    /// How long the backend asked us to wait.
    pub retry_after: Option<Duration>,
    /// For people: a reason without field values or credentials.
    pub message: String,
    /// What the backend answered, as far as it can be shown.
    pub answer: Option<String>,
    /// What was underneath.
    pub source: Option<Box<dyn core::error::Error + Send + Sync>>,
}

impl Failure {
    /// A failure without a wait or a cause.
    pub fn new(kind: FailureKind, delivery: Delivery, message: impl Into<String>) -> Self {
        Self { kind, delivery, retry_after: None, message: message.into(), answer: None, source: None }
    }

    /// Adds how long the backend asked us to wait.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// Adds what the backend answered.
    #[must_use]
    pub fn answered(mut self, answer: Option<String>) -> Self {
        self.answer = answer;
        self
    }

    /// Adds what was underneath.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn core::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.message)
    }
}

impl core::error::Error for Failure {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use core::error::Error as _;

    #[test]
    fn a_failure_says_what_it_is_and_what_was_underneath() {
        let failure = Failure::new(FailureKind::Unreachable, Delivery::NotSent, "no route");
        assert_eq!(failure.to_string(), "unreachable: no route");
        assert!(failure.source().is_none() && failure.answer.is_none());
        let failure = failure.answered(Some("go away".into()));
        assert_eq!(failure.answer.as_deref(), Some("go away"));
        let failure = failure.caused_by("the cable is cut");
        assert_eq!(failure.source().unwrap().to_string(), "the cable is cut");
    }
}
