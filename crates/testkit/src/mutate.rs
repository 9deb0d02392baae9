//! Inputs for programs that read bytes: what is known to be interesting, changed a little, from a seed.
//!
//! The same plain functions run here on stable and under libFuzzer (`fuzz/`); what that found lies in
//! `fuzz/corpus/<target>/` and is where the changes here begin. It knows nothing of what is read. Tests: at the end of
//! the file; used by `crates/proof/tests/fuzz.rs` and the command line's `fuzzed.rs`.

use crate::campaign::Figures;
use crate::rng::Rng;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest input that is made: enough for every length that is counted in one or two digits or bytes.
const BYTES_MAX: usize = 4096;
/// No input of that size may take longer, on the slowest machine.
const TIME_MAX: Duration = Duration::from_secs(10);

/// What is to be tried: a plain function of bytes, which panics when a law is broken.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also of its folder in the corpus.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
    /// Words that chance would not find.
    pub words: &'static [&'static str],
    /// How much one run costs, where 1 is some ten microseconds: a share of a life is divided by it.
    pub cost: u32,
}

/// A target with its inputs.
#[derive(Debug)]
pub struct Fuzzed {
    target: Target,
    corpus: Vec<Vec<u8>>,
}

impl Fuzzed {
    /// Reads the inputs of a target from its folder in `corpus`.
    ///
    /// # Panics
    /// When there are none: a run without them would prove little and say nothing.
    pub fn load(target: Target, corpus: &Path) -> Self {
        let folder = corpus.join(target.name);
        let entries = fs::read_dir(&folder);
        let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<_> =
            entries.map(|entry| entry.unwrap_or_else(|error| panic!("{error}")).path()).collect();
        paths.sort();
        let read = |path: &std::path::PathBuf| fs::read(path).unwrap_or_else(|error| panic!("{error}"));
        let corpus: Vec<_> = paths.iter().map(read).collect();
        assert!(!corpus.is_empty(), "{} is empty", folder.display());
        Self { target, corpus }
    }

    /// Runs every input of the corpus.
    ///
    /// # Errors
    /// The first one that breaks a law.
    pub fn replay(&self) -> Result<Figures, String> {
        self.corpus.iter().try_for_each(|input| self.one(input))?;
        Ok(Figures::from([("executions", self.corpus.len() as u64)]))
    }

    /// Runs `share` changed inputs, fewer if the target is slow; at least one.
    ///
    /// # Errors
    /// The first one that breaks a law, so written that it can be put into the corpus.
    pub fn live(&self, seed: u64, share: u32) -> Result<Figures, String> {
        let mut rng = Rng::new(seed, 0, 0x6675_7a7a);
        let executions = (share / self.target.cost.max(1)).max(1);
        let mut input = Vec::new();
        for _ in 0..executions {
            self.changed(&mut rng, &mut input);
            self.one(&input)?;
        }
        Ok(Figures::from([("executions", u64::from(executions))]))
    }

