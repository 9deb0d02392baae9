//! How and when a change is to be sent: the options of `landfall enqueue`, and the members of the same names in a line of
//! `--file`.
//!
//! What is said on the command line goes for every line of a file that says nothing else. Tests: below,
//! `tests/lifecycle.rs`.

use crate::duration;
use crate::moment::{self, When};
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use landfall_core::change::{Change, DependsOn, Options};
use landfall_core::id::{EntityKey, TaskId};
use landfall_core::task::Orphaned;
use landfall_core::time::Timestamp;
use landfall_core::value::{Fields, Value};
use std::time::Duration;

/// The members of a line that are read here, as an error names them.
pub(crate) const MEMBERS: &str = "action, priority, lane, not_before, expires_at, expires_in, depends_on, orphaned, group, dedup_key, tags, unmetered_only, at_most_once, schema";

/// How and when a change is to be sent.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "How and when it is sent")]
pub(crate) struct OptionArgs {
    /// Higher goes first among what can be sent; a step is worth 1000 places in the queue.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// A named lane: its changes are sent in order, whatever their records.
    #[arg(long, value_name = "NAME")]
    lane: Option<String>,
    /// Not before this time, such as 2026-12-01T08:00:00Z, or a span from now, such as 10m.
    #[arg(long, value_name = "TIME", value_parser = moment::when)]
    not_before: Option<When>,
    /// Given up if it was not sent by this time.
    #[arg(long, value_name = "TIME", value_parser = moment::parse, conflicts_with = "expires_in")]
    expires_at: Option<Timestamp>,
    /// Given up if it was not sent within this time, such as 30m.
    #[arg(long, value_name = "SPAN", value_parser = duration::parse)]
    expires_in: Option<Duration>,
    /// Wait for everything that is queued for this record now; may be repeated.
    #[arg(long, value_names = ["TYPE", "ID"], num_args = 2, action = clap::ArgAction::Append, allow_hyphen_values = true)]
    depends_on: Vec<String>,
    /// Wait for this task; may be repeated.
    #[arg(long, value_name = "TASK", value_parser = crate::commands::task::id)]
    depends_on_task: Vec<TaskId>,
    /// What becomes of it when something it waits for is refused or given up: wait (for a decision), fail, or detach
    /// (go on as if it had never waited).
    #[arg(long, value_name = "POLICY", default_value = "wait", hide_default_value = true, value_parser = PossibleValuesParser::new(Orphaned::ALL.map(Orphaned::as_str)).try_map(|word| orphaned(&word)), hide_possible_values = true)]
    orphaned: Orphaned,
    /// Sent together with the other changes of this group, or not at all.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Your own word for finding it again; may be repeated.
    #[arg(long = "tag", value_name = "WORD")]
    tags: Vec<String>,
    /// Not over a network that `landfall sync --metered` calls metered.
    #[arg(long)]
    unmetered_only: bool,
    /// Rather not at all than twice: without an answer it waits for you instead of being sent again.
    #[arg(long)]
    at_most_once: bool,
    /// Version of the payload's format; without it, the model's newest.
    #[arg(long, value_name = "N")]
    schema: Option<u32>,
}

impl OptionArgs {
    /// The options, seen from `now`.
    pub(crate) fn options(&self, now: Timestamp) -> Options {
        let entities = self.depends_on.chunks_exact(2).filter_map(|pair| match pair {
            [entity_type, entity_id] => Some(DependsOn::Entity(EntityKey::new(&**entity_type, &**entity_id))),
            _ => None,
        });
        let tasks = self.depends_on_task.iter().copied().map(DependsOn::Task);
        Options {
            priority: self.priority,
            not_before: self.not_before.map(|when| when.from(now)),
            lane: self.lane.clone(),
            schema: self.schema,
            expires_at: self.expires_at.or(self.expires_in.map(|span| now.after(span))),
            depends_on: entities.chain(tasks).collect(),
            orphaned: self.orphaned,
            group: self.group.clone(),
            tags: self.tags.iter().cloned().collect(),
            unmetered_only: self.unmetered_only,
            at_most_once: self.at_most_once,
            ..Options::default()
        }
    }
}

