//! Sending: plan and freeze a batch, and act on every kind of answer.
//!
//! Freezing comes before the first byte: payload, fingerprint and key are stored in the same transaction that marks
//! the task in flight, one transaction for the batch (G8). What is frozen is sent again as it is until a verdict comes;
//! only when it is proven that not one byte ever left may a task melt and coalesce again.
//! Tests: `tests/machine.rs` of `landfall-testkit` for the failure table; its simulator for everything together.

use super::{Effect, Gate, Sent, Step};
use crate::adapter::{Applied, CallContext, EffectClass, Outcome, PushBatch, PushReply, PushTask, Rejection};
use crate::change::Operation;
use crate::entity::RemoteEntity;
use crate::event::{Event, Origin};
use crate::failure::{Delivery, Failure, FailureKind};
use crate::id::{CallId, Fingerprint, IdempotencyKey, TaskId, Version};
use crate::patch;
use crate::retry::{Jitter, backoff};
use crate::store::{StoreError, StoreTx};
use crate::task::{Frozen, Task, TaskState, Verdict};
use crate::time::{Hlc, Timestamp};
use crate::value::Fields;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use serde::Serialize;

/// One task as it goes over the wire: the shape of a task in the sync endpoint protocol (DESIGN.md section 10).
#[derive(Serialize)]
struct WireTask<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    task_id: TaskId,
    entity_type: &'a str,
    entity_id: &'a str,
    operation: Operation,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_version: Option<&'a Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<&'a Fields>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    unset: &'a BTreeSet<String>,
    changed_at: Hlc,
    schema: u32,
}

/// Writes a task as it goes over the wire; without a key, as it goes into the journal.
pub(super) fn encode(task: &Task, key: Option<IdempotencyKey>, base_version: Option<&Version>) -> String {
    let wire = WireTask {
        key: key.map(|key| alloc::format!("{key}")),
        task_id: task.id,
        entity_type: &task.entity.entity_type,
        entity_id: &task.entity.entity_id,
        operation: task.intent.operation,
        base_version,
        fields: (task.intent.operation != Operation::Delete).then_some(&task.intent.fields),
        unset: &task.intent.unset,
        changed_at: task.changed_at,
        schema: task.schema,
    };
    serde_json::to_string(&wire).expect("names and checked values are always JSON")
}

impl Step {
    /// Fills the free calls with batches of what may be sent now: highest priority first, then oldest, one task per
    /// lane, within the limits of count and bytes.
    pub(super) fn plan(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        while self.session_pushes() && self.may_send() && matches!(self.state.gate, Gate::Open) {
            if !self.still_leads(tx)? {
                return Ok(());
            }
            let batch = match self.state.halves.pop() {
                Some(half) => self.again(tx, &half)?,
                None => {
                    let batch = self.freeze_batch(tx)?;
                    if batch.is_empty() {
                        return Ok(());
                    }
                    batch
                }
            };
            if !batch.is_empty() {
                self.call(tx, batch)?;
            }
        }
        Ok(())
    }

    /// Claims and freezes the tasks of one call.
    fn freeze_batch(&mut self, tx: &mut dyn StoreTx) -> Result<Vec<PushTask>, StoreError> {
        let Some(fence) = self.state.lease.as_ref().map(|lease| lease.fence) else { return Ok(Vec::new()) };
        let limit = self.state.batch_tasks;
        let most_bytes = self.config.push.batch_bytes.min(self.capabilities.batch_bytes);
        let mut batch: Vec<PushTask> = Vec::new();
        let mut bytes = 0;
        while batch.is_empty() {
            let page = tx.claimable(self.now.wall, limit)?;
            for row in &page.damaged {
                tx.quarantine(row)?;
                self.emit(Event::Damaged { what: row.what.clone() });
            }
            if page.tasks.is_empty() && page.damaged.is_empty() {
                break;
            }
            for mut task in page.tasks {
                if !self.freeze(tx, &mut task)? {
                    continue;
                }
                let Some(frozen) = &task.frozen else { continue };
                if !batch.is_empty() && bytes + frozen.payload.len() > most_bytes {
                    break;
                }
                bytes += frozen.payload.len();
                batch.push(PushTask {
                    task_id: task.id,
                    key: frozen.key,
                    entity: task.entity.clone(),
                    operation: task.intent.operation,
                    payload: Arc::clone(&frozen.payload),
                    attempt: frozen.sends,
                });
                task.become_state(TaskState::InFlight { fence });
                task.claim_at = None;
                tx.put_task(&task)?;
            }
        }
        Ok(batch)
    }

