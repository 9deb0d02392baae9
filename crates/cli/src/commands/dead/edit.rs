//! `landfall dead edit TASK JSON`: a dead letter goes on with other content.

use crate::commands::conflicts::resolve::read_record;
use crate::commands::task::{self, id};
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use crate::shown;
use crate::store::DbArgs;
use landfall_core::change::{Intent, Operation};
use landfall_core::id::TaskId;
use landfall_core::value::Fields;
use landfall_engine::Error;
use serde::Serialize;

const EXAMPLES: &str = r#"  landfall dead edit --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10 '{"title":"not empty"}'
  landfall dead edit --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10 --unset draft
  landfall dead edit --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10 --whole @fields.json"#;

/// Mend a dead letter and take it up again: the next `landfall sync` sends it with the new content.
///
/// The fields of JSON are set over those it has; --whole takes JSON for all of them. It goes on as a new task with a new
/// key; its operation stays. A task that was never sent can be edited too, and is changed in its place. What may have
/// taken effect cannot be edited.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(super) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The task's id.
    #[arg(value_name = "TASK", value_parser = id)]
    task: TaskId,
    /// Fields to set, as a JSON object; @FILE reads it from a file, - from standard input.
    #[arg(value_name = "JSON", required_unless_present = "unset")]
    fields: Option<String>,
    /// Fields to leave out; of an update or upsert, fields to remove at the backend.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    unset: Vec<String>,
    /// JSON is all of the content, not a part of it.
    #[arg(long, requires = "fields")]
    whole: bool,
}

#[derive(Serialize)]
struct Report {
    task: TaskId,
    next: TaskId,
}

pub(super) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let given = args.fields.as_deref().map(read_record).transpose()?.unwrap_or_default();
    if let Some(name) = shown::pasted(&given) {
        return Err(Problem::new(format!(
            "{name:?} has the text that stands for a value which is not shown"
        ))
        .hint("leave the field out to keep its value (without --whole), or give its real one"));
    }
    let (engine, model) = args.db.queue()?;
    let found = args.db.named(engine.task(args.task))?;
    let Some(task) = found else {
        let entry = task::ended(&args.db, &engine, &model, args.task)?;
        let verdict = entry.verdict.as_str().replace('_', " ");
        return Err(Problem::new(format!("task {} has left the queue ({verdict})", args.task))
            .hint("`landfall enqueue` makes another change of the record"));
    };
    let intent = edited(task.intent, given, args);
    let next = engine.edit_blocking(args.task, intent).map_err(|error| match error {
        Error::Task(_) => Problem::from(error),
        error => Problem::from(error).context(args.db.db.display()),
    })?;
    if output.is_json() {
        output.json(&Report { task: args.task, next })?;
    } else if next == args.task {
        output.line(format_args!("edited: task {next}"))?;
    } else {
        output.line(format_args!("edited: {} goes on as task {next}", args.task))?;
    }
    Ok(Exit::Done)
}

fn edited(old: Intent, given: Fields, args: &Args) -> Intent {
    let mut intent = match args.whole {
        true => Intent { action: old.action, ..Intent::new(old.operation) },
        false => old,
    };
    for (name, value) in given.0 {
        intent.set(name, value);
    }
    for name in &args.unset {
        match intent.operation {
            Operation::Update | Operation::Upsert => intent.unset(name),
            _ => drop(intent.fields.0.remove(name)),
        }
    }
    intent
}
