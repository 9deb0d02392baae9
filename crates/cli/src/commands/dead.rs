//! `landfall dead`: what was refused for good or given up, and what becomes of it.
//!
//! One file per subcommand that changes something; here are the list, one letter in full, and what they share: which
//! letters are meant. Tests: `tests/lifecycle.rs`, `tests/poison.rs`.

mod decide;
mod edit;
mod export;

use super::queue::{self, Paging, Which};
use super::task::{self, Detail, id};
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use crate::store::DbArgs;
use landfall_core::id::TaskId;
use landfall_core::inspect::TaskFilter;
use landfall_core::task::{StateKind, TaskState};
use landfall_engine::{Clock, Engine, SystemClock};

const EXAMPLES: &str = r#"  landfall dead list --db q.db
  landfall dead show --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall dead edit --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10 '{"title":"not empty"}'
  landfall dead retry --db q.db --all --type note
  landfall sync --db q.db --endpoint http://127.0.0.1:8787/sync"#;

const LIST_EXAMPLES: &str = "  landfall dead list --db q.db
  landfall dead list --db q.db --type note --lane mail --limit 10
  landfall dead list --db q.db --limit 0 --json | jq -r '.tasks[] | .task + \" \" + .last_failure.message'";

const SHOW_EXAMPLES: &str = "  landfall dead show --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall dead show --db q.db --json 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10 | jq .history";

/// Dead letters looked at in one read.
const PAGE: usize = 500;

/// List, show, retry, edit, discard and export dead letters: changes that were refused for good or given up.
///
/// A dead letter is kept whole, with its history, until you decide. It holds up what is behind it in its lane unless
/// the model or `landfall sync --on-dead` says otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL), disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(ListArgs),
    Show(ShowArgs),
    Retry(decide::RetryArgs),
    Edit(edit::Args),
    Discard(decide::DiscardArgs),
    Export(export::Args),
}

/// List the dead letters, oldest first.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(LIST_EXAMPLES, TABLE_LOCAL))]
struct ListArgs {
    #[command(flatten)]
    db: DbArgs,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    paging: Paging,
}

/// Show a dead letter: its full payload, what each attempt met, and the backend's answer.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(SHOW_EXAMPLES, TABLE_LOCAL))]
struct ShowArgs {
    #[command(flatten)]
    db: DbArgs,
    /// The task's id.
    #[arg(value_name = "TASK", value_parser = id)]
    task: TaskId,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    match &args.command {
        Command::List(args) => queue::list(&args.db, &dead(&args.which), &args.paging, output),
        Command::Show(args) => show(args, output),
        Command::Retry(args) => decide::retry(args, output),
        Command::Edit(args) => edit::run(args, output),
        Command::Discard(args) => decide::discard(args, output),
        Command::Export(args) => export::run(args, output),
    }
}

fn dead(which: &Which) -> TaskFilter {
    TaskFilter { state: Some(StateKind::Dead), ..which.filter() }
}

fn show(args: &ShowArgs, output: &Output) -> Result<Exit, Problem> {
    let (engine, model) = args.db.queue()?;
    let id = args.task;
    let now = SystemClock::default().now().wall;
    let Some((task, explanation)) = task::find(&args.db, &engine, &model, id)? else {
        let entry = task::ended(&args.db, &engine, &model, id)?;
        let verdict = entry.verdict.as_str().replace('_', " ");
        return Err(Problem::new(format!("task {id} is no dead letter: it has ended ({verdict})"))
            .hint(format!("`landfall task {id}` shows it")));
    };
    if !matches!(task.state, TaskState::Dead { .. }) {
        return Err(Problem::new(format!(
            "task {id} is no dead letter: it is {}",
            task.state.kind().as_str()
        ))
        .hint(format!("`landfall explain {id}` says what it waits for")));
    }
    if output.is_json() {
        output.json(&Detail::new(&task, &explanation, now))?;
        return Ok(Exit::Done);
    }
    task::show(&task, &explanation, now, output)?;
    output.hint(format_args!("to send it again as it is: landfall dead retry {id}"));
    output.hint(format_args!("to mend it first: landfall dead edit {id} '{{\"field\":\"value\"}}'"));
    output.hint(format_args!("to give it up: landfall dead discard {id}"));
    Ok(Exit::Done)
}

/// Which dead letters: some by their ids, or all that fit.
#[derive(Clone, Debug, clap::Args)]
struct Meant {
    /// The tasks' ids.
    #[arg(value_name = "TASK", value_parser = id, required_unless_present = "all", conflicts_with = "all")]
    tasks: Vec<TaskId>,
    /// All dead letters that fit --type, --id, --lane and --tag.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    which: Which,
}

impl Meant {
    /// Their ids, oldest first.
    fn ids(&self, db: &DbArgs, engine: &Engine) -> Result<Vec<TaskId>, Problem> {
        let filter = dead(&self.which);
        if !self.all {
            if filter != dead(&Which::default()) {
                return Err(Problem::new("--type, --id, --lane and --tag choose among --all")
                    .hint("leave them out, or give --all instead of TASK"));
            }
            return Ok(self.tasks.clone());
        }
        let (mut ids, mut after) = (Vec::new(), 0);
        loop {
            let found = db.named(engine.find_tasks(filter.clone(), after, PAGE))?;
            ids.extend(found.page.tasks.iter().map(|task| task.id));
            match found.next {
                Some(next) => after = next,
                None => return Ok(ids),
            }
        }
    }
}
