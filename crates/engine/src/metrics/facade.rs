//! The same numbers through the `metrics` crate, so that the app's own exporter gets them (feature `metrics`).
//!
//! Counters and the histogram as they happen; gauges at the end of each run of `sync` and whenever
//! [`Engine::metrics`](crate::Engine::metrics) is asked, because only then is the store read. Without a recorder of the
//! app's each of these calls is a look at one pointer. Tests: `tests/metrics_facade.rs`.

use super::exposition::{FAMILIES, Kind};
use super::{Gauges, acknowledges, by_outcome};
use landfall_core::event::Event;
use landfall_core::store::Counts;
use landfall_core::task::{StateKind, Verdict};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Says what each metric means, to the recorder that is there when an engine is opened.
pub(super) fn describe() {
    for family in &FAMILIES {
        let unit = if family.name.ends_with("_seconds") {
            Unit::Seconds
        } else if family.name.contains("_bytes") {
            Unit::Bytes
        } else {
            Unit::Count
        };
        match family.kind {
            Kind::Counter => describe_counter!(family.name, unit, family.help),
            Kind::Gauge => describe_gauge!(family.name, unit, family.help),
            Kind::Histogram => describe_histogram!(family.name, unit, family.help),
        }
    }
}

pub(super) fn request(kind: &'static str) {
    counter!("landfall_requests_total", "kind" => kind).increment(1);
}

pub(super) fn tell(event: &Event) {
    match event {
        Event::Enqueued { .. } => counter!("landfall_tasks_enqueued_total").increment(1),
        Event::Coalesced { .. } => counter!("landfall_changes_coalesced_total").increment(1),
        Event::Imported { tasks, coalesced, annihilated, .. } => {
            counter!("landfall_tasks_enqueued_total").increment(*tasks);
            counter!("landfall_changes_coalesced_total").increment(*coalesced);
            settled(Verdict::Annihilated, *annihilated);
        }
        Event::SendStarted { bytes, .. } => {
            request("push");
            counter!("landfall_sent_bytes_total").increment(*bytes as u64);
        }
        Event::SendFinished { tasks, outcomes, .. } => match outcomes {
            Ok(outcomes) => by_outcome(outcomes).into_iter().for_each(|(word, n)| attempts(word, n)),
            Err(kind) => attempts(kind.as_str(), *tasks as u64),
        },
        Event::Settled { verdict, age, .. } => {
            settled(*verdict, 1);
            if acknowledges(event) {
                histogram!("landfall_acknowledgement_seconds").record(age.as_secs_f64());
            }
        }
        Event::RetryScheduled { kind, .. } => {
            counter!("landfall_retries_total", "kind" => kind.as_str()).increment(1);
        }
        Event::Died { why, .. } => {
            counter!("landfall_dead_letters_total", "kind" => why.as_str()).increment(1);
        }
        Event::Conflicted { again: false, waits, rule, .. } => {
            let waits = if *waits { "true" } else { "false" };
            counter!("landfall_conflicts_total", "rule" => rule.clone(), "waits" => waits).increment(1);
        }
        Event::Resolved { .. } => counter!("landfall_conflicts_resolved_total").increment(1),
        Event::Pulled { changes, .. } => {
            counter!("landfall_pulled_pages_total").increment(1);
            counter!("landfall_pulled_changes_total").increment(*changes);
        }
        Event::Quarantined { .. } => counter!("landfall_quarantined_records_total").increment(1),
        Event::Reconciling => counter!("landfall_feed_restarts_total").increment(1),
        Event::GateClosed { why, .. } => {
            counter!("landfall_gate_closings_total", "kind" => why.as_str()).increment(1);
            gauge!("landfall_gate_closed").set(1.0);
        }
        Event::Stalled { waits_for, .. } => {
            counter!("landfall_stalls_total", "reason" => super::nearest(waits_for)).increment(1);
        }
        Event::ClockJumped { .. } => counter!("landfall_clock_jumps_total").increment(1),
        Event::GateOpened => gauge!("landfall_gate_closed").set(0.0),
        Event::PullPaused { why, .. } => {
            counter!("landfall_pull_pauses_total", "kind" => why.as_str()).increment(1);
        }
        Event::SessionStarted => {
            counter!("landfall_sessions_total").increment(1);
            gauge!("landfall_syncing").set(1.0);
        }
        Event::SessionFinished(report) => {
            gauge!("landfall_syncing").set(0.0);
            queue(report.left);
        }
        Event::LeaseLost => counter!("landfall_leases_lost_total").increment(1),
        Event::Damaged { .. } => counter!("landfall_damaged_rows_total").increment(1),
        _ => {}
    }
}

pub(super) fn gauges(now: &Gauges) {
    queue(now.queue_tasks);
    gauge!("landfall_oldest_unsynced_seconds").set(now.oldest_unsynced_seconds.unwrap_or(0.0));
    if let Some(seconds) = now.since_acknowledgement_seconds {
        gauge!("landfall_since_acknowledgement_seconds").set(seconds);
    }
    gauge!("landfall_syncing").set(f64::from(u8::from(now.syncing)));
    gauge!("landfall_gate_closed").set(f64::from(u8::from(now.gate_closed.is_some())));
}

fn queue(mut counts: Counts) {
    for state in StateKind::ALL {
        gauge!("landfall_queue_tasks", "state" => state.as_str()).set(*counts.of_mut(state) as f64);
    }
}

fn settled(verdict: Verdict, tasks: u64) {
    if tasks > 0 {
        counter!("landfall_tasks_settled_total", "verdict" => verdict.as_str()).increment(tasks);
    }
}

fn attempts(outcome: &'static str, tasks: u64) {
    if tasks > 0 {
        counter!("landfall_attempts_total", "outcome" => outcome).increment(tasks);
    }
}
