//! Every answer broken in every way, over real sockets: the default transport, the sync endpoint adapter, the engine and
//! a store on a real disk against a peer that damages what the reference server's rules say.
//!
//! The oracle is the store after each answer: nothing ends that was not wholly and truly answered, nothing is given up,
//! and the next try has the same key and the same bytes. When the peer is honest again, each task has one effect.

#![allow(clippy::unwrap_used, reason = "test helpers are outside #[test]")]

#[path = "support/replay.rs"]
mod replay;

use landfall_adapters::SyncEndpoint;
use landfall_adapters::http::UreqTransport;
use landfall_core::adapter::{Adapter, CallContext, Permit, Probe};
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::id::{ClientId, EntityKey, TaskId};
use landfall_core::machine::{Directions, SessionEnd};
use landfall_core::task::{StateKind, Task, TaskState, Verdict};
use landfall_engine::Engine;
use landfall_sqlite::SqliteStore;
use landfall_testkit::campaign::{self, Campaign, Figures};
use replay::{Case, Forgery, Forward, Framing, PULLS, PUSHES, Peer, Plan, Worth};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Stores in each run; each is shown some 150 damaged answers.
const STORES: u64 = 40;
/// Groups of tasks of one store.
const ROUNDS: u64 = 8;
/// Answers that are shown to one group of tasks: fewer than make a dead letter of rubbish (20).
const ANSWERS: u64 = 15;
/// Pages of the feed that are shown between two groups.
const PAGES: u64 = 4;
/// Longer than any backoff, and than any `Retry-After` that is believed.
const LATER: i64 = 70 * 60 * 1000;

