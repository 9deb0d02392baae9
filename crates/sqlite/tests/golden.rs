//! The oldest rows are still read: a store of each schema, written down as SQL with the checksums it carried.
//!
//! The file of an older schema is never made anew, and is read through the migrations. That of the newest is what is
//! written today; it may be made anew until a release has it (`LANDFALL_WRITE_GOLDEN` names the path to write it to).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::change::{Intent, Operation};
use landfall_core::conflict::{ConflictRecord, DecidedBy, Found, Settled, Why};
use landfall_core::entity::{Base, Body, RemoteEntity, StoredEntity};
use landfall_core::failure::FailureKind;
use landfall_core::id::{ConflictId, EntityKey, Fence, Fingerprint, IdempotencyKey, TaskId};
use landfall_core::merge::rule::FieldRule;
use landfall_core::merge::{BaseValue, Chosen, FieldConflict, Misfit, Path, Step};
use landfall_core::store::{
    ConflictQuery, Controls, Counts, Lease, PullState, Quarantined, Replica, Store as _, StoreRead,
};
use landfall_core::task::{
    FailureNote, Frozen, History, JournalEntry, Orphaned, Standing, Task, TaskState, Terms, Verdict,
};
use landfall_core::time::{Hlc, Timestamp};
use landfall_core::value::{Fields, Value};
use landfall_sqlite::SqliteStore;
use landfall_testkit::conformance::store::samples::client;
use rusqlite::Connection;

fn key() -> EntityKey {
    EntityKey::new("note", "é 'n' 1")
}

fn fields() -> Fields {
    Fields::from([
        ("max", Value::from(u64::MAX)),
        ("one", Value::from(1.0)),
        ("text", Value::from("ü \"\\ 🦀")),
        ("nothing", Value::Null),
    ])
}

fn sent() -> Task {
    let payload = r#"{"fields":{"n":1.0}}"#;
    Task {
        id: TaskId::derive(client(), &key(), 1),
        seq: 3,
        entity: key(),
        generation: 1,
        intent: Intent {
            operation: Operation::Upsert,
            action: None,
            fields: fields(),
            unset: ["gone".to_owned(), "too".to_owned()].into(),
        },
        schema: 2,
        lane: Some("lane".into()),
        priority: -4,
        not_before: Some(Timestamp(1_763_870_000_001)),
        changed_at: Hlc { wall_ms: 1_763_870_000_002, counter: 7 },
        enqueued_at: Timestamp(1_763_870_000_003),
        state: TaskState::Unknown { retry_at: Timestamp(1_763_870_000_004) },
        frozen: Some(Frozen {
            key: IdempotencyKey([0xa5; 16]),
            payload: payload.into(),
            fingerprint: Fingerprint::of(payload.as_bytes()),
            base_version: Some("7".into()),
            sends: 3,
            open_sends: 2,
        }),
        claim_at: Some(Timestamp(1_763_870_000_005)),
        attempts: 5,
        conflict_rounds: 1,
        history: [failure()].into_iter().collect(),
        terms: Terms::default(),
        standing: Standing::default(),
    }
}

fn failure() -> FailureNote {
    FailureNote {
        kind: FailureKind::Transient,
        code: Some("overloaded".into()),
        message: "503".into(),
        answer: None,
        at: Timestamp(1_763_870_000_006),
    }
}

fn plain(seq: u64, state: TaskState, claim_at: Option<Timestamp>) -> Task {
    Task {
        id: TaskId::derive(client(), &key(), seq),
        seq,
        generation: seq,
        intent: Intent::new(Operation::Delete),
        lane: None,
        not_before: None,
        state,
        frozen: None,
        claim_at,
        history: History::default(),
        ..sent()
    }
}

fn tasks() -> Vec<Task> {
    vec![
        sent(),
        plain(4, TaskState::Pending { retry_at: None }, Some(Timestamp::ALWAYS)),
        plain(5, TaskState::InFlight { fence: Fence(u64::MAX) }, None),
        plain(6, TaskState::Conflict, None),
        plain(7, TaskState::Dead { why: FailureKind::Rejected }, None),
    ]
}

