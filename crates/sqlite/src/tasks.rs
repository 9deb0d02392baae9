//! Rows of the queue: writing them, and every question about them.
//!
//! All questions go through one column list and one decoder, behind the checksum. What a write means for the counters
//! is told to the caller, who keeps them (`tx.rs`). Tests: the store suite, `tests/damage.rs`, `benches/queue_scale.rs`.

use crate::codec::{Cell, FORMAT, Table, Verified, bound, each_row, first_row, sealed, verify};
use crate::error::{failed, is_constraint};
use crate::meta::{number_of_state, state_of_number};
use landfall_core::change::{Intent, Operation};
use landfall_core::failure::FailureKind;
use landfall_core::id::{EntityKey, Fence, Fingerprint, IdempotencyKey, TaskId, Version};
use landfall_core::store::{DamagedRow, Page, StoreError};
use landfall_core::task::{Frozen, StateKind, Task, TaskState};
use landfall_core::time::{Hlc, Timestamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params, Row, params_from_iter};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// How many columns the checksum covers.
const COLUMNS: usize = 30;

/// `SELECT` of a whole row, in the order of [`cells`], and whatever follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT seq, state, claim_at, priority, task_id, entity_type, entity_id, lane, format, generation, ",
            "operation, schema, not_before, changed_ms, changed_count, enqueued_at, retry_at, fence, why, attempts, ",
            "conflict_rounds, last_failure, fields, unset, key, payload, fingerprint, base_version, open_sends, sends, ",
            "sum ",
            "FROM landfall_tasks ",
            $rest
        )
    };
}

const INSERT: &str = "INSERT INTO landfall_tasks (seq, state, claim_at, priority, task_id, entity_type, entity_id, \
    lane, format, generation, operation, schema, not_before, changed_ms, changed_count, enqueued_at, retry_at, fence, \
    why, attempts, conflict_rounds, last_failure, fields, unset, key, payload, fingerprint, base_version, open_sends, \
    sends, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, \
    ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31)";

/// Leaves out what names a task, and with it three of the indexes.
const UPDATE: &str = "UPDATE landfall_tasks SET state = ?2, claim_at = ?3, priority = ?4, format = ?9, \
    generation = ?10, operation = ?11, schema = ?12, not_before = ?13, changed_ms = ?14, changed_count = ?15, \
    enqueued_at = ?16, retry_at = ?17, fence = ?18, why = ?19, attempts = ?20, conflict_rounds = ?21, \
    last_failure = ?22, fields = ?23, unset = ?24, key = ?25, payload = ?26, fingerprint = ?27, base_version = ?28, \
    open_sends = ?29, sends = ?30, sum = ?31 \
    WHERE seq = ?1 AND task_id = ?5 AND entity_type = ?6 AND entity_id = ?7 AND lane IS ?8";

fn cells(task: &Task) -> Result<Vec<Cell<'_>>, StoreError> {
    let (mut retry_at, mut fence, mut why) = (None, None, None);
    match task.state {
        TaskState::Pending { retry_at: at } => retry_at = at,
        TaskState::InFlight { fence: of } => fence = Some(of.0),
        TaskState::Unknown { retry_at: at } => retry_at = Some(at),
        TaskState::Conflict => {}
        TaskState::Dead { why: kind } => why = Some(kind.as_str()),
    }
    let frozen = task.frozen.as_ref();
    let unset = (!task.intent.unset.is_empty()).then(|| json(&task.intent.unset)).transpose()?;
    let last_failure = task.last_failure.as_ref().map(json).transpose()?;
    let row: [Cell<'_>; COLUMNS] = [
        task.seq.into(),
        number_of_state(task.state.kind()).into(),
        task.claim_at.map(|at| at.0).into(),
        i64::from(task.priority).into(),
        task.id.0.as_bytes().into(),
        task.entity.entity_type.as_str().into(),
        task.entity.entity_id.as_str().into(),
        task.lane.as_deref().into(),
        FORMAT.into(),
        task.generation.into(),
        task.intent.operation.as_str().into(),
        task.schema.into(),
        task.not_before.map(|at| at.0).into(),
        task.changed_at.wall_ms.into(),
        task.changed_at.counter.into(),
        task.enqueued_at.0.into(),
        retry_at.map(|at| at.0).into(),
        fence.into(),
        why.into(),
        task.attempts.into(),
        task.conflict_rounds.into(),
        last_failure.into(),
        task.intent.fields.to_json().into(),
        unset.into(),
        frozen.map(|frozen| &frozen.key.0).into(),
        frozen.map(|frozen| &*frozen.payload).into(),
        frozen.map(|frozen| &frozen.fingerprint.0).into(),
        frozen.and_then(|frozen| frozen.base_version.as_ref()).map(|version| version.0.as_str()).into(),
        frozen.map(|frozen| frozen.open_sends).into(),
        frozen.map(|frozen| frozen.sends).into(),
    ];
    Ok(sealed(Table::Task, row))
}

fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Misuse(error.to_string()))
}

fn decode(row: &Verified<'_>) -> Result<Task, StoreError> {
    let retry_at = row.maybe_int(16)?.map(Timestamp);
    let missing = || StoreError::Damaged("a task lacks what its state needs".to_string());
    let state = match state_of_number(row.int(1)?).ok_or_else(missing)? {
        StateKind::Pending => TaskState::Pending { retry_at },
        StateKind::InFlight => TaskState::InFlight { fence: Fence(row.bits(17)?) },
        StateKind::Unknown => TaskState::Unknown { retry_at: retry_at.ok_or_else(missing)? },
        StateKind::Conflict => TaskState::Conflict,
        StateKind::Dead => TaskState::Dead { why: row.word(18, &FailureKind::ALL, FailureKind::as_str)? },
    };
    let frozen = if row.is_null(24) {
        None
    } else {
        Some(Frozen {
            key: IdempotencyKey(row.blob(24)?),
            payload: row.text(25)?.into(),
            fingerprint: Fingerprint(row.blob(26)?),
            base_version: row.maybe_text(27)?.map(Version::from),
            open_sends: row.small(28)?,
            sends: row.small(29)?,
        })
    };
    Ok(Task {
        id: row.task_id(4)?,
        seq: row.bits(0)?,
        entity: row.entity_key(5)?,
        generation: row.bits(9)?,
        intent: Intent {
            operation: row.word(10, &Operation::ALL, Operation::as_str)?,
            fields: row.json(22)?,
            unset: if row.is_null(23) { BTreeSet::new() } else { row.json(23)? },
        },
        schema: row.small(11)?,
        lane: row.maybe_text(7)?.map(str::to_owned),
        priority: row.small(3)?,
        not_before: row.maybe_int(12)?.map(Timestamp),
        changed_at: Hlc { wall_ms: row.int(13)?, counter: row.small(14)? },
        enqueued_at: Timestamp(row.int(15)?),
        state,
        frozen,
        claim_at: row.maybe_int(2)?.map(Timestamp),
        attempts: row.small(19)?,
        conflict_rounds: row.small(20)?,
        last_failure: if row.is_null(21) { None } else { Some(row.json(21)?) },
    })
}

/// The task of a row, or what can be said of a damaged one.
fn read(row: &Row<'_>) -> Result<Result<Task, DamagedRow>, StoreError> {
    let damaged = |what: String| {
        let seq = row.get::<_, i64>(0).ok().and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0);
        Ok(Err(DamagedRow { seq, what: format!("the task at position {seq}{what}") }))
    };
    match verify(Table::Task, row, COLUMNS)? {
        None => damaged(String::new()),
        Some(verified) => match decode(&verified) {
            Ok(task) => Ok(Ok(task)),
            Err(StoreError::Damaged(why)) => damaged(format!(": {why}")),
            Err(other) => Err(other),
        },
    }
}

/// What a task must be to answer a question. A row can be whole while an index that leads to it is not.
fn must(fits: bool, task: Task) -> Result<Task, StoreError> {
    if fits {
        Ok(task)
    } else {
        Err(StoreError::Corrupt(format!("an index leads to position {} wrongly", task.seq)))
    }
}

fn one(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    fits: impl Fn(&Task) -> bool,
) -> Result<Option<Task>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    match first_row(&mut statement, params, read)? {
        None => Ok(None),
        Some(Ok(task)) => must(fits(&task), task).map(Some),
        Some(Err(row)) => Err(StoreError::Damaged(row.what)),
    }
}

fn add_page(
    page: &mut Page,
    connection: &Connection,
    sql: &str,
    params: impl Params,
    fits: impl Fn(&Task) -> bool,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, params, |row| {
        match read(row)? {
            Ok(task) => page.tasks.push(must(fits(&task), task)?),
            Err(row) => page.damaged.push(row),
        }
        Ok(true)
    })
}

/// A number for SQL, where every number has a sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn by_id(connection: &Connection, id: TaskId) -> Result<Option<Task>, StoreError> {
    one(connection, select!("WHERE task_id = ?"), [id.0.as_bytes()], |task| task.id == id)
}

