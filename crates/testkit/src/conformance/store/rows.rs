//! Promises about single rows: each reads back as it was written, is replaced by its like, and goes when it must.

use super::samples::{
    client, conflict, conflict_id, ended, entity, failure_note, full_task, full_terms, lease, note,
    odd_fields, open_conflict, pull_state, quarantined, replica, task,
};
use super::{StoreUnderTest, commit, look};
use landfall_core::change::Operation;
use landfall_core::conflict::{ConflictRecord, DecidedBy, Found, Settled, Why};
use landfall_core::entity::{Base, Body, RemoteEntity, StoredEntity};
use landfall_core::failure::FailureKind;
use landfall_core::id::{EntityKey, Fence, Fingerprint, IdempotencyKey, TaskId};
use landfall_core::store::{
    ConflictQuery, Counts, Page, PullState, QUARANTINE_MAX, Replica, StoreError, StoreRead,
};
use landfall_core::task::{
    FailureNote, Frozen, History, JournalEntry, Orphaned, Standing, StateKind, Task, TaskState, Terms,
    Verdict,
};
use landfall_core::time::{Hlc, Timestamp};
use landfall_core::value::Fields;

/// Each part of a task at both ends of its range, one by one, and every state and operation.
fn variants() -> Vec<Task> {
    let mut tasks = vec![full_task(1)];
    let mut vary = |change: &dyn Fn(&mut Task)| {
        let seq = tasks.len() as u64 + 1;
        let mut task = task(seq, &note("variant"));
        change(&mut task);
        tasks.push(task);
    };
    for operation in Operation::ALL {
        vary(&|task| task.intent.operation = operation);
    }
    let states = [
        TaskState::Pending { retry_at: None },
        TaskState::Pending { retry_at: Some(Timestamp(0)) },
        TaskState::Pending { retry_at: Some(Timestamp(-5)) },
        TaskState::InFlight { fence: Fence(0) },
        TaskState::InFlight { fence: Fence(u64::MAX) },
        TaskState::Unknown { retry_at: Timestamp(i64::MIN) },
        TaskState::Conflict,
    ];
    for state in states.into_iter().chain(FailureKind::ALL.map(|why| TaskState::Dead { why })) {
        vary(&|task| task.state = state);
    }
    for claim_at in [None, Some(Timestamp(-1)), Some(Timestamp(1)), Some(Timestamp(i64::MAX))] {
        vary(&|task| task.claim_at = claim_at);
    }
    for priority in [i32::MIN, -1, 1, i32::MAX] {
        vary(&|task| task.priority = priority);
    }
    for lane in ["", "a", "A", "\u{0}", "é"] {
        vary(&|task| task.lane = Some(lane.into()));
    }
    for base_version in [None, Some("".into()), Some("7".into())] {
        vary(&|task| {
            let (key, fingerprint) = (IdempotencyKey([0; 16]), Fingerprint([0xff; 32]));
            let (payload, base_version) = ("".into(), base_version.clone());
            task.frozen = Some(Frozen { key, payload, fingerprint, base_version, sends: 1, open_sends: 1 });
        });
    }
    for code in [None, Some("gone".to_owned())] {
        vary(&|task| task.history.push(FailureNote { code: code.clone(), ..failure_note() }));
    }
    for (entity_type, entity_id) in [("", ""), ("a", "b/../c"), ("'", "\u{0}"), ("é", "e\u{301}")] {
        vary(&|task| task.entity = EntityKey::new(entity_type, entity_id));
    }
    let full = full_terms();
    for terms in [
        Terms { expires_at: Some(Timestamp(i64::MAX)), ..Terms::default() },
        Terms { tags: full.tags.clone(), ..Terms::default() },
        Terms { unmetered_only: true, ..Terms::default() },
        Terms { at_most_once: true, ..Terms::default() },
        Terms { group: Some(String::new()), ..Terms::default() },
        Terms { waits_for: full.waits_for.clone(), ..Terms::default() },
    ] {
        vary(&|task| task.terms = terms.clone());
    }
    for orphaned in Orphaned::ALL {
        vary(&|task| task.terms.orphaned = orphaned);
    }
    for number in 0..3 {
        let standing = Standing { passed_over: number == 0, held: number == 1, cancelling: number == 2 };
        vary(&|task| task.standing = standing);
    }
    for action in ["", "submit", "\u{0}é"] {
        vary(&|task| task.intent.action = Some(action.into()));
    }
    for notes in [1, 2, History::MAX, History::MAX + 5] {
        let note = |at| FailureNote { at: Timestamp(at as i64), answer: None, ..failure_note() };
        vary(&|task| task.history = (0..notes).map(note).collect());
    }
    vary(&|task| task.intent.fields = Fields::new());
    vary(&|task| task.generation = 0);
    vary(&|task| task.not_before = Some(Timestamp(0)));
    vary(&|task| task.changed_at = Hlc { wall_ms: i64::MIN, counter: 0 });
    tasks
}

