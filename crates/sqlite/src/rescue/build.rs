//! The new store: every row that is the newest of its kind as it was, and what has to be mended around the gaps.
//!
//! A task that was acknowledged must not come back, and one whose fate is open must be sent again under its own key and
//! no other. So a row that may be out of date is queued only with frozen bytes, as one of unknown fate; without them it
//! goes into the rescue file, because a second key could be a second effect. Tests: `tests/rescue.rs`.

use super::pages::{Image, Value};
use super::rows::Kind;
use super::salvage::{self, Found, Salvage, Trust, Unbelieved, Witness};
use super::{LostRow, Missing};
use crate::codec::{self, Table, first_row};
use crate::error::failed;
use crate::file::Marks;
use crate::identities::{self, Owner};
use crate::meta::{self, Counters};
use crate::migrate::{self, APPLICATION_ID};
use crate::open::Options;
use crate::tx::{Health, Transaction};
use landfall_core::entity::StoredEntity;
use landfall_core::failure::FailureKind;
use landfall_core::id::EntityKey;
use landfall_core::patch;
use landfall_core::store::{Lease, PullState, Replica, StoreError, StoreRead as _, StoreTx as _};
use landfall_core::task::{StateKind, Task, TaskState};
use landfall_core::time::Timestamp;
use rusqlite::{Connection, params_from_iter};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Rows in memory at a time.
const PAGE: usize = 500;

/// What came of it.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) counted: Counted,
    /// Everybody who has a task in the new queue.
    pub(super) owners: Vec<Owner>,
    pub(super) not_queued: Vec<NotQueued>,
    pub(super) client_kept: bool,
    pub(super) missing: Missing,
    pub(super) pages_unreadable: u64,
    pub(super) lost: Vec<LostRow>,
}

/// Rows of the new store.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) tasks: u64,
    pub(super) unknown: u64,
    pub(super) entities: u64,
    pub(super) conflicts: u64,
    pub(super) journal: u64,
}

/// A task that is not queued because it could be sent twice.
#[derive(Debug)]
pub(super) struct NotQueued {
    pub(super) task: Task,
    pub(super) owner: Owner,
    pub(super) why: &'static str,
}

/// A table of another program in a database that says it is not ours.
pub(super) fn foreign_table(image: &Image) -> Option<String> {
    let first = image.page(1, super::pages::Copy::Newest)?;
    if !first.starts_with(b"SQLite format 3\0") || Marks::of_page(&first).application_id == APPLICATION_ID {
        return None;
    }
    let (roots, _) = salvage::roots_in(image);
    roots.into_keys().find(|name| !name.starts_with("landfall_") && !name.starts_with("sqlite_"))
}

/// Whether there is one row that can be believed.
pub(super) fn has_rows(image: &Image) -> Result<bool, StoreError> {
    let fresh = newest_schema()?;
    let (kinds, roots) = (Kind::all(&fresh)?, salvage::roots_of(&fresh)?);
    let mut salvage = Salvage::look(image, &kinds, &roots);
    // The first one ends the look, as an error does.
    let enough = |_| Err(StoreError::Closed);
    Ok(salvage.newest(enough).is_err() || salvage.old(enough).is_err())
}

fn newest_schema() -> Result<Connection, StoreError> {
    let connection = Connection::open_in_memory().map_err(failed)?;
    migrate::climb(&connection, 0)?;
    Ok(connection)
}

