//! Tokens and chains of our own making. Real ones are in `tests/formats_vectors.rs`.

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyUsagePurpose, date_time_ymd};
use serde_json::{Value, json};

use super::testing::*;
use super::*;

fn refusal(token: &str, expected: &Expected<'_>) -> Error {
    EarToken::parse(token).and_then(|token| token.verify(expected)).unwrap_err()
}

#[test]
fn a_token_of_a_trusted_signer_for_our_key_and_nonce_is_believed() {
    let world = World::new();
    let verified = world.judge(|_| {}).unwrap();
    let claims = verified.claims();
    assert_eq!((claims.issued_at, claims.expires_at), (NOW, NOW + 300));
    assert_eq!(claims.worst(), Status::Affirming);
    let cpu = claims.cpu();
    assert_eq!((cpu.vector.executables, cpu.vector.file_system, cpu.vector.sourced_data), (3, -1, 0));
    assert_eq!((cpu.policy_id.as_deref(), cpu.init_data.as_deref()), (Some("default"), Some("00ff")));
    assert_eq!(cpu.init_data_claims.as_ref().unwrap()["my.key"], "hello");
    assert!(cpu.evidence.contains_key("snp") && !cpu.is_sample());
}

#[test]
fn a_bad_verdict_verifies_and_stays_bad() {
    let world = World::new();
    let gpu = json!({"ear.status": "warning"});
    let verified = world.judge(|claims| claims["submods"]["gpu0"] = gpu.clone()).unwrap();
    assert_eq!(verified.claims().cpu().status, Status::Affirming);
    assert_eq!(verified.claims().worst(), Status::Warning);
    assert!(Status::None > Status::Affirming);
}

#[test]
fn a_sample_is_told() {
    let sample = |claims: &mut Value| {
        claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["sample"] = json!({"svn": "1"});
    };
    assert!(World::new().judge(sample).unwrap().claims().cpu().is_sample());
}

#[test]
fn what_is_expected_is_held_to() {
    let world = World::new();
    let token = world.token(&claims(&world.guest));
    let other = root("other");
    let (other_key, other_anchors) = (other.public(), other.anchors());
    let good = world.expected();
    for (expected, error) in [
        (Expected { freshness: Freshness::Nonce("other"), ..good }, Error::Nonce),
        (Expected { tee_pubkey: &other_key, ..good }, Error::OtherKey),
        (Expected { signer: Signer::EndorsedBy(&other_anchors), ..good }, Error::Chain(ChainError::NoAnchor)),
        (Expected { signer: Signer::Keys(std::slice::from_ref(&other_key)), ..good }, Error::Signature),
        (Expected { signer: Signer::Keys(&[]), ..good }, Error::NoKeys),
        (Expected { now: NOW + 361, ..good }, Error::Expired),
        (Expected { now: NOW + 361, freshness: Freshness::Unexpired, ..good }, Error::Expired),
        (Expected { now: NOW - 61, ..good }, Error::NotYet),
    ] {
        assert_eq!(refusal(&token, &expected), error);
    }
    let age = |seconds| Expected { freshness: Freshness::MaxAge(Duration::from_secs(seconds)), ..good };
    let token = EarToken::parse(&token).unwrap();
    // A peer's token outlives its `exp`, and dies of age.
    assert!(token.verify(&Expected { now: NOW + 3600, ..age(3600) }).is_ok());
    assert_eq!(token.verify(&Expected { now: NOW + 3661, ..age(3600) }).unwrap_err(), Error::Expired);
    assert!(token.verify(&Expected { now: NOW + 360, ..good }).is_ok());
    assert!(token.verify(&Expected { now: NOW - 60, freshness: Freshness::Unexpired, ..good }).is_ok());
    let listed = [other_key.clone(), world.signer.public()];
    assert!(token.verify(&Expected { signer: Signer::Keys(&listed), ..good }).is_ok());
}

#[test]
fn a_changed_token_is_refused() {
    let world = World::new();
    let token = world.token(&claims(&world.guest));
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    let mut forged = claims(&world.guest);
    forged["exp"] = json!(NOW + 301);
    parts[1] = encode(&forged);
    assert_eq!(refusal(&parts.join("."), &world.expected()), Error::Signature);
    let swapped = world.token(&claims(&world.guest));
    parts[2] = swapped.rsplit('.').next().unwrap().to_owned();
    assert_eq!(refusal(&parts.join("."), &world.expected()), Error::Signature);
}

