//! Repeats stay calm (G11): a budget, the backend's own wish, one call ahead of the others, and a probe that carries
//! nothing of the user's.

use super::*;
use crate::bench::open;
use landfall_core::device::DeviceState;
use landfall_core::machine::{Directions, SessionEnd};

#[test]
fn a_network_that_flickers_cannot_make_a_storm() {
    let mut bench = automatic_with(AutoConfig::default(), capabilities(EffectClass::OneEffect));
    bench.enqueue(note("a")).unwrap();
    let end = bench.mono_ms + 60 * 60 * 1000;
    while bench.mono_ms < end {
        bench.wait(SECOND);
        bench.run();
        if bench.machine.is_syncing() {
            refuse(&mut bench, FailureKind::Unreachable);
        }
        bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(false)).unwrap());
        bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(true)).unwrap());
    }
    // 60 in a burst and one in ten seconds, in an hour that would have had some 700 chances.
    let sent = bench.sent.len();
    assert!(sent <= 60 + 360 + 5, "{sent}");
    assert!(sent > 100, "{sent}");
}

#[test]
fn what_the_backend_asked_for_holds_after_a_restart_and_for_whoever_asks() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    ask_for_calm(&mut bench, 30 * MINUTE);
    bench.crash();
    bench.step(|step, _| step.run_by_itself(AutoConfig::default()));
    bench.session(SessionEnd::OnePass, Directions::Both);
    bench.step(|step, _| step.resume_app());
    bench.wait(29 * MINUTE);
    bench.session(SessionEnd::OnePass, Directions::Both);
    assert_eq!(bench.sent.len(), 1, "also a person who asks does not storm");
    let (kind, _) = bench.machine.gate().unwrap();
    assert_eq!(kind, FailureKind::RateLimited);
    while bench.sent.len() == 1 {
        until_due(&mut bench, 2 * MINUTE).expect("it goes on soon after the half hour");
    }
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.crash();
    bench.enqueue(note("b")).unwrap();
    bench.session(SessionEnd::OnePass, Directions::Both);
    assert_eq!(bench.sent.len(), 3, "a good answer ends it for good");
}

#[test]
fn a_clock_that_jumped_makes_the_backends_wish_no_longer_than_the_longest_that_is_believed() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    ask_for_calm(&mut bench, 30 * MINUTE);
    bench.wall_ms -= 365 * 24 * 3600 * 1000;
    bench.crash();
    bench.step(|step, _| step.run_by_itself(AutoConfig::default()));
    let before = bench.mono_ms;
    while bench.sent.len() == 1 {
        until_due(&mut bench, 80 * MINUTE).expect("it goes on");
    }
    assert!(bench.mono_ms - before <= 76 * 60 * 1000);
}

/// After a failed commit the machine is opened anew; the backend has not come back by that.
#[test]
fn what_holds_everything_up_is_kept_when_the_store_had_to_be_opened_anew() {
    for kind in [FailureKind::Unreachable, FailureKind::RateLimited, FailureKind::ServerChanged] {
        let mut bench = automatic();
        bench.enqueue(note("a")).unwrap();
        bench.wait(SECOND);
        refuse(&mut bench, kind);
        let mut anew = open(&mut bench.store, Config::default(), with_probe(), 77);
        anew.follow(&bench.machine);
        assert_eq!(anew.gate().map(|(kind, _)| kind), Some(kind));
        let mut other = open(&mut bench.store, Config::default(), with_probe(), 78).for_identity(Some("ben"));
        other.follow(&bench.machine);
        assert!(other.gate().is_none(), "another account has not met it");
    }
}

/// The device says that it has no network, and the last call has reached nobody: that is still so.
#[test]
fn a_device_without_a_network_stays_calm_when_the_store_had_to_be_opened_anew() {
    let no_probe = capabilities(EffectClass::OneEffect);
    let mut bench = automatic_with(AutoConfig::default(), no_probe.clone());
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(false)).unwrap());
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    refuse(&mut bench, FailureKind::Unreachable);
    let mut anew = open(&mut bench.store, Config::default(), no_probe, 77);
    anew.follow(&bench.machine);
    bench.machine = anew;
    bench.session(SessionEnd::OnePass, Directions::PullOnly);
    bench.wait(SECOND);
    bench.run();
    assert_eq!(bench.sent.len(), 1, "a run has just ended, and the device has no network");
    bench.wait(MINUTE);
    bench.run();
    assert_eq!(bench.sent.len(), 2, "now and then it is tried all the same");
}

