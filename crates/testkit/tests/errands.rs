//! The simulator's second world, run: whatever happens to a task, it ends once and truly.
//!
//! How many lives, and which: see `campaign.rs`. `LANDFALL_SEED=n` prints what happened before the violation.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]
#![allow(clippy::print_stdout, reason = "what was run is shown with `--nocapture`")]

use landfall_testkit::campaign::{Campaign, Figures, note};
use landfall_testkit::sim::Runs;
use landfall_testkit::sim::errands::{MUST_HAPPEN, Plant, Scenario, Stats, run};
use std::time::Instant;

/// Seeds in every run of the tests.
const SEEDS: u64 = 2_000;
/// Seeds within which a planted bug must be found.
const PLANT_SEEDS: u64 = 1_000;
/// Lives in which a planted bug must be found before it counts as found by more than luck.
const FINDS: usize = 3;

/// A violation without what is different in each life.
fn shape(what: &str) -> String {
    let words = what.split_whitespace().filter(|word| !word.chars().any(|c| c.is_ascii_digit()));
    words.take(14).collect::<Vec<_>>().join(" ")
}

/// Lives them all, and shows what went wrong by its shape. Every life of the fast tier is lived twice, and must be the same.
fn live_all(campaign: Campaign, scenario: &Scenario) -> Figures {
    let twice = std::env::var("LANDFALL_TIER").as_deref() == Ok("fast");
    let single = campaign.is_single();
    campaign.run_short(scenario.actions, |seed, actions| {
        let scenario = Scenario { actions, ..scenario.clone() };
        let outcome = run(seed, &scenario);
        if twice && run(seed, &scenario) != outcome {
            return Err("the same seed lived another life the second time".to_owned());
        }
        match outcome {
            Ok(stats) => Ok(stats.counts),
            Err(violation) if single => Err(format!("{violation:?}")),
            Err(violation) => Err(format!("[{}] {}", shape(&violation.what), violation.what)),
        }
    })
}

/// What must be seen in so many lives, unless fewer were asked for.
fn must_happen(figures: &Figures, lives: u64, things: &[&str]) {
    let of = |what: &str| figures.get(what).copied().unwrap_or(0);
    for what in things.iter().filter(|_| of("seeds") >= lives) {
        assert!(of(what) > 0, "it never happened: {what}");
    }
}

#[test]
fn every_task_ends_once_and_truly_in_any_life() {
    let figures = live_all(Campaign::new("second-world", SEEDS), &Scenario::default());
    must_happen(&figures, SEEDS, &MUST_HAPPEN);
}

/// Nobody starts a run, before healing or after it; people switch accounts, log in, and decide, and nothing else.
#[test]
fn accounts_that_run_by_themselves_need_nobody() {
    let by_themselves = Scenario { runs: Runs::ByThemselves, ..Scenario::default() };
    // A conflict behind a change that came to nothing remembered a state that the backend never had.
    if let Err(violation) = run(3846, &by_themselves) {
        panic!("{violation:?}");
    }
    let figures = live_all(Campaign::new("second-world-by-itself", SEEDS / 4), &by_themselves);
    must_happen(&figures, 2, &["runs by themselves", "suspensions", "probes", "calls that slept"]);
}

