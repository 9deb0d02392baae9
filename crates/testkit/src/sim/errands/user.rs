//! What users do: they change records in every way there is, and have their say about what is queued.

use super::Plant;
use super::app::{LANES, TYPES, reference};
use super::world::{Stepped, World};
use crate::sim::Violation;
use crate::sim::faulty_store::Lie;
use landfall_core::change::{Change, DependsOn, Operation};
use landfall_core::conflict::Resolution;
use landfall_core::entity::Body;
use landfall_core::id::{EntityKey, TaskId};
use landfall_core::machine::{Cancelled, Enqueued, Scope};
use landfall_core::store::{ConflictQuery, StoreError};
use landfall_core::task::{Orphaned, StateKind, Task, TaskState};
use landfall_core::value::Value;
use std::time::Duration;

/// Rounds after which whoever tends a device does not try again but gives up.
const PATIENCE: u32 = 6;

impl World {
    /// A user does something.
    pub(super) fn act(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        match self.rng.below(100) {
            0..=43 => self.change_one(device, process),
            44..=51 => self.change_together(device, process),
            52..=58 => self.command(device, process),
            59..=75 => self.sync(device, process),
            76..=81 => self.cancel_one(device, process),
            82..=85 => self.decide_one(device, process, 0),
            86..=87 => self.edit_unsent(device, process),
            88 => self.hurry(device, process),
            89..=92 => self.pause_or_resume(device, process),
            93 => self
                .step(device, process, |step, _| {
                    step.connectivity_regained();
                    Ok::<_, StoreError>(())
                })
                .map(drop),
            94..=95 => self.settle_conflicts(device, process, false),
            _ => self.switch(device, process),
        }
    }

    // ---- changes -------------------------------------------------------------------------------------------------

    fn change_one(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let Some(mut change) = self.draw_change(device, process) else { return Ok(()) };
        self.draw_options(device, process, &mut change);
        self.enqueue(device, process, vec![change])
    }

    /// Two or three changes that take effect together.
    fn change_together(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        self.values += 1;
        let (group, lane) = (format!("g{}", self.values), self.rng.percent(25));
        let lane = lane.then(|| LANES[self.rng.index(2)]);
        let account = self.devices[device].processes[process].account;
        let creates = |task: &Task| task.frozen.is_some() && task.intent.operation == Operation::Create;
        let creates = self.draw_task(device, process, creates).is_some();
        let mut changes: Vec<Change> = Vec::new();
        for _ in 0..4 {
            let Some(mut change) = self.draw_change(device, process) else { continue };
            // Two names of one record, of which nobody knows yet that they are, make a group that can never go.
            let is_foreign = !change.entity.entity_id.starts_with(account);
            if changes.iter().any(|other| other.entity == change.entity) || (is_foreign && creates) {
                continue;
            }
            change.options.group = Some(group.clone());
            // One lane has room for one of a group.
            if changes.is_empty() {
                change.options.lane = lane.map(String::from);
            }
            if self.rng.percent(10) {
                change.options.unmetered_only = true;
            }
            changes.push(change);
            if changes.len() == 3 || (changes.len() == 2 && self.rng.percent(60)) {
                break;
            }
        }
        if changes.len() > 1 {
            self.count("groups enqueued");
        }
        self.enqueue(device, process, changes)
    }

    /// A command: something is counted up at the server.
    fn command(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let Some((key, _)) = self.draw_record(device, process) else { return Ok(()) };
        let name = self.name_of(device, process, &key);
        let mut change = Change::action(&*key.entity_type, &*name, "increment").set("n", 1);
        self.draw_options(device, process, &mut change);
        change.options.at_most_once |= self.rng.percent(40);
        if self.rng.percent(50) {
            let account = self.devices[device].processes[process].account;
            let line = self.devices[device].line;
            change.options.dedup_key = Some(format!("{account}-{line}-{device}-{}", self.rng.below(4)));
        }
        self.count("commands");
        self.enqueue(device, process, vec![change])
    }

