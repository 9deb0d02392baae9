//! `landfall conflicts resolve ID`: settles a conflict that waits, in exactly one way, or shows what that would do.
//!
//! The outcome is the engine's; here are the ways to say it, and words for what comes of it. Tests: below, and
//! `tests/conflicts.rs`.

use super::{Record, Wanted, find, short, wanted};
use crate::commands::list::quoted;
use crate::commands::task::record as name_of;
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::{Output, json};
use crate::problem::Problem;
use crate::rules::RuleArgs;
use crate::shown;
use crate::store::DbArgs;
use crate::table::visible;
use landfall_core::change::{Intent, Operation};
use landfall_core::conflict::{Choice, ConflictRecord, Resolution, ResolveError, Resolved};
use landfall_core::entity::Body;
use landfall_core::id::{ConflictId, EntityKey, TaskId};
use landfall_core::model::Model;
use landfall_core::value::{Fields, Value};
use landfall_engine::{Engine, Error};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};

const EXAMPLES: &str = r#"  landfall conflicts resolve --db q.db 3f2a91c0 --keep-mine --dry-run
  landfall conflicts resolve --db q.db 3f2a91c0 --set damage=mine --set cost=theirs
  landfall conflicts resolve --db q.db 3f2a91c0 --set 'damage:="dent and crack"' --set draft=remove
  landfall conflicts resolve --db q.db 3f2a91c0 --edit '{"damage":"dent and crack","cost":5}'
  landfall conflicts show --db q.db 3f2a91c0 --json | jq .proposed.fields > record.json
  landfall conflicts resolve --db q.db 3f2a91c0 --edit @record.json"#;

/// Bytes that `--edit` reads. 16 MiB: as a line of `landfall enqueue --file`, four times the largest change.
const EDIT_BYTES_MAX: u64 = crate::jsonl_input::LINE_BYTES_MAX;

/// Settle a conflict that waits: say which side counts, and the next `landfall sync` sends the outcome.
///
/// Exactly one way must be given. Fields that only one side changed are kept, except with --mine-whole,
/// --theirs-whole, --edit and --delete. --dry-run shows the outcome and changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(super) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The conflict's id, or its first 4 digits or more.
    #[arg(value_name = "CONFLICT", value_parser = wanted)]
    conflict: Wanted,
    /// Show the record that would result and exactly what would be sent; change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    way: Way,
    /// They judge the changes of the record that are queued behind this one.
    #[command(flatten)]
    rules: RuleArgs,
}

#[derive(Debug, clap::Args)]
#[group(id = "way", required = true, multiple = false)]
#[command(next_help_heading = "Ways (exactly one)")]
struct Way {
    /// Your value in every contested field.
    #[arg(long)]
    keep_mine: bool,
    /// Their value in every contested field.
    #[arg(long)]
    keep_theirs: bool,
    /// As `landfall conflicts show` proposes it.
    #[arg(long)]
    accept: bool,
    /// Your record as a whole: also undoes what only they changed.
    #[arg(long)]
    mine_whole: bool,
    /// Their record as a whole: your change is given up, also where only you changed something.
    #[arg(long)]
    theirs_whole: bool,
    /// Decide one field, all others as proposed; may be repeated.
    ///
    /// FIELD=mine, FIELD=theirs, FIELD=remove, or FIELD:=JSON for another value: the text "mine" is 'FIELD:="mine"'.
    /// A dot leads into an object (address.zip); a backslash takes the next character as it is.
    #[arg(long, value_name = "FIELD=CHOICE", value_parser = choice)]
    set: Vec<(String, Choice)>,
    /// The whole record becomes this JSON object; @FILE reads it from a file, - from standard input.
    #[arg(long, value_name = "JSON")]
    edit: Option<String>,
    /// The record is deleted.
    #[arg(long)]
    delete: bool,
    /// Their record stays, and yours becomes a record of its own under a new id.
    #[arg(long)]
    fork: bool,
}

