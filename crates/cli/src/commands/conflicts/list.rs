//! `landfall conflicts list`: the inbox, and with `--all` everything that a rule set aside.
//!
//! Reads and prints in pages. Tests: `tests/conflicts.rs`.

use super::{PAGE, Summary, Wanted, contested, ending, find, short, story, wanted};
use crate::commands::task::{ago, record};
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::{HEAD, Output, WARNING, json};
use crate::problem::Problem;
use crate::shown;
use crate::store::DbArgs;
use crate::table::{layout, visible};
use landfall_core::conflict::ConflictRecord;
use landfall_core::id::{ConflictId, EntityKey};
use landfall_core::store::ConflictQuery;
use landfall_core::time::Timestamp;
use landfall_engine::{Clock, SystemClock};

const EXAMPLES: &str = "  landfall conflicts list --db q.db
  landfall conflicts list --db q.db --all --type report --id r1
  landfall conflicts list --db q.db --limit 0 --json | jq -r '.conflicts[].conflict'";

/// List the conflicts that wait for you, the last first; with --all the settled ones too.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(super) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// Also those that are settled, by a rule or by a decision.
    #[arg(long)]
    all: bool,
    /// Only those about records of this type.
    #[arg(long = "type", id = "only_type", value_name = "TYPE")]
    entity_type: Option<String>,
    /// Only those about this record; needs --type.
    #[arg(long = "id", id = "only_id", value_name = "ID", requires = "only_type")]
    entity_id: Option<String>,
    /// Most conflicts to list; 0 lists all.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Go on behind this conflict: its id, or the beginning of it.
    #[arg(long, value_name = "CONFLICT", value_parser = wanted)]
    after: Option<Wanted>,
}

pub(super) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, model) = args.db.queue()?;
    let now = SystemClock::default().now().wall;
    let mut which = ConflictQuery { open_only: !args.all, ..ConflictQuery::default() };
    if let (Some(entity_type), Some(entity_id)) = (&args.entity_type, &args.entity_id) {
        which.entity = Some(EntityKey::new(&**entity_type, &**entity_id));
    }
    if let Some(after) = &args.after {
        which.before = Some(find(&args.db, &engine, after)?.id);
    }
    let mut left = if args.limit == 0 { usize::MAX } else { args.limit };
    let mut sink = Sink { output, now, begun: false, all: args.all };
    let (mut last, mut more) = (None, false);
    while !output.is_closed() && !more {
        let page = args.db.named(engine.conflicts(which.clone(), PAGE))?;
        for what in page.damaged {
            sink.damaged(&what)?;
        }
        let Some(end) = page.conflicts.last() else { break };
        which.before = Some(end.id);
        let wanted = |record: &ConflictRecord| {
            args.entity_type.as_ref().is_none_or(|wanted| *wanted == record.entity.entity_type)
        };
        let page = page.conflicts.into_iter().filter(wanted);
        let mut page: Vec<_> = page.map(|record| shown::conflict(&model, record)).collect();
        more = page.len() > left;
        page.truncate(left);
        left -= page.len();
        last = page.last().map(|record| record.id).or(last);
        sink.put(&page)?;
    }
    sink.end(last.filter(|_| more))?;
    Ok(Exit::Done)
}

/// Where conflicts go.
struct Sink<'a> {
    output: &'a Output,
    now: Timestamp,
    begun: bool,
    all: bool,
}

impl Sink<'_> {
    fn put(&mut self, page: &[ConflictRecord]) -> Result<(), Problem> {
        if self.output.is_json() {
            for record in page {
                let before = if self.begun { "," } else { "{\"conflicts\":[" };
                self.begun = true;
                self.output.write(format_args!("{before}{}", json(&Summary::from(record))?))?;
            }
            return Ok(());
        }
        if page.is_empty() {
            return Ok(());
        }
        let rows: Vec<Vec<String>> = page.iter().map(|record| self.cells(record)).collect();
        let heading = ["conflict", "record", "what happened", "fields", "rule", "state", "when"];
        let mut lines = layout(&heading, &rows).into_iter();
        if let Some(heading) = lines.next().filter(|_| !self.begun) {
            self.output.line(format_args!("{HEAD}{heading}{HEAD:#}"))?;
        }
        self.begun = true;
        lines.try_for_each(|line| self.output.line(line))
    }

    fn cells(&self, conflict: &ConflictRecord) -> Vec<String> {
        vec![
            short(conflict.id),
            record(&conflict.entity),
            story(&conflict.why).into(),
            contested(conflict),
            conflict.rule.clone(),
            ending(conflict).into(),
            ago(conflict.at, self.now),
        ]
    }

    fn damaged(&self, what: &str) -> Result<(), Problem> {
        if self.output.is_json() {
            self.output.note(json(&Damaged { damaged: what })?);
        } else {
            self.output.note(format_args!(
                "{WARNING}warning:{WARNING:#} a stored conflict is damaged and left out: {}",
                visible(what)
            ));
        }
        Ok(())
    }

    fn end(&self, next: Option<ConflictId>) -> Result<(), Problem> {
        if self.output.is_json() {
            let begin = if self.begun { "" } else { "{\"conflicts\":[" };
            return self.output.line(format_args!("{begin}],\"next_after\":{}}}", json(&next)?));
        }
        if !self.begun {
            return self.output.line(match self.all {
                true => "no conflicts",
                false => "no conflict waits for a decision (--all lists the settled ones)",
            });
        }
        if self.output.is_closed() {
            return Ok(());
        }
        match next {
            Some(id) => self.output.hint(format_args!("there are more: add --after {}", short(id))),
            None if !self.all => {
                self.output
                    .hint("`landfall conflicts show CONFLICT` compares the two sides and says what to do");
            }
            None => {}
        }
        Ok(())
    }
}

#[derive(serde::Serialize)]
struct Damaged<'a> {
    damaged: &'a str,
}
