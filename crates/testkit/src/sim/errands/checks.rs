//! What must hold after every step, at every request and at the end. The book is kept beside the machine: what users
//! asked for and were told, which bytes left, and what the server did.

use super::Stats;
use super::app::{ACCOUNTS, App, reference};
use landfall_core::adapter::{CallContext, PushBatch, PushTask};
use landfall_core::entity::Body;
use landfall_core::explain::{Live, Wait, explain};
use landfall_core::failure::FailureKind;
use landfall_core::id::{EntityKey, IdempotencyKey, TaskId};
use landfall_core::model::WhenDead;
use landfall_core::store::{Counts, StoreRead};
use landfall_core::task::{FailureNote, JournalEntry, Orphaned, Task, TaskState, Verdict};
use landfall_core::time::Timestamp;
use landfall_core::value::{Fields, Value};
use landfall_server::state::MemoryRecords;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A queue: whose, and on which device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) device: usize,
    /// The device that the user began with: one that takes another's place goes on with its work.
    pub(super) line: usize,
    pub(super) account: &'static str,
}

/// What is known of one task beside the machine.
#[derive(Clone, Debug)]
struct Errand {
    place: Place,
    entity: EntityKey,
    lane: Option<String>,
    group: Option<String>,
    once: bool,
    orphaned: Orphaned,
    /// When it was enqueued, or the one whose place it took, among all.
    order: usize,
    /// What the user, or the machine by itself, made it wait for.
    parents: BTreeSet<TaskId>,
    /// It was a dead letter once.
    died: bool,
    /// It was one that others may pass.
    passed: bool,
    /// A person has taken it up again.
    taken_up: bool,
    in_flight: bool,
    ended: Option<(Verdict, Option<TaskId>)>,
    /// Whose place it took.
    was: Vec<TaskId>,
    /// How often bytes of it left.
    left: u32,
    cancelling: bool,
}

/// Bytes that were handed out.
#[derive(Clone, Debug)]
struct Sent {
    payload: Arc<str>,
    /// How often they left without word that they did nothing.
    open: u32,
    /// How often a person took the task up again, and so let them leave once more: a call may still sleep then.
    taken_up: u32,
}

