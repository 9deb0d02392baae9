//! One request in the making: what its tasks change lies over what is stored, until all verdicts are known.
//!
//! `run` goes through the tasks in order. When a member of a group is not applied, the request is run again with
//! that group left out (its other members answer `retry`); so order is kept for every other task, and nothing of
//! the group is ever written. Bounded by the number of groups ([`crate::limits::GROUPS`]).
//! Tests: `tests/rules.rs`.

use std::collections::BTreeMap;

use landfall_protocol::{ErrorDetail, Fields, Problem, Status, Task, TaskResult, code, task_code};

use super::fingerprint::{Fingerprint, compact};
use super::rules::{Decision, check, decide, key_is_usable};
use super::{Effect, Identity, Policy, Records, RecordsError, Refusal, Seen, Stored, Writes, rejected};
use crate::incoming::{Incoming, Submission};
use crate::limits::{GROUPS, ID_BYTES};

type EntityKey = (String, String);

/// All verdicts of a request and all that is to be written.
pub(super) fn run(
    records: &dyn Records,
    policy: &dyn Policy,
    identity: &Identity,
    submission: &Submission,
) -> Result<(Vec<TaskResult>, Writes), Refusal> {
    let mut groups: Vec<&str> = submission.tasks.iter().filter_map(Incoming::group).collect();
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > GROUPS {
        let detail = format!("more than {GROUPS} groups in one request");
        return Err(Refusal::Problem(Problem::new(413, code::TOO_LARGE, detail)));
    }
    // Group → position and verdict of the member that was not applied.
    let mut aborted: BTreeMap<&str, (usize, TaskResult)> = BTreeMap::new();
    let mut known = BTreeMap::new();
    'again: loop {
        let mut draft = Draft {
            records,
            known,
            over: BTreeMap::new(),
            fresh: BTreeMap::new(),
            version: None,
            writes: Writes::default(),
        };
        let mut results = Vec::with_capacity(submission.tasks.len());
        for (position, incoming) in submission.tasks.iter().enumerate() {
            let culprit = incoming.group().and_then(|group| aborted.get(group));
            let result = draft.task(policy, identity, submission, incoming, position, culprit)?;
            if let (Some(group), None) = (incoming.group(), culprit) {
                if !matches!(result.status, Status::Applied | Status::Duplicate) {
                    aborted.insert(group, (position, result));
                    known = draft.known;
                    continue 'again;
                }
            }
            results.push(result);
        }
        return Ok((results, draft.into_writes()));
    }
}

struct Draft<'r> {
    records: &'r dyn Records,
    /// Records as stored, read once.
    known: BTreeMap<EntityKey, Option<Stored>>,
    /// Records as this request leaves them.
    over: BTreeMap<EntityKey, Stored>,
    /// Keys of this request: where in `writes.seen`.
    fresh: BTreeMap<String, usize>,
    version: Option<u64>,
    writes: Writes,
}

