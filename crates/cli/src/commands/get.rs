//! `landfall get TYPE ID`: a record as the app sees it, or as the backend last confirmed it.
//!
//! Tests: `tests/cli_basics.rs`, `tests/rubbish_input.rs`.

use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use crate::store::DbArgs;
use crate::table::visible;
use landfall_core::entity::{Body, StoredEntity};
use landfall_core::id::EntityKey;
use landfall_core::value::Fields;
use serde::Serialize;
use std::collections::BTreeSet;

const EXAMPLES: &str = "  landfall get --db q.db note note-123
  landfall get --db q.db note note-123 --base
  landfall get --db q.db note note-123 --json | jq .dirty";

/// Show a record as this device sees it.
///
/// That is the last state the backend confirmed with every queued change laid over it.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The kind of record.
    #[arg(value_name = "TYPE")]
    entity_type: String,
    /// The record's id within its type.
    #[arg(value_name = "ID")]
    entity_id: String,
    /// Show the last state that the backend confirmed instead.
    #[arg(long)]
    base: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    entity: &'a EntityKey,
    view: &'static str,
    /// `live`, `deleted`, or `unknown` while nothing was confirmed.
    state: &'static str,
    fields: Option<&'a Fields>,
    /// The version of the last confirmed state.
    version: Option<&'a str>,
    /// Whether the last confirmed state holds every field of the record; null without one.
    base_complete: Option<bool>,
    /// Fields in which the local view differs from the last confirmed state.
    dirty: BTreeSet<&'a str>,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let engine = args.db.engine()?;
    let key = EntityKey::new(&*args.entity_type, &*args.entity_id);
    let name = format!("{} {}", visible(&key.entity_type), visible(&key.entity_id));
    let found = args.db.named(engine.get(&key))?;
    let Some(entity) = found.filter(|entity| entity.base.is_some() || entity.local.is_some()) else {
        return Err(Problem::new(format!("nothing is known of {name}"))
            .hint("check type and id; `landfall queue` lists what was recorded"));
    };
    let base = entity.base.as_ref();
    let body = if args.base { base.map(|base| &base.body) } else { entity.local.as_ref() };
    if output.is_json() {
        output.json(&Report {
            entity: &key,
            view: if args.base { "base" } else { "local" },
            state: match body {
                Some(Body::Live(_)) => "live",
                Some(Body::Deleted) => "deleted",
                None => "unknown",
            },
            fields: body.and_then(Body::fields),
            version: base.and_then(|base| base.version.as_ref()).map(|version| version.0.as_str()),
            base_complete: base.map(|base| base.complete),
            dirty: dirty(&entity),
        })?;
        return Ok(Exit::Done);
    }
    match body {
        Some(Body::Live(fields)) => {
            let text = serde_json::to_string_pretty(fields)
                .map_err(|error| Problem::new(format!("cannot write JSON: {error}")))?;
            output.line(text)?;
            let dirty = dirty(&entity);
            if !args.base && !dirty.is_empty() {
                let names: Vec<_> = dirty.into_iter().map(visible).collect();
                output.note(format_args!("not synced yet: {}", names.join(", ")));
            }
        }
        Some(Body::Deleted) => output.line(format_args!("{name} is deleted"))?,
        None => output.line(format_args!("the backend has confirmed nothing of {name} yet"))?,
    }
    Ok(Exit::Done)
}

/// Field by field; of a record that is gone on one side, every field of the other.
fn dirty(entity: &StoredEntity) -> BTreeSet<&str> {
    let base = entity.base.as_ref().and_then(|base| base.body.fields());
    let local = entity.local.as_ref().and_then(Body::fields);
    let mut names = BTreeSet::new();
    for (fields, other) in [(local, base), (base, local)] {
        for (name, value) in fields.iter().flat_map(|fields| &fields.0) {
            if other.and_then(|other| other.value(name)) != Some(value) {
                names.insert(name.as_str());
            }
        }
    }
    names
}
