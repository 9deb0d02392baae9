//! Running by itself: when the next run is due, how repeats stay calm, what a run may use, and what is told when nothing
//! moves. One file per promise; the bench is the device, the test is the backend and its clock.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

#[path = "../bench/mod.rs"]
mod bench;

mod budget;
mod calm;
mod gate;
mod reasons;
mod runs;
mod watchdog;

use bench::{Bench, capabilities, with_feed};
use landfall_core::adapter::{Capabilities, EffectClass, Outcome, Rejection};
use landfall_core::change::Change;
use landfall_core::config::{AutoConfig, Config};
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A device that runs by itself, with a backend that can be asked whether it is there.
fn automatic() -> Bench {
    automatic_with(AutoConfig::default(), with_probe())
}

fn with_probe() -> Capabilities {
    Capabilities { probe: true, ..capabilities(EffectClass::OneEffect) }
}

fn automatic_with(settings: AutoConfig, capabilities: Capabilities) -> Bench {
    let mut bench = Bench::of(Config::default(), capabilities);
    bench.step(|step, _| step.run_by_itself(settings));
    bench.run();
    bench
}

/// A device that also reads, and has done so once.
fn reading() -> Bench {
    let mut bench = automatic_with(AutoConfig::default(), with_feed());
    bench.page(Vec::new(), "1", false);
    bench
}

fn note(id: &str) -> Change {
    Change::upsert("note", id).set("text", "some words")
}

fn events(bench: &Bench, wanted: impl Fn(&Event) -> bool) -> usize {
    bench.events.iter().filter(|event| wanted(event)).count()
}

fn refuse(bench: &mut Bench, kind: FailureKind) {
    let batch = bench.last_sent();
    bench.fail(&batch, kind, Delivery::NotSent);
}

fn rejected(code: &str) -> Outcome {
    Outcome::Rejected(Rejection { code: code.into(), message: "not like this".into(), answer: None })
}

/// The backend asks to be left alone for so long.
fn ask_for_calm(bench: &mut Bench, wait: Duration) {
    let batch = bench.last_sent();
    let failure =
        Failure::new(FailureKind::RateLimited, Delivery::Answered, "too many").retry_after(Some(wait));
    bench.answer(&batch, Err(failure));
}

/// Lets time pass until something is due, at most `within`, and does it. How long it took.
fn until_due(bench: &mut Bench, within: Duration) -> Option<Duration> {
    let due = bench.machine.next_wakeup()?.0.saturating_sub(bench.mono_ms);
    let wait = Duration::from_millis(due);
    if wait > within {
        return None;
    }
    bench.pass(wait);
    bench.run();
    Some(wait)
}
