//! Clocks that jump (G12): the wall clock of a device moves by years at every single step of a fixed piece of work, and
//! what comes out is what comes out with a clock that is right.
//!
//! The device is the real machine on a memory store, woken by its own alarms; the server's real rules answer through the
//! real codec. Only the wall clock lies: the monotonic one measures what is waited for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use bench::{Bench, applied, capabilities, reply, theirs};
use landfall_adapters::http::HttpResponse;
use landfall_adapters::sync_endpoint::{decode_pull, decode_push, encode_push};
use landfall_core::adapter::{Capabilities, EffectClass, Outcome, PullRequest, PushBatch, PushReply};
use landfall_core::change::Change;
use landfall_core::config::{AutoConfig, Config, RetryConfig};
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{CallId, Entropy, TaskId};
use landfall_core::machine::{Effect, Machine, Step};
use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{Store, StoreTx};
use landfall_core::task::Verdict;
use landfall_core::time::{Hlc, Mono, Now, Timestamp};
use landfall_protocol::PushRequest;
use landfall_server::state::{MemoryRecords, changes, push};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const START_MS: i64 = 1_700_000_000_000;
const YEAR_MS: i64 = 365 * 24 * 3_600_000;
/// 1 January 2100.
const FAR_MS: i64 = 4_102_444_800_000;

/// Where the wall clock goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Jump {
    By(i64),
    To(i64),
}

const JUMPS: [Jump; 4] = [Jump::By(YEAR_MS), Jump::By(-YEAR_MS), Jump::To(0), Jump::To(FAR_MS)];

/// At which step it jumps, where to, and after how many steps it is set right again, if ever.
#[derive(Clone, Copy, Debug)]
struct Lie {
    at: u32,
    jump: Jump,
    back_after: Option<u32>,
}

/// What the server does with what comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Fine,
    Refused,
    Deaf,
    Calm,
}

enum Call {
    Push(PushBatch, Vec<u8>),
    Pull(CallId, PullRequest),
}

/// One device, its server and its clocks.
struct Desk {
    store: MemoryStore,
    machine: Machine,
    server: MemoryRecords,
    mood: Mood,
    mono_ms: u64,
    error_ms: i64,
    lie: Option<Lie>,
    steps: u32,
    open: Vec<Call>,
    tasks: BTreeSet<TaskId>,
    events: Vec<Event>,
    life: u8,
}

/// All that can be seen from outside when the work is done.
#[derive(PartialEq, Debug)]
struct Seen {
    effects: BTreeMap<(String, String), Vec<(String, String)>>,
    held: Vec<(String, String, String)>,
    shown: Vec<(String, String)>,
}

fn open(store: &mut MemoryStore, life: u8) -> Machine {
    let capabilities = Capabilities { pull: true, ..capabilities(EffectClass::OneEffect) };
    let mut tx = store.begin().unwrap();
    let machine = Machine::open(Config::default(), capabilities, &Entropy([life; 32]), &mut *tx).unwrap();
    tx.commit().unwrap();
    machine
}

impl Desk {
    fn new(lie: Option<Lie>) -> Self {
        let mut store = MemoryStore::default();
        let machine = open(&mut store, 1);
        let mut desk = Self {
            store,
            machine,
            server: MemoryRecords::new("clock"),
            mood: Mood::Fine,
            mono_ms: 1_000,
            error_ms: 0,
            lie,
            steps: 0,
            open: Vec::new(),
            tasks: BTreeSet::new(),
            events: Vec::new(),
            life: 1,
        };
        desk.step(|step, _| step.run_by_itself(AutoConfig::default()));
        desk
    }

    fn true_ms(&self) -> i64 {
        START_MS + i64::try_from(self.mono_ms).unwrap()
    }

    fn turn_the_clock(&mut self) {
        self.steps += 1;
        let Some(Lie { at, jump, back_after }) = self.lie else { return };
        if self.steps == at {
            self.error_ms = match jump {
                Jump::By(ms) => ms,
                Jump::To(ms) => ms - self.true_ms(),
            };
        }
        if back_after.is_some_and(|after| self.steps == at + after) {
            self.error_ms = 0;
        }
    }

