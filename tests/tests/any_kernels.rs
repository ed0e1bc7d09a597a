//! Capture and its sandbox on the kernel that runs this test: scripts/on-kernel. Some tests of
//! `interfaces` and `udp` run there as well.
#![expect(clippy::expect_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "the output becomes part of the tables in docs/PLATFORMS.md")]

use nix::errno::Errno;
use wakevirt_protocol::bus::CAPTURE_NAME;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::{Daemon, kernel_has_landlock};
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::privileged;
use wakevirt_tests::process::ptrace;

const MAC: &str = "52:54:00:12:34:56";
const OPTIONAL: &str = "require-landlock = false";

/// Prints the version for the table.
fn print_version() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel has a version");
    // libtest does not end the line with the name of the test.
    println!("\ntried: Linux {}", release.trim());
}

#[test]
#[ignore = "make check-anywhere"]
fn announces_a_packet_and_enforces_landlock_if_the_kernel_has_it() {
    privileged!();
    print_version();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = host.veth("lan0");
    let mut capture = Daemon::capture(&host).config(OPTIONAL).start_on_bus();
    let monitor = host.monitor(User::Unprivileged, CAPTURE_NAME);
    lan.etherwake(MAC, &[]);
    let signal = monitor.log().wait_for("MagicPacket");
    assert!(signal.contains(MAC) && signal.contains("'interface': <'lan0'>"), "{signal}");

    let opened = ptrace::open_file(capture.child("wakevirt-sniffer"), "/etc/passwd");
    if kernel_has_landlock() {
        assert_eq!(opened, Err(Errno::EACCES));
        assert_eq!(capture.log().count("Landlock is not enforced"), 0);
    } else {
        // Without seccomp, which the test suspends, no other layer denies this.
        assert_eq!(opened, Ok(()));
        let _ = capture.log().wait_for("Landlock is not enforced: the kernel does not support it");
    }
    capture.stop();
}

#[test]
#[ignore = "make check-anywhere"]
fn starts_without_landlock_only_if_it_is_not_required() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let mut capture = Daemon::capture(&host).config("require-landlock = true").start();
    if kernel_has_landlock() {
        capture.wait_until_ready();
        capture.stop();
        return;
    }
    assert!(!capture.wait_for_exit().success());
    for part in ["the kernel has no Landlock", "Linux 5.13 or later", OPTIONAL] {
        let _ = capture.log().wait_for(part);
    }
}
