//! A fleet: many devices that run by themselves against one server, in virtual time.
//!
//! Each device is the real machine on a memory store; each person has a tenant of their own, so the server's real rules
//! answer and only its load is shared. A calendar wakes every machine at its own alarm and nothing else does. Looked at
//! from the server's side: how many requests come in which second, and what of them was of use.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_adapters::http::HttpResponse;
use landfall_adapters::sync_endpoint::{decode_pull, decode_push, encode_push};
use landfall_core::adapter::{Capabilities, EffectClass, PullRequest, PushBatch};
use landfall_core::change::Change;
use landfall_core::config::{AutoConfig, Config, RetryConfig};
use landfall_core::device::DeviceState;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{CallId, Entropy};
use landfall_core::machine::{Effect, Machine, Step};
use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{Store, StoreTx};
use landfall_core::time::{Mono, Now, Timestamp};
use landfall_protocol::PushRequest;
use landfall_server::state::{MemoryRecords, changes, push};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const START_MS: i64 = 1_700_000_000_000;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const WEEK: u64 = 7 * 24 * HOUR;
/// Devices that hear the same news.
const MANY: usize = 1_000;
/// Changes that wait in each of them.
const QUEUED: usize = 3;

/// How the way to the server and the server itself are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Fine,
    /// Nobody listens.
    Refused,
    /// It answers 500 to everything.
    Broken,
    /// It takes so many requests in a second, and turns the rest away: by turns with 503 and 429.
    Narrow {
        per_second: u32,
        retry_after: Option<u32>,
    },
}

#[derive(Clone, Debug)]
enum Call {
    Push(Rc<PushBatch>, Rc<Vec<u8>>),
    Pull(CallId, PullRequest),
    Probe(CallId),
}

type Answer = Result<HttpResponse, Failure>;

enum Happening {
    Wake { device: usize, life: u64 },
    Arrive { device: usize, life: u64, call: Call },
    Answer { device: usize, life: u64, call: Call, answer: Answer },
}

struct Device {
    store: MemoryStore,
    machine: Machine,
    capabilities: Capabilities,
    tenant: MemoryRecords,
    life: u64,
    woken_at: Option<u64>,
    /// Changes its person made.
    written: u64,
}

/// One request, as the server or the closed door saw it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: u64,
    device: usize,
    useful: bool,
}

struct Fleet {
    now: u64,
    order: u64,
    calendar: BTreeMap<(u64, u64), Happening>,
    devices: Vec<Device>,
    mood: Mood,
    /// Requests taken in the second that runs, and turned away ever.
    taken: (u64, u32),
    turned: u64,
    seen: Vec<Seen>,
}

fn open(store: &mut MemoryStore, capabilities: &Capabilities, number: u64) -> Machine {
    let mut tx = store.begin().unwrap();
    let mut entropy = [3; 32];
    entropy[..8].copy_from_slice(&number.to_be_bytes());
    let machine =
        Machine::open(Config::default(), capabilities.clone(), &Entropy(entropy), &mut *tx).unwrap();
    tx.commit().unwrap();
    machine
}

/// What the engine tells each machine; nobody else writes to these stores.
fn settings() -> AutoConfig {
    AutoConfig { look_every: None, ..AutoConfig::default() }
}

impl Fleet {
    /// So many devices that run by themselves; every other one can probe.
    fn new(devices: usize, mood: Mood) -> Self {
        let capabilities = |number: usize| Capabilities {
            batch_tasks: 500,
            batch_bytes: 1 << 20,
            effect: EffectClass::OneEffect,
            pull: true,
            orders_writes: true,
            atomic_groups: true,
            actions: true,
            probe: number % 2 == 0,
        };
        let device = |number: usize| {
            let (mut store, capabilities) = (MemoryStore::default(), capabilities(number));
            let machine = open(&mut store, &capabilities, number as u64);
            let tenant = MemoryRecords::new("fleet");
            Device { store, machine, capabilities, tenant, life: 0, woken_at: None, written: 0 }
        };
        let devices = (0..devices).map(device).collect();
        let calendar = BTreeMap::new();
        let mut fleet =
            Self { now: 0, order: 0, calendar, devices, mood, taken: (0, 0), turned: 0, seen: Vec::new() };
        fleet.everybody(|step, _| step.run_by_itself(settings()));
        fleet
    }

