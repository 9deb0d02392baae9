//! `landfall queue`: the tasks in their order, page by page.
//!
//! Reads and prints in pages, so a million tasks take no memory. A page ends with the id to go on from.
//! Tests: `tests/cli_basics.rs`.

use super::task::{Summary, failure_text, id, record, waits_for};
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::{HEAD, Output, json};
use crate::problem::Problem;
use crate::store::DbArgs;
use crate::table::layout;
use landfall_core::id::TaskId;
use landfall_core::store::{DamagedRow, StoreRead};
use landfall_core::task::{StateKind, Task};
use landfall_engine::{Clock, Engine, SystemClock};

const EXAMPLES: &str = "  landfall queue --db q.db
  landfall queue --db q.db --state dead --limit 10
  landfall queue --db q.db --limit 0 --json | jq -r '.tasks[].task'";

/// Rows read and laid out at a time.
const PAGE: usize = 500;

/// List the tasks in the queue, oldest first.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// Most tasks to list; 0 lists all.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Begin behind this task.
    #[arg(long, value_name = "TASK", value_parser = id)]
    after: Option<TaskId>,
    /// Only tasks in this state: pending, in_flight, unknown, conflict or dead.
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<StateKind>,
}

fn state(word: &str) -> Result<StateKind, String> {
    StateKind::ALL.into_iter().find(|state| state.as_str() == word).ok_or_else(|| {
        let known = StateKind::ALL.map(StateKind::as_str).join(", ");
        format!("there are {known}")
    })
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let engine = args.db.engine()?;
    let mut after = match args.after {
        None => 0,
        Some(id) => {
            let task = args.db.named(engine.task(id))?;
            let gone = || {
                Problem::new(format!("task {id} is not in the queue any more"))
                    .hint("list from the beginning, without --after")
            };
            task.ok_or_else(gone)?.seq
        }
    };
    let mut left = if args.limit == 0 { usize::MAX } else { args.limit };
    let mut sink = Sink::new(output);
    let mut last = None;
    let mut more = false;
    while !output.is_closed() {
        // One more than wanted tells whether there is more.
        let wanted = left.min(PAGE);
        let mut rows = read(args, &engine, after, wanted.saturating_add(1))?;
        more = rows.len() > wanted;
        rows.truncate(wanted);
        left -= rows.len();
        for row in &rows {
            after = row.seq();
            if let Row::Task(task, _) = row {
                last = Some(task.id);
            }
        }
        sink.put(rows)?;
        if !more || left == 0 {
            break;
        }
    }
    sink.end(last.filter(|_| more))?;
    Ok(Exit::Done)
}

/// A task and what it waits for, or a row that cannot be read.
enum Row {
    Task(Box<Task>, String),
    Damaged(DamagedRow),
}

impl Row {
    fn seq(&self) -> u64 {
        match self {
            Self::Task(task, _) => task.seq,
            Self::Damaged(row) => row.seq,
        }
    }
}

fn read(args: &Args, engine: &Engine, after: u64, limit: usize) -> Result<Vec<Row>, Problem> {
    let state = args.state;
    let now = SystemClock::default().now().wall;
    args.db.named(engine.read(move |store: &dyn StoreRead| {
        let page = match state {
            None => store.tasks_after(after, limit)?,
            Some(state) => store.tasks_in_state(state, after, limit)?,
        };
        let mut rows: Vec<Row> = page.damaged.into_iter().map(Row::Damaged).collect();
        for task in page.tasks {
            let waits_for = waits_for(store, &task, now)?;
            rows.push(Row::Task(Box::new(task), waits_for));
        }
        rows.sort_by_key(Row::seq);
        Ok(rows)
    }))
}

/// Where rows go.
struct Sink<'a> {
    output: &'a Output,
    begun: bool,
}

impl<'a> Sink<'a> {
    fn new(output: &'a Output) -> Self {
        Self { output, begun: false }
    }

    fn put(&mut self, rows: Vec<Row>) -> Result<(), Problem> {
        if self.output.is_json() {
            return self.put_json(rows);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
        let mut lines = layout(
            &["task", "state", "operation", "record", "attempts", "waits for", "last failure"],
            &cells,
        )
        .into_iter();
        if let Some(heading) = lines.next().filter(|_| !self.begun) {
            self.output.line(format_args!("{HEAD}{heading}{HEAD:#}"))?;
        }
        self.begun = true;
        lines.try_for_each(|line| self.output.line(line))
    }

    fn put_json(&mut self, rows: Vec<Row>) -> Result<(), Problem> {
        for row in rows {
            let text = match row {
                Row::Task(task, waits_for) => json(&Summary::new(&task, waits_for))?,
                Row::Damaged(row) => json(&DamagedSummary { state: "damaged", what: row.what })?,
            };
            let before = if self.begun { "," } else { "{\"tasks\":[" };
            self.output.write(format_args!("{before}{text}"))?;
            self.begun = true;
        }
        Ok(())
    }

    fn end(self, next: Option<TaskId>) -> Result<(), Problem> {
        if self.output.is_json() {
            let begin = if self.begun { "" } else { "{\"tasks\":[" };
            return self.output.line(format_args!("{begin}],\"next_after\":{}}}", json(&next)?));
        }
        if !self.begun {
            return self.output.line("no tasks");
        }
        if let Some(id) = next.filter(|_| !self.output.is_closed()) {
            self.output.hint(format_args!("there are more: add --after {id}"));
        }
        Ok(())
    }
}

#[derive(serde::Serialize)]
struct DamagedSummary {
    state: &'static str,
    what: String,
}

fn cells(row: &Row) -> Vec<String> {
    match row {
        Row::Task(task, waits_for) => vec![
            task.id.to_string(),
            task.state.kind().as_str().into(),
            task.intent.operation.as_str().into(),
            record(&task.entity),
            task.attempts.to_string(),
            waits_for.clone(),
            task.last_failure.as_ref().map(failure_text).unwrap_or_default(),
        ],
        Row::Damaged(row) => vec![
            "(damaged row)".into(),
            "damaged".into(),
            String::new(),
            String::new(),
            String::new(),
            "a decision".into(),
            row.what.clone(),
        ],
    }
}
