//! From TOML text to typed values, with the place of each and all errors at once.
//!
//! `serde` would stop at the first error and forget where values stood. This walks the tree that
//! `toml` parsed. A [`Section`] is one table: values are taken out of it by name, and what is left
//! at the end is an unknown key. Bounds, words and what is required come from [`super::keys`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::grammar::{duration, show_duration};
use super::keys::{self, Key, Kind};
use super::problem::{MAX_PROBLEMS, Mark, Origin, Problem};
use crate::finding::printable;

/// Longest configuration, bytes. A Kubernetes `ConfigMap` holds 1 MiB, initdata far less; 256 files
/// with a CA need about 64 KiB.
pub const MAX_DOCUMENT: usize = 256 * 1024;

/// Longest piece of a line in which characters are counted, bytes; beyond it, columns are bytes.
const MAX_COUNTED: usize = 1024;

/// Most edits between an unknown name and the one that is suggested for it.
const NEAR: usize = 2;

/// Where the values of a document stood, and what was wrong with it.
#[derive(Debug)]
pub(crate) struct Decoder {
    origin: Origin,
    /// Byte offset of the start of each line.
    lines: Vec<usize>,
    text: String,
    /// Every key that was read, by its full path (`secrets.file[0].mode`).
    pub(crate) marks: BTreeMap<String, Mark>,
    /// Every key that was asked for, by its path in [`keys::KEYS`].
    pub(crate) asked: BTreeSet<String>,
    pub(crate) problems: Vec<Problem>,
}

/// One table of the document.
#[derive(Debug)]
pub(crate) struct Section<'t> {
    /// `secrets.file[0]`; empty at the top.
    path: String,
    /// `secrets.file[]`.
    pattern: String,
    mark: Option<Mark>,
    entries: BTreeMap<String, (Mark, Spanned<DeValue<'t>>)>,
    known: Vec<&'static str>,
}

impl Decoder {
    /// A decoder for a text that came from `origin`.
    pub(crate) fn new(text: &str, origin: Origin) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at.saturating_add(1));
        Self {
            origin,
            lines: std::iter::once(0).chain(starts).collect(),
            text: text.to_owned(),
            marks: BTreeMap::new(),
            asked: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    /// Parses the text. `None`: it is too long, or not TOML; then every error of its syntax is a
    /// problem, and nothing is said of its keys, since a broken text has misleading ones.
    pub(crate) fn top<'t>(&mut self, text: &'t str) -> Option<Section<'t>> {
        if text.len() > MAX_DOCUMENT {
            let problem = Problem::new(self.origin.clone(), "", "is longer than 256 KiB");
            self.report(problem.hint("write a shorter file: values belong into the KBS, not here"));
            return None;
        }
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let mark = error.span().map(|span| self.mark(&span));
            let message = format!("not TOML: {}", printable(error.message(), 160));
            self.report(Problem::new(self.origin.clone(), "", message).at(mark));
        }
        errors.is_empty().then(|| self.section(String::new(), String::new(), None, table.into_inner()))
    }

    /// Adds a problem at a key that was read (or, where it is absent, at the document).
    pub(crate) fn problem(&mut self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        // Of a key that is not there, the table's place.
        let table = || key.rsplit_once('.').and_then(|(table, _)| self.marks.get(table));
        let mark = self.marks.get(key).or_else(table).copied();
        let problem = Problem::new(self.origin.clone(), key, message).at(mark);
        self.report(problem.hint(hint));
    }

    fn report(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    fn section<'t>(&mut self, path: String, pattern: String, mark: Option<Mark>, table: DeTable<'t>) -> Section<'t> {
        let entries = table
            .into_iter()
            .map(|(name, value)| {
                let mark = self.mark(&name.span());
                (name.into_inner().into_owned(), (mark, value))
            })
            .collect();
        Section { path, pattern, mark, entries, known: Vec::new() }
    }

    /// Line and column of the start of a byte range.
    fn mark(&self, span: &Range<usize>) -> Mark {
        let line = self.lines.partition_point(|start| *start <= span.start);
        let start = line.checked_sub(1).and_then(|index| self.lines.get(index)).copied().unwrap_or(0);
        // Counting characters for each key of one endless line would take quadratic time.
        let column = match self.text.get(start..span.start) {
            Some(before) if before.len() <= MAX_COUNTED => before.chars().count(),
            _ => span.start.saturating_sub(start),
        };
        Mark {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1),
        }
    }
}

