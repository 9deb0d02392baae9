//! An adapter that answers as it is told, and a store that fails when it is told.
#![allow(dead_code, reason = "each test file uses its own part")]

use landfall_core::adapter::{
    Adapter, Applied, BoxFuture, CallContext, Capabilities, EffectClass, Outcome, PullPage, PullRequest,
    PushBatch, PushReply,
};
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::failure::Failure;
use landfall_core::id::{Entropy, IdempotencyKey, TaskId};
use landfall_core::machine::Machine;
use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{Counts, Store, StoreError, StoreTx};
use landfall_core::time::{Mono, Now, Timestamp};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Script = dyn Fn(usize, &PushBatch) -> Result<PushReply, Failure> + Send + Sync;
type Feed = dyn Fn(&PullRequest) -> Result<PullPage, Failure> + Send + Sync;

/// Every task of the batch took effect.
pub(crate) fn apply(batch: &PushBatch) -> Result<PushReply, Failure> {
    let applied = Applied { version: Some("1".into()), ..Applied::default() };
    let results = batch.tasks.iter().map(|task| (task.key, Outcome::Applied(applied.clone()))).collect();
    Ok(PushReply { results, ..PushReply::default() })
}

#[derive(Clone)]
pub(crate) struct Scripted {
    script: Arc<Script>,
    feed: Option<Arc<Feed>>,
    sent: Arc<Mutex<Vec<PushBatch>>>,
    keys: Arc<Mutex<BTreeSet<IdempotencyKey>>>,
    refresh: bool,
    refreshes: Arc<AtomicUsize>,
}

impl Scripted {
    pub(crate) fn honest() -> Self {
        Self::answering(|_, batch| apply(batch))
    }

    /// Called with the number of the call and the batch.
    pub(crate) fn answering(
        script: impl Fn(usize, &PushBatch) -> Result<PushReply, Failure> + Send + Sync + 'static,
    ) -> Self {
        Self {
            script: Arc::new(script),
            feed: None,
            sent: Arc::default(),
            keys: Arc::default(),
            refresh: false,
            refreshes: Arc::default(),
        }
    }

    /// With a change feed.
    pub(crate) fn feeding(
        mut self,
        feed: impl Fn(&PullRequest) -> Result<PullPage, Failure> + Send + Sync + 'static,
    ) -> Self {
        self.feed = Some(Arc::new(feed));
        self
    }

    pub(crate) fn refreshing(mut self, fresh: bool) -> Self {
        self.refresh = fresh;
        self
    }

    pub(crate) fn sent(&self) -> Vec<PushBatch> {
        self.sent.lock().unwrap().clone()
    }

    /// Different keys that ever arrived: what a backend with deduplication counts as effects.
    pub(crate) fn effects(&self) -> usize {
        self.keys.lock().unwrap().len()
    }

    pub(crate) fn refreshes(&self) -> usize {
        self.refreshes.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Adapter for Scripted {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            batch_tasks: 500,
            batch_bytes: 1 << 20,
            effect: EffectClass::OneEffect,
            pull: self.feed.is_some(),
            orders_writes: true,
            atomic_groups: false,
            actions: false,
            probe: false,
        }
    }

    fn pull<'a>(
        &'a self,
        _context: &'a CallContext,
        request: &'a PullRequest,
    ) -> BoxFuture<'a, Result<PullPage, Failure>> {
        Box::pin(async move { self.feed.as_ref().expect("only asked where there is a feed")(request) })
    }

    fn push<'a>(
        &'a self,
        _context: &'a CallContext,
        batch: &'a PushBatch,
    ) -> BoxFuture<'a, Result<PushReply, Failure>> {
        Box::pin(async move {
            let number = {
                let mut sent = self.sent.lock().unwrap();
                sent.push(batch.clone());
                sent.len() - 1
            };
            self.keys.lock().unwrap().extend(batch.tasks.iter().map(|task| task.key));
            (self.script)(number, batch)
        })
    }

    fn refresh_credentials(&self) -> BoxFuture<'_, bool> {
        Box::pin(async {
            self.refreshes.fetch_add(1, Ordering::SeqCst);
            self.refresh
        })
    }
}

/// Puts a change into a store without an engine.
pub(crate) fn enqueue_into(store: &mut MemoryStore, change: Change) -> TaskId {
    let capabilities = Scripted::honest().capabilities();
    let mut tx = store.begin().unwrap();
    let machine = Machine::open(Config::default(), capabilities, &Entropy([1; 32]), &mut *tx).unwrap();
    let now = Now { wall: Timestamp(1), mono: Mono(1) };
    let mut step = machine.step(now, Entropy([2; 32]));
    let receipt = step.enqueue(&mut *tx, change).unwrap();
    step.finish(&mut *tx).unwrap();
    tx.commit().unwrap();
    receipt.task.unwrap()
}

