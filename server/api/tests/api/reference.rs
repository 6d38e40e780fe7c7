//! `docs/errors.md` says what the contract says: it is made of the comments of `error.proto`.
//!
//! `UPDATE_DOCS=1 cargo test -p coretex-api reference` writes it anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;

const INTRODUCTION: &str = "\
# Errors

Every failed call has a gRPC code and a `google.rpc.ErrorInfo` whose `domain` is `coretex.dev` and
whose `reason` is one of those below. The code says what kind of failure it is; the reason says
which one, and here is what to do about it. `BadRequest` lists all fields that are wrong at once,
and `RetryInfo` says how long to wait where waiting helps. Failures of the server itself carry
the metadata `request_id`, which finds the call in the log.

Made from the comments in `proto/coretex/v1/error.proto`; change them there.
";

/// The text of a block of comment lines.
fn joined(lines: &mut Vec<&str>) -> String {
    let text = lines.join(" ");
    lines.clear();
    text
}

/// The page, from the source of the contract.
fn page(source: &str) -> String {
    let mut page = INTRODUCTION.to_owned();
    let values = source.split_once("enum ErrorReason {").unwrap().1;
    let mut comment = Vec::new();
    let mut in_table = false;
    for line in values.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("//") {
            comment.push(text.trim());
        } else if let Some(value) = line.strip_prefix("ERROR_REASON_") {
            let reason = value.split_whitespace().next().unwrap();
            let text = joined(&mut comment);
            let Some((code, text)) = text.split_once(". ").filter(|_| reason != "UNSPECIFIED")
            else {
                continue;
            };
            if !in_table {
                page.push_str("\n| Reason | Code | What to do |\n|---|---|---|\n");
                in_table = true;
            }
            writeln!(page, "| `{reason}` | {code} | {text} |").unwrap();
        } else if line.is_empty() && !comment.is_empty() {
            // A comment that stands alone is the heading of what follows.
            let text = joined(&mut comment);
            let heading = text
                .rsplit_once(" (")
                .map_or(text.as_str(), |(text, _)| text);
            writeln!(page, "\n## {heading}").unwrap();
            in_table = false;
        }
    }
    page
}

#[test]
fn the_reference_of_errors_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let source = fs::read_to_string(root.join("proto/coretex/v1/error.proto")).unwrap();
    let path = root.join("docs/errors.md");
    let page = page(&source);
    assert!(page.matches("\n| `").count() > 30);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == page,
        "docs/errors.md is not current: run UPDATE_DOCS=1 cargo test -p coretex-api reference"
    );
}
