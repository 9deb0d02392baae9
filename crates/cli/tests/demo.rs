//! The demo, with its real processes: it proves what it says, says so in the agreed keys, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

fn landfall(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
    // Temporary files go where this test can look for them.
    command.args(arguments).env("TMPDIR", folder).stdin(Stdio::null());
    command
}

fn folder(name: &str) -> std::path::PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-{name}-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&path));
    std::fs::create_dir_all(&path).expect("a folder of our own");
    path
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("our folder").next().is_none()
}

/// Processes whose command line names `folder`: the demo's children have their files there.
#[cfg(target_os = "linux")]
fn processes_in(folder: &Path) -> Vec<String> {
    let wanted = folder.to_str().expect("a path in UTF-8");
    let entries = std::fs::read_dir("/proc").expect("Linux").flatten();
    entries
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(wanted))
        .collect()
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn nothing_is_lost_doubled_or_wrong_and_nothing_is_left_behind() {
    let folder = folder("whole");
    let arguments = ["demo", "--devices", "3", "--reports", "400", "--seed", "7", "--json"];
    let output = landfall(&arguments, &folder).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |key: &str| result[key].as_u64().unwrap_or_else(|| panic!("{key} in {result}"));
    for zero in [
        "lost",
        "duplicated",
        "wrong_fields",
        "extra_records",
        "refused",
        "key_reused",
        "left_in_queues",
        "wrong_counts",
        "wrong_sets",
        "torn_groups",
        "unrecorded",
        "needless_conflicts",
        "undecided",
        "disagreements",
    ] {
        assert_eq!(count(zero), 0, "{zero} in {result}");
    }
    for some in [
        "shared_reports",
        "merged_fields",
        "contested_fields",
        "values_on_record",
        "counters",
        "sets",
        "groups",
        "deleted_against_edited",
        "conflicts",
        "rebased",
    ] {
        assert!(count(some) > 0, "{some} in {result}");
    }
    assert_eq!(count("devices_that_agree"), 3);
    assert_eq!(count("reports"), 400);
    assert!(count("enqueued") > 400 && count("coalesced") > 0, "{result}");
    assert!(count("requests") > count("faults") && count("faults") > 0, "{result}");
    assert!(
        count("kills_recording") > 0 && count("kills_uploading") > 0 && count("kills_server") > 0,
        "{result}"
    );
    assert_eq!(
        count("kills"),
        count("kills_recording") + count("kills_uploading") + count("kills_server"),
        "{result}"
    );
    assert!(result["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(
        result["faults_by_kind"].as_object().unwrap().len(),
        23,
        "a kind of fault was not met: {result}"
    );
    let lines = String::from_utf8_lossy(&output.stderr);
    assert!(
        lines.contains("uploading") && lines.contains("exchanging") && lines.contains("400 reports"),
        "{lines}"
    );
    assert!(is_empty(&folder), "files are left in {}", folder.display());
    #[cfg(target_os = "linux")]
    assert_eq!(processes_in(&folder), Vec::<String>::new());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_single_report_on_many_devices_is_enough() {
    let folder = folder("one");
    let kept = folder.join("kept");
    let arguments =
        ["demo", "--devices", "5", "--reports", "1", "--seed", "3", "--keep", kept.to_str().unwrap()];
    let output = landfall(&arguments, &folder).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("Proven"), "{}", text(&output));
    assert!(kept.join("server.db").exists() && kept.join("device-5.db").exists());
    let again = landfall(&arguments, &folder).output().unwrap();
    assert_eq!(again.status.code(), Some(1), "a folder with files must not be used again");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn more_than_there_is_is_refused() {
    let folder = folder("range");
    for arguments in [["demo", "--reports", "10001"], ["demo", "--reports", "0"], ["demo", "--devices", "17"]]
    {
        let output = landfall(&arguments, &folder).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains("1.."), "{}", text(&output));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Starts a long demo and waits until its children are at work.
#[cfg(target_os = "linux")]
fn started(folder: &Path) -> std::process::Child {
    let mut command = landfall(&["demo", "--devices", "3", "--seed", "5"], folder);
    let mut demo = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the demo starts");
    let until = Instant::now() + Duration::from_secs(20);
    while processes_in(folder).len() < 4 {
        assert!(
            Instant::now() < until && demo.try_wait().expect("our child").is_none(),
            "the children did not start"
        );
        thread::sleep(Duration::from_millis(20));
    }
    demo
}

#[cfg(target_os = "linux")]
fn all_end(folder: &Path) {
    let until = Instant::now() + Duration::from_secs(20);
    while !processes_in(folder).is_empty() {
        assert!(Instant::now() < until, "still there: {:?}", processes_in(folder));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn ctrl_c_ends_the_children_and_removes_the_files() {
    let folder = folder("ctrl-c");
    let mut demo = started(&folder);
    let sent = Command::new("kill").args(["-INT", &demo.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(demo.wait().unwrap().code(), Some(1));
    all_end(&folder);
    assert!(is_empty(&folder));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn children_end_by_themselves_when_the_demo_is_killed() {
    let folder = folder("orphans");
    let mut demo = started(&folder);
    demo.kill().unwrap();
    demo.wait().unwrap();
    all_end(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
}
