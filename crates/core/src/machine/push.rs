//! Sending: plan and freeze a batch, and act on every kind of answer.
//!
//! Freezing comes before the first byte: payload, fingerprint and key are stored in the same transaction that marks
//! the task in flight, one transaction for the batch (G8). What is frozen is sent again as it is until a verdict comes;
//! only when it is proven that not one byte ever left may a task melt and coalesce again.
//! Tests: `tests/machine.rs` of `landfall-testkit` for the failure table; its simulator for everything together.

use super::{Effect, Gate, Sent, Step, UnderWay};
use crate::adapter::{Applied, CallContext, EffectClass, Outcome, PushBatch, PushReply, PushTask, Rejection};
use crate::change::Operation;
use crate::entity::{RemoteEntity, StoredEntity};
use crate::event::{Event, Exhausted, Origin, Outcomes};
use crate::failure::{Delivery, Failure, FailureKind};
use crate::id::{CallId, EntityKey, Fingerprint, IdempotencyKey, TaskId, Version};
use crate::patch;
use crate::retry::{Jitter, backoff, together};
use crate::store::{StoreError, StoreTx};
use crate::task::{Frozen, Task, TaskState, Verdict};
use crate::time::{Hlc, Timestamp};
use crate::value::Fields;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use serde::{Deserialize, Serialize};

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
    action: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_version: Option<&'a Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<&'a Fields>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    unset: &'a BTreeSet<String>,
    changed_at: Hlc,
    schema: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
}

/// Writes a task as it goes over the wire, with the record and the references as the backend calls them; without a key,
/// as it goes into the journal.
pub(super) fn encode(
    task: &Task,
    entity: &EntityKey,
    fields: &Fields,
    key: Option<IdempotencyKey>,
    base_version: Option<&Version>,
) -> String {
    let wire = WireTask {
        key: key.map(|key| alloc::format!("{key}")),
        task_id: task.id,
        entity_type: &entity.entity_type,
        entity_id: &entity.entity_id,
        operation: task.intent.operation,
        action: task.intent.action.as_deref(),
        base_version,
        fields: (task.intent.operation != Operation::Delete).then_some(fields),
        unset: &task.intent.unset,
        changed_at: task.changed_at,
        schema: task.schema,
        group: task.terms.group.as_deref(),
    };
    serde_json::to_string(&wire).expect("names and checked values are always JSON")
}

/// A batch that is being filled.
#[derive(Default)]
struct Batch {
    tasks: Vec<PushTask>,
    bytes: usize,
    /// Members of groups that are in it already.
    groups: BTreeSet<TaskId>,
    /// Tasks that are larger than what the run may still send: smaller ones go in their place.
    passed_over: usize,
}

impl Step {
    /// Fills the free calls with batches of what may be sent now: highest priority first, then oldest, one task per
    /// lane, within the limits of count and bytes.
    pub(super) fn plan(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        self.state.more_to_claim = false;
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
        /// Pages of tasks that turn out to be held that one step looks at: bounds how long a write waits behind it.
        const PAGES: usize = 8;
        let limit = self.state.batch_tasks.min(self.tasks_in_budget());
        let mut batch = Batch::default();
        for _ in 0..PAGES {
            let ends_seen = self.ends;
            let page = tx.claimable(self.now.wall, limit)?;
            for row in &page.damaged {
                tx.quarantine(row)?;
                self.emit(Event::Damaged { what: row.what.clone() });
            }
            if page.tasks.is_empty() && page.damaged.is_empty() {
                return Ok(batch.tasks);
            }
            for task in page.tasks {
                if batch.groups.contains(&task.id) {
                    continue;
                }
                // The end of one before it may have been the end of this one, or made it wait.
                let task = match self.ends == ends_seen {
                    true => Some(task),
                    false => self.readable(tx.task(task.id))?.filter(|task| self.is_due(task)),
                };
                let Some(task) = task else { continue };
                // Of what has left before, more than one of a line may wait to be sent again.
                let was_in_trouble = task.frozen.is_some() || !task.history.notes().is_empty();
                if was_in_trouble && !self.is_first(tx, &task)? {
                    tx.put_task(&Task { claim_at: None, ..task })?;
                    continue;
                }
                let Some(together) = self.ready_together(tx, task)? else { continue };
                if !batch.tasks.is_empty() && batch.tasks.len() + together.len() > limit {
                    return Ok(batch.tasks);
                }
                if !self.add(tx, &mut batch, together)? {
                    return Ok(batch.tasks);
                }
            }
            if !batch.tasks.is_empty() {
                return Ok(batch.tasks);
            }
            if batch.passed_over > 0 {
                // Nothing that is next fits into what is left.
                self.exhaust(Exhausted::Bytes);
                return Ok(batch.tasks);
            }
        }
        self.state.more_to_claim = true;
        Ok(batch.tasks)
    }