    /// Fixes what the task will send. `false` when there is nothing to send, and the task is gone or set aside.
    fn freeze(&mut self, tx: &mut dyn StoreTx, task: &mut Task) -> Result<bool, StoreError> {
        if task.frozen.is_some() {
            return Ok(true);
        }
        let entity = match tx.entity(&task.entity) {
            Ok(entity) => entity,
            Err(StoreError::Damaged(what)) => {
                let note = self.note(FailureKind::Damaged, None, &what);
                self.bury(tx, task.clone(), note)?;
                return Ok(false);
            }
            Err(other) => return Err(other),
        };
        let base = entity.and_then(|entity| entity.base);
        let Some(intent) = patch::dirty_part(&task.intent, base.as_ref()) else {
            self.settle(tx, task, Verdict::NoChange, None)?;
            return Ok(false);
        };
        task.intent = intent;
        let base_version = base.and_then(|base| base.version);
        let key = IdempotencyKey(self.entropy.derive("idempotency key", task.id.0.as_bytes()));
        let payload: Arc<str> = encode(task, Some(key), base_version.as_ref()).into();
        task.frozen = Some(Frozen {
            key,
            fingerprint: Fingerprint::of(payload.as_bytes()),
            payload,
            base_version,
            sends: 0,
            open_sends: 0,
        });
        Ok(true)
    }

    /// Records the call and hands it out.
    fn call(&mut self, tx: &mut dyn StoreTx, tasks: Vec<PushTask>) -> Result<(), StoreError> {
        let call = self.new_call();
        let sent = tasks.iter().map(|task| Sent {
            task: task.task_id,
            key: task.key,
            payload: Arc::clone(&task.payload),
        });
        self.state.calls.insert(call, sent.collect::<Vec<_>>().into());
        let bytes = tasks.iter().map(|task| task.payload.len()).sum();
        self.emit(Event::SendStarted { call, tasks: tasks.len(), bytes });
        self.count(|report| {
            report.requests += 1;
            report.bytes += bytes as u64;
        });
        let context = self.call_context(tx, self.config.push.call_timeout)?;
        self.effects.push(Effect::Push { context, batch: PushBatch { call, tasks } });
        Ok(())
    }

    pub(super) fn new_call(&mut self) -> CallId {
        let call = CallId(self.state.next_call);
        self.state.next_call += 1;
        call
    }

    pub(super) fn call_context(
        &mut self,
        tx: &dyn StoreTx,
        timeout: Duration,
    ) -> Result<CallContext, StoreError> {
        let replica = self.replica(tx)?;
        Ok(CallContext {
            client_id: replica.client_id,
            client_epoch: replica.client_epoch,
            server_id: replica.server_id.clone(),
            timeout,
        })
    }

    /// Acts on the answer to a call. An answer to a call that is no longer known, or that comes after another holder
    /// took over, is reconciled: a proven effect counts whoever hears of it, everything else is ignored.
    ///
    /// # Errors
    /// When the store cannot be read or written; bring the same answer again then.
    pub fn pushed(
        &mut self,
        tx: &mut dyn StoreTx,
        call: CallId,
        answer: &Result<PushReply, Failure>,
    ) -> Result<(), StoreError> {
        let Some(sent) = self.state.calls.remove(&call) else { return Ok(()) };
        let leads = self.still_leads(tx)?;
        match answer {
            Ok(reply) => self.answered(tx, &sent, reply, leads),
            // Whoever leads now repeats what we sent, under the same keys.
            Err(_) if !leads => Ok(()),
            Err(failure) => self.failed(tx, &sent, failure),
        }
    }

