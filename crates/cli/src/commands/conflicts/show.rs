//! `landfall conflicts show ID`: both sides of a conflict beside each other, how it ended, and what to type next.
//!
//! Tests: `tests/conflicts.rs`.

use super::{Record, Summary, Wanted, ending, find, short, story, wanted};
use crate::commands::list::quoted;
use crate::commands::task::{ago, record as name_of};
use crate::exit::{self, Exit, TABLE_LOCAL};
use crate::output::{HEAD, Output};
use crate::problem::Problem;
use crate::shown;
use crate::store::DbArgs;
use crate::table::{layout, visible};
use landfall_core::conflict::{ConflictRecord, DecidedBy, Found, Why};
use landfall_core::entity::{Base, Body};
use landfall_core::merge::{BaseValue, Chosen, FieldConflict, Misfit};
use landfall_core::time::Timestamp;
use landfall_core::value::{Fields, Value};
use landfall_engine::{Clock, SystemClock};
use serde::Serialize;
use serde_json::value::RawValue;

const EXAMPLES: &str = "  landfall conflicts show --db q.db 3f2a91c0
  landfall conflicts show --db q.db 3f2a91c0 --json | jq .fields";

/// Longest value that stands beside the others; with a longer one each value gets a line of its own.
const BESIDE: usize = 28;

/// Compare the two sides of a conflict field by field: what it was, what you made of it, what they made of it.
///
/// Shows conflicts that wait and settled ones alike; what a rule set aside is here.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE_LOCAL))]
pub(super) struct Args {
    #[command(flatten)]
    db: DbArgs,
    /// The conflict's id, or its first 4 digits or more.
    #[arg(value_name = "CONFLICT", value_parser = wanted)]
    conflict: Wanted,
}

/// All of a conflict, for programs.
#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    /// Why the validator refuses the record, if that is what it is about.
    reason: Option<&'a str>,
    /// What the change was made on; null when nothing was known.
    base: Option<BaseRecord<'a>>,
    mine: Record<'a>,
    /// What the backend has; null while it did not say.
    theirs: Option<Record<'a>>,
    theirs_version: Option<&'a str>,
    /// The record as the rules would have it.
    proposed: Option<Record<'a>>,
    /// The change as it was or would have been sent.
    change: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct BaseRecord<'a> {
    #[serde(flatten)]
    record: Record<'a>,
    version: Option<&'a str>,
    complete: bool,
}

pub(super) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    let (engine, model) = args.db.queue()?;
    let record = shown::conflict(&model, find(&args.db, &engine, &args.conflict)?);
    if output.is_json() {
        output.json(&detail(&record))?;
    } else {
        Page { record: &record, now: SystemClock::default().now().wall, output }.show()?;
        for hint in next(&record, &args.db) {
            output.hint(hint);
        }
    }
    Ok(Exit::Done)
}

fn detail(record: &ConflictRecord) -> Detail<'_> {
    let remote = record.remote.as_ref();
    Detail {
        summary: record.into(),
        reason: match &record.why {
            Why::Refused(reason) => Some(reason),
            _ => None,
        },
        base: record.base.as_ref().map(|base| BaseRecord {
            record: (&base.body).into(),
            version: base.version.as_ref().map(|version| version.0.as_str()),
            complete: base.complete,
        }),
        mine: (&record.local).into(),
        theirs: remote.map(|remote| (&remote.body).into()),
        theirs_version: remote.and_then(|remote| remote.version.as_ref()).map(|version| version.0.as_str()),
        proposed: record.proposal.as_ref().map(Record::from),
        change: serde_json::from_str(&record.change).ok(),
    }
}

struct Page<'a> {
    record: &'a ConflictRecord,
    now: Timestamp,
    output: &'a Output,
}

