//! The answers, for people in 80 columns, and for programs as JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::book::{Book, Record};
use crate::check::{Check, Outcome};
use crate::finding::Finding;

/// Widest line.
const WIDTH: usize = 80;

/// Where text begins that continues a line.
const INDENT: usize = 6;

/// Widest id, so that the columns stand below each other.
const ID: usize = 19;

/// Version of the JSON's shape.
const SHAPE: u8 = 1;

/// One answer in lines, each ended.
pub(super) fn record(record: &Record, colour: bool) -> String {
    let label = record.outcome.label().to_ascii_uppercase();
    let mut text = String::new();
    // What was not asked took no time.
    let took = match record.outcome {
        Outcome::Skip(_) => String::new(),
        _ => format!("{} ms", record.took.as_millis()),
    };
    let head = format!("{label}  {:<ID$} {took:>9}  ", record.check.id);
    let subject = record.subject.as_ref().map_or(String::new(), |subject| format!("[{subject}] "));
    wrap(&mut text, &head, &format!("{subject}{}", record.outcome.saw()), INDENT);
    if let Some(finding) = record.outcome.finding() {
        for (name, said) in [
            ("matters", record.check.matters),
            ("cause", &finding.why),
            ("next", &finding.next),
            ("who", finding.who.label()),
        ] {
            wrap(&mut text, &format!("{:INDENT$}{name:<9}", ""), said, INDENT + 9);
        }
    }
    if colour { coloured(&text, &record.outcome) } else { text }
}

/// The label of the first line in its colour; the rest as it is.
fn coloured(text: &str, outcome: &Outcome) -> String {
    let code = match outcome {
        Outcome::Pass(_) => "32",
        Outcome::Warn(_) => "33",
        Outcome::Fail(_) => "31;1",
        Outcome::Skip(_) => "2",
    };
    let (label, rest) = text.split_at_checked(4).unwrap_or((text, ""));
    format!("\u{1b}[{code}m{label}\u{1b}[0m{rest}")
}

/// Writes `head` and then `said`, in lines of at most [`WIDTH`]; those after the first begin at `indent`.
fn wrap(text: &mut String, head: &str, said: &str, indent: usize) {
    let mut line = head.to_owned();
    let mut column = head.chars().count();
    let mut fresh = true;
    for word in said.split(' ') {
        // What is longer than a line is cut where the line ends: a URL, a digest.
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let needed = word.len() + usize::from(!fresh);
            if column + needed <= WIDTH {
                if !fresh {
                    line.push(' ');
                }
                line.extend(word.iter());
                column += needed;
                fresh = false;
                break;
            }
            let room = WIDTH.saturating_sub(column + usize::from(!fresh));
            if word.len() > WIDTH.saturating_sub(indent) && room > 0 {
                if !fresh {
                    line.push(' ');
                }
                let rest = word.split_off(room);
                line.extend(word.iter());
                word = rest;
            }
            text.push_str(line.trim_end());
            text.push('\n');
            line = " ".repeat(indent);
            column = indent;
            fresh = true;
        }
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// The last line: the first broken link, and who should act.
pub(super) fn verdict(book: &Book<'_>) -> String {
    let count = |label: &str| book.records.iter().filter(|record| record.outcome.label() == label).count();
    if let (None, Some((what, why))) = (book.broken(), book.unanswered()) {
        return format!("not checked: {what} ({why})");
    }
    match (book.broken(), book.warned()) {
        (Some((record, finding)), _) => format!(
            "broken: {} ({}, exit {}); to act: {}",
            record.check.id,
            finding.class.label(),
            finding.class.code(),
            finding.who.label()
        ),
        (None, Some((record, finding))) => format!(
            "nothing is broken; {} to look at, first {}; to act: {}",
            count("warn"),
            record.check.id,
            finding.who.label()
        ),
        (None, None) => format!("nothing is broken: {} passed, {} skipped", count("pass"), count("skip")),
    }
}

/// All of it: one JSON object (docs/diagnose.md).
pub(super) fn json(book: &Book<'_>, provenance: Option<&str>) -> Value {
    let checks: Vec<Value> = book.records.iter().map(one).collect();
    let broken = book.broken().map(|(record, finding)| {
        let mut members = told(finding);
        members.extend([
            ("id".to_owned(), json!(record.check.id)),
            ("subject".to_owned(), json!(record.subject)),
            ("code".to_owned(), json!(finding.class.code())),
        ]);
        members
    });
    json!({
        "v": SHAPE,
        "version": env!("CARGO_PKG_VERSION"),
        "provenance": provenance,
        "code": book.code(),
        "broken": broken,
        "verdict": verdict(book),
        "checks": checks,
    })
}

fn one(record: &Record) -> Value {
    let mut members = match record.outcome.finding() {
        Some(finding) => told(finding),
        None => Map::from_iter([("saw".to_owned(), json!(record.outcome.saw()))]),
    };
    let took = u64::try_from(record.took.as_millis()).unwrap_or(u64::MAX);
    members.extend([
        ("id".to_owned(), json!(record.check.id)),
        ("state".to_owned(), json!(record.outcome.label())),
        ("ms".to_owned(), json!(took)),
    ]);
    if let Some(subject) = &record.subject {
        members.insert("subject".to_owned(), json!(subject));
    }
    if record.outcome.finding().is_some() {
        members.insert("matters".to_owned(), json!(record.check.matters));
    }
    Value::Object(members)
}

fn told(finding: &Finding) -> Map<String, Value> {
    Map::from_iter([
        ("class".to_owned(), json!(finding.class.label())),
        ("saw".to_owned(), json!(finding.saw)),
        ("cause".to_owned(), json!(finding.why)),
        ("next".to_owned(), json!(finding.next)),
        ("who".to_owned(), json!(finding.who)),
    ])
}

/// Every question, in order.
pub(super) fn list(checks: &[&'static Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let _ = writeln!(text, "{:<ID$}  {}", check.id, check.asks);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Class;
    use std::time::Duration;

    fn sample(saw: &str) -> Record {
        let finding = Finding::new(Class::Unreachable, saw).why("w ".repeat(90)).next(format!("check {saw}"));
        let subject = Some("https://kbs.example:8443".to_owned());
        let took = Duration::from_millis(12);
        Record { check: &crate::kbs::checks::CONNECT, subject, outcome: Outcome::Fail(finding), took }
    }

    #[test]
    fn no_line_is_wider_than_80_columns_whatever_is_said() {
        for saw in ["short", &"word ".repeat(60), &"x".repeat(300), &format!("a {}", "é".repeat(200)), ""] {
            let text = record(&sample(saw), false);
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
            assert_eq!(text.matches('x').count() / 300, usize::from(saw.starts_with('x')) * 2, "nothing is lost");
        }
    }

    #[test]
    fn every_id_fits_its_column() {
        assert!(super::super::order().iter().all(|check| check.id.len() <= ID));
    }

    #[test]
    fn colour_is_around_the_label_alone() {
        let plain = record(&sample("x"), false);
        assert!(!plain.contains('\u{1b}'));
        assert!(record(&sample("x"), true).starts_with("\u{1b}[31;1mFAIL\u{1b}[0m  kbs.connect"));
    }
}
