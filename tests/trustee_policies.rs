//! The policies for Trustee, evaluated on attestation results of the testbed's KBS and, where they are
//! beside the tree, on recorded ones.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_testbed::kbs::{Kbs, Policy};
use countersign_testbed::runner::vectors;
use countersign_testbed::tee::{Document, Guest, SnpGuest, TdxGuest, hex};
use regorus::{Engine, Value as Rego};
use serde_json::{Value, json};

countersign_testbed::main! {
    an_affirmed_guest_with_listed_initdata_reads_its_own,
    the_gate_of_a_new_initdata_is_released_to_listed_guests_alone,
    refused_initdata_that_is_not_listed_or_not_set,
    refused_guest_that_is_not_affirmed,
    refused_sample_and_unknown_tokens,
    recorded_tokens_are_refused [Vectors],
    a_known_guest_is_affirmed_by_the_attestation_policy,
    refused_debug_migration_unknown_measurement_and_other_tees,
}

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/trustee").join(name)).unwrap()
}

/// The whole digest of the initdata that guests here are launched with.
fn digest() -> Vec<u8> {
    document().digest()
}

fn document() -> Document {
    Document::of_kbs("https://kbs.example", "PEM")
}

/// Whether the resource policy, with these digests listed, releases a resource to these claims.
fn released(claims: &Value, listed: &[String], path: &str) -> bool {
    let text = file("resource.rego");
    let line = text.lines().find(|line| line.trim_start().starts_with("\"0000")).unwrap();
    let entries: Vec<String> = listed.iter().map(|digest| format!("\"{digest}\",")).collect();
    let mut engine = Engine::new();
    engine.add_policy("resource.rego".to_owned(), text.replace(line, &entries.join("\n"))).unwrap();
    let path: Vec<&str> = path.split('/').collect();
    let data = json!({"plugin": "resource", "resource-path": path, "query": {}});
    engine.add_data(Rego::from_json_str(&data.to_string()).unwrap()).unwrap();
    engine.set_input(Rego::from_json_str(&claims.to_string()).unwrap());
    engine.eval_rule("data.policy.allow".to_owned()).unwrap() == Rego::from(true)
}

/// What the testbed's KBS says of a guest; `known` where it has its reference value.
fn claims(guest: &Guest, known: bool, initdata: Option<&str>) -> Value {
    let kbs = Kbs::healthy().policy(Policy::AllowAll);
    let kbs = if known { kbs.reference(guest) } else { kbs };
    let token = kbs.on_loopback().handshake(guest, initdata).unwrap()["token"].as_str().unwrap().to_owned();
    payload(&token)
}

fn payload(token: &str) -> Value {
    let part = token.trim().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn snp() -> Guest {
    Guest::Snp(SnpGuest::genoa().initdata(&digest()))
}

fn tdx() -> Guest {
    Guest::Tdx(TdxGuest::v4().initdata(&digest()))
}

fn an_affirmed_guest_with_listed_initdata_reads_its_own() {
    let listed = [hex(&digest())];
    for guest in [snp(), tdx()] {
        let claims = claims(&guest, true, Some(&document().text()));
        assert!(released(&claims, &listed, "payments/db/password"));
        assert!(released(&claims, &listed, "default/countersign/payments.api"), "its own configuration");
        for other in
            ["web/db/password", "default/countersign/payments.web", "default/countersign/web.api", "payments/db"]
        {
            assert!(!released(&claims, &listed, other), "{other}");
        }
    }
    // sha256 fills half of MRCONFIGID; the rest is zeros.
    let short = [7; 32];
    let guest = Guest::Tdx(TdxGuest::v4().initdata(&short));
    assert!(released(&claims(&guest, true, None), &[hex(&short)], "payments/db/password"));
}

/// The resource that the gate of a new initdata asks for, as the example has it.
fn gate() -> String {
    let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/initdata/initdata.toml");
    let starter: toml::Table = fs::read_to_string(starter).unwrap().parse().unwrap();
    let own: toml::Table = starter["data"]["countersign.toml"].as_str().unwrap().parse().unwrap();
    let uri = own["secrets"]["gate"][0]["from"].as_str().unwrap();
    uri.strip_prefix("kbs:///").unwrap().to_owned()
}

fn the_gate_of_a_new_initdata_is_released_to_listed_guests_alone() {
    let (listed, gate) = ([hex(&digest())], gate());
    let affirmed = claims(&snp(), true, Some(&document().text()));
    assert!(released(&affirmed, &listed, &gate), "{gate}");
    for other in ["default/attestation-status/other", "default/other/status", "web/attestation-status/status"] {
        assert!(!released(&affirmed, &listed, other), "{other}");
    }
    assert!(!released(&affirmed, &["1".repeat(96)], &gate), "not listed");
    assert!(!released(&claims(&snp(), false, None), &listed, &gate), "not affirmed");
}

fn refused_initdata_that_is_not_listed_or_not_set() {
    let listed = [hex(&digest())];
    let other = Guest::Snp(SnpGuest::genoa().initdata(&[9; 48]));
    let none = Guest::Snp(SnpGuest::genoa());
    for guest in [other, none] {
        assert!(!released(&claims(&guest, true, None), &listed, "payments/db/password"));
    }
    let claims = claims(&Guest::Snp(SnpGuest::genoa()), true, None);
    assert!(!released(&claims, &["0".repeat(64)], "payments/db/password"), "zeros are nobody's initdata");
    assert!(!released(&claims, &[], "payments/db/password"));
    assert!(!released(&claims, &[String::new()], "payments/db/password"));
}

fn refused_guest_that_is_not_affirmed() {
    let listed = [hex(&digest())];
    assert!(!released(&claims(&snp(), false, None), &listed, "payments/db/password"));
    // A second part of the guest that nobody affirmed.
    let mut claims = claims(&snp(), true, None);
    claims["submods"]["gpu0"] = json!({"ear.status": "warning", "ear.veraison.annotated-evidence": {}});
    assert!(!released(&claims, &listed, "payments/db/password"));
}

fn refused_sample_and_unknown_tokens() {
    let listed = [hex(&digest())];
    let mut sample = claims(&Guest::Sample, true, Some(&document().text()));
    assert!(!released(&sample, &listed, "payments/db/password"));
    sample["submods"]["cpu0"]["ear.status"] = json!("affirming");
    sample["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["init_data"] = json!(hex(&digest()));
    assert!(!released(&sample, &listed, "payments/db/password"), "whatever it says of itself");
    let mut other = claims(&snp(), true, None);
    other["eat_profile"] = json!("tag:example");
    assert!(!released(&other, &listed, "payments/db/password"));
    for claims in [json!({}), json!({"submods": {}}), json!({"eat_profile": other["eat_profile"], "submods": {}})] {
        assert!(!released(&claims, &listed, "payments/db/password"));
    }
}

fn recorded_tokens_are_refused() {
    // All of them are of sample guests: what must not be released to any.
    let directory = vectors().unwrap().join("generated/tokens");
    let mut read = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "jwt") {
            let claims = payload(&fs::read_to_string(&path).unwrap());
            let said = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["init_data"];
            let listed = [said.as_str().unwrap_or_default().to_owned()];
            assert!(!released(&claims, &listed, "payments/db/password"), "{}", path.display());
            read += 1;
        }
    }
    assert!(read >= 3, "{read} tokens");
}

