//! `landfall outbox`: the queue inside an app's own database.
//!
//! Tests: `tests/outbox.rs`.

use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use crate::table::{layout, visible};
use landfall_sqlite::outbox::{Outbox, sql};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "  landfall outbox install --db app.db
  landfall outbox sql
  landfall outbox refused --db app.db
  landfall sync --db app.db --colocated --endpoint http://127.0.0.1:8787/sync";

/// The queue inside an app's own database, so that the app's write and the queued change are one transaction.
///
/// The app leaves changes with one INSERT inside its own transaction, from any language; `landfall sync --colocated`
/// takes them over and sends them. Do not let two copies of SQLite in one process open the same file.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make the tables in the app's database, beside the app's own. Doing it again does no harm.
    #[command(after_help = exit::help("  landfall outbox install --db app.db", TABLE_LOCAL))]
    Install(File),
    /// Print the SQL: the table, the statement that leaves a change, and the one that lists refused ones.
    #[command(after_help = exit::help(
        "  landfall outbox sql\n  landfall outbox sql --json | jq -r .insert",
        TABLE_LOCAL
    ))]
    Sql,
    /// List changes that the app has left and that make no sense, with the reason. They stay until the app deletes them.
    #[command(after_help = exit::help("  landfall outbox refused --db app.db", TABLE_LOCAL))]
    Refused(File),
}

#[derive(Debug, clap::Args)]
struct File {
    /// The app's database.
    #[arg(long, value_name = "PATH", env = "LANDFALL_DB")]
    db: PathBuf,
}

#[derive(Serialize)]
struct Statements {
    table: &'static str,
    insert: &'static str,
    refused: &'static str,
}

#[derive(Serialize)]
struct Refused {
    refused: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    id: i64,
    entity_type: String,
    entity_id: String,
    operation: String,
    reason: String,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    match &args.what {
        What::Install(file) => install(&file.db, output),
        What::Sql => statements(output),
        What::Refused(file) => refused(&file.db, output),
    }
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, Problem> {
    let refuse = |error: rusqlite::Error| Problem::new(format!("{}: {error}", path.display()));
    Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| refuse(error).hint("name the database that the app has made"))
}

fn install(path: &Path, output: &Output) -> Result<Exit, Problem> {
    let app = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Ours alone: what the app's own connections are set to is looked at where they are used.
    app.pragma_update(None, "synchronous", "FULL")
        .map_err(|error| Problem::new(format!("{}: {error}", path.display())))?;
    Outbox::install(&app).map_err(|error| Problem::from(error).context(path.display()))?;
    if output.is_json() {
        output.json(&serde_json::json!({ "installed": path.display().to_string() }))?;
    } else {
        output.line(format_args!("the tables are in {}, beside the app's own", path.display()))?;
        output.line("`landfall outbox sql` prints the statement that leaves a change")?;
    }
    Ok(Exit::Done)
}

fn statements(output: &Output) -> Result<Exit, Problem> {
    let sql = sql();
    if output.is_json() {
        output.json(&Statements { table: sql.table, insert: sql.insert, refused: sql.refused })?;
        return Ok(Exit::Done);
    }
    output.line("-- Once, as a migration of the app's:")?;
    output.line(sql.table.trim_end())?;
    output.line("-- For each change, inside the app's own transaction:")?;
    output.line(format_args!("{};", sql.insert))?;
    output.line("-- What could not be taken over, and why:")?;
    output.line(format_args!("{};", sql.refused))?;
    Ok(Exit::Done)
}

fn refused(path: &Path, output: &Output) -> Result<Exit, Problem> {
    let app = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let failed = |error: rusqlite::Error| {
        Problem::new(format!("{}: {error}", path.display()))
            .hint("`landfall outbox install` makes the tables")
    };
    let mut statement = app.prepare(sql().refused).map_err(failed)?;
    let rows = statement
        .query_map((), |row| {
            Ok(Row {
                id: row.get(0)?,
                entity_type: row.get(1)?,
                entity_id: row.get(2)?,
                operation: row.get(3)?,
                reason: row.get(4)?,
            })
        })
        .map_err(failed)?;
    let rows = rows.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if output.is_json() {
        output.json(&Refused { refused: rows })?;
        return Ok(Exit::Done);
    }
    if rows.is_empty() {
        output.line("nothing was refused")?;
        return Ok(Exit::Done);
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            [&row.id.to_string(), &row.entity_type, &row.entity_id, &row.operation, &row.reason]
                .map(|cell| visible(cell).to_string())
                .into()
        })
        .collect();
    for line in layout(&["row", "type", "id", "operation", "reason"], &cells) {
        output.line(line)?;
    }
    Ok(Exit::Done)
}
