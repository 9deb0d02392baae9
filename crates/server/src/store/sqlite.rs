//! The server's records in one SQLite file: a writer thread with group commit, readers beside it.
//!
//! Requests that wait together are written in **one** transaction and answered after the commit: an answer never says
//! what a crash could take back. If one of them cannot be stored, all is rolled back and each is tried alone (that
//! is cheaper than a savepoint for each, which makes SQLite copy every page it touches). A commit that fails leaves the outcome
//! unknown; those callers get 503 (and repeat with the same keys), the connection is thrown away and opened again.
//! The rules are not here (`state.rs`), the SQL is in `sqlite/records.rs` and `sqlite/schema.rs`.
//! Tests: `tests/store.rs`, `tests/rules.rs`.

mod records;
mod schema;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use landfall_protocol::{ChangesPage, PushResponse, Record};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::incoming::Submission;
use crate::state::{self, NoPolicy, Policy, RecordsError, Refusal};
pub use records::SqliteRecords;

/// Requests in one transaction at most: bounds how long the first of them waits.
const BATCH_REQUESTS: usize = 64;
/// Tasks in one transaction at most (one request may hold more by itself).
const BATCH_TASKS: usize = 4096;
/// Requests waiting for the writer; more wait in their connections.
const QUEUE: usize = 256;
/// Reading connections at once: each one is a thread that waits for the disk.
const READERS: usize = 4;

