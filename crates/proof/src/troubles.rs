//! What goes wrong with the disk of a device or of a server in one life, and how often; drawn from the seed.
//!
//! First which kinds of trouble there are at all and how often, then each time whether it comes and at which operation.

use crate::dice::Dice;
use landfall_simdisk::{Disk, Fault, Kind};

/// The kinds of trouble that may come, beside crashes.
const KINDS: [Kind; 8] = [
    Kind::EioWrite,
    Kind::EioSync,
    Kind::EioRead,
    Kind::ShortWrite,
    Kind::EioTruncate,
    Kind::EioDelete,
    Kind::EioOpen,
    Kind::Full,
];
/// So many steps with a store a full disk stays full at most.
const FULL_STEPS: u64 = 8;

#[derive(Debug)]
pub(crate) struct Troubles {
    pub(crate) dice: Dice,
    kinds: Vec<Kind>,
    /// In percent: of the steps that a crash or a failing operation waits for, of the crashes that are power cuts,
    /// of the moments in between that are, and of the processes that end in an orderly way.
    crashes: u64,
    failures: u64,
    pub(crate) power: u64,
    pub(crate) between: u64,
    pub(crate) orderly: u64,
    /// How far into a step trouble waits.
    reach: u64,
}

impl Troubles {
    pub(crate) fn draw(mut dice: Dice) -> Self {
        let kinds = KINDS.into_iter().filter(|_| dice.percent(50)).collect();
        Self {
            kinds,
            crashes: dice.pick(&[0, 3, 10, 25]),
            failures: dice.pick(&[0, 3, 10, 25]),
            power: dice.pick(&[0, 50, 100]),
            between: dice.pick(&[0, 20, 60]),
            orderly: dice.pick(&[0, 30]),
            reach: dice.pick(&[4, 16, 40, 120]),
            dice,
        }
    }

    /// Trouble that waits for the next step of a process, if it is to come: whether an operation is to fail. A disk that is
    /// full stays so for `full` steps.
    pub(crate) fn arm(&mut self, disk: &Disk, process: u32, full: &mut u64) -> bool {
        if self.dice.percent(self.crashes) {
            let kind = self.dice.pick(&[Kind::CrashBefore, Kind::CrashMiddle]);
            disk.set_fault(Fault::once(kind, 1 + self.dice.below(self.reach)).of(process));
        }
        if *full > 0 {
            *full -= 1;
            disk.set_fault(Fault::forever(Kind::Full, 1));
            return true;
        }
        if self.kinds.is_empty() || !self.dice.percent(self.failures) {
            return false;
        }
        let (kind, at) = (self.dice.pick(&self.kinds), 1 + self.dice.below(self.reach));
        if kind == Kind::Full {
            *full = self.dice.below(FULL_STEPS);
            disk.set_fault(Fault::forever(kind, at));
        } else {
            disk.set_fault(Fault::once(kind, at).of(process));
        }
        true
    }
}
