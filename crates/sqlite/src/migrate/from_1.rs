//! From schema 1: the conflicts that were kept in columns become whole records.
//!
//! Schema 1 wrote down less than is wanted now. What it did not is worked out where the rest of the file proves it, and
//! otherwise said to be unknown; nothing is made up, and nothing that was kept is dropped. Tests: at the end of the file,
//! `tests/golden.rs`, `tests/damage.rs`.

use crate::codec::{Table, Verified, body, each_row, unreadable, verify};
use crate::conflicts::{self, Columns};
use crate::error::failed;
use crate::identities::Owner;
use crate::{entities, journal};
use landfall_core::change::{Intent, Operation};
use landfall_core::conflict::{ConflictRecord, DecidedBy, Found, Settled, Why};
use landfall_core::entity::{Base, Body, RemoteEntity};
use landfall_core::id::{ConflictId, EntityKey, TaskId, Version};
use landfall_core::patch;
use landfall_core::store::StoreError;
use landfall_core::task::Verdict;
use landfall_core::time::Timestamp;
use landfall_core::value::Fields;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// How many columns the checksum covers. The row's number stands behind it.
const COLUMNS: usize = 11;

/// How the rule of a conflict that was left to a person ended.
const WAITS: &str = "waits for a decision";

/// How the rule of a task that met conflict after conflict began.
const TOO_MANY: &str = "too many rounds";

/// Carries every conflict over and drops the old table.
pub(super) fn carry_conflicts(connection: &Connection) -> Result<(), StoreError> {
    let waiting = waiting(connection)?;
    let sql = "SELECT task_id, format, entity_type, entity_id, at, rule, remote, remote_version, base, local, \
               remote_fields, sum, id FROM landfall_conflicts_1 ORDER BY id";
    let mut statement = connection.prepare(sql).map_err(failed)?;
    each_row(&mut statement, (), |row| {
        let number: i64 = row.get(COLUMNS + 1).map_err(failed)?;
        let waits = row.get_ref(0).map_err(failed)?.as_blob().ok().and_then(|task| waiting.get(task));
        let waits = waits == Some(&number);
        let whole = match verify(Table::ConflictOf1, row, COLUMNS)? {
            Some(row) => read(connection, &row, number, waits),
            None => Err(StoreError::Damaged(String::new())),
        };
        match whole {
            Ok(record) => conflicts::put(connection, Owner::NAMELESS, &record)?,
            Err(StoreError::Damaged(_)) => carry_damaged(connection, row, number, waits)?,
            Err(other) => return Err(other),
        }
        Ok(true)
    })?;
    drop(statement);
    connection.execute_batch("DROP TABLE landfall_conflicts_1").map_err(failed)
}

/// The tasks in the conflict inbox, each with the number of its last conflict: the one it waits for.
fn waiting(connection: &Connection) -> Result<BTreeMap<Vec<u8>, i64>, StoreError> {
    let sql = "SELECT task_id, max(landfall_conflicts_1.id) FROM landfall_conflicts_1 \
               JOIN landfall_tasks USING (task_id) WHERE state = 3 GROUP BY task_id";
    let mut waiting = BTreeMap::new();
    let mut statement = connection.prepare(sql).map_err(failed)?;
    each_row(&mut statement, (), |row| {
        if let Ok(task) = row.get_ref(0).map_err(failed)?.as_blob() {
            waiting.insert(task.to_vec(), row.get(1).map_err(failed)?);
        }
        Ok(true)
    })?;
    Ok(waiting)
}

/// What is needed of a task as it was sent.
#[derive(Deserialize)]
struct Sent {
    operation: Operation,
    #[serde(default)]
    base_version: Option<Version>,
    #[serde(default)]
    fields: Fields,
    #[serde(default)]
    unset: BTreeSet<String>,
}

