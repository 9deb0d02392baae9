//! The handle an app holds: cheap to clone, safe to share, every async method with a blocking twin.

use crate::automation::BackgroundController;
use crate::builder::EngineBuilder;
use crate::connectivity::{ConnectivityService, Reporter};
use crate::driver::{Command, End, Hint};
use crate::error::Error;
use crate::events::{EventBus, EventStream};
use crate::metrics::Metrics;
use crate::watch::EntityWatch;
use futures_channel::oneshot;
use landfall_core::adapter::{
    Adapter, BoxFuture, CallContext, Capabilities, EffectClass, PushBatch, PushReply,
};
use landfall_core::change::Change;
use landfall_core::conflict::{ConflictRecord, Resolution, Resolved};
use landfall_core::device::DeviceState;
use landfall_core::entity::StoredEntity;
use landfall_core::event::Report;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::{ConflictId, EntityKey, TaskId};
use landfall_core::inspect::{EntityStatus, entity_status, local_key};
use landfall_core::machine::{Directions, EnqueueError, Enqueued, Receipt, SessionEnd};
use landfall_core::model::Model;
use landfall_core::store::{
    ConflictPage, ConflictQuery, Controls, Counts, EntityPage, Page, PullState, Quarantined, Replica, Store,
    StoreError, StoreRead, StoreReader,
};
use landfall_core::task::{JournalEntry, Task};
use landfall_core::time::Timestamp;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

/// An opened sync engine.
///
/// Clones are the same engine. When the last one is dropped, a running session is ended and the lease handed back.
#[derive(Debug, Clone)]
pub struct Engine {
    handle: Arc<Handle>,
}

#[derive(Debug)]
pub(crate) struct Handle {
    commands: SyncSender<Command>,
    events: Arc<EventBus>,
    live: Arc<Mutex<Live>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// A way to read beside the engine's thread, if the store has one.
    reader: Mutex<Option<Box<dyn StoreReader>>>,
    /// What the host plans windows in the background with.
    background: Option<Arc<dyn BackgroundController>>,
    /// Who tells of the device.
    connectivity: Mutex<Option<Box<dyn ConnectivityService>>>,
}

/// What only the engine's thread knows.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) known: landfall_core::explain::Live,
    pub(crate) device: DeviceState,
    pub(crate) identity: Option<String>,
    pub(crate) model: Arc<Model>,
    /// The wall clock as the engine's thread last saw it, to be asked for by readers of a simulated clock.
    pub(crate) wall: Timestamp,
    /// When that was.
    pub(crate) seen_at: Option<SystemTime>,
}

/// Where everything stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How many tasks are in each state.
    pub counts: Counts,
    /// When the oldest unsynced change was made.
    pub oldest: Option<Timestamp>,
    /// Whether a run of `sync` is under way in this engine.
    pub syncing: bool,
    /// Why nothing is sent at the moment, if something holds it back.
    pub gate: Option<(FailureKind, String)>,
    /// Whose queue is open.
    pub identity: Option<String>,
    /// What is paused.
    pub controls: Controls,
}

impl Status {
    /// Whether something waits for a person or the app: dead letters, or conflicts that no rule decides.
    pub const fn needs_attention(&self) -> bool {
        self.counts.dead > 0 || self.counts.conflict > 0
    }
}

/// What became of a stream of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// Changes taken.
    pub changes: u64,
    /// New tasks they made.
    pub tasks: u64,
    /// Changes folded into tasks that were never attempted.
    pub coalesced: u64,
    /// Creates undone by their deletes.
    pub annihilated: u64,
    /// Changes that changed nothing.
    pub unchanged: u64,
}

impl Imported {
    pub(crate) fn count(&mut self, outcome: Enqueued) {
        self.changes += 1;
        *match outcome {
            Enqueued::New => &mut self.tasks,
            Enqueued::Coalesced => &mut self.coalesced,
            Enqueued::Annihilated => &mut self.annihilated,
            Enqueued::NoChange | Enqueued::Repeated => &mut self.unchanged,
        } += 1;
    }
}

