//! The list of lines that `--skip-bad` passed over: counted all, remembered up to a bound.
//!
//! Tests: `tests/rubbish_input.rs`.

use serde::Serialize;

/// Lines whose reasons are remembered. Ten thousand: enough to mend any file by hand, a few megabytes at most.
const REMEMBERED: usize = 10_000;
/// Lines named on a terminal.
const NAMED: usize = 20;

/// One line that was passed over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct SkippedLine {
    /// Its number, from 1.
    pub(crate) line: u64,
    /// What is wrong with it.
    pub(crate) error: String,
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Skipped {
    /// How many.
    pub(crate) count: u64,
    /// The first of them.
    pub(crate) lines: Vec<SkippedLine>,
}

impl Skipped {
    /// Adds one.
    pub(crate) fn add(&mut self, line: u64, error: String) {
        self.count += 1;
        if self.lines.len() < REMEMBERED {
            self.lines.push(SkippedLine { line, error });
        }
    }

    /// What to tell people.
    pub(crate) fn notes(&self) -> Vec<String> {
        if self.count == 0 {
            return Vec::new();
        }
        let mut notes: Vec<_> = self
            .lines
            .iter()
            .take(NAMED)
            .map(|bad| format!("skipped line {}: {}", bad.line, bad.error))
            .collect();
        let shown = notes.len() as u64;
        if self.count > shown {
            notes.push(format!("skipped {} more lines; `--json` lists them", self.count - shown));
        }
        notes
    }
}
