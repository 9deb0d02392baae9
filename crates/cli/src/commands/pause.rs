//! `landfall pause` and `landfall resume`: everything, one type of records, or one lane.
//!
//! Tests: `tests/lifecycle.rs`.

use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::Output;
use crate::problem::Problem;
use crate::store::DbArgs;
use crate::table::visible;
use landfall_core::machine::Scope;
use landfall_core::store::Controls;
use serde::Serialize;

const PAUSE_EXAMPLES: &str = "  landfall pause --db q.db
  landfall pause --db q.db --type photo
  landfall pause --db q.db --lane mail";

const RESUME_EXAMPLES: &str = "  landfall resume --db q.db
  landfall resume --db q.db --type photo
  landfall resume --db q.db --lane mail";

/// Send nothing until `landfall resume`: of the whole queue, of one type of records, or of one lane.
///
/// It lasts across restarts. Changes can still be stored and the backend's changes read; what is on its way is not
/// called back. `landfall status` shows what is paused.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(PAUSE_EXAMPLES, TABLE_LOCAL))]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    what: What,
}

/// Let go on what `landfall pause` holds, with the next `landfall sync`.
///
/// A type or lane that was paused by itself has to be resumed by itself.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(RESUME_EXAMPLES, TABLE_LOCAL))]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    what: What,
}

#[derive(Debug, clap::Args)]
struct What {
    #[command(flatten)]
    db: DbArgs,
    /// Only records of this type.
    #[arg(long = "type", id = "only_type", value_name = "TYPE", conflicts_with = "lane")]
    entity_type: Option<String>,
    /// Only this named lane.
    #[arg(long, value_name = "NAME")]
    lane: Option<String>,
}

impl What {
    fn scope(&self) -> Scope {
        match (&self.entity_type, &self.lane) {
            (Some(entity_type), _) => Scope::Type(entity_type.clone()),
            (None, Some(lane)) => Scope::Lane(lane.clone()),
            (None, None) => Scope::All,
        }
    }
}

#[derive(Serialize)]
struct Report {
    /// All that is paused now.
    paused: Controls,
}

pub(crate) fn pause(args: &PauseArgs, output: &Output) -> Result<Exit, Problem> {
    let (engine, _) = args.what.db.queue()?;
    args.what.db.named(engine.pause_blocking(args.what.scope()))?;
    report(args.what.db.named(engine.controls())?, output)
}

pub(crate) fn resume(args: &ResumeArgs, output: &Output) -> Result<Exit, Problem> {
    let (engine, _) = args.what.db.queue()?;
    args.what.db.named(engine.resume_blocking(args.what.scope()))?;
    report(args.what.db.named(engine.controls())?, output)
}

fn report(paused: Controls, output: &Output) -> Result<Exit, Problem> {
    if output.is_json() {
        output.json(&Report { paused })?;
        return Ok(Exit::Done);
    }
    let words = words(&paused);
    match words.is_empty() {
        true => output.line("nothing is paused")?,
        false => output.line(format_args!("paused: {}", words.join(", ")))?,
    }
    Ok(Exit::Done)
}

/// What is paused, for people.
pub(crate) fn words(paused: &Controls) -> Vec<String> {
    let all = paused.all.then(|| "everything".to_owned());
    let types = paused.types.iter().map(|name| format!("records of the type {}", visible(name)));
    let lanes = paused.lanes.iter().map(|name| format!("the lane {}", visible(name)));
    all.into_iter().chain(types).chain(lanes).collect()
}
