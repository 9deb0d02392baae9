//! The machine: decides what is stored, what is sent and what each answer means.
//!
//! One step is: [`Machine::step`] copies the small state → the step's methods read and write through a transaction →
//! [`Step::finish`] → commit → [`Machine::apply`] takes the new state and hands out the effects. Memory changes only
//! after the commit, and effects exist only after the commit; a step that fails is dropped and nothing has happened.
//! Several inputs may share one step: that is group commit.
//!
//! The queue itself is never held here: the state is a handful of calls, a gate and a session, whatever the queue's
//! length (G14). Time, entropy and storage are arguments; this module knows no thread, no socket, no clock.
//! Tests: the simulator of `landfall-testkit`, its `tests/machine.rs` and `tests/interleavings.rs`.

use crate::adapter::{CallContext, Capabilities, Permit, Probe, PullRequest, PushBatch};
use crate::change::Operation;
use crate::config::Config;
use crate::device::{Constraint, DeviceState};
use crate::entity::StoredEntity;
use crate::event::{Event, Origin, Report, Stream};
use crate::explain::Live;
use crate::failure::FailureKind;
use crate::id::{CallId, ClientId, EntityKey, Entropy, Fence, IdempotencyKey, TaskId, Version};
use crate::model::{self, WhenDead};
use crate::patch;
use crate::store::{Controls, Replica, StoreError, StoreTx};
use crate::task::{FailureNote, JournalEntry, StateKind, Task, TaskState, Verdict};
use crate::time::{Hlc, Mono, Now, Timestamp};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

mod auto;
mod clock;
mod depend;
mod enqueue;
mod gate;
mod incoming;
mod lapse;
mod lease;
mod line;
mod manage;
mod names;
mod pull;
mod push;
mod remote;
mod resolve;
mod restore;
mod session;
mod watchdog;

use gate::{Gate, Repeats};
pub(crate) use line::passed_by;

pub use enqueue::{EnqueueError, Enqueued, Receipt};
pub use incoming::TakenIn;
pub use lease::Leadership;
pub use manage::{Cancelled, Scope, TaskError};
pub use restore::RestoreError;
pub use session::{Directions, RunBudget, SessionEnd};

/// The decision maker of one opened store. A clone is for whoever must look at a step twice, such as a simulator.
#[derive(Debug, Clone)]
pub struct Machine {
    config: Arc<Config>,
    capabilities: Capabilities,
    /// Whose queue it is.
    identity: Option<Arc<str>>,
    /// Withdrawn when the queue changes hands.
    permit: Permit,
    state: State,
}

/// What is held in memory between steps: small, and rebuilt at open.
#[derive(Clone, Debug)]
struct State {
    /// Calls under way and the tasks they carry, in the order sent.
    calls: BTreeMap<CallId, UnderWay>,
    /// Halves of refused batches that wait for a free call. Their tasks are in flight as far as the store knows.
    halves: Vec<Arc<[Sent]>>,
    next_call: u64,
    gate: Gate,
    /// Calls that failed in a row for a passing reason.
    failures: u32,
    /// Whether nobody was reached by the last of them.
    is_unreachable: bool,
    /// Whether fresh credentials were already asked for since the last good answer.
    refreshed: bool,
    /// How often in a row credentials were refused.
    refusals: u32,
    /// Most tasks in the next call; halves after trouble, doubles after success.
    batch_tasks: usize,
    /// The lease, while we hold it.
    lease: Option<HeldLease>,
    /// Another holder, as first seen: its claim and when we saw it.
    rival: Option<(crate::store::Lease, Mono)>,
    session: Option<session::Session>,
    pull: pull::Pulling,
    clocks: clock::Clocks,
    /// Whether everything is paused, as this step has read it.
    paused: bool,
    /// The device, as far as we were told.
    device: DeviceState,
    /// What it does not meet of what was asked for, as last told.
    unmet: Option<Constraint>,
    auto: auto::Auto,
    quiet: Option<watchdog::Quiet>,
    /// How many repeats may still be made.
    repeats: Repeats,
    /// How long calls take, in milliseconds: the recent ones count most.
    pace: u64,
    /// When the next task ends unsent; `None` until that was looked up.
    next_lapse: Option<Option<Timestamp>>,
    /// Dead letters and conflicts that wait, as last told.
    attention: (u64, u64),
    /// Whether what is held was looked at in a session of this opening: what held it before may be over.
    knows_held: bool,
    /// Whether there is more to claim than one step would look at.
    more_to_claim: bool,
    /// When something will have to be done without any new input.
    wakeup: Option<Mono>,
}

