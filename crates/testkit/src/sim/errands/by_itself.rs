//! Devices that run by themselves: what they hear, how they sleep, and how everything comes to rest when people only do
//! what people must. All of it is drawn from `habits.rs`, so that lives in which apps say when are what they were.

use super::app::ACCOUNTS;
use super::world::{Happening, ROUNDS, Stepped, World, open};
use crate::sim::Violation;
use crate::sim::habits::{Habits, LOOK_MS, News, READING_MS, RECOVERY_MS, Tries};
use landfall_core::device::DeviceState;
use landfall_core::failure::{Failure, FailureKind};
use landfall_core::id::CallId;
use landfall_core::machine::{Effect, Machine, Step};
use landfall_core::store::{StoreError, StoreRead, StoreTx};
use landfall_core::task::StateKind;
use landfall_core::time::Timestamp;

impl World {
    // ---- what devices hear ---------------------------------------------------------------------------------------

    pub(super) fn is_awake(&self, device: usize, process: usize) -> bool {
        let state = &self.devices[device].processes[process];
        state.machine.is_some() && !state.suspended
    }

    pub(super) fn hear_later(&mut self, device: usize) {
        let wait = self.habits.pause();
        if self.habits.by_itself && !self.healed {
            self.later(wait, Happening::Hear { device });
        }
    }

    pub(super) fn hear(&mut self, line: usize) -> Result<(), Violation> {
        let device = self.now_used(line);
        let process = self.habits.rng.index(self.devices[device].processes.len());
        let news = self.habits.news();
        self.say(format!("device {device}.{process} hears: {news:?}"));
        match news {
            News::Suspended(for_ms) => self.suspend(device, process, for_ms)?,
            News::Called => self.tell(device, process, |step, _| {
                step.backend_called();
                Ok(())
            })?,
            News::Online(online) => {
                self.tell(device, process, |step, tx| step.device_changed(tx, &DeviceState::online(online)))?;
            }
            News::Regained => self.tell(device, process, |step, _| {
                step.connectivity_regained();
                Ok(())
            })?,
            News::Nothing => {}
        }
        self.hear_later(line);
        Ok(())
    }

    /// What nobody needs to hear reaches a process that is awake.
    fn tell(
        &mut self,
        device: usize,
        process: usize,
        work: impl FnOnce(&mut Step, &mut dyn StoreTx) -> Result<(), StoreError>,
    ) -> Result<(), Violation> {
        if self.is_awake(device, process) { self.step(device, process, work).map(drop) } else { Ok(()) }
    }

    /// What another process leaves in the store is seen a moment later.
    pub(super) fn look_later(&mut self, device: usize) {
        if self.habits.by_itself {
            let wait = self.habits.rng.below(1_000);
            self.later(wait, Happening::Look { device });
        }
    }

    pub(super) fn look(&mut self, device: usize) -> Result<(), Violation> {
        for process in 0..self.devices[device].processes.len() {
            self.tell(device, process, |step, _| {
                step.wake();
                Ok(())
            })?;
        }
        Ok(())
    }

    // ---- on, asleep, back ----------------------------------------------------------------------------------------

    pub(super) fn switch_on(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let machine = &self.devices[device].processes[process].machine;
        if !self.habits.by_itself || machine.as_ref().is_none_or(Machine::runs_by_itself) {
            return Ok(());
        }
        self.step(device, process, |step, _| {
            step.run_by_itself(Habits::settings());
            Ok::<_, StoreError>(())
        })?;
        self.later(100, Happening::SwitchOn { device, process });
        Ok(())
    }

    /// A machine that was opened anew, for this account or another, runs as the one before: it begins with a run, whatever
    /// has failed before.
    pub(super) fn begins_anew(&mut self, device: usize, process: usize) {
        self.devices[device].processes[process].tries = Tries::begin(self.now_ms);
        self.poke(device, process);
    }

    /// The alarm of a machine is set by its first step.
    pub(super) fn poke(&mut self, device: usize, process: usize) {
        let state = &self.devices[device].processes[process];
        if state.machine.as_ref().is_some_and(Machine::runs_by_itself) {
            let life = state.life;
            self.later(100, Happening::Wake { device, process, life });
        }
    }

    fn suspend(&mut self, device: usize, process: usize, for_ms: u64) -> Result<(), Violation> {
        if !self.is_awake(device, process) {
            return Ok(());
        }
        self.devices[device].processes[process].suspended = true;
        self.count("suspensions");
        self.step(device, process, |step, _| {
            step.suspend();
            Ok::<_, StoreError>(())
        })?;
        // It may not have come to pass, or somebody else has started since, who is awake.
        self.devices[device].processes[process].suspended = self.was_told_to_sleep(device, process);
        self.later(for_ms, Happening::Resume { device, process });
        Ok(())
    }

    pub(super) fn resume_app(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        let state = &mut self.devices[device].processes[process];
        if state.machine.is_none() || !std::mem::take(&mut state.suspended) {
            return Ok(());
        }
        self.step(device, process, |step, _| {
            step.resume_app();
            Ok::<_, StoreError>(())
        })?;
        if self.was_told_to_sleep(device, process) {
            self.devices[device].processes[process].suspended = true;
            self.later(100, Happening::Resume { device, process });
        }
        Ok(())
    }

    fn was_told_to_sleep(&self, device: usize, process: usize) -> bool {
        let now = self.clock(device);
        let machine = &self.devices[device].processes[process].machine;
        machine.as_ref().is_some_and(|machine| machine.live(now).is_suspended)
    }

    /// Somebody who is asked to log in takes a moment.
    pub(super) fn log_in_later(&mut self, device: usize, process: usize) {
        if self.habits.by_itself {
            let wait = self.habits.rng.below(30_000);
            self.later(wait, Happening::LogIn { device, process });
        }
    }

