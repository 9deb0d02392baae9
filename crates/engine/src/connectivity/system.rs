//! The provider that looks at the operating system: is there a way out of this machine?
//!
//! Where the system gives notice of changes (Linux, by netlink) it looks then, elsewhere every few seconds. Looking
//! sends nothing: it asks for the address that a packet to a far host would leave from. It does not know who is at the
//! other end. Tests: below, `system/linux.rs`, and in a network of their own `tests/connectivity.rs`.

#[cfg(target_os = "linux")]
mod linux;

use super::background::{self, Background};
use super::{ConnectivityService, Reporter};
use landfall_core::device::DeviceState;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// How often it is looked where nobody gives notice. 5 s: a person who switches the network on waits about so long, and
/// a look costs microseconds.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Hosts that are nowhere (RFC 5737, RFC 3849): a route to them is the default route.
const FAR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const FAR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Tells whether the device has a way out: an address, and a route to the rest of the world over an interface that is up.
///
/// `online: Some(false)` is a hint, never a verdict: a server on this machine, or beside it on a network without a default
/// route, is reached all the same, so whoever is told "offline" still tries such a backend. Metering and power are not
/// known here; see [`NetworkManager`](super::NetworkManager) and [`PowerSupply`](super::PowerSupply). On phones the host knows more: [`ManualConnectivity`](super::ManualConnectivity).
#[derive(Debug)]
pub struct SystemConnectivity {
    every: Duration,
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux gives notices"))]
    notices: bool,
    background: Option<Background>,
}

impl SystemConnectivity {
    /// Looks when the system gives notice of a change; where it does not, every five seconds.
    pub fn new() -> Self {
        Self { every: LOOK_EVERY, notices: true, background: None }
    }

    /// Looks so often, and waits for no notices.
    pub fn looking_every(time: Duration) -> Self {
        Self { every: time, notices: false, background: None }
    }
}

impl Default for SystemConnectivity {
    fn default() -> Self {
        Self::new()
    }
}

impl ConnectivityService for SystemConnectivity {
    fn start(&mut self, reporter: Reporter) {
        self.stop();
        #[cfg(target_os = "linux")]
        if self.notices {
            match linux::Notices::open() {
                Ok(notices) => {
                    self.background = notices.watch(self.every, reporter, look);
                    return;
                }
                Err(error) => tracing::debug!(%error, "no notices of the network; looking every few seconds"),
            }
        }
        self.background = background::look_every("landfall-network", self.every, reporter, look);
    }

    fn stop(&mut self) {
        self.background = None;
    }
}

fn look() -> DeviceState {
    let ways = Ways { v4: way_out(FAR_V4), v6: way_out(FAR_V6) };
    #[cfg(target_os = "linux")]
    let ways = linux::without_dead_ends(ways);
    DeviceState { online: ways.any(), ..DeviceState::default() }
}

/// Whether there is a way out over each protocol; `None` when that cannot be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ways {
    v4: Option<bool>,
    v6: Option<bool>,
}

impl Ways {
    /// Whether there is any.
    fn any(self) -> Option<bool> {
        match (self.v4, self.v6) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        }
    }
}

/// Whether a packet to this host would leave the machine. None is sent: a UDP socket that is connected only chooses its
/// own address.
fn way_out(far: IpAddr) -> Option<bool> {
    let any: IpAddr = if far.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let chosen = UdpSocket::bind(SocketAddr::new(any, 0)).and_then(|socket| {
        socket.connect(SocketAddr::new(far, 9))?;
        socket.local_addr()
    });
    match chosen {
        Ok(address) => Some(leads_out(address.ip())),
        Err(error) => says_no(&error).then_some(false),
    }
}

/// Whether an address is one that the rest of the world could answer to, perhaps through a router that translates it.
fn leads_out(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// Whether an error means that there is no way; others, such as a sandbox's refusal, mean that it cannot be seen.
fn says_no(error: &io::Error) -> bool {
    /// No IPv6 at all; the number on Linux. Elsewhere it stays unknown, and then holds nothing up.
    const NO_SUCH_PROTOCOL: i32 = 97;
    matches!(
        error.kind(),
        ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable
    ) || (cfg!(target_os = "linux") && error.raw_os_error() == Some(NO_SUCH_PROTOCOL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_out_is_enough_and_what_cannot_be_seen_is_not_no() {
        for (v4, v6, expected) in [
            (Some(true), Some(false), Some(true)),
            (Some(false), Some(true), Some(true)),
            (None, Some(true), Some(true)),
            (Some(false), Some(false), Some(false)),
            (None, Some(false), None),
            (Some(false), None, None),
            (None, None, None),
        ] {
            assert_eq!(Ways { v4, v6 }.any(), expected, "{v4:?} {v6:?}");
        }
    }

    #[test]
    fn addresses_that_lead_out() {
        for (text, expected) in [
            ("192.168.1.7", true),
            ("10.0.0.1", true),
            ("203.0.113.9", true),
            ("127.0.0.1", false),
            ("0.0.0.0", false),
            ("169.254.7.7", false),
            ("2001:db8::7", true),
            ("fd00::1", true),
            ("fe80::1", false),
            ("::1", false),
            ("::", false),
        ] {
            assert_eq!(leads_out(text.parse().unwrap()), expected, "{text}");
        }
        assert_eq!(way_out("127.0.0.1".parse().unwrap()), Some(false), "a way to oneself is none out");
    }

    #[test]
    fn a_refusal_is_not_an_answer() {
        assert!(says_no(&ErrorKind::NetworkUnreachable.into()));
        assert!(!says_no(&ErrorKind::PermissionDenied.into()));
        assert!(!says_no(&ErrorKind::InvalidInput.into()));
    }
}
