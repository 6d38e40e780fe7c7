//! What is wrong with bundles, and how their cases came out.

use coretex_core::policy::cases::{CaseResult, RuleCoverage};
use serde_json::{Value, json};

use super::{Document, Paint, Tint, clean};
use crate::failure::Failure;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Error,
    Warning,
}

/// Something that is wrong with a file.
#[derive(Clone, Debug)]
pub(crate) struct Complaint {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) path: String,
    pub(crate) severity: Severity,
    pub(crate) message: String,
}

impl Complaint {
    pub(crate) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    fn value(&self) -> Value {
        json!({
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "severity": self.word(),
            "message": self.message,
        })
    }

    fn word(&self) -> &'static str {
        match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }

    /// As compilers say it, so that editors find the place.
    fn text(&self, paint: Paint) -> String {
        let place = if self.file.is_empty() {
            String::new()
        } else {
            format!("{}:{}:{}: ", clean(&self.file), self.line, self.column)
        };
        let tint = match self.severity {
            Severity::Error => Tint::Bad,
            Severity::Warning => Tint::Waiting,
        };
        let word = paint.tint(tint, self.word());
        let path = if self.path.is_empty() {
            String::new()
        } else {
            format!("{}: ", clean(&self.path))
        };
        format!("{place}{word}: {path}{}\n", clean(&self.message))
    }
}

/// What a check found.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) bundles: usize,
    pub(crate) rules: usize,
    pub(crate) cases: usize,
    pub(crate) complaints: Vec<Complaint>,
}

impl Checked {
    pub(crate) fn has_errors(&self) -> bool {
        self.complaints.iter().any(Complaint::is_error)
    }
}

impl Document for Checked {
    fn value(&self) -> Result<Value, Failure> {
        let complaints: Vec<Value> = self.complaints.iter().map(Complaint::value).collect();
        Ok(json!({
            "ok": !self.has_errors(),
            "bundles": self.bundles,
            "rules": self.rules,
            "cases": self.cases,
            "problems": complaints,
        }))
    }

    fn text(&self, paint: Paint) -> String {
        let mut text: String = self.complaints.iter().map(|c| c.text(paint)).collect();
        if self.has_errors() {
            let errors = self.complaints.iter().filter(|c| c.is_error()).count();
            text.push_str(&format!("{}\n", counted(errors, "error")));
        } else {
            text.push_str(&format!(
                "{}: {}, {}, {}\n",
                paint.tint(Tint::Good, "ok"),
                counted(self.bundles, "bundle"),
                counted(self.rules, "rule"),
                counted(self.cases, "case"),
            ));
        }
        text
    }
}

/// How the cases of a file came out.
#[derive(Debug)]
pub(crate) struct TestedFile {
    pub(crate) file: String,
    pub(crate) results: Vec<CaseResult>,
}

/// How all cases came out.
#[derive(Debug)]
pub(crate) struct Tests {
    pub(crate) files: Vec<TestedFile>,
    pub(crate) coverage: Vec<RuleCoverage>,
}

impl Tests {
    fn results(&self) -> impl Iterator<Item = &CaseResult> {
        self.files.iter().flat_map(|file| &file.results)
    }

    fn failed(&self) -> usize {
        self.results()
            .filter(|case| !case.failures.is_empty())
            .count()
    }

    pub(crate) fn passed(&self) -> bool {
        self.failed() == 0
    }
}

impl Document for Tests {
    fn value(&self) -> Result<Value, Failure> {
        let cases = self.files.iter().flat_map(|file| {
            file.results.iter().map(|case| {
                let outcome = case.outcome.as_ref();
                json!({
                    "file": file.file,
                    "line": case.line,
                    "name": case.name,
                    "passed": case.failures.is_empty(),
                    "failures": case.failures,
                    "decision": outcome.map(|outcome| outcome.decision.word()),
                    "bundle_id": outcome.map(|outcome| outcome.bundle_id.as_str()),
                    "rule_id": outcome.map(|outcome| outcome.rule_id.as_str()),
                    "reason": outcome.map(|outcome| outcome.reason.as_str()),
                })
            })
        });
        let coverage = self.coverage.iter().map(|rule| {
            json!({
                "bundle_id": rule.bundle_id,
                "rule_id": rule.rule_id,
                "line": rule.line,
                "matched": rule.matched,
                "decided": rule.decided,
            })
        });
        Ok(json!({
            "ok": self.passed(),
            "cases": cases.collect::<Vec<_>>(),
            "coverage": coverage.collect::<Vec<_>>(),
        }))
    }

    fn text(&self, paint: Paint) -> String {
        let mut text = String::new();
        for file in &self.files {
            for case in &file.results {
                let place = format!("{}:{}", clean(&file.file), case.line);
                let name = clean(&case.name);
                if case.failures.is_empty() {
                    let word = paint.tint(Tint::Good, "ok");
                    text.push_str(&format!("{place}: {word}: {name}\n"));
                    continue;
                }
                let word = paint.tint(Tint::Bad, "failed");
                text.push_str(&format!("{place}: {word}: {name}\n"));
                for failure in &case.failures {
                    text.push_str(&format!("  {}\n", clean(failure)));
                }
            }
        }
        for rule in &self.coverage {
            let what = match (rule.matched, rule.decided) {
                (0, _) => "was matched by no case",
                (_, 0) => "decided no case",
                _ => continue,
            };
            let word = paint.tint(Tint::Waiting, "uncovered");
            let (bundle, id) = (clean(&rule.bundle_id), clean(&rule.rule_id));
            text.push_str(&format!(
                "{word}: rule `{id}` of bundle `{bundle}` {what}\n"
            ));
        }
        let all = self.results().count();
        let covered = self.coverage.iter().filter(|rule| rule.decided > 0).count();
        text.push_str(&format!(
            "{} passed, {} failed; {covered} of {} decided\n",
            counted(all - self.failed(), "case"),
            self.failed(),
            counted(self.coverage.len(), "rule"),
        ));
        text
    }
}

/// `1 rule`, `2 rules`.
fn counted(count: usize, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}
