//! The views of `docs/read-model.md`, read as another program would, say what the store says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::entity::{Base, Body, StoredEntity};
use landfall_core::failure::FailureKind;
use landfall_core::id::{EntityKey, Fence};
use landfall_core::store::{ConflictQuery, Store as _, StoreTx};
use landfall_core::task::{Task, TaskState};
use landfall_core::time::Timestamp;
use landfall_core::value::Fields;
use landfall_sqlite::SqliteStore;
use landfall_testkit::conformance::store::samples::{
    conflict, ended, entity, full_task, note, odd_fields, open_conflict, task,
};
use rusqlite::{Connection, OpenFlags, Row};
use support::{Folder, commit};

/// Every combination of what may be known of a record.
fn records() -> Vec<StoredEntity> {
    let live = |title: &str| Body::Live(Fields::from([("title", title)]));
    let bodies = [None, Some(Body::Deleted), Some(live("a")), Some(Body::Live(odd_fields()))];
    let mut records = Vec::new();
    for base in &bodies {
        for local in &bodies {
            for version in [None, Some("7".into())] {
                let key = EntityKey::new(["note", "é\u{0}'"][records.len() % 2], records.len().to_string());
                records.push(StoredEntity {
                    base: base.clone().map(|body| Base { body, version, complete: false }),
                    local: local.clone(),
                    ..entity(&key)
                });
            }
        }
    }
    records
}

fn tasks() -> Vec<Task> {
    let states = [
        TaskState::Pending { retry_at: None },
        TaskState::InFlight { fence: Fence(1) },
        TaskState::Unknown { retry_at: Timestamp(1) },
        TaskState::Conflict,
        TaskState::Dead { why: FailureKind::Rejected },
    ];
    let one_each = states.into_iter().zip(1..).map(|(state, seq)| Task { state, ..task(seq, &note("1")) });
    one_each.chain([full_task(6)]).collect()
}

fn fill(tx: &mut dyn StoreTx) {
    records().iter().for_each(|record| tx.put_entity(record).unwrap());
    tasks().iter().for_each(|task| tx.put_task(task).unwrap());
    let settled = task(9, &note("9"));
    tx.put_task(&settled).unwrap();
    tx.settle_task(&settled, &ended(&settled, 1)).unwrap();
    tx.put_conflict(&conflict(&full_task(1), -5)).unwrap();
    tx.put_conflict(&open_conflict(&task(2, &note("2")), 7)).unwrap();
}

/// A store with something in every view, and a connection that may only read.
fn opened(folder: &Folder) -> (SqliteStore, Connection) {
    let path = folder.file("x.db");
    let mut store = SqliteStore::open(&path).unwrap();
    commit(&mut store, fill);
    let raw = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    // As strict as the store itself is with what a schema may call.
    raw.execute_batch("PRAGMA trusted_schema = OFF").unwrap();
    (store, raw)
}

fn rows<T>(raw: &Connection, sql: &str, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
    raw.prepare(sql).unwrap().query_map((), read).unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_view_of_records_shows_what_the_app_sees() {
    type Record = (String, String, bool, Option<String>, Option<String>, Option<String>, Option<String>);
    let folder = Folder::new();
    let (mut store, raw) = opened(&folder);
    let page = store.begin().unwrap().entities_after(None, None, 99).unwrap();
    assert_eq!(page.entities.len(), records().len());
    let expected: Vec<Record> = page
        .entities
        .iter()
        .filter_map(|record| {
            let local = record.local.as_ref()?;
            let base = record.base.as_ref();
            let version = base.and_then(|base| base.version.as_ref());
            Some((
                record.key.entity_type.clone(),
                record.key.entity_id.clone(),
                *local == Body::Deleted,
                local.fields().map(Fields::to_json),
                base.and_then(|base| base.body.fields()).map(Fields::to_json),
                version.map(|version| version.0.clone()),
                None,
            ))
        })
        .collect();
    assert_eq!(expected.len(), 24);
    let sql = "SELECT entity_type, entity_id, deleted, fields, base_fields, version, identity FROM landfall_v_records \
               ORDER BY entity_type, entity_id";
    let read = |row: &Row<'_>| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
    };
    assert_eq!(rows::<Record>(&raw, sql, read), expected);
    let sql =
        "SELECT fields ->> 'title' FROM landfall_v_records WHERE entity_type = 'note' AND entity_id = '4'";
    assert_eq!(rows::<String>(&raw, sql, |row| row.get(0)), ["a"], "as the example in the document has it");
}

