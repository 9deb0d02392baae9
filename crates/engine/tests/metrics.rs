//! The engine's numbers: that they are true, that the text for Prometheus is well-formed, that nothing secret is in it,
//! and that `docs/metrics.md` names exactly what is exported.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

#[path = "../../server/tests/exposition/mod.rs"]
mod exposition;
mod support;

use exposition::Exposition;
use landfall_core::adapter::{Applied, Outcome, PullPage, PushReply, Rejection};
use landfall_core::change::Change;
use landfall_core::config::{Config, ConflictConfig};
use landfall_core::entity::RemoteEntity;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{Cursor, EntityKey};
use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::store::memory::MemoryStore;
use landfall_core::value::Fields;
use landfall_engine::{Engine, MetricsSnapshot};
use std::path::Path;
use support::Scripted;

fn note(id: usize) -> Change {
    Change::create("note", format!("id-canary-{id}")).set("title", "value-canary")
}

fn remote(id: usize, version: &str) -> RemoteEntity {
    let body = landfall_core::entity::Body::Live(Fields::from([("title", "of the backend")]));
    RemoteEntity::new(EntityKey::new("note", format!("id-canary-{id}")), body, Some(version.into()))
}

/// Answers in this order: applied, refused, contradicted, then applied for ever.
fn varied() -> Scripted {
    let answer = |call: usize, batch: &landfall_core::adapter::PushBatch| {
        if call == 0 {
            return Err(Failure::new(FailureKind::Unreachable, Delivery::NotSent, "canary in words"));
        }
        let outcomes = batch.tasks.iter().enumerate().map(|(at, task)| {
            let outcome = match (call, at) {
                (1, 1) => Outcome::Rejected(Rejection {
                    code: "code-canary".into(),
                    message: "message-canary".into(),
                    answer: Some("answer-canary".into()),
                }),
                (1, 2) => Outcome::Conflict { remote: Some(remote(2, "7")) },
                (1, 3) => Outcome::Duplicate(Applied { version: Some("1".into()), ..Applied::default() }),
                _ => Outcome::Applied(Applied { version: Some("1".into()), ..Applied::default() }),
            };
            (task.key, outcome)
        });
        Ok(PushReply { results: outcomes.collect(), ..PushReply::default() })
    };
    Scripted::answering(answer)
}

/// An engine that has met a little of everything.
fn lived() -> Engine {
    let rules = Rules::new(Strategy::Custom("a \"rule\"\\".into()));
    let conflicts = ConflictConfig { rules, ..ConflictConfig::default() };
    let engine = Engine::builder(MemoryStore::default(), varied())
        .config(Config { conflicts, ..Config::default() })
        .build_blocking()
        .unwrap();
    for id in 0..5 {
        engine.enqueue_blocking(note(id)).unwrap();
    }
    engine.enqueue_blocking(Change::update("note", "id-canary-0").set("more", 1)).unwrap();
    engine.enqueue_blocking(note(9)).unwrap();
    engine.enqueue_blocking(Change::delete("note", "id-canary-9")).unwrap();
    engine.import_blocking([Ok::<_, String>(note(5)), Ok(note(6))]).unwrap();
    engine.sync_blocking().unwrap();
    engine.connectivity_regained();
    engine.sync_blocking().unwrap();
    engine
}