impl Handle {
    pub(crate) fn new(
        commands: SyncSender<Command>,
        events: Arc<EventBus>,
        live: Arc<Mutex<Live>>,
        thread: JoinHandle<()>,
    ) -> Self {
        Self {
            commands,
            events,
            live,
            thread: Mutex::new(Some(thread)),
            reader: Mutex::new(None),
            background: None,
            connectivity: Mutex::new(None),
        }
    }

    fn close(&self) {
        let service = self.connectivity.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut service) = service {
            service.stop();
        }
        // The reader goes first: whoever leaves a store last tidies it up, and that must be the writer.
        drop(self.reader.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.commands.send(Command::Close));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Engine {
    /// Begins to put an engine together.
    pub fn builder(store: impl Store + 'static, adapter: impl Adapter) -> EngineBuilder {
        EngineBuilder::new(store, adapter)
    }

    /// An engine without a backend: it enqueues, reads and shows, and `sync` says that there is nothing to sync with.
    pub fn local(store: impl Store + 'static) -> EngineBuilder {
        EngineBuilder::new(store, NoBackend)
    }

    pub(crate) fn new(
        mut handle: Handle,
        reader: Option<Box<dyn StoreReader>>,
        background: Option<Arc<dyn BackgroundController>>,
    ) -> Self {
        handle.background = background;
        *handle.reader.lock().unwrap_or_else(PoisonError::into_inner) = reader;
        Self { handle: Arc::new(handle) }
    }

    /// Stores one change. When this returns, the change survives a power cut (G1).
    ///
    /// # Errors
    /// [`Error::Enqueue`] if the change cannot be taken; [`Error::Store`] and [`Error::OutcomeUnknown`] if the disk
    /// fails. Trouble with the backend never shows here.
    pub async fn enqueue(&self, change: Change) -> Result<Receipt, Error> {
        let receipts = self.enqueue_many(vec![change]).await?;
        receipts.into_iter().next().ok_or(Error::Closed)
    }

    /// The blocking twin of [`enqueue`](Self::enqueue).
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn enqueue_blocking(&self, change: Change) -> Result<Receipt, Error> {
        pollster::block_on(self.enqueue(change))
    }

    /// Stores all of `changes` in one transaction, or none of them.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), for the first change that cannot be taken.
    pub async fn enqueue_many(&self, changes: Vec<Change>) -> Result<Vec<Receipt>, Error> {
        self.ask(|reply| Command::Enqueue { changes, reply }).await
    }

    /// The blocking twin of [`enqueue_many`](Self::enqueue_many).
    ///
    /// # Errors
    /// As [`enqueue_many`](Self::enqueue_many).
    pub fn enqueue_many_blocking(&self, changes: Vec<Change>) -> Result<Vec<Receipt>, Error> {
        pollster::block_on(self.enqueue_many(changes))
    }

    /// Stores a stream of changes of any length in one transaction, or none of them. The stream is read on the
    /// engine's thread and never held in memory.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); [`Error::Input`] with the stream's own error.
    pub async fn import<I, E>(&self, changes: I) -> Result<Imported, Error>
    where
        I: IntoIterator<Item = Result<Change, E>>,
        I::IntoIter: Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.import_with(changes, |refused| Err(refused.into())).await
    }

    /// Like [`import`](Self::import), but `on_refused` decides about a change that cannot be taken (it is invalid, or
    /// contradicts what is queued): `Ok` passes it over, an error ends the import with nothing stored. It is called
    /// on the engine's thread, right after the stream gave out that change.
    ///
    /// # Errors
    /// As [`import`](Self::import), and what `on_refused` returned.
    pub async fn import_with<I, E, F>(&self, changes: I, on_refused: F) -> Result<Imported, Error>
    where
        I: IntoIterator<Item = Result<Change, E>>,
        I::IntoIter: Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        F: FnMut(EnqueueError) -> Result<(), Error> + Send + 'static,
    {
        let changes = Box::new(changes.into_iter().map(|change| change.map_err(Into::into)));
        let on_refused = Box::new(on_refused);
        self.ask(|reply| Command::Import { changes, on_refused, reply }).await
    }

