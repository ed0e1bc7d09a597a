//! The `wakevirt-actor` program: runs the actor with libvirt.

use clap::Parser as _;
use wakevirt_actor::Options;
use wakevirt_actor_libvirt::Libvirt;
use wakevirt_libvirt::exit;

fn main() -> ! {
    exit::immediately(match wakevirt_actor::run::<Libvirt>(&Options::parse()) {
        Ok(()) => 0,
        Err(error) => wakevirt_actor::exit_code::<Libvirt>(&error),
    })
}
