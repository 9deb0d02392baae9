//! `landfall conformance`: does a server keep the rules of protocol v1?
//!
//! The checks are `landfall_testkit::conformance::server`, the way over HTTP is [`way`]; here are the arguments and the
//! words. Tests: `tests/conformance.rs`.

mod way;

use crate::backend::CallArgs;
use crate::exit::{self, Exit};
use crate::output::{HINT, Output, many};
use crate::problem::Problem;
use crate::stop::Stop;
use crate::table::visible;
use landfall_testkit::conformance::server::{
    CHECKS, Check, End, Finding, Level, Outcome, Seen, Wanted, run as check,
};
use serde_json::{Value, json};
use way::Http;

/// Where the rules are written.
const RULES: &str = "docs/writing-a-backend.md";
/// Where a result begins in a line, behind the word and the longest name.
const INDENT: usize = 28;

const EXAMPLES: &str = "  landfall conformance http://127.0.0.1:8787/sync
  landfall conformance https://api.example.com/sync --token-env API_TOKEN --entity-type note
  landfall conformance http://127.0.0.1:8787/sync --only lost_reply,feed_whole --json
  landfall conformance --list

  Against the reference server:
  landfall serve --db test.db &
  landfall conformance http://127.0.0.1:8787/sync";

const TABLE: &str = "\
Exit codes:
  0  every MUST that was looked at holds
  1  a MUST is broken; or wrong usage, or a local error
  2  nothing at this address is read as a sync endpoint, it went out of reach, or Ctrl-C came first";

/// Check whether a server keeps the rules of the sync protocol.
///
/// It makes records with random ids, breaks connections off, repeats and contradicts itself on purpose, and deletes the
/// records at the end; their tombstones and keys stay. So point it at a test server, not at the one that people use. The records
/// have the fields a, b and c with numbers and texts; name a type that may have them with --entity-type.
///
/// A MUST keeps clients from losing, doubling or mixing up changes. The rules are explained in docs/writing-a-backend.md.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help(EXAMPLES, TABLE))]
pub(crate) struct Args {
    /// The server's sync endpoint.
    #[arg(value_name = "URL", required_unless_present = "list")]
    endpoint: Option<String>,
    /// The type of the records that are made.
    #[arg(long, value_name = "TYPE", default_value = "landfall_conformance")]
    entity_type: String,
    /// Only these checks.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Say what would be checked, and send nothing.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    call: CallArgs,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    if let Some(name) = args.only.iter().find(|name| CHECKS.iter().all(|check| check.name != name.as_str())) {
        return Err(Problem::new(format!("there is no check {name:?}"))
            .hint("`landfall conformance --list` names them"));
    }
    if args.entity_type.is_empty() {
        return Err(Problem::new("the type of records is empty").hint("name one with --entity-type"));
    }
    let checks = |check: &Check| args.only.is_empty() || args.only.iter().any(|name| name == check.name);
    let Some(endpoint) = args.endpoint.as_deref().filter(|_| !args.list) else {
        return list(&checks, output);
    };
    let (endpoint, headers) = args.call.endpoint(endpoint)?;
    let stop = Stop::listen(|| ())?;
    let way = Http::new(endpoint.clone(), headers, args.call.timeout(), stop.clone());
    let wanted = Wanted { entity_type: &args.entity_type, checks: &checks, stop: &|| stop.is_asked() };
    let mut failed = None;
    let outcome = check(&way, &wanted, &mut |finding| {
        if !output.is_json() {
            failed = failed.take().or(show(finding, output).err());
        }
    });
    if let Some(problem) = failed {
        return Err(problem);
    }
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(_) if stop.is_asked() => {
            output.problem(&Problem::new("stopped before anything was checked"));
            return Ok(Exit::WorkLeft);
        }
        Err(why) => {
            let hint =
                "is the server running, is this its sync endpoint, and does it take these credentials?";
            output.problem(&Problem::new(why).hint(hint));
            return Ok(Exit::WorkLeft);
        }
    };
    if output.is_json() {
        output.json(&report(&endpoint.url(), &args.entity_type, &outcome))?;
    } else {
        summary(&args.entity_type, &outcome, output)?;
    }
    Ok(match outcome.end {
        End::Whole if broken(&outcome, Level::Must) > 0 => Exit::Failed,
        End::Whole => Exit::Done,
        End::Stopped | End::Lost(..) => Exit::WorkLeft,
    })
}

