//! Configuration files: layers of TOML, from the package's defaults to the administrator's drop-ins.
//!
//! Each file is parsed separately, so that an error names its file and line.

mod domain;
mod duration;
mod error;
mod file;
mod glob;
mod interface;
mod lines;
mod range;
mod text;
mod toml_text;

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::Uid;
use serde::de::DeserializeOwned;

pub use domain::DomainPattern;
pub use duration::{BadDuration, HumanDuration};
pub use error::{ConfigError, Problem};
pub use file::{Links, open};
pub use glob::{BadGlob, MAX_GROUPS, MAX_PATTERN, glob, is_glob};
pub use interface::{BadInterfacePattern, InterfacePattern, is_interface_name};
pub use lines::Lines;
pub use range::{PartLimit, check_text, duration, list, list_with_parts, number};
pub use text::from_text;
pub use toml_text::{toml_array, toml_string};

/// The directories of configuration files, in order of increasing precedence: the package's, then the administrator's.
const ROOTS: [&str; 2] = ["/usr/lib/wakevirt", "/etc/wakevirt"];

/// The maximum number of drop-ins in a directory.
const MAX_DROP_INS: usize = 256;

/// The content of one configuration file: all keys are optional, and each array of tables is a list.
pub trait Layer: DeserializeOwned + Default {
    /// The name of the service, which names its files: `capture` for `capture.toml` and `capture.d/*.toml`.
    const SERVICE: &'static str;

    /// Merges this layer over a lower one: its keys take precedence, and lists of tables accumulate.
    #[must_use]
    fn over(self, lower: Self) -> Self;

    /// Records the locations of the tables in this file.
    #[must_use]
    fn located(self, _file: &Path, _lines: &Lines) -> Self {
        self
    }

    /// Checks the limits that apply to all layers together.
    ///
    /// # Errors
    /// A description of the limit that is exceeded.
    fn check_limits(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Reads the configuration: only `file` if it is given, otherwise the files in the standard directories. In order of
/// increasing precedence, these are `/usr/lib/wakevirt/NAME.toml`, `/usr/lib/wakevirt/NAME.d/*.toml` by file name, and
/// the same under `/etc/wakevirt`. Without any file, returns the default configuration.
///
/// The files must be owned by root or by `owner`, the service's user.
///
/// # Errors
/// [`ConfigError`] names the file and, if known, the line, and how to correct it.
pub fn load<L: Layer>(file: Option<&Path>, owner: Uid) -> Result<L, ConfigError> {
    match file {
        Some(file) => merge(file, &file::read(file, owner)?, L::default()),
        None => load_from(&ROOTS.map(Path::new), owner),
    }
}

/// Reads the configuration from one directory: `NAME.toml` and `NAME.d/*.toml`, as [`load`] does in each of the standard
/// directories. The files are optional.
///
/// # Errors
/// Like [`load`]; also if there is no such directory.
pub fn load_directory<L: Layer>(directory: &Path, owner: Uid) -> Result<L, ConfigError> {
    if !file::check_directory(directory, owner)? {
        return Err(ConfigError::Read { path: directory.to_owned(), source: Errno::ENOENT.into() });
    }
    load_from(&[directory], owner)
}

fn load_from<L: Layer>(roots: &[&Path], owner: Uid) -> Result<L, ConfigError> {
    let mut merged = L::default();
    for root in roots {
        if !file::check_directory(root, owner)? {
            continue;
        }
        let main = root.join(L::SERVICE).with_extension("toml");
        match file::read(&main, owner) {
            Ok(text) => merged = merge(&main, &text, merged)?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        for path in drop_ins(&root.join(L::SERVICE).with_extension("d"), owner)? {
            merged = merge(&path, &file::read(&path, owner)?, merged)?;
        }
    }
    Ok(merged)
}

/// Parses a file and merges it over the layers below it.
fn merge<L: Layer>(path: &Path, text: &str, lower: L) -> Result<L, ConfigError> {
    let merged = parse::<L>(path, text)?.over(lower);
    merged.check_limits().map_err(|problem| ConfigError::Limit { path: path.to_owned(), problem })?;
    Ok(merged)
}

/// The drop-ins in a directory, sorted by file name.
fn drop_ins(directory: &Path, owner: Uid) -> Result<Vec<PathBuf>, ConfigError> {
    if !file::check_directory(directory, owner)? {
        return Ok(Vec::new());
    }
    let failed = |source| ConfigError::Read { path: directory.to_owned(), source };
    let mut paths = Vec::new();
    for entry in directory.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Editors create lock files and copies in the same directory, with names that begin with a dot.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            if paths.len() == MAX_DROP_INS {
                return Err(ConfigError::TooManyFiles { path: directory.to_owned(), max: MAX_DROP_INS });
            }
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn parse<L: Layer>(path: &Path, text: &str) -> Result<L, ConfigError> {
    let layer: L = toml::from_str(text).map_err(|error| ConfigError::content(path, text, &error))?;
    Ok(layer.located(path, &Lines::new(text)))
}

#[cfg(test)]
mod tests;
