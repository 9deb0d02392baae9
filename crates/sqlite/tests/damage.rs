//! A disk that spoils what it keeps: never a panic, never a row that is not what was written.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::conflict::ConflictRecord;
use landfall_core::entity::StoredEntity;
use landfall_core::id::{ConflictId, TaskId};
use landfall_core::store::{ConflictQuery, Controls, Counts, DamagedRow, Store, StoreError, StoreRead};
use landfall_core::task::{Standing, StateKind, Task, TaskState, Terms};
use landfall_core::time::Timestamp;
use landfall_sqlite::{Durability, SqliteStore};
use landfall_testkit::conformance::store::samples::{
    client, conflict, ended, entity, full_task, full_terms, lease, note, open_conflict, pull_state,
    quarantined, replica, task,
};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use support::{Folder, beside, commit};

/// How many places are spoilt, one at a time. Each opens a store, which syncs.
const PLACES: u64 = 1_000;

fn rows() -> Vec<Task> {
    let small = (1..=40).map(|seq| {
        let claim_at = Some(Timestamp(if seq % 7 == 0 { 50 } else { 0 }));
        Task {
            lane: (seq % 3 == 0).then(|| "lane".into()),
            claim_at,
            ..task(seq, &note(&(seq % 9).to_string()))
        }
    });
    let dead = Task { state: TaskState::Conflict, claim_at: None, ..task(60, &note("dead")) };
    // Of every kind that stands in an index of its own.
    let waits = (51..=55).map(|seq| {
        let terms = Terms { expires_at: Some(Timestamp(seq as i64)), ..full_terms() };
        let standing = Standing { held: true, passed_over: seq == 55, cancelling: false };
        Task { terms, standing, claim_at: None, lane: Some("lane".into()), ..task(seq, &note("waits")) }
    });
    small.chain([full_task(50), dead]).chain(waits).collect()
}

fn fill(store: &mut SqliteStore) {
    commit(store, |tx| {
        tx.put_replica(&replica(1)).unwrap();
        tx.put_lease(&lease(1)).unwrap();
        rows().iter().for_each(|task| tx.put_task(task).unwrap());
        let settled = task(70, &note("settled"));
        tx.put_task(&settled).unwrap();
        tx.settle_task(&settled, &ended(&settled, 5)).unwrap();
        (0..9).for_each(|id| tx.put_entity(&entity(&note(&id.to_string()))).unwrap());
        conflicts().iter().for_each(|record| tx.put_conflict(record).unwrap());
        tx.put_pull_state(&pull_state(1)).unwrap();
        (0..5).for_each(|at| tx.put_quarantined(&quarantined(at)).unwrap());
        tx.put_deduplicated("key", settled.id, Timestamp(1)).unwrap();
        tx.put_server_id(&note("1"), "17").unwrap();
        tx.put_controls(&controls()).unwrap();
    });
}

fn controls() -> Controls {
    Controls { all: true, types: ["note".to_owned()].into(), lanes: ["lane".to_owned()].into() }
}

/// In the order in which they are kept.
fn conflicts() -> Vec<ConflictRecord> {
    (0..6)
        .map(|at| {
            let task = task(at as u64 + 1, &note(&(at % 3).to_string()));
            if at % 2 == 0 { open_conflict(&task, at) } else { conflict(&task, at) }
        })
        .collect()
}

/// What a look at a spoilt store came to.
#[derive(Default, Debug)]
struct Seen {
    whole: usize,
    damaged: usize,
    missing: usize,
    errors: usize,
}

