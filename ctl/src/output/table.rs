//! Tables.

use std::io::{self, Write};

use super::style::{Cell, Style};

/// The space between two columns on a terminal.
const GAP: &str = "  ";
/// The minimum width of a truncated column.
const MIN: usize = 12;

/// A table. On a terminal, it has a heading and aligned columns, and the last column is truncated to fit. Elsewhere, it
/// has no heading, and each row is one line with tabs between the columns.
#[derive(Debug, Clone, Default)]
pub struct Table {
    heading: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(heading: &[&str]) -> Self {
        Self { heading: heading.iter().map(|text| Cell::new(text, Style::Bold)).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn write(
        &self,
        writer: &mut impl Write,
        columns: Option<usize>,
        colours: bool,
    ) -> io::Result<()> {
        let Some(columns) = columns else {
            return self.rows.iter().try_for_each(|row| separated(writer, row));
        };
        let widths = self.widths();
        let rows = std::iter::once(&self.heading).filter(|heading| !heading.is_empty()).chain(&self.rows);
        for row in rows {
            let mut rest = columns;
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if index + 1 == row.len() {
                    cell.truncated(rest.max(MIN)).write(writer, colours)?;
                    break;
                }
                cell.write(writer, colours)?;
                let padding = width.saturating_sub(cell.width());
                write!(writer, "{:padding$}{GAP}", "")?;
                rest = rest.saturating_sub(width + GAP.len());
            }
            writeln!(writer)?;
        }
        Ok(())
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for row in std::iter::once(&self.heading).chain(&self.rows) {
            widths.resize(widths.len().max(row.len()), 0);
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = cell.width().max(*widest);
            }
        }
        widths
    }
}

/// Writes a row with tabs between its columns. A cell does not contain tabs, because [`Cell`] escapes them.
pub(super) fn separated(writer: &mut impl Write, row: &[Cell]) -> io::Result<()> {
    for (index, cell) in row.iter().enumerate() {
        if index > 0 {
            writer.write_all(b"\t")?;
        }
        cell.write(writer, false)?;
    }
    writeln!(writer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(columns: Option<usize>, colours: bool) -> String {
        let mut table = Table::new(&["NAME", "STATE", "RULE"]);
        table.push(vec![
            Cell::plain("Küche"),
            Cell::new("running", Style::Good),
            Cell::plain("a long text at the end"),
        ]);
        table.push(vec![Cell::plain("a\tb"), Cell::default(), Cell::default()]);
        let mut bytes = Vec::new();
        table.write(&mut bytes, columns, colours).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn separates_columns_by_tabs_if_not_on_a_terminal() {
        assert_eq!(written(None, false), "Küche\trunning\ta long text at the end\na\\tb\t\t\n");
    }

    #[test]
    fn aligns_columns_and_truncates_the_last_on_a_terminal() {
        assert_eq!(
            written(Some(30), false),
            "NAME   STATE    RULE\nKüche  running  a long text a…\na\\tb            \n"
        );
        assert!(written(Some(80), true).contains("\u{1b}[32mrunning\u{1b}[0m  a long text at the end\n"));
    }
}
