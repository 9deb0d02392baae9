//! The world: a calendar of events, devices, a network, a server, and the checks after every step.

use super::checks::{Checks, counts_add_up};
use super::device::{Belief, Device, Doubt, Process, Tentative};
use super::faulty_store::{FaultyTx, Wrong};
use super::habits::{Habits, LOOK_MS, News, READING_MS, RECOVERY_MS, Tries};
use super::home::{Backend, Blow, Home};
use super::network::{Fate, Forgotten, answer_push, serve_page, serve_record, serve_without_keys};
use super::policy::{Policy, decide, written_by};
use super::{Plant, Scenario, Stats, Violation};
use crate::campaign::{self, Figures, add};
use crate::rng::Rng;
use landfall_adapters::http::HttpResponse;
use landfall_adapters::sync_endpoint::{decode_fetch, decode_pull, decode_push, encode_push};
use landfall_core::adapter::{
    Applied, Capabilities, EffectClass, Outcome, PullRequest, PushBatch, PushReply, PushTask,
};
use landfall_core::change::{Change, Operation};
use landfall_core::config::Config;
use landfall_core::conflict::{Resolution, ResolveError};
use landfall_core::device::DeviceState;
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::event::Event;
use landfall_core::failure::{Failure, FailureKind};
use landfall_core::id::{CallId, EntityKey, Entropy, IdempotencyKey, Version};
use landfall_core::machine::{Directions, Effect, EnqueueError, Machine, SessionEnd, Step};
use landfall_core::store::{ConflictQuery, Store, StoreError, StoreTx};
use landfall_core::task::TaskState;
use landfall_core::time::{Hlc, Mono, Now, Timestamp};
use landfall_core::value::{Fields, Number, Value};
use landfall_server::state::NoPolicy;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Where the true clock starts: some day in 2023.
const START_MS: i64 = 1_700_000_000_000;
/// How long users and faults go on.
const CHAOS_MS: u64 = 120_000;
/// How long after healing everything must be done.
const HEAL_MS: u64 = 4 * 3600 * 1000;
/// A year, for clocks that jump.
const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;
/// Rounds of syncing within which everything must have come to rest.
const ROUNDS: u32 = 12;
/// When a store that could not be opened is tried again.
const OPEN_AGAIN_MS: u64 = 1_000;
/// Lines of trace kept for a violation, unless one seed is looked at alone.
const TRACE: usize = 60;

/// Something that will happen.
enum Happening {
    /// A user does something.
    Act { device: usize },
    /// A process has something due.
    Wake { device: usize, process: usize, life: u64 },
    /// A request reaches the server, or does not.
    Arrive { from: Sender, fate: Fate },
    /// A copy of a request reaches the server; nobody hears the answer.
    ArriveAgain { body: Rc<Vec<u8>> },
    /// An answer reaches the device, whatever it is.
    Answer { from: Sender, answer: Result<HttpResponse, Failure> },
    /// A request to read reaches the server, or does not.
    ReadArrives { from: Reader, fate: Fate },
    /// An answer to it reaches the device.
    ReadAnswer { from: Reader, answer: Result<HttpResponse, Failure> },
    /// The device hears of every record at once, by another way than the feed.
    Read { device: usize },
    /// The person at the device settles what waits for a decision.
    Decide { device: usize },
    /// The server's feed forgets what was deleted so far.
    Forget,
    /// A process is started again.
    Start { device: usize, process: usize },
    /// Something bad happens to a device.
    Trouble { device: usize },
    /// A device that runs by itself hears something, true or not.
    Hear { device: usize },
    /// A process is told to run by itself.
    SwitchOn { device: usize, process: usize },
    /// The app is back on the screen.
    Resume { device: usize, process: usize },
    /// Somebody has logged in again.
    LogIn { device: usize, process: usize },
    /// A process looks whether another one has left something.
    Look { device: usize },
    /// What a probe has found.
    Probed { device: usize, process: usize, life: u64, call: CallId, found: Result<(), Failure> },
}

/// Who made a request.
#[derive(Clone)]
struct Sender {
    device: usize,
    process: usize,
    life: u64,
    batch: Rc<PushBatch>,
    body: Rc<Vec<u8>>,
}

/// Who asked to read something, and what.
#[derive(Clone)]
struct Reader {
    device: usize,
    process: usize,
    life: u64,
    call: CallId,
    wanted: Wanted,
}

#[derive(Clone, Debug)]
enum Wanted {
    Page(PullRequest),
    Record(EntityKey),
}

/// How a step ended for the one who asked.
enum Stepped<T> {
    /// Durable.
    Done(T),
    /// Refused for its own reason; nothing was stored.
    Refused,
    /// The store failed; nothing was stored.
    Failed,
    /// The process died after the commit; the user will never hear of it.
    Died,
    /// The process died in it: whether it was stored is for the next opening to see. It left this trace, if it came so far.
    InDoubt(Option<Hlc>),
}

pub(super) struct World {
    seed: u64,
    scenario: Scenario,
    rng: Rng,
    now_ms: u64,
    calendar: BTreeMap<(u64, u64), Happening>,
    order: u64,
    devices: Vec<Device>,
    home: Box<dyn Home>,
    server: Box<dyn Backend>,
    /// The devices whose stores somebody has worked on since the last check.
    touched: Vec<usize>,
    checks: Checks,
    stats: Stats,
    healed: bool,
    trace: VecDeque<String>,
    trace_max: usize,
    /// Counts values written, so that every value is written once.
    values: i64,
    /// Whether the next step's store hides what was sent.
    hides_frozen: bool,
    policy: Policy,
    habits: Habits,
    forgotten: Forgotten,
}

impl World {
    pub(super) fn new(seed: u64, scenario: Scenario, home: Box<dyn Home>, server: Box<dyn Backend>) -> Self {
        let policy = Policy::draw(&mut Rng::new(seed, 1, 0), scenario.strategy.clone());
        let mut world = Self {
            seed,
            policy,
            habits: Habits::draw(seed, scenario.runs),
            forgotten: Forgotten::default(),
            rng: Rng::new(seed, 0, 0),
            now_ms: 0,
            calendar: BTreeMap::new(),
            order: 0,
            devices: Vec::new(),
            home,
            server,
            touched: Vec::new(),
            checks: Checks::default(),
            stats: Stats::default(),
            healed: false,
            trace: VecDeque::new(),
            trace_max: if campaign::is_one_seed() { usize::MAX } else { TRACE },
            values: 0,
            hides_frozen: false,
            scenario,
        };
        world.seed_the_counted_record();
        for device in 0..world.scenario.devices {
            let processes = if world.rng.percent(30) { 2 } else { 1 };
            world.devices.push(Device {
                processes: (0..processes)
                    .map(|_| Process {
                        machine: None,
                        life: 0,
                        woken_at: None,
                        suspended: false,
                        tries: Tries::default(),
                    })
                    .collect(),
                clock_error_ms: 0,
                online: true,
                belief: Belief::default(),
                doubts: Vec::new(),
            });
            for process in 0..processes {
                world.later(0, Happening::Start { device, process });
            }
            if world.scenario.faults {
                let at = world.rng.below(CHAOS_MS);
                world.later(at, Happening::Trouble { device });
            }
        }
        for _ in 0..world.scenario.actions {
            let (device, at) = (world.rng.index(world.devices.len()), world.rng.below(CHAOS_MS));
            world.later(at, Happening::Act { device });
        }
        for _ in 0..world.scenario.devices {
            let (device, at) = (world.rng.index(world.devices.len()), world.rng.below(CHAOS_MS));
            world.later(at, Happening::Decide { device });
        }
        if world.scenario.faults && world.rng.percent(50) {
            let at = world.rng.below(CHAOS_MS);
            world.later(at, Happening::Forget);
        }
        for device in 0..world.devices.len() {
            world.hear_later(device);
        }
        world
    }

