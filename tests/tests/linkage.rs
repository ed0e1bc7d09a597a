//! What the programs link: the sniffer no D-Bus, no async runtime and no reader of savefiles, the announcer no
//! reader of savefiles, and none of them libpcap.
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
fn programs_contain_no_unneeded_libraries() {
    let announcer = symbols("wakevirt-capture");
    let sniffer = symbols("wakevirt-sniffer");
    let ctl = symbols("wakevirtctl");
    for part in ["zbus::", "tokio::"] {
        assert!(announcer.contains(part), "{part} is no longer a sign of anything");
        assert!(!sniffer.contains(part), "the sniffer contains {part}");
    }
    assert!(ctl.contains("pcap_parser::"), "pcap_parser:: is no longer a sign of anything");
    for (name, program) in [("sniffer", &sniffer), ("announcer", &announcer)] {
        assert!(!program.contains("pcap_parser::"), "the {name} contains a reader of savefiles");
        assert!(program.contains("wakevirt_protocol::"));
    }
    for (name, program) in [("sniffer", sniffer), ("announcer", announcer), ("wakevirtctl", ctl)] {
        assert!(!program.contains("pcap_open"), "{name} links libpcap");
    }
}