    fn everybody(&mut self, work: impl Fn(&mut Step, &mut dyn StoreTx)) {
        for device in 0..self.devices.len() {
            self.step(device, &work);
        }
    }

    fn write(&mut self, device: usize) {
        let number = self.devices[device].written;
        self.devices[device].written += 1;
        self.step(device, |step, tx| {
            step.enqueue(tx, Change::create("note", format!("n{number}")).set("text", number as i64))
                .unwrap();
        });
    }

    /// The process dies, and another one opens the store and is told to run by itself.
    fn restart(&mut self, device: usize) {
        let number = self.devices[device].life + 1_000_000;
        let it = &mut self.devices[device];
        it.machine = open(&mut it.store, &it.capabilities, number);
        it.life += 1;
        it.woken_at = None;
        self.step(device, |step, _| step.run_by_itself(settings()));
    }

    fn step(&mut self, device: usize, work: impl FnOnce(&mut Step, &mut dyn StoreTx)) {
        self.order += 1;
        let mut entropy = [7; 32];
        entropy[..8].copy_from_slice(&self.order.to_be_bytes());
        let wall = Timestamp(START_MS + i64::try_from(self.now).unwrap());
        let it = &mut self.devices[device];
        let mut step = it.machine.step(Now { wall, mono: Mono(self.now) }, Entropy(entropy));
        let mut tx = it.store.begin().unwrap();
        work(&mut step, &mut *tx);
        step.start_if_due(&*tx).unwrap();
        if step.needs_lease() {
            // The process before is known to be gone.
            step.lead(&mut *tx, &format!("{}", it.life), &|_| true).unwrap();
        }
        step.finish(&mut *tx).unwrap();
        tx.commit().unwrap();
        for effect in it.machine.apply(step) {
            self.carry_out(device, effect);
        }
        self.set_alarm(device);
    }

    fn carry_out(&mut self, device: usize, effect: Effect) {
        let call = match effect {
            Effect::Push { context, batch } => {
                let body = encode_push(&context, &batch);
                Call::Push(Rc::new(batch), Rc::new(body))
            }
            Effect::Pull { call, request, .. } => Call::Pull(call, request),
            Effect::Probe { call, .. } => Call::Probe(call),
            Effect::Emit(_) | Effect::Cancel(_) | Effect::SessionEnded(_) => return,
            other => panic!("nobody asked for {other:?}"),
        };
        let life = self.devices[device].life;
        // The way takes 20 to 59 ms, other for each device.
        self.later(20 + device as u64 * 7 % 40, Happening::Arrive { device, life, call });
    }

    fn set_alarm(&mut self, device: usize) {
        let it = &mut self.devices[device];
        let Some(at) = it.machine.next_wakeup() else { return };
        let at = at.0.max(self.now + 1);
        if it.woken_at.is_none_or(|known| at < known) {
            it.woken_at = Some(at);
            let life = it.life;
            self.later(at - self.now, Happening::Wake { device, life });
        }
    }

    fn later(&mut self, wait: u64, happening: Happening) {
        self.order += 1;
        self.calendar.insert((self.now + wait, self.order), happening);
    }

