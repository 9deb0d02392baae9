//! `landfall dead retry` and `landfall dead discard`: for letters that are named, or for all that fit.

use super::Meant;
use crate::confirm::confirmed;
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::{Output, many};
use crate::problem::Problem;
use crate::store::DbArgs;
use landfall_core::id::TaskId;
use landfall_engine::Error;
use serde::Serialize;

const RETRY_EXAMPLES: &str = "  landfall dead retry --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall dead retry --db q.db --all --type note --tag import";

const DISCARD_EXAMPLES: &str = "  landfall dead discard --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall dead discard --db q.db --all --lane mail --yes";

/// Take dead letters up again: the next `landfall sync` sends them.
///
/// One that was refused goes on as a new task with a new key; one of unknown fate with the same key and bytes. The dead
/// of its group go with it. All that are named are taken up, or none (of more than 500, in parts of 500).
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(RETRY_EXAMPLES, TABLE_LOCAL))]
pub(super) struct RetryArgs {
    #[command(flatten)]
    db: DbArgs,
    #[command(flatten)]
    meant: Meant,
}

/// Give dead letters up: they leave the queue, and what the app sees of their records is without them.
///
/// The journal keeps them for 30 days with their payloads. All of its group go with one. Asks first on a terminal.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(DISCARD_EXAMPLES, TABLE_LOCAL))]
pub(super) struct DiscardArgs {
    #[command(flatten)]
    db: DbArgs,
    #[command(flatten)]
    meant: Meant,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Letters in one transaction: bounds how long others wait.
const AT_ONCE: usize = 500;

/// What became of one letter.
#[derive(Serialize)]
struct One {
    task: TaskId,
    /// The task that goes on in its place; the same when its key and bytes stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<TaskId>,
}

#[derive(Serialize)]
struct All<'a> {
    tasks: &'a [One],
}

pub(super) fn retry(args: &RetryArgs, output: &Output) -> Result<Exit, Problem> {
    let (engine, _) = args.db.queue()?;
    let ids = args.meant.ids(&args.db, &engine)?;
    let mut done = Vec::with_capacity(ids.len());
    for part in ids.chunks(AT_ONCE) {
        let taken_up = engine.retry_many_blocking(part.to_vec());
        let taken_up = taken_up.map_err(|error| stopped(&args.db, error, done.len(), "taken up again"))?;
        done.extend(part.iter().zip(taken_up).map(|(task, next)| One { task: *task, next: Some(next) }));
    }
    if output.is_json() {
        output.json(&All { tasks: &done })?;
        return Ok(Exit::Done);
    }
    match done.as_slice() {
        [] => output.line("no dead letters")?,
        [One { task, next: Some(next) }] if next != task => {
            output.line(format_args!("taken up again: {task} goes on as task {next}"))?;
        }
        [One { task, .. }] => output.line(format_args!("taken up again: task {task}"))?,
        many_of_them => {
            output.line(format_args!("{} taken up again", many(many_of_them.len() as u64, "dead letter")))?;
        }
    }
    if !done.is_empty() {
        output.note("the next `landfall sync` sends what was taken up");
    }
    Ok(Exit::Done)
}

pub(super) fn discard(args: &DiscardArgs, output: &Output) -> Result<Exit, Problem> {
    let (engine, _) = args.db.queue()?;
    let ids = args.meant.ids(&args.db, &engine)?;
    if ids.is_empty() {
        return finish_discard(&[], output);
    }
    let question = format!("Give up {} for good?", many(ids.len() as u64, "dead letter"));
    if !confirmed(&question, args.yes)? {
        output.note("nothing was changed");
        return Ok(Exit::Done);
    }
    let mut done: Vec<One> = Vec::with_capacity(ids.len());
    for part in ids.chunks(AT_ONCE) {
        let given_up = engine.discard_many_blocking(part.to_vec());
        given_up.map_err(|error| stopped(&args.db, error, done.len(), "given up"))?;
        done.extend(part.iter().map(|task| One { task: *task, next: None }));
    }
    finish_discard(&done, output)
}

fn finish_discard(done: &[One], output: &Output) -> Result<Exit, Problem> {
    if output.is_json() {
        output.json(&All { tasks: done })?;
    } else if done.is_empty() {
        output.line("no dead letters")?;
    } else {
        output.line(format_args!(
            "{} given up; the journal keeps them",
            many(done.len() as u64, "dead letter")
        ))?;
    }
    Ok(Exit::Done)
}

/// An error in the middle of many letters.
fn stopped(db: &DbArgs, error: Error, done: usize, what: &str) -> Problem {
    let is_task = matches!(error, Error::Task(_));
    let mut problem = Problem::from(error);
    if !is_task {
        problem = problem.context(db.db.display());
    }
    if done > 0 {
        problem.error += &format!(" (before that, {} {what})", many(done as u64, "dead letter"));
    }
    problem
}
