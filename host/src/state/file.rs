//! Reads and writes the file.

use std::fs::{OpenOptions, remove_file, rename};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use wakevirt_service::config::{self, Links};
use wakevirt_service::logs::shown;

use super::{State, VERSION};

/// The state file. The directory belongs to the service.
pub const FILE: &str = "/run/wakevirt-host/state/state.json";
/// The maximum size of the file, in bytes.
const MAX_SIZE: u64 = 16 << 20;

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read or written.
    #[error("cannot {action} {}: {source}", shown(path))]
    File {
        /// What failed.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Its content is unknown.
    #[error("cannot read {}: {problem}", shown(path))]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Reads the state. Returns `None` if there is no file, because the service has not run since the host has booted.
///
/// # Errors
/// If the file cannot be read, or has another format.
pub fn read(path: &Path) -> Result<Option<State>, StateError> {
    let failed = |source| StateError::File { action: "read", path: path.to_owned(), source };
    let content = |problem| StateError::Content { path: path.to_owned(), problem };
    // The service could replace the file with a link or a pipe.
    let file = match config::open(path, Links::Reject) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(content("it is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut bytes).map_err(failed)?;
    let state: State = serde_json::from_slice(&bytes).map_err(|error| content(error.to_string()))?;
    if state.version != VERSION {
        return Err(content(format!(
            "its version is {}; this program reads version {VERSION}",
            state.version
        )));
    }
    Ok(Some(state))
}

/// Replaces the file.
///
/// # Errors
/// If the file cannot be written. The old file then remains.
pub fn write(path: &Path, state: &State) -> Result<(), StateError> {
    let failed = |source| StateError::File { action: "write", path: path.to_owned(), source };
    let bytes = serde_json::to_vec_pretty(state).map_err(io::Error::other).map_err(failed)?;
    replace(path, &bytes).map_err(failed)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    match remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?.write_all(bytes)?;
    rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PageSize, Pool, Topology};
    use crate::state::{Failure, MAX_FAILURES};

    #[test]
    fn a_written_state_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert_eq!(read(&path).unwrap(), None);
        let mut state = State::default();
        for time in 0..70 {
            let message = "no pages".to_owned();
            state.add_failure(Failure { domain: Some("a b".to_owned()), part: None, time, message });
        }
        assert_eq!(state.failures.len(), MAX_FAILURES);
        assert_eq!(state.failures[0].time, 6);
        let pool = Pool { node: 0, size: PageSize(1 << 20) };
        state.before = Some(Topology { pools: [(pool, 2)].into(), ..Topology::default() });
        write(&path, &state).unwrap();
        write(&path, &state).unwrap();
        assert_eq!(read(&path).unwrap(), Some(state));
    }

    #[test]
    fn unknown_content_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for (text, problem) in [("", "EOF"), ("{\"version\": 2}", "missing field")] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("state.json"), "{error}");
        }
        let newer = serde_json::to_string(&State { version: 2, ..State::default() }).unwrap();
        std::fs::write(&path, newer).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("its version is 2"));
        std::os::unix::fs::symlink("/dev/zero", directory.path().join("link")).unwrap();
        read(&directory.path().join("link")).unwrap_err();
    }
}
