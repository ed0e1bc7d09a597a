//! Floods the system bus: see [`wakevirt_tests::bus::flood`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match wakevirt_tests::bus::flood::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("wakevirt-test-flood: {error}\n"),
            );
            ExitCode::FAILURE
        }
    }
}
