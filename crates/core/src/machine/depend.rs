//! What waits for what: declared dependencies, references to records that are still to be made, and what becomes of a
//! task when one that it waits for is dead or given up.
//!
//! A dependency only ever points to a task that is earlier in the queue, so no circle can arise. Tests:
//! `tests/lifecycle` and the simulator of `landfall-testkit`.

use super::Step;
use super::enqueue::EnqueueError;
use super::line::is_under_way;
use crate::change::{Change, DependsOn, InvalidChange, Operation};
use crate::entity::Body;
use crate::failure::FailureKind;
use crate::id::{EntityKey, TaskId};
use crate::model::WhenDead;
use crate::store::{StoreError, StoreTx};
use crate::task::{Orphaned, Task, TaskState, Verdict};
use crate::value::Value;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;

/// The tasks that a change has to wait for.
#[derive(Debug, Default)]
pub(super) struct Parents(Vec<Parent>);

#[derive(Debug)]
struct Parent {
    id: TaskId,
    seq: u64,
    dead: bool,
}

impl Parents {
    pub(super) fn into_ids(self) -> BTreeSet<TaskId> {
        self.0.into_iter().map(|parent| parent.id).collect()
    }

    pub(super) fn holds(&self, id: TaskId) -> bool {
        self.0.iter().any(|parent| parent.id == id)
    }

    /// Whether all of them are earlier in the queue than position `seq`.
    pub(super) fn are_before(&self, seq: u64) -> bool {
        self.0.iter().all(|parent| parent.seq < seq)
    }

    /// Those of them that are dead.
    pub(super) fn dead(&self) -> Vec<TaskId> {
        self.0.iter().filter(|parent| parent.dead).map(|parent| parent.id).collect()
    }

    fn add(&mut self, task: &Task) {
        if self.0.iter().all(|known| known.id != task.id) {
            let dead = matches!(task.state, TaskState::Dead { .. });
            self.0.push(Parent { id: task.id, seq: task.seq, dead });
        }
    }
}

/// Children read at a time: bounds memory, not work.
const PAGE: usize = 500;

impl Step {
    /// What `change` has to wait for: what it names, and the unconfirmed creates of records that it refers to.
    pub(super) fn parents_of(&mut self, tx: &dyn StoreTx, change: &Change) -> Result<Parents, EnqueueError> {
        let mut parents = Parents::default();
        for named in &change.options.depends_on {
            match named {
                DependsOn::Entity(key) if *key != change.entity => {
                    if let Some(last) = self.readable(tx.last_of_entity(key))? {
                        parents.add(&last);
                    }
                }
                DependsOn::Entity(_) => {}
                DependsOn::Task(id) => {
                    if let Some(task) = self.parent(tx, *id, change.options.orphaned)? {
                        parents.add(&task);
                    }
                }
            }
        }
        let references = self.config.model.references(&change.entity.entity_type);
        for (field, of_type) in references.cloned().unwrap_or_default() {
            let Some(Value::Text(id)) = change.intent.fields.value(&field) else { continue };
            let key = EntityKey::new(of_type, id.clone());
            if key == change.entity {
                continue;
            }
            if let Some(create) = self.unconfirmed_create(tx, &key)? {
                parents.add(&create);
            }
        }
        let (dependencies, limit) = (parents.0.len(), self.config.limits.dependencies);
        if dependencies > limit {
            return Err(InvalidChange::TooManyDependencies { dependencies, limit }.into());
        }
        Ok(parents)
    }

    /// The task that goes on where `id` was, if it is not done.
    fn parent(
        &mut self,
        tx: &dyn StoreTx,
        mut id: TaskId,
        orphaned: Orphaned,
    ) -> Result<Option<Task>, EnqueueError> {
        loop {
            if let Some(task) = self.readable(tx.task(id))? {
                return Ok(Some(task));
            }
            let Some(entry) = tx.journal(id)? else { return Err(EnqueueError::UnknownDependency(id)) };
            match (entry.became, entry.verdict) {
                (Some(next), _) => id = next,
                (None, verdict) if verdict.is_done() || orphaned == Orphaned::Detach => return Ok(None),
                (None, verdict) => return Err(EnqueueError::DependencyGivenUp { task: id, verdict }),
            }
        }
    }

    /// The first queued task that makes a record, while the backend has not confirmed the record.
    fn unconfirmed_create(&mut self, tx: &dyn StoreTx, key: &EntityKey) -> Result<Option<Task>, StoreError> {
        let mut after = 0;
        while let Some(task) = self.readable(tx.next_of_entity(key, after))? {
            after = task.seq;
            if makes(&task) {
                let base = self.known_entity(tx, key)?.and_then(|entity| entity.base);
                let confirmed = base.is_some_and(|base| matches!(base.body, Body::Live(_)));
                return Ok((!confirmed).then_some(task));
            }
        }
        Ok(None)
    }

