//! The whole life of a task: order and dependencies, ids from the server, options, refusals, control, upgrades, exports.
//! One file per promise; the bench is the device, the test is the backend.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

#[path = "../bench/mod.rs"]
mod bench;

mod actions;
mod control;
mod depend;
mod found;
mod groups;
mod incoming;
mod lanes;
mod names;
mod options;
mod passed;
mod refusals;
mod transfer;
mod upgrade;

use bench::Bench;
use landfall_core::adapter::{EffectClass, Outcome, PushBatch, PushReply, Rejection};
use landfall_core::config::Config;
use landfall_core::id::{IdempotencyKey, TaskId};
use landfall_core::machine::Receipt;
use landfall_core::model::{Model, TypeModel};
use landfall_core::store::Store;
use landfall_core::task::{JournalEntry, Task};

/// A device whose app says this of its types and lanes.
fn modelled(model: Model) -> Bench {
    Bench::with(Config { model, ..Config::default() }, EffectClass::OneEffect)
}

/// A model that says something of one type.
fn of_type(name: &str, of: TypeModel) -> Model {
    Model { types: [(name.to_owned(), of)].into(), ..Model::default() }
}

fn rejected(code: &str) -> Outcome {
    Outcome::Rejected(Rejection { code: code.into(), message: "not acceptable".into(), answer: None })
}

/// One outcome for each task of a batch, in its order.
fn answer_each(bench: &mut Bench, batch: &PushBatch, mut outcome: impl FnMut(&str) -> Outcome) {
    let results: Vec<(IdempotencyKey, Outcome)> =
        batch.tasks.iter().map(|task| (task.key, outcome(&task.entity.entity_id))).collect();
    bench.answer(batch, Ok(PushReply { results, ..PushReply::default() }));
}

fn id(receipt: &Receipt) -> TaskId {
    receipt.task.expect("the change made a task")
}

fn task(bench: &mut Bench, id: TaskId) -> Option<Task> {
    bench.store.begin().unwrap().task(id).unwrap()
}

fn ended(bench: &mut Bench, id: TaskId) -> Option<JournalEntry> {
    bench.store.begin().unwrap().journal(id).unwrap()
}

/// Who is in a batch.
fn ids(batch: &PushBatch) -> Vec<&str> {
    batch.tasks.iter().map(|task| task.entity.entity_id.as_str()).collect()
}

/// What the batches sent so far carried, in order.
fn all_sent(bench: &Bench) -> Vec<String> {
    let of_one = |batch: &PushBatch| ids(batch).into_iter().map(str::to_owned).collect::<Vec<_>>();
    bench.sent.iter().flat_map(of_one).collect()
}
