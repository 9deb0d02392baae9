//! `landfall sync`: one session with a backend, its progress and its report.
//!
//! All decisions are the engine's. Here: the arguments, Ctrl-C, and words for every way a session can end.
//! Tests: `tests/kill_nine.rs`, `tests/rubbish_answers.rs`, `tests/budget.rs`, `tests/cli_basics.rs`.

use super::task::explained;
use crate::backend::BackendArgs;
use crate::budget;
use crate::duration::{self, words};
use crate::exit::{self, Exit};
use crate::output::{Output, many};
use crate::problem::Problem;
use crate::progress::Progress;
use crate::reasons::{blocker, in_the_way};
use crate::rules::{RuleArgs, WHEN_DEAD, Words, when_dead};
use crate::stop::Stop;
use crate::store::DbArgs;
use crate::table::visible;
use landfall_core::event::{Event, Exhausted, Report};
use landfall_core::explain::Blocker;
use landfall_core::failure::FailureKind;
use landfall_core::id::TaskId;
use landfall_core::machine::{Directions, RunBudget, SessionEnd};
use landfall_core::model::WhenDead;
use landfall_core::store::Counts;
use landfall_core::task::TaskState;
use landfall_engine::{Clock, Engine, Error, Notice, SystemClock};
use serde::Serialize;
use std::thread;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "  landfall sync --db q.db --endpoint http://127.0.0.1:8787/sync
  landfall sync --db q.db --endpoint https://api.example.com/sync --token-env API_TOKEN
  landfall sync --db q.db --endpoint https://api.example.com/sync --token-command 'pass show api'
  landfall sync --db q.db --as alice --model app.json --endpoint https://api.example.com/sync
  landfall sync --db new.db --create --endpoint https://api.example.com/sync
  landfall sync --db q.db --endpoint https://api.example.com/sync --deadline 0 --json
  landfall sync --db q.db --endpoint https://api.example.com/sync --budget 20s,2MB,500tasks
  landfall sync --db q.db --endpoint https://api.example.com/sync --conflict ask --deletes edit_wins
  landfall sync --db q.db --endpoint https://api.example.com/sync \\
    --field report.views=counter --field report.amount+currency=server";

/// How often the screen and the signal are looked at while a session runs.
const LOOK: Duration = Duration::from_millis(100);

/// Bring the queued changes to a backend, and read what others changed there.
///
/// Runs until everything is confirmed and read, or until the deadline; passing trouble is waited out in between. Ctrl-C ends it
/// at any moment: what is on its way is sent again next time under the same key and takes effect once.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, exit::TABLE))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The backend's sync endpoint.
    #[arg(long, value_name = "URL", env = "LANDFALL_ENDPOINT")]
    endpoint: String,
    /// Only send; read nothing of what others changed.
    #[arg(long)]
    push_only: bool,
    /// Only read what others changed; send nothing, and let what is queued not count for the exit code.
    #[arg(long, conflicts_with = "push_only")]
    pull_only: bool,
    /// Make the queue file if there is none, to begin with what the backend has.
    #[arg(long)]
    create: bool,
    /// How long to go on, such as 500ms, 30s or 5m; 0 tries everything once.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse)]
    deadline: Duration,
    /// What this run may use instead: a time, a size, a number of tasks, or several of them, such as 20s,2MB,500tasks.
    ///
    /// Made for windows that a scheduler gives. No call begins that would not come back in time, what is too large for
    /// the rest of the bytes is passed over, and what is left waits for the next run. Sizes: B, KB, MB, GB, KiB, MiB, GiB.
    /// Without a time, everything is tried once.
    #[arg(long, value_name = "BUDGET", value_parser = budget::parse, conflicts_with = "deadline")]
    budget: Option<RunBudget>,
    /// The network is metered: changes that ask for another one wait.
    #[arg(long)]
    metered: bool,
    /// What a dead letter holds up, where the model says nothing else.
    #[arg(long, value_name = "POLICY", value_parser = Words::new(&WHEN_DEAD, when_dead))]
    on_dead: Option<WhenDead>,
    #[command(flatten)]
    backend: BackendArgs,
    #[command(flatten)]
    rules: RuleArgs,
}

