//! `landfall enqueue`: one change, or a file of changes in one transaction.
//!
//! Nothing is said before the commit: a line on standard output means that the changes survive a power cut. A file is
//! read as a stream on the engine's thread. A line that cannot be taken ends the command with nothing stored, or is
//! passed over with `--skip-bad`; that is also true of lines that contradict earlier ones.
//! Tests: `tests/kill_nine.rs`, `tests/rubbish_input.rs`, `tests/cli_basics.rs`.

use crate::change_options::OptionArgs;
use crate::csv_input::{CsvError, CsvOptions, CsvRows, IdSource};
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::jsonl_input::{self, JsonLines};
use crate::output::{Output, WARNING, many};
use crate::problem::Problem;
use crate::skipped::{Skipped, SkippedLine};
use crate::store::DbArgs;
use crate::table::visible;
use landfall_core::change::{Change, InvalidChange, Operation, Options};
use landfall_core::entity::{Base, Body};
use landfall_core::id::{EntityKey, TaskId, Version};
use landfall_core::machine::{EnqueueError, Enqueued, Receipt};
use landfall_core::time::Timestamp;
use landfall_core::value::{Fields, ValueError};
use landfall_engine::{Clock, Error, Imported, SystemClock};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes read from a file at a time.
const READ_BYTES: usize = 256 << 10;

const EXAMPLES: &str = r#"  landfall enqueue --db q.db note note-123 create '{"title":"Hello"}'
  landfall enqueue --db q.db note note-123 update '{"title":"Updated"}' --unset draft
  landfall enqueue --db q.db note note-123 delete
  landfall enqueue --db q.db note n2 update '{"a":2}' --base '{"a":1,"b":1}' --base-version 7
  landfall enqueue --db q.db note n3 create '{"project_id":"p1"}' --depends-on project p1 --tag import
  landfall enqueue --db q.db order o7 action '{"reason":"late"}' --action refund --expires-in 2h
  landfall enqueue --db q.db --file changes.jsonl
  generate-changes | landfall enqueue --db q.db --file -
  landfall enqueue --db q.db --csv reports.csv --type report --id-column number

  A line of changes.jsonl:
  {"entity_type":"note","entity_id":"n1","operation":"update","fields":{"a":1},"unset":["b"]}
  It may also have "base", "base_version", "action", "priority", "lane", "not_before", "expires_at",
  "expires_in", "orphaned", "group", "dedup_key", "unmetered_only", "at_most_once" and "schema", as the
  options of these names; "tags", a list; and "depends_on", a list of
  {"entity_type":"project","entity_id":"p1"} or {"task":"0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10"}.
  What the command line says goes for every line that says nothing else."#;

