//! A device: a process of its own that plays its script through the engine, on its own queue file.
//!
//! It is killed with SIGKILL at any moment and started again, and keeps no file beside the queue. How it knows what
//! it had recorded: every batch of changes also sets `recorded` of its logbook, an ordinary record of the same
//! engine. `enqueue_many` stores a batch in one transaction, so the logbook and the changes it counts are both there
//! or both not; a batch that was cut off is made again, a batch that was stored is not. This is what an app would do.
//!
//! `device/phase.rs` is its talk with the parent, `device/books.rs` what it says in the end. Tests: `tests/demo.rs`,
//! with real processes.

mod books;
mod phase;

pub(super) use phase::{Message, Phase};

use super::rules::{self, COUNTER, SET};
use super::script::{self, Act, Deed, Fields, LOGBOOK, STRIKE, Script, Step};
use crate::exit::Exit;
use crate::problem::Problem;
use landfall_adapters::SyncEndpoint;
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::entity::Body;
use landfall_core::id::EntityKey;
use landfall_core::machine::SessionEnd;
use landfall_core::store::Counts;
use landfall_core::value;
use landfall_engine::Engine;
use landfall_sqlite::SqliteStore;
use phase::{Wanted, say};
use serde_json::{Value, json};
use std::path::PathBuf;
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
        .config(config(args.tasks_per_request)?)
        .build_blocking()?;
    let mut device = Device { recorded: recorded(&engine, &script)?, engine, script };
    device.tell()?;
    for (act, last) in [(0, Phase::Meet), (1, Phase::Finish)] {
        device.record_offline(act, &wanted)?;
        let network = if act == 0 { Phase::Upload } else { Phase::Exchange };
        wanted.wait_for(network);
        // After a kill in the second act the first one is over.
        if wanted.phase() <= last {
            device.play_with_network(act, &wanted)?;
        }
        wanted.wait_for(if act == 0 { Phase::Amend } else { Phase::Finish });
    }
    say(&Message::Books(books::read(&device.engine, &device.script, device.recorded)?))?;
    device.engine.close();
    Ok(Exit::Done)
}

/// Patience that fits a demo: a minute of a network that is worse than any real one.
fn config(tasks_per_request: usize) -> Result<Config, Problem> {
    let mut config = Config::default();
    config.push.batch_tasks = tasks_per_request;
    config.push.call_timeout = Duration::from_secs(3);
    config.pull.call_timeout = Duration::from_secs(3);
    config.retry.base = Duration::from_millis(60);
    config.retry.cap = Duration::from_secs(1);
    // Rubbish comes far more often here than in a lifetime of a real app.
    config.retry.unreadable_max = 1000;
    config.conflicts.rules = rules::rules()?;
    Ok(config)
}

struct Device {
    engine: Engine,
    script: Script,
    /// Steps that are stored, of both acts.
    recorded: usize,
}

impl Device {
    /// The act, and how many steps come before it.
    fn act(&self, act: usize) -> (&Act, usize) {
        let [first, second] = &self.script.acts;
        if act == 0 { (first, 0) } else { (second, first.len()) }
    }

    /// Plays the steps of an act that happen without a network.
    fn record_offline(&mut self, act: usize, wanted: &Wanted) -> Result<(), Problem> {
        let (steps, before) = self.act(act);
        let until = before + steps.offline.len();
        while self.recorded < until {
            let size = 1 + script::scatter(self.recorded as u64) % BATCH;
            let size = usize::try_from(size).unwrap_or(1).min(until - self.recorded);
            let earlier = self.recorded / TRY_EVERY;
            self.record(size)?;
            self.tell()?;
            if earlier != self.recorded / TRY_EVERY && wanted.phase().is_offline() {
                // Nobody is there. It must cost nothing: no attempt, and no task loses its ability to coalesce.
                self.engine.sync_blocking()?;
            }
        }
        Ok(())
    }

    /// Syncs, and plays the other steps of the act meanwhile, until all is sent and all is read.
    fn play_with_network(&mut self, act: usize, wanted: &Wanted) -> Result<(), Problem> {
        let engine = self.engine.clone();
        wanted.begin();
        thread::scope(|scope| {
            let syncing = wanted.clone();
            let syncing = scope.spawn(move || sync(&engine, &syncing));
            let done = self.amend_meanwhile(act, wanted);
            wanted.end();
            self.engine.stop_sync();
            let synced = syncing.join().map_err(|_| Problem::new("the thread that syncs panicked"))?;
            done.and(synced)
        })
    }

