//! What others say: the shim, the agent, the guest's services, the KBS, containerd and kubelet.

use std::borrow::Cow;

use serde_json::Value;

use super::input::{Input, Line};
use super::phrases::{KBS_ERRORS, Known, OTHER_REQUEST, TABLE};
use super::{Cause, quoted};
use crate::finding::Who;

/// What current runtimes read.
const ANNOTATION: &str = "io.katacontainers.config.hypervisor.cc_init_data";

/// What older peer pods read, and nothing reads any more.
const OLD_ANNOTATION: &str = "io.katacontainers.config.runtime.cc_init_data";

/// Before the variant's name in every error of the KBS.
const KBS_ERROR: &str = "https://github.com/confidential-containers/kbs/errors/";

pub(super) fn causes(input: &Input) -> Vec<Cause> {
    let mut found = Vec::new();
    for line in &input.lines {
        // The first that fits: special ones stand before general ones.
        let text = unescaped(&line.text);
        let known = TABLE.iter().find(|known| known.fits(&text));
        let known = known.or_else(|| other_request(&text).then_some(&OTHER_REQUEST));
        found.extend(known.map(|known| known.cause(line)));
        found.extend(kbs_error(line));
        found.extend(old_annotation_described(line, input));
        found.extend(sealed(line, input));
    }
    found.extend(input.objects.iter().filter_map(misplaced));
    found
}

/// The line with its quotes as the program wrote them. A log that quotes a message puts a backslash before
/// each, and one that quotes such a log puts three.
fn unescaped(line: &str) -> Cow<'_, str> {
    if !line.contains("\\\"") {
        return Cow::Borrowed(line);
    }
    let mut text = String::with_capacity(line.len());
    for c in line.chars() {
        if c == '"' {
            text.truncate(text.trim_end_matches('\\').len());
        }
        text.push(c);
    }
    Cow::Owned(text)
}

impl Known {
    fn fits(&self, line: &str) -> bool {
        let mut rest = line;
        for phrase in self.all {
            let Some(after) = after(rest, phrase) else { return false };
            rest = after;
        }
        (self.any.is_empty() || self.any.iter().any(|phrase| after(line, phrase).is_some()))
            && (self.near.is_empty() || self.near.iter().any(|word| names(line, word)))
    }

    fn cause(&self, line: &Line) -> Cause {
        told(self.id, self.order, line.place.clone(), quoted(&line.text), (self.why, self.next, self.who))
    }
}

/// What follows a phrase. A number at its edge is the whole number: 8006 is not in 80061, nor in a digest.
pub(super) fn after<'a>(line: &'a str, phrase: &str) -> Option<&'a str> {
    line.match_indices(phrase).find_map(|(at, _)| {
        let (before, after) = around(line, at, phrase)?;
        whole(before, phrase, after, |c| c.is_ascii_digit()).then_some(after)
    })
}

/// Whether a line names something, as a word of its own. A scheme is none: `kbs:///` stands in every pod
/// of ours.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .filter_map(|(at, _)| around(line, at, word))
        .any(|(before, after)| whole(before, word, after, |c| c.is_ascii_alphanumeric()) && !after.starts_with("://"))
}

fn around<'a>(line: &'a str, at: usize, phrase: &str) -> Option<(&'a str, &'a str)> {
    Some((line.get(..at)?, line.get(at.saturating_add(phrase.len())..)?))
}

/// Whether nothing goes on beyond the edges of a phrase, where these are of the kind `edge`.
fn whole(before: &str, phrase: &str, after: &str, edge: fn(char) -> bool) -> bool {
    let joined = |inside: Option<char>, outside: Option<char>| {
        inside.is_some_and(edge) && outside.is_some_and(|c| c.is_ascii_alphanumeric())
    };
    !joined(phrase.chars().next(), before.chars().next_back())
        && !joined(phrase.chars().next_back(), after.chars().next())
}

/// `WriteStreamRequest is blocked by policy: …`, as the agent says it: the name is one word with the
/// request, and no sentence goes on behind. "Your Request is blocked by policy of" is a firewall's.
fn other_request(line: &str) -> bool {
    let Some(phrase) = OTHER_REQUEST.all.first() else { return false };
    line.match_indices(phrase).filter_map(|(at, _)| around(line, at, phrase)).any(|(before, after)| {
        let name = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        name.starts_with(|c: char| c.is_ascii_uppercase())
            && after.chars().next().is_none_or(|c| matches!(c, ':' | '"' | ','))
    })
}

fn told(id: &str, order: u16, place: String, saw: String, (why, next, who): (&str, &str, Who)) -> Cause {
    Cause { id: id.to_owned(), order, place, saw, why: why.to_owned(), next: next.to_owned(), who }
}

