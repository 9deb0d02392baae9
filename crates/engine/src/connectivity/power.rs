//! Battery and mains, from the folder in which Linux shows them.
//!
//! Looks every half a minute: charge changes slowly, and the folder gives no notice that ordinary programs may hear.
//! Where there is no such folder nothing is told. Tests: below, with folders made for them.

use super::background::{Background, look_every};
use super::{ConnectivityService, Reporter};
use landfall_core::device::DeviceState;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where Linux shows batteries and mains.
const FOLDER: &str = "/sys/class/power_supply";
/// How often it is looked. 30 s: a percent of charge takes longer, and a plug may wait so long.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Most supplies that are looked at; a laptop has three.
const SUPPLIES_MAX: usize = 64;
/// Most bytes of one file; they hold a word or a number.
const FILE_BYTES_MAX: u64 = 64;

/// Tells how full the battery is and whether it is charged; a device without a battery counts as charging. Batteries of
/// mice and headphones do not count.
#[derive(Debug)]
pub struct PowerSupply {
    folder: PathBuf,
    every: Duration,
    background: Option<Background>,
}

impl PowerSupply {
    /// Looks at this device every 30 seconds.
    pub fn new() -> Self {
        Self::looking_at(FOLDER, LOOK_EVERY)
    }

    /// Looks at another folder of the same form, so often.
    pub fn looking_at(folder: impl Into<PathBuf>, every: Duration) -> Self {
        Self { folder: folder.into(), every, background: None }
    }
}

impl Default for PowerSupply {
    fn default() -> Self {
        Self::new()
    }
}

impl ConnectivityService for PowerSupply {
    fn start(&mut self, reporter: Reporter) {
        self.stop();
        let folder = self.folder.clone();
        self.background = look_every("landfall-power", self.every, reporter, move || look(&folder));
    }

    fn stop(&mut self) {
        self.background = None;
    }
}

/// One battery, or one way in for current.
#[derive(Default)]
struct Supply {
    battery: bool,
    percent: Option<u8>,
    status: String,
    /// Whether current comes in, where this is a way in.
    plugged: Option<bool>,
}

fn look(folder: &Path) -> DeviceState {
    let Ok(entries) = folder.read_dir() else { return DeviceState::default() };
    let supplies: Vec<Supply> =
        entries.take(SUPPLIES_MAX).filter_map(|entry| supply(&entry.ok()?.path())).collect();
    let batteries = || supplies.iter().filter(|supply| supply.battery);
    let percents: Vec<u32> = batteries().filter_map(|battery| battery.percent).map(u32::from).collect();
    let mean =
        u32::try_from(percents.len()).ok().and_then(|count| percents.iter().sum::<u32>().checked_div(count));
    DeviceState {
        battery_percent: mean.and_then(|percent| u8::try_from(percent).ok()),
        charging: if batteries().next().is_none() { Some(true) } else { charging(&supplies) },
        ..DeviceState::default()
    }
}

/// Whether current comes in. A plug says it most surely; a battery that is kept at its level only says `Not charging`.
fn charging(supplies: &[Supply]) -> Option<bool> {
    let says = |word: &str| supplies.iter().any(|supply| supply.battery && supply.status == word);
    let plugs = || supplies.iter().filter_map(|supply| supply.plugged);
    if says("Charging") || plugs().any(|plugged| plugged) {
        Some(true)
    } else if says("Discharging") || plugs().next().is_some() {
        Some(false)
    } else {
        says("Full").then_some(true)
    }
}

