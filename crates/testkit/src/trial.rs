//! Your own backend on trial: your adapter, your merge rules and your upcasters under the real machine, in lives that go wrong.
//!
//! Two devices and more make changes, lose the network, send into the void, are killed, and sync again; calls to your
//! adapter are lost before they arrive, answered to nobody, made twice, and come late. Then everything heals, and all
//! must be well: one effect each, nothing that a user wrote is nowhere, no field changed that nobody touched, and everybody
//! shows what the backend has. One seed decides everything, so that a failure can be seen again.
//!
//! What you give is a [`Backend`]: an [`Adapter`] as the engine takes it, and two questions about what is behind it.
//! `examples/own_backend.rs` is the whole of it in forty lines; `docs/testing.md` says more. It knows nothing of your
//! backend but these answers. Tests: `tests/trial.rs`.

use crate::campaign::Figures;
use crate::rng::Rng;
use landfall_core::adapter::{Adapter, BoxFuture, PullPage, PullRequest, PushBatch, PushReply, PushTask};
use landfall_core::change::{Change, Intent, Operation};
use landfall_core::config::Config;
use landfall_core::conflict::Resolution;
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{CallId, EntityKey, Entropy, TaskId};
use landfall_core::machine::{Effect, Machine, SessionEnd, Step};
use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{ConflictQuery, Store, StoreError, StoreRead, StoreTx};
use landfall_core::task::Verdict;
use landfall_core::time::{Mono, Now, Timestamp};
use landfall_core::value::{Fields, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

/// Where the true clock starts: some day in 2023.
const START_MS: i64 = 1_700_000_000_000;
/// How long faults go on.
const CHAOS_MS: u64 = 120_000;
/// Rounds of syncing within which everything must have come to rest after healing.
const ROUNDS: u32 = 24;
/// Events after which one round of healing is taken to go on for ever.
const EVENTS_MAX: u32 = 20_000;
/// Lines of trace kept for a violation.
const TRACE: usize = 40;

/// Your backend: the adapter to it, and what it has, looked at from outside of the engine.
pub trait Backend: Adapter {
    /// How often this task had an effect. The adapter sees its id in [`PushTask::task_id`].
    fn effects(&self, task: TaskId) -> u64;
    /// What it has of a record now.
    fn holds(&self, record: &EntityKey) -> Body;
}

/// What the user of a device sees before a change.
#[derive(Debug)]
pub struct Shown<'a> {
    /// The record that is about to be changed.
    pub record: &'a EntityKey,
    /// What the app shows of it; `None` where there is nothing, or nothing any more.
    pub fields: Option<&'a Fields>,
    /// A number that no other change has, for values that are written once.
    pub fresh: u64,
    /// Whether the app is the newer one already ([`Trial::before`]).
    pub upgraded: bool,
}

/// What a life is made of.
pub struct Trial<'a> {
    /// The settings of the engine: rules and strategies in `conflicts`, types and upcasters in `model`.
    pub config: Config,
    /// The settings of the app before its upgrade, which comes somewhere in the middle of each life. Default: none.
    pub before: Option<Config>,
    /// Devices. Default: 2.
    pub devices: usize,
    /// Changes that users make, in all. Default: 30.
    pub changes: u32,
    /// The records that they change.
    pub records: Vec<EntityKey>,
    /// The change a user makes.
    pub change: &'a (dyn Fn(&Shown<'_>) -> Change + Sync),
}

/// A promise that was broken.
struct Violation {
    /// Which promise, and by what.
    what: String,
    /// The last things that happened before.
    trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

impl fmt::Debug for Trial<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trial")
            .field("devices", &self.devices)
            .field("changes", &self.changes)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

impl<'a> Trial<'a> {
    /// Two devices that change three records of one type.
    pub fn of(entity_type: &str, change: &'a (dyn Fn(&Shown<'_>) -> Change + Sync)) -> Self {
        let records = (1..=3).map(|number| EntityKey::new(entity_type, format!("r{number}"))).collect();
        Self { config: Config::default(), before: None, devices: 2, changes: 30, records, change }
    }

    /// Lives one life with a new backend. Fits [`Campaign::run`](crate::campaign::Campaign::run).
    ///
    /// # Errors
    /// The first promise that was broken, in words, and the last things that happened before.
    pub fn live(&self, seed: u64, backend: impl Backend) -> Result<Figures, String> {
        World::new(self, seed, &backend).live().map_err(|violation| violation.to_string())
    }
}