pub(super) fn every_part_of_a_task_reads_back(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let tasks = variants();
    commit(store.as_mut(), |tx| tasks.iter().for_each(|task| tx.put_task(task).unwrap()));
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        for task in &tasks {
            assert_eq!(tx.task(task.id).unwrap().as_ref(), Some(task));
        }
        assert_eq!(tx.tasks_after(0, usize::MAX).unwrap(), Page { tasks: tasks.clone(), damaged: vec![] });
        let floats = &tx.task(full_task(1).id).unwrap().expect("it is there").intent.fields;
        assert_eq!(floats.to_json(), odd_fields().to_json(), "a number is also written as it was");
    });
}

pub(super) fn every_part_of_an_entity_reads_back(harness: &dyn StoreUnderTest) {
    let bodies = [Body::Deleted, Body::Live(Fields::new()), Body::Live(odd_fields())];
    let versions = [None, Some("".into()), Some("7".into())];
    let times =
        [None, Some(Hlc { wall_ms: i64::MIN, counter: 0 }), Some(Hlc { wall_ms: 0, counter: u32::MAX })];
    let or_none = |body: &Body| [None, Some(body.clone())];
    let mut entities = Vec::new();
    for (base, local, staged) in combinations(&bodies) {
        for (version, changed_at) in versions.iter().zip(times) {
            for complete in [false, true] {
                let key = note(&entities.len().to_string());
                entities.push(StoredEntity {
                    key: key.clone(),
                    generation: u64::MAX - entities.len() as u64,
                    base: base.clone().map(|body| Base { body, version: version.clone(), complete }),
                    local: local.clone(),
                    staged: staged.clone().map(|body| RemoteEntity {
                        changed_at,
                        ..RemoteEntity::new(key, body, version.clone())
                    }),
                    reading: (u64::MAX / 2).wrapping_add(entities.len() as u64),
                });
            }
        }
    }
    assert!(or_none(&bodies[0]).len() < entities.len());
    let mut store = harness.create();
    commit(store.as_mut(), |tx| entities.iter().for_each(|entity| tx.put_entity(entity).unwrap()));
    // Again, each over its neighbour's content: nothing of the old one may shine through.
    let turned: Vec<StoredEntity> = (0..entities.len())
        .map(|at| {
            let (key, mut entity) = (entities[at].key.clone(), entities[(at + 1) % entities.len()].clone());
            entity.staged = entity.staged.map(|staged| RemoteEntity { key: key.clone(), ..staged });
            StoredEntity { key, ..entity }
        })
        .collect();
    look(store.as_mut(), |tx| {
        for entity in &entities {
            assert_eq!(tx.entity(&entity.key).unwrap().as_ref(), Some(entity));
        }
        assert_eq!(tx.entity(&EntityKey::new("note", "")).unwrap(), None);
        let mut all = tx.entities_after(None, None, usize::MAX).unwrap();
        all.entities.sort_by_key(|entity| entity.key.entity_id.parse::<usize>().unwrap());
        assert!(all.entities == entities && all.damaged.is_empty(), "a page has them as a single look has");
    });
    commit(store.as_mut(), |tx| turned.iter().for_each(|entity| tx.put_entity(entity).unwrap()));
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        for entity in &turned {
            assert_eq!(tx.entity(&entity.key).unwrap().as_ref(), Some(entity));
        }
    });
    let foreign = RemoteEntity::new(note("other"), Body::Deleted, None);
    let mixed = StoredEntity { staged: Some(foreign), ..entity(&note("own")) };
    let refused = look(store.as_mut(), |tx| tx.put_entity(&mixed));
    assert!(matches!(refused, Err(StoreError::Misuse(_))), "a staged state belongs to its record");
}

