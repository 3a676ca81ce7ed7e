//! What our own programs say: exit codes, probe statuses, termination messages, refusals in the log.

use serde::Deserialize;
use serde_json::Value;

use super::input::{Input, Line};
use super::{Cause, quoted};
use crate::finding::{Row, TABLE, Who, printable};

/// Statuses that HTTP gives a meaning (RFC 9110, 5xx up to 511): an app's own answer may be one.
const TAKEN_BY_HTTP: u16 = 511;

/// The last class that a probe can have: later ones are answers of tools.
const LAST_IN_PROBES: u8 = 84;

/// What kubelet writes before the status of a failed probe.
const PROBE: &str = "probe failed: HTTP probe failed with statuscode: ";

/// Where our causes stand: after what keeps our program from starting at all.
const ORDER: u16 = 500;

/// A line of the termination message.
#[derive(Deserialize)]
struct Message {
    v: u8,
    code: u8,
    class: String,
    #[serde(default)]
    saw: String,
    #[serde(default)]
    why: Option<String>,
    #[serde(default)]
    next: Option<String>,
    #[serde(default)]
    who: Option<String>,
}

pub(super) fn causes(input: &Input) -> Vec<Cause> {
    let mut found: Vec<Cause> = Vec::new();
    // The most exact source first: what it names is not named again.
    let exact = input.lines.iter().filter_map(message).chain(refusals(&input.lines));
    for cause in exact {
        push(&mut found, cause);
    }
    for cause in input.objects.iter().flat_map(statuses).chain(described(&input.lines)) {
        push(&mut found, cause);
    }
    for cause in input.lines.iter().filter_map(|line| probe(line, input)) {
        push(&mut found, cause);
    }
    found
}

fn push(found: &mut Vec<Cause>, cause: Cause) {
    if found.iter().all(|known| known.id != cause.id) {
        found.push(cause);
    }
}

fn by_code(code: u8) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.code == code)
}

fn cause(row: &Row, place: &str, saw: String) -> Cause {
    Cause {
        id: row.label.to_owned(),
        order: ORDER.saturating_add(u16::from(row.code)),
        place: place.to_owned(),
        saw,
        why: row.meaning.to_owned(),
        next: row.hint.to_owned(),
        who: row.who,
    }
}

/// `{"v":1,"role":…,"code":77,"class":"policy-denied",…}`, alone or at the end of a line.
fn message(line: &Line) -> Option<Cause> {
    let start = line.text.find("{\"v\":1,")?;
    let text = line.text.get(start..)?;
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Message>();
    let message = values.next()?.ok()?;
    let row = by_code(message.code).filter(|row| row.label == message.class && message.v == 1)?;
    let mut told = cause(row, &line.place, quoted(&message.saw));
    if let Some(why) = message.why.filter(|why| !why.is_empty()) {
        told.why = printable(&why, 600);
    }
    if let Some(next) = message.next.filter(|next| !next.is_empty()) {
        told.next = printable(&next, 600);
    }
    if let Some(who) = message.who.as_deref().and_then(who) {
        told.who = who;
    }
    Some(told)
}

fn who(word: &str) -> Option<Who> {
    [Who::AppDeveloper, Who::AppSecurity, Who::Platform, Who::KbsOperator, Who::Countersign]
        .into_iter()
        .find(|who| serde_json::to_value(who).is_ok_and(|value| value == word))
}