struct Device {
    store: MemoryStore,
    machine: Option<Machine>,
    life: u64,
    clock_error_ms: i64,
    upgraded: bool,
    acknowledged: BTreeSet<TaskId>,
    /// The last value that this user gave each field of each record.
    last: BTreeMap<(EntityKey, String), Value>,
}

enum Happening {
    Change {
        device: usize,
    },
    Sync {
        device: usize,
    },
    Wake {
        device: usize,
    },
    Kill {
        device: usize,
    },
    Upgrade {
        device: usize,
    },
    Jump {
        device: usize,
    },
    /// A copy of a request arrives late; nobody hears the answer.
    Copy(Call),
    Pushed {
        device: usize,
        life: u64,
        call: CallId,
        answer: Result<PushReply, Failure>,
    },
    Pulled {
        device: usize,
        life: u64,
        call: CallId,
        answer: Result<PullPage, Failure>,
    },
    Fetched {
        device: usize,
        life: u64,
        call: CallId,
        answer: Result<Option<RemoteEntity>, Failure>,
    },
    Probed {
        device: usize,
        life: u64,
        call: CallId,
        answer: Result<(), Failure>,
    },
}

#[derive(Clone)]
struct Call {
    context: landfall_core::adapter::CallContext,
    batch: PushBatch,
}

/// What the network does with a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Fine,
    NotSent,
    Lost,
    AnswerLost,
    Twice,
    Cut,
}

struct World<'a, B> {
    trial: &'a Trial<'a>,
    backend: &'a B,
    rng: Rng,
    now_ms: u64,
    order: u64,
    calendar: BTreeMap<(u64, u64), Happening>,
    devices: Vec<Device>,
    healed: bool,
    fresh: u64,
    /// Every value that the backend ever held, by record.
    history: BTreeSet<(EntityKey, String)>,
    sent: BTreeMap<String, Arc<str>>,
    figures: Figures,
    trace: VecDeque<String>,
}

impl<'a, B: Backend> World<'a, B> {
    fn new(trial: &'a Trial<'a>, seed: u64, backend: &'a B) -> Self {
        let mut world = Self {
            trial,
            backend,
            rng: Rng::new(seed, 7, 0),
            now_ms: 0,
            order: 0,
            calendar: BTreeMap::new(),
            devices: Vec::new(),
            healed: false,
            fresh: 0,
            history: BTreeSet::new(),
            sent: BTreeMap::new(),
            figures: Figures::new(),
            trace: VecDeque::new(),
        };
        for device in 0..trial.devices {
            world.devices.push(Device {
                store: MemoryStore::default(),
                machine: None,
                life: 0,
                clock_error_ms: 0,
                upgraded: trial.before.is_none(),
                acknowledged: BTreeSet::new(),
                last: BTreeMap::new(),
            });
            let chaos = |world: &mut Self| world.rng.below(CHAOS_MS);
            for _ in 0..4 {
                let at = chaos(&mut world);
                world.later(at, Happening::Sync { device });
            }
            let at = chaos(&mut world);
            world.later(at, Happening::Kill { device });
            let at = chaos(&mut world);
            world.later(at, Happening::Jump { device });
            if trial.before.is_some() {
                let at = chaos(&mut world);
                world.later(at, Happening::Upgrade { device });
            }
        }
        for _ in 0..trial.changes {
            let (device, at) = (world.rng.index(trial.devices), world.rng.below(CHAOS_MS));
            world.later(at, Happening::Change { device });
        }
        world
    }

    fn live(mut self) -> Result<Figures, Violation> {
        self.run_until(CHAOS_MS)?;
        self.say("healed".into());
        self.healed = true;
        for device in 0..self.devices.len() {
            self.devices[device].clock_error_ms = 0;
            self.upgrade(device);
        }
        for round in 0.. {
            let quiet = self.nothing_is_queued();
            for device in 0..self.devices.len() {
                self.decide(device)?;
                self.sync(device)?;
            }
            let end = self.now_ms + 4 * 3600 * 1000;
            self.run_until(end)?;
            if quiet && self.nothing_is_queued() {
                break;
            }
            if round == ROUNDS {
                return self.broken("G11: it never comes to rest".into());
            }
        }
        self.judge()?;
        Ok(self.figures)
    }

