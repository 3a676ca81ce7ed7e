//! What was found, and how it is said.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::rules::{Level, Rule};
use crate::finding::printable;

/// Most problems that are kept. A file with more is not a typing mistake.
const MAX_FOUND: usize = 200;

/// One problem.
#[derive(Debug)]
pub(super) struct Found {
    rule: &'static Rule,
    refused: bool,
    file: String,
    line: Option<usize>,
    saw: String,
    next: String,
}

/// All problems of a file.
#[derive(Debug)]
pub(super) struct Report {
    file: String,
    /// The file that problems without one are in now.
    current: String,
    prod: bool,
    found: Vec<Found>,
}

impl Report {
    pub(super) fn new(file: &str, prod: bool) -> Self {
        let file = printable(file, 200);
        Self { current: file.clone(), file, prod, found: Vec::new() }
    }

    /// Runs checks whose lines are those of another file.
    pub(super) fn about<T>(&mut self, file: &str, checks: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.current, printable(file, 200));
        let made = checks(self);
        self.current = before;
        made
    }

    /// A problem at a line of the initdata, or of the file that [`Report::about`] names. `saw` says what was observed; the rule's own `next`
    /// follows.
    pub(super) fn at(&mut self, rule: &'static Rule, line: impl Into<Option<usize>>, saw: impl Into<String>) {
        self.add(rule, None, line.into(), &saw.into(), rule.next.to_owned());
    }

    /// The same, with a more exact next step.
    pub(super) fn next(
        &mut self,
        rule: &'static Rule,
        line: impl Into<Option<usize>>,
        saw: impl Into<String>,
        next: impl Into<String>,
    ) {
        self.add(rule, None, line.into(), &saw.into(), next.into());
    }

    /// A problem at a line of another file.
    pub(super) fn in_file(
        &mut self,
        rule: &'static Rule,
        file: &str,
        line: impl Into<Option<usize>>,
        saw: impl Into<String>,
    ) {
        self.add(rule, Some(file), line.into(), &saw.into(), rule.next.to_owned());
    }

    /// The same, with a more exact next step.
    pub(super) fn in_file_next(
        &mut self,
        rule: &'static Rule,
        file: &str,
        line: impl Into<Option<usize>>,
        saw: impl Into<String>,
        next: impl Into<String>,
    ) {
        self.add(rule, Some(file), line.into(), &saw.into(), next.into());
    }

    fn add(&mut self, rule: &'static Rule, file: Option<&str>, line: Option<usize>, saw: &str, next: String) {
        if self.found.len() >= MAX_FOUND {
            return;
        }
        let refused = match rule.level {
            Level::Refuse => true,
            Level::Prod => self.prod,
            Level::Warn => false,
        };
        let file = file.map_or_else(|| self.current.clone(), |file| printable(file, 200));
        let found = Found { rule, refused, file, line, saw: printable(saw, 1000), next };
        // One list for two files, each in the order of its lines; what has no line comes last.
        let key = |found: &Found| (found.file != self.file, found.line.unwrap_or(usize::MAX));
        let at = self.found.partition_point(|other| key(other) <= key(&found));
        self.found.insert(at, found);
    }

    /// Whether anything is refused.
    pub(super) fn refused(&self) -> bool {
        self.found.iter().any(|found| found.refused)
    }

    fn count(&self, refused: bool) -> usize {
        self.found.iter().filter(|found| found.refused == refused).count()
    }

    /// For people: three lines for each problem, the first of which editors can jump to.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |found: &Found| {
            let mut text = found.file.clone();
            if let Some(line) = found.line {
                let _ = write!(text, ":{line}");
            }
            let kind = if found.refused { "refused" } else { "warning" };
            let _ = write!(
                text,
                ": {kind}: {} [{}]\n  why:  {}\n  next: {}",
                found.saw, found.rule.id, found.rule.why, found.next
            );
            text
        };
        self.found.iter().map(line).collect()
    }

    /// One line: what came of it.
    pub(super) fn summary(&self, about: &str) -> String {
        let verdict = if self.refused() { "refused" } else { "ok" };
        format!("{}: {verdict}: {} refused, {} warned of{about}\n", self.file, self.count(true), self.count(false))
    }

    /// For scripts.
    pub(super) fn json(&self, about: &Value) -> Value {
        let problems: Vec<Value> = self
            .found
            .iter()
            .map(|found| {
                json!({
                    "rule": found.rule.id,
                    "level": if found.refused { "refused" } else { "warning" },
                    "file": found.file,
                    "line": found.line,
                    "saw": found.saw,
                    "why": found.rule.why,
                    "next": found.next,
                })
            })
            .collect();
        json!({ "file": self.file, "ok": !self.refused(), "initdata": about, "problems": problems })
    }
}
