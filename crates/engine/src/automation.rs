//! Running by itself: auto-sync, the app's life cycle, and windows in the background.
//!
//! Everything here is a hint to the one question of the machine: when is the next run due? Nothing here decides.
//! Tests: `tests/automation.rs`.

use crate::connectivity::SystemConnectivity;
use crate::driver::{Command, End, Hint};
use crate::engine::Engine;
use crate::error::Error;
use landfall_core::config::AutoConfig;
use landfall_core::device::{Conditions, Constraint, DeviceState};
use landfall_core::event::Report;
use landfall_core::machine::{Directions, RunBudget};
use landfall_core::store::Counts;
use landfall_core::time::Timestamp;
use std::fmt;

/// Plans windows in the background with whatever the host has for it: WorkManager, BGTaskScheduler, a timer.
pub trait BackgroundController: fmt::Debug + Send + Sync + 'static {
    /// The app goes to sleep and leaves work: ask the host for a window, in which it calls
    /// [`Engine::run_background`]. Must not block.
    fn schedule(&self, wish: &BackgroundWish);
    /// The app is back: no window is needed any more. Must not block.
    fn cancel(&self);
}

/// What a window in the background is wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackgroundWish {
    /// What is left.
    pub left: Counts,
    /// When there is something to do; `None`: at once.
    pub earliest: Option<Timestamp>,
}

/// What a window in the background came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackgroundRun {
    /// It ran; the report says what is left, and in `exhausted` whether its budget was used up.
    Ran(Report),
    /// The device does not meet a condition; nothing was done.
    NotNow {
        /// Which condition.
        unmet: Constraint,
        /// What is left.
        left: Counts,
    },
}

impl Engine {
    /// From now on runs begin by themselves: a moment after a change, when a retry is due, when the network or the app
    /// comes back, when the backend calls, and every few minutes to read. A round that failed is tried again without a
    /// new write. Calling it again changes the settings.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn enable_auto_sync(&self, settings: AutoConfig) -> Result<(), Error> {
        if self.connectivity().is_none() {
            self.listen_to(Box::new(SystemConnectivity::new()));
        }
        self.hear(Hint::RunByItself(Box::new(settings)))
    }

    /// From now on only [`sync`](Engine::sync) starts runs. One that is under way goes on.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn disable_auto_sync(&self) -> Result<(), Error> {
        self.hear(Hint::RunOnDemand)
    }

    /// Whether runs begin by themselves.
    pub fn is_auto_sync_enabled(&self) -> bool {
        self.live_state().known.is_automatic
    }

    /// What the host knows of the device has changed; what it does not know it leaves out.
    pub fn device_changed(&self, news: DeviceState) {
        drop(self.hear(Hint::Device(news)));
    }

    /// The device, as far as was told.
    pub fn device(&self) -> DeviceState {
        self.live_state().device
    }

    /// Says that the network may be back: what waits for it is tried, in the running session or, with auto-sync, in a
    /// run of its own within a few seconds.
    pub fn connectivity_regained(&self) {
        drop(self.hear(Hint::ConnectivityRegained));
    }

    /// Says whether the network is metered: tasks that ask for an unmetered one wait as long as it is.
    pub fn network_metered(&self, metered: bool) {
        self.device_changed(DeviceState::metered(metered));
    }

    /// Says that there are new credentials.
    pub fn credentials_changed(&self) {
        drop(self.hear(Hint::CredentialsChanged));
    }

    /// The backend has called (a push message, a socket): there is something to read. With auto-sync a run begins within
    /// a few seconds, at another moment on each device.
    pub fn backend_called(&self) {
        drop(self.hear(Hint::BackendCalled));
    }

    /// The app is on the screen again: what waits for the network is tried and, with auto-sync, the backend is read.
    pub fn on_resume(&self) {
        drop(self.hear(Hint::AppResumed));
        if let Some(controller) = self.background_controller() {
            controller.cancel();
        }
    }

    /// The app goes to sleep. When this returns, the running session is ended, the lease is handed back and no lock is
    /// held: the process may be frozen. What was under way is sent again, under the same keys, by the next run. Enqueueing
    /// goes on working; no run begins by itself before [`on_resume`](Engine::on_resume).
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn on_pause(&self) -> Result<(), Error> {
        self.ask(|reply| Command::Suspend { reply }).await?;
        if let Some(controller) = self.background_controller() {
            let left = self.status()?.counts;
            if left.pending + left.in_flight + left.unknown > 0 {
                let now = self.wall();
                let earliest = self.read(move |store| match store.claimable(now, 1)?.tasks.is_empty() {
                    true => store.next_claim(now),
                    false => Ok(None),
                })?;
                controller.schedule(&BackgroundWish { left, earliest });
            }
        }
        Ok(())
    }

    /// The blocking twin of [`on_pause`](Self::on_pause).
    ///
    /// # Errors
    /// As [`on_pause`](Self::on_pause).
    pub fn on_pause_blocking(&self) -> Result<(), Error> {
        pollster::block_on(self.on_pause())
    }

    /// The app is taken down: as [`on_pause`](Self::on_pause), and the engine is closed.
    pub fn on_detach(&self) {
        drop(self.on_pause_blocking());
        self.close();
    }

    /// One run within a budget and under conditions, for a window that the host gives: sends by priority, what is too
    /// large for the rest of the bytes after what is not, begins no call that would not come back in time, and says what
    /// is left. It returns early when nothing can be done within the window.
    ///
    /// # Errors
    /// Only for local reasons. Trouble with the backend is in the report.
    pub async fn run_background(
        &self,
        budget: RunBudget,
        conditions: Conditions,
    ) -> Result<BackgroundRun, Error> {
        if let Some(unmet) = conditions.unmet(&self.device()) {
            return Ok(BackgroundRun::NotNow { unmet, left: self.status()?.counts });
        }
        self.sync_within(budget, Directions::Both).await.map(BackgroundRun::Ran)
    }

    /// The blocking twin of [`run_background`](Self::run_background).
    ///
    /// # Errors
    /// As [`run_background`](Self::run_background).
    pub fn run_background_blocking(
        &self,
        budget: RunBudget,
        conditions: Conditions,
    ) -> Result<BackgroundRun, Error> {
        pollster::block_on(self.run_background(budget, conditions))
    }

    /// A run of `sync` within a budget.
    ///
    /// # Errors
    /// As [`sync`](Engine::sync).
    pub async fn sync_within(&self, budget: RunBudget, directions: Directions) -> Result<Report, Error> {
        self.ask(|reply| Command::Sync { end: End::Within(budget), directions, reply }).await
    }

    /// The blocking twin of [`sync_within`](Self::sync_within).
    ///
    /// # Errors
    /// As [`sync`](Engine::sync).
    pub fn sync_within_blocking(&self, budget: RunBudget, directions: Directions) -> Result<Report, Error> {
        pollster::block_on(self.sync_within(budget, directions))
    }

    fn hear(&self, hint: Hint) -> Result<(), Error> {
        self.send(Command::Hear(hint))
    }
}