    fn answered(
        &mut self,
        tx: &mut dyn StoreTx,
        sent: &[Sent],
        reply: &PushReply,
        leads: bool,
    ) -> Result<(), StoreError> {
        if let Some(name) = &reply.server_id {
            let replica = self.replica(tx)?;
            match &replica.server_id {
                None => {
                    replica.server_id = Some(name.clone());
                    self.replica_changed = true;
                }
                Some(known) if known == name => {}
                Some(known) => {
                    // A backend that does not check is still not the one we spoke to: believe nothing it says.
                    let message = alloc::format!("expected the backend {known}, but {name} answered");
                    let failure = Failure::new(FailureKind::ServerChanged, Delivery::Unknown, message);
                    return if leads { self.failed(tx, sent, &failure) } else { Ok(()) };
                }
            }
        }
        if let Some(time) = reply.server_time {
            self.hear_time(tx, time)?;
        }
        self.state.failures = 0;
        self.state.refreshed = false;
        let most = self.config.push.batch_tasks.min(self.capabilities.batch_tasks).max(1);
        self.state.batch_tasks = (self.state.batch_tasks * 2).min(most);
        let mut results: alloc::collections::BTreeMap<_, _> =
            reply.results.iter().map(|(key, outcome)| (*key, outcome)).collect();
        for item in sent {
            let silent = Outcome::Unknown { reason: "the answer does not name this task".into() };
            let outcome = results.remove(&item.key).unwrap_or(&silent);
            self.judge(tx, item, outcome, leads)?;
        }
        Ok(())
    }

    /// Acts on the outcome of one task.
    fn judge(
        &mut self,
        tx: &mut dyn StoreTx,
        sent: &Sent,
        outcome: &Outcome,
        leads: bool,
    ) -> Result<(), StoreError> {
        let Some(task) = self.readable(tx.task(sent.task))? else { return Ok(()) };
        if task.frozen.as_ref().is_none_or(|frozen| frozen.key != sent.key) {
            return Ok(());
        }
        let conflict = self.config.conflicts.detector.0.detect(&task, outcome);
        match (outcome, conflict) {
            (_, Some(conflict)) if leads => self.conflicted(tx, task, conflict.remote),
            (_, Some(_)) => Ok(()),
            (Outcome::Applied(applied), None) => self.applied(tx, task, Verdict::Applied, applied),
            (Outcome::Duplicate(applied), None) => self.applied(tx, task, Verdict::Duplicate, applied),
            (other, None) if leads => self.refused_or_open(tx, task, other),
            (_, None) => Ok(()),
        }
    }

    /// Acts on an outcome that is neither an effect nor a conflict.
    fn refused_or_open(
        &mut self,
        tx: &mut dyn StoreTx,
        task: Task,
        outcome: &Outcome,
    ) -> Result<(), StoreError> {
        match outcome {
            Outcome::Applied(_) | Outcome::Duplicate(_) => Ok(()),
            // The detector says that this one is none: whoever sees it so must say what it is instead.
            Outcome::Conflict { remote } => self.conflicted(tx, task, remote.clone()),
            Outcome::Rejected(Rejection { code, message }) => {
                let note = self.note(FailureKind::Rejected, Some(code.clone()), message);
                self.bury(tx, task, note)
            }
            Outcome::Retry { after, reason } => {
                self.put_off(tx, task, FailureKind::RateLimited, reason, Delivery::Answered, *after, true)
            }
            Outcome::Unknown { reason } => {
                self.put_off(tx, task, FailureKind::Protocol, reason, Delivery::Unknown, None, true)
            }
        }
    }

    /// The backend confirmed the effect: base, journal and what waits behind, in one transaction.
    fn applied(
        &mut self,
        tx: &mut dyn StoreTx,
        task: Task,
        verdict: Verdict,
        applied: &Applied,
    ) -> Result<(), StoreError> {
        let mut entity = self.entity(tx, &task.entity)?;
        let mut base = patch::confirmed(&task.intent, entity.base.as_ref(), applied.version.clone());
        let mut local_moves = false;
        if let (Some(changed), crate::entity::Body::Live(known)) = (&applied.fields, &mut base.body) {
            for (name, value) in &changed.0 {
                local_moves |= known.value(name) != Some(value);
                known.0.insert(name.clone(), value.clone());
            }
        }
        let mut later: Option<RemoteEntity> = None;
        if let Some(staged) = entity.staged.take() {
            // With an expected version the effect followed that state directly, so a staged state that is neither the
            // expected one nor the effect's own came after it. Otherwise order is unknown; the feed will tell again.
            let expected = task.frozen.as_ref().and_then(|frozen| frozen.base_version.as_ref());
            let stale = staged.version.is_some()
                && (staged.version.as_ref() == expected || staged.version == applied.version);
            later = (!stale).then_some(staged);
        }
        self.base_moves(tx, &mut entity)?;
        let version = base.version.clone();
        entity.base = Some(base.clone());
        let next = self.settle(tx, &task, verdict, version)?;
        // A conflict that waits behind it is looked at anew: what it is laid over has moved.
        if later.is_none() && next.is_some_and(|next| next.state == TaskState::Conflict) {
            later = Some(RemoteEntity::new(task.entity.clone(), base.body, base.version));
        }
        match later {
            Some(later) => self.rebase_queue(tx, &mut entity, later)?,
            None if local_moves => self.lay_over(tx, &mut entity, Origin::Backend)?,
            None => {}
        }
        tx.put_entity(&entity)
    }

