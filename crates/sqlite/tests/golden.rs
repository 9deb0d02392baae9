//! The oldest rows are still read: a store of format 1, written down as SQL with the checksums it carried.
//!
//! From the first release on the file is never made anew (until then: `LANDFALL_WRITE_GOLDEN` names the path to write it
//! to). When a format is added, it gets a file of its own, and this one must still be read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::change::{Intent, Operation};
use landfall_core::entity::{Base, Body, RemoteEntity, StoredEntity};
use landfall_core::failure::FailureKind;
use landfall_core::id::{EntityKey, Fence, Fingerprint, IdempotencyKey, TaskId};
use landfall_core::store::{ConflictRecord, Counts, Lease, Replica, Store as _};
use landfall_core::task::{FailureNote, Frozen, JournalEntry, Task, TaskState, Verdict};
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
        last_failure: Some(FailureNote {
            kind: FailureKind::Transient,
            code: Some("overloaded".into()),
            message: "503".into(),
            at: Timestamp(1_763_870_000_006),
        }),
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
        last_failure: None,
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

fn entity() -> StoredEntity {
    StoredEntity {
        key: key(),
        generation: 7,
        base: Some(Base { body: Body::Live(fields()), version: Some("7".into()), complete: true }),
        local: Some(Body::Live(fields())),
        staged: Some(RemoteEntity { key: key(), body: Body::Deleted, version: Some("8".into()) }),
    }
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
    }
}

fn conflict() -> ConflictRecord {
    ConflictRecord {
        task_id: sent().id,
        entity: key(),
        at: Timestamp(1_763_870_000_008),
        base: Some("{}".into()),
        local: r#"{"a":1}"#.into(),
        remote: Some(RemoteEntity { key: key(), body: Body::Live(fields()), version: None }),
        rule: "server wins".into(),
    }
}

fn replica() -> Replica {
    Replica {
        client_id: client(),
        client_epoch: 9,
        opens: 10,
        server_id: Some("server".into()),
        clock: Hlc { wall_ms: 1_763_870_000_009, counter: 1 },
    }
}

fn lease() -> Lease {
    Lease { holder: "process 12".into(), fence: Fence(4), expires_at: Timestamp(1_763_870_000_010) }
}

#[test]
fn rows_of_format_1_are_read() {
    let folder = support::Folder::new();
    let path = folder.file("x.db");
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch(include_str!("golden/format-1.sql")).unwrap();
    drop(raw);
    // The file is not the one it was written as: that is another test's subject.
    let mut store = SqliteStore::options().detect_copies(false).open(&path).unwrap();
    let tx = store.begin().unwrap();
    let page = tx.tasks_after(0, 99).unwrap();
    assert_eq!(page.damaged, []);
    assert_eq!(page.tasks, tasks());
    let counts = Counts { pending: 1, in_flight: 1, unknown: 1, conflict: 1, dead: 1 };
    assert_eq!(tx.counts().unwrap(), counts);
    assert_eq!(tx.entity(&key()).unwrap(), Some(entity()));
    assert_eq!(tx.journal(entry().task_id).unwrap(), Some(entry()));
    assert_eq!(tx.conflicts(None, 9).unwrap(), [conflict()]);
    assert_eq!(tx.replica().unwrap(), Some(replica()));
    assert_eq!(tx.lease().unwrap(), Some(lease()));
}

/// Row by row, what is written today is what was written then.
#[test]
fn rows_of_format_1_are_still_written_the_same() {
    let folder = support::Folder::new();
    let path = folder.file("x.db");
    let mut store = SqliteStore::options().detect_copies(false).open(&path).unwrap();
    support::commit(&mut store, |tx| {
        tasks().iter().for_each(|task| tx.put_task(task).unwrap());
        let settled = plain(2, TaskState::Pending { retry_at: None }, None);
        tx.put_task(&settled).unwrap();
        tx.settle_task(&settled, &entry()).unwrap();
        tx.put_entity(&entity()).unwrap();
        tx.put_conflict(&conflict()).unwrap();
        tx.put_replica(&replica()).unwrap();
        tx.put_lease(&lease()).unwrap();
    });
    drop(store);
    let raw = Connection::open(&path).unwrap();
    let written = dump(&raw);
    if let Ok(place) = std::env::var("LANDFALL_WRITE_GOLDEN") {
        std::fs::write(place, &written).unwrap();
    }
    assert_eq!(written, include_str!("golden/format-1.sql"));
}

/// The whole database as SQL.
fn dump(raw: &Connection) -> String {
    let lines = |sql: &str| -> Vec<String> {
        raw.prepare(sql).unwrap().query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let mut out =
        vec!["PRAGMA application_id = 1279672652;".to_owned(), "PRAGMA user_version = 1;".to_owned()];
    out.extend(lines("SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid"));
    for table in lines("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid") {
        let columns = lines(&format!("SELECT 'quote(' || name || ')' FROM pragma_table_info('{table}')"));
        let row = columns.join(" || ', ' || ");
        out.extend(lines(&format!(
            "SELECT 'INSERT INTO {table} VALUES (' || {row} || ');' FROM {table} ORDER BY 1"
        )));
    }
    out.join("\n") + "\n"
}
