//! Configuration files: layers of TOML, from the package's defaults to the administrator's drop-ins.
//!
//! Each file is parsed by itself, so that an error names the file and the line that it is in.

mod duration;
mod error;
mod file;
mod glob;
mod range;
mod text;

use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use serde::de::DeserializeOwned;

pub use duration::{BadDuration, HumanDuration};
pub use error::{Error, Problem};
pub use file::{Links, open};
pub use glob::{BadGlob, MAX_GROUPS, MAX_PATTERN, glob, is_glob};
pub use range::{PartLimit, check_text, duration, list, list_with_parts, number};
pub use text::from_text;

/// Where the files are, lowest first: the package's own, then the administrator's.
const ROOTS: [&str; 2] = ["/usr/lib/wakevirt", "/etc/wakevirt"];

/// The most drop-ins in a folder.
const MAX_DROP_INS: usize = 256;

/// What one configuration file may say: every key optional, tables in lists.
pub trait Layer: DeserializeOwned + Default {
    /// The name of the service, which names its files: `capture` for `capture.toml` and `capture.d/*.toml`.
    const SERVICE: &'static str;

    /// This layer over a lower one: own keys win, lists of tables accumulate.
    #[must_use]
    fn over(self, below: Self) -> Self;

    /// Whether all layers together say no more than the service takes.
    ///
    /// # Errors
    /// What there is too much of, and how much there may be.
    fn check_limits(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Reads the configuration: `file` alone where it is given, else every file in the standard places,
/// lowest first: `/usr/lib/wakevirt/NAME.toml`, `/usr/lib/wakevirt/NAME.d/*.toml` by file name, then
/// the same under `/etc/wakevirt`. No file at all is a valid configuration.
///
/// `owner` is the service's own user, who may own the files beside root.
///
/// # Errors
/// [`Error`] names the file, and the line where there is one, and says what to do.
pub fn load<L: Layer>(file: Option<&Path>, owner: Uid) -> Result<L, Error> {
    match file {
        Some(file) => put_over(file, &file::read(file, owner)?, L::default()),
        None => load_from(&ROOTS.map(Path::new), owner),
    }
}

fn load_from<L: Layer>(roots: &[&Path], owner: Uid) -> Result<L, Error> {
    let mut whole = L::default();
    for root in roots {
        if !file::check_folder(root, owner)? {
            continue;
        }
        let main = root.join(L::SERVICE).with_extension("toml");
        match file::read(&main, owner) {
            Ok(text) => whole = put_over(&main, &text, whole)?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        for path in drop_ins(&root.join(L::SERVICE).with_extension("d"), owner)? {
            whole = put_over(&path, &file::read(&path, owner)?, whole)?;
        }
    }
    Ok(whole)
}

/// What the file says over the layers below it.
fn put_over<L: Layer>(path: &Path, text: &str, below: L) -> Result<L, Error> {
    let whole = parse::<L>(path, text)?.over(below);
    whole.check_limits().map_err(|problem| Error::Whole { path: path.to_owned(), problem })?;
    Ok(whole)
}

/// The drop-ins in a folder, by file name.
fn drop_ins(folder: &Path, owner: Uid) -> Result<Vec<PathBuf>, Error> {
    if !file::check_folder(folder, owner)? {
        return Ok(Vec::new());
    }
    let failed = |source| Error::Read { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in folder.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Editors keep their locks and copies beside the file, under names that begin with a dot.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            if paths.len() == MAX_DROP_INS {
                return Err(Error::TooManyFiles { path: folder.to_owned(), most: MAX_DROP_INS });
            }
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn parse<L: Layer>(path: &Path, text: &str) -> Result<L, Error> {
    toml::from_str(text).map_err(|error| Error::content(path, text, &error))
}

#[cfg(test)]
mod tests;
