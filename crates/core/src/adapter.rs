//! The contract with a backend: an adapter makes one call, once, and sorts the answer.
//!
//! It never retries, never waits and never decides what follows; it does not know the queue.

use crate::change::Operation;
use crate::entity::RemoteEntity;
use crate::failure::{Delivery, Failure, FailureKind};
use crate::id::{CallId, ClientId, Cursor, EntityKey, IdempotencyKey, ServerId, TaskId, Version};
use crate::time::Timestamp;
use crate::value::Fields;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

/// A boxed future, so that adapters can be used as trait objects under any executor.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Talks to one backend.
///
/// Dropping a returned future abandons the call; the task is then of unknown fate and is sent again under the same key.
pub trait Adapter: fmt::Debug + Send + Sync + 'static {
    /// What this backend can do. Must not change while the adapter lives.
    fn capabilities(&self) -> Capabilities;

    /// Sends one batch, one attempt.
    ///
    /// # Errors
    /// [`Failure`] when no task of the batch has a verdict of its own.
    fn push<'a>(
        &'a self,
        context: &'a CallContext,
        batch: &'a PushBatch,
    ) -> BoxFuture<'a, Result<PushReply, Failure>>;

    /// Asks for fresh credentials after the backend refused the old ones; `true` when it is worth trying again. Called
    /// at most once until a call succeeds.
    fn refresh_credentials(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    /// Reads one page of the change feed.
    ///
    /// # Errors
    /// [`Failure`]; [`FailureKind::Unsupported`] when the backend has no feed.
    fn pull<'a>(
        &'a self,
        _context: &'a CallContext,
        _request: &'a PullRequest,
    ) -> BoxFuture<'a, Result<PullPage, Failure>> {
        Box::pin(async { Err(unsupported("a change feed")) })
    }

    /// Reads one record; `None` when the backend has none.
    ///
    /// # Errors
    /// [`Failure`]; [`FailureKind::Unsupported`] when the backend cannot be asked for one record.
    fn fetch<'a>(
        &'a self,
        _context: &'a CallContext,
        _entity: &'a EntityKey,
    ) -> BoxFuture<'a, Result<Option<RemoteEntity>, Failure>> {
        Box::pin(async { Err(unsupported("reading one record")) })
    }

    /// Asks whether the backend itself can be reached, in a way that nobody in between can answer for it (G13). It
    /// carries no task and no credentials, and changes nothing.
    ///
    /// `Ok` says that the backend answered, not that it is well: the next push may still be refused.
    ///
    /// # Errors
    /// [`Failure`]: [`FailureKind::Intercepted`] when somebody else answered, [`FailureKind::Unreachable`] when nobody
    /// did, a kind of the backend's own (such as [`FailureKind::RateLimited`]) when it was reached and said no;
    /// [`FailureKind::Unsupported`] when there is no way to ask, which says nothing of the network.
    fn probe<'a>(
        &'a self,
        _context: &'a CallContext,
        _probe: &'a Probe,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Err(unsupported("a probe")) })
    }
}

fn unsupported(what: &str) -> Failure {
    Failure::new(
        FailureKind::Unsupported,
        Delivery::NotSent,
        alloc::format!("this adapter does not offer {what}"),
    )
}

/// What a backend promises about a change that is sent more than once (G3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EffectClass {
    /// It honours idempotency keys, versions or client-made ids: one effect.
    OneEffect,
    /// Every operation it is sent has the same effect the second time.
    IdempotentByNature,
    /// A repeat may have a second effect; sent until answered.
    AtLeastOnce,
    /// A repeat may have a second effect; a task of unknown fate is put before a person instead of sent again.
    AtMostOnce,
}

/// What a backend can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Most tasks in one call, at least 1.
    pub batch_tasks: usize,
    /// Most payload bytes in one call; a larger single task is sent alone.
    pub batch_bytes: usize,
    /// What a repeat does.
    pub effect: EffectClass,
    /// Whether [`Adapter::pull`] works.
    pub pull: bool,
    /// Whether the backend orders all writes of a record by its versions: a write that it takes is then later than
    /// everything it had, whatever any clock says. Otherwise times of change decide who is newer.
    pub orders_writes: bool,
    /// Whether tasks of one group that are sent in one call take effect together or not at all.
    pub atomic_groups: bool,
    /// Whether named commands can be sent.
    pub actions: bool,
    /// Whether [`Adapter::probe`] works.
    pub probe: bool,
}

