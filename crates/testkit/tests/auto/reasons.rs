//! Every reason for waiting is named by `explain`, with the time at which it can change where that is known.
//!
//! Reasons that other tasks give are in `lifecycle/control.rs`, `depend.rs`, `groups.rs` and `lanes.rs` as well; here is
//! every one of them once, and a list that cannot be forgotten to be kept.

use super::*;
use landfall_core::device::{Conditions, Constraint, DeviceState};
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::explain::{Explanation, Wait, explain};
use landfall_core::id::{EntityKey, TaskId};
use landfall_core::machine::{Receipt, Scope};
use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::store::Store;
use landfall_core::time::{Mono, Now, Timestamp};
use landfall_core::value::{Fields, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;

thread_local! {
    /// The reasons that were given on this thread.
    static SEEN: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
}

fn told(bench: &mut Bench, receipt: &Receipt) -> Explanation {
    let now = Now { wall: Timestamp(bench.wall_ms), mono: Mono(bench.mono_ms) };
    let live = bench.machine.live(now);
    let task: TaskId = receipt.task.unwrap();
    let told = explain(&*bench.store.begin().unwrap(), task, now.wall, &live).unwrap().unwrap();
    SEEN.with_borrow_mut(|seen| seen.extend(told.waits_for.iter().map(Wait::reason)));
    told
}

fn waits(bench: &mut Bench, receipt: &Receipt) -> Vec<Wait> {
    told(bench, receipt).waits_for
}

/// The one reason that `is` accepts, and when it ends, from now.
fn one(bench: &mut Bench, receipt: &Receipt, is: impl Fn(&Wait) -> bool) -> Option<Duration> {
    let all = waits(bench, receipt);
    let found = all.iter().find(|wait| is(wait)).unwrap_or_else(|| panic!("{all:?}"));
    found.ends_at().map(|at| Timestamp(bench.wall_ms).until(at))
}

#[test]
fn the_next_run_and_its_time() {
    let mut bench = automatic();
    let receipt = bench.enqueue(note("a")).unwrap();
    let at = Timestamp(bench.wall_ms + 200);
    assert_eq!(waits(&mut bench, &receipt), [Wait::NextRun { at }]);
    let until = one(&mut bench, &receipt, |wait| matches!(wait, Wait::NextRun { .. }));
    assert_eq!(until, Some(Duration::from_millis(200)));
    bench.wait(SECOND);
    assert_eq!(waits(&mut bench, &receipt), [Wait::Answer]);
}

#[test]
fn a_run_that_the_app_has_to_ask_for() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(note("a")).unwrap();
    assert_eq!(waits(&mut bench, &receipt), [Wait::Sync]);
}

#[test]
fn a_closed_gate_of_every_kind_and_when_it_opens() {
    for (kind, opens) in [
        (FailureKind::Unreachable, true),
        (FailureKind::Intercepted, true),
        (FailureKind::Transient, true),
        (FailureKind::Protocol, true),
        (FailureKind::RateLimited, true),
        (FailureKind::Unauthenticated, false),
        (FailureKind::ServerChanged, false),
        (FailureKind::ClientUnknown, false),
        (FailureKind::ClientSuperseded, false),
    ] {
        let mut bench = automatic();
        let receipt = bench.enqueue(note("a")).unwrap();
        bench.wait(SECOND);
        refuse(&mut bench, kind);
        let until = one(&mut bench, &receipt, |wait| matches!(wait, Wait::Gate { why, .. } if *why == kind));
        assert_eq!(until.is_some(), opens, "{kind:?}");
        let due = bench.machine.next_wakeup().map(|due| Duration::from_millis(due.0 - bench.mono_ms));
        if let Some(until) = until {
            assert_eq!(Some(until), due, "{kind:?}: the time that is told is the time at which it is tried");
        }
    }
}

