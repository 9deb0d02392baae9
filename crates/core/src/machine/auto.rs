//! Running by itself: when the next run of `sync` is due, and nothing else.
//!
//! There is one question, asked at the end of each step: when is the next run due? It is answered from the store (what
//! can be claimed, and when), from the gate, and from what was heard since: changes that wait for others, a network
//! that may be back, an app that came back, a call of the backend, an interval. All of these are hints; none of them is
//! needed for a retry, and a round that failed is tried again without a new write. Tests: `tests/auto` of
//! `landfall-testkit`, and its simulator.

use super::{Directions, SessionEnd, Step, gate::Gate};
use crate::config::AutoConfig;
use crate::device::{Constraint, DeviceState};
use crate::event::{Event, Report};
use crate::retry::{Jitter, backoff};
use crate::store::{StoreError, StoreTx};
use crate::time::Mono;
use alloc::sync::Arc;
use core::time::Duration;

/// What running by itself has to remember.
#[derive(Clone, Debug, Default)]
pub(super) struct Auto {
    /// `None`: only the app starts runs.
    settings: Option<Arc<AutoConfig>>,
    /// The host has put the app to sleep.
    is_suspended: bool,
    /// Changes came: since when, and when they go.
    news: Option<(Mono, Mono)>,
    /// When the network is taken for regained, later on each device.
    regained_at: Option<Mono>,
    /// When the backend is to be read next.
    read_at: Option<Mono>,
    /// Whether nothing has run yet since it was switched on.
    is_fresh: bool,
    /// Runs in a row that had something to do and did nothing, and until when that is waited out.
    idle: (u32, Mono),
    /// When a run last ended.
    ended_at: Option<Mono>,
    /// When the next run is due, as last worked out.
    due: Option<Mono>,
}

impl Auto {
    pub(super) const fn is_on(&self) -> bool {
        self.settings.is_some()
    }

    pub(super) fn look_every(&self) -> Option<Duration> {
        self.settings.as_ref().filter(|_| !self.is_suspended)?.look_every
    }

    /// What the device does not meet of what was asked for.
    pub(super) fn unmet(&self, device: &DeviceState) -> Option<Constraint> {
        self.settings.as_ref()?.conditions.unmet(device)
    }

    pub(super) const fn is_suspended(&self) -> bool {
        self.is_suspended
    }

    pub(super) const fn due(&self) -> Option<Mono> {
        self.due
    }

    /// The device says that it has no network, and the last call has reached nobody: it is tried now and then all the same,
    /// because the device may be wrong. Its word alone holds nothing up; a try that fails in it costs nothing.
    pub(super) fn told_offline_until(&self, device: &DeviceState, is_unreachable: bool) -> Option<Mono> {
        let last = self.ended_at.filter(|_| device.online == Some(false) && is_unreachable)?;
        Some(last.after(self.settings.as_ref()?.offline_every))
    }

    /// Another queue was opened, or this one anew: it runs as before, and begins with a run.
    pub(super) fn take_over(&mut self, old: &Self) {
        self.settings = old.settings.clone();
        self.is_suspended = old.is_suspended;
        self.is_fresh = old.is_on();
    }
}

impl Step {
    // ---- what is heard -----------------------------------------------------------------------------------------

    /// From now on runs begin by themselves, the first one at once.
    pub fn run_by_itself(&mut self, settings: AutoConfig) {
        let auto = &mut self.state.auto;
        if auto.settings.replace(Arc::new(settings)).is_none() {
            auto.is_fresh = true;
        }
    }

    /// From now on only the app starts runs.
    pub fn run_on_demand(&mut self) {
        let is_suspended = self.state.auto.is_suspended;
        self.state.auto = Auto { is_suspended, ..Auto::default() };
    }

    /// The app goes to sleep: nothing runs until it is resumed, and what is running is handed back in this step.
    pub fn suspend(&mut self) {
        self.state.auto.is_suspended = true;
        self.stop_session();
    }