/// What the next commit does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    /// It reports an error; whether it landed is another question.
    Fails { landed: bool },
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Control {
    next_commit: Arc<Mutex<Option<Broken>>>,
    next_conflict: Arc<Mutex<Option<Broken>>>,
    reopen_fails: Arc<AtomicBool>,
    refuse_begins: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
    commits: Arc<AtomicUsize>,
    begins: Arc<AtomicUsize>,
}

impl Control {
    pub(crate) fn next_commit(&self, broken: Broken) {
        *self.next_commit.lock().unwrap() = Some(broken);
    }

    /// The next commit of a transaction that wrote a conflict.
    pub(crate) fn next_commit_of_a_conflict(&self, broken: Broken) {
        *self.next_conflict.lock().unwrap() = Some(broken);
    }

    pub(crate) fn next_reopen_fails(&self) {
        self.reopen_fails.store(true, Ordering::SeqCst);
    }

    /// An I/O error has made the store unusable until it is opened again.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn refuse_begins(&self, times: usize) {
        self.refuse_begins.store(times, Ordering::SeqCst);
    }
}

/// A store that fails when it is told, and counts.
#[derive(Debug)]
pub(crate) struct BrokenStore {
    inner: MemoryStore,
    control: Control,
    commit_takes: Duration,
}

impl BrokenStore {
    pub(crate) fn new(inner: MemoryStore) -> Self {
        Self { inner, control: Control::default(), commit_takes: Duration::ZERO }
    }

    pub(crate) fn slow_commits(mut self, takes: Duration) -> Self {
        self.commit_takes = takes;
        self
    }

    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }

    pub(crate) fn commits(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.control.commits)
    }

    pub(crate) fn begins(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.control.begins)
    }
}

impl Store for BrokenStore {
    fn begin(&mut self) -> Result<Box<dyn StoreTx + '_>, StoreError> {
        self.control.begins.fetch_add(1, Ordering::SeqCst);
        let refusals = &self.control.refuse_begins;
        if refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(StoreError::Busy("held by somebody else".into()));
        }
        if self.control.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Closed);
        }
        let inner = self.inner.begin()?;
        Ok(Box::new(tx::BrokenTx {
            inner,
            control: self.control.clone(),
            takes: self.commit_takes,
            wrote_a_conflict: false,
        }))
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        if self.control.reopen_fails.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Io("still broken".into()));
        }
        self.control.closed.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn identity(&self) -> Option<&str> {
        self.inner.identity()
    }

    fn switch_identity(&mut self, identity: Option<&str>) -> Result<(), StoreError> {
        self.inner.switch_identity(identity)
    }

    fn identities(&mut self) -> Result<Vec<(Option<String>, Counts)>, StoreError> {
        self.inner.identities()
    }
}