/// A wait ends by itself in every run that the app asks for; refused credentials are tried again only where runs begin
/// by themselves.
#[test]
fn when_a_closed_gate_opens_is_told_where_it_opens_by_itself() {
    for (is_automatic, kind, opens) in [
        (false, FailureKind::RateLimited, true),
        (true, FailureKind::RateLimited, true),
        (false, FailureKind::Unauthenticated, false),
        (true, FailureKind::Unauthenticated, true),
    ] {
        let mut bench = if is_automatic { automatic() } else { Bench::new() };
        bench.enqueue(note("a")).unwrap();
        bench.session(landfall_core::machine::SessionEnd::OnePass, landfall_core::machine::Directions::Both);
        refuse(&mut bench, kind);
        bench.step(|step, _| step.credentials_refreshed(false));
        let now = Now { wall: Timestamp(bench.wall_ms), mono: Mono(bench.mono_ms) };
        let live = bench.machine.live(now);
        assert_eq!(live.gate.map(|(why, _)| why), Some(kind));
        assert_eq!(live.gate_until.is_some(), opens, "{kind:?}, by itself: {is_automatic}");
    }
}

/// Also where only the app starts runs, the running one waits for what opens by itself.
#[test]
fn a_closed_gate_opens_by_itself_for_a_run_that_the_app_has_asked_for_or_for_nobody() {
    for (kind, opens) in [(FailureKind::Unreachable, true), (FailureKind::Unauthenticated, false)] {
        let mut bench = Bench::new();
        let receipt = bench.enqueue(note("a")).unwrap();
        bench.sync();
        refuse(&mut bench, kind);
        bench.step(|step, _| step.credentials_refreshed(false));
        let until = one(&mut bench, &receipt, |wait| matches!(wait, Wait::Gate { .. }));
        assert_eq!(until.is_some(), opens, "{kind:?}");
    }
}

#[test]
fn calm_that_another_process_was_asked_for() {
    let mut bench = automatic();
    let receipt = bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    ask_for_calm(&mut bench, 10 * MINUTE);
    bench.crash();
    let until =
        one(&mut bench, &receipt, |wait| matches!(wait, Wait::Gate { why: FailureKind::RateLimited, .. }));
    assert!(until.unwrap() >= 10 * MINUTE && until.unwrap() <= 26 * MINUTE, "{until:?}");
}

#[test]
fn a_device_that_says_that_it_has_no_network() {
    let mut bench = automatic();
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::online(false)).unwrap());
    let receipt = bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    refuse(&mut bench, FailureKind::Unreachable);
    let until = one(&mut bench, &receipt, |wait| matches!(wait, Wait::Offline { .. }));
    assert_eq!(until, Some(MINUTE));
}

#[test]
fn a_condition_that_is_not_met() {
    let conditions = Conditions { charging: true, ..Conditions::default() };
    let mut bench = automatic_with(AutoConfig { conditions, ..AutoConfig::default() }, with_probe());
    let unplugged = DeviceState { charging: Some(false), ..DeviceState::default() };
    bench.step(|step, tx| step.device_changed(tx, &unplugged).unwrap());
    let receipt = bench.enqueue(note("a")).unwrap();
    let unmet = Constraint::NotCharging;
    assert!(waits(&mut bench, &receipt).contains(&Wait::Condition { unmet }));
}

#[test]
fn an_app_that_sleeps() {
    let mut bench = automatic();
    bench.step(|step, _| step.suspend());
    let receipt = bench.enqueue(note("a")).unwrap();
    assert!(waits(&mut bench, &receipt).contains(&Wait::Suspended));
    bench.step(|step, _| step.resume_app());
    assert!(!waits(&mut bench, &receipt).contains(&Wait::Suspended));
}

#[test]
fn another_process_that_sends_and_when_it_is_taken_over() {
    let mut bench = Bench::new();
    let receipt = bench.enqueue(note("a")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::NotSent);
    // The process dies with the lease in its hand.
    bench.crash();
    bench.wall_ms += 2_000;
    bench.mono_ms += 2_000;
    let until = one(&mut bench, &receipt, |wait| matches!(wait, Wait::Lease { .. } | Wait::Backoff { .. }));
    assert!(until.unwrap() <= 10 * SECOND, "{until:?}");
}

#[test]
fn pauses_of_all_three_kinds() {
    let mut bench = automatic();
    let receipt = bench.enqueue(note("a").lane("mail")).unwrap();
    for scope in [Scope::All, Scope::Type("note".into()), Scope::Lane("mail".into())] {
        bench.step(|step, tx| step.pause(tx, &scope).unwrap());
    }
    let all = waits(&mut bench, &receipt);
    for wait in [Wait::Paused, Wait::TypePaused, Wait::LanePaused] {
        assert!(all.contains(&wait), "{all:?}");
    }
}