/// Reads `FIELD=mine|theirs|remove` or `FIELD:=JSON`.
fn choice(text: &str) -> Result<(String, Choice), String> {
    const FORM: &str = "write FIELD=mine, FIELD=theirs, FIELD=remove, or FIELD:=JSON for another value";
    let (field, value, is_json) = cut(text).ok_or(FORM)?;
    if field.is_empty() {
        return Err(format!("the field's name is missing; {FORM}"));
    }
    let choice = match value {
        _ if is_json => Choice::Value(Value::parse(value).map_err(|error| {
            format!("what follows := must be JSON ({error}); text needs double quotes: '{field}:=\"…\"'")
        })?),
        "mine" => Choice::Local,
        "theirs" => Choice::Remote,
        "remove" => Choice::Remove,
        _ => {
            return Err(format!(
                "{value:?} is not mine, theirs or remove; a value of its own is given as '{field}:=JSON'"
            ));
        }
    };
    Ok((field.to_owned(), choice))
}

/// Splits at the first `=` or `:=` that is neither behind a backslash nor in the brackets of a list's item.
fn cut(text: &str) -> Option<(&str, &str, bool)> {
    let (mut escaped, mut in_item, mut in_text) = (false, false, false);
    let mut before = None;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
            before = None;
            continue;
        }
        match c {
            '\\' => escaped = true,
            '"' if in_item => in_text = !in_text,
            '[' if !in_item => in_item = true,
            ']' if in_item && !in_text => in_item = false,
            '=' if !in_item && before == Some(':') => return Some((&text[..at - 1], &text[at + 1..], true)),
            '=' if !in_item => return Some((&text[..at], &text[at + 1..], false)),
            _ => {}
        }
        before = Some(c);
    }
    None
}

pub(super) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let rules = args.rules.rules()?;
    let edit = args.way.edit.as_deref().map(read_record).transpose()?;
    let choices = choices(&args.way.set)?;
    let (store, model) = (args.db.open()?, args.db.model()?);
    let engine = args.db.build(Engine::local(store).rules(rules), model.clone())?;
    let record = find(&args.db, &engine, &args.conflict)?;
    let way = &args.way;
    let resolution = match edit {
        Some(fields) => Resolution::Edit(Body::Live(fields)),
        None if way.keep_mine => Resolution::KeepLocal,
        None if way.keep_theirs => Resolution::KeepRemote,
        None if way.accept => as_proposed(&record),
        None if way.mine_whole => Resolution::ReplaceWithLocal,
        None if way.theirs_whole => Resolution::ReplaceWithRemote,
        None if way.delete => Resolution::Edit(Body::Deleted),
        None if way.fork => Resolution::Fork,
        None => Resolution::Fields(choices),
    };
    // Looked at before it is decided: a fork carries the whole view along.
    let view = args.db.named(engine.get(&record.entity))?.and_then(|entity| entity.local);
    let resolved = match args.dry_run {
        true => engine.preview_blocking(record.id, resolution),
        false => engine.resolve_blocking(record.id, resolution),
    };
    let resolved = resolved.map_err(|error| refused(&args.db, &record, error))?;
    let kind = &record.entity.entity_type;
    let resolved = shown_outcome(&model, kind, resolved);
    let view = view.map(|view| shown::body(&model, kind, view));
    let outcome = Outcome { resolved: &resolved, view: view.as_ref(), dry_run: args.dry_run };
    if output.is_json() {
        output.json(&outcome.for_programs())?;
    } else {
        outcome.show(output)?;
    }
    Ok(Exit::Done)
}

/// An outcome as it may be shown.
fn shown_outcome(model: &Model, kind: &str, resolved: Resolved) -> Resolved {
    let sends =
        resolved.sends.map(|intent| Intent { fields: shown::fields(model, kind, intent.fields), ..intent });
    Resolved { result: shown::body(model, kind, resolved.result), sends, ..resolved }
}

