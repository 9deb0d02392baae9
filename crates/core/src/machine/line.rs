//! Whose turn it is: order within a record and a named lane (G4), groups that go together, and what is held back because
//! it is paused.
//!
//! A task can be claimed exactly if nothing that it has to wait for is before it, and the same holds for the rest of its
//! group. Tests: `tests/lifecycle`, `tests/interleavings.rs` and the simulator of `landfall-testkit`.

use super::Step;
use crate::id::EntityKey;
use crate::store::{Controls, StoreError, StoreRead, StoreTx};
use crate::task::{Task, TaskState};
use crate::time::Timestamp;
use alloc::vec::Vec;

/// Rows read at a time: bounds memory, not work.
const PAGE: usize = 500;

/// A later task of the record or the lane that has passed `task` while that was a dead letter, and is under way.
pub(crate) fn passed_by(store: &dyn StoreRead, task: &Task) -> Result<Option<Task>, StoreError> {
    // Who never failed was never a dead letter: nobody has passed it, and nobody behind it is under way.
    let may_have_been_passed = |task: &Task| !task.history.notes().is_empty();
    let mut at = task.clone();
    while let Some(later) = store.next_in_line(&at.entity, at.seq)? {
        if is_under_way(store, &later)? {
            return Ok(Some(later));
        }
        // What is older and yet stands behind it was there before it came to its place from another name of the record.
        if !may_have_been_passed(&at) && later.generation > at.generation {
            break;
        }
        at = later;
    }
    let Some(lane) = &task.lane else { return Ok(None) };
    let mut at = task.clone();
    while may_have_been_passed(&at) {
        match store.next_of_lane(lane, at.seq)? {
            Some(later) if is_under_way(store, &later)? => return Ok(Some(later)),
            Some(later) => at = later,
            None => break,
        }
    }
    Ok(None)
}

/// Whether the backend may have the task's effect, or get it by a late copy.
pub(super) fn is_under_way(store: &dyn StoreRead, task: &Task) -> Result<bool, StoreError> {
    let has_left = match task.state {
        TaskState::InFlight { .. } | TaskState::Unknown { .. } => true,
        TaskState::Pending { .. } => task.frozen.is_some(),
        TaskState::Conflict | TaskState::Dead { .. } => false,
    };
    match &task.terms.group {
        // One of its group has been refused and begins anew: so nothing of the group has taken effect, or will.
        Some(group) if has_left => {
            Ok(store.tasks_of_group(group)?.tasks.iter().all(|member| member.frozen.is_some()))
        }
        _ => Ok(has_left),
    }
}

impl Step {
    /// Lets the first task of the record and of the lane be claimed, if nothing is before it (G4). Gives back that of the
    /// record.
    pub(super) fn promote(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &EntityKey,
        lane: Option<&str>,
    ) -> Result<Option<Task>, StoreError> {
        let first = self.readable(tx.next_in_line(entity, 0))?;
        if let Some(first) = &first {
            self.let_first_go(tx, first.clone())?;
        }
        if let Some(lane) = lane {
            if let Some(first) = self.readable(tx.next_of_lane(lane, 0))? {
                self.let_first_go(tx, first)?;
            }
        }
        Ok(first)
    }

    /// Lets the first of a line be claimed, or who has passed it.
    fn let_first_go(&mut self, tx: &mut dyn StoreTx, first: Task) -> Result<(), StoreError> {
        let mut next = first;
        while let Some(later) = self.readable(passed_by(tx, &next))? {
            next = later;
        }
        self.make_claimable(tx, &next)
    }

    /// Lets a stored task be claimed, if nothing is before it, and before the rest of its group.
    pub(super) fn make_claimable(&mut self, tx: &mut dyn StoreTx, task: &Task) -> Result<(), StoreError> {
        let task = self.forgiven(task.clone());
        let Some(due) = task.due() else { return Ok(()) };
        if task.claim_at.is_some() || task.standing.held || !self.is_first(tx, &task)? {
            return Ok(());
        }
        let Some(group) = &task.terms.group else {
            return tx.put_task(&Task { claim_at: Some(due), ..task });
        };
        let members = tx.tasks_of_group(group)?.tasks;
        let members: Vec<Task> = members.into_iter().map(|member| self.forgiven(member)).collect();
        let mut latest = due;
        for member in &members {
            match member.due() {
                Some(due) if self.is_first(tx, member)? => latest = latest.max(due),
                _ => return Ok(()),
            }
        }
        for member in members {
            if member.claim_at != Some(latest) && !member.standing.held {
                tx.put_task(&Task { claim_at: Some(latest), ..member })?;
            }
        }
        Ok(())
    }

    /// A wait that lies absurdly far ahead is over: the clock went back since it was stored (G12).
    fn forgiven(&self, mut task: Task) -> Task {
        let latest = self.now.wall.after(self.config.retry.cap + self.config.retry.retry_after_cap);
        match &mut task.state {
            TaskState::Pending { retry_at: Some(at) } | TaskState::Unknown { retry_at: at }
                if *at > latest =>
            {
                *at = self.now.wall;
            }
            _ => {}
        }
        task
    }

