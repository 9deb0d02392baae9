//! Tasks that are already queued: look, cancel, take up again, edit, discard, pause, and wait for a verdict.

use crate::driver::{Command, Managed};
use crate::engine::Engine;
use crate::error::Error;
use landfall_core::change::Intent;
use landfall_core::explain::{Explanation, explain};
use landfall_core::id::TaskId;
use landfall_core::inspect::{Fate, FoundTasks, TaskFilter, fate, find_tasks};
use landfall_core::machine::{Cancelled, Scope, Step, TaskError};
use landfall_core::store::{Controls, JournalPage, StoreError, StoreTx};
use landfall_core::task::TaskState;
use std::collections::BTreeSet;
use std::time::Duration;

impl Engine {
    /// Cancels a task. One that was never sent leaves the queue at once; of another it is only a wish, and the verdict
    /// decides: what has taken effect cannot be called back.
    ///
    /// # Errors
    /// [`Error::Task`] if there is no such task or it cannot be cancelled; [`Error::Store`] and
    /// [`Error::OutcomeUnknown`] if the disk fails.
    pub async fn cancel(&self, task: TaskId) -> Result<Cancelled, Error> {
        let managed = self.manage(move |step, tx| Ok(Managed::Cancelled(step.cancel(tx, task)?))).await?;
        match managed {
            Managed::Cancelled(cancelled) => Ok(cancelled),
            _ => Err(Error::Closed),
        }
    }