    /// Chaos, healing, judgement.
    pub(super) fn live(mut self) -> Result<(Stats, Figures), Violation> {
        let chaos = CHAOS_MS.max(self.scenario.deaf_for_ms);
        self.run_until(chaos)?;
        self.heal();
        if self.habits.by_itself {
            self.come_to_rest_by_itself()?;
        } else {
            self.come_to_rest(chaos)?;
        }
        let outcome = self.server.verify();
        self.judge(outcome)?;
        for device in 0..self.devices.len() {
            let outcome = match self.home.store(device, 0).and_then(Store::begin) {
                Ok(tx) => self.checks.finally(device, &self.devices[device], &*tx, self.server.truth()),
                Err(error) => Err(format!("device {device}: {error}")),
            };
            self.judge(outcome)?;
        }
        let outcome = counts_add_up(&self.devices, self.server.truth());
        self.judge(outcome)?;
        self.stats.effects = self.server.truth().effects().len() as u64;
        for (name, number) in self.home.figures().into_iter().chain(self.server.figures()) {
            self.say(format!("{name}: {number}"));
        }
        let mut figures = self.home.figures();
        add(&mut figures, &self.server.figures());
        Ok((self.stats, figures))
    }

    fn come_to_rest(&mut self, chaos: u64) -> Result<(), Violation> {
        self.run_until(chaos + HEAL_MS)?;
        // Everybody syncs until a whole round had nothing to send, so that everybody has read what all others sent.
        for round in 0.. {
            let quiet = self.nothing_is_queued();
            for device in 0..self.devices.len() {
                self.start(device, 0)?;
                self.decide_all(device)?;
                self.sync(device, 0)?;
            }
            let end = self.now_ms + HEAL_MS;
            self.run_until(end)?;
            if quiet && self.nothing_is_queued() {
                break;
            }
            if round == ROUNDS {
                return self.judge(Err("it never comes to rest".into()));
            }
        }
        Ok(())
    }

    /// Nobody says anything any more, but for decisions that only people can make, and everything must arrive (G11).
    fn come_to_rest_by_itself(&mut self) -> Result<(), Violation> {
        for _ in 0..ROUNDS {
            self.all_goes_that_can()?;
            let quiet = self.nothing_is_queued();
            for device in 0..self.devices.len() {
                self.decide_all(device)?;
            }
            self.run_until(self.now_ms + READING_MS)?;
            if quiet && self.nothing_is_queued() {
                return Ok(());
            }
        }
        self.judge(Err("it never comes to rest by itself".into()))
    }

    /// Whatever is not stuck has gone within the longest wait that a backend may ask for.
    fn all_goes_that_can(&mut self) -> Result<(), Violation> {
        let end = self.now_ms + RECOVERY_MS;
        while self.nothing_is_stuck().is_err() && self.now_ms < end {
            self.run_until(self.now_ms + LOOK_MS)?;
        }
        let outcome = self.nothing_is_stuck();
        self.judge(outcome)
    }

    /// What waits for a person, and what is behind it, is not stuck.
    fn nothing_is_stuck(&mut self) -> Result<(), String> {
        for number in 0..self.devices.len() {
            let tx = self.home.store(number, 0).and_then(Store::begin).map_err(|error| error.to_string())?;
            let mut left = tx.tasks_after(0, usize::MAX).map_err(|error| error.to_string())?.tasks;
            let mut waiting = BTreeSet::new();
            left.retain(|task| {
                if task.state == TaskState::Conflict {
                    waiting.insert(task.entity.clone());
                }
                !waiting.contains(&task.entity)
            });
            if !left.is_empty() {
                let left: Vec<_> = left.iter().map(|task| (task.id, task.state)).collect();
                return Err(format!("G11: device {number} does not go on by itself: {left:?}"));
            }
        }
        Ok(())
    }

