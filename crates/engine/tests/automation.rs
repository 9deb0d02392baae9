//! The engine runs by itself: real threads, real time. What is decided when is shown by `tests/auto` of
//! `landfall-testkit`; here it is shown that the engine brings every hint, and hands back what it must.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::adapter::{Adapter, BoxFuture, CallContext, Capabilities, PushBatch, PushReply};
use landfall_core::change::Change;
use landfall_core::config::AutoConfig;
use landfall_core::device::{Conditions, Constraint, DeviceState};
use landfall_core::event::Event;
use landfall_core::explain::Wait;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::machine::RunBudget;
use landfall_core::store::memory::MemoryStore;
use landfall_engine::{
    BackgroundController, BackgroundRun, BackgroundWish, Engine, ManualConnectivity, Notice,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Broken, BrokenStore, Scripted, apply};

const SOON: Duration = Duration::from_secs(10);

fn note(n: usize) -> Change {
    Change::upsert("note", n.to_string()).set("n", i64::try_from(n).unwrap())
}

fn quick() -> AutoConfig {
    AutoConfig {
        debounce: Duration::from_millis(10),
        spread: Duration::from_millis(50),
        ..AutoConfig::default()
    }
}

/// An engine that hears of the device only what the test says: the machine that runs the tests may have no network.
fn engine(adapter: Scripted) -> Engine {
    Engine::builder(MemoryStore::default(), adapter)
        .connectivity(ManualConnectivity::new())
        .build_blocking()
        .unwrap()
}