/// Asks everything. A row that is given must be the one that was written.
fn look_at_everything(rows: &dyn StoreRead, seen: &mut Seen) {
    let known: BTreeMap<u64, Task> = self::rows().into_iter().map(|task| (task.seq, task)).collect();
    let mut pages = vec![rows.tasks_after(0, 99), rows.claimable(Timestamp(60), 99)];
    pages.extend(StateKind::ALL.map(|state| rows.tasks_in_state(state, 0, 99)));
    let terms = full_terms();
    pages.push(rows.tasks_of_group(terms.group.as_deref().unwrap()));
    pages.extend(terms.waits_for.iter().map(|parent| rows.waiting_for(*parent, 0, 99)));
    pages.extend([rows.held_after(0, 99), rows.lapsed(Timestamp(60), 99)]);
    for page in pages {
        match page {
            Ok(page) => {
                seen.damaged += page.damaged.len();
                page.tasks.iter().for_each(|task| assert_eq!(known.get(&task.seq), Some(task)));
            }
            Err(_) => seen.errors += 1,
        }
    }
    let mut note_one = |found: Result<bool, StoreError>| match found {
        Ok(true) => seen.whole += 1,
        Ok(false) => seen.missing += 1,
        Err(StoreError::Damaged(_)) => seen.damaged += 1,
        Err(_) => seen.errors += 1,
    };
    for task in known.values() {
        let same = |found: Option<Task>| found.inspect(|found| assert_eq!(found, task)).is_some();
        note_one(rows.task(task.id).map(same));
        note_one(rows.next_of_entity(&task.entity, task.seq - 1).map(|found| {
            // If a row before it is missing from the index, a later one of the record comes up: whole, and known.
            found.inspect(|found| assert_eq!(known.get(&found.seq), Some(found))).is_some()
        }));
        let last = rows.last_of_entity(&task.entity);
        note_one(
            last.map(|found| found.inspect(|found| assert_eq!(known.get(&found.seq), Some(found))).is_some()),
        );
    }
    note_one(
        rows.next_of_lane("lane", 3)
            .map(|found| found.inspect(|found| assert_eq!(known.get(&found.seq), Some(found))).is_some()),
    );
    for id in 0..9 {
        let key = note(&id.to_string());
        note_one(
            rows.entity(&key).map(|found| found.inspect(|found| assert_eq!(*found, entity(&key))).is_some()),
        );
    }
    let settled = task(70, &note("settled"));
    let same = |found: Option<_>| found.inspect(|found| assert_eq!(*found, ended(&settled, 5))).is_some();
    note_one(rows.journal(settled.id).map(same));
    note_one(rows.journal_entries(None, 9).map(|page| {
        page.entries.iter().for_each(|found| assert_eq!(*found, ended(&settled, 5)));
        !page.entries.is_empty()
    }));
    let same = |found: Option<_>| found.inspect(|found| assert_eq!(*found, settled.id)).is_some();
    note_one(rows.deduplicated("key").map(same));
    let same = |found: Option<String>| found.inspect(|found| assert_eq!(found, "17")).is_some();
    note_one(rows.server_id(&note("1")).map(same));
    let same = |found: Option<String>| found.inspect(|found| assert_eq!(found, "1")).is_some();
    note_one(rows.local_id(&note("17")).map(same));
    note_one(rows.controls().map(|found| found.inspect(|found| assert_eq!(*found, controls())).is_some()));
    note_one(rows.next_lapse().map(|found| found.is_some()));
    for record in conflicts() {
        let same = |found: Option<_>| found.inspect(|found| assert_eq!(*found, record)).is_some();
        note_one(rows.conflict(record.id).map(same));
    }
    note_one(
        rows.pull_state().map(|found| found.inspect(|found| assert_eq!(*found, pull_state(1))).is_some()),
    );
    note_one(rows.quarantined(9).map(|found| {
        found.iter().for_each(|found| assert_eq!(*found, quarantined(found.at.0)));
        found.len() == 5
    }));
    // The epoch may have grown: a spoilt file is another file than the one that was written.
    note_one(
        rows.replica()
            .map(|found| found.inspect(|found| assert_eq!(found.opens, replica(1).opens)).is_some()),
    );
    note_one(rows.lease().map(|found| found.inspect(|found| assert_eq!(*found, lease(1))).is_some()));
    note_one(rows.counts().map(|_| true));
    note_one(rows.oldest().map(|found| found.is_some()));
    note_one(rows.next_claim(Timestamp(0)).map(|found| found.is_some()));
    for open_only in [false, true] {
        for entity in [None, Some(note("1"))] {
            let which = ConflictQuery { entity, open_only, before: None };
            match rows.conflicts(&which, 99) {
                Ok(page) => {
                    seen.damaged += page.damaged.len();
                    page.conflicts.iter().for_each(|found| {
                        assert!(conflicts().contains(found) && (found.is_open() || !open_only));
                    });
                }
                Err(_) => seen.errors += 1,
            }
        }
    }
    for entity_type in [None, Some("note")] {
        match rows.entities_after(entity_type, Some(&note("0")), 99) {
            Ok(page) => {
                seen.damaged += page.damaged.len();
                page.entities.iter().for_each(|found| assert_eq!(*found, entity(&found.key)));
            }
            Err(_) => seen.errors += 1,
        }
    }
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Spoils the file with `ending` of a database in many places, one at a time, and hands each store that still opens to
/// `look`. Returns how many did not.
fn spoil(image: &Path, ending: &str, seed: u64, mut look: impl FnMut(&dyn StoreRead)) -> u64 {
    let folder = Folder::new();
    let path = folder.file("spoilt.db");
    let bytes = ["", "-wal"].map(|ending| (ending, fs::read(beside(image, ending)).unwrap_or_default()));
    let (mut state, mut refused) = (seed, 0);
    for round in 0..PLACES {
        let _ = fs::remove_file(beside(&path, "-shm"));
        for (each, bytes) in &bytes {
            let mut bytes = bytes.clone();
            if *each == ending {
                // The first bytes say most.
                let places = if round % 3 == 0 { 100 } else { bytes.len() as u64 };
                let at = random(&mut state) % places;
                bytes[at as usize] ^= 1 << (random(&mut state) % 8);
            }
            fs::write(beside(&path, each), bytes).unwrap();
        }
        let mut store = match SqliteStore::options().durability(Durability::MayLoseLastWrites).open(&path) {
            Ok(store) => store,
            Err(_) => {
                refused += 1;
                continue;
            }
        };
        match store.begin() {
            Ok(tx) => look(tx.as_ref()),
            Err(_) => refused += 1,
        }
    }
    refused
}

#[test]
fn one_flipped_bit_anywhere_never_gives_a_wrong_row() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    fill(&mut SqliteStore::open(&path).unwrap());
    let mut seen = Seen::default();
    let refused = spoil(&path, "", 1, |rows| look_at_everything(rows, &mut seen));
    println!("{PLACES} flipped bits: {refused} files refused; {seen:?}");
    assert!(refused > 0 && seen.damaged > 100 && seen.whole > 10_000, "{seen:?}");
    assert!(seen.missing < 100, "what only an index has lost: {seen:?}");
}