mod tx {
    use super::{Broken, Control};
    use landfall_core::conflict::ConflictRecord;
    use landfall_core::entity::StoredEntity;
    use landfall_core::id::{ConflictId, EntityKey, TaskId};
    use landfall_core::store::{
        ConflictPage, ConflictQuery, Controls, Counts, DamagedRow, EntityPage, JournalPage, Lease, Page,
        PullState, Quarantined, Replica, Savepoint, StoreError, StoreRead, StoreTx,
    };
    use landfall_core::task::{JournalEntry, StateKind, Task};
    use landfall_core::time::Timestamp;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    pub(super) struct BrokenTx<'a> {
        pub(super) inner: Box<dyn StoreTx + 'a>,
        pub(super) control: Control,
        pub(super) takes: Duration,
        pub(super) wrote_a_conflict: bool,
    }

    macro_rules! forward {
        ($($name:ident(&self $(, $arg:ident: $kind:ty)*) -> $out:ty;)*) => {$(
            fn $name(&self $(, $arg: $kind)*) -> Result<$out, StoreError> { self.inner.$name($($arg),*) }
        )*};
        (mut $($name:ident(&mut self $(, $arg:ident: $kind:ty)*) -> $out:ty;)*) => {$(
            fn $name(&mut self $(, $arg: $kind)*) -> Result<$out, StoreError> { self.inner.$name($($arg),*) }
        )*};
    }

    impl StoreRead for BrokenTx<'_> {
        forward! {
            replica(&self) -> Option<Replica>;
            lease(&self) -> Option<Lease>;
            counts(&self) -> Counts;
            task(&self, id: TaskId) -> Option<Task>;
            tasks_after(&self, after: u64, limit: usize) -> Page;
            last_of_entity(&self, entity: &EntityKey) -> Option<Task>;
            next_of_entity(&self, entity: &EntityKey, after: u64) -> Option<Task>;
            next_in_line(&self, entity: &EntityKey, after: u64) -> Option<Task>;
            tasks_of_group(&self, group: &str) -> Page;
            waiting_for(&self, parent: TaskId, after: u64, limit: usize) -> Page;
            held_after(&self, after: u64, limit: usize) -> Page;
            lapsed(&self, now: Timestamp, limit: usize) -> Page;
            next_lapse(&self) -> Option<Timestamp>;
            next_of_lane(&self, lane: &str, after: u64) -> Option<Task>;
            claimable(&self, now: Timestamp, limit: usize) -> Page;
            next_claim(&self, now: Timestamp) -> Option<Timestamp>;
            waiting_after(&self, moment: Timestamp, limit: usize) -> Page;
            tasks_in_state(&self, state: StateKind, after: u64, limit: usize) -> Page;
            oldest(&self) -> Option<Timestamp>;
            entity(&self, key: &EntityKey) -> Option<StoredEntity>;
            journal(&self, id: TaskId) -> Option<JournalEntry>;
            journal_entries(&self, before: Option<TaskId>, limit: usize) -> JournalPage;
            deduplicated(&self, key: &str) -> Option<TaskId>;
            server_id(&self, key: &EntityKey) -> Option<String>;
            local_id(&self, key: &EntityKey) -> Option<String>;
            knows_server_ids(&self) -> bool;
            controls(&self) -> Option<Controls>;
            entities_after(&self, of: Option<&str>, after: Option<&EntityKey>, limit: usize) -> EntityPage;
            conflict(&self, id: ConflictId) -> Option<ConflictRecord>;
            conflicts(&self, which: &ConflictQuery, limit: usize) -> ConflictPage;
            pull_state(&self) -> Option<PullState>;
            quarantined(&self, limit: usize) -> Vec<Quarantined>;
        }
    }

    impl StoreTx for BrokenTx<'_> {
        forward! { mut
            put_replica(&mut self, replica: &Replica) -> ();
            put_lease(&mut self, lease: &Lease) -> ();
            next_seq(&mut self) -> u64;
            put_task(&mut self, task: &Task) -> ();
            settle_task(&mut self, task: &Task, entry: &JournalEntry) -> ();
            quarantine(&mut self, row: &DamagedRow) -> ();
            put_entity(&mut self, entity: &StoredEntity) -> ();
            remove_entity(&mut self, key: &EntityKey) -> ();
            forget_records(&mut self, limit: usize) -> usize;
            put_server_id(&mut self, key: &EntityKey, server_id: &str) -> ();
            put_deduplicated(&mut self, key: &str, task: TaskId, at: Timestamp) -> ();
            put_controls(&mut self, controls: &Controls) -> ();
            put_pull_state(&mut self, state: &PullState) -> ();
            put_quarantined(&mut self, record: &Quarantined) -> ();
            prune_conflicts(&mut self, before: Timestamp, limit: usize) -> usize;
            prune_deduplicated(&mut self, before: Timestamp, limit: usize) -> usize;
            prune_journal(&mut self, before: Timestamp, limit: usize) -> usize;
            savepoint(&mut self) -> Savepoint;
            rollback_to(&mut self, point: Savepoint) -> ();
            release(&mut self, point: Savepoint) -> ();
        }

        fn put_conflict(&mut self, conflict: &ConflictRecord) -> Result<(), StoreError> {
            self.wrote_a_conflict = true;
            self.inner.put_conflict(conflict)
        }

        fn commit(self: Box<Self>) -> Result<(), StoreError> {
            std::thread::sleep(self.takes);
            self.control.commits.fetch_add(1, Ordering::SeqCst);
            let of_a_conflict = match self.wrote_a_conflict {
                true => self.control.next_conflict.lock().unwrap().take(),
                false => None,
            };
            match of_a_conflict.or_else(|| self.control.next_commit.lock().unwrap().take()) {
                None => self.inner.commit(),
                Some(Broken::Fails { landed }) => {
                    if landed {
                        self.inner.commit()?;
                    }
                    Err(StoreError::Io("the disk failed".into()))
                }
            }
        }
    }
}