#[test]
fn a_strangers_key_in_the_header_is_not_believed() {
    let world = World::new();
    let (stranger, payload) = (root("stranger"), claims(&world.guest));
    for (chain, error) in [
        (vec![], Error::Chain(ChainError::Missing)),
        (vec![&world.signer, &world.root], Error::KeyMismatch),
        (vec![&stranger], Error::Chain(ChainError::NoAnchor)),
        (vec![&stranger, &world.root], Error::Chain(ChainError::NoAnchor)),
    ] {
        assert_eq!(refusal(&stranger.token(&chain, &payload), &world.expected()), error);
    }
    let bare = world.signer.sign(&json!({"alg": "ES256"}), &payload);
    assert_eq!(refusal(&bare, &world.expected()), Error::NoHeaderKey);
    let many = vec![&world.root; MAX_CHAIN + 1];
    let token = world.signer.token(&many, &payload);
    assert_eq!(refusal(&token, &world.expected()), Error::Chain(ChainError::TooLong));
}

#[test]
fn other_headers_are_refused_by_name() {
    let world = World::new();
    let refused = |header: Value| EarToken::parse(&world.signer.sign(&header, &json!({}))).unwrap_err();
    for name in ["none", "RS256", "ES384", "HS256"] {
        assert_eq!(refused(json!({"alg": name})), Error::Algorithm(name));
    }
    assert_eq!(refused(json!({"alg": "es256"})), Error::Algorithm("another one"));
    assert_eq!(refused(json!({})), Error::NoAlgorithm);
    assert_eq!(refused(json!({"alg": 1})), Error::Header);
    assert_eq!(refused(json!([])), Error::Header);
    assert_eq!(refused(json!({"alg": "ES256", "typ": "JOSE"})), Error::Type);
    assert_eq!(refused(json!({"alg": "ES256", "crit": []})), Error::Extension);
    assert_eq!(refused(json!({"alg": "ES256", "b64": false})), Error::Extension);
    let rsa = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
    assert_eq!(refused(json!({"alg": "ES256", "jwk": rsa})), Error::HeaderKey(crate::formats::jwk::Error::Rsa));
    assert_eq!(refused(json!({"alg": "ES256", "jwk": {"x5c": "AAAA"}})), Error::Header);
    assert_eq!(refused(json!({"alg": "ES256", "jwk": {"x5c": ["*"]}})), Error::Encoding("x5c"));
    for (text, error) in [
        ("", Error::Parts),
        ("a.b", Error::Parts),
        ("a.b.c.d", Error::Parts),
        ("*.e30.AA", Error::Encoding("header")),
        ("eyJhbGciOiJFUzI1NiJ9.*.AA", Error::Encoding("payload")),
        ("eyJhbGciOiJFUzI1NiJ9.e30.AA", Error::SignatureForm),
        ("eyJhbGciOiJFUzI1NiJ9.e30.AA\n", Error::Encoding("signature")),
    ] {
        assert_eq!(EarToken::parse(text).unwrap_err(), error, "{text}");
    }
    assert_eq!(EarToken::parse(&"a".repeat(MAX_BYTES + 1)).unwrap_err(), Error::TooLong);
}

#[test]
fn claims_of_the_wrong_type_are_refused() {
    let world = World::new();
    let cpu = "/submods/cpu0";
    let evidence = "/submods/cpu0/ear.veraison.annotated-evidence";
    let set = |path: &str, name: &str, value: Value| {
        world.judge(|claims| claims.pointer_mut(path).unwrap()[name] = value.clone()).unwrap_err()
    };
    for (path, name, value, error) in [
        ("", "eat_profile", json!("tag:other"), Error::Profile),
        ("", "eat_profile", json!(1), Error::Claims),
        ("", "iat", json!(1.5), Error::Claims),
        ("", "iat", json!("1"), Error::Claims),
        ("", "iat", json!(-1), Error::Claims),
        ("", "exp", json!(null), Error::Claims),
        ("", "exp", json!(1e9), Error::Claims),
        ("", "exp", json!(NOW - 1), Error::Claims),
        ("", "submods", json!([]), Error::Claims),
        ("", "submods", json!({}), Error::NoCpu),
        ("/submods", "cpu0", json!("affirming"), Error::Claims),
        ("/submods", "gpu0", json!({}), Error::Claims),
        (cpu, "ear.status", json!("good"), Error::Claims),
        (cpu, "ear.status", json!(2), Error::Claims),
        (cpu, "ear.status", json!(null), Error::Claims),
        (cpu, "ear.trustworthiness-vector", json!({"hardware": 128}), Error::Claims),
        (cpu, "ear.trustworthiness-vector", json!({"hardware": "2"}), Error::Claims),
        (cpu, "ear.appraisal-policy-id", json!(7), Error::Claims),
        (cpu, "ear.veraison.annotated-evidence", json!([]), Error::Claims),
        (cpu, "ear.veraison.annotated-evidence", json!({}), Error::NoRuntimeData),
        (evidence, "init_data", json!(null), Error::Claims),
        (evidence, "init_data_claims", json!("text"), Error::Claims),
        (evidence, "runtime_data_claims", json!(null), Error::RuntimeData),
        (evidence, "runtime_data_claims", json!({"nonce": NONCE}), Error::RuntimeData),
        (evidence, "runtime_data_claims", json!({"nonce": 1, "tee-pubkey": {}}), Error::RuntimeData),
    ] {
        assert_eq!(set(path, name, value.clone()), error, "{path} {name} {value}");
    }
    let p521 = json!({"nonce": NONCE, "tee-pubkey": {"kty": "EC", "crv": "P-521"}});
    let error = set(evidence, "runtime_data_claims", p521);
    assert_eq!(error, Error::TeePubkey(crate::formats::jwk::Error::P521));
    let crowd = |claims: &mut Value| {
        for index in 0..32 {
            claims["submods"][format!("gpu{index}")] = json!({"ear.status": "affirming"});
        }
    };
    assert_eq!(world.judge(crowd).unwrap_err(), Error::Submods);
}