    /// The blocking twin of [`cancel`](Self::cancel).
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel).
    pub fn cancel_blocking(&self, task: TaskId) -> Result<Cancelled, Error> {
        pollster::block_on(self.cancel(task))
    }

    /// Takes a dead letter up again and gives back the task that goes on: a new one with a new key if the backend has
    /// refused it, the same if nobody knows whether it took effect. The next run of `sync` sends it.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel).
    pub async fn retry(&self, task: TaskId) -> Result<TaskId, Error> {
        self.manage_task(move |step, tx| step.requeue(tx, task)).await
    }

    /// The blocking twin of [`retry`](Self::retry).
    ///
    /// # Errors
    /// As [`retry`](Self::retry).
    pub fn retry_blocking(&self, task: TaskId) -> Result<TaskId, Error> {
        pollster::block_on(self.retry(task))
    }

    /// Takes several dead letters up again, in one transaction or none, and gives back the tasks that go on, in the same
    /// order. One that went with another of its group is no error.
    ///
    /// # Errors
    /// As [`retry`](Self::retry), for the first that cannot be taken up.
    pub async fn retry_many(&self, tasks: Vec<TaskId>) -> Result<Vec<TaskId>, Error> {
        let managed = self
            .manage(move |step, tx| {
                let letters = letters(tx, &tasks)?;
                let mut go_on = Vec::with_capacity(tasks.len());
                for task in &tasks {
                    go_on.push(match step.requeue(tx, *task) {
                        // It was a letter a moment ago: it went with another one of its group.
                        Err(TaskError::Ended { .. } | TaskError::WrongState { .. })
                            if letters.contains(task) =>
                        {
                            match fate(&*tx, *task)? {
                                Fate::Queued { task, .. } => task,
                                _ => *task,
                            }
                        }
                        taken_up => taken_up?,
                    });
                }
                Ok(Managed::Tasks(go_on))
            })
            .await?;
        match managed {
            Managed::Tasks(tasks) => Ok(tasks),
            _ => Err(Error::Closed),
        }
    }

    /// The blocking twin of [`retry_many`](Self::retry_many).
    ///
    /// # Errors
    /// As [`retry_many`](Self::retry_many).
    pub fn retry_many_blocking(&self, tasks: Vec<TaskId>) -> Result<Vec<TaskId>, Error> {
        pollster::block_on(self.retry_many(tasks))
    }

    /// Takes a dead letter up again with other content, as a new task with a new key; a task that was never sent is
    /// changed in its place. The operation stays.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel).
    pub async fn edit(&self, task: TaskId, intent: Intent) -> Result<TaskId, Error> {
        self.manage_task(move |step, tx| step.edit(tx, task, intent.clone())).await
    }

    /// The blocking twin of [`edit`](Self::edit).
    ///
    /// # Errors
    /// As [`edit`](Self::edit).
    pub fn edit_blocking(&self, task: TaskId, intent: Intent) -> Result<TaskId, Error> {
        pollster::block_on(self.edit(task, intent))
    }

    /// Gives a dead letter up: it leaves the queue through the journal, with its payload.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel).
    pub async fn discard(&self, task: TaskId) -> Result<(), Error> {
        self.manage(move |step, tx| {
            step.discard(tx, task)?;
            Ok(Managed::Done)
        })
        .await
        .map(drop)
    }

    /// The blocking twin of [`discard`](Self::discard).
    ///
    /// # Errors
    /// As [`discard`](Self::discard).
    pub fn discard_blocking(&self, task: TaskId) -> Result<(), Error> {
        pollster::block_on(self.discard(task))
    }

    /// Gives several dead letters up, in one transaction or none. One that went with another of its group is no error.
    ///
    /// # Errors
    /// As [`discard`](Self::discard), for the first that cannot be given up.
    pub async fn discard_many(&self, tasks: Vec<TaskId>) -> Result<(), Error> {
        self.manage(move |step, tx| {
            let letters = letters(tx, &tasks)?;
            for task in &tasks {
                match step.discard(tx, *task) {
                    Ok(()) => {}
                    Err(TaskError::Ended { .. }) if letters.contains(task) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(Managed::Done)
        })
        .await
        .map(drop)
    }

    /// The blocking twin of [`discard_many`](Self::discard_many).
    ///
    /// # Errors
    /// As [`discard_many`](Self::discard_many).
    pub fn discard_many_blocking(&self, tasks: Vec<TaskId>) -> Result<(), Error> {
        pollster::block_on(self.discard_many(tasks))
    }

    /// Ends the backoff of a task: the next run of `sync` tries it.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel).
    pub async fn retry_now(&self, task: TaskId) -> Result<(), Error> {
        self.manage(move |step, tx| {
            step.retry_now(tx, task)?;
            Ok(Managed::Done)
        })
        .await
        .map(drop)
    }

    /// The blocking twin of [`retry_now`](Self::retry_now).
    ///
    /// # Errors
    /// As [`retry_now`](Self::retry_now).
    pub fn retry_now_blocking(&self, task: TaskId) -> Result<(), Error> {
        pollster::block_on(self.retry_now(task))
    }

    /// Nothing in `scope` is sent until it is resumed, by this process or another, also after a restart.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn pause(&self, scope: Scope) -> Result<(), Error> {
        self.manage(move |step, tx| {
            step.pause(tx, &scope)?;
            Ok(Managed::Done)
        })
        .await
        .map(drop)
    }

    /// The blocking twin of [`pause`](Self::pause).
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn pause_blocking(&self, scope: Scope) -> Result<(), Error> {
        pollster::block_on(self.pause(scope))
    }

    /// What was paused goes on with the next run of `sync`.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn resume(&self, scope: Scope) -> Result<(), Error> {
        self.manage(move |step, tx| {
            step.resume(tx, &scope)?;
            Ok(Managed::Done)
        })
        .await
        .map(drop)
    }

    /// The blocking twin of [`resume`](Self::resume).
    ///
    /// # Errors
    /// As [`resume`](Self::resume).
    pub fn resume_blocking(&self, scope: Scope) -> Result<(), Error> {
        pollster::block_on(self.resume(scope))
    }

    /// What is paused.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn controls(&self) -> Result<Controls, Error> {
        self.read(|store| Ok(store.controls()?.unwrap_or_default()))
    }

    /// A page of the tasks that are asked for: up to `limit` of them behind position `after` (0: from the oldest).
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find_tasks(&self, filter: TaskFilter, after: u64, limit: usize) -> Result<FoundTasks, Error> {
        self.read(move |store| find_tasks(store, &filter, after, limit))
    }

    /// Up to `limit` ended tasks, the last first, within the journal's horizon; with `before`, those that ended before
    /// that one.
    ///
    /// # Errors
    /// When the store cannot be read. Damaged rows are named in the page.
    pub fn journal_entries(&self, before: Option<TaskId>, limit: usize) -> Result<JournalPage, Error> {
        self.read(move |store| store.journal_entries(before, limit))
    }

    /// The exact reasons why a task has not been sent; `None` when it is not in the queue.
    ///
    /// # Errors
    /// When the store cannot be read, or the task's row is damaged.
    pub fn explain(&self, task: TaskId) -> Result<Option<Explanation>, Error> {
        let live = self.live();
        let now = self.wall();
        self.read(move |store| explain(store, task, now, &live))
    }

    /// What has become of a task, or where it stands; also after it went on as another one, and after a restart.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn fate(&self, task: TaskId) -> Result<Fate, Error> {
        self.read(move |store| fate(store, task))
    }

    /// "Is my write safe yet?": waits until a task has ended or needs a person, or until `timeout` is over, and says how
    /// it stands then. It does not make anything happen: somebody has to run `sync`, here or in another process.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn wait_acked(&self, task: TaskId, timeout: Duration) -> Result<Fate, Error> {
        self.ask(|reply| Command::Await { task, timeout, reply }).await
    }

    /// The blocking twin of [`wait_acked`](Self::wait_acked).
    ///
    /// # Errors
    /// As [`wait_acked`](Self::wait_acked).
    pub fn wait_acked_blocking(&self, task: TaskId, timeout: Duration) -> Result<Fate, Error> {
        pollster::block_on(self.wait_acked(task, timeout))
    }

    async fn manage_task(
        &self,
        mut work: impl FnMut(&mut Step, &mut dyn StoreTx) -> Result<TaskId, TaskError> + Send + 'static,
    ) -> Result<TaskId, Error> {
        let managed = self.manage(move |step, tx| Ok(Managed::Task(work(step, tx)?))).await?;
        match managed {
            Managed::Task(task) => Ok(task),
            _ => Err(Error::Closed),
        }
    }

    pub(crate) async fn manage(
        &self,
        work: impl FnMut(&mut Step, &mut dyn StoreTx) -> Result<Managed, Error> + Send + 'static,
    ) -> Result<Managed, Error> {
        self.ask(|reply| Command::Manage { work: Box::new(work), reply }).await
    }
}

/// Those of `tasks` that are dead letters.
fn letters(tx: &dyn StoreTx, tasks: &[TaskId]) -> Result<BTreeSet<TaskId>, StoreError> {
    let mut found = BTreeSet::new();
    for task in tasks {
        if tx.task(*task)?.is_some_and(|task| matches!(task.state, TaskState::Dead { .. })) {
            found.insert(*task);
        }
    }
    Ok(found)
}
