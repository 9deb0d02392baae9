//! Another state of a record, and changes that were made on an older one: each is laid anew over what there is now.
//!
//! Changes queued for a record are rebased one after another, as `rebase.rs` says. The rules decide what they can; what
//! they cannot waits in the state `conflict`, and what is behind it waits too. A change that was sent goes on as a new
//! task with a new key (G8); one that was not is rewritten in its place. Everything set aside is written down (G7).
//! Tests: `tests/{conflicts,laid_anew,machine}.rs` and the simulator of `landfall-testkit`.

use super::Step;
use super::depend::Parents;
use super::enqueue::EnqueueError;
use super::remote::fate_is_open;
use crate::change::{Change, Intent, Operation};
use crate::conflict::{
    Choice, ConflictRecord, DecidedBy, Found, Resolution, ResolveError, Resolved, Settled, Why,
};
use crate::entity::{Base, Body, RemoteEntity, StoredEntity};
use crate::event::{Event, Origin};
use crate::failure::FailureKind;
use crate::id::{ConflictId, EntityKey, TaskId};
use crate::merge::rule::FieldPath;
use crate::merge::{self, Chosen, Path, Side};
use crate::patch;
use crate::rebase::{self, Clash, End, Rebased};
use crate::store::{ConflictQuery, StoreError, StoreTx};
use crate::task::{Standing, Task, TaskState, Verdict};
use crate::time::Hlc;
use crate::value::{Fields, Value};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What is to be told of a conflict that waits.
#[derive(Clone, Copy)]
enum News {
    /// It is new.
    Found,
    /// The backend's side of it has moved.
    Moved,
    /// It is as it was.
    None,
}

/// What the queue of a record is laid over, from one change to the next.
struct Ground {
    /// What the next change was made on.
    made_on: Option<Base>,
    /// What it comes to lie on: the backend's state with every earlier change over it.
    lies_on: RemoteEntity,
    /// The task of which the backend has just said that it had no effect.
    answered: Option<TaskId>,
}

impl Step {
    /// The backend refused `task` because its record has moved on; `remote` is what it has, if it said so.
    pub(super) fn conflicted(
        &mut self,
        tx: &mut dyn StoreTx,
        task: Task,
        remote: Option<RemoteEntity>,
    ) -> Result<(), StoreError> {
        let mut entity = self.entity(tx, &task.entity)?;
        // A staged state has its place in the feed: whatever is newer is still to come. Of a state that came with an
        // answer nobody can say that, so the staged one goes first unless it is what the task was based on.
        let expected = task.frozen.as_ref().and_then(|frozen| frozen.base_version.as_ref());
        let stale = |staged: &RemoteEntity| staged.version.is_some() && staged.version.as_ref() == expected;
        let staged = entity.staged.take().filter(|staged| !stale(staged));
        match staged.or(remote) {
            Some(remote) => {
                self.base_moves(tx, &mut entity)?;
                self.lay_queue(tx, &mut entity, remote, Some(task.id))?;
            }
            None => self.park_without_remote(tx, &entity, task)?,
        }
        tx.put_entity(&entity)
    }

    /// The record is `remote` now: that becomes its base, and everything queued is laid over it.
    pub(super) fn rebase_queue(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &mut StoredEntity,
        remote: RemoteEntity,
    ) -> Result<(), StoreError> {
        self.lay_queue(tx, entity, remote, None)
    }

    /// A change has ended without an effect: a conflict that waits behind it remembers what the backend would have had after
    /// it, and is laid over what it has.
    pub(super) fn lay_conflicts_anew(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &mut StoredEntity,
    ) -> Result<(), StoreError> {
        let Some(base) = entity.base.clone() else { return Ok(()) };
        let mut after = 0;
        while let Some(task) = self.readable(tx.next_of_entity(&entity.key, after))? {
            after = task.seq;
            if task.state == TaskState::Conflict {
                let remote = RemoteEntity::new(entity.key.clone(), base.body, base.version);
                return self.rebase_queue(tx, entity, remote);
            }
        }
        Ok(())
    }

