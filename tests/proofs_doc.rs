//! Each test that a page names as a proof exists, and is run.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Pages with proofs.
const PAGES: [&str; 2] = ["docs/threat-model.md", "docs/comparison.md"];

/// Fewest words of a promise: shorter names in these pages are of fields and rooms.
const WORDS: usize = 4;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Names of tests in the tables of a page.
fn named(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let quoted = rows.flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let promises = quoted.filter(|name| name.chars().all(is_word) && name.split('_').count() >= WORDS);
    promises.map(str::to_owned).collect()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names of tests that are run: of functions behind an attribute, and of those that a program of tests lists.
fn run(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut is_test = false;
    let mut listed = false;
    for line in text.lines().map(str::trim) {
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        match function.and_then(|rest| rest.split_once('(')) {
            Some((name, _)) if is_test => drop(found.insert(name.to_owned())),
            _ => {}
        }
        is_test = line.starts_with("#[test]") || line.starts_with("#[tokio::test") || is_test && line.starts_with("#[");
        let begins = line.starts_with("countersign_testbed::main!");
        listed = begins || listed && line != "}";
        if listed && !begins {
            let name = line.split([' ', ',']).next().unwrap_or_default();
            // Listed and not there does not compile.
            found.insert(name.to_owned());
        }
    }
    found
}

#[test]
fn every_test_that_a_page_names_as_a_proof_is_run() {
    let mut files = Vec::new();
    for directory in ["src", "tests", "testbed/src"] {
        sources(&root().join(directory), &mut files);
    }
    let known: BTreeSet<String> = files.iter().flat_map(|file| run(&fs::read_to_string(file).unwrap())).collect();
    let mut missing = Vec::new();
    for page in PAGES {
        let names = named(&fs::read_to_string(root().join(page)).unwrap());
        assert!(names.len() > 10, "{page} names {} tests: is it read well?", names.len());
        missing.extend(names.into_iter().filter(|name| !known.contains(name)).map(|name| format!("{page}: {name}")));
    }
    assert!(missing.is_empty(), "named as proofs, and no tests:\n  {}", missing.join("\n  "));
}

#[test]
fn a_test_that_is_not_run_is_found() {
    let page = "text `a_name_in_a_text`\n| x | S `one_that_is_run`, `one_that_is_not`, `tee_pubkey` |\n";
    let names = named(page);
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["one_that_is_not", "one_that_is_run"]);
    let source =
        "#[tokio::test(start_paused = true)]\n#[allow(x)]\nasync fn one_that_is_run() {}\nfn one_that_is_not() {}\n";
    assert_eq!(run(source).into_iter().collect::<Vec<_>>(), ["one_that_is_run"]);
    let listed = "countersign_testbed::main! {\n    one_that_is_run [Namespaces],\n}\nfn one_that_is_not() {}\n";
    assert_eq!(run(listed).into_iter().collect::<Vec<_>>(), ["one_that_is_run"]);
}
