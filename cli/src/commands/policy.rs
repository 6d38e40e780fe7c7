//! `coretexctl policy ...`. Checking and testing bundles is the business of `coretex_core::policy`,
//! the same code that the server runs.

mod online;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coretex_core::document::{MAX_BYTES, Problem};
use coretex_core::policy::{Bundle, Snapshot, cases};

use super::Cx;
use crate::args::policy::Verb;
use crate::failure::{Exit, Failure};
use crate::output::Ui;
use crate::view::policy::{Checked, Complaint, Severity, TestedFile, Tests};

/// Does what needs no server; `None` for everything else.
pub(super) fn offline(verb: &Verb, ui: &Ui) -> Option<Result<Exit, Failure>> {
    match verb {
        Verb::Check { files } => Some(check(files, ui)),
        Verb::Test { files } => Some(test(files, ui)),
        _ => None,
    }
}

/// Does what needs a server.
pub(super) async fn run(cx: &Cx<'_>, verb: &Verb) -> Result<Exit, Failure> {
    Box::pin(online::run(cx, verb)).await
}

/// What the files hold.
#[derive(Debug, Default)]
struct Given {
    bundles: Vec<(String, Arc<Bundle>)>,
    cases: Vec<(PathBuf, Vec<cases::Case>)>,
    complaints: Vec<Complaint>,
}

fn check(files: &[PathBuf], ui: &Ui) -> Result<Exit, Failure> {
    let mut read = Given::default();
    for file in files {
        read.file(file)?;
    }
    let snapshot = read.snapshot();
    let checked = Checked {
        bundles: read.bundles.len(),
        rules: read
            .bundles
            .iter()
            .map(|(_, bundle)| bundle.rules.len())
            .sum(),
        cases: read.cases.iter().map(|(_, cases)| cases.len()).sum(),
        complaints: read.complaints,
    };
    ui.show(&checked)?;
    Ok(if snapshot.is_some() && !checked.has_errors() {
        Exit::Done
    } else {
        Exit::Refused
    })
}

fn test(files: &[PathBuf], ui: &Ui) -> Result<Exit, Failure> {
    let mut read = Given::default();
    let mut wanted: BTreeSet<PathBuf> = files.iter().cloned().collect();
    // The cases beside each bundle.
    wanted.extend(files.iter().filter_map(|file| beside(file)));
    for file in &wanted {
        read.file(file)?;
    }
    if read.complaints.is_empty() && read.cases.is_empty() {
        let hint = "put them into NAME.cases.yaml beside NAME.yaml";
        return Err(Failure::usage("there are no cases").hint(hint));
    }
    let snapshot = read.snapshot();
    let errors = read.complaints.iter().any(Complaint::is_error);
    let Some(snapshot) = snapshot.filter(|_| !errors) else {
        ui.show(&Checked {
            bundles: read.bundles.len(),
            rules: 0,
            cases: 0,
            complaints: read.complaints,
        })?;
        return Ok(Exit::Refused);
    };
    let all: Vec<cases::Case> = read
        .cases
        .iter()
        .flat_map(|(_, cases)| cases.iter().cloned())
        .collect();
    let mut report = cases::run(&snapshot, &all);
    let mut results = report.cases.drain(..);
    let files = read
        .cases
        .iter()
        .map(|(file, cases)| TestedFile {
            file: file.display().to_string(),
            results: results.by_ref().take(cases.len()).collect(),
        })
        .collect();
    drop(results);
    let tests = Tests {
        files,
        coverage: report.coverage,
    };
    ui.show(&tests)?;
    Ok(if tests.passed() {
        Exit::Done
    } else {
        Exit::Refused
    })
}

/// The name of a bundle: of its file, without the ending.
fn name_of(file: &Path) -> String {
    file.file_stem()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Whether a file holds cases, by its name.
fn holds_cases(file: &Path) -> bool {
    Path::new(&name_of(file))
        .extension()
        .is_some_and(|ending| ending == "cases")
}

/// The file of cases beside a bundle, if there is one.
fn beside(file: &Path) -> Option<PathBuf> {
    if holds_cases(file) {
        return None;
    }
    let endings = ["cases.yaml", "cases.yml", "cases.json"];
    let mut files = endings.iter().map(|ending| file.with_extension(ending));
    files.find(|file| file.is_file())
}

impl Given {
    /// Reads a file; what is wrong in it is a complaint, that it cannot be read a failure.
    fn file(&mut self, file: &Path) -> Result<(), Failure> {
        let text = text_of(file)?;
        if holds_cases(file) {
            match cases::parse(&text) {
                Ok(cases) => self.cases.push((file.to_owned(), cases)),
                Err(problems) => self.complain(file, &problems),
            }
            return Ok(());
        }
        match Bundle::parse(&text) {
            Ok(bundle) => {
                for rule in bundle.unreachable() {
                    self.complaints.push(Complaint {
                        file: file.display().to_string(),
                        line: rule.line,
                        column: 1,
                        path: String::new(),
                        severity: Severity::Warning,
                        message: format!(
                            "rule `{}` is never reached: a rule before it matches every job",
                            rule.id
                        ),
                    });
                }
                self.bundles.push((name_of(file), Arc::new(bundle)));
            }
            Err(problems) => self.complain(file, &problems),
        }
        Ok(())
    }

    fn complain(&mut self, file: &Path, problems: &[Problem]) {
        self.complaints
            .extend(problems.iter().map(|problem| Complaint {
                file: file.display().to_string(),
                line: problem.line,
                column: problem.column,
                path: problem.path.to_string(),
                severity: Severity::Error,
                message: problem.message.clone(),
            }));
    }

    /// The bundles in force together; `None`, and a complaint, if they cannot be.
    fn snapshot(&mut self) -> Option<Snapshot> {
        match Snapshot::new("local".to_owned(), self.bundles.clone()) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                self.complaints.push(Complaint {
                    file: String::new(),
                    line: 0,
                    column: 0,
                    path: String::new(),
                    severity: Severity::Error,
                    message: error.to_string(),
                });
                None
            }
        }
    }
}

/// The text of a file that is not too large to be a bundle.
fn text_of(file: &Path) -> Result<String, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::usage(format!("cannot read {}", file.display())).cause(error)
    };
    let mut bytes = Vec::new();
    File::open(file)
        .map_err(unreadable)?
        .take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    // Cut off in the middle of a character it is too long all the same.
    if bytes.len() > MAX_BYTES {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::usage(format!("cannot read {}", file.display())).cause("it is not UTF-8")
    })
}
