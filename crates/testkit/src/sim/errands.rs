//! The simulator's second world: the whole life of a task.
//!
//! The first world proves merging and reading; this one proves order, dependencies, groups, names given by the server,
//! what people do with tasks, accounts, upgrades and moves to another device. Two accounts share each device, and one
//! server has a tenant for each. The network, the store and the processes fail as in the first world.
//! `checks.rs` says what must hold; [`Plant`] breaks one rule at a time to show that it is missed. Not simulated here:
//! the disk below the store, damaged rows, and a journal that forgets. Tests: `tests/errands.rs`.

use super::{Runs, Violation};
use std::collections::BTreeMap;

mod app;
mod by_itself;
mod checks;
mod user;
mod world;

/// What one run is made of. The defaults are what `tests/errands.rs` runs.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Devices, each with a store of its own.
    pub devices: usize,
    /// What users do, in all.
    pub actions: u32,
    /// Whether the network and the processes misbehave at all.
    pub faults: bool,
    /// Who starts runs of sync.
    pub runs: Runs,
    /// A rule broken on purpose.
    pub plant: Option<Plant>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self { devices: 2, actions: 70, faults: true, runs: Runs::Drawn, plant: None }
    }
}

/// A broken rule: each is one that a queue is often built with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// What a task waits for is not written down.
    DependenciesForgotten,
    /// The planner does not see the whole group.
    GroupTorn,
    /// What was sent is cancelled as if it had never left.
    SentIsCancelled,
    /// The server's name of a record is not written down.
    IdsForgotten,
    /// Calls go out with the credentials of whoever is there, whoever's they are.
    CredentialsOfWhoeverIsThere,
    /// A task ends as expired although it was sent.
    SentExpires,
    /// The answer to a call of one account is taken for the answer to a call of the other.
    LateAnswerBelieved,
    /// Nobody looks whether something is paused.
    PauseIgnored,
    /// Old payloads go out as they are after the upgrade.
    OldFormatAfterUpgrade,
    /// A task that must not be sent twice is sent again when nobody knows its fate.
    AtMostOnceForgotten,
    /// What is behind a dead letter goes on although the app said that it waits.
    DeadLettersPassed,
}

impl Plant {
    /// Every broken rule.
    pub const ALL: [Self; 11] = [
        Self::DependenciesForgotten,
        Self::GroupTorn,
        Self::SentIsCancelled,
        Self::IdsForgotten,
        Self::CredentialsOfWhoeverIsThere,
        Self::SentExpires,
        Self::LateAnswerBelieved,
        Self::PauseIgnored,
        Self::OldFormatAfterUpgrade,
        Self::AtMostOnceForgotten,
        Self::DeadLettersPassed,
    ];
}

/// What must have happened in many lives, or they prove little.
pub const MUST_HAPPEN: [&str; 52] = [
    "bad answers",
    "calls",
    "calls that were forbidden to leave",
    "cancels done",
    "cancels in flight that came too late",
    "cancels in flight that were in time",
    "cancels of what never left",
    "cancels requested",
    "changes folded",
    "children that went on without their parent",
    "commands",
    "conflicts",
    "conflicts settled",
    "dead letters discarded",
    "dead letters edited",
    "dead letters taken up under a new key",
    "dead letters taken up under the same key",
    "dependencies",
    "edits of what was not sent",
    "effects",
    "explanations",
    "exports",
    "failed commits",
    "fates put before a person",
    "groups enqueued",
    "groups that took effect",
    "ids learnt",
    "deaths",
    "late answers after a switch",
    "late copies",
    "late pages after a switch",
    "orphans",
    "pauses",
    "poison",
    "readings from the beginning",
    "receipts",
    "records named as the server does",
    "references",
    "refusals",
    "repeated changes",
    "resumes",
    "switches",
    "switches with work in flight",
    "tasks annihilated",
    "tasks applied",
    "tasks expired",
    "tasks forked",
    "tasks held",
    "tasks rebased",
    "tasks requeued under a new key",
    "upgrades",
    "waits ended by a person",
];

/// What a run did, to see that it did anything: how often each thing happened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// By what it is called.
    pub counts: BTreeMap<&'static str, u64>,
    /// A hash over everything that happened, in order.
    pub trace: u64,
}

impl Stats {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// How often it happened.
    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// Adds another run's figures; traces are folded together.
    pub fn add(&mut self, other: &Self) {
        for (what, times) in &other.counts {
            *self.counts.entry(what).or_default() += times;
        }
        self.trace = self.trace.rotate_left(5) ^ other.trace;
    }
}

/// Lives one life.
///
/// # Errors
/// The first [`Violation`].
pub fn run(seed: u64, scenario: &Scenario) -> Result<Stats, Violation> {
    world::World::new(seed, scenario.clone()).live()
}
