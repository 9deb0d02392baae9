//! What is known of the device: its network, its power, and whether the app is on the screen.
//!
//! Pushed by the host, or by whoever watches the operating system; never asked for here. Nobody has to know all of it:
//! what is `None` is not known, and holds nothing up. Tests: at the end of the file.

use serde::{Deserialize, Serialize};

/// The device as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceState {
    /// Whether some network is up. It says nothing of the backend: there may be a portal in between.
    pub online: Option<bool>,
    /// Whether the network costs by volume.
    pub metered: Option<bool>,
    /// Whether it is a foreign mobile network.
    pub roaming: Option<bool>,
    /// Charge of the battery, 0 to 100.
    pub battery_percent: Option<u8>,
    /// Whether the device is being charged, or has no battery.
    pub charging: Option<bool>,
    /// Whether the person asked the device to save power.
    pub power_save: Option<bool>,
    /// Whether the app is on the screen.
    pub foreground: Option<bool>,
}

impl DeviceState {
    /// Takes over what `news` knows, and keeps the rest.
    pub fn update(&mut self, news: &Self) {
        let Self { online, metered, roaming, battery_percent, charging, power_save, foreground } = *news;
        self.online = online.or(self.online);
        self.metered = metered.or(self.metered);
        self.roaming = roaming.or(self.roaming);
        self.battery_percent = battery_percent.or(self.battery_percent);
        self.charging = charging.or(self.charging);
        self.power_save = power_save.or(self.power_save);
        self.foreground = foreground.or(self.foreground);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_keep_what_they_do_not_know() {
        let mut state =
            DeviceState { online: Some(true), battery_percent: Some(80), ..DeviceState::default() };
        state.update(&DeviceState { online: Some(false), metered: Some(true), ..DeviceState::default() });
        let expected = DeviceState {
            online: Some(false),
            metered: Some(true),
            battery_percent: Some(80),
            ..DeviceState::default()
        };
        assert_eq!(state, expected);
    }
}
