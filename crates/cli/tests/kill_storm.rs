//! A storm of `kill -9` over processes that share one store: two that enqueue files, one `sync` and one agent at a
//! time, each killed at a moment of its own, opening included. Every life has a fresh store and a fresh server.
//!
//! What a process acknowledged (it ended with 0) is there; of a file that was cut off all or nothing. After the storm
//! everything drains, and then the server's database, read with plain SQL, has each change once, and of the record
//! that every file edits the last state and each edit.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

#[macro_use]
mod support;

use landfall_testkit::campaign::{Campaign, Figures};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::agents::until_empty;
use support::{Dice, Scratch, Server, Stored, landfall, line};

/// Kills of processes that still ran, in one life.
const KILLS: u64 = 40;
/// Lives of every run: 1,000 kills.
const LIVES: u64 = 25;
/// New records in one file.
const RECORDS: u64 = 5;
/// The lease's term, and what a loaded machine needs to send all that is left.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn a_storm_of_kills_loses_nothing_doubles_nothing_and_leaves_nothing_stuck() {
    let campaign = Campaign::new("kills", LIVES);
    let figures = campaign.run(|seed| {
        catch_unwind(AssertUnwindSafe(|| live(seed))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.unwrap_or_else(|| "panicked: its text is above".into()))
        })
    });
    println!("{figures:?}");
    for name in ["killed enqueuing", "killed syncing", "killed agents"] {
        assert!(figures.get(name).is_some_and(|kills| *kills > 0), "{name}: none; {figures:?}");
    }
}

/// What runs, how long it lives at most, and how to count its death.
const KINDS: [(&str, u64); 4] =
    [("killed enqueuing", 40), ("killed enqueuing", 40), ("killed syncing", 90), ("killed agents", 120)];

fn live(seed: u64) -> Result<Figures, String> {
    let scratch = Scratch::new("kill-storm");
    let server = Server::start(scratch.path("server.db"));
    let (db, endpoint) = (scratch.text("q.db"), server.endpoint());
    let mut dice = Dice::new(seed);
    let mut figures = Figures::new();
    let mut expected: BTreeMap<String, Value> = BTreeMap::new();
    run!["enqueue", "--db", &db, "item", "shared-0", "create", r#"{"last":0}"#].ends(0);
    run!["enqueue", "--db", &db, "item", "shared-1", "create", r#"{"last":0}"#].ends(0);
    let mut shared = [json!({"last": 0}), json!({"last": 0})];
    let mut round = 0;
    while figures.get("kills").copied().unwrap_or(0) < KILLS {
        round += 1;
        let mut living: Vec<(usize, Duration, Child)> = Vec::new();
        for (which, (_, most_ms)) in KINDS.iter().enumerate() {
            let mut command = landfall();
            match which {
                0 | 1 => {
                    let file = scratch.file(&format!("{which}-{round}.jsonl"), file(which, round));
                    command.args(["enqueue", "--db", &db, "--file", &file]);
                }
                2 => {
                    command.args(["sync", "--db", &db, "--endpoint", &endpoint, "--deadline", "5s"]);
                    command.args(["--retry-cap", "50ms", "--batch", "3"]);
                }
                _ => {
                    command.args(["agent", "--json", "--db", &db, "--endpoint", &endpoint]);
                    command.args(["--look", "50ms", "--debounce", "20ms", "--retry-cap", "50ms"]);
                }
            }
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            living.push((which, Duration::from_micros(dice.below(most_ms * 1000)), child));
        }
        living.sort_by_key(|(_, after, _)| *after);
        let begun = Instant::now();
        for (which, after, mut child) in living {
            thread::sleep(after.saturating_sub(begun.elapsed()));
            drop(child.kill());
            let status = child.wait().unwrap();
            if status.signal() == Some(9) {
                *figures.entry("kills").or_default() += 1;
                *figures.entry(KINDS[which].0).or_default() += 1;
            } else if which < 2 && !status.success() || which == 3 || status.code() == Some(1) {
                return Err(format!(
                    "round {round}: {} that was not killed ended with {status}",
                    KINDS[which].0
                ));
            }
            if which < 2 {
                let there = [0, RECORDS - 1]
                    .map(|n| run!["get", "--db", &db, "item", &id(which, round, n)].code == Some(0));
                if there[0] != there[1] {
                    return Err(format!("round {round}: half a file of {which}"));
                }
                if status.success() && !there[0] {
                    return Err(format!("round {round}: acknowledged to {which} and lost"));
                }
                if there[0] {
                    expected.extend((0..RECORDS).map(|n| (id(which, round, n), json!({"round": round}))));
                    shared[which]["last"] = json!(round);
                    shared[which][format!("round-{round}")] = json!(1);
                }
            }
        }
    }
    // What the dead left behind is taken over by the next one.
    let syncing = ["sync", "--db", &db, "--endpoint", &endpoint, "--deadline", "60s", "--retry-cap", "50ms"];
    support::run(syncing).ends(0);
    until_empty(&db, DRAINED_WITHIN);
    let [first, second] = shared;
    expected.extend([("shared-0".to_owned(), first), ("shared-1".to_owned(), second)]);
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    let found: BTreeMap<String, Value> = stored
        .records
        .into_iter()
        .map(|((_, id), fields)| (id, serde_json::from_str(&fields).unwrap()))
        .collect();
    if found != expected {
        let wrong: Vec<_> = expected.iter().filter(|(id, fields)| found.get(*id) != Some(fields)).collect();
        let extra: Vec<_> = found.keys().filter(|id| !expected.contains_key(*id)).collect();
        return Err(format!("lost or overwritten: {wrong:?}; never stored: {extra:?}"));
    }
    figures.insert("changes", stored.effects);
    Ok(figures)
}

fn id(which: usize, round: u64, record: u64) -> String {
    format!("{which}-{round}-{record}")
}

/// New records with two edits of the enqueuer's shared record in between: an order that is broken shows in its end.
fn file(which: usize, round: u64) -> String {
    let shared = format!("shared-{which}");
    let mut lines: Vec<String> = (0..RECORDS)
        .map(|n| line("item", &id(which, round, n), "create", &json!({"round": round})))
        .collect();
    lines.insert(1, line("item", &shared, "update", &json!({"last": round, format!("round-{round}"): 0})));
    lines.insert(3, line("item", &shared, "update", &json!({format!("round-{round}"): 1})));
    lines.join("\n")
}
