//! docs/proof-ledger.md: what was ever proven, by which commit, and the sums over all of it.
//!
//! The file is its own database: rows are read back from the table, and everything above it is written anew. A slice
//! of the same commit that goes on where the last one stopped becomes a part of its row. Tests are at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::figures::{Job, grouped, in_words};

const HEAD: &str = "| commit | job | seeds from | to | minutes | what was done | failing seeds |";

/// What a row tells of all that a job counts.
const TOLD: &[&str] = &[
    "seeds",
    "failed",
    "images",
    "cut while recovering",
    "faults",
    "kills",
    "crashes",
    "failed commits",
    "bad answers",
    "changes",
    "requests",
    "effects",
    "conflicts",
    "executions",
];

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) commit: String,
    pub(crate) name: String,
    pub(crate) job: Job,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
}

impl Ledger {
    pub(crate) const PATH: &str = "docs/proof-ledger.md";

    pub(crate) fn read(root: &Path) -> Result<Self> {
        match std::fs::read_to_string(root.join(Self::PATH)) {
            Ok(text) => Self::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", Self::PATH)),
        }
    }

    /// Beside the old one first: a ledger is never half written.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        let (path, beside) = (root.join(Self::PATH), root.join("docs/.proof-ledger.new"));
        std::fs::write(&beside, self.render())
            .with_context(|| format!("cannot write {}", beside.display()))?;
        std::fs::rename(&beside, &path).with_context(|| format!("cannot write {}", Self::PATH))
    }

    /// Where a job goes on.
    pub(crate) fn next_seed(&self, name: &str) -> u64 {
        self.entries.iter().filter(|entry| entry.name == name).map(|entry| entry.job.to).max().unwrap_or(0)
    }

    pub(crate) fn enter(&mut self, mut entry: Entry) {
        entry.job.figures.retain(|name, _| TOLD.contains(&name.as_str()));
        let same = |old: &&mut Entry| {
            old.name == entry.name
                && old.commit == entry.commit
                && old.job.to == entry.job.from
                && old.job.failed_seeds.is_empty()
        };
        match self.entries.iter_mut().rfind(same) {
            Some(old) => old.job.add(&entry.job),
            None => self.entries.push(entry),
        }
    }

    /// The sums over all rows, as a table.
    pub(crate) fn totals(&self) -> String {
        let mut sums: BTreeMap<&str, Job> = BTreeMap::new();
        for entry in &self.entries {
            sums.entry(&entry.name).or_default().add(&entry.job);
        }
        let mut text = String::from("| job | seeds | hours | all that was done |\n|---|---:|---:|---|");
        let mut all = Job::default();
        for (name, job) in &sums {
            all.add(job);
            let _ = write!(
                text,
                "\n| {name} | {} | {:.1} | {} |",
                grouped(job.figure("seeds")),
                job.seconds / 3600.0,
                in_words(&job.figures)
            );
        }
        let told = ["seeds", "images", "faults", "kills", "executions", "failed"];
        let told = told.map(|name| format!("{} {name}", grouped(all.figure(name)))).join(", ");
        let _ = write!(text, "\n\n**In all: {told}.**");
        text
    }

    fn render(&self) -> String {
        let mut text = String::from(
            "# Proof ledger

What was ever run of the proofs beyond the ordinary tests, by which commit. `cargo xtask prove --minutes N` writes this
file: it goes on at the seed at which the last row of a job stopped, so that no life is counted twice. A row that
names failing seeds stays, and so does the test that keeps each of them.

## Sums\n\n",
        );
        text.push_str(&self.totals());
        text.push_str("\n\n## Rows\n\n");
        text.push_str(HEAD);
        text.push_str("\n|---|---|---:|---:|---:|---|---|\n");
        for Entry { commit, name, job } in &self.entries {
            let failed = if job.failed_seeds.is_empty() {
                "none".to_owned()
            } else {
                job.failed_seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
            };
            let _ = writeln!(
                text,
                "| {commit} | {name} | {} | {} | {:.1} | {} | {failed} |",
                job.from,
                job.to,
                job.seconds / 60.0,
                in_words(&job.figures)
            );
        }
        text
    }

    fn parse(text: &str) -> Result<Self> {
        let mut rows = text.lines().skip_while(|line| *line != HEAD).skip(2).peekable();
        ensure!(
            rows.peek().is_some() || !text.contains("## Rows"),
            "{} has lost the head of its rows",
            Self::PATH
        );
        let entries = rows
            .filter(|line| !line.trim().is_empty())
            .map(|line| parse_row(line).with_context(|| format!("{}: not a row: {line}", Self::PATH)))
            .collect::<Result<_>>()?;
        Ok(Self { entries })
    }
}

fn parse_row(line: &str) -> Result<Entry> {
    let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
    let [commit, name, from, to, minutes, done, failed] = cells[..] else {
        anyhow::bail!("{} cells, not 7", cells.len())
    };
    let figures = done.split("; ").map(|figure| {
        let (name, number) = figure.rsplit_once(' ').context("a figure without a number")?;
        Ok((name.to_owned(), number.replace(',', "").parse::<u64>()?))
    });
    let failed = failed.split_whitespace().filter(|text| *text != "none").map(str::parse);
    Ok(Entry {
        commit: commit.to_owned(),
        name: name.to_owned(),
        job: Job {
            from: from.parse()?,
            to: to.parse()?,
            seconds: minutes.parse::<f64>()? * 60.0,
            figures: figures.collect::<Result<_>>()?,
            failed_seeds: failed.collect::<std::result::Result<_, _>>()?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(commit: &str, from: u64, to: u64, failed: &[u64]) -> Entry {
        let figures = [("seeds", to - from), ("failed", failed.len() as u64), ("images", 1_234)];
        Entry {
            commit: commit.into(),
            name: "sim".into(),
            job: Job {
                from,
                to,
                seconds: 90.0,
                figures: figures.map(|(name, number)| (name.to_owned(), number)).into(),
                failed_seeds: failed.to_vec(),
            },
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mut ledger = Ledger::default();
        ledger.enter(entry("abc", 0, 1_500_000, &[17, 99]));
        ledger.enter(entry("def", 1_500_000, 1_500_010, &[]));
        assert_eq!(Ledger::parse(&ledger.render()).unwrap(), ledger);
        assert_eq!(ledger.next_seed("sim"), 1_500_010);
        assert_eq!(ledger.next_seed("other"), 0);
        assert!(ledger.totals().contains("1,500,010 seeds"), "{}", ledger.totals());
    }

    #[test]
    fn a_slice_that_goes_on_is_a_part_of_its_row() {
        let mut ledger = Ledger::default();
        ledger.enter(entry("abc", 0, 10, &[]));
        ledger.enter(entry("abc", 10, 30, &[]));
        assert_eq!(ledger.entries.len(), 1);
        assert_eq!((ledger.entries[0].job.to, ledger.entries[0].job.figure("seeds")), (30, 30));
        ledger.enter(entry("def", 30, 40, &[]));
        ledger.enter(entry("def", 90, 95, &[]));
        assert_eq!(ledger.entries.len(), 3, "another commit, and a gap");
    }

    #[test]
    fn a_row_that_cannot_be_read_is_an_error() {
        let text = Ledger::default().render() + "| abc | sim | 0 | x | 1.0 | seeds 1 | none |\n";
        assert!(format!("{:#}", Ledger::parse(&text).unwrap_err()).contains("not a row"));
        assert!(Ledger::parse("## Rows\n| something else |").is_err());
    }
}