    /// Time passes up to `end`, or until `is_over` says so.
    fn run_until(&mut self, end: u64, mut is_over: impl FnMut(&mut Self) -> bool) {
        while let Some(entry) = self.calendar.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            self.happen(happening);
            if is_over(self) {
                return;
            }
        }
        self.now = end;
    }

    fn pass(&mut self, time: u64) {
        self.run_until(self.now + time, |_| false);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { device, life } => {
                if self.devices[device].life == life {
                    self.devices[device].woken_at = None;
                    self.step(device, |step, _| step.wake());
                }
            }
            Happening::Arrive { device, life, call } => {
                let answer = self.serve(device, &call);
                self.later(20, Happening::Answer { device, life, call, answer });
            }
            Happening::Answer { device, life, call, answer } => {
                if self.devices[device].life == life {
                    self.answer(device, &call, answer);
                }
            }
        }
    }

    fn serve(&mut self, device: usize, call: &Call) -> Answer {
        let refusal = self.refusal();
        self.seen.push(Seen { at: self.now, device, useful: refusal.is_none() });
        match (refusal, call) {
            (Some(refusal), _) => refusal,
            (None, Call::Push(_, body)) => {
                let request: PushRequest = serde_json::from_slice(body).unwrap();
                let reply = push(&mut self.devices[device].tenant, &request).unwrap();
                Ok(HttpResponse::new(200, "application/json", serde_json::to_vec(&reply).unwrap()))
            }
            (None, Call::Pull(_, request)) => {
                let cursor = request.cursor.as_ref().map(|cursor| cursor.0.as_str());
                let page = changes(&self.devices[device].tenant, cursor, request.limit, usize::MAX).unwrap();
                Ok(HttpResponse::new(200, "application/json", serde_json::to_vec(&page).unwrap()))
            }
            (None, Call::Probe(_)) => Ok(HttpResponse::new(200, "application/json", "{}")),
        }
    }

    /// What the server says instead of looking at the request.
    fn refusal(&mut self) -> Option<Answer> {
        match self.mood {
            Mood::Fine => None,
            Mood::Refused => {
                let why = "connection refused";
                Some(Err(Failure::new(FailureKind::Unreachable, Delivery::NotSent, why)))
            }
            Mood::Broken => Some(Ok(HttpResponse::new(500, "text/plain", "oops"))),
            Mood::Narrow { per_second, retry_after } => {
                let second = self.now / SECOND;
                let taken = if self.taken.0 == second { self.taken.1 + 1 } else { 1 };
                self.taken = (second, taken);
                if taken <= per_second {
                    return None;
                }
                self.turned += 1;
                let status = if self.turned % 2 == 0 { 503 } else { 429 };
                let answer = HttpResponse::new(status, "application/problem+json", "{}");
                Some(Ok(match retry_after {
                    Some(seconds) => answer.with_header("retry-after", seconds.to_string()),
                    None => answer,
                }))
            }
        }
    }

    fn answer(&mut self, device: usize, call: &Call, answer: Answer) {
        match call {
            Call::Push(batch, _) => {
                let reply = answer.and_then(|response| decode_push(batch, &response));
                self.step(device, |step, tx| step.pushed(tx, batch.call, &reply).unwrap());
            }
            Call::Pull(call, request) => {
                let page = answer.and_then(|response| decode_pull(request, &response));
                self.step(device, |step, tx| step.pulled(tx, *call, &page).unwrap());
            }
            Call::Probe(call) => {
                let found = answer.and_then(|response| match response.status {
                    200 => Ok(()),
                    429 | 503 => Err(Failure::new(FailureKind::RateLimited, Delivery::Answered, "calm")),
                    _ => Err(Failure::new(FailureKind::Transient, Delivery::Answered, "broken")),
                });
                self.step(device, |step, tx| step.probed(tx, *call, &found).unwrap());
            }
        }
    }

    // ---- what is looked at ---------------------------------------------------------------------------------------

    fn is_drained(&mut self) -> bool {
        self.devices.iter_mut().all(|it| it.store.begin().unwrap().counts().unwrap().total() == 0)
    }

    /// Whether nothing is queued, and nobody has a call or a run under way.
    fn is_at_rest(&mut self) -> bool {
        let is_wake = |happening: &Happening| matches!(happening, Happening::Wake { .. });
        self.calendar.values().all(is_wake) && self.is_drained()
    }

    /// Everything that was written is there, and took effect once.
    fn assert_all_is_there(&mut self) {
        assert!(self.is_drained(), "something is still queued");
        for (number, it) in self.devices.iter().enumerate() {
            let effects = it.tenant.effects();
            let tasks: BTreeSet<_> = effects.iter().map(|effect| &effect.task_id).collect();
            assert_eq!(tasks.len() as u64, it.written, "device {number}");
            assert_eq!(effects.len(), tasks.len(), "device {number}: an effect came twice");
        }
    }

    fn requests_since(&self, from: u64) -> impl Iterator<Item = &Seen> {
        self.seen.iter().filter(move |seen| seen.at >= from)
    }

    fn most_in(&self, from: u64, span: u64) -> usize {
        let mut buckets = BTreeMap::<u64, usize>::new();
        for seen in self.requests_since(from) {
            *buckets.entry((seen.at - from) / span).or_default() += 1;
        }
        buckets.into_values().max().unwrap_or(0)
    }
}

