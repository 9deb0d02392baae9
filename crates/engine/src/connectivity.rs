//! Who tells the engine of the device: its network, its power, whether the app is on the screen.
//!
//! A provider implements [`ConnectivityService`]; it tells what it knows and leaves the rest out. Nothing here decides
//! whether something is sent: what is told goes to the machine, which also has evidence of its own (calls that got
//! through, and a probe). In words, with an example for hosts: `docs/connectivity.md`. Tests: in each part, and
//! `tests/connectivity.rs`.

mod background;
mod manual;
mod network_manager;
mod power;
mod system;

pub use manual::ManualConnectivity;
pub use network_manager::NetworkManager;
pub use power::PowerSupply;
pub use system::SystemConnectivity;

use landfall_core::device::DeviceState;
use std::fmt;
use std::sync::Arc;

/// Takes what a provider has to tell. Cheap to clone, and may be used from any thread.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Fn(DeviceState) + Send + Sync>);

impl Reporter {
    /// A reporter that hands everything to `take`, which must return at once and must not call the provider: a provider
    /// may hold a lock of its own meanwhile, so that news arrive in the order they happened.
    pub fn new(take: impl Fn(DeviceState) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Tells what is known now. What is `None` in `news` is not known to this provider, and changes nothing.
    pub fn tell(&self, news: DeviceState) {
        (self.0)(news);
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reporter(..)")
    }
}

/// Watches the device, or a part of it.
///
/// What it tells is a hint and no more. `online: Some(false)` says that no way out of this machine is known; a backend on
/// this very machine, or on a network without a default route, is reached all the same.
///
/// Providers end their threads when they are dropped, too.
pub trait ConnectivityService: fmt::Debug + Send + 'static {
    /// Tells the state as it is now, then at each change, from any thread, until [`stop`](Self::stop). A provider that
    /// was started already begins anew with this reporter.
    fn start(&mut self, reporter: Reporter);

    /// Ends what `start` began, within 100 ms or so; nothing is told after it returned. Does nothing when nothing runs.
    fn stop(&mut self);
}

/// Several providers as one. Where two of them know the same thing, the later news count.
///
/// ```
/// use landfall_engine::{ConnectivityService, ManualConnectivity, Reporter, Several};
/// let screen = ManualConnectivity::new();
/// let network = ManualConnectivity::new();
/// let mut both = Several(vec![Box::new(screen.clone()), Box::new(network.clone())]);
/// both.start(Reporter::new(|news| println!("{news:?}")));
/// network.offline();
/// ```
#[derive(Debug, Default)]
pub struct Several(pub Vec<Box<dyn ConnectivityService>>);

impl ConnectivityService for Several {
    fn start(&mut self, reporter: Reporter) {
        for provider in &mut self.0 {
            provider.start(reporter.clone());
        }
    }

    fn stop(&mut self) {
        for provider in &mut self.0 {
            provider.stop();
        }
    }
}

/// The examples of the page are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/connectivity.md")]
struct Guide;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn several_providers_tell_one_reporter_until_all_are_stopped() {
        let (one, two) = (ManualConnectivity::new(), ManualConnectivity::new());
        one.online();
        let told = Arc::new(Mutex::new(DeviceState::default()));
        let state = Arc::clone(&told);
        let mut both = Several(vec![Box::new(one.clone()), Box::new(two.clone())]);
        both.start(Reporter::new(move |news| state.lock().unwrap().update(&news)));
        two.metered(true);
        let expected = DeviceState { online: Some(true), metered: Some(true), ..DeviceState::default() };
        assert_eq!(*told.lock().unwrap(), expected);
        both.stop();
        one.offline();
        two.metered(false);
        assert_eq!(*told.lock().unwrap(), expected, "nothing is told after the stop");
    }
}
