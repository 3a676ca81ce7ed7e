//! An apply configuration merged into a pod, as the API server's structured merge does: objects by
//! field, lists by their keys where the schema has keys, everything else replaced.

use serde_json::{Map, Value};

/// The lists of a pod that the schema merges by key, by the name of their field, with the keys.
/// Only those that the table writes.
const KEYED: &[(&str, &[&str])] = &[
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("env", &["name"]),
    ("ports", &["containerPort", "protocol"]),
    ("volumeMounts", &["mountPath"]),
];

/// What the schema takes for a key that is absent.
const DEFAULTS: &[(&str, &str)] = &[("protocol", "TCP")];

/// Merges `patch` into `target`.
pub(super) fn merge(target: &mut Value, patch: Value) {
    merge_field("", target, patch);
}

fn merge_field(name: &str, target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => merge_object(target, patch),
        (target @ Value::Null, Value::Object(patch)) => {
            let mut made = Map::new();
            merge_object(&mut made, patch);
            *target = made.into();
        }
        (Value::Array(target), Value::Array(patch)) if keys(name).is_some() => {
            merge_list(keys(name).unwrap_or_default(), target, patch);
        }
        (target, patch) => *target = patch,
    }
}

fn merge_object(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        let field = target.entry(name.clone()).or_insert(Value::Null);
        merge_field(&name, field, value);
    }
}

/// Items with the same key are merged where they stand; new ones come behind.
fn merge_list(keys: &[&str], target: &mut Vec<Value>, patch: Vec<Value>) {
    for item in patch {
        match target.iter_mut().find(|other| same(keys, other, &item)) {
            Some(other) => merge_field("", other, item),
            None => target.push(item),
        }
    }
}

fn same(keys: &[&str], a: &Value, b: &Value) -> bool {
    keys.iter().all(|key| of(a, key) == of(b, key))
}

fn of(item: &Value, key: &str) -> Value {
    let default = || DEFAULTS.iter().find(|(name, _)| *name == key).map_or(Value::Null, |(_, value)| (*value).into());
    item.get(key).cloned().unwrap_or_else(default)
}

fn keys(field: &str) -> Option<&'static [&'static str]> {
    KEYED.iter().find(|(name, _)| *name == field).map(|(_, keys)| *keys)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(mut target: Value, patch: Value) -> Value {
        merge(&mut target, patch);
        target
    }

    #[test]
    fn an_item_with_the_same_key_is_merged_and_a_new_one_comes_behind() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "x", "env": [{"name": "A", "value": "1"}]}, {"name": "b"}]}});
        let patch = json!({"spec": {"containers": [
            {"name": "b", "imagePullPolicy": "Always"},
            {"name": "a", "env": [{"name": "B", "value": "2"}], "volumeMounts": [{"mountPath": "/s", "name": "s"}]},
        ]}});
        let expected = json!({"spec": {"containers": [
            {"name": "a", "image": "x", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "volumeMounts": [{"mountPath": "/s", "name": "s"}]},
            {"name": "b", "imagePullPolicy": "Always"},
        ]}});
        assert_eq!(merged(pod, patch), expected);
    }

    #[test]
    fn a_port_without_a_protocol_is_tcp() {
        let pod = json!({"ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 80, "protocol": "UDP"}]});
        let patch = json!({"ports": [{"containerPort": 80, "protocol": "TCP", "name": "app"}]});
        let expected = json!({"ports": [
            {"containerPort": 80, "protocol": "TCP", "name": "app"}, {"containerPort": 80, "protocol": "UDP"},
        ]});
        assert_eq!(merged(pod, patch), expected);
    }

    #[test]
    fn a_list_without_keys_is_replaced() {
        assert_eq!(merged(json!({"args": ["a"]}), json!({"args": ["b"]})), json!({"args": ["b"]}));
    }
}
