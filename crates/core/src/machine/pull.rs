//! Reading from the backend: the change feed page by page, and single records that a conflict needs.
//!
//! A page and its cursor are one transaction, so a reading can stop anywhere and goes on there. Reading and sending do
//! not wait for each other (G5), with one exception: a page that was under way while a verdict moved the base of one of
//! its records may be older than that verdict, and nobody can tell. It is asked for again, and if that happens once
//! more, the third time with nothing being sent meanwhile. Tests: `tests/{pull,believed}.rs` and the simulator of
//! `landfall-testkit`.

use super::{Effect, Gate, Step};
use crate::adapter::{PullPage, PullRequest};
use crate::conflict::Why;
use crate::entity::{Body, RemoteEntity, StoredEntity};
use crate::event::Event;
use crate::failure::{Failure, FailureKind};
use crate::id::{CallId, EntityKey, TaskId};
use crate::retry::{Jitter, backoff};
use crate::store::{PullState, Quarantined, StoreError, StoreTx};
use crate::task::StateKind;
use crate::time::Mono;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

/// Records whose base a verdict moved while a page was under way. More are not told apart: then every record counts as
/// moved. Bounds memory.
const MOVED_MAX: usize = 10_000;

/// From this many doubtful pages in a row on nothing is sent while the next one is under way.
const DOUBTS_MAX: u32 = 2;

/// Records looked at in one transaction when a reading anew has ended.
const SWEEP: usize = 1000;

/// What is under way, and what holds it up.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulling {
    /// The page under way, and the position it was asked from.
    call: Option<(CallId, PullState)>,
    /// Whether this session has read the feed to its end.
    done: bool,
    /// Whether a page of this session was the last one: what is swept may be what an earlier one has read.
    saw_end: bool,
    failures: u32,
    /// How often in a row the feed began anew without coming to its end.
    begun_anew: u32,
    /// The end of a backoff, and its reason.
    pause: Option<Pause>,
    moved: Moved,
    /// Pages in a row that could not be believed.
    doubts: u32,
    /// Reads of single records under way.
    fetches: BTreeMap<CallId, (TaskId, EntityKey)>,
    /// Whether the next batch of a sweep is due at once.
    more_to_sweep: bool,
    /// From which position on tasks in conflict are to be looked at for a remote state that is not known.
    fetch_from: Option<u64>,
}

#[derive(Clone, Debug)]
struct Pause {
    /// `None`: not again in this session.
    until: Option<Mono>,
    why: FailureKind,
    message: String,
}

#[derive(Clone, Debug, Default)]
struct Moved {
    records: BTreeSet<EntityKey>,
    too_many: bool,
}

impl Moved {
    fn holds(&self, key: &EntityKey) -> bool {
        self.too_many || self.records.contains(key)
    }
}

impl Pulling {
    /// A session begins, or somebody joins it.
    pub(super) fn begin(&mut self, fresh: bool) {
        self.done = false;
        self.saw_end = false;
        if fresh {
            self.fetch_from = Some(0);
        }
    }

    /// A fresh wish to sync is a hint that it may work now.
    pub(super) fn forget_wait(&mut self) {
        self.pause = None;
    }

    /// What was not to be tried again in the session before may be tried in this one.
    pub(super) fn forget_end_of_session(&mut self) {
        self.pause.take_if(|pause| pause.until.is_none());
    }

    /// Forgets what is under way; its answers will find nobody.
    pub(super) fn abandon(&mut self) -> Vec<CallId> {
        let page = self.call.take().map(|(call, _)| call);
        let fetches = core::mem::take(&mut self.fetches).into_keys();
        self.doubts = 0;
        self.more_to_sweep = false;
        page.into_iter().chain(fetches).collect()
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    pub(super) fn is_busy(&self) -> bool {
        self.call.is_some() || !self.fetches.is_empty()
    }

    pub(super) fn forget_pause(&mut self) {
        self.pause = None;
        self.failures = 0;
    }
}

impl Step {
    /// Whether sessions read at all.
    pub(super) fn can_pull(&self) -> bool {
        self.capabilities.pull && self.config.pull.enabled
    }

