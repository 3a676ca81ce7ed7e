//! The input, taken apart: lines of text, or the strings of Kubernetes objects, which YAML folds over
//! several lines.

use serde::Deserialize as _;
use serde_json::Value;

/// Most documents of one input, and most strings of them. Bounds of ours.
const MAX_DOCUMENTS: usize = 1000;
const MAX_LINES: usize = 200_000;

/// Most levels of an object that are walked; Kubernetes' own have fewer than 20.
const MAX_DEPTH: usize = 32;

/// Parts of an object that say what was wanted, not what happened. `managedFields` and annotations
/// repeat them.
const WANTED: [&str; 4] = ["spec", "metadata", "data", "binaryData"];

/// Something that was said.
pub(super) struct Line {
    /// `line 12`, or the field's path.
    pub(super) place: String,
    pub(super) text: String,
    /// The object that it stands in, by its number.
    object: Option<usize>,
}

/// The input.
pub(super) struct Input {
    pub(super) lines: Vec<Line>,
    /// Objects, where it is YAML or JSON of them.
    pub(super) objects: Vec<Value>,
    /// All of it, for signs that may stand anywhere.
    whole: String,
}

impl Input {
    pub(super) fn read(text: &str) -> Self {
        let objects = objects(text);
        let mut lines = Vec::new();
        if objects.is_empty() {
            for (index, line) in text.lines().take(MAX_LINES).enumerate() {
                lines.push(Line {
                    place: format!("line {}", index.saturating_add(1)),
                    text: line.to_owned(),
                    object: None,
                });
            }
        } else {
            for (index, object) in objects.iter().enumerate() {
                walk(object, index, &name(object), 0, &mut lines);
            }
        }
        Self { lines, objects, whole: text.to_owned() }
    }

    /// Which part of its object an event is about: `spec.containers{app}`. Of the event that a line is in.
    pub(super) fn field_path(&self, line: &Line) -> Option<&str> {
        let event = self.objects.get(line.object?)?;
        // `Event` of v1, and of events.k8s.io.
        ["/involvedObject/fieldPath", "/regarding/fieldPath"].iter().find_map(|path| event.pointer(path)?.as_str())
    }

    /// Whether a word stands anywhere, in a name or a message.
    pub(super) fn mentions(&self, word: &str) -> bool {
        self.whole.contains(word)
    }
}

/// The objects of a YAML or JSON text: documents with `apiVersion` and `kind`, lists taken apart. Empty
/// for everything else; logs are seldom YAML, and never such.
fn objects(text: &str) -> Vec<Value> {
    if !text.contains("apiVersion") || !text.contains("kind") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for document in yaml_serde::Deserializer::from_str(text).take(MAX_DOCUMENTS) {
        let Ok(value) = Value::deserialize(document) else { return Vec::new() };
        if value.is_null() {
            continue;
        }
        if value.get("apiVersion").is_none() || value.get("kind").is_none() {
            return Vec::new();
        }
        match value.get("items").and_then(Value::as_array) {
            Some(items) => found.extend(items.iter().take(MAX_DOCUMENTS).cloned()),
            None => found.push(value),
        }
    }
    found
}

/// `Pod/api-0`.
fn name(object: &Value) -> String {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or("object");
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
    crate::finding::printable(&format!("{kind}/{name}"), 120)
}

fn walk(value: &Value, object: usize, place: &str, depth: usize, lines: &mut Vec<Line>) {
    if depth > MAX_DEPTH || lines.len() >= MAX_LINES {
        return;
    }
    match value {
        Value::String(text) => {
            for line in text.lines() {
                lines.push(Line { place: place.to_owned(), text: line.to_owned(), object: Some(object) });
            }
        }
        Value::Array(items) => {
            for item in items {
                walk(item, object, place, depth.saturating_add(1), lines);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                if depth > 0 || !WANTED.contains(&key.as_str()) {
                    walk(member, object, &format!("{place} {key}"), depth.saturating_add(1), lines);
                }
            }
        }
        _ => {}
    }
}
