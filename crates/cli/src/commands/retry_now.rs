//! `landfall retry-now TASK`: the end of a wait.
//!
//! Tests: `tests/lifecycle.rs`.

use super::cancel::about;
use super::task::id;
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use crate::store::DbArgs;
use landfall_core::id::TaskId;
use serde::Serialize;

const EXAMPLES: &str = "  landfall retry-now --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10";

/// End the wait of a task: the next `landfall sync` tries it.
///
/// Ends a backoff, a debounce and --not-before. It changes nothing about other tasks in its way, and takes up no dead
/// letter: `landfall dead retry` does that.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The task's id.
    #[arg(value_name = "TASK", value_parser = id)]
    task: TaskId,
}

#[derive(Serialize)]
struct Report {
    task: TaskId,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, _) = args.db.queue()?;
    let task = args.task;
    engine.retry_now_blocking(task).map_err(|error| about(&args.db, error))?;
    if output.is_json() {
        output.json(&Report { task })?;
    } else {
        output.line(format_args!("task {task} waits no longer; the next `landfall sync` tries it"))?;
    }
    Ok(Exit::Done)
}