    fn lay_queue(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &mut StoredEntity,
        remote: RemoteEntity,
        answered: Option<TaskId>,
    ) -> Result<(), StoreError> {
        let made_on = entity.base.take();
        entity.base =
            Some(Base { body: remote.body.clone(), version: remote.version.clone(), complete: true });
        entity.staged = None;
        self.lay_rest(tx, entity, Ground { made_on, lies_on: remote, answered }, 0, Origin::Backend)
    }

    /// Lays every change behind position `after` over `ground`, and makes the outcome what the app sees.
    fn lay_rest(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &mut StoredEntity,
        mut ground: Ground,
        mut after: u64,
        origin: Origin,
    ) -> Result<(), StoreError> {
        while let Some(task) = self.readable(tx.next_of_entity(&entity.key, after))? {
            after = task.seq;
            if task.intent.operation == Operation::Action {
                continue;
            }
            // A task of which nobody knows whether it took effect keeps its place and its bytes: it is only shown. It is a
            // dead letter, or has passed one.
            let is_dead = matches!(task.state, TaskState::Dead { .. });
            let found = if ground.answered == Some(task.id) { Found::Push } else { Found::Pull };
            if fate_is_open(&task) && found == Found::Pull {
                ground.made_on = Some(after_change(&task.intent, ground.made_on.as_ref()));
                ground.lies_on.body = patch::apply(&task.intent, Some(&ground.lies_on.body));
                continue;
            }
            let open = self.open_conflict(tx, &task)?;
            if let Some(open) = &open {
                ground.made_on = open.base.clone();
            }
            if let Some(base) = self.made_anew_from(tx, &task, ground.made_on.as_ref())? {
                ground.made_on = Some(base);
            }
            let newer = self.newer(tx, task.changed_at, &ground.lies_on)?;
            let rules = self.config.conflicts.rules.of(&entity.key.entity_type);
            let made_on = ground.made_on.as_ref();
            let mut laid = rebase::rebase(made_on, &task.intent, &ground.lies_on.body, rules, newer);
            // A change that the backend sends back again and again is not decided by rules any more.
            let why = open.as_ref().map(|open| &open.why);
            let sent_back = (found == Found::Push && open.is_none()) || why == Some(&Why::RemoteUnknown);
            let quarrel = sent_back && task.conflict_rounds >= self.config.conflicts.rounds_max;
            if (quarrel || why == Some(&Why::TooManyRounds)) && laid.intent.is_some() {
                let rule = rules.strategy().to_string();
                let clash = laid.clash.get_or_insert(Clash {
                    why: Why::TooManyRounds,
                    rule,
                    fields: Vec::new(),
                    end: End::Ask,
                });
                (clash.why, clash.end) = (Why::TooManyRounds, End::Ask);
            }
            let end = laid.clash.as_ref().map_or(End::Decided, |clash| clash.end);
            // Behind a change that waits, the app has seen what the rules proposed, and gone on from there.
            let proposal = open.as_ref().and_then(|open| open.proposal.clone());
            let seen = proposal.map(|body| Base { body, version: None, complete: true });
            match end {
                End::Ask => self.park(tx, task, &ground, &laid, open, found)?,
                End::Fork => {
                    if let Some(kept) = self.kept_apart(tx, entity, &task, &laid)? {
                        return self.fork(tx, entity, task, ground, &laid, (open, kept), found);
                    }
                    laid.result = ground.lies_on.body.clone();
                    laid.intent = None;
                    self.go_on(tx, entity, task, &ground, &laid, open, found)?;
                }
                End::Decided if is_dead && laid.intent.is_some() => {
                    self.lay_dead(tx, task, &ground, &laid)?;
                }
                End::Decided => self.go_on(tx, entity, task, &ground, &laid, open, found)?,
            }
            ground.made_on = Some(seen.unwrap_or(laid.local));
            ground.lies_on.body = laid.result;
        }
        self.show_with_twin(tx, entity, ground.lies_on.body, origin)
    }

