//! Your own backend, merge rule and upcaster on trial. `cargo run -p landfall-testkit --example own_backend`;
//! with `-- forgetful` the backend forgets its keys, and the trial says so.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example shows the short way")]
use landfall_core::adapter::*;
use landfall_core::{change::Change, config::Config, id::*, model::*, value::*};
use landfall_core::{entity::*, failure::Failure};
use landfall_testkit::campaign::{Campaign, Figures};
use landfall_testkit::trial::{Backend, Shown, Trial};
use std::collections::HashMap;
use std::sync::Mutex;

#[derive(Debug, Default)]
struct Notes {
    forgetful: bool,
    held: Mutex<HashMap<EntityKey, (u64, Fields)>>,
    seen: Mutex<Vec<(IdempotencyKey, TaskId, Version)>>,
}

impl Notes {
    fn take(&self, task: &PushTask) -> Outcome {
        let (mut held, mut seen) = (self.held.lock().unwrap(), self.seen.lock().unwrap());
        if let Some((_, _, version)) = seen.iter().find(|seen| seen.0 == task.key && !self.forgetful) {
            return Outcome::Duplicate(Applied { version: Some(version.clone()), ..Applied::default() });
        }
        let sent = Fields::parse(&task.payload).unwrap();
        let (at, fields) = held.entry(task.entity.clone()).or_default();
        let base = if *at == 0 { None } else { Some(Value::Text(at.to_string())) };
        if !self.forgetful && sent.value("base_version") != base.as_ref() {
            let remote = RemoteEntity::new(
                task.entity.clone(),
                Body::Live(fields.clone()),
                Some(Version(at.to_string())),
            );
            return Outcome::Conflict { remote: (*at > 0).then_some(remote) };
        }
        let Some(Value::Object(changed)) = sent.value("fields") else { panic!("nothing was changed") };
        fields.0.extend(changed.0.clone());
        *at += 1;
        seen.push((task.key, task.task_id, Version(at.to_string())));
        Outcome::Applied(Applied { version: Some(Version(at.to_string())), ..Applied::default() })
    }
}

impl Adapter for Notes {
    fn capabilities(&self) -> Capabilities {
        let effect = EffectClass::OneEffect;
        Capabilities {
            batch_tasks: 10,
            batch_bytes: 1 << 20,
            effect,
            pull: true,
            orders_writes: true,
            atomic_groups: false,
            actions: false,
            probe: false,
        }
    }
    fn push<'a>(
        &'a self,
        _: &'a CallContext,
        batch: &'a PushBatch,
    ) -> BoxFuture<'a, Result<PushReply, Failure>> {
        let results = batch.tasks.iter().map(|task| (task.key, self.take(task))).collect();
        Box::pin(async { Ok(PushReply { results, ..PushReply::default() }) })
    }
    fn pull<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a PullRequest,
    ) -> BoxFuture<'a, Result<PullPage, Failure>> {
        let remote = |(key, (at, fields)): (&EntityKey, &(u64, Fields))| {
            Ok(RemoteEntity::new(key.clone(), Body::Live(fields.clone()), Some(Version(at.to_string()))))
        };
        let changes = self.held.lock().unwrap().iter().map(remote).collect();
        Box::pin(async { Ok(PullPage { changes, cursor: "now".into(), has_more: false }) })
    }
}

impl Backend for Notes {
    fn effects(&self, task: TaskId) -> u64 {
        self.seen.lock().unwrap().iter().filter(|seen| seen.1 == task).count() as u64
    }
    fn holds(&self, record: &EntityKey) -> Body {
        self.held.lock().unwrap().get(record).map_or(Body::Deleted, |(_, fields)| Body::Live(fields.clone()))
    }
}

fn change(shown: &Shown<'_>) -> Change {
    // The older app said `name` where the newer says `title`.
    let title = if shown.upgraded { "title" } else { "name" };
    let field = if shown.fresh % 2 == 0 { title } else { "text" };
    Change::upsert("note", shown.record.entity_id.as_str()).set(field, format!("v{}", shown.fresh))
}

/// One life of two devices that sync through [`Notes`], with a rule, and an upgrade in the middle.
pub(crate) fn life(seed: u64, forgetful: bool) -> Result<Figures, String> {
    let mut trial = Trial::of("note", &change);
    trial.config.conflicts.rules.declare("note.title=client_wins").unwrap();
    let rename = UpcastRules { rename: [("name".into(), "title".into())].into(), ..UpcastRules::default() };
    let note = TypeModel { schema: 2, upcasts: [(1, Upcast::Rules(rename))].into(), ..TypeModel::default() };
    trial.before = Some(Config::default());
    trial.config.model.types.insert("note".into(), note);
    trial.live(seed, Notes { forgetful, ..Notes::default() })
}

fn main() {
    let forgetful = std::env::args().any(|arg| arg == "forgetful");
    println!("{:?}", Campaign::new("own-backend", 500).run(|seed| life(seed, forgetful)));
}