/// Store changes durably, to be sent later.
///
/// When the command ends with code 0, what it stored survives kill -9 and power loss. A file is stored whole or, if a
/// line of it is bad, not at all; --skip-bad stores the good lines.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The kind of record, such as `note`.
    #[arg(value_name = "TYPE", required_unless_present_any = ["file", "csv"], conflicts_with_all = ["file", "csv"])]
    entity_type: Option<String>,
    /// The record's id within its type.
    #[arg(value_name = "ID", required_unless_present_any = ["file", "csv"])]
    entity_id: Option<String>,
    /// create, update, upsert, replace, delete or action.
    #[arg(value_name = "OP", value_parser = jsonl_input::operation, required_unless_present_any = ["file", "csv"])]
    operation: Option<Operation>,
    /// The fields to set, as a JSON object.
    #[arg(value_name = "JSON")]
    fields: Option<String>,
    /// Fields to remove.
    #[arg(long, value_name = "NAME", num_args = 1.., requires = "entity_type")]
    unset: Vec<String>,
    /// What the backend has, as far as you know: a JSON object with all fields of the record.
    ///
    /// For apps that keep their own records and use only the queue: with it, a clash with another device is seen
    /// field by field. Without it, and in the middle of a record's queue, what this store last heard counts.
    #[arg(long, value_name = "JSON", requires = "entity_type")]
    base: Option<String>,
    /// The backend's version of that.
    #[arg(long, value_name = "VERSION", requires = "base")]
    base_version: Option<String>,
    /// The name of an action, whose arguments are the fields; the backend knows what it does.
    #[arg(long, value_name = "NAME", requires = "entity_type")]
    action: Option<String>,
    /// Your own name for this change: a second one with it is the first one, also after that was applied.
    #[arg(long, value_name = "KEY", requires = "entity_type")]
    dedup_key: Option<String>,
    /// Repeat a change whose outcome was unknown: there will be one task, not two.
    #[arg(long, value_name = "TASK", requires = "entity_type", value_parser = super::task::id)]
    repeat_of: Option<TaskId>,
    /// Read changes from a file of JSON lines; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "csv")]
    file: Option<PathBuf>,
    /// Read records from a CSV file with a header.
    #[arg(long, value_name = "FILE", requires = "csv_type", requires = "csv_id")]
    csv: Option<PathBuf>,
    /// The type of the CSV file's records.
    #[arg(long = "type", id = "csv_type", value_name = "TYPE", requires = "csv")]
    csv_type: Option<String>,
    /// Take ids from this column.
    #[arg(long, value_name = "COLUMN", group = "csv_id", requires = "csv")]
    id_column: Option<String>,
    /// Number the records: row-000001 and so on.
    #[arg(long, group = "csv_id", requires = "csv")]
    id_from_row: bool,
    /// What to do with each record of the CSV file.
    #[arg(long = "operation", id = "csv_operation", value_name = "OP", value_parser = jsonl_input::operation, default_value = "create", requires = "csv")]
    csv_operation: Operation,
    /// Keep every cell as text; without it, whole numbers become numbers and empty cells null.
    #[arg(long, requires = "csv")]
    csv_text: bool,
    /// Pass over lines that cannot be taken, and say which.
    #[arg(long)]
    skip_bad: bool,
    #[command(flatten)]
    options: OptionArgs,
}

pub(crate) fn run(args: Args, output: &Output) -> Result<Exit, Problem> {
    match (&args.file, &args.csv) {
        (None, None) => one(args, output),
        (Some(file), _) if file.as_os_str() == "-" => {
            let lines = json_lines(&args, BufReader::with_capacity(READ_BYTES, io::stdin()));
            stream(&args, "standard input", lines, output)
        }
        (Some(file), _) => {
            let input = BufReader::with_capacity(READ_BYTES, open(file)?);
            stream(&args, &file.display().to_string(), json_lines(&args, input), output)
        }
        (None, Some(file)) => {
            let rows = csv_rows(&args, file)?;
            stream(&args, &file.display().to_string(), rows, output)
        }
    }
}

/// What became of one change, for programs.
#[derive(Serialize)]
struct OneReport<'a> {
    outcome: &'static str,
    task: Option<TaskId>,
    #[serde(flatten)]
    entity: &'a EntityKey,
    operation: Operation,
}

fn one(args: Args, output: &Output) -> Result<Exit, Problem> {
    let (Some(entity_type), Some(entity_id), Some(operation)) =
        (args.entity_type, args.entity_id, args.operation)
    else {
        return Err(Problem::new("TYPE, ID and OP are needed, or --file, or --csv"));
    };
    let entity = EntityKey::new(entity_type, entity_id);
    let options =
        Options { dedup_key: args.dedup_key, repeat_of: args.repeat_of, ..args.options.options(now()) };
    let mut change = Change { options, ..Change::of(operation, entity.clone()) };
    change.intent.action = args.action;
    if let Some(text) = &args.fields {
        change = change.fields(fields(text, "the fields are")?);
    }
    if let Some(text) = &args.base {
        let body = Body::Live(fields(text, "the base is")?);
        let version = args.base_version.map(Version);
        change = change.base(Base { body, version, complete: true });
    }
    for name in args.unset {
        if change.intent.fields.value(&name).is_some() {
            return Err(Problem::new(format!("the field {name:?} is both set and unset")));
        }
        change = change.unset(name);
    }
    // A change that can never be taken must not leave an empty store behind.
    change.check(&landfall_core::config::Limits::default()).map_err(|error| match error {
        InvalidChange::ActionName => Problem::new(error.to_string())
            .hint("`landfall enqueue TYPE ID action JSON --action NAME` sends a command"),
        _ => Problem::new(error.to_string()),
    })?;

    let engine = args.db.queue_or_new()?;
    let receipt = engine.enqueue_blocking(change).map_err(|error| about(&args.db.db, error))?;
    if output.is_json() {
        output.json(&OneReport {
            outcome: word(receipt.outcome),
            task: receipt.task,
            entity: &entity,
            operation,
        })?;
    } else {
        output.line(sentence(operation, &entity, &receipt))?;
    }
    Ok(Exit::Done)
}