    /// Likewise, where `view` holds nothing of what is queued under the backend's name of the record.
    pub(super) fn show_with_twin(
        &mut self,
        tx: &dyn StoreTx,
        entity: &mut StoredEntity,
        view: Body,
        origin: Origin,
    ) -> Result<(), StoreError> {
        match self.twin(tx, &entity.key)? {
            Some(_) => self.lay_over(tx, entity, origin),
            None => self.show(tx, entity, view, origin),
        }
    }

    /// Makes `view` what the app sees, and tells when that is something else.
    pub(super) fn show(
        &mut self,
        tx: &dyn StoreTx,
        entity: &mut StoredEntity,
        view: Body,
        origin: Origin,
    ) -> Result<(), StoreError> {
        // A record is seen under the app's name alone, also while something ends under the backend's.
        let is_twin = self.is_twin(tx, &entity.key)?;
        if is_twin {
            self.twin_changes(&entity.key);
        }
        let view = if is_twin { None } else { Some(view) };
        if entity.local != view {
            entity.local = view;
            self.emit(Event::Changed { entity: entity.key.clone(), origin });
        }
        Ok(())
    }

    /// The rules have decided: the change goes on with what is left of it, or leaves the queue.
    #[allow(clippy::too_many_arguments)]
    fn go_on(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &mut StoredEntity,
        task: Task,
        ground: &Ground,
        laid: &Rebased,
        open: Option<ConflictRecord>,
        found: Found,
    ) -> Result<(), StoreError> {
        let record = match (&laid.clash, &open) {
            (None, None) => None,
            _ => Some(self.record(&task, ground, laid, open.as_ref(), found)),
        };
        let verdict = match record.is_some() || task.frozen.is_some() {
            true => Verdict::ResolvedToRemote,
            false => Verdict::NoChange,
        };
        let (id, waited) = (task.id, open.is_some());
        let sent_as = self.carry_on(tx, entity, task, laid.intent.clone(), verdict, &ground.lies_on)?;
        if let Some(mut record) = record {
            let result = laid.result.clone();
            let (by, at) = (DecidedBy::Rule, self.now.wall);
            record.settled = Some(Settled { by, at, result, sent_as, forked_to: None });
            tx.put_conflict(&record)?;
            self.tell(&record, id, waited);
        }
        Ok(())
    }

    /// A dead letter stays one: taken up again it sends what the rules have left of it. Its bytes stay to be seen.
    fn lay_dead(
        &mut self,
        tx: &mut dyn StoreTx,
        mut task: Task,
        ground: &Ground,
        laid: &Rebased,
    ) -> Result<(), StoreError> {
        if laid.clash.is_some() {
            let mut record = self.record(&task, ground, laid, None, Found::Pull);
            let (by, at, result) = (DecidedBy::Rule, self.now.wall, laid.result.clone());
            record.settled = Some(Settled { by, at, result, sent_as: None, forked_to: None });
            tx.put_conflict(&record)?;
            self.tell(&record, task.id, false);
        }
        if let Some(intent) = laid.intent.clone().filter(|intent| *intent != task.intent) {
            task.intent = intent;
            if !task.history.last().is_some_and(super::is_verdict) {
                // Taken up again it would be sent as it was, under the same key.
                task.frozen = None;
            }
            tx.put_task(&task)?;
        }
        Ok(())
    }

    /// Goes on with `intent`: as a new task if the old one was sent, else in its place. Without one the task leaves
    /// the queue.
    fn carry_on(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &mut StoredEntity,
        mut task: Task,
        intent: Option<Intent>,
        verdict: Verdict,
        remote: &RemoteEntity,
    ) -> Result<Option<TaskId>, StoreError> {
        let Some(intent) = intent else {
            self.settle(tx, &task, verdict, remote.version.clone())?;
            return Ok(None);
        };
        let (id, waited) = (task.id, task.state == TaskState::Conflict);
        let goes_on_as = if task.frozen.is_some() {
            self.renew(tx, entity, &task, intent, Verdict::Rebased)?
        } else if waited {
            task.become_state(TaskState::Pending { retry_at: None });
            task.intent = intent;
            tx.put_task(&task)?;
            self.make_claimable(tx, &task)?;
            id
        } else {
            if task.intent != intent {
                task.intent = intent;
                tx.put_task(&task)?;
            }
            id
        };
        if waited {
            self.meet_lost_parents(tx, goes_on_as)?;
        }
        Ok(Some(goes_on_as))
    }

