//! Holds `docs/protocol-vectors.json` to the code, so that somebody else's implementation can be held to
//! it. After a change of the protocol: `COUNTERSIGN_BLESS=1 cargo test --test protocol_vectors`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign::config::spiffe::PeerId;
use countersign::config::{Provenance, RelativePath, Via};
use countersign::formats::csr::RequestedKey;
use countersign::formats::delivery::{DeliveredFile, Delivery, Receipt, Signed};
use countersign::formats::frames::{HEAD, Head, Hello, Kind, write};
use countersign::formats::hex;
use countersign::formats::jwk::EcPublicJwk;
use countersign::formats::statement::{LeafBinding, Purpose, Statement};
use countersign::formats::wanted::Wanted;
use serde_json::{Value, json};

/// RFC 7515, appendix A.3: a key whose private half is published.
const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const D: &str = "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI";

const NONCE: [u8; 32] = [0x0a; 32];
const EXPORTER: [u8; 32] = [0x0b; 32];

countersign_testbed::main! {
    the_published_vectors_are_what_the_code_speaks,
}

fn the_published_vectors_are_what_the_code_speaks() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/protocol-vectors.json");
    if std::env::var_os("COUNTERSIGN_BLESS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&vectors()).unwrap() + "\n").unwrap();
    }
    let vectors: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let key = EcPublicJwk::parse(vectors["attested_key"].to_string().as_bytes()).unwrap();
    let certificate = STANDARD.decode(text(&vectors["certificate"])).unwrap();
    let leaf = LeafBinding::of(&certificate).unwrap();
    let statements = vectors["statements"].as_array().unwrap();
    assert_eq!(statements.len(), 2);
    for (case, purpose) in statements.iter().zip([Purpose::ChannelClient, Purpose::ChannelServer]) {
        let statement = Statement { purpose, leaf, nonce: NONCE, exporter: EXPORTER };
        assert_eq!(text(&case["statement"]).as_bytes(), statement.canonical());
        assert_eq!(text(&case["signing_input"]), hex::encode(&statement.signing_input()));
        assert_eq!(text(&case["report_data"]), hex::encode(&statement.report_data()));
        let signature: [u8; 64] = hex::decode(&text(&case["signature"])).unwrap().try_into().unwrap();
        assert!(key.verifies_es256(&statement.signing_input(), &signature));
        assert_eq!(Statement::parse(text(&case["statement"]).as_bytes()), Ok(statement));
    }
    assert_eq!(vectors["hellos"], hellos());
    let issue = &vectors["issue"];
    let (names, request) = (text(&issue["names"]), STANDARD.decode(text(&issue["request"])).unwrap());
    assert_eq!(Wanted::parse(names.as_bytes()).map(|wanted| wanted.text()), Ok(names.clone()));
    let wanted = LeafBinding::of_wanted(RequestedKey::of(&request).ok().unwrap().spki(), names.as_bytes());
    let statement = Statement { purpose: Purpose::Issue, leaf: wanted, nonce: NONCE, exporter: EXPORTER };
    assert_eq!(text(&issue["statement"]).as_bytes(), statement.canonical());
    let signature: [u8; 64] = hex::decode(&text(&issue["signature"])).unwrap().try_into().unwrap();
    assert!(key.verifies_es256(&statement.signing_input(), &signature));
    for refused in vectors["refused_names"].as_array().unwrap() {
        assert!(Wanted::parse(text(&refused["names"]).as_bytes()).is_err(), "{}", refused["why"]);
    }
    for refused in vectors["refused_statements"].as_array().unwrap() {
        assert!(Statement::parse(text(&refused["statement"]).as_bytes()).is_err(), "{}", refused["why"]);
    }
    receipts(&vectors, &key);
    for refused in vectors["refused_frames"].as_array().unwrap() {
        let bytes = hex::decode(&text(&refused["frame"])).unwrap();
        let (head, payload) = bytes.split_at(HEAD);
        let peers = [Kind::Hello, Kind::Ear, Kind::Statement, Kind::Signature, Kind::Decline];
        let all = [&peers[..], &[Kind::Names, Kind::Request, Kind::Chain, Kind::Refusal, Kind::Report]].concat();
        let head = Head::parse(head.try_into().unwrap(), &all);
        let accepted = head.is_ok_and(|head| head.kind != Kind::Hello || Hello::parse(payload).is_ok());
        assert!(!accepted, "{}", refused["why"]);
    }
}