    /// Asks for the next page, or looks at the next records after a reading anew.
    pub(super) fn plan_pull(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        if matches!(&self.state.pull.pause, Some(Pause { until: Some(until), .. }) if *until <= self.now.mono)
        {
            self.state.pull.pause = None;
        }
        if !self.pull_wants_to_go() || !self.still_leads(tx)? {
            return Ok(());
        }
        let mut position = self.position(tx)?;
        if position.swept_to.is_some() {
            self.sweep(tx, position)?;
            position = self.position(tx)?;
            if position.swept_to.is_some() || self.state.pull.done {
                return Ok(());
            }
            // It has to be read once more.
        }
        if self.state.pull.doubts >= DOUBTS_MAX && !self.state.calls.is_empty() {
            return Ok(());
        }
        if position.sweep {
            // Stored before the page is asked for, so that every process marks what it hears of from now on.
            position.asks = position.asks.saturating_add(1);
            self.put_position(tx, &position)?;
        }
        let call = self.new_call();
        let context = self.call_context(tx, self.config.pull.call_timeout)?;
        let limit = self.config.pull.page_changes.max(1);
        let request = PullRequest { cursor: position.cursor.clone(), limit };
        self.state.pull.call = Some((call, position));
        self.state.pull.moved = Moved::default();
        self.count(|report| report.pages += 1);
        self.effects.push(Effect::Pull { context, call, request });
        Ok(())
    }

    /// Where the feed was read to. Before the first page: a store that knows records already has to find out which of
    /// them are gone.
    fn position(&self, tx: &dyn StoreTx) -> Result<PullState, StoreError> {
        match tx.pull_state()? {
            Some(position) if position.cursor.is_some() || position.sweep => Ok(position),
            known => {
                let first = PullState { reading: 1, ..PullState::default() };
                let sweep = tx.entities_after(None, None, 1)?.last.is_some();
                Ok(PullState { sweep, ..known.unwrap_or(first) })
            }
        }
    }

    /// Whether nothing may be sent because the next page must not be overtaken.
    pub(super) fn pull_needs_silence(&self) -> bool {
        let pull = &self.state.pull;
        pull.doubts >= DOUBTS_MAX && (pull.call.is_some() || self.pull_wants_to_go())
    }

    /// Whether a page could be asked for at this moment.
    pub(super) fn pull_wants_to_go(&self) -> bool {
        let pull = &self.state.pull;
        let gate_is_open = match &self.state.gate {
            Gate::Open => true,
            // What holds up the sending of one request need not hold up the reading of another.
            Gate::Waiting { why, .. } => *why != FailureKind::RateLimited && !self.is_cut_off(),
            Gate::NeedsCredentials { .. } | Gate::Stopped { .. } => false,
        };
        self.session_pulls()
            && self.state.lease.is_some()
            && gate_is_open
            && pull.call.is_none()
            && pull.pause.is_none()
            && !pull.done
    }

    /// Whether the session has to wait for more from the backend, now or after a backoff.
    pub(super) fn pull_is_unfinished(&self) -> bool {
        self.session_pulls() && !self.state.pull.done
    }

    /// Whether the next batch of a sweep can be done at once.
    pub(super) fn sweep_goes_on(&self) -> bool {
        self.state.pull.more_to_sweep && self.pull_wants_to_go()
    }

    /// The end of a backoff of reading.
    pub(super) fn pull_resumes(&self) -> Option<Mono> {
        self.state.pull.pause.as_ref().and_then(|pause| pause.until)
    }

    /// Why not all was read, for people.
    pub(super) fn pull_trouble(&self) -> Option<String> {
        let pause = self.state.pull.pause.as_ref()?;
        Some(alloc::format!("{}: {}", pause.why.as_str(), pause.message))
    }

    /// A verdict moves the base of a record: a page that is under way may have been written before it, and a reading
    /// that has ended did not come by it.
    pub(super) fn base_moves(
        &mut self,
        tx: &dyn StoreTx,
        entity: &mut StoredEntity,
    ) -> Result<(), StoreError> {
        entity.reading =
            self.mark_of_what_is_heard(tx)?.map_or(entity.reading, |mark| mark.max(entity.reading));
        let pull = &mut self.state.pull;
        if pull.call.is_none() || pull.moved.too_many {
            return Ok(());
        }
        pull.moved.records.insert(entity.key.clone());
        if pull.moved.records.len() > MOVED_MAX {
            pull.moved = Moved { records: BTreeSet::new(), too_many: true };
        }
        Ok(())
    }

