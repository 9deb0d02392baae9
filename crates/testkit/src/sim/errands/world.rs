//! The world: a calendar, devices that several accounts share, a network that fails, a server with a tenant for each
//! account, and the checks after every step. What users do is in `user.rs`.

use super::app::{ACCOUNTS, App, LANES, TYPES};
use super::checks::{Book, Place};
use super::{Plant, Scenario, Stats};
use crate::campaign;
use crate::rng::Rng;
use crate::sim::Violation;
use crate::sim::faulty_store::{FaultyTx, Lie, Wrong};
use crate::sim::habits::{Habits, Tries};
use crate::sim::network::{Fate, Forgotten, serve_page, serve_record, serve_with};
use landfall_adapters::http::HttpResponse;
use landfall_adapters::sync_endpoint::{decode_fetch, decode_pull, decode_push, encode_push};
use landfall_core::adapter::{CallContext, Capabilities, Outcome, Permit, PullRequest, PushBatch, PushReply};
use landfall_core::conflict::ResolveError;
use landfall_core::device::DeviceState;
use landfall_core::event::Event;
use landfall_core::explain::{Live, explain};
use landfall_core::export::{ExportedTask, each_task_of};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{CallId, EntityKey, Entropy, IdempotencyKey};
use landfall_core::machine::{
    Directions, Effect, EnqueueError, Machine, RestoreError, Scope, SessionEnd, Step, TaskError,
};
use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{Store, StoreError, StoreTx};
use landfall_core::task::{JournalEntry, TaskState, Verdict};
use landfall_core::time::{Mono, Now, Timestamp};
use landfall_server::state::MemoryRecords;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Where the true clock starts: some day in 2023.
const START_MS: i64 = 1_700_000_000_000;
/// How long users and faults go on.
pub(super) const CHAOS_MS: u64 = 120_000;
/// How long one round of healing may take.
const HEAL_MS: u64 = 4 * 3600 * 1000;
/// A year, for clocks that jump.
const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;
/// Rounds within which everything must have come to rest: in each a person takes up one letter of a chain.
pub(super) const ROUNDS: u32 = 32;
/// Lines of trace kept for a violation, unless one seed is looked at alone.
const TRACE: usize = 500;

/// Something that will happen.
pub(super) enum Happening {
    /// A user does something.
    Act { device: usize },
    /// A process has something due.
    Wake { device: usize, process: usize, life: u64 },
    /// A call that was handed out has its credentials and leaves, unless that was forbidden.
    Leave { from: Sender },
    /// A request reaches the server, or does not.
    Arrive { from: Sender, fate: Fate },
    /// A copy of a request reaches the server; nobody hears the answer.
    ArriveAgain { account: &'static str, batch: Rc<PushBatch>, body: Rc<Vec<u8>> },
    /// An answer reaches the device, whatever it is.
    Answer { from: Sender, answer: Result<HttpResponse, Failure> },
    /// A request to read leaves and reaches the server, or does not.
    Read { from: Reader, fate: Fate },
    /// An answer to it reaches the device.
    ReadAnswer { from: Reader, answer: Result<HttpResponse, Failure> },
    /// A process is started again.
    Start { device: usize, process: usize },
    /// Something bad happens to a device.
    Trouble { device: usize },
    /// The app on a device is replaced by a newer version.
    Upgrade { device: usize },
    /// The user moves to another device.
    Move { device: usize },
    /// The server's feed forgets what was deleted so far.
    Forget,
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
pub(super) struct Sender {
    device: usize,
    process: usize,
    life: u64,
    context: CallContext,
    batch: Rc<PushBatch>,
    body: Rc<Vec<u8>>,
    /// Whose credentials went with it.
    account: &'static str,
}

/// Who asked to read something, and what.
#[derive(Clone)]
pub(super) struct Reader {
    device: usize,
    process: usize,
    life: u64,
    account: &'static str,
    permit: Permit,
    call: CallId,
    wanted: Wanted,
}

#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Page(PullRequest),
    Record(EntityKey),
}

/// How a step ended for the one who asked.
pub(super) enum Stepped<T> {
    /// Durable.
    Done(T),
    /// Refused for its own reason; nothing was stored.
    Refused(String),
    /// The store failed, or the process died; whoever asked does not know what was stored.
    Failed,
}

/// One store and who works on it.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) store: MemoryStore,
    pub(super) processes: Vec<Process>,
    /// The device that its user began with.
    pub(super) line: usize,
    pub(super) clock_error_ms: i64,
    pub(super) online: bool,
    metered: bool,
    upgraded: bool,
    retired: bool,
}

/// One running program, until it is killed.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) machine: Option<Machine>,
    /// Whose queue is open in it.
    pub(super) account: &'static str,
    pub(super) life: u64,
    /// The host has put the app to sleep.
    pub(super) suspended: bool,
    pub(super) tries: Tries,
    woken_at: Option<u64>,
    /// The last calls of the machine that runs now: sending, and reading.
    last_calls: (Option<CallId>, Option<CallId>),
}

pub(super) struct World {
    seed: u64,
    pub(super) scenario: Scenario,
    pub(super) rng: Rng,
    pub(super) habits: Habits,
    pub(super) now_ms: u64,
    calendar: BTreeMap<(u64, u64), Happening>,
    order: u64,
    pub(super) devices: Vec<Device>,
    pub(super) app: App,
    servers: [MemoryRecords; 2],
    forgotten: [Forgotten; 2],
    pub(super) book: Book,
    pub(super) healed: bool,
    trace: VecDeque<String>,
    trace_max: usize,
    hash: u64,
    /// Keys of requests whose content was refused on the way.
    unacceptable: BTreeSet<IdempotencyKey>,
    /// Counts what was written, so that every value is written once.
    pub(super) values: u64,
    /// What the next step's store says wrongly.
    pub(super) lie: Option<Lie>,
}