/// `{"type":"https://…/kbs/errors/PolicyDeny",…}`, wherever it was logged.
fn kbs_error(line: &Line) -> Option<Cause> {
    let (_, after) = line.text.split_once(KBS_ERROR)?;
    let name: String = after.chars().take_while(char::is_ascii_alphanumeric).collect();
    let (variant, order, why, next, who) = KBS_ERRORS.iter().find(|(variant, ..)| *variant == name)?;
    let mut cause = told(&format!("kbs-{variant}"), *order, line.place.clone(), quoted(&line.text), (why, next, *who));
    if line.text.contains("KBS Client Protocol Version Mismatch") {
        "kbs-protocol-version".clone_into(&mut cause.id);
        "the guest and the KBS speak different versions of the attestation protocol".clone_into(&mut cause.why);
        "upgrade the older side: Trustee and guest-components v0.14 and later speak 0.4.0".clone_into(&mut cause.next);
        cause.who = Who::KbsOperator;
    }
    Some(cause)
}

const OLD: (&str, &str, Who) = (
    "current Kata and cloud-api-adaptor (from v0.16.0 on) do not read this annotation, and say nothing: the pod starts without its initdata",
    "rename the annotation to io.katacontainers.config.hypervisor.cc_init_data",
    Who::AppSecurity,
);

/// The old annotation in `kubectl describe`, where the new one is not beside it.
fn old_annotation_described(line: &Line, input: &Input) -> Option<Cause> {
    let key = format!("{OLD_ANNOTATION}:");
    let text = line.text.trim_start().trim_start_matches("Annotations:").trim_start();
    let alone = text.starts_with(&key) && !input.mentions(ANNOTATION);
    alone.then(|| told("annotation-old", 27, line.place.clone(), OLD_ANNOTATION.to_owned(), OLD))
}

/// Annotations of objects: the old name, and the right one where no runtime sees it.
fn misplaced(object: &Value) -> Option<Cause> {
    let has = |place: &str, key: &str| {
        let annotations = object.pointer(place).and_then(Value::as_object);
        annotations.is_some_and(|annotations| annotations.contains_key(key))
    };
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let (outer, job) = ("/metadata/annotations", "/spec/jobTemplate/metadata/annotations");
    if kind == "Pod" {
        let old = has(outer, OLD_ANNOTATION) && !has(outer, ANNOTATION);
        return old
            .then(|| told("annotation-old", 27, "metadata.annotations".to_owned(), OLD_ANNOTATION.to_owned(), OLD));
    }
    let template = match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicaSet" => "/spec/template/metadata/annotations",
        "CronJob" => "/spec/jobTemplate/spec/template/metadata/annotations",
        _ => return None,
    };
    let dotted = |place: &str| place.trim_start_matches('/').replace('/', ".");
    if has(template, ANNOTATION) {
        return None;
    }
    if has(template, OLD_ANNOTATION) {
        return Some(told("annotation-old", 27, dotted(template), OLD_ANNOTATION.to_owned(), OLD));
    }
    let place = [outer, job].into_iter().find(|place| has(place, ANNOTATION))?;
    Some(told(
        "annotation-misplaced",
        28,
        dotted(place),
        format!("{ANNOTATION} on the {kind}, not on its pods"),
        (
            "annotations of the controller do not reach its pods: they start without initdata, and nothing says so",
            &format!("move the annotation to {}", dotted(template)),
            Who::AppSecurity,
        ),
    ))
}

/// A sealed secret where its content should be: `sealed.<header>.<payload>.<signature>` in what an app
/// printed. In objects it is what somebody wrote there, and no residue.
fn sealed(line: &Line, input: &Input) -> Option<Cause> {
    if !input.objects.is_empty() || described(input) {
        return None;
    }
    let shown = line.text.match_indices("sealed.").any(|(at, _)| {
        let before = line.text.get(..at).and_then(|before| before.chars().next_back());
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        !before.is_some_and(word) && line.text.get(at..).is_some_and(is_sealed)
    });
    if !shown {
        return None;
    }
    // The secret's text is not repeated: it is nobody's business which key it names.
    Some(told(
        "sealed-residue",
        100,
        line.place.clone(),
        "a sealed secret (sealed.…) where its content should be".to_owned(),
        (
            "the agent did not unseal it: attestation failed, or the pod runs outside a CoCo guest; the agent only warns and starts the container",
            "read the guest's log for CDH's error; use `countersign init` with `[[secrets.file]]` in place of sealed env, which does not start the app",
            Who::AppSecurity,
        ),
    ))
}

/// Whether it is `kubectl describe` of a pod.
fn described(input: &Input) -> bool {
    input.lines.iter().any(|line| line.text.starts_with("Containers:"))
}

fn is_sealed(text: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let token: String = text.chars().take_while(|c| part(*c) || *c == '.').collect();
    let mut parts = token.split('.').skip(1);
    let (Some(header), Some(payload), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    (header.starts_with("eyJ") || header == "fakejwsheader") && payload.starts_with("eyJ") && !signature.is_empty()
}

/// Every id with its next step, for the tests.
#[cfg(test)]
pub(super) fn phrases() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.iter().chain([&OTHER_REQUEST]).map(|known| (known.id, known.next))
}
