//! virsh(1), as a command for a shell and as a program.

use crate::program::{self, ProgramOutput};
use crate::quoting::quote;

/// Returns a virsh command for this hypervisor, quoted for a shell.
#[must_use]
pub fn command(uri: &str, arguments: &[&str]) -> String {
    let words = ["virsh", "--connect", uri].into_iter().chain(arguments.iter().copied());
    words.map(quote).collect::<Vec<_>>().join(" ")
}

/// Runs virsh for this hypervisor.
///
/// # Errors
/// See [`program::run`].
pub fn run(uri: &str, arguments: &[&str]) -> Result<ProgramOutput, String> {
    program::run("virsh", &[&["--quiet", "--connect", uri], arguments].concat())
}