impl World {
    pub(super) fn new(seed: u64, scenario: Scenario) -> Self {
        let mut world = Self {
            seed,
            app: App::draw(&mut Rng::new(seed, 3, 0)),
            rng: Rng::new(seed, 2, 0),
            habits: Habits::draw(seed, scenario.runs),
            now_ms: 0,
            calendar: BTreeMap::new(),
            order: 0,
            devices: Vec::new(),
            servers: [MemoryRecords::new("simulated"), MemoryRecords::new("simulated")],
            forgotten: [Forgotten::default(); 2],
            book: Book::default(),
            healed: false,
            trace: VecDeque::new(),
            trace_max: if campaign::is_one_seed() { usize::MAX } else { TRACE },
            hash: 0,
            unacceptable: BTreeSet::new(),
            values: 0,
            lie: None,
            scenario,
        };
        for device in 0..world.scenario.devices {
            world.add_device(device, false);
            if world.scenario.faults {
                let at = world.rng.below(CHAOS_MS);
                world.later(at, Happening::Trouble { device });
                if world.rng.percent(25) {
                    let at = world.rng.below(CHAOS_MS);
                    world.later(at, Happening::Move { device });
                }
            }
            if world.rng.percent(40) {
                let at = world.rng.below(CHAOS_MS);
                world.later(at, Happening::Upgrade { device });
            }
        }
        for _ in 0..world.scenario.actions {
            let (device, at) = (world.rng.index(world.devices.len()), world.rng.below(CHAOS_MS));
            world.later(at, Happening::Act { device });
        }
        if world.scenario.faults && world.rng.percent(30) {
            let at = world.rng.below(CHAOS_MS);
            world.later(at, Happening::Forget);
        }
        for device in 0..world.devices.len() {
            world.hear_later(device);
        }
        world
    }

    fn add_device(&mut self, line: usize, upgraded: bool) {
        let device = self.devices.len();
        let processes = if self.rng.percent(30) { 2 } else { 1 };
        let processes = (0..processes)
            .map(|_| {
                let account = ACCOUNTS[usize::from(self.rng.percent(30))];
                Process {
                    machine: None,
                    account,
                    life: 0,
                    suspended: false,
                    tries: Tries::default(),
                    woken_at: None,
                    last_calls: (None, None),
                }
            })
            .collect::<Vec<_>>();
        for process in 0..processes.len() {
            self.later(0, Happening::Start { device, process });
        }
        self.devices.push(Device {
            store: MemoryStore::default(),
            processes,
            line,
            clock_error_ms: 0,
            online: true,
            metered: false,
            upgraded,
            retired: false,
        });
    }

    /// Chaos, healing, judgement.
    pub(super) fn live(mut self) -> Result<Stats, Violation> {
        self.run_until(CHAOS_MS)?;
        self.heal();
        if self.habits.by_itself {
            self.come_to_rest_by_itself()?;
        } else {
            self.come_to_rest()?;
        }
        let outcome = self.judge_the_end();
        self.judge(outcome)?;
        self.book.stats.trace = self.hash;
        Ok(self.book.stats)
    }

    fn come_to_rest(&mut self) -> Result<(), Violation> {
        for round in 0.. {
            let quiet = self.nothing_is_queued();
            for account in ACCOUNTS {
                for device in 0..self.devices.len() {
                    self.tend(device, account, round)?;
                }
                let end = self.now_ms + HEAL_MS;
                self.run_until(end)?;
            }
            if quiet && self.nothing_is_queued() {
                break;
            }
            if round == ROUNDS {
                let left = self.what_is_queued();
                return self.judge(Err(format!("it never comes to rest: {left}")));
            }
        }
        Ok(())
    }

    fn judge_the_end(&mut self) -> Result<(), String> {
        self.book.finally()?;
        for device in
            (0..self.devices.len()).filter(|device| !self.devices[*device].retired).collect::<Vec<_>>()
        {
            for (tenant, account) in ACCOUNTS.into_iter().enumerate() {
                let place = Place { device, line: self.devices[device].line, account };
                let tx = open(&mut self.devices[device].store, account);
                self.book.shows_the_truth(place, &*tx, &self.servers[tenant])?;
            }
        }
        Ok(())
    }

    pub(super) fn run_until(&mut self, end: u64) -> Result<(), Violation> {
        // Whoever runs by itself is never at rest: the next run is always due some time.
        let may_rest = self.healed && !self.habits.by_itself;
        while let Some(entry) = self.calendar.first_entry() {
            if entry.key().0 > end || (may_rest && self.is_at_rest()) {
                break;
            }
            let Some(((at, _), happening)) = self.calendar.pop_first() else { break };
            self.now_ms = at;
            self.happen(happening)?;
        }
        self.now_ms = self.now_ms.max(if may_rest { self.now_ms } else { end });
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        let syncs = |process: &Process| process.machine.as_ref().is_some_and(Machine::is_syncing);
        !self.devices.iter().any(|device| device.processes.iter().any(syncs))
            && self.calendar.values().all(|happening| matches!(happening, Happening::Wake { .. }))
    }

    pub(super) fn nothing_is_queued(&mut self) -> bool {
        self.living().into_iter().all(|device| {
            let store = &mut self.devices[device].store;
            ACCOUNTS
                .iter()
                .all(|account| open(store, account).counts().is_ok_and(|counts| counts.total() == 0))
        })
    }

    pub(super) fn what_is_queued(&mut self) -> String {
        let mut all = Vec::new();
        for device in self.living() {
            for account in ACCOUNTS {
                let now = self.clock(device).wall;
                let tx = open(&mut self.devices[device].store, account);
                for task in tx.tasks_after(0, 10).unwrap_or_default().tasks {
                    let why = explain(&*tx, task.id, now, &Live::default()).ok().flatten();
                    all.push((task, why.map(|why| why.waits_for)));
                }
            }
        }
        format!("{all:#?}")
    }

