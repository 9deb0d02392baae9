//! One device on a bench: a memory store, the machine, and everything that left it. Time passes when a test says so,
//! and the test is the backend: it answers what was sent and read, in whatever order it likes.
#![allow(dead_code, reason = "each test file uses its own part of the bench")]

use landfall_core::adapter::{
    Applied, CallContext, Capabilities, EffectClass, Outcome, PullPage, PullRequest, PushBatch, PushReply,
};
use landfall_core::change::Change;
use landfall_core::config::{Config, ConflictConfig};
use landfall_core::conflict::{ConflictRecord, Resolution, ResolveError, Resolved};
use landfall_core::entity::{Body, RemoteEntity, StoredEntity};
use landfall_core::event::{Event, Report};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{CallId, EntityKey, Entropy};
use landfall_core::inspect::{EntityStatus, entity_status};
use landfall_core::machine::{Directions, Effect, EnqueueError, Machine, Receipt, SessionEnd, Step};
use landfall_core::merge::rule::Rules;
use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{ConflictQuery, Counts, PullState, Store, StoreTx};
use landfall_core::task::{Task, Verdict};
use landfall_core::time::{Mono, Now, Timestamp};
use landfall_core::value::Fields;
use std::time::Duration;

/// A session that waits for backoffs as long as a test may want it to.
pub(crate) const DRAINED: SessionEnd = SessionEnd::Drained { within: Duration::from_secs(1_000_000) };

pub(crate) struct Bench {
    pub(crate) store: MemoryStore,
    pub(crate) machine: Machine,
    config: Config,
    capabilities: Capabilities,
    pub(crate) wall_ms: i64,
    pub(crate) mono_ms: u64,
    entropy: u8,
    pub(crate) me: &'static str,
    pub(crate) sent: Vec<PushBatch>,
    /// What every call was given to go with, in order.
    pub(crate) contexts: Vec<CallContext>,
    pub(crate) pages: Vec<(CallId, PullRequest)>,
    pub(crate) fetches: Vec<(CallId, EntityKey)>,
    pub(crate) probes: Vec<CallId>,
    pub(crate) refreshes: usize,
    pub(crate) events: Vec<Event>,
    pub(crate) reports: Vec<Report>,
    pub(crate) cancelled: Vec<CallId>,
}

pub(crate) fn capabilities(effect: EffectClass) -> Capabilities {
    Capabilities {
        batch_tasks: 500,
        batch_bytes: 1 << 20,
        effect,
        pull: false,
        orders_writes: true,
        atomic_groups: true,
        actions: true,
        probe: false,
    }
}

/// A backend with a change feed.
pub(crate) fn with_feed() -> Capabilities {
    Capabilities { pull: true, ..capabilities(EffectClass::OneEffect) }
}