fn list(wanted: &dyn Fn(&Check) -> bool, output: &Output) -> Result<Exit, Problem> {
    let checks = CHECKS.iter().filter(|check| wanted(check));
    if output.is_json() {
        let checks: Vec<Value> = checks.map(described).collect();
        output.json(&json!({"checks": checks}))?;
    } else {
        for check in checks {
            output.line(format_args!("{:<6} {:<20} {}", level(check.level), check.name, check.rule))?;
        }
    }
    Ok(Exit::Done)
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Must => "MUST",
        Level::Should => "SHOULD",
    }
}

fn broken(outcome: &Outcome, level: Level) -> usize {
    outcome.findings.iter().filter(|finding| finding.seen.is_err() && finding.check.level == level).count()
}

fn skipped(outcome: &Outcome) -> usize {
    outcome.findings.iter().filter(|finding| matches!(finding.seen, Ok(Seen::Skipped(_)))).count()
}

/// How a check ended, in a word for people, and what was seen.
fn result(finding: &Finding) -> (&'static str, &str) {
    match &finding.seen {
        Ok(Seen::Held(text)) => ("ok", text),
        Ok(Seen::Skipped(text)) => ("skip", text),
        Err(text) if finding.is_broken_must() => ("BROKEN", text),
        Err(text) => ("weak", text),
    }
}

fn show(finding: &Finding, output: &Output) -> Result<(), Problem> {
    let check = finding.check;
    let (word, text) = result(finding);
    output.line(format_args!("{word:<6} {:<20} {}", check.name, visible(text)))?;
    if finding.seen.is_err() {
        output.line(format_args!("{:INDENT$}{}: {}", "", level(check.level), check.rule))?;
        output.line(format_args!("{:INDENT$}written in {RULES}, section {:?}", "", check.written))?;
        output.line(format_args!("{:INDENT$}{HINT}hint:{HINT:#} {}", "", check.mend))?;
    }
    Ok(())
}

fn summary(entity_type: &str, outcome: &Outcome, output: &Output) -> Result<(), Problem> {
    let broken_should = broken(outcome, Level::Should);
    let (weak, skipped) = (format!(", {broken_should} SHOULD"), format!(", {} skipped", skipped(outcome)));
    output.line(format_args!(
        "{}: {} MUST broken{}{}; {} deleted again",
        many(outcome.findings.len() as u64, "check"),
        broken(outcome, Level::Must),
        if broken_should > 0 { weak.as_str() } else { "" },
        if skipped == ", 0 skipped" { "" } else { skipped.as_str() },
        many(outcome.cleaned as u64, "record")
    ))?;
    for id in &outcome.left {
        output.line(format_args!("perhaps still there: {} {}", visible(entity_type), visible(id)))?;
    }
    let missing = CHECKS.len() - outcome.findings.len();
    match &outcome.end {
        End::Whole => {}
        End::Stopped => output.note(format_args!("stopped; {missing} of {} checks not done", CHECKS.len())),
        End::Lost(name, why) => output.problem(
            &Problem::new(format!("the server went out of reach during `{name}`: {why}"))
                .hint(format!("if it crashed, that check made it: `--only {name}` tries again")),
        ),
    }
    Ok(())
}

fn described(check: &Check) -> Value {
    let written = format!("{RULES}, section {:?}", check.written);
    json!({"name": check.name, "level": level(check.level), "rule": check.rule, "written": written, "mend": check.mend})
}

fn report(endpoint: &str, entity_type: &str, outcome: &Outcome) -> Value {
    let checks = outcome.findings.iter().map(|finding| {
        let mut told = described(finding.check);
        let (word, text) = result(finding);
        told["result"] = json!(if finding.seen.is_err() { "broken" } else { word });
        told["seen"] = json!(text);
        told
    });
    let (ended, lost) = match &outcome.end {
        End::Whole => ("whole", None),
        End::Stopped => ("stopped", None),
        End::Lost(name, why) => ("lost", Some(json!({"check": name, "why": why}))),
    };
    json!({
        "endpoint": endpoint, "entity_type": entity_type, "checks": checks.collect::<Vec<_>>(),
        "broken_must": broken(outcome, Level::Must), "broken_should": broken(outcome, Level::Should),
        "skipped": skipped(outcome), "deleted": outcome.cleaned, "left": outcome.left,
        "ended": ended, "lost": lost,
    })
}
