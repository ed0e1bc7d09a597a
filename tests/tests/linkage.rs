//! What is in the programs of capture: the sniffer links no D-Bus, no async runtime and no reader of
//! savefiles.
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::process::Command;

use wakevirt_tests::host::built_programs;

/// The names of all functions in a program, and of those that it takes from libraries.
fn symbols(program: &str) -> String {
    let path = built_programs().join(program);
    let output = Command::new("nm").arg("--demangle").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_sniffer_is_without_bus_runtime_and_reader_of_savefiles() {
    let announcer = symbols("wakevirt-capture");
    let sniffer = symbols("wakevirt-sniffer");
    for part in ["zbus::", "tokio::", "pcap_parser::"] {
        assert!(announcer.contains(part), "{part} is no longer a sign of anything");
        assert!(!sniffer.contains(part), "the sniffer holds {part}");
    }
    assert!(sniffer.contains("wakevirt_protocol::"));
    assert!(!announcer.contains("pcap_open"), "libpcap is linked");
}