pub(crate) fn open(
    store: &mut MemoryStore,
    config: Config,
    capabilities: Capabilities,
    entropy: u8,
) -> Machine {
    let mut tx = store.begin().unwrap();
    let machine = Machine::open(config, capabilities, &Entropy([entropy; 32]), &mut *tx).unwrap();
    tx.commit().unwrap();
    machine
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(Config::default(), EffectClass::OneEffect)
    }

    pub(crate) fn with(config: Config, effect: EffectClass) -> Self {
        Self::of(config, capabilities(effect))
    }

    /// With these rules for conflicts.
    pub(crate) fn ruled(rules: Rules) -> Self {
        let conflicts = ConflictConfig { rules, ..ConflictConfig::default() };
        Self::with(Config { conflicts, ..Config::default() }, EffectClass::OneEffect)
    }

    /// With a change feed.
    pub(crate) fn reading() -> Self {
        Self::of(Config::default(), with_feed())
    }

    /// A device that has read these notes to the end of the feed.
    pub(crate) fn having_read(notes: Vec<RemoteEntity>) -> Self {
        let mut bench = Self::reading();
        bench.sync();
        bench.page(notes, "c1", false);
        assert_eq!(bench.reports.len(), 1);
        bench
    }

    pub(crate) fn of(config: Config, capabilities: Capabilities) -> Self {
        let mut store = MemoryStore::default();
        let machine = open(&mut store, config.clone(), capabilities.clone(), 1);
        Self {
            store,
            machine,
            config,
            capabilities,
            wall_ms: 1_700_000_000_000,
            mono_ms: 0,
            entropy: 1,
            me: "me",
            sent: Vec::new(),
            contexts: Vec::new(),
            pages: Vec::new(),
            fetches: Vec::new(),
            probes: Vec::new(),
            refreshes: 0,
            events: Vec::new(),
            reports: Vec::new(),
            cancelled: Vec::new(),
        }
    }

    fn begin_step(&mut self) -> Step {
        self.entropy = self.entropy.wrapping_add(1);
        let now = Now { wall: Timestamp(self.wall_ms), mono: Mono(self.mono_ms) };
        self.machine.step(now, Entropy([self.entropy; 32]))
    }

    /// One step, committed.
    pub(crate) fn step<T>(&mut self, work: impl FnOnce(&mut Step, &mut dyn StoreTx) -> T) -> T {
        let mut step = self.begin_step();
        let mut tx = self.store.begin().unwrap();
        let value = work(&mut step, &mut *tx);
        step.start_if_due(&*tx).unwrap();
        if step.needs_lease() {
            step.lead(&mut *tx, self.me, &|_| false).unwrap();
        }
        step.finish(&mut *tx).unwrap();
        tx.commit().unwrap();
        for effect in self.machine.apply(step) {
            if let Effect::Push { context, .. }
            | Effect::Pull { context, .. }
            | Effect::Probe { context, .. }
            | Effect::Fetch { context, .. } = &effect
            {
                self.contexts.push(context.clone());
            }
            match effect {
                Effect::Push { batch, .. } => self.sent.push(batch),
                Effect::Pull { call, request, .. } => self.pages.push((call, request)),
                Effect::Probe { call, .. } => self.probes.push(call),
                Effect::Fetch { call, entity, .. } => self.fetches.push((call, entity)),
                Effect::RefreshCredentials => self.refreshes += 1,
                Effect::Emit(event) => self.events.push(event),
                Effect::SessionEnded(report) => self.reports.push(report),
                Effect::Cancel(call) => self.cancelled.push(call),
                _ => {}
            }
        }
        value
    }

    /// One step that is dropped with its transaction, as when the process dies before the commit.
    pub(crate) fn lost_step<T>(&mut self, work: impl FnOnce(&mut Step, &mut dyn StoreTx) -> T) -> T {
        let mut step = self.begin_step();
        let mut tx = self.store.begin().unwrap();
        let value = work(&mut step, &mut *tx);
        step.finish(&mut *tx).unwrap();
        value
    }

    /// The process dies and another one opens the store.
    pub(crate) fn crash(&mut self) {
        self.entropy = self.entropy.wrapping_add(1);
        self.machine = open(&mut self.store, self.config.clone(), self.capabilities.clone(), self.entropy);
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.wall_ms += i64::try_from(time.as_millis()).unwrap();
        self.mono_ms += u64::try_from(time.as_millis()).unwrap();
    }

    /// Another bench in the same state, to try something out.
    pub(crate) fn clone_of(&self) -> Self {
        let (store, machine) = (self.store.clone(), self.machine.clone());
        let (config, capabilities) = (self.config.clone(), self.capabilities.clone());
        let (wall_ms, mono_ms, entropy) = (self.wall_ms, self.mono_ms, self.entropy);
        Self { store, machine, wall_ms, mono_ms, entropy, ..Self::of(config, capabilities) }
    }

    /// Time passes, and whatever is due is done.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.pass(time);
        self.step(|step, _| step.wake());
    }

    /// Does what is due at once, again and again, until nothing is.
    pub(crate) fn run(&mut self) {
        while self.machine.next_wakeup().is_some_and(|due| due.0 <= self.mono_ms) {
            self.step(|step, _| step.wake());
        }
    }

    pub(crate) fn enqueue(&mut self, change: Change) -> Result<Receipt, EnqueueError> {
        self.step(|step, tx| step.enqueue(tx, change))
    }

    pub(crate) fn sync(&mut self) {
        self.step(|step, _| {
            step.connectivity_regained();
            step.start_session(DRAINED);
        });
    }

    pub(crate) fn session(&mut self, end: SessionEnd, directions: Directions) {
        self.step(|step, _| step.start_session_of(end, directions));
    }

    pub(crate) fn answer(&mut self, batch: &PushBatch, answer: Result<PushReply, Failure>) {
        self.step(|step, tx| step.pushed(tx, batch.call, &answer).unwrap());
    }

    pub(crate) fn apply(&mut self, batch: &PushBatch, version: &str) {
        self.outcome(batch, &applied(version));
    }

    pub(crate) fn outcome(&mut self, batch: &PushBatch, outcome: &Outcome) {
        self.answer(batch, Ok(reply(batch, outcome)));
    }

    pub(crate) fn fail(&mut self, batch: &PushBatch, kind: FailureKind, delivery: Delivery) {
        self.answer(batch, Err(Failure::new(kind, delivery, "as told")));
    }

    /// The backend has this now; heard of outside the feed.
    pub(crate) fn hear(&mut self, remote: RemoteEntity) {
        self.step(|step, tx| step.remote_changed(tx, remote).unwrap());
    }

    /// Answers the page that was asked for last.
    pub(crate) fn page(&mut self, changes: Vec<RemoteEntity>, cursor: &str, has_more: bool) {
        let changes = changes.into_iter().map(Ok).collect();
        self.answer_page(Ok(PullPage { changes, cursor: cursor.into(), has_more }));
    }

    pub(crate) fn answer_page(&mut self, answer: Result<PullPage, Failure>) {
        let (call, _) = self.pages.last().cloned().expect("a page was asked for");
        self.step(|step, tx| step.pulled(tx, call, &answer).unwrap());
    }

    pub(crate) fn fail_page(&mut self, kind: FailureKind) {
        self.answer_page(Err(Failure::new(kind, Delivery::Answered, "as told")));
    }

    pub(crate) fn fetched(&mut self, answer: Result<Option<RemoteEntity>, Failure>) {
        let (call, _) = self.fetches.pop().expect("a record was asked for");
        self.step(|step, tx| step.fetched(tx, call, &answer).unwrap());
    }

    /// Settles a conflict, or leaves everything as it was.
    pub(crate) fn resolve(
        &mut self,
        conflict: &ConflictRecord,
        resolution: &Resolution,
    ) -> Result<Resolved, ResolveError> {
        self.preview(conflict, resolution)?;
        self.step(|step, tx| step.resolve(tx, conflict.id, resolution))
    }

    /// What [`resolve`](Self::resolve) would do: the step is dropped with its transaction.
    pub(crate) fn preview(
        &mut self,
        conflict: &ConflictRecord,
        resolution: &Resolution,
    ) -> Result<Resolved, ResolveError> {
        let mut step = self.begin_step();
        let mut tx = self.store.begin().unwrap();
        step.resolve(&mut *tx, conflict.id, resolution)
    }

    pub(crate) fn tasks(&mut self) -> Vec<Task> {
        self.store.begin().unwrap().tasks_after(0, 1000).unwrap().tasks
    }

    pub(crate) fn counts(&mut self) -> Counts {
        self.store.begin().unwrap().counts().unwrap()
    }

    pub(crate) fn entity(&mut self, id: &str) -> Option<StoredEntity> {
        self.store.begin().unwrap().entity(&note(id)).unwrap()
    }

    pub(crate) fn local(&mut self, entity_type: &str, id: &str) -> Option<Body> {
        let entity = self.store.begin().unwrap().entity(&EntityKey::new(entity_type, id)).unwrap();
        entity.and_then(|entity| entity.local)
    }

    /// What the app sees of a note, as JSON; `deleted` and `nothing` otherwise.
    pub(crate) fn view(&mut self, id: &str) -> String {
        match self.local("note", id) {
            Some(Body::Live(fields)) => fields.to_json(),
            Some(Body::Deleted) => "deleted".into(),
            None => "nothing".into(),
        }
    }

    pub(crate) fn status(&mut self, id: &str) -> EntityStatus {
        entity_status(&*self.store.begin().unwrap(), &note(id)).unwrap()
    }

    /// Every conflict that was written down, the last first.
    pub(crate) fn conflicts(&mut self) -> Vec<ConflictRecord> {
        self.store.begin().unwrap().conflicts(&ConflictQuery::default(), 1000).unwrap().conflicts
    }

    /// Those that wait.
    pub(crate) fn inbox(&mut self) -> Vec<ConflictRecord> {
        let open = ConflictQuery { open_only: true, ..ConflictQuery::default() };
        self.store.begin().unwrap().conflicts(&open, 1000).unwrap().conflicts
    }

    /// The only conflict that was written down.
    pub(crate) fn conflict(&mut self) -> ConflictRecord {
        let mut found = self.conflicts();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    pub(crate) fn position(&mut self) -> Option<PullState> {
        self.store.begin().unwrap().pull_state().unwrap()
    }

    pub(crate) fn verdict(&mut self, receipt: Receipt) -> Option<Verdict> {
        let entry = self.store.begin().unwrap().journal(receipt.task.unwrap()).unwrap();
        entry.map(|entry| entry.verdict)
    }

    pub(crate) fn last_sent(&self) -> PushBatch {
        self.sent.last().cloned().expect("something was sent")
    }

    /// The payload of the only task of the last batch.
    pub(crate) fn last_payload(&self) -> String {
        let batch = self.last_sent();
        assert_eq!(batch.tasks.len(), 1, "{batch:?}");
        batch.tasks[0].payload.to_string()
    }

    /// How often the app was told that a note looks different.
    pub(crate) fn changes_told(&self, id: &str) -> usize {
        let of_it = |event: &&Event| matches!(event, Event::Changed { entity, .. } if *entity == note(id));
        self.events.iter().filter(of_it).count()
    }
}

pub(crate) fn note(id: &str) -> EntityKey {
    EntityKey::new("note", id)
}

/// A record with these fields, given as JSON.
pub(crate) fn body(json: &str) -> Body {
    Body::Live(Fields::parse(json).unwrap())
}

/// What the backend has of a note.
pub(crate) fn theirs(id: &str, json: &str, version: &str) -> RemoteEntity {
    RemoteEntity::new(note(id), body(json), Some(version.into()))
}

/// The backend has deleted a note.
pub(crate) fn gone(id: &str, version: &str) -> RemoteEntity {
    RemoteEntity::new(note(id), Body::Deleted, Some(version.into()))
}

pub(crate) fn applied(version: &str) -> Outcome {
    Outcome::Applied(Applied { version: Some(version.into()), ..Applied::default() })
}

/// The same outcome for every task of a batch.
pub(crate) fn reply(batch: &PushBatch, outcome: &Outcome) -> PushReply {
    let results = batch.tasks.iter().map(|task| (task.key, outcome.clone())).collect();
    PushReply { results, ..PushReply::default() }
}
