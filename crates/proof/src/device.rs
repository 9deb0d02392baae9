//! One device: the real store on a simulated disk, the real machine, and a backend that answers as it is told.
//!
//! Every transaction is written into a history before it is committed and again when it was acknowledged. It knows
//! nothing of power cuts and faults; what they may leave is for the tests: `tests/power_loss.rs`, `tests/disk_faults.rs`.

use crate::state::{History, State};
use landfall_core::adapter::{
    Applied, Capabilities, EffectClass, Outcome, PullPage, PushBatch, PushReply, Rejection,
};
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{CallId, EntityKey, Entropy};
use landfall_core::machine::{Effect, EnqueueError, Machine, SessionEnd, Step};
use landfall_core::store::{Store as _, StoreError, StoreTx};
use landfall_core::time::{Mono, Now, Timestamp};
use landfall_core::value::{Fields, Value};
use landfall_simdisk::Disk;
use landfall_sqlite::{Options, SqliteStore};
use std::time::Duration;

/// The name of the store's file on every disk.
pub const FILE: &str = "x.db";

/// What a device can be told to do.
#[derive(Clone, Debug)]
pub enum Op {
    /// One change of a record, in a transaction of its own.
    Enqueue { record: u64, bytes: usize },
    /// Several changes in one transaction, each behind a savepoint of its own.
    Burst { first: u64, count: u64, bytes: usize },
    /// A record is deleted.
    Delete { record: u64 },
    /// A session begins, or goes on: tasks are frozen and sent, pages are asked for.
    Sync,
    /// The backend answers what was sent first.
    Answer(Word),
    /// The backend answers the page that was asked for with so many records.
    Page { changes: u64 },
    /// Time passes.
    Pass { ms: u64 },
    /// Ended tasks are forgotten.
    Prune,
    /// The store may tidy up.
    Idle,
    /// The store is closed and opened again.
    Reopen,
}

/// How the backend answers a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// All of it took effect.
    Applied,
    /// Something else for each task.
    Mixed,
    /// The answer did not come.
    Lost,
}

/// What can go wrong with an [`Op`].
#[derive(Debug)]
pub enum Trouble {
    /// Before the commit.
    Store(StoreError),
    /// The commit said so.
    Commit(StoreError),
    /// A rule is broken.
    Wrong(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A device. Its history stays with whoever opened it.
#[derive(Debug)]
pub struct Device<'d> {
    disk: &'d Disk,
    options: Options,
    store: SqliteStore,
    machine: Machine,
    now_ms: u64,
    drawn: u64,
    versions: u64,
    sent: Vec<PushBatch>,
    pages: Vec<CallId>,
    fetches: Vec<(CallId, EntityKey)>,
}

/// How a store is opened in every proof: a disk that was read back is another file, and no copy.
pub fn options() -> Options {
    SqliteStore::options().detect_copies(false)
}

fn capabilities() -> Capabilities {
    Capabilities {
        batch_tasks: 5,
        batch_bytes: 1 << 20,
        effect: EffectClass::OneEffect,
        pull: true,
        orders_writes: true,
        atomic_groups: true,
        actions: true,
        probe: false,
    }
}

fn key(record: u64) -> EntityKey {
    EntityKey::new("note", format!("n{record}"))
}

fn entropy(drawn: u64) -> Entropy {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&drawn.to_be_bytes());
    Entropy(bytes)
}

impl<'d> Device<'d> {
    /// Opens the store. What it shows must be what `history` allows.
    ///
    /// # Errors
    /// When it cannot be opened, or shows something else.
    pub fn open(
        disk: &'d Disk,
        options: &Options,
        now_ms: u64,
        history: &mut History,
    ) -> Result<Self, Trouble> {
        let from = disk.steps();
        let store = options.clone().open(disk.path(FILE))?;
        Self::over(disk, options, store, (from, now_ms), history)
    }

    fn over(
        disk: &'d Disk,
        options: &Options,
        mut store: SqliteStore,
        (from, now_ms): (usize, u64),
        history: &mut History,
    ) -> Result<Self, Trouble> {
        let to = disk.steps();
        let seen = State::of(&*store.begin()?)?;
        history.saw(seen, from, to).map_err(Trouble::Wrong)?;
        let machine = open_machine(disk, &mut store, now_ms, history)?;
        Ok(Self {
            disk,
            options: options.clone(),
            store,
            machine,
            now_ms,
            drawn: now_ms,
            versions: now_ms,
            sent: Vec::new(),
            pages: Vec::new(),
            fetches: Vec::new(),
        })
    }

