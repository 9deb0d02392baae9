//! Wakes one mutant after the other and asks the tests that come by its place, cheapest first, until one notices.
//!
//! It knows nothing of sources; what became of each mutant goes to `report`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::report::{Fate, Mutant};
use crate::scratch::Program;
use crate::suite::{Effort, Test, Verdict, ask};

/// Tests are asked in waves, by how long each takes: most mutants fall in the first.
const WAVES: [Duration; 4] =
    [Duration::from_millis(30), Duration::from_millis(200), Duration::from_secs(2), Duration::MAX];

pub(crate) struct Hunt<'a> {
    pub(crate) programs: &'a [Program],
    pub(crate) tests: &'a [Test],
    pub(crate) witnesses: &'a BTreeMap<u32, Vec<usize>>,
    pub(crate) effort: Effort,
    /// Seeds for what is still not noticed.
    pub(crate) deep: Option<Effort>,
    /// How much longer than asleep a mutant may take.
    pub(crate) patience: u32,
}

impl Hunt<'_> {
    /// What becomes of the mutants, until the time is over. Those that were not come to are left out. What is known so far is
    /// given to `keep` from time to time.
    pub(crate) fn run(
        &self,
        mutants: &[Mutant],
        jobs: usize,
        until: Option<Instant>,
        keep: impl Fn(&[Mutant]) -> Result<()> + Sync,
    ) -> Result<Vec<Mutant>> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::new());
        let started = Instant::now();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        while until.is_none_or(|until| Instant::now() < until) {
                            let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) else {
                                break;
                            };
                            let (fate, by) = self.one(mutant)?;
                            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                            if fate != Fate::Caught {
                                eprintln!("{fate:?}: {} {by}", mutant.title());
                            }
                            done.push(Mutant { fate, by, ..mutant.clone() });
                            if done.len() % 100 == 0 {
                                let seconds = started.elapsed().as_secs();
                                eprintln!("{} of {} in {seconds} s", done.len(), mutants.len());
                                keep(&done)?;
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            for worker in workers {
                worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
            }
            anyhow::Ok(())
        })?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|mutant| mutant.number);
        Ok(done)
    }

    fn one(&self, mutant: &Mutant) -> Result<(Fate, String)> {
        let Some(witnesses) = self.witnesses.get(&mutant.place) else {
            return Ok((Fate::NotReached, String::new()));
        };
        let mut from = 0;
        for wave in WAVES {
            let to = from + witnesses[from..].iter().take_while(|at| self.tests[**at].took <= wave).count();
            if let Some(end) = self.wave(mutant.number, &witnesses[from..to], self.effort)? {
                return Ok(end);
            }
            from = to;
        }
        if let Some(deep) = self.deep {
            let drawn: Vec<usize> = witnesses
                .iter()
                .copied()
                .filter(|at| self.draws(*at) && !self.tests[*at].needs_all)
                .collect();
            if let Some(end) = self.wave(mutant.number, &drawn, deep)? {
                return Ok(end);
            }
        }
        Ok((Fate::Survived, String::new()))
    }

    /// Whether the test does as much as it is told to.
    fn draws(&self, test: usize) -> bool {
        let program = &self.programs[self.tests[test].program].name;
        ["simulator", "errands", "merge_laws", "merge_oracle"].iter().any(|name| program.ends_with(name))
    }

    fn wave(&self, number: u32, tests: &[usize], effort: Effort) -> Result<Option<(Fate, String)>> {
        let mut groups: BTreeMap<(bool, usize), Vec<&Test>> = BTreeMap::new();
        for at in tests {
            let test = &self.tests[*at];
            groups.entry((test.needs_all, test.program)).or_default().push(test);
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, tests)| tests.iter().map(|test| test.took).sum::<Duration>());
        let more = u32::try_from(effort.seeds.div_ceil(self.effort.seeds.max(1))).unwrap_or(1);
        for ((needs_all, program), tests) in groups {
            let mut names: Vec<&str> = tests.iter().map(|test| test.name.as_str()).collect();
            // The order in which the program runs them.
            names.sort_unstable();
            let usual: Duration = tests.iter().map(|test| test.took).sum();
            let limit = Duration::from_secs(3) + usual * self.patience * more;
            let effort = (!needs_all).then_some(effort);
            let program = &self.programs[program];
            let number = number.to_string();
            match ask(program, &names, effort, ("LANDFALL_MUTANT", &number), limit)? {
                Verdict::Passed => {}
                Verdict::Failed(name) => return Ok(Some((Fate::Caught, format!("{} {name}", program.name)))),
                Verdict::TimedOut(name) => {
                    return Ok(Some((Fate::TimedOut, format!("{} {name}", program.name))));
                }
            }
        }
        Ok(None)
    }
}