impl Page<'_> {
    fn put(&self, name: &str, value: &str) -> Result<(), Problem> {
        self.output.line(format_args!("{name:<10} {}", visible(value)))
    }

    fn show(&self) -> Result<(), Problem> {
        let record = self.record;
        self.put("conflict", &record.id.to_string())?;
        self.put("record", &name_of(&record.entity))?;
        self.put("what", story(&record.why))?;
        if let Why::Refused(reason) = &record.why {
            self.put("reason", reason)?;
        }
        let found = match record.found {
            Found::Push => "when the change was sent",
            Found::Pull => "when the backend's changes were read",
        };
        self.put("found", &format!("{found}, {}", ago(record.at, self.now)))?;
        self.put("rule", &record.rule)?;
        self.put("task", &record.task_id.to_string())?;
        self.ended()?;
        self.output.line("")?;
        if record.fields.is_empty() {
            self.whole()?
        } else {
            self.fields()?
        }
        self.uncontested()
    }

    fn ended(&self) -> Result<(), Problem> {
        let Some(settled) = &self.record.settled else {
            return self.put("state", ending(self.record));
        };
        self.put("state", &format!("{}, {}", ending(self.record), ago(settled.at, self.now)))?;
        if let Some(to) = &settled.forked_to {
            self.put("yours is", &format!("{}, a record of its own", name_of(to)))?;
        }
        match (settled.by, settled.sent_as) {
            (_, Some(task)) => self.put("sent as", &format!("task {task}")),
            (_, None) => self.put("sent as", "nothing: the backend has it like this"),
        }
    }

    /// Field by field: in a table when that can be read, else one below the other.
    fn fields(&self) -> Result<(), Problem> {
        let last = if self.record.is_open() { "proposed" } else { "became" };
        let heading = ["field", "it was", "yours", "theirs", last, "decided by"];
        let rows: Vec<Vec<String>> = self.record.fields.iter().map(|field| self.cells(field)).collect();
        if rows.iter().flatten().all(|cell| cell.chars().count() <= BESIDE) {
            let mut lines = layout(&heading, &rows).into_iter();
            if let Some(heading) = lines.next() {
                self.output.line(format_args!("{HEAD}{heading}{HEAD:#}"))?;
            }
            return lines.try_for_each(|line| self.output.line(line));
        }
        for row in rows {
            for (at, (name, cell)) in heading.iter().zip(&row).enumerate() {
                match at {
                    0 => self.output.line(format_args!("{HEAD}{}{HEAD:#}", visible(cell)))?,
                    _ => self.output.line(format_args!("  {name:<10} {}", visible(cell)))?,
                }
            }
        }
        Ok(())
    }

    fn cells(&self, field: &FieldConflict) -> Vec<String> {
        let was = match &field.base {
            BaseValue::Unknown => "(unknown)".into(),
            BaseValue::Absent => "(not there)".into(),
            BaseValue::Present(value) => text(value),
        };
        let became = match &self.record.settled {
            None => maybe(field.result.as_ref()),
            Some(settled) => match &settled.result {
                Body::Live(fields) => maybe(field.path.value(fields)),
                Body::Deleted => "(record deleted)".into(),
            },
        };
        vec![
            field.path.to_string(),
            was,
            maybe(field.local.as_ref()),
            maybe(field.remote.as_ref()),
            became,
            self.decided_by(field),
        ]
    }

    fn decided_by(&self, field: &FieldConflict) -> String {
        let by = self.record.settled.as_ref().map(|settled| settled.by);
        if by == Some(DecidedBy::App) {
            return "you".into();
        }
        let side = match field.chosen {
            Chosen::Local => "yours",
            Chosen::Remote => "theirs",
            Chosen::Merged => "both",
            Chosen::Undecided => "open",
        };
        let misfit = field.misfit.map(|misfit| format!(", {}", misfit_text(misfit))).unwrap_or_default();
        let group = field.group.as_ref().map(|group| format!(", with {group}")).unwrap_or_default();
        format!("{}: {side}{group}{misfit}", field.rule)
    }

    /// The record as a whole, where no field of it is the matter.
    fn whole(&self) -> Result<(), Problem> {
        let record = self.record;
        let put = |name: &str, body: &Body| {
            self.put(
                name,
                &match body {
                    Body::Live(fields) => fields.to_json(),
                    Body::Deleted => "(deleted)".into(),
                },
            )
        };
        match &record.base {
            Some(base) => put("it was", &base.body)?,
            None => self.put("it was", "(unknown)")?,
        }
        put("yours", &record.local)?;
        match &record.remote {
            Some(remote) => put("theirs", &remote.body)?,
            None => self.put("theirs", "(the backend did not say)")?,
        }
        match (&record.settled, &record.proposal) {
            (Some(settled), _) => put("became", &settled.result),
            (None, Some(proposal)) => put("proposed", proposal),
            (None, None) => Ok(()),
        }
    }

    /// What only one side changed: kept, whatever is decided about the rest.
    fn uncontested(&self) -> Result<(), Problem> {
        let record = self.record;
        let (Some(Base { body: Body::Live(was), complete: true, .. }), Body::Live(ours), Some(remote)) =
            (&record.base, &record.local, &record.remote)
        else {
            return Ok(());
        };
        let Body::Live(theirs) = &remote.body else { return Ok(()) };
        for (name, side, other) in [("only yours", ours, theirs), ("only theirs", theirs, ours)] {
            let changed = only(side, other, was);
            if !changed.is_empty() {
                self.output.line(format_args!("{name}: {}", visible(&changed.join(", "))))?;
            }
        }
        Ok(())
    }
}

