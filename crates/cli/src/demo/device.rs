//! A device: a process of its own that plays its script through the engine, on its own queue file.
//!
//! It is killed with SIGKILL at any moment and started again, and keeps no file beside the queue. How it knows what
//! it had recorded: every batch of changes also sets `recorded` of its logbook, an ordinary record of the same
//! engine. `enqueue_many` stores a batch in one transaction, so the logbook and the changes it counts are both there
//! or both not; a batch that was cut off is made again, a batch that was stored is not. This is what an app would do.
//!
//! The parent tells the phase on standard input and reads [`Message`]s from standard output; when the parent dies,
//! the input ends, and so does the device. Tests: `tests/demo.rs`, with real processes.

use super::proof::Audit;
use super::script::{self, Deed, Fields, LOGBOOK, STRIKE, Script, Step};
use crate::exit::Exit;
use crate::problem::Problem;
use landfall_adapters::SyncEndpoint;
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::entity::Body;
use landfall_core::id::{EntityKey, TaskId};
use landfall_core::machine::SessionEnd;
use landfall_core::store::{Counts, StoreError};
use landfall_core::task::{StateKind, Verdict};
use landfall_core::value;
use landfall_engine::Engine;
use landfall_sqlite::SqliteStore;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Most changes stored in one transaction: a person saves one form or a few, not hundreds.
const BATCH: u64 = 8;
/// After how many recorded changes the device tries its luck with the network that is not there.
const TRY_EVERY: usize = 400;
/// How long one session lasts: short, so that sessions are ended in the middle of calls.
const ROUND: Duration = Duration::from_millis(1500);
/// How long the device waits for its next look at the queue.
const TICK: Duration = Duration::from_millis(25);

/// How a device is started.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DeviceArgs {
    #[arg(long)]
    pub(super) db: PathBuf,
    #[arg(long)]
    pub(super) endpoint: String,
    #[arg(long)]
    pub(super) device: usize,
    #[arg(long)]
    pub(super) devices: usize,
    #[arg(long)]
    pub(super) reports: usize,
    #[arg(long)]
    pub(super) tasks_per_request: usize,
    #[arg(long, value_enum)]
    pub(super) phase: Phase,
}

/// What the parent wants of all devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Phase {
    /// Record; there is no network.
    Offline,
    /// Upload, and go on amending.
    Upload,
    /// Finish what is left, tell the books, end.
    Finish,
}

impl Phase {
    /// The word for the command line and for standard input.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Upload => "upload",
            Self::Finish => "finish",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Offline, Self::Upload, Self::Finish].into_iter().find(|phase| phase.as_str() == word)
    }
}

/// What a device tells its parent, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// Where it stands: changes recorded, tasks in the queue.
    At { recorded: usize, left: u64 },
    /// Everything is recorded and the queue is empty.
    Drained,
    /// Its books, at the very end.
    Books(Audit),
}

/// Runs a device until the parent wants no more of it.
pub(super) fn run(args: &DeviceArgs) -> Result<Exit, Problem> {
    let wanted = Wanted::listen(args.phase)?;
    let scripts = script::scripts(args.reports, args.devices);
    let script = scripts
        .into_iter()
        .find(|script| script.device == args.device)
        .ok_or_else(|| Problem::new("there is no such device"))?;
    let adapter =
        SyncEndpoint::new(&args.endpoint).map_err(|error| Problem::new(format!("endpoint: {error}")))?;
    let engine = Engine::builder(SqliteStore::open(&args.db)?, adapter)
        .config(config(args.tasks_per_request))
        .build_blocking()?;
    let mut device = Device { recorded: recorded(&engine, &script)?, engine, script };
    device.tell()?;
    device.record_offline(&wanted)?;
    wanted.wait_for(Phase::Upload);
    let engine = device.engine.clone();
    thread::scope(|scope| {
        let over = wanted.clone();
        let uploading = scope.spawn(move || upload(&engine, &over));
        let done = device.amend_during_upload(&wanted);
        wanted.end();
        device.engine.stop_sync();
        let uploaded = uploading.join().map_err(|_| Problem::new("the uploading thread panicked"))?;
        done.and(uploaded)
    })?;
    say(&Message::Books(device.audit()?))?;
    device.engine.close();
    Ok(Exit::Done)
}

