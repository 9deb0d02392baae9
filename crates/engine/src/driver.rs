//! The one loop: it owns the store and the machine, groups what callers ask for into one commit, and carries out the
//! effects once they are durable.
//!
//! It sleeps until the next command or the machine's next deadline. It does not poll, but for one look a second at what
//! other processes have left in the store while the machine runs by itself. Tests: `crates/engine/tests`.

use crate::calls;
use crate::clock::Clock;
use crate::engine::{Handle, Imported, Live};
use crate::error::Error;
use crate::events::EventBus;
use crate::leader;
use crate::metrics::Read;
use crate::resolver::{self, Bell, ConflictResolver};
use crate::trace::Trace;
use crate::transfer::Restored;
use futures_channel::oneshot;
use landfall_core::adapter::{Adapter, PullPage, PushReply};
use landfall_core::change::Change;
use landfall_core::config::{AutoConfig, Config};
use landfall_core::conflict::{Resolution, ResolveError, Resolved};
use landfall_core::device::DeviceState;
use landfall_core::entity::RemoteEntity;
use landfall_core::event::{Event, Report};
use landfall_core::failure::Failure;
use landfall_core::id::{CallId, ConflictId, TaskId};
use landfall_core::inspect::{Fate, fate};
use landfall_core::machine::{
    Cancelled, Directions, Effect, EnqueueError, Enqueued, Machine, Receipt, RunBudget, SessionEnd, Step,
    TakenIn,
};
use landfall_core::store::{Counts, Savepoint, Store, StoreError, StoreRead, StoreReader, StoreTx};
use landfall_core::time::{Hlc, Mono};
use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

/// Commands that may wait for the loop before a caller has to wait for a place. Some thousand, so that a burst of
/// callers becomes one commit instead of a queue at the door.
const COMMANDS: usize = 4096;
/// Most commands in one commit: bounds how long the first one waits for the last one's rows.
const GROUP: usize = 512;
/// How long nothing must happen before housekeeping begins.
const QUIET: Duration = Duration::from_millis(250);
/// How often the store is asked for a verdict that another process may bring. Costs one read.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How soon an answer of the backend is tried again after the store could not take it.
const STORE_RETRY: Duration = Duration::from_millis(500);

type Reply<T> = oneshot::Sender<Result<T, Error>>;
type ReadJob = Box<dyn FnOnce(Result<&dyn StoreRead, StoreError>) + Send>;
type ChangeSource = Box<dyn Iterator<Item = Result<Change, Box<dyn std::error::Error + Send + Sync>>> + Send>;
/// Decides about a change of a stream that was refused: passed over, or the end of the stream.
type OnRefused = Box<dyn FnMut(EnqueueError) -> Result<(), Error> + Send>;

/// Work on queued tasks, done within a transaction. Called again if the transaction had to be.
type Work = Box<dyn FnMut(&mut Step, &mut dyn StoreTx) -> Result<Managed, Error> + Send>;

/// What became of work on queued tasks.
pub(crate) enum Managed {
    Done,
    Cancelled(Cancelled),
    Task(TaskId),
    Tasks(Vec<TaskId>),
    Count(usize),
    Restored(Restored),
}

/// Somebody who waits for a task's verdict.
struct Waiter {
    task: TaskId,
    deadline: Mono,
    reply: Reply<Fate>,
}

/// What callers and calls ask of the loop.
pub(crate) enum Command {
    Enqueue {
        changes: Vec<Change>,
        reply: Reply<Vec<Receipt>>,
    },
    Import {
        changes: ChangeSource,
        on_refused: OnRefused,
        reply: Reply<Imported>,
    },
    Resolve {
        id: ConflictId,
        resolution: Resolution,
        dry_run: bool,
        reply: Reply<Resolved>,
    },
    Sync {
        end: End,
        directions: Directions,
        reply: Reply<Report>,
    },
    StopSync,
    Poke,
    Manage {
        work: Work,
        reply: Reply<Managed>,
    },
    Await {
        task: TaskId,
        timeout: Duration,
        reply: Reply<Fate>,
    },
    SettleDown {
        reply: Reply<()>,
    },
    SwitchIdentity {
        identity: Option<String>,
        reply: Reply<Option<Box<dyn StoreReader>>>,
    },
    Identities {
        reply: Reply<Vec<(Option<String>, Counts)>>,
    },
    /// What the app, the host or the backend lets the machine know.
    Hear(Hint),
    Pushed {
        call: CallId,
        answer: Result<PushReply, Failure>,
    },
    Pulled {
        call: CallId,
        answer: Result<PullPage, Failure>,
    },
    Fetched {
        call: CallId,
        answer: Result<Option<RemoteEntity>, Failure>,
    },
    Probed {
        call: CallId,
        answer: Result<(), Failure>,
    },
    Refreshed(bool),
    /// The app goes to sleep: answered when everything is handed back.
    Suspend {
        reply: Reply<()>,
    },
    Read(ReadJob),
    Close,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enqueue { .. } => "Enqueue",
            Self::Import { .. } => "Import",
            Self::Resolve { .. } => "Resolve",
            Self::Sync { .. } => "Sync",
            Self::StopSync => "StopSync",
            Self::Poke => "Poke",
            Self::Manage { .. } => "Manage",
            Self::Await { .. } => "Await",
            Self::SettleDown { .. } => "SettleDown",
            Self::SwitchIdentity { .. } => "SwitchIdentity",
            Self::Identities { .. } => "Identities",
            Self::Hear(_) => "Hear",
            Self::Probed { .. } => "Probed",
            Self::Suspend { .. } => "Suspend",
            Self::Pushed { .. } => "Pushed",
            Self::Pulled { .. } => "Pulled",
            Self::Fetched { .. } => "Fetched",
            Self::Refreshed(_) => "Refreshed",
            Self::Read(_) => "Read",
            Self::Close => "Close",
        })
    }
}

