//! Runs the example programs in docs/examples.

use std::time::Duration;

use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User, project, succeed};
use wakevirt_tests::process::Process;
use wakevirt_tests::{privileged, wait};

#[test]
fn listener_examples_print_packets_and_ignore_forged_signals() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = host.veth("lan0");
    let _capture = Daemon::capture(&host).config("deduplicate = \"1ms\"\n").start_ready();
    for (interpreter, example) in [("sh", "listen.sh"), ("python3", "listen.py")] {
        let text = std::fs::read_to_string(project().join("docs/examples").join(example)).unwrap();
        let on_host = format!("/run/{example}");
        host.write(&on_host, &text);
        let listener =
            Process::start(example, host.command_as(User::Unprivileged, interpreter).arg(&on_host));
        // Send a forged signal and a packet repeatedly, until the example receives the packet.
        wait::until_true(&format!("{example} to receive a packet"), || {
            let mut forge = host.command_as(User::Unprivileged, "gdbus");
            forge.args(["emit", "--system", "--object-path", "/org/wakevirt/Capture1"]);
            forge.args(["--signal", "org.wakevirt.Capture1.MagicPacket"]);
            succeed(forge.args(["uint64 1", "'52:54:00:66:66:66'", "{'interface': <'lan0'>}"]));
            lan.etherwake("52:54:00:01:02:03", &[]);
            listener.log().within(Duration::from_millis(100), "52:54:00:01:02:03 on lan0", 1).is_some()
        });
        lan.etherwake("52:54:00:01:02:04", &[]);
        let _ = listener.log().wait_for("52:54:00:01:02:04 on lan0");
        assert_eq!(listener.log().count("52:54:00:66:66:66"), 0, "{:?}", listener.log().all());
    }
}