/// One device before one peer.
struct Life {
    engine: Engine,
    peer: Peer,
    by: Arc<AtomicI64>,
    folder: std::path::PathBuf,
    seed: u64,
    shown: u64,
    figures: Figures,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.engine.close();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

type Outcome<T = ()> = Result<T, String>;

impl Life {
    fn new(seed: u64) -> Self {
        let folder = std::env::temp_dir().join(format!("landfall-damaged-{}-{seed}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let peer = Peer::start("the-server");
        let adapter = adapter(&peer);
        let mut config = Config::default();
        config.push.call_timeout = Duration::from_secs(10);
        config.pull.call_timeout = Duration::from_secs(10);
        let by = Arc::new(AtomicI64::new(0));
        let engine = Engine::builder(SqliteStore::open(folder.join("q.db")).unwrap(), adapter)
            .config(config)
            .clock(Forward::new(&by))
            .build_blocking()
            .unwrap();
        Self { engine, peer, by, folder, seed, shown: 0, figures: Figures::new() }
    }

    fn sync(&self, directions: Directions) -> Outcome {
        self.by.fetch_add(LATER, Ordering::Relaxed);
        let report = self.engine.sync_with_blocking(SessionEnd::OnePass, directions);
        report.map(drop).map_err(|error| format!("the session itself failed: {error}"))
    }

    fn queue(&self) -> Vec<Task> {
        let page = self.engine.tasks(0, 1000).unwrap();
        assert!(page.damaged.is_empty());
        page.tasks
    }

    fn count(&mut self, name: &'static str, more: u64) {
        *self.figures.entry(name).or_default() += more;
    }

    /// The next answer to show. Half of them are the truth, cut; the other half other bodies, half of them whole.
    fn case(&mut self, of: &[Forgery]) -> Case {
        let number = self.seed * ROUNDS * ANSWERS + self.shown;
        self.shown += 1;
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let (forgery, cut) = if number % 2 == 0 {
            (usize::try_from(spread % 2).unwrap(), Some(spread / 2))
        } else {
            let forgeries = (of.len() - 2) as u64;
            let cut = ((number / 2) % 3 != 0).then_some(spread);
            (
                2 + usize::try_from((number / 2 + self.seed) % forgeries).unwrap(),
                cut.filter(|_| spread % 3 == 0),
            )
        };
        let framing = Framing::ALL[usize::try_from(spread / 7 % 9).unwrap()];
        // A body that is worth something comes last, in a round of its own words.
        Case { forgery, framing, cut, applied: spread % 5 < 2 }
    }

    fn damaged_push(&mut self, case: Case) -> Outcome {
        let worth = case.worth(PUSHES);
        let before = self.queue();
        let sent = self.peer.books().pushes;
        self.peer.plan(Plan { push: Some(case), ..Plan::default() });
        self.sync(Directions::PushOnly)?;
        self.peer.plan(Plan::default());
        if self.peer.books().pushes == sent && !before.is_empty() {
            return Err("nothing was sent".into());
        }
        let after: BTreeMap<TaskId, Task> = self.queue().into_iter().map(|task| (task.id, task)).collect();
        for task in &before {
            match after.get(&task.id) {
                Some(now) => still_waits(task, now, worth)?,
                None if worth == Worth::Nothing => {
                    let ended = self.engine.journal(task.id).unwrap().map(|entry| entry.verdict);
                    return Err(format!("task {} of {} ended as {ended:?}", task.id, task.entity));
                }
                None => self.truly_ended(task)?,
            }
        }
        let waits = |task: &&Task| after.get(&task.id).is_some_and(|now| now.state.kind() != StateKind::Dead);
        match worth {
            Worth::All if before.iter().any(|task| waits(&task)) => {
                Err("a whole answer was not believed".into())
            }
            _ => Ok(()),
        }
    }

    /// A task that has ended did so because the server has its effect, or because it met a conflict there.
    fn truly_ended(&self, task: &Task) -> Outcome {
        let entry = self.engine.journal(task.id).unwrap().ok_or("a task is neither queued nor ended")?;
        match entry.verdict {
            Verdict::Applied | Verdict::Duplicate => {
                let books = self.peer.books();
                let id = task.id.to_string();
                let took = books.records.effects().iter().any(|effect| effect.task_id == id);
                took.then_some(())
                    .ok_or(format!("{} of {} is acknowledged and has no effect", task.id, task.entity))
            }
            Verdict::Rebased | Verdict::ResolvedToRemote => Ok(()),
            other => Err(format!("{} of {} ended as {other:?}", task.id, task.entity)),
        }
    }

    fn damaged_pull(&mut self, case: Case, number: u64) -> Outcome {
        let entity = format!("p{number}");
        self.peer.other(&format!("pull-{number}"), &entity, "create", number);
        let before = self.engine.pull_state().unwrap();
        self.peer.plan(Plan { pull: Some(case), ..Plan::default() });
        self.sync(Directions::PullOnly)?;
        self.peer.plan(Plan::default());
        let after = self.engine.pull_state().unwrap();
        let known = self.engine.get(&EntityKey::new("note", &*entity)).unwrap();
        match (case.worth(PULLS), known.and_then(|it| it.base).is_some()) {
            (Worth::Nothing, true) => Err("a record came in".into()),
            (Worth::Nothing, false) if cursor(&before) != cursor(&after) => Err("the cursor moved".into()),
            (Worth::All, false) => Err("a whole page was not taken in".into()),
            _ => Ok(()),
        }
    }

    fn round(&mut self, round: u64) -> Outcome {
        let seed = self.seed;
        let shared = format!("shared{round}");
        self.peer.other(&format!("make-{round}"), &shared, "create", 1);
        self.sync(Directions::PullOnly)?;
        self.peer.other(&format!("change-{round}"), &shared, "update", 2);
        let changes = vec![
            Change::create("note", format!("a{round}")).set("n", "a text with ü and \" and \\"),
            Change::create("note", format!("b{round}")).set("n", i64::try_from(seed).unwrap()),
            Change::update("note", format!("nowhere{round}")).set("n", 1),
            Change::update("note", &*shared).set("n", 3),
        ];
        self.engine.enqueue_many_blocking(changes).unwrap();
        let mut last = None;
        for _ in 0..ANSWERS {
            let case = self.case(PUSHES);
            if case.worth(PUSHES) == Worth::Nothing {
                self.damaged_push(case).map_err(|what| format!("{}: {what}", case.describe(PUSHES)))?;
            } else {
                // Worth something: the tasks end with it, so it is shown when all others were.
                last = Some(case);
            }
        }
        for page in 0..PAGES {
            let case = self.case(PULLS);
            let what = self.damaged_pull(case, round * PAGES + page);
            what.map_err(|what| format!("page: {}: {what}", case.describe(PULLS)))?;
        }
        if let Some(case) = last {
            let case = Case { applied: true, ..case };
            self.damaged_push(case).map_err(|what| format!("{}: {what}", case.describe(PUSHES)))?;
            self.count("worth something", 1);
        }
        let (damaged, broken) = {
            let mut books = self.peer.books();
            (std::mem::take(&mut books.damaged), std::mem::take(&mut books.broken))
        };
        self.count("damaged answers", damaged);
        if broken.is_empty() { self.honest(round) } else { Err(broken.join("; ")) }
    }

    /// The peer is honest: everything ends as it should, and has one effect.
    fn honest(&mut self, round: u64) -> Outcome {
        for _ in 0..3 {
            self.sync(Directions::Both)?;
        }
        for task in self.queue() {
            let refused = task.entity.entity_id.starts_with("nowhere");
            if !refused || !matches!(task.state, TaskState::Dead { .. }) {
                return Err(format!("after honest answers {} is {:?}", task.entity, task.state));
            }
        }
        let books = self.peer.books();
        let mut tasks = BTreeSet::new();
        for effect in books.records.effects() {
            if !tasks.insert(&effect.task_id) {
                return Err(format!("task {} of {} took effect twice", effect.task_id, effect.entity_id));
            }
        }
        for id in [format!("a{round}"), format!("b{round}")] {
            let effects = books.records.effects().iter().filter(|effect| effect.entity_id == id).count();
            if effects != 1 {
                return Err(format!("{id} has {effects} effects"));
            }
        }
        Ok(())
    }
}

fn adapter(peer: &Peer) -> SyncEndpoint {
    let transport = UreqTransport::builder().without_proxy().build();
    SyncEndpoint::builder(peer.endpoint()).transport(transport).build().unwrap()
}

fn cursor(state: &Option<landfall_core::store::PullState>) -> Option<String> {
    state.as_ref().and_then(|state| state.cursor.clone()).map(|cursor| cursor.0)
}

/// A task that was not truly answered still waits, with the same bytes under the same key.
fn still_waits(before: &Task, now: &Task, worth: Worth) -> Outcome {
    match (&now.state, &before.state) {
        (TaskState::Pending { .. } | TaskState::Unknown { .. }, _) => {}
        // Refused in an earlier round.
        (TaskState::Dead { .. }, TaskState::Dead { .. }) => {}
        (TaskState::Dead { .. }, _)
            if worth != Worth::Nothing && now.entity.entity_id.starts_with("nowhere") => {}
        (state, _) => return Err(format!("{} is {state:?}", now.entity)),
    }
    let open = matches!(before.state, TaskState::Unknown { .. });
    let bytes = |task: &Task| task.frozen.as_ref().map(|frozen| (frozen.key, frozen.payload.clone()));
    if open && bytes(before) != bytes(now) {
        return Err(format!("the frozen bytes of {} changed", now.entity));
    }
    Ok(())
}

#[test]
fn whatever_is_left_of_an_answer_nothing_ends_that_was_not_answered() {
    let figures = Campaign::new("damaged-answers", STORES).run(|seed| {
        let mut life = Life::new(seed);
        for round in 0..ROUNDS {
            life.round(round).map_err(|what| format!("round {round}: {what}"))?;
        }
        Ok(std::mem::take(&mut life.figures))
    });
    if figures["seeds"] >= STORES {
        assert!(figures["damaged answers"] >= 5_000, "{figures:?}");
        assert!(figures["worth something"] >= 20, "the answers that end tasks were shown: {figures:?}");
    }
}

fn context() -> CallContext {
    CallContext {
        client_id: ClientId::parse("00000000-0000-0000-0000-000000000007").unwrap(),
        client_epoch: 1,
        server_id: None,
        timeout: Duration::from_secs(10),
        identity: None,
        permit: Permit::default(),
    }
}

fn wait_for<T>(call: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(call)
}

/// Which framings give a whole answer when nothing is cut: not those whose end is never seen.
fn cuts(length: u64) -> impl Iterator<Item = (Framing, Option<u64>)> {
    Framing::ALL
        .into_iter()
        .flat_map(move |framing| (0..length).map(Some).chain([None]).map(move |cut| (framing, cut)))
}

#[test]
fn a_ping_or_a_single_record_cut_at_any_byte_is_no_answer() {
    let begun = Instant::now();
    let peer = Peer::start("the-server");
    peer.other("k", "1", "create", 7);
    let adapter = adapter(&peer);
    let context = context();
    let (here, nowhere) = (EntityKey::new("note", "1"), EntityKey::new("note", "2"));
    for (number, (framing, cut)) in cuts(110).enumerate() {
        let case = Case { forgery: 0, framing, cut, applied: true };
        peer.plan(Plan { fetch: Some(case), ping: Some(case), ..Plan::default() });
        let what = case.describe(PULLS);
        let whole = case.worth(PULLS) == Worth::All;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let probed = wait_for(adapter.probe(&context, &Probe { nonce }));
        // The proof shows by itself that nothing is missing, wherever the answer ends.
        let proven = whole || (framing == Framing::Close && cut.is_none());
        assert_eq!(probed.is_ok(), proven, "{what}: {probed:?}");
        let found = wait_for(adapter.fetch(&context, &here));
        assert_eq!(found.is_ok(), whole, "{what}: {found:?}");
        assert!(found.is_err() || found.unwrap().is_some(), "{what}: it is not missing");
        let missing = wait_for(adapter.fetch(&context, &nowhere));
        let named = whole || (framing == Framing::Close && cut.is_none());
        assert_eq!(missing.is_ok(), named, "{what}: {missing:?}");
    }
    let damaged = peer.books().damaged;
    assert!(damaged > 2_500, "{damaged}");
    campaign::note("damaged-calls", begun.elapsed(), &Figures::from([("damaged answers", damaged)]));
}

/// Answers out of step by one, as on a connection whose answers were mixed up. A ping, a single record and a verdict
/// name what they answer. A page of the feed does not; an older one brings nothing that the next does not put right.
#[test]
fn an_answer_to_the_request_before_is_not_believed() {
    let peer = Peer::start("the-server");
    peer.other("k1", "1", "create", 1);
    peer.other("k2", "2", "create", 2);
    let (adapter, context) = (adapter(&peer), context());
    let out_of_step = Plan { behind: true, ..Plan::default() };
    peer.plan(out_of_step);
    let probe = |number| wait_for(adapter.probe(&context, &Probe { nonce: [number; 16] }));
    assert!(probe(1).is_ok(), "the first is answered in step");
    for number in 2..6 {
        assert!(probe(number).is_err(), "the answer to another ping is no proof");
    }
    let fetch = |id: &str| wait_for(adapter.fetch(&context, &EntityKey::new("note", id)));
    for id in ["1", "2", "1", "3", "2"] {
        assert!(!matches!(fetch(id), Ok(Some(_))), "another record was taken for {id}");
    }
    assert!(probe(7).is_err());

    let mut life = Life::new(u64::MAX);
    for round in 0..12 {
        life.peer.other(&format!("other-{round}"), &format!("o{round}"), "create", round);
        let changes =
            [format!("a{round}"), format!("b{round}")].map(|id| Change::create("note", id).set("n", 1));
        life.engine.enqueue_many_blocking(changes.to_vec()).unwrap();
        life.peer.plan(out_of_step);
        for _ in 0..4 {
            let before = life.queue();
            life.sync(Directions::Both).unwrap();
            let after: BTreeSet<TaskId> = life.queue().iter().map(|task| task.id).collect();
            for task in before.iter().filter(|task| !after.contains(&task.id)) {
                life.truly_ended(task).unwrap();
            }
            for task in life.queue() {
                assert!(!matches!(task.state, TaskState::Dead { .. } | TaskState::Conflict), "{task:?}");
            }
        }
        life.peer.plan(Plan::default());
        life.honest(round).unwrap();
        let books = life.peer.books();
        assert_eq!(books.broken, Vec::<String>::new());
        for (kind, id, stored) in books.records.all_records() {
            let known = life.engine.get(&EntityKey::new(kind, id)).unwrap().and_then(|entity| entity.base);
            let version = known.and_then(|base| base.version).map(|version| version.0);
            assert_eq!(version, Some(stored.version.to_string()), "round {round}: {id}");
        }
    }
}
