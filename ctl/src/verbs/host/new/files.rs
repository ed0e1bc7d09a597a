//! New configuration files, which never replace others.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::NewError;
use crate::output::{Cell, Output, Style};

/// Files to write, and what the administrator does next.
#[derive(Debug, Default, Serialize)]
pub struct NewFiles {
    /// The files.
    pub files: Vec<NewFile>,
    /// The commands to run, in order, each with the reason.
    pub commands: Vec<NextCommand>,
    /// The address of the share, in Windows' notation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// A file to write.
#[derive(Debug, Serialize)]
pub struct NewFile {
    /// Its path.
    #[serde(rename = "file")]
    pub path: PathBuf,
    /// Its content.
    pub content: String,
    /// Its permissions.
    #[serde(skip)]
    mode: u32,
}

/// A command to run.
#[derive(Debug, Serialize)]
pub struct NextCommand {
    /// The command.
    pub command: String,
    /// What it is for.
    pub purpose: &'static str,
}

impl NewFiles {
    /// Adds a file.
    pub fn file(&mut self, path: impl Into<PathBuf>, content: String) {
        self.files.push(NewFile { path: path.into(), content, mode: 0o644 });
    }

    /// Adds a file that can be executed.
    pub fn executable(&mut self, path: impl Into<PathBuf>, content: String) {
        self.files.push(NewFile { path: path.into(), content, mode: 0o755 });
    }

    /// Adds a command.
    pub fn command(&mut self, purpose: &'static str, command: String) {
        self.commands.push(NextCommand { command, purpose });
    }

    /// Sets the address of the share.
    pub fn address(&mut self, address: String) {
        self.address = Some(address);
    }

    /// Writes all files, or none. `command` is the command that root can run instead.
    ///
    /// # Errors
    /// If a file exists already or cannot be written.
    pub fn write(&self, command: &str) -> Result<(), NewError> {
        if let Some(file) = self.files.iter().find(|file| file.path.symlink_metadata().is_ok()) {
            return Err(NewError::Exists(file.path.clone()));
        }
        for (index, file) in self.files.iter().enumerate() {
            if let Err(source) = file.write() {
                for written in self.files.iter().take(index) {
                    let _ = fs::remove_file(&written.path);
                }
                return Err(match source.kind() {
                    io::ErrorKind::PermissionDenied => NewError::NeedsRoot(format!("sudo {command}")),
                    io::ErrorKind::AlreadyExists => NewError::Exists(file.path.clone()),
                    _ => NewError::Write { path: file.path.clone(), source },
                });
            }
        }
        Ok(())
    }

    /// Prints what was written and what to do next.
    ///
    /// # Errors
    /// If it cannot be printed.
    pub fn print(&self, output: &mut Output) -> io::Result<()> {
        if output.is_json() {
            return output.json(self);
        }
        for file in &self.files {
            output.line(&[Cell::plain(format!("wrote {}", file.path.display()))])?;
        }
        output.line(&[Cell::plain("next, as root:")])?;
        let mut last = "";
        for next in &self.commands {
            if next.purpose != last {
                output.line(&[Cell::plain(format!("  # {}", next.purpose))])?;
            }
            last = next.purpose;
            output.line(&[Cell::new(format!("  {}", next.command), Style::Good)])?;
        }
        if let Some(address) = &self.address {
            output.line(&[Cell::plain(format!("the share: {address}"))])?;
        }
        Ok(())
    }
}

impl NewFile {
    fn write(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        if !folder.exists() {
            fs::create_dir_all(folder)?;
            fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
        let written = file
            .write_all(self.content.as_bytes())
            // The mode does not depend on the umask.
            .and_then(|()| file.set_permissions(Permissions::from_mode(self.mode)))
            .and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&self.path);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_all_files_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["new/a", "b"].map(|name| directory.path().join(name));
        let mut files = NewFiles::default();
        files.file(&first, "1".to_owned());
        files.file(&second, "2".to_owned());
        fs::write(&second, "other").unwrap();
        assert!(matches!(files.write("x"), Err(NewError::Exists(path)) if path == second));
        assert!(!first.exists());
        fs::remove_file(&second).unwrap();
        files.write("x").unwrap();
        assert_eq!([&first, &second].map(|path| fs::read_to_string(path).unwrap()), ["1", "2"]);

        // The second file cannot be written, so the first is removed.
        let mut files = NewFiles::default();
        let third = directory.path().join("c");
        files.file(&third, String::new());
        files.file(second.join("below-a-file"), String::new());
        assert!(matches!(files.write("x"), Err(NewError::Write { .. })));
        assert!(!third.exists());
    }
}
