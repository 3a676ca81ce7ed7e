//! `kubectl countersign render` and `policies emit`, as people type them. That Kyverno makes the same
//! of the same pods is `policies/test`'s to show.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "render/issuing.rs"]
mod issuing;
#[path = "render/library.rs"]
mod library;
#[path = "initdata_cli/tool.rs"]
mod tool;

use std::path::{Path, PathBuf};

use issuing::{
    a_plain_issuer_becomes_the_pod_that_is_written_by_hand, an_issuer_gets_no_gate_no_sidecar_no_secrets_and_no_token,
    only_the_word_issuer_makes_an_issuer,
};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tool::Desk;

countersign_testbed::main! {
    a_plain_deployment_becomes_confidential,
    the_workload_and_its_pod_get_the_same,
    rendering_what_is_rendered_changes_nothing,
    the_app_keeps_what_it_set_and_ours_run_as_the_app,
    a_root_app_does_not_make_ours_root,
    what_passes_restricted_still_passes,
    the_sidecar_takes_over_the_named_port_the_probes_and_loopback,
    a_probe_that_the_sidecar_will_not_answer_is_told_with_the_key_to_add,
    a_path_without_a_slash_is_asked_for_as_the_kubelet_would,
    a_probe_that_no_configuration_mends_is_told_as_that,
    a_delivered_file_that_no_kbs_could_deliver_is_refused,
    our_names_are_ours,
    without_a_configmap_the_pod_cannot_start,
    a_configmap_of_the_policy_library_is_taken_as_it_is,
    the_initdata_itself_does_for_the_configmaps_of_one_workload,
    the_initdata_itself_does_for_a_configmap_that_the_pod_names,
    a_pod_that_opts_out_stays_as_it_is,
    the_diagnose_annotation_changes_the_role,
    a_plain_issuer_becomes_the_pod_that_is_written_by_hand,
    an_issuer_gets_no_gate_no_sidecar_no_secrets_and_no_token,
    only_the_word_issuer_makes_an_issuer,
    a_manifest_that_kubernetes_would_not_take_is_refused,
    what_cannot_be_rendered_is_refused_with_a_next_step,
    production_takes_no_image_without_a_digest,
    the_policies_in_the_tree_are_what_the_table_emits,
}

const ANNOTATION: &str = "io.katacontainers.config.hypervisor.cc_init_data";
const IMAGE: &str =
    "registry.example/countersign@sha256:abababababababababababababababababababababababababababababababab";

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: { name: api, namespace: payments }
spec:
  selector: { matchLabels: { app: api } }
  template:
    metadata: { labels: { app: api } }
    spec:
      containers:
        - { name: api, image: registry.example/api, ports: [{ name: http, containerPort: 8080 }] }
";

const INITDATA: &str = "algorithm = \"sha256\"\nversion = \"0.1.0\"\n[data]\n\"aa.toml\" = \"\"\n";

/// The file of a tree's path.
fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn documents(yaml: &str) -> Vec<Value> {
    yaml_serde::Deserializer::from_str(yaml).map(|one| Value::deserialize(one).unwrap()).collect()
}

/// A desk with the deployment, its initdata and its `ConfigMap`s.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("app.yaml", DEPLOYMENT);
    desk.write("i.toml", INITDATA);
    let maps = desk.run(&["configmap", "--workload", "api", "--namespace", "payments", "i.toml"]).ok();
    desk.write("maps.yaml", &maps);
    desk
}

/// What `render` prints, where it has nothing to say besides.
fn render(desk: &Desk, arguments: &[&str]) -> Vec<Value> {
    documents(&desk.tool(&[&["render", "--image", IMAGE], arguments].concat()).ok())
}

/// The pod of one manifest.
fn pod_of(manifest: &str) -> Value {
    let desk = desk();
    desk.write("pod.yaml", manifest);
    let pods = render(&desk, &["-f", "pod.yaml", "--tier", "prod-snp", "--configmap", "maps.yaml", "--pods"]);
    assert_eq!(pods.len(), 1);
    pods.into_iter().next().unwrap()
}

/// A pod of the workload `api` with these fields.
fn pod(spec: &Value) -> String {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "api", "namespace": "payments" }, "spec": spec,
    });
    pod.to_string()
}

