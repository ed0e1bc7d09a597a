//! Floods the system bus or an interface: see [`wakevirt_tests::bus::flood`] and [`wakevirt_tests::network::flood`].

use std::process::ExitCode;

use wakevirt_tests::{bus, network, process};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((kind, arguments)) if kind == "packets" => network::flood::run(arguments),
        _ => bus::flood::run(&arguments),
    };
    process::exit_code("wakevirt-test-flood", result)
}
