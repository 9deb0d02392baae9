//! `landfall status`: how much waits, for how long, and why.
//!
//! Tests: `tests/cli_basics.rs`.

use crate::duration::words;
use crate::exit::{self, Exit};
use crate::output::{Output, many};
use crate::problem::Problem;
use crate::shown;
use crate::store::DbArgs;
use crate::table::visible;
use landfall_core::id::ClientId;
use landfall_core::model::Model;
use landfall_core::store::{Controls, Counts, Lease, QUARANTINE_MAX, StoreError, StoreRead};
use landfall_core::task::{FailureNote, StateKind};
use landfall_core::time::Timestamp;
use landfall_engine::{Clock, SystemClock};
use serde::Serialize;

const EXAMPLES: &str = "  landfall status --db q.db
  landfall status --db q.db --json | jq .pending
  landfall status --db q.db --exit-code > /dev/null || echo 'not everything is synced'";

/// Tasks of each state that are looked at for the newest failure.
const LOOKED_AT: usize = 20;

/// Show how much waits to be synced.
///
/// Ends with code 0 whatever is in the queue; with --exit-code, 2 and 3 say what is left.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, exit::TABLE))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// End with code 2 when work is left, and 3 when something needs attention.
    #[arg(long)]
    exit_code: bool,
}

#[derive(Serialize)]
struct Report {
    pending: u64,
    in_flight: u64,
    unknown: u64,
    conflict: u64,
    dead: u64,
    /// Age of the oldest unsynced change.
    oldest_unsynced_ms: Option<u64>,
    client_id: ClientId,
    client_epoch: u64,
    server_id: Option<String>,
    store: String,
    /// Whose queue it is; null for the one without accounts.
    identity: Option<String>,
    /// What is paused.
    paused: Controls,
    /// Whether a `landfall sync` holds the queue now.
    syncing: bool,
    /// What the newest failed attempt met, among the oldest tasks that are not dead.
    last_failure: Option<FailureNote>,
    /// How far the backend's changes were read.
    pull: PullReport,
    /// Records of the backend that could not be taken in.
    quarantined: QuarantineReport,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum PullReport {
    /// No page of them was read yet.
    Never,
    /// They were read; what is newer comes with the next sync.
    Read,
    /// They are being read from the beginning, and records that do not come are to be taken as deleted there.
    Anew,
}

#[derive(Serialize)]
struct QuarantineReport {
    /// How many are remembered, at most 1000.
    count: usize,
    newest: Option<QuarantinedReport>,
}

#[derive(Serialize)]
struct QuarantinedReport {
    at_ms: i64,
    reason: String,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, model) = args.db.queue()?;
    let status = args.db.named(engine.status())?;
    let replica = args.db.named(engine.replica())?;
    let (lease, last_failure) =
        args.db.named(engine.read(move |store| Ok((store.lease()?, last_failure(store, &model)?))))?;
    let pull = match args.db.named(engine.pull_state())? {
        None => PullReport::Never,
        Some(position) if position.sweep => PullReport::Anew,
        Some(_) => PullReport::Read,
    };
    let quarantined = args.db.named(engine.quarantined(QUARANTINE_MAX))?;
    let now = SystemClock::default().now().wall;
    let Counts { pending, in_flight, unknown, conflict, dead } = status.counts;
    let report = Report {
        pending,
        in_flight,
        unknown,
        conflict,
        dead,
        oldest_unsynced_ms: status.oldest.map(|oldest| age_ms(oldest, now)),
        client_id: replica.client_id,
        client_epoch: replica.client_epoch,
        server_id: replica.server_id.map(|name| name.0),
        store: args.db.db.display().to_string(),
        identity: status.identity,
        paused: status.controls,
        syncing: lease.is_some_and(|lease| is_held(&lease, now)),
        last_failure,
        pull,
        quarantined: QuarantineReport {
            count: quarantined.len(),
            newest: quarantined
                .into_iter()
                .next()
                .map(|newest| QuarantinedReport { at_ms: newest.at.0, reason: newest.reason }),
        },
    };
    if output.is_json() {
        output.json(&report)?;
    } else {
        show(&report, now, output)?;
    }
    Ok(if args.exit_code { Exit::of(&status.counts, None) } else { Exit::Done })
}

fn show(report: &Report, now: Timestamp, output: &Output) -> Result<(), Problem> {
    let total = report.pending + report.in_flight + report.unknown + report.conflict + report.dead;
    if total == 0 {
        output.line("everything is synced")?;
    }
    for (count, name, meaning) in [
        (report.pending, "pending", "waiting to be sent"),
        (report.in_flight, "in flight", "being sent"),
        (report.unknown, "unknown", "sent without an answer, will be sent again under the same key"),
        (report.conflict, "conflict", "waiting for a decision: see `landfall conflicts list`"),
        (report.dead, "dead", "refused, waiting for a decision: see `landfall dead list`"),
    ] {
        if count > 0 {
            output.line(format_args!("{count:>9} {name:<9}  {meaning}"))?;
        }
    }
    if let Some(age) = report.oldest_unsynced_ms {
        output.line(format_args!("oldest unsynced change: {} ago", words(age)))?;
    }
    for what in super::pause::words(&report.paused) {
        output.line(format_args!("paused: {what} (`landfall resume` lets it go on)"))?;
    }
    if let Some(failure) = &report.last_failure {
        output.line(format_args!(
            "last failure: {}: {} ({} ago)",
            failure.kind.as_str(),
            visible(&failure.message),
            words(age_ms(failure.at, now))
        ))?;
    }
    output.line(match report.pull {
        PullReport::Never => "the backend's changes were never read",
        PullReport::Read => "the backend's changes were read",
        PullReport::Anew => "the backend's changes are being read from the beginning; the next sync goes on",
    })?;
    if let Some(newest) = &report.quarantined.newest {
        let count = report.quarantined.count as u64;
        let age = words(age_ms(Timestamp(newest.at_ms), now));
        output.line(format_args!(
            "{} of the backend could not be taken in; the last one {age} ago: {}",
            many(count, "record"),
            visible(&newest.reason)
        ))?;
    }
    if report.syncing {
        output.line("a sync is running")?;
    }
    let whose =
        report.identity.as_ref().map(|name| format!(", queue of {}", visible(name))).unwrap_or_default();
    output.line(format_args!("client {}, store {}{whose}", report.client_id, visible(&report.store)))
}

fn age_ms(then: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(then.until(now).as_millis()).unwrap_or(u64::MAX)
}

/// A killed holder leaves its lease behind, so this can be wrong for the rest of its term.
fn is_held(lease: &Lease, now: Timestamp) -> bool {
    !lease.holder.is_empty() && lease.expires_at > now
}

fn last_failure(store: &dyn StoreRead, model: &Model) -> Result<Option<FailureNote>, StoreError> {
    let mut newest: Option<FailureNote> = None;
    for state in [StateKind::InFlight, StateKind::Unknown, StateKind::Pending, StateKind::Conflict] {
        for task in store.tasks_in_state(state, 0, LOOKED_AT)?.tasks {
            let note = shown::task(model, task).last_failure().cloned();
            let newer = |note: &FailureNote| newest.as_ref().is_none_or(|known| known.at < note.at);
            newest = note.filter(newer).or(newest);
        }
    }
    Ok(newest)
}