impl<'t> Section<'t> {
    /// The full path of this table.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The full path of a key of this table.
    pub(crate) fn full(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// A whole number.
    pub(crate) fn integer(&mut self, d: &mut Decoder, name: &'static str) -> Option<u64> {
        let (key, mark, value) = self.take(d, name)?;
        let Kind::Integer { min, max } = key.kind else { return self.misfit(d, key) };
        let DeValue::Integer(number) = &value else { return self.wrong_type(d, key, mark, &value) };
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if (min..=max).contains(&number) => Some(number),
            _ if min == max => self.wrong(d, key, mark, &format!("must be {min}"), &format!("write `{name} = {min}`")),
            _ => {
                let range = format!("must be from {min} to {max}");
                self.wrong(d, key, mark, &range, "write a number in that range")
            }
        }
    }

    /// A flag.
    pub(crate) fn flag(&mut self, d: &mut Decoder, name: &'static str) -> Option<bool> {
        let (key, mark, value) = self.take(d, name)?;
        match value {
            DeValue::Boolean(flag) => Some(flag),
            other => self.wrong_type(d, key, mark, &other),
        }
    }

    /// A span of time.
    pub(crate) fn duration(&mut self, d: &mut Decoder, name: &'static str) -> Option<Duration> {
        let (key, mark, value) = self.take(d, name)?;
        let Some(text) = value.as_str() else { return self.wrong_type(d, key, mark, &value) };
        match parse_duration(key, text) {
            Ok(time) => Some(time),
            Err(why) => self.wrong(d, key, mark, &why, "write a number and one of s, m, h, such as `\"5m\"`"),
        }
    }

