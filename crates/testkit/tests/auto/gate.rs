//! What closes the gate, what opens it, and what a good answer is the end of.

use super::*;
use landfall_core::config::{PushConfig, RetryConfig};
use landfall_core::device::DeviceState;
use landfall_core::machine::{Directions, SessionEnd};

fn one_by_one(capabilities: Capabilities) -> Capabilities {
    Capabilities { batch_tasks: 1, ..capabilities }
}

fn plain() -> Capabilities {
    capabilities(EffectClass::OneEffect)
}

fn online(bench: &mut Bench, online: bool) {
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(online)).unwrap());
}

/// Takes whatever was sent, until nothing more comes at this moment.
fn take_all(bench: &mut Bench, from: usize) {
    let mut answered = from;
    while answered < bench.sent.len() {
        let batch = bench.sent[answered].clone();
        bench.apply(&batch, "1");
        answered += 1;
    }
}

#[test]
fn the_longer_nobody_is_there_the_less_often_it_is_tried() {
    let mut bench = automatic_with(AutoConfig::default(), plain());
    bench.enqueue(note("a")).unwrap();
    let mut calls_by_hour = Vec::new();
    for hour in 1..=3 {
        let before = bench.sent.len();
        while bench.mono_ms < hour * 3_600_000 {
            until_due(&mut bench, 20 * MINUTE).expect("it is tried again and again");
            if bench.machine.is_syncing() {
                refuse(&mut bench, FailureKind::Unreachable);
            }
        }
        calls_by_hour.push(bench.sent.len() - before);
    }
    assert!(calls_by_hour[0] < 40 && calls_by_hour[2] < 20, "{calls_by_hour:?}");
    assert!(calls_by_hour[2] >= 3, "nor is it ever given up: {calls_by_hour:?}");
}

/// Whoever is logging in gets on within seconds, and a portal is not asked without end.
#[test]
fn a_portal_is_asked_every_few_seconds_and_not_more_often() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    refuse(&mut bench, FailureKind::Intercepted);
    let begun = bench.mono_ms;
    for _ in 0..60 {
        until_due(&mut bench, 5 * SECOND).expect("within seconds");
        let call = *bench.probes.last().unwrap();
        let failure = Failure::new(FailureKind::Intercepted, Delivery::Answered, "a login page");
        bench.step(|step, tx| step.probed(tx, call, &Err(failure)).unwrap());
    }
    assert!(bench.mono_ms - begun > 60_000, "{} ms for sixty", bench.mono_ms - begun);
}

#[test]
fn every_closing_and_opening_is_told_once_with_its_reason() {
    for (kind, by_itself) in [
        (FailureKind::Unreachable, true),
        (FailureKind::RateLimited, true),
        (FailureKind::Unauthenticated, false),
        (FailureKind::ServerChanged, false),
    ] {
        let mut bench = automatic_with(AutoConfig::default(), plain());
        bench.enqueue(note("a")).unwrap();
        bench.wait(SECOND);
        refuse(&mut bench, kind);
        let closed = |event: &Event| match event {
            Event::GateClosed { why, message, wait } => Some((*why, message.clone(), wait.is_some())),
            _ => None,
        };
        let told: Vec<_> = bench.events.iter().filter_map(closed).collect();
        assert_eq!(told, [(kind, "as told".to_owned(), by_itself)]);
        assert_eq!(events(&bench, |event| *event == Event::GateOpened), 0);
        if by_itself {
            until_due(&mut bench, 20 * MINUTE).unwrap();
        } else if kind == FailureKind::Unauthenticated {
            bench.step(|step, _| step.credentials_changed());
        } else {
            continue;
        }
        assert_eq!(events(&bench, |event| *event == Event::GateOpened), 1, "{kind:?}");
    }
}

/// The word of a device that it has no network counts only while nobody is reached.
#[test]
fn a_good_answer_is_the_end_of_not_having_reached_anybody() {
    let mut bench = automatic_with(AutoConfig::default(), plain());
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    refuse(&mut bench, FailureKind::Unreachable);
    until_due(&mut bench, MINUTE).unwrap();
    take_all(&mut bench, 1);
    online(&mut bench, false);
    let before = bench.sent.len();
    bench.enqueue(note("b")).unwrap();
    bench.wait(SECOND);
    assert_eq!(bench.sent.len(), before + 1, "the device may be wrong: a moment ago somebody was there");
}

#[test]
fn credentials_that_are_refused_twice_in_one_run_are_renewed_twice() {
    let mut bench = automatic_with(AutoConfig::default(), one_by_one(plain()));
    for n in 0..4 {
        bench.enqueue(note(&n.to_string())).unwrap();
    }
    bench.wait(SECOND);
    assert_eq!(bench.sent.len(), 2);
    let under_way = bench.sent.clone();
    for batch in &under_way {
        bench.fail(batch, FailureKind::Unauthenticated, Delivery::Answered);
    }
    bench.step(|step, _| step.credentials_refreshed(true));
    assert_eq!((bench.refreshes, bench.sent.len()), (1, 3), "one call goes ahead alone");
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(bench.sent.len(), 5, "and the others follow together");
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Unauthenticated, Delivery::Answered);
    assert_eq!(bench.refreshes, 2, "these were good once, and have expired");
}

