//! A store that is opened again, by another process or after a failed commit: what is known of the world outside stays
//! known, and nobody's answers are taken for somebody else's.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use bench::{Bench, capabilities, open};
use landfall_core::adapter::{Capabilities, EffectClass};
use landfall_core::change::Change;
use landfall_core::config::{Config, RetryConfig};
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, FailureKind};
use landfall_core::machine::SessionEnd;
use std::time::Duration;

#[test]
fn a_late_answer_to_a_process_that_is_gone_is_not_taken_for_the_answer_to_ours() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    let old = bench.last_sent();
    bench.crash();
    bench.sync();
    let ours = bench.last_sent();
    assert_eq!((bench.sent.len(), ours.tasks[0].key), (2, old.tasks[0].key));
    bench.fail(&old, FailureKind::Transient, Delivery::Unknown);
    assert_eq!((bench.counts().in_flight, bench.machine.gate().is_none()), (1, true));
    bench.apply(&ours, "1");
    assert_eq!(bench.counts().total(), 0);
}

/// After a failed commit, or for another account, a machine takes over from the one before: on another store too.
#[test]
fn a_machine_that_follows_another_takes_no_answer_to_it_for_its_own() {
    let mut old = Bench::new();
    old.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    old.sync();
    let mut bench = Bench::new();
    bench.machine.follow(&old.machine);
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    bench.sync();
    bench.fail(&old.last_sent(), FailureKind::Transient, Delivery::Unknown);
    assert_eq!((bench.counts().in_flight, bench.machine.gate().is_none()), (1, true));
}

/// What has not left when a machine is followed is still the account's: it can be forbidden later. What was forbidden
/// before says nothing of the calls to come.
#[test]
fn calls_of_a_machine_that_was_followed_are_forbidden_with_those_of_the_one_that_follows() {
    for before in [false, true] {
        let mut bench = Bench::new();
        bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
        bench.sync();
        if before {
            bench.machine.withdraw_permits();
        }
        let mut anew = open(&mut bench.store, Config::default(), capabilities(EffectClass::OneEffect), 7);
        anew.follow(&bench.machine);
        bench.machine = anew;
        bench.sync();
        let withdrawn = |bench: &Bench, call: usize| bench.contexts[call].permit.is_withdrawn();
        assert_eq!((withdrawn(&bench, 0), withdrawn(&bench, 1)), (before, false));
        bench.machine.withdraw_permits();
        assert_eq!((withdrawn(&bench, 0), withdrawn(&bench, 1)), (true, true));
    }
}

#[test]
fn after_trouble_one_call_goes_ahead_alone_also_when_the_store_had_to_be_opened_anew() {
    for kind in [FailureKind::Transient, FailureKind::Unauthenticated] {
        let one_each = Capabilities { batch_tasks: 1, ..capabilities(EffectClass::OneEffect) };
        let mut bench = Bench::of(Config::default(), one_each.clone());
        for id in ["1", "2", "3"] {
            bench.enqueue(Change::create("note", id).set("a", 1)).unwrap();
        }
        bench.sync();
        for batch in bench.sent.clone() {
            bench.fail(&batch, kind, Delivery::NotSent);
        }
        let sent = bench.sent.len();
        let mut anew = open(&mut bench.store, Config::default(), one_each, 7);
        anew.follow(&bench.machine);
        bench.machine = anew;
        bench.pass(Duration::from_secs(5));
        bench.step(|step, _| {
            step.credentials_changed();
            step.start_session(SessionEnd::OnePass);
        });
        assert_eq!(bench.sent.len(), sent + 1, "{kind:?}");
    }
}

/// Whoever could open the store anew at will could storm otherwise.
#[test]
fn repeats_that_were_made_are_still_counted_when_the_store_had_to_be_opened_anew() {
    let retry = RetryConfig { budget: 3, budget_every: Duration::from_secs(3600), ..RetryConfig::default() };
    let config = Config { retry, ..Config::default() };
    let mut bench = Bench::with(config.clone(), EffectClass::OneEffect);
    bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    for _ in 0..10 {
        let mut anew = open(&mut bench.store, config.clone(), capabilities(EffectClass::OneEffect), 7);
        anew.follow(&bench.machine);
        bench.machine = anew;
        let sent = bench.sent.len();
        bench.sync();
        if bench.sent.len() > sent {
            let batch = bench.last_sent();
            bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
        }
        bench.step(|step, _| step.stop_session());
        bench.pass(Duration::from_secs(1));
    }
    assert!((2..=4).contains(&bench.sent.len()), "{} calls", bench.sent.len());
}

/// Devices with the same settings, which failed in the same moment, do not come again in the same moment.
#[test]
fn each_replica_waits_a_time_of_its_own() {
    for seed in [0, u64::MAX] {
        let mut waits = std::collections::BTreeSet::new();
        for replica in 1..=10 {
            let retry = RetryConfig { seed, ..RetryConfig::default() };
            let config = Config { retry, ..Config::default() };
            let mut bench = Bench::with(config.clone(), EffectClass::OneEffect);
            bench.store = landfall_core::store::memory::MemoryStore::default();
            bench.machine = open(&mut bench.store, config, capabilities(EffectClass::OneEffect), replica);
            bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
            bench.sync();
            let batch = bench.last_sent();
            bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
            let closed = |event: &Event| match event {
                Event::GateClosed { wait, .. } => *wait,
                _ => None,
            };
            waits.extend(bench.events.iter().find_map(closed));
        }
        assert!(waits.len() > 5, "{seed}: {waits:?}");
    }
}
