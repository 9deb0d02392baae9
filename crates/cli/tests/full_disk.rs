//! A disk that is really full: the system's own words for it, on memory disks of 100 to 2,000 KiB (R18, R19).
//!
//! The test runs itself again where nobody else sees what it mounts. Processes enqueue until no more fits: what was
//! acknowledged is there, nothing else, and the last one says why. Then others sync, with no room at all and with a
//! little more each time: each run does what it can and says why it cannot, and no change has two effects. With room
//! everything drains. All that is there is read with plain SQL.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

#[macro_use]
mod support;

use landfall_testkit::campaign::{self, Figures};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Ran, Scratch, Server, Stored, command, counts, landfall, line};

/// Says to a run of this program that it may mount.
const MAY_MOUNT: &str = "LANDFALL_TEST_MAY_MOUNT";
/// How long a sync may go on, and when it is stuck.
const DEADLINE: &str = "3s";
const STUCK: Duration = Duration::from_secs(30);
/// How much room there is for the second sync; each further one gets twice as much more.
const FIRST_KIB: u64 = 32;
/// Room with which any of these queues must drain. Far more than the queues: what a run could not finish stays in the log,
/// whose room is free again only when all of it could be moved into the file.
const ENOUGH_KIB: u64 = 32 << 10;

#[test]
fn a_full_disk_loses_nothing_doubles_nothing_and_drains_as_soon_as_there_is_room() {
    if !alone_with_mounts("a_full_disk_loses_nothing_doubles_nothing_and_drains_as_soon_as_there_is_room") {
        return;
    }
    let begun = Instant::now();
    let mut figures = Figures::new();
    for kib in [100, 200, 300, 500, 1000, 2000] {
        campaign::add(&mut figures, &fill_and_drain(kib));
    }
    println!("{figures:?}");
    campaign::note("full disk", begun.elapsed(), &figures);
}

/// Runs one test of this program again in a mount namespace of its own. `true` in there, `false` when that is done.
fn alone_with_mounts(test: &str) -> bool {
    if std::env::var_os(MAY_MOUNT).is_some() {
        return true;
    }
    let mut unshare = command("unshare");
    unshare.args(if support::is_root() { vec!["--mount"] } else { vec!["--mount", "--map-root-user"] });
    unshare.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(MAY_MOUNT, "1");
    let ran = Ran::from(unshare.output().expect("unshare, of util-linux, is needed to mount a small disk"));
    println!("{}", ran.out);
    assert!(ran.code == Some(0) && ran.out.contains("1 passed"), "{}", ran.err);
    false
}

/// A memory disk of its own.
struct Disk(PathBuf);

impl Disk {
    fn new(path: PathBuf, kib: u64) -> Self {
        fs::create_dir(&path).unwrap();
        let disk = Self(path);
        disk.mount(&format!("size={kib}k"));
        disk
    }

    fn grow_to(&self, kib: u64) {
        self.mount(&format!("remount,size={kib}k"));
    }