#[test]
fn a_device_attested_for_another_key_is_refused() {
    let world = World::new();
    let other = claims(&root("other").public())["submods"]["cpu0"].clone();
    let error = world.judge(|claims| claims["submods"]["gpu0"] = other.clone()).unwrap_err();
    assert_eq!(error, Error::OtherKey);
}

#[test]
fn what_a_stranger_says_is_readable_and_not_printed() {
    let world = World::new();
    let token = root("stranger").token(&[], &claims(&world.guest));
    let token = EarToken::parse(&token).unwrap();
    assert_eq!(token.claims_unverified().unwrap().cpu().status, Status::Affirming);
    assert_eq!(format!("{token:?}"), "Unverified { .. }");
}

#[test]
fn a_chain_may_come_in_any_order_and_with_strangers_in_it() {
    let (top, decoy) = (root("root"), root("root"));
    let upper = top.issue(params("upper", authority()));
    let lower = upper.issue(params("lower", authority()));
    let signer = lower.issue(params("signer", IsCa::NoCa));
    let chain = |parties: &[&Party]| parties.iter().map(|party| party.der.clone()).collect::<Vec<_>>();
    let trusted = anchors(&[&decoy, &top]);
    for given in [vec![&signer, &lower, &upper], vec![&signer, &decoy, &upper, &lower, &top]] {
        assert!(trusted.endorse(&chain(&given), NOW).unwrap().is(&signer.public()));
    }
    for given in [vec![&signer, &upper], vec![&signer]] {
        assert_eq!(trusted.endorse(&chain(&given), NOW), Err(ChainError::NoAnchor));
    }
    // An anchor in the middle, and the signer's own certificate, are anchors too.
    assert!(lower.anchors().endorse(&chain(&[&signer]), NOW).is_ok());
    assert!(signer.anchors().endorse(&chain(&[&signer]), NOW).is_ok());
    assert_eq!(decoy.anchors().endorse(&chain(&[&signer, &lower, &upper]), NOW), Err(ChainError::NoAnchor));
}

#[test]
fn a_certificate_that_may_not_issue_does_not() {
    let top = root("root");
    let endorse = |issuer: CertificateParams| {
        let between = top.issue(issuer);
        let signer = between.issue(params("signer", IsCa::NoCa));
        top.anchors().endorse(&[signer.der, between.der], NOW).map(drop)
    };
    assert_eq!(endorse(params("between", authority())), Ok(()));
    assert_eq!(endorse(params("between", IsCa::NoCa)), Err(ChainError::NoAnchor));
    assert_eq!(endorse(params("between", IsCa::ExplicitNoCa)), Err(ChainError::NoAnchor));
    let mut no_signing = params("between", authority());
    no_signing.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert_eq!(endorse(no_signing), Err(ChainError::NoAnchor));
    let mut old = params("between", authority());
    old.not_after = date_time_ymd(2026, 2, 1);
    assert_eq!(endorse(old), Err(ChainError::NoAnchor));
    let mut critical = params("between", authority());
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    extension.set_criticality(true);
    critical.custom_extensions = vec![extension];
    assert_eq!(endorse(critical), Err(ChainError::Certificate(2)));
}

