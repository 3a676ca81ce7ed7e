//! The pod that a workload's controller makes of its template, as admission sees it.

use serde_json::{Map, Value, json};

/// Stands where a controller puts a hash of the template.
const HASH: &str = "5d4f8c7b9f";

/// A pod about to be created, and where it came from.
pub(super) struct Created {
    /// The pod.
    pub(super) pod: Value,
    /// JSON pointer to the template in the workload; empty for a pod of its own.
    pub(super) template: &'static str,
}

/// The pod of an object, or `None` where it makes none.
pub(super) fn created(object: &Value, namespace: &str) -> Option<Created> {
    let kind = object.get("kind")?.as_str()?;
    let template = match kind {
        "Pod" => "",
        "CronJob" => "/spec/jobTemplate/spec/template",
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => "/spec/template",
        _ => return None,
    };
    let source = object.pointer(template)?;
    source.pointer("/spec/containers")?;
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let mut metadata = source.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    metadata.insert("namespace".to_owned(), namespace.into());
    if !template.is_empty() {
        adopt(&mut metadata, kind, name);
    }
    let mut pod = Map::new();
    pod.insert("apiVersion".to_owned(), "v1".into());
    pod.insert("kind".to_owned(), "Pod".into());
    pod.insert("metadata".to_owned(), metadata.into());
    pod.insert("spec".to_owned(), source.get("spec")?.clone());
    Some(Created { pod: pod.into(), template })
}

/// What the controller adds: a name, an owner, and its labels.
fn adopt(metadata: &mut Map<String, Value>, kind: &str, name: &str) {
    let (api, owner, owner_name, pod, labels) = match kind {
        "Deployment" => {
            let set = format!("{name}-{HASH}");
            ("apps/v1", "ReplicaSet", set.clone(), format!("{set}-x2x4z"), json!({ "pod-template-hash": HASH }))
        }
        "StatefulSet" => {
            let pod = format!("{name}-0");
            let labels = json!({ "apps.kubernetes.io/pod-index": "0", "statefulset.kubernetes.io/pod-name": pod });
            ("apps/v1", kind, name.to_owned(), pod, labels)
        }
        "CronJob" => {
            // Named by the minute that it was scheduled for.
            let job = format!("{name}-29012345");
            ("batch/v1", "Job", job.clone(), format!("{job}-x2x4z"), json!({ "batch.kubernetes.io/job-name": job }))
        }
        "Job" => {
            let labels = json!({ "batch.kubernetes.io/job-name": name });
            ("batch/v1", kind, name.to_owned(), format!("{name}-x2x4z"), labels)
        }
        "ReplicationController" => ("v1", kind, name.to_owned(), format!("{name}-x2x4z"), json!({})),
        _ => ("apps/v1", kind, name.to_owned(), format!("{name}-x2x4z"), json!({})),
    };
    metadata.insert("name".to_owned(), pod.into());
    metadata.insert(
        "ownerReferences".to_owned(),
        json!([{
            "apiVersion": api, "kind": owner, "name": owner_name, "controller": true, "blockOwnerDeletion": true,
            "uid": "00000000-0000-0000-0000-000000000000",
        }]),
    );
    if let (Value::Object(added), Value::Object(own)) = (labels, metadata.entry("labels").or_insert_with(|| json!({})))
    {
        own.extend(added);
    }
}

/// Puts a mutated pod back into its workload: what the controller added stays out.
pub(super) fn put_back(object: &mut Value, created: &Created) {
    if created.template.is_empty() {
        *object = created.pod.clone();
        return;
    }
    let annotations = created.pod.pointer("/metadata/annotations").cloned();
    let spec = created.pod.get("spec").cloned();
    let Some(Value::Object(template)) = object.pointer_mut(created.template) else { return };
    if let Some(spec) = spec {
        template.insert("spec".to_owned(), spec);
    }
    if let (Some(annotations), Value::Object(metadata)) =
        (annotations, template.entry("metadata").or_insert_with(|| json!({})))
    {
        metadata.insert("annotations".to_owned(), annotations);
    }
}