impl Draft<'_> {
    /// The verdict on one task, in the place it has in the request.
    fn task(
        &mut self,
        policy: &dyn Policy,
        identity: &Identity,
        submission: &Submission,
        incoming: &Incoming,
        position: usize,
        culprit: Option<&(usize, TaskResult)>,
    ) -> Result<TaskResult, RecordsError> {
        let key = incoming.key();
        if !key_is_usable(key) {
            let error =
                ErrorDetail::new(task_code::MALFORMED, "key must have 1 to 255 printable ASCII characters");
            return Ok(rejected(key, error));
        }
        let print = incoming.fingerprint();
        if let Some(seen) = self.seen(key)? {
            return self.repeat(incoming, &seen, print);
        }
        let result = match (culprit, incoming) {
            (Some((at, _)), _) if *at != position => {
                let error =
                    ErrorDetail::new(task_code::GROUP_ABORTED, "another task of the group was not applied");
                return Ok(TaskResult { error: Some(error), ..TaskResult::new(key, Status::Retry) });
            }
            // The state it failed on may have been the group's own, which is gone: tell what is there now.
            (Some((_, verdict)), Incoming::Task(task, _)) if verdict.status == Status::Conflict => {
                self.conflict(task)?
            }
            (Some((_, verdict)), _) => verdict.clone(),
            (None, Incoming::Unreadable { message, .. }) => {
                rejected(key, ErrorDetail::new(task_code::MALFORMED, message.clone()))
            }
            (None, Incoming::Task(task, _)) => self.judge(policy, identity, submission, task, print)?,
        };
        // The record a conflict shows is looked up again on a repeat.
        let kept = match result.status {
            Status::Conflict => TaskResult::new(key, Status::Conflict),
            _ => result.clone(),
        };
        self.fresh.insert(key.to_owned(), self.writes.seen.len());
        self.writes.seen.push((
            key.to_owned(),
            Seen {
                client_id: submission.client_id.clone(),
                task_id: incoming.task_id().to_owned(),
                fingerprint: print,
                result: kept,
            },
        ));
        Ok(result)
    }

    /// The answer to a key that was seen before: never another execution.
    fn repeat(
        &mut self,
        incoming: &Incoming,
        seen: &Seen,
        print: Fingerprint,
    ) -> Result<TaskResult, RecordsError> {
        let key = incoming.key();
        if seen.fingerprint != print {
            let error =
                ErrorDetail::new(task_code::KEY_REUSED, "this key was used for a task with another content");
            return Ok(rejected(key, error));
        }
        match (&seen.result.status, incoming) {
            (Status::Applied, _) => Ok(TaskResult { status: Status::Duplicate, ..seen.result.clone() }),
            (Status::Conflict, Incoming::Task(task, _)) => self.conflict(task),
            _ => Ok(seen.result.clone()),
        }
    }

    /// The verdict on a task whose key is new; on success its effect is in the draft.
    fn judge(
        &mut self,
        policy: &dyn Policy,
        identity: &Identity,
        submission: &Submission,
        task: &Task,
        print: Fingerprint,
    ) -> Result<TaskResult, RecordsError> {
        let key = &task.key;
        if let Err(error) = check(task) {
            return Ok(rejected(key, error));
        }
        let mut entity = (task.entity_type.clone(), task.entity_id.clone());
        let current = self.record(&entity)?;
        let never_was = current.is_none();
        let decision = decide(task, current);
        if !matches!(decision, Decision::Reject(_) | Decision::Conflict) {
            let fields = current.and_then(|stored| stored.fields.as_ref());
            if let Err(error) = policy.check(&identity.tenant, task, fields) {
                return Ok(rejected(key, error));
            }
        }
        let (mut tell_fields, mut changed) = (false, true);
        match decision {
            Decision::Reject(error) => return Ok(rejected(key, error)),
            Decision::Conflict => return self.conflict(task),
            Decision::Put { fields, tell } => {
                tell_fields = tell;
                if never_was {
                    entity = match self.place(policy, identity, task)? {
                        Ok(entity) => entity,
                        Err(error) => return Ok(rejected(key, error)),
                    };
                }
                self.put(entity.clone(), Some(fields))?;
            }
            Decision::Remove => self.put(entity.clone(), None)?,
            Decision::Keep => changed = false,
            Decision::Act => {
                let mut room = ActionRoom { draft: self, staged: BTreeMap::new() };
                let outcome = policy.action(&identity.tenant, task, &mut room);
                let staged = room.staged;
                match outcome {
                    Ok(()) => {}
                    Err(ActionError::Rejected(error)) => return Ok(rejected(key, error)),
                    Err(ActionError::Store(error)) => return Err(error),
                }
                for (entity, fields) in staged {
                    self.put(entity, fields)?;
                }
                tell_fields = true;
            }
        }
        let mut result = TaskResult::new(key, Status::Applied);
        let after = self.record(&entity)?;
        let version = after.map(|stored| stored.version);
        result.version = version.map(|version| version.to_string());
        result.fields = after.filter(|_| tell_fields).and_then(|stored| stored.fields.clone());
        result.entity_id = (entity.1 != task.entity_id).then(|| entity.1.clone());
        if self.records.keeps_effects() {
            self.writes.effects.push(Effect {
                client_id: submission.client_id.clone(),
                key: key.clone(),
                task_id: task.task_id.clone(),
                entity_type: entity.0,
                entity_id: entity.1,
                operation: task.operation.clone(),
                version,
                fingerprint: print,
                touched: task
                    .fields
                    .iter()
                    .map(|(name, _)| name.to_owned())
                    .chain(task.unset.clone())
                    .collect(),
                changed,
            });
        }
        Ok(result)
    }

    /// Where a new record is put: under the client's id, or under the one the policy gives it.
    fn place(
        &mut self,
        policy: &dyn Policy,
        identity: &Identity,
        task: &Task,
    ) -> Result<Result<EntityKey, ErrorDetail>, RecordsError> {
        let given = policy.assign_id(&identity.tenant, task).filter(|id| *id != task.entity_id);
        let entity = (task.entity_type.clone(), given.unwrap_or_else(|| task.entity_id.clone()));
        // Never over a record that is or was there: that would be somebody else's.
        let usable = !entity.1.is_empty() && entity.1.len() <= ID_BYTES;
        if usable && self.record(&entity)?.is_none() {
            return Ok(Ok(entity));
        }
        Ok(Err(ErrorDetail::new(task_code::NO_ID, "the server found no id for the new record")))
    }

    /// A conflict with the record as it is now.
    fn conflict(&mut self, task: &Task) -> Result<TaskResult, RecordsError> {
        let current = self.record(&(task.entity_type.clone(), task.entity_id.clone()))?;
        let version = current.map(|stored| stored.version.to_string());
        let fields = current.and_then(|stored| stored.fields.clone());
        let deleted = fields.is_none();
        Ok(TaskResult { version, fields, deleted, ..TaskResult::new(&task.key, Status::Conflict) })
    }

    fn seen(&self, key: &str) -> Result<Option<Seen>, RecordsError> {
        match self.fresh.get(key).and_then(|at| self.writes.seen.get(*at)) {
            Some((_, seen)) => Ok(Some(seen.clone())),
            None => self.records.seen(key),
        }
    }

    fn record(&mut self, entity: &EntityKey) -> Result<Option<&Stored>, RecordsError> {
        if !self.over.contains_key(entity) && !self.known.contains_key(entity) {
            let stored = self.records.record(&entity.0, &entity.1)?;
            self.known.insert(entity.clone(), stored);
        }
        Ok(self.over.get(entity).or_else(|| self.known.get(entity)?.as_ref()))
    }

    fn put(&mut self, entity: EntityKey, fields: Option<Fields>) -> Result<(), RecordsError> {
        let last = self.version.map_or_else(|| self.records.version(), Ok)?;
        let version = last.checked_add(1).ok_or_else(|| RecordsError::new("the versions are used up"))?;
        self.version = Some(version);
        self.over.insert(entity, Stored { version, fields });
        Ok(())
    }

    fn into_writes(self) -> Writes {
        let records = self.over.into_iter().map(|((kind, id), stored)| (kind, id, stored)).collect();
        Writes { version: self.version, records, ..self.writes }
    }
}

