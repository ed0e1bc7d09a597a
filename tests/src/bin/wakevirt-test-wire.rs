//! Sends frames through an interface: see [`wakevirt_tests::network::inject`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match wakevirt_tests::network::inject::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("wakevirt-test-wire: {error}\n"),
            );
            ExitCode::FAILURE
        }
    }
}
