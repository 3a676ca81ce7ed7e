//! The pod runner's own rules: which fields it runs, and what it lays out for a guest.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

use countersign_testbed::pod::fields::{check, check_for_guest};
use countersign_testbed::pod::guest::{Laid, lay_out};
use serde_json::{Value, json};

countersign_testbed::main! {
    a_field_that_is_not_run_is_named_with_its_path,
    what_the_policies_write_is_known,
    only_a_guest_of_its_own_has_a_host_path,
    a_pod_is_laid_out_for_the_place_where_the_guest_sees_it,
    a_volume_that_is_not_there_is_named,
}

fn a_field_that_is_not_run_is_named_with_its_path() {
    for (pod, said) in [
        (json!({ "spec": { "hostNetwork": true } }), "spec.hostNetwork"),
        (json!({ "spec": { "containers": [{}, { "lifecycle": {} }] } }), "spec.containers[1].lifecycle"),
        (
            json!({ "spec": { "containers": [{ "readinessProbe": { "exec": {} } }] } }),
            "spec.containers[0].readinessProbe.exec",
        ),
        (json!({ "spec": { "volumes": [{ "hostPath": {} }] } }), "spec.volumes[0].hostPath"),
        (
            json!({ "spec": { "initContainers": [{ "volumeMounts": [{ "subPath": "x" }] }] } }),
            "spec.initContainers[0].volumeMounts[0].subPath",
        ),
        (
            json!({ "spec": { "containers": [{ "env": [{ "valueFrom": { "secretKeyRef": {} } }] }] } }),
            "spec.containers[0].env[0].valueFrom.secretKeyRef",
        ),
        (
            json!({ "spec": { "containers": [{ "securityContext": { "privileged": true } }] } }),
            "spec.containers[0].securityContext.privileged",
        ),
        (
            json!({ "spec": { "containers": [{ "securityContext": { "capabilities": { "add": [] } } }] } }),
            "spec.containers[0].securityContext.capabilities.add",
        ),
        (json!({ "metadata": { "finalizers": [] } }), "metadata.finalizers"),
        (json!({ "spec": { "automountServiceAccountToken": true } }), "spec.automountServiceAccountToken"),
    ] {
        assert_eq!(check(&pod), Err(format!("{said} is not run here")));
    }
}

fn what_the_policies_write_is_known() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "p", "labels": { "a/b.c": "d" }, "annotations": { "x.y/z": "" }, "ownerReferences": [{ "kind": "Job" }] },
        "spec": {
            "runtimeClassName": "kata", "automountServiceAccountToken": false,
            "initContainers": [{
                "name": "a", "image": "b", "restartPolicy": "Always", "ports": [{ "containerPort": 1 }],
                "startupProbe": { "httpGet": { "path": "/", "port": 1, "scheme": "HTTP" }, "periodSeconds": 1 },
                "resources": { "limits": { "memory": "1Mi" } },
            }],
        },
    });
    assert_eq!(check(&pod), Ok(()));
}

fn only_a_guest_of_its_own_has_a_host_path() {
    let volume = json!({ "name": "c", "hostPath": { "path": "/sys/kernel/config", "type": "Directory" } });
    let pod = json!({ "spec": { "volumes": [volume] } });
    assert_eq!(check(&pod), Err("spec.volumes[0].hostPath is not run here".to_owned()));
    assert_eq!(check_for_guest(&pod), Ok(()));
    let pod = json!({ "spec": { "hostNetwork": true } });
    assert_eq!(check_for_guest(&pod), Err("spec.hostNetwork is not run here".to_owned()));
}

/// A pod as the policies leave one in the shape `direct`, cut to what is looked at.
fn direct() -> Value {
    json!({
        "spec": {
            "securityContext": { "fsGroup": 65532 },
            "initContainers": [
                { "name": "countersign-init", "image": "ours", "securityContext": { "runAsUser": 0, "readOnlyRootFilesystem": true },
                  "volumeMounts": [{ "name": "s", "mountPath": "/run/countersign/secrets" }, { "name": "c", "mountPath": "/sys/kernel/config" }] },
                { "name": "countersign", "image": "ours", "restartPolicy": "Always",
                  "startupProbe": { "httpGet": { "path": "/startupz", "port": 15821 } } },
            ],
            "containers": [{ "name": "api", "image": "theirs", "securityContext": { "runAsUser": 65532 } }],
            "volumes": [
                { "name": "s", "emptyDir": { "medium": "Memory" } },
                { "name": "i", "configMap": { "name": "api-1" } },
                { "name": "c", "hostPath": { "path": "/sys/kernel/config", "type": "Directory" } },
            ],
        },
    })
}

/// Lays it out, and hands the directory to `look`.
fn laid(pod: Value, maps: &[Value], look: impl FnOnce(&Path, std::io::Result<()>)) {
    let directory = std::env::temp_dir().join(format!("countersign-laid-{}-{}", std::process::id(), maps.len()));
    let laid =
        Laid { pod, config_maps: maps, ours: "ours", binary: Path::new("/bin/countersign"), app: &["/app".to_owned()] };
    let ended = lay_out(laid, &directory, Path::new("/host/pod"));
    look(&directory, ended);
    fs::remove_dir_all(&directory).unwrap();
}

fn a_pod_is_laid_out_for_the_place_where_the_guest_sees_it() {
    let maps = [json!({ "metadata": { "name": "api-1" }, "data": { "initdata.toml": "x" } })];
    laid(direct(), &maps, |directory, ended| {
        ended.unwrap();
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
        assert_eq!(read("order"), "init countersign-init\nsidecar countersign 15821 /startupz\napp api\n");
        assert_eq!(read("volumes"), "memory s 65532\nconfig i\nguest c /sys/kernel/config\n");
        assert_eq!(read("volume-i/initdata.toml"), "x");
        let init: Value = serde_json::from_str(&read("countersign-init/config.json")).unwrap();
        assert_eq!(init["process"]["args"], json!(["/countersign"]));
        assert_eq!(init["process"]["user"]["uid"], 0);
        let mounts = init["mounts"].as_array().unwrap();
        let from = |on: &str| mounts.iter().find(|mount| mount["destination"] == on).unwrap()["source"].clone();
        assert_eq!(from("/countersign"), "/bin/countersign");
        assert_eq!(from("/run/countersign/secrets"), "/run/volumes/s");
        assert_eq!(from("/sys/kernel/config"), "/sys/kernel/config");
        assert_eq!(from("/dev/termination-log"), "/host/pod/countersign-init/message");
        let app: Value = serde_json::from_str(&read("api/config.json")).unwrap();
        assert_eq!(app["process"]["args"], json!(["/app"]));
    });
}

fn a_volume_that_is_not_there_is_named() {
    laid(direct(), &[], |_, ended| {
        assert_eq!(ended.unwrap_err().to_string(), "volume i: configmap \"api-1\" not found");
    });
}
