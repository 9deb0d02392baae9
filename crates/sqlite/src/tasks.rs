//! Rows of the queue: writing them, and every question about them.
//!
//! All questions go through one column list and one decoder, behind the checksum. What a write means for the counters
//! is told to the caller, who keeps them (`tx.rs`). Tests: the store suite, `tests/damage.rs`, `benches/queue_scale.rs`.

use crate::codec::{Cell, Table, Verified, bound, each_row, first_row, sealed, unreadable, verify_first};
use crate::error::{failed, is_constraint};
use crate::identities::Owner;
use crate::meta::{number_of_state, state_of_number};
use landfall_core::change::{Intent, Operation};
use landfall_core::failure::FailureKind;
use landfall_core::id::{EntityKey, Fence, Fingerprint, IdempotencyKey, TaskId, Version};
use landfall_core::store::{DamagedRow, Page, StoreError};
use landfall_core::task::{
    FailureNote, Frozen, History, PRIORITY_STEP, Standing, StateKind, Task, TaskState, Terms,
};
use landfall_core::time::{Hlc, Timestamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params, Row, params_from_iter};
use std::collections::BTreeSet;

/// The format that is written. Rows of schema 2 have format 1.
const FORMAT: i64 = 2;

/// How many columns the checksum covers.
const COLUMNS: usize = 37;

/// How many it covers in a row of format 1.
const COLUMNS_OF_1: usize = 30;

const _: () = assert!(PRIORITY_STEP == 1_000, "the index of ready tasks counts with this number");

/// `SELECT` of a whole row, in the order of [`cells`], and whatever follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT seq, state, claim_at, priority, task_id, entity_type, entity_id, lane, format, generation, ",
            "operation, schema, not_before, changed_ms, changed_count, enqueued_at, retry_at, fence, why, attempts, ",
            "conflict_rounds, last_failure, fields, unset, key, payload, fingerprint, base_version, open_sends, sends, ",
            "terms, grp, lapses_at, held, passed_over, cancelling, action, sum ",
            "FROM landfall_tasks ",
            $rest
        )
    };
}

const INSERT: &str = "INSERT INTO landfall_tasks (seq, state, claim_at, priority, task_id, entity_type, entity_id, \
    lane, format, generation, operation, schema, not_before, changed_ms, changed_count, enqueued_at, retry_at, fence, \
    why, attempts, conflict_rounds, last_failure, fields, unset, key, payload, fingerprint, base_version, open_sends, \
    sends, terms, grp, lapses_at, held, passed_over, cancelling, action, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, \
    ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, \
    ?32, ?33, ?34, ?35, ?36, ?37, ?38)";

/// An update that leaves out what names a task, and with it its indexes.
macro_rules! update {
    ($and_set:literal, $and_where:literal) => {
        concat!(
            "UPDATE landfall_tasks SET state = ?2, claim_at = ?3, priority = ?4, format = ?9, generation = ?10, ",
            "operation = ?11, schema = ?12, not_before = ?13, changed_ms = ?14, changed_count = ?15, ",
            "enqueued_at = ?16, retry_at = ?17, fence = ?18, why = ?19, attempts = ?20, conflict_rounds = ?21, ",
            "last_failure = ?22, fields = ?23, unset = ?24, key = ?25, payload = ?26, fingerprint = ?27, ",
            "base_version = ?28, open_sends = ?29, sends = ?30, terms = ?31, cancelling = ?36, action = ?37, sum = ?38",
            $and_set,
            " WHERE seq = ?1 AND task_id = ?5 AND entity_type = ?6 AND entity_id = ?7 AND lane IS ?8 AND grp IS ?32",
            $and_where
        )
    };
}

