//! Random work on a store, compared step by step with a model that is too simple to be wrong: vectors and clones.
//!
//! A run is named by its seed and repeats exactly. Few names and positions are used, so that rows meet often.

use super::StoreUnderTest;
use super::samples::{
    conflict, conflict_id, ended, entity, failure_note, lease, odd_fields, pull_state, quarantined, replica,
    task,
};
use landfall_core::conflict::ConflictRecord;
use landfall_core::entity::{Body, StoredEntity};
use landfall_core::failure::FailureKind;
use landfall_core::id::{ConflictId, EntityKey, Fence, Fingerprint, IdempotencyKey, TaskId};
use landfall_core::store::{
    ConflictPage, ConflictQuery, Controls, Counts, Lease, PullState, QUARANTINE_MAX, Quarantined, Replica,
    Savepoint, Store, StoreError, StoreRead, StoreTx,
};
use landfall_core::task::{Frozen, JournalEntry, Standing, StateKind, Task, TaskState, Terms};
use landfall_core::time::Timestamp;

/// The seeds of every run.
pub const SEEDS: std::ops::Range<u64> = 0..12;

/// Transactions in one run.
const TRANSACTIONS: usize = 60;
/// Most steps in one transaction.
const STEPS_MAX: u64 = 25;
const ENTITIES: u64 = 6;
const GENERATIONS: u64 = 5;
/// How many conflicts of each record there may be.
const CONFLICTS: u64 = 3;
const LANES: [Option<&str>; 4] = [None, None, Some("a"), Some("b")];

/// Does random work on a new store and on the model.
///
/// # Panics
/// When they disagree.
pub fn compare_with_the_model(harness: &dyn StoreUnderTest, seed: u64) {
    let mut random = Random(seed);
    let mut store = harness.create();
    let mut durable = Model::default();
    for _ in 0..TRANSACTIONS {
        let mut model = durable.clone();
        let mut tx = store.begin().expect("a transaction begins");
        let mut points: Vec<(Savepoint, Model)> = Vec::new();
        for _ in 0..random.below(STEPS_MAX) {
            step(&mut random, tx.as_mut(), &mut model, &mut points);
            ask(&mut random, tx.as_ref(), &model);
        }
        if random.below(4) == 0 {
            drop(tx);
        } else {
            tx.commit().expect("the transaction commits");
            durable = model;
        }
        if random.below(8) == 0 {
            store = harness.reopen(store);
        }
        compare_everything(store.as_mut(), &durable);
    }
}

/// The state of a store, as plainly as it can be said.
#[derive(Clone, Default)]
struct Model {
    replica: Option<Replica>,
    lease: Option<Lease>,
    /// In order of position.
    tasks: Vec<Task>,
    entities: Vec<StoredEntity>,
    journal: Vec<JournalEntry>,
    /// In the order in which they were kept.
    conflicts: Vec<ConflictRecord>,
    pull: Option<PullState>,
    /// All that ever were.
    quarantined: Vec<Quarantined>,
    keys: Vec<(String, TaskId, Timestamp)>,
    server_ids: Vec<(EntityKey, String)>,
    controls: Option<Controls>,
}

impl Model {
    fn put_task(&mut self, task: &Task) -> bool {
        let taken = self.tasks.iter().any(|old| old.seq == task.seq && old.id != task.id);
        if !taken {
            self.tasks.retain(|old| old.id != task.id);
            self.tasks.push(task.clone());
            self.tasks.sort_by_key(|task| task.seq);
        }
        !taken
    }

    fn find(&self, matches: impl Fn(&Task) -> bool) -> Option<Task> {
        self.tasks.iter().find(|task| matches(task)).cloned()
    }

    fn page(&self, limit: usize, matches: impl Fn(&Task) -> bool) -> Vec<Task> {
        self.tasks.iter().filter(|task| matches(task)).take(limit).cloned().collect()
    }

    /// Whether it may be kept.
    fn put_conflict(&mut self, record: &ConflictRecord) -> bool {
        match self.conflicts.iter_mut().find(|old| old.id == record.id) {
            Some(old) if old.entity != record.entity => false,
            Some(old) => {
                *old = record.clone();
                true
            }
            None => {
                self.conflicts.push(record.clone());
                true
            }
        }
    }

