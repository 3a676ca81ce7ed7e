//! What is wrong with a configuration, at which place, and what to write instead.
//!
//! A problem never quotes a value: values can be sealed secrets, or text that the control plane
//! chose. It names the place, the key and what was expected there.

use std::fmt;

use crate::finding::{Class, Finding, Who, printable};

/// Most problems that are collected. A file with more is not a typing mistake, and a hostile one
/// must not decide how much we print.
pub const MAX_PROBLEMS: usize = 100;

/// Longest name of a file or key in a message, characters. The longest key of our own has 40.
const MAX_NAME: usize = 120;

/// Where a value stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file, by the name it should be known under.
    File {
        /// As the user knows it: a path, or `initdata:countersign.toml`.
        name: String,
    },
    /// A resource of the KBS.
    Resource {
        /// `kbs:///default/countersign/<namespace>.<workload>`.
        uri: String,
    },
    /// The environment. The key is the variable.
    Env,
    /// The command line. The key is the flag.
    Arg,
}

impl Origin {
    /// A file.
    pub fn file(name: impl Into<String>) -> Self {
        Self::File { name: name.into() }
    }

    /// Whether text stood there, with lines to name.
    pub fn is_document(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Resource { .. })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name } => f.write_str(&printable(name, MAX_NAME)),
            Self::Resource { uri } => f.write_str(&printable(uri, MAX_NAME)),
            Self::Env => f.write_str("environment"),
            Self::Arg => f.write_str("arguments"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the text stood.
    pub origin: Origin,
    /// Line, from 1. `None` where a key is missing, or the text has no lines.
    pub line: Option<u32>,
    /// Column in characters, from 1.
    pub column: Option<u32>,
    /// `secrets.file[0].mode`, or the name of the variable or flag. Empty where the text is no TOML.
    pub key: String,
    /// What is wrong. Never a value.
    pub message: String,
    /// What to write instead. Starts with a verb.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a line.
    pub fn new(origin: Origin, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { origin, line: None, column: None, key: key.into(), message: message.into(), hint: None }
    }

    /// Adds what to write instead. Starts with a verb.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the place in the text.
    #[must_use]
    pub fn at(mut self, mark: Option<Mark>) -> Self {
        self.line = mark.map(|mark| mark.line);
        self.column = mark.map(|mark| mark.column);
        self
    }

    /// `countersign.toml:12`, `COUNTERSIGN_LOG`, `--log`.
    fn place(&self) -> String {
        match (&self.origin, self.line) {
            (Origin::Env | Origin::Arg, _) => printable(&self.key, MAX_NAME),
            (origin, Some(line)) => format!("{origin}:{line}"),
            (origin, None) => origin.to_string(),
        }
    }

    /// The step that a person takes, verb first.
    fn next(&self) -> String {
        let hint = self.hint.as_deref().unwrap_or(&self.message);
        match (&self.origin, self.line) {
            (Origin::Env, _) => format!("correct the variable `{}`: {hint}", printable(&self.key, MAX_NAME)),
            (Origin::Arg, _) => format!("correct the argument `{}`: {hint}", printable(&self.key, MAX_NAME)),
            (origin, Some(line)) => format!("correct line {line} of `{origin}`: {hint}"),
            (origin, None) => format!("correct `{}` in `{origin}`: {hint}", printable(&self.key, MAX_NAME)),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place())?;
        if self.origin.is_document() && !self.key.is_empty() {
            write!(f, "{}: ", printable(&self.key, MAX_NAME))?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

/// All problems as one finding of class `configuration` (exit 78): the first in full, the others
/// as a number. `problems` should not be empty; if it is, the finding says so and still refuses.
pub fn finding(problems: &[Problem]) -> Finding {
    let Some(first) = problems.first() else {
        return Finding::new(Class::Config, "the configuration was refused without a named problem");
    };
    let more = match problems.len().saturating_sub(1) {
        0 => String::new(),
        1 => " (and 1 more problem)".to_owned(),
        more => format!(" (and {more} more problems)"),
    };
    let who = if first.origin.is_document() { Who::AppSecurity } else { Who::AppDeveloper };
    Finding::new(Class::Config, format!("{first}{more}"))
        .why("A configuration is taken whole or not at all: a part that is not understood may be the part that protects.")
        .next(first.next())
        .who(who)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem::new(Origin::file("countersign.toml"), "secrets.file[0].mode", "must be octal")
            .at(Some(Mark { line: 12, column: 9 }))
            .hint("write `mode = \"0440\"`")
    }

    #[test]
    fn a_problem_names_file_line_key_and_remedy() {
        assert_eq!(
            problem().to_string(),
            "countersign.toml:12: secrets.file[0].mode: must be octal; write `mode = \"0440\"`"
        );
    }

    #[test]
    fn a_problem_of_the_environment_names_the_variable_once() {
        let problem = Problem::new(Origin::Env, "COUNTERSIGN_LOG", "must be one of error, warn");
        assert_eq!(problem.to_string(), "COUNTERSIGN_LOG: must be one of error, warn");
        assert!(finding(&[problem]).next.starts_with("correct the variable `COUNTERSIGN_LOG`: "));
    }

    #[test]
    fn the_finding_tells_the_first_and_counts_the_rest() {
        let finding = finding(&[problem(), problem(), problem()]);
        assert_eq!(finding.class.code(), 78);
        assert!(finding.saw.ends_with("(and 2 more problems)"), "{}", finding.saw);
        assert_eq!(finding.next, "correct line 12 of `countersign.toml`: write `mode = \"0440\"`");
    }

    #[test]
    fn no_problem_at_all_is_still_a_refusal() {
        assert_eq!(finding(&[]).class, Class::Config);
    }

    #[test]
    fn a_hostile_key_stays_on_its_line() {
        let problem = Problem::new(Origin::file("a\nb"), "x\u{1b}[2J\ny", "unknown key");
        assert!(!problem.to_string().contains(['\n', '\u{1b}']));
        assert!(!finding(&[problem]).next.contains(['\n', '\u{1b}']));
    }
}
