//! `wakevirtctl`, the command-line tool of wakevirt. It requires no privilege and no bus.

pub mod read;

use std::io::{self, BufWriter};
use std::path::PathBuf;
use std::process::ExitCode;

use wakevirt_protocol::frame::Ports;

/// The command-line tool of wakevirt
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
    /// The file format is pcap or pcapng. The service uses the same parser for frames from the network.
    Read {
        /// Also print a line for each frame without a valid magic packet, with the reason
        #[arg(long)]
        all: bool,

        /// Search the whole payload of datagrams to this UDP port; can be repeated [default: 0, 7, 9]
        #[arg(long = "port", value_name = "PORT")]
        ports: Vec<u16>,

        /// The file to read
        file: PathBuf,
    },
}

/// Runs the command. The exit code is 0, or 1 if the file cannot be read completely.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let Command::Read { all, ports, file } = &options.command;
    let ports = if ports.is_empty() { Ports::default() } else { Ports::new(ports.clone()) };
    match read::read(file, &ports, *all, BufWriter::new(io::stdout().lock())) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the output, such as head(1), has exited.
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
