//! Text with a style.

use std::ffi::OsString;
use std::io::{self, Write};

use anstyle::AnsiColor;
use unicode_width::UnicodeWidthStr as _;
use wakevirt_service::logs::plain;

/// The maximum number of characters in a cell.
const MAX: usize = 4096;

/// The meaning of a piece of text. The words alone also convey it, so the output does not depend on colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Style {
    /// Ordinary text.
    #[default]
    Plain,
    /// A heading.
    Bold,
    /// It works.
    Good,
    /// It needs attention.
    Warning,
    /// It does not work.
    Bad,
    /// Less important.
    Dim,
}

impl Style {
    const fn ansi(self) -> anstyle::Style {
        let style = anstyle::Style::new();
        match self {
            Self::Plain => style,
            Self::Bold => style.bold(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Dim => style.dimmed(),
        }
    }
}

/// Styled text: one cell of a table, or part of a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Text with this style. Control characters, invisible characters and marks that change the direction are escaped,
    /// because the text can contain names that other users chose.
    #[must_use]
    pub fn new(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: plain(text.as_ref(), MAX).to_string(), style }
    }

    /// Text without a style, escaped like [`Self::new`].
    #[must_use]
    pub fn plain(text: impl AsRef<str>) -> Self {
        Self::new(text, Style::Plain)
    }

    /// The number of columns that it needs on a terminal.
    pub(super) fn width(&self) -> usize {
        self.text.width()
    }

    /// The text, truncated with an ellipsis to this number of columns.
    pub(super) fn truncated(&self, columns: usize) -> Self {
        if self.width() <= columns {
            return self.clone();
        }
        let mut text = self.text.clone();
        while text.width() >= columns && text.pop().is_some() {}
        text.push('…');
        Self { text, style: self.style }
    }

    pub(super) fn write(&self, writer: &mut impl Write, colours: bool) -> io::Result<()> {
        if !colours || self.style == Style::Plain || self.text.is_empty() {
            return writer.write_all(self.text.as_bytes());
        }
        let style = self.style.ansi();
        write!(writer, "{}{}{}", style.render(), self.text, style.render_reset())
    }
}

/// Whether to use colours on a terminal: not if `NO_COLOR` is set (<https://no-color.org>), and not if the terminal has
/// none.
pub(super) fn colours_wanted(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let unwanted = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = variable("TERM").is_none_or(|value| value.is_empty() || value == "dumb");
    !unwanted && !dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(cell: &Cell, colours: bool) -> String {
        let mut bytes = Vec::new();
        cell.write(&mut bytes, colours).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn escapes_what_changes_the_terminal() {
        let name = Cell::new("a\u{1b}[2J\u{202e}b\tc\n", Style::Good);
        assert_eq!(written(&name, false), r"a\u{1b}[2J\u{202e}b\tc\n");
        assert_eq!(written(&name, true), "\u{1b}[32ma\\u{1b}[2J\\u{202e}b\\tc\\n\u{1b}[0m");
    }

    #[test]
    fn truncates_by_columns() {
        assert_eq!(Cell::plain("Küche").truncated(5), Cell::plain("Küche"));
        assert_eq!(Cell::plain("Küche").truncated(4), Cell::plain("Küc…"));
        // Each of these characters needs two columns.
        assert_eq!(Cell::plain("虚拟机").truncated(5), Cell::plain("虚拟…"));
        assert_eq!(Cell::plain("虚拟机").truncated(4), Cell::plain("虚…"));
    }

    #[test]
    fn honours_no_color() {
        let wanted = |no_color: Option<&str>, term: Option<&str>| {
            colours_wanted(|name| match name {
                "NO_COLOR" => no_color.map(OsString::from),
                _ => term.map(OsString::from),
            })
        };
        assert!(wanted(None, Some("xterm")) && wanted(Some(""), Some("xterm")));
        assert!(!wanted(Some("1"), Some("xterm")) && !wanted(None, Some("dumb")) && !wanted(None, None));
    }
}