    fn enqueue(&mut self, device: usize, process: usize, changes: Vec<Change>) -> Result<(), Violation> {
        if changes.is_empty() {
            return Ok(());
        }
        let parents: Vec<Vec<TaskId>> =
            changes.iter().map(|change| self.parents_of(device, process, change)).collect();
        let (wanted, firsts) = (changes.clone(), self.firsts(device, process, &changes));
        let stepped = self.step(device, process, |step, tx| {
            changes.into_iter().map(|change| step.enqueue(tx, change)).collect::<Result<Vec<_>, _>>()
        })?;
        let receipts = match stepped {
            Stepped::Done(receipts) => receipts,
            Stepped::Refused(why) => {
                self.say(format!("device {device}.{process}: refused: {why} {wanted:?}"));
                self.count("changes refused at the door");
                // Two names of one record in a group are two changes of it.
                let fair = why.contains("given up") || why.contains("group") || wanted.len() > 1;
                return if fair { Ok(()) } else { self.judge(Err(format!("refused: {why} {wanted:?}"))) };
            }
            Stepped::Failed => return Ok(()),
        };
        let place = self.place(device, process);
        for ((receipt, change), (parents, first)) in
            receipts.iter().zip(&wanted).zip(parents.iter().zip(firsts))
        {
            self.say(format!(
                "device {device}.{process}: {:?} {:?} {change:?}",
                receipt.outcome, receipt.task
            ));
            let Some(id) = receipt.task else { continue };
            self.count("receipts");
            if receipt.outcome == Enqueued::Repeated {
                self.count("repeated changes");
                if first != Some(id) {
                    return self.judge(Err(format!("{id} is said to be the repetition of {first:?}")));
                }
                continue;
            }
            if let Some(first) = first {
                return self.judge(Err(format!("G3: {first} has this dedup key, and {id} is another")));
            }
            if matches!(receipt.outcome, Enqueued::Annihilated | Enqueued::NoChange) {
                continue;
            }
            if !parents.is_empty() {
                self.count("dependencies");
            }
            let outcome = {
                let super::world::Device { store, processes, .. } = &mut self.devices[device];
                let tx = super::world::open(store, processes[process].account);
                self.book.receipt(place, &*tx, id, parents, change.options.at_most_once)
            };
            self.judge(outcome)?;
        }
        Ok(())
    }

    /// What the user's words make the change wait for, looked up beside the machine.
    fn parents_of(&mut self, device: usize, process: usize, change: &Change) -> Vec<TaskId> {
        let tx = self.peek(device, process);
        let local = |key: &EntityKey| {
            let id = tx.local_id(key).ok().flatten().unwrap_or_else(|| key.entity_id.clone());
            EntityKey::new(key.entity_type.clone(), id)
        };
        let itself = local(&change.entity);
        let mut parents = Vec::new();
        for named in &change.options.depends_on {
            match named {
                DependsOn::Entity(key) if local(key) != itself => {
                    parents.extend(tx.last_of_entity(&local(key)).ok().flatten().map(|task| task.id));
                }
                DependsOn::Entity(_) => {}
                DependsOn::Task(id) => parents.push(*id),
            }
        }
        parents
    }

    /// The first task of each dedup key.
    fn firsts(&mut self, device: usize, process: usize, changes: &[Change]) -> Vec<Option<TaskId>> {
        let tx = self.peek(device, process);
        let first = |change: &Change| {
            let key = change.options.dedup_key.as_ref()?;
            tx.deduplicated(key).ok().flatten()
        };
        changes.iter().map(first).collect()
    }

    /// A live record as the app shows it.
    fn draw_record(&mut self, device: usize, process: usize) -> Option<(EntityKey, Body)> {
        let all =
            self.peek(device, process).entities_after(None, None, usize::MAX).unwrap_or_default().entities;
        let live: Vec<_> = all
            .into_iter()
            .filter_map(|entity| {
                Some((entity.key, entity.local.filter(|body| matches!(body, Body::Live(_)))?))
            })
            .collect();
        if live.is_empty() { None } else { Some(live[self.rng.index(live.len())].clone()) }
    }

