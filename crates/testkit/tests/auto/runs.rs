//! A run begins by itself: after a change, when a retry is due, on every hint, and after a round that failed.

use super::*;
use landfall_core::device::{Conditions, Constraint, DeviceState};
use landfall_core::machine::{Directions, Scope, SessionEnd};
use landfall_core::time::Timestamp;

#[test]
fn a_change_goes_a_moment_later_together_with_those_that_came_meanwhile() {
    let mut bench = automatic();
    for round in 1..=2 {
        bench.enqueue(note(&format!("a{round}"))).unwrap();
        bench.pass(Duration::from_millis(150));
        bench.enqueue(note(&format!("b{round}"))).unwrap();
        assert_eq!(bench.sent.len(), round - 1, "it waits for others");
        bench.wait(Duration::from_millis(199));
        assert_eq!(bench.sent.len(), round - 1);
        bench.wait(Duration::from_millis(1));
        assert_eq!((bench.sent.len(), bench.last_sent().tasks.len()), (round, 2));
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
        bench.wait(MINUTE);
    }
}

#[test]
fn a_stream_of_changes_puts_a_run_off_for_two_seconds_at_most() {
    let mut bench = automatic();
    for n in 0..20 {
        bench.enqueue(note(&n.to_string())).unwrap();
        bench.wait(Duration::from_millis(100));
    }
    assert_eq!(bench.sent.len(), 1);
}

#[test]
fn nothing_runs_by_itself_before_it_is_switched_on_and_after_it_is_switched_off() {
    let mut bench = Bench::new();
    bench.enqueue(note("a")).unwrap();
    bench.wait(MINUTE);
    assert!(bench.sent.is_empty());
    bench.step(|step, _| step.run_by_itself(AutoConfig::default()));
    bench.run();
    assert_eq!(bench.sent.len(), 1, "what was there is sent at once");
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.step(|step, _| step.run_on_demand());
    bench.enqueue(note("b")).unwrap();
    bench.wait(MINUTE);
    assert_eq!(bench.sent.len(), 1);
}

#[test]
fn a_round_that_failed_is_tried_again_without_a_new_write() {
    for kind in [FailureKind::Unreachable, FailureKind::Transient, FailureKind::RateLimited] {
        let mut bench = automatic_with(AutoConfig::default(), capabilities(EffectClass::OneEffect));
        bench.enqueue(note("a")).unwrap();
        bench.wait(SECOND);
        for round in 1..12 {
            assert_eq!(bench.sent.len(), round, "{kind:?}");
            refuse(&mut bench, kind);
            while bench.sent.len() == round {
                until_due(&mut bench, 16 * MINUTE).expect("something is due within the cap");
            }
        }
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
        assert_eq!(bench.counts().total(), 0);
    }
}

#[test]
fn a_task_that_was_put_off_goes_when_it_is_due_also_after_a_restart() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Retry { after: Some(MINUTE), reason: "busy".into() });
    bench.crash();
    bench.step(|step, _| step.run_by_itself(AutoConfig::default()));
    bench.wait(MINUTE - SECOND);
    assert_eq!(bench.sent.len(), 1);
    bench.wait(2 * SECOND);
    assert_eq!(bench.sent.len(), 2);
}

#[test]
fn a_moment_that_the_app_asked_for_begins_a_run() {
    let mut bench = automatic();
    let at = Timestamp(bench.wall_ms + 5_000);
    bench.enqueue(note("a").not_before(at)).unwrap();
    bench.wait(Duration::from_millis(4_999));
    assert!(bench.sent.is_empty());
    bench.wait(Duration::from_millis(1));
    bench.run();
    assert_eq!(bench.sent.len(), 1);
}

#[test]
fn the_backend_is_read_at_an_interval_and_when_it_calls() {
    let mut bench = reading();
    assert_eq!(bench.pages.len(), 1);
    let waited = until_due(&mut bench, 6 * MINUTE).unwrap();
    assert!(waited >= 5 * MINUTE, "{waited:?}");
    assert_eq!(bench.pages.len(), 2);
    bench.page(Vec::new(), "1", false);
    bench.step(|step, _| step.backend_called());
    let waited = until_due(&mut bench, 5 * SECOND).unwrap();
    assert!(waited <= 5 * SECOND);
    assert_eq!(bench.pages.len(), 3);
}