/// A person may take long to answer; nobody is to be asked again in the same moment.
#[test]
fn after_no_fresh_credentials_could_be_had_a_while_passes_from_then_on() {
    let mut bench = automatic_with(AutoConfig::default(), plain());
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    refuse(&mut bench, FailureKind::Unauthenticated);
    bench.wait(60 * MINUTE);
    assert_eq!(bench.sent.len(), 1, "somebody is being asked");
    bench.step(|step, _| step.credentials_refreshed(false));
    assert_eq!(bench.sent.len(), 1);
    let answered = bench.mono_ms;
    while bench.sent.len() == 1 {
        until_due(&mut bench, MINUTE).expect("it is tried again by itself");
    }
    assert_eq!(Duration::from_millis(bench.mono_ms - answered), RetryConfig::default().credentials_base);
}

/// The clock goes back later, to before the moment until which the backend had asked to be left alone.
#[test]
fn a_calm_that_a_good_answer_has_ended_never_comes_back() {
    let mut bench = automatic_with(AutoConfig::default(), plain());
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    ask_for_calm(&mut bench, 10 * MINUTE);
    while bench.sent.len() == 1 {
        until_due(&mut bench, 30 * MINUTE).expect("it goes on");
    }
    take_all(&mut bench, 1);
    bench.wall_ms -= 24 * 3_600_000;
    bench.crash();
    bench.step(|step, _| step.run_by_itself(AutoConfig::default()));
    bench.run();
    assert_eq!(bench.machine.gate(), None);
}

#[test]
fn good_calls_earn_repeats() {
    let retry = RetryConfig { budget: 2, budget_every: 600 * SECOND, ..RetryConfig::default() };
    let push = PushConfig { batch_tasks: 1, ..PushConfig::default() };
    let waits_after = |good: usize| {
        let config = Config { retry: retry.clone(), push: push.clone(), ..Config::default() };
        let mut bench = Bench::of(config, plain());
        bench.step(|step, _| step.run_by_itself(AutoConfig::default()));
        bench.run();
        bench.enqueue(note("first")).unwrap();
        bench.wait(SECOND);
        refuse(&mut bench, FailureKind::Unreachable);
        until_due(&mut bench, MINUTE).expect("one repeat is there at once");
        take_all(&mut bench, 1);
        for n in 1..good {
            bench.enqueue(note(&n.to_string())).unwrap();
        }
        bench.wait(3 * SECOND);
        take_all(&mut bench, 2);
        bench.enqueue(note("last")).unwrap();
        bench.wait(3 * SECOND);
        refuse(&mut bench, FailureKind::Unreachable);
        until_due(&mut bench, 600 * MINUTE).unwrap()
    };
    assert!(waits_after(1) > MINUTE, "all repeats are spent");
    assert!(waits_after(20) <= SECOND);
}

/// A run of an app that asks and reads, with a backend that can be asked whether it is there.
fn drained() -> Bench {
    let mut bench = Bench::of(Config::default(), Capabilities { probe: true, ..with_feed() });
    bench.session(SessionEnd::Drained { within: 600 * MINUTE }, Directions::Both);
    bench
}

fn until_probed(bench: &mut Bench) {
    let before = bench.probes.len();
    while bench.probes.len() == before {
        until_due(bench, MINUTE).expect("it is looked whether somebody is there");
    }
}

fn somebody_is_there(bench: &mut Bench) {
    let call = *bench.probes.last().unwrap();
    bench.step(|step, tx| step.probed(tx, call, &Ok(())).unwrap());
}

#[test]
fn reading_waits_for_the_proof_that_somebody_is_there_and_goes_on_with_it() {
    let mut bench = drained();
    bench.enqueue(note("a")).unwrap();
    bench.page(Vec::new(), "1", false);
    refuse(&mut bench, FailureKind::Unreachable);
    bench.step(|step, _| step.backend_called());
    until_probed(&mut bench);
    assert_eq!((bench.sent.len(), bench.pages.len()), (1, 1));
    somebody_is_there(&mut bench);
    assert_eq!((bench.sent.len(), bench.pages.len()), (2, 2), "in the same step");
}

#[test]
fn the_proof_that_somebody_is_there_ends_the_wait_of_reading() {
    let mut bench = drained();
    for round in 1..10 {
        assert_eq!(bench.pages.len(), round);
        bench.fail_page(FailureKind::Transient);
        if round < 9 {
            while bench.pages.len() == round {
                until_due(&mut bench, 5 * MINUTE).unwrap();
            }
        }
    }
    bench.enqueue(note("a")).unwrap();
    refuse(&mut bench, FailureKind::Unreachable);
    until_probed(&mut bench);
    assert_eq!(bench.pages.len(), 9, "reading is still put off");
    somebody_is_there(&mut bench);
    assert_eq!(bench.pages.len(), 10);
}

#[test]
fn a_network_that_is_back_ends_the_wait_of_reading_as_well() {
    let mut bench = Bench::reading();
    bench.session(SessionEnd::Drained { within: 60 * MINUTE }, Directions::Both);
    for round in 1..8 {
        assert_eq!(bench.pages.len(), round);
        bench.fail_page(FailureKind::Unreachable);
        bench.step(|step, _| step.connectivity_regained());
    }
    // Only as long as there are repeats left.
    let retry = RetryConfig { budget: 2, ..RetryConfig::default() };
    let mut bench = Bench::of(Config { retry, ..Config::default() }, with_feed());
    bench.session(SessionEnd::Drained { within: 60 * MINUTE }, Directions::Both);
    for _ in 0..8 {
        let before = bench.pages.len();
        bench.fail_page(FailureKind::Unreachable);
        bench.step(|step, _| step.connectivity_regained());
        if bench.pages.len() == before {
            return;
        }
    }
    panic!("a network that flickers makes a storm of {} pages", bench.pages.len());
}