    /// Puts a new task with a new generation, and at its first attempt a new key, into the old one's place.
    pub(super) fn renew(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &mut StoredEntity,
        task: &Task,
        intent: Intent,
        verdict: Verdict,
    ) -> Result<TaskId, StoreError> {
        entity.generation += 1;
        let client_id = self.replica(tx)?.client_id;
        let next = Task {
            id: TaskId::derive(client_id, &entity.key, entity.generation),
            generation: entity.generation,
            intent,
            state: TaskState::Pending { retry_at: None },
            frozen: None,
            claim_at: None,
            attempts: 0,
            conflict_rounds: match verdict {
                Verdict::Rebased => task.conflict_rounds.saturating_add(1),
                _ => 0,
            },
            standing: Standing::default(),
            ..task.clone()
        };
        self.end(tx, task, verdict, None, Some(next.id))?;
        tx.put_task(&next)?;
        self.left(tx, task, verdict, Some(next.id))?;
        self.promote(tx, &task.entity, task.lane.as_deref())?;
        if let Some(group) = &next.terms.group {
            // Now that one of it begins anew, what the others have passed does not wait for them any more.
            for member in tx.tasks_of_group(group)?.tasks {
                self.promote(tx, &member.entity, member.lane.as_deref())?;
            }
        }
        self.emit(match verdict {
            Verdict::Requeued => Event::Requeued { task: task.id, next: next.id },
            _ => Event::Rebased { task: task.id, entity: task.entity.clone(), next: next.id },
        });
        Ok(next.id)
    }

    /// A person must decide: the task waits in the inbox, and what is behind it waits too.
    fn park(
        &mut self,
        tx: &mut dyn StoreTx,
        task: Task,
        ground: &Ground,
        laid: &Rebased,
        open: Option<ConflictRecord>,
        found: Found,
    ) -> Result<(), StoreError> {
        let record = self.record(&task, ground, laid, open.as_ref(), found);
        let why = match &record.why {
            Why::TooManyRounds => "came back too often; waits for a decision",
            _ => "both sides changed it; waits for a decision",
        };
        let moved = open.as_ref().and_then(|open| open.remote.as_ref()) != record.remote.as_ref();
        let news = match open {
            None => News::Found,
            Some(_) if moved => News::Moved,
            Some(_) => News::None,
        };
        self.wait_for_decision(tx, task, &record, why, news)
    }

    /// The backend refused the change and did not say what it has. The next state that comes in decides.
    fn park_without_remote(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &StoredEntity,
        task: Task,
    ) -> Result<(), StoreError> {
        let local = after_change(&task.intent, entity.base.as_ref()).body;
        let id = self.new_conflict_id();
        let rules = self.config.conflicts.rules.of(&task.entity.entity_type);
        let record = ConflictRecord {
            id,
            task_id: task.id,
            entity: task.entity.clone(),
            at: self.now.wall,
            found: Found::Push,
            why: Why::RemoteUnknown,
            base: entity.base.clone(),
            local,
            change: self.change_text(&task),
            remote: None,
            rule: rules.strategy().to_string(),
            fields: Vec::new(),
            proposal: None,
            settled: None,
        };
        self.look_for_unknown_remotes();
        let why = "the backend did not say what it has";
        self.wait_for_decision(tx, task, &record, why, News::Found)
    }

    fn wait_for_decision(
        &mut self,
        tx: &mut dyn StoreTx,
        mut task: Task,
        record: &ConflictRecord,
        why: &str,
        news: News,
    ) -> Result<(), StoreError> {
        let id = task.id;
        task.history.push(self.note(FailureKind::Rejected, Some("conflict".into()), why));
        task.become_state(TaskState::Conflict);
        task.claim_at = None;
        // A dead letter that others passed is a conflict like any other now: what is behind it waits.
        task.standing.passed_over = false;
        tx.put_task(&task)?;
        self.stand_before_others(tx, &task)?;
        self.promote(tx, &task.entity, task.lane.as_deref())?;
        tx.put_conflict(record)?;
        match news {
            News::Found => self.tell(record, id, false),
            News::Moved => {
                let (conflict, entity, rule) = (record.id, record.entity.clone(), record.rule.clone());
                self.emit(Event::Conflicted { conflict, task: id, entity, waits: true, rule, again: true });
            }
            News::None => {}
        }
        Ok(())
    }

