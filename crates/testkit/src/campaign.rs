//! Campaigns: how many lives a proof lives, from which seed on, on how many threads, and what it writes down of them.
//!
//! A proof is an ordinary test. It says how many lives it needs in every run and how to live one, from a seed; a
//! campaign shares them out to all cores, goes on after a failure so that one bad seed does not hide the others, and
//! names every seed that failed. The environment stretches it, without a second program:
//!
//! | variable | meaning |
//! |---|---|
//! | `LANDFALL_SEED=n` | live this life alone, and show all of it if it fails |
//! | `LANDFALL_SEEDS=n` | live so many |
//! | `LANDFALL_FROM=n` | begin with this seed |
//! | `LANDFALL_ACTIONS=n` | in lives that can be shorter: so much is done in each |
//! | `LANDFALL_MINUTES=m` | go on until the time is over, however many that are (fractions count) |
//! | `LANDFALL_TIER` | `fast`: a tenth; `nightly`: four times as many |
//! | `LANDFALL_FIGURES=path` | append one line of JSON about what was done: the ledger and the test command read it |
//!
//! It knows nothing of what a life is. Tests are at the end of the file.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A rule that is broken everywhere need not be shown more often than this.
const FAILURES_MAX: usize = 20;
/// Names the file that a line about each campaign is appended to.
const FIGURES: &str = "LANDFALL_FIGURES";
/// How long a shorter life is looked for that fails alike.
const SEARCH: Duration = Duration::from_secs(20);
/// Lives of one length that are tried for it.
const SEARCH_LIVES: u64 = 300;
/// How often a campaign that goes by the clock says how far it is.
const NEWS: Duration = Duration::from_secs(30);

/// What was done, by its name: how many images, kills, conflicts.
pub type Figures = BTreeMap<&'static str, u64>;

/// Whether the environment asks for the life of one seed.
pub(crate) fn is_one_seed() -> bool {
    std::env::var_os("LANDFALL_SEED").is_some()
}

/// How much of a proof is to be run.
#[derive(Clone, Debug)]
pub struct Campaign {
    job: &'static str,
    range: Range<u64>,
    until: Option<Instant>,
    /// Whether one life was asked for by its number.
    single: bool,
    /// How much is to be done in each life, where that can be chosen.
    actions: Option<u32>,
    threads: usize,
    /// Where it is written down.
    figures: Option<PathBuf>,
}

impl Campaign {
    /// A campaign of `lives` lives, unless the environment asks for others. `job` is its name in the ledger.
    pub fn new(job: &'static str, lives: u64) -> Self {
        Self::with(job, lives, |name| std::env::var(name).ok())
    }

    fn with(job: &'static str, lives: u64, var: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name| var(name).and_then(|text| text.parse::<u64>().ok());
        let from = number("LANDFALL_FROM").unwrap_or(0);
        let tier = match var("LANDFALL_TIER").as_deref() {
            Some("fast") => lives.div_ceil(10),
            Some("nightly") => lives.saturating_mul(4),
            _ => lives,
        };
        let minutes = var("LANDFALL_MINUTES").and_then(|text| text.parse::<f64>().ok());
        let time = minutes.and_then(|minutes| Duration::try_from_secs_f64(minutes * 60.0).ok());
        let single = number("LANDFALL_SEED");
        let range = match (single, time) {
            (Some(seed), _) => seed..seed + 1,
            (None, Some(_)) => from..u64::MAX,
            (None, None) => from..from.saturating_add(number("LANDFALL_SEEDS").unwrap_or(tier)),
        };
        let until = if single.is_some() { None } else { time.map(|time| Instant::now() + time) };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let figures = var(FIGURES).map(PathBuf::from);
        let actions = number("LANDFALL_ACTIONS").and_then(|number| u32::try_from(number).ok());
        Self { job, range, until, single: single.is_some(), actions, threads, figures }
    }

    /// One life after the other, for proofs that have the machine to themselves.
    #[must_use]
    pub fn one_at_a_time(mut self) -> Self {
        self.threads = 1;
        self
    }

    /// Whether this is the life of one seed, to look at it closely.
    pub fn is_single(&self) -> bool {
        self.single
    }

    /// Lives them all. Returns what was done in all of them, with `seeds` and `failed` counted here.
    ///
    /// # Panics
    /// At the end, if a life failed: with the seed and the words of each.
    pub fn run(self, live: impl Fn(u64) -> Result<Figures, String> + Sync) -> Figures {
        self.run_with(live, |_, _| None)
    }