    /// A verdict tells of an effect at some time, perhaps long ago. If a reading of the feed from its beginning may have come
    /// after the effect, and did not bring the record, it is gone, and only a reading anew can tell: the one under way is
    /// done once more, and one that has ended only for a record that nothing else was heard of (`is_new`).
    pub(super) fn base_is_told_late(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &mut StoredEntity,
        is_new: bool,
    ) -> Result<(), StoreError> {
        let made = entity.reading;
        self.base_moves(tx, entity)?;
        let Some(mut position) = tx.pull_state()? else { return Ok(()) };
        let has_begun = if position.sweep { position.asks > 0 } else { position.cursor.is_some() };
        let may_be_missed = has_begun && made < position.brought();
        if !may_be_missed || !self.can_pull() || !self.covers(&position, &entity.key) {
            return Ok(());
        }
        if position.sweep {
            position.again = true;
            return self.put_position(tx, &position);
        }
        if !is_new {
            return Ok(());
        }
        self.read_anew(tx, position)?;
        let page = self.state.pull.call.take();
        self.effects.extend(page.map(|(call, _)| Effect::Cancel(call)));
        self.backend_called();
        Ok(())
    }

    /// The mark of a record that is made now.
    pub(super) fn mark_of_what_is_made(&self, tx: &dyn StoreTx) -> Result<u64, StoreError> {
        let first = PullState { reading: 1, ..PullState::default() };
        Ok(tx.pull_state()?.unwrap_or(first).made())
    }

    /// The feed is read from its beginning, and what it does not bring is gone.
    fn read_anew(&mut self, tx: &mut dyn StoreTx, position: PullState) -> Result<(), StoreError> {
        let anew = PullState {
            cursor: None,
            reading: position.reading.saturating_add(1),
            asks: 0,
            sweep: true,
            again: false,
            swept_to: None,
            types: position.types,
        };
        self.put_position(tx, &anew)?;
        self.emit(Event::Reconciling);
        Ok(())
    }

    /// How a record is marked that is heard of beside a reading that will look for missing ones; looked up once per step.
    fn mark_of_what_is_heard(&mut self, tx: &dyn StoreTx) -> Result<Option<u64>, StoreError> {
        if let Some(known) = self.heard_mark {
            return Ok(known);
        }
        let position = tx.pull_state()?.filter(|position| position.sweep);
        Ok(*self.heard_mark.insert(position.map(|position| position.heard_of())))
    }

    fn put_position(&mut self, tx: &mut dyn StoreTx, position: &PullState) -> Result<(), StoreError> {
        self.heard_mark = None;
        tx.put_pull_state(position)
    }

    /// Takes in a page of the change feed, together with the cursor behind it.
    ///
    /// # Errors
    /// When the store cannot be read or written; bring the same answer again then.
    pub fn pulled(
        &mut self,
        tx: &mut dyn StoreTx,
        call: CallId,
        answer: &Result<PullPage, Failure>,
    ) -> Result<(), StoreError> {
        let Some((_, asked)) = self.state.pull.call.take_if(|(known, _)| *known == call) else {
            return Ok(());
        };
        let moved = core::mem::take(&mut self.state.pull.moved);
        if !self.still_leads(tx)? {
            return Ok(());
        }
        let page = match answer {
            Ok(page) => page,
            Err(failure) => return self.pull_failed(tx, failure, asked),
        };
        self.state.pull.failures = 0;
        self.state.refreshed = false;
        self.state.refusals = 0;
        self.spend_on_reading(page);
        if self.is_doubtful(tx, page, &moved)? {
            self.state.pull.doubts += 1;
            return Ok(());
        }
        self.state.pull.doubts = 0;
        // Also what was found out since the page was asked for.
        let again = tx.pull_state()?.is_some_and(|now| now.again && now.reading == asked.reading);
        let mut position = PullState { cursor: Some(page.cursor.clone()), again, ..asked.clone() };
        for change in &page.changes {
            match change {
                Ok(remote) if self.wants(&remote.key) => {
                    if !position.types.contains(&remote.key.entity_type) {
                        position.types.insert(remote.key.entity_type.clone());
                    }
                    self.take_in(tx, remote.clone(), Some(asked.brought()))?;
                }
                Ok(_) => {}
                Err(reason) => {
                    let reason = reason.clone();
                    tx.put_quarantined(&Quarantined { at: self.now.wall, reason: reason.clone() })?;
                    self.count(|report| report.quarantined += 1);
                    self.emit(Event::Quarantined { reason });
                }
            }
        }
        let changes = page.changes.len() as u64;
        self.count(|report| report.pulled += changes);
        self.emit(Event::Pulled { changes, more: page.has_more });
        if !page.has_more {
            match position.sweep {
                true => position.swept_to = Some(EntityKey::new("", "")),
                false => self.state.pull.done = true,
            }
            self.state.pull.saw_end = true;
            self.state.pull.begun_anew = 0;
        }
        if position != asked || changes > 0 {
            self.put_position(tx, &position)?;
        }
        Ok(())
    }