    /// One of the words of the key.
    pub(crate) fn word(&mut self, d: &mut Decoder, name: &'static str) -> Option<&'static str> {
        let (key, mark, value) = self.take(d, name)?;
        let Some(text) = value.as_str() else { return self.wrong_type(d, key, mark, &value) };
        match parse_word(key, text) {
            Ok(word) => Some(word),
            Err((why, hint)) => self.wrong(d, key, mark, &why, &hint),
        }
    }

    /// A list of words of the key, each once, with the place of each.
    pub(crate) fn words(&mut self, d: &mut Decoder, name: &'static str) -> Option<Vec<&'static str>> {
        let (key, mark, value) = self.take(d, name)?;
        let texts = self.list(d, key, mark, value)?;
        let mut words = Vec::new();
        for (mark, text) in texts {
            match parse_word(key, &text) {
                Ok(word) if words.contains(&word) => {
                    self.wrong::<()>(d, key, mark, "names one word twice", "remove the second");
                }
                Ok(word) => words.push(word),
                Err((why, hint)) => {
                    self.wrong::<()>(d, key, mark, &why, &hint);
                }
            }
        }
        if words.is_empty() {
            return self.wrong(d, key, mark, "is empty", "name at least one, or remove the key");
        }
        Some(words)
    }

    /// A text that `parse` understands. Its error says what is wrong, to follow the key's name.
    pub(crate) fn text<T, E: fmt::Display>(
        &mut self,
        d: &mut Decoder,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let (key, mark, value) = self.take(d, name)?;
        let Some(text) = value.as_str() else { return self.wrong_type(d, key, mark, &value) };
        match parse(text) {
            Ok(parsed) => Some(parsed),
            Err(why) => self.wrong(d, key, mark, &why.to_string(), &expected(key)),
        }
    }

    /// A list of texts that `parse` understands. Those that it does not are problems; the others
    /// are given.
    pub(crate) fn texts<T: PartialEq, E: fmt::Display>(
        &mut self,
        d: &mut Decoder,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let (key, mark, value) = self.take(d, name)?;
        let Kind::Texts { min, max, .. } = key.kind else { return self.misfit(d, key) };
        let texts = self.list(d, key, mark, value)?;
        if !(min..=max).contains(&texts.len()) {
            let why = format!("must have from {min} to {max} entries");
            let hint = if texts.is_empty() { "add an entry" } else { "remove entries" };
            self.wrong::<()>(d, key, mark, &why, hint);
        }
        let mut parsed = Vec::new();
        for (mark, text) in texts.into_iter().take(max) {
            match parse(&text) {
                Ok(one) if parsed.contains(&one) => {
                    self.wrong::<()>(d, key, mark, "names one entry twice", "remove the second");
                }
                Ok(one) => parsed.push(one),
                Err(why) => {
                    self.wrong::<()>(d, key, mark, &why.to_string(), &expected(key));
                }
            }
        }
        Some(parsed)
    }

    /// A table below this one.
    pub(crate) fn table(&mut self, d: &mut Decoder, name: &'static str) -> Option<Section<'t>> {
        let (key, mark, value) = self.take(d, name)?;
        match value {
            DeValue::Table(table) => Some(d.section(self.full(name), join(&self.pattern, name), Some(mark), table)),
            other => self.wrong_type(d, key, mark, &other),
        }
    }

    /// An array of tables below this one.
    pub(crate) fn tables(&mut self, d: &mut Decoder, name: &'static str) -> Vec<Section<'t>> {
        let Some((key, mark, value)) = self.take(d, name) else { return Vec::new() };
        let Kind::Tables { max } = key.kind else {
            return self.misfit::<()>(d, key).map_or(Vec::new(), |()| Vec::new());
        };
        let DeValue::Array(array) = value else {
            self.wrong_type::<()>(d, key, mark, &value);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, element) in array.into_iter().enumerate() {
            let here = d.mark(&element.span());
            if index == max {
                let why = format!("has more than {max} entries");
                self.wrong::<()>(d, key, here, &why, "split the configuration over more pods");
                break;
            }
            let path = format!("{}[{index}]", self.full(name));
            d.marks.insert(path.clone(), here);
            match element.into_inner() {
                DeValue::Table(table) => {
                    let pattern = format!("{}[]", join(&self.pattern, name));
                    tables.push(d.section(path, pattern, Some(here), table));
                }
                other => {
                    self.wrong_type::<()>(d, key, here, &other);
                }
            }
        }
        tables
    }

    /// Reports every key that was not asked for, with the nearest one that could have been meant.
    pub(crate) fn finish(self, d: &mut Decoder) {
        for (name, (mark, _)) in self.entries.iter().take(MAX_PROBLEMS) {
            let full = join(&self.path, &printable(name, 64));
            let problem = Problem::new(d.origin.clone(), full, "unknown key").at(Some(*mark));
            let hint = match nearest(name, self.known.iter().copied()) {
                Some(known) => format!("write `{known}` if that was meant"),
                None => format!("remove it; known here: {}", self.known.join(", ")),
            };
            d.report(problem.hint(hint));
        }
    }

    /// Takes a value out, notes its place, and reports it missing where it is required.
    fn take(&mut self, d: &mut Decoder, name: &'static str) -> Option<(&'static Key, Mark, DeValue<'t>)> {
        let pattern = join(&self.pattern, name);
        let Some(key) = keys::find(&pattern) else {
            // Cannot be: a test compares what is asked for with the table of keys.
            d.report(Problem::new(
                d.origin.clone(),
                pattern,
                "is read, but not in the table of keys: a fault of countersign",
            ));
            return None;
        };
        self.known.push(name);
        d.asked.insert(key.path.to_owned());
        let Some((mark, value)) = self.entries.remove(name) else {
            if key.required {
                let problem = Problem::new(d.origin.clone(), self.full(name), "is missing").at(self.mark);
                d.report(problem.hint(format!("add `{name}`: {}", key.meaning.trim_end_matches('.'))));
            }
            return None;
        };
        d.marks.insert(self.full(name), mark);
        Some((key, mark, value.into_inner()))
    }

    fn list(&self, d: &mut Decoder, key: &'static Key, mark: Mark, value: DeValue<'t>) -> Option<Vec<(Mark, String)>> {
        let DeValue::Array(array) = value else { return self.wrong_type(d, key, mark, &value) };
        let mut texts = Vec::new();
        for element in array {
            let here = d.mark(&element.span());
            match element.into_inner() {
                DeValue::String(text) => texts.push((here, text.into_owned())),
                other => {
                    self.wrong_type::<()>(d, key, here, &other);
                }
            }
        }
        Some(texts)
    }

    fn wrong_type<T>(&self, d: &mut Decoder, key: &Key, mark: Mark, value: &DeValue<'_>) -> Option<T> {
        let wanted = key.kind.in_words();
        self.wrong(d, key, mark, &format!("must be {wanted}, and is of type {}", value.type_str()), &expected(key))
    }

    fn wrong<T>(&self, d: &mut Decoder, key: &Key, mark: Mark, message: &str, hint: &str) -> Option<T> {
        let problem = Problem::new(d.origin.clone(), self.full(key.name()), message).at(Some(mark));
        d.report(problem.hint(hint));
        None
    }

    /// A getter was used for a key of another kind: a fault of ours, and still a refusal.
    fn misfit<T>(&self, d: &mut Decoder, key: &Key) -> Option<T> {
        let full = self.full(key.name());
        d.report(Problem::new(d.origin.clone(), full, "is read as another type: a fault of countersign"));
        None
    }
}

impl Kind {
    /// With its article, as it stands in messages and in the documentation.
    pub fn in_words(&self) -> String {
        match self {
            Self::Integer { min, max } if min == max => format!("the number {min}"),
            Self::Integer { min, max } => format!("a number from {min} to {max}"),
            Self::Bool => "true or false".to_owned(),
            Self::Duration { min, max } => {
                let show = |seconds: &u64| show_duration(Duration::from_secs(*seconds));
                format!("a duration from {} to {}", show(min), show(max))
            }
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Words(words) => format!("a list of {}", words.join(", ")),
            Self::Text(grammar) => format!("a string ({})", grammar.name),
            Self::Texts { of, max, .. } => format!("a list of at most {max} strings ({})", of.name),
            Self::Table => "a table".to_owned(),
            Self::Tables { max } => format!("an array of at most {max} tables"),
        }
    }
}

/// Reads a duration within the bounds of its key.
pub(crate) fn parse_duration(key: &Key, text: &str) -> Result<Duration, String> {
    let wrong = || format!("must be {}", key.kind.in_words());
    let Kind::Duration { min, max } = key.kind else { return Err(wrong()) };
    let time = duration(text).ok_or_else(wrong)?;
    if (min..=max).contains(&time.as_secs()) { Ok(time) } else { Err(wrong()) }
}

/// Reads one of the words of a key. The error is a message and a hint.
pub(crate) fn parse_word(key: &Key, text: &str) -> Result<&'static str, (String, String)> {
    let (Kind::Word(words) | Kind::Words(words)) = key.kind else {
        return Err((format!("must be {}", key.kind.in_words()), expected(key)));
    };
    words.iter().copied().find(|word| *word == text).ok_or_else(|| {
        let hint = match nearest(text, words.iter().copied()) {
            Some(word) => format!("write `{word}` if that was meant"),
            None => "choose one of these".to_owned(),
        };
        (format!("must be one of {}", words.join(", ")), hint)
    })
}

/// The name that was probably meant: at most [`NEAR`] edits away, and less than half of it.
pub(crate) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // The distance of long names costs their product; none of ours is longer.
    if name.len() > 64 {
        return None;
    }
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= NEAR && distance.saturating_mul(2) < known.len())
        .min()
        .map(|(_, known)| known)
}

fn expected(key: &Key) -> String {
    match &key.kind {
        Kind::Text(grammar) => format!("write {}, such as \"{}\"", grammar.name, grammar.example),
        Kind::Texts { of, .. } => format!("write {}, such as [\"{}\"]", of.name, of.example),
        kind => format!("write {}", kind.in_words()),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
