//! `landfall import FILE`: takes in what `landfall export` has written, all of it or nothing.
//!
//! The file is read as a stream on the engine's thread. Tests: `tests/transfer.rs`.

use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::jsonl_input::Lines;
use crate::output::{Output, many};
use crate::problem::Problem;
use crate::progress::Ticker;
use crate::store::DbArgs;
use landfall_core::export::ExportedTask;
use landfall_engine::{Error, Restored};
use serde::Serialize;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const EXAMPLES: &str = "  landfall import --db q.db unsynced.jsonl
  gzip -dc unsynced.jsonl.gz | landfall import --db q.db -
  landfall import --db q.db --as alice unsynced.jsonl";

/// Take in unsynced work that `landfall export` has written, whole or not at all.
///
/// Makes the queue if there is none. What this queue has or had already is passed over, so that doing it twice changes
/// nothing. A bad line is named by its number, and nothing is stored.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The file; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Serialize)]
struct Report {
    tasks: u64,
    /// Those that this queue has or had already.
    known: u64,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (name, input): (String, Box<dyn BufRead + Send>) = if args.file.as_os_str() == "-" {
        ("standard input".into(), Box::new(BufReader::new(io::stdin())))
    } else {
        (args.file.display().to_string(), Box::new(BufReader::new(super::enqueue::open(&args.file)?)))
    };
    // Which line was given out last: the engine reads and refuses in turn.
    let at = Arc::new(AtomicU64::new(0));
    let (reading, file) = (Arc::clone(&at), name.clone());
    let mut ticker = Ticker::new(output, "line", "read");
    let tasks = Lines::new(input).map(move |line| {
        let (line, text) = line.map_err(|bad| Problem::from(bad).context(&file).hint(NOTHING))?;
        reading.store(line, Ordering::Relaxed);
        ticker.count(line);
        ExportedTask::from_json(&text)
            .map_err(|error| Problem::new(format!("{file}: line {line}: {error}")).hint(NOTHING))
    });
    let engine = args.db.queue_or_new()?;
    let restored = engine.restore_blocking(tasks).map_err(|error| match error {
        Error::Restore(error) => {
            let line = at.load(Ordering::Relaxed);
            Problem::new(format!("{name}: line {line}: {error}")).hint(NOTHING)
        }
        Error::Input(_) => Problem::from(error),
        error => Problem::from(error).context(args.db.db.display()),
    })?;
    let Restored { tasks, known } = restored;
    if output.is_json() {
        output.json(&Report { tasks, known })?;
    } else {
        let passed = if known > 0 { format!(", {known} were known already") } else { String::new() };
        output.line(format_args!("{} taken in{passed}", many(tasks, "task")))?;
    }
    Ok(Exit::Done)
}

const NOTHING: &str = "nothing was stored; `landfall export` writes lines that can be taken in";
