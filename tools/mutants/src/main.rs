//! `cargo xtask mutants`: breaks `crates/core` in every small way, and counts what the tests do not notice.
//!
//! All mutants are compiled into one build (`schema`) of a scratch copy (`scratch`) and woken one at a time by a number;
//! so each costs a few short test runs and no compiler. The steps are in `main`, in order; README.md says why.

mod hunt;
mod report;
mod schema;
mod scratch;
mod sites;
mod suite;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::hunt::Hunt;
use crate::report::{Explained, Fate, Mutant, Totals};
use crate::scratch::{File, Scratch};
use crate::suite::Effort;

const HELP: &str = "\
Breaks crates/core in every small way, and counts what the tests of core and testkit do not notice.

usage: cargo xtask mutants [options]

  --file PART      only files whose path holds PART (may be given more than once)
  --shard K/N      only every N-th mutant, beginning with the K-th (from 1)
  --sample N       at most N mutants of each file, drawn by --seed (default 0)
  --seed S
  --minutes M      stop after M minutes of waking mutants; what was not come to counts as not tried
  --again          only those that survived the last time; the rest is taken from the last results
  --resume         only those that were not come to the last time, also when it was stopped; the rest is taken
                   from the last results
  --jobs N         test programs side by side (default: all cores)
  --seeds N        lives of each simulator for every mutant (default 40)
  --deep N         lives for what is still not noticed then (default 0: none)
  --longest S      leave out tests that take longer than S seconds by themselves (default 20)
  --patience N     how many times longer than asleep a mutant may take (default 8; three seconds come on top)
  --threshold P    fail below P percent caught of all that compile and were tried (default 95)
  --scratch DIR    where the copy and results.json go (default: target/mutants)
  --write          write docs/mutants.md
  --list           name all mutants and stop
  --page           write docs/mutants.md from the last results and stop

Exit: 0 at or above the threshold, 1 below it or on an error. Explanations of survivors are in
tools/mutants/explained.tsv; one that is no longer true is an error.";

#[derive(Debug)]
struct Options {
    files: Vec<String>,
    shard: (usize, usize),
    sample: Option<usize>,
    seed: u64,
    minutes: Option<f64>,
    again: bool,
    resume: bool,
    jobs: usize,
    seeds: u64,
    deep: u64,
    longest: u64,
    patience: u32,
    threshold: f64,
    scratch: PathBuf,
    /// Where cargo builds: third-party crates are then those of every other build.
    target: PathBuf,
    write: bool,
    list: bool,
    page: bool,
}

impl Options {
    fn parse(args: &[String], root: &Path) -> Result<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let mut options = Self {
            files: Vec::new(),
            shard: (1, 1),
            sample: None,
            seed: 0,
            minutes: None,
            again: false,
            resume: false,
            jobs: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            seeds: 40,
            deep: 0,
            longest: 20,
            patience: 8,
            threshold: 95.0,
            scratch: target.join("mutants"),
            target,
            write: false,
            list: false,
            page: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
            match arg.as_str() {
                "--file" => options.files.push(value()?.clone()),
                "--shard" => {
                    let (k, n) = value()?.split_once('/').context("--shard wants K/N")?;
                    options.shard = (k.parse()?, n.parse()?);
                    ensure!((1..=options.shard.1).contains(&options.shard.0), "--shard wants K from 1 to N");
                }
                "--sample" => options.sample = Some(value()?.parse()?),
                "--seed" => options.seed = value()?.parse()?,
                "--minutes" => options.minutes = Some(value()?.parse()?),
                "--again" => options.again = true,
                "--resume" => options.resume = true,
                "--jobs" => options.jobs = value()?.parse()?,
                "--seeds" => options.seeds = value()?.parse()?,
                "--deep" => options.deep = value()?.parse()?,
                "--longest" => options.longest = value()?.parse()?,
                "--patience" => options.patience = value()?.parse()?,
                "--threshold" => options.threshold = value()?.parse()?,
                "--scratch" => options.scratch = value()?.into(),
                "--write" => options.write = true,
                "--list" => options.list = true,
                "--page" => options.page = true,
                other => bail!("no such option: {other}\n\n{HELP}"),
            }
        }
        ensure!(!(options.again && options.resume), "--again and --resume are two different runs");
        ensure!(options.jobs > 0, "--jobs wants at least one");
        Ok(options)
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutants: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<bool> {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&own).join("../..").canonicalize()?;
    let options = Options::parse(args, &root)?;
    let explained = Explained::parse(&fs::read_to_string(root.join("tools/mutants/explained.tsv"))?)?;
    let results = options.scratch.join("results.json");
    let how = options.scratch.join("how.txt");
    if options.page {
        let mutants = report::from_json(&fs::read_to_string(&results)?)?;
        return finish(&root, &mutants, &explained, &fs::read_to_string(&how)?, &options);
    }
    let files = scratch::read(&root)?;
    let mut mutants = name(&files);
    if options.list {
        for mutant in &mutants {
            println!("{}", mutant.title());
        }
        println!("{} mutants", mutants.len());
        return Ok(true);
    }

    let started = Instant::now();
    let copy = Scratch::copy(&root, &options.scratch.join("copy"))?;
    let dropped = copy.drop_what_does_not_compile(&files, &options.target)?;
    let programs = copy.build(&options.target)?;
    let built = started.elapsed();
    eprintln!("{} mutants, {} do not compile; built in {} s", mutants.len(), dropped.len(), built.as_secs());