/// What may be chosen when a database is opened.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The app's own rules and actions.
    pub policy: Arc<dyn Policy>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { policy: Arc::new(NoPolicy) }
    }
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite said so.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file holds something else.
    #[error("this file is not a database of the Landfall server (application id {0:#x})")]
    Foreign(i64),
    /// The file was written by a later version; it is left untouched.
    #[error("this database has schema {found}; this program knows {known}")]
    NewerSchema {
        /// The file's.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A setting that durability rests on did not take.
    #[error("SQLite keeps {name} at {found}")]
    Setting {
        /// Which.
        name: &'static str,
        /// What it is instead.
        found: String,
    },
    /// SQLite before 3.51.3 can corrupt a database when a checkpoint meets a write.
    #[error("SQLite {0} is older than 3.51.3")]
    OldSqlite(&'static str),
    /// What is stored cannot be read.
    #[error("stored {0} is damaged")]
    Damaged(&'static str),
    /// The commit failed, so whether it happened is not known.
    #[error("the outcome of the commit is not known")]
    OutcomeUnknown(#[source] rusqlite::Error),
    /// A policy panicked.
    #[error("the app's policy panicked")]
    PolicyPanicked,
    /// The thread that writes could not be started or is gone.
    #[error("the writer is not running")]
    Stopped,
}

impl From<StoreError> for RecordsError {
    fn from(error: StoreError) -> Self {
        Self::new(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

/// A handle to an open database; cheap to clone. The last one dropped waits for the writer to finish.
#[derive(Debug, Clone)]
pub struct SqliteStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    readers: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

/// An answer, and the submission back: freeing it is not the writer's work.
type Pushed = (Result<PushResponse, Refusal>, Box<Submission>);

#[derive(Debug)]
enum Job {
    Push { tenant: String, submission: Box<Submission>, reply: oneshot::Sender<Pushed> },
    Rename { reply: oneshot::Sender<Result<String, StoreError>> },
}

impl SqliteStore {
    /// Opens a database file, making it if there is none.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, StoreError> {
        let path = path.as_ref().to_path_buf();
        let connection = schema::open_writer(&path)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer { path: path.clone(), connection: Some(connection), policy: options.policy };
        let writer = std::thread::Builder::new()
            .name("landfall-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|_| StoreError::Stopped)?;
        Ok(Self(Arc::new(Inner {
            path,
            jobs: Some(jobs),
            writer: Some(writer),
            readers: Mutex::new(Vec::new()),
            permits: Semaphore::new(READERS),
        })))
    }

    /// Applies a push of a tenant; answered after it is durable.
    pub async fn push(&self, tenant: &str, submission: Submission) -> Result<PushResponse, Refusal> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Push { tenant: tenant.to_owned(), submission: Box::new(submission), reply };
        self.jobs()?.send(job).await.map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?.0
    }

    /// The same for callers without an async runtime.
    pub fn push_blocking(&self, tenant: &str, submission: Submission) -> Result<PushResponse, Refusal> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Push { tenant: tenant.to_owned(), submission: Box::new(submission), reply };
        self.jobs()?.blocking_send(job).map_err(|_| StoreError::Stopped)?;
        answer.blocking_recv().map_err(|_| StoreError::Stopped)?.0
    }

    /// A page of a tenant's change feed. Needs a tokio runtime.
    pub async fn changes(
        &self,
        tenant: &str,
        cursor: Option<String>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<ChangesPage, Refusal> {
        let read =
            move |records: &SqliteRecords<'_>| state::changes(records, cursor.as_deref(), limit, max_bytes);
        self.read(tenant, read).await
    }

    /// One record of a tenant. Needs a tokio runtime.
    pub async fn entity(
        &self,
        tenant: &str,
        entity_type: String,
        entity_id: String,
    ) -> Result<Record, Refusal> {
        self.read(tenant, move |records| state::entity(records, &entity_type, &entity_id)).await
    }

    /// Gives the database a new name, so that every client reconciles with it. To be done after a backup was
    /// restored: the clients know of effects that this database has lost.
    pub async fn renew_server_id(&self) -> Result<String, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Rename { reply };
        self.jobs()?.send(job).await.map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    /// Runs a read inside one transaction, so that it sees one state.
    pub async fn read<T, F>(&self, tenant: &str, read: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&SqliteRecords<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        let _permit = self.0.permits.acquire().await.map_err(|_| StoreError::Stopped)?;
        let (store, tenant) = (self.clone(), tenant.to_owned());
        let task = tokio::task::spawn_blocking(move || store.read_blocking(&tenant, read));
        task.await.map_err(|_| StoreError::Stopped)?
    }

    /// The same for callers without an async runtime, and without a limit of how many read at once.
    pub fn read_blocking<T>(
        &self,
        tenant: &str,
        read: impl FnOnce(&SqliteRecords<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let pooled = self.readers().pop();
        let mut connection = pooled.map_or_else(|| schema::open_reader(&self.0.path), Ok)?;
        let snapshot = connection.transaction().map_err(StoreError::from)?;
        let result =
            SqliteRecords::new(&snapshot, tenant).map_err(Refusal::from).and_then(|view| read(&view));
        snapshot.finish().map_err(StoreError::from)?;
        if !matches!(result, Err(Refusal::Store(_))) {
            self.readers().push(connection);
        }
        result
    }

    fn jobs(&self) -> Result<&mpsc::Sender<Job>, StoreError> {
        self.0.jobs.as_ref().ok_or(StoreError::Stopped)
    }

    fn readers(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.0.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            // A reader's last handle may be dropped on the writer's own thread only if a policy kept one; never wait
            // for oneself.
            if writer.thread().id() != std::thread::current().id() {
                let _ = writer.join();
            }
        }
    }
}

/// The thread that writes.
struct Writer {
    path: PathBuf,
    /// `None` after a failure that leaves the connection in doubt.
    connection: Option<Connection>,
    policy: Arc<dyn Policy>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut batch = Vec::new();
            let mut tasks = 0;
            let mut next = Some(first);
            while let Some(job) = next {
                match job {
                    Job::Push { tenant, submission, reply } => {
                        tasks += submission.tasks.len();
                        batch.push((tenant, submission, reply));
                    }
                    Job::Rename { reply } => {
                        let _ = reply.send(self.rename());
                    }
                }
                let full = batch.len() >= BATCH_REQUESTS || tasks >= BATCH_TASKS;
                next = if full { None } else { queue.try_recv().ok() };
            }
            let requests = batch.iter().map(|(tenant, submission, _)| (tenant.as_str(), submission.as_ref()));
            let requests: Vec<_> = requests.collect();
            let answers = self.write_together_or_alone(&requests);
            for ((_, submission, reply), answer) in batch.into_iter().zip(answers) {
                let _ = reply.send((answer, submission));
            }
        }
    }

    /// An answer to each request. If one cannot be stored, each gets a transaction of its own, so that it harms no
    /// other.
    fn write_together_or_alone(&mut self, requests: &[Request<'_>]) -> Vec<Result<PushResponse, Refusal>> {
        match self.write(requests) {
            Ok(answers) => answers,
            Err(Failed::OneRequest(_)) if requests.len() > 1 => {
                let alone = requests.iter().map(|request| match self.write(std::slice::from_ref(request)) {
                    Ok(mut answers) => answers.pop().unwrap_or_else(|| Err(StoreError::Stopped.into())),
                    Err(failed) => Err(Refusal::Store(failed.into_cause())),
                });
                alone.collect()
            }
            Err(failed) => {
                let cause = Arc::new(failed.into_cause());
                let refuse = |_: &Request<'_>| Err(Refusal::Store(RecordsError::new(Arc::clone(&cause))));
                requests.iter().map(refuse).collect()
            }
        }
    }

    /// One transaction for some requests. After a failure the connection is in doubt and is opened anew.
    fn write(&mut self, requests: &[Request<'_>]) -> Result<Vec<Result<PushResponse, Refusal>>, Failed> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => schema::open_writer(&self.path)?,
        };
        let tx = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
        let mut answers = Vec::with_capacity(requests.len());
        for (tenant, submission) in requests {
            // The rules write once, at their very end: what is refused or panics before has changed nothing.
            let pushed = catch_unwind(AssertUnwindSafe(|| {
                let mut records = SqliteRecords::new(&tx, tenant)?;
                state::push_with(&mut records, self.policy.as_ref(), submission)
            }));
            match pushed.unwrap_or_else(|_| Err(StoreError::PolicyPanicked.into())) {
                Err(Refusal::Store(cause)) => return Err(Failed::OneRequest(cause)),
                answer => answers.push(answer),
            }
        }
        tx.commit().map_err(|error| Failed::All(StoreError::OutcomeUnknown(error).into()))?;
        self.connection = Some(connection);
        Ok(answers)
    }

    fn rename(&mut self) -> Result<String, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => schema::open_writer(&self.path)?,
        };
        // Put back only after success: a failure leaves it in doubt.
        let name = schema::mint_server_id(&connection)?;
        self.connection = Some(connection);
        Ok(name)
    }
}

/// A tenant and what it pushes.
type Request<'a> = (&'a str, &'a Submission);

/// A transaction that was not answered.
enum Failed {
    /// One of the requests could not be stored; all were rolled back.
    OneRequest(RecordsError),
    /// No request's fault: the transaction did not begin, or its commit has an unknown outcome.
    All(RecordsError),
}

impl Failed {
    fn into_cause(self) -> RecordsError {
        match self {
            Self::OneRequest(cause) | Self::All(cause) => cause,
        }
    }
}

impl<E: Into<StoreError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::All(error.into().into())
    }
}