/// What a look at a migrated store gives: tasks, records, and of conflicts what does not hang on other rows.
fn rows_of(rows: &dyn StoreRead) -> (Vec<Task>, Vec<StoredEntity>, Vec<ConflictRecord>) {
    let conflicts = rows.conflicts(&ConflictQuery::default(), 99).map(|page| page.conflicts);
    let conflicts = conflicts.unwrap_or_default().into_iter().map(|record| {
        // Its name comes from its place, and whether it waits from the state of its task.
        ConflictRecord { id: ConflictId(TaskId::derive(client(), &note(""), 0).0), settled: None, ..record }
    });
    (
        rows.tasks_after(0, 99).map(|page| page.tasks).unwrap_or_default(),
        rows.entities_after(None, None, 99).map(|page| page.entities).unwrap_or_default(),
        conflicts.collect(),
    )
}

#[test]
fn one_flipped_bit_before_the_migration_never_gives_a_wrong_row() {
    let folder = Folder::new();
    let (image, whole) = (folder.file("x.db"), folder.file("whole.db"));
    let raw = Connection::open(&image).unwrap();
    raw.execute_batch(include_str!("golden/format-1.sql")).unwrap();
    drop(raw);
    fs::copy(&image, &whole).unwrap();
    let (tasks, entities, conflicts) = rows_of(SqliteStore::open(&whole).unwrap().begin().unwrap().as_ref());
    assert_eq!((tasks.len(), entities.len(), conflicts.len()), (5, 1, 1));
    let (mut opened, mut damaged) = (0, 0);
    let refused = spoil(&image, "", 3, |rows| {
        let found = rows_of(rows);
        assert!(found.0.iter().all(|task| tasks.contains(task)));
        assert!(found.1.iter().all(|entity| entities.contains(entity)));
        assert!(found.2.iter().all(|record| conflicts.contains(record)), "{:?}", found.2);
        opened += 1;
        let named = rows.conflicts(&ConflictQuery::default(), 99).map_or(0, |page| page.damaged.len());
        damaged += named + rows.tasks_after(0, 99).map_or(0, |page| page.damaged.len());
    });
    println!("{PLACES} flipped bits: {refused} files refused, {opened} opened, {damaged} rows damaged");
    assert!(opened > 300 && damaged > 10);
}

