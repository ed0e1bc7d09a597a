//! The drop-in that `allow` writes and `forbid` removes.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, CWD, RenameFlags, access, renameat_with};
use rustix::io::Errno;
use wakevirt_service::bus::Address;
use wakevirt_service::config::{BadGlob, Links, glob, open};
use wakevirt_service::unit_name::systemd_escape;

use super::command;
use super::error::RuleError;
use crate::quoting::toml_string;

/// The administrator's drop-ins for the system's actor.
const FOLDER: &str = "/etc/wakevirt/actor.d";
/// The drop-ins for a user's own actor, in the user's configuration directory.
const USER_FOLDER: &str = "wakevirt/actor.d";
/// The maximum length of a file name, in bytes: NAME_MAX in limits.h(0p).
const MAX_NAME: usize = 255;
/// The first line. It does not contain the domain's name, in which there could be a line break.
const COMMENT: &str =
    "# Written by \"wakevirtctl allow\". \"wakevirtctl forbid\" removes this file, unless it was edited.\n";

/// What is at the path of a drop-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// The content that `allow` writes.
    Written,
    /// Any other content.
    Edited,
}

/// A drop-in with one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropIn {
    domain: String,
    folder: PathBuf,
    path: PathBuf,
    content: String,
}

impl DropIn {
    /// Creates the drop-in for a name, glob or UUID, without writing it. On the session bus, it is for the user's own
    /// actor.
    ///
    /// # Errors
    /// If the actor would reject the rule, or the name is too long for a file name.
    pub fn new(domain: &str, address: &Address) -> Result<Self, RuleError> {
        let folder = match address {
            Address::Session => user_folder(|name| std::env::var_os(name)).ok_or(RuleError::NoHome)?,
            Address::System | Address::At(_) => PathBuf::from(FOLDER),
        };
        Self::in_folder(folder, domain)
    }

    fn in_folder(folder: PathBuf, domain: &str) -> Result<Self, RuleError> {
        if domain.is_empty() {
            return Err(RuleError::Empty);
        }
        match glob(domain) {
            // A name can contain any characters: "[win11" is a name, but not a glob.
            Ok(_) | Err(BadGlob::Syntax(_)) => {}
            Err(error) => {
                return Err(RuleError::Pattern { text: domain.to_owned(), reason: error.to_string() });
            }
        }
        let name = format!("50-allow-{}.toml", systemd_escape(domain));
        if name.len() > MAX_NAME {
            return Err(RuleError::FileName { length: name.len(), max: MAX_NAME, folder });
        }
        let content = format!("{COMMENT}[[allow]]\ndomain = {}\n", toml_string(domain));
        let path = folder.join(name);
        Ok(Self { domain: domain.to_owned(), folder, path, content })
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of the file.
    #[must_use]
    pub fn content(&self) -> &str {
        &self.content
    }

    /// The rule, without the comment.
    #[must_use]
    pub fn rule(&self) -> &str {
        self.content.strip_prefix(COMMENT).unwrap_or(&self.content)
    }

    /// Checks that the caller can write the drop-in.
    ///
    /// # Errors
    /// If the check fails. The message names the command to run.
    pub fn check_access(&self, verb: &'static str) -> Result<(), RuleError> {
        // For a user's own file, root does not help: the error of the write says more.
        if self.folder != Path::new(FOLDER) {
            return Ok(());
        }
        let existing = self.path.ancestors().skip(1).find(|path| path.exists());
        if existing.is_some_and(|path| access(path, Access::WRITE_OK | Access::EXEC_OK).is_err()) {
            return Err(self.needs_root(verb));
        }
        Ok(())
    }

    fn needs_root(&self, verb: &'static str) -> RuleError {
        RuleError::NeedsRoot { command: format!("sudo {}", command(verb, &self.domain)) }
    }

    /// What is at its path.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn found(&self) -> Result<Found, RuleError> {
        let file = match open(&self.path, Links::Reject) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
            // A symbolic link, which the administrator has created.
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                return Ok(Found::Edited);
            }
            Err(error) => return Err(self.failed("read", error)),
        };
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Ok(Found::Edited);
        }
        let mut bytes = Vec::new();
        let limit = u64::try_from(self.content.len()).unwrap_or(u64::MAX).saturating_add(1);
        file.take(limit).read_to_end(&mut bytes).map_err(|error| self.failed("read", error))?;
        Ok(if bytes == self.content.as_bytes() { Found::Written } else { Found::Edited })
    }

    /// Writes the file, if nothing is at its path. The actor sees either nothing or the complete file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self) -> Result<(), RuleError> {
        let folder = self.folder.as_path();
        // The actor ignores files whose names begin with a dot.
        let temporary = folder.join(format!(".wakevirtctl-{}.tmp", std::process::id()));
        let write = || {
            let [parent, config] = [1, 2].map(|level| folder.ancestors().nth(level).unwrap_or(folder));
            // The mode that the XDG Base Directory Specification requires. /etc exists.
            DirBuilder::new().recursive(true).mode(0o700).create(config)?;
            create_folder(parent)?;
            create_folder(folder)?;
            // An earlier process with the same ID may have left this file behind.
            let _ = fs::remove_file(&temporary);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(self.content.as_bytes())?;
            // The mode does not depend on the umask.
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.sync_all()?;
            renameat_with(CWD, &temporary, CWD, &self.path, RenameFlags::NOREPLACE)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            self.failed("write", error)
        })
    }

    /// Removes the file.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn remove(&self) -> Result<(), RuleError> {
        let remove = fs::remove_file(&self.path).and_then(|()| File::open(&self.folder)?.sync_all());
        remove.map_err(|error| self.failed("remove", error))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> RuleError {
        RuleError::File { action, path: self.path.clone(), source }
    }
}

