//! An issuer that admission makes of a plain manifest.

use serde_json::{Value, json};

use super::{ANNOTATION, DEPLOYMENT, IMAGE, desk, documents, named, pod_of, render, restricted, tree};

/// Whether all that `less` says, `more` says too: maps may have more fields, lists no more items.
fn covers(more: &Value, less: &Value) -> bool {
    match (more, less) {
        (Value::Object(more), Value::Object(less)) => {
            less.iter().all(|(name, value)| more.get(name).is_some_and(|other| covers(other, value)))
        }
        (Value::Array(more), Value::Array(less)) => {
            more.len() == less.len() && more.iter().zip(less).all(|(more, less)| covers(more, less))
        }
        (more, less) => more == less,
    }
}

pub(crate) fn a_plain_issuer_becomes_the_pod_that_is_written_by_hand() {
    let desk = desk();
    let maps = desk.run(&["configmap", "--workload", "issuer", "--namespace", "mesh", "i.toml"]).ok();
    desk.write("maps.yaml", &maps);
    let plain = tree("examples/issuer/app.yaml").display().to_string();
    let made = render(&desk, &["-f", &plain, "--tier", "prod-snp", "--configmap", "maps.yaml"]);
    let written = std::fs::read_to_string(tree("examples/issuer.yaml")).unwrap();
    // What differs by name: the image, and which initdata.
    let pointer = documents(&maps)[1]["data"]["initdata-configmap"].as_str().unwrap().to_owned();
    let placeholder = format!("registry.example/countersign@sha256:{}", "00".repeat(32));
    let by_hand = documents(&written.replace(&placeholder, IMAGE).replace("issuer-00000000", &pointer));
    let template = |deployment: &Value| deployment["spec"]["template"].clone();
    let (made, by_hand) = (template(&made[0]), template(&by_hand[1]));
    assert!(covers(&made["spec"], &by_hand["spec"]), "{:#}\n{:#}", made["spec"], by_hand["spec"]);
    assert!(made["metadata"]["annotations"][ANNOTATION].is_string());
    assert_eq!(restricted(&made), Vec::<String>::new());
}

/// An issuer's pod with these fields.
fn issuer(spec: &Value) -> Value {
    let annotations = json!({ "countersign.dev/role": "issuer", "coco.io/initdata-configmap": "api" });
    let metadata = json!({ "name": "issuer", "namespace": "payments", "annotations": annotations });
    pod_of(&json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }).to_string())
}

pub(crate) fn an_issuer_gets_no_gate_no_sidecar_no_secrets_and_no_token() {
    let made = issuer(&json!({
        "automountServiceAccountToken": true,
        "containers": [{
            "name": "countersign-issuer", "image": "evil", "command": ["true"], "args": ["x"],
            "env": [{ "name": "COUNTERSIGN_ROLE", "value": "init" }],
            "volumeMounts": [{ "name": "x", "mountPath": "/run/countersign/initdata" }],
            "securityContext": { "privileged": true, "runAsUser": 0 },
        }],
    }));
    let spec = &made["spec"];
    let text = made.to_string();
    for word in ["evil", "privileged", "command", "args", "countersign-init\"", "countersign-secrets", "HOST"] {
        assert!(!text.contains(word), "{word}: {made:#}");
    }
    assert_eq!((&spec["initContainers"], &spec["automountServiceAccountToken"]), (&Value::Null, &json!(false)));
    let containers = spec["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    assert_eq!(named(&containers[0]["env"], "COUNTERSIGN_ROLE")["value"], "issuer");
    assert_eq!(containers[0]["securityContext"]["runAsUser"], 65532, "and not root, whatever the author says");
    assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
    // What else is in the pod stays as it is, for the validating policy to refuse.
    let app = json!({ "name": "app", "image": "w", "ports": [{ "name": "http", "containerPort": 8080 }] });
    let init = json!({ "name": "own", "image": "o" });
    let made = issuer(&json!({
        "initContainers": [init], "containers": [app, { "name": "countersign-issuer", "image": "x" }],
    }));
    let spec = &made["spec"];
    assert_eq!((named(&spec["containers"], "app"), named(&spec["initContainers"], "own")), (&app, &init));
    assert_eq!(named(&spec["containers"], "countersign-issuer")["image"], IMAGE);
}

pub(crate) fn only_the_word_issuer_makes_an_issuer() {
    for word in ["", "Issuer", "issuer ", "sidecar", "init", "true"] {
        let annotations = json!({ "countersign.dev/role": word, "coco.io/initdata-configmap": "api" });
        let metadata = json!({ "name": "p", "namespace": "payments", "annotations": annotations });
        let spec = json!({ "containers": [{ "name": "countersign-issuer", "image": "w" }] });
        let made =
            pod_of(&json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }).to_string());
        assert_eq!(made["spec"]["initContainers"][0]["name"], "countersign-init", "{word}");
        assert_eq!(made["spec"]["containers"][0]["image"], "w", "{word}");
        assert!(!made.to_string().contains("\"value\":\"issuer\""), "{word}");
    }
    // Nor does a label.
    let labelled = DEPLOYMENT.replace("labels: { app: api }", "labels: { app: api, countersign.dev/role: issuer }");
    assert_ne!(labelled, DEPLOYMENT);
    let desk = desk();
    desk.write("labelled.yaml", &labelled);
    let made = render(&desk, &["-f", "labelled.yaml", "--tier", "prod-snp", "--configmap", "maps.yaml"]);
    assert_eq!(made[0]["spec"]["template"]["spec"]["initContainers"][0]["name"], "countersign-init");
}
