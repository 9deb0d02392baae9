//! The system's network as the provider sees it, in a network of the test's own.
//!
//! The test runs itself once more in namespaces that `unshare` makes: there it is root, has a network with nothing in
//! it, and puts interfaces up and down with `ip`. It needs Linux with util-linux and iproute2 and fails without them.

#![allow(clippy::unwrap_used, reason = "a test")]
#![cfg(target_os = "linux")]

use landfall_core::device::DeviceState;
use landfall_engine::{ConnectivityService, Reporter, SystemConnectivity};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Says to the test that it runs inside.
const INSIDE: &str = "LANDFALL_TEST_NETWORK";

/// Runs the test of this name again, with a network of its own; `true` inside.
fn in_a_network_of_its_own(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    // `/sys` shows the interfaces of the network it was mounted in.
    let script = r#"mount -t sysfs sysfs /sys && exec "$0" "$@""#;
    let ran = Command::new("unshare")
        .args(["--map-root-user", "--net", "--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare, of util-linux, is needed");
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.contains("1 passed"), "in a network of its own: {said}");
    false
}

fn ip(line: &str) {
    let ran = Command::new("ip").args(line.split(' ')).output().expect("ip, of iproute2, is needed");
    assert!(ran.status.success(), "ip {line}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn listen(provider: &mut SystemConnectivity) -> Receiver<DeviceState> {
    let (sender, told) = channel();
    provider.start(Reporter::new(move |news| sender.send(news).unwrap()));
    told
}

/// Switches IPv6 on or off on an interface. It gives notices of its own that would hide a missing one.
fn ipv6(interface: &str, on: bool) {
    let switch = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    std::fs::write(switch, if on { "0" } else { "1" }).unwrap();
}

/// Expects this to be told, and nothing else, within a second.
fn expect(told: &Receiver<DeviceState>, online: bool, why: &str) {
    let began = Instant::now();
    let news = told.recv_timeout(Duration::from_secs(1));
    let expected = DeviceState { online: Some(online), ..DeviceState::default() };
    assert_eq!(news, Ok(expected), "{why}, after {:?}", began.elapsed());
}

/// Expects that nothing is told, for longer than news are gathered.
fn expect_nothing(told: &Receiver<DeviceState>, why: &str) {
    assert!(told.recv_timeout(Duration::from_millis(400)).is_err(), "{why}");
}

#[test]
fn the_network_is_seen_to_come_and_go_within_a_second() {
    if !in_a_network_of_its_own("the_network_is_seen_to_come_and_go_within_a_second") {
        return;
    }
    let mut provider = SystemConnectivity::new();
    let told = listen(&mut provider);
    assert_eq!(told.try_recv().unwrap().online, Some(false), "what is so now is told before start returns");

    ip("link set lo up");
    ip("link add near type veth peer name far");
    ipv6("near", false);
    ipv6("far", false);
    ip("address add 10.9.9.1/24 dev near");
    ip("link set near up");
    ip("link set far up");
    expect_nothing(&told, "an address without a default route is no way out");
    ip("route add default via 10.9.9.2");
    expect(&told, true, "an interface that is up, with an address and a default route");

    ip("link set near down");
    expect(&told, false, "the interface is down");
    ip("link set near up");
    expect_nothing(&told, "the route went with the interface");
    ip("route add default via 10.9.9.2");
    expect(&told, true, "the route is back");

    ip("link set far down");
    expect(&told, false, "the cable is pulled, and the route still there");
    ip("link set far up");
    expect(&told, true, "the cable is back");

    ip("route del default");
    expect(&told, false, "the route is gone");
    ipv6("near", true);
    ip("address add fd09::1/64 dev near nodad");
    ip("route add default via fd09::2");
    expect(&told, true, "IPv6 alone is a way out");
    ip("address del fd09::1/64 dev near");
    expect(&told, false, "no address that others could answer to");

    let began = Instant::now();
    provider.stop();
    assert!(began.elapsed() < Duration::from_millis(100), "stopped after {:?}", began.elapsed());
    ip("route replace default via 10.9.9.2");
    assert!(told.recv_timeout(Duration::from_millis(400)).is_err(), "nothing is told after the stop");
    let again = listen(&mut provider);
    assert_eq!(again.try_recv().unwrap().online, Some(true), "and it can be started again");
}

#[test]
fn without_notices_it_looks_again_and_again() {
    if !in_a_network_of_its_own("without_notices_it_looks_again_and_again") {
        return;
    }
    let mut provider = SystemConnectivity::looking_every(Duration::from_millis(50));
    let told = listen(&mut provider);
    expect(&told, false, "nothing is there");
    ip("link add near type veth peer name far");
    ip("address add 10.9.9.1/24 dev near");
    ip("link set near up");
    ip("link set far up");
    ip("route add default via 10.9.9.2");
    expect(&told, true, "an interface that is up, with an address and a default route");
    ip("link del near");
    expect(&told, false, "the interface is gone");
}

#[test]
fn many_changes_make_few_looks() {
    if !in_a_network_of_its_own("many_changes_make_few_looks") {
        return;
    }
    let mut provider = SystemConnectivity::new();
    let told = listen(&mut provider);
    expect(&told, false, "nothing is there");
    ip("link add near type veth peer name far");
    ip("address add 10.9.9.1/24 dev near");
    ip("link set near up");
    ip("link set far up");
    for _ in 0..10 {
        ip("route add default via 10.9.9.2");
        ip("route del default");
    }
    let news: Vec<_> = std::iter::from_fn(|| told.recv_timeout(Duration::from_millis(500)).ok()).collect();
    assert!(news.len() <= 4, "a network that flickers is not told at each flicker: {news:?}");
    assert_ne!(news.last().map(|news| news.online), Some(Some(true)), "the last look sees how it ended");
}