/// Patience that fits a demo: a minute of a network that is worse than any real one.
fn config(tasks_per_request: usize) -> Config {
    let mut config = Config::default();
    config.push.batch_tasks = tasks_per_request;
    config.push.call_timeout = Duration::from_secs(3);
    config.retry.base = Duration::from_millis(60);
    config.retry.cap = Duration::from_secs(1);
    // Rubbish comes far more often here than in a lifetime of a real app.
    config.retry.unreadable_max = 1000;
    config
}

/// What the parent wants, as it was last told.
#[derive(Debug, Clone)]
struct Wanted(Arc<(Mutex<(Phase, bool)>, Condvar)>);

impl Wanted {
    /// Reads standard input on a thread of its own. When it ends the parent is gone, and this process goes too.
    fn listen(phase: Phase) -> Result<Self, Problem> {
        let wanted = Self(Arc::new((Mutex::new((phase, false)), Condvar::new())));
        let heard = wanted.clone();
        let listen = move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                if let Some(phase) = Phase::parse(&line) {
                    heard.change(|state| state.0 = state.0.max(phase));
                }
            }
            std::process::exit(1);
        };
        thread::Builder::new()
            .name("demo stdin".into())
            .spawn(listen)
            .map_err(|error| Problem::new(format!("cannot start a thread: {error}")))?;
        Ok(wanted)
    }

    fn change(&self, change: impl FnOnce(&mut (Phase, bool))) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    fn phase(&self) -> Phase {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn wait_for(&self, phase: Phase) {
        let state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_while(state, |state| state.0 < phase));
    }

    /// Ends the uploading thread.
    fn end(&self) {
        self.change(|state| state.1 = true);
    }

    /// Waits a little; true when the uploading is over.
    fn is_over_after(&self, wait: Duration) -> bool {
        let state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(state, wait, |state| !state.1);
        waited.unwrap_or_else(PoisonError::into_inner).0.1
    }
}

struct Device {
    engine: Engine,
    script: Script,
    /// Steps that are stored.
    recorded: usize,
}

impl Device {
    /// Plays the steps that happen without a network.
    fn record_offline(&mut self, wanted: &Wanted) -> Result<(), Problem> {
        while self.recorded < self.script.offline {
            let size = 1 + script::scatter(self.recorded as u64) % BATCH;
            let size = usize::try_from(size).unwrap_or(1).min(self.script.offline - self.recorded);
            let before = self.recorded / TRY_EVERY;
            self.record(size)?;
            self.tell()?;
            if before != self.recorded / TRY_EVERY && wanted.phase() == Phase::Offline {
                // Nobody is there. It must cost nothing: no attempt, and no task loses its ability to coalesce.
                self.engine.sync_blocking()?;
            }
        }
        Ok(())
    }

    /// Plays the other steps while their reports are being uploaded, until the parent wants no more and all is sent.
    fn amend_during_upload(&mut self, wanted: &Wanted) -> Result<(), Problem> {
        let mut drained = false;
        loop {
            let finishing = wanted.phase() == Phase::Finish;
            let counts = self.engine.status()?.counts;
            let done = 1.0 - counts.total() as f64 / self.script.reports.max(1) as f64;
            let late = self.script.steps.get(self.recorded..).unwrap_or_default();
            let due = late.iter().take_while(|step| finishing || step.due <= done).count().min(3);
            if due > 0 {
                self.record(due)?;
            }
            self.tell()?;
            if due == 0 && self.recorded == self.script.steps.len() && counts == stuck(counts) {
                if finishing {
                    return Ok(());
                }
                if counts.total() == 0 && !drained {
                    drained = true;
                    say(&Message::Drained)?;
                }
            }
            thread::sleep(TICK);
        }
    }

    /// Stores the next `size` steps and the new state of the logbook in one transaction.
    fn record(&mut self, size: usize) -> Result<(), Problem> {
        let until = self.recorded + size;
        let steps = self.script.steps.get(self.recorded..until).unwrap_or_default();
        let mut changes = steps.iter().map(change).collect::<Result<Vec<_>, _>>()?;
        let logbook = Change::upsert(LOGBOOK, self.script.logbook());
        changes.push(logbook.fields(fields(&script::logbook_fields(until))?));
        self.engine.enqueue_many_blocking(changes)?;
        self.recorded = until;
        Ok(())
    }