#[test]
fn a_metered_network_a_moment_and_a_backoff() {
    let mut bench = automatic();
    bench.step(|step, tx| step.device_changed(tx, &DeviceState::metered(true)).unwrap());
    let large = bench.enqueue(note("large").unmetered_only()).unwrap();
    assert!(waits(&mut bench, &large).contains(&Wait::UnmeteredNetwork));
    let until = Timestamp(bench.wall_ms + 60_000);
    let later = bench.enqueue(note("later").not_before(until)).unwrap();
    assert_eq!(waits(&mut bench, &later)[0], Wait::NotBefore { until });
    let busy = bench.enqueue(note("busy")).unwrap();
    bench.wait(SECOND);
    let batch = bench.last_sent();
    let outcome = Outcome::Retry { after: Some(MINUTE), reason: "busy".into() };
    bench.outcome(&batch, &outcome);
    let until = one(&mut bench, &busy, |wait| matches!(wait, Wait::Backoff { .. }));
    assert!(until.unwrap() >= MINUTE, "{until:?}");
}

#[test]
fn other_tasks_and_people() {
    let mut bench = automatic();
    let first = bench.enqueue(note("a").lane("mail")).unwrap();
    bench.wait(SECOND);
    let again = bench.enqueue(note("a").lane("mail")).unwrap();
    let other = bench.enqueue(note("b").lane("mail")).unwrap();
    let child = bench.enqueue(note("c").depends_on_task(first.task.unwrap())).unwrap();
    let until = Timestamp(bench.wall_ms + 60_000);
    let (one_of, two_of) = bench.step(|step, tx| {
        let first = step.enqueue(tx, note("d").group("g")).unwrap();
        (first, step.enqueue(tx, note("e").group("g").not_before(until)).unwrap())
    });
    assert!(matches!(waits(&mut bench, &again)[0], Wait::EarlierChange(_)));
    assert!(waits(&mut bench, &other).iter().any(|wait| matches!(wait, Wait::Lane { .. })));
    assert!(matches!(waits(&mut bench, &child)[0], Wait::Dependency(_)));
    assert!(waits(&mut bench, &one_of).iter().any(|wait| matches!(wait, Wait::Group { .. })));
    assert!(waits(&mut bench, &two_of).contains(&Wait::NotBefore { until }));
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    assert_eq!(waits(&mut bench, &first), [Wait::DeadLetter { why: FailureKind::Rejected }]);
}

#[test]
fn two_sides_that_changed_the_same() {
    let mut bench = Bench::ruled(Rules::new(Strategy::Ask));
    let receipt = bench.enqueue(note("a")).unwrap();
    bench.sync();
    let theirs: Fields = [("text".to_owned(), Value::from("theirs"))].into_iter().collect();
    let remote = RemoteEntity::new(EntityKey::new("note", "a"), Body::Live(theirs), Some("7".into()));
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: Some(remote) });
    let conflict = waits(&mut bench, &receipt);
    assert!(matches!(conflict[..], [Wait::Conflict { conflict: Some(_) }]), "{conflict:?}");
}

/// Every reason there is was given by one of the tests above: a new one without a test fails here.
#[test]
fn no_reason_is_without_a_test() {
    let tests: &[fn()] = &[
        the_next_run_and_its_time,
        a_run_that_the_app_has_to_ask_for,
        a_closed_gate_of_every_kind_and_when_it_opens,
        calm_that_another_process_was_asked_for,
        a_device_that_says_that_it_has_no_network,
        a_condition_that_is_not_met,
        an_app_that_sleeps,
        another_process_that_sends_and_when_it_is_taken_over,
        pauses_of_all_three_kinds,
        a_metered_network_a_moment_and_a_backoff,
        other_tasks_and_people,
        two_sides_that_changed_the_same,
    ];
    tests.iter().for_each(|test| test());
    SEEN.with_borrow(|seen| assert_eq!(*seen, Wait::REASONS.into_iter().collect()));
}