    fn step<T>(&mut self, work: impl FnOnce(&mut Step, &mut dyn StoreTx) -> T) -> T {
        self.turn_the_clock();
        let wall = Timestamp(self.true_ms() + self.error_ms);
        let mut entropy = [self.life; 32];
        entropy[..4].copy_from_slice(&self.steps.to_be_bytes());
        let mut step = self.machine.step(Now { wall, mono: Mono(self.mono_ms) }, Entropy(entropy));
        let mut tx = self.store.begin().unwrap();
        let value = work(&mut step, &mut *tx);
        step.start_if_due(&*tx).unwrap();
        if step.needs_lease() {
            step.lead(&mut *tx, "me", &|_| true).unwrap();
        }
        step.finish(&mut *tx).unwrap();
        tx.commit().unwrap();
        for effect in self.machine.apply(step) {
            match effect {
                Effect::Push { context, batch } => {
                    let body = encode_push(&context, &batch);
                    self.open.push(Call::Push(batch, body));
                }
                Effect::Pull { call, request, .. } => self.open.push(Call::Pull(call, request)),
                Effect::Emit(event) => self.events.push(event),
                _ => {}
            }
        }
        value
    }

    fn enqueue(&mut self, change: Change) -> TaskId {
        let receipt = self.step(|step, tx| step.enqueue(tx, change).unwrap());
        let task = receipt.task.expect("every change of this work becomes a task");
        self.tasks.insert(task);
        self.mono_ms += 50;
        task
    }

