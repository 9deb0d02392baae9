//! `landfall logout --as IDENTITY`: what becomes of an account's unsynced work when its user leaves.
//!
//! The policies are the engine's. Tests: `tests/accounts.rs`.

use crate::backend::BackendArgs;
use crate::confirm::confirmed;
use crate::duration;
use crate::exit::{self, Exit};
use crate::output::{Output, many};
use crate::problem::Problem;
use crate::rules::RuleArgs;
use crate::store::DbArgs;
use crate::table::visible;
use landfall_engine::{Engine, Error, LoggedOut, Logout};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "  landfall logout --db q.db --as alice --drain --within 60s \\
    --endpoint https://api.example.com/sync --token-env ALICE_TOKEN
  landfall logout --db q.db --as alice --keep
  landfall logout --db q.db --as alice --export alice.jsonl
  landfall logout --db q.db --as alice --discard --yes";

/// Log an account out: send its unsynced work first, keep it, write it to a file, or give it up.
///
/// Exactly one way must be given. Except with --keep, what is known of the account's records is forgotten; its journal
/// stays for 30 days. With --drain nobody is logged out while something is left, and the exit code says what.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, exit::TABLE))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    #[command(flatten)]
    way: Way,
    /// How long --drain goes on.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::parse, help_heading = "With --drain")]
    within: Duration,
    /// The backend's sync endpoint, for --drain.
    #[arg(long, value_name = "URL", env = "LANDFALL_ENDPOINT", help_heading = "With --drain")]
    endpoint: Option<String>,
    /// Do not ask before --discard.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten, next_help_heading = "With --drain")]
    backend: BackendArgs,
    #[command(flatten)]
    rules: RuleArgs,
}

#[derive(Debug, clap::Args)]
#[group(id = "logout_way", required = true, multiple = false)]
#[command(next_help_heading = "Ways (exactly one)")]
struct Way {
    /// Send what is unsynced first; if something is left after --within, nobody is logged out.
    #[arg(long)]
    drain: bool,
    /// Leave it in the queue, for the next time that the same user comes.
    #[arg(long)]
    keep: bool,
    /// Write it to this new file, from which `landfall import` takes it in again, and give it up here.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Give it up. The journal keeps it for 30 days.
    #[arg(long)]
    discard: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    identity: &'a str,
    logged_out: bool,
    /// Tasks that were sent and confirmed now.
    synced: u64,
    kept: u64,
    exported: u64,
    discarded: u64,
    /// Tasks that are left, if nobody was logged out.
    left: u64,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let Some(identity) = &args.db.identity else {
        return Err(Problem::new("whose work is it?")
            .hint("name the account with --as; `landfall accounts` lists them"));
    };
    let model = args.db.model()?;
    let builder = match (args.way.drain, &args.endpoint) {
        (true, Some(endpoint)) => {
            let mut config = args.backend.config();
            config.conflicts.rules = args.rules.rules()?;
            Engine::builder(args.db.open()?, args.backend.adapter(endpoint)?).config(config)
        }
        (true, None) => {
            return Err(Problem::new("--drain sends what is unsynced, and needs --endpoint")
                .hint("give --endpoint, or choose --keep, --export or --discard"));
        }
        (false, _) => Engine::local(args.db.open()?),
    };
    let engine = args.db.build(builder, model)?;
    let waiting = args.db.named(engine.status())?.counts.total();
    if args.way.discard && waiting > 0 {
        let question = format!("Give up {} of {identity:?} for good?", many(waiting, "unsynced task"));
        if !confirmed(&question, args.yes)? {
            output.note("nothing was changed");
            return Ok(Exit::Done);
        }
    }
    let policy = match &args.way {
        Way { drain: true, .. } => Logout::Drain { within: args.within },
        Way { export: Some(path), .. } => Logout::Export(path.clone()),
        Way { discard: true, .. } => Logout::Discard,
        Way { .. } => Logout::Keep,
    };
    match engine.logout_blocking(policy) {
        Ok(done) => {
            report(identity, &done, output)?;
            Ok(Exit::Done)
        }
        Err(Error::LogoutRefused { left, waiting_for }) => {
            let status = args.db.named(engine.status())?;
            if output.is_json() {
                let report = Report {
                    identity,
                    logged_out: false,
                    synced: 0,
                    kept: 0,
                    exported: 0,
                    discarded: 0,
                    left,
                };
                output.json(&report)?;
            } else {
                output.line(format_args!("not logged out: {} left", many(left, "task")))?;
                if let Some(why) = waiting_for {
                    output.line(format_args!("waiting for {}", visible(&why)))?;
                }
                output.hint("try again, or log out with --keep, --export or --discard");
            }
            Ok(Exit::of(&status.counts, status.gate.map(|(kind, _)| kind)))
        }
        Err(error @ Error::Input(_)) => {
            Err(Problem::from(error).hint("name a file that does not exist yet; nothing was given up"))
        }
        Err(error) => Err(Problem::from(error).context(args.db.db.display())),
    }
}

fn report(identity: &str, done: &LoggedOut, output: &Output) -> Result<(), Problem> {
    let synced =
        done.drained.as_ref().map_or(0, |report| report.applied + report.duplicates + report.unchanged);
    let LoggedOut { kept, exported, discarded, .. } = *done;
    if output.is_json() {
        return output.json(&Report {
            identity,
            logged_out: true,
            synced,
            kept,
            exported,
            discarded,
            left: 0,
        });
    }
    let parts: Vec<String> = [
        (synced, "synced"),
        (kept, "kept"),
        (exported, "exported"),
        // What was exported is in the file.
        (if exported > 0 { 0 } else { discarded }, "given up"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{} {what}", many(count, "task")))
    .collect();
    let what = if parts.is_empty() { "nothing was unsynced".to_owned() } else { parts.join(", ") };
    output.line(format_args!("{} is logged out: {what}", visible(identity)))
}
