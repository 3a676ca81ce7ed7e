//! What our own programs say: exit codes, probe statuses, termination messages, refusals in the log.

use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::Value;

use super::input::{Input, Line};
use super::whose::{self, KINDS, Pod, Whose, is_ours};
use super::{Cause, quoted};
use crate::finding::{Row, TABLE, Who, printable};
use crate::tool::HEALTH;

/// Statuses that only ours are known to send. HTTP has those up to 511, and CDNs those from 520 on.
const ONLY_OURS: RangeInclusive<u16> = 512..=519;

/// The classes that a probe can have. Before them is a command line that is refused before anything
/// listens; behind them are answers of tools.
const IN_PROBES: RangeInclusive<u8> = 65..=84;

/// Before the id of what may be meant, where the input does not say whose probe failed.
const PERHAPS: &str = "perhaps-";

/// What kubelet writes before the status of a failed probe.
const PROBE: &str = " probe failed: HTTP probe failed with statuscode: ";

/// Where our causes stand: after what keeps our program from starting at all.
const ORDER: u16 = 500;

/// What is not certain comes behind all that is: more than there are exit codes.
const PERHAPS_LATER: u16 = 300;

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
    let pods = whose::described(&input.lines);
    // The most exact source first: what it names is not named again.
    let exact = input.lines.iter().filter_map(message).chain(refusals(&input.lines));
    for cause in exact {
        push(&mut found, cause);
    }
    for cause in input.objects.iter().flat_map(statuses).chain(described(&pods)) {
        push(&mut found, cause);
    }
    for cause in (0..input.lines.len()).filter_map(|index| probe(index, input, &pods)) {
        push(&mut found, cause);
    }
    let sure: Vec<String> = found.iter().map(|cause| cause.id.clone()).collect();
    found.retain(|cause| cause.id.strip_prefix(PERHAPS).is_none_or(|id| sure.iter().all(|known| known != id)));
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

/// Exit codes in `kubectl describe`.
fn described(pods: &[Pod]) -> Vec<Cause> {
    let mut found = Vec::new();
    for container in pods.iter().flat_map(|pod| &pod.containers) {
        if !is_ours(&container.name, &container.image) {
            continue;
        }
        let name = printable(&container.name, 80);
        for (code, place) in &container.ended {
            let saw = format!("the container {name} ended with exit code {code}");
            found.extend(by_code(*code).map(|row| cause(row, place, saw)));
        }
    }
    found
}

/// `Startup probe failed: HTTP probe failed with statuscode: 517`. An app with a probe of its own may answer
/// the same number, so the input has to say whose probe it is, or the answer says that it does not know.
fn probe(index: usize, input: &Input, pods: &[Pod]) -> Option<Cause> {
    let line = input.lines.get(index)?;
    let (before, after) = line.text.split_once(PROBE)?;
    let kind = KINDS.iter().find(|kind| before.ends_with(**kind))?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    let status: u16 = digits.parse().ok()?;
    let row = TABLE.iter().find(|row| IN_PROBES.contains(&row.code) && row.probe_status() == status)?;
    let told = cause(row, &line.place, quoted(&line.text));
    match whose::probe(kind, index, input, pods) {
        Whose::Ours => Some(told),
        Whose::Either => Some(perhaps(told, "both countersign's container and another one have such a probe")),
        Whose::Unsaid if ONLY_OURS.contains(&status) => Some(perhaps(told, "nothing here says whose probe failed")),
        Whose::Unsaid | Whose::Others => None,
    }
}

/// The same, as what it would be. To find out is for who has the pod.
fn perhaps(told: Cause, because: &str) -> Cause {
    let next =
        "read `kubectl get events -o yaml` for the event's `fieldPath`; if that names countersign's container, it is";
    Cause {
        id: format!("{PERHAPS}{}", told.id),
        order: told.order.saturating_add(PERHAPS_LATER),
        why: format!("{because}; if it is the one on port {HEALTH}, its status says {}: {}", told.id, told.why),
        next: format!("{next} for {}: {}", told.who.label(), told.next),
        who: Who::AppDeveloper,
        ..told
    }
}