/// What schema 3 can say of a task.
fn command() -> Task {
    Task {
        intent: Intent { action: Some("submit".into()), ..Intent::new(Operation::Action) },
        history: [FailureNote { answer: Some("{}".into()), ..failure() }, failure()].into_iter().collect(),
        terms: Terms {
            expires_at: Some(Timestamp(1_763_870_000_016)),
            tags: ["a".to_owned(), "é".to_owned()].into(),
            unmetered_only: true,
            at_most_once: true,
            group: Some("group".into()),
            waits_for: [sent().id].into(),
            orphaned: Orphaned::Detach,
        },
        standing: Standing { passed_over: true, held: true, cancelling: true },
        ..plain(8, TaskState::Pending { retry_at: None }, None)
    }
}

fn controls() -> Controls {
    Controls { all: true, types: ["note".to_owned()].into(), lanes: ["lane".to_owned()].into() }
}

fn entity() -> StoredEntity {
    StoredEntity {
        key: key(),
        generation: 7,
        base: Some(Base { body: Body::Live(fields()), version: Some("7".into()), complete: true }),
        local: Some(Body::Live(fields())),
        staged: Some(RemoteEntity {
            changed_at: Some(Hlc { wall_ms: 1_763_870_000_011, counter: 3 }),
            ..RemoteEntity::new(key(), Body::Deleted, Some("8".into()))
        }),
        reading: 2,
    }
}

/// As schema 1 could keep it.
fn entity_of_1() -> StoredEntity {
    let staged = Some(RemoteEntity::new(key(), Body::Deleted, Some("8".into())));
    StoredEntity { staged, reading: 0, ..entity() }
}

fn entry() -> JournalEntry {
    JournalEntry {
        task_id: TaskId::derive(client(), &key(), 2),
        entity: key(),
        generation: 2,
        verdict: Verdict::Duplicate,
        version: Some("6".into()),
        at: Timestamp(1_763_870_000_007),
        payload: "{}".into(),
        became: None,
    }
}

fn settled() -> ConflictRecord {
    let field = FieldConflict {
        path: Path(vec![
            Step::Field("lines".into()),
            Step::Item("id".into(), 7.into()),
            Step::Field("n".into()),
        ]),
        base: BaseValue::Present(Value::Null),
        local: Some(Value::Null),
        remote: None,
        rule: FieldRule::KeyedList("id".into()),
        misfit: Some(Misfit::Removed),
        group: Some("a+b".into()),
        chosen: Chosen::Remote,
        result: Some(1.0.into()),
    };
    ConflictRecord {
        id: ConflictId(TaskId::derive(client(), &key(), 100).0),
        task_id: sent().id,
        entity: key(),
        at: Timestamp(1_763_870_000_012),
        found: Found::Push,
        why: Why::Refused("too long".into()),
        base: Some(Base { body: Body::Live(fields()), version: Some("7".into()), complete: false }),
        local: Body::Live(fields()),
        change: r#"{"fields":{"n":1.0}}"#.into(),
        remote: Some(RemoteEntity {
            changed_at: Some(Hlc { wall_ms: 1_763_870_000_013, counter: 4 }),
            ..RemoteEntity::new(key(), Body::Live(fields()), Some("9".into()))
        }),
        rule: "last_write_wins".into(),
        fields: vec![field],
        proposal: Some(Body::Live(fields())),
        settled: Some(Settled {
            by: DecidedBy::App,
            at: Timestamp(1_763_870_000_014),
            result: Body::Deleted,
            sent_as: Some(TaskId::derive(client(), &key(), 8)),
            forked_to: Some(EntityKey::new("note", "fork")),
        }),
    }
}

