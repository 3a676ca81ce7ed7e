//! The frame: form, `algorithm`, `version`, `data`, sizes.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Report;
use super::source::Place;
use super::{Asked, rules};
use crate::finding::printable;
use crate::formats::initdata::{Algorithm, Error, Initdata, plain};
use crate::tool::initdata::configmap::server_side;
use crate::tool::initdata::dialect;
use crate::tool::initdata::pack::ANNOTATION;

/// Bytes that all annotations of an object may have together, names included: Kubernetes'
/// `TotalAnnotationSizeLimitB`.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Most bytes of base64 that Azure takes as user data.
const MAX_USER_DATA: usize = 64 * 1024;

/// Room for what else peer pods put into the user data: the daemon's configuration, TLS, the pod's
/// network. A few KiB in practice.
const OTHER_USER_DATA: usize = 4 * 1024;

/// Sections that something in the guest reads.
const KNOWN: [&str; 4] = ["aa.toml", "cdh.toml", "policy.rego", "countersign.toml"];

/// Keys of the frame.
const FRAME: [&str; 3] = ["algorithm", "version", "data"];

/// The sections of a document, each with its place in the file.
pub(super) struct Document<'t> {
    file: Place<'t>,
    sections: BTreeMap<String, (Spanned<DeValue<'t>>, usize)>,
    /// Line of `[data]`, or 1.
    pub(super) data_line: usize,
}

/// From any form to the TOML text.
pub(super) fn unfold(bytes: &[u8], report: &mut Report) -> Option<String> {
    match plain(bytes) {
        // Base64 of the TOML itself, or of a damaged file: no line of TOML is that.
        Ok(text) if text.trim_end().len() >= 16 && STANDARD.decode(text.trim_end()).is_ok() => {
            let next = "write the value again with `kubectl countersign initdata pack`";
            report.next(&rules::FORM, 1, "the initdata is base64, but not of gzip", next);
            None
        }
        Ok(text) => Some(text),
        Err(error) => {
            let next = match error {
                Error::Base64 | Error::Gzip => "write the value again with `kubectl countersign initdata pack`",
                Error::NotText => "write the document in UTF-8",
                _ => "remove what the guest does not need from the document",
            };
            report.next(&rules::FORM, 1, format!("the initdata {error}"), next);
            None
        }
    }
}

impl<'t> Document<'t> {
    /// Reads the frame. `None` when the text is no TOML at all, or holds nothing.
    pub(super) fn read(text: &'t str, report: &mut Report) -> Option<Self> {
        let file = Place::file(text);
        if text.trim().is_empty() {
            report.next(&rules::FORM, 1, "the initdata is empty", "write one with `kubectl countersign initdata new`");
            return None;
        }
        let table = toml(file, &rules::TOML, "", report)?;
        word(&table, file, "version", &["0.1.0"], &rules::VERSION, report);
        word(&table, file, "algorithm", &["sha256", "sha384", "sha512"], &rules::ALGORITHM, report);
        for name in table.keys().filter(|name| !FRAME.contains(&name.get_ref().as_ref())) {
            let shown = printable(name.get_ref(), 60);
            let line = file.line(name.span().start);
            match near(name.get_ref(), &FRAME) {
                Some(meant) => report.next(
                    &rules::TOP_KEY,
                    line,
                    format!("`{shown}` is not `{meant}`"),
                    format!("rename it to `{meant}`"),
                ),
                None => report.at(&rules::TOP_KEY, line, format!("`{shown}` stands beside `data`, not in it")),
            }
        }
        let mut document = Self { file, sections: BTreeMap::new(), data_line: 1 };
        for (key, value) in table {
            if key.get_ref() != "data" {
                continue;
            }
            document.data_line = file.line(key.span().start);
            match value.into_inner() {
                DeValue::Table(sections) => document.sections(sections, report),
                _ => report.at(&rules::DATA, document.data_line, "`data` is not a table"),
            }
            return Some(document);
        }
        report.at(&rules::DATA, 1, "`[data]` is missing");
        Some(document)
    }