type Bodies = (Option<Body>, Option<Body>, Option<Body>);

fn combinations(bodies: &[Body]) -> Vec<Bodies> {
    let choices: Vec<Option<Body>> = std::iter::once(None).chain(bodies.iter().cloned().map(Some)).collect();
    let mut all = Vec::new();
    for base in &choices {
        for local in &choices {
            all.extend(choices.iter().map(|staged| (base.clone(), local.clone(), staged.clone())));
        }
    }
    all
}

pub(super) fn every_end_of_a_task_reads_back(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let mut entries = Vec::new();
    for (verdict, version) in
        Verdict::ALL.into_iter().zip([None, Some("".into()), Some("7".into())].into_iter().cycle())
    {
        let task = task(entries.len() as u64 + 1, &note("1"));
        let became = (entries.len() % 2 == 0).then_some(full_task(1).id);
        let entry = JournalEntry { verdict, version, payload: "{\u{0}}".into(), became, ..ended(&task, -3) };
        commit(store.as_mut(), |tx| {
            tx.put_task(&task).unwrap();
            tx.settle_task(&task, &entry).unwrap();
        });
        entries.push(entry);
    }
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        for entry in &entries {
            assert_eq!(tx.journal(entry.task_id).unwrap().as_ref(), Some(entry));
        }
    });
}

/// Each part of a conflict in each of its forms, one by one.
fn conflict_variants() -> Vec<ConflictRecord> {
    let full = conflict(&full_task(1), i64::MIN);
    let mut records = vec![full.clone()];
    let mut vary = |change: &dyn Fn(&mut ConflictRecord)| {
        let id = conflict_id(&full_task(1), records.len() as i64);
        let mut record = ConflictRecord { id, ..full.clone() };
        change(&mut record);
        records.push(record);
    };
    let whys = [
        Why::Fields,
        Why::EditedHereDeletedThere,
        Why::DeletedHereEditedThere,
        Why::Refused(String::new()),
        Why::RemoteUnknown,
        Why::TooManyRounds,
    ];
    for why in whys {
        vary(&|record| record.why = why.clone());
    }
    for body in [Body::Deleted, Body::Live(Fields::new()), Body::Live(odd_fields())] {
        let remote = |version| Some(RemoteEntity::new(full_task(1).entity, body.clone(), version));
        vary(&|record| record.remote = remote(None));
        vary(&|record| record.remote = remote(Some("".into())));
        vary(&|record| record.local = body.clone());
        vary(&|record| record.proposal = Some(body.clone()));
        vary(&|record| record.base = Some(Base { body: body.clone(), version: None, complete: false }));
        vary(&|record| {
            let (by, result) = (DecidedBy::App, body.clone());
            record.settled = Some(Settled { by, at: Timestamp(-1), result, sent_as: None, forked_to: None });
        });
    }
    vary(&|record| record.settled = None);
    vary(&|record| record.remote = None);
    vary(&|record| record.base = None);
    vary(&|record| record.proposal = None);
    vary(&|record| record.fields = vec![]);
    vary(&|record| record.found = Found::Push);
    vary(&|record| record.at = Timestamp(i64::MAX));
    vary(&|record| record.change = "{ \"n\": 1.0,\n\"\u{0}\": \"é\" }".into());
    vary(&|record| record.rule = String::new());
    vary(&|record| {
        // As deep as a value can be that was read from a backend; in the record it stands deeper still.
        let text = format!("{{\"deep\":{}{}}}", "[".repeat(126), "]".repeat(126));
        let body = Body::Live(Fields::parse(&text).expect("as deep as may be"));
        record.remote = Some(RemoteEntity::new(full_task(1).entity, body, None));
    });
    vary(&|record| {
        record.entity = EntityKey::new("", "e\u{301}\u{0}");
        record.remote = None;
    });
    records
}

