//! What `nmcli device show` says of the network. Pure; output that makes no sense is no news. Tests: below, over what
//! nmcli 1.42.4 wrote beside a NetworkManager that ran in a network of its own.

use landfall_core::device::DeviceState;

/// The arguments of the look.
pub(super) const DEVICE_SHOW: &[&str] =
    &["-t", "-f", "GENERAL.DEVICE,GENERAL.STATE,GENERAL.METERED,IP4.ROUTE,IP6.ROUTE", "device", "show"];

/// One interface.
#[derive(Default)]
struct Device<'a> {
    name: &'a str,
    unmanaged: bool,
    metered: bool,
    /// The metric of its best default route.
    metric: Option<u64>,
}

/// The state in the output of [`DEVICE_SHOW`]. The network is the interface whose default route has the lowest metric.
pub(super) fn device_show(output: &str) -> DeviceState {
    let devices: Vec<Device<'_>> = output.split("\n\n").filter_map(device).collect();
    let ways = devices.iter().filter(|device| device.metric.is_some() && device.name != "lo");
    match ways.min_by_key(|device| device.metric) {
        Some(way) => DeviceState { online: Some(true), metered: Some(way.metered), ..DeviceState::default() },
        // An interface that somebody else looks after may have a way that is not seen here.
        None => {
            let all_seen = devices.iter().all(|device| device.name == "lo" || !device.unmanaged);
            let online = (all_seen && devices.iter().any(|device| device.name != "lo")).then_some(false);
            DeviceState { online, ..DeviceState::default() }
        }
    }
}

fn device(block: &str) -> Option<Device<'_>> {
    let mut device = Device::default();
    for (field, value) in block.lines().filter_map(|line| line.split_once(':')) {
        match field {
            "GENERAL.DEVICE" => device.name = value,
            "GENERAL.STATE" => device.unmanaged = value.starts_with("10 "),
            "GENERAL.METERED" => device.metered = costs(value),
            _ if field.starts_with("IP4.ROUTE") || field.starts_with("IP6.ROUTE") => {
                let metric = default_metric(value);
                device.metric = [device.metric, metric].into_iter().flatten().min();
            }
            _ => {}
        }
    }
    (!device.name.is_empty()).then_some(device)
}

/// `yes`, `no`, either of them guessed, or `unknown`, which is told as no: were it not told, the price of the network
/// before would stick to this one, and what is not known is to hold nothing up.
fn costs(value: &str) -> bool {
    value.split(' ').next() == Some("yes")
}

/// The metric in `dst = 0.0.0.0/0, nh = 10.9.9.2, mt = 104`, if that is a default route.
fn default_metric(route: &str) -> Option<u64> {
    let mut default = false;
    let mut metric = None;
    for (name, value) in route.split(',').filter_map(|part| part.trim().split_once(" = ")) {
        match name {
            "dst" => default = matches!(value.replace('\\', "").as_str(), "0.0.0.0/0" | "::/0"),
            "mt" => metric = value.parse().ok(),
            _ => {}
        }
    }
    if default { Some(metric.unwrap_or(0)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(output: &str) -> (Option<bool>, Option<bool>) {
        let state = device_show(output);
        let expected = DeviceState { online: state.online, metered: state.metered, ..DeviceState::default() };
        assert_eq!(state, expected, "nothing else is known");
        (state.online, state.metered)
    }

    const LO: &str =
        "GENERAL.DEVICE:lo\nGENERAL.STATE:100 (connected (externally))\nGENERAL.METERED:no (guessed)\n";
    const WIRE: &str = "GENERAL.DEVICE:near\nGENERAL.STATE:100 (connected)\nGENERAL.METERED:no (guessed)\nIP4.ROUTE[1]:dst = 10.9.9.0/24, nh = 0.0.0.0, mt = 104\nIP4.ROUTE[2]:dst = 0.0.0.0/0, nh = 10.9.9.2, mt = 104\nIP6.ROUTE[1]:dst = fd09::/64, nh = ::, mt = 104\nIP6.ROUTE[2]:dst = fe80::/64, nh = ::, mt = 1024\nIP6.ROUTE[3]:dst = ::/0, nh = fd09::2, mt = 104\n";
    const PHONE: &str = "GENERAL.DEVICE:cell\nGENERAL.STATE:100 (connected)\nGENERAL.METERED:yes\nIP4.ROUTE[1]:dst = 10.8.8.0/24, nh = 0.0.0.0, mt = 700\nIP4.ROUTE[2]:dst = 0.0.0.0/0, nh = 10.8.8.2, mt = 700\n";
    const FOREIGN: &str = "GENERAL.DEVICE:far\nGENERAL.STATE:10 (unmanaged)\nGENERAL.METERED:unknown\nIP6.ROUTE[1]:dst = fe80::/64, nh = ::, mt = 1024\n";
    const CONNECTING: &str = "GENERAL.DEVICE:near\nGENERAL.STATE:70 (connecting (getting IP configuration))\nGENERAL.METERED:unknown\nIP6.ROUTE[1]:dst = fe80::/64, nh = ::, mt = 1024\n";
    const UNPLUGGED: &str = "GENERAL.DEVICE:cell\nGENERAL.STATE:30 (disconnected)\nGENERAL.METERED:unknown\n";

    #[test]
    fn recorded_output_is_read() {
        for (devices, expected) in [
            (&[WIRE, LO, PHONE, FOREIGN][..], (Some(true), Some(false))),
            (&[PHONE, LO, CONNECTING, FOREIGN], (Some(true), Some(true))),
            (&[PHONE, WIRE, LO], (Some(true), Some(false))),
            (&[LO, UNPLUGGED, FOREIGN], (None, None)),
            (&[LO, UNPLUGGED, CONNECTING], (Some(false), None)),
            (&[LO], (None, None)),
        ] {
            assert_eq!(told(&devices.join("\n")), expected, "{devices:?}");
        }
    }

    #[test]
    fn details_of_the_output() {
        let with = |from: &str, to: &str| told(&WIRE.replace(from, to));
        assert_eq!(with("no (guessed)", "yes (guessed)"), (Some(true), Some(true)));
        assert_eq!(with("no (guessed)", "unknown"), (Some(true), Some(false)));
        assert_eq!(with("no (guessed)", "perhaps"), (Some(true), Some(false)));
        assert_eq!(with("100 (connected)", "10 (unmanaged)"), (Some(true), Some(false)));
        assert_eq!(with("0.0.0.0/0", "0.0.0.0/1"), (Some(true), Some(false)), "IPv6 alone is a way");
        assert_eq!(with("::", r"\:\:"), (Some(true), Some(false)), "also where colons are escaped");
        assert_eq!(with("near", "lo"), (None, None), "a way to oneself is none");
        assert_eq!(told(&WIRE.replace(", mt = 104", "")), (Some(true), Some(false)));
    }

    #[test]
    fn rubbish_is_no_news() {
        for text in [
            "",
            "\n\n\n",
            "Error: NetworkManager is not running.\n",
            ":",
            "GENERAL.DEVICE:",
            "IP4.ROUTE[1]:dst = 0.0.0.0/0",
        ] {
            assert_eq!(told(text), (None, None), "{text:?}");
        }
        for end in 0..WIRE.len() {
            let (online, _) = told(&WIRE[..end]);
            assert!(online != Some(false) || !WIRE[..end].contains("0.0.0.0/0"));
        }
    }
}
