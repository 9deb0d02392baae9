//! What an HTTP answer means, as a table.
//!
//! The table is data: read it, print it, put rows of your own before it. It looks at status, content type, problem
//! code and `Retry-After`, and knows neither tasks nor what the core does next. Tests: below, one case per row and
//! a sweep over every status.

use super::retry_after::{RETRY_AFTER_MAX, parse_retry_after};
use super::shown::Secrets;
use super::{Framing, HttpResponse};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_protocol::{Problem, code};
use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest piece of a backend's own words that is kept in a failure.
const DETAIL_CHARS_MAX: usize = 300;

/// One row: answers that match get this kind and delivery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The statuses it is about.
    pub status: RangeInclusive<u16>,
    /// What else must hold.
    pub when: When,
    /// What happened.
    pub kind: FailureKind,
    /// [`Delivery::Answered`] only where the answer itself says that nothing was done.
    pub delivery: Delivery,
    /// Why, for people.
    pub why: &'static str,
}

/// The further condition of a [`Row`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// None.
    Always,
    /// The body is HTML: somebody speaks to a person, so hardly the backend.
    Html,
    /// The content type is neither `application/json` nor `…+json`.
    NotJson,
    /// It is a problem document with this code.
    Code(&'static str),
    /// It says how long to wait.
    RetryAfter,
}

const fn row(
    first: u16,
    last: u16,
    when: When,
    kind: FailureKind,
    delivery: Delivery,
    why: &'static str,
) -> Row {
    Row { status: RangeInclusive::new(first, last), when, kind, delivery, why }
}

/// An ordered table: the first row that matches decides.
///
/// Rows of your own go first:
///
/// ```
/// use landfall_adapters::http::classify::{Row, Table, When};
/// use landfall_core::failure::{Delivery, FailureKind};
/// let table = Table::sync_endpoint().with(Row {
///     status: 418..=418,
///     when: When::Always,
///     kind: FailureKind::Transient,
///     delivery: Delivery::Answered,
///     why: "our gateway's word for a restart",
/// });
/// assert_eq!(table.rows()[0].status, 418..=418);
/// ```
#[derive(Clone, Debug)]
pub struct Table {
    rows: Cow<'static, [Row]>,
}

use Delivery::{Answered, Unknown};
use FailureKind as Kind;