fn receipts(vectors: &Value, key: &EcPublicJwk) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let cases = vectors["receipts"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for (case, nonce) in cases.iter().zip([Some(NONCE), None]) {
        let receipt = receipt(nonce);
        assert_eq!(text(&case["receipt"]).as_bytes(), receipt.canonical());
        assert_eq!(text(&case["signing_input"]), hex::encode(&receipt.signing_input()));
        let signed = Signed::parse(text(&case["signed"]).as_bytes()).unwrap();
        assert_eq!(signed.receipt, receipt);
        assert!(key.verifies_es256(&receipt.signing_input(), &signed.signature));
        assert_eq!(signed.text(), text(&case["signed"]));
    }
    for refused in vectors["refused_receipts"].as_array().unwrap() {
        assert!(Receipt::parse(text(&refused["receipt"]).as_bytes()).is_err(), "{}", refused["why"]);
    }
    for refused in vectors["refused_signed_receipts"].as_array().unwrap() {
        assert!(Signed::parse(text(&refused["signed"]).as_bytes()).is_err(), "{}", refused["why"]);
    }
}

fn receipt(nonce: Option<[u8; 32]>) -> Receipt {
    let file = |path: &str, from: &str, mode| DeliveredFile {
        path: RelativePath::parse(path).unwrap(),
        from: from.to_owned(),
        mode,
    };
    Receipt {
        delivered: Delivery {
            countersign: "0.1.0".to_owned(),
            written: 1_795_651_200,
            provenance: Provenance::Measured,
            via: Via::ConfigfsTsm,
            serial: 7,
            files: vec![
                file("db/password", "kbs:///payments/db/password", 0o440),
                file("tls/key", "sealed secret for kbs:///payments/tls/key", 0o400),
            ],
        },
        id: PeerId::parse("spiffe://example.org/ns/payments/sa/api").unwrap(),
        nonce,
        signed: 1_795_651_260,
    }
}

fn receipt_vectors(key: &EcdsaKeyPair) -> [(&'static str, Value); 3] {
    let signed = |nonce| {
        let receipt = receipt(nonce);
        let signature = key.sign(&SystemRandom::new(), &receipt.signing_input()).unwrap();
        // No token: the form of the whole is the point here.
        Signed { receipt, signature: signature.as_ref().try_into().unwrap(), ear: "header.claims.signature".to_owned() }
    };
    let case = |nonce| {
        let signed = signed(nonce);
        json!({
            "receipt": String::from_utf8(signed.receipt.canonical()).unwrap(),
            "signing_input": hex::encode(&signed.receipt.signing_input()),
            "signed": signed.text(),
        })
    };
    let good = String::from_utf8(receipt(Some(NONCE)).canonical()).unwrap();
    let refused = |why: &str, from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        json!({"why": why, "receipt": good.replacen(from, to, 1)})
    };
    let whole = signed(Some(NONCE)).text();
    let other = |why: &str, from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        json!({"why": why, "signed": whole.replacen(from, to, 1)})
    };
    let receipts = [
        refused("another version", "\"signed\":1795651260,\"v\":1", "\"signed\":1795651260,\"v\":2"),
        refused("an unknown member", "\"signed\"", "\"sha256\":\"00\",\"signed\""),
        refused("a member twice", "\"signed\"", "\"signed\":0,\"signed\""),
        refused("not canonical", ",\"id\"", ", \"id\""),
        refused("a nonce of 31 bytes", "Cgo\"", "Cg\""),
        refused("a pattern", "sa/api", "sa/*"),
        refused("a provenance that is not known", "measured", "trusted"),
        refused("a path twice", "\"path\":\"tls/key\"", "\"path\":\"db/password\""),
        refused("a path that leaves the directory", "\"path\":\"tls/key\"", "\"path\":\"../key\""),
        refused("a number over 2^53", "\"serial\":7", "\"serial\":9007199254740993"),
    ];
    let whole = [
        other("another version", "\"v\":1", "\"v\":2"),
        other("an unknown member", "\"v\":1", "\"v\":1,\"x\":0"),
        other("a member twice", "\"v\":1", "\"v\":1,\"v\":1"),
        other("no attestation result", "header.claims.signature", ""),
        other("padding", "\"receipt\":\"", "\"receipt\":\"="),
    ];
    [
        ("receipts", json!([case(Some(NONCE)), case(None)])),
        ("refused_receipts", json!(receipts)),
        ("refused_signed_receipts", json!(whole)),
    ]
}