/// Fields that `side` changed and `other` did not.
fn only(side: &Fields, other: &Fields, was: &Fields) -> Vec<String> {
    let mut names: Vec<&String> = was.0.keys().chain(side.0.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let differs = |a: &Fields, b: &Fields, name: &str| a.value(name) != b.value(name);
    let changed = |name: &&String| differs(side, was, name) && !differs(other, was, name);
    let names = names.into_iter().filter(changed);
    names.map(|name| format!("{name} = {}", maybe(side.value(name)))).collect()
}

fn text(value: &Value) -> String {
    crate::output::json(value).unwrap_or_else(|_| "(cannot be shown)".into())
}

fn maybe(value: Option<&Value>) -> String {
    value.map_or_else(|| "(not there)".into(), text)
}

fn misfit_text(misfit: Misfit) -> &'static str {
    match misfit {
        Misfit::NoBase => "the rule needs to know what it was",
        Misfit::Removed => "one side removed it",
        Misfit::WrongKind => "not a value for this rule",
        Misfit::Overflow => "the sum is too large",
        Misfit::Keys => "items without usable keys",
        Misfit::SameWords => "both edited the same words",
        Misfit::TooLarge => "too long to compare",
        Misfit::NoResolver => "no such resolver",
        Misfit::BadAnswer => "the resolver's answer cannot be stored",
        _ => "the rule does not fit",
    }
}

/// What to type next.
fn next(record: &ConflictRecord, db: &DbArgs) -> Vec<String> {
    let db = quoted(&db.db.display().to_string());
    let Some(settled) = &record.settled else { return ways(record, &db) };
    if settled.by != DecidedBy::Rule {
        return Vec::new();
    }
    // Of what is set aside, only ours can be wanted back from here: theirs is what the backend had.
    let is_ours = |field: &&FieldConflict| field.chosen == Chosen::Remote && field.path.0.len() == 1;
    let lost = record.fields.iter().filter(is_ours);
    let lost: Fields =
        lost.filter_map(|field| Some((field.path.field()?.to_owned(), field.local.clone()?))).collect();
    let entity = &record.entity;
    let (kind, name) = (quoted(&entity.entity_type), quoted(&entity.entity_id));
    match (&settled.result, &record.local) {
        // A value that is not shown cannot be repeated from here.
        _ if shown::pasted(&lost).is_some() => Vec::new(),
        (Body::Live(_), _) if !lost.is_empty() => vec![format!(
            "to have yours after all: landfall enqueue --db {db} {kind} {name} update {}",
            quoted(&lost.to_json())
        )],
        (Body::Deleted, Body::Live(ours)) if shown::pasted(ours).is_none() => vec![format!(
            "to have yours after all: landfall enqueue --db {db} {kind} {name} create {}",
            quoted(&ours.to_json())
        )],
        _ => Vec::new(),
    }
}

fn ways(record: &ConflictRecord, db: &str) -> Vec<String> {
    let Some(remote) = &record.remote else {
        return vec![
            "`landfall sync` asks the backend what it has; then the conflict is looked at anew".into(),
        ];
    };
    let both_live = matches!((&record.local, &remote.body), (Body::Live(_), Body::Live(_)));
    let mut ways = vec![
        (String::from("--accept"), "as proposed"),
        (String::from("--keep-mine"), "your side, or --keep-theirs"),
    ];
    if let (true, Some(field)) = (both_live, record.fields.first()) {
        let set = quoted(&format!("{}=mine", field.path));
        ways.push((format!("--set {set}"), "field by field"));
    }
    if matches!(record.local, Body::Live(_)) {
        ways.push((String::from("--fork"), "both, as two records"));
    }
    let width = ways.iter().map(|(way, _)| way.chars().count()).max().unwrap_or(0);
    let id = short(record.id);
    let line = |(way, what): &(String, &str)| {
        format!("landfall conflicts resolve --db {db} {id} {way:<width$}  {what}")
    };
    let mut lines: Vec<String> = ways.iter().map(line).collect();
    lines.push("with --dry-run first to see what it would do; --help lists all ways".into());
    lines
}