/// A call that carries tasks.
#[derive(Clone, Debug)]
struct UnderWay {
    since: Mono,
    sent: Arc<[Sent]>,
}

#[derive(Clone, Debug)]
struct HeldLease {
    holder: String,
    fence: Fence,
    renew_at: Mono,
}

/// One task of a call under way.
#[derive(Clone, Debug)]
struct Sent {
    task: TaskId,
    key: IdempotencyKey,
    payload: Arc<str>,
    group: Option<Arc<str>>,
}

/// What somebody else has to do now that the step is durable.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Make this call and bring the answer to [`Step::pushed`].
    Push {
        /// What every call needs.
        context: CallContext,
        /// What to send.
        batch: PushBatch,
    },
    /// Read this page of the change feed and bring it to [`Step::pulled`].
    Pull {
        /// What every call needs.
        context: CallContext,
        /// Names this call.
        call: CallId,
        /// Which page.
        request: PullRequest,
    },
    /// Find out whether the backend is there, with nothing of the user's, and bring the answer to [`Step::probed`].
    Probe {
        /// What every call needs.
        context: CallContext,
        /// Names this call.
        call: CallId,
        /// What it must answer to.
        probe: Probe,
    },
    /// Read this record and bring it to [`Step::fetched`].
    Fetch {
        /// What every call needs.
        context: CallContext,
        /// Names this call.
        call: CallId,
        /// Which record.
        entity: EntityKey,
    },
    /// Abandon a call; its answer is no longer waited for.
    Cancel(CallId),
    /// Ask once for fresh credentials, then call [`Step::credentials_refreshed`].
    RefreshCredentials,
    /// Tell whoever listens.
    Emit(Event),
    /// The run of `sync` ended.
    SessionEnded(Report),
}

/// A point within a step, see [`Step::mark`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(usize);

/// One step under construction: see the module's description.
#[derive(Debug)]
#[must_use = "a step does nothing until it is finished, committed and applied"]
pub struct Step {
    now: Now,
    entropy: Entropy,
    config: Arc<Config>,
    capabilities: Capabilities,
    identity: Option<Arc<str>>,
    permit: Permit,
    state: State,
    effects: Vec<Effect>,
    /// While a stream of changes is taken: one event tells of all of them.
    hushed: Option<Stream>,
    replica: Option<Replica>,
    replica_changed: bool,
    /// The newest time given out.
    newest: Option<Hlc>,
    /// Counts tasks that left the queue or became dead letters in this step: rows read before may be old.
    ends: u64,
    /// Changes that were made under the backend's name of a record and go on under the app's.
    moving: Vec<Task>,
    /// Whether the backend gives records ids of its own, once that was looked up.
    server_ids: Option<bool>,
    /// Records under the backend's name of which a task has ended in this step, and the version that it took effect on.
    twins: Vec<(EntityKey, Option<Version>)>,
    /// What is paused, once that was looked up.
    controls: Option<Controls>,
    /// Counts the conflicts of this step, so that each gets a name of its own.
    conflicts_made: u32,
    /// How a record is marked that is heard of beside a reading of the feed, once that was looked up.
    heard_mark: Option<Option<u64>>,
}