/// SQLite cuts a log at the first frame whose checksum fails: what is left is what was stored up to some commit.
#[test]
fn one_flipped_bit_in_the_log_leaves_whole_transactions_up_to_some_moment() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    drop(SqliteStore::open(&path).unwrap());
    let mut store = SqliteStore::open(&path).unwrap();
    for seq in 1..=30 {
        commit(&mut store, |tx| {
            tx.put_entity(&entity(&note(&seq.to_string()))).unwrap();
            tx.put_task(&task(seq, &note(&seq.to_string()))).unwrap();
        });
    }
    let mut lengths = std::collections::BTreeSet::new();
    let refused = spoil(&path, "-wal", 2, |rows| {
        let page = rows.tasks_after(0, 99).unwrap();
        assert_eq!(page.damaged, []);
        let positions: Vec<u64> = page.tasks.iter().map(|task| task.seq).collect();
        assert!(positions.iter().copied().eq(1..=positions.len() as u64), "{positions:?}");
        assert_eq!(rows.counts().unwrap().total(), positions.len() as u64);
        for seq in 1..=30 {
            let known = rows.entity(&note(&seq.to_string())).unwrap().is_some();
            assert_eq!(known, positions.contains(&seq));
        }
        lengths.insert(positions.len());
    });
    assert_eq!(refused, 0);
    assert!(lengths.len() > 20, "{lengths:?}");
}

/// A store with three pending tasks, and a raw connection to spoil it with.
fn three(folder: &Folder) -> (SqliteStore, Connection) {
    let path = folder.file("x.db");
    let mut store = SqliteStore::open(&path).unwrap();
    commit(&mut store, |tx| {
        (1..=3).for_each(|seq| tx.put_task(&task(seq, &note(&seq.to_string()))).unwrap())
    });
    (store, Connection::open(&path).unwrap())
}

#[test]
fn every_column_of_a_task_is_under_the_checksum() {
    let folder = Folder::new();
    let (mut store, raw) = three(&folder);
    let sql = "SELECT name FROM pragma_table_info('landfall_tasks') WHERE name <> 'sum'";
    let columns: Vec<String> =
        raw.prepare(sql).unwrap().query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(columns.len(), 37);
    let mut texts = 0;
    for column in columns {
        raw.execute_batch("SAVEPOINT before").unwrap();
        let other = format!(
            "CASE typeof({column}) WHEN 'integer' THEN {column} + 7 WHEN 'blob' THEN zeroblob(length({column})) ELSE NULL END"
        );
        let spoilt = raw.execute(&format!("UPDATE landfall_tasks SET {column} = {other} WHERE seq = 2"), ());
        if spoilt.is_err() {
            // A text that may not be NULL.
            texts += 1;
            raw.execute(&format!("UPDATE landfall_tasks SET {column} = {column} || ' ' WHERE seq = 2"), ())
                .unwrap();
        }
        raw.execute_batch("RELEASE before").unwrap();
        let page = store.begin().unwrap().tasks_after(0, 9).unwrap();
        let null_before = page.damaged.is_empty();
        if null_before {
            // It was NULL and stays NULL: give it a value.
            let value = if column.ends_with("at")
                || column == "not_before"
                || column == "fence"
                || column == "open_sends"
                || column == "sends"
            {
                "7"
            } else {
                "'7'"
            };
            let sql = format!("UPDATE landfall_tasks SET {column} = {value} WHERE seq = 2");
            if raw.execute(&sql, ()).is_err() {
                raw.execute(&format!("UPDATE landfall_tasks SET {column} = x'07' WHERE seq = 2"), ())
                    .unwrap();
            }
        }
        let page = store.begin().unwrap().tasks_after(0, 9).unwrap();
        let damaged: Vec<u64> = page.damaged.iter().map(|row| row.seq).collect();
        assert!(damaged == [2] || damaged == [9], "{column}: {damaged:?}");
        raw.execute("DELETE FROM landfall_tasks WHERE seq IN (2, 9)", ()).unwrap();
        commit(&mut store, |tx| tx.put_task(&task(2, &note("2"))).unwrap());
    }
    assert!(texts >= 4);
}