pub(crate) fn after(connection: &Connection, after: u64, limit: usize) -> Result<Page, StoreError> {
    let sql = select!("WHERE seq > ? ORDER BY seq LIMIT ?");
    let mut page = Page::default();
    add_page(&mut page, connection, sql, (signed(after), bound(limit)), |task| task.seq > after)?;
    Ok(page)
}

pub(crate) fn last_of_entity(connection: &Connection, key: &EntityKey) -> Result<Option<Task>, StoreError> {
    let sql = select!("WHERE entity_type = ? AND entity_id = ? ORDER BY seq DESC LIMIT 1");
    one(connection, sql, (&key.entity_type, &key.entity_id), |task| task.entity == *key)
}

pub(crate) fn next_of_entity(
    connection: &Connection,
    key: &EntityKey,
    after: u64,
) -> Result<Option<Task>, StoreError> {
    let sql = select!("WHERE entity_type = ? AND entity_id = ? AND seq > ? ORDER BY seq LIMIT 1");
    let params = (&key.entity_type, &key.entity_id, signed(after));
    one(connection, sql, params, |task| task.entity == *key && task.seq > after)
}

pub(crate) fn next_of_lane(
    connection: &Connection,
    lane: &str,
    after: u64,
) -> Result<Option<Task>, StoreError> {
    let sql = select!("WHERE lane = ? AND seq > ? ORDER BY seq LIMIT 1");
    one(connection, sql, (lane, signed(after)), |task| task.lane.as_deref() == Some(lane) && task.seq > after)
}

/// Looks at `limit` ready tasks and at `limit` of those whose time has come, and gives the first `limit` of both.
pub(crate) fn claimable(connection: &Connection, now: Timestamp, limit: usize) -> Result<Page, StoreError> {
    let ready = select!("WHERE claim_at <= 0 ORDER BY priority DESC, seq LIMIT ?");
    let due = select!("WHERE claim_at > 0 AND claim_at <= ? ORDER BY claim_at, seq LIMIT ?");
    let is_due = |task: &Task| task.claim_at.is_some_and(|at| at <= now.max(Timestamp::ALWAYS));
    let mut page = Page::default();
    add_page(&mut page, connection, ready, [bound(limit)], is_due)?;
    let ready = page.tasks.len();
    add_page(&mut page, connection, due, (now.0, bound(limit)), is_due)?;
    if page.tasks.len() > ready {
        page.tasks.sort_by_key(|task| (Reverse(task.priority), task.seq));
        page.tasks.truncate(limit);
    }
    Ok(page)
}

pub(crate) fn next_claim(connection: &Connection, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
    let sql =
        "SELECT claim_at FROM landfall_tasks WHERE claim_at > 0 AND claim_at > ? ORDER BY claim_at LIMIT 1";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    first_row(&mut statement, [now.0], |row| row.get(0).map(Timestamp).map_err(failed))
}

pub(crate) fn waiting_after(
    connection: &Connection,
    moment: Timestamp,
    limit: usize,
) -> Result<Page, StoreError> {
    let sql = select!("WHERE claim_at > 0 AND claim_at > ? ORDER BY claim_at, seq LIMIT ?");
    let mut page = Page::default();
    add_page(&mut page, connection, sql, (moment.0, bound(limit)), |task| {
        task.claim_at.is_some_and(|at| at > moment && at > Timestamp::ALWAYS)
    })?;
    Ok(page)
}

pub(crate) fn in_state(
    connection: &Connection,
    state: StateKind,
    after: u64,
    limit: usize,
) -> Result<Page, StoreError> {
    let walk = select!("WHERE +state = ? AND seq > ? ORDER BY seq LIMIT ?");
    let few = select!("WHERE state > 0 AND state = ? AND seq > ? ORDER BY seq LIMIT ?");
    let sql = if state == StateKind::Pending { walk } else { few };
    let params = (number_of_state(state), signed(after), bound(limit));
    let mut page = Page::default();
    add_page(&mut page, connection, sql, params, |task| task.state.kind() == state && task.seq > after)?;
    Ok(page)
}

pub(crate) fn oldest(connection: &Connection) -> Result<Option<Timestamp>, StoreError> {
    let mut statement = connection.prepare_cached(select!("ORDER BY seq")).map_err(failed)?;
    let mut oldest = None;
    each_row(&mut statement, (), |row| {
        oldest = read(row)?.ok().map(|task| task.enqueued_at);
        Ok(oldest.is_none())
    })?;
    Ok(oldest)
}

