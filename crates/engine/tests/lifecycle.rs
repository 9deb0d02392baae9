//! The engine's side of a task's life: waiting for a verdict, control from other threads, accounts, exports.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::adapter::{
    Adapter, Applied, BoxFuture, CallContext, Capabilities, EffectClass, Outcome, PushBatch, PushReply,
    Rejection,
};
use landfall_core::change::{Change, Intent, Operation};
use landfall_core::event::Event;
use landfall_core::export::ExportedTask;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::EntityKey;
use landfall_core::inspect::{EntityStatus, Fate, TaskFilter};
use landfall_core::machine::{Cancelled, Scope, TaskError};
use landfall_core::store::memory::MemoryStore;
use landfall_core::task::{StateKind, Verdict};
use landfall_core::value::Fields;
use landfall_engine::{Engine, Error, Logout, Notice};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use support::{Scripted, apply};

fn refuse(batch: &PushBatch) -> Result<PushReply, Failure> {
    let rejection =
        Rejection { code: "bad".into(), message: "no".into(), answer: Some(r#"{"code":"bad"}"#.into()) };
    let results = batch.tasks.iter().map(|task| (task.key, Outcome::Rejected(rejection.clone()))).collect();
    Ok(PushReply { results, ..PushReply::default() })
}

/// Refuses notes whose text is `bad`.
fn picky() -> Scripted {
    Scripted::answering(|_, batch| {
        if batch.tasks[0].payload.contains(r#""text":"bad""#) { refuse(batch) } else { apply(batch) }
    })
}

fn engine(adapter: impl Adapter) -> Engine {
    Engine::builder(MemoryStore::default(), adapter).build_blocking().unwrap()
}

fn note(id: &str, text: &str) -> Change {
    Change::create("note", id).set("text", text)
}

#[test]
fn a_caller_that_waits_for_a_verdict_hears_it_from_another_threads_sync() {
    let engine = engine(picky());
    let task = engine.enqueue_blocking(note("a", "good")).unwrap().task.unwrap();
    let quick = engine.wait_acked_blocking(task, Duration::from_millis(20)).unwrap();
    assert_eq!(quick, Fate::Queued { task, state: StateKind::Pending }, "nobody syncs");
    let waiting = {
        let engine = engine.clone();
        std::thread::spawn(move || engine.wait_acked_blocking(task, Duration::from_secs(30)).unwrap())
    };
    engine.sync_blocking().unwrap();
    assert!(matches!(waiting.join().unwrap(), Fate::Done { verdict: Verdict::Applied, .. }));
    // Also long after it has ended.
    let later = engine.wait_acked_blocking(task, Duration::ZERO).unwrap();
    assert!(matches!(later, Fate::Done { verdict: Verdict::Applied, .. }));
}

#[test]
fn a_refusal_ends_the_waiting_and_a_retry_goes_on_under_the_same_question() {
    let engine = engine(picky());
    let (status, mut events) = engine.watch().unwrap();
    assert!(!status.needs_attention());
    let task = engine.enqueue_blocking(note("a", "bad")).unwrap().task.unwrap();
    engine.sync_blocking().unwrap();
    let fate = engine.wait_acked_blocking(task, Duration::from_secs(30)).unwrap();
    assert_eq!(fate, Fate::Queued { task, state: StateKind::Dead });
    assert!(engine.status().unwrap().needs_attention());
    let told = std::iter::from_fn(|| events.try_next())
        .any(|notice| matches!(notice, Notice::Event(Event::NeedsAttention { dead: 1, conflicts: 0 })));
    assert!(told, "one signal says that somebody is needed");

    let good = Intent { fields: Fields::from([("text", "good")]), ..Intent::new(Operation::Create) };
    let next = engine.edit_blocking(task, good).unwrap();
    assert_ne!(next, task);
    engine.sync_blocking().unwrap();
    let fate = engine.wait_acked_blocking(task, Duration::ZERO).unwrap();
    assert!(matches!(fate, Fate::Done { verdict: Verdict::Applied, .. }), "the first id still answers");
    assert!(!engine.status().unwrap().needs_attention());
}

#[test]
fn tasks_are_found_cancelled_paused_and_explained() {
    let engine = engine(Scripted::honest());
    for id in ["a", "b", "c"] {
        engine.enqueue_blocking(note(id, "x").tag(id)).unwrap();
    }
    let filter = TaskFilter { tag: Some("b".into()), ..TaskFilter::default() };
    let found = engine.find_tasks(filter, 0, 10).unwrap().page.tasks;
    let task = found[0].id;
    assert_eq!(engine.cancel_blocking(task).unwrap(), Cancelled::Done);
    let refused = engine.cancel_blocking(task).unwrap_err();
    assert!(
        matches!(refused, Error::Task(TaskError::Ended { verdict: Verdict::Cancelled, .. })),
        "{refused}"
    );
    engine.pause_blocking(Scope::Type("note".into())).unwrap();
    let report = engine.sync_blocking().unwrap();
    assert_eq!((report.applied, report.left.pending), (0, 2));
    let one = engine.tasks(0, 1).unwrap().tasks[0].id;
    let why = engine.explain(one).unwrap().unwrap();
    assert_eq!(serde_json_of(&why.waits_for), r#"[TypePaused]"#);
    assert!(engine.status().unwrap().controls.types.contains("note"));
    engine.resume_blocking(Scope::Type("note".into())).unwrap();
    assert_eq!(engine.sync_blocking().unwrap().applied, 2);
    let verdicts: Vec<_> =
        engine.journal_entries(None, 10).unwrap().entries.into_iter().map(|entry| entry.verdict).collect();
    assert_eq!(verdicts, [Verdict::Applied, Verdict::Applied, Verdict::Cancelled], "the last first");
}

fn serde_json_of(value: &impl fmt::Debug) -> String {
    format!("{value:?}")
}

// ---- accounts ----------------------------------------------------------------------------------------------------

/// For whom a record was sent, and which.
type Seen = (Option<String>, String);

/// Notes for whom each batch came, and holds the first call until the test lets it go.
#[derive(Clone, Default)]
struct Teller {
    seen: Arc<Mutex<Vec<Seen>>>,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Default)]
struct Gate {
    holds: bool,
    inside: bool,
}

impl Teller {
    fn hold(&self) {
        self.gate.0.lock().unwrap().holds = true;
    }

    fn wait_until_held(&self) {
        let mut gate = self.gate.0.lock().unwrap();
        while !gate.inside {
            gate = self.gate.1.wait(gate).unwrap();
        }
    }

    fn let_go(&self) {
        self.gate.0.lock().unwrap().holds = false;
        self.gate.1.notify_all();
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Teller")
    }
}

impl Adapter for Teller {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            batch_tasks: 500,
            batch_bytes: 1 << 20,
            effect: EffectClass::OneEffect,
            pull: false,
            orders_writes: true,
            atomic_groups: false,
            actions: false,
            probe: false,
        }
    }

    fn push<'a>(
        &'a self,
        context: &'a CallContext,
        batch: &'a PushBatch,
    ) -> BoxFuture<'a, Result<PushReply, Failure>> {
        Box::pin(async move {
            // Here an adapter asks for credentials, which can take its time.
            let mut gate = self.gate.0.lock().unwrap();
            while gate.holds {
                gate.inside = true;
                self.gate.1.notify_all();
                gate = self.gate.1.wait(gate).unwrap();
            }
            drop(gate);
            if context.permit.is_withdrawn() {
                return Err(Failure::new(
                    FailureKind::Cancelled,
                    Delivery::NotSent,
                    "the queue changed hands",
                ));
            }
            let identity = context.identity.as_deref().map(str::to_owned);
            let mut seen = self.seen.lock().unwrap();
            seen.extend(batch.tasks.iter().map(|task| (identity.clone(), task.entity.entity_id.clone())));
            let applied = Applied { version: Some("1".into()), ..Applied::default() };
            let results =
                batch.tasks.iter().map(|task| (task.key, Outcome::Applied(applied.clone()))).collect();
            Ok(PushReply { results, ..PushReply::default() })
        })
    }
}

