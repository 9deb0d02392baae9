//! A provider that the host feeds: Flutter's `connectivity_plus`, Android's `ConnectivityManager`, a test.
//!
//! It remembers what it was told, so that an engine that starts later learns it at once. It has no thread. Tests: below.

use super::{ConnectivityService, Reporter};
use landfall_core::device::DeviceState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tells what the host tells it. Clones are handles on the same state; each engine gets a clone of its own.
///
/// ```
/// use landfall_core::device::DeviceState;
/// use landfall_engine::ManualConnectivity;
/// let device = ManualConnectivity::new();
/// // … give `device.clone()` to the engine, and keep `device` for the host's callbacks:
/// device.set(DeviceState { online: Some(true), metered: Some(true), ..DeviceState::default() });
/// device.offline();
/// ```
#[derive(Debug, Default)]
pub struct ManualConnectivity {
    shared: Arc<Mutex<Shared>>,
    /// The number of the reporter that this handle started.
    own: Option<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    state: DeviceState,
    reporters: Vec<(u64, Reporter)>,
    next: u64,
}

impl ManualConnectivity {
    /// Knows nothing yet, and so holds nothing up.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over what `news` knows, keeps the rest, and tells it every engine that listens.
    pub fn set(&self, news: DeviceState) {
        let mut shared = self.shared();
        shared.state.update(&news);
        // Under the lock, so that no engine hears of two changes in the wrong order.
        for (_, reporter) in &shared.reporters {
            reporter.tell(news);
        }
    }

    /// Some network is up.
    pub fn online(&self) {
        self.set(DeviceState { online: Some(true), ..DeviceState::default() });
    }

    /// No network is up.
    pub fn offline(&self) {
        self.set(DeviceState { online: Some(false), ..DeviceState::default() });
    }

    /// Whether the network costs by volume.
    pub fn metered(&self, metered: bool) {
        self.set(DeviceState { metered: Some(metered), ..DeviceState::default() });
    }

    /// What was told so far.
    pub fn state(&self) -> DeviceState {
        self.shared().state
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Another handle on the same state; it is not started.
impl Clone for ManualConnectivity {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), own: None }
    }
}

impl ConnectivityService for ManualConnectivity {
    fn start(&mut self, reporter: Reporter) {
        self.stop();
        let mut shared = self.shared();
        if shared.state != DeviceState::default() {
            reporter.tell(shared.state);
        }
        let number = shared.next;
        shared.next += 1;
        shared.reporters.push((number, reporter));
        drop(shared);
        self.own = Some(number);
    }

    fn stop(&mut self) {
        if let Some(own) = self.own.take() {
            self.shared().reporters.retain(|(number, _)| *number != own);
        }
    }
}

impl Drop for ManualConnectivity {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    fn listener() -> (Reporter, Receiver<DeviceState>) {
        let (sender, receiver) = channel();
        (Reporter::new(move |news| sender.send(news).unwrap()), receiver)
    }

    fn told(receiver: &Receiver<DeviceState>) -> Vec<DeviceState> {
        receiver.try_iter().collect()
    }

    const ONLINE: DeviceState = DeviceState {
        online: Some(true),
        metered: None,
        roaming: None,
        battery_percent: None,
        charging: None,
        power_save: None,
        foreground: None,
    };

    #[test]
    fn what_was_set_before_the_start_is_told_at_the_start() {
        let (reporter, heard) = listener();
        let device = ManualConnectivity::new();
        let mut early = device.clone();
        early.start(reporter.clone());
        early.stop();
        assert_eq!(told(&heard), [], "nothing is known, so nothing is told");
        device.online();
        device.metered(true);
        let mut engine = device.clone();
        engine.start(reporter);
        assert_eq!(told(&heard), [DeviceState { metered: Some(true), ..ONLINE }]);
        assert_eq!(device.state(), DeviceState { metered: Some(true), ..ONLINE });
    }

    #[test]
    fn engines_share_a_handle_and_stop_alone() {
        let device = ManualConnectivity::new();
        let (mut one, mut two) = (device.clone(), device.clone());
        let ((first, heard_first), (second, heard_second)) = (listener(), listener());
        one.start(first);
        two.start(second);
        device.online();
        one.stop();
        one.stop();
        device.offline();
        let offline = DeviceState { online: Some(false), ..ONLINE };
        assert_eq!(told(&heard_first), [ONLINE]);
        assert_eq!(told(&heard_second), [ONLINE, offline]);
        drop(two);
        device.online();
        assert_eq!(told(&heard_second), [], "an engine that is gone hears nothing");
        drop(device);
        one.online();
        assert_eq!(one.state(), ONLINE, "a handle lives on without the first one");
    }

    #[test]
    fn a_second_start_takes_the_place_of_the_first() {
        let mut device = ManualConnectivity::new();
        let ((first, heard_first), (second, heard_second)) = (listener(), listener());
        device.start(first);
        device.start(second);
        device.online();
        assert_eq!((told(&heard_first).len(), told(&heard_second).len()), (0, 1));
    }
}
