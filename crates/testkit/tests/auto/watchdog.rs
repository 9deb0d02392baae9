//! What does not move is told of, with the reason; what somebody has asked to wait is not. A clock that jumps is told of too.

use super::*;
use landfall_core::explain::Wait;
use landfall_core::machine::Scope;
use landfall_core::time::Timestamp;

fn stalls(bench: &Bench) -> Vec<Vec<Wait>> {
    let of = |event: &Event| match event {
        Event::Stalled { waits_for, .. } => Some(waits_for.clone()),
        _ => None,
    };
    bench.events.iter().filter_map(of).collect()
}

/// Lets an hour pass, every call failing.
fn an_hour_of(bench: &mut Bench, kind: FailureKind) {
    let end = bench.mono_ms + 60 * 60 * 1000;
    let mut answered = 0;
    while bench.mono_ms < end {
        bench.wait(10 * SECOND);
        bench.run();
        while answered < bench.sent.len() {
            let batch = bench.sent[answered].clone();
            answered += 1;
            bench.fail(&batch, kind, Delivery::NotSent);
        }
    }
}

#[test]
fn work_that_does_not_move_is_told_of_with_the_reason_less_and_less_often() {
    let mut bench = automatic_with(AutoConfig::default(), capabilities(EffectClass::OneEffect));
    bench.enqueue(note("a")).unwrap();
    an_hour_of(&mut bench, FailureKind::Unreachable);
    let told = stalls(&bench);
    assert_eq!(told.len(), 3, "after 10, 20 and 40 minutes");
    for waits in told {
        let is_gate = |wait: &Wait| matches!(wait, Wait::Gate { why: FailureKind::Unreachable, .. });
        let trying = waits.is_empty() || waits.contains(&Wait::Answer);
        assert!(waits.iter().any(is_gate) || trying, "{waits:?}");
    }
}

#[test]
fn what_was_asked_to_wait_is_no_stall() {
    let mut bench = automatic();
    let later = Timestamp(bench.wall_ms + 24 * 3600 * 1000);
    bench.enqueue(note("later").not_before(later)).unwrap();
    an_hour_of(&mut bench, FailureKind::Unreachable);
    bench.step(|step, tx| step.pause(tx, &Scope::All).unwrap());
    bench.enqueue(note("paused")).unwrap();
    an_hour_of(&mut bench, FailureKind::Unreachable);
    assert!(stalls(&bench).is_empty(), "{:?}", stalls(&bench));
}

#[test]
fn what_is_behind_a_decision_that_a_person_owes_is_no_stall() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    bench.enqueue(note("a")).unwrap();
    let batch = bench.last_sent();
    bench.outcome(&batch, &rejected("bad"));
    an_hour_of(&mut bench, FailureKind::Unreachable);
    assert!(stalls(&bench).is_empty(), "{:?}", stalls(&bench));
}

#[test]
fn progress_ends_a_stall_and_nothing_is_told_of_an_empty_queue() {
    let mut bench = automatic();
    an_hour_of(&mut bench, FailureKind::Unreachable);
    for n in 0..60 {
        bench.enqueue(note(&n.to_string())).unwrap();
        bench.wait(MINUTE);
        let batch = bench.last_sent();
        bench.apply(&batch, &n.to_string());
    }
    assert!(stalls(&bench).is_empty());
}

/// The queue is never empty here, and a task ends each minute, well or badly.
#[test]
fn as_long_as_some_task_ends_now_and_then_nothing_is_stalled() {
    for is_refused in [false, true] {
        let mut bench = automatic();
        let later = Timestamp(bench.wall_ms + 24 * 3600 * 1000);
        bench.enqueue(note("later").not_before(later)).unwrap();
        for n in 0..60 {
            bench.enqueue(note(&n.to_string())).unwrap();
            bench.wait(MINUTE);
            let batch = bench.last_sent();
            if n > 0 {
                let before = bench.sent[bench.sent.len() - 2].clone();
                if is_refused {
                    bench.outcome(&before, &rejected("bad"));
                } else {
                    bench.apply(&before, "1");
                }
            }
            assert!(!batch.tasks.is_empty());
        }
        assert!(stalls(&bench).is_empty(), "refused: {is_refused}: {:?}", stalls(&bench));
    }
}

