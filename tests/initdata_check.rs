//! `kubectl countersign initdata check`: a good initdata passes production, and every rule finds
//! what it is there for, on the right line.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "initdata_check/samples.rs"]
mod samples;
#[path = "initdata_cli/tool.rs"]
mod tool;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::tool::initdata::check::rules;
use countersign_testbed::expect::starts_with_a_verb;
use countersign_testbed::pki::{Ca, Identity};
use samples::{AFTER_IT, At, IN_MANIFEST, LAST_LINE, SAMPLES};
use serde_json::Value;
use tool::Desk;

countersign_testbed::main! {
    a_good_initdata_passes_production_with_its_pod,
    every_mistake_is_found_on_its_line,
    every_mistake_in_the_manifest_is_found_on_its_line,
    every_rule_has_a_sample_and_a_next_step,
    what_crashes_katas_shims_is_refused,
    the_delivered_configuration_is_checked_with_its_initdata_and_its_pod,
    a_probe_without_its_path_in_the_configuration_is_refused,
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

fn good() -> String {
    DOCUMENT.replace("POLICY", POLICY.trim_end()).replace("PEM", Ca::new("KBS CA").pem().trim_end())
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
    "configmap-size",
    "peer-pod-size",
    "peer-pod-algorithm",
    "certificate-time",
    "certificate-kind",
    "agent-policy-other-image",
    "agent-policy-image-tag",
    "pod-image-unknown",
    "pod-probe",
    "delivered",
    "delivered-for",
    "delivered-shadowed",
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
    let tagged = |text: &str| text.replace(&format!("payments/api@sha256:{}", "2".repeat(64)), "payments/api:2");
    for (rule, text, arguments) in [
        ("form", String::new(), &[][..]),
        ("annotation-size", with(&noise(200_000)), &[]),
        ("annotation-half", with(&noise(100_000)), &[]),
        // 160 KiB of quotes, each of which is two bytes there.
        ("configmap-size", format!("{good}# {}\n", "\"".repeat(160 * 1024)), &[]),
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
        ("agent-policy-image-tag", tagged(&lax), &["--prod"]),
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
    for pinned in [lax.clone(), good.replace("    image_is(wanted)\n", ""), tagged(&good)] {
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

/// The good document in two parts: without countersign.toml, and that.
fn in_two() -> (String, String) {
    let good = good();
    let (before, rest) = good.split_once("\"countersign.toml\" = '''\n").unwrap();
    let (own, after) = rest.split_once("'''\n").unwrap();
    (format!("{before}{after}"), own.to_owned())
}

fn the_delivered_configuration_is_checked_with_its_initdata_and_its_pod() {
    let desk = Desk::new();
    let (initdata, own) = in_two();
    desk.write("i.toml", &initdata);
    desk.write("own.toml", &own);
    let annotation = desk.run(&["pack", "i.toml"]).ok();
    let pod = POD.replace("ANNOTATION", annotation.trim_end());
    desk.write("pod.yaml", &pod);
    let checked = |arguments: &[&str]| found(&desk, &[&["--prod", "--delivered", "own.toml"], arguments].concat());
    assert_eq!(checked(&["--pod", "pod.yaml", "i.toml"]), (Vec::new(), false));
    // On its own lines, and in its own name.
    for (rule, from, to, at) in [
        ("delivered", "serial = 7", "serail = 7", At::First("serail")),
        ("delivered", "for = {", "# for = {", At::Line(1)),
        ("kbs-differ", "https://kbs.example:8443", "https://other.example:8443", At::First("[kbs]")),
    ] {
        let text = own.replacen(from, to, 1);
        desk.write("own.toml", &text);
        let (problems, _) = checked(&["i.toml"]);
        let expected = at.line(&text);
        let told = |(id, line, problem): &(String, Option<u64>, Value)| {
            id == rule && *line == expected && problem["file"] == "own.toml"
        };
        assert!(problems.iter().any(told), "{rule} at {expected:?}: {problems:#?}");
    }
    desk.write("own.toml", &own);
    // The pod of another workload.
    let other = pod.replace(
        "- { name: COUNTERSIGN_WORKLOAD, valueFrom: { fieldRef: { fieldPath: metadata.name } } }",
        "- { name: COUNTERSIGN_WORKLOAD, value: web }",
    );
    desk.write("pod.yaml", &other);
    let (problems, refused) = checked(&["--pod", "pod.yaml", "i.toml"]);
    assert!(refused && problems.iter().any(|(id, ..)| id == "delivered-for"), "{problems:#?}");
    // One that is in the initdata as well is never read.
    desk.write("i.toml", &good());
    let (problems, refused) = checked(&["i.toml"]);
    assert!(!refused && problems.len() == 1 && problems[0].0 == "delivered-shadowed", "{problems:#?}");
    // A file that is not there.
    let (problems, refused) = found(&desk, &["--delivered", "absent.toml", "i.toml"]);
    assert!(refused && problems.iter().any(|(id, ..)| id == "delivered"), "{problems:#?}");
}

fn a_probe_without_its_path_in_the_configuration_is_refused() {
    let desk = Desk::new();
    let probe = "        command: [\"/api\", \"--serve\"]\n        readinessProbe: { httpGet: { path: /probe/8080/healthz, port: 15821 } }\n";
    let inbound = "[identity]\nsource = \"self\"\nspiffe = \"spiffe://example.org/ns/payments/sa/api\"\n[peers]\ntrust = \
                   \"roots\"\nroots = \"kbs:///payments/mesh/roots\"\n[[inbound]]\nlisten = \"[::]:8443\"\napp = \"127.0.0.1:8080\"\n\
                   allow = [\"spiffe://example.org/ns/web/sa/*\"]\n";
    let last = "from = \"kbs:///payments/db/password\"\n";
    let with = |own: &str| {
        desk.write("i.toml", &good().replace(last, &format!("{last}{own}")));
        let annotation = desk.run(&["pack", "i.toml"]).ok();
        let pod = POD.replace("ANNOTATION", annotation.trim_end());
        let pod = pod.replace("        command: [\"/api\", \"--serve\"]\n", probe);
        desk.write("pod.yaml", &pod);
        let (problems, refused) = found(&desk, &["--prod", "--pod", "pod.yaml", "i.toml"]);
        for (id, line, problem) in &problems {
            assert_eq!(
                (id.as_str(), *line, &problem["file"]),
                ("pod-probe", At::First("/probe/8080").line(&pod), &Value::from("pod.yaml"))
            );
        }
        (problems.first().map(|(_, _, problem)| problem["next"].as_str().unwrap().to_owned()), refused)
    };
    let (next, refused) = with("");
    assert!(refused && next.unwrap().starts_with("add an `[[inbound]]` with `app = \"127.0.0.1:8080\"`"));
    let (next, refused) = with(inbound);
    assert!(refused && next.unwrap().starts_with("add `probes = [\"/healthz\"]` to the `[[inbound]]` of port 8080"));
    assert_eq!(with(&format!("{inbound}probes = [\"/healthz\"]\n")), (None, false));
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
    assert_eq!(ids, ["aa-kbs", "cdh-kbs", "configuration-absent", "agent-policy-silent", "agent-policy-other-image"]);
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
    assert_eq!(ids, ["aa-kbs", "cdh-kbs", "configuration-absent", "agent-policy-absent"]);
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
