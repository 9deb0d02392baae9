//! All that a store can be asked about, as one value, and what a history of commits allows it to be.
//!
//! It knows stores and positions on a disk's recording, and nothing of how either came about. Tested through
//! `tests/power_loss.rs`, whose planted bugs it has to find.

use landfall_core::conflict::ConflictRecord;
use landfall_core::entity::StoredEntity;
use landfall_core::store::{
    ConflictQuery, Controls, Counts, Lease, PullState, Quarantined, Replica, StoreError, StoreRead,
};
use landfall_core::task::{JournalEntry, Task};
use std::fmt::Write as _;

/// More rows than a proof ever makes.
const ALL: usize = 1_000_000;

/// The logical state of a store.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    /// The queue, in order.
    pub tasks: Vec<Task>,
    counts: Counts,
    pub(crate) entities: Vec<StoredEntity>,
    /// How tasks ended, the last first.
    pub journal: Vec<JournalEntry>,
    pub(crate) conflicts: Vec<ConflictRecord>,
    pub(crate) pull: Option<PullState>,
    quarantined: Vec<Quarantined>,
    pub(crate) replica: Option<Replica>,
    pub(crate) lease: Option<Lease>,
    controls: Option<Controls>,
}

impl State {
    /// Reads everything.
    ///
    /// # Errors
    /// When the store cannot be read, and [`StoreError::Damaged`] when a row of it is damaged.
    pub fn of(rows: &dyn StoreRead) -> Result<Self, StoreError> {
        let tasks = rows.tasks_after(0, ALL)?;
        let entities = rows.entities_after(None, None, ALL)?;
        let journal = rows.journal_entries(None, ALL)?;
        let conflicts = rows.conflicts(&ConflictQuery::default(), ALL)?;
        let damaged: Vec<String> = tasks.damaged.into_iter().map(|row| row.what).collect();
        let damaged = [damaged, entities.damaged, journal.damaged, conflicts.damaged].concat();
        if !damaged.is_empty() {
            return Err(StoreError::Damaged(damaged.join("; ")));
        }
        Ok(Self {
            tasks: tasks.tasks,
            counts: rows.counts()?,
            entities: entities.entities,
            journal: journal.entries,
            conflicts: conflicts.conflicts,
            pull: rows.pull_state()?,
            quarantined: rows.quarantined(ALL)?,
            replica: rows.replica()?,
            lease: rows.lease()?,
            controls: rows.controls()?,
        })
    }

    /// Whether the counters tell the number of tasks.
    pub fn is_counted(&self) -> bool {
        self.counts.total() == self.tasks.len() as u64
    }

    /// In which parts it is not `other`, in a few words.
    pub fn unlike(&self, other: &Self) -> String {
        let mut text = String::new();
        let mut part = |name: &str, same: bool, mine: String, theirs: String| {
            if !same {
                let _ = write!(text, "{name}: {mine} against {theirs}; ");
            }
        };
        let newest = |tasks: &[Task]| {
            let last = tasks.last().map(|task| (task.seq, task.entity.entity_id.clone(), task.state));
            format!("{} to {last:?}", tasks.len())
        };
        let n = |len: usize| len.to_string();
        part("tasks", self.tasks == other.tasks, newest(&self.tasks), newest(&other.tasks));
        let (mine, theirs) = (format!("{:?}", self.counts), format!("{:?}", other.counts));
        part("counts", self.counts == other.counts, mine, theirs);
        part("records", self.entities == other.entities, n(self.entities.len()), n(other.entities.len()));
        part("journal", self.journal == other.journal, n(self.journal.len()), n(other.journal.len()));
        part(
            "conflicts",
            self.conflicts == other.conflicts,
            n(self.conflicts.len()),
            n(other.conflicts.len()),
        );
        part("feed", self.pull == other.pull, format!("{:?}", self.pull), format!("{:?}", other.pull));
        let (mine, theirs) = (format!("{:?}", self.replica), format!("{:?}", other.replica));
        part("replica", self.replica == other.replica, mine, theirs);
        part("lease", self.lease == other.lease, format!("{:?}", self.lease), format!("{:?}", other.lease));
        let rest = self.quarantined == other.quarantined && self.controls == other.controls;
        part("the rest", rest, String::from("one"), String::from("another"));
        text
    }
}

#[derive(Clone, Debug)]
struct Moment {
    state: State,
    /// The steps that the disk had done when its commit began.
    started: usize,
    /// The steps that it had done when its commit returned; `None`: it did not, or with an error.
    acknowledged: Option<usize>,
}

/// The states that a store was in, and those that it may be in.
#[derive(Clone, Debug)]
pub struct History {
    moments: Vec<Moment>,
}

impl History {
    /// Begins with a state that is durable.
    pub fn of(state: State) -> Self {
        Self { moments: vec![Moment { state, started: 0, acknowledged: Some(0) }] }
    }

    /// Begins after a power cut that may have left any of these.
    pub fn of_any(states: &[&State]) -> Self {
        let moment = |(number, state): (usize, &&State)| Moment {
            state: (*state).clone(),
            started: 0,
            acknowledged: (number == 0).then_some(0),
        };
        Self { moments: states.iter().enumerate().map(moment).collect() }
    }

    /// A commit to `state` begins.
    pub fn start(&mut self, state: State, step: usize) {
        self.moments.push(Moment { state, started: step, acknowledged: None });
    }

    /// The commit that began last has returned.
    pub fn acknowledge(&mut self, step: usize) {
        if let Some(last) = self.moments.last_mut() {
            last.acknowledged = Some(step);
        }
    }

    /// The commit that began last is taken as if it had not.
    pub fn take_back(&mut self) {
        self.moments.pop();
    }

    /// What a store may hold whose power goes after `step`: the state that was acknowledged last, or one to which a
    /// commit had begun since.
    pub fn allowed(&self, step: usize) -> Vec<&State> {
        let is_acknowledged = |moment: &Moment| moment.acknowledged.is_some_and(|at| at <= step);
        let base = self.moments.iter().rposition(is_acknowledged).unwrap_or(0);
        let later = self.moments[base + 1..].iter().filter(|moment| moment.started < step);
        std::iter::once(&self.moments[base]).chain(later).map(|moment| &moment.state).collect()
    }

    /// An opening between these two steps showed `state`: from then on that is what was acknowledged.
    ///
    /// # Errors
    /// When it may not show that.
    pub fn saw(&mut self, state: State, from: usize, to: usize) -> Result<(), String> {
        one_of(&state, &self.allowed(usize::MAX))?;
        self.moments.push(Moment { state, started: from, acknowledged: Some(to) });
        Ok(())
    }

    /// Every state, the first too.
    pub fn states(&self) -> Vec<State> {
        self.moments.iter().map(|moment| moment.state.clone()).collect()
    }

    /// The state of the last commit.
    pub fn last(&self) -> Option<&State> {
        self.moments.last().map(|moment| &moment.state)
    }
}

/// Whether `found` is one of those.
///
/// # Errors
/// In what it is not.
pub fn one_of(found: &State, allowed: &[&State]) -> Result<(), String> {
    if !found.is_counted() {
        return Err(format!("the counters are wrong: {found:?}"));
    }
    if allowed.contains(&found) {
        return Ok(());
    }
    let unlike: Vec<String> = allowed.iter().map(|state| found.unlike(state)).collect();
    Err(format!("a state that none of {} may be: {}", allowed.len(), unlike.join(" | ")))
}