/// The supply in a folder, if it feeds the device as a whole.
fn supply(folder: &Path) -> Option<Supply> {
    let read = |file: &str| {
        let mut text = String::new();
        File::open(folder.join(file)).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned())
    };
    let kind = read("type")?;
    if read("scope").as_deref() == Some("Device") || read("present").as_deref() == Some("0") {
        return None;
    }
    if kind == "Battery" {
        let percent = read("capacity").and_then(|text| text.parse().ok()).filter(|percent| *percent <= 100);
        return Some(Supply {
            battery: true,
            percent,
            status: read("status").unwrap_or_default(),
            plugged: None,
        });
    }
    // 1 is plugged in; 2 is plugged in and chosen at a port that may give more.
    let plugged = read("online").and_then(|text| text.parse::<u8>().ok()).map(|online| online > 0);
    Some(Supply { plugged, ..Supply::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::channel;

    /// A folder of supplies, gone when dropped.
    struct Device(PathBuf);

    impl Device {
        fn new(supplies: &[(&str, &[(&str, &str)])]) -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::SeqCst);
            let device =
                Self(std::env::temp_dir().join(format!("landfall-power-{}-{number}", std::process::id())));
            fs::create_dir_all(&device.0).unwrap();
            for (name, files) in supplies {
                device.put(name, files);
            }
            device
        }

        fn put(&self, name: &str, files: &[(&str, &str)]) {
            fs::create_dir_all(self.0.join(name)).unwrap();
            for (file, text) in files {
                fs::write(self.0.join("new"), format!("{text}\n")).unwrap();
                fs::rename(self.0.join("new"), self.0.join(name).join(file)).unwrap();
            }
        }
    }

    impl Drop for Device {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    type Files = &'static [(&'static str, &'static str)];
    const HALF: Files =
        &[("type", "Battery"), ("present", "1"), ("capacity", "50"), ("status", "Discharging")];
    const RISING: Files = &[("type", "Battery"), ("capacity", "81"), ("status", "Charging")];
    const KEPT: Files = &[("type", "Battery"), ("capacity", "80"), ("status", "Not charging")];
    const FULL: Files = &[("type", "Battery"), ("capacity", "100"), ("status", "Full")];
    const ODD: Files = &[("type", "Battery"), ("capacity", "255"), ("status", "Unknown")];
    const BARE: Files = &[("type", "Battery")];
    const OUT: Files = &[("type", "Battery"), ("present", "0"), ("capacity", "0"), ("status", "Unknown")];
    const MOUSE: Files =
        &[("type", "Battery"), ("scope", "Device"), ("capacity", "3"), ("status", "Discharging")];
    const MAINS: Files = &[("type", "Mains"), ("online", "1")];
    const UNPLUGGED: Files = &[("type", "Mains"), ("online", "0")];
    const USB: Files = &[("type", "USB"), ("online", "2")];

    #[test]
    fn every_kind_of_supply() {
        let cases: &[(&[Files], Option<u8>, Option<bool>)] = &[
            (&[], None, Some(true)),
            (&[MAINS], None, Some(true)),
            (&[UNPLUGGED], None, Some(true)),
            (&[MOUSE], None, Some(true)),
            (&[OUT, MAINS], None, Some(true)),
            (&[HALF], Some(50), Some(false)),
            (&[HALF, UNPLUGGED, MOUSE], Some(50), Some(false)),
            (&[RISING], Some(81), Some(true)),
            (&[RISING, MAINS], Some(81), Some(true)),
            (&[KEPT, MAINS], Some(80), Some(true)),
            (&[KEPT, UNPLUGGED], Some(80), Some(false)),
            (&[KEPT, UNPLUGGED, USB], Some(80), Some(true)),
            (&[KEPT], Some(80), None),
            (&[FULL], Some(100), Some(true)),
            (&[FULL, UNPLUGGED], Some(100), Some(false)),
            (&[HALF, FULL], Some(75), Some(false)),
            (&[ODD], None, None),
            (&[BARE], None, None),
            (&[BARE, RISING], Some(81), Some(true)),
        ];
        for (number, (supplies, battery_percent, charging)) in cases.iter().enumerate() {
            let names = ["A", "B", "C", "D"];
            let named: Vec<_> = names.into_iter().zip(supplies.iter().copied()).collect();
            let device = Device::new(&named);
            let expected = DeviceState {
                battery_percent: *battery_percent,
                charging: *charging,
                ..DeviceState::default()
            };
            assert_eq!(look(&device.0), expected, "case {number}");
        }
        assert_eq!(
            look(Path::new("/nowhere")),
            DeviceState::default(),
            "where nothing is shown nothing is known"
        );
    }

    #[test]
    fn a_plug_is_told_when_it_is_seen() {
        let device = Device::new(&[("BAT0", HALF), ("AC", UNPLUGGED)]);
        let (sender, told) = channel();
        let mut provider = PowerSupply::looking_at(&device.0, Duration::from_millis(5));
        provider.start(Reporter::new(move |news| sender.send(news).unwrap()));
        let first = told.try_recv().unwrap();
        assert_eq!((first.battery_percent, first.charging), (Some(50), Some(false)));
        device.put("AC", MAINS);
        let second = told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!((second.battery_percent, second.charging), (Some(50), Some(true)));
        provider.stop();
        device.put("AC", UNPLUGGED);
        assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
    }
}
