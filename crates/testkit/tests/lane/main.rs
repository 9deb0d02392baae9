//! A lane as a model that is walked through whole: every order of edits, losses, late copies, crashes, pages and the edits
//! of another client, within bounds. The rules as they are hold; each rule that other engines get wrong is refuted.
//!
//! The model comes first: whoever changes what may be folded, frozen, melted or believed changes `model.rs`, and
//! `replay.rs` shows that the machine does the same (ADR 0021).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]
#![allow(clippy::print_stdout, reason = "what was walked is shown with `--nocapture`")]

#[path = "../bench/mod.rs"]
mod bench;
mod model;
mod replay;

use landfall_testkit::campaign::{Figures, note};
use model::{Bounds, LaneModel, Rule};
use stateright::{Checker as _, HasDiscoveries, Model as _};
use std::time::Instant;

/// In each run; the nightly tier has one edit and one crash more.
const BOUNDS: Bounds = Bounds { edits: 3, others: 1, crashes: 1, timeouts: 2, pages: 1, in_the_air: 2 };

fn bounds() -> Bounds {
    match std::env::var("LANDFALL_TIER").as_deref() {
        Ok("nightly") => Bounds { edits: 4, crashes: 2, ..BOUNDS },
        _ => BOUNDS,
    }
}

/// G3, G4, G6, G8, G9 and what an acknowledgement means, in every state within the bounds.
#[test]
fn the_rules_of_a_lane_hold_in_every_state() {
    let started = Instant::now();
    let checker = LaneModel { rule: Rule::Right, bounds: bounds() }.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "the model hardly moves");
    note("lane-model", started.elapsed(), &Figures::from([("states", checker.unique_state_count() as u64)]));
}

#[test]
fn each_wrong_rule_is_refuted() {
    let started = Instant::now();
    let mut found = 0;
    for (rule, broken) in Rule::WRONG {
        let model = LaneModel { rule, bounds: BOUNDS };
        let enough = HasDiscoveries::AnyOf([broken].into());
        let checker = model.checker().finish_when(enough).threads(2).spawn_bfs().join();
        let path = checker.discovery(broken);
        println!("{rule:?}: {:?}", path.as_ref().map(|path| path.clone().into_actions()));
        assert!(path.is_some(), "{rule:?} goes unnoticed: {broken}");
        found += 1;
    }
    let planted = Rule::WRONG.len() as u64;
    note("lane-plants", started.elapsed(), &Figures::from([("planted", planted), ("found", found)]));
}