fn wait_for(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < until, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_empty(engine: &Engine) -> bool {
    engine.status().unwrap().counts.total() == 0
}

/// An adapter that cannot reach anybody as long as `is_down`.
fn flickering(is_down: &Arc<AtomicBool>) -> Scripted {
    let is_down = Arc::clone(is_down);
    Scripted::answering(move |_, batch| {
        if is_down.load(Ordering::SeqCst) {
            return Err(Failure::new(FailureKind::Unreachable, Delivery::NotSent, "no route"));
        }
        apply(batch)
    })
}

#[test]
fn a_change_is_sent_without_anybody_asking() {
    let engine = engine(Scripted::honest());
    engine.enable_auto_sync(quick()).unwrap();
    for n in 0..10 {
        engine.enqueue_blocking(note(n)).unwrap();
    }
    wait_for("the empty queue", || is_empty(&engine));
    assert!(engine.is_auto_sync_enabled());
    engine.disable_auto_sync().unwrap();
    let receipt = engine.enqueue_blocking(note(11)).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let told = engine.explain(receipt.task.unwrap()).unwrap().unwrap();
    assert_eq!(told.waits_for, [Wait::Sync]);
}

#[test]
fn a_round_that_failed_is_tried_again_by_itself() {
    let is_down = Arc::new(AtomicBool::new(true));
    let engine = engine(flickering(&is_down));
    engine.enable_auto_sync(quick()).unwrap();
    engine.enqueue_blocking(note(1)).unwrap();
    wait_for("the closed gate", || engine.status().unwrap().gate.is_some());
    is_down.store(false, Ordering::SeqCst);
    wait_for("the empty queue", || is_empty(&engine));
}

#[test]
fn a_service_of_connectivity_is_listened_to_until_the_engine_is_closed() {
    let is_down = Arc::new(AtomicBool::new(true));
    let network = ManualConnectivity::new();
    network.offline();
    let engine = Engine::builder(MemoryStore::default(), flickering(&is_down))
        .connectivity(network.clone())
        .build_blocking()
        .unwrap();
    engine.enable_auto_sync(quick()).unwrap();
    wait_for("the news", || engine.device().online == Some(false));
    let receipt = engine.enqueue_blocking(note(1)).unwrap();
    // A call fails; from then on the device is believed for a minute.
    wait_for("the closed gate", || {
        engine.status().unwrap().gate.is_some() && !engine.status().unwrap().syncing
    });
    let told = engine.explain(receipt.task.unwrap()).unwrap().unwrap();
    assert!(told.waits_for.iter().any(|wait| matches!(wait, Wait::Offline { .. })), "{told:?}");
    is_down.store(false, Ordering::SeqCst);
    network.online();
    wait_for("the empty queue", || is_empty(&engine));
    engine.close();
    network.offline();
}

#[derive(Debug, Clone, Default)]
struct Host(Arc<Mutex<Vec<Option<BackgroundWish>>>>);

impl BackgroundController for Host {
    fn schedule(&self, wish: &BackgroundWish) {
        self.0.lock().unwrap().push(Some(wish.clone()));
    }

    fn cancel(&self) {
        self.0.lock().unwrap().push(None);
    }
}

#[test]
fn a_pause_hands_back_at_once_and_asks_the_host_for_a_window() {
    let adapter = Scripted::answering(|_, batch| {
        std::thread::sleep(Duration::from_secs(2));
        apply(batch)
    });
    let host = Host::default();
    let engine = Engine::builder(MemoryStore::default(), adapter)
        .background_controller(host.clone())
        .connectivity(ManualConnectivity::new())
        .build_blocking()
        .unwrap();
    engine.enable_auto_sync(quick()).unwrap();
    engine.enqueue_blocking(note(1)).unwrap();
    wait_for("the run", || engine.status().unwrap().counts.in_flight == 1);
    let asked = Instant::now();
    engine.on_pause_blocking().unwrap();
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    let status = engine.status().unwrap();
    assert!(!status.syncing);
    assert_eq!(status.counts.unknown, 1, "what was under way is of unknown fate, and nothing is lost");
    assert!(
        engine.read(|store| store.lease()).unwrap().unwrap().holder.is_empty(),
        "the lease is handed back"
    );
    let wish = host.0.lock().unwrap().last().cloned().flatten().unwrap();
    assert_eq!(wish.left.unknown, 1);
    engine.on_resume();
    assert_eq!(host.0.lock().unwrap().last(), Some(&None));
    wait_for("the empty queue", || is_empty(&engine));
    engine.on_detach();
    assert!(engine.enqueue_blocking(note(2)).is_err(), "it is closed");
}

#[test]
fn a_window_in_the_background_keeps_to_its_conditions_and_budget() {
    let engine = engine(Scripted::honest());
    for n in 0..5 {
        engine.enqueue_blocking(note(n)).unwrap();
    }
    engine.device_changed(DeviceState { charging: Some(false), ..DeviceState::default() });
    wait_for("the news", || engine.device().charging == Some(false));
    let conditions = Conditions { charging: true, ..Conditions::default() };
    let budget = RunBudget { tasks: Some(3), ..RunBudget::default() };
    match engine.run_background_blocking(budget, conditions).unwrap() {
        BackgroundRun::NotNow { unmet, left } => {
            assert_eq!((unmet, left.pending), (Constraint::NotCharging, 5));
        }
        ran @ BackgroundRun::Ran(_) => panic!("{ran:?}"),
    }
    match engine.run_background_blocking(budget, Conditions::default()).unwrap() {
        BackgroundRun::Ran(report) => assert_eq!((report.applied, report.left.pending), (3, 2)),
        not_now @ BackgroundRun::NotNow { .. } => panic!("{not_now:?}"),
    }
}

#[test]
fn a_reader_that_never_reads_its_events_costs_only_its_own_buffer() {
    let engine = engine(Scripted::honest());
    let mut never_read = engine.events();
    let (status, mut read) = engine.watch().unwrap();
    assert_eq!(status.counts.total(), 0);
    let reader = std::thread::spawn(move || {
        let mut settled = 0;
        while let Some(notice) = read.next_within(SOON) {
            match notice {
                Notice::Event(Event::Settled { .. }) => settled += 1,
                Notice::Event(Event::SessionFinished(_)) => break,
                _ => {}
            }
        }
        settled
    });
    const CHANGES: usize = 20_000;
    for chunk in 0..CHANGES / 100 {
        let changes = (0..100).map(|n| note(chunk * 100 + n)).collect();
        engine.enqueue_many_blocking(changes).unwrap();
    }
    let report = engine.sync_blocking().unwrap();
    assert_eq!(report.applied, CHANGES as u64, "nobody was held up");
    let settled: usize = reader.join().unwrap();
    assert!(settled > 0);
    let Some(Notice::Lagged(missed)) = never_read.try_next() else {
        panic!("it was told that it missed some")
    };
    let held = std::iter::from_fn(|| never_read.try_next()).count();
    assert!(held <= 4096, "{held}");
    assert!(missed as usize + held > 2 * CHANGES, "{missed} + {held}: none is unaccounted for");
}

#[test]
fn a_refused_hint_is_no_error_and_a_closed_engine_says_so() {
    let engine =
        Engine::builder(MemoryStore::default(), Scripted::answering(|_, _| Ok(PushReply::default())))
            .build_blocking()
            .unwrap();
    engine.close();
    engine.backend_called();
    engine.connectivity_regained();
    assert!(engine.enable_auto_sync(AutoConfig::default()).is_err());
}

#[test]
fn a_store_that_refuses_is_asked_again_soon_and_not_without_end() {
    let store = BrokenStore::new(MemoryStore::default());
    let (control, begins) = (store.control(), store.begins());
    let engine = Engine::builder(store, Scripted::honest())
        .connectivity(ManualConnectivity::new())
        .build_blocking()
        .unwrap();
    engine.enable_auto_sync(AutoConfig { debounce: Duration::from_millis(200), ..quick() }).unwrap();
    engine.enqueue_blocking(note(1)).unwrap();
    control.refuse_begins(1_000_000);
    let before = begins.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(1_500));
    let asked = begins.load(Ordering::SeqCst) - before;
    assert!((1..20).contains(&asked), "{asked} times in a second and a half");
    control.refuse_begins(0);
    wait_for("the empty queue", || is_empty(&engine));
}

