//! A session: one run of `sync`, from its start to its report.
//!
//! A second caller joins the running session (the engine hands both the same report). Tests: the simulator, and
//! `crates/engine/tests`.

use super::{Effect, Gate, Step};
use crate::adapter::PullPage;
use crate::entity::{Body, RemoteEntity};
use crate::event::{Event, Exhausted, Report};
use crate::store::{StoreError, StoreTx};
use crate::time::{Mono, Timestamp};
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
    pub(super) const fn pushes(self) -> bool {
        !matches!(self, Self::PullOnly)
    }

    pub(super) const fn pulls(self) -> bool {
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

/// What one run may use; `None` is without a bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RunBudget {
    /// How long it may take. No call begins that would probably not come back in time, and what is under way when the
    /// time is over is handed back.
    pub time: Option<Duration>,
    /// Payload bytes that it may send and read. What is too large for the rest is passed over for smaller ones.
    pub bytes: Option<u64>,
    /// Tasks that it may send.
    pub tasks: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Session {
    directions: Directions,
    /// Until when backoffs are waited for; `None` for one pass.
    deadline: Option<Mono>,
    stopping: bool,
    report: Report,
    /// When it began, and when it must be over.
    must_end: Option<(Mono, Mono)>,
    bytes_left: Option<u64>,
    tasks_left: Option<u64>,
    /// What was told of its progress last.
    told: u64,
}

impl Session {
    /// When its time is over; one pass without a budget ends when there is nothing more to do.
    pub(super) fn ends_at(&self) -> Option<Mono> {
        let must_end = self.must_end.map(|(_, end)| end);
        [self.deadline, must_end].into_iter().flatten().min()
    }

    /// Whether its time is over; one pass waits for nothing.
    pub(super) fn is_over_at(&self, now: Mono) -> bool {
        self.ends_at().is_none_or(|end| end <= now)
    }

    pub(super) fn report_mut(&mut self) -> &mut Report {
        &mut self.report
    }

    /// From when on no call begins, if the time is bounded and calls take `pace` milliseconds.
    fn last_call(&self, pace: u64) -> Option<Mono> {
        /// Kept for the last commit, at least.
        const LEAST: u64 = 50;
        let (began, end) = self.must_end?;
        let span = end.0.saturating_sub(began.0);
        let reserve = pace.saturating_mul(2).max(LEAST).min(span / 4);
        Some(Mono(end.0.saturating_sub(reserve)))
    }

    /// Whether something that is due at `moment` can still be waited for.
    fn reaches(&self, moment: Mono, pace: u64) -> bool {
        self.last_call(pace).is_none_or(|last| moment < last)
    }

    fn done(&self) -> u64 {
        let report = &self.report;
        report.applied
            + report.duplicates
            + report.unchanged
            + report.expired
            + report.cancelled
            + report.dead
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
        if self.state.session.is_none() {
            self.state.refreshed = false;
            self.state.pull.forget_wait();
            // A fresh wish to sync is a hint that it may work now.
            if let Gate::Waiting { why, .. } = &self.state.gate {
                use crate::failure::FailureKind::{Intercepted, Unreachable};
                if matches!(why, Unreachable | Intercepted) {
                    self.try_at_once();
                }
            }
        }
        self.begin_session(end, directions);
    }

    /// Starts a session that must be over within `budget`, or lets the running one be bounded by it. Backoffs are waited
    /// for only if something can still be done after them.
    pub fn start_session_within(&mut self, budget: RunBudget, directions: Directions) {
        let end = budget.time.map_or(SessionEnd::OnePass, |within| SessionEnd::Drained { within });
        self.start_session_of(end, directions);
        let now = self.now.mono;
        if let Some(session) = &mut self.state.session {
            let less = |known: Option<u64>, new: Option<u64>| known.into_iter().chain(new).min();
            session.bytes_left = less(session.bytes_left, budget.bytes);
            session.tasks_left = less(session.tasks_left, budget.tasks);
            if let Some(time) = budget.time {
                let end = now.after(time);
                session.must_end = Some(match session.must_end {
                    Some((began, known)) => (began, known.min(end)),
                    None => (now, end),
                });
            }
        }
    }

    /// Starts a session for reasons of our own: nothing is forgotten of what was to be waited for.
    pub(super) fn begin_session(&mut self, end: SessionEnd, directions: Directions) {
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
                self.state.pull.begin(true);
                self.state.pull.forget_end_of_session();
                self.state.session = Some(Session {
                    directions,
                    deadline,
                    stopping: false,
                    report: Report::default(),
                    must_end: None,
                    bytes_left: None,
                    tasks_left: None,
                    told: 0,
                });
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
            && self.exhausted().is_none()
            && self.state.session.as_ref().is_some_and(|session| session.directions.pushes())
    }

    /// Whether the running session reads, at this moment.
    pub(super) fn session_pulls(&self) -> bool {
        !self.state.paused
            && self.session_is_going()
            && matches!(self.exhausted(), None | Some(Exhausted::Tasks))
            && self.session_means_to_pull()
    }

    fn session_means_to_pull(&self) -> bool {
        self.can_pull() && self.state.session.as_ref().is_some_and(|s| s.directions.pulls())
    }

    pub(super) fn session_is_going(&self) -> bool {
        self.state.session.as_ref().is_some_and(|session| {
            !session.stopping && session.ends_at().is_none_or(|end| self.now.mono < end)
        })
    }

    // ---- what a run may use ------------------------------------------------------------------------------------

    fn exhausted(&self) -> Option<Exhausted> {
        self.state.session.as_ref().and_then(|session| session.report.exhausted)
    }

    /// The run has used up what it may use: nothing new begins, and it ends when what is under way has come back. Without
    /// tasks left it may still read (G5).
    pub(super) fn exhaust(&mut self, what: Exhausted) {
        self.count(|report| match report.exhausted {
            None | Some(Exhausted::Tasks) => report.exhausted = Some(what),
            Some(Exhausted::Time | Exhausted::Bytes) => {}
        });
    }

    /// Notices that the time is too short for another call.
    pub(super) fn look_at_budget(&mut self) {
        let (now, pace) = (self.now.mono, self.state.pace);
        let is_late = |session: &Session| !session.reaches(now, pace);
        if self.state.session.as_ref().is_some_and(is_late) {
            self.exhaust(Exhausted::Time);
        }
    }

    pub(super) fn tasks_in_budget(&self) -> usize {
        let left = self.state.session.as_ref().and_then(|session| session.tasks_left);
        left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX))
    }

    pub(super) fn fits_budget(&self, bytes: usize) -> bool {
        let left = self.state.session.as_ref().and_then(|session| session.bytes_left);
        left.is_none_or(|left| bytes as u64 <= left)
    }

    pub(super) fn within_budget(&self, timeout: Duration) -> Duration {
        let end = self.state.session.as_ref().and_then(|session| session.must_end);
        let left = end.map(|(_, end)| Duration::from_millis(end.0.saturating_sub(self.now.mono.0)));
        left.map_or(timeout, |left| timeout.min(left))
    }

    pub(super) fn spend_on_sending(&mut self, tasks: usize, bytes: usize) {
        let Some(session) = &mut self.state.session else { return };
        let spend = |left: &mut Option<u64>, used: usize| {
            if let Some(left) = left {
                *left = left.saturating_sub(used as u64);
            }
            *left == Some(0)
        };
        let no_tasks = spend(&mut session.tasks_left, tasks);
        let no_bytes = spend(&mut session.bytes_left, bytes);
        if no_tasks {
            self.exhaust(Exhausted::Tasks);
        } else if no_bytes {
            self.exhaust(Exhausted::Bytes);
        }
    }

    /// What was read counts as well, by what it takes as JSON.
    pub(super) fn spend_on_reading(&mut self, page: &PullPage) {
        let is_bounded = self.state.session.as_ref().is_some_and(|session| session.bytes_left.is_some());
        if is_bounded {
            let size = |remote: &RemoteEntity| match &remote.body {
                Body::Live(fields) => serde_json::to_string(fields).map_or(0, |text| text.len()),
                Body::Deleted => 0,
            };
            self.spend_on_sending(0, page.changes.iter().flatten().map(size).sum());
        }
    }

    /// How far the run is, told when it has moved.
    pub(super) fn tell_progress(&mut self, tx: &dyn StoreTx) -> Result<(), StoreError> {
        let Some(session) = &mut self.state.session else { return Ok(()) };
        let done = session.done();
        if done == session.told {
            return Ok(());
        }
        session.told = done;
        let bytes = session.report.bytes;
        let left = tx.counts()?;
        let total = done + left.pending + left.in_flight + left.unknown;
        self.emit(Event::Progress { done, total, bytes });
        Ok(())
    }

    pub(super) fn end_session_if_done(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        let Some(session) = &self.state.session else { return Ok(()) };
        let stopped = session.stopping;
        let over = !self.session_is_going();
        if !over {
            let halves = !self.state.halves.is_empty() && self.exhausted().is_none();
            let under_way = !self.state.calls.is_empty() || halves || self.is_probing();
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
        let used_up = session.report.exhausted.map(Exhausted::what_for);
        let reason = reason.or(used_up).or(self.state.paused.then_some("a resume: everything is paused"));
        let pull_waiting_for = self.pull_waiting_for(reason);
        self.hand_back(tx)?;
        let Some(session) = self.state.session.take() else { return Ok(()) };
        let mut report = session.report;
        report.left = tx.counts()?;
        report.pull_waiting_for = pull_waiting_for;
        if report.is_complete() {
            report.exhausted = None;
        }
        self.note_end_of_run(&report, session.directions);
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
        let in_time = |moment: Mono| self.is_in_time(moment);
        let due_in_time = |due: Timestamp| in_time(self.now.mono.after(self.now.wall.until(due)));
        Ok(match &self.state.gate {
            Gate::NeedsCredentials { refreshing, .. } => *refreshing,
            Gate::Stopped { .. } => false,
            Gate::Open if self.state.lease.is_some() && is_due(tx)? => true,
            Gate::Waiting { until, .. } if !in_time(*until) => false,
            Gate::Open | Gate::Waiting { .. } => {
                may_wait && (tx.next_claim(self.now.wall)?.is_some_and(due_in_time) || is_due(tx)?)
            }
        })
    }

    fn is_in_time(&self, moment: Mono) -> bool {
        self.state.session.as_ref().is_none_or(|session| session.reaches(moment, self.state.pace))
    }

    /// Whether reading goes on after a wait that the session allows.
    fn pull_can_go_on(&self) -> bool {
        let may_wait = self.state.session.as_ref().is_some_and(|session| session.deadline.is_some());
        let gate_opens = match &self.state.gate {
            Gate::Open => true,
            Gate::Waiting { until, .. } => may_wait && self.is_in_time(*until),
            Gate::NeedsCredentials { refreshing, .. } => *refreshing,
            Gate::Stopped { .. } => false,
        };
        let resumes = self.pull_resumes().is_some_and(|at| self.is_in_time(at)) && may_wait;
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