    /// Somebody else writes.
    fn elsewhere(&mut self, key: &str, operation: &str, fields: &str) {
        let body = format!(
            r#"{{"protocol":1,"client_id":"other","client_epoch":1,"tasks":[{{"key":"{key}","task_id":"{key}",
            "entity_type":"note","entity_id":"a","operation":"{operation}","fields":{fields},
            "changed_at":"0000000000000-00000","schema":1}}]}}"#
        );
        let request: PushRequest = serde_json::from_str(&body).unwrap();
        push(&mut self.server, &request).unwrap();
    }

    fn restart(&mut self) {
        self.life += 1;
        self.open.clear();
        self.machine = open(&mut self.store, self.life);
        self.step(|step, _| step.run_by_itself(AutoConfig::default()));
    }

    fn answer_all(&mut self) {
        while !self.open.is_empty() {
            self.mono_ms += 30;
            match self.open.remove(0) {
                Call::Push(batch, body) => {
                    let answer = self.serve(&body).and_then(|response| decode_push(&batch, &response));
                    let answer = answer.map(|mut reply| {
                        reply.server_time = Some(Timestamp(self.true_ms()));
                        reply
                    });
                    self.step(|step, tx| step.pushed(tx, batch.call, &answer).unwrap());
                }
                Call::Pull(call, request) => {
                    let answer = self.page(&request).and_then(|response| decode_pull(&request, &response));
                    self.step(|step, tx| step.pulled(tx, call, &answer).unwrap());
                }
            }
        }
    }

    fn turned_away(&self) -> Option<Result<HttpResponse, Failure>> {
        let refused = || Failure::new(FailureKind::Unreachable, Delivery::NotSent, "connection refused");
        match self.mood {
            Mood::Fine | Mood::Deaf => None,
            Mood::Refused => Some(Err(refused())),
            Mood::Calm => {
                let answer = HttpResponse::new(503, "application/problem+json", "{}");
                Some(Ok(answer.with_header("retry-after", "120")))
            }
        }
    }

    fn serve(&mut self, body: &[u8]) -> Result<HttpResponse, Failure> {
        if let Some(answer) = self.turned_away() {
            return answer;
        }
        let request: PushRequest = serde_json::from_slice(body).unwrap();
        let reply = push(&mut self.server, &request).unwrap();
        if self.mood == Mood::Deaf {
            return Err(Failure::new(FailureKind::Transient, Delivery::Unknown, "no answer in time"));
        }
        Ok(HttpResponse::new(200, "application/json", serde_json::to_vec(&reply).unwrap()))
    }

    fn page(&self, request: &PullRequest) -> Result<HttpResponse, Failure> {
        if let Some(answer) = self.turned_away() {
            return answer;
        }
        let cursor = request.cursor.as_ref().map(|cursor| cursor.0.as_str());
        let page = changes(&self.server, cursor, request.limit, usize::MAX).unwrap();
        Ok(HttpResponse::new(200, "application/json", serde_json::to_vec(&page).unwrap()))
    }

    /// So much time passes, and the device does what is due, and tidies up.
    fn pass(&mut self, ms: u64) {
        let end = self.mono_ms + ms;
        self.answer_all();
        while let Some(due) = self.machine.next_wakeup().filter(|due| due.0 <= end) {
            self.mono_ms = self.mono_ms.max(due.0);
            self.step(|step, _| step.wake());
            self.answer_all();
        }
        self.mono_ms = self.mono_ms.max(end);
        self.step(|step, tx| step.tidy(tx).unwrap());
        self.answer_all();
    }

    /// Nothing may be queued after the longest backoff that there is, by the monotonic clock.
    fn settle(&mut self) {
        self.settle_within(RetryConfig::default().cap);
    }

    fn settle_within(&mut self, longest: Duration) {
        let end = self.mono_ms + u64::try_from(longest.as_millis()).unwrap() + 60_000;
        self.answer_all();
        while self.store.begin().unwrap().counts().unwrap().total() > 0 {
            let due = self.machine.next_wakeup().filter(|due| due.0 <= end);
            let due = due.unwrap_or_else(|| panic!("G12: stalled beyond the cap\n{:#?}", self.queued()));
            self.mono_ms = self.mono_ms.max(due.0);
            self.step(|step, _| step.wake());
            self.answer_all();
        }
        self.pass(10_000);
    }

    fn queued(&mut self) -> impl std::fmt::Debug {
        self.store.begin().unwrap().tasks_after(0, 100).unwrap().tasks
    }

    fn outcome(&mut self) -> Seen {
        let mut effects = BTreeMap::<_, Vec<_>>::new();
        for effect in self.server.effects().iter().filter(|effect| effect.client_id != "other") {
            let record = (effect.entity_type.clone(), effect.entity_id.clone());
            let what = format!("{:?} {:?}", effect.operation, effect.touched);
            effects.entry(record).or_default().push((effect.task_id.clone(), what));
        }
        let held = |(kind, id, stored): (&str, &str, &landfall_server::state::Stored)| {
            (
                kind.into(),
                id.into(),
                stored.fields.as_ref().map_or("deleted".into(), |fields| fields.to_json()),
            )
        };
        let held = self.server.all_records().map(held).collect();
        let tx = self.store.begin().unwrap();
        let shown = tx.entities_after(None, None, usize::MAX).unwrap().entities.into_iter();
        let shown = shown.map(|entity| {
            let body = match entity.local {
                Some(Body::Live(fields)) => fields.to_json(),
                Some(Body::Deleted) => "deleted".into(),
                None => "nothing".into(),
            };
            (entity.key.to_string(), body)
        });
        Seen { effects, held, shown: shown.collect() }
    }
}

fn note(id: &str) -> Change {
    Change::update("note", id)
}