    fn is_due(&self, task: &Task) -> bool {
        task.claim_at.is_some_and(|at| at <= self.now.wall.max(Timestamp::ALWAYS))
    }

    /// The claimed task and the rest of its group, if they may be sent at all and now.
    fn ready_together(&mut self, tx: &mut dyn StoreTx, task: Task) -> Result<Option<Vec<Task>>, StoreError> {
        if self.must_be_held(tx, &task)? {
            self.hold_back(tx, task)?;
            return Ok(None);
        }
        if self.has_lapsed(&task) {
            self.give_up_together(tx, &task, Verdict::Expired)?;
            return Ok(None);
        }
        let unsupported = match (task.intent.operation, &task.terms.group) {
            (Operation::Action, _) if !self.capabilities.actions => Some("this backend knows no actions"),
            (_, Some(_)) if !self.capabilities.atomic_groups => {
                Some("this backend cannot apply several changes together")
            }
            _ => None,
        };
        if let Some(why) = unsupported {
            let note = self.note(FailureKind::Unsupported, None, why);
            self.bury(tx, task, note)?;
            return Ok(None);
        }
        let Some(together) = self.whole_group(tx, task)? else { return Ok(None) };
        let mut is_held = false;
        for member in &together {
            // What was in trouble before may have been passed by then, and another one of its line may just be going.
            let was_in_trouble = member.frozen.is_some() || !member.history.notes().is_empty();
            if member.terms.group.is_some() && was_in_trouble && !self.is_first(tx, member)? {
                // Whoever has passed it goes.
                tx.put_task(&Task { claim_at: None, ..member.clone() })?;
                self.promote(tx, &member.entity, member.lane.as_deref())?;
                return Ok(None);
            }
            if self.must_be_held(tx, member)? {
                is_held = true;
                self.hold_back(tx, member.clone())?;
            }
        }
        // One that is held holds up the rest of its group: each of them is taken out when its turn comes in this planning.
        Ok((!is_held).then_some(together))
    }

    /// Freezes tasks that go together and adds them to the batch; `false` when there is no room for them.
    fn add(
        &mut self,
        tx: &mut dyn StoreTx,
        batch: &mut Batch,
        together: Vec<Task>,
    ) -> Result<bool, StoreError> {
        let Some(fence) = self.state.lease.as_ref().map(|lease| lease.fence) else { return Ok(false) };
        let most_bytes = self.config.push.batch_bytes.min(self.capabilities.batch_bytes);
        let mut ready = Vec::with_capacity(together.len());
        let mut bytes = 0;
        for mut task in together {
            if self.freeze(tx, &mut task)? {
                bytes += task.frozen.as_ref().map_or(0, |frozen| frozen.payload.len());
                ready.push(task);
            } else if task.terms.group.is_some() {
                // The group has changed: it is looked at anew.
                return Ok(true);
            }
        }
        if !batch.tasks.is_empty() && batch.bytes + bytes > most_bytes {
            return Ok(false);
        }
        if !self.fits_budget(batch.bytes + bytes) {
            batch.passed_over += 1;
            return Ok(true);
        }
        batch.bytes += bytes;
        for mut task in ready {
            if task.terms.group.is_some() {
                batch.groups.insert(task.id);
            }
            batch.tasks.extend(self.push_task(tx, &task)?);
            task.become_state(TaskState::InFlight { fence });
            task.claim_at = None;
            tx.put_task(&task)?;
        }
        Ok(true)
    }