pub(super) fn every_part_of_a_conflict_reads_back(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let mut records = conflict_variants();
    commit(store.as_mut(), |tx| records.iter().for_each(|record| tx.put_conflict(record).unwrap()));
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        for record in &records {
            assert_eq!(tx.conflict(record.id).unwrap().as_ref(), Some(record));
        }
        assert_eq!(tx.conflict(conflict_id(&full_task(2), 0)).unwrap(), None);
        records.reverse();
        assert_eq!(kept(tx), records);
        let result = |record: &ConflictRecord| record.settled.as_ref().map(|end| end.result.clone());
        let read = tx.conflict(conflict(&full_task(1), i64::MIN).id).unwrap().and_then(|it| result(&it));
        let read = read.as_ref().and_then(Body::fields).map(Fields::to_json);
        assert_eq!(read, Some(odd_fields().to_json()), "a number is also written as it was");
    });
}

fn kept(rows: &dyn StoreRead) -> Vec<ConflictRecord> {
    rows.conflicts(&ConflictQuery::default(), 99).unwrap().conflicts
}

pub(super) fn a_conflict_that_is_put_again_replaces_itself_in_its_place(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let [first, second, third] = [1, 2, 3].map(|at| open_conflict(&task(1, &note("1")), at));
    commit(store.as_mut(), |tx| [&first, &second, &third].map(|record| tx.put_conflict(record).unwrap()));
    // Other parts, another task, another moment: it is still the same conflict.
    let settled = ConflictRecord {
        at: Timestamp(99),
        task_id: full_task(1).id,
        rule: "ask".into(),
        ..conflict(&task(1, &note("1")), 2)
    };
    commit(store.as_mut(), |tx| {
        tx.put_conflict(&settled).unwrap();
        assert_eq!(kept(tx), [third.clone(), settled.clone(), first.clone()]);
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        assert_eq!(kept(tx), [third.clone(), settled.clone(), first.clone()]);
        assert_eq!(tx.conflict(second.id).unwrap().as_ref(), Some(&settled));
        let open = ConflictQuery { open_only: true, ..ConflictQuery::default() };
        assert_eq!(tx.conflicts(&open, 9).unwrap().conflicts, [third.clone(), first.clone()]);
    });
    commit(store.as_mut(), |tx| {
        tx.put_conflict(&second).unwrap();
        assert_eq!(kept(tx), [third.clone(), second.clone(), first.clone()], "and it may wait again");
        assert_eq!(tx.prune_conflicts(Timestamp(i64::MAX), 9).unwrap(), 0);
    });
}

pub(super) fn a_conflict_stays_with_its_record(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let record = conflict(&task(1, &note("own")), 1);
    commit(store.as_mut(), |tx| tx.put_conflict(&record).unwrap());
    let foreign = Some(RemoteEntity::new(note("other"), Body::Deleted, None));
    let moved = ConflictRecord { entity: note("other"), remote: None, ..record.clone() };
    commit(store.as_mut(), |tx| {
        for (wrong, what) in [
            (
                ConflictRecord { remote: foreign.clone(), ..record.clone() },
                "a remote state of another record",
            ),
            (ConflictRecord { remote: foreign.clone(), ..moved.clone() }, "a move with its remote state"),
            (moved.clone(), "a move"),
            (
                ConflictRecord { remote: foreign.clone(), ..conflict(&task(2, &note("new")), 2) },
                "a new one with a remote state of another record",
            ),
        ] {
            let refused = tx.put_conflict(&wrong);
            assert!(matches!(refused, Err(StoreError::Misuse(_))), "{what}: {refused:?}");
        }
    });
    look(store.as_mut(), |tx| {
        assert_eq!(kept(tx), std::slice::from_ref(&record));
        for (id, expected) in [("own", vec![record.clone()]), ("other", vec![])] {
            let which = ConflictQuery { entity: Some(note(id)), ..ConflictQuery::default() };
            assert_eq!(tx.conflicts(&which, 9).unwrap().conflicts, expected, "{id}");
        }
    });
}