    pub(super) fn log_in(&mut self, device: usize, process: usize) -> Result<(), Violation> {
        if self.devices[device].processes[process].machine.is_none() {
            return Ok(());
        }
        let stepped = self.step(device, process, |step, _| {
            step.credentials_changed();
            Ok::<_, StoreError>(())
        })?;
        if matches!(stepped, Stepped::Failed) {
            self.later(100, Happening::LogIn { device, process });
        }
        Ok(())
    }

    /// A call begins: the app is awake, and it is not one too many.
    pub(super) fn may_leave(&mut self, device: usize, process: usize, effect: &Effect) -> Result<(), String> {
        if !matches!(
            effect,
            Effect::Push { .. } | Effect::Pull { .. } | Effect::Fetch { .. } | Effect::Probe { .. }
        ) {
            return Ok(());
        }
        let (now, by_itself) = (self.now_ms, self.habits.by_itself && !self.habits.on_demand);
        let state = &mut self.devices[device].processes[process];
        if state.suspended {
            return Err(format!("device {device}.{process} makes a call in its sleep"));
        }
        if by_itself { state.tries.made(now) } else { Ok(()) }
    }

    pub(super) fn call_answered(&mut self, device: usize, process: usize, failed: Option<FailureKind>) {
        let now = self.now_ms;
        self.devices[device].processes[process].tries.answered(now, failed);
    }

    pub(super) fn probe(&mut self, device: usize, process: usize, call: CallId) {
        self.count("probes");
        let (online, chaos) = (self.devices[device].online, self.chaos());
        let (wait, found) = self.habits.probed(online, chaos);
        self.say(format!("device {device}.{process} probes: {found:?}"));
        let life = self.devices[device].processes[process].life;
        self.later(wait, Happening::Probed { device, process, life, call, found });
    }

    pub(super) fn probed(
        &mut self,
        device: usize,
        process: usize,
        life: u64,
        call: CallId,
        found: Result<(), Failure>,
    ) -> Result<(), Violation> {
        let state = &self.devices[device].processes[process];
        if state.life != life || state.machine.is_none() {
            return Ok(());
        }
        self.call_answered(device, process, found.as_ref().err().map(|failure| failure.kind));
        let stepped = self.step(device, process, |step, tx| step.probed(tx, call, &found))?;
        if matches!(stepped, Stepped::Failed) {
            self.later(500, Happening::Probed { device, process, life, call, found });
        }
        Ok(())
    }

    // ---- coming to rest ------------------------------------------------------------------------------------------

    /// Nobody starts a run or says that the network is back: whatever can go must go (G11), and then people do what only
    /// people can, until nothing is left.
    pub(super) fn come_to_rest_by_itself(&mut self) -> Result<(), Violation> {
        for device in self.living() {
            self.tell_of_the_network(device)?;
        }
        // Whoever sleeps or was killed comes back within this.
        self.run_until(self.now_ms + LOOK_MS)?;
        self.all_goes_that_can()?;
        for round in 0..=ROUNDS {
            let quiet = self.nothing_is_queued();
            for account in ACCOUNTS {
                for device in self.living() {
                    self.look_after(device, account, round)?;
                }
                self.run_until(self.now_ms + READING_MS)?;
                self.all_goes_that_can()?;
            }
            if quiet && self.nothing_is_queued() {
                return Ok(());
            }
        }
        let left = self.what_is_queued();
        self.judge(Err(format!("it never comes to rest by itself: {left}")))
    }

    /// Whatever is not stuck has gone within the longest wait that a backend may ask for.
    fn all_goes_that_can(&mut self) -> Result<(), Violation> {
        let end = self.now_ms + RECOVERY_MS;
        while self.nothing_is_stuck().is_err() && self.now_ms < end {
            self.run_until(self.now_ms + LOOK_MS)?;
        }
        let outcome = self.nothing_is_stuck();
        self.judge(outcome)
    }

    /// What only a person can do: switch to the account, wake the app, log in, let go what was paused, and decide.
    fn look_after(&mut self, device: usize, account: &'static str, round: u32) -> Result<(), Violation> {
        for process in 0..self.devices[device].processes.len() {
            self.start(device, process)?;
            self.resume_app(device, process)?;
            self.log_in(device, process)?;
        }
        if self.devices[device].processes[0].account != account {
            self.switch(device, 0)?;
        }
        self.let_all_go(device, 0)?;
        self.decide_all(device, 0, round)?;
        self.look_later(device);
        Ok(())
    }

    /// Of the accounts that are open and awake nothing is left that could go.
    fn nothing_is_stuck(&mut self) -> Result<(), String> {
        for device in self.living() {
            let now = self.clock(device).wall;
            for process in 0..self.devices[device].processes.len() {
                if !self.is_awake(device, process) {
                    continue;
                }
                let account = self.devices[device].processes[process].account;
                let tx = open(&mut self.devices[device].store, account);
                let left = could_go(&*tx, now).map_err(|error| error.to_string())?;
                if !left.is_empty() {
                    return Err(format!(
                        "G11: {account} does not go on by itself on device {device}.{process}: {left:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What is under way, and what could be.
fn could_go(store: &dyn StoreRead, now: Timestamp) -> Result<Vec<String>, StoreError> {
    if store.controls()?.unwrap_or_default().all {
        return Ok(Vec::new());
    }
    let mut left = store.claimable(now, usize::MAX)?.tasks;
    let all = store.tasks_after(0, usize::MAX)?.tasks;
    left.extend(all.into_iter().filter(|task| task.state.kind() == StateKind::InFlight));
    Ok(left.iter().map(|task| format!("{} of {}: {:?}", task.id, task.entity, task.state)).collect())
}
