//! Disks and files that do not do what they should: a clear error each, and nothing half-stored.
//!
//! Where root would be let through by every permission, the binary runs as another user.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

#[macro_use]
mod support;

use rusqlite::Connection;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{LANDFALL, Ran, Scratch, Server, command, counts, is_root, landfall, line, run};

/// A store with one pending change.
fn store(scratch: &Scratch, name: &str) -> String {
    let db = scratch.text(name);
    run!["enqueue", "--db", &db, "note", "1", "create", r#"{"a":1}"#].ends(0);
    db
}

/// Every command that opens a store. The endpoint is never reached.
fn every_command(db: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["enqueue", "--db", db, "note", "2", "create", "{}"],
        vec!["status", "--db", db],
        vec!["queue", "--db", db],
        vec!["task", "--db", db, "0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10"],
        vec!["get", "--db", db, "note", "1"],
        vec!["list", "--db", db, "note"],
        vec!["conflicts", "list", "--db", db],
        vec!["conflicts", "show", "--db", db, "0b9c5a1e"],
        vec!["conflicts", "resolve", "--db", db, "0b9c5a1e", "--keep-mine"],
        vec!["sync", "--db", db, "--endpoint", "http://127.0.0.1:9/sync"],
    ]
}

/// Each command fails like this, also in JSON, and leaves the file as it is.
#[track_caller]
fn all_fail(db: &str, fragment: &str) {
    let before = fs::read(db).unwrap();
    for args in every_command(db) {
        let ran = run(&args).fails(fragment);
        assert!(ran.err.contains("hint: "), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(db), "the error names the file: {}", ran.err);
        assert_eq!(ran.out, "");
        let ran = landfall().arg("--json").args(&args).output().unwrap();
        let problem: serde_json::Value = serde_json::from_slice(&ran.stderr).unwrap();
        assert!(
            problem["error"].as_str().unwrap().contains(fragment) && problem["hint"].is_string(),
            "{problem}"
        );
    }
    assert!(fs::read(db).unwrap() == before, "the file was changed");
}

#[test]
fn a_missing_store_is_not_made_by_looking_at_it() {
    let scratch = Scratch::new("missing");
    let db = scratch.text("typo.db");
    for args in every_command(&db).into_iter().skip(1) {
        let ran = run(&args).fails("there is no queue at");
        assert!(ran.err.contains("hint: check the path"), "{}", ran.err);
    }
    assert!(!Path::new(&db).exists());
    let deep = scratch.text("no/such/folder/q.db");
    run!["enqueue", "--db", &deep, "note", "1", "create", "{}"].fails("there is no folder");
    run!["enqueue", "--db", &scratch.text(""), "note", "1", "create", "{}"].fails("is a folder");
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    let scratch = Scratch::new("newer");
    let db = store(&scratch, "q.db");
    let connection = Connection::open(&db).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA user_version = 9999;").unwrap();
    drop(connection);
    all_fail(&db, "newer version");
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let scratch = Scratch::new("foreign");
    all_fail(&scratch.file("text.db", "dear diary\n".repeat(1000)), "not a");
    all_fail(&scratch.file("short.db", "x"), "not a");
    let other = scratch.text("other.db");
    Connection::open(&other)
        .unwrap()
        .execute_batch("CREATE TABLE birds(name); INSERT INTO birds VALUES('kea');")
        .unwrap();
    all_fail(&other, "not a Landfall store");
    let server = Server::start(scratch.path("server.db")).stop();
    all_fail(&server.display().to_string(), "not a Landfall store");
    // And the other way round.
    let queue = store(&scratch, "q.db");
    let ran = run!["serve", "--listen", "127.0.0.1:0", "--db", &queue]
        .fails("not a database of the Landfall server");
    assert!(ran.err.contains("hint: "), "{}", ran.err);
    assert_eq!(counts(&queue), [1, 0, 0, 0, 0]);
}