    /// A new task behind dead letters that were passed over waits for those that it builds on.
    pub(super) fn builds_on_the_dead(
        &mut self,
        tx: &dyn StoreTx,
        task: &mut Task,
        has_others: bool,
    ) -> Result<(), StoreError> {
        if !has_others {
            return Ok(());
        }
        let mut after = 0;
        while let Some(earlier) = self.readable(tx.next_of_entity(&task.entity, after))? {
            after = earlier.seq;
            if earlier.standing.passed_over && self.cannot_pass(task, &earlier) {
                task.terms.waits_for.insert(earlier.id);
            }
        }
        Ok(())
    }

    pub(super) fn when_dead(&self, task: &Task) -> WhenDead {
        self.config.model.when_dead(&task.entity.entity_type, task.lane.as_deref())
    }

    /// Whether a later change of the same record waits for a dead letter that others may pass. A record that was never
    /// made cannot be changed, whatever the policy says: the backend may not even know it by this name.
    fn cannot_pass(&self, later: &Task, dead: &Task) -> bool {
        match self.when_dead(dead) {
            WhenDead::SkipIfIndependent => builds_on(later, dead),
            WhenDead::Skip | WhenDead::Block => dead.intent.operation == Operation::Create,
        }
    }

    /// A task has become a dead letter: what is behind it goes on or waits, as the app said (G5).
    pub(super) fn died(&mut self, tx: &mut dyn StoreTx, dead: &Task) -> Result<(), StoreError> {
        if dead.standing.passed_over {
            let mut after = dead.seq;
            while let Some(mut later) = self.readable(tx.next_of_entity(&dead.entity, after))? {
                after = later.seq;
                // Who has passed it before, and waits to be sent again, goes before it.
                let waits = matches!(later.state, TaskState::Pending { .. })
                    && self.cannot_pass(&later, dead)
                    && !is_under_way(tx, &later)?;
                if waits && later.terms.waits_for.insert(dead.id) {
                    later.claim_at = None;
                    tx.put_task(&later)?;
                }
            }
        }
        // What goes on is what is behind it, or a letter before it that it has passed and that was taken up meanwhile.
        self.promote(tx, &dead.entity, dead.lane.as_deref())?;
        self.each_child(tx, dead.id, |step, tx, child| match step.are_one(tx, &child, dead)? {
            // A later change of the same record only keeps its place.
            true => Ok(()),
            false => step.parent_died(tx, child, dead.id),
        })
    }

    /// Whether two tasks are of one record, be it under both its names.
    fn are_one(&mut self, tx: &dyn StoreTx, a: &Task, b: &Task) -> Result<bool, StoreError> {
        Ok(a.entity == b.entity
            || self.local_key(tx, a.entity.clone())? == self.local_key(tx, b.entity.clone())?)
    }

    /// A change was taken that depends on tasks which are dead already.
    pub(super) fn meet_dead_parents(
        &mut self,
        tx: &mut dyn StoreTx,
        child: TaskId,
        dead: &[TaskId],
    ) -> Result<(), StoreError> {
        for parent in dead {
            if let Some(child) = self.readable(tx.task(child))? {
                self.parent_died(tx, child, *parent)?;
            }
        }
        Ok(())
    }

