//! The JSON Schema and the tables of the documentation, written from the table of keys.
//!
//! The schema is for editors and reviewers: it knows names, types, words and the shape of texts.
//! Whatever the decoder accepts, it accepts; what only a parser or the whole document can show
//! (durations within bounds, two files at one path) it does not.

use serde_json::{Map, Value, json};

use super::env::VARIABLES;
use super::grammar::Grammar;
use super::keys::{KEYS, Key, Kind};

/// The JSON Schema (draft 2020-12), two blanks per level, with a line break at the end.
pub fn json_schema() -> String {
    let mut schema = object("", "");
    if let Some(map) = schema.as_object_mut() {
        map.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        map.insert("title".to_owned(), json!("countersign.toml"));
    }
    // Writing a value that we built to memory does not fail.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// The table of keys in Markdown.
pub fn key_table() -> String {
    let mut text =
        String::from("| Key | Value | Default | Variable | Read by | Meaning |\n|---|---|---|---|---|---|\n");
    for key in KEYS {
        let default = match (key.required, key.default) {
            (true, _) => "required".to_owned(),
            (false, "") => "-".to_owned(),
            (false, default) => format!("`{default}`"),
        };
        let env = if key.env.is_empty() { "-".to_owned() } else { format!("`{}`", key.env) };
        let cells = [
            format!("`{}`", key.path),
            key.kind.in_words(),
            default,
            env,
            key.reader.to_owned(),
            key.meaning.to_owned(),
        ];
        text.push_str(&markdown_row(&cells));
    }
    text
}

/// The table of variables in Markdown.
pub fn env_table() -> String {
    let mut text = String::from("| Variable | Key | Meaning |\n|---|---|---|\n");
    for variable in VARIABLES {
        let key = if variable.key.is_empty() { "-".to_owned() } else { format!("`{}`", variable.key) };
        text.push_str(&markdown_row(&[format!("`{}`", variable.name), key, variable.meaning.to_owned()]));
    }
    text
}

fn markdown_row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The schema of the table whose keys have `parent` as theirs (`secrets.file[]`).
fn object(parent: &str, meaning: &str) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in KEYS.iter().filter(|key| key.parent() == parent) {
        properties.insert(key.name().to_owned(), property(key));
        if key.required {
            required.push(key.name());
        }
    }
    let mut schema = Map::new();
    schema.insert("additionalProperties".to_owned(), json!(false));
    if !meaning.is_empty() {
        schema.insert("description".to_owned(), json!(meaning));
    }
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema.insert("type".to_owned(), json!("object"));
    Value::Object(schema)
}

fn property(key: &Key) -> Value {
    let mut schema = match &key.kind {
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Duration { .. } => json!({ "type": "string", "pattern": "^[0-9]{1,9}[smh]$" }),
        Kind::Word(words) => json!({ "type": "string", "enum": words }),
        Kind::Words(words) => {
            json!({ "type": "array", "items": { "enum": words }, "minItems": 1, "uniqueItems": true })
        }
        Kind::Text(grammar) => text(grammar),
        Kind::Texts { of, min, max } => {
            json!({ "type": "array", "items": text(of), "minItems": min, "maxItems": max, "uniqueItems": true })
        }
        Kind::Table => return object(key.path, key.meaning),
        Kind::Tables { max } => {
            json!({ "type": "array", "items": object(&format!("{}[]", key.path), ""), "maxItems": max })
        }
    };
    if let Some(map) = schema.as_object_mut() {
        map.insert("description".to_owned(), json!(key.meaning));
        // A default in words ("all, in this order") is for people only.
        if let Ok(default) = serde_json::from_str::<Value>(key.default) {
            map.insert("default".to_owned(), default);
        }
    }
    schema
}

fn text(grammar: &Grammar) -> Value {
    let mut schema = json!({ "type": "string", "minLength": 1, "maxLength": grammar.max });
    if let (Some(map), false) = (schema.as_object_mut(), grammar.pattern.is_empty()) {
        map.insert("pattern".to_owned(), json!(grammar.pattern));
    }
    schema
}