    /// Both sides live on: the backend's under the old name, ours as a record of its own.
    #[allow(clippy::too_many_arguments)]
    fn fork(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &mut StoredEntity,
        task: Task,
        ground: Ground,
        laid: &Rebased,
        (open, kept): (Option<ConflictRecord>, Fields),
        found: Found,
    ) -> Result<(), StoreError> {
        let mut record = self.record(&task, &ground, laid, open.as_ref(), found);
        let waited = open.is_some();
        let to = self.split_off(tx, entity, &task, ground.answered, kept)?;
        record.settled = Some(Settled {
            by: DecidedBy::Rule,
            at: self.now.wall,
            result: ground.lies_on.body.clone(),
            sent_as: None,
            forked_to: Some(to),
        });
        tx.put_conflict(&record)?;
        self.tell(&record, task.id, waited);
        self.show_with_twin(tx, entity, ground.lies_on.body, Origin::Backend)
    }

    /// What becomes a record of its own: the app's whole view. Of a record that was never read the rest comes from the
    /// backend. `None` when the app sees it deleted.
    fn kept_apart(
        &mut self,
        tx: &dyn StoreTx,
        entity: &StoredEntity,
        task: &Task,
        laid: &Rebased,
    ) -> Result<Option<Fields>, StoreError> {
        let mut view = match &entity.local {
            Some(local) if laid.local.complete => return Ok(local.fields().cloned()),
            _ => laid.result.clone(),
        };
        let mut after = task.seq;
        while let Some(later) = self.readable(tx.next_of_entity(&entity.key, after))? {
            view = patch::apply(&later.intent, Some(&view));
            after = later.seq;
        }
        Ok(view.fields().cloned())
    }

    /// Makes a record of its own of `kept`; `task` and everything behind it end in it. Of `answered` the backend has just said
    /// that it had no effect.
    fn split_off(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &StoredEntity,
        task: &Task,
        answered: Option<TaskId>,
        kept: Fields,
    ) -> Result<EntityKey, StoreError> {
        // The same task always forks into the same record.
        let name = uuid::Uuid::new_v5(&task.id.0, b"fork").to_string();
        let to = EntityKey::new(entity.key.entity_type.clone(), name);
        let mut next = Some(task.clone());
        while let Some(behind) = next {
            // What may have taken effect on the old record ends there.
            if behind.id == task.id || answered == Some(behind.id) || !fate_is_open(&behind) {
                self.settle(tx, &behind, Verdict::Forked, None)?;
            }
            next = self.readable(tx.next_of_entity(&entity.key, behind.seq))?;
        }
        let mut change = Change::of(Operation::Create, to.clone()).fields(kept);
        change.options.schema = Some(task.schema);
        change.options.priority = task.priority;
        let apart = StoredEntity::unknown(to.clone());
        let parents = match self.parents_of(tx, &change) {
            Ok(parents) => parents,
            Err(EnqueueError::Store(error)) => return Err(error),
            Err(_) => Parents::default(),
        };
        self.append(tx, apart, false, change, parents)?;
        self.emit(Event::Forked { from: entity.key.clone(), to: to.clone() });
        Ok(to)
    }

