//! Whether anything may be sent at all, and how repeats are kept calm (G11).
//!
//! The gate is the breaker of the backend: closed after trouble for a backoff; while it opens again, one call goes ahead
//! alone ([`Step::calls_allowed`]), or where the adapter can, a probe that carries nothing of the user's. Repeats come
//! out of a budget that fills slowly, so that a network that flickers, or a backend that fails every other call, cannot
//! make a storm of them. What the backend asked for (`Retry-After`) is stored: it holds for every process, and after a
//! restart. Tests: `tests/auto` and `tests/machine.rs` of `landfall-testkit`.

use super::{Effect, Step};
use crate::adapter::Probe;
use crate::config::RetryConfig;
use crate::event::Event;
use crate::failure::{Failure, FailureKind};
use crate::id::CallId;
use crate::retry::{Jitter, backoff};
use crate::store::{Calm, StoreError, StoreTx};
use crate::time::Mono;
use alloc::string::String;
use core::time::Duration;

/// Whether anything may be sent at all.
#[derive(Clone, Debug)]
pub(super) enum Gate {
    Open,
    /// Opens by itself; where the backend could not be reached, a probe may be under way by which it is found again.
    Waiting {
        why: FailureKind,
        message: String,
        until: Mono,
        probe: Option<CallId>,
    },
    /// Opens when credentials changed. Fresh ones are asked for once; `refreshing` while that is under way. If there are
    /// none, it is tried again now and then as long as the machine runs by itself: nobody may ever say that they have changed.
    NeedsCredentials {
        message: String,
        refreshing: bool,
        again_at: Mono,
    },
    /// Opens when the app says so.
    Stopped {
        why: FailureKind,
        message: String,
    },
}

impl Gate {
    /// Why it is closed, for people.
    pub(super) fn why(&self) -> Option<(FailureKind, &str)> {
        match self {
            Self::Open => None,
            Self::Waiting { why, message, .. } | Self::Stopped { why, message } => Some((*why, message)),
            Self::NeedsCredentials { message, .. } => Some((FailureKind::Unauthenticated, message)),
        }
    }

    /// The same, with nobody under way to look, or to bring fresh credentials.
    pub(super) fn unattended(&self) -> Self {
        let mut gate = self.clone();
        match &mut gate {
            Self::Waiting { probe, .. } => *probe = None,
            Self::NeedsCredentials { refreshing, .. } => *refreshing = false,
            Self::Open | Self::Stopped { .. } => {}
        }
        gate
    }

    /// Whether it opens by itself also when nothing runs by itself.
    pub(super) const fn opens_by_itself(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }

    /// When it opens by itself, if it does.
    pub(super) const fn until(&self) -> Option<Mono> {
        match self {
            Self::Waiting { until, .. } => Some(*until),
            Self::NeedsCredentials { refreshing: false, again_at, .. } => Some(*again_at),
            Self::Open | Self::NeedsCredentials { .. } | Self::Stopped { .. } => None,
        }
    }
}

/// How many repeats are left: a bucket of tenths that fills with time and with good calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeats {
    tenths: u32,
    filled_at: Mono,
}

impl Repeats {
    pub(super) const fn full(config: &RetryConfig) -> Self {
        Self { tenths: config.budget.saturating_mul(10), filled_at: Mono(0) }
    }

    fn fill(&mut self, config: &RetryConfig, now: Mono) {
        let tenth = tenth_of(config);
        let gained = now.0.saturating_sub(self.filled_at.0) / tenth;
        self.filled_at = Mono(self.filled_at.0 + gained * tenth);
        let most = config.budget.saturating_mul(10);
        self.tenths = self.tenths.saturating_add(u32::try_from(gained).unwrap_or(u32::MAX)).min(most);
    }

    fn gain(&mut self, config: &RetryConfig) {
        self.tenths = self.tenths.saturating_add(1).min(config.budget.saturating_mul(10));
    }

    fn spend(&mut self, config: &RetryConfig, now: Mono) {
        self.fill(config, now);
        self.tenths = self.tenths.saturating_sub(10);
    }

    /// How long until there is one repeat left.
    fn wait(&mut self, config: &RetryConfig, now: Mono) -> Duration {
        self.fill(config, now);
        Duration::from_millis(u64::from(10_u32.saturating_sub(self.tenths)).saturating_mul(tenth_of(config)))
    }
}

