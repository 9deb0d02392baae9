//! `landfall list TYPE`: the records of one type, as the app sees them or as the backend last confirmed them.
//!
//! Reads and prints in pages, so a million records take no memory. Tests: `tests/pull.rs`.

use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::{HEAD, Output, WARNING, json, many};
use crate::problem::Problem;
use crate::shown;
use crate::store::DbArgs;
use crate::table::{layout, visible};
use landfall_core::entity::{Body, StoredEntity};
use landfall_core::inspect::dirty_fields;
use landfall_core::model::Model;
use landfall_core::value::Fields;
use serde::Serialize;
use std::collections::BTreeSet;

const EXAMPLES: &str = "  landfall list note --db q.db
  landfall list note --db q.db --limit 20 --after note-0020
  landfall list note --db q.db --all --json | jq -c 'select(.dirty != [])'";

/// Rows read and laid out at a time.
const PAGE: usize = 500;

/// List the records of a type as this device sees them, in the order of their ids.
///
/// That is what the backend last confirmed with every queued change laid over it; no network is needed. With --json
/// each record is one JSON object on a line of its own, and notes are JSON objects on standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(crate) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The kind of record.
    #[arg(value_name = "TYPE")]
    entity_type: String,
    /// Most records to list; 0 lists all.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// List all of them.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Begin behind this id, whether or not there is such a record.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// List deleted records too, as far as they are still known.
    #[arg(long)]
    deleted: bool,
    /// List the last states that the backend confirmed instead.
    #[arg(long)]
    base: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    entity_id: &'a str,
    state: &'static str,
    fields: Option<&'a Fields>,
    /// The version of the last confirmed state.
    version: Option<&'a str>,
    /// Fields in which the local view differs from the last confirmed state.
    dirty: BTreeSet<&'a str>,
}

#[derive(Serialize)]
struct Next<'a> {
    next_after: &'a str,
}

#[derive(Serialize)]
struct Damaged<'a> {
    damaged: &'a str,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, model) = args.db.queue()?;
    let mut left = if args.all || args.limit == 0 { usize::MAX } else { args.limit };
    let mut after = args.after.clone();
    let mut last = None;
    let (mut begun, mut hidden) = (false, 0);
    while !output.is_closed() {
        let page = args.db.named(engine.list(&args.entity_type, after.as_deref(), PAGE))?;
        for what in &page.damaged {
            warn(what, output)?;
        }
        let mut wanted: Vec<&StoredEntity> = Vec::new();
        for entity in &page.entities {
            match args.body(entity) {
                Some(Body::Deleted) if !args.deleted => hidden += 1,
                Some(_) => wanted.push(entity),
                None => {}
            }
        }
        let more = wanted.len() > left;
        wanted.truncate(left);
        left -= wanted.len();
        if let Some(entity) = wanted.last() {
            last = Some(entity.key.entity_id.clone());
        }
        put(args, &model, &wanted, &mut begun, output)?;
        // A full page is followed by one more look, so that "there are more" is said only if it is so.
        if let Some(last) = last.as_deref().filter(|_| more) {
            go_on(args, last, output)?;
            return Ok(Exit::Done);
        }
        match page.last {
            Some(key) => after = Some(key.entity_id),
            None => break,
        }
    }
    if !begun && !output.is_json() && !output.is_closed() {
        let name = visible(&args.entity_type);
        let known = if args.base { "the backend has confirmed no records" } else { "no records" };
        let behind = if args.after.is_some() { " behind that id" } else { "" };
        output.line(format_args!("{known} of type {name}{behind}"))?;
    }
    if hidden > 0 && !output.is_json() {
        output.note(format_args!("{} not shown: add --deleted", many(hidden, "deleted record")));
    }
    Ok(Exit::Done)
}

impl Args {
    fn body<'a>(&self, entity: &'a StoredEntity) -> Option<&'a Body> {
        match self.base {
            true => entity.base.as_ref().map(|base| &base.body),
            false => entity.local.as_ref(),
        }
    }

    fn shown(&self, model: &Model, entity: &StoredEntity) -> Option<Body> {
        self.body(entity).map(|body| shown::body(model, &entity.key.entity_type, body.clone()))
    }
}

fn put(
    args: &Args,
    model: &Model,
    page: &[&StoredEntity],
    begun: &mut bool,
    output: &Output,
) -> Result<(), Problem> {
    if page.is_empty() {
        return Ok(());
    }
    if output.is_json() {
        *begun = true;
        let mut text = String::new();
        for entity in page {
            let base = entity.base.as_ref();
            let body = args.shown(model, entity);
            text += &json(&Row {
                entity_id: &entity.key.entity_id,
                state: if matches!(body, Some(Body::Deleted)) { "deleted" } else { "live" },
                fields: body.as_ref().and_then(Body::fields),
                version: base.and_then(|base| base.version.as_ref()).map(|version| version.0.as_str()),
                dirty: dirty_fields(entity),
            })?;
            text.push('\n');
        }
        return output.write(format_args!("{text}"));
    }
    let rows: Vec<Vec<String>> = page.iter().map(|entity| cells(args, model, entity)).collect();
    let mut lines = layout(&["id", "version", "not synced", "fields"], &rows).into_iter();
    if let Some(heading) = lines.next().filter(|_| !*begun) {
        output.line(format_args!("{HEAD}{heading}{HEAD:#}"))?;
    }
    *begun = true;
    output.write(format_args!("{}\n", lines.collect::<Vec<_>>().join("\n")))
}

fn cells(args: &Args, model: &Model, entity: &StoredEntity) -> Vec<String> {
    let version = entity.base.as_ref().and_then(|base| base.version.as_ref());
    let fields = match args.shown(model, entity) {
        Some(Body::Live(fields)) => fields.to_json(),
        Some(Body::Deleted) => "(deleted)".into(),
        None => String::new(),
    };
    let dirty: Vec<&str> = dirty_fields(entity).into_iter().collect();
    vec![
        entity.key.entity_id.clone(),
        version.map(|version| version.0.clone()).unwrap_or_default(),
        dirty.join(", "),
        fields,
    ]
}

fn warn(what: &str, output: &Output) -> Result<(), Problem> {
    if output.is_json() {
        output.note(json(&Damaged { damaged: what })?);
    } else {
        output.note(format_args!(
            "{WARNING}warning:{WARNING:#} a stored record is damaged and left out: {}",
            visible(what)
        ));
    }
    Ok(())
}

fn go_on(args: &Args, last: &str, output: &Output) -> Result<(), Problem> {
    if output.is_closed() {
        return Ok(());
    }
    if output.is_json() {
        output.note(json(&Next { next_after: last })?);
    } else {
        let (name, last) = (quoted(&args.entity_type), quoted(last));
        output.hint(format_args!("there are more: landfall list {name} --after {last}, or --all"));
    }
    Ok(())
}

/// A word as a shell takes it, if it can be shown at all.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    let word = visible(word);
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
