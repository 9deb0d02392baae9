//! The simulated app: what it says of its types and lanes, drawn from the seed, and the backend it talks to.
//!
//! Tests: `tests/errands.rs`, through what the world does with it.

use super::Plant;
use crate::rng::Rng;
use landfall_core::adapter::{Capabilities, EffectClass};
use landfall_core::config::Config;
use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::model::{Model, TypeModel, Upcast, UpcastRules, WhenDead};
use landfall_core::value::Fields;
use landfall_server::policy::{AssignIds, Increment, Policies, RequireFields};
use std::time::Duration;

/// The accounts of every device, each a tenant of the server.
pub(super) const ACCOUNTS: [&str; 2] = ["ann", "bob"];
/// The types of records, each but the first with a reference to the one before.
pub(super) const TYPES: [&str; 3] = ["project", "note", "comment"];
/// The named lanes.
pub(super) const LANES: [&str; 2] = ["red", "blue"];

/// What all devices of one life have in common.
#[derive(Debug)]
pub(super) struct App {
    pub(super) model: Model,
    rules: Rules,
    orders_writes: bool,
    /// What the server checks, names and does.
    pub(super) policies: Policies,
}

/// The field that refers to another record, and that one's type.
pub(super) fn reference(entity_type: &str) -> Option<(&'static str, &'static str)> {
    match entity_type {
        "note" => Some(("project_id", "project")),
        "comment" => Some(("note_id", "note")),
        _ => None,
    }
}

impl App {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let policy = |rng: &mut Rng| WhenDead::ALL[rng.index(WhenDead::ALL.len())];
        let mut model = Model { when_dead: policy(rng), ..Model::default() };
        for lane in LANES {
            model.lanes.insert(lane.into(), policy(rng));
        }
        for name in TYPES {
            let mut of = TypeModel::default();
            of.references.extend(reference(name).map(|(field, of)| (field.to_owned(), of.to_owned())));
            if rng.percent(30) {
                of.debounce = Duration::from_millis([200, 2_000, 20_000][rng.index(3)]);
            }
            if rng.percent(30) {
                of.when_dead = Some(policy(rng));
            }
            model.types.insert(name.into(), of);
        }
        let strategies = [
            Strategy::LastWriteWins,
            Strategy::FieldMerge,
            Strategy::ServerWins,
            Strategy::Ask,
            Strategy::Fork,
        ];
        let rules = Rules::new(strategies[rng.index(strategies.len())].clone());
        let named: Vec<&str> = TYPES.into_iter().filter(|_| rng.percent(65)).collect();
        let policies = Policies::new()
            .with(RequireFields::new().with("note", "title"))
            .with(Increment)
            .with(AssignIds::new(named));
        Self { model, rules, orders_writes: rng.percent(70), policies }
    }

    /// The machine's settings: the product's, with small batches so that they matter.
    pub(super) fn config(&self, seed: u64, upgraded: bool, plant: Option<Plant>) -> Config {
        let mut config = Config { model: self.model.clone(), ..Config::default() };
        config.retry.seed = seed;
        config.push.batch_tasks = 3;
        config.pull.page_changes = 3;
        config.conflicts.rules = self.rules.clone();
        if upgraded && plant != Some(Plant::OldFormatAfterUpgrade) {
            let rules = UpcastRules {
                rename: [("text".to_owned(), "body".to_owned())].into(),
                remove: ["old".to_owned()].into(),
                add: Fields::from([("kind", "plain")]),
            };
            for of in config.model.types.values_mut() {
                of.schema = 2;
                of.upcasts.insert(1, Upcast::Rules(rules.clone()));
            }
        }
        if plant == Some(Plant::DeadLettersPassed) {
            config.model.when_dead = WhenDead::Skip;
            config.model.lanes.clear();
            config.model.types.values_mut().for_each(|of| of.when_dead = None);
        }
        config
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities {
            batch_tasks: 100,
            batch_bytes: 1 << 20,
            effect: EffectClass::OneEffect,
            pull: true,
            orders_writes: self.orders_writes,
            atomic_groups: true,
            actions: true,
            probe: false,
        }
    }
}
