//! The domains of libvirt, as virsh(1) shows them to the caller.

use uuid::Uuid;

use super::HostError;
use crate::virsh;

/// The hypervisor for which libvirt's hook prepares the host.
pub const URI: &str = "qemu:///system";

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Option<Uuid>,
}

impl Guest {
    /// Its definition for the next start.
    ///
    /// # Errors
    /// If virsh(1) fails.
    pub fn definition(&self) -> Result<String, HostError> {
        let uuid = self.uuid.map(|uuid| uuid.to_string());
        virsh(&["dumpxml", "--inactive", uuid.as_deref().unwrap_or(&self.name)])
    }
}

/// Returns all domains.
///
/// # Errors
/// If virsh(1) fails.
pub fn list() -> Result<Vec<Guest>, HostError> {
    Ok(parse(&virsh(&["list", "--all", "--uuid", "--name"])?))
}

/// Finds the domain with this name or UUID.
///
/// # Errors
/// If there is none, or virsh(1) fails.
pub fn find(text: &str) -> Result<Guest, HostError> {
    let guests = list()?;
    let uuid = Uuid::parse_str(text).ok();
    let named = guests.iter().find(|guest| guest.name == text);
    let found = named.or_else(|| guests.iter().find(|guest| uuid.is_some() && guest.uuid == uuid));
    found.cloned().ok_or_else(|| HostError::NoSuchDomain(text.to_owned()))
}

fn virsh(arguments: &[&str]) -> Result<String, HostError> {
    let failed = |reason| HostError::Virsh { command: virsh::command(URI, arguments), reason };
    virsh::output(URI, arguments).map_err(failed)
}

/// Parses lines with a UUID and a name.
fn parse(text: &str) -> Vec<Guest> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(uuid, name)| Guest { name: name.trim_start().to_owned(), uuid: Uuid::parse_str(uuid).ok() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_list_of_virsh() {
        // libvirt's test driver.
        let output = crate::virsh::output("test:///default", &["list", "--all", "--uuid", "--name"]).unwrap();
        let [guest] = <[Guest; 1]>::try_from(parse(&output)).unwrap();
        assert_eq!(guest.name, "test");
        assert!(guest.uuid.is_some(), "{output:?}");
        assert_eq!(parse("6695eb01-f6a4-8304-79aa-97f2502e193f my \"vm\"\n\n")[0].name, "my \"vm\"");
    }
}