    let effort = Effort { seeds: options.seeds, cases: options.seeds * 25 };
    let deep = (options.deep > 0).then_some(Effort { seeds: options.deep, cases: options.deep * 25 });
    let longest = Duration::from_secs(options.longest);
    let tests = suite::survey(&programs, effort, longest, options.jobs, &options.scratch.join("traces"))?;
    let witnesses = suite::witnesses(&tests);
    let all: Duration = tests.iter().map(|test| test.took).sum();
    eprintln!("{} tests of {} programs take {:.1} s", tests.len(), programs.len(), all.as_secs_f64());
    for test in tests.iter().filter(|test| test.took > Duration::from_secs(2)) {
        eprintln!("  {:.1} s: {} {}", test.took.as_secs_f64(), programs[test.program].name, test.name);
    }

    let goes_on = options.again || options.resume;
    let before = if goes_on { report::from_json(&fs::read_to_string(&results)?)? } else { Vec::new() };
    let before: BTreeMap<String, Mutant> = before.into_iter().map(|mutant| (mutant.key(), mutant)).collect();
    for mutant in &mut mutants {
        if dropped.contains(&mutant.number) {
            mutant.fate = Fate::DoesNotCompile;
        } else if let Some(known) = before.get(&mutant.key()) {
            mutant.fate = known.fate;
            mutant.by.clone_from(&known.by);
        }
    }
    let mut chosen = choose(&mutants, &options);
    // What no test comes by costs nothing and is said first.
    chosen.sort_by_key(|mutant| witnesses.contains_key(&mutant.place));
    let hunt = Hunt {
        programs: &programs,
        tests: &tests,
        witnesses: &witnesses,
        effort,
        deep,
        patience: options.patience,
    };
    let until = options.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let hunting = Instant::now();
    let with = |done: &[Mutant]| {
        let mut all = mutants.clone();
        for mutant in done {
            all[usize::try_from(mutant.number)? - 1] = mutant.clone();
        }
        anyhow::Ok(all)
    };
    let keep = |all: &[Mutant]| anyhow::Ok(fs::write(&results, serde_json::to_string_pretty(all)?)?);
    // Whoever stops it goes on with `--resume`.
    let done = hunt.run(&chosen, options.jobs, until, |done| keep(&with(done)?))?;
    let (woken, mutants) = (done.len(), with(&done)?);
    // What is taken from the last results was found by the runs before.
    let earlier = if goes_on { fs::read_to_string(&how).unwrap_or_default() } else { String::new() };
    let kind = if options.again { "survivors again" } else { "a run" };
    let words = format!(
        "{earlier}\n- {kind}: {} mutants built into one program in {} s, surveyed by {} tests, {} of them woken in {} s with {} jobs side by side ({} lives of each \
         simulator for each, {} for what was left; tests of more than {} s left out).",
        mutants.len(),
        built.as_secs(),
        tests.len(),
        woken,
        hunting.elapsed().as_secs(),
        options.jobs,
        options.seeds,
        options.deep.max(options.seeds),
        options.longest,
    );
    fs::write(&how, &words)?;
    keep(&mutants)?;
    finish(&root, &mutants, &explained, &words, &options)
}

fn finish(
    root: &Path,
    mutants: &[Mutant],
    explained: &Explained,
    how: &str,
    options: &Options,
) -> Result<bool> {
    let totals = Totals::of(mutants, explained);
    for mutant in mutants.iter().filter(|mutant| mutant.lives() && !explained.0.contains_key(&mutant.key())) {
        println!("{:?}: {}", mutant.fate, mutant.title());
    }
    println!("{}", totals.line());
    if options.write || options.page {
        fs::write(root.join("docs/mutants.md"), report::page(mutants, explained, how))?;
    }
    let stale = explained.stale(mutants);
    for key in &stale {
        println!("explained, but does not survive: {key}");
    }
    Ok(stale.is_empty() && totals.percent() >= options.threshold)
}

/// All mutants, in the order of their numbers.
fn name(files: &[File]) -> Vec<Mutant> {
    let mut mutants = Vec::new();
    for file in files {
        let mut number = file.first;
        let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for site in &file.sites {
            let place = number;
            for mutation in &site.mutations {
                let nth = seen.entry((&site.function, &mutation.what)).or_default();
                *nth += 1;
                mutants.push(Mutant {
                    number,
                    place,
                    file: file.path.clone(),
                    line: site.line,
                    column: site.column,
                    function: site.function.clone(),
                    what: mutation.what.clone(),
                    nth: *nth,
                    fate: Fate::NotTried,
                    by: String::new(),
                });
                number += 1;
            }
        }
    }
    mutants
}

/// Those that are to be woken, in an order in which a run that is cut short has seen something of every file.
fn choose(mutants: &[Mutant], options: &Options) -> Vec<Mutant> {
    let is_wanted = |mutant: &&Mutant| {
        (if options.again { mutant.lives() } else { mutant.fate == Fate::NotTried })
            && (options.files.is_empty() || options.files.iter().any(|part| mutant.file.contains(part)))
            && usize::try_from(mutant.number).unwrap_or(0) % options.shard.1
                == options.shard.0 % options.shard.1
    };
    let mut chosen: Vec<&Mutant> = mutants.iter().filter(is_wanted).collect();
    chosen.sort_by_key(|mutant| mix(u64::from(mutant.number) ^ mix(options.seed)));
    if let Some(most) = options.sample {
        let mut taken: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        chosen.retain(|mutant| {
            let taken = taken.entry(&mutant.file).or_default();
            taken.len() < most && taken.insert(mutant.number)
        });
    }
    chosen.into_iter().cloned().collect()
}

/// Scatters numbers (the finalizer of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