fn open() -> ConflictRecord {
    ConflictRecord {
        id: ConflictId(TaskId::derive(client(), &key(), 101).0),
        found: Found::Pull,
        why: Why::EditedHereDeletedThere,
        base: None,
        remote: None,
        fields: vec![],
        proposal: None,
        settled: None,
        ..settled()
    }
}

/// What schema 1 kept, and what can be said of it now. Its task is in the queue, but waits for no decision.
fn conflict_of_1(id: ConflictId) -> ConflictRecord {
    let at = Timestamp(1_763_870_000_008);
    let remote = Body::Live(fields());
    ConflictRecord {
        id,
        task_id: sent().id,
        entity: key(),
        at,
        found: Found::Push,
        why: Why::Fields,
        base: Some(Base { body: Body::Live(Fields::new()), version: None, complete: false }),
        local: Body::Live(Fields::new()),
        change: r#"{"a":1}"#.into(),
        remote: Some(RemoteEntity::new(key(), remote.clone(), None)),
        rule: "server wins".into(),
        fields: vec![],
        proposal: Some(remote.clone()),
        settled: Some(Settled { by: DecidedBy::Rule, at, result: remote, sent_as: None, forked_to: None }),
    }
}

fn pull_state() -> PullState {
    let swept_to = Some(EntityKey::new("note", "n"));
    let types = ["note".to_owned()].into();
    PullState { cursor: Some("17".into()), reading: 2, asks: 0, sweep: true, again: false, swept_to, types }
}

fn quarantined() -> Quarantined {
    Quarantined { at: Timestamp(1_763_870_000_015), reason: "note é: no object".into() }
}

fn replica() -> Replica {
    Replica {
        client_id: client(),
        client_epoch: 9,
        opens: 10,
        server_id: Some("server".into()),
        clock: Hlc { wall_ms: 1_763_870_000_009, counter: 1 },
        server_offset_ms: Some(-5),
        calm: None,
        doubted_at: None,
    }
}

fn lease() -> Lease {
    Lease { holder: "process 12".into(), fence: Fence(4), expires_at: Timestamp(1_763_870_000_010) }
}

/// What is the same in every schema.
fn assert_common(tx: &dyn StoreRead) {
    assert_tasks(tx, &tasks());
    let counts = Counts { pending: 1, in_flight: 1, unknown: 1, conflict: 1, dead: 1 };
    assert_eq!(tx.counts().unwrap(), counts);
    assert_eq!(tx.journal(entry().task_id).unwrap(), Some(entry()));
    assert_eq!(tx.journal_entries(None, 9).unwrap().entries, [entry()]);
    assert_eq!(tx.lease().unwrap(), Some(lease()));
    assert_eq!(tx.claimable(Timestamp(1), 9).unwrap().tasks, tasks()[1..2]);
    assert_eq!(tx.waiting_after(Timestamp(1), 9).unwrap().tasks, tasks()[..1]);
    assert_eq!(tx.next_of_lane("lane", 0).unwrap(), Some(sent()));
    assert_eq!(tx.next_in_line(&key(), 3).unwrap().as_ref(), tasks().get(1));
}

fn assert_tasks(tx: &dyn StoreRead, tasks: &[Task]) {
    let page = tx.tasks_after(0, 99).unwrap();
    assert_eq!(page.damaged, []);
    assert_eq!(page.tasks, tasks);
    for task in tasks {
        assert_eq!(tx.task(task.id).unwrap().as_ref(), Some(task));
    }
}

fn conflicts(tx: &dyn StoreRead) -> Vec<ConflictRecord> {
    let page = tx.conflicts(&ConflictQuery::default(), 99).unwrap();
    assert_eq!(page.damaged, [""; 0]);
    page.conflicts
}

