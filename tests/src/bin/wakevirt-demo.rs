//! Demonstrates how a packet starts a VM: see [`wakevirt_tests::demo`].

fn main() -> std::process::ExitCode {
    wakevirt_tests::demo::run()
}
