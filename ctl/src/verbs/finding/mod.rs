//! What doctor and `host check` report: findings, and what they could not check.

mod print;

use serde::Serialize;

pub use print::print;

/// The severity of a finding, most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It prevents wakes, or the preparation of the host.
    Error,
    /// It can prevent some wakes, or reduce the effect of the preparation.
    Warning,
    /// It explains something, and needs no fix.
    Note,
}

/// A problem, or an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its severity.
    pub severity: Severity,
    /// The name of the check, such as `unit-masked`.
    pub check: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// The command that fixes it.
    #[serde(rename = "cure", skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// What else to do, or to consider before running the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn new(severity: Severity, check: &'static str, problem: impl Into<String>) -> Self {
        let (problem, evidence) = (problem.into(), Vec::new());
        Self { severity, check, problem, evidence, fix: None, advice: None }
    }

    /// Creates a finding about a problem that prevents wakes.
    #[must_use]
    pub fn error(check: &'static str, problem: impl Into<String>) -> Self {
        Self::new(Severity::Error, check, problem)
    }

    /// Creates a finding about a problem that can prevent some wakes.
    #[must_use]
    pub fn warning(check: &'static str, problem: impl Into<String>) -> Self {
        Self::new(Severity::Warning, check, problem)
    }

    /// Creates an explanation.
    #[must_use]
    pub fn note(check: &'static str, problem: impl Into<String>) -> Self {
        Self::new(Severity::Note, check, problem)
    }

    /// Adds what was seen.
    #[must_use]
    pub fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// Sets the command that fixes it.
    #[must_use]
    pub fn fix(mut self, command: impl Into<String>) -> Self {
        self.fix = Some(command.into());
        self
    }

    /// Sets the advice.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// Something that doctor could not check, for example because the caller is not allowed to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotChecked {
    /// What was not checked.
    pub what: String,
    /// Why not.
    pub reason: String,
    /// The command that shows it.
    pub command: String,
}

/// The result of doctor or `host check`. The man page describes the keys of its JSON.
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

impl Diagnosis {
    /// Creates a diagnosis with these findings.
    #[must_use]
    pub fn new(findings: Vec<Finding>, works: Vec<String>, not_checked: Vec<NotChecked>) -> Self {
        let healthy = findings.iter().all(|finding| finding.severity == Severity::Note);
        Self { healthy, works, findings, not_checked }
    }
}

/// What was seen, or why it was not.
pub type Seen<T> = Result<T, NotChecked>;

/// Creates a [`NotChecked`].
#[must_use]
pub fn not_checked(what: &str, reason: impl Into<String>, command: impl Into<String>) -> NotChecked {
    NotChecked { what: what.to_owned(), reason: reason.into(), command: command.into() }
}