/// The folder of the drop-ins for the user's own actor: where systemd's `%E` is in a user unit.
fn user_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    config.map(|config| config.join(USER_FOLDER))
}

fn create_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_files_like_systemd() {
        for (name, escaped) in [("win11", "win11"), (".hidden.1", "\\x2ehidden.1"), ("a/b\\c", "a-b\\x5cc")] {
            let path = DropIn::in_folder(FOLDER.into(), name).unwrap().path().to_owned();
            assert_eq!(path, Path::new(FOLDER).join(format!("50-allow-{escaped}.toml")));
        }
    }

    #[test]
    fn users_have_a_folder_of_their_own() {
        let folder = |variables: &[(&str, &str)]| {
            let find =
                |name: &str| variables.iter().find(|(it, _)| *it == name).map(|(_, value)| value.into());
            user_folder(find).map(|folder| folder.display().to_string())
        };
        let home = ("HOME", "/home/a");
        assert_eq!(folder(&[home]).as_deref(), Some("/home/a/.config/wakevirt/actor.d"));
        assert_eq!(folder(&[home, ("XDG_CONFIG_HOME", "/c")]).as_deref(), Some("/c/wakevirt/actor.d"));
        assert_eq!(folder(&[home, ("XDG_CONFIG_HOME", "")]), folder(&[home]));
        assert_eq!(folder(&[]), None);
    }

    #[test]
    fn content_is_one_rule_for_any_name() {
        for name in ["win11", "a\"b\\c", "'", "a\nb", "a\n[[allow]]\ndomain = \"*\"", "\u{1b}", "\"\"\"'''"] {
            let drop_in = DropIn::in_folder(FOLDER.into(), name).unwrap();
            let parsed: toml::Table = toml::from_str(drop_in.content()).unwrap();
            let rules = parsed["allow"].as_array().unwrap();
            assert_eq!((parsed.len(), rules.len()), (1, 1), "{}", drop_in.content());
            let keys: Vec<_> = rules[0].as_table().unwrap().iter().collect();
            assert_eq!(keys, [(&"domain".to_owned(), &toml::Value::String(name.to_owned()))]);
        }
        let plain = DropIn::in_folder(FOLDER.into(), "win11").unwrap();
        assert_eq!(plain.rule(), "[[allow]]\ndomain = \"win11\"\n");
    }

    #[test]
    fn rejects_what_the_actor_or_the_file_system_rejects() {
        assert!(DropIn::in_folder(FOLDER.into(), &"a".repeat(241)).is_ok());
        let error = |name: &str| DropIn::in_folder(FOLDER.into(), name).unwrap_err().to_string();
        assert!(error(&"a".repeat(242)).contains("256 bytes"), "{}", error(&"a".repeat(242)));
        assert!(error(&"ü".repeat(100)).contains("the maximum is 255"));
        assert!(error(&"{".repeat(17)).contains("groups"));
        assert!(error("").contains("empty"));
    }
}
