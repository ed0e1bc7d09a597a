//! A shared folder, and the files that configure it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use wakevirt_service::unit_name::systemd_escape;

use super::super::new::NewError;
use super::NewShare;
use super::network::Network;
use crate::quoting::unit_word;

/// The maximum length of a name, in bytes: the name of the bridge is `nas-NAME`, and the kernel allows 15 bytes.
const MAX_NAME: usize = 11;

/// A shared folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    name: String,
    /// The folder, without symbolic links.
    path: String,
    /// Its owner.
    owner: String,
    writable: bool,
    smb1: bool,
}

impl Share {
    /// Checks the name and the folder.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub fn new(new: &NewShare) -> Result<Self, NewError> {
        let name = new.name.clone();
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if !starts_well || name.len() > MAX_NAME || !name.bytes().all(is_plain) {
            return Err(NewError::ShareName { name, max: MAX_NAME });
        }
        let error = |reason: String| NewError::Folder { path: new.path.clone(), reason };
        let path = new.path.canonicalize().map_err(|source| error(source.to_string()))?;
        let owner = owner(&path).map_err(|reason| error(reason.to_owned()))?;
        let path = printable(path).map_err(|reason| error(reason.to_owned()))?;
        Ok(Self { name, path, owner, writable: new.writable, smb1: new.smb1 })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The configuration of its server: smb.conf(5).
    ///
    /// The folder is at /srv in the server's root directory, because `path` replaces variables in its value.
    #[must_use]
    pub fn configuration(&self, network: &Network) -> String {
        let Self { name, owner, .. } = self;
        let minimum = if self.smb1 { "NT1" } else { "SMB2_10" };
        let read_only = if self.writable { "no" } else { "yes" };
        format!(
            "# A shared folder for domains: smb.conf(5). Written by \"wakevirtctl host nas new\".\n\
             # After a change, run: systemctl restart wakevirt-nas@{name}\n\n\
             [global]\n    \
             # Only domains on the network \"{network}\" can connect.\n    \
             interfaces = {interface}\n    \
             bind interfaces only = yes\n    \
             hosts allow = {subnet}\n    \
             smb ports = 445\n    \
             # NT1 is SMB1, which Windows XP needs. SMB2_10 is the protocol of Windows 7.\n    \
             server min protocol = {minimum}\n\n    \
             # A domain does not need a password. /usr/share/doc/wakevirt/NAS.md describes how to require one.\n    \
             security = user\n    \
             map to guest = bad user\n    \
             guest account = nobody\n    \
             passdb backend = smbpasswd:/var/lib/wakevirt-nas/{name}/smbpasswd\n\n    \
             server role = standalone server\n    \
             disable netbios = yes\n    \
             disable spoolss = yes\n    \
             load printers = no\n    \
             printcap name = /dev/null\n    \
             rpc start on demand helpers = no\n    \
             logging = file\n    \
             private dir = /var/lib/wakevirt-nas/{name}\n    \
             state directory = /var/lib/wakevirt-nas/{name}\n    \
             cache directory = /run/wakevirt-nas/{name}\n    \
             lock directory = /run/wakevirt-nas/{name}\n    \
             pid directory = /run/wakevirt-nas/{name}\n    \
             ncalrpc dir = /run/wakevirt-nas/{name}/ncalrpc\n\n\
             [{name}]\n    \
             # The drop-in of wakevirt-nas@{name}.service binds the folder here. The server runs as {owner}.\n    \
             path = /srv\n    \
             force user = {owner}\n    \
             guest ok = yes\n    \
             read only = {read_only}\n",
            network = network.name(),
            interface = network.interface(),
            subnet = network.subnet(),
        )
    }

    /// The drop-in of its unit.
    #[must_use]
    pub fn drop_in(&self, network: &Network) -> String {
        let device = format!("sys-subsystem-net-devices-{}.device", systemd_escape(network.bridge()));
        let bind = if self.writable { "BindPaths" } else { "BindReadOnlyPaths" };
        format!(
            "# Written by \"wakevirtctl host nas new\". After a change, run: systemctl daemon-reload\n\n\
             [Unit]\n# The share stops and starts with the bridge of the network.\n\
             BindsTo={device}\nAfter={device}\n\n\
             [Service]\n# The owner of the folder.\nUser={owner}\n{bind}={path}:/srv\n\
             # The addresses of the network.\nIPAddressAllow={subnet}\n\n\
             [Install]\nWantedBy={device}\n",
            owner = self.owner,
            path = unit_word(&self.path),
            subnet = network.subnet(),
        )
    }
}

/// The name of the folder's owner.
fn owner(path: &Path) -> Result<String, &'static str> {
    let metadata = path.metadata().map_err(|_| "it cannot be read")?;
    if !metadata.is_dir() {
        return Err("it is not a directory");
    }
    if metadata.uid() == 0 {
        return Err(
            "it belongs to root, and the server runs as the owner of the folder. Share a folder that belongs to \
                    an ordinary user",
        );
    }
    let user = User::from_uid(Uid::from_raw(metadata.uid())).ok().flatten();
    user.map(|user| user.name).ok_or("its owner is not in the user database")
}

/// The path as text.
fn printable(path: PathBuf) -> Result<String, &'static str> {
    let path = path.into_os_string().into_string().map_err(|_| "its path is not valid UTF-8")?;
    if path.chars().any(char::is_control) {
        return Err("its path contains control characters");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, path: &Path) -> NewShare {
        NewShare { path: path.to_owned(), network: None, writable: false, smb1: false, name: name.to_owned() }
    }

    #[test]
    fn rejects_folders_of_root_and_what_is_not_a_folder() {
        let reason = |path: &str| Share::new(&new("games", Path::new(path))).unwrap_err().to_string();
        assert!(reason("/usr").contains("belongs to root"), "{}", reason("/usr"));
        assert!(reason("/etc/passwd").contains("not a directory"));
        assert!(reason("/nonexistent").contains("No such file"));
    }

    #[test]
    fn rejects_names_that_a_bridge_cannot_have() {
        for name in ["", "Games", "1", "-a", "a_b", "a b", "abcdefghijkl", "ä"] {
            let error = Share::new(&new(name, Path::new("/"))).unwrap_err();
            assert!(matches!(error, NewError::ShareName { .. }), "{name:?}: {error}");
        }
        // The name is valid, and the folder is not.
        let error = Share::new(&new("abcdefghij1", Path::new("/"))).unwrap_err();
        assert!(matches!(error, NewError::Folder { .. }), "{error}");
    }
}