#[test]
fn a_damaged_record_is_named_and_the_others_are_listed() {
    let scratch = Scratch::new("damaged-record");
    let db = scratch.text("q.db");
    for id in ["1", "2", "3"] {
        run!["enqueue", "--db", &db, "note", id, "create", r#"{"a":1}"#].ends(0);
    }
    let connection = Connection::open(&db).unwrap();
    let spoil = "UPDATE landfall_entities SET local_fields = '{\"a\":2}' WHERE entity_id = '2'";
    assert_eq!(connection.execute(spoil, ()).unwrap(), 1);
    drop(connection);
    let ran = run!["list", "note", "--db", &db].ends(0);
    assert_eq!(ran.out.lines().count(), 3, "{ran:?}");
    assert!(ran.err.contains("warning: a stored record is damaged and left out: "), "{ran:?}");
    let ran = run!["list", "note", "--json", "--db", &db].ends(0);
    assert_eq!(ran.out.lines().count(), 2, "{ran:?}");
    let warning: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert!(warning["damaged"].is_string(), "{warning}");
    run!["get", "--db", &db, "note", "2"].fails("damaged");
}

#[test]
fn a_corrupt_store_is_an_error_and_never_an_empty_queue() {
    let scratch = Scratch::new("corrupt");
    let db = scratch.text("q.db");
    let lines: Vec<String> = (0..500)
        .map(|n| line("note", &n.to_string(), "create", &serde_json::json!({"text": "x".repeat(200)})))
        .collect();
    run!["enqueue", "--db", &db, "--file", &scratch.file("changes.jsonl", lines.join("\n"))].ends(0);
    Connection::open(&db).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let whole = fs::read(&db).unwrap();
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("schema page", |bytes| bytes[100..4096].fill(0xa5)),
        ("every page but the first", |bytes| bytes[4096..].fill(0xa5)),
        ("zeros", |bytes| bytes[4096..].fill(0)),
        ("cut in the middle", |bytes| bytes.truncate(bytes.len() / 2 / 4096 * 4096)),
    ];
    for (what, damage) in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        let damaged = scratch.file("damaged.db", &bytes);
        for suffix in ["-wal", "-shm"] {
            drop(fs::remove_file(format!("{damaged}{suffix}")));
        }
        for args in every_command(&damaged) {
            let ran = run(&args);
            assert_eq!(ran.code, Some(1), "{what}: {args:?}: {ran:?}");
            let said = ["corrupt", "damaged", "not a Landfall store", "not a database"];
            assert!(said.iter().any(|words| ran.err.contains(words)), "{what}: {args:?}: {}", ran.err);
            assert!(ran.err.contains("hint: ") && !ran.err.contains("panicked"), "{what}: {}", ran.err);
        }
    }
}

