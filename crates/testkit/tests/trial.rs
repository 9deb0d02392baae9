//! A stranger's backend on trial: a good one passes, and the mistake of a bad one is named.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]
#![allow(dead_code, reason = "the example has a main of its own")]

#[path = "../examples/own_backend.rs"]
mod own_backend;

use landfall_testkit::campaign::Campaign;
use own_backend::life;

#[test]
fn a_backend_that_keeps_the_rules_passes() {
    let figures = Campaign::new("own-backend", 200).run(|seed| life(seed, false));
    assert!(figures["changes"] > figures["seeds"] * 10 && figures["deaths"] > 0, "{figures:?}");
}

#[test]
fn a_backend_that_forgets_its_keys_is_found_out() {
    let found: Vec<String> = (0..50).filter_map(|seed| life(seed, true).err()).collect();
    assert!(found.len() > 10, "{} of 50 lives noticed", found.len());
    let told = found.iter().find(|what| what.starts_with("G3: ")).unwrap();
    assert!(told.contains("took effect 2 times") && told.contains("sends"), "{told}");
}
