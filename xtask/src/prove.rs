//! `cargo xtask prove`: the proofs of the tests run on for as long as one has, and are written into the ledger.
//!
//! A job is a test that lives campaigns (`crates/testkit/src/campaign.rs`); here it is built for release and goes on from
//! the seed at which the ledger stopped. Jobs run in slices, and the ledger is written after each: who stops it with
//! Ctrl-C loses one slice. How the ledger reads is in `ledger`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::figures::{self, FIGURES, Figures};
use crate::ledger::{Entry, Ledger};
use crate::workspace::Workspace;

/// How long one run of a test may take before the ledger is written.
const SLICE: Duration = Duration::from_secs(5 * 60);

/// A test that can go on for ever.
struct Job {
    name: &'static str,
    package: &'static str,
    program: &'static str,
    test: &'static str,
    /// How much of the time it gets, beside the others.
    share: u32,
}

const fn job(
    name: &'static str,
    package: &'static str,
    program: &'static str,
    test: &'static str,
    share: u32,
) -> Job {
    Job { name, package, program, test, share }
}

const JOBS: &[Job] = &[
    job(
        "whole-engine",
        "landfall-proof",
        "whole_engine",
        "nothing_is_lost_doubled_or_overwritten_on_any_disk",
        6,
    ),
    job(
        "first-world",
        "landfall-testkit",
        "simulator",
        "nothing_is_lost_doubled_or_overwritten_in_any_life",
        4,
    ),
    job("second-world", "landfall-testkit", "errands", "every_task_ends_once_and_truly_in_any_life", 4),
    job("power-loss", "landfall-proof", "power_loss", "random_work_survives_any_power_cut", 6),
    job(
        "kills",
        "landfall-cli",
        "kill_storm",
        "a_storm_of_kills_loses_nothing_doubles_nothing_and_leaves_nothing_stuck",
        6,
    ),
    job(
        "hostile-network",
        "landfall-cli",
        "hostile_network",
        "a_life_on_a_hostile_network_ends_with_one_effect_of_each_change",
        1,
    ),
    job("fuzz", "landfall-proof", "fuzz", "changed_inputs_keep_the_laws", 4),
];

#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    minutes: f64,
    jobs: Vec<String>,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self { minutes: 0.0, jobs: Vec::new() };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (arg, None),
            };
            let mut value = || value.or_else(|| args.next()).with_context(|| format!("{name} needs a value"));
            match name {
                "--minutes" => {
                    let text = value()?;
                    let minutes: f64 =
                        text.parse().with_context(|| format!("{text:?} is no number of minutes"))?;
                    ensure!(minutes > 0.0 && minutes < 100_000.0, "{text} minutes: give a time above 0");
                    options.minutes = minutes;
                }
                "--job" => {
                    let name = value()?;
                    ensure!(
                        JOBS.iter().any(|job| job.name == name),
                        "no job is called {name:?}; there are {}",
                        names()
                    );
                    options.jobs.push(name.to_owned());
                }
                _ => bail!("unexpected argument {arg:?}\n\n{}", help()),
            }
        }
        ensure!(options.minutes > 0.0, "how long? Give `--minutes N`\n\n{}", help());
        Ok(options)
    }

    fn chosen(&self) -> Vec<&'static Job> {
        JOBS.iter()
            .filter(|job| self.jobs.is_empty() || self.jobs.iter().any(|name| name == job.name))
            .collect()
    }
}

fn names() -> String {
    JOBS.iter().map(|job| job.name).collect::<Vec<_>>().join(", ")
}

