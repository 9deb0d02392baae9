//! A session: one run of `sync`, from its start to its report.
//!
//! A second caller joins the running session (the engine hands both the same report). Tests: the simulator, and
//! `crates/engine/tests`.

use super::{Effect, Gate, Step};
use crate::event::{Event, Report};
use crate::store::{StoreError, StoreTx};
use crate::time::Mono;
use alloc::format;
use alloc::string::String;
use core::time::Duration;

/// When a session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionEnd {
    /// When everything that can be sent now was tried; backoffs are not waited for.
    OnePass,
    /// When nothing is left that could still be sent without a person, or when the time is over.
    Drained {
        /// The time.
        within: Duration,
    },
}

/// What a session does: send, read, or both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Directions {
    /// Sends what is queued and reads what has changed.
    Both,
    /// Only sends.
    PushOnly,
    /// Only reads.
    PullOnly,
}

impl Directions {
    const fn pushes(self) -> bool {
        !matches!(self, Self::PullOnly)
    }

    const fn pulls(self) -> bool {
        !matches!(self, Self::PushOnly)
    }

    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::PushOnly, Self::PushOnly) => Self::PushOnly,
            (Self::PullOnly, Self::PullOnly) => Self::PullOnly,
            _ => Self::Both,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Session {
    directions: Directions,
    /// Until when backoffs are waited for; `None` for one pass.
    deadline: Option<Mono>,
    stopping: bool,
    report: Report,
}

impl Session {
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.deadline
    }

    pub(super) fn report_mut(&mut self) -> &mut Report {
        &mut self.report
    }
}

impl Step {
    /// Starts a session that sends and reads; see [`start_session_of`](Self::start_session_of).
    pub fn start_session(&mut self, end: SessionEnd) {
        self.start_session_of(end, Directions::Both);
    }

    /// Starts a session. If one is running it lasts longer if the new end is later, does what either wants, and reads
    /// the feed to its end once more.
    pub fn start_session_of(&mut self, end: SessionEnd, directions: Directions) {
        let deadline = match end {
            SessionEnd::OnePass => None,
            SessionEnd::Drained { within } => Some(self.now.mono.after(within)),
        };
        match &mut self.state.session {
            Some(session) => {
                session.deadline = session.deadline.max(deadline);
                session.directions = session.directions.and(directions);
                self.state.pull.begin(false);
            }
            None => {
                self.state.refreshed = false;
                self.state.pull.begin(true);
                let report = Report::default();
                self.state.session = Some(Session { directions, deadline, stopping: false, report });
                // A fresh wish to sync is a hint that it may work now.
                if let Gate::Waiting { why, .. } = &self.state.gate {
                    use crate::failure::FailureKind::{Intercepted, Unreachable};
                    if matches!(why, Unreachable | Intercepted) {
                        self.open_gate();
                    }
                }
                self.emit(Event::SessionStarted);
            }
        }
    }

    /// Ends the session as soon as the step is finished; calls under way become of unknown fate.
    pub fn stop_session(&mut self) {
        if let Some(session) = &mut self.state.session {
            session.stopping = true;
        }
    }

    /// Whether the running session sends, at this moment.
    pub(super) fn session_pushes(&self) -> bool {
        !self.state.paused
            && self.session_is_going()
            && self.state.session.as_ref().is_some_and(|session| session.directions.pushes())
    }

    /// Whether the running session reads, at this moment.
    pub(super) fn session_pulls(&self) -> bool {
        !self.state.paused && self.session_is_going() && self.session_means_to_pull()
    }

    fn session_means_to_pull(&self) -> bool {
        self.can_pull() && self.state.session.as_ref().is_some_and(|s| s.directions.pulls())
    }

    fn session_is_going(&self) -> bool {
        self.state.session.as_ref().is_some_and(|session| {
            !session.stopping && session.deadline().is_none_or(|deadline| self.now.mono < deadline)
        })
    }

