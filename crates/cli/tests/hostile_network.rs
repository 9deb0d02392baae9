//! Hostile networks: replies that break the rules of HTTP, each by its name, and whole lives of an engine behind a proxy
//! whose faults the seed draws. Nothing is acknowledged that has no effect, no call outlasts its time, and when the
//! network is honest again everything has happened once.

#![allow(clippy::unwrap_used, reason = "test helpers are outside #[test]")]

#[path = "support/replay.rs"]
mod replay;

use landfall_adapters::SyncEndpoint;
use landfall_adapters::http::UreqTransport;
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::id::EntityKey;
use landfall_core::machine::{Directions, SessionEnd};
use landfall_core::task::{Task, TaskState, Verdict};
use landfall_engine::Engine;
use landfall_sqlite::SqliteStore;
use landfall_testkit::campaign::{Campaign, Figures};
use landfall_testkit::proxy::{Ending, Fault, FaultPlan, FaultProxy, Odd};
use replay::{Dice, Forward, Peer};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Lives in each run.
const LIVES: u64 = 100;
/// Sessions of a life on the hostile network.
const SESSIONS: u64 = 8;
/// How long one call may take.
const CALL: Duration = Duration::from_millis(600);
/// Longer than any backoff, and than any `Retry-After` that is believed.
const LATER: i64 = 70 * 60 * 1000;