#[test]
fn nobody_is_told_of_a_stall_that_did_not_ask_for_runs_or_sleeps() {
    let mut bench = Bench::new();
    bench.enqueue(note("a")).unwrap();
    bench.wait(60 * MINUTE);
    assert!(stalls(&bench).is_empty(), "runs are the app's own affair: {:?}", stalls(&bench));

    let mut bench = automatic_with(AutoConfig::default(), capabilities(EffectClass::OneEffect));
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    bench.wait(8 * MINUTE);
    bench.step(|step, _| step.suspend());
    bench.wait(60 * MINUTE);
    assert!(stalls(&bench).is_empty(), "it sleeps: {:?}", stalls(&bench));
    bench.step(|step, _| step.resume_app());
    bench.wait(5 * MINUTE);
    assert!(stalls(&bench).is_empty(), "it has just woken: {:?}", stalls(&bench));
    bench.wait(5 * MINUTE);
    assert_eq!(stalls(&bench).len(), 1);
}

#[test]
fn a_jump_of_the_clock_is_told_of_and_a_slow_clock_is_not() {
    let mut bench = automatic();
    bench.wall_ms += 20_000;
    bench.wait(SECOND);
    let jumps = |bench: &Bench| events(bench, |event| matches!(event, Event::ClockJumped { .. }));
    bench.wall_ms += 29_999;
    bench.wait(SECOND);
    assert_eq!(jumps(&bench), 0);
    for (n, jump_ms) in [(1, 30_000), (2, -30_000), (3, 3_600_000), (4, -7_200_000)] {
        bench.wall_ms += jump_ms;
        bench.wait(SECOND);
        assert_eq!(jumps(&bench), n, "{jump_ms} ms");
    }
}

#[test]
fn a_clock_that_nobody_vouches_for_forgets_nothing() {
    let mut bench = automatic();
    bench.enqueue(note("a")).unwrap();
    bench.wait(SECOND);
    let batch = bench.last_sent();
    let task = batch.tasks[0].task_id;
    bench.apply(&batch, "1");
    let known = |bench: &mut Bench| {
        use landfall_core::store::Store;
        bench.store.begin().unwrap().journal(task).unwrap().is_some()
    };
    bench.wall_ms += 365 * 24 * 3600 * 1000;
    bench.step(|step, tx| step.tidy(tx).map(drop).unwrap());
    assert!(known(&mut bench), "a year ahead in an instant is no reason to forget");
    bench.wait(SECOND);
    bench.step(|step, tx| step.tidy(tx).map(drop).unwrap());
    assert!(known(&mut bench), "nor is it a second later");
}

#[test]
fn how_far_a_run_is_is_told_with_counts_and_bytes() {
    let mut bench =
        Bench::of(Config::default(), Capabilities { batch_tasks: 2, ..capabilities(EffectClass::OneEffect) });
    for n in 0..4 {
        bench.enqueue(note(&n.to_string())).unwrap();
    }
    bench.sync();
    for batch in bench.sent.clone() {
        bench.apply(&batch, "1");
        bench.step(|step, _| step.wake());
    }
    let of = |event: &Event| match event {
        Event::Progress { done, total, bytes } => Some((*done, *total, *bytes)),
        _ => None,
    };
    let told: Vec<_> = bench.events.iter().filter_map(of).collect();
    let bytes: u64 =
        bench.sent.iter().flat_map(|batch| &batch.tasks).map(|task| task.payload.len() as u64).sum();
    assert_eq!(told, [(2, 4, bytes), (4, 4, bytes)]);
}
