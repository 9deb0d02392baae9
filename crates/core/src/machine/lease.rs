//! Who may send: one holder at a time, across processes, with a fencing number (G10).
//!
//! The lease is an optimisation: one effect rests on keys, not on it. A holder that is silent for a term, measured on
//! our own monotonic clock, or whose process is known to be gone, is taken over; what it had under way becomes
//! unknown, because nobody can say how far it got. Tests: the simulator runs two machines on one store.

use super::{Effect, HeldLease, Step, for_each_in_state};
use crate::event::Event;
use crate::failure::FailureKind;
use crate::store::{Lease, StoreError, StoreTx};
use crate::task::{StateKind, TaskState};
use crate::time::Mono;
use alloc::string::String;

/// The answer to an attempt to lead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Leadership {
    /// We hold the lease.
    Held,
    /// Somebody else does.
    Elsewhere {
        /// The holder in its own words.
        holder: String,
    },
}

impl Step {
    /// Tries to hold the lease as `me`. `is_gone` says of another holder whether its process is known to be dead.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn lead(
        &mut self,
        tx: &mut dyn StoreTx,
        me: &str,
        is_gone: &dyn Fn(&str) -> bool,
    ) -> Result<Leadership, StoreError> {
        let found = tx.lease()?;
        if let (Some(held), Some(found)) = (&self.state.lease, &found) {
            if held.fence == found.fence {
                return Ok(Leadership::Held);
            }
        }
        self.state.lease = None;
        if let Some(found) = &found {
            let free = found.holder.is_empty() || found.holder == me || is_gone(&found.holder);
            if !free && !self.silent_for_a_term(found) {
                return Ok(Leadership::Elsewhere { holder: found.holder.clone() });
            }
        }
        self.state.rival = None;
        let fence = crate::id::Fence(found.map_or(0, |lease| lease.fence.0) + 1);
        self.hold(tx, me, fence)?;
        self.take_over(tx)?;
        Ok(Leadership::Held)
    }

    /// Whether this very claim has not moved since we first saw it, for a whole term of our own clock.
    fn silent_for_a_term(&mut self, found: &Lease) -> bool {
        match &self.state.rival {
            Some((seen, since)) if seen == found => self.now.mono >= since.after(self.config.lease.term),
            _ => {
                self.state.rival = Some((found.clone(), self.now.mono));
                false
            }
        }
    }

    /// What the last holder had under way is of unknown fate now.
    fn take_over(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        let wall = self.now.wall;
        for_each_in_state(tx, StateKind::InFlight, |tx, mut task| {
            if let Some(frozen) = &mut task.frozen {
                frozen.sends += 1;
                frozen.open_sends += 1;
            }
            if self.is_never_repeated(&task) {
                let message = "whoever was sending it did not hear whether it took effect";
                let note = self.note(FailureKind::FateUnknown, None, message);
                return self.bury(tx, task, note);
            }
            task.become_state(TaskState::Unknown { retry_at: wall });
            tx.put_task(&task)?;
            // The rest of its group, and whoever has passed it or was passed by it, may have waited for this.
            self.make_claimable(tx, &task)?;
            self.promote(tx, &task.entity, task.lane.as_deref()).map(drop)
        })
    }

    fn hold(&mut self, tx: &mut dyn StoreTx, me: &str, fence: crate::id::Fence) -> Result<(), StoreError> {
        let term = self.config.lease.term;
        let lease = Lease { holder: me.into(), fence, expires_at: self.now.wall.after(term) };
        tx.put_lease(&lease)?;
        self.state.lease =
            Some(HeldLease { holder: me.into(), fence, renew_at: self.now.mono.after(term / 2) });
        Ok(())
    }

    /// Whether we still hold the lease; if not, everything under way is dropped here and reconciled when it answers.
    pub(super) fn still_leads(&mut self, tx: &dyn StoreTx) -> Result<bool, StoreError> {
        let Some(held) = &self.state.lease else { return Ok(false) };
        if tx.lease()?.is_some_and(|lease| lease.fence == held.fence && lease.holder == held.holder) {
            return Ok(true);
        }
        self.state.lease = None;
        self.state.halves.clear();
        for call in self.state.pull.abandon() {
            self.effects.push(Effect::Cancel(call));
        }
        self.emit(Event::LeaseLost);
        Ok(false)
    }

    /// Writes the lease anew when half of its term is over.
    pub(super) fn renew_lease(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        let Some(held) = self.state.lease.clone() else { return Ok(()) };
        if held.renew_at > self.now.mono || !self.still_leads(tx)? {
            return Ok(());
        }
        self.hold(tx, &held.holder, held.fence)
    }

    /// Gives the lease back at once, so that nobody has to wait for it. Calls under way become of unknown fate.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn hand_back(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        self.state.rival = None;
        let calls: alloc::vec::Vec<_> = self.state.calls.keys().copied().collect();
        if self.still_leads(tx)? {
            if !calls.is_empty() || !self.state.halves.is_empty() {
                self.take_over(tx)?;
            }
            if let Some(held) = self.state.lease.take() {
                let wall = self.now.wall;
                tx.put_lease(&Lease { holder: String::new(), fence: held.fence, expires_at: wall })?;
            }
        }
        self.state.calls.clear();
        self.state.halves.clear();
        let mut reads = self.state.pull.abandon();
        reads.extend(self.abandon_probe());
        self.effects.extend(reads.into_iter().map(Effect::Cancel));
        self.effects.extend(calls.into_iter().map(Effect::Cancel));
        Ok(())
    }

    /// When the rival was first seen, for the watcher that waits for it.
    pub(super) fn waits_for_rival(&self) -> Option<Mono> {
        self.state.rival.as_ref().map(|(_, since)| *since)
    }
}
