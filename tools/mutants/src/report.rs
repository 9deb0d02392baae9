//! What became of the mutants: as JSON, in a few lines, and as the table that is committed (docs/mutants.md).
//!
//! A survivor that was looked at is in `explained.tsv`, beside this tool: its name, whether it is `equivalent` (no
//! program can tell it apart) or `accepted` (somebody could, and it does not matter), and why. An explanation of a mutant
//! that does not survive is an error: it would outlive its truth. Tests are at the end of the file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Fate {
    NotTried,
    DoesNotCompile,
    Caught,
    TimedOut,
    Survived,
    /// No test comes by its place: it survives, and there is no need to run anything.
    NotReached,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mutant {
    pub(crate) number: u32,
    /// The first number of its place.
    pub(crate) place: u32,
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) function: String,
    pub(crate) what: String,
    /// The how-manieth of its kind in the function: with the names above it stays the same when lines move.
    pub(crate) nth: usize,
    pub(crate) fate: Fate,
    /// The test that noticed.
    pub(crate) by: String,
}

impl Mutant {
    pub(crate) fn key(&self) -> String {
        let file = self.file.trim_start_matches("crates/core/src/");
        format!("{file} {} {} #{}", self.function, self.what, self.nth)
    }

    pub(crate) fn title(&self) -> String {
        format!("{}:{}:{} in {}: {}", self.file, self.line, self.column, self.function, self.what)
    }

    pub(crate) fn lives(&self) -> bool {
        matches!(self.fate, Fate::Survived | Fate::NotReached)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) all: usize,
    pub(crate) not_compiled: usize,
    pub(crate) caught: usize,
    pub(crate) timed_out: usize,
    pub(crate) survived: usize,
    pub(crate) not_reached: usize,
    pub(crate) not_tried: usize,
    pub(crate) equivalent: usize,
}

impl Totals {
    pub(crate) fn of<'a>(mutants: impl IntoIterator<Item = &'a Mutant>, explained: &Explained) -> Self {
        let mut totals = Self::default();
        for mutant in mutants {
            totals.all += 1;
            match mutant.fate {
                Fate::NotTried => totals.not_tried += 1,
                Fate::DoesNotCompile => totals.not_compiled += 1,
                Fate::Caught => totals.caught += 1,
                Fate::TimedOut => totals.timed_out += 1,
                Fate::Survived => totals.survived += 1,
                Fate::NotReached => totals.not_reached += 1,
            }
            let is_equivalent =
                explained.0.get(&mutant.key()).is_some_and(|(class, _)| class == "equivalent");
            totals.equivalent += usize::from(mutant.lives() && is_equivalent);
        }
        totals
    }

    pub(crate) fn tried(&self) -> usize {
        self.all - self.not_compiled - self.not_tried
    }

    /// Of all that compile and were tried, in hundredths.
    pub(crate) fn percent(&self) -> f64 {
        share(self.caught + self.timed_out, self.tried())
    }

    /// The same, without those of which nobody could tell.
    pub(crate) fn percent_of_real(&self) -> f64 {
        share(self.caught + self.timed_out, self.tried() - self.equivalent)
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "{} mutants: {} do not compile, {} not tried; of {} tried: {} caught, {} timed out (caught too), {} survived, \
             {} not reached by any test: {:.1} % caught, {:.1} % without the {} proved equivalent",
            self.all,
            self.not_compiled,
            self.not_tried,
            self.tried(),
            self.caught,
            self.timed_out,
            self.survived,
            self.not_reached,
            self.percent(),
            self.percent_of_real(),
            self.equivalent,
        )
    }
}

fn share(part: usize, of: usize) -> f64 {
    let number = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    if of == 0 { 100.0 } else { 100.0 * number(part) / number(of) }
}

/// What is known of survivors, by their keys: class and reason.
#[derive(Debug, Default)]
pub(crate) struct Explained(pub(crate) BTreeMap<String, (String, String)>);

impl Explained {
    /// Lines of `key TAB class TAB reason`; `#` begins a remark.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut all = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut parts = line.split('\t');
            let (Some(key), Some(class), Some(reason), None) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                anyhow::bail!("not `key TAB class TAB reason`: {line}");
            };
            ensure!(matches!(class, "equivalent" | "accepted"), "no such class: {class}");
            ensure!(!reason.trim().is_empty(), "no reason: {line}");
            let before = all.insert(key.to_owned(), (class.to_owned(), reason.to_owned()));
            ensure!(before.is_none(), "explained twice: {key}");
        }
        Ok(Self(all))
    }

    /// Explanations of mutants that are caught, or not there any more.
    pub(crate) fn stale(&self, mutants: &[Mutant]) -> Vec<&str> {
        let mut fates: BTreeMap<String, Fate> = BTreeMap::new();
        for mutant in mutants {
            fates.insert(mutant.key(), mutant.fate);
        }
        let is_stale = |key: &str| match fates.get(key) {
            Some(Fate::Survived | Fate::NotReached | Fate::NotTried) => false,
            Some(Fate::Caught | Fate::TimedOut | Fate::DoesNotCompile) | None => true,
        };
        self.0.keys().map(String::as_str).filter(|key| is_stale(key)).collect()
    }
}

