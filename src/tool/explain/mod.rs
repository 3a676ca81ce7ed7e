//! `kubectl countersign explain`: what pods, events and logs say, by cause and next step. Offline, and
//! for what dies before our own program starts.
//!
//! A wrong guess costs an hour of somebody's night. So only whole phrases of known programs count,
//! what is ambiguous needs a second sign, and "I do not know this one" is an answer with its own code.

mod input;
mod own;
mod phrases;
mod table;
#[cfg(test)]
mod tests;
mod whose;

use std::fmt::Write as _;
use std::io::Read as _;

use serde::Serialize;
use serde_json::json;

use super::Output;
use crate::cli;
use crate::finding::{Class, Finding, Who, printable};
use input::Input;

/// Most bytes that are read, 16 MiB: a day of a talkative guest's log. A bound of ours.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Most characters of a line that are repeated.
const MAX_QUOTE: usize = 160;

/// One cause that the input names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Cause {
    /// Stable, for scripts.
    id: String,
    /// Where it stands in the order of what must work first: what is broken earlier is told earlier.
    #[serde(skip)]
    order: u16,
    /// Which line or field said so.
    place: String,
    /// The line, made printable and shortened.
    saw: String,
    /// What it means.
    why: String,
    /// The next step. Starts with a verb.
    next: String,
    /// Who takes it.
    who: Who,
}

/// Runs `explain`.
pub(super) fn run(arguments: &cli::Explain) -> Result<Output, Finding> {
    let text = read(arguments)?;
    let causes = causes(&text);
    if causes.is_empty() && !arguments.json {
        return Err(unknown());
    }
    let code = if causes.is_empty() { Class::Unknown.code() } else { 0 };
    let out = if arguments.json { as_json(&causes, code) } else { as_text(&causes) };
    Ok(Output { out: out.into_bytes(), err: Vec::new(), code })
}

/// Every cause that the text names, each once, first what has to be put right first.
fn causes(text: &str) -> Vec<Cause> {
    let input = Input::read(text);
    let mut found = own::causes(&input);
    found.extend(table::causes(&input));
    found.sort_by(|a, b| (a.order, &a.id).cmp(&(b.order, &b.id)));
    found.dedup_by(|a, b| a.id == b.id);
    found
}

fn read(arguments: &cli::Explain) -> Result<String, Finding> {
    let name = arguments.file.display().to_string();
    let source: Box<dyn std::io::Read> = if arguments.file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(&arguments.file).map_err(|error| {
            Finding::new(Class::Usage, format!("{} cannot be opened: {}", printable(&name, 200), error.kind()))
                .why("what cannot be read cannot be explained")
                .next(format!("check the path {}", printable(&name, 200)))
        })?;
        Box::new(file)
    };
    let mut bytes = Vec::new();
    // What is beyond the cap is not looked at: the first cause stands near the start of a failure.
    source.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|error| {
        Finding::new(Class::Usage, format!("{} cannot be read: {}", printable(&name, 200), error.kind()))
            .why("what cannot be read cannot be explained")
            .next("pipe the output of `kubectl describe pod` into `kubectl countersign explain`")
    })?;
    // Logs hold anything; what is no UTF-8 in them is no phrase of ours.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unknown() -> Finding {
    Finding::new(Class::Unknown, "I do not know this one: nothing in the input is a message that this build knows")
        .why("a guess would cost more than this answer")
        .next(
            "run `countersign diagnose` in the guest, or give `kubectl countersign explain` more: \
             `kubectl describe pod`, the pod's events (`kubectl get events -o yaml` names the container of each), the \
             logs of every container, the runtime's log of the node",
        )
}

fn as_text(causes: &[Cause]) -> String {
    let mut out = String::new();
    for (index, cause) in causes.iter().enumerate() {
        let _ = writeln!(out, "{}. {}", index.saturating_add(1), cause.id);
        let _ = writeln!(out, "  saw:  {} ({})", cause.saw, cause.place);
        let _ = writeln!(out, "  why:  {}\n  next: {}\n  who:  {}", cause.why, cause.next, cause.who.label());
    }
    let first = causes.first().map_or("", |cause| cause.who.label());
    let _ = writeln!(out, "first to act: {first}");
    out
}

fn as_json(causes: &[Cause], code: u8) -> String {
    let document = json!({ "known": !causes.is_empty(), "exit": code, "causes": causes });
    format!("{document:#}\n")
}

/// A line as it may be repeated on a terminal.
fn quoted(text: &str) -> String {
    printable(text.trim(), MAX_QUOTE)
}
