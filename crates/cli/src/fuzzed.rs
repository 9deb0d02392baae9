//! What people and files say to the command line, changed at random: laws of its own readers, as in `landfall_proof::fuzz`,
//! which cannot see them. The corpus is in `fuzz/corpus/cli_*`. For tests only.

use crate::csv_input::{CsvOptions, CsvRows, IdSource};
use crate::jsonl_input::{JsonLines, Lines};
use crate::{budget, duration, moment};
use landfall_core::change::Options;
use landfall_core::config::Limits;
use landfall_core::time::Timestamp;
use landfall_core::value::{Fields, Value};
use landfall_testkit::campaign::Campaign;
use landfall_testkit::mutate::{Fuzzed, Target};
use std::path::Path;
use std::time::Duration;

const TARGETS: &[Target] = &[
    Target { name: "cli_words", run: words, words: WORDS, cost: 1 },
    Target {
        name: "cli_csv",
        run: csv,
        words: &["\"", "\"\"", ",", "\r\n", "\n\n", "-0", "007", "id"],
        cost: 2,
    },
    Target { name: "cli_jsonl", run: jsonl, words: LINES, cost: 2 },
];

const WORDS: &[&str] = &[
    "30s",
    "500ms",
    "2m",
    "1h",
    "2MB",
    "3KiB",
    "500tasks",
    ",",
    "2026-12-01T08:00:00Z",
    "-02-29T",
    "+01:00",
    ".999",
    "z",
    "23:59:60",
    "9999-12-31T23:59:59.999+23:59",
    "0000-01-01T00:00:00Z",
];

const LINES: &[&str] = &[
    "\"operation\":\"update\"",
    "\"unset\":[\"a\"]",
    "\"fields\":{\"a\":1.0}",
    "\"base\":{}",
    "\"base_version\":\"1\"",
    "\"not_before\":\"2026-12-01T08:00:00Z\"",
    "\"expires_at\":\"10m\"",
    "\"tags\":[\"x\"]",
    "\"priority\":-3",
    "\n",
    "\r\n",
    "\u{feff}",
    "\\ud800",
    "18446744073709551616",
];

/// Spans, moments and budgets.
fn words(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(span) = duration::parse(text) {
        assert!(span <= Duration::from_secs(366 * 86_400), "{text}");
        let ms = span.as_millis();
        assert_eq!(duration::parse(&format!("{ms}ms")), Ok(span), "{text}");
        assert!(text.starts_with(|c: char| c.is_ascii_digit()), "{text}");
    }
    if let Ok(read) = moment::parse(text) {
        let shown = moment::text(read);
        let again =
            moment::parse(&shown).unwrap_or_else(|error| panic!("{text} is shown as {shown}: {error}"));
        assert_eq!(moment::text(again), shown, "{text}");
        // What is shown leaves out what is below a second.
        assert!(again.0 <= read.0 && read.0 - again.0 < 1_000, "{text} is shown as {shown}");
    }
    if let Ok(when) = moment::when(text) {
        let now = Timestamp(1_763_870_000_000);
        let _ = moment::both(when.from(now), now);
    }
    if let Ok(budget) = budget::parse(text) {
        let mut parts = Vec::new();
        parts.extend(budget.time.map(|time| format!("{}ms", time.as_millis())));
        parts.extend(budget.bytes.map(|bytes| format!("{bytes}B")));
        parts.extend(budget.tasks.map(|tasks| format!("{tasks}tasks")));
        assert_eq!(budget::parse(&parts.join(",")), Ok(budget), "{text}");
    }
}

/// Every row is a record or an error with its line; no cell is lost, and a number is one only if it is written back so.
fn csv(input: &[u8]) {
    for text_only in [false, true] {
        let options = CsvOptions { id: IdSource::Row, text_only };
        let Ok(rows) = CsvRows::new(input, &options) else { return };
        let columns = rows.columns().to_vec();
        let lines = 1 + input.iter().filter(|byte| **byte == b'\n').count() as u64;
        let mut last = 0;
        let mut number = 0;
        for row in rows {
            number += 1;
            let (line, outcome) = match row {
                Ok(row) => (row.line, Some(row)),
                Err(error) => (error.line(), None),
            };
            assert!(line >= last && line <= lines, "line {line} after {last} of {lines}");
            last = line;
            let Some(row) = outcome else { continue };
            assert_eq!(row.id, format!("row-{number:06}"));
            assert_eq!(row.fields.len(), columns.len());
            for (name, value) in &row.fields {
                assert!(columns.contains(name));
                match value {
                    serde_json::Value::String(_) => {}
                    serde_json::Value::Null => assert!(!text_only),
                    serde_json::Value::Number(number) => {
                        let shown = number.to_string();
                        assert!(!text_only && number.is_i64(), "{shown}");
                        let found = input.windows(shown.len()).any(|part| part == shown.as_bytes())
                            || input.contains(&b'"');
                        assert!(found, "{shown} is not what was written");
                    }
                    other => panic!("a cell became {other}"),
                }
            }
        }
    }
}

/// Every line that is not blank is a change or an error with its number, and one bad line costs only itself.
fn jsonl(input: &[u8]) {
    let now = Timestamp(1_763_870_000_000);
    let results: Vec<_> = JsonLines::new(input, Options::default(), now).collect();
    let lines = Lines::new(input).count();
    assert_eq!(results.len(), lines, "a line without a word");
    let mut last = 0;
    for result in results {
        let number = match &result {
            Ok((line, _)) => *line,
            Err(bad) => {
                assert!(!bad.error.is_empty() && !bad.is_fatal, "{bad:?}");
                bad.line
            }
        };
        assert!(number > last, "line {number} after {last}");
        last = number;
        let Ok((line, change)) = result else { continue };
        let text = input.split(|byte| *byte == b'\n').nth(line as usize - 1).expect("its line");
        let text = std::str::from_utf8(text).expect("read as text").trim_start_matches('\u{feff}');
        let written = Fields::parse(text.trim()).expect("read as an object");
        assert_eq!(written.value("entity_id"), Some(&Value::from(change.entity.entity_id.as_str())));
        if let Some(Value::Object(fields)) = written.value("fields") {
            assert!(fields.is_written_like(&change.intent.fields), "{fields:?} became {change:?}");
        }
        // The queue says what it takes; this must not be a panic.
        let _ = change.check(&Limits::default());
    }
}

fn corpus() -> Vec<Fuzzed> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    TARGETS.iter().map(|target| Fuzzed::load(*target, &corpus)).collect()
}

#[test]
fn the_corpus_and_changed_inputs_keep_the_laws() {
    let corpus = corpus();
    for fuzzed in &corpus {
        fuzzed.replay().unwrap_or_else(|what| panic!("{what}"));
    }
    Campaign::new("fuzz", 90).run(|seed| corpus[seed as usize % corpus.len()].live(seed, 1_000));
}