    /// Settles a conflict that waits, as a person or the app decided. To see what that would do, drop the step and
    /// its transaction.
    ///
    /// # Errors
    /// [`ResolveError`]; on one the caller rolls back.
    pub fn resolve(
        &mut self,
        tx: &mut dyn StoreTx,
        id: ConflictId,
        resolution: &Resolution,
    ) -> Result<Resolved, ResolveError> {
        let mut record = tx.conflict(id)?.ok_or(ResolveError::NotFound(id))?;
        if !record.is_open() {
            return Err(ResolveError::Settled);
        }
        let mut task = tx.task(record.task_id)?.ok_or(ResolveError::NotFound(id))?;
        // Somebody has looked at it: what comes back now begins to count anew.
        task.conflict_rounds = 0;
        let remote = record.remote.clone().ok_or(ResolveError::RemoteUnknown)?;
        let mut entity = self.entity(tx, &record.entity)?;
        let mut resolved = Resolved {
            conflict: id,
            entity: record.entity.clone(),
            result: remote.body.clone(),
            sends: None,
            task: None,
            forks_to: None,
        };
        let settled = |resolved: &Resolved, at| Settled {
            by: DecidedBy::App,
            at,
            result: resolved.result.clone(),
            sent_as: resolved.task,
            forked_to: resolved.forks_to.clone(),
        };
        if *resolution == Resolution::Fork {
            let Some(Body::Live(kept)) = entity.local.clone() else {
                return Err(ResolveError::NothingToFork);
            };
            resolved.forks_to = Some(self.split_off(tx, &entity, &task, None, kept)?);
            record.settled = Some(settled(&resolved, self.now.wall));
            tx.put_conflict(&record)?;
            self.show_with_twin(tx, &mut entity, remote.body, Origin::App)?;
        } else {
            resolved.result = self.decide(&record, &task, &remote.body, resolution)?;
            let whole = complete_after(&task.intent, record.base.as_ref());
            resolved.sends = rebase::pending(&task.intent, &resolved.result, &remote.body, whole);
            let (after, intent) = (task.seq, resolved.sends.clone());
            resolved.task =
                self.carry_on(tx, &mut entity, task, intent, Verdict::ResolvedToRemote, &remote)?;
            record.settled = Some(settled(&resolved, self.now.wall));
            tx.put_conflict(&record)?;
            // What is behind it was made on what the app saw meanwhile.
            let seen = record.proposal.clone().unwrap_or_else(|| record.local.clone());
            let made_on = Some(Base { body: seen, version: None, complete: true });
            let lies_on = RemoteEntity { body: resolved.result.clone(), ..remote };
            let ground = Ground { made_on, lies_on, answered: None };
            self.lay_rest(tx, &mut entity, ground, after, Origin::App)?;
        }
        tx.put_entity(&entity)?;
        self.tell(&record, record.task_id, true);
        Ok(resolved)
    }

    /// The record that a resolution asks for.
    fn decide(
        &self,
        record: &ConflictRecord,
        task: &Task,
        remote: &Body,
        resolution: &Resolution,
    ) -> Result<Body, ResolveError> {
        let rules = self.config.conflicts.rules.of(&record.entity.entity_type);
        let result = match resolution {
            Resolution::ReplaceWithRemote => remote.clone(),
            Resolution::ReplaceWithLocal => match (&record.local, remote) {
                (Body::Live(ours), Body::Live(theirs)) => {
                    let base = rebase::base_fields(record.base.as_ref(), &task.intent);
                    Body::Live(merge::whole(Side::Local, base, ours, theirs).fields)
                }
                (local, _) => local.clone(),
            },
            Resolution::KeepLocal => take_side(record, remote, Side::Local),
            Resolution::KeepRemote => take_side(record, remote, Side::Remote),
            Resolution::Fields(choices) => Body::Live(choose(record, remote, choices)?),
            Resolution::Edit(body) => body.clone(),
            Resolution::Fork => return Err(ResolveError::NothingToFork),
        };
        if let Body::Live(fields) = &result {
            // No more than a change may hold, unless it came from the backend like this.
            let change = Change::of(Operation::Replace, record.entity.clone()).fields(fields.clone());
            if result != *remote {
                change
                    .check(&self.config.limits)
                    .map_err(|error| ResolveError::BadValue(error.to_string()))?;
            }
            let mixture = result != record.local && result != *remote;
            if let Some(reason) = mixture.then(|| rules.refuses(fields)).flatten() {
                return Err(ResolveError::Refused(reason));
            }
        }
        Ok(result)
    }

