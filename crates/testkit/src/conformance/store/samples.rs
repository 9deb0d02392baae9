//! Rows to fill a store with: small ones to build on, and ones in which every part is set.
//!
//! They need not make sense to the machine; a store must keep them all the same.

use landfall_core::change::{Intent, Operation};
use landfall_core::conflict::{ConflictRecord, DecidedBy, Found, Settled, Why};
use landfall_core::entity::{Base, Body, RemoteEntity, StoredEntity};
use landfall_core::failure::FailureKind;
use landfall_core::id::{ClientId, ConflictId, EntityKey, Fence, Fingerprint, IdempotencyKey, TaskId};
use landfall_core::merge::rule::FieldRule;
use landfall_core::merge::{BaseValue, Chosen, FieldConflict, Misfit, Path, Step};
use landfall_core::store::{Lease, PullState, Quarantined, Replica};
use landfall_core::task::{
    FailureNote, Frozen, History, JournalEntry, Orphaned, Standing, Task, TaskState, Terms, Verdict,
};
use landfall_core::time::{Hlc, Timestamp};
use landfall_core::value::{Fields, Value};
use std::collections::BTreeSet;

/// The replica whose rows these are.
///
/// # Panics
/// Never.
pub fn client() -> ClientId {
    ClientId::parse("7f0b8a9e-3c2d-4e5f-8a1b-0c9d8e7f6a5b").expect("a well-formed id")
}

/// A note.
pub fn note(id: &str) -> EntityKey {
    EntityKey::new("note", id)
}

/// A task that waits at `seq` and may be claimed at once; its generation is its position.
pub fn task(seq: u64, entity: &EntityKey) -> Task {
    let mut intent = Intent::new(Operation::Update);
    intent.set("title", "a title");
    Task {
        id: TaskId::derive(client(), entity, seq),
        seq,
        entity: entity.clone(),
        generation: seq,
        intent,
        schema: 1,
        lane: None,
        priority: 0,
        not_before: None,
        changed_at: Hlc { wall_ms: 1_763_870_000_000, counter: 0 },
        enqueued_at: Timestamp(1_763_870_000_000),
        state: TaskState::Pending { retry_at: None },
        frozen: None,
        claim_at: Some(Timestamp::ALWAYS),
        attempts: 0,
        conflict_rounds: 0,
        history: History::default(),
        terms: Terms::default(),
        standing: Standing::default(),
    }
}

/// A task of which every part is set.
pub fn full_task(seq: u64) -> Task {
    let payload = r#"{"fields":{"n":1.0},"key":"…"}"#;
    Task {
        id: TaskId::derive(client(), &note("full"), seq),
        generation: u64::MAX,
        intent: Intent {
            operation: Operation::Action,
            action: Some("sub\"mit\u{0}é".into()),
            fields: odd_fields(),
            unset: odd_names(),
        },
        schema: u32::MAX,
        lane: Some("lane '\"\u{0}é".into()),
        priority: i32::MIN,
        not_before: Some(Timestamp(i64::MIN)),
        changed_at: Hlc { wall_ms: i64::MAX, counter: 99_999 },
        enqueued_at: Timestamp(-1),
        state: TaskState::Unknown { retry_at: Timestamp(i64::MAX) },
        frozen: Some(Frozen {
            key: IdempotencyKey([0xa5; 16]),
            payload: payload.into(),
            fingerprint: Fingerprint::of(payload.as_bytes()),
            base_version: Some("W/\"7\"".into()),
            sends: u32::MAX,
            open_sends: u32::MAX,
        }),
        claim_at: Some(Timestamp(i64::MAX)),
        attempts: u32::MAX,
        conflict_rounds: u32::MAX,
        history: [FailureNote { code: None, answer: None, ..failure_note() }, failure_note()]
            .into_iter()
            .collect(),
        terms: full_terms(),
        standing: Standing { passed_over: false, held: true, cancelling: true },
        ..task(seq, &note("full"))
    }
}

/// Terms of which every part is set.
pub fn full_terms() -> Terms {
    Terms {
        expires_at: Some(Timestamp(i64::MIN)),
        tags: odd_names(),
        unmetered_only: true,
        at_most_once: true,
        group: Some("group '\"\u{0}é".into()),
        waits_for: [1, 2].map(|n| TaskId::derive(client(), &note("parent"), n)).into(),
        orphaned: Orphaned::Detach,
    }
}

/// What a failed attempt met.
pub fn failure_note() -> FailureNote {
    FailureNote {
        kind: FailureKind::Transient,
        code: Some("overloaded".into()),
        message: "503: \"später\"\n\u{0}".into(),
        answer: Some("{\"é\":\u{0}".into()),
        at: Timestamp(12),
    }
}