    /// Whether nothing is before it that it has to wait for.
    pub(super) fn is_first(&mut self, tx: &dyn StoreTx, task: &Task) -> Result<bool, StoreError> {
        if !task.terms.waits_for.is_empty() {
            return Ok(false);
        }
        if is_under_way(tx, task)? {
            // It was the first once. What is before it now was a dead letter then, and waits for it, unless it is just
            // being sent. Of several the last goes first.
            return Ok(
                !self.is_one_before_in_flight(tx, task)? && self.readable(passed_by(tx, task))?.is_none()
            );
        }
        let first = self.readable(tx.next_in_line(&task.entity, 0))?;
        if first.is_none_or(|first| first.id != task.id) {
            return Ok(false);
        }
        if let Some(lane) = &task.lane {
            let first = self.readable(tx.next_of_lane(lane, 0))?;
            if first.is_none_or(|first| first.id != task.id) {
                return Ok(false);
            }
        }
        // A dead letter that was passed over and is taken up again waits for whoever has passed it.
        Ok(self.readable(passed_by(tx, task))?.is_none())
    }

    fn is_one_before_in_flight(&mut self, tx: &dyn StoreTx, task: &Task) -> Result<bool, StoreError> {
        let in_flight = |other: &Task| matches!(other.state, TaskState::InFlight { .. });
        let mut after = 0;
        while let Some(other) = self.readable(tx.next_in_line(&task.entity, after))? {
            if other.seq >= task.seq {
                break;
            }
            if in_flight(&other) {
                return Ok(true);
            }
            after = other.seq;
        }
        let Some(lane) = &task.lane else { return Ok(false) };
        let mut after = 0;
        while let Some(other) = self.readable(tx.next_of_lane(lane, after))? {
            if other.seq >= task.seq {
                break;
            }
            if in_flight(&other) {
                return Ok(true);
            }
            after = other.seq;
        }
        Ok(false)
    }

    /// A task takes its place in line again: who could have been claimed in its stead waits for it.
    pub(super) fn stand_before_others(
        &mut self,
        tx: &mut dyn StoreTx,
        task: &Task,
    ) -> Result<(), StoreError> {
        let of_entity = self.readable(tx.next_in_line(&task.entity, task.seq))?;
        let of_lane = match &task.lane {
            Some(lane) => self.readable(tx.next_of_lane(lane, task.seq))?,
            None => None,
        };
        for later in of_entity.into_iter().chain(of_lane) {
            if later.claim_at.is_some() && later.frozen.is_none() {
                tx.put_task(&Task { claim_at: None, ..later })?;
            }
        }
        Ok(())
    }

    /// The whole group of a claimed task in order, if all of it can be sent now. Otherwise the task waits for the rest.
    pub(super) fn whole_group(
        &mut self,
        tx: &mut dyn StoreTx,
        task: Task,
    ) -> Result<Option<Vec<Task>>, StoreError> {
        let Some(group) = &task.terms.group else { return Ok(Some(alloc::vec![task])) };
        let page = tx.tasks_of_group(group)?;
        let all: Option<Vec<Timestamp>> = page.tasks.iter().map(|member| member.claim_at).collect();
        let latest = all.filter(|_| page.damaged.is_empty()).and_then(|all| all.into_iter().max());
        match latest {
            Some(at) if at <= self.now.wall || at <= Timestamp::ALWAYS => Ok(Some(page.tasks)),
            latest => {
                tx.put_task(&Task { claim_at: latest, ..task })?;
                Ok(None)
            }
        }
    }

    // ---- pausing -----------------------------------------------------------------------------------------------

    /// What is paused now, read once per step: another process may have changed it.
    pub(super) fn controls(&mut self, tx: &dyn StoreTx) -> Result<&Controls, StoreError> {
        if self.controls.is_none() {
            self.controls = Some(tx.controls()?.unwrap_or_default());
        }
        Ok(self.controls.get_or_insert_with(Controls::default))
    }

    pub(super) fn must_be_held(&mut self, tx: &dyn StoreTx, task: &Task) -> Result<bool, StoreError> {
        if task.terms.unmetered_only && self.state.device.metered == Some(true) {
            return Ok(true);
        }
        let controls = self.controls(tx)?;
        Ok(controls.types.contains(&task.entity.entity_type)
            || task.lane.as_ref().is_some_and(|lane| controls.lanes.contains(lane)))
    }

    /// Takes a claimed task out of the running until what holds it is over.
    pub(super) fn hold_back(&mut self, tx: &mut dyn StoreTx, mut task: Task) -> Result<(), StoreError> {
        task.standing.held = true;
        task.claim_at = None;
        tx.put_task(&task)
    }

    /// Something that held tasks is over: those that nothing holds any more can be claimed again.
    pub(super) fn let_held_go(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let page = tx.held_after(after, PAGE)?;
            let last =
                page.tasks.iter().map(|task| task.seq).chain(page.damaged.iter().map(|row| row.seq)).max();
            for mut task in page.tasks {
                if !self.must_be_held(tx, &task)? {
                    task.standing.held = false;
                    tx.put_task(&task)?;
                    self.make_claimable(tx, &task)?;
                }
            }
            match last {
                Some(seq) => after = seq,
                None => return Ok(()),
            }
        }
    }
}
