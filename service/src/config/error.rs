//! What can be wrong with a configuration file, and what to do about it.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use super::file::MAX_SIZE;
use crate::logs::{plain, quoted, shown};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", shown(path))]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder, a device, a FIFO.
    #[error("{} is not a regular file; remove it, or name another file", shown(path))]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// More than a configuration can need.
    #[error("{} is larger than {MAX_SIZE} bytes; it cannot be a configuration file", shown(path))]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// More drop-ins than a configuration can need.
    #[error("{} has more than {most} files *.toml; put what they say into fewer files", shown(path))]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// How many there may be.
        most: usize,
    },
    /// Too much in all files together; this file is the one that goes beyond.
    #[error("{}: {problem}", shown(path))]
    Whole {
        /// The file.
        path: PathBuf,
        /// What there is too much of, and how much there may be.
        problem: String,
    },
    /// What the command line says is wrong.
    #[error("{option}: {problem}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A file or folder of somebody else.
    #[error(
        "{} belongs to user {user}, who could change it; make it root's: chown root {}",
        shown(path),
        shown(path)
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        user: Uid,
    },
    /// A file or folder that its group, or everyone, can write.
    #[error(
        "{} can be written by others than its owner (mode {mode:04o}); take that away: chmod go-w {}",
        shown(path),
        shown(path)
    )]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a text.
    #[error("{}:{line}: not UTF-8; save the file in that encoding", shown(path))]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// A file that says something wrong.
    #[error("{}:{line}: {problem}", shown(path))]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        problem: Problem,
    },
}

impl Error {
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    pub(super) fn content(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or_default();
        Self::Content {
            path: path.to_owned(),
            line: line_at(text.as_bytes(), span.start),
            problem: Problem::new(text, span, error.message()),
        }
    }
}

/// The line of a position, counted from 1.
pub(super) fn line_at(text: &[u8], position: usize) -> usize {
    1 + text.iter().take(position).filter(|byte| **byte == b'\n').count()
}

/// What is wrong in a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// A word that is none of those that can be there.
    Unknown {
        /// What the word is: `key` or `value`.
        what: &'static str,
        /// The word.
        word: String,
        /// The words that can be there.
        valid: Vec<String>,
    },
    /// Anything else.
    Bad {
        /// The part of the line that is wrong.
        part: String,
        /// The line.
        line: String,
        /// What is wrong with it.
        message: String,
    },
}

impl Problem {
    fn new(text: &str, span: core::ops::Range<usize>, message: &str) -> Self {
        unknown(message, "unknown field `", "key")
            .or_else(|| unknown(message, "unknown variant `", "value"))
            .unwrap_or_else(|| Self::Bad {
                line: line_around(text, span.start).to_owned(),
                part: text.get(span).unwrap_or_default().to_owned(),
                message: message.to_owned(),
            })
    }

    /// The valid word that is nearest to the unknown one, if any is near.
    fn suggestion<'a>(word: &str, valid: &'a [String]) -> Option<&'a str> {
        // People write `cool_down` and `Interfaces`; that is not what the distance is to measure.
        let word = word.to_lowercase().replace('_', "-");
        let near = valid.iter().filter_map(|valid| {
            let distance = strsim::damerau_levenshtein(&word, valid);
            let cut_short = word.len() >= 3 && valid.starts_with(&word);
            (cut_short || distance <= word.len().max(valid.len()) / 3).then_some((distance, valid))
        });
        near.min_by_key(|(distance, _)| *distance).map(|(_, valid)| valid.as_str())
    }
}

/// Reads serde's message "unknown field `x`, expected one of `a`, `b`": the only place where the
/// valid words are listed.
fn unknown(message: &str, prefix: &str, what: &'static str) -> Option<Problem> {
    let rest = message.strip_prefix(prefix)?;
    // The word comes from the file and may hold anything; the names behind it do not.
    let (word, expected) = rest.rsplit_once("`, expected ")?;
    let valid = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some(Problem::Unknown { what, word: word.to_owned(), valid })
}

/// The line around a position, without the blanks and the comma at its ends.
fn line_around(text: &str, position: usize) -> &str {
    let (before, after) = text.split_at_checked(position).unwrap_or((text, ""));
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let end = after.find('\n').map_or(text.len(), |length| position + length);
    text.get(start..end).unwrap_or_default().trim().trim_end_matches(',')
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { what, word, valid } => {
                write!(f, "unknown {what} {}", quoted(word))?;
                match Self::suggestion(word, valid) {
                    Some(suggestion) => write!(f, "; did you mean {}?", quoted(suggestion))?,
                    None => write!(f, ".")?,
                }
                write!(f, " Valid {what}s here: {}", valid.join(", "))
            }
            Self::Bad { part, line, message } => {
                write!(f, "{}: {}", plain(line, 100), plain(message, 400))?;
                // A list on one line does not show which of its values it is.
                if part == line || !line.contains(part) || message.contains(part.trim_matches('"')) {
                    Ok(())
                } else {
                    write!(f, ", at {}", plain(part, 60))
                }
            }
        }
    }
}