impl Machine {
    /// Takes over an opened store: makes the client id at first open, and writes the durable barrier of this open.
    ///
    /// The caller commits `tx` before anything is shown or sent: what was recovered is not durable before that.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn open(
        config: Config,
        capabilities: Capabilities,
        entropy: &Entropy,
        tx: &mut dyn StoreTx,
    ) -> Result<Self, StoreError> {
        let mut replica = tx.replica()?.unwrap_or_else(|| Replica {
            client_id: ClientId(entropy.uuid("client id")),
            client_epoch: 1,
            opens: 0,
            server_id: None,
            clock: Hlc::default(),
            server_offset_ms: None,
            calm: None,
            doubted_at: None,
        });
        replica.opens += 1;
        tx.put_replica(&replica)?;
        let batch_tasks = config.push.batch_tasks.min(capabilities.batch_tasks).max(1);
        let state = State {
            calls: BTreeMap::new(),
            halves: Vec::new(),
            // Numbers of another opening of the same store must not be mistaken for ours.
            next_call: replica.opens << 32,
            gate: Gate::Open,
            failures: 0,
            is_unreachable: false,
            refreshed: false,
            refusals: 0,
            batch_tasks,
            lease: None,
            rival: None,
            session: None,
            pull: pull::Pulling::default(),
            clocks: clock::Clocks::default(),
            paused: false,
            device: DeviceState::default(),
            unmet: None,
            auto: auto::Auto::default(),
            quiet: None,
            repeats: Repeats::full(&config.retry),
            pace: 0,
            next_lapse: None,
            attention: (0, 0),
            knows_held: false,
            more_to_claim: false,
            wakeup: None,
        };
        // Jitter must differ between replicas, so the seed is mixed with the replica's own id.
        let mut config = config;
        config.retry.seed ^= replica.client_id.0.as_u64_pair().1;
        Ok(Self { config: Arc::new(config), capabilities, identity: None, permit: Permit::default(), state })
    }

    /// Says whose queue it is: every call carries the name, and only this account's credentials may go with it (G16).
    #[must_use]
    pub fn for_identity(mut self, identity: Option<&str>) -> Self {
        self.identity = identity.map(Arc::from);
        self
    }

    /// Takes over what `old` knew of the world outside, and goes on counting calls where it has stopped, so that a late
    /// answer to one of its calls is never taken for the answer to one of ours.
    pub fn follow(&mut self, old: &Self) {
        self.state.next_call = self.state.next_call.max(old.state.next_call);
        self.state.device = old.state.device;
        self.state.auto.take_over(&old.state.auto);
        self.state.repeats = old.state.repeats;
        if self.identity != old.identity {
            return;
        }
        if !old.permit.is_withdrawn() {
            self.permit = old.permit.clone();
        }
        // What held everything up still does; only what was under way to end that may never be heard of.
        self.state.gate = old.state.gate.unattended();
        self.state.failures = old.state.failures;
        self.state.is_unreachable = old.state.is_unreachable;
        self.state.refusals = old.state.refusals;
    }

    /// Forbids every call that was handed out and has not left yet: the queue changes hands.
    pub fn withdraw_permits(&self) {
        self.permit.withdraw();
    }

    /// Forbids every call that was handed out and has not left yet; those to come may leave. For an app that goes to sleep.
    pub fn recall_calls(&mut self) {
        self.permit.withdraw();
        self.permit = Permit::default();
    }

    /// Begins a step at `now`.
    pub fn step(&self, now: Now, entropy: Entropy) -> Step {
        Step {
            now,
            entropy,
            config: Arc::clone(&self.config),
            capabilities: self.capabilities.clone(),
            identity: self.identity.clone(),
            permit: self.permit.clone(),
            state: self.state.clone(),
            effects: Vec::new(),
            hushed: None,
            replica: None,
            replica_changed: false,
            newest: None,
            ends: 0,
            moving: Vec::new(),
            server_ids: None,
            twins: Vec::new(),
            controls: None,
            conflicts_made: 0,
            heard_mark: None,
        }
    }

    /// Takes the state of a step whose transaction was committed, and hands out what is to be done.
    pub fn apply(&mut self, step: Step) -> Vec<Effect> {
        self.state = step.state;
        step.effects
    }

    /// When [`Step::wake`] is due if nothing else comes in. `None`: never.
    pub fn next_wakeup(&self) -> Option<Mono> {
        self.state.wakeup
    }

    /// Whether we hold the lease, as far as we know.
    pub fn leads(&self) -> bool {
        self.state.lease.is_some()
    }

    /// The device, as far as we were told.
    pub fn device(&self) -> DeviceState {
        self.state.device
    }

    /// Whether the network is metered, as far as we were told.
    pub fn is_metered(&self) -> bool {
        self.state.device.metered == Some(true)
    }

    /// How often it is to be looked whether another process has left something, if at all.
    pub fn look_every(&self) -> Option<Duration> {
        self.state.auto.look_every()
    }

    /// Whether runs begin by themselves.
    pub fn runs_by_itself(&self) -> bool {
        self.state.auto.is_on()
    }

    /// Whether a run of `sync` is under way.
    pub fn is_syncing(&self) -> bool {
        self.state.session.is_some()
    }

    /// Whether a session runs whose time is over, or that waits for nothing: when the store refuses the step that would
    /// end it, nobody should wait for its end.
    pub fn session_is_overdue(&self, now: Mono) -> bool {
        self.state.session.as_ref().is_some_and(|session| session.is_over_at(now))
    }

    /// Why nothing is sent at the moment, for people; `None` while the gate is open.
    pub fn gate(&self) -> Option<(FailureKind, &str)> {
        self.state.gate.why()
    }

    /// What only a running machine knows, for [`explain`](crate::explain::explain). `now`: both clocks.
    pub fn live(&self, now: Now) -> Live {
        self.state.live(now)
    }
}

