//! `landfall cancel TASK`: a change that is not to be sent after all.
//!
//! Tests: `tests/lifecycle.rs`.

use super::task::id;
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use crate::store::DbArgs;
use landfall_core::id::TaskId;
use landfall_core::machine::Cancelled;
use landfall_engine::Error;
use serde::Serialize;

const EXAMPLES: &str = "  landfall cancel --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall cancel --db q.db --json 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10 | jq .outcome";

/// Cancel a task.
///
/// One that was never sent leaves the queue at once, its group with it, and what the app sees of the record is without
/// it. Of one that was sent it is only a wish: what has taken effect cannot be called back, and the verdict decides.
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
    /// `cancelled`, or `requested` when the verdict decides.
    outcome: &'static str,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, _) = args.db.queue()?;
    let task = args.task;
    let cancelled = engine.cancel_blocking(task).map_err(|error| about(&args.db, error))?;
    if output.is_json() {
        let outcome = match cancelled {
            Cancelled::Done => "cancelled",
            Cancelled::Requested => "requested",
        };
        output.json(&Report { task, outcome })?;
        return Ok(Exit::Done);
    }
    match cancelled {
        Cancelled::Done => output.line(format_args!("cancelled: task {task}"))?,
        Cancelled::Requested => {
            output.line(format_args!("to be cancelled: task {task}"))?;
            output.note("it was sent, and nobody knows yet whether it took effect: the next `landfall sync` finds out");
        }
    }
    Ok(Exit::Done)
}

/// An error with the file's name, if it is the file's trouble.
pub(crate) fn about(db: &DbArgs, error: Error) -> Problem {
    match error {
        Error::Task(_) => Problem::from(error),
        error => Problem::from(error).context(db.db.display()),
    }
}