pub(crate) fn from_json(text: &str) -> Result<Vec<Mutant>> {
    serde_json::from_str(text).context("results of another version")
}

/// The page that is committed.
pub(crate) fn page(mutants: &[Mutant], explained: &Explained, how: &str) -> String {
    let totals = Totals::of(mutants, explained);
    let mut page = String::from(
        "# Mutants of the core\n\n\
         Made by `cargo xtask mutants --write`; do not edit. Each mutant is one small break of `crates/core/src`; it is caught\n\
         when a test of `crates/core` or `crates/testkit` fails, or takes far longer than it may, with the mutant awake. How it\n\
         works: [tools/mutants](../tools/mutants/README.md). A survivor that was looked at has its reason here; one that was not\n\
         says so.\n\n",
    );
    let _ = writeln!(page, "{}\n", how.trim());
    let _ = writeln!(page, "| | number |\n|---|---|");
    for (name, number) in [
        ("mutants", totals.all),
        ("do not compile", totals.not_compiled),
        ("compile, not tried", totals.not_tried),
        ("compile and were tried", totals.tried()),
        ("caught by a failing test", totals.caught),
        ("caught by time", totals.timed_out),
        ("survived, though a test comes by", totals.survived),
        ("survived, no test comes by", totals.not_reached),
        ("of the survivors, proved equivalent", totals.equivalent),
    ] {
        let _ = writeln!(page, "| {name} | {number} |");
    }
    let _ = writeln!(page, "| **caught, of all that were tried** | **{:.1} %** |", totals.percent());
    let _ = writeln!(page, "| caught, of those not proved equivalent | {:.1} % |", totals.percent_of_real());
    let mut files: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        files.entry(&mutant.file).or_default().push(mutant);
    }
    page.push_str(
        "\n## Files\n\n| file | tried | caught | survived | not tried | % |\n|---|---|---|---|---|---|\n",
    );
    for (file, mutants) in &files {
        let totals = Totals::of(mutants.iter().copied(), explained);
        let percent = if totals.tried() == 0 { "-".to_owned() } else { format!("{:.1}", totals.percent()) };
        let _ = writeln!(
            page,
            "| {file} | {} | {} | {} | {} | {percent} |",
            totals.tried(),
            totals.caught + totals.timed_out,
            totals.survived + totals.not_reached,
            totals.not_tried,
        );
    }
    page.push_str("\n## Survivors\n\n| place | function | mutation | reason |\n|---|---|---|---|\n");
    for mutant in mutants.iter().filter(|mutant| mutant.lives()) {
        let reason = match (explained.0.get(&mutant.key()), mutant.fate) {
            (Some((class, reason)), _) => format!("{class}: {reason}"),
            (None, Fate::NotReached) => "not explained: no test comes by".to_owned(),
            (None, _) => "not explained".to_owned(),
        };
        let cell = |text: &str| text.replace('|', "\\|");
        let (function, what) = (cell(&mutant.function), cell(&mutant.what));
        let file = mutant.file.trim_start_matches("crates/core/src/");
        let _ = writeln!(page, "| {file}:{} | `{function}` | {what} | {} |", mutant.line, cell(&reason));
    }
    page
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]
    use super::*;

    fn mutant(number: u32, fate: Fate) -> Mutant {
        let (file, function) = ("crates/core/src/a.rs".to_owned(), "f".to_owned());
        let what = format!("break {number}");
        Mutant { number, place: 1, file, line: 1, column: 1, function, what, nth: 1, fate, by: String::new() }
    }

    #[test]
    fn a_survivor_counts_against_us_also_when_it_is_explained() {
        let all = [
            Fate::Caught,
            Fate::TimedOut,
            Fate::Survived,
            Fate::NotReached,
            Fate::DoesNotCompile,
            Fate::NotTried,
        ];
        let all: Vec<Mutant> = (1..).zip(all).map(|(number, fate)| mutant(number, fate)).collect();
        let explained = Explained::parse("a.rs f break 3 #1\tequivalent\tbecause").unwrap();
        let totals = Totals::of(&all, &explained);
        assert_eq!((totals.tried(), totals.equivalent), (4, 1));
        assert!((totals.percent() - 50.0).abs() < 0.01);
        assert!((totals.percent_of_real() - 66.66).abs() < 0.01);
        assert!(page(&all, &explained, "").contains("| a.rs:1 | `f` | break 3 | equivalent: because |"));
    }

    #[test]
    fn an_explanation_of_what_is_caught_is_stale() {
        let explained =
            Explained::parse("# remark\na.rs f break 1 #1\taccepted\tx\na.rs g gone #1\taccepted\ty")
                .unwrap();
        assert_eq!(explained.stale(&[mutant(1, Fate::Caught)]), ["a.rs f break 1 #1", "a.rs g gone #1"]);
        assert_eq!(explained.stale(&[mutant(1, Fate::Survived)]), ["a.rs g gone #1"]);
        assert!(Explained::parse("a\tunknown\tx").is_err());
    }
}
