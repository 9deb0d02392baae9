//! Two names of one record: the app's id, by which everything is kept here, and the id that the backend gave it.
//!
//! The two meet at the border: what goes out is translated when it is frozen, what comes in before anything looks at it.
//! A record that the feed brought under the backend's name, before the answer to its create was heard, is one with the
//! app's own from then on. Tests: `tests/lifecycle` and the simulator of `landfall-testkit`.

use super::Step;
use crate::change::{Change, DependsOn, Intent};
use crate::entity::{Body, RemoteEntity, StoredEntity};
use crate::event::{Event, Origin};
use crate::id::{EntityKey, TaskId, Version};
use crate::store::{StoreError, StoreTx};
use crate::task::{Standing, StateKind, Task, Verdict};
use crate::value::{Fields, Value};
use alloc::borrow::Cow;
use alloc::string::String;

impl Step {
    /// Whether the backend ever gave a record an id of its own: if not, there is nothing to translate.
    pub(super) fn has_server_ids(&mut self, tx: &dyn StoreTx) -> Result<bool, StoreError> {
        if let Some(known) = self.server_ids {
            return Ok(known);
        }
        let known = tx.knows_server_ids()?;
        self.server_ids = Some(known);
        Ok(known)
    }

    /// The record as the app calls it, whichever name `key` is.
    pub(super) fn local_key(&mut self, tx: &dyn StoreTx, key: EntityKey) -> Result<EntityKey, StoreError> {
        if !self.has_server_ids(tx)? {
            return Ok(key);
        }
        Ok(match tx.local_id(&key)? {
            Some(id) => EntityKey { entity_id: id, ..key },
            None => key,
        })
    }

    /// The record as the backend calls it.
    pub(super) fn server_key(&mut self, tx: &dyn StoreTx, key: &EntityKey) -> Result<EntityKey, StoreError> {
        let mut key = key.clone();
        if self.has_server_ids(tx)? {
            if let Some(id) = tx.server_id(&key)? {
                key.entity_id = id;
            }
        }
        Ok(key)
    }

    /// Whether this is the backend's name of a record that has another here.
    pub(super) fn is_twin(&mut self, tx: &dyn StoreTx, key: &EntityKey) -> Result<bool, StoreError> {
        Ok(self.has_server_ids(tx)? && tx.local_id(key)?.is_some())
    }

    /// The backend's name of a record, if something is queued under it still.
    pub(super) fn twin(
        &mut self,
        tx: &dyn StoreTx,
        key: &EntityKey,
    ) -> Result<Option<EntityKey>, StoreError> {
        let twin = self.server_key(tx, key)?;
        let is_queued = twin != *key && self.readable(tx.next_of_entity(&twin, 0))?.is_some();
        Ok(is_queued.then_some(twin))
    }

    /// What is queued under the backend's name of a record has changed: it is seen under the app's.
    pub(super) fn twin_changes(&mut self, twin: &EntityKey) {
        if self.twins.iter().all(|(known, _)| known != twin) {
            self.twins.push((twin.clone(), None));
        }
    }

    /// A change that names records by the backend's ids is one of the records that the app knows.
    pub(super) fn by_local_ids(&mut self, tx: &dyn StoreTx, change: &mut Change) -> Result<(), StoreError> {
        if !self.has_server_ids(tx)? {
            return Ok(());
        }
        change.entity = self.local_key(tx, change.entity.clone())?;
        for dependency in &mut change.options.depends_on {
            if let DependsOn::Entity(key) = dependency {
                *key = self.local_key(tx, key.clone())?;
            }
        }
        let of_type = change.entity.entity_type.clone();
        self.translate(tx, &of_type, &mut change.intent.fields, |tx, key| tx.local_id(key))
    }

