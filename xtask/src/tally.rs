//! Adds up the result lines that `cargo test` prints, one per test program and one per crate's doc tests.
//! It sees lines only; running cargo and streaming its output is the business of `suite`.

/// What the result lines seen so far add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests that exist and were not run: `ignored`, doc tests marked so.
    pub(crate) ignored: u64,
    /// Test programs that began and gave no result: they crashed, or were killed.
    pub(crate) unfinished: u64,
}

impl Tally {
    /// Takes one line of output, as it stands or coloured.
    pub(crate) fn read_line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += number_before(counts, " passed;");
            self.failed += number_before(counts, " failed;");
            self.ignored += number_before(counts, " ignored;");
            self.unfinished = self.unfinished.saturating_sub(1);
        } else if is_opening(line) {
            self.unfinished += 1;
        }
    }

    /// Everything that is not a pass: a crashed program counts as one, as does a failure that no line tells
    /// of.
    pub(crate) fn failures(&self, cargo_succeeded: bool) -> u64 {
        let known = self.failed + self.unfinished;
        if cargo_succeeded { known } else { known.max(1) }
    }
}

/// `running 3 tests`, the first line of a test program.
fn is_opening(line: &str) -> bool {
    let number = line
        .trim_end()
        .strip_prefix("running ")
        .and_then(|rest| rest.strip_suffix(" tests").or_else(|| rest.strip_suffix(" test")));
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

fn number_before(text: &str, label: &str) -> u64 {
    let before = text.split_once(label).map_or("", |(before, _)| before);
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read_line(line));
        tally
    }

    const OK: &str =
        "running 12 tests\ntest result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";
    const BAD: &str =
        "running 3 tests\ntest result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";

    #[test]
    fn result_lines_of_all_programs_add_up() {
        let sum = tally(&format!("{OK}\n\n{BAD}\n{OK}"));
        assert_eq!(sum, Tally { passed: 25, failed: 2, ignored: 2, unfinished: 0 });
        assert_eq!(sum.failures(false), 2);
    }

    #[test]
    fn a_coloured_result_line_counts_too() {
        let sum = tally("test result: \u{1b}[32mok\u{1b}[0m. 7 passed; 0 failed; 0 ignored; 0 measured");
        assert_eq!((sum.passed, sum.failed), (7, 0));
    }

    #[test]
    fn a_program_that_crashes_is_a_failure() {
        let sum = tally(&format!("{OK}\nrunning 5 tests\ntest a ... ok\n{OK}"));
        assert_eq!((sum.passed, sum.failures(false)), (24, 1));
    }

    #[test]
    fn a_failure_of_cargo_that_no_line_tells_of_is_not_reported_as_none() {
        assert_eq!(tally(OK).failures(false), 1);
        assert_eq!(tally(OK).failures(true), 0);
    }

    #[test]
    fn what_a_test_prints_is_not_a_result() {
        assert_eq!(tally("the test result: ok. 9 passed; 0 failed;\nrunning some tests\n"), Tally::default());
    }
}
