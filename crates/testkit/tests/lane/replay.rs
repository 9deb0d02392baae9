//! The machine does what the model does: random walks through both, step by step, and the queues compared.

use super::bench::{Bench, DRAINED, applied, reply};
use super::model::{Lane, Rule, What};
use landfall_core::adapter::{EffectClass, PushBatch};
use landfall_core::change::{Change, Operation};
use landfall_core::config::Config;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::value::Fields;
use landfall_testkit::campaign::{Campaign, Figures};
use std::time::Duration;

/// Walks in each run.
const WALKS: u64 = 2_000;
/// Steps of one walk.
const STEPS: u32 = 25;

/// What a queued change is, as both say it: operation, value of `a`, whether it was sent.
type Row = (Operation, Option<u8>, bool);

struct Pair {
    lane: Lane,
    bench: Bench,
    flight: Option<PushBatch>,
    version: u32,
    random: u64,
    path: Vec<String>,
}

impl Pair {
    fn below(&mut self, n: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap() % n
    }

    fn step(&mut self) {
        let what = self.below(8);
        match what {
            0..=2 => {
                let sensible = self.lane.sensible();
                let what = sensible[self.below(sensible.len())];
                self.path.push(format!("{what:?}"));
                self.lane.edit(what, Rule::Right);
                self.bench.enqueue(change(what)).unwrap();
            }
            3..=4 if self.flight.is_none() && !self.lane.queue.is_empty() => {
                self.path.push("send".into());
                self.lane.send(Rule::Right);
                let before = self.bench.sent.len();
                self.bench.pass(Duration::from_secs(3600));
                self.bench.step(|step, _| {
                    step.wake();
                    step.connectivity_regained();
                    step.start_session(DRAINED);
                });
                assert_eq!(self.bench.sent.len(), before + 1, "something leaves: {:?}", self.path);
                self.flight = Some(self.bench.last_sent());
            }
            5 => self.end_flight("timeout", |pair, batch| {
                pair.lane.time_out(Rule::Right);
                let lost = Failure::new(FailureKind::Transient, Delivery::Unknown, "as told");
                pair.bench.answer(batch, Err(lost));
            }),
            6 => self.end_flight("applied", |pair, batch| {
                pair.version += 1;
                pair.lane.applied_by_the_server();
                let version = pair.version.to_string();
                pair.bench.answer(batch, Ok(reply(batch, &applied(&version))));
                // What is behind it leaves in the same step; the model sends it, too.
                if pair.bench.sent.last().is_some_and(|sent| sent.call != batch.call)
                    && !pair.lane.queue.is_empty()
                {
                    pair.lane.send(Rule::Right);
                    pair.flight = Some(pair.bench.last_sent());
                }
            }),
            _ => {
                self.path.push("crash".into());
                self.lane.crash(Rule::Right);
                self.flight = None;
                self.bench.crash();
            }
        }
    }

    fn end_flight(&mut self, name: &str, end: impl FnOnce(&mut Self, &PushBatch)) {
        let Some(batch) = self.flight.take() else { return };
        self.path.push(name.into());
        end(self, &batch);
    }

    fn compare(&mut self) -> Result<(), String> {
        let model: Vec<Row> =
            self.lane.queue.iter().map(|task| row(task.what, task.frozen.is_some())).collect();
        let machine: Vec<Row> = self
            .bench
            .tasks()
            .iter()
            .map(|task| (task.intent.operation, number(&task.intent.fields), task.frozen.is_some()))
            .collect();
        let shown = self.bench.local("note", "n").and_then(|body| body.fields().map(number));
        let view = self.lane.view().map(|(a, _)| Some(a));
        if model != machine || shown != view {
            return Err(format!(
                "after {:?}\nmodel   {model:?}, shows {view:?}\nmachine {machine:?}, shows {shown:?}",
                self.path
            ));
        }
        Ok(())
    }
}

fn row(what: What, sent: bool) -> Row {
    match what {
        What::Create(a) => (Operation::Create, Some(a), sent),
        What::Update(a) => (Operation::Update, Some(a), sent),
        What::Delete => (Operation::Delete, None, sent),
        What::Replace(a) => (Operation::Replace, Some(a), sent),
    }
}

fn change(what: What) -> Change {
    match what {
        What::Create(a) => Change::create("note", "n").set("a", i64::from(a)),
        What::Update(a) => Change::update("note", "n").set("a", i64::from(a)),
        What::Delete => Change::delete("note", "n"),
        What::Replace(a) => Change::of(Operation::Replace, super::bench::note("n")).set("a", i64::from(a)),
    }
}

fn number(fields: &Fields) -> Option<u8> {
    fields.value("a").and_then(|value| {
        format!("{value:?}").chars().filter(char::is_ascii_digit).collect::<String>().parse().ok()
    })
}

#[test]
fn the_machine_does_what_the_model_does() {
    let figures = Campaign::new("lane-replay", WALKS).run(|seed| {
        let mut pair = Pair {
            lane: Lane::new(),
            bench: Bench::with(Config::default(), EffectClass::OneEffect),
            flight: None,
            version: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            path: Vec::new(),
        };
        for _ in 0..STEPS {
            pair.step();
            pair.compare()?;
        }
        Ok(Figures::from([("requests", pair.bench.sent.len() as u64)]))
    });
    println!("{figures:?}");
    assert!(figures["requests"] > 0);
}
