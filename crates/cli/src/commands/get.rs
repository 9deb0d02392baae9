//! `landfall get TYPE ID`: a record as the app sees it, or as the backend last confirmed it.
//!
//! Tests: `tests/cli_basics.rs`, `tests/rubbish_input.rs`.

use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use crate::shown;
use crate::store::DbArgs;
use crate::table::visible;
use landfall_core::entity::Body;
use landfall_core::id::EntityKey;
use landfall_core::inspect::{EntityStatus, dirty_fields};
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
    /// The backend's id of it, if it gave one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_id: Option<&'a str>,
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
    /// How far the record is synced.
    status: EntityStatus,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, model) = args.db.queue()?;
    let key = EntityKey::new(&*args.entity_type, &*args.entity_id);
    let name = format!("{} {}", visible(&key.entity_type), visible(&key.entity_id));
    let found = args.db.named(engine.get(&key))?;
    let Some(entity) = found.filter(|entity| entity.base.is_some() || entity.local.is_some()) else {
        return Err(Problem::new(format!("nothing is known of {name}"))
            .hint("check type and id; `landfall queue` lists what was recorded"));
    };
    let status = args.db.named(engine.status_of(&key))?;
    let server_id = args.db.named(engine.server_id(&key))?;
    let base = entity.base.as_ref();
    let body = if args.base { base.map(|base| &base.body) } else { entity.local.as_ref() };
    let body = body.map(|body| shown::body(&model, &key.entity_type, body.clone()));
    let body = body.as_ref();
    if output.is_json() {
        output.json(&Report {
            entity: &entity.key,
            server_id: server_id.as_deref(),
            view: if args.base { "base" } else { "local" },
            state: match body {
                Some(Body::Live(_)) => "live",
                Some(Body::Deleted) => "deleted",
                None => "unknown",
            },
            fields: body.and_then(Body::fields),
            version: base.and_then(|base| base.version.as_ref()).map(|version| version.0.as_str()),
            base_complete: base.map(|base| base.complete),
            dirty: dirty_fields(&entity),
            status,
        })?;
        return Ok(Exit::Done);
    }
    match body {
        Some(Body::Live(fields)) => {
            let text = serde_json::to_string_pretty(fields)
                .map_err(|error| Problem::new(format!("cannot write JSON: {error}")))?;
            output.line(text)?;
        }
        Some(Body::Deleted) => output.line(format_args!("{name} is deleted"))?,
        None => output.line(format_args!("the backend has confirmed nothing of {name} yet"))?,
    }
    if let Some(why) = waits(status).filter(|_| !args.base) {
        let names: Vec<_> = dirty_fields(&entity).into_iter().map(visible).collect();
        let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
        output.note(format_args!("not synced yet{names} ({why})"));
    }
    Ok(Exit::Done)
}

/// What an unsynced record waits for.
fn waits(status: EntityStatus) -> Option<&'static str> {
    match status {
        EntityStatus::Unknown | EntityStatus::Synced => None,
        EntityStatus::Pending => Some("waits for the next `landfall sync`"),
        EntityStatus::InFlight => Some("being sent"),
        EntityStatus::FateUnknown => Some("sent without an answer; the next `landfall sync` asks again"),
        EntityStatus::Conflict => Some("waits for a decision: see `landfall conflicts list`"),
        EntityStatus::Dead => Some("was refused: see `landfall dead list`"),
    }
}
