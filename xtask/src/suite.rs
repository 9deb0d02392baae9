//! `cargo xtask test`: everything that must hold before a commit, in order, stopping at the first step that
//! fails.
//!
//! Tests are compiled once (`build`) and run from that build (`test`): both steps use the same profile and
//! flags. What a step checks is not decided here but by cargo, `walls` and `words`; how results add up is in
//! `tally`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::figures::{self, FIGURES, Figures};
use crate::tally::Tally;
use crate::workspace::Workspace;
use crate::{walls, words};

/// The variable by which suites know how much to run: `fast` leaves slow ones out, `nightly` goes on for long.
const TIER: &str = "LANDFALL_TIER";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Format,
    Clippy,
    Walls,
    Words,
    Build,
    Test,
    Features,
    Schedules,
    Cipher,
}

const STEPS: [Step; 9] = [
    Step::Format,
    Step::Clippy,
    Step::Walls,
    Step::Words,
    Step::Build,
    Step::Test,
    Step::Features,
    Step::Schedules,
    Step::Cipher,
];

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Format => "fmt",
            Self::Clippy => "clippy",
            Self::Walls => "walls",
            Self::Words => "words",
            Self::Build => "build",
            Self::Test => "test",
            Self::Features => "features",
            Self::Schedules => "schedules",
            Self::Cipher => "cipher",
        }
    }

    /// The arguments of the cargo command that the step is; none for a check of our own.
    fn cargo_args(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Format => Some(&["fmt", "--all", "--check"]),
            Self::Clippy => {
                Some(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
            }
            Self::Walls | Self::Words => None,
            Self::Build => Some(&["test", "--workspace", "--locked", "--no-run"]),
            // One failing program does not hide the results of the others.
            Self::Test => Some(&["test", "--workspace", "--locked", "--no-fail-fast"]),
            // What is off by default and needs only another build of a few crates.
            Self::Features => Some(&[
                "test",
                "--package=landfall-engine",
                "--package=landfall-cli",
                "--features=landfall-engine/metrics,landfall-cli/otel",
                "--bin=landfall",
                "--test=metrics_facade",
                "--test=telemetry",
                "--locked",
            ]),
            // Another scheduler takes the place of the system's threads, hence a folder of its own.
            Self::Schedules => Some(&[
                "test",
                "--package=landfall-engine",
                "--lib",
                "--locked",
                "--target-dir=target/shuttle",
                "schedules",
            ]),
            // SQLCipher takes the place of SQLite in a whole build, hence a folder of its own: some ten minutes the first
            // time, with perl and make.
            Self::Cipher => Some(&[
                "test",
                "--package=landfall-sqlite",
                "--features=sqlcipher",
                "--test=encrypted",
                "--locked",
                "--target-dir=target/cipher",
            ]),
        }
    }

    fn command_line(self) -> String {
        match self.cargo_args() {
            Some(args) => format!("cargo {}", args.join(" ")),
            None => format!("cargo xtask {}", self.name()),
        }
    }

    /// The component of the toolchain that a step needs and that a toolchain can lack.
    fn component(self) -> Option<Component> {
        match self {
            Self::Format => {
                Some(Component { rustup: "rustfmt", debian: "rustfmt", probe: &["fmt", "--version"] })
            }
            Self::Clippy => {
                Some(Component { rustup: "clippy", debian: "rust-clippy", probe: &["clippy", "--version"] })
            }
            Self::Walls
            | Self::Words
            | Self::Build
            | Self::Test
            | Self::Features
            | Self::Schedules
            | Self::Cipher => None,
        }
    }

    fn run(self, workspace: &Workspace, options: &Options, tally: &mut Option<Tally>) -> Result<()> {
        match self {
            Self::Walls => println!("{}", walls::check(workspace)?),
            Self::Words => println!("{}", words::check(workspace)?),
            Self::Format | Self::Clippy | Self::Build | Self::Features | Self::Schedules | Self::Cipher => {
                run_cargo(self, workspace, options)?;
            }
            Self::Test => run_tests(workspace, options, tally.insert(Tally::default()))?,
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Component {
    rustup: &'static str,
    debian: &'static str,
    probe: &'static [&'static str],
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    fast: bool,
    nightly: bool,
    /// The steps asked for by name; none means all.
    only: Vec<Step>,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let step = match arg {
                "--fast" => {
                    options.fast = true;
                    continue;
                }
                "--nightly" => {
                    options.nightly = true;
                    continue;
                }
                "--only" => args.next().context("--only needs the name of a step")?,
                _ => match arg.strip_prefix("--only=") {
                    Some(step) => step,
                    None => bail!("unexpected argument {arg:?}\n\n{}", help()),
                },
            };
            let known = STEPS.into_iter().find(|known| known.name() == step);
            options.only.push(
                known.with_context(|| format!("no step is called {step:?}; there are {}", step_names()))?,
            );
        }
        ensure!(!(options.fast && options.nightly), "--fast and --nightly contradict each other: give one");
        ensure!(
            !(options.fast && options.only.contains(&Step::Clippy)),
            "--fast leaves clippy out, and --only clippy asks for it: give one of the two"
        );
        Ok(options)
    }

    /// Why a step is left out, if it is.
    fn leaves_out(&self, step: Step) -> Option<&'static str> {
        if !self.only.is_empty() && !self.only.contains(&step) {
            Some("left out (--only)")
        } else if self.fast && step == Step::Clippy {
            Some("left out (--fast)")
        } else if matches!(step, Step::Features | Step::Schedules | Step::Cipher)
            && !self.nightly
            && self.only.is_empty()
        {
            Some("left out (--nightly)")
        } else {
            None
        }
    }
}

