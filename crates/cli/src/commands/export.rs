//! `landfall export FILE`: all unsynced work as JSON Lines.
//!
//! Tests: `tests/transfer.rs`.

use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::jsonl_output;
use crate::output::Output;
use crate::problem::Problem;
use crate::store::DbArgs;
use std::path::PathBuf;

const EXAMPLES: &str = "  landfall export --db q.db unsynced.jsonl
  landfall export --db q.db - | gzip > unsynced.jsonl.gz
  landfall export --db q.db --as alice - | jq -r .entity_id";

/// Write all unsynced work to a new file of JSON Lines; `-` is standard output.
///
/// `landfall import` takes it in again, in this store or another, any number of times: each change takes effect once,
/// also one of unknown fate, because keys and bytes go along. Values of sensitive fields are written too, or nothing
/// could be restored; the file is readable for its owner only. The queue stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The new file; `-` is standard output.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, _) = args.db.queue()?;
    let count = jsonl_output::write(&args.db, &engine, &args.file, |_| true, output)?;
    jsonl_output::report(count, &args.file, output)?;
    Ok(Exit::Done)
}
