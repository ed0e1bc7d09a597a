//! The `wakevirt-kubevirt` program: runs the actor with KubeVirt, or imports a configuration.

use std::io::{Write as _, stderr, stdin, stdout};
use std::process::ExitCode;

use clap::Parser as _;
use wakevirt_actor::Options;
use wakevirt_kubevirt::{KubeVirt, import};

/// Receive announced magic packets and wake virtual machines of KubeVirt
#[derive(Debug, clap::Parser)]
#[command(
    name = "wakevirt-kubevirt",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(flatten)]
    options: Options,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Translate WolConfigs of kubevirt-wol, in JSON on standard input, to a kustomization
    Import(import::Arguments),
}

fn main() -> ExitCode {
    let Arguments { options, command } = Arguments::parse();
    match command {
        None => match wakevirt_actor::run::<KubeVirt>(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => wakevirt_actor::exit_code::<KubeVirt>(&error).into(),
        },
        Some(Command::Import(arguments)) => {
            match import::run(&arguments, stdin().lock(), stdout().lock(), stderr()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    // If standard error is closed, the exit code remains.
                    let _ = writeln!(stderr(), "wakevirt-kubevirt: {error}");
                    ExitCode::FAILURE
                }
            }
        }
    }
}
