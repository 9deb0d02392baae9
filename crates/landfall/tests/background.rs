//! A window of two seconds in the background over a hundred thousand queued changes in a real file: it is over in time,
//! loses nothing, and says what is left (DESIGN.md section 8).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall::core::adapter::{
    Adapter, Applied, BoxFuture, CallContext, Capabilities, EffectClass, Outcome, PushBatch, PushReply,
};
use landfall::core::change::Change;
use landfall::core::device::Conditions;
use landfall::core::event::Exhausted;
use landfall::core::failure::Failure;
use landfall::core::id::{IdempotencyKey, TaskId};
use landfall::core::machine::{RunBudget, SessionEnd};
use landfall::sqlite::SqliteStore;
use landfall::{BackgroundRun, Engine};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A backend that takes 100 ms for each call and remembers what took effect.
#[derive(Debug, Clone, Default)]
struct Slow {
    keys: Arc<Mutex<BTreeSet<IdempotencyKey>>>,
    effects: Arc<Mutex<Vec<TaskId>>>,
}

impl Adapter for Slow {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            batch_tasks: 200,
            batch_bytes: 1 << 20,
            effect: EffectClass::OneEffect,
            pull: false,
            orders_writes: true,
            atomic_groups: true,
            actions: true,
            probe: false,
        }
    }

    fn push<'a>(
        &'a self,
        _: &'a CallContext,
        batch: &'a PushBatch,
    ) -> BoxFuture<'a, Result<PushReply, Failure>> {
        Box::pin(async move {
            std::thread::sleep(Duration::from_millis(100));
            let mut results = Vec::new();
            for task in &batch.tasks {
                let applied = Applied { version: Some("1".into()), ..Applied::default() };
                results.push(match self.keys.lock().unwrap().insert(task.key) {
                    true => {
                        self.effects.lock().unwrap().push(task.task_id);
                        (task.key, Outcome::Applied(applied))
                    }
                    false => (task.key, Outcome::Duplicate(applied)),
                });
            }
            Ok(PushReply { results, ..PushReply::default() })
        })
    }
}

#[test]
fn a_window_of_two_seconds_over_a_hundred_thousand_tasks() {
    const TASKS: usize = 100_000;
    let folder = std::env::temp_dir().join(format!("landfall-background-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let backend = Slow::default();
    let engine = Engine::builder(SqliteStore::open(folder.join("q.db")).unwrap(), backend.clone())
        .build_blocking()
        .unwrap();
    let changes = (0..TASKS)
        .map(|n| Ok::<_, std::io::Error>(Change::create("note", n.to_string()).set("text", "some words")));
    engine.import_blocking(changes).unwrap();

    let window = Duration::from_secs(2);
    let began = Instant::now();
    let ran = engine
        .run_background_blocking(
            RunBudget { time: Some(window), ..RunBudget::default() },
            Conditions::default(),
        )
        .unwrap();
    let took = began.elapsed();
    let BackgroundRun::Ran(report) = ran else { panic!("{ran:?}") };
    assert!(took <= window, "it took {took:?}");
    assert_eq!(report.exhausted, Some(Exhausted::Time));
    assert!(report.applied > 0, "{report:?}");
    let left = report.left;
    assert_eq!(left.total() as usize, TASKS - report.applied as usize, "{left:?}");
    assert_eq!(backend.effects.lock().unwrap().len() as u64, report.applied, "all that took effect is known");
    assert_eq!(engine.status().unwrap().counts, left, "what is left is what the report says");
    assert!(engine.read(|store| store.lease()).unwrap().unwrap().holder.is_empty());

    // Another window, much shorter than a call: what it had begun is of unknown fate, and no window loses anything.
    let short = RunBudget { time: Some(Duration::from_millis(60)), ..RunBudget::default() };
    engine.run_background_blocking(short, Conditions::default()).unwrap();
    let rest = engine.sync_with_blocking(
        SessionEnd::Drained { within: Duration::from_secs(120) },
        landfall::core::machine::Directions::Both,
    );
    let rest = rest.unwrap();
    assert!(rest.is_complete(), "{rest:?}");
    let effects = backend.effects.lock().unwrap();
    assert_eq!(effects.len(), TASKS);
    assert_eq!(effects.iter().collect::<BTreeSet<_>>().len(), TASKS, "one effect each");
    std::fs::remove_dir_all(&folder).unwrap();
}
