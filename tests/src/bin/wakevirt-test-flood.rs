//! Floods the system bus: see [`wakevirt_tests::bus::flood`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    wakevirt_tests::process::exit_code("wakevirt-test-flood", wakevirt_tests::bus::flood::run(&arguments))
}