/// The table for whole answers of a sync endpoint. Verdicts on single tasks travel inside a 200; everything here is
/// about the request as a whole, so a mistake of a proxy or of the configuration must never be taken for a refusal
/// of content: only 400, 403, 413 and 422 may make dead letters, and not when they come as a web page.
#[rustfmt::skip]
static SYNC_ENDPOINT: &[Row] = &[
    // Named by the protocol.
    row(400, 499, When::Code(code::SERVER_CHANGED), Kind::ServerChanged, Answered, "another database answers here"),
    row(400, 499, When::Code(code::CLIENT_UNKNOWN), Kind::ClientUnknown, Answered, "the backend forgot this client"),
    row(400, 499, When::Code(code::CLIENT_SUPERSEDED), Kind::ClientSuperseded, Answered, "a newer copy has spoken"),
    row(400, 499, When::Code(code::CURSOR_EXPIRED), Kind::CursorExpired, Answered, "the feed begins anew"),
    row(400, 499, When::Code(code::UNSUPPORTED_PROTOCOL), Kind::Unsupported, Answered, "another protocol version"),
    row(400, 499, When::Code(code::UNSUPPORTED_MEDIA), Kind::Unsupported, Answered, "a content type it cannot read"),
    // Credentials. Basic-auth walls answer 401 in HTML; asking for credentials is right either way.
    row(401, 401, When::Always, Kind::Unauthenticated, Answered, "credentials are missing or no longer good"),
    // Pauses. The content type does not matter: gateways speak HTML here.
    row(408, 408, When::Always, Kind::Transient, Answered, "the request did not arrive in time"),
    row(425, 425, When::Always, Kind::Transient, Answered, "too early"),
    row(429, 429, When::Always, Kind::RateLimited, Answered, "too many requests"),
    row(511, 511, When::Always, Kind::Intercepted, Answered, "the network wants a login: the backend saw nothing"),
    row(503, 503, When::RetryAfter, Kind::RateLimited, Unknown, "not now"),
    row(500, 599, When::Always, Kind::Transient, Unknown, "trouble at the backend, before or after the effect"),
    // A size limit is nearly always a proxy's, and its page is HTML.
    row(413, 413, When::Always, Kind::TooLarge, Answered, "larger than it takes"),
    // From here on nothing that a web page says about 4xx is believed.
    row(407, 407, When::Always, Kind::Intercepted, Answered, "a proxy wants a login"),
    row(400, 499, When::Html, Kind::Intercepted, Unknown, "a web page instead of a problem document"),
    row(403, 403, When::Always, Kind::Forbidden, Answered, "not allowed for these credentials"),
    row(400, 400, When::Always, Kind::Rejected, Answered, "the request was refused"),
    row(422, 422, When::Always, Kind::Rejected, Answered, "the request was refused"),
    row(409, 409, When::Always, Kind::Transient, Unknown, "busy with the same key, perhaps; no code says what it is"),
    row(423, 423, When::Always, Kind::Transient, Answered, "locked"),
    // An address that is not there says nothing of the tasks. Without a problem document it is likely a gateway
    // during a deployment, which passes by itself; with one the backend says so, and somebody must look.
    row(404, 405, When::NotJson, Kind::Intercepted, Unknown, "nothing that speaks the protocol is at this address"),
    row(410, 410, When::NotJson, Kind::Intercepted, Unknown, "nothing that speaks the protocol is at this address"),
    row(400, 499, When::Always, Kind::Unsupported, Answered, "the endpoint is not set up as this client expects"),
    // Not the backend, or not all of its answer.
    row(300, 399, When::Always, Kind::Intercepted, Unknown, "a redirect, which is never followed"),
    row(200, 299, When::NotJson, Kind::Intercepted, Unknown, "not JSON: a portal or proxy answered"),
    row(0, u16::MAX, When::Always, Kind::Protocol, Unknown, "not an answer of this protocol"),
];

impl Table {
    /// The default for the sync endpoint, in words (the first row that matches decides):
    ///
    /// | status | condition | kind | delivery |
    /// |---|---|---|---|
    /// | 4xx | problem code `server_changed`, `client_unknown`, `client_superseded`, `cursor_expired` | the kind of that name | answered |
    /// | 4xx | problem code `unsupported_protocol`, `unsupported_media` | `Unsupported` | answered |
    /// | 401 | | `Unauthenticated` | answered |
    /// | 408, 425 | | `Transient` | answered |
    /// | 429 | | `RateLimited` | answered |
    /// | 511 | | `Intercepted` | answered |
    /// | 503 | readable `Retry-After` | `RateLimited` | unknown |
    /// | other 5xx | | `Transient` | unknown |
    /// | 413 | | `TooLarge` | answered |
    /// | 407 | | `Intercepted` | answered |
    /// | other 4xx | HTML | `Intercepted` | unknown |
    /// | 403 | | `Forbidden` | answered |
    /// | 400, 422 | | `Rejected` | answered |
    /// | 409 | no known code | `Transient` | unknown |
    /// | 423 | | `Transient` | answered |
    /// | 404, 405, 410 | not JSON | `Intercepted` | unknown |
    /// | other 4xx, 404, 405, 410 in JSON | | `Unsupported` | answered |
    /// | 3xx | | `Intercepted` | unknown |
    /// | 2xx | not JSON | `Intercepted` | unknown |
    /// | 200 | JSON, end of body not declared | `Protocol` | unknown |
    /// | anything else but 200 in JSON | | `Protocol` | unknown |
    ///
    /// Why 404 on the endpoint is no rejection: it speaks of the address, so every task would become a dead letter
    /// over a typing mistake or a deployment. `Unsupported` and `Intercepted` stop the sending, not the tasks.
    pub const fn sync_endpoint() -> Self {
        Self { rows: Cow::Borrowed(SYNC_ENDPOINT) }
    }

    /// A table of your own. An answer that no row matches is [`FailureKind::Protocol`] with unknown delivery.
    pub fn new(rows: Vec<Row>) -> Self {
        Self { rows: Cow::Owned(rows) }
    }