pub(crate) fn help() -> String {
    use std::fmt::Write as _;
    let mut help = String::from(
        "usage: cargo xtask test [--fast | --nightly] [--only STEP]...

Runs everything that must hold before a commit, in this order, and stops at the first step that fails:
",
    );
    for step in STEPS {
        let _ = write!(help, "\n  {:8} {}", step.name(), step.command_line());
    }
    let _ = write!(
        help,
        "

options:
  --fast        leave out clippy, and slow suites (sets {TIER}=fast for the tests)
  --nightly     a million cases of each law of the merge, four times the lives of each proof, schedules of
                threads, encrypted stores and other features; some hours (sets {TIER}=nightly for the
                tests). `cargo xtask prove` goes on for as long as you say
  --only STEP   run this step alone; may be given more than once

The last line is the sum over all tests: `N passed, N failed`. The exit code is 0 only if every step passed."
    );
    help
}

fn step_names() -> String {
    STEPS.map(Step::name).join(", ")
}

/// One row of the closing table.
struct Row {
    step: Step,
    result: &'static str,
    time: Option<Duration>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> ExitCode {
    let chosen: Vec<Step> = STEPS.into_iter().filter(|step| options.leaves_out(*step).is_none()).collect();
    if let Err(error) = require_components(workspace, &chosen) {
        eprintln!("xtask test: {error:#}");
        return ExitCode::FAILURE;
    }
    if let (false, Ok(tier)) = (options.fast || options.nightly, std::env::var(TIER)) {
        println!("note: {TIER}={tier} is set in the environment, and the tests will heed it");
    }

    let mut rows: Vec<Row> = Vec::new();
    let mut tally = None;
    let mut failed = None;
    for step in STEPS {
        let left_out = options.leaves_out(step);
        if left_out.is_some() || failed.is_some() {
            rows.push(Row { step, result: left_out.unwrap_or("not reached"), time: None });
            continue;
        }
        let number = chosen.iter().position(|other| *other == step).map_or(0, |index| index + 1);
        println!("\n==== {number}/{}  {}: {}", chosen.len(), step.name(), step.command_line());
        let started = Instant::now();
        let outcome = step.run(workspace, options, &mut tally);
        let time = started.elapsed();
        let result = match outcome {
            Ok(()) => "ok",
            Err(error) => {
                eprintln!("\n{}: {error:#}", step.name());
                failed = Some(step);
                "FAILED"
            }
        };
        println!("---- {}: {result}, {}", step.name(), seconds(time));
        rows.push(Row { step, result, time: Some(time) });
    }

    println!("\n{}\n\n{}", table(&rows), last_line(tally, failed));
    if failed.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Finds out before any work starts, so that nobody waits for a build to learn that a tool is missing.
fn require_components(workspace: &Workspace, steps: &[Step]) -> Result<()> {
    for (step, component) in steps.iter().filter_map(|step| Some((step, step.component()?))) {
        let probe = workspace.cargo(component.probe).stdin(Stdio::null()).output();
        let probe = probe.context("cannot start cargo")?;
        ensure!(
            probe.status.success(),
            "the step `{}` needs {rustup}, which this toolchain lacks. Install it with\n    \
             rustup component add {rustup}\nor, if Rust came from Debian, with\n    apt-get install {}\n({})",
            step.name(),
            component.debian,
            String::from_utf8_lossy(&probe.stderr).lines().next().unwrap_or("no message").trim(),
            rustup = component.rustup,
        );
    }
    Ok(())
}

fn command(step: Step, workspace: &Workspace, options: &Options) -> std::process::Command {
    let mut command = workspace.cargo(step.cargo_args().unwrap_or_default());
    if step == Step::Schedules {
        command.env("RUSTFLAGS", "--cfg shuttle");
    }
    if options.fast {
        command.env(TIER, "fast");
    }
    if options.nightly {
        command.env(TIER, "nightly");
    }
    command
}

fn run_cargo(step: Step, workspace: &Workspace, options: &Options) -> Result<()> {
    let status = command(step, workspace, options).status().context("cannot start cargo")?;
    if step == Step::Format {
        ensure!(status.success(), "run `cargo fmt --all` to mend the formatting");
    }
    ensure!(status.success(), "`{}` failed ({status})", step.command_line());
    Ok(())
}

/// Runs the tests, passes their output on as it comes, and adds the results up.
fn run_tests(workspace: &Workspace, options: &Options, tally: &mut Tally) -> Result<()> {
    let mut cargo = command(Step::Test, workspace, options);
    let figures = figures::new_file();
    cargo.env(FIGURES, &figures);
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut output = BufReader::new(child.stdout.take().context("cargo has no output")?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if output.read_until(b'\n', &mut line).context("cannot read the output of cargo test")? == 0 {
            break;
        }
        std::io::stdout().write_all(&line).context("cannot pass on the output of cargo test")?;
        tally.read_line(&String::from_utf8_lossy(&line));
    }
    let status = child.wait().context("cargo test was lost")?;
    tally.failed = tally.failures(status.success());
    if tally.unfinished > 0 {
        eprintln!("{} test program(s) ended without a result; each counts as one failure", tally.unfinished);
    }
    if tally.ignored > 0 {
        println!("{} ignored (not in the sum)", tally.ignored);
    }
    let figures = Figures::take(&figures)?;
    println!("\nproofs:\n{}", figures.table());
    ensure!(tally.failed == 0, "{} failed ({status})", tally.failed);
    ensure!(tally.passed > 0, "not one test ran");
    // A proof that lives fewer lives than it says is a failure that no test sees.
    let short = figures.below_floor();
    ensure!(options.fast || short.is_empty(), "the proofs did too little: {}", short.join("; "));
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![format!("{:8} {:18} {:>9}", "step", "result", "time")];
    for Row { step, result, time } in rows {
        let time = time.map(seconds).unwrap_or_default();
        lines.push(format!("{:8} {result:18} {time:>9}", step.name()).trim_end().to_owned());
    }
    let total: Duration = rows.iter().filter_map(|row| row.time).sum();
    lines.push(format!("{:8} {:18} {:>9}", "all", "", seconds(total)));
    lines.join("\n")
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The sum over all tests; where none ran it says so, for `0 failed` would read like a success.
fn last_line(tally: Option<Tally>, failed: Option<Step>) -> String {
    match (tally, failed) {
        (Some(tally), _) => format!("{} passed, {} failed", tally.passed, tally.failed),
        (None, Some(step)) => format!("no tests were run: {} failed", step.name()),
        (None, None) => "no tests were run: only other steps were asked for".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options> {
        Options::parse(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parse(&[]).expect("none"), Options::default());
        let options = parse(&["--fast", "--only", "walls", "--only=test"]).expect("all known");
        assert_eq!(options, Options { fast: true, nightly: false, only: vec![Step::Walls, Step::Test] });
    }

    #[test]
    fn options_that_make_no_sense_are_errors_that_help() {
        let cases = [
            (&["--only", "lint"][..], "there are fmt, clippy, walls, words, build, test"),
            (&["--only"], "needs the name of a step"),
            (&["--quick"], "usage:"),
            (&["--fast", "--only", "clippy"], "give one of the two"),
            (&["--fast", "--nightly"], "contradict each other"),
        ];
        for (args, part) in cases {
            let message = parse(args).expect_err("makes no sense").to_string();
            assert!(message.contains(part), "{args:?}: {message}");
        }
    }

    #[test]
    fn everything_runs_unless_it_is_left_out_by_name() {
        let left = |args: &[&str]| {
            let options = parse(args).expect("known");
            STEPS.into_iter().filter(|s| options.leaves_out(*s).is_none()).map(Step::name).collect::<Vec<_>>()
        };
        assert_eq!(left(&[]), ["fmt", "clippy", "walls", "words", "build", "test"]);
        assert_eq!(left(&["--fast"]), ["fmt", "walls", "words", "build", "test"]);
        assert_eq!(left(&["--only", "walls"]), ["walls"]);
    }

    #[test]
    fn tests_run_from_the_build_that_was_made_for_them() {
        let without = |step: Step, flag: &str| -> Vec<_> {
            step.cargo_args().expect("a cargo step").iter().filter(|arg| **arg != flag).collect()
        };
        assert_eq!(without(Step::Build, "--no-run"), without(Step::Test, "--no-fail-fast"));
    }

    #[test]
    fn the_last_line_never_reads_like_a_success_that_was_not() {
        let tally = Tally { passed: 8, failed: 1, ..Tally::default() };
        assert_eq!(last_line(Some(tally), Some(Step::Test)), "8 passed, 1 failed");
        assert_eq!(last_line(None, Some(Step::Clippy)), "no tests were run: clippy failed");
        assert!(!last_line(None, None).contains("0 failed"));
    }

    #[test]
    fn the_table_shows_every_step_and_the_sum_of_times() {
        let rows = [
            Row { step: Step::Format, result: "ok", time: Some(Duration::from_millis(1500)) },
            Row { step: Step::Walls, result: "FAILED", time: Some(Duration::from_millis(600)) },
            Row { step: Step::Test, result: "not reached", time: None },
        ];
        let table = table(&rows);
        for part in
            ["fmt      ok                     1.5 s", "walls    FAILED", "test     not reached", "2.1 s"]
        {
            assert!(table.contains(part), "{part:?} is missing in\n{table}");
        }
    }
}
