//! Moments as people and programs write them: RFC 3339, such as `2026-12-01T08:00:00Z`, or a span from now.
//!
//! Tests: below.

use crate::duration::{self, words};
use landfall_core::time::Timestamp;
use std::time::Duration;

const DAY_MS: i64 = 86_400_000;

/// A moment, or a span that begins when it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// This moment.
    At(Timestamp),
    /// So long after now.
    In(Duration),
}

impl When {
    /// The moment, seen from `now`.
    pub(crate) fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(moment) => moment,
            Self::In(span) => now.after(span),
        }
    }
}

/// Reads a moment, or a span from now.
pub(crate) fn when(text: &str) -> Result<When, String> {
    if let Ok(span) = duration::parse(text) {
        return Ok(When::In(span));
    }
    parse(text).map(When::At).map_err(|error| format!("{error}, or a span from now, such as 10m"))
}

/// Reads a moment of RFC 3339.
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    read(text).ok_or_else(|| {
        "write a time with its zone, such as 2026-12-01T08:00:00Z or 2026-12-01T09:00:00+01:00".into()
    })
}

fn read(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shape = |at: usize, wanted: &[u8]| bytes.get(at).is_some_and(|byte| wanted.contains(byte));
    if !(shape(4, b"-") && shape(7, b"-") && shape(10, b"Tt ") && shape(13, b":") && shape(16, b":")) {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        if digits.bytes().all(|digit| digit.is_ascii_digit()) { digits.parse().ok() } else { None }
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let in_range = (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        // A leap second counts as the first of the next minute.
        && second <= 60;
    if !in_range {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut ms = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let thousandths = fraction.get(..digits.min(3))?;
        if digits == 0 {
            return None;
        }
        ms = format!("{thousandths:0<3}").parse().ok()?;
        rest = fraction.get(digits..)?;
    }
    let offset_min = match rest.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - 5;
            let (hours, minutes) = (number(at, at + 2)?, number(at + 3, at + 5)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let minutes = hour * 60 + minute - offset_min;
    let moment = days_before(year, month, day) * DAY_MS + minutes * 60_000 + second * 1_000 + ms;
    // A zone or a leap second may lead out of the years that can be written.
    let written = days_before(0, 1, 1) * DAY_MS..days_before(10_000, 1, 1) * DAY_MS;
    written.contains(&moment).then_some(Timestamp(moment))
}

/// Writes a moment for people, to the second.
pub(crate) fn text(moment: Timestamp) -> String {
    let (days, of_day) = (moment.0.div_euclid(DAY_MS), moment.0.rem_euclid(DAY_MS) / 1_000);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// How far a moment is away: `in 5 min`, `3 h ago`.
pub(crate) fn away(moment: Timestamp, now: Timestamp) -> String {
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    if moment > now {
        format!("in {}", words(ms(now.until(moment))))
    } else {
        format!("{} ago", words(ms(moment.until(now))))
    }
}

/// Both: `2026-12-01T08:00:00Z (in 5 min)`.
pub(crate) fn both(moment: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", text(moment), away(moment, now))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, by eras of 400 years that begin in March.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_with_their_zone() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1_000),
            ("2000-02-29T12:00:00z", 951_825_600_000),
            ("2026-11-25T03:10:46.5Z", 1_795_576_246_500),
            ("2026-11-25 04:10:46.500999+01:00", 1_795_576_246_500),
            ("2026-11-24T22:10:46-05:00", 1_795_576_246_000),
        ] {
            assert_eq!(parse(text), Ok(Timestamp(ms)), "{text}");
        }
        for text in [
            "",
            "tomorrow",
            "2026-11-25",
            "2026-11-25T03:10:46",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-25T24:00:00Z",
            "2026-11-25T03:10:46.Z",
            "2026-11-25T03:10:46+1:00",
            "2026-11-25T03:10:46+01:0é",
            "+026-11-25T03:10:46Z",
            "1795576246500",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for day in (-800_000..800_000).step_by(97) {
            let moment = Timestamp(day * DAY_MS + 3_723_000);
            let written = text(moment);
            if written.len() == 20 && !written.starts_with('-') {
                assert_eq!(parse(&written), Ok(moment), "{written}");
            }
        }
    }

    #[test]
    fn a_moment_that_could_not_be_written_again_is_refused() {
        for text in ["9999-12-31T23:59:60Z", "9999-12-31T23:59:59-00:01", "0000-01-01T00:00:00+00:01"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("9999-12-31T23:59:59.999Z").is_ok() && parse("0000-01-01T00:00:00Z").is_ok());
    }

    #[test]
    fn a_span_counts_from_now() {
        let now = Timestamp(1_000);
        assert_eq!(when("10m").map(|when| when.from(now)), Ok(Timestamp(601_000)));
        assert_eq!(when("1970-01-01T00:00:05Z").map(|when| when.from(now)), Ok(Timestamp(5_000)));
        assert!(when("soon").unwrap_err().contains("or a span from now"));
        assert_eq!(away(Timestamp(601_000), now), "in 10 min");
        assert_eq!(away(Timestamp(0), now), "1 s ago");
    }
}