#[test]
fn the_view_of_the_queue_shows_every_task_that_is_in_it() {
    type Queued = (String, String, String, String, String, u32, i64, String);
    let folder = Folder::new();
    let (mut store, raw) = opened(&folder);
    let tasks = store.begin().unwrap().tasks_after(0, 99).unwrap().tasks;
    assert_eq!(tasks, self::tasks());
    let mut expected: Vec<Queued> = tasks
        .into_iter()
        .map(|task| {
            let (state, operation) = (task.state.kind().as_str(), task.intent.operation.as_str());
            (
                task.id.to_string(),
                task.entity.entity_type,
                task.entity.entity_id,
                operation.to_owned(),
                state.to_owned(),
                task.attempts,
                task.enqueued_at.0,
                task.intent.fields.to_json(),
            )
        })
        .collect();
    expected.sort();
    let sql = "SELECT task_id, entity_type, entity_id, operation, state, attempts, enqueued_at, fields \
               FROM landfall_v_queue ORDER BY task_id";
    let read = |row: &Row<'_>| {
        Ok((
            row.get(0)?,
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
            row.get(5)?,
            row.get(6)?,
            row.get(7)?,
        ))
    };
    assert_eq!(rows::<Queued>(&raw, sql, read), expected);
}

#[test]
fn the_view_of_conflicts_shows_which_wait() {
    type Conflict = (String, String, String, i64, bool);
    let folder = Folder::new();
    let (mut store, raw) = opened(&folder);
    let page = store.begin().unwrap().conflicts(&ConflictQuery::default(), 99).unwrap();
    let expected: Vec<Conflict> = page
        .conflicts
        .into_iter()
        .map(|record| {
            let (id, open) = (record.id.to_string(), record.is_open());
            (id, record.entity.entity_type, record.entity.entity_id, record.at.0, open)
        })
        .collect();
    assert_eq!(expected.iter().map(|row| row.4).collect::<Vec<_>>(), [true, false]);
    let sql =
        "SELECT conflict_id, entity_type, entity_id, at, open FROM landfall_v_conflicts ORDER BY open DESC";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
    assert_eq!(rows::<Conflict>(&raw, sql, read), expected);
}

#[test]
fn the_views_say_whose_each_row_is() {
    let folder = Folder::new();
    let (mut store, raw) = opened(&folder);
    let views = ["landfall_v_records", "landfall_v_queue", "landfall_v_conflicts"];
    let before = views.map(|view| support::number(&raw, &format!("SELECT count(*) FROM {view}")));
    store.switch_identity(Some("alice")).unwrap();
    commit(&mut store, |tx| {
        tx.put_entity(&entity(&note("1"))).unwrap();
        let seq = tx.next_seq().unwrap();
        tx.put_task(&task(seq, &note("1"))).unwrap();
        tx.put_conflict(&conflict(&task(1, &note("1")), 1)).unwrap();
    });
    for (view, before) in views.into_iter().zip(before) {
        let sql = format!("SELECT identity, count(*) FROM {view} GROUP BY identity ORDER BY identity");
        let whose = rows::<(Option<String>, i64)>(&raw, &sql, |row| Ok((row.get(0)?, row.get(1)?)));
        assert_eq!(whose, [(None, before), (Some("alice".to_owned()), 1)], "{view}");
    }
}

/// The columns are a promise to other programs: none goes or changes its name.
#[test]
fn the_views_have_the_columns_that_the_document_names() {
    let folder = Folder::new();
    let (_store, raw) = opened(&folder);
    let document = include_str!("../../../docs/read-model.md");
    let mut views = 0;
    for view in rows::<String>(&raw, "SELECT name FROM sqlite_schema WHERE type = 'view'", |row| row.get(0)) {
        let section = document.split("\n## ").find(|part| part.starts_with(&format!("`{view}`")));
        let section = section.unwrap_or_else(|| panic!("{view} is not in the document"));
        let named = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let columns = rows(&raw, &format!("SELECT name FROM pragma_table_info('{view}')"), |row| {
            row.get::<_, String>(0)
        });
        assert_eq!(named.collect::<Vec<_>>(), columns, "{view}");
        views += 1;
    }
    assert_eq!(views, 3);
}

#[test]
fn the_views_cannot_be_written_to_and_show_durable_state_only() {
    let folder = Folder::new();
    let (mut store, raw) = opened(&folder);
    let count = || support::number(&raw, "SELECT count(*) FROM landfall_v_queue");
    let before = count();
    let mut tx = store.begin().unwrap();
    tx.put_task(&task(50, &note("50"))).unwrap();
    assert_eq!(count(), before);
    tx.commit().unwrap();
    assert_eq!(count(), before + 1);
    let writer = Connection::open(folder.file("x.db")).unwrap();
    for sql in [
        "DELETE FROM landfall_v_queue",
        "UPDATE landfall_v_records SET fields = '{}'",
        "INSERT INTO landfall_v_conflicts (open) VALUES (0)",
    ] {
        let refused = writer.execute(sql, ()).unwrap_err().to_string();
        assert!(refused.contains("because it is a view"), "{refused}");
    }
}