#[test]
fn every_column_of_records_conflicts_and_notes_is_under_the_checksum() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let mut store = SqliteStore::open(&path).unwrap();
    fill(&mut store);
    let raw = Connection::open(&path).unwrap();
    let mut whole = || {
        let tx = store.begin().unwrap();
        let records = tx.entities_after(None, None, 99).unwrap();
        let conflicts = tx.conflicts(&ConflictQuery::default(), 99).unwrap();
        assert_eq!(records.entities.len() + records.damaged.len(), 9);
        assert_eq!(conflicts.conflicts.len() + conflicts.damaged.len(), 6);
        [records.entities.len(), conflicts.conflicts.len(), tx.quarantined(99).unwrap().len()]
    };
    let all = whole();
    for (at, table, columns) in
        [(0, "landfall_entities", 16), (1, "landfall_conflicts", 8), (2, "landfall_quarantined", 3)]
    {
        let sql =
            format!("SELECT name FROM pragma_table_info('{table}') WHERE name NOT IN ('id', 'sum', 'owner')");
        let mut names = raw.prepare(&sql).unwrap();
        let names: Vec<String> = names.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(names.len(), columns);
        for name in names {
            let old: rusqlite::types::Value = raw
                .query_one(&format!("SELECT {name} FROM {table} WHERE id = 2"), (), |row| row.get(0))
                .unwrap();
            let other = format!(
                "CASE typeof({name}) WHEN 'integer' THEN {name} + 7 WHEN 'blob' THEN zeroblob(16) \
                 WHEN 'text' THEN {name} || ' ' ELSE '7' END"
            );
            raw.execute(&format!("UPDATE {table} SET {name} = {other} WHERE id = 2"), ()).unwrap();
            let mut expected = all;
            expected[at] -= 1;
            assert_eq!(whole(), expected, "{table}.{name}");
            raw.execute(&format!("UPDATE {table} SET {name} = ? WHERE id = 2"), [old]).unwrap();
            assert_eq!(whole(), all);
        }
    }
}

/// Damage to whose row it is must not put one person's changes before another.
#[test]
fn a_row_that_moves_to_another_identity_is_not_believed_there() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let mut store = SqliteStore::open(&path).unwrap();
    fill(&mut store);
    commit(&mut store, |tx| {
        let ended_task = task(77, &note("77"));
        tx.put_task(&ended_task).unwrap();
        tx.settle_task(&ended_task, &ended(&ended_task, 1)).unwrap();
        tx.put_task(&task(78, &note("78"))).unwrap();
    });
    let raw = Connection::open(&path).unwrap();
    let move_all = |owner: i64| {
        for table in ["entities", "conflicts", "quarantined", "journal", "server_ids", "keys"] {
            raw.execute(&format!("UPDATE landfall_{table} SET owner = ?"), [owner]).unwrap();
        }
    };
    store.switch_identity(Some("alice")).unwrap();
    move_all(1);
    raw.execute("UPDATE landfall_tasks SET seq = (1 << 40) + seq", ()).unwrap();
    let tx = store.begin().unwrap();
    assert_eq!(tx.tasks_after(0, 99).unwrap().tasks, []);
    assert!(tx.tasks_after(0, 99).unwrap().damaged.len() > 1);
    let records = tx.entities_after(None, None, 99).unwrap();
    assert_eq!((records.entities.len(), records.damaged.len()), (0, 9));
    let conflicts = tx.conflicts(&ConflictQuery::default(), 99).unwrap();
    assert_eq!((conflicts.conflicts.len(), conflicts.damaged.len()), (0, 6));
    let journal = tx.journal_entries(None, 99).unwrap();
    assert_eq!((journal.entries.len(), journal.damaged.is_empty()), (0, false));
    assert!(matches!(tx.journal(task(77, &note("77")).id), Err(StoreError::Damaged(_))));
    assert_eq!(tx.quarantined(99).unwrap(), []);
    assert!(matches!(tx.server_id(&note("1")), Err(StoreError::Damaged(_))));
    assert!(matches!(tx.local_id(&note("17")), Err(StoreError::Damaged(_))));
    assert!(matches!(tx.deduplicated("key"), Err(StoreError::Damaged(_))));
    drop(tx);
    move_all(0);
    store.switch_identity(None).unwrap();
    let records = store.begin().unwrap().entities_after(None, None, 99).unwrap();
    assert_eq!((records.entities.len(), records.damaged.len()), (9, 0), "the content itself was whole");
}