struct Life {
    engine: Engine,
    proxy: FaultProxy,
    peer: Peer,
    by: Arc<AtomicI64>,
    folder: PathBuf,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.engine.close();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

type Outcome = Result<(), String>;

impl Life {
    fn new(name: &str, seed: u64, call: Duration) -> Self {
        let folder = std::env::temp_dir().join(format!("landfall-hostile-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let peer = Peer::start("the-server");
        let proxy = FaultProxy::start(peer.addr, FaultPlan::healthy(), seed).unwrap();
        let transport = UreqTransport::builder().without_proxy().build();
        let endpoint = format!("http://{}/sync", proxy.addr());
        let adapter = SyncEndpoint::builder(endpoint).transport(transport).build().unwrap();
        let mut config = Config::default();
        config.push.call_timeout = call;
        config.pull.call_timeout = call;
        config.retry.probe_timeout = call;
        let by = Arc::new(AtomicI64::new(0));
        let engine = Engine::builder(SqliteStore::open(folder.join("q.db")).unwrap(), adapter)
            .config(config)
            .clock(Forward::new(&by))
            .build_blocking()
            .unwrap();
        Self { engine, proxy, peer, by, folder }
    }

    fn enqueue(&self, ids: &[String]) {
        let changes = ids.iter().map(|id| Change::create("note", id.as_str()).set("n", 1)).collect();
        self.engine.enqueue_many_blocking(changes).unwrap();
    }

    fn queue(&self) -> Vec<Task> {
        self.engine.tasks(0, 1000).unwrap().tasks
    }

    /// One session: what is gone from the queue afterwards has its effect, and nothing was given up.
    fn session(&self, directions: Directions) -> Outcome {
        let before = self.queue();
        self.by.fetch_add(LATER, Ordering::Relaxed);
        let begun = Instant::now();
        let report = self.engine.sync_with_blocking(SessionEnd::OnePass, directions);
        let took = begun.elapsed();
        report.map_err(|error| format!("the session itself failed: {error}"))?;
        if took > Duration::from_secs(20) {
            return Err(format!("a session took {took:?}"));
        }
        let left = self.queue();
        if let Some(task) =
            left.iter().find(|task| matches!(task.state, TaskState::Dead { .. } | TaskState::Conflict))
        {
            return Err(format!("{} was given up: {:?}", task.entity, task.state));
        }
        let waiting: BTreeSet<_> = left.iter().map(|task| task.id).collect();
        for task in before.iter().filter(|task| !waiting.contains(&task.id)) {
            let entry = self.engine.journal(task.id).unwrap().ok_or("a task is neither queued nor ended")?;
            let id = task.id.to_string();
            let took = self.peer.books().records.effects().iter().any(|effect| effect.task_id == id);
            if !took || !matches!(entry.verdict, Verdict::Applied | Verdict::Duplicate) {
                return Err(format!("{} ended as {:?}; effect: {took}", task.entity, entry.verdict));
            }
        }
        Ok(())
    }

    /// The network is honest: the queue runs empty, each record was written once, and is known here as it is there.
    fn honest(&self, ids: &[String]) -> Outcome {
        self.proxy.set_plan(FaultPlan::healthy());
        for _ in 0..3 {
            self.session(Directions::Both)?;
        }
        if !self.proxy.flush_late(Duration::from_secs(5)) {
            return Err("late copies did not end".into());
        }
        self.session(Directions::Both)?;
        if let Some(task) = self.queue().first() {
            return Err(format!("{} is still {:?}", task.entity, task.state));
        }
        let books = self.peer.books();
        if !books.broken.is_empty() {
            return Err(books.broken.join("; "));
        }
        for id in ids {
            let effects = books.records.effects().iter().filter(|effect| effect.entity_id == *id).count();
            let known = self.engine.get(&EntityKey::new("note", id.as_str())).unwrap();
            let version = known.and_then(|known| known.base?.version).map(|version| version.0);
            let stored = books.records.stored("note", id).map(|stored| stored.version.to_string());
            if effects != 1 || version != stored {
                return Err(format!("{id}: {effects} effects; version {version:?} here, {stored:?} there"));
            }
        }
        Ok(())
    }
}

fn ids(name: &str, count: u64) -> Vec<String> {
    (0..count).map(|number| format!("{name}{number}")).collect()
}

/// What a reply may be taken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum May {
    /// Nothing: where it ends, or what it is, is not certain.
    BeNothing,
    /// What it says is true, so it may be believed or not.
    BeBelieved,
}

#[track_caller]
fn odd_reply(how: Odd, may: May) {
    let life = Life::new(&format!("{how:?}"), 1, Duration::from_secs(10));
    life.enqueue(&ids("a", 3));
    life.proxy.set_plan(Fault::OddReply { how }.into());
    for directions in [Directions::PushOnly, Directions::PullOnly] {
        let begun = Instant::now();
        life.session(directions).unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(15),
            "{how:?}: {directions:?} took {:?}",
            begun.elapsed()
        );
    }
    let (waiting, cursor) = (life.queue().len(), life.engine.pull_state().unwrap().and_then(|it| it.cursor));
    if may == May::BeNothing {
        assert_eq!((waiting, cursor), (3, None), "{how:?} was believed");
    }
    assert_eq!(life.peer.books().records.effects().len(), 3, "it took effect all the same");
    life.honest(&ids("a", 3)).unwrap();
}

macro_rules! odd_replies {
    ($($name:ident: $how:ident $may:ident,)*) => {
        $(#[test] fn $name() { odd_reply(Odd::$how, May::$may); })*

        #[test]
        fn every_odd_reply_has_its_test() {
            assert_eq!([$(Odd::$how),*].into_iter().collect::<std::collections::HashSet<_>>(), Odd::ALL.into());
        }
    };
}

odd_replies! {
    two_lengths: TwoLengths BeNothing,
    a_length_and_chunks: LengthAndChunks BeBelieved,
    a_negative_length: NegativeLength BeNothing,
    a_length_of_thirty_digits: HugeLength BeNothing,
    a_chunk_beyond_64_bits: HugeChunk BeNothing,
    a_chunk_without_a_size: UnreadableChunk BeNothing,
    ten_thousand_headers: ManyHeaders BeNothing,
    a_header_of_a_mebibyte: LongHeader BeNothing,
    a_nul_in_a_header: NulInHeader BeNothing,
    a_return_in_a_header: ReturnInHeader BeNothing,
    a_folded_header: FoldedHeader BeNothing,
    a_header_without_a_colon: NoColon BeNothing,
    a_flood_of_interim_replies: InterimFlood BeBelieved,
    ten_thousand_trailers: ManyTrailers BeBelieved,
    a_status_of_five_digits: WrongStatus BeNothing,
    a_version_that_does_not_exist: WrongVersion BeNothing,
    a_redirect_to_itself: RedirectToItself BeNothing,
    a_reply_behind_the_reply: ReplyBehind BeBelieved,
    a_reply_that_drips: Drip BeBelieved,
}

/// What the seed draws from: every fault but the one that takes seconds, and every odd reply.
fn faults() -> Vec<Fault> {
    let mut all: Vec<Fault> =
        Fault::samples().into_iter().filter(|fault| !matches!(fault, Fault::HugeBody { .. })).collect();
    all.extend(Odd::ALL.map(|how| Fault::OddReply { how }));
    all.push(Fault::StallMidReply { ms: 2_000 });
    all.push(Fault::CutReply { at: landfall_testkit::proxy::Cut::At(0), end: Ending::Reset });
    all
}

fn live(seed: u64) -> Result<Figures, String> {
    let mut rng = Dice(seed);
    let life = Life::new(&seed.to_string(), seed, CALL);
    let all = faults();
    let mut enqueued = Vec::new();
    for session in 0..SESSIONS {
        let more = ids(&format!("s{session}-"), 1 + rng.below(4));
        life.enqueue(&more);
        enqueued.extend(more);
        if rng.below(3) == 0 {
            let other = format!("other{session}");
            life.peer.other(&other, &other, "create", session);
        }
        let drawn: Vec<(u32, Fault)> =
            (0..1 + rng.below(5)).map(|_| (1, all[rng.below(all.len() as u64) as usize])).collect();
        let what = format!("session {session}, {drawn:?}");
        let healthy = u32::try_from(rng.below(3)).unwrap();
        life.proxy.set_plan(FaultPlan::weighted(healthy, drawn));
        if rng.below(10) == 0 {
            life.proxy.set_offline(true).map_err(|error| error.to_string())?;
        }
        life.session(Directions::Both).map_err(|problem| format!("{what}: {problem}"))?;
        life.proxy.set_offline(false).map_err(|error| error.to_string())?;
    }
    let stats = life.proxy.stats();
    life.honest(&enqueued).map_err(|problem| format!("honest again: {problem}"))?;
    let faulted: u64 = stats.faults.values().sum();
    Ok(Figures::from([
        ("network faults", faulted),
        ("requests", stats.requests),
        ("changes", enqueued.len() as u64),
    ]))
}

#[test]
fn a_life_on_a_hostile_network_ends_with_one_effect_of_each_change() {
    let figures = Campaign::new("hostile-network", LIVES).run(live);
    if figures["seeds"] >= LIVES {
        assert!(figures["network faults"] > 10 * LIVES, "{figures:?}");
    }
}
