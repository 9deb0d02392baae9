//! The watchdog: work that could be sent and does not end is told of, with the reason (G11).
//!
//! What waits because somebody said so (a moment that was asked for, a pause, a decision that a person owes) is no stall.
//! Tests: `tests/auto` of `landfall-testkit`.

use super::Step;
use crate::event::Event;
use crate::explain::explain;
use crate::store::{StoreError, StoreTx};
use crate::task::StateKind;
use crate::time::Mono;
use core::time::Duration;

/// Since when nothing has ended though there is work, and how often that was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet {
    since: Mono,
    told: u32,
}

impl Step {
    /// Notices progress, or that there has been none for too long. Only while the machine runs by itself: otherwise it
    /// is the app that has not asked.
    pub(super) fn watch_progress(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        if !self.state.auto.is_on() || self.state.auto.is_suspended() {
            self.state.quiet = None;
            return Ok(());
        }
        let counts = tx.counts()?;
        if counts.pending + counts.in_flight + counts.unknown == 0 {
            self.state.quiet = None;
            return Ok(());
        }
        let now = self.now.mono;
        let quiet = match self.state.quiet {
            Some(quiet) if self.ends == 0 => quiet,
            _ => Quiet { since: now, told: 0 },
        };
        self.state.quiet = Some(quiet);
        if self.next_alarm().is_none_or(|at| at > now) {
            return Ok(());
        }
        self.state.quiet = Some(Quiet { told: quiet.told + 1, ..quiet });
        self.tell_of_stall(tx, Duration::from_millis(now.0.saturating_sub(quiet.since.0)))
    }

    /// When it is looked whether nothing has moved: later each time.
    pub(super) fn next_alarm(&self) -> Option<Mono> {
        let quiet = self.state.quiet?;
        Some(quiet.since.after(self.config.watchdog.stalled_after * 2_u32.saturating_pow(quiet.told.min(16))))
    }

    fn tell_of_stall(&mut self, tx: &dyn StoreTx, quiet_for: Duration) -> Result<(), StoreError> {
        let live = self.state.live(self.now);
        for state in [StateKind::Unknown, StateKind::InFlight, StateKind::Pending] {
            let page = tx.tasks_in_state(state, 0, 1)?;
            let Some(task) = page.tasks.first() else { continue };
            let Some(told) = explain(tx, task.id, self.now.wall, &live)? else { continue };
            if told.waits_for.iter().any(|wait| wait.is_wished()) {
                continue;
            }
            self.emit(Event::Stalled { task: task.id, quiet_for, waits_for: told.waits_for });
            return Ok(());
        }
        Ok(())
    }
}