/// Makes a store at `new` of what `image` holds.
pub(super) fn build(image: &Image, new: &Path) -> Result<Built, StoreError> {
    drop(Options::default().open(new)?);
    let connection = Connection::open(new).map_err(failed)?;
    connection.execute_batch("PRAGMA synchronous = FULL; BEGIN IMMEDIATE").map_err(failed)?;
    let (kinds, roots) = (Kind::all(&connection)?, salvage::roots_of(&connection)?);
    // It is counted anew.
    connection.execute_batch("DELETE FROM landfall_facts WHERE name = 'counters'").map_err(failed)?;
    let mut builder = Builder {
        image,
        connection: &connection,
        kinds: &kinds,
        salvage: Salvage::look(image, &kinds, &roots),
        there: vec![BTreeSet::new(); kinds.len()],
        loose: BTreeMap::new(),
        ended: BTreeSet::new(),
        counters: BTreeMap::new(),
        generations: BTreeMap::new(),
        to_unknown: BTreeSet::new(),
        doubtful: Vec::new(),
        lost: Vec::new(),
        missing: Missing::AtLeast(0),
    };
    builder.take_newest()?;
    builder.take_loose()?;
    builder.judge_tasks()?;
    builder.say_what_is_lost()?;
    let Builder { salvage, generations, to_unknown, doubtful, lost, missing, there, .. } = builder;
    let entities = there[place(&kinds, Table::Entity)].len();
    connection.execute_batch("COMMIT").map_err(failed)?;
    let records_are_missing = match &salvage.witnesses[place(&kinds, Table::Entity)] {
        Some(witness) => !witness.whole || witness.rows.len() != entities,
        None => true,
    };
    let mut not_queued = decode(&kinds, doubtful)?;
    set_nameless_apart(&connection, &mut not_queued)?;
    let (owners, client_kept) = mend(&connection, &to_unknown, &generations, records_are_missing)?;
    let counted = count(&connection)?;
    connection.query_one("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).map_err(failed)?;
    let pages_unreadable = salvage.pages_unreadable.len() as u64;
    Ok(Built { counted, owners, not_queued, client_kept, missing, pages_unreadable, lost })
}

fn place(kinds: &[Kind], table: Table) -> usize {
    kinds.iter().position(|kind| kind.table == table).unwrap_or(0)
}

/// A version of a task that may be out of date, and why it is not queued.
type Doubtful = (Vec<Value>, &'static str);

/// A state that a row had at some time, and how sure it is that it is the newest.
type Version = (Trust, Vec<Value>);

struct Builder<'a> {
    image: &'a Image,
    connection: &'a Connection,
    kinds: &'a [Kind],
    salvage: Salvage<'a>,
    /// Which rows of each kind are in the new store, by SQLite's own number of them in the old one.
    there: Vec<BTreeSet<i64>>,
    /// What is not certainly the newest: by kind and number.
    loose: BTreeMap<(usize, i64), Vec<Version>>,
    /// Tasks that ended, by owner and id.
    ended: BTreeSet<(i64, Vec<u8>)>,
    /// How many tasks there were, by the fact's name.
    counters: BTreeMap<String, Counters>,
    /// The greatest generation seen of records whose row may be lost.
    generations: BTreeMap<(i64, String, String), i64>,
    /// Positions of tasks whose fate is open whatever their row says.
    to_unknown: BTreeSet<i64>,
    doubtful: Vec<Doubtful>,
    lost: Vec<LostRow>,
    missing: Missing,
}

impl Builder<'_> {
    fn take_newest(&mut self) -> Result<(), StoreError> {
        // The look and the taking both need the whole builder.
        let mut salvage = std::mem::replace(&mut self.salvage, Salvage::none(self.image, self.kinds));
        let walked = salvage.newest(|found| match found.trust {
            Trust::Current => self.put(found.kind, found.id, &found.values),
            Trust::Overtaken | Trust::Loose | Trust::Old => {
                self.keep_apart(found);
                Ok(())
            }
        });
        self.salvage = salvage;
        walked
    }

    fn keep_apart(&mut self, found: Found) {
        let kind = &self.kinds[found.kind];
        self.note(found.kind, &found.values);
        // Facts have names, not numbers.
        let id = match kind.table {
            Table::Fact => fingerprint(kind.get(&found.values, "name")),
            _ => found.id,
        };
        let versions = self.loose.entry((found.kind, id)).or_default();
        match versions.iter_mut().find(|(_, values)| *values == found.values) {
            Some((trust, _)) => *trust = found.trust.max(*trust),
            None => versions.push((found.trust, found.values)),
        }
    }

    /// What is true of a row however old it is.
    fn note(&mut self, kind: usize, values: &[Value]) {
        let kind = &self.kinds[kind];
        let get = |name| kind.get(values, name);
        match kind.table {
            Table::Journal => {
                if let Some(id) = get("task_id").blob() {
                    self.ended.insert((get("owner").int().unwrap_or(0), id.to_vec()));
                }
            }
            Table::Entity => {}
            _ => return,
        }
        let (Some(kind), Some(id)) = (get("entity_type").text(), get("entity_id").text()) else { return };
        let key = (get("owner").int().unwrap_or(0), kind.to_owned(), id.to_owned());
        let generation = get("generation").int().unwrap_or(0);
        let known = self.generations.entry(key).or_insert(generation);
        *known = generation.max(*known);
    }

    /// Copies a row into the new store.
    fn put(&mut self, kind: usize, id: i64, values: &[Value]) -> Result<(), StoreError> {
        let shape = &self.kinds[kind];
        if shape.table == Table::Journal {
            self.note(kind, values);
        }
        let mut id = id;
        if let Table::Fact = shape.table {
            id = fingerprint(shape.get(values, "name"));
            let name = shape.get(values, "name").text().unwrap_or_default();
            let own = name.rsplit('/').next().unwrap_or_default();
            if own == "counters" {
                if let Some(Ok(counters)) = shape.get(values, "value").text().map(serde_json::from_str) {
                    self.counters.entry(name.to_owned()).or_insert(counters);
                }
                self.there[kind].insert(id);
                return Ok(());
            }
            // Which file this is, how often it was opened, and who held the lease are not true of the new one.
            if [meta::FILE, meta::OPENED, meta::LEASE].contains(&own) {
                return Ok(());
            }
        }
        if shape.put(self.connection, values)? {
            self.there[kind].insert(id);
        }
        Ok(())
    }

    /// Rows of all tables but the queue that nothing leads to: the furthest version of each whose index has it.
    fn take_loose(&mut self) -> Result<(), StoreError> {
        let needs_old = self.needs_old();
        if needs_old {
            let salvage = std::mem::replace(&mut self.salvage, Salvage::none(self.image, self.kinds));
            let walked = salvage.old(|found| {
                self.keep_apart(found);
                Ok(())
            });
            self.salvage = salvage;
            walked?;
        }
        let loose: Vec<(usize, i64)> = self.loose.keys().copied().collect();
        for (kind, id) in loose {
            let shape = &self.kinds[kind];
            if let Table::Task = shape.table {
                continue;
            }
            let Some(mut versions) = self.loose.remove(&(kind, id)) else { continue };
            let gone =
                self.witness(kind).is_some_and(|witness| witness.whole && !witness.rows.contains_key(&id));
            if gone || self.there[kind].contains(&id) {
                continue;
            }
            // An old state of a record would be taken for what the backend confirmed last, so it is read anew instead.
            let old_counts = matches!(shape.table, Table::Fact | Table::Identity);
            versions.retain(|(trust, _)| *trust == Trust::Loose || old_counts);
            versions.sort_by_key(|(trust, values)| (*trust, age(shape, values)));
            if let Some((_, values)) = versions.pop() {
                self.put(kind, id, &values)?;
            }
        }
        Ok(())
    }

    /// Whether anything is missing that an older copy may have.
    fn needs_old(&self) -> bool {
        let all_there = self.kinds.iter().enumerate().all(|(kind, shape)| match self.witness(kind) {
            Some(witness) => witness.whole && witness.rows.keys().all(|id| self.there[kind].contains(id)),
            None => shape.index.is_none(),
        });
        let facts = self.there[place(self.kinds, Table::Fact)].len();
        !all_there
            || facts == 0
            || !self.salvage.pages_unreadable.is_empty()
            || !self.salvage.unbelieved.is_empty()
    }

    fn witness(&self, kind: usize) -> Option<&Witness> {
        self.salvage.witnesses[kind].as_ref().filter(|witness| witness.is_about(&self.there[kind]))
    }

    /// What becomes of versions of tasks that are not certainly the newest.
    fn judge_tasks(&mut self) -> Result<(), StoreError> {
        let kind = place(self.kinds, Table::Task);
        let shape = &self.kinds[kind];
        let loose = std::mem::take(&mut self.loose);
        for ((_, seq), versions) in loose.into_iter().filter(|((of, _), _)| *of == kind) {
            if self.there[kind].contains(&seq) {
                continue;
            }
            let id_of = |values: &[Value]| shape.get(values, "task_id").clone();
            let owner = seq >> 40;
            let witness = self.witness(kind);
            let listed = witness.and_then(|witness| witness.rows.get(&seq)).and_then(|said| said.first());
            let gone = witness.is_some_and(|witness| witness.whole) && listed.is_none();
            let (mut living, mut listed_here) = (Vec::new(), false);
            for (trust, values) in versions {
                let id = id_of(&values);
                let ended = id.blob().is_some_and(|id| self.ended.contains(&(owner, id.to_vec())));
                // An index carries no checksum: it must not take away what lies in its place on a page in use.
                let other = listed.is_some_and(|listed| *listed != id);
                let not_there = trust == Trust::Old && (gone || other);
                if !ended && !not_there {
                    listed_here |= listed.is_some() && !other;
                    living.push((trust, values));
                }
            }
            living.sort_by_key(|(trust, values)| (*trust, age(shape, values)));
            let certain =
                listed_here && living.iter().filter(|(trust, _)| *trust == Trust::Loose).count() == 1;
            let Some((trust, newest)) = living.last() else { continue };
            if certain && *trust == Trust::Loose {
                self.put(kind, seq, &newest.clone())?;
                continue;
            }
            // Sent once means: never under another key. The version that has been sent most is the one to go on with. One
            // that waits for a person is not sent by itself.
            let sent = |values: &[Value]| shape.get(values, "sends").int().unwrap_or(0);
            let waits = |values: &[Value]| shape.get(values, "state").int().is_some_and(|state| state >= 3);
            let harmless =
                living.iter().map(|(_, values)| values).filter(|values| sent(values) > 0 || waits(values));
            match harmless.max_by_key(|values| age(shape, values)).cloned() {
                Some(values) => {
                    self.put(kind, seq, &values)?;
                    self.to_unknown.insert(seq);
                }
                None => {
                    let why = match listed_here {
                        true => "an older copy; it may have been changed or sent since",
                        false => "nothing says that it was still queued; it may have been sent",
                    };
                    self.doubtful.push((newest.clone(), why));
                }
            }
        }
        Ok(())
    }

    fn say_what_is_lost(&mut self) -> Result<(), StoreError> {
        let mut named: BTreeSet<(usize, i64)> = BTreeSet::new();
        let tasks = place(self.kinds, Table::Task);
        let doubtful: BTreeSet<i64> = {
            let shape = &self.kinds[tasks];
            self.doubtful.iter().filter_map(|(values, _)| shape.get(values, "seq").int()).collect()
        };
        for (kind, shape) in self.kinds.iter().enumerate() {
            let Some(witness) = self.witness(kind) else { continue };
            let missing = witness.rows.iter().filter(|(id, _)| !self.there[kind].contains(id));
            let mut lost = Vec::new();
            for (id, said) in missing.filter(|(id, _)| kind != tasks || !doubtful.contains(id)) {
                named.insert((kind, *id));
                let name = || Some(format!("{} {}", said.get(1)?.text()?, said.get(2)?.text()?));
                let about = if shape.table == Table::Entity { name() } else { None };
                lost.push(LostRow { table: shape.name.to_owned(), position: Some(*id), about });
            }
            self.lost.extend(lost);
        }
        // An index has no checksum; one that does not know what is there may as well name what never was.
        let agrees = |witness: &&Witness| {
            witness.whole && self.there[tasks].iter().all(|seq| witness.rows.contains_key(seq))
        };
        self.missing = match self.witness(tasks).filter(agrees) {
            Some(_) => Missing::Exactly(named.iter().filter(|(kind, _)| *kind == tasks).count() as u64),
            None => {
                // The counters do not say which, but how many.
                let told: u64 = self.counters.values().map(|counters| counters.counts.total()).sum();
                let found = (self.there[tasks].len() + doubtful.len()) as u64;
                Missing::AtLeast(told.saturating_sub(found))
            }
        };
        let unbelieved = std::mem::take(&mut self.salvage.unbelieved);
        for Unbelieved { kind, page, id, said } in unbelieved {
            let Some(kind) = kind else { continue };
            let salvaged = id.is_some_and(|id| self.there[kind].contains(&id));
            match id {
                Some(id) if salvaged || !named.insert((kind, id)) => {
                    // It is named already; what the row says of itself is more than the index says.
                    let lost = self.lost.iter_mut().find(|lost| {
                        lost.about.is_none()
                            && lost.position == Some(id)
                            && lost.table == self.kinds[kind].name
                    });
                    if let Some(lost) = lost {
                        lost.about = said;
                    }
                }
                Some(_) | None
                    if self.kinds[kind].index.is_none() || self.witness(kind).is_none_or(|w| !w.whole) =>
                {
                    let about = said.or_else(|| Some(format!("page {page}")));
                    self.lost.push(LostRow { table: self.kinds[kind].name.to_owned(), position: id, about });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Which of two versions of a row is the later one: the greater.
fn age(kind: &Kind, values: &[Value]) -> (i64, i64, i64, i64) {
    let n = |name: &str| kind.get(values, name).int().unwrap_or(0);
    match kind.table {
        Table::Task => (n("sends"), n("attempts"), n("changed_ms"), n("changed_count")),
        Table::Entity => (n("generation"), n("reading"), 0, 0),
        Table::Conflict => (-n("open"), n("at"), 0, 0),
        Table::Fact => {
            let value: Option<serde_json::Value> =
                kind.get(values, "value").text().and_then(|text| serde_json::from_str(text).ok());
            let number = |name: &str| value.as_ref().and_then(|value| value.get(name)?.as_i64()).unwrap_or(0);
            let clock =
                value.as_ref().and_then(|value| value.get("clock")?.get("wall_ms")?.as_i64()).unwrap_or(0);
            (number("client_epoch"), number("opens") + number("reading"), clock, 0)
        }
        _ => (n("at"), 0, 0, 0),
    }
}

/// A number for a row without one.
fn fingerprint(value: &Value) -> i64 {
    codec::checksum(Table::Fact, [value.as_ref()].into_iter())
}

/// Takes out what belongs to an identity whose name is lost: nobody could open its queue, and it must not be sent with the
/// credentials of another.
fn set_nameless_apart(connection: &Connection, not_queued: &mut Vec<NotQueued>) -> Result<(), StoreError> {
    let sql = "SELECT DISTINCT n FROM (SELECT seq >> 40 AS n FROM landfall_tasks UNION SELECT owner FROM landfall_entities) \
               WHERE n > 0 AND n NOT IN (SELECT number FROM landfall_identities)";
    let mut numbers: Vec<i64> = Vec::new();
    codec::each_row(&mut connection.prepare(sql).map_err(failed)?, (), |row| {
        numbers.push(row.get(0).map_err(failed)?);
        Ok(true)
    })?;
    for owner in numbers.into_iter().map(Owner::of_number) {
        let tasks = crate::tasks::after(connection, owner, 0, usize::MAX)?.tasks;
        let why = "the name of the identity that it belongs to is lost";
        not_queued.extend(tasks.into_iter().map(|task| NotQueued { task, owner, why }));
        let number = owner.number();
        let run = |sql: &str| connection.execute(sql, [number]).map_err(failed);
        run("DELETE FROM landfall_tasks WHERE seq >> 40 = ?")?;
        for table in ["entities", "journal", "conflicts", "quarantined", "server_ids", "keys"] {
            run(&format!("DELETE FROM landfall_{table} WHERE owner = ?"))?;
        }
        run("DELETE FROM landfall_facts WHERE name LIKE ? || '/%'")?;
    }
    Ok(())
}

/// What must be put right in the new store: fates, what waits for what is not there any more, records without a row, the
/// epoch, how far the feed was read. Gives back who has tasks, and whether every client goes on.
fn mend(
    connection: &Connection,
    to_unknown: &BTreeSet<i64>,
    generations: &BTreeMap<(i64, String, String), i64>,
    records_are_missing: bool,
) -> Result<(Vec<Owner>, bool), StoreError> {
    let sql = "INSERT OR IGNORE INTO landfall_waits (parent, seq) \
               SELECT unhex(replace(parent.value, '-', '')), seq \
               FROM landfall_tasks, json_each(terms, '$.waits_for') AS parent WHERE terms IS NOT NULL";
    connection.execute_batch(sql).map_err(failed)?;
    let mut owners = BTreeSet::from([0]);
    owners.extend(identities::all(connection)?.into_iter().map(|(_, owner)| owner.number()));
    let mut statement =
        connection.prepare("SELECT DISTINCT seq >> 40 FROM landfall_tasks").map_err(failed)?;
    codec::each_row(&mut statement, (), |row| {
        owners.insert(row.get(0).map_err(failed)?);
        Ok(true)
    })?;
    drop(statement);
    let health = Health::default();
    let mut client_kept = true;
    for number in &owners {
        let owner = Owner::of_number(*number);
        let mut tx = Transaction::immediate(connection, &health, owner)?;
        let replica = tx.replica()?;
        if let Some(replica) = &replica {
            let client_epoch = wall_ms().max(replica.client_epoch.saturating_add(1));
            tx.put_replica(&Replica { client_epoch, ..replica.clone() })?;
            tx.put_lease(&Lease {
                holder: String::new(),
                fence: Default::default(),
                expires_at: Timestamp::ALWAYS,
            })?;
        }
        let mut tasks = 0;
        let mut after = 0;
        loop {
            let page = tx.tasks_after(after, PAGE)?;
            let Some(last) =
                page.tasks.last().map(|task| task.seq).max(page.damaged.last().map(|row| row.seq))
            else {
                break;
            };
            after = last;
            tasks += page.tasks.len();
            for task in page.tasks {
                mend_task(&mut tx, task, to_unknown, replica.is_some())?;
            }
        }
        client_kept &= replica.is_some() || tasks == 0;
        for ((_, kind, id), generation) in generations.iter().filter(|((of, ..), _)| of == number) {
            mend_record(&mut tx, &EntityKey::new(kind, id), u64::from_ne_bytes(generation.to_ne_bytes()))?;
        }
        let keys = records_of_tasks(connection, owner)?;
        for (key, generation) in keys {
            mend_record(&mut tx, &key, generation)?;
        }
        if let Some(state) = tx.pull_state()?.filter(|_| records_are_missing) {
            let reading = state.reading.saturating_add(1);
            tx.put_pull_state(&PullState {
                reading,
                sweep: true,
                types: state.types,
                ..PullState::default()
            })?;
        }
        tx.finish()?;
    }
    Ok((owners.into_iter().map(Owner::of_number).collect(), client_kept))
}

fn mend_task(
    tx: &mut Transaction<'_>,
    mut task: Task,
    to_unknown: &BTreeSet<i64>,
    same_client: bool,
) -> Result<(), StoreError> {
    let before = task.clone();
    let open = task.frozen.as_ref().is_some_and(|frozen| frozen.sends > 0);
    let doubted = i64::try_from(task.seq).is_ok_and(|seq| to_unknown.contains(&seq));
    let waits = matches!(task.state.kind(), StateKind::InFlight | StateKind::Unknown | StateKind::Pending);
    if task.state.kind() == StateKind::InFlight
        || (doubted && open && task.state.kind() == StateKind::Pending)
    {
        task.state = TaskState::Unknown { retry_at: Timestamp::ALWAYS };
    }
    if open && waits && !same_client && task.state.kind() != StateKind::Pending {
        task.state = TaskState::Dead { why: FailureKind::FateUnknown };
    }
    match task.state.kind() {
        StateKind::Unknown => task.claim_at = task.due(),
        StateKind::Pending if task.claim_at.is_none() && !task.standing.held && is_first(tx, &task)? => {
            task.claim_at = task.due();
        }
        StateKind::Dead => task.claim_at = None,
        StateKind::Pending | StateKind::InFlight | StateKind::Conflict => {}
    }
    if task == before { Ok(()) } else { tx.put_task(&task) }
}

/// Whether nothing that it waited for is there any more.
fn is_first(tx: &Transaction<'_>, task: &Task) -> Result<bool, StoreError> {
    let is_it = |first: Option<Task>| first.is_none_or(|first| first.seq >= task.seq);
    if !is_it(tx.next_in_line(&task.entity, 0)?) {
        return Ok(false);
    }
    if let Some(lane) = &task.lane {
        if !is_it(tx.next_of_lane(lane, 0)?) {
            return Ok(false);
        }
    }
    for parent in &task.terms.waits_for {
        if tx.task(*parent)?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The records of an owner's tasks, with the greatest generation of each.
fn records_of_tasks(connection: &Connection, owner: Owner) -> Result<Vec<(EntityKey, u64)>, StoreError> {
    let sql = "SELECT t.entity_type, t.entity_id, max(t.generation) FROM landfall_tasks AS t \
               WHERE t.seq > ?1 AND t.seq < ?2 AND NOT EXISTS (SELECT 1 FROM landfall_entities AS e \
               WHERE e.owner = ?3 AND e.entity_type = t.entity_type AND e.entity_id = t.entity_id \
               AND e.generation >= t.generation) GROUP BY 1, 2";
    let mut keys = Vec::new();
    let mut statement = connection.prepare(sql).map_err(failed)?;
    codec::each_row(&mut statement, (owner.floor(), owner.end(), owner.number()), |row| {
        let text = |column: usize| row.get::<_, String>(column).map_err(failed);
        let generation: i64 = row.get(2).map_err(failed)?;
        keys.push((EntityKey::new(text(0)?, text(1)?), u64::from_ne_bytes(generation.to_ne_bytes())));
        Ok(true)
    })?;
    Ok(keys)
}

/// A record never gives a number to a task a second time, and shows what is queued for it.
fn mend_record(tx: &mut Transaction<'_>, key: &EntityKey, generation: u64) -> Result<(), StoreError> {
    let known = tx.entity(key)?;
    if known.as_ref().is_some_and(|record| record.generation >= generation) {
        return Ok(());
    }
    let mut record = match known {
        Some(record) => StoredEntity { generation, ..record },
        None => {
            let mut record = StoredEntity { generation, ..StoredEntity::unknown(key.clone()) };
            let mut after = 0;
            while let Some(task) = tx.next_of_entity(key, after)? {
                record.local = Some(patch::apply(&task.intent, record.local.as_ref()));
                after = task.seq;
            }
            record
        }
    };
    record.generation = generation;
    tx.put_entity(&record)
}

/// Reads versions of tasks that are not queued as the store would.
fn decode(kinds: &[Kind], doubtful: Vec<Doubtful>) -> Result<Vec<NotQueued>, StoreError> {
    let scratch = newest_schema()?;
    let shape = &kinds[place(kinds, Table::Task)];
    let mut whys = BTreeMap::new();
    for (values, why) in &doubtful {
        shape.put(&scratch, values)?;
        whys.insert(shape.get(values, "seq").int().unwrap_or(0), *why);
    }
    let owners: BTreeSet<i64> = whys.keys().map(|seq| seq >> 40).collect();
    let mut tasks = Vec::new();
    for owner in owners.into_iter().map(Owner::of_number) {
        for task in crate::tasks::after(&scratch, owner, 0, usize::MAX)?.tasks {
            let why =
                i64::try_from(task.seq).ok().and_then(|seq| whys.get(&seq).copied()).unwrap_or_default();
            tasks.push(NotQueued { task, owner, why });
        }
    }
    Ok(tasks)
}

fn count(connection: &Connection) -> Result<Counted, StoreError> {
    let rows = |sql: &str| -> Result<u64, StoreError> {
        let mut statement = connection.prepare(sql).map_err(failed)?;
        let rows: Option<i64> =
            first_row(&mut statement, params_from_iter::<[i64; 0]>([]), |row| row.get(0).map_err(failed))?;
        Ok(u64::try_from(rows.unwrap_or(0)).unwrap_or(0))
    };
    Ok(Counted {
        tasks: rows("SELECT count(*) FROM landfall_tasks")?,
        unknown: rows("SELECT count(*) FROM landfall_tasks WHERE state = 2")?,
        entities: rows("SELECT count(*) FROM landfall_entities")?,
        conflicts: rows("SELECT count(*) FROM landfall_conflicts")?,
        journal: rows("SELECT count(*) FROM landfall_journal")?,
    })
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}
