//! The proxy's own small random generator (SplitMix64), so that a seed means the same for ever.
//!
//! It knows nothing of faults, and is not for secrets. Tested through `plan` and `forge`.

/// A stream of numbers that depends on nothing but how it was made.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    /// The stream for one request: a function of the seed, the request's number and the purpose.
    pub(super) fn new(seed: u64, number: u64, purpose: u64) -> Self {
        let mut state = Self(seed);
        for part in [number, purpose] {
            state = Self(state.next().wrapping_add(part));
        }
        Self(state.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when the bound is 0. The bias of the remainder does not matter here.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// A position below `bound`, for slices.
    pub(super) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap_or(0)
    }
}
