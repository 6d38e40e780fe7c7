//! The documentation leads somewhere: relative links and their anchors, and the
//! `make` targets it names. What generated references say is checked where they are
//! generated.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use coretex_tests::problems::Problems;
use coretex_tests::workspace;

#[test]
fn links_lead_to_files_and_headings() {
    let mut wrong = Problems::default();
    for file in workspace::files("", ".md") {
        let text = workspace::read(&file);
        for (line, link) in links(&text) {
            if let Err(problem) = follow(&file, link) {
                wrong.add(&format!("{}:{line}: {link}: {problem}", file.display()));
            }
        }
    }
    wrong.none();
}

#[test]
fn make_targets_exist() {
    let mut wrong = Problems::default();
    let makefile = workspace::read(Path::new("Makefile"));
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(target, _)| target)
        .collect();
    for file in workspace::files("", ".md") {
        let text = workspace::read(&file);
        for (line, target) in make_targets(&text) {
            if !targets.contains(target) {
                wrong.add(&format!("{}:{line}: make {target}", file.display()));
            }
        }
    }
    wrong.none();
}

/// The text in pieces with their lines: prose, or code between backticks or fences.
fn pieces(text: &str) -> Vec<(usize, &str, bool)> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            found.push((number, line, true));
        } else {
            let parts = line.split('`').zip([false, true].into_iter().cycle());
            found.extend(parts.map(|(part, is_code)| (number, part, is_code)));
        }
    }
    found
}

/// Targets of inline links with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    // A link may have code in its text, so only its end is looked for.
    for (number, piece, _) in pieces(text).into_iter().filter(|(_, _, is_code)| !is_code) {
        for (at, start) in piece.match_indices("](") {
            let rest = &piece[at + start.len()..];
            found.extend(rest.split_once(')').map(|(link, _)| (number, link)));
        }
    }
    found
}

/// What `make` is called with in code: `make test`.
fn make_targets(text: &str) -> Vec<(usize, &str)> {
    pieces(text)
        .into_iter()
        .filter(|(_, _, is_code)| *is_code)
        .filter_map(|(line, code, _)| {
            let words = code
                .trim_start()
                .trim_start_matches("$ ")
                .strip_prefix("make ")?;
            let target = words.split_whitespace().next()?;
            Some((line, target))
        })
        .collect()
}

fn follow(file: &Path, link: &str) -> Result<(), &'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(());
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let folder = file.parent().unwrap_or(file);
    let target = if path.is_empty() {
        file.to_path_buf()
    } else {
        without_dots(&folder.join(path))
    };
    if !workspace::root().join(&target).exists() {
        return Err("there is no such file");
    }
    let is_markdown = target
        .extension()
        .is_some_and(|extension| extension == "md");
    if !anchor.is_empty() && is_markdown {
        let text = workspace::read(&target);
        let headings = text.lines().filter(|line| line.starts_with('#'));
        if !headings.map(slug).any(|slug| slug == anchor) {
            return Err("there is no such heading");
        }
    }
    Ok(())
}

/// `a/../b` is `b`.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// The anchor of a heading as code hosts make it.
fn slug(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'))
        .map(|char| if char == ' ' { '-' } else { char })
        .collect()
}

#[test]
fn links_are_found_outside_of_code() {
    let text = "[a](b.md) and [c](d#e)\n```\n[no](f)\n```\n`[no](g)` [h](i)";
    assert_eq!(links(text), [(1, "b.md"), (1, "d#e"), (5, "i")]);
    assert_eq!(slug("## The `make` targets, all"), "the-make-targets-all");
    assert!(follow(Path::new("tests/README.md"), "../Makefile").is_ok());
    assert!(follow(Path::new("tests/README.md"), "nothing.md").is_err());
    assert!(follow(Path::new("tests/README.md"), "README.md#nothing").is_err());
}

#[test]
fn make_targets_are_found_in_code() {
    let text = "run `make test`, then make sure\n```\n$ make docs-check\nmake demo # now\n```";
    assert_eq!(
        make_targets(text),
        [(1, "test"), (3, "docs-check"), (4, "demo")]
    );
}
