//! `landfall wait TASK`: is my change safe yet?
//!
//! It sends nothing: a `landfall sync` beside it does. Tests: `tests/lifecycle.rs`.

use super::task::id;
use crate::duration;
use crate::exit::{self, Exit, TABLE_WAIT};
use crate::output::Output;
use crate::problem::Problem;
use crate::store::DbArgs;
use landfall_core::id::TaskId;
use landfall_core::inspect::Fate;
use landfall_core::task::StateKind;
use serde::Serialize;
use std::time::Duration;

const EXAMPLES: &str = "  landfall wait --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall wait --db q.db --timeout 5m 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10 && echo safe";

/// Wait until the backend has a change, or needs you; ends with code 0 only when it has.
///
/// It makes nothing happen: a `landfall sync` must run meanwhile. A task that goes on as another one, after a conflict
/// say, is followed.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_WAIT))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The task's id.
    #[arg(value_name = "TASK", value_parser = id)]
    task: TaskId,
    /// How long to wait, such as 500ms, 30s or 5m; 0 only looks.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse)]
    timeout: Duration,
}

#[derive(Serialize)]
struct Report<'a> {
    task: TaskId,
    done: bool,
    #[serde(flatten)]
    fate: &'a Fate,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, _) = args.db.queue()?;
    let task = args.task;
    let fate = args.db.named(engine.wait_acked_blocking(task, args.timeout))?;
    if fate == Fate::Unknown {
        return Err(Problem::new(format!("there is no task {task} in {}", args.db.db.display()))
            .hint("`landfall queue` lists the tasks; ended ones are remembered for 30 days"));
    }
    let exit = match fate {
        Fate::Done { .. } => Exit::Done,
        Fate::Queued { state: StateKind::Pending | StateKind::InFlight | StateKind::Unknown, .. } => {
            Exit::WorkLeft
        }
        Fate::Queued { .. } | Fate::GivenUp { .. } | Fate::Unknown => Exit::Attention,
    };
    if output.is_json() {
        output.json(&Report { task, done: exit == Exit::Done, fate: &fate })?;
        return Ok(exit);
    }
    match &fate {
        Fate::Done { verdict, .. } => {
            output.line(format_args!("the backend has it ({})", verdict.as_str().replace('_', " ")))?;
        }
        Fate::GivenUp { verdict } => {
            output
                .line(format_args!("it has ended without effect ({})", verdict.as_str().replace('_', " ")))?;
        }
        Fate::Queued { task: now, state } => {
            let goes_on = if *now == task { String::new() } else { format!(", as task {now}") };
            output.line(format_args!(
                "it is still in the queue ({}{goes_on})",
                state.as_str().replace('_', " ")
            ))?;
            output.hint(format_args!("`landfall explain {now}` says what it waits for"));
        }
        Fate::Unknown => {}
    }
    Ok(exit)
}