/// When a run of `sync` ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    When(SessionEnd),
    Within(RunBudget),
}

/// Something that may be a reason to act now. None of them is needed for a retry.
#[derive(Clone, Debug)]
pub(crate) enum Hint {
    RunByItself(Box<AutoConfig>),
    RunOnDemand,
    Device(DeviceState),
    ConnectivityRegained,
    CredentialsChanged,
    AppResumed,
    BackendCalled,
}

/// What the loop is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) store: Box<dyn Store>,
    pub(crate) adapter: Arc<dyn Adapter>,
    pub(crate) config: Config,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) resolver: Option<Arc<dyn ConflictResolver>>,
}

pub(crate) struct Driver {
    store: Box<dyn Store>,
    adapter: Arc<dyn Adapter>,
    config: Config,
    clock: Box<dyn Clock>,
    machine: Machine,
    /// Our name as a lease holder.
    me: String,
    commands: Receiver<Command>,
    sender: SyncSender<Command>,
    events: Arc<EventBus>,
    live: Arc<Mutex<Live>>,
    /// Wakes the app's resolver of conflicts, if there is one.
    bell: Option<Bell>,
    /// Callers of `sync` that wait for the running session.
    syncing: Vec<Reply<Report>>,
    /// Callers that wait for a task's verdict.
    waiters: Vec<Waiter>,
    /// Answers of the backend that the store could not take yet.
    retained: Vec<Command>,
    /// Set after a failed commit until the store could be reopened.
    broken: Option<StoreError>,
    /// Until when nothing is tried by itself because the store has just refused a step.
    rest_until: Option<Mono>,
    trace: Trace,
}

/// What became of a command, known before the commit and told after it.
enum Outcome {
    /// Nothing to tell.
    Done,
    /// Changes were taken.
    Taken(Vec<Receipt>),
    /// Changes were refused for their own reason; nothing of them was stored.
    Refused(EnqueueError),
    /// Work on queued tasks was done.
    Managed(Managed),
    /// A conflict was settled.
    Resolved(Resolved),
    /// A conflict cannot be settled like this; nothing was stored.
    Unresolved(ResolveError),
    /// A stream of changes was taken.
    Imported(Imported),
    /// A stream of changes broke off; nothing of it was stored.
    Broken(Error),
}

impl Outcome {
    fn receipts(&self) -> &[Receipt] {
        match self {
            Self::Taken(receipts) => receipts,
            Self::Done
            | Self::Refused(_)
            | Self::Managed(_)
            | Self::Resolved(_)
            | Self::Unresolved(_)
            | Self::Imported(_)
            | Self::Broken(_) => &[],
        }
    }
}

impl Driver {
    /// Opens the machine on a new thread and runs the loop there.
    pub(crate) fn start(parts: Parts) -> Result<(Handle, oneshot::Receiver<Result<(), Error>>), Error> {
        let (sender, commands) = sync_channel(COMMANDS);
        let (opened, on_open) = oneshot::channel();
        let events = Arc::new(EventBus::default());
        let model = Arc::new(parts.config.model.clone());
        let live = Arc::new(Mutex::new(Live { model, ..Live::default() }));
        let handle_parts = (sender.clone(), Arc::clone(&events), Arc::clone(&live));
        let work = move || {
            let Parts { mut store, adapter, config, mut clock, resolver } = parts;
            let bell = resolver.map(|resolver| resolver::start(resolver, sender.clone())).transpose();
            match bell.and_then(|bell| {
                open_machine(&mut *store, &*adapter, &config, &mut *clock).map(|machine| (machine, bell))
            }) {
                Err(error) => drop(opened.send(Err(error.into()))),
                Ok((machine, bell)) => {
                    let random = clock.entropy().derive("holder", b"");
                    let random =
                        u64::from_be_bytes(random[..8].try_into().expect("sixteen bytes hold eight"));
                    let mut driver = Self {
                        store,
                        adapter,
                        config,
                        clock,
                        machine,
                        me: leader::describe_self(random),
                        commands,
                        sender,
                        events,
                        live,
                        bell,
                        syncing: Vec::new(),
                        waiters: Vec::new(),
                        retained: Vec::new(),
                        broken: None,
                        rest_until: None,
                        trace: Trace::default(),
                    };
                    driver.show();
                    drop(opened.send(Ok(())));
                    driver.run();
                }
            }
        };
        let thread = thread::Builder::new()
            .name("landfall engine".into())
            .spawn(work)
            .map_err(|error| StoreError::Io(error.to_string()))?;
        let (sender, events, live) = handle_parts;
        Ok((Handle::new(sender, events, live, thread), on_open))
    }