fn named<'v>(list: &'v Value, name: &str) -> &'v Value {
    list.as_array().unwrap().iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("no {name}: {list:#}"))
}

fn a_plain_deployment_becomes_confidential() {
    let desk = desk();
    let out = render(&desk, &["-f", "app.yaml", "--tier", "prod-snp", "--configmap", "maps.yaml"]);
    let template = &out[0]["spec"]["template"];
    let packed = desk.run(&["pack", "i.toml"]).ok();
    assert_eq!(template["metadata"]["annotations"][ANNOTATION], packed.trim_end());
    assert_eq!(template["metadata"]["labels"], json!({ "app": "api" }), "nothing of a controller's stays");
    let spec = &template["spec"];
    assert_eq!(spec["runtimeClassName"], "kata-qemu-snp");
    assert_eq!(spec["securityContext"]["fsGroup"], 65532);
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
    let init = &spec["initContainers"][0];
    assert_eq!((&init["name"], &init["image"]), (&json!("countersign-init"), &json!(IMAGE)));
    assert_eq!(named(&init["env"], "COUNTERSIGN_ROLE")["value"], "init");
    assert_eq!(named(&init["env"], "COUNTERSIGN_WORKLOAD")["value"], "api");
    assert_eq!(named(&init["env"], "COUNTERSIGN_NAMESPACE")["value"], "payments");
    let sidecar = &spec["initContainers"][1];
    assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&json!("countersign"), &json!("Always")));
    assert_eq!(named(&sidecar["env"], "COUNTERSIGN_ROLE")["value"], "sidecar");
    let secrets = named(&spec["volumes"], "countersign-secrets");
    assert_eq!(secrets["emptyDir"]["medium"], "Memory");
    let mount = named(&spec["containers"][0]["volumeMounts"], "countersign-secrets");
    assert_eq!((&mount["mountPath"], &mount["readOnly"]), (&json!("/run/countersign/secrets"), &json!(true)));
    let pointer = &documents(&desk.read("maps.yaml"))[1]["data"]["initdata-configmap"];
    assert_eq!(&named(&spec["volumes"], "countersign-initdata")["configMap"]["name"], pointer);
    // And the checker, which knows nothing of the table, has nothing to say of the annotation.
    desk.write("rendered.yaml", &out[0].to_string());
    let said = desk.run(&["check", "--pod", "rendered.yaml", "i.toml"]);
    assert!(!format!("{}{}", said.out, said.err).contains("annotation-"), "{}", said.out);
}