    pub(super) fn living(&self) -> Vec<usize> {
        (0..self.devices.len()).filter(|device| !self.devices[*device].retired).collect()
    }

    /// From now on nothing goes wrong.
    fn heal(&mut self) {
        self.say("healed".into());
        self.healed = true;
        for device in &mut self.devices {
            device.online = true;
            device.metered = false;
            device.clock_error_ms = 0;
            if self.habits.by_itself {
                continue;
            }
            for process in &mut device.processes {
                process.machine = None;
                process.life += 1;
            }
        }
        if self.habits.by_itself {
            return self.calendar.retain(|_, happening| !happening.is_chaos());
        }
        let late = |happening: &Happening| {
            matches!(
                happening,
                Happening::Arrive { .. } | Happening::ArriveAgain { .. } | Happening::Start { .. }
            )
        };
        self.calendar.retain(|_, happening| late(happening));
    }

    /// A person sits down at a device with one account: everything goes on, everything is decided, everything is sent.
    fn tend(&mut self, device: usize, account: &'static str, round: u32) -> Result<(), Violation> {
        if self.devices[device].retired {
            return Ok(());
        }
        self.devices[device].processes[0].account = account;
        self.devices[device].processes[0].machine = None;
        self.start(device, 0)?;
        self.let_all_go(device, 0)?;
        self.decide_all(device, 0, round)?;
        self.step(device, 0, |step, _| {
            step.credentials_changed();
            step.connectivity_regained();
            step.start_session(SessionEnd::Drained { within: Duration::from_secs(3 * 3600) });
            Ok::<_, StoreError>(())
        })?;
        Ok(())
    }

    /// Whatever is paused goes on.
    pub(super) fn let_all_go(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        self.step(device, process, |step, tx| {
            step.resume(tx, &Scope::All)?;
            for name in TYPES {
                step.resume(tx, &Scope::Type(name.into()))?;
            }
            LANES.into_iter().try_for_each(|lane| step.resume(tx, &Scope::Lane(lane.into())))
        })
        .map(drop)
    }

    pub(super) fn judge(&self, outcome: Result<(), String>) -> Result<(), Violation> {
        outcome.map_err(|what| Violation {
            seed: self.seed,
            what,
            trace: self.trace.iter().cloned().collect(),
        })
    }

    pub(super) fn later(&mut self, wait_ms: u64, happening: Happening) {
        self.order += 1;
        self.calendar.insert((self.now_ms + wait_ms, self.order), happening);
    }

    pub(super) fn say(&mut self, line: String) {
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.trace.len() == self.trace_max {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>9} {line}", self.now_ms));
    }

    pub(super) fn count(&mut self, what: &'static str) {
        self.book.stats.count(what);
    }

    pub(super) fn is_upgraded(&self, device: usize) -> bool {
        self.devices[device].upgraded
    }