#[test]
fn a_reading_that_failed_is_tried_again_and_sending_does_not_read() {
    let mut bench = reading();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    assert_eq!((bench.sent.len(), bench.pages.len()), (1, 1));
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.wait(SECOND);
    bench.run();
    assert_eq!(bench.pages.len(), 1, "it was read a moment ago");
    bench.step(|step, _| step.resume_app());
    assert_eq!(bench.pages.len(), 2);
    bench.fail_page(FailureKind::Transient);
    until_due(&mut bench, MINUTE).unwrap();
    assert_eq!(bench.pages.len(), 3);
}

#[test]
fn what_is_heard_of_the_network_ends_a_wait_within_seconds_and_never_in_the_same_instant() {
    let mut waits = std::collections::BTreeSet::new();
    for n in 0..20 {
        let mut bench = automatic_with(AutoConfig::default(), capabilities(EffectClass::OneEffect));
        // Another random stream for each device.
        (0..n).for_each(|_| bench.step(|step, _| step.wake()));
        bench.enqueue(note("a")).unwrap();
        bench.wait(SECOND);
        for _ in 0..8 {
            refuse(&mut bench, FailureKind::Unreachable);
            let sent = bench.sent.len();
            while bench.sent.len() == sent {
                until_due(&mut bench, 16 * MINUTE).unwrap();
            }
        }
        refuse(&mut bench, FailureKind::Unreachable);
        let sent = bench.sent.len();
        let far = bench.machine.next_wakeup().unwrap().0 - bench.mono_ms;
        bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(false)).unwrap());
        bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(true)).unwrap());
        let mut waited = Duration::ZERO;
        while bench.sent.len() == sent {
            waited += until_due(&mut bench, 16 * MINUTE).unwrap();
        }
        assert!(waited <= 5 * SECOND || waited.as_millis() as u64 <= far, "{waited:?}");
        waits.insert(waited);
    }
    assert!(waits.len() > 10, "{waits:?}");
}

#[test]
fn a_device_without_a_network_is_tried_now_and_then_because_it_may_be_wrong() {
    let mut bench = automatic();
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(false)).unwrap());
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    assert_eq!(bench.sent.len(), 1, "its word alone holds nothing up");
    refuse(&mut bench, FailureKind::Unreachable);
    bench.wait(MINUTE - SECOND);
    assert_eq!((bench.sent.len(), bench.probes.len()), (1, 0), "with a failure it does");
    bench.wait(2 * SECOND);
    bench.run();
    let call = *bench.probes.last().unwrap();
    bench.step(|step, tx| step.probed(tx, call, &Ok(())).unwrap());
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(bench.counts().total(), 0, "the device was wrong, and nothing was lost by it");
    bench.enqueue(note("b")).unwrap();
    bench.wait(SECOND);
    assert_eq!(bench.sent.len(), 3, "a call that got through counts for more than what the device believes");
}

#[test]
fn nothing_runs_while_a_condition_is_not_met_but_the_app_may_ask() {
    let conditions = Conditions { battery_percent_min: 20, ..Conditions::default() };
    let mut bench = automatic_with(AutoConfig { conditions, ..AutoConfig::default() }, with_probe());
    let low = DeviceState { battery_percent: Some(5), charging: Some(false), ..DeviceState::default() };
    bench.step(|step, tx| step.device_changed(tx, &low).unwrap());
    let unmet = Some(Constraint::BatteryLow);
    assert_eq!(events(&bench, |event| *event == Event::ConditionsChanged { unmet }), 1);
    bench.enqueue(note("a")).unwrap();
    bench.wait(60 * MINUTE);
    assert!(bench.sent.is_empty());
    assert_eq!(events(&bench, |event| matches!(event, Event::ConditionsChanged { .. })), 1, "told once");
    bench.session(SessionEnd::OnePass, Directions::Both);
    assert_eq!(bench.sent.len(), 1);
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.enqueue(note("b")).unwrap();
    let charging = DeviceState { charging: Some(true), ..DeviceState::default() };
    bench.step(|step, tx| step.device_changed(tx, &charging).unwrap());
    bench.wait(SECOND);
    assert_eq!(bench.sent.len(), 2);
}

