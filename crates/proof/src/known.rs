//! Every row that was ever written, to see that a damaged file hands out nothing else. Tests: `tests/damaged_files.rs`.

use crate::state::State;
use landfall_core::store::{ConflictQuery, StoreError, StoreRead};
use landfall_core::task::{StateKind, Task};
use landfall_core::time::Timestamp;
use std::collections::BTreeMap;

/// Rows by their kind.
#[derive(Clone, Debug, Default)]
pub struct Known {
    states: Vec<State>,
    tasks: BTreeMap<u64, Vec<Task>>,
}

/// What a look came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Rows that were handed out.
    pub rows: u64,
    /// Rows that were named as damaged.
    pub damaged: u64,
    /// Questions that were answered with an error.
    pub errors: u64,
}

fn is_in<T: PartialEq>(found: &T, states: &[State], rows: impl Fn(&State) -> &[T]) -> bool {
    states.iter().any(|state| rows(state).contains(found))
}

impl Known {
    /// Everything that was in one of these states.
    pub fn of(states: Vec<State>) -> Self {
        let mut tasks = BTreeMap::<u64, Vec<Task>>::new();
        for task in states.iter().flat_map(|state| &state.tasks) {
            let of_place = tasks.entry(task.seq).or_default();
            if !of_place.contains(task) {
                of_place.push(task.clone());
            }
        }
        Self { states, tasks }
    }

    /// Asks everything. `rescued`: a rescue may have changed what it is not sure of, but not what is to be done.
    ///
    /// # Errors
    /// When a row comes out that was never written.
    pub fn look(&self, rows: &dyn StoreRead, rescued: bool) -> Result<Seen, String> {
        let mut seen = Seen::default();
        let all = 100_000;
        let mut pages = vec![rows.tasks_after(0, all), rows.claimable(Timestamp(i64::MAX), all)];
        pages.extend(StateKind::ALL.map(|state| rows.tasks_in_state(state, 0, all)));
        pages.extend([rows.held_after(0, all), rows.lapsed(Timestamp(i64::MAX), all)]);
        for page in pages {
            let Some(page) = seen.count(page) else { continue };
            seen.damaged += page.damaged.len() as u64;
            for task in &page.tasks {
                self.task(task, rescued)?;
                seen.rows += 1;
            }
        }
        for known in self.tasks.values().filter_map(|of_place| of_place.first()) {
            for found in [
                rows.task(known.id),
                rows.last_of_entity(&known.entity),
                rows.next_of_entity(&known.entity, 0),
            ] {
                if let Some(Some(task)) = seen.count(found) {
                    self.task(&task, rescued)?;
                    seen.rows += 1;
                }
            }
        }
        if let Some(page) = seen.count(rows.entities_after(None, None, all)) {
            seen.damaged += page.damaged.len() as u64;
            for found in &page.entities {
                let same = |state: &State| {
                    state.entities.iter().any(|known| known == found || rescued && known.key == found.key)
                };
                if !self.states.iter().any(same) {
                    return Err(format!("a record that never was: {found:?}"));
                }
                seen.rows += 1;
            }
        }
        if let Some(page) = seen.count(rows.journal_entries(None, all)) {
            seen.damaged += page.damaged.len() as u64;
            for found in &page.entries {
                if !is_in(found, &self.states, |state| &state.journal) {
                    return Err(format!("an end that never was: {found:?}"));
                }
                seen.rows += 1;
            }
        }
        if let Some(page) = seen.count(rows.conflicts(&ConflictQuery::default(), all)) {
            seen.damaged += page.damaged.len() as u64;
            for found in &page.conflicts {
                let same = |known: &landfall_core::conflict::ConflictRecord| {
                    known == found || rescued && known.entity == found.entity && known.local == found.local
                };
                if !self.states.iter().any(|state| state.conflicts.iter().any(same)) {
                    return Err(format!("a conflict that never was: {found:?}"));
                }
                seen.rows += 1;
            }
        }
        if let Some(found @ Some(_)) = seen.count(rows.pull_state()) {
            if !self.states.iter().any(|state| state.pull == found) {
                return Err(format!("a cursor that never was: {found:?}"));
            }
        }
        if let Some(Some(found)) = seen.count(rows.replica()) {
            let same = |state: &State| {
                state
                    .replica
                    .as_ref()
                    .is_some_and(|known| *known == found || rescued && known.client_id == found.client_id)
            };
            if !self.states.iter().any(same) {
                return Err(format!("a replica that never was: {found:?}"));
            }
        }
        if let Some(Some(found)) = seen.count(rows.lease()) {
            if !rescued && !self.states.iter().any(|state| state.lease.as_ref() == Some(&found)) {
                return Err(format!("a lease that never was: {found:?}"));
            }
        }
        let _ = seen.count(rows.counts());
        let _ = seen.count(rows.oldest());
        Ok(seen)
    }

    fn task(&self, found: &Task, rescued: bool) -> Result<(), String> {
        let same = |known: &Task| {
            known == found
                || rescued
                    && known.id == found.id
                    && known.entity == found.entity
                    && known.intent == found.intent
        };
        if self.tasks.values().flatten().any(same) {
            return Ok(());
        }
        Err(format!("a task that never was: {found:?}"))
    }
}

impl Seen {
    fn count<T>(&mut self, answer: Result<T, StoreError>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(StoreError::Damaged(_)) => {
                self.damaged += 1;
                None
            }
            Err(_) => {
                self.errors += 1;
                None
            }
        }
    }
}
