//! Demonstrates how a packet starts a VM in a cluster: see [`wakevirt_tests::demo::kubevirt`].

fn main() -> std::process::ExitCode {
    wakevirt_tests::demo::kubevirt::run()
}
