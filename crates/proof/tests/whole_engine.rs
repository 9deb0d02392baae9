//! The whole engine on simulated disks: the lives of the simulator, with every store a real SQLite file.
//!
//! The devices' disks lose power, fail and are full, at operations that a seed chooses; everything that may go wrong in
//! memory goes wrong too. Each life is lived twice, and must be the same. `LANDFALL_SEED=n` shows one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_proof::backend::{DiskBackend, ServerPlant};
use landfall_proof::dice::Dice;
use landfall_proof::home::{DiskHome, Plant};
use landfall_protocol::PushResponse;
use landfall_server::Submission;
use landfall_server::state::{MemoryRecords, Policy, Records, Refusal, push_with};
use landfall_testkit::campaign::{Campaign, Figures, note};
use landfall_testkit::sim::home::Backend;
use landfall_testkit::sim::{Scenario, Stats, run_on};
use std::time::Instant;

/// Lives in every run of the tests.
const LIVES: u64 = 1_500;
/// Lives within which a planted bug must be found.
const PLANT_LIVES: u64 = 600;
/// Lives in which it must be found before it counts as found by more than luck.
const FINDS: usize = 3;

/// Things done in a life at most.
const ACTIONS: u32 = 60;

/// How long a life is follows from its seed.
fn scenario(seed: u64) -> Scenario {
    let actions = 5 + u32::try_from(Dice::new(seed, 13).below(56)).unwrap();
    Scenario { actions, ..Scenario::default() }
}

/// Every second life has its server on a disk, too.
fn server(seed: u64) -> Box<dyn Backend> {
    match Dice::new(seed, 17).percent(50) {
        true => Box::new(DiskBackend::new(seed, None)),
        false => Box::new(MemoryRecords::new("simulated")),
    }
}

fn live(seed: u64, scenario: &Scenario, plant: Option<Plant>) -> Result<(Stats, Figures), String> {
    live_with(seed, scenario, plant, || server(seed))
}

fn live_with(
    seed: u64,
    scenario: &Scenario,
    plant: Option<Plant>,
    server: impl Fn() -> Box<dyn Backend>,
) -> Result<(Stats, Figures), String> {
    let home = DiskHome::new(seed, scenario.devices, plant);
    run_on(seed, scenario, Box::new(home), server()).map_err(|violation| format!("{violation:?}"))
}

fn live_twice(seed: u64, actions: u32) -> Result<Figures, String> {
    let drawn = scenario(seed);
    let scenario = Scenario { actions: drawn.actions.min(actions), ..drawn };
    let (stats, mut figures) = live(seed, &scenario, None)?;
    if live(seed, &scenario, None)? != (stats, figures.clone()) {
        return Err("the same seed lives another life".into());
    }
    figures.insert("changes", stats.changes);
    figures.insert("requests", stats.requests);
    figures.insert("crashes", stats.crashes);
    figures.insert("failed commits", stats.failed_commits);
    Ok(figures)
}

#[test]
fn nothing_is_lost_doubled_or_overwritten_on_any_disk() {
    let figures = Campaign::new("whole-engine", LIVES).run_short(ACTIONS, live_twice);
    println!("{figures:?}");
    for trouble in ["images", "deaths", "faults"] {
        assert!(figures["seeds"] < 50 || figures.get(trouble).is_some_and(|times| *times > 0), "{trouble}");
    }
}

/// Lives that went wrong once, and what was wrong in them.
#[test]
fn lives_that_failed_once_go_well() {
    for (seed, what) in [
        (192, "the disk lost a log whose maker had died before its first sync"),
        (
            1775,
            "a change that takes another back gave out no time, and was believed although its commit had not landed",
        ),
        (2441, "the same, with a count"),
        (
            2843,
            "no fault: what one process could not commit was found in the log after another had only read",
        ),
        (359, "a process was killed after a sync had failed, and what came behind was lost with the power"),
    ] {
        if let Err(violation) = live(seed, &scenario(seed), None) {
            panic!("{what}: {violation}");
        }
    }
}

/// A server that answers before its commit, and sometimes loses its power in between.
#[derive(Debug)]
struct Hasty {
    records: MemoryRecords,
    dice: Dice,
    healed: bool,
}

impl Backend for Hasty {
    fn push(&mut self, policy: &dyn Policy, request: &Submission) -> Option<Result<PushResponse, Refusal>> {
        let before = self.records.clone();
        let answer = push_with(&mut self.records, policy, request);
        if !self.healed && !before.effects().is_empty() && self.dice.percent(10) {
            self.records = before;
        }
        Some(answer)
    }
    fn read(&mut self, with: &mut dyn FnMut(&dyn Records)) -> bool {
        with(&self.records);
        true
    }
    fn truth(&self) -> &MemoryRecords {
        &self.records
    }
    fn verify(&mut self) -> Result<(), String> {
        Ok(())
    }
    fn heal(&mut self) {
        self.healed = true;
    }
    fn figures(&self) -> Figures {
        Figures::new()
    }
}

#[test]
fn each_broken_disk_or_server_is_found() {
    let started = Instant::now();
    let found = |name: &str, fails: &dyn Fn(u64) -> bool| {
        let finds: Vec<u64> = (0..PLANT_LIVES).filter(|seed| fails(*seed)).take(FINDS).collect();
        println!("{name}: found by the seeds {finds:?}");
        finds.len() == FINDS
    };
    let disk = |plant| move |seed| live(seed, &scenario(seed), Some(plant)).is_err();
    let hasty = |seed| {
        let records = MemoryRecords::new("simulated");
        let server =
            || Box::new(Hasty { records: records.clone(), dice: Dice::new(seed, 14), healed: false });
        live_with(seed, &scenario(seed), None, || server() as Box<dyn Backend>).is_err()
    };
    let lying_server = |seed| {
        let server = || Box::new(DiskBackend::new(seed, Some(ServerPlant::LyingSync)));
        live_with(seed, &scenario(seed), None, || server() as Box<dyn Backend>).is_err()
    };
    let all = [
        found("a disk that lies about syncs", &disk(Plant::LyingSync)),
        found("no durable write at opening", &disk(Plant::NoBarrier)),
        found("a server that answers before its commit", &hasty),
        found("a disk of the server that lies about syncs", &lying_server),
    ];
    let count = all.iter().filter(|found| **found).count() as u64;
    note("whole-engine-plants", started.elapsed(), &Figures::from([("planted", 4), ("found", count)]));
    assert_eq!(count, 4, "{all:?}");
}