    /// A conflict is settled and `child` goes on: what has become meanwhile of those that it waits for, it meets now.
    pub(super) fn meet_lost_parents(
        &mut self,
        tx: &mut dyn StoreTx,
        child: TaskId,
    ) -> Result<(), StoreError> {
        let Some(task) = self.readable(tx.task(child))? else { return Ok(()) };
        for id in task.terms.waits_for {
            let Some(child) = self.readable(tx.task(child))? else { return Ok(()) };
            match self.readable(tx.task(id))? {
                None => self.orphan(tx, child, id, "was given up")?,
                Some(parent) if matches!(parent.state, TaskState::Dead { .. }) => {
                    if !self.are_one(tx, &parent, &child)? {
                        self.parent_died(tx, child, id)?;
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// What becomes of `child` when `parent`, which it waits for, is dead.
    fn parent_died(&mut self, tx: &mut dyn StoreTx, child: Task, parent: TaskId) -> Result<(), StoreError> {
        match child.terms.orphaned {
            Orphaned::Wait => Ok(()),
            Orphaned::Detach => self.let_go(tx, child, parent),
            Orphaned::Fail => self.orphan(tx, child, parent, "is dead"),
        }
    }

    /// A task has left the queue: what waited for it goes on, waits for what took its place, or is orphaned.
    pub(super) fn left(
        &mut self,
        tx: &mut dyn StoreTx,
        task: &Task,
        verdict: Verdict,
        became: Option<TaskId>,
    ) -> Result<(), StoreError> {
        self.each_child(tx, task.id, |step, tx, mut child| {
            if let Some(next) = became {
                child.terms.waits_for.remove(&task.id);
                child.terms.waits_for.insert(next);
                return tx.put_task(&child);
            }
            let lets_go = verdict.is_done() || child.terms.orphaned == Orphaned::Detach;
            if lets_go || step.are_one(tx, &child, task)? {
                return step.let_go(tx, child, task.id);
            }
            step.orphan(tx, child, task.id, "was given up")
        })
    }

    /// After a record's create was given up there is nothing that its next change could change.
    pub(super) fn create_given_up(
        &mut self,
        tx: &mut dyn StoreTx,
        given_up: &Task,
    ) -> Result<(), StoreError> {
        if !makes(given_up) {
            return Ok(());
        }
        let base = self.known_entity(tx, &given_up.entity)?.and_then(|entity| entity.base);
        if base.is_some_and(|base| matches!(base.body, Body::Live(_))) {
            return Ok(());
        }
        match self.readable(tx.next_of_entity(&given_up.entity, given_up.seq))? {
            Some(next) if matches!(next.state, TaskState::Pending { .. }) && needs_record(&next) => {
                self.orphan(tx, next, given_up.id, "was given up")
            }
            _ => Ok(()),
        }
    }

    fn each_child(
        &mut self,
        tx: &mut dyn StoreTx,
        parent: TaskId,
        mut visit: impl FnMut(&mut Self, &mut dyn StoreTx, Task) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let page = tx.waiting_for(parent, after, PAGE)?;
            let last =
                page.tasks.iter().map(|task| task.seq).chain(page.damaged.iter().map(|row| row.seq)).max();
            for child in page.tasks {
                // What became of one child may have changed another: it may be a dead letter by now.
                match self.readable(tx.task(child.id))? {
                    Some(child) if child.terms.waits_for.contains(&parent) => visit(self, tx, child)?,
                    _ => {}
                }
            }
            match last {
                Some(seq) => after = seq,
                None => return Ok(()),
            }
        }
    }

    /// `child` does not wait for `parent` any more.
    fn let_go(&mut self, tx: &mut dyn StoreTx, mut child: Task, parent: TaskId) -> Result<(), StoreError> {
        child.terms.waits_for.remove(&parent);
        tx.put_task(&child)?;
        self.make_claimable(tx, &child)
    }

    fn orphan(
        &mut self,
        tx: &mut dyn StoreTx,
        mut child: Task,
        parent: TaskId,
        what: &str,
    ) -> Result<(), StoreError> {
        if child.state == TaskState::Conflict {
            // The decision that it waits for is not about this: it meets its parent's end when it goes on.
            return Ok(());
        }
        child.terms.waits_for.remove(&parent);
        if matches!(child.state, TaskState::Dead { .. }) {
            // A person has to decide about it in any case.
            return tx.put_task(&child);
        }
        let why = format!("the task {parent}, which it depends on, {what}");
        let (id, note) = (child.id, self.note(FailureKind::Orphaned, None, &why));
        self.bury(tx, child, note)?;
        match self.readable(tx.task(id))? {
            // What was staged for it has made a conflict of it at once: it is like any other then.
            Some(mut child) if child.state == TaskState::Conflict => {
                child.terms.waits_for.insert(parent);
                tx.put_task(&child)
            }
            _ => Ok(()),
        }
    }
}

/// Whether a task can make its record.
pub(super) fn makes(task: &Task) -> bool {
    matches!(task.intent.operation, Operation::Create | Operation::Upsert | Operation::Replace)
}

/// Whether a task makes sense only if its record is there.
fn needs_record(task: &Task) -> bool {
    matches!(task.intent.operation, Operation::Update | Operation::Action)
}

/// Whether a later change of the same record builds on a dead one: both touch a field, or one of them is about the
/// record as a whole.
fn builds_on(later: &Task, dead: &Task) -> bool {
    let partial = |task: &Task| task.intent.operation == Operation::Update;
    if !partial(later) || !partial(dead) {
        return true;
    }
    let touches = |task: &Task, name: &str| {
        task.intent.fields.value(name).is_some() || task.intent.unset.contains(name)
    };
    let names = later.intent.fields.0.keys().chain(&later.intent.unset);
    names.into_iter().any(|name| touches(dead, name))
}
