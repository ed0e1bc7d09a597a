//! The `wakevirt-actor` program: runs the actor with libvirt.

use std::process::ExitCode;

use clap::Parser as _;
use wakevirt_actor::Options;
use wakevirt_actor_libvirt::Libvirt;

fn main() -> ExitCode {
    match wakevirt_actor::run::<Libvirt>(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => wakevirt_actor::exit_code::<Libvirt>(&error),
    }
}
