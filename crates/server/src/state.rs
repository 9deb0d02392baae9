//! The rules of the sync endpoint, pure: what a request does to the records, and what is answered.
//!
//! No clock, no threads, no files, no HTTP, no randomness. A storage offers [`Records`] (reads, and one write of
//! everything a request changes); SQLite and [`MemoryRecords`] are two. One call of [`push`] is one transaction:
//! effects, seen keys, versions and the client's epoch are written together or, on an error, not at all.
//!
//! The order of judgement of a push: protocol version, `server_id`, client epoch ([`Refusal::Problem`], nothing
//! stored) → per task: readable? key seen? group? record rules (`state/rules.rs`). Why each rule is as it is:
//! `docs/writing-a-backend.md`. Tests: `tests/rules.rs`, run over memory and SQLite.

mod draft;
mod fingerprint;
mod memory;
mod rules;

use landfall_protocol::{
    ChangesPage, ErrorDetail, Fields, Operation, PROTOCOL_VERSION, Problem, PushRequest, PushResponse,
    Record, Status, Task, TaskResult, code,
};

pub use draft::{ActionError, ActionRoom};
pub(crate) use fingerprint::digest;
pub use fingerprint::{Fingerprint, fingerprint, fingerprint_of_text};
pub use memory::MemoryRecords;

use crate::incoming::Submission;

/// What a storage offers to the rules: the records of **one tenant**, inside one transaction.
pub trait Records {
    /// Who we are: the database's name and the tenant whose records these are.
    fn identity(&self) -> Result<Identity, RecordsError>;
    /// The highest epoch seen of a client; `None` if the client is unknown.
    fn client_epoch(&self, client_id: &str) -> Result<Option<u64>, RecordsError>;
    /// The verdict stored under a key.
    fn seen(&self, key: &str) -> Result<Option<Seen>, RecordsError>;
    /// A record or its tombstone.
    fn record(&self, entity_type: &str, entity_id: &str) -> Result<Option<Stored>, RecordsError>;
    /// The last version given out; 0 before the first.
    fn version(&self) -> Result<u64, RecordsError>;
    /// Records whose version is above `after`, in order of version, at most `limit` of them and about `max_bytes`
    /// of fields (but at least one); and whether there are more.
    fn changed_after(
        &self,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<(Vec<Record>, bool), RecordsError>;
    /// Whether [`Writes::effects`] is of use to this storage.
    fn keeps_effects(&self) -> bool {
        false
    }
    /// Everything that one push changes. All of it or an error and none of it.
    fn write(&mut self, writes: &Writes) -> Result<(), RecordsError>;
}

/// Whose records these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The database's own name, minted when it was made.
    pub server_id: String,
    /// The tenant.
    pub tenant: String,
}

/// A record as stored: its version, and its fields or (a tombstone) none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The version of its last change.
    pub version: u64,
    /// `None` for a tombstone.
    pub fields: Option<Fields>,
}

/// What is kept for ever under an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The client that sent the key first.
    pub client_id: String,
    /// The task it was for.
    pub task_id: String,
    /// The content it was for.
    pub fingerprint: Fingerprint,
    /// The verdict as first answered: applied, conflict or rejected; never retry, never duplicate.
    pub result: TaskResult,
}

/// One execution of a task, in the order they happened; what checkers count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The client whose request it was.
    pub client_id: String,
    /// The idempotency key.
    pub key: String,
    /// The client's task id.
    pub task_id: String,
    /// The record.
    pub entity_type: String,
    /// The record, by the id it has here.
    pub entity_id: String,
    /// What was done.
    pub operation: Operation,
    /// The record's version afterwards; `None` for an action that left no record.
    pub version: Option<u64>,
    /// The content.
    pub fingerprint: Fingerprint,
    /// Names of the fields the task set or removed.
    pub touched: Vec<String>,
    /// False if there was nothing to do (a delete of a tombstone).
    pub changed: bool,
}