    fn conflicts(&self, which: &ConflictQuery, limit: usize) -> Vec<ConflictRecord> {
        let end = match which.before {
            None => self.conflicts.len(),
            Some(before) => self.conflicts.iter().position(|record| record.id == before).unwrap_or(0),
        };
        let of_entity =
            |record: &&ConflictRecord| which.entity.as_ref().is_none_or(|key| record.entity == *key);
        let wanted = |record: &&ConflictRecord| of_entity(record) && (record.is_open() || !which.open_only);
        self.conflicts[..end].iter().rev().filter(wanted).take(limit).cloned().collect()
    }

    fn entities_after(
        &self,
        entity_type: Option<&str>,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Vec<StoredEntity> {
        let of_type = |key: &EntityKey| entity_type.is_none_or(|kind| key.entity_type == kind);
        let behind = |key: &EntityKey| after.is_none_or(|after| key > after);
        let wanted = self.entities.iter().filter(|entity| of_type(&entity.key) && behind(&entity.key));
        let mut found: Vec<StoredEntity> = wanted.cloned().collect();
        found.sort_by_key(|entity| entity.key.clone());
        found.truncate(limit);
        found
    }

    fn quarantined(&self, limit: usize) -> Vec<Quarantined> {
        self.quarantined.iter().rev().take(limit.min(QUARANTINE_MAX)).cloned().collect()
    }

    /// The last first; of the same moment the one entered last.
    fn journal_before(&self, before: Option<TaskId>, limit: usize) -> Vec<JournalEntry> {
        let mut sorted = self.journal.clone();
        sorted.sort_by_key(|entry| entry.at);
        let end = match before {
            None => sorted.len(),
            Some(before) => sorted.iter().position(|entry| entry.task_id == before).unwrap_or(0),
        };
        sorted.truncate(end);
        sorted.into_iter().rev().take(limit).collect()
    }

    fn lapsing(&self) -> Vec<Timestamp> {
        let mut moments: Vec<Timestamp> = self.tasks.iter().filter_map(Task::lapses_at).collect();
        moments.sort();
        moments
    }

    /// Whether the id may be kept.
    fn put_server_id(&mut self, key: &EntityKey, id: &str) -> bool {
        let same_type = |known: &EntityKey| known.entity_type == key.entity_type;
        match self.server_ids.iter().find(|(known, has)| known == key || same_type(known) && has == id) {
            Some((known, has)) => known == key && has == id,
            None => {
                self.server_ids.push((key.clone(), id.to_owned()));
                true
            }
        }
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.tasks.iter().for_each(|task| *counts.of_mut(task.state.kind()) += 1);
        counts
    }

    /// Ready tasks in their order, and those due by waiting.
    fn due(&self, now: Timestamp) -> (Vec<Task>, Vec<Task>) {
        let is = |task: &Task, due: &dyn Fn(Timestamp) -> bool| task.claim_at.is_some_and(due);
        let mut ready = self.page(usize::MAX, |task| is(task, &|at| at <= Timestamp::ALWAYS));
        ready.sort_by_key(order);
        (ready, self.page(usize::MAX, |task| is(task, &|at| at > Timestamp::ALWAYS && at <= now)))
    }
}

fn order(task: &Task) -> (i64, u64) {
    (task.rank(), task.seq)
}

/// One random write.
fn step(random: &mut Random, tx: &mut dyn StoreTx, model: &mut Model, points: &mut Vec<(Savepoint, Model)>) {
    match random.below(110) {
        0..35 => {
            // Seldom far behind: a step of priority is worth a thousand places.
            let seq = match random.below(30) {
                0 => 1_000 + random.below(40),
                1..10 => random.below(40) + 1,
                _ => tx.next_seq().unwrap(),
            };
            let task = random_task(random, seq);
            check_put(tx, model, &task);
        }
        35..60 => {
            // What most writes are: a task that is there changes its state.
            if let Some(old) = random.pick(&model.tasks).cloned() {
                let mut task = random_task(random, old.seq);
                (task.id, task.entity, task.generation) = (old.id, old.entity, old.generation);
                check_put(tx, model, &task);
            }
        }
        60..72 => {
            let task = match random.pick(&model.tasks) {
                Some(task) if random.below(5) > 0 => task.clone(),
                _ => random_task(random, 1),
            };
            let entry = ended(&task, random.below(100) as i64);
            let there = model.tasks.iter().any(|old| old.id == task.id);
            check_outcome(tx.settle_task(&task, &entry), there);
            if there {
                model.tasks.retain(|old| old.id != task.id);
                model.journal.retain(|old| old.task_id != entry.task_id);
                model.journal.push(entry);
            }
        }
        72..80 => {
            let entity = random_entity(random);
            tx.put_entity(&entity).unwrap();
            model.entities.retain(|old| old.key != entity.key);
            model.entities.push(entity);
        }
        80..82 => {
            let record = random_conflict(random);
            let expected = model.put_conflict(&record);
            check_outcome(tx.put_conflict(&record), expected);
        }
        82 => {
            let before = Timestamp(random.below(100) as i64);
            let may_go = |record: &ConflictRecord| !record.is_open() && record.at < before;
            let old = model.conflicts.iter().filter(|record| may_go(record)).count();
            // All of them or none: which ones go first is not promised.
            let limit = if random.below(2) == 0 { old } else { 99_999 };
            assert_eq!(tx.prune_conflicts(before, limit).unwrap(), old);
            model.conflicts.retain(|record| !may_go(record));
        }
        83 => {
            model.pull = Some(pull_state(u32::try_from(random.below(1_000)).unwrap()));
            tx.put_pull_state(model.pull.as_ref().expect("just set")).unwrap();
        }
        84 => {
            // Seldom, so that the bound is met in some of the runs.
            let many = if random.below(20) == 0 { QUARANTINE_MAX as u64 } else { 3 };
            for _ in 0..random.below(many) {
                let record = quarantined(random.below(100) as i64);
                tx.put_quarantined(&record).unwrap();
                model.quarantined.push(record);
            }
        }
        85 => {
            let before = Timestamp(random.below(100) as i64);
            let old = model.journal.iter().filter(|entry| entry.at < before).count();
            // All of them or none: which ones go first is not promised.
            let limit = if random.below(2) == 0 { old } else { 99_999 };
            assert_eq!(tx.prune_journal(before, limit).unwrap(), old);
            model.journal.retain(|entry| entry.at >= before);
        }
        86..88 => {
            model.replica = Some(replica(random.below(1_000)));
            tx.put_replica(model.replica.as_ref().expect("just set")).unwrap();
        }
        88..90 => {
            model.lease = Some(lease(random.below(1_000)));
            tx.put_lease(model.lease.as_ref().expect("just set")).unwrap();
        }
        90..94 => points.push((tx.savepoint().unwrap(), model.clone())),
        94..98 if !points.is_empty() => {
            points.truncate(1 + random.below(points.len() as u64) as usize);
            let (point, then) = points.last().expect("one is left");
            tx.rollback_to(*point).unwrap();
            *model = then.clone();
        }
        100 | 101 => {
            let (key, task) = (random.below(6).to_string(), random_task(random, 1).id);
            let at = Timestamp(random.below(100) as i64);
            let new = model.keys.iter().all(|(known, ..)| *known != key);
            check_outcome(tx.put_deduplicated(&key, task, at), new);
            if new {
                model.keys.push((key, task, at));
            }
        }
        102 => {
            let before = Timestamp(random.below(100) as i64);
            let known = |id: &TaskId| {
                model.tasks.iter().any(|task| task.id == *id)
                    || model.journal.iter().any(|entry| entry.task_id == *id)
            };
            let mut kept = model.keys.clone();
            kept.retain(|(_, task, at)| *at >= before || known(task));
            let old = model.keys.len() - kept.len();
            let limit = if random.below(2) == 0 { old } else { 99_999 };
            assert_eq!(tx.prune_deduplicated(before, limit).unwrap(), old);
            model.keys = kept;
        }
        103..105 => {
            let (key, id) = (random_key(random), random.below(5).to_string());
            let expected = model.put_server_id(&key, &id);
            check_outcome(tx.put_server_id(&key, &id), expected);
        }
        105 => {
            let lanes = LANES.iter().flatten().map(|lane| (*lane).to_owned()).collect();
            model.controls = Some(Controls { all: random.below(2) == 0, lanes, ..Controls::default() });
            tx.put_controls(model.controls.as_ref().expect("just set")).unwrap();
        }
        106 => {
            let key = random_key(random);
            tx.remove_entity(&key).unwrap();
            model.entities.retain(|entity| entity.key != key);
        }
        107 if random.below(4) == 0 => {
            let notes = model.quarantined.len().min(QUARANTINE_MAX);
            let all = model.entities.len() + model.conflicts.len() + model.server_ids.len() + notes;
            // All of them: which ones go first is not promised.
            assert_eq!(tx.forget_records(all).unwrap(), all);
            model.entities.clear();
            model.conflicts.clear();
            model.server_ids.clear();
            model.quarantined.clear();
            model.pull = None;
        }
        98 | 99 if !points.is_empty() => {
            let kept = random.below(points.len() as u64) as usize;
            tx.release(points[kept].0).unwrap();
            points.truncate(kept);
        }
        _ => {}
    }
}

fn check_put(tx: &mut dyn StoreTx, model: &mut Model, task: &Task) {
    let expected = model.put_task(task);
    check_outcome(tx.put_task(task), expected);
}

fn check_outcome(outcome: Result<(), StoreError>, expected: bool) {
    let as_expected = match &outcome {
        Ok(()) => expected,
        Err(StoreError::Misuse(_)) => !expected,
        Err(_) => false,
    };
    assert!(as_expected, "expected {}, got {outcome:?}", if expected { "success" } else { "a refusal" });
}

/// One random question.
fn ask(random: &mut Random, rows: &dyn StoreRead, model: &Model) {
    let (after, limit, now) =
        (random.below(80), random.below(12) as usize, Timestamp(random.below(300) as i64));
    let after = if random.below(4) == 0 { after + 1_000 } else { after };
    match random.below(21) {
        0 => assert_eq!(rows.counts().unwrap(), model.counts()),
        1 => {
            let id = random_task(random, 1).id;
            assert_eq!(rows.task(id).unwrap(), model.find(|task| task.id == id));
        }
        2 => assert_eq!(
            rows.tasks_after(after, limit).unwrap().tasks,
            model.page(limit, |task| task.seq > after)
        ),
        3 => {
            let key = random_key(random);
            let last = model.page(usize::MAX, |task| task.entity == key).pop();
            assert_eq!(rows.last_of_entity(&key).unwrap(), last);
            let next = model.find(|task| task.entity == key && task.seq > after);
            assert_eq!(rows.next_of_entity(&key, after).unwrap(), next);
            let next =
                model.find(|task| task.entity == key && task.seq > after && !task.standing.passed_over);
            assert_eq!(rows.next_in_line(&key, after).unwrap(), next);
        }
        4 => {
            let in_lane = |task: &Task| task.lane.as_deref() == Some("a") && !task.standing.passed_over;
            let next = model.find(|task| in_lane(task) && task.seq > after);
            assert_eq!(rows.next_of_lane("a", after).unwrap(), next);
        }
        5 | 6 => compare_claimable(rows, model, now, limit),
        7 => {
            let moments = model.tasks.iter().filter_map(|task| task.claim_at);
            let next = moments.filter(|at| *at > now.max(Timestamp::ALWAYS)).min();
            assert_eq!(rows.next_claim(now).unwrap(), next);
            let waiting = rows.waiting_after(now, limit).unwrap().tasks;
            let mut moments: Vec<_> = model.tasks.iter().filter_map(|task| task.claim_at).collect();
            moments.retain(|at| *at > now.max(Timestamp::ALWAYS));
            moments.sort();
            moments.truncate(limit);
            // Which of several with the same moment comes first is not promised.
            assert!(waiting.iter().map(|task| task.claim_at).eq(moments.into_iter().map(Some)));
            assert!(waiting.iter().all(|task| model.tasks.contains(task)));
        }
        8 => {
            let state = StateKind::ALL[random.below(5) as usize];
            let expected = model.page(limit, |task| task.state.kind() == state && task.seq > after);
            assert_eq!(rows.tasks_in_state(state, after, limit).unwrap().tasks, expected);
        }
        9 => assert_eq!(rows.oldest().unwrap(), model.tasks.first().map(|task| task.enqueued_at)),
        10 => {
            let key = random_key(random);
            let known = model.entities.iter().find(|entity| entity.key == key);
            assert_eq!(rows.entity(&key).unwrap().as_ref(), known);
        }
        11 | 12 => {
            let which = ConflictQuery {
                entity: (random.below(2) == 0).then(|| random_key(random)),
                open_only: random.below(2) == 0,
                before: (random.below(2) == 0).then(|| random_conflict_id(random)),
            };
            let expected = ConflictPage { conflicts: model.conflicts(&which, limit), damaged: vec![] };
            assert_eq!(rows.conflicts(&which, limit).unwrap(), expected, "{which:?}, at most {limit}");
            let id = random_conflict_id(random);
            let known = model.conflicts.iter().find(|record| record.id == id);
            assert_eq!(rows.conflict(id).unwrap().as_ref(), known);
        }
        13 => {
            let kind = random.pick(&[None, Some("note"), Some("task"), Some("none")]).copied().flatten();
            let after = (random.below(2) == 0).then(|| random_key(random));
            let page = rows.entities_after(kind, after.as_ref(), limit).unwrap();
            let expected = model.entities_after(kind, after.as_ref(), limit);
            assert_eq!(page.last.as_ref(), expected.last().map(|entity| &entity.key));
            assert_eq!((page.entities, page.damaged.len()), (expected, 0), "{kind:?} behind {after:?}");
        }
        14 => {
            let expected = model.page(usize::MAX, |task| task.terms.group.as_deref() == Some("g"));
            assert_eq!(rows.tasks_of_group("g").unwrap().tasks, expected);
            let expected = model.page(limit, |task| task.standing.held && task.seq > after);
            assert_eq!(rows.held_after(after, limit).unwrap().tasks, expected);
        }
        15 => {
            let parent = random_parent(random);
            let expected =
                model.page(limit, |task| task.terms.waits_for.contains(&parent) && task.seq > after);
            assert_eq!(rows.waiting_for(parent, after, limit).unwrap().tasks, expected);
        }
        16 => {
            assert_eq!(rows.next_lapse().unwrap(), model.lapsing().first().copied());
            let lapsed = rows.lapsed(now, limit).unwrap().tasks;
            let expected = model.lapsing().into_iter().filter(|at| *at <= now).take(limit).map(Some);
            // Which of several with the same moment comes first is not promised.
            assert!(lapsed.iter().map(Task::lapses_at).eq(expected));
            assert!(lapsed.iter().all(|task| model.tasks.contains(task)));
        }
        17 => {
            let before = (random.below(2) == 0).then(|| random_task(random, 1).id);
            let page = rows.journal_entries(before, limit).unwrap();
            assert_eq!((page.entries, page.damaged.len()), (model.journal_before(before, limit), 0));
        }
        18 => {
            let key = random.below(6).to_string();
            let known = model.keys.iter().find(|(known, ..)| *known == key).map(|(_, task, _)| *task);
            assert_eq!(rows.deduplicated(&key).unwrap(), known);
            assert_eq!(rows.controls().unwrap(), model.controls);
        }
        19 => {
            let (key, id) = (random_key(random), random.below(5).to_string());
            let of_record = model.server_ids.iter().find(|(known, _)| *known == key);
            assert_eq!(rows.server_id(&key).unwrap().as_ref(), of_record.map(|(_, id)| id));
            let same_type = |known: &EntityKey| known.entity_type == key.entity_type;
            let of_id = model.server_ids.iter().find(|(known, has)| same_type(known) && *has == id);
            let asked = EntityKey::new(key.entity_type.as_str(), id.as_str());
            assert_eq!(rows.local_id(&asked).unwrap().as_ref(), of_id.map(|(known, _)| &known.entity_id));
            assert_eq!(rows.knows_server_ids().unwrap(), !model.server_ids.is_empty());
        }
        _ => {
            assert_eq!(rows.pull_state().unwrap(), model.pull);
            assert_eq!(rows.quarantined(limit).unwrap(), model.quarantined(limit));
        }
    }
}

/// What is left open when many are due by waiting: which of them a store looks at.
fn compare_claimable(rows: &dyn StoreRead, model: &Model, now: Timestamp, limit: usize) {
    let claimed = rows.claimable(now, limit).unwrap().tasks;
    let (ready, waited) = model.due(now);
    let from_ready: Vec<Task> =
        claimed.iter().filter(|task| task.claim_at <= Some(Timestamp::ALWAYS)).cloned().collect();
    assert!(ready.starts_with(&from_ready), "ready tasks go in their order");
    assert!(claimed.is_sorted_by_key(order), "by rank, then older");
    assert_eq!(claimed.len(), limit.min(ready.len() + waited.len()), "as many as there are");
    for task in claimed.iter().filter(|task| task.claim_at > Some(Timestamp::ALWAYS)) {
        assert!(waited.contains(task), "{task:?} is not due at {now:?}");
    }
    if waited.len() <= limit {
        let mut all = [ready, waited].concat();
        all.sort_by_key(order);
        all.truncate(limit);
        assert_eq!(claimed, all);
    }
}

fn compare_everything(store: &mut dyn Store, model: &Model) {
    let tx = store.begin().expect("a transaction begins");
    assert_eq!(tx.replica().unwrap(), model.replica);
    assert_eq!(tx.lease().unwrap(), model.lease);
    assert_eq!(tx.counts().unwrap(), model.counts());
    assert_eq!(tx.tasks_after(0, usize::MAX).unwrap().tasks, model.tasks);
    for state in StateKind::ALL {
        let expected = model.page(usize::MAX, |task| task.state.kind() == state);
        assert_eq!(tx.tasks_in_state(state, 0, usize::MAX).unwrap().tasks, expected);
    }
    compare_claimable(tx.as_ref(), model, Timestamp(i64::MAX), usize::MAX);
    let held = model.page(usize::MAX, |task| task.standing.held);
    assert_eq!(tx.held_after(0, usize::MAX).unwrap().tasks, held);
    let lapsed = tx.lapsed(Timestamp(i64::MAX), usize::MAX).unwrap().tasks;
    assert_eq!(lapsed.iter().filter_map(Task::lapses_at).collect::<Vec<_>>(), model.lapsing());
    for parent in (0..PARENTS).map(parent) {
        let expected = model.page(usize::MAX, |task| task.terms.waits_for.contains(&parent));
        assert_eq!(tx.waiting_for(parent, 0, usize::MAX).unwrap().tasks, expected);
    }
    let entries = tx.journal_entries(None, usize::MAX).unwrap().entries;
    assert_eq!(entries, model.journal_before(None, usize::MAX));
    for (key, task, _) in &model.keys {
        assert_eq!(tx.deduplicated(key).unwrap(), Some(*task));
    }
    for (key, id) in &model.server_ids {
        assert_eq!(tx.server_id(key).unwrap().as_ref(), Some(id));
    }
    assert_eq!(tx.controls().unwrap(), model.controls);
    for id in all_ids() {
        assert_eq!(tx.task(id).unwrap(), model.find(|task| task.id == id));
        assert_eq!(tx.journal(id).unwrap().as_ref(), model.journal.iter().find(|entry| entry.task_id == id));
    }
    for key in (0..ENTITIES).map(key) {
        assert_eq!(tx.entity(&key).unwrap().as_ref(), model.entities.iter().find(|entity| entity.key == key));
    }
    for open_only in [false, true] {
        let which = ConflictQuery { open_only, ..ConflictQuery::default() };
        let expected = model.conflicts(&which, usize::MAX);
        assert_eq!(tx.conflicts(&which, usize::MAX).unwrap().conflicts, expected);
    }
    let all = model.entities_after(None, None, usize::MAX);
    assert_eq!(tx.entities_after(None, None, usize::MAX).unwrap().entities, all);
    assert_eq!(tx.pull_state().unwrap(), model.pull);
    assert!(
        tx.quarantined(usize::MAX).unwrap() == model.quarantined(usize::MAX),
        "the newest, the last first"
    );
}

/// Of two types.
fn key(number: u64) -> EntityKey {
    EntityKey::new(if number % 2 == 0 { "note" } else { "task" }, number.to_string())
}

fn id(key: &EntityKey, generation: u64) -> TaskId {
    TaskId::derive(super::samples::client(), key, generation)
}

fn all_ids() -> impl Iterator<Item = TaskId> {
    (0..ENTITIES).flat_map(|entity| (0..GENERATIONS).map(move |generation| id(&key(entity), generation)))
}

/// How many tasks others wait for.
const PARENTS: u64 = 4;

fn parent(number: u64) -> TaskId {
    TaskId::derive(super::samples::client(), &EntityKey::new("parent", ""), number)
}

fn random_parent(random: &mut Random) -> TaskId {
    parent(random.below(PARENTS))
}

/// Mostly the usual ones.
fn random_terms(random: &mut Random) -> Terms {
    let mut terms = Terms::default();
    if random.below(3) == 0 {
        terms.group = (random.below(2) == 0).then(|| "g".to_owned());
        terms.waits_for = (0..random.below(3)).map(|_| random_parent(random)).collect();
        terms.expires_at = (random.below(2) == 0).then(|| Timestamp(random.below(300) as i64));
        terms.at_most_once = random.below(2) == 0;
    }
    terms
}

fn random_key(random: &mut Random) -> EntityKey {
    key(random.below(ENTITIES))
}

fn random_task(random: &mut Random, seq: u64) -> Task {
    let (key, generation) = (random_key(random), random.below(GENERATIONS));
    let moment = |random: &mut Random| Timestamp(random.below(300) as i64);
    let state = match random.below(8) {
        0 => TaskState::InFlight { fence: Fence(random.below(9)) },
        1 => TaskState::Unknown { retry_at: moment(random) },
        2 => TaskState::Conflict,
        3 => TaskState::Dead { why: FailureKind::ALL[random.below(FailureKind::ALL.len() as u64) as usize] },
        4 => TaskState::Pending { retry_at: Some(moment(random)) },
        _ => TaskState::Pending { retry_at: None },
    };
    let claim_at = match random.below(4) {
        0 => None,
        1 => Some(moment(random)),
        _ => Some(Timestamp::ALWAYS),
    };
    let payload = "x".repeat(random.below(600) as usize);
    let frozen = (random.below(3) == 0).then(|| Frozen {
        key: IdempotencyKey([random.below(256) as u8; 16]),
        fingerprint: Fingerprint::of(payload.as_bytes()),
        payload: payload.into(),
        base_version: (random.below(2) == 0).then(|| "7".into()),
        sends: random.below(3) as u32,
        open_sends: random.below(3) as u32,
    });
    let mut task = Task {
        id: id(&key, generation),
        generation,
        lane: random.pick(&LANES).copied().flatten().map(str::to_owned),
        priority: random.below(3) as i32 - 1,
        enqueued_at: moment(random),
        attempts: random.below(9) as u32,
        history: (0..random.below(3)).map(|_| failure_note()).collect(),
        terms: random_terms(random),
        standing: Standing {
            passed_over: random.below(4) == 0,
            held: random.below(4) == 0,
            cancelling: random.below(4) == 0,
        },
        state,
        claim_at,
        frozen,
        ..task(seq, &key)
    };
    if random.below(4) == 0 {
        task.intent.fields = odd_fields();
    }
    task
}

fn random_entity(random: &mut Random) -> StoredEntity {
    let full = entity(&random_key(random));
    let body = |random: &mut Random| match random.below(3) {
        0 => None,
        1 => Some(Body::Deleted),
        _ => Some(Body::Live(odd_fields())),
    };
    StoredEntity {
        generation: random.below(99),
        local: body(random),
        base: full.base.filter(|_| random.below(2) == 0),
        staged: full.staged.filter(|_| random.below(2) == 0),
        reading: random.below(9),
        ..full
    }
}

fn random_conflict_id(random: &mut Random) -> ConflictId {
    let key = random_key(random);
    conflict_id(&task(1, &key), random.below(CONFLICTS) as i64)
}

/// Sometimes under the name of a conflict of another record, which must be refused once that one is known.
fn random_conflict(random: &mut Random) -> ConflictRecord {
    let key = random_key(random);
    let full = conflict(&task(1, &key), random.below(CONFLICTS) as i64);
    ConflictRecord {
        id: if random.below(10) == 0 { random_conflict_id(random) } else { full.id },
        at: Timestamp(random.below(100) as i64),
        settled: full.settled.filter(|_| random.below(2) == 0),
        remote: full.remote.filter(|_| random.below(2) == 0),
        ..full
    }
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<'t, T>(&mut self, items: &'t [T]) -> Option<&'t T> {
        if items.is_empty() { None } else { items.get(self.below(items.len() as u64) as usize) }
    }
}