/// The proposal; of a record that is deleted on one side there are no fields to choose from.
fn as_proposed(record: &ConflictRecord) -> Resolution {
    let theirs = record.remote.as_ref().map(|remote| &remote.body);
    match (&record.local, theirs, &record.proposal) {
        (Body::Live(_), Some(Body::Live(_)), Some(Body::Live(_))) | (_, _, None) => {
            Resolution::Fields(BTreeMap::new())
        }
        (_, _, Some(proposal)) => Resolution::Edit(proposal.clone()),
    }
}

fn choices(given: &[(String, Choice)]) -> Result<BTreeMap<String, Choice>, Problem> {
    let mut choices = BTreeMap::new();
    for (field, choice) in given {
        if choices.insert(field.clone(), choice.clone()).is_some() {
            return Err(Problem::new(format!("--set decides the field {field:?} twice"))
                .hint("say once what becomes of it"));
        }
    }
    Ok(choices)
}

/// Reads what `--edit` names: JSON, `@FILE`, or `-` for standard input.
pub(crate) fn read_record(source: &str) -> Result<Fields, Problem> {
    let text = match source.strip_prefix('@') {
        Some(path) => {
            let file =
                File::open(path).map_err(|error| Problem::new(format!("cannot read {path}: {error}")))?;
            read_text(file, path)?
        }
        None if source == "-" => read_text(io::stdin(), "standard input")?,
        None => source.to_owned(),
    };
    Fields::parse(&text).map_err(|error| {
        Problem::new(format!("the record is not usable: {error}")).hint(
            r#"--edit takes the whole record as a JSON object, such as '{"title":"Hello"}', or @FILE, or -"#,
        )
    })
}