fn orphaned(word: &str) -> Result<Orphaned, String> {
    Orphaned::ALL.into_iter().find(|policy| policy.as_str() == word).ok_or_else(|| {
        let known = Orphaned::ALL.map(Orphaned::as_str).join(", ");
        format!("there are {known}")
    })
}

/// Takes the members that are about sending out of a line, over what `change` has already.
pub(crate) fn read_members(members: &mut Fields, change: &mut Change, now: Timestamp) -> Result<(), String> {
    let mut text = |name: &'static str| match members.0.remove(name) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{name} must be text, found {}", kind(&other))),
    };
    if let Some(action) = text("action")? {
        change.intent.action = Some(action);
    }
    let options = &mut change.options;
    options.lane = text("lane")?.or(options.lane.take());
    options.group = text("group")?.or(options.group.take());
    options.dedup_key = text("dedup_key")?.or(options.dedup_key.take());
    if let Some(word) = text("orphaned")? {
        options.orphaned = orphaned(&word).map_err(|error| format!("orphaned is {word:?}; {error}"))?;
    }
    if let Some(moment) = moment(members, "not_before")? {
        options.not_before = Some(moment);
    }
    let (at, within) = (moment(members, "expires_at")?, members.0.remove("expires_in"));
    options.expires_at = match (at, within) {
        (Some(_), Some(_)) => return Err("expires_at and expires_in exclude each other".into()),
        (Some(at), None) => Some(at),
        (None, Some(Value::Text(span))) => {
            let span = duration::parse(&span).map_err(|error| format!("expires_in: {error}"))?;
            Some(now.after(span))
        }
        (None, Some(other)) => {
            return Err(format!("expires_in must be text such as \"30m\", found {}", kind(&other)));
        }
        (None, None) => options.expires_at,
    };
    if let Some(number) = number(members, "priority")? {
        options.priority = number;
    }
    if let Some(number) = number(members, "schema")? {
        options.schema = Some(number);
    }
    for (name, flag) in
        [("unmetered_only", &mut options.unmetered_only), ("at_most_once", &mut options.at_most_once)]
    {
        match members.0.remove(name) {
            None => {}
            Some(Value::Bool(value)) => *flag = value,
            Some(other) => return Err(format!("{name} must be true or false, found {}", kind(&other))),
        }
    }
    for tag in list(members, "tags")? {
        let Value::Text(tag) = tag else {
            return Err(format!("tags must be a list of words, found {} in it", kind(&tag)));
        };
        options.tags.insert(tag);
    }
    for parent in list(members, "depends_on")? {
        options.depends_on.push(depends_on(parent)?);
    }
    Ok(())
}

/// `{"entity_type":…,"entity_id":…}` or `{"task":…}`.
fn depends_on(value: Value) -> Result<DependsOn, String> {
    const FORM: &str =
        r#"an item of depends_on is {"entity_type":"project","entity_id":"p1"} or {"task":"0b9c5a1e-…"}"#;
    let Value::Object(Fields(mut members)) = value else { return Err(FORM.into()) };
    let mut text = |name: &str| match members.remove(name) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    };
    let found = match (text("task"), text("entity_type"), text("entity_id")) {
        (Some(task), None, None) => {
            TaskId::parse(&task).map(DependsOn::Task).map_err(|_| format!("{task:?} is no task id"))?
        }
        (None, Some(entity_type), Some(entity_id)) => {
            DependsOn::Entity(EntityKey::new(entity_type, entity_id))
        }
        _ => return Err(FORM.into()),
    };
    if members.is_empty() { Ok(found) } else { Err(FORM.into()) }
}