fn tell_online(fleet: &mut Fleet, online: bool) {
    fleet.everybody(|step, tx| step.device_changed(tx, &DeviceState::online(online)).unwrap());
}

/// A thousand devices lose the network, their people go on writing, and after `outage` all hear in the same
/// millisecond that it is back. Returns when that was.
fn a_fleet_comes_back(outage: u64, mood: Mood) -> (Fleet, u64) {
    let mut fleet = Fleet::new(MANY, Mood::Fine);
    fleet.pass(MINUTE);
    fleet.mood = Mood::Refused;
    tell_online(&mut fleet, false);
    fleet.pass(outage / 2);
    for device in 0..MANY {
        (0..QUEUED).for_each(|_| fleet.write(device));
    }
    fleet.pass(outage - outage / 2);
    fleet.mood = mood;
    let back = fleet.now;
    tell_online(&mut fleet, true);
    (fleet, back)
}

#[test]
fn a_thousand_devices_that_hear_the_same_news_come_spread_over_the_span() {
    let span = u64::try_from(settings().spread.as_millis()).unwrap();
    for outage in [20 * SECOND, 3 * MINUTE, HOUR] {
        let (mut fleet, back) = a_fleet_comes_back(outage, Mood::Fine);
        fleet.run_until(back + span + 2 * SECOND, |_| false);
        let all = fleet.requests_since(back).count();
        let even = all as u64 * SECOND / span;
        let (most, at_first) = (fleet.most_in(back, SECOND), {
            fleet.requests_since(back).filter(|seen| seen.at < back + 100).count()
        });
        println!("outage {outage} ms: {all} requests, most in a second {most}, first 100 ms {at_first}");
        assert!(most as u64 <= 3 * even, "{most} in one second, {even} would be even");
        assert!(at_first * 20 <= all, "{at_first} of {all} in the first 100 ms");
        fleet.assert_all_is_there();
        assert!(all <= MANY * 4, "{all}: more than a probe, a push and two pages each");
    }
}

/// The backend calls every device at once: they read over the span, and nobody twice.
#[test]
fn a_thousand_devices_that_the_backend_calls_come_spread_over_the_span() {
    let span = u64::try_from(settings().spread.as_millis()).unwrap();
    let mut fleet = Fleet::new(MANY, Mood::Fine);
    fleet.pass(MINUTE);
    let called = fleet.now;
    fleet.everybody(|step, _| step.backend_called());
    fleet.run_until(called + span + 2 * SECOND, |_| false);
    let all = fleet.requests_since(called).count();
    assert_eq!(all, MANY);
    assert!(fleet.most_in(called, SECOND) as u64 <= 3 * all as u64 * SECOND / span);
    assert!(fleet.requests_since(called).filter(|seen| seen.at < called + 100).count() * 20 <= all);
}

/// How often the server may be asked for each answer of use, while it takes only so many requests a second.
const FACTOR: usize = 4;

