//! `kubectl countersign initdata check`: a good initdata passes production, and every rule finds
//! what it is there for, on the right line.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "initdata_cli/tool.rs"]
mod tool;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::tool::initdata::check::rules;
use countersign_testbed::expect::starts_with_a_verb;
use countersign_testbed::pki::{Ca, Identity};
use serde_json::Value;
use tool::Desk;

countersign_testbed::main! {
    a_good_initdata_passes_production_with_its_pod,
    every_mistake_is_found_on_its_line,
    every_mistake_in_the_manifest_is_found_on_its_line,
    every_rule_has_a_sample_and_a_next_step,
    what_crashes_katas_shims_is_refused,
    all_problems_are_told_at_once,
    a_section_on_one_line_has_one_line,
    warnings_alone_end_with_0,
    what_production_refuses_is_a_warning_without,
    the_starter_passes_without_prod,
    the_example_passes_without_prod,
    the_policy_of_the_real_generator_is_understood [Vectors],
    the_malformed_initdata_of_the_vectors_are_refused [Vectors],
    a_looping_policy_ends,
    files_that_cannot_be_read_are_refused,
}

const DOCUMENT: &str = include_str!("initdata_check/initdata.toml");
const POLICY: &str = include_str!("initdata_check/policy.rego");
const POD: &str = include_str!("initdata_check/pod.yaml");

/// Where the agent's rules are reported: the last part of the policy.
const DATA_LINE: &str = "policy_data := {";

/// The end of the policy, and an end that no generator writes.
const LAST_LINE: &str = "/shared/containers\" }\n}\n";
const AFTER_IT: &str = "/shared/containers\" }\n}\nlater := 1\n";

fn good() -> String {
    DOCUMENT.replace("POLICY", POLICY.trim_end()).replace("PEM", Ca::new("KBS CA").pem().trim_end())
}

/// A place where a problem is expected.
#[derive(Clone, Copy, Debug)]
enum At {
    /// The first line that has this text in it.
    First(&'static str),
    /// This line.
    Line(usize),
    /// No line.
    Nowhere,
}

impl At {
    fn line(self, text: &str) -> Option<u64> {
        let found = |needle: &str| text.lines().position(|line| line.contains(needle));
        let index = match self {
            Self::Nowhere => return None,
            Self::Line(line) => line - 1,
            Self::First(needle) => found(needle).unwrap_or_else(|| panic!("{needle} is not there")),
        };
        Some(u64::try_from(index).unwrap() + 1)
    }
}

/// What `check --json` found: rule and line, and whether anything was refused.
fn found(desk: &Desk, arguments: &[&str]) -> (Vec<(String, Option<u64>, Value)>, bool) {
    let run = desk.run(&[&["check", "--json"], arguments].concat());
    let json: Value = serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error}: {run:?}"));
    assert_eq!(run.code == 78, json["ok"] == false, "{run:?}");
    assert!(matches!(run.code, 0 | 78), "{run:?}");
    let problems = json["problems"].as_array().unwrap().iter();
    let problems = problems
        .map(|problem| (problem["rule"].as_str().unwrap().to_owned(), problem["line"].as_u64(), problem.clone()));
    (problems.collect(), run.code == 78)
}

fn a_good_initdata_passes_production_with_its_pod() {
    let desk = Desk::new();
    desk.write("i.toml", &good());
    let annotation = desk.run(&["pack", "i.toml"]).ok();
    desk.write("pod.yaml", &POD.replace("ANNOTATION", annotation.trim_end()));
    let out = desk.run(&["check", "--prod", "--peer-pods", "--pod", "pod.yaml", "i.toml"]).ok();
    assert!(out.starts_with("i.toml: ok: 0 refused, 0 warned of; HOST_DATA "), "{out}");
    desk.write("annotation", &annotation);
    desk.run(&["check", "--prod", "annotation"]).ok();
}