    fn sections(&mut self, sections: DeTable<'t>, report: &mut Report) {
        for (key, value) in sections {
            let line = self.file.line(key.span().start);
            let name = key.into_inner().into_owned();
            let shown = printable(&name, 60);
            if !KNOWN.contains(&name.as_str())
                && let Some(meant) = near(&name, &KNOWN)
            {
                report.next(
                    &rules::SECTION_NAME,
                    line,
                    format!("`{shown}` is not `{meant}`"),
                    format!("rename the section to `{meant}`"),
                );
            }
            if matches!(value.get_ref(), DeValue::String(_)) {
                self.sections.insert(name, (value, line));
            } else {
                report.next(
                    &rules::DATA,
                    line,
                    format!("`{shown}` is not a text"),
                    format!("write it as `\"{shown}\" = '''…'''`: a name with a dot needs quotes"),
                );
            }
        }
    }

    /// A section: its text with its places, and the line of its name.
    pub(super) fn section(&self, name: &str) -> Option<(Place<'_>, usize)> {
        let (value, line) = self.sections.get(name)?;
        let DeValue::String(text) = value.get_ref() else { return None };
        Some((self.file.inner(&value.span(), text), *line))
    }
}

/// Parses TOML; each of its errors is a problem of `rule`. `None` when there is one: what follows
/// from a broken text misleads. What is TOML to us and not to the guest is a problem too.
pub(super) fn toml<'t>(
    place: Place<'t>,
    rule: &'static rules::Rule,
    prefix: &str,
    report: &mut Report,
) -> Option<DeTable<'t>> {
    let (table, errors) = DeTable::parse_recoverable(place.text);
    for error in &errors {
        let line = error.span().map(|span| place.line(span.start));
        report.at(rule, line, format!("{prefix}not TOML: {}", printable(error.message(), 160)));
    }
    if !errors.is_empty() {
        return None;
    }
    for (offset, newer) in dialect::newer(place.text) {
        report.next(rule, place.line(offset), format!("{prefix}there is {}", newer.what), newer.next);
    }
    Some(table.into_inner())
}

/// A key of the frame that must be one of a few words.
fn word(
    table: &DeTable<'_>,
    file: Place<'_>,
    key: &str,
    good: &[&str],
    rule: &'static rules::Rule,
    report: &mut Report,
) {
    let Some(value) = table.get(key) else {
        report.at(rule, 1, format!("`{key}` is missing"));
        return;
    };
    let line = file.line(value.span().start);
    match value.get_ref() {
        DeValue::String(text) if good.contains(&text.as_ref()) => {}
        DeValue::String(text) => {
            let plain = text.to_ascii_lowercase().replace(['-', '_', ' '], "");
            match good.iter().find(|word| **word == plain) {
                Some(meant) => report.next(
                    rule,
                    line,
                    format!("`{key}` is not spelled `{meant}`, as Kata and Trustee spell it"),
                    format!("write `{key} = \"{meant}\"`"),
                ),
                None => report.at(rule, line, format!("`{key}` is none of {}", good.join(", "))),
            }
        }
        _ => report.at(rule, line, format!("`{key}` is not a text")),
    }
}

/// The known name that a name was probably meant to be.
fn near(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let best = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&name.to_ascii_lowercase(), known), *known))
        .min_by_key(|(distance, _)| *distance)?;
    (best.0 <= 2).then_some(best.1)
}

/// Whether the packed value fits where it travels.
pub(super) fn sizes(packed: usize, asked: &Asked, initdata: &Initdata, report: &mut Report) {
    let said = |limit: usize| format!("the packed value has {packed} bytes, of {limit} at most");
    let room = MAX_ANNOTATIONS.saturating_sub(ANNOTATION.len());
    if packed > room {
        report.at(&rules::ANNOTATION_SIZE, 1, said(room));
    } else if packed > room / 2 {
        report.at(&rules::ANNOTATION_HALF, 1, said(room));
    }
    if server_side(initdata.toml(), packed) {
        report.at(
            &rules::CONFIGMAP_SIZE,
            1,
            "the document and its packed form are too long for a plain `kubectl apply`",
        );
    }
    if asked.peer_pods {
        // Base64 makes four of three.
        let room = (MAX_USER_DATA / 4).saturating_mul(3).saturating_sub(OTHER_USER_DATA);
        if packed > room {
            report.at(&rules::PEER_POD_SIZE, 1, said(room));
        }
        if initdata.algorithm() != Algorithm::Sha256 {
            report.at(&rules::PEER_POD_ALGORITHM, 1, format!("`algorithm` is {}", initdata.algorithm().label()));
        }
    }
}