/// Values that are easily changed by storing them.
pub fn odd_fields() -> Fields {
    let nested =
        Fields::from([("inner", Value::List(vec![Value::Null, Value::Bool(false), Fields::new().into()]))]);
    Fields::from([
        ("", Value::from("")),
        ("null", Value::Null),
        ("max", Value::from(u64::MAX)),
        ("min", Value::from(i64::MIN)),
        ("one", Value::from(1.0)),
        ("tiny", Value::from(5e-324)),
        ("zero byte", Value::from("a\u{0}b")),
        ("é, not e\u{301}", Value::from("🦀 \u{202e} '\";--")),
        ("nested", Value::from(nested)),
    ])
}

fn odd_names() -> BTreeSet<String> {
    ["", "a.b", "$", "\u{0}", "e\u{301}"].into_iter().map(str::to_owned).collect()
}

/// How `task` ended.
pub fn ended(task: &Task, at: i64) -> JournalEntry {
    JournalEntry {
        task_id: task.id,
        entity: task.entity.clone(),
        generation: task.generation,
        verdict: Verdict::Applied,
        version: Some("8".into()),
        at: Timestamp(at),
        payload: r#"{"fields":{"title":"a title"}}"#.into(),
        became: None,
    }
}

/// A record of which everything is known.
pub fn entity(key: &EntityKey) -> StoredEntity {
    StoredEntity {
        key: key.clone(),
        generation: 3,
        base: Some(Base { body: Body::Live(odd_fields()), version: Some("7".into()), complete: true }),
        local: Some(Body::Live(Fields::from([("title", "local")]))),
        staged: Some(RemoteEntity {
            changed_at: Some(Hlc { wall_ms: 1_763_870_000_000, counter: 7 }),
            ..RemoteEntity::new(key.clone(), Body::Deleted, None)
        }),
        reading: 4,
    }
}

/// The name of the conflict that `task` met at `at`.
pub fn conflict_id(task: &Task, at: i64) -> ConflictId {
    let number = u64::from_ne_bytes(at.to_ne_bytes());
    ConflictId(TaskId::derive(client(), &EntityKey::new("conflict", task.id.to_string()), number).0)
}

/// A conflict of `task` of which every part is set, and which waits for nothing.
pub fn conflict(task: &Task, at: i64) -> ConflictRecord {
    let live = |title: &str| Body::Live(Fields::from([("title", title)]));
    ConflictRecord {
        id: conflict_id(task, at),
        task_id: task.id,
        entity: task.entity.clone(),
        at: Timestamp(at),
        found: Found::Pull,
        why: Why::Refused("too \"long\"\u{0}".into()),
        base: Some(Base { body: Body::Live(odd_fields()), version: Some("7".into()), complete: true }),
        local: live("ours"),
        change: r#"{"title":"ours"}"#.into(),
        remote: Some(RemoteEntity {
            changed_at: Some(Hlc { wall_ms: 1_763_870_000_000, counter: 99_999 }),
            ..RemoteEntity::new(task.entity.clone(), live("theirs"), Some("9".into()))
        }),
        rule: "field_merge".into(),
        fields: vec![field_conflict()],
        proposal: Some(live("both")),
        settled: Some(Settled {
            by: DecidedBy::Rule,
            at: Timestamp(at),
            result: Body::Live(odd_fields()),
            sent_as: Some(task.id),
            forked_to: Some(note("fork")),
        }),
    }
}

/// A conflict of `task` that waits for a decision.
pub fn open_conflict(task: &Task, at: i64) -> ConflictRecord {
    ConflictRecord { settled: None, ..conflict(task, at) }
}

/// A value that both sides changed, with null and absent apart.
fn field_conflict() -> FieldConflict {
    FieldConflict {
        path: Path(vec![Step::Field("a.b".into()), Step::Item("id".into(), 7.into())]),
        base: BaseValue::Present(Value::Null),
        local: Some(Value::Null),
        remote: None,
        rule: FieldRule::KeyedList("id".into()),
        misfit: Some(Misfit::Removed),
        group: Some("amount+currency".into()),
        chosen: Chosen::Undecided,
        result: Some(odd_fields().into()),
    }
}

/// How far the change feed was read, with a number to tell it apart.
pub fn pull_state(reading: u32) -> PullState {
    let (cursor, swept_to) = (Some("\"17\"\u{0}".into()), Some(note("swept")));
    let types = ["note".to_owned(), "é".to_owned()].into();
    PullState { cursor, reading, asks: 7, sweep: true, again: true, swept_to, types }
}

/// A remote record that could not be taken in.
pub fn quarantined(at: i64) -> Quarantined {
    Quarantined { at: Timestamp(at), reason: format!("note \"é\": number {at} is\u{0} odd") }
}

/// Facts about a replica, with a number to tell them apart.
pub fn replica(opens: u64) -> Replica {
    Replica {
        client_id: client(),
        client_epoch: 1,
        opens,
        server_id: Some("the \"server\"".into()),
        clock: Hlc { wall_ms: 1_763_870_000_000, counter: 7 },
        server_offset_ms: Some(i64::MIN),
        calm: None,
        doubted_at: None,
    }
}

/// A lease.
pub fn lease(fence: u64) -> Lease {
    Lease { holder: "process 12 on a phone".into(), fence: Fence(fence), expires_at: Timestamp(99) }
}
