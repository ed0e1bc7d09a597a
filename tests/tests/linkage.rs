//! The libraries in the programs. The sniffer contains no D-Bus code, no async runtime and no savefile parser. The
//! announcer contains no savefile parser. Neither of them links libpcap, nor does `wakevirtctl`. Only one actor links
//! libvirt, and only the other one contains a client for Kubernetes.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

use wakevirt_tests::host::built_programs;

/// The names of all functions that a program contains or imports.
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
        assert!(announcer.contains(part), "the announcer does not contain {part}: this test checks nothing");
        assert!(!sniffer.contains(part), "the sniffer contains {part}");
    }
    assert!(
        ctl.contains("pcap_parser::"),
        "wakevirtctl does not contain pcap_parser: this test checks nothing"
    );
    for (name, program) in [("sniffer", &sniffer), ("announcer", &announcer)] {
        assert!(!program.contains("pcap_parser::"), "the {name} contains a savefile parser");
        assert!(program.contains("wakevirt_protocol::"));
    }
    for (name, program) in [("sniffer", sniffer), ("announcer", announcer), ("wakevirtctl", ctl)] {
        assert!(!program.contains("pcap_open"), "{name} links libpcap");
    }
}

/// The shared libraries that a program needs.
fn shared_libraries(program: &str) -> String {
    let path = built_programs().join(program);
    let output = Command::new("readelf").args(["--dynamic", "--wide"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| line.contains("(NEEDED)")).collect()
}

#[test]
fn each_actor_contains_one_kind_of_hypervisor() {
    let programs = ["wakevirt-actor", "wakevirt-kubevirt"];
    let links_libvirt = programs.map(|program| shared_libraries(program).contains("libvirt"));
    assert_eq!(links_libvirt, [true, false], "{programs:?}");
    let has_client = programs.map(|program| symbols(program).contains("kube_client::"));
    assert_eq!(has_client, [false, true], "{programs:?}");
}
