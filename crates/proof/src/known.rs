//! Every row that was ever written, to see that a damaged file hands out nothing else. Tests: `tests/damaged_files.rs`.

use crate::state::State;
use landfall_core::conflict::ConflictRecord;
use landfall_core::entity::StoredEntity;
use landfall_core::id::EntityKey;
use landfall_core::store::{ConflictQuery, Lease, PullState, Replica, StoreError, StoreRead};
use landfall_core::task::{JournalEntry, StateKind, Task};
use landfall_core::time::Timestamp;
use std::collections::BTreeMap;

/// Rows by their kind.
#[derive(Clone, Debug, Default)]
pub struct Known {
    tasks: BTreeMap<u64, Vec<Task>>,
    entities: BTreeMap<EntityKey, Vec<StoredEntity>>,
    journal: Vec<JournalEntry>,
    conflicts: Vec<ConflictRecord>,
    pulls: Vec<PullState>,
    replicas: Vec<Replica>,
    leases: Vec<Lease>,
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

fn add<T: PartialEq + Clone>(to: &mut Vec<T>, row: &T) {
    if !to.contains(row) {
        to.push(row.clone());
    }
}

impl Known {
    /// Everything that was in one of these states.
    pub fn of<'s>(states: impl IntoIterator<Item = &'s State>) -> Self {
        let mut known = Self::default();
        for state in states {
            state.tasks.iter().for_each(|row| add(known.tasks.entry(row.seq).or_default(), row));
            for row in &state.entities {
                add(known.entities.entry(row.key.clone()).or_default(), row);
            }
            state.journal.iter().for_each(|row| add(&mut known.journal, row));
            state.conflicts.iter().for_each(|row| add(&mut known.conflicts, row));
            state.pull.iter().for_each(|row| add(&mut known.pulls, row));
            state.replica.iter().for_each(|row| add(&mut known.replicas, row));
            state.lease.iter().for_each(|row| add(&mut known.leases, row));
        }
        known
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
                let of_key = self.entities.get(&found.key);
                if !of_key.is_some_and(|known| rescued || known.contains(found)) {
                    return Err(format!("a record that never was: {found:?}"));
                }
                seen.rows += 1;
            }
        }
        if let Some(page) = seen.count(rows.journal_entries(None, all)) {
            seen.damaged += page.damaged.len() as u64;
            for found in &page.entries {
                if !self.journal.contains(found) {
                    return Err(format!("an end that never was: {found:?}"));
                }
                seen.rows += 1;
            }
        }
        if let Some(page) = seen.count(rows.conflicts(&ConflictQuery::default(), all)) {
            seen.damaged += page.damaged.len() as u64;
            for found in &page.conflicts {
                let same = |known: &ConflictRecord| {
                    known == found || rescued && known.entity == found.entity && known.local == found.local
                };
                if !self.conflicts.iter().any(same) {
                    return Err(format!("a conflict that never was: {found:?}"));
                }
                seen.rows += 1;
            }
        }
        if let Some(Some(found)) = seen.count(rows.pull_state()) {
            // A rescue has the feed read anew.
            let anew = rescued && found.cursor.is_none() && found.sweep;
            if !anew && !self.pulls.contains(&found) {
                return Err(format!("a cursor that never was: {found:?}"));
            }
        }
        if let Some(Some(found)) = seen.count(rows.replica()) {
            let same = |known: &Replica| *known == found || rescued && known.client_id == found.client_id;
            if !self.replicas.iter().any(same) {
                return Err(format!("a replica that never was: {found:?}"));
            }
        }
        if let Some(Some(found)) = seen.count(rows.lease()) {
            if !rescued && !self.leases.contains(&found) {
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
        if self.tasks.get(&found.seq).is_some_and(|of_place| of_place.iter().any(same))
            || rescued && self.tasks.values().flatten().any(same)
        {
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