#[derive(Default)]
pub(super) struct Book {
    errands: BTreeMap<TaskId, Errand>,
    of_record: BTreeMap<(usize, &'static str, EntityKey), Vec<TaskId>>,
    of_lane: BTreeMap<(usize, &'static str, String), Vec<TaskId>>,
    of_group: BTreeMap<(&'static str, String), Vec<TaskId>>,
    /// What was in each queue after the last step.
    queues: BTreeMap<(usize, &'static str), BTreeSet<TaskId>>,
    sent: BTreeMap<IdempotencyKey, Sent>,
    /// Keys that were there before the app was upgraded.
    frozen_before: BTreeSet<IdempotencyKey>,
    /// The request in which each task took effect.
    effects: BTreeMap<TaskId, u64>,
    /// Records that something on the server refers to although they are not there, as somebody wanted it.
    referred_to: BTreeSet<(&'static str, &'static str, String)>,
    counted: [usize; 2],
    requests: u64,
    order: usize,
    pub(super) stats: Stats,
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

impl Book {
    // ---- the queue -----------------------------------------------------------------------------------------------

    /// A step on this queue was committed.
    pub(super) fn after_step(
        &mut self,
        place: Place,
        store: &dyn StoreRead,
        (app, upgraded): (&App, bool),
    ) -> Result<(), String> {
        let page = store.tasks_after(0, usize::MAX).map_err(text)?;
        let now: BTreeSet<TaskId> = page.tasks.iter().map(|task| task.id).collect();
        let before = self.queues.insert((place.device, place.account), now.clone()).unwrap_or_default();
        for task in &page.tasks {
            if !self.errands.contains_key(&task.id) {
                self.meet(place, task);
            }
        }
        for id in before.difference(&now) {
            let Some(entry) = store.journal(*id).map_err(text)? else {
                return Err(format!("G2: {id} vanished without a journal entry"));
            };
            self.end(place, store, &entry)?;
        }
        let mut counts = Counts::default();
        let mut under_way: BTreeSet<(&EntityKey, Option<&str>)> = BTreeSet::new();
        let controls = store.controls().map_err(text)?.unwrap_or_default();
        for task in &page.tasks {
            *counts.of_mut(task.state.kind()) += 1;
            let errand = self.errands.get_mut(&task.id).expect("it was met above");
            errand.place = place;
            if let Some(frozen) = task.frozen.as_ref().filter(|_| !upgraded) {
                self.frozen_before.insert(frozen.key);
            }
            errand.in_flight = matches!(task.state, TaskState::InFlight { .. });
            if errand.in_flight {
                let lane = task.lane.as_deref();
                let clash = under_way
                    .iter()
                    .any(|(entity, other)| **entity == task.entity || (lane.is_some() && *other == lane));
                if clash {
                    return Err(format!("G4: {} of {} is not alone in flight", task.id, task.entity));
                }
                under_way.insert((&task.entity, lane));
            }
            // A letter of this very step may be a conflict by now: whoever decides about that takes up both.
            let orphaned = |note: &FailureNote| note.kind == FailureKind::Orphaned;
            errand.died |= task.state == TaskState::Conflict && task.history.notes().iter().any(orphaned);
            if let TaskState::Dead { why } = task.state {
                if !errand.died || !task.standing.passed_over {
                    let policy = app.model.when_dead(&task.entity.entity_type, task.lane.as_deref());
                    errand.passed |= policy != WhenDead::Block;
                }
                if !std::mem::replace(&mut errand.died, true) {
                    self.stats.count(match why {
                        FailureKind::Orphaned => "orphans",
                        FailureKind::FateUnknown => "fates put before a person",
                        FailureKind::Rejected => "refusals",
                        _ => "other dead letters",
                    });
                }
            }
            if task.standing.held {
                let lane = task.lane.as_ref().is_some_and(|lane| controls.lanes.contains(lane));
                let paused = lane || controls.types.contains(&task.entity.entity_type);
                if !paused && !task.terms.unmetered_only {
                    return Err(format!("{} is held, and nothing holds it", task.id));
                }
                self.stats.count("tasks held");
            }
            if !may_wait(task, &page.tasks) {
                return Err(format!(
                    "nobody will ever look at {} of {} again: {task:?}",
                    task.id, task.entity
                ));
            }
            // A conflict meets the end of its parents when it is settled.
            let lost = task.terms.waits_for.iter().find(|parent| !now.contains(parent));
            if let Some(parent) = lost.filter(|_| task.state != TaskState::Conflict) {
                return Err(format!("{} waits for {parent}, which is not in the queue", task.id));
            }
        }
        let told = store.counts().map_err(text)?;
        if told != counts {
            return Err(format!("the store counts {told:?}, and holds {counts:?}"));
        }
        Ok(())
    }

    /// A task is seen for the first time.
    fn meet(&mut self, place: Place, task: &Task) {
        self.order += 1;
        let errand = Errand {
            place,
            entity: task.entity.clone(),
            lane: task.lane.clone(),
            group: task.terms.group.clone(),
            once: task.terms.at_most_once,
            orphaned: task.terms.orphaned,
            order: self.order,
            parents: task.terms.waits_for.clone(),
            died: false,
            passed: false,
            taken_up: false,
            in_flight: false,
            ended: None,
            was: Vec::new(),
            left: 0,
            cancelling: false,
        };
        let (line, account) = (place.line, place.account);
        self.of_record.entry((line, account, task.entity.clone())).or_default().push(task.id);
        if let Some(lane) = &task.lane {
            self.of_lane.entry((line, account, lane.clone())).or_default().push(task.id);
        }
        if let Some(group) = &task.terms.group {
            self.of_group.entry((account, group.clone())).or_default().push(task.id);
        }
        self.errands.insert(task.id, errand);
    }

    /// A task has left the queue.
    fn end(&mut self, place: Place, store: &dyn StoreRead, entry: &JournalEntry) -> Result<(), String> {
        let id = entry.task_id;
        let Some(errand) = self.errands.get_mut(&id) else { return Ok(()) };
        if let Some(earlier) = &errand.ended {
            return Err(format!("G2: {id} ended twice: {earlier:?} and {:?}", entry.verdict));
        }
        errand.ended = Some((entry.verdict, entry.became));
        errand.in_flight = false;
        let errand = errand.clone();
        self.stats.count(match (entry.verdict, errand.cancelling) {
            (Verdict::Applied | Verdict::Duplicate, true) => "cancels in flight that came too late",
            (Verdict::Cancelled, true) => "cancels in flight that were in time",
            (Verdict::Applied | Verdict::Duplicate, _) => "tasks applied",
            (Verdict::Cancelled, _) => "cancels of what never left",
            (Verdict::Expired, _) => "tasks expired",
            (Verdict::Discarded, _) => "dead letters discarded",
            (Verdict::Annihilated, _) => "tasks annihilated",
            (Verdict::Rebased, _) => "tasks rebased",
            (Verdict::Requeued, _) => "tasks requeued under a new key",
            (Verdict::Forked, _) => "tasks forked",
            (Verdict::NoChange | Verdict::ResolvedToRemote, _) => "tasks that changed nothing",
        });
        let has_effect = self.effects.contains_key(&id);
        let applied = matches!(entry.verdict, Verdict::Applied | Verdict::Duplicate);
        if applied != has_effect && !(entry.verdict == Verdict::Discarded && errand.left > 0) {
            return Err(format!("G2: {id} ended as {:?}, effect: {has_effect}", entry.verdict));
        }
        let Some(next) = entry.became else { return Ok(()) };
        let ended_too = if self.errands.contains_key(&next) {
            None
        } else {
            let Some(entry) = store.journal(next).map_err(text)? else {
                return Err(format!("G2: {id} became {next}, which is neither queued nor in the journal"));
            };
            let entity = entry.entity.clone();
            self.of_record.entry((place.line, place.account, entity.clone())).or_default().push(next);
            let heir = Errand { entity, was: Vec::new(), left: 0, ended: None, ..errand.clone() };
            self.errands.insert(next, heir);
            Some(entry)
        };
        let heir = self.errands.get_mut(&next).expect("it was just put there");
        heir.was.push(id);
        heir.died |= errand.died;
        heir.passed |= errand.passed;
        heir.taken_up |= errand.taken_up || entry.verdict == Verdict::Requeued;
        heir.once |= errand.once;
        heir.order = heir.order.min(errand.order);
        // What was under way under the app's name of the record goes before what comes from the server's.
        heir.passed |= heir.entity != errand.entity;
        let of_it =
            |parent: &&TaskId| self.errands.get(*parent).is_some_and(|known| known.entity == errand.entity);
        let parents: Vec<TaskId> =
            errand.parents.iter().filter(|parent| **parent != next && !of_it(parent)).copied().collect();
        if let Some(heir) = self.errands.get_mut(&next) {
            heir.parents.extend(parents);
        }
        match ended_too {
            Some(entry) => self.end(place, store, &entry),
            None => Ok(()),
        }
    }

    /// A user was told that a task carries the change.
    pub(super) fn receipt(
        &mut self,
        place: Place,
        store: &dyn StoreRead,
        id: TaskId,
        parents: &[TaskId],
        once: bool,
    ) -> Result<(), String> {
        let queued = self.queues.get(&(place.device, place.account)).is_some_and(|queue| queue.contains(&id));
        if !queued && store.journal(id).map_err(text)?.is_none() {
            return Err(format!("G1: {id} was acknowledged, and is neither queued nor in the journal"));
        }
        if let Some(errand) = self.errands.get_mut(&id) {
            errand.parents.extend(parents);
            errand.once |= once;
        }
        Ok(())
    }

    /// A person has asked that it be cancelled while nobody knew its fate.
    pub(super) fn cancelling(&mut self, id: TaskId) {
        if let Some(errand) = self.errands.get_mut(&id) {
            errand.cancelling = true;
        }
    }

    /// A person takes a task up again.
    pub(super) fn taken_up(&mut self, id: TaskId, key: Option<IdempotencyKey>) {
        if let Some(errand) = self.errands.get_mut(&id) {
            errand.taken_up = true;
        }
        if let Some(sent) = key.and_then(|key| self.sent.get_mut(&key)) {
            sent.taken_up += 1;
        }
    }

    /// A device has taken the place of another: every task of the old queue is in the new one.
    pub(super) fn moved(&mut self, from: usize, to: Place, store: &dyn StoreRead) -> Result<(), String> {
        let old = self.queues.remove(&(from, to.account)).unwrap_or_default();
        let new = self.queues.get(&(to.device, to.account)).cloned().unwrap_or_default();
        for gone in old.difference(&new) {
            // It may have ended in the very step in which it came in.
            let Some(entry) = store.journal(*gone).map_err(text)? else {
                return Err(format!("G2: {gone} was exported and did not come in"));
            };
            if self.errands.get(gone).is_some_and(|errand| errand.ended.is_none()) {
                self.end(to, store, &entry)?;
            }
        }
        Ok(())
    }

    // ---- the way out ---------------------------------------------------------------------------------------------

    /// A call is handed out: all of it is durable, of this account, not paused, whole, and under the right names.
    pub(super) fn handed_out(
        &mut self,
        place: Place,
        store: &dyn StoreRead,
        (context, batch): (&CallContext, &PushBatch),
        (upgraded, metered): (bool, bool),
    ) -> Result<(), String> {
        if context.identity.as_deref() != Some(place.account) {
            return Err(format!("G16: a call of {} says {:?}", place.account, context.identity));
        }
        let controls = store.controls().map_err(text)?.unwrap_or_default();
        for task in &batch.tasks {
            let id = task.task_id;
            let row = store.task(id).map_err(text)?;
            let Some(row) =
                row.filter(|row| row.frozen.as_ref().is_some_and(|frozen| frozen.key == task.key))
            else {
                return Err(format!("G8: {id} leaves under {}, and that is not durable", task.key));
            };
            if !matches!(row.state, TaskState::InFlight { .. }) {
                return Err(format!("G8: {id} leaves but is not durably in flight"));
            }
            if let Some(group) = &row.terms.group {
                for member in store.tasks_of_group(group).map_err(text)?.tasks {
                    if batch.tasks.iter().all(|other| other.task_id != member.id) {
                        return Err(format!("{id} leaves without {} of its group", member.id));
                    }
                }
            }
            if let Some(sent) = self.sent.get(&task.key) {
                if sent.payload != task.payload {
                    return Err(format!("G8: key {} with {} and {}", task.key, sent.payload, task.payload));
                }
                continue;
            }
            let lane = row.lane.as_ref().is_some_and(|lane| controls.lanes.contains(lane));
            if controls.all || lane || controls.types.contains(&row.entity.entity_type) {
                return Err(format!("{id} is sent although it is paused: {controls:?}"));
            }
            if row.terms.unmetered_only && metered {
                return Err(format!("{id} is sent over a metered network"));
            }
            let payload: serde_json::Value = serde_json::from_str(&task.payload).map_err(text)?;
            if payload["entity_id"] != task.entity.entity_id.as_str() {
                return Err(format!("G8: {id} goes to {}, and its bytes say {payload}", task.entity));
            }
            // What has left before the server gave a name goes again as it was.
            if row.frozen.as_ref().is_some_and(|frozen| frozen.sends == 0) {
                self.names_are_the_servers(store, &row, task)?;
            }
            if upgraded && payload["schema"] == 1 && !self.frozen_before.contains(&task.key) {
                return Err(format!("G15: {id} leaves for the first time in an old format: {payload}"));
            }
            let sent = Sent { payload: Arc::clone(&task.payload), open: 0, taken_up: 0 };
            self.sent.insert(task.key, sent);
        }
        Ok(())
    }

    fn names_are_the_servers(
        &self,
        store: &dyn StoreRead,
        row: &Task,
        task: &PushTask,
    ) -> Result<(), String> {
        let name = |key: &EntityKey| {
            Ok::<_, String>(store.server_id(key).map_err(text)?.unwrap_or_else(|| key.entity_id.clone()))
        };
        let payload: serde_json::Value = serde_json::from_str(&task.payload).map_err(text)?;
        let wanted = name(&row.entity)?;
        if payload["entity_id"] != wanted.as_str() || task.entity.entity_id != wanted {
            return Err(format!("{} is known as {wanted}, and leaves as {payload}", row.entity));
        }
        if let Some((field, of)) = reference(&row.entity.entity_type) {
            if let Some(Value::Text(id)) = row.intent.fields.value(field) {
                let wanted = name(&EntityKey::new(of, id.clone()))?;
                if payload["fields"][field] != wanted.as_str() {
                    return Err(format!("{of} {id} is known as {wanted}, and is referred to in {payload}"));
                }
            }
        }
        Ok(())
    }

    /// The bytes leave, with these credentials.
    pub(super) fn leaving(&mut self, credentials: &str, batch: &PushBatch) -> Result<(), String> {
        for task in &batch.tasks {
            let id = task.task_id;
            let Some(errand) = self.errands.get_mut(&id) else {
                return Err(format!("{id} leaves, and nobody ever saw it"));
            };
            if errand.place.account != credentials {
                let owner = errand.place.account;
                return Err(format!("G16: {id} of {owner} leaves with the credentials of {credentials}"));
            }
            let Some(sent) = self.sent.get_mut(&task.key) else {
                return Err(format!("{id} leaves and was never handed out"));
            };
            if errand.once && sent.open > sent.taken_up {
                return Err(format!("{id} leaves again, and may have taken effect already"));
            }
            errand.left += 1;
            sent.open += 1;
        }
        Ok(())
    }

    /// Whether something of it has taken effect before.
    pub(super) fn took_effect(&self, batch: &PushBatch) -> bool {
        batch.tasks.iter().any(|task| self.effects.contains_key(&task.task_id))
    }

    /// The device was told in words that these bytes did nothing.
    pub(super) fn turned_away(&mut self, keys: impl Iterator<Item = IdempotencyKey>) {
        for key in keys {
            if let Some(sent) = self.sent.get_mut(&key) {
                sent.open = sent.open.saturating_sub(1);
            }
        }
    }

    // ---- the server ----------------------------------------------------------------------------------------------

    /// The server has taken a request of this account.
    pub(super) fn served(&mut self, account: &'static str, server: &MemoryRecords) -> Result<(), String> {
        self.requests += 1;
        let tenant = usize::from(account != ACCOUNTS[0]);
        let from = std::mem::replace(&mut self.counted[tenant], server.effects().len());
        let effects = &server.effects()[from..];
        let mut groups = BTreeSet::new();
        for effect in effects {
            self.stats.count("effects");
            let id = TaskId::parse(&effect.task_id).map_err(|_| format!("{} is no task", effect.task_id))?;
            let Some(errand) = self.errands.get(&id).cloned() else {
                return Err(format!("{id} took effect, and nobody ever saw it"));
            };
            if errand.place.account != account {
                return Err(format!("G16: {id} of {} took effect as {account}'s", errand.place.account));
            }
            if self.effects.insert(id, self.requests).is_some() {
                return Err(format!("G3: {id} took effect twice"));
            }
            if let Some(other) = self.kin(id).find(|other| self.effects.contains_key(other)) {
                return Err(format!("G3: {id} took effect, and so did {other}, whose change it is"));
            }
            match errand.ended {
                None | Some((Verdict::Applied | Verdict::Duplicate, _)) => {}
                Some((Verdict::Discarded, _)) if errand.left > 0 => {
                    self.stats.count("effects of what was discarded without a verdict");
                }
                Some((verdict, _)) => {
                    return Err(format!("G2: {id} took effect after it ended as {verdict:?}"));
                }
            }
            self.in_order(id, &errand)?;
            self.after_its_parents(id, &errand, effect)?;
            self.refers_to_something(id, &errand, server, effect)?;
            self.holds_only_of(account, server, effect)?;
            groups.extend(errand.group);
        }
        for group in groups {
            self.is_whole(account, &group)?;
        }
        Ok(())
    }

    /// Tasks that stand for the same change: those whose place it took, and those that took its.
    fn kin(&self, id: TaskId) -> impl Iterator<Item = TaskId> {
        let mut kin = BTreeSet::new();
        let mut todo: Vec<TaskId> =
            self.errands.get(&id).map(|errand| errand.was.clone()).unwrap_or_default();
        while let Some(ancestor) = todo.pop() {
            if kin.insert(ancestor) {
                todo.extend(self.errands.get(&ancestor).into_iter().flat_map(|errand| errand.was.clone()));
            }
        }
        let mut next = self.errands.get(&id).and_then(|errand| errand.ended).and_then(|ended| ended.1);
        while let Some(heir) = next.filter(|heir| kin.insert(*heir)) {
            next = self.errands.get(&heir).and_then(|errand| errand.ended).and_then(|ended| ended.1);
        }
        kin.into_iter()
    }

    /// What goes on where `id` was.
    fn tail(&self, mut id: TaskId) -> TaskId {
        while let Some((_, Some(next))) = self.errands.get(&id).and_then(|errand| errand.ended) {
            id = next;
        }
        id
    }

    /// Everything earlier of its record and its lane has ended, or may be passed (G4).
    fn in_order(&self, id: TaskId, errand: &Errand) -> Result<(), String> {
        let (line, account) = (errand.place.line, errand.place.account);
        let of_record = self.of_record.get(&(line, account, errand.entity.clone()));
        let of_lane = errand.lane.clone().and_then(|lane| self.of_lane.get(&(line, account, lane)));
        for other in of_record.into_iter().chain(of_lane).flatten() {
            let Some(earlier) = self.errands.get(other) else { continue };
            let waits = earlier.order < errand.order && earlier.ended.is_none() && !earlier.passed;
            if waits && !self.effects.contains_key(other) {
                return Err(format!("G4: {id} took effect before {other}: {errand:?}, {earlier:?}"));
            }
        }
        Ok(())
    }

    fn after_its_parents(
        &mut self,
        id: TaskId,
        errand: &Errand,
        effect: &landfall_server::state::Effect,
    ) -> Result<(), String> {
        let by_server_name = EntityKey::new(&effect.entity_type, &effect.entity_id);
        for named in &errand.parents {
            let parent = self.tail(*named);
            if parent == id || self.effects.contains_key(&parent) {
                continue;
            }
            let Some(known) = self.errands.get(&parent) else { continue };
            // Of one record it is the order that counts, whichever name it has.
            if known.entity == errand.entity || known.entity == by_server_name {
                continue;
            }
            let fine = match known.ended {
                Some((verdict, _)) if verdict.is_done() => true,
                // It was given up: the child let go of it, or was an orphan that a person took up again.
                Some(_) => {
                    errand.orphaned == Orphaned::Detach || errand.died || known.entity == errand.entity
                }
                None => known.died && (errand.orphaned == Orphaned::Detach || errand.died),
            };
            if !fine {
                return Err(format!(
                    "{id} took effect before {parent}, on which it depends: {errand:?}, {known:?}"
                ));
            }
            self.stats.count("children that went on without their parent");
        }
        Ok(())
    }

    /// The record that is referred to is there, under this very name, or was.
    fn refers_to_something(
        &mut self,
        id: TaskId,
        errand: &Errand,
        server: &MemoryRecords,
        effect: &landfall_server::state::Effect,
    ) -> Result<(), String> {
        let Some((field, of)) = reference(&effect.entity_type) else { return Ok(()) };
        if !effect.touched.iter().any(|name| name == field) {
            return Ok(());
        }
        let stored =
            server.stored(&effect.entity_type, &effect.entity_id).and_then(|stored| stored.fields.as_ref());
        let Some(value) = stored.and_then(|fields| fields.text(field)) else { return Ok(()) };
        let name = value.trim_matches('"');
        // What the app still shows of a record whose making was given up refers to nothing, and is the user's own.
        let of_it = self.of_record.get(&(errand.place.line, errand.place.account, EntityKey::new(of, name)));
        let ended = |id: &TaskId| self.errands.get(id).and_then(|known| known.ended);
        let given_up = of_it.into_iter().flatten().filter_map(ended).any(|(verdict, _)| !verdict.is_done());
        if server.stored(of, name).is_some() {
            return Ok(());
        }
        // What the server's records refer to is the same in whatever is made of them: in what is merged, made anew or forked.
        // Who refers to something by a change of his own waits for it, and that is looked at as with any other parent.
        let known = (errand.place.account, of, name.to_owned());
        if errand.died || errand.orphaned == Orphaned::Detach || given_up {
            self.referred_to.insert(known);
        } else if !self.referred_to.contains(&known) {
            return Err(format!("{id} refers to the {of} {name}, which the server never had: {errand:?}"));
        }
        Ok(())
    }

    /// Every text carries the name of who wrote it (G16).
    fn holds_only_of(
        &self,
        account: &str,
        server: &MemoryRecords,
        effect: &landfall_server::state::Effect,
    ) -> Result<(), String> {
        let stored =
            server.stored(&effect.entity_type, &effect.entity_id).and_then(|stored| stored.fields.as_ref());
        let other = ACCOUNTS.into_iter().find(|other| *other != account).unwrap_or_default();
        let json = stored.map(landfall_protocol::Fields::to_json).unwrap_or_default();
        if json.contains(&format!("{other}:")) {
            return Err(format!("G16: {account}'s {} {} holds {json}", effect.entity_type, effect.entity_id));
        }
        Ok(())
    }

    /// Every member of a group took effect in this request, or has nothing to do any more.
    fn is_whole(&mut self, account: &'static str, group: &str) -> Result<(), String> {
        let members = self.of_group.get(&(account, group.to_owned())).cloned().unwrap_or_default();
        for member in members {
            let tail = self.tail(member);
            let nothing_left = self.errands.get(&tail).and_then(|errand| errand.ended).is_some_and(|ended| {
                matches!(ended.0, Verdict::NoChange | Verdict::ResolvedToRemote | Verdict::Forked)
            });
            let merged = self.errands.get(&tail).is_some_and(|errand| errand.group.as_deref() != Some(group));
            if self.effects.get(&tail) != Some(&self.requests) && !nothing_left && !merged {
                let of_it = self.errands.get(&tail);
                return Err(format!(
                    "of the group {group} {tail} did not take effect with the others: {of_it:?}"
                ));
            }
        }
        self.stats.count("groups that took effect");
        Ok(())
    }

    // ---- explanations --------------------------------------------------------------------------------------------

    /// Of every task it can be said why it waits, and what is in its way is there.
    pub(super) fn explains(
        &mut self,
        place: Place,
        store: &dyn StoreRead,
        now: Timestamp,
        live: &Live,
    ) -> Result<(), String> {
        let queue = self.queues.get(&(place.device, place.account)).cloned().unwrap_or_default();
        let claimable = store.claimable(now, usize::MAX).map_err(text)?.tasks;
        for id in &queue {
            let told = explain(store, *id, now, live).map_err(text)?;
            let Some(told) = told else { return Err(format!("{id} is queued, and cannot be explained")) };
            if live.is_automatic && told.waits_for.contains(&Wait::Sync) {
                return Err(format!("{id} waits for somebody, it is said, and runs begin by themselves"));
            }
            let will_go =
                |wait: &Wait| matches!(wait, Wait::Sync | Wait::Lease { .. } | Wait::NextRun { .. });
            let goes = told.waits_for.is_empty() || told.waits_for.iter().any(will_go);
            if goes && claimable.iter().all(|task| task.id != *id) {
                let row = store.task(*id).map_err(text)?;
                return Err(format!(
                    "{id} goes out at once, it is said, and cannot be claimed: {told:?} {row:#?}"
                ));
            }
            for wait in &told.waits_for {
                let blocker = match wait {
                    Wait::EarlierChange(blocker) | Wait::Dependency(blocker) => blocker,
                    Wait::Lane { blocker, .. } | Wait::Group { blocker, .. } => blocker,
                    _ => continue,
                };
                if !queue.contains(&blocker.task) || blocker.task == *id {
                    return Err(format!("{id} waits for {}, it is said, which is not there", blocker.task));
                }
            }
            self.stats.count("explanations");
        }
        Ok(())
    }

    // ---- the end -------------------------------------------------------------------------------------------------

    /// Everything has come to rest: every task has ended, and truly.
    pub(super) fn finally(&self) -> Result<(), String> {
        for (id, errand) in &self.errands {
            let Some((verdict, _)) = errand.ended else {
                return Err(format!("G2: {id} never ended: {errand:?}"));
            };
            let has_effect = self.effects.contains_key(id);
            let applied = matches!(verdict, Verdict::Applied | Verdict::Duplicate);
            if applied != has_effect && !(verdict == Verdict::Discarded && errand.left > 0) {
                return Err(format!("G2: {id} ended as {verdict:?}, effect: {has_effect}"));
            }
        }
        Ok(())
    }

    /// A device shows of an account what the server has, each record once.
    pub(super) fn shows_the_truth(
        &self,
        place: Place,
        store: &dyn StoreRead,
        server: &MemoryRecords,
    ) -> Result<(), String> {
        let mut names = BTreeMap::new();
        for entity in store.entities_after(None, None, usize::MAX).map_err(text)?.entities {
            let key = entity.key.clone();
            let name = store.server_id(&key).map_err(text)?.unwrap_or_else(|| key.entity_id.clone());
            let held = server.stored(&key.entity_type, &name);
            let lives = matches!(entity.local, Some(Body::Live(_)));
            if let (true, Some(other)) =
                (lives, names.insert((key.entity_type.clone(), name.clone()), key.clone()))
            {
                return Err(format!("{place:?} shows {other} and {key}, which are both {name}"));
            }
            let shown = match &entity.local {
                Some(Body::Live(fields)) => Some(by_server_names(store, &key.entity_type, fields)?),
                _ => None,
            };
            let held = held.and_then(|held| held.fields.as_ref());
            // A child that was let go may have gone out with the app's own name of its parent.
            let held = held.map(|fields| Fields::parse(&fields.to_json()).unwrap_or_default());
            let held = held.map(|fields| by_server_names(store, &key.entity_type, &fields)).transpose()?;
            if shown != held {
                return Err(format!("{place:?} shows {shown:?} for {key} ({name}), the server has {held:?}"));
            }
        }
        for (kind, id, stored) in server.all_records() {
            let is_shown = names.contains_key(&(kind.to_owned(), id.to_owned()));
            if stored.fields.is_some() && !is_shown {
                return Err(format!("{place:?} does not show the {kind} {id}"));
            }
        }
        Ok(())
    }
}

/// Whether something of the queue will let the task go, or it can go already.
fn may_wait(task: &Task, queue: &[Task]) -> bool {
    let waits = matches!(task.state, TaskState::Pending { .. } | TaskState::Unknown { .. });
    if !waits || task.claim_at.is_some() || task.standing.held || !task.terms.waits_for.is_empty() {
        return true;
    }
    queue.iter().any(|other| {
        let same_line = other.entity == task.entity || (task.lane.is_some() && other.lane == task.lane);
        let before = other.seq < task.seq && !other.standing.passed_over;
        let is_dead = matches!(other.state, TaskState::Dead { .. } | TaskState::Conflict);
        let has_passed = other.seq > task.seq && other.frozen.is_some() && !is_dead;
        let of_group = task.terms.group.is_some() && other.terms.group == task.terms.group;
        other.id != task.id && (of_group || (same_line && (before || has_passed)))
    })
}

/// A record as the server would write it.
fn by_server_names(store: &dyn StoreRead, entity_type: &str, fields: &Fields) -> Result<Fields, String> {
    let mut fields = fields.clone();
    if let Some((field, of)) = reference(entity_type) {
        if let Some(Value::Text(id)) = fields.0.get_mut(field) {
            if let Some(name) = store.server_id(&EntityKey::new(of, id.clone())).map_err(text)? {
                *id = name;
            }
        }
    }
    Ok(fields)
}
