//! The demo's result in words and as JSON.
//!
//! Pure. Tests: below, and `tests/demo.rs` for the keys.

use super::network::describe;
use super::proof::Findings;
use super::stage::Played;
use crate::output::{ERROR, HEAD};
use anstyle::{AnsiColor, Style};
use serde_json::{Map, Value, json};
use std::fmt::Write;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const QUIET: Style = Style::new().dimmed();
/// The rows that tell how much there was, and not how much is wrong.
const FIGURES: [&str; 14] = [
    "reports",
    "changes enqueued",
    "coalesced",
    "requests",
    "faults met",
    "kills",
    "shared reports",
    "fields merged",
    "fields contested",
    "values on record",
    "counters",
    "sets",
    "groups",
    "deleted, edited",
];

/// Everything that is known in the end.
#[derive(Debug)]
pub(super) struct Result {
    /// Reports recorded.
    pub(super) reports: usize,
    /// Devices.
    pub(super) devices: usize,
    /// The seed.
    pub(super) seed: u64,
    /// What happened on the way.
    pub(super) played: Played,
    /// What the proof found.
    pub(super) findings: Findings,
    /// The whole time.
    pub(super) seconds: f64,
}

impl Result {
    fn enqueued(&self) -> u64 {
        self.played.audits.iter().map(|audit| audit.recorded).sum()
    }

    fn coalesced(&self) -> u64 {
        self.played.audits.iter().map(|audit| audit.coalesced).sum()
    }

    fn confirmed(&self) -> u64 {
        self.played.audits.iter().map(|audit| audit.confirmed).sum()
    }

    fn rebased(&self) -> u64 {
        self.played.audits.iter().map(|audit| audit.rebased).sum()
    }

    /// One object.
    pub(super) fn to_json(&self) -> Value {
        let kills = &self.played.kills;
        let mut all: Map<String, Value> = super::proof::to_json(&self.findings);
        let rest = json!({
            "reports": self.reports,
            "devices": self.devices,
            "seed": self.seed,
            "enqueued": self.enqueued(),
            "coalesced": self.coalesced(),
            "rebased": self.rebased(),
            "requests": self.played.requests,
            "faults": self.played.met.total(),
            "faults_by_kind": self.played.met.by_kind,
            "kills": kills.total(),
            "kills_recording": kills.recording,
            "kills_uploading": kills.uploading,
            "kills_server": kills.server,
            "effects": self.confirmed(),
            "seconds": (self.seconds * 10.0).round() / 10.0,
        });
        if let Value::Object(rest) = rest {
            all.extend(rest);
        }
        Value::Object(all)
    }

    /// The table for people.
    pub(super) fn to_table(&self) -> String {
        let (looked, faults, kills) = (&self.findings.looked, &self.findings.faults, &self.played.kills);
        let mut rows: Vec<(&str, u64, String)> = Vec::new();
        let mut row = |name, count, about: &str| rows.push((name, count, about.to_owned()));
        row(
            "reports",
            self.reports as u64,
            &format!("FAA wildlife strike reports, on {} devices", self.devices),
        );
        row("changes enqueued", self.enqueued(), "recorded, amended, withdrawn, filed again");
        row("coalesced", self.coalesced(), "folded into changes that had not been sent yet");
        row("requests", self.played.requests, "through a fault proxy, repetitions included");
        row("faults met", self.played.met.total(), &format!("of {} kinds", self.played.met.by_kind.len()));
        let mut kinds: Vec<_> =
            self.played.met.by_kind.iter().map(|(kind, count)| (describe(kind), *count)).collect();
        kinds.sort();
        for (words, count) in kinds {
            row("", count, &words);
        }
        row(
            "kills",
            kills.total(),
            &format!(
                "SIGKILL: {} while recording, {} while syncing, {} of the server",
                kills.recording, kills.uploading, kills.server
            ),
        );
        row("shared reports", looked.shared, "amended by several devices that did not know of each other");
        row("fields merged", looked.merged, "of which one author changed each: all of them arrived");
        row("fields contested", looked.contested, "which several authors changed, each in his own way");
        row(
            "values on record",
            looked.on_record,
            "which did not become the server's: in the conflict records",
        );
        row("counters", looked.counters, "add up");
        row("sets", looked.sets, "hold what anybody added");
        row("groups", looked.groups, "of an amount and its currency, both of the same author");
        row("deleted, edited", looked.deleted_edited, "by one, by another: live on with the edit, on record");
        row(
            "devices that agree",
            looked.agreeing,
            &format!("of {} with the server, on every record", self.devices),
        );
        let of_fields =
            format!("of {} records with {} fields", thousands(looked.records), thousands(looked.fields));
        row("lost", faults.lost, &of_fields);
        row("applied twice", faults.duplicated, &format!("of {} effects", thousands(self.confirmed())));
        row("wrong fields", faults.wrong_fields, "values that differ, fields that should not be there");
        row("not on record", faults.unrecorded, "values that lost, deletions against edits");
        for (name, count) in [
            ("records too many", faults.extra),
            ("refused", faults.refused),
            ("keys reused", faults.key_reused),
            ("left in queues", faults.left),
            ("wrong counts", faults.wrong_counts),
            ("wrong sets", faults.wrong_sets),
            ("torn groups", faults.torn),
            ("needless conflicts", faults.needless),
            ("undecided", faults.undecided),
            ("disagreements", faults.disagreements),
        ] {
            if count > 0 {
                row(name, count, "");
            }
        }
        let mut text = String::new();
        for (name, count, about) in rows {
            let style = match (name, count) {
                ("", _) => QUIET,
                ("lost" | "applied twice" | "wrong fields" | "not on record", 0) => GOOD,
                _ if name == "devices that agree" && count == self.devices as u64 => GOOD,
                _ if FIGURES.contains(&name) => HEAD,
                _ => ERROR,
            };
            let count = thousands(count);
            let _ = writeln!(text, "  {name:<18}{style}{count:>8}{style:#}   {QUIET}{about}{QUIET:#}");
        }
        let _ = writeln!(text, "  {:<18}{HEAD}{:>8.1}{HEAD:#}", "seconds", self.seconds);
        text.push('\n');
        if self.findings.is_clean() {
            let _ = writeln!(
                text,
                "  {GOOD}Proven.{GOOD:#} The server's database, read with plain SQL, holds what the reports and their\n  \
                 amendments say: everything once, nothing else. All devices show the same, and what\n  \
                 lost against another author is on record."
            );
        } else {
            let _ = writeln!(text, "  {ERROR}Not as it should be:{ERROR:#}");
            for example in &self.findings.examples {
                let _ = writeln!(text, "    {example}");
            }
            let _ = writeln!(text, "  Play it again with --seed {}.", self.seed);
        }
        text
    }
}

/// A number as people read it.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")]
        {
            assert_eq!(thousands(number), text);
        }
    }
}
