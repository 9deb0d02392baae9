//! A snapshot as text for Prometheus, and the table of all metrics with their kinds and meanings.
//!
//! The server has a small writer of its own (`crates/server/src/metrics.rs`): the two crates know nothing of each
//! other. Tests: `tests/metrics.rs`, which also holds the table against `docs/metrics.md`.

use super::{ConflictCount, Histogram, MetricsSnapshot, Words};
use landfall_core::task::StateKind;
use std::fmt::Write as _;

/// One metric.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// One line, without a backslash.
    pub(super) help: &'static str,
    samples: fn(&MetricsSnapshot, &mut Samples<'_>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    samples: fn(&MetricsSnapshot, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Counter, help, samples }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    samples: fn(&MetricsSnapshot, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Gauge, help, samples }
}

/// Every metric of the engine, in the order in which they are written.
pub(super) const FAMILIES: [Family; 27] = [
    counter("landfall_tasks_enqueued_total", "Changes that became new tasks.", |it, out| {
        out.plain(it.since_open.enqueued_tasks);
    }),
    counter("landfall_changes_coalesced_total", "Changes folded into tasks never attempted.", |it, out| {
        out.plain(it.since_open.coalesced_changes);
    }),
    counter("landfall_tasks_settled_total", "Tasks that left the queue, by verdict.", |it, out| {
        out.words("verdict", &it.since_open.settled_tasks);
    }),
    counter(
        "landfall_attempts_total",
        "Answered attempts of tasks, by outcome or by the failure of their call.",
        |it, out| {
            out.words("outcome", &it.since_open.attempts);
        },
    ),
    counter(
        "landfall_retries_total",
        "Tasks that will be sent again, by what the attempt met.",
        |it, out| {
            out.words("kind", &it.since_open.retries);
        },
    ),
    counter("landfall_dead_letters_total", "Tasks that became dead letters, by kind.", |it, out| {
        out.words("kind", &it.since_open.dead_letters);
    }),
    counter(
        "landfall_conflicts_total",
        "Conflicts, by the rule in force and whether they wait for a decision.",
        |it, out| {
            for (rule, ConflictCount { settled, waits }) in &it.since_open.conflicts {
                out.sample("", &[("rule", rule), ("waits", "false")], *settled);
                out.sample("", &[("rule", rule), ("waits", "true")], *waits);
            }
        },
    ),
    counter("landfall_conflicts_resolved_total", "Conflicts that had waited and were settled.", |it, out| {
        out.plain(it.since_open.conflicts_resolved);
    }),
    counter("landfall_requests_total", "Calls handed to the adapter, by kind.", |it, out| {
        out.words("kind", &it.since_open.requests);
    }),
    counter("landfall_sent_bytes_total", "Payload bytes handed to the adapter.", |it, out| {
        out.plain(it.since_open.sent_bytes);
    }),
    counter("landfall_pulled_pages_total", "Pages of the change feed taken in.", |it, out| {
        out.plain(it.since_open.pulled_pages);
    }),
    counter("landfall_pulled_changes_total", "Changes that those pages held.", |it, out| {
        out.plain(it.since_open.pulled_changes);
    }),
    counter("landfall_quarantined_records_total", "Remote records that could not be taken in.", |it, out| {
        out.plain(it.since_open.quarantined_records);
    }),
    counter("landfall_feed_restarts_total", "Readings of the change feed from its beginning.", |it, out| {
        out.plain(it.since_open.feed_restarts);
    }),
    counter("landfall_gate_closings_total", "Pauses of all sending, by reason.", |it, out| {
        out.words("kind", &it.since_open.gate_closings);
    }),
    counter("landfall_pull_pauses_total", "Pauses of reading, by reason.", |it, out| {
        out.words("kind", &it.since_open.pull_pauses);
    }),
    counter(
        "landfall_stalls_total",
        "Times that work did not move for too long, by what it waited for.",
        |it, out| {
            out.words("reason", &it.since_open.stalls);
        },
    ),
    counter("landfall_clock_jumps_total", "Jumps of the wall clock, or sleeps of the device.", |it, out| {
        out.plain(it.since_open.clock_jumps);
    }),
    counter("landfall_sessions_total", "Runs of sync.", |it, out| out.plain(it.since_open.sessions)),
    counter("landfall_leases_lost_total", "Times another holder took the queue over.", |it, out| {
        out.plain(it.since_open.leases_lost);
    }),
    counter("landfall_damaged_rows_total", "Stored rows that failed their checksum.", |it, out| {
        out.plain(it.since_open.damaged_rows);
    }),
    Family {
        name: "landfall_acknowledgement_seconds",
        kind: Kind::Histogram,
        help: "From a change to the confirmation of the backend.",
        samples: |it, out| out.histogram(&it.since_open.acknowledgement),
    },
    gauge("landfall_queue_tasks", "Tasks in the open queue, by state.", |it, out| {
        let mut counts = it.now.queue_tasks;
        for state in StateKind::ALL {
            out.sample("", &[("state", state.as_str())], *counts.of_mut(state));
        }
    }),
    gauge(
        "landfall_oldest_unsynced_seconds",
        "Age of the oldest task in the queue, 0 for an empty one.",
        |it, out| {
            out.plain(it.now.oldest_unsynced_seconds.unwrap_or(0.0));
        },
    ),
    gauge(
        "landfall_since_acknowledgement_seconds",
        "Time since the backend last confirmed a task; absent before the first.",
        |it, out| {
            if let Some(seconds) = it.now.since_acknowledgement_seconds {
                out.plain(seconds);
            }
        },
    ),
    gauge("landfall_gate_closed", "1 while all sending is held back.", |it, out| {
        out.plain(u8::from(it.now.gate_closed.is_some()));
    }),
    gauge("landfall_syncing", "1 while a run of sync is under way.", |it, out| {
        out.plain(u8::from(it.now.syncing));
    }),
];

pub(super) fn text(snapshot: &MetricsSnapshot) -> String {
    let mut text = String::with_capacity(8 << 10);
    for family in &FAMILIES {
        let Family { name, kind, help, samples } = family;
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        samples(snapshot, &mut Samples { name, text: &mut text });
    }
    text
}

/// Writes the samples of one metric.
pub(super) struct Samples<'a> {
    name: &'static str,
    text: &'a mut String,
}

impl Samples<'_> {
    fn plain(&mut self, value: impl std::fmt::Display) {
        self.sample("", &[], value);
    }

    fn words(&mut self, label: &str, words: &Words) {
        for (word, count) in words {
            self.sample("", &[(label, word)], count);
        }
    }

    fn histogram(&mut self, histogram: &Histogram) {
        for (bound, count) in histogram.cumulative() {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            self.sample("_bucket", &[("le", &bound)], count);
        }
        self.sample("_sum", &[], histogram.sum_seconds());
        self.sample("_count", &[], histogram.count());
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"");
            self.escaped(value);
            self.text.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// What stands between quotes: three characters would end the line or the value.
    fn escaped(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }
}
