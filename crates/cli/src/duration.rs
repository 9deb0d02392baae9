//! Spans of time as people write them: `0`, `30s`, `500ms`, `2m`, `1h`.
//!
//! Tests: below.

use std::time::Duration;

/// Reads a span; a bare number is seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let ms_per_unit = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a whole number and ms, s, m or h, such as 30s".into()),
    };
    let number: u64 =
        number.parse().map_err(|_| "write a whole number and ms, s, m or h, such as 30s".to_owned())?;
    match number.checked_mul(ms_per_unit) {
        // A year: longer ones overflow deadlines somewhere.
        Some(ms) if ms <= 366 * 24 * 3_600_000 => Ok(Duration::from_millis(ms)),
        _ => Err("at most a year".into()),
    }
}

/// Writes a span roughly, for people: `350 ms`, `12 s`, `5 min`, `3 h`, `2 days`.
pub(crate) fn words(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, ms) in
            [("0", 0), ("30s", 30_000), ("7", 7_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "1 s", "3d", "18446744073709551615h", "9000h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_are_written_roughly() {
        for (ms, text) in [(350, "350 ms"), (12_400, "12 s"), (300_000, "5 min"), (10_800_000, "3 h")] {
            assert_eq!(words(ms), text);
        }
    }
}