    /// The fields of a change with the backend's ids in every declared reference.
    pub(super) fn outgoing<'i>(
        &mut self,
        tx: &dyn StoreTx,
        entity_type: &str,
        intent: &'i Intent,
    ) -> Result<Cow<'i, Fields>, StoreError> {
        let refers = self.config.model.references(entity_type).is_some_and(|fields| !fields.is_empty());
        if !refers || !self.has_server_ids(tx)? {
            return Ok(Cow::Borrowed(&intent.fields));
        }
        let mut fields = intent.fields.clone();
        self.translate(tx, entity_type, &mut fields, |tx, key| tx.server_id(key))?;
        Ok(Cow::Owned(fields))
    }

    /// What the backend says of a record, in the app's words.
    pub(super) fn incoming(
        &mut self,
        tx: &dyn StoreTx,
        mut remote: RemoteEntity,
    ) -> Result<RemoteEntity, StoreError> {
        if !self.has_server_ids(tx)? {
            return Ok(remote);
        }
        remote.key = self.local_key(tx, remote.key)?;
        if let Body::Live(fields) = &mut remote.body {
            let of_type = remote.key.entity_type.clone();
            self.incoming_fields(tx, &of_type, fields)?;
        }
        Ok(remote)
    }

    pub(super) fn incoming_fields(
        &mut self,
        tx: &dyn StoreTx,
        entity_type: &str,
        fields: &mut Fields,
    ) -> Result<(), StoreError> {
        if !self.has_server_ids(tx)? {
            return Ok(());
        }
        self.translate(tx, entity_type, fields, |tx, key| tx.local_id(key))
    }

    fn translate(
        &self,
        tx: &dyn StoreTx,
        entity_type: &str,
        fields: &mut Fields,
        other_name: impl Fn(&dyn StoreTx, &EntityKey) -> Result<Option<String>, StoreError>,
    ) -> Result<(), StoreError> {
        let Some(references) = self.config.model.references(entity_type) else { return Ok(()) };
        for (field, of_type) in references {
            if let Some(Value::Text(id)) = fields.0.get_mut(field) {
                if let Some(other) = other_name(tx, &EntityKey::new(of_type.clone(), id.clone()))? {
                    *id = other;
                }
            }
        }
        Ok(())
    }

    /// The backend calls the record of `entity` by `server_id`. What it was already known of under that name becomes
    /// known of it: as a state to be taken in, which is given back.
    pub(super) fn learn_id(
        &mut self,
        tx: &mut dyn StoreTx,
        entity: &mut StoredEntity,
        server_id: &str,
    ) -> Result<Option<RemoteEntity>, StoreError> {
        let key = &entity.key.clone();
        if server_id.is_empty() || key.entity_id == server_id || tx.server_id(key)?.is_some() {
            return Ok(None);
        }
        let twin = EntityKey::new(key.entity_type.clone(), server_id);
        if tx.local_id(&twin)?.is_some() {
            // It has given one id to two records. Each keeps its name here; nothing is mixed up.
            return Ok(None);
        }
        tx.put_server_id(key, server_id)?;
        self.server_ids = Some(true);
        self.emit(Event::IdLearned { entity: key.clone(), server_id: server_id.into() });
        if let Some(known) = self.known_entity(tx, &twin)? {
            // The reading of the feed that has brought it under the other name will not bring it again.
            entity.reading = entity.reading.max(known.reading);
        }
        self.twin_changes(&twin);
        self.one_with_its_twin(tx, key, &twin)
    }

    /// Moves what is kept under the backend's name of a record to the app's name.
    fn one_with_its_twin(
        &mut self,
        tx: &mut dyn StoreTx,
        key: &EntityKey,
        twin: &EntityKey,
    ) -> Result<Option<RemoteEntity>, StoreError> {
        let Some(mut known) = self.known_entity(tx, twin)? else { return Ok(None) };
        // What was sent under the other name ends under it. The rest goes on as changes of the one record.
        let (mut after, mut stays) = (0, false);
        while let Some(task) = self.readable(tx.next_of_entity(twin, after))? {
            after = task.seq;
            // Also what may move keeps the row until it has moved: it counts the changes that were ever made under it.
            stays = true;
            if task.frozen.is_none() && task.state.kind() == StateKind::Pending {
                self.moving.push(task);
            }
        }
        if !stays {
            tx.remove_entity(twin)?;
        } else if known.local.take().is_some() {
            // Two rows of one record, and the app would see both, and change the one that is not there any more.
            tx.put_entity(&known)?;
            self.emit(Event::Changed { entity: twin.clone(), origin: Origin::Backend });
        }
        if let Some(staged) = known.staged {
            // What waited under the backend's name for a verdict waits for none under the app's.
            return Ok(Some(RemoteEntity { key: key.clone(), ..staged }));
        }
        Ok(known.base.filter(|base| base.complete).map(|base| RemoteEntity {
            key: key.clone(),
            body: base.body,
            version: base.version,
            changed_at: None,
        }))
    }

    /// Whatever has ended under the backend's name of a record, and however, may have been the last of it.
    pub(super) fn leave_twins(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        while let Some((twin, made_on)) = self.twins.pop() {
            self.leave_twin(tx, &twin, made_on.as_ref())?;
            self.move_changes(tx)?;
        }
        Ok(())
    }

    /// The last that was sent under the backend's name of a record may have ended: then nothing is kept under it any more.
    fn leave_twin(
        &mut self,
        tx: &mut dyn StoreTx,
        twin: &EntityKey,
        made_on: Option<&Version>,
    ) -> Result<(), StoreError> {
        let key = self.local_key(tx, twin.clone())?;
        if key == *twin {
            return Ok(());
        }
        let known = self.known_entity(tx, &key)?.and_then(|entity| entity.base).and_then(|base| base.version);
        match self.one_with_its_twin(tx, &key, twin)? {
            // The effect came directly after what is known under the app's name. Else the feed has told more by now.
            Some(remote) if made_on.is_some() && made_on == known.as_ref() => {
                self.remote_changed(tx, remote)?;
            }
            _ => {}
        }
        self.look_anew(tx, &key)
    }

    /// Changes that were made under the backend's name of a record go on as changes of the app's, each in its place: what
    /// waits for it stands behind it still.
    pub(super) fn move_changes(&mut self, tx: &mut dyn StoreTx) -> Result<(), StoreError> {
        for task in core::mem::take(&mut self.moving) {
            // The move of one before it may have changed what it waits for.
            let Some(task) = self.readable(tx.task(task.id))? else { continue };
            if task.frozen.is_some() || task.state.kind() != StateKind::Pending {
                continue;
            }
            let key = self.local_key(tx, task.entity.clone())?;
            let mut change =
                Change { intent: task.intent.clone(), ..Change::of(task.intent.operation, key.clone()) };
            self.by_local_ids(tx, &mut change)?;
            let mut entity = self.entity(tx, &key)?;
            entity.generation += 1;
            let client_id = self.replica(tx)?.client_id;
            let next = Task {
                id: TaskId::derive(client_id, &key, entity.generation),
                entity: key.clone(),
                generation: entity.generation,
                intent: change.intent,
                claim_at: None,
                standing: Standing::default(),
                ..task.clone()
            };
            self.end(tx, &task, Verdict::Rebased, None, Some(next.id))?;
            tx.put_task(&next)?;
            self.left(tx, &task, Verdict::Rebased, Some(next.id))?;
            self.stand_before_others(tx, &next)?;
            self.promote(tx, &task.entity, task.lane.as_deref())?;
            self.promote(tx, &key, None)?;
            self.lay_over(tx, &mut entity, Origin::App)?;
            tx.put_entity(&entity)?;
            self.emit(Event::Rebased { task: task.id, entity: key, next: next.id });
        }
        Ok(())
    }
}