    fn one(&self, input: &[u8]) -> Result<(), String> {
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.target.run)(input)));
        let took = started.elapsed();
        let what = match outcome {
            Err(panic) => panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                .unwrap_or_else(|| "a panic without words".into()),
            Ok(()) if took > TIME_MAX => format!("took {took:?}"),
            Ok(()) => return Ok(()),
        };
        Err(format!("{}: {what}\ninput: b\"{}\"", self.target.name, input.escape_ascii()))
    }

    /// One of the corpus with one to eight changes.
    fn changed(&self, rng: &mut Rng, input: &mut Vec<u8>) {
        input.clear();
        input.extend_from_slice(&self.corpus[rng.index(self.corpus.len())]);
        input.truncate(BYTES_MAX);
        for _ in 0..1 << rng.index(4) {
            self.change(rng, input);
            input.truncate(BYTES_MAX);
        }
    }

    fn change(&self, rng: &mut Rng, input: &mut Vec<u8>) {
        let at = rng.index(input.len() + 1);
        let bits = rng.index(7);
        let long = 1 + rng.index(1 << bits);
        let end = (at + long).min(input.len());
        match rng.index(11) {
            0 | 1 if at < input.len() => input[at] ^= 1 << rng.index(8),
            2 if at < input.len() => input[at] = INTERESTING[rng.index(INTERESTING.len())],
            3 => {
                input.drain(at..end);
            }
            4 => {
                let piece = input[at..end].to_vec();
                let to = rng.index(input.len() + 1);
                input.splice(to..to, piece);
            }
            5 => input.truncate(at),
            6 | 7 if !self.target.words.is_empty() => {
                let word = self.target.words[rng.index(self.target.words.len())].as_bytes();
                let over = if rng.percent(50) { (at + word.len()).min(input.len()) } else { at };
                input.splice(at..over, word.iter().copied());
            }
            // A piece of another input, in place of one of ours.
            8 => {
                let other = &self.corpus[rng.index(self.corpus.len())];
                let from = rng.index(other.len() + 1);
                let to = (from + 1 + rng.index(200)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            // One member of a text for another of the same text: structure is kept more often than not.
            9 => {
                let cuts: Vec<usize> =
                    (0..input.len()).filter(|at| b",{}[]:\n".contains(&input[*at])).collect();
                if cuts.len() >= 2 {
                    let one = rng.index(cuts.len() - 1);
                    let other = rng.index(cuts.len() - 1);
                    let piece = input[cuts[one]..cuts[one + 1]].to_vec();
                    input.splice(cuts[other]..cuts[other + 1], piece);
                }
            }
            // A number for another.
            _ => {
                if let Some(digit) = (at..input.len()).find(|at| input[*at].is_ascii_digit()) {
                    let more = input[digit..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    let number = NUMBERS[rng.index(NUMBERS.len())].bytes();
                    input.splice(digit..digit + more, number);
                } else {
                    input.insert(at, rng.next().to_le_bytes()[0]);
                }
            }
        }
    }
}

const INTERESTING: &[u8] = b"\0\x01\x7f\x80\xff\xc3\xed\xf0\"\\{}[]:,.-+eE0129 \r\n\t/?#%&=@;nNtT~";
const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "-1",
    "00",
    "0.1",
    "1e5",
    "1E-5",
    "1e308",
    "1e309",
    "5e-324",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn fuzzed(run: fn(&[u8])) -> Fuzzed {
        let target = Target { name: "test", run, words: &["open sesame"], cost: 2 };
        Fuzzed { target, corpus: vec![b"{\"a\":1,\"b\":[2]}".to_vec(), b"x".to_vec()] }
    }

    #[test]
    fn a_law_that_breaks_on_a_word_is_found_and_shown() {
        let found = (0..50).find_map(|seed| {
            fuzzed(|input| assert!(!input.windows(4).any(|part| part == b"sesa"), "open"))
                .live(seed, 100)
                .err()
        });
        let shown = found.expect("found within fifty lives");
        assert!(shown.starts_with("test: open\ninput: b\"") && shown.contains("open sesame"), "{shown}");
    }

    #[test]
    fn a_seed_means_the_same_for_ever_and_inputs_are_bounded_and_differ() {
        let fuzzed = fuzzed(|_| {});
        let inputs = |seed| {
            let mut rng = Rng::new(seed, 0, 0);
            let mut input = Vec::new();
            let mut all = Vec::new();
            for _ in 0..500 {
                fuzzed.changed(&mut rng, &mut input);
                assert!(input.len() <= BYTES_MAX);
                all.push(input.clone());
            }
            all
        };
        assert_eq!(inputs(1), inputs(1));
        let mut different = inputs(1);
        different.sort();
        different.dedup();
        assert!(different.len() > 300, "{}", different.len());
        assert_eq!(fuzzed.live(1, 100), Ok(Figures::from([("executions", 50)])));
        assert_eq!(fuzzed.replay(), Ok(Figures::from([("executions", 2)])));
    }
}
