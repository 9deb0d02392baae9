//! Files with everything in them, damaged in every way by seeds, and what the rescue makes of them.
//!
//! The truth is known: what is in the file, every version that a task ever had, what was acknowledged, and on which bytes
//! each row lies. `LANDFALL_SEEDS` says how many files are damaged, `LANDFALL_SEED` which one.

use super::pages::{BTree, Copy};
use super::rows::Kind;
use super::*;
use crate::codec::Table;
use crate::open::Options;
use landfall_core::change::{Intent, Operation};
use landfall_core::entity::{Base, Body, StoredEntity};
use landfall_core::failure::FailureKind;
use landfall_core::id::{ClientId, EntityKey, Entropy, Fence, Fingerprint, IdempotencyKey, ServerId, TaskId};
use landfall_core::store::{PullState, Replica, Store as _, StoreTx};
use landfall_core::task::{
    Frozen, History, JournalEntry, Standing, StateKind, Task, TaskState, Terms, Verdict,
};
use landfall_core::time::{Hlc, Timestamp};
use landfall_core::value::Fields;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use uuid::Uuid;

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("landfall-rescue-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A small generator: the same numbers for the same seed, for ever.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

const CLIENT: ClientId = ClientId(Uuid::from_u128(7));
const OWNERS: [Option<&str>; 2] = [None, Some("anna")];

type Name = (Option<String>, TaskId);

/// What there is to know of a file.
#[derive(Default)]
struct Truth {
    queued: BTreeMap<Name, Task>,
    /// Every version that was ever committed.
    versions: BTreeMap<Name, Vec<Task>>,
    ended: BTreeMap<Name, JournalEntry>,
    entities: BTreeMap<(Option<String>, EntityKey), StoredEntity>,
}

fn key(number: u64) -> EntityKey {
    EntityKey::new(if number % 3 == 0 { "note" } else { "task" }, format!("id-{number}"))
}

fn text(number: u64) -> String {
    let length = match number % 29 {
        3 => 21_000,
        7 => 5_000,
        11 => 1_900,
        _ => number as usize % 400,
    };
    format!("text {number} ").chars().cycle().take(length.max(9)).collect()
}

fn task(seq: u64, number: u64) -> Task {
    let entity = key(number);
    let mut intent = Intent::new(Operation::Update);
    intent.set("text", text(number));
    intent.set("number", number as i64);
    let mut terms = Terms::default();
    if number % 13 == 0 {
        terms.tags.insert(format!("tag-{number}"));
    }
    Task {
        id: TaskId::derive(CLIENT, &entity, 1),
        seq,
        entity,
        generation: 1,
        intent,
        schema: 1,
        lane: (number % 10 == 0).then(|| format!("lane-{}", number % 40)),
        priority: (number % 5) as i32,
        not_before: None,
        changed_at: Hlc { wall_ms: 1_000 + number as i64, counter: 0 },
        enqueued_at: Timestamp(1_000 + number as i64),
        state: TaskState::Pending { retry_at: None },
        frozen: None,
        claim_at: Some(Timestamp::ALWAYS),
        attempts: 0,
        conflict_rounds: 0,
        history: History::default(),
        terms,
        standing: Standing::default(),
    }
}

fn replica() -> Replica {
    Replica {
        client_id: CLIENT,
        client_epoch: 5,
        opens: 3,
        server_id: Some(ServerId::from("server")),
        clock: Hlc { wall_ms: 99_999, counter: 0 },
        server_offset_ms: None,
        calm: None,
        doubted_at: None,
    }
}

fn frozen(task: &Task, sends: u32) -> Frozen {
    let entropy = Entropy([task.seq as u8; 32]);
    let payload = task.intent.fields.to_json();
    Frozen {
        key: IdempotencyKey(entropy.derive("key", task.id.0.as_bytes())),
        fingerprint: Fingerprint::of(payload.as_bytes()),
        payload: payload.into(),
        base_version: None,
        sends,
        open_sends: 0,
    }
}

impl Truth {
    fn put(&mut self, tx: &mut dyn StoreTx, of: Option<&str>, task: &Task) {
        tx.put_task(task).unwrap();
        let name = (of.map(str::to_owned), task.id);
        self.versions.entry(name.clone()).or_default().push(task.clone());
        self.queued.insert(name, task.clone());
    }

    fn settle(&mut self, tx: &mut dyn StoreTx, of: Option<&str>, task: &Task) {
        let entry = JournalEntry {
            task_id: task.id,
            entity: task.entity.clone(),
            generation: task.generation,
            verdict: Verdict::Applied,
            version: Some("7".into()),
            at: Timestamp(task.enqueued_at.0 + 9),
            payload: task.frozen.as_ref().map_or("{}".into(), |frozen| frozen.payload.clone()),
            became: None,
        };
        tx.settle_task(task, &entry).unwrap();
        let name = (of.map(str::to_owned), task.id);
        self.queued.remove(&name);
        self.ended.insert(name, entry);
    }
}

/// How far `task` goes in its life: from never touched to acknowledged.
fn live(truth: &mut Truth, tx: &mut dyn StoreTx, of: Option<&str>, number: u64) {
    let name = (of.map(str::to_owned), TaskId::derive(CLIENT, &key(number), 1));
    let Some(mut task) = truth.queued.get(&name).cloned() else { return };
    let sent = !matches!(number % 9, 0..=3);
    if number % 4 == 1 && !sent {
        // Coalesced: the row grows and moves.
        task.intent.set("more", text(number + 1));
        truth.put(tx, of, &task);
    }
    if sent {
        task.frozen = Some(frozen(&task, 1));
        task.state = TaskState::InFlight { fence: Fence(3) };
        task.claim_at = None;
        task.attempts = 1;
        truth.put(tx, of, &task);
    }
    match number % 9 {
        4 => {
            task.frozen.as_mut().unwrap().open_sends = 1;
            task.state = TaskState::Unknown { retry_at: Timestamp(99) };
            task.claim_at = task.due();
        }
        5 => task.state = TaskState::Dead { why: FailureKind::Rejected },
        6 | 7 => return truth.settle(tx, of, &task),
        _ => return,
    }
    truth.put(tx, of, &task);
}

/// Makes a file with `tasks` tasks of each owner at `path`, with part of it in its log, and copies it as a killed process
/// leaves it.
fn sample(path: &Path, tasks: u64) -> Truth {
    let mut truth = Truth::default();
    let living = file::beside(path, ".living");
    let mut store = Options::default().open(&living).unwrap();
    for of in OWNERS {
        store.switch_identity(of).unwrap();
        let mut tx = store.begin().unwrap();
        tx.put_replica(&replica()).unwrap();
        let state = PullState { cursor: Some("7".into()), reading: 1, ..PullState::default() };
        tx.put_pull_state(&state).unwrap();
        tx.commit().unwrap();
    }
    // Twice around: later work lies over the traces of earlier work.
    for round in 0..4 {
        for of in OWNERS {
            store.switch_identity(of).unwrap();
            for part in (tasks * round / 4..tasks * (round + 1) / 4).collect::<Vec<_>>().chunks(200) {
                let mut tx = store.begin().unwrap();
                for number in part {
                    let seq = tx.next_seq().unwrap();
                    truth.put(&mut *tx, of, &task(seq, *number));
                    let body = Body::Live(Fields::from([("text", text(*number / 2))]));
                    let base = Base { body: body.clone(), version: Some("1".into()), complete: true };
                    let mut entity = StoredEntity::unknown(key(*number));
                    (entity.generation, entity.base, entity.local) = (1, Some(base), Some(body));
                    tx.put_entity(&entity).unwrap();
                    truth.entities.insert((of.map(str::to_owned), entity.key.clone()), entity);
                }
                tx.commit().unwrap();
                let mut tx = store.begin().unwrap();
                for number in part.iter().filter(|number| round < 3 || *number % 2 == 0) {
                    live(&mut truth, &mut *tx, of, *number);
                }
                tx.commit().unwrap();
            }
        }
        if round < 3 {
            store.idle().unwrap();
        }
    }
    for ending in COMPANIONS {
        if file::beside(&living, ending).exists() {
            fs::copy(file::beside(&living, ending), file::beside(path, ending)).unwrap();
        }
    }
    truth
}

fn copy(from: &Path, to: &Path) {
    for ending in COMPANIONS {
        let _ = fs::remove_file(file::beside(to, ending));
        if file::beside(from, ending).exists() {
            fs::copy(file::beside(from, ending), file::beside(to, ending)).unwrap();
        }
    }
}

/// Every task that a store at `path` hands out.
fn read(path: &Path) -> Result<BTreeMap<Name, Task>, StoreError> {
    let mut store = Options::default().open(path)?;
    let mut tasks = BTreeMap::new();
    for (of, _) in store.identities()? {
        store.switch_identity(of.as_deref())?;
        let tx = store.begin()?;
        let page = tx.tasks_after(0, usize::MAX)?;
        let counts = tx.counts()?;
        // SQLite may pass over a broken page without a word; the counters tell.
        if counts.total() != (page.tasks.len() + page.damaged.len()) as u64 {
            return Err(StoreError::Corrupt("the counters do not agree with the rows".to_string()));
        }
        tasks.extend(page.tasks.into_iter().map(|task| ((of.clone(), task.id), task)));
    }
    Ok(tasks)
}

/// Whether a store at `path` knows how a task ended.
fn has_ended(path: &Path, (of, id): &Name) -> bool {
    let mut store = Options::default().open(path).unwrap();
    store.switch_identity(of.as_deref()).unwrap();
    let tx = store.begin().unwrap();
    tx.journal(*id).unwrap().is_some()
}

/// What a rescue leaves as it was: all but the state of what was under way.
fn same(salvaged: &Task, version: &Task) -> bool {
    let mut salvaged = salvaged.clone();
    if salvaged.state.kind() == StateKind::Unknown && version.frozen.is_some() {
        salvaged.state = version.state;
    }
    salvaged.claim_at = version.claim_at;
    salvaged == *version
}

/// The bytes on which each task's newest row lies: in the log or not, from, to.
fn bytes_of_tasks(path: &Path) -> BTreeMap<i64, Vec<(bool, u64, u64)>> {
    let image = image_of(path).unwrap();
    let (roots, whole) = salvage::roots_in(&image);
    assert!(whole);
    let mut bytes = BTreeMap::new();
    for number in image.tree(roots["landfall_tasks"]).leaves {
        let page = image.page(number, Copy::Newest).unwrap();
        for at in BTree::of(&page, number).unwrap().cells(&page).unwrap() {
            let row = image.row(&page, at, Copy::Newest).unwrap();
            let (log, from) = image.place_of(number);
            let content = from + if log { 24 } else { 0 };
            let mut places = vec![(log, content + row.at as u64, content + row.end as u64)];
            if log {
                places.push((true, from, from + 24));
            }
            for rest in image.rest_of(&page, &row) {
                let (log, from) = image.place_of(rest);
                places.push((log, from, from + image.page_bytes() as u64 + if log { 24 } else { 0 }));
            }
            bytes.insert(row.id, places);
        }
    }
    bytes
}

/// What is done to a file: damaged bytes of the database, of the log, and whether the log ends early.
struct Damage {
    what: String,
    places: Vec<(bool, u64, u64)>,
    log_cut: bool,
}

fn damage(path: &Path, seed: u64) -> Damage {
    let mut random = Random::new(seed);
    let log_path = file::beside(path, "-wal");
    let (mut main, mut log) = (fs::read(path).unwrap(), fs::read(&log_path).unwrap());
    let (mut places, mut log_cut) = (Vec::new(), false);
    let page = 4_096;
    let mut spoil =
        |bytes: &mut Vec<u8>, of_log: bool, from: usize, to: usize, with: &mut dyn FnMut() -> u8| {
            for byte in &mut bytes[from..to] {
                *byte = with();
            }
            places.push((of_log, from as u64, to as u64));
        };
    let what = match seed % 10 {
        0..=2 => {
            let flips = 1 + random.below(200);
            for _ in 0..flips {
                let (bytes, of_log) =
                    if random.below(3) == 0 { (&mut log, true) } else { (&mut main, false) };
                let at = random.below(bytes.len());
                let old = bytes[at];
                let bit = 1 << random.below(8);
                spoil(bytes, of_log, at, at + 1, &mut || old ^ bit);
            }
            format!("{flips} flipped bits")
        }
        3 => {
            let length = random.below(main.len());
            places.push((false, length as u64, u64::MAX));
            main.truncate(length);
            format!("the file cut at {length}")
        }
        4 => {
            let (from, to) = (main.len() - page + random.below(page), main.len());
            spoil(&mut main, false, from, to, &mut || 0);
            format!("the last page torn at {from}")
        }
        5 => {
            spoil(&mut main, false, 0, 100, &mut || random.next() as u8);
            "the head overwritten".to_owned()
        }
        6 => {
            spoil(&mut main, false, 0, page, &mut || random.next() as u8);
            "the list of tables overwritten".to_owned()
        }
        7 => {
            let length = random.below(log.len());
            places.push((true, length as u64, u64::MAX));
            log.truncate(length);
            log_cut = true;
            format!("the log cut at {length}")
        }
        8 => {
            let pages = 1 + random.below(9);
            for _ in 0..pages {
                let from = random.below(main.len() / page) * page;
                spoil(&mut main, false, from, from + page, &mut || random.next() as u8);
            }
            format!("{pages} pages overwritten")
        }
        _ => {
            let frames = 1 + random.below(9);
            for _ in 0..frames {
                let from = 32 + random.below((log.len() - 32) / (page + 24)) * (page + 24);
                spoil(&mut log, true, from, from + page + 24, &mut || 0);
            }
            format!("{frames} frames of the log zeroed")
        }
    };
    fs::write(path, main).unwrap();
    fs::write(log_path, log).unwrap();
    Damage { what, places, log_cut }
}

fn touches(damage: &Damage, places: &[(bool, u64, u64)]) -> bool {
    places.iter().any(|(log, from, to)| {
        damage.places.iter().any(|(of_log, first, last)| log == of_log && first < to && from < last)
    })
}

/// The lines of a rescue file by owner and task, and whether each is queued.
fn rescue_lines(path: &Path) -> BTreeMap<Name, (serde_json::Value, bool)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = TaskId::parse(line["task_id"].as_str().unwrap()).unwrap();
        let queued = line.get("not_queued").is_none();
        let name = line["identity"].as_str().or(line.get("lost_identity").map(|_| "anna"));
        ((name.map(str::to_owned), id), (line, queued))
    });
    lines.collect()
}