impl State {
    fn live(&self, now: Now) -> Live {
        let wall = |at: Mono| now.wall.after(Duration::from_millis(at.0.saturating_sub(now.mono.0)));
        let auto = &self.auto;
        Live {
            syncing: self.session.is_some(),
            gate: self.gate.why().map(|(why, message)| (why, message.into())),
            gate_until: self.gate.until().filter(|_| auto.is_on() || self.gate.opens_by_itself()).map(wall),
            metered: self.device.metered == Some(true),
            is_automatic: auto.is_on(),
            is_suspended: auto.is_suspended(),
            unmet: auto.unmet(&self.device),
            offline_until: auto.told_offline_until(&self.device, self.is_unreachable).map(wall),
            next_run: auto.due().map(wall),
        }
    }
}

impl Step {
    /// Ends the step: plans what can be sent, keeps the lease, notices the end of a session, and works out when to
    /// wake. Call it last, then commit.
    ///
    /// # Errors
    /// When the store cannot be read or written; drop the step and the transaction then.
    pub fn finish(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        self.look_at_clocks(tx)?;
        self.look_at_budget();
        self.open_gate_if_due(tx)?;
        self.end_lapsed(tx)?;
        let may_run = self.state.session.is_some() || self.state.auto.is_on();
        self.state.paused = may_run && self.controls(tx)?.all;
        if self.state.session.is_some() && !core::mem::replace(&mut self.state.knows_held, true) {
            self.let_held_go(tx)?;
        }
        self.leave_twins(tx)?;
        self.plan(tx)?;
        self.leave_twins(tx)?;
        self.plan_pull(tx)?;
        self.plan_fetches(tx)?;
        self.tell_progress(tx)?;
        self.end_session_if_done(tx)?;
        self.renew_lease(tx)?;
        self.call_for_attention(tx)?;
        self.tell_of_conditions();
        self.plan_next_run(tx)?;
        self.watch_progress(tx)?;
        self.schedule_wakeup(tx)?;
        if self.replica_changed {
            if let Some(replica) = &self.replica {
                tx.put_replica(replica)?;
            }
        }
        Ok(())
    }

    fn emit(&mut self, event: Event) {
        if matches!(
            event,
            Event::Enqueued { .. }
                | Event::Coalesced { .. }
                | Event::Imported { .. }
                | Event::Requeued { .. }
        ) {
            self.news_came();
        }
        let of_one_change = matches!(
            event,
            Event::Enqueued { .. } | Event::Coalesced { .. } | Event::Settled { .. } | Event::Changed { .. }
        );
        match &mut self.hushed {
            Some(stream) if of_one_change => stream.count(&event),
            _ => self.effects.push(Effect::Emit(event)),
        }
    }

    /// A point to which [`forget_since`](Self::forget_since) can return, beside a savepoint of the transaction.
    pub fn mark(&self) -> Mark {
        Mark(self.effects.len())
    }

    /// What was to be told since `mark` is not true any more: the transaction was rolled back to its savepoint.
    pub fn forget_since(&mut self, mark: Mark) {
        self.effects.truncate(mark.0);
    }

    /// A stream of changes begins: from here on no event tells of a single one, so that memory stays flat (G14).
    pub fn begin_stream(&mut self) {
        self.hushed = Some(Stream::default());
    }

    /// The stream is over: one event tells of all of it, if any of it was taken.
    pub fn end_stream(&mut self, changes: u64) {
        let Stream { tasks, coalesced, annihilated } = self.hushed.take().unwrap_or_default();
        if changes > 0 {
            self.emit(Event::Imported { changes, tasks, coalesced, annihilated });
        }
    }

    /// The replica row, read once per step: another process may have moved its clock.
    fn replica(&mut self, tx: &dyn StoreTx) -> Result<&mut Replica, StoreError> {
        if self.replica.is_none() {
            self.replica = tx.replica()?;
        }
        self.replica
            .as_mut()
            .ok_or_else(|| StoreError::Corrupt("the row that names this replica is missing".into()))
    }