    fn amend_meanwhile(&mut self, act: usize, wanted: &Wanted) -> Result<(), Problem> {
        let (steps, before) = self.act(act);
        let (until, late_from) = (before + steps.len(), before + steps.offline.len());
        let work = if act == 0 { self.script.reports } else { steps.len() };
        let mut drained = None;
        loop {
            let phase = wanted.phase();
            let counts = self.engine.status()?.counts;
            let done = 1.0 - counts.total() as f64 / work.max(1) as f64;
            let late =
                self.act(act).0.late.get(self.recorded.saturating_sub(late_from)..).unwrap_or_default();
            let finishing = !phase.is_rough();
            let due = late.iter().take_while(|step| finishing || step.due <= done).count().min(3);
            if due > 0 {
                // What is counted is read first: no page of the backend's may come in between.
                let reads = late.iter().take(due).any(|step| matches!(step.deed, Deed::Contribute { .. }));
                if reads {
                    wanted.calm(|| self.engine.stop_sync());
                }
                let stored = self.record(due);
                wanted.end_calm();
                stored?;
            }
            self.tell()?;
            let over = due == 0 && self.recorded == until && counts == stuck(counts);
            if over && (finishing || counts.total() == 0) && drained != Some(phase) {
                drained = Some(phase);
                say(&Message::Drained)?;
            }
            if over && phase.is_last_of_act() && wanted.has_read() {
                return say(&Message::HasRead);
            }
            thread::sleep(TICK);
        }
    }

    /// Stores the next `size` steps and the new state of the logbook in one transaction.
    fn record(&mut self, size: usize) -> Result<(), Problem> {
        let until = self.recorded + size;
        let steps = self.script.steps().skip(self.recorded).take(size);
        let mut changes = steps.map(|step| self.change(step)).collect::<Result<Vec<_>, _>>()?;
        let logbook = Change::upsert(LOGBOOK, self.script.logbook());
        changes.push(logbook.fields(fields(&script::logbook_fields(until))?));
        self.engine.enqueue_many_blocking(changes)?;
        self.recorded = until;
        Ok(())
    }

    fn change(&self, step: &Step) -> Result<Change, Problem> {
        Ok(match &step.deed {
            Deed::Create(set) => Change::create(STRIKE, &step.id).fields(fields(set)?),
            Deed::Amend { set, unset } => {
                let change = Change::update(STRIKE, &step.id).fields(fields(set)?);
                unset.iter().fold(change, |change, name| change.unset(name))
            }
            Deed::Delete => Change::delete(STRIKE, &step.id),
            Deed::Contribute { set, reviews, tags } => {
                let mut set = set.clone();
                let seen = self.seen(&step.id)?;
                if *reviews != 0 {
                    let count = seen.get(COUNTER).and_then(Value::as_i64).unwrap_or(0);
                    set.insert(COUNTER.to_owned(), json!(count + reviews));
                }
                if !tags.is_empty() {
                    let mut all = seen.get(SET).and_then(Value::as_array).cloned().unwrap_or_default();
                    all.extend(tags.iter().map(|tag| json!(tag)));
                    set.insert(SET.to_owned(), Value::Array(all));
                }
                Change::update(STRIKE, &step.id).fields(fields(&set)?)
            }
        })
    }

    /// A report as the app sees it.
    fn seen(&self, id: &str) -> Result<Fields, Problem> {
        let entity = self.engine.get(&EntityKey::new(STRIKE, id))?;
        let Some(Body::Live(fields)) = entity.and_then(|entity| entity.local) else {
            return Err(Problem::new(format!("{id} is to be amended, and this device does not see it")));
        };
        serde_json::from_str(&fields.to_json()).map_err(|error| Problem::new(format!("{id}: {error}")))
    }

    fn tell(&self) -> Result<(), Problem> {
        say(&Message::At { recorded: self.recorded, left: self.engine.status()?.counts.total() })
    }
}

/// Session after session, as an app does that syncs whenever it can.
fn sync(engine: &Engine, wanted: &Wanted) -> Result<(), Problem> {
    let mut pause = Duration::ZERO;
    while wanted.may_sync_after(pause) {
        let report = engine.sync_until_blocking(SessionEnd::Drained { within: ROUND });
        let report = report.inspect_err(|_| wanted.has_synced(false))?;
        wanted.has_synced(report.left == stuck(report.left) && report.pull_waiting_for.is_none());
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

fn fields(plain: &Fields) -> Result<value::Fields, Problem> {
    value::Fields::parse(&crate::output::json(plain)?).map_err(|error| Problem::new(error.to_string()))
}
