//! `landfall explain TASK`: why a task has not been sent, reason by reason.
//!
//! What holds up everything is known to the process that sends; its last words are in the task's history, so they are told
//! here as well. Tests: `tests/lifecycle.rs`, `tests/captive_portal.rs`.

use super::task::{self, failure_text, id, record};
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::moment;
use crate::output::Output;
use crate::problem::Problem;
use crate::reasons::sentence;
use crate::store::DbArgs;
use crate::table::visible;
use landfall_core::explain::Explanation;
use landfall_core::id::TaskId;
use landfall_core::task::FailureNote;
use landfall_engine::{Clock, SystemClock};
use serde::Serialize;

const EXAMPLES: &str = "  landfall explain --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall explain --db q.db --json 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10 | jq -r '.waits_for[].reason'";

/// Say why a task has not been sent, and what can be done about it.
///
/// All reasons are told, the nearest first. Of a task that has left the queue it says how it ended. With --json times
/// are milliseconds since 1970.
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
struct ForPrograms<'a> {
    #[serde(flatten)]
    explanation: &'a Explanation,
    /// What the last try met, if any was made.
    last_failure: Option<&'a FailureNote>,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, model) = args.db.queue()?;
    let now = SystemClock::default().now().wall;
    let Some((task, explanation)) = task::find(&args.db, &engine, &model, args.task)? else {
        let entry = task::ended(&args.db, &engine, &model, args.task)?;
        task::show_ended(&entry, now, output)?;
        return Ok(Exit::Done);
    };
    if output.is_json() {
        output.json(&ForPrograms { explanation: &explanation, last_failure: task.history.last() })?;
        return Ok(Exit::Done);
    }
    output.line(format_args!(
        "task {}: the {} of {}, stored {}, {}",
        task.id,
        task.intent.operation,
        visible(&record(&task.entity)),
        moment::both(task.enqueued_at, now),
        explanation.state.as_str().replace('_', " ")
    ))?;
    if explanation.waits_for.is_empty() {
        output.line("Nothing is in its way: the sync that is running sends it.")?;
    }
    for wait in &explanation.waits_for {
        output.line(sentence(wait, &explanation, now))?;
    }
    if let Some(failure) = task.history.last() {
        let text = format!("The last try met {} ({}).", failure_text(failure), moment::both(failure.at, now));
        output.line(visible(&text))?;
    }
    if task.standing.cancelling {
        output.line("You asked to cancel it: that happens unless it turns out to have taken effect.")?;
    }
    if let Some(moment) = task.lapses_at() {
        output
            .line(format_args!("If it was not sent before {}, it is given up.", moment::both(moment, now)))?;
    }
    Ok(Exit::Done)
}