    /// The whole call failed: the table of ARCHITECTURE.md section 4.
    fn failed(&mut self, tx: &mut dyn StoreTx, sent: &[Sent], failure: &Failure) -> Result<(), StoreError> {
        use FailureKind as Kind;
        let alone = sent.len() == 1;
        match failure.kind {
            // The batch as a whole was refused: halve it until the poison task stands alone (G5).
            Kind::TooLarge | Kind::Rejected | Kind::Forbidden if !alone => {
                self.bisect(sent);
                Ok(())
            }
            Kind::TooLarge | Kind::Rejected | Kind::Forbidden => {
                for task in self.tasks_of(tx, sent)? {
                    let note = self.note(failure.kind, None, &failure.message);
                    self.bury(tx, task, note)?;
                }
                Ok(())
            }
            Kind::Transient | Kind::Protocol | Kind::CursorExpired | Kind::Damaged | Kind::FateUnknown => {
                self.state.failures = self.state.failures.saturating_add(1);
                self.state.batch_tasks = (sent.len() / 2).max(1);
                let wait = self.call_backoff(Jitter::Full, failure.retry_after);
                self.close_gate(failure.kind, failure.message.clone(), wait);
                self.put_all_off(tx, sent, failure, true)
            }
            Kind::RateLimited => {
                self.slow_down(failure);
                self.put_all_off(tx, sent, failure, false)
            }
            Kind::Unreachable | Kind::Intercepted => {
                self.state.failures = self.state.failures.saturating_add(1);
                let wait = self.call_backoff(Jitter::Full, failure.retry_after);
                self.close_gate(failure.kind, failure.message.clone(), wait);
                self.put_all_off(tx, sent, failure, false)
            }
            Kind::Unauthenticated => {
                self.ask_for_credentials(failure);
                self.put_all_off(tx, sent, failure, false)
            }
            Kind::ServerChanged | Kind::ClientUnknown | Kind::ClientSuperseded | Kind::Unsupported => {
                self.stop_gate(failure);
                self.put_all_off(tx, sent, failure, false)
            }
            Kind::Cancelled => self.put_all_off(tx, sent, failure, false),
        }
    }

    /// Nothing is sent or read until credentials are good again; fresh ones are asked for once.
    pub(super) fn ask_for_credentials(&mut self, failure: &Failure) {
        if matches!(self.state.gate, Gate::NeedsCredentials { .. }) {
            return;
        }
        let refreshing = !core::mem::replace(&mut self.state.refreshed, true);
        self.state.gate = Gate::NeedsCredentials { message: failure.message.clone(), refreshing };
        if refreshing {
            self.effects.push(Effect::RefreshCredentials);
        }
        self.emit(Event::GateClosed { why: failure.kind, message: failure.message.clone(), wait: None });
    }

    /// Nothing is sent or read until the app says so.
    pub(super) fn stop_gate(&mut self, failure: &Failure) {
        self.state.gate = Gate::Stopped { why: failure.kind, message: failure.message.clone() };
        self.emit(Event::GateClosed { why: failure.kind, message: failure.message.clone(), wait: None });
    }

    /// The backend asked for calm: everything waits.
    pub(super) fn slow_down(&mut self, failure: &Failure) {
        self.state.failures = self.state.failures.saturating_add(1);
        let wait = self.call_backoff(Jitter::Equal, failure.retry_after);
        self.close_gate(failure.kind, failure.message.clone(), wait);
    }

    /// The wait of the whole adapter after `failures` calls that failed in a row.
    fn call_backoff(&self, jitter: Jitter, asked: Option<Duration>) -> Duration {
        backoff(&self.config.retry, b"call", self.state.failures.max(1), jitter, asked)
    }

    /// Puts the two halves in line for calls of their own, the first one next. The tasks stay in flight and frozen, so
    /// nothing has to be stored.
    fn bisect(&mut self, sent: &[Sent]) {
        let (first, second) = sent.split_at(sent.len() / 2);
        self.state.batch_tasks = first.len().max(1);
        self.state.halves.extend([second.into(), first.into()]);
    }