fn read(
    connection: &Connection,
    row: &Verified<'_>,
    number: i64,
    waits: bool,
) -> Result<ConflictRecord, StoreError> {
    let (task_id, entity) = (row.task_id(0)?, row.entity_key(2)?);
    let (at, rule, payload) = (Timestamp(row.int(4)?), row.text(5)?, row.text(9)?);
    if row.int(1)? != 1 {
        return Err(unreadable(1));
    }
    let version = row.maybe_text(7)?.map(Version::from);
    let remote = body(row, 6, 10)?.map(|body| RemoteEntity::new(entity.clone(), body, version));
    let sent: Option<Sent> = serde_json::from_str(payload).ok();
    let base = base(connection, &entity, row.maybe_text(8)?, sent.as_ref())?;
    let intent = sent.map(|sent| Intent {
        operation: sent.operation,
        action: None,
        fields: sent.fields,
        unset: sent.unset,
    });
    let made_on = base.as_ref().map(|base| &base.body);
    let local = match (&intent, made_on) {
        (Some(intent), made_on) => patch::apply(intent, made_on),
        (None, Some(made_on)) => made_on.clone(),
        (None, None) => Body::Live(Fields::new()),
    };
    let proposal = remote.as_ref().map(|remote| over(&remote.body, intent.as_ref(), &local));
    let settled = if waits {
        None
    } else {
        let given_up = verdict(connection, task_id)? == Some(Verdict::Discarded);
        let confirmed = || remote.as_ref().map(|remote| &remote.body).or(made_on);
        let result = if given_up { confirmed() } else { proposal.as_ref() };
        Some(Settled {
            by: if rule.ends_with(WAITS) { DecidedBy::App } else { DecidedBy::Rule },
            at,
            result: result.unwrap_or(&local).clone(),
            sent_as: None,
            forked_to: None,
        })
    };
    Ok(ConflictRecord {
        id: ConflictId(name(task_id.0, number)),
        task_id,
        at,
        found: Found::Push,
        why: match &remote {
            None => Why::RemoteUnknown,
            Some(_) if rule.starts_with(TOO_MANY) => Why::TooManyRounds,
            Some(_) => Why::Fields,
        },
        base,
        local,
        change: object(payload),
        remote,
        rule: rule.to_owned(),
        fields: Vec::new(),
        proposal,
        settled,
        entity,
    })
}

/// Schema 1 kept the fields of the base alone. If the record still has that base, of the very version that was sent, it
/// is known whether that is all of it; otherwise it is not.
fn base(
    connection: &Connection,
    entity: &EntityKey,
    json: Option<&str>,
    sent: Option<&Sent>,
) -> Result<Option<Base>, StoreError> {
    let Some(fields) = json.and_then(|json| Fields::parse(json).ok()) else { return Ok(None) };
    let version = sent.and_then(|sent| sent.base_version.clone());
    let base = Base { body: Body::Live(fields), version, complete: false };
    let known = readable(entities::read(connection, Owner::NAMELESS, entity))?.and_then(|entity| entity.base);
    let whole =
        known.is_some_and(|known| known.complete && known.body == base.body && known.version == base.version);
    Ok(Some(Base { complete: whole, ..base }))
}

/// How the task ended, if it did and that can be read.
fn verdict(connection: &Connection, task: TaskId) -> Result<Option<Verdict>, StoreError> {
    Ok(readable(journal::entry(connection, Owner::NAMELESS, task))?.map(|entry| entry.verdict))
}

/// Damage elsewhere is told when that is asked for.
fn readable<T>(row: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match row {
        Err(StoreError::Damaged(_)) => Ok(None),
        other => other,
    }
}

/// What became of both sides under the one rule that there was: the change laid over what the backend had. An edit of a
/// record that was deleted there made it again.
fn over(remote: &Body, intent: Option<&Intent>, local: &Body) -> Body {
    match (remote, intent) {
        (Body::Deleted, _) => local.clone(),
        (Body::Live(_), None) => remote.clone(),
        (Body::Live(_), Some(intent)) => match intent.operation {
            Operation::Create => {
                patch::apply(&Intent { operation: Operation::Update, ..intent.clone() }, Some(remote))
            }
            // Schema 1 knew no commands.
            Operation::Action => remote.clone(),
            Operation::Update | Operation::Upsert | Operation::Replace | Operation::Delete => {
                patch::apply(intent, Some(remote))
            }
        },
    }
}