#[test]
fn a_commit_that_fails_in_a_run_does_not_end_the_running() {
    for landed in [false, true] {
        let store = BrokenStore::new(MemoryStore::default());
        let control = store.control();
        let engine = Engine::builder(store, Scripted::honest())
            .connectivity(ManualConnectivity::new())
            .build_blocking()
            .unwrap();
        let alone = AutoConfig { debounce: Duration::from_millis(200), look_every: None, ..quick() };
        engine.enable_auto_sync(alone).unwrap();
        engine.enqueue_blocking(note(1)).unwrap();
        control.next_commit(Broken::Fails { landed });
        wait_for("the empty queue", || is_empty(&engine));
    }
}

/// A backend whose credentials take their time: it looks at the permit when it has them, as every adapter must.
#[derive(Debug, Default)]
struct Slow {
    left_asleep: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
    go: Arc<AtomicBool>,
}

impl Adapter for Slow {
    fn capabilities(&self) -> Capabilities {
        Scripted::honest().capabilities()
    }

    fn push<'a>(
        &'a self,
        context: &'a CallContext,
        batch: &'a PushBatch,
    ) -> BoxFuture<'a, Result<PushReply, Failure>> {
        Box::pin(async move {
            self.asked.store(true, Ordering::SeqCst);
            while !self.go.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(2));
            }
            if context.permit.is_withdrawn() {
                return Err(Failure::new(FailureKind::Cancelled, Delivery::NotSent, "recalled"));
            }
            self.left_asleep.store(true, Ordering::SeqCst);
            apply(batch)
        })
    }
}

#[test]
fn a_call_that_waits_for_its_credentials_does_not_leave_once_the_app_sleeps() {
    let backend = Slow::default();
    let (left, asked, go) = (backend.left_asleep.clone(), backend.asked.clone(), backend.go.clone());
    let engine = Engine::builder(MemoryStore::default(), backend)
        .connectivity(ManualConnectivity::new())
        .build_blocking()
        .unwrap();
    engine.enable_auto_sync(quick()).unwrap();
    engine.enqueue_blocking(note(1)).unwrap();
    wait_for("the call", || asked.load(Ordering::SeqCst));
    engine.on_pause_blocking().unwrap();
    go.store(true, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!left.load(Ordering::SeqCst), "it left while the app was asleep");
    engine.on_resume();
    wait_for("the empty queue", || is_empty(&engine));
}