#[test]
fn what_happened_is_counted() {
    let engine = lived();
    let MetricsSnapshot { since_open: counted, now, .. } = engine.metrics().unwrap();
    assert_eq!((counted.enqueued_tasks, counted.coalesced_changes), (8, 1));
    assert_eq!(counted.settled_tasks["annihilated"], 1);
    assert_eq!((counted.settled_tasks["applied"], counted.settled_tasks["duplicate"]), (4, 1));
    assert_eq!(counted.attempts["unreachable"], 7);
    for (outcome, tasks) in
        [("applied", 4), ("duplicate", 1), ("rejected", 1), ("conflict", 1), ("unanswered", 0)]
    {
        assert_eq!(counted.attempts[outcome], tasks, "{outcome}");
    }
    assert_eq!((counted.requests["push"], counted.sessions), (2, 2));
    assert!(counted.sent_bytes > 7 * 20, "{}", counted.sent_bytes);
    assert_eq!(counted.dead_letters["rejected"], 1);
    assert_eq!(counted.retries["unreachable"], 7);
    assert_eq!(counted.gate_closings["unreachable"], 1);
    let conflict = counted.conflicts["custom(a \"rule\"\\)"];
    assert_eq!((conflict.settled, conflict.waits), (0, 1));
    assert_eq!(counted.acknowledgement.count(), 5);
    assert_eq!((now.queue_tasks.dead, now.queue_tasks.conflict, now.queue_tasks.total()), (1, 1, 2));
    assert!(now.oldest_unsynced_seconds.unwrap() >= 0.0);
    assert!(now.since_acknowledgement_seconds.unwrap() <= now.uptime_seconds);
    assert_eq!((now.syncing, now.gate_closed), (false, None));
}

#[test]
fn reading_is_counted_too() {
    let adapter = Scripted::honest().feeding(|_| {
        Ok(PullPage {
            changes: vec![Ok(remote(1, "1")), Err("odd".into())],
            cursor: Cursor("c".into()),
            has_more: false,
        })
    });
    let engine = Engine::builder(MemoryStore::default(), adapter).build_blocking().unwrap();
    engine.sync_blocking().unwrap();
    let counted = engine.metrics().unwrap().since_open;
    assert_eq!((counted.requests["pull"], counted.pulled_pages), (1, 1));
    assert_eq!((counted.pulled_changes, counted.quarantined_records), (2, 1));
}

#[test]
fn an_idle_engine_still_sees_its_oldest_change_grow_older() {
    let engine = Engine::local(MemoryStore::default()).build_blocking().unwrap();
    assert_eq!(engine.metrics().unwrap().now.oldest_unsynced_seconds, None);
    engine.enqueue_blocking(note(1)).unwrap();
    let age = || engine.metrics().unwrap().now.oldest_unsynced_seconds.unwrap();
    let (began, first) = (std::time::Instant::now(), age());
    // Nothing happens in the engine meanwhile.
    while age() < first + 0.05 {
        assert!(began.elapsed().as_secs() < 10, "the age stands still");
        std::thread::yield_now();
    }
}

#[test]
fn the_text_for_prometheus_is_well_formed_and_says_the_same() {
    let engine = lived();
    let snapshot = engine.metrics().unwrap();
    let text = Exposition::parse(&snapshot.to_prometheus());
    text.has_sound_histogram("landfall_acknowledgement_seconds");
    let value = |name: &str, labels: &[(&str, &str)]| text.value(name, labels).unwrap_or(f64::NAN);
    for (name, labels, expected) in [
        ("landfall_tasks_enqueued_total", vec![], 8.0),
        ("landfall_tasks_settled_total", vec![("verdict", "annihilated")], 1.0),
        ("landfall_attempts_total", vec![("outcome", "unreachable")], 7.0),
        ("landfall_conflicts_total", vec![("rule", "custom(a \"rule\"\\)"), ("waits", "true")], 1.0),
        ("landfall_queue_tasks", vec![("state", "dead")], 1.0),
        ("landfall_acknowledgement_seconds_count", vec![], 5.0),
        ("landfall_gate_closed", vec![], 0.0),
    ] {
        assert_eq!(value(name, &labels), expected, "{name} {labels:?}");
    }
    assert!(text.families().iter().all(|(name, _)| name.starts_with("landfall_")));
}

#[test]
fn no_number_names_a_record_a_value_or_an_answer() {
    let engine = lived();
    let snapshot = engine.metrics().unwrap();
    for text in [snapshot.to_prometheus(), serde_json::to_string(&snapshot).unwrap(), format!("{snapshot:?}")]
    {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn the_page_in_the_docs_names_exactly_what_is_exported() {
    let text = lived().metrics().unwrap().to_prometheus();
    let exported = Exposition::parse(&text).families();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    assert_eq!(exposition::documented(&std::fs::read_to_string(page).unwrap(), "## The engine"), exported);
}
