//! The feature `metrics`: an app's own recorder hears the same numbers as a snapshot holds.
//!
//! The recorder is of the whole process, so all of it is one test.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::change::Change;
use landfall_core::store::memory::MemoryStore;
use landfall_engine::Engine;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use support::Scripted;

/// Keeps a number for each series, by its name and labels.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    numbers: BTreeMap<String, f64>,
    described: BTreeMap<String, Option<Unit>>,
}

struct Line {
    book: Book,
    series: String,
}

impl Line {
    fn add(&self, more: f64) {
        *self.book.0.lock().unwrap().numbers.entry(self.series.clone()).or_default() += more;
    }
}

impl CounterFn for Line {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }

    fn absolute(&self, _value: u64) {
        unreachable!("counters only grow");
    }
}

impl GaugeFn for Line {
    fn increment(&self, _value: f64) {
        unreachable!("gauges are set");
    }

    fn decrement(&self, _value: f64) {
        unreachable!("gauges are set");
    }

    fn set(&self, value: f64) {
        self.book.0.lock().unwrap().numbers.insert(self.series.clone(), value);
    }
}

impl HistogramFn for Line {
    fn record(&self, _value: f64) {
        self.add(1.0);
    }
}

impl Book {
    fn line(&self, key: &Key) -> Arc<Line> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(Line { book: self.clone(), series: format!("{} {}", key.name(), labels.join(",")) })
    }

    fn describe(&self, key: KeyName, unit: Option<Unit>) {
        self.0.lock().unwrap().described.insert(key.as_str().to_owned(), unit);
    }

    fn number(&self, series: &str) -> Option<f64> {
        self.0.lock().unwrap().numbers.get(series).copied()
    }
}

impl Recorder for Book {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(key, unit);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(key, unit);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(key, unit);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.line(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.line(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.line(key))
    }
}

#[test]
fn the_recorder_of_an_app_hears_what_a_snapshot_holds() {
    let book = Book::default();
    metrics::set_global_recorder(book.clone()).map_err(|_| "another recorder").unwrap();
    let engine = Engine::builder(MemoryStore::default(), Scripted::honest()).build_blocking().unwrap();
    for id in 0..4 {
        let change = Change::create("note", format!("id-canary-{id}")).set("title", "value-canary");
        engine.enqueue_blocking(change).unwrap();
    }
    engine.sync_blocking().unwrap();
    engine.enqueue_blocking(Change::create("note", "id-canary-5").set("title", "value-canary")).unwrap();
    let snapshot = engine.metrics().unwrap();
    let text = snapshot.to_prometheus();

    for (series, expected) in [
        ("landfall_tasks_enqueued_total ", 5.0),
        ("landfall_attempts_total outcome=applied", 4.0),
        ("landfall_tasks_settled_total verdict=applied", 4.0),
        ("landfall_requests_total kind=push", 1.0),
        ("landfall_sessions_total ", 1.0),
        ("landfall_acknowledgement_seconds ", 4.0),
        ("landfall_queue_tasks state=pending", 1.0),
        ("landfall_syncing ", 0.0),
    ] {
        assert_eq!(book.number(series), Some(expected), "{series}");
    }
    assert_eq!(book.number("landfall_sent_bytes_total "), Some(snapshot.since_open.sent_bytes as f64));

    let pages = book.0.lock().unwrap();
    for series in pages.numbers.keys() {
        let name = series.split(' ').next().unwrap();
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is in no snapshot");
        assert!(pages.described.contains_key(name), "{name} is not described");
        assert!(!series.contains("canary"), "{series}");
    }
    assert_eq!(pages.described["landfall_acknowledgement_seconds"], Some(Unit::Seconds));
    assert_eq!(pages.described["landfall_sent_bytes_total"], Some(Unit::Bytes));
}