#[derive(Debug, Default)]
struct Tally {
    files: u64,
    opened: u64,
    queued: u64,
    in_file_only: u64,
    touched: u64,
    touched_and_salvaged: u64,
}

fn check_one(
    truth: &Truth,
    whole: &Path,
    bytes: &BTreeMap<i64, Vec<(bool, u64, u64)>>,
    seed: u64,
    tally: &mut Tally,
) {
    let folder = Folder::new();
    let path = folder.file("x.db");
    copy(whole, &path);
    let damage = damage(&path, seed);
    let at = format!("seed {seed}, {}", damage.what);
    tally.files += 1;
    // Opening it tells the truth or nothing.
    let looked = folder.file("looked.db");
    copy(&path, &looked);
    if let Ok(tasks) = read(&looked) {
        tally.opened += 1;
        for (name, task) in tasks {
            assert!(truth.versions[&name].contains(&task), "{at}: {name:?} was made up at opening");
        }
    }
    let report = SqliteStore::rescue(&path).unwrap_or_else(|error| panic!("{at}: {error}"));
    let salvaged = read(&path).unwrap_or_else(|error| panic!("{at}: {error}"));
    let lines = rescue_lines(&report.rescue_file);
    assert_eq!(salvaged.len() as u64, report.tasks, "{at}");
    assert_eq!(
        (lines.len() as u64, report.not_queued),
        (report.tasks + report.not_queued, lines.values().filter(|(_, queued)| !queued).count() as u64),
        "{at}"
    );
    for (name, task) in &salvaged {
        let versions = truth.versions.get(name).unwrap_or_else(|| panic!("{at}: {name:?} was made up"));
        assert!(versions.iter().any(|version| same(task, version)), "{at}: {name:?} never was {task:?}");
        assert_ne!(task.state.kind(), StateKind::InFlight, "{at}");
        if task.state.kind() == StateKind::Pending && task.terms.waits_for.is_empty() && task.lane.is_none() {
            assert!(task.claim_at.is_some(), "{at}: {name:?} would wait for ever");
        }
        let Some(now) = truth.queued.get(name) else {
            // It was acknowledged: it may only come back under its own key, and only when its end is not known.
            let of_unknown_fate = task.state.kind() == StateKind::Unknown && task.frozen.is_some();
            assert!(!has_ended(&path, name), "{at}: {name:?} has come back, and its end is known");
            assert!(damage.log_cut || of_unknown_fate, "{at}: {name:?} has come back");
            continue;
        };
        if !damage.log_cut {
            let old = !same(task, now);
            assert!(
                !old || task.state.kind() == StateKind::Unknown,
                "{at}: {name:?} is out of date: {task:?}, not {now:?}"
            );
            if let (Some(a), Some(b)) = (&task.frozen, &now.frozen) {
                assert_eq!((&a.key, &a.payload), (&b.key, &b.payload), "{at}");
            } else {
                assert_eq!(task.frozen.is_some(), now.frozen.is_some(), "{at}: {name:?}");
            }
        }
        assert!(lines[name].1, "{at}: {name:?}");
    }
    let mut gone = 0;
    for (name, task) in &truth.queued {
        let touched = touches(&damage, &bytes[&(task.seq as i64)]);
        let there = salvaged.contains_key(name);
        let in_file = lines.contains_key(name);
        tally.queued += u64::from(there);
        tally.in_file_only += u64::from(in_file && !there);
        tally.touched += u64::from(touched);
        tally.touched_and_salvaged += u64::from(touched && in_file);
        gone += u64::from(!in_file);
        assert!(
            touched || in_file,
            "{at}: {name:?} at {} was not touched and is not salvaged; it lay at {:?}\n{report}",
            task.seq,
            bytes[&(task.seq as i64)],
        );
    }
    if !damage.log_cut {
        match report.missing {
            Missing::Exactly(told) => assert_eq!(told, gone, "{at}: {report}"),
            Missing::AtLeast(told) => assert!(told <= gone, "{at}: {told} of {gone}"),
        }
    }
    assert!(report.kept.exists() && !is_interrupted(&path), "{at}");
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("LANDFALL_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("LANDFALL_SEEDS").unwrap_or(if is_nightly() { 1_000 } else { 30 })).collect(),
    }
}