    fn tell(&self) -> Result<(), Problem> {
        say(&Message::At { recorded: self.recorded, left: self.engine.status()?.counts.total() })
    }

    /// Reads the device's own books: what became of every task of every record.
    fn audit(&self) -> Result<Audit, Problem> {
        let ids: BTreeSet<String> = self.script.steps.iter().map(|step| step.id.clone()).collect();
        let logbook = self.script.logbook();
        let recorded = recorded(&self.engine, &self.script)? as u64;
        let audit = self.engine.read(move |store| {
            let client = store.replica()?.ok_or(StoreError::Closed)?.client_id;
            let mut audit = Audit {
                client: client.to_string(),
                recorded,
                left: store.counts()?.total(),
                ..Audit::default()
            };
            let mut tasks = 0;
            let keys = ids.into_iter().map(|id| EntityKey::new(STRIKE, id));
            for key in keys.chain([EntityKey::new(LOGBOOK, logbook)]) {
                let generations = store.entity(&key)?.map_or(0, |entity| entity.generation);
                for generation in 1..=generations {
                    let entry = store.journal(TaskId::derive(client, &key, generation))?;
                    let verdict = entry.map(|entry| entry.verdict);
                    match verdict {
                        Some(Verdict::Applied | Verdict::Duplicate) => audit.confirmed += 1,
                        Some(Verdict::Rebased | Verdict::ResolvedToRemote) => audit.conflicts += 1,
                        _ => {}
                    }
                    // A rebased task goes on as another one: one change, two tasks.
                    tasks += u64::from(key.entity_type == STRIKE && verdict != Some(Verdict::Rebased));
                }
            }
            audit.coalesced = audit.recorded.saturating_sub(tasks);
            for task in store.tasks_in_state(StateKind::Dead, 0, 1000)?.tasks {
                let failure = task.last_failure;
                let code = failure.and_then(|note| note.code.or(Some(note.kind.as_str().to_owned())));
                *audit.refusals.entry(code.unwrap_or_default()).or_default() += 1;
            }
            Ok(audit)
        })?;
        Ok(audit)
    }
}

/// Session after session, as an app does that syncs whenever it can.
fn upload(engine: &Engine, wanted: &Wanted) -> Result<(), Problem> {
    let mut pause = Duration::ZERO;
    while !wanted.is_over_after(pause) {
        let report = engine.sync_until_blocking(SessionEnd::Drained { within: ROUND })?;
        // Nothing to do, or nothing that can be done: look again soon, without spinning.
        pause = if report.requests == 0 { TICK } else { Duration::ZERO };
    }
    Ok(())
}

/// The part of the queue that only a person can move.
fn stuck(counts: Counts) -> Counts {
    Counts { dead: counts.dead, conflict: counts.conflict, ..Counts::default() }
}

/// How far this device got, by its logbook.
fn recorded(engine: &Engine, script: &Script) -> Result<usize, Problem> {
    let entity = engine.get(&EntityKey::new(LOGBOOK, script.logbook()))?;
    let local = entity.and_then(|entity| entity.local);
    match local.as_ref().and_then(Body::fields).and_then(|fields| fields.value("recorded")) {
        Some(value::Value::Number(value::Number::Integer(count))) => {
            usize::try_from(*count).map_err(|_| Problem::new("the logbook holds a number that is none"))
        }
        _ => Ok(0),
    }
}

fn change(step: &Step) -> Result<Change, Problem> {
    Ok(match &step.deed {
        Deed::Create(set) => Change::create(STRIKE, &step.id).fields(fields(set)?),
        Deed::Amend { set, unset } => {
            let change = Change::update(STRIKE, &step.id).fields(fields(set)?);
            unset.iter().fold(change, |change, name| change.unset(name))
        }
        Deed::Delete => Change::delete(STRIKE, &step.id),
    })
}

fn fields(plain: &Fields) -> Result<value::Fields, Problem> {
    value::Fields::parse(&crate::output::json(plain)?).map_err(|error| Problem::new(error.to_string()))
}

fn say(message: &Message) -> Result<(), Problem> {
    let line = crate::output::json(message)?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Problem::new(format!("the parent does not listen: {error}")))
}
