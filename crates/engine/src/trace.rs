//! The engine's spans: one for each run of `sync`, in it one for each call and each commit.
//!
//! | span | level | fields |
//! |---|---|---|
//! | `landfall_sync` | info | what the run did and left, as numbers |
//! | `landfall_push`, `landfall_pull`, `landfall_fetch` | info | number of the call, tasks, payload bytes, kind of failure, duration |
//! | `landfall_commit` | debug | commands in it |
//! | `landfall_turn` | trace | commands taken |
//!
//! Events are written down at level debug. Numbers, kinds and names of tasks and records only: no words of a backend,
//! no payload, no field's value, no credential (G17). An adapter's own spans lie within the call's. Tests: `crates/landfall/tests/traces.rs`.

use landfall_core::adapter::PushBatch;
use landfall_core::event::Event;
use landfall_core::failure::Failure;
use landfall_core::id::CallId;
use std::fmt;
use std::time::Instant;
use tracing::field::Empty;
use tracing::span::EnteredSpan;
use tracing::{Span, debug_span, info_span, trace_span};

/// The span of the running session; none while nothing is synced.
#[derive(Debug)]
pub(crate) struct Trace(Span);

impl Default for Trace {
    fn default() -> Self {
        Self(Span::none())
    }
}

impl Trace {
    /// Writes an event down, and begins and ends the session's span.
    pub(crate) fn heard(&mut self, event: &Event) {
        tracing::debug!(parent: &self.0, event = ?Shown(event));
        match event {
            Event::SessionStarted => {
                self.0 = info_span!(
                    parent: None,
                    "landfall_sync",
                    applied = Empty,
                    duplicates = Empty,
                    conflicts = Empty,
                    dead = Empty,
                    retries = Empty,
                    requests = Empty,
                    bytes = Empty,
                    pulled = Empty,
                    left = Empty,
                );
            }
            Event::SessionFinished(report) => {
                let span = std::mem::replace(&mut self.0, Span::none());
                for (field, number) in [
                    ("applied", report.applied),
                    ("duplicates", report.duplicates),
                    ("conflicts", report.conflicts),
                    ("dead", report.dead),
                    ("retries", report.retries),
                    ("requests", report.requests),
                    ("bytes", report.bytes),
                    ("pulled", report.pulled),
                    ("left", report.left.total()),
                ] {
                    span.record(field, number);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn turn(&self, commands: usize) -> EnteredSpan {
        trace_span!(parent: &self.0, "landfall_turn", commands).entered()
    }

    pub(crate) fn commit(&self, commands: usize) -> EnteredSpan {
        debug_span!(parent: &self.0, "landfall_commit", commands).entered()
    }

    pub(crate) fn push(&self, batch: &PushBatch) -> Span {
        let bytes: usize = batch.tasks.iter().map(|task| task.payload.len()).sum();
        info_span!(
            parent: &self.0,
            "landfall_push",
            call = batch.call.0,
            tasks = batch.tasks.len(),
            bytes,
            failure = Empty,
            duration_ms = Empty,
        )
    }

    pub(crate) fn pull(&self, call: CallId) -> Span {
        info_span!(parent: &self.0, "landfall_pull", call = call.0, failure = Empty, duration_ms = Empty)
    }

    pub(crate) fn probe(&self, call: CallId) -> Span {
        info_span!(parent: &self.0, "landfall_probe", call = call.0, failure = Empty, duration_ms = Empty)
    }

    pub(crate) fn fetch(&self, call: CallId) -> Span {
        info_span!(parent: &self.0, "landfall_fetch", call = call.0, failure = Empty, duration_ms = Empty)
    }
}

/// An event without the words of a backend, which may repeat what was sent to it.
struct Shown<'a>(&'a Event);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Event::GateClosed { why, wait, .. } => write!(f, "GateClosed {{ why: {why:?}, wait: {wait:?} }}"),
            Event::PullPaused { why, wait, .. } => write!(f, "PullPaused {{ why: {why:?}, wait: {wait:?} }}"),
            Event::SessionFinished(report) => {
                let left = report.left.total();
                let (sent, read) = (report.waiting_for.is_some(), report.pull_waiting_for.is_some());
                write!(f, "SessionFinished {{ left: {left}, sending_waits: {sent}, reading_waits: {read} }}")
            }
            other => fmt::Debug::fmt(other, f),
        }
    }
}

/// Does the work of a call within its span, and writes down how it ended.
pub(crate) fn within<T>(span: Span, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let began = Instant::now();
    let answer = span.in_scope(work);
    span.record("duration_ms", began.elapsed().as_secs_f64() * 1e3);
    if let Err(failure) = &answer {
        span.record("failure", failure.kind.as_str());
    }
    answer
}