    fn run_until(&mut self, end: u64) -> Result<(), Violation> {
        let mut events = 0;
        while let Some(entry) = self.calendar.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), happening) = entry.remove_entry();
            self.now_ms = at;
            self.happen(happening)?;
            events += 1;
            if events > EVENTS_MAX {
                return self.broken("it goes on without end".into());
            }
        }
        self.now_ms = end;
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Change { device } => self.change(device),
            Happening::Sync { device } => self.sync(device),
            Happening::Wake { device } => self.step(device, |step, _| {
                step.wake();
                Ok(())
            }),
            Happening::Kill { device } => {
                self.say(format!("device {device} is killed"));
                self.count("deaths");
                self.devices[device].machine = None;
                let wait = self.rng.below(20_000);
                self.later(wait, Happening::Sync { device });
                Ok(())
            }
            Happening::Upgrade { device } => {
                self.upgrade(device);
                Ok(())
            }
            Happening::Jump { device } => {
                let year = 365 * 24 * 3600 * 1000;
                self.devices[device].clock_error_ms = [-year, year][self.rng.index(2)];
                Ok(())
            }
            Happening::Copy(call) => {
                self.say("a copy arrives late".into());
                drop(self.push(&call)?);
                Ok(())
            }
            Happening::Pushed { device, life, call, answer } if self.devices[device].life == life => {
                self.step(device, |step, tx| step.pushed(tx, call, &answer))
            }
            Happening::Pulled { device, life, call, answer } if self.devices[device].life == life => {
                self.step(device, |step, tx| step.pulled(tx, call, &answer))
            }
            Happening::Fetched { device, life, call, answer } if self.devices[device].life == life => {
                self.step(device, |step, tx| step.fetched(tx, call, &answer))
            }
            Happening::Probed { device, life, call, answer } if self.devices[device].life == life => {
                self.step(device, |step, tx| step.probed(tx, call, &answer))
            }
            // Answers to a program that was killed find nobody.
            _ => Ok(()),
        }
    }

    fn upgrade(&mut self, device: usize) {
        if !self.devices[device].upgraded {
            self.say(format!("device {device} is upgraded"));
            let state = &mut self.devices[device];
            state.upgraded = true;
            state.machine = None;
            state.last = upcast(self.trial, std::mem::take(&mut state.last));
        }
    }

    /// One step of a device's machine, which is started if it does not run.
    fn step(
        &mut self,
        device: usize,
        work: impl FnOnce(&mut Step, &mut dyn StoreTx) -> Result<(), StoreError>,
    ) -> Result<(), Violation> {
        self.open(device);
        let state = &mut self.devices[device];
        let Some(machine) = &mut state.machine else { return Ok(()) };
        let wall =
            Timestamp(START_MS + i64::try_from(self.now_ms).unwrap_or(i64::MAX) + state.clock_error_ms);
        let mut step = machine.step(Now { wall, mono: Mono(self.now_ms) }, Entropy(self.rng.bytes()));
        let dies = !self.healed && self.rng.percent(2);
        let outcome = (|| {
            let mut tx = state.store.begin()?;
            work(&mut step, &mut *tx)?;
            step.start_if_due(&*tx)?;
            if step.needs_lease() {
                step.lead(&mut *tx, "trial", &|_| true)?;
            }
            step.finish(&mut *tx)?;
            if dies { Ok(()) } else { tx.commit() }
        })();
        if let Err(error) = outcome {
            return self.broken(format!("the memory store failed: {error}"));
        }
        if dies {
            state.machine = None;
            self.say(format!("device {device} dies before its commit"));
            return Ok(());
        }
        for effect in machine.apply(step) {
            self.carry_out(device, effect)?;
        }
        let due = self.devices[device].machine.as_ref().and_then(Machine::next_wakeup);
        if let Some(due) = due {
            let wait = due.0.saturating_sub(self.now_ms);
            self.later(wait.max(1), Happening::Wake { device });
        }
        Ok(())
    }

    fn open(&mut self, device: usize) {
        let entropy = Entropy(self.rng.bytes());
        let state = &mut self.devices[device];
        if state.machine.is_some() {
            return;
        }
        let config = match &self.trial.before {
            Some(before) if !state.upgraded => before.clone(),
            _ => self.trial.config.clone(),
        };
        state.life += 1;
        let opened = state.store.begin().and_then(|mut tx| {
            let machine = Machine::open(config, self.backend.capabilities(), &entropy, &mut *tx)?;
            tx.commit()?;
            Ok(machine)
        });
        state.machine = opened.ok();
    }

    fn carry_out(&mut self, device: usize, effect: Effect) -> Result<(), Violation> {
        let life = self.devices[device].life;
        let fate = self.fate();
        let wait = 1 + self.rng.below(if self.healed { 50 } else { 3_000 });
        match effect {
            Effect::Push { context, batch } => {
                self.count("requests");
                self.say(format!("device {device} sends {} tasks: {fate:?}", batch.tasks.len()));
                let call = Call { context, batch };
                self.keys_have_one_payload(&call.batch)?;
                let number = call.batch.call;
                let answer = self.through(fate, |world| world.push(&call))?;
                if fate == Fate::Twice {
                    let late = self.rng.below(30_000);
                    self.later(late, Happening::Copy(call));
                }
                let answer = match answer {
                    Ok(mut reply) if fate == Fate::Cut => {
                        reply.results.truncate(self.rng.index(reply.results.len()));
                        Ok(reply)
                    }
                    answer => answer,
                };
                self.later(wait, Happening::Pushed { device, life, call: number, answer });
            }
            Effect::Pull { context, call, request } => {
                let answer = self.through(fate, |world| Ok(world.pull(&context, &request)))?;
                self.later(wait, Happening::Pulled { device, life, call, answer });
            }
            Effect::Fetch { context, call, entity } => {
                let answer =
                    self.through(fate, |world| Ok(wait_for(world.backend.fetch(&context, &entity))))?;
                self.later(wait, Happening::Fetched { device, life, call, answer });
            }
            Effect::Probe { context, call, probe } => {
                let answer =
                    self.through(fate, |world| Ok(wait_for(world.backend.probe(&context, &probe))))?;
                self.later(wait, Happening::Probed { device, life, call, answer });
            }
            Effect::RefreshCredentials => {
                let fresh = wait_for(self.backend.refresh_credentials());
                self.step(device, |step, _| {
                    step.credentials_refreshed(fresh);
                    Ok(())
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    fn fate(&mut self) -> Fate {
        if self.healed || self.rng.percent(50) {
            return Fate::Fine;
        }
        [Fate::NotSent, Fate::Lost, Fate::AnswerLost, Fate::Twice, Fate::Cut][self.rng.index(5)]
    }

    /// A call as the network lets it through.
    fn through<T>(
        &mut self,
        fate: Fate,
        call: impl FnOnce(&mut Self) -> Result<Result<T, Failure>, Violation>,
    ) -> Result<Result<T, Failure>, Violation> {
        let lost = |delivery| Failure::new(FailureKind::Transient, delivery, "the network is on trial too");
        match fate {
            Fate::NotSent => Ok(Err(lost(Delivery::NotSent))),
            Fate::Lost => Ok(Err(lost(Delivery::Unknown))),
            Fate::AnswerLost => {
                drop(call(self)?);
                Ok(Err(lost(Delivery::Unknown)))
            }
            Fate::Fine | Fate::Twice | Fate::Cut => call(self),
        }
    }

    /// The request arrives: what it does is looked at, field by field.
    fn push(&mut self, call: &Call) -> Result<Result<PushReply, Failure>, Violation> {
        let before = self.held();
        let answer = wait_for(self.backend.push(&call.context, &call.batch));
        let after = self.held();
        for task in &call.batch.tasks {
            let effects = self.backend.effects(task.task_id);
            if effects > 1 {
                return self
                    .broken(format!("G3: {} ({}) took effect {effects} times", task.task_id, task.entity));
            }
        }
        for record in &self.trial.records {
            let (Some(Body::Live(old)), Some(Body::Live(new))) = (before.get(record), after.get(record))
            else {
                continue;
            };
            let tasks: Vec<&PushTask> =
                call.batch.tasks.iter().filter(|task| task.entity == *record).collect();
            let whole = |task: &&PushTask| {
                matches!(task.operation, Operation::Create | Operation::Replace | Operation::Delete)
            };
            if tasks.iter().any(whole) {
                continue;
            }
            let names: BTreeSet<&String> = old.0.keys().chain(new.0.keys()).collect();
            for name in names {
                let told = tasks.iter().any(|task| task.payload.contains(&format!("\"{name}\"")));
                if old.value(name) != new.value(name) && !told {
                    return self
                        .broken(format!("G6: {name} of {record} changed, and no change of it was sent"));
                }
            }
        }
        for (record, body) in after {
            for value in body.fields().into_iter().flat_map(|fields| fields.0.values()) {
                self.history.insert((record.clone(), format!("{value:?}")));
            }
        }
        Ok(answer)
    }

    fn held(&self) -> BTreeMap<EntityKey, Body> {
        self.trial.records.iter().map(|record| (record.clone(), self.backend.holds(record))).collect()
    }

    fn pull(
        &self,
        context: &landfall_core::adapter::CallContext,
        request: &PullRequest,
    ) -> Result<PullPage, Failure> {
        wait_for(self.backend.pull(context, request))
    }

    fn keys_have_one_payload(&mut self, batch: &PushBatch) -> Result<(), Violation> {
        for task in &batch.tasks {
            let known = self.sent.entry(task.key.to_string()).or_insert_with(|| Arc::clone(&task.payload));
            if *known != task.payload {
                return self.broken(format!("G8: {} is sent with two payloads", task.key));
            }
        }
        Ok(())
    }

    fn sync(&mut self, device: usize) -> Result<(), Violation> {
        self.step(device, |step, _| {
            step.connectivity_regained();
            step.start_session(SessionEnd::Drained { within: Duration::from_secs(3600) });
            Ok(())
        })
    }

    fn change(&mut self, device: usize) -> Result<(), Violation> {
        self.open(device);
        let record = self.trial.records[self.rng.index(self.trial.records.len())].clone();
        self.fresh += 1;
        let (fresh, upgraded) = (self.fresh, self.devices[device].upgraded);
        let shown = self.devices[device].store.begin().ok().and_then(|tx| tx.entity(&record).ok().flatten());
        let shown = shown.and_then(|entity| entity.local);
        let fields = shown.as_ref().and_then(Body::fields);
        let change = (self.trial.change)(&Shown { record: &record, fields, fresh, upgraded });
        let mut receipt = None;
        let mut refused = None;
        let wanted = change.clone();
        self.step(device, |step, tx| {
            match step.enqueue(tx, change) {
                Ok(done) => receipt = Some(done),
                Err(landfall_core::machine::EnqueueError::Store(error)) => return Err(error),
                Err(error) => refused = Some(error.to_string()),
            }
            Ok(())
        })?;
        if let Some(why) = refused {
            return self
                .broken(format!("the change was refused: {why}: {wanted:?} where {fields:?} is shown"));
        }
        let state = &mut self.devices[device];
        // A process that died in its commit has stored nothing here, and told nobody anything.
        if let (Some(receipt), true) = (receipt, state.machine.is_some()) {
            state.acknowledged.extend(receipt.task);
            let whole =
                matches!(wanted.intent.operation, Operation::Create | Operation::Replace | Operation::Delete);
            state
                .last
                .retain(|(of, name), _| *of != record || !(whole || wanted.intent.unset.contains(name)));
            for (name, value) in &wanted.intent.fields.0 {
                state.last.insert((record.clone(), name.clone()), value.clone());
            }
            self.count("changes");
        }
        Ok(())
    }

    /// The person settles what waits for a decision.
    fn decide(&mut self, device: usize) -> Result<(), Violation> {
        let which = ConflictQuery { open_only: true, ..ConflictQuery::default() };
        let open = self.devices[device].store.begin().ok().and_then(|tx| tx.conflicts(&which, 100).ok());
        for conflict in open.into_iter().flat_map(|page| page.conflicts) {
            self.count("decided");
            self.step(device, |step, tx| match step.resolve(tx, conflict.id, &Resolution::KeepLocal) {
                Err(landfall_core::conflict::ResolveError::Store(error)) => Err(error),
                _ => Ok(()),
            })?;
        }
        Ok(())
    }

    fn nothing_is_queued(&mut self) -> bool {
        self.devices.iter_mut().all(|device| {
            device.store.begin().and_then(|tx| tx.counts()).is_ok_and(|counts| counts.total() == 0)
        })
    }

    /// After healing: every change ended truly, nothing was lost, and everybody agrees.
    fn judge(&mut self) -> Result<(), Violation> {
        for number in 0..self.devices.len() {
            let state = &mut self.devices[number];
            let Ok(tx) = state.store.begin() else { continue };
            let what = ended_truly(&state.acknowledged, &*tx, self.backend)
                .or_else(|| nothing_vanished(number, &state.last, &self.history, &*tx))
                .or_else(|| shows_the_truth(number, &self.trial.records, &*tx, self.backend));
            drop(tx);
            if let Some(what) = what {
                return self.broken(what);
            }
        }
        Ok(())
    }

    fn later(&mut self, wait_ms: u64, happening: Happening) {
        self.order += 1;
        self.calendar.insert((self.now_ms + wait_ms, self.order), happening);
    }

    fn count(&mut self, what: &'static str) {
        *self.figures.entry(what).or_default() += 1;
    }

    fn say(&mut self, line: String) {
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>9} ms  {line}", self.now_ms));
    }

    fn broken<T>(&self, what: String) -> Result<T, Violation> {
        Err(Violation { what, trace: self.trace.iter().cloned().collect() })
    }
}

/// What a user wrote, by the names that the newer app has for it.
fn upcast(
    trial: &Trial<'_>,
    last: BTreeMap<(EntityKey, String), Value>,
) -> BTreeMap<(EntityKey, String), Value> {
    let Some(before) = &trial.before else { return last };
    let mut renamed = BTreeMap::new();
    for ((record, name), value) in last {
        let mut intent = Intent::new(Operation::Update);
        intent.fields.set(name, value);
        let mut schema = before.model.schema(&record.entity_type);
        // A payload that cannot be upcast is quarantined, and told of elsewhere.
        if trial.config.model.upcast(&record.entity_type, &mut schema, &mut intent).is_ok() {
            renamed.extend(intent.fields.0.into_iter().map(|(name, value)| ((record.clone(), name), value)));
        }
    }
    renamed
}

fn ended_truly(
    acknowledged: &BTreeSet<TaskId>,
    store: &dyn StoreRead,
    backend: &impl Backend,
) -> Option<String> {
    for task in acknowledged {
        let Ok(Some(entry)) = store.journal(*task) else {
            return Some(format!("G2: {task} vanished without a word in the journal"));
        };
        let applied = matches!(entry.verdict, Verdict::Applied | Verdict::Duplicate);
        let effects = backend.effects(*task);
        if applied != (effects == 1) {
            return Some(format!("G2, G3: {task} ended as {:?} with {effects} effects", entry.verdict));
        }
    }
    None
}

/// What a user wrote last was the backend's at some time, or is in a conflict record (G7).
fn nothing_vanished(
    device: usize,
    last: &BTreeMap<(EntityKey, String), Value>,
    history: &BTreeSet<(EntityKey, String)>,
    store: &dyn StoreRead,
) -> Option<String> {
    for ((record, name), value) in last {
        let text = format!("{value:?}");
        if history.contains(&(record.clone(), text.clone())) {
            continue;
        }
        let which = ConflictQuery { entity: Some(record.clone()), ..ConflictQuery::default() };
        let kept = store.conflicts(&which, usize::MAX).is_ok_and(|page| {
            page.conflicts.iter().any(|conflict| {
                let local = conflict.local.fields();
                local.is_some_and(|fields| fields.0.values().any(|kept| kept == value))
                    || conflict.change.contains(&text)
            })
        });
        if !kept {
            return Some(format!(
                "G7: device {device} wrote {name} = {value:?} into {record}, and it is nowhere"
            ));
        }
    }
    None
}

fn shows_the_truth(
    device: usize,
    records: &[EntityKey],
    store: &dyn StoreRead,
    backend: &impl Backend,
) -> Option<String> {
    for record in records {
        let shown = store.entity(record).ok().flatten().and_then(|entity| entity.local);
        let held = backend.holds(record);
        if shown.as_ref() != Some(&held) && !(shown.is_none() && held == Body::Deleted) {
            return Some(format!("device {device} shows {shown:?} of {record}, the backend has {held:?}"));
        }
    }
    None
}

/// Drives one future to its end on this thread.
fn wait_for<T>(mut future: BoxFuture<'_, T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future.as_mut());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
