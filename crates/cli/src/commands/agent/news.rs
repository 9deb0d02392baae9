//! What of the engine's events is worth a line: runs that did something, what holds everything up, what waits for a
//! person. A reason is told when it is new, and again now and then while it lasts.
//!
//! Ids and reasons only, never values of fields (G17). Tests: below, `tests/agent.rs`.

use crate::duration::words;
use crate::moment;
use crate::output::many;
use crate::reasons::sentence;
use crate::table::visible;
use landfall_core::event::{Event, Report};
use landfall_core::failure::FailureKind;
use landfall_core::id::{ConflictId, EntityKey, TaskId};
use landfall_core::store::Counts;
use landfall_core::time::Timestamp;
use landfall_engine::{Clock, Engine, Notice, SystemClock};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often the same reason is told while it lasts. Ten minutes: whoever looks at the log sees it, and it stays short.
const REMIND: Duration = Duration::from_secs(600);

/// One thing worth telling.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Line {
    at: Timestamp,
    event: &'static str,
    text: String,
    more: Value,
}

impl Line {
    /// Now: its kind, the words for people, and the members for programs (an object).
    pub(super) fn new(event: &'static str, text: String, more: Value) -> Self {
        Self { at: SystemClock::default().now().wall, event, text, more }
    }

    pub(super) fn for_people(&self) -> String {
        format!("{} {}", moment::text(self.at), self.text)
    }

    pub(super) fn for_programs(&self) -> Value {
        let mut line = json!({ "at_ms": self.at.0, "event": self.event });
        if let (Value::Object(line), Value::Object(more)) = (&mut line, &self.more) {
            line.extend(more.clone());
        }
        line
    }
}

/// The last line of all.
pub(super) fn ended() -> Line {
    Line::new("stopped", "stopped; nothing is lost".into(), json!({}))
}

/// A reason why nothing is sent, or nothing read, that was told.
#[derive(Debug)]
struct Told {
    why: FailureKind,
    at: Instant,
}

/// Remembers what was told.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    /// Why nothing is sent, as last told and not yet told to be over.
    gate: Option<Told>,
    /// Whether the gate is closed at this moment.
    is_closed: bool,
    /// Why nothing is read, likewise.
    reading: Option<Told>,
}

impl Reporter {
    /// What to say of this notice, if anything.
    pub(super) fn hear(&mut self, notice: &Notice, engine: &Engine) -> Option<Line> {
        match notice {
            Notice::Lagged(missed) => {
                let text = format!("{} were missed", many(*missed, "event"));
                Some(Line::new("lagged", text, json!({ "missed": missed })))
            }
            Notice::Event(Event::Stalled { task, quiet_for, .. }) => Some(stalled(*task, *quiet_for, engine)),
            Notice::Event(event) => self.of(event),
        }
    }

    fn of(&mut self, event: &Event) -> Option<Line> {
        match event {
            Event::GateClosed { why, message, wait } => {
                self.is_closed = true;
                is_news(&mut self.gate, *why)
                    .then(|| held("gate_closed", "nothing is sent", *why, message, *wait))
            }
            Event::GateOpened => {
                self.is_closed = false;
                None
            }
            Event::PullPaused { why, message, wait } => is_news(&mut self.reading, *why)
                .then(|| held("reading_paused", "nothing is read", *why, message, *wait)),
            Event::SendFinished { outcomes: Ok(_), .. } => self.goes_on(),
            Event::Pulled { .. } => {
                self.reading = None;
                self.goes_on()
            }
            // The gate also opens for a try that fails: it is told when something got through, or a run ended well.
            Event::SessionFinished(report) if !self.is_closed && has_done_nothing(report) => self.goes_on(),
            Event::SessionFinished(report) => (!has_done_nothing(report)).then(|| run(report)),
            Event::Died { task, entity, why } => Some(died(*task, entity, *why)),
            Event::Conflicted { conflict, task, entity, waits: true, again: false, .. } => {
                Some(conflicted(*conflict, *task, entity))
            }
            other => rare(other),
        }
    }