    /// The same with lives in which `actions` things are done, or fewer: of a failure it also looks for the shortest life
    /// that goes wrong in the same way, since most of what happens in a long one has nothing to do with it.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_short(
        self,
        actions: u32,
        live: impl Fn(u64, u32) -> Result<Figures, String> + Sync,
    ) -> Figures {
        let (actions, single) = (self.actions.unwrap_or(actions), self.single);
        let shorter = |seed, what: &str| {
            if single { None } else { shortest(seed, what, actions, SEARCH, &live) }
        };
        self.run_with(|seed| live(seed, actions), shorter)
    }

    fn run_with(
        self,
        live: impl Fn(u64) -> Result<Figures, String> + Sync,
        shorter: impl FnOnce(u64, &str) -> Option<(u64, u32)>,
    ) -> Figures {
        let started = Instant::now();
        let next = AtomicU64::new(self.range.start);
        let enough = AtomicBool::new(false);
        let done = Mutex::new((Figures::new(), Vec::<(u64, String)>::new(), started));
        thread::scope(|scope| {
            for _ in
                0..self.threads.min(usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX))
            {
                scope.spawn(|| {
                    while !enough.load(Ordering::Relaxed)
                        && self.until.is_none_or(|until| Instant::now() < until)
                    {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.range.end {
                            break;
                        }
                        let outcome = catch_unwind(AssertUnwindSafe(|| live(seed)))
                            .unwrap_or_else(|panic| Err(words_of(&*panic)));
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        *done.0.entry("seeds").or_default() += 1;
                        match outcome {
                            Ok(figures) => add(&mut done.0, &figures),
                            Err(what) => done.1.push((seed, what)),
                        }
                        enough.store(done.1.len() >= FAILURES_MAX, Ordering::Relaxed);
                        if self.until.is_some() && done.2.elapsed() >= NEWS {
                            done.2 = Instant::now();
                            // Past the harness, which keeps what a test prints until it ends.
                            let _ =
                                writeln!(io::stderr(), "{}", news(self.job, started, &done.0, done.1.len()));
                        }
                    }
                });
            }
        });
        let (mut figures, mut failures, _) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        failures.sort();
        figures.insert("failed", failures.len() as u64);
        let to = next.load(Ordering::Relaxed).min(self.range.end);
        let failed: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
        record(
            self.figures.as_deref(),
            &line(self.job, self.range.start..to, started.elapsed(), &figures, &failed),
        );
        let Some((seed, what)) = failures.first() else { return figures };
        let mut report = report(self.job, &failures);
        if let Some((short, actions)) = shorter(*seed, what) {
            let vars = format!("LANDFALL_SEED={short} LANDFALL_ACTIONS={actions}");
            let _ = write!(report, "\n\n{vars} shows a shorter life that goes wrong like seed {seed}");
        }
        panic!("{report}");
    }
}

/// The seed and the length of the shortest life that goes wrong as this one did, as far as it is found in `time`.
fn shortest(
    seed: u64,
    what: &str,
    actions: u32,
    time: Duration,
    live: &impl Fn(u64, u32) -> Result<Figures, String>,
) -> Option<(u64, u32)> {
    let until = Instant::now() + time;
    let fails_alike = |seed: u64, actions: u32| {
        let outcome = catch_unwind(AssertUnwindSafe(|| live(seed, actions)))
            .unwrap_or_else(|panic| Err(words_of(&*panic)));
        outcome.is_err_and(|other| shape(&other) == shape(what))
    };
    let lengths = (1..actions).scan(0, |last, step| {
        // 1, 2, 3, 4, 6, 8, 11: each a third longer.
        *last += (*last / 3).max(1);
        (*last < actions && step < actions).then_some(*last)
    });
    lengths
        .flat_map(|actions| (seed..seed.saturating_add(SEARCH_LIVES)).map(move |seed| (seed, actions)))
        .take_while(|_| Instant::now() < until)
        .find(|(seed, actions)| fails_alike(*seed, *actions))
}

/// A failure without what is different in each life.
fn shape(what: &str) -> String {
    let words = what.lines().next().unwrap_or_default().split_whitespace();
    let is_told = |word: &&str| !word.chars().any(|c| c.is_ascii_digit()) || word.starts_with('G');
    words.filter(is_told).take(8).collect::<Vec<_>>().join(" ")
}

/// A life that panics has failed like any other.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a panic: {}", text.unwrap_or("its text is above"))
}

/// Writes down what a proof did that is no matter of seeds, as [`Campaign::run`] does for one that is.
pub fn note(job: &str, took: Duration, figures: &Figures) {
    let path = std::env::var_os(FIGURES).map(PathBuf::from);
    record(path.as_deref(), &line(job, 0..0, took, figures, &[]));
}

/// Adds up.
pub fn add(all: &mut Figures, more: &Figures) {
    for (name, number) in more {
        *all.entry(name).or_default() += number;
    }
}

fn news(job: &str, started: Instant, figures: &Figures, failed: usize) -> String {
    let seeds = figures.get("seeds").copied().unwrap_or(0);
    let seconds = started.elapsed().as_secs();
    format!("{job}: {seeds} seeds in {seconds} s, {failed} failed")
}