    /// Puts a row before all others.
    #[must_use]
    pub fn with(mut self, row: Row) -> Self {
        self.rows.to_mut().insert(0, row);
        self
    }

    /// The rows, in order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Passes a complete `200` with content type `application/json` whose end is known; sorts every other answer.
    ///
    /// Passing is not yet belief: the body still has to be what was asked for (G13).
    ///
    /// # Errors
    /// The failure of the first row that matches.
    pub fn judge(&self, response: &HttpResponse) -> Result<(), Failure> {
        self.judge_sent(response, &Secrets::default())
    }

    /// [`judge`](Self::judge) for the answer to a request that carried `secrets`: the failure does not repeat them.
    pub(crate) fn judge_sent(&self, response: &HttpResponse, secrets: &Secrets) -> Result<(), Failure> {
        let media = response.media_type();
        if response.status == 200 && media == "application/json" {
            return match response.framing {
                Framing::Delimited => Ok(()),
                Framing::UntilClose => Err(Failure::new(
                    FailureKind::Protocol,
                    Delivery::Unknown,
                    "200, but neither Content-Length nor chunks say where the answer ends, so a cut cannot be told",
                )),
            };
        }
        Err(self.failure(response, &media, secrets))
    }

    fn failure(&self, response: &HttpResponse, media: &str, secrets: &Secrets) -> Failure {
        let problem = problem(response, media);
        let asked = problem.as_ref().and_then(|problem| problem.retry_after_ms).map(Duration::from_millis);
        let wait = parse_retry_after(response).max(asked).map(|wait| wait.min(RETRY_AFTER_MAX));
        let found = self.rows.iter().find(|row| {
            row.status.contains(&response.status)
                && match row.when {
                    When::Always => true,
                    When::Html => is_html(media, &response.body),
                    When::NotJson => !is_json(media),
                    When::Code(code) => problem.as_ref().is_some_and(|problem| problem.code == code),
                    When::RetryAfter => wait.is_some(),
                }
        });
        let (kind, delivery, why) = found
            .map_or((FailureKind::Protocol, Delivery::Unknown, "an answer that no rule knows"), |row| {
                (row.kind, row.delivery, row.why)
            });
        let mut message = format!("{} {why}", response.status);
        if let Some(problem) = problem {
            if !problem.code.is_empty() {
                message.push_str(&format!(" ({})", secrets.shown(&problem.code, 60)));
            }
            if let Some(detail) = problem.detail.as_deref().filter(|detail| !detail.is_empty()) {
                message.push_str(&format!(": {}", secrets.shown(detail, DETAIL_CHARS_MAX)));
            }
        }
        // JSON that comes with a success is records, not words about them.
        let tells = response.status >= 300 || !is_json(media);
        let answer = if tells { secrets.answer(&response.body) } else { None };
        Failure::new(kind, delivery, message).retry_after(wait).answered(answer)
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::sync_endpoint()
    }
}

/// The problem document in an answer, if there is one that can be read.
pub fn problem(response: &HttpResponse, media: &str) -> Option<Problem> {
    if response.status < 400 || !is_json(media) {
        return None;
    }
    serde_json::from_slice(&response.body).ok()
}

/// Whether a media type is JSON; any `+json` counts.
fn is_json(media: &str) -> bool {
    media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"))
}