    pub(super) fn chaos(&self) -> bool {
        self.scenario.faults && !self.healed
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Act { device } => {
                let device = self.now_used(device);
                let process = self.rng.index(self.devices[device].processes.len());
                if self.is_awake(device, process) {
                    self.act(device, process)?;
                    self.look_later(device);
                }
                Ok(())
            }
            Happening::Wake { device, process, life } => {
                let process_now = &mut self.devices[device].processes[process];
                process_now.woken_at = None;
                if process_now.life != life {
                    return Ok(());
                }
                let stepped = self.step(device, process, |step, _| {
                    step.wake();
                    Ok::<_, StoreError>(())
                })?;
                if matches!(stepped, Stepped::Failed) {
                    self.poke(device, process);
                }
                Ok(())
            }
            Happening::Leave { from } => self.leave(from),
            Happening::Arrive { from, fate } => self.arrive(from, fate),
            Happening::ArriveAgain { account, batch, body } => {
                if batch.tasks.iter().any(|task| self.unacceptable.contains(&task.key)) {
                    self.say("a late copy is refused like the one before".into());
                    return Ok(());
                }
                self.count("late copies");
                self.say("a late copy arrives".into());
                self.serve(account, &body).map(drop)
            }
            Happening::Answer { from, answer } => self.answer(from, answer),
            Happening::Read { from, fate } => {
                self.read_arrives(from, fate);
                Ok(())
            }
            Happening::ReadAnswer { from, answer } => self.read_answer(from, answer),
            Happening::Start { device, process } => self.start(device, process),
            Happening::Trouble { device } => {
                let now = self.now_used(device);
                self.trouble(now)?;
                let wait = 500 + self.rng.below(20_000);
                self.later(wait, Happening::Trouble { device });
                Ok(())
            }
            Happening::Upgrade { device } => {
                let device = self.now_used(device);
                self.count("upgrades");
                self.say(format!("device {device} is upgraded"));
                self.devices[device].upgraded = true;
                for process in 0..self.devices[device].processes.len() {
                    self.kill(device, process);
                }
                Ok(())
            }
            Happening::Move { device } => {
                let device = self.now_used(device);
                self.move_to_another(device)
            }
            Happening::Forget => {
                let tenant = self.rng.index(2);
                self.forgotten[tenant].times += 1;
                self.forgotten[tenant].up_to = self.servers[tenant].last_version();
                self.say("the feed forgets what was deleted".into());
                Ok(())
            }
            Happening::Hear { device } => self.hear(device),
            Happening::SwitchOn { device, process } => self.switch_on(device, process),
            Happening::Resume { device, process } => self.resume_app(device, process),
            Happening::LogIn { device, process } => self.log_in(device, process),
            Happening::Look { device } => self.look(device),
            Happening::Probed { device, process, life, call, found } => {
                self.probed(device, process, life, call, found)
            }
        }
    }

    /// The device that is used in the place of `device` now.
    pub(super) fn now_used(&self, device: usize) -> usize {
        let line = self.devices[device].line;
        self.living().into_iter().rfind(|now| self.devices[*now].line == line).unwrap_or(device)
    }

    // ---- the device's side ---------------------------------------------------------------------------------------

    pub(super) fn clock(&self, device: usize) -> Now {
        let true_ms = i64::try_from(self.now_ms).unwrap_or(i64::MAX);
        Now {
            wall: Timestamp(START_MS + true_ms + self.devices[device].clock_error_ms),
            mono: Mono(self.now_ms),
        }
    }

    pub(super) fn place(&self, device: usize, process: usize) -> Place {
        let account = self.devices[device].processes[process].account;
        Place { device, line: self.devices[device].line, account }
    }

    /// A transaction that reads what the process has open.
    pub(super) fn peek(&mut self, device: usize, process: usize) -> Box<dyn StoreTx + '_> {
        let Device { store, processes, .. } = &mut self.devices[device];
        open(store, processes[process].account)
    }

    pub(super) fn start(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let state = &self.devices[device];
        let sleeps = self.healed && process > 0 && !self.habits.by_itself;
        if state.processes[process].machine.is_some() || state.retired || sleeps {
            return Ok(());
        }
        let machine = self.opened(device, process);
        let state = &mut self.devices[device].processes[process];
        state.machine = Some(machine);
        state.life += 1;
        state.suspended = false;
        state.tries = Tries::begin(self.now_ms);
        state.woken_at = None;
        let account = state.account;
        self.say(format!("device {device}.{process} starts as {account}"));
        self.switch_on(device, process)?;
        self.tell_of_the_network(device)
    }

    fn opened(&mut self, device: usize, process: usize) -> Machine {
        let (seed, entropy) = (self.rng.next(), Entropy(self.rng.bytes()));
        let Device { store, processes, upgraded, .. } = &mut self.devices[device];
        let account = processes[process].account;
        let mut config = self.app.config(seed, *upgraded, self.scenario.plant);
        self.habits.configure(&mut config.retry);
        // The app says what the feed covers: else what was deleted before it brought the first of a type stays.
        config.pull.types = Some(TYPES.into_iter().map(String::from).collect());
        let capabilities = Capabilities { probe: self.habits.probe, ..self.app.capabilities() };
        let mut tx = open(store, account);
        let opened = Machine::open(config, capabilities, &entropy, &mut *tx);
        let machine = opened.expect("the memory store does not fail by itself");
        tx.commit().expect("the memory store does not fail by itself");
        machine.for_identity(Some(account))
    }

    /// After a failed commit the machine is opened anew, and what it has handed out is on its way all the same.
    fn reopen(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let mut machine = self.opened(device, process);
        let now = self.clock(device);
        let state = &mut self.devices[device].processes[process];
        if let Some(old) = &state.machine {
            machine.follow(old);
            // Who was told to sleep in the step that has failed is awake, and the app was told that it has.
            state.suspended &= old.live(now).is_suspended;
        }
        state.machine = Some(machine);
        state.woken_at = None;
        self.begins_anew(device, process);
        self.tell_of_the_network(device)
    }

    /// The queue in a process changes hands, as the engine does it.
    pub(super) fn switch(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let Some(machine) = &self.devices[device].processes[process].machine else { return Ok(()) };
        machine.withdraw_permits();
        let busy = machine.leads() || machine.is_syncing();
        if busy {
            self.step(device, process, |step, _| {
                step.stop_session();
                Ok::<_, StoreError>(())
            })?;
        }
        let account = self.devices[device].processes[process].account;
        let next = ACCOUNTS.into_iter().find(|other| *other != account).unwrap_or(account);
        self.devices[device].processes[process].account = next;
        if self.devices[device].processes[process].machine.is_none() {
            return Ok(());
        }
        self.say(format!("device {device}.{process} changes hands: {next}"));
        self.count(if busy { "switches with work in flight" } else { "switches" });
        let mut machine = self.opened(device, process);
        let state = &mut self.devices[device].processes[process];
        if let Some(old) = &state.machine {
            machine.follow(old);
        }
        state.machine = Some(machine);
        state.woken_at = None;
        state.last_calls = (None, None);
        self.begins_anew(device, process);
        self.tell_of_the_network(device)
    }

    pub(super) fn tell_of_the_network(&mut self, device: usize) -> Result<(), Violation> {
        let metered = self.devices[device].metered;
        for process in 0..self.devices[device].processes.len() {
            let told = self.devices[device].processes[process].machine.as_ref().map(Machine::is_metered);
            if told.is_some_and(|told| told != metered) {
                self.step(device, process, |step, tx| {
                    step.device_changed(tx, &DeviceState::metered(metered))
                })?;
            }
        }
        Ok(())
    }

    fn kill(&mut self, device: usize, process: usize) {
        if self.devices[device].processes[process].machine.take().is_some() {
            self.count("deaths");
            self.devices[device].processes[process].life += 1;
            self.say(format!("device {device}.{process} dies"));
            let wait = self.rng.below(8_000);
            self.later(wait, Happening::Start { device, process });
        }
    }

    fn trouble(&mut self, device: usize) -> Result<(), Violation> {
        match self.rng.below(8) {
            0..=1 => {
                let process = self.rng.index(self.devices[device].processes.len());
                self.kill(device, process);
            }
            2 => {
                let jump = [-YEAR_MS, 0, YEAR_MS][self.rng.index(3)];
                self.devices[device].clock_error_ms = jump;
                self.say(format!("device {device}: the clock jumps"));
            }
            3..=4 => {
                self.devices[device].online = !self.devices[device].online;
                let online = self.devices[device].online;
                self.say(format!("device {device}: online {online}"));
            }
            5..=6 => {
                self.devices[device].metered = !self.devices[device].metered;
                let metered = self.devices[device].metered;
                self.say(format!("device {device}: metered {metered}"));
                self.tell_of_the_network(device)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The user takes a new device: what was not synced moves, and the old one stops for ever.
    fn move_to_another(&mut self, device: usize) -> Result<(), Violation> {
        for process in 0..self.devices[device].processes.len() {
            self.kill(device, process);
        }
        self.devices[device].retired = true;
        let (line, upgraded) = (self.devices[device].line, self.devices[device].upgraded);
        let to = self.devices.len();
        self.add_device(line, upgraded);
        self.say(format!("device {device} is replaced by {to}"));
        for account in ACCOUNTS {
            let tx = open(&mut self.devices[device].store, account);
            let mut lines = Vec::new();
            let exported = each_task_of(&*tx, &self.app.model, |task| {
                lines.push(task.map_err(|row| StoreError::Damaged(row.what))?.to_json());
                Ok::<_, StoreError>(())
            });
            drop(tx);
            exported.expect("the memory store does not fail by itself");
            if !lines.is_empty() {
                self.count("exports");
            }
            self.devices[to].processes[0].account = account;
            loop {
                self.devices[to].processes[0].machine = None;
                self.start(to, 0)?;
                let tasks = lines.clone();
                let stepped = self.step(to, 0, |step, tx| {
                    for line in &tasks {
                        step.restore(tx, ExportedTask::from_json(line)?)?;
                    }
                    Ok::<_, RestoreError>(())
                })?;
                match stepped {
                    Stepped::Done(()) => break,
                    Stepped::Refused(why) => return self.judge(Err(format!("an export is refused: {why}"))),
                    Stepped::Failed => {}
                }
            }
        }
        for account in ACCOUNTS {
            let tx = open(&mut self.devices[to].store, account);
            let outcome = self.book.moved(device, Place { device: to, line, account }, &*tx);
            drop(tx);
            self.judge(outcome)?;
        }
        Ok(())
    }

    /// One step of a machine with everything that can go wrong around a commit.
    pub(super) fn step<T, E: IntoTrouble>(
        &mut self,
        device: usize,
        process: usize,
        work: impl FnOnce(&mut Step, &mut dyn StoreTx) -> Result<T, E>,
    ) -> Result<Stepped<T>, Violation> {
        let now = self.clock(device);
        let entropy = Entropy(self.rng.bytes());
        let chaos = self.chaos();
        let mut wrong = Wrong { lie: self.lie.or_else(|| self.standing_lie()), ..Wrong::default() };
        if chaos && self.rng.percent(2) {
            wrong.fail_at = Some(1 + u32::try_from(self.rng.below(60)).unwrap_or(0));
        }
        let commit_fails = chaos && self.rng.percent(2);
        let landed = self.rng.percent(50);
        let dies = chaos && self.rng.percent(1);
        let alive: Vec<String> = (0..self.devices[device].processes.len())
            .filter(|other| self.devices[device].processes[*other].machine.is_some())
            .map(|other| self.holder(device, other))
            .collect();
        let knows_the_dead = self.healed || self.rng.percent(50);
        let is_gone = |holder: &str| knows_the_dead && !alive.iter().any(|living| living == holder);
        let (me, place) = (self.holder(device, process), self.place(device, process));
        if self.scenario.plant == Some(Plant::SentExpires) {
            let Device { store, .. } = &mut self.devices[device];
            expire_the_sent(open(store, place.account), now.wall);
        }
        let Device { store, processes, .. } = &mut self.devices[device];
        let Some(machine) = processes[process].machine.as_mut() else { return Ok(Stepped::Failed) };

        let mut step = machine.step(now, entropy);
        let mut tx: Box<dyn StoreTx + '_> = Box::new(FaultyTx::new(open(store, place.account), wrong));
        let prepared = work(&mut step, &mut *tx).map_err(IntoTrouble::into_trouble).and_then(|value| {
            let failed = Trouble::Store;
            step.start_if_due(&*tx).map_err(failed)?;
            if step.needs_lease() {
                step.lead(&mut *tx, &me, &is_gone).map_err(failed)?;
            }
            step.finish(&mut *tx).map_err(failed)?;
            Ok(value)
        });
        let value = match prepared {
            Ok(value) => value,
            Err(trouble) => {
                drop(tx);
                match trouble {
                    Trouble::Refused(why) => return Ok(Stepped::Refused(why)),
                    Trouble::Store(error) if wrong.fail_at.is_none() => {
                        return self
                            .judge(Err(format!("a step fails by itself: {error}")))
                            .map(|()| Stepped::Failed);
                    }
                    Trouble::Store(_) => {}
                }
                self.count("failed commits");
                self.schedule_wake(device, process);
                return Ok(Stepped::Failed);
            }
        };
        if commit_fails && !landed {
            drop(tx);
        } else {
            tx.commit().expect("the memory store does not fail by itself");
            if let Err(mut violation) = self.observe(place) {
                if let Some(machine) = self.devices[device].processes[process].machine.as_mut() {
                    let told = machine.apply(step).into_iter().map(|effect| format!("     then {effect:?}"));
                    violation.trace.extend(told);
                }
                return Err(violation);
            }
        }
        if commit_fails {
            // What the engine does: reopen, look whether it is there, begin anew.
            self.count("failed commits");
            self.say(format!("device {device}.{process}: a commit fails (landed: {landed})"));
            self.reopen(device, process)?;
            return Ok(if landed { Stepped::Done(value) } else { Stepped::Failed });
        }
        if dies {
            // After the commit, before anything of it leaves.
            self.kill(device, process);
            return Ok(Stepped::Failed);
        }
        let Some(machine) = self.devices[device].processes[process].machine.as_mut() else {
            return Ok(Stepped::Failed);
        };
        let effects = machine.apply(step);
        self.carry_out(device, process, effects)?;
        self.schedule_wake(device, process);
        if self.rng.percent(4) {
            self.explain_all(device, process)?;
        }
        Ok(Stepped::Done(value))
    }

    fn standing_lie(&self) -> Option<Lie> {
        match self.scenario.plant {
            Some(Plant::DependenciesForgotten) => Some(Lie::NoDependencies),
            Some(Plant::GroupTorn) => Some(Lie::SmallerGroups),
            Some(Plant::IdsForgotten) => Some(Lie::NoServerIds),
            Some(Plant::PauseIgnored) => Some(Lie::NothingPaused),
            Some(Plant::AtMostOnceForgotten) => Some(Lie::NoAtMostOnce),
            _ => None,
        }
    }

    fn observe(&mut self, place: Place) -> Result<(), Violation> {
        let Device { store, upgraded, .. } = &mut self.devices[place.device];
        let tx = open(store, place.account);
        let outcome = self.book.after_step(place, &*tx, (&self.app, *upgraded));
        drop(tx);
        self.judge(outcome)
    }

    fn explain_all(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let (place, now) = (self.place(device, process), self.clock(device));
        let Device { store, processes, .. } = &mut self.devices[device];
        let Some(machine) = &processes[process].machine else { return Ok(()) };
        let live = machine.live(now);
        // One that was opened anew a moment ago knows its next run after its first step.
        if live.is_automatic && !live.is_suspended && machine.next_wakeup().is_none() {
            return Ok(());
        }
        let tx = open(store, place.account);
        let outcome = self.book.explains(place, &*tx, now.wall, &live);
        drop(tx);
        self.judge(outcome)
    }

    fn holder(&self, device: usize, process: usize) -> String {
        format!("{device}.{process}.{}", self.devices[device].processes[process].life)
    }

    fn schedule_wake(&mut self, device: usize, process: usize) {
        let now_ms = self.now_ms;
        let state = &mut self.devices[device].processes[process];
        let Some(at) = state.machine.as_ref().and_then(Machine::next_wakeup) else { return };
        let at = at.0.max(now_ms + 1);
        if state.woken_at.is_none_or(|known| at < known) {
            state.woken_at = Some(at);
            let life = state.life;
            self.later(at - now_ms, Happening::Wake { device, process, life });
        }
    }

    fn carry_out(&mut self, device: usize, process: usize, effects: Vec<Effect>) -> Result<(), Violation> {
        for effect in effects {
            let outcome = self.may_leave(device, process, &effect);
            self.judge(outcome)?;
            match effect {
                Effect::Push { context, batch } => self.hand_out(device, process, context, batch)?,
                Effect::Pull { context, call, request } => {
                    self.read(device, process, &context, call, Wanted::Page(request));
                }
                Effect::Fetch { context, call, entity } => {
                    self.read(device, process, &context, call, Wanted::Record(entity));
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
                    match &event {
                        Event::IdLearned { .. } => self.count("ids learnt"),
                        Event::Coalesced { .. } => self.count("changes folded"),
                        Event::Conflicted { .. } => self.count("conflicts"),
                        Event::Pulled { .. } => self.count("pages"),
                        Event::Reconciling => self.count("readings from the beginning"),
                        Event::SessionStarted if self.habits.by_itself => self.count("runs by themselves"),
                        Event::GateClosed { why: FailureKind::Unauthenticated, .. } => {
                            self.log_in_later(device, process);
                        }
                        Event::Damaged { what } => return self.judge(Err(format!("damaged: {what}"))),
                        _ => {}
                    }
                    self.say(format!("device {device}.{process}: {event:?}"));
                }
                Effect::Cancel(_) | Effect::SessionEnded(_) => {}
                other => self.say(format!("nobody carries out {other:?}")),
            }
        }
        Ok(())
    }

    // ---- the network ---------------------------------------------------------------------------------------------

    fn hand_out(
        &mut self,
        device: usize,
        process: usize,
        context: CallContext,
        batch: PushBatch,
    ) -> Result<(), Violation> {
        let place = self.place(device, process);
        let Device { store, processes, upgraded, .. } = &mut self.devices[device];
        let metered = processes[process].machine.as_ref().is_some_and(Machine::is_metered);
        let tx = open(store, place.account);
        let outcome = self.book.handed_out(place, &*tx, (&context, &batch), (*upgraded, metered));
        drop(tx);
        self.count("calls");
        let tasks: Vec<_> = batch.tasks.iter().map(|task| task.task_id.to_string()).collect();
        self.say(format!("device {device}.{process} hands out {:?}: {tasks:?}", batch.call));
        self.judge(outcome)?;
        self.devices[device].processes[process].last_calls.0 = Some(batch.call);
        let body = Rc::new(encode_push(&context, &batch));
        let life = self.devices[device].processes[process].life;
        let account = place.account;
        let from = Sender { device, process, life, context, batch: Rc::new(batch), body, account };
        // Credentials come from the app, which may take its time.
        let wait =
            if self.chaos() && self.rng.percent(15) { self.rng.below(5_000) } else { self.rng.below(20) };
        self.later(wait, Happening::Leave { from });
        Ok(())
    }

    fn leave(&mut self, mut from: Sender) -> Result<(), Violation> {
        let Sender { device, process, .. } = from;
        if self.devices[device].processes[process].life != from.life {
            return Ok(());
        }
        if self.devices[device].processes[process].suspended {
            self.count("calls that slept");
            self.later(1_000, Happening::Leave { from });
            return Ok(());
        }
        if self.scenario.plant == Some(Plant::CredentialsOfWhoeverIsThere) {
            from.account = self.devices[device].processes[process].account;
        } else if from.context.permit.is_withdrawn() {
            self.count("calls that were forbidden to leave");
            let why = Failure::new(FailureKind::Cancelled, Delivery::NotSent, "the queue has changed hands");
            self.later(1, Happening::Answer { from, answer: Err(why) });
            return Ok(());
        }
        let mut fate = if self.chaos() && self.rng.percent(4) {
            Fate::Turned([400, 403, 413][self.rng.index(3)])
        } else {
            let chaos = self.chaos();
            Fate::draw(&mut self.rng, chaos)
        };
        if !self.devices[device].online {
            fate = Fate::Refused;
        }
        self.say(format!("device {device}.{process}: {:?} leaves: {fate:?}", from.batch.call));
        if fate != Fate::Refused {
            let outcome = self.book.leaving(from.account, &from.batch);
            self.judge(outcome)?;
        }
        let wait = 1 + self.rng.below(400);
        self.later(wait, Happening::Arrive { from, fate });
        Ok(())
    }

    fn arrive(&mut self, from: Sender, mut fate: Fate) -> Result<(), Violation> {
        if matches!(fate, Fate::Turned(400 | 413)) && self.book.took_effect(&from.batch) {
            // Nobody refuses for its content what he has accepted.
            fate = Fate::Turned(503);
        }
        let again = Happening::ArriveAgain {
            account: from.account,
            batch: Rc::clone(&from.batch),
            body: Rc::clone(&from.body),
        };
        if matches!(fate, Fate::Turned(400 | 413)) {
            // The content is refused, and every copy of it will be.
            self.unacceptable.extend(from.batch.tasks.iter().map(|task| task.key));
        }
        let mut reply = None;
        if fate.reaches() {
            reply = Some(self.serve(from.account, &from.body)?);
            if fate == Fate::Doubled {
                self.count("doubled requests");
                self.serve(from.account, &from.body)?;
            }
            if fate == Fate::LateDouble || (self.chaos() && self.rng.percent(5)) {
                let wait = 1 + self.rng.below(90_000);
                self.later(wait, again);
            }
        } else if matches!(fate, Fate::Turned(401 | 429 | 500 | 503) | Fate::Portal | Fate::RequestLost)
            && self.rng.percent(20)
        {
            // Turned away in words, and yet a copy of it gets through later.
            let wait = 1 + self.rng.below(90_000);
            self.later(wait, again);
        }
        if fate != Fate::Fine {
            self.count("bad answers");
        }
        let answer = match fate {
            Fate::Turned(status @ (400 | 403 | 413)) => {
                Ok(HttpResponse::new(status, "application/problem+json", "{}"))
            }
            _ => fate.answer(&mut self.rng, reply),
        };
        let wait = if answer.is_err() && fate != Fate::Refused { 30_000 } else { 1 + self.rng.below(400) };
        self.later(wait, Happening::Answer { from, answer });
        Ok(())
    }

    fn serve(&mut self, account: &'static str, body: &[u8]) -> Result<HttpResponse, Violation> {
        let tenant = usize::from(account != ACCOUNTS[0]);
        let reply = serve_with(&mut self.servers[tenant], &self.app.policies, body);
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        self.say(format!("the server answers {account}: {said}"));
        let outcome = self.book.served(account, &self.servers[tenant]);
        self.judge(outcome)?;
        Ok(reply)
    }

    fn answer(&mut self, from: Sender, answer: Result<HttpResponse, Failure>) -> Result<(), Violation> {
        let Sender { device, process, .. } = from;
        let state = &self.devices[device].processes[process];
        if state.life != from.life || state.machine.is_none() {
            return Ok(());
        }
        if state.account != from.account {
            let believed = self.scenario.plant == Some(Plant::LateAnswerBelieved) && !self.healed;
            if believed && state.last_calls.0.is_none() {
                self.later(100, Happening::Answer { from, answer });
                return Ok(());
            }
            self.count("late answers after a switch");
        }
        let mut decoded = match &answer {
            Ok(response) => decode_push(&from.batch, response),
            Err(failure) => Err(copy(failure)),
        };
        if let Ok(reply) = &mut decoded {
            let true_ms = i64::try_from(self.now_ms).unwrap_or(i64::MAX);
            reply.server_time = Some(Timestamp(START_MS + true_ms));
        }
        self.call_answered(device, process, decoded.as_ref().err().map(|failure| failure.kind));
        let mut call = from.batch.call;
        let state = &self.devices[device].processes[process];
        if self.scenario.plant == Some(Plant::LateAnswerBelieved) && state.account != from.account {
            call = state.last_calls.0.unwrap_or(call);
        }
        let stepped = self.step(device, process, |step, tx| step.pushed(tx, call, &decoded))?;
        // What the words prove is true also for a process that dies between its commit and its next breath.
        self.book.turned_away(in_words(&from.batch, &decoded).into_iter());
        if let Stepped::Failed = stepped {
            self.later(500, Happening::Answer { from, answer });
        }
        Ok(())
    }

    fn read(&mut self, device: usize, process: usize, context: &CallContext, call: CallId, wanted: Wanted) {
        let life = self.devices[device].processes[process].life;
        let account = self.devices[device].processes[process].account;
        let chaos = self.chaos();
        let mut fate = Fate::draw(&mut self.rng, chaos);
        if !self.devices[device].online {
            fate = Fate::Refused;
        }
        self.devices[device].processes[process].last_calls.1 = Some(call);
        self.say(format!("device {device}.{process} asks for {wanted:?}: {fate:?}"));
        let wait = 1 + self.rng.below(400);
        let permit = context.permit.clone();
        let from = Reader { device, process, life, account, permit, call, wanted };
        self.later(wait, Happening::Read { from, fate });
    }

    fn read_arrives(&mut self, from: Reader, fate: Fate) {
        if from.permit.is_withdrawn() && self.scenario.plant.is_none() && self.rng.percent(50) {
            let why = Failure::new(FailureKind::Cancelled, Delivery::NotSent, "the queue has changed hands");
            return self.later(1, Happening::ReadAnswer { from, answer: Err(why) });
        }
        let tenant = usize::from(from.account != ACCOUNTS[0]);
        let reply = fate.reaches().then(|| match &from.wanted {
            Wanted::Page(request) => serve_page(&self.servers[tenant], request, self.forgotten[tenant]),
            Wanted::Record(key) => serve_record(&self.servers[tenant], key),
        });
        let answer = fate.answer(&mut self.rng, reply);
        let slow = if self.chaos() && self.rng.percent(20) { 10_000 } else { 400 };
        let wait = if answer.is_err() && fate != Fate::Refused { 30_000 } else { 1 + self.rng.below(slow) };
        self.later(wait, Happening::ReadAnswer { from, answer });
    }

    fn read_answer(&mut self, from: Reader, answer: Result<HttpResponse, Failure>) -> Result<(), Violation> {
        let Reader { device, process, mut call, .. } = from;
        let state = &self.devices[device].processes[process];
        if state.life != from.life || state.machine.is_none() {
            return Ok(());
        }
        if state.account != from.account {
            if self.scenario.plant == Some(Plant::LateAnswerBelieved) && !self.healed {
                if state.last_calls.1.is_none() {
                    self.later(100, Happening::ReadAnswer { from, answer });
                    return Ok(());
                }
                call = state.last_calls.1.unwrap_or(call);
            }
            self.count("late pages after a switch");
        }
        let stepped = match &from.wanted {
            Wanted::Page(request) => {
                let page = match &answer {
                    Ok(response) => decode_pull(request, response),
                    Err(failure) => Err(copy(failure)),
                };
                self.call_answered(device, process, page.as_ref().err().map(|failure| failure.kind));
                self.step(device, process, |step, tx| step.pulled(tx, call, &page))?
            }
            Wanted::Record(key) => {
                let record = match &answer {
                    Ok(response) => decode_fetch(key, response),
                    Err(failure) => Err(copy(failure)),
                };
                self.call_answered(device, process, record.as_ref().err().map(|failure| failure.kind));
                self.step(device, process, |step, tx| step.fetched(tx, call, &record))?
            }
        };
        if matches!(stepped, Stepped::Failed) {
            self.later(500, Happening::ReadAnswer { from, answer });
        }
        Ok(())
    }

    pub(super) fn sync(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        if !self.habits.on_demand {
            return Ok(());
        }
        let end = if self.rng.percent(50) {
            SessionEnd::Drained { within: Duration::from_secs(30) }
        } else {
            SessionEnd::OnePass
        };
        let directions = match self.rng.below(10) {
            0 => Directions::PushOnly,
            1 => Directions::PullOnly,
            _ => Directions::Both,
        };
        self.step(device, process, |step, _| {
            step.credentials_changed();
            step.start_session_of(end, directions);
            Ok::<_, StoreError>(())
        })
        .map(drop)
    }
}

/// A transaction on the queue of an account.
pub(super) fn open<'s>(store: &'s mut MemoryStore, account: &str) -> Box<dyn StoreTx + 's> {
    store.switch_identity(Some(account)).expect("the name of an account is short");
    store.begin().expect("the memory store does not fail by itself")
}