    /// The app is back: what waits for the network is tried, and the backend is read.
    pub fn resume_app(&mut self) {
        self.state.auto.is_suspended = false;
        self.state.auto.read_at = Some(self.now.mono);
        self.state.auto.idle = (0, self.now.mono);
        self.try_at_once();
    }

    /// The backend has called: there is something to read.
    pub fn backend_called(&mut self) {
        let at = self.somewhere_in(self.spread());
        let known = self.state.auto.read_at;
        self.state.auto.read_at = Some(known.map_or(at, |known| known.min(at)));
        if self.state.session.is_some() {
            // What it called about may have come after the page that ended the reading.
            self.state.pull.begin(false);
        }
    }

    /// The device has changed, as far as `news` knows.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn device_changed(&mut self, tx: &mut dyn StoreTx, news: &DeviceState) -> Result<(), StoreError> {
        let before = self.state.device;
        self.state.device.update(news);
        let device = self.state.device;
        if device == before {
            return Ok(());
        }
        if device.metered == Some(false) && before.metered != Some(false) {
            self.let_held_go(tx)?;
        }
        let is_back = device.online == Some(true) && before.online != Some(true);
        if is_back && before.online.is_some() {
            self.connectivity_regained();
            // What was put off because there was no network is due at once on every device that hears this.
            if let Some(at) = self.state.auto.regained_at {
                self.state.auto.idle.1 = self.state.auto.idle.1.max(at);
            }
        }
        if device.foreground == Some(true) && before.foreground == Some(false) {
            self.resume_app();
        }
        Ok(())
    }

    /// A change came, or a task was taken up again: it waits a moment for others.
    pub(super) fn news_came(&mut self) {
        let Some(settings) = &self.state.auto.settings else { return };
        let (wait, longest) = (settings.debounce, settings.debounce_max);
        let now = self.now.mono;
        let first = self.state.auto.news.map_or(now, |(first, _)| first);
        self.state.auto.news = Some((first, now.after(wait).min(first.after(longest))));
    }

    /// News that many devices hear at once is acted on at a moment of each one's own. `false` when nothing runs by itself.
    pub(super) fn spread_out(&mut self) -> bool {
        if !self.state.auto.is_on() {
            return false;
        }
        if self.state.auto.regained_at.is_none() {
            self.state.auto.regained_at = Some(self.somewhere_in(self.spread()));
        }
        true
    }

    fn spread(&self) -> Duration {
        self.state.auto.settings.as_ref().map_or(Duration::ZERO, |settings| settings.spread)
    }

    fn somewhere_in(&self, span: Duration) -> Mono {
        let random = self.entropy.derive("spread", &self.now.mono.0.to_be_bytes());
        let random = u64::from_be_bytes(random[..8].try_into().expect("sixteen bytes hold eight"));
        let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.now.mono.after(Duration::from_millis(random % span.saturating_add(1).max(1)))
    }

    // ---- when --------------------------------------------------------------------------------------------------

    /// Begins a run if one is due. Call it after the step's inputs and before [`Step::lead`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn start_if_due(&mut self, tx: &dyn StoreTx) -> Result<(), StoreError> {
        if !self.state.auto.is_on() {
            return Ok(());
        }
        let now = self.now.mono;
        if self.state.auto.regained_at.take_if(|at| *at <= now).is_some() {
            self.state.auto.read_at = Some(now);
            self.state.auto.idle = (0, now);
            self.try_at_once();
        }
        if self.state.session.is_some() || !self.may_run_by_itself() {
            return Ok(());
        }
        let is_due = |at: Option<Mono>| at.is_some_and(|at| at <= now);
        let reads = is_due(self.reading_due());
        let fresh = self.state.auto.is_fresh && is_due(self.not_before());
        let sends = is_due(self.sending_due(tx)?);
        if !(reads || sends || fresh) {
            return Ok(());
        }
        let directions = if reads || fresh { Directions::Both } else { Directions::PushOnly };
        self.state.auto.is_fresh = false;
        self.state.auto.news = None;
        self.begin_session(SessionEnd::OnePass, directions);
        Ok(())
    }

    /// Works out when the next run is due, at the end of a step.
    pub(super) fn plan_next_run(&mut self, tx: &dyn StoreTx) -> Result<(), StoreError> {
        self.state.auto.due = None;
        if !self.state.auto.is_on() || self.state.session.is_some() || !self.may_run_by_itself() {
            return Ok(());
        }
        let fresh = self.not_before().filter(|_| self.state.auto.is_fresh);
        let due = [self.sending_due(tx)?, self.reading_due(), fresh, self.state.auto.regained_at];
        self.state.auto.due = due.into_iter().flatten().min();
        Ok(())
    }

    fn may_run_by_itself(&self) -> bool {
        !self.state.auto.is_suspended && self.state.auto.unmet(&self.state.device).is_none()
    }

    /// The earliest moment of any run, whatever there is to do: the gate, a device without a network, runs that did
    /// nothing. `None`: not without somebody's help.
    fn not_before(&self) -> Option<Mono> {
        if self.state.paused {
            return None;
        }
        let gate = match &self.state.gate {
            Gate::Open => Some(self.now.mono),
            closed => closed.until(),
        }?;
        let network =
            self.state.auto.told_offline_until(&self.state.device, self.state.is_unreachable).unwrap_or(gate);
        Some(gate.max(network).max(self.state.auto.idle.1))
    }

    fn reading_due(&self) -> Option<Mono> {
        if !self.can_pull() {
            return None;
        }
        Some(self.state.auto.read_at?.max(self.not_before()?))
    }

    fn sending_due(&self, tx: &dyn StoreTx) -> Result<Option<Mono>, StoreError> {
        let Some(not_before) = self.not_before() else { return Ok(None) };
        let news = self.state.auto.news.map_or(self.now.mono, |(_, go)| go);
        if !tx.claimable(self.now.wall, 1)?.tasks.is_empty() {
            return Ok(Some(news.max(not_before)));
        }
        Ok(tx.next_claim(self.now.wall)?.map(|due| {
            // A clock that jumped must not stall a retry beyond the cap (G12): then it is looked at anew.
            let wait = self.now.wall.until(due).min(self.config.retry.cap);
            self.now.mono.after(wait.max(Duration::from_millis(1))).max(not_before)
        }))
    }

    /// A run has ended, whoever began it: what follows from how it ended.
    pub(super) fn note_end_of_run(&mut self, report: &Report, directions: Directions) {
        let now = self.now.mono;
        self.state.auto.ended_at = Some(now);
        if !self.state.auto.is_on() {
            return;
        }
        let did_nothing = report.requests == 0 && report.pages == 0 && matches!(self.state.gate, Gate::Open);
        let runs = if did_nothing { self.state.auto.idle.0.saturating_add(1) } else { 0 };
        // The first idle run may just have found nothing new. After that something is amiss: no way that leads here is
        // known, and this is the net below.
        let wait = match runs {
            0 | 1 => Duration::ZERO,
            runs => backoff(&self.config.retry, b"run", runs, Jitter::Equal, None),
        };
        self.state.auto.idle = (runs, now.after(wait));
        if directions.pulls() && self.can_pull() {
            self.state.auto.read_at = match (self.state.pull.is_done(), self.pull_resumes()) {
                (true, _) => self.next_interval(),
                (false, Some(resumes)) => Some(resumes),
                // Nobody knows when it would work: now and then.
                (false, None) if self.pull_trouble().is_some() => self.next_interval(),
                (false, None) => Some(now),
            };
        }
    }

    fn next_interval(&self) -> Option<Mono> {
        let interval = self.state.auto.settings.as_ref()?.interval?;
        // Devices that were switched on together must not come together for ever.
        Some(self.somewhere_in(interval / 8).after(interval))
    }

    /// Why nothing runs by itself at the moment, for the app: told once when it changes.
    pub(super) fn tell_of_conditions(&mut self) {
        let unmet = self.state.auto.unmet(&self.state.device);
        if self.state.unmet != unmet {
            self.state.unmet = unmet;
            self.emit(Event::ConditionsChanged { unmet });
        }
    }
}
