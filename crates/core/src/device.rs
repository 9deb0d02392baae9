//! What is known of the device: its network, its power, and whether the app is on the screen.
//!
//! Pushed by the host, or by whoever watches the operating system; never asked for here. Nobody has to know all of it:
//! what is `None` is not known, and holds nothing up. Tests: at the end of the file, and `tests/auto` of
//! `landfall-testkit`.

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
    /// News of the network's price alone.
    pub fn metered(metered: bool) -> Self {
        Self { metered: Some(metered), ..Self::default() }
    }

    /// News of the network alone.
    pub fn online(online: bool) -> Self {
        Self { online: Some(online), ..Self::default() }
    }

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

/// What must be so for the machine to run by itself. Of what is not known, the best is assumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Only on a network that does not cost by volume.
    pub unmetered: bool,
    /// Not on a foreign mobile network.
    pub no_roaming: bool,
    /// Only while the device is being charged.
    pub charging: bool,
    /// Only with at least this charge, 0 to 100, or while it is being charged.
    pub battery_percent_min: u8,
    /// Not while the device is to save power.
    pub not_saving_power: bool,
    /// Only while the app is on the screen.
    pub foreground: bool,
}

/// A condition that is not met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// An unmetered network is asked for.
    Metered,
    /// A network at home is asked for.
    Roaming,
    /// The device is not being charged.
    NotCharging,
    /// The battery is low.
    BatteryLow,
    /// The device is to save power.
    PowerSave,
    /// The app is not on the screen.
    Background,
}

impl Constraint {
    /// What would have to change, for people.
    pub const fn wanted(self) -> &'static str {
        match self {
            Self::Metered => "an unmetered network",
            Self::Roaming => "a network that is not roaming",
            Self::NotCharging => "a charger",
            Self::BatteryLow => "a fuller battery, or a charger",
            Self::PowerSave => "the end of power saving",
            Self::Background => "the app on the screen",
        }
    }
}

impl Conditions {
    /// The first of them that the device does not meet.
    pub fn unmet(&self, device: &DeviceState) -> Option<Constraint> {
        let is = |known: Option<bool>| known == Some(true);
        let is_not = |known: Option<bool>| known == Some(false);
        let is_charging = is(device.charging);
        let is_low = device.battery_percent.is_some_and(|left| left < self.battery_percent_min);
        let unmet = [
            (self.foreground && is_not(device.foreground), Constraint::Background),
            (self.unmetered && is(device.metered), Constraint::Metered),
            (self.no_roaming && is(device.roaming), Constraint::Roaming),
            (self.charging && is_not(device.charging), Constraint::NotCharging),
            (is_low && !is_charging, Constraint::BatteryLow),
            (self.not_saving_power && is(device.power_save), Constraint::PowerSave),
        ];
        unmet.into_iter().find_map(|(is_unmet, what)| is_unmet.then_some(what))
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
        let all = DeviceState {
            online: Some(true),
            metered: Some(false),
            roaming: Some(true),
            battery_percent: Some(30),
            charging: Some(true),
            power_save: Some(true),
            foreground: Some(true),
        };
        state.update(&all);
        assert_eq!(state, all, "of what they do know, they are believed in everything");
        state.update(&DeviceState::default());
        assert_eq!(state, all);
    }

    #[test]
    fn each_condition_names_what_is_unmet_and_the_unknown_holds_nothing_up() {
        let all = Conditions {
            unmetered: true,
            no_roaming: true,
            charging: true,
            battery_percent_min: 20,
            not_saving_power: true,
            foreground: true,
        };
        assert_eq!(all.unmet(&DeviceState::default()), None);
        let good = DeviceState {
            online: Some(true),
            metered: Some(false),
            roaming: Some(false),
            battery_percent: Some(20),
            charging: Some(true),
            power_save: Some(false),
            foreground: Some(true),
        };
        assert_eq!(all.unmet(&good), None);
        let bad = [
            (DeviceState { metered: Some(true), ..good }, Constraint::Metered),
            (DeviceState { roaming: Some(true), ..good }, Constraint::Roaming),
            (DeviceState { charging: Some(false), ..good }, Constraint::NotCharging),
            (DeviceState { power_save: Some(true), ..good }, Constraint::PowerSave),
            (DeviceState { foreground: Some(false), ..good }, Constraint::Background),
        ];
        for (device, what) in bad {
            assert_eq!(all.unmet(&device), Some(what));
            assert_eq!(Conditions::default().unmet(&device), None);
        }
        let low = DeviceState { battery_percent: Some(19), charging: Some(false), ..good };
        let kept = Conditions { charging: false, ..all };
        assert_eq!(kept.unmet(&low), Some(Constraint::BatteryLow));
        assert_eq!(kept.unmet(&DeviceState { charging: Some(true), ..low }), None);
        assert_eq!(
            kept.unmet(&DeviceState { battery_percent: Some(20), ..low }),
            None,
            "just enough is enough"
        );
    }

    #[test]
    fn each_condition_says_in_its_own_words_what_would_help() {
        use Constraint::{Background, BatteryLow, Metered, NotCharging, PowerSave, Roaming};
        let all = [Metered, Roaming, NotCharging, BatteryLow, PowerSave, Background];
        let words: alloc::collections::BTreeSet<&str> = all.into_iter().map(Constraint::wanted).collect();
        assert_eq!(words.len(), all.len());
        assert!(words.iter().all(|word| word.contains(' ')), "for people: {words:?}");
    }
}
