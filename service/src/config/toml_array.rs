//! Lists in the output of `--check`.

use core::fmt;

use crate::logs::quoted;

/// Formats a list of strings as in a configuration file.
#[must_use]
pub fn toml_array<T: fmt::Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(|item| quoted(&item.to_string()).to_string()).collect();
    format!("[{}]", texts.join(", "))
}