/// Rows of older formats have no owner in their checksum: they are those of the queue without a name.
#[test]
fn an_old_row_that_moves_to_another_identity_is_not_believed_there() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch(include_str!("golden/schema-2.sql")).unwrap();
    drop(raw);
    let mut store = SqliteStore::options().identity("alice").open(&path).unwrap();
    let raw = Connection::open(&path).unwrap();
    for table in ["entities", "conflicts", "quarantined", "journal"] {
        assert!(raw.execute(&format!("UPDATE landfall_{table} SET owner = 1"), ()).unwrap() > 0);
    }
    let tx = store.begin().unwrap();
    let records = tx.entities_after(None, None, 99).unwrap();
    assert_eq!((records.entities.len(), records.damaged.len()), (0, 1));
    let conflicts = tx.conflicts(&ConflictQuery::default(), 99).unwrap();
    assert_eq!((conflicts.conflicts.len(), conflicts.damaged.len()), (0, 2));
    let journal = tx.journal_entries(None, 99).unwrap();
    assert_eq!((journal.entries.len(), journal.damaged.len()), (0, 1));
    assert_eq!(tx.quarantined(99).unwrap(), []);
}

#[test]
fn no_identity_is_made_while_the_name_of_one_cannot_be_read() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let mut store = SqliteStore::options().identity("alice").open(&path).unwrap();
    store.switch_identity(Some("bob")).unwrap();
    let raw = Connection::open(&path).unwrap();
    raw.execute("UPDATE landfall_identities SET name = 'alicf' WHERE name = 'alice'", ()).unwrap();
    for name in ["alice", "alicf", "carol"] {
        let refused = store.switch_identity(Some(name));
        assert!(matches!(refused, Err(StoreError::Damaged(_))), "{name}: {refused:?}");
    }
    assert_eq!(store.identity(), Some("bob"));
    store.switch_identity(None).unwrap();
    store.switch_identity(Some("bob")).unwrap();
    assert!(matches!(store.identities(), Err(StoreError::Damaged(_))));
    // A number that was given is never given again, even if nobody remembers to whom.
    raw.execute("DELETE FROM landfall_identities", ()).unwrap();
    raw.execute("DELETE FROM landfall_facts WHERE name LIKE '2/%'", ()).unwrap();
    let seq = (2_u64 << 40) + 1;
    commit(&mut store, |tx| tx.put_task(&task(seq, &note("1"))).unwrap());
    store.switch_identity(Some("dave")).unwrap();
    assert_eq!(store.begin().unwrap().counts().unwrap(), Counts::default());
    let number: i64 = raw
        .query_one("SELECT number FROM landfall_identities WHERE name = 'dave'", (), |row| row.get(0))
        .unwrap();
    assert_eq!(number, 3);
}