    /// The store, to look at.
    pub fn store(&mut self) -> &mut SqliteStore {
        &mut self.store
    }

    /// The time on this device.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Goes on after a fault: opens the store again in place if it says that it must be, and the machine anew.
    ///
    /// # Errors
    /// When it cannot be opened, or shows what it may not.
    pub fn recover(&mut self, history: &mut History, always: bool) -> Result<(), Trouble> {
        let from = self.disk.steps();
        let must = matches!(self.store.begin().map(drop), Err(StoreError::Closed));
        if must || always {
            self.store.reopen()?;
        }
        let to = self.disk.steps();
        let seen = State::of(&*self.store.begin()?)?;
        history.saw(seen, from, to).map_err(Trouble::Wrong)?;
        self.machine = open_machine(self.disk, &mut self.store, self.now_ms, history)?;
        self.sent.clear();
        self.pages.clear();
        self.fetches.clear();
        Ok(())
    }

    /// Does it.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn apply(&mut self, op: &Op, history: &mut History) -> Result<(), Trouble> {
        self.now_ms += 1;
        match op {
            Op::Enqueue { record, bytes } => {
                let change = self.change(*record, *bytes);
                self.transaction(history, |step, tx| enqueue(step, tx, change)).map(drop)
            }
            Op::Burst { first, count, bytes } => {
                let changes: Vec<Change> =
                    (*first..first + count).map(|record| self.change(record, *bytes)).collect();
                self.transaction(history, |step, tx| {
                    for change in changes {
                        let point = tx.savepoint()?;
                        let mark = step.mark();
                        if !enqueue(step, tx, change)? {
                            tx.rollback_to(point)?;
                            step.forget_since(mark);
                        }
                        tx.release(point)?;
                    }
                    Ok(true)
                })
            }
            Op::Delete { record } => {
                let entity = key(*record);
                let change = Change::delete(entity.entity_type, entity.entity_id);
                self.transaction(history, |step, tx| enqueue(step, tx, change))
            }
            Op::Sync => self.transaction(history, |step, _| {
                step.connectivity_regained();
                step.start_session(SessionEnd::Drained { within: Duration::from_secs(1_000_000) });
                Ok(true)
            }),
            Op::Answer(word) => self.answer(*word, history),
            Op::Page { changes } => self.page(*changes, history),
            Op::Pass { ms } => {
                self.now_ms += ms;
                self.transaction(history, |step, _| {
                    step.wake();
                    Ok(true)
                })
            }
            Op::Prune => {
                let before = Timestamp(self.now_ms as i64);
                self.transaction(history, |_, tx| {
                    tx.prune_journal(before, 3)?;
                    tx.prune_conflicts(before, 3)?;
                    Ok(true)
                })
            }
            Op::Idle => Ok(self.store.idle()?),
            Op::Reopen => {
                self.store.reopen()?;
                self.recover(history, false)
            }
        }
    }

    fn change(&mut self, record: u64, bytes: usize) -> Change {
        self.versions += 1;
        let entity = key(record);
        let mark = format!("{}:{record} ", self.versions);
        let text: String = mark.chars().cycle().take(bytes).collect();
        Change::upsert(entity.entity_type, entity.entity_id).set("n", self.versions).set("text", text)
    }

    fn remote(&mut self, key: EntityKey, deleted: bool) -> RemoteEntity {
        self.versions += 1;
        let fields = Fields::from([
            ("n", Value::from(self.versions)),
            ("remote", Value::from(format!("{} of {}", self.versions, key.entity_id))),
        ]);
        let body = if deleted { Body::Deleted } else { Body::Live(fields) };
        RemoteEntity::new(key, body, Some(format!("v{}", self.versions).as_str().into()))
    }

    fn answer(&mut self, word: Word, history: &mut History) -> Result<(), Trouble> {
        if let Some((call, key)) = self.fetches.first().cloned() {
            let remote = self.remote(key, false);
            self.transaction(history, |step, tx| {
                step.fetched(tx, call, &Ok(Some(remote))).map(|()| true).map_err(Stop::Store)
            })?;
            self.fetches.remove(0);
            return Ok(());
        }
        let Some(batch) = self.sent.first().cloned() else { return Ok(()) };
        let mut results = Vec::new();
        for (place, task) in batch.tasks.iter().enumerate() {
            self.versions += 1;
            let applied = Applied {
                version: Some(format!("v{}", self.versions).as_str().into()),
                ..Applied::default()
            };
            let outcome = match (word, (place as u64 + self.versions) % 6) {
                (Word::Mixed, 1) => Outcome::Duplicate(applied),
                (Word::Mixed, 2) => {
                    let deleted = self.versions % 4 == 0;
                    Outcome::Conflict { remote: Some(self.remote(task.entity.clone(), deleted)) }
                }
                (Word::Mixed, 3) => Outcome::Rejected(Rejection {
                    code: "not_allowed".into(),
                    message: "no".into(),
                    answer: None,
                }),
                (Word::Mixed, 4) => Outcome::Retry { after: None, reason: "later".into() },
                (Word::Mixed, 5) => Outcome::Unknown { reason: "who knows".into() },
                _ => Outcome::Applied(applied),
            };
            results.push((task.key, outcome));
        }
        let reply = PushReply { results: results.into_iter().collect(), ..PushReply::default() };
        let answer = match word {
            Word::Lost => Err(Failure::new(FailureKind::Transient, Delivery::Unknown, "lost")),
            _ => Ok(reply),
        };
        self.transaction(history, |step, tx| {
            step.pushed(tx, batch.call, &answer).map(|()| true).map_err(Stop::Store)
        })?;
        self.sent.remove(0);
        Ok(())
    }

    fn page(&mut self, changes: u64, history: &mut History) -> Result<(), Trouble> {
        let Some(call) = self.pages.first().copied() else { return Ok(()) };
        let first = self.versions;
        let changes = (0..changes).map(|n| Ok(self.remote(key((first + n * 7) % 40), n % 5 == 4))).collect();
        self.versions += 1;
        let page =
            PullPage { changes, cursor: format!("c{}", self.versions).as_str().into(), has_more: true };
        self.transaction(history, |step, tx| {
            step.pulled(tx, call, &Ok(page)).map(|()| true).map_err(Stop::Store)
        })?;
        self.pages.retain(|known| *known != call);
        Ok(())
    }

    /// One step in one transaction.
    fn transaction(
        &mut self,
        history: &mut History,
        work: impl FnOnce(&mut Step, &mut dyn StoreTx) -> Result<bool, Stop>,
    ) -> Result<(), Trouble> {
        self.drawn += 1;
        let now = Now { wall: Timestamp(self.now_ms as i64), mono: Mono(self.now_ms) };
        let mut step = self.machine.step(now, entropy(self.drawn));
        let mut tx = self.store.begin()?;
        match work(&mut step, &mut *tx) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(Stop::Store(error)) => return Err(Trouble::Store(error)),
        }
        step.start_if_due(&*tx)?;
        if step.needs_lease() {
            step.lead(&mut *tx, "me", &|_| true)?;
        }
        step.finish(&mut *tx)?;
        commit(self.disk, tx, history)?;
        for effect in self.machine.apply(step) {
            match effect {
                Effect::Push { batch, .. } => self.sent.push(batch),
                Effect::Pull { call, .. } => self.pages.push(call),
                Effect::Fetch { call, entity, .. } => self.fetches.push((call, entity)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The options that it was opened with.
    pub fn options(&self) -> &Options {
        &self.options
    }
}

/// Why a transaction is given up.
#[derive(Debug)]
enum Stop {
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// False when the change is not one that can be taken.
fn enqueue(step: &mut Step, tx: &mut dyn StoreTx, change: Change) -> Result<bool, Stop> {
    match step.enqueue(tx, change) {
        Ok(_) => Ok(true),
        Err(EnqueueError::Store(error)) => Err(Stop::Store(error)),
        Err(_) => Ok(false),
    }
}

fn open_machine(
    disk: &Disk,
    store: &mut SqliteStore,
    now_ms: u64,
    history: &mut History,
) -> Result<Machine, Trouble> {
    let mut tx = store.begin()?;
    let machine = Machine::open(Config::default(), capabilities(), &entropy(now_ms), &mut *tx)?;
    commit(disk, tx, history)?;
    Ok(machine)
}

fn commit(disk: &Disk, tx: Box<dyn StoreTx + '_>, history: &mut History) -> Result<(), Trouble> {
    history.start(State::of(&*tx)?, disk.steps());
    tx.commit().map_err(Trouble::Commit)?;
    history.acknowledge(disk.steps());
    Ok(())
}
