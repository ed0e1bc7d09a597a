//! The `wakevirt-kubevirt` program: runs the actor with KubeVirt.

use std::process::ExitCode;

use clap::Parser as _;
use wakevirt_actor::Options;
use wakevirt_kubevirt::KubeVirt;

/// Receive announced magic packets and wake virtual machines of KubeVirt
#[derive(Debug, clap::Parser)]
#[command(name = "wakevirt-kubevirt", version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    match wakevirt_actor::run::<KubeVirt>(&Arguments::parse().options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => wakevirt_actor::exit_code::<KubeVirt>(&error),
    }
}