/// What every call needs beside its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallContext {
    /// Who is calling.
    pub client_id: ClientId,
    /// Changes when the store was restored, copied or recreated.
    pub client_epoch: u64,
    /// The backend's own name as last seen; `None` at first contact.
    pub server_id: Option<ServerId>,
    /// How long the whole call may take.
    pub timeout: Duration,
    /// Whose queue this is; `None` when the app has no accounts. Only this account's credentials may go with the call.
    pub identity: Option<Arc<str>>,
    /// Whether the call may still leave.
    pub permit: Permit,
}

/// Says whether a call may still leave. Withdrawn when the queue changes hands: an adapter looks at it after it has got
/// its credentials and before the first byte goes out, so that one account's changes never leave with another's (G16).
#[derive(Clone, Debug, Default)]
pub struct Permit(Arc<AtomicBool>);

impl Permit {
    /// Whether the call may not leave any more.
    pub fn is_withdrawn(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Forbids every call that has this permit.
    pub fn withdraw(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A permit says nothing of what is called.
impl PartialEq for Permit {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Permit {}

/// Tasks to be sent in one call, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushBatch {
    /// Names this call.
    pub call: CallId,
    /// At least one task, each of a different lane. Those of one group stand together.
    pub tasks: Vec<PushTask>,
}

/// One frozen task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushTask {
    /// Which task.
    pub task_id: TaskId,
    /// The key under which these bytes, and only these, are sent.
    pub key: IdempotencyKey,
    /// The record, by the backend's id where it gave one.
    pub entity: EntityKey,
    /// What is done to it.
    pub operation: Operation,
    /// The tasks with the same group take effect together or not at all.
    pub group: Option<Arc<str>>,
    /// The frozen bytes: one JSON object in the shape of a task of the sync endpoint protocol. Sent as they are by the
    /// sync endpoint adapter; other adapters build their request from it, always in the same way.
    pub payload: Arc<str>,
    /// How often bytes of it may have left this machine before; 0 at the first attempt.
    pub attempt: u32,
}

/// A believable answer to a batch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PushReply {
    /// Verdicts by key, in any order. A task that is missing here is of unknown fate.
    pub results: Vec<(IdempotencyKey, Outcome)>,
    /// The backend's name for itself.
    pub server_id: Option<ServerId>,
    /// The backend's clock, from the `Date` header.
    pub server_time: Option<Timestamp>,
}

/// What became of one task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It took effect now.
    Applied(Applied),
    /// It had already taken effect under this key.
    Duplicate(Applied),
    /// The record is not what the task was based on.
    Conflict {
        /// What the backend has now; `None` when it did not say and the adapter could not find out.
        remote: Option<RemoteEntity>,
    },
    /// Refused for good.
    Rejected(Rejection),
    /// Not taken now, and safe to repeat.
    Retry {
        /// How long the backend asked us to wait.
        after: Option<Duration>,
        /// For people.
        reason: String,
    },
    /// Sent, but no believable word on this task.
    Unknown {
        /// For people.
        reason: String,
    },
}

/// The backend's record of an effect.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// The record's version after the effect.
    pub version: Option<Version>,
    /// Fields as the backend now has them, where they differ from what was sent.
    pub fields: Option<Fields>,
    /// The id the backend gave the record, when it is not ours.
    pub entity_id: Option<String>,
}

/// A refusal for good, in the backend's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// A word for programs, such as `not_found`.
    pub code: String,
    /// For people.
    pub message: String,
    /// What the backend answered, as far as it can be shown.
    pub answer: Option<String>,
}

/// One question whether the backend can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Drawn at random for this probe alone: an answer to any other is an old one, or somebody else's.
    pub nonce: [u8; 16],
}

/// Which page of the change feed to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PullRequest {
    /// Where the last page ended; `None` for the first.
    pub cursor: Option<Cursor>,
    /// Most changes wanted.
    pub limit: usize,
}

/// One page of the change feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PullPage {
    /// Changes in the backend's order. One that could not be read is kept as the reason.
    pub changes: Vec<Result<RemoteEntity, String>>,
    /// Where this page ends.
    pub cursor: Cursor,
    /// Whether another page follows.
    pub has_more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_calls_that_ask_for_the_same_are_equal_also_when_one_of_them_may_not_leave_any_more() {
        let (one, other) = (Permit::default(), Permit::default());
        other.withdraw();
        assert!(other.is_withdrawn() && !one.is_withdrawn());
        assert_eq!(one, other);
    }
}
