//! A verdict, and how it is told: text for people, JSON for scripts, an exit code for both.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

use crate::appraise::check::{Check, State};
use crate::appraise::expect::Word;
use crate::evidence::twin::{self, Field};
use crate::finding::{Class, Finding};

/// What was found out about what was shown.
pub(super) struct Verdict {
    /// Stable: `snp`, `tdx`, `token`, `certificate`, `sidecar`, `receipt`.
    pub(super) kind: &'static str,
    /// In words: `an SEV-SNP report, version 3, Genoa`.
    pub(super) what: String,
    pub(super) word: Word,
    /// What stands in the way of a better verdict. None with [`Word::Appraised`].
    pub(super) finding: Option<Finding>,
    pub(super) checks: Vec<Check>,
    pub(super) fields: Vec<Field>,
}

/// By what it was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Basis {
    /// The time, as text of RFC 3339.
    pub(super) at: String,
    /// Whether somebody gave it.
    pub(super) at_given: bool,
    /// Whether somebody's roots stand in place of the makers'.
    pub(super) roots_given: bool,
}

/// The class of a verdict; none for the one good one.
pub(super) fn class(word: Word) -> Option<Class> {
    match word {
        Word::Appraised => None,
        Word::NotAppraised => Some(Class::NotAppraised),
        Word::Unexpected => Some(Class::Unexpected),
        Word::NotGenuine => Some(Class::EvidenceRejected),
    }
}

impl Verdict {
    /// 0 for [`Word::Appraised`] alone.
    pub(super) fn code(&self) -> u8 {
        class(self.word).map_or(0, Class::code)
    }

    /// One JSON document; docs/verify.md says what stands in it.
    pub(super) fn json(&self, basis: &Basis) -> String {
        let finding = self.finding.as_ref().map(|finding| {
            json!({
                "class": finding.class.label(),
                "saw": finding.saw,
                "why": finding.why,
                "next": finding.next,
                "who": finding.who,
            })
        });
        let document = json!({
            "verdict": self.word,
            "exit": self.code(),
            "kind": self.kind,
            "what": self.what,
            "basis": basis,
            "checks": self.checks,
            "fields": self.fields,
            "finding": finding,
        });
        format!("{document:#}\n")
    }

    /// For people, at 100 columns.
    pub(super) fn text(&self, basis: &Basis) -> String {
        let mut out = format!("verdict: {} (exit {})\n", self.word.label(), self.code());
        let _ = writeln!(out, "what:    {}", self.what);
        let given = if basis.at_given { ", given with --at" } else { "" };
        let _ = writeln!(out, "time:    {}{given}", basis.at);
        if basis.roots_given {
            out.push_str("roots:   those given with --roots, in place of the makers' own\n");
        }
        out.push_str("checks:\n");
        let width = self.checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
        for check in &self.checks {
            let state = match check.state {
                State::Held => "held",
                State::NotChecked => "not checked",
                State::Failed => "FAILED",
            };
            let _ = writeln!(out, "  {state:<11}  {:<width$}  {}", check.id, check.said);
        }
        if !self.fields.is_empty() {
            out.push_str("fields:\n");
            out.push_str(&twin::table(&self.fields));
        }
        if let Some(finding) = &self.finding {
            let _ = writeln!(
                out,
                "saw:  {}\nwhy:  {}\nnext: {}\nwho:  {}",
                finding.saw,
                finding.why,
                finding.next,
                finding.who.label()
            );
        }
        out
    }
}