/// The state a row was counted under before it was written or removed.
pub(crate) enum Before {
    /// There was no row.
    New,
    /// There was one in this state.
    Was(StateKind),
    /// There was one, whose state cannot be read.
    Unreadable,
}

/// Writes a task. `above_all` says that no position in the table is as great as this one.
pub(crate) fn put(connection: &Connection, task: &Task, above_all: bool) -> Result<Before, StoreError> {
    if task.seq == 0 || i64::try_from(task.seq).is_err() {
        return Err(StoreError::Misuse(format!("{} is not a position in the queue", task.seq)));
    }
    let cells = cells(task)?;
    if above_all && insert(connection, &cells)? {
        return Ok(Before::New);
    }
    let Some(place) = find(connection, task)? else {
        return if insert(connection, &cells)? {
            Ok(Before::New)
        } else {
            Err(StoreError::Misuse(format!("position {} is taken by another task", task.seq)))
        };
    };
    if place.seq == signed(task.seq) {
        let mut update = connection.prepare_cached(UPDATE).map_err(failed)?;
        if update.execute(params_from_iter(&cells)).map_err(failed)? == 1 {
            return Ok(place.before);
        }
    } else if is_taken(connection, task.seq)? {
        return Err(StoreError::Misuse(format!("position {} is taken by another task", task.seq)));
    }
    delete(connection, place.seq)?;
    if !insert(connection, &cells)? {
        return Err(StoreError::Corrupt(format!("the indexes of task {} contradict each other", task.id)));
    }
    Ok(place.before)
}

/// Removes a task; `None` when it is not there.
pub(crate) fn remove(connection: &Connection, task: &Task) -> Result<Option<Before>, StoreError> {
    let Some(place) = find(connection, task)? else { return Ok(None) };
    delete(connection, place.seq)?;
    Ok(Some(place.before))
}

/// Takes a damaged row out of the running without touching what else is in it.
pub(crate) fn quarantine(connection: &Connection, seq: u64) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(select!("WHERE seq = ?")).map_err(failed)?;
    if !matches!(first_row(&mut statement, [signed(seq)], read)?, Some(Err(_))) {
        return Err(StoreError::Misuse(format!("the row at position {seq} is not damaged")));
    }
    let sql = "UPDATE landfall_tasks SET state = 4, claim_at = NULL WHERE seq = ?";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute([signed(seq)]).map_err(failed)?;
    Ok(())
}

/// Where a task is stored now.
struct Place {
    seq: i64,
    before: Before,
}

/// Looks where the task says it is, which costs least, then for its id.
fn find(connection: &Connection, task: &Task) -> Result<Option<Place>, StoreError> {
    let here = "SELECT seq, state, task_id FROM landfall_tasks WHERE seq = ?";
    let anywhere = "SELECT seq, state, task_id FROM landfall_tasks WHERE task_id = ?";
    let id = task.id.0.as_bytes();
    let place = |row: &Row<'_>| {
        let state = row.get_ref(1).map_err(failed)?;
        let readable = if let ValueRef::Integer(number) = state { state_of_number(number) } else { None };
        let before = readable.map_or(Before::Unreadable, Before::Was);
        let is_it = row.get_ref(2).map_err(failed)? == ValueRef::Blob(id);
        Ok(is_it.then_some(Place { seq: row.get(0).map_err(failed)?, before }))
    };
    let mut statement = connection.prepare_cached(here).map_err(failed)?;
    if let Some(found) = first_row(&mut statement, [signed(task.seq)], place)?.flatten() {
        return Ok(Some(found));
    }
    let mut statement = connection.prepare_cached(anywhere).map_err(failed)?;
    Ok(first_row(&mut statement, [id], place)?.flatten())
}

fn is_taken(connection: &Connection, seq: u64) -> Result<bool, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT 1 FROM landfall_tasks WHERE seq = ?").map_err(failed)?;
    Ok(first_row(&mut statement, [signed(seq)], |_| Ok(()))?.is_some())
}

/// `false` when the position or the id is taken.
fn insert(connection: &Connection, cells: &[Cell<'_>]) -> Result<bool, StoreError> {
    let mut statement = connection.prepare_cached(INSERT).map_err(failed)?;
    match statement.execute(params_from_iter(cells)) {
        Ok(_) => Ok(true),
        Err(error) if is_constraint(&error) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

fn delete(connection: &Connection, seq: i64) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare_cached("DELETE FROM landfall_tasks WHERE seq = ?").map_err(failed)?;
    statement.execute([seq]).map_err(failed)?;
    Ok(())
}