    /// What the backend's clock says now, as far as we ever heard; else our own.
    fn backend_now(&mut self, tx: &dyn StoreTx) -> Result<Timestamp, StoreError> {
        let fell_back = self.fell_back_ms();
        let offset = self.replica(tx)?.server_offset_ms.map_or(0, |offset| offset.saturating_add(fell_back));
        Ok(self.now.wall.shifted(offset))
    }

    /// The backend told the time: from here on changes are stamped by its clock.
    fn hear_time(&mut self, tx: &mut dyn StoreTx, told: Timestamp) -> Result<(), StoreError> {
        /// A `Date` has whole seconds and was some time on its way: less than this is no news, and not worth a write.
        const NEWS_MS: u64 = 2_000;
        self.look_at_clocks(tx)?;
        let offset = told.0.saturating_sub(self.now.wall.0);
        let replica = self.replica(tx)?;
        let known = replica.server_offset_ms;
        if known.is_none_or(|known| known.abs_diff(offset) > NEWS_MS) {
            replica.server_offset_ms = Some(offset);
            self.replica_changed = true;
        }
        if known.is_none_or(|known| self.is_a_jump(known.abs_diff(offset))) {
            self.doubt_stamps(tx, told)?;
        }
        self.state.clocks.vouch();
        Ok(())
    }

    /// When a change is made now, by the backend's clock as far as we know it. Never far ahead of that, even if our own
    /// clock was once: the clock that orders the store's commits does not go back, the stamps of changes do.
    fn stamp(&mut self, tx: &dyn StoreTx) -> Result<Hlc, StoreError> {
        let time = self.tick(tx)?;
        let known = self.replica(tx)?.server_offset_ms.is_some();
        let (now, drift) = (self.backend_now(tx)?, self.config.conflicts.clock_drift_max);
        Ok(if known { time.believed(now, drift) } else { time })
    }

    /// The next hybrid logical time.
    fn tick(&mut self, tx: &dyn StoreTx) -> Result<Hlc, StoreError> {
        let wall = self.backend_now(tx)?;
        let replica = self.replica(tx)?;
        replica.clock = replica.clock.tick(wall);
        let clock = replica.clock;
        self.replica_changed = true;
        self.newest = Some(clock);
        Ok(clock)
    }

    /// Removes a task through the journal and lets what waited for it go on. Gives back the task that is the first of its
    /// record now.
    fn settle(
        &mut self,
        tx: &mut dyn StoreTx,
        task: &Task,
        verdict: Verdict,
        version: Option<Version>,
    ) -> Result<Option<Task>, StoreError> {
        self.end(tx, task, verdict, version, None)?;
        let first = self.promote(tx, &task.entity, task.lane.as_deref())?;
        if let Some(group) = &task.terms.group {
            // One of them may have its moment already, from before this one came: the others wait for it.
            let rest = tx.tasks_of_group(group)?.tasks;
            if let Some(rest) = rest.iter().find(|rest| rest.claim_at.is_none() && !rest.standing.held) {
                self.make_claimable(tx, rest)?;
            }
        }
        self.left(tx, task, verdict, None)?;
        Ok(first)
    }

    /// Writes a task's end into the journal; `became` is the task that goes on in its place.
    fn end(
        &mut self,
        tx: &mut dyn StoreTx,
        task: &Task,
        verdict: Verdict,
        version: Option<Version>,
        became: Option<TaskId>,
    ) -> Result<(), StoreError> {
        let payload = match &task.frozen {
            Some(frozen) => Arc::clone(&frozen.payload),
            None => push::encode(task, &task.entity, &task.intent.fields, None, None).into(),
        };
        let entry = JournalEntry {
            task_id: task.id,
            entity: task.entity.clone(),
            generation: task.generation,
            verdict,
            version: version.clone(),
            at: self.now.wall,
            payload,
            became,
        };
        tx.settle_task(task, &entry)?;
        self.ends += 1;
        if self.is_twin(tx, &task.entity)? {
            let applied = matches!(verdict, Verdict::Applied | Verdict::Duplicate);
            let made_on =
                task.frozen.as_ref().filter(|_| applied).and_then(|frozen| frozen.base_version.clone());
            self.twins.push((task.entity.clone(), made_on));
        }
        let age = task.enqueued_at.until(self.now.wall);
        self.emit(Event::Settled { task: task.id, entity: task.entity.clone(), verdict, version, age });
        self.count(|report| match verdict {
            Verdict::Applied => report.applied += 1,
            Verdict::Duplicate => report.duplicates += 1,
            Verdict::NoChange | Verdict::ResolvedToRemote => report.unchanged += 1,
            Verdict::Expired => report.expired += 1,
            Verdict::Cancelled => report.cancelled += 1,
            Verdict::Annihilated
            | Verdict::Rebased
            | Verdict::Requeued
            | Verdict::Discarded
            | Verdict::Forked => {}
        });
        Ok(())
    }

