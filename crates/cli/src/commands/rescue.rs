//! `landfall rescue`: what can still be believed of a broken file becomes a new queue.
//!
//! Tests: `tests/rescue.rs`.

use crate::exit::{self, Exit};
use crate::output::Output;
use crate::problem::Problem;
use landfall_sqlite::{LostRow, Missing, RescueReport, SqliteStore};
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "  landfall rescue --db q.db
  landfall rescue --db q.db --json | jq .rescue_file";

/// The codes of this command.
const TABLE: &str = "\
Exit codes:
  0  rescued, and nothing is missing
  1  wrong usage or a local error; nothing was changed
  3  rescued, and something is missing or waits for a decision: read the report";

/// Make a new queue of what can be read of a broken file.
///
/// For a file that other commands refuse as corrupt. The broken file is moved aside and kept, each row whose checksum
/// fits is taken into a new queue in its place, and every unsynced change that was found is also written to a JSON
/// Lines file, which `landfall import` reads. What may have been sent goes out again under the same key with the same
/// bytes. The report says what is lost, and claims nothing that is not known.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE))]
pub(crate) struct Args {
    /// The broken queue file.
    #[arg(long, value_name = "PATH", env = "LANDFALL_DB")]
    db: PathBuf,
}

#[derive(Serialize)]
struct Report<'a> {
    kept: String,
    rescue_file: String,
    tasks: u64,
    unknown: u64,
    not_queued: u64,
    entities: u64,
    conflicts: u64,
    journal: u64,
    client_kept: bool,
    /// Tasks that are known to be missing.
    missing: u64,
    /// Whether there may be more of them.
    missing_is_certain: bool,
    pages_unreadable: u64,
    lost: Vec<Lost<'a>>,
    lost_more: u64,
    log_is_torn: bool,
}

#[derive(Serialize)]
struct Lost<'a> {
    table: &'a str,
    position: Option<i64>,
    about: Option<&'a str>,
}

impl<'a> From<&'a LostRow> for Lost<'a> {
    fn from(row: &'a LostRow) -> Self {
        Self { table: &row.table, position: row.position, about: row.about.as_deref() }
    }
}

impl<'a> From<&'a RescueReport> for Report<'a> {
    fn from(report: &'a RescueReport) -> Self {
        let (missing, missing_is_certain) = match report.missing {
            Missing::Exactly(tasks) => (tasks, true),
            Missing::AtLeast(tasks) => (tasks, false),
        };
        Self {
            kept: report.kept.display().to_string(),
            rescue_file: report.rescue_file.display().to_string(),
            tasks: report.tasks,
            unknown: report.unknown,
            not_queued: report.not_queued,
            entities: report.entities,
            conflicts: report.conflicts,
            journal: report.journal,
            client_kept: report.client_kept,
            missing,
            missing_is_certain,
            pages_unreadable: report.pages_unreadable,
            lost: report.lost.iter().map(Lost::from).collect(),
            lost_more: report.lost_more,
            log_is_torn: report.log_is_torn,
        }
    }
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let name = args.db.display();
    let report =
        SqliteStore::rescue(&args.db).map_err(|error| Problem::from(error).context(name.to_string()))?;
    if output.is_json() {
        output.json(&Report::from(&report))?;
    } else {
        for line in report.to_string().lines() {
            output.line(crate::table::visible(line))?;
        }
        if report.not_queued > 0 {
            let file = report.rescue_file.display();
            output.line(format_args!(
                "hint: look at the lines with `not_queued` in {file}, and import those that are still wanted"
            ))?;
        }
    }
    let whole = report.missing == Missing::Exactly(0) && report.not_queued == 0 && report.lost.is_empty();
    Ok(if whole { Exit::Done } else { Exit::Attention })
}
