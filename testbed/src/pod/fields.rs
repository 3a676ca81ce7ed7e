//! The fields of a pod that the runner acts upon. Any other is an error that names it: a test that
//! ran without what its manifest says would prove nothing.

use serde_json::Value;

/// `[]` stands for each item of a list, `*` for any key of a map.
const KNOWN: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata.annotations.*",
    "metadata.labels.*",
    "metadata.name",
    "metadata.namespace",
    // What a controller writes; it says who made the pod and changes nothing about it.
    "metadata.ownerReferences",
    // `false`, as everything is run here; see `token`.
    "spec.automountServiceAccountToken",
    "spec.restartPolicy",
    "spec.runtimeClassName",
    "spec.securityContext.fsGroup",
    "spec.securityContext.runAsGroup",
    "spec.securityContext.runAsNonRoot",
    "spec.securityContext.runAsUser",
    // Accepted and not applied: there is no profile of the runtime here. It only takes away.
    "spec.securityContext.seccompProfile.type",
    "spec.terminationGracePeriodSeconds",
    "spec.volumes.[].configMap.name",
    "spec.volumes.[].emptyDir.medium",
    "spec.volumes.[].emptyDir.sizeLimit",
    "spec.volumes.[].name",
];

/// Fields of containers and init containers alike.
const CONTAINER: &[&str] = &[
    "args.[]",
    "command.[]",
    "env.[].name",
    "env.[].value",
    "env.[].valueFrom.fieldRef.fieldPath",
    "image",
    // Images are directories here.
    "imagePullPolicy",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    // Accepted and not applied: an ordinary user has no control groups.
    "resources",
    "restartPolicy",
    "securityContext.allowPrivilegeEscalation",
    "securityContext.capabilities.drop.[]",
    "securityContext.readOnlyRootFilesystem",
    "securityContext.runAsGroup",
    "securityContext.runAsNonRoot",
    "securityContext.runAsUser",
    "securityContext.seccompProfile.type",
    "startupProbe",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeMounts.[].mountPath",
    "volumeMounts.[].name",
    "volumeMounts.[].readOnly",
];

/// Fields of a probe.
const PROBE: &[&str] = &[
    "failureThreshold",
    "httpGet.path",
    "httpGet.port",
    "httpGet.scheme",
    "initialDelaySeconds",
    "periodSeconds",
    "successThreshold",
    "timeoutSeconds",
];

/// What a guest of its own has besides: its kernel's directories.
const IN_A_GUEST: &[&str] = &["spec.volumes.[].hostPath.path", "spec.volumes.[].hostPath.type"];

/// Names the first field that the runner does not know.
pub fn check(pod: &Value) -> Result<(), String> {
    token(pod)?;
    walk(pod, "", "", &|general| known(general))
}

/// The same for a pod that has a guest of its own.
pub fn check_for_guest(pod: &Value) -> Result<(), String> {
    token(pod)?;
    walk(pod, "", "", &|general| known(general) || leads_to(IN_A_GUEST, general))
}

/// There is no API server, and nobody who would mount a token of it.
fn token(pod: &Value) -> Result<(), String> {
    match pod.pointer("/spec/automountServiceAccountToken") {
        None | Some(Value::Bool(false)) => Ok(()),
        Some(_) => Err("spec.automountServiceAccountToken is not run here".to_owned()),
    }
}

fn known(path: &str) -> bool {
    let of_container =
        path.strip_prefix("spec.containers.[].").or_else(|| path.strip_prefix("spec.initContainers.[]."));
    match of_container {
        None => {
            leads_to(KNOWN, path)
                || matches!(
                    path,
                    "spec.containers" | "spec.containers.[]" | "spec.initContainers" | "spec.initContainers.[]"
                )
        }
        Some(field) => match field.split_once("Probe.") {
            Some((_, of_probe)) => leads_to(PROBE, of_probe),
            None => leads_to(CONTAINER, field),
        },
    }
}

/// Whether the path is one of them, is on the way to one, or lies below one that is taken whole.
fn leads_to(known: &[&str], path: &str) -> bool {
    known.iter().any(|one| {
        let mut ours = one.split('.');
        let mut asked = path.split('.');
        loop {
            match (ours.next(), asked.next()) {
                // A whole subtree, but never below a probe, whose fields are listed.
                (None, Some(_)) => return !one.ends_with("Probe") && !one.contains('['),
                (_, None) | (Some("*"), Some(_)) => return true,
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    })
}

/// `general` has `[]` for each item, `exact` its number.
fn walk(value: &Value, general: &str, exact: &str, known: &dyn Fn(&str) -> bool) -> Result<(), String> {
    let join = |path: &str, name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if !general.is_empty() && !known(general) {
        return Err(format!("{exact} is not run here"));
    }
    match value {
        Value::Object(fields) => {
            fields.iter().try_for_each(|(name, field)| walk(field, &join(general, name), &join(exact, name), known))
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(n, item)| walk(item, &join(general, "[]"), &format!("{exact}[{n}]"), known)),
        _ => Ok(()),
    }
}