#[test]
fn each_accounts_work_goes_out_under_its_own_name_only() {
    let teller = Teller::default();
    let engine =
        Engine::builder(MemoryStore::default(), teller.clone()).identity("alice").build_blocking().unwrap();
    engine.enqueue_blocking(note("hers", "x")).unwrap();
    engine.switch_identity_blocking(Some("bob".into())).unwrap();
    assert_eq!(engine.status().unwrap().counts.total(), 0, "bob sees nothing of it");
    assert!(engine.get(&EntityKey::new("note", "hers")).unwrap().is_none());
    engine.enqueue_blocking(note("his", "x")).unwrap();
    engine.sync_blocking().unwrap();
    assert_eq!(teller.seen(), [(Some("bob".to_owned()), "his".to_owned())]);
    engine.switch_identity_blocking(Some("alice".into())).unwrap();
    let counts: Vec<_> = engine
        .identities_blocking()
        .unwrap()
        .into_iter()
        .map(|(name, counts)| (name.unwrap_or_default(), counts.total()))
        .collect();
    assert!(
        counts.contains(&("alice".to_owned(), 1)) && counts.contains(&("bob".to_owned(), 0)),
        "{counts:?}"
    );
    engine.sync_blocking().unwrap();
    assert_eq!(teller.seen()[1], (Some("alice".to_owned()), "hers".to_owned()));
}

