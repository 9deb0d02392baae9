//! `landfall accounts`: whose queues a file holds.
//!
//! Tests: `tests/accounts.rs`.

use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::{HEAD, Output};
use crate::problem::Problem;
use crate::store::DbArgs;
use crate::table::layout;
use landfall_core::store::Counts;
use landfall_engine::Engine;
use serde::Serialize;

const EXAMPLES: &str = "  landfall accounts --db q.db
  landfall accounts --db q.db --json | jq '.accounts[] | select(.total > 0).identity'";

/// List whose queues the file holds, and how much waits in each.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
}

#[derive(Serialize)]
struct Report {
    accounts: Vec<Account>,
}

#[derive(Serialize)]
struct Account {
    /// Null for the queue of apps without accounts.
    identity: Option<String>,
    #[serde(flatten)]
    counts: Counts,
    total: u64,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let engine = args.db.named(Engine::local(args.db.open_file()?).build_blocking())?;
    let found = args.db.named(engine.identities_blocking())?;
    if output.is_json() {
        let account = |(identity, counts): (Option<String>, Counts)| {
            let total = counts.total();
            Account { identity, counts, total }
        };
        output.json(&Report { accounts: found.into_iter().map(account).collect() })?;
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(identity, counts)| {
            let name = identity.clone().unwrap_or_else(|| "(no account)".into());
            let Counts { pending, in_flight, unknown, conflict, dead } = *counts;
            let counts = [pending, in_flight, unknown, conflict, dead].map(|count| count.to_string());
            std::iter::once(name).chain(counts).collect()
        })
        .collect();
    let mut lines =
        layout(&["account", "pending", "in flight", "unknown", "conflict", "dead"], &rows).into_iter();
    if let Some(heading) = lines.next() {
        output.line(format_args!("{HEAD}{heading}{HEAD:#}"))?;
    }
    lines.try_for_each(|line| output.line(line))?;
    Ok(Exit::Done)
}