    fn goes_on(&mut self) -> Option<Line> {
        self.gate.take().map(|_| Line::new("gate_opened", "sending goes on".into(), json!({})))
    }
}

/// Whether the reason is new, or was last told long ago.
fn is_news(told: &mut Option<Told>, why: FailureKind) -> bool {
    let is_news = told.as_ref().is_none_or(|told| told.why != why || told.at.elapsed() >= REMIND);
    if is_news {
        *told = Some(Told { why, at: Instant::now() });
    }
    is_news
}

fn held(event: &'static str, what: &str, why: FailureKind, message: &str, wait: Option<Duration>) -> Line {
    let wait_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    let next = match wait_ms {
        Some(ms) => format!("next try in {}", words(ms)),
        None => "it waits for you".into(),
    };
    let text = format!("{what} ({}): {}; {next}", why.as_str().replace('_', " "), visible(message));
    Line::new(event, text, json!({ "why": why, "message": message, "wait_ms": wait_ms }))
}

/// Whether a run left everything as it was.
fn has_done_nothing(report: &Report) -> bool {
    report.applied
        + report.duplicates
        + report.conflicts
        + report.dead
        + report.unchanged
        + report.expired
        + report.cancelled
        + report.pulled
        + report.quarantined
        == 0
}

fn run(report: &Report) -> Line {
    let synced = report.applied + report.duplicates + report.unchanged;
    let mut parts = Vec::new();
    if synced > 0 {
        parts.push(format!("{} synced", many(synced, "task")));
    }
    if report.pulled > 0 {
        parts.push(format!("{} read", many(report.pulled, "change")));
    }
    for (count, what) in [
        (report.conflicts, "in conflict"),
        (report.dead, "refused"),
        (report.expired, "expired"),
        (report.cancelled, "cancelled"),
        (report.quarantined, "unreadable"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    parts.push(left(&report.left));
    Line::new("run", parts.join(", "), json!({ "report": report }))
}

fn left(left: &Counts) -> String {
    match left.total() {
        0 => "nothing left".into(),
        total => format!("{total} left"),
    }
}

fn died(task: TaskId, entity: &EntityKey, why: FailureKind) -> Line {
    let text = format!(
        "the change of {} was refused or given up ({}) and waits for you: `landfall dead show {task}` says more",
        record(entity),
        why.as_str().replace('_', " ")
    );
    Line::new("dead_letter", text, json!({ "task": task, "entity": entity, "why": why }))
}

fn conflicted(conflict: ConflictId, task: TaskId, entity: &EntityKey) -> Line {
    let text = format!(
        "both sides changed {}, and it waits for you: `landfall conflicts show {conflict}` says more",
        record(entity)
    );
    Line::new("conflict", text, json!({ "conflict": conflict, "task": task, "entity": entity }))
}

fn stalled(task: TaskId, quiet_for: Duration, engine: &Engine) -> Line {
    let now = SystemClock::default().now().wall;
    let quiet_ms = u64::try_from(quiet_for.as_millis()).unwrap_or(u64::MAX);
    let explanation = engine.explain(task).ok().flatten();
    let why = explanation.as_ref().map(|told| {
        let reasons: Vec<_> = told.waits_for.iter().map(|wait| sentence(wait, told, now)).collect();
        reasons.join(" ")
    });
    let text = format!(
        "nothing has moved for {}; the oldest is task {task}. {}",
        words(quiet_ms),
        why.unwrap_or_else(|| "It has just ended.".into())
    );
    let waits_for = explanation.map(|told| json!(told.waits_for));
    Line::new("stalled", text, json!({ "task": task, "quiet_ms": quiet_ms, "waits_for": waits_for }))
}

/// What hardly ever happens.
fn rare(event: &Event) -> Option<Line> {
    Some(match event {
        Event::Reconciling => {
            let text = "the server's changes are read from the beginning; what is queued is kept";
            Line::new("reconciling", text.into(), json!({}))
        }
        Event::Quarantined { reason } => {
            let text = format!("a record of the server could not be taken in: {}", visible(reason));
            Line::new("quarantined", text, json!({ "reason": reason }))
        }
        Event::Damaged { what } => {
            let text = format!("a stored row is damaged and was set apart: {}", visible(what));
            Line::new("damaged", text, json!({ "what": what }))
        }
        Event::ClockJumped { by_ms } => {
            let way = if *by_ms < 0 { "back" } else { "ahead" };
            let text = format!("the clock has jumped {way} by {}", words(by_ms.unsigned_abs()));
            Line::new("clock_jumped", text, json!({ "by_ms": by_ms }))
        }
        Event::LeaseLost => Line::new("lease_lost", "another process sends now".into(), json!({})),
        Event::ConditionsChanged { unmet } => {
            let text = match unmet {
                Some(unmet) => format!("waiting for {}", unmet.wanted()),
                None => "the device meets all conditions".into(),
            };
            Line::new("conditions", text, json!({ "unmet": unmet }))
        }
        Event::ControlsChanged(controls) => {
            Line::new("controls", "what is paused has changed".into(), json!({ "controls": controls }))
        }
        _ => return None,
    })
}

fn record(entity: &EntityKey) -> String {
    format!("{} {}", visible(&entity.entity_type), visible(&entity.entity_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::event::Outcomes;
    use landfall_core::id::CallId;

    fn closed(why: FailureKind) -> Event {
        Event::GateClosed { why, message: "a page".into(), wait: Some(Duration::from_secs(3)) }
    }

    fn events(reporter: &mut Reporter, events: &[Event]) -> Vec<&'static str> {
        events.iter().filter_map(|event| reporter.of(event)).map(|line| line.event).collect()
    }

    #[test]
    fn a_reason_is_told_once_until_something_gets_through() {
        let answered = Event::SendFinished { call: CallId(1), tasks: 1, outcomes: Ok(Outcomes::default()) };
        let (portal, offline) = (closed(FailureKind::Intercepted), closed(FailureKind::Unreachable));
        let reporter = &mut Reporter::default();
        assert_eq!(events(reporter, &[portal.clone(), portal.clone()]), ["gate_closed"]);
        // A try opens the gate and fails: nothing new.
        assert!(events(reporter, &[Event::GateOpened, portal.clone()]).is_empty());
        assert_eq!(events(reporter, std::slice::from_ref(&offline)), ["gate_closed"], "another reason");
        assert_eq!(events(reporter, &[Event::GateOpened, answered.clone(), answered]), ["gate_opened"]);
        assert_eq!(events(reporter, &[offline]), ["gate_closed"]);
        let empty = Event::SessionFinished(Report::default());
        assert!(
            events(reporter, std::slice::from_ref(&empty)).is_empty(),
            "the run ended with the gate closed"
        );
        assert_eq!(events(reporter, &[Event::GateOpened, empty.clone(), empty]), ["gate_opened"]);
    }

    #[test]
    fn only_a_run_that_did_something_is_told() {
        let reporter = &mut Reporter::default();
        let report = Report { requests: 1, pages: 3, ..Report::default() };
        assert!(reporter.of(&Event::SessionFinished(report.clone())).is_none());
        let report = Report { applied: 2, duplicates: 1, pulled: 1, ..report };
        let line = reporter.of(&Event::SessionFinished(report)).unwrap();
        assert_eq!(line.text, "3 tasks synced, 1 change read, nothing left");
        assert_eq!(line.for_programs()["report"]["applied"], 2);
    }

    #[test]
    fn a_closed_gate_names_its_reason_and_the_next_try() {
        let line = Reporter::default().of(&closed(FailureKind::Intercepted)).unwrap();
        assert_eq!(line.text, "nothing is sent (intercepted): a page; next try in 3 s");
        let shown = line.for_programs();
        assert_eq!((&shown["event"], &shown["why"]), (&json!("gate_closed"), &json!("intercepted")));
        assert_eq!(shown["wait_ms"], 3000);
    }
}