/// Where an action works: it sees the records as its request has left them so far, and what it changes takes
/// effect when it returns `Ok`.
#[expect(missing_debug_implementations, reason = "borrows a storage")]
pub struct ActionRoom<'d, 'r> {
    draft: &'d mut Draft<'r>,
    staged: BTreeMap<EntityKey, Option<Fields>>,
}

impl ActionRoom<'_, '_> {
    /// The fields of a record; `None` if there is none.
    pub fn record(&mut self, entity_type: &str, entity_id: &str) -> Result<Option<Fields>, ActionError> {
        let entity = (entity_type.to_owned(), entity_id.to_owned());
        if let Some(fields) = self.staged.get(&entity) {
            return Ok(fields.clone());
        }
        Ok(self.draft.record(&entity)?.and_then(|stored| stored.fields.clone()))
    }

    /// The record becomes exactly these fields.
    pub fn put(&mut self, entity_type: &str, entity_id: &str, fields: Fields) {
        self.staged.insert((entity_type.to_owned(), entity_id.to_owned()), Some(compact(&fields)));
    }

    /// Forgets what was put and removed so far.
    pub(crate) fn clear(&mut self) {
        self.staged.clear();
    }

    /// The record is deleted.
    pub fn remove(&mut self, entity_type: &str, entity_id: &str) {
        self.staged.insert((entity_type.to_owned(), entity_id.to_owned()), None);
    }
}

/// Why an action did nothing.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// It may not or cannot be done; the task is rejected.
    #[error("rejected: {}", .0.code)]
    Rejected(ErrorDetail),
    /// The storage failed; the whole request is answered 503.
    #[error(transparent)]
    Store(#[from] RecordsError),
}

impl From<ErrorDetail> for ActionError {
    fn from(error: ErrorDetail) -> Self {
        Self::Rejected(error)
    }
}