/// Opens what a file of golden SQL says, twice: the second time without a migration.
fn read_twice(golden: &str, check: impl Fn(&dyn StoreRead)) {
    let folder = support::Folder::new();
    let path = folder.file("x.db");
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch(golden).unwrap();
    drop(raw);
    for _ in 0..2 {
        // The file is not the one it was written as: that is another test's subject.
        let mut store = SqliteStore::options().detect_copies(false).open(&path).unwrap();
        check(store.begin().unwrap().as_ref());
    }
    let raw = Connection::open(&path).unwrap();
    assert_eq!(support::number(&raw, "PRAGMA user_version"), 3);
    let check = |pragma: &str| raw.query_one(pragma, (), |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(check("PRAGMA integrity_check"), "ok");
    // However it came there, the schema is the same.
    let new = folder.file("new.db");
    drop(SqliteStore::open(&new).unwrap());
    assert_eq!(schema(&raw), schema(&Connection::open(&new).unwrap()));
}

#[test]
fn a_store_of_schema_1_is_migrated_and_keeps_everything() {
    read_twice(include_str!("golden/format-1.sql"), |tx| {
        assert_common(tx);
        assert_eq!(tx.entity(&key()).unwrap(), Some(entity_of_1()));
        assert_eq!(tx.entities_after(None, None, 9).unwrap().entities, [entity_of_1()]);
        assert_eq!(tx.replica().unwrap(), Some(Replica { server_offset_ms: None, ..replica() }));
        let kept = conflicts(tx);
        assert_eq!(kept, [conflict_of_1(kept[0].id)]);
        assert_eq!(tx.conflict(kept[0].id).unwrap().as_ref(), kept.first());
        assert_eq!((tx.pull_state().unwrap(), tx.quarantined(9).unwrap()), (None, vec![]));
    });
}

#[test]
fn rows_of_schema_2_are_read() {
    read_twice(include_str!("golden/schema-2.sql"), |tx| {
        assert_common(tx);
        assert_eq!(tx.entity(&key()).unwrap(), Some(entity()));
        assert_eq!(tx.replica().unwrap(), Some(replica()));
        assert_eq!(conflicts(tx), [open(), settled()]);
        assert_eq!(tx.pull_state().unwrap(), Some(pull_state()));
        assert_eq!(tx.quarantined(9).unwrap(), [quarantined()]);
    });
}

/// Whose rows there are beside those of the queue without a name.
const NAME: &str = "alice \u{e9}";

#[test]
fn rows_of_schema_3_are_read() {
    read_twice(include_str!("golden/schema-3.sql"), |tx| {
        assert_tasks(tx, &[tasks(), vec![command()]].concat());
        assert_eq!(tx.waiting_for(sent().id, 0, 9).unwrap().tasks, [command()]);
        assert_eq!(tx.tasks_of_group("group").unwrap().tasks, [command()]);
        assert_eq!(tx.held_after(0, 9).unwrap().tasks, [command()]);
        assert_eq!(tx.lapsed(Timestamp(1_763_870_000_016), 9).unwrap().tasks, [command()]);
        assert_eq!(tx.journal_entries(None, 9).unwrap().entries, [requeued(), entry()]);
        assert_eq!(tx.entity(&key()).unwrap(), Some(entity()));
        assert_eq!((tx.replica().unwrap(), tx.lease().unwrap()), (Some(replica()), Some(lease())));
        assert_eq!(conflicts(tx), [open(), settled()]);
        assert_eq!(tx.pull_state().unwrap(), Some(pull_state()));
        assert_eq!(tx.quarantined(9).unwrap(), [quarantined()]);
        assert_eq!(tx.controls().unwrap(), Some(controls()));
        assert_eq!(tx.deduplicated("key").unwrap(), Some(sent().id));
        assert_eq!(tx.server_id(&key()).unwrap(), Some("17".to_owned()));
        assert_eq!(tx.local_id(&EntityKey::new("note", "17")).unwrap(), Some(key().entity_id));
    });
    let folder = support::Folder::new();
    let path = folder.file("x.db");
    Connection::open(&path).unwrap().execute_batch(include_str!("golden/schema-3.sql")).unwrap();
    let mut store = SqliteStore::options().detect_copies(false).identity(NAME).open(&path).unwrap();
    let tx = store.begin().unwrap();
    let own = plain((1 << 40) + 1, TaskState::Conflict, None);
    assert_eq!(tx.tasks_after(0, 9).unwrap().tasks, [own]);
    assert_eq!(tx.counts().unwrap(), Counts { conflict: 1, ..Counts::default() });
    assert_eq!(tx.entity(&key()).unwrap(), Some(entity_of_1()));
    assert_eq!(tx.quarantined(9).unwrap(), []);
}

fn requeued() -> JournalEntry {
    let (task_id, at) = (TaskId::derive(client(), &key(), 1_000), Timestamp(1_763_870_000_017));
    JournalEntry { task_id, verdict: Verdict::Requeued, became: Some(sent().id), at, ..entry() }
}

/// Row by row, what is written today is what was written then.
#[test]
fn rows_of_schema_3_are_still_written_the_same() {
    let folder = support::Folder::new();
    let path = folder.file("x.db");
    let mut store = SqliteStore::options().detect_copies(false).open(&path).unwrap();
    support::commit(&mut store, |tx| {
        tasks().iter().for_each(|task| tx.put_task(task).unwrap());
        tx.put_task(&command()).unwrap();
        let ended = plain(2, TaskState::Pending { retry_at: None }, None);
        tx.put_task(&ended).unwrap();
        tx.settle_task(&ended, &entry()).unwrap();
        let ended = Task { id: requeued().task_id, ..ended };
        tx.put_task(&ended).unwrap();
        tx.settle_task(&ended, &requeued()).unwrap();
        tx.put_entity(&entity()).unwrap();
        tx.put_conflict(&settled()).unwrap();
        tx.put_conflict(&open()).unwrap();
        tx.put_replica(&replica()).unwrap();
        tx.put_lease(&lease()).unwrap();
        tx.put_pull_state(&pull_state()).unwrap();
        tx.put_quarantined(&quarantined()).unwrap();
        tx.put_controls(&controls()).unwrap();
        tx.put_deduplicated("key", sent().id, Timestamp(1_763_870_000_018)).unwrap();
        tx.put_server_id(&key(), "17").unwrap();
    });
    store.switch_identity(Some(NAME)).unwrap();
    support::commit(&mut store, |tx| {
        let seq = tx.next_seq().unwrap();
        tx.put_task(&plain(seq, TaskState::Conflict, None)).unwrap();
        tx.put_entity(&entity_of_1()).unwrap();
    });
    drop(store);
    let raw = Connection::open(&path).unwrap();
    let written = dump(&raw);
    if let Ok(place) = std::env::var("LANDFALL_WRITE_GOLDEN") {
        std::fs::write(place, &written).unwrap();
    }
    assert_eq!(written, include_str!("golden/schema-3.sql"));
}

fn lines(raw: &Connection, sql: &str) -> Vec<String> {
    raw.prepare(sql).unwrap().query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Tables, indexes and views, in order of their names.
fn schema(raw: &Connection) -> Vec<String> {
    lines(raw, "SELECT type || ' ' || name FROM sqlite_schema ORDER BY name")
}

/// The whole database as SQL.
fn dump(raw: &Connection) -> String {
    let mut out =
        vec!["PRAGMA application_id = 1279672652;".to_owned(), "PRAGMA user_version = 3;".to_owned()];
    out.extend(lines(raw, "SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid"));
    for table in lines(raw, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid") {
        let columns =
            lines(raw, &format!("SELECT 'quote(' || name || ')' FROM pragma_table_info('{table}')"));
        let row = columns.join(" || ', ' || ");
        out.extend(lines(
            raw,
            &format!("SELECT 'INSERT INTO {table} VALUES (' || {row} || ');' FROM {table} ORDER BY 1"),
        ));
    }
    out.join("\n") + "\n"
}