/// Everything one push changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writes {
    /// The client and its epoch, if new.
    pub client: Option<(String, u64)>,
    /// The last version given out, if any was.
    pub version: Option<u64>,
    /// Records as they are now, each once: (entity type, entity id, record).
    pub records: Vec<(String, String, Stored)>,
    /// New keys.
    pub seen: Vec<(String, Seen)>,
    /// What was executed; empty unless [`Records::keeps_effects`].
    pub effects: Vec<Effect>,
}

/// The app's own say: may this task be done, and what do its actions do.
///
/// Called inside the transaction: it must depend on nothing but its arguments, and must not block.
pub trait Policy: std::fmt::Debug + Send + Sync {
    /// Refuses a task for good (a field that is not valid, a record that is not the caller's) or lets it pass.
    fn check(&self, tenant: &str, task: &Task, current: Option<&Fields>) -> Result<(), ErrorDetail> {
        let _ = (tenant, task, current);
        Ok(())
    }

    /// The id under which a record is stored that `task` (a `create`, `upsert` or `replace`) makes and that was never
    /// there before, if not the client's; the client is told. An id of 1 to 1024 bytes that no record ever had, else the
    /// task is rejected (`no_id`). A task may be judged more than once, so the same task must get the same id.
    fn assign_id(&self, tenant: &str, task: &Task) -> Option<String> {
        let _ = (tenant, task);
        None
    }

    /// Runs a task of operation `action`. On an error nothing of it remains.
    fn action(&self, tenant: &str, task: &Task, room: &mut ActionRoom<'_, '_>) -> Result<(), ActionError> {
        let _ = (tenant, room);
        let name = task.action.as_deref().unwrap_or("");
        Err(ErrorDetail::new(
            landfall_protocol::task_code::UNKNOWN_ACTION,
            format!("there is no action {name:?} here"),
        )
        .into())
    }
}

/// Lets every task pass and knows no action.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPolicy;

impl Policy for NoPolicy {}

/// Why a request as a whole was not answered; nothing of it was stored.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The client's doing; the answer.
    #[error("{0}")]
    Problem(Problem),
    /// The storage's doing.
    #[error(transparent)]
    Store(#[from] RecordsError),
}

impl Refusal {
    /// What is told to the client: no internals of the storage.
    pub fn into_problem(self) -> Problem {
        match self {
            Self::Problem(problem) => problem,
            Self::Store(_) => Problem::new(
                503,
                code::UNAVAILABLE,
                "the request could not be stored; repeat it with the same keys",
            )
            .retry_after_ms(1000),
        }
    }
}