/// Rule, what is replaced by what in the good document, where the problem is expected.
type Sample = (&'static str, &'static str, &'static str, At);

const SAMPLES: &[Sample] = &[
    ("toml", "algorithm = \"sha256\"", "algorithm = sha256", At::Line(2)),
    ("version", "version = \"0.1.0\"", "version = \"0.2.0\"", At::Line(3)),
    ("version", "version = \"0.1.0\"\n", "", At::Line(1)),
    ("algorithm", "algorithm = \"sha256\"", "algorithm = \"sha-256\"", At::Line(2)),
    ("algorithm", "algorithm = \"sha256\"\n", "", At::Line(1)),
    ("algorithm", "algorithm = \"sha256\"", "algorithm = 256", At::Line(2)),
    ("data", "\"aa.toml\" = '''\n[token_configs", "x = 7\n\"aa.toml\" = '''\n[token_configs", At::First("x = 7")),
    ("data", "\"aa.toml\" =", "aa.toml =", At::First("aa.toml =")),
    ("data", "[data]", "[dato]", At::Line(1)),
    ("top-key", "version = \"0.1.0\"", "version = \"0.1.0\"\npod_name = \"pod1\"", At::Line(4)),
    ("top-key", "[data]", "[dato]", At::First("[dato]")),
    ("section-name", "\"policy.rego\" =", "\"policy.reg\" =", At::First("policy.reg")),
    ("inner-toml", "[token_configs.kbs]", "[token_configs.kbs", At::First("[token_configs.kbs")),
    ("inner-toml", "name = \"cc_kbc\"\nurl =", "name = \"cc_kbc\"\nurl = 7 #", At::First("url = 7")),
    ("inner-toml", "[kbc]", "kbc = 7\n[other]", At::First("kbc = 7")),
    ("inner-toml", "kbs_cert = \"\"\"", "kbs_cert = 7\nx = \"\"\"", At::First("kbs_cert = 7")),
    ("aa-kbs", "[token_configs.kbs]", "[token_configs.coco_as]", At::First("coco_as")),
    ("aa-kbs", "\"aa.toml\" =", "\"some.toml\" =", At::First("[data]")),
    ("aa-kbs", "url = \"https://kbs.example:8443\"   # of aa", "", At::First("[token_configs.kbs]")),
    ("cdh-kbs", "[kbc]", "[kbd]", At::First("[kbd]")),
    ("cdh-kbs", "\"cdh.toml\" =", "\"some.toml\" =", At::First("[data]")),
    ("kbc-name", "name = \"cc_kbc\"", "name = \"offline_fs_kbc\"", At::First("offline_fs_kbc")),
    ("kbc-name", "name = \"cc_kbc\"\n", "", At::First("[kbc]")),
    ("kbs-url", "kbs.example:8443\"   # of aa", "kbs.example:844300\"", At::First("844300")),
    ("kbs-url", "https://kbs.example:8443\"   # of cdh", "kbs.example:8443\" # cdh", At::First("# cdh")),
    (
        "kbs-http",
        "https://kbs.example:8443\"   # of cdh",
        "http://kbs.example:8443\"   # of cdh",
        At::First("# of cdh"),
    ),
    ("ca-without-tls", "https://kbs.example:8443\"   # of aa", "http://127.0.0.1:1\"   # of aa", At::First("# of aa")),
    ("kbs-ca", "cert = \"\"\"", "cert = \"\"\nx = \"\"\"", At::First("# of aa")),
    ("pem", "kbs_cert = \"\"\"\n-----BEGIN", "kbs_cert = \"\"\"\n-----BEGUN", At::First("BEGUN")),
    ("pem", "kbs_cert = \"\"\"\n", "kbs_cert = \"\"\"\nnone\"\"\"\nx = \"\"\"\n", At::First("none")),
    (
        "pem",
        "kbs_cert = \"\"\"\n",
        "kbs_cert = \"\"\"\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        At::First("BEGIN PRIVATE KEY"),
    ),
    (
        "pem",
        "kbs_cert = \"\"\"\n",
        "kbs_cert = \"\"\"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        At::First("kbs_cert = "),
    ),
    ("kbs-differ", "kbs.example:8443\"   # of cdh", "kbs.example:9443\"   # of cdh", At::First("# of cdh")),
    ("kbs-differ", "url = [\"https://kbs.example:8443\"]", "url = [\"https://other.example\"]", At::First("[kbs]")),
    (
        "sealed-unverified",
        "[kbc]",
        "skip_sealed_secret_verification = true\n[kbc]",
        At::First("skip_sealed_secret_verification"),
    ),
    (
        "credential",
        "[image]",
        "[[credentials]]\npath = \"/etc/x\"\nresource_uri = \"kbs:///a/b/c\"\n[image]",
        At::First("/etc/x"),
    ),
    (
        "credential",
        "[image]",
        "[[credentials]]\npath = \"/run/confidential-containers/cdh/kbs/x\"\nresource_uri = \"kbs://h/a/b/c\"\n[image]",
        At::First("kbs://h"),
    ),
    ("countersign", "serial = 7", "serail = 7", At::First("serail")),
    (
        "countersign",
        "from = \"kbs:///payments/db/password\"",
        "from = \"kbs:///payments\"",
        At::First("\"kbs:///payments\""),
    ),
    ("image-policy-absent", "[image]\nimage_security_policy", "[other]\nimage_security_policy", At::First("[data]")),
    ("image-policy-absent", "[image]\nimage_security_policy", "[image]\nsecurity_policy", At::First("[image]")),
    ("image-uri", "[image]\n", "[image]\nsigstore_config_uri = \"https://x/y\"\n", At::First("https://x/y")),
    ("image-uri", "[image]\n", "[image]\nregistry_configuration_uri = \"kbs:///a/b\"\n", At::First("kbs:///a/b\"")),
    (
        "image-policy-file",
        "[image]\nimage_security_policy =",
        "[image]\nimage_security_policy_uri = \"file:///etc/policy.json\"\nx =",
        At::First("file:///etc"),
    ),
    (
        "image-policy-twice",
        "[image]\n",
        "[image]\nimage_security_policy_uri = \"kbs:///default/security-policy/x\"\n",
        At::First("{"),
    ),
    ("image-policy-form", "\"transports\": {", "\"transports\": ", At::First("\"docker\"")),
    ("image-policy-form", "\"sigstoreSigned\"", "\"sigstore\"", At::First("\"sigstore\"")),
    ("image-policy-form", "kbs:///default/cosign/key", "/cosign.key", At::First("/cosign.key")),
    ("image-policy-form", "\"default\": [{ \"type\": \"reject\" }],", "", At::First("{")),
    ("image-policy-lax", "\"reject\"", "\"insecureAcceptAnything\"", At::First("\"default\"")),
    ("agent-policy-absent", "\"policy.rego\" =", "\"some.rego\" =", At::First("[data]")),
    ("agent-policy-permissive", LAST_LINE, AFTER_IT, At::First("\"policy.rego\"")),
    ("agent-policy-rego", "mounts_are(wanted) if {", "mounts_are(wanted) if )", At::First("if )")),
    ("agent-policy-rego", "package agent_policy", "package other", At::First("# A small policy")),
    (
        "agent-policy-failures",
        "default AllowRequestsFailingPolicy := false",
        "AllowRequestsFailingPolicy if { true }",
        At::First("AllowRequestsFailingPolicy"),
    ),
    (
        "agent-policy-exec",
        "    some command in policy_data.containers[data.pstate[input.container_id]].exec_commands\n    command == input",
        "    data.pstate[input.container_id] >= 0\n    input",
        At::First("ExecProcessRequest"),
    ),
    (
        "agent-policy-set",
        "default SetPolicyRequest := false",
        "SetPolicyRequest if { true }",
        At::First("SetPolicyRequest"),
    ),
    ("agent-policy-swap", "default AddSwapRequest := false", "AddSwapRequest if { true }", At::First("AddSwapRequest")),
    (
        "agent-policy-mounts",
        "default UpdateEphemeralMountsRequest := false",
        "UpdateEphemeralMountsRequest if { count(input.storages) > 0 }",
        At::First("UpdateEphemeralMountsRequest"),
    ),
    ("agent-policy-other-args", "    command_is(wanted)\n", "", At::First(DATA_LINE)),
    ("agent-policy-other-env", "    variables_are(wanted)\n", "", At::First(DATA_LINE)),
    ("agent-policy-other-mount", "    mounts_are(wanted)\n", "", At::First(DATA_LINE)),
    ("agent-policy-own", "\"Args\": [\"/api\", \"--serve\"]", "\"Args\": \"/api\"", At::First(DATA_LINE)),
    (
        "agent-policy-own",
        "every storage in input.storages {",
        "count(input.storages) == 0\n    every storage in input.storages {",
        At::First(DATA_LINE),
    ),
    ("agent-policy-commands", "\"exec_commands\": []", "\"exec_commands\": [[\"/probe\"]]", At::First(DATA_LINE)),
    (
        "agent-policy-silent",
        "default GetDiagnosticDataRequest := true",
        "default GetDiagnosticDataRequest := false",
        At::First("ReadStreamRequest"),
    ),
];

fn every_mistake_is_found_on_its_line() {
    let good = good();
    let mut missed = Vec::new();
    for (rule, from, to, at) in SAMPLES {
        let desk = Desk::new();
        assert!(good.contains(from), "{rule}: the sample moved: {from}");
        // Only the first: a sample changes one thing.
        let text = good.replacen(from, to, 1);
        desk.write("i.toml", &text);
        let (problems, _) = found(&desk, &["--prod", "i.toml"]);
        let expected = at.line(&text);
        if !problems.iter().any(|(id, line, _)| id == rule && *line == expected) {
            let told: Vec<_> = problems.iter().map(|(id, line, problem)| (id, line, problem["saw"].clone())).collect();
            missed.push(format!("{rule} at {expected:?} ({at:?}): {told:#?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// The same for what the manifest says: the manifest's text is changed, or the document's.
const IN_MANIFEST: &[Sample] = &[
    ("pod-manifest", "kind: Deployment", "kind: [", At::Nowhere),
    ("pod-manifest", "  template:", "  tomplate:", At::Nowhere),
    ("pod-image", "registry.example/payments/api@", "registry.example/other@", At::First("registry.example/other@")),
    ("pod-image-tag", "payments/api@sha256:22", "payments/api:22", At::First("payments/api:22")),
    ("pod-container", "  - name: api\n", "  - name: other\n", At::First("payments/api@")),
    ("pod-container", "payments/api@sha256:22", "payments/api@sha256:32", At::First("payments/api@sha256:32")),
    ("pod-container", "\"--serve\"", "\"--debug\"", At::First("payments/api@")),
    ("pod-container", "value: init", "value: sidecar", At::First("payments/countersign@")),
    ("pod-container", "{ name: HOST,", "{ name: HOSTS,", At::First("payments/api@")),
    ("annotation-key", "config.hypervisor.cc_init_data", "config.runtime.cc_init_data", At::First("config.runtime")),
    (
        "annotation-place",
        "  name: api\nspec:",
        "  name: api\n  annotations:\n    io.katacontainers.config.hypervisor.cc_init_data: H4sI\nspec:",
        At::First("cc_init_data: H4sI"),
    ),
    ("annotation-form", "ANNOTATION", "not-base64", At::First("not-base64")),
    ("annotation-form", "ANNOTATION", "YWxnb3JpdGhtID0gInNoYTI1NiI=", At::First("YWxnb3JpdGht")),
    ("annotation-other", "ANNOTATION", "OTHER", At::First("cc_init_data")),
    ("annotation-absent", "        io.katacontainers.config.hypervisor.cc_init_data: ANNOTATION\n", "", At::Nowhere),
    ("runtime-class", "      runtimeClassName: kata-qemu-snp\n", "", At::Nowhere),
];

fn every_mistake_in_the_manifest_is_found_on_its_line() {
    let desk = Desk::new();
    desk.write("i.toml", &good());
    let annotation = desk.run(&["pack", "i.toml"]).ok();
    desk.write("other.toml", &good().replace("serial = 7", "serial = 8"));
    let other = desk.run(&["pack", "other.toml"]).ok();
    for (rule, from, to, at) in IN_MANIFEST {
        assert!(POD.contains(from), "{rule}: the sample moved: {from}");
        let pod =
            POD.replacen(from, to, 1).replace("ANNOTATION", annotation.trim_end()).replace("OTHER", other.trim_end());
        desk.write("pod.yaml", &pod);
        let (problems, _) = found(&desk, &["--prod", "--pod", "pod.yaml", "i.toml"]);
        assert!(
            problems
                .iter()
                .any(|(id, line, problem)| id == rule && *line == at.line(&pod) && problem["file"] == "pod.yaml"),
            "{rule} at {at:?}: {problems:#?}"
        );
    }
    // A policy at the KBS cannot be evaluated, and that is said.
    let elsewhere = "image_security_policy_uri = \"kbs:///default/security-policy/x\"\nx =";
    desk.write("i.toml", &good().replace("image_security_policy =", elsewhere));
    desk.write("pod.yaml", POD);
    let (problems, _) = found(&desk, &["--pod", "pod.yaml", "i.toml"]);
    assert!(problems.iter().any(|(id, ..)| id == "pod-image-unknown"), "{problems:#?}");
}

/// Rules that need more than a replacement: each has its own test below.
const ELSEWHERE: &[&str] = &[
    "form",
    "annotation-size",
    "annotation-half",
    "peer-pod-size",
    "peer-pod-algorithm",
    "certificate-time",
    "certificate-kind",
    "agent-policy-other-image",
    "pod-image-unknown",
];

fn every_rule_has_a_sample_and_a_next_step() {
    let good = good();
    let desk = Desk::new();
    // Noise does not pack.
    let noise = |bytes: usize| {
        let mut state: u32 = 1;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        STANDARD.encode((0..bytes).map(|_| next()).collect::<Vec<u8>>())
    };
    let with = |text: &str| format!("{good}\n\"noise\" = \"{text}\"\n");
    let certificate = |pem: &str| DOCUMENT.replace("POLICY", POLICY).replace("PEM", pem.trim_end());
    let lax =
        good.replace("\"sigstoreSigned\", \"keyPath\": \"kbs:///default/cosign/key\"", "\"insecureAcceptAnything\"");
    for (rule, text, arguments) in [
        ("form", String::new(), &[][..]),
        ("annotation-size", with(&noise(200_000)), &[]),
        ("annotation-half", with(&noise(100_000)), &[]),
        ("peer-pod-size", with(&noise(40_000)), &["--peer-pods"]),
        ("peer-pod-algorithm", good.replace("\"sha256\"", "\"sha384\""), &["--peer-pods"]),
        ("certificate-time", certificate(Ca::new("x").expired_leaf(&["kbs.example"]).pem()), &[]),
        ("certificate-kind", certificate(Identity::self_signed_leaf(&["kbs.example"]).pem()), &[]),
        ("agent-policy-other-image", lax.replace("    image_is(wanted)\n", ""), &["--prod"]),
        // Data that names no image pins none.
        (
            "agent-policy-other-image",
            lax.replace("    image_is(wanted)\n", "").replace("image-name", "image"),
            &["--prod"],
        ),
    ] {
        desk.write("i.toml", &text);
        let (problems, _) = found(&desk, &[arguments, &["i.toml"]].concat());
        assert!(problems.iter().any(|(id, ..)| id == rule), "{rule}: {problems:#?}");
        if rule.starts_with("certificate") {
            let lines: Vec<_> = problems.iter().filter(|(id, ..)| id == rule).map(|(_, line, _)| *line).collect();
            let begins = text.lines().enumerate().filter(|(_, line)| line.starts_with("-----BEGIN"));
            let begins: Vec<_> = begins.map(|(index, _)| Some(u64::try_from(index).unwrap() + 1)).collect();
            assert_eq!(lines, begins, "each of the three certificates, on the line where it begins");
        }
    }
    // The image policy or the agent policy must pin the image; either will do.
    for pinned in [lax.clone(), good.replace("    image_is(wanted)\n", "")] {
        desk.write("i.toml", &pinned);
        desk.run(&["check", "--prod", "i.toml"]).ok();
    }
    let samples: BTreeSet<&str> = SAMPLES.iter().chain(IN_MANIFEST).map(|(rule, ..)| *rule).collect();
    let samples: BTreeSet<&str> = samples.into_iter().chain(ELSEWHERE.iter().copied()).collect();
    let known: BTreeSet<&str> = rules::all().map(|rule| rule.id).collect();
    assert_eq!(samples, known, "a rule without a sample is a rule that nobody has seen work");
    assert_eq!(known.len(), rules::all().count(), "an id stands twice");
    for rule in rules::all() {
        assert!(starts_with_a_verb(rule.next), "{}: {}", rule.id, rule.next);
    }
}

fn what_crashes_katas_shims_is_refused() {
    let good = good();
    let desk = Desk::new();
    desk.write("i.toml", &good);
    let annotation = desk.run(&["pack", "i.toml"]).ok();
    let annotation = annotation.trim_end();
    let packed = STANDARD.decode(annotation).unwrap();
    let rows: Vec<String> =
        annotation.as_bytes().chunks(76).map(|row| String::from_utf8(row.to_vec()).unwrap()).collect();
    let wrapped = rows.join("\n") + "\n";
    for (name, bytes, rule) in [
        (
            "an unknown algorithm leaves the Go shim without a hash",
            good.replace("\"sha256\"", "\"md5\"").into_bytes(),
            "algorithm",
        ),
        (
            "so does the specification's own spelling",
            good.replace("\"sha256\"", "\"sha-256\"").into_bytes(),
            "algorithm",
        ),
        ("and capitals", good.replace("\"sha256\"", "\"SHA256\"").into_bytes(), "algorithm"),
        ("lines of 76, as base64(1) writes them", wrapped.into_bytes(), "form"),
        ("base64url", annotation.replace('+', "-").replace('/', "_").into_bytes(), "form"),
        ("base64 without padding", format!("{}A", annotation.trim_end_matches('=')).into_bytes(), "form"),
        ("base64 of the TOML, not of gzip", STANDARD.encode(&good).into_bytes(), "form"),
        ("gzip cut off", packed[..packed.len() / 2].to_vec(), "form"),
        ("gzip with something behind it", [packed.clone(), vec![0; 4]].concat(), "form"),
        ("two members, which two readers read differently", [packed.clone(), packed].concat(), "form"),
        ("not text", b"\xff\xfe\x00".to_vec(), "form"),
        ("broken TOML", good.replace("[data]", "[data").into_bytes(), "toml"),
        ("another version", good.replace("\"0.1.0\"", "\"1\"").into_bytes(), "version"),
        ("sections that are tables", good.replace("\"aa.toml\" =", "[data.aa]\nx =").into_bytes(), "data"),
    ] {
        std::fs::write(desk.path("bad"), &bytes).unwrap();
        let (problems, refused) = found(&desk, &["bad"]);
        assert!(refused && problems.iter().any(|(id, ..)| id == rule), "{name}: {problems:#?}");
    }
}

fn all_problems_are_told_at_once() {
    let desk = Desk::new();
    let text = good()
        .replace("\"0.1.0\"", "\"9\"")
        .replace("\"sha256\"", "\"sha-256\"")
        .replace("serial = 7", "serail = 7")
        .replace("\"cc_kbc\"", "\"x\"")
        .replace("default SetPolicyRequest := false", "SetPolicyRequest if { true }");
    desk.write("i.toml", &text);
    let run = desk.run(&["check", "--prod", "i.toml"]);
    assert_eq!((run.code, run.out.as_str()), (78, ""));
    for part in [
        "i.toml:2: refused: `algorithm` is not spelled `sha256`, as Kata and Trustee spell it [algorithm]\n  why:  ",
        "i.toml:3: refused: ",
        "write `algorithm = \"sha256\"`",
        "[kbc-name]",
        "serail: unknown key",
        "write `serial`",
        "[agent-policy-set]",
        "i.toml: refused: 5 refused, 0 warned of",
    ] {
        assert!(run.err.contains(part), "{part} in {}", run.err);
    }
    let lines: Vec<u32> =
        run.err.lines().filter_map(|line| line.strip_prefix("i.toml:")?.split(':').next()?.parse().ok()).collect();
    assert!(lines.is_sorted() && lines.len() == 5, "{lines:?}");
}

fn a_section_on_one_line_has_one_line() {
    let desk = Desk::new();
    desk.write(
        "i.toml",
        "algorithm = \"sha256\"\nversion = \"0.1.0\"\n[data]\n\"cdh.toml\" = \"[kbc]\\nname = 'x'\\nurl = 'http://127.0.0.1'\"\n",
    );
    let (problems, _) = found(&desk, &["i.toml"]);
    assert!(problems.iter().any(|(id, line, _)| id == "kbc-name" && *line == Some(4)), "{problems:#?}");
}

fn warnings_alone_end_with_0() {
    let desk = Desk::new();
    desk.write("i.toml", &good().replace("version = \"0.1.0\"", "version = \"0.1.0\"\npod_name = \"a\""));
    let run = desk.run(&["check", "--prod", "i.toml"]);
    assert_eq!(run.code, 0);
    assert!(run.err.starts_with("i.toml:4: warning: ") && run.out.contains("ok: 0 refused, 1 warned of"), "{run:?}");
}

fn what_production_refuses_is_a_warning_without() {
    let desk = Desk::new();
    desk.write("i.toml", &good().replace("\"policy.rego\" =", "\"some.rego\" ="));
    assert_eq!(desk.run(&["check", "i.toml"]).code, 0);
    let run = desk.run(&["check", "--prod", "i.toml"]);
    assert!(run.code == 78 && run.err.contains("refused: there is no agent policy"), "{run:?}");
    desk.write("i.toml", &good().replace(LAST_LINE, AFTER_IT));
    assert_eq!(desk.run(&["check", "i.toml"]).code, 0);
    assert_eq!(desk.run(&["check", "--prod", "i.toml"]).code, 78);
}

fn the_starter_passes_without_prod() {
    let desk = Desk::new();
    desk.ca("ca.pem");
    let starter = ["new", "--kbs-url", "https://kbs.example:8443", "--kbs-ca", "ca.pem"];
    let full = ["--workload", "api", "--namespace", "payments", "--image", "registry.example/payments/api"];
    for (arguments, expected) in [
        (starter.to_vec(), &["agent-policy-absent", "image-policy-absent"][..]),
        ([starter.to_vec(), full.to_vec()].concat(), &["agent-policy-absent"]),
    ] {
        desk.write("i.toml", &desk.run(&arguments).ok());
        let (problems, refused) = found(&desk, &["i.toml"]);
        let mut ids: Vec<&str> = problems.iter().map(|(id, ..)| id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!((ids.as_slice(), refused), (expected, false));
    }
}

fn the_example_passes_without_prod() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/initdata/initdata.toml");
    let (problems, refused) = found(&Desk::new(), &[example]);
    let ids: Vec<&str> = problems.iter().map(|(id, ..)| id.as_str()).collect();
    assert_eq!((ids.as_slice(), refused), (&["agent-policy-absent"][..], false));
}

fn the_policy_of_the_real_generator_is_understood() {
    let file = countersign_testbed::runner::vectors().unwrap();
    let file = file.join("trustee/integration-tests/tests/init-data-with-policy.toml");
    let (problems, _) = found(&Desk::new(), &["--prod", file.to_str().unwrap()]);
    let ids: Vec<&str> = problems.iter().map(|(id, ..)| id.as_str()).collect();
    // Its rules admit its own containers, and deny commands, variables, mounts, exec and the rest.
    // They say themselves that they do not look at the image that is pulled.
    assert_eq!(ids, ["aa-kbs", "cdh-kbs", "agent-policy-silent", "agent-policy-other-image"]);
}

fn the_malformed_initdata_of_the_vectors_are_refused() {
    let vectors = countersign_testbed::runner::vectors().unwrap();
    // The block device's image is not what an annotation has.
    let image = vectors.join("generated/initdata/initdata.img");
    let (problems, refused) = found(&Desk::new(), &[image.to_str().unwrap()]);
    assert!(refused && problems[0].0 == "form", "{problems:#?}");
    // Kata's own minimal sample is well formed, and useless.
    let empty =
        vectors.join("kata-containers/tests/integration/kubernetes/runtimeclass_workloads/default-initdata.toml");
    let (problems, refused) = found(&Desk::new(), &["--prod", empty.to_str().unwrap()]);
    let ids: Vec<&str> = problems.iter().map(|(id, ..)| id.as_str()).collect();
    assert!(refused);
    assert_eq!(ids, ["aa-kbs", "cdh-kbs", "agent-policy-absent"]);
}

fn a_looping_policy_ends() {
    let desk = Desk::new();
    let long = "SetPolicyRequest if {\n    some a in numbers.range(1, 100000)\n    some b in numbers.range(1, 100000)\n    a * b == 7919 * 7927 * 3\n}";
    desk.write("i.toml", &good().replace("default SetPolicyRequest := false", long));
    let (problems, refused) = found(&desk, &["i.toml"]);
    assert!(refused && problems.iter().any(|(id, ..)| id == "agent-policy-rego"), "{problems:#?}");
}

fn files_that_cannot_be_read_are_refused() {
    let desk = Desk::new();
    desk.run(&["check", "absent.toml"]).refused(64);
    desk.write("i.toml", &good());
    let (problems, refused) = found(&desk, &["--pod", "absent.yaml", "i.toml"]);
    assert!(refused && problems.iter().any(|(id, ..)| id == "pod-manifest"), "{problems:#?}");
}
