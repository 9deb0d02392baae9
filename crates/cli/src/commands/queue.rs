//! `landfall queue`: the tasks in their order, page by page.
//!
//! Reads and prints in pages, so a million tasks take no memory. A page ends with the id to go on from.
//! Tests: `tests/cli_basics.rs`.

use super::task::{Summary, explained, failure_text, id, record};
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::{HEAD, Output, json};
use crate::problem::Problem;
use crate::reasons;
use crate::shown;
use crate::store::DbArgs;
use crate::table::layout;
use landfall_core::explain::Explanation;
use landfall_core::id::TaskId;
use landfall_core::inspect::{TaskFilter, find_tasks};
use landfall_core::model::Model;
use landfall_core::store::{DamagedRow, StoreRead};
use landfall_core::task::{StateKind, Task};
use landfall_core::time::Timestamp;
use landfall_engine::{Clock, Engine, SystemClock};

const EXAMPLES: &str = "  landfall queue --db q.db
  landfall queue --db q.db --state dead --limit 10
  landfall queue --db q.db --type note --tag import --after 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall queue --db q.db --limit 0 --json | jq -r '.tasks[].task'";

/// Rows read and laid out at a time.
const PAGE: usize = 500;

/// List the tasks in the queue, oldest first, and what each waits for.
///
/// Conditions that are given must all hold. `landfall explain TASK` says in full what a task waits for.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    #[command(flatten)]
    which: Which,
    /// Only tasks in this state: pending, in_flight, unknown, conflict or dead.
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<StateKind>,
    /// Only tasks of this group.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

/// Which tasks, by what the app said of them.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Which {
    /// Only tasks about records of this type.
    #[arg(long = "type", id = "only_type", value_name = "TYPE")]
    entity_type: Option<String>,
    /// Only tasks about this record; needs --type.
    #[arg(
        long = "id",
        id = "only_id",
        value_name = "ID",
        requires = "only_type",
        allow_hyphen_values = true
    )]
    entity_id: Option<String>,
    /// Only tasks in this named lane.
    #[arg(long, value_name = "NAME")]
    lane: Option<String>,
    /// Only tasks with this tag.
    #[arg(long, value_name = "WORD")]
    tag: Option<String>,
}

impl Which {
    /// As the core asks it.
    pub(crate) fn filter(&self) -> TaskFilter {
        TaskFilter {
            entity_type: self.entity_type.clone(),
            entity_id: self.entity_id.clone(),
            lane: self.lane.clone(),
            tag: self.tag.clone(),
            ..TaskFilter::default()
        }
    }
}

/// Which part of a long list.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Paging {
    /// Most tasks to list; 0 lists all.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Begin behind this task.
    #[arg(long, value_name = "TASK", value_parser = id)]
    after: Option<TaskId>,
}

fn state(word: &str) -> Result<StateKind, String> {
    StateKind::ALL.into_iter().find(|state| state.as_str() == word).ok_or_else(|| {
        let known = StateKind::ALL.map(StateKind::as_str).join(", ");
        format!("there are {known}")
    })
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let filter = TaskFilter { state: args.state, group: args.group.clone(), ..args.which.filter() };
    list(&args.db, &filter, &args.paging, output)
}

/// Lists the tasks that are asked for.
pub(crate) fn list(
    db: &DbArgs,
    filter: &TaskFilter,
    paging: &Paging,
    output: &Output,
) -> Result<Exit, Problem> {
    let (engine, model) = db.queue()?;
    let mut after = match paging.after {
        None => 0,
        Some(id) => {
            let task = db.named(engine.task(id))?;
            let gone = || {
                Problem::new(format!("task {id} is not in the queue any more"))
                    .hint("list from the beginning, without --after")
            };
            task.ok_or_else(gone)?.seq
        }
    };
    let mut left = if paging.limit == 0 { usize::MAX } else { paging.limit };
    let now = SystemClock::default().now().wall;
    let mut sink = Sink { output, now, begun: false };
    let mut last = None;
    let mut more = false;
    while !output.is_closed() {
        // One more than wanted tells whether there is more.
        let wanted = left.min(PAGE);
        let mut rows = read(db, &engine, &model, filter, after, wanted.saturating_add(1))?;
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
    Task(Box<Task>, Explanation),
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

fn read(
    db: &DbArgs,
    engine: &Engine,
    model: &Model,
    filter: &TaskFilter,
    after: u64,
    limit: usize,
) -> Result<Vec<Row>, Problem> {
    let filter = filter.clone();
    let now = SystemClock::default().now().wall;
    let model = model.clone();
    db.named(engine.read(move |store: &dyn StoreRead| {
        let page = find_tasks(store, &filter, after, limit)?.page;
        let mut rows: Vec<Row> = page.damaged.into_iter().map(Row::Damaged).collect();
        for task in page.tasks {
            let explanation = explained(store, &task, now)?;
            rows.push(Row::Task(Box::new(shown::task(&model, task)), explanation));
        }
        rows.sort_by_key(Row::seq);
        Ok(rows)
    }))
}

/// Where rows go.
struct Sink<'a> {
    output: &'a Output,
    now: Timestamp,
    begun: bool,
}

impl Sink<'_> {
    fn put(&mut self, rows: Vec<Row>) -> Result<(), Problem> {
        if self.output.is_json() {
            return self.put_json(rows);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let cells: Vec<Vec<String>> = rows.iter().map(|row| cells(row, self.now)).collect();
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
                Row::Task(task, explanation) => json(&Summary::new(&task, &explanation, self.now))?,
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

fn cells(row: &Row, now: Timestamp) -> Vec<String> {
    match row {
        Row::Task(task, explanation) => vec![
            task.id.to_string(),
            task.state.kind().as_str().into(),
            task.intent.operation.as_str().into(),
            record(&task.entity),
            task.attempts.to_string(),
            reasons::short(explanation, now),
            task.last_failure().map(failure_text).unwrap_or_default(),
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
