//! `wakevirtctl`, the command-line tool of wakevirt. It needs no privilege and no bus.

pub mod read;

use std::io::{self, BufWriter};
use std::path::PathBuf;
use std::process::ExitCode;

use wakevirt_protocol::frame::Ports;

/// Inspect wakevirt
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "wakevirtctl", version)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Print the magic packets in a file of captured packets, one JSON object per line
    ///
    /// The file format is pcap or pcapng. The frames are parsed by the code that parses them in the service.
    Read {
        /// Print a line for each refused frame too, with the reason
        #[arg(long)]
        all: bool,

        /// Search datagrams to this UDP port in full; can be repeated. Default: 0, 7 and 9, as wakevirt-capture
        #[arg(long = "port", value_name = "PORT")]
        ports: Vec<u16>,

        /// The file
        file: PathBuf,
    },
}

/// Runs the command. The exit code is 0, or 1 for a file that cannot be read completely.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let Command::Read { all, ports, file } = &options.command;
    let ports = if ports.is_empty() { Ports::default() } else { Ports::new(ports.clone()) };
    match read::read(file, &ports, *all, BufWriter::new(io::stdout().lock())) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the output, such as head(1), needs no more.
        Err(read::Error::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a command-line tool reports errors on standard error")]
fn report(error: &read::Error) {
    eprintln!("wakevirtctl: {error}");
}