fn tenth_of(config: &RetryConfig) -> u64 {
    u64::try_from(config.budget_every.as_millis() / 10).unwrap_or(u64::MAX).max(1)
}

impl Step {
    // ---- closing -----------------------------------------------------------------------------------------------

    /// A call failed for a passing reason: everything waits, longer from time to time.
    pub(super) fn pass_by(&mut self, failure: &Failure, jitter: Jitter) {
        let was_intercepted = matches!(&self.state.gate, Gate::Waiting { why: FailureKind::Intercepted, .. });
        if was_intercepted && failure.kind != FailureKind::Intercepted {
            // However long a portal has answered, that says nothing of how long the way is broken now.
            self.state.failures = 0;
        }
        self.state.is_unreachable = failure.kind == FailureKind::Unreachable;
        self.state.failures = self.state.failures.saturating_add(1);
        let mut wait = self.call_backoff(jitter, failure.retry_after);
        if failure.kind == FailureKind::Intercepted {
            // The backend does not see these, and somebody may just be logging in.
            wait = wait.min(self.config.retry.intercepted_cap);
        } else {
            wait = self.out_of_budget(wait);
        }
        self.close_gate(failure.kind, failure.message.clone(), wait);
    }

    /// A repeat will be made after `wait`: it comes out of the budget, and waits for it if there is none left.
    pub(super) fn out_of_budget(&mut self, wait: Duration) -> Duration {
        self.state.repeats.spend(&self.config.retry, self.now.mono);
        wait.max(self.state.repeats.wait(&self.config.retry, self.now.mono))
    }

    /// The backend asked for calm: everything waits, in every process and also after a restart.
    pub(super) fn slow_down(&mut self, tx: &dyn StoreTx, failure: &Failure) -> Result<(), StoreError> {
        self.pass_by(failure, Jitter::Equal);
        if let Gate::Waiting { until, .. } = self.state.gate {
            let wait_ms = until.0.saturating_sub(self.now.mono.0);
            let until = self.now.wall.after(Duration::from_millis(wait_ms));
            let calm = Calm { until, failures: self.state.failures, wait_ms: Some(wait_ms) };
            self.replica(tx)?.calm = Some(calm);
            self.replica_changed = true;
        }
        Ok(())
    }

    /// What the backend asked for before this opening, or of another process. A clock that jumped makes it no longer than
    /// it was when it was asked (G12).
    pub(super) fn keep_calm(&mut self, tx: &dyn StoreTx) -> Result<(), StoreError> {
        let Some(calm) = self.replica(tx)?.calm else { return Ok(()) };
        let longest = self.config.retry.cap + self.config.retry.retry_after_cap;
        let longest = calm.wait_ms.map_or(longest, |asked| longest.min(Duration::from_millis(asked)));
        let wait = self.now.wall.until(calm.until).min(longest);
        if !wait.is_zero() && matches!(self.state.gate, Gate::Open) {
            self.state.failures = self.state.failures.max(calm.failures);
            let message = "the backend has asked for calm".into();
            self.close_gate(FailureKind::RateLimited, message, wait);
        }
        Ok(())
    }

    /// A good answer: what was asked for before is over.
    pub(super) fn all_is_well(&mut self, tx: &dyn StoreTx) -> Result<(), StoreError> {
        self.state.failures = 0;
        self.state.is_unreachable = false;
        self.state.refreshed = false;
        self.state.refusals = 0;
        if self.state.device.online == Some(false) {
            // It is there all the same: evidence counts for more than what the device believes.
            self.state.device.online = None;
        }
        self.state.repeats.gain(&self.config.retry);
        let replica = self.replica(tx)?;
        if replica.calm.take().is_some() {
            self.replica_changed = true;
        }
        Ok(())
    }

    fn close_gate(&mut self, why: FailureKind, message: String, wait: Duration) {
        self.emit(Event::GateClosed { why, message: message.clone(), wait: Some(wait) });
        self.state.gate = Gate::Waiting { why, message, until: self.now.mono.after(wait), probe: None };
    }

