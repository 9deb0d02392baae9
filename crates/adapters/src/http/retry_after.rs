//! `Retry-After`: how long the backend asks us to wait, in seconds or as a date.
//!
//! Pure: a date is read against the `Date` of the same answer, never against our own clock, which may be years off.
//! How much of the wait is believed is the core's business. Tests: below.

use super::HttpResponse;
use std::time::Duration;

/// The longest wait that is passed on: 7 days. Anything above is a mistake or an attack, and this much is already
/// cut down by the core (`RetryConfig::retry_after_cap`).
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long the answer asks to wait; the longest of several. `None` when it does not say, or says nothing readable.
///
/// | value | wait |
/// |---|---|
/// | `120` | 2 minutes |
/// | `99999999999999999999999` | [`RETRY_AFTER_MAX`] |
/// | a date, with a `Date` header beside it | the time between the two, at most [`RETRY_AFTER_MAX`] |
/// | a date not after `Date` | zero |
/// | a date without `Date` | none: it would have to be read against our own clock |
/// | `-1`, `1.5`, `soon`, nothing | none |
pub fn parse_retry_after(response: &HttpResponse) -> Option<Duration> {
    let date = response.header("date").and_then(|text| httpdate::parse_http_date(text.trim()).ok());
    response
        .headers_named("retry-after")
        .filter_map(|text| {
            let text = text.trim();
            if !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()) {
                return Some(text.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs));
            }
            let until = httpdate::parse_http_date(text).ok()?;
            Some(until.duration_since(date?).unwrap_or(Duration::ZERO))
        })
        .max()
        .map(|wait| wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn wait(date: Option<&str>, values: &[&str]) -> Option<u64> {
        let mut response = HttpResponse::new(503, "text/plain", "");
        response.headers.extend(date.map(|date| ("Date".into(), date.into())));
        response.headers.extend(values.iter().map(|value| ("retry-AFTER".into(), (*value).into())));
        parse_retry_after(&response).map(|wait| wait.as_secs())
    }

    #[test]
    fn every_form_of_retry_after() {
        let most = RETRY_AFTER_MAX.as_secs();
        let cases: &[(Option<&str>, &[&str], Option<u64>)] = &[
            (None, &[], None),
            (None, &["0"], Some(0)),
            (None, &["120"], Some(120)),
            (None, &["  7 "], Some(7)),
            (None, &["604801"], Some(most)),
            (None, &["1000000000000"], Some(most)),
            (None, &["99999999999999999999999999999999"], Some(most)),
            (None, &["-1"], None),
            (None, &["+1"], None),
            (None, &["1.5"], None),
            (None, &["1e3"], None),
            (None, &["٣"], None),
            (None, &[""], None),
            (None, &["soon"], None),
            (Some(NOW), &["Sun, 06 Nov 1994 08:50:37 GMT"], Some(60)),
            (Some(NOW), &["Sunday, 06-Nov-94 08:50:37 GMT"], Some(60)),
            (Some(NOW), &["Sun Nov  6 08:50:37 1994"], Some(60)),
            (Some(NOW), &["Sun, 06 Nov 1994 08:49:37 GMT"], Some(0)),
            (Some(NOW), &["Sun, 06 Nov 1994 08:00:00 GMT"], Some(0)),
            (Some(NOW), &["Fri, 31 Dec 9999 23:59:59 GMT"], Some(most)),
            (Some(NOW), &["Sun, 99 Nov 1994 08:50:37 GMT"], None),
            (None, &["Sun, 06 Nov 1994 08:50:37 GMT"], None),
            (Some("yesterday"), &["Sun, 06 Nov 1994 08:50:37 GMT"], None),
            (None, &["rubbish", "3", "5", "4"], Some(5)),
            // The server's clock may show any year, in any of the three forms, and not the same form twice.
            (Some("Sunday, 06-Nov-94 08:49:37 GMT"), &["Sun Nov  6 08:50:37 1994"], Some(60)),
            (Some("Sun Nov  6 08:49:37 1994"), &["Sunday, 06-Nov-94 08:50:37 GMT"], Some(60)),
            (Some("Fri, 01 Jan 2100 00:00:00 GMT"), &["Fri, 01 Jan 2100 00:02:00 GMT"], Some(120)),
            (Some("Thu, 01 Jan 1970 00:00:00 GMT"), &["Thu, 01 Jan 1970 00:00:30 GMT"], Some(30)),
            (Some("Thu, 31 Dec 2026 23:59:50 GMT"), &["Fri, 01 Jan 2027 00:00:20 GMT"], Some(30)),
            (Some("  Sun, 06 Nov 1994 08:49:37 GMT "), &[" Sun, 06 Nov 1994 08:50:37 GMT  "], Some(60)),
            // Two wishes, in two forms: the longer one.
            (Some(NOW), &["30", "Sun, 06 Nov 1994 08:50:37 GMT"], Some(60)),
            (Some(NOW), &["90", "Sun, 06 Nov 1994 08:50:37 GMT"], Some(90)),
            (None, &["30", "Sun, 06 Nov 1994 08:50:37 GMT"], Some(30)),
            // Times that no calendar has, and zones that HTTP does not.
            (Some(NOW), &["Sun, 06 Nov 1994 25:00:00 GMT"], None),
            (Some(NOW), &["Sun, 31 Feb 1994 08:50:37 GMT"], None),
            (Some(NOW), &["Sun, 06 Nov 1994 08:50:37 +0100"], None),
            (Some(NOW), &["Sun, 06 Nov 1994 08:50:37"], None),
            (Some(NOW), &["1994-11-06T08:50:37Z"], None),
            (None, &["007"], Some(7)),
            (None, &["60, 120"], None),
            (None, &["60s"], None),
            (None, &["0x3c"], None),
            (None, &["-0"], None),
            (None, &["18446744073709551616"], Some(most)),
        ];
        for (date, values, expected) in cases {
            assert_eq!(wait(*date, values), *expected, "{values:?} at {date:?}");
        }
    }

    #[test]
    fn no_text_panics_or_exceeds_the_bound() {
        let alphabet = b"0123456789-+.:, GMTSunovdecFri\x00\xff";
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let length = next() % 34;
            let bytes: Vec<u8> = (0..length)
                .map(|_| alphabet[usize::try_from(next() % 33).unwrap() % alphabet.len()])
                .collect();
            let text = String::from_utf8_lossy(&bytes);
            assert!(wait(Some(NOW), &[&text]) <= Some(RETRY_AFTER_MAX.as_secs()), "{text}");
        }
    }
}
