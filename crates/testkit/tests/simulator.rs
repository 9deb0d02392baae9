//! The simulator, run: what must hold holds, and each rule that is taken away is missed.
//!
//! `LANDFALL_SEED=n` runs one seed and prints what happened before the violation; `LANDFALL_SEEDS=n` runs that many.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_testkit::sim::{Plant, Scenario, Stats, run};

/// Seeds in every run of the tests.
const SEEDS: u64 = 3_000;
/// Seeds within which a planted bug must be found.
const PLANT_SEEDS: u64 = 1_000;

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("LANDFALL_SEED") {
        Some(seed) => seed..seed + 1,
        // `cargo xtask test --fast` asks for a quick look.
        None if std::env::var("LANDFALL_TIER").as_deref() == Ok("fast") => 0..default / 10,
        None => 0..number("LANDFALL_SEEDS").unwrap_or(default),
    }
}

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

#[test]
fn nothing_is_lost_doubled_or_overwritten_in_any_life() {
    let total = run_all(seeds(SEEDS), &Scenario::default());
    println!("{total:?}");
}

#[test]
fn the_same_seed_lives_the_same_life() {
    for seed in 0..100 {
        assert_eq!(run(seed, &Scenario::default()), run(seed, &Scenario::default()), "seed {seed}");
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
        let scenario = Scenario { faults: false, deaf_for_ms: HOUR_MS, ..Scenario::default() };
        let stats = run(seed, &scenario).unwrap_or_else(|violation| panic!("{violation:?}"));
        // Every request before the end of the hour was applied unheard, and sent again.
        assert!(stats.requests > stats.effects / 3 + 2, "{stats:?}");
        assert!(stats.bad_answers > 0 && stats.effects > 0, "{stats:?}");
    }
}

#[test]
fn each_broken_rule_is_found() {
    for plant in Plant::ALL {
        let scenario = Scenario { plant: Some(plant), ..Scenario::default() };
        let found = (0..PLANT_SEEDS).filter(|seed| run(*seed, &scenario).is_err()).count();
        println!("{plant:?}: found in {found} of {PLANT_SEEDS} lives");
        assert!(found > 0, "{plant:?} was never noticed");
    }
}