fn the_workload_and_its_pod_get_the_same() {
    let desk = desk();
    let base = ["-f", "app.yaml", "--tier", "prod-snp", "--configmap", "maps.yaml"];
    let workload = render(&desk, &base);
    let pod = render(&desk, &[base.as_slice(), &["--pods"]].concat());
    assert_eq!(workload[0]["spec"]["template"]["spec"], pod[0]["spec"]);
    assert_eq!(workload[0]["spec"]["template"]["metadata"]["annotations"], pod[0]["metadata"]["annotations"]);
    assert_eq!(pod[0]["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
}

fn rendering_what_is_rendered_changes_nothing() {
    let desk = Desk::new();
    let corpus = tree("policies/corpus/workloads.yaml").display().to_string();
    let cluster = tree("policies/corpus/cluster.yaml").display().to_string();
    for tier in ["tiers/dev", "tiers/prod-snp", "tiers/peer-pods", "corpus/tiers/sidecar", "corpus/tiers/direct"] {
        let tier = tree(&format!("policies/{tier}.toml")).display().to_string();
        let arguments = |file: &str| {
            ["render", "--image", IMAGE, "-f", file, "--tier-file", &tier, "--configmap", &cluster].map(str::to_owned)
        };
        let run = |file: &str| {
            let arguments = arguments(file);
            let said = desk.tool(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(said.code, 0, "{}", said.err);
            said.out
        };
        let once = run(&corpus);
        desk.write("once.yaml", &once);
        assert_eq!(run("once.yaml"), once, "{tier}");
    }
}

fn the_app_keeps_what_it_set_and_ours_run_as_the_app() {
    let made = pod_of(&pod(&json!({
        "securityContext": { "runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000 },
        "initContainers": [{ "name": "migrate", "image": "m", "command": ["migrate"] }],
        "containers": [{ "name": "web", "image": "w", "args": ["serve"], "securityContext": { "runAsUser": 1001 } }],
        "volumes": [{ "name": "data", "emptyDir": {} }],
    })));
    let spec = &made["spec"];
    assert_eq!(spec["securityContext"], json!({ "runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000 }));
    let names: Vec<&Value> = spec["initContainers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["countersign-init", "countersign", "migrate"], "the gate comes first");
    assert_eq!(spec["containers"][0]["args"], json!(["serve"]));
    assert_eq!(spec["initContainers"][2]["command"], json!(["migrate"]));
    let ours = &spec["initContainers"][0]["securityContext"];
    assert_eq!((&ours["runAsUser"], &ours["runAsGroup"]), (&json!(1001), &json!(3000)));
    assert_eq!(spec["volumes"][0], json!({ "name": "data", "emptyDir": {} }));
}

fn a_root_app_does_not_make_ours_root() {
    let made = pod_of(&pod(&json!({
        "containers": [{ "name": "a", "image": "w", "securityContext": { "runAsUser": 0, "runAsGroup": 0 } }],
    })));
    let ours = &made["spec"]["initContainers"][0]["securityContext"];
    assert_eq!((&ours["runAsUser"], &ours["runAsGroup"]), (&json!(65532), &json!(65532)));
    assert_eq!(made["spec"]["containers"][0]["securityContext"]["runAsUser"], 0);
}

/// `PodSecurity` `restricted`, as far as what we add can break it.
fn restricted(pod: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let spec = &pod["spec"];
    for volume in spec["volumes"].as_array().unwrap() {
        let allowed = [
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        ];
        if !allowed.iter().any(|kind| volume.get(kind).is_some()) {
            broken.push(format!("volume {}", volume["name"]));
        }
    }
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array().into_iter().flatten() {
            let context = &container["securityContext"];
            let of_pod = |key: &str| if context[key].is_null() { &spec["securityContext"][key] } else { &context[key] };
            let good = context["allowPrivilegeEscalation"] == false
                && context["capabilities"]["drop"] == json!(["ALL"])
                && context["capabilities"]["add"].is_null()
                && of_pod("runAsNonRoot") == true
                && *of_pod("runAsUser") != 0
                && ["RuntimeDefault", "Localhost"].iter().any(|kind| of_pod("seccompProfile")["type"] == *kind)
                && container["ports"]
                    .as_array()
                    .is_none_or(|ports| ports.iter().all(|port| port["hostPort"].is_null()));
            if !good {
                broken.push(format!("container {}", container["name"]));
            }
        }
    }
    broken
}

fn what_passes_restricted_still_passes() {
    let desk = desk();
    desk.write(
        "pod.yaml",
        &pod(&json!({
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "web", "image": "w",
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        })),
    );
    let of = |tier: &str| {
        let tier = tree(&format!("policies/{tier}.toml")).display().to_string();
        let said = render(&desk, &["-f", "pod.yaml", "--tier-file", &tier, "--configmap", "maps.yaml", "--pods"]);
        restricted(&said[0])
    };
    for tier in ["tiers/dev", "tiers/prod-snp", "tiers/prod-tdx", "tiers/peer-pods", "corpus/tiers/sidecar"] {
        assert_eq!(of(tier), Vec::<String>::new(), "{tier}");
    }
    // By name: uid 0 and a hostPath, for the kernel's configfs, and nothing else.
    assert_eq!(
        of("corpus/tiers/direct"),
        ["volume \"countersign-configfs\"", "container \"countersign-init\"", "container \"countersign\""]
    );
}

fn the_sidecar_takes_over_the_named_port_the_probes_and_loopback() {
    let desk = desk();
    desk.write(
        "pod.yaml",
        &pod(&json!({ "containers": [{
            "name": "web", "image": "w",
            "env": [{ "name": "MODE", "value": "x" }],
            "ports": [{ "name": "http", "containerPort": 8080 }, { "name": "admin", "containerPort": 9090 }],
            "readinessProbe": { "httpGet": { "path": "/ready", "port": "http" }, "periodSeconds": 3 },
            "livenessProbe": { "httpGet": { "port": 9090, "scheme": "HTTPS" } },
        }, { "name": "other", "image": "o", "env": [{ "name": "HOST", "value": "::1" }] }] })),
    );
    let tier = tree("policies/corpus/tiers/sidecar.toml").display().to_string();
    let render =
        ["render", "--image", IMAGE, "-f", "pod.yaml", "--tier-file", &tier, "--configmap", "maps.yaml", "--pods"];
    let made = documents(&desk.tool(&render).out);
    let spec = &made[0]["spec"];
    let web = &spec["containers"][0];
    assert_eq!(web["ports"][0], json!({ "name": "app-8080", "containerPort": 8080, "protocol": "TCP" }));
    assert_eq!(web["ports"][1], json!({ "name": "admin", "containerPort": 9090 }));
    let ready =
        json!({ "httpGet": { "path": "/probe/8080/ready", "port": 15821, "scheme": "HTTP" }, "periodSeconds": 3 });
    assert_eq!(web["readinessProbe"], ready);
    assert_eq!(web["livenessProbe"]["httpGet"], json!({ "path": "/probe/9090/", "port": 15821, "scheme": "HTTP" }));
    assert_eq!(named(&web["env"], "HOST")["value"], "127.0.0.1");
    assert_eq!(named(&spec["containers"][1]["env"], "HOST")["value"], "::1", "what the app says holds");
    let sidecar = &spec["initContainers"][1];
    assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&json!("countersign"), &json!("Always")));
    assert_eq!(named(&sidecar["ports"], "http")["containerPort"], 8443);
    for (probe, path) in [("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")] {
        assert_eq!(sidecar[probe]["httpGet"]["path"], path);
        assert_eq!(sidecar[probe]["httpGet"]["port"], 15821);
    }
}

/// A countersign.toml of the workload `api` whose sidecar asks the app for these paths.
fn serving(probes: &str) -> String {
    format!(
        "version = 1\nserial = 1\nfor = {{ namespace = \"payments\", workload = \"api\" }}\n[identity]\nsource = \"self\"\n\
         spiffe = \"spiffe://example.org/ns/payments/sa/api\"\n[peers]\ntrust = \"roots\"\nroots = \
         \"kbs:///payments/mesh/roots\"\n[[inbound]]\nlisten = \"[::]:8443\"\napp = \"127.0.0.1:8080\"\nallow = \
         [\"spiffe://example.org/ns/web/sa/*\"]\nprobes = [{probes}]\n"
    )
}

fn a_probe_that_the_sidecar_will_not_answer_is_told_with_the_key_to_add() {
    let desk = desk();
    let ports = "ports: [{ name: http, containerPort: 8080 }]";
    let probe = format!("{ports}, readinessProbe: {{ httpGet: {{ path: /healthz, port: http }} }}");
    desk.write("app.yaml", &DEPLOYMENT.replace(ports, &probe));
    let render = |more: &[&str]| {
        let base = ["render", "--image", IMAGE, "-f", "app.yaml", "--tier", "prod-snp"];
        let said = desk.tool(&[&base, more].concat());
        assert_eq!(said.code, 0, "{}", said.err);
        said.err
    };
    let measured = |probes: &str| {
        desk.write("measured.toml", &format!("{INITDATA}\"countersign.toml\" = '''\n{}'''\n", serving(probes)));
        render(&["--initdata", "measured.toml"])
    };
    assert_eq!(measured("\"/healthz\""), "");
    let said = measured("\"/other\"");
    for part in [
        "note: Deployment api: readinessProbe of container api asks for /healthz of port 8080",
        "answers with 404",
        "add `probes = [\"/healthz\"]` to the `[[inbound]]` of port 8080",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Not in the initdata: known only where it is named, and only for the workload that it is for.
    desk.write("mine.toml", &serving("\"/healthz\""));
    desk.write("other.toml", &serving("\"/healthz\"").replace("workload = \"api\"", "workload = \"web\""));
    assert_eq!(render(&["--initdata", "i.toml", "--delivered", "other.toml", "--delivered", "mine.toml"]), "");
    desk.write("mine.toml", &serving(""));
    let said = render(&["--initdata", "i.toml", "--delivered", "mine.toml"]);
    assert!(said.contains("answers with 404"), "{said}");
    for unknown in [&["--initdata", "i.toml", "--delivered", "other.toml"][..], &["--initdata", "i.toml"]] {
        let said = render(unknown);
        assert!(
            said.contains("answered only where the configuration lists it") && said.contains("--delivered"),
            "{said}"
        );
        assert!(said.contains("`app = \"127.0.0.1:8080\"` and `probes = [\"/healthz\"]`"), "{said}");
    }
    desk.write("measured.toml", &format!("{INITDATA}\"countersign.toml\" = '''\nversion = 2\n'''\n"));
    assert!(
        render(&["--initdata", "measured.toml"]).contains("has mistakes: run `kubectl countersign initdata check`")
    );
}

fn a_path_without_a_slash_is_asked_for_as_the_kubelet_would() {
    for (path, asked) in [("healthz", "/probe/8080/healthz"), ("/healthz", "/probe/8080/healthz"), ("", "/probe/8080/")]
    {
        let desk = desk();
        let probe = json!({ "httpGet": { "path": path, "port": 8080 } });
        let containers = json!([{ "name": "api", "image": "registry.example/api", "readinessProbe": probe }]);
        desk.write("pod.yaml", &pod(&json!({ "containers": containers })));
        let run = desk.tool(&["render", "--image", IMAGE, "-f", "pod.yaml", "--tier", "prod-snp", "--pods"]);
        let pod = documents(&run.out).remove(0);
        assert_eq!(pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"], asked, "{path:?}");
    }
}

fn a_probe_that_no_configuration_mends_is_told_as_that() {
    let desk = desk();
    let ports = "ports: [{ name: http, containerPort: 8080 }]";
    desk.write("measured.toml", &format!("{INITDATA}\"countersign.toml\" = '''\n{}'''\n", serving("\"/healthz\"")));
    for (get, next) in [
        ("{ path: \"/healthz?ready=1\", port: http }", "remove the query"),
        ("{ path: /probe/8080healthz, port: 15821 }", "write the app's own path and port"),
    ] {
        desk.write("app.yaml", &DEPLOYMENT.replace(ports, &format!("{ports}, readinessProbe: {{ httpGet: {get} }}")));
        for initdata in ["measured.toml", "i.toml"] {
            let base = ["render", "--image", IMAGE, "-f", "app.yaml", "--tier", "prod-snp", "--initdata", initdata];
            let said = desk.tool(&base).err;
            assert!(said.contains("answers with 404") && said.contains(next), "{get}: {said}");
            assert!(!said.contains("add `probes") && !said.contains("add an `[[inbound]]`"), "{get}: {said}");
        }
    }
}

fn a_delivered_file_that_no_kbs_could_deliver_is_refused() {
    let desk = desk();
    for text in ["version = 2\n".to_owned(), serving("").replace("for = ", "# for = ")] {
        desk.write("mine.toml", &text);
        let render = ["render", "--image", IMAGE, "-f", "app.yaml", "--tier", "prod-snp", "--delivered", "mine.toml"];
        let refused = desk.tool(&render).refused(64);
        assert!(refused.contains("--delivered: mine.toml is not a configuration that a KBS can deliver"), "{refused}");
    }
}

fn our_names_are_ours() {
    let made = pod_of(&pod(&json!({
        "initContainers": [
            { "name": "own", "image": "o" },
            { "name": "countersign-init", "image": "evil", "command": ["true"] },
            { "name": "countersign", "image": "evil", "restartPolicy": "Always" },
        ],
        "containers": [{
            "name": "a", "image": "w",
            "volumeMounts": [{ "name": "x", "mountPath": "/run/countersign/secrets", "readOnly": false }],
        }],
        "volumes": [{ "name": "countersign-secrets", "hostPath": { "path": "/tmp" } }],
    })));
    let text = made.to_string();
    assert!(!text.contains("evil") && !text.contains("hostPath"), "{made:#}");
    assert_eq!(made["spec"]["initContainers"][0]["command"], Value::Null);
    let mount = &made["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!((&mount["name"], &mount["readOnly"]), (&json!("countersign-secrets"), &json!(true)));
}

fn without_a_configmap_the_pod_cannot_start() {
    let desk = desk();
    let said = desk.tool(&["render", "--image", IMAGE, "-f", "app.yaml", "--tier", "prod-snp"]);
    assert_eq!(said.code, 0);
    assert!(said.err.contains("note: Deployment api has no initdata"), "{}", said.err);
    let template = &documents(&said.out)[0]["spec"]["template"];
    assert_eq!(template["metadata"]["annotations"], Value::Null);
    let volume = named(&template["spec"]["volumes"], "countersign-initdata");
    assert_eq!(volume["configMap"], json!({ "name": "api-initdata-missing" }), "mandatory, and there is none");
}

fn a_configmap_of_the_policy_library_is_taken_as_it_is() {
    let desk = desk();
    desk.write(
        "pod.yaml",
        &json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "p", "namespace": "payments", "annotations": { "coco.io/initdata-configmap": "lib" } },
            "spec": { "containers": [{ "name": "a", "image": "w" }] },
        })
        .to_string(),
    );
    desk.write(
        "lib.yaml",
        &json!({ "kind": "ConfigMap", "metadata": { "name": "lib", "namespace": "payments" }, "data": { "data": "H4sIxx" } })
            .to_string(),
    );
    let made = render(&desk, &["-f", "pod.yaml", "--tier", "prod-snp", "--configmap", "lib.yaml"]);
    assert_eq!(made[0]["metadata"]["annotations"][ANNOTATION], "H4sIxx");
    assert_eq!(named(&made[0]["spec"]["volumes"], "countersign-initdata")["configMap"]["name"], "lib");
}

fn the_initdata_itself_does_for_the_configmaps_of_one_workload() {
    let desk = desk();
    let base = ["-f", "app.yaml", "--tier", "prod-snp"];
    let by_map = render(&desk, &[base.as_slice(), &["--configmap", "maps.yaml"]].concat());
    let by_initdata = render(&desk, &[base.as_slice(), &["--initdata", "i.toml"]].concat());
    assert_eq!(by_map, by_initdata);
    desk.write(
        "two.yaml",
        &format!("{DEPLOYMENT}---\n{}", DEPLOYMENT.replace("name: api, namespace", "name: web, namespace")),
    );
    let refused = desk.tool(&["render", "-f", "two.yaml", "--tier", "dev", "--initdata", "i.toml"]).refused(64);
    assert!(refused.contains("--initdata is for one workload"), "{refused}");
}

fn the_initdata_itself_does_for_a_configmap_that_the_pod_names() {
    let desk = desk();
    let maps = desk.run(&["configmap", "--workload", "shared-1", "--namespace", "payments", "i.toml"]).ok();
    desk.write("shared.yaml", &maps);
    let release = documents(&maps)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    for name in ["shared-1", &release] {
        let said = format!("labels: {{ app: api }}, annotations: {{ coco.io/initdata-configmap: {name} }}");
        desk.write(
            "app.yaml",
            &DEPLOYMENT.replace("metadata: { labels: { app: api }", &format!("metadata: {{ {said}")),
        );
        let base = ["-f", "app.yaml", "--tier", "prod-snp"];
        let by_initdata = render(&desk, &[base.as_slice(), &["--initdata", "i.toml"]].concat());
        assert_eq!(by_initdata, render(&desk, &[base.as_slice(), &["--configmap", "shared.yaml"]].concat()), "{name}");
        let template = &by_initdata[0]["spec"]["template"];
        assert!(template["metadata"]["annotations"][ANNOTATION].is_string(), "{name}");
        assert_eq!(named(&template["spec"]["volumes"], "countersign-initdata")["configMap"]["name"], *release);
        let env = &template["spec"]["initContainers"][0]["env"];
        assert_eq!(named(env, "COUNTERSIGN_WORKLOAD")["value"], "api", "the workload is the pod's");
    }
}

fn a_pod_that_opts_out_stays_as_it_is() {
    let desk = desk();
    let plain = DEPLOYMENT.replace("labels: { app: api }", "labels: { app: api, coco.io/skip-initdata: \"false\" }");
    desk.write("out.yaml", &plain);
    let said = desk.tool(&["render", "--image", IMAGE, "-f", "out.yaml", "--tier", "prod-snp"]);
    assert!(said.err.contains("has the label coco.io/skip-initdata: it stays as it is"), "{}", said.err);
    assert_eq!(documents(&said.out), documents(&plain), "whatever the label's value");
}

fn the_diagnose_annotation_changes_the_role() {
    let of = |value: &str| {
        pod_of(
            &json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": "api", "namespace": "payments", "annotations": { "countersign.dev/diagnose": value } },
                "spec": { "containers": [{ "name": "a", "image": "w" }] },
            })
            .to_string(),
        )
    };
    let role = |made: &Value| named(&made["spec"]["initContainers"][0]["env"], "COUNTERSIGN_ROLE")["value"].clone();
    let (asked, not) = (of("true"), of("false"));
    assert_eq!(role(&asked), "diagnose");
    assert_eq!(role(&not), "init");
    for other in ["", "TRUE", "yes"] {
        assert_eq!(role(&of(other)), "init", "{other}");
    }
    // And nothing else: the whole pods differ in the annotation and in that one variable.
    let text = asked.to_string();
    let same = text
        .replace("\"countersign.dev/diagnose\":\"true\"", "\"countersign.dev/diagnose\":\"false\"")
        .replace("\"value\":\"diagnose\"", "\"value\":\"init\"");
    assert_eq!(same, not.to_string());
    assert_eq!(text.matches("diagnose").count(), 2, "the annotation, and the role of one container: {text}");
}

fn a_manifest_that_kubernetes_would_not_take_is_refused() {
    let desk = desk();
    for spec in [
        json!({ "containers": "x" }),
        json!({ "containers": [] }),
        json!({ "containers": [{ "image": "w" }] }),
        json!({ "containers": [{ "name": "a" }], "initContainers": 7 }),
        json!({ "containers": [{ "name": "a" }], "volumes": {} }),
        json!({ "containers": [{ "name": "a" }], "securityContext": [] }),
    ] {
        desk.write("pod.yaml", &pod(&spec));
        let refused = desk.tool(&["render", "--image", IMAGE, "-f", "pod.yaml", "--tier", "prod-snp"]).refused(64);
        assert!(refused.contains("Pod api: "), "{refused}");
    }
    desk.write(
        "pod.yaml",
        "kind: Pod\nmetadata: { name: \"a\\e[31m\", annotations: [] }\nspec: { containers: [{ name: a }] }\n",
    );
    let refused = desk.tool(&["render", "--image", IMAGE, "-f", "pod.yaml", "--tier", "prod-snp"]).refused(64);
    assert!(!refused.contains('\u{1b}'), "no control character reaches the terminal: {refused:?}");
}

fn what_cannot_be_rendered_is_refused_with_a_next_step() {
    let desk = desk();
    desk.write("broken.yaml", "a: [\n");
    desk.write("service.yaml", "kind: Service\nmetadata: { name: s }\n");
    desk.write("tier.toml", "name = \"x\"\ncolour = \"red\"\n");
    for (arguments, said) in [
        (vec!["-f", "app.yaml", "--tier", "prod"], "--tier: there is no tier of that name"),
        (vec!["-f", "app.yaml", "--tier-file", "tier.toml"], "--tier-file: it is not a tier"),
        (vec!["-f", "nowhere.yaml", "--tier", "dev"], "nowhere.yaml cannot be read"),
        (vec!["-f", "broken.yaml", "--tier", "dev"], "broken.yaml, line 2: it is not YAML"),
        (vec!["-f", "service.yaml", "--tier", "dev"], "the manifests have no pod"),
        (vec!["-f", "app.yaml", "--tier", "dev", "--image", "a b"], "--image: `image` is empty"),
    ] {
        let refused = desk.tool(&[&["render"], arguments.as_slice()].concat()).refused(64);
        assert!(refused.contains(said), "{said}: {refused}");
    }
}

fn production_takes_no_image_without_a_digest() {
    let desk = desk();
    for command in [vec!["render", "-f", "app.yaml"], vec!["policies", "emit"]] {
        let tagged = ["--tier", "prod-tdx", "--image", "registry.example/countersign:1"];
        let refused = desk.tool(&[command.as_slice(), &tagged].concat()).refused(64);
        assert!(refused.contains("`image` has no digest"), "{refused}");
    }
}

fn the_policies_in_the_tree_are_what_the_table_emits() {
    library::compare(&Desk::new(), &tree("policies"));
}