#[test]
fn after_trouble_one_call_goes_ahead_alone() {
    let mut bench = automatic_with(
        AutoConfig::default(),
        Capabilities { batch_tasks: 1, ..capabilities(EffectClass::OneEffect) },
    );
    for n in 0..4 {
        bench.enqueue(note(&n.to_string())).unwrap();
    }
    bench.wait(SECOND);
    assert_eq!(bench.sent.len(), 2, "two at once as long as all is well");
    for batch in bench.sent.clone() {
        bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    }
    until_due(&mut bench, MINUTE).unwrap();
    assert_eq!(bench.sent.len(), 3, "one goes ahead");
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(bench.sent.len(), 5, "and the others follow");
}

#[test]
fn many_tasks_that_were_put_off_go_again_in_a_few_calls() {
    let mut bench = automatic();
    for n in 0..400 {
        bench.enqueue(note(&n.to_string())).unwrap();
    }
    bench.wait(3 * SECOND);
    let mut answered = 0;
    while answered < bench.sent.len() {
        let batch = bench.sent[answered].clone();
        answered += 1;
        match bench.mono_ms {
            0..120_000 => bench.outcome(&batch, &Outcome::Retry { after: None, reason: "busy".into() }),
            _ => bench.apply(&batch, "1"),
        }
        while answered == bench.sent.len() && bench.counts().total() > 0 {
            until_due(&mut bench, 16 * MINUTE).expect("something is due");
        }
    }
    assert_eq!(bench.counts().total(), 0);
    // Eight rounds of backoff in two minutes, with a few moments each; one by one it would be some thousands.
    assert!(bench.sent.len() < 200, "{} calls", bench.sent.len());
}

#[test]
fn a_probe_goes_ahead_where_something_in_between_has_answered_and_nothing_of_the_users_with_it() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    refuse(&mut bench, FailureKind::Intercepted);
    for round in 1..20 {
        let waited = until_due(&mut bench, 5 * SECOND).expect("a portal is asked again within seconds");
        assert!(waited <= 5 * SECOND);
        assert_eq!((bench.sent.len(), bench.probes.len()), (1, round));
        let call = *bench.probes.last().unwrap();
        let failure = Failure::new(FailureKind::Intercepted, Delivery::Answered, "a login page");
        bench.step(|step, tx| step.probed(tx, call, &Err(failure)).unwrap());
        let (kind, _) = bench.machine.gate().unwrap();
        assert_eq!(kind, FailureKind::Intercepted);
    }
    until_due(&mut bench, 5 * SECOND).unwrap();
    let call = *bench.probes.last().unwrap();
    bench.step(|step, tx| step.probed(tx, call, &Ok(())).unwrap());
    assert_eq!(bench.sent.len(), 2, "the proof opens the gate, and sending goes on in the same step");
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(bench.counts().total(), 0);
}

/// A portal lets go: the connection it held breaks, and the way is free a moment later.
#[test]
fn however_long_a_portal_has_answered_a_broken_way_is_tried_again_at_once() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    refuse(&mut bench, FailureKind::Intercepted);
    let probed = |bench: &mut Bench, kind| {
        until_due(bench, 5 * SECOND).expect("it is asked again within seconds");
        let call = *bench.probes.last().unwrap();
        let failure = Failure::new(kind, Delivery::Unknown, "as told");
        bench.step(|step, tx| step.probed(tx, call, &Err(failure)).unwrap());
    };
    (0..30).for_each(|_| probed(&mut bench, FailureKind::Intercepted));
    probed(&mut bench, FailureKind::Transient);
    let waited = until_due(&mut bench, MINUTE).unwrap();
    assert!(waited <= SECOND, "{waited:?}");
    let call = *bench.probes.last().unwrap();
    bench.step(|step, tx| step.probed(tx, call, &Ok(())).unwrap());
    assert_eq!(bench.sent.len(), 2);
}

#[test]
fn a_late_or_foreign_answer_to_a_probe_opens_nothing() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    refuse(&mut bench, FailureKind::Unreachable);
    until_due(&mut bench, MINUTE).unwrap();
    let call = *bench.probes.last().unwrap();
    bench.step(|step, _| step.suspend());
    bench.step(|step, tx| step.probed(tx, call, &Ok(())).unwrap());
    assert!(bench.machine.gate().is_some(), "it was abandoned");
    assert!(bench.cancelled.contains(&call));
}