    /// The conflict that a task in the state `conflict` waits for.
    pub(super) fn open_conflict(
        &mut self,
        tx: &dyn StoreTx,
        task: &Task,
    ) -> Result<Option<ConflictRecord>, StoreError> {
        if task.state != TaskState::Conflict {
            return Ok(None);
        }
        /// Conflicts of one record that wait, read at a time. One is usual; each further one is of a change behind it.
        const PAGE: usize = 16;
        let entity = Some(task.entity.clone());
        let mut which = ConflictQuery { entity, open_only: true, ..ConflictQuery::default() };
        loop {
            let page = tx.conflicts(&which, PAGE)?;
            for what in page.damaged {
                self.emit(Event::Damaged { what });
            }
            which.before = page.conflicts.last().map(|record| record.id);
            let full = page.conflicts.len() == PAGE;
            let found = page.conflicts.into_iter().find(|record| record.task_id == task.id);
            if found.is_some() || !full {
                return Ok(found);
            }
        }
    }

    /// A record that was deleted under an edit is made anew as a whole, and yet the user touched only some of it. If it
    /// turns out to live after all, the rest must not overwrite anything (G6): the conflict record knows what the edit
    /// was made on.
    fn made_anew_from(
        &mut self,
        tx: &dyn StoreTx,
        task: &Task,
        made_on: Option<&Base>,
    ) -> Result<Option<Base>, StoreError> {
        /// It is among the last conflicts of the record: those of changes behind it may have come later.
        const RECENT: usize = 16;
        let anew = matches!(task.intent.operation, Operation::Replace | Operation::Upsert);
        if !anew || made_on.is_none_or(|base| base.body != Body::Deleted) {
            return Ok(None);
        }
        let which = ConflictQuery { entity: Some(task.entity.clone()), ..ConflictQuery::default() };
        let was_deleted = |remote: &RemoteEntity| remote.body == Body::Deleted;
        let led_here = |record: &ConflictRecord| {
            record.remote.as_ref().is_some_and(was_deleted)
                && record.settled.as_ref().is_some_and(|settled| settled.sent_as == Some(task.id))
        };
        let last = tx.conflicts(&which, RECENT)?.conflicts;
        Ok(last.into_iter().find(led_here).and_then(|record| record.base))
    }

    /// What is written down of a clash; a conflict that waits keeps its name.
    fn record(
        &mut self,
        task: &Task,
        ground: &Ground,
        laid: &Rebased,
        open: Option<&ConflictRecord>,
        found: Found,
    ) -> ConflictRecord {
        let rules = self.config.conflicts.rules.of(&task.entity.entity_type);
        let (why, rule, fields) = match (&laid.clash, open) {
            (Some(clash), _) => (clash.why.clone(), clash.rule.clone(), clash.fields.clone()),
            // It waited, and the two sides do not clash any more.
            (None, Some(open)) => (open.why.clone(), open.rule.clone(), open.fields.clone()),
            (None, None) => (Why::Fields, rules.strategy().to_string(), Vec::new()),
        };
        ConflictRecord {
            id: open.map_or_else(|| self.new_conflict_id(), |open| open.id),
            task_id: task.id,
            entity: task.entity.clone(),
            at: open.map_or(self.now.wall, |open| open.at),
            found: open.map_or(found, |open| open.found),
            why,
            base: ground.made_on.clone(),
            local: laid.local.body.clone(),
            change: self.change_text(task),
            remote: Some(ground.lies_on.clone()),
            rule,
            fields,
            proposal: Some(laid.result.clone()),
            settled: None,
        }
    }

    fn change_text(&self, task: &Task) -> String {
        match &task.frozen {
            Some(frozen) => frozen.payload.to_string(),
            None => super::push::encode(task, &task.entity, &task.intent.fields, None, None),
        }
    }

