//! Linux: notices of the network by netlink, and interfaces that have a route but no cable.
//!
//! A notice is never read, only counted: whatever it says, the network is looked at again. Tests: below for what the
//! files say, `tests/connectivity.rs` for the notices.

use super::super::Reporter;
use super::super::background::{Background, Changes};
use super::Ways;
use landfall_core::device::DeviceState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Which notices are wanted, by the numbers of `linux/rtnetlink.h`: interfaces, addresses and routes.
const GROUPS: u32 =
    RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE;
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const RTMGRP_IPV6_ROUTE: u32 = 0x400;

/// How long notices are gathered. A network that comes up gives a dozen of them within some tens of milliseconds.
const GATHER: Duration = Duration::from_millis(200);
/// Most notices that are thrown away at once; what is left makes for another look.
const DRAIN_MAX: usize = 10_000;
/// Most bytes of a table of routes that are read: some ten thousand routes. The default route stands at the front; a
/// router's whole table is not ours to read at every change.
const TABLE_BYTES_MAX: u64 = 1 << 20;

/// Notices of changes of the network.
#[derive(Debug)]
pub(super) struct Notices(OwnedFd);

impl Notices {
    /// Asks the system for notices; containers and phones may refuse.
    pub(super) fn open() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 of netlink is the one about routes.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Looks now, then after each notice; should the notices break off, every `time`.
    pub(super) fn watch(
        self,
        time: Duration,
        reporter: Reporter,
        look: impl Fn() -> DeviceState + Send + 'static,
    ) -> Option<Background> {
        let mut changes = Changes::new(reporter);
        // The socket is open already: what changes from now on leaves a notice.
        changes.tell(look());
        let (stop, stopped) = UnixStream::pair()
            .map_err(|error| tracing::warn!(%error, "changes of the network are not noticed"))
            .ok()?;
        Background::spawn("landfall-network", stop, move || {
            let mut notices = Some(self.0);
            while let Some(news) = wait(notices.as_ref(), &stopped, time) {
                if news && notices.as_ref().is_some_and(|socket| !drain(socket)) {
                    notices = None;
                }
                changes.tell(look());
            }
        })
    }
}

/// Waits for a notice and those that follow it (`true`) or, without notices, for so long (`false`); `None` at the end.
fn wait(notices: Option<&OwnedFd>, stopped: &UnixStream, time: Duration) -> Option<bool> {
    let Some(notices) = notices else {
        return (!readable(stopped, None, Some(time))?.0).then_some(false);
    };
    loop {
        match readable(stopped, Some(notices), None)? {
            (true, _) => return None,
            (false, true) => break,
            (false, false) => {}
        }
    }
    (!readable(stopped, None, Some(GATHER))?.0).then_some(true)
}

/// Waits until one of the two can be read or closed, or the time is up. `None` when it cannot be waited.
fn readable(stopped: &UnixStream, notices: Option<&OwnedFd>, time: Option<Duration>) -> Option<(bool, bool)> {
    let time = time.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let mut fds = vec![PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN)];
    fds.extend(notices.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)));
    match poll(&mut fds, time.as_ref()) {
        Ok(_) => {}
        // A signal: as if nothing had come.
        Err(Errno::INTR) => return Some((false, false)),
        Err(error) => {
            tracing::warn!(%error, "changes of the network are not noticed any more");
            return None;
        }
    }
    let at = |index: usize| fds.get(index).is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty());
    Some((at(0), at(1)))
}

/// Throws away the notices that came; `false` when no more will come.
fn drain(socket: &OwnedFd) -> bool {
    let mut bytes = [0_u8; 4096];
    for _ in 0..DRAIN_MAX {
        match recv(socket, &mut bytes, RecvFlags::DONTWAIT) {
            // More came than the system keeps: that, too, is a notice.
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(Errno::AGAIN) => return true,
            Err(error) => {
                tracing::debug!(%error, "notices of the network broke off; looking every few seconds");
                return false;
            }
        }
    }
    true
}

/// Takes back a way whose interfaces are all down: a pulled cable leaves the route in place.
pub(super) fn without_dead_ends(ways: Ways) -> Ways {
    without_dead_ends_in(Path::new("/proc/net"), Path::new("/sys/class/net"), ways)
}

fn without_dead_ends_in(tables: &Path, interfaces: &Path, ways: Ways) -> Ways {
    let checked = |way: Option<bool>, table: &str, default: fn(&str) -> Option<&str>| {
        let found = read_table(&tables.join(table));
        let mut over = found.as_deref().unwrap_or_default().lines().filter_map(default).peekable();
        // Without a default route that can be seen, another table may have it; the address that was chosen decides.
        let dead = over.peek().is_some() && !over.any(|name| is_up(interfaces, name));
        if dead { Some(false) } else { way }
    };
    Ways { v4: checked(ways.v4, "route", default_v4), v6: checked(ways.v6, "ipv6_route", default_v6) }
}

fn read_table(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(TABLE_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

const ROUTE_UP: u32 = 0x1;
const ROUTE_REJECT: u32 = 0x200;

/// The interface of a line of `/proc/net/route`, if the line is a default route.
fn default_v4(line: &str) -> Option<&str> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    let [name, "00000000", _, flags, _, _, _, "00000000", ..] = columns[..] else { return None };
    usable(flags).then_some(name)
}

/// The interface of a line of `/proc/net/ipv6_route`, if the line is a default route. `lo` has one that leads nowhere.
fn default_v6(line: &str) -> Option<&str> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    let [to, "00", _, _, _, _, _, _, flags, name] = columns[..] else { return None };
    (to.bytes().all(|digit| digit == b'0') && usable(flags) && name != "lo").then_some(name)
}

