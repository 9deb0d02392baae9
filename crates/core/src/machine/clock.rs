//! A wall clock that cannot be trusted: jumps are noticed, and nothing that is stored can make anybody wait longer than
//! the caps say (G12).
//!
//! Waits are measured on the monotonic clock; only what has to outlive a restart is stored as wall time. Tests:
//! `tests/clock.rs`, `tests/auto` and `tests/machine.rs` of `landfall-testkit`.

use super::Step;
use crate::event::Event;
use crate::store::{StoreError, StoreTx};
use crate::task::TaskState;
use crate::time::{Mono, Now, Timestamp};
use core::time::Duration;

/// What is known of the clocks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clocks {
    /// Both at the last step; `None` until the first one of this opening.
    last: Option<Now>,
    /// Whether the wall clock has jumped in this opening.
    has_jumped: bool,
    /// Whether the backend has told the time since this opening, or since the last jump.
    is_vouched: bool,
}

impl Clocks {
    /// The backend has told the time.
    pub(super) fn vouch(&mut self) {
        self.is_vouched = true;
    }
}

impl Step {
    /// Looks at both clocks: at a jump of the wall clock, and at the first step of an opening, stored waits are looked
    /// over.
    pub(super) fn look_at_clocks(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        let last = self.state.clocks.last.replace(self.now);
        let Some(last) = last else {
            self.keep_calm(tx)?;
            // Behind what was given out before: nobody knows which of the two was wrong, so what is kept is kept longer.
            let (now, newest) = (self.backend_now(tx)?, Timestamp(self.replica(tx)?.clock.wall_ms));
            if newest > now && self.is_a_jump(newest.0.abs_diff(now.0)) {
                self.doubt_stamps(tx, newest)?;
            }
            return self.forgive_waits(tx);
        };
        let by = jumped(last, self.now);
        if self.is_a_jump(by.unsigned_abs()) {
            self.state.clocks.has_jumped = true;
            self.state.clocks.is_vouched = false;
            self.emit(Event::ClockJumped { by_ms: by });
            // A device that slept looks just like this: its monotonic clock stood still.
            if by > 0 {
                self.connectivity_regained();
            } else {
                self.fall_back(tx, last, by)?;
            }
        }
        if self.now.wall < last.wall { self.forgive_waits(tx) } else { Ok(()) }
    }

    /// Stored waits may lie absurdly far ahead: no backoff can be longer than its caps, so what is beyond is due now. A
    /// moment the app asked for stays.
    fn forgive_waits(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        /// Rows read at a time: bounds memory, not work.
        const PAGE: usize = 500;
        let longest = self.config.retry.cap + self.config.retry.retry_after_cap;
        let latest = self.now.wall.after(longest);
        let mut from = latest;
        loop {
            let page = tx.waiting_after(from, PAGE)?;
            let Some(last) = page.tasks.last().and_then(|task| task.claim_at) else { return Ok(()) };
            let full = page.tasks.len() == PAGE;
            let mut moved = false;
            for mut task in page.tasks {
                let retry_at = self.now.wall;
                match task.state {
                    TaskState::Pending { retry_at: Some(stored) } if stored > latest => {
                        task.state = TaskState::Pending { retry_at: Some(retry_at) };
                    }
                    TaskState::Unknown { retry_at: stored } if stored > latest => {
                        task.state = TaskState::Unknown { retry_at };
                    }
                    // Only another one of its group was to wait so long.
                    _ if task.terms.group.is_some() && task.due().is_some_and(|due| due <= latest) => {}
                    _ => continue,
                }
                task.claim_at = task.due();
                tx.put_task(&task)?;
                moved = true;
            }
            // Moved tasks have left this range, so it is read again; what only the app put off is passed over.
            match (full, moved) {
                (false, _) => return Ok(()),
                (true, true) => {}
                (true, false) => from = last,
            }
        }
    }

    /// The clock went back. No device sleeps backwards, so what is known of the backend's clock stays known: by how much
    /// ours went back was measured on the monotonic one.
    fn fall_back(&mut self, tx: &dyn StoreTx, last: Now, by: i64) -> Result<(), StoreError> {
        let replica = self.replica(tx)?;
        let before = last.wall.shifted(replica.server_offset_ms.unwrap_or(0));
        if let Some(offset) = &mut replica.server_offset_ms {
            *offset = offset.saturating_sub(by);
            self.replica_changed = true;
        }
        self.doubt_stamps(tx, before)
    }

    /// By how much the wall clock went back just before this step, as far as that is not accounted for yet.
    pub(super) fn fell_back_ms(&self) -> i64 {
        let by = self.state.clocks.last.map_or(0, |last| jumped(last, self.now));
        if by < 0 && self.is_a_jump(by.unsigned_abs()) { by.saturating_neg() } else { 0 }
    }

    pub(super) fn is_a_jump(&self, by_ms: u64) -> bool {
        by_ms >= u64::try_from(self.config.watchdog.jump.as_millis()).unwrap_or(u64::MAX)
    }

    /// What was stamped until now, or is until the clock is set right, may carry a wrong time: nothing is forgotten before
    /// all of it is certainly old.
    pub(super) fn doubt_stamps(&mut self, tx: &dyn StoreTx, at: Timestamp) -> Result<(), StoreError> {
        let replica = self.replica(tx)?;
        if replica.doubted_at.is_none_or(|known| known < at) {
            replica.doubted_at = Some(at);
            self.replica_changed = true;
        }
        Ok(())
    }

    /// What time it certainly is, for forgetting what is old; `None` when the clock may have jumped and nobody has
    /// vouched for it: then nothing is forgotten. Where the backend tells the time, its word is waited for.
    pub(super) fn certain_time(&mut self, tx: &dyn StoreTx) -> Result<Option<Certain>, StoreError> {
        let clocks = self.state.clocks;
        let replica = self.replica(tx)?;
        let (offset, doubted_at) = (replica.server_offset_ms, replica.doubted_at);
        if !clocks.is_vouched && (offset.is_some() || clocks.has_jumped) {
            return Ok(None);
        }
        let backend = self.now.wall.shifted(offset.unwrap_or(0));
        Ok(Some(Certain { wall: self.now.wall, backend, doubted_at }))
    }
}

/// The time, where it is certain, and since when stamps can be believed.
pub(super) struct Certain {
    wall: Timestamp,
    backend: Timestamp,
    doubted_at: Option<Timestamp>,
}

impl Certain {
    /// Stamps before this moment are older than `horizon`. Stamps are made with our own clock, so they are compared with
    /// it; as long as some of them were made with a clock that was wrong, none is old.
    pub(super) fn ago(&self, horizon: Duration) -> Timestamp {
        if self.doubted_at.is_some_and(|at| at.after(horizon) > self.backend) {
            return Timestamp(i64::MIN);
        }
        self.wall.shifted(-i64::try_from(horizon.as_millis()).unwrap_or(i64::MAX))
    }
}

/// How much further the wall clock went than the monotonic one, in milliseconds.
fn jumped(last: Now, now: Now) -> i64 {
    let Mono(before) = last.mono;
    let passed = i64::try_from(now.mono.0.saturating_sub(before)).unwrap_or(i64::MAX);
    now.wall.0.saturating_sub(last.wall.0).saturating_sub(passed)
}