#[test]
fn a_locked_store_is_waited_for_and_then_an_error() {
    let scratch = Scratch::new("locked");
    let db = store(&scratch, "q.db");
    let holder = Connection::open(&db).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    let ran = run!["enqueue", "--db", &db, "note", "2", "create", "{}"].fails("busy");
    assert!(ran.err.contains("hint: another program is writing"), "{}", ran.err);
    assert!(begun.elapsed() > Duration::from_secs(1), "it should have waited a little");
    assert!(begun.elapsed() < Duration::from_secs(30), "it waits for ever");
    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(counts(&db), [1, 0, 0, 0, 0], "nothing of the refused change is there");

    // Held for a moment only, nobody notices.
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = landfall().args(["enqueue", "--db", &db, "note", "2", "create", "{}"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    holder.execute_batch("ROLLBACK").unwrap();
    assert!(waiting.wait_with_output().unwrap().status.success());
    assert_eq!(counts(&db), [2, 0, 0, 0, 0]);
}

/// Runs a copy of the binary as a user whom permissions bind.
fn as_somebody(scratch: &Scratch, args: &[&str]) -> Ran {
    let binary = scratch.path("landfall");
    if !binary.exists() {
        fs::copy(LANDFALL, &binary).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut runs = if is_root() {
        let mut setpriv = command("setpriv");
        setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary);
        setpriv
    } else {
        command(binary)
    };
    runs.args(args).output().expect("setpriv, of util-linux, is needed to run this test as root").into()
}

#[test]
fn a_read_only_file_is_an_error() {
    let scratch = Scratch::new("read-only");
    let db = store(&scratch, "q.db");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let folder = scratch.path("");
    for (what, file_mode, folder_mode) in
        [("a read-only file", 0o444, 0o777), ("a read-only folder", 0o666, 0o555), ("both", 0o444, 0o555)]
    {
        as_somebody(&scratch, &["--version"]).ends(0);
        mode(Path::new(&db), file_mode);
        mode(&folder, folder_mode);
        for args in every_command(&db) {
            let ran = as_somebody(&scratch, &args).fails("read-only");
            assert!(ran.err.contains("hint: make the file and its folder writable"), "{what}: {}", ran.err);
        }
        mode(&folder, 0o777);
        mode(Path::new(&db), 0o666);
        assert_eq!(counts(&db), [1, 0, 0, 0, 0], "{what}");
    }
    mode(Path::new(&db), 0o000);
    for args in every_command(&db) {
        as_somebody(&scratch, &args).fails(&db);
    }
    mode(Path::new(&db), 0o666);
    assert_eq!(counts(&db), [1, 0, 0, 0, 0]);
}

/// More than the disks of these tests hold.
fn too_much(scratch: &Scratch) -> String {
    let text = "x".repeat(1000);
    let lines: Vec<String> = (0..6000)
        .map(|n| line("big", &n.to_string(), "create", &serde_json::json!({"text": text})))
        .collect();
    scratch.file("too-much.jsonl", lines.join("\n"))
}

#[test]
fn a_file_that_may_not_grow_is_an_error_and_nothing_is_half_stored() {
    let scratch = Scratch::new("file-limit");
    let db = store(&scratch, "q.db");
    let file = too_much(&scratch);
    // In blocks of 512 bytes: 2 MB. The signal is ignored, so that the write fails as on a full disk.
    let limited = |args: &[&str]| -> Ran {
        let mut sh = command("sh");
        sh.args(["-c", "trap '' XFSZ; ulimit -f 4000 || exit 99; exec \"$@\"", "sh", LANDFALL]).args(args);
        sh.output().unwrap().into()
    };
    let ran = limited(&["enqueue", "--db", &db, "--file", &file]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("disk") || ran.err.contains("input or output"), "{}", ran.err);
    assert!(ran.err.contains("hint: ") && ran.out.is_empty(), "{ran:?}");
    assert_eq!(counts(&db), [1, 0, 0, 0, 0], "all or nothing");
    run!["get", "--db", &db, "big", "0"].fails("nothing is known");
    limited(&["enqueue", "--db", &db, "note", "2", "create", "{}"]).ends(0);
    run!["enqueue", "--db", &db, "--file", &file].ends(0);
    assert_eq!(counts(&db), [6002, 0, 0, 0, 0]);
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_half_stored() {
    let scratch = Scratch::new("full-disk");
    let file = too_much(&scratch);
    let disk = scratch.path("disk");
    fs::create_dir(&disk).unwrap();
    // A disk of 3 MB that nobody else sees: by root as it is, by others in a user namespace of their own.
    let script = r#"
        mount -t tmpfs -o size=3m tmpfs "$2" || exit 99
        db="$2/q.db"
        "$1" enqueue --db "$db" note 1 create '{"a":1}' || exit 98
        "$1" enqueue --db "$db" --file "$3"; echo "code $?"
        "$1" status --db "$db" --json || exit 97
        head -c 10000000 /dev/zero > "$2/filler" 2>/dev/null
        "$1" enqueue --db "$db" --file "$3"; echo "code $?"
        "$1" enqueue --db "$2/new.db" note 2 create '{"a":1}'; echo "code $?"
        rm "$2/filler"
        "$1" enqueue --db "$db" note 3 create '{"a":1}'; echo "code $?"
        "$1" status --db "$db" --json || exit 97
    "#;
    let mut unshare = command("unshare");
    unshare.args(if is_root() { vec!["--mount"] } else { vec!["--mount", "--map-root-user"] });
    unshare.args(["sh", "-c", script, "sh", LANDFALL]).arg(&disk).arg(&file);
    let ran = Ran::from(unshare.output().expect("unshare, of util-linux, is needed to mount a small disk"));
    assert!(
        ran.code != Some(99) && !ran.err.contains("unshare: "),
        "this test needs a system on which it may mount a small disk in a namespace of its own: {}",
        ran.err
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let codes: Vec<&str> = ran.out.lines().filter(|line| line.starts_with("code")).collect();
    assert_eq!(codes, ["code 1", "code 1", "code 1", "code 0"], "{ran:?}");
    assert_eq!(ran.err.matches("the disk is full").count(), 3, "{}", ran.err);
    assert!(ran.err.contains("hint: free some space"), "{}", ran.err);
    let pending: Vec<u64> = ran
        .out
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["pending"].as_u64().unwrap())
        .collect();
    assert_eq!(pending, [1, 2], "all or nothing");
}