    /// The blocking twin of [`import_with`](Self::import_with).
    ///
    /// # Errors
    /// As [`import_with`](Self::import_with).
    pub fn import_with_blocking<I, E, F>(&self, changes: I, on_refused: F) -> Result<Imported, Error>
    where
        I: IntoIterator<Item = Result<Change, E>>,
        I::IntoIter: Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        F: FnMut(EnqueueError) -> Result<(), Error> + Send + 'static,
    {
        pollster::block_on(self.import_with(changes, on_refused))
    }

    /// The blocking twin of [`import`](Self::import).
    ///
    /// # Errors
    /// As [`import`](Self::import).
    pub fn import_blocking<I, E>(&self, changes: I) -> Result<Imported, Error>
    where
        I: IntoIterator<Item = Result<Change, E>>,
        I::IntoIter: Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        pollster::block_on(self.import(changes))
    }

    /// Tries everything that can be sent now, once, and reads what has changed at the backend. A second caller joins the running session and gets its report.
    ///
    /// # Errors
    /// Only for local reasons. Trouble with the backend is in the report and in the [`Status`].
    pub async fn sync(&self) -> Result<Report, Error> {
        self.sync_until(SessionEnd::OnePass).await
    }

    /// The blocking twin of [`sync`](Self::sync).
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn sync_blocking(&self) -> Result<Report, Error> {
        pollster::block_on(self.sync())
    }

    /// A run of `sync` with its own end: with [`SessionEnd::Drained`] backoffs are waited for.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub async fn sync_until(&self, end: SessionEnd) -> Result<Report, Error> {
        self.sync_with(end, Directions::Both).await
    }

    /// A run of `sync` that only sends, only reads, or does both.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub async fn sync_with(&self, end: SessionEnd, directions: Directions) -> Result<Report, Error> {
        self.ask(|reply| Command::Sync { end: End::When(end), directions, reply }).await
    }

    /// The blocking twin of [`sync_with`](Self::sync_with).
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn sync_with_blocking(&self, end: SessionEnd, directions: Directions) -> Result<Report, Error> {
        pollster::block_on(self.sync_with(end, directions))
    }

    /// The blocking twin of [`sync_until`](Self::sync_until).
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn sync_until_blocking(&self, end: SessionEnd) -> Result<Report, Error> {
        pollster::block_on(self.sync_until(end))
    }

    /// Ends the running session at once. Its callers get the report of what was done; what is under way becomes of
    /// unknown fate and is sent again, under the same keys, by the next session. Nothing is lost.
    pub fn stop_sync(&self) {
        drop(self.handle.commands.send(Command::StopSync));
    }

    /// Says that something else has left changes in the store: the app's own transaction, through an outbox. They are taken
    /// over, and a running session sends them. Every run of `sync` looks by itself.
    pub fn poke(&self) {
        drop(self.handle.commands.send(Command::Poke));
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> EventStream {
        self.handle.events.subscribe()
    }

    /// Where everything stands, together with everything that happens from then on: no event falls between the two.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn watch(&self) -> Result<(Status, EventStream), Error> {
        let events = self.events();
        Ok((self.status()?, events))
    }

    /// Where everything stands.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn status(&self) -> Result<Status, Error> {
        let (counts, oldest, controls) =
            self.read(|store| Ok((store.counts()?, store.oldest()?, store.controls()?.unwrap_or_default())))?;
        let live = self.live_state();
        let (gate, identity) = (live.known.gate.clone(), live.identity.clone());
        Ok(Status { counts, oldest, syncing: live.known.syncing, gate, identity, controls })
    }

    /// Facts about this replica: its client id and what it knows of the backend.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn replica(&self) -> Result<Replica, Error> {
        let replica = self.read(|store| store.replica())?;
        replica.ok_or_else(|| StoreError::Corrupt("the row that names this replica is missing".into()).into())
    }

    /// A page of the queue: up to `limit` tasks behind position `after` (0: from the oldest).
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn tasks(&self, after: u64, limit: usize) -> Result<Page, Error> {
        self.read(move |store| store.tasks_after(after, limit))
    }

    /// One task of the queue.
    ///
    /// # Errors
    /// When the store cannot be read, or the row is damaged.
    pub fn task(&self, id: TaskId) -> Result<Option<Task>, Error> {
        self.read(move |store| store.task(id))
    }

    /// How a task ended, within the journal's horizon.
    ///
    /// # Errors
    /// When the store cannot be read, or the row is damaged.
    pub fn journal(&self, id: TaskId) -> Result<Option<JournalEntry>, Error> {
        self.read(move |store| store.journal(id))
    }

    /// What is known of a record, by the app's id of it or by the backend's: its base and what the app sees.
    ///
    /// # Errors
    /// When the store cannot be read, or the row is damaged.
    pub fn get(&self, entity: &EntityKey) -> Result<Option<StoredEntity>, Error> {
        let entity = entity.clone();
        self.read(move |store| store.entity(&local_key(store, &entity)?))
    }

    /// The backend's id of a record, if it gave it one of its own.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn server_id(&self, entity: &EntityKey) -> Result<Option<String>, Error> {
        let entity = entity.clone();
        self.read(move |store| store.server_id(&local_key(store, &entity)?))
    }

    /// Up to `limit` records of one type behind the id `after`, in order of id, deleted ones included: what the app
    /// sees, with the base beside it.
    ///
    /// # Errors
    /// When the store cannot be read. Damaged rows are named in the page.
    pub fn list(&self, entity_type: &str, after: Option<&str>, limit: usize) -> Result<EntityPage, Error> {
        let (entity_type, after) = (entity_type.to_owned(), after.map(|id| EntityKey::new(entity_type, id)));
        self.read(move |store| store.entities_after(Some(&entity_type), after.as_ref(), limit))
    }

    /// How far a record is synced, by either of its ids.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn status_of(&self, entity: &EntityKey) -> Result<EntityStatus, Error> {
        let entity = entity.clone();
        self.read(move |store| entity_status(store, &local_key(store, &entity)?))
    }

    /// A record as the app sees it, now and whenever that changes.
    pub fn watch_entity(&self, entity: EntityKey) -> EntityWatch {
        let asked = entity.clone();
        let local = self.read(move |store| local_key(store, &asked));
        EntityWatch::new(self.clone(), local.unwrap_or(entity))
    }

    /// Up to `limit` conflicts, the last first: the inbox with `open_only`, else the settled ones too, with everything
    /// that a rule set aside.
    ///
    /// # Errors
    /// When the store cannot be read. Damaged rows are named in the page.
    pub fn conflicts(&self, which: ConflictQuery, limit: usize) -> Result<ConflictPage, Error> {
        self.read(move |store| store.conflicts(&which, limit))
    }

    /// One conflict.
    ///
    /// # Errors
    /// When the store cannot be read, or the row is damaged.
    pub fn conflict(&self, id: ConflictId) -> Result<Option<ConflictRecord>, Error> {
        self.read(move |store| store.conflict(id))
    }

    /// Settles a conflict that waits. The next run of `sync` sends the outcome.
    ///
    /// # Errors
    /// [`Error::Resolve`] if it cannot be settled like this; [`Error::Store`] and [`Error::OutcomeUnknown`] if the
    /// disk fails.
    pub async fn resolve(&self, id: ConflictId, resolution: Resolution) -> Result<Resolved, Error> {
        self.ask(|reply| Command::Resolve { id, resolution, dry_run: false, reply }).await
    }

    /// The blocking twin of [`resolve`](Self::resolve).
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn resolve_blocking(&self, id: ConflictId, resolution: Resolution) -> Result<Resolved, Error> {
        pollster::block_on(self.resolve(id, resolution))
    }

    /// What [`resolve`](Self::resolve) would do. Changes nothing.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn preview(&self, id: ConflictId, resolution: Resolution) -> Result<Resolved, Error> {
        self.ask(|reply| Command::Resolve { id, resolution, dry_run: true, reply }).await
    }

    /// The blocking twin of [`preview`](Self::preview).
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn preview_blocking(&self, id: ConflictId, resolution: Resolution) -> Result<Resolved, Error> {
        pollster::block_on(self.preview(id, resolution))
    }

    /// How far the backend's change feed was read; `None` before the first page.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn pull_state(&self) -> Result<Option<PullState>, Error> {
        self.read(|store| store.pull_state())
    }

    /// Up to `limit` remote records that could not be taken in, the last first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn quarantined(&self, limit: usize) -> Result<Vec<Quarantined>, Error> {
        self.read(move |store| store.quarantined(limit))
    }

    /// Runs `read` on one consistent, durable state: beside the writer where the store can, else on its thread.
    ///
    /// # Errors
    /// What `read` returned, or why the state cannot be read.
    pub fn read<T, F>(&self, read: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&dyn StoreRead) -> Result<T, StoreError> + Send + 'static,
    {
        let mut reader = self.handle.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = reader.as_mut() {
            let mut read = Some(read);
            let mut result = Err(StoreError::Closed);
            reader.read(&mut |store| {
                if let Some(read) = read.take() {
                    result = read(store);
                }
                Ok(())
            })?;
            return Ok(result?);
        }
        drop(reader);
        let (sender, receiver) = oneshot::channel();
        let command = Command::Read(Box::new(move |store| drop(sender.send(store.and_then(read)))));
        self.handle.commands.send(command).map_err(|_| Error::Closed)?;
        Ok(pollster::block_on(receiver).map_err(|_| Error::Closed)??)
    }

    /// Ends a running session, hands the lease back and stops the engine's thread. Later calls say that it is closed.
    pub fn close(&self) {
        self.handle.close();
    }

    pub(crate) fn live_state(&self) -> MutexGuard<'_, Live> {
        self.handle.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a running engine knows beside its store.
    pub(crate) fn live(&self) -> landfall_core::explain::Live {
        self.live_state().known.clone()
    }

    /// What the service tells goes to the machine until the engine is closed.
    pub(crate) fn listen_to(&self, mut service: Box<dyn ConnectivityService>) {
        let commands = self.handle.commands.clone();
        service.start(Reporter::new(move |news| drop(commands.send(Command::Hear(Hint::Device(news))))));
        *self.connectivity() = Some(service);
    }

    pub(crate) fn connectivity(&self) -> MutexGuard<'_, Option<Box<dyn ConnectivityService>>> {
        self.handle.connectivity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn background_controller(&self) -> Option<&dyn BackgroundController> {
        self.handle.background.as_deref()
    }

    pub(crate) fn model(&self) -> Arc<Model> {
        Arc::clone(&self.live_state().model)
    }

    pub(crate) fn wall(&self) -> Timestamp {
        self.live_state().wall
    }

    /// The wall clock by now: an idle engine does not look at it, and its machine may have slept in the meantime.
    pub(crate) fn wall_now(&self) -> Timestamp {
        let live = self.live_state();
        let since = live.seen_at.and_then(|seen| seen.elapsed().ok()).unwrap_or_default();
        live.wall.after(since)
    }

    pub(crate) fn counted(&self) -> &Metrics {
        &self.handle.events.metrics
    }

    pub(crate) fn reader(&self) -> &Mutex<Option<Box<dyn StoreReader>>> {
        &self.handle.reader
    }

    pub(crate) fn send(&self, command: Command) -> Result<(), Error> {
        self.handle.commands.send(command).map_err(|_| Error::Closed)
    }

    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.handle.commands.send(command(reply)).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

/// The adapter of an engine that has no backend.
#[derive(Debug)]
struct NoBackend;

impl Adapter for NoBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            batch_tasks: usize::MAX,
            batch_bytes: 1,
            effect: EffectClass::OneEffect,
            pull: false,
            orders_writes: true,
            // Whether a backend can do them is seen when there is one.
            atomic_groups: true,
            actions: true,
            probe: false,
        }
    }

    fn push<'a>(
        &'a self,
        _context: &'a CallContext,
        _batch: &'a PushBatch,
    ) -> BoxFuture<'a, Result<PushReply, Failure>> {
        Box::pin(async {
            let message = "this engine was opened without a backend";
            Err(Failure::new(FailureKind::Unsupported, Delivery::NotSent, message))
        })
    }
}
