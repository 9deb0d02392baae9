//! What one run may use, as people write it: `20s`, `2MB`, `500tasks`, or some of these with commas between them.
//!
//! Tests: below, and `tests/budget.rs` with the real binary.

use crate::duration;
use landfall_core::machine::RunBudget;
use std::time::Duration;

const SHAPE: &str =
    "write a time, a size or a number of tasks, or several with commas, such as 20s,2MB,500tasks";

/// Units of size, longest first. MB is a million, MiB is 1024 times 1024.
const SIZES: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// One part of a budget.
enum Part {
    Time(Duration),
    Bytes(u64),
    Tasks(u64),
}

/// Reads a budget: any of the three parts in any order, each at most once.
pub(crate) fn parse(text: &str) -> Result<RunBudget, String> {
    let mut budget = RunBudget::default();
    for word in text.split(',') {
        let is_new = match part(word.trim())? {
            Part::Time(time) => budget.time.replace(time).is_none(),
            Part::Bytes(bytes) => budget.bytes.replace(bytes).is_none(),
            Part::Tasks(tasks) => budget.tasks.replace(tasks).is_none(),
        };
        if !is_new {
            return Err(format!("{word:?} is said twice; {SHAPE}"));
        }
    }
    Ok(budget)
}

fn part(word: &str) -> Result<Part, String> {
    let end = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let (number, unit) = word.split_at(end);
    let wrong = || format!("{word:?} is no part of a budget; {SHAPE}");
    if number.is_empty() || unit.is_empty() {
        return Err(wrong());
    }
    let size = SIZES.iter().find(|(name, _)| *name == unit);
    let part = match (size, unit) {
        (Some((_, factor)), _) => Part::Bytes(times(word, number, *factor)?),
        (None, "task" | "tasks") => Part::Tasks(times(word, number, 1)?),
        (None, "ms" | "s" | "m" | "min" | "h") => {
            Part::Time(duration::parse(word).map_err(|error| format!("{word:?}: {error}"))?)
        }
        (None, _) => return Err(wrong()),
    };
    match part {
        Part::Time(Duration::ZERO) | Part::Bytes(0) | Part::Tasks(0) => {
            Err(format!("{word:?} leaves nothing to do; {SHAPE}"))
        }
        part => Ok(part),
    }
}

fn times(word: &str, number: &str, factor: u64) -> Result<u64, String> {
    let number: Option<u64> = number.parse().ok();
    number.and_then(|number| number.checked_mul(factor)).ok_or_else(|| format!("{word:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_read_in_any_order_and_with_any_of_its_parts() {
        let of = |time, bytes, tasks| RunBudget { time, bytes, tasks };
        let seconds = |number| Some(Duration::from_secs(number));
        for (text, budget) in [
            ("20s", of(seconds(20), None, None)),
            ("20s,2MB", of(seconds(20), Some(2_000_000), None)),
            ("500tasks, 2MiB ,2m", of(seconds(120), Some(2 << 20), Some(500))),
            ("1task", of(None, None, Some(1))),
            ("100B", of(None, Some(100), None)),
            ("3KB", of(None, Some(3_000), None)),
            ("3kB", of(None, Some(3_000), None)),
            ("3KiB", of(None, Some(3_072), None)),
            ("1GB", of(None, Some(1_000_000_000), None)),
            ("500ms,1GiB", of(Some(Duration::from_millis(500)), Some(1 << 30), None)),
        ] {
            assert_eq!(parse(text), Ok(budget), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_and_shown() {
        for text in [
            "",
            ",",
            "20s,",
            "20",
            "MB",
            "20x",
            "2mb",
            "2M",
            "-1s",
            "1.5MB",
            "20s 2MB",
            "20s;2MB",
            "1s,2s",
            "1KB,1MB",
            "0s",
            "0B",
            "0tasks",
            "5 tasks",
            "soon",
            "99999999999999999999B",
            "18446744073709551615KB",
            "9999999h",
            "٣s",
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.len() > 10, "{text}: {error}");
        }
        assert!(parse("20s,12furlongs").is_err_and(|error| error.contains("\"12furlongs\"")));
    }
}
