//! Processes that are killed while they write, and processes that write at the same time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::store::{Store as _, StoreError};
use landfall_sqlite::SqliteStore;
use landfall_testkit::conformance::store::samples::{entity, note, task};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};
use support::Folder;

/// Writes for ever: a record and its task in each transaction, and afterwards says so on its output.
fn write_for_ever(task_text: &str) {
    let (name, path) = task_text.split_once('=').unwrap();
    let mut store = SqliteStore::open(path).unwrap();
    for number in 0_u64.. {
        let key = note(&format!("{name} {number}"));
        let mut tx = store.begin().unwrap();
        if tx.entity(&key).unwrap().is_some() {
            continue;
        }
        tx.put_entity(&entity(&key)).unwrap();
        let seq = tx.next_seq().unwrap();
        let mut task = task(seq, &key);
        task.intent.set("text", "x".repeat((number % 50) as usize * 200));
        tx.put_task(&task).unwrap();
        tx.commit().unwrap();
        if number % 16 == 0 {
            store.idle().unwrap();
        }
        let mut out = std::io::stdout();
        writeln!(out, "stored {number}").and_then(|()| out.flush()).unwrap();
    }
}

fn start(test: &str, name: &str, path: &Path) -> Child {
    let task = format!("{name}={}", path.display());
    let mut command = support::child(&std::env::current_exe().unwrap(), test, &task);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Reads what a writer says until it said `count` lines, kills it, and returns all that it managed to say.
fn kill_after(mut child: Child, count: usize) -> Vec<u64> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // The harness's own lines carry others in front of them.
    let number = |line: String| line.split_once("stored ").and_then(|(_, number)| number.trim().parse().ok());
    let mut said: Vec<u64> = lines.by_ref().filter_map(number).take(count).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    said.extend(lines.filter_map(number));
    let mut trouble = String::new();
    child.stderr.take().unwrap().read_to_string(&mut trouble).unwrap();
    assert!(said.len() >= count, "the writer ended by itself: {trouble}");
    said
}

/// Everything that was said to be stored is there, each record has its task, and nobody's position was used twice.
fn assert_all_there(path: &Path, said: &[(String, u64)]) {
    let mut store = SqliteStore::open(path).unwrap();
    let tx = store.begin().unwrap();
    let page = tx.tasks_after(0, usize::MAX).unwrap();
    assert_eq!(page.damaged, []);
    assert_eq!(tx.counts().unwrap().pending, page.tasks.len() as u64);
    let there: BTreeSet<&str> = page.tasks.iter().map(|task| task.entity.entity_id.as_str()).collect();
    assert_eq!(there.len(), page.tasks.len());
    for (name, number) in said {
        assert!(
            there.contains(format!("{name} {number}").as_str()),
            "{name} {number} was acknowledged and is gone"
        );
    }
    for task in &page.tasks {
        assert_eq!(tx.entity(&task.entity).unwrap(), Some(entity(&task.entity)));
    }
    for name in ["a", "b"] {
        let next = there.iter().filter(|id| id.starts_with(name)).count();
        assert_eq!(tx.entity(&note(&format!("{name} {next}"))).unwrap(), None, "a record without its task");
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    if let Some(task) = support::as_child() {
        return write_for_ever(&task);
    }
    let folder = Folder::new();
    let path = folder.file("x.db");
    let mut said = Vec::new();
    for round in 0..12 {
        let child = start("what_was_acknowledged_survives_kill_9", "a", &path);
        said.extend(kill_after(child, 1 + round * 7 % 23).into_iter().map(|number| ("a".to_owned(), number)));
        assert_all_there(&path, &said);
    }
}

#[test]
fn two_processes_write_at_once_and_are_killed() {
    if let Some(task) = support::as_child() {
        return write_for_ever(&task);
    }
    let folder = Folder::new();
    let path = folder.file("x.db");
    let test = "two_processes_write_at_once_and_are_killed";
    let mut said = Vec::new();
    for round in 0..4 {
        let children = ["a", "b"].map(|name| (name, start(test, name, &path)));
        for (name, child) in children {
            said.extend(kill_after(child, 5 + round * 5).into_iter().map(|number| (name.to_owned(), number)));
        }
        assert_all_there(&path, &said);
    }
}

#[test]
fn a_transaction_that_waits_too_long_for_another_process_is_busy_and_loses_nothing() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let options = SqliteStore::options().busy_timeout(std::time::Duration::from_millis(50));
    let (mut one, mut two) = (options.clone().open(&path).unwrap(), options.open(&path).unwrap());
    let mut held = one.begin().unwrap();
    held.put_task(&task(1, &note("1"))).unwrap();
    assert!(matches!(two.begin().map(drop), Err(StoreError::Busy(_))));
    held.commit().unwrap();
    let mut tx = two.begin().unwrap();
    assert_eq!(tx.next_seq().unwrap(), 2);
    assert_eq!(tx.counts().unwrap().pending, 1);
}

/// Counted from outside where `strace` is installed. Elsewhere this test can only see that commits wait for something:
/// that `synchronous` is EXTRA is read back at every opening (`open.rs`).
#[cfg(target_os = "linux")]
#[test]
fn each_durable_commit_syncs_exactly_once() {
    use landfall_core::store::Store;
    const COMMITS: u64 = 20;
    if let Some(path) = support::as_child() {
        let mut store = SqliteStore::open(path).unwrap();
        println!("opened");
        for number in 1..=COMMITS {
            let mut tx = store.begin().unwrap();
            for seq in 0..50 {
                tx.put_task(&task(number * 100 + seq, &note("1"))).unwrap();
            }
            tx.commit().unwrap();
        }
        println!("done");
        // What only a clean end would add is not asked for.
        std::process::exit(0);
    }
    let folder = Folder::new();
    let (path, trace) = (folder.file("x.db"), folder.file("trace"));
    let program = std::env::current_exe().unwrap();
    let inner = support::child(&program, "each_durable_commit_syncs_exactly_once", path.to_str().unwrap());
    let mut command = std::process::Command::new("strace");
    command.args(["-f", "-e", "trace=fsync,fdatasync,write", "-o"]).arg(&trace).arg(&program);
    command.args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap());
    }
    if !command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("strace cannot run here: the syncs of commits are not counted");
        return;
    }
    let trace = std::fs::read_to_string(trace).unwrap();
    let between = trace.split("opened").nth(1).and_then(|rest| rest.split("done").next()).unwrap();
    let syncs = between.lines().filter(|line| line.contains("sync(") && line.contains("= 0")).count();
    assert_eq!(syncs as u64, COMMITS, "{between}");
}