#[test]
fn a_call_that_still_waits_for_its_credentials_is_not_made_after_a_switch() {
    let teller = Teller::default();
    let engine =
        Engine::builder(MemoryStore::default(), teller.clone()).identity("alice").build_blocking().unwrap();
    let hers = engine.enqueue_blocking(note("hers", "x")).unwrap().task.unwrap();
    teller.hold();
    let syncing = {
        let engine = engine.clone();
        std::thread::spawn(move || engine.sync_blocking())
    };
    teller.wait_until_held();
    engine.switch_identity_blocking(Some("bob".into())).unwrap();
    let report = syncing.join().unwrap().unwrap();
    assert_eq!(report.applied, 0, "whoever waited for alice's run hears how it ended");
    teller.let_go();
    engine.enqueue_blocking(note("his", "x")).unwrap();
    engine.sync_blocking().unwrap();
    assert_eq!(teller.seen(), [(Some("bob".to_owned()), "his".to_owned())]);
    engine.switch_identity_blocking(Some("alice".into())).unwrap();
    engine.sync_blocking().unwrap();
    let fate = engine.fate(hers).unwrap();
    assert!(matches!(fate, Fate::Done { verdict: Verdict::Applied, .. }), "{fate:?}");
    assert_eq!(teller.seen().len(), 2);
}

fn with_two_changes() -> (Teller, Engine) {
    let teller = Teller::default();
    let engine =
        Engine::builder(MemoryStore::default(), teller.clone()).identity("alice").build_blocking().unwrap();
    engine.enqueue_blocking(note("a", "x")).unwrap();
    engine.enqueue_blocking(note("b", "x")).unwrap();
    (teller, engine)
}

