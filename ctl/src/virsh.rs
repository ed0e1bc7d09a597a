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

/// Runs virsh for this hypervisor, and returns its standard output.
///
/// # Errors
/// See [`program::run`]. The last line of its standard error, if it fails.
pub fn output(uri: &str, arguments: &[&str]) -> Result<String, String> {
    let output = run(uri, arguments)?;
    if output.success { Ok(output.stdout) } else { Err(output.error()) }
}

/// Returns a command that defines a domain again from its persistent definition. `edit` is a script for sed(1) that
/// changes the definition.
#[must_use]
pub fn redefine(uri: &str, domain: &str, edit: Option<&str>) -> String {
    let dump = command(uri, &["dumpxml", "--inactive", domain]);
    let define = command(uri, &["define", "/dev/stdin"]);
    match edit {
        Some(edit) => format!("{dump} | sed {} | {define}", quote(edit)),
        None => format!("{dump} | {define}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_the_commands_that_define_a_domain_again() {
        let unchanged = "virsh --connect test:///default dumpxml --inactive 'my vm' | \
                         virsh --connect test:///default define /dev/stdin";
        assert_eq!(redefine("test:///default", "my vm", None), unchanged);
        let edited = redefine("test:///default", "vm", Some("s|<a/>||"));
        assert!(edited.contains(" | sed 's|<a/>||' | virsh "), "{edited}");
    }
}
