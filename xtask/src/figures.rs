//! What proofs wrote down of themselves: one line of JSON for each campaign, added up by job and by kind.
//!
//! Test programs append the lines to the file that `LANDFALL_FIGURES` names (`crates/testkit/src/campaign.rs`). `suite`
//! demands the floors of a run, `prove` puts the sums into the ledger. Tests are at the end of the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The variable that names the file.
pub(crate) const FIGURES: &str = "LANDFALL_FIGURES";

/// What every run of all tests must have done at least, and what for (issue of the proof, tier 1).
pub(crate) const FLOORS: &[(&str, u64)] = &[
    ("seeds", 40_000),
    ("images", 30_000),
    ("faults", 6_000),
    ("kills", 1_000),
    ("damaged files", 5_000),
    ("damaged answers", 5_000),
    ("executions", 100_000),
    ("planted", 15),
];

/// The figures of one job.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Job {
    /// The seeds that were lived, as a range; empty for what is no matter of seeds.
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) seconds: f64,
    pub(crate) figures: BTreeMap<String, u64>,
    pub(crate) failed_seeds: Vec<u64>,
}

impl Job {
    pub(crate) fn figure(&self, name: &str) -> u64 {
        self.figures.get(name).copied().unwrap_or(0)
    }

    /// What this one did as well.
    pub(crate) fn add(&mut self, more: &Self) {
        if self.to == self.from {
            self.from = more.from;
            self.to = more.to;
        } else if more.to > more.from {
            self.from = self.from.min(more.from);
            self.to = self.to.max(more.to);
        }
        self.seconds += more.seconds;
        for (name, number) in &more.figures {
            *self.figures.entry(name.clone()).or_default() += number;
        }
        self.failed_seeds.extend(&more.failed_seeds);
    }
}

/// What all programs of one run wrote down, by job.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) jobs: BTreeMap<String, Job>,
}

impl Figures {
    /// Reads and removes the file. No file: no proof ran.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut figures = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (name, job) = parse_line(line).with_context(|| format!("not a line of figures: {line}"))?;
            figures.jobs.entry(name).or_default().add(&job);
        }
        Ok(figures)
    }

    /// The sum over all jobs.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        self.jobs.values().map(|job| job.figure(name)).sum()
    }

    /// The floors that were not reached.
    pub(crate) fn below_floor(&self) -> Vec<String> {
        let mut short: Vec<String> = FLOORS
            .iter()
            .filter(|(name, floor)| self.sum(name) < *floor)
            .map(|(name, floor)| {
                format!("{} {name}, and {} are asked for", grouped(self.sum(name)), grouped(*floor))
            })
            .collect();
        let (planted, found) = (self.sum("planted"), self.sum("found"));
        if found != planted {
            short.push(format!("{found} of {planted} planted bugs were found"));
        }
        short
    }

    /// For people: one row for each job.
    pub(crate) fn table(&self) -> String {
        let rows = self
            .jobs
            .iter()
            .map(|(name, job)| format!("{name:24} {:>8.1} s  {}", job.seconds, in_words(&job.figures)));
        rows.collect::<Vec<_>>().join("\n")
    }
}

/// A file that no other run uses.
pub(crate) fn new_file() -> PathBuf {
    std::env::temp_dir().join(format!("landfall-figures-{}.jsonl", std::process::id()))
}

fn parse_line(line: &str) -> Result<(String, Job)> {
    let read: Value = serde_json::from_str(line)?;
    let Some(name) = read["job"].as_str() else { bail!("it names no job") };
    let number = |name: &str| read[name].as_u64().with_context(|| format!("no {name}"));
    let figures = read["figures"].as_object().context("no figures")?;
    let figures = figures.iter().map(|(name, number)| {
        Ok((name.clone(), number.as_u64().with_context(|| format!("{name} is no number"))?))
    });
    let failed = read["failed_seeds"].as_array().context("no failed_seeds")?;
    let job = Job {
        from: number("from")?,
        to: number("to")?,
        seconds: read["seconds"].as_f64().context("no seconds")?,
        figures: figures.collect::<Result<_>>()?,
        failed_seeds: failed.iter().filter_map(Value::as_u64).collect(),
    };
    Ok((name.to_owned(), job))
}

/// `seeds 40,000; crashes 12`, what is zero left out but for failures.
pub(crate) fn in_words(figures: &BTreeMap<String, u64>) -> String {
    let told = figures.iter().filter(|(name, number)| **number > 0 || *name == "failed");
    told.map(|(name, number)| format!("{name} {}", grouped(*number))).collect::<Vec<_>>().join("; ")
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"job":"sim","from":0,"to":10,"seconds":1.5,"figures":{"seeds":10,"failed":1},"failed_seeds":[7]}"#;
    const MORE: &str = r#"{"job":"sim","from":10,"to":30,"seconds":2.0,"figures":{"seeds":20,"failed":0},"failed_seeds":[]}"#;

    #[test]
    fn lines_of_one_job_add_up() {
        let figures = Figures::parse(&format!("{LINE}\n{MORE}\n")).unwrap();
        let job = &figures.jobs["sim"];
        assert_eq!((job.from, job.to, job.figure("seeds")), (0, 30, 30));
        assert_eq!(job.failed_seeds, [7]);
        assert_eq!(figures.table(), "sim                           3.5 s  failed 1; seeds 30");
    }

    #[test]
    fn rubbish_is_an_error_and_not_a_zero() {
        for line in [
            "{}",
            "seeds 5",
            r#"{"job":"sim","from":0,"to":1,"seconds":1,"figures":{"seeds":"x"},"failed_seeds":[]}"#,
        ] {
            assert!(Figures::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_below_its_floor_is_named() {
        let figures = Figures::parse(LINE).unwrap();
        let short = figures.below_floor();
        assert!(short.contains(&"10 seeds, and 40,000 are asked for".to_owned()), "{short:?}");
        let mut all = Figures::default();
        let figures = FLOORS.iter().map(|(name, floor)| ((*name).to_owned(), *floor));
        let job = Job { figures: figures.collect(), ..Job::default() };
        all.jobs.insert("all".into(), job);
        assert_eq!(all.below_floor(), ["0 of 15 planted bugs were found"]);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0, 999, 1_000, 1_234_567].map(grouped).map(|text| text).each_ref().map(String::as_str)
        );
    }
}