/// What was sent, as the one JSON object that it has to be.
fn object(payload: &str) -> String {
    if Fields::parse(payload).is_ok() {
        payload.to_owned()
    } else if payload.is_empty() {
        "{}".to_owned()
    } else {
        serde_json::json!({ "unreadable": payload }).to_string()
    }
}

/// A name that is the same whenever and wherever this file is brought to schema 2.
fn name(task: Uuid, number: i64) -> Uuid {
    Uuid::new_v5(&task, &[b"conflict of schema 1 ".as_slice(), &number.to_be_bytes()].concat())
}

/// Keeps what is left of a damaged row, in a row that counts as damaged too.
fn carry_damaged(connection: &Connection, row: &Row<'_>, number: i64, waits: bool) -> Result<(), StoreError> {
    let value = |column: usize| row.get_ref(column).unwrap_or(ValueRef::Null);
    let text = |column| match value(column) {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(_) | ValueRef::Null => String::new(),
    };
    let task_id: [u8; 16] = match value(0) {
        ValueRef::Blob(bytes) => bytes.try_into().unwrap_or_default(),
        _ => [0; 16],
    };
    let record = serde_json::json!({
        "rule": text(5),
        "remote": text(6),
        "remote_version": text(7),
        "base": text(8),
        "local": text(9),
        "remote_fields": text(10),
    });
    let id = name(Uuid::from_bytes(task_id), number);
    let left = Columns {
        id: id.as_bytes(),
        task_id: &task_id,
        entity: &EntityKey::new(text(2), text(3)),
        at: Timestamp(value(4).as_i64().unwrap_or(0)),
        open: waits,
        record: &record.to_string(),
        owner: Owner::NAMELESS,
    };
    conflicts::put_damaged(connection, &left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Cell, FORMAT, body_cells, sealed};
    use crate::migrate::climb;
    use crate::migrate::tests::store_of;
    use landfall_core::entity::StoredEntity;
    use landfall_core::id::ClientId;
    use landfall_core::store::{ConflictPage, ConflictQuery};
    use rusqlite::params_from_iter;

    fn key() -> EntityKey {
        EntityKey::new("note", "1")
    }

    fn task_id(generation: u64) -> TaskId {
        TaskId::derive(ClientId(Uuid::from_u128(7)), &key(), generation)
    }

    fn live(title: &str) -> Body {
        Body::Live(Fields::from([("title", title)]))
    }

    /// A conflict as schema 1 had it.
    struct Old {
        task: TaskId,
        rule: &'static str,
        remote: Option<Body>,
        base: Option<&'static str>,
        local: &'static str,
    }

    /// Whose change set the title to "ours", on version 7.
    fn old(generation: u64) -> Old {
        Old {
            task: task_id(generation),
            rule: "last_write_wins",
            remote: Some(Body::Live(Fields::from([("title", "theirs"), ("more", "theirs")]))),
            base: Some(r#"{"title":"old"}"#),
            local: r#"{"operation":"update","base_version":"7","fields":{"title":"ours"},"unset":["gone"]}"#,
        }
    }

    impl Old {
        /// Written as the program did that knew schema 1.
        fn put(&self, connection: &Connection) {
            let (remote, remote_fields) = body_cells(self.remote.as_ref());
            let cells = sealed::<COLUMNS>(
                Table::ConflictOf1,
                [
                    self.task.0.as_bytes().into(),
                    FORMAT.into(),
                    "note".into(),
                    "1".into(),
                    5_i64.into(),
                    self.rule.into(),
                    remote.into(),
                    self.remote.as_ref().map(|_| "8").into(),
                    self.base.into(),
                    self.local.into(),
                    remote_fields.into(),
                ],
            );
            let sql = "INSERT INTO landfall_conflicts (task_id, format, entity_type, entity_id, at, rule, remote, \
                       remote_version, base, local, remote_fields, sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            connection.prepare(sql).unwrap().execute(params_from_iter(cells)).unwrap();
        }
    }

    /// As much of a task as is looked at.
    fn wait_in_the_inbox(connection: &Connection, generation: u64) {
        let sql = "INSERT INTO landfall_tasks (state, priority, task_id, entity_type, entity_id, format, generation, \
                   operation, schema, changed_ms, changed_count, enqueued_at, attempts, conflict_rounds, fields, sum) \
                   VALUES (3, 0, ?, 'note', '1', 1, 1, 'delete', 1, 0, 0, 1, 0, 0, '{}', 0)";
        connection.execute(sql, [task_id(generation).0.as_bytes()]).unwrap();
    }

    fn carried(connection: &Connection) -> ConflictPage {
        climb(connection, 1).unwrap();
        assert!(connection.prepare("SELECT 1 FROM landfall_conflicts_1").is_err(), "nothing is left behind");
        conflicts::page(connection, Owner::NAMELESS, &ConflictQuery::default(), 99).unwrap()
    }

    fn one(connection: &Connection) -> ConflictRecord {
        let mut page = carried(connection);
        assert_eq!((page.conflicts.len(), page.damaged.len()), (1, 0));
        page.conflicts.remove(0)
    }

    #[test]
    fn a_conflict_that_the_rule_settled_says_what_became_of_both_sides() {
        let connection = store_of(1);
        old(1).put(&connection);
        let record = one(&connection);
        let result = Body::Live(Fields::from([("title", "ours"), ("more", "theirs")]));
        let settled =
            Settled { by: DecidedBy::Rule, at: Timestamp(5), result, sent_as: None, forked_to: None };
        let remote = old(1).remote.map(|body| RemoteEntity::new(key(), body, Some("8".into())));
        let expected = ConflictRecord {
            id: record.id,
            task_id: task_id(1),
            entity: key(),
            at: Timestamp(5),
            found: Found::Push,
            why: Why::Fields,
            base: Some(Base { body: live("old"), version: Some("7".into()), complete: false }),
            local: live("ours"),
            change: old(1).local.to_owned(),
            remote,
            rule: "last_write_wins".to_owned(),
            fields: Vec::new(),
            proposal: Some(settled.result.clone()),
            settled: Some(settled),
        };
        assert_eq!(record, expected);
    }

    #[test]
    fn the_same_file_gets_the_same_names_each_time() {
        let ids = || {
            let connection = store_of(1);
            [1, 1, 2].into_iter().for_each(|generation| old(generation).put(&connection));
            carried(&connection).conflicts.into_iter().map(|record| record.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(), ids());
        assert_eq!(ids().into_iter().collect::<BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn a_conflict_waits_when_its_task_does_and_it_is_the_last_of_it() {
        let connection = store_of(1);
        let waits = Old { rule: "too many rounds; waits for a decision", ..old(1) };
        [&waits, &old(2), &waits].into_iter().for_each(|old| old.put(&connection));
        wait_in_the_inbox(&connection, 1);
        let page = carried(&connection);
        let open: Vec<bool> = page.conflicts.iter().map(ConflictRecord::is_open).collect();
        assert_eq!(open, [true, false, false], "the last kept first");
        assert_eq!(page.conflicts[0].why, Why::TooManyRounds);
        let by: Vec<DecidedBy> =
            page.conflicts.iter().filter_map(|record| Some(record.settled.as_ref()?.by)).collect();
        assert_eq!(by, [DecidedBy::Rule, DecidedBy::App], "a person has sent the first one again");
        let open = ConflictQuery { open_only: true, ..ConflictQuery::default() };
        assert_eq!(
            conflicts::page(&connection, Owner::NAMELESS, &open, 9).unwrap().conflicts,
            page.conflicts[..1]
        );
    }

    #[test]
    fn a_base_is_whole_only_if_the_record_still_has_that_very_base() {
        let rows = [
            (live("old"), Some("7"), true, true),
            (live("old"), Some("7"), false, false),
            (live("old"), Some("6"), true, false),
            (live("new"), Some("7"), true, false),
        ];
        for (body, version, complete, expected) in rows {
            let connection = store_of(1);
            old(1).put(&connection);
            // In a row of format 1, as this file would have it.
            put_of_1(&connection, &body, version, complete);
            let base = one(&connection).base.unwrap();
            assert_eq!(
                (base.body, base.complete),
                (live("old"), expected),
                "{body:?} {version:?} {complete}"
            );
        }
    }

    /// Writes what is known of the record as the program did that knew schema 1.
    fn put_of_1(connection: &Connection, base: &Body, version: Option<&str>, complete: bool) {
        let (base, base_fields) = body_cells(Some(base));
        let cells = sealed::<13>(
            Table::Entity,
            [
                "note".into(),
                "1".into(),
                FORMAT.into(),
                1_i64.into(),
                base.into(),
                i64::from(complete).into(),
                version.into(),
                3_i64.into(),
                0_i64.into(),
                Cell::Null,
                base_fields.into(),
                Cell::Null,
                Cell::Null,
            ],
        );
        let sql = "INSERT INTO landfall_entities (entity_type, entity_id, format, generation, base, base_complete, \
                   base_version, local, staged, staged_version, base_fields, local_fields, staged_fields, sum) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        connection.prepare(sql).unwrap().execute(params_from_iter(cells)).unwrap();
    }

    #[test]
    fn what_was_not_written_down_is_not_made_up() {
        let connection = store_of(1);
        Old { remote: None, base: None, ..old(1) }.put(&connection);
        let record = one(&connection);
        assert_eq!((record.why, record.base, record.remote), (Why::RemoteUnknown, None, None));
        assert_eq!((record.local, record.proposal), (live("ours"), None));
        for (local, change) in [("", "{}"), ("x", r#"{"unreadable":"x"}"#), (r#"{"a":1}"#, r#"{"a":1}"#)] {
            let connection = store_of(1);
            Old { local, ..old(1) }.put(&connection);
            let record = one(&connection);
            assert_eq!((record.local, record.change.as_str()), (live("old"), change));
            assert_eq!(
                record.settled.unwrap().result,
                old(1).remote.unwrap(),
                "of the change nothing is known"
            );
        }
    }

    #[test]
    fn every_operation_ends_as_the_one_rule_had_it() {
        let theirs = || Some(Body::Live(Fields::from([("title", "theirs"), ("more", "theirs")])));
        let merged = Body::Live(Fields::from([("title", "ours"), ("more", "theirs")]));
        let rows = [
            ("create", theirs(), merged.clone()),
            ("update", theirs(), merged.clone()),
            ("upsert", theirs(), merged),
            ("replace", theirs(), live("ours")),
            ("delete", theirs(), Body::Deleted),
            ("update", Some(Body::Deleted), live("ours")),
            ("delete", Some(Body::Deleted), Body::Deleted),
            ("update", None, live("ours")),
        ];
        for (operation, remote, result) in rows {
            let local = format!(r#"{{"operation":"{operation}","fields":{{"title":"ours"}}}}"#);
            let connection = store_of(1);
            Old { remote: remote.clone(), local: local.leak(), ..old(1) }.put(&connection);
            assert_eq!(one(&connection).settled.unwrap().result, result, "{operation} over {remote:?}");
        }
    }

    #[test]
    fn a_change_that_was_given_up_left_the_backends_state() {
        let connection = store_of(1);
        let given_up = Old { rule: "the backend did not say what it has; waits for a decision", ..old(1) };
        given_up.put(&connection);
        let id = task_id(1);
        let cells = sealed::<9>(
            Table::Journal,
            [
                id.0.as_bytes().into(),
                FORMAT.into(),
                "note".into(),
                "1".into(),
                1_i64.into(),
                Verdict::Discarded.as_str().into(),
                Cell::Null,
                9_i64.into(),
                "{}".into(),
            ],
        );
        let sql = "INSERT INTO landfall_journal (task_id, format, entity_type, entity_id, generation, verdict, version, \
                   at, payload, sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        connection.prepare(sql).unwrap().execute(params_from_iter(cells)).unwrap();
        let settled = one(&connection).settled.unwrap();
        assert_eq!((settled.by, Some(settled.result)), (DecidedBy::App, old(1).remote));
    }

    #[test]
    fn a_damaged_conflict_stays_one_and_stops_nothing() {
        let spoil = [
            "rule = 'x'",
            "task_id = x'07'",
            "entity_type = CAST(x'ff' AS TEXT)",
            "remote = 77",
            "format = 9",
            "sum = 0",
        ];
        for spoil in spoil {
            let connection = store_of(1);
            [1, 2, 3].into_iter().for_each(|generation| old(generation).put(&connection));
            connection.execute(&format!("UPDATE landfall_conflicts SET {spoil} WHERE id = 2"), ()).unwrap();
            let page = carried(&connection);
            let whole: Vec<TaskId> = page.conflicts.iter().map(|record| record.task_id).collect();
            assert_eq!((whole, page.damaged.len()), (vec![task_id(3), task_id(1)], 1), "{spoil}");
            let sql = "SELECT record FROM landfall_conflicts WHERE id = 2";
            let left: String = connection.query_one(sql, (), |row| row.get(0)).unwrap();
            assert!(left.contains("ours") && left.contains("old") && left.contains("theirs"), "{left}");
            assert_eq!(
                conflicts::prune(&connection, Owner::NAMELESS, Timestamp(i64::MAX), 99).unwrap(),
                2,
                "{spoil}"
            );
            let page = conflicts::page(&connection, Owner::NAMELESS, &ConflictQuery::default(), 99).unwrap();
            assert_eq!((page.conflicts, page.damaged.len()), (vec![], 1), "it is not thrown away");
        }
    }

    #[test]
    fn a_damaged_conflict_whose_task_waits_is_found_among_the_open_ones() {
        let connection = store_of(1);
        [1, 2].into_iter().for_each(|generation| old(generation).put(&connection));
        wait_in_the_inbox(&connection, 2);
        connection.execute("UPDATE landfall_conflicts SET rule = 'x'", ()).unwrap();
        assert_eq!(carried(&connection).damaged.len(), 2);
        let open = ConflictQuery { open_only: true, ..ConflictQuery::default() };
        assert_eq!(conflicts::page(&connection, Owner::NAMELESS, &open, 99).unwrap().damaged.len(), 1);
    }

    #[test]
    fn records_of_format_1_are_read_and_written_anew_as_format_3() {
        let connection = store_of(1);
        put_of_1(&connection, &live("old"), Some("7"), true);
        climb(&connection, 1).unwrap();
        let entity = entities::read(&connection, Owner::NAMELESS, &key()).unwrap().unwrap();
        let base = Some(Base { body: live("old"), version: Some("7".into()), complete: true });
        let expected =
            StoredEntity { generation: 1, base, local: Some(live("old")), ..StoredEntity::unknown(key()) };
        assert_eq!(entity, expected);
        let format = |number: i64| {
            let sql = "UPDATE landfall_entities SET format = ?";
            connection.prepare(sql).unwrap().execute([number]).unwrap();
            entities::read(&connection, Owner::NAMELESS, &key())
        };
        assert!(matches!(format(2), Err(StoreError::Damaged(_))));
        assert_eq!(format(1), Ok(Some(expected.clone())));
        let next = StoredEntity { reading: u64::MAX, ..expected };
        entities::put(&connection, Owner::NAMELESS, &next).unwrap();
        assert_eq!(entities::read(&connection, Owner::NAMELESS, &key()), Ok(Some(next.clone())));
        assert!(matches!(format(1), Err(StoreError::Damaged(_))));
        assert!(matches!(format(2), Err(StoreError::Damaged(_))));
        assert!(matches!(format(4), Err(StoreError::Damaged(_))));
        assert_eq!(format(3), Ok(Some(next)));
    }
}