#[test]
fn a_logout_drains_keeps_exports_or_discards_and_never_sends_as_another() {
    let (teller, engine) = with_two_changes();
    let done = engine.logout_blocking(Logout::Drain { within: Duration::from_secs(10) }).unwrap();
    assert_eq!(done.drained.unwrap().applied, 2);
    assert_eq!(engine.identity(), None);
    assert_eq!(teller.seen().len(), 2);

    let (teller, engine) = with_two_changes();
    assert_eq!(engine.logout_blocking(Logout::Keep).unwrap().kept, 2);
    engine.sync_blocking().unwrap();
    assert!(teller.seen().is_empty(), "nobody is logged in");
    engine.switch_identity_blocking(Some("alice".into())).unwrap();
    assert_eq!(engine.sync_blocking().unwrap().applied, 2);

    let (teller, engine) = with_two_changes();
    let gone = engine.tasks(0, 1).unwrap().tasks[0].id;
    let done = engine.logout_blocking(Logout::Discard).unwrap();
    assert_eq!(done.discarded, 2);
    engine.switch_identity_blocking(Some("alice".into())).unwrap();
    assert_eq!(engine.status().unwrap().counts.total(), 0);
    assert!(engine.get(&EntityKey::new("note", "a")).unwrap().is_none(), "her records are forgotten");
    let entry = engine.journal(gone).unwrap().unwrap();
    assert_eq!(entry.verdict, Verdict::Discarded);
    assert!(entry.payload.contains(r#""text":"x""#), "and the journal still has what she wrote");
    assert!(teller.seen().is_empty());

    let (_, engine) = with_two_changes();
    let path = std::env::temp_dir().join(format!("landfall-logout-{}.jsonl", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let done = engine.logout_blocking(Logout::Export(path.clone())).unwrap();
    assert_eq!((done.exported, done.discarded), (2, 2));
    engine.switch_identity_blocking(Some("alice".into())).unwrap();
    let lines = std::fs::read_to_string(&path).unwrap();
    let tasks: Vec<_> = lines.lines().map(ExportedTask::from_json).collect();
    // Here they have ended; elsewhere they are work again.
    assert_eq!(engine.restore_blocking(tasks.clone()).unwrap().known, 2);
    let teller = Teller::default();
    let other = Engine::builder(MemoryStore::default(), teller.clone()).build_blocking().unwrap();
    let refused = other.restore_blocking(tasks.clone()).unwrap_err();
    assert!(refused.to_string().contains("alice"), "it is hers, and nobody else's to send: {refused}");
    other.switch_identity_blocking(Some("alice".into())).unwrap();
    assert_eq!(other.restore_blocking(tasks).unwrap().tasks, 2);
    assert_eq!(other.sync_blocking().unwrap().applied, 2);

    // The file is never written over, and then nothing is given up.
    let (_, engine) = with_two_changes();
    let refused = engine.logout_blocking(Logout::Export(path.clone())).unwrap_err();
    assert!(refused.to_string().contains("exists"), "{refused}");
    assert_eq!(engine.status().unwrap().counts.total(), 2);
    assert_eq!(engine.identity().as_deref(), Some("alice"));
    let _ = std::fs::remove_file(&path);
}

#[test]
fn a_drain_that_leaves_something_logs_nobody_out() {
    let engine = Engine::builder(MemoryStore::default(), picky()).identity("alice").build_blocking().unwrap();
    engine.enqueue_blocking(note("a", "bad")).unwrap();
    let refused = engine.logout_blocking(Logout::Drain { within: Duration::from_secs(5) }).unwrap_err();
    assert!(matches!(refused, Error::LogoutRefused { left: 1, .. }), "{refused}");
    assert_eq!(engine.identity().as_deref(), Some("alice"));
    assert_eq!(engine.status().unwrap().counts.dead, 1);
}

#[test]
fn a_bad_line_of_an_export_stores_nothing() {
    let (_, engine) = with_two_changes();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    engine
        .export(move |task| {
            kept.lock().unwrap().push(task.to_json());
            Ok(())
        })
        .unwrap();
    let good: Vec<_> = lines.lock().unwrap().iter().map(|line| ExportedTask::from_json(line)).collect();
    let other = self::engine(Scripted::honest());
    other.switch_identity_blocking(Some("alice".into())).unwrap();
    let mixed = good.into_iter().chain([ExportedTask::from_json("{}")]);
    assert!(matches!(other.restore_blocking(mixed), Err(Error::Input(_))));
    assert_eq!(other.status().unwrap().counts.total(), 0);
}

#[test]
fn a_record_is_found_by_either_of_its_ids() {
    let named = Scripted::answering(|_, batch| {
        let applied = Applied {
            version: Some("1".into()),
            entity_id: Some(format!("srv-{}", batch.tasks[0].entity.entity_id)),
            ..Applied::default()
        };
        let results = batch.tasks.iter().map(|task| (task.key, Outcome::Applied(applied.clone()))).collect();
        Ok(PushReply { results, ..PushReply::default() })
    });
    let engine = engine(named);
    engine.enqueue_blocking(note("a", "x")).unwrap();
    engine.sync_blocking().unwrap();
    let (local, server) = (EntityKey::new("note", "a"), EntityKey::new("note", "srv-a"));
    for key in [&local, &server] {
        assert_eq!(engine.get(key).unwrap().unwrap().key, local);
        assert_eq!(engine.status_of(key).unwrap(), EntityStatus::Synced);
        assert_eq!(engine.server_id(key).unwrap().as_deref(), Some("srv-a"));
    }
    assert_eq!(engine.server_id(&EntityKey::new("note", "b")).unwrap(), None);
}
