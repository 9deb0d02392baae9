//! A stranger's backend on trial: a good one passes, and each of its mistakes is named.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]
#![allow(dead_code, reason = "the example has a main of its own")]

#[path = "../examples/own_backend.rs"]
mod own_backend;

#[test]
fn a_backend_that_keeps_the_rules_passes() {
    let figures = own_backend::lives(200, false);
    assert!(figures["changes"] > 2_000 && figures["kills"] > 100, "{figures:?}");
}

#[test]
fn a_backend_that_forgets_its_keys_is_found_out_with_a_seed() {
    let found = std::panic::catch_unwind(|| own_backend::lives(50, true)).unwrap_err();
    let report = found.downcast_ref::<String>().unwrap();
    assert!(report.contains("G3: ") && report.contains("took effect 2 times"), "{report}");
    assert!(report.contains("LANDFALL_SEED="), "{report}");
}