fn fields(text: &str, what: &str) -> Result<Fields, Problem> {
    Fields::parse(text).map_err(|error| {
        let problem = Problem::new(format!("{what} not usable: {error}"));
        match error {
            ValueError::Json(_) | ValueError::NotAnObject => {
                problem.hint(r#"write a JSON object, such as '{"title":"Hello"}', in single quotes"#)
            }
            _ => problem,
        }
    })
}

fn word(outcome: Enqueued) -> &'static str {
    match outcome {
        Enqueued::New => "new",
        Enqueued::Coalesced => "coalesced",
        Enqueued::Annihilated => "annihilated",
        Enqueued::NoChange => "no_change",
        Enqueued::Repeated => "repeated",
    }
}

fn sentence(operation: Operation, entity: &EntityKey, receipt: &Receipt) -> String {
    let what = format!("{operation} of {} {}", visible(&entity.entity_type), visible(&entity.entity_id));
    let task = receipt.task.map(|task| task.to_string()).unwrap_or_default();
    match receipt.outcome {
        Enqueued::New => format!("stored: {what}, task {task}"),
        Enqueued::Coalesced => format!("stored: {what}, folded into task {task}"),
        Enqueued::Annihilated => format!("stored: {what}; its create was never sent, so neither will be"),
        Enqueued::NoChange => format!("nothing to do: {what} would change nothing"),
        Enqueued::Repeated => format!("already stored (repeated): {what}, task {task}"),
    }
}

/// What became of a file, for programs.
#[derive(Serialize)]
struct FileReport {
    changes: u64,
    tasks: u64,
    coalesced: u64,
    annihilated: u64,
    unchanged: u64,
    skipped: u64,
    skipped_lines: Vec<SkippedLine>,
}

/// A change and its line, or a bad line.
type Line = Result<(u64, Change), jsonl_input::BadLine>;
type Lines = Box<dyn Iterator<Item = Line> + Send>;

/// What the reading side and the refusing side know of each other: both run on the engine's thread, in turn.
#[derive(Debug, Default)]
struct Progress {
    /// The line of the change that was given out last.
    line: u64,
    skipped: Skipped,
}

fn stream(args: &Args, name: &str, lines: Lines, output: &Output) -> Result<Exit, Problem> {
    let progress = Arc::new(Mutex::new(Progress::default()));
    let (reading, refusing) = (Arc::clone(&progress), Arc::clone(&progress));
    let skip_bad = args.skip_bad;
    let name_of_file = name.to_owned();
    let changes = lines.filter_map(move |line| match line {
        Ok((line, change)) => {
            lock(&reading).line = line;
            Some(Ok(change))
        }
        Err(bad) if skip_bad && !bad.is_fatal => {
            lock(&reading).skipped.add(bad.line, bad.error);
            None
        }
        Err(bad) => {
            let fatal = bad.is_fatal;
            Some(Err(advise(Problem::from(bad).context(&name_of_file), fatal)))
        }
    });
    let name_of_file = name.to_owned();
    let on_refused = move |refused: EnqueueError| {
        let mut progress = lock(&refusing);
        let line = progress.line;
        if skip_bad {
            progress.skipped.add(line, refused.to_string());
            return Ok(());
        }
        let problem = Problem::new(format!("{name_of_file}: line {line}: {refused}"));
        Err(Error::Input(advise(problem, false).into()))
    };
    let engine = args.db.queue_or_new()?;
    let imported = engine.import_with_blocking(changes, on_refused);
    let imported = imported.map_err(|error| about(&args.db.db, error))?;
    let skipped = std::mem::take(&mut lock(&progress).skipped);
    report(&imported, skipped, output)?;
    Ok(Exit::Done)
}

