//! The app's own hand in conflicts that the rules leave open: asked one conflict at a time, on a thread of its own.
//!
//! It may take as long as it likes, ask a person or another service, or decline. The queue goes on meanwhile; only the
//! record waits. After a restart it is asked again about everything that still waits. Tests: `tests/conflicts.rs`.

use crate::driver::Command;
use landfall_core::adapter::BoxFuture;
use landfall_core::conflict::{ConflictRecord, Resolution};
use landfall_core::id::{ConflictId, Version};
use landfall_core::store::{ConflictQuery, StoreError};
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Conflicts looked at in one read.
const PAGE: usize = 100;

/// Decides conflicts that the rules leave open.
pub trait ConflictResolver: fmt::Debug + Send + Sync + 'static {
    /// What becomes of this conflict; `None` leaves it to a person. Asked again when the backend's side moves.
    fn resolve<'a>(&'a self, conflict: &'a ConflictRecord) -> BoxFuture<'a, Option<Resolution>>;
}

/// Wakes the resolver's thread. Wake-ups that come while it is busy become one.
#[derive(Debug, Clone)]
pub(crate) struct Bell(SyncSender<()>);

impl Bell {
    pub(crate) fn ring(&self) {
        let _already_ringing = self.0.try_send(());
    }
}

/// Starts the thread; it ends with the engine's.
pub(crate) fn start(
    resolver: Arc<dyn ConflictResolver>,
    commands: SyncSender<Command>,
) -> Result<Bell, StoreError> {
    let (sender, bell) = sync_channel(1);
    let work = move || Desk { resolver, commands, declined: BTreeMap::new() }.sit(&bell);
    let thread = thread::Builder::new().name("landfall resolver".into()).spawn(work);
    thread.map_err(|error| StoreError::Io(error.to_string()))?;
    let bell = Bell(sender);
    bell.ring();
    Ok(bell)
}

struct Desk {
    resolver: Arc<dyn ConflictResolver>,
    commands: SyncSender<Command>,
    /// What it declined, at which version of the backend's side.
    declined: BTreeMap<ConflictId, Option<Version>>,
}

impl Desk {
    fn sit(mut self, bell: &Receiver<()>) {
        while bell.recv().is_ok() {
            if self.look().is_none() {
                return;
            }
        }
    }

    /// Goes through everything that waits; `None` when the engine is gone.
    fn look(&mut self) -> Option<()> {
        let mut which = ConflictQuery { open_only: true, ..ConflictQuery::default() };
        let mut waiting = BTreeMap::new();
        loop {
            let page = self.page(which.clone())?;
            let Some(last) = page.last() else { break };
            which.before = Some(last.id);
            for conflict in page {
                let version = conflict.remote.as_ref().and_then(|remote| remote.version.clone());
                waiting.insert(conflict.id, version.clone());
                if self.declined.get(&conflict.id) == Some(&version) || conflict.remote.is_none() {
                    continue;
                }
                match self.ask(&conflict) {
                    Some(resolution) => self.settle(conflict.id, resolution)?,
                    None => drop(self.declined.insert(conflict.id, version)),
                }
            }
        }
        self.declined.retain(|id, _| waiting.contains_key(id));
        Some(())
    }

    fn ask(&self, conflict: &ConflictRecord) -> Option<Resolution> {
        let asked = || pollster::block_on(self.resolver.resolve(conflict));
        catch_unwind(AssertUnwindSafe(asked)).unwrap_or_else(|_| {
            tracing::error!(conflict = %conflict.id, "the conflict resolver panicked; the conflict waits");
            None
        })
    }

    fn page(&self, which: ConflictQuery) -> Option<Vec<ConflictRecord>> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        let read = move |store: Result<&dyn landfall_core::store::StoreRead, StoreError>| {
            let page = store.and_then(|store| store.conflicts(&which, PAGE));
            drop(sender.send(page.map(|page| page.conflicts)));
        };
        self.commands.send(Command::Read(Box::new(read))).ok()?;
        match pollster::block_on(receiver).ok()? {
            Ok(conflicts) => Some(conflicts),
            Err(error) => {
                tracing::warn!(%error, "conflicts cannot be read");
                Some(Vec::new())
            }
        }
    }

    fn settle(&self, id: ConflictId, resolution: Resolution) -> Option<()> {
        let (reply, answer) = futures_channel::oneshot::channel();
        self.commands.send(Command::Resolve { id, resolution, dry_run: false, reply }).ok()?;
        if let Err(error) = pollster::block_on(answer).ok()? {
            tracing::warn!(conflict = %id, %error, "a conflict could not be resolved as decided");
        }
        Some(())
    }
}