/// Lives that went wrong once, and what was wrong in them.
#[test]
fn lives_that_failed_once_go_well() {
    for (seed, what) in [
        (2, "tasks that were held for the network stayed held after a restart"),
        (6, "a settled member of a group came back from an old row"),
        (16, "a reference to a record that has its name from the server was lost in an export"),
        (21, "a member of a group was cancelled in flight, and the rest went alone"),
        (35, "a change that left a lane for another name of its record let nobody go on"),
        (43, "what must not be sent twice was sent again by the device that took it over"),
        (50, "a record that was read under the server's name was taken as deleted under the app's"),
        (57, "a payload that was made new was shown in its old format"),
        (92, "a conflict of a task under the server's name could not be written down"),
        (97, "a task under way waited for dead letters that waited for it"),
        (98, "a group waited for the member that had met a conflict, and that for the group"),
        (102, "a task in flight behind a dead letter was forked away"),
        (123, "two changes of one record in a group waited for each other"),
        (131, "a task in flight behind a dead letter went on as a new task"),
        (170, "one record was shown under both its names"),
        (215, "the late verdict of a dead letter put its record back"),
        (326, "a record was missed under the server's name and deleted under the app's"),
        (379, "a task id was given twice"),
        (399, "a folded change stayed held for a network that it did not ask for"),
        (526, "a dead letter, a group and the rest of that group waited in a circle"),
        (562, "a dead letter that had left without a verdict ended as if it had had no effect"),
        (667, "an old page that was staged came in after a newer one"),
        (1055, "a letter that was passed took effect last, and the app did not see it"),
        (1095, "what another device had removed came back beside a dead letter that was taken up again"),
        (1576, "a conflict under the server's name never heard what the server has"),
        (2936, "a group stood still after its holder had vanished"),
        (5050, "a record was shown under both its names, and changed under the one that was deleted"),
        (13575, "a record was shown under both its names beside a dead letter"),
        (4268, "a child whose conflict had waited went although its parent had been given up"),
        (
            6481,
            "a deletion passed the letter that was to create its record, under a name that the server did not know",
        ),
        (9459, "two tasks of one record were in flight, one of them in a group"),
        (11325, "a group was cancelled without the member of which an earlier copy had left"),
        (16069, "a group went although the parent of one of it had been given up"),
        (17333, "two tasks of one record waited for each other after their holder had vanished"),
    ] {
        // They are from a time when only apps started runs.
        if let Err(violation) = run(seed, &Scenario { runs: Runs::OnDemand, ..Scenario::default() }) {
            panic!("{what}: {violation:?}");
        }
    }
    for (seed, what) in [
        (17307, "a child came back from an old row after the death of its other parent"),
        (15222, "a child was let go by a dead letter that was a conflict by then"),
        (26752, "a change was orphaned by one of its own record, under the name that the server gave it"),
        (9600, "a task stayed in flight when the conflict that answered it forked a letter before it"),
        (29867, "a group went together with a letter that had passed one of it and was taken up again"),
        (
            53929,
            "a machine that was opened anew waited for ever for fresh credentials that its predecessor had asked for",
        ),
        (21467, "the same, with nothing left that could be claimed"),
        (33265, "a change passed the create of its record, which had died on its way to another device"),
        (
            56784,
            "a deletion of unknown fate was discarded, and the feed had never brought a record of its type",
        ),
        (42693, "the same in another life"),
        (6291, "a record whose making was heard of too late had been deleted and forgotten by then"),
        (27299, "the same in another life"),
        (12680, "the same, read anew meanwhile"),
        (75769, "the same, heard of while the feed was first read"),
        (
            140014,
            "a verdict of long ago came during a reading, and a record that had been deleted since was kept",
        ),
        (146612, "the same in another life"),
        (
            119846,
            "a letter waited for the change that had passed it, and that for the letter, which had died again",
        ),
        (3881, "no fault: a fork repeated a reference that its user had let go"),
        (12762, "no fault: a record that was made anew repeated such a reference"),
        (15649, "no fault: the same after a decision"),
        (43023, "no fault: the same after a merge"),
        (
            88365,
            "no fault: a letter of a group was orphaned and met a conflict in one step, and a user took it up",
        ),
        (
            79838,
            "no fault: what a pause had held waited longer for the end of a rate limit than the test did",
        ),
        (94067, "no fault: a call still slept when a user took up what it was to send only once"),
        (176312, "no fault: what had taken effect was refused for its content later"),
        (26606, "no fault: the step that put an app to sleep had failed, and it went on"),
    ] {
        // Who starts runs is drawn.
        if let Err(violation) = run(seed, &Scenario::default()) {
            panic!("{what}: {violation:?}");
        }
    }
}

#[test]
fn the_same_seed_lives_the_same_life() {
    for seed in 0..50 {
        assert_eq!(run(seed, &Scenario::default()), run(seed, &Scenario::default()), "seed {seed}");
    }
}

#[test]
fn without_faults_all_is_well_too() {
    let mut total = Stats::default();
    for seed in 0..150 {
        total.add(&run(seed, &Scenario { faults: false, ..Scenario::default() }).unwrap());
    }
    assert_eq!(total.of("failed commits") + total.of("bad answers"), 0);
    assert!(total.of("effects") > 1_000);
}

#[test]
fn each_broken_rule_is_found() {
    let (started, mut found) = (Instant::now(), 0);
    for plant in Plant::ALL {
        let scenario = Scenario { plant: Some(plant), ..Scenario::default() };
        // A life that goes wrong anyway proves nothing.
        let well = |seed: &u64| run(*seed, &Scenario::default()).is_ok();
        let finds = (0..PLANT_SEEDS).filter(|seed| run(*seed, &scenario).is_err()).filter(well);
        let finds: Vec<u64> = finds.take(FINDS).collect();
        println!("{plant:?}: found by the seeds {finds:?}");
        assert_eq!(finds.len(), FINDS, "{plant:?} goes unnoticed");
        found += 1;
    }
    let figures = Figures::from([("planted", Plant::ALL.len() as u64), ("found", found)]);
    note("second-world-plants", started.elapsed(), &figures);
}
