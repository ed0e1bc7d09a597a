//! The `wakevirt-monitor` program: switches a monitor to a domain, and back to the host. `wakevirt-monitor@.service` runs
//! it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

/// Switch a monitor to a domain, or back to the host
#[derive(Debug, Parser)]
#[command(name = "wakevirt-monitor", version)]
struct Options {
    /// The directory that stores which monitors were switched
    #[arg(long, env = "RUNTIME_DIRECTORY", value_name = "DIR")]
    directory: PathBuf,

    /// Which input to select
    #[arg(value_enum)]
    input: Input,

    /// The name of the domain
    domain: String,
}

/// An input of the monitor.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Input {
    /// The input of the domain's graphics card
    Vm,
    /// The input of the host
    Host,
}

#[expect(clippy::print_stderr, reason = "systemd passes standard error to the journal")]
fn main() -> ExitCode {
    let options = Options::parse();
    let switched = match options.input {
        Input::Vm => wakevirt_monitor::to_domain(&options.domain, &options.directory),
        Input::Host => wakevirt_monitor::to_host(&options.domain, &options.directory),
    };
    match switched {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wakevirt-monitor: {error}");
            ExitCode::FAILURE
        }
    }
}