/// A time as text, or as milliseconds since 1970.
fn moment(members: &mut Fields, name: &str) -> Result<Option<Timestamp>, String> {
    match members.0.remove(name) {
        None => Ok(None),
        Some(Value::Text(text)) => {
            moment::parse(&text).map(Some).map_err(|error| format!("{name} is {text:?}; {error}"))
        }
        Some(other) => match whole(&other).and_then(|ms| i64::try_from(ms).ok()) {
            Some(ms) => Ok(Some(Timestamp(ms))),
            None => {
                Err(format!("{name} must be a time such as \"2026-12-01T08:00:00Z\", found {}", kind(&other)))
            }
        },
    }
}

fn number<T: TryFrom<i128>>(members: &mut Fields, name: &str) -> Result<Option<T>, String> {
    match members.0.remove(name) {
        None => Ok(None),
        Some(value) => match whole(&value).and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{name} must be a whole number in its range, found {}", kind(&value))),
        },
    }
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Number(_) => serde_json::to_string(value).ok()?.parse().ok(),
        _ => None,
    }
}

fn list(members: &mut Fields, name: &str) -> Result<Vec<Value>, String> {
    match members.0.remove(name) {
        None => Ok(Vec::new()),
        Some(Value::List(items)) => Ok(items),
        Some(other) => Err(format!("{name} must be a list, found {}", kind(&other))),
    }
}

/// What a value is, for people.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::Text(_) => "text",
        Value::List(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Change, String> {
        let Value::Object(mut members) = Value::parse(line).unwrap() else { panic!("{line}") };
        let mut change = Change::delete("t", "1").priority(5).tag("all").lane("all");
        read_members(&mut members, &mut change, Timestamp(1_000))?;
        assert!(members.is_empty(), "{members:?}");
        Ok(change)
    }

    #[test]
    fn a_line_says_how_it_is_sent() {
        let line = r#"{"priority":0,"lane":"mail","not_before":"1970-01-01T00:00:07Z","expires_in":"10s","tags":["a"],
            "depends_on":[{"entity_type":"p","entity_id":"a/b"}],"orphaned":"detach","group":"g","dedup_key":"d",
            "unmetered_only":true,"at_most_once":true,"schema":3}"#;
        let expected = Change::delete("t", "1")
            .lane("mail")
            .not_before(Timestamp(7_000))
            .expires_at(Timestamp(11_000))
            .tag("a")
            .tag("all")
            .depends_on("p", "a/b")
            .orphaned(Orphaned::Detach)
            .group("g")
            .dedup_key("d")
            .unmetered_only()
            .at_most_once()
            .schema(3);
        assert_eq!(read(line), Ok(expected));
        assert_eq!(read("{}"), Ok(Change::delete("t", "1").priority(5).tag("all").lane("all")));
    }

    #[test]
    fn each_bad_member_is_named() {
        for (line, fragment) in [
            (r#"{"lane":1}"#, "lane must be text, found a number"),
            (r#"{"priority":1.5}"#, "priority must be a whole number"),
            (r#"{"priority":99999999999}"#, "priority must be a whole number in its range"),
            (r#"{"schema":-1}"#, "schema must be a whole number in its range"),
            (r#"{"not_before":"soon"}"#, "not_before is \"soon\"; write a time"),
            (r#"{"expires_at":true}"#, "expires_at must be a time"),
            (r#"{"expires_at":1,"expires_in":"1s"}"#, "exclude each other"),
            (r#"{"expires_in":"soon"}"#, "expires_in: write a whole number"),
            (r#"{"orphaned":"cry"}"#, "there are wait, fail, detach"),
            (r#"{"tags":"a"}"#, "tags must be a list"),
            (r#"{"tags":[1]}"#, "found a number in it"),
            (r#"{"depends_on":[{"entity_type":"a"}]}"#, "an item of depends_on is"),
            (r#"{"depends_on":[{"task":"x"}]}"#, "is no task id"),
            (r#"{"at_most_once":"yes"}"#, "at_most_once must be true or false"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(fragment), "{line}: {error}");
        }
    }
}