/// Whether the body is a web page: by its type or, where a portal gives none, by its first bytes.
fn is_html(media: &str, body: &[u8]) -> bool {
    if !media.is_empty() {
        return matches!(media, "text/html" | "application/xhtml+xml");
    }
    let start: Vec<u8> = body.iter().copied().skip_while(u8::is_ascii_whitespace).take(14).collect();
    let start = start.to_ascii_lowercase();
    start.starts_with(b"<!doctype html") || start.starts_with(b"<html")
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "application/json";
    const PROBLEM: &str = "application/problem+json";
    const HTML: &str = "text/html; charset=utf-8";

    fn judged(response: &HttpResponse) -> Option<(FailureKind, Delivery, Option<u64>)> {
        let failure = Table::default().judge(response).err()?;
        Some((failure.kind, failure.delivery, failure.retry_after.map(|wait| wait.as_secs())))
    }

    fn coded(status: u16, code: &str) -> HttpResponse {
        HttpResponse::new(status, PROBLEM, serde_json::to_vec(&Problem::new(status, code, "d")).unwrap())
    }

    #[test]
    fn every_row_is_the_verdict_on_some_answer() {
        let plain = |status, media: &str| HttpResponse::new(status, media, "x");
        let later = |status| plain(status, "text/plain").with_header("Retry-After", "9");
        let cases: Vec<(HttpResponse, FailureKind, Delivery, Option<u64>)> = vec![
            (coded(409, code::SERVER_CHANGED), Kind::ServerChanged, Answered, None),
            (coded(409, code::CLIENT_UNKNOWN), Kind::ClientUnknown, Answered, None),
            (coded(409, code::CLIENT_SUPERSEDED), Kind::ClientSuperseded, Answered, None),
            (coded(410, code::CURSOR_EXPIRED), Kind::CursorExpired, Answered, None),
            (coded(400, code::UNSUPPORTED_PROTOCOL), Kind::Unsupported, Answered, None),
            (coded(415, code::UNSUPPORTED_MEDIA), Kind::Unsupported, Answered, None),
            (coded(401, code::UNAUTHORIZED), Kind::Unauthenticated, Answered, None),
            (plain(401, HTML), Kind::Unauthenticated, Answered, None),
            (coded(408, code::TIMEOUT), Kind::Transient, Answered, None),
            (plain(425, ""), Kind::Transient, Answered, None),
            (coded(429, code::RATE_LIMITED), Kind::RateLimited, Answered, None),
            (later(429), Kind::RateLimited, Answered, Some(9)),
            (plain(511, HTML), Kind::Intercepted, Answered, None),
            (later(503), Kind::RateLimited, Unknown, Some(9)),
            (later(502), Kind::Transient, Unknown, Some(9)),
            (plain(503, HTML).with_header("retry-after", "soon"), Kind::Transient, Unknown, None),
            (coded(503, code::UNAVAILABLE), Kind::Transient, Unknown, None),
            (plain(500, HTML), Kind::Transient, Unknown, None),
            (plain(502, HTML), Kind::Transient, Unknown, None),
            (plain(504, ""), Kind::Transient, Unknown, None),
            (plain(599, JSON), Kind::Transient, Unknown, None),
            (plain(413, HTML), Kind::TooLarge, Answered, None),
            (coded(413, code::TOO_LARGE), Kind::TooLarge, Answered, None),
            (plain(407, JSON), Kind::Intercepted, Answered, None),
            (plain(400, HTML), Kind::Intercepted, Unknown, None),
            (plain(403, HTML), Kind::Intercepted, Unknown, None),
            (plain(404, HTML), Kind::Intercepted, Unknown, None),
            (plain(422, HTML), Kind::Intercepted, Unknown, None),
            (plain(403, JSON), Kind::Forbidden, Answered, None),
            (plain(403, ""), Kind::Forbidden, Answered, None),
            (coded(400, code::MALFORMED), Kind::Rejected, Answered, None),
            (plain(400, "text/plain"), Kind::Rejected, Answered, None),
            (plain(422, JSON), Kind::Rejected, Answered, None),
            (plain(409, JSON), Kind::Transient, Unknown, None),
            (coded(409, "in_progress"), Kind::Transient, Unknown, None),
            (plain(423, JSON), Kind::Transient, Answered, None),
            (plain(404, "text/plain"), Kind::Intercepted, Unknown, None),
            (plain(405, ""), Kind::Intercepted, Unknown, None),
            (plain(410, "text/plain"), Kind::Intercepted, Unknown, None),
            (coded(404, code::NOT_FOUND), Kind::Unsupported, Answered, None),
            (coded(405, code::METHOD_NOT_ALLOWED), Kind::Unsupported, Answered, None),
            (coded(410, "gone"), Kind::Unsupported, Answered, None),
            (plain(402, "text/plain"), Kind::Unsupported, Answered, None),
            (plain(426, ""), Kind::Unsupported, Answered, None),
            (plain(302, HTML).with_header("location", "http://portal/"), Kind::Intercepted, Unknown, None),
            (plain(307, JSON), Kind::Intercepted, Unknown, None),
            (plain(200, HTML), Kind::Intercepted, Unknown, None),
            (plain(200, ""), Kind::Intercepted, Unknown, None),
            (plain(204, ""), Kind::Intercepted, Unknown, None),
            (plain(200, PROBLEM), Kind::Protocol, Unknown, None),
            (plain(202, JSON), Kind::Protocol, Unknown, None),
            (plain(101, JSON), Kind::Protocol, Unknown, None),
            (plain(999, JSON), Kind::Protocol, Unknown, None),
        ];
        for (response, kind, delivery, wait) in &cases {
            let expected = Some((*kind, *delivery, *wait));
            assert_eq!(judged(response), expected, "{} {}", response.status, response.media_type());
        }
        let table = Table::default();
        for row in table.rows() {
            let hit = cases.iter().any(|(response, ..)| {
                table.judge(response).err().is_some_and(|failure| failure.message.contains(row.why))
            });
            assert!(hit, "no case reaches the row {row:?}");
        }
    }

    #[test]
    fn only_a_whole_200_in_json_passes() {
        for status in 0..1000 {
            for media in ["", "text/html", "text/plain", JSON, PROBLEM, "application/json; charset=utf-8"] {
                let response = HttpResponse::new(status, media, "{}");
                let passes = Table::default().judge(&response).is_ok();
                assert_eq!(passes, status == 200 && response.media_type() == JSON, "{status} {media}");
            }
        }
        let cut = HttpResponse { framing: Framing::UntilClose, ..HttpResponse::new(200, JSON, "{}") };
        assert_eq!(judged(&cut), Some((Kind::Protocol, Unknown, None)));
    }

    #[test]
    fn a_web_page_never_makes_a_dead_letter() {
        for status in (200..=599).filter(|status| *status != 413) {
            for response in [
                HttpResponse::new(status, "text/html", "<p>"),
                HttpResponse::new(status, "", " \n<!DOCTYPE html><p>"),
            ] {
                let (kind, ..) = judged(&response).unwrap();
                let deadly =
                    matches!(kind, Kind::Rejected | Kind::Forbidden | Kind::Protocol | Kind::TooLarge);
                assert!(!deadly, "{status} {kind:?}");
            }
        }
    }

    #[test]
    fn success_and_5xx_are_never_proof_that_nothing_happened() {
        for status in (200..=299).chain(500..=599).filter(|status| *status != 511) {
            for media in [JSON, PROBLEM, "text/html", "text/plain", ""] {
                if let Some((_, delivery, _)) = judged(&HttpResponse::new(status, media, "x")) {
                    assert_eq!(delivery, Unknown, "{status} {media}");
                }
            }
        }
    }

    #[test]
    fn an_own_row_comes_first() {
        let mine = row(409, 409, When::Always, Kind::Rejected, Answered, "mine");
        let failure = Table::default().with(mine).judge(&coded(409, code::SERVER_CHANGED)).unwrap_err();
        assert_eq!(failure.kind, Kind::Rejected);
        assert!(Table::new(vec![]).judge(&coded(400, "x")).unwrap_err().kind == Kind::Protocol);
    }

    #[test]
    fn a_wait_may_stand_in_the_problem_and_is_bounded() {
        let mut problem = Problem::new(429, code::RATE_LIMITED, "d").retry_after_ms(30_000);
        let answer =
            |problem: &Problem| HttpResponse::new(429, PROBLEM, serde_json::to_vec(problem).unwrap());
        assert_eq!(judged(&answer(&problem).with_header("retry-after", "5")).unwrap().2, Some(30));
        problem.retry_after_ms = Some(u64::MAX);
        assert_eq!(judged(&answer(&problem)).unwrap().2, Some(RETRY_AFTER_MAX.as_secs()));
    }

    #[test]
    fn the_backends_words_are_short_and_on_one_line() {
        let problem = Problem::new(400, "malformed", format!("a\nb\u{1b}[31m{}", "x".repeat(10_000)));
        let response = HttpResponse::new(400, PROBLEM, serde_json::to_vec(&problem).unwrap());
        let message = Table::default().judge(&response).unwrap_err().message;
        assert!(message.len() < 500 && !message.contains(char::is_control), "{message}");
    }
}
