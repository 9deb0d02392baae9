//! What the engine counts, and how much waits: for dashboards, alarms and the apps' own exporters.
//!
//! Counters are fed from events at the place where events are published, and from nothing else; what a store knows is
//! read from it when somebody asks. No label and no field holds a record's name, a value or a credential (G17).
//! Every metric in words: `docs/metrics.md`. Tests: `tests/metrics.rs`, `tests/metrics_facade.rs`,
//! `metrics/histogram.rs`; what events tell is tested in `crates/testkit/tests/told.rs`.

mod exposition;
#[cfg(feature = "metrics")]
mod facade;
mod histogram;

pub use histogram::Histogram;

use crate::engine::Engine;
use crate::error::Error;
use landfall_core::event::{Event, Outcomes};
use landfall_core::explain::Wait;
use landfall_core::store::Counts;
use landfall_core::task::Verdict;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Rules of conflicts that are counted by name; those of an app that makes up more go together as `other`.
const RULES_MAX: usize = 64;

/// How often each word was met: verdicts, kinds of failure and the like, by the word that events and the store use.
pub type Words = BTreeMap<&'static str, u64>;

/// What an engine has counted, and how much waits in the queue that is open.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MetricsSnapshot {
    /// Counted since this engine was opened; only ever grows. Another process on the same store counts for itself.
    pub since_open: Counters,
    /// As it is at this moment.
    pub now: Gauges,
}

/// What was counted since an engine was opened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Changes that became new tasks.
    pub enqueued_tasks: u64,
    /// Changes that were folded into tasks never attempted.
    pub coalesced_changes: u64,
    /// Tasks that left the queue, by verdict; `annihilated` is a create and its delete, neither ever sent.
    pub settled_tasks: Words,
    /// Attempts of tasks that were answered, by what was said: `applied`, `duplicate`, `conflict`, `rejected`,
    /// `postponed`, `unanswered`; or by the kind of failure of their whole call.
    pub attempts: Words,
    /// Tasks that will be sent again, by what the attempt before met.
    pub retries: Words,
    /// Tasks that became dead letters, by kind of failure.
    pub dead_letters: Words,
    /// Conflicts, by the strategy or policy in force.
    pub conflicts: BTreeMap<String, ConflictCount>,
    /// Conflicts that had waited and were settled by a person or the app.
    pub conflicts_resolved: u64,
    /// Calls handed to the adapter: `push`, `pull`, `fetch`.
    pub requests: Words,
    /// Payload bytes handed to the adapter, those of repeated attempts among them.
    pub sent_bytes: u64,
    /// Pages of the change feed taken in.
    pub pulled_pages: u64,
    /// Changes that those pages held.
    pub pulled_changes: u64,
    /// Remote records that could not be taken in.
    pub quarantined_records: u64,
    /// How often the change feed had to be read from its beginning.
    pub feed_restarts: u64,
    /// How often sending paused for all tasks, by reason.
    pub gate_closings: Words,
    /// How often reading paused, by reason.
    pub pull_pauses: Words,
    /// How often work that could be sent did not move for too long, by what its oldest task waited for.
    pub stalls: Words,
    /// How often the wall clock jumped, or the device slept.
    pub clock_jumps: u64,
    /// Runs of `sync`.
    pub sessions: u64,
    /// How often another holder took the queue over.
    pub leases_lost: u64,
    /// Stored rows that failed their checksum.
    pub damaged_rows: u64,
    /// From the moment the app made the oldest part of a task to the backend's confirmation.
    pub acknowledgement: Histogram,
}

/// Conflicts of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ConflictCount {
    /// Settled by the rule at once.
    pub settled: u64,
    /// Left to a person or the app.
    pub waits: u64,
}

