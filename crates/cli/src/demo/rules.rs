//! What is declared about conflicts: read by the devices, which obey it, and by the proof, which holds them to it.
//!
//! The proof takes the names only; what a counter, a set and a group must come to it works out by itself.

use super::script::STRIKE;
use crate::problem::Problem;
use landfall_core::merge::rule::{FieldPath, FieldRule, Rules, Strategy};

/// How many times a report was reviewed: every review counts.
pub(super) const COUNTER: &str = "Reviews";
/// What a report was tagged with: every tag stays.
pub(super) const SET: &str = "Tags";
/// An amount is worth nothing without its currency: both are from the same author.
pub(super) const GROUP: [&str; 2] = ["Cost Total $", "Currency"];

/// The rules of all devices. Everything that can be kept is kept, and an edit is worth more than a deletion.
pub(super) fn rules() -> Result<Rules, Problem> {
    let mut rules = Rules::new(Strategy::FieldMerge);
    let strike = rules.entity(STRIKE);
    let declared = strike
        .field(&FieldPath::new(COUNTER), FieldRule::Counter)
        .and_then(|()| strike.field(&FieldPath::new(SET), FieldRule::OrSet))
        .and_then(|()| strike.group(&FieldPath::new(GROUP[0]), [GROUP[1].to_owned()], None));
    declared.map_err(|error| Problem::new(format!("the demo's rules: {error}")))?;
    Ok(rules)
}
