//! Prints the diagnosis, as text or as JSON.

use std::io;

use serde::Serialize;

use super::finding::{Finding, NotChecked, Severity};
use crate::output::{Cell, Output, Style};

/// The result of doctor. The man page describes the keys of its JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Diagnosis {
    /// Whether there are neither errors nor warnings.
    pub healthy: bool,
    /// What works.
    pub works: Vec<String>,
    /// The findings, most likely cause first.
    pub findings: Vec<Finding>,
    /// What was not checked.
    pub not_checked: Vec<NotChecked>,
}

/// Prints the diagnosis.
///
/// # Errors
/// If it cannot be written.
pub fn print(diagnosis: &Diagnosis, output: &mut Output) -> io::Result<()> {
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
    output.line(&[Cell::new("next: ", Style::Dim), Cell::plain(next_step(diagnosis))])
}

/// What to do after this diagnosis.
fn next_step(diagnosis: &Diagnosis) -> &'static str {
    if diagnosis.healthy {
        "doctor found no problem; if a packet still does not wake a domain, send the packet and run doctor again, which \
         then finds out why"
    } else if diagnosis.findings.iter().any(|finding| finding.fix.is_some()) {
        "run the first command that fixes a problem, and then run doctor again"
    } else {
        "follow the advice, and then run doctor again"
    }
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