fn report(job: &str, failures: &[(u64, String)]) -> String {
    let mut text = format!("{job}: {} lives failed", failures.len());
    for (seed, what) in failures {
        let _ = write!(text, "\n\nseed {seed} (LANDFALL_SEED={seed} shows it alone): {what}");
    }
    text
}

fn line(job: &str, range: Range<u64>, took: Duration, figures: &Figures, failed: &[u64]) -> String {
    let line = serde_json::json!({
        "job": job, "from": range.start, "to": range.end, "seconds": took.as_secs_f64(),
        "figures": figures, "failed_seeds": failed,
    });
    line.to_string()
}

fn record(path: Option<&Path>, line: &str) {
    let Some(path) = path else { return };
    let file = OpenOptions::new().append(true).create(true).open(path);
    // One write: lines of programs that run side by side do not mix.
    if let Err(error) = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
        let _ = writeln!(io::stderr(), "{FIGURES}={}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn campaign(vars: &[(&str, &str)]) -> Campaign {
        let vars: BTreeMap<&str, &str> = vars.iter().copied().collect();
        Campaign::with("test", 100, |name| vars.get(name).map(ToString::to_string))
    }

    #[test]
    fn the_environment_stretches_a_campaign() {
        assert_eq!(campaign(&[]).range, 0..100);
        assert_eq!(campaign(&[("LANDFALL_TIER", "fast")]).range, 0..10);
        assert_eq!(campaign(&[("LANDFALL_TIER", "nightly")]).range, 0..400);
        assert_eq!(campaign(&[("LANDFALL_SEEDS", "7"), ("LANDFALL_FROM", "5")]).range, 5..12);
        assert_eq!(campaign(&[("LANDFALL_SEED", "42"), ("LANDFALL_MINUTES", "9")]).range, 42..43);
        assert!(campaign(&[("LANDFALL_MINUTES", "0.5")]).until.is_some());
    }

    #[test]
    fn every_seed_is_lived_once_and_all_is_added_up() {
        let seen = Mutex::new(Vec::new());
        let figures = campaign(&[]).run(|seed| {
            seen.lock().unwrap().push(seed);
            Ok(Figures::from([("things", seed)]))
        });
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        assert_eq!(figures, Figures::from([("failed", 0), ("seeds", 100), ("things", 4950)]));
    }

    #[test]
    #[should_panic(expected = "LANDFALL_SEED=17 shows it alone): broken")]
    fn a_life_that_fails_is_named_and_does_not_hide_others() {
        let lived = AtomicU64::new(0);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            campaign(&[]).run(|seed| {
                lived.fetch_add(1, Ordering::Relaxed);
                if seed == 17 { Err("broken".into()) } else { Ok(Figures::new()) }
            })
        }));
        assert_eq!(lived.load(Ordering::Relaxed), 100);
        std::panic::resume_unwind(outcome.unwrap_err());
    }

    #[test]
    #[should_panic(expected = "LANDFALL_SEED=3 shows it alone): a panic: by chance 3")]
    fn a_life_that_panics_has_failed() {
        campaign(&[]).run(|seed| {
            if seed == 3 {
                panic!("by chance {seed}");
            }
            Ok(Figures::new())
        });
    }

    #[test]
    fn of_a_failure_the_shortest_life_that_goes_wrong_alike_is_shown() {
        let live = |seed: u64, actions: u32| match (seed % 7, actions) {
            (3, 6..) => Err(format!("G2: {seed}-x is lost")),
            (_, 4) => Err("something else".into()),
            _ => Ok(Figures::new()),
        };
        let report = std::panic::catch_unwind(|| campaign(&[]).run_short(60, live)).unwrap_err();
        let report = words_of(&*report);
        assert!(report.contains("LANDFALL_SEED=3 LANDFALL_ACTIONS=6 shows a shorter life"), "{report}");
        let asked = campaign(&[("LANDFALL_ACTIONS", "5"), ("LANDFALL_SEEDS", "9")]);
        assert_eq!(asked.run_short(60, live)["failed"], 0, "five are not enough for it");
    }

    #[test]
    fn what_is_done_is_written_down_where_the_environment_says() {
        let path = std::env::temp_dir().join(format!("landfall-campaign-{}", std::process::id()));
        let figures = path.display().to_string();
        for _ in 0..2 {
            campaign(&[("LANDFALL_FIGURES", &figures)]).run(|_| Ok(Figures::new()));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("\"seeds\":100")).count(), 2, "{text}");
    }

    #[test]
    fn what_is_written_down_is_one_line_of_json() {
        let line = line("sim", 5..9, Duration::from_millis(1500), &Figures::from([("seeds", 4)]), &[6]);
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["to"], 9);
        assert_eq!(read["figures"]["seeds"], 4);
        assert_eq!(read["failed_seeds"][0], 6);
    }
}