fn is_nightly() -> bool {
    std::env::var("LANDFALL_TIER").is_ok_and(|tier| tier == "nightly")
}

#[test]
fn what_the_damage_did_not_touch_is_salvaged_and_nothing_else_is_believed() {
    let folder = Folder::new();
    let whole = folder.file("whole.db");
    let truth = sample(&whole, 500);
    let bytes = bytes_of_tasks(&whole);
    assert!(truth.queued.iter().all(|(_, task)| bytes.contains_key(&(task.seq as i64))));
    let mut tally = Tally::default();
    for seed in seeds() {
        check_one(&truth, &whole, &bytes, seed, &mut tally);
    }
    eprintln!("{tally:?}");
}

/// The file holds tasks that were not sent; that they were is in the log alone. Whatever part of the log is lost, none of
/// them may be sent under a second key.
#[test]
fn a_lost_part_of_the_log_lets_no_task_be_sent_twice() {
    let folder = Folder::new();
    let whole = folder.file("whole.db");
    let mut store = Options::default().open(folder.file("living.db")).unwrap();
    let mut truth = Truth::default();
    let mut tx = store.begin().unwrap();
    tx.put_replica(&replica()).unwrap();
    for number in 0..3 {
        truth.put(&mut *tx, None, &task(number + 1, number + 40));
    }
    tx.commit().unwrap();
    store.idle().unwrap();
    let mut tx = store.begin().unwrap();
    for mut task in truth.queued.clone().into_values() {
        task.frozen = Some(frozen(&task, 1));
        task.state = TaskState::InFlight { fence: Fence(3) };
        task.claim_at = None;
        truth.put(&mut *tx, None, &task);
    }
    tx.commit().unwrap();
    copy(&folder.file("living.db"), &whole);
    let log = fs::read(file::beside(&whole, "-wal")).unwrap();
    let of_file = Random::new(5);
    let frames = (log.len() - 32) / 4_120;
    for frame in 0..frames.min(20) {
        for (from, to) in [(0, 24), (0, 4_120)] {
            for with_shared in [true, false] {
                for zeros in [true, false] {
                    let path = folder.file("x.db");
                    copy(&whole, &path);
                    let mut bytes = log.clone();
                    let mut random = Random(of_file.0);
                    for byte in &mut bytes[32 + frame * 4_120 + from..32 + frame * 4_120 + to] {
                        *byte = if zeros { 0 } else { random.next() as u8 };
                    }
                    fs::write(file::beside(&path, "-wal"), &bytes).unwrap();
                    if !with_shared {
                        fs::remove_file(file::beside(&path, "-shm")).unwrap();
                    }
                    let report = SqliteStore::rescue(&path).unwrap();
                    for task in read(&path).unwrap().into_values() {
                        assert_eq!(
                            task.state.kind(),
                            StateKind::Unknown,
                            "frame {frame} of {frames}, {from} to {to}, {with_shared} {zeros}: {report}"
                        );
                    }
                    fs::remove_file(&report.kept).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_whole_file_comes_out_as_it_was() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let truth = sample(&path, 300);
    let report = SqliteStore::rescue(&path).unwrap();
    assert_eq!(
        (report.missing, report.lost.len(), report.not_queued, report.pages_unreadable),
        (Missing::Exactly(0), 0, 0, 0),
        "{report}"
    );
    assert!(report.client_kept && !report.log_is_torn);
    let tasks = read(&path).unwrap();
    assert_eq!(tasks.len(), truth.queued.len());
    for (name, task) in &truth.queued {
        assert!(same(&tasks[name], task), "{:?} {task:?}", tasks[name]);
    }
    let mut store = Options::default().open(&path).unwrap();
    for of in OWNERS {
        store.switch_identity(of).unwrap();
        let tx = store.begin().unwrap();
        let replica = tx.replica().unwrap().unwrap();
        assert!(replica.client_id == CLIENT && replica.client_epoch > 5);
        assert_eq!(tx.pull_state().unwrap().unwrap().cursor, Some("7".into()));
        for ((_, key), entity) in truth.entities.iter().filter(|((owner, _), _)| owner.as_deref() == of) {
            assert_eq!(tx.entity(key).unwrap().as_ref(), Some(entity));
        }
        for ((_, id), entry) in truth.ended.iter().filter(|((owner, _), _)| owner.as_deref() == of) {
            assert_eq!(tx.journal(*id).unwrap().as_ref(), Some(entry));
        }
    }
}

/// Which columns a checksum covers is written in two places: where rows are written, and here.
#[test]
fn every_table_of_ours_is_known_here() {
    let connection = crate::migrate::tests::store_in_memory();
    let kinds = Kind::all(&connection).unwrap();
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut statement = connection.prepare(sql).unwrap();
    let tables: BTreeSet<String> =
        statement.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut known: BTreeSet<String> = kinds.iter().map(|kind| kind.name.to_owned()).collect();
    // It is made anew from the tasks.
    known.insert("landfall_waits".to_owned());
    assert_eq!(tables, known);
    assert!(kinds.iter().any(|kind| kind.table == Table::Task));
}

#[test]
fn a_file_in_use_and_one_that_is_not_ours_stay_where_they_are() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let store = Options::default().open(&path).unwrap();
    assert!(matches!(SqliteStore::rescue(&path), Err(StoreError::Busy(_))));
    drop(store);
    let foreign = folder.file("foreign.db");
    let raw = rusqlite::Connection::open(&foreign).unwrap();
    raw.execute_batch("CREATE TABLE a (n); INSERT INTO a VALUES (7)").unwrap();
    drop(raw);
    let rubbish = folder.file("rubbish.db");
    fs::write(&rubbish, vec![0x5a; 50_000]).unwrap();
    for path in [&foreign, &rubbish] {
        let before = fs::read(path).unwrap();
        assert!(matches!(SqliteStore::rescue(path), Err(StoreError::Foreign(_))));
        assert_eq!(fs::read(path).unwrap(), before);
        let opened = Options::default().on_corrupt(OnCorrupt::Rescue).open(path);
        assert!(matches!(opened, Err(StoreError::Foreign(_))));
        assert_eq!(fs::read(path).unwrap(), before);
    }
}

/// Another process holds the file: it must not be pulled away from under it.
#[test]
fn a_file_that_another_process_uses_stays_where_it_is() {
    const CHILD: &str = "LANDFALL_RESCUE_TEST_CHILD";
    if let Ok(path) = std::env::var(CHILD) {
        let _store = Options::default().open(path).unwrap();
        println!("opened");
        std::thread::sleep(std::time::Duration::from_secs(60));
        return;
    }
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    let folder = Folder::new();
    let path = folder.file("x.db");
    let name = "rescue::tests::a_file_that_another_process_uses_stays_where_it_is";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--quiet"])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("opened")));
    // Also when its head is broken, so that SQLite does not get as far as its locks.
    let refused = SqliteStore::rescue(&path);
    let whole = fs::read(&path).unwrap();
    let mut broken = whole.clone();
    broken[..100].fill(0x77);
    fs::write(&path, &broken).unwrap();
    let refused_too = SqliteStore::rescue(&path);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(refused, Err(StoreError::Busy(_))), "{refused:?}");
    if cfg!(target_os = "linux") {
        assert!(matches!(refused_too, Err(StoreError::Busy(_))), "{refused_too:?}");
        assert_eq!(fs::read(&path).unwrap(), broken);
        SqliteStore::rescue(&path).unwrap();
    }
}

#[test]
fn opening_rescues_only_when_it_is_told_to() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let truth = sample(&path, 100);
    let mut bytes = fs::read(&path).unwrap();
    bytes[..100].fill(0x77);
    fs::write(&path, &bytes).unwrap();
    let refused = Options::default().open(&path);
    assert!(refused.is_err());
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let store = Options::default().on_corrupt(OnCorrupt::Rescue).open(&path).unwrap();
    let report = store.rescued().unwrap();
    assert_eq!(report.tasks as usize, truth.queued.len(), "{report}");
    assert_eq!(fs::read(&report.kept).unwrap(), bytes);
    drop(store);
    assert!(Options::default().on_corrupt(OnCorrupt::Rescue).open(&path).unwrap().rescued().is_none());
}

#[test]
fn a_rescue_that_was_cut_off_is_taken_up_again() {
    let folder = Folder::new();
    let whole = folder.file("whole.db");
    let truth = sample(&whole, 60);
    // As it is left after so many of its steps.
    for steps in 0..4 {
        let path = folder.file(&format!("x{steps}.db"));
        copy(&whole, &path);
        mark(&path, "20260101T000000Z").unwrap();
        let kept = file::beside(&path, ".corrupt-20260101T000000Z");
        for ending in COMPANIONS.iter().take(steps) {
            let _ = fs::rename(file::beside(&path, ending), file::beside(&kept, ending));
        }
        assert!(
            matches!(Options::default().open(&path), Err(StoreError::Corrupt(_))),
            "never an empty queue"
        );
        let report = SqliteStore::rescue(&path).unwrap();
        assert_eq!(report.tasks as usize, truth.queued.len());
        assert_eq!(read(&path).unwrap().len(), truth.queued.len());
    }
}

#[test]
fn a_moment_is_written_in_utc() {
    for (seconds, expected) in [
        (0, "19700101T000000Z"),
        (951_827_696, "20000229T123456Z"),
        (1_709_251_199, "20240229T235959Z"),
        (1_709_251_200, "20240301T000000Z"),
        (4_102_444_799, "20991231T235959Z"),
    ] {
        assert_eq!(utc(seconds), expected);
    }
}