/// The trust claims for evidence, under these reference values.
fn appraised(evidence: &Value, references: &Value) -> Value {
    let mut engine = Engine::new();
    let references = references.clone();
    let lookup = move |arguments: Vec<Rego>| {
        let name = arguments[0].as_string().unwrap().to_string();
        Ok(Rego::from_json_str(&references[name].to_string()).unwrap())
    };
    engine.add_extension("query_reference_value".to_owned(), 1, Box::new(lookup)).unwrap();
    engine.add_policy("attestation.rego".to_owned(), file("attestation.rego")).unwrap();
    engine.set_input(Rego::from_json_str(&evidence.to_string()).unwrap());
    let value = engine.eval_rule("data.policy.trust_claims".to_owned()).unwrap();
    serde_json::from_str(&value.to_json_str().unwrap()).unwrap()
}

fn evidence(guest: &Guest) -> Value {
    claims(guest, true, None)["submods"]["cpu0"]["ear.veraison.annotated-evidence"].clone()
}

/// Reference values that fit this evidence.
fn fitting(evidence: &Value) -> Value {
    let (snp, body) = (&evidence["snp"], &evidence["tdx"]["quote"]["body"]);
    json!({
        "snp_launch_measurement": [snp["measurement"]], "snp_bootloader": [snp["reported_tcb_bootloader"]],
        "snp_tee_svn": [snp["reported_tcb_tee"]], "snp_snp_svn": [snp["reported_tcb_snp"]],
        "snp_microcode": [snp["reported_tcb_microcode"]], "tdx_mr_td": [body["mr_td"]],
        "tdx_mr_seam": [body["mr_seam"]], "tdx_xfam": [body["xfam"]], "tdx_rtmr_1": [body["rtmr_1"]],
        "tdx_rtmr_2": [body["rtmr_2"]],
    })
}

/// The three that the policy judges.
fn verdict(claims: &Value) -> [i64; 3] {
    ["executables", "hardware", "configuration"].map(|name| claims[name].as_i64().unwrap())
}

fn a_known_guest_is_affirmed_by_the_attestation_policy() {
    for guest in [snp(), tdx()] {
        let evidence = evidence(&guest);
        let claims = appraised(&evidence, &fitting(&evidence));
        assert_eq!(verdict(&claims), [3, 2, 2]);
        assert_eq!(claims.as_object().unwrap().len(), 8, "all of AR4SI");
    }
}

fn refused_debug_migration_unknown_measurement_and_other_tees() {
    let mut snp = evidence(&snp());
    let references = fitting(&snp);
    assert_eq!(verdict(&appraised(&snp, &json!({}))), [33, 97, 2], "nothing is registered");
    for member in ["policy_debug_allowed", "policy_migrate_ma"] {
        snp["snp"][member] = json!(true);
        assert_eq!(verdict(&appraised(&snp, &references)), [3, 2, 97], "{member}");
        snp["snp"][member] = json!(false);
    }
    let mut tdx = evidence(&tdx());
    let references = fitting(&tdx);
    tdx["tdx"]["td_attributes"]["debug"] = json!(true);
    tdx["tdx"]["tcb_status"] = json!("OutOfDate");
    assert_eq!(verdict(&appraised(&tdx, &references)), [3, 97, 97]);
    for other in [json!({}), json!({"sample": {"svn": "1"}}), json!({"cca": {}})] {
        assert_eq!(verdict(&appraised(&other, &references)), [33, 97, 97], "{other}");
    }
}