/// The work: creates, edits of what is under way, a clash, lost answers, a closed door, a request for calm, a restart,
/// a deletion, and a change that the app repeats.
fn work(desk: &mut Desk) -> Seen {
    desk.enqueue(Change::create("note", "a").set("x", 1).set("y", 1));
    desk.enqueue(note("a").set("x", 2));
    let first = desk.enqueue(Change::create("note", "b").set("n", 0).dedup_key("order-1"));
    desk.pass(5_000);
    desk.settle();

    desk.enqueue(note("a").set("x", 3));
    desk.elsewhere("e1", "update", r#"{"y":7}"#);
    desk.settle();
    desk.enqueue(note("a").set("x", 4));
    desk.elsewhere("e2", "update", r#"{"x":99,"z":1}"#);
    desk.settle();

    desk.mood = Mood::Deaf;
    desk.enqueue(note("a").set("x", 5));
    desk.pass(1_000);
    desk.enqueue(note("a").set("x", 6));
    desk.pass(20_000);
    desk.mood = Mood::Refused;
    desk.enqueue(note("b").set("n", 1));
    desk.pass(60_000);
    desk.restart();
    desk.pass(10_000);
    desk.mood = Mood::Fine;
    desk.settle();

    desk.mood = Mood::Calm;
    desk.enqueue(note("b").set("n", 2));
    desk.pass(5_000);
    desk.restart();
    desk.mood = Mood::Fine;
    // What the backend asked for is stored by the wall clock, but nobody waits longer than it was.
    desk.settle_within(Duration::from_secs(121));

    let again = desk.step(|step, tx| {
        step.enqueue(tx, Change::create("note", "b").set("n", 0).dedup_key("order-1")).unwrap()
    });
    assert_eq!(again.task, Some(first), "the app's own key was forgotten");
    desk.enqueue(Change::delete("note", "b"));
    desk.settle();
    desk.pass(600_000);
    desk.outcome()
}

/// What must hold whatever the clock did.
fn assert_promises(desk: &mut Desk) {
    let mut times = BTreeMap::<&str, u32>::new();
    for effect in desk.server.effects() {
        *times.entry(&effect.task_id).or_default() += 1;
    }
    assert!(times.values().all(|times| *times == 1), "G3: {times:?}");
    let tx = desk.store.begin().unwrap();
    for task in &desk.tasks {
        assert!(tx.journal(*task).unwrap().is_some(), "G2: the journal forgot {task}");
    }
}

#[test]
fn a_clock_that_jumps_at_any_step_changes_nothing_that_comes_out() {
    let mut right = Desk::new(None);
    let expected = work(&mut right);
    assert_promises(&mut right);
    assert_eq!(expected.held[0].2, r#"{"x":6,"y":7,"z":1}"#);
    let steps = right.steps;
    println!("{steps} steps, {} effects", right.server.effects().len());
    let mut jumps_heard = 0;
    for at in 1..=steps {
        for jump in JUMPS {
            for back_after in [None, Some(1), Some(4), Some(15)] {
                let lie = Lie { at, jump, back_after };
                let mut desk = Desk::new(Some(lie));
                println!("{lie:?}");
                let outcome = work(&mut desk);
                assert_promises(&mut desk);
                assert_eq!(outcome, expected, "{lie:?}");
                let jumped = |event: &&Event| matches!(event, Event::ClockJumped { .. });
                jumps_heard += desk.events.iter().filter(jumped).count();
            }
        }
    }
    assert!(jumps_heard as u32 > steps * 16, "only {jumps_heard} jumps were noticed");
}

// ---- times that are compared -----------------------------------------------------------------------------------------

/// A device at a backend that orders no writes, so that times of change decide.
struct Judge {
    bench: Bench,
    answers: u32,
}

impl Judge {
    fn new() -> Self {
        let unordered = Capabilities { orders_writes: false, ..capabilities(EffectClass::OneEffect) };
        let mut judge = Self { bench: Bench::of(Config::default(), unordered), answers: 0 };
        judge.bench.mono_ms = 1_000;
        judge.bench.wall_ms = judge.true_ms();
        judge
    }

    fn true_ms(&self) -> i64 {
        START_MS + i64::try_from(self.bench.mono_ms).unwrap()
    }

    fn jump(&mut self, jump: Jump) {
        match jump {
            Jump::By(ms) => self.bench.wall_ms += ms,
            Jump::To(ms) => self.bench.wall_ms = ms,
        }
        self.bench.step(|step, _| step.wake());
    }

    /// Something is sent, and the answer tells the backend's time.
    fn hear_the_time(&mut self) {
        self.answers += 1;
        let id = format!("other-{}", self.answers);
        self.bench.enqueue(Change::create("note", id).set("n", 1)).unwrap();
        self.bench.sync();
        let batch = self.bench.last_sent();
        let server_time = Some(Timestamp(self.true_ms()));
        self.bench.answer(&batch, Ok(PushReply { server_time, ..reply(&batch, &applied("1")) }));
        self.bench.pass(Duration::from_secs(10));
    }

    fn knows_the_record(&mut self) {
        let at = Hlc { wall_ms: self.true_ms(), counter: 0 };
        self.theirs("base", at, "1");
        self.bench.pass(Duration::from_secs(10));
    }

    fn goes_ahead(&self, jump: Jump) -> bool {
        match jump {
            Jump::By(ms) => ms > 0,
            Jump::To(ms) => ms > self.true_ms(),
        }
    }

    /// Time passes, and the device does what is due.
    fn pass(&mut self, time: Duration) {
        let end = self.bench.mono_ms + u64::try_from(time.as_millis()).unwrap();
        while self.bench.mono_ms < end {
            let due = self.bench.machine.next_wakeup().map_or(end, |due| due.0);
            let next = due.clamp(self.bench.mono_ms + 1, end);
            self.bench.wait(Duration::from_millis(next - self.bench.mono_ms));
        }
    }

    fn tidy(&mut self) {
        while self.bench.step(|step, tx| step.tidy(tx).unwrap()) {}
    }

    /// How often a note was sent.
    fn sent(&self, id: &str) -> usize {
        let tasks = self.bench.sent.iter().flat_map(|batch| &batch.tasks);
        tasks.filter(|task| task.entity.entity_id == id).count()
    }

    /// The backend has this; told by a page.
    fn theirs(&mut self, value: &str, at: Hlc, version: &str) {
        let remote = theirs("1", &format!(r#"{{"a":"{value}"}}"#), version);
        self.bench.hear(RemoteEntity { changed_at: Some(at), ..remote });
    }

    /// Likewise, told in the answer to our own change, and with it the time.
    fn theirs_in_an_answer(&mut self, at: Hlc) {
        self.bench.sync();
        let batch = self.bench.last_sent();
        let remote = RemoteEntity { changed_at: Some(at), ..theirs("1", r#"{"a":"theirs"}"#, "2") };
        let server_time = Some(Timestamp(self.true_ms()));
        let conflict = Outcome::Conflict { remote: Some(remote) };
        self.bench.answer(&batch, Ok(PushReply { server_time, ..reply(&batch, &conflict) }));
    }
}

/// Where times of change decide, they are the backend's: a clock that jumps before the last time it was heard changes
/// nothing of who wins, nor does one that jumps after the write.
#[test]
fn the_last_write_wins_by_the_backends_clock_whatever_ours_did() {
    for (later_ms, winner) in [(-5_000, "ours"), (5_000, "theirs")] {
        for jump in JUMPS {
            for before in [true, false] {
                for told in [true, false] {
                    let mut judge = Judge::new();
                    judge.hear_the_time();
                    judge.knows_the_record();
                    if before {
                        judge.jump(jump);
                        judge.hear_the_time();
                    }
                    let written = judge.true_ms();
                    judge.bench.enqueue(Change::update("note", "1").set("a", "ours")).unwrap();
                    judge.bench.pass(Duration::from_secs(20));
                    if !before {
                        judge.jump(jump);
                    }
                    let at = Hlc { wall_ms: written + later_ms, counter: 0 };
                    match told {
                        true => judge.theirs_in_an_answer(at),
                        false => judge.theirs("theirs", at, "2"),
                    }
                    let view = judge.bench.view("1");
                    let case =
                        format!("{jump:?}, before the write: {before}, in an answer: {told}, {later_ms}");
                    assert_eq!(view, format!(r#"{{"a":"{winner}"}}"#), "{case}");
                }
            }
        }
    }
}

/// The jump is first seen together with the backend's time, or with the change: neither is taken for what it is not.
#[test]
fn a_jump_that_is_seen_first_in_the_step_of_a_change_or_of_an_answer_moves_no_stamp() {
    for jump in JUMPS {
        for in_answer in [true, false] {
            let mut judge = Judge::new();
            judge.hear_the_time();
            if in_answer {
                judge.bench.enqueue(Change::create("note", "other").set("n", 1)).unwrap();
                judge.bench.sync();
            }
            let is_sleep = judge.goes_ahead(jump) && !in_answer;
            match jump {
                Jump::By(ms) => judge.bench.wall_ms += ms,
                Jump::To(ms) => judge.bench.wall_ms = ms,
            }
            if in_answer {
                let batch = judge.bench.last_sent();
                let server_time = Some(Timestamp(judge.true_ms()));
                judge.bench.answer(&batch, Ok(PushReply { server_time, ..reply(&batch, &applied("1")) }));
            }
            let receipt = judge.bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
            let tasks = judge.bench.tasks();
            let task = tasks.iter().find(|task| Some(task.id) == receipt.task).unwrap();
            // A clock that goes ahead looks like sleep, until the backend is heard again.
            let expected = if is_sleep { judge.bench.wall_ms } else { judge.true_ms() };
            let off = task.changed_at.wall_ms.abs_diff(expected);
            assert!(off < 1_000, "{jump:?}, in an answer: {in_answer}: {off} ms off");
        }
    }
}

/// The wall clock goes on while the monotonic one stands still: the device slept, and what it knows of the backend's clock
/// stays true.
#[test]
fn a_device_that_slept_stamps_by_the_backends_clock_as_before() {
    let mut judge = Judge::new();
    judge.bench.wall_ms += 600_000;
    judge.hear_the_time();
    let asleep = 8 * 3_600_000;
    judge.bench.wall_ms += asleep;
    judge.bench.step(|step, _| step.wake());
    judge.bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    let off = judge.bench.tasks()[0].changed_at.wall_ms.abs_diff(judge.true_ms() + asleep);
    assert!(off < 1_000, "{off} ms off");
}

// ---- moments that the app names, and what is remembered ---------------------------------------------------------------

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is to wait waits by the device's clock: one that jumps ahead ends the wait, one that jumps back prolongs it until
/// it is set right. Nothing else that is queued waits with it.
#[test]
fn a_moment_that_the_app_asked_for_is_kept_by_the_devices_clock() {
    for jump in JUMPS {
        let mut judge = Judge::new();
        judge.bench.step(|step, _| step.run_by_itself(AutoConfig::default()));
        let (moment, ahead) = (Timestamp(judge.true_ms()).after(HOUR), judge.goes_ahead(jump));
        judge.bench.enqueue(Change::create("note", "late").set("a", 1).not_before(moment)).unwrap();
        judge.pass(HOUR / 2);
        assert!(judge.bench.sent.is_empty(), "{jump:?}: sent before its moment");
        judge.jump(jump);
        judge.bench.enqueue(Change::create("note", "now").set("a", 1)).unwrap();
        judge.pass(HOUR / 3);
        assert_eq!(judge.sent("now"), 1, "{jump:?}: what has no moment waits");
        assert_eq!(judge.sent("late"), usize::from(ahead), "{jump:?}");
        judge.jump(Jump::To(judge.true_ms()));
        judge.pass(HOUR);
        assert_eq!(judge.sent("late"), 1, "{jump:?}: its moment has come by a clock that is right");
    }
}

/// What is to expire expires by the device's clock, and what has left does not.
#[test]
fn a_time_that_is_over_is_over_by_the_devices_clock_but_never_for_what_was_sent() {
    for jump in JUMPS {
        for is_sent in [true, false] {
            let mut judge = Judge::new();
            let (end, ahead) = (Timestamp(judge.true_ms()).after(HOUR), judge.goes_ahead(jump));
            let change = Change::create("note", "brief").set("a", 1).expires_at(end);
            let receipt = judge.bench.enqueue(change).unwrap();
            if is_sent {
                judge.bench.sync();
                let batch = judge.bench.last_sent();
                judge.bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
                judge.bench.step(|step, _| step.stop_session());
            }
            judge.jump(jump);
            judge.pass(HOUR / 4);
            let verdict = judge.bench.verdict(receipt);
            let expired = Some(Verdict::Expired);
            assert_eq!(verdict, expired.filter(|_| ahead && !is_sent), "{jump:?}, sent: {is_sent}");
            judge.jump(Jump::To(judge.true_ms()));
            judge.pass(HOUR);
            assert_eq!(
                judge.bench.verdict(receipt),
                expired.filter(|_| !is_sent),
                "{jump:?}, sent: {is_sent}"
            );
        }
    }
}

/// The journal and the app's own keys are kept for their horizon, whatever the clock did in it: wrong from the first day
/// on or from the second, set right later, with a restart in between or without.
#[test]
fn nothing_is_forgotten_before_its_time_because_of_a_clock() {
    for jump in JUMPS {
        for (wrong_on, right_on) in [(0, 2), (0, 9), (1, 2), (1, 9), (0, 99), (1, 99)] {
            for restart_on in [None, Some(1), Some(2), Some(3)] {
                let case =
                    format!("{jump:?}, wrong on day {wrong_on}, right on {right_on}, restart {restart_on:?}");
                let mut judge = Judge::new();
                let keyed = |day: u32| {
                    Change::create("note", format!("n{day}")).set("a", 1).dedup_key(format!("key-{day}"))
                };
                let mut tasks = Vec::new();
                for day in 0..25 {
                    if Some(day) == restart_on {
                        judge.bench.crash();
                    }
                    if day == wrong_on {
                        judge.jump(jump);
                    }
                    if day == right_on {
                        judge.jump(Jump::To(judge.true_ms()));
                    }
                    tasks.push(judge.bench.enqueue(keyed(day)).unwrap().task);
                    judge.tidy();
                    judge.hear_the_time();
                    judge.tidy();
                    judge.pass(DAY);
                }
                judge.tidy();
                for (day, task) in (0..).zip(&tasks) {
                    let again = judge.bench.enqueue(keyed(day)).map(|receipt| receipt.task);
                    assert_eq!(again.ok().as_ref(), Some(task), "{case}: the key of day {day} was forgotten");
                    let entry = judge.bench.store.begin().unwrap().journal(task.unwrap()).unwrap();
                    assert!(entry.is_some(), "{case}: the journal forgot day {day}");
                }
                // And the other way: it does not keep all of it for ever, but where a clock was ahead, as long as that.
                judge.pass(DAY * 100);
                judge.hear_the_time();
                judge.tidy();
                let entry = judge.bench.store.begin().unwrap().journal(tasks[24].unwrap()).unwrap();
                let was_ahead = judge.goes_ahead(jump) || restart_on.is_some();
                assert!(entry.is_none() || was_ahead, "{case}: nothing is ever forgotten");
            }
        }
    }
}

/// Nobody tells the time here. A clock that was set back by mistake stamps what ends then as very old; after each such
/// time that is kept as long as what is new.
#[test]
fn what_ended_under_a_clock_that_was_behind_is_kept_for_the_horizon_each_time() {
    let mut judge = Judge::new();
    for round in 0..3 {
        judge.bench.enqueue(Change::create("note", format!("right-{round}")).set("a", 1)).unwrap();
        judge.bench.wall_ms = 0;
        judge.bench.crash();
        judge.bench.step(|step, _| step.wake());
        let receipt = judge.bench.enqueue(Change::create("note", format!("behind-{round}")).set("a", 1));
        judge.bench.sync();
        let batch = judge.bench.last_sent();
        judge.bench.apply(&batch, "1");
        assert_eq!(judge.bench.counts().total(), 0);
        judge.bench.wall_ms = judge.true_ms();
        for (days, is_kept) in [(0, true), (20, true), (20, false)] {
            judge.bench.pass(DAY * days);
            judge.bench.crash();
            judge.tidy();
            let verdict = judge.bench.verdict(receipt.clone().unwrap());
            assert_eq!(verdict.is_some(), is_kept, "round {round}, {days} days later");
        }
    }
}

/// More than one page of them, and as many in between that only the app put off.
#[test]
fn a_clock_that_goes_back_ends_every_absurd_wait_and_none_that_the_app_asked_for() {
    let mut bench = Bench::new();
    bench.wall_ms = START_MS + YEAR_MS;
    bench.step(|step, tx| {
        for n in 0..700 {
            step.enqueue(tx, Change::create("note", format!("sent-{n}")).set("a", 1)).unwrap();
        }
    });
    bench.sync();
    for batch in bench.sent.clone() {
        bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    }
    bench.wall_ms = START_MS;
    let later = Timestamp(START_MS).after(HOUR * 3);
    bench.step(|step, tx| {
        for n in 0..500 {
            let change = Change::create("note", format!("later-{n}")).set("a", 1);
            step.enqueue(tx, change.not_before(later).group(format!("pair {}", n / 2))).unwrap();
        }
    });
    let tasks = bench.store.begin().unwrap().tasks_after(0, 2_000).unwrap().tasks;
    let wait = |task: &landfall_core::task::Task| Timestamp(START_MS).until(task.claim_at.unwrap_or(later));
    let (sent, put_off): (Vec<_>, Vec<_>) = tasks.iter().partition(|task| task.frozen.is_some());
    assert_eq!((sent.len(), put_off.len()), (700, 500));
    assert!(sent.iter().all(|task| wait(task).is_zero()), "some still wait for a year");
    assert!(put_off.iter().all(|task| wait(task) == HOUR * 3));
}

/// They go together: the absurd wait of one is over for all of them, and what another one was to wait is not.
#[test]
fn a_clock_that_goes_back_leaves_a_group_no_wait_but_that_within_the_caps() {
    let put_off = |after| Outcome::Retry { after: Some(after), reason: "busy".into() };
    for of_another in [put_off(Duration::from_secs(1)), Outcome::Unknown { reason: "who knows".into() }] {
        let mut judge = Judge::new();
        for id in ["a", "b"] {
            judge.bench.enqueue(Change::create("note", id).set("a", 1).group("together")).unwrap();
        }
        judge.bench.sync();
        let batch = judge.bench.last_sent();
        let results = batch.tasks.iter().map(|task| task.key).zip([put_off(HOUR), of_another]).collect();
        judge.bench.answer(&batch, Ok(PushReply { results, ..PushReply::default() }));
        judge.bench.wall_ms -= 30 * 60_000;
        judge.pass(HOUR / 3);
        assert_eq!(judge.bench.sent.len(), 1, "within the caps it waits as it was told");
        judge.pass(HOUR / 4);
        assert_eq!(judge.bench.sent.len(), 2);
    }
}

/// Between its last change and its opening much time may pass: that is no clock that goes wrong.
#[test]
fn a_device_that_was_off_for_long_forgets_what_is_old_when_it_is_back() {
    let mut judge = Judge::new();
    let receipt = judge.bench.enqueue(Change::create("note", "old").set("a", 1)).unwrap();
    judge.bench.sync();
    let batch = judge.bench.last_sent();
    judge.bench.apply(&batch, "1");
    judge.bench.pass(DAY * 20);
    judge.bench.enqueue(Change::create("note", "newer").set("a", 1)).unwrap();
    judge.bench.pass(DAY * 20);
    judge.bench.crash();
    judge.tidy();
    assert_eq!(judge.bench.verdict(receipt), None);
}

/// Times given out far ahead by mistake are doubted for long; what is known of the backend's clock is kept all the same.
#[test]
fn a_clock_that_falls_back_after_it_was_far_ahead_moves_no_stamp() {
    let mut judge = Judge::new();
    judge.hear_the_time();
    judge.bench.wall_ms = FAR_MS;
    judge.bench.enqueue(Change::create("note", "far").set("a", 1)).unwrap();
    judge.bench.wall_ms = judge.true_ms();
    judge.bench.crash();
    judge.bench.step(|step, _| step.wake());
    judge.jump(Jump::By(-3_600_000));
    let receipt = judge.bench.enqueue(Change::create("note", "1").set("a", 1)).unwrap();
    let tasks = judge.bench.tasks();
    let task = tasks.iter().find(|task| Some(task.id) == receipt.task).unwrap();
    // Never far ahead of the backend, and never behind what was given out.
    let ahead = task.changed_at.wall_ms - judge.true_ms();
    assert!((0..=60_000).contains(&ahead), "{ahead} ms");
}
