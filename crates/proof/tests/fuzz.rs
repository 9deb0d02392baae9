//! What is run under libFuzzer, on stable and in every run: the whole corpus, and changed inputs from seeds.
//!
//! `LANDFALL_SEED=n` runs one life again; the words of a failure hold the input, to be put into `fuzz/corpus/`.

use landfall_proof::fuzz::TARGETS;
use landfall_testkit::campaign::{self, Campaign, Figures};
use landfall_testkit::mutate::Fuzzed;
use std::path::Path;
use std::time::Instant;

/// Lives in every run, one target each, in turn.
const LIVES: u64 = 420;
/// Changed inputs of one life of the cheapest target.
const SHARE: u32 = 1_000;

fn corpus() -> Vec<Fuzzed> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    TARGETS.iter().map(|target| Fuzzed::load(*target, &corpus)).collect()
}

#[test]
fn every_input_of_the_corpus_keeps_the_laws() {
    let started = Instant::now();
    let mut figures = Figures::new();
    let mut broken = String::new();
    for fuzzed in corpus() {
        match fuzzed.replay() {
            Ok(done) => campaign::add(&mut figures, &done),
            Err(what) => broken.push_str(&format!("{what}\n\n")),
        }
    }
    campaign::note("fuzz", started.elapsed(), &figures);
    assert!(broken.is_empty(), "{broken}");
}

#[test]
fn changed_inputs_keep_the_laws() {
    let corpus = corpus();
    Campaign::new("fuzz", LIVES).run(|seed| corpus[seed as usize % corpus.len()].live(seed, SHARE));
}