    /// What is still to be sent of half a batch, under the same keys.
    fn again(&mut self, tx: &dyn StoreTx, half: &[Sent]) -> Result<Vec<PushTask>, StoreError> {
        let tasks = self.tasks_of(tx, half)?.into_iter();
        Ok(tasks
            .filter_map(|task| {
                let frozen = task.frozen?;
                Some(PushTask {
                    task_id: task.id,
                    key: frozen.key,
                    entity: task.entity,
                    operation: task.intent.operation,
                    payload: frozen.payload,
                    attempt: frozen.sends,
                })
            })
            .collect())
    }

    /// The tasks of a call that still are what was sent.
    fn tasks_of(&mut self, tx: &dyn StoreTx, sent: &[Sent]) -> Result<Vec<Task>, StoreError> {
        let mut tasks = Vec::with_capacity(sent.len());
        for item in sent {
            if let Some(task) = self.readable(tx.task(item.task))? {
                if task.frozen.as_ref().is_some_and(|frozen| frozen.payload == item.payload) {
                    tasks.push(task);
                }
            }
        }
        Ok(tasks)
    }

    fn put_all_off(
        &mut self,
        tx: &mut dyn StoreTx,
        sent: &[Sent],
        failure: &Failure,
        counts: bool,
    ) -> Result<(), StoreError> {
        for task in self.tasks_of(tx, sent)? {
            // A pause of the whole adapter is the gate's business; the tasks themselves wait only for their own sake.
            self.put_off(tx, task, failure.kind, &failure.message, failure.delivery, None, counts)?;
        }
        Ok(())
    }

    /// Back into the queue without a verdict: melted if not one byte ever left, of unknown fate if bytes may have
    /// acted, else frozen and waiting.
    #[allow(clippy::too_many_arguments)]
    fn put_off(
        &mut self,
        tx: &mut dyn StoreTx,
        mut task: Task,
        kind: FailureKind,
        message: &str,
        delivery: Delivery,
        asked: Option<Duration>,
        counts: bool,
    ) -> Result<(), StoreError> {
        let ambiguous = match delivery {
            Delivery::NotSent => false,
            Delivery::Unknown => true,
            Delivery::Answered => matches!(kind, FailureKind::Transient | FailureKind::Protocol),
        };
        let note = self.note(kind, None, message);
        if counts {
            task.attempts = task.attempts.saturating_add(1);
        }
        if let Some(frozen) = &mut task.frozen {
            frozen.sends += u32::from(delivery != Delivery::NotSent);
            frozen.open_sends += u32::from(ambiguous);
            let fate_open = frozen.open_sends > 0;
            if fate_open && self.capabilities.effect == EffectClass::AtMostOnce {
                let note = self.note(FailureKind::FateUnknown, None, message);
                return self.bury(tx, task, note);
            }
        }
        let gave_up = match kind {
            FailureKind::Protocol => task.attempts >= self.config.retry.unreadable_max,
            FailureKind::Transient => self.config.retry.transient_max.is_some_and(|max| task.attempts >= max),
            _ => false,
        };
        if counts && gave_up {
            return self.bury(tx, task, note);
        }
        let jitter = if asked.is_some() { Jitter::Equal } else { Jitter::Full };
        let wait = if counts {
            backoff(&self.config.retry, task.id.0.as_bytes(), task.attempts, jitter, asked)
        } else {
            Duration::ZERO
        };
        let retry_at: Timestamp = self.now.wall.after(wait);
        let fate_open = task.frozen.as_ref().is_some_and(|frozen| frozen.open_sends > 0);
        if fate_open {
            task.become_state(TaskState::Unknown { retry_at });
        } else {
            // A refusal in words proves that this copy did nothing, but a late copy of it may still arrive.
            if task.frozen.as_ref().is_some_and(|frozen| frozen.sends == 0) {
                task.frozen = None;
            }
            task.become_state(TaskState::Pending { retry_at: counts.then_some(retry_at) });
        }
        task.claim_at = task.due();
        task.last_failure = Some(note);
        tx.put_task(&task)?;
        self.count(|report| report.retries += 1);
        self.emit(Event::RetryScheduled { task: task.id, kind, wait });
        if task.frozen.is_none() { self.take_staged(tx, &task.entity) } else { Ok(()) }
    }
}