pub(super) fn only_settled_conflicts_that_are_older_are_pruned(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let of = task(1, &note("1"));
    let moments = |tx: &dyn StoreRead| kept(tx).iter().map(|record| record.at.0).collect::<Vec<_>>();
    // Kept in no order of time, and open ones among them.
    commit(store.as_mut(), |tx| {
        for at in [40, 10, 30, 20, 50] {
            tx.put_conflict(&conflict(&of, at)).unwrap();
            tx.put_conflict(&open_conflict(&of, at + 1)).unwrap();
        }
    });
    commit(store.as_mut(), |tx| {
        assert_eq!(tx.prune_conflicts(Timestamp(10), 9).unwrap(), 0, "at the boundary is not older");
        assert_eq!(tx.prune_conflicts(Timestamp(40), 0).unwrap(), 0);
        assert_eq!(tx.prune_conflicts(Timestamp(40), 2).unwrap(), 2);
        assert_eq!(tx.prune_conflicts(Timestamp(40), 2).unwrap(), 1);
        assert_eq!(tx.prune_conflicts(Timestamp(40), usize::MAX).unwrap(), 0);
        assert_eq!(moments(tx), [51, 50, 21, 31, 11, 41, 40]);
    });
    let mut store = harness.reopen(store);
    commit(store.as_mut(), |tx| {
        assert_eq!(moments(tx), [51, 50, 21, 31, 11, 41, 40]);
        assert_eq!(tx.conflict(conflict_id(&of, 10)).unwrap(), None);
        let which = ConflictQuery { entity: Some(note("1")), ..ConflictQuery::default() };
        assert_eq!(tx.conflicts(&which, 99).unwrap().conflicts.len(), 7);
        assert_eq!(tx.prune_conflicts(Timestamp(i64::MAX), usize::MAX).unwrap(), 2);
        assert_eq!(moments(tx), [51, 21, 31, 11, 41], "what waits stays, however old");
        tx.put_conflict(&conflict(&of, 5)).unwrap();
        assert_eq!(moments(tx), [5, 51, 21, 31, 11, 41]);
    });
}

pub(super) fn the_pull_state_reads_back_the_newest(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let cursor = |text: &str| PullState { cursor: Some(text.into()), ..PullState::default() };
    let swept_to = Some(EntityKey::new("", "\u{0}'"));
    let states = [
        PullState::default(),
        pull_state(1),
        cursor(""),
        cursor("e\u{301}\n"),
        PullState { reading: u32::MAX, sweep: true, swept_to, ..PullState::default() },
    ];
    for state in &states {
        commit(store.as_mut(), |tx| tx.put_pull_state(state).unwrap());
        assert_eq!(look(store.as_mut(), |tx| tx.pull_state().unwrap()).as_ref(), Some(state));
    }
    let mut store = harness.reopen(store);
    assert_eq!(look(store.as_mut(), |tx| tx.pull_state().unwrap()).as_ref(), states.last());
}

pub(super) fn only_the_newest_quarantined_records_are_remembered(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let newest = |tx: &dyn StoreRead, limit| {
        let records = tx.quarantined(limit).unwrap();
        assert!(records.iter().all(|record| *record == quarantined(record.at.0)));
        records.iter().map(|record| record.at.0).collect::<Vec<_>>()
    };
    // The last first, whatever the clock said.
    commit(store.as_mut(), |tx| {
        [5, i64::MAX, i64::MIN, 5].map(|at| tx.put_quarantined(&quarantined(at)).unwrap())
    });
    look(store.as_mut(), |tx| {
        assert_eq!(newest(tx, 99), [5, i64::MIN, i64::MAX, 5]);
        assert_eq!(newest(tx, 1), [5]);
        assert_eq!(newest(tx, 0), [0; 0]);
    });
    let many = QUARANTINE_MAX as i64;
    for half in [0..many / 2, many / 2..many + 3] {
        commit(store.as_mut(), |tx| half.for_each(|at| tx.put_quarantined(&quarantined(at)).unwrap()));
        store = harness.reopen(store);
    }
    look(store.as_mut(), |tx| {
        assert_eq!(newest(tx, usize::MAX), (3..many + 3).rev().collect::<Vec<_>>());
        assert_eq!(newest(tx, 2), [many + 2, many + 1]);
    });
}