impl Args {
    fn directions(&self) -> Directions {
        match (self.push_only, self.pull_only) {
            (true, _) => Directions::PushOnly,
            (false, true) => Directions::PullOnly,
            (false, false) => Directions::Both,
        }
    }

    fn bounds(&self) -> Bounds {
        match (self.budget, self.deadline) {
            (Some(budget), _) => Bounds::Within(budget),
            (None, Duration::ZERO) => Bounds::Until(SessionEnd::OnePass),
            (None, within) => Bounds::Until(SessionEnd::Drained { within }),
        }
    }
}

/// What ends the run if nothing else does.
#[derive(Clone, Copy)]
enum Bounds {
    Until(SessionEnd),
    Within(RunBudget),
}

impl Bounds {
    fn run(self, engine: &Engine, directions: Directions) -> Result<Report, Error> {
        match self {
            Self::Until(end) => engine.sync_with_blocking(end, directions),
            Self::Within(budget) => engine.sync_within_blocking(budget, directions),
        }
    }
}

pub(crate) fn run(args: Args, output: &Output) -> Result<Exit, Problem> {
    let rules = args.rules.rules()?;
    let mut model = args.db.model()?;
    model.when_dead = args.on_dead.unwrap_or(model.when_dead);
    let adapter = args.backend.adapter(&args.endpoint)?;
    let store = if args.create { args.db.open_or_create()? } else { args.db.open()? };
    let mut config = args.backend.config();
    config.conflicts.rules = rules;
    let engine = args.db.build(Engine::builder(store, adapter).config(config), model)?;
    if args.metered {
        engine.network_metered(true);
    }
    let stop = Stop::listen(|| {})?;
    let started = Instant::now();
    let (report, seen) = watch(&engine, args.bounds(), args.directions(), &stop, output);
    let report = report.map_err(|error| Problem::from(error).context(args.db.db.display()))?;
    let status = args.db.named(engine.status())?;
    let ended = Ended {
        report,
        seen,
        directions: args.directions(),
        budget: args.budget,
        gate: status.gate,
        stopped: stop.is_asked(),
        seconds: started.elapsed().as_secs_f64(),
        blocked: args.db.named(blocked(&engine))?,
    };
    let exit = ended.exit();
    if output.is_json() {
        output.json(&ended.for_programs(exit))?;
    } else {
        ended.show(&args, output)?;
    }
    Ok(exit)
}

/// What was heard while a session ran.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// Conflicts that began to wait for a decision.
    waiting: u64,
    /// Events that were missed.
    missed: u64,
    /// Why reading paused last, if it did not go on.
    paused: Option<FailureKind>,
}

/// Runs the session and shows how far it is.
fn watch(
    engine: &Engine,
    bounds: Bounds,
    directions: Directions,
    stop: &Stop,
    output: &Output,
) -> (Result<Report, Error>, Seen) {
    let mut seen = Seen::default();
    let (status, mut events) = match engine.watch() {
        Ok(watch) => watch,
        Err(error) => return (Err(error), seen),
    };
    let sends = !matches!(directions, Directions::PullOnly);
    let mut progress = Progress::new(output, if sends { to_send(&status.counts) } else { 0 });
    let session = {
        let engine = engine.clone();
        thread::spawn(move || bounds.run(&engine, directions))
    };
    let mut looked = Instant::now();
    loop {
        // Asked before the last look at the events, so that none is left behind.
        let is_over = session.is_finished();
        if stop.is_asked() {
            // Repeated until it is over: the signal may have come before the session began.
            engine.stop_sync();
        }
        let notice = if is_over { events.try_next() } else { events.next_within(LOOK) };
        match notice {
            Some(Notice::Event(Event::SessionFinished(_))) => break,
            Some(Notice::Event(Event::GateClosed { why, message, wait })) => {
                progress.pause(&pause_text(why, &message, wait));
            }
            Some(Notice::Event(Event::PullPaused { why, message, wait })) => {
                seen.paused = Some(why);
                progress.pause(&pause_text(why, &message, wait));
            }
            Some(Notice::Event(Event::GateOpened)) => progress.resume(),
            Some(Notice::Event(Event::Pulled { changes, .. })) => {
                seen.paused = None;
                progress.resume();
                progress.read(changes);
            }
            Some(Notice::Event(Event::Reconciling)) => {
                progress
                    .pause("the server's changes have to be read from the beginning; what is queued is kept");
            }
            Some(Notice::Event(Event::Conflicted { waits: true, .. })) => seen.waiting += 1,
            Some(Notice::Lagged(missed)) => seen.missed += missed,
            Some(Notice::Event(_)) => {}
            None if is_over => break,
            None => {}
        }
        if sends && looked.elapsed() >= LOOK {
            looked = Instant::now();
            if let Ok(status) = engine.status() {
                progress.left(to_send(&status.counts));
            }
        }
    }
    let report = session.join().unwrap_or(Err(Error::Closed));
    progress.end();
    (report, seen)
}

