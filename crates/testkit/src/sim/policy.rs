//! What a simulated app declares about conflicts, drawn from the seed, and what its person decides.
//!
//! Tests: `tests/simulator.rs`, through what the world does with it.

use super::strategies;
use crate::rng::Rng;
use landfall_core::config::Config;
use landfall_core::conflict::{Choice, ConflictRecord, Resolution};
use landfall_core::entity::Body;
use landfall_core::merge::rule::{Answer, DeletePolicy, Rules, Strategy};
use landfall_core::value::Fields;
use std::collections::BTreeMap;

/// What all devices of one life have in common.
#[derive(Debug)]
pub(super) struct Policy {
    rules: Rules,
    rounds_max: u32,
    /// Whether the backend's order decides which write is newer; else the devices' clocks do.
    pub(super) orders_writes: bool,
}

impl Policy {
    pub(super) fn draw(rng: &mut Rng, fixed: Option<Strategy>) -> Self {
        let strategies = strategies();
        let is_fixed = fixed.is_some();
        let strategy = fixed.unwrap_or_else(|| strategies[rng.index(strategies.len())].clone());
        let mut rules = Rules::new(strategy);
        if !is_fixed {
            let words =
                ["", "", "lww", "server", "client", "max", "min", "immutable", "custom(parity)", "ask"];
            for field in ["f0", "f1"] {
                let word = words[rng.index(words.len())];
                if !word.is_empty() {
                    rules
                        .declare(&format!("shared.{field}={word}"))
                        .expect("the words are those of the rules");
                }
            }
            rules.deletes = match rng.below(8) {
                0 => Some(DeletePolicy::DeleteWins),
                1 => Some(DeletePolicy::EditWins),
                2 => Some(DeletePolicy::Ask),
                3 => Some(DeletePolicy::Fork),
                _ => None,
            };
        }
        rules.resolver("parity", |dispute| match (dispute.local, dispute.remote) {
            (Some(landfall_core::value::Value::Number(landfall_core::value::Number::Integer(n))), _) => {
                match n % 3 {
                    0 => Answer::Local,
                    1 => Answer::Remote,
                    _ => Answer::Ask,
                }
            }
            (_, Some(_)) => Answer::Remote,
            _ => Answer::Local,
        });
        let counted = rules.entity("counted");
        counted.strategy = Some(Strategy::FieldMerge);
        for declaration in ["counted.n=counter", "counted.s=or_set", "counted.a+b=lww"] {
            rules.declare(declaration).expect("the words are those of the rules");
        }
        Self {
            rules,
            rounds_max: if rng.percent(20) { 1 + u32::try_from(rng.below(2)).unwrap_or(0) } else { u32::MAX },
            orders_writes: rng.percent(70),
        }
    }

    /// The machine's settings: the product's, with small batches so that they matter, and no limits that turn trouble
    /// into a person's work.
    pub(super) fn config(&self, seed: u64) -> Config {
        let mut config = Config::default();
        config.retry.seed = seed;
        config.retry.unreadable_max = u32::MAX;
        config.push.batch_tasks = 3;
        config.pull.page_changes = 3;
        config.pull.types = Some(["own", "shared", "counted"].map(String::from).into());
        config.conflicts.rules = self.rules.clone();
        config.conflicts.rounds_max = self.rounds_max;
        config
    }
}

/// What the person at a device says of a conflict. `fresh` is a value that was never used.
pub(super) fn decide(rng: &mut Rng, conflict: &ConflictRecord, fresh: i64) -> Resolution {
    let live = |body: &Body| matches!(body, Body::Live(_));
    let both = live(&conflict.local) && conflict.remote.as_ref().is_some_and(|remote| live(&remote.body));
    match rng.below(8) {
        0 => Resolution::KeepLocal,
        1 => Resolution::KeepRemote,
        2 => Resolution::ReplaceWithRemote,
        3 => Resolution::Edit(Body::Live(Fields::from([("f0", fresh)]))),
        4 if live(&conflict.local) => Resolution::Fork,
        5 => Resolution::Edit(Body::Deleted),
        _ if both => {
            let choices = conflict.fields.iter().map(|field| {
                let choice = match rng.below(4) {
                    0 => Choice::Local,
                    1 => Choice::Remote,
                    2 => Choice::Remove,
                    _ => Choice::Value(fresh.into()),
                };
                (field.path.to_string(), choice)
            });
            Resolution::Fields(choices.collect::<BTreeMap<_, _>>())
        }
        _ => Resolution::KeepLocal,
    }
}

/// What a resolution writes that nobody wrote before.
pub(super) fn written_by(resolution: &Resolution) -> Vec<(String, landfall_core::value::Value)> {
    match resolution {
        Resolution::Edit(Body::Live(fields)) => {
            fields.0.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
        }
        Resolution::Fields(choices) => choices
            .iter()
            .filter_map(|(name, choice)| match choice {
                Choice::Value(value) => Some((name.clone(), value.clone())),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}