fn read_text(input: impl Read, name: &str) -> Result<String, Problem> {
    let mut text = String::new();
    let read = input.take(EDIT_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| Problem::new(format!("cannot read {name}: {error}")))?;
    if text.len() as u64 > EDIT_BYTES_MAX {
        return Err(Problem::new(format!("{name} is longer than {EDIT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn refused(db: &DbArgs, record: &ConflictRecord, error: Error) -> Problem {
    let id = short(record.id);
    let Error::Resolve(error) = error else { return Problem::from(error).context(db.db.display()) };
    let problem = Problem::new(error.to_string());
    match error {
        ResolveError::NotFound(_) => problem.hint("`landfall conflicts list` names those that wait"),
        ResolveError::Settled => {
            problem.hint(format!("`landfall conflicts show {id}` says how; to change the record again use `landfall enqueue`"))
        }
        ResolveError::RemoteUnknown => {
            problem.hint("`landfall sync` asks the backend what it has; then look again with `landfall conflicts list`")
        }
        ResolveError::UnknownField(_) => {
            problem.hint(format!("`landfall conflicts show {id}` names the fields; a new one is set with FIELD:=JSON"))
        }
        ResolveError::BadPath(_) => {
            problem.hint("names with dots between them, such as address.zip; a backslash takes the next character as it is")
        }
        ResolveError::DeletedOnOneSide => {
            problem.hint("use --keep-mine, --keep-theirs, --accept, --edit, --delete, or --fork")
        }
        ResolveError::NothingToFork => problem.hint("use --keep-mine to delete it, or --keep-theirs to keep it"),
        ResolveError::Refused(_) | ResolveError::BadValue(_) => problem.hint("nothing was changed; choose other values"),
        ResolveError::Store(error) => Problem::from(error).context(db.db.display()),
        _ => problem,
    }
}

struct Outcome<'a> {
    resolved: &'a Resolved,
    /// What the app saw before.
    view: Option<&'a Body>,
    dry_run: bool,
}

/// The same for programs.
#[derive(Serialize)]
struct ForPrograms<'a> {
    conflict: ConflictId,
    dry_run: bool,
    #[serde(flatten)]
    entity: &'a EntityKey,
    /// What the record becomes.
    result: Record<'a>,
    /// What is sent so that the backend has the same; null when it has.
    sends: Option<Sends<'a>>,
    /// The task that carries it; null in a dry run.
    task: Option<TaskId>,
    forks_to: Option<&'a EntityKey>,
}

#[derive(Serialize)]
struct Sends<'a> {
    operation: Operation,
    #[serde(flatten)]
    entity: &'a EntityKey,
    fields: &'a Fields,
    unset: Option<&'a BTreeSet<String>>,
}

impl<'a> Outcome<'a> {
    fn sends(&self) -> Option<Sends<'a>> {
        let resolved = self.resolved;
        match (&resolved.forks_to, self.view, &resolved.sends) {
            (Some(to), Some(Body::Live(fields)), _) => {
                Some(Sends { operation: Operation::Create, entity: to, fields, unset: None })
            }
            (_, _, Some(Intent { operation, fields, unset, action: _ })) => Some(Sends {
                operation: *operation,
                entity: &resolved.entity,
                fields,
                unset: (!unset.is_empty()).then_some(unset),
            }),
            (_, _, None) => None,
        }
    }

    fn for_programs(&self) -> ForPrograms<'a> {
        ForPrograms {
            conflict: self.resolved.conflict,
            dry_run: self.dry_run,
            entity: &self.resolved.entity,
            result: (&self.resolved.result).into(),
            sends: self.sends(),
            task: self.resolved.task,
            forks_to: self.resolved.forks_to.as_ref(),
        }
    }

    fn show(&self, output: &Output) -> Result<(), Problem> {
        let name = visible(&name_of(&self.resolved.entity));
        let (becomes, sends) = match self.dry_run {
            true => ("would become", "would be sent"),
            false => ("is now", "to be sent"),
        };
        match &self.resolved.result {
            Body::Live(fields) => {
                let text = serde_json::to_string_pretty(fields)
                    .map_err(|error| Problem::new(format!("cannot write JSON: {error}")))?;
                output.line(format_args!("{name} {becomes}"))?;
                output.line(text)?;
            }
            Body::Deleted if self.dry_run => output.line(format_args!("{name} would be deleted"))?,
            Body::Deleted => output.line(format_args!("{name} is deleted"))?,
        }
        match self.sends() {
            None => output.line(format_args!("nothing {sends}: the backend has it like this"))?,
            Some(sent) => {
                let to = visible(&name_of(sent.entity));
                output.line(format_args!("{sends}: {} of {to}", sent.operation))?;
                for (field, value) in &sent.fields.0 {
                    output.line(format_args!("  set   {} = {}", visible(field), visible(&json(value)?)))?;
                }
                for field in sent.unset.into_iter().flatten() {
                    output.line(format_args!("  unset {}", visible(field)))?;
                }
            }
        }
        if self.dry_run {
            output.note("nothing was changed (dry run); leave out --dry-run to do it");
        } else if let Some(to) = &self.resolved.forks_to {
            let (kind, id) = (quoted(&to.entity_type), quoted(&to.entity_id));
            output.note(format_args!(
                "resolved; the next `landfall sync` sends it; see `landfall get {kind} {id}`"
            ));
        } else if self.resolved.sends.is_some() {
            output.note("resolved; the next `landfall sync` sends it");
        } else {
            output.note("resolved");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_words_or_json() {
        for (text, field, expected) in [
            ("a=mine", "a", Choice::Local),
            ("a=theirs", "a", Choice::Remote),
            ("a.b=remove", "a.b", Choice::Remove),
            ("a:=\"mine\"", "a", Choice::Value("mine".into())),
            ("a:=null", "a", Choice::Value(Value::Null)),
            ("a\\=b=mine", "a\\=b", Choice::Local),
            ("a\\:=mine", "a\\:", Choice::Local),
            ("lines[\"x=]y\"].n:=5", "lines[\"x=]y\"].n", Choice::Value(5.into())),
        ] {
            assert_eq!(choice(text), Ok((field.to_owned(), expected)), "{text}");
        }
        for (text, fragment) in [
            ("a", "write FIELD=mine"),
            ("=mine", "name is missing"),
            (":=1", "name is missing"),
            ("a=", "is not mine, theirs or remove"),
            ("a=5", "'a:=JSON'"),
            ("a:=mine", "text needs double quotes"),
        ] {
            let error = choice(text).unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
        }
    }
}