    /// A damaged row blocks what is behind it but fails nothing else; it is quarantined when it is claimed or listed.
    fn readable<T>(&mut self, read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Err(StoreError::Damaged(what)) => {
                self.emit(Event::Damaged { what });
                Ok(None)
            }
            other => other,
        }
    }

    /// What is known of a record. Of a damaged row nothing is: it is told, and the record begins anew with a generation
    /// that no earlier task of it can have had, so that no task id is ever given twice.
    fn entity(&mut self, tx: &dyn StoreTx, key: &EntityKey) -> Result<StoredEntity, StoreError> {
        Ok(self.known_entity(tx, key)?.unwrap_or_else(|| StoredEntity::unknown(key.clone())))
    }

    /// Likewise; `None` when there is no row, and so no task of the record either.
    fn known_entity(
        &mut self,
        tx: &dyn StoreTx,
        key: &EntityKey,
    ) -> Result<Option<StoredEntity>, StoreError> {
        match tx.entity(key) {
            Ok(entity) => Ok(entity),
            Err(StoreError::Damaged(what)) => {
                self.emit(Event::Damaged { what });
                let generation = u64::try_from(self.now.wall.0).unwrap_or(0);
                Ok(Some(StoredEntity { generation, ..StoredEntity::unknown(key.clone()) }))
            }
            Err(other) => Err(other),
        }
    }

    /// Makes anew what the app sees: the base with every queued change of the record laid over it, in order; in the
    /// place of a change that waits for a decision, what the rules propose. What has left under the backend's name of it is
    /// among them.
    fn lay_over(
        &mut self,
        tx: &dyn StoreTx,
        entity: &mut StoredEntity,
        origin: Origin,
    ) -> Result<(), StoreError> {
        let mut view = entity.base.as_ref().map(|base| base.body.clone());
        let twin = self.twin(tx, &entity.key)?;
        let mut after = 0;
        loop {
            let own = self.readable(tx.next_of_entity(&entity.key, after))?;
            let others = match &twin {
                Some(twin) => self.readable(tx.next_of_entity(twin, after))?,
                None => None,
            };
            let Some(task) = own.into_iter().chain(others).min_by_key(|task| task.seq) else { break };
            after = task.seq;
            if task.intent.operation == Operation::Action {
                continue;
            }
            let proposal = self.open_conflict(tx, &task)?.and_then(|open| open.proposal);
            view = Some(proposal.unwrap_or_else(|| patch::apply(&task.intent, view.as_ref())));
        }
        match view {
            Some(view) => self.show(tx, entity, view, origin)?,
            None => entity.local = None,
        }
        Ok(())
    }

    /// Makes a task a dead letter. It stays in its place, and until somebody decides it blocks its lane or is passed over,
    /// as the app said (G2, G5).
    fn bury(&mut self, tx: &mut dyn StoreTx, mut task: Task, note: FailureNote) -> Result<(), StoreError> {
        let why = note.kind;
        if task.standing.cancelling && never_takes_effect(&task, &note) {
            return self.give_up_together(tx, &task, Verdict::Cancelled);
        }
        if matches!(why, FailureKind::Rejected | FailureKind::Forbidden) {
            task.attempts = task.attempts.saturating_add(1);
        }
        self.ends += 1;
        task.become_state(TaskState::Dead { why });
        task.claim_at = None;
        task.history.push(note);
        task.standing.held = false;
        task.standing.passed_over = self.when_dead(&task) != WhenDead::Block;
        tx.put_task(&task)?;
        self.count(|report| report.dead += 1);
        self.emit(Event::Died { task: task.id, entity: task.entity.clone(), why });
        if !remote::fate_is_open(&task) {
            self.take_staged(tx, &task.entity)?;
        }
        match self.readable(tx.task(task.id))? {
            Some(task) if matches!(task.state, TaskState::Dead { .. }) => self.died(tx, &task),
            // What was staged has made a conflict of it, or ended it: what waits for it has heard that.
            _ => Ok(()),
        }
    }

    /// Gives up a task that certainly has no effect, and the rest of its group: they only ever left together, so nothing
    /// of any request that left has taken effect either, nor ever will.
    fn give_up_together(
        &mut self,
        tx: &mut dyn StoreTx,
        task: &Task,
        verdict: Verdict,
    ) -> Result<(), StoreError> {
        for member in self.with_group(tx, task.clone())? {
            // The end of one may have been the end of another.
            if let Some(member) = self.readable(tx.task(member.id))? {
                self.give_up(tx, &member, verdict)?;
            }
        }
        Ok(())
    }

    /// Ends a task that has not taken effect, and lets the app see its record without it.
    fn give_up(&mut self, tx: &mut dyn StoreTx, task: &Task, verdict: Verdict) -> Result<(), StoreError> {
        self.settle(tx, task, verdict, None)?;
        let mut entity = self.entity(tx, &task.entity)?;
        match entity.staged.take() {
            Some(staged) if self.is_fate_open(tx, &task.entity)? => entity.staged = Some(staged),
            Some(staged) => self.rebase_queue(tx, &mut entity, staged)?,
            None => self.lay_conflicts_anew(tx, &mut entity)?,
        }
        self.lay_over(tx, &mut entity, Origin::App)?;
        tx.put_entity(&entity)?;
        self.create_given_up(tx, task)
    }

    /// What waits for a person has become more or less.
    fn call_for_attention(&mut self, tx: &dyn StoreTx) -> Result<(), StoreError> {
        let counts = tx.counts()?;
        let (dead, conflicts) = (counts.dead, counts.conflict);
        if self.state.attention != (dead, conflicts) {
            self.state.attention = (dead, conflicts);
            self.emit(Event::NeedsAttention { dead, conflicts });
        }
        Ok(())
    }

    fn note(&self, kind: FailureKind, code: Option<String>, message: &str) -> FailureNote {
        let message = message.chars().take(self.config.limits.failure_message_chars).collect();
        FailureNote { kind, code, message, answer: None, at: self.now.wall }
    }

    /// Likewise, with the backend's answer; what is marked sensitive in the task is in neither.
    fn note_of(
        &self,
        task: &Task,
        kind: FailureKind,
        code: Option<String>,
        message: &str,
        answer: &Option<String>,
    ) -> FailureNote {
        let secrets = self.config.model.secrets(&task.entity.entity_type, &task.intent.fields);
        let cut = |text: &str, chars| model::without(text, &secrets).chars().take(chars).collect();
        let limits = &self.config.limits;
        FailureNote {
            kind,
            code: code.map(|code| cut(&code, limits.failure_message_chars)),
            message: cut(message, limits.failure_message_chars),
            answer: answer.as_deref().map(|answer| cut(answer, limits.answer_chars)),
            at: self.now.wall,
        }
    }

    /// Whether a session runs that has no lease yet: [`Step::lead`] is to be tried.
    pub fn needs_lease(&self) -> bool {
        self.state.session.is_some() && self.state.lease.is_none()
    }

    /// The newest hybrid logical time given out in this step; `None` if none was.
    pub const fn newest_time(&self) -> Option<Hlc> {
        self.newest
    }

    /// Makes sure that this step leaves a trace by which its commit can be recognised: a new hybrid logical time.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn leave_trace(&mut self, tx: &dyn StoreTx) -> Result<(), StoreError> {
        self.tick(tx).map(drop)
    }

    /// Removes what the journal and the settled conflicts need not remember any longer; `true` when there may be more. For quiet moments.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn tidy(&mut self, tx: &mut dyn StoreTx) -> Result<bool, StoreError> {
        self.look_at_clocks(tx)?;
        let Some(certain) = self.certain_time(tx)? else { return Ok(false) };
        let ago = |horizon: Duration| certain.ago(horizon);
        let limit = self.config.journal.prune_batch;
        let before = ago(self.config.journal.horizon);
        let forgotten = tx.prune_journal(before, limit)?;
        let keys = tx.prune_deduplicated(before, limit)?;
        let conflicts = tx.prune_conflicts(ago(self.config.conflicts.horizon), limit)?;
        Ok(conflicts == limit || forgotten == limit || keys == limit)
    }

    /// Time has passed. [`finish`](Self::finish) does all there is to do.
    pub fn wake(&mut self) {}

    /// When something will be due: the gate, a retry, the lease, the session's deadline.
    fn schedule_wakeup(&mut self, tx: &dyn StoreTx) -> Result<(), StoreError> {
        let mut wakeup = self.state.lease.as_ref().map(|lease| lease.renew_at);
        let mut sooner = |moment: Mono| wakeup = Some(wakeup.map_or(moment, |known: Mono| known.min(moment)));
        if let Some(session) = &self.state.session {
            if let Some(end) = session.ends_at() {
                sooner(end);
            }
            match &self.state.gate {
                Gate::Waiting { until, probe: None, .. } => sooner(*until),
                Gate::Open if self.may_send() && self.session_pushes() => {
                    if let Some(due) = tx.next_claim(self.now.wall)? {
                        // A clock that jumped must not stall a retry beyond the cap (G12).
                        let wait = self.now.wall.until(due).min(self.config.retry.cap);
                        sooner(self.now.mono.after(wait.max(Duration::from_millis(1))));
                    }
                }
                _ => {}
            }
            if let Some(moment) = self.pull_resumes() {
                sooner(moment);
            }
            if self.sweep_goes_on() {
                sooner(self.now.mono);
            }
            if self.state.rival.is_some() {
                sooner(self.now.mono.after(RIVAL_CHECK));
            }
        }
        if let Some(lapse) = self.state.next_lapse.flatten() {
            // A clock that jumped must not hide that a time is over.
            let wait = self.now.wall.until(lapse).min(self.config.retry.cap);
            sooner(self.now.mono.after(wait.max(Duration::from_millis(1))));
        }
        if self.state.more_to_claim {
            sooner(self.now.mono);
        }
        for moment in [self.state.auto.due(), self.next_alarm()].into_iter().flatten() {
            sooner(moment);
        }
        self.state.wakeup = wakeup;
        Ok(())
    }

    fn may_send(&self) -> bool {
        self.state.lease.is_some()
            && self.state.calls.len() < self.calls_allowed()
            && !self.pull_needs_silence()
    }

    fn count(&mut self, change: impl FnOnce(&mut Report)) {
        if let Some(session) = &mut self.state.session {
            change(session.report_mut());
        }
    }
}