    fn new_conflict_id(&mut self) -> ConflictId {
        self.conflicts_made += 1;
        let bytes = self.entropy.derive("conflict", &self.conflicts_made.to_be_bytes());
        ConflictId(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    fn tell(&mut self, record: &ConflictRecord, task: TaskId, waited: bool) {
        let (conflict, entity) = (record.id, record.entity.clone());
        match &record.settled {
            Some(settled) if waited => {
                self.emit(Event::Resolved { conflict, entity, sent_as: settled.sent_as });
            }
            settled => {
                self.count(|report| report.conflicts += 1);
                let (waits, rule) = (settled.is_none(), record.rule.clone());
                self.emit(Event::Conflicted { conflict, task, entity, waits, rule, again: false });
            }
        }
    }

    /// Which side was written later, as far as that can be known without lying: a backend that orders writes takes
    /// ours after everything it has; else times of change are compared, none believed that lies ahead of the
    /// backend's clock.
    fn newer(
        &mut self,
        tx: &dyn StoreTx,
        ours: Hlc,
        remote: &RemoteEntity,
    ) -> Result<Option<Side>, StoreError> {
        if self.capabilities.orders_writes {
            return Ok(Some(Side::Local));
        }
        let Some(theirs) = remote.changed_at else { return Ok(None) };
        let (now, drift) = (self.backend_now(tx)?, self.config.conflicts.clock_drift_max);
        let (ours, theirs) = (ours.believed(now, drift), theirs.believed(now, drift));
        Ok(Some(if ours > theirs { Side::Local } else { Side::Remote }))
    }
}

/// What a change leaves of what it was made on.
fn after_change(intent: &Intent, made_on: Option<&Base>) -> Base {
    Base {
        body: patch::apply(intent, made_on.map(|base| &base.body)),
        version: None,
        complete: complete_after(intent, made_on),
    }
}

fn complete_after(intent: &Intent, made_on: Option<&Base>) -> bool {
    patch::confirmed(intent, made_on, None).complete
}

/// Every contested value as one side has it, all else as proposed.
fn take_side(record: &ConflictRecord, remote: &Body, side: Side) -> Body {
    let (Body::Live(_), Body::Live(_), Some(Body::Live(proposal))) =
        (&record.local, remote, &record.proposal)
    else {
        return match side {
            Side::Local => record.local.clone(),
            Side::Remote => remote.clone(),
        };
    };
    let mut fields = proposal.clone();
    // What a rule made of both sides is no side's own.
    for conflict in record.fields.iter().filter(|conflict| conflict.chosen != Chosen::Merged) {
        let value = match side {
            Side::Local => &conflict.local,
            Side::Remote => &conflict.remote,
        };
        conflict.path.put(&mut fields, value.clone());
    }
    Body::Live(fields)
}

/// The proposal with the choices put in.
fn choose(
    record: &ConflictRecord,
    remote: &Body,
    choices: &BTreeMap<String, Choice>,
) -> Result<Fields, ResolveError> {
    let (Body::Live(ours), Body::Live(theirs), Some(Body::Live(proposal))) =
        (&record.local, remote, &record.proposal)
    else {
        return Err(ResolveError::DeletedOnOneSide);
    };
    let mut fields = proposal.clone();
    for (text, choice) in choices {
        let contested = record.fields.iter().find(|conflict| conflict.path.to_string() == *text);
        let path = match contested {
            Some(conflict) => conflict.path.clone(),
            None => {
                let path = FieldPath::parse(text).map_err(|_| ResolveError::BadPath(text.clone()))?;
                Path(path.names().map(|name| merge::Step::Field(name.into())).collect())
            }
        };
        // The members of a group are never torn apart.
        let group = contested.and_then(|conflict| conflict.group.as_ref());
        let paths = match (group, choice) {
            (Some(group), Choice::Local | Choice::Remote) => {
                let members = record.fields.iter().filter(|other| other.group.as_ref() == Some(group));
                members.map(|member| member.path.clone()).collect()
            }
            _ => alloc::vec![path],
        };
        for path in paths {
            let known = path.value(ours).is_some() || path.value(theirs).is_some();
            let value: Option<Value> = match choice {
                Choice::Local | Choice::Remote if !known && contested.is_none() => {
                    return Err(ResolveError::UnknownField(text.clone()));
                }
                Choice::Local => path.value(ours).cloned(),
                Choice::Remote => path.value(theirs).cloned(),
                Choice::Value(value) => Some(value.clone()),
                Choice::Remove => None,
            };
            if !path.put(&mut fields, value) {
                return Err(ResolveError::UnknownField(text.clone()));
            }
        }
    }
    Ok(fields)
}