/// The first few tasks that wait for others, each with what is in its way; one of those that wait for the same.
fn blocked(engine: &Engine) -> Result<Vec<(TaskId, Blocker)>, Error> {
    /// Tasks that are looked at.
    const LOOKED_AT: usize = 100;
    /// Tasks that are named.
    const NAMED: usize = 3;
    let now = SystemClock::default().now().wall;
    engine.read(move |store| {
        let mut found: Vec<(TaskId, Blocker)> = Vec::new();
        for task in store.tasks_after(0, LOOKED_AT)?.tasks {
            if !matches!(task.state, TaskState::Pending { .. } | TaskState::Unknown { .. }) {
                continue;
            }
            let explanation = explained(store, &task, now)?;
            let Some(by) = explanation.waits_for.iter().find_map(blocker) else { continue };
            if found.iter().all(|(_, known)| known.task != by.task) {
                found.push((task.id, by.clone()));
            }
            if found.len() == NAMED {
                break;
            }
        }
        Ok(found)
    })
}

fn pause_text(why: FailureKind, message: &str, wait: Option<Duration>) -> String {
    let wait = wait.map(|wait| format!(", next try in {}", words(wait.as_millis() as u64)));
    format!("{}: {}{}", why.as_str(), visible(message), wait.unwrap_or_default())
}

fn to_send(counts: &Counts) -> u64 {
    counts.pending + counts.in_flight + counts.unknown
}

/// How a session ended.
struct Ended {
    report: Report,
    seen: Seen,
    directions: Directions,
    budget: Option<RunBudget>,
    gate: Option<(FailureKind, String)>,
    stopped: bool,
    seconds: f64,
    /// Tasks that wait for others, some of them, and for whom.
    blocked: Vec<(TaskId, Blocker)>,
}

/// The same for programs.
#[derive(Serialize)]
struct ForPrograms<'a> {
    complete: bool,
    #[serde(flatten)]
    report: &'a Report,
    /// What the run was allowed; the report's `exhausted` says what of it ended the run.
    budget: Option<BudgetReport>,
    /// Conflicts that the rules settled; null when that was not heard of all.
    conflicts_settled: Option<u64>,
    gate: Option<GateReport<'a>>,
    stopped: bool,
    needs_attention: bool,
    seconds: f64,
    /// Some of the tasks that wait for others, and for whom.
    blocked: Vec<Blocked<'a>>,
}

#[derive(Serialize)]
struct Blocked<'a> {
    task: TaskId,
    by: &'a Blocker,
}

#[derive(Serialize)]
struct BudgetReport {
    time_ms: Option<u64>,
    bytes: Option<u64>,
    tasks: Option<u64>,
}

impl From<RunBudget> for BudgetReport {
    fn from(budget: RunBudget) -> Self {
        let time_ms = budget.time.map(in_ms);
        Self { time_ms, bytes: budget.bytes, tasks: budget.tasks }
    }
}

#[derive(Serialize)]
struct GateReport<'a> {
    kind: FailureKind,
    message: &'a str,
}

