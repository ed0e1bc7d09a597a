//! The output: tables and colours on a terminal, columns separated by tabs elsewhere, or JSON.

mod style;
mod table;
mod time;

use std::io::{self, IsTerminal as _, Write};

use serde::Serialize;

pub use style::{Cell, Style};
pub use table::Table;
pub use time::{ago, timestamp};

/// The format of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One line
    Short,
    /// Several lines, indented
    Pretty,
}

/// The output of a verb.
pub struct Output {
    writer: Box<dyn Write>,
    /// The format of JSON, if it was requested.
    json: Option<Format>,
    /// The number of columns of the terminal. `None` if the output is not a terminal.
    columns: Option<usize>,
    colours: bool,
}

impl Output {
    /// The standard output.
    #[must_use]
    pub fn to_stdout(json: Option<Format>) -> Self {
        const COLUMNS: usize = 80;
        let stdout = io::stdout();
        let columns = stdout.is_terminal().then(|| {
            let size = rustix::termios::tcgetwinsize(&stdout).ok();
            size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(COLUMNS)
        });
        let colours = columns.is_some() && style::colours_wanted(|name| std::env::var_os(name));
        Self { writer: Box::new(io::BufWriter::new(stdout)), json, columns, colours }
    }

    /// An output that is not a terminal.
    #[must_use]
    pub fn to_writer(writer: Box<dyn Write>, json: Option<Format>) -> Self {
        Self { writer, json, columns: None, colours: false }
    }

    /// Whether to print JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json.is_some()
    }

    /// Whether the output is a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.columns.is_some()
    }

    /// Prints a value as JSON, with a line break after it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        match self.json {
            Some(Format::Pretty) => serde_json::to_writer_pretty(&mut self.writer, value)?,
            _ => serde_json::to_writer(&mut self.writer, value)?,
        }
        writeln!(self.writer)
    }

    /// Prints a line that consists of these parts.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn line(&mut self, parts: &[Cell]) -> io::Result<()> {
        for part in parts {
            part.write(&mut self.writer, self.colours)?;
        }
        writeln!(self.writer)
    }

    /// Prints a row of a growing table. On a terminal, the columns have these widths, except the last one; elsewhere, tabs
    /// separate them.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn row(&mut self, cells: &[Cell], widths: &[usize]) -> io::Result<()> {
        if self.columns.is_none() {
            return table::separated(&mut self.writer, cells);
        }
        for (cell, width) in cells.iter().zip(widths) {
            cell.write(&mut self.writer, self.colours)?;
            let padding = width.saturating_sub(cell.width());
            write!(self.writer, "{:padding$}  ", "")?;
        }
        self.line(cells.get(widths.len()..).unwrap_or_default())
    }

    /// Prints a table. See [`Table`].
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn table(&mut self, table: &Table) -> io::Result<()> {
        table.write(&mut self.writer, self.columns, self.colours)
    }

    /// The writer, for a verb with a format of its own.
    pub fn writer(&mut self) -> &mut dyn Write {
        &mut self.writer
    }

    /// Flushes the writer.
    ///
    /// # Errors
    /// If that fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A location in a file, such as `/etc/wakevirt/actor.toml:7`. `None` without a file.
#[must_use]
pub fn location(file: Option<&str>, line: Option<u32>) -> Option<String> {
    let line = line.map(|line| format!(":{line}")).unwrap_or_default();
    file.map(|file| format!("{file}{line}"))
}
