//! Two agents on one queue beside processes that enqueue, and `kill -9` of a random one again and again (G10): every
//! acknowledged change has one effect, and after no kill anybody waits longer than the lease's term for the next one.
//!
//! 60 kills in every run, 600 with `cargo xtask test --nightly`; `LANDFALL_SEED=…` repeats a run's delays and victims.
//! In the end the server's database is read with plain SQL.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

#[macro_use]
mod support;

use landfall_testkit::proxy::{Fault, FaultPlan, FaultProxy};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::agents::{Agent, enqueue, until, until_empty};
use support::{Dice, Scratch, Server, Stored, endpoint, landfall, line, seed};

/// The lease's term, and as much again as a loaded machine takes to start processes.
const PROGRESS_WITHIN: Duration = Duration::from_secs(10 + 5);
/// New records in one file.
const RECORDS: usize = 12;

fn kills() -> usize {
    if std::env::var("LANDFALL_TIER").as_deref() == Ok("nightly") { 600 } else { 60 }
}

#[test]
fn killed_in_turn_two_agents_bring_everything_over_once_and_nobody_waits_longer_than_a_term() {
    let seed = seed();
    println!("seed {seed}");
    let scratch = Scratch::new("two-agents");
    let server = Server::start(scratch.path("server.db"));
    // Answers take a while, so that kills fall between a call and its answer.
    let plan = FaultPlan::weighted(1, [(2, Fault::DelayReply { ms: 40 })]);
    let proxy = FaultProxy::start(server.addr, plan, seed).unwrap();
    let mut world = World::new(&scratch, &server, endpoint(proxy.addr()), seed);
    let mut hits = BTreeMap::new();
    let mut longest = Duration::ZERO;
    for round in 0..kills() {
        let (victim, kill) = world.kill_one(round);
        if let Some(victim) = victim {
            *hits.entry(victim).or_insert(0_usize) += 1;
        }
        longest = longest.max(world.waits_for_progress(round, &kill));
    }
    println!("killed {hits:?}; the longest wait for progress was {longest:?}");
    assert!(hits.values().sum::<usize>() >= kills() / 2, "most kills must hit: {hits:?}");
    assert!(hits.len() == 3, "each kind must have been hit: {hits:?}");

    until_empty(&world.db, Duration::from_secs(30));
    for agent in &mut world.agents {
        assert!(agent.terminate().success());
    }
    let (expected, shared) = (world.expected, world.shared);
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    let found: BTreeSet<_> = stored.records.keys().map(|(_, id)| id.clone()).collect();
    assert_eq!(found, expected, "what was acknowledged, and nothing else");
    let record = &stored.records[&("item".to_owned(), SHARED.to_owned())];
    let record: BTreeMap<String, Value> = serde_json::from_str(record).unwrap();
    assert_eq!(record.into_keys().collect::<BTreeSet<_>>(), shared, "edits of one record");
}

/// A record that every file edits.
const SHARED: &str = "shared";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Victim {
    FirstAgent,
    SecondAgent,
    Enqueuer,
}

/// When somebody was killed, and how far everything was then.
struct Kill {
    at: Instant,
    effects: u64,
}

struct World<'a> {
    scratch: &'a Scratch,
    server: &'a Server,
    db: String,
    endpoint: String,
    dice: Dice,
    agents: [Agent; 2],
    /// Ids of records that the server must have in the end.
    expected: BTreeSet<String>,
    /// Fields that the shared record must have.
    shared: BTreeSet<String>,
}

impl<'a> World<'a> {
    fn new(scratch: &'a Scratch, server: &'a Server, endpoint: String, seed: u64) -> Self {
        let db = scratch.text("q.db");
        run!["enqueue", "--db", &db, "item", SHARED, "create", r#"{"begin":1}"#].ends(0);
        let agents = [agent(&db, &endpoint), agent(&db, &endpoint)];
        until_empty(&db, PROGRESS_WITHIN);
        let (expected, shared) = ([SHARED.to_owned()].into(), ["begin".to_owned()].into());
        Self { scratch, server, db, endpoint, dice: Dice::new(seed), agents, expected, shared }
    }

    /// Starts an enqueuer, and kills it or an agent at a random moment. Who was hit, if it still ran.
    fn kill_one(&mut self, round: usize) -> (Option<Victim>, Kill) {
        let mut enqueuer = self.enqueuer(round);
        let (victim, most_ms) = match self.dice.below(3) {
            0 => (Victim::FirstAgent, 60),
            1 => (Victim::SecondAgent, 60),
            // It is soon done.
            _ => (Victim::Enqueuer, 15),
        };
        thread::sleep(Duration::from_micros(self.dice.below(most_ms * 1000)));
        let hit = match victim {
            Victim::FirstAgent => self.replace_agent(0),
            Victim::SecondAgent => self.replace_agent(1),
            Victim::Enqueuer => killed(&mut enqueuer),
        };
        let kill = Kill { at: Instant::now(), effects: self.effects() };
        self.find_out(round, &mut enqueuer);
        (hit.then_some(victim), kill)
    }

    /// Tasks that have taken effect at the server.
    fn effects(&self) -> u64 {
        Stored::read(&self.server.db).effects
    }

    fn replace_agent(&mut self, which: usize) -> bool {
        let hit = killed(&mut self.agents[which].child);
        self.agents[which] = agent(&self.db, &self.endpoint);
        assert!(hit, "an agent does not end by itself");
        hit
    }

    /// A process that stores some new records and an edit of the shared one, all or nothing.
    fn enqueuer(&self, round: usize) -> Child {
        let mut lines: Vec<String> = (0..RECORDS)
            .map(|record| line("item", &id(round, record), "create", &json!({"round": round})))
            .collect();
        lines.push(line("item", SHARED, "update", &json!({ format!("round-{round}"): 1 })));
        let file = self.scratch.file(&format!("{round}.jsonl"), lines.join("\n"));
        let mut command = landfall();
        command.args(["enqueue", "--db", &self.db, "--file", &file]).stdout(Stdio::null());
        command.spawn().unwrap()
    }

    /// What became of the file: an acknowledged one is there; of one that was cut off all or nothing.
    fn find_out(&mut self, round: usize, enqueuer: &mut Child) {
        let status = enqueuer.wait().unwrap();
        let is_there = run!["get", "--db", &self.db, "item", &id(round, 0)].code == Some(0);
        assert!(is_there || !status.success(), "round {round} was acknowledged and is not there");
        assert!(
            status.success() || status.signal() == Some(9),
            "an enqueue that is not killed succeeds: {status}"
        );
        if is_there {
            self.expected.extend((0..RECORDS).map(|record| id(round, record)));
            self.shared.insert(format!("round-{round}"));
        }
    }

    /// One more change is acknowledged, so that there is something to do: how long after the kill anything took effect.
    fn waits_for_progress(&mut self, round: usize, kill: &Kill) -> Duration {
        let last = format!("last-{round}");
        enqueue(&self.db, &last, "{}");
        self.expected.insert(last);
        let goes_on = || self.effects() > kill.effects;
        until(PROGRESS_WITHIN, goes_on, || format!("round {round}: nothing takes effect any more"));
        kill.at.elapsed()
    }
}

fn id(round: usize, record: usize) -> String {
    format!("{round}-{record}")
}

fn agent(db: &str, endpoint: &str) -> Agent {
    Agent::spawn(db, endpoint, &["--look", "50ms", "--debounce", "20ms", "--retry-cap", "200ms"])
}

/// Kills a process; whether it still ran.
fn killed(child: &mut Child) -> bool {
    drop(child.kill());
    child.wait().unwrap().signal() == Some(9)
}
