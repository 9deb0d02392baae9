//! Unsynced work on its way out of a store and into another.

use crate::driver::Managed;
use crate::engine::Engine;
use crate::error::Error;
use landfall_core::export::{ExportedTask, each_task_of};
use landfall_core::store::StoreError;
use std::io;

/// What became of exported work that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Tasks that are in the queue now.
    pub tasks: u64,
    /// Tasks that this store has or had already.
    pub known: u64,
}

impl Engine {
    /// Hands every task of the queue to `write`, in order and from one consistent state. Gives back how many there were.
    ///
    /// # Errors
    /// [`Error::Input`] with what `write` returned; [`Error::Store`] when the store cannot be read, or holds damaged
    /// rows, of which nothing can be written.
    pub fn export(
        &self,
        mut write: impl FnMut(ExportedTask) -> io::Result<()> + Send + 'static,
    ) -> Result<u64, Error> {
        let (model, identity) = (self.model(), self.identity());
        let outcome = self.read(move |store| {
            let mut count = 0;
            let outcome = each_task_of(store, &model, |task| {
                let mut task = task.map_err(|row| Stopped::Store(StoreError::Damaged(row.what)))?;
                task.identity.clone_from(&identity);
                write(task).map_err(Stopped::Write)?;
                count += 1;
                Ok(())
            });
            match outcome {
                Ok(()) => Ok(Ok(count)),
                Err(Stopped::Store(error)) => Err(error),
                Err(Stopped::Write(error)) => Ok(Err(error)),
            }
        })?;
        outcome.map_err(|error| Error::Input(Box::new(error)))
    }

    /// Takes in what [`export`](Self::export) has given out, all of it in one transaction or none. Taking the same in
    /// twice is taking it in once.
    ///
    /// # Errors
    /// [`Error::Input`] with the stream's own error; [`Error::Restore`] for a task that makes no sense.
    pub async fn restore<I, E>(&self, tasks: I) -> Result<Restored, Error>
    where
        I: IntoIterator<Item = Result<ExportedTask, E>>,
        I::IntoIter: Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut tasks = tasks.into_iter();
        let managed = self
            .manage(move |step, tx| {
                let mut restored = Restored::default();
                step.begin_stream();
                for task in tasks.by_ref() {
                    let task = task.map_err(|error| Error::Input(error.into()))?;
                    match step.restore(tx, task)? {
                        true => restored.tasks += 1,
                        false => restored.known += 1,
                    }
                }
                step.end_stream(restored.tasks);
                Ok(Managed::Restored(restored))
            })
            .await?;
        match managed {
            Managed::Restored(restored) => Ok(restored),
            _ => Err(Error::Closed),
        }
    }

    /// The blocking twin of [`restore`](Self::restore).
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn restore_blocking<I, E>(&self, tasks: I) -> Result<Restored, Error>
    where
        I: IntoIterator<Item = Result<ExportedTask, E>>,
        I::IntoIter: Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        pollster::block_on(self.restore(tasks))
    }
}

enum Stopped {
    Store(StoreError),
    Write(io::Error),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
