//! The simulator, run: what must hold holds, and each rule that is taken away is missed.
//!
//! `LANDFALL_SEED=n` lives one life and shows what happened before the violation; more: `testkit/src/campaign.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_testkit::campaign::{Campaign, Figures, note};
use landfall_testkit::sim::{Plant, Runs, Scenario, Stats, run, strategies};
use std::time::Instant;

/// Lives in every run of the tests.
const LIVES: u64 = 34_000;
/// Lives without anybody who says when to sync.
const ALONE: u64 = 400;
/// Seeds within which a planted bug must be found.
const PLANT_SEEDS: u64 = 1_000;
/// Lives in which a planted bug must be found before it counts as found by more than luck.
const FINDS: usize = 5;
/// Seeds for each strategy by itself.
const STRATEGY_SEEDS: u64 = 150;

fn run_all(range: std::ops::Range<u64>, scenario: &Scenario) -> Stats {
    let mut total = Stats::default();
    for seed in range {
        match run(seed, scenario) {
            Ok(stats) => total.add(&stats),
            Err(violation) => panic!("{violation:?}"),
        }
    }
    total
}

fn figures(stats: &Stats) -> Figures {
    Figures::from([
        ("changes", stats.changes),
        ("requests", stats.requests),
        ("effects", stats.effects),
        ("crashes", stats.crashes),
        ("failed commits", stats.failed_commits),
        ("conflicts", stats.conflicts),
        ("probes", stats.probes),
        ("suspensions", stats.suspensions),
        ("runs", stats.runs),
    ])
}

fn live(seed: u64, scenario: &Scenario) -> Result<Figures, String> {
    run(seed, scenario).map(|stats| figures(&stats)).map_err(|violation| format!("{violation:?}"))
}

#[test]
fn nothing_is_lost_doubled_or_overwritten_in_any_life() {
    let scenario = Scenario::default();
    let total = Campaign::new("first-world", LIVES)
        .run_short(scenario.actions, |seed, actions| live(seed, &Scenario { actions, ..scenario.clone() }));
    println!("{total:?}");
}

/// Nobody says when to sync, before healing or after it: devices hear rumours, sleep, and go on by themselves.
#[test]
fn devices_that_run_by_themselves_need_nobody() {
    let scenario = Scenario { runs: Runs::ByThemselves, ..Scenario::default() };
    let total = Campaign::new("first-world-alone", ALONE).run(|seed| live(seed, &scenario));
    println!("{total:?}");
    assert!(total["seeds"] < 10 || (total["probes"] > 0 && total["suspensions"] > 0), "{total:?}");
    assert!(total["seeds"] < 10 || total["runs"] > total["requests"] / 4, "{total:?}");
}

#[test]
fn the_same_seed_lives_the_same_life() {
    for seed in 0..100 {
        assert_eq!(run(seed, &Scenario::default()), run(seed, &Scenario::default()), "seed {seed}");
    }
}

/// Lives that went wrong once, and what was wrong in them.
#[test]
fn lives_that_failed_once_go_well() {
    for (seed, what) in [
        (18, "a backend whose cursors expire at once was asked without end"),
        (374, "a conflict was settled from a state that an earlier one had made old"),
        (
            1149,
            "another process heard of a record while the last page was under way, and it was taken as deleted",
        ),
        (1562, "a fork left out what was queued behind"),
        (1789, "a record made anew overwrote what its user had not touched"),
        (359, "a record that was confirmed before the first page was never missed"),
        (4541, "a record that was confirmed while a reading was swept was taken as deleted"),
        (12231, "a record made anew behind another conflict overwrote what its user had not touched"),
        (25195, "what was counted behind a waiting conflict counted wrongly"),
        (32211, "a staged state outlived its record"),
    ] {
        // They are from a time when only apps started runs.
        if let Err(violation) = run(seed, &Scenario { runs: Runs::OnDemand, ..Scenario::default() }) {
            panic!("{what}: {violation:?}");
        }
    }
    for (seed, what) in [
        (26297, "a deletion that a reading had missed hid the version of its own verdict"),
        (
            472765,
            "a verdict of long ago came during a reading, and a record that had been deleted since was kept",
        ),
        (495972, "the same in another life"),
        (500171, "after too many rounds, a record made anew overwrote what its user had not touched"),
        (301113, "the same, when the backend had refused it without saying what it has"),
        (
            389034,
            "a run that ended the look for missing records of an earlier one did not read what came after it",
        ),
        (397171, "the same in another life"),
    ] {
        if let Err(violation) = run(seed, &Scenario::default()) {
            panic!("{what}: {violation:?}");
        }
    }
}

#[test]
fn without_faults_all_is_well_too() {
    let total = run_all(0..200, &Scenario { faults: false, ..Scenario::default() });
    assert_eq!(total.crashes + total.failed_commits, 0);
    assert!(total.effects > 1_000);
}

/// The server applies every batch and then drops the reply, for an hour of virtual time.
#[test]
fn a_deaf_hour_gives_one_effect_each() {
    const HOUR_MS: u64 = 3600 * 1000;
    for seed in 0..100 {
        let scenario =
            Scenario { faults: false, deaf_for_ms: HOUR_MS, runs: Runs::OnDemand, ..Scenario::default() };
        let stats = run(seed, &scenario).unwrap_or_else(|violation| panic!("{violation:?}"));
        // Every request before the end of the hour was applied unheard, and sent again.
        assert!(stats.requests > stats.effects / 3 + 2, "{stats:?}");
        assert!(stats.bad_answers > 0 && stats.effects > 0, "{stats:?}");
    }
}

/// Any number of replicas that exchange edits through one server end alike, whatever the strategy, deletes included,
/// clocks wrong by years.
#[test]
fn replicas_converge_under_every_strategy() {
    for (devices, strategy) in [2, 3, 5].into_iter().cycle().zip(strategies()) {
        let scenario = Scenario {
            devices,
            own_records: 1,
            shared_records: 2,
            strategy: Some(strategy.clone()),
            ..Scenario::default()
        };
        let total = run_all(0..STRATEGY_SEEDS, &scenario);
        println!("{strategy}, {devices} devices: {total:?}");
        assert!(total.conflicts > 50 && total.readings > 10, "{strategy}: {total:?}");
    }
}

#[test]
fn each_broken_rule_is_found() {
    let started = Instant::now();
    for plant in Plant::ALL {
        let scenario = Scenario { plant: Some(plant), ..Scenario::default() };
        let finds = (0..PLANT_SEEDS).filter(|seed| run(*seed, &scenario).is_err());
        let finds: Vec<u64> = finds.take(FINDS).collect();
        println!("{plant:?}: found by the seeds {finds:?}");
        assert_eq!(finds.len(), FINDS, "{plant:?} goes unnoticed");
    }
    let plants = Plant::ALL.len() as u64;
    note("first-world-plants", started.elapsed(), &Figures::from([("planted", plants), ("found", plants)]));
}