#[test]
fn a_sleeping_app_hands_everything_back_in_one_step_and_begins_nothing() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    assert!(bench.machine.leads());
    bench.step(|step, _| step.suspend());
    assert!(!bench.machine.leads() && !bench.machine.is_syncing());
    assert_eq!(bench.cancelled.len(), 1);
    bench.enqueue(note("b")).unwrap();
    bench.wait(60 * MINUTE);
    assert_eq!(bench.sent.len(), 1);
    bench.step(|step, _| step.resume_app());
    bench.run();
    let again = bench.last_sent();
    assert_eq!(again.tasks.len(), 2);
    assert_eq!(again.tasks[0].key, bench.sent[0].tasks[0].key, "the same key, because nobody knows");
}

#[test]
fn new_credentials_begin_a_run() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    refuse(&mut bench, FailureKind::Unauthenticated);
    bench.step(|step, _| step.credentials_refreshed(false));
    bench.wait(30 * SECOND);
    assert_eq!(bench.sent.len(), 1);
    bench.step(|step, _| step.credentials_changed());
    bench.run();
    assert_eq!(bench.sent.len(), 2);
}

/// Nobody may ever say that credentials have changed: a daemon's token, or the service that gives it, comes back by itself.
#[test]
fn refused_credentials_are_tried_and_asked_for_again_more_and_more_seldom() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    let mut waits = Vec::new();
    for round in 1..8 {
        assert_eq!(bench.sent.len(), round);
        refuse(&mut bench, FailureKind::Unauthenticated);
        assert_eq!(bench.refreshes, round, "fresh ones are asked for once each time");
        bench.step(|step, _| step.credentials_refreshed(false));
        let mut waited = Duration::ZERO;
        while bench.sent.len() == round {
            waited += until_due(&mut bench, 20 * MINUTE).unwrap();
        }
        waits.push(waited.as_secs());
    }
    assert_eq!(waits, [60, 120, 240, 480, 900, 900, 900]);
    assert_eq!(bench.tasks()[0].attempts, 0, "being signed out burns no attempt");
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(bench.counts().total(), 0);
}

#[test]
fn nothing_runs_and_nothing_wakes_while_everything_is_paused() {
    let mut bench = reading();
    bench.step(|step, tx| step.pause(tx, &Scope::All).unwrap());
    bench.enqueue(note("a")).unwrap();
    let before = events(&bench, |event| *event == Event::SessionStarted);
    bench.step(|step, _| step.resume_app());
    bench.wait(60 * MINUTE);
    bench.wait(60 * MINUTE);
    assert_eq!(events(&bench, |event| *event == Event::SessionStarted), before);
    bench.step(|step, tx| step.resume(tx, &Scope::All).unwrap());
    bench.run();
    assert_eq!((bench.sent.len(), bench.pages.len()), (1, 2), "it goes on at once");
}

#[test]
fn a_run_that_finds_nothing_to_do_does_not_spin() {
    let mut bench = automatic();
    // A change that waits for its parent, which is a dead letter: claimable by no run.
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    bench.enqueue(note("a")).unwrap();
    let mut wakeups = 0;
    while until_due(&mut bench, 60 * MINUTE).is_some() && wakeups < 100 {
        wakeups += 1;
        if bench.mono_ms > 60 * 60 * 1000 {
            break;
        }
    }
    assert!(wakeups < 30, "{wakeups} in an hour");
}

#[test]
fn a_call_of_the_backend_during_a_run_is_read_in_that_run() {
    let mut bench = reading();
    bench.enqueue(note("a")).unwrap();
    bench.session(SessionEnd::OnePass, Directions::Both);
    bench.page(Vec::new(), "2", false);
    assert_eq!((bench.sent.len(), bench.pages.len()), (1, 2), "sending goes on, reading is done");
    bench.step(|step, _| step.backend_called());
    assert_eq!(bench.pages.len(), 3, "what it called about may be newer than what was read");
}

/// A device whose tries have failed until the next one is far away.
fn waiting_long(device: &DeviceState) -> Bench {
    let mut bench = automatic_with(AutoConfig::default(), capabilities(EffectClass::OneEffect));
    bench.step(|step, tx| step.device_changed(tx, device).unwrap());
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    loop {
        refuse(&mut bench, FailureKind::Unreachable);
        if bench.machine.next_wakeup().unwrap().0 > bench.mono_ms + 20_000 {
            return bench;
        }
        let sent = bench.sent.len();
        while bench.sent.len() == sent {
            until_due(&mut bench, 16 * MINUTE).unwrap();
        }
    }
}