    /// A record's name as the user knows it: the app's, or the server's where it was seen.
    fn name_of(&mut self, device: usize, process: usize, key: &EntityKey) -> String {
        let servers = self.peek(device, process).server_id(key).ok().flatten();
        match servers.filter(|_| self.rng.percent(40)) {
            Some(name) => {
                self.count("records named as the server does");
                name
            }
            None => key.entity_id.clone(),
        }
    }

    fn fresh(&mut self, device: usize, process: usize) -> String {
        self.values += 1;
        format!("{}:{}", self.devices[device].processes[process].account, self.values)
    }

    /// The name of the text field of a type in the format that this app writes.
    fn text_field(&self, device: usize) -> &'static str {
        if self.is_upgraded(device) { "body" } else { "text" }
    }

    fn draw_change(&mut self, device: usize, process: usize) -> Option<Change> {
        let shown = self.draw_record(device, process);
        let (Some((key, body)), true) = (shown, self.rng.percent(60)) else {
            return self.draw_create(device, process);
        };
        let name = self.name_of(device, process, &key);
        let kind = key.entity_type.clone();
        let field = self.text_field(device);
        let text = self.fresh(device, process);
        let mut change = match self.rng.below(20) {
            0..=2 => return Some(Change::delete(kind, name)),
            3 => Change::upsert(kind, name),
            4 => Change::replace(kind, name),
            _ => Change::update(kind, name),
        };
        change = change.set(field, text);
        if change.intent.operation == Operation::Replace && key.entity_type == "note" {
            let title = self.fresh(device, process);
            change = change.set("title", title);
        }
        let old = body.fields().and_then(|fields| fields.value(field)).cloned();
        match (self.rng.below(12), old) {
            // Setting what is there already must be harmless.
            (0, Some(old)) => change = change.set(field, old),
            (1, Some(_)) if change.intent.operation == Operation::Update => change = change.unset(field),
            (2 | 3, _) => change = self.refer(device, process, change),
            (4, _) if key.entity_type == "note" => {
                self.count("poison");
                change = change.set("title", "");
            }
            _ => {}
        }
        Some(change)
    }

    fn draw_create(&mut self, device: usize, process: usize) -> Option<Change> {
        let kind = TYPES[[0, 0, 0, 1, 1, 1, 1, 2, 2][self.rng.index(9)]];
        self.values += 1;
        let account = self.devices[device].processes[process].account;
        let id = format!("{account}-{device}-{}", self.values);
        let (field, text) = (self.text_field(device), self.fresh(device, process));
        let mut change = Change::create(kind, id).set(field, text);
        if self.rng.percent(30) && !self.is_upgraded(device) {
            change = change.set("old", 1);
        }
        if kind == "note" {
            if self.rng.percent(10) {
                self.count("poison");
            } else {
                let title = self.fresh(device, process);
                change = change.set("title", title);
            }
        }
        Some(if self.rng.percent(85) { self.refer(device, process, change) } else { change })
    }

    /// The change refers to a record that the app shows, if there is one of the type.
    fn refer(&mut self, device: usize, process: usize, change: Change) -> Change {
        let Some((field, of)) = reference(&change.entity.entity_type) else { return change };
        for _ in 0..6 {
            let Some((key, _)) = self.draw_record(device, process) else { return change };
            if key.entity_type == of {
                let name = self.name_of(device, process, &key);
                self.count("references");
                return change.set(field, name);
            }
        }
        change
    }

    fn draw_options(&mut self, device: usize, process: usize, change: &mut Change) {
        let now = self.clock(device).wall;
        let options = &mut change.options;
        if self.rng.percent(25) {
            options.lane = Some(LANES[self.rng.index(2)].into());
        }
        if self.rng.percent(15) {
            options.priority = i32::try_from(self.rng.below(7)).unwrap_or(0) - 3;
        }
        if self.rng.percent(8) {
            options.expires_at = Some(now.after(Duration::from_millis(self.rng.below(60_000))));
        }
        if self.rng.percent(8) {
            options.unmetered_only = true;
        }
        if self.rng.percent(6) {
            options.not_before = Some(now.after(Duration::from_millis(self.rng.below(20_000))));
        }
        options.at_most_once = self.rng.percent(5);
        if self.rng.percent(50) {
            options.orphaned = Orphaned::ALL[self.rng.index(3)];
        }
        if self.rng.percent(10) {
            if let Some((key, _)) = self.draw_record(device, process) {
                let name = self.name_of(device, process, &key);
                change.options.depends_on.push(DependsOn::Entity(EntityKey::new(key.entity_type, name)));
            }
        }
        if self.rng.percent(10) {
            if let Some(task) = self.draw_task(device, process, |_| true) {
                change.options.depends_on.push(DependsOn::Task(task.id));
            }
        }
    }

    // ---- what is queued ------------------------------------------------------------------------------------------

    fn draw_task(&mut self, device: usize, process: usize, fits: impl Fn(&Task) -> bool) -> Option<Task> {
        let mut all = self.peek(device, process).tasks_after(0, usize::MAX).unwrap_or_default().tasks;
        all.retain(fits);
        if all.is_empty() { None } else { Some(all[self.rng.index(all.len())].clone()) }
    }

    fn cancel_one(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let under_way = |task: &Task| task.frozen.is_some() && !matches!(task.state, TaskState::Dead { .. });
        let wanted = match self.rng.percent(60) {
            true => self.draw_task(device, process, under_way),
            false => self.draw_task(device, process, |_| true),
        };
        let Some(task) = wanted else { return Ok(()) };
        self.lie = (self.scenario.plant == Some(Plant::SentIsCancelled)).then_some(Lie::NothingLeft);
        let stepped = self.step(device, process, |step, tx| step.cancel(tx, task.id));
        self.lie = None;
        match stepped? {
            Stepped::Done(Cancelled::Requested) => {
                self.book.cancelling(task.id);
                self.count("cancels requested");
            }
            Stepped::Done(Cancelled::Done) => self.count("cancels done"),
            Stepped::Refused(why) => {
                self.say(format!("device {device}.{process}: cannot be cancelled: {why}"));
                self.count("cancels refused");
            }
            Stepped::Failed => {}
        }
        self.say(format!("device {device}.{process}: cancel of {} in {:?}", task.id, task.state));
        Ok(())
    }

    /// A person decides about a dead letter: edit, take up again, or discard.
    fn decide_one(&mut self, device: usize, process: usize, round: u32) -> Result<(), Violation> {
        let is_dead = |task: &Task| matches!(task.state, TaskState::Dead { .. });
        let Some(task) = self.draw_task(device, process, is_dead) else { return Ok(()) };
        self.decide(device, process, &task, round)
    }

    fn decide(&mut self, device: usize, process: usize, task: &Task, round: u32) -> Result<(), Violation> {
        let id = task.id;
        let choice = if round >= PATIENCE { 9 } else { self.rng.below(10) };
        let key = task.frozen.as_ref().map(|frozen| frozen.key);
        let stepped = match choice {
            0..=3 => {
                let intent = self.mended(device, process, task);
                self.step(device, process, |step, tx| step.edit(tx, id, intent).map(Some))?
            }
            4..=6 => self.step(device, process, |step, tx| step.requeue(tx, id).map(Some))?,
            _ => self.step(device, process, |step, tx| step.discard(tx, id).map(|()| None))?,
        };
        self.say(format!("device {device}.{process}: decides {choice} about {id} ({:?})", task.state));
        match stepped {
            Stepped::Done(Some(next)) => {
                self.count(match (choice, next == id) {
                    (0..=3, _) => "dead letters edited",
                    (_, true) => "dead letters taken up under the same key",
                    (_, false) => "dead letters taken up under a new key",
                });
                self.book.taken_up(id, key);
                self.book.taken_up(next, None);
            }
            Stepped::Done(None) => {}
            // In the commit that nobody heard of it may have been taken up after all.
            Stepped::Failed => self.book.taken_up(id, key),
            Stepped::Refused(why) => {
                self.say(format!("device {device}.{process}: {why}"));
                self.count("decisions refused");
            }
        }
        // The dead of its group were taken up with it.
        if let Some(group) = &task.terms.group {
            let members = self.peek(device, process).tasks_of_group(group).unwrap_or_default().tasks;
            for member in members {
                let key = member.frozen.as_ref().map(|frozen| frozen.key);
                if member.state.kind() == StateKind::Unknown {
                    self.book.taken_up(member.id, key);
                }
            }
        }
        Ok(())
    }

    /// The content of a task as a person would mend it.
    fn mended(&mut self, device: usize, process: usize, task: &Task) -> landfall_core::change::Intent {
        let mut intent = task.intent.clone();
        let makes = matches!(intent.operation, Operation::Create | Operation::Replace);
        let lacks = |value: Option<&Value>| value.is_none_or(|value| *value == Value::Text(String::new()));
        let title = intent.fields.value("title");
        if task.entity.entity_type == "note" && lacks(title) && (makes || title.is_some()) {
            let fresh = self.fresh(device, process);
            intent.set("title", fresh);
        } else if matches!(intent.operation, Operation::Update | Operation::Create | Operation::Upsert) {
            let (field, fresh) =
                (if task.schema == 1 { "text" } else { "body" }, self.fresh(device, process));
            intent.set(field, fresh);
        }
        intent
    }

    fn edit_unsent(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let unsent = |task: &Task| matches!(task.state, TaskState::Pending { .. });
        let Some(task) = self.draw_task(device, process, unsent) else { return Ok(()) };
        let intent = self.mended(device, process, &task);
        match self.step(device, process, |step, tx| step.edit(tx, task.id, intent))? {
            Stepped::Done(_) => self.count("edits of what was not sent"),
            Stepped::Refused(_) => self.count("edits refused"),
            Stepped::Failed => {}
        }
        Ok(())
    }

    fn hurry(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let Some(task) = self.draw_task(device, process, |_| true) else { return Ok(()) };
        if let Stepped::Done(()) = self.step(device, process, |step, tx| step.retry_now(tx, task.id))? {
            self.count("waits ended by a person");
        }
        Ok(())
    }

    fn pause_or_resume(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let scope = match self.rng.below(5) {
            0 => Scope::All,
            1..=2 => Scope::Type(TYPES[self.rng.index(3)].into()),
            _ => Scope::Lane(LANES[self.rng.index(2)].into()),
        };
        let pause = self.rng.percent(45);
        self.say(format!("device {device}.{process}: {scope:?} paused: {pause}"));
        let stepped = self.step(device, process, |step, tx| match pause {
            true => step.pause(tx, &scope),
            false => step.resume(tx, &scope),
        })?;
        if matches!(stepped, Stepped::Done(())) {
            self.count(if pause { "pauses" } else { "resumes" });
        }
        Ok(())
    }

    fn settle_conflicts(&mut self, device: usize, process: usize, all: bool) -> Result<(), Violation> {
        let which = ConflictQuery { open_only: true, ..ConflictQuery::default() };
        let open = self.peek(device, process).conflicts(&which, 100).unwrap_or_default().conflicts;
        for conflict in open {
            if !all && self.rng.percent(50) {
                continue;
            }
            let resolution = match self.rng.below(6) {
                0..=1 => Resolution::KeepLocal,
                2 => Resolution::ReplaceWithRemote,
                3 if !all => Resolution::Fork,
                _ => Resolution::KeepRemote,
            };
            self.say(format!("device {device}.{process}: {} is settled: {resolution:?}", conflict.id));
            let stepped =
                self.step(device, process, |step, tx| step.resolve(tx, conflict.id, &resolution))?;
            if matches!(stepped, Stepped::Done(_)) {
                self.count("conflicts settled");
            }
        }
        Ok(())
    }

    /// A person settles everything that waits: conflicts, dead letters, and moments that lie years ahead.
    pub(super) fn decide_all(&mut self, device: usize, process: usize, round: u32) -> Result<(), Violation> {
        self.settle_conflicts(device, process, true)?;
        let tasks = self.peek(device, process).tasks_after(0, usize::MAX).unwrap_or_default().tasks;
        let now = self.clock(device).wall;
        for task in tasks {
            match task.state {
                TaskState::Dead { .. } => self.decide(device, process, &task, round)?,
                TaskState::Pending { .. } if task.not_before.is_some_and(|at| at > now) => {
                    self.step(device, process, |step, tx| step.retry_now(tx, task.id))?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