/// Most updates leave alone what these indexes are about, too, and so need not touch them.
const UPDATE: &str = update!("", " AND lapses_at IS ?33 AND held = ?34 AND passed_over = ?35");
const UPDATE_STANDING: &str = update!(", lapses_at = ?33, held = ?34, passed_over = ?35", "");

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
    let history = (!task.history.notes().is_empty()).then(|| json(&task.history)).transpose()?;
    let terms = (task.terms != Terms::default()).then(|| json(&task.terms)).transpose()?;
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
        history.into(),
        task.intent.fields.to_json().into(),
        unset.into(),
        frozen.map(|frozen| &frozen.key.0).into(),
        frozen.map(|frozen| &*frozen.payload).into(),
        frozen.map(|frozen| &frozen.fingerprint.0).into(),
        frozen.and_then(|frozen| frozen.base_version.as_ref()).map(|version| version.0.as_str()).into(),
        frozen.map(|frozen| frozen.open_sends).into(),
        frozen.map(|frozen| frozen.sends).into(),
        terms.into(),
        task.terms.group.as_deref().into(),
        task.lapses_at().map(|at| at.0).into(),
        i64::from(task.standing.held).into(),
        i64::from(task.standing.passed_over).into(),
        i64::from(task.standing.cancelling).into(),
        task.intent.action.as_deref().into(),
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
    let old = match row.int(8)? {
        1 => true,
        FORMAT => false,
        _ => return Err(unreadable(8)),
    };
    let history = match (row.is_null(21), old) {
        (true, _) => History::default(),
        (false, true) => [row.json::<FailureNote>(21)?].into_iter().collect(),
        (false, false) => row.json(21)?,
    };
    let standing = if old {
        Standing::default()
    } else {
        Standing { held: row.flag(33)?, passed_over: row.flag(34)?, cancelling: row.flag(35)? }
    };
    Ok(Task {
        id: row.task_id(4)?,
        seq: row.bits(0)?,
        entity: row.entity_key(5)?,
        generation: row.bits(9)?,
        intent: Intent {
            operation: row.word(10, &Operation::ALL, Operation::as_str)?,
            action: if old { None } else { row.maybe_text(36)?.map(str::to_owned) },
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
        history,
        terms: if old || row.is_null(30) { Terms::default() } else { row.json(30)? },
        standing,
    })
}

