//! What the command line declares about conflicts: `--conflict`, `--field`, `--deletes`, the same wherever they count.
//!
//! Words are read and refused by the core; this adds only what a command line cannot have. Tests: below, and
//! `tests/conflicts.rs`.

use crate::problem::Problem;
use clap::builder::{PossibleValue, TypedValueParser};
use landfall_core::merge::rule::{DeletePolicy, Rules, Strategy};
use landfall_core::model::WhenDead;
use std::ffi::OsStr;

/// The words of `--conflict`, as help and completions show them.
const STRATEGIES: [(&str, &str); 6] = [
    (
        "last_write_wins",
        "the newer write of each contested field; where the server orders writes, who syncs last",
    ),
    ("server_wins", "what the server has in each contested field"),
    ("client_wins", "what this device has in each contested field"),
    ("field_merge", "as last_write_wins, and an edit is kept before a deletion"),
    ("ask", "contested fields wait for you, see `landfall conflicts`"),
    ("fork", "a contested record becomes two"),
];

/// The words of `--deletes`.
const POLICIES: [(&str, &str); 4] = [
    ("delete_wins", "it is deleted; the edit is kept in the conflict"),
    ("edit_wins", "it lives on with the edit"),
    ("ask", "it waits for you, see `landfall conflicts`"),
    ("fork", "the edited record lives on under a new id"),
];

/// The words of `--on-dead`.
pub(crate) const WHEN_DEAD: [(&str, &str); 3] = [
    ("block", "everything behind it in its lane waits until you decide"),
    ("skip", "what is behind it goes on"),
    ("skip_if_independent", "what is behind it goes on unless it builds on it"),
];

/// Reads one of them.
pub(crate) fn when_dead(word: &str) -> Result<WhenDead, String> {
    WhenDead::ALL.into_iter().find(|policy| policy.as_str() == word).ok_or_else(|| {
        let known = WhenDead::ALL.map(WhenDead::as_str).join(", ");
        format!("there are {known}")
    })
}

/// What happens when two devices changed the same.
///
/// Fields that only one side changed are kept in every strategy.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Conflict rules")]
pub(crate) struct RuleArgs {
    /// What decides a field that both sides changed.
    #[arg(long = "conflict", value_name = "STRATEGY", default_value = "last_write_wins", value_parser = Words::new(&STRATEGIES, strategy))]
    strategy: Strategy,
    /// The rule of one field, or of fields that belong together (TYPE.A+B=RULE); may be repeated.
    ///
    /// Rules: lww, server, client, max, min, counter, grow_set, or_set, keyed_list(KEY), text, immutable, ask; for
    /// fields that belong together: lww, server, client, ask. A dot leads into an object: order.address.zip=server.
    #[arg(long = "field", value_name = "TYPE.FIELD=RULE", value_parser = declaration)]
    fields: Vec<String>,
    /// What happens when one side deleted what the other edited; without it, what the strategy implies.
    #[arg(long, value_name = "POLICY", value_parser = Words::new(&POLICIES, policy))]
    deletes: Option<DeletePolicy>,
}

impl RuleArgs {
    /// Everything put together.
    pub(crate) fn rules(&self) -> Result<Rules, Problem> {
        let mut rules = Rules::new(self.strategy.clone());
        rules.deletes = self.deletes;
        for declaration in &self.fields {
            rules.declare(declaration).map_err(|error| {
                Problem::new(format!("--field {declaration}: {error}"))
                    .hint("give each field one rule: its own, or that of the fields it belongs to")
            })?;
        }
        Ok(rules)
    }
}

const NO_RESOLVER: &str =
    "custom(NAME) means a function that an app registers; the command line has none, so use another word";

fn strategy(word: &str) -> Result<Strategy, String> {
    match Strategy::parse(word) {
        Ok(Strategy::Custom(_)) => Err(NO_RESOLVER.into()),
        read => read.map_err(|error| error.to_string()),
    }
}

fn policy(word: &str) -> Result<DeletePolicy, String> {
    DeletePolicy::parse(word).map_err(|error| error.to_string())
}

/// Judged by itself here, and together with the others in [`RuleArgs::rules`].
fn declaration(text: &str) -> Result<String, String> {
    Rules::new(Strategy::LastWriteWins).declare(text).map_err(|error| error.to_string())?;
    if text.contains("=custom(") {
        return Err(NO_RESOLVER.into());
    }
    Ok(text.into())
}

/// Words that help and completions know, refused in the core's own words.
#[derive(Clone)]
pub(crate) struct Words<T> {
    known: &'static [(&'static str, &'static str)],
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Words<T> {
    /// These words, read like this.
    pub(crate) fn new(
        known: &'static [(&'static str, &'static str)],
        parse: fn(&str) -> Result<T, String>,
    ) -> Self {
        Self { known, parse }
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Words<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let parse = self.parse;
        TypedValueParser::parse_ref(&move |text: &str| parse(text), command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.known.iter().map(|(word, help)| PossibleValue::new(*word).help(*help))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_knows_every_word_that_the_core_knows() {
        for (word, _) in STRATEGIES {
            assert_eq!(strategy(word).unwrap().to_string(), word);
        }
        for (word, _) in POLICIES {
            assert_eq!(policy(word).unwrap().to_string(), word);
        }
        for (word, _) in WHEN_DEAD {
            assert_eq!(when_dead(word).unwrap().as_str(), word);
        }
        for (known, error) in [
            (STRATEGIES.map(|(word, _)| word).join(", "), strategy("x").unwrap_err()),
            (POLICIES.map(|(word, _)| word).join(", "), policy("x").unwrap_err()),
            (WHEN_DEAD.map(|(word, _)| word).join(", "), when_dead("x").unwrap_err()),
        ] {
            assert!(error.contains(&known), "{error}");
        }
    }

    #[test]
    fn wrong_declarations_are_refused() {
        for (text, fragment) in [
            ("note.a", "is not of the form"),
            ("note.a=best", "unknown rule \"best\""),
            ("note.a+b=counter", "a group cannot have the rule"),
            ("note.a=custom(x)", "the command line has none"),
        ] {
            assert!(declaration(text).unwrap_err().contains(fragment), "{text}");
        }
        let twice = RuleArgs {
            strategy: Strategy::Ask,
            fields: vec!["note.a=max".into(), "note.a+b=server".into()],
            deletes: None,
        };
        assert!(twice.rules().unwrap_err().error.contains("already declared"));
    }
}
