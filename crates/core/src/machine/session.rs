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

#[derive(Clone, Debug)]
pub(super) struct Session {
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
    /// Starts a session, or makes the running one last longer if the new end is later.
    pub fn start_session(&mut self, end: SessionEnd) {
        let deadline = match end {
            SessionEnd::OnePass => None,
            SessionEnd::Drained { within } => Some(self.now.mono.after(within)),
        };
        match &mut self.state.session {
            Some(session) => session.deadline = session.deadline.max(deadline),
            None => {
                self.state.refreshed = false;
                self.state.session = Some(Session { deadline, stopping: false, report: Report::default() });
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

    pub(super) fn session_is_sending(&self) -> bool {
        self.state.session.as_ref().is_some_and(|session| {
            !session.stopping && session.deadline().is_none_or(|deadline| self.now.mono < deadline)
        })
    }

    pub(super) fn end_session_if_done(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        let Some(session) = &self.state.session else { return Ok(()) };
        let stopped = session.stopping;
        let over = !self.session_is_sending();
        if !over {
            if !self.state.calls.is_empty() || !self.state.halves.is_empty() {
                return Ok(());
            }
            let can_send_now = match &self.state.gate {
                Gate::Open if self.state.lease.is_some() => !tx.claimable(self.now.wall, 1)?.tasks.is_empty(),
                // Waiting for another process is part of the session: it joins that one's work.
                Gate::Open => self.waits_for_rival().is_some(),
                Gate::NeedsCredentials { refreshing, .. } => *refreshing,
                Gate::Waiting { .. } | Gate::Stopped { .. } => false,
            };
            let will_send_later = match &self.state.gate {
                Gate::NeedsCredentials { .. } | Gate::Stopped { .. } => false,
                Gate::Open | Gate::Waiting { .. } => {
                    tx.next_claim(self.now.wall)?.is_some()
                        || !tx.claimable(self.now.wall, 1)?.tasks.is_empty()
                }
            };
            if can_send_now || (session.deadline.is_some() && will_send_later) {
                return Ok(());
            }
        }
        self.hand_back(tx)?;
        let Some(session) = self.state.session.take() else { return Ok(()) };
        let mut report = session.report;
        report.left = tx.counts()?;
        let reason = if stopped {
            Some("the next run: it was stopped")
        } else {
            over.then_some("the next run: the time was over")
        };
        report.waiting_for = self.waiting_for(&report, reason, tx)?;
        self.emit(Event::SessionFinished(report.clone()));
        self.effects.push(Effect::SessionEnded(report));
        Ok(())
    }

    /// Why the queue is not empty, for people.
    fn waiting_for(
        &self,
        report: &Report,
        ended_early: Option<&str>,
        tx: &dyn StoreTx,
    ) -> Result<Option<String>, StoreError> {
        if report.is_complete() {
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
                None => "a decision: see the dead letters and conflicts".into(),
            },
        }))
    }
}