/// `refused: policy-denied (exit 77)` and the four lines below it, as our programs print a finding.
fn refusals(lines: &[Line]) -> Vec<Cause> {
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((_, rest)) = line.text.split_once("refused: ") else { continue };
        let Some((label, rest)) = rest.split_once(" (exit ") else { continue };
        let Some((code, after)) = rest.split_once(')') else { continue };
        let row = code.parse().ok().and_then(by_code).filter(|row| row.label == label && after.trim().is_empty());
        let Some(row) = row else { continue };
        let mut told = cause(row, &line.place, quoted(&line.text));
        for below in lines.iter().skip(index.saturating_add(1)).take(4) {
            // A prefix that a log collector puts before each line stays before the word.
            for (word, slot) in [("  saw:  ", 0), ("  why:  ", 1), ("  next: ", 2)] {
                if let Some((_, text)) = below.text.split_once(word) {
                    let text = printable(text.trim(), 600);
                    match slot {
                        0 => told.saw = text,
                        1 => told.why = text,
                        _ => told.next = text,
                    }
                }
            }
            if let Some((_, label)) = below.text.split_once("  who:  ") {
                let all = [Who::AppDeveloper, Who::AppSecurity, Who::Platform, Who::KbsOperator, Who::Countersign];
                told.who = all.into_iter().find(|who| who.label() == label.trim()).unwrap_or(told.who);
            }
        }
        found.push(told);
    }
    found
}

/// Whether a container is one of ours, by its name or its image's.
fn is_ours(name: &str, image: &str) -> bool {
    let repository = image.split(['@', ':']).next().unwrap_or_default();
    let last = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let last = last.split(':').next().unwrap_or_default();
    name == "countersign"
        || name.starts_with("countersign-")
        || !repository.is_empty() && (last == "countersign" || last == "countersign-compat")
}

/// Exit codes in the status of a pod.
fn statuses(object: &Value) -> Vec<Cause> {
    let mut found = Vec::new();
    for list in ["initContainerStatuses", "containerStatuses"] {
        let statuses = object.pointer(&format!("/status/{list}")).and_then(Value::as_array);
        for status in statuses.into_iter().flatten() {
            let text = |key: &str| status.get(key).and_then(Value::as_str).unwrap_or_default();
            if !is_ours(text("name"), text("image")) {
                continue;
            }
            for state in ["state", "lastState"] {
                let code = status.pointer(&format!("/{state}/terminated/exitCode")).and_then(Value::as_u64);
                let row = code.and_then(|code| u8::try_from(code).ok()).and_then(by_code);
                if let Some(row) = row {
                    let name = printable(text("name"), 80);
                    let saw = format!("the container {name} ended with exit code {}", row.code);
                    found.push(cause(row, &format!("status of {name}"), saw));
                }
            }
        }
    }
    found
}

/// Exit codes in `kubectl describe`: container names stand at two spaces below `Containers:` or
/// `Init Containers:`, and what belongs to one is indented further.
fn described(lines: &[Line]) -> Vec<Cause> {
    let mut found = Vec::new();
    let (mut inside, mut name, mut image) = (false, String::new(), String::new());
    for line in lines {
        let text = line.text.as_str();
        if !text.starts_with(' ') {
            inside = matches!(text.trim_end(), "Containers:" | "Init Containers:" | "Ephemeral Containers:");
            name.clear();
            image.clear();
            continue;
        }
        if !inside {
            continue;
        }
        if text.starts_with("  ") && !text.starts_with("   ") {
            text.trim().trim_end_matches(':').clone_into(&mut name);
            image.clear();
        } else if let Some(value) = text.trim().strip_prefix("Image:") {
            value.trim().clone_into(&mut image);
        } else if let Some(value) = text.trim().strip_prefix("Exit Code:")
            && is_ours(&name, &image)
            && let Some(row) = value.trim().parse().ok().and_then(by_code)
        {
            let name = printable(&name, 80);
            found.push(cause(row, &line.place, format!("the container {name} ended with exit code {}", row.code)));
        }
    }
    found
}

/// `Startup probe failed: HTTP probe failed with statuscode: 517`. Up to 511 another program may mean
/// something else by it, so there our name has to stand somewhere too.
fn probe(line: &Line, input: &Input) -> Option<Cause> {
    let (before, after) = line.text.split_once(PROBE)?;
    if !["Startup ", "Readiness ", "Liveness "].iter().any(|kind| before.ends_with(kind)) {
        return None;
    }
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    let status: u16 = digits.parse().ok()?;
    let row = TABLE.iter().find(|row| row.code <= LAST_IN_PROBES && row.probe_status() == status)?;
    let sure = status > TAKEN_BY_HTTP || input.mentions("countersign");
    sure.then(|| cause(row, &line.place, quoted(&line.text)))
}