/// How things stand at the moment of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Gauges {
    /// Tasks in the queue, by state; `dead` are the dead letters, `conflict` the conflicts that wait for a decision.
    pub queue_tasks: Counts,
    /// How long ago the oldest task in the queue was made, by the wall clock; `None` when the queue is empty.
    pub oldest_unsynced_seconds: Option<f64>,
    /// How long ago the backend confirmed a task to this engine; `None` when it has confirmed none yet. Growing while
    /// tasks are pending, it says that nothing gets through.
    pub since_acknowledgement_seconds: Option<f64>,
    /// Whether a run of `sync` is under way.
    pub syncing: bool,
    /// The kind of failure that holds back all sending; `None` while nothing does.
    pub gate_closed: Option<&'static str>,
    /// How long the engine has been open.
    pub uptime_seconds: f64,
}

impl MetricsSnapshot {
    /// The Prometheus text exposition format, version 0.0.4. All names begin with `landfall_`.
    pub fn to_prometheus(&self) -> String {
        exposition::text(self)
    }

    /// The content type of [`to_prometheus`](Self::to_prometheus).
    pub const PROMETHEUS_CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";
}

impl Engine {
    /// What was counted since this engine was opened, and how much waits in the open queue. Costs one read of some rows,
    /// whatever the length of the queue.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn metrics(&self) -> Result<MetricsSnapshot, Error> {
        let (queue_tasks, oldest) = self.read(|store| Ok((store.counts()?, store.oldest()?)))?;
        let oldest = oldest.map(|oldest| oldest.until(self.wall_now()).as_secs_f64());
        let (syncing, gate) = {
            let live = self.live_state();
            (live.known.syncing, live.known.gate.as_ref().map(|(kind, _)| kind.as_str()))
        };
        let state = self.counted().lock();
        let snapshot = MetricsSnapshot {
            now: Gauges {
                queue_tasks,
                oldest_unsynced_seconds: oldest,
                since_acknowledgement_seconds: state.acknowledged.map(|at| at.elapsed().as_secs_f64()),
                syncing,
                gate_closed: gate,
                uptime_seconds: state.opened.elapsed().as_secs_f64(),
            },
            since_open: state.counters.clone(),
        };
        drop(state);
        #[cfg(feature = "metrics")]
        facade::gauges(&snapshot.now);
        Ok(snapshot)
    }
}

/// A call that no event tells of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Read {
    Pull,
    Fetch,
    Probe,
}

/// The word for what a task that does not move waits for first.
pub(crate) fn nearest(waits_for: &[Wait]) -> &'static str {
    waits_for.first().map_or("nothing", Wait::reason)
}

/// The engine's counters. One writer, its thread; whoever asks holds the lock for a copy.
#[derive(Debug)]
pub(crate) struct Metrics(Mutex<State>);

#[derive(Debug)]
struct State {
    counters: Counters,
    opened: Instant,
    acknowledged: Option<Instant>,
}

impl Default for Metrics {
    fn default() -> Self {
        #[cfg(feature = "metrics")]
        facade::describe();
        Self(Mutex::new(State { counters: Counters::new(), opened: Instant::now(), acknowledged: None }))
    }
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what an event tells. Allocates only when it meets a word for the first time.
    pub(crate) fn observe(&self, event: &Event) {
        let mut state = self.lock();
        state.counters.count(event);
        if acknowledges(event) {
            state.acknowledged = Some(Instant::now());
        }
        drop(state);
        #[cfg(feature = "metrics")]
        facade::tell(event);
    }

    /// Counts a call that reads.
    pub(crate) fn reads(&self, read: Read) {
        let kind = match read {
            Read::Pull => "pull",
            Read::Fetch => "fetch",
            Read::Probe => "probe",
        };
        add(&mut self.lock().counters.requests, kind, 1);
        #[cfg(feature = "metrics")]
        facade::request(kind);
    }
}