#[test]
fn a_backend_that_answers_a_probe_in_its_own_words_is_there() {
    for (kind, expected) in [
        (FailureKind::Forbidden, None),
        (FailureKind::Unsupported, None),
        (FailureKind::RateLimited, Some(FailureKind::RateLimited)),
        (FailureKind::Transient, Some(FailureKind::Unreachable)),
        (FailureKind::ServerChanged, Some(FailureKind::ServerChanged)),
    ] {
        let mut bench = automatic();
        bench.enqueue(note("a")).unwrap();
        bench.wait(SECOND);
        refuse(&mut bench, FailureKind::Unreachable);
        until_due(&mut bench, MINUTE).unwrap();
        let call = *bench.probes.last().unwrap();
        let failure = Failure::new(kind, Delivery::Answered, "its words");
        bench.step(|step, tx| step.probed(tx, call, &Err(failure)).unwrap());
        assert_eq!(bench.machine.gate().map(|(kind, _)| kind), expected, "{kind:?}");
        assert_eq!(bench.sent.len(), if expected.is_none() { 2 } else { 1 });
    }
}

/// A backend that has just asked for calm is not met by all calls at once, whoever the next process is.
#[test]
fn when_the_calm_is_over_one_call_goes_ahead_alone_also_after_a_restart() {
    let one_by_one = Capabilities { batch_tasks: 1, ..capabilities(EffectClass::OneEffect) };
    let mut bench = automatic_with(AutoConfig::default(), one_by_one);
    for n in 0..4 {
        bench.enqueue(note(&n.to_string())).unwrap();
    }
    bench.wait(SECOND);
    let under_way = bench.sent.clone();
    ask_for_calm(&mut bench, 5 * MINUTE);
    bench.fail(&under_way[0], FailureKind::Cancelled, Delivery::NotSent);
    bench.crash();
    bench.step(|step, _| step.run_by_itself(AutoConfig::default()));
    while bench.sent.len() == under_way.len() {
        until_due(&mut bench, 20 * MINUTE).expect("it goes on");
    }
    assert_eq!(bench.sent.len(), under_way.len() + 1, "one goes ahead");
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(bench.sent.len(), under_way.len() + 3, "and the others follow");
}

/// A calm is over by itself; that another database answers is not.
#[test]
fn a_calm_that_is_remembered_never_opens_what_only_a_person_may_open() {
    let one_by_one = Capabilities { batch_tasks: 1, ..with_probe() };
    let mut bench = automatic_with(AutoConfig::default(), one_by_one.clone());
    for name in ["a", "b"] {
        bench.enqueue(note(name)).unwrap();
    }
    bench.wait(SECOND);
    let under_way = bench.sent.clone();
    ask_for_calm(&mut bench, 5 * MINUTE);
    bench.fail(&under_way[0], FailureKind::ServerChanged, Delivery::Answered);
    // The store refused a commit, and the machine is opened anew.
    let mut anew = open(&mut bench.store, Config::default(), one_by_one, 77);
    anew.follow(&bench.machine);
    bench.machine = anew;
    for _ in 0..20 {
        bench.wait(MINUTE);
        assert_eq!(bench.machine.gate().map(|(kind, _)| kind), Some(FailureKind::ServerChanged));
    }
    assert_eq!(bench.sent.len(), under_way.len());
}

/// Whoever asks for a run: what left last reached nobody, so the way is tried first, without anything of the user's.
#[test]
fn a_wish_to_sync_is_a_reason_to_probe_and_not_to_send_blindly() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    refuse(&mut bench, FailureKind::Unreachable);
    bench.session(SessionEnd::OnePass, Directions::Both);
    assert_eq!((bench.sent.len(), bench.probes.len()), (1, 1));
    // Where it cannot be asked, a call goes ahead in its place, and with all the others: it is a fresh start.
    let one_by_one = Capabilities { batch_tasks: 1, ..capabilities(EffectClass::OneEffect) };
    let mut bench = automatic_with(AutoConfig::default(), one_by_one);
    for n in 0..4 {
        bench.enqueue(note(&n.to_string())).unwrap();
    }
    bench.wait(SECOND);
    for batch in bench.sent.clone() {
        bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    }
    bench.session(SessionEnd::OnePass, Directions::Both);
    assert_eq!((bench.sent.len(), bench.probes.len()), (4, 0));
}