impl Ended {
    /// A person first, then work that is left. A session that was not to send does not answer for what is queued.
    fn exit(&self) -> Exit {
        let gate = self.gate.as_ref().map(|(kind, _)| *kind);
        let held = self.held();
        let mut left = self.report.left;
        if self.directions == Directions::PullOnly {
            left = Counts { pending: 0, in_flight: 0, unknown: 0, ..left };
        }
        let unread = self.report.pull_waiting_for.is_some();
        match Exit::of(&left, gate) {
            Exit::Done | Exit::WorkLeft if unread && held.is_some_and(exit::needs_person) => Exit::Attention,
            Exit::Done if unread => Exit::WorkLeft,
            other => other,
        }
    }

    /// What holds everything up, or at least the reading.
    fn held(&self) -> Option<FailureKind> {
        let gate = self.gate.as_ref().map(|(kind, _)| *kind);
        gate.or(self.seen.paused.filter(|_| self.report.pull_waiting_for.is_some()))
    }

    /// Conflicts that the rules settled, if all were heard of.
    fn settled(&self) -> Option<u64> {
        (self.seen.missed == 0).then(|| self.report.conflicts.saturating_sub(self.seen.waiting))
    }

    fn for_programs(&self, exit: Exit) -> ForPrograms<'_> {
        ForPrograms {
            complete: self.report.is_complete(),
            report: &self.report,
            budget: self.budget.map(BudgetReport::from),
            conflicts_settled: self.settled(),
            gate: self.gate.as_ref().map(|(kind, message)| GateReport { kind: *kind, message }),
            stopped: self.stopped,
            needs_attention: exit == Exit::Attention,
            seconds: (self.seconds * 1000.0).round() / 1000.0,
            blocked: self.blocked.iter().map(|(task, by)| Blocked { task: *task, by }).collect(),
        }
    }

    fn show(&self, args: &Args, output: &Output) -> Result<(), Problem> {
        let report = &self.report;
        if self.stopped {
            output.line("stopped; nothing is lost")?;
        }
        output.line(self.summary())?;
        if let (Some(what), Some(budget)) = (report.exhausted, &self.budget) {
            output.line(format_args!("budget used up: {}", used_up(what, budget)))?;
        }
        self.show_conflicts(output)?;
        if report.quarantined > 0 {
            output.line(format_args!(
                "{} of the server could not be taken in; `landfall status` says why",
                many(report.quarantined, "record")
            ))?;
        }
        let left = &report.left;
        if left.total() > 0 {
            self.show_left(output)?;
        } else if report.pull_waiting_for.is_none() {
            output.line("everything is synced")?;
        }
        if let Some(why) = &report.pull_waiting_for {
            output.line(format_args!("reading waits for {}", visible(why)))?;
        }
        for hint in self.hints(args) {
            output.hint(hint);
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let report = &self.report;
        let mut parts = Vec::new();
        if self.directions != Directions::PullOnly {
            let synced = report.applied + report.duplicates + report.unchanged;
            let mut part = format!("{} synced", many(synced, "task"));
            if report.duplicates > 0 {
                part += &format!(" ({} of them had taken effect before)", report.duplicates);
            }
            parts.push(part);
        }
        if self.directions != Directions::PushOnly {
            parts.push(format!("{} read", many(report.pulled, "change")));
        }
        parts.push(many(report.requests + report.pages, "request"));
        parts.push(duration_text(self.seconds));
        for (count, what) in
            [(report.expired, "expired"), (report.cancelled, "cancelled"), (report.dead, "refused")]
        {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        if report.retries > 0 {
            parts.push(format!("{} to be repeated", many(report.retries, "attempt")));
        }
        parts.join(", ")
    }

    fn show_conflicts(&self, output: &Output) -> Result<(), Problem> {
        let kept = "`landfall conflicts list --all` shows what was set aside";
        match self.settled() {
            Some(0) => Ok(()),
            Some(settled) => {
                output.line(format_args!("{} settled by rule; {kept}", many(settled, "conflict")))
            }
            None if self.report.conflicts > 0 => {
                output.line(format_args!("{} met; {kept}", many(self.report.conflicts, "conflict")))
            }
            None => Ok(()),
        }
    }

    fn show_left(&self, output: &Output) -> Result<(), Problem> {
        let left = &self.report.left;
        let parts: Vec<_> = [
            (left.pending, "pending"),
            (left.in_flight, "in flight"),
            (left.unknown, "of unknown fate"),
            (left.conflict, "in conflict"),
            (left.dead, "dead"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        output.line(format_args!("left: {}", parts.join(", ")))?;
        match &self.report.waiting_for {
            // It was not to send, so nothing holds the tasks up.
            _ if self.directions == Directions::PullOnly => Ok(()),
            Some(why) => output.line(format_args!("waiting for {}", visible(why))),
            None => Ok(()),
        }?;
        for (task, by) in &self.blocked {
            output.line(format_args!("task {task} waits for {}", in_the_way(by)))?;
        }
        Ok(())
    }

    /// What to do about what is left.
    fn hints(&self, args: &Args) -> Vec<String> {
        use FailureKind as Kind;
        let endpoint = visible(&args.endpoint);
        let mut hints = Vec::new();
        let left = &self.report.left;
        if left.dead > 0 {
            hints.push("`landfall dead list` shows what was refused, and why".into());
        }
        if left.conflict > 0 {
            hints.push(format!(
                "{} for your decision: `landfall conflicts list` shows {}",
                if left.conflict == 1 {
                    "a conflict waits".into()
                } else {
                    format!("{} conflicts wait", left.conflict)
                },
                if left.conflict == 1 { "it" } else { "them" }
            ));
        }
        if let Some((task, _)) = self.blocked.first() {
            hints.push(format!(
                "`landfall explain {task}` says more, `landfall queue` shows what each task waits for"
            ));
        }
        let sends = self.directions != Directions::PullOnly;
        let unread = self.report.pull_waiting_for.is_some();
        if !unread && (!sends || to_send(left) == 0) {
            return hints;
        }
        hints.push(match self.held() {
            Some(Kind::Unreachable) => {
                format!("is the server running, and is {endpoint} right? The changes are kept; run the command again")
            }
            Some(Kind::Intercepted) => {
                format!("something else answers at {endpoint}: check the address (it often ends in /sync), or log in to the network")
            }
            Some(Kind::Unauthenticated) => {
                "give a valid token: --token-env VAR with the variable's name, --token-command, or --header 'Authorization: …'".into()
            }
            Some(Kind::ServerChanged) => {
                format!("another database answers at {endpoint} than the one this queue has been talking to; check the address, and do not sync before you know why")
            }
            Some(Kind::ClientUnknown) => {
                "the server has forgotten this queue: was its database restored from a backup? Ask whoever runs it".into()
            }
            Some(Kind::ClientSuperseded) => {
                "a newer copy of this queue file has been synced; go on with that copy".into()
            }
            Some(Kind::Unsupported) => {
                format!("{endpoint} does not speak this protocol: check the address (it often ends in /sync) and the server's version")
            }
            Some(Kind::Forbidden) if unread => {
                "these credentials may not read what others changed; `--push-only` only sends".into()
            }
            Some(Kind::RateLimited) => "the server asked to slow down; run the command again later".into(),
            _ if args.budget.is_some() => "run the command again: it goes on where this run ended".into(),
            _ => "run the command again, or give it more time with --deadline".into(),
        });
        hints
    }
}

/// Which part of the budget ended the run, with what it was.
fn used_up(what: Exhausted, budget: &RunBudget) -> String {
    match what {
        Exhausted::Time => format!("the time ({})", words(budget.time.map_or(0, in_ms))),
        Exhausted::Bytes => {
            format!("the bytes ({}); what is next does not fit", many(budget.bytes.unwrap_or(0), "byte"))
        }
        Exhausted::Tasks => format!("the tasks ({})", budget.tasks.unwrap_or(0)),
    }
}

fn in_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn duration_text(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}