/// A storage that failed.
#[derive(Debug, thiserror::Error)]
#[error("the storage failed")]
pub struct RecordsError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl RecordsError {
    /// Wraps the cause.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// Applies a request in order, with no policy.
///
/// ```
/// use landfall_server::state::{MemoryRecords, push};
/// let mut records = MemoryRecords::new("db-1");
/// let request = serde_json::from_str(
///     r#"{"protocol":1,"client_id":"c","client_epoch":1,"tasks":[
///         {"key":"k","task_id":"t","entity_type":"note","entity_id":"n","operation":"create","fields":{"a":1}}]}"#,
/// ).unwrap();
/// let answer = push(&mut records, &request).unwrap();
/// assert_eq!(answer.results[0].status.as_str(), "applied");
/// assert_eq!(push(&mut records, &request).unwrap().results[0].status.as_str(), "duplicate");
/// assert_eq!(records.effects().len(), 1);
/// ```
pub fn push(records: &mut dyn Records, request: &PushRequest) -> Result<PushResponse, Refusal> {
    push_with(records, &NoPolicy, &Submission::from(request.clone()))
}

/// Applies a request in order; per task all or nothing, per group all or nothing.
pub fn push_with(
    records: &mut dyn Records,
    policy: &dyn Policy,
    submission: &Submission,
) -> Result<PushResponse, Refusal> {
    let identity = records.identity()?;
    let client = admit(records, &identity, submission)?;
    let (results, mut writes) = draft::run(records, policy, &identity, submission)?;
    writes.client = client;
    if writes != Writes::default() {
        records.write(&writes)?;
    }
    Ok(PushResponse::new(Some(identity.server_id), results))
}

/// May this client speak to us, and is there something new to remember about it?
fn admit(
    records: &dyn Records,
    identity: &Identity,
    submission: &Submission,
) -> Result<Option<(String, u64)>, Refusal> {
    if submission.protocol != PROTOCOL_VERSION {
        return Err(refuse(
            400,
            code::UNSUPPORTED_PROTOCOL,
            format!("this server speaks protocol {PROTOCOL_VERSION}, not {}", submission.protocol),
        ));
    }
    let client = &submission.client_id;
    if client.is_empty() || client.len() > crate::limits::ID_BYTES {
        return Err(refuse(400, code::MALFORMED, "client_id must have 1 to 1024 bytes"));
    }
    if i64::try_from(submission.client_epoch).is_err() {
        return Err(refuse(400, code::MALFORMED, "client_epoch must be below 2^63"));
    }
    if submission.server_id.as_ref().is_some_and(|id| *id != identity.server_id) {
        return Err(refuse(409, code::SERVER_CHANGED, "another database answers at this address"));
    }
    let epoch = submission.client_epoch;
    match records.client_epoch(client)? {
        Some(seen) if epoch < seen => Err(refuse(
            409,
            code::CLIENT_SUPERSEDED,
            format!("epoch {seen} of this client was seen; this is epoch {epoch}"),
        )),
        Some(seen) if epoch == seen => Ok(None),
        None if submission.server_id.is_some() => {
            Err(refuse(409, code::CLIENT_UNKNOWN, "this server has no memory of this client"))
        }
        Some(_) | None => Ok(Some((client.clone(), epoch))),
    }
}

/// A page of the change feed: records changed after the cursor (`None`: from the beginning), oldest change first.
pub fn changes(
    records: &dyn Records,
    cursor: Option<&str>,
    limit: usize,
    max_bytes: usize,
) -> Result<ChangesPage, Refusal> {
    let identity = records.identity()?;
    let after = match cursor {
        None | Some("") => 0,
        Some(text) => read_cursor(text, &identity)
            .ok_or_else(|| refuse(410, code::CURSOR_EXPIRED, "this cursor is not of this feed"))?,
    };
    if after > records.version()? {
        return Err(refuse(410, code::CURSOR_EXPIRED, "this feed has gone back; read it from the beginning"));
    }
    let (changes, has_more) = records.changed_after(after, limit.max(1), max_bytes)?;
    let last = changes.last().and_then(|record| record.version.parse().ok()).unwrap_or(after);
    Ok(ChangesPage { changes, cursor: write_cursor(last, &identity), has_more })
}

/// One record; a tombstone is a record with `deleted: true`; a record that never was is a problem 404.
pub fn entity(records: &dyn Records, entity_type: &str, entity_id: &str) -> Result<Record, Refusal> {
    match records.record(entity_type, entity_id)? {
        Some(stored) => Ok(stored.into_record(entity_type, entity_id)),
        None => Err(refuse(404, code::NOT_FOUND, "there is no such record")),
    }
}

impl Stored {
    /// The record as it travels.
    pub fn into_record(self, entity_type: impl Into<String>, entity_id: impl Into<String>) -> Record {
        Record {
            entity_type: entity_type.into(),
            entity_id: entity_id.into(),
            version: self.version.to_string(),
            deleted: self.fields.is_none(),
            fields: self.fields,
        }
    }
}

fn refuse(status: u16, code: &str, detail: impl Into<String>) -> Refusal {
    Refusal::Problem(Problem::new(status, code, detail))
}

/// `1.<whose feed>.<version>`: bound to database and tenant, so that another's cursor is not taken for ours.
fn write_cursor(version: u64, identity: &Identity) -> String {
    format!("1.{}.{version}", fingerprint::tag(&[&identity.server_id, &identity.tenant]))
}

fn read_cursor(text: &str, identity: &Identity) -> Option<u64> {
    let version: u64 = text.rsplit('.').next()?.parse().ok()?;
    (write_cursor(version, identity) == text).then_some(version)
}

/// A result that says no and why.
fn rejected(key: &str, error: ErrorDetail) -> TaskResult {
    TaskResult { error: Some(error), ..TaskResult::new(key, Status::Rejected) }
}