#[test]
fn a_server_that_takes_few_requests_is_not_overrun_and_everything_arrives() {
    for (per_second, retry_after) in [(50, Some(30)), (50, None), (20, Some(5)), (200, Some(2))] {
        let (mut fleet, back) = a_fleet_comes_back(3 * MINUTE, Mood::Narrow { per_second, retry_after });
        fleet.run_until(back + HOUR, Fleet::is_at_rest);
        let all = fleet.requests_since(back).count();
        let useful = fleet.requests_since(back).filter(|seen| seen.useful).count();
        println!(
            "{per_second} a second, retry-after {retry_after:?}: {all} requests for {useful} of use in {} s",
            (fleet.now - back) / SECOND
        );
        fleet.assert_all_is_there();
        assert!(all <= FACTOR * useful, "{all} requests for {useful} of use");
    }
}

/// Requests that a device may make in a week in which nothing works, and in one in which a probe finds out for sending
/// and reading together: what `RetryConfig::cap` says, and a twentieth for writes, a restart and chance.
const WEEKLY: (usize, usize) = (2_310, 1_470);

#[test]
fn a_week_without_the_server_costs_few_requests_and_ends_by_itself_within_the_cap() {
    let cap = u64::try_from(RetryConfig::default().cap.as_millis()).unwrap();
    for mood in [Mood::Refused, Mood::Broken] {
        let mut fleet = Fleet::new(20, Mood::Fine);
        fleet.pass(MINUTE);
        fleet.mood = mood;
        let (began, end) = (fleet.now, fleet.now + WEEK);
        for halfway in [true, false] {
            let until = if halfway { began + WEEK / 2 } else { end };
            while fleet.now < until {
                fleet.pass(HOUR / 2);
                let device = usize::try_from(fleet.now / (HOUR / 2)).unwrap() % fleet.devices.len();
                fleet.write(device);
            }
            if halfway {
                (0..fleet.devices.len()).for_each(|device| fleet.restart(device));
            }
        }
        let mut each = vec![0_usize; fleet.devices.len()];
        fleet.requests_since(began).for_each(|seen| each[seen.device] += 1);
        println!("{mood:?}: requests of each device in {} h: {each:?}", (fleet.now - began) / HOUR);
        let back = fleet.now;
        fleet.mood = Mood::Fine;
        fleet.run_until(back + cap + MINUTE, Fleet::is_drained);
        println!("{mood:?}: all there after {} s", (fleet.now - back) / SECOND);
        fleet.assert_all_is_there();
        for (device, requests) in each.into_iter().enumerate() {
            let probes = mood == Mood::Refused && fleet.devices[device].capabilities.probe;
            let most = if probes { WEEKLY.1 } else { WEEKLY.0 };
            assert!(requests <= most, "{mood:?}: device {device} made {requests} requests in a week");
        }
    }
}

/// The backend asks for half an hour; the process is started anew in the middle of it.
#[test]
fn a_wait_that_the_backend_asked_for_outlives_the_process() {
    let mut fleet = Fleet::new(20, Mood::Fine);
    fleet.pass(MINUTE);
    fleet.mood = Mood::Narrow { per_second: 0, retry_after: Some(1800) };
    (0..20).for_each(|device| fleet.write(device));
    fleet.pass(MINUTE);
    let mut asked = [0; 20];
    fleet.seen.iter().for_each(|seen| asked[seen.device] = seen.at);
    fleet.mood = Mood::Fine;
    for minutes in [5, 20] {
        fleet.pass(minutes * MINUTE);
        (0..20).for_each(|device| fleet.restart(device));
        fleet.everybody(|step, _| step.connectivity_regained());
    }
    let since = fleet.now;
    fleet.pass(HOUR);
    for (device, asked) in asked.into_iter().enumerate() {
        let next = fleet.requests_since(since - 25 * MINUTE).find(|seen| seen.device == device).unwrap();
        let waited = next.at - asked;
        assert!((1800 * SECOND..1860 * SECOND).contains(&waited), "device {device} waited {waited} ms");
    }
    fleet.assert_all_is_there();
}