    /// Nothing is sent or read until credentials are good again; fresh ones are asked for once.
    pub(super) fn ask_for_credentials(&mut self, failure: &Failure) {
        if matches!(self.state.gate, Gate::NeedsCredentials { .. }) {
            return;
        }
        let refreshing = !core::mem::replace(&mut self.state.refreshed, true);
        self.state.refusals = self.state.refusals.saturating_add(1);
        let again_at = self.now.mono.after(self.credentials_wait());
        self.state.gate = Gate::NeedsCredentials { message: failure.message.clone(), refreshing, again_at };
        if refreshing {
            self.effects.push(Effect::RefreshCredentials);
        }
        self.emit(Event::GateClosed { why: failure.kind, message: failure.message.clone(), wait: None });
    }

    /// How long until credentials that were refused are tried again, or asked for again.
    fn credentials_wait(&self) -> Duration {
        let config = &self.config.retry;
        let doublings = self.state.refusals.saturating_sub(1).min(16);
        (config.credentials_base * 2_u32.pow(doublings)).min(config.cap)
    }

    /// Nothing is sent or read until the app says so.
    pub(super) fn stop_gate(&mut self, failure: &Failure) {
        self.state.gate = Gate::Stopped { why: failure.kind, message: failure.message.clone() };
        self.emit(Event::GateClosed { why: failure.kind, message: failure.message.clone(), wait: None });
    }

    /// The wait of the whole adapter after `failures` calls that failed in a row.
    fn call_backoff(&self, jitter: Jitter, asked: Option<Duration>) -> Duration {
        backoff(&self.config.retry, b"call", self.state.failures.max(1), jitter, asked)
    }

    /// Calls that may be under way at once: after trouble one goes ahead alone.
    pub(super) fn calls_allowed(&self) -> usize {
        if self.state.failures > 0 || self.state.refusals > 0 { 1 } else { self.config.push.calls_max }
    }

    // ---- opening -----------------------------------------------------------------------------------------------

    /// Opens the gate when its wait is over; where the adapter can, a probe goes ahead.
    pub(super) fn open_gate_if_due(&mut self, tx: &dyn StoreTx) -> Result<(), StoreError> {
        if let Gate::NeedsCredentials { refreshing: false, again_at, .. } = &self.state.gate {
            if self.state.auto.is_on() && *again_at <= self.now.mono {
                // One call goes ahead; if it is refused, fresh credentials are asked for anew.
                self.state.refreshed = false;
                self.open_gate();
            }
            return Ok(());
        }
        let Gate::Waiting { why, until, probe, .. } = &self.state.gate else { return Ok(()) };
        if *until > self.now.mono || probe.is_some() {
            return Ok(());
        }
        if !self.is_found_by_probe(*why) {
            self.open_gate();
            return Ok(());
        }
        // Without a session nobody waits for the answer; the next one asks.
        if self.session_is_going() { self.probe(tx) } else { Ok(()) }
    }

    fn is_found_by_probe(&self, why: FailureKind) -> bool {
        self.capabilities.probe && matches!(why, FailureKind::Unreachable | FailureKind::Intercepted)
    }

    /// Whether the gate is closed because the backend cannot be reached, and will be found again by a probe: reading waits
    /// for it as well.
    pub(super) fn is_cut_off(&self) -> bool {
        matches!(&self.state.gate, Gate::Waiting { why, .. } if self.is_found_by_probe(*why))
    }

    pub(super) fn is_probing(&self) -> bool {
        matches!(&self.state.gate, Gate::Waiting { probe: Some(_), .. })
    }

    fn probe(&mut self, tx: &dyn StoreTx) -> Result<(), StoreError> {
        let call = self.new_call();
        let timeout = self.config.push.call_timeout.min(self.config.retry.probe_timeout);
        let context = self.call_context(tx, timeout)?;
        if let Gate::Waiting { probe, .. } = &mut self.state.gate {
            *probe = Some(call);
        }
        let nonce = self.entropy.derive("probe", &call.0.to_be_bytes());
        self.effects.push(Effect::Probe { context, call, probe: Probe { nonce } });
        Ok(())
    }

    /// A probe is abandoned with its session.
    pub(super) fn abandon_probe(&mut self) -> Option<CallId> {
        match &mut self.state.gate {
            Gate::Waiting { probe, .. } => probe.take(),
            _ => None,
        }
    }