#[test]
fn a_network_is_metered_when_it_was_said_and_until_the_contrary_is() {
    let mut bench = Bench::new();
    assert!(!bench.machine.is_metered(), "nobody has said so");
    for (news, is_metered) in [
        (DeviceState::metered(true), true),
        (DeviceState::online(true), true),
        (DeviceState::metered(false), false),
    ] {
        bench.step(|step, tx| step.device_changed(tx, &news).unwrap());
        assert_eq!(bench.machine.is_metered(), is_metered, "{news:?}");
    }
}

#[test]
fn of_all_news_of_the_device_only_a_network_that_is_back_ends_a_wait() {
    let charging = DeviceState { charging: Some(true), ..DeviceState::default() };
    let (online, offline) = (DeviceState::online(true), DeviceState::online(false));
    for (before, news, ends) in [
        (DeviceState::default(), online, false),
        (online, offline, false),
        (online, charging, false),
        (offline, charging, false),
        (offline, online, true),
    ] {
        let mut bench = waiting_long(&before);
        let sent = bench.sent.len();
        bench.step(|step, tx| step.device_changed(tx, &news).unwrap());
        bench.wait(AutoConfig::default().spread);
        bench.run();
        assert_eq!(bench.sent.len() > sent, ends, "{before:?}, then {news:?}");
    }
}

/// Its monotonic clock stood still while the wall clock went on.
#[test]
fn a_device_that_wakes_from_sleep_tries_soon_what_waits_for_the_network() {
    let mut bench = waiting_long(&DeviceState::default());
    let sent = bench.sent.len();
    bench.wall_ms += 8 * 3_600_000;
    bench.wait(SECOND);
    bench.wait(AutoConfig::default().spread);
    bench.run();
    assert_eq!(bench.sent.len(), sent + 1);
}

#[test]
fn an_app_that_comes_back_to_the_screen_reads_and_one_that_was_there_does_not() {
    let foreground = |on| DeviceState { foreground: Some(on), ..DeviceState::default() };
    for (before, news, reads) in [
        (None, true, false),
        (Some(true), true, false),
        (Some(true), false, false),
        (Some(false), true, true),
    ] {
        let mut bench = automatic_with(AutoConfig::default(), with_feed());
        let state = before.map_or(DeviceState::default(), foreground);
        bench.step(|step, tx| step.device_changed(tx, &state).unwrap());
        bench.page(Vec::new(), "1", false);
        bench.step(|step, tx| step.device_changed(tx, &foreground(news)).unwrap());
        bench.run();
        assert_eq!(bench.pages.len(), 1 + usize::from(reads), "{before:?}, then {news}");
        assert_eq!(bench.machine.device().foreground, Some(news));
    }
}

/// A run that has read, or has sent, was no idle one.
#[test]
fn a_change_goes_as_soon_after_many_runs_as_after_none() {
    let mut bench = automatic_with(AutoConfig::default(), with_feed());
    for n in 1..=12 {
        bench.page(Vec::new(), &n.to_string(), false);
        bench.step(|step, _| step.backend_called());
        bench.wait(AutoConfig::default().spread);
        bench.run();
    }
    bench.page(Vec::new(), "13", false);
    for n in 0..12 {
        bench.enqueue(note(&n.to_string())).unwrap();
        bench.wait(AutoConfig::default().debounce);
        assert_eq!(bench.sent.len(), n + 1);
        let batch = bench.last_sent();
        bench.apply(&batch, "1");
    }
}

#[test]
fn it_looks_for_what_other_processes_leave_only_while_it_runs_by_itself_and_is_awake() {
    let mut bench = Bench::new();
    assert_eq!(bench.machine.look_every(), None);
    let every = Some(7 * SECOND);
    bench.step(|step, _| step.run_by_itself(AutoConfig { look_every: every, ..AutoConfig::default() }));
    assert_eq!(bench.machine.look_every(), every);
    bench.step(|step, _| step.suspend());
    assert_eq!(bench.machine.look_every(), None);
    bench.step(|step, _| step.resume_app());
    assert_eq!(bench.machine.look_every(), every);
    bench.step(|step, _| step.run_on_demand());
    assert_eq!(bench.machine.look_every(), None);
}