fn vectors() -> Value {
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let point = [&[4][..], &decode(X), &decode(Y)].concat();
    let key = EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, &decode(D), &point);
    let key = key.unwrap();
    let mut params = rcgen::CertificateParams::default();
    let name = "spiffe://example.org/ns/payments/sa/api";
    params.subject_alt_names.push(rcgen::SanType::URI(name.try_into().unwrap()));
    params.distinguished_name = rcgen::DistinguishedName::new();
    let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let leaf = LeafBinding::of(&certificate).unwrap();
    let of = |purpose, leaf| {
        let statement = Statement { purpose, leaf, nonce: NONCE, exporter: EXPORTER };
        let signature = key.sign(&SystemRandom::new(), &statement.signing_input()).unwrap();
        json!({
            "statement": String::from_utf8(statement.canonical()).unwrap(),
            "signing_input": hex::encode(&statement.signing_input()),
            "report_data": hex::encode(&statement.report_data()),
            "signature": hex::encode(signature.as_ref()),
        })
    };
    let statement = |purpose| of(purpose, leaf);
    let names = format!("{name}\ndns:api.payments.svc");
    let request = rcgen::CertificateParams::default().serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let wanted = LeafBinding::of_wanted(RequestedKey::of(request.der()).ok().unwrap().spki(), names.as_bytes());
    let mut issue = of(Purpose::Issue, wanted);
    issue["names"] = json!(names);
    issue["request"] = json!(STANDARD.encode(request.der()));
    let no_names = |why: &str, names: &str| json!({"why": why, "names": names});
    let good = String::from_utf8(
        Statement { purpose: Purpose::ChannelClient, leaf, nonce: NONCE, exporter: EXPORTER }.canonical(),
    );
    let good = good.unwrap();
    let refused = |why: &str, from: &str, to: &str| json!({"why": why, "statement": good.replacen(from, to, 1)});
    let bad = |why: &str, frame: String| json!({"why": why, "frame": frame});
    let mut vectors = json!({
        "about": "docs/protocol.md, version 1. Binary values are hex but for the certificate (base64, DER). \
                  The signatures are by attested_key; ECDSA gives another one each time.",
        "attested_key": {"kty": "EC", "crv": "P-256", "x": X, "y": Y},
        "certificate": STANDARD.encode(&certificate),
        "nonce": hex::encode(&NONCE),
        "exporter": hex::encode(&EXPORTER),
        "statements": [statement(Purpose::ChannelClient), statement(Purpose::ChannelServer)],
        "hellos": hellos(),
        "issue": issue,
        "refused_names": [
            no_names("a pattern", "spiffe://example.org/ns/*/sa/api"),
            no_names("a line break at the end", "spiffe://example.org/ns/payments/sa/api\n"),
            no_names("two identities", "spiffe://example.org/a\nspiffe://example.org/b"),
            no_names("two DNS names and no identity", "dns:a\ndns:b"),
            no_names("a name twice", "spiffe://example.org/a\ndns:b\ndns:b"),
        ],
        "refused_statements": [
            refused("another version", "\"v\":1", "\"v\":2"),
            refused("an unknown member", "\"v\":1", "\"v\":1,\"x\":0"),
            refused("a member twice", "\"v\":1", "\"v\":1,\"v\":1"),
            refused("a purpose that is not known", "channel-client", "channel"),
            refused("not canonical", ",\"v\":1", ", \"v\":1"),
            refused("a nonce of 31 bytes", "Cgo\"", "Cg\""),
            refused("padding", "Cgo\"", "Cgo=\""),
            refused("a hash that is not named", "sha256:", ""),
        ],
        "refused_frames": [
            bad("an ear of 262145 bytes", "0200040001".to_owned()),
            bad("a statement of 513 bytes", "0300000201".to_owned()),
            bad("a signature of 65 bytes", "0400000041".to_owned()),
            bad("a type that is not known", "0b00000000".to_owned()),
            bad("names of 4097 bytes", "0600001001".to_owned()),
            bad("a request of 4097 bytes", "0700001001".to_owned()),
            bad("a chain of 32769 bytes", "0800008001".to_owned()),
            bad("a refusal of two bytes", "0900000002".to_owned()),
            bad("a report of 65537 bytes", "0a00010001".to_owned()),
            bad("a decline with content", "0500000001".to_owned()),
            bad("a hello with an unknown flag", format!("010000002109{}", "0a".repeat(32))),
            bad("report without demands", format!("010000002104{}", "0a".repeat(32))),
            bad("prove-first without demands", format!("010000002102{}", "0a".repeat(32))),
        ],
    });
    for (name, cases) in receipt_vectors(&key) {
        vectors[name] = cases;
    }
    vectors
}

fn hellos() -> Value {
    let all =
        [(false, false, false), (true, false, false), (true, true, false), (true, false, true), (true, true, true)];
    let hello = |(demands, prove_first, report)| {
        let frame = write(Kind::Hello, &Hello { nonce: NONCE, demands, prove_first, report }.payload()).unwrap();
        json!({"demands": demands, "prove-first": prove_first, "report": report, "frame": hex::encode(&frame)})
    };
    all.into_iter().map(hello).collect()
}
