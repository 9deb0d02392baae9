//! Watching records: their state now, and again whenever what the app sees of them changes.
//!
//! Built on the event stream, so a slow watcher holds nobody up: it misses states in between, never the last one.
//! Tests: `tests/conflicts.rs`.

use crate::engine::Engine;
use crate::error::Error;
use crate::events::{EventStream, Notice};
use landfall_core::entity::StoredEntity;
use landfall_core::event::Event;
use landfall_core::id::EntityKey;
use std::time::{Duration, Instant};

/// The states of one record, from [`Engine::watch_entity`].
#[derive(Debug)]
pub struct EntityWatch {
    engine: Engine,
    key: EntityKey,
    events: EventStream,
    first: bool,
}

impl EntityWatch {
    pub(crate) fn new(engine: Engine, key: EntityKey) -> Self {
        let events = engine.events();
        Self { engine, key, events, first: true }
    }

    /// The record as it is now at the first call, then each time it has changed; `Ok(None)` when the engine was
    /// closed. Works under any executor.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn next(&mut self) -> Result<Option<StoredEntity>, Error> {
        if !std::mem::take(&mut self.first) {
            loop {
                match self.events.next().await {
                    None => return Ok(None),
                    Some(notice) if self.concerns(&notice) => break,
                    Some(_) => {}
                }
            }
        }
        self.read().map(Some)
    }

    /// Likewise, if it changes within `wait`. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn next_within(&mut self, wait: Duration) -> Result<Option<StoredEntity>, Error> {
        let until = Instant::now() + wait;
        if !std::mem::take(&mut self.first) {
            loop {
                match self.events.next_within(until.saturating_duration_since(Instant::now())) {
                    None => return Ok(None),
                    Some(notice) if self.concerns(&notice) => break,
                    Some(_) => {}
                }
            }
        }
        self.read().map(Some)
    }

    fn read(&self) -> Result<StoredEntity, Error> {
        Ok(self.engine.get(&self.key)?.unwrap_or_else(|| StoredEntity::unknown(self.key.clone())))
    }

    fn concerns(&self, notice: &Notice) -> bool {
        match notice {
            // Something was missed, and a stream of changes is told of as a whole.
            Notice::Lagged(_) | Notice::Event(Event::Imported { .. }) => true,
            Notice::Event(Event::Changed { entity, .. }) => *entity == self.key,
            Notice::Event(_) => false,
        }
    }
}