    /// Whether the feed would bring the record if the backend had it.
    fn covers(&self, position: &PullState, key: &EntityKey) -> bool {
        let types = self.config.pull.types.as_ref().unwrap_or(&position.types);
        types.contains(&key.entity_type)
    }

    fn wants(&self, key: &EntityKey) -> bool {
        self.config.pull.types.as_ref().is_none_or(|types| types.contains(&key.entity_type))
    }

    /// Whether a record of the page may be older than what a verdict has told of it since the page was asked for.
    fn is_doubtful(&mut self, tx: &dyn StoreTx, page: &PullPage, moved: &Moved) -> Result<bool, StoreError> {
        for remote in page.changes.iter().flatten().filter(|remote| moved.holds(&remote.key)) {
            let entity = self.readable(tx.entity(&remote.key))?;
            let base = entity.and_then(|entity| entity.base);
            if base.is_some_and(|base| base.version.is_none() || base.version != remote.version) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn pull_failed(
        &mut self,
        tx: &mut dyn StoreTx,
        failure: &Failure,
        asked: PullState,
    ) -> Result<(), StoreError> {
        use FailureKind as Kind;
        self.state.pull.doubts = 0;
        match failure.kind {
            Kind::Unauthenticated => self.ask_for_credentials(failure),
            Kind::RateLimited => self.slow_down(tx, failure)?,
            Kind::ServerChanged | Kind::ClientUnknown | Kind::ClientSuperseded => self.stop_gate(failure),
            Kind::CursorExpired if asked.cursor.is_some() => {
                self.read_anew(tx, asked)?;
                // A backend whose cursors expire faster than they are read must not be asked without end.
                self.state.pull.begun_anew = self.state.pull.begun_anew.saturating_add(1);
                if self.state.pull.begun_anew > 1 {
                    self.state.pull.failures = self.state.pull.begun_anew;
                    self.pause_pull(failure, true);
                }
            }
            Kind::Unsupported | Kind::Forbidden => self.pause_pull(failure, false),
            // The network's trouble is everybody's: a probe finds out when it is over.
            Kind::Unreachable | Kind::Intercepted if self.capabilities.probe => {
                self.pass_by(failure, Jitter::Full);
            }
            Kind::Unreachable
            | Kind::Intercepted
            | Kind::Transient
            | Kind::Rejected
            | Kind::TooLarge
            | Kind::CursorExpired
            | Kind::Protocol
            | Kind::Damaged
            | Kind::FateUnknown
            | Kind::UnknownKind
            | Kind::Orphaned
            | Kind::Cancelled => self.pause_pull(failure, true),
        }
        Ok(())
    }

    fn pause_pull(&mut self, failure: &Failure, again: bool) {
        self.state.pull.failures = self.state.pull.failures.saturating_add(1);
        let (failures, asked) = (self.state.pull.failures, failure.retry_after);
        let wait = again.then(|| backoff(&self.config.retry, b"pull", failures, Jitter::Full, asked));
        let wait = wait.map(|wait| self.out_of_budget(wait));
        let until = wait.map(|wait| self.now.mono.after(wait));
        let (why, message) = (failure.kind, failure.message.clone());
        self.state.pull.pause = Some(Pause { until, why, message: message.clone() });
        self.emit(Event::PullPaused { why, message, wait });
    }

    /// After a reading anew: a record that the backend confirmed once and that did not come is gone there. A batch
    /// at a time, so that no transaction grows with the number of records.
    fn sweep(&mut self, tx: &mut dyn StoreTx, mut position: PullState) -> Result<(), StoreError> {
        let page = tx.entities_after(None, position.swept_to.as_ref(), SWEEP)?;
        for what in page.damaged {
            self.emit(Event::Damaged { what });
        }
        for entity in page.entities {
            let missed = position.misses(entity.reading);
            // What is staged is newer than the base.
            let known = entity.staged.as_ref().map(|staged| &staged.body);
            let known = known.or(entity.base.as_ref().map(|base| &base.body));
            let lives = matches!(known, Some(Body::Live(_)));
            // What is kept under the backend's name of a record that has another here is read under that.
            let is_twin = missed && self.local_key(tx, entity.key.clone())? != entity.key;
            if missed && lives && !is_twin && self.covers(&position, &entity.key) {
                self.take_in(tx, RemoteEntity::new(entity.key, Body::Deleted, None), None)?;
            }
        }
        position.swept_to = page.last;
        self.state.pull.more_to_sweep = position.swept_to.is_some();
        if position.swept_to.is_none() {
            if position.again {
                return self.read_anew(tx, position);
            }
            position.sweep = false;
            self.state.pull.done = self.state.pull.saw_end;
        }
        self.put_position(tx, &position)
    }

    // ---- single records ------------------------------------------------------------------------------------------

    /// A conflict waits for a remote state that nobody told: ask for it.
    pub(super) fn look_for_unknown_remotes(&mut self) {
        self.state.pull.fetch_from = Some(0);
    }

    /// Asks for the records of conflicts whose remote state is not known, a few at a time.
    pub(super) fn plan_fetches(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        while self.session_pushes()
            && matches!(self.state.gate, Gate::Open)
            && self.state.pull.fetches.len() < self.config.push.calls_max
        {
            let Some(from) = self.state.pull.fetch_from else { return Ok(()) };
            if !self.still_leads(tx)? {
                return Ok(());
            }
            let page = tx.tasks_in_state(StateKind::Conflict, from, 1)?;
            let looked_at =
                page.tasks.iter().map(|task| task.seq).chain(page.damaged.iter().map(|row| row.seq));
            self.state.pull.fetch_from = looked_at.max();
            let Some(task) = page.tasks.into_iter().next() else { continue };
            let open = self.open_conflict(tx, &task)?;
            if open.is_none_or(|open| open.why != Why::RemoteUnknown) {
                continue;
            }
            let call = self.new_call();
            let context = self.call_context(tx, self.config.pull.call_timeout)?;
            self.state.pull.fetches.insert(call, (task.id, task.entity.clone()));
            let entity = self.server_key(tx, &task.entity)?;
            self.effects.push(Effect::Fetch { context, call, entity });
        }
        Ok(())
    }

    /// Takes in what the backend has of one record. `None`: it has none, so it was deleted.
    ///
    /// # Errors
    /// When the store cannot be read or written; bring the same answer again then.
    pub fn fetched(
        &mut self,
        tx: &mut dyn StoreTx,
        call: CallId,
        answer: &Result<Option<RemoteEntity>, Failure>,
    ) -> Result<(), StoreError> {
        let Some((task, key)) = self.state.pull.fetches.remove(&call) else { return Ok(()) };
        if !self.still_leads(tx)? {
            return Ok(());
        }
        let remote = match answer {
            // It was asked for the sake of this task, by whichever name its record has here.
            Ok(Some(remote)) => RemoteEntity { key, ..self.incoming(tx, remote.clone())? },
            Ok(None) => RemoteEntity::new(key, Body::Deleted, None),
            // The conflict stays in the inbox; the next page, the next session or a person goes on with it.
            Err(failure) => {
                match failure.kind {
                    FailureKind::Unauthenticated => self.ask_for_credentials(failure),
                    FailureKind::RateLimited => self.slow_down(tx, failure)?,
                    _ => {}
                }
                return Ok(());
            }
        };
        // A page may have settled it meanwhile, with a newer state.
        let Some(task) = self.readable(tx.task(task))? else { return Ok(()) };
        let open = self.open_conflict(tx, &task)?;
        let waits = open.is_some_and(|open| open.why == Why::RemoteUnknown);
        if waits { self.take_in_for_conflict(tx, remote) } else { Ok(()) }
    }

    /// Also a state that is no news settles a conflict: the backend refused the change, and this is why.
    fn take_in_for_conflict(&mut self, tx: &mut dyn StoreTx, remote: RemoteEntity) -> Result<(), StoreError> {
        let mut entity = self.entity(tx, &remote.key)?;
        self.base_moves(tx, &mut entity)?;
        self.rebase_queue(tx, &mut entity, remote)?;
        tx.put_entity(&entity)
    }
}