    /// A frozen task as it is handed to the adapter.
    fn push_task(&mut self, tx: &dyn StoreTx, task: &Task) -> Result<Option<PushTask>, StoreError> {
        let Some(frozen) = &task.frozen else { return Ok(None) };
        Ok(Some(PushTask {
            task_id: task.id,
            key: frozen.key,
            entity: self.sent_as(tx, &task.entity, &frozen.payload)?,
            operation: task.intent.operation,
            group: task.terms.group.as_deref().map(Arc::from),
            payload: Arc::clone(&frozen.payload),
            attempt: frozen.sends,
        }))
    }

    /// The record as the frozen bytes call it: the backend may have given it a name since, and whatever an adapter makes of
    /// a task must be the same at each attempt (G8).
    fn sent_as(
        &mut self,
        tx: &dyn StoreTx,
        entity: &EntityKey,
        payload: &str,
    ) -> Result<EntityKey, StoreError> {
        #[derive(Deserialize)]
        struct Named {
            entity_id: String,
        }
        let known = self.server_key(tx, entity)?;
        if known == *entity {
            return Ok(known);
        }
        let named = serde_json::from_str::<Named>(payload);
        Ok(named.map_or(known, |Named { entity_id }| EntityKey { entity_id, ..entity.clone() }))
    }

