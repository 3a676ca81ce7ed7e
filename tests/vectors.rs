//! Conformance to what real servers and guests were seen to say. Reads `../shared/vectors`; where
//! that is absent each test names itself as left out. Nothing of it is copied into the project.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::finding::Class;
use countersign::formats::initdata::Initdata;
use countersign::formats::kbs_error::{BodyKind, Variant, classify_body};
use countersign::kbs::probe::{self, Verdict};
use countersign_testbed::vectors::{directory, json, read};

countersign_testbed::main! {
    every_refusal_of_a_real_kbs_is_of_a_known_kind [Vectors],
    the_version_mismatch_of_a_real_kbs_is_understood [Vectors],
    captured_initdata_gives_its_known_digests [Vectors],
}

/// Status and body of a captured response.
fn response(bytes: &[u8]) -> (u16, &[u8]) {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let status = std::str::from_utf8(&bytes[9..12]).unwrap().parse().unwrap();
    (status, &bytes[head + 4..])
}

fn every_refusal_of_a_real_kbs_is_of_a_known_kind() {
    let mut known = 0;
    for path in
        std::fs::read_dir(directory().unwrap().join("generated/wire")).unwrap().map(|entry| entry.unwrap().path())
    {
        if !path.to_string_lossy().contains(".response.") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        if let (401, body) = response(&bytes) {
            let BodyKind::KbsError(error) = classify_body(body) else { panic!("{}", path.display()) };
            assert_ne!(error.variant, Variant::Unknown, "{}", path.display());
            known += 1;
        }
    }
    assert!(known > 10, "{known}");
}

fn the_version_mismatch_of_a_real_kbs_is_understood() {
    let captured = read("generated/wire/01-auth-bad-version.response.http");
    let (status, body) = response(&captured);
    // It wanted 0.4.0 from a client that sent 0.1.0: to us that is a contradiction, not a version.
    assert_eq!(probe::judge(status, body), Verdict::RefusesUs(Variant::AttestationError));
    assert_eq!(Class::ProtocolVersion.code(), 76);
}

fn captured_initdata_gives_its_known_digests() {
    let expected = json("generated/initdata/expected.json");
    for form in ["initdata.toml", "initdata.toml.gz", "cc_init_data.annotation.txt"] {
        let initdata = Initdata::parse(&read(&format!("generated/initdata/{form}"))).unwrap();
        assert_eq!(STANDARD.encode(initdata.digest()), expected["declared_digest_b64"], "{form}");
        assert_eq!(initdata.get("my.key"), Some("hello"));
        assert_eq!(initdata.kbs().unwrap().url, "http://127.0.0.1:8080");
    }
    let policed = Initdata::parse(&read("trustee/integration-tests/tests/init-data-with-policy.toml")).unwrap();
    assert!(policed.policy().unwrap().contains("policy_data"));
    let least = "kata-containers/tests/integration/kubernetes/runtimeclass_workloads/default-initdata.toml";
    assert_eq!(Initdata::parse(&read(least)).unwrap().names().count(), 0);
}
