//! The tests that are asked: what they are called, how long each takes, and which places of the core it comes by.
//!
//! Each test is run once by itself, with no mutant awake, and writes down what it met; a test that fails so is of no
//! use as a witness, and the whole run is refused. It knows nothing of mutants but the numbers of their places.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::scratch::Program;

/// Programs whose tests say nothing of the core: sockets, and the campaigns themselves.
const LEFT_OUT: [&str; 2] = ["testkit/fault_proxy", "testkit/landfall_testkit"];
/// Kilobytes of address space: a mutant that allocates without end is stopped, and caught.
const MEMORY: &str = "4000000";

/// How much of what is drawn at random a test does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Effort {
    pub(crate) seeds: u64,
    pub(crate) cases: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Test {
    pub(crate) program: usize,
    pub(crate) name: String,
    pub(crate) took: Duration,
    /// Numbers of the places it comes by.
    pub(crate) meets: BTreeSet<u32>,
    /// Whether it only passes with as many seeds as it asks for itself.
    pub(crate) needs_all: bool,
}

/// How a run of some tests ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    /// With the name of the test.
    Failed(String),
    TimedOut(String),
}

/// Asks tests of one program, in its own order, until one fails.
pub(crate) fn ask(
    program: &Program,
    names: &[&str],
    effort: Option<Effort>,
    var: (&str, &str),
    limit: Duration,
) -> Result<Verdict> {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -v {MEMORY}; exec \"$@\""), "sh"])
        .arg(&program.executable)
        .args(["--exact", "--test-threads=1"])
        .args(names)
        .current_dir(&program.folder)
        .env(var.0, var.1)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(effort) = effort {
        command
            .env("LANDFALL_SEEDS", effort.seeds.to_string())
            .env("LANDFALL_CASES", effort.cases.to_string());
    }
    let mut child = command.spawn().context("cannot start sh")?;
    let stdout = child.stdout.take().context("no stdout")?;
    let (tell, told) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n') {
            let Ok(line) = line else { break };
            if tell.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let until = Instant::now() + limit;
    let mut finished = 0;
    let verdict = loop {
        match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                // A test that is run alone prints its name and `...` first, and what it prints itself may come between.
                if line.ends_with("... FAILED") || line == "FAILED" {
                    let name =
                        line.trim_start_matches("test ").trim_end_matches("... FAILED").trim().to_owned();
                    break Verdict::Failed(name);
                }
                finished += usize::from(line.ends_with("... ok"));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                break Verdict::TimedOut(names.get(finished).unwrap_or(&"").to_string());
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let name = names.get(finished).unwrap_or(&"").to_string();
                break match wait(&mut child, until)? {
                    Some(true) if finished == names.len() => Verdict::Passed,
                    // Every name that is asked for is one that the program listed.
                    Some(true) => anyhow::bail!("{}: {finished} of {} tests ran", program.name, names.len()),
                    Some(false) => Verdict::Failed(name),
                    None => Verdict::TimedOut(name),
                };
            }
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    let _ = reader.join();
    Ok(verdict)
}

fn wait(child: &mut Child, until: Instant) -> Result<Option<bool>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() > until {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn list(program: &Program) -> Result<Vec<String>> {
    let output = Command::new(&program.executable).arg("--list").current_dir(&program.folder).output()?;
    ensure!(output.status.success(), "{} does not list its tests", program.name);
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(ToOwned::to_owned).collect())
}

/// Lists all tests and runs each by itself. One that takes longer than `longest` is not asked. What was found holds as
/// long as the programs are the same, and is kept in the folder.
pub(crate) fn survey(
    programs: &[Program],
    effort: Effort,
    longest: Duration,
    jobs: usize,
    folder: &Path,
) -> Result<Vec<Test>> {
    let mut of = format!("{effort:?} {longest:?}");
    for program in programs {
        let made = fs::metadata(&program.executable)?.modified()?;
        of.push_str(&format!(" {} {made:?}", program.executable.display()));
    }
    let kept = folder.join("survey.json");
    if let Ok(text) = fs::read_to_string(&kept)
        && let Ok((for_these, tests)) = serde_json::from_str::<(String, Vec<Test>)>(&text)
        && for_these == of
    {
        return Ok(tests);
    }
    let mut names = Vec::new();
    for (at, program) in programs.iter().enumerate() {
        if !LEFT_OUT.contains(&program.name.as_str()) {
            names.extend(list(program)?.into_iter().map(|name| (at, name)));
        }
    }
    fs::create_dir_all(folder)?;
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some((program, name)) = names.get(at) else { return Ok(()) };
                        let trace = folder.join(format!("trace-{at}"));
                        let test = meet(&programs[*program], *program, name, effort, longest, &trace)?;
                        found.lock().unwrap_or_else(PoisonError::into_inner).extend(test);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let mut tests = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    tests.sort_by(|a, b| (a.program, &a.name).cmp(&(b.program, &b.name)));
    fs::write(kept, serde_json::to_string(&(&of, &tests))?)?;
    Ok(tests)
}

fn meet(
    program: &Program,
    at: usize,
    name: &str,
    effort: Effort,
    longest: Duration,
    trace: &Path,
) -> Result<Option<Test>> {
    let var = ("LANDFALL_MUTANT_TRACE", trace.to_str().context("path is not UTF-8")?);
    for needs_all in [false, true] {
        let _ = fs::remove_file(trace);
        let started = Instant::now();
        let verdict = ask(program, &[name], (!needs_all).then_some(effort), var, longest)?;
        let took = started.elapsed();
        match verdict {
            Verdict::Passed => {
                let mut bytes = Vec::new();
                if let Ok(mut file) = fs::File::open(trace) {
                    file.read_to_end(&mut bytes)?;
                }
                let meets = bytes
                    .chunks_exact(4)
                    .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
                let meets: BTreeSet<u32> = meets.collect();
                let _ = fs::remove_file(trace);
                let name = name.to_owned();
                return Ok(Some(Test { program: at, name, took, meets, needs_all }));
            }
            Verdict::TimedOut(_) => {
                eprintln!(
                    "{}: {name} takes more than {} s and is not asked",
                    program.name,
                    longest.as_secs()
                );
                return Ok(None);
            }
            Verdict::Failed(_) if !needs_all => {}
            Verdict::Failed(_) => anyhow::bail!("{}: {name} fails with no mutant awake", program.name),
        }
    }
    Ok(None)
}

/// For each place, the tests that come by, cheapest first.
pub(crate) fn witnesses(tests: &[Test]) -> BTreeMap<u32, Vec<usize>> {
    let mut by_cost: Vec<usize> = (0..tests.len()).collect();
    by_cost.sort_by_key(|at| tests[*at].took);
    let mut witnesses: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for at in by_cost {
        for place in &tests[at].meets {
            witnesses.entry(*place).or_default().push(at);
        }
    }
    witnesses
}
