//! `landfall conformance`: does a server keep the rules of protocol v1?
//!
//! The checks are `landfall_testkit::conformance::server`; here are the way over HTTP, the arguments and the words.
//! Tests: `tests/conformance.rs`.

use crate::backend::BackendArgs;
use crate::exit::{self, Exit};
use crate::output::{Output, many};
use crate::problem::Problem;
use crate::table::visible;
use landfall_adapters::http::{HttpRequest, Method, UreqTransport};
use landfall_testkit::conformance::server::{
    Answer, Ask, CHECKS, Check, Finding, Level, Seen, Way, run as check,
};
use serde_json::json;
use std::time::Duration;

const EXAMPLES: &str = "  landfall conformance http://127.0.0.1:8787/sync
  landfall conformance https://api.example.com/sync --token-env API_TOKEN --entity-type note
  landfall conformance http://127.0.0.1:8787/sync --only lost_reply,feed_whole --json
  landfall conformance --list";

const TABLE: &str = "\
Exit codes:
  0  every must-rule that was checked holds
  1  some must-rule is broken (or wrong usage)
  2  the server could not be reached, or the checks could not begin";

/// Check whether a server keeps the rules of the sync protocol.
///
/// Writes records with random ids into the server, breaks off, repeats and contradicts itself on purpose, and deletes the records at the
/// end; their tombstones and keys stay. Point it at a test server. The records have number and text fields named a, b and c.
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
    backend: BackendArgs,
}

/// Over HTTP, one request at a time per thread.
struct Http {
    transport: UreqTransport,
    endpoint: String,
    credentials: Vec<(String, String)>,
    timeout: Duration,
}

impl Way for Http {
    fn ask(&self, ask: &Ask) -> Result<Answer, String> {
        let method = if ask.method == "POST" { Method::Post } else { Method::Get };
        let mut request = HttpRequest::new(method, format!("{}{}", self.endpoint, ask.path), self.timeout);
        if ask.with_credentials {
            request.headers.extend(self.credentials.iter().cloned());
        }
        if let Some(body) = &ask.body {
            request = request.body("application/json", body.clone().into_bytes());
        }
        let answer = self.transport.send_blocking(&request).map_err(|error| error.to_string())?;
        let content_type = answer.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        Ok(Answer {
            status: answer.status,
            content_type: content_type.map(|(_, value)| value.clone()).unwrap_or_default(),
            body: String::from_utf8_lossy(&answer.body).into_owned(),
        })
    }

    fn has_credentials(&self) -> bool {
        !self.credentials.is_empty()
    }
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<Exit, Problem> {
    if let Some(name) = args.only.iter().find(|name| CHECKS.iter().all(|check| check.name != name.as_str())) {
        return Err(Problem::new(format!("there is no check {name:?}"))
            .hint("`landfall conformance --list` names them"));
    }
    let wanted = |check: &Check| args.only.is_empty() || args.only.iter().any(|name| name == check.name);
    if args.list {
        for check in CHECKS.iter().filter(|check| wanted(check)) {
            if output.is_json() {
                output.json(&json!({"name": check.name, "level": level(check), "rule": check.rule, "written": check.written}))?;
            } else {
                output.line(format_args!("{:<20} {:<6} {}", check.name, level(check), check.rule))?;
            }
        }
        return Ok(Exit::Done);
    }
    let endpoint = args.endpoint.as_deref().unwrap_or_default();
    // Judged as for `landfall sync`: no plain http to other machines, no token in the address.
    args.backend.adapter(endpoint)?;
    let way = Http {
        transport: UreqTransport::new(),
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        credentials: args.backend.credentials()?,
        timeout: args.backend.config().push.call_timeout,
    };
    let mut failed = None;
    let outcome = check(&way, &args.entity_type, &wanted, &mut |finding| {
        failed = failed.take().or(show(finding, output).err());
    });
    if let Some(problem) = failed {
        return Err(problem);
    }
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(why) => {
            output.problem(&Problem::new(why).hint("is the server running, and is the address right?"));
            return Ok(Exit::WorkLeft);
        }
    };
    let broken = outcome.findings.iter().filter(|finding| finding.is_broken_must()).count();
    let ran = outcome.findings.len();
    if output.is_json() {
        output.json(
            &json!({"checks": ran, "broken": broken, "deleted": outcome.cleaned, "left": outcome.left}),
        )?;
    } else {
        output.line(format_args!(
            "{}, {} broken; {} deleted",
            many(ran as u64, "check"),
            many(broken as u64, "must-rule"),
            many(outcome.cleaned as u64, "record")
        ))?;
        for id in &outcome.left {
            output.line(format_args!("not deleted: {} {}", visible(&args.entity_type), visible(id)))?;
        }
    }
    Ok(if broken == 0 { Exit::Done } else { Exit::Failed })
}

fn level(check: &Check) -> &'static str {
    match check.level {
        Level::Must => "MUST",
        Level::Should => "SHOULD",
    }
}

fn show(finding: &Finding, output: &Output) -> Result<(), Problem> {
    let check = finding.check;
    let (word, text) = match &finding.seen {
        Ok(Seen::Held(text)) => ("ok", text),
        Ok(Seen::Skipped(text)) => ("skip", text),
        Err(text) => ("BROKEN", text),
    };
    if output.is_json() {
        return output.json(&json!({
            "name": check.name, "level": level(check), "result": word.to_lowercase(), "seen": text,
            "rule": check.rule, "written": check.written, "mend": check.mend,
        }));
    }
    output.line(format_args!("{word:<6} {:<20} {}", check.name, visible(text)))?;
    if finding.seen.is_err() {
        output.line(format_args!("       {}: {}", level(check), check.rule))?;
        output.line(format_args!("       written in docs/writing-a-backend.md, \"{}\"", check.written))?;
        output.line(format_args!("       {}", check.mend))?;
    }
    Ok(())
}
