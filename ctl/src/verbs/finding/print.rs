//! Prints the diagnosis, as text or as JSON.

use std::io;

use super::{Diagnosis, Finding, NotChecked, Severity};
use crate::output::{Cell, Output, Style};

/// Prints the diagnosis, and `next`: what to do then.
///
/// # Errors
/// If it cannot be written.
pub fn print(diagnosis: &Diagnosis, next: &str, output: &mut Output) -> io::Result<()> {
    if output.is_json() {
        return output.json(diagnosis);
    }
    for (number, finding) in diagnosis.findings.iter().enumerate() {
        print_finding(number + 1, finding, output)?;
    }
    for works in &diagnosis.works {
        output.line(&[Cell::new("works: ", Style::Good), Cell::plain(works)])?;
    }
    for NotChecked { what, reason, command } in &diagnosis.not_checked {
        let text = format!("{what} ({reason}); run ");
        output.line(&[
            Cell::new("not checked: ", Style::Dim),
            Cell::plain(text),
            Cell::new(command, Style::Bold),
        ])?;
    }
    output.line(&[Cell::new("next: ", Style::Dim), Cell::plain(next)])
}

fn print_finding(number: usize, finding: &Finding, output: &mut Output) -> io::Result<()> {
    let (word, style) = match finding.severity {
        Severity::Error => ("error", Style::Bad),
        Severity::Warning => ("warning", Style::Warning),
        Severity::Note => ("note", Style::Dim),
    };
    let number = format!("{number}. ");
    let name = format!(" [{}]", finding.check);
    output.line(&[
        Cell::new(number, Style::Bold),
        Cell::new(word, style),
        Cell::plain(": "),
        Cell::new(&finding.problem, Style::Bold),
        Cell::new(name, Style::Dim),
    ])?;
    for evidence in &finding.evidence {
        output.line(&[Cell::new("   seen: ", Style::Dim), Cell::plain(evidence)])?;
    }
    // The advice can warn of what the command does.
    if let Some(advice) = &finding.advice {
        output.line(&[Cell::plain("   "), Cell::plain(advice)])?;
    }
    if let Some(fix) = &finding.fix {
        output.line(&[Cell::new("   run:  ", Style::Good), Cell::new(fix, Style::Bold)])?;
    }
    output.line(&[])
}