/// Ends tasks whose time is over although bytes of them may have acted.
fn expire_the_sent(mut tx: Box<dyn StoreTx + '_>, now: Timestamp) {
    for task in tx.tasks_after(0, usize::MAX).unwrap_or_default().tasks {
        let is_sent = matches!(task.state, TaskState::Unknown { .. });
        if is_sent && task.terms.expires_at.is_some_and(|at| at <= now) {
            let entry = JournalEntry {
                task_id: task.id,
                entity: task.entity.clone(),
                generation: task.generation,
                verdict: Verdict::Expired,
                version: None,
                at: now,
                payload: "{}".into(),
                became: None,
            };
            tx.settle_task(&task, &entry).expect("the task is there");
        }
    }
    tx.commit().expect("the memory store does not fail by itself");
}

fn copy(failure: &Failure) -> Failure {
    Failure::new(failure.kind, failure.delivery, failure.message.clone())
}

/// The keys of a call of which its answer says in words that nothing was done.
fn in_words(batch: &PushBatch, answer: &Result<PushReply, Failure>) -> Vec<IdempotencyKey> {
    use FailureKind as Kind;
    match answer {
        Ok(reply) => {
            let open = |outcome: &Outcome| matches!(outcome, Outcome::Unknown { .. });
            reply.results.iter().filter(|(_, outcome)| !open(outcome)).map(|(key, _)| *key).collect()
        }
        Err(failure)
            if failure.delivery == Delivery::Answered
                && !matches!(failure.kind, Kind::Transient | Kind::Protocol) =>
        {
            batch.tasks.iter().map(|task| task.key).collect()
        }
        Err(_) => Vec::new(),
    }
}

/// Why a step did not come to its commit.
pub(super) enum Trouble {
    Refused(String),
    Store(StoreError),
}

pub(super) trait IntoTrouble {
    fn into_trouble(self) -> Trouble;
}

impl Happening {
    /// What happens to people and devices no more when all has healed.
    const fn is_chaos(&self) -> bool {
        matches!(
            self,
            Self::Act { .. }
                | Self::Trouble { .. }
                | Self::Upgrade { .. }
                | Self::Move { .. }
                | Self::Forget
                | Self::Hear { .. }
        )
    }
}

impl IntoTrouble for StoreError {
    fn into_trouble(self) -> Trouble {
        Trouble::Store(self)
    }
}

macro_rules! refusals {
    ($($error:ty),*) => {$(
        impl IntoTrouble for $error {
            fn into_trouble(self) -> Trouble {
                match self {
                    Self::Store(error) => Trouble::Store(error),
                    other => Trouble::Refused(other.to_string()),
                }
            }
        }
    )*};
}

refusals!(ResolveError, EnqueueError, TaskError, RestoreError);
