//! `landfall dead export FILE`: dead letters as JSON Lines, whole.

use super::{Which, dead};
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::jsonl_output;
use crate::output::Output;
use crate::problem::Problem;
use crate::store::DbArgs;
use landfall_core::export::ExportedTask;
use landfall_core::inspect::TaskFilter;
use std::path::PathBuf;

const EXAMPLES: &str = "  landfall dead export --db q.db letters.jsonl
  landfall dead export --db q.db --type note - | jq -c '{entity_id, fields, history}'";

/// Write dead letters to a new file of JSON Lines; `-` is standard output.
///
/// Each line is one letter, whole: `landfall import` takes it in again, here or elsewhere. Values of sensitive fields are
/// written too, or nothing could be restored; the file is readable for its owner only. The queue stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(super) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The new file; `-` is standard output.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, _) = args.db.queue()?;
    let filter = dead(&args.which);
    let wanted = move |task: &ExportedTask| fits(&filter, task);
    let count = jsonl_output::write(&args.db, &engine, &args.file, wanted, output)?;
    jsonl_output::report(count, &args.file, output)?;
    Ok(Exit::Done)
}

fn fits(filter: &TaskFilter, task: &ExportedTask) -> bool {
    let is = |wanted: &Option<String>, found: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
    };
    filter.state.is_none_or(|state| task.state == state)
        && is(&filter.entity_type, Some(&task.entity_type))
        && is(&filter.entity_id, Some(&task.entity_id))
        && is(&filter.lane, task.lane.as_deref())
        && filter.tag.as_ref().is_none_or(|tag| task.terms.tags.contains(tag))
}
