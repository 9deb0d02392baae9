//! `landfall conflicts`: what two sides changed, each in its own way, and what becomes of it.
//!
//! One file per subcommand; here is what they share: finding a conflict by the beginning of its id, and words for it.
//! Tests: `tests/conflicts.rs`.

mod list;
pub(crate) mod resolve;
mod show;

use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use crate::store::DbArgs;
use landfall_core::conflict::{ConflictRecord, DecidedBy, Found, Settled, Why};
use landfall_core::entity::Body;
use landfall_core::id::{ConflictId, EntityKey, TaskId};
use landfall_core::store::{ConflictQuery, StoreError, StoreRead};
use landfall_core::value::Fields;
use landfall_engine::Engine;
use serde::Serialize;

const EXAMPLES: &str = "  landfall conflicts list --db q.db
  landfall conflicts show --db q.db 3f2a91c0
  landfall conflicts resolve --db q.db 3f2a91c0 --keep-mine --dry-run
  landfall conflicts resolve --db q.db 3f2a91c0 --set damage=mine --set cost=theirs
  landfall sync --db q.db --endpoint http://127.0.0.1:8787/sync";

/// Conflicts looked at in one read.
const PAGE: usize = 200;
/// Digits of an id that are shown where it is not the subject: enough to tell many thousands apart.
const SHORT: usize = 8;
/// Digits that the beginning of an id must have.
const PREFIX_MIN: usize = 4;
/// Conflicts that are named when a beginning fits several.
const NAMED: usize = 5;

/// List, show and resolve conflicts: what two devices changed, each in its own way.
///
/// A conflict that a rule settled is kept for 90 days, so that nothing is ever lost; one that waits for you holds back
/// its record, and nothing else.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL), disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::Args),
    Show(show::Args),
    Resolve(resolve::Args),
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    match &args.command {
        Command::List(args) => list::run(args, output),
        Command::Show(args) => show::run(args, output),
        Command::Resolve(args) => resolve::run(args, output),
    }
}

/// An id, or the beginning of one: hexadecimal digits without hyphens.
#[derive(Clone, Debug)]
struct Wanted(String);

/// Reads an id or the beginning of one.
fn wanted(text: &str) -> Result<Wanted, String> {
    let digits = text.replace('-', "").to_ascii_lowercase();
    match digits.len() {
        _ if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            Err("a conflict's id has only digits, a to f and hyphens; `landfall conflicts list` shows them"
                .into())
        }
        PREFIX_MIN..=32 => Ok(Wanted(digits)),
        _ => Err(format!("give the id, or its first {PREFIX_MIN} digits or more")),
    }
}

fn short(id: ConflictId) -> String {
    id.to_string().chars().take(SHORT).collect()
}

/// The one conflict whose id begins like this.
fn find(db: &DbArgs, engine: &Engine, wanted: &Wanted) -> Result<ConflictRecord, Problem> {
    let hint =
        "`landfall conflicts list --all` names those that are known; settled ones are kept for 90 days";
    let none =
        || Problem::new(format!("there is no conflict {} in {}", wanted.0, db.db.display())).hint(hint);
    if wanted.0.len() == 32 {
        let id = ConflictId::parse(&wanted.0).map_err(|_| none())?;
        return db.named(engine.conflict(id))?.ok_or_else(none);
    }
    let prefix = wanted.0.clone();
    let mut found = db.named(engine.read(move |store| beginning_with(store, &prefix)))?;
    match found.len() {
        0 => Err(none()),
        1 => Ok(found.remove(0)),
        _ => {
            let more = if found.len() > NAMED { " and more" } else { "" };
            let ids: Vec<_> = found.iter().take(NAMED).map(|record| record.id.to_string()).collect();
            Err(Problem::new(format!("several conflicts begin with {}: {}{more}", wanted.0, ids.join(", ")))
                .hint("give more digits"))
        }
    }
}

/// Those whose id begins with `prefix`, up to one more than are named.
fn beginning_with(store: &dyn StoreRead, prefix: &str) -> Result<Vec<ConflictRecord>, StoreError> {
    let mut found = Vec::new();
    let mut which = ConflictQuery::default();
    loop {
        let page = store.conflicts(&which, PAGE)?;
        let Some(last) = page.conflicts.last() else { return Ok(found) };
        which.before = Some(last.id);
        let fits = |record: &ConflictRecord| record.id.0.simple().to_string().starts_with(prefix);
        found.extend(page.conflicts.into_iter().filter(fits));
        if found.len() > NAMED {
            return Ok(found);
        }
    }
}

/// What clashed, in a few words.
fn story(why: &Why) -> &'static str {
    match why {
        Why::Fields => "both sides changed the same fields",
        Why::EditedHereDeletedThere => "edited here, deleted there",
        Why::DeletedHereEditedThere => "deleted here, edited there",
        Why::Refused(_) => "what the rules made of both sides is not valid",
        Why::RemoteUnknown => "the backend refused the change and did not say what it has",
        Why::TooManyRounds => "the change came back too often",
    }
}

