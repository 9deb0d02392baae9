//! `landfall journal`: how tasks ended, the last first.
//!
//! Reads and prints in pages. Tests: `tests/lifecycle.rs`.

use super::task::{self, Ended, ago, id, record};
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::{HEAD, Output, WARNING, json};
use crate::problem::Problem;
use crate::shown;
use crate::store::DbArgs;
use crate::table::{layout, visible};
use landfall_core::id::TaskId;
use landfall_core::task::JournalEntry;
use landfall_core::time::Timestamp;
use landfall_engine::{Clock, SystemClock};

const EXAMPLES: &str = "  landfall journal --db q.db
  landfall journal --db q.db 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall journal --db q.db --limit 20 --before 0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10
  landfall journal --db q.db --limit 0 --json | jq -r '.entries[] | select(.verdict == \"expired\").task'";

/// Entries read and laid out at a time.
const PAGE: usize = 500;

/// Show how tasks ended, the last first, or how one did; ended tasks are remembered for 30 days.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// Only this task, with its payload.
    #[arg(value_name = "TASK", value_parser = id, conflicts_with_all = ["limit", "before"])]
    task: Option<TaskId>,
    /// Most entries to list; 0 lists all.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Only those that ended before this one.
    #[arg(long, value_name = "TASK", value_parser = id)]
    before: Option<TaskId>,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, model) = args.db.queue()?;
    let now = SystemClock::default().now().wall;
    if let Some(id) = args.task {
        if args.db.named(engine.task(id))?.is_some() {
            return Err(Problem::new(format!("task {id} has not ended")).hint(format!(
                "`landfall task {id}` shows it, `landfall explain {id}` says what it waits for"
            )));
        }
        task::show_ended(&task::ended(&args.db, &engine, &model, id)?, now, output)?;
        return Ok(Exit::Done);
    }
    if let Some(before) = args.before.filter(|before| !matches!(engine.journal(*before), Ok(Some(_)))) {
        return Err(Problem::new(format!("the journal does not know task {before}"))
            .hint("list from the last one, without --before"));
    }
    let mut left = if args.limit == 0 { usize::MAX } else { args.limit };
    let mut sink = Sink { output, now, begun: false };
    let (mut before, mut more) = (args.before, false);
    while !output.is_closed() {
        let wanted = left.min(PAGE);
        let page = args.db.named(engine.journal_entries(before, wanted.saturating_add(1)))?;
        for what in &page.damaged {
            sink.damaged(what)?;
        }
        more = page.entries.len() > wanted;
        let entries: Vec<_> =
            page.entries.into_iter().take(wanted).map(|entry| shown::ended(&model, entry)).collect();
        left -= entries.len();
        before = entries.last().map(|entry| entry.task_id).or(before);
        sink.put(&entries)?;
        if !more || left == 0 {
            break;
        }
    }
    sink.end(before.filter(|_| more))?;
    Ok(Exit::Done)
}

/// Where entries go.
struct Sink<'a> {
    output: &'a Output,
    now: Timestamp,
    begun: bool,
}

impl Sink<'_> {
    fn put(&mut self, entries: &[JournalEntry]) -> Result<(), Problem> {
        if self.output.is_json() {
            for entry in entries {
                let before = if self.begun { "," } else { "{\"entries\":[" };
                self.begun = true;
                self.output.write(format_args!("{before}{}", json(&Ended::new(entry)?)?))?;
            }
            return Ok(());
        }
        if entries.is_empty() {
            return Ok(());
        }
        let rows: Vec<Vec<String>> = entries.iter().map(|entry| self.cells(entry)).collect();
        let heading = ["task", "ended", "when", "record", "version", "went on as"];
        let mut lines = layout(&heading, &rows).into_iter();
        if let Some(heading) = lines.next().filter(|_| !self.begun) {
            self.output.line(format_args!("{HEAD}{heading}{HEAD:#}"))?;
        }
        self.begun = true;
        lines.try_for_each(|line| self.output.line(line))
    }

    fn cells(&self, entry: &JournalEntry) -> Vec<String> {
        vec![
            entry.task_id.to_string(),
            entry.verdict.as_str().replace('_', " "),
            ago(entry.at, self.now),
            record(&entry.entity),
            entry.version.as_ref().map(|version| version.0.clone()).unwrap_or_default(),
            entry.became.map(|next| next.to_string()).unwrap_or_default(),
        ]
    }

    fn damaged(&self, what: &str) -> Result<(), Problem> {
        if self.output.is_json() {
            self.output.note(json(&Damaged { damaged: what })?);
        } else {
            self.output.note(format_args!(
                "{WARNING}warning:{WARNING:#} an entry is damaged and left out: {}",
                visible(what)
            ));
        }
        Ok(())
    }

    fn end(&self, next: Option<TaskId>) -> Result<(), Problem> {
        if self.output.is_json() {
            let begin = if self.begun { "" } else { "{\"entries\":[" };
            return self.output.line(format_args!("{begin}],\"next_before\":{}}}", json(&next)?));
        }
        if !self.begun {
            return self.output.line("nothing has ended yet");
        }
        if let Some(id) = next.filter(|_| !self.output.is_closed()) {
            self.output.hint(format_args!("there are more: add --before {id}"));
        }
        Ok(())
    }
}

#[derive(serde::Serialize)]
struct Damaged<'a> {
    damaged: &'a str,
}
