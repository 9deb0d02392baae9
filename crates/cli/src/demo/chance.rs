//! The seeded part of the demo: which fault befalls which request, and who is killed when.
//!
//! Pure functions of the seed. The same seed deals the same faults to the same turns and kills at the same points of
//! progress; which change is in which request then still depends on how fast the machine is. Tests: below.

use super::script::scatter;
use landfall_testkit::proxy::Fault;
use std::collections::BTreeMap;
use std::time::Duration;

/// One kill with SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Kill {
    /// At which part of the phase's work, from 0 to 1.
    pub(super) at: f64,
    /// How long after that: so that it falls anywhere within a transaction or a request.
    pub(super) delay: Duration,
    /// How long until the process is started again.
    pub(super) down: Duration,
}

/// When a process is killed, in the order of progress.
pub(super) fn kills(seed: u64, process: u64, phase: u64, count: u64) -> Vec<Kill> {
    let mut dice = Dice::new(seed, &[1, process, phase]);
    let mut kills: Vec<Kill> = (0..count)
        .map(|_| Kill {
            at: 0.04 + 0.9 * dice.unit(),
            delay: Duration::from_micros(dice.below(30_000)),
            down: Duration::from_millis(60 + dice.below(300)),
        })
        .collect();
    kills.sort_by(|a, b| a.at.total_cmp(&b.at));
    kills
}

/// The fault of a request, if it meets one.
///
/// Faults are dealt like cards: in every round of requests each kind comes once, in one of its variants, among as
/// many requests that pass. So every kind is met as soon as one round is over.
pub(super) fn fault(kinds: &[Vec<Fault>], seed: u64, turn: u64) -> Option<Fault> {
    let round = u64::try_from(kinds.len()).ok()?.checked_mul(2).filter(|round| *round > 0)?;
    let turn = turn.checked_sub(1)?;
    let mut dice = Dice::new(seed, &[2, turn / round]);
    let mut cards: Vec<u64> = (0..round).collect();
    for at in (1..cards.len()).rev() {
        let other = usize::try_from(dice.below(at as u64 + 1)).unwrap_or(0);
        cards.swap(at, other);
    }
    let card = *cards.get(usize::try_from(turn % round).ok()?)?;
    let variants = kinds.get(usize::try_from(card).ok()?)?;
    let pick = Dice::new(seed, &[3, turn]).below(variants.len() as u64);
    variants.get(usize::try_from(pick).ok()?).copied()
}

/// All faults there are, the variants of one kind together.
pub(super) fn kinds_of_faults() -> Vec<Vec<Fault>> {
    let mut kinds: BTreeMap<&'static str, Vec<Fault>> = BTreeMap::new();
    for fault in Fault::samples() {
        kinds.entry(fault.name()).or_default().push(fault);
    }
    kinds.into_values().collect()
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, purpose: &[u64]) -> Self {
        Self(purpose.iter().fold(scatter(seed), |state, part| scatter(state ^ part)))
    }

    fn next(&mut self) -> u64 {
        self.0 = scatter(self.0);
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_dealt_once_a_round() {
        let kinds = kinds_of_faults();
        let round = kinds.len() as u64 * 2;
        assert!(kinds.len() > 20);
        for (seed, first) in [(1, 0), (7, round), (7, 5 * round)] {
            let dealt: Vec<_> = (1..=round)
                .filter_map(|turn| fault(&kinds, seed, first + turn))
                .map(|fault| fault.name())
                .collect();
            let mut names = dealt.clone();
            names.sort_unstable();
            names.dedup();
            assert_eq!((dealt.len(), names.len()), (kinds.len(), kinds.len()));
        }
    }

    #[test]
    fn a_seed_repeats_its_plan_and_another_has_another() {
        let kinds = kinds_of_faults();
        let plan = |seed| (1..500).map(|turn| fault(&kinds, seed, turn)).collect::<Vec<_>>();
        assert_eq!(plan(3), plan(3));
        assert_ne!(plan(3), plan(4));
        assert_eq!(kills(3, 1, 0, 5), kills(3, 1, 0, 5));
        assert_ne!(kills(3, 1, 0, 5), kills(3, 2, 0, 5));
        assert!(kills(9, 1, 1, 100).iter().all(|kill| (0.0..1.0).contains(&kill.at)));
    }
}