impl Counters {
    /// Words that are known beforehand begin at 0: a series that is not there yet cannot be told from one that is lost.
    fn new() -> Self {
        let zeroes = |words: &[&'static str]| words.iter().map(|word| (*word, 0)).collect::<Words>();
        let verdicts = Verdict::ALL.map(Verdict::as_str);
        Self {
            enqueued_tasks: 0,
            coalesced_changes: 0,
            settled_tasks: zeroes(&verdicts),
            attempts: zeroes(&by_outcome(&Outcomes::default()).map(|(word, _)| word)),
            retries: Words::new(),
            dead_letters: Words::new(),
            conflicts: BTreeMap::new(),
            conflicts_resolved: 0,
            requests: zeroes(&["push", "pull", "fetch"]),
            sent_bytes: 0,
            pulled_pages: 0,
            pulled_changes: 0,
            quarantined_records: 0,
            feed_restarts: 0,
            gate_closings: Words::new(),
            pull_pauses: Words::new(),
            stalls: Words::new(),
            clock_jumps: 0,
            sessions: 0,
            leases_lost: 0,
            damaged_rows: 0,
            acknowledgement: Histogram::default(),
        }
    }

    fn count(&mut self, event: &Event) {
        match event {
            Event::Enqueued { .. } => self.enqueued_tasks += 1,
            Event::Coalesced { .. } => self.coalesced_changes += 1,
            Event::Imported { tasks, coalesced, annihilated, .. } => {
                self.enqueued_tasks += tasks;
                self.coalesced_changes += coalesced;
                add(&mut self.settled_tasks, Verdict::Annihilated.as_str(), *annihilated);
            }
            Event::SendStarted { bytes, .. } => {
                add(&mut self.requests, "push", 1);
                self.sent_bytes += *bytes as u64;
            }
            Event::SendFinished { tasks, outcomes, .. } => match outcomes {
                Ok(outcomes) => {
                    by_outcome(outcomes).into_iter().for_each(|(word, n)| add(&mut self.attempts, word, n));
                }
                Err(kind) => add(&mut self.attempts, kind.as_str(), *tasks as u64),
            },
            Event::Settled { verdict, age, .. } => {
                add(&mut self.settled_tasks, verdict.as_str(), 1);
                if acknowledges(event) {
                    self.acknowledgement.observe(*age);
                }
            }
            Event::RetryScheduled { kind, .. } => add(&mut self.retries, kind.as_str(), 1),
            Event::Died { why, .. } => add(&mut self.dead_letters, why.as_str(), 1),
            Event::Conflicted { again: false, waits, rule, .. } => self.conflicted(rule, *waits),
            Event::Resolved { .. } => self.conflicts_resolved += 1,
            Event::Pulled { changes, .. } => {
                self.pulled_pages += 1;
                self.pulled_changes += changes;
            }
            Event::Quarantined { .. } => self.quarantined_records += 1,
            Event::Reconciling => self.feed_restarts += 1,
            Event::Stalled { waits_for, .. } => add(&mut self.stalls, nearest(waits_for), 1),
            Event::ClockJumped { .. } => self.clock_jumps += 1,
            Event::GateClosed { why, .. } => add(&mut self.gate_closings, why.as_str(), 1),
            Event::PullPaused { why, .. } => add(&mut self.pull_pauses, why.as_str(), 1),
            Event::SessionStarted => self.sessions += 1,
            Event::LeaseLost => self.leases_lost += 1,
            Event::Damaged { .. } => self.damaged_rows += 1,
            _ => {}
        }
    }

    fn conflicted(&mut self, rule: &str, waits: bool) {
        let name = if self.conflicts.contains_key(rule) || self.conflicts.len() < RULES_MAX {
            rule
        } else {
            "other"
        };
        let count = match self.conflicts.get_mut(name) {
            Some(count) => count,
            None => self.conflicts.entry(name.to_owned()).or_default(),
        };
        *if waits { &mut count.waits } else { &mut count.settled } += 1;
    }
}

/// Whether the backend has confirmed a task.
const fn acknowledges(event: &Event) -> bool {
    matches!(event, Event::Settled { verdict: Verdict::Applied | Verdict::Duplicate, .. })
}

/// The words for what was said of the tasks of a call.
const fn by_outcome(outcomes: &Outcomes) -> [(&'static str, u64); 6] {
    [
        ("applied", outcomes.applied),
        ("duplicate", outcomes.duplicates),
        ("conflict", outcomes.conflicts),
        ("rejected", outcomes.rejected),
        ("postponed", outcomes.postponed),
        ("unanswered", outcomes.unanswered),
    ]
}

fn add(words: &mut Words, word: &'static str, more: u64) {
    if more > 0 {
        *words.entry(word).or_default() += more;
    }
}