pub(super) fn replica_and_lease_read_back_the_newest(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let last =
        Replica { client_epoch: u64::MAX, server_id: None, clock: Hlc::default(), ..replica(u64::MAX) };
    let ahead = |offset| Replica { server_offset_ms: offset, ..replica(2) };
    for replica in [replica(1), ahead(None), ahead(Some(i64::MAX)), last.clone()] {
        commit(store.as_mut(), |tx| tx.put_replica(&replica).unwrap());
        assert_eq!(look(store.as_mut(), |tx| tx.replica().unwrap()), Some(replica));
    }
    for fence in [1, 2, u64::MAX] {
        commit(store.as_mut(), |tx| tx.put_lease(&lease(fence)).unwrap());
    }
    let mut store = harness.reopen(store);
    assert_eq!(look(store.as_mut(), |tx| tx.replica().unwrap()), Some(last));
    assert_eq!(look(store.as_mut(), |tx| tx.lease().unwrap()), Some(lease(u64::MAX)));
}

pub(super) fn a_large_task_reads_back(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let mut large = full_task(1);
    large.intent.set("text", "0123456789abcdef".repeat(1 << 18));
    commit(store.as_mut(), |tx| tx.put_task(&large).unwrap());
    let mut store = harness.reopen(store);
    assert!(look(store.as_mut(), |tx| tx.task(large.id).unwrap()) == Some(large), "4 MiB of text");
}

pub(super) fn a_task_that_is_put_again_replaces_itself(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let first = task(1, &note("1"));
    commit(store.as_mut(), |tx| tx.put_task(&first).unwrap());
    let mut steps = vec![
        Task { state: TaskState::InFlight { fence: Fence(1) }, claim_at: None, ..first.clone() },
        Task {
            state: TaskState::Unknown { retry_at: Timestamp(9) },
            claim_at: Some(Timestamp(9)),
            ..first.clone()
        },
        Task { lane: Some("lane".into()), priority: 5, ..first.clone() },
        Task { lane: None, claim_at: None, ..first.clone() },
        Task { entity: note("moved"), ..first.clone() },
        Task { seq: 7, ..first.clone() },
        Task { id: first.id, entity: first.entity.clone(), ..full_task(8) },
        first.clone(),
    ];
    for step in steps.drain(..) {
        commit(store.as_mut(), |tx| tx.put_task(&step).unwrap());
        look(store.as_mut(), |tx| {
            assert_eq!(tx.tasks_after(0, 9).unwrap().tasks, std::slice::from_ref(&step));
            let mut counts = Counts::default();
            *counts.of_mut(step.state.kind()) = 1;
            assert_eq!(tx.counts().unwrap(), counts);
            for key in [note("1"), note("moved")] {
                let found = tx.last_of_entity(&key).unwrap();
                assert_eq!(found, (key == step.entity).then(|| step.clone()));
            }
            for lane in ["lane", "lane '\"\u{0}é"] {
                let expected = (step.lane.as_deref() == Some(lane)).then(|| step.clone());
                assert_eq!(tx.next_of_lane(lane, 0).unwrap(), expected);
            }
            let due = step.claim_at.is_some_and(|at| at <= Timestamp(100));
            assert_eq!(tx.claimable(Timestamp(100), 9).unwrap().tasks.len(), usize::from(due));
            for state in StateKind::ALL {
                let there = usize::from(state == step.state.kind());
                assert_eq!(tx.tasks_in_state(state, 0, 9).unwrap().tasks.len(), there);
            }
        });
    }
}

pub(super) fn a_position_belongs_to_one_task(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let (one, two) = (task(1, &note("1")), task(2, &note("2")));
    commit(store.as_mut(), |tx| [&one, &two].map(|task| tx.put_task(task).unwrap()));
    commit(store.as_mut(), |tx| {
        for seq in [0, 1, u64::MAX] {
            let refused = tx.put_task(&Task { seq, ..two.clone() });
            assert!(matches!(refused, Err(StoreError::Misuse(_))), "position {seq}: {refused:?}");
        }
    });
    look(store.as_mut(), |tx| assert_eq!(tx.tasks_after(0, 9).unwrap().tasks, [one, two]));
}