#[test]
fn a_path_longer_than_its_authority_allows_is_refused() {
    let top = root("root");
    let upper = top.issue(params("upper", IsCa::Ca(BasicConstraints::Constrained(0))));
    let signer = upper.issue(params("signer", IsCa::NoCa));
    assert!(top.anchors().endorse(&[signer.der, upper.der.clone()], NOW).is_ok());
    let lower = upper.issue(params("lower", authority()));
    let signer = lower.issue(params("signer", IsCa::NoCa));
    assert_eq!(top.anchors().endorse(&[signer.der, lower.der, upper.der], NOW), Err(ChainError::NoAnchor));
}

#[test]
fn certificates_are_valid_in_their_time_only() {
    let top = root("root");
    let signer = top.issue(params("signer", IsCa::NoCa));
    for now in [0, 1_767_225_599, 1_798_761_601, u64::MAX] {
        assert_eq!(top.anchors().endorse(std::slice::from_ref(&signer.der), now), Err(ChainError::NotValidNow));
    }
    let mut long = params("signer", IsCa::NoCa);
    long.not_after = date_time_ymd(2030, 1, 1);
    let signer = top.issue(long);
    // The signer's still is, the root's is not.
    assert_eq!(top.anchors().endorse(&[signer.der], 1_798_761_601), Err(ChainError::NoAnchor));
}

#[test]
fn a_signer_whose_key_is_not_for_signatures_is_refused() {
    let top = root("root");
    let mut usage = params("signer", IsCa::NoCa);
    usage.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    let signer = top.issue(usage);
    assert_eq!(top.anchors().endorse(&[signer.der], NOW), Err(ChainError::Usage));
}

#[test]
fn a_chain_that_cannot_be_read_is_refused() {
    let top = root("root");
    assert_eq!(top.anchors().endorse(&[], NOW), Err(ChainError::Missing));
    assert_eq!(top.anchors().endorse(&[vec![0x30]], NOW), Err(ChainError::Certificate(1)));
    let behind = [&top.der[..], &[0]].concat();
    assert_eq!(top.anchors().endorse(&[behind], NOW), Err(ChainError::Certificate(1)));
    assert_eq!(top.anchors().endorse(&[top.der.clone(), vec![]], NOW), Err(ChainError::Certificate(2)));
}

#[test]
fn authorities_that_issue_each_other_end() {
    let (top, a, b) = (root("root"), root("a"), root("b"));
    let certify = |issuer: &Party, subject: &Party| {
        let issuer = Issuer::from_params(&issuer.params, &issuer.key);
        subject.params.signed_by(&subject.key, &issuer).unwrap().der().to_vec()
    };
    let [a_by_b, b_by_a] = [certify(&b, &a), certify(&a, &b)];
    // Every signature holds and every step leads on, to nowhere.
    let mut chain = vec![a.issue(params("signer", IsCa::NoCa)).der];
    chain.extend([&a_by_b, &b_by_a].into_iter().cycle().take(MAX_CHAIN - 1).cloned());
    assert_eq!(top.anchors().endorse(&chain, NOW), Err(ChainError::NoAnchor));
    assert!(b.anchors().endorse(&chain, NOW).is_ok());
}

#[test]
fn anchors_are_certificates_and_at_least_one() {
    let top = root("root");
    let read = |text: &str| TrustAnchors::from_pem(text.as_bytes()).map(drop).unwrap_err();
    assert_eq!(read(""), AnchorsError::None);
    assert_eq!(read("no pem"), AnchorsError::None);
    assert_eq!(read(&top.key.serialize_pem()), AnchorsError::Pem);
    assert_eq!(read(&(pem(&top.der) + &top.key.serialize_pem())), AnchorsError::Pem);
    assert_eq!(read(&(pem(&top.der) + &pem(b"0"))), AnchorsError::Certificate(2));
    assert_eq!(read(&pem(&top.der).repeat(17)), AnchorsError::TooMany);
    assert_eq!(read(&" ".repeat(256 * 1024 + 1)), AnchorsError::TooLong);
}

proptest! {
    #[test]
    fn any_text_is_a_token_or_refused(text in "[A-Za-z0-9_.-]{0,300}") {
        let _ = EarToken::parse(&text);
    }

    #[test]
    fn a_token_with_one_changed_byte_is_never_believed(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        static WORLD: std::sync::LazyLock<(World, String)> = std::sync::LazyLock::new(|| {
            let world = World::new();
            let token = world.token(&claims(&world.guest));
            (world, token)
        });
        let (world, token) = &*WORLD;
        let mut bytes = token.clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        if let Ok(token) = EarToken::parse(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(token.verify(&world.expected()).is_err());
        }
    }
}