    fn run(mut self) {
        let mut tidy = true;
        loop {
            match self.wait(tidy) {
                Some(first) => {
                    if first.is_empty() && !self.has_something_to_do() {
                        continue;
                    }
                    let mut group = std::mem::take(&mut self.retained);
                    let closing = self.collect(first, &mut group);
                    self.turn(group);
                    self.tell_waiters();
                    if closing {
                        break;
                    }
                    tidy = true;
                }
                None => tidy = self.housekeeping(),
            }
        }
        self.events.close();
    }

    /// The next command; a wake-up counts as an empty one. `None` when it is quiet and there is housekeeping to do.
    fn wait(&mut self, tidy: bool) -> Option<Vec<Command>> {
        let now = self.clock.now().mono;
        let until = |moment: Mono| Duration::from_millis(moment.0.saturating_sub(now.0));
        // What is due cannot be done while the store refuses: it is tried again soon, and not at once for ever.
        let rest = self.rest_until.map_or(Duration::ZERO, until);
        let mut deadline = self.machine.next_wakeup().map(|due| until(due).max(rest));
        if !self.retained.is_empty() {
            deadline = Some(deadline.map_or(STORE_RETRY, |known| known.min(STORE_RETRY)));
        }
        if let Some(first) = self.waiters.iter().map(|waiter| until(waiter.deadline)).min() {
            // Another process may bring the verdict.
            let look = first.min(LOOK_AGAIN);
            deadline = Some(deadline.map_or(look, |known| known.min(look)));
        }
        if let Some(look) = self.machine.look_every() {
            deadline = Some(deadline.map_or(look, |known| known.min(look)));
        }
        let quiet = tidy && deadline.is_none_or(|deadline| deadline > QUIET);
        let received = match (quiet, deadline) {
            (true, _) => self.commands.recv_timeout(QUIET),
            (false, Some(deadline)) => self.commands.recv_timeout(deadline),
            (false, None) => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(command) => Some(vec![command]),
            Err(RecvTimeoutError::Timeout) if quiet => None,
            Err(RecvTimeoutError::Timeout) => Some(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => Some(vec![Command::Close]),
        }
    }

    fn is_due(&self) -> bool {
        let now = self.clock.now().mono;
        let is_over = |at: Mono| at <= now;
        self.machine.next_wakeup().is_some_and(is_over) && self.rest_until.is_none_or(is_over)
    }

    /// Nothing was asked for: whether the machine has something to do, or another process has left something.
    fn has_something_to_do(&mut self) -> bool {
        if self.is_due() || !self.retained.is_empty() || !self.waiters.is_empty() || self.broken.is_some() {
            return true;
        }
        match self.store.changed_elsewhere() {
            Ok(false) => false,
            Ok(true) => {
                self.take_incoming();
                true
            }
            Err(error) => {
                tracing::debug!(%error, "could not look for what other processes have left");
                false
            }
        }
    }

    /// Everything that is already waiting joins the group. `true` when one of them says to close.
    fn collect(&mut self, first: Vec<Command>, group: &mut Vec<Command>) -> bool {
        group.extend(first);
        while group.len() < GROUP {
            match self.commands.try_recv() {
                Ok(command) => group.push(command),
                Err(_) => break,
            }
        }
        let before = group.len();
        group.retain(|command| !matches!(command, Command::Close));
        group.len() < before
    }

    /// One turn: a stream of changes and a resolution are commits of their own, reads see only what is durable, all else is one commit.
    fn turn(&mut self, group: Vec<Command>) {
        let _turn = self.trace.turn(group.len());
        let mut writes = Vec::with_capacity(group.len());
        let mut reads = Vec::new();
        let mut alone = Vec::new();
        let mut poked = false;
        for command in group {
            match command {
                Command::Read(read) => reads.push(read),
                Command::Poke => poked = true,
                Command::Import { .. }
                | Command::Resolve { .. }
                | Command::Manage { .. }
                | Command::Await { .. }
                | Command::SettleDown { .. }
                | Command::SwitchIdentity { .. }
                | Command::Identities { .. } => alone.push(command),
                other => writes.push(other),
            }
        }
        if poked || writes.iter().any(|command| matches!(command, Command::Sync { .. })) {
            self.take_incoming();
        }
        // A group without anything in it is a wake-up, and the machine has something to do; so it has after a poke, and when
        // its alarm is due, however many readers there are.
        let is_wakeup = alone.is_empty() && reads.is_empty();
        if !writes.is_empty() || is_wakeup || poked || self.is_due() {
            self.commit(writes);
        }
        for command in alone {
            match command {
                Command::Resolve { id, resolution, dry_run: true, reply } => {
                    drop(reply.send(self.preview(id, &resolution)));
                }
                Command::Await { task, timeout, reply } => {
                    let wait = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                    let deadline = Mono(self.clock.now().mono.0.saturating_add(wait));
                    self.waiters.push(Waiter { task, deadline, reply });
                }
                Command::SettleDown { reply } => {
                    self.settle_down();
                    drop(reply.send(Ok(())));
                }
                Command::SwitchIdentity { identity, reply } => {
                    drop(reply.send(self.switch_identity(identity)));
                }
                Command::Identities { reply } => {
                    drop(reply.send(self.store.identities().map_err(Into::into)))
                }
                other => self.commit(vec![other]),
            }
        }
        if !reads.is_empty() {
            match self.store.begin() {
                Ok(tx) => reads.into_iter().for_each(|read| read(Ok(&*tx))),
                Err(error) => reads.into_iter().for_each(|read| read(Err(error.clone()))),
            }
        }
    }

    /// Takes over what the app's own transactions have left in the store, some hundred changes in a commit.
    fn take_incoming(&mut self) {
        loop {
            match self.take_some_incoming() {
                Ok(more) => {
                    if !more {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "changes that were left in the store could not be taken over yet");
                    return;
                }
            }
        }
    }

    /// `true` when there may be more.
    fn take_some_incoming(&mut self) -> Result<bool, StoreError> {
        self.mend()?;
        let mut step = self.machine.step(self.clock.now(), self.clock.entropy());
        let mut tx = self.store.begin()?;
        let taken = step.take_incoming(&mut *tx, GROUP)?;
        if taken == TakenIn::default() {
            return Ok(false);
        }
        if taken.refused > 0 {
            tracing::warn!(
                count = taken.refused,
                "changes that were left in the store were refused and set apart"
            );
        }
        step.finish(&mut *tx)?;
        if let Err(error) = tx.commit() {
            self.broken = Some(error.clone());
            return Err(error);
        }
        let effects = self.machine.apply(step);
        self.carry_out(effects);
        Ok(taken.more)
    }

    /// What a resolution would do: done, looked at, and dropped with its transaction.
    fn preview(&mut self, id: ConflictId, resolution: &Resolution) -> Result<Resolved, Error> {
        self.mend()?;
        let mut step = self.machine.step(self.clock.now(), self.clock.entropy());
        let mut tx = self.store.begin()?;
        let mut resolved = step.resolve(&mut *tx, id, resolution)?;
        // The task that would carry it is not there.
        resolved.task = None;
        Ok(resolved)
    }

    /// Ends a running session and forbids every call that has not left yet.
    fn settle_down(&mut self) {
        self.machine.withdraw_permits();
        if self.machine.leads() || self.machine.is_syncing() {
            self.commit(vec![Command::StopSync]);
        }
        // Calls that could not be handed back by a commit are of unknown fate at the next opening.
        if let Ok(machine) = self.open_anew() {
            self.machine = machine;
        }
        self.show();
    }

    /// The queue changes hands (G16): first nothing may leave any more, then everything under way is handed back, and
    /// only then is the other queue opened. An answer to an old call is never taken for one to a new call.
    fn switch_identity(&mut self, identity: Option<String>) -> Result<Option<Box<dyn StoreReader>>, Error> {
        self.mend()?;
        self.settle_down();
        self.retained.clear();
        self.store.switch_identity(identity.as_deref())?;
        self.machine = self.open_anew()?;
        self.show();
        self.events.publish(&Event::IdentitySwitched { identity });
        Ok(self.store.reader()?)
    }

    fn open_anew(&mut self) -> Result<Machine, StoreError> {
        let mut machine = open_machine(&mut *self.store, &*self.adapter, &self.config, &mut *self.clock)?;
        machine.follow(&self.machine);
        if machine.runs_by_itself() {
            // Its alarm is set by its first step.
            self.retained.push(Command::Poke);
        }
        Ok(machine)
    }

    /// Whoever waits for a verdict hears it, or hears that the time is over.
    fn tell_waiters(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let now = self.clock.now().mono;
        let waiters = std::mem::take(&mut self.waiters);
        let tx = match self.store.begin() {
            Ok(tx) => tx,
            Err(error) => {
                for waiter in waiters {
                    if now < waiter.deadline {
                        self.waiters.push(waiter);
                    } else {
                        drop(waiter.reply.send(Err(error.clone().into())));
                    }
                }
                return;
            }
        };
        for waiter in waiters {
            match fate(&*tx, waiter.task) {
                Ok(fate) if fate.may_change() && now < waiter.deadline => self.waiters.push(waiter),
                outcome => drop(waiter.reply.send(outcome.map_err(Into::into))),
            }
        }
    }

    /// Carries out commands in one transaction and answers them when it is durable. If the store fails in the middle,
    /// each command is tried alone, so that one record's damage is one caller's trouble.
    fn commit(&mut self, mut commands: Vec<Command>) {
        let _commit = self.trace.commit(commands.len());
        if let Err(error) = self.mend() {
            return self.put_off(commands, &error);
        }
        let mut step = self.machine.step(self.clock.now(), self.clock.entropy());
        let outcomes = match self.store.begin() {
            Ok(mut tx) => match prepare(&mut step, &mut *tx, &mut commands, &self.me) {
                Ok(outcomes) => Ok((outcomes, tx.commit())),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match outcomes {
            Ok((outcomes, Ok(()))) => {
                let effects = self.machine.apply(step);
                self.rest_until = None;
                self.deliver(commands, outcomes);
                self.carry_out(effects);
            }
            Ok((outcomes, Err(error))) => self.look_up(commands, outcomes, step.newest_time(), error),
            Err(error) if commands.len() > 1 => {
                tracing::warn!(%error, "a step was rolled back; its parts are tried alone");
                self.reopen_after(&error);
                commands.into_iter().for_each(|command| self.commit(vec![command]));
            }
            Err(error) => {
                tracing::warn!(%error, "a step was rolled back");
                self.reopen_after(&error);
                self.put_off(commands, &error);
            }
        }
    }

    /// After an I/O error a store may refuse everything until it is opened again, which the next turn does.
    fn reopen_after(&mut self, error: &StoreError) {
        if matches!(error, StoreError::Io(_) | StoreError::Closed) {
            self.broken = Some(error.clone());
        }
    }

    /// The store refuses: what has time is tried again soon. The end of a session is a step too, so those who wait for one
    /// whose time is over hear the error instead; what it has under way stays under way.
    fn put_off(&mut self, commands: Vec<Command>, error: &StoreError) {
        let now = self.clock.now().mono;
        self.rest_until = Some(now.after(STORE_RETRY));
        if self.machine.session_is_overdue(now) {
            fail_sync(std::mem::take(&mut self.syncing), error);
        }
        self.refuse(commands, error);
    }

    /// A commit failed: reopens the store, looks whether it landed after all, and tells the truth.
    fn look_up(
        &mut self,
        commands: Vec<Command>,
        outcomes: Vec<Outcome>,
        newest: Option<Hlc>,
        error: StoreError,
    ) {
        tracing::error!(%error, "a commit failed; reopening the store");
        self.broken = Some(error.clone());
        let landed = self.mend().and_then(|()| self.has_landed(&outcomes, newest));
        for (command, outcome) in commands.into_iter().zip(outcomes) {
            let task = outcome.receipts().first().and_then(|receipt| receipt.task);
            let failure = || match landed {
                Ok(_) => Error::Store(error.clone()),
                Err(_) => Error::OutcomeUnknown { task, reason: error.clone() },
            };
            match (command, outcome) {
                (Command::Enqueue { reply, .. }, Outcome::Refused(refused)) => {
                    drop(reply.send(Err(refused.into())))
                }
                (Command::Enqueue { reply, .. }, Outcome::Taken(receipts)) if landed == Ok(true) => {
                    drop(reply.send(Ok(receipts)));
                }
                (Command::Import { reply, .. }, Outcome::Imported(imported)) if landed == Ok(true) => {
                    drop(reply.send(Ok(imported)));
                }
                (Command::Resolve { reply, .. }, Outcome::Unresolved(refused)) => {
                    drop(reply.send(Err(refused.into())));
                }
                (Command::Resolve { id, reply, .. }, Outcome::Resolved(resolved)) => {
                    let answer = match landed.as_ref().map(|_| self.is_settled(id)) {
                        Ok(Ok(true)) => Ok(resolved),
                        Ok(Ok(false)) => Err(Error::Store(error.clone())),
                        Ok(Err(_)) | Err(_) => {
                            Err(Error::OutcomeUnknown { task: None, reason: error.clone() })
                        }
                    };
                    drop(reply.send(answer));
                }
                (Command::Manage { reply, .. }, Outcome::Managed(managed)) if landed == Ok(true) => {
                    drop(reply.send(Ok(managed)));
                }
                (Command::Manage { reply, .. }, Outcome::Broken(error)) => drop(reply.send(Err(error))),
                (Command::Manage { reply, .. }, _) => drop(reply.send(Err(failure()))),
                (Command::Resolve { reply, .. }, _) => drop(reply.send(Err(failure()))),
                (Command::Enqueue { reply, .. }, _) => drop(reply.send(Err(failure()))),
                (Command::Import { reply, .. }, _) => drop(reply.send(Err(failure()))),
                (Command::Sync { reply, .. }, _) => drop(reply.send(Err(Error::Store(error.clone())))),
                (Command::Suspend { reply }, _) => drop(reply.send(Err(Error::Store(error.clone())))),
                // A hint is heard anew: it writes nothing that could have landed.
                (hint @ (Command::Hear(_) | Command::Refreshed(_)), _) => self.retained.push(hint),
                // What was under way is of unknown fate now and will be asked for again.
                _ => {}
            }
        }
    }

    fn is_settled(&mut self, conflict: ConflictId) -> Result<bool, StoreError> {
        let tx = self.store.begin()?;
        Ok(tx.conflict(conflict)?.is_some_and(|record| !record.is_open()))
    }

    /// The commit is durable: everybody hears what became of theirs.
    fn deliver(&mut self, commands: Vec<Command>, outcomes: Vec<Outcome>) {
        for (command, outcome) in commands.into_iter().zip(outcomes) {
            match (command, outcome) {
                (Command::Enqueue { reply, .. }, Outcome::Taken(receipts)) => drop(reply.send(Ok(receipts))),
                (Command::Enqueue { reply, .. }, Outcome::Refused(refused)) => {
                    drop(reply.send(Err(refused.into())))
                }
                (Command::Import { reply, .. }, Outcome::Imported(imported)) => {
                    drop(reply.send(Ok(imported)))
                }
                (Command::Import { reply, .. }, Outcome::Broken(error)) => drop(reply.send(Err(error))),
                (Command::Manage { reply, .. }, Outcome::Managed(managed)) => {
                    drop(reply.send(Ok(managed)));
                }
                (Command::Manage { reply, .. }, Outcome::Broken(error)) => drop(reply.send(Err(error))),
                (Command::Resolve { reply, .. }, Outcome::Resolved(resolved)) => {
                    drop(reply.send(Ok(resolved)));
                }
                (Command::Resolve { reply, .. }, Outcome::Unresolved(refused)) => {
                    drop(reply.send(Err(refused.into())));
                }
                (Command::Sync { reply, .. }, _) => self.syncing.push(reply),
                (Command::Suspend { reply }, _) => {
                    // A call that still waits for its credentials must not leave once the app sleeps.
                    self.machine.recall_calls();
                    drop(reply.send(Ok(())));
                }
                _ => {}
            }
        }
    }

    /// Reopens the store after a failed commit. What was under way becomes of unknown fate and is sent again under the
    /// same keys; running sessions end with the error.
    fn mend(&mut self) -> Result<(), StoreError> {
        let Some(error) = self.broken.clone() else { return Ok(()) };
        self.store.reopen()?;
        self.machine = self.open_anew()?;
        self.broken = None;
        fail_sync(std::mem::take(&mut self.syncing), &error);
        self.show();
        Ok(())
    }

    /// Whether the transaction whose commit failed is durable after all. It is one transaction: any trace of it proves
    /// all of it.
    fn has_landed(&mut self, outcomes: &[Outcome], newest: Option<Hlc>) -> Result<bool, StoreError> {
        let tx = self.store.begin()?;
        for receipt in outcomes.iter().flat_map(Outcome::receipts) {
            let Some(task) = receipt.task else { continue };
            match receipt.outcome {
                Enqueued::New => return Ok(tx.task(task)?.is_some() || tx.journal(task)?.is_some()),
                Enqueued::Annihilated | Enqueued::NoChange => return Ok(tx.task(task)?.is_none()),
                Enqueued::Coalesced | Enqueued::Repeated => {}
            }
        }
        Ok(newest.is_some() && tx.replica()?.map(|replica| replica.clock) >= newest)
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        // First, so that whoever gets an answer below and asks for the status sees what it speaks of.
        self.show();
        for effect in effects {
            match effect {
                Effect::Push { context, batch } => {
                    let (sender, adapter, call) =
                        (self.sender.clone(), Arc::clone(&self.adapter), batch.call);
                    let span = self.trace.push(&batch);
                    let work = move || calls::wait(adapter.push(&context, &batch));
                    calls::make(call, span, work, move |answer| {
                        drop(sender.send(Command::Pushed { call, answer }));
                    });
                }
                Effect::Pull { context, call, request } => {
                    self.events.metrics.reads(Read::Pull);
                    let (sender, adapter) = (self.sender.clone(), Arc::clone(&self.adapter));
                    let span = self.trace.pull(call);
                    let work = move || calls::wait(adapter.pull(&context, &request));
                    calls::make(call, span, work, move |answer| {
                        drop(sender.send(Command::Pulled { call, answer }));
                    });
                }
                Effect::Probe { context, call, probe } => {
                    self.events.metrics.reads(Read::Probe);
                    let (sender, adapter) = (self.sender.clone(), Arc::clone(&self.adapter));
                    let span = self.trace.probe(call);
                    let work = move || calls::wait(adapter.probe(&context, &probe));
                    calls::make(call, span, work, move |answer| {
                        drop(sender.send(Command::Probed { call, answer }));
                    });
                }
                Effect::Fetch { context, call, entity } => {
                    self.events.metrics.reads(Read::Fetch);
                    let (sender, adapter) = (self.sender.clone(), Arc::clone(&self.adapter));
                    let span = self.trace.fetch(call);
                    let work = move || calls::wait(adapter.fetch(&context, &entity));
                    calls::make(call, span, work, move |answer| {
                        drop(sender.send(Command::Fetched { call, answer }));
                    });
                }
                // The thread of an abandoned call ends by the call's own time limit; its answer is not known any more.
                Effect::Cancel(call) => tracing::debug!(?call, "abandoned"),
                Effect::RefreshCredentials => {
                    let (sender, adapter) = (self.sender.clone(), Arc::clone(&self.adapter));
                    thread::spawn(move || {
                        let fresh = pollster::block_on(adapter.refresh_credentials());
                        drop(sender.send(Command::Refreshed(fresh)));
                    });
                }
                Effect::Emit(event) => {
                    self.trace.heard(&event);
                    if let (Event::Conflicted { waits: true, .. }, Some(bell)) = (&event, &self.bell) {
                        bell.ring();
                    }
                    self.events.publish(&event);
                }
                Effect::SessionEnded(report) => {
                    for reply in self.syncing.drain(..) {
                        drop(reply.send(Ok(report.clone())));
                    }
                }
                _ => {}
            }
        }
    }

    /// Puts what only the machine knows where readers can see it.
    fn show(&mut self) {
        let now = self.clock.now();
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        (live.wall, live.seen_at) = (now.wall, Some(SystemTime::now()));
        live.identity = self.store.identity().map(str::to_owned);
        live.known = self.machine.live(now);
        live.device = self.machine.device();
    }

    /// Nothing could be done: callers hear why, answers of the backend are kept for another try.
    fn refuse(&mut self, commands: Vec<Command>, error: &StoreError) {
        for command in commands {
            match command {
                Command::Enqueue { reply, .. } => drop(reply.send(Err(error.clone().into()))),
                Command::Import { reply, .. } => drop(reply.send(Err(error.clone().into()))),
                Command::Resolve { reply, .. } => drop(reply.send(Err(error.clone().into()))),
                Command::Manage { reply, .. } => drop(reply.send(Err(error.clone().into()))),
                Command::Await { reply, .. } => drop(reply.send(Err(error.clone().into()))),
                Command::SettleDown { reply } => drop(reply.send(Err(error.clone().into()))),
                Command::SwitchIdentity { reply, .. } => drop(reply.send(Err(error.clone().into()))),
                Command::Identities { reply } => drop(reply.send(Err(error.clone().into()))),
                Command::Sync { reply, .. } => drop(reply.send(Err(error.clone().into()))),
                Command::Suspend { reply } => drop(reply.send(Err(error.clone().into()))),
                kept @ (Command::Pushed { .. }
                | Command::Pulled { .. }
                | Command::Fetched { .. }
                | Command::Probed { .. }
                | Command::Hear(_)
                | Command::Refreshed(_)) => self.retained.push(kept),
                Command::StopSync | Command::Poke | Command::Read(_) | Command::Close => {}
            }
        }
    }

    /// Lets the journal forget; `true` when there is more to forget.
    fn tidy(&mut self) -> Result<bool, StoreError> {
        let mut step = self.machine.step(self.clock.now(), self.clock.entropy());
        let mut tx = self.store.begin()?;
        let more = step.tidy(&mut *tx)?;
        if let Err(error) = tx.commit() {
            self.broken = Some(error.clone());
            return Err(error);
        }
        Ok(more)
    }

    /// For quiet moments; `true` when there is more to do.
    fn housekeeping(&mut self) -> bool {
        if self.broken.is_some() {
            return false;
        }
        let more = self.tidy().unwrap_or_else(|error| {
            tracing::warn!(%error, "the journal could not be tidied");
            false
        });
        if let Err(error) = self.store.idle() {
            tracing::warn!(%error, "housekeeping of the store failed");
        }
        more
    }

    /// Ends the session, gives the lease back and makes it durable.
    fn close(&mut self) {
        if self.machine.leads() || self.machine.is_syncing() {
            self.commit(vec![Command::StopSync]);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.close();
    }
}

fn fail_sync(waiting: Vec<Reply<Report>>, error: &StoreError) {
    for reply in waiting {
        drop(reply.send(Err(error.clone().into())));
    }
}

fn open_machine(
    store: &mut dyn Store,
    adapter: &dyn Adapter,
    config: &Config,
    clock: &mut dyn Clock,
) -> Result<Machine, StoreError> {
    let entropy = clock.entropy();
    let mut tx = store.begin()?;
    let machine = Machine::open(config.clone(), adapter.capabilities(), &entropy, &mut *tx)?;
    tx.commit()?;
    Ok(machine.for_identity(store.identity()))
}

/// Everything that `commands` ask for, in one transaction. `Err` only for the store's reasons, which end the whole group.
fn prepare(
    step: &mut Step,
    tx: &mut dyn StoreTx,
    commands: &mut [Command],
    me: &str,
) -> Result<Vec<Outcome>, StoreError> {
    // What may have to be tried again alone is kept; what is alone already is not copied.
    let alone = commands.len() == 1;
    let mut outcomes = Vec::with_capacity(commands.len());
    for command in commands {
        outcomes.push(match command {
            Command::Enqueue { changes, .. } if alone => enqueue(step, tx, std::mem::take(changes))?,
            Command::Enqueue { changes, .. } => enqueue(step, tx, changes.clone())?,
            Command::Import { changes, on_refused, .. } => import(step, tx, changes, on_refused)?,
            Command::Resolve { id, resolution, .. } => resolve(step, tx, *id, resolution)?,
            Command::Sync { end, directions, .. } => {
                match *end {
                    End::When(end) => step.start_session_of(end, *directions),
                    End::Within(budget) => step.start_session_within(budget, *directions),
                }
                Outcome::Done
            }
            Command::Manage { work, .. } => manage(step, tx, work)?,
            Command::Hear(hint) => {
                hear(step, tx, hint)?;
                Outcome::Done
            }
            Command::Suspend { .. } => {
                step.suspend();
                Outcome::Done
            }
            Command::StopSync => {
                step.stop_session();
                Outcome::Done
            }
            Command::Pushed { call, answer } => {
                step.pushed(tx, *call, answer)?;
                Outcome::Done
            }
            Command::Pulled { call, answer } => {
                step.pulled(tx, *call, answer)?;
                Outcome::Done
            }
            Command::Fetched { call, answer } => {
                step.fetched(tx, *call, answer)?;
                Outcome::Done
            }
            Command::Refreshed(fresh) => {
                step.credentials_refreshed(*fresh);
                Outcome::Done
            }
            Command::Probed { call, answer } => {
                step.probed(tx, *call, answer)?;
                Outcome::Done
            }
            Command::Poke
            | Command::Read(_)
            | Command::Await { .. }
            | Command::SettleDown { .. }
            | Command::SwitchIdentity { .. }
            | Command::Identities { .. }
            | Command::Close => Outcome::Done,
        });
    }
    step.start_if_due(tx)?;
    if step.needs_lease() {
        step.lead(tx, me, &leader::is_gone)?;
    }
    step.finish(tx)?;
    Ok(outcomes)
}

fn hear(step: &mut Step, tx: &mut dyn StoreTx, hint: &Hint) -> Result<(), StoreError> {
    match hint {
        Hint::RunByItself(settings) => step.run_by_itself((**settings).clone()),
        Hint::RunOnDemand => step.run_on_demand(),
        Hint::Device(news) => step.device_changed(tx, news)?,
        Hint::ConnectivityRegained => step.connectivity_regained(),
        Hint::CredentialsChanged => step.credentials_changed(),
        Hint::AppResumed => step.resume_app(),
        Hint::BackendCalled => step.backend_called(),
    }
    Ok(())
}

/// Stores all of `changes` or none.
fn enqueue(step: &mut Step, tx: &mut dyn StoreTx, changes: Vec<Change>) -> Result<Outcome, StoreError> {
    // A single change that is refused has written nothing.
    let point = if changes.len() > 1 { Some((tx.savepoint()?, step.mark())) } else { None };
    let mut receipts = Vec::with_capacity(changes.len());
    for change in changes {
        match step.enqueue(tx, change) {
            Ok(receipt) => receipts.push(receipt),
            Err(EnqueueError::Store(error)) => return Err(error),
            Err(refused) => {
                if let Some((point, mark)) = point {
                    tx.rollback_to(point)?;
                    tx.release(point)?;
                    step.forget_since(mark);
                }
                return Ok(Outcome::Refused(refused));
            }
        }
    }
    if let Some((point, _)) = point {
        tx.release(point)?;
    }
    Ok(Outcome::Taken(receipts))
}

/// Works on queued tasks, or leaves everything as it was.
fn manage(step: &mut Step, tx: &mut dyn StoreTx, work: &mut Work) -> Result<Outcome, StoreError> {
    let (point, mark) = (tx.savepoint()?, step.mark());
    let outcome = match work(step, tx) {
        Ok(managed) => {
            step.leave_trace(tx)?;
            Outcome::Managed(managed)
        }
        Err(Error::Store(error)) => return Err(error),
        Err(refused) => {
            tx.rollback_to(point)?;
            step.forget_since(mark);
            Outcome::Broken(refused)
        }
    };
    tx.release(point)?;
    Ok(outcome)
}

/// Settles a conflict, or leaves everything as it was.
fn resolve(
    step: &mut Step,
    tx: &mut dyn StoreTx,
    id: ConflictId,
    resolution: &Resolution,
) -> Result<Outcome, StoreError> {
    let (point, mark) = (tx.savepoint()?, step.mark());
    let outcome = match step.resolve(tx, id, resolution) {
        Ok(resolved) => Outcome::Resolved(resolved),
        Err(ResolveError::Store(error)) => return Err(error),
        Err(refused) => {
            tx.rollback_to(point)?;
            step.forget_since(mark);
            Outcome::Unresolved(refused)
        }
    };
    tx.release(point)?;
    Ok(outcome)
}

/// Stores all of a stream of changes or none, without ever holding more than one.
fn import(
    step: &mut Step,
    tx: &mut dyn StoreTx,
    changes: &mut ChangeSource,
    on_refused: &mut OnRefused,
) -> Result<Outcome, StoreError> {
    let point = tx.savepoint()?;
    let mut imported = Imported::default();
    step.begin_stream();
    for change in changes {
        let taken = match change {
            Ok(change) => step.enqueue(tx, change),
            Err(error) => return abandon(step, tx, point, Error::Input(error)),
        };
        match taken {
            Ok(receipt) => imported.count(receipt.outcome),
            Err(EnqueueError::Store(error)) => return Err(error),
            Err(refused) => {
                if let Err(error) = on_refused(refused) {
                    return abandon(step, tx, point, error);
                }
            }
        }
    }
    tx.release(point)?;
    step.end_stream(imported.changes);
    Ok(Outcome::Imported(imported))
}

/// Undoes the part of a stream that was taken.
fn abandon(
    step: &mut Step,
    tx: &mut dyn StoreTx,
    point: Savepoint,
    error: Error,
) -> Result<Outcome, StoreError> {
    tx.rollback_to(point)?;
    tx.release(point)?;
    step.end_stream(0);
    Ok(Outcome::Broken(error))
}