pub(super) fn settling_takes_a_task_out_of_everything(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let one = Task { lane: Some("lane".into()), ..task(1, &note("1")) };
    let waiting = Task { claim_at: Some(Timestamp(5)), ..task(2, &note("2")) };
    commit(store.as_mut(), |tx| [&one, &waiting].map(|task| tx.put_task(task).unwrap()));
    commit(store.as_mut(), |tx| {
        // The caller's copy may already carry what the queue does not know yet.
        let late = Task { state: TaskState::Conflict, claim_at: None, ..one.clone() };
        tx.settle_task(&late, &ended(&one, 3)).unwrap();
        tx.settle_task(&waiting, &ended(&waiting, 4)).unwrap();
    });
    let mut store = harness.reopen(store);
    look(store.as_mut(), |tx| {
        assert_eq!(tx.task(one.id).unwrap(), None);
        assert_eq!(tx.tasks_after(0, 9).unwrap(), Page::default());
        assert_eq!(tx.last_of_entity(&note("1")).unwrap(), None);
        assert_eq!(tx.next_of_entity(&note("1"), 0).unwrap(), None);
        assert_eq!(tx.next_of_lane("lane", 0).unwrap(), None);
        assert_eq!(tx.claimable(Timestamp(9), 9).unwrap(), Page::default());
        assert_eq!(tx.next_claim(Timestamp(0)).unwrap(), None);
        assert_eq!(tx.tasks_in_state(StateKind::Pending, 0, 9).unwrap(), Page::default());
        assert_eq!(tx.oldest().unwrap(), None);
        assert_eq!(tx.counts().unwrap(), Counts::default());
        assert_eq!(tx.journal(one.id).unwrap(), Some(ended(&one, 3)));
        assert_eq!(tx.journal(waiting.id).unwrap(), Some(ended(&waiting, 4)));
    });
}

pub(super) fn only_a_task_of_the_queue_can_be_settled(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let (one, two) = (task(1, &note("1")), task(2, &note("2")));
    commit(store.as_mut(), |tx| tx.put_task(&one).unwrap());
    commit(store.as_mut(), |tx| {
        for (task, entry) in [(&two, ended(&two, 1)), (&one, ended(&two, 1))] {
            let refused = tx.settle_task(task, &entry);
            assert!(matches!(refused, Err(StoreError::Misuse(_))), "{refused:?}");
        }
    });
    look(store.as_mut(), |tx| {
        assert_eq!(tx.tasks_after(0, 9).unwrap().tasks, [one]);
        assert_eq!(tx.journal(two.id).unwrap(), None);
    });
}

pub(super) fn the_journal_loses_only_what_is_older(harness: &dyn StoreUnderTest) {
    let mut store = harness.create();
    let ids: Vec<TaskId> = (1..=6).map(|n| TaskId::derive(client(), &note("1"), n)).collect();
    // Entered in no order of time: clocks jump.
    for (seq, at) in (1..).zip([40, 10, 30, 20, 50, 30]) {
        commit(store.as_mut(), |tx| {
            tx.put_task(&task(seq, &note("1"))).unwrap();
            tx.settle_task(&task(seq, &note("1")), &ended(&task(seq, &note("1")), at)).unwrap();
        });
    }
    commit(store.as_mut(), |tx| {
        assert_eq!(tx.prune_journal(Timestamp(10), 9).unwrap(), 0, "at the boundary is not older");
        assert_eq!(tx.prune_journal(Timestamp(40), 0).unwrap(), 0);
        assert_eq!(tx.prune_journal(Timestamp(40), 3).unwrap(), 3);
        assert_eq!(tx.prune_journal(Timestamp(40), 3).unwrap(), 1);
        assert_eq!(tx.prune_journal(Timestamp(40), 3).unwrap(), 0);
    });
    let mut store = harness.reopen(store);
    let left: Vec<bool> =
        look(store.as_mut(), |tx| ids.iter().map(|id| tx.journal(*id).unwrap().is_some()).collect());
    assert_eq!(left, [true, false, false, false, true, false]);
}
