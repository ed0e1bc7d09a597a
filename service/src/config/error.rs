//! Errors in configuration files, and how to correct them.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use super::file::MAX_SIZE;
use crate::logs::{plain, quoted, shown};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or directory cannot be read.
    #[error("cannot read {}: {source}", shown(path))]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A directory, device or FIFO instead of a file.
    #[error("{} is not a regular file; remove it or specify another file", shown(path))]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Larger than any configuration needs.
    #[error("{} is larger than {MAX_SIZE} bytes; it cannot be a configuration file", shown(path))]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// More drop-ins than any configuration needs.
    #[error("{} has more than {max} *.toml files; merge some of them", shown(path))]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
        /// The maximum number of files.
        max: usize,
    },
    /// The files together exceed a limit.
    #[error("{}: {problem}", shown(path))]
    Limit {
        /// The file that exceeds it.
        path: PathBuf,
        /// The limit.
        problem: String,
    },
    /// An invalid option on the command line.
    #[error("{option}: {problem}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A file or directory that is owned by another user.
    #[error(
        "{} is owned by user {user}, who could change it; change the owner: chown root {}",
        shown(path),
        shown(path)
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        user: Uid,
    },
    /// A file or directory to which its group or everyone can write.
    #[error(
        "{} is writable by users other than its owner (mode {mode:04o}); remove the permission: chmod go-w {}",
        shown(path),
        shown(path)
    )]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not UTF-8.
    #[error("{}:{line}: not UTF-8; save the file as UTF-8", shown(path))]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An error on a line of the file.
    #[error("{}:{line}: {problem}", shown(path))]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        problem: Problem,
    },
}

impl ConfigError {
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

/// The line number of a position, counted from 1.
pub(super) fn line_at(text: &[u8], position: usize) -> usize {
    1 + text.iter().take(position).filter(|byte| **byte == b'\n').count()
}

/// An error on a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// An unknown key or value.
    Unknown {
        /// `key` or `value`.
        kind: &'static str,
        /// The unknown word.
        word: String,
        /// The valid words.
        valid: Vec<String>,
    },
    /// Any other error.
    Invalid {
        /// The invalid part of the line.
        part: String,
        /// The line.
        line: String,
        /// What is wrong.
        message: String,
    },
}

impl Problem {
    fn new(text: &str, span: core::ops::Range<usize>, message: &str) -> Self {
        unknown(message, "unknown field `", "key")
            .or_else(|| unknown(message, "unknown variant `", "value"))
            .unwrap_or_else(|| Self::Invalid {
                line: line_around(text, span.start).to_owned(),
                part: text.get(span).unwrap_or_default().to_owned(),
                message: message.to_owned(),
            })
    }

    /// The valid word that is most similar to the unknown word, if any is similar.
    fn suggestion<'a>(word: &str, valid: &'a [String]) -> Option<&'a str> {
        // Case and underscores do not count: `cool_down` and `Interfaces` are frequent mistakes.
        let word = word.to_lowercase().replace('_', "-");
        let similar = valid.iter().filter_map(|valid| {
            let distance = strsim::damerau_levenshtein(&word, valid);
            let is_prefix = word.len() >= 3 && valid.starts_with(&word);
            (is_prefix || distance <= word.len().max(valid.len()) / 3).then_some((distance, valid))
        });
        similar.min_by_key(|(distance, _)| *distance).map(|(_, valid)| valid.as_str())
    }
}

/// Parses serde's message "unknown field `x`, expected one of `a`, `b`". Only this message lists the valid words.
fn unknown(message: &str, prefix: &str, kind: &'static str) -> Option<Problem> {
    let rest = message.strip_prefix(prefix)?;
    // The word comes from the file and can contain anything; the names after it come from the code.
    let (word, expected) = rest.rsplit_once("`, expected ")?;
    let valid = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some(Problem::Unknown { kind, word: word.to_owned(), valid })
}

/// The line at a position, without surrounding white space and the comma at its end.
fn line_around(text: &str, position: usize) -> &str {
    let (before, after) = text.split_at_checked(position).unwrap_or((text, ""));
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let end = after.find('\n').map_or(text.len(), |length| position + length);
    text.get(start..end).unwrap_or_default().trim().trim_end_matches(',')
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { kind, word, valid } => {
                write!(f, "unknown {kind} {}", quoted(word))?;
                match Self::suggestion(word, valid) {
                    Some(suggestion) => write!(f, "; did you mean {}?", quoted(suggestion))?,
                    None => write!(f, ".")?,
                }
                write!(f, " Valid {kind}s here: {}", valid.join(", "))
            }
            Self::Invalid { part, line, message } => {
                write!(f, "{}: {}", plain(line, 100), plain(message, 400))?;
                // If the line is a list, it does not show which value is invalid.
                if part == line || !line.contains(part) || message.contains(part.trim_matches('"')) {
                    Ok(())
                } else {
                    write!(f, ", at {}", plain(part, 60))
                }
            }
        }
    }
}