/// How often a session that waits for another process looks whether that one is done. Costs one read.
const RIVAL_CHECK: Duration = Duration::from_millis(200);

/// Whether a note on its end proves that the task has no effect and never will: it never left, or the backend has
/// refused it under its key, and refuses every copy of it.
fn never_takes_effect(task: &Task, note: &FailureNote) -> bool {
    task.frozen.is_none() || is_verdict(note)
}

/// Whether the backend has refused this very task, and so keeps the refusal under its key.
fn is_verdict(note: &FailureNote) -> bool {
    note.kind == FailureKind::Rejected && note.code.is_some()
}

/// Whether it is proven that a queued task has no effect and that no copy of it will ever have one.
fn is_without_effect(task: &Task) -> bool {
    let never_left = task.frozen.as_ref().is_none_or(|frozen| frozen.sends == 0);
    match task.state {
        TaskState::InFlight { .. } | TaskState::Unknown { .. } => false,
        TaskState::Pending { .. } => never_left,
        TaskState::Conflict => true,
        TaskState::Dead { .. } => never_left || task.history.last().is_some_and(is_verdict),
    }
}

/// Every task in `state`, page by page, in order.
fn for_each_in_state(
    tx: &mut dyn StoreTx,
    state: StateKind,
    mut visit: impl FnMut(&mut dyn StoreTx, Task) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    /// Rows read at a time: bounds memory, not work.
    const PAGE: usize = 500;
    let mut after = 0;
    loop {
        let page = tx.tasks_in_state(state, after, PAGE)?;
        let last = page.tasks.iter().map(|task| task.seq).chain(page.damaged.iter().map(|row| row.seq)).max();
        for row in &page.damaged {
            tx.quarantine(row)?;
        }
        for task in page.tasks {
            visit(tx, task)?;
        }
        match last {
            Some(seq) => after = seq,
            None => return Ok(()),
        }
    }
}