/// The same as one word, for programs.
fn why_word(why: &Why) -> &'static str {
    match why {
        Why::Fields => "fields",
        Why::EditedHereDeletedThere => "edited_here_deleted_there",
        Why::DeletedHereEditedThere => "deleted_here_edited_there",
        Why::Refused(_) => "refused",
        Why::RemoteUnknown => "remote_unknown",
        Why::TooManyRounds => "too_many_rounds",
    }
}

/// How it ended, in a few words.
fn ending(record: &ConflictRecord) -> &'static str {
    match record.settled.as_ref().map(|settled| settled.by) {
        None => "waits for a decision",
        Some(DecidedBy::Rule) => "settled by the rule",
        Some(DecidedBy::App) => "settled by a decision",
    }
}

/// The contested fields by name; of a record that is deleted on one side there are none.
fn contested(record: &ConflictRecord) -> String {
    let names: Vec<_> = record.fields.iter().map(|field| field.path.to_string()).collect();
    names.join(", ")
}

/// What is listed of a conflict, for programs.
#[derive(Serialize)]
struct Summary<'a> {
    conflict: ConflictId,
    /// Whether it waits for a decision.
    open: bool,
    #[serde(flatten)]
    entity: &'a EntityKey,
    task: TaskId,
    at_ms: i64,
    found: Found,
    why: &'static str,
    rule: &'a str,
    /// The values that both sides changed.
    fields: Vec<FieldSummary<'a>>,
    settled: Option<SettledSummary<'a>>,
}

/// A value that is not there has no member; `null` is a value.
#[derive(Serialize)]
struct FieldSummary<'a> {
    path: String,
    #[serde(flatten)]
    conflict: Known<'a>,
    rule: String,
    misfit: Option<landfall_core::merge::Misfit>,
    group: Option<&'a str>,
    chosen: landfall_core::merge::Chosen,
}

#[derive(Serialize)]
struct Known<'a> {
    /// Whether it is known what the field was.
    base_known: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<&'a landfall_core::value::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mine: Option<&'a landfall_core::value::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    theirs: Option<&'a landfall_core::value::Value>,
    /// What the rules make of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    proposed: Option<&'a landfall_core::value::Value>,
}

#[derive(Serialize)]
struct SettledSummary<'a> {
    by: DecidedBy,
    at_ms: i64,
    result: Record<'a>,
    sent_as: Option<TaskId>,
    forked_to: Option<&'a EntityKey>,
}

/// A record as a whole, for programs.
#[derive(Serialize)]
struct Record<'a> {
    state: &'static str,
    fields: Option<&'a Fields>,
}

impl<'a> From<&'a Body> for Record<'a> {
    fn from(body: &'a Body) -> Self {
        match body {
            Body::Live(fields) => Self { state: "live", fields: Some(fields) },
            Body::Deleted => Self { state: "deleted", fields: None },
        }
    }
}

impl<'a> From<&'a ConflictRecord> for Summary<'a> {
    fn from(record: &'a ConflictRecord) -> Self {
        use landfall_core::merge::BaseValue;
        let fields = record.fields.iter().map(|field| FieldSummary {
            path: field.path.to_string(),
            conflict: Known {
                base_known: !matches!(field.base, BaseValue::Unknown),
                base: match &field.base {
                    BaseValue::Present(value) => Some(value),
                    BaseValue::Absent | BaseValue::Unknown => None,
                },
                mine: field.local.as_ref(),
                theirs: field.remote.as_ref(),
                proposed: field.result.as_ref(),
            },
            rule: field.rule.to_string(),
            misfit: field.misfit,
            group: field.group.as_deref(),
            chosen: field.chosen,
        });
        Self {
            conflict: record.id,
            open: record.is_open(),
            entity: &record.entity,
            task: record.task_id,
            at_ms: record.at.0,
            found: record.found,
            why: why_word(&record.why),
            rule: &record.rule,
            fields: fields.collect(),
            settled: record.settled.as_ref().map(SettledSummary::from),
        }
    }
}

impl<'a> From<&'a Settled> for SettledSummary<'a> {
    fn from(settled: &'a Settled) -> Self {
        Self {
            by: settled.by,
            at_ms: settled.at.0,
            result: (&settled.result).into(),
            sent_as: settled.sent_as,
            forked_to: settled.forked_to.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_shortened_to_four_digits() {
        for text in ["3f2a", "3F2A91C0", "3f2a91c0-6f0d-5b0e-9c1a-2f4f6a3a9d10"] {
            assert!(wanted(text).is_ok(), "{text}");
        }
        for text in ["", "3f2", "3f-2", "hello", "3f2a91c0-6f0d-5b0e-9c1a-2f4f6a3a9d10ff"] {
            assert!(wanted(text).is_err(), "{text}");
        }
    }
}