/// Names the store in its own troubles, and only there.
fn about(db: &Path, error: Error) -> Problem {
    let of_store = matches!(&error, Error::Store(_) | Error::Enqueue(EnqueueError::Store(_)));
    let problem = Problem::from(error);
    if of_store { problem.context(db.display()) } else { problem }
}

fn advise(problem: Problem, fatal: bool) -> Problem {
    let hint = if fatal {
        "nothing was stored"
    } else {
        "nothing was stored; mend the line, or pass over bad lines with --skip-bad"
    };
    problem.hint(hint)
}

fn report(imported: &Imported, skipped: Skipped, output: &Output) -> Result<(), Problem> {
    let Imported { changes, tasks, coalesced, annihilated, unchanged } = *imported;
    if output.is_json() {
        return output.json(&FileReport {
            changes,
            tasks,
            coalesced,
            annihilated,
            unchanged,
            skipped: skipped.count,
            skipped_lines: skipped.lines,
        });
    }
    for note in skipped.notes() {
        output.note(format_args!("{WARNING}warning:{WARNING:#} {}", visible(&note)));
    }
    let mut parts = vec![many(tasks, "new task")];
    for (count, what) in [
        (coalesced, "folded into earlier tasks"),
        (annihilated, "undone before they were sent"),
        (unchanged, "changed nothing"),
        (skipped.count, "lines skipped"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    output.line(format_args!("stored {}: {}", many(changes, "change"), parts.join(", ")))
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn open(path: &Path) -> Result<File, Problem> {
    let cannot = |error| Problem::new(format!("cannot read {}: {error}", path.display()));
    let mut file = File::open(path).map_err(cannot)?;
    // A folder opens well and fails at the first read; nothing is taken from a file by reading no byte.
    file.read(&mut []).map_err(cannot)?;
    if path.is_dir() {
        return Err(cannot(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    Ok(file)
}

fn json_lines(args: &Args, input: impl BufRead + Send + 'static) -> Lines {
    let now = now();
    Box::new(JsonLines::new(input, args.options.options(now), now))
}

fn now() -> Timestamp {
    SystemClock::default().now().wall
}

fn csv_rows(args: &Args, path: &Path) -> Result<Lines, Problem> {
    let entity_type = args.csv_type.clone().ok_or_else(|| Problem::new("--csv needs --type"))?;
    let id = match &args.id_column {
        Some(name) => IdSource::Column(name.clone()),
        None => IdSource::Row,
    };
    let options = CsvOptions { id, text_only: args.csv_text };
    let rows = CsvRows::open(path, &options)
        .map_err(|error| Problem::new(format!("{}: {error}", path.display())).hint("nothing was stored"))?;
    let (operation, options) = (args.csv_operation, args.options.options(now()));
    if operation == Operation::Delete {
        return Err(Problem::new("the rows of a CSV file give fields, and a delete has none")
            .hint("list deletes in a file of JSON lines and use --file"));
    }
    Ok(Box::new(rows.map(move |row| {
        let row = row.map_err(|error| bad_row(&error))?;
        let fields = serde_json::to_string(&row.fields)
            .map_err(|error| error.to_string())
            .and_then(|text| Fields::parse(&text).map_err(|error| error.to_string()))
            .map_err(|error| jsonl_input::BadLine { line: row.line, error, is_fatal: false })?;
        let change = Change::of(operation, EntityKey::new(entity_type.clone(), row.id)).fields(fields);
        Ok((row.line, Change { options: options.clone(), ..change }))
    })))
}

fn bad_row(error: &CsvError) -> jsonl_input::BadLine {
    let (line, text) = (error.line(), error.to_string());
    let text = text.strip_prefix(&format!("line {line}: ")).unwrap_or(&text).to_owned();
    jsonl_input::BadLine { line, error: text, is_fatal: matches!(error, CsvError::Read { .. }) }
}