/// A conflict that waits must not be thrown away because its row says that it does not.
#[test]
fn an_open_conflict_whose_row_is_spoilt_is_not_pruned() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let mut store = SqliteStore::open(&path).unwrap();
    fill(&mut store);
    let raw = Connection::open(&path).unwrap();
    raw.execute("UPDATE landfall_conflicts SET open = 0", ()).unwrap();
    commit(&mut store, |tx| assert_eq!(tx.prune_conflicts(Timestamp(i64::MAX), 99).unwrap(), 3));
    let page = store.begin().unwrap().conflicts(&ConflictQuery::default(), 99).unwrap();
    assert_eq!((page.conflicts.len(), page.damaged.len()), (0, 3));
}

#[test]
fn the_content_of_another_row_is_not_taken_for_this_one() {
    let folder = Folder::new();
    let (mut store, raw) = three(&folder);
    raw.execute("UPDATE landfall_tasks SET seq = 20 WHERE seq = 2", ()).unwrap();
    let page = store.begin().unwrap().tasks_after(0, 9).unwrap();
    assert_eq!(page.tasks.iter().map(|task| task.seq).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(page.damaged.iter().map(|row| row.seq).collect::<Vec<_>>(), [20]);
}

#[test]
fn counts_come_right_again_when_a_row_with_a_spoilt_state_is_quarantined() {
    for state in [1, 4, 77, -1] {
        let folder = Folder::new();
        let (mut store, raw) = three(&folder);
        raw.execute("UPDATE landfall_tasks SET state = ? WHERE seq = 2", [state]).unwrap();
        commit(&mut store, |tx| {
            let damaged = tx.tasks_after(0, 9).unwrap().damaged;
            tx.quarantine(&damaged[0]).unwrap();
        });
        let tx = store.begin().unwrap();
        assert_eq!(tx.counts().unwrap(), Counts { pending: 2, dead: 1, ..Counts::default() }, "{state}");
        let claimed: Vec<u64> =
            tx.claimable(Timestamp(1), 9).unwrap().tasks.iter().map(|task| task.seq).collect();
        assert_eq!(claimed, [1, 3]);
    }
}

#[test]
fn a_quarantined_row_keeps_its_content() {
    let folder = Folder::new();
    let (mut store, raw) = three(&folder);
    raw.execute("UPDATE landfall_tasks SET fields = '{\"title\":\"a titlf\"}' WHERE seq = 2", ()).unwrap();
    commit(&mut store, |tx| tx.quarantine(&DamagedRow { seq: 2, what: String::new() }).unwrap());
    let kept: String = raw
        .query_one("SELECT fields || entity_id FROM landfall_tasks WHERE seq = 2", (), |row| row.get(0))
        .unwrap();
    assert_eq!(kept, "{\"title\":\"a titlf\"}2");
}

#[test]
fn spoilt_counters_are_counted_again_and_other_spoilt_facts_are_told() {
    let folder = Folder::new();
    let (mut store, raw) = three(&folder);
    commit(&mut store, |tx| {
        tx.put_replica(&replica(1)).unwrap();
        tx.put_lease(&lease(1)).unwrap();
        tx.put_pull_state(&pull_state(1)).unwrap();
    });
    raw.execute("UPDATE landfall_facts SET value = replace(value, '3', '0') WHERE name = 'counters'", ())
        .unwrap();
    commit(&mut store, |tx| {
        assert_eq!(tx.counts().unwrap().pending, 3);
        assert!(tx.next_seq().unwrap() > 3);
    });
    raw.execute("DELETE FROM landfall_facts WHERE name = 'counters'", ()).unwrap();
    assert_eq!(commit(&mut store, |tx| tx.counts().unwrap().pending), 3);
    raw.execute("UPDATE landfall_facts SET value = replace(value, '1', '2')", ()).unwrap();
    let tx = store.begin().unwrap();
    assert!(matches!(tx.replica(), Err(StoreError::Damaged(_))));
    assert!(matches!(tx.lease(), Err(StoreError::Damaged(_))));
    assert!(matches!(tx.pull_state(), Err(StoreError::Damaged(_))));
    drop(tx);
    // With all facts spoilt the tasks can still be read.
    store.reopen().unwrap();
    assert_eq!(store.begin().unwrap().tasks_after(0, 9).unwrap().tasks.len(), 3);
}
