//! The simulator: the real machine against the real server rules, in a world where everything fails, decided by a seed.
//!
//! It needs no runtime: it is the driver. Several devices, some with two processes on one store, enqueue, sync, crash
//! and lose power of thought between any two steps; the network loses, delays, doubles, cuts and refuses; clocks jump
//! by years. Then everything heals, and all must be well (`checks.rs`). In half of the lives the machines run by
//! themselves, hear rumours and sleep (`habits.rs`), and after healing nobody says anything. A failure names its seed; the
//! same seed fails in the same way for ever. [`Plant`] breaks one rule on purpose, to show that the simulator would notice.
//!
//! Requests are written and answers read by the real sync endpoint codec, and the backend is
//! `landfall_server::state`. Not simulated here: the disk below the store. Tests: `tests/simulator.rs`.

use crate::campaign::Figures;
use landfall_core::merge::rule::Strategy;
use landfall_server::state::MemoryRecords;
use std::fmt;

mod checks;
mod device;
pub mod errands;
mod faulty_store;
mod habits;
pub mod home;
mod network;
mod policy;
mod world;

/// What one run is made of. The defaults are what `tests/simulator.rs` runs.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Devices, each with a store of its own.
    pub devices: usize,
    /// Records that only one device changes, per device.
    pub own_records: usize,
    /// Records that every device changes.
    pub shared_records: usize,
    /// What users do, in all: changes, runs of sync, reads.
    pub actions: u32,
    /// A rule broken on purpose.
    pub plant: Option<Plant>,
    /// Whether the network and the processes misbehave at all.
    pub faults: bool,
    /// The server applies and then no answer arrives, for this long. Virtual time.
    pub deaf_for_ms: u64,
    /// What happens when two devices change the same; `None`: each seed draws strategies and rules of its own.
    pub strategy: Option<Strategy>,
    /// Who starts runs.
    pub runs: Runs,
}

/// Who starts runs of sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Runs {
    /// Half of the seeds one way, half the other.
    #[default]
    Drawn,
    /// Only apps do.
    OnDemand,
    /// Machines do, and in some lives apps too. After healing nobody says anything any more.
    ByThemselves,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            devices: 2,
            own_records: 2,
            shared_records: 1,
            actions: 60,
            plant: None,
            faults: true,
            deaf_for_ms: 0,
            strategy: None,
            runs: Runs::Drawn,
        }
    }
}

/// Every strategy; the custom one is a resolver that each life registers.
pub fn strategies() -> [Strategy; 7] {
    [
        Strategy::LastWriteWins,
        Strategy::ServerWins,
        Strategy::ClientWins,
        Strategy::FieldMerge,
        Strategy::Custom("parity".into()),
        Strategy::Ask,
        Strategy::Fork,
    ]
}

/// A broken rule: each is one that a sync engine is often built with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// The machine's memory changes although the commit failed.
    MemoryBeforeCommit,
    /// What is to be sent leaves although the commit failed.
    EffectsBeforeCommit,
    /// A new edit is folded into a task that was already sent.
    EditsFoldedIntoSent,
    /// The server does not remember keys.
    ServerWithoutKeys,
    /// A remote change is merged while the fate of a task of that record is open.
    MergeWhileUnknown,
    /// A page of the feed is believed although a verdict overtook it.
    OvertakenPageBelieved,
    /// The cursor moves on, and the page does not come in.
    CursorWithoutPage,
    /// The rule's loser is not written down.
    LoserForgotten,
    /// After a round that failed nobody sets the alarm for the next one.
    AlarmDropped,
    /// The host's wish that the app sleeps does not reach the machine.
    SuspensionIgnored,
    /// A request that failed is made again at once, for ever.
    BackoffIgnored,
    /// An answer with status 200 is taken for a yes to everything, whoever wrote it.
    AnyPageBelieved,
    /// The whole record is sent instead of what its user changed.
    WholeRecordSent,
    /// Each time a task is sent, it has a new key.
    FreshKeys,
    /// The server remembers keys for half a minute.
    KeysForgotten,
}

impl Plant {
    /// Every broken rule.
    pub const ALL: [Self; 15] = [
        Self::MemoryBeforeCommit,
        Self::EffectsBeforeCommit,
        Self::EditsFoldedIntoSent,
        Self::ServerWithoutKeys,
        Self::MergeWhileUnknown,
        Self::OvertakenPageBelieved,
        Self::CursorWithoutPage,
        Self::LoserForgotten,
        Self::AlarmDropped,
        Self::SuspensionIgnored,
        Self::BackoffIgnored,
        Self::AnyPageBelieved,
        Self::WholeRecordSent,
        Self::FreshKeys,
        Self::KeysForgotten,
    ];
}

/// What a run did, to see that it did anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Changes that users made and the store took.
    pub changes: u64,
    /// Requests that left a device.
    pub requests: u64,
    /// Effects at the server.
    pub effects: u64,
    /// Answers that never came, came cut, or were not the server's.
    pub bad_answers: u64,
    /// Requests that reached the server more than once.
    pub doubled: u64,
    /// Processes killed.
    pub crashes: u64,
    /// Commits that failed.
    pub failed_commits: u64,
    /// Conflicts met.
    pub conflicts: u64,
    /// Conflicts that a person settled.
    pub decided: u64,
    /// Records that became two.
    pub forks: u64,
    /// Pages of the feed that came in.
    pub pages: u64,
    /// Readings of the feed from its beginning because a cursor had expired.
    pub readings: u64,
    /// Runs that began without anybody saying so, in lives that run by themselves.
    pub runs: u64,
    /// Probes that left a device.
    pub probes: u64,
    /// Times an app was put to sleep.
    pub suspensions: u64,
    /// A hash over everything that happened, in order.
    pub trace: u64,
}

impl Stats {
    /// Adds another run's figures; traces are folded together.
    pub fn add(&mut self, other: &Self) {
        self.changes += other.changes;
        self.requests += other.requests;
        self.effects += other.effects;
        self.bad_answers += other.bad_answers;
        self.doubled += other.doubled;
        self.crashes += other.crashes;
        self.failed_commits += other.failed_commits;
        self.conflicts += other.conflicts;
        self.decided += other.decided;
        self.forks += other.forks;
        self.pages += other.pages;
        self.readings += other.readings;
        self.runs += other.runs;
        self.probes += other.probes;
        self.suspensions += other.suspensions;
        self.trace = self.trace.rotate_left(5) ^ other.trace;
    }
}

/// A promise that was broken, and how to see it again.
#[derive(Clone, PartialEq, Eq)]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// Which promise, and by what.
    pub what: String,
    /// The last things that happened before.
    pub trace: Vec<String>,
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// Lives one life.
///
/// # Errors
/// The first [`Violation`].
pub fn run(seed: u64, scenario: &Scenario) -> Result<Stats, Violation> {
    let (home, server) = (home::MemoryHome::new(scenario.devices), MemoryRecords::new("simulated"));
    run_on(seed, scenario, Box::new(home), Box::new(server)).map(|(stats, _)| stats)
}

/// Lives one life with other stores and another server than those in memory. Returns what went wrong there too.
///
/// # Errors
/// The first [`Violation`].
pub fn run_on(
    seed: u64,
    scenario: &Scenario,
    home: Box<dyn home::Home>,
    server: Box<dyn home::Backend>,
) -> Result<(Stats, Figures), Violation> {
    world::World::new(seed, scenario.clone(), home, server).live()
}
