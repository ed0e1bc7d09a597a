//! Sends frames through an interface: see [`wakevirt_tests::network::inject`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    wakevirt_tests::process::exit_code("wakevirt-test-wire", wakevirt_tests::network::inject::run(&arguments))
}