pub(crate) fn help() -> String {
    use std::fmt::Write as _;
    let mut help = String::from(
        "usage: cargo xtask prove --minutes N [--job NAME]...

Goes on with the proofs where docs/proof-ledger.md stopped, for N minutes in all, in release, on all cores, and writes
into the ledger what was done. A seed that fails is named there and here; it is shown alone by the command that the
report gives. The exit code is 0 only if nothing failed. Ctrl-C keeps what is in the ledger, at most five minutes ago.

options:
  --minutes N   how long, fractions too; shared among the jobs
  --job NAME    only this one; may be given more than once

jobs:",
    );
    for job in JOBS {
        let _ = write!(help, "\n  {:16} {} --test {} {}", job.name, job.package, job.program, job.test);
    }
    help.push_str("\n\nexample: cargo xtask prove --minutes 60 --job power-loss");
    help
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let jobs = options.chosen();
    let commit = workspace.clean_commit(&[Ledger::PATH])?;
    build(workspace)?;
    let shares: u32 = jobs.iter().map(|job| job.share).sum();
    let mut failed = Vec::new();
    for job in jobs {
        let time = Duration::from_secs_f64(options.minutes * 60.0 * f64::from(job.share) / f64::from(shares));
        println!("==== {}: {:.1} min", job.name, time.as_secs_f64() / 60.0);
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left < Duration::from_secs(1) {
                break;
            }
            let done = slice(workspace, job, left.min(SLICE), &commit)?;
            println!("---- {}: {}", job.name, figures::in_words(&done.job.figures));
            if done.job.figure("failed") > 0 {
                failed.push(format!("{}: {:?}", job.name, done.job.failed_seeds));
                break;
            }
        }
    }
    println!("\n{}", Ledger::read(workspace.root())?.totals());
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nfailed:\n{}", failed.join("\n"));
    Ok(ExitCode::FAILURE)
}

/// Builds and runs all programs of all jobs in one way, so that nothing is compiled twice. Which tests run is for `rest`.
fn cargo(workspace: &Workspace, rest: &[&str]) -> std::process::Command {
    let mut args = vec!["test".to_owned(), "--release".into(), "--locked".into()];
    for job in JOBS {
        args.extend([format!("--package={}", job.package), format!("--test={}", job.program)]);
    }
    args.extend(rest.iter().map(ToString::to_string));
    workspace.cargo(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn build(workspace: &Workspace) -> Result<()> {
    let status = cargo(workspace, &["--no-run"]).status().context("cannot start cargo")?;
    ensure!(status.success(), "the proofs do not build ({status})");
    Ok(())
}

/// One run of a job's test, from where the ledger stopped, and its entry.
fn slice(workspace: &Workspace, job: &Job, time: Duration, commit: &str) -> Result<Entry> {
    let mut ledger = Ledger::read(workspace.root())?;
    let file = figures::new_file();
    let status = cargo(workspace, &["--quiet", "--", "--exact", job.test])
        .env(FIGURES, &file)
        .env("LANDFALL_MINUTES", (time.as_secs_f64() / 60.0).to_string())
        .env("LANDFALL_FROM", ledger.next_seed(job.name).to_string())
        .env_remove("LANDFALL_TIER")
        .env_remove("LANDFALL_SEED")
        .env_remove("LANDFALL_SEEDS")
        .status()
        .context("cannot start cargo")?;
    let mut figures = Figures::take(&file)?;
    let Some(done) = figures.jobs.remove(job.name) else {
        bail!("`{}` wrote down nothing under the name {:?} ({status})", job.test, job.name);
    };
    ensure!(
        status.success() || done.figure("failed") > 0,
        "`{}` failed ({status}), and no seed did",
        job.test
    );
    let entry = Entry { commit: commit.to_owned(), name: job.name.to_owned(), job: done };
    ledger.enter(entry.clone());
    ledger.write(workspace.root())?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options> {
        Options::parse(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_and_rubbish_is_refused() {
        let options = parse(&["--minutes", "2.5", "--job=kills"]).unwrap();
        assert_eq!(options, Options { minutes: 2.5, jobs: vec!["kills".into()] });
        assert_eq!(options.chosen().len(), 1);
        for bad in [
            &[][..],
            &["--minutes"],
            &["--minutes", "0"],
            &["--minutes=x"],
            &["--minutes=1", "--job=nothing"],
            &["5"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    /// A name that leads nowhere would be noticed only when somebody has an hour.
    #[test]
    fn every_job_is_a_test_that_lives_a_campaign_of_that_name() {
        let root = Workspace::find().unwrap();
        for job in JOBS {
            let folder = job.package.trim_start_matches("landfall-");
            let path = root.root().join(format!("crates/{folder}/tests/{}.rs", job.program));
            let text =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for part in [format!("fn {}()", job.test), format!("Campaign::new(\"{}\"", job.name)] {
                assert!(text.contains(&part), "{}: {part} is not in {}", job.name, path.display());
            }
        }
    }

    #[test]
    fn every_job_has_a_name_of_its_own() {
        let mut names: Vec<_> = JOBS.iter().map(|job| job.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), JOBS.len());
    }
}