    /// The answer to [`Effect::Probe`]: the backend is there, or still is not.
    ///
    /// # Errors
    /// When the store cannot be read; bring the same answer again then.
    pub fn probed(
        &mut self,
        tx: &dyn StoreTx,
        call: CallId,
        answer: &Result<(), Failure>,
    ) -> Result<(), StoreError> {
        use FailureKind as Kind;
        match &mut self.state.gate {
            Gate::Waiting { probe, .. } if *probe == Some(call) => *probe = None,
            _ => return Ok(()),
        }
        match answer {
            Err(failure) => match failure.kind {
                Kind::Unreachable | Kind::Intercepted => self.pass_by(failure, Jitter::Full),
                // Something was there, and broke off: it is as good as not there.
                Kind::Transient | Kind::Protocol | Kind::Cancelled => {
                    let message = failure.message.clone();
                    let failure = Failure::new(Kind::Unreachable, failure.delivery, message);
                    self.pass_by(&failure, Jitter::Full);
                }
                Kind::RateLimited => return self.slow_down(tx, failure),
                Kind::ServerChanged | Kind::ClientUnknown | Kind::ClientSuperseded => self.stop_gate(failure),
                // It cannot be asked like this, or it is there and has its own word for the real requests.
                _ => self.found_again(),
            },
            Ok(()) => self.found_again(),
        }
        Ok(())
    }

    fn found_again(&mut self) {
        self.open_gate();
        self.state.pull.forget_pause();
    }

    pub(super) fn open_gate(&mut self) {
        if !matches!(self.state.gate, Gate::Open) {
            self.state.gate = Gate::Open;
            self.emit(Event::GateOpened);
        }
    }

    /// The network may be back: what waits for it is tried at once, out of the budget. A wait that the backend asked for
    /// stays (G11). While the machine runs by itself, devices that hear the same news spread.
    pub fn connectivity_regained(&mut self) {
        if self.spread_out() {
            return;
        }
        self.try_at_once();
    }

    /// What waits for the network is tried now, out of the budget.
    pub(super) fn try_at_once(&mut self) {
        let config = &self.config.retry;
        let in_budget = self.state.repeats.wait(config, self.now.mono).is_zero();
        match &mut self.state.gate {
            Gate::Waiting { why: FailureKind::RateLimited, .. } => {}
            Gate::Waiting { why, until, .. } if in_budget => {
                let why = *why;
                *until = (*until).min(self.now.mono);
                if !self.is_found_by_probe(why) {
                    self.open_gate();
                    self.state.failures = 0;
                }
            }
            _ => {}
        }
        if in_budget {
            self.state.pull.forget_pause();
        }
    }

    /// Fresh credentials are there: sending goes on.
    pub fn credentials_changed(&mut self) {
        if matches!(self.state.gate, Gate::NeedsCredentials { .. }) {
            self.open_gate();
        }
    }

    /// The answer to [`Effect::RefreshCredentials`].
    pub fn credentials_refreshed(&mut self, fresh: bool) {
        if fresh {
            self.credentials_changed();
        } else {
            let at = self.now.mono.after(self.credentials_wait());
            if let Gate::NeedsCredentials { refreshing, again_at, .. } = &mut self.state.gate {
                *refreshing = false;
                *again_at = at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_spent_and_come_back_slowly() {
        let config = RetryConfig { budget: 3, ..RetryConfig::default() };
        let mut repeats = Repeats::full(&config);
        for _ in 0..3 {
            assert!(repeats.wait(&config, Mono(0)).is_zero());
            repeats.spend(&config, Mono(0));
        }
        assert_eq!(repeats.wait(&config, Mono(0)), config.budget_every);
        assert_eq!(repeats.wait(&config, Mono(4_000)), Duration::from_secs(6));
        assert!(repeats.wait(&config, Mono(10_000)).is_zero());
        repeats.spend(&config, Mono(10_000));
        for _ in 0..10 {
            repeats.gain(&config);
        }
        assert!(repeats.wait(&config, Mono(10_000)).is_zero());
        assert!(repeats.wait(&config, Mono(u64::MAX / 2)).is_zero());
        assert_eq!(repeats.tenths, 30);
    }

    #[test]
    fn a_long_quiet_time_saves_up_no_more_repeats_than_the_budget_has() {
        let config = RetryConfig { budget: 3, ..RetryConfig::default() };
        let mut repeats = Repeats::full(&config);
        let later = Mono(3_600_000);
        (0..3).for_each(|_| repeats.spend(&config, later));
        assert_eq!(repeats.wait(&config, later), config.budget_every);
    }
}
