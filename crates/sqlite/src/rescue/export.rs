//! The rescue file: every unsynced task, one to a line, in the form of an export, so that it can be taken in like one.
//!
//! Tests: `rescue/tests.rs`.

use super::build::{Built, NotQueued};
use crate::error::failed;
use crate::identities::{self, Owner};
use crate::{entities, server_ids, tasks};
use landfall_core::export::ExportedTask;
use landfall_core::store::StoreError;
use landfall_core::task::Task;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Tasks in memory at a time.
const PAGE: usize = 500;

/// Writes every task of the store at `new`, then those that are not in its queue.
pub(super) fn write(file: &mut impl Write, new: &Path, built: &Built) -> Result<(), StoreError> {
    let connection = Connection::open(new).map_err(failed)?;
    let names: BTreeMap<i64, String> =
        identities::all(&connection)?.into_iter().map(|(name, owner)| (owner.number(), name)).collect();
    let mut out = BufWriter::new(file);
    let mut put = |task: &ExportedTask| {
        writeln!(out, "{}", task.to_json())
            .map_err(|error| StoreError::Io(format!("the rescue file: {error}")))
    };
    for owner in &built.owners {
        let mut after = 0;
        loop {
            let page = tasks::after(&connection, *owner, after, PAGE)?;
            let Some(last) = page.tasks.last() else { break };
            after = last.seq;
            for task in &page.tasks {
                put(&of_queue(&connection, task, *owner, &names)?)?;
            }
        }
    }
    for NotQueued { task, owner, why } in &built.not_queued {
        let mut line = of_owner(ExportedTask::new(task, None, None), *owner, &names);
        line.not_queued = Some(why.to_string());
        put(&line)?;
    }
    out.flush().map_err(|error| StoreError::Io(format!("the rescue file: {error}")))
}

fn of_queue(
    connection: &Connection,
    task: &Task,
    owner: Owner,
    names: &BTreeMap<i64, String>,
) -> Result<ExportedTask, StoreError> {
    let first = tasks::next_of_entity(connection, owner, &task.entity, 0)?;
    let (mut base, mut server_id) = (None, None);
    if first.is_some_and(|first| first.id == task.id) {
        base = entities::read(connection, owner, &task.entity)?.and_then(|entity| entity.base);
        server_id = server_ids::of_record(connection, owner, &task.entity)?;
    }
    Ok(of_owner(ExportedTask::new(task, base, server_id), owner, names))
}

/// Says whose it is. Where the name is lost the number says which belong together, and nobody takes them in by mistake.
fn of_owner(mut line: ExportedTask, owner: Owner, names: &BTreeMap<i64, String>) -> ExportedTask {
    line.identity = names.get(&owner.number()).cloned();
    let nameless = owner == Owner::NAMELESS;
    line.lost_identity = (!nameless && line.identity.is_none()).then(|| owner.number());
    line
}
