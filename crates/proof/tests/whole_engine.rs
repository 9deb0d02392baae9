//! The whole engine on simulated disks: the lives of the simulator, with every store a real SQLite file.
//!
//! The devices' disks lose power, fail and are full, at operations that a seed chooses; everything that may go wrong in
//! memory goes wrong too. Each life is lived twice, and must be the same. `LANDFALL_SEED=n` shows one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_proof::home::{DiskHome, Lots};
use landfall_server::state::MemoryRecords;
use landfall_testkit::campaign::{Campaign, Figures};
use landfall_testkit::sim::{Scenario, Stats, run_on};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Lives in every run of the tests.
const LIVES: u64 = 1_500;

/// How long a life is follows from its seed.
fn scenario(seed: u64) -> Scenario {
    let actions = 5 + u32::try_from(Lots::new(seed, 13).below(56)).unwrap();
    Scenario { actions, ..Scenario::default() }
}

fn live(seed: u64, scenario: &Scenario) -> Result<(Stats, Figures), String> {
    let once = || {
        let home = DiskHome::new(seed, scenario.devices, None);
        run_on(seed, scenario, Box::new(home), Box::new(MemoryRecords::new("simulated")))
    };
    match catch_unwind(AssertUnwindSafe(once)) {
        Ok(outcome) => outcome.map_err(|violation| format!("{violation:?}")),
        Err(_) => Err("a panic".into()),
    }
}

fn live_twice(seed: u64) -> Result<Figures, String> {
    let scenario = scenario(seed);
    let (stats, mut figures) = live(seed, &scenario)?;
    if live(seed, &scenario)? != (stats, figures.clone()) {
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
    let figures = Campaign::new("whole-engine", LIVES).run(live_twice);
    println!("{figures:?}");
    for trouble in ["images", "kills", "faults"] {
        assert!(figures["seeds"] < 50 || figures.get(trouble).is_some_and(|times| *times > 0), "{trouble}");
    }
}

/// Lives that went wrong once, and what was wrong in them.
#[test]
fn lives_that_failed_once_go_well() {
    for (seed, what) in [
        (192, "the disk lost a log whose maker had died before its first sync"),
        (359, "a process was killed after a sync had failed, and what came behind was lost with the power"),
    ] {
        if let Err(violation) = live(seed, &scenario(seed)) {
            panic!("{what}: {violation}");
        }
    }
}
