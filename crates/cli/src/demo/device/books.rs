//! A device's own books: what became of every task of every record it has touched, as its engine has it.
//!
//! The proof compares them with the server's. Tests: `proof/tests.rs` spoils them, `tests/demo.rs` reads real ones.

use crate::demo::proof::Audit;
use crate::demo::script::{LOGBOOK, STRIKE, Script};
use crate::problem::Problem;
use landfall_core::id::{EntityKey, TaskId};
use landfall_core::store::StoreError;
use landfall_core::task::{StateKind, Verdict};
use landfall_engine::Engine;
use std::collections::BTreeSet;

/// Reads the books of a device that has recorded so many steps.
pub(super) fn read(engine: &Engine, script: &Script, recorded: usize) -> Result<Audit, Problem> {
    let ids: BTreeSet<String> = script.steps().map(|step| step.id.clone()).collect();
    let (device, logbook) = (script.device, script.logbook());
    let audit = engine.read(move |store| {
        let client = store.replica()?.ok_or(StoreError::Closed)?.client_id;
        let mut audit = Audit {
            device,
            client: client.to_string(),
            recorded: recorded as u64,
            left: store.counts()?.total(),
            ..Audit::default()
        };
        let mut tasks = 0;
        let keys = ids.into_iter().map(|id| EntityKey::new(STRIKE, id));
        for key in keys.chain([EntityKey::new(LOGBOOK, logbook)]) {
            let generations = store.entity(&key)?.map_or(0, |entity| entity.generation);
            for generation in 1..=generations {
                let entry = store.journal(TaskId::derive(client, &key, generation))?;
                let verdict = entry.map(|entry| entry.verdict);
                match verdict {
                    Some(Verdict::Applied | Verdict::Duplicate) => audit.confirmed += 1,
                    Some(Verdict::Rebased) => audit.rebased += 1,
                    _ => {}
                }
                // A rebased task goes on as another one: one change, two tasks.
                tasks += u64::from(key.entity_type == STRIKE && verdict != Some(Verdict::Rebased));
            }
        }
        audit.coalesced = audit.recorded.saturating_sub(tasks);
        for task in store.tasks_in_state(StateKind::Dead, 0, 1000)?.tasks {
            let failure = task.last_failure().cloned();
            let code = failure.and_then(|note| note.code.or(Some(note.kind.as_str().to_owned())));
            *audit.refusals.entry(code.unwrap_or_default()).or_default() += 1;
        }
        Ok(audit)
    })?;
    Ok(audit)
}