    fn run_until(&mut self, end: u64) -> Result<(), Violation> {
        while let Some(entry) = self.calendar.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), happening) = entry.remove_entry();
            self.now_ms = at;
            // When all is calm, what these have done wrong is still there at the next answer.
            let is_small = matches!(happening, Happening::Wake { .. } | Happening::ReadArrives { .. });
            self.happen(happening)?;
            if !(is_small && self.healed && self.habits.by_itself) {
                self.check()?;
            }
            if self.healed && !self.habits.by_itself && self.all_done() {
                return Ok(());
            }
        }
        self.now_ms = end;
        Ok(())
    }

    fn all_done(&mut self) -> bool {
        let syncs = |process: &Process| process.machine.as_ref().is_some_and(Machine::is_syncing);
        let at_rest = self.devices.iter().all(|device| !device.processes.iter().any(syncs));
        at_rest
            && self.nothing_is_queued()
            && !self.calendar.values().any(|happening| matches!(happening, Happening::ArriveAgain { .. }))
    }

    fn nothing_is_queued(&mut self) -> bool {
        (0..self.devices.len()).all(|device| {
            let counts = self.home.store(device, 0).and_then(Store::begin).and_then(|tx| tx.counts());
            counts.is_ok_and(|counts| counts.total() == 0)
        })
    }

    /// From now on nothing goes wrong, everybody is there, and everybody syncs.
    fn heal(&mut self) {
        self.say("healed".into());
        self.healed = true;
        self.home.heal();
        self.server.heal();
        for device in 0..self.devices.len() {
            self.devices[device].online = true;
            for process in 0..self.devices[device].processes.len() {
                // A user tries again: an answer that was already on its way may still say 401 and end a session.
                for again in [0, 60_000, 600_000, 3_600_000] {
                    self.later(again, Happening::Decide { device });
                    let wait = again + self.rng.below(5_000);
                    self.later(wait, Happening::Start { device, process });
                }
            }
        }
    }

    /// What must hold after every step. Only the stores that somebody worked on can have changed.
    fn check(&mut self) -> Result<(), Violation> {
        let mut outcome = self.checks.count_effects(self.server.truth());
        for device in std::mem::take(&mut self.touched) {
            let is_open = |process: &usize| self.devices[device].processes[*process].machine.is_some();
            // Who is to be believed in a doubt shows at the next opening.
            let process = (0..self.devices[device].processes.len()).find(is_open);
            let Some(process) = process.filter(|_| self.devices[device].doubts.is_empty()) else { continue };
            if let Ok(tx) = self.home.store(device, process).and_then(Store::begin) {
                let checked = self.checks.after_step(device, &self.devices[device], &*tx);
                outcome = outcome.and(checked);
            }
        }
        self.judge(outcome)
    }

    /// What an app shows of a record; nothing if its store does not answer.
    fn shown(&mut self, device: usize, process: usize, key: &EntityKey) -> Option<Option<Body>> {
        let tx = self.home.store(device, process).and_then(Store::begin).ok()?;
        Some(tx.entity(key).ok()?.and_then(|entity| entity.local))
    }

    fn judge(&self, outcome: Result<(), String>) -> Result<(), Violation> {
        outcome.map_err(|what| Violation {
            seed: self.seed,
            what,
            trace: self.trace.iter().cloned().collect(),
        })
    }

    fn later(&mut self, wait_ms: u64, happening: Happening) {
        self.order += 1;
        self.calendar.insert((self.now_ms + wait_ms, self.order), happening);
    }

    fn say(&mut self, line: String) {
        for byte in line.bytes() {
            self.stats.trace = (self.stats.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.trace.len() == self.trace_max {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>9} {line}", self.now_ms));
    }

    fn chaos(&self) -> bool {
        self.scenario.faults && !self.healed
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Act { device } => self.act(device),
            Happening::Wake { device, process, life } => {
                let process_now = &mut self.devices[device].processes[process];
                process_now.woken_at = None;
                if process_now.life == life {
                    self.step(device, process, |step, _| {
                        step.wake();
                        Ok::<_, StoreError>(())
                    })?;
                }
                Ok(())
            }
            Happening::Arrive { from, fate } => {
                self.arrive(from, fate);
                Ok(())
            }
            Happening::ArriveAgain { body } => {
                self.stats.doubled += 1;
                self.say("a late copy arrives".into());
                drop(self.serve(&body));
                Ok(())
            }
            Happening::Answer { from, answer } => self.answer(from, answer),
            Happening::ReadArrives { from, fate } => {
                self.read_arrives(from, fate);
                Ok(())
            }
            Happening::ReadAnswer { from, answer } => self.read_answer(from, answer),
            Happening::Read { device } => self.read_all(device),
            Happening::Decide { device } => self.decide_all(device),
            Happening::Forget => {
                self.forgotten.times += 1;
                self.forgotten.up_to = self.server.truth().last_version();
                self.say("the feed forgets what was deleted".into());
                Ok(())
            }
            Happening::Start { device, process } => self.start(device, process),
            Happening::Trouble { device } => {
                self.trouble(device);
                Ok(())
            }
            Happening::Hear { device } => self.hear(device),
            Happening::SwitchOn { device, process } => self.switch_on(device, process),
            Happening::Resume { device, process } => self.resume(device, process),
            Happening::LogIn { device, process } => self.log_in(device, process),
            Happening::Look { device } => {
                for process in 0..self.devices[device].processes.len() {
                    self.tell(device, process, |step, _| {
                        step.wake();
                        Ok(())
                    })?;
                }
                Ok(())
            }
            Happening::Probed { device, process, life, call, found } => {
                self.probed(device, process, life, call, found)
            }
        }
    }

    // ---- devices that run by themselves --------------------------------------------------------------------------

    fn hear_later(&mut self, device: usize) {
        let wait = self.habits.pause();
        if self.habits.by_itself && !self.healed {
            self.later(wait, Happening::Hear { device });
        }
    }

    /// What nobody needs to hear reaches a process that is awake.
    fn tell(
        &mut self,
        device: usize,
        process: usize,
        work: impl FnOnce(&mut Step, &mut dyn StoreTx) -> Result<(), StoreError>,
    ) -> Result<(), Violation> {
        let state = &self.devices[device].processes[process];
        if state.machine.is_none() || state.suspended {
            return Ok(());
        }
        self.step(device, process, work).map(drop)
    }

    fn hear(&mut self, device: usize) -> Result<(), Violation> {
        if self.healed {
            return Ok(());
        }
        let process = self.habits.rng.index(self.devices[device].processes.len());
        let news = self.habits.news();
        self.say(format!("device {device}.{process} hears: {news:?}"));
        match news {
            News::Suspended(for_ms) => self.suspend(device, process, for_ms)?,
            News::Called => self.tell(device, process, |step, _| {
                step.backend_called();
                Ok(())
            })?,
            News::Online(online) => {
                self.tell(device, process, |step, tx| step.device_changed(tx, &DeviceState::online(online)))?
            }
            News::Regained => self.tell(device, process, |step, _| {
                step.connectivity_regained();
                Ok(())
            })?,
            News::Nothing => {}
        }
        self.hear_later(device);
        Ok(())
    }

    fn switch_on(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let machine = &self.devices[device].processes[process].machine;
        if !self.habits.by_itself || machine.as_ref().is_none_or(Machine::runs_by_itself) {
            return Ok(());
        }
        self.step(device, process, |step, _| {
            step.run_by_itself(Habits::settings());
            Ok::<_, StoreError>(())
        })?;
        self.later(100, Happening::SwitchOn { device, process });
        Ok(())
    }

    fn suspend(&mut self, device: usize, process: usize, for_ms: u64) -> Result<(), Violation> {
        let state = &mut self.devices[device].processes[process];
        if state.machine.is_none() || std::mem::replace(&mut state.suspended, true) {
            return Ok(());
        }
        self.stats.suspensions += 1;
        let life = state.life;
        if self.scenario.plant != Some(Plant::SuspensionIgnored) {
            let stepped = self.step(device, process, |step, _| {
                step.suspend();
                Ok::<_, StoreError>(())
            })?;
            let state = &mut self.devices[device].processes[process];
            // It did not come to pass, or somebody else has started since, who is awake.
            state.suspended &= matches!(stepped, Stepped::Done(())) && state.life == life;
        }
        self.later(for_ms, Happening::Resume { device, process });
        Ok(())
    }

    fn resume(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let state = &mut self.devices[device].processes[process];
        if state.machine.is_none() || !std::mem::take(&mut state.suspended) {
            return Ok(());
        }
        let life = state.life;
        let stepped = self.step(device, process, |step, _| {
            step.resume_app();
            Ok::<_, StoreError>(())
        })?;
        let state = &mut self.devices[device].processes[process];
        if !matches!(stepped, Stepped::Done(())) && state.life == life {
            state.suspended = true;
            self.later(100, Happening::Resume { device, process });
        }
        Ok(())
    }

    /// Only people can do this; a machine that asks for credentials waits for them.
    fn log_in(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        if self.devices[device].processes[process].machine.is_none() {
            return Ok(());
        }
        let stepped = self.step(device, process, |step, _| {
            step.credentials_changed();
            Ok::<_, StoreError>(())
        })?;
        if matches!(stepped, Stepped::Failed) {
            self.later(100, Happening::LogIn { device, process });
        }
        Ok(())
    }

    /// A call leaves a machine: it is awake, and it is not one too many.
    fn call_leaves(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let (now, by_itself) = (self.now_ms, self.habits.by_itself && !self.habits.on_demand);
        let state = &mut self.devices[device].processes[process];
        let mut outcome = if by_itself { state.tries.made(now) } else { Ok(()) };
        if state.suspended {
            outcome = Err(format!("device {device}.{process} makes a call in its sleep"));
        }
        self.judge(outcome)
    }

    fn call_answered(&mut self, device: usize, process: usize, failed: Option<FailureKind>) {
        let now = self.now_ms;
        self.devices[device].processes[process].tries.answered(now, failed);
    }

    fn probe(&mut self, device: usize, process: usize, call: CallId) {
        self.stats.probes += 1;
        let (online, chaos) = (self.devices[device].online, self.chaos());
        let (wait, found) = self.habits.probed(online, chaos);
        self.say(format!("device {device}.{process} probes: {found:?}"));
        let life = self.devices[device].processes[process].life;
        self.later(wait, Happening::Probed { device, process, life, call, found });
    }

    fn probed(
        &mut self,
        device: usize,
        process: usize,
        life: u64,
        call: CallId,
        found: Result<(), Failure>,
    ) -> Result<(), Violation> {
        let state = &self.devices[device].processes[process];
        if state.life != life || state.machine.is_none() {
            return Ok(());
        }
        self.call_answered(device, process, found.as_ref().err().map(|failure| failure.kind));
        let stepped = self.step(device, process, |step, tx| step.probed(tx, call, &found))?;
        if matches!(stepped, Stepped::Failed) {
            self.later(500, Happening::Probed { device, process, life, call, found });
        }
        Ok(())
    }

    // ---- the device's side -------------------------------------------------------------------------------------

    fn clock(&self, device: usize) -> Now {
        let true_ms = i64::try_from(self.now_ms).unwrap_or(i64::MAX);
        Now {
            wall: Timestamp(START_MS + true_ms + self.devices[device].clock_error_ms),
            mono: Mono(self.now_ms),
        }
    }

    fn start(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        if self.devices[device].processes[process].machine.is_none() {
            let (seed, entropy) = (self.rng.next(), Entropy(self.rng.bytes()));
            let (mut config, mut capabilities) = (self.policy.config(seed), capabilities(&self.policy));
            capabilities.probe = self.habits.probe;
            self.habits.configure(&mut config.retry);
            if self.scenario.plant == Some(Plant::BackoffIgnored) {
                let moment = Duration::from_millis(1);
                config.retry.base = moment;
                config.retry.cap = moment;
                config.retry.budget = 1_000_000;
            }
            let chaos = self.chaos();
            self.home.before(device, process, chaos);
            let opened = self.open(device, process, config, capabilities, &entropy);
            let blow = self.home.after(device, process);
            self.struck(device, process, blow);
            let machine = match (opened, blow) {
                (Ok(machine), None) => machine,
                (opened, _) => {
                    if let Err(error) = opened {
                        // Its words have paths in them.
                        let error = format!("{error:?}");
                        let kind = error.split('(').next().unwrap_or_default();
                        self.say(format!("device {device}.{process} does not start: {kind}"));
                        if self.healed && blow.is_none() {
                            return self
                                .judge(Err(format!("G1: the store of device {device} is lost: {kind}")));
                        }
                    }
                    // One that did not start has nothing open.
                    self.home.end(device, process);
                    self.later(OPEN_AGAIN_MS, Happening::Start { device, process });
                    return Ok(());
                }
            };
            let process_now = &mut self.devices[device].processes[process];
            process_now.machine = Some(machine);
            process_now.life += 1;
            process_now.woken_at = None;
            process_now.suspended = false;
            process_now.tries = Tries::begin(self.now_ms);
            self.say(format!("device {device}.{process} starts"));
        }
        if self.habits.by_itself {
            return self.switch_on(device, process);
        }
        if self.healed {
            self.sync(device, process)?;
        }
        Ok(())
    }

    fn open(
        &mut self,
        device: usize,
        process: usize,
        config: Config,
        capabilities: Capabilities,
        entropy: &Entropy,
    ) -> Result<Machine, StoreError> {
        self.touch(device);
        let mut tx = self.home.store(device, process)?.begin()?;
        let Device { doubts, belief, .. } = &mut self.devices[device];
        Doubt::see_all(doubts, &*tx)?;
        let machine = Machine::open(config, capabilities, entropy, &mut *tx)?;
        tx.commit()?;
        // Now it is durable, whatever it is.
        Doubt::settle_all(doubts, belief);
        Ok(machine)
    }

    fn touch(&mut self, device: usize) {
        if !self.touched.contains(&device) {
            self.touched.push(device);
        }
    }

    /// What a blow means for who was hit.
    fn struck(&mut self, device: usize, process: usize, blow: Option<Blow>) {
        match blow {
            None => {}
            Some(Blow::Killed) => self.kill(device, process),
            Some(Blow::PowerCut) => {
                self.say(format!("device {device} loses its power"));
                for process in 0..self.devices[device].processes.len() {
                    self.kill(device, process);
                }
            }
        }
    }

    fn kill(&mut self, device: usize, process: usize) {
        if self.devices[device].processes[process].machine.take().is_some() {
            self.stats.crashes += 1;
            self.home.end(device, process);
            self.devices[device].processes[process].life += 1;
            self.say(format!("device {device}.{process} dies"));
            let wait = self.rng.below(8_000);
            self.later(wait, Happening::Start { device, process });
        }
    }

    fn sync(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let end = if self.healed || self.rng.percent(50) {
            SessionEnd::Drained { within: Duration::from_secs(if self.healed { 3 * 3600 } else { 30 }) }
        } else {
            SessionEnd::OnePass
        };
        let directions = match self.rng.below(10) {
            0 if !self.healed => Directions::PushOnly,
            1 if !self.healed => Directions::PullOnly,
            _ => Directions::Both,
        };
        let stepped = self.step(device, process, |step, _| {
            step.credentials_changed();
            step.start_session_of(end, directions);
            Ok::<_, StoreError>(())
        })?;
        if self.healed && !matches!(stepped, Stepped::Done(())) {
            self.later(100, Happening::Start { device, process });
        }
        Ok(())
    }

    /// One step of a machine with everything that can go wrong around a commit.
    fn step<T, E: IntoTrouble>(
        &mut self,
        device: usize,
        process: usize,
        work: impl FnOnce(&mut Step, &mut dyn StoreTx) -> Result<T, E>,
    ) -> Result<Stepped<T>, Violation> {
        let now = self.clock(device);
        let entropy = Entropy(self.rng.bytes());
        let plant = self.scenario.plant;
        let mut wrong = Wrong::default();
        let chaos = self.chaos();
        if chaos && self.rng.percent(2) {
            wrong.fail_at = Some(1 + u32::try_from(self.rng.below(40)).unwrap_or(0));
        }
        wrong.hide_frozen = self.hides_frozen;
        wrong.forget_conflicts = plant == Some(Plant::LoserForgotten);
        let commit_fails = chaos && self.rng.percent(2);
        let landed = self.rng.percent(50);
        let dies = chaos && self.rng.percent(1);
        let alive: Vec<String> = (0..self.devices[device].processes.len())
            .filter(|other| self.devices[device].processes[*other].machine.is_some())
            .map(|other| self.holder(device, other))
            .collect();
        let knows_the_dead = self.rng.percent(50);
        let is_gone = |holder: &str| knows_the_dead && !alive.iter().any(|living| living == holder);
        let me = self.holder(device, process);
        self.touch(device);
        let Device { processes, doubts, belief, .. } = &mut self.devices[device];
        let Some(machine) = processes[process].machine.as_mut() else { return Ok(Stepped::Died) };

        let mut step = machine.step(now, entropy);
        self.home.before(device, process, chaos);
        let mut closed = false;
        let mut tx = match self.home.store(device, process).and_then(Store::begin) {
            Ok(begun) => Some(Box::new(FaultyTx::new(begun, wrong)) as Box<dyn StoreTx + '_>),
            Err(error) => {
                closed = error == StoreError::Closed;
                None
            }
        };
        let prepared = tx.as_mut().map_or(Err(Trouble::Store), |tx| {
            Doubt::see_all(doubts, &**tx).map_err(|_| Trouble::Store)?;
            work(&mut step, &mut **tx).map_err(IntoTrouble::into_trouble).and_then(|value| {
                step.start_if_due(&**tx).map_err(|_| Trouble::Store)?;
                if step.needs_lease() {
                    step.lead(&mut **tx, &me, &is_gone).map_err(|_| Trouble::Store)?;
                }
                step.finish(&mut **tx).map_err(|_| Trouble::Store)?;
                Ok(value)
            })
        });
        let value = match prepared {
            Ok(value) => value,
            Err(trouble) => {
                drop(tx);
                let blow = self.home.after(device, process);
                if blow.is_some() {
                    self.struck(device, process, blow);
                    return Ok(Stepped::InDoubt(None));
                }
                if matches!(trouble, Trouble::Refused) {
                    return Ok(Stepped::Refused);
                }
                self.stats.failed_commits += 1;
                if closed {
                    // An earlier failure has left it unusable.
                    return self.begin_anew(device, process).map(|_| Stepped::Failed);
                }
                if plant == Some(Plant::MemoryBeforeCommit) {
                    drop(machine.apply(step));
                }
                self.schedule_wake(device, process);
                return Ok(Stepped::Failed);
            }
        };
        let newest = step.newest_time();
        if commit_fails {
            match plant {
                Some(Plant::MemoryBeforeCommit) => {
                    drop(tx);
                    self.stats.failed_commits += 1;
                    drop(machine.apply(step));
                    let blow = self.home.after(device, process);
                    self.struck(device, process, blow);
                    return Ok(Stepped::Failed);
                }
                Some(Plant::EffectsBeforeCommit) => {
                    drop(tx);
                    self.stats.failed_commits += 1;
                    let before = machine.clone();
                    let effects = machine.apply(step);
                    *machine = before;
                    self.carry_out(device, process, effects)?;
                    return Ok(Stepped::Failed);
                }
                _ => {}
            }
        }
        let committed = commit_or_drop(tx, !commit_fails || landed);
        let blow = self.home.after(device, process);
        if committed.is_ok() && newest.is_some() {
            // What it saw is durable with it, and what it did not see it has written over. One that wrote nothing decides
            // nothing: what another process wrote and could not commit may still be found in the log.
            Doubt::settle_all(doubts, belief);
        }
        if committed.is_err() || commit_fails || blow.is_some() {
            self.stats.failed_commits += 1;
            self.say(format!("device {device}.{process}: a commit fails (landed: {})", committed.is_ok()));
            if blow.is_some() {
                self.struck(device, process, blow);
                if committed.is_ok() {
                    return Ok(Stepped::Died);
                }
                self.leave_in_doubt(device, newest);
                return Ok(Stepped::InDoubt(newest));
            }
            return self.look_up(device, process, value, newest, committed);
        }
        if dies {
            // After the commit, before anything of it leaves.
            self.kill(device, process);
            return Ok(Stepped::Died);
        }
        let effects = machine.apply(step);
        self.carry_out(device, process, effects)?;
        self.schedule_wake(device, process);
        Ok(Stepped::Done(value))
    }

    /// What the engine does after a failed commit: opens the store again, looks whether it landed after all, and begins
    /// anew.
    fn look_up<T>(
        &mut self,
        device: usize,
        process: usize,
        value: T,
        newest: Option<Hlc>,
        committed: Result<(), StoreError>,
    ) -> Result<Stepped<T>, Violation> {
        self.devices[device].processes[process].machine = None;
        let clock = self.reopen(device, process);
        let landed = clock.map(|clock| newest.is_some() && clock >= newest);
        let Device { doubts, belief, .. } = &mut self.devices[device];
        match (&committed, &landed) {
            // Opening has made it durable, and with it what it saw.
            (Err(_), Ok(true)) => Doubt::settle_all(doubts, belief),
            (Err(_), Err(_)) => self.leave_in_doubt(device, newest),
            _ => {}
        }
        self.start(device, process)?;
        Ok(match (committed, landed) {
            (Ok(()), _) | (Err(_), Ok(true)) => Stepped::Done(value),
            (Err(_), Ok(false)) => Stepped::Failed,
            (Err(_), Err(_)) => Stepped::InDoubt(newest),
        })
    }

    /// What the engine does with a store that has become unusable without a commit.
    fn begin_anew(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        self.devices[device].processes[process].machine = None;
        drop(self.reopen(device, process));
        self.start(device, process)
    }

    /// Opens the store again and reads the clock in it.
    fn reopen(&mut self, device: usize, process: usize) -> Result<Option<Hlc>, StoreError> {
        let chaos = self.chaos();
        self.home.before(device, process, chaos);
        let clock = self.home.store(device, process).and_then(|store| {
            store.reopen()?;
            Ok(store.begin()?.replica()?.map(|replica| replica.clock))
        });
        let blow = self.home.after(device, process);
        self.struck(device, process, blow);
        clock
    }

    /// A commit is in doubt: if it landed, then what it saw of the doubts before it is true.
    fn leave_in_doubt(&mut self, device: usize, newest: Option<Hlc>) {
        self.devices[device].doubts.extend(Doubt::new(newest, Tentative::Nothing));
    }

    fn holder(&self, device: usize, process: usize) -> String {
        format!("{device}.{process}.{}", self.devices[device].processes[process].life)
    }

    fn schedule_wake(&mut self, device: usize, process: usize) {
        let now_ms = self.now_ms;
        let state = &mut self.devices[device].processes[process];
        let Some(machine) = &state.machine else { return };
        let Some(at) = machine.next_wakeup() else { return };
        let failed = machine.runs_by_itself() && !machine.is_syncing() && machine.gate().is_some();
        if failed && self.scenario.plant == Some(Plant::AlarmDropped) {
            return;
        }
        let at = at.0.max(now_ms + 1);
        if state.woken_at.is_none_or(|known| at < known) {
            state.woken_at = Some(at);
            let life = state.life;
            self.later(at - now_ms, Happening::Wake { device, process, life });
        }
    }

    fn carry_out(&mut self, device: usize, process: usize, effects: Vec<Effect>) -> Result<(), Violation> {
        for effect in effects {
            if matches!(
                effect,
                Effect::Push { .. } | Effect::Pull { .. } | Effect::Fetch { .. } | Effect::Probe { .. }
            ) {
                self.call_leaves(device, process)?;
            }
            match effect {
                Effect::Push { context, mut batch } => {
                    match self.scenario.plant {
                        Some(Plant::WholeRecordSent) => self.send_whole_records(device, process, &mut batch),
                        Some(Plant::FreshKeys) => {
                            let mut fresh = [0; 16];
                            fresh.copy_from_slice(&self.rng.bytes()[..16]);
                            for task in batch.tasks.iter_mut().filter(|task| task.attempt > 0) {
                                task.key = IdempotencyKey(fresh);
                            }
                        }
                        _ => {}
                    }
                    let outcome = match self.home.store(device, process).and_then(Store::begin) {
                        Ok(tx) => self.checks.leaving(&self.devices[device], &*tx, &batch),
                        // A step in between has broken the store; nothing can be seen, and nothing leaves.
                        Err(StoreError::Closed) => continue,
                        Err(error) => Err(error.to_string()),
                    };
                    self.judge(outcome)?;
                    self.stats.requests += 1;
                    let body = Rc::new(encode_push(&context, &batch));
                    let life = self.devices[device].processes[process].life;
                    let from = Sender { device, process, life, batch: Rc::new(batch), body };
                    let chaos = self.chaos();
                    let mut fate = Fate::draw(&mut self.rng, chaos);
                    if !self.healed && self.now_ms < self.scenario.deaf_for_ms {
                        fate = Fate::ReplyLost;
                    }
                    if !self.devices[device].online {
                        fate = Fate::Refused;
                    }
                    self.say(format!(
                        "device {device}.{process} sends {:?} ({} tasks): {fate:?}",
                        from.batch.call,
                        from.batch.tasks.len()
                    ));
                    let wait = 1 + self.rng.below(400);
                    self.later(wait, Happening::Arrive { from, fate });
                }
                Effect::Pull { call, request, .. } => self.read(device, process, call, Wanted::Page(request)),
                Effect::Fetch { call, entity, .. } => {
                    self.read(device, process, call, Wanted::Record(entity));
                }
                Effect::Probe { call, .. } => self.probe(device, process, call),
                Effect::RefreshCredentials => {
                    let fresh = self.rng.percent(70);
                    self.step(device, process, |step, _| {
                        step.credentials_refreshed(fresh);
                        Ok::<_, StoreError>(())
                    })?;
                }
                Effect::Emit(event) => {
                    match event {
                        Event::Conflicted { .. } => self.stats.conflicts += 1,
                        Event::Forked { .. } => self.stats.forks += 1,
                        Event::Pulled { .. } => self.stats.pages += 1,
                        Event::Reconciling => self.stats.readings += 1,
                        Event::SessionStarted if self.habits.by_itself => self.stats.runs += 1,
                        Event::GateClosed { why: FailureKind::Unauthenticated, .. }
                            if self.habits.by_itself =>
                        {
                            let wait = self.habits.rng.below(30_000);
                            self.later(wait, Happening::LogIn { device, process });
                        }
                        _ => {}
                    }
                    let outcome = self.checks.heard(device, &event);
                    self.say(format!("device {device}.{process}: {event:?}"));
                    self.judge(outcome)?;
                }
                Effect::Cancel(_) | Effect::SessionEnded(_) => {}
                other => self.say(format!("nobody carries out {other:?}")),
            }
        }
        Ok(())
    }

    /// Puts all that the device knows of a record into what is sent of it.
    fn send_whole_records(&mut self, device: usize, process: usize, batch: &mut PushBatch) {
        for task in batch.tasks.iter_mut().filter(|task| task.operation == Operation::Update) {
            let Some(Some(Body::Live(all))) = self.shown(device, process, &task.entity) else { continue };
            let Ok(mut payload) = Fields::parse(&task.payload) else { continue };
            payload.0.insert("fields".into(), Value::Object(all));
            task.payload = payload.to_json().into();
        }
    }

    // ---- the network ---------------------------------------------------------------------------------------------

    fn arrive(&mut self, from: Sender, fate: Fate) {
        let mut reply = None;
        if fate.reaches() {
            reply = self.serve(&from.body);
            if fate == Fate::Doubled {
                self.stats.doubled += 1;
                drop(self.serve(&from.body));
            }
            if fate == Fate::LateDouble || (self.chaos() && self.rng.percent(5)) {
                let wait = 1 + self.rng.below(90_000);
                self.later(wait, Happening::ArriveAgain { body: Rc::clone(&from.body) });
            }
        }
        if matches!(fate, Fate::Turned(_) | Fate::Portal) && self.rng.percent(20) {
            // Turned away in words, and yet a copy of it gets through later.
            let wait = 1 + self.rng.below(90_000);
            self.later(wait, Happening::ArriveAgain { body: Rc::clone(&from.body) });
        }
        if fate != Fate::Fine {
            self.stats.bad_answers += 1;
        }
        let answer = fate.answer(&mut self.rng, reply);
        let wait = if answer.is_err() && fate != Fate::Refused { 30_000 } else { 1 + self.rng.below(400) };
        self.later(wait, Happening::Answer { from, answer });
    }

    /// What the server answers, if it lives long enough.
    fn serve(&mut self, body: &[u8]) -> Option<HttpResponse> {
        let server = &mut *self.server;
        let forgets = match self.scenario.plant {
            Some(Plant::ServerWithoutKeys) => Some(self.rng.next()),
            Some(Plant::KeysForgotten) => Some(self.now_ms / 30_000),
            _ => None,
        };
        let reply = if let Some(salt) = forgets {
            serve_without_keys(body, salt, |body| {
                answer_push(body, |request| server.push(&NoPolicy, request))
            })
        } else {
            answer_push(body, |request| server.push(&NoPolicy, request))
        };
        self.checks.remember(self.server.truth(), body);
        if reply.is_none() {
            self.say("the server dies in a request".into());
        }
        reply
    }

    fn answer(&mut self, from: Sender, answer: Result<HttpResponse, Failure>) -> Result<(), Violation> {
        let (device, process) = (from.device, from.process);
        let state = &self.devices[device].processes[process];
        if state.life != from.life || state.machine.is_none() {
            return Ok(());
        }
        let decoded = match &answer {
            Ok(response) => decode_push(&from.batch, response),
            Err(failure) => Err(Failure::new(failure.kind, failure.delivery, failure.message.clone())),
        };
        let mut decoded = decoded;
        if self.scenario.plant == Some(Plant::AnyPageBelieved)
            && decoded.is_err()
            && answer.as_ref().is_ok_and(|response| response.status == 200)
        {
            let yes = |task: &PushTask| (task.key, Outcome::Applied(Applied::default()));
            let results = from.batch.tasks.iter().map(yes).collect();
            decoded = Ok(PushReply { results, ..PushReply::default() });
        }
        if let Ok(reply) = &mut decoded {
            reply.server_time = Some(self.true_time());
            for (_, outcome) in &mut reply.results {
                if let Outcome::Conflict { remote: Some(remote) } = outcome {
                    self.checks.stamp(remote);
                }
            }
        }
        let call = from.batch.call;
        self.call_answered(device, process, decoded.as_ref().err().map(|failure| failure.kind));
        let stepped = self.step(device, process, |step, tx| step.pushed(tx, call, &decoded))?;
        if matches!(stepped, Stepped::Failed) {
            self.later(500, Happening::Answer { from, answer });
        }
        Ok(())
    }

    fn true_time(&self) -> Timestamp {
        Timestamp(START_MS + i64::try_from(self.now_ms).unwrap_or(i64::MAX))
    }

    fn read(&mut self, device: usize, process: usize, call: CallId, wanted: Wanted) {
        let life = self.devices[device].processes[process].life;
        let chaos = self.chaos();
        let mut fate = Fate::draw(&mut self.rng, chaos);
        if !self.devices[device].online {
            fate = Fate::Refused;
        }
        self.say(format!("device {device}.{process} asks for {wanted:?}: {fate:?}"));
        let wait = 1 + self.rng.below(400);
        let from = Reader { device, process, life, call, wanted };
        self.later(wait, Happening::ReadArrives { from, fate });
    }

    fn read_arrives(&mut self, from: Reader, fate: Fate) {
        let mut reply = None;
        if fate.reaches() {
            let forgotten = self.forgotten;
            self.server.read(&mut |records| {
                reply = Some(match &from.wanted {
                    Wanted::Page(request) => serve_page(records, request, forgotten),
                    Wanted::Record(key) => serve_record(records, key),
                });
            });
        }
        let answer = fate.answer(&mut self.rng, reply);
        let slow = if self.chaos() && self.rng.percent(20) { 10_000 } else { 400 };
        let wait = if answer.is_err() && fate != Fate::Refused { 30_000 } else { 1 + self.rng.below(slow) };
        self.later(wait, Happening::ReadAnswer { from, answer });
    }

    fn read_answer(&mut self, from: Reader, answer: Result<HttpResponse, Failure>) -> Result<(), Violation> {
        let Reader { device, process, call, .. } = from;
        let state = &self.devices[device].processes[process];
        if state.life != from.life || state.machine.is_none() {
            return Ok(());
        }
        let copy = |failure: &Failure| Failure::new(failure.kind, failure.delivery, failure.message.clone());
        let plant = self.scenario.plant;
        let stepped = match &from.wanted {
            Wanted::Page(request) => {
                let mut page = match &answer {
                    Ok(response) => decode_pull(request, response),
                    Err(failure) => Err(copy(failure)),
                };
                if let Ok(page) = &mut page {
                    page.changes.iter_mut().flatten().for_each(|remote| self.checks.stamp(remote));
                    if plant == Some(Plant::CursorWithoutPage) && self.rng.percent(5) {
                        page.changes.clear();
                    }
                }
                self.call_answered(device, process, page.as_ref().err().map(|failure| failure.kind));
                self.step(device, process, |step, tx| {
                    if let (Some(Plant::OvertakenPageBelieved), Ok(page)) = (plant, &page) {
                        for remote in page.changes.iter().flatten() {
                            step.remote_changed(tx, remote.clone())?;
                        }
                    }
                    step.pulled(tx, call, &page)
                })?
            }
            Wanted::Record(key) => {
                let mut record = match &answer {
                    Ok(response) => decode_fetch(key, response),
                    Err(failure) => Err(copy(failure)),
                };
                if let Ok(Some(remote)) = &mut record {
                    self.checks.stamp(remote);
                }
                self.call_answered(device, process, record.as_ref().err().map(|failure| failure.kind));
                self.step(device, process, |step, tx| step.fetched(tx, call, &record))?
            }
        };
        if matches!(stepped, Stepped::Failed) {
            self.later(500, Happening::ReadAnswer { from, answer });
        }
        Ok(())
    }

    // ---- users, reads, trouble -----------------------------------------------------------------------------------

    fn act(&mut self, device: usize) -> Result<(), Violation> {
        let process = self.rng.index(self.devices[device].processes.len());
        let state = &self.devices[device].processes[process];
        if state.machine.is_none() || state.suspended {
            return Ok(());
        }
        match self.rng.below(10) {
            0..=5 => {
                self.change(device, process)?;
                if self.habits.by_itself {
                    let wait = self.habits.rng.below(1_000);
                    self.later(wait, Happening::Look { device });
                }
                Ok(())
            }
            6..=7 if self.habits.on_demand => self.sync(device, process),
            6..=7 => Ok(()),
            8 => {
                let wait = self.rng.below(100);
                self.later(wait, Happening::Read { device });
                Ok(())
            }
            _ => self
                .step(device, process, |step, _| {
                    step.connectivity_regained();
                    Ok::<_, StoreError>(())
                })
                .map(drop),
        }
    }

    /// The user changes a record, in a way that makes sense for what the app shows.
    fn change(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        if self.rng.percent(15) {
            return self.count(device, process);
        }
        let own = self.rng.index(self.scenario.own_records + self.scenario.shared_records);
        let is_own = own < self.scenario.own_records;
        let key = if is_own {
            EntityKey::new("own", format!("d{device}-r{own}"))
        } else {
            EntityKey::new("shared", format!("r{own}"))
        };
        let Some(shown) = self.shown(device, process, &key) else { return Ok(()) };
        let operation = match (&shown, self.rng.below(10)) {
            (Some(Body::Live(_)), 0..=5) => Operation::Update,
            (Some(Body::Live(_)), 6) => Operation::Upsert,
            (Some(Body::Live(_)), 7) => Operation::Replace,
            (Some(Body::Live(_)), _) => Operation::Delete,
            (_, 0..=6) => Operation::Create,
            (_, 7) => Operation::Replace,
            _ => Operation::Upsert,
        };
        let mut change = Change::of(operation, key);
        if operation != Operation::Delete {
            for _ in 0..=self.rng.below(2) {
                let name = format!("f{}", self.rng.below(3));
                let old = shown.as_ref().and_then(Body::fields).and_then(|fields| fields.value(&name));
                match (old, self.rng.below(8)) {
                    (Some(_), 0) if matches!(operation, Operation::Update | Operation::Upsert) => {
                        change = change.unset(name);
                    }
                    // Setting what is already there must be harmless.
                    (Some(old), 1) => change = change.set(name, old.clone()),
                    _ => {
                        self.values += 1;
                        change = change.set(name, self.values);
                    }
                }
            }
        }
        self.hides_frozen = self.scenario.plant == Some(Plant::EditsFoldedIntoSent);
        let wanted = change.clone();
        self.devices[device].belief.intend(&wanted);
        let stepped = self.step(device, process, |step, tx| step.enqueue(tx, change))?;
        self.hides_frozen = false;
        match stepped {
            Stepped::Done(receipt) => {
                self.stats.changes += 1;
                self.say(format!("device {device}.{process}: {:?} {wanted:?}", receipt.outcome));
                self.devices[device].belief.acknowledged.extend(receipt.task);
                match is_own {
                    true => self.devices[device].belief.note(&wanted),
                    false => self.devices[device].belief.note_shared(&wanted),
                }
            }
            // Stored, but the user never heard. A careful user looks, and sees it.
            Stepped::Died if is_own => self.devices[device].belief.note(&wanted),
            Stepped::Died => self.devices[device].belief.note_shared(&wanted),
            Stepped::Refused => {
                let what = format!("a sensible change was refused: {wanted:?} on {shown:?}");
                return self.judge(Err(what));
            }
            Stepped::InDoubt(newest) => {
                let tentative = if is_own { Tentative::Own(wanted) } else { Tentative::Shared(wanted) };
                self.devices[device].doubts.extend(Doubt::new(newest, tentative));
            }
            Stepped::Failed => {}
        }
        Ok(())
    }

    /// The server begins with a record that everybody counts in.
    fn seed_the_counted_record(&mut self) {
        let body = r#"{"protocol":1,"client_id":"seed","client_epoch":1,"tasks":[{"key":"seed","task_id":"seed",
            "entity_type":"counted","entity_id":"c","operation":"create","fields":{"n":0,"s":[],"a":0,"b":0},
            "changed_at":"0000000000000-00000","schema":1}]}"#;
        while self.server.truth().stored("counted", "c").is_none() {
            drop(self.serve(body.as_bytes()));
        }
    }

    /// The user counts, adds to the set, or writes both members of the group, in the record that all do this to.
    fn count(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let key = EntityKey::new("counted", "c");
        let Some(shown) = self.shown(device, process, &key) else { return Ok(()) };
        let Some(Body::Live(fields)) = shown else { return Ok(()) };
        self.values += 1;
        let (fresh, step_by) = (self.values, i64::try_from(self.rng.below(9)).unwrap_or(0) - 3);
        let what = self.rng.below(3);
        let mut change = Change::update("counted", "c");
        match what {
            0 => {
                let Some(Value::Number(Number::Integer(n))) = fields.value("n") else { return Ok(()) };
                change = change.set("n", i64::try_from(*n).unwrap_or(0) + step_by);
            }
            1 => {
                let Some(Value::List(items)) = fields.value("s") else { return Ok(()) };
                let mut items = items.clone();
                items.push(fresh.into());
                change = change.set("s", Value::List(items));
            }
            _ => change = change.set("a", fresh).set("b", fresh),
        }
        let stepped = self.step(device, process, |step, tx| step.enqueue(tx, change))?;
        if let Stepped::Done(receipt) = &stepped {
            self.stats.changes += 1;
            self.devices[device].belief.acknowledged.extend(receipt.task);
        }
        let counted = match what {
            0 => Tentative::Counted(step_by),
            1 => Tentative::Added(fresh),
            _ => return Ok(()),
        };
        match stepped {
            Stepped::Done(_) | Stepped::Died => counted.believe(&mut self.devices[device].belief),
            Stepped::InDoubt(newest) => self.devices[device].doubts.extend(Doubt::new(newest, counted)),
            Stepped::Refused | Stepped::Failed => {}
        }
        Ok(())
    }

    /// The person at the device settles everything that waits for a decision.
    fn decide_all(&mut self, device: usize) -> Result<(), Violation> {
        let awake = |process: &Process| process.machine.is_some() && !process.suspended;
        let Some(process) = self.devices[device].processes.iter().position(awake) else { return Ok(()) };
        let which = ConflictQuery { open_only: true, ..ConflictQuery::default() };
        let open = {
            let Ok(tx) = self.home.store(device, process).and_then(Store::begin) else { return Ok(()) };
            let Ok(page) = tx.conflicts(&which, 100) else { return Ok(()) };
            page.conflicts
        };
        for conflict in open {
            self.values += 1;
            let mut resolution = decide(&mut self.rng, &conflict, self.values);
            if self.healed && self.rng.percent(50) {
                resolution = Resolution::KeepRemote;
            }
            if conflict.entity.entity_type == "counted" {
                // As the rules propose: only they can count.
                resolution = Resolution::Fields(BTreeMap::new());
            }
            for (name, value) in written_by(&resolution) {
                let write = (conflict.entity.clone(), name, format!("{value:?}"));
                self.devices[device].belief.written.insert(write);
            }
            self.say(format!("device {device}: {} is decided: {resolution:?}", conflict.id));
            let stepped = self.step(device, process, |step, tx| step.resolve(tx, conflict.id, &resolution));
            match stepped? {
                Stepped::Done(_) => self.stats.decided += 1,
                Stepped::Died | Stepped::InDoubt(_) => return Ok(()),
                Stepped::Refused | Stepped::Failed => {}
            }
            if self.devices[device].processes[process].machine.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The device reads every record that it may know, as a page of the change feed would bring it.
    fn read_all(&mut self, device: usize) -> Result<(), Violation> {
        let Some(process) = (0..self.devices[device].processes.len())
            .find(|p| self.devices[device].processes[*p].machine.is_some())
        else {
            return Ok(());
        };
        let mut records: Vec<RemoteEntity> = self
            .server
            .truth()
            .all_records()
            .map(|(kind, id, stored)| {
                let version = Some(Version(stored.version.to_string()));
                RemoteEntity::new(EntityKey::new(kind, id), body_of(stored.fields.as_ref()), version)
            })
            .collect();
        records.iter_mut().for_each(|remote| self.checks.stamp(remote));
        self.hides_frozen = self.scenario.plant == Some(Plant::MergeWhileUnknown);
        let stepped = self.step(device, process, |step, tx| {
            records.into_iter().try_for_each(|remote| step.remote_changed(tx, remote))
        });
        self.hides_frozen = false;
        stepped.map(drop)
    }

    fn trouble(&mut self, device: usize) {
        if self.healed {
            return;
        }
        if self.home.loses_power(device) {
            self.struck(device, 0, Some(Blow::PowerCut));
        }
        match self.rng.below(6) {
            0..=1 => {
                let process = self.rng.index(self.devices[device].processes.len());
                self.kill(device, process);
            }
            2 => {
                let jump = self.rng.below(3);
                self.devices[device].clock_error_ms =
                    [-YEAR_MS, 0, YEAR_MS][usize::try_from(jump).unwrap_or(1)];
                self.say(format!("device {device}: the clock jumps"));
            }
            3..=4 => {
                self.devices[device].online = !self.devices[device].online;
                let online = self.devices[device].online;
                self.say(format!("device {device}: online {online}"));
            }
            _ => {}
        }
        let wait = 500 + self.rng.below(20_000);
        self.later(wait, Happening::Trouble { device });
    }
}

pub(super) fn body_of(fields: Option<&landfall_protocol::Fields>) -> Body {
    match fields {
        None => Body::Deleted,
        Some(fields) => {
            Body::Live(Fields::parse(&fields.to_json()).expect("the simulation writes only small numbers"))
        }
    }
}

fn capabilities(policy: &Policy) -> Capabilities {
    Capabilities {
        batch_tasks: 100,
        batch_bytes: 1 << 20,
        effect: EffectClass::OneEffect,
        pull: true,
        orders_writes: policy.orders_writes,
        atomic_groups: true,
        actions: true,
        probe: false,
    }
}

fn commit_or_drop(tx: Option<Box<dyn StoreTx + '_>>, commits: bool) -> Result<(), StoreError> {
    match tx {
        Some(tx) if commits => tx.commit(),
        _ => Err(StoreError::Io("simulated".into())),
    }
}

/// Why a step did not come to its commit.
enum Trouble {
    Refused,
    Store,
}

trait IntoTrouble {
    fn into_trouble(self) -> Trouble;
}

impl IntoTrouble for StoreError {
    fn into_trouble(self) -> Trouble {
        Trouble::Store
    }
}

impl IntoTrouble for ResolveError {
    fn into_trouble(self) -> Trouble {
        match self {
            Self::Store(_) => Trouble::Store,
            _ => Trouble::Refused,
        }
    }
}

impl IntoTrouble for EnqueueError {
    fn into_trouble(self) -> Trouble {
        match self {
            Self::Store(_) => Trouble::Store,
            _ => Trouble::Refused,
        }
    }
}