/// The task of a row, or what can be said of a damaged one.
fn read(row: &Row<'_>) -> Result<Result<Task, DamagedRow>, StoreError> {
    let damaged = |what: String| {
        let seq = row.get::<_, i64>(0).ok().and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0);
        Ok(Err(DamagedRow { seq, what: format!("the task at position {seq}{what}") }))
    };
    // Not verified yet, but no lie about it comes through: the checksums of both formats cover it.
    let columns = match row.get_ref(8).map_err(failed)?.as_i64() {
        Ok(1) => COLUMNS_OF_1,
        _ => COLUMNS,
    };
    match verify_first(Table::Task, row, columns, COLUMNS)? {
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

const BY_ID: &str = select!("WHERE task_id = ?1 AND seq > ?2 AND seq < ?3");
const AFTER: &str = select!("WHERE seq > ?1 AND seq < ?2 ORDER BY seq LIMIT ?3");
const LAST_OF_ENTITY: &str =
    select!("WHERE entity_type = ?1 AND entity_id = ?2 AND seq > ?3 AND seq < ?4 ORDER BY seq DESC LIMIT 1");
const NEXT_OF_ENTITY: &str =
    select!("WHERE entity_type = ?1 AND entity_id = ?2 AND seq > ?3 AND seq < ?4 ORDER BY seq LIMIT 1");
const NEXT_IN_LINE: &str = select!(
    "WHERE entity_type = ?1 AND entity_id = ?2 AND seq > ?3 AND seq < ?4 AND passed_over = 0 ORDER BY seq LIMIT 1"
);
const NEXT_OF_LANE: &str =
    select!("WHERE lane = ?1 AND passed_over = 0 AND seq > ?2 AND seq < ?3 ORDER BY seq LIMIT 1");
const OF_GROUP: &str = select!("WHERE grp = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq");
const WAITING_FOR: &str = select!(
    "WHERE seq IN (SELECT seq FROM landfall_waits WHERE parent = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq LIMIT ?4) \
     ORDER BY seq"
);
const HELD: &str = select!("WHERE held = 1 AND seq > ?1 AND seq < ?2 ORDER BY seq LIMIT ?3");
const LAPSED: &str = select!(
    "WHERE seq >> 40 = ?1 AND lapses_at IS NOT NULL AND lapses_at <= ?2 ORDER BY lapses_at, seq LIMIT ?3"
);
const NEXT_LAPSE: &str = "SELECT lapses_at FROM landfall_tasks WHERE seq >> 40 = ?1 AND lapses_at IS NOT NULL \
                          ORDER BY lapses_at LIMIT 1";
const READY: &str =
    select!("WHERE seq >> 40 = ?1 AND claim_at <= 0 ORDER BY seq - priority * 1000, seq LIMIT ?2");
const DUE: &str =
    select!("WHERE seq >> 40 = ?1 AND claim_at > 0 AND claim_at <= ?2 ORDER BY claim_at, seq LIMIT ?3");
const NEXT_CLAIM: &str = "SELECT claim_at FROM landfall_tasks WHERE seq >> 40 = ?1 AND claim_at > 0 AND claim_at > ?2 \
                          ORDER BY claim_at LIMIT 1";
const WAITING_AFTER: &str =
    select!("WHERE seq >> 40 = ?1 AND claim_at > 0 AND claim_at > ?2 ORDER BY claim_at, seq LIMIT ?3");
const PENDING: &str = select!("WHERE +state = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq LIMIT ?4");
const IN_STATE: &str =
    select!("WHERE state > 0 AND state = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq LIMIT ?4");
const OLDEST: &str = select!("WHERE seq > ?1 AND seq < ?2 ORDER BY seq");

pub(crate) fn by_id(connection: &Connection, owner: Owner, id: TaskId) -> Result<Option<Task>, StoreError> {
    one(connection, BY_ID, (id.0.as_bytes(), owner.floor(), owner.end()), |task| task.id == id)
}

fn page(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    fits: impl Fn(&Task) -> bool,
) -> Result<Page, StoreError> {
    let mut page = Page::default();
    add_page(&mut page, connection, sql, params, fits)?;
    Ok(page)
}

pub(crate) fn after(
    connection: &Connection,
    owner: Owner,
    after: u64,
    limit: usize,
) -> Result<Page, StoreError> {
    let params = (owner.behind(after), owner.end(), bound(limit));
    page(connection, AFTER, params, |task| task.seq > after)
}

pub(crate) fn last_of_entity(
    connection: &Connection,
    owner: Owner,
    key: &EntityKey,
) -> Result<Option<Task>, StoreError> {
    let params = (&key.entity_type, &key.entity_id, owner.floor(), owner.end());
    one(connection, LAST_OF_ENTITY, params, |task| task.entity == *key)
}

pub(crate) fn next_of_entity(
    connection: &Connection,
    owner: Owner,
    key: &EntityKey,
    after: u64,
) -> Result<Option<Task>, StoreError> {
    let params = (&key.entity_type, &key.entity_id, owner.behind(after), owner.end());
    one(connection, NEXT_OF_ENTITY, params, |task| task.entity == *key && task.seq > after)
}

pub(crate) fn next_in_line(
    connection: &Connection,
    owner: Owner,
    key: &EntityKey,
    after: u64,
) -> Result<Option<Task>, StoreError> {
    let params = (&key.entity_type, &key.entity_id, owner.behind(after), owner.end());
    one(connection, NEXT_IN_LINE, params, |task| {
        task.entity == *key && task.seq > after && !task.standing.passed_over
    })
}

pub(crate) fn next_of_lane(
    connection: &Connection,
    owner: Owner,
    lane: &str,
    after: u64,
) -> Result<Option<Task>, StoreError> {
    one(connection, NEXT_OF_LANE, (lane, owner.behind(after), owner.end()), |task| {
        task.lane.as_deref() == Some(lane) && task.seq > after && !task.standing.passed_over
    })
}

pub(crate) fn of_group(connection: &Connection, owner: Owner, group: &str) -> Result<Page, StoreError> {
    let params = (group, owner.floor(), owner.end());
    page(connection, OF_GROUP, params, |task| task.terms.group.as_deref() == Some(group))
}

pub(crate) fn waiting_for(
    connection: &Connection,
    owner: Owner,
    parent: TaskId,
    after: u64,
    limit: usize,
) -> Result<Page, StoreError> {
    let params = (parent.0.as_bytes(), owner.behind(after), owner.end(), bound(limit));
    page(connection, WAITING_FOR, params, |task| task.terms.waits_for.contains(&parent))
}

pub(crate) fn held_after(
    connection: &Connection,
    owner: Owner,
    after: u64,
    limit: usize,
) -> Result<Page, StoreError> {
    let params = (owner.behind(after), owner.end(), bound(limit));
    page(connection, HELD, params, |task| task.standing.held && task.seq > after)
}

pub(crate) fn lapsed(
    connection: &Connection,
    owner: Owner,
    now: Timestamp,
    limit: usize,
) -> Result<Page, StoreError> {
    let params = (owner.number(), now.0, bound(limit));
    page(connection, LAPSED, params, |task| task.lapses_at().is_some_and(|at| at <= now))
}

pub(crate) fn next_lapse(connection: &Connection, owner: Owner) -> Result<Option<Timestamp>, StoreError> {
    let mut statement = connection.prepare_cached(NEXT_LAPSE).map_err(failed)?;
    first_row(&mut statement, [owner.number()], |row| row.get(0).map(Timestamp).map_err(failed))
}

/// Looks at `limit` ready tasks and at `limit` of those whose time has come, and gives the first `limit` of both.
pub(crate) fn claimable(
    connection: &Connection,
    owner: Owner,
    now: Timestamp,
    limit: usize,
) -> Result<Page, StoreError> {
    let is_due = |task: &Task| task.claim_at.is_some_and(|at| at <= now.max(Timestamp::ALWAYS));
    let mut page = page(connection, READY, (owner.number(), bound(limit)), is_due)?;
    let ready = page.tasks.len();
    add_page(&mut page, connection, DUE, (owner.number(), now.0, bound(limit)), is_due)?;
    if page.tasks.len() > ready {
        page.tasks.sort_by_key(|task| (task.rank(), task.seq));
        page.tasks.truncate(limit);
    }
    Ok(page)
}

pub(crate) fn next_claim(
    connection: &Connection,
    owner: Owner,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let mut statement = connection.prepare_cached(NEXT_CLAIM).map_err(failed)?;
    first_row(&mut statement, (owner.number(), now.0), |row| row.get(0).map(Timestamp).map_err(failed))
}

pub(crate) fn waiting_after(
    connection: &Connection,
    owner: Owner,
    moment: Timestamp,
    limit: usize,
) -> Result<Page, StoreError> {
    page(connection, WAITING_AFTER, (owner.number(), moment.0, bound(limit)), |task| {
        task.claim_at.is_some_and(|at| at > moment && at > Timestamp::ALWAYS)
    })
}

pub(crate) fn in_state(
    connection: &Connection,
    owner: Owner,
    state: StateKind,
    after: u64,
    limit: usize,
) -> Result<Page, StoreError> {
    let sql = if state == StateKind::Pending { PENDING } else { IN_STATE };
    let params = (number_of_state(state), owner.behind(after), owner.end(), bound(limit));
    page(connection, sql, params, |task| task.state.kind() == state && task.seq > after)
}

pub(crate) fn oldest(connection: &Connection, owner: Owner) -> Result<Option<Timestamp>, StoreError> {
    let mut statement = connection.prepare_cached(OLDEST).map_err(failed)?;
    let mut oldest = None;
    each_row(&mut statement, (owner.floor(), owner.end()), |row| {
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

/// Writes a task. `above_all` says that no position of the owner's is as great as this one.
pub(crate) fn put(
    connection: &Connection,
    owner: Owner,
    task: &Task,
    above_all: bool,
) -> Result<Before, StoreError> {
    if !owner.has(task.seq) {
        return Err(StoreError::Misuse(format!("{} is not a position in this queue", task.seq)));
    }
    let cells = cells(task)?;
    if above_all && insert(connection, &cells)? {
        wait(connection, task, &BTreeSet::new())?;
        return Ok(Before::New);
    }
    let Some(place) = find(connection, owner, task)? else {
        return if insert(connection, &cells)? {
            wait(connection, task, &BTreeSet::new())?;
            Ok(Before::New)
        } else {
            Err(StoreError::Misuse(format!("position {} is taken by another task", task.seq)))
        };
    };
    if place.seq == signed(task.seq) {
        for sql in [UPDATE, UPDATE_STANDING] {
            let mut update = connection.prepare_cached(sql).map_err(failed)?;
            if update.execute(params_from_iter(&cells)).map_err(failed)? == 1 {
                let waited_for = place.waited_for(connection, &task.terms.waits_for)?;
                wait(connection, task, &waited_for)?;
                return Ok(place.before);
            }
        }
    } else if is_taken(connection, task.seq)? {
        return Err(StoreError::Misuse(format!("position {} is taken by another task", task.seq)));
    }
    place.waited_for(connection, &BTreeSet::new())?;
    delete(connection, place.seq)?;
    if !insert(connection, &cells)? {
        return Err(StoreError::Corrupt(format!("the indexes of task {} contradict each other", task.id)));
    }
    wait(connection, task, &BTreeSet::new())?;
    Ok(place.before)
}

/// Removes a task; `None` when it is not there.
pub(crate) fn remove(
    connection: &Connection,
    owner: Owner,
    task: &Task,
) -> Result<Option<Before>, StoreError> {
    let Some(place) = find(connection, owner, task)? else { return Ok(None) };
    place.waited_for(connection, &BTreeSet::new())?;
    delete(connection, place.seq)?;
    Ok(Some(place.before))
}

/// Takes a damaged row out of the running without touching what else is in it.
pub(crate) fn quarantine(connection: &Connection, owner: Owner, seq: u64) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(select!("WHERE seq = ?")).map_err(failed)?;
    let is_damaged =
        owner.has(seq) && matches!(first_row(&mut statement, [signed(seq)], read)?, Some(Err(_)));
    if !is_damaged {
        return Err(StoreError::Misuse(format!("the row at position {seq} is not damaged")));
    }
    let sql =
        "UPDATE landfall_tasks SET state = 4, claim_at = NULL, lapses_at = NULL, held = 0 WHERE seq = ?";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute([signed(seq)]).map_err(failed)?;
    Ok(())
}

/// Where a task is stored now.
struct Place {
    seq: i64,
    before: Before,
    /// Its terms as they stand there, if there are any. They are not verified.
    terms: Option<String>,
}

impl Place {
    /// The tasks that the row waited for, of which those that are not in `still` are taken out of the table.
    fn waited_for(
        &self,
        connection: &Connection,
        still: &BTreeSet<TaskId>,
    ) -> Result<BTreeSet<TaskId>, StoreError> {
        let Some(terms) = &self.terms else { return Ok(BTreeSet::new()) };
        let Ok(terms) = serde_json::from_str::<Terms>(terms) else {
            // Of a damaged row nobody knows it; that is rare enough to walk over the table.
            let sql = "DELETE FROM landfall_waits WHERE seq = ?";
            connection.prepare_cached(sql).map_err(failed)?.execute([self.seq]).map_err(failed)?;
            return Ok(BTreeSet::new());
        };
        let sql = "DELETE FROM landfall_waits WHERE parent = ? AND seq = ?";
        for parent in terms.waits_for.difference(still) {
            let mut statement = connection.prepare_cached(sql).map_err(failed)?;
            statement.execute((parent.0.as_bytes(), self.seq)).map_err(failed)?;
        }
        Ok(terms.waits_for)
    }
}

/// Notes which tasks it waits for; those of `known` are noted already.
fn wait(connection: &Connection, task: &Task, known: &BTreeSet<TaskId>) -> Result<(), StoreError> {
    for parent in task.terms.waits_for.difference(known) {
        let sql = "INSERT OR IGNORE INTO landfall_waits (parent, seq) VALUES (?, ?)";
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        statement.execute((parent.0.as_bytes(), signed(task.seq))).map_err(failed)?;
    }
    Ok(())
}

const HERE: &str = "SELECT seq, state, task_id, terms FROM landfall_tasks WHERE seq = ?";
const ANYWHERE: &str =
    "SELECT seq, state, task_id, terms FROM landfall_tasks WHERE task_id = ? AND seq > ? AND seq < ?";

/// Looks where the task says it is, which costs least, then for its id.
fn find(connection: &Connection, owner: Owner, task: &Task) -> Result<Option<Place>, StoreError> {
    let id = task.id.0.as_bytes();
    let place = |row: &Row<'_>| {
        let state = row.get_ref(1).map_err(failed)?;
        let readable = if let ValueRef::Integer(number) = state { state_of_number(number) } else { None };
        let before = readable.map_or(Before::Unreadable, Before::Was);
        if row.get_ref(2).map_err(failed)? != ValueRef::Blob(id) {
            return Ok(None);
        }
        let terms = match row.get_ref(3).map_err(failed)? {
            ValueRef::Null => None,
            ValueRef::Text(terms) => Some(String::from_utf8_lossy(terms).into_owned()),
            _ => Some(String::new()),
        };
        Ok(Some(Place { seq: row.get(0).map_err(failed)?, before, terms }))
    };
    if owner.has(task.seq) {
        let mut statement = connection.prepare_cached(HERE).map_err(failed)?;
        if let Some(found) = first_row(&mut statement, [signed(task.seq)], place)?.flatten() {
            return Ok(Some(found));
        }
    }
    let mut statement = connection.prepare_cached(ANYWHERE).map_err(failed)?;
    Ok(first_row(&mut statement, (id, owner.floor(), owner.end()), place)?.flatten())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::tests::{plan_of, store_in_memory};

    #[test]
    fn no_question_walks_over_what_was_not_asked_for() {
        let connection = store_in_memory();
        for (sql, expected) in [
            (BY_ID, "USING INDEX landfall_tasks_id (task_id=?)"),
            (ANYWHERE, "USING INDEX landfall_tasks_id (task_id=?)"),
            (HERE, "USING INTEGER PRIMARY KEY (rowid=?)"),
            (AFTER, "USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
            (
                LAST_OF_ENTITY,
                "USING INDEX landfall_tasks_entity (entity_type=? AND entity_id=? AND rowid>? AND rowid<?)",
            ),
            (
                NEXT_OF_ENTITY,
                "USING INDEX landfall_tasks_entity (entity_type=? AND entity_id=? AND rowid>? AND rowid<?)",
            ),
            (
                NEXT_IN_LINE,
                "USING INDEX landfall_tasks_entity (entity_type=? AND entity_id=? AND rowid>? AND rowid<?)",
            ),
            (NEXT_OF_LANE, "USING INDEX landfall_tasks_lane (lane=? AND rowid>? AND rowid<?)"),
            (OF_GROUP, "USING INDEX landfall_tasks_group (grp=? AND rowid>? AND rowid<?)"),
            (HELD, "USING INDEX landfall_tasks_held (held=? AND rowid>? AND rowid<?)"),
            (LAPSED, "USING INDEX landfall_tasks_lapsing (<expr>=? AND lapses_at>? AND lapses_at<?)"),
            (NEXT_LAPSE, "USING INDEX landfall_tasks_lapsing (<expr>=? AND lapses_at>?)"),
            (READY, "USING INDEX landfall_tasks_ready (<expr>=?)"),
            (DUE, "USING INDEX landfall_tasks_waiting (<expr>=? AND claim_at>? AND claim_at<?)"),
            (NEXT_CLAIM, "USING INDEX landfall_tasks_waiting (<expr>=? AND claim_at>?)"),
            (WAITING_AFTER, "USING INDEX landfall_tasks_waiting (<expr>=? AND claim_at>?)"),
            (PENDING, "USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
            (IN_STATE, "USING INDEX landfall_tasks_state (state=? AND rowid>? AND rowid<?)"),
            (OLDEST, "USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ] {
            let plan = plan_of(&connection, sql).replace(" COVERING", "");
            assert_eq!(plan, format!("SEARCH landfall_tasks {expected}"), "{sql}");
        }
        assert!(
            plan_of(&connection, WAITING_FOR)
                .contains("landfall_waits USING PRIMARY KEY (parent=? AND seq>? AND seq<?)")
        );
        assert!(!plan_of(&connection, WAITING_FOR).contains("SCAN landfall_tasks"));
    }

    /// Left to itself SQLite plans a question with a bound limit anew each time it is asked.
    #[test]
    fn a_question_is_prepared_once() {
        let connection = store_in_memory();
        crate::open::set_up_common(&connection, 64).unwrap();
        for sql in
            [AFTER, NEXT_IN_LINE, WAITING_FOR, HELD, LAPSED, READY, DUE, WAITING_AFTER, PENDING, IN_STATE]
        {
            let mut statement = connection.prepare(sql).unwrap();
            for number in 1..9 {
                let params = vec![number; statement.parameter_count()];
                assert!(statement.query(params_from_iter(params)).unwrap().next().unwrap().is_none());
            }
            assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0, "{sql}");
        }
    }
}
