//! Values of the environment and the command line, read into types.

use std::path::PathBuf;
use std::time::Duration;

use super::super::decode::{parse_duration, parse_word};
use super::super::env::{AllGiven, DEADLINE, DIRECTORY, GATE, Given, LOG, LOG_FORMAT, SECRETS};
use super::super::grammar::{absolute, exact};
use super::super::keys::{self, MAX_FILES, MAX_GATES};
use super::super::problem::Problem;
use super::super::raw;
use super::super::types::{DEFAULT_MODE, Expect, Gate, LogFormat, RelativePath, SecretFile, Source};
use crate::formats::kbs_uri::KbsUri;

/// What was given. `None`: not given, or wrong (then it has been reported).
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) deadline: Option<Duration>,
    pub(super) level: Option<tracing::Level>,
    pub(super) format: Option<LogFormat>,
    pub(super) directory: Option<PathBuf>,
    pub(super) files: Option<Vec<SecretFile>>,
    pub(super) gates: Option<Vec<Gate>>,
}

/// Reads all values that set a key.
pub(super) fn read(given: &AllGiven, problems: &mut Vec<Problem>) -> Settings {
    let mut settings = Settings::default();
    if let (Some(value), Some(key)) = (given.get(DEADLINE), keys::find("deadline")) {
        settings.deadline = match parse_duration(key, &value.text) {
            Ok(time) => Some(time),
            Err(why) => report(problems, value, &why, "write a number and one of s, m, h, such as `5m`"),
        };
    }
    settings.level = word(given, LOG, "log.level", problems).and_then(raw::level);
    settings.format = word(given, LOG_FORMAT, "log.format", problems).and_then(raw::log_format);
    if let Some(value) = given.get(DIRECTORY) {
        settings.directory = match absolute(&value.text) {
            Ok(path) => Some(path),
            Err(why) => report(problems, value, why, "write a path such as `/run/countersign/secrets`"),
        };
    }
    settings.files = list(given, SECRETS, MAX_FILES, "write `path=kbs:///repository/type/tag`", problems, secret);
    settings.gates = list(given, GATE, MAX_GATES, "write `kbs:///repository/type/tag=value`", problems, gate);
    settings
}

fn word(given: &AllGiven, name: &str, key: &str, problems: &mut Vec<Problem>) -> Option<&'static str> {
    let (value, key) = (given.get(name)?, keys::find(key)?);
    match parse_word(key, &value.text) {
        Ok(word) => Some(word),
        Err((why, hint)) => report(problems, value, &why, &hint),
    }
}

/// Reads a list with commas. Blanks and line breaks around an entry are allowed, since YAML folds
/// long values. One wrong entry makes the whole list wrong, and the others are still looked at.
fn list<T>(
    given: &AllGiven,
    name: &str,
    max: usize,
    hint: &str,
    problems: &mut Vec<Problem>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    let value = given.get(name)?;
    if value.text.trim().is_empty() {
        return report(problems, value, "is empty", "remove it, or name at least one entry");
    }
    let (mut items, mut good) = (Vec::new(), true);
    for (index, entry) in value.text.split(',').enumerate() {
        if index == max {
            return report(problems, value, &format!("has more than {max} entries"), "use a configuration file");
        }
        match parse(entry.trim()) {
            Ok(item) => items.push(item),
            Err(why) => {
                let message = format!("entry {} {why}", index.saturating_add(1));
                good = report::<()>(problems, value, &message, hint).is_some();
            }
        }
    }
    good.then_some(items)
}

fn secret(entry: &str) -> Result<SecretFile, String> {
    let (path, from) = entry.split_once('=').ok_or("has no `=`")?;
    Ok(SecretFile {
        path: RelativePath::parse(path).map_err(|why| format!("has a path that {why}"))?,
        from: Source::parse(from).map_err(|why| format!("has a source that {why}"))?,
        resource: None,
        mode: DEFAULT_MODE,
        owner: None,
        group: None,
        expect: Expect::default(),
    })
}

fn gate(entry: &str) -> Result<Gate, String> {
    let (from, equals) = entry.split_once('=').ok_or("has no `=`")?;
    Ok(Gate {
        from: KbsUri::parse(from).map_err(|why| format!("has a resource that {why}"))?,
        equals: exact(equals).map_err(|why| format!("has a value that {why}"))?,
    })
}

fn report<T>(problems: &mut Vec<Problem>, value: &Given, message: &str, hint: &str) -> Option<T> {
    problems.push(value.problem(message).hint(hint));
    None
}