fn usable(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & ROUTE_UP != 0 && flags & ROUTE_REJECT == 0)
}

/// Whether an interface can carry something; one that cannot be looked at is taken for up.
fn is_up(interfaces: &Path, name: &str) -> bool {
    const INTERFACE_UP: u32 = 0x1;
    const LOOPBACK: u32 = 0x8;
    let read = |file: &str| std::fs::read_to_string(interfaces.join(name).join(file)).ok();
    let flags =
        read("flags").and_then(|text| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok());
    let carries = flags.is_none_or(|flags| flags & INTERFACE_UP != 0 && flags & LOOPBACK == 0);
    // Tunnels and modems say `unknown` while they work.
    carries && read("operstate").is_none_or(|state| matches!(state.trim(), "up" | "unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A folder with tables of routes and interfaces, gone when dropped.
    struct Device(PathBuf);

    impl Device {
        fn new(route: &str, ipv6_route: &str, interfaces: &[(&str, &str, &str)]) -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::SeqCst);
            let folder = std::env::temp_dir().join(format!("landfall-linux-{}-{number}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("route"), route).unwrap();
            fs::write(folder.join("ipv6_route"), ipv6_route).unwrap();
            for (name, flags, state) in interfaces {
                fs::create_dir_all(folder.join(name)).unwrap();
                fs::write(folder.join(name).join("flags"), format!("{flags}\n")).unwrap();
                fs::write(folder.join(name).join("operstate"), format!("{state}\n")).unwrap();
            }
            Self(folder)
        }

        fn ways(&self, ways: Ways) -> Ways {
            without_dead_ends_in(&self.0, &self.0, ways)
        }
    }

    impl Drop for Device {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// As read on a machine with one network card.
    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT    \n";
    const DEFAULT_V4: &str = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0    \n";
    const LOCAL_V4: &str = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0    \n";
    const DEFAULT_V6: &str = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000003 00000000 00000003     eth0\n";
    const NOWHERE_V6: &str = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

    const BOTH: Ways = Ways { v4: Some(true), v6: Some(true) };

    #[test]
    fn a_route_over_an_interface_that_is_down_is_no_way() {
        let dead = Ways { v4: Some(false), v6: Some(false) };
        let tables = (format!("{HEAD}{DEFAULT_V4}{LOCAL_V4}"), format!("{DEFAULT_V6}{NOWHERE_V6}"));
        for (flags, state, expected) in [
            ("0x1003", "up", BOTH),
            ("0x1003", "unknown", BOTH),
            ("0x1003", "down", dead),
            ("0x1003", "lowerlayerdown", dead),
            ("0x1003", "dormant", dead),
            ("0x1002", "up", dead),
            ("0x9", "unknown", dead),
        ] {
            let device = Device::new(&tables.0, &tables.1, &[("eth0", flags, state)]);
            assert_eq!(device.ways(BOTH), expected, "{flags} {state}");
        }
        let unseen = Device::new(&tables.0, &tables.1, &[]);
        assert_eq!(unseen.ways(BOTH), BOTH, "what cannot be looked at is taken for up");
    }

    #[test]
    fn another_interface_or_another_table_is_a_way() {
        let wifi = DEFAULT_V4.replace("eth0", "wlan0");
        let interfaces = [("eth0", "0x1003", "down"), ("wlan0", "0x1003", "up")];
        let two = Device::new(&format!("{HEAD}{DEFAULT_V4}{wifi}"), NOWHERE_V6, &interfaces);
        assert_eq!(two.ways(BOTH), BOTH);
        let none = Ways { v4: Some(false), v6: None };
        assert_eq!(two.ways(none), none, "a route does not make a way");
        let elsewhere = Device::new(&format!("{HEAD}{LOCAL_V4}"), "", &interfaces);
        assert_eq!(elsewhere.ways(BOTH), BOTH, "policy routing keeps its default in a table of its own");
        let missing = Device::new("", "", &[]);
        fs::remove_file(missing.0.join("route")).unwrap();
        assert_eq!(missing.ways(BOTH), BOTH);
    }

    #[test]
    fn only_usable_default_routes_count() {
        assert_eq!(default_v4(DEFAULT_V4), Some("eth0"));
        assert_eq!(default_v6(DEFAULT_V6), Some("eth0"));
        let rejected = DEFAULT_V4.replace("0003", "0201");
        let idle = DEFAULT_V4.replace("0003", "0002");
        let half = DEFAULT_V4.replace("\t00000000\t0\t0\t0", "\t00000080\t0\t0\t0");
        for line in [HEAD, LOCAL_V4, &rejected, &idle, &half, "", "eth0", "eth0\t00000000"] {
            assert_eq!(default_v4(line), None, "{line}");
        }
        for line in [
            NOWHERE_V6,
            "",
            &DEFAULT_V6.replacen(" 00 ", " 40 ", 1),
            &DEFAULT_V6.replace("00000003     ", "00200200     "),
        ] {
            assert_eq!(default_v6(line), None, "{line}");
        }
    }
}