/// Who is back knows nothing of what was tried meanwhile: it is tried at once, and the backend is read.
#[test]
fn an_app_that_is_resumed_tries_at_once_what_waits_for_the_network() {
    let mut bench = waiting_long(&DeviceState::default());
    bench.step(|step, _| step.suspend());
    let sent = bench.sent.len();
    bench.step(|step, _| step.resume_app());
    assert_eq!(bench.sent.len(), sent + 1);
}

#[test]
fn a_network_that_is_back_is_used_to_read_too() {
    let mut bench = reading();
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(false)).unwrap());
    bench.wait(MINUTE);
    assert_eq!(bench.pages.len(), 1);
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(true)).unwrap());
    bench.wait(AutoConfig::default().spread);
    bench.run();
    assert_eq!(bench.pages.len(), 2);
}

/// Runs in a row that find nothing to do make the next one wait; a wait that news of the world outside ends.
#[test]
fn many_idle_runs_make_the_next_one_wait_until_the_app_or_the_network_is_back() {
    let online = DeviceState::online;
    for news in ["nothing", "the app", "the network"] {
        let mut bench = automatic();
        bench.step(|step, tx| step.device_changed(tx, &online(false)).unwrap());
        for _ in 0..12 {
            bench.session(SessionEnd::OnePass, Directions::PushOnly);
        }
        bench.enqueue(note("a")).unwrap();
        bench.wait(SECOND);
        assert!(bench.sent.is_empty());
        match news {
            "the app" => bench.step(|step, _| step.resume_app()),
            "the network" => bench.step(|step, tx| step.device_changed(tx, &online(true)).unwrap()),
            _ => {}
        }
        bench.wait(AutoConfig::default().spread);
        bench.run();
        assert_eq!(bench.sent.len(), usize::from(news != "nothing"), "{news}");
        while bench.sent.is_empty() {
            until_due(&mut bench, 16 * MINUTE).expect("no longer than the cap");
        }
    }
}

#[test]
fn a_reading_that_was_cut_short_goes_on_at_once() {
    let mut bench = automatic_with(AutoConfig::default(), with_feed());
    bench.page(Vec::new(), "1", true);
    assert_eq!(bench.pages.len(), 2);
    bench.step(|step, _| step.stop_session());
    bench.run();
    assert_eq!(bench.pages.len(), 3, "there was more to read");
}

/// After a failed commit, or for another account: whoever slept sleeps, and whoever ran begins with a run.
#[test]
fn a_machine_that_follows_runs_by_itself_as_the_one_before() {
    for (was_automatic, was_asleep, runs) in [(true, false, true), (true, true, false), (false, false, false)]
    {
        let mut old = Bench::new();
        if was_automatic {
            old.step(|step, _| step.run_by_itself(AutoConfig::default()));
        }
        if was_asleep {
            old.step(|step, _| step.suspend());
        }
        let mut bench = Bench::of(Config::default(), with_feed());
        bench.machine.follow(&old.machine);
        bench.enqueue(note("a")).unwrap();
        bench.wait(MINUTE);
        bench.run();
        let case = format!("by itself: {was_automatic}, asleep: {was_asleep}");
        assert_eq!((!bench.sent.is_empty(), !bench.pages.is_empty()), (runs, runs), "{case}");
        assert_eq!(bench.machine.runs_by_itself(), was_automatic, "{case}");
    }
}

/// A device may believe that it has no network although it has: a good answer counts for more than its word.
#[test]
fn a_device_that_was_wrong_about_its_network_is_not_believed_any_longer() {
    let online = |bench: &mut Bench, online| {
        bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(online)).unwrap());
    };
    let mut bench = automatic_with(AutoConfig::default(), capabilities(EffectClass::OneEffect));
    online(&mut bench, false);
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(bench.machine.device().online, None, "nobody knows");
    bench.enqueue(note("b")).unwrap();
    bench.wait(SECOND);
    refuse(&mut bench, FailureKind::Unreachable);
    assert!(until_due(&mut bench, 5 * SECOND).is_some(), "it is tried again as in any other trouble");
    // A network that it knows of is still known after a good answer: the same news again is none.
    online(&mut bench, true);
    bench.wait(MINUTE);
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    assert_eq!(bench.machine.device().online, Some(true));
}