    /// Fixes what the task will send. `false` when there is nothing to send, and the task is gone or set aside.
    fn freeze(&mut self, tx: &mut dyn StoreTx, task: &mut Task) -> Result<bool, StoreError> {
        if task.frozen.is_some() {
            return Ok(true);
        }
        let before = task.schema;
        if let Err(why) = self.upcast(task) {
            let note = self.note(FailureKind::UnknownKind, None, &why);
            self.bury(tx, task.clone(), note)?;
            return Ok(false);
        }
        if task.schema != before {
            // What the app sees of the record is of the newest format from now on, as the backend will have it.
            tx.put_task(task)?;
            if let Some(mut entity) = self.known_entity(tx, &task.entity)? {
                self.lay_over(tx, &mut entity, Origin::App)?;
                tx.put_entity(&entity)?;
            }
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
        let mut dirty = patch::dirty_part(&task.intent, base.as_ref());
        if dirty.is_none() && self.twin(tx, &task.entity)?.is_some() {
            // It takes back what is on its way under the backend's name.
            dirty = Some(task.intent.clone());
        }
        let Some(intent) = dirty else {
            self.settle(tx, task, Verdict::NoChange, None)?;
            if let Some(mut entity) = self.known_entity(tx, &task.entity)? {
                self.lay_conflicts_anew(tx, &mut entity)?;
                tx.put_entity(&entity)?;
            }
            return Ok(false);
        };
        task.intent = intent;
        // A command is about the record as the backend has it.
        let is_edit = task.intent.operation != Operation::Action;
        let base_version = base.and_then(|base| base.version).filter(|_| is_edit);
        let key = IdempotencyKey(self.entropy.derive("idempotency key", task.id.0.as_bytes()));
        let entity = self.server_key(tx, &task.entity)?;
        let fields = self.outgoing(tx, &task.entity.entity_type, &task.intent)?;
        let payload: Arc<str> = encode(task, &entity, &fields, Some(key), base_version.as_ref()).into();
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

    /// Makes the payload of a task that was never attempted one of the newest format (G15).
    ///
    /// # Errors
    /// Why it cannot be: its type or format is not known here, or the app's code has refused.
    pub(super) fn upcast(&self, task: &mut Task) -> Result<(), String> {
        let mut newer = (task.schema, task.intent.clone());
        self.config.model.upcast(&task.entity.entity_type, &mut newer.0, &mut newer.1)?;
        (task.schema, task.intent) = newer;
        Ok(())
    }

    /// Records the call and hands it out.
    fn call(&mut self, tx: &mut dyn StoreTx, tasks: Vec<PushTask>) -> Result<(), StoreError> {
        let call = self.new_call();
        let sent = tasks.iter().map(|task| Sent {
            task: task.task_id,
            key: task.key,
            payload: Arc::clone(&task.payload),
            group: task.group.clone(),
        });
        let under_way = UnderWay { since: self.now.mono, sent: sent.collect::<Vec<_>>().into() };
        self.state.calls.insert(call, under_way);
        let bytes = tasks.iter().map(|task| task.payload.len()).sum();
        self.spend_on_sending(tasks.len(), bytes);
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
        let timeout = self.within_budget(timeout);
        let replica = self.replica(tx)?;
        Ok(CallContext {
            client_id: replica.client_id,
            client_epoch: replica.client_epoch,
            server_id: replica.server_id.clone(),
            timeout,
            identity: self.identity.clone(),
            permit: self.permit.clone(),
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
        let Some(UnderWay { since, sent }) = self.state.calls.remove(&call) else { return Ok(()) };
        if answer.is_ok() {
            let took = self.now.mono.0.saturating_sub(since.0);
            self.state.pace = if self.state.pace == 0 { took } else { (3 * self.state.pace + took) / 4 };
        }
        let leads = self.still_leads(tx)?;
        match answer {
            Ok(reply) => self.answered(tx, call, &sent, reply, leads),
            Err(failure) => self.failed(tx, call, &sent, failure, leads),
        }
    }

    fn answered(
        &mut self,
        tx: &mut dyn StoreTx,
        call: CallId,
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
                    return self.failed(tx, call, sent, &failure, leads);
                }
            }
        }
        if let Some(time) = reply.server_time {
            self.hear_time(tx, time)?;
        }
        self.all_is_well(tx)?;
        let most = self.config.push.batch_tasks.min(self.capabilities.batch_tasks).max(1);
        self.state.batch_tasks = (self.state.batch_tasks * 2).min(most);
        let mut results: alloc::collections::BTreeMap<_, _> =
            reply.results.iter().map(|(key, outcome)| (*key, outcome)).collect();
        let mut outcomes = Outcomes::default();
        sent.iter().for_each(|item| outcomes.count(results.get(&item.key).copied()));
        self.emit(Event::SendFinished { call, tasks: sent.len(), outcomes: Ok(outcomes) });
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
            (_, Some(conflict)) if leads => self.contradicted(tx, task, conflict.remote),
            (_, Some(_)) => Ok(()),
            (Outcome::Applied(applied), None) => self.applied(tx, task, Verdict::Applied, applied),
            (Outcome::Duplicate(applied), None) => self.applied(tx, task, Verdict::Duplicate, applied),
            (other, None) if leads => self.refused_or_open(tx, task, other),
            (_, None) => Ok(()),
        }
    }

    /// The backend has another state of the record than the task was made on.
    fn contradicted(
        &mut self,
        tx: &mut dyn StoreTx,
        task: Task,
        remote: Option<RemoteEntity>,
    ) -> Result<(), StoreError> {
        let mut remote = remote.map(|remote| self.incoming(tx, remote)).transpose()?;
        if let Some(remote) = &mut remote {
            // It is the state of the task's own record, also where that has got another name since.
            remote.key = task.entity.clone();
        }
        if task.intent.operation == Operation::Action {
            // There is nothing to merge in a command.
            let message = "the record is not in the state that the command needs";
            let note = self.note(FailureKind::Rejected, Some("conflict".into()), message);
            return self.bury(tx, task, note);
        }
        if !task.standing.cancelling {
            return self.conflicted(tx, task, remote);
        }
        self.give_up_together(tx, &task, Verdict::Cancelled)?;
        match remote {
            Some(remote) => self.remote_changed(tx, remote),
            None => Ok(()),
        }
    }