    pub(super) fn end_session_if_done(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        let Some(session) = &self.state.session else { return Ok(()) };
        let stopped = session.stopping;
        let over = !self.session_is_going();
        if !over {
            let under_way = !self.state.calls.is_empty() || !self.state.halves.is_empty();
            if under_way || self.state.pull.is_busy() || self.pull_wants_to_go() {
                return Ok(());
            }
            // Waiting for another process is part of the session: it joins that one's work.
            let rival = matches!(self.state.gate, Gate::Open) && self.waits_for_rival().is_some();
            if rival || self.push_can_go_on(tx, session.deadline.is_some())? || self.pull_can_go_on() {
                return Ok(());
            }
        }
        let reason = if stopped {
            Some("the next run: it was stopped")
        } else {
            over.then_some("the next run: the time was over")
        };
        let reason = reason.or(self.state.paused.then_some("a resume: everything is paused"));
        let pull_waiting_for = self.pull_waiting_for(reason);
        self.hand_back(tx)?;
        let Some(session) = self.state.session.take() else { return Ok(()) };
        let mut report = session.report;
        report.left = tx.counts()?;
        report.pull_waiting_for = pull_waiting_for;
        let pushes = session.directions.pushes();
        report.waiting_for = self.waiting_for(&report, reason, pushes, tx)?;
        self.emit(Event::SessionFinished(report.clone()));
        self.effects.push(Effect::SessionEnded(report));
        Ok(())
    }

    /// Whether there is anything to send now, or after a wait that the session allows.
    fn push_can_go_on(&self, tx: &dyn StoreTx, may_wait: bool) -> Result<bool, StoreError> {
        if !self.session_pushes() {
            return Ok(false);
        }
        let is_due =
            |tx: &dyn StoreTx| Ok::<_, StoreError>(!tx.claimable(self.now.wall, 1)?.tasks.is_empty());
        Ok(match &self.state.gate {
            Gate::NeedsCredentials { refreshing, .. } => *refreshing,
            Gate::Stopped { .. } => false,
            Gate::Open if self.state.lease.is_some() && is_due(tx)? => true,
            Gate::Open | Gate::Waiting { .. } => {
                may_wait && (tx.next_claim(self.now.wall)?.is_some() || is_due(tx)?)
            }
        })
    }

    /// Whether reading goes on after a wait that the session allows.
    fn pull_can_go_on(&self) -> bool {
        let may_wait = self.state.session.as_ref().is_some_and(|session| session.deadline.is_some());
        let gate_opens = match &self.state.gate {
            Gate::Open => true,
            Gate::Waiting { .. } => may_wait,
            Gate::NeedsCredentials { refreshing, .. } => *refreshing,
            Gate::Stopped { .. } => false,
        };
        let resumes = self.pull_resumes().is_some() && may_wait;
        let held_by_gate = self.pull_trouble().is_none() && !matches!(self.state.gate, Gate::Open);
        self.pull_is_unfinished() && gate_opens && (resumes || held_by_gate)
    }

    /// Why not everything was read, for people.
    fn pull_waiting_for(&self, ended_early: Option<&str>) -> Option<String> {
        if !self.session_means_to_pull() || self.state.pull.is_done() {
            return None;
        }
        Some(match (self.pull_trouble(), &self.state.gate) {
            (Some(trouble), _) => trouble,
            (None, Gate::Waiting { why, message, .. } | Gate::Stopped { why, message }) => {
                format!("{}: {message}", why.as_str())
            }
            (None, Gate::NeedsCredentials { message, .. }) => format!("credentials: {message}"),
            (None, Gate::Open) => ended_early.unwrap_or("the next run").into(),
        })
    }

    /// Why the queue is not empty, for people.
    fn waiting_for(
        &self,
        report: &Report,
        ended_early: Option<&str>,
        pushes: bool,
        tx: &dyn StoreTx,
    ) -> Result<Option<String>, StoreError> {
        if report.left.total() == 0 {
            return Ok(None);
        }
        if let Some(reason) = ended_early {
            return Ok(Some(reason.into()));
        }
        Ok(Some(match &self.state.gate {
            Gate::Waiting { why, message, .. } | Gate::Stopped { why, message } => {
                format!("{}: {message}", why.as_str())
            }
            Gate::NeedsCredentials { message, .. } => format!("credentials: {message}"),
            Gate::Open => match tx.next_claim(self.now.wall)? {
                Some(due) => format!("the next attempt in {} ms", self.now.wall.until(due).as_millis()),
                None if !tx.held_after(0, 1)?.tasks.is_empty() => {
                    "a resume, or an unmetered network: some of it is held back".into()
                }
                None if !pushes && report.left.pending + report.left.unknown > 0 => "a run that sends".into(),
                None => "a decision: see the dead letters and conflicts".into(),
            },
        }))
    }
}