    fn mount(&self, options: &str) {
        let mut mount = Command::new("mount");
        let done = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&self.0).status().unwrap();
        assert!(done.success(), "this test needs a system on which it may mount a small disk: {done}");
    }

    /// Takes what is left.
    fn fill(&self) {
        let mut filler = OpenOptions::new().append(true).create(true).open(self.0.join("filler")).unwrap();
        while filler.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn fill_and_drain(kib: u64) -> Figures {
    let scratch = Scratch::new("small-disk");
    let server = Server::start(scratch.path("server.db"));
    let disk = Disk::new(scratch.path("disk"), kib);
    let db = disk.0.join("q.db").display().to_string();
    let Stuffed { acknowledged, unknown } = enqueue_until_full(&scratch, &db);
    disk.fill();
    // The larger half holds some work, so that there is something to lose.
    assert!(kib < 500 || acknowledged.len() > 50, "{kib} KiB held {} changes", acknowledged.len());
    let mut figures = Figures::from([("disks", 1), ("changes", acknowledged.len() as u64)]);
    let (mut grown, mut step) = (kib, FIRST_KIB);
    // An empty disk of 100 KiB holds no store at all.
    while !acknowledged.is_empty() {
        let ran = sync(&db, &server);
        let effects = effects_once(&server);
        *figures.entry("syncs").or_default() += 1;
        if ran.code == Some(0) {
            assert!(effects >= acknowledged.len() as u64, "{effects}: {ran:?}");
            break;
        }
        *figures.entry("syncs without room").or_default() += 1;
        says_that_it_is_full(&ran);
        grown += step;
        step *= 2;
        assert!(grown < kib + ENOUGH_KIB, "more and more room, and still: {ran:?}");
        disk.grow_to(grown);
    }
    *figures.entry("KiB needed to drain").or_default() += grown - kib;
    println!("{kib} KiB: {} changes, drained with {} KiB more", acknowledged.len(), grown - kib);
    disk.grow_to(kib + 2 * ENOUGH_KIB);
    run!["enqueue", "--db", &db, "note", "last", "create", "{}"].ends(0);
    sync(&db, &server).ends(0);
    assert_eq!(counts(&db), [0; 5]);
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    let mut found: BTreeSet<String> = stored.records.into_keys().map(|(_, id)| id).collect();
    assert!(found.remove("last"));
    for ids in &unknown {
        let there = ids.iter().filter(|id| found.remove(*id)).count();
        assert!(there == 0 || there == ids.len(), "{there} of {ids:?}");
    }
    assert_eq!(found, acknowledged, "what was acknowledged, and nothing else");
    figures
}

/// What became of what was enqueued.
#[derive(Default)]
struct Stuffed {
    acknowledged: BTreeSet<String>,
    /// Files of which it was said that nobody knows.
    unknown: Vec<Vec<String>>,
}

/// Files first and then smaller and smaller ones, until nothing fits.
fn enqueue_until_full(scratch: &Scratch, db: &str) -> Stuffed {
    let mut stuffed = Stuffed::default();
    for (records, bytes) in [(20, 1000), (5, 1000), (1, 1000), (1, 1)] {
        for number in 0.. {
            let ids: Vec<String> = (0..records).map(|n| format!("{records}-{bytes}-{number}-{n}")).collect();
            let text = "x".repeat(bytes);
            let lines: Vec<String> =
                ids.iter().map(|id| line("note", id, "create", &json!({"text": text}))).collect();
            let file = scratch.file("changes.jsonl", lines.join("\n"));
            let ran = run!["enqueue", "--db", db, "--file", &file];
            if ran.code != Some(0) {
                assert!(ran.out.is_empty(), "{ran:?}");
                says_that_it_is_full(&ran);
                if ran.err.contains("unknown") {
                    stuffed.unknown.push(ids);
                }
                break;
            }
            stuffed.acknowledged.extend(ids);
        }
    }
    stuffed
}

#[track_caller]
fn says_that_it_is_full(ran: &Ran) {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("the disk is full") && ran.err.contains("hint: "), "{ran:?}");
    assert!(!ran.err.contains("panicked"), "{ran:?}");
}

/// One sync, which must end.
fn sync(db: &str, server: &Server) -> Ran {
    let mut command = landfall();
    command.args(["sync", "--db", db, "--endpoint", &server.endpoint(), "--deadline", DEADLINE]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if support::wait(&mut child, STUCK).is_none() {
        drop(child.kill());
        panic!("a sync with a deadline of {DEADLINE} goes on for ever: {:?}", child.wait_with_output());
    }
    child.wait_with_output().unwrap().into()
}

fn effects_once(server: &Server) -> u64 {
    let stored = Stored::read(Path::new(&server.db));
    assert_eq!(stored.effects, stored.tasks, "a task took effect under two keys");
    assert_eq!(stored.version, stored.effects, "a record changed more often than tasks took effect");
    stored.effects
}