    /// Acts on an outcome that is neither an effect nor a conflict.
    fn refused_or_open(
        &mut self,
        tx: &mut dyn StoreTx,
        mut task: Task,
        outcome: &Outcome,
    ) -> Result<(), StoreError> {
        match outcome {
            Outcome::Applied(_) | Outcome::Duplicate(_) => Ok(()),
            // The detector says that this one is none: whoever sees it so must say what it is instead.
            Outcome::Conflict { remote } => self.contradicted(tx, task, remote.clone()),
            Outcome::Rejected(Rejection { code, message, answer }) => {
                count_send(&mut task);
                let note = self.note_of(&task, FailureKind::Rejected, Some(code.clone()), message, answer);
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
        if let Some(server_id) = &applied.entity_id {
            entity.staged = self.learn_id(tx, &mut entity, server_id)?.or(entity.staged);
        }
        if verdict == Verdict::Duplicate && has_been_passed(&task, &entity) {
            // What is known of the record by now is later than this effect, or the feed is still to tell.
            tx.put_entity(&entity)?;
            self.settle(tx, &task, verdict, applied.version.clone())?;
            self.take_staged(tx, &task.entity)?;
            let mut entity = self.entity(tx, &task.entity)?;
            self.lay_over(tx, &mut entity, Origin::Backend)?;
            tx.put_entity(&entity)?;
            return self.move_changes(tx);
        }
        let mut told = applied.fields.clone();
        if let Some(told) = &mut told {
            self.incoming_fields(tx, &task.entity.entity_type, told)?;
        }
        // A command names no version that it was made on, so what it tells may lie over more than is known here. Where
        // there is a feed, that tells all of it.
        let feed_tells = self.capabilities.pull && entity.base.is_some();
        if task.intent.operation == Operation::Action && (told.is_none() || feed_tells) {
            // What the command has done is not known before the feed tells.
            self.settle(tx, &task, verdict, applied.version.clone())?;
            return self.take_staged(tx, &task.entity);
        }
        let mut base = patch::confirmed(&task.intent, entity.base.as_ref(), applied.version.clone());
        let mut local_moves = false;
        if let (Some(changed), crate::entity::Body::Live(known)) = (told, &mut base.body) {
            for (name, value) in changed.0 {
                local_moves |= known.value(&name) != Some(&value);
                known.0.insert(name, value);
            }
        }
        let mut later: Option<RemoteEntity> = None;
        if let Some(staged) = entity.staged.take() {
            // With an expected version the effect followed that state directly, so a staged state that is neither the
            // expected one nor the effect's own came after it. Otherwise order is unknown; the feed will tell again.
            // A record that a reading missed has no version: if it was deleted by this effect, that is what was missed.
            let expected = task.frozen.as_ref().and_then(|frozen| frozen.base_version.as_ref());
            let stale = match &staged.version {
                Some(version) => Some(version) == expected || staged.version == applied.version,
                None => staged.body == base.body,
            };
            later = (!stale).then_some(staged);
        }
        // Behind a dead letter that it has passed, it comes to lie under that.
        if self.config.model.lets_any_pass() {
            let first = self.readable(tx.next_of_entity(&task.entity, 0))?;
            local_moves |= first.is_some_and(|first| first.id != task.id);
        }
        let is_new = entity.base.is_none() && later.is_none();
        match verdict {
            Verdict::Duplicate => self.base_is_told_late(tx, &mut entity, is_new)?,
            _ => self.base_moves(tx, &mut entity)?,
        }
        let version = base.version.clone();
        entity.base = Some(base.clone());
        let next = self.settle(tx, &task, verdict, version)?;
        // With nothing left to send the app sees what the backend has, in whatever order that came about.
        local_moves |= next.is_none() && entity.local.as_ref() != Some(&base.body);
        // A conflict that waits behind it is looked at anew: what it is laid over has moved.
        if later.is_none() && next.is_some_and(|next| next.state == TaskState::Conflict) {
            later = Some(RemoteEntity::new(task.entity.clone(), base.body, base.version));
        }
        match later {
            Some(later) => self.rebase_queue(tx, &mut entity, later)?,
            None if local_moves => self.lay_over(tx, &mut entity, Origin::Backend)?,
            None => {}
        }
        tx.put_entity(&entity)?;
        self.move_changes(tx)
    }

    /// The whole call failed: the table of ARCHITECTURE.md section 4.
    fn failed(
        &mut self,
        tx: &mut dyn StoreTx,
        call: CallId,
        sent: &[Sent],
        failure: &Failure,
        leads: bool,
    ) -> Result<(), StoreError> {
        use FailureKind as Kind;
        self.emit(Event::SendFinished { call, tasks: sent.len(), outcomes: Err(failure.kind) });
        if !leads {
            // Whoever leads now repeats what we sent, under the same keys.
            return Ok(());
        }
        let clean = self.without_secrets(tx, sent, failure)?;
        let failure = clean.as_ref().unwrap_or(failure);
        // A group stands and falls together.
        let alone = middle(sent) == 0;
        match failure.kind {
            // The batch as a whole was refused: halve it until the poison task stands alone (G5).
            Kind::TooLarge | Kind::Rejected | Kind::Forbidden if !alone => {
                self.bisect(sent);
                Ok(())
            }
            Kind::TooLarge | Kind::Rejected | Kind::Forbidden => {
                for mut task in self.tasks_of(tx, sent)? {
                    count_send(&mut task);
                    let note = self.note_of(&task, failure.kind, None, &failure.message, &failure.answer);
                    self.bury(tx, task, note)?;
                }
                Ok(())
            }
            Kind::Transient
            | Kind::Protocol
            | Kind::CursorExpired
            | Kind::Damaged
            | Kind::FateUnknown
            | Kind::UnknownKind
            | Kind::Orphaned => {
                self.state.batch_tasks = (sent.len() / 2).max(1);
                self.pass_by(failure, Jitter::Full);
                self.put_all_off(tx, sent, failure, true)
            }
            Kind::RateLimited => {
                self.slow_down(tx, failure)?;
                self.put_all_off(tx, sent, failure, false)
            }
            Kind::Unreachable | Kind::Intercepted => {
                self.pass_by(failure, Jitter::Full);
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

    /// What the backend said of a call, without the sensitive values that were sent in it; `None` if there were none.
    fn without_secrets(
        &mut self,
        tx: &dyn StoreTx,
        sent: &[Sent],
        failure: &Failure,
    ) -> Result<Option<Failure>, StoreError> {
        if self.config.model.types.values().all(|of| of.sensitive.is_empty()) {
            return Ok(None);
        }
        let mut secrets = Vec::new();
        for task in self.tasks_of(tx, sent)? {
            secrets.extend(self.config.model.secrets(&task.entity.entity_type, &task.intent.fields));
        }
        // The longest first, as one may be a part of another.
        secrets.sort_by_key(|secret| core::cmp::Reverse(secret.len()));
        let clean = |text: &str| crate::model::without(text, &secrets);
        Ok((!secrets.is_empty()).then(|| {
            Failure::new(failure.kind, failure.delivery, clean(&failure.message))
                .retry_after(failure.retry_after)
                .answered(failure.answer.as_deref().map(clean))
        }))
    }

    /// Whether a task of unknown fate is put before a person instead of sent again.
    pub(super) fn is_never_repeated(&self, task: &Task) -> bool {
        task.terms.at_most_once || self.capabilities.effect == EffectClass::AtMostOnce
    }

    /// Puts the two halves in line for calls of their own, the first one next. The tasks stay in flight and frozen, so
    /// nothing has to be stored.
    fn bisect(&mut self, sent: &[Sent]) {
        let (first, second) = sent.split_at(middle(sent));
        self.state.batch_tasks = first.len().max(1);
        self.state.halves.extend([second.into(), first.into()]);
    }

    /// What is still to be sent of half a batch, under the same keys.
    fn again(&mut self, tx: &dyn StoreTx, half: &[Sent]) -> Result<Vec<PushTask>, StoreError> {
        let mut again = Vec::with_capacity(half.len());
        for task in self.tasks_of(tx, half)? {
            again.extend(self.push_task(tx, &task)?);
        }
        Ok(again)
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
            // The end of one may have been the end of another.
            let Some(task) = self.readable(tx.task(task.id))? else { continue };
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
        let note = self.note_of(&task, kind, None, message, &None);
        if counts {
            task.attempts = task.attempts.saturating_add(1);
        }
        if let Some(frozen) = &mut task.frozen {
            frozen.sends += u32::from(delivery != Delivery::NotSent);
            frozen.open_sends += u32::from(ambiguous);
            let (fate_open, never_left) = (frozen.open_sends > 0, frozen.sends == 0);
            if fate_open && self.is_never_repeated(&task) {
                let note = self.note_of(&task, FailureKind::FateUnknown, None, message, &None);
                return self.bury(tx, task, note);
            }
            // Turned away in words it may still arrive as a late copy: only what never left is known to be without effect.
            if task.standing.cancelling && never_left {
                return self.give_up_together(tx, &task, Verdict::Cancelled);
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
        let earliest = self
            .now
            .wall
            .after(asked.map_or(Duration::ZERO, |asked| asked.min(self.config.retry.retry_after_cap)));
        let retry_at = match wait.is_zero() {
            true => self.now.wall,
            false => together(&self.config.retry, task.attempts, self.now.wall.after(wait), earliest),
        };
        let wait = self.now.wall.until(retry_at);
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
        // Whoever of a group comes back last makes all of it claimable; and who was passed waits for who has passed it.
        task.claim_at = None;
        // Being offline for a week is one thing to remember, not a thousand.
        match counts {
            true => task.history.push(note),
            false => task.history.renew(note),
        }
        tx.put_task(&task)?;
        self.make_claimable(tx, &task)?;
        self.promote(tx, &task.entity, task.lane.as_deref())?;
        self.count(|report| report.retries += 1);
        self.emit(Event::RetryScheduled { task: task.id, kind, wait });
        if task.frozen.is_none() { self.take_staged(tx, &task.entity) } else { Ok(()) }
    }
}

/// Whether the base has moved since the bytes of an edit were fixed: the task was a dead letter, and others passed it.
fn has_been_passed(task: &Task, entity: &StoredEntity) -> bool {
    let made_on = task.frozen.as_ref().and_then(|frozen| frozen.base_version.as_ref());
    let now = entity.base.as_ref().and_then(|base| base.version.as_ref());
    task.intent.operation != Operation::Action && made_on != now
}

/// A copy of it has left, and was answered.
fn count_send(task: &mut Task) {
    if let Some(frozen) = &mut task.frozen {
        frozen.sends = frozen.sends.saturating_add(1);
    }
}

/// Where a batch is cut into two so that no group is torn; 0 when it cannot be.
fn middle(sent: &[Sent]) -> usize {
    let is_cut = |at: &usize| {
        let (before, after) = (&sent[at - 1].group, &sent[*at].group);
        before.is_none() || before != after
    };
    let half = sent.len() / 2;
    let near = (1..=half).rev().find(is_cut);
    near.or_else(|| (half + 1..sent.len()).find(is_cut)).unwrap_or(0)
}
